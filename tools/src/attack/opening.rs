//! What a case opens of the network: the operator's settings, and a name service that answers as the case wants.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::egress::{Egress, Names, PORT, Secret, Settings};

/// What is open to a session. Empty lists open nothing, and the proxy is there all the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Opening {
    allow: Vec<String>,
    allow_private: Vec<String>,
    /// For each name the addresses it has the first time it is asked for, the second time, …; the last stay.
    names: BTreeMap<String, Vec<Vec<IpAddr>>>,
    secrets: Vec<Carried>,
}

/// A secret that goes along with requests to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Carried {
    host: String,
    header: String,
    value: String,
}

impl Opening {
    /// Reads the field of a case, or what the tool `proxy` says in its arguments.
    pub(super) fn read(given: &Value) -> Result<Opening, String> {
        serde_json::from_value(given.clone()).map_err(|error| format!("what it opens: {error}"))
    }

    pub(super) fn egress(&self) -> Result<Arc<Egress>, String> {
        let secret = |carried: &Carried| Secret {
            host: carried.host.clone(),
            header: carried.header.clone(),
            value: carried.value.clone(),
        };
        let settings = Settings {
            allow: self.allow.clone(),
            allow_private: self.allow_private.clone(),
            secrets: self.secrets.iter().map(secret).collect(),
            ..Settings::default()
        };
        let (answers, asked) = (self.names.clone(), Mutex::new(BTreeMap::<String, usize>::new()));
        let names = Names::Told(Box::new(move |name| {
            let mut asked = asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let times = asked.entry(name.to_owned()).or_default();
            *times += 1;
            let known = answers.get(name).filter(|known| !known.is_empty());
            known.map_or(Vec::new(), |known| known[(*times - 1).min(known.len() - 1)].clone())
        }));
        Egress::build(settings, names).map(Arc::new)
    }

    /// The call of the tool `proxy`: what it opens, and a line for the shell that asks the session's proxy for tunnels and
    /// says what it is answered.
    pub(super) fn proxy(arguments: &Value) -> Result<(Opening, Value), String> {
        let opening = Opening::read(&json!({"allow": arguments["allow"]}))?;
        let targets = arguments["connect"].as_array().ok_or("\"connect\" is no list of targets")?;
        let ask = |target: &Value| {
            let target = target.as_str().ok_or("a target is no text")?.replace('\'', "");
            Ok(format!(
                "exec 3<>/dev/tcp/127.0.0.1/{PORT} && printf 'CONNECT %s HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n' \
                 '{target}' '{target}' >&3 && timeout 5 head -n 1 <&3; exec 3>&-"
            ))
        };
        let lines: Vec<String> = targets.iter().map(ask).collect::<Result<_, &str>>()?;
        Ok((opening, json!({"command": lines.join("\n")})))
    }
}
