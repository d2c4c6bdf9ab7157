//! The `saga` command as a shell meets it: what it prints, where, and how it exits.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Runs `saga` in a home of its own.
fn saga(home: &Path, args: &[&str]) -> Output {
    command(home, args).output().expect("the binary runs")
}

fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
    command
        .args(args)
        .env_clear()
        .env("SAGA_HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("SAGA_OFFLINE", "1").current_dir(home).stdin(Stdio::null());
    command
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The exit code and the one line of an error.
fn refused(output: &Output) -> (i32, String) {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.starts_with("error: "), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    (output.status.code().unwrap_or(-1), error)
}

#[test]
fn help_and_version_are_no_errors() {
    let home = home();
    for args in [&["--help"][..], &["--version"], &["run", "--help"], &["model", "list", "--help"]] {
        let output = saga(home.path(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
    assert_eq!(saga(home.path(), &["fly"]).status.code(), Some(2));
}

#[test]
fn a_misspelt_setting_stops_every_command() {
    let home = home();
    std::fs::write(home.path().join("config.toml"), "modle = \"x\"\n").unwrap();
    for args in [&["config", "check"][..], &["up"], &["run", "x"], &["sessions", "list"]] {
        let (code, error) = refused(&saga(home.path(), args));
        assert_eq!(code, 1);
        assert!(error.contains("config.toml:1:1: unknown field `modle`"), "{error}");
    }
}

#[test]
fn settings_come_from_the_file_then_the_environment_then_flags() {
    let home = home();
    std::fs::write(home.path().join("config.toml"), "model = \"of-the-file\"\nthreads = 3\n").unwrap();
    let print = |set: &[(&str, &str)], args: &[&str]| {
        let args: Vec<&str> = ["config", "print"].iter().chain(args).copied().collect();
        let output = command(home.path(), &args).envs(set.iter().copied()).output().expect("the binary runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(print(&[], &[]).contains("model = \"of-the-file\"\nthreads = 3"));
    let by_env = print(&[("SAGA_MODEL", "of-the-env"), ("SAGA_LISTEN", "127.0.0.1:9")], &[]);
    assert!(
        by_env.contains("listen = \"127.0.0.1:9\"") && by_env.contains("model = \"of-the-env\""),
        "{by_env}"
    );
    assert!(
        print(&[("SAGA_MODEL", "of-the-env")], &["--model", "of-the-flag"])
            .contains("model = \"of-the-flag\"")
    );
}

#[test]
fn what_cannot_be_done_says_what_to_do() {
    let home = home();
    let error = |args: &[&str]| refused(&saga(home.path(), args)).1;
    assert!(error(&["run", " "]).contains("say what is to be done"));
    assert!(error(&["run", "--repo", "/no/such/folder", "x"]).contains("--repo"));
    assert!(
        error(&["run", "--model", "no-such-model", "x"]).contains("there is no model called `no-such-model`")
    );
    assert!(error(&["run", "--model", "/no/file.gguf", "x"]).contains("/no/file.gguf"));
    assert!(error(&["run", "x"]).contains("--model /path/file.gguf"));
    assert!(error(&["run", "--server", "http://127.0.0.1:1", "x"]).contains("saga up"));
    assert!(error(&["up", "--listen", "0.0.0.0:0", "--no-key"]).contains("--no-key is refused on 0.0.0.0:0"));
    assert!(error(&["up", "--root", "/no/such/folder"]).contains("--root"));
    assert!(error(&["sessions", "show", "s-none"]).contains("`saga sessions list`"));
    assert!(error(&["resume", "s-none"]).contains("`saga sessions list`"));
    assert!(error(&["logits", "--ids", "/no/ids.json", "--out", "x"]).contains("/no/ids.json"));
    let not_gguf = home.path().join("no.gguf");
    std::fs::write(&not_gguf, "hello, I am a text and no model at all").unwrap();
    assert!(error(&["model", "inspect", "no.gguf"]).contains("is not a GGUF file"));
    assert!(error(&["run", "--model", "no.gguf", "x"]).contains("is not a GGUF file"));
}

#[test]
fn a_conversation_is_shown_as_a_format_writes_it() {
    // Who doubts a chat format compares its prompts with those of the model's maker.
    let home = home();
    let file = home.path().join("chat.json");
    let chat = r#"{"case": "x", "messages": [{"role": "user", "content": "Hi"}], "thinking_mode": "chat"}"#;
    std::fs::write(&file, chat).unwrap();
    let render =
        |more: &[&str]| saga(home.path(), &[&["render", "chat.json", "--dialect", "dsml-v4"], more].concat());
    let prompt = "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>";
    assert_eq!(String::from_utf8_lossy(&render(&[]).stdout), format!("{prompt}\n"));
    let json: serde_json::Value = serde_json::from_slice(&render(&["--json"]).stdout).unwrap();
    assert_eq!(json, serde_json::json!({"prompt": prompt, "ids": null}));
    let (code, error) = refused(&render(&["--model", "none/tokenizer.json"]));
    assert!(code == 1 && error.contains("none/tokenizer.json"), "{error}");
    std::fs::write(&file, chat.replace("user", "king")).unwrap();
    let (code, error) = refused(&render(&[]));
    assert!(code == 1 && error.contains("messages[0]: the role \"king\""), "{error}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let home = home();
    std::fs::write(home.path().join("data"), "a file where the data folder should be").unwrap();
    let (code, error) = refused(&saga(home.path(), &["up"]));
    assert_eq!(code, 1);
    assert!(error.contains("cannot write") && error.contains("data"), "{error}");
    let report = saga(home.path(), &["doctor", "--json"]);
    assert_eq!(report.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("a report is JSON");
    assert_eq!(report["ok"], false);
    let folder =
        report["saga"].as_array().unwrap().iter().find(|finding| finding["name"] == "data folder").unwrap();
    assert_eq!(folder["state"], "bad");
}

#[test]
fn nothing_is_said_to_a_reader_that_has_gone() {
    // `saga … | head -0`: no panic and no message, as with any other program.
    let home = home();
    let mut child = command(home.path(), &["model", "list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(matches!(output.status.code(), Some(141 | 0)), "{:?}", output.status);
}

#[test]
fn a_command_runs_in_the_sandbox_with_its_own_exit_code() {
    let home = home();
    let workspace = home.path().join("work");
    std::fs::create_dir(&workspace).unwrap();
    let dir = workspace.to_str().expect("a temporary folder has a plain name");
    let sandbox =
        |line: &str| saga(home.path(), &["sandbox", "run", "--workspace", dir, "--", "sh", "-c", line]);
    let ran = sandbox("echo hello > made; echo said; exit 7");
    assert_eq!(ran.status.code(), Some(7), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "said\n");
    assert_eq!(std::fs::read_to_string(workspace.join("made")).unwrap(), "hello\n");
    // What lies beside the workspace is not there.
    std::fs::write(home.path().join("secret"), "x").unwrap();
    assert_ne!(sandbox("cat ../secret").status.code(), Some(0));
    let missing = saga(home.path(), &["sandbox", "run", "--workspace", dir, "--", "no-such-program"]);
    assert_eq!(refused(&missing).0, 127);
    let no_folder = saga(home.path(), &["sandbox", "run", "--workspace", "/no/such/folder", "--", "true"]);
    assert_eq!(refused(&no_folder).0, 125);
}

#[test]
fn the_service_prints_its_key_once_and_stops_on_a_signal() {
    use std::io::{BufRead, BufReader};
    let home = home();
    let start = |args: &[&str]| {
        let args: Vec<&str> =
            ["up", "--listen", "127.0.0.1:0", "--root", "."].iter().chain(args).copied().collect();
        let mut child = command(home.path(), &args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut lines =
            BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let said: Vec<String> = lines.by_ref().take_while(|line| !line.starts_with("Try")).collect();
        // A reader that has gone would end the service; this one stays until it stops.
        std::thread::spawn(move || lines.for_each(drop));
        (child, said.join("\n"))
    };
    let stop = |mut child: std::process::Child| {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    };
    let (child, first) = start(&[]);
    assert!(first.contains("http://127.0.0.1:") && first.contains("key: saga-"), "{first}");
    assert!(home.path().join("data/server.json").exists());
    // A second one is told what is in its way.
    let second = saga(home.path(), &["up", "--listen", "127.0.0.1:0"]);
    assert!(refused(&second).1.contains("in use by process"));
    // A command of the same user finds it without a key.
    let list = saga(home.path(), &["sessions", "list"]);
    assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
    stop(child);
    assert!(!home.path().join("data/server.json").exists());
    let (child, again) = start(&[]);
    assert!(!again.contains("saga-") && again.contains("shown at the first start"), "{again}");
    stop(child);
    let (child, new) = start(&["--new-key"]);
    assert!(new.contains("key: saga-"), "{new}");
    stop(child);
}

#[test]
fn a_plan_needs_no_file_and_measures_nothing_it_is_given() {
    let home = home();
    let rates = ["--ram-gbps", "20", "--disk-gbps", "2"];
    let plan = |args: &[&str]| saga(home.path(), &[&["model", "plan"], args, &rates].concat());
    let output = plan(&["deepseek-v4-flash", "--ram", "24G", "--ctx", "1048576"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    for part in
        ["284.33 billion", "13.27 billion", "fp8: 3.43 GiB", "experts on disk", "after 1,048,576 tokens"]
    {
        assert!(text.contains(part), "{part} is missing from {text}");
    }
    let output = plan(&["deepseek-v4-pro", "--ram", "64GiB", "--ctx", "1048576", "--kv", "f16", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["kv_choices"]["fp8"].as_u64().unwrap().div_ceil(1 << 20), 5036);
    assert_eq!(json["kv_bytes"], json["kv_choices"]["f16"]);
    assert_eq!(json["ram_bytes"].as_u64(), Some(64 << 30));

    std::fs::write(home.path().join("config.json"), r#"{"model_type": "qwen3", "hidden_size": 64}"#).unwrap();
    for (args, part) in [
        (&["no-such-model"][..], "known are deepseek-v3"),
        (&["./config.json"], "`num_hidden_layers` is missing"),
        (&["qwen3-30b-a3b", "--ctx", "9999999"], "made for 262144"),
        (&["gpt-oss-20b", "--kv", "fp8"], "f32, f16 or q8"),
        (&["gpt-oss-20b", "--weights", "q9"], "never stored as `q9`"),
    ] {
        let (code, error) = refused(&plan(args));
        assert!(code == 1 && error.contains(part), "{args:?}: {error}");
    }
}
