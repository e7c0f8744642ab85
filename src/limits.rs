//! Every fixed capacity of the program: its unit, where it comes from, and the errno (or end) when it is full.
//!
//! Nothing here grows at run time. Tables are address space reserved at start; a page that was
//! never touched costs no memory.

/// Largest frame either way, bytes; also the largest msize granted. gVisor's client ignores a
/// smaller answer and sends up to this (docs/protocol.md 1.3, 8). A larger size field ends the connection.
pub const FRAME_BYTES: usize = 1 << 20;

/// Receive buffer of a connection, bytes: one whole frame and the start of the next ones.
pub const INPUT_BYTES: usize = FRAME_BYTES + (64 << 10);

/// Send buffer of a connection, bytes. A request is not begun while its largest reply has no room.
pub const OUTPUT_BYTES: usize = FRAME_BYTES + (64 << 10);

/// Room kept for a reply that carries no file data, bytes: Rwalk of [`WALK_NAMES`] names and
/// Rreadlink of [`LINK_BYTES`] fit.
pub const SMALL_REPLY_BYTES: usize = 8 << 10;

/// Room kept for a reply that may carry a whole extended attribute, all their names or the attributes of
/// [`WALK_NAMES`] files, bytes; the agreed message size may allow less.
pub const LARGE_REPLY_BYTES: usize = 80 << 10;

/// Bytes in the value of an extended attribute (`XATTR_SIZE_MAX`), and in the list of their names
/// (`XATTR_LIST_MAX`). More: `E2BIG`.
pub const XATTR_BYTES: usize = 64 << 10;

/// Values of extended attributes that fids hold, being read or written, of all connections together; each has
/// room for [`XATTR_BYTES`]. Full: `ENOMEM`.
pub const XATTRS: usize = 256;

/// Flags of setxattr(2) are below this: XATTR_CREATE and XATTR_REPLACE. Others: `EINVAL`.
pub const XATTR_FLAGS_END: u32 = 4;

/// Connections, that is `--io-fds`. More: start-up ends with 128.
pub const CONNECTIONS: usize = 256;

/// Fids of all connections together. Full: `ENOMEM`.
pub const FIDS: usize = 1_000_000;

/// Path nodes of all connections together; each holds a descriptor, so the descriptor limit is
/// reached first. Full: `ENOMEM`.
pub const NODES: usize = 1_000_000;

/// Open files of all connections together; each holds a descriptor. Full: `ENOMEM`.
pub const OPENS: usize = 1_000_000;

/// Descriptors kept back from walks, so that known files can still be opened. Walks then: `EMFILE`.
pub const DESCRIPTORS_FOR_OPENS: u64 = 32;

/// Names in one Twalk or Tmultigetattr. More: `E2BIG`.
pub const WALK_NAMES: usize = 256;

/// Bytes in a name that reaches the host (`NAME_MAX`). More: `ENAMETOOLONG`.
pub const NAME_BYTES: usize = 255;

/// Bytes in a symlink's target (`PATH_MAX` with its NUL). More: `ENAMETOOLONG`.
pub const LINK_BYTES: usize = 4096;

/// Files that one path is remembered to have been, its present one included, while fids on them are
/// held. More: the oldest no longer knows its path, so that removing or renaming through its fids is
/// `EINVAL`.
pub const FILES_OF_A_PATH: usize = 16;

/// Files that Linux's clients have open for appending and that are marked so, of all connections together; half of them
/// are divided evenly among the connections. Full: the host's file is opened with O_APPEND.
pub const MARKS: usize = 2048;

/// Bytes of the smallest page that a client may have: pages are written back at multiples of it.
pub const SMALLEST_PAGE_BYTES: usize = 4096;

/// Byte-range locks of all connections together, as ranges of one owner and kind. Full: `ENOLCK`.
pub const LOCKS: usize = 4096;

/// Pairs of a file and a client's process that has locks on it; each holds a descriptor. Full: `ENOLCK`.
pub const LOCK_HOLDERS: usize = 1024;

/// Locks that are waited for, of all connections together; half of them are divided evenly among the connections.
/// Full: the answer is that the lock is blocked.
pub const LOCK_WAITERS: usize = 2048;

/// Time between two questions for a lock that a process of the host has, milliseconds.
pub const HOST_LOCK_MS: i32 = 5;

/// Host devices told apart in the qids of one attach point: 8 bits of qid.path. More: `EREMOTEIO`.
pub const DEVICES: usize = 256;

/// Replies with a donated descriptor waiting in one connection's send buffer. Full: the next
/// request waits until they are sent.
pub const DONATIONS: usize = 16;

/// Shared-memory channels of all connections together: futex_waitv(2) waits for 128 words, and one is ours
/// (`FUTEX_WAITV_MAX`). More: connections that come later have fewer, and Tchannel is `ENOSYS`.
pub const CHANNELS: usize = 127;

/// Descriptors that must be there to be had for each channel; it takes three at the most, so that files keep most of
/// them. Fewer: fewer channels.
pub const DESCRIPTORS_PER_CHANNEL: u64 = 12;

/// Bytes of a channel's window: a frame and 20 bytes, in whole pages (docs/protocol.md 9). A longer datagram ends
/// the channel.
pub const WINDOW_BYTES: usize = (FRAME_BYTES + 20).next_multiple_of(PAGE_BYTES);

/// Longest look for a channel's next request before sleeping, microseconds. More, on the command line: refused.
pub const CHANNEL_SPIN_US: u64 = 1000;

/// Times that all channels are looked at before the sockets are, where each time one of them has a request.
pub const CHANNEL_PASSES: u32 = 16;

/// Work done for one connection before the others get their turn; [`crate::server`] says what
/// a unit is (about one system call on the host).
pub const TURN_COST: usize = 64;

/// The same where there is no other: nobody waits, and what is answered goes out together.
pub const TURN_COST_ALONE: usize = 16 * TURN_COST;

/// Bytes of file data that count as one unit of [`TURN_COST`].
pub const COST_BYTES: usize = 16 << 10;

/// Descriptors closed, or fids of an ended connection freed, before the others get their turn.
pub const RELEASES_PER_TURN: usize = 512;

/// Fids of an ended connection given up before the others get their turn: each may close a file, and
/// that may free its disk space.
pub const FIDS_PER_TURN: usize = 32;

/// Quiet time after which touched but unused memory goes back to the kernel, milliseconds.
pub const TRIM_AFTER_MS: i32 = 100;

/// Wake-ups after which it goes back even when the process is never quiet.
pub const TRIM_EVERY_WAKEUPS: u32 = 1024;

/// Memory looked through for that between two polls, bytes.
pub const TRIM_STEP_BYTES: usize = 4 << 20;

/// Unit in which memory goes back, bytes: the largest page of the architecture.
pub const PAGE_BYTES: usize = if cfg!(target_arch = "x86_64") {
    4096
} else {
    65536
};

/// Bytes getdents64(2) may fill at a time.
pub const DIRENT_BYTES: usize = 32 << 10;

/// Bytes of one log line, which a pipe takes whole or not at all (`PIPE_BUF`); two names of
/// [`NAME_BYTES`] fit, each byte escaped. What does not fit is cut.
pub const LOG_LINE_BYTES: usize = 4096;

/// Refused Tversions and Tattaches of one connection that are logged, a line each: a client may try as often as it likes.
/// More: answered alike, and not logged.
pub const REFUSALS_LOGGED: u8 = 16;

/// Address space that start-up takes at a time for what it makes, bytes. Nothing is made once serving.
pub const HEAP_BYTES: usize = 64 << 20;

/// Descriptor of the detached clone of /proc/self/fd, where there is one.
pub const PROC_FD: i32 = 3;
/// First of the four descriptors that logs may be written to, so that one mask tells them.
pub const LOG_FDS: i32 = 4;
/// Descriptor of the log, where there is one.
pub const LOG_FD: i32 = LOG_FDS;
/// Descriptor of the debug log, where there is one.
pub const DEBUG_LOG_FD: i32 = LOG_FDS + 1;
/// Descriptor of standard error, where it is logged to beside another log.
pub const STDERR_LOG_FD: i32 = LOG_FDS + 2;
/// Held free: the fourth that the mask lets pass.
pub const SPARE_LOG_FD: i32 = LOG_FDS + 3;
/// io-fds are moved here and above, clear of those before.
pub const FIRST_FREE_FD: i32 = 8;

const _: () = {
    assert!(SMALL_REPLY_BYTES >= 9 + 13 * WALK_NAMES);
    assert!(SMALL_REPLY_BYTES >= 9 + LINK_BYTES);
    assert!(OUTPUT_BYTES >= FRAME_BYTES + SMALL_REPLY_BYTES);
    assert!(LARGE_REPLY_BYTES >= 9 + 153 * WALK_NAMES && LARGE_REPLY_BYTES <= OUTPUT_BYTES);
    assert!(LARGE_REPLY_BYTES >= 9 + XATTR_BYTES + XATTR_BYTES / 7); // a name of 6 bytes takes one more on the wire
    assert!(XATTRS < u16::MAX as usize && XATTR_BYTES.is_multiple_of(PAGE_BYTES));
    assert!(INPUT_BYTES > FRAME_BYTES);
    assert!(CONNECTIONS <= u16::MAX as usize);
    assert!(LOCK_WAITERS / 2 / CONNECTIONS >= 4);
    // A clunk ends them all, each with an error of 11 bytes before its own reply, whatever that is.
    assert!(OUTPUT_BYTES >= FRAME_BYTES + SMALL_REPLY_BYTES + 11 * LOCK_WAITERS);
    assert!(FIDS < u32::MAX as usize);
    assert!(NODES < u32::MAX as usize);
    assert!(OPENS < u32::MAX as usize);
    assert!(MARKS / 2 / CONNECTIONS >= 4);
    assert!(RELEASES_PER_TURN > WALK_NAMES); // nodes are freed faster than walks make them
    assert!(LOG_FDS % 4 == 0 && LOG_FDS + 4 <= FIRST_FREE_FD);
    assert!(PROC_FD > 2 && PROC_FD < LOG_FDS);
};
