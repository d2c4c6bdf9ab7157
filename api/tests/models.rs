//! The `saga model` command with models of a hub: pulled, listed, asked about, used and deleted.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use engine::testing::TinyModel;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A home, and a hub on this machine.
struct World {
    home: TempDir,
    endpoint: String,
}

/// A repository's name, and its files with their names.
type Repository = (&'static str, Vec<(&'static str, Vec<u8>)>);

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl World {
    /// A hub with these repositories, each with its files. Files of `me/gated` want the token `hf_secret`.
    fn new(repositories: Vec<Repository>) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let is_known = head.to_lowercase().contains("authorization: bearer hf_secret");
                let (status, body) = answer(&repositories, path, is_known);
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        World { home: tempfile::tempdir().expect("a temporary folder"), endpoint }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
        command
            .args(args)
            .env_clear()
            .env("SAGA_HOME", self.home.path())
            .env("HF_HOME", self.home.path())
            .env("HF_ENDPOINT", &self.endpoint)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// What a command says that needs no hub any more.
    #[track_caller]
    fn alone(&self, args: &[&str]) -> String {
        said(&self.command(args).env("SAGA_OFFLINE", "1").output().expect("the binary runs"))
    }
}

fn answer(repositories: &[Repository], path: &str, is_known: bool) -> (u16, Vec<u8>) {
    for (repository, files) in repositories {
        if path.starts_with(&format!("/api/models/{repository}/revision/main")) {
            let sibling = |(name, content): &(&str, Vec<u8>)| {
                let size = content.len();
                let sha256: String = Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect();
                json!({"rfilename": name, "size": size, "lfs": {"sha256": sha256, "size": size}})
            };
            let siblings: Vec<Value> = files.iter().map(sibling).collect();
            return (200, json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes());
        }
        if let Some(name) = path.strip_prefix(&format!("/{repository}/resolve/{COMMIT}/")) {
            let file = files.iter().find(|(file, _)| *file == name);
            return match file {
                Some(_) if *repository == "me/gated" && !is_known => (401, Vec::new()),
                Some((_, content)) => (200, content.clone()),
                None => (404, Vec::new()),
            };
        }
    }
    (401, Vec::new())
}

#[track_caller]
fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[track_caller]
fn refused(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    error.lines().last().unwrap_or_default().to_owned()
}

fn tiny(seed: u64) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tiny.gguf");
    TinyModel { seed, ..TinyModel::new("qwen2") }.write(&path);
    std::fs::read(&path).expect("it was written")
}

#[test]
fn any_repository_can_be_pulled_and_used_by_its_address() {
    // Whatever takes the id of a model takes its address, and once it is here nobody is asked for it.
    let eye = ("mmproj-F16.gguf", b"an eye".to_vec());
    let files = vec![("tiny-Q8_0.gguf", tiny(1)), ("tiny-Q4_0.gguf", tiny(2)), eye];
    let world = World::new(vec![("me/tiny-GGUF", files)]);

    let error = refused(&world.run(&["model", "pull", "hf:me/tiny-GGUF"]));
    assert!(error.contains("Q4_0 (") && error.contains("Q8_0 ("), "{error}");
    assert!(error.contains("say which one, as in `hf:me/tiny-GGUF:Q"), "{error}");
    let error = refused(&world.run(&["model", "pull", "hf:me/other"]));
    assert!(error.contains("no repository me/other") && error.contains("HF_TOKEN"), "{error}");

    let pulled = world.run(&["model", "pull", "hf:me/tiny-GGUF:q8_0"]);
    let path = said(&pulled);
    assert!(String::from_utf8_lossy(&pulled.stderr).contains("pulling hf:me/tiny-GGUF:Q8_0 ("));
    assert!(path.ends_with("models/hf/me/tiny-GGUF/tiny-Q8_0/tiny-Q8_0.gguf"), "{path}");

    let id = "hf:me/tiny-GGUF:Q8_0";
    assert_eq!(world.alone(&["model", "pull", id]), path);
    assert_eq!(world.alone(&["model", "path", "hf:me/tiny-GGUF"]), path);
    let list = world.alone(&["model", "list", "--json"]);
    let rows = list.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is an object"));
    let row = rows.into_iter().find(|row| row["id"] == id).expect("what is here is listed");
    assert_eq!(
        (&row["state"], &row["commit"], &row["title"]),
        (&json!("here"), &json!(COMMIT), &json!("Tiny"))
    );
    assert!(row["memory_bytes"].as_u64() > row["download_bytes"].as_u64(), "{row}");
    assert!(world.alone(&["model", "list"]).contains("hf:me/tiny-GGUF:Q8_0  sessions"));

    let facts: Value =
        serde_json::from_str(&world.alone(&["model", "inspect", id, "--json"])).expect("an object");
    assert_eq!((&facts["path"], &facts["dialect"]), (&json!(path), &json!("hermes")));
    assert!(
        world.alone(&["model", "plan", id, "--ram", "1G", "--ram-gbps", "1"]).contains("everything fits")
    );
    world.alone(&["bench", "--model", "hf:me/tiny-GGUF", "-p", "8", "-n", "2", "-r", "1", "-t", "1"]);
    std::fs::write(world.home.path().join("config.toml"), format!("model = \"{id}\"\n")).expect("a home");
    assert!(world.alone(&["model", "list"]).contains("hf:me/tiny-GGUF:Q8_0*"));
    assert!(world.alone(&["config", "print", "--model", "hf:me/tiny"]).contains("model = \"hf:me/tiny\""));

    let freed = world.alone(&["model", "rm", id]);
    assert!(
        freed.starts_with("deleted hf:me/tiny-GGUF:Q8_0; ") && freed.ends_with(" are free again"),
        "{freed}"
    );
    assert!(!Path::new(&path).exists());
    let error = refused(&world.run(&["model", "rm", id]));
    assert!(error.contains("nothing of hf:me/tiny-GGUF:Q8_0 is here"), "{error}");
    let error = refused(&world.run(&["model", "rm", "./tiny.gguf"]));
    assert!(error.contains("does not delete"), "{error}");
}

#[test]
fn a_folder_of_safetensors_is_a_model_like_a_file() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/fixtures");
    let read = |name: &str| std::fs::read(fixtures.join(name)).expect("a fixture");
    let model = json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let tokenizer = json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": bytes, "model": model});
    let tokenizer = tokenizer.to_string().into_bytes();
    let files = vec![
        ("config.json", read("models/olmoe/config.json")),
        ("model.safetensors", read("models/olmoe/model.safetensors")),
        ("tokenizer.json", tokenizer),
        ("modeling.py", b"print()".to_vec()),
    ];
    let world = World::new(vec![("me/gated", files)]);
    let error = refused(&world.run(&["model", "pull", "hf:me/gated"]));
    assert!(error.contains("accept them on its page, and set HF_TOKEN"), "{error}");

    let pulled = world.command(&["model", "pull", "hf:me/gated"]).env("HF_TOKEN", "hf_secret").output();
    let path = PathBuf::from(said(&pulled.expect("the binary runs")));
    assert!(path.is_dir() && path.join("model.safetensors").exists() && !path.join("modeling.py").exists());
    let about = world.alone(&["model", "inspect", "hf:me/gated"]);
    assert!(about.contains(&format!("folder        {}\nname          gated\n", path.display())), "{about}");
    assert!(about.contains("architecture  olmoe"), "{about}");
    // So is one of somebody's own.
    let own = fixtures.join("models/qwen3");
    let about = world.alone(&["model", "inspect", own.to_str().expect("a plain path")]);
    assert!(about.contains("architecture  qwen3"), "{about}");
    let error = refused(&world.run(&["model", "inspect", "/"]));
    assert!(error.contains("without a config.json"), "{error}");
}
