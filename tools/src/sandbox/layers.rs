//! The layers a sandbox is made of, whether they hold on this host, and how to mend them.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// One protection, and whether it holds here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Short name, as used in `Policy::lowered`: `landlock`, `seccomp`, `network`, `limits`, …
    pub name: String,
    /// Whether it holds.
    pub holds: bool,
    /// What was found, such as `ABI 7`.
    pub detail: String,
    /// What to do when it does not hold, as a sentence; empty when it does.
    pub mend: String,
}

/// The layers by name, in the order they are set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    User,
    HostUid,
    Limits,
    Mount,
    Ipc,
    Uts,
    Cgroup,
    Network,
    Pid,
    Root,
    Secrets,
    Landlock,
    Seccomp,
    Gvisor,
}

/// What becomes of a sandbox without a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    /// Nothing: it cannot be built without it.
    Nothing,
    /// It opens if the operator names the layer in `Policy::lowered`.
    IfLowered,
    /// It opens, with a weaker stand-in, and says so.
    StandIn,
}

impl Name {
    pub(super) fn text(self) -> &'static str {
        match self {
            Name::User => "user-namespace",
            Name::HostUid => "host-uid",
            Name::Limits => "limits",
            Name::Mount => "mount-namespace",
            Name::Ipc => "ipc-namespace",
            Name::Uts => "uts-namespace",
            Name::Cgroup => "cgroup-namespace",
            Name::Network => "network",
            Name::Pid => "pid-namespace",
            Name::Root => "root",
            Name::Secrets => "secrets",
            Name::Landlock => "landlock",
            Name::Seccomp => "seccomp",
            Name::Gvisor => "gvisor",
        }
    }

    pub(super) fn without(self) -> Without {
        match self {
            Name::User | Name::Mount | Name::Pid | Name::Root | Name::Gvisor => Without::Nothing,
            Name::HostUid
            | Name::Ipc
            | Name::Uts
            | Name::Cgroup
            | Name::Network
            | Name::Landlock
            | Name::Seccomp => Without::IfLowered,
            Name::Limits | Name::Secrets => Without::StandIn,
        }
    }

    fn mend(self) -> &'static str {
        match self {
            Name::User | Name::Mount | Name::Pid => user_namespace_mend(),
            Name::HostUid => {
                "Put the workspace on a file system with id-mapped mounts (ext4, xfs, btrfs), let an ordinary user own \
                 it, or run saga as an ordinary user"
            }
            Name::Limits => {
                "Run the service with `Delegate=yes` and `DelegateSubgroup=service` in its systemd unit, or as root where \
                 cgroup version 1 is mounted; until then per-process limits and a watchdog stand in"
            }
            Name::Ipc | Name::Uts | Name::Cgroup | Name::Network => {
                "Use a kernel built with this namespace, or raise /proc/sys/user/max_*_namespaces"
            }
            Name::Root => {
                "The sandbox needs to mount tmpfs and proc in a namespace of its own: in a container, allow mounts \
                 (unmasked /proc, no seccomp profile that forbids mount) or run saga outside of it"
            }
            Name::Secrets => {
                "Open a smaller folder as the workspace, or name fewer patterns of secrets in the settings; until then \
                 the file tools still refuse them by name"
            }
            Name::Landlock => {
                "Use a kernel from 5.19 on with CONFIG_SECURITY_LANDLOCK, and put `landlock` in its `lsm=` boot parameter"
            }
            Name::Seccomp => "Use a kernel with CONFIG_SECCOMP_FILTER",
            Name::Gvisor => {
                "Install a runsc of 2024 or later (Debian from 13 on: apt install runsc; others: \
                 https://gvisor.dev/docs/user_guide/install), or set backend = \"native\" under [sandbox] in the settings"
            }
        }
    }

    pub(super) fn layer(self, found: &Result<String, String>) -> Layer {
        let (holds, detail, mend) = match found {
            Ok(detail) => (true, detail.clone(), String::new()),
            Err(detail) => (false, detail.clone(), format!("{}.", self.mend())),
        };
        Layer { name: self.text().to_owned(), holds, detail, mend }
    }
}

/// User namespaces are switched off in several ways; say which one it is here.
fn user_namespace_mend() -> &'static str {
    let reads = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor restricts user namespaces here (as on Ubuntu 24.04): give the saga binary an AppArmor profile with \
         `userns,`, or set the sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    } else if reads("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "Set the sysctl kernel.unprivileged_userns_clone=1"
    } else if reads("/proc/sys/user/max_user_namespaces", "0") {
        "Set the sysctl user.max_user_namespaces to 10000"
    } else {
        "Allow user namespaces to this user: in a container, its seccomp profile must let unshare and clone through"
    }
}

/// The layers as the setup goes through them.
#[derive(Debug, Default, Clone)]
pub(super) struct Ledger {
    pub(super) layers: Vec<Layer>,
    lowered: Vec<String>,
    probing: bool,
}

impl Ledger {
    pub(super) fn new(lowered: &[String], probing: bool) -> Ledger {
        Ledger { layers: Vec::new(), lowered: lowered.to_vec(), probing }
    }

    /// Notes a layer. The error is the layer that is missing and may not be.
    pub(super) fn note(&mut self, name: Name, found: Result<String, String>) -> Result<(), Layer> {
        let layer = name.layer(&found);
        let goes_on = layer.holds
            || match name.without() {
                Without::Nothing => false,
                Without::IfLowered => self.probing || self.lowered.contains(&layer.name),
                Without::StandIn => true,
            };
        if goes_on {
            self.layers.push(layer);
            Ok(())
        } else {
            Err(layer)
        }
    }

    /// [`note`](Ledger::note) for a system call that either works or does not.
    pub(super) fn tried(&mut self, name: Name, what: &str, result: io::Result<()>) -> Result<(), Layer> {
        self.note(name, result.map(|()| what.to_owned()).map_err(|error| format!("{what}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_layer_refuses_unless_it_is_lowered_or_has_a_stand_in() {
        let missing = || Err("no".to_owned());
        let mut strict = Ledger::new(&[], false);
        assert_eq!(strict.note(Name::Landlock, missing()).unwrap_err().name, "landlock");
        assert!(strict.note(Name::Limits, missing()).is_ok());
        let mut lowered = Ledger::new(&["landlock".to_owned(), "root".to_owned()], false);
        assert!(lowered.note(Name::Landlock, missing()).is_ok());
        assert!(lowered.note(Name::Root, missing()).is_err(), "the root cannot be lowered away");
        assert!(lowered.layers.iter().all(|layer| !layer.holds && !layer.mend.is_empty()));
    }
}
