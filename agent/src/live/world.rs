//! One session's world: its mind, its sandbox and its journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use engine::snapshot::Slot;
use memory::{Journal, NoteId, Seq};
use tokio::sync::Mutex;
use tools::checkpoint::{Difference, Tree};
use tools::egress::Contact;
use tools::mcp::{self, Equipment};
use tools::rules::{self, Level, Rules, Verdict};
use tools::{Call, Exit, Outcome, Policy, Reach, Replay, Running, Sandbox, Spec, Toolbox};

use super::prompt::plain;
use super::{Live, Mind, Thinking, now_ms};
use crate::Error;
use crate::agent::{blocking, encode};
use crate::allowance::Left;
use crate::check;
use crate::child::Merged;
use crate::code;
use crate::context::Message;
use crate::dialect::Dialect;
use crate::event::{Before, Changed, Created, Event, SessionId};
use crate::guides::{self, Guide};
use crate::lead;
use crate::learn::Lessons;
use crate::mind::{LocalMind, RemoteMind, weigh};
use crate::notebook::{Files, Notebook};
use crate::recall::Recollection;
use crate::skills::{self, Skills};
use crate::world::{Cancel, Manner, Progress, Sink, Thought, Weights, World};

/// The longest file that is kept before it is changed; changes of longer ones are not undone. Bytes.
const KEPT_BYTES_MAX: u64 = 256 << 10;

/// One session's real world.
pub(super) struct LiveWorld {
    pub(super) live: Arc<Live>,
    pub(super) journal: Journal,
    pub(super) thinking: Arc<Thinking>,
    pub(super) policy: Policy,
    /// Which calls may run, by everybody who has a say.
    pub(super) rules: Vec<(Level, Rules)>,
    /// Whether the session's model is led.
    pub(super) led: bool,
    pub(super) model: String,
    pub(super) dialect: Option<Dialect>,
    /// The tools, with servers of this session's own.
    pub(super) toolbox: Toolbox,
    pub(super) id: SessionId,
    pub(super) notebook: Notebook,
    /// Where its timeline is kept on disk.
    pub(super) slot: Option<Slot>,
    pub(super) sandbox: Mutex<Option<Arc<Sandbox>>>,
}

impl LiveWorld {
    async fn sandbox(&self) -> Result<Arc<Sandbox>, Error> {
        let mut sandbox = self.sandbox.lock().await;
        // One that was killed between two calls, by the kernel for want of memory say, is no reason to stop.
        if let Some(sandbox) = sandbox.as_ref().filter(|sandbox| !sandbox.has_ended()) {
            return Ok(sandbox.clone());
        }
        let opened = Arc::new(Sandbox::open(self.policy.clone()).await?);
        *sandbox = Some(opened.clone());
        Ok(opened)
    }

    /// A server's tools as this session's model can call them: with schemas that its grammar can be made of.
    async fn fit(&self, equipment: &mut Equipment, out: &Sink) {
        let server = self.live.options.servers.iter().find(|server| server.name == equipment.server);
        let asks = server.is_none_or(|server| server.approve.is_none());
        if asks && self.live.options.lowered.iter().any(|layer| layer == "network") {
            // Then a server in the sandbox may send anything anywhere.
            let inside = equipment.tools.iter_mut().filter(|spec| spec.reach == Reach::Workspace);
            inside.for_each(|spec| spec.reach = Reach::Outside);
        }
        if self.led {
            equipment.tools = equipment.tools.iter().map(plain).collect();
        }
        // Only the embedded engine binds a model by a grammar; what cannot be loaded is said where it is to think.
        let Some(dialect) = self.dialect else { return };
        let Ok(engine) = self.live.engine(&self.model, out).await else { return };
        let special = |name: &str| engine.tokenizer().special(name);
        let makes_a_grammar = |spec: &Spec| {
            engine.grammar(&dialect.grammar(&[spec], crate::dialect::Shape::Free, &[], special)).map(drop)
        };
        let mut notes = Vec::new();
        equipment.tools.retain_mut(|spec| {
            let Err(error) = makes_a_grammar(spec) else { return true };
            *spec = mcp::plainer(spec);
            let kept = makes_a_grammar(spec).is_ok();
            notes.push(match kept {
                true => format!("{}: any value is taken for its arguments: {error}", spec.name),
                false => format!("{}: left out: {error}", spec.name),
            });
            kept
        });
        equipment.notes.extend(notes);
    }
}

#[async_trait]
impl Files for LiveWorld {
    async fn text(&self, path: &str) -> Result<Option<String>, Error> {
        Ok(self.sandbox().await?.text(path, KEPT_BYTES_MAX).await?)
    }
}

#[async_trait]
impl World for LiveWorld {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    async fn append(&self, at_ms: u64, event: &Event) -> Result<Seq, Error> {
        let (journal, record) = (self.journal.clone(), encode(at_ms, event));
        let seq = blocking(move || Ok(journal.append(&record)?)).await?;
        if let Some(allowance) = &self.live.allowance {
            allowance.count(at_ms, event);
        }
        Ok(seq)
    }

    fn replay(&self, tool: &str) -> Replay {
        // A tool nobody knows does nothing, so its refusal may be given again. To remember or to forget twice is to do it once.
        self.live.toolbox.spec(tool).map_or(Replay::Safe, |spec| spec.replay)
    }

    async fn equip(&self, known: &BTreeMap<String, Equipment>, out: &Sink) -> Result<Vec<Equipment>, Error> {
        if self.live.options.servers.is_empty() && known.is_empty() {
            return Ok(Vec::new());
        }
        let mut servers = self.toolbox.equip(&self.sandbox().await?, known).await?;
        for server in &mut servers {
            self.fit(server, out).await;
        }
        // What had to be made simpler may be what it was made into before.
        servers.retain(|now| known.get(&now.server).is_none_or(|before| now.differs(before)));
        Ok(servers)
    }

    async fn think(
        &self,
        conversation: &[Message],
        created: &Created,
        manner: &Manner,
        cancel: &Cancel,
        out: &Sink,
    ) -> Result<Thought, Error> {
        let mut mind = self.thinking.mind.lock().await;
        self.thinking.used.store(self.live.shared.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let thought = async {
            let mind = match &mut *mind {
                Some(mind) => mind,
                none => none.insert(match self.live.remote(&created.model)? {
                    Some(remote) => Mind::Remote(Box::new(RemoteMind::new(remote.clone())?)),
                    None => {
                        let engine = self.live.engine(&created.model, out).await?;
                        let secret = self.live.options.secret.clone();
                        Mind::Local(Box::new(LocalMind::new(engine, created, self.slot.clone(), secret)?))
                    }
                }),
            };
            match mind {
                Mind::Local(mind) => mind.think(conversation, created, manner, cancel, out).await,
                Mind::Remote(mind) => mind.think(conversation, created, manner, cancel, out).await,
            }
        }
        .await;
        drop(mind);
        self.live.trim(&self.thinking);
        thought
    }

    fn allowance(&self) -> Option<Left> {
        self.live.allowance.as_ref().map(|allowance| allowance.left(now_ms()))
    }

    fn judge(&self, call: &Call) -> Option<Verdict> {
        let levels: Vec<(Level, &Rules)> = self.rules.iter().map(|(level, rules)| (*level, rules)).collect();
        rules::judge(&levels, call, self.live.toolbox.spec(&call.name), &self.policy.workspace)
    }

    fn approval_ms(&self) -> Option<u64> {
        self.live.options.approval_ms
    }

    async fn exited(&self) -> Exit {
        let sandbox = self.sandbox.lock().await.clone();
        match sandbox {
            Some(sandbox) => sandbox.exit().await,
            // Where nothing was started nothing ends.
            None => std::future::pending().await,
        }
    }

    fn commands(&self) -> Vec<Running> {
        // One that is being opened runs nothing yet.
        let sandbox = self.sandbox.try_lock().ok().and_then(|sandbox| sandbox.clone());
        sandbox.map(|sandbox| sandbox.running()).unwrap_or_default()
    }

    async fn weigh(&self, conversation: &[Message], created: &Created) -> Result<Weights, Error> {
        let guessed = || Weights::guessed(conversation, created.context_tokens);
        if let Some(remote) = self.live.remote(&created.model)? {
            return Ok(Weights::guessed(conversation, Some(remote.context_tokens)));
        }
        let path = engine::catalog::resolve(&created.model, &self.live.options.models)?;
        // No model is opened to count what is said to it.
        let engines = self.live.shared.engines.try_lock().ok();
        let Some(engine) = engines.and_then(|engines| engines.get(&path).cloned()) else {
            return Ok(guessed());
        };
        let Some(dialect) = Dialect::named(&created.dialect) else { return Ok(guessed()) };
        let window = Some(engine.model().context_tokens as u64);
        let conversation = conversation.to_vec();
        blocking(move || {
            let tokens = weigh(dialect, engine.tokenizer(), &conversation)?;
            Ok(Weights { tokens, window, counted: true })
        })
        .await
    }

    async fn guides(&self, call: &Call, known: &BTreeMap<String, String>) -> Result<Vec<Guide>, Error> {
        guides::find(self, &self.policy.workspace, call, known, self.led).await
    }

    async fn before(&self, call: &Call) -> Result<Option<Before>, Error> {
        let Some(path) = call.arguments["path"].as_str().filter(|_| lead::changes(&call.name)) else {
            return Ok(None);
        };
        let Some(text) = self.sandbox().await?.text(path, KEPT_BYTES_MAX).await? else { return Ok(None) };
        Ok(Some(Before { path: path.to_string(), text }))
    }

    async fn restore(&self, files: &[Changed]) -> Result<Vec<String>, Error> {
        let sandbox = self.sandbox().await?;
        let mut theirs = Vec::new();
        for file in files {
            let now = sandbox.text(&file.before.path, KEPT_BYTES_MAX).await?;
            if !file.ours(now.as_deref()) {
                theirs.push(file.before.path.clone());
            }
        }
        if !theirs.is_empty() {
            return Ok(theirs);
        }
        for Before { path, text } in files.iter().map(|file| &file.before) {
            let arguments = serde_json::json!({ "path": path, "content": text });
            let call = Call { id: String::new(), name: "write".to_string(), arguments };
            let done = self.live.toolbox.perform(&call, &sandbox, &|_: &str| ()).await?;
            if !done.ok {
                return Err(Error::BadRequest(format!("{path} cannot be put back: {}", done.text)));
            }
        }
        Ok(Vec::new())
    }

    async fn checkpoint(&self) -> Result<Option<Tree>, Error> {
        let Some(checkpoints) = &self.live.options.checkpoints else { return Ok(None) };
        let sandbox = self.sandbox().await?;
        let taken = checkpoints.take(&sandbox, self.id.as_str()).await?;
        Ok(Some(taken.tree))
    }

    async fn differences(&self, now: &Tree, to: &Tree) -> Result<Vec<Difference>, Error> {
        let Some(checkpoints) = self.live.options.checkpoints.clone() else { return Ok(Vec::new()) };
        let (now, to) = (*now, *to);
        blocking(move || Ok(checkpoints.differences(&now, &to)?)).await
    }

    async fn put_back(&self, to: &Tree, now: &Tree) -> Result<Vec<String>, Error> {
        let Some(checkpoints) = &self.live.options.checkpoints else { return Ok(Vec::new()) };
        Ok(checkpoints.restore(&*self.sandbox().await?, self.id.as_str(), to, now).await?)
    }

    async fn merge(&self, base: &Tree, theirs: &Tree) -> Result<Merged, Error> {
        let Some(checkpoints) = &self.live.options.checkpoints else {
            return Err(Error::BadRequest("workspaces are not kept here".to_string()));
        };
        let merge = checkpoints.merge(&*self.sandbox().await?, self.id.as_str(), base, theirs).await?;
        Ok(Merged { files: merge.merged, conflicts: merge.conflicts, trouble: None })
    }

    async fn adopt(&self, trees: &[Tree]) -> Result<(), Error> {
        let Some(checkpoints) = self.live.options.checkpoints.clone() else { return Ok(()) };
        let (owner, trees) = (self.id.to_string(), trees.to_vec());
        blocking(move || Ok(checkpoints.adopt(&owner, &trees)?)).await
    }

    async fn recall(&self, said: &str, shown: &BTreeSet<NoteId>) -> Result<Vec<Recollection>, Error> {
        self.notebook.recall(said, shown, self).await
    }

    async fn learn(&self, lessons: Lessons) -> Result<Vec<NoteId>, Error> {
        self.notebook.learn(lessons).await
    }

    fn consults(&self, tool: &str) -> bool {
        Notebook::has(tool) || code::has(tool) || skills::has(tool)
    }

    async fn consult(&self, call: &Call, external: bool) -> Result<(Outcome, Vec<Recollection>), Error> {
        if code::has(&call.name) {
            let found = self.live.code.search(&self.sandbox().await?, call).await?;
            return Ok((found, Vec::new()));
        }
        if skills::has(&call.name) {
            let sandbox = self.sandbox().await?;
            let operator = self.live.options.skills.as_deref();
            let read = Skills { toolbox: &self.live.toolbox, sandbox: &sandbox, operator }.read(call).await?;
            return Ok((read, Vec::new()));
        }
        self.notebook.consult(call, external, self).await
    }

    async fn contacts(&self) -> (Vec<Contact>, u64) {
        let sandbox = self.sandbox.lock().await;
        let (mut contacts, more) =
            sandbox.as_ref().map_or_else(Default::default, |sandbox| sandbox.contacts());
        let (of_servers, more_of_servers) = self.toolbox.contacts();
        contacts.extend(of_servers);
        (contacts, more + more_of_servers)
    }

    async fn act(&self, call: &Call, cancel: &Cancel, out: &Sink) -> Result<Outcome, Error> {
        let sandbox = self.sandbox().await?;
        let (id, sink) = (call.id.clone(), out.clone());
        let show = move |text: &str| sink.say(Progress::Output { call: id.clone(), text: text.to_string() });
        let done = tokio::select! {
            biased;
            done = self.toolbox.perform(call, &sandbox, &show) => done,
            // Dropping the call kills what it started.
            () = cancel.set() => return Ok(Outcome::refused("stopped: the turn was interrupted while this was running")),
        };
        if done.is_err() {
            // A sandbox that failed once is not trusted again; the next call gets a new one.
            *self.sandbox.lock().await = None;
        }
        let mut done = done?;
        if self.led && lead::runs(&call.name) {
            done.text = check::steady(&done.text, &self.policy.workspace);
            if !done.ok {
                done.text = check::what_failed(&done.text);
            }
        }
        Ok(done)
    }
}
