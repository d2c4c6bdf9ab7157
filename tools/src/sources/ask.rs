//! What the model asks of the sources: a name, a file, a folder.

use std::fmt::Write as _;

use super::map::{is_below, line_of, map};
use super::project::{Definition, Project};
use super::understood;
use crate::files::{Answer, Request, Use, Uses};
use crate::{Error, Sandbox};

/// What a map may take. Bytes: some 1,500 tokens.
const MAP_BYTES: usize = 6_000;
/// Definitions and uses of a name that are shown.
const DEFINITIONS_MAX: usize = 30;
const USES_MAX: usize = 60;
/// Files that are read to show where a name is used.
const USERS_MAX: usize = 200;
/// Definitions of a file that are shown.
const OUTLINE_MAX: usize = 400;
/// Names like one that is not there.
const LIKE_MAX: usize = 8;

/// A question.
#[derive(Debug, Clone, Default)]
pub(crate) struct Question {
    /// Where this is defined and used.
    pub(crate) name: Option<String>,
    /// What this file defines, or what matters in this folder.
    pub(crate) path: Option<String>,
    /// Words of what one wants to do: what bears on it matters more.
    pub(crate) about: Option<String>,
}

impl Question {
    /// Answers from the sources as they are now.
    pub(crate) async fn answer(&self, sandbox: &Sandbox) -> Result<Answer, Error> {
        let mut project = sandbox.project.lock().await;
        project.level(sandbox).await?;
        let below = below(self.path.as_deref().unwrap_or_default(), sandbox.workspace());
        let answer = match &self.name {
            Some(name) => name_answer(&project, last_part(name), &below, sandbox).await?,
            None => place_answer(&project, &below, self.about.as_deref().unwrap_or_default()),
        };
        Ok(answer)
    }
}

/// A path as files are known by: from the workspace.
fn below(path: &str, workspace: &str) -> String {
    let path = path.trim();
    let path = path.strip_prefix(workspace).unwrap_or(path);
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.collect::<Vec<_>>().join("/")
}

/// A name without what it lies in: `Cache::evict`, `cache.evict`, `evict()`.
fn last_part(name: &str) -> &str {
    let name = name.trim().trim_end_matches("()").trim_end_matches('!');
    name.rsplit([':', '.', '#', '>']).next().unwrap_or(name).trim()
}

async fn name_answer(project: &Project, name: &str, below: &str, sandbox: &Sandbox) -> Result<Answer, Error> {
    let here = |path: &str| is_below(path, below) || path == below;
    let Some(number) = project.names.find(name) else {
        let like = like(project, name, below);
        return Ok(Answer::no(match like.is_empty() {
            true => format!("No source file defines or uses the name {name:?}. Look for text with grep."),
            false => {
                format!("There is no name {name:?} in the source files. Like it are: {}.", like.join(", "))
            }
        }));
    };
    let mut text = String::new();
    let mut defined = 0;
    for (path, definition) in project.definitions().filter(|(path, found)| found.name == number && here(path))
    {
        defined += 1;
        if defined <= DEFINITIONS_MAX {
            let _ = writeln!(text, "{path}:{}: {}", definition.lines.0, in_place(definition));
        }
    }
    if defined > DEFINITIONS_MAX {
        let _ = writeln!(text, "[... {} more; name a folder with \"path\"]", defined - DEFINITIONS_MAX);
    }
    let at = if below.is_empty() {
        "in the source files of the workspace".to_owned()
    } else {
        format!("at {below}")
    };
    let head = if defined > 0 { "Defined:\n".to_owned() } else { format!("Not defined {at}.\n") };
    text.insert_str(0, &head);
    let mut users = project.users(number);
    users.retain(|path| here(path));
    let all = users.len();
    let paths = users.into_iter().take(USERS_MAX).map(str::to_owned).collect();
    let request = Uses { name: name.to_owned(), paths, limit: USES_MAX + DEFINITIONS_MAX };
    let answer = sandbox.files(&Request::Uses(request)).await?;
    let mut uses: Vec<Use> = if answer.ok { understood(&answer.text)? } else { Vec::new() };
    // Where a definition begins its name stands too, and that was shown.
    let begins = |found: &Use, one: &Definition| {
        one.name == number
            && (one.lines.0..=one.lines.1).contains(&found.line)
            && one.signature.contains(start(&found.text))
    };
    uses.retain(|found| {
        let file = project.files.get(&found.path);
        !file.is_some_and(|file| file.definitions.iter().any(|one| begins(found, one)))
    });
    if !uses.is_empty() {
        let files = if all == 1 { "file" } else { "files" };
        let _ = writeln!(text, "Used in {all} {files}:");
    }
    for found in uses.iter().take(USES_MAX) {
        let _ = writeln!(text, "{}:{}: {}", found.path, found.line, found.text);
    }
    if uses.len() > USES_MAX || all > USERS_MAX {
        text.push_str("[... more; name a folder with \"path\", or use grep]\n");
    }
    let summary = format!("{defined} definitions, {} uses", uses.len().min(USES_MAX));
    Ok(Answer::yes(text.trim_end().to_owned(), summary))
}

/// The beginning of a line as a signature has it.
fn start(line: &str) -> &str {
    let end = line.find(['{', ';', '(', '=', ':']).unwrap_or(line.len());
    line[..end].trim_end()
}

fn in_place(definition: &Definition) -> String {
    match definition.containers.last() {
        Some(container) => format!("{} (in {container})", definition.signature),
        None => definition.signature.clone(),
    }
}

/// Names that are defined and like one that is not there: written otherwise, or with it as a part.
fn like(project: &Project, name: &str, below: &str) -> Vec<String> {
    let plain = |name: &str| name.to_lowercase().replace('_', "");
    let asked = plain(name);
    let mut like: Vec<(bool, usize, &str)> = project
        .definitions()
        .filter(|(path, _)| is_below(path, below))
        .map(|(_, definition)| project.names.name(definition.name))
        .filter_map(|other| {
            let lower = plain(other);
            let fits = lower.contains(&asked) || lower.len() > 3 && asked.contains(&lower);
            fits.then_some((lower != asked, lower.len().abs_diff(asked.len()), other))
        })
        .collect();
    like.sort_unstable();
    like.dedup();
    like.into_iter().take(LIKE_MAX).map(|(_, _, name)| name.to_owned()).collect()
}

fn place_answer(project: &Project, below: &str, about: &str) -> Answer {
    if let Some(file) = project.files.get(below) {
        let mut text = format!("{below}\n");
        for definition in file.definitions.iter().take(OUTLINE_MAX) {
            let _ = writeln!(text, "{}", line_of(definition));
        }
        let more = file.definitions.len().saturating_sub(OUTLINE_MAX);
        if more > 0 {
            let _ = writeln!(text, "[... {more} more]");
        }
        if file.definitions.is_empty() {
            text = format!("{below} defines nothing that is known of. Use read to see it.");
        }
        let summary = format!("{} definitions", file.definitions.len());
        return Answer::yes(text.trim_end().to_owned(), summary);
    }
    let count = project.files.keys().filter(|path| is_below(path, below)).count();
    if count == 0 {
        return Answer::no(match below.is_empty() {
            true => {
                "There are no source files in a language that is known here. Use glob and grep.".to_owned()
            }
            false => format!(
                "There are no source files at {below} in a language that is known here. Use list or glob to see what there is."
            ),
        });
    }
    let text = map(project, below, about, MAP_BYTES);
    Answer::yes(text.trim_end().to_owned(), format!("{count} source files"))
}
