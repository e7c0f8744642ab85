//! System calls that rustix lacks, by number from linux-raw-sys.
#![allow(unsafe_code)]

use core::arch::asm;
use core::ffi::CStr;
use core::sync::atomic::AtomicU32;

use linux_raw_sys::general::{
    __NR_clock_gettime, __NR_close_range, __NR_connect, __NR_exit_group, __NR_fcntl, __NR_futex,
    __NR_futex_waitv, __NR_landlock_add_rule, __NR_landlock_create_ruleset,
    __NR_landlock_restrict_self, __NR_mount_setattr, __NR_newfstatat, __NR_ppoll, __NR_prctl,
    __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_seccomp, __NR_sendmsg, __NR_setsockopt,
    __NR_unshare, AT_EMPTY_PATH, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW, CLOCK_REALTIME, CLONE_NEWNS,
    F_OFD_GETLK, F_OFD_SETLK, F_SETFL, F_SETOWN, FASYNC, FUTEX_WAKE, O_RDWR, SA_RESTART, SIG_BLOCK,
    SIG_UNBLOCK, SIGIO, SIGPIPE, SIGXFSZ, flock, futex_waitv, iovec, kernel_sigaction,
    kernel_sigset_t, mount_attr, pollfd, stat, timespec,
};
use linux_raw_sys::landlock::{
    LANDLOCK_CREATE_RULESET_VERSION, landlock_path_beneath_attr, landlock_rule_type,
};
use linux_raw_sys::net::{SCM_RIGHTS, SO_RCVTIMEO_OLD, SOL_SOCKET, cmsghdr, msghdr};
use linux_raw_sys::prctl::PR_SET_NO_NEW_PRIVS;
use linux_raw_sys::ptrace::{SECCOMP_GET_ACTION_AVAIL, SECCOMP_SET_MODE_FILTER, sock_filter};
use linux_raw_sys::signal_macros::sig_ign;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags};

#[repr(C)]
struct BpfProgram {
    len: u16,
    filter: *const sock_filter,
}

/// # Safety
/// The call's own conditions on its arguments hold.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall5(number: u32, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let result: isize;
    // SAFETY: the caller vouches for the arguments; the kernel clobbers rcx and r11 alone.
    unsafe {
        asm!("syscall", inlateout("rax") number as usize => result,
             in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// The call's own conditions on its arguments hold.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall5(number: u32, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let result: isize;
    // SAFETY: the caller vouches for the arguments; the kernel clobbers no other register.
    unsafe {
        asm!("svc 0", in("x8") number as usize, inlateout("x0") a => result,
             in("x1") b, in("x2") c, in("x3") d, in("x4") e, options(nostack));
    }
    result
}

/// # Safety
/// The call's own conditions on its arguments hold.
unsafe fn syscall4(number: u32, a: usize, b: usize, c: usize, d: usize) -> isize {
    // SAFETY: the caller vouches for the arguments; a fifth one is not read.
    unsafe { syscall5(number, a, b, c, d, 0) }
}

fn check(result: isize) -> Result<usize, Errno> {
    usize::try_from(result)
        .map_err(|_| i32::try_from(-result).map_or(Errno::INVAL, Errno::from_raw_os_error))
}

/// Whether the kernel knows seccomp action `action` (seccomp(2), SECCOMP_GET_ACTION_AVAIL).
pub fn seccomp_has_action(action: u32) -> bool {
    let at = core::ptr::from_ref(&action).addr();
    // SAFETY: the kernel reads one u32 from `at` during the call.
    check(unsafe { syscall4(__NR_seccomp, SECCOMP_GET_ACTION_AVAIL as usize, 0, at, 0) }).is_ok()
}

/// Puts the filter on the calling thread, for ever (seccomp(2), SECCOMP_SET_MODE_FILTER).
///
/// Errors: `EINVAL` not a valid program, or longer than 4,096; `EACCES` no_new_privs is not set
/// and CAP_SYS_ADMIN is missing.
pub fn seccomp_install(program: &[sock_filter]) -> Result<(), Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = BpfProgram {
        len,
        filter: program.as_ptr(),
    };
    let at = core::ptr::from_ref(&program).addr();
    // SAFETY: the kernel copies `len` instructions from the slice during the call.
    check(unsafe { syscall4(__NR_seccomp, SECCOMP_SET_MODE_FILTER as usize, 0, at, 0) }).map(|_| ())
}

/// prctl(PR_SET_NO_NEW_PRIVS, 1) with every unused argument zero, which the kernel demands.
pub fn no_new_privs() -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(unsafe { syscall4(__NR_prctl, PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0) }).map(|_| ())
}

/// A mount namespace of the process's own (unshare(2), CLONE_NEWNS). Errors: `EPERM` no CAP_SYS_ADMIN.
pub fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: no pointers; of what may be shared, the mount namespace alone is not any more.
    check(unsafe { syscall4(__NR_unshare, CLONE_NEWNS as usize, 0, 0, 0) }).map(|_| ())
}

/// Sets `attributes` (MOUNT_ATTR_*) on the mount that `tree` is the root of, and on all below it
/// (mount_setattr(2)). Errors: `ENOSYS` before Linux 5.12; `EINVAL` no mount's root; `EPERM` no CAP_SYS_ADMIN.
pub fn restrict_mounts(tree: BorrowedFd<'_>, attributes: u32) -> Result<(), Errno> {
    let change = mount_attr {
        attr_set: attributes.into(),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let fd = tree.as_raw_fd().cast_unsigned() as usize;
    let (path, at) = (c"".as_ptr().addr(), core::ptr::from_ref(&change).addr());
    let flags = (AT_EMPTY_PATH | AT_RECURSIVE) as usize;
    // SAFETY: the kernel reads an empty path and one mount_attr, whose size is given last.
    check(unsafe {
        syscall5(
            __NR_mount_setattr,
            fd,
            path,
            flags,
            at,
            size_of::<mount_attr>(),
        )
    })
    .map(|_| ())
}

/// What the kernel knows of Landlock. Errors: `ENOSYS`, `EOPNOTSUPP` nothing, or it is not turned on.
pub fn landlock_abi() -> Result<usize, Errno> {
    let flags = LANDLOCK_CREATE_RULESET_VERSION as usize;
    // SAFETY: nothing is read.
    check(unsafe { syscall4(__NR_landlock_create_ruleset, 0, 0, flags, 0) })
}

/// Rules under which none of the `handled` rights is left. Errors: landlock_create_ruleset(2)'s.
pub fn landlock_ruleset(handled: u32) -> Result<OwnedFd, Errno> {
    let handled = u64::from(handled);
    let at = core::ptr::from_ref(&handled).addr();
    // SAFETY: the kernel reads the first eight bytes of a landlock_ruleset_attr, as it is told.
    let made =
        check(unsafe { syscall4(__NR_landlock_create_ruleset, at, size_of::<u64>(), 0, 0) })?;
    let fd = RawFd::try_from(made).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One more rule: `rights` below `tree`. Errors: landlock_add_rule(2)'s.
pub fn landlock_allow(
    rules: BorrowedFd<'_>,
    tree: BorrowedFd<'_>,
    rights: u32,
) -> Result<(), Errno> {
    let rule = landlock_path_beneath_attr {
        allowed_access: rights.into(),
        parent_fd: tree.as_raw_fd(),
    };
    let fd = rules.as_raw_fd().cast_unsigned() as usize;
    let kind = landlock_rule_type::LANDLOCK_RULE_PATH_BENEATH as usize;
    let at = core::ptr::from_ref(&rule).addr();
    // SAFETY: the kernel reads one landlock_path_beneath_attr.
    check(unsafe { syscall4(__NR_landlock_add_rule, fd, kind, at, 0) }).map(|_| ())
}

/// Puts rules in force, for ever; [`no_new_privs`] comes before. Errors: landlock_restrict_self(2)'s.
pub fn landlock_restrict(rules: BorrowedFd<'_>) -> Result<(), Errno> {
    let fd = rules.as_raw_fd().cast_unsigned() as usize;
    // SAFETY: no pointers.
    check(unsafe { syscall4(__NR_landlock_restrict_self, fd, 0, 0, 0) }).map(|_| ())
}

/// Ignores SIGPIPE and SIGXFSZ: a log that is a pipe may lose its reader, and a file may reach
/// RLIMIT_FSIZE; both are errnos then.
pub fn ignore_write_signals() -> Result<(), Errno> {
    // SAFETY: all fields are integers, pointers and options, for which zero bytes are values.
    let mut action: kernel_sigaction = unsafe { core::mem::zeroed() };
    action.sa_handler_kernel = sig_ign();
    set_action(SIGPIPE, &action)?;
    set_action(SIGXFSZ, &action)
}

fn set_action(signal: u32, action: &kernel_sigaction) -> Result<(), Errno> {
    let at = core::ptr::from_ref(action).addr();
    let size = size_of::<kernel_sigset_t>();
    // SAFETY: the kernel reads one kernel_sigaction, whose mask has the size given last.
    check(unsafe { syscall4(__NR_rt_sigaction, signal as usize, at, 0, size) }).map(|_| ())
}

/// SIGIO is to be told to `handler`, and not before [`mask_sigio`] lets it (rt_sigaction(2)).
/// Errors: there are none but in sandboxes of other kinds.
pub fn handle_sigio(handler: unsafe extern "C" fn(i32)) -> Result<(), Errno> {
    // SAFETY: as above.
    let mut action: kernel_sigaction = unsafe { core::mem::zeroed() };
    action.sa_handler_kernel = Some(handler);
    action.sa_flags = SA_RESTART.into();
    #[cfg(target_arch = "x86_64")]
    {
        action.sa_flags |= u64::from(linux_raw_sys::general::SA_RESTORER);
        action.sa_restorer = Some(come_back);
    }
    set_action(SIGIO, &action)?;
    mask_sigio(true)
}

/// Where a handler returns to (rt_sigreturn(2)); other architectures bring their own.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn come_back() {
    core::arch::naked_asm!("mov eax, {call}", "syscall", call = const linux_raw_sys::general::__NR_rt_sigreturn)
}

/// Holds SIGIO back, or lets it come, at once if it is held back (rt_sigprocmask(2)).
#[inline(never)]
pub fn mask_sigio(hold: bool) -> Result<(), Errno> {
    let set = 1u64 << (SIGIO - 1);
    let how = if hold { SIG_BLOCK } else { SIG_UNBLOCK };
    let at = core::ptr::from_ref(&set).addr();
    // SAFETY: the kernel reads one mask of the size given last; the old one is not asked for.
    check(unsafe {
        syscall5(
            __NR_rt_sigprocmask,
            how as usize,
            at,
            0,
            size_of::<kernel_sigset_t>(),
            0,
        )
    })
    .map(|_| ())
}

/// Who gets the signals of `socket`, once [`signal_input`] turns them on: us (fcntl(2), F_SETOWN). Errors: its own.
pub fn own_signals(socket: BorrowedFd<'_>, pid: u32) -> Result<(), Errno> {
    set(socket, F_SETOWN, pid as usize)
}

/// Whether `socket` signals what it has (fcntl(2), O_ASYNC); its other flags are off. Errors: `ENOMEM`.
pub fn signal_input(socket: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
    set(
        socket,
        F_SETFL,
        (O_RDWR | if on { FASYNC } else { 0 }) as usize,
    )
}

#[inline(never)]
fn set(fd: BorrowedFd<'_>, command: u32, value: usize) -> Result<(), Errno> {
    let number = fd.as_raw_fd().cast_unsigned() as usize;
    // SAFETY: no pointers in these commands.
    check(unsafe { syscall4(__NR_fcntl, number, command as usize, value, 0) }).map(|_| ())
}

/// Wakes at most `count` of those that wait for `word`, in any process (futex(2), FUTEX_WAKE).
pub fn futex_wake(word: &AtomicU32, count: u32) {
    let at = core::ptr::from_ref(word).addr();
    // SAFETY: nothing is read or written at `at`.
    let _woken = unsafe { syscall4(__NR_futex, at, FUTEX_WAKE as usize, count as usize, 0) };
}

/// Waits until somebody wakes those that wait for one of the words, or one has not its value
/// (futex_waitv(2)); until the wall clock says `(seconds, nanoseconds)`, if it is given.
///
/// Errors: `EAGAIN` a word has another value; `EINTR`; `ETIMEDOUT`; `EINVAL` no words, or more than 128;
/// `ENOSYS` before Linux 5.16.
///
/// # Safety
/// Where `words` point, there is memory for the life of the process.
pub unsafe fn futex_wait(words: &[futex_waitv], until: Option<(i64, i64)>) -> Result<usize, Errno> {
    let until = until.map(|(tv_sec, tv_nsec)| timespec { tv_sec, tv_nsec });
    let until_at = until
        .as_ref()
        .map_or(core::ptr::null(), core::ptr::from_ref);
    let (at, count) = (words.as_ptr().addr(), words.len());
    // SAFETY: the kernel reads `count` entries, one timespec, and the words.
    check(unsafe {
        syscall5(
            __NR_futex_waitv,
            at,
            count,
            0,
            until_at.addr(),
            CLOCK_REALTIME as usize,
        )
    })
}

/// Closes the descriptors `first` to `last`, both included, by number: for the stray ones that the
/// process was started with and nothing in the program owns. Errors: `ENOSYS` before Linux 5.9.
pub fn close_range(first: RawFd, last: RawFd) -> Result<(), Errno> {
    let (first, last) = (
        first.cast_unsigned() as usize,
        last.cast_unsigned() as usize,
    );
    // SAFETY: no pointers.
    check(unsafe { syscall4(__NR_close_range, first, last, 0, 0) }).map(|_| ())
}

/// Takes or gives back a lock of the open file description `fd` (fcntl(2), F_OFD_SETLK), without waiting;
/// or, with `ask`, puts in its place one that is in its way (F_OFD_GETLK). `l_pid` must be 0.
///
/// Errors: `EAGAIN`, `EACCES` another's lock is in the way; `EBADF` the descriptor's access does not
/// allow the kind; `EINVAL` a range that ends before its start or 0; `ENOLCK`.
#[inline(never)]
pub fn ofd_lock(fd: BorrowedFd<'_>, ask: bool, lock: &mut flock) -> Result<(), Errno> {
    let number = fd.as_raw_fd().cast_unsigned() as usize;
    let command = if ask { F_OFD_GETLK } else { F_OFD_SETLK };
    let at = core::ptr::from_mut(lock).addr();
    // SAFETY: the kernel reads and writes one flock at `at` during the call.
    check(unsafe { syscall4(__NR_fcntl, number, command as usize, at, 0) }).map(|_| ())
}

/// Seconds and nanoseconds since 1970 (clock_gettime(2)). The call, not the vDSO: finding that
/// would open files at its first use.
pub fn wall_clock() -> (i64, i64) {
    let mut now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let at = core::ptr::from_mut(&mut now).addr();
    // SAFETY: the kernel writes one timespec at `at` during the call.
    let _cannot_fail = unsafe { syscall4(__NR_clock_gettime, CLOCK_REALTIME as usize, at, 0, 0) };
    (now.tv_sec, now.tv_nsec)
}

/// Waits for one of `fds` (ppoll(2)), at most `timeout_ms`; negative: for ever. How many are ready.
/// Entries with a negative descriptor are passed over. Numbers, not borrowed descriptors: a list that is
/// kept from wait to wait. Errors: `EINTR`; `EINVAL` more than the limit of descriptors.
pub fn ppoll(fds: &mut [pollfd], timeout_ms: i32) -> Result<usize, Errno> {
    let millis = i64::from(timeout_ms.max(0));
    let timeout = timespec {
        tv_sec: millis / 1_000,
        tv_nsec: millis % 1_000 * 1_000_000,
    };
    let timeout = if timeout_ms < 0 {
        core::ptr::null()
    } else {
        core::ptr::from_ref(&timeout)
    };
    let (at, count) = (fds.as_mut_ptr().addr(), fds.len());
    // SAFETY: the kernel reads and writes `count` entries at `at` and reads one timespec during the call;
    // no signal mask is given.
    check(unsafe {
        syscall5(
            __NR_ppoll,
            at,
            count,
            timeout.addr(),
            0,
            size_of::<kernel_sigset_t>(),
        )
    })
}

/// The control message that carries one descriptor (unix(7), SCM_RIGHTS): its header, and the number padded.
#[repr(C)]
struct Rights {
    header: cmsghdr,
    fd: RawFd,
    padding: u32,
}

/// Sends `bytes`, with a descriptor or none, and without waiting (sendmsg(2)). How many were taken. Not rustix's:
/// one call for both, and no control buffer to put together. Errors: its own.
#[inline(never)]
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<usize, Errno> {
    let fd = fd.map(|fd| fd.as_raw_fd());
    let rights = Rights {
        header: cmsghdr {
            cmsg_len: size_of::<cmsghdr>() + size_of::<RawFd>(),
            cmsg_level: SOL_SOCKET.cast_signed(),
            cmsg_type: SCM_RIGHTS.cast_signed(),
        },
        fd: fd.unwrap_or(-1),
        padding: 0,
    };
    let mut piece = iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len() as u64,
    };
    let message = msghdr {
        msg_name: core::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: (&raw mut piece).cast(),
        msg_iovlen: 1,
        msg_control: (&raw const rights).cast_mut().cast(),
        msg_controllen: if fd.is_some() { size_of::<Rights>() } else { 0 },
        msg_flags: 0,
    };
    let (number, flags) = (socket.as_raw_fd().cast_unsigned(), SEND_FLAGS.bits());
    let at = (&raw const message).addr();
    // SAFETY: the kernel reads the message, the bytes and the control message during the call.
    check(unsafe { syscall4(__NR_sendmsg, number as usize, at, flags as usize, 0) })
}

/// No file's attributes.
pub fn no_status() -> stat {
    // SAFETY: all fields are integers, for which zero bytes are values.
    unsafe { core::mem::zeroed() }
}

/// Attributes of `name` in a directory, a symlink's own; of the descriptor's file where the name is empty
/// (newfstatat(2)). Not rustix's, which returns what has to be moved then. Errors: its own.
pub fn status(dir: BorrowedFd<'_>, name: &CStr, to: &mut stat) -> Result<(), Errno> {
    let fd = dir.as_raw_fd().cast_unsigned() as usize;
    let (name, to) = (name.as_ptr().addr(), core::ptr::from_mut(to).addr());
    let flags = (AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) as usize;
    // SAFETY: the kernel reads up to the NUL and writes one stat during the call.
    check(unsafe { syscall4(__NR_newfstatat, fd, name, to, flags) }).map(|_| ())
}

/// Flags of [`send`].
pub const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// How long a receive on `socket` waits at the most (socket(7), SO_RCVTIMEO): milliseconds below 1,000.
/// Errors: setsockopt(2)'s.
pub fn set_receive_timeout(socket: BorrowedFd<'_>, millis: u32) -> Result<(), Errno> {
    let timeout = timespec {
        tv_sec: 0,
        tv_nsec: i64::from(millis) * 1_000, // a timeval's microseconds
    };
    let fd = socket.as_raw_fd().cast_unsigned() as usize;
    let (level, option) = (SOL_SOCKET as usize, SO_RCVTIMEO_OLD as usize);
    let at = core::ptr::from_ref(&timeout).addr();
    // SAFETY: the kernel reads two words at `at` during the call, seconds and microseconds.
    check(unsafe {
        syscall5(
            __NR_setsockopt,
            fd,
            level,
            option,
            at,
            size_of::<timespec>(),
        )
    })
    .map(|_| ())
}

/// Connects a socket of AF_UNIX to a name in the working directory, of at most 11 bytes with its NUL
/// (connect(2)). Not rustix's: its address has room for a path. Errors: its own; `EINVAL` a longer name.
pub fn connect_to_name(socket: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    #[repr(C)]
    struct Address {
        family: u16,
        name: [u8; 11],
    }
    let mut address = Address {
        family: AddressFamily::UNIX.as_raw(),
        name: [0; 11],
    };
    let bytes = name.to_bytes_with_nul();
    let place = address.name.get_mut(..bytes.len()).ok_or(Errno::INVAL)?;
    place.copy_from_slice(bytes);
    let len = size_of::<u16>() + bytes.len();
    let fd = socket.as_raw_fd().cast_unsigned() as usize;
    let at = core::ptr::from_ref(&address).addr();
    // SAFETY: the kernel reads `len` bytes of the address during the call.
    check(unsafe { syscall4(__NR_connect, fd, at, len, 0) }).map(|_| ())
}

/// Ends the process. Not exit(3): nothing is flushed or run, and the filter allows no more.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: no pointers; the call does not return.
        let _ = unsafe { syscall4(__NR_exit_group, status.cast_unsigned() as usize, 0, 0, 0) };
    }
}
