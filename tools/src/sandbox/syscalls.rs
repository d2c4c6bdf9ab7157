//! The system calls a sandboxed program may make: an allow-list, and below it a list of arguments that are refused.
//!
//! The listed calls go through, and every other is answered with `ENOSYS`, so that a libc that tries a newer call falls back
//! to an older one (`clone3` and `openat2` hide their flags in memory, where a filter cannot look, so they are among the
//! unlisted). `EPERM` is the answer to calls that programs should see refused in plain words, and to listed calls with
//! arguments that lead out.

use std::collections::BTreeMap;

use super::bpf::{Condition, Filter, Test, Verdict};

/// Who is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// A command of the model's: it may start programs and talk over local sockets.
    Command,
    /// Our own file helper: it opens files and does nothing else.
    Files,
    /// A gVisor, which has filters of its own: only what a command could lead it to do to the host's files.
    Gvisor,
}

/// The compiled filter.
pub(super) fn filter(purpose: For) -> Filter {
    Filter::compile(&verdicts(purpose))
}

fn verdicts(purpose: For) -> BTreeMap<u32, Verdict> {
    let number = |call: i64| u32::try_from(call).expect("calls have small numbers");
    if purpose == For::Gvisor {
        let mut verdicts: BTreeMap<u32, Verdict> = (0..CALLS).map(|call| (call, Verdict::Allowed)).collect();
        let mut rules = Rules::new();
        special_modes(&mut rules);
        verdicts.extend(rules.into_iter().map(|(call, rules)| (number(call), Verdict::RefusedIf(rules))));
        verdicts.insert(number(libc::SYS_fallocate), taking_room());
        return verdicts;
    }
    let mut allowed: Vec<i64> = COMMON.iter().chain(LEGACY).chain(&[FCHMODAT2]).copied().collect();
    match purpose {
        For::Command => allowed.extend(PROCESSES_AND_SOCKETS.iter().chain(LEGACY_PROCESSES)),
        // Beyond opening files: to answer over its channel.
        For::Files => allowed.extend([libc::SYS_openat2, libc::SYS_sendto]),
        For::Gvisor => {}
    }
    let mut verdicts: BTreeMap<u32, Verdict> =
        allowed.into_iter().map(|call| (number(call), Verdict::Allowed)).collect();
    for (call, rules) in refused() {
        // One that is not allowed at all needs no conditions.
        if let Some(verdict) = verdicts.get_mut(&number(call)) {
            *verdict = Verdict::RefusedIf(rules);
        }
    }
    if purpose == For::Command {
        verdicts.insert(number(libc::SYS_fallocate), taking_room());
    }
    verdicts.extend(REFUSED.iter().map(|call| (number(*call), Verdict::Refused)));
    verdicts
}

/// Numbers of calls from which on there is none yet.
const CALLS: u32 = 1024;

/// Room that is taken without a byte being written: gigabytes in a millisecond, before anybody could count them. Giving some back is
/// another mode of the same call.
fn taking_room() -> Verdict {
    const PUNCHES: u32 = 2;
    Verdict::UnsupportedIf(vec![vec![Condition { argument: 1, test: Test::Bits(PUNCHES, 0) }]])
}

/// What calls are refused for: all conditions of one of a call's rules.
type Rules = BTreeMap<i64, Vec<Vec<Condition>>>;

fn refuse(rules: &mut Rules, call: i64, conditions: &[(u8, Test)]) {
    let rule = conditions.iter().map(|(argument, test)| Condition { argument: *argument, test: *test });
    rules.entry(call).or_default().push(rule.collect());
}

fn bits(flags: libc::c_int) -> u32 {
    flags.cast_unsigned()
}

/// A file owned by the workspace's owner that is set-user-id would be a trap for whoever runs it outside.
fn special_modes(rules: &mut Rules) {
    use Test::Bits;
    let mut refuse = |call: i64, conditions: &[(u8, Test)]| refuse(rules, call, conditions);
    for mode in [libc::S_ISUID, libc::S_ISGID] {
        let carries = |index: u8| (index, Bits(mode, mode));
        let creates = |index: u8| (index, Bits(bits(libc::O_CREAT), bits(libc::O_CREAT)));
        let unnamed = |index: u8| (index, Bits(bits(libc::O_TMPFILE), bits(libc::O_TMPFILE)));
        refuse(libc::SYS_fchmod, &[carries(1)]);
        refuse(libc::SYS_fchmodat, &[carries(2)]);
        refuse(FCHMODAT2, &[carries(2)]);
        refuse(libc::SYS_mknodat, &[carries(2)]);
        refuse(libc::SYS_openat, &[creates(2), carries(3)]);
        refuse(libc::SYS_openat, &[unnamed(2), carries(3)]);
        #[cfg(target_arch = "x86_64")]
        {
            refuse(libc::SYS_chmod, &[carries(1)]);
            refuse(libc::SYS_creat, &[carries(1)]);
            refuse(libc::SYS_mknod, &[carries(1)]);
            refuse(libc::SYS_open, &[creates(1), carries(2)]);
            refuse(libc::SYS_open, &[unnamed(1), carries(2)]);
        }
    }
}

/// Calls refused for their arguments.
fn refused() -> Rules {
    use Test::{Bits, Equal, Other};
    let mut rules = Rules::new();
    special_modes(&mut rules);
    let mut refuse = |call: i64, conditions: &[(u8, Test)]| refuse(&mut rules, call, conditions);

    // New namespaces bring capabilities over fresh kernel objects: most local root exploits of late begin there.
    for flag in [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ] {
        refuse(libc::SYS_clone, &[(0, Bits(bits(flag), bits(flag)))]);
    }

    // Typing into a terminal, and the console's paste buffer.
    const TIOCSTI: u32 = 0x5412;
    const TIOCLINUX: u32 = 0x541C;
    refuse(libc::SYS_ioctl, &[(1, Equal(TIOCSTI))]);
    refuse(libc::SYS_ioctl, &[(1, Equal(TIOCLINUX))]);

    // Sockets: local ones, TCP and UDP. No netlink, packet, vsock (not part of a network namespace), crypto, …
    let (unix, inet, inet6) = (bits(libc::AF_UNIX), bits(libc::AF_INET), bits(libc::AF_INET6));
    let (tcp, udp) = (bits(libc::IPPROTO_TCP), bits(libc::IPPROTO_UDP));
    refuse(libc::SYS_socket, &[(0, Other(unix)), (0, Other(inet)), (0, Other(inet6))]);
    refuse(libc::SYS_socket, &[(0, Other(unix)), (2, Other(0)), (2, Other(tcp)), (2, Other(udp))]);
    for kind in [libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_DCCP, SOCK_PACKET] {
        refuse(libc::SYS_socket, &[(1, Bits(SOCKET_TYPE, bits(kind)))]);
    }
    refuse(libc::SYS_socket, &[(0, Other(unix)), (1, Bits(SOCKET_TYPE, bits(libc::SOCK_SEQPACKET)))]);
    refuse(libc::SYS_socketpair, &[(0, Other(unix))]);

    // Personalities turn protections off; asking for the present one and the plain one are harmless.
    refuse(libc::SYS_personality, &[(0, Other(0)), (0, Other(0xffff_ffff))]);
    rules
}

/// The same number everywhere; libc does not name it on every architecture.
const FCHMODAT2: i64 = 452;

/// The oldest way to ask for raw packets; libc calls the name deprecated, the kernel still takes it.
const SOCK_PACKET: libc::c_int = 10;

/// The bits of a socket's type that are not flags.
const SOCKET_TYPE: u32 = 0xf;

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Answered with EPERM: programs try these and report a permission that they lack. Calls in no list get ENOSYS, which
/// makes programs fall back to older calls.
const REFUSED: &[i64] = calls! {
    SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_move_mount SYS_open_tree SYS_fsopen SYS_fsconfig SYS_fsmount
    SYS_fspick SYS_mount_setattr SYS_setns SYS_unshare SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp
    SYS_pidfd_getfd SYS_keyctl SYS_add_key SYS_request_key SYS_bpf SYS_perf_event_open SYS_userfaultfd
    SYS_open_by_handle_at SYS_name_to_handle_at SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load
    SYS_swapon SYS_swapoff SYS_reboot SYS_acct SYS_quotactl SYS_settimeofday SYS_clock_settime SYS_adjtimex
    SYS_clock_adjtime SYS_syslog SYS_sethostname SYS_setdomainname SYS_vhangup SYS_fanotify_init
};

/// What every program needs: memory, time, files by path and descriptor, signals, threads' locks.
const COMMON: &[i64] = calls! {
    SYS_read SYS_write SYS_openat SYS_close SYS_close_range SYS_fstat SYS_newfstatat SYS_statx SYS_lseek SYS_mmap
    SYS_mprotect SYS_munmap SYS_mremap SYS_msync SYS_mincore SYS_madvise SYS_brk SYS_mlock SYS_mlock2 SYS_munlock
    SYS_mlockall SYS_munlockall SYS_membarrier SYS_memfd_create SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigtimedwait SYS_rt_sigsuspend
    SYS_sigaltstack SYS_restart_syscall SYS_exit SYS_exit_group SYS_ioctl SYS_fcntl SYS_flock SYS_dup SYS_dup3
    SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2 SYS_sendfile
    SYS_splice SYS_tee SYS_vmsplice SYS_copy_file_range SYS_readahead SYS_fadvise64 SYS_sync_file_range SYS_fsync
    SYS_fdatasync SYS_sync SYS_syncfs SYS_truncate SYS_ftruncate SYS_fallocate SYS_getdents64 SYS_getcwd SYS_chdir
    SYS_fchdir SYS_renameat SYS_renameat2 SYS_mkdirat SYS_mknodat SYS_unlinkat SYS_linkat SYS_symlinkat SYS_readlinkat
    SYS_faccessat SYS_faccessat2 SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat SYS_umask
    SYS_statfs SYS_fstatfs SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_getxattr SYS_lgetxattr SYS_fgetxattr
    SYS_listxattr SYS_llistxattr SYS_flistxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr SYS_getpid SYS_gettid
    SYS_getppid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getgroups SYS_getresuid SYS_getresgid SYS_getpgid
    SYS_getsid SYS_getpriority SYS_getrlimit SYS_prlimit64 SYS_getrusage SYS_sysinfo SYS_uname SYS_times SYS_gettimeofday
    SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_getitimer SYS_setitimer SYS_timer_create
    SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_timerfd_create SYS_timerfd_settime
    SYS_timerfd_gettime SYS_getrandom SYS_getcpu SYS_rseq SYS_futex SYS_futex_waitv SYS_set_robust_list
    SYS_get_robust_list SYS_set_tid_address SYS_sched_yield SYS_sched_getaffinity SYS_ppoll SYS_pselect6
    SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_signalfd4 SYS_pipe2 SYS_tgkill
    SYS_prctl SYS_capget
};

/// What a command needs beyond that: other programs, other processes, sockets, the rest of the terminal's world.
const PROCESSES_AND_SOCKETS: &[i64] = calls! {
    SYS_clone SYS_execve SYS_execveat SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo
    SYS_pidfd_open SYS_pidfd_send_signal SYS_setpgid SYS_setsid SYS_setpriority SYS_setrlimit SYS_personality
    SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid SYS_setfsgid SYS_setgroups
    SYS_capset SYS_sched_setaffinity SYS_sched_getparam SYS_sched_setparam SYS_sched_getscheduler
    SYS_sched_setscheduler SYS_sched_getattr SYS_sched_setattr SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_rr_get_interval SYS_ioprio_get SYS_ioprio_set SYS_socket SYS_socketpair SYS_bind SYS_listen SYS_connect
    SYS_accept SYS_accept4 SYS_getsockname SYS_getpeername SYS_getsockopt SYS_setsockopt SYS_shutdown SYS_sendto
    SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_inotify_init1 SYS_inotify_add_watch
    SYS_inotify_rm_watch SYS_shmget SYS_shmat SYS_shmctl SYS_shmdt SYS_semget SYS_semop SYS_semctl SYS_semtimedop
    SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive
    SYS_mq_notify SYS_mq_getsetattr SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule
    SYS_landlock_restrict_self
};

/// The older forms of [`COMMON`] that only this architecture has.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[i64] = calls! {
    SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_poll SYS_select SYS_pipe SYS_dup2 SYS_rename SYS_mkdir SYS_rmdir
    SYS_link SYS_unlink SYS_symlink SYS_readlink SYS_chmod SYS_chown SYS_lchown SYS_mknod SYS_getdents SYS_utime
    SYS_utimes SYS_futimesat SYS_time SYS_alarm SYS_pause SYS_getpgrp SYS_epoll_create SYS_epoll_wait SYS_signalfd
    SYS_eventfd SYS_arch_prctl
};
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[i64] = &[];

/// The older forms of [`PROCESSES_AND_SOCKETS`] that only this architecture has.
#[cfg(target_arch = "x86_64")]
const LEGACY_PROCESSES: &[i64] = calls! { SYS_fork SYS_vfork SYS_inotify_init };
#[cfg(not(target_arch = "x86_64"))]
const LEGACY_PROCESSES: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_fit_the_kernel() {
        // The kernel takes at most 4,096 instructions; a filter that grew beyond would fail at the first command.
        for purpose in [For::Command, For::Files, For::Gvisor] {
            let length = filter(purpose).steps().len();
            assert!(length < 4096, "{purpose:?}: {length}");
        }
    }

    #[test]
    fn nothing_is_both_allowed_and_refused() {
        // A call in both lists would be refused in spite of its place in the allow-list: a mistake of whoever added it.
        for call in COMMON.iter().chain(PROCESSES_AND_SOCKETS).chain(LEGACY).chain(LEGACY_PROCESSES) {
            assert!(!REFUSED.contains(call), "{call}");
        }
    }
}
