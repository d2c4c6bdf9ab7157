//! `saga up`: serve the HTTP API.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::auth::{self, Auth, Key, KeyFile};
use crate::config::{Config, Folders, Overrides, ServiceOverrides};
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::models;
use crate::server::{self, Notice};
use crate::service::Readiness;
use crate::term::{Ink, Screen, To};

const EXAMPLES: &str = "\
Examples:
  saga up                                        sessions may work in the current folder
  saga up --root ~/src --root /srv/repos
  saga up --listen 0.0.0.0:7777                  for others too; they need the key
  saga up --no-key                               for programs of this machine without a key

The key is printed at the first start and kept only as a hash.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    service: ServiceOverrides,
    #[command(flatten)]
    overrides: Overrides,
    /// Ask nobody for a key. Refused on addresses that others can reach.
    #[arg(long)]
    no_key: bool,
    /// Make a new key; the one before is good for nothing from then on.
    #[arg(long, conflicts_with = "no_key")]
    new_key: bool,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, mut config) = super::settings()?;
    args.overrides.apply(&mut config)?;
    args.service.apply(&mut config)?;
    let roots = roots(&config)?;
    server::make_folder(&folders.data)?;
    let guard = guard(&args, &config, &folders)?;
    // The port first: a second `saga up` is better told that there is one already than that its data is locked.
    let listener = server::bind(config.listen).await?;
    let address =
        listener.local_addr().map_err(|error| Failure::new(format!("the port has no address: {error}")))?;
    // Commands of this user find the service by a key of their own, which lives as long as it does.
    let local = if args.no_key { None } else { Some(Key::new()?) };
    let auth = match guard.auth {
        Auth::Keys(mut keys) => {
            keys.extend(local.as_ref().map(Key::hash));
            Auth::Keys(keys)
        }
        keyless => keyless,
    };
    tools::Sandbox::sweep();
    let opened = server::open(&config, &folders, &folders.memory(), roots.clone(), auth).await?;
    let opened = opened.with_tenants(&config, &folders).await?;
    opened.service.trace(&config.telemetry)?;
    // Before anybody is told that the service is there: whoever reads that may stop it at once.
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| Failure::new(format!("cannot listen for SIGTERM: {error}")))?;
    Notice::post(&folders.data, address, local.as_ref())?;
    greet(&guard.new_key, &config, address, &roots, args.no_key);
    let readiness = opened.readiness();
    let preload = {
        let (config, folders) = (config.clone(), folders.clone());
        let screen = Screen::new(To::Stderr);
        let opened_model = opened.preloader();
        let service = opened.service.clone();
        tokio::spawn(async move {
            readiness
                .send_replace(Readiness::Starting(format!("the model {} is being pulled", config.model)));
            let done = match models::ready(&config.model, &folders, &screen).await {
                Ok(_) => opened_model.load().await,
                Err(failure) => {
                    readiness.send_replace(Readiness::Failed(failure.to_string()));
                    Err(failure)
                }
            };
            match done {
                Ok(()) => {
                    tracing::info!(model = config.model, "ready");
                    // What is due needs the model.
                    service.agent().keep_time();
                    service.tenants().iter().for_each(|tenant| tenant.agent().keep_time());
                }
                Err(failure) => tracing::error!(model = config.model, "not ready: {failure}"),
            }
        })
    };
    let stop = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: running calls are ended and written down; Ctrl-C once more leaves at once");
        tokio::spawn(async {
            // What is not written down by then is found again at the next start, as after a crash.
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(i32::from(EXIT_INTERRUPTED));
            }
        });
    };
    let done = opened.serve(listener, stop).await;
    preload.abort();
    Notice::remove(&folders.data);
    done.map(|()| 0)
}

struct Guard {
    auth: Auth,
    /// Shown once, when it has just been made.
    new_key: Option<Key>,
}

fn guard(args: &Args, config: &Config, folders: &Folders) -> Result<Guard, Failure> {
    if args.no_key {
        return Ok(Guard { auth: auth::keyless(config.listen)?, new_key: None });
    }
    let file = KeyFile::of(&folders.data);
    if !args.new_key
        && let Some(hash) = file.read()?
    {
        return Ok(Guard { auth: Auth::Keys(vec![hash]), new_key: None });
    }
    let key = file.make()?;
    Ok(Guard { auth: Auth::Keys(vec![key.hash()]), new_key: Some(key) })
}

/// The folders sessions may work in, checked.
fn roots(config: &Config) -> Result<Vec<PathBuf>, Failure> {
    if config.workspace_roots.is_empty() {
        let here = std::env::current_dir().and_then(|here| here.canonicalize()).map_err(|error| {
            Failure::new(format!("the current folder cannot be used: {error}"))
                .next("name a folder with --root")
        })?;
        if here.parent().is_none() {
            return Err(Failure::new("sessions would be let into the whole file system")
                .next("name a folder with --root"));
        }
        return Ok(vec![here]);
    }
    let real = |root: &PathBuf| {
        root.canonicalize().map_err(|error| {
            Failure::new(format!("the workspace root {} cannot be used: {error}", root.display()))
                .next("make the folder, or name another with --root or `workspace_roots`")
        })
    };
    config.workspace_roots.iter().map(real).collect()
}

/// What the operator needs to know, and three commands to begin with.
fn greet(new_key: &Option<Key>, config: &Config, address: SocketAddr, roots: &[PathBuf], no_key: bool) {
    let screen = Screen::new(To::Stdout);
    let url = format!("http://{address}");
    let root = roots.first().map(|root| root.display().to_string()).unwrap_or_default();
    screen.line(&format!("saga {} on {}", env!("CARGO_PKG_VERSION"), screen.ink(Ink::Bold, &url)));
    screen.line(&format!("model: {}", config.model));
    for root in roots {
        screen.line(&format!("workspaces under: {}", root.display()));
    }
    match new_key {
        Some(key) => {
            screen.line(&format!("key: {}", screen.ink(Ink::Bold, key.as_str())));
            screen.line("     (shown this once; `saga up --new-key` makes another)");
        }
        None if no_key => screen.line("key: none; every program of this machine may use the service"),
        None => screen.line("key: the one shown at the first start"),
    }
    let header = if no_key { String::new() } else { " -H \"Authorization: Bearer $SAGA_KEY\"".to_string() };
    screen.line("");
    screen.line("Try, in another terminal:");
    screen.line(&format!("  saga run --repo {root} \"what is this project about?\""));
    screen.line(&format!("  curl{header} {url}/v1/sessions"));
    screen.line(&format!(
        "  curl{header} -H 'Content-Type: application/json' -d '{{\"workspace\":\"{root}\"}}' {url}/v1/sessions"
    ));
    screen.line("");
}
