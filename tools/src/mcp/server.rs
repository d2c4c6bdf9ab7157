//! What the operator says of a server: how it is reached, what of it may be used, and how far it is trusted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Reach, Replay, Spec};

use super::login::Login;
use super::{BETWEEN, dial};

/// The longest name of a server. With it, a tool's name has 40 of the 64 characters that chat formats take.
const NAME_CHARS_MAX: usize = 22;

/// The longest time a call may take without a sign of life. A day is as good as no limit.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A server that the operator has configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name here, which its tools' names begin with.
    pub name: String,
    /// How it is reached.
    pub way: Way,
    /// The tools that may be used, by its own names; all of them when left out.
    pub tools: Option<Vec<String>>,
    /// Whether somebody is asked before each call. Left out, it is as with other tools that reach as far.
    pub approve: Option<bool>,
    /// Whether it is believed when it says that a tool only looks: such a call is made again after a crash.
    pub trust_hints: bool,
    /// How long a call may take without a sign of progress.
    pub timeout: Duration,
    /// Whether what it asks while it is called is answered with the defaults that its own questions carry. Otherwise it is declined.
    pub answer_defaults: bool,
}

/// How a server is reached.
#[derive(Clone, PartialEq, Eq)]
pub enum Way {
    /// It is a command, which runs in the sandbox of each session and is spoken with over its standard streams.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// Added to the environment of the sandbox's commands.
        env: Vec<(String, String)>,
    },
    /// It is at a URL, which the service itself reaches.
    Url(Address),
}

/// Where a server is, and how the service gets there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// `http://…` or `https://…`. That it is configured is the permission to reach this host at this port, and no other.
    pub url: String,
    /// Sent along with every request.
    pub headers: Vec<(String, String)>,
    /// A file of certificates (PEM) that are trusted besides the usual ones.
    pub ca_file: Option<PathBuf>,
    /// Ranges of addresses that its name may lead to although they are not public: `10.1.0.0/16`. An address that stands in the
    /// URL itself needs none, nor does `localhost`.
    pub allow_private: Vec<String>,
    /// What there is to say of its login, should it want one.
    pub login: Box<Login>,
}

impl Address {
    /// The server at a URL, with nothing else asked for.
    pub fn at(url: impl Into<String>) -> Address {
        Address { url: url.into(), ..Address::default() }
    }

    /// Whether the operator gives it a key: then nobody logs in.
    pub(super) fn has_key(&self) -> bool {
        self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
    }
}

/// Without the values of variables and headers, which are keys more often than not.
impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        match self {
            Way::Command { argv, env } => {
                f.debug_struct("Command").field("argv", argv).field("env", &names(env)).finish()
            }
            Way::Url(Address { url, headers, ca_file, allow_private, login }) => f
                .debug_struct("Url")
                .field("url", url)
                .field("headers", &names(headers))
                .field("ca_file", ca_file)
                .field("allow_private", allow_private)
                .field("login", login)
                .finish(),
        }
    }
}

impl Server {
    /// How long a call may take when nothing else is said.
    pub const TIMEOUT: Duration = Duration::from_secs(120);

    /// A server that is reached so, with nothing else said of it.
    pub fn new(name: impl Into<String>, way: Way) -> Server {
        Server {
            name: name.into(),
            way,
            tools: None,
            approve: None,
            trust_hints: false,
            timeout: Server::TIMEOUT,
            answer_defaults: false,
        }
    }

    /// Whether this can be used. The error says what is wrong with it.
    ///
    /// # Errors
    /// In words, for whoever wrote the configuration.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let fits = !name.is_empty()
            && name.len() <= NAME_CHARS_MAX
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && !name.contains(BETWEEN)
            && !name.ends_with('_');
        if !fits {
            return Err(format!(
                "{name:?} is no name of an MCP server: 1 to {NAME_CHARS_MAX} characters of a-z, 0-9, '-' and '_', the first a letter, no \"__\" and no '_' at the end"
            ));
        }
        if self.timeout.is_zero() || self.timeout > TIMEOUT_MAX {
            return Err(format!("mcp.{name}: timeout_s must be 1 to {}", TIMEOUT_MAX.as_secs()));
        }
        match &self.way {
            Way::Command { argv, env } => {
                if argv.first().is_none_or(|program| program.trim().is_empty()) {
                    return Err(format!("mcp.{name}: command is empty; give the program and its arguments"));
                }
                let held = argv.iter().chain(env.iter().flat_map(|(key, value)| [key, value]));
                if held.into_iter().any(|text| text.contains('\0')) {
                    return Err(format!("mcp.{name}: a command holds no NUL character"));
                }
                if let Some((key, _)) = env.iter().find(|(key, _)| key.is_empty() || key.contains('=')) {
                    return Err(format!("mcp.{name}: {key:?} is no name of an environment variable"));
                }
                Ok(())
            }
            Way::Url(address) => {
                let wrong = |why: String| format!("mcp.{name}: {why}");
                dial::Place::of(&address.url).map_err(wrong)?;
                dial::private(&address.allow_private).map_err(wrong)?;
                address.login.check().map_err(wrong)?;
                dial::headers(&address.headers).map(drop).map_err(wrong)
            }
        }
    }

    /// Keeps its login, should it want one, in a file of this folder.
    pub fn keep_login_in(&mut self, folder: &Path) {
        if let Way::Url(address) = &mut self.way {
            address.login.folder = Some(folder.to_owned());
        }
    }

    /// Whether a tool of this name, as the server has it, may be used.
    pub(super) fn allows(&self, tool: &str) -> bool {
        self.tools.as_ref().is_none_or(|tools| tools.iter().any(|allowed| allowed == tool))
    }

    /// How far its tools reach, as the operator has it. `destructive` is what the server itself says of one: it can only make
    /// matters stricter.
    pub(super) fn reach(&self, destructive: bool) -> Reach {
        match (self.approve, &self.way) {
            (Some(true), _) => Reach::Final,
            (Some(false), _) => Reach::Workspace,
            (None, Way::Url(_)) if destructive => Reach::Final,
            (None, Way::Url(_)) => Reach::Outside,
            // It is a command in the sandbox like any other.
            (None, Way::Command { .. }) => Reach::Workspace,
        }
    }

    /// A tool that was listed earlier, as the operator has it now.
    pub(super) fn govern(&self, spec: Spec) -> Spec {
        let replay = if self.trust_hints { spec.replay } else { Replay::Unsafe };
        Spec { reach: self.reach(spec.reach == Reach::Final), replay, ..spec }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, way: Way) -> Server {
        Server::new(name, way)
    }

    fn url(url: &str) -> Way {
        Way::Url(Address::at(url))
    }

    fn command(argv: &[&str]) -> Way {
        Way::Command { argv: argv.iter().map(|&word| word.to_owned()).collect(), env: Vec::new() }
    }

    #[test]
    fn a_configuration_that_cannot_work_says_why() {
        // It is read when the service starts, and the mistake shows hours later otherwise.
        let wrong = |server: Server| server.check().unwrap_err();
        assert_eq!(server("git_hub-1", command(&["x"])).check(), Ok(()));
        assert_eq!(server("docs", url("https://example.org/mcp")).check(), Ok(()));
        for name in ["", "Git", "a__b", "1st", "a.b", "ends_", &"x".repeat(23)] {
            assert!(wrong(server(name, command(&["x"]))).contains("no name"), "{name}");
        }
        assert!(wrong(server("a", command(&[]))).contains("command is empty"));
        assert!(wrong(server("a", url("ftp://example.org"))).contains("http://"));
        assert!(
            wrong(Server { timeout: Duration::ZERO, ..server("a", command(&["x"])) }).contains("timeout_s")
        );
        let headers = vec![("mcp-session-id".to_owned(), "1".to_owned())];
        let way = Way::Url(Address { headers, ..Address::at("http://localhost:1/mcp") });
        assert!(wrong(server("a", way)).contains("mcp-session-id"));
        let allow_private = vec!["10.0.0.0/99".to_owned()];
        let way = Way::Url(Address { allow_private, ..Address::at("http://docs.test/mcp") });
        assert!(wrong(server("a", way)).contains("10.0.0.0/99"));
        for nowhere in ["http://a b/", "https://", "http://256.1.1.1/", "http://u:p@a.test/"] {
            assert!(server("a", url(nowhere)).check().is_err(), "{nowhere}");
        }
    }

    #[test]
    fn no_key_is_shown_where_a_server_is() {
        // What is printed for debugging ends up in logs.
        let headers = vec![("Authorization".to_owned(), "Bearer hunter2".to_owned())];
        let env = vec![("TOKEN".to_owned(), "hunter2".to_owned())];
        let url = Way::Url(Address { headers, ..Address::at("http://localhost:1/mcp") });
        let said = format!("{url:?} {:?}", Way::Command { argv: vec!["x".to_owned()], env });
        assert!(
            said.contains("Authorization") && said.contains("TOKEN") && !said.contains("hunter2"),
            "{said}"
        );
    }

    #[test]
    fn what_leaves_the_machine_is_asked_for_unless_the_operator_says_otherwise() {
        // A server's own word can make it stricter and never laxer.
        let reach =
            |way: Way, approve, destructive| Server { approve, ..server("a", way) }.reach(destructive);
        let remote = || url("http://localhost:1/mcp");
        assert_eq!(reach(remote(), None, false), Reach::Outside);
        assert_eq!(reach(remote(), None, true), Reach::Final);
        assert_eq!(reach(remote(), Some(false), true), Reach::Workspace);
        assert_eq!(reach(remote(), Some(true), false), Reach::Final);
        assert_eq!(reach(command(&["x"]), None, true), Reach::Workspace);
        assert_eq!(reach(command(&["x"]), Some(true), false), Reach::Final);
    }
}
