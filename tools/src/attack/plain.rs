//! The tools as somebody writes them who trusts everything, on the host itself: they show that a case tells a leak when
//! there is one. Only cases that are said to be harmless come here.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::service::{Afterwards, Job, Reply, Step};

/// What tools ask of git: to look at a folder, and to keep its state.
pub(super) const GIT_LINE: &str = "git status; git diff; git log -p; git show HEAD:s; git show \"$(cat oid)\"; \
    git -c user.name=a -c user.email=a@b commit -q --allow-empty -m checkpoint && git checkout -q -b checkpoint";

/// Does what the settings that lie in a folder say should be done at a session's start.
const TRUST_LINE: &str = "for f in .agent .claude .codex; do python3 -c \
    'import json, os, sys; os.system(json.load(open(sys.argv[1]))[\"hooks\"][\"SessionStart\"])' $f/settings.json 2>/dev/null; done";

/// How much of an answer is kept, and how long a tool may take that knows no end. Both keep the runner itself from harm.
const KEPT_BYTES: u64 = 8 << 20;
const TOOL_WALL: Duration = Duration::from_secs(6);

/// Becomes root of a user namespace of its own, as in a container, with mounts of its own: so what only root can do can be
/// tried, and to the host it is still the ordinary user. Only before any thread is started.
pub(super) fn become_root_of_little() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    crate::sandbox::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

pub(super) fn perform(job: &Job) -> Reply {
    let mut reply = Reply::default();
    let everything = job.afterwards == Afterwards::Everything;
    for (at, step) in job.steps.iter().enumerate() {
        let began = Instant::now();
        let text = match call(step, &job.workspace, everything) {
            Ok(text) => text,
            Err(why) => {
                reply.unknown = Some(why);
                return reply;
            }
        };
        if at == 0 {
            reply.wall_s = began.elapsed().as_secs_f64();
        }
        reply.ok = true;
        reply.texts.push(text);
    }
    if everything && job.steps.iter().all(|step| step.tool != "exec") {
        reply.after.push(shell(GIT_LINE, &job.workspace, TOOL_WALL));
    }
    reply
}

/// The error is that there is no such tool without a sandbox.
fn call(step: &Step, workspace: &Path, everything: bool) -> Result<String, String> {
    let text = |name: &str| {
        // Names as a case file may have them.
        let other = match name {
            "old" => "old_string",
            "new" => "new_string",
            name => name,
        };
        step.arguments[name].as_str().or(step.arguments[other].as_str()).unwrap_or("").to_owned()
    };
    let path = workspace.join(text("path"));
    let or_why = |done: io::Result<()>| done.map_or_else(|error| error.to_string(), |()| "done".to_owned());
    Ok(match step.tool.as_str() {
        "exec" => {
            let folder = workspace.join(text("cwd"));
            let secs = step.arguments["timeout_s"].as_u64().unwrap_or(10);
            // One shell for everything, as many an agent keeps it: what a command left in its environment stays.
            let after = if everything {
                format!("\n{{ {GIT_LINE}; rg -l .; {TRUST_LINE}; }}")
            } else {
                String::new()
            };
            shell(&(text("command") + &after), &folder, Duration::from_secs(secs))
        }
        "read" => timed(move || read(&path)),
        "write" => {
            let made = path.parent().map_or(Ok(()), fs::create_dir_all);
            or_why(made.and_then(|()| fs::write(&path, text("content"))))
        }
        "edit" => {
            let edited = fs::read_to_string(&path).map(|old| old.replacen(&text("old"), &text("new"), 1));
            or_why(edited.and_then(|new| fs::write(&path, new)))
        }
        "apply_patch" => or_why(patch(&text("patch"), workspace)),
        // Python's engine goes back over what it has tried, as most do.
        "grep" => script(
            "import os, re, sys\nr = re.compile(sys.argv[1])\nfor d, _, fs in os.walk(sys.argv[2]):\n  for f in fs:\n    for l in open(os.path.join(d, f), errors='replace'):\n      if r.search(l): print(f, l)",
            &[&text("pattern"), &path.display().to_string()],
        ),
        "glob" => script(
            "import glob, sys\nfor p in glob.iglob(sys.argv[1] + '/' + sys.argv[2], recursive=True, include_hidden=True): print(p, flush=True)",
            &[&path.display().to_string(), &text("pattern")],
        ),
        "list" => script("import os, sys\nprint(*os.listdir(sys.argv[1]))", &[&path.display().to_string()]),
        tool => return Err(format!("there is no {tool} without a sandbox")),
    })
}

fn read(path: &Path) -> String {
    let mut kept = Vec::new();
    let began = Instant::now();
    let Ok(mut file) = fs::File::open(path) else { return "no such file".to_owned() };
    let mut chunk = vec![0; 1 << 20];
    while let Ok(count @ 1..) = file.read(&mut chunk) {
        if (kept.len() as u64) < KEPT_BYTES {
            kept.extend_from_slice(&chunk[..count]);
        }
        if began.elapsed() > TOOL_WALL {
            break;
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Gives up after a while on what may never end.
fn timed(work: impl FnOnce() -> String + Send + 'static) -> String {
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        // If nobody waits any more, nobody wants it.
        let _ = done.send(work());
    });
    result.recv_timeout(TOOL_WALL).unwrap_or_else(|_| "it hung".to_owned())
}

/// Applies a patch piece by piece, wherever it leads.
fn patch(patch: &str, workspace: &Path) -> io::Result<()> {
    let (mut path, mut old, mut new) = (None, Vec::new(), Vec::new());
    let flush = |path: &mut Option<String>, old: &mut Vec<&str>, new: &mut Vec<&str>| -> io::Result<()> {
        let Some(path) = path.take() else { return Ok(()) };
        fs::write(workspace.join(path), std::mem::take(new).join("\n"))?;
        old.clear();
        Ok(())
    };
    for line in patch.lines() {
        if let Some(name) = line.strip_prefix("*** Add File: ").or(line.strip_prefix("*** Update File: ")) {
            flush(&mut path, &mut old, &mut new)?;
            path = Some(name.to_owned());
        } else if let Some(name) = line.strip_prefix("*** Move to: ") {
            path = Some(name.to_owned());
        } else if let Some(line) = line.strip_prefix('+') {
            new.push(line);
        } else if let Some(line) = line.strip_prefix('-') {
            old.push(line);
        }
    }
    flush(&mut path, &mut old, &mut new)
}

fn script(script: &str, arguments: &[&str]) -> String {
    let mut python = Command::new("python3");
    python.args(["-c", script]).args(arguments);
    run(python, TOOL_WALL)
}

/// Runs a line on the host with everything the service has: its environment, its folders, its descriptors.
fn shell(line: &str, folder: &Path, wall: Duration) -> String {
    let mut bash = Command::new("bash");
    bash.args(["-c", line]).current_dir(folder);
    run(bash, wall)
}

/// Waits for a command to the end of its output, and kills its process group when its time is up.
fn run(mut command: Command, wall: Duration) -> String {
    let (output, to_output) = match io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return error.to_string(),
    };
    let Ok(to_errors) = to_output.try_clone() else { return "no descriptor is left".to_owned() };
    let spawned = command.stdin(Stdio::null()).stdout(to_output).stderr(to_errors).process_group(0).spawn();
    // The command's ends of the pipe must not stay open here.
    drop(command);
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return error.to_string(),
    };
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        let (mut kept, mut output, mut chunk) = (Vec::new(), output, vec![0; 1 << 16]);
        while let Ok(count @ 1..) = output.read(&mut chunk) {
            if (kept.len() as u64) < KEPT_BYTES {
                kept.extend_from_slice(&chunk[..count]);
            }
        }
        // Most such tools believe that all output is text.
        let text = String::from_utf8(kept).unwrap_or_else(|error| format!("this is no text: {error}"));
        let _ = done.send(text);
    });
    let text = result.recv_timeout(wall).unwrap_or_else(|_| "it was still running".to_owned());
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // The child is not waited for yet, so the group's number is still its own.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
    text
}
