//! The system calls that serving may make: one table, from which the filter is assembled (seccomp(2)).
//!
//! For an `int` argument the kernel looks at the low half alone, and a caller may leave the high half
//! zero or sign-extended. So equality wants the low half equal and the high half one of these two;
//! an order or a mask looks at the low half alone, or junk above would get past it; pointers and other
//! 64-bit arguments are compared whole.

use linux_raw_sys::general::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, F_OFD_GETLK, F_OFD_SETLK, F_SETFL, FASYNC, FUTEX_WAKE,
    MADV_DONTNEED, O_RDWR, RWF_APPEND, SIG_UNBLOCK,
};
use linux_raw_sys::ptrace::{
    AUDIT_ARCH_AARCH64, AUDIT_ARCH_X86_64, BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP,
    BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP,
    sock_filter,
};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags};

use crate::limits::{CHANNELS, FIRST_FREE_FD, LOG_FDS, PROC_FD, XATTR_FLAGS_END};
use crate::packed::cut;
use crate::sys::arena::List;
use crate::sys::raw::{SEND_FLAGS, seccomp_has_action, seccomp_install};

/// Circumstances in which a row holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Modes(u8);

impl Modes {
    /// Held files are opened again through the clone of /proc/self/fd.
    pub const BY_PROC_FD: Self = Self(1);
    /// Held files are opened again by parent and name.
    pub const BY_PARENT: Self = Self(2);
    /// Sockets of the host are connected to, through that clone.
    pub const HOST_UDS: Self = Self(4);
    /// There are channels.
    pub const CHANNELS: Self = Self(8);
    /// Nothing more.
    pub const NONE: Self = Self(0);
    /// In every circumstance.
    pub const ALWAYS: Self = Self(0xff);

    /// These and those of `other`.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether one of the circumstances of `other` is among these.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What an argument must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// This `int`.
    Is(u32),
    /// All 64 bits zero: a null pointer, or no length.
    Zero,
    /// Low half, cut to the mask, equal to the value: mask, value.
    Masked(u32, u32),
    /// Low half below the bound, without sign.
    Below(u32),
    /// Low half not below the bound, without sign.
    From(u32),
}

/// Arguments of one call that a row constrains, at the most.
pub const MAX_WANTS: usize = 3;

/// A row: when it holds, the call, and what must hold of its arguments, by their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// When it holds.
    pub when: Modes,
    /// The call's number.
    pub call: u32,
    /// Arguments, from 0 to 5, and what each must be.
    pub wants: [Option<(u8, Want)>; MAX_WANTS],
}

impl Rule {
    /// What must hold of the arguments, all of it.
    pub fn wants(&self) -> impl Iterator<Item = (u8, Want)> + '_ {
        self.wants.iter().flatten().copied()
    }
}

#[allow(clippy::indexing_slicing)] // evaluated by the compiler: too many is a build error
const fn wants<const N: usize>(list: [(u8, Want); N]) -> [Option<(u8, Want)>; MAX_WANTS] {
    let mut wants = [None; MAX_WANTS];
    let mut at = 0;
    while at < N {
        wants[at] = Some(list[at]);
        at += 1;
    }
    wants
}

/// Declares the table: a row a line, with the name of its call and who needs it. Names and reasons stand
/// apart, in the same order: the program does not carry them.
macro_rules! table {
    ($( $when:ident $call:ident $name:literal [$($want:expr),*] $why:literal; )*) => {
        /// Everything that is allowed; hot calls first.
        pub const ALLOWED: &[Rule] = &[
            $( Rule { when: Modes::$when, call: linux_raw_sys::general::$call, wants: wants([$($want),*]) } ),*
        ];
        /// For each row of [`ALLOWED`]: the call's name, and who needs it.
        pub const REASONS: &[(&str, &str)] = &[ $( ($name, $why) ),* ];
    };
}

use Want::{Below, From, Is, Masked, Zero};

/// A real descriptor, not AT_FDCWD nor another negative number.
const DESCRIPTOR: Want = Below(1 << 31);
const A_LOG: Want = Masked(!3, LOG_FDS.cast_unsigned());
const PROC: Want = Is(PROC_FD.cast_unsigned());

const AF_UNIX: u32 = AddressFamily::UNIX.as_raw() as u32;
const SOCKET_FLAGS: u32 = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC).bits();
/// Bytes of an address, and one more: its family, ten digits, a NUL.
const ADDRESS_END: u32 = 2 + 10 + 1 + 1;

const _: () = assert!(F_OFD_GETLK & 1 == 0 && F_OFD_SETLK == F_OFD_GETLK | 1);

/// Words of futex_waitv(2), and one more.
#[allow(clippy::cast_possible_truncation)]
const CHANNELS_END: u32 = CHANNELS as u32 + 2;
const _: () = assert!(SIG_UNBLOCK == 1 && CHANNELS < 128);

const RECV_FLAGS: u32 = RecvFlags::DONTWAIT.bits();
const NOFOLLOW_EMPTY: u32 = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::EMPTY_PATH).bits();

/// Open flags that must never be there: all but those that the server sets.
const OPEN_FORBIDDEN: u32 = !OFlags::RWMODE
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::TRUNC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::PATH)
    .union(OFlags::LARGEFILE)
    .union(OFlags::APPEND)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC)
    .union(OFlags::NOATIME)
    .bits();
const OPEN_DECIDING: u32 = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .bits();
const OPEN_MASK: u32 = OPEN_FORBIDDEN | OPEN_DECIDING;
const OPEN_BELOW: u32 = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).bits();
const OPEN_NEW: u32 = OPEN_BELOW | OFlags::CREATE.union(OFlags::EXCL).bits();
const OPEN_AGAIN: u32 = OFlags::CLOEXEC.bits();

table! {
    ALWAYS __NR_recvfrom "recvfrom" [(3, Masked(!RECV_FLAGS, 0)), (4, Zero), (5, Zero)] "requests; no descriptors";
    ALWAYS __NR_sendmsg "sendmsg" [(2, Is(SEND_FLAGS.bits()))] "replies, with a donated descriptor or none";
    ALWAYS __NR_ppoll "ppoll" [(3, Zero)] "the loop's wait; no signal mask";
    CHANNELS __NR_futex "futex" [(1, Is(FUTEX_WAKE))] "channels: the client is told; FUTEX_WAKE";
    CHANNELS __NR_rt_sigprocmask "rt_sigprocmask" [(0, Masked(!SIG_UNBLOCK, 0)), (3, Is(8))] "channels: SIGIO is let through in the wait alone";
    CHANNELS __NR_futex_waitv "futex_waitv" [(1, Below(CHANNELS_END)), (2, Is(0)), (4, Is(CLOCK_MONOTONIC))] "channels: the loop's wait, also for sockets, which signal";
    CHANNELS __NR_sched_yield "sched_yield" [] "channels: a client on the same processor gets on";
    CHANNELS __NR_rt_sigreturn "rt_sigreturn" [] "channels: back from the handler, which counts";
    ALWAYS __NR_newfstatat "newfstatat" [(0, DESCRIPTOR), (3, Is(NOFOLLOW_EMPTY))] "attributes; the kind of what was opened; names compared";
    ALWAYS __NR_openat "openat" [(0, DESCRIPTOR), (2, Masked(OPEN_MASK | OFlags::PATH.bits(), OPEN_BELOW | OFlags::PATH.bits()))] "walks: a path, not the file";
    BY_PARENT __NR_openat "openat" [(0, DESCRIPTOR), (2, Masked(OPEN_MASK | OFlags::PATH.bits(), OPEN_BELOW))] "Tlopen of a held file";
    ALWAYS __NR_openat "openat" [(0, DESCRIPTOR), (2, Masked(OPEN_MASK, OPEN_NEW))] "Tlcreate: a new file, never an old one";
    BY_PROC_FD __NR_openat "openat" [(0, PROC), (2, Masked(OPEN_MASK, OPEN_AGAIN))] "Tlopen of a held file";
    ALWAYS __NR_close "close" [] "clunk; the end of a connection";
    ALWAYS __NR_pread64 "pread64" [] "Tread";
    ALWAYS __NR_pwrite64 "pwrite64" [] "Twrite";
    ALWAYS __NR_pwritev2 "pwritev2" [(2, Is(1)), (5, Is(RWF_APPEND))] "Twrite of Linux that is an append; RWF_APPEND, one buffer";
    ALWAYS __NR_getdents64 "getdents64" [] "Treaddir";
    ALWAYS __NR_lseek "lseek" [(2, Is(0))] "Treaddir from an offset; SEEK_SET";
    ALWAYS __NR_readlinkat "readlinkat" [(0, DESCRIPTOR)] "Treadlink";
    ALWAYS __NR_fchownat "fchownat" [(0, DESCRIPTOR), (4, Is(NOFOLLOW_EMPTY))] "owners: of new files, Tsetattr";
    ALWAYS __NR_unlinkat "unlinkat" [(0, DESCRIPTOR), (2, Masked(!AtFlags::REMOVEDIR.bits(), 0))] "Tunlinkat, Tremove; undoing what failed half-way";
    ALWAYS __NR_fsync "fsync" [] "Tfsync";
    ALWAYS __NR_fstatfs "fstatfs" [] "Tstatfs";
    ALWAYS __NR_mkdirat "mkdirat" [(0, DESCRIPTOR)] "Tmkdir";
    ALWAYS __NR_symlinkat "symlinkat" [(1, DESCRIPTOR)] "Tsymlink";
    ALWAYS __NR_mknodat "mknodat" [(0, DESCRIPTOR), (2, Masked(!0o177_777, 0))] "Tmknod; devices take CAP_MKNOD, which is dropped";
    ALWAYS __NR_linkat "linkat" [(0, DESCRIPTOR), (2, DESCRIPTOR), (4, Is(AtFlags::EMPTY_PATH.bits()))] "Tlink";
    BY_PROC_FD __NR_linkat "linkat" [(0, PROC), (2, DESCRIPTOR), (4, Is(AtFlags::SYMLINK_FOLLOW.bits()))] "Tlink without CAP_DAC_READ_SEARCH";
    BY_PARENT __NR_linkat "linkat" [(0, DESCRIPTOR), (2, DESCRIPTOR), (4, Is(0))] "Tlink without CAP_DAC_READ_SEARCH";
    ALWAYS __NR_renameat "renameat" [(0, DESCRIPTOR), (2, DESCRIPTOR)] "Trenameat, Trename";
    BY_PROC_FD __NR_fchmodat "fchmodat" [(0, PROC), (2, Masked(!0o7777, 0))] "Tsetattr: mode of a held file";
    BY_PARENT __NR_fchmod "fchmod" [(1, Masked(!0o7777, 0))] "Tsetattr: mode of a file opened again";
    ALWAYS __NR_ftruncate "ftruncate" [] "Tsetattr: length";
    ALWAYS __NR_utimensat "utimensat" [(0, DESCRIPTOR), (3, Is(AtFlags::EMPTY_PATH.bits()))] "Tsetattr: times";
    ALWAYS __NR_fcntl "fcntl" [(1, Masked(!1, F_OFD_GETLK))] "Tlock, Tgetlock: F_OFD_GETLK and F_OFD_SETLK, which do not wait";
    CHANNELS __NR_fcntl "fcntl" [(0, From(FIRST_FREE_FD.cast_unsigned())), (1, Is(F_SETFL)), (2, Masked(!FASYNC, O_RDWR))] "channels: F_SETFL, sockets signal or do not";
    ALWAYS __NR_fallocate "fallocate" [(1, Is(0))] "Tallocate, mode 0";
    ALWAYS __NR_fgetxattr "fgetxattr" [] "Tgetxattr, Txattrwalk: a value";
    ALWAYS __NR_flistxattr "flistxattr" [] "Tlistxattr, Txattrwalk: the names";
    ALWAYS __NR_fsetxattr "fsetxattr" [(4, Below(XATTR_FLAGS_END))] "Tsetxattr, Tclunk behind Txattrcreate; XATTR_CREATE, XATTR_REPLACE";
    ALWAYS __NR_fremovexattr "fremovexattr" [] "Tremovexattr, Tclunk behind Txattrcreate";
    HOST_UDS __NR_socket "socket" [(0, Is(AF_UNIX)), (1, Masked(!7, SOCKET_FLAGS)), (2, Is(0))] "Tlconnect";
    HOST_UDS __NR_connect "connect" [(2, Below(ADDRESS_END))] "Tlconnect: an entry of /proc/self/fd; no long path";
    ALWAYS __NR_madvise "madvise" [(2, Is(MADV_DONTNEED))] "memory of empty buffers and tables given back; MADV_DONTNEED";
    ALWAYS __NR_write "write" [(0, A_LOG)] "the logs";
    ALWAYS __NR_clock_gettime "clock_gettime" [(0, Is(CLOCK_REALTIME))] "the log's times; when the host's locks are asked for again";
    CHANNELS __NR_clock_gettime "clock_gettime" [(0, Is(CLOCK_MONOTONIC))] "channels: when a wait is over";
    ALWAYS __NR_exit_group "exit_group" [] "the end";
}

/// The table as the program carries it, a fifth of its size: for each row when it holds, the call's number in two
/// bytes, and of each want the argument and the kind, then what numbers it has, in four bytes each.
static CARRIED: [u8; CARRY.1] = cut(&CARRY.0);
const CARRY: ([u8; ROOM], usize) = carry(ALLOWED);
const ROOM: usize = 2048;

#[allow(clippy::indexing_slicing)] // evaluated by the compiler
const fn carry(rows: &[Rule]) -> ([u8; ROOM], usize) {
    let (mut bytes, mut len, mut row) = ([0; ROOM], 0, 0);
    while row < rows.len() {
        let rule = &rows[row];
        assert!(rule.call < 1 << 16);
        len = put(&mut bytes, len, rule.when.0 as u32, 1);
        len = put(&mut bytes, len, rule.call, 2);
        let mut at = 0;
        while at < MAX_WANTS {
            let (arg, kind, numbers) = match rule.wants[at] {
                None => (0, 0, [None, None]),
                Some((arg, Want::Is(value))) => (arg, 1, [Some(value), None]),
                Some((arg, Want::Zero)) => (arg, 2, [None, None]),
                Some((arg, Want::Below(bound))) => (arg, 3, [Some(bound), None]),
                Some((arg, Want::From(bound))) => (arg, 5, [Some(bound), None]),
                Some((arg, Want::Masked(mask, value))) => (arg, 4, [Some(mask), Some(value)]),
            };
            len = put(&mut bytes, len, (arg as u32) << 4 | kind, 1);
            if let Some(first) = numbers[0] {
                len = put(&mut bytes, len, first, 4);
            }
            if let Some(second) = numbers[1] {
                len = put(&mut bytes, len, second, 4);
            }
            at += 1;
        }
        row += 1;
    }
    (bytes, len)
}

/// The `count` low bytes of `number`, the lowest first; where they end.
#[allow(clippy::indexing_slicing)] // evaluated by the compiler
const fn put(bytes: &mut [u8; ROOM], at: usize, number: u32, count: usize) -> usize {
    let mut byte = 0;
    while byte < count {
        bytes[at + byte] = number.to_le_bytes()[byte];
        byte += 1;
    }
    at + count
}

/// What is left of [`CARRIED`].
struct Carried(&'static [u8]);

impl Carried {
    #[inline(never)]
    fn number(&mut self, count: usize) -> u32 {
        let (bytes, rest) = self.0.split_at_checked(count).unwrap_or_default();
        self.0 = rest;
        let upwards = bytes.iter().rev();
        upwards.fold(0, |number, &byte| number << 8 | u32::from(byte))
    }

    #[inline(never)]
    fn want(&mut self) -> Option<(u8, Want)> {
        let [head, ..] = self.number(1).to_le_bytes();
        let want = match head & 15 {
            0 => return None,
            1 => Is(self.number(4)),
            2 => Zero,
            3 => Below(self.number(4)),
            5 => From(self.number(4)),
            _ => Masked(self.number(4), self.number(4)),
        };
        Some((head >> 4, want))
    }
}

impl Iterator for Carried {
    type Item = Rule;

    fn next(&mut self) -> Option<Rule> {
        let [when, ..] = self.number(1).to_le_bytes();
        let rule = Rule {
            when: Modes(when),
            call: self.number(2),
            wants: [(); MAX_WANTS].map(|()| self.want()),
        };
        (when > 0).then_some(rule) // no row is for nothing, and behind the last there are zeros
    }
}

/// The rows of [`ALLOWED`].
#[inline(never)]
fn rows() -> List<Rule> {
    List::of(Carried(&CARRIED))
}

/// The architecture that the filter is for, as the kernel's audit numbers it.
pub const AUDIT_ARCH: u32 = if cfg!(target_arch = "x86_64") {
    AUDIT_ARCH_X86_64
} else {
    AUDIT_ARCH_AARCH64
};

/// Bit that x32 numbers have on x86-64.
#[cfg(target_arch = "x86_64")]
pub const X32_BIT: u32 = linux_raw_sys::general::__X32_SYSCALL_BIT;
/// Elsewhere no number comes near it.
#[cfg(not(target_arch = "x86_64"))]
pub const X32_BIT: u32 = 1 << 30;

/// Instructions that the longest program may have.
pub const PROGRAM_LEN: usize = 512;

/// A filter program.
pub struct Program {
    code: [sock_filter; PROGRAM_LEN],
    len: usize,
}

const NR_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGS_AT: u32 = 16;

/// In place of a jump's distance: to where the row has failed.
const FAIL: u8 = u8::MAX;

impl Program {
    const fn empty() -> Self {
        Self {
            code: [sock_filter {
                code: 0,
                jt: 0,
                jf: 0,
                k: 0,
            }; PROGRAM_LEN],
            len: 0,
        }
    }

    /// The instructions.
    pub fn code(&self) -> &[sock_filter] {
        self.code.get(..self.len).unwrap_or_default()
    }

    #[inline(never)]
    fn put(&mut self, code: u32, jt: u8, jf: u8, k: u32) {
        if let (Some(place), Ok(code)) = (self.code.get_mut(self.len), u16::try_from(code)) {
            *place = sock_filter { code, jt, jf, k };
        }
        self.len += 1;
    }

    fn load(&mut self, at: u32) {
        self.put(BPF_LD | BPF_W | BPF_ABS, 0, 0, at);
    }

    fn jump(&mut self, test: u32, value: u32, jt: u8, jf: u8) {
        self.put(BPF_JMP | test | BPF_K, jt, jf, value);
    }

    fn give(&mut self, action: u32) {
        self.put(BPF_RET | BPF_K, 0, 0, action);
    }

    fn want(&mut self, arg: u8, want: Want) {
        let low = ARGS_AT + 8 * u32::from(arg);
        let high = low + 4;
        self.load(low);
        match want {
            Want::Is(value) => {
                self.jump(BPF_JEQ, value, 0, FAIL);
                self.load(high);
                if value >> 31 == 0 {
                    self.jump(BPF_JEQ, 0, 0, FAIL);
                } else {
                    self.jump(BPF_JEQ, 0, 1, 0);
                    self.jump(BPF_JEQ, u32::MAX, 0, FAIL);
                }
            }
            Want::Zero => {
                self.jump(BPF_JEQ, 0, 0, FAIL);
                self.load(high);
                self.jump(BPF_JEQ, 0, 0, FAIL);
            }
            Want::Masked(mask, value) => {
                self.put(BPF_ALU | BPF_AND | BPF_K, 0, 0, mask);
                self.jump(BPF_JEQ, value, 0, FAIL);
            }
            Want::Below(bound) => self.jump(BPF_JGE, bound, FAIL, 0),
            Want::From(bound) => self.jump(BPF_JGE, bound, 0, FAIL),
        }
    }

    /// A row: another call goes on behind the load at the start of the next row, this call with other
    /// arguments at that load.
    fn row(&mut self, rule: &Rule) {
        self.load(NR_AT);
        let start = self.len;
        self.jump(BPF_JEQ, rule.call, 0, FAIL);
        for (arg, want) in rule.wants() {
            self.want(arg, want);
        }
        self.give(SECCOMP_RET_ALLOW);
        let end = self.len;
        for at in start..end {
            let next = if at == start { end + 1 } else { end };
            let distance = u8::try_from(next - at - 1).unwrap_or(FAIL);
            let Some(instruction) = self.code.get_mut(at) else {
                continue;
            };
            if instruction.jt == FAIL {
                instruction.jt = distance;
            }
            if instruction.jf == FAIL {
                instruction.jf = distance;
            }
        }
    }
}

/// Assembles the rows of `rows` that hold in `modes`. What no row allows ends in `refuse`.
///
/// `None`: longer than [`PROGRAM_LEN`]; a test assembles every mode.
pub fn assemble(rows: &[Rule], modes: Modes, refuse: u32) -> Option<Program> {
    let mut program = Program::empty();
    program.load(ARCH_AT);
    program.jump(BPF_JEQ, AUDIT_ARCH, 1, 0);
    program.give(refuse);
    program.load(NR_AT);
    program.jump(BPF_JGE, X32_BIT, 0, 1);
    program.give(refuse);
    for rule in rows.iter().filter(|rule| modes.meets(rule.when)) {
        program.row(rule);
    }
    program.load(NR_AT); // where the last row's failures land; the other path lands behind it
    program.give(refuse);
    (program.len <= PROGRAM_LEN).then_some(program)
}

/// Installs the filter. Errors: `EINVAL` too long, or no filters in this kernel; seccomp(2)'s.
#[inline(never)]
pub fn install(modes: Modes) -> Result<(), Errno> {
    let kill = seccomp_has_action(SECCOMP_RET_KILL_PROCESS);
    let refuse = if kill {
        SECCOMP_RET_KILL_PROCESS
    } else {
        SECCOMP_RET_TRAP
    }; // before Linux 4.14
    let program = assemble(&rows(), modes, refuse).ok_or(Errno::INVAL)?;
    seccomp_install(program.code())
}

/// Different calls that the filter lets pass in `modes`.
pub fn count_calls(modes: Modes) -> usize {
    let rows = rows();
    let held = || rows.iter().filter(|rule| modes.meets(rule.when));
    held()
        .enumerate()
        .filter(|(at, rule)| !held().take(*at).any(|before| before.call == rule.call))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_carried_whole() {
        assert_eq!(*rows(), *ALLOWED);
    }
}
