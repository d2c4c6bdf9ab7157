//! Memory and process limits of a session through cgroups: version 2 where a subtree is delegated to us, version 1 where
//! it is writable. Where neither is, the caller falls back to rlimits and a watchdog. Where the cpu controller is there as well, each session
//! has the same share of the processor when there is not enough for all, however many processes it starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::Limits;

/// Room for the sandbox's own processes: each command is limited to fewer by its rlimit, so that the anchor can still start
/// what looks after the session when commands have used up theirs.
pub(super) const OWN_PROCESSES: u64 = 32;

/// Directories of sessions start with this; the rest is the keeper's pid.
const PREFIX: &str = "saga-sandbox-";

/// The cgroup directories of one session: one in version 2, one for each controller in version 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Place {
    unified: bool,
    /// The memory controller's directory comes first.
    dirs: Vec<PathBuf>,
    /// Directories of controllers that a session can do without.
    #[serde(default)]
    besides: Vec<PathBuf>,
}

impl Place {
    /// Makes the directories of a session and sets their limits, with room for so many processes of our own. The error says in words
    /// why it is not possible here.
    pub(super) fn make(keeper: u32, limits: &Limits, own_processes: u64) -> Result<Place, String> {
        let mut why = Vec::new();
        for base in bases() {
            let own =
                |dirs: &[PathBuf]| dirs.iter().map(|dir| dir.join(format!("{PREFIX}{keeper}"))).collect();
            let mut place =
                Place { unified: base.unified, dirs: own(&base.dirs), besides: own(&base.besides) };
            match place.set_up(&base, limits, own_processes) {
                Ok(()) => {
                    // Being in a directory of its own is all it takes: the share of each is the same.
                    place.besides.retain(|dir| fs::create_dir(dir).is_ok());
                    return Ok(place);
                }
                Err((path, error)) => {
                    place.remove();
                    why.push(format!("{}: {error}", path.display()));
                }
            }
        }
        if why.is_empty() {
            why.push("no memory and pids controllers are mounted".to_owned());
        }
        Err(why.join("; "))
    }

    fn set_up(&self, base: &Base, limits: &Limits, own_processes: u64) -> Result<(), (PathBuf, io::Error)> {
        let set = |path: PathBuf, value: &str| fs::write(&path, value).map_err(|error| (path, error));
        if self.unified {
            // A controller must be handed down by the parent before a child has its files.
            set(base.dirs[0].join("cgroup.subtree_control"), "+memory +pids")?;
            // The weights of all children are the same unless somebody changes them.
            let _ = fs::write(base.dirs[0].join("cgroup.subtree_control"), "+cpu");
        }
        for dir in &self.dirs {
            fs::create_dir(dir).map_err(|error| (dir.clone(), error))?;
        }
        let memory = limits.memory_bytes.to_string();
        let processes = (limits.processes + own_processes).to_string();
        let (first, last) = (&self.dirs[0], &self.dirs[self.dirs.len() - 1]);
        if self.unified {
            set(first.join("memory.max"), &memory)?;
            // Swap is a second memory that the limit would not count; a kernel without swap accounting has no such file.
            let _ = fs::write(first.join("memory.swap.max"), "0");
        } else {
            set(first.join("memory.limit_in_bytes"), &memory)?;
            let _ = fs::write(first.join("memory.memsw.limit_in_bytes"), &memory);
        }
        set(last.join("pids.max"), &processes)
    }

    /// Moves a process in; its children are born there.
    pub(super) fn join(&self, pid: Pid) -> io::Result<()> {
        let join = |dir: &PathBuf| fs::write(dir.join("cgroup.procs"), pid.as_raw_nonzero().to_string());
        for dir in &self.besides {
            // It has a smaller share then, and nothing that it should not.
            let _ = join(dir);
        }
        self.dirs.iter().try_for_each(join)
    }

    /// How often the kernel has killed a process here for want of memory.
    pub(super) fn memory_kills(&self) -> u64 {
        let file = self.dirs[0].join(if self.unified { "memory.events" } else { "memory.oom_control" });
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|n| n.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Kills what is left inside and removes the directories.
    pub(super) fn remove(&self) {
        for dir in self.dirs.iter().chain(&self.besides) {
            remove(dir);
        }
    }

    pub(super) fn describe(&self) -> String {
        let share = match self.besides.is_empty() && !self.shares_by_default() {
            true => "",
            false => ", a share of the processor",
        };
        format!("version {}, {}{share}", if self.unified { 2 } else { 1 }, self.dirs[0].display())
    }

    fn shares_by_default(&self) -> bool {
        self.unified && self.dirs[0].join("cpu.weight").exists()
    }
}

/// Removes one session directory. A cgroup with a dying process in it is busy for a moment, so it is tried for a while.
fn remove(dir: &Path) {
    for _ in 0..100 {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Ok(()) | Err(_) => return,
        }
        let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
            // It may be gone already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Removes the directories of sessions whose keeper is gone, killing what is left inside.
pub(super) fn sweep() {
    for dir in bases().iter().flat_map(|base| base.dirs.iter().chain(&base.besides)) {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(keeper) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            if keeper.parse::<u32>().is_ok_and(|pid| !keeper_lives(pid)) {
                remove(&entry.path());
            }
        }
    }
}

/// Whether the process of this number is a keeper: a number may be in use again by another program.
fn keeper_lives(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.starts_with(super::wire::HELPER.as_bytes()))
}

/// Where session directories can be made.
struct Base {
    unified: bool,
    dirs: Vec<PathBuf>,
    besides: Vec<PathBuf>,
}

fn bases() -> Vec<Base> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    bases_in(&mounts, &own, &|dir| fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default())
}

fn bases_in(mountinfo: &str, own: &str, controllers: &dyn Fn(&Path) -> String) -> Vec<Base> {
    let mut bases = Vec::new();
    // The v2 hierarchy: our own cgroup if it may have children with controllers, or else the one above it, which is what
    // systemd delegates when the service runs in a subgroup.
    if let (Some(mount), Some(own)) = (mount_of(mountinfo, "cgroup2", None), own_path(own, "")) {
        let own = mount.join(own.trim_start_matches('/'));
        for dir in
            [Some(own.as_path()), own.parent().filter(|dir| dir.starts_with(&mount))].into_iter().flatten()
        {
            let offered = controllers(dir);
            let offers = |name: &str| offered.split_whitespace().any(|controller| controller == name);
            if offers("memory") && offers("pids") {
                bases.push(Base { unified: true, dirs: vec![dir.to_owned()], besides: Vec::new() });
            }
        }
    }
    let v1 = |controller: &str| {
        let mount = mount_of(mountinfo, "cgroup", Some(controller))?;
        Some(mount.join(own_path(own, controller)?.trim_start_matches('/')))
    };
    if let (Some(memory), Some(pids)) = (v1("memory"), v1("pids")) {
        // One directory may have several controllers.
        let besides: Vec<PathBuf> =
            v1("cpu").into_iter().filter(|dir| *dir != memory && *dir != pids).collect();
        bases.push(Base { unified: false, dirs: vec![memory, pids], besides });
    }
    bases
}

/// The mount point of a cgroup hierarchy.
fn mount_of(mountinfo: &str, kind: &str, controller: Option<&str>) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let fits = right.next()? == kind
            && controller
                .is_none_or(|name| right.nth(1).is_some_and(|options| options.split(',').any(|o| o == name)));
        fits.then(|| left.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// Our own path in a hierarchy; the v2 hierarchy is the one without a controller's name.
fn own_path<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let names = fields.next()?;
        names.split(',').any(|name| name == controller).then(|| fields.next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchies_of_common_hosts_are_found() {
        // Distributions differ in this more than in anything else, and a wrong path means no limits.
        let check = |mounts: &str, own: &str, offered: &str| -> Vec<String> {
            bases_in(mounts, own, &|_| offered.to_owned())
                .iter()
                .map(|base| {
                    let besides =
                        if base.besides.is_empty() { String::new() } else { format!(" {:?}", base.besides) };
                    format!("{} {:?}{besides}", base.unified, base.dirs)
                })
                .collect()
        };
        let v1 = "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  31 25 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                  32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        assert_eq!(
            check(v1, "3:pids:/a\n2:memory:/b\n0::/", "hugetlb"),
            [r#"false ["/sys/fs/cgroup/memory/b", "/sys/fs/cgroup/pids/a"]"#]
        );
        let with_cpu =
            format!("{v1}\n33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct");
        assert_eq!(
            check(&with_cpu, "4:cpu,cpuacct:/c\n3:pids:/a\n2:memory:/b\n0::/", "hugetlb"),
            [
                r#"false ["/sys/fs/cgroup/memory/b", "/sys/fs/cgroup/pids/a"] ["/sys/fs/cgroup/cpu,cpuacct/c"]"#
            ]
        );
        let v2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(
            check(v2, "0::/user.slice/saga.service/main", "cpu memory pids"),
            [
                r#"true ["/sys/fs/cgroup/user.slice/saga.service/main"]"#,
                r#"true ["/sys/fs/cgroup/user.slice/saga.service"]"#
            ]
        );
        assert!(check("", "", "").is_empty());
    }
}
