//! What Linux's own client needs and gVisor's does not: docs/protocol.md 7. Locks are in `locks`.

use crate::harness::{
    Launch, Namespace, ROOT, Session, Tree, chmod, serve, serve_read_only, session_of, spec,
    write_spec,
};
use crate::p9::{
    Client, Data, MSIZE, NOFID, NOID, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, QT_SPECIAL, Qid,
    SetAttr, refused,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::mkfifo;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown};
use std::os::unix::net::UnixListener;

const MODE: u32 = 0x1;
const UID: u32 = 0x2;
const SIZE: u32 = 0x8;
const ATIME: u32 = 0x10;
const MTIME: u32 = 0x20;
const CTIME: u32 = 0x40;
const ATIME_GIVEN: u32 = 0x80;
const MTIME_GIVEN: u32 = 0x100;

/// From here on this client is Linux.
#[track_caller]
pub(crate) fn speak(client: &mut Client) {
    assert_eq!(
        client.version(MSIZE, b"9P2000.L").unwrap().version,
        b"9P2000.L"
    );
}

/// Serves a tree to Linux; the root is attached for no user.
#[track_caller]
pub(crate) fn linux(tree: &Tree) -> Session {
    let mut session = serve(tree);
    speak(&mut session);
    session
}

/// The same with further flags.
#[track_caller]
fn linux_with(tree: &Tree, flags: &[&str]) -> Session {
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut session = session_of(Launch::new(&tree.bundle(), 1).with(flags));
    speak(&mut session);
    session
}

/// Attaches `fid` for a user, as Linux does under access=user and access=client.
#[track_caller]
fn attach_user(s: &mut Session, fid: u32, user: u32) {
    s.attach(fid, NOFID, b"", b"", user).unwrap();
}

fn octal(flags: i32) -> u32 {
    flags.cast_unsigned()
}

fn set(valid: u32, mode: u32, size: u64) -> (u32, SetAttr) {
    let attr = SetAttr {
        mode,
        size,
        uid: NOID,
        gid: NOID,
        ..SetAttr::default()
    };
    (valid, attr)
}

// ---- versions ----

#[test]
fn linux_is_decided_by_the_last_version_that_was_granted() {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = linux(&tree);
    let dots = |s: &mut Session, fid| {
        s.walk_to(ROOT, fid, "d").unwrap();
        s.lopen(fid, O_RDONLY).unwrap();
        s.list(fid, 4096).unwrap().len()
    };
    assert_eq!(dots(&mut s, 2), 2);
    refused(s.version(MSIZE, b"nonsense"), Errno::EINVAL);
    assert_eq!(dots(&mut s, 3), 2);
    s.version(MSIZE, b"9P2000.L.Google.7").unwrap();
    assert_eq!(dots(&mut s, 4), 0);
}

// ---- directories ----

#[test]
fn readdir_gives_linux_host_types_and_both_dots() {
    let tree = Tree::new();
    tree.file("file", b"");
    tree.dir("dir");
    tree.link("link", "file");
    mkfifo(&tree.path("fifo"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(tree.path("socket")).unwrap();
    let null = nix::sys::stat::makedev(1, 3);
    mknod(&tree.path("char"), SFlag::S_IFCHR, Mode::S_IRWXU, null).unwrap();
    mknod(&tree.path("block"), SFlag::S_IFBLK, Mode::S_IRWXU, null).unwrap();
    let mut s = linux(&tree);
    s.open(ROOT, 2, "", octal(libc::O_DIRECTORY | libc::O_LARGEFILE))
        .unwrap();
    let kinds: BTreeMap<String, u8> = s
        .list(2, 8168)
        .unwrap()
        .into_iter()
        .map(|entry| (String::from_utf8(entry.name).unwrap(), entry.kind))
        .collect();
    let wanted = [
        (".", libc::DT_DIR),
        ("..", libc::DT_DIR),
        ("block", libc::DT_BLK),
        ("char", libc::DT_CHR),
        ("dir", libc::DT_DIR),
        ("fifo", libc::DT_FIFO),
        ("file", libc::DT_REG),
        ("link", libc::DT_LNK),
        ("socket", libc::DT_SOCK),
    ];
    assert_eq!(
        kinds,
        wanted.map(|(name, kind)| (name.to_owned(), kind)).into()
    );
}

/// Nothing above the attach point is told, not even its number.
#[test]
fn readdir_dots_have_the_numbers_of_their_directories_and_the_roots_above_its_own() {
    let tree = Tree::new();
    tree.dir("d/e");
    let mut s = linux(&tree);
    for (fid, path, here, above) in [(2, "", "", ""), (3, "d", "d", ""), (4, "d/e", "d/e", "d")] {
        s.open(ROOT, fid, path, O_RDONLY).unwrap();
        let list = s.list(fid, 4096).unwrap();
        let number = |name: &[u8]| {
            list.iter()
                .find(|entry| entry.name == name)
                .unwrap()
                .qid
                .path
        };
        assert_eq!(number(b"."), tree.stat(here).ino(), "{path}");
        assert_eq!(number(b".."), tree.stat(above).ino(), "{path}");
    }
}

#[test]
fn readdir_goes_on_behind_any_entry_again_and_again() {
    let tree = Tree::new();
    for number in 0..200 {
        tree.file(&format!("a file with number {number}"), b"");
    }
    let mut s = linux(&tree);
    s.open(ROOT, 2, "", O_RDONLY).unwrap();
    let all = s.list(2, 4096).unwrap();
    assert_eq!(all.len(), 202);
    for at in [150, 3, 199, 0, 77] {
        let rest = s.readdir(2, all[at].offset, 1 << 16).unwrap().entries.list;
        assert_eq!(rest[0], all[at + 1], "behind entry {at}");
    }
    assert_eq!(s.readdir(2, 0, 200).unwrap().entries.list[0], all[0]);
}

// ---- qids ----

#[test]
fn qid_version_changes_with_size_and_change_time_and_is_never_0() {
    let tree = Tree::new();
    tree.file("a", b"one");
    let mut s = linux(&tree);
    let walked = s.walk_to(ROOT, 2, "a").unwrap().remove(0);
    let first = s.getattr(2, 0x3fff).unwrap().qid;
    assert_eq!(walked, first);
    assert_ne!(first.version, 0);
    let opened = s.lopen(2, O_RDWR).unwrap().qid;
    assert_eq!(opened, first);
    let mut seen = vec![first.version];
    let mut note = |s: &mut Session| {
        let qid = s.getattr(2, 0x3fff).unwrap().qid;
        assert!(
            qid.version != 0 && !seen.contains(&qid.version),
            "{qid:?} {seen:?}"
        );
        assert_eq!(qid.path, first.path);
        seen.push(qid.version);
    };
    s.write(2, 0, Data(b"longer")).unwrap();
    note(&mut s);
    tree.file("a", b"by the host");
    note(&mut s);
    let before = tree.stat("a");
    while (tree.stat("a").ctime(), tree.stat("a").ctime_nsec())
        == (before.ctime(), before.ctime_nsec())
    {
        chmod(&tree.path("a"), 0o600); // until the host's clock has gone on
    }
    note(&mut s);
}

/// What `--qid-version zero` is for: a file changes, and nothing in its qid does.
#[test]
fn qid_version_zero_stays_0_whatever_changes() {
    let tree = Tree::new();
    tree.file("a", b"one");
    let mut s = linux_with(&tree, &["--qid-version", "zero"]);
    let walked = s.walk_to(ROOT, 2, "a").unwrap().remove(0);
    assert_eq!((walked.version, walked.path), (0, tree.stat("a").ino()));
    assert_eq!(s.getattr(2, 0x3fff).unwrap().qid, walked);
    assert_eq!(s.lopen(2, O_RDWR).unwrap().qid, walked);
    s.write(2, 0, Data(b"longer")).unwrap();
    assert_eq!(s.getattr(2, 0x3fff).unwrap().qid, walked);
    tree.file("a", b"by the host");
    assert_eq!(s.getattr(2, 0x3fff).unwrap().qid, walked);
    assert_eq!(s.walk_to(ROOT, 3, "a").unwrap(), [walked]);
    // What is known of the file is true all the same.
    assert_eq!(s.getattr(2, 0x3fff).unwrap().attr.size, 11);
}

/// A qid of each reply that has one, but for directory entries.
fn qids_of_all_replies(tree: &Tree, s: &mut Session) -> Vec<Qid> {
    tree.dir("d");
    let mut qids = vec![s.attach(9, NOFID, b"", b"", 0).unwrap().qid];
    qids.extend(s.walk_to(ROOT, 2, "d").unwrap());
    qids.push(s.mkdir(ROOT, b"e", 0o755, 0).unwrap().qid);
    qids.push(s.symlink(ROOT, b"l", b"d", 0).unwrap().qid);
    qids.push(
        s.mknod(ROOT, b"f", libc::S_IFIFO | 0o644, 0, 0, 0)
            .unwrap()
            .qid,
    );
    qids.push(s.lopen(2, O_RDONLY).unwrap().qid);
    s.walk_to(ROOT, 3, "").unwrap();
    qids.push(s.lcreate(3, b"a", O_RDWR, 0o644, 0).unwrap().qid);
    qids.push(s.getattr(3, 0x3fff).unwrap().qid);
    qids.extend(s.walkgetattr(ROOT, 4, &[b"a"]).unwrap().qids);
    qids.push(s.umkdir(ROOT, b"ue", 0o755, 0, 0).unwrap().qid);
    qids.push(s.usymlink(ROOT, b"ul", b"d", 0, 0).unwrap().qid);
    qids.push(
        s.umknod(ROOT, b"uf", libc::S_IFREG | 0o644, 0, 0, 0, 0)
            .unwrap()
            .qid,
    );
    s.walk_to(ROOT, 5, "").unwrap();
    qids.push(s.ucreate(5, b"ua", O_RDWR, 0o644, 0, 0).unwrap().qid);
    qids
}

#[test]
fn qids_of_all_replies_have_a_version() {
    for flags in [&[][..], &["--qid-version=real"]] {
        let tree = Tree::new();
        let mut s = linux_with(&tree, flags);
        for qid in qids_of_all_replies(&tree, &mut s) {
            assert_ne!(qid.version, 0, "{qid:?}");
        }
    }
}

#[test]
fn qids_of_all_replies_have_version_0_with_qid_version_zero() {
    let tree = Tree::new();
    let mut s = linux_with(&tree, &["--qid-version=zero"]);
    for qid in qids_of_all_replies(&tree, &mut s) {
        assert_eq!(qid.version, 0, "{qid:?}");
        assert_ne!(qid.path, 0);
    }
    s.open(ROOT, 9, "", O_RDONLY).unwrap();
    for entry in s.list(9, 4096).unwrap() {
        assert_eq!(entry.qid.version, 0, "{entry:?}");
    }
}

#[test]
fn qid_versions_are_0_for_gvisor() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    assert_eq!(s.getattr(ROOT, 0).unwrap().qid.version, 0);
    assert_eq!(s.mkdir(ROOT, b"d", 0o755, NOID).unwrap().qid.version, 0);
    assert_eq!(s.walk_to(ROOT, 2, "d").unwrap()[0].version, 0);
}

/// Programs that look for the type must not take the mount for the host's file system.
#[test]
fn statfs_has_the_type_of_v9fs_for_linux_and_the_hosts_figures() {
    const V9FS_MAGIC: u32 = 0x0102_1997;
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    s.open(ROOT, 3, "", O_RDONLY).unwrap();
    let host = nix::sys::statfs::statfs(&tree.root()).unwrap();
    for fid in [ROOT, 2, 3] {
        let reply = s.statfs(fid).unwrap();
        assert_eq!((reply.kind, reply.namelen), (V9FS_MAGIC, 255));
        assert_eq!(i64::from(reply.bsize), host.block_size());
        assert_eq!((reply.blocks, reply.files), (host.blocks(), host.files()));
    }
    // Once it is gVisor's client, it is the host's again.
    s.version(MSIZE, b"9P2000.L.Google.7").unwrap();
    let kind = i64::from(s.statfs(2).unwrap().kind);
    assert_eq!(kind, host.filesystem_type().0 & 0xffff_ffff);
}

#[test]
fn getattr_says_that_all_basic_attributes_are_there() {
    let tree = Tree::new();
    let mut s = linux(&tree);
    assert_eq!(s.getattr(ROOT, 0x17ff).unwrap().valid, 0x7ff);
}

// ---- attach ----

#[test]
fn attach_again_for_each_user_gives_files_to_that_user() {
    let tree = Tree::new();
    chmod(&tree.root(), 0o777);
    let mut s = linux(&tree);
    attach_user(&mut s, 10, 1000);
    attach_user(&mut s, 20, 2000);
    s.mkdir(10, b"dir", 0o755, 1001).unwrap();
    s.symlink(10, b"link", b"x", 1001).unwrap();
    s.mknod(20, b"fifo", libc::S_IFIFO | 0o600, 0, 0, 2001)
        .unwrap();
    s.walk_to(20, 21, "").unwrap();
    s.lcreate(21, b"file", O_RDWR, 0o644, 2001).unwrap();
    s.walk_to(10, 11, "dir").unwrap(); // what is walked to from it is the user's too
    s.mkdir(11, b"inner", 0o755, 1001).unwrap();
    s.mkdir(ROOT, b"nobodys", 0o755, NOID).unwrap();
    let owner = |name: &str| (tree.stat(name).uid(), tree.stat(name).gid());
    assert_eq!(owner("dir"), (1000, 1001));
    assert_eq!(owner("link"), (1000, 1001));
    assert_eq!(owner("dir/inner"), (1000, 1001));
    assert_eq!(owner("fifo"), (2000, 2001));
    assert_eq!(owner("file"), (2000, 2001));
    assert_eq!(owner("nobodys"), (0, 0));
}

#[test]
fn attach_again_below_and_after_the_root_was_clunked() {
    let tree = Tree::new();
    tree.dir("d/e");
    let mut s = linux(&tree);
    let qid = s.attach(2, NOFID, b"root", b"/d/e", 0).unwrap().qid;
    assert_eq!(
        qid.path,
        tree.stat("d/e").ino(),
        "what was attached, not the attach point"
    );
    for fid in [ROOT, 2] {
        s.clunk(fid).unwrap();
    }
    attach_user(&mut s, 3, 0);
    s.walk_to(3, 4, "d/e").unwrap();
    refused(s.attach(5, NOFID, b"", b"/d/missing", 0), Errno::ENOENT);
    tree.file("f", b"");
    refused(s.attach(5, NOFID, b"", b"/f/x", 0), Errno::ENOTDIR);
}

/// Without the privilege the file stays the server's, and is made all the same.
#[test]
fn files_made_by_a_process_that_may_not_chown_stay_its_own() {
    let tree = Tree::new();
    chown(tree.root(), Some(1234), Some(1234)).unwrap();
    chmod(&tree.root(), 0o777);
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let program = tree.outside("program");
    crate::harness::copy_binary(&program);
    let launch = Launch::new(&tree.bundle(), 1).binary(&program);
    let namespace = crate::harness::Namespace::UserAndMount;
    let mut s = session_of(launch.ids(1234, 1234).namespace(namespace));
    speak(&mut s);
    attach_user(&mut s, 2, 7); // not mapped in its user namespace
    s.mkdir(2, b"d", 0o700, 8).unwrap();
    assert_eq!((tree.stat("d").uid(), tree.stat("d").gid()), (1234, 1234));
}

// ---- special files ----

#[test]
fn mknod_makes_fifos_sockets_and_what_else_the_host_lets_it() {
    let tree = Tree::new();
    let mut s = linux(&tree);
    s.mknod(ROOT, b"fifo", libc::S_IFIFO | 0o640, 0, 0, 0)
        .unwrap();
    s.mknod(ROOT, b"socket", libc::S_IFSOCK | 0o600, 0, 0, 0)
        .unwrap();
    s.umknod(ROOT, b"file", libc::S_IFREG | 0o604, 9, 9, 5, 6)
        .unwrap();
    assert!(tree.stat("fifo").file_type().is_fifo());
    assert_eq!(tree.stat("fifo").mode() & 0o7777, 0o640);
    assert!(tree.stat("socket").file_type().is_socket());
    let file = tree.stat("file");
    assert_eq!((file.is_file(), file.uid(), file.gid()), (true, 6, 5));
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        // The capability was dropped.
        refused(
            s.mknod(ROOT, b"device", kind | 0o600, 1, 3, 0),
            Errno::EPERM,
        );
    }
    for kind in [libc::S_IFDIR, libc::S_IFLNK, 0, 0o170_000] {
        refused(s.mknod(ROOT, b"other", kind | 0o600, 0, 0, 0), Errno::EPERM);
    }
}

#[test]
fn mknod_makes_devices_where_the_process_keeps_its_capabilities() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).with(&["--apply-caps=false"]));
    speak(&mut s);
    s.mknod(ROOT, b"null", libc::S_IFCHR | 0o600, 1, 3, 0)
        .unwrap();
    assert!(tree.stat("null").file_type().is_char_device());
    assert_eq!(tree.stat("null").rdev(), nix::sys::stat::makedev(1, 3));
    s.walk_to(ROOT, 2, "null").unwrap();
    assert_eq!(s.getattr(2, 0).unwrap().attr.rdev, tree.stat("null").rdev());
    s.unlinkat(ROOT, b"null", 0).unwrap();
}

/// Nobody is at the FIFO's other end: an open would hang, and a device's would do something.
#[test]
fn special_files_are_walked_changed_renamed_and_removed_and_never_opened() {
    let tree = Tree::new();
    tree.dir("d");
    mkfifo(&tree.path("fifo"), Mode::S_IRWXU).unwrap();
    let null = nix::sys::stat::makedev(1, 3);
    mknod(&tree.path("device"), SFlag::S_IFCHR, Mode::S_IRWXU, null).unwrap();
    let _socket = UnixListener::bind(tree.path("socket")).unwrap();
    let mut s = linux(&tree);
    s.walk_to(ROOT, 3, "d").unwrap();
    for name in ["fifo", "device", "socket"] {
        let kind = tree.stat(name).mode() & libc::S_IFMT;
        let qid = s.walk_to(ROOT, 2, name).unwrap().remove(0);
        assert_eq!(qid.kind, QT_SPECIAL, "{name}");
        assert_eq!(s.getattr(2, 0).unwrap().attr.mode & libc::S_IFMT, kind);
        let (valid, mut attr) = set(MODE | UID | MTIME | MTIME_GIVEN | CTIME, 0o604, 0);
        (attr.uid, attr.mtime) = (5, 77);
        s.setattr(2, valid, &attr).unwrap();
        let stat = tree.stat(name);
        assert_eq!(
            (stat.mode(), stat.uid(), stat.mtime()),
            (kind | 0o604, 5, 77)
        );
        let (valid, attr) = set(SIZE, 0, 0);
        refused(s.setattr(2, valid, &attr), Errno::EINVAL);
        for flags in [O_RDONLY, O_WRONLY, O_RDWR] {
            refused(s.lopen(2, flags), Errno::EINVAL);
        }
        s.link(3, 2, name.as_bytes()).unwrap();
        s.renameat(3, name.as_bytes(), ROOT, b"linked").unwrap();
        s.rename(2, 3, b"moved").unwrap();
        assert_eq!(s.getattr(2, 0).unwrap().attr.nlink, 2);
        s.unlinkat(3, b"moved", 0).unwrap();
        s.unlinkat(ROOT, b"linked", 0).unwrap();
        assert_eq!(s.getattr(2, 0).unwrap().attr.nlink, 0);
        s.clunk(2).unwrap();
    }
    assert_eq!(fs::read_dir(tree.path("d")).unwrap().count(), 0);
}

#[test]
fn special_files_are_nothing_for_gvisor_though_linux_had_a_fid_on_them() {
    let tree = Tree::new();
    mkfifo(&tree.path("fifo"), Mode::S_IRWXU).unwrap();
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "fifo").unwrap();
    s.version(MSIZE, b"9P2000.L.Google.7").unwrap();
    refused(s.walk_to(ROOT, 3, "fifo"), Errno::EPERM);
    refused(s.lopen(2, O_RDONLY), Errno::EINVAL);
    refused(
        s.mknod(ROOT, b"f", libc::S_IFIFO | 0o600, 0, 0, 0),
        Errno::EPERM,
    );
}

#[test]
fn special_files_have_no_extended_attributes() {
    let tree = Tree::new();
    mkfifo(&tree.path("fifo"), Mode::S_IRWXU).unwrap();
    let null = nix::sys::stat::makedev(1, 3);
    mknod(&tree.path("device"), SFlag::S_IFCHR, Mode::S_IRWXU, null).unwrap();
    let _socket = UnixListener::bind(tree.path("socket")).unwrap();
    let mut s = linux(&tree);
    for name in ["fifo", "device", "socket"] {
        s.walk_to(ROOT, 2, name).unwrap();
        assert_eq!(s.xattrwalk(2, 3, b"").unwrap().size, 0);
        s.clunk(3).unwrap();
        refused(s.xattrwalk(2, 3, b"user.a"), Errno::EOPNOTSUPP);
        refused(s.xattrwalk(2, 3, b"security.capability"), Errno::ENODATA);
        s.xattrcreate(2, b"user.a", 1, 0).unwrap();
        s.write(2, 0, Data(b"x")).unwrap();
        refused(s.clunk(2), Errno::EOPNOTSUPP);
    }
}

#[test]
fn walk_from_a_fid_that_holds_a_value_is_ebusy() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    s.xattrwalk(2, 3, b"").unwrap();
    refused(s.walk_to(3, 4, ""), Errno::EBUSY);
}

// ---- opening ----

#[test]
fn lopen_and_lcreate_donate_nothing_to_linux() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    let before = s.gofer.descriptor_count();
    assert!(s.open(ROOT, 2, "a", O_RDWR).unwrap().fd.is_none());
    s.walk_to(ROOT, 3, "").unwrap();
    assert!(s.lcreate(3, b"b", O_RDWR, 0o644, 0).unwrap().fd.is_none());
    for fid in [2, 3] {
        s.clunk(fid).unwrap();
    }
    s.expect_descriptors(before);
}

#[test]
fn lopen_with_o_append_appends_whatever_the_offset_says() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    s.open(ROOT, 2, "a", O_WRONLY | octal(libc::O_APPEND))
        .unwrap();
    tree.file("a", b"longer than the client knows");
    s.write(2, 4, Data(b"!")).unwrap();
    assert_eq!(tree.read("a"), b"longer than the client knows!");
    s.walk_to(ROOT, 3, "").unwrap();
    s.lcreate(3, b"b", O_WRONLY | octal(libc::O_APPEND), 0o644, 0)
        .unwrap();
    for text in [b"one ", b"two "] {
        s.write(3, 0, Data(text)).unwrap();
    }
    assert_eq!(tree.read("b"), b"one two ");
}

#[test]
fn lopen_takes_every_flag_that_linux_sends() {
    let tree = Tree::new();
    tree.file("a", b"text");
    tree.dir("d");
    let mut s = linux(&tree);
    let all = libc::O_CREAT
        | libc::O_EXCL
        | libc::O_NOCTTY
        | libc::O_NONBLOCK
        | libc::O_DSYNC
        | libc::O_ASYNC
        | libc::O_DIRECT
        | libc::O_LARGEFILE
        | libc::O_NOFOLLOW
        | libc::O_NOATIME
        | libc::O_CLOEXEC
        | libc::O_SYNC;
    s.open(ROOT, 2, "a", O_RDWR | octal(all)).unwrap();
    s.write(2, 1, Data(b"-")).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"t-xt");
    s.open(ROOT, 3, "a", O_RDWR | O_TRUNC).unwrap();
    assert_eq!(tree.read("a"), b"");
    refused(
        s.open(ROOT, 4, "a", octal(libc::O_DIRECTORY)),
        Errno::ENOTDIR,
    );
    s.open(ROOT, 5, "d", octal(libc::O_DIRECTORY | libc::O_NONBLOCK))
        .unwrap();
}

#[test]
fn lopen_with_o_sync_and_o_noatime_opens_so_on_the_host() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    let wanted = [libc::O_APPEND, libc::O_DSYNC, libc::O_SYNC, libc::O_NOATIME];
    for flag in wanted {
        s.open(ROOT, 2, "a", O_WRONLY | octal(flag)).unwrap();
        let after = s.gofer.descriptors().unwrap();
        let mut found = false;
        for (number, _) in &after {
            let text = s.gofer.proc_text(&format!("fdinfo/{number}")).unwrap();
            let flags = text
                .lines()
                .find_map(|line| line.strip_prefix("flags:"))
                .unwrap()
                .trim();
            let flags = i32::from_str_radix(flags, 8).unwrap();
            found |= flags & flag == flag && flags & libc::O_PATH == 0;
        }
        assert!(found, "{flag:o}");
        s.clunk(2).unwrap();
    }
}

/// The name has come up meanwhile: Linux looks again on ESTALE, and opens it with its own checks.
#[test]
fn lcreate_without_o_excl_of_a_name_that_is_there_is_estale() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "").unwrap();
    let create = octal(libc::O_CREAT);
    refused(s.lcreate(2, b"a", O_RDWR | create, 0o644, 0), Errno::ESTALE);
    let exclusive = create | octal(libc::O_EXCL);
    refused(
        s.lcreate(2, b"a", O_RDWR | exclusive, 0o644, 0),
        Errno::EEXIST,
    );
    assert_eq!(tree.read("a"), b"text");
}

#[test]
fn lcreate_and_mknod_keep_set_id_bits_for_their_user() {
    let tree = Tree::new();
    chmod(&tree.root(), 0o777);
    let mut s = linux(&tree);
    attach_user(&mut s, 2, 1000);
    s.mknod(2, b"b", libc::S_IFREG | 0o6755, 0, 0, 1000)
        .unwrap();
    s.lcreate(2, b"a", O_RDWR, 0o6755, 1000).unwrap();
    for name in ["a", "b"] {
        assert_eq!(tree.stat(name).mode() & 0o7777, 0o6755, "{name}");
        assert_eq!(tree.stat(name).uid(), 1000);
    }
}

/// Such a file stays the server's.
#[test]
fn lcreate_and_mknod_for_a_user_who_is_not_mapped_have_no_set_id_bits() {
    for namespace in [Namespace::User, Namespace::UserAndMount] {
        let tree = Tree::new();
        chmod(&tree.root(), 0o777);
        write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
        let mut s = session_of(Launch::new(&tree.bundle(), 1).namespace(namespace));
        speak(&mut s);
        attach_user(&mut s, 2, 1000);
        s.mknod(2, b"b", libc::S_IFREG | 0o6755, 0, 0, 1000)
            .unwrap();
        s.lcreate(2, b"a", O_RDWR, 0o6755, 1000).unwrap();
        for name in ["a", "b"] {
            assert_eq!(tree.stat(name).mode() & 0o7777, 0o755, "{name}");
            assert_ne!(tree.stat(name).uid(), 1000);
        }
    }
}

/// Linux's client of 2022 leaves it to the server.
#[test]
fn write_by_another_user_than_root_drops_set_id_bits() {
    let tree = Tree::new();
    let mut s = linux(&tree);
    attach_user(&mut s, 10, 0);
    attach_user(&mut s, 20, 1000);
    for (root, before, after) in [
        (20, 0o6777, 0o0777),
        (20, 0o4777, 0o0777),
        (20, 0o2777, 0o0777),
        (20, 0o2767, 0o2767), // not execution, and so another meaning
        (20, 0o1666, 0o1666),
        (10, 0o6777, 0o6777),
        (ROOT, 0o6777, 0o6777),
    ] {
        tree.file("a", b"text");
        chmod(&tree.path("a"), before);
        s.open(root, 2, "a", O_RDWR).unwrap();
        s.write(2, 0, Data(b"T")).unwrap();
        assert_eq!(tree.stat("a").mode() & 0o7777, after, "{before:o}");
        s.clunk(2).unwrap();
    }
}

/// Access 3 opens for neither, also where nothing may be changed.
#[test]
fn write_to_a_fid_opened_for_neither_leaves_set_id_bits() {
    let tree = Tree::new();
    tree.file("a", b"text");
    chmod(&tree.path("a"), 0o6777);
    let mut s = serve_read_only(&tree);
    speak(&mut s);
    attach_user(&mut s, 20, 1000);
    s.open(20, 2, "a", 3).unwrap();
    refused(s.write(2, 0, Data(b"T")), Errno::EBADF);
    assert_eq!(tree.stat("a").mode() & 0o7777, 0o6777);
}

/// Linux walks from fids that are open, where it knows no others.
#[test]
fn walk_from_an_open_fid_is_served() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/a", b"text");
    let mut s = linux(&tree);
    s.open(ROOT, 2, "d", O_RDONLY).unwrap();
    s.open(2, 3, "a", O_RDONLY).unwrap();
    assert_eq!(s.walk_to(3, 4, "").unwrap().len(), 0);
    s.lopen(4, O_RDWR).unwrap();
    refused(s.walk_to(3, 3, ""), Errno::EBUSY);
    assert_eq!(s.read_all(3).unwrap(), b"text");
}

// ---- attributes ----

#[test]
fn setattr_with_the_change_time_is_served() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    let (valid, attr) = set(MODE | CTIME, 0o600, 0);
    s.setattr(2, valid, &attr).unwrap();
    assert_eq!(tree.stat("a").mode() & 0o7777, 0o600);
    let (valid, attr) = set(SIZE | MTIME | CTIME, 0, 2);
    s.setattr(2, valid, &attr).unwrap();
    assert_eq!(tree.read("a"), b"te");
}

/// What chown(2) of neither owner nor group comes to.
#[test]
fn setattr_of_the_change_time_alone_touches_it() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    let times = |tree: &Tree| (tree.stat("a").ctime(), tree.stat("a").ctime_nsec());
    let before = times(&tree);
    let changed = (0..100_000).any(|_| {
        let (valid, attr) = set(CTIME, 0, 0);
        s.setattr(2, valid, &attr).unwrap();
        times(&tree) != before
    });
    assert!(changed);
}

#[test]
fn setattr_of_a_symlink_touches_the_link_and_its_mode_is_eopnotsupp() {
    let tree = Tree::new();
    tree.file("a", b"text");
    tree.link("l", "a");
    lchown(tree.path("l"), Some(1), Some(1)).unwrap();
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "l").unwrap();
    let (valid, mut attr) = set(
        UID | ATIME | ATIME_GIVEN | MTIME | MTIME_GIVEN | CTIME,
        0,
        0,
    );
    (attr.uid, attr.atime, attr.mtime) = (9, 10, 11);
    s.setattr(2, valid, &attr).unwrap();
    let link = tree.stat("l");
    assert_eq!((link.uid(), link.atime(), link.mtime()), (9, 10, 11));
    assert_eq!(tree.stat("a").uid(), 0);
    let (valid, attr) = set(MODE | CTIME, 0o600, 0);
    refused(s.setattr(2, valid, &attr), Errno::EOPNOTSUPP);
    assert_eq!(tree.stat("a").mode() & 0o7777, 0o644);
}

#[test]
fn setattr_of_files_without_any_permission_is_served() {
    let tree = Tree::new();
    tree.file("a", b"text");
    tree.dir("d");
    for name in ["a", "d"] {
        chmod(&tree.path(name), 0);
    }
    let mut s = linux(&tree);
    for (fid, name) in [(2, "a"), (3, "d")] {
        s.walk_to(ROOT, fid, name).unwrap();
        let (valid, mut attr) = set(MODE | MTIME | MTIME_GIVEN | CTIME, 0o100, 0);
        attr.mtime = 5;
        s.setattr(fid, valid, &attr).unwrap();
        assert_eq!(
            (tree.stat(name).mode() & 0o7777, tree.stat(name).mtime()),
            (0o100, 5)
        );
    }
}

// ---- names ----

#[test]
fn deleted_files_are_usable_by_open_and_by_walked_fids() {
    let tree = Tree::new();
    tree.file("a", b"text");
    tree.link("l", "target");
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    s.open(ROOT, 3, "a", O_RDWR).unwrap();
    s.walk_to(ROOT, 4, "l").unwrap();
    for name in [b"a", b"l"] {
        s.unlinkat(ROOT, name, 0).unwrap();
    }
    for fid in [2, 3] {
        assert_eq!(s.getattr(fid, 0).unwrap().attr.nlink, 0);
        let (valid, mut attr) = set(MODE | SIZE | UID | MTIME | MTIME_GIVEN | CTIME, 0o640, 3);
        (attr.uid, attr.mtime) = (fid, 9);
        s.setattr(fid, valid, &attr).unwrap();
        let now = s.getattr(fid, 0).unwrap().attr;
        assert_eq!(
            (now.mode & 0o7777, now.uid, now.size, now.mtime),
            (0o640, fid, 3, 9)
        );
    }
    s.walk_to(2, 5, "").unwrap();
    s.lopen(5, O_RDWR).unwrap(); // as by /proc/self/fd
    s.write(5, 3, Data(b"t!")).unwrap();
    s.fsync(5, 1).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"text!"[..].to_vec());
    assert_eq!(s.readlink(4).unwrap().target, b"target");
    refused(s.link(ROOT, 2, b"again"), Errno::ENOENT);
    refused(s.rename(2, ROOT, b"again"), Errno::ENOENT);
    refused(s.remove(2), Errno::ENOENT);
}

#[test]
fn directory_that_is_deleted_is_enoent() {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    s.open(ROOT, 3, "d", O_RDONLY).unwrap();
    s.unlinkat(ROOT, b"d", octal(libc::AT_REMOVEDIR)).unwrap();
    assert_eq!(
        s.getattr(2, 0).unwrap().attr.mode & libc::S_IFMT,
        libc::S_IFDIR
    );
    refused(s.mkdir(2, b"x", 0o755, 0), Errno::ENOENT);
    refused(s.walk_to(2, 4, "x"), Errno::ENOENT);
    refused(s.readdir(3, 0, 4096), Errno::ENOENT);
    refused(s.renameat(ROOT, b"a", 2, b"b"), Errno::ENOENT);
}

#[test]
fn names_below_a_file_are_enotdir() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    refused(s.walk_to(2, 3, "x"), Errno::ENOTDIR);
    refused(s.walk_to(ROOT, 3, "a/x"), Errno::ENOTDIR);
    refused(s.mkdir(2, b"x", 0o755, 0), Errno::ENOTDIR);
    refused(s.unlinkat(2, b"x", 0), Errno::ENOTDIR);
}

/// The forms that Linux tries where a server says EOPNOTSUPP to the others.
#[test]
fn remove_and_rename_by_fid_serve_files_and_directories() {
    let tree = Tree::new();
    tree.file("a", b"");
    tree.dir("d");
    let mut s = linux(&tree);
    for (fid, name) in [(2, "a"), (3, "d")] {
        s.walk_to(ROOT, fid, name).unwrap();
        s.rename(fid, ROOT, format!("{name}2").as_bytes()).unwrap();
        s.remove(fid).unwrap();
        refused(s.getattr(fid, 0), Errno::EBADF);
    }
    assert_eq!(fs::read_dir(tree.root()).unwrap().count(), 0);
    tree.dir("full/x");
    s.walk_to(ROOT, 2, "full").unwrap();
    refused(s.remove(2), Errno::ENOTEMPTY);
}

#[test]
fn path_deeper_than_path_max_is_served_name_by_name() {
    let tree = Tree::new();
    let mut s = linux(&tree);
    let name = [b'\xfe'; 255];
    s.walk_to(ROOT, 2, "").unwrap();
    const DEPTH: usize = 40; // 10,240 bytes
    for _ in 0..DEPTH {
        s.mkdir(2, &name, 0o755, 0).unwrap();
        s.walk(2, 2, &[&name]).unwrap();
    }
    s.walk_to(2, 3, "").unwrap();
    s.lcreate(3, b"a", O_RDWR, 0o644, 0).unwrap();
    s.write(3, 0, Data(b"deep")).unwrap();
    s.walk(ROOT, 4, &[&name[..]; DEPTH]).unwrap();
    s.open(4, 5, "a", O_RDONLY).unwrap();
    assert_eq!(s.read_all(5).unwrap(), b"deep");
    s.renameat(ROOT, &name, ROOT, b"top").unwrap();
    s.unlinkat(4, b"a", 0).unwrap();
}

#[test]
fn names_of_255_arbitrary_bytes_are_served() {
    let tree = Tree::new();
    let mut s = linux(&tree);
    let all: Vec<u8> = (1..=255).filter(|&byte| byte != b'/').collect();
    let name = [all.as_slice(), b"x"].concat();
    assert_eq!(name.len(), 255);
    s.mkdir(ROOT, &name, 0o755, 0).unwrap();
    s.walk(ROOT, 2, &[&name]).unwrap();
    s.open(ROOT, 3, "", O_RDONLY).unwrap();
    assert!(
        s.list(3, 8168)
            .unwrap()
            .iter()
            .any(|entry| entry.name == name)
    );
    let longer = [name.as_slice(), b"y"].concat();
    refused(s.mkdir(ROOT, &longer, 0o755, 0), Errno::ENAMETOOLONG);
}

#[test]
fn fsync_with_and_without_datasync_is_served() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    s.open(ROOT, 2, "a", O_RDWR).unwrap();
    for datasync in [0, 1] {
        s.fsync(2, datasync).unwrap();
    }
    assert_eq!(s.raw(50, &2u32.to_le_bytes()).unwrap().kind, 51);
}

#[test]
fn mkdir_in_a_set_group_id_directory_inherits_it() {
    let tree = Tree::new();
    tree.dir("d");
    chown(tree.path("d"), None, Some(77)).unwrap();
    fs::set_permissions(tree.path("d"), fs::Permissions::from_mode(0o2777)).unwrap();
    let mut s = linux(&tree);
    attach_user(&mut s, 2, 1000);
    s.walk_to(2, 3, "d").unwrap();
    s.mkdir(3, b"x", 0o2755, 77).unwrap();
    let made = tree.stat("d/x");
    assert_eq!(
        (made.mode() & 0o7777, made.uid(), made.gid()),
        (0o2755, 1000, 77)
    );
}

/// Of a count Linux 6.12 would send the rest, and upon its error the whole again, and count both.
#[test]
fn write_of_linux_that_fails_half_way_is_its_error() {
    for flags in [O_RDWR, O_RDWR | libc::O_APPEND.cast_unsigned()] {
        let tree = Tree::new();
        tree.dir("small");
        write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
        let launch = Launch::new(&tree.bundle(), 1);
        let mut s = session_of(launch.tmpfs(&tree.path("small"), c"size=64k"));
        speak(&mut s);
        s.walk_to(ROOT, 2, "small").unwrap();
        s.lcreate(2, b"full", flags, 0o600, 0).unwrap();
        let content = vec![b'w'; 200_000];
        refused(s.write(2, 0, Data(&content)), Errno::ENOSPC);
        // What was written is there, as after a write(2) that fails.
        assert_eq!(s.read_all(2).unwrap(), content[..65_536], "{flags:o}");
    }
}
