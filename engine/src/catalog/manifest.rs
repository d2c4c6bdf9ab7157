//! What a folder of the hub's files holds, written down when a pull begins: the pull goes on with the same files of the
//! same commit, and a model that is there needs nobody to be asked.
//!
//! The folder is `hf/OWNER/NAME/MODEL` below the models' folder, with `@REVISION` after it where one was asked for. MODEL
//! is the name of a GGUF file without its ending, or `NAME.safetensors`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::address::Address;
use super::choose::{self, SAFETENSORS, is_plain};
use super::hash::is_hexadecimal;
use super::pull::{self, Wanted, disk};
use crate::Error;

/// The folder of the hub's models, below the models' folder.
const HUB: &str = "hf";
/// The manifest's name. Files of a repository that begin with a dot are never chosen.
const NAME: &str = ".pulled.json";
/// The version that is written. One that is not known is left alone.
const VERSION: u32 = 1;
/// Bytes of a manifest. A model of a thousand files has a few hundred thousand.
const BYTES_MAX: u64 = 16 << 20;

/// What a folder of the hub's files holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    /// The address that means this model and no other.
    pub(super) id: String,
    /// `OWNER/NAME`.
    pub(super) repository: String,
    /// The branch, tag or commit that was asked for, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<String>,
    /// The commit all files are of.
    pub(super) commit: String,
    /// The file to open; the folder itself if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gguf: Option<String>,
    pub(super) files: Vec<Wanted>,
}

/// A folder with its manifest.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) folder: PathBuf,
    pub(super) manifest: Manifest,
}

impl Manifest {
    /// The manifest for `files` of a commit, the file to open first if it is a GGUF file.
    pub(super) fn new(id: &Address, commit: &str, gguf: Option<&Wanted>, files: Vec<Wanted>) -> Manifest {
        let Address { repository, revision, .. } = id.clone();
        let (id, commit) = (id.to_string(), commit.to_owned());
        let gguf = gguf.map(|file| file.name.clone());
        Manifest { version: VERSION, id, repository, revision, commit, gguf, files }
    }

    /// The manifest in `folder`, if there is one that this version reads.
    pub(super) fn read(folder: &Path) -> Option<Manifest> {
        let path = folder.join(NAME);
        if fs::metadata(&path).ok()?.len() > BYTES_MAX {
            return None;
        }
        let manifest: Manifest = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        let names = manifest.files.iter().map(|file| &file.name).chain(&manifest.gguf);
        let is_sound = manifest.version == VERSION
            && is_hexadecimal(&manifest.commit, 40)
            && names.into_iter().all(|name| is_plain(name));
        if !is_sound {
            tracing::warn!(path = %path.display(), "this is no manifest of a pulled model, or one of a newer version");
        }
        is_sound.then_some(manifest)
    }

    /// Writes the manifest into `folder`, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).expect("a manifest is texts and numbers");
        let (fresh, path) = (folder.join(".pulled.new"), folder.join(NAME));
        let written = fs::write(&fresh, text).and_then(|()| fs::File::open(&fresh)?.sync_all());
        written.and_then(|()| fs::rename(&fresh, &path)).map_err(|error| disk(&path, error))
    }

    /// What the files come to.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn is_meant_by(&self, address: &Address) -> bool {
        let is_model = match (&address.which, &self.gguf) {
            (None, _) => true,
            (Some(which), Some(gguf)) => choose::fits(gguf, which),
            (Some(which), None) => which.eq_ignore_ascii_case(SAFETENSORS),
        };
        is_model && self.repository == address.repository && self.revision == address.revision
    }
}

impl Found {
    /// What the engine opens.
    pub(super) fn path(&self) -> PathBuf {
        match &self.manifest.gguf {
            Some(gguf) => self.folder.join(gguf),
            None => self.folder.clone(),
        }
    }

    /// Whether all files are there and checked. Nothing is hashed.
    pub(super) fn is_whole(&self) -> bool {
        pull::is_whole(&self.folder, &self.manifest.files)
    }
}

/// Where a model of a repository belongs: a GGUF file, or the safetensors.
pub(super) fn folder(models: &Path, address: &Address, gguf: Option<&str>) -> PathBuf {
    let own = address.repository.rsplit('/').next().unwrap_or_default();
    let mut name = gguf.map_or_else(|| format!("{own}.safetensors"), choose::folder_of);
    if let Some(revision) = &address.revision {
        name = format!("{name}@{}", revision.replace('/', "--"));
    }
    repository(models, address).join(name)
}

/// The folder of all models of a repository.
fn repository(models: &Path, address: &Address) -> PathBuf {
    models.join(HUB).join(&address.repository)
}

/// The model that `address` means among those that are here, or have begun to come.
///
/// # Errors
/// [`Error::Address`] if it means several.
pub(super) fn find(models: &Path, address: &Address) -> Result<Option<Found>, Error> {
    let mut found = folders(&repository(models, address));
    found.retain(|found| found.manifest.is_meant_by(address));
    // The name that only one model has means that one, whatever else it is a part of.
    let id = address.to_string();
    if found.iter().any(|found| found.manifest.id == id) {
        found.retain(|found| found.manifest.id == id);
    }
    if found.iter().any(Found::is_whole) {
        found.retain(Found::is_whole);
    }
    if found.len() > 1 {
        let ids: Vec<_> = found.iter().map(|found| format!("`{}`", found.manifest.id)).collect();
        let why = format!("several models of it are here: {}; say which one", ids.join(", "));
        return Err(Error::Address { asked: id, why });
    }
    Ok(found.pop())
}

/// Every model of the hub that is here or has begun to come, by its folder.
pub(super) fn all(models: &Path) -> Vec<Found> {
    let owners = entries(&models.join(HUB));
    let repositories = owners.iter().flat_map(|owner| entries(owner));
    repositories.flat_map(|repository| folders(&repository)).collect()
}

fn folders(repository: &Path) -> Vec<Found> {
    let folders = entries(repository).into_iter();
    let found = folders.filter_map(|folder| Some(Found { manifest: Manifest::read(&folder)?, folder }));
    found.collect()
}

/// What is in a folder, in order.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version wrote it; it is read for ever.
    const FIRST: &str = r#"{
        "version": 1, "id": "hf:me/it:Q4_0@v1", "repository": "me/it", "revision": "v1",
        "commit": "0123456789012345678901234567890123456789", "gguf": "it-Q4_0.gguf",
        "files": [
            {"name": "it-Q4_0.gguf", "bytes": 4,
             "sha256": "1234567812345678123456781234567812345678123456781234567812345678"},
            {"name": "config.json", "bytes": 3, "git_blob": "0123456789012345678901234567890123456789"}
        ]
    }"#;

    #[test]
    fn the_first_version_is_read_for_ever_and_strange_ones_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("hf/me/it/it-Q4_0@v1");
        fs::create_dir_all(&folder).unwrap();
        let write = |text: &str| fs::write(folder.join(NAME), text).unwrap();
        write(FIRST);
        let address = Address::parse("hf:me/it:q4_0@v1").unwrap().unwrap();
        let found = find(dir.path(), &address).unwrap().unwrap();
        assert_eq!(found.path(), folder.join("it-Q4_0.gguf"));
        assert_eq!((found.manifest.bytes(), found.is_whole()), (7, false));
        assert_eq!(super::folder(dir.path(), &address, Some("it-Q4_0.gguf")), folder);
        for other in
            ["hf:me/it", "hf:me/it:q8_0@v1", "hf:me/it@v2", "hf:me/it:safetensors@v1", "hf:me/its@v1"]
        {
            assert!(find(dir.path(), &Address::parse(other).unwrap().unwrap()).unwrap().is_none(), "{other}");
        }

        found.manifest.write(&folder).unwrap();
        assert_eq!(Manifest::read(&folder), Some(found.manifest));
        for (from, to) in [
            ("\"version\": 1", "\"version\": 2"),
            ("config.json", "../config.json"),
            ("\"gguf\": \"it-Q4_0.gguf\"", "\"gguf\": \"/etc/passwd\""),
            ("\"commit\": \"0123", "\"commit\": \"../x"),
            ("{", ""),
        ] {
            write(&FIRST.replacen(from, to, 1));
            assert_eq!(Manifest::read(&folder), None, "{to}");
        }
        assert!(all(dir.path()).is_empty());
    }
}
