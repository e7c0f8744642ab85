//! Tread, Twrite, Tfsync: docs/protocol.md 3.8.

use crate::harness::{
    Launch, ROOT, Session, Tree, serve, serve_read_only, session_of, spec, write_spec,
};
use crate::p9::{Data, MSIZE, O_RDONLY, O_RDWR, O_WRONLY, frame, refused, t};
use nix::errno::Errno;

/// A tree with a file `a`, and fid 2 opened on it.
fn with_file(content: &[u8], flags: u32) -> (Tree, Session) {
    let tree = Tree::new();
    tree.file("a", content);
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", flags).unwrap();
    (tree, s)
}

/// Bytes that differ everywhere.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect()
}

#[test]
fn read_gives_what_was_asked_for() {
    let (_tree, mut s) = with_file(b"0123456789", O_RDONLY);
    assert_eq!(s.read(2, 0, 10).unwrap().data.0, b"0123456789");
    assert_eq!(s.read(2, 3, 4).unwrap().data.0, b"3456");
    assert_eq!(s.read(2, 8, 100).unwrap().data.0, b"89");
}

#[test]
fn read_at_or_behind_the_end_is_empty() {
    let (_tree, mut s) = with_file(b"0123456789", O_RDONLY);
    assert_eq!(s.read(2, 10, 100).unwrap().data.0, b"");
    assert_eq!(s.read(2, 1 << 40, 100).unwrap().data.0, b"");
}

#[test]
fn read_of_0_bytes_is_empty() {
    let (_tree, mut s) = with_file(b"0123456789", O_RDONLY);
    assert_eq!(s.read(2, 0, 0).unwrap().data.0, b"");
}

#[test]
fn read_of_the_clients_largest_payload_is_whole() {
    let content = pattern(1_048_064 + 5);
    let (_tree, mut s) = with_file(&content, O_RDONLY);
    assert_eq!(
        s.read(2, 0, 1_048_064).unwrap().data.0,
        content[..1_048_064]
    );
    assert_eq!(
        s.read(2, 1_048_064, 1_048_064).unwrap().data.0,
        content[1_048_064..]
    );
}

/// The original sends more than the msize.
#[test]
fn read_is_cut_to_the_msize() {
    let content = pattern(2 << 20);
    let (_tree, mut s) = with_file(&content, O_RDONLY);
    let whole = MSIZE as usize - 11;
    for count in [MSIZE, MSIZE - 10, MSIZE - 11] {
        assert_eq!(s.read(2, 0, count).unwrap().data.0, content[..whole]);
    }
    s.version(4096, b"9P2000.L.Google.7").unwrap();
    for count in [MSIZE, 8000, 4086, 4085] {
        assert_eq!(s.read(2, 7, count).unwrap().data.0, content[7..7 + 4085]);
    }
    assert_eq!(s.read(2, 7, 4084).unwrap().data.0, content[7..7 + 4084]);
}

#[test]
fn read_of_an_unknown_fid_is_ebadf() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.read(99, 0, 1), Errno::EBADF);
    refused(s.read(99, 0, MSIZE + 1), Errno::EBADF); // before the count
}

#[test]
fn read_of_more_than_1_mib_is_enobufs_before_anything_of_the_fid() {
    let (_tree, mut s) = with_file(b"0123456789", O_WRONLY);
    refused(s.read(ROOT, 0, MSIZE + 1), Errno::ENOBUFS);
    refused(s.read(2, 0, MSIZE + 1), Errno::ENOBUFS);
    refused(s.read(2, 0, u32::MAX), Errno::ENOBUFS);
}

#[test]
fn read_of_an_unopened_fid_is_einval() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    refused(s.read(2, 0, 4), Errno::EINVAL);
    refused(s.read(ROOT, 0, 4), Errno::EINVAL);
}

#[test]
fn read_of_a_write_only_fid_is_eperm() {
    let (_tree, mut s) = with_file(b"0123456789", O_WRONLY);
    refused(s.read(2, 0, 4), Errno::EPERM);
}

#[test]
fn read_of_a_directory_is_eisdir() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "").unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    refused(s.read(2, 0, 4), Errno::EISDIR);
}

#[test]
fn read_at_a_negative_offset_is_einval() {
    let (_tree, mut s) = with_file(b"0123456789", O_RDONLY);
    refused(s.read(2, 1 << 63, 4), Errno::EINVAL);
    refused(s.read(2, u64::MAX, 4), Errno::EINVAL);
}

#[test]
fn read_sees_what_the_host_has_written_since() {
    let (tree, mut s) = with_file(b"old", O_RDONLY);
    tree.file("a", b"newer");
    assert_eq!(s.read_all(2).unwrap(), b"newer");
}

#[test]
fn read_on_a_read_only_attach_point_is_served() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve_read_only(&tree);
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"text");
}

/// Replies of many times the send buffer, taken one by one.
#[test]
fn read_many_large_pieces_in_one_write_gives_each_whole() {
    let content = pattern(3 << 20);
    let (_tree, s) = with_file(&content, O_RDONLY);
    let offset = |tag: u16| usize::from(tag) * 33_333;
    let all: Vec<u8> = (0..60)
        .flat_map(|tag| t::read(tag, 2, offset(tag) as u64, 1_000_000))
        .collect();
    s.send(&all).unwrap();
    for tag in 0..60 {
        let data = s
            .recv()
            .unwrap()
            .answer::<crate::p9::Rread>(116, tag)
            .unwrap()
            .data
            .0;
        assert!(
            data == content[offset(tag)..offset(tag) + 1_000_000],
            "piece {tag}"
        );
    }
}

#[test]
fn write_writes_at_its_offset() {
    let (tree, mut s) = with_file(b"0123456789", O_RDWR);
    assert_eq!(s.write(2, 3, Data(b"abc")).unwrap().count, 3);
    assert_eq!(tree.read("a"), b"012abc6789");
    assert_eq!(s.write(2, 12, Data(b"z")).unwrap().count, 1);
    assert_eq!(tree.read("a"), b"012abc6789\0\0z");
}

#[test]
fn write_of_0_bytes_changes_nothing() {
    let (tree, mut s) = with_file(b"0123456789", O_WRONLY);
    assert_eq!(s.write(2, 50, Data(b"")).unwrap().count, 0);
    assert_eq!(tree.read("a"), b"0123456789");
}

#[test]
fn write_of_the_largest_frames_is_whole() {
    for length in [1_048_064, MSIZE as usize - 23] {
        let content = pattern(length);
        let (tree, mut s) = with_file(b"", O_WRONLY);
        assert_eq!(
            s.write(2, 0, Data(&content)).unwrap().count as usize,
            length
        );
        assert!(tree.read("a") == content);
    }
}

#[test]
fn write_of_an_unknown_fid_is_ebadf() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.write(99, 0, Data(b"x")), Errno::EBADF);
}

#[test]
fn write_of_an_unopened_fid_is_einval() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    refused(s.write(2, 0, Data(b"x")), Errno::EINVAL);
    assert_eq!(tree.read("a"), b"text");
}

#[test]
fn write_of_a_read_only_fid_is_eperm() {
    let (tree, mut s) = with_file(b"0123456789", O_RDONLY);
    refused(s.write(2, 0, Data(b"x")), Errno::EPERM);
    assert_eq!(tree.read("a"), b"0123456789");
    s.walk_to(ROOT, 3, "").unwrap();
    s.lopen(3, O_RDONLY).unwrap();
    refused(s.write(3, 0, Data(b"x")), Errno::EPERM);
}

#[test]
fn write_at_a_negative_offset_is_einval() {
    let (tree, mut s) = with_file(b"0123456789", O_RDWR);
    refused(s.write(2, 1 << 63, Data(b"x")), Errno::EINVAL);
    refused(s.write(2, u64::MAX, Data(b"x")), Errno::EINVAL);
    assert_eq!(tree.read("a"), b"0123456789");
}

/// The original loses the count.
#[test]
fn write_that_fails_half_way_says_how_much_was_written() {
    let tree = Tree::new();
    tree.dir("small");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).tmpfs(&tree.path("small"), c"size=64k"));
    s.walk_to(ROOT, 2, "small").unwrap();
    s.lcreate(2, b"full", O_RDWR, 0o600, 0).unwrap();
    let content = pattern(200_000);
    let count = s.write(2, 0, Data(&content)).unwrap().count;
    assert!(count > 0 && count <= 65_536, "{count}");
    assert_eq!(s.read_all(2).unwrap(), content[..count as usize]);
    refused(s.write(2, u64::from(count), Data(&content)), Errno::ENOSPC);
}

#[test]
fn write_whose_count_is_not_that_of_its_bytes_is_eio_on_its_own_tag() {
    let (tree, s) = with_file(b"0123456789", O_RDWR);
    for count in [0u32, 2, 4, 1000, u32::MAX] {
        let mut request = t::write(77, 2, 0, Data(b"abc"));
        request[19..23].copy_from_slice(&count.to_le_bytes());
        s.send(&request).unwrap();
        let reply = s.recv().unwrap();
        assert_eq!(reply.tag, 77);
        assert_eq!(reply.errno(), Errno::EIO, "count {count}");
    }
    for length in 0..16 {
        let whole = t::write(78, 2, 0, Data(b""));
        s.send(&frame(118, 78, &whole[7..7 + length])).unwrap();
        let reply = s.recv().unwrap();
        assert_eq!(reply.tag, 78);
        assert_eq!(reply.errno(), Errno::EIO, "{length} bytes of body");
    }
    assert_eq!(tree.read("a"), b"0123456789");
}

#[test]
fn fsync_of_opened_files_and_directories_is_served() {
    let (_tree, mut s) = with_file(b"0123456789", O_RDWR);
    s.write(2, 0, Data(b"x")).unwrap();
    s.fsync(2, 0).unwrap();
    s.fsync(2, 1).unwrap();
    s.walk_to(ROOT, 3, "").unwrap();
    s.lopen(3, O_RDONLY).unwrap();
    s.fsync(3, 0).unwrap();
}

#[test]
fn fsync_without_the_datasync_field_is_served() {
    let (_tree, mut s) = with_file(b"0123456789", O_RDONLY);
    assert_eq!(s.raw(50, &2u32.to_le_bytes()).unwrap().kind, 51);
}

#[test]
fn fsync_of_an_unopened_fid_is_einval_and_of_an_unknown_one_ebadf() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.fsync(ROOT, 0), Errno::EINVAL);
    refused(s.fsync(99, 0), Errno::EBADF);
}
