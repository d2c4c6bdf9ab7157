//! What a command ends with when it cannot do what was asked: one line that says what happened and what to do next.

use std::fmt;
use std::io;
use std::path::Path;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    what: String,
    next: Option<String>,
    exit: u8,
}

/// The command could not be carried out.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The command was carried out, and its answer is no: a demo not fixed, a turn that ended early, a layer that does not hold.
pub(crate) const EXIT_NO: u8 = 3;
/// The person interrupted it.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

impl Failure {
    /// What happened, in lower case and without a full stop.
    pub fn new(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), next: None, exit: EXIT_FAILED }
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn next(self, next: impl Into<String>) -> Failure {
        Failure { next: Some(next.into()), ..self }
    }

    /// Another exit code than 1.
    #[must_use]
    pub(crate) fn exit(self, exit: u8) -> Failure {
        Failure { exit, ..self }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.exit
    }

    /// An error and everything that caused it.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Failure {
        Failure::new(in_full(error))
    }

    /// A file or folder that could not be written, sorted by what can be done about it.
    pub(crate) fn unwritable(path: &Path, error: &io::Error) -> Failure {
        let failure = Failure::new(format!("cannot write {}: {error}", path.display()));
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                failure.next("free some space there, or set SAGA_HOME to a folder on another disk")
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                failure.next("make it writable for this user, or set SAGA_HOME to a folder that is")
            }
            _ => failure,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.next {
            Some(next) => write!(f, "; {next}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<agent::Error> for Failure {
    fn from(error: agent::Error) -> Failure {
        Failure::of(&error)
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Failure {
        Failure::of(&error)
    }
}

impl From<memory::Error> for Failure {
    fn from(error: memory::Error) -> Failure {
        Failure::of(&error)
    }
}

impl From<tools::Error> for Failure {
    fn from(error: tools::Error) -> Failure {
        Failure::of(&error)
    }
}

/// An error with its causes, each said once.
pub(crate) fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_the_next_step() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let said = Failure::unwritable(Path::new("/data/key"), &full).to_string();
        assert!(said.starts_with("cannot write /data/key: ") && said.contains("free some space"), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
}
