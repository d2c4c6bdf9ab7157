//! What the inside of a sandbox is told of the way out: where the proxy is, for every program that asks in its own way, and
//! whom to trust.

use serde::{Deserialize, Serialize};

/// Where the proxy listens in every session's own network: the usual port of a proxy, which no development server takes.
pub(crate) const PORT: u16 = 3128;

/// Where the certificates lie that programs inside are to trust.
pub(crate) const BUNDLE: &str = "/etc/ssl/saga-sandbox.pem";

/// What a sandbox gets when its session may reach out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Inside {
    /// Set for every command, in place of what the names were set to.
    pub(crate) env: Vec<(String, String)>,
    /// The text of [`BUNDLE`], where what the system trusts is not enough.
    pub(crate) bundle: Option<String>,
}

/// What programs ask in both spellings.
const PROXIES: [&str; 3] = ["http_proxy", "https_proxy", "all_proxy"];

/// What pip and npm are told by besides, since the host's own settings for them, in /usr, would win.
const SETTINGS: [&str; 3] = ["PIP_PROXY", "npm_config_proxy", "npm_config_https_proxy"];

/// What programs look for certificates by: OpenSSL and Python, curl, git, cargo, requests, pip, Node, npm.
const TRUST: [&str; 8] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cafile",
];

impl Inside {
    /// `loopback_is_out`: whether the list names this machine's 127.0.0.1, which is then asked of the proxy and no longer the
    /// sandbox's own. Its own servers are `localhost` in any case.
    pub(super) fn new(bundle: Option<String>, loopback_is_out: bool) -> Inside {
        let proxy = format!("http://127.0.0.1:{PORT}");
        let direct = if loopback_is_out { "localhost,::1" } else { "localhost,127.0.0.1,::1" };
        let mut env: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
        for name in PROXIES {
            // An HTTP proxy for everything: half of what reads ALL_PROXY stumbles over another kind.
            set(name, &proxy);
            set(&name.to_ascii_uppercase(), &proxy);
        }
        SETTINGS.iter().for_each(|name| set(name, &proxy));
        set("no_proxy", direct);
        set("NO_PROXY", direct);
        set("NODE_USE_ENV_PROXY", "1");
        set("CARGO_NET_OFFLINE", "false");
        if bundle.is_some() {
            for name in TRUST {
                set(name, BUNDLE);
            }
        }
        Inside { env, bundle }
    }
}
