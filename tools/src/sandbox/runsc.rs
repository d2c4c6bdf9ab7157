//! gVisor's `runsc` on this host: where it is, which version, and whether commands run in it as they should. Whatever is wrong with
//! it refuses to open a sandbox: nothing falls back to another backend by itself.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;

use super::layers::Name;
use super::{Command, Ended, Layer, Ran, Sandbox};
use crate::policy::Backend;
use crate::{Error, Policy};

/// Where it is looked for beside the service's PATH.
const USUAL: [&str; 2] = ["/usr/local/bin", "/usr/bin"];

/// How long it may take to say its version, and to run the command that tries it out: a session that waits for it is a session that
/// opens.
const VERSION_WALL: Duration = Duration::from_secs(10);
const TRY_WALL: Duration = Duration::from_secs(30);

/// What commands do all the time, each step of which some version or some host was seen to get wrong: looking at files as the host's
/// programs do, writing, renaming, running what was written, and being who they should be.
const TRY: &str = r#"set -e
f="$(mktemp -d)"; trap 'rm -rf "$f"' EXIT
printf '#!/bin/sh\necho ran\n' > "$f/new"
mv "$f/new" "$f/program"
chmod +x "$f/program"
test "$("$f/program")" = ran
ls -ld . "$f/program" > /dev/null
stat . "$f/program" > /dev/null
test "$(id -u)" = 1000
"#;

/// Finds it.
pub(super) fn find() -> Result<PathBuf, Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders =
        env::split_paths(&path).chain(USUAL.map(PathBuf::from)).filter(|folder| folder.is_absolute());
    find_in(folders)
        .ok_or_else(|| refused("runsc is not installed: it is neither along PATH nor in /usr/local/bin"))
}

fn find_in(mut folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.find_map(|folder| {
        let program = folder.join("runsc").canonicalize().ok()?;
        (program.is_file() && rustix::fs::access(&program, Access::EXEC_OK).is_ok()).then_some(program)
    })
}

/// Runs what commands do in a sandbox that has just opened.
pub(super) async fn try_out(sandbox: &Sandbox, runsc: &Path) -> Result<(), Error> {
    let mut command = Command::shell(TRY);
    command.timeout = Some(TRY_WALL);
    let ran = sandbox.run(command).await?;
    match objection(&ran) {
        None => Ok(()),
        Some(why) => Err(refused(&format!("{} ({}): {why}", runsc.display(), version(runsc).await))),
    }
}

/// What is wrong with how the trial went.
fn objection(ran: &Ran) -> Option<String> {
    let said = ran.output.trim();
    match &ran.ended {
        Ended::Exited(0) => None,
        // Seen with runsc of 2022 and coreutils of 2022: it does not know the flag AT_NO_AUTOMOUNT, which ls and stat set.
        Ended::Exited(_) if said.contains("Invalid argument") => {
            Some(format!("it is too old for the programs of this host, which it answers with: {said}"))
        }
        Ended::Exited(code) => Some(format!("a trial in it ended with exit code {code}: {said}")),
        Ended::NotStarted(why) => Some(why.clone()),
        Ended::TimedOut(wall) => Some(format!("a trial in it was not done after {wall:?}")),
        Ended::OutOfMemory => Some("the session's memory is too small for it".to_owned()),
        Ended::Signalled(_) | Ended::Flooded | Ended::WorkspaceFull => {
            Some(format!("a trial in it broke off: {:?} {said}", ran.ended))
        }
    }
}

/// Its version, in its own words.
async fn version(runsc: &Path) -> String {
    let mut command = tokio::process::Command::new(runsc);
    command.arg("--version").env_clear().stdin(std::process::Stdio::null()).kill_on_drop(true);
    let said = tokio::time::timeout(VERSION_WALL, command.output()).await;
    let said = said.ok().and_then(Result::ok).map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&said);
    // The word before it is `release-` and a date, or Debian's own.
    let version = text.lines().next().unwrap_or_default().trim_start_matches("runsc version ").trim();
    if version.is_empty() { "it does not say its version".to_owned() } else { format!("version {version}") }
}

fn refused(detail: &str) -> Error {
    let Layer { name, detail, mend, .. } = Name::Gvisor.layer(&Err(detail.to_owned()));
    Error::Missing { layer: name, detail, mend }
}

/// Whether commands can run in it here.
pub(super) async fn probe() -> Layer {
    Name::Gvisor.layer(&try_here().await.map_err(|error| match error {
        Error::Missing { detail, .. } => detail,
        error => error.to_string(),
    }))
}

async fn try_here() -> Result<String, Error> {
    let runsc = find()?;
    let folder = env::temp_dir().join(format!("saga-probe-runsc-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(Error::io("making a folder to probe with"))?;
    let opened = Sandbox::open(Policy { backend: Backend::Runsc, ..Policy::new(&folder) }).await;
    // It is empty; a failure leaves an empty folder in the host's temporary folder.
    let _ = std::fs::remove_dir(&folder);
    opened?;
    Ok(format!("{}, {}", version(&runsc).await, runsc.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runsc_that_cannot_be_run_is_none() {
        // A folder or a text file of that name must not be taken for the program, nor hide one that comes later.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a/runsc", "b", "c"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::fs::write(at("b/runsc"), "text").unwrap();
        let find = || find_in(["a", "b", "c", "d"].map(at).into_iter());
        assert_eq!(find(), None);
        std::os::unix::fs::symlink("/bin/sh", at("c/runsc")).unwrap();
        assert_eq!(find(), Some(Path::new("/bin/sh").canonicalize().unwrap()));
    }

    #[test]
    fn what_is_wrong_with_it_is_told_with_what_to_do() {
        let ran = |ended: Ended, output: &str| Ran {
            ended,
            output: output.to_owned(),
            bytes_total: 0,
            truncated: false,
            output_id: None,
            leftovers: false,
            wall: Duration::ZERO,
        };
        assert_eq!(objection(&ran(Ended::Exited(0), "")), None);
        let old = objection(&ran(Ended::Exited(2), "ls: cannot access '.': Invalid argument")).unwrap();
        assert!(old.contains("too old"), "{old}");
        assert!(refused(&old).to_string().contains("apt install runsc"));
        assert_eq!(objection(&ran(Ended::NotStarted("no".to_owned()), "")).unwrap(), "no");
    }
}
