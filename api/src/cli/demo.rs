//! `saga demo`: watch it find and fix a bug in a small sample project.
//!
//! Nothing here knows the fix: a case is a project with a failing test, and the words said to the session are the same
//! for every case. Whether it is fixed is judged by the project's own tests, run here, with the test files as they were.

use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tools::{Command, Ended, Policy, Sandbox};

use super::follow::{Followed, Follower, usage_line};
use super::reach::Reached;
use crate::config::{Config, Folders, Overrides};
use crate::diff::Snapshot;
use crate::failure::{EXIT_INTERRUPTED, EXIT_NO, Failure};
use crate::models;
use crate::server::make_folder;
use crate::term::{Ink, Screen, To, clean, say};
use crate::wire;

const EXAMPLES: &str = "\
Examples:
  saga demo
  saga demo --case 2
  saga demo --json | tail -1 | jq .outcome

The sample project is kept, so that you can look at it. Exit code 0: fixed; 3: not fixed.";

/// What is asked of every case.
const TASK: &str =
    "The tests of this project fail. Find the bug, fix it, and run the tests again until they pass.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Which sample project.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3), value_name = "N")]
    case: u8,
    /// Print the figures as one JSON object in the last line.
    #[arg(long)]
    json: bool,
    /// Keep the session's journal beside the sample project.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    overrides: Overrides,
}

/// A sample project.
struct Case {
    about: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// The file whose tests judge, restored before they do.
    test: (&'static str, &'static str),
    /// What is run, and what its README says.
    command: &'static str,
}

/// What Python leaves behind when it runs.
const GITIGNORE: (&str, &str) = (".gitignore", "__pycache__/\n");

const CASES: [Case; 3] = [
    Case {
        about: "pages of a long list",
        files: &[
            ("pages.py", include_str!("../../demo/case1/pages.py")),
            ("README.md", include_str!("../../demo/case1/README.md")),
            GITIGNORE,
        ],
        test: ("test_pages.py", include_str!("../../demo/case1/test_pages.py")),
        command: "python3 -m unittest test_pages",
    },
    Case {
        about: "what a shop asks for sending",
        files: &[
            ("shipping.py", include_str!("../../demo/case2/shipping.py")),
            ("README.md", include_str!("../../demo/case2/README.md")),
            GITIGNORE,
        ],
        test: ("test_shipping.py", include_str!("../../demo/case2/test_shipping.py")),
        command: "python3 -m unittest test_shipping",
    },
    Case {
        about: "counting words",
        files: &[
            ("words.py", include_str!("../../demo/case3/words.py")),
            ("README.md", include_str!("../../demo/case3/README.md")),
            GITIGNORE,
        ],
        test: ("test_words.py", include_str!("../../demo/case3/test_words.py")),
        command: "python3 -m unittest test_words",
    },
];

/// The last line of `--json`.
#[derive(Serialize)]
struct Figures {
    outcome: &'static str,
    tests_before: Before,
    tests_after: After,
    steps: u32,
    tool_calls: u32,
    tool_errors: u32,
    prompt_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Before {
    failed: u32,
}

#[derive(Serialize)]
struct After {
    failed: u32,
    passed: u32,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, mut config) = super::settings()?;
    args.overrides.apply(&mut config)?;
    // Nobody goes on with its session.
    config.snapshot_bytes = 0;
    config.checkpoint_bytes = 0;
    let screen = Screen::new(if args.json { To::Stderr } else { To::Stdout });
    let case = &CASES[usize::from(args.case) - 1];
    let dim = |text: &str| screen.line(&screen.ink(Ink::Dim, text));

    let place = fresh_folder(&folders, "demo")?;
    let sample = place.join(format!("case{}", args.case));
    case.write(&sample)?;
    dim(&format!("sample project: {} ({})", sample.display(), case.about));

    let judge = Judge::open(&config, &sample).await?;
    let before = judge.run(case).await?;
    if before.failed == 0 {
        return Err(Failure::new("the sample project's tests pass before anything was done")
            .next("report this: the demo has nothing to show"));
    }
    dim(&format!("$ {} → {} of {} tests fail", case.command, before.failed, before.total()));

    models::ensure(&config.model, &folders, &screen).await?;
    let memory = place.join("memory");
    let reached = Reached::start(&config, &folders, &memory, vec![sample.clone()], &screen).await?;
    let worked = work(&reached, &sample, args.json, &screen).await;
    reached.leave().await;
    let Worked { session, followed, wall, changes } = worked?;
    if !args.keep {
        // Only figures of a run that is over; what cannot be removed is no harm.
        let _ = std::fs::remove_dir_all(&memory);
    }
    if followed == Followed::Left {
        screen.line(&format!("left; the sample project is in {}", sample.display()));
        return Ok(EXIT_INTERRUPTED);
    }

    // The verdict is the original tests': a test that was bent to pass proves nothing.
    let restored = case.restore_test(&sample)?;
    let after = judge.run(case).await?;
    let fixed = after.failed == 0 && after.passed >= before.total();
    let figures = Figures {
        outcome: if fixed { "fixed" } else { "not_fixed" },
        tests_before: Before { failed: before.failed },
        tests_after: After { failed: after.failed, passed: after.passed },
        steps: session.steps,
        tool_calls: session.tool_calls,
        tool_errors: session.tool_errors,
        prompt_tokens: session.usage.prompt_tokens,
        cached_tokens: session.usage.cached_tokens,
        output_tokens: session.usage.output_tokens,
        seconds: (wall.as_secs_f64() * 100.0).round() / 100.0,
    };

    screen.line("");
    changes.show(&screen);
    if restored {
        dim("(the test file had been changed; it was put back before the tests were run again)");
    }
    screen.line("");
    screen.line(&format!("$ {}", case.command));
    screen.line(clean(after.output.trim()).as_str());
    let verdict = if fixed {
        screen.ink(Ink::Good, &format!("fixed: all {} tests pass", after.passed))
    } else {
        screen.ink(Ink::Bad, &format!("not fixed: {} of {} tests fail", after.failed, after.total()))
    };
    screen.line(&format!("{verdict} · {}", changes.summary()));
    dim(&usage_line(
        &wire::Session {
            steps: 0,
            tool_calls: 0,
            tool_errors: 0,
            usage: wire::Usage::default(),
            ..session.clone()
        },
        &session,
        wall,
    ));
    screen.line("");
    screen.line(&format!("The sample project is in {}", sample.display()));
    screen.line("Go on with your own:");
    screen.line("  saga run --repo DIR \"what is to be done\"    a task in a folder of yours");
    screen.line("  saga up --root DIR                         the same as an HTTP service");
    if args.json {
        say(&serde_json::to_string(&figures).expect("figures have only string keys and finite numbers"));
    }
    Ok(if fixed { 0 } else { EXIT_NO })
}

/// What came of the session.
struct Worked {
    session: wire::Session,
    followed: Followed,
    wall: Duration,
    changes: crate::diff::Changes,
}

/// Runs the session through the HTTP API.
async fn work(reached: &Reached, sample: &Path, json: bool, screen: &Screen) -> Result<Worked, Failure> {
    let client = &reached.client;
    let before = Snapshot::take(sample);
    // What one case teaches must not help the next.
    let memory = Some(false);
    let new = wire::NewSession { workspace: sample.to_path_buf(), memory, ..wire::NewSession::default() };
    let session = reached.create(&new, screen).await?;
    let mut follower = Follower::new(client, &session.id, screen, json, true)?;
    let started = Instant::now();
    let asked = follower.say(TASK, None).await?;
    let followed = follower.follow(asked - 1, asked).await?;
    let wall = started.elapsed();
    let session = client.session(&session.id).await?;
    Ok(Worked { session, followed, wall, changes: before.changes() })
}

impl Case {
    fn write(&self, dir: &Path) -> Result<(), Failure> {
        make_folder(dir)?;
        for (name, text) in self.files.iter().chain([&self.test]) {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|error| Failure::unwritable(&path, &error))?;
        }
        git_init(dir);
        Ok(())
    }

    /// Puts the tests back as they were; whether they had been changed.
    fn restore_test(&self, dir: &Path) -> Result<bool, Failure> {
        let (name, text) = self.test;
        let path = dir.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|now| now == text) {
            return Ok(false);
        }
        // A link in its place would be written through.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, text).map_err(|error| Failure::unwritable(&path, &error))?;
        Ok(true)
    }
}

/// A new folder for this run.
pub(super) fn fresh_folder(folders: &Folders, of: &str) -> Result<PathBuf, Failure> {
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
    let demos = folders.data.join(of);
    make_folder(&demos)?;
    // Runs that begin in the same second get numbers.
    for n in 0..100 {
        let name = if n == 0 { secs.to_string() } else { format!("{secs}-{n}") };
        let dir = demos.join(name);
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir.canonicalize().unwrap_or(dir)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::unwritable(&dir, &error)),
        }
    }
    Err(Failure::new(format!("no free name under {}", demos.display())).next("remove old runs there"))
}

/// Makes the sample a git repository if there is a git, as projects are. Nobody's own settings, hooks or templates take
/// part; without git the sample is a plain folder.
pub(super) fn git_init(dir: &Path) {
    let git = |args: &[&str]| {
        Process::new("git")
            .args([
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "user.name=saga",
                "-c",
                "user.email=saga@localhost",
            ])
            .args(["-c", "commit.gpgsign=false", "-c", "init.templateDir=", "-c", "init.defaultBranch=main"])
            .args(args)
            .current_dir(dir)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CEILING_DIRECTORIES", dir)
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let _ = git(&["init", "--quiet"])
        && git(&["add", "."])
        && git(&["commit", "--quiet", "-m", "A sample project"]);
}

/// Runs the tests of a sample, in a sandbox of its own.
struct Judge(Sandbox);

/// What a run of the tests came to.
struct Verdict {
    failed: u32,
    passed: u32,
    output: String,
}

impl Verdict {
    fn total(&self) -> u32 {
        self.failed + self.passed
    }
}

/// How long the tests of a sample may take: they need a tenth of a second.
const TESTS: Duration = Duration::from_secs(60);

impl Judge {
    async fn open(config: &Config, sample: &Path) -> Result<Judge, Failure> {
        let policy = Policy {
            env: vec![("PYTHONDONTWRITEBYTECODE".to_string(), "1".to_string())],
            ..config.sandbox.policy(sample)
        };
        let judge = Judge(Sandbox::open(policy).await?);
        let probe = judge.0.run(Command::new(["python3", "-c", "import unittest"])).await?;
        match probe.ended {
            Ended::Exited(0) => Ok(judge),
            _ => Err(Failure::new(
                "the samples are Python projects, and python3 with its unittest cannot be run here",
            )
            .next("install python3 (apt install python3)")),
        }
    }

    async fn run(&self, case: &Case) -> Result<Verdict, Failure> {
        let command = Command { timeout: Some(TESTS), ..Command::new(case.command.split(' ')) };
        let ran = self.0.run(command).await?;
        let verdict = match ran.ended {
            Ended::Exited(_) => verdict(&ran.output),
            // Tests that hang or flood have not passed.
            _ => None,
        };
        let (failed, passed) = verdict.unwrap_or((1, 0));
        Ok(Verdict { failed, passed, output: ran.output })
    }
}

/// What unittest's last lines say: tests that failed, and tests that passed.
fn verdict(output: &str) -> Option<(u32, u32)> {
    let ran = output
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse::<u32>().ok())?;
    let last = output.lines().rev().find(|line| !line.trim().is_empty())?;
    let told = |word: &str| -> u32 {
        let counts = last.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
        counts
            .split(", ")
            .find_map(|part| part.strip_prefix(word)?.strip_prefix('=')?.parse().ok())
            .unwrap_or(0)
    };
    let failed = told("failures") + told("errors") + told("unexpected successes");
    let passed = ran.saturating_sub(failed + told("skipped") + told("expected failures"));
    if last.starts_with("OK") {
        Some((failed, passed))
    } else if last.starts_with("FAILED") {
        // A module that cannot be imported counts as one error of one test.
        Some((failed.max(1), passed))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_read_from_what_unittest_says() {
        let said = |last: &str| verdict(&format!("..F\n-----\nRan 8 tests in 0.003s\n\n{last}\n"));
        assert_eq!(said("OK"), Some((0, 8)));
        assert_eq!(said("OK (skipped=2)"), Some((0, 6)));
        assert_eq!(said("FAILED (failures=1, errors=1)"), Some((2, 6)));
        assert_eq!(said("FAILED (errors=1, skipped=1)"), Some((1, 6)));
        assert_eq!(said("Killed"), None);
        assert_eq!(verdict("python3: No module named unittest"), None);
    }

    #[test]
    fn every_case_says_how_its_tests_are_run() {
        // The words said to the session are the same for all, so the project itself has to tell.
        for case in &CASES {
            let readme =
                case.files.iter().find(|(name, _)| *name == "README.md").expect("a case has a README").1;
            assert!(readme.contains(case.command), "{}", case.about);
        }
    }

    #[test]
    fn the_test_file_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let case = &CASES[0];
        case.write(dir.path()).unwrap();
        assert!(!case.restore_test(dir.path()).unwrap());
        std::fs::write(dir.path().join(case.test.0), "pass").unwrap();
        assert!(case.restore_test(dir.path()).unwrap());
        assert_eq!(std::fs::read_to_string(dir.path().join(case.test.0)).unwrap(), case.test.1);
    }
}
