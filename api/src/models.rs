//! Models on this machine: where the file of one is, and getting it when it is not there.

use std::path::PathBuf;

use crate::config::Folders;
use crate::failure::Failure;
use crate::term::Screen;

/// How a model stands on this machine.
pub(crate) enum State {
    /// Its file is there.
    There {
        /// The file.
        path: PathBuf,
        /// Whether it has been checked against its sha-256.
        verified: bool,
    },
    /// It can be pulled.
    Absent,
    /// Nobody knows it; why.
    Unknown(String),
}

pub(crate) fn state(model: &str, folders: &Folders) -> State {
    let path = [PathBuf::from(model), folders.models.join(model)].into_iter().find(|path| path.is_file());
    match path {
        Some(path) => State::There { path, verified: false },
        None => State::Absent,
    }
}

pub(crate) async fn ensure(model: &str, folders: &Folders, _screen: &Screen) -> Result<(), Failure> {
    match state(model, folders) {
        State::There { .. } => Ok(()),
        State::Absent => Err(Failure::new(format!("there is no model {model}"))),
        State::Unknown(why) => Err(Failure::new(why)),
    }
}
