//! `saga eval tasks`: how many tasks of a folder a model does by itself, judged by commands it does not see.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::{Event, Recorded};
use serde::{Deserialize, Serialize};
use tools::{Command, Ended, Sandbox};

use super::demo::{fresh_folder, git_init};
use super::follow::{Followed, Follower};
use super::reach::Reached;
use crate::client::Client;
use crate::config::{Config, Overrides};
use crate::failure::{EXIT_INTERRUPTED, EXIT_NO, Failure};
use crate::host::{count, seconds};
use crate::models;
use crate::server::make_folder;
use crate::show::end_in_words;
use crate::term::{Ink, Screen, To, one_line, say, table};
use crate::wire;

const TASKS: &str = "\
A task is a folder of DIR with
  prompt.md (or prompt.txt)   what the session is told
  check (or check.sh)         a command line; exit code 0 means that the task is done
  repo/                       the workspace as it is at the beginning
  hidden/                     optional: files that are put over the workspace before the check, such as the tests it is judged by
or, in place of the first two, a task.toml with `prompt` and `check`. Files of repo/ that are tests by their names are put back before the check.

Exit code 0: all were done; 3: some were not.";

#[derive(clap::Subcommand)]
pub(crate) enum Args {
    /// Let a model do every task of a folder, each in a workspace of its own, and run each task's check.
    #[command(after_help = TASKS)]
    Tasks(Tasks),
}

#[derive(clap::Args)]
pub(crate) struct Tasks {
    /// The folder of tasks.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only these tasks (repeatable).
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Most steps of a task.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps_max: Option<u32>,
    /// Seconds a task may take before it is interrupted.
    #[arg(long, value_name = "N", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_secs: u64,
    /// Keep the workspaces and the journals, and say where.
    #[arg(long)]
    keep: bool,
    /// Print one JSON object a task, and the sums as the last line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let Args::Tasks(args) = args;
    tasks(args).await
}

/// A task, read from its folder.
struct Task {
    name: String,
    prompt: String,
    check: String,
    repo: PathBuf,
    hidden: Option<PathBuf>,
}

/// What came of a task.
#[derive(Serialize)]
struct Done {
    task: String,
    passed: bool,
    /// How its turn ended, in words.
    end: String,
    steps: u32,
    calls: u32,
    /// Calls that failed, by cause.
    failed_calls: BTreeMap<&'static str, u32>,
    prompt_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    seconds: f64,
    /// The last line of what the check said.
    check: String,
}

/// The sums of all tasks.
#[derive(Default, Serialize)]
struct Sums {
    tasks: usize,
    passed: usize,
    steps: u32,
    calls: u32,
    failed_calls: BTreeMap<&'static str, u32>,
    /// Failed calls that are the service's doing (format, schema and path), of all calls.
    ours: f64,
    prompt_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    seconds: f64,
    seconds_median: f64,
}

/// Causes of failed calls that a better service would have kept from happening.
const OURS: [&str; 3] = ["format", "schema", "path"];
/// How long a check may take.
const CHECK: Duration = Duration::from_secs(300);

async fn tasks(args: Tasks) -> Result<u8, Failure> {
    let (folders, mut config) = super::settings()?;
    args.overrides.apply(&mut config)?;
    // Nobody goes on with these sessions, and what one has learned must not help the next.
    config.snapshot_bytes = 0;
    config.checkpoint_bytes = 0;
    config.memory = false;
    let screen = Screen::new(if args.json { To::Stderr } else { To::Stdout });
    let mut all = read(&args.dir)?;
    all.retain(|task| args.only.is_empty() || args.only.contains(&task.name));
    if all.is_empty() {
        return Err(Failure::new(format!("there is no task in {}", args.dir.display()))
            .next("`saga eval tasks --help` shows what a task is"));
    }
    models::ready(&config.model, &folders, &screen).await?;
    let place = fresh_folder(&folders, "eval")?;
    let workspaces = place.join("tasks");
    make_folder(&workspaces)?;
    let reached =
        Reached::start(&config, &folders, &place.join("memory"), vec![workspaces.clone()], &screen).await?;
    let mut done = Vec::new();
    let mut left = false;
    for task in &all {
        screen.line(&screen.ink(Ink::Bold, &format!("{} ({} of {})", task.name, done.len() + 1, all.len())));
        match one(&reached.client, task, &workspaces, &config, &args, &screen).await {
            Ok(Some(one)) => {
                let ink = if one.passed { Ink::Good } else { Ink::Bad };
                let verdict = if one.passed { "done" } else { "not done" };
                screen.line(&screen.ink(ink, &format!("{verdict} · {} · {}", one.end, one.check)));
                if args.json {
                    say(&serde_json::to_string(&one).expect("figures have only string keys"));
                }
                done.push(one);
            }
            Ok(None) => {
                left = true;
                break;
            }
            Err(failure) => {
                reached.leave().await;
                return Err(failure);
            }
        }
    }
    reached.leave().await;
    if args.keep {
        screen.line(&format!("the workspaces are in {}", workspaces.display()));
    } else {
        // Only figures of runs that are over; what cannot be removed is no harm.
        let _ = std::fs::remove_dir_all(&place);
    }
    let sums = sums(&done);
    if args.json {
        say(&serde_json::to_string(&sums).expect("figures have only string keys"));
    } else {
        show(&done, &sums);
    }
    Ok(match (left, sums.passed == all.len()) {
        (true, _) => EXIT_INTERRUPTED,
        (false, true) => 0,
        (false, false) => EXIT_NO,
    })
}

/// Has one task done; nothing when the person left.
async fn one(
    client: &Client,
    task: &Task,
    workspaces: &Path,
    config: &Config,
    args: &Tasks,
    screen: &Screen,
) -> Result<Option<Done>, Failure> {
    let workspace = workspaces.join(&task.name);
    copy(&task.repo, &workspace)?;
    git_init(&workspace);
    let budget = wire::Budget { steps_max: args.steps_max, ..wire::Budget::default() };
    let new = wire::NewSession {
        workspace: workspace.clone(),
        memory: Some(false),
        budget: Some(budget),
        ..wire::NewSession::default()
    };
    let began = Instant::now();
    let session = client.create(&new).await?;
    let mut follower = Follower::new(client, &session.id, screen, false, true)?;
    let asked = follower.say(&task.prompt, None).await?;
    let limit = tokio::time::sleep(Duration::from_secs(args.timeout_secs));
    tokio::pin!(limit);
    let mut late = false;
    let followed = {
        let follow = follower.follow(asked - 1, asked);
        tokio::pin!(follow);
        loop {
            tokio::select! {
                followed = &mut follow => break followed?,
                () = &mut limit, if !late => {
                    late = true;
                    client.interrupt(&session.id).await?;
                }
            }
        }
    };
    let end = match &followed {
        Followed::Left => return Ok(None),
        Followed::Asks => "it waits for an approval".to_string(),
        Followed::Ended(_) if late => format!("interrupted after {} s", args.timeout_secs),
        Followed::Ended(end) => end_in_words(end),
    };
    let wall = began.elapsed();
    let session = client.session(&session.id).await?;
    let events = events(client, &session.id).await?;
    let (passed, check) = judge(task, &workspace, config).await?;
    Ok(Some(Done {
        task: task.name.clone(),
        passed,
        end: one_line(&end, 100),
        steps: session.steps,
        calls: session.tool_calls,
        failed_calls: causes(&events),
        prompt_tokens: session.usage.prompt_tokens,
        cached_tokens: session.usage.cached_tokens,
        output_tokens: session.usage.output_tokens,
        seconds: (wall.as_secs_f64() * 10.0).round() / 10.0,
        check,
    }))
}

async fn events(client: &Client, id: &str) -> Result<Vec<Recorded>, Failure> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page = client.events(id, after).await?;
        all.extend(page.events);
        match page.next_after {
            Some(next) => after = next,
            None => return Ok(all),
        }
    }
}

/// Why calls failed: what the service made of them (`format`, `schema`, `path`), what an edit did not find, or what a command came to.
fn causes(events: &[Recorded]) -> BTreeMap<&'static str, u32> {
    let mut causes = BTreeMap::new();
    let mut names = BTreeMap::new();
    for recorded in events {
        match &recorded.event {
            Event::Reply { calls, refused, .. } => {
                names.extend(calls.iter().map(|call| (call.id.clone(), call.name.clone())));
                // A reply that was cut off is no call.
                let calls = refused.iter().filter(|refused| !refused.text.is_empty()).count();
                if calls > 0 {
                    *causes.entry("format").or_default() += u32::try_from(calls).unwrap_or(u32::MAX);
                }
            }
            Event::CallFinished { id, outcome, .. } if !outcome.ok => {
                let name = names.get(id).map_or("", String::as_str);
                let text = outcome.text.as_str();
                let cause = if text.starts_with("Wrong arguments") || text.starts_with("There is no tool") {
                    "schema"
                } else if text.starts_with("There is no ") {
                    "path"
                } else if name == "edit" || name == "apply_patch" {
                    "edit"
                } else if outcome.exit.is_some() {
                    "command"
                } else {
                    "other"
                };
                *causes.entry(cause).or_default() += 1;
            }
            Event::CallDenied { .. } => *causes.entry("rule").or_default() += 1,
            Event::CallLost { .. } => *causes.entry("lost").or_default() += 1,
            _ => {}
        }
    }
    causes
}

/// Puts tests back as they were and runs the check in a sandbox: whether it passed, and its last line.
async fn judge(task: &Task, workspace: &Path, config: &Config) -> Result<(bool, String), Failure> {
    restore(&task.repo, &task.repo, workspace)?;
    if let Some(hidden) = &task.hidden {
        copy(hidden, workspace)?;
    }
    let mut policy = config.sandbox.policy(workspace);
    policy.env.push(("PYTHONDONTWRITEBYTECODE".to_string(), "1".to_string()));
    let sandbox = Sandbox::open(policy).await?;
    let command = Command { timeout: Some(CHECK), ..Command::new(["sh", "-c", &task.check]) };
    let ran = sandbox.run(command).await?;
    let last = ran.output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let said = match &ran.ended {
        Ended::Exited(0) | Ended::Exited(_) if !last.is_empty() => one_line(last, 80),
        Ended::Exited(code) => format!("exit {code}"),
        other => format!("{other:?}"),
    };
    Ok((ran.ended == Ended::Exited(0), said))
}

/// Whether a path is a test's by its name, in the ways that languages have: these a session is not to bend.
fn is_test(path: &Path) -> bool {
    let exact = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = exact.to_lowercase();
    let stem = name.split('.').next().unwrap_or_default();
    let folder = path.components().rev().skip(1).any(|part| {
        ["test", "tests", "spec", "__tests__"].contains(&&*part.as_os_str().to_string_lossy().to_lowercase())
    });
    let java = exact.split('.').next().is_some_and(|stem| stem.ends_with("Test") || stem.ends_with("Tests"));
    let marked = stem.starts_with("test_")
        || stem.ends_with("_test")
        || name.contains(".test.")
        || name.contains(".spec.");
    folder || java || marked
}

/// Puts the tests of a task back as they were.
fn restore(root: &Path, from: &Path, workspace: &Path) -> Result<(), Failure> {
    for entry in entries(from)? {
        let inside = entry.strip_prefix(root).unwrap_or(&entry).to_path_buf();
        if entry.is_dir() {
            restore(root, &entry, workspace)?;
        } else if is_test(&inside) {
            let to = workspace.join(&inside);
            if let Some(folder) = to.parent() {
                std::fs::create_dir_all(folder).map_err(|error| Failure::unwritable(folder, &error))?;
            }
            // A link in its place would be written through.
            let _ = std::fs::remove_file(&to);
            std::fs::copy(&entry, &to).map_err(|error| Failure::unwritable(&to, &error))?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let cannot = |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", folder.display()));
    let mut entries = std::fs::read_dir(folder)
        .map_err(cannot)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(cannot)?;
    entries.sort();
    Ok(entries)
}

/// Copies a folder into another one, which is made if it is missing. Links are left out.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    make_folder(to)?;
    for entry in entries(from)? {
        let target = to.join(entry.file_name().unwrap_or_default());
        let kind = entry
            .symlink_metadata()
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", entry.display())))?;
        if kind.is_dir() {
            copy(&entry, &target)?;
        } else if kind.is_file() {
            let _ = std::fs::remove_file(&target);
            std::fs::copy(&entry, &target).map_err(|error| Failure::unwritable(&target, &error))?;
        }
    }
    Ok(())
}

/// Every task of a folder, by name.
fn read(dir: &Path) -> Result<Vec<Task>, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        prompt: String,
        check: String,
    }
    let mut tasks = Vec::new();
    for folder in entries(dir)?.into_iter().filter(|entry| entry.is_dir()) {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        let text =
            |names: &[&str]| names.iter().find_map(|name| std::fs::read_to_string(folder.join(name)).ok());
        let bad = |why: &str| {
            Failure::new(format!("the task {name}: {why}"))
                .next("`saga eval tasks --help` shows what a task is")
        };
        let (prompt, check) = match text(&["task.toml"]) {
            Some(toml) => {
                let Written { prompt, check } =
                    toml::from_str(&toml).map_err(|error| bad(error.message()))?;
                (prompt, check)
            }
            None => (
                text(&["prompt.md", "prompt.txt", "prompt"]).ok_or_else(|| bad("it has no prompt.md"))?,
                text(&["check", "check.sh", "check.txt"]).ok_or_else(|| bad("it has no check"))?,
            ),
        };
        let repo = folder.join("repo");
        if !repo.is_dir() {
            return Err(bad("it has no folder repo"));
        }
        if prompt.trim().is_empty() || check.trim().is_empty() {
            return Err(bad("its prompt or its check is empty"));
        }
        let hidden = Some(folder.join("hidden")).filter(|hidden| hidden.is_dir());
        tasks.push(Task {
            prompt: prompt.trim().to_string(),
            check: check.trim().to_string(),
            repo,
            hidden,
            name,
        });
    }
    Ok(tasks)
}

fn sums(done: &[Done]) -> Sums {
    let mut sums = Sums { tasks: done.len(), ..Sums::default() };
    for one in done {
        sums.passed += usize::from(one.passed);
        sums.steps += one.steps;
        sums.calls += one.calls;
        for (cause, times) in &one.failed_calls {
            *sums.failed_calls.entry(cause).or_default() += times;
        }
        sums.prompt_tokens += one.prompt_tokens;
        sums.cached_tokens += one.cached_tokens;
        sums.output_tokens += one.output_tokens;
        sums.seconds += one.seconds;
    }
    let ours: u32 = OURS.iter().filter_map(|cause| sums.failed_calls.get(cause)).sum();
    let asked = sums.calls + sums.failed_calls.get("format").copied().unwrap_or_default();
    sums.ours = if asked == 0 { 0.0 } else { f64::from(ours) / f64::from(asked) };
    let mut walls: Vec<f64> = done.iter().map(|one| one.seconds).collect();
    walls.sort_by(f64::total_cmp);
    sums.seconds_median = walls.get(walls.len() / 2).copied().unwrap_or_default();
    sums
}

fn show(done: &[Done], sums: &Sums) {
    let failed = |causes: &BTreeMap<&str, u32>| {
        let told: Vec<String> = causes.iter().map(|(cause, times)| format!("{times} {cause}")).collect();
        if told.is_empty() { "none".to_string() } else { told.join(", ") }
    };
    let rows: Vec<Vec<String>> = done
        .iter()
        .map(|one| {
            vec![
                if one.passed { "done" } else { "not done" }.to_string(),
                one.task.clone(),
                one.steps.to_string(),
                one.calls.to_string(),
                failed(&one.failed_calls),
                count(one.output_tokens),
                seconds(one.seconds),
            ]
        })
        .collect();
    say("");
    say(&table(&["", "TASK", "STEPS", "CALLS", "FAILED CALLS", "TOKENS", "TIME"], &rows));
    say(&format!(
        "{} of {} done · {} steps · {} calls, failed: {} · {:.1} % of calls failed by format, schema or path · {} tokens · median {}",
        sums.passed,
        sums.tasks,
        sums.steps,
        sums.calls,
        failed(&sums.failed_calls),
        sums.ours * 100.0,
        count(sums.output_tokens),
        seconds(sums.seconds_median)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_known_by_their_names() {
        for test in
            ["test_a.py", "tests/a.rs", "a_test.go", "src/__tests__/x.js", "a.test.ts", "AppTest.java"]
        {
            assert!(is_test(Path::new(test)), "{test}");
        }
        for other in ["a.py", "src/testing.rs", "contest.py.txt/x", "latest.py"] {
            assert!(!is_test(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn a_task_is_read_and_one_that_lacks_something_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("one/prompt.md", "Mend it.\n");
        write("one/check", "python3 -m unittest\n");
        write("one/repo/a.py", "x");
        write("one/repo/test_a.py", "as it was");
        write("two/task.toml", "prompt = \"Mend it.\"\ncheck = \"true\"\n");
        write("two/repo/b", "");
        let tasks = read(dir.path()).unwrap();
        let told: Vec<(&str, &str, &str)> = tasks
            .iter()
            .map(|task| (task.name.as_str(), task.prompt.as_str(), task.check.as_str()))
            .collect();
        assert_eq!(told, [("one", "Mend it.", "python3 -m unittest"), ("two", "Mend it.", "true")]);
        // What a session makes of a test does not count.
        let workspace = dir.path().join("w");
        copy(&tasks[0].repo, &workspace).unwrap();
        std::fs::write(workspace.join("test_a.py"), "pass").unwrap();
        std::fs::write(workspace.join("a.py"), "y").unwrap();
        restore(&tasks[0].repo, &tasks[0].repo, &workspace).unwrap();
        assert_eq!(std::fs::read_to_string(workspace.join("test_a.py")).unwrap(), "as it was");
        assert_eq!(std::fs::read_to_string(workspace.join("a.py")).unwrap(), "y");
        std::fs::remove_dir_all(&workspace).unwrap();
        write("three/prompt.md", "Mend it.\n");
        let lacking = read(dir.path()).err().unwrap().to_string();
        assert!(lacking.contains("the task three: it has no check"), "{lacking}");
    }
}
