//! Trying attacks as another user of this host: what root's sandbox has, an ordinary user's may lack.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs this very program once more as another user, with a copy of a file as one of its arguments, and gives its exit code.
/// Only root can do that. What the user must read, this program and the file, is copied to where the user may look.
///
/// # Errors
/// In words: this is not root, there is no such user, or the copies could not be made.
pub fn as_user(name: &str, before: &[&str], file: &Path, after: &[&str]) -> Result<u8, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can become another user".to_owned());
    }
    let accounts = fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
    let account = Account::find(&accounts, name).ok_or_else(|| format!("there is no user {name}"))?;
    let copies =
        Copies::make(file).map_err(|error| format!("making copies that {name} can read: {error}"))?;
    let status = Command::new(copies.folder.join("saga"))
        .args(before)
        .arg(copies.folder.join("cases"))
        .args(after)
        .env("HOME", &account.home)
        .env("USER", name)
        .env("LOGNAME", name)
        // Root's toolchains lie in root's home, where the user may not look.
        .env_remove("CARGO_HOME")
        .env_remove("RUSTUP_HOME")
        .env_remove("PYENV_ROOT")
        .current_dir("/")
        .uid(account.uid)
        .gid(account.gid)
        .status()
        .map_err(|error| format!("starting again as {name}: {error}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

struct Account {
    uid: u32,
    gid: u32,
    home: String,
}

impl Account {
    fn find(passwd: &str, name: &str) -> Option<Account> {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account { uid, gid, home: fields.nth(1)?.to_owned() })
    }
}

/// A folder with copies, removed again.
struct Copies {
    folder: PathBuf,
}

impl Copies {
    fn make(file: &Path) -> std::io::Result<Copies> {
        let folder = super::scene::new_folder("saga-as-user")?;
        let copies = Copies { folder };
        fs::set_permissions(&copies.folder, fs::Permissions::from_mode(0o755))?;
        for (from, name, mode) in [(Path::new("/proc/self/exe"), "saga", 0o755), (file, "cases", 0o644)] {
            let to = copies.folder.join(name);
            fs::copy(from, &to)?;
            fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
        }
        Ok(copies)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // Two files of ours; what is left of them does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        // Becoming the wrong user would try the attacks as somebody's account.
        let passwd = "root:x:0:0:root:/root:/bin/bash\ntester2:x:7:7::/:/x\ntester:x:1001:1002:,,,:/home/t:/bin/sh\nodd:x:y\n";
        let found = Account::find(passwd, "tester").unwrap();
        assert_eq!((found.uid, found.gid, found.home.as_str()), (1001, 1002, "/home/t"));
        assert!(Account::find(passwd, "test").is_none() && Account::find(passwd, "odd").is_none());
    }
}
