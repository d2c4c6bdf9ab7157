//! The scene of an attack: a workspace, and around it what a host has that must stay out of reach. It is new for each case.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::Verdict;
use super::servers::Servers;
use super::service::{self, Job, Reply};

/// Finding this in a result proves a leak: it is in no command.
pub(super) const CANARY: &str = "CANARY-7f3a9c51e2";

/// Tells a process that it was started as the service of a scene.
const INSIDE: &str = "SAGA_ATTACK_SCENE";

/// How long the host's own lines may take: setting a scene, and looking at what came of it.
const HOST_WALL: Duration = Duration::from_secs(60);

/// How long a killed service's commands may live on.
const DEATH_WALL: Duration = Duration::from_secs(3);

pub(super) struct Scene {
    base: PathBuf,
    pub(super) workspace: PathBuf,
    pub(super) other_workspace: PathBuf,
    outside: PathBuf,
    home: PathBuf,
    places: Vec<(&'static str, String)>,
    service: Child,
    jobs: Option<ChildStdin>,
    replies: mpsc::Receiver<String>,
    /// The most memory the service had in use when it had just started. Bytes.
    born_with: u64,
    shared_before: BTreeSet<PathBuf>,
    /// An open folder of the host's that the service holds, and that its children inherit unless somebody sees to it.
    _held: OwnedFd,
}

/// What lies in the host's folders: what each path is and holds.
pub(super) type HostFiles = BTreeMap<PathBuf, String>;

impl Scene {
    pub(super) fn set(binary: Option<PathBuf>) -> io::Result<Scene> {
        // A program that does not become a service when it is started as one would set a scene again, and so on for ever.
        if std::env::var_os(INSIDE).is_some() {
            return Err(io::Error::other("this program is under attack itself, and does not know it"));
        }
        let base = new_folder("saga-attack")?;
        Scene::set_in(&base, binary).inspect_err(|_| remove(&base))
    }

    fn set_in(base: &Path, binary: Option<PathBuf>) -> io::Result<Scene> {
        fs::set_permissions(base, fs::Permissions::from_mode(0o755))?;
        let at = |name: &str| base.join(name);
        let (outside, workspace, other_workspace, home) = (at("out"), at("ws"), at("ws2"), at("home"));
        for folder in [&outside, &workspace, &other_workspace, &home.join(".ssh")] {
            fs::create_dir_all(folder)?;
        }
        for (path, text) in [
            (outside.join("secret.txt"), CANARY),
            (outside.join("target.txt"), "ORIGINAL\n"),
            (other_workspace.join("secret.txt"), CANARY),
            (home.join(".ssh/id_rsa"), CANARY),
            (home.join(".bashrc"), "# mine\n"),
        ] {
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        }
        // Whoever gets through to one of these is told the secret. The threads end with the process.
        let Servers { canary: port, redirect, echo } = Servers::start()?;
        let name = format!("saga-attack-{}-{port}", std::process::id());
        let sockets = [
            UnixListener::bind(outside.join("svc.sock"))?,
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?,
        ];
        for socket in sockets {
            thread::spawn(move || {
                while let Ok((mut stream, _)) = socket.accept() {
                    let _ = stream.write_all(CANARY.as_bytes());
                }
            });
        }
        let held = rustix::fs::open(&outside, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        rustix::io::fcntl_setfd(held.as_fd(), rustix::io::FdFlags::empty())?;

        let mut service = Command::new(binary.unwrap_or_else(|| PathBuf::from("/proc/self/exe")))
            .arg0(service::NAME)
            .env(INSIDE, "1")
            .envs([
                ("SERVICE_SECRET", CANARY),
                ("AWS_SECRET_ACCESS_KEY", CANARY),
                ("ANTHROPIC_API_KEY", CANARY),
                ("OPENAI_API_KEY", CANARY),
            ])
            .env("SSH_AUTH_SOCK", outside.join("svc.sock"))
            .current_dir(base)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let jobs = service.stdin.take();
        let output = service.stdout.take().expect("the service's output is a pipe");
        let (to_replies, replies) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if to_replies.send(line).is_err() {
                    return;
                }
            }
        });
        let text = |path: &Path| path.display().to_string();
        let places = vec![
            ("HOME", text(&home)),
            ("OUT", text(&outside)),
            ("WS2", text(&other_workspace)),
            ("WS", text(&workspace)),
            ("IN", text(&workspace)),
            ("SVC", service.id().to_string()),
            ("CANARY", CANARY.to_owned()),
            ("PORT", port.to_string()),
            ("REDIRECT", redirect.to_string()),
            ("ECHO", echo.to_string()),
            ("ABS", name),
        ];
        let mut scene = Scene {
            base: base.to_owned(),
            workspace,
            other_workspace,
            outside,
            home,
            places,
            service,
            jobs,
            replies,
            born_with: 0,
            shared_before: shared_files(),
            _held: held,
        };
        match scene.replies.recv_timeout(HOST_WALL) {
            Ok(hello) if hello == service::HELLO => {
                scene.born_with = scene.peak_bytes();
                Ok(scene)
            }
            Ok(_) | Err(_) => Err(io::Error::other("the binary did not start as a service")),
        }
    }

    /// Where a service keeps what workspaces held, as far from them as the host's other folders.
    pub(super) fn checkpoints(&self) -> PathBuf {
        self.base.join("checkpoints")
    }

    /// A text with its words in braces filled in. Words that the service knows are left to it; one that nobody knows is the
    /// error.
    pub(super) fn fill(&self, text: &str) -> Result<String, String> {
        let mut filled = text.to_owned();
        for (name, value) in &self.places {
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        let unknown = words_in_braces(&filled).find(|word| !service::WORDS.contains(word));
        match unknown.map(|word| format!("the word {{{word}}} is not known here")) {
            Some(why) => Err(why),
            None => Ok(filled),
        }
    }

    /// Runs the case's own preparation on the host.
    pub(super) fn prepare(&self, line: &str) -> Result<(), String> {
        if self.host(line)? { Ok(()) } else { Err("its setup failed on this host".to_owned()) }
    }

    /// Runs a line in the host's shell and says whether it came out as true.
    pub(super) fn host(&self, line: &str) -> Result<bool, String> {
        let mut shell = Command::new("bash")
            .args(["-c", line])
            .current_dir(&self.workspace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("the host's bash: {error}"))?;
        let began = Instant::now();
        loop {
            match shell.try_wait() {
                Ok(Some(status)) => return Ok(status.success()),
                Ok(None) if began.elapsed() < HOST_WALL => thread::sleep(Duration::from_millis(5)),
                Ok(None) | Err(_) => {
                    // It may just have ended by itself.
                    let _ = shell.kill();
                    let _ = shell.wait();
                    return Err(format!("on the host, this took too long: {line}"));
                }
            }
        }
    }

    /// Gives the service its job and waits for what came of it. The error is a leak in words: the service must survive.
    pub(super) fn ask(&mut self, job: &Job, until: Instant) -> Result<Reply, String> {
        self.send(job)?;
        let reply = self.replies.recv_timeout(until.saturating_duration_since(Instant::now()));
        match reply {
            Ok(line) => {
                let reply = serde_json::from_str(&line)
                    .map_err(|error| format!("the service's answer is no JSON: {error}"))?;
                match self.service.try_wait() {
                    Ok(None) => Ok(reply),
                    Ok(Some(status)) => Err(format!("the service ended: {status}")),
                    Err(error) => Err(format!("the service cannot be watched: {error}")),
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Err("the service hung".to_owned()),
            Err(mpsc::RecvTimeoutError::Disconnected) => match self.service.wait() {
                Ok(status) => Err(format!("the service ended in the middle: {status}")),
                Err(error) => Err(format!("the service ended in the middle: {error}")),
            },
        }
    }

    fn send(&mut self, job: &Job) -> Result<(), String> {
        let jobs = self.jobs.as_mut().ok_or("the service has no way in")?;
        let line = serde_json::to_string(job).map_err(|error| error.to_string())?;
        writeln!(jobs, "{line}").map_err(|error| format!("the service takes no job: {error}"))
    }

    /// Has the service begin the job, kills it in the middle as the system would, and looks for what lives on.
    pub(super) fn kill_service_in(&mut self, job: &Job) -> Verdict {
        if let Err(why) = self.send(job) {
            return Verdict::Leaked(why);
        }
        let began = Instant::now();
        while size_of_files(&self.workspace) == 0 {
            if began.elapsed() > HOST_WALL {
                return Verdict::Skipped("the command left no sign of life to kill it by".to_owned());
            }
            thread::sleep(Duration::from_millis(20));
        }
        // Ours, and not waited for yet, so the number is still its own.
        let _ = self.service.kill();
        let _ = self.service.wait();
        let killed = Instant::now();
        loop {
            let survivors = processes_in(&self.workspace);
            let before = size_of_files(&self.workspace);
            thread::sleep(Duration::from_millis(500));
            if survivors == 0 && size_of_files(&self.workspace) == before {
                break;
            }
            if killed.elapsed() > DEATH_WALL {
                return Verdict::Leaked(format!("{survivors} processes live on without their service"));
            }
        }
        crate::Sandbox::sweep();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mounts.contains(&self.base.display().to_string()) {
            return Verdict::Leaked("a mount is left on the host".to_owned());
        }
        Verdict::Held
    }

    /// What lies in the host's folders now.
    pub(super) fn host_files(&self) -> HostFiles {
        let mut found = HostFiles::new();
        let mut folders = vec![self.outside.clone(), self.other_workspace.clone(), self.home.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                let text = if metadata.is_file() && metadata.len() < 1 << 20 {
                    fs::read(&path)
                        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                        .unwrap_or_default()
                } else {
                    String::new()
                };
                if metadata.is_dir() {
                    folders.push(path.clone());
                }
                found.insert(path, format!("{:o} {text}", metadata.permissions().mode()));
            }
        }
        found
    }

    /// What is no longer as it was in the host's folders.
    pub(super) fn changed(&self, before: &HostFiles) -> Option<String> {
        let now = self.host_files();
        let changed = before.iter().find(|(path, was)| now.get(*path) != Some(was)).map(|(path, _)| path);
        let added = || now.keys().find(|path| !before.contains_key(*path));
        let path = changed.or_else(added)?;
        Some(format!("on the host, {} is not as it was", path.display()))
    }

    /// By how much the service's memory has grown at its peak. Bytes.
    pub(super) fn growth(&self) -> Option<u64> {
        Some(self.peak_bytes().saturating_sub(self.born_with))
    }

    fn peak_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.service.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // With its way in closed it ends; one that hangs is killed. A moment for its sandboxes to clean up.
        let began = Instant::now();
        while matches!(self.service.try_wait(), Ok(None)) {
            if began.elapsed() > DEATH_WALL {
                let _ = self.service.kill();
                let _ = self.service.wait();
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        remove(&self.base);
        // What a setup laid into the folders that everybody shares: a second run as another user could not replace it.
        for path in shared_files() {
            let planted = fs::metadata(&path).is_ok_and(|metadata| metadata.len() < 256)
                && fs::read(&path).is_ok_and(|bytes| bytes.starts_with(CANARY.as_bytes()));
            if planted && !self.shared_before.contains(&path) {
                // Another user's stays.
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// The plain files in the folders that everybody on the host shares.
fn shared_files() -> BTreeSet<PathBuf> {
    let entries = ["/tmp", "/var/tmp", "/dev/shm"].into_iter().filter_map(|folder| fs::read_dir(folder).ok());
    let files =
        entries.flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.map(|entry| entry.path()).collect()
}

/// The words in braces of a text: capital letters, digits and `_`, and no `$` before them, which is the shell's.
fn words_in_braces(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('{').filter_map(|(at, _)| {
        let word = &text[at + 1..at + 1 + text[at + 1..].find('}')?];
        let named = word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        (named && !text[..at].ends_with('$')).then_some(word)
    })
}

/// A new folder of this process's own, on a disk where there is one: memory is what some cases fill.
pub(super) fn new_folder(name: &str) -> io::Result<PathBuf> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("{name}-{}-{number}", std::process::id());
    let places = [PathBuf::from("/var/tmp"), std::env::temp_dir()];
    let mut failed = io::Error::other("this host has no temporary folder");
    for place in places {
        let folder = place.join(&name);
        match fs::create_dir(&folder) {
            Ok(()) => return folder.canonicalize(),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Bytes of the files right below a folder.
fn size_of_files(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn processes_in(folder: &Path) -> usize {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder)).count()
}

/// Removes a folder and all below it, however deep: a folder that is not empty is first moved to the top, so that neither
/// the stack nor a path grows with the depth that somebody else chose. What cannot be removed stays.
pub(super) fn remove(base: &Path) {
    let open = |at: &OwnedFd, name: &OsString| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(at, name, flags, Mode::empty())
    };
    let Ok(top) = rustix::fs::open(base, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    else {
        return;
    };
    let names = |folder: &OwnedFd| -> Vec<OsString> {
        use std::os::unix::ffi::OsStringExt;
        let entries = rustix::fs::Dir::read_from(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| OsString::from_vec(entry.file_name().to_bytes().to_vec()));
        names.filter(|name| name != "." && name != "..").collect()
    };
    let (mut pending, mut moved) = (names(&top), 0_u64);
    while let Some(name) = pending.pop() {
        if rustix::fs::unlinkat(&top, &name, AtFlags::empty()).is_ok()
            || rustix::fs::unlinkat(&top, &name, AtFlags::REMOVEDIR).is_ok()
        {
            continue;
        }
        // A folder may be closed even to its owner.
        let _ = rustix::fs::chmodat(&top, &name, Mode::RWXU, AtFlags::empty());
        let Ok(folder) = open(&top, &name) else { continue };
        let mut emptied = true;
        for below in names(&folder) {
            if rustix::fs::unlinkat(&folder, &below, AtFlags::empty()).is_ok()
                || rustix::fs::unlinkat(&folder, &below, AtFlags::REMOVEDIR).is_ok()
            {
                continue;
            }
            // Moving a folder writes to it: its `..` changes.
            let _ = rustix::fs::chmodat(&folder, &below, Mode::RWXU, AtFlags::empty());
            moved += 1;
            let at_top = OsString::from(format!(".moved-{moved}"));
            match rustix::fs::renameat(&folder, &below, &top, &at_top) {
                Ok(()) => pending.push(at_top),
                Err(_) => emptied = false,
            }
        }
        if emptied {
            // Now it is empty, unless somebody still writes to it.
            let _ = rustix::fs::unlinkat(&top, &name, AtFlags::REMOVEDIR);
        }
    }
    let _ = fs::remove_dir(base);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_any_depth_is_removed() {
        // A recursive delete of a hostile tree overflows the stack of whoever cleans up.
        let base = new_folder("saga-attack-test").unwrap();
        let mut at = rustix::fs::open(&base, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "e", Mode::empty()).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        drop(at);
        remove(&base);
        assert!(!base.exists());
    }

    #[test]
    fn words_in_braces_are_told_from_the_shells() {
        // A word that nobody fills in would be tried as it stands, and nothing would come of it.
        let words = |text: &str| words_in_braces(text).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words("{OUT}/{NEW_1} ${HOME} {a} {} {B {C}"), ["OUT", "NEW_1", "C"]);
    }
}
