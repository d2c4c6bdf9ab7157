//! What a sandbox may touch and how much of it: chosen by the operator, never by a model, a file or a command.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::egress::Egress;

/// What one sandbox may see and use. No tool argument, environment variable or file in the workspace can widen it.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The one host folder that is writable inside, at its real path. Absolute; it must exist.
    pub workspace: PathBuf,
    /// Whether that folder can only be read, by commands and tools alike.
    pub frozen: bool,
    /// What runs its commands.
    pub backend: Backend,
    /// How much it may use.
    pub limits: Limits,
    /// More host paths to show read-only at their real place, such as toolchains the probing does not find.
    pub read_only: Vec<PathBuf>,
    /// Added to the built environment of every command (the service's own environment is never inherited).
    pub env: Vec<(String, String)>,
    /// Patterns of names that are secrets: such files of the workspace are closed to commands and tools. A name such as `.env`
    /// or `*.pem` is looked for in every folder, `deploy/*.txt` from the workspace on; `!` before a pattern makes an exception.
    pub secrets: Vec<String>,
    /// Where its commands and tools may reach out, through the service. `None` is nowhere.
    pub egress: Option<Arc<Egress>>,
    /// Names of layers the operator lets be missing. Everything else that is missing refuses to open.
    pub lowered: Vec<String>,
    /// The binary to start as helper; it must call [`maybe_become_helper`](crate::maybe_become_helper) first thing in
    /// `main`. `None` starts this very binary again.
    pub helper: Option<PathBuf>,
}

impl Policy {
    /// The default policy for a workspace: default limits, every layer required.
    pub fn new(workspace: impl Into<PathBuf>) -> Policy {
        Policy {
            workspace: workspace.into(),
            frozen: false,
            backend: Backend::Native,
            limits: Limits::default(),
            read_only: Vec::new(),
            env: Vec::new(),
            secrets: crate::secrets::usual(),
            egress: None,
            lowered: Vec::new(),
            helper: None,
        }
    }
}

/// What runs the commands of a sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The host's kernel, behind namespaces, Landlock and seccomp.
    #[default]
    Native,
    /// A kernel of its own for each command: gVisor's `runsc`, inside the native sandbox.
    Runsc,
}

/// How much a sandbox and its commands may use.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Limits {
    /// Wall time of a command that names none.
    pub wall: Duration,
    /// The longest wall time a command may ask for; a longer wish is cut to it.
    pub wall_max: Duration,
    /// Memory of the whole session, its temporary files included. Bytes.
    pub memory_bytes: u64,
    /// Processes and threads of the whole session at one time.
    pub processes: u64,
    /// The largest file a command may write. Bytes.
    pub file_bytes: u64,
    /// Open files of one process.
    pub open_files: u64,
    /// Size of each of `/tmp`, `/var/tmp`, `/dev/shm` and the home folder, which live in memory. Bytes.
    pub tmp_bytes: u64,
    /// By how much the workspace may grow in a session. A command that goes beyond is stopped. Bytes on disk.
    pub workspace_bytes: u64,
    /// By how many files and folders the workspace may grow in a session.
    pub workspace_files: u64,
    /// A command that prints more than this is stopped. Bytes.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            wall: Duration::from_secs(120),
            wall_max: Duration::from_secs(600),
            // A release link of a middling Rust project needs about 2 GiB; twice that leaves room for its tests.
            memory_bytes: 4 << 30,
            // A compiler on a large machine starts a thread for each core, several times over.
            processes: 512,
            file_bytes: 1 << 30,
            open_files: 4096,
            tmp_bytes: 512 << 20,
            workspace_bytes: 2 << 30,
            workspace_files: 200_000,
            output_bytes: 64 << 20,
        }
    }
}
