//! What people's words say of the work itself: files they name, commands they write out, tests they want changed.

use std::path::Path;

use tools::outline::Language;

/// Whether a file is a test that nobody asked to be changed: a small model makes a failing test pass by changing what
/// it expects.
pub(super) fn untouchable(asked: &str, path: &str) -> bool {
    let path = path.to_lowercase();
    let name = path.rsplit('/').next().unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    let named =
        stem.starts_with("test_") || stem.ends_with("_test") || stem.ends_with("_tests") || stem == "tests";
    let spec = [".test.", ".spec."].iter().any(|part| name.contains(part));
    let inside = ["tests/", "test/", "__tests__/", "spec/"]
        .iter()
        .any(|folder| path.starts_with(folder) || path.contains(&format!("/{folder}")));
    (named || spec || inside) && !to_change(asked, name)
}

/// Whether somebody asked for a change of a file with this name, in lower case. Saying where the tests are is no such
/// wish, nor is saying that they stay as they are.
fn to_change(asked: &str, name: &str) -> bool {
    const CHANGING: [&str; 17] = [
        "add", "change", "correct", "edit", "extend", "fix", "mend", "modify", "move", "refactor", "remove",
        "rename", "repair", "rewrite", "update", "write", "wrong",
    ];
    asked.split(['\n', ';', '!', '?']).flat_map(|line| line.split(". ")).any(|clause| {
        let Some(at) = clause.find(name) else { return false };
        let around = [&clause[..at], &clause[at + name.len()..]].concat();
        // Only English is read so closely.
        let words =
            || around.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty());
        !around.is_ascii() || words().any(|word| CHANGING.contains(&word)) && !denies(&around)
    })
}

/// Whether a clause in lower case says that something is not to be.
fn denies(clause: &str) -> bool {
    let mut words = clause.split(|c: char| !c.is_alphanumeric() && c != '\'');
    words.any(|word| ["not", "never", "without"].contains(&word) || word.ends_with("n't"))
}

/// The names of files in a text of people.
pub(super) fn file_names(text: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    text.split(move |c| !part(c)).map(|word| word.trim_end_matches('.').trim_start_matches("./")).filter(
        |word| {
            let Some((stem, ending)) = word.rsplit_once('.') else { return false };
            // A name and an ending of letters: no number, no "e.g", no address of a site.
            !stem.is_empty()
                && !stem.starts_with(['/', '.'])
                && !word.contains("..")
                && (1..=5).contains(&ending.len())
                && ending.starts_with(|c: char| c.is_ascii_lowercase())
                && ending.chars().all(|c| c.is_ascii_alphanumeric())
                && Language::of(Path::new(word)).is_some()
        },
    )
}

/// Commands in a text of people that check a project, by what they are called.
pub(super) fn commands(text: &str) -> impl Iterator<Item = &str> {
    const RUNNERS: [&str; 24] = [
        "bun", "cargo", "ctest", "deno", "dotnet", "go", "gradle", "jest", "just", "make", "mvn", "node",
        "npm", "npx", "nox", "pnpm", "pytest", "python", "python3", "rake", "tox", "uv", "vitest", "yarn",
    ];
    let parts: Vec<&str> = text.split('`').collect();
    let quoted = parts.chunks_exact(2).map(|pair| (pair[0], pair[1].trim())).filter(|(before, quoted)| {
        let mut words = quoted.split(' ');
        let runner = words.next().is_some_and(|first| RUNNERS.contains(&first) || first.starts_with("./"));
        let checks = ["test", "check", "spec", "nox", "tox"].iter().any(|word| quoted.contains(word));
        let clause = before.rsplit(['.', ';', '\n', '!']).next().unwrap_or_default().to_lowercase();
        runner && checks && !quoted.contains('\n') && !denies(&clause)
    });
    quoted.map(|(_, command)| command).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_changed_only_if_somebody_asks_for_that() {
        for (asked, may) in [
            ("The tests are in test_a.py. Fix the code.", false),
            ("Make test_a.py pass, and do not change test_a.py.", false),
            ("Don't edit test_a.py!", false),
            ("Add a case to tests/test_a.py.", true),
            ("Fix a.py and test_a.py.", true),
            ("test_a.py 有错，请修改", true),
        ] {
            assert_eq!(!untouchable(&asked.to_lowercase(), "tests/test_a.py"), may, "{asked}");
        }
        let names: Vec<&str> = file_names(
            "See src/a.py, ./b.rs and c.tsx. Not e.g. this, 3.5, /etc/x.py or ../d.py; www.site.org is none.",
        )
        .collect();
        assert_eq!(names, ["src/a.py", "b.rs", "c.tsx"]);
    }

    #[test]
    fn a_command_that_is_written_out_checks_unless_it_is_denied() {
        let text = "Run `cargo test -p a` and `./check.sh`. Don't run `npm test`; never `make check`. `cargo run`, `ls tests`.";
        assert_eq!(commands(text).collect::<Vec<_>>(), ["cargo test -p a", "./check.sh"]);
        assert_eq!(commands("an open ` mark `pytest").count(), 0);
    }
}
