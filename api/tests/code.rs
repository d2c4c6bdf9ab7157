//! Code search over a workspace as a session has it.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::path::Path;
use std::sync::Arc;

use agent::code::Code;
use memory::Memory;
use serde_json::{Value, json};
use tools::{Call, Command, Ended, Policy, Sandbox};

fn put(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

async fn search(code: &Code, sandbox: &Arc<Sandbox>, arguments: Value) -> String {
    let call = Call { id: "1".into(), name: "search_code".into(), arguments };
    code.search(sandbox, &call).await.unwrap().text
}

#[tokio::test]
async fn code_is_found_by_what_it_does_as_it_is_now() {
    // Files change under a session's hands, and commits say what the code does not.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("ws")).unwrap();
    let workspace = folder.path().join("ws").canonicalize().unwrap();
    put(
        &workspace,
        "src/cache.rs",
        "/// Throws out the page that was used least recently.\npub fn evict() {\n    todo()\n}\n",
    );
    put(
        &workspace,
        "src/net.py",
        "def open_port(number):\n    \"\"\"Listens for connections.\"\"\"\n    return number\n",
    );
    put(&workspace, "notes.txt", "throw out the page");
    let mut policy = Policy::new(&workspace);
    policy.helper = Some(env!("CARGO_BIN_EXE_saga").into());
    let sandbox = Arc::new(Sandbox::open(policy).await.unwrap());
    let memory = Memory::open(&folder.path().join("memory")).unwrap();
    let code = Code::new(memory.clone());

    let found = search(&code, &sandbox, json!({"query": "throw out the oldest page"})).await;
    assert!(found.starts_with("src/cache.rs:1-4 evict\n    /// Throws out the page"), "{found}");
    let found =
        search(&code, &sandbox, json!({"query": "throw out the oldest page", "path": "src/deep"})).await;
    assert!(found.starts_with("No code of the workspace fits"), "{found}");
    let nothing = search(&code, &sandbox, json!({"query": " "})).await;
    assert!(nothing.contains("\"query\" is missing"), "{nothing}");

    // Changed, moved and deleted.
    put(&workspace, "src/cache.rs", "/// Counts the guests of a hotel.\npub fn guests() {}\n");
    std::fs::create_dir(workspace.join("lib")).unwrap();
    std::fs::rename(workspace.join("src/net.py"), workspace.join("lib/net.py")).unwrap();
    let found = search(&code, &sandbox, json!({"query": "how many guests has the hotel"})).await;
    assert!(found.starts_with("src/cache.rs:1-2 guests"), "{found}");
    let found = search(&code, &sandbox, json!({"query": "listen for connections on a port"})).await;
    assert!(found.starts_with("lib/net.py:1-3 open_port") && !found.contains("src/net.py"), "{found}");

    // A commit's message finds what it touched, also in a page that is too long to be told at once.
    let line = "git init -q . && git config user.name a && git config user.email a@b && git add -A \
        && git commit -qm 'Serve the lobby telephone' && for n in $(seq 60); do echo $n > n; git add n; \
        git commit -qm \"$(head -c 900 /dev/zero | tr '\\0' x) $n\"; done";
    let ran = sandbox.run(Command::shell(line)).await.unwrap();
    assert_eq!(ran.ended, Ended::Exited(0), "{}", ran.output);
    let found = search(&code, &sandbox, json!({"query": "telephone lobby"})).await;
    assert!(found.contains("lib/net.py") && found.contains("src/cache.rs"), "{found}");

    // Another process, and an index that was damaged meanwhile.
    drop(code);
    let known = walk(&folder.path().join("memory/index/code"));
    assert!(known.iter().any(|path| path.ends_with("known")));
    for path in known {
        std::fs::write(path, "damaged").unwrap();
    }
    let code = Code::new(memory);
    let found = search(&code, &sandbox, json!({"query": "how many guests has the hotel"})).await;
    assert!(found.starts_with("src/cache.rs:1-2 guests"), "{found}");
}

/// The files below a folder.
fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
