//! Tenants: teams that share a service and nothing else. Each has a key, folders to work in, a memory and sessions of its own, in a
//! folder of its own, and what its sessions compute is sealed with a secret of its own. Removing the folder removes all of it.

use std::path::{Path, PathBuf};

use engine::snapshot::Secret;
use serde::{Deserialize, Serialize};

use crate::auth::{Key, KeyFile, KeyHash, random_secret, write_private};
use crate::failure::Failure;
use crate::server::make_folder;

/// The longest name of a tenant. Characters.
const NAME_CHARS_MAX: usize = 32;

/// A tenant as it lies in the data folder.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    name: String,
    folder: PathBuf,
}

/// What is settled of a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The folders its sessions may work in.
    workspace_roots: Vec<PathBuf>,
    /// Tokens that its sessions may use in a day, of prompts that were not there already and of replies; as many as they like when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens_per_day: Option<u64>,
}

impl Tenant {
    fn of(data: &Path, name: &str) -> Result<Tenant, Failure> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(plain) {
            return Err(Failure::new(format!("{name:?} is no name of a tenant"))
                .next(format!("use 1 to {NAME_CHARS_MAX} of a-z, 0-9 and '-'")));
        }
        Ok(Tenant { name: name.to_string(), folder: data.join("tenants").join(name) })
    }

    /// Every tenant, by name.
    pub(crate) fn all(data: &Path) -> Result<Vec<Tenant>, Failure> {
        let folder = data.join("tenants");
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::new(format!("cannot read {}: {error}", folder.display()))),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        // What somebody else put there is no tenant, and neither is one that was being made or removed.
        let mut tenants: Vec<Tenant> = names.filter_map(|name| Tenant::of(data, &name).ok()).collect();
        tenants.retain(|tenant| tenant.settings_path().exists());
        tenants.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tenants)
    }

    /// The tenant of this name.
    pub(crate) fn named(data: &Path, name: &str) -> Result<Tenant, Failure> {
        let tenant = Tenant::of(data, name)?;
        match tenant.settings_path().exists() {
            true => Ok(tenant),
            false => Err(Failure::new(format!("there is no tenant {name}"))
                .next("`saga tenants list` shows those there are")),
        }
    }

    /// Makes a tenant whose sessions may work in these folders; gives back its key, which is kept only as a hash.
    pub(crate) fn add(
        data: &Path,
        name: &str,
        roots: Vec<PathBuf>,
        tokens_per_day: Option<u64>,
    ) -> Result<Key, Failure> {
        let tenant = Tenant::of(data, name)?;
        if tenant.settings_path().exists() {
            return Err(Failure::new(format!("there is a tenant {name} already"))
                .next(format!("`saga tenants new-key {name}` makes a new key for it")));
        }
        make_folder(&tenant.folder)?;
        let secret = tenant.folder.join("kv.key");
        write_private(&secret, random_secret()?.as_bytes())
            .map_err(|error| Failure::unwritable(&secret, &error))?;
        let key = KeyFile::of(&tenant.folder).make()?;
        // Last: with it the tenant is there.
        tenant.write(&Settings { workspace_roots: roots, tokens_per_day })?;
        Ok(key)
    }

    /// Sets how many tokens its sessions may use in a day, from the service's next start on; nothing is as many as they like.
    pub(crate) fn limit(&self, tokens_per_day: Option<u64>) -> Result<(), Failure> {
        self.write(&Settings { tokens_per_day, ..self.settings()? })
    }

    /// Tokens that its sessions may use in a day.
    pub(crate) fn tokens_per_day(&self) -> Result<Option<u64>, Failure> {
        Ok(self.settings()?.tokens_per_day)
    }

    fn write(&self, settings: &Settings) -> Result<(), Failure> {
        let text = toml::to_string(settings).expect("settings are a list of paths and a number");
        let path = self.settings_path();
        write_private(&path, text.as_bytes()).map_err(|error| Failure::unwritable(&path, &error))
    }

    /// Makes a new key; the one before is good for nothing once the service has started anew.
    pub(crate) fn new_key(&self) -> Result<Key, Failure> {
        KeyFile::of(&self.folder).make()
    }

    /// Removes the tenant and everything it has, but for its workspaces.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        let failed = |path: &Path, error: std::io::Error| {
            Failure::new(format!("cannot remove {}: {error}", path.display())).next("remove it by hand")
        };
        let path = self.settings_path();
        std::fs::remove_file(&path).map_err(|error| failed(&path, error))?;
        std::fs::remove_dir_all(&self.folder).map_err(|error| failed(&self.folder, error))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its memory is.
    pub(crate) fn memory(&self) -> PathBuf {
        self.folder.join("memory")
    }

    /// Where sub-agents have copies of its workspaces.
    pub(crate) fn branches(&self) -> PathBuf {
        self.folder.join("branches")
    }

    /// Where its workspaces are kept.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    /// The folders its sessions may work in.
    pub(crate) fn roots(&self) -> Result<Vec<PathBuf>, Failure> {
        Ok(self.settings()?.workspace_roots)
    }

    fn settings(&self) -> Result<Settings, Failure> {
        let path = self.settings_path();
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
        toml::from_str(&text).map_err(|error| {
            Failure::new(format!("{}: {}", path.display(), error.message()))
                .next("it holds workspace_roots = [\"/srv/team\"], and perhaps tokens_per_day = 1000000")
        })
    }

    /// What its sessions' timelines are sealed with.
    pub(crate) fn secret(&self) -> Result<Secret, Failure> {
        Ok(Secret::read(&self.folder.join("kv.key")).map_err(agent::Error::from)?)
    }

    /// The hash of its key.
    pub(crate) fn key(&self) -> Result<KeyHash, Failure> {
        KeyFile::of(&self.folder).read()?.ok_or_else(|| {
            Failure::new(format!("the tenant {} has no key", self.name))
                .next(format!("`saga tenants new-key {}` makes one", self.name))
        })
    }

    fn settings_path(&self) -> PathBuf {
        self.folder.join("tenant.toml")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_a_folder_that_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        assert!(Tenant::all(data).unwrap().is_empty());
        let key = Tenant::add(data, "blue", vec!["/srv/blue".into()], None).unwrap();
        Tenant::add(data, "amber", vec![], Some(7)).unwrap();
        std::fs::create_dir_all(data.join("tenants/half-made")).unwrap();
        std::fs::create_dir_all(data.join("tenants/..odd")).unwrap();
        let all = Tenant::all(data).unwrap();
        let names: Vec<&str> = all.iter().map(Tenant::name).collect();
        assert_eq!(names, ["amber", "blue"]);
        assert_eq!(all[1].key().unwrap(), key.hash());
        assert_eq!(all[1].roots().unwrap(), [PathBuf::from("/srv/blue")]);
        assert!(all[1].secret().is_ok());
        assert_ne!(all[1].new_key().unwrap().hash(), key.hash());
        assert_eq!((all[0].tokens_per_day().unwrap(), all[1].tokens_per_day().unwrap()), (Some(7), None));
        all[1].limit(Some(9)).unwrap();
        assert_eq!(all[1].tokens_per_day().unwrap(), Some(9));
        assert_eq!(all[1].roots().unwrap(), [PathBuf::from("/srv/blue")]);
        assert!(Tenant::add(data, "blue", vec![], None).is_err(), "it is there already");
        for bad in ["", "..", "a/b", "A", "a.b", &"x".repeat(33)] {
            assert!(Tenant::add(data, bad, vec![], None).is_err(), "{bad:?}");
        }
        all[1].remove().unwrap();
        assert!(!data.join("tenants/blue").exists());
        assert!(Tenant::named(data, "blue").is_err());
    }
}
