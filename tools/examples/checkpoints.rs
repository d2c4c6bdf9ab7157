//! Times checkpoints of a copy of a folder: the first, and those after one file has changed, beside git in a shadow folder, in turns:
//! `cargo run --release -p tools --example checkpoints DIR`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use tools::checkpoint::Checkpoints;
use tools::{Policy, Sandbox};

const RUNS: usize = 11;

fn main() {
    tools::maybe_become_helper();
    let dir = PathBuf::from(std::env::args_os().nth(1).expect("the folder is the first argument"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be built");
    runtime.block_on(measure(&dir));
}

async fn measure(dir: &Path) {
    let folder = tempfile::tempdir().expect("there is room for a copy");
    let workspace = folder.path().join("it");
    let copied = Command::new("cp").arg("-r").arg(dir).arg(&workspace).status();
    assert!(copied.is_ok_and(|status| status.success()), "the folder can be copied");
    let workspace = workspace.canonicalize().expect("the copy is there");
    let sandbox = Sandbox::open(Policy::new(&workspace)).await.expect("the sandbox opens");
    let checkpoints =
        Checkpoints::open(&folder.path().join("kept"), 8 << 30).expect("the folder can be made");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.env("GIT_DIR", folder.path().join("git")).env("GIT_WORK_TREE", &workspace);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().is_ok_and(|status| status.success()), "git works");
    };
    git(&["init", "-q"]);
    let by_git = || {
        let began = Instant::now();
        git(&["add", "-A"]);
        git(&["write-tree"]);
        began.elapsed().as_secs_f64() * 1e3
    };
    let began = Instant::now();
    let taken = checkpoints.take(&sandbox, "bench").await.expect("a checkpoint can be taken");
    println!("{} entries, {} left out, {} bytes", taken.entries, taken.left_out.len(), checkpoints.bytes());
    println!("first: {:.0} ms, git {:.0} ms", began.elapsed().as_secs_f64() * 1e3, by_git());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..RUNS {
        std::fs::write(workspace.join("changed_meanwhile"), format!("{n}")).expect("the copy can be changed");
        let began = Instant::now();
        checkpoints.take(&sandbox, "bench").await.expect("a checkpoint can be taken");
        ours.push(began.elapsed().as_secs_f64() * 1e3);
        theirs.push(by_git());
    }
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    println!(
        "next: p50 {:.0} ms, most {:.0} ms; git {:.0} and {:.0} ms",
        ours[RUNS / 2],
        ours[RUNS - 1],
        theirs[RUNS / 2],
        theirs[RUNS - 1]
    );
}
