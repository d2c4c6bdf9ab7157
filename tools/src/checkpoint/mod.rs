//! Checkpoints of a workspace: what it held at a moment, to be compared and to be put back.
//!
//! They cover all that lies in it, also what git does not know or ignores and what commands did: content, permissions, where links lead,
//! and repositories, so that what was committed since is undone with the rest. Of a repository that stays, objects and logs are never
//! taken away: whoever has committed something meanwhile finds it by `git reflog`. Not covered are large
//! caches, files above 4 MiB, the objects of large repositories, names that are no text, and secrets, which commands can neither read nor
//! change; and of a file its times, so that tools that go by them see that it is another one, its owner, and that it has other names.
//! They are kept in a folder of the service's that commands cannot see, and no program runs to make
//! them: whatever a repository's settings say has no effect. What there is is listed by the sandbox's file helper; of a file that is as
//! it was nothing is read.

mod carry;
mod merge;
mod pack;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::files::{
    Inventoried, Inventory, Item, Request, Restore, Stamp, Step, WRITE_BYTES_MAX, What, Workspace,
    characters, only_grows,
};
use crate::secrets::Secrets;
use crate::{Error, Sandbox};
pub use merge::Merge;
use pack::{Hash, Packs};
use tree::{Entry, Folder, Kind};

pub use carry::{Cargo, Mask, name_of};

/// Content that is put back with one request. Bytes.
const BATCH_BYTES: usize = 1 << 20;
/// How deep folders may lie in each other.
const DEPTH_MAX: usize = 128;
/// Of the checkpoints there are, the share that goes when there is no room for more.
const DROPPED_AT_ONCE: usize = 4;

/// Names what a workspace held: two that are alike have the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tree(Hash);

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Tree {
    type Err = String;

    fn from_str(text: &str) -> Result<Tree, String> {
        let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digits).collect();
        let bytes = bytes.filter(|_| text.is_ascii()).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes
            .map(|bytes| Tree(Hash(bytes)))
            .ok_or_else(|| format!("{text:?} names no checkpoint: it has 64 digits"))
    }
}

impl TryFrom<String> for Tree {
    type Error = String;

    fn try_from(text: String) -> Result<Tree, String> {
        text.parse()
    }
}

impl From<Tree> for String {
    fn from(tree: Tree) -> String {
        tree.to_string()
    }
}

/// What a checkpoint has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its name.
    pub tree: Tree,
    /// Files, links and folders.
    pub entries: usize,
    /// Paths that it does not cover: large caches and files, pipes, what cannot be read.
    pub left_out: Vec<String>,
}

/// How a path differs between two checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// The path, from the workspace.
    pub path: String,
    /// What became of it.
    pub how: How,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It was not there before.
    Added,
    /// It holds something else, or is something else.
    Changed,
    /// It is there no more.
    Removed,
}

/// The checkpoints of many workspaces, in a folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    dir: PathBuf,
    bytes_max: u64,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    packs: Packs,
    roots: Vec<Root>,
    /// By workspace and path: what a file was known by, and what it held.
    known: HashMap<PathBuf, HashMap<String, (Stamp, Hash)>>,
}

/// A checkpoint that is kept for somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Root {
    at_ms: u64,
    owner: String,
    tree: Tree,
}

impl Checkpoints {
    /// Opens the folder, making it when it is not there. At most `bytes_max` are kept: then the oldest checkpoints go.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Checkpoints, Error> {
        let packs =
            Packs::open(dir).map_err(Error::io(format!("opening the checkpoints in {}", dir.display())))?;
        let path = dir.join("roots");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io(format!("reading {}", path.display()))(error)),
        };
        // A line that is torn names nothing.
        let roots = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let state = State { packs, roots, known: HashMap::new() };
        Ok(Checkpoints { dir: dir.to_owned(), bytes_max, state: Arc::new(Mutex::new(state)) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a checkpoint of a sandbox's workspace for `owner`. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Uncovered`] when the workspace holds too much; otherwise when the sandbox failed or the folder cannot be written.
    pub async fn take(&self, sandbox: &Sandbox, owner: &str) -> Result<Taken, Error> {
        let began_ns = now().as_nanos() as i64;
        let answer = sandbox.files(&Request::Inventory(Inventory {})).await?;
        if !answer.ok {
            return Err(Error::Uncovered(answer.text));
        }
        let found: Inventoried = crate::sources::understood(&answer.text)?;
        if found.more {
            return Err(Error::Uncovered(
                "it has too many files to be looked at after every step".to_owned(),
            ));
        }
        let (own, workspace, owner) = (self.clone(), PathBuf::from(sandbox.workspace()), owner.to_owned());
        blocking(move || own.keep(&workspace, &owner, found, began_ns)).await
    }

    fn keep(&self, workspace: &Path, owner: &str, found: Inventoried, began_ns: i64) -> Result<Taken, Error> {
        let say = |what: &str| Error::io(format!("{what} in {}", self.dir.display()));
        // What is a secret is not among what was found.
        let opened = Workspace::open(workspace, Secrets::default(), None)
            .map_err(say("opening the workspace for a checkpoint"))?;
        let mut state = self.state();
        let State { packs, known, .. } = &mut *state;
        let known = known.entry(workspace.to_owned()).or_default();
        let before = std::mem::take(known);
        let (entries, mut left_out) = (found.items.len(), found.left_out);
        let mut folders: BTreeMap<String, Folder> = BTreeMap::from([(String::new(), Folder::new())]);
        let mut modes: HashMap<String, u16> = HashMap::new();
        for Item { path, what } in found.items {
            let entry = match what {
                What::Folder { mode } => {
                    folders.entry(path.clone()).or_default();
                    modes.insert(path, mode);
                    continue;
                }
                What::Link { target } => {
                    let hash = packs.put(target.as_bytes()).map_err(say("writing a checkpoint"))?;
                    Entry { kind: Kind::Link, mode: None, hash }
                }
                What::File { stamp, mode } => {
                    let same = before.get(&path).filter(|(then, hash)| *then == stamp && packs.has(hash));
                    let hash = match same {
                        Some((_, hash)) => *hash,
                        None => match content(&opened, &path) {
                            Some(content) => packs.put(&content).map_err(say("writing a checkpoint"))?,
                            None => {
                                left_out.push(path);
                                continue;
                            }
                        },
                    };
                    if !stamp.is_recent(began_ns) {
                        known.insert(path.clone(), (stamp, hash));
                    }
                    let kind = if mode & 0o100 != 0 { Kind::Program } else { Kind::File };
                    Entry { kind, mode: Some(mode), hash }
                }
            };
            let (folder, name) = split(&path);
            folders.entry(folder.to_owned()).or_default().insert(name.to_owned(), entry);
        }
        // From the deepest up: a folder's hash is part of the one above it.
        let mut tree = None;
        while let Some((path, folder)) = folders.pop_last() {
            let hash = packs.put(&tree::encode(&folder)).map_err(say("writing a checkpoint"))?;
            if path.is_empty() {
                tree = Some(Tree(hash));
                break;
            }
            let (above, name) = split(&path);
            let entry = Entry { kind: Kind::Folder, mode: modes.get(&path).copied(), hash };
            folders.entry(above.to_owned()).or_default().insert(name.to_owned(), entry);
        }
        let tree = tree.expect("the workspace itself is among its folders, and comes last");
        packs.sync().map_err(say("writing a checkpoint"))?;
        self.write_down(&mut state, Root { at_ms: now().as_millis() as u64, owner: owner.to_owned(), tree })?;
        Ok(Taken { tree, entries, left_out })
    }

    fn write_down(&self, state: &mut State, root: Root) -> Result<(), Error> {
        let say = || Error::io(format!("writing down a checkpoint in {}", self.dir.display()));
        if state.roots.last().is_some_and(|last| (last.tree, &last.owner) == (root.tree, &root.owner)) {
            return Ok(());
        }
        let line = serde_json::to_string(&root).expect("a root has only strings and numbers");
        let mut file =
            fs::OpenOptions::new().append(true).create(true).open(self.dir.join("roots")).map_err(say())?;
        file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.sync_data()).map_err(say())?;
        state.roots.push(root);
        for _ in 0..DROPPED_AT_ONCE {
            if state.packs.bytes() <= self.bytes_max {
                break;
            }
            // The newest stays, whatever it takes.
            let many = (state.roots.len() / DROPPED_AT_ONCE).max(1).min(state.roots.len() - 1);
            state.roots.drain(..many);
            self.clean(state)?;
        }
        Ok(())
    }

    /// Lets go of what nobody's checkpoints need.
    fn clean(&self, state: &mut State) -> Result<(), Error> {
        let say = || Error::io(format!("cleaning the checkpoints in {}", self.dir.display()));
        let mut living = HashSet::new();
        let mut open: Vec<Hash> = state.roots.iter().map(|root| root.tree.0).collect();
        while let Some(hash) = open.pop() {
            if !living.insert(hash) {
                continue;
            }
            for entry in state.folder(&hash).unwrap_or_default().into_values() {
                match entry.kind {
                    Kind::Folder => open.push(entry.hash),
                    Kind::File | Kind::Program | Kind::Link => drop(living.insert(entry.hash)),
                }
            }
        }
        state.packs.keep(&living).map_err(say())?;
        let lines: String =
            state.roots.iter().filter_map(|root| Some(serde_json::to_string(root).ok()? + "\n")).collect();
        let aside = self.dir.join("roots.aside");
        fs::write(&aside, lines).and_then(|()| fs::rename(&aside, self.dir.join("roots"))).map_err(say())
    }

    /// Keeps checkpoints for somebody else as well. Those that are no longer there stay away.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn adopt(&self, owner: &str, trees: &[Tree]) -> Result<(), Error> {
        let mut state = self.state();
        for tree in trees {
            if state.packs.has(&tree.0) {
                let root = Root { at_ms: now().as_millis() as u64, owner: owner.to_owned(), tree: *tree };
                self.write_down(&mut state, root)?;
            }
        }
        Ok(())
    }

    /// Lets go of an owner's checkpoints.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn forget(&self, owner: &str) -> Result<(), Error> {
        let mut state = self.state();
        let before = state.roots.len();
        state.roots.retain(|root| root.owner != owner);
        if state.roots.len() == before { Ok(()) } else { self.clean(&mut state) }
    }

    /// Whether a checkpoint is still there.
    pub fn has(&self, tree: &Tree) -> bool {
        self.state().packs.has(&tree.0)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.state().packs.bytes()
    }

    /// What differs between two checkpoints, by path.
    ///
    /// # Errors
    /// [`Error::Uncovered`] when one of them is no longer there.
    pub fn differences(&self, from: &Tree, to: &Tree) -> Result<Vec<Difference>, Error> {
        let changes = self.state().changes(from, to)?;
        Ok(changes
            .into_iter()
            .map(|(path, (from, to))| {
                let how = match (from, to) {
                    (None, _) => How::Added,
                    (Some(_), None) => How::Removed,
                    (Some(_), Some(_)) => How::Changed,
                };
                Difference { path, how }
            })
            .collect())
    }

    /// What a file held, or where a link led. Nothing when the checkpoint has none there.
    ///
    /// # Errors
    /// [`Error::Uncovered`] when the checkpoint is no longer there.
    pub fn content(&self, tree: &Tree, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let state = self.state();
        let mut folder = state.folder(&tree.0).ok_or_else(|| gone(tree))?;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            let Some(entry) = folder.get(part).copied() else { return Ok(None) };
            match entry.kind {
                Kind::Folder => folder = state.folder(&entry.hash).ok_or_else(|| gone(tree))?,
                Kind::File | Kind::Program | Kind::Link if parts.peek().is_none() => {
                    return state.packs.get(&entry.hash).map_err(Error::io("reading a checkpoint"));
                }
                Kind::File | Kind::Program | Kind::Link => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Makes a workspace what a checkpoint has, if it still is what `now` says; otherwise nothing is touched and the paths that
    /// changed meanwhile are returned. What checkpoints do not cover stays as it is. Doing so again after it was cut off does no harm.
    ///
    /// # Errors
    /// [`Error::Uncovered`] when a checkpoint is no longer there or cannot be put back; otherwise when the sandbox failed.
    pub async fn restore(
        &self,
        sandbox: &Sandbox,
        owner: &str,
        to: &Tree,
        now: &Tree,
    ) -> Result<Vec<String>, Error> {
        let is = self.take(sandbox, owner).await?.tree;
        if is != *now {
            let changed = self.differences(now, &is)?;
            return Ok(changed.into_iter().map(|difference| difference.path).collect());
        }
        let (own, to) = (self.clone(), *to);
        let batches = blocking(move || own.state().steps(&is, &to)).await?;
        for steps in batches {
            let answer = sandbox.files(&Request::Restore(Restore { steps })).await?;
            if !answer.ok {
                return Err(Error::Uncovered(answer.text));
            }
        }
        Ok(Vec::new())
    }
}

/// By path: what was there, and what is.
type Changes = BTreeMap<String, (Option<Entry>, Option<Entry>)>;

impl State {
    fn folder(&self, hash: &Hash) -> Option<Folder> {
        tree::decode(&self.packs.get(hash).ok()??)
    }

    /// By path: what was there and what is. Folders are among them only where one came or went, or has another mode.
    fn changes(&self, from: &Tree, to: &Tree) -> Result<Changes, Error> {
        let mut changes = BTreeMap::new();
        let mut open = vec![(String::new(), Some(from.0), Some(to.0))];
        while let Some((path, from_hash, to_hash)) = open.pop() {
            let folder = |hash: Option<Hash>, tree: &Tree| match hash {
                Some(hash) => self.folder(&hash).ok_or_else(|| gone(tree)),
                None => Ok(Folder::new()),
            };
            let (from_folder, to_folder) = (folder(from_hash, from)?, folder(to_hash, to)?);
            if path.split('/').count() > DEPTH_MAX {
                return Err(Error::Uncovered(format!("{path} lies too deep")));
            }
            let names: BTreeSet<&String> = from_folder.keys().chain(to_folder.keys()).collect();
            for name in names {
                let (before, after) = (from_folder.get(name).copied(), to_folder.get(name).copied());
                if before == after || before.zip(after).is_some_and(|(before, after)| before.is_as(&after)) {
                    continue;
                }
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                let as_folder =
                    |entry: Option<Entry>| entry.filter(|entry| entry.kind == Kind::Folder).map(|e| e.hash);
                let (from_inner, to_inner) = (as_folder(before), as_folder(after));
                if from_inner.is_some() || to_inner.is_some() {
                    open.push((path.clone(), from_inner, to_inner));
                }
                let modes = before.and_then(|entry| entry.mode).zip(after.and_then(|entry| entry.mode));
                let same_mode = modes.is_none_or(|(before, after)| before == after);
                if from_inner.is_none() || to_inner.is_none() || !same_mode {
                    changes.insert(path, (before, after));
                }
            }
        }
        Ok(changes)
    }

    /// What has to be done to come from one checkpoint to the other, in requests.
    fn steps(&self, from: &Tree, to: &Tree) -> Result<Vec<Vec<Step>>, Error> {
        let changes = self.changes(from, to)?;
        let mut batches = vec![Vec::new()];
        let mut bytes = 0;
        let kind = |entry: &Option<Entry>| entry.map(|entry| entry.kind);
        let is_file = |kind| matches!(kind, Some(Kind::File | Kind::Program));
        // What goes, goes from the deepest up; so does what is something else now.
        for (path, (before, after)) in changes.iter().rev() {
            if after.is_none() && grows_on(&changes, path) {
                continue;
            }
            let (before, after) = (kind(before), kind(after));
            let stays = before == Some(Kind::Folder) && before == after;
            let written_over = stays || is_file(before) && is_file(after);
            if before.is_some() && !written_over {
                batches.last_mut().expect("there is one").push(Step::Remove { path: path.clone() });
            }
        }
        // What comes, comes from the top down.
        for (path, (before, after)) in &changes {
            let Some(entry) = after else { continue };
            if before.is_some() && grows_on(&changes, path) {
                continue;
            }
            let content = match entry.kind {
                Kind::Folder => Vec::new(),
                Kind::File | Kind::Program | Kind::Link => {
                    let content = self.packs.get(&entry.hash).map_err(Error::io("reading a checkpoint"))?;
                    content.ok_or_else(|| gone(to))?
                }
            };
            if bytes + content.len() > BATCH_BYTES && bytes > 0 {
                batches.push(Vec::new());
                bytes = 0;
            }
            bytes += content.len();
            let path = path.clone();
            batches.last_mut().expect("there is one").push(match entry.kind {
                Kind::Folder => Step::Folder { path, mode: entry.mode },
                Kind::Link => Step::Link { path, target: String::from_utf8_lossy(&content).into_owned() },
                Kind::File | Kind::Program => {
                    let program = entry.kind == Kind::Program;
                    Step::File { path, mode: entry.mode, program, content: characters(&content) }
                }
            });
        }
        Ok(batches)
    }
}

/// Whether this belongs to what a repository only adds to, and the repository stays.
fn grows_on(changes: &Changes, path: &str) -> bool {
    let path = Path::new(path);
    if !only_grows(path) {
        return false;
    }
    let own =
        path.ancestors().find(|above| above.ends_with(".git")).and_then(Path::to_str).unwrap_or_default();
    let becomes = changes.get(own).map(|(_, after)| after.map(|entry| entry.kind));
    matches!(becomes, None | Some(Some(Kind::Folder)))
}

fn gone(tree: &Tree) -> Error {
    let name: String = tree.to_string().chars().take(12).collect();
    Error::Uncovered(format!("checkpoint {name} is no longer kept, or is damaged"))
}

/// The folder of a path, and the name in it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A file's content as a checkpoint keeps it; nothing when it cannot be read. The kernel resolves the path below the workspace and follows
/// no link at its end, so there is nothing here that a helper would make safer.
fn content(workspace: &Workspace, path: &str) -> Option<Vec<u8>> {
    let file =
        workspace.open_at(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW).ok()?;
    let file = fs::File::from(file);
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut content = Vec::new();
    file.take(WRITE_BYTES_MAX as u64 + 1).read_to_end(&mut content).ok()?;
    (content.len() <= WRITE_BYTES_MAX).then_some(content)
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Gone("the service is stopping".to_owned())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_believed_once_the_clock_has_moved_on() {
        // Two writes within one tick of a file system's clock leave the same stamp.
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().join("ws");
        fs::create_dir(&workspace).unwrap();
        let write = |text: &str| fs::write(workspace.join("a"), text).unwrap();
        write("0");
        let stamp = Stamp::of(&fs::metadata(workspace.join("a")).unwrap());
        let checkpoints = Checkpoints::open(&dir.path().join("kept"), 1 << 20).unwrap();
        let keep = |text: &str, after_ns: i64| {
            write(text);
            let items = vec![Item { path: "a".to_owned(), what: What::File { stamp, mode: 0o644 } }];
            let found = Inventoried { items, ..Inventoried::default() };
            checkpoints.keep(&workspace, "s", found, stamp.written_ns() + after_ns).unwrap().tree
        };
        let (soon, later) = (10_000_000, 10_000_000_000);
        let first = keep("1", soon);
        let second = keep("2", soon);
        assert_ne!(first, second);
        // From now on the stamp says that nothing has changed, and nothing is read.
        assert_eq!(keep("2", later), second);
        assert_eq!(keep("3", later), second);
    }
}
