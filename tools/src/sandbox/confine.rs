//! What is taken from a process before it runs anything it was told to run: capabilities, privileges to gain, files,
//! system calls, resources.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::bpf::Filter;
use super::sys;
use super::syscalls::{self, For};
use crate::Limits;

/// What is compiled once in the anchor and applied in each of its children.
pub(super) struct Confinement {
    /// `None` where the operator lets Landlock be missing.
    commands: Option<RulesetCreated>,
    reading: Option<RulesetCreated>,
    writing: Option<RulesetCreated>,
    /// `None` where the operator lets seccomp be missing.
    command_calls: Option<Filter>,
    file_calls: Option<Filter>,
}

/// What a child is confined for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Running a command.
    Command,
    /// Looking at files of the workspace.
    Reading,
    /// Looking at all there is in the workspace, also in folders that a command has closed to their owner.
    Listing,
    /// Changing files of the workspace.
    Writing,
}

/// The newest Landlock ABI whose rights are asked for; an older kernel enforces those it knows.
///
/// From ABI 9 on this includes connecting to a socket somebody else placed in the file system: it is granted nowhere.
const LANDLOCK: ABI = ABI::V9;

/// How much address space the file helper may fill: far above its largest file, far below what would hurt.
const FILES_MEMORY_BYTES: u64 = 1 << 30;

/// By how much commands give way to what looks after them: five hundred processes that all want to run would otherwise keep a watchdog
/// waiting for a second.
pub(super) const NICENESS: libc::c_int = 5;

impl Confinement {
    /// Prepares everything, inside the finished root. `writable` are the folders commands may change.
    pub(super) fn prepare(
        workspace: &str,
        writable: &[&Path],
        landlock: bool,
        seccomp: bool,
    ) -> io::Result<Confinement> {
        let (read, all) = (AccessFs::from_read(LANDLOCK), AccessFs::from_all(LANDLOCK));
        // Devices can be made by nobody here, and connecting to sockets of others is what ABI 9 is asked for.
        let change =
            all & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::ResolveUnix | AccessFs::IoctlDev);
        let use_devices = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::IoctlDev;
        let read_files = AccessFs::ReadFile | AccessFs::ReadDir;

        let workspace = Path::new(workspace);
        let mut for_commands = vec![(Path::new("/"), read), (Path::new("/dev"), use_devices)];
        for_commands.extend(writable.iter().map(|path| (*path, change)));
        let rules = |rules: &[(&Path, BitFlags<AccessFs>)]| -> io::Result<Option<RulesetCreated>> {
            landlock.then(|| ruleset(rules)).transpose()
        };
        let calls = |purpose: For| seccomp.then(|| syscalls::filter(purpose));
        Ok(Confinement {
            commands: rules(&for_commands)?,
            reading: rules(&[(workspace, read_files)])?,
            writing: rules(&[(workspace, change & !BitFlags::from(AccessFs::Execute))])?,
            command_calls: calls(For::Command),
            file_calls: calls(For::Files),
        })
    }

    /// Confines this process for good. After it only the listed system calls work, so descriptors must be in place.
    pub(super) fn apply(self, purpose: Purpose, limits: &Limits, memory_is_limited: bool) -> io::Result<()> {
        match purpose {
            Purpose::Command => {
                sys::give_way(NICENESS);
                lower(Resource::Nofile, limits.open_files)?;
                lower(Resource::Nproc, limits.processes)?;
                if !memory_is_limited {
                    lower(Resource::Data, limits.memory_bytes)?;
                }
            }
            Purpose::Reading | Purpose::Listing | Purpose::Writing => {
                lower(Resource::Nofile, 256)?;
                lower(Resource::Data, FILES_MEMORY_BYTES)?;
            }
        }
        lower(Resource::Core, 0)?;
        lower(Resource::Fsize, limits.file_bytes)?;

        drop_capabilities(match purpose {
            Purpose::Listing => CapabilitySet::DAC_READ_SEARCH,
            Purpose::Command | Purpose::Reading | Purpose::Writing => CapabilitySet::empty(),
        })?;
        rustix::thread::set_no_new_privs(true)?;
        let (rules, calls) = match purpose {
            Purpose::Command => (self.commands, self.command_calls),
            Purpose::Reading | Purpose::Listing => (self.reading, self.file_calls),
            Purpose::Writing => (self.writing, self.file_calls),
        };
        if let Some(rules) = rules {
            let status = rules.restrict_self().map_err(io::Error::other)?;
            if status.ruleset == RulesetStatus::NotEnforced {
                return Err(io::Error::other("landlock enforced nothing"));
            }
        }
        calls.map_or(Ok(()), |filter| sys::filter_calls(filter.steps()))
    }
}

fn ruleset(rules: &[(&Path, BitFlags<AccessFs>)]) -> io::Result<RulesetCreated> {
    let mut created = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    for (path, access) in rules {
        let folder = sys::open_path(path)?;
        created = created.add_rule(PathBeneath::new(folder.as_fd(), *access)).map_err(io::Error::other)?;
    }
    Ok(created)
}

/// Gives every capability up but those to keep, and the way to get one back.
pub(super) fn drop_capabilities(keep: CapabilitySet) -> io::Result<()> {
    // The bounding set first: lowering it needs a capability. Numbers go up to the last the kernel knows.
    for capability in 0..64 {
        if !sys::drop_bounding(capability)? {
            break;
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() },
    )?;
    Ok(())
}

/// Lowers both limits of a resource; one that is lower already stays.
pub(super) fn lower(resource: Resource, to: u64) -> io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let to = now.maximum.map_or(to, |maximum| maximum.min(to));
    rustix::process::setrlimit(resource, Rlimit { current: Some(to), maximum: Some(to) })?;
    Ok(())
}
