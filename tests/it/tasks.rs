//! The tasks that `saga eval tasks` judges models by can be done, and are not done yet: each one's check fails on its
//! `repo/` and passes once the files of its `solution/` are put over it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// Copies what a folder holds over another one. Copies are new files, so that `cargo` sees that they have changed.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for path in names(from) {
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::write(to, std::fs::read(&path).unwrap()).unwrap();
        }
    }
}

/// Whether a task's check passes in a workspace, and what it said.
fn check(task: &Path, workspace: &Path) -> (bool, String) {
    let check = std::fs::read_to_string(task.join("check")).unwrap();
    let ran = Command::new("sh")
        .args(["-c", &check])
        .current_dir(workspace)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("CARGO_TARGET_DIR", workspace.join("target"))
        .output()
        .unwrap();
    let said = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (ran.status.success(), said)
}

fn all_can_be_done(folder: &str, count: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks").join(folder);
    let tasks = names(&folder);
    assert_eq!(tasks.len(), count);
    for task in tasks {
        let place = tempfile::tempdir().unwrap();
        let workspace = place.path().join("workspace");
        copy(&task.join("repo"), &workspace);
        let (passed, said) = check(&task, &workspace);
        assert!(!passed, "{} is done before anybody has begun: {said}", task.display());
        copy(&task.join("solution"), &workspace);
        let (passed, said) = check(&task, &workspace);
        assert!(passed, "the solution of {} is none: {said}", task.display());
        assert!(!std::fs::read_to_string(task.join("prompt.md")).unwrap().trim().is_empty());
    }
}

#[test]
fn planted_bugs_can_be_mended() {
    all_can_be_done("bugs", 10);
}

#[test]
fn exercises_can_be_solved() {
    all_can_be_done("python", 20);
}
