//! What of a person's words holds beyond the work that they ask for: found by how a sentence begins.

use memory::Kind;

use crate::learn::{SAYINGS_MAX, quoted, sentences, sort};

/// The longest sentence that is a rule and no tale. Characters.
const SENTENCE_CHARS_MAX: usize = 300;

/// Something a person said that holds from now on.
#[derive(Debug, PartialEq)]
pub(crate) struct Saying {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) about: Option<String>,
    /// Wherever they work, not only in this repository.
    pub(crate) everywhere: bool,
}

/// Begins of sentences, between bars, that lay down what is to be done from now on …
const RULES: &str = "always |never |from now on|in future|in the future|going forward|make sure to always|remember to \
    |don't ever |do not ever |immer |niemals |ab jetzt|in zukunft|künftig|从现在起|从现在开始|以后|总是|永远不要|请始终|每次都";
/// … or how it is done here …
const CUSTOMS: &str = "we always |we never |we use |we don't |we do not |our convention|in this repo|in this project\
    |in this codebase|the convention here|in unserem |in diesem projekt|我们使用|我们总是|这个项目";
/// … or how they like it …
const LIKINGS: &str = "i prefer |i'd prefer |i would prefer |i like |i don't like |i'd rather |ich bevorzuge |ich mag |我喜欢|我更喜欢";
/// … or what is to be kept in mind.
const FACTS: &str =
    "remember that |remember: |remember the |note that |keep in mind that |merk dir |merke dir |记住|请记住";
/// Words that may stand before them.
const OPENINGS: &str = "please |also |and |but |so |oh, |oh |ok, |no, |bitte ";

/// What of a text holds beyond the work that it asks for. What stands in code or behind a question mark lays nothing down.
pub(crate) fn sayings(text: &str) -> Vec<Saying> {
    let mut fenced = false;
    let mut found: Vec<Saying> = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced || line.trim_start().starts_with('>') {
            continue;
        }
        for sentence in sentences(line) {
            let Some(saying) = saying(sentence) else { continue };
            if found.len() < SAYINGS_MAX && !found.contains(&saying) {
                found.push(saying);
            }
        }
    }
    found
}

fn saying(sentence: &str) -> Option<Saying> {
    let sentence = sentence.trim().trim_start_matches(['-', '*', '•']).trim();
    let length = sentence.chars().count();
    if sentence.ends_with(['?', '？']) || !(6..=SENTENCE_CHARS_MAX).contains(&length) {
        return None;
    }
    let mut lower = sentence.to_lowercase().replace('’', "'");
    while let Some(rest) = OPENINGS.split('|').find_map(|opening| lower.strip_prefix(opening)) {
        lower = rest.to_string();
    }
    let begins = |starts: &str| starts.split('|').any(|start| lower.starts_with(start));
    let made = |kind, everywhere| Some(Saying { kind, text: sentence.to_string(), about: None, everywhere });
    // A command that somebody names for a purpose is the answer to how that is done.
    let named = quoted(sentence).into_iter().find_map(|command| sort(command).map(|sort| (sort, command)));
    if let Some((sort, _)) = named
        && sort.words.iter().any(|word| lower.contains(word))
    {
        let about = Some(sort.about.to_string());
        return Some(Saying { kind: Kind::Procedure, text: sentence.to_string(), about, everywhere: false });
    }
    if begins(RULES) {
        made(Kind::Instruction, false)
    } else if begins(LIKINGS) {
        made(Kind::Preference, true)
    } else if begins(CUSTOMS) || lower.starts_with("use ") && lower.contains(" instead of ") {
        made(Kind::Convention, false)
    } else if begins(FACTS) {
        made(Kind::Fact, false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[test]
    fn what_people_lay_down_is_kept_and_what_they_ask_for_is_not() {
        let check = |text: &str, expect: Expect| {
            let line = |saying: &Saying| {
                format!(
                    "{:?}{}: {}\n",
                    saying.kind,
                    if saying.everywhere { " everywhere" } else { "" },
                    saying.text
                )
            };
            expect.assert_eq(&sayings(text).iter().map(line).collect::<String>());
        };
        check(
            "Add a flag. Please always run clippy before you finish. The tests never pass on CI. Could we always do that?\n\
             - I prefer short names.\n- we use tabs here\n> always eat\n```\nnever do this\n```\nRemember that port 7 is taken.\n\
             Run the tests with `just test`. Use ureq instead of reqwest.",
            expect![[r#"
                Instruction: Please always run clippy before you finish.
                Preference everywhere: I prefer short names.
                Convention: we use tabs here
                Fact: Remember that port 7 is taken.
                Procedure: Run the tests with `just test`.
                Convention: Use ureq instead of reqwest.
            "#]],
        );
        check(
            "以后请用中文回答。修好测试。",
            expect![[r#"
            Instruction: 以后请用中文回答。
        "#]],
        );
        check(
            "Immer erst die Tests laufen lassen! Behebe den Fehler.",
            expect![[r#"
            Instruction: Immer erst die Tests laufen lassen!
        "#]],
        );
    }
}
