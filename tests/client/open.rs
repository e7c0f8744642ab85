//! Tlopen: docs/protocol.md 3.3, 3.7.

use crate::harness::{ROOT, Tree, serve, serve_read_only, status_flags};
use crate::p9::{Data, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, refused, t};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

const ACCMODE: OFlag = OFlag::O_ACCMODE;

#[test]
fn lopen_of_a_file_gives_its_qid_iounit_0_and_a_descriptor() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    let qid = s.walk_to(ROOT, 2, "a").unwrap()[0].clone();
    let open = s.lopen(2, O_RDONLY).unwrap();
    assert_eq!((open.qid, open.iounit), (qid, 0));
    let mut file = File::from(open.fd.expect("a donated descriptor"));
    assert_eq!(file.metadata().unwrap().ino(), tree.stat("a").ino());
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
}

#[test]
fn lopen_donates_a_nonblocking_descriptor_of_the_asked_mode() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    for (flags, mode) in [
        (O_RDONLY, OFlag::O_RDONLY),
        (O_WRONLY, OFlag::O_WRONLY),
        (O_RDWR, OFlag::O_RDWR),
    ] {
        let open = s.open(ROOT, 2, "a", flags).unwrap();
        let status = status_flags(&open.fd.expect("a donated descriptor"));
        assert_eq!(status & ACCMODE, mode);
        assert!(status.contains(OFlag::O_NONBLOCK), "{status:?}");
        assert!(!status.contains(OFlag::O_PATH), "{status:?}");
    }
}

#[test]
fn lopen_donated_descriptor_of_a_reader_cannot_write() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    let file = File::from(s.open(ROOT, 2, "a", O_RDONLY).unwrap().fd.unwrap());
    assert_eq!(
        file.write_at(b"x", 0).unwrap_err().raw_os_error(),
        Some(Errno::EBADF as i32)
    );
}

#[test]
fn lopen_donated_descriptor_and_messages_see_each_other() {
    let tree = Tree::new();
    tree.file("a", b"0000000000");
    let mut s = serve(&tree);
    let mut file = File::from(s.open(ROOT, 2, "a", O_RDWR).unwrap().fd.unwrap());
    file.write_all(b"12345").unwrap(); // moves the offset, which is shared
    assert_eq!(s.read(2, 0, 100).unwrap().data.0, b"1234500000");
    s.write(2, 8, Data(b"89")).unwrap();
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "00089");
}

#[test]
fn lopen_donated_descriptor_outlives_the_fid() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    let file = File::from(s.open(ROOT, 2, "a", O_RDONLY).unwrap().fd.unwrap());
    s.clunk(2).unwrap();
    let mut buffer = [0; 4];
    file.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"text");
}

/// Each descriptor comes with the header of its own reply, though the replies are gathered.
#[test]
fn lopen_many_at_once_pairs_descriptors_with_replies() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    let mut requests = Vec::new();
    for number in 0..60u16 {
        let name = format!("f{number}");
        tree.file(&name, name.as_bytes());
        s.walk_to(ROOT, 100 + u32::from(number), &name).unwrap();
        requests.extend(t::getattr(1000 + number, ROOT, 0));
        requests.extend(t::lopen(number, 100 + u32::from(number), O_RDONLY));
        requests.extend(t::getattr(2000 + number, ROOT, 0));
    }
    s.send(&requests).unwrap();
    for number in 0..60u16 {
        assert!(s.recv().unwrap().fd.is_none());
        let open = s.recv().unwrap();
        assert_eq!((open.kind, open.tag), (13, number));
        let mut text = String::new();
        File::from(open.fd.expect("a descriptor"))
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, format!("f{number}"));
        assert!(s.recv().unwrap().fd.is_none());
    }
}

#[test]
fn lopen_of_an_unknown_fid_is_ebadf() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.lopen(99, O_RDONLY), Errno::EBADF);
}

#[test]
fn lopen_twice_is_einval() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    refused(s.lopen(2, O_RDONLY), Errno::EINVAL);
    refused(s.lopen(2, O_RDWR | O_TRUNC), Errno::EINVAL);
    assert_eq!(tree.read("a"), b"text");
    s.walk_to(ROOT, 3, "").unwrap();
    s.lopen(3, O_RDONLY).unwrap();
    refused(s.lopen(3, O_RDWR), Errno::EINVAL); // before EISDIR
}

#[test]
fn lopen_that_failed_may_be_tried_again() {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    refused(s.lopen(2, O_RDWR), Errno::EISDIR);
    s.lopen(2, O_RDONLY).unwrap();
}

#[test]
fn lopen_of_a_clone_of_an_unopened_fid_is_independent() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    s.walk_to(2, 3, "").unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    s.lopen(3, O_RDWR).unwrap();
    s.clunk(2).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"text");
}

#[test]
fn lopen_of_a_symlink_is_einval() {
    let tree = Tree::new();
    tree.file("a", b"");
    tree.link("l", "a");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "l").unwrap();
    refused(s.lopen(2, O_RDONLY), Errno::EINVAL);
    refused(s.lopen(2, O_RDWR | O_TRUNC), Errno::EINVAL);
}

#[test]
fn lopen_of_a_directory_gives_no_descriptor() {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = serve(&tree);
    let open = s.open(ROOT, 2, "d", O_RDONLY).unwrap();
    assert!(open.fd.is_none());
    assert_eq!(open.iounit, 0);
}

#[test]
fn lopen_of_a_directory_for_writing_is_eisdir() {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    for flags in [O_WRONLY, O_RDWR, 3, O_TRUNC, O_RDWR | O_TRUNC] {
        refused(s.lopen(2, flags), Errno::EISDIR);
    }
}

#[test]
fn lopen_for_writing_on_a_read_only_attach_point_is_erofs() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve_read_only(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    for flags in [
        O_WRONLY,
        O_RDWR,
        O_TRUNC,
        O_WRONLY | O_TRUNC,
        O_RDWR | O_TRUNC,
    ] {
        refused(s.lopen(2, flags), Errno::EROFS);
    }
    let open = s.lopen(2, O_RDONLY).unwrap();
    assert_eq!(status_flags(&open.fd.unwrap()) & ACCMODE, OFlag::O_RDONLY);
    assert_eq!(tree.read("a"), b"text");
}

#[test]
fn lopen_of_a_directory_for_writing_on_a_read_only_attach_point_is_eisdir() {
    let tree = Tree::new();
    let mut s = serve_read_only(&tree);
    s.walk_to(ROOT, 2, "").unwrap();
    refused(s.lopen(2, O_RDWR), Errno::EISDIR);
}

#[test]
fn lopen_of_a_symlink_on_a_read_only_attach_point_is_einval() {
    let tree = Tree::new();
    tree.link("l", "a");
    let mut s = serve_read_only(&tree);
    s.walk_to(ROOT, 2, "l").unwrap();
    refused(s.lopen(2, O_RDWR), Errno::EINVAL);
}

#[test]
fn lopen_with_o_trunc_truncates() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    for flags in [O_TRUNC, O_WRONLY | O_TRUNC, O_RDWR | O_TRUNC] {
        tree.file("a", b"text");
        let open = s.open(ROOT, 2, "a", flags).unwrap();
        assert_eq!(tree.read("a"), b"");
        assert!(open.fd.is_some());
    }
    tree.file("a", b"text");
    s.open(ROOT, 2, "a", O_RDWR).unwrap();
    assert_eq!(tree.read("a"), b"text");
}

/// `O_CREAT`, `O_EXCL`, `O_NOCTTY`, `O_APPEND`, `O_NONBLOCK`, `O_DSYNC`, `O_DIRECT`, `O_LARGEFILE`,
/// `O_DIRECTORY`, `O_NOFOLLOW`, `O_NOATIME`, `O_CLOEXEC`, `O_SYNC`, `O_PATH`, `O_TMPFILE` as Linux on
/// x86 numbers them, and bits that mean nothing.
const IGNORED: [u32; 17] = [
    0o100,
    0o200,
    0o400,
    0o2000,
    0o4000,
    0o10000,
    0o40000,
    0o100_000,
    0o200_000,
    0o400_000,
    0o1_000_000,
    0o2_000_000,
    0o4_010_000,
    0o10_000_000,
    0o20_200_000,
    0x4000_0000,
    0x8000_0000,
];

#[test]
fn lopen_ignores_all_other_flags() {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = serve(&tree);
    for flag in IGNORED {
        tree.file("a", b"0123456789");
        s.open(ROOT, 2, "a", O_RDWR | flag).unwrap();
        assert_eq!(s.read(2, 3, 3).unwrap().data.0, b"345", "{flag:o}");
        assert_eq!(s.write(2, 1, Data(b"x")).unwrap().count, 1, "{flag:o}");
        assert_eq!(tree.read("a"), b"0x23456789", "{flag:o}");
        s.open(ROOT, 3, "d", O_RDONLY | flag).unwrap();
        assert_eq!(s.list(3, 4096).unwrap(), []);
    }
    s.open(ROOT, 2, "a", O_RDONLY | 0x8000).unwrap(); // as Linux always sends it
}

#[test]
fn lopen_mode_3_opens_and_neither_reads_nor_writes() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", 3).unwrap();
    refused(s.read(2, 0, 4), Errno::EBADF);
    refused(s.write(2, 0, Data(b"x")), Errno::EBADF);
    assert_eq!(tree.read("a"), b"text");
}

#[test]
fn lopen_of_a_file_nobody_may_read_is_served() {
    let tree = Tree::new();
    tree.file("a", b"text");
    std::os::unix::fs::chown(tree.path("a"), Some(65534), Some(65534)).unwrap();
    crate::harness::chmod(&tree.path("a"), 0);
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_RDWR).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"text");
}

/// The file is re-opened by its descriptor, not by its name.
#[test]
fn lopen_of_a_file_unlinked_by_the_host_is_served() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    fs::remove_file(tree.path("a")).unwrap();
    let open = s.lopen(2, O_RDWR).unwrap();
    assert!(open.fd.is_some());
    assert_eq!(s.read_all(2).unwrap(), b"text");
}

#[test]
fn lopen_of_a_file_replaced_by_the_host_opens_the_one_walked_to() {
    let tree = Tree::new();
    tree.file("a", b"walked to");
    tree.file("b", b"another");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    fs::rename(tree.path("b"), tree.path("a")).unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"walked to");
}

/// The host's errno comes through as it is.
#[test]
fn lopen_for_writing_of_a_running_program_is_etxtbsy() {
    let tree = Tree::new();
    crate::harness::copy_binary(&tree.path("program"));
    let runs_it = crate::harness::Launch::new(&tree.bundle(), 1).binary(&tree.path("program"));
    crate::harness::write_spec(
        &tree.bundle(),
        &crate::harness::spec(&tree.root(), false, &[]),
    );
    let mut s = crate::harness::session_of(runs_it);
    s.walk_to(ROOT, 2, "program").unwrap();
    refused(s.lopen(2, O_RDWR), Errno::ETXTBSY);
    s.lopen(2, O_RDONLY).unwrap();
}
