//! A session as a person follows it: text as it is written, each call as one line with its outcome.

use std::collections::BTreeMap;
use std::time::Instant;

use agent::{Checked, End, Event, Loop, Merged, Progress, Recorded, Returned};
use serde_json::Value;
use tools::egress::Contact;
use tools::mcp::Equipment;
use tools::{Call, Outcome};

use crate::client::Heard;
use crate::host::{count, seconds};
use crate::term::{Ink, Screen, clean, one_line};

/// The view of one session.
pub(crate) struct Show {
    screen: Screen,
    /// Calls asked for and not yet ended.
    calls: BTreeMap<String, Call>,
    /// Text of this step that has been shown already.
    streamed: String,
    doing: Doing,
    since: Instant,
}

/// What the line at the bottom says.
enum Doing {
    Nothing,
    Waiting,
    Loading { percent: u64 },
    Reading { done: u64, total: u64 },
    Thinking { tokens: u64, decode_ms: u64 },
    Calling { chars: usize },
    Running { call: String, last: String },
}

impl Show {
    pub(crate) fn new(screen: Screen) -> Show {
        Show {
            screen,
            calls: BTreeMap::new(),
            streamed: String::new(),
            doing: Doing::Nothing,
            since: Instant::now(),
        }
    }

    /// Shows one thing a stream has said; gives the event back if it was one.
    pub(crate) fn hear(&mut self, heard: &Heard) -> Option<Recorded> {
        if heard.kind == "progress" {
            // Kinds of progress that a newer service has are passed over.
            if let Ok(progress) = serde_json::from_str(&heard.data) {
                self.progress(progress);
            }
            return None;
        }
        heard.id?;
        let recorded: Recorded = serde_json::from_str(&heard.data).ok()?;
        self.event(&recorded);
        Some(recorded)
    }

    /// Redraws the line at the bottom.
    pub(crate) fn tick(&self) {
        if let Some(line) = self.status() {
            self.screen.status(&line);
        }
    }

    fn do_now(&mut self, doing: Doing) {
        if std::mem::discriminant(&doing) != std::mem::discriminant(&self.doing) {
            self.since = Instant::now();
        }
        self.doing = doing;
        self.tick();
    }

    fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Loading { done_bytes, total_bytes } => {
                self.do_now(Doing::Loading {
                    percent: (done_bytes * 100).checked_div(total_bytes).unwrap_or(0),
                });
            }
            Progress::Prefilling { done_tokens, total_tokens } => {
                self.do_now(Doing::Reading { done: done_tokens, total: total_tokens });
            }
            // A thought is not shown; that one is thought shows in the tokens that are counted.
            Progress::Thought { .. } => {
                if matches!(self.doing, Doing::Waiting | Doing::Reading { .. } | Doing::Loading { .. }) {
                    self.do_now(Doing::Thinking { tokens: 0, decode_ms: 0 });
                }
            }
            Progress::Text { text } => {
                if matches!(self.doing, Doing::Waiting | Doing::Reading { .. } | Doing::Loading { .. }) {
                    self.do_now(Doing::Thinking { tokens: 0, decode_ms: 0 });
                }
                if self.screen.live() {
                    // A reply's leading line breaks are of no use to a reader.
                    let shown = if self.streamed.trim().is_empty() { text.trim_start() } else { &text };
                    self.screen.text(&clean(shown));
                    self.streamed.push_str(&text);
                }
            }
            Progress::Calling { text } => {
                self.screen.end_text();
                let before = if let Doing::Calling { chars } = self.doing { chars } else { 0 };
                self.do_now(Doing::Calling { chars: before + text.chars().count() });
            }
            Progress::Output { call, text } => {
                let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
                self.do_now(Doing::Running { call, last: one_line(last, 200) });
            }
            // It comes as an event.
            Progress::Looping { .. } => {}
            Progress::Speed { output_tokens, decode_ms } => match &self.doing {
                Doing::Calling { .. } => self.tick(),
                _ => self.do_now(Doing::Thinking { tokens: output_tokens, decode_ms }),
            },
        }
    }

    fn event(&mut self, recorded: &Recorded) {
        let screen = self.screen.clone();
        match &recorded.event {
            Event::Created(_) | Event::TurnStarted { .. } => {}
            Event::Input { text, .. } => {
                screen.line(&format!(
                    "{} {}",
                    screen.ink(Ink::Accent, "›"),
                    screen.ink(Ink::Bold, clean(text).trim())
                ));
            }
            Event::GoalSet { goal, .. } => {
                let line = format!(
                    "◎ until {}",
                    one_line(&goal.in_words(), screen.width().saturating_sub(8).max(24))
                );
                screen.line(&screen.ink(Ink::Dim, &line));
            }
            Event::Enclosed { origin, text, .. } => {
                let line = format!("✉ from {origin}: {text}");
                screen.line(&screen.ink(Ink::Dim, &one_line(&line, screen.width().max(60))));
            }
            Event::GoalDropped => screen.line(&screen.ink(Ink::Dim, "◎ the goal was taken back")),
            Event::GoalChecking { call, .. } => {
                self.calls.extend(call.iter().map(|call| (call.id.clone(), call.clone())));
                self.do_now(Doing::Waiting);
            }
            Event::GoalChecked(checked) => {
                let ink = if checked.met { Ink::Good } else { Ink::Warn };
                let line = one_line(&checked_in_words(checked), screen.width().saturating_sub(2).max(60));
                screen.line(&screen.ink(ink, &format!("◎ {line}")));
                self.do_now(Doing::Waiting);
            }
            Event::Recalled { trouble: Some(trouble), .. } => {
                screen
                    .line(&screen.ink(Ink::Warn, &format!("nothing could be recalled: {}", clean(trouble))));
            }
            Event::Recalled { notes, .. } => {
                let room = screen.width().saturating_sub(24).max(24);
                for note in notes {
                    let line = format!("↺ remembered, {}: {}", note.id, one_line(&note.text, room));
                    screen.line(&screen.ink(Ink::Dim, &line));
                }
            }
            Event::StepStarted { .. } => {
                self.streamed.clear();
                self.do_now(Doing::Waiting);
            }
            Event::Reply { text, calls, refused, .. } => {
                // What was not streamed, because nobody watched or the stream began in between, is shown now.
                let rest = text.trim().strip_prefix(self.streamed.trim()).unwrap_or_default();
                if self.streamed.trim().is_empty() && !text.trim().is_empty() {
                    screen.line(clean(text).trim());
                } else {
                    screen.text(&clean(rest));
                    screen.end_text();
                }
                self.streamed.clear();
                for refusal in refused {
                    let why = one_line(&refusal.why, screen.width().saturating_sub(28));
                    screen.line(&format!("{} a call that cannot be read: {why}", screen.ink(Ink::Bad, "●")));
                }
                self.calls.extend(calls.iter().map(|call| (call.id.clone(), call.clone())));
                self.do_now(Doing::Waiting);
            }
            Event::ApprovalAsked { id, why, .. } => {
                let room = screen.width().saturating_sub(12).max(24);
                let what =
                    self.calls.get(id).map_or_else(|| "a call".to_string(), |call| in_words(call, room));
                self.doing = Doing::Nothing;
                screen.quiet();
                screen.line(&screen.ink(Ink::Warn, &format!("? {what}")));
                screen.line(&screen.ink(Ink::Dim, &format!("  it waits for your approval: {}", clean(why))));
            }
            Event::ApprovalGiven { id, allowed, by, .. } => {
                if !allowed {
                    self.calls.remove(id);
                    let what =
                        if by.is_some() { "● not approved" } else { "● nobody approved of it in time" };
                    screen.line(&screen.ink(Ink::Bad, what));
                }
                self.do_now(Doing::Waiting);
            }
            Event::CallDenied { id, why } => {
                let room = screen.width().saturating_sub(12).max(24);
                let what =
                    self.calls.get(id).map_or_else(|| "a call".to_string(), |call| in_words(call, room));
                screen.line(&format!("{} {what}", screen.ink(Ink::Bad, "●")));
                screen.line(&screen.ink(Ink::Dim, &format!("  not run: {}", clean(why))));
                self.calls.remove(id);
                self.do_now(Doing::Waiting);
            }
            Event::CallStarted { id, .. } => {
                self.do_now(Doing::Running { call: id.clone(), last: String::new() })
            }
            Event::CallFinished { id, outcome, .. } => {
                let line = self.call_line(id, Some(outcome));
                screen.line(&line);
                let call = self.calls.remove(id);
                let plan = call.filter(|call| call.name == "todo" && outcome.ok);
                let plan = plan.as_ref().and_then(|call| call.arguments["plan"].as_str()).unwrap_or_default();
                for task in plan.lines().filter(|task| !task.trim().is_empty()) {
                    screen.line(&format!("  {}", one_line(task, screen.width().saturating_sub(2))));
                }
                self.do_now(Doing::Waiting);
            }
            Event::ChildStarted(child) => {
                let line = format!("⑂ sub-agent {} begins: {}", child.child, child.task);
                screen.line(&screen.ink(Ink::Dim, &one_line(&line, screen.width().max(60))));
            }
            Event::ChildEnded(returned) => {
                let ink = if returned.end == End::Done { Ink::Good } else { Ink::Warn };
                screen.line(&screen.ink(
                    ink,
                    &format!("⑂ {}", one_line(&returned_in_words(returned), screen.width().max(60))),
                ));
            }
            Event::ChildMerged { child, merged } => {
                let ink = if merged.conflicts.is_empty() && merged.trouble.is_none() {
                    Ink::Dim
                } else {
                    Ink::Warn
                };
                let line = merged_in_words(child, merged);
                screen.line(&screen.ink(ink, &format!("⑂ {}", one_line(&line, screen.width().max(60)))));
            }
            Event::Guided { guides, .. } => {
                let paths: Vec<&str> = guides.iter().map(|guide| guide.path.as_str()).collect();
                screen.line(&screen.ink(Ink::Dim, &format!("☞ told what {} says", clean(&paths.join(", ")))));
            }
            Event::Egress { contacts, more, .. } => {
                for line in contacts_in_words(contacts, *more) {
                    screen.line(&screen.ink(Ink::Dim, &format!("⇄ {}", clean(&line))));
                }
            }
            Event::CallLost { id } => {
                let line = self.call_line(id, None);
                screen.line(&line);
                self.calls.remove(id);
            }
            Event::Undone { kept, .. } if !kept.is_empty() => {
                let kept = clean(&kept.join(", "));
                let line = format!("it did not help, but is not undone: somebody changed {kept} meanwhile");
                screen.line(&screen.ink(Ink::Warn, &line));
            }
            Event::Undone { note, .. } => {
                let (_, why) = note.split_once("was undone: ").unwrap_or(("", note));
                let why = one_line(why, screen.width().saturating_sub(28));
                screen.line(&screen.ink(Ink::Dim, &format!("↩ undone, it did not help: {why}")));
            }
            Event::Checkpoint { trouble: Some(trouble), .. } => {
                let why = one_line(trouble, screen.width().saturating_sub(32).max(24));
                screen.line(&screen.ink(Ink::Warn, &format!("the workspace is not kept: {why}")));
            }
            Event::Checkpoint { .. } => {}
            Event::Rewound { to, .. } => {
                self.doing = Doing::Nothing;
                screen.quiet();
                screen.line(&screen.ink(Ink::Warn, &format!("↩ wound back to event {}", to.0)));
            }
            Event::Forked { from, at } => {
                let line = format!("↪ goes on from event {} of session {from}", at.0);
                screen.line(&screen.ink(Ink::Dim, &line));
            }
            Event::Imported { from, masked } => {
                screen.line(&screen.ink(Ink::Dim, &format!("↪ {}", imported_in_words(from, *masked))));
            }
            Event::Budgeted { .. } => {
                screen.line(&screen.ink(Ink::Dim, "other limits hold from here on"));
            }
            Event::Full { .. } | Event::CompactionAsked { .. } => {}
            Event::Running { commands } => {
                for command in commands {
                    let line = format!("… {} goes on in the background: {}", command.id, command.command);
                    screen.line(&screen.ink(Ink::Dim, &one_line(&line, screen.width())));
                }
            }
            Event::Exited { exit } => {
                let how = exit.text.lines().next().unwrap_or_default();
                let line = format!("⏎ {} ended in the background: {} … {how}", exit.id, exit.command);
                let ink = if exit.ok { Ink::Good } else { Ink::Bad };
                screen.line(&screen.ink(ink, &one_line(&line, screen.width())));
            }
            Event::Compacted { messages, before_tokens, after_tokens, .. } => {
                let line = compacted_in_words(*messages, *before_tokens, *after_tokens);
                screen.line(&screen.ink(Ink::Dim, &format!("⇲ {line}")));
            }
            Event::NotCompacted { why } => {
                screen.line(&screen.ink(Ink::Warn, &format!("no room was made: {}", clean(why))));
            }
            Event::Uncompacted => {
                screen.line(&screen.ink(Ink::Dim, "⇱ the model is shown again what was left out last"));
            }
            Event::Equipped { servers } => {
                for server in servers {
                    let line = equipment_in_words(server, screen.width().saturating_sub(12).max(60));
                    let ink = if server.trouble.is_some() { Ink::Warn } else { Ink::Dim };
                    screen.line(&screen.ink(ink, &format!("⚒ {line}")));
                }
            }
            Event::Looping { what, .. } => {
                let what = loop_in_words(what, screen.width().saturating_sub(60).max(24));
                screen.line(&screen.ink(Ink::Warn, &format!("⟳ {what}")));
            }
            Event::Learned { notes, .. } | Event::Reflected { notes, .. } if notes.is_empty() => {}
            Event::Learned { notes, .. } | Event::Reflected { notes, .. } => {
                let ids = numbers(notes.iter().copied());
                screen.line(
                    &screen.ink(Ink::Dim, &format!("✎ remembered as {ids}; `saga memory show` tells what")),
                );
            }
            Event::Interrupted => screen.line(&screen.ink(Ink::Warn, "interrupted")),
            Event::TurnEnded { end, .. } => {
                self.doing = Doing::Nothing;
                screen.quiet();
                screen.end_text();
                match end {
                    End::Done | End::Interrupted => {}
                    End::Budget { .. }
                    | End::GoalUnmet { .. }
                    | End::ContextFull { .. }
                    | End::Failed { .. } => {
                        screen.line(&screen.ink(Ink::Bad, &end_in_words(end)));
                    }
                }
            }
        }
    }

    /// `● exec cargo test … exit 1 · 2.1 s`
    fn call_line(&self, id: &str, outcome: Option<&Outcome>) -> String {
        let (ink, summary) = match outcome {
            Some(outcome) if outcome.ok => (Ink::Good, one_line(&outcome.summary, 120)),
            Some(outcome) => (Ink::Bad, one_line(&outcome.summary, 120)),
            None => (Ink::Warn, "outcome unknown: the service stopped while it ran".to_string()),
        };
        // Bullet, spaces and the dots around what the call is about.
        let room = self.screen.width().saturating_sub(summary.chars().count() + 6).max(24);
        let what = self.calls.get(id).map_or_else(|| "call".to_string(), |call| in_words(call, room));
        let (dot, dots) = (self.screen.ink(ink, "●"), self.screen.ink(Ink::Dim, "…"));
        format!("{dot} {what} {dots} {}", self.screen.ink(ink, &summary))
    }

    fn status(&self) -> Option<String> {
        let s = self.since.elapsed().as_secs_f64();
        let rate = |tokens: u64, s: f64| {
            if s > 0.2 { format!(" · {:.0} tokens/s", tokens as f64 / s) } else { String::new() }
        };
        Some(match &self.doing {
            Doing::Nothing => return None,
            Doing::Waiting => format!("working · {}", seconds(s)),
            Doing::Loading { percent } => format!("loading the model · {percent} %"),
            Doing::Reading { done, total } => {
                format!("reading · {} of {} tokens{}", count(*done), count(*total), rate(*done, s))
            }
            Doing::Thinking { tokens, decode_ms } => {
                format!("thinking · {} tokens{}", count(*tokens), rate(*tokens, *decode_ms as f64 / 1000.0))
            }
            Doing::Calling { chars } => {
                format!("writing a call · {} characters · {}", count(*chars as u64), seconds(s))
            }
            Doing::Running { call, last } => {
                let what =
                    self.calls.get(call).map_or_else(|| "a call".to_string(), |call| in_words(call, 60));
                let last = if last.is_empty() { String::new() } else { format!(" · {last}") };
                format!("{what} · {}{last}", seconds(s))
            }
        })
    }
}

/// Where a session has come from.
pub(crate) fn imported_in_words(from: &agent::SessionId, masked: bool) -> String {
    let masked = if masked { ", with its secrets blotted out" } else { "" };
    format!("came in a file, where it was session {from}{masked}")
}

/// What a compaction has done.
pub(crate) fn compacted_in_words(messages: usize, before_tokens: u64, after_tokens: u64) -> String {
    format!(
        "{messages} older messages are left out of the prompt: {} tokens became {}",
        count(before_tokens),
        count(after_tokens)
    )
}

/// What came of a check of the goal.
pub(crate) fn checked_in_words(checked: &Checked) -> String {
    let Checked { check, met, said, evidence, barred, .. } = checked;
    match (met, barred) {
        (_, Some(why)) => format!("check {check}: the goal cannot be checked: {why}"),
        (true, None) => {
            let shown: Vec<String> = evidence
                .iter()
                .map(|evidence| format!("{} ({})", one_line(&evidence.quote, 120), evidence.call))
                .collect();
            format!("check {check}: the goal is reached: {}", shown.join("; "))
        }
        (false, None) => format!("check {check}: the goal is not reached: {}", one_line(said, 200)),
    }
}

/// What a sub-agent has come to.
pub(crate) fn returned_in_words(returned: &Returned) -> String {
    let Returned { child, end, steps, usage, .. } = returned;
    format!(
        "sub-agent {child} after {steps} steps and {} tokens: {}",
        count(usage.output_tokens),
        end_in_words(end)
    )
}

/// What came of bringing a sub-agent's changes back.
pub(crate) fn merged_in_words(child: &agent::SessionId, merged: &Merged) -> String {
    let Merged { files, conflicts, trouble } = merged;
    match trouble {
        Some(trouble) => format!("what {child} has changed was not brought back: {trouble}"),
        None if conflicts.is_empty() => format!("{} files brought back from {child}", files.len()),
        None => format!(
            "{} files brought back from {child}, and not these, which were changed here as well: {}",
            files.len(),
            conflicts.join(", ")
        ),
    }
}

/// Notes by their numbers.
pub(crate) fn numbers(ids: impl Iterator<Item = memory::NoteId>) -> String {
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}

/// What was reached for, a line for each target: `reached crates.example:443 (3 times)`.
pub(crate) fn contacts_in_words(contacts: &[Contact], more: u64) -> Vec<String> {
    let line = |contact: &Contact| {
        let times = if contact.times > 1 { format!(" ({} times)", contact.times) } else { String::new() };
        let secret = if contact.secret { ", with a secret" } else { "" };
        if contact.allowed {
            let address = contact.address.map(|address| format!(" at {address}")).unwrap_or_default();
            format!("reached {}:{}{address}{secret}{times}", contact.host, contact.port)
        } else {
            format!("kept from {}:{}: {}{times}", contact.host, contact.port, contact.rule)
        }
    };
    let rest = (more > 0).then(|| format!("and {more} more that are not told one by one"));
    contacts.iter().map(line).chain(rest).collect()
}

/// A call in a few words: its tool and what it is about.
pub(crate) fn in_words(call: &Call, width: usize) -> String {
    // The first of these that a call has says what it is about, for any tool.
    let told = ["command", "path", "pattern", "query", "file", "url"];
    let arguments = call.arguments.as_object();
    let about = arguments.and_then(|arguments| {
        let named = told.iter().find_map(|name| arguments.get(*name)?.as_str());
        named.or_else(|| arguments.values().find_map(Value::as_str))
    });
    match about {
        Some(about) => one_line(&format!("{} {about}", call.name), width),
        None => one_line(&call.name, width),
    }
}

/// What a server of tools gives, on a line of about `width` characters.
pub(crate) fn equipment_in_words(equipment: &Equipment, width: usize) -> String {
    let Equipment { server, tools, notes, trouble } = equipment;
    let plural = if tools.len() == 1 { "" } else { "s" };
    match trouble {
        Some(why) => format!("the server {server} cannot be used: {}", one_line(why, width)),
        None if notes.is_empty() => format!("{server}: {} tool{plural}", tools.len()),
        None => format!("{server}: {} tool{plural}, with notes; see `saga mcp check {server}`", tools.len()),
    }
}

/// What a model repeats, as a sentence with at most `width` characters of it.
pub(crate) fn loop_in_words(what: &Loop, width: usize) -> String {
    match what {
        Loop::Text { text, times, start, .. } => format!(
            "the reply repeats itself: {:?}, {times} times in a row from token {start} on",
            one_line(text, width)
        ),
        Loop::Call { name, times, .. } => {
            format!("the very same call of {name} was asked for in {times} steps in a row")
        }
    }
}

/// Why a turn ended, as a sentence.
pub(crate) fn end_in_words(end: &End) -> String {
    match end {
        End::Done => "done".to_string(),
        End::Interrupted => "interrupted".to_string(),
        End::Budget { limit } => format!("stopped at a limit: {limit}"),
        End::GoalUnmet { question } => format!("it asks you: {}", clean(question)),
        End::ContextFull { asked, limit } => format!(
            "stopped: the prompt needs {} tokens and the context holds {}; begin a new session with less text, or allow more with --context-tokens",
            count(*asked),
            count(*limit)
        ),
        End::Failed { error } => format!("failed: {}", clean(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_reached_for_is_told_with_the_decision() {
        // Who looks at a session sees where it has been, and where it wanted to go.
        let contacts: Vec<Contact> = serde_json::from_value(json!([
            {"host": "a.test", "port": 443, "address": "192.0.2.1", "way": "connect", "allowed": true, "rule": "a.test:443",
             "secret": true, "times": 3},
            {"host": "b.test", "port": 80, "way": "http", "allowed": false, "rule": "it is not on the allow-list", "times": 1},
        ]))
        .unwrap();
        assert_eq!(
            contacts_in_words(&contacts, 7),
            [
                "reached a.test:443 at 192.0.2.1, with a secret (3 times)",
                "kept from b.test:80: it is not on the allow-list",
                "and 7 more that are not told one by one",
            ]
        );
    }

    #[test]
    fn a_call_says_what_it_is_about() {
        let say = |name: &str, arguments: Value| {
            in_words(&Call { id: "1".into(), name: name.into(), arguments }, 30)
        };
        assert_eq!(
            say("exec", json!({"timeout": 3, "command": "cargo  test\n--all"})),
            "exec cargo test --all"
        );
        assert_eq!(say("edit", json!({"old": "a", "path": "src/a.py"})), "edit src/a.py");
        assert_eq!(say("odd", json!({"n": 3, "what": "thing"})), "odd thing");
        assert_eq!(say("odd", json!([])), "odd");
        assert_eq!(say("exec", json!({"command": "x".repeat(99)})).chars().count(), 30);
    }
}
