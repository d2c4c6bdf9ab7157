//! A world on a stage: the mind follows a script, tools are closures, the journal is real, and the power can fail
//! before or after any effect.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use agent::guides::Guide;
use agent::{
    Allowance, Before, Budget, Cancel, Changed, Created, Error, Event, Left, Lessons, Loop, Manner, Merged,
    Message, NewSession, Notebook, Progress, Recollection, Recorded, SessionId, Sink, Stop, Thought, Usage,
    Weights, World, Worlds,
};
use async_trait::async_trait;
use engine::repeats::{Repeat, Repeats};
use memory::{Journal, Memory, NoteId, Seq};
use tools::checkpoint::{Difference, How, Tree};
use tools::egress::Contact;
use tools::rules::{Level, Rule, Rules, Verdict};
use tools::{Call, Exit, Outcome, Reach, Replay, Running, Spec};

/// What the mind says: its nth reply of the session, whatever it is asked.
#[derive(Debug, Clone, Default)]
pub struct Script(pub Vec<Thought>);

/// A call that a tool has really run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// [`Call::id`].
    pub id: String,
    /// The tool.
    pub name: String,
}

/// The world of one or more sessions. Tools whose name begins with `safe` may be run again; those whose name ends
/// with `fails` fail; `post` reaches beyond the workspace. Sessions of [`Stage::remembering`] have a real memory.
pub struct Stage {
    memory: Memory,
    script: Script,
    /// What the mind says in a sub-agent, from its task on.
    pub child_script: Mutex<Script>,
    /// What the mind says a turn has shown; sessions here are not asked for it when left out. When empty, it thinks for ever.
    pub reflection: Mutex<Option<String>>,
    /// The files of sub-agents that have a copy of their own.
    branches: Mutex<BTreeMap<SessionId, Files>>,
    /// Effects until the power fails; `usize::MAX` for never.
    fuse: AtomicUsize,
    /// Whether the last effect still happens when the power fails.
    last_effect_happens: bool,
    ran: Mutex<Vec<Ran>>,
    clock: AtomicUsize,
    /// The files that `edit` writes and `exec` checks. They outlive the power.
    pub files: Files,
    /// What `files` were at checkpoints; nothing when sessions here have none.
    kept: Option<Mutex<BTreeMap<Tree, BTreeMap<String, String>>>>,
    /// How long a thought or a call takes, so that others can come in between.
    pub takes: std::time::Duration,
    /// Which calls may run, as whoever runs the service says.
    pub rules: Mutex<Vec<Rule>>,
    /// How long somebody may take to approve of a call. Milliseconds; 0 as long as they like.
    pub approval_ms: AtomicU64,
    /// What all sessions here may use together.
    pub allowance: Mutex<Option<Arc<Allowance>>>,
    /// Tokens that the mind's context holds; 0 for no end of them.
    pub window: AtomicU64,
    /// The commands that run in the background, and those that have ended and nobody was told of.
    pub background: Mutex<Vec<Running>>,
    exits: Mutex<Vec<Exit>>,
    /// What the mind says when it is to judge a goal, in order.
    pub verdicts: Mutex<std::collections::VecDeque<String>>,
    ended: tokio::sync::Notify,
    /// How many sub-agents a session may have at work; 0: none, and its mind knows of none.
    pub children_max: AtomicU64,
    /// How often the mind was asked, where its context has an end.
    thoughts: AtomicUsize,
    /// What the next call reaches for beyond the sandbox's network.
    pub reaches: Mutex<Vec<Contact>>,
    /// What was reached for and nobody has asked about yet.
    pub reached: Mutex<Vec<Contact>>,
}

/// Files by their paths, shared by the lives of a service.
pub type Files = Arc<Mutex<BTreeMap<String, String>>>;

impl Stage {
    /// A stage like [`Stage::new`], on files that were there before.
    pub fn on(
        files: &Files,
        memory: Memory,
        script: Script,
        fuse: usize,
        last_effect_happens: bool,
    ) -> Arc<Stage> {
        let stage = Stage::new(memory, script, fuse, last_effect_happens);
        let mut stage = Arc::into_inner(stage).expect("nobody else has it yet");
        stage.files = files.clone();
        Arc::new(stage)
    }

    /// A stage whose power fails at the `fuse`th effect: before it, or right after it has happened.
    pub fn new(memory: Memory, script: Script, fuse: usize, last_effect_happens: bool) -> Arc<Stage> {
        Arc::new(Stage {
            memory,
            script,
            child_script: Mutex::default(),
            branches: Mutex::default(),
            fuse: AtomicUsize::new(fuse),
            last_effect_happens,
            ran: Mutex::default(),
            clock: AtomicUsize::new(1_000),
            files: Files::default(),
            kept: None,
            takes: std::time::Duration::ZERO,
            rules: Mutex::default(),
            reaches: Mutex::default(),
            reached: Mutex::default(),
            approval_ms: AtomicU64::default(),
            allowance: Mutex::default(),
            window: AtomicU64::default(),
            background: Mutex::default(),
            exits: Mutex::default(),
            verdicts: Mutex::default(),
            ended: tokio::sync::Notify::new(),
            children_max: AtomicU64::default(),
            reflection: Mutex::default(),
            thoughts: AtomicUsize::default(),
        })
    }

    /// A stage whose power never fails and whose effects take a while.
    pub fn lasting(memory: Memory, script: Script, takes: std::time::Duration) -> Arc<Stage> {
        let stage = Stage::new(memory, script, usize::MAX, false);
        let mut stage = Arc::into_inner(stage).expect("nobody else has it yet");
        stage.takes = takes;
        Arc::new(stage)
    }

    /// A stage whose sessions keep their files before each turn and after each change.
    pub fn keeping(memory: Memory, script: Script) -> Arc<Stage> {
        let stage = Stage::lasting(memory, script, std::time::Duration::ZERO);
        let mut stage = Arc::into_inner(stage).expect("nobody else has it yet");
        stage.kept = Some(Mutex::default());
        Arc::new(stage)
    }

    /// This stage, but its sessions keep their files before each turn and after each change.
    pub fn keep(self: Arc<Stage>) -> Arc<Stage> {
        let mut stage = Arc::into_inner(self).expect("nobody else has it yet");
        stage.kept = Some(Mutex::default());
        Arc::new(stage)
    }

    /// A command in the background ends.
    pub fn ends(&self, exit: Exit) {
        self.background
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|running| running.id != exit.id);
        self.exits.lock().unwrap_or_else(PoisonError::into_inner).push(exit);
        self.ended.notify_one();
    }

    /// Sets the clock, which goes on by a millisecond whenever somebody looks at it.
    pub fn set_clock(&self, ms: u64) {
        self.clock.store(ms as usize, Ordering::SeqCst);
    }

    /// The calls that tools have run, in order.
    pub fn ran(&self) -> Vec<Ran> {
        self.ran.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the power has failed.
    pub fn dark(&self) -> bool {
        self.fuse.load(Ordering::SeqCst) == 0
    }

    /// Brings the power back.
    pub fn light(&self) {
        self.fuse.store(usize::MAX, Ordering::SeqCst);
    }

    /// What the sessions here are created as.
    pub fn created(workspace: &Path) -> Created {
        let tool = |name: &str, replay| Spec {
            name: name.to_string(),
            description: format!("The tool {name}."),
            parameters: serde_json::json!({"type": "object", "properties": {}, "additionalProperties": false}),
            replay,
            bounds: Vec::new(),
            reach: tools::Reach::Workspace,
        };
        Created {
            workspace: workspace.to_path_buf(),
            model: "script".to_string(),
            dialect: "hermes".to_string(),
            system: "You follow a script.".to_string(),
            tools: vec![
                tool("safe_look", Replay::Safe),
                tool("change", Replay::Unsafe),
                tool("change_fails", Replay::Unsafe),
            ],
            budget: Budget::default(),
            sampling: engine::Sampling::default(),
            led: false,
            check: None,
            memory: false,
            checkpoints: false,
            told: Vec::new(),
            context_tokens: None,
            ..Created::default()
        }
    }

    /// What sessions with a memory are created as: besides the tools of the memory they have `safe_read`, which shows a file,
    /// `exec`, which passes when all files are `good`, and `post`, which tells the world.
    pub fn remembering(workspace: &Path) -> Created {
        let mut created = Stage::created(workspace);
        for (tool, name) in created.tools.iter_mut().zip(["safe_read", "exec", "post"]) {
            tool.name = name.to_string();
        }
        created.tools[2].reach = Reach::Outside;
        created.tools.extend(Notebook::specs());
        Created { memory: true, ..created }
    }

    /// What led sessions here are created as: `edit` replaces a file, `exec` runs tests that pass when all files are
    /// `good`.
    pub fn led() -> Created {
        let mut created = Stage::created(Path::new("/nowhere"));
        for (tool, name) in created.tools.iter_mut().zip(["read", "edit", "exec"]) {
            tool.name = name.to_string();
        }
        Created { led: true, check: Some("test".to_string()), ..created }
    }

    fn reflection(&self) -> Option<String> {
        self.reflection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn files(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of a sub-agent that has a copy of its own.
    pub fn branch(&self, child: &SessionId) -> Option<Files> {
        self.branches.lock().unwrap_or_else(PoisonError::into_inner).get(child).cloned()
    }

    /// What `edit` and `exec` do.
    fn play(&self, call: &Call, files: &Files) -> Option<Outcome> {
        let text = |name: &str| call.arguments[name].as_str().unwrap_or_default().to_string();
        let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
        match call.name.as_str() {
            "edit" => {
                files.insert(text("path"), text("new"));
                Some(Outcome { ok: true, ..Outcome::refused("edited") })
            }
            "safe_read" => {
                let text = files.get(&text("path")).cloned();
                let missing = || Outcome::refused("there is no such file");
                Some(text.map_or_else(missing, |text| Outcome { ok: true, ..Outcome::refused(text) }))
            }
            "exec" => {
                // The command may be somebody who writes a file while the tests run.
                if let Some((path, new)) = text("command").split_once('=') {
                    files.insert(path.to_string(), new.to_string());
                }
                let ok = files.values().all(|text| text == "good");
                let said = if ok {
                    "Ran 2 tests in 0s\n\nOK"
                } else {
                    "Error: bad\nRan 2 tests in 0s\n\nFAILED (failures=1)"
                };
                Some(Outcome { ok, exit: Some(i32::from(!ok)), ..Outcome::refused(said) })
            }
            _ => None,
        }
    }

    /// Does one effect, unless the power has failed or fails here.
    fn effect<T>(&self, happen: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        match self.spend()? {
            Power::On => happen(),
            Power::Last => {
                happen()?;
                Err(Error::Stopping)
            }
        }
    }

    /// As [`Stage::effect`], for one that takes its time.
    async fn lasting_effect<T>(&self, happen: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.spend()? {
            Power::On => happen.await,
            Power::Last => {
                happen.await?;
                Err(Error::Stopping)
            }
        }
    }

    /// Takes the power for one effect; an error when there is none.
    fn spend(&self) -> Result<Power, Error> {
        let left = self.fuse.load(Ordering::SeqCst);
        if left == 0 {
            return Err(Error::Stopping);
        }
        if left != usize::MAX {
            self.fuse.store(left - 1, Ordering::SeqCst);
        }
        match (left, self.last_effect_happens) {
            (1, true) => Ok(Power::Last),
            (1, false) => Err(Error::Stopping),
            _ => Ok(Power::On),
        }
    }

    fn allowance(&self) -> Option<Arc<Allowance>> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst) as u64
    }
}

/// Whether the power fails after an effect.
enum Power {
    On,
    Last,
}

/// A stage and the journal of one session on it.
struct Seat {
    stage: Arc<Stage>,
    journal: Journal,
    notebook: Notebook,
    files: Files,
}

#[async_trait]
impl agent::Files for Seat {
    async fn text(&self, path: &str) -> Result<Option<String>, Error> {
        Ok(self.stage.files().get(path).cloned())
    }
}

impl Stage {
    /// The world of one session.
    pub fn seat(self: &Arc<Stage>, id: &SessionId) -> Result<Arc<dyn World>, Error> {
        let journal = self.memory.journal(id.as_str())?;
        let notebook = Notebook::new(self.memory.clone(), id, Path::new("/nowhere"));
        let files = self.branch(id).unwrap_or_else(|| self.files.clone());
        Ok(Arc::new(Seat { stage: self.clone(), journal, notebook, files }))
    }
}

#[async_trait]
impl World for Seat {
    fn now_ms(&self) -> u64 {
        self.stage.now()
    }

    async fn append(&self, at_ms: u64, event: &Event) -> Result<Seq, Error> {
        let seq = self.stage.effect(|| Ok(self.journal.append(&agent::encode(at_ms, event))?))?;
        if let Some(allowance) = self.stage.allowance() {
            allowance.count(at_ms, event);
        }
        Ok(seq)
    }

    fn replay(&self, tool: &str) -> Replay {
        if tool.starts_with("safe") || Notebook::has(tool) { Replay::Safe } else { Replay::Unsafe }
    }

    fn judge(&self, call: &Call) -> Option<Verdict> {
        let written = self.stage.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = Rules::new(Level::Operator, &written).expect("tests write rules that can be read");
        tools::rules::judge(&[(Level::Operator, &rules)], call, None, Path::new("/nowhere"))
    }

    fn allowance(&self) -> Option<Left> {
        self.stage.allowance().map(|allowance| allowance.left(0))
    }

    fn approval_ms(&self) -> Option<u64> {
        Some(self.stage.approval_ms.load(Ordering::SeqCst)).filter(|wait| *wait > 0)
    }

    async fn think(
        &self,
        conversation: &[Message],
        created: &Created,
        manner: &Manner,
        cancel: &Cancel,
        out: &Sink,
    ) -> Result<Thought, Error> {
        let asked: u64 = Weights::guessed(conversation, None).tokens.iter().sum();
        let limit = self.stage.window.load(Ordering::SeqCst);
        if limit > 0 && asked > limit {
            return self.stage.effect(|| Err(Error::ContextFull { asked, limit }));
        }
        if matches!(conversation.last(), Some(Message::User { text }) if text.contains("VERDICT:")) {
            return self.stage.effect(|| {
                let verdict = self.stage.verdicts.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                Ok(says(&verdict.unwrap_or_else(|| "VERDICT: not met\nWHY: nobody has looked.".to_string())))
            });
        }
        if matches!(conversation.last(), Some(Message::User { text }) if text.contains("next month")) {
            let said = self.stage.reflection();
            let thought = self.stage.effect(|| Ok(says(&said.unwrap_or_default())))?;
            let forever = thought.text.is_empty();
            return tokio::select! {
                () = tokio::time::sleep(self.stage.takes), if !forever => Ok(thought),
                () = cancel.set() => Ok(Thought { stop: Some(Stop::Interrupted), ..Thought::default() }),
            };
        }
        if manner.without.len() == created.tools.len() {
            return self.stage.effect(|| Ok(says("All is well in src/here.rs.")));
        }
        let said = match limit {
            0 => conversation.iter().filter(|message| matches!(message, Message::Assistant { .. })).count(),
            // Replies may be left out of the conversation, so they are counted here, and the script begins again at its end.
            _ => self.stage.thoughts.fetch_add(1, Ordering::SeqCst) % self.stage.script.0.len(),
        };
        let begun = conversation.iter().rposition(
            |message| matches!(message, Message::User { text } if text.contains("you are a sub-agent.")),
        );
        let begun = begun.filter(|_| created.parent.is_some());
        let script = match begun {
            Some(_) => self.stage.child_script.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => self.stage.script.clone(),
        };
        let said = begun.map_or(said, |begun| {
            let spoken = conversation[begun..].iter();
            spoken.filter(|message| matches!(message, Message::Assistant { .. })).count()
        });
        let mut thought =
            self.stage.effect(|| Ok(script.0.get(said).cloned().unwrap_or_else(|| says("Done."))))?;
        if limit > 0 {
            thought.usage = Usage { prompt_tokens: asked, ..thought.usage };
        }
        // An attempt after one that was undone is sampled with another seed, and is better here.
        if manner.sampling.seed > 0 {
            for call in thought.calls.iter_mut().filter(|call| call.name == "edit") {
                call.arguments["new"] = "good".into();
            }
        }
        // What it repeats it notices, as a mind does.
        let mut repeats = Repeats::default();
        for Repeat { start, length, times } in thought.tokens.iter().filter_map(|token| repeats.push(*token))
        {
            let text = thought.text[start..start + length].to_string();
            let [start, length, times] = [start, length, times].map(|n| n as u32);
            out.say(Progress::Looping { what: Loop::Text { text, length, start, times } });
        }
        tokio::select! {
            () = tokio::time::sleep(self.stage.takes) => Ok(thought),
            () = cancel.set() => Ok(Thought { stop: Some(Stop::Interrupted), ..Thought::default() }),
        }
    }

    async fn weigh(&self, conversation: &[Message], _: &Created) -> Result<Weights, Error> {
        let window = Some(self.stage.window.load(Ordering::SeqCst)).filter(|window| *window > 0);
        self.stage.effect(|| Ok(Weights::guessed(conversation, window)))
    }

    async fn guides(&self, call: &Call, known: &BTreeMap<String, String>) -> Result<Vec<Guide>, Error> {
        agent::guides::find(self, Path::new("/nowhere"), call, known, false).await
    }

    async fn before(&self, call: &Call) -> Result<Option<Before>, Error> {
        let Some(path) = call.arguments["path"].as_str() else { return Ok(None) };
        let text = self.stage.files().get(path).cloned();
        Ok(text.map(|text| Before { path: path.to_string(), text }))
    }

    async fn restore(&self, files: &[Changed]) -> Result<Vec<String>, Error> {
        let now = |file: &Changed| self.stage.files().get(&file.before.path).cloned();
        let theirs = files.iter().filter(|file| !file.ours(now(file).as_deref()));
        let theirs: Vec<String> = theirs.map(|file| file.before.path.clone()).collect();
        if theirs.is_empty() {
            for Changed { before, .. } in files {
                self.stage.effect(|| {
                    self.stage.files().insert(before.path.clone(), before.text.clone());
                    Ok(())
                })?;
            }
        }
        Ok(theirs)
    }

    async fn exited(&self) -> Exit {
        loop {
            let exit = self.stage.exits.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match exit {
                Some(exit) => return exit,
                None => self.stage.ended.notified().await,
            }
        }
    }

    fn commands(&self) -> Vec<Running> {
        self.stage.background.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn checkpoint(&self) -> Result<Option<Tree>, Error> {
        let Some(kept) = &self.stage.kept else { return Ok(None) };
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tree: Tree = agent::digest(&format!("{files:?}")).parse().expect("a digest has 64 digits");
        self.stage.effect(|| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).insert(tree, files);
            Ok(Some(tree))
        })
    }

    async fn differences(&self, now: &Tree, to: &Tree) -> Result<Vec<Difference>, Error> {
        let Some(kept) = &self.stage.kept else { return Ok(Vec::new()) };
        let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, to) = (&kept[now], &kept[to]);
        let paths: BTreeSet<&String> = now.keys().chain(to.keys()).collect();
        let differing = paths.into_iter().filter(|path| now.get(*path) != to.get(*path));
        let how = |path: &String| match (now.get(path), to.get(path)) {
            (None, _) => How::Added,
            (_, None) => How::Removed,
            _ => How::Changed,
        };
        Ok(differing.map(|path| Difference { path: path.clone(), how: how(path) }).collect())
    }

    async fn put_back(&self, to: &Tree, _: &Tree) -> Result<Vec<String>, Error> {
        let Some(kept) = &self.stage.kept else { return Ok(Vec::new()) };
        let files = kept.lock().unwrap_or_else(PoisonError::into_inner)[to].clone();
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
        Ok(Vec::new())
    }

    async fn merge(&self, base: &Tree, theirs: &Tree) -> Result<Merged, Error> {
        let Some(kept) = &self.stage.kept else { return Err(Error::BadRequest("nothing is kept".into())) };
        let (base, theirs) = {
            let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            (kept[base].clone(), kept[theirs].clone())
        };
        self.stage.effect(|| {
            let mut ours = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            let mut merged = Merged::default();
            let paths: BTreeSet<&String> = base.keys().chain(theirs.keys()).collect();
            for path in paths.into_iter().filter(|path| base.get(*path) != theirs.get(*path)) {
                let now = ours.get(path).cloned();
                if now.as_ref() != base.get(path) && now.as_ref() != theirs.get(path) {
                    merged.conflicts.push(path.clone());
                    continue;
                }
                merged.files.push(path.clone());
                match theirs.get(path) {
                    Some(text) => drop(ours.insert(path.clone(), text.clone())),
                    None => drop(ours.remove(path)),
                }
            }
            Ok(merged)
        })
    }

    async fn recall(&self, said: &str, shown: &BTreeSet<NoteId>) -> Result<Vec<Recollection>, Error> {
        self.stage.lasting_effect(self.notebook.recall(said, shown, self)).await
    }

    async fn learn(&self, lessons: Lessons) -> Result<Vec<NoteId>, Error> {
        self.stage.lasting_effect(self.notebook.learn(lessons)).await
    }

    fn consults(&self, tool: &str) -> bool {
        Notebook::has(tool)
    }

    async fn consult(&self, call: &Call, external: bool) -> Result<(Outcome, Vec<Recollection>), Error> {
        self.stage.lasting_effect(self.notebook.consult(call, external, self)).await
    }

    async fn contacts(&self) -> (Vec<Contact>, u64) {
        let mut reached = self.stage.reached.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut *reached), 0)
    }

    async fn act(&self, call: &Call, cancel: &Cancel, _: &Sink) -> Result<Outcome, Error> {
        let reaches = std::mem::take(&mut *self.stage.reaches.lock().unwrap_or_else(PoisonError::into_inner));
        self.stage.reached.lock().unwrap_or_else(PoisonError::into_inner).extend(reaches);
        let outcome = self.stage.effect(|| {
            let ran = Ran { id: call.id.clone(), name: call.name.clone() };
            self.stage.ran.lock().unwrap_or_else(PoisonError::into_inner).push(ran);
            Ok(self.stage.play(call, &self.files))
        });
        if let Some(outcome) = outcome? {
            return Ok(outcome);
        }
        tokio::select! {
            () = tokio::time::sleep(self.stage.takes) => {}
            () = cancel.set() => return Ok(Outcome::refused("stopped")),
        }
        if call.name.ends_with("fails") {
            return Ok(Outcome::refused("it does not work"));
        }
        // As long as it was asked to be.
        let length = call.arguments["bytes"].as_u64().unwrap_or_default() as usize;
        let text = format!("{} went well{}", call.name, "x".repeat(length));
        Ok(Outcome { ok: true, summary: "went well".to_string(), ..Outcome::refused(text) })
    }
}

/// The worlds of all sessions on one stage. Those that want one have a memory.
pub struct Theatre(pub Arc<Stage>);

#[async_trait]
impl Worlds for Theatre {
    async fn plan(&self, new: &NewSession) -> Result<Created, Error> {
        let context_tokens = Some(self.0.window.load(Ordering::SeqCst)).filter(|window| *window > 0);
        let mut created = match new.memory {
            Some(true) => Stage::remembering(&new.workspace),
            _ => Created { checkpoints: self.0.kept.is_some(), ..Stage::created(&new.workspace) },
        };
        created.budget = new.budget.unwrap_or(created.budget);
        created.reflects = created.memory && self.0.reflection().is_some();
        created.children_max = self.0.children_max.load(Ordering::SeqCst) as u32;
        if created.children_max > 0 {
            let spawn = Spec { name: "spawn".to_string(), ..created.tools[0].clone() };
            created.tools.push(spawn);
        }
        Ok(Created { context_tokens, until: new.until.clone(), ..created })
    }

    async fn branch(&self, child: &SessionId, base: &Tree) -> Result<std::path::PathBuf, Error> {
        let Some(kept) = &self.0.kept else { return Err(Error::BadRequest("nothing is kept".into())) };
        let files = kept.lock().unwrap_or_else(PoisonError::into_inner)[base].clone();
        self.0.effect(|| {
            let mut branches = self.0.branches.lock().unwrap_or_else(PoisonError::into_inner);
            branches.insert(child.clone(), Arc::new(Mutex::new(files)));
            Ok(format!("/branches/{child}").into())
        })
    }

    async fn open(&self, id: &SessionId, _: &Created) -> Result<Arc<dyn World>, Error> {
        self.0.seat(id)
    }

    async fn forget(&self, _: &SessionId) {}

    fn count(&self, events: &[Recorded]) {
        if let Some(allowance) = self.0.allowance() {
            allowance.count_all(events);
        }
    }

    fn now_ms(&self) -> u64 {
        self.0.now()
    }
}

/// A reply that only says something.
pub fn says(text: &str) -> Thought {
    thinks(text, &[])
}

/// A reply that says something and asks for calls.
pub fn thinks(text: &str, calls: &[&str]) -> Thought {
    Thought {
        tokens: text.bytes().map(u32::from).collect(),
        text: text.to_string(),
        calls: calls.iter().map(|name| call(name)).collect(),
        refused: Vec::new(),
        stop: Some(Stop::End),
        usage: Usage {
            prompt_tokens: 10,
            cached_tokens: 5,
            output_tokens: text.len() as u64,
            ..Usage::default()
        },
    }
}

/// A reply that asks for one call with arguments.
pub fn asks(name: &str, arguments: serde_json::Value) -> Thought {
    Thought { calls: vec![Call { arguments, ..call(name) }], ..says("") }
}

/// A call without arguments.
pub fn call(name: &str) -> Call {
    Call { id: String::new(), name: name.to_string(), arguments: serde_json::json!({}) }
}
