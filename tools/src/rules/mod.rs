//! Which calls may run, which somebody is asked about first, and which may not: rules that people write down, held against a call before
//! it starts.
//!
//! Rules come from three places: the operator of the service, the repository, and whoever made the session. Each place gives one answer
//! and the strictest of the three holds, so that nobody below can loosen what somebody above has tied. A repository's file is written by
//! whoever wrote the repository, so it can only tie.

mod command;

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::arguments::Arguments;
use crate::{Call, Spec};
use command::{Line, Shape, glob};

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It runs, also where somebody would be asked otherwise because it reaches beyond the workspace.
    Allow,
    /// It runs once somebody has said that it may.
    Ask,
    /// It does not run.
    Deny,
}

/// One rule. Everything that it names must be true of a call; what it leaves out may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What becomes of the call.
    pub then: Effect,
    /// The tool's name; `*` stands for any letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The shape of a command: words, each with `*` for any letters, and a last `*` for any words or none, as in `git push *`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The path of a file that is read, written or searched, from the workspace on: `*` stays within a folder, `**` does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The host of an address that is fetched; `*` stands for any letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The workspaces that it is for: this folder and all below; every one when left out. Only an operator's rule may name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<PathBuf>,
    /// Why, in words that people and the model are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Who has written a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Whoever runs the service, in its settings.
    Operator,
    /// Whoever wrote the repository, in its `.saga/rules.toml`.
    Repository,
    /// Whoever made the session.
    Session,
}

/// What the rules say of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of it.
    pub then: Effect,
    /// Whose rule decided.
    pub level: Level,
    /// The rule, and why, in words.
    pub why: String,
}

/// Rules of one level, ready to be held against calls.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<Ready>,
}

#[derive(Debug, Clone)]
struct Ready {
    rule: Rule,
    tool: Option<globset::GlobMatcher>,
    command: Option<Shape>,
    path: Option<globset::GlobMatcher>,
    host: Option<globset::GlobMatcher>,
}

/// More rules than anybody keeps in mind; each call is held against all of them.
const RULES_MAX: usize = 500;

/// The file that holds a repository's rules.
pub const REPOSITORY_FILE: &str = ".saga/rules.toml";

impl Rules {
    /// Makes rules ready. The error names the rule that is wrong and what is wrong with it.
    pub fn new(level: Level, rules: &[Rule]) -> Result<Rules, String> {
        if rules.len() > RULES_MAX {
            return Err(format!("there are {} rules; at most {RULES_MAX} are read", rules.len()));
        }
        let ready = rules
            .iter()
            .enumerate()
            .map(|(n, rule)| ready(level, rule).map_err(|why| format!("rule {} ({rule}): {why}", n + 1)));
        Ok(Rules { rules: ready.collect::<Result<_, _>>()? })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What this level says: a rule that denies holds wherever it stands; of the others the first that fits.
    fn judge(&self, about: &About<'_>) -> Option<&Rule> {
        let mut found: Option<&Rule> = None;
        for ready in self.rules.iter().filter(|ready| self.fits(ready, about)) {
            if ready.rule.then == Effect::Deny {
                return Some(&ready.rule);
            }
            found = found.or(Some(&ready.rule));
        }
        found
    }

    fn fits(&self, ready: &Ready, about: &About<'_>) -> bool {
        let Ready { rule, tool, command, path, host } = ready;
        let allows = rule.then == Effect::Allow;
        // What forbids or asks holds if any file is meant; what allows, if all of them are.
        let files = |glob: &globset::GlobMatcher| match allows {
            true => !about.paths.is_empty() && about.paths.iter().all(|path| glob.is_match(path)),
            false => about.paths.iter().any(|path| glob.is_match(path) || above(path, glob)),
        };
        rule.workspace.as_ref().is_none_or(|root| about.workspace.starts_with(root))
            && tool.as_ref().is_none_or(|glob| glob.is_match(&about.call.name))
            && path.as_ref().is_none_or(files)
            && host
                .as_ref()
                .is_none_or(|glob| about.host.as_ref().is_some_and(|host| glob.is_match(host)))
            && command.as_ref().is_none_or(|shape| match (&about.line, allows) {
                (Some(line), false) => line.holds(shape),
                // Each command of the line may be allowed by another rule.
                (Some(line), true) => line.is_only(self.allowed(about)),
                (None, _) => false,
            })
            // A line of several commands is allowed by all the rules together, but only by one it has to do with.
            && (!allows || command.is_none() || about.line.as_ref().is_some_and(|line| {
                command.as_ref().is_some_and(|shape| line.holds(shape))
            }))
    }

    /// The shapes of commands that rules of this level allow to this tool in this workspace.
    fn allowed<'a>(&'a self, about: &'a About<'_>) -> impl Iterator<Item = &'a Shape> + Clone {
        self.rules
            .iter()
            .filter(|ready| ready.rule.then == Effect::Allow)
            .filter(|ready| {
                ready.rule.workspace.as_ref().is_none_or(|root| about.workspace.starts_with(root))
            })
            .filter(|ready| ready.tool.as_ref().is_none_or(|glob| glob.is_match(&about.call.name)))
            .filter_map(|ready| ready.command.as_ref())
    }
}

/// What all levels say of a call, the strictest of them. `spec` is the called tool's, if there is one of that name.
pub fn judge(
    levels: &[(Level, &Rules)],
    call: &Call,
    spec: Option<&Spec>,
    workspace: &Path,
) -> Option<Verdict> {
    if levels.iter().all(|(_, rules)| rules.is_empty()) {
        return None;
    }
    let about = About::of(call, spec, workspace);
    let mut strictest: Option<(Level, &Rule)> = None;
    for (level, rules) in levels {
        let Some(rule) = rules.judge(&about) else { continue };
        if strictest.is_none_or(|(_, other)| rule.then > other.then) {
            strictest = Some((*level, rule));
        }
    }
    let (level, rule) = strictest?;
    let whose = match level {
        Level::Operator => "a rule of this service",
        Level::Repository => "a rule of this repository",
        Level::Session => "a rule of this session",
    };
    let why = match &rule.why {
        Some(why) => format!("{whose} ({rule}): {why}"),
        None => format!("{whose} ({rule})"),
    };
    Some(Verdict { then: rule.then, level, why })
}

fn ready(level: Level, rule: &Rule) -> Result<Ready, String> {
    if rule.tool.is_none() && rule.command.is_none() && rule.path.is_none() && rule.host.is_none() {
        return Err("it names nothing; name a tool (\"*\" for all), a command, a path or a host".to_string());
    }
    if level != Level::Operator && rule.workspace.is_some() {
        return Err("only the settings of the service can name a workspace".to_string());
    }
    if rule.workspace.as_ref().is_some_and(|root| !root.is_absolute()) {
        return Err("the workspace is not absolute; write it from / on".to_string());
    }
    if level == Level::Repository && rule.then == Effect::Allow {
        return Err("a repository can only ask and deny; allow it in the service's settings".to_string());
    }
    let names = |pattern: &Option<String>| pattern.as_deref().map(glob).transpose();
    let host = rule.host.as_ref().map(|host| host.to_lowercase());
    let path = rule.path.as_deref().map(|text| {
        let text = text.strip_prefix("./").unwrap_or(text);
        let made = globset::GlobBuilder::new(text).literal_separator(true).build();
        made.map(|glob| glob.compile_matcher())
            .map_err(|error| format!("{text:?} is no pattern: {}", error.kind()))
    });
    Ok(Ready {
        rule: rule.clone(),
        tool: names(&rule.tool)?,
        command: rule.command.as_deref().map(Shape::read).transpose()?,
        path: path.transpose()?,
        host: names(&host)?,
    })
}

/// Whether a path is a folder that a pattern reaches into: to search `src` is to read `src/secret/key`.
fn above(path: &str, glob: &globset::GlobMatcher) -> bool {
    let pattern = glob.glob().glob();
    let fixed: PathBuf = Path::new(pattern)
        .components()
        .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']))
        .collect();
    let path = Path::new(path);
    path == Path::new(".") || fixed.starts_with(path) && fixed != path
}

/// What a call is about, as rules see it.
struct About<'a> {
    call: &'a Call,
    workspace: &'a Path,
    line: Option<Line>,
    paths: Vec<String>,
    host: Option<String>,
}

/// Arguments that name a file or a folder, and those that name a program's input to run.
const PATHS: [&str; 2] = ["path", "cwd"];

impl<'a> About<'a> {
    fn of(call: &'a Call, spec: Option<&Spec>, workspace: &'a Path) -> About<'a> {
        let parsed = match &call.arguments {
            // The toolbox takes them so as well.
            Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| call.arguments.clone()),
            other => other.clone(),
        };
        // Read as the tool itself will read them: under a name that a model made up a rule has to find them too.
        let mut read = spec.and_then(|spec| Arguments::read(&parsed, spec).ok());
        let mut text = |name: &str| match &mut read {
            Some(arguments) => arguments.optional_text(name).ok().flatten(),
            None => parsed.get(name).and_then(Value::as_str).map(str::to_string),
        };
        let mut paths: Vec<String> =
            PATHS.iter().filter_map(|name| text(name)).map(|path| inside(&path, workspace)).collect();
        let command = text("command");
        let patch = text("patch");
        paths.extend(patch.iter().flat_map(|patch| patched(patch)).map(|path| inside(path, workspace)));
        let takes_a_folder = spec.is_some_and(|spec| spec.parameters["properties"].get("path").is_some());
        if paths.is_empty() && takes_a_folder {
            // Left out, it is the whole workspace.
            paths.push(".".to_string());
        }
        let host = text("url").and_then(|url| host_of(&url));
        About { call, workspace, line: command.map(|text| Line::read(&text)), paths, host }
    }
}

/// A path as rules spell it: from the workspace on, without `.` and `..`; outside of it, from / on.
fn inside(path: &str, workspace: &Path) -> String {
    let whole = workspace.join(path.trim());
    let mut clean = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => clean.push(part),
        }
    }
    let short = clean.strip_prefix(workspace).unwrap_or(&clean);
    match short.to_string_lossy() {
        text if text.is_empty() => ".".to_string(),
        text => text.into_owned(),
    }
}

/// The files that a patch names.
fn patched(patch: &str) -> impl Iterator<Item = &str> {
    const MARKS: [&str; 4] = ["*** Update File:", "*** Add File:", "*** Delete File:", "*** Move to:"];
    patch
        .lines()
        .filter_map(|line| MARKS.iter().find_map(|mark| line.trim_start().strip_prefix(mark)).map(str::trim))
}

/// The host of an address: as `fetch` reads it, so that no spelling gets around a rule.
fn host_of(url: &str) -> Option<String> {
    if let Some(host) = crate::egress::host_of(url) {
        return Some(host);
    }
    let rest = url.trim().split_once("://").map_or(url.trim(), |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(six) => six.split(']').next()?,
        None => host.split(':').next()?,
    };
    let host = host.trim_end_matches('.').to_lowercase();
    (!host.is_empty()).then_some(host)
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.then {
            Effect::Allow => "allow",
            Effect::Ask => "ask",
            Effect::Deny => "deny",
        })?;
        for (name, value) in
            [("tool", &self.tool), ("command", &self.command), ("path", &self.path), ("host", &self.host)]
        {
            if let Some(value) = value {
                write!(f, " {name} {value:?}")?;
            }
        }
        Ok(())
    }
}

/// Reads a rule as it is written on a command line: `exec`, `exec:git push *`, `edit:migrations/**`, `fetch:*.example.org`.
pub fn short(then: Effect, text: &str) -> Result<Rule, String> {
    let (tool, about) = match text.split_once(':') {
        Some((tool, about)) => {
            (tool.trim(), Some(about.trim().to_string()).filter(|about| !about.is_empty()))
        }
        None => (text.trim(), None),
    };
    if tool.is_empty() {
        return Err(format!("{text:?} names no tool; write it like \"exec:git push *\""));
    }
    let mut rule = Rule {
        then,
        tool: Some(tool.to_string()),
        command: None,
        path: None,
        host: None,
        workspace: None,
        why: None,
    };
    match tool {
        "exec" => rule.command = about,
        "fetch" => rule.host = about,
        _ => rule.path = about,
    }
    ready(Level::Session, &rule)?;
    Ok(rule)
}

#[cfg(test)]
mod tests;
