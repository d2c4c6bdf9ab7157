//! llama-bench, llama.cpp's own measurement: run in turns with ours, on the same file and with as many threads.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use engine::bench::{After, Run, Work};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::failure::Failure;
use crate::term::one_line;

/// A program that measures a model.
pub(super) struct Llama {
    program: PathBuf,
    model: PathBuf,
    threads: usize,
}

/// What it measured once.
pub(super) struct Measured {
    pub(super) run: Run,
    /// Which llama.cpp that was, as it says itself.
    pub(super) build: String,
    /// What share of one core this process took meanwhile, where the system tells that.
    pub(super) disturbed: Option<f64>,
}

/// A row of its output, as far as it is looked at.
#[derive(Deserialize)]
struct Row {
    n_prompt: usize,
    n_gen: usize,
    #[serde(default)]
    n_depth: usize,
    avg_ts: f64,
    #[serde(default)]
    build_commit: String,
    #[serde(default)]
    backends: String,
}

/// How long one measurement may take: a prompt of a hundred thousand tokens on a small machine.
const TIME_MAX: Duration = Duration::from_secs(6 * 60 * 60);
/// What is read of its output. An array of two rows takes four kilobytes.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// How long our own threads are given to go to sleep before it starts.
const REST: Duration = Duration::from_millis(200);

impl Llama {
    /// The program at `path`, or in the folder there, for the model at `model`.
    pub(super) fn find(path: &Path, model: &Path, threads: usize) -> Result<Llama, Failure> {
        if model.is_dir() {
            return Err(Failure::new(format!(
                "{} is a folder, and llama.cpp reads GGUF files",
                model.display()
            ))
            .next("name the model's GGUF file with -m"));
        }
        let inside = [path.join("llama-bench"), path.join("bin/llama-bench")];
        let found =
            if path.is_dir() { inside.into_iter().find(|path| path.is_file()) } else { Some(path.into()) };
        // With its folder, so that it is not looked for on the path.
        let found = found.and_then(|path| path.canonicalize().ok()).filter(|path| path.is_file());
        let Some(program) = found else {
            return Err(Failure::new(format!("there is no llama-bench at {}", path.display()))
                .next("give --vs-llama the program of a built llama.cpp, or the folder it lies in, such as build/bin"));
        };
        if rustix::fs::access(&program, rustix::fs::Access::EXEC_OK).is_err() {
            return Err(Failure::new(format!("{} is not executable", program.display()))
                .next("`chmod +x` it, if it is llama.cpp's llama-bench"));
        }
        Ok(Llama { program, model: model.to_owned(), threads })
    }

    /// How many threads it computes with.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Measures once what `work` says, and nothing of it twice.
    pub(super) async fn measure(&self, work: &Work) -> Result<Measured, Failure> {
        assert_eq!(work.after, After::Depth, "it decodes where the prompt begins");
        tokio::time::sleep(REST).await;
        let (start, before) = (Instant::now(), own_cpu());
        let output = tokio::time::timeout(TIME_MAX, self.output(work)).await;
        let output = output
            .map_err(|_| self.failed(&format!("did not end within {} hours", TIME_MAX.as_secs() / 3600)))??;
        let wall = start.elapsed().as_secs_f64();
        let disturbed = before.zip(own_cpu()).map(|(before, after)| (after - before).as_secs_f64() / wall);
        let (run, build) = read(&output, work).map_err(|why| self.failed(&why))?;
        Ok(Measured { run, build, disturbed })
    }

    /// What it prints.
    async fn output(&self, work: &Work) -> Result<Vec<u8>, Failure> {
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(&self.model);
        for (flag, number) in [("-t", self.threads), ("-p", work.prompt), ("-n", work.generate), ("-r", 1)] {
            command.arg(flag).arg(number.to_string());
        }
        // Older ones know no depth.
        if work.depth > 0 {
            command.arg("-d").arg(work.depth.to_string());
        }
        // Where it could use a graphics card it is not to: ours does not.
        command.args(["-ngl", "0", "-o", "json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| Failure::new(format!("cannot run {}: {error}", self.program.display())))?;
        let (output, errors) = tokio::join!(all_of(child.stdout.take()), all_of(child.stderr.take()));
        let status = child.wait().await.map_err(|error| self.failed(&error.to_string()))?;
        if !status.success() {
            let errors = String::from_utf8_lossy(&errors);
            let last = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
            return Err(self.failed(&format!("ended with {status}: {}", one_line(last, 200))));
        }
        Ok(output)
    }

    fn failed(&self, why: &str) -> Failure {
        Failure::new(format!("{} {why}", self.program.display()))
            .next("run it by hand to see more; it has to be llama.cpp's llama-bench")
    }
}

/// The speeds that a JSON array of its rows tells, and which build it is of; or what is wrong with it.
fn read(output: &[u8], work: &Work) -> Result<(Run, String), String> {
    let rows: Vec<Row> = serde_json::from_slice(output).map_err(|error| {
        let text = String::from_utf8_lossy(output);
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
        format!("did not print the JSON that was asked for ({error}), but: {}", one_line(first, 80))
    })?;
    let speed = |prompt: usize, generate: usize| {
        if prompt + generate == 0 {
            return Ok(0.0);
        }
        let its_own = |row: &&Row| (row.n_prompt, row.n_gen, row.n_depth) == (prompt, generate, work.depth);
        match rows.iter().find(its_own) {
            Some(row) if row.avg_ts.is_finite() && row.avg_ts > 0.0 => Ok(row.avg_ts),
            _ => Err(format!(
                "tells no speed of {} tokens after {}",
                if prompt > 0 { prompt } else { generate },
                work.depth
            )),
        }
    };
    let run =
        Run { prefill_tokens_per_s: speed(work.prompt, 0)?, decode_tokens_per_s: speed(0, work.generate)? };
    let row = rows.first().ok_or("measured nothing")?;
    let build = [row.build_commit.trim(), row.backends.trim()].map(|part| one_line(part, 40));
    Ok((run, build.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")))
}

/// The beginning of a stream. What comes after it has no reader, which ends the writer.
async fn all_of(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // What was read until a failure is judged like any other output.
        let _ = stream.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await;
    }
    bytes
}

/// How long processors have worked for this process, without its children.
fn own_cpu() -> Option<Duration> {
    // In hundredths of a second, whatever the kernel counts in itself: proc(5).
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in brackets, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks()? + ticks()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(prompt: usize, generate: usize, depth: usize) -> Work {
        Work { prompt, generate, after: After::Depth, depth, repetitions: 1 }
    }

    #[test]
    fn speeds_are_found_in_what_it_prints() {
        // Rows as builds of 2024 and 2026 write them: the older ones know no depth.
        let old = br#"[{"build_commit": "abc", "n_prompt": 8, "n_gen": 0, "avg_ts": 50.5, "stddev_ts": 0.0},
                      {"build_commit": "abc", "n_prompt": 0, "n_gen": 4, "avg_ts": 9.25, "samples_ts": [ 9.25 ]}]"#;
        let (run, build) = read(old, &work(8, 4, 0)).unwrap();
        assert_eq!((run.prefill_tokens_per_s, run.decode_tokens_per_s, &*build), (50.5, 9.25, "abc"));
        let new = br#"[{"n_prompt": 0, "n_gen": 4, "n_depth": 0, "avg_ts": 9.0},
                      {"n_prompt": 0, "n_gen": 4, "n_depth": 64, "avg_ts": 8.0, "backends": "CPU"}]"#;
        let (run, build) = read(new, &work(0, 4, 64)).unwrap();
        assert_eq!((run.prefill_tokens_per_s, run.decode_tokens_per_s, &*build), (0.0, 8.0, ""));
        assert!(read(new, &work(8, 4, 64)).unwrap_err().contains("no speed of 8 tokens after 64"));
        assert!(read(b"| model | size |", &work(8, 4, 0)).unwrap_err().contains("but: | model"));
        assert!(read(b"[]", &work(0, 4, 0)).is_err());
    }

    #[test]
    fn this_process_knows_its_own_work() {
        let before = own_cpu().unwrap();
        let mut x = 1_u64;
        while own_cpu().unwrap() < before + Duration::from_millis(20) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
    }
}
