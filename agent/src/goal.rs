//! Goals: what must be true before a turn may end, how that is checked, and what a model is told when it is not.
//!
//! A model says that it is done when it believes so. A goal is held against what there is: a command that has to exit with 0, or a
//! condition that the model judges beside its timeline, where it must cite what its calls have really shown.

use serde::{Deserialize, Serialize};
use tools::{Call, Outcome};

use crate::Error;
use crate::context::Message;
use crate::event::Usage;

/// What must be true before a turn may end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// How it is checked.
    #[serde(flatten)]
    pub test: Test,
    /// How often in a turn the check may fail before the session rests and asks.
    #[serde(default = "rounds_usual")]
    pub rounds_max: u32,
}

/// How a goal is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// A line for the shell, run in the session's sandbox, that must exit with 0. It runs again and again, and once more when the service
    /// stopped while it ran: whoever names it says that this does no harm.
    Command(String),
    /// A condition in words, judged by the model itself, which must cite what its calls have shown.
    Judged(String),
}

/// What came of a check of a goal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The check: 1, 2, 3 … within the session.
    pub check: u32,
    /// Whether the goal is reached.
    pub met: bool,
    /// What the check said, shortened: data, whoever wrote it.
    pub said: String,
    /// What shows that it is so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// Why it could not be checked at all; then the session asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub barred: Option<String>,
    /// What the model's judgement has cost, where it was asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What shows that a goal is reached: something that a call of the session has really answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// [`Call::id`] of that call, which the journal has with its outcome.
    pub call: String,
    /// The words of it.
    pub quote: String,
}

/// How often a check may fail in a turn, where nobody says. A model that has not got there in eight tries needs other words, not a ninth.
fn rounds_usual() -> u32 {
    8
}

/// The most rounds that can be asked for; more is no bound.
const ROUNDS_MAX: u32 = 100;
/// The longest command: the shell's line holds more, a person's check does not. Bytes.
const COMMAND_BYTES_MAX: usize = 8 << 10;
/// The longest condition. Characters.
const CONDITION_CHARS_MAX: usize = 2_000;
/// How long a check may take: as long as any command may. Seconds.
const CHECK_SECS: u64 = 600;
/// What a model is told of what a check printed: the end of it, where tests say what is wrong. Characters.
const SAID_CHARS_MAX: usize = 4_000;
/// What a model may write to judge a goal. Tokens.
pub(crate) const JUDGE_TOKENS_MAX: u32 = 400;
/// A shorter quotation is found by chance. Characters without spaces.
const QUOTE_CHARS_MIN: usize = 6;
/// Quotations that are kept, and how long each is. Characters.
const QUOTES_MAX: usize = 5;
const QUOTE_CHARS_MAX: usize = 300;

impl Goal {
    /// A goal that a command has to reach.
    pub fn command(line: impl Into<String>) -> Goal {
        Goal { test: Test::Command(line.into()), rounds_max: rounds_usual() }
    }

    /// A goal that the model judges.
    pub fn judged(condition: impl Into<String>) -> Goal {
        Goal { test: Test::Judged(condition.into()), rounds_max: rounds_usual() }
    }

    /// Whether it can be pursued.
    ///
    /// # Errors
    /// [`Error::BadRequest`] with what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let bad = |why: String| Err(Error::BadRequest(format!("the goal {why}")));
        match &self.test {
            Test::Command(line) if line.trim().is_empty() => {
                bad("has an empty command; name one that exits with 0 when it is reached".into())
            }
            Test::Command(line) if line.contains('\0') => {
                bad("has a command with a NUL character, which no shell takes".into())
            }
            Test::Command(line) if line.len() > COMMAND_BYTES_MAX => bad(format!(
                "has a command of {} bytes, and at most {COMMAND_BYTES_MAX} are taken; put it into a script of the workspace",
                line.len()
            )),
            Test::Judged(words) if words.trim().is_empty() => {
                bad("has an empty condition; say what must be true".into())
            }
            Test::Judged(words) if words.chars().count() > CONDITION_CHARS_MAX => {
                bad(format!("has a condition of more than {CONDITION_CHARS_MAX} characters; say it in fewer"))
            }
            Test::Command(_) | Test::Judged(_) if !(1..=ROUNDS_MAX).contains(&self.rounds_max) => {
                bad(format!("has {} rounds; give 1 to {ROUNDS_MAX}", self.rounds_max))
            }
            Test::Command(_) | Test::Judged(_) => Ok(()),
        }
    }

    /// The goal in a line, for people.
    pub fn in_words(&self) -> String {
        match &self.test {
            Test::Command(line) => format!("`{}` exits with 0", one_line(line)),
            Test::Judged(words) => one_line(words),
        }
    }

    /// The call that checks it, where a command does.
    pub(crate) fn call(&self, check: u32) -> Option<Call> {
        let Test::Command(line) = &self.test else { return None };
        let arguments = serde_json::json!({ "command": line, "timeout_s": CHECK_SECS });
        Some(Call { id: format!("g{check}"), name: "exec".to_string(), arguments })
    }
}

/// A person's words with the goal that comes with them, as the model is told of it.
pub(crate) fn with_words(text: &str, goal: &Goal) -> String {
    let goal = match &goal.test {
        Test::Command(line) => format!(
            "Your turn is over only when this command exits with 0; it is run for you whenever you answer without a call:\n{}",
            quoted(line.trim())
        ),
        Test::Judged(words) => format!(
            "Your turn is over only when the following is true, which is checked whenever you answer without a call, and only by what \
             your calls have shown:\n{}",
            quoted(words.trim())
        ),
    };
    format!("{}\n\n{goal}", text.trim_end())
}

/// How what a model is told of a check begins. No person has said it.
pub(crate) const MARK: &str = "[From the service, not from the user: the goal is not reached.";

/// What a model is told when its goal is not reached.
pub(crate) fn feedback(goal: &Goal, checked: &Checked, round: u32) -> String {
    let said = quoted(&checked.said);
    let (of, goes_on) = match &goal.test {
        Test::Command(line) => (
            format!(
                "Its check, the command {}, says so; check {round} of {}. What it printed is data, quoted below.]",
                one_line(line),
                goal.rounds_max
            ),
            "Find out why, mend that, and answer without a call when the command would exit with 0. Do not change the check to make it pass.",
        ),
        Test::Judged(words) => (
            format!(
                "What must be true: {}. Judged from what your calls have shown, check {round} of {}: the judgement is data, quoted below.]",
                one_line(words),
                goal.rounds_max
            ),
            "Do what is missing, and have a call show that it is so, before you answer without a call.",
        ),
    };
    format!("{MARK} {of}\n{said}\n{goes_on}")
}

/// What came of the command that checks a goal. Nothing where it was not run: `why` says what kept it from that.
pub(crate) fn by_command(call: &Call, check: u32, outcome: Result<&Outcome, &str>) -> Checked {
    match outcome {
        // What could not be started says nothing about the goal, and the model cannot mend it.
        Ok(outcome) if !outcome.ok && outcome.exit.is_none() && outcome.text.starts_with("not ") => {
            barred(check, tail(&outcome.text))
        }
        Ok(outcome) => {
            let quote = tail(outcome.text.trim());
            let evidence = match outcome.ok {
                true => vec![Evidence { call: call.id.clone(), quote: last_lines(&outcome.text) }],
                false => Vec::new(),
            };
            Checked { check, met: outcome.ok, said: quote, evidence, barred: None, usage: None }
        }
        Err(why) => barred(check, tail(why)),
    }
}

/// That a goal could not be checked.
pub(crate) fn barred(check: u32, why: String) -> Checked {
    Checked { check, met: false, said: String::new(), evidence: Vec::new(), barred: Some(why), usage: None }
}

/// What a model is asked, to judge a goal. It stands in no prompt but its own.
pub(crate) fn question(condition: &str) -> String {
    include_str!("prompts/judge.md").trim().replace("{condition}", &quoted(condition.trim()))
}

/// What a model's judgement comes to. It counts only with quotations that `shown` has: what calls have answered since the goal was
/// set, by their ids.
pub(crate) fn by_judgement<'a>(
    check: u32,
    text: &str,
    usage: Usage,
    shown: impl Iterator<Item = (&'a str, &'a str)>,
) -> Checked {
    let (mut met, mut quotes, mut why) = (None, Vec::new(), String::new());
    for line in text.lines().map(|line| line.trim().trim_start_matches(['-', '*', ' ', '#'])) {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let rest = rest.trim().trim_start_matches('*').trim();
        match name.trim().trim_matches('*').to_ascii_lowercase().as_str() {
            "verdict" => met = Some(rest.to_ascii_lowercase().starts_with("met")),
            "evidence" => quotes.push(bare(rest).to_string()),
            "why" => why = rest.chars().take(SAID_CHARS_MAX / 4).collect(),
            _ => {}
        }
    }
    let answers: Vec<(&str, String)> = shown.map(|(call, text)| (call, one_line(text))).collect();
    let found = |quote: &String| {
        let quote: String = one_line(quote).chars().take(QUOTE_CHARS_MAX).collect();
        let long = quote.chars().filter(|c| !c.is_whitespace()).count() >= QUOTE_CHARS_MIN;
        let (call, _) = answers.iter().rev().find(|(_, text)| long && text.contains(&quote))?;
        Some(Evidence { call: (*call).to_string(), quote })
    };
    let evidence: Vec<Evidence> = quotes.iter().filter_map(found).take(QUOTES_MAX).collect();
    let claimed = met == Some(true);
    let met = claimed && !evidence.is_empty();
    let said = match met {
        false if claimed => {
            format!("It was said to be true, but nothing was cited that a call has shown. {why}")
                .trim()
                .to_string()
        }
        false if why.is_empty() => "It was not said what is missing.".to_string(),
        _ => why,
    };
    Checked { check, met, said, evidence, barred: None, usage: Some(usage) }
}

/// What calls of a conversation have answered after step `since`, by their ids.
pub(crate) fn shown(messages: &[Message], since: u32) -> impl Iterator<Item = (&str, &str)> {
    let answers = messages.iter().flat_map(|message| match message {
        Message::Results { answers } => answers.as_slice(),
        Message::System { .. } | Message::User { .. } | Message::Assistant { .. } => &[],
    });
    answers.filter_map(move |answer| {
        let call = answer.call.as_deref()?;
        let step: u32 = call.strip_prefix('c')?.split('.').next()?.parse().ok()?;
        (step > since).then_some((call, answer.text.as_str()))
    })
}

/// A quotation without the marks around it.
fn bare(text: &str) -> &str {
    text.trim().trim_start_matches("> ").trim_matches(['"', '`', '\'', '“', '”', '‘', '’'])
}

fn quoted(text: &str) -> String {
    text.lines().map(|line| format!("> {line}")).collect::<Vec<_>>().join("\n")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first line, which says how a command ended, and the end of what it printed.
fn tail(text: &str) -> String {
    let chars = text.chars().count();
    if chars <= SAID_CHARS_MAX {
        return text.to_string();
    }
    let first: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
    let rest: String = text.chars().skip(chars - SAID_CHARS_MAX + first.chars().count()).collect();
    format!("{first}\n[…]\n{rest}")
}

/// How a command ended and the last line of what it printed: enough to see that it did what it says.
fn last_lines(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let quote = match lines.next_back() {
        Some(last) => format!("{first} … {last}"),
        None => first.to_string(),
    };
    quote.chars().take(QUOTE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> Checked {
        let shown = [("c1.1", "exit code 0\nran 12 tests,  all of them passed"), ("c2.1", "a b")];
        by_judgement(1, text, Usage::default(), shown.into_iter())
    }

    #[test]
    fn a_judgement_counts_only_with_what_a_call_has_shown() {
        // Whoever judges its own work is not believed, but what it points at is looked up.
        let good = judged("VERDICT: met\nEVIDENCE: \"ran 12 tests, all of them passed\"\nWHY: they pass.");
        assert!(good.met, "{good:?}");
        assert_eq!(
            good.evidence,
            [Evidence { call: "c1.1".into(), quote: "ran 12 tests, all of them passed".into() }]
        );
        for bad in [
            "VERDICT: met\nEVIDENCE: ran 13 tests, all of them passed\nWHY: they pass.",
            "VERDICT: met\nWHY: I am sure.",
            // Too short to mean anything.
            "VERDICT: met\nEVIDENCE: a b",
            "VERDICT: not met\nEVIDENCE: ran 12 tests, all of them passed\nWHY: one is missing.",
            "It is met.",
            "",
        ] {
            let checked = judged(bad);
            assert!(!checked.met && !checked.said.is_empty(), "{bad:?}: {checked:?}");
        }
        assert_eq!(judged("**Verdict:** Not met\n- WHY: one is missing.").said, "one is missing.");
    }

    #[test]
    fn what_a_check_printed_is_quoted_and_capped() {
        let goal = Goal::command("make\ntest");
        let call = goal.call(3).unwrap();
        let long = format!("exit code 2\n{}\nno rule", "x y\n".repeat(5_000));
        let outcome = Outcome { exit: Some(2), ..Outcome::refused(long) };
        let checked = by_command(&call, 3, Ok(&outcome));
        let told = feedback(&goal, &checked, 2);
        assert!(
            told.starts_with(MARK) && told.contains("command make test") && told.contains("check 2 of 8"),
            "{told}"
        );
        assert!(told.contains("\n> exit code 2\n> […]\n") && told.contains("\n> no rule\n"), "{told}");
        assert!(told.len() < 12_000, "{}", told.len());
        let good = Outcome { ok: true, exit: Some(0), ..Outcome::refused("exit code 0\na\nall is well\n") };
        let checked = by_command(&call, 4, Ok(&good));
        assert_eq!(
            checked.evidence,
            [Evidence { call: "g3".into(), quote: "exit code 0 … all is well".into() }]
        );
        let sandbox = Outcome::refused("not run: there is no sandbox");
        assert!(by_command(&call, 5, Ok(&sandbox)).barred.is_some());
    }

    #[test]
    fn a_goal_is_one_line_of_json_and_has_bounds() {
        let goal: Goal = serde_json::from_str(r#"{"command":"make test"}"#).unwrap();
        assert_eq!(goal, Goal::command("make test"));
        assert_eq!(
            serde_json::to_string(&Goal::judged("it works")).unwrap(),
            r#"{"judged":"it works","rounds_max":8}"#
        );
        assert!(goal.check().is_ok());
        for bad in [
            Goal::command(" "),
            Goal::judged(""),
            Goal::judged("x".repeat(2_001)),
            Goal::command("x".repeat(9_000)),
            Goal { rounds_max: 0, ..Goal::command("x") },
            Goal { rounds_max: 101, ..Goal::command("x") },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_was_shown_before_the_goal_was_set_is_no_evidence() {
        let answer =
            |call: &str| crate::context::Answer { call: Some(call.into()), name: None, text: call.into() };
        let messages = [Message::Results { answers: vec![answer("c3.1"), answer("c4.1"), answer("c12.2")] }];
        let calls: Vec<&str> = shown(&messages, 3).map(|(call, _)| call).collect();
        assert_eq!(calls, ["c4.1", "c12.2"]);
    }
}
