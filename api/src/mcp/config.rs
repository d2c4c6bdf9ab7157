//! The servers whose tools sessions may use, as the settings spell them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tools::mcp::{Address, Server, Way};

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
        (None, false) if config.ca_file.is_some() || !config.allow_private.is_empty() => {
            return Err(format!(
                "mcp.{name}: ca_file and allow_private are for a url; a command runs in the sandbox"
            ));
        }
        (None, false) => Way::Command { argv: config.command.clone(), env: pairs(&config.env) },
        (Some(url), true) if config.env.is_empty() => Way::Url(Address {
            url: url.clone(),
            headers: pairs(&config.headers),
            ca_file: config.ca_file.clone(),
            allow_private: config.allow_private.clone(),
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
