//! The assembled program in the kernel: a child installs it and makes one call.
//!
//! Calls that are allowed get descriptors that are not open and pointers to nowhere, so that they fail
//! without effect; the child then ends with their errno, or 0 where nothing can fail. What is refused ends it by SIGSYS.

use crate::say;
use crate::table::{Call, MODES, allows, call_of, describe, violating};
use gofer::sandbox::seccomp::{ALLOWED, Modes, assemble};
use linux_raw_sys::ptrace::{
    SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP, SECCOMP_SET_MODE_FILTER, sock_filter,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// Neither a descriptor nor, as a whole, an address; and no flags that a call knows.
const NOTHING: u64 = 0xffff_ffff_ffff_ff00;

/// How a child ends when it cannot install the program.
const NO_FILTER: i32 = 250;

/// How a child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The call failed with this errno, or made the child end by itself with this status.
    Errno(i32),
    By(Signal),
}

/// What a child does behind its filter.
#[derive(Clone, Copy)]
enum Act {
    Call(Call),
    /// getpid(2) by the 32-bit gate, where the kernel has one.
    #[cfg(target_arch = "x86_64")]
    OldGate,
}

/// A system call whose result nobody needs but its errno, or 0.
fn syscall(number: libc::c_long, args: [u64; 6]) -> i32 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the child has no memory but its copy of ours, and ends right behind; what the kernel
    // might write, it writes to addresses that the caller owns or that nobody has.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Errno::last_raw() } else { 0 }
}

fn end_child(status: i32) -> ! {
    loop {
        let status = u64::from(status.cast_unsigned());
        syscall(libc::SYS_exit_group, [status, 0, 0, 0, 0, 0]);
    }
}

/// Comes back from a handler (rt_sigreturn(2)) that there was not, with a stack that is nowhere: if the call is
/// made, the child ends by SIGSEGV.
fn come_back() -> ! {
    // SAFETY: nothing follows, so that nobody misses the stack.
    #[allow(unsafe_code)]
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov rsp, {nowhere}", "syscall", "ud2", nowhere = in(reg) NOTHING,
            in("rax") libc::SYS_rt_sigreturn, options(noreturn));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("mov sp, {nowhere}", "svc 0", "brk 0", nowhere = in(reg) NOTHING,
            in("x8") libc::SYS_rt_sigreturn, options(noreturn));
    }
}

/// Everything that the child does: system calls alone, since other threads of ours may have held any
/// lock when it was forked.
fn live_as_child(filter: &libc::sock_fprog, act: Act) -> ! {
    let at = std::ptr::from_ref(filter).addr() as u64;
    let first = 3; // no descriptor of the tests: one may have a number that the table names
    let steps = [
        (
            libc::SYS_close_range,
            [first, u64::from(u32::MAX), 0, 0, 0, 0],
        ),
        (
            libc::SYS_prctl,
            [libc::PR_SET_DUMPABLE as u64, 0, 0, 0, 0, 0], // no core files
        ),
        (
            libc::SYS_prctl,
            [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0],
        ),
        (
            libc::SYS_seccomp,
            [u64::from(SECCOMP_SET_MODE_FILTER), 0, at, 0, 0, 0],
        ),
    ];
    // SAFETY: no pointers. What hangs in a call that is not refused dies by SIGALRM.
    #[allow(unsafe_code)]
    unsafe {
        libc::alarm(20)
    };
    // SAFETY: no pointers. What faults dies by SIGSEGV, of which the tests' runtime is not told.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGSEGV, libc::SIG_DFL)
    };
    for (number, args) in steps {
        if syscall(number, args) != 0 {
            end_child(NO_FILTER);
        }
    }
    match act {
        Act::Call(call) if i64::from(call.number) == libc::SYS_rt_sigreturn => come_back(),
        Act::Call(call) => end_child(syscall(libc::c_long::from(call.number), call.args)),
        #[cfg(target_arch = "x86_64")]
        Act::OldGate => {
            // SAFETY: call 20 of the 32-bit table takes nothing and touches no memory.
            #[allow(unsafe_code)]
            unsafe {
                std::arch::asm!("int 0x80", inout("rax") 20u64 => _, out("r8") _, out("r9") _,
                    out("r10") _, out("r11") _, options(nostack));
            }
            end_child(0)
        }
    }
}

/// A program, ready to be installed.
struct Filter {
    code: Vec<sock_filter>,
}

impl Filter {
    fn new(mode: Modes, refuse: u32) -> Filter {
        let program = assemble(ALLOWED, mode, refuse).expect("a program that fits");
        Filter {
            code: program.code().to_vec(),
        }
    }

    fn end_of(&self, act: Act) -> End {
        let filter = libc::sock_fprog {
            len: self.code.len().try_into().expect("a short program"),
            filter: self.code.as_ptr().cast_mut().cast(), // the kernel's own layout under two names
        };
        // SAFETY: the child makes async-signal-safe calls only and never returns.
        #[allow(unsafe_code)]
        let forked = unsafe { fork() };
        match forked.expect("fork") {
            ForkResult::Child => live_as_child(&filter, act),
            ForkResult::Parent { child } => match waitpid(child, None).expect("wait for a child") {
                WaitStatus::Exited(_, NO_FILTER) => panic!("a child cannot install its filter"),
                WaitStatus::Exited(_, status) => End::Errno(status),
                WaitStatus::Signaled(_, signal, _) => End::By(signal),
                other => panic!("a child: {other:?}"),
            },
        }
    }

    fn call(&self, call: Call) -> End {
        self.end_of(Act::Call(call))
    }
}

/// Asserts that an allowed call came to nothing.
#[track_caller]
fn expect_survived(end: End, call: &Call, what: &str) {
    match (i64::from(call.number), end) {
        (libc::SYS_exit_group | libc::SYS_sched_yield, End::Errno(0)) => {}
        (libc::SYS_rt_sigreturn, End::By(Signal::SIGSEGV)) => {}
        (_, End::Errno(errno)) if errno > 0 && errno != libc::ENOSYS => {}
        (_, other) => panic!("{other:?} instead of a harmless failure: {call:x?}, {what}"),
    }
}

#[test]
fn filter_kernel_every_row_survives_and_every_argument_it_refuses_is_sigsys() {
    for &(name, mode) in MODES {
        let filter = Filter::new(mode, SECCOMP_RET_KILL_PROCESS);
        let (mut survived, mut killed) = (0, 0);
        for (at, rule) in ALLOWED.iter().enumerate() {
            let what = format!("mode {name}, {}", describe(at));
            let mut calls = vec![call_of(rule, NOTHING)];
            for (arg, want) in rule.wants() {
                let good = calls[0];
                let bad = violating(want);
                // A sample of the long lists, which the interpreter runs whole: a child each takes time.
                let step = if bad.len() > 16 { 5 } else { 1 };
                let sample = bad.iter().step_by(step);
                calls.extend(sample.map(|&(_, value)| good.with(arg, value)));
            }
            for call in calls {
                let end = filter.call(call);
                if allows(mode, &call) {
                    expect_survived(end, &call, &what);
                    survived += 1;
                } else {
                    assert_eq!(end, End::By(Signal::SIGSYS), "{call:x?}, {what}");
                    killed += 1;
                }
            }
        }
        say(&format!(
            "filter in the kernel, mode {name}: {survived} calls survived, {killed} killed"
        ));
    }
}

#[test]
fn filter_kernel_calls_outside_the_table_are_sigsys() {
    let here = libc::AT_FDCWD as u64;
    let none = [NOTHING; 6];
    let own = [0; 6];
    #[rustfmt::skip] // a call a line
    let mut calls = vec![
        ("socket(AF_INET)", libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]),
        ("mmap", libc::SYS_mmap, [0, 4096, 3, 0x22, u64::MAX, 0]),
        ("mprotect", libc::SYS_mprotect, none),
        ("execve", libc::SYS_execve, none),
        ("execveat", libc::SYS_execveat, none),
        ("clone", libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, none),
        ("kill", libc::SYS_kill, own),
        ("tgkill", libc::SYS_tgkill, none),
        ("ptrace", libc::SYS_ptrace, own),
        ("process_vm_readv", libc::SYS_process_vm_readv, none),
        ("openat(AT_FDCWD, O_PATH)", libc::SYS_openat, [here, NOTHING, (libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW) as u64, 0, 0, 0]),
        ("openat2", libc::SYS_openat2, none),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, none),
        ("name_to_handle_at", libc::SYS_name_to_handle_at, none),
        ("getuid", libc::SYS_getuid, own),
        ("getpid", libc::SYS_getpid, own),
        ("read", libc::SYS_read, none),
        ("write(2)", libc::SYS_write, [2, NOTHING, 0, 0, 0, 0]),
        ("ioctl", libc::SYS_ioctl, none),
        ("fcntl", libc::SYS_fcntl, none),
        ("fcntl(F_SETOWN)", libc::SYS_fcntl, [NOTHING, libc::F_SETOWN as u64, 0, 0, 0, 0]),
        ("fcntl(F_ADD_SEALS)", libc::SYS_fcntl, [NOTHING, libc::F_ADD_SEALS as u64, 0, 0, 0, 0]),
        ("futex(FUTEX_WAIT)", libc::SYS_futex, [NOTHING, libc::FUTEX_WAIT as u64, 0, 0, 0, 0]),
        ("memfd_create", libc::SYS_memfd_create, none),
        ("socketpair", libc::SYS_socketpair, [libc::AF_UNIX as u64, libc::SOCK_SEQPACKET as u64, 0, NOTHING, 0, 0]),
        ("rt_sigaction", libc::SYS_rt_sigaction, [libc::SIGIO as u64, NOTHING, NOTHING, 8, 0, 0]),
        ("dup3", libc::SYS_dup3, none),
        ("recvmsg", libc::SYS_recvmsg, none),
        ("connect", libc::SYS_connect, none),
        ("chroot", libc::SYS_chroot, none),
        ("chdir", libc::SYS_chdir, none),
        ("mount", libc::SYS_mount, none),
        ("open_tree", libc::SYS_open_tree, none),
        ("unshare", libc::SYS_unshare, none),
        ("setns", libc::SYS_setns, none),
        ("capset", libc::SYS_capset, none),
        ("setuid", libc::SYS_setuid, none),
        ("prctl", libc::SYS_prctl, none),
        ("seccomp", libc::SYS_seccomp, none),
        ("bpf", libc::SYS_bpf, none),
        ("io_uring_setup", libc::SYS_io_uring_setup, none),
        ("exit", libc::SYS_exit, own),
        ("a number of no call", 1023, own),
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        ("open", libc::SYS_open, none),
        ("fork", libc::SYS_fork, own),
        ("vfork", libc::SYS_vfork, own),
        ("getpid of x32", 0x4000_0000 | libc::SYS_getpid, own),
        ("close of x32", 0x4000_0000 | libc::SYS_close, none),
    ]);
    for &(name, mode) in MODES {
        for action in [SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP] {
            let filter = Filter::new(mode, action);
            for &(what, number, args) in &calls {
                let call = Call::new(number.try_into().expect("a number of a call"), args);
                assert!(
                    !allows(mode, &call),
                    "the table allows {what} in mode {name}"
                );
                assert_eq!(filter.call(call), End::By(Signal::SIGSYS), "{what}, {name}");
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn filter_kernel_32_bit_gate_is_no_way_round() {
    for &(name, mode) in MODES {
        let filter = Filter::new(mode, SECCOMP_RET_KILL_PROCESS);
        let end = filter.end_of(Act::OldGate);
        // A kernel without 32-bit calls has no such gate: the instruction faults.
        let ends = [End::By(Signal::SIGSYS), End::By(Signal::SIGSEGV)];
        assert!(ends.contains(&end), "mode {name}: {end:?}");
    }
}
