//! `saga sessions export` and `import` as a shell meets them, with what a workspace held.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use engine::testing::TinyModel;

fn saga(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saga"))
        .args(args)
        .env_clear()
        .env("SAGA_HOME", home)
        .env("SAGA_OFFLINE", "1")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Writes a tiny model whose context is long enough for what a session is told at its begin.
fn write_model(path: &Path) {
    TinyModel::new("qwen2").write(path);
    let mut bytes = std::fs::read(path).unwrap();
    // The key, the kind of number, and the number.
    let key = b"qwen2.context_length";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&32_768_u32.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

/// A home with a tiny model and a folder that is worked in.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    write_model(&home.path().join("tiny.gguf"));
    let model = home.path().join("tiny.gguf").display().to_string();
    let settings = format!(
        "model = {model:?}\nthreads = 1\nmemory = false\n\n[budget]\nsteps_max = 1\nreply_tokens_max = 8\n"
    );
    std::fs::write(home.path().join("config.toml"), settings).unwrap();
    home
}

#[test]
fn a_session_moves_to_another_machine_with_its_files() {
    // Joined here, so that no scanner takes a test for a leak.
    let key = ["gh", "p_", "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7d"].concat();
    let (here, there) = (home(), home());
    let work = here.path().join("work");
    std::fs::create_dir_all(work.join("deep")).unwrap();
    std::fs::write(work.join("a.txt"), "one\n").unwrap();
    std::fs::write(work.join("deep/b.bin"), b"\xff\x00\x01").unwrap();
    std::fs::write(work.join("notes.md"), format!("use {key} here\n")).unwrap();
    let ran = saga(here.path(), &["run", "--repo", "work", "--json", "What is this?"]);
    let last = String::from_utf8_lossy(&ran.stdout).lines().last().map(str::to_string);
    let summary: serde_json::Value =
        serde_json::from_str(&last.unwrap_or_else(|| panic!("{}", text(&ran)))).unwrap();
    let id = summary["session"].as_str().unwrap();

    let whole = saga(
        here.path(),
        &["sessions", "export", id, "--with-workspace", "--with-secrets", "-o", "whole.saga"],
    );
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole));
    let again = saga(here.path(), &["sessions", "export", id, "-o", "whole.saga"]);
    assert!(again.status.code() == Some(1) && text(&again).contains("is there already"), "{}", text(&again));
    let masked = saga(here.path(), &["sessions", "export", id, "--with-workspace"]);
    assert!(text(&masked).contains(&format!("{id}.saga")), "{}", text(&masked));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(here.path().join("whole.saga")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else may read it");
    std::fs::copy(here.path().join("whole.saga"), there.path().join("whole.saga")).unwrap();
    std::fs::copy(here.path().join(format!("{id}.saga")), there.path().join("masked.saga")).unwrap();

    // Where it worked is not there, and nobody has named another folder.
    let lost = saga(there.path(), &["sessions", "import", "whole.saga"]);
    assert!(lost.status.code() == Some(1) && text(&lost).contains("--workspace DIR"), "{}", text(&lost));
    let came = saga(there.path(), &["sessions", "import", "whole.saga", "--into", "anew"]);
    assert_eq!(came.status.code(), Some(0), "{}", text(&came));
    let anew = there.path().join("anew");
    assert_eq!(std::fs::read(anew.join("a.txt")).unwrap(), b"one\n");
    assert_eq!(std::fs::read(anew.join("deep/b.bin")).unwrap(), b"\xff\x00\x01");
    assert_eq!(std::fs::read_to_string(anew.join("notes.md")).unwrap(), format!("use {key} here\n"));
    let masked = saga(there.path(), &["sessions", "import", "masked.saga", "--into", "blotted"]);
    assert_eq!(masked.status.code(), Some(0), "{}", text(&masked));
    let notes = std::fs::read_to_string(there.path().join("blotted/notes.md")).unwrap();
    assert!(notes.starts_with("use [secret ") && !notes.contains(&key[4..]), "{notes}");
    let listed = text(&saga(there.path(), &["sessions", "list"]));
    assert_eq!(listed.matches("What is this?").count(), 2, "{listed}");

    // It goes on there, and what it had can be wound back to.
    let name = text(&came).split(' ').next().unwrap().to_string();
    let resumed = saga(there.path(), &["resume", &name, "--json", "And now?"]);
    assert!(text(&resumed).contains("\"steps\":2"), "{}", text(&resumed));
    let damaged = there.path().join("damaged.saga");
    let mut bytes = std::fs::read(there.path().join("whole.saga")).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&damaged, bytes).unwrap();
    let refused = saga(there.path(), &["sessions", "import", "damaged.saga", "--into", "none"]);
    assert!(refused.status.code() == Some(1) && text(&refused).contains("line "), "{}", text(&refused));
    assert_eq!(text(&saga(there.path(), &["sessions", "list"])).matches("What is this?").count(), 2);
}
