//! Opening a sandbox: from a policy to a helper that says it is ready.

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::root::{self, HOME};
use super::runsc;
use super::toolchains::{self, Toolchains};
use super::wire::{self, Report, Setup, Shown};
use super::{Layer, Sandbox};
use crate::egress::{Gate, Proxy};
use crate::policy::Backend;
use crate::{Error, Policy};

/// How long a helper may take to say hello, and then to be ready. Milliseconds are usual; a loaded machine takes more.
const HELLO_WALL: Duration = Duration::from_secs(20);
const READY_WALL: Duration = Duration::from_secs(30);

/// Folders of programs that every host has.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) async fn open(policy: Policy) -> Result<Sandbox, Error> {
    let mut setup = setup(&policy, &toolchains::find(), false)?;
    let runsc = match policy.backend {
        Backend::Native => None,
        Backend::Runsc => Some(runsc::find()?),
    };
    setup.runsc.clone_from(&runsc);
    let workspace = setup
        .workspace
        .to_str()
        .ok_or_else(|| Error::Workspace {
            path: policy.workspace.clone(),
            why: "its path is not UTF-8".to_owned(),
        })?
        .to_owned();
    let helper = helper(&policy)?;

    let (ours, theirs) = UnixStream::pair().map_err(Error::io("making a socket pair"))?;
    let keeper = tokio::process::Command::from(helper_command(&helper, theirs))
        .spawn()
        .map_err(|error| Error::Helper { path: helper.clone(), why: error.to_string() })?;
    ours.set_nonblocking(true).map_err(Error::io("setting up the control socket"))?;
    let mut control =
        tokio::net::UnixStream::from_std(ours).map_err(Error::io("setting up the control socket"))?;

    let mut hello = [0];
    let greeted = tokio::time::timeout(HELLO_WALL, control.read_exact(&mut hello)).await;
    if !matches!(greeted, Ok(Ok(_))) || hello[0] != wire::HELLO {
        return Err(not_a_helper(helper));
    }
    let report = tokio::time::timeout(READY_WALL, async {
        control.write_all(&wire::frame(&setup)?).await?;
        receive::<Report>(&mut control).await
    });
    let report = match report.await {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => return Err(Error::Gone(format!("its helper ended while setting up: {error}"))),
        Err(_) => return Err(Error::Gone(format!("its helper was not ready within {READY_WALL:?}"))),
    };
    match report {
        Report::Ready { layers, cgroup, listens } => {
            let gate = policy.egress.map(|egress| Arc::new(Gate::new(egress)));
            let proxy = match &gate {
                Some(gate) if listens => {
                    let listener = tokio::time::timeout(HELLO_WALL, listener(&control)).await;
                    let listener = listener.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                    let started = listener.and_then(|listener| Proxy::start(listener, gate.clone()));
                    Some(started.map_err(Error::io("starting the sandbox's proxy"))?)
                }
                Some(_) | None => None,
            };
            let control = control.into_std().map_err(Error::io("setting up the control socket"))?;
            control.set_nonblocking(false).map_err(Error::io("setting up the control socket"))?;
            let missing: Vec<Layer> = layers.into_iter().filter(|layer| !layer.holds).collect();
            for layer in &missing {
                tracing::warn!(layer = layer.name, detail = layer.detail, "sandbox layer missing");
            }
            let sandbox = Sandbox {
                control,
                _keeper: keeper,
                workspace,
                limits: policy.limits,
                missing,
                cgroup,
                in_gvisor: runsc.is_some(),
                project: tokio::sync::Mutex::default(),
                outputs: super::outputs::Outputs::default(),
                background: super::Background::default(),
                gate,
                _proxy: proxy,
            };
            if let Some(runsc) = runsc {
                runsc::try_out(&sandbox, &runsc).await?;
            }
            Ok(sandbox)
        }
        Report::Missing { layer, .. } => {
            Err(Error::Missing { layer: layer.name, detail: layer.detail, mend: layer.mend })
        }
        Report::Failed { what } => Err(Error::Gone(format!("setting it up failed: {what}"))),
    }
}

/// The listener that follows when a session has a proxy.
async fn listener(control: &tokio::net::UnixStream) -> io::Result<TcpListener> {
    let received = control.async_io(tokio::io::Interest::READABLE, || wire::receive_with(control)).await?;
    match received {
        Some((wire::LISTENER, fds)) if fds.len() == 1 => {
            let mut fds = fds.into_iter();
            Ok(TcpListener::from(fds.next().expect("there is one")))
        }
        Some(_) | None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Tries every layer on an empty folder.
pub(super) fn probe(helper: Option<PathBuf>) -> Vec<Layer> {
    let toolchains = toolchains::find();
    let mut layers = match try_layers(helper, &toolchains) {
        Ok(layers) => layers,
        Err(error) => vec![Layer {
            name: "helper".to_owned(),
            holds: false,
            detail: error.to_string(),
            mend: "Start saga from its installed binary; if this is one, report a bug.".to_owned(),
        }],
    };
    let found = toolchains.found.join(", ");
    layers.push(Layer {
        name: "toolchains".to_owned(),
        holds: !found.is_empty(),
        detail: if found.is_empty() {
            "none found along PATH and in the home folder".to_owned()
        } else {
            found
        },
        mend: if toolchains.found.is_empty() {
            "Install the languages your projects need, or name their folders as read-only in the settings."
                .to_owned()
        } else {
            String::new()
        },
    });
    layers
}

fn try_layers(helper_path: Option<PathBuf>, toolchains: &Toolchains) -> Result<Vec<Layer>, Error> {
    let folder = env::temp_dir().join(format!("saga-probe-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(Error::io("making a folder to probe with"))?;
    let tried = || -> Result<Vec<Layer>, Error> {
        let mut policy = Policy::new(&folder);
        policy.helper = helper_path;
        let setup = setup(&policy, toolchains, true)?;
        let helper = helper(&policy)?;
        let (ours, theirs) = UnixStream::pair().map_err(Error::io("making a socket pair"))?;
        let mut keeper = helper_command(&helper, theirs)
            .spawn()
            .map_err(|error| Error::Helper { path: helper.clone(), why: error.to_string() })?;
        let talk = || -> io::Result<Option<Report>> {
            use std::io::Read;
            ours.set_read_timeout(Some(HELLO_WALL))?;
            let mut hello = [0];
            if (&ours).read_exact(&mut hello).is_err() || hello[0] != wire::HELLO {
                return Ok(None);
            }
            wire::send(&ours, &setup)?;
            wire::receive(&ours).map(Some)
        };
        let report = talk();
        drop(ours);
        // With its socket closed it ends; one that is no helper is killed.
        if !matches!(report, Ok(Some(_))) {
            let _ = keeper.kill();
        }
        let _ = keeper.wait();
        match report.map_err(Error::io("talking to the helper"))? {
            None => Err(not_a_helper(helper)),
            Some(Report::Ready { layers, .. }) => Ok(layers),
            Some(Report::Missing { mut layers, layer }) => {
                layers.push(layer);
                Ok(layers)
            }
            Some(Report::Failed { what }) => Err(Error::Gone(what)),
        }
    };
    let layers = tried();
    // It is empty; a failure leaves an empty folder in the host's temporary folder.
    let _ = std::fs::remove_dir(&folder);
    layers
}

fn not_a_helper(path: PathBuf) -> Error {
    Error::Helper {
        path,
        why: "it did not answer as a helper; its main function must begin with tools::maybe_become_helper()"
            .to_owned(),
    }
}

/// The binary to start. A helper that itself tries to open a sandbox is a binary that does not know it is a helper, and
/// would start itself for ever.
fn helper(policy: &Policy) -> Result<PathBuf, Error> {
    let path = policy.helper.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    if env::args_os().next().is_some_and(|name| name == wire::HELPER) {
        return Err(not_a_helper(path));
    }
    Ok(path)
}

fn helper_command(helper: &Path, control: UnixStream) -> std::process::Command {
    let mut command = std::process::Command::new(helper);
    command
        .arg0(wire::HELPER)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(control)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Everything the helper needs to know, checked.
fn setup(policy: &Policy, toolchains: &Toolchains, probing: bool) -> Result<Setup, Error> {
    let refuse = |why: String| Error::Workspace { path: policy.workspace.clone(), why };
    if !policy.workspace.is_absolute() {
        return Err(refuse("its path must be absolute".to_owned()));
    }
    let workspace = policy.workspace.canonicalize().map_err(|error| refuse(error.to_string()))?;
    if !workspace.is_dir() {
        return Err(refuse("it is not a folder".to_owned()));
    }
    let mut shown = toolchains.shown.clone();
    let reaches_out = policy.egress.as_ref().is_some_and(|egress| egress.is_open());
    if !reaches_out {
        shown.extend(toolchains.downloaded.iter().cloned());
    }
    shown.extend(policy.read_only.iter().map(|path| Shown { host: path.clone(), at: path.clone() }));
    if let Some(why) = root::objection(&workspace, &toolchains.shown) {
        return Err(refuse(why));
    }
    crate::secrets::Secrets::new(&policy.secrets).map_err(refuse)?;
    Ok(Setup {
        workspace,
        frozen: policy.frozen,
        runsc: None,
        limits: policy.limits.clone(),
        read_only: shown,
        env: environment(policy, toolchains),
        egress: policy.egress.as_ref().map(|egress| egress.inside().clone()),
        secrets: policy.secrets.clone(),
        lowered: policy.lowered.clone(),
        probing,
    })
}

/// The environment of every command: built from nothing.
fn environment(policy: &Policy, toolchains: &Toolchains) -> Vec<(String, String)> {
    let mut path: Vec<String> = toolchains.path.iter().map(|folder| folder.display().to_string()).collect();
    path.push(SYSTEM_PATH.to_owned());
    let cargo_bin = format!("{HOME}/.cargo/bin");
    path.push(cargo_bin);
    let mut env: BTreeMap<String, String> = [
        ("PATH", path.join(":").as_str()),
        ("HOME", HOME),
        ("USER", "saga"),
        ("LOGNAME", "saga"),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
        ("TERM", "dumb"),
        ("TMPDIR", "/tmp"),
        ("NO_COLOR", "1"),
        ("PAGER", "cat"),
        ("GIT_PAGER", "cat"),
        ("GIT_TERMINAL_PROMPT", "0"),
        // Compiled files beside the sources would show up as changes the model made.
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    env.extend(toolchains.env.iter().cloned());
    env.extend(policy.env.iter().cloned());
    env.into_iter().collect()
}

/// One frame from an asynchronous stream.
pub(super) async fn receive<T: serde::de::DeserializeOwned>(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let length = wire::checked_length(length)?;
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&bytes)?)
}
