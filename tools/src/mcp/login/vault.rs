//! Where what a login gave lies: a file for each server in the data folder, which only the service's user reads.
//!
//! Tokens are in no journal and no log. Several sessions, and `saga mcp login` beside them, use the same file: whoever changes it
//! holds its lock, since a token that renews others is good for once.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::client::Method;

/// How long another may hold the lock: as long as a login takes to be renewed by somebody slow.
const LOCK_WALL: Duration = Duration::from_secs(60);
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// The most that is read of a file. Bytes: tokens are a few KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The format of what is written.
const VERSION: u32 = 1;

/// What is kept for a server.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    version: u32,
    /// The server's URL: what was given for one is never shown to another.
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) granted: Option<Granted>,
    /// What the service was registered as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) registered: Option<Registered>,
    /// What the server asked for last, and has not got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wanted: Option<Wanted>,
}

/// What a login gave.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Granted {
    /// Whose login it is: a login of another kind, or by another client, is not this one.
    pub(super) who: String,
    pub(super) client: String,
    pub(super) method: Method,
    pub(super) issuer: String,
    pub(super) token_endpoint: String,
    pub(super) resource: String,
    pub(super) access_token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refresh_token: Option<String>,
    /// When the access token ends, if it is known. Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at_ms: Option<u64>,
    /// What it is good for.
    pub(super) scopes: Vec<String>,
    /// What was asked for: to ask for the same again gives no more.
    pub(super) asked: Vec<String>,
}

/// What the service was registered as, at whose issuer, for which redirect.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Registered {
    pub(super) issuer: String,
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    pub(super) method: Method,
    pub(super) redirect: String,
}

/// What a server asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) scopes: Vec<String>,
}

/// The file of one server.
#[derive(Debug, Clone)]
pub(super) struct Vault {
    file: PathBuf,
    url: String,
}

/// The right to change it, for as long as this is held.
pub(super) struct Held {
    _lock: File,
}

impl Vault {
    /// The vault of the server `name` at `url`, in a folder.
    pub(super) fn new(folder: &Path, name: &str, url: &str) -> Vault {
        Vault { file: folder.join(format!("{name}.json")), url: url.to_owned() }
    }

    /// What is kept; nothing, if that is of another URL.
    pub(super) fn read(&self) -> Result<Kept, String> {
        let empty = Kept { version: VERSION, url: self.url.clone(), ..Kept::default() };
        let wrong = |why: String| format!("the login in {} cannot be read: {why}", self.file.display());
        match fs::metadata(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(empty),
            Err(error) => return Err(wrong(error.to_string())),
            Ok(file) if file.len() > FILE_BYTES_MAX => return Err(wrong("it is too large".to_owned())),
            Ok(_) => {}
        }
        let text = fs::read(&self.file).map_err(|error| wrong(error.to_string()))?;
        // What serde says of a value holds the value.
        let kept: Kept = serde_json::from_slice(&text)
            .map_err(|_| wrong("it is damaged; delete it and log in again".to_owned()))?;
        if kept.version > VERSION {
            return Err(wrong("a newer saga has written it".to_owned()));
        }
        Ok(if kept.url == self.url { kept } else { empty })
    }

    /// Waits for the right to change it.
    pub(super) async fn lock(&self) -> Result<Held, String> {
        let wrong = |error: io::Error| format!("the folder of logins cannot be used: {error}");
        if let Some(folder) = self.file.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(wrong)?;
        }
        let path = self.file.with_extension("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(wrong)?;
        let last = Instant::now() + LOCK_WALL;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Held { _lock: lock }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < last => {
                    tokio::time::sleep(LOCK_LOOK).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err("somebody else is logging in to it and does not come to an end".to_owned());
                }
                Err(error) => return Err(wrong(error.into())),
            }
        }
    }

    /// Writes what is to be kept from now on, whole or not at all.
    pub(super) fn write(&self, _held: &Held, kept: &Kept) -> Result<(), String> {
        let beside = self.file.with_extension("new");
        let write = || -> io::Result<()> {
            // One that was left behind may be readable by others.
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) | Ok(()) => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(&serde_json::to_vec_pretty(kept)?)?;
            file.sync_all()?;
            fs::rename(&beside, &self.file)?;
            self.file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        write().map_err(|error| format!("the login cannot be written to {}: {error}", self.file.display()))
    }

    /// Forgets it.
    pub(super) fn clear(&self, _held: &Held) -> Result<bool, String> {
        match fs::remove_file(&self.file) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(format!("{} cannot be removed: {error}", self.file.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn granted() -> Granted {
        Granted {
            who: "person".to_owned(),
            client: "c".to_owned(),
            method: Method::None,
            issuer: "https://a.test".to_owned(),
            token_endpoint: "https://a.test/token".to_owned(),
            resource: "https://docs.test/mcp".to_owned(),
            access_token: "hunter2".to_owned(),
            refresh_token: None,
            expires_at_ms: None,
            scopes: Vec::new(),
            asked: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_token_is_for_the_services_user_alone_and_for_one_url() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("mcp");
        let vault = Vault::new(&folder, "docs", "https://docs.test/mcp");
        let held = vault.lock().await.unwrap();
        // Somebody may have left one that everybody can read.
        fs::write(folder.join("docs.new"), "x").unwrap();
        let mut kept = vault.read().unwrap();
        kept.granted = Some(granted());
        vault.write(&held, &kept).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("docs.json"))), (0o700, 0o600));
        assert_eq!(vault.read().unwrap().granted.unwrap().access_token, "hunter2");
        // The operator has moved the name to another server: it gets nothing of this.
        let moved = Vault::new(&folder, "docs", "https://evil.test/mcp");
        assert!(moved.read().unwrap().granted.is_none());
        assert!(vault.clear(&held).unwrap() && !vault.clear(&held).unwrap());
    }

    #[tokio::test]
    async fn a_damaged_file_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::new(folder.path(), "docs", "https://docs.test/mcp");
        fs::write(folder.path().join("docs.json"), r#"{"version": 1, "url": "u", "granted": "hunter2"}"#)
            .unwrap();
        let said = vault.read().err().unwrap();
        assert!(
            said.contains("docs.json") && said.contains("log in again") && !said.contains("hunter2"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn two_never_change_it_at_once() {
        // A token that renews others is good for once: the second to use it would lose the login.
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::new(folder.path(), "docs", "https://docs.test/mcp");
        let held = vault.lock().await.unwrap();
        let other = vault.clone();
        let waiting = tokio::spawn(async move { other.lock().await.map(drop) });
        tokio::time::sleep(LOCK_LOOK * 3).await;
        assert!(!waiting.is_finished());
        drop(held);
        waiting.await.unwrap().unwrap();
    }
}
