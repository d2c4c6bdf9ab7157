//! `saga bench` as a shell meets it, with a tiny model and a program that stands for llama-bench.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use engine::testing::TinyModel;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A home with a tiny model in it.
fn home() -> TempDir {
    let home = tempfile::tempdir().expect("a temporary folder");
    TinyModel::new("qwen2").write(&home.path().join("tiny.gguf"));
    home
}

fn bench(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saga"))
        .args(["bench", "-t", "1"])
        .args(args)
        .env_clear()
        .env("SAGA_HOME", home)
        .env("SAGA_MODEL", "./tiny.gguf")
        .env("SAGA_OFFLINE", "1")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn refused(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    error.lines().last().unwrap_or_default().to_owned()
}

/// The objects of all lines.
#[track_caller]
fn objects(output: &Output) -> Vec<Value> {
    said(output).lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// A program in a folder of its own.
fn program(home: &Path, folder: &str, script: &str) -> PathBuf {
    let path = home.join(folder).join("llama-bench");
    std::fs::create_dir_all(home.join(folder)).expect("a folder");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a file");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it is ours");
    path
}

/// Keeps what it was asked, one line each time, and prints rows like those of llama-bench; the 1000th part of a token per
/// second more each time.
const LLAMA_BENCH: &str = r#"
here=$(dirname "$0"); echo "$@" >> "$here/asked"; runs=$(wc -l < "$here/asked")
while [ $# -gt 0 ]; do case $1 in -p) p=$2;; -n) n=$2;; -d) d=$2;; esac; shift; done
echo "[{\"build_commit\": \"abc123\", \"backends\": \"CPU\", \"n_prompt\": $p, \"n_gen\": 0, \"n_depth\": ${d:-0}, \"avg_ts\": 500.00$runs},"
echo " {\"build_commit\": \"abc123\", \"backends\": \"CPU\", \"n_prompt\": 0, \"n_gen\": $n, \"n_depth\": ${d:-0}, \"avg_ts\": 20.00$runs}]"
"#;

#[test]
fn all_is_measured_and_nothing_is_left() {
    let home = home();
    // Of a process that was killed; no number of a process is as large.
    std::fs::create_dir_all(home.path().join("data/bench-4294967295/data")).expect("a folder");
    let args = ["-p", "300", "-n", "4", "-r", "2", "--all", "--batch", "3", "--json"];
    let objects = objects(&bench(home.path(), &args));
    assert_eq!(objects.len(), 3, "two runs and the medians");
    let last = &objects[2];
    for path in [
        "/prefill_tokens_per_s",
        "/decode_tokens_per_s",
        "/batch/gain",
        "/batch/together_tokens_per_s",
        "/batch/beside_prefill_tokens_per_s",
        "/reuse/cold_s",
        "/reuse/fork_ms",
        "/reuse/snapshot_ratio",
        "/reuse/restore_share",
        "/floor/memory_bytes_per_s",
        "/floor/tokens_per_s",
        "/floor/reached",
    ] {
        let figure = last.pointer(path).and_then(Value::as_f64);
        assert!(figure.is_some_and(|figure| figure > 0.0), "{path}: {last}");
    }
    assert_eq!((&last["batch"]["lines"], &last["batch"]["runs"][1]["gain"].is_f64()), (&json!(3), &true));
    assert_eq!((&last["reuse"]["tokens"], &last["reuse"]["restored_tokens"]), (&json!(300), &json!(299)));
    // What was written to be timed goes with the command.
    let left = std::fs::read_dir(home.path().join("data")).map_or(0, Iterator::count);
    assert_eq!(left, 0);

    let text = said(&bench(home.path(), &["-p", "300", "-n", "4", "-r", "1", "--all"]));
    let names = ["run 1", "median", "memory", "batch", "beside", "prefix", "fork", "snapshot", "restore"];
    let lines: Vec<_> = text.lines().map(|line| line[..8].trim_end()).collect();
    assert_eq!(lines, names, "{text}");
    // Nothing of it unless it is asked for.
    let text = said(&bench(home.path(), &["-p", "8", "-n", "4", "-r", "1"]));
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn llama_bench_takes_turns_with_us() {
    let home = home();
    let program = program(home.path(), "build/bin", LLAMA_BENCH);
    let args = ["-p", "16", "-n", "4", "-r", "3", "--vs-llama", "build", "--json"];
    let objects = objects(&bench(home.path(), &args));
    assert_eq!(objects.len(), 4, "three pairs and the medians");
    let last = &objects[3];
    assert_eq!(last["llama"], json!({"prefill_tokens_per_s": 500.002, "decode_tokens_per_s": 20.002}));
    assert_eq!((&last["threads"], &last["llama_build"]), (&json!(1), &json!("abc123 CPU")));
    let number = |path: &str| last.pointer(path).and_then(Value::as_f64).expect("a number");
    for (pair, object) in objects[..3].iter().enumerate() {
        let speed = |who: &str| object[who]["decode_tokens_per_s"].as_f64().expect("a number");
        assert!((speed("saga") / speed("llama") / speed("ratio") - 1.0).abs() < 1e-9, "{object}");
        assert_eq!((&object["pair"], &last["pairs"][pair]["ratio"]), (&json!(pair + 1), &object["ratio"]));
    }
    let [reached, rate, best] =
        ["/floor/saga_reached", "/saga/decode_tokens_per_s", "/floor/tokens_per_s"].map(number);
    assert!((reached - rate / best).abs() < 1e-9 * reached);
    let asked = || std::fs::read_to_string(program.with_file_name("asked")).expect("it was asked");
    let model = home.path().join("tiny.gguf");
    let line = |rest: &str| format!("-m {} -t 1 -p 16 -n 4 -r 1{rest} -ngl 0 -o json", model.display());
    let last_part = |line: &str| line.rsplit_once("tiny.gguf").map(|(_, rest)| rest.to_owned());
    assert_eq!(asked().lines().map(last_part).collect::<Vec<_>>(), vec![last_part(&line("")); 3]);

    // A depth is theirs, too, and a person reads a table.
    let given = program.to_str().expect("a plain name");
    let args = ["-p", "16", "-n", "4", "-r", "1", "--depth", "32", "--vs-llama", given];
    let text = said(&bench(home.path(), &args));
    assert_eq!(asked().lines().last().map(last_part), Some(last_part(&line(" -d 32"))));
    for part in
        ["pair 1", "LLAMA.CPP", "prefill 16 after 32", "decode 4 after 32", "abc123", "tokens/s at best"]
    {
        assert!(text.contains(part), "{part} is missing from {text}");
    }
}

#[test]
fn what_is_no_llama_bench_is_told() {
    let home = home();
    let versus =
        |path: &str| refused(&bench(home.path(), &["-p", "8", "-n", "4", "-r", "1", "--vs-llama", path]));
    assert!(versus("nowhere").contains("there is no llama-bench at nowhere"));
    assert!(versus(".").contains("there is no llama-bench at ."));
    assert!(versus("tiny.gguf").contains("tiny.gguf is not executable"));
    program(home.path(), "text", "echo '| model | size |'");
    let error = versus("text");
    assert!(error.contains("did not print the JSON") && error.contains("but: | model | size |"), "{error}");
    program(home.path(), "fails", "echo loading >&2; echo 'no such model' >&2; exit 3");
    let error = versus("fails");
    assert!(error.contains("exit status: 3: no such model") && error.contains("by hand"), "{error}");
    program(home.path(), "mute", "echo '[]'");
    assert!(versus("mute").contains("tells no speed of 8 tokens"));
    let broken = program(home.path(), "broken", "");
    std::fs::write(&broken, "\x7fELF, but not really").expect("a file");
    assert!(versus("broken").contains("cannot run"), "{}", versus("broken"));

    // A folder of safetensors is no file of llama.cpp's.
    program(home.path(), "bin", LLAMA_BENCH);
    std::fs::create_dir(home.path().join("folder")).expect("a folder");
    std::fs::write(home.path().join("folder/config.json"), "{}").expect("a file");
    let error = refused(&bench(home.path(), &["-m", "./folder", "--vs-llama", "bin"]));
    assert!(error.contains("llama.cpp reads GGUF files"), "{error}");
}
