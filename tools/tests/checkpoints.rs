//! Checkpoints of a workspace, as sessions use them.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tools::checkpoint::{Checkpoints, Difference, How, Taken, Tree};
use tools::{Command, Error, Policy, Sandbox};

struct Scene {
    folder: tempfile::TempDir,
    workspace: PathBuf,
    sandbox: Sandbox,
    checkpoints: Checkpoints,
}

impl Scene {
    async fn open() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let workspace = folder.path().join("ws");
        fs::create_dir(&workspace).unwrap();
        let workspace = workspace.canonicalize().unwrap();
        let mut policy = Policy::new(&workspace);
        policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
        let sandbox = Sandbox::open(policy).await.unwrap();
        let checkpoints = Checkpoints::open(&folder.path().join("kept"), 1 << 30).unwrap();
        Scene { folder, workspace, sandbox, checkpoints }
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) -> &Scene {
        let path = self.workspace.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    async fn run(&self, line: &str) {
        let ran = self.sandbox.run(Command::shell(line)).await.unwrap();
        assert_eq!(ran.ended, tools::Ended::Exited(0), "{line}\n{}", ran.output);
    }

    async fn take(&self) -> Taken {
        self.checkpoints.take(&self.sandbox, "s-1").await.unwrap()
    }

    fn differences(&self, from: &Tree, to: &Tree) -> Vec<(How, String)> {
        let found = self.checkpoints.differences(from, to).unwrap();
        found.into_iter().map(|Difference { path, how }| (how, path)).collect()
    }

    /// Everything in the workspace, as it is.
    fn all(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        let mut folders = vec![self.workspace.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let (path, kind) = (entry.path(), entry.file_type().unwrap());
                let is = if kind.is_dir() {
                    folders.push(path.clone());
                    "folder".to_owned()
                } else if kind.is_symlink() {
                    format!("link to {}", fs::read_link(&path).unwrap().display())
                } else {
                    let mode = entry.metadata().unwrap().permissions().mode() & 0o100;
                    format!("{mode:o} {:?}", fs::read(&path).unwrap())
                };
                all.insert(path.strip_prefix(&self.workspace).unwrap().to_owned(), is);
            }
        }
        all
    }
}

#[tokio::test]
async fn what_commands_did_is_put_back_to_the_letter() {
    // Files, modes, links, folders, what git ignores, and what is no text: whatever a shell can change.
    let scene = Scene::open().await;
    scene
        .put("src/main.rs", "fn main() {}\n")
        .put("data.bin", [0, 255, 10, 13, 128])
        .put(".local.cfg", "KEY=1");
    scene.put(".gitignore", ".local.cfg\nlogs/\n").put("logs/a", "log").put("deep/er/still/x", "1");
    scene.put(" spaced name ", "2").put("run.sh", "#!/bin/sh\n").put("becomes_folder", "3");
    scene.put("becomes_file/inner", "4").put("nested/.git/config", "[core]").put("nested/file", "5");
    fs::create_dir(scene.workspace.join("empty")).unwrap();
    fs::set_permissions(scene.workspace.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("src/main.rs", scene.workspace.join("link")).unwrap();
    let (before, first) = (scene.all(), scene.take().await);
    assert_eq!(first.left_out, Vec::<String>::new());

    scene
        .run(
            "echo changed > src/main.rs; rm -r deep data.bin empty logs; echo x > .local.cfg; mkdir -p new/a; echo n > new/a/b; \
             chmod -x run.sh; ln -sfn data link; mv ' spaced name ' plain; rm becomes_folder; mkdir becomes_folder; \
             echo i > becomes_folder/i; rm -r becomes_file; echo f > becomes_file; echo more >> nested/file",
        )
        .await;
    let (changed, second) = (scene.all(), scene.take().await);
    let found = scene.differences(&first.tree, &second.tree);
    let expected = [
        (How::Removed, " spaced name "),
        (How::Changed, ".local.cfg"),
        (How::Changed, "becomes_file"),
        (How::Removed, "becomes_file/inner"),
        (How::Changed, "becomes_folder"),
        (How::Added, "becomes_folder/i"),
        (How::Removed, "data.bin"),
        (How::Removed, "deep"),
        (How::Removed, "deep/er"),
        (How::Removed, "deep/er/still"),
        (How::Removed, "deep/er/still/x"),
        (How::Removed, "empty"),
        (How::Changed, "link"),
        (How::Removed, "logs"),
        (How::Removed, "logs/a"),
        (How::Changed, "nested/file"),
        (How::Added, "new"),
        (How::Added, "new/a"),
        (How::Added, "new/a/b"),
        (How::Added, "plain"),
        (How::Changed, "run.sh"),
        (How::Changed, "src/main.rs"),
    ];
    assert_eq!(found, expected.map(|(how, path)| (how, path.to_owned())));
    assert_eq!(scene.checkpoints.content(&first.tree, "src/main.rs").unwrap().unwrap(), b"fn main() {}\n");
    assert_eq!(scene.checkpoints.content(&second.tree, "deep/er/still/x").unwrap(), None);

    // There and back again.
    for (to, from, is) in
        [(&first, &second, &before), (&second, &first, &changed), (&first, &second, &before)]
    {
        let changed = scene.checkpoints.restore(&scene.sandbox, "s-1", &to.tree, &from.tree).await.unwrap();
        assert_eq!(changed, Vec::<String>::new());
        assert_eq!(scene.all(), *is);
        assert_eq!(scene.take().await.tree, to.tree);
    }
}

#[tokio::test]
async fn what_somebody_else_changed_meanwhile_is_not_overwritten() {
    let scene = Scene::open().await;
    let first = scene.put("a", "1").put("b", "1").take().await;
    let second = scene.put("a", "2").take().await;
    scene.put("b", "somebody's");
    let changed = scene.checkpoints.restore(&scene.sandbox, "s-1", &first.tree, &second.tree).await.unwrap();
    assert_eq!(changed, ["b"]);
    assert_eq!(fs::read(scene.workspace.join("a")).unwrap(), b"2");
    assert_eq!(fs::read(scene.workspace.join("b")).unwrap(), b"somebody's");
}

#[tokio::test]
async fn a_file_that_changes_without_a_new_size_is_seen() {
    // Clocks of file systems are coarse; a checkpoint that believes them loses a change.
    let scene = Scene::open().await;
    let mut last = scene.put("a", "0").take().await.tree;
    for n in 1..20 {
        let now = scene.put("a", format!("{}", n % 10)).take().await.tree;
        assert_ne!(now, last, "{n}");
        last = now;
    }
    assert_eq!(scene.take().await.tree, last);
}

#[tokio::test]
async fn caches_are_left_out_by_their_size_and_nothing_leads_out() {
    let scene = Scene::open().await;
    let outside = scene.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "canary").unwrap();
    symlink(&outside, scene.workspace.join("way_out")).unwrap();
    scene
        .put(".env", "TOKEN=1")
        .put("target/big", vec![1; 5 << 20])
        .put("src/node_modules/small/x", "1")
        .put("huge", vec![2; 5 << 20]);
    scene.run("mkfifo pipe; printf 'import os\\nos.mkdir(b\"bad\\\\xff\")' | python3").await;
    let taken = scene.take().await;
    let mut left_out = taken.left_out.clone();
    left_out.sort();
    assert_eq!(left_out, [".env", "bad\u{fffd}", "huge", "pipe", "target"]);
    assert_eq!(scene.checkpoints.content(&taken.tree, "src/node_modules/small/x").unwrap().unwrap(), b"1");
    assert_eq!(scene.checkpoints.content(&taken.tree, "way_out/secret").unwrap(), None);
    // What is not covered stays, and so does what a link leads to.
    scene.run("rm way_out; mkdir way_out; echo mine > way_out/secret; rm huge").await;
    let now = scene.take().await;
    scene.checkpoints.restore(&scene.sandbox, "s-1", &taken.tree, &now.tree).await.unwrap();
    assert!(fs::symlink_metadata(scene.workspace.join("way_out")).unwrap().is_symlink());
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"canary");
    assert!(scene.workspace.join("target/big").exists() && !scene.workspace.join("huge").exists());
}

#[tokio::test]
async fn checkpoints_outlive_a_restart_and_go_with_their_owner_or_for_lack_of_room() {
    let scene = Scene::open().await;
    let first = scene.put("a", "1".repeat(100_000)).take().await;
    let other = scene.checkpoints.take(&scene.sandbox, "s-2").await.unwrap();
    assert_eq!(other.tree, first.tree);
    scene.put("a", "2".repeat(100_000));
    let second = scene.take().await;
    let kept = scene.folder.path().join("kept");
    // A service that was killed while it wrote.
    let mut roots = fs::OpenOptions::new().append(true).open(kept.join("roots")).unwrap();
    std::io::Write::write_all(&mut roots, b"{\"at_ms\":12,\"ow").unwrap();
    let again = Checkpoints::open(&kept, 1 << 30).unwrap();
    assert!(again.has(&first.tree) && again.has(&second.tree));
    again.forget("s-1").unwrap();
    assert!(again.has(&first.tree) && !again.has(&second.tree));
    let lost = again.differences(&first.tree, &second.tree);
    assert!(matches!(lost, Err(Error::Uncovered(why)) if why.contains("no longer kept")));
    again.forget("s-2").unwrap();
    assert!(again.bytes() < 1000);

    let small = Checkpoints::open(&scene.folder.path().join("small"), 500_000).unwrap();
    let mut taken = Vec::new();
    for n in 0..20 {
        scene.put("a", format!("{n}").repeat(100_000 / format!("{n}").len()));
        taken.push(small.take(&scene.sandbox, "s-1").await.unwrap().tree);
        assert!(small.bytes() < 600_000, "{}", small.bytes());
    }
    assert!(!small.has(&taken[0]) && small.has(&taken[19]) && small.has(&taken[17]));
    assert!(Path::new(&scene.workspace).exists());
}

#[tokio::test]
async fn changes_of_a_copy_are_brought_back_and_nothing_is_written_over() {
    // The copy is another folder in life; here the workspace plays both in turn.
    let scene = Scene::open().await;
    scene
        .put("same", "1\n")
        .put("theirs", "1\n")
        .put("both", "1\n2\n3\n4\n5\n")
        .put("torn", "1\n")
        .put("gone", "1\n");
    scene.put("folder/old", "1\n").put("kept/a", "1\n").put("bin", [0u8, 255, 1]);
    let base = scene.take().await.tree;
    scene
        .put("theirs", "2\n")
        .put("both", "1\n2\n3\n4\nfive\n")
        .put("torn", "theirs\n")
        .put("new/deep/file", "n\n");
    scene.put("bin", [9u8, 255]).put("clash", "theirs\n");
    scene.run("rm -r gone folder kept; chmod +x theirs; ln -s theirs link").await;
    let theirs = scene.take().await.tree;
    let (owner, now) = ("s-1", scene.take().await.tree);
    scene.checkpoints.restore(&scene.sandbox, owner, &base, &now).await.unwrap();
    scene.put("both", "one\n2\n3\n4\n5\n").put("torn", "ours\n").put("ours", "o\n").put("kept/b", "mine\n");
    scene.put("bin", [7u8, 255]).put("clash", "ours\n");
    let merge = scene.checkpoints.merge(&scene.sandbox, owner, &base, &theirs).await.unwrap();
    assert_eq!(merge.conflicts, ["bin", "clash", "torn"]);
    assert_eq!(merge.merged, ["both", "folder/old", "gone", "kept/a", "link", "new/deep/file", "theirs"]);
    let all = scene.all();
    let text = |path: &str| std::fs::read_to_string(scene.workspace.join(path)).ok();
    assert_eq!(text("both").as_deref(), Some("one\n2\n3\n4\nfive\n"));
    assert_eq!((text("theirs").as_deref(), text("link").as_deref()), (Some("2\n"), Some("2\n")));
    assert_eq!((text("torn").as_deref(), text("clash").as_deref()), (Some("ours\n"), Some("ours\n")));
    assert_eq!((text("new/deep/file").as_deref(), text("kept/b").as_deref()), (Some("n\n"), Some("mine\n")));
    assert_eq!((text("gone"), text("folder/old"), text("kept/a")), (None, None, None));
    assert!(fs::metadata(scene.workspace.join("theirs")).unwrap().permissions().mode() & 0o100 != 0);
    assert_eq!(fs::read(scene.workspace.join("bin")).unwrap(), [7u8, 255]);
    // Cut off and done again, it changes nothing more.
    let again = scene.checkpoints.merge(&scene.sandbox, owner, &base, &theirs).await.unwrap();
    assert_eq!((again.conflicts, scene.all()), (merge.conflicts, all));
}

#[tokio::test]
async fn what_git_keeps_of_its_own_is_not_brought_back() {
    // A hook that comes from a sub-agent would run at the next commit of a person.
    let scene = Scene::open().await;
    scene.put("a", "1\n").put(".git/config", "ours\n").put("sub/.git/HEAD", "ours\n").put("sub/b", "1\n");
    let base = scene.take().await.tree;
    scene.put("a", "2\n").put(".git/config", "theirs\n").put(".git/hooks/post-commit", "#!/bin/sh\n");
    scene.put("sub/.git/HEAD", "theirs\n").put("sub/b", "2\n").put("new/.git/config", "theirs\n");
    let theirs = scene.take().await.tree;
    scene.checkpoints.restore(&scene.sandbox, "s-1", &base, &theirs).await.unwrap();
    let merge = scene.checkpoints.merge(&scene.sandbox, "s-1", &base, &theirs).await.unwrap();
    assert_eq!(merge.conflicts, [] as [&str; 0]);
    assert!(!merge.merged.iter().any(|path| path.contains(".git")), "{:?}", merge.merged);
    let text = |path: &str| fs::read_to_string(scene.workspace.join(path)).ok();
    assert_eq!((text("a").as_deref(), text("sub/b").as_deref()), (Some("2\n"), Some("2\n")));
    assert_eq!(
        (text(".git/config").as_deref(), text("sub/.git/HEAD").as_deref()),
        (Some("ours\n"), Some("ours\n"))
    );
    assert_eq!((text(".git/hooks/post-commit"), text("new/.git/config")), (None, None));
}

#[tokio::test]
async fn a_frozen_workspace_can_be_read_and_not_written_to() {
    // By no command and no tool: the mount itself is read-only.
    let folder = tempfile::tempdir().unwrap();
    let workspace = folder.path().canonicalize().unwrap();
    fs::write(workspace.join("a"), "was\n").unwrap();
    let mut policy = Policy::new(&workspace);
    policy.frozen = true;
    policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
    let sandbox = Sandbox::open(policy).await.unwrap();
    let ran = sandbox
        .run(Command::shell("cat a; echo x > /tmp/mine; echo new > a; touch b; rm a; chmod 777 a"))
        .await
        .unwrap();
    assert!(ran.output.contains("was") && ran.output.contains("Read-only file system"), "{}", ran.output);
    let toolbox = tools::Toolbox::builtin();
    for (name, arguments) in [
        ("write", serde_json::json!({"path": "b", "content": "x"})),
        ("edit", serde_json::json!({"path": "a", "old": "was", "new": "is"})),
    ] {
        let call = tools::Call { id: "1".into(), name: name.into(), arguments };
        let outcome = toolbox.perform(&call, &sandbox, &|_: &str| ()).await.unwrap();
        assert!(!outcome.ok, "{name}: {}", outcome.text);
    }
    let read =
        tools::Call { id: "2".into(), name: "read".into(), arguments: serde_json::json!({"path": "a"}) };
    assert!(toolbox.perform(&read, &sandbox, &|_: &str| ()).await.unwrap().text.contains("was"));
    assert_eq!(fs::read_to_string(workspace.join("a")).unwrap(), "was\n");
    assert!(!workspace.join("b").exists());
}
