//! What happened in a session, event by event.

use agent::{Event, Recorded};

use super::short;
use crate::show::{
    checked_in_words, compacted_in_words, contacts_in_words, end_in_words, equipment_in_words,
    imported_in_words, in_words, loop_in_words, merged_in_words, numbers, returned_in_words,
};
use crate::term::one_line;

/// One event as one line.
pub(super) fn line(recorded: &Recorded) -> String {
    let seq = recorded.seq.0;
    let said = match &recorded.event {
        Event::Created(created) => format!("made for {} with {}", created.workspace.display(), created.model),
        Event::Input { text, .. } => format!("› {text}"),
        Event::GoalSet { goal, .. } => format!("goal: {}", goal.in_words()),
        Event::Enclosed { origin, text, .. } => format!("with it, from {origin}: {text}"),
        Event::GoalDropped => "the goal was taken back".to_string(),
        Event::GoalChecking { check, .. } => format!("check {check} of the goal"),
        Event::GoalChecked(checked) => checked_in_words(checked),
        Event::TurnStarted { turn } => format!("turn {turn}"),
        Event::Recalled { trouble: Some(trouble), .. } => format!("nothing could be recalled: {trouble}"),
        Event::Recalled { notes, .. } if notes.is_empty() => "nothing remembered bears on it".to_string(),
        Event::Recalled { notes, .. } => format!("recalled {}", numbers(notes.iter().map(|note| note.id))),
        Event::StepStarted { step } => format!("step {step}"),
        Event::CallDenied { id, why } => format!("call {id} was not run: {why}"),
        Event::ApprovalAsked { id, why, .. } => format!("call {id} waits for your approval: {why}"),
        Event::ApprovalGiven { id, allowed, always, by } => {
            let how = match (allowed, always) {
                (true, true) => "approved, and others like it",
                (true, false) => "approved",
                (false, _) => "not approved",
            };
            let by = by.as_ref().map_or(" in time".to_string(), |by| format!(" by {by}"));
            format!("call {id} was {how}{by}")
        }
        Event::Reply { text, calls, usage, .. } => {
            let calls: Vec<String> = calls.iter().map(|call| format!("[{}]", in_words(call, 80))).collect();
            format!("{} {} ({} tokens)", text.trim(), calls.join(" "), usage.output_tokens)
        }
        Event::CallStarted { id, .. } => format!("call {id} started"),
        Event::CallFinished { id, outcome, .. } => format!("call {id}: {}", outcome.summary),
        Event::ChildStarted(child) => format!("sub-agent {} begins: {}", child.child, child.task),
        Event::ChildEnded(returned) => returned_in_words(returned),
        Event::ChildMerged { child, merged } => merged_in_words(child, merged),
        Event::Egress { contacts, more, .. } => contacts_in_words(contacts, *more).join("; "),
        Event::CallLost { id } => format!("call {id}: outcome unknown, the service stopped while it ran"),
        Event::Undone { note, kept } if kept.is_empty() => format!("undone: {note}"),
        Event::Undone { kept, .. } => format!("not undone: somebody changed {} meanwhile", kept.join(", ")),
        Event::Checkpoint { tree: Some(tree), .. } => format!("checkpoint {}", short(tree)),
        Event::Checkpoint { trouble: Some(trouble), .. } => format!("the workspace was not kept: {trouble}"),
        Event::Checkpoint { .. } => "the workspace was not kept".to_string(),
        Event::Rewound { to, .. } => format!("wound back to {}", to.0),
        Event::Budgeted { .. } => "has other limits from here on".to_string(),
        Event::Guided { guides, .. } => {
            let paths: Vec<&str> = guides.iter().map(|guide| guide.path.as_str()).collect();
            format!("told what {} says", paths.join(", "))
        }
        Event::Imported { from, masked } => imported_in_words(from, *masked),
        Event::Forked { from, at } => format!("goes on from {} of session {from}", at.0),
        Event::Running { commands } => {
            let told: Vec<String> =
                commands.iter().map(|command| format!("{} ({})", command.id, command.command)).collect();
            format!("goes on in the background: {}", told.join(", "))
        }
        Event::Exited { exit } => {
            let how = exit.text.lines().next().unwrap_or_default();
            format!("{} ended in the background: {} … {how}", exit.id, exit.command)
        }
        Event::Full { asked, limit } => {
            format!("no room: the prompt needs {asked} tokens, the context holds {limit}")
        }
        Event::CompactionAsked { focus: Some(focus) } => {
            format!("room is to be made, keeping most of all: {focus}")
        }
        Event::CompactionAsked { .. } => "room is to be made".to_string(),
        Event::Compacted { messages, before_tokens, after_tokens, .. } => {
            compacted_in_words(*messages, *before_tokens, *after_tokens)
        }
        Event::NotCompacted { why } => format!("no room was made: {why}"),
        Event::Uncompacted => "the model is shown again what was left out last".to_string(),
        Event::Equipped { servers } => {
            servers.iter().map(|server| equipment_in_words(server, 200)).collect::<Vec<_>>().join("; ")
        }
        Event::Looping { what, .. } => loop_in_words(what, 200),
        Event::Interrupted => "interrupted".to_string(),
        Event::TurnEnded { turn, end } => format!("turn {turn} ended: {}", end_in_words(end)),
        Event::Learned { notes, .. } if notes.is_empty() => "learned nothing new".to_string(),
        Event::Learned { notes, .. } => format!("learned {}", numbers(notes.iter().copied())),
        Event::Reflected { notes, .. } if notes.is_empty() => "saw nothing more to learn".to_string(),
        Event::Reflected { notes, .. } => format!("concluded {}", numbers(notes.iter().copied())),
    };
    // Wide enough for most of what is said; `--json` has all of it.
    format!("{seq:>5}  {}", one_line(&said, 400))
}
