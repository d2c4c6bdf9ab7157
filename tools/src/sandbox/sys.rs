//! The few system calls that the safe wrappers do not offer, each behind a safe function.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use rustix::process::Pid;

/// Attributes of a mount, as `mount_setattr(2)` numbers them.
pub(super) const READ_ONLY: u64 = 0x1;
pub(super) const NO_SUID: u64 = 0x2;
pub(super) const NO_DEV: u64 = 0x4;
pub(super) const NO_EXEC: u64 = 0x8;
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// Which side of a fork this is.
pub(super) enum Fork {
    Child,
    Parent(Pid),
}

/// Forks this process, with `flags` of clone(2) added (namespaces, `CLONE_PARENT`).
///
/// Only the helper calls this: it is single-threaded from its start, so the child may go on in Rust without the locks
/// that another thread could have held.
pub(super) fn fork(flags: libc::c_int) -> io::Result<Fork> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: without CLONE_VM the child has its own copy of memory and, with a null stack, goes on from here like
    // fork(2). The process has one thread, so no lock is held by a thread that the child lacks. The argument order
    // beyond the first two differs between architectures, and all of those are zero.
    // WHY: fork(2) takes no namespace flags, and CLONE_PARENT is what lets the keeper wait for the anchor.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("clone returns a positive pid");
            Ok(Fork::Parent(pid))
        }
    }
}

/// Enters new namespaces.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is passed; the process has one thread, so no other thread's view changes under it.
    // WHY: the wrapper's safe form does not offer CLONE_NEWUSER without CLONE_THREAD rules of its own.
    check(unsafe { libc::unshare(flags) }.into())
}

/// Ends this process without running destructors or flushing what the parent's copy will flush.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: _exit takes no memory and does not return.
    // WHY: a forked child must not run the exit handlers of the image it shares with its parent.
    unsafe { libc::_exit(code) }
}

/// Makes every descriptor from `first` on close at the next exec, or closes it now.
pub(super) fn close_from(first: RawFd, on_exec: bool) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).expect("descriptors are not negative");
    let flags = if on_exec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: no memory is passed. With `on_exec` nothing is closed yet; without it the helper has just started and owns
    // no descriptor of its own but its control socket, which is below `first`.
    // WHY: nothing else closes descriptors whose numbers are not known.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) })
}

/// Takes a descriptor of a known number, once.
pub(super) fn take_fd(number: RawFd) -> OwnedFd {
    // SAFETY: called once at the helper's start for the control socket, which the starter put at this number and which
    // nothing else in this process owns.
    // WHY: it is how a descriptor crosses exec.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Moves a descriptor to a known number, to cross the coming exec or replace a standard stream.
pub(super) fn dup_to(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed. In the child of a fork, just before exec, nothing else uses 0, 1 or 2.
    // WHY: dup2 onto a number needs a raw number.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())
}

/// Sets attributes on a mount, and on those below it when `recursive`. `userns` makes it an id-mapped mount.
pub(super) fn mount_setattr(
    mount: BorrowedFd<'_>,
    attributes: u64,
    userns: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let mut attr =
        MountAttr { attr_set: attributes, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    if let Some(userns) = userns {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = u64::try_from(userns.as_raw_fd()).expect("descriptors are not negative");
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a valid C string, `attr` is the kernel's struct mount_attr of the size given, both live
    // through the call.
    // WHY: no wrapper offers mount_setattr.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
}

/// Brings the loopback interface of this network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero bytes are a valid ifreq.
    // WHY: the struct holds a union, which cannot be built field by field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).expect("ASCII fits");
    }
    let up = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("the flags fit 16 bits");
    request.ifr_ifru.ifru_flags = up;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives through the call.
    // WHY: no wrapper offers it, and a netlink exchange is longer.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())
}

/// Replaces this process by a program. Returns only when that failed.
pub(super) fn exec(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer, and they and the strings live until the call returns, if it does.
    // WHY: the standard library offers exec only with its own fork or its own environment lookups.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// How many numbers [`shared_memory`] holds.
pub(super) const SHARED: usize = 8;

/// Memory that this process and those it forks from now on have in common, all zero. It lives as long as they do.
pub(super) fn shared_memory() -> io::Result<&'static [AtomicU64; SHARED]> {
    const BYTES: usize = size_of::<[AtomicU64; SHARED]>();
    // SAFETY: a new anonymous mapping overlaps nothing; it is aligned to a page, zeroed, large enough, and never unmapped,
    // and all who see it use it as atomic numbers only.
    // WHY: numbers that forked processes change together need memory that fork does not copy.
    unsafe {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        let at = libc::mmap(std::ptr::null_mut(), BYTES, access, kind, -1, 0);
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(&*at.cast()) }
    }
}

/// Ends this process with SIGALRM after so many seconds.
pub(super) fn alarm(secs: u32) {
    // SAFETY: no memory is passed; the default action of SIGALRM ends the process.
    // WHY: a bound that holds even when the process hangs in a system call.
    unsafe { libc::alarm(secs) };
}

/// Sends a signal to every process of this pid namespace, of which this process is the first, but itself.
pub(super) fn signal_all(signal: libc::c_int) {
    // SAFETY: no memory is passed; the first process of a namespace reaches only those in it.
    // WHY: the wrapper takes a process or a group, and what is left of a command may have made groups of its own.
    unsafe { libc::kill(-1, signal) };
}

/// Gives way to others by so much, for good: whoever has not the right to can never take it back.
pub(super) fn give_way(by: libc::c_int) {
    // SAFETY: no memory is passed.
    // WHY: no wrapper in use offers niceness.
    unsafe { libc::nice(by) };
}

/// Restores a signal's default action and unblocks all signals: what a program expects at its start.
pub(super) fn default_signals() {
    for signal in [libc::SIGPIPE, libc::SIGCHLD, libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGALRM] {
        // SAFETY: SIG_DFL is a valid action for each of these.
        // WHY: the Rust runtime ignores SIGPIPE, and an ignored signal stays ignored across exec.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `none` is filled by sigemptyset before it is read, and the old mask is not asked for.
    // WHY: no wrapper in use offers the signal mask.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Keeps all signals that can be kept from this process. A program it starts has none blocked.
pub(super) fn block_signals() {
    // SAFETY: `all` is filled by sigfillset before it is read, and the old mask is not asked for.
    // WHY: no wrapper in use offers the signal mask.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

/// The next signal that was kept from this process, which is waited for at most so long.
pub(super) fn next_signal(at_most: std::time::Duration) -> Option<libc::c_int> {
    let wall = libc::timespec {
        tv_sec: libc::time_t::try_from(at_most.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(at_most.subsec_nanos()),
    };
    // SAFETY: `all` is filled by sigfillset before it is read, the time lives through the call, and what is known of the signal
    // beside its number is not asked for.
    // WHY: no wrapper in use offers to wait for signals.
    let signal = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigtimedwait(&raw const all, std::ptr::null_mut(), &raw const wall)
    };
    (signal > 0).then_some(signal)
}

/// Makes writing to a closed pipe or socket an error instead of this process's end.
pub(super) fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is a valid action for SIGPIPE.
    // WHY: no wrapper in use offers signal actions.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// The kernel's Landlock ABI; 0 when there is none.
pub(super) fn landlock_abi() -> i32 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with the VERSION flag the kernel takes a null pointer and size 0, and only returns a number.
    // WHY: the landlock crate tells whether rules were enforced, not which ABI the kernel has.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION)
    };
    i32::try_from(abi).unwrap_or(0).max(0)
}

/// Has the kernel ask a filter about every system call of this process from now on. It cannot be taken back.
pub(super) fn filter_calls(steps: &[libc::sock_filter]) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    let length = libc::c_ushort::try_from(steps.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: steps.as_ptr().cast_mut() };
    // SAFETY: the kernel only reads `length` steps, which live through the call.
    // WHY: no wrapper in use offers seccomp.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const program) })
}

/// Drops a capability from the bounding set; `false` when the kernel knows no capability of this number.
pub(super) fn drop_bounding(capability: libc::c_ulong) -> io::Result<bool> {
    // SAFETY: no memory is passed.
    // WHY: the wrapper takes only capabilities it knows by name; a newer kernel has more.
    match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }.into()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A path as the kernel takes it.
pub(super) fn c_string(bytes: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(bytes.as_ref().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "it holds a NUL byte"))
}

/// Opens a path only to name it: no read, no side effect, symlinks followed.
pub(super) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
