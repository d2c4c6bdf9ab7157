//! How a command reaches a service: the one it is told, the one that runs here, or one it starts for itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::auth::Key;
use crate::client::Client;
use crate::config::{Config, Folders};
use crate::failure::Failure;
use crate::models;
use crate::server::{Inside, Notice};
use crate::term::Screen;
use crate::wire;

/// Which service to use.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Server {
    /// The service to use; its key is taken from SAGA_KEY. Without it, a running `saga up` of this user is used, or one
    /// is started for this command alone.
    #[arg(long, env = "SAGA_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
}

/// How long to wait before a service that loads is asked again.
const AGAIN: Duration = Duration::from_millis(300);

/// A service within reach.
pub(crate) struct Reached {
    pub(crate) client: Client,
    inside: Option<Inside>,
}

impl Server {
    /// A service that runs already; nothing when there is none and none was named.
    pub(crate) async fn running(&self, folders: &Folders) -> Result<Option<Client>, Failure> {
        if let Some(url) = self.server.as_deref().filter(|url| !url.is_empty()) {
            let key = std::env::var("SAGA_KEY").ok().filter(|key| !key.is_empty()).map(Key::given);
            let client = Client::new(url, key)?;
            // A service that cannot be reached is said before anything else is done.
            client.ready().await?;
            return Ok(Some(client));
        }
        Ok(Notice::find(&folders.data).await)
    }

    /// A service that runs already, or a new one inside of this process whose sessions may work in `roots`.
    pub(crate) async fn reach(
        &self,
        config: &Config,
        folders: &Folders,
        roots: Vec<PathBuf>,
        screen: &Screen,
    ) -> Result<Reached, Failure> {
        if let Some(client) = self.running(folders).await? {
            return Ok(Reached { client, inside: None });
        }
        models::ready(&config.model, folders, screen).await?;
        Reached::start(config, folders, &folders.memory(), roots, screen).await
    }
}

impl Reached {
    /// A new service inside of this process.
    pub(crate) async fn start(
        config: &Config,
        folders: &Folders,
        memory: &Path,
        roots: Vec<PathBuf>,
        screen: &Screen,
    ) -> Result<Reached, Failure> {
        let starting = Inside::start(config, folders, memory, roots);
        tokio::pin!(starting);
        let status = format!("loading {}", config.model);
        let inside = loop {
            tokio::select! {
                done = &mut starting => break done?,
                () = tokio::time::sleep(Duration::from_millis(100)) => screen.status(&status),
            }
        };
        screen.quiet();
        Ok(Reached { client: inside.client.clone(), inside: Some(inside) })
    }

    /// Makes a session, once the service is ready.
    pub(crate) async fn create(
        &self,
        new: &wire::NewSession,
        screen: &Screen,
    ) -> Result<wire::Session, Failure> {
        loop {
            let refusal = match self.client.create(new).await {
                Ok(session) => return Ok(session),
                Err(refusal) => refusal,
            };
            let ready = match refusal.code() {
                Some("not_ready") => self.client.ready().await?,
                _ => return Err(refusal.into()),
            };
            if ready.state == wire::ReadyState::Failed {
                return Err(refusal.into());
            }
            screen.status(&format!("waiting for the service: {}", ready.detail.unwrap_or_default()));
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether the service ends with this command.
    pub(crate) fn is_inside(&self) -> bool {
        self.inside.is_some()
    }

    /// Lets the service go; one of this process stops and writes down what was under way.
    pub(crate) async fn leave(self) {
        if let Some(inside) = self.inside {
            inside.stop().await;
        }
    }
}
