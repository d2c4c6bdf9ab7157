//! A running service: its parts opened, its port bound, its end orderly.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, Live, LiveOptions, OfTenant};
use axum::serve::ListenerExt;
use engine::snapshot::{Secret, Snapshots};
use memory::Memory;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tools::checkpoint::Checkpoints;

use crate::auth::{Auth, Key, write_private};
use crate::client::Client;
use crate::config::{Config, Folders};
use crate::failure::{Failure, in_full};
use crate::routes::router;
use crate::service::{Readiness, Service, Switches};
use crate::tenants::Tenant;

/// How long open connections may take to end once everything else has.
const DRAIN: Duration = Duration::from_secs(5);

/// The bytes of KV that resting sessions may hold together, as a share of the machine's memory.
const KV_SHARE: u64 = 4;
/// What is assumed of a machine that does not tell its memory. Bytes.
const MEMORY_BYTES_UNKNOWN: u64 = 8 << 30;

/// A service whose parts are open and which nobody can reach yet.
pub(crate) struct Opened {
    pub(crate) service: Service,
    pub(crate) live: Arc<Live>,
    switches: Switches,
    model: String,
}

/// Opens the memory in `memory` and the agent over it. What was under way goes on.
pub(crate) async fn open(
    config: &Config,
    folders: &Folders,
    memory: &Path,
    roots: Vec<PathBuf>,
    auth: Auth,
) -> Result<Opened, Failure> {
    let memory = open_memory(memory).await?;
    if let Some(embedder) = crate::models::embedder_if_there(folders).await {
        memory.embed_with(embedder).map_err(|error| Failure::of(&error))?;
    }
    let budget = config.budget.budget();
    let live = open_live(config, folders, &memory, roots).await?;
    let agent = Agent::open(agent::Config { idle: config.idle() }, memory, Arc::new(live.clone())).await?;
    let (service, switches) = Service::new(agent, auth, config.model.clone(), budget, Some(live.clone()));
    Ok(Opened { service, live, switches, model: config.model.clone() })
}

/// Opens the world that sessions live in, without any session. No model is opened for it.
pub(crate) async fn open_live(
    config: &Config,
    folders: &Folders,
    memory: &Memory,
    roots: Vec<PathBuf>,
) -> Result<Arc<Live>, Failure> {
    let options = LiveOptions {
        models: folders.models.clone(),
        model: config.model.clone(),
        roots,
        threads: config.threads,
        context_tokens: config.context_tokens,
        expert_bytes: config.expert_bytes,
        table_bytes: config.table_bytes,
        lines_bytes: config.lines_bytes,
        round_trips: config.round_trips,
        kv: config.kv.into(),
        speculate: config.speculate.into(),
        draft: config.draft.clone(),
        budget: config.budget.budget(),
        sampling: config.sampling.clone(),
        backend: config.sandbox.backend,
        lowered: config.sandbox.lowered.clone(),
        secrets: config.sandbox.secrets.clone(),
        egress: config.sandbox.egress.open().map_err(Failure::new)?,
        workspace_bytes: config.sandbox.workspace_bytes,
        servers: crate::mcp::config::servers_in(&config.mcp, folders).map_err(Failure::new)?,
        helper: None,
        kv_bytes_max: crate::host::memory_bytes().unwrap_or(MEMORY_BYTES_UNKNOWN) / KV_SHARE,
        snapshots: open_snapshots(&folders.data.join("kv"), config.snapshot_bytes).await,
        secret: config.snapshot_key.as_deref().map(Secret::read).transpose()?,
        checkpoints: open_checkpoints(&folders.data.join("checkpoints"), config.checkpoint_bytes).await,
        children_max: config.sub_agents_max,
        branches: Some(folders.data.join("branches")),
        minds: config.minds()?,
        rules: config.rules.clone(),
        approval_ms: (config.approval_secs > 0).then(|| config.approval_secs.saturating_mul(1000)),
        memory: config.memory,
        reflect: config.reflect,
        skills: config.skills.clone(),
        tokens_per_day: None,
    };
    Ok(Live::new(options, memory.clone()))
}

impl Opened {
    /// Opens the tenants that the data folder has, beside the service's own sessions.
    pub(crate) async fn with_tenants(
        mut self,
        config: &Config,
        folders: &Folders,
    ) -> Result<Opened, Failure> {
        let mut services = Vec::new();
        for tenant in Tenant::all(&folders.data)? {
            let memory = open_memory(&tenant.memory()).await?;
            if let Some(embedder) = crate::models::embedder_if_there(folders).await {
                memory.embed_with(embedder).map_err(|error| Failure::of(&error))?;
            }
            let checkpoints = open_checkpoints(&tenant.checkpoints(), config.checkpoint_bytes).await;
            let own = OfTenant {
                name: tenant.name().to_string(),
                roots: tenant.roots()?,
                secret: tenant.secret()?,
                checkpoints,
                branches: Some(tenant.branches()),
                tokens_per_day: tenant.tokens_per_day()?,
            };
            let live = self.live.beside(memory.clone(), own);
            let agent =
                Agent::open(agent::Config { idle: config.idle() }, memory, Arc::new(live.clone())).await?;
            services.push(self.service.beside(agent, Auth::Keys(vec![tenant.key()?]), Some(live)));
        }
        self.service = self.service.with_tenants(services);
        Ok(self)
    }
}

/// Opens the folder of checkpoints. Without it sessions go on all the same, and cannot be wound back.
pub(crate) async fn open_checkpoints(folder: &Path, bytes_max: u64) -> Option<Checkpoints> {
    if bytes_max == 0 {
        return None;
    }
    let folder = folder.to_path_buf();
    match tokio::task::spawn_blocking(move || Checkpoints::open(&folder, bytes_max)).await {
        Ok(Ok(checkpoints)) => Some(checkpoints),
        Ok(Err(error)) => {
            tracing::warn!("workspaces are not kept: {}", in_full(&error));
            None
        }
        Err(error) => {
            tracing::warn!("workspaces are not kept: {error}");
            None
        }
    }
}

/// Opens the folder of snapshots. Without it sessions go on all the same, and compute again after a restart.
async fn open_snapshots(folder: &Path, bytes_max: u64) -> Option<Snapshots> {
    if bytes_max == 0 {
        return None;
    }
    let folder = folder.to_path_buf();
    match tokio::task::spawn_blocking(move || Snapshots::open(&folder, bytes_max)).await {
        Ok(Ok(snapshots)) => Some(snapshots),
        Ok(Err(error)) => {
            tracing::warn!(%error, "what sessions compute is not kept over a restart");
            None
        }
        Err(error) => {
            tracing::error!(%error, "opening the folder of snapshots failed");
            None
        }
    }
}

/// Opens the memory in `dir`, which is made when it is missing.
pub(crate) async fn open_memory(dir: &Path) -> Result<Memory, Failure> {
    make_folder(dir)?;
    let dir = dir.to_path_buf();
    let opened = tokio::task::spawn_blocking(move || Memory::open(&dir)).await;
    match opened.map_err(|error| Failure::new(format!("opening the memory failed: {error}")))? {
        Ok(memory) => Ok(memory),
        Err(error @ memory::Error::Locked { .. }) => Err(Failure::of(&error).next(
            "if that is a `saga up`, reach it with --server and SAGA_KEY; if it is a `saga run`, wait for its end",
        )),
        Err(error) => Err(Failure::of(&error)),
    }
}

/// Makes a folder that only this user may enter.
pub(crate) fn make_folder(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Failure::unwritable(dir, &error))
}

/// Takes a port.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let failure = Failure::new(format!("cannot listen on {address}: {error}"));
        match error.kind() {
            std::io::ErrorKind::AddrInUse => failure
                .next("a service runs there already; stop it, or choose another port with --listen (port 0 picks a free one)"),
            std::io::ErrorKind::PermissionDenied => failure.next("ports below 1024 belong to root; choose one above with --listen"),
            std::io::ErrorKind::AddrNotAvailable => failure.next("this machine does not have that address; choose another with --listen"),
            _ => failure.next("choose another address with --listen"),
        }
    })
}

impl Opened {
    /// What loads the service's model.
    pub(crate) fn preloader(&self) -> Preloader {
        Preloader {
            live: self.live.clone(),
            model: self.model.clone(),
            readiness: self.switches.readiness.clone(),
        }
    }

    /// Says what the service waits for before its model can be loaded, or that it waits in vain.
    pub(crate) fn readiness(&self) -> tokio::sync::watch::Sender<Readiness> {
        self.switches.readiness.clone()
    }

    /// Serves until `stop` ends: then sessions are stopped and written down, streams and connections end.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Failure> {
        serve(self.service, self.switches, listener, stop).await
    }
}

/// Loads the model of a service.
pub(crate) struct Preloader {
    live: Arc<Live>,
    model: String,
    readiness: tokio::sync::watch::Sender<Readiness>,
}

impl Preloader {
    /// Loads it. The service is ready afterwards, or says why it is not.
    pub(crate) async fn load(self) -> Result<(), Failure> {
        let Preloader { live, model, readiness } = self;
        if let Some(remote) = live.remote(&model).inspect_err(|error| {
            readiness.send_replace(Readiness::Failed(in_full(error)));
        })? {
            // Whether it answers is seen when it is asked; a cluster that restarts is no reason to be away oneself.
            tracing::info!(mind = remote.name, url = remote.url, "thinking is done elsewhere");
            readiness.send_replace(Readiness::Ready);
            return Ok(());
        }
        readiness.send_replace(Readiness::Starting(format!("loading the model {model}")));
        let (said, name) = (readiness.clone(), model.clone());
        let sink = agent::Sink::new(move |progress| {
            if let agent::Progress::Loading { done_bytes, total_bytes } = progress {
                let percent = (done_bytes * 100).checked_div(total_bytes).unwrap_or_default();
                said.send_replace(Readiness::Starting(format!("loading the model {name} ({percent} %)")));
            }
        });
        match live.engine(&model, &sink).await {
            Ok(_) => {
                readiness.send_replace(Readiness::Ready);
                Ok(())
            }
            Err(error) => {
                readiness.send_replace(Readiness::Failed(in_full(&error)));
                Err(Failure::from(error))
            }
        }
    }
}

/// Serves `service` on `listener` until `stop` ends: then sessions are stopped and written down, streams and connections end.
///
/// # Errors
/// [`Failure`] when the listener fails for good.
pub async fn serve(
    service: Service,
    switches: Switches,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let live = service.live().cloned();
    let agents: Vec<Agent> =
        std::iter::once(&service).chain(service.tenants()).map(|service| service.agent().clone()).collect();
    let (draining, drained) = oneshot::channel();
    let stop = async move {
        stop.await;
        let mut stopping = tokio::task::JoinSet::new();
        agents.into_iter().for_each(|agent| drop(stopping.spawn(async move { agent.stop().await })));
        stopping.join_all().await;
        switches.closing.send_replace(true);
        if let Some(live) = live {
            live.settle().await;
        }
        // The server may have ended by itself.
        let _ = draining.send(());
    };
    // A token goes out when it is there; a failure to say so only makes streams less smooth.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let serving = axum::serve(listener, router(service)).with_graceful_shutdown(stop).into_future();
    let late = async {
        match drained.await {
            Ok(()) => tokio::time::sleep(DRAIN).await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        done = serving => done.map_err(|error| Failure::new(format!("the service stopped: {error}"))),
        () = late => Ok(()),
    }
}

/// A service inside of this process, reached like any other.
pub(crate) struct Inside {
    pub(crate) client: Client,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Failure>>,
}

impl Inside {
    /// Serves on a free loopback port, to whoever has a key that nobody is told.
    pub(crate) async fn start(
        config: &Config,
        folders: &Folders,
        memory: &Path,
        roots: Vec<PathBuf>,
    ) -> Result<Inside, Failure> {
        let key = Key::new()?;
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener
            .local_addr()
            .map_err(|error| Failure::new(format!("the port has no address: {error}")))?;
        let opened = open(config, folders, memory, roots, Auth::Keys(vec![key.hash()])).await?;
        opened.service.trace(&config.telemetry)?;
        opened.preloader().load().await?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(opened.serve(listener, async move {
            // A switch that is gone means that nobody wants the service any more.
            let _ = stopped.await;
        }));
        let client = Client::new(&format!("http://{address}"), Some(key))?;
        Ok(Inside { client, stop, task })
    }

    /// Stops it and waits until everything is written.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Where a running `saga up` can be found by commands of the same user on the same machine. Its key is made at each start,
/// is good for nothing once the service stops, and lies where everything the service knows lies: in a file that only this
/// user may read.
#[derive(Serialize, Deserialize)]
pub(crate) struct Notice {
    url: String,
    key: Option<String>,
    pid: u32,
}

impl Notice {
    fn path(data: &Path) -> PathBuf {
        data.join("server.json")
    }

    pub(crate) fn post(data: &Path, address: SocketAddr, key: Option<&Key>) -> Result<(), Failure> {
        let key = key.map(|key| key.as_str().to_string());
        // A service on every address is reached here by the loopback one.
        let ip = match address.ip() {
            ip if ip.is_unspecified() && ip.is_ipv6() => std::net::Ipv6Addr::LOCALHOST.into(),
            ip if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
            ip => ip,
        };
        let notice = Notice {
            url: format!("http://{}", SocketAddr::new(ip, address.port())),
            key,
            pid: std::process::id(),
        };
        let text = serde_json::to_vec(&notice).expect("a notice has only strings and a number");
        let path = Notice::path(data);
        write_private(&path, &text).map_err(|error| Failure::unwritable(&path, &error))
    }

    pub(crate) fn remove(data: &Path) {
        // What is left behind is found to be out of date by the next reader.
        let _ = std::fs::remove_file(Notice::path(data));
    }

    /// A client of the service that is running over this data folder; nothing when there is none.
    pub(crate) async fn find(data: &Path) -> Option<Client> {
        let text = std::fs::read(Notice::path(data)).ok()?;
        let notice: Notice = serde_json::from_slice(&text).ok()?;
        // The port of a service that was killed may belong to anybody by now, who must not be shown anything.
        rustix::process::test_kill_process(rustix::process::Pid::from_raw(notice.pid.try_into().ok()?)?)
            .ok()?;
        let client = Client::new(&notice.url, notice.key.map(Key::given)).ok()?;
        client.ready().await.ok()?;
        Some(client)
    }
}
