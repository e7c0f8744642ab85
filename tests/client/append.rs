//! What a Twrite to a fid for appending is: of clients that write pages back, of direct ones, and of those of which
//! nothing is known yet. The table itself is tested in `src/fs/append.rs`.

use crate::harness::{
    Gofer, Launch, Mount, Namespace, ROOT, Session, Tree, chmod, expect_descriptors, file_of,
    serve_mounts, session_of, spec, write_spec,
};
use crate::linux::{linux, speak};
use crate::p9::{Client, Data, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, SetAttr, refused};
use gofer::limits::MARKS;
use nix::errno::Errno;
use nix::libc;
use std::fs;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;

const APPEND: u32 = libc::O_APPEND.cast_unsigned();
const SIZE: u32 = 0x8;

#[track_caller]
fn write(client: &mut Client, fid: u32, offset: u64, data: &[u8]) {
    let count = client.write(fid, offset, Data(data)).unwrap().count;
    assert_eq!(count as usize, data.len());
}

/// The host's own append.
fn grow(tree: &Tree, name: &str, text: &[u8]) {
    let mut file = OpenOptions::new()
        .append(true)
        .open(tree.path(name))
        .unwrap();
    file.write_all(text).unwrap();
}

fn cut(tree: &Tree, name: &str, size: u64) {
    let file = OpenOptions::new()
        .write(true)
        .open(tree.path(name))
        .unwrap();
    file.set_len(size).unwrap();
}

/// Whether the host's file is open, and with O_APPEND; that of one fid at a time.
#[track_caller]
fn opened(gofer: &Gofer, path: &Path) -> Option<bool> {
    let file = file_of(path);
    let mut found = None;
    for (number, _) in gofer.descriptors().unwrap() {
        if file_of(gofer.proc(&format!("fd/{number}"))) != file {
            continue;
        }
        let text = gofer.proc_text(&format!("fdinfo/{number}")).unwrap();
        let flags = text
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        if flags & libc::O_PATH == 0 {
            assert_eq!(found, None, "open twice");
            found = Some(flags & libc::O_APPEND != 0);
        }
    }
    found
}

#[track_caller]
fn is_marked(s: &Session, tree: &Tree, name: &str) -> bool {
    !opened(&s.gofer, &tree.path(name)).unwrap()
}

/// Shows the server that pages are written back, as a client does that appends "one" and then "two" to one page.
#[track_caller]
fn show_pages(tree: &Tree, client: &mut Client, dir: &str) {
    client.walk_to(ROOT, 90, "").unwrap();
    client
        .lcreate(90, b"shown", O_RDWR | APPEND, 0o644, 0)
        .unwrap();
    write(client, 90, 0, b"one\n");
    write(client, 90, 0, b"one\ntwo\n");
    assert_eq!(tree.read(&format!("{dir}shown")), b"one\ntwo\n");
    client.clunk(90).unwrap();
}

/// Serves `a`, of ten bytes, to a client that writes pages back; it is open for appending as fid 2.
fn with_pages() -> (Tree, Session) {
    let tree = Tree::new();
    tree.file("a", b"0123456789");
    let mut s = linux(&tree);
    show_pages(&tree, &mut s, "");
    s.open(ROOT, 2, "a", O_RDWR | APPEND).unwrap();
    (tree, s)
}

// ---- a client of which nothing is known ----

#[test]
fn unknown_client_loses_no_append_of_processes_that_know_the_same_end() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    for fid in [2, 3] {
        s.open(ROOT, fid, "a", O_RDWR | APPEND).unwrap();
    }
    write(&mut s, 2, 4, b" one");
    write(&mut s, 3, 4, b" two and more");
    write(&mut s, 2, 8, b" three");
    write(&mut s, 3, 100, b" four");
    assert_eq!(tree.read("a"), b"text one two and more three four");
}

/// Offset 0 is where a page begins too.
#[test]
fn unknown_client_loses_no_append_at_the_start_of_an_empty_file() {
    let tree = Tree::new();
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "").unwrap();
    s.lcreate(2, b"a", O_RDWR | APPEND, 0o644, 0).unwrap();
    for line in ["a\n", "a\n", "b\n", "bbbb\n", "", "a", "c\n"] {
        write(&mut s, 2, 0, line.as_bytes());
    }
    assert_eq!(tree.read("a"), b"a\na\nb\nbbbb\nac\n");
}

#[test]
fn unknown_client_loses_no_append_of_whole_pages() {
    let tree = Tree::new();
    tree.file("a", [b'.'; 4096]);
    let mut s = linux(&tree);
    s.open(ROOT, 2, "a", O_RDWR | APPEND).unwrap();
    let mut wanted = vec![b'.'; 4096];
    for byte in [b'a', b'b', b'b', b'c'] {
        write(&mut s, 2, 4096, &[byte; 4096]);
        wanted.extend([byte; 4096]);
    }
    assert_eq!(tree.read("a"), wanted);
}

/// No process can have seen the end there: a store to a map of a file that was long when it was opened, or made long.
/// Several processes append at once: the file is longer than their client knows. The last line begins as that which is
/// where its writer takes the end to be, as lines of a log do.
#[test]
fn unknown_client_loses_no_append_where_the_file_is_longer_than_it_knows() {
    let tree = Tree::new();
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "").unwrap();
    s.lcreate(2, b"a", O_RDWR | APPEND, 0o644, 0).unwrap();
    write(&mut s, 2, 0, &[b'a'; 8100]);
    write(&mut s, 2, 8000, &[b'b'; 92]); // the file ends at 8192, the client knows of 8100
    let first = format!("p1 line 1 {}\n", ".".repeat(83));
    write(&mut s, 2, 8100, first.as_bytes()); // it knows of 8194
    let second = format!("p1 line 2 {}\n", ".".repeat(83));
    write(&mut s, 2, 8192, second.as_bytes());
    let third = "p2 line 1\n"; // and no page was seen
    write(&mut s, 2, 4096, third.as_bytes());
    let begun = [&[b'a'; 8100][..], &[b'b'; 92]].concat();
    let wanted = [
        &begun[..],
        first.as_bytes(),
        second.as_bytes(),
        third.as_bytes(),
    ]
    .concat();
    assert!(tree.read("a") == wanted);
}

/// Rgetattr of two sizes may come to a process in the other order, and its end is then before that of the open.
#[test]
fn unknown_client_loses_no_line_of_a_process_that_takes_the_end_to_be_earlier() {
    let tree = Tree::new();
    tree.file("a", [b'.'; 9000]);
    let mut s = linux(&tree);
    s.open(ROOT, 2, "a", O_RDWR | APPEND).unwrap();
    write(&mut s, 2, 0, b"line\n");
    write(&mut s, 2, 4096, b"line\n");
    assert_eq!(
        tree.read("a"),
        [&[b'.'; 9000][..], b"line\nline\n"].concat()
    );
}

/// One process has not looked since before the file grew and was cut.
#[test]
fn unknown_client_loses_no_append_behind_a_cut_of_the_hosts() {
    let tree = Tree::new();
    tree.file("a", [b'.'; 4096]);
    let mut s = linux(&tree);
    s.open(ROOT, 2, "a", O_RDWR | APPEND).unwrap();
    write(&mut s, 2, 4096, &[b'1'; 8192]);
    cut(&tree, "a", 0);
    grow(&tree, "a", &[b'h'; 8192]);
    assert_eq!(s.getattr(2, SIZE.into()).unwrap().attr.size, 8192);
    write(&mut s, 2, 4096, &[b'2'; 4096]);
    assert_eq!(
        tree.read("a"),
        [[b'h'; 4096], [b'h'; 4096], [b'2'; 4096]].concat()
    );
}

/// Linux has a size for each name of a file, and is told of one alone.
#[test]
fn unknown_client_loses_no_append_after_a_cut_by_another_name() {
    let tree = Tree::new();
    tree.file("a", [b'.'; 8192]);
    fs::hard_link(tree.path("a"), tree.path("b")).unwrap();
    let mut s = linux(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    assert_eq!(s.getattr(2, SIZE.into()).unwrap().attr.size, 8192);
    s.walk_to(ROOT, 3, "b").unwrap();
    let attr = SetAttr {
        size: 4096,
        ..SetAttr::default()
    };
    s.setattr(3, SIZE, &attr).unwrap();
    s.lopen(2, O_RDWR | APPEND).unwrap();
    for byte in [b'1', b'2'] {
        write(&mut s, 2, 4096, &[byte; 4096]);
    }
    assert_eq!(
        tree.read("a"),
        [[b'.'; 4096], [b'1'; 4096], [b'2'; 4096]].concat()
    );
}

#[test]
fn unknown_client_loses_no_append_to_a_file_that_is_open_by_two_names() {
    let tree = Tree::new();
    tree.file("a", b"");
    fs::hard_link(tree.path("a"), tree.path("b")).unwrap();
    let mut s = linux(&tree);
    // One name is looked at while the file is empty, and opened when it is not.
    s.walk_to(ROOT, 2, "a").unwrap();
    assert_eq!(s.getattr(2, SIZE.into()).unwrap().attr.size, 0);
    grow(&tree, "a", &[b'.'; 4096]);
    s.open(ROOT, 3, "b", O_RDWR | APPEND).unwrap();
    s.lopen(2, O_RDWR | APPEND).unwrap();
    write(&mut s, 2, 0, &[b'a'; 4096]);
    assert_eq!(tree.read("a"), [[b'.'; 4096], [b'a'; 4096]].concat());
    // What begins as the file does is a line too.
    let attr = SetAttr::default();
    s.setattr(3, SIZE, &attr).unwrap();
    write(&mut s, 3, 0, b"head\n");
    write(&mut s, 2, 0, b"head\nrow\n");
    assert_eq!(tree.read("a"), b"head\nhead\nrow\n");
    // When one name alone is open again, pages are known by what they hold.
    s.clunk(2).unwrap();
    s.clunk(3).unwrap();
    show_pages(&tree, &mut s, "");
}

/// A message ends anywhere in a page.
#[test]
fn pages_of_an_unknown_client_go_on_where_the_message_before_ended() {
    let tree = Tree::new();
    tree.file("a", vec![b'.'; 300_000]);
    let mut s = linux(&tree);
    s.open(ROOT, 2, "a", O_RDWR | APPEND).unwrap();
    let content: Vec<u8> = (0..262_144u32).map(|n| (n % 251) as u8).collect();
    for (at, piece) in content.chunks(131_048).enumerate() {
        write(&mut s, 2, at as u64 * 131_048, piece);
    }
    let wanted = [&content[..], &vec![b'.'; 300_000 - 262_144]].concat();
    assert!(tree.read("a") == wanted);
    // What does not go on there is an append.
    write(&mut s, 2, 262_145, b"end");
    assert!(tree.read("a") == [&wanted[..], b"end"].concat());
}

#[test]
fn unknown_client_writes_pages_in_place_before_the_end_that_it_opened_or_set() {
    let tree = Tree::new();
    tree.file("a", [b'.'; 10_000]);
    let mut s = linux(&tree);
    s.open(ROOT, 2, "a", O_RDWR | APPEND).unwrap();
    write(&mut s, 2, 8192, &[b'x'; 1808]);
    write(&mut s, 2, 0, &[b'y'; 4096]);
    let page = [[b'y'; 4096], [b'.'; 4096]].concat();
    assert_eq!(tree.read("a"), [&page[..], &[b'x'; 1808]].concat());
    s.walk_to(ROOT, 3, "").unwrap();
    s.lcreate(3, b"b", O_RDWR | APPEND, 0o644, 0).unwrap();
    let attr = SetAttr {
        size: 5000,
        ..SetAttr::default()
    };
    s.setattr(3, SIZE, &attr).unwrap();
    write(&mut s, 3, 0, &[b'z'; 5000]);
    assert_eq!(tree.read("b"), [b'z'; 5000]);
}

#[test]
fn a_page_that_holds_again_what_was_appended_shows_that_pages_are_written_back() {
    let tree = Tree::new();
    let mut s = linux(&tree);
    show_pages(&tree, &mut s, "");
    s.walk_to(ROOT, 2, "").unwrap();
    s.lcreate(2, b"a", O_RDWR | APPEND, 0o644, 0).unwrap();
    write(&mut s, 2, 0, b"one\n");
    write(&mut s, 2, 0, b"ONE\n");
    write(&mut s, 2, 1, b"-");
    assert_eq!(tree.read("a"), b"O-E\n");
}

/// Another client may come to the same socket.
#[test]
fn a_version_begins_anew() {
    let (tree, mut s) = with_pages();
    write(&mut s, 2, 0, b"-");
    speak(&mut s);
    write(&mut s, 2, 1, b"!");
    assert_eq!(tree.read("a"), b"-123456789!");
}

// ---- a client that writes pages back ----

#[test]
fn pages_are_written_in_place_before_the_known_end_and_append_at_it() {
    let (tree, mut s) = with_pages();
    write(&mut s, 2, 3, b"three");
    write(&mut s, 2, 10, b"ten");
    write(&mut s, 2, 13, b"!");
    write(&mut s, 2, 0, b"zero");
    assert_eq!(tree.read("a"), b"zerohree89ten!");
}

/// To a direct client too, which it is after the first round.
#[test]
fn append_at_an_offset_of_2_to_the_63_and_more_is_einval() {
    let (tree, mut s) = with_pages();
    for name in [b"b", b"c"] {
        for offset in [1 << 63, u64::MAX] {
            refused(s.write(2, offset, Data(b"!")), Errno::EINVAL);
        }
        s.walk_to(ROOT, 3, "").unwrap();
        s.lcreate(3, name, O_WRONLY, 0o644, 0).unwrap();
    }
    assert_eq!(tree.read("a"), b"0123456789");
}

#[test]
fn append_at_the_known_end_goes_to_the_hosts() {
    let (tree, mut s) = with_pages();
    grow(&tree, "a", b" host ");
    write(&mut s, 2, 10, b"guest");
    write(&mut s, 2, 15, b" again");
    assert_eq!(tree.read("a"), b"0123456789 host guest again");
}

/// It has seen that the host made the file longer, and the server does not know which process has.
#[test]
fn append_behind_the_known_end_goes_to_the_hosts_if_that_is_not_before_it() {
    for offset in [12, 16] {
        let (tree, mut s) = with_pages();
        grow(&tree, "a", b" host ");
        write(&mut s, 2, offset, b"!");
        assert_eq!(tree.read("a"), b"0123456789 host !", "{offset}");
    }
    let (tree, mut s) = with_pages();
    grow(&tree, "a", b" host ");
    write(&mut s, 2, 17, b"!");
    assert_eq!(tree.read("a"), b"0123456789 host \0!");
}

#[test]
fn appends_on_several_fids_have_one_end_and_so_has_a_hard_link() {
    let (tree, mut s) = with_pages();
    fs::hard_link(tree.path("a"), tree.path("b")).unwrap();
    s.open(ROOT, 3, "a", O_RDWR | APPEND).unwrap();
    s.open(ROOT, 4, "b", O_RDWR | APPEND).unwrap();
    s.open(ROOT, 5, "b", O_RDWR).unwrap();
    for (at, fid) in [(0, 2), (1, 3), (2, 4), (3, 2), (4, 5), (5, 3)] {
        grow(&tree, "a", b"."); // else it would be the same in place
        write(&mut s, fid, 10 + at, &[b'a' + at as u8]);
    }
    // Fid 5 does not append.
    assert_eq!(tree.read("a"), b"0123456789.a.bec.d..f");
}

// ---- what the client knows of the end ----

#[test]
fn end_is_what_tgetattr_told_last_before_the_open() {
    let tree = Tree::new();
    tree.file("a", b"0123456789");
    let mut s = linux(&tree);
    show_pages(&tree, &mut s, "");
    s.walk_to(ROOT, 2, "a").unwrap();
    assert_eq!(s.getattr(2, 0).unwrap().attr.size, 10);
    grow(&tree, "a", b" host ");
    s.lopen(2, O_RDWR | APPEND).unwrap();
    write(&mut s, 2, 10, b"guest");
    assert_eq!(tree.read("a"), b"0123456789 host guest");
}

#[test]
fn end_before_the_open_is_moved_by_twrite_tsetattr_and_o_trunc() {
    let tree = Tree::new();
    let mut s = linux(&tree);
    show_pages(&tree, &mut s, "");
    let attr = SetAttr {
        size: 4,
        ..SetAttr::default()
    };
    for (how, known) in [(0, 13), (1, 4), (2, 0)] {
        tree.file("a", b"0123456789");
        s.open(ROOT, 2, "a", O_RDWR).unwrap();
        s.getattr(2, 0).unwrap();
        s.walk_to(ROOT, 3, "a").unwrap();
        match how {
            0 => write(&mut s, 2, 8, b"89abc"),
            1 => s.setattr(3, SIZE, &attr).map(drop).unwrap(),
            _ => s.open(ROOT, 4, "a", O_RDWR | O_TRUNC).map(drop).unwrap(),
        }
        s.clunk(2).unwrap();
        grow(&tree, "a", b" host ");
        s.lopen(3, O_RDWR | APPEND).unwrap();
        write(&mut s, 3, known, b"guest");
        assert!(tree.read("a").ends_with(b" host guest"), "{how}");
        s.clunk(3).unwrap();
        let _none = s.clunk(4);
    }
}

#[test]
fn end_is_the_hosts_where_none_was_told() {
    let tree = Tree::new();
    tree.file("a", b"0123456789");
    let mut s = linux(&tree);
    show_pages(&tree, &mut s, "");
    s.open(ROOT, 2, "a", O_RDWR | APPEND).unwrap();
    write(&mut s, 2, 9, b"in place");
    assert_eq!(tree.read("a"), b"012345678in place");
}

#[test]
fn tgetattr_moves_the_end_down_and_the_old_one_may_be_meant_too() {
    for later in [3, 14] {
        let (tree, mut s) = with_pages();
        cut(&tree, "a", 3);
        s.walk_to(ROOT, 3, "a").unwrap();
        assert_eq!(s.getattr(3, 0).unwrap().attr.size, 3);
        grow(&tree, "a", b" host ");
        // A process that has not heard of it; then one that has, or not.
        write(&mut s, 2, 10, b"old ");
        write(&mut s, 2, later, b"new");
        assert_eq!(tree.read("a"), b"012 host old new", "{later}");
    }
    let (tree, mut s) = with_pages();
    cut(&tree, "a", 3);
    s.getattr(2, 0).unwrap();
    grow(&tree, "a", b" host ");
    write(&mut s, 2, 3, b"new ");
    write(&mut s, 2, 3, b"HOST");
    assert_eq!(tree.read("a"), b"012HOSTt new ");
}

#[test]
fn tgetattr_does_not_move_the_end_up() {
    let (tree, mut s) = with_pages();
    grow(&tree, "a", b" host ");
    assert_eq!(s.getattr(2, 0).unwrap().attr.size, 16);
    write(&mut s, 2, 10, b"guest ");
    assert_eq!(tree.read("a"), b"0123456789 host guest ");
}

#[test]
fn tsetattr_and_o_trunc_set_the_end() {
    for truncates in [false, true] {
        let (tree, mut s) = with_pages();
        let size = if truncates {
            s.open(ROOT, 3, "a", O_RDWR | O_TRUNC).unwrap();
            0
        } else {
            s.walk_to(ROOT, 3, "a").unwrap();
            let attr = SetAttr {
                size: 5,
                ..SetAttr::default()
            };
            s.setattr(3, SIZE, &attr).unwrap();
            5
        };
        grow(&tree, "a", b" host ");
        write(&mut s, 2, size, b"guest");
        assert!(tree.read("a").ends_with(b" host guest"));
    }
    let (tree, mut s) = with_pages();
    let attr = SetAttr {
        size: 20,
        ..SetAttr::default()
    };
    s.setattr(2, SIZE, &attr).unwrap();
    write(&mut s, 2, 15, b"place");
    write(&mut s, 2, 20, b"end");
    assert_eq!(tree.read("a"), b"0123456789\0\0\0\0\0placeend");
}

#[test]
fn tsetattr_that_is_refused_leaves_the_end() {
    let (tree, mut s) = with_pages();
    let attr = SetAttr {
        size: 1 << 63,
        ..SetAttr::default()
    };
    refused(s.setattr(2, SIZE, &attr), Errno::EINVAL);
    grow(&tree, "a", b" host ");
    write(&mut s, 2, 10, b"guest");
    assert_eq!(tree.read("a"), b"0123456789 host guest");
}

// ---- direct clients ----

#[test]
fn o_wronly_shows_a_direct_client_whose_twrites_append_at_whatever_offset() {
    let (tree, mut s) = with_pages();
    s.walk_to(ROOT, 3, "").unwrap();
    s.lcreate(3, b"b", O_WRONLY, 0o644, 0).unwrap();
    for offset in [0, 5, 4096, 100_000] {
        write(&mut s, 2, offset, b"!");
    }
    assert_eq!(tree.read("a"), b"0123456789!!!!");
    s.clunk(2).unwrap();
    s.open(ROOT, 2, "a", O_RDWR | APPEND).unwrap();
    assert!(!is_marked(&s, &tree, "a"));
    write(&mut s, 2, 0, b"!");
    assert_eq!(tree.read("a"), b"0123456789!!!!!");
}

#[test]
fn o_wronly_of_an_open_shows_a_direct_client_and_is_not_marked() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    s.open(ROOT, 2, "a", O_WRONLY | APPEND).unwrap();
    assert!(!is_marked(&s, &tree, "a"));
    s.walk_to(ROOT, 3, "").unwrap();
    s.lcreate(3, b"b", O_RDWR | APPEND, 0o644, 0).unwrap();
    assert!(!is_marked(&s, &tree, "b"));
}

/// A client that keeps pages asks for O_RDWR first, whatever its process wants, and then for O_WRONLY.
#[test]
fn o_wronly_of_what_was_just_refused_shows_nothing() {
    let tree = Tree::new();
    for name in ["refused", "other"] {
        tree.file(name, b"");
        chmod(&tree.path(name), 0o222);
    }
    tree.file("a", b"");
    chmod(&tree.path("a"), 0o666);
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let launch = Launch::new(&tree.bundle(), 1);
    let mut s = session_of(launch.ids(65534, 65534).namespace(Namespace::User));
    speak(&mut s);
    refused(s.open(ROOT, 2, "refused", O_RDWR), Errno::EACCES);
    s.lopen(2, O_WRONLY).unwrap();
    s.open(ROOT, 3, "a", O_RDWR | APPEND).unwrap();
    write(&mut s, 3, 0, b"one ");
    write(&mut s, 3, 0, b"one two ");
    assert_eq!(tree.read("a"), b"one two ");
    // What is opened for reading alone, or refused so, is another matter.
    refused(s.open(ROOT, 4, "other", O_RDONLY), Errno::EACCES);
    s.lopen(4, O_WRONLY).unwrap();
    write(&mut s, 3, 0, b"one two three ");
    assert_eq!(tree.read("a"), b"one two one two three ");
}

// ---- which opens are marked ----

#[test]
fn opens_for_reading_and_without_o_append_are_not_marked() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = linux(&tree);
    s.open(ROOT, 2, "a", O_RDONLY | APPEND).unwrap();
    assert!(!is_marked(&s, &tree, "a"));
    s.clunk(2).unwrap();
    s.open(ROOT, 2, "a", O_RDWR).unwrap();
    write(&mut s, 2, 0, b"T");
    assert_eq!(tree.read("a"), b"Text");
    s.clunk(2).unwrap();
    s.open(ROOT, 2, "a", O_RDWR | APPEND).unwrap();
    assert!(is_marked(&s, &tree, "a"));
}

/// chattr(1) sets what the host's file system must know.
#[test]
fn file_that_takes_appends_alone_is_opened_with_o_append() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let chattr = |how: &str| Command::new("chattr").arg(how).arg(tree.path("a")).output();
    let done = chattr("+a").unwrap();
    assert!(
        done.status.success(),
        "cannot be set up: TMPDIR is on a file system without chattr +a, or this is not root: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    let mut s = linux(&tree);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        refused(s.open(ROOT, 2, "a", O_RDWR), Errno::EPERM);
        s.open(ROOT, 3, "a", O_RDWR | APPEND).unwrap();
        assert!(!is_marked(&s, &tree, "a"));
        write(&mut s, 3, 0, b"one ");
        write(&mut s, 3, 0, b"one two ");
        assert_eq!(tree.read("a"), b"textone one two ");
    }));
    chattr("-a").unwrap();
    outcome.unwrap();
}

// ---- their number ----

/// Creates a file, which stays open as `fid`; whether it is marked: then what is written before its end stays there.
#[track_caller]
fn create_marked(client: &mut Client, dir: &Path, fid: u32) -> bool {
    let name = format!("{fid}");
    client.walk_to(ROOT, fid, "").unwrap();
    client
        .lcreate(fid, name.as_bytes(), O_RDWR | APPEND, 0o644, 0)
        .unwrap();
    write(client, fid, 0, b"ab");
    write(client, fid, 0, b"X");
    match &fs::read(dir.join(name)).unwrap()[..] {
        b"Xb" => true,
        b"abX" => false,
        other => panic!("{other:?}"),
    }
}

/// Creates files up to the first that is not marked; how many are.
#[track_caller]
fn fill(client: &mut Client, dir: &Path) -> usize {
    let first = 100;
    (first..)
        .take_while(|&fid| create_marked(client, dir, fid))
        .count()
}

#[test]
fn marks_have_a_limit_and_each_connection_its_share() {
    let tree = Tree::new();
    let mut mounts = Vec::new();
    for dir in ["m1", "m2"] {
        tree.dir(dir);
        mounts.push(Mount::bind(&format!("/{dir}"), &["rw"]));
    }
    let (gofer, mut clients) = serve_mounts(&tree, false, &mounts);
    for (client, dir) in clients.iter_mut().zip(["", "m1/", "m2/"]) {
        speak(client);
        show_pages(&tree, client, dir);
    }
    let (share, common) = (MARKS / 2 / 3, MARKS / 2);
    let mut clients = clients.into_iter();
    let [mut one, mut two, mut three] = [(); 3].map(|()| clients.next().unwrap());
    let before = gofer.descriptor_count();
    assert_eq!(fill(&mut one, &tree.root()), share + common);
    let between = gofer.descriptor_count();
    assert_eq!(fill(&mut two, &tree.path("m1")), share);
    let of_two = gofer.descriptor_count() - between;

    // What a clunk frees can be had again: of the common half, by whoever comes first.
    one.clunk(150).unwrap();
    assert!(create_marked(&mut two, &tree.path("m1"), 50));
    assert!(!create_marked(&mut one, &tree.root(), 50));
    two.clunk(50).unwrap();
    assert!(create_marked(&mut one, &tree.root(), 51));

    // A file that is marked needs no room, by another name either.
    fs::hard_link(tree.path("100"), tree.path("again")).unwrap();
    one.open(ROOT, 52, "again", O_RDWR | APPEND).unwrap();
    write(&mut one, 52, 0, b"Y");
    assert_eq!(tree.read("100"), b"Yb");

    // A connection that has ended gives its marks back, some in each turn.
    drop(one);
    expect_descriptors(&gofer, &mut three, before + of_two);
    assert_eq!(fill(&mut three, &tree.path("m2")), share + common);
}
