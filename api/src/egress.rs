//! Where sessions may reach out, as the settings say it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tools::egress::{BYTES_MAX, Egress, Secret, Settings};

/// Where sessions may reach out: nowhere, unless it is listed here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressConfig {
    /// Hosts and ports: `example.org:443`, `*.example.org:443` (what is below it), `10.1.2.3:5432`, `[fd00::1]:80`, and
    /// `*:443` (every public host).
    pub allow: Vec<String>,
    /// Ranges of addresses that names on the list may lead to although they are not public: `10.1.0.0/16`.
    pub allow_private: Vec<String>,
    /// A file of certificates (PEM) that are trusted besides this machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The most that a session may carry to and fro. Bytes.
    pub bytes_max: u64,
    /// Whether calls that can reach out wait for a person's approval once the session has read anything.
    pub ask: bool,
    /// What goes along with requests to some hosts, and is never inside a sandbox.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret: Vec<SecretConfig>,
}

/// A secret that goes along with requests to one host. Its value is in one of two places, and never in this file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretConfig {
    /// The host: `api.example.org` (HTTPS), `api.example.org:8443` (HTTPS), `http://10.1.2.3:8080` (plain HTTP).
    pub host: String,
    /// The header that it is the value of.
    pub header: String,
    /// The service's environment variable that holds the whole value, such as `Bearer …`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_env: Option<String>,
    /// Or the file that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_file: Option<PathBuf>,
}

impl Default for EgressConfig {
    fn default() -> EgressConfig {
        EgressConfig {
            allow: Vec::new(),
            allow_private: Vec::new(),
            ca_file: None,
            bytes_max: BYTES_MAX,
            ask: false,
            secret: Vec::new(),
        }
    }
}

impl EgressConfig {
    /// Whether it can be read, but for the values of secrets: those are where the service runs.
    pub(crate) fn check(&self) -> Result<(), String> {
        for secret in &self.secret {
            if secret.value_env.is_some() == secret.value_file.is_some() {
                return Err(format!("the secret for {} needs one of value_env and value_file", secret.host));
            }
        }
        if self.allow.is_empty() {
            if !self.secret.is_empty() {
                return Err("a secret is of no use while nothing is open: list its host in allow".to_string());
            }
            return Ok(());
        }
        let secret = |secret: &SecretConfig| Secret {
            host: secret.host.clone(),
            header: secret.header.clone(),
            value: "checked when it is used".to_string(),
        };
        Egress::new(self.settings(self.secret.iter().map(secret).collect())).map(|_| ())
    }

    /// What sessions get; nothing when nothing is open. The error says what to mend.
    pub(crate) fn open(&self) -> Result<Option<Arc<Egress>>, String> {
        if self.allow.is_empty() {
            return Ok(None);
        }
        let secrets = self.secret.iter().map(SecretConfig::read).collect::<Result<_, _>>()?;
        Egress::new(self.settings(secrets)).map(Some)
    }

    fn settings(&self, secrets: Vec<Secret>) -> Settings {
        Settings {
            allow: self.allow.clone(),
            allow_private: self.allow_private.clone(),
            secrets,
            ca_file: self.ca_file.clone(),
            bytes_max: self.bytes_max,
            ask: self.ask,
        }
    }
}

impl SecretConfig {
    fn read(&self) -> Result<Secret, String> {
        let wrong = |why: String| format!("the secret for {}: {why}", self.host);
        let value = match (&self.value_env, &self.value_file) {
            (Some(name), _) => std::env::var(name).map_err(|_| {
                wrong(format!("the service's environment has no {name}; set it, or use value_file"))
            })?,
            (None, Some(file)) => std::fs::read_to_string(file)
                .map_err(|error| wrong(format!("{} cannot be read: {error}", file.display())))?,
            (None, None) => return Err(wrong("it needs value_env or value_file".to_string())),
        };
        Ok(Secret { host: self.host.clone(), header: self.header.clone(), value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<EgressConfig, String> {
        let config: EgressConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map(|()| config)
    }

    #[test]
    fn nothing_is_open_unless_it_is_listed() {
        assert!(read("").unwrap().open().unwrap().is_none());
        assert!(read("allow = []").unwrap().open().unwrap().is_none());
        let open = read("allow = [\"example.org:443\"]\nallow_private = [\"10.1.0.0/16\"]").unwrap();
        assert_eq!(open.open().unwrap().unwrap().lines(), ["example.org:443"]);
    }

    #[test]
    fn what_is_wrong_is_said_when_the_settings_are_read() {
        // A line that does not mean what it says opens too much or nothing, and nobody hears of it.
        for (text, why) in [
            ("allow = [\"example.org\"]", "it has no port"),
            ("allow = [\"example.org:443\"]\nallow_private = [\"10.1.2.3/16\"]", "bits beyond its length"),
            ("allow = [\"a.b:443\"]\nca_file = \"/nonexistent\"", "ca_file"),
            ("[[secret]]\nhost = \"a.b\"\nheader = \"x\"\nvalue_env = \"X\"", "nothing is open"),
            ("allow = [\"a.b:443\"]\n[[secret]]\nhost = \"a.b\"\nheader = \"x\"", "value_env and value_file"),
            (
                "allow = [\"a.b:443\"]\n[[secret]]\nhost = \"c.d\"\nheader = \"x\"\nvalue_env = \"X\"",
                "not on the allow-list",
            ),
            ("alow = []", "unknown field"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn the_manuals_example_is_one() {
        // Whoever copies it must get what it says.
        let manual = include_str!("../../MANUAL.md");
        let from = manual.find("    [sandbox.egress]").unwrap();
        let lines = manual[from..].lines().take_while(|line| line.is_empty() || line.starts_with("    "));
        let text: String = lines.map(|line| format!("{}\n", line.trim_start())).collect();
        // What trusts a file needs that file; here it need not be.
        let text = text.lines().filter(|line| !line.starts_with("ca_file")).collect::<Vec<_>>().join("\n");
        let config = crate::config::Config::parse(&text, std::path::Path::new("MANUAL.md")).unwrap();
        assert_eq!((config.sandbox.egress.allow.len(), config.sandbox.egress.secret.len()), (3, 1));
    }

    #[test]
    fn a_secret_is_read_where_it_lies_and_nowhere_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "Bearer hunter2hunter2\n").unwrap();
        let text = format!(
            "allow = [\"a.b:443\"]\n[[secret]]\nhost = \"a.b\"\nheader = \"authorization\"\nvalue_file = {:?}",
            file.display().to_string()
        );
        let config = read(&text).unwrap();
        let open = config.open().unwrap().unwrap();
        assert_eq!(open.secrets(), ["authorization for https://a.b:443"]);
        assert!(!format!("{open:?} {config:?}").contains("hunter2"));
        std::fs::remove_file(&file).unwrap();
        assert!(config.open().unwrap_err().contains("cannot be read"));
    }
}
