//! The service behind the routes: the agent, who may ask it, and whether it is ready.

use std::sync::{Arc, OnceLock};

use agent::{Agent, Budget, Live};
use tokio::sync::watch;

use crate::auth::Auth;
use crate::error::Problem;
use crate::failure::Failure;
use crate::telemetry::{Counts, TelemetryConfig};
use crate::wire;

/// What the routes speak for. A cheap handle.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    agent: Agent,
    auth: Auth,
    model: String,
    budget: Budget,
    state: watch::Receiver<Readiness>,
    closing: watch::Receiver<bool>,
    live: Option<Arc<Live>>,
    /// The services of tenants, each behind its own key.
    tenants: Vec<Service>,
    /// What has become of spans, where they are sent.
    telemetry: OnceLock<Arc<Counts>>,
}

/// Whether the service can think.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet; what it is doing.
    Starting(String),
    /// It can.
    Ready,
    /// Not without help; what is wrong.
    Failed(String),
}

/// The ends of a service that its server holds.
pub struct Switches {
    /// Says whether the service can think.
    pub readiness: watch::Sender<Readiness>,
    /// Set once the service stops: streams end.
    pub closing: watch::Sender<bool>,
}

impl Service {
    /// A service over `agent`, whose sessions live in `live` if they are real; `model` and `budget` are what sessions get that ask for none.
    pub fn new(
        agent: Agent,
        auth: Auth,
        model: String,
        budget: Budget,
        live: Option<Arc<Live>>,
    ) -> (Service, Switches) {
        let (readiness, state) = watch::channel(Readiness::Starting("starting".to_string()));
        let (close, closing) = watch::channel(false);
        let (tenants, telemetry) = (Vec::new(), OnceLock::new());
        let inner = Inner { agent, auth, model, budget, state, closing, live, tenants, telemetry };
        let service = Service(Arc::new(inner));
        (service, Switches { readiness, closing: close })
    }

    /// The service of a tenant beside this one: sessions, memory and key are its own, readiness and end are shared.
    pub fn beside(&self, agent: Agent, auth: Auth, live: Option<Arc<Live>>) -> Service {
        let Inner { model, budget, state, closing, .. } = &*self.0;
        Service(Arc::new(Inner {
            agent,
            auth,
            live,
            model: model.clone(),
            budget: *budget,
            state: state.clone(),
            closing: closing.clone(),
            tenants: Vec::new(),
            telemetry: OnceLock::new(),
        }))
    }

    /// This service, with these tenants behind the same address.
    pub fn with_tenants(self, tenants: Vec<Service>) -> Service {
        let Inner { agent, auth, model, budget, state, closing, live, .. } = &*self.0;
        Service(Arc::new(Inner {
            agent: agent.clone(),
            auth: auth.clone(),
            model: model.clone(),
            budget: *budget,
            state: state.clone(),
            closing: closing.clone(),
            live: live.clone(),
            tenants,
            telemetry: OnceLock::new(),
        }))
    }

    /// The services of tenants.
    pub fn tenants(&self) -> &[Service] {
        &self.0.tenants
    }

    /// Sends spans of what all sessions do, where the settings say so.
    pub(crate) fn trace(&self, config: &TelemetryConfig) -> Result<(), Failure> {
        let all = std::iter::once(self).chain(self.tenants());
        if let Some(counts) = config.start(all.map(|service| service.agent().clone()).collect())? {
            // Once is enough.
            let _ = self.0.telemetry.set(counts);
        }
        Ok(())
    }

    /// What has become of spans, where they are sent.
    pub(crate) fn telemetry(&self) -> Option<&Counts> {
        self.0.telemetry.get().map(|counts| &**counts)
    }

    /// The sessions.
    pub fn agent(&self) -> &Agent {
        &self.0.agent
    }

    pub(crate) fn auth(&self) -> &Auth {
        &self.0.auth
    }

    /// The real world, if its sessions live there.
    pub(crate) fn live(&self) -> Option<&Arc<Live>> {
        self.0.live.as_ref()
    }

    pub(crate) fn budget(&self) -> Budget {
        self.0.budget
    }

    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.0.closing.clone()
    }

    pub(crate) fn readiness(&self) -> wire::Readiness {
        let (state, detail) = match &*self.0.state.borrow() {
            Readiness::Ready => (wire::ReadyState::Ready, None),
            Readiness::Starting(what) => (wire::ReadyState::Starting, Some(what.clone())),
            Readiness::Failed(what) => (wire::ReadyState::Failed, Some(what.clone())),
        };
        let ready = state == wire::ReadyState::Ready;
        wire::Readiness { ready, state, model: self.0.model.clone(), detail }
    }

    /// Refuses what needs the default model while it is not there.
    pub(crate) fn must_be_ready(&self) -> Result<(), Problem> {
        match &*self.0.state.borrow() {
            Readiness::Ready => Ok(()),
            Readiness::Starting(what) | Readiness::Failed(what) => Err(Problem::starting(what)),
        }
    }
}
