//! `saga doctor`: what this machine can do, and what to mend.

use std::path::Path;
use std::process::{Command, Stdio};

use agent::mind::RemoteMind;
use serde::Serialize;
use tools::Backend;

use crate::auth::write_private;
use crate::config::{Config, Folders};
use crate::failure::{EXIT_NO, Failure};
use crate::host;
use crate::models;
use crate::server::make_folder;
use crate::term::{Ink, Screen, To, say};

#[derive(clap::Args)]
#[command(after_help = "Exit code 0: all is well enough to work; 3: something must be mended first.")]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    /// What was looked at.
    name: String,
    /// How it is.
    state: State,
    /// What was found.
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// As it should be.
    Good,
    /// Saga works, and something could be better.
    Note,
    /// Saga does not work until it is mended.
    Bad,
}

impl Finding {
    fn good(name: &str, detail: impl Into<String>) -> Finding {
        Finding { name: name.to_string(), state: State::Good, detail: detail.into(), mend: None }
    }

    fn note(name: &str, detail: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { name: name.to_string(), state: State::Note, detail: detail.into(), mend: Some(mend.into()) }
    }

    fn bad(name: &str, detail: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { name: name.to_string(), state: State::Bad, detail: detail.into(), mend: Some(mend.into()) }
    }
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    ok: bool,
    sandbox: Vec<Finding>,
    machine: Vec<Finding>,
    saga: Vec<Finding>,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let folders = Folders::from_env()?;
    let (config, config_finding) = match Config::read(&folders.config_file) {
        Ok(config) => {
            let is =
                if folders.config_file.exists() { "" } else { " (not there; the defaults are in force)" };
            (config, Finding::good("settings", format!("{}{is}", folders.config_file.display())))
        }
        Err(failure) => {
            (Config::default(), Finding::bad("settings", failure.to_string(), "mend the file named there"))
        }
    };
    let mut saga = vec![config_finding, data_folder(&folders.data)];
    saga.push(disk(&folders.models));
    saga.push(model(&config.model, &folders));
    saga.extend(minds(&config));
    saga.push(pip());
    let sandbox = sandbox(&config).await;
    let machine = vec![cpu(), memory()];
    let ok = sandbox.iter().chain(&machine).chain(&saga).all(|finding| finding.state != State::Bad);
    let report = Report { version: env!("CARGO_PKG_VERSION"), ok, sandbox, machine, saga };
    if args.json {
        say(&serde_json::to_string_pretty(&report).expect("a report has only string keys"));
    } else {
        show(&report);
    }
    Ok(if ok { 0 } else { EXIT_NO })
}

fn show(report: &Report) {
    let screen = Screen::new(To::Stdout);
    for (title, findings) in
        [("sandbox", &report.sandbox), ("machine", &report.machine), ("saga", &report.saga)]
    {
        screen.line(&screen.ink(Ink::Bold, title));
        let width = findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or_default();
        for finding in findings {
            let mark = match finding.state {
                State::Good => screen.ink(Ink::Good, "✓"),
                State::Note => screen.ink(Ink::Warn, "!"),
                State::Bad => screen.ink(Ink::Bad, "✗"),
            };
            screen.line(&format!("  {mark} {:width$}  {}", finding.name, finding.detail));
            if let Some(mend) = &finding.mend {
                screen.line(&format!("    {:width$}  → {mend}", ""));
            }
        }
    }
    let verdict = if report.ok {
        screen.ink(Ink::Good, "ready to work")
    } else {
        screen.ink(Ink::Bad, "something must be mended first")
    };
    screen.line(&verdict);
}

async fn sandbox(config: &Config) -> Vec<Finding> {
    let layers = tools::probe();
    let finding = |layer: &tools::Layer| {
        if layer.holds {
            return Finding::good(&layer.name, layer.detail.clone());
        }
        if config.sandbox.lowered.contains(&layer.name) {
            return Finding::note(
                &layer.name,
                format!("{} (lowered by the settings)", layer.detail),
                layer.mend.clone(),
            );
        }
        Finding::bad(&layer.name, layer.detail.clone(), layer.mend.clone())
    };
    layers.iter().map(finding).chain([gvisor(config).await, egress(config)]).collect()
}

/// Whether commands can run in gVisor, which only who has asked for it needs.
async fn gvisor(config: &Config) -> Finding {
    let tools::Layer { name, holds, detail, mend } = tools::probe_runsc().await;
    match config.sandbox.backend {
        Backend::Runsc if holds => Finding::good(&name, format!("{detail}; commands run in it")),
        Backend::Runsc => Finding::bad(&name, detail, mend),
        Backend::Native if holds => {
            Finding::good(&name, format!("{detail}; not in use: the backend is native"))
        }
        Backend::Native => Finding::good(&name, format!("not in use: the backend is native ({detail})")),
    }
}

/// Where sessions may reach out.
fn egress(config: &Config) -> Finding {
    const NAME: &str = "egress";
    match config.sandbox.egress.open() {
        Err(why) => Finding::bad(
            NAME,
            why,
            "mend [sandbox.egress] in the settings, or look with the environment that the service has",
        ),
        Ok(None) => Finding::good(NAME, "closed: commands reach nothing beyond their own loopback"),
        Ok(Some(egress)) => {
            let mut detail = format!("open to {}", egress.lines().join(", "));
            if !egress.secrets().is_empty() {
                detail.push_str(&format!("; the proxy adds {}", egress.secrets().join(", ")));
            }
            if config.sandbox.lowered.iter().any(|layer| layer == "network") {
                return Finding::note(
                    NAME,
                    detail,
                    "the layer network may be missing: where it is, commands reach everything and none of this holds",
                );
            }
            if egress.is_wide() {
                return Finding::note(
                    NAME,
                    detail,
                    "a line with * alone opens hosts that nobody has named; name those that are needed",
                );
            }
            Finding::good(NAME, detail)
        }
    }
}

fn cpu() -> Finding {
    let features = host::cpu_features();
    let cores = std::thread::available_parallelism().map(usize::from).unwrap_or(1);
    let has: Vec<&str> = features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    let lacks: Vec<&str> = features.iter().filter(|(_, has)| !*has).map(|(name, _)| *name).collect();
    let name = host::cpu_name().unwrap_or_else(|| std::env::consts::ARCH.to_string());
    let mut detail = format!("{name}, {cores} threads, {}", has.join(" "));
    if !lacks.is_empty() {
        detail.push_str(&format!(" (without {})", lacks.join(" ")));
    }
    // Without these the engine takes its plain kernel, which is many times slower.
    if lacks.contains(&"avx2") || lacks.contains(&"neon") {
        return Finding::note(
            "processor",
            detail,
            "models will be slow here; a processor with AVX2 or NEON is many times faster",
        );
    }
    Finding::good("processor", detail)
}

/// What the default model, its KV cache and the service need together. Bytes.
const MEMORY_BYTES_MIN: u64 = 3 << 30;

fn memory() -> Finding {
    let (Some(all), Some(free)) = (host::memory_bytes(), host::memory_free_bytes()) else {
        return Finding::note(
            "memory",
            "this system does not tell its memory",
            "keep 3 GB free for the default model",
        );
    };
    let detail = format!("{} free of {}", host::bytes(free), host::bytes(all));
    if free < MEMORY_BYTES_MIN {
        return Finding::note(
            "memory",
            detail,
            "the default model wants 3 GB; stop other programs if it is slow",
        );
    }
    Finding::good("memory", detail)
}

fn data_folder(data: &Path) -> Finding {
    let probe = data.join(format!("doctor-{}", std::process::id()));
    let written = make_folder(data).map_err(|failure| failure.to_string()).and_then(|()| {
        let done = write_private(&probe, b"saga doctor was here\n")
            .map_err(|error| Failure::unwritable(&probe, &error).to_string());
        // Only a probe; it is in nobody's way.
        let _ = std::fs::remove_file(&probe);
        done
    });
    match written {
        Ok(()) => Finding::good("data folder", data.display().to_string()),
        Err(why) => Finding::bad(
            "data folder",
            why,
            "make it writable for this user, or set SAGA_HOME to another folder",
        ),
    }
}

/// Room for the default model while it is being pulled and checked. Bytes.
const DISK_BYTES_MIN: u64 = 3 << 30;

fn disk(models: &Path) -> Finding {
    let Some(free) = host::disk_free_bytes(models) else {
        return Finding::note(
            "disk",
            "this system does not tell its free space",
            "keep 3 GB free for a model",
        );
    };
    let detail = format!("{} free for models in {}", host::bytes(free), models.display());
    if free < DISK_BYTES_MIN {
        return Finding::note(
            "disk",
            detail,
            "pulling the default model needs 3 GB for a while; free some space or set SAGA_HOME to another disk",
        );
    }
    Finding::good("disk", detail)
}

/// Whether the models on other machines can be asked.
fn minds(config: &Config) -> Vec<Finding> {
    let minds = match config.minds() {
        Ok(minds) => minds,
        Err(failure) => {
            return vec![Finding::bad("minds", failure.to_string(), "mend the settings, or remove the mind")];
        }
    };
    let look = |mind: &agent::mind::Remote| {
        let name = format!("remote:{}", mind.name);
        match RemoteMind::new(mind.clone()).and_then(|asked| asked.models()) {
            Err(error) => Finding::bad(&name, error.to_string(), "start its server, or mend its url and key"),
            Ok(models) if models.is_empty() || models.contains(&mind.model) => {
                Finding::good(&name, format!("{} at {}", mind.model, mind.url))
            }
            Ok(models) => Finding::note(
                &name,
                format!("{} does not list {}", mind.url, mind.model),
                format!("it lists {}", models.iter().take(5).cloned().collect::<Vec<_>>().join(", ")),
            ),
        }
    };
    minds.iter().map(look).collect()
}

fn model(model: &str, folders: &Folders) -> Finding {
    if model.starts_with(agent::mind::remote::PREFIX) {
        return Finding::good("model", format!("{model}, on another machine"));
    }
    match models::state(model, folders) {
        models::State::There { path, verified: true } => {
            Finding::good("model", format!("{model}: {} (checked)", path.display()))
        }
        models::State::There { path, verified: false } => {
            Finding::good("model", format!("{model}: {}", path.display()))
        }
        models::State::Absent => Finding::note(
            "model",
            format!("{model} is not here yet"),
            format!("it is pulled at first need, or now with `saga model pull {model}`"),
        ),
        models::State::Unusable(why) => {
            Finding::bad("model", why, "name one of `saga model list` or the path of one")
        }
    }
}

fn pip() -> Finding {
    let quiet = |args: &[&str]| {
        Command::new("python3")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if quiet(&["-m", "pip", "--version"]) {
        Finding::good("python and pip", "there, as a second way to pull models and for the demo")
    } else if quiet(&["--version"]) {
        Finding::note(
            "python and pip",
            "python3 without pip",
            "install python3-pip for a second way to pull models",
        )
    } else {
        Finding::note(
            "python and pip",
            "no python3",
            "install python3 and python3-pip for a second way to pull models and for the demo",
        )
    }
}
