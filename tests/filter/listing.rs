//! The list of system calls in docs/syscalls.md, written from the table and compared with what stands there.

use gofer::sandbox::seccomp::{ALLOWED, Modes, REASONS, Want, count_calls};
use rustix::fs::OFlags;
use std::collections::BTreeSet;
use std::fmt::Write;

const BEGIN: &str = "<!-- from the table in src/sandbox/seccomp.rs -->\n";
const END: &str = "<!-- end of the table -->\n";

/// What the original's program of 2018 lets pass: 52 calls, most of them without a condition.
const ORIGINAL: &str = "accept arch_prctl clock_gettime clone close dup epoll_ctl epoll_pwait eventfd2 exit \
    exit_group fchmod fchownat fcntl fstat fstatfs fsync ftruncate futex getdents64 getpid getrandom gettid \
    gettimeofday linkat lseek madvise mkdirat mmap mprotect munmap nanosleep newfstatat openat poll pread64 \
    pwrite64 read readlinkat recvmsg renameat restart_syscall rt_sigprocmask sched_yield sendmsg shutdown \
    sigaltstack symlinkat tgkill unlinkat utimensat write";

/// Names of the arguments that rows constrain.
const ARGUMENTS: &[(&str, u8, &str)] = &[
    ("clock_gettime", 0, "clockid"),
    ("connect", 2, "addrlen"),
    ("fallocate", 1, "mode"),
    ("fchmod", 1, "mode"),
    ("fchmodat", 0, "dirfd"),
    ("fchmodat", 2, "mode"),
    ("fchownat", 0, "dirfd"),
    ("fchownat", 4, "flags"),
    ("fcntl", 0, "fd"),
    ("fcntl", 1, "cmd"),
    ("fcntl", 2, "flags"),
    ("fsetxattr", 4, "flags"),
    ("futex", 1, "futex_op"),
    ("futex_waitv", 1, "nr_futexes"),
    ("futex_waitv", 2, "flags"),
    ("futex_waitv", 4, "clockid"),
    ("linkat", 0, "olddirfd"),
    ("linkat", 2, "newdirfd"),
    ("linkat", 4, "flags"),
    ("lseek", 2, "whence"),
    ("madvise", 2, "advice"),
    ("mkdirat", 0, "dirfd"),
    ("mknodat", 0, "dirfd"),
    ("mknodat", 2, "mode"),
    ("newfstatat", 0, "dirfd"),
    ("newfstatat", 3, "flags"),
    ("openat", 0, "dirfd"),
    ("openat", 2, "flags"),
    ("ppoll", 3, "sigmask"),
    ("pwritev2", 2, "vlen"),
    ("pwritev2", 5, "flags"),
    ("readlinkat", 0, "dirfd"),
    ("recvfrom", 3, "flags"),
    ("recvfrom", 4, "src_addr"),
    ("recvfrom", 5, "addrlen"),
    ("renameat", 0, "olddirfd"),
    ("renameat", 2, "newdirfd"),
    ("rt_sigprocmask", 0, "how"),
    ("rt_sigprocmask", 3, "sigsetsize"),
    ("sendmsg", 2, "flags"),
    ("socket", 0, "domain"),
    ("socket", 1, "type"),
    ("socket", 2, "protocol"),
    ("symlinkat", 1, "newdirfd"),
    ("unlinkat", 0, "dirfd"),
    ("unlinkat", 2, "flags"),
    ("utimensat", 0, "dirfd"),
    ("utimensat", 3, "flags"),
    ("write", 0, "fd"),
];

/// Names of bits, for each call that has flags.
fn bits(call: &str) -> Vec<(u32, String)> {
    let named = |list: &[(u32, &str)]| {
        list.iter()
            .map(|&(bit, name)| (bit, name.to_owned()))
            .collect()
    };
    match call {
        "openat" => OFlags::all()
            .iter_names()
            .filter(|(_, flag)| flag.bits().is_power_of_two() && flag.bits() > 3)
            .map(|(name, flag)| {
                (
                    flag.bits(),
                    format!("O_{}", name.replace("CREATE", "CREAT")),
                )
            })
            .chain([
                (0x10_1000, "O_SYNC".to_owned()),
                (0x1000, "O_DSYNC".to_owned()),
                (3, "an access mode".to_owned()),
            ])
            .collect(),
        "fcntl" => named(&[(2, "O_RDWR"), (0x2000, "O_ASYNC")]),
        "recvfrom" | "sendmsg" => named(&[(0x40, "MSG_DONTWAIT"), (0x4000, "MSG_NOSIGNAL")]),
        "pwritev2" => named(&[(0x10, "RWF_APPEND")]),
        "socket" => named(&[(0o4000, "SOCK_NONBLOCK"), (0o200_0000, "SOCK_CLOEXEC")]),
        "fchownat" | "linkat" | "newfstatat" | "unlinkat" | "utimensat" => named(&[
            (0x100, "AT_SYMLINK_NOFOLLOW"),
            (0x200, "AT_REMOVEDIR"),
            (0x400, "AT_SYMLINK_FOLLOW"),
            (0x1000, "AT_EMPTY_PATH"),
        ]),
        _ => Vec::new(),
    }
}

/// The bits of `value` by their names, what has none as a number.
fn names(call: &str, value: u32) -> Vec<String> {
    let mut left = value;
    let mut all = Vec::new();
    for (bit, name) in bits(call) {
        if bit & left == bit && bit != 0 {
            left &= !bit;
            all.push(name);
        }
    }
    if left != 0 || all.is_empty() {
        all.push(format!("{left:#x}"));
    }
    all
}

/// A condition in words.
fn condition(call: &str, arg: u8, want: Want) -> String {
    let (_, _, name) = ARGUMENTS
        .iter()
        .find(|(of, number, _)| (*of, *number) == (call, arg))
        .unwrap_or_else(|| panic!("no name for argument {arg} of {call}"));
    match want {
        Want::Zero => format!("{name} 0"),
        Want::Below(0x8000_0000) => format!("{name} not negative"),
        Want::Below(bound) => format!("{name} below {bound}"),
        Want::From(bound) => format!("{name} from {bound}"),
        Want::Is(value) if *name == "flags" => {
            format!("{name} {}", names(call, value).join(" and "))
        }
        Want::Is(value) => format!("{name} {value}"),
        Want::Masked(mask, value) if *name == "mode" => {
            assert_eq!(value, 0);
            format!("{name} within {:#o}", !mask)
        }
        Want::Masked(mask, value) if *name == "flags" || *name == "type" => {
            let mut text = format!("{name} ");
            if value != 0 {
                let _ = write!(text, "with {}, ", names(call, value).join(" and "));
            }
            let _ = write!(text, "at most {}", names(call, value | !mask).join(", "));
            text
        }
        Want::Masked(mask, value) => format!("{name} {value} to {}", value | !mask),
    }
}

fn when(modes: Modes) -> &'static str {
    match modes {
        Modes::ALWAYS => "",
        Modes::BY_PROC_FD => "with the clone of `/proc/self/fd`",
        Modes::BY_PARENT => "without that clone",
        Modes::HOST_UDS => "with `--host-uds`",
        Modes::CHANNELS => "with channels",
        other => panic!("no words for {other:?}"),
    }
}

fn listing() -> String {
    let original: BTreeSet<&str> = ORIGINAL.split_whitespace().collect();
    assert_eq!(original.len(), 52);
    let mut text =
        String::from("| call | conditions | when | for | original |\n|---|---|---|---|---|\n");
    let mut ours = BTreeSet::new();
    for (rule, (call, why)) in ALLOWED.iter().zip(REASONS) {
        let conditions: Vec<String> = rule
            .wants()
            .map(|(arg, want)| condition(call, arg, want))
            .collect();
        let theirs = if original.contains(call) { "yes" } else { "" };
        let (conditions, when) = (conditions.join("; "), when(rule.when));
        let _ = writeln!(
            text,
            "| {call} | {conditions} | {when} | {why} | {theirs} |"
        );
        ours.insert(*call);
    }
    let without = [
        Modes::BY_PROC_FD,
        Modes::BY_PARENT,
        Modes::BY_PROC_FD.and(Modes::HOST_UDS),
    ];
    let with = without.map(|modes| modes.and(Modes::CHANNELS));
    let counts = [without, with]
        .as_flattened()
        .iter()
        .copied()
        .map(count_calls)
        .collect::<Vec<_>>();
    let gone: Vec<&str> = original.difference(&ours).copied().collect();
    let _ = writeln!(
        text,
        "\nDifferent calls: {} with the clone, {} without it, {} with `--host-uds`; {}, {} and {} with channels. \
            Of the original's {}, {} are not here:\n{}.",
        counts[0],
        counts[1],
        counts[2],
        counts[3],
        counts[4],
        counts[5],
        original.len(),
        gone.len(),
        gone.join(", "),
    );
    text
}

#[test]
fn the_document_lists_the_calls_as_the_table_has_them() {
    let document = include_str!("../../docs/syscalls.md");
    let (_, behind) = document.split_once(BEGIN).expect("the list's begin");
    let (found, _) = behind.split_once(END).expect("the list's end");
    let wanted = listing();
    assert!(
        found == wanted,
        "docs/syscalls.md must have between its marks:\n{wanted}"
    );
    let counts = format!(
        "| system calls left after start | {}; {} with `--channels 0` | 52 |",
        count_calls(Modes::BY_PROC_FD.and(Modes::CHANNELS)),
        count_calls(Modes::BY_PROC_FD)
    );
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&counts), "README.md must have: {counts}");
}
