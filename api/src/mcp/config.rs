//! The servers whose tools sessions may use, as the settings spell them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tools::mcp::login::{Client, Company, Hidden, Login, Proof, Who};
use tools::mcp::{Address, Server, Way};

use crate::config::Folders;

/// One server: `[mcp.NAME]`. It is a command, which runs in the sandbox of each session, or at a URL.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct McpConfig {
    /// The program and its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Added to the environment of the command.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where it is, if it is no command: `https://…` or `http://…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Sent to the URL with every request, such as `Authorization`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A file of certificates (PEM) that are trusted besides the usual ones when it is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Ranges of addresses that the name in its URL may lead to although they are not public: `10.1.0.0/16`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_private: Vec<String>,
    /// What there is to say of logging in to it, should it want that. All of it may be left out: `saga mcp login NAME` asks a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginConfig>,
    /// The tools that may be used, by the server's own names; all of them when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// Whether somebody is asked before each call. Left out: for a URL as soon as the session has read anything, for a command not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approve: Option<bool>,
    /// Whether the server is believed when it says that a tool only looks: such a call is made again after a crash.
    pub trust_hints: bool,
    /// Whether what the server asks while it is called is answered with the defaults that its own questions carry. Otherwise, and where
    /// a question has none, it is declined.
    pub answer_defaults: bool,
    /// How long a call may take without a sign of progress; 120 when left out. Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
}

/// How the service logs in to a server (OAuth): `[mcp.NAME.login]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoginConfig {
    /// Who logs in: a person, once; the service by itself; or the service by a company's word for one of its people.
    #[serde(rename = "as")]
    pub who: WhoConfig,
    /// The client that is registered where clients log in. Left out, the service registers itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The service's environment variable that holds its secret …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_env: Option<String>,
    /// … or the file that does …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_file: Option<PathBuf>,
    /// … or the file of the private key (PKCS #8, PEM) that it signs with instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    /// The URL of a document that says who the service is, for where such are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_document: Option<String>,
    /// Where clients log in. Left out, the server says so, and it has to be public.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// What is asked for, and nothing else. Left out, the server says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The port of 127.0.0.1 that a browser comes back to. Left out, any that is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_port: Option<u16>,
    /// Where the company says who its people are, with `as = "company"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company: Option<CompanyConfig>,
}

/// Who logs in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhoConfig {
    /// A person, with `saga mcp login`.
    #[default]
    Person,
    /// The service (client credentials).
    Client,
    /// The service, for a person whom a company vouches for (enterprise-managed authorization).
    Company,
}

/// A company's identity provider: `[mcp.NAME.login.company]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompanyConfig {
    /// Where it exchanges tokens.
    pub token_endpoint: String,
    /// The client that is registered there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The service's environment variable that holds its secret …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_env: Option<String>,
    /// … or the file that does …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_file: Option<PathBuf>,
    /// … or the file of the private key (PKCS #8, PEM) that it signs with instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    /// The service's environment variable that says who the person is, as the provider has signed it (an ID token) …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token_env: Option<String>,
    /// … or the file that does. It is read whenever a token is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token_file: Option<PathBuf>,
}

/// All of them, with the folder that their logins are kept in.
pub(crate) fn servers_in(
    all: &BTreeMap<String, McpConfig>,
    folders: &Folders,
) -> Result<Vec<Server>, String> {
    let mut servers = servers(all)?;
    servers.iter_mut().for_each(|server| server.keep_login_in(&folders.data.join("mcp")));
    Ok(servers)
}

impl LoginConfig {
    fn client(&self) -> Result<Option<Client>, String> {
        client(
            "login",
            self.client_id.as_ref(),
            self.client_secret_env.as_ref(),
            self.client_secret_file.as_ref(),
            self.client_key_file.as_ref(),
        )
    }

    fn login(&self) -> Result<Login, String> {
        let who = match (self.who, &self.company) {
            (WhoConfig::Person, None) => Who::Person,
            (WhoConfig::Client, None) => Who::Client,
            (WhoConfig::Company, Some(company)) => Who::Company(Box::new(company.company()?)),
            (WhoConfig::Company, None) => {
                return Err("login: as = \"company\" needs a table company".to_string());
            }
            (WhoConfig::Person | WhoConfig::Client, Some(_)) => {
                return Err("login: a table company is for as = \"company\"".to_string());
            }
        };
        Ok(Login {
            who,
            client: self.client()?,
            document: self.client_document.clone(),
            issuer: self.issuer.clone(),
            scopes: self.scopes.clone(),
            redirect_port: self.redirect_port,
            folder: None,
        })
    }
}

/// A client that is registered somewhere, if there is one, with at most one thing that it proves itself with.
fn client(
    whose: &str,
    id: Option<&String>,
    secret_env: Option<&String>,
    secret_file: Option<&PathBuf>,
    key_file: Option<&PathBuf>,
) -> Result<Option<Client>, String> {
    let proof = match (secret_env, secret_file, key_file) {
        (None, None, None) => Proof::Nothing,
        (Some(name), None, None) => Proof::Secret(Hidden::Env(name.clone())),
        (None, Some(file), None) => Proof::Secret(Hidden::File(file.clone())),
        (None, None, Some(file)) => Proof::Key(file.clone()),
        _ => {
            return Err(format!(
                "{whose}: give one of client_secret_env, client_secret_file and client_key_file"
            ));
        }
    };
    match id {
        Some(id) if !id.trim().is_empty() => Ok(Some(Client { id: id.clone(), proof })),
        Some(_) => {
            Err(format!("{whose}: client_id is empty; leave it out to have the service register itself"))
        }
        None if proof == Proof::Nothing => Ok(None),
        None => Err(format!("{whose}: a client's secret or key needs its client_id")),
    }
}

impl CompanyConfig {
    fn client(&self, whose: &str) -> Result<Option<Client>, String> {
        client(
            whose,
            self.client_id.as_ref(),
            self.client_secret_env.as_ref(),
            self.client_secret_file.as_ref(),
            self.client_key_file.as_ref(),
        )
    }

    fn company(&self) -> Result<Company, String> {
        let whose = "login: company";
        let id_token = match (&self.id_token_env, &self.id_token_file) {
            (Some(name), None) => Hidden::Env(name.clone()),
            (None, Some(file)) => Hidden::File(file.clone()),
            (None, None) | (Some(_), Some(_)) => {
                return Err(format!("{whose}: give one of id_token_env and id_token_file"));
            }
        };
        let client = self.client(whose)?.ok_or_else(|| format!("{whose}: it needs a client_id"))?;
        Ok(Company { token_endpoint: self.token_endpoint.clone(), client, id_token })
    }
}

/// All of them, checked. The error is for whoever wrote the settings.
pub(crate) fn servers(all: &BTreeMap<String, McpConfig>) -> Result<Vec<Server>, String> {
    all.iter().map(|(name, config)| server(name, config)).collect()
}

fn server(name: &str, config: &McpConfig) -> Result<Server, String> {
    let pairs = |map: &BTreeMap<String, String>| map.clone().into_iter().collect();
    let way = match (&config.url, config.command.is_empty()) {
        (None, false) if !config.headers.is_empty() => {
            return Err(format!("mcp.{name}: headers are for a url; give a command its env"));
        }
        (None, false)
            if config.ca_file.is_some() || !config.allow_private.is_empty() || config.login.is_some() =>
        {
            return Err(format!(
                "mcp.{name}: ca_file, allow_private and login are for a url; a command runs in the sandbox"
            ));
        }
        (None, false) => Way::Command { argv: config.command.clone(), env: pairs(&config.env) },
        (Some(url), true) if config.env.is_empty() => Way::Url(Address {
            url: url.clone(),
            headers: pairs(&config.headers),
            ca_file: config.ca_file.clone(),
            allow_private: config.allow_private.clone(),
            login: Box::new(match &config.login {
                None => Login::default(),
                Some(login) => login.login().map_err(|why| format!("mcp.{name}: {why}"))?,
            }),
        }),
        (Some(_), true) => return Err(format!("mcp.{name}: env is for a command; give a url its headers")),
        (None, true) | (Some(_), false) => {
            return Err(format!("mcp.{name}: give either a command or a url"));
        }
    };
    let server = Server {
        name: name.to_string(),
        way,
        tools: config.tools.clone(),
        approve: config.approve,
        trust_hints: config.trust_hints,
        timeout: config.timeout_s.map_or(Server::TIMEOUT, Duration::from_secs),
        answer_defaults: config.answer_defaults,
    };
    server.check()?;
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, McpConfig>, String> {
        toml::from_str(text).map_err(|error| error.message().to_string())
    }

    fn way(login: &str) -> Result<Login, String> {
        let text = format!("[docs]\nurl = \"https://docs.test/mcp\"\n{login}");
        let server = servers(&read(&text)?)?.remove(0);
        match server.way {
            Way::Url(address) => Ok(*address.login),
            Way::Command { .. } => Err("a command".to_string()),
        }
    }

    #[test]
    fn a_login_is_what_its_table_says() {
        let secret = Proof::Secret(Hidden::Env("KEY".to_string()));
        let named = |proof: Proof| Some(Client { id: "me".to_string(), proof });
        assert_eq!(way("").unwrap(), Login::default());
        let by_itself = "[docs.login]\nas = \"client\"\nclient_id = \"me\"\nclient_secret_env = \"KEY\"\nscopes = [\"read\"]";
        let login = way(by_itself).unwrap();
        assert_eq!(
            (login.who, login.client, login.scopes),
            (Who::Client, named(secret), vec!["read".to_string()])
        );
        let company = "[docs.login]\nas = \"company\"\nclient_id = \"me\"\nclient_key_file = \"/k\"\n[docs.login.company]\n\
                       token_endpoint = \"https://idp.test/token\"\nclient_id = \"me\"\nid_token_file = \"/t\"";
        let login = way(company).unwrap();
        assert_eq!(login.client, named(Proof::Key("/k".into())));
        let Who::Company(company) = login.who else { panic!("{:?}", login.who) };
        assert_eq!(
            (Some(company.client), company.id_token),
            (named(Proof::Nothing), Hidden::File("/t".into()))
        );
    }

    #[test]
    fn a_login_that_cannot_work_says_why() {
        // It shows hours later otherwise, when a session wants the server.
        for (login, why) in [
            ("[docs.login]\nas = \"client\"", "needs a client_id"),
            ("[docs.login]\nas = \"client\"\nclient_id = \"me\"", "needs a client_secret_env"),
            ("[docs.login]\nas = \"company\"\nclient_id = \"me\"", "needs a table company"),
            ("[docs.login]\nclient_secret_env = \"KEY\"", "needs its client_id"),
            ("[docs.login]\nclient_id = \" \"", "client_id is empty"),
            (
                "[docs.login]\nclient_id = \"me\"\nclient_secret_env = \"A\"\nclient_key_file = \"/k\"",
                "give one of",
            ),
            ("[docs.login]\nissuer = \"login.test\"", "issuer"),
            ("[docs.login]\nscopes = [\"a b\"]", "one word"),
            ("[docs.login]\nredirect_port = 0", "redirect_port"),
            ("[docs.login]\nclient_document = \"http://a.test/c.json\"", "https://"),
            ("[docs.login]\nclient_secret = \"hunter2\"", "unknown field `client_secret`"),
            ("allow_private = [\"10.0.0.0/99\"]", "10.0.0.0/99"),
        ] {
            let said = way(login).unwrap_err();
            assert!(said.contains(why), "{login}: {said}");
        }
        let command = read("[x]\ncommand = [\"x\"]\n[x.login]\nissuer = \"https://a.test\"").unwrap();
        assert!(servers(&command).unwrap_err().contains("are for a url"));
    }

    #[test]
    fn what_is_printed_of_a_login_can_be_read_again() {
        let text = "[docs]\nurl = \"https://docs.test/mcp\"\ntools = [\"a\"]\nanswer_defaults = true\n[docs.headers]\nx = \"y\"\n\
                    [docs.login]\nas = \"company\"\nclient_id = \"me\"\n[docs.login.company]\ntoken_endpoint = \"https://i.test/t\"\n\
                    client_id = \"c\"\nid_token_env = \"T\"\n";
        let config = read(text).unwrap();
        assert_eq!(read(&toml::to_string_pretty(&config).unwrap()).unwrap(), config);
    }
}
