//! Tools of other programs, over the Model Context Protocol: servers that the operator has configured, as a session uses them.
//! <https://modelcontextprotocol.io/specification>
//!
//! A server that is a command runs inside the session's sandbox and ends with it; one behind a URL is reached by the
//! service. What they say of their tools is somebody else's text: it is capped, made harmless and told as data.
//!
//! ```text
//! server   what the operator has configured: how it is reached, what of it may be used, how far it is trusted
//! offer    what it lists as specs for a model, with schemas that make a grammar (schema)
//! link     a connection: started, listed, called (answer), over pipes into the sandbox or HTTP (dial, http)
//! question what a server asks while it is called
//! login    what a server behind a URL wants before it answers
//! ```

mod answer;
mod dial;
mod http;
mod link;
pub mod login;
mod offer;
mod question;
mod schema;
mod server;

pub use offer::plainer;
pub use server::{Address, Server, Way};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::egress::{Contact, Contacts};
use crate::{Call, Error, Outcome, Sandbox, Spec};
use link::{Failed, Link};

/// What stands between the name of a server and that of its tool.
const BETWEEN: &str = "__";

/// After a second failure in a row a server is not started again for this long, then for twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// One that keeps everybody waiting before it fails is left alone for this many times as long, so that not every turn begins with that.
const PATIENCE: u32 = 10;
/// What counts as keeping somebody waiting.
const WAIT: Duration = Duration::from_secs(2);

/// The server that a tool belongs to, by the tool's name. The built-in tools belong to none.
pub fn server_of(tool: &str) -> Option<&str> {
    tool.split_once(BETWEEN).map(|(server, _)| server)
}

/// What a server gives to a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Equipment {
    /// Its name.
    pub server: String,
    /// Its tools, as a model is told of them.
    pub tools: Vec<Spec>,
    /// What was left out of them, or made simpler, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why it could not be asked. Its tools are then those it had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Equipment {
    /// Whether it is another one for whoever uses it. How a failure is worded makes no difference.
    pub fn differs(&self, other: &Equipment) -> bool {
        self.tools != other.tools || self.trouble.is_some() != other.trouble.is_some()
    }
}

/// The servers of one session. They are started when they are first asked for something.
pub struct Servers {
    slots: Vec<Arc<Slot>>,
    contacts: Arc<Contacts>,
}

struct Slot {
    server: Server,
    /// What the servers' ways out note of whom they reached for.
    contacts: Arc<Contacts>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    /// How often in a row it could not be started, or ended by itself.
    failures: u32,
    not_before: Option<Instant>,
    why: String,
}

impl Servers {
    /// These servers, none of which runs yet.
    pub fn new(servers: &[Server]) -> Servers {
        let contacts = Arc::<Contacts>::default();
        let slot = |server: &Server| {
            Arc::new(Slot { server: server.clone(), contacts: contacts.clone(), state: Mutex::default() })
        };
        Servers { slots: servers.iter().map(slot).collect(), contacts }
    }

    /// What was reached for on behalf of servers since this was asked last, and how many more such decisions there were than are
    /// told one by one.
    pub(crate) fn contacts(&self) -> (Vec<Contact>, u64) {
        self.contacts.take()
    }

    /// What the servers give now, where that differs from what is known: each is started if it does not run, and asked again
    /// if it has said that its tools changed. A server that is not configured any more gives nothing.
    ///
    /// # Errors
    /// Only when the sandbox itself failed.
    pub async fn equip(
        &self,
        sandbox: &Arc<Sandbox>,
        known: &BTreeMap<String, Equipment>,
    ) -> Result<Vec<Equipment>, Error> {
        let mut asked = JoinSet::new();
        for slot in &self.slots {
            let (slot, sandbox) = (slot.clone(), sandbox.clone());
            let before = known.get(&slot.server.name).cloned();
            asked.spawn(async move { slot.equip(&sandbox, before.as_ref()).await });
        }
        let mut all = Vec::new();
        while let Some(done) = asked.join_next().await {
            match done {
                Ok(equipment) => all.push(equipment?),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Err(Error::Gone("the servers were not waited for".to_owned())),
                },
            }
        }
        let gone = known.keys().filter(|name| self.find(name).is_none());
        all.extend(gone.map(|name| Equipment {
            server: name.clone(),
            tools: Vec::new(),
            notes: Vec::new(),
            trouble: None,
        }));
        all.retain(|now| match known.get(&now.server) {
            Some(before) => now.differs(before),
            None => true,
        });
        all.sort_by(|a, b| a.server.cmp(&b.server));
        Ok(all)
    }

    /// Calls a tool of one of them. What goes wrong with a server is an outcome the model can read. Dropping the future
    /// tells the server that nobody waits any more.
    ///
    /// # Errors
    /// Only when the sandbox itself failed.
    pub async fn call(
        &self,
        call: &Call,
        sandbox: &Sandbox,
        out: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Outcome, Error> {
        let Some(slot) = server_of(&call.name).and_then(|name| self.find(name)) else {
            return Ok(Outcome::refused(format!("There is no server with a tool named {}.", call.name)));
        };
        let arguments = match arguments(&call.arguments) {
            Ok(arguments) => arguments,
            Err(wrong) => return Ok(Outcome::refused(wrong)),
        };
        let name = &slot.server.name;
        let link = match slot.link(sandbox).await? {
            Ok(link) => link,
            Err(why) => {
                return Ok(Outcome::refused(format!("not run: the server {name} cannot be used: {why}")));
            }
        };
        let began = Instant::now();
        let mut outcome = match link.call(&slot.server, &call.name, arguments, out).await {
            Ok(answer) => {
                slot.well().await;
                answer.outcome(sandbox, began.elapsed())
            }
            Err(Failed::Refused(why)) => Outcome::refused(why),
            Err(Failed::Lost(why)) => {
                slot.lost(&why).await;
                Outcome::refused(format!(
                    "the server {name} is gone: {why}\nWhat it had done of this call up to then is not known. It is started again for the next call."
                ))
            }
        };
        outcome.wall_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(outcome)
    }

    fn find(&self, name: &str) -> Option<&Arc<Slot>> {
        self.slots.iter().find(|slot| slot.server.name == name)
    }
}

impl Slot {
    async fn equip(&self, sandbox: &Sandbox, before: Option<&Equipment>) -> Result<Equipment, Error> {
        let listed = match self.link(sandbox).await? {
            Ok(link) => match link.listed(&self.server).await {
                Ok(listed) => Ok(listed),
                Err(Failed::Refused(why)) => Err(why),
                Err(Failed::Lost(why)) => {
                    self.lost(&why).await;
                    Err(why)
                }
            },
            Err(why) => Err(why),
        };
        let server = self.server.name.clone();
        Ok(match listed {
            Ok(listed) => {
                let tools = listed.tools.iter().map(|offered| offered.spec.clone()).collect();
                Equipment { server, tools, notes: listed.notes.clone(), trouble: None }
            }
            Err(why) => {
                tracing::warn!(server, why, "an MCP server cannot be asked for its tools");
                // What the operator has changed since they were listed holds at once.
                let tools = before.iter().flat_map(|before| &before.tools);
                let tools = tools.map(|spec| self.server.govern(spec.clone())).collect();
                Equipment { server, tools, notes: Vec::new(), trouble: Some(why) }
            }
        })
    }

    /// The connection, made if there is none; or why there is none.
    async fn link(&self, sandbox: &Sandbox) -> Result<Result<Arc<Link>, String>, Error> {
        // Held while it is made: two that need it wait for the same.
        let mut state = self.state.lock().await;
        if let Some(link) = state.link.as_ref().filter(|link| !link.is_closed()) {
            return Ok(Ok(link.clone()));
        }
        if let Some(link) = state.link.take() {
            let why = link.ending().await;
            state.failed(why, Duration::ZERO);
        }
        let left = state.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        if !left.is_zero() {
            return Ok(Err(format!("{} (it is tried again in {} s)", state.why, left.as_secs() + 1)));
        }
        let began = Instant::now();
        match Link::connect(&self.server, sandbox, &self.contacts).await? {
            Ok(link) => {
                let link = Arc::new(link);
                state.link = Some(link.clone());
                Ok(Ok(link))
            }
            Err(why) => {
                state.failed(why.clone(), began.elapsed());
                Ok(Err(why))
            }
        }
    }

    async fn well(&self) {
        let mut state = self.state.lock().await;
        (state.failures, state.not_before) = (0, None);
    }

    async fn lost(&self, why: &str) {
        let mut state = self.state.lock().await;
        state.link = None;
        state.failed(why.to_owned(), Duration::ZERO);
    }
}

impl State {
    /// It could not be used; `cost` is how long it took to find that out.
    fn failed(&mut self, why: String, cost: Duration) {
        self.failures += 1;
        self.why = why;
        // One that ended once may just have met its match; it is started again at once.
        self.not_before = pause(self.failures, cost).map(|pause| Instant::now() + pause);
    }
}

/// How long a server rests after so many failures in a row, the last of which took so long.
fn pause(failures: u32, cost: Duration) -> Option<Duration> {
    let doubled =
        failures.checked_sub(2).map(|times| PAUSE.saturating_mul(1 << times.min(16)).min(PAUSE_MAX));
    doubled.max((cost > WAIT).then(|| cost * PATIENCE))
}

/// A call's arguments as the protocol has them. Some models send a string that holds the object.
fn arguments(given: &Value) -> Result<Map<String, Value>, String> {
    let wrong = || "The arguments must be one JSON object.".to_owned();
    match given {
        Value::Object(map) => Ok(map.clone()),
        Value::Null => Ok(Map::new()),
        Value::String(text) if text.trim().is_empty() => Ok(Map::new()),
        Value::String(text) => serde_json::from_str(text).map_err(|_| wrong()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_again_and_again_is_left_alone_for_longer_and_longer() {
        // A server that ends at once would otherwise be started with every call.
        let secs =
            |failures, cost| pause(failures, Duration::from_secs(cost)).map_or(0, |pause| pause.as_secs());
        let pauses: Vec<u64> = (0..12).map(|failures| secs(failures, 0)).collect();
        assert_eq!(pauses, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        // One that hangs is not waited for with every turn.
        assert_eq!((secs(1, 20), secs(9, 3), secs(2, 1)), (200, 60, 1));
    }

    #[test]
    fn a_tools_name_tells_its_server() {
        // A session's journal has the names only, and a call must not reach another server than the one that was told.
        assert_eq!(server_of("issues__create_one"), Some("issues"));
        assert_eq!(server_of("apply_patch"), None);
    }
}
