//! What a server lists, as specs for a model: under our names, within caps, its words told as somebody else's.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::output::harmless;
use crate::{Replay, Spec};

use super::schema::{self, shortened};
use super::{BETWEEN, Server};

/// The most tools of one server, and what they may take of every prompt together. Bytes of descriptions and schemas: about
/// 8,000 tokens.
const TOOLS_MAX: usize = 40;
const BYTES_MAX: usize = 32 << 10;

/// The longest description of a tool. Bytes.
const DESCRIPTION_BYTES_MAX: usize = 1 << 10;

/// The longest name that chat formats take. Characters.
const NAME_CHARS_MAX: usize = 64;

/// The most that is said about what was left out. Lines.
const NOTES_MAX: usize = 20;

/// A tool as a server lists it.
#[derive(Debug, Clone, Default)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) schema: Map<String, Value>,
    /// What it says of itself: that it only looks, and that it destroys something.
    pub(super) read_only: bool,
    pub(super) destructive: bool,
}

/// A tool that is offered to models.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offered {
    /// The server's own name for it.
    pub(super) own: String,
    pub(super) spec: Spec,
}

/// Makes specs of what a server lists, and says what was left out or made simpler.
pub(super) fn offer(server: &Server, mut listed: Vec<Listed>) -> (Vec<Offered>, Vec<String>) {
    // The order a server lists them in may be another each time, and the prompt must not be.
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    listed.dedup_by(|a, b| a.name == b.name);
    let mut notes = Vec::new();
    for allowed in server.tools.iter().flatten() {
        if listed.iter().all(|tool| tool.name != *allowed) {
            notes.push(format!("{allowed}: configured, but the server has no such tool"));
        }
    }
    listed.retain(|tool| server.allows(&tool.name));
    let (mut offered, mut names, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
    for tool in listed {
        let shown = shortened(&tool.name, 60);
        if offered.len() >= TOOLS_MAX {
            notes.push(format!(
                "{shown}: left out: more than {TOOLS_MAX} tools; name those wanted under `tools`"
            ));
            continue;
        }
        let parameters = match schema::fit(&tool.schema) {
            Ok((parameters, false)) => parameters,
            Ok((parameters, true)) => {
                notes.push(format!(
                    "{shown}: its schema was made simpler; any value is taken for its arguments"
                ));
                parameters
            }
            Err(why) => {
                notes.push(format!("{shown}: left out: {why}"));
                continue;
            }
        };
        let (told, cut) = description(&tool.description);
        if cut {
            notes.push(format!("{shown}: its description was cut to {DESCRIPTION_BYTES_MAX} bytes"));
        }
        let size = told.len() + parameters.to_string().len();
        if bytes + size > BYTES_MAX {
            notes.push(format!(
                "{shown}: left out: the server's tools take more than {} KiB of every prompt; name those wanted under `tools`",
                BYTES_MAX >> 10
            ));
            continue;
        }
        bytes += size;
        let name = name(&server.name, &tool.name, &names);
        names.insert(name.clone());
        let replay = match server.trust_hints && tool.read_only {
            true => Replay::Safe,
            false => Replay::Unsafe,
        };
        let spec = Spec {
            name,
            description: format!("[a tool of the server {}] {told}", server.name).trim_end().to_owned(),
            parameters,
            replay,
            bounds: Vec::new(),
            reach: server.reach(tool.destructive && !tool.read_only),
        };
        offered.push(Offered { own: tool.name, spec });
    }
    if notes.len() > NOTES_MAX {
        let more = notes.len() - NOTES_MAX;
        notes.truncate(NOTES_MAX);
        notes.push(format!("{more} more notes of this kind"));
    }
    (offered, notes)
}

/// The same tool with the plainest schema there is, for a grammar that cannot take the one it has.
pub fn plainer(spec: &Spec) -> Spec {
    Spec { parameters: schema::plainer(&spec.parameters), ..spec.clone() }
}

/// Our name for a tool: of characters that every chat format takes, and no other tool's.
fn name(server: &str, tool: &str, taken: &BTreeSet<String>) -> String {
    let plain: String =
        tool.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let name = format!("{server}{BETWEEN}{plain}");
    if name.len() <= NAME_CHARS_MAX && !taken.contains(&name) {
        return name;
    }
    // What is cut off, or was spelled alike, is told apart by what it really is called.
    let digest: String = Sha256::digest(tool).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let kept: String = name.chars().take(NAME_CHARS_MAX - digest.len() - 1).collect();
    format!("{kept}_{digest}")
}

/// What a server says of a tool, harmless and capped, and whether something is missing.
fn description(said: &str) -> (String, bool) {
    let told = harmless(said.as_bytes()).0;
    let told = told.trim();
    if told.len() <= DESCRIPTION_BYTES_MAX {
        return (told.to_owned(), false);
    }
    let cut = (0..=DESCRIPTION_BYTES_MAX).rev().find(|at| told.is_char_boundary(*at)).unwrap_or(0);
    (format!("{}…", &told[..cut]), true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Reach;
    use crate::mcp::Way;

    fn server() -> Server {
        Server::new("s", Way::Command { argv: vec!["x".to_owned()], env: Vec::new() })
    }

    fn tool(name: &str) -> Listed {
        Listed { name: name.to_owned(), description: format!("Does {name}."), ..Listed::default() }
    }

    fn names(server: &Server, listed: Vec<Listed>) -> Vec<String> {
        offer(server, listed).0.into_iter().map(|offered| offered.spec.name).collect()
    }

    #[test]
    fn names_fit_every_chat_format_and_stay_apart() {
        // Two tools under one name would be one tool that does something else than what was read of it.
        let listed = ["b.c", "b/c", "a", "<tool_call>", &"x".repeat(80), &"x".repeat(81)].map(tool);
        let names = names(&server(), listed.to_vec());
        assert_eq!(
            names[..4],
            ["s___tool_call_", "s__a", "s__b_c", "s__b_c_b9e2beb9"].map(str::to_owned),
            "{names:?}"
        );
        assert!(names.iter().all(|name| name.len() <= 64), "{names:?}");
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 6, "{names:?}");
    }

    #[test]
    fn what_a_server_says_is_capped_and_what_is_missing_is_said() {
        // A server must not fill the prompt, and its user must not wonder where a tool went.
        let mut listed: Vec<Listed> = (0..60).map(|n| tool(&format!("t{n:02}"))).collect();
        listed[0].description = "ä".repeat(4000);
        listed[1].schema = json!({"type": "array"}).as_object().unwrap().clone();
        let (offered, notes) = offer(&server(), listed);
        assert_eq!(offered.len(), TOOLS_MAX);
        assert!(offered[0].spec.description.len() < 1100 && offered[0].spec.description.ends_with('…'));
        assert_eq!(notes[0], "t00: its description was cut to 1024 bytes");
        assert_eq!(notes[1], "t01: left out: its arguments are not an object");
        assert!(notes[2].starts_with("t41: left out: more than 40 tools"), "{notes:?}");
        let long: Vec<Listed> =
            (0..40).map(|n| Listed { description: "x".repeat(1024), ..tool(&format!("t{n:02}")) }).collect();
        let (offered, notes) = offer(&server(), long);
        assert!(
            (28..32).contains(&offered.len()) && notes[0].contains("32 KiB"),
            "{} {notes:?}",
            offered.len()
        );
    }

    #[test]
    fn only_what_the_operator_allows_is_offered_and_hints_count_only_if_trusted() {
        // A hint is the server's word, and a server that lies must not have its calls made twice.
        let looks = Listed { read_only: true, ..tool("looks") };
        let some = Server { tools: Some(vec!["looks".to_owned(), "gone".to_owned()]), ..server() };
        let (offered, notes) = offer(&some, vec![tool("other"), looks.clone()]);
        assert_eq!(offered.len(), 1);
        assert_eq!(notes, ["gone: configured, but the server has no such tool"]);
        assert_eq!((offered[0].spec.replay, offered[0].spec.reach), (Replay::Unsafe, Reach::Workspace));
        let trusting = Server { trust_hints: true, ..server() };
        assert_eq!(offer(&trusting, vec![looks]).0[0].spec.replay, Replay::Safe);
        assert_eq!(offer(&trusting, vec![tool("x")]).0[0].spec.replay, Replay::Unsafe);
    }
}
