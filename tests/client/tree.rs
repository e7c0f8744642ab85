//! The tree of paths across fids: docs/protocol.md 3.2; and directories with many entries: 3.9.

use crate::entries::{AT_REMOVEDIR, both_ways, names};
use crate::harness::{Gofer, Mount, ROOT, Session, Tree, serve, serve_mounts};
use crate::p9::{Data, MSIZE, NOID, O_RDONLY, O_RDWR, QT_DIR, QT_FILE, SetAttr, VALID, refused, t};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

const REGULAR: u32 = 0o100_000;

// ---- renames carry what lies below ----

/// `d/e/f` with content, and `other`. Fids: 2 on `d`, 3 on `d/e`, 4 on `d/e/f`, 5 on it and opened,
/// 6 on `d/e` opened, 7 on `other`.
fn fids_below(tree: &Tree, s: &mut Session) {
    tree.dir("d/e");
    tree.dir("other");
    tree.file("d/e/f", b"text");
    for (fid, path) in [
        (2, "d"),
        (3, "d/e"),
        (4, "d/e/f"),
        (5, "d/e/f"),
        (6, "d/e"),
        (7, "other"),
    ] {
        s.walk_to(ROOT, fid, path).unwrap();
    }
    s.lopen(5, O_RDWR).unwrap();
    s.lopen(6, O_RDONLY).unwrap();
}

/// All that can be done through those fids, where `e` now is `place`.
#[track_caller]
fn expect_alive(tree: &Tree, s: &mut Session, place: &str) {
    for fid in [2, 3, 4, 5, 6, 7] {
        s.getattr(fid, VALID).unwrap();
    }
    s.write(5, 0, Data(b"T")).unwrap();
    assert_eq!(s.read_all(5).unwrap(), b"Text");
    assert_eq!(s.list(6, 4096).unwrap().len(), 1);
    s.walk_to(3, 20, "f").unwrap();
    s.lopen(20, O_RDWR).unwrap();
    s.walk_to(4, 21, "").unwrap();
    s.lopen(21, O_RDONLY).unwrap();
    assert_eq!(s.read_all(21).unwrap(), b"Text");
    s.walk_to(3, 22, "").unwrap();
    s.lcreate(22, b"new", O_RDWR, 0o600, NOID).unwrap();
    assert_eq!(names(tree, place), ["f", "new"]);
    s.remove(22).unwrap();
    s.mkdir(3, b"sub", 0o755, NOID).unwrap();
    s.unlinkat(3, b"sub", AT_REMOVEDIR).unwrap();
    assert_eq!(names(tree, place), ["f"]);
}

#[test]
fn rename_of_a_directory_leaves_all_fids_below_usable() {
    both_ways(|tree, s| {
        fids_below(tree, s);
        s.renameat(ROOT, b"d", ROOT, b"renamed").unwrap();
        expect_alive(tree, s, "renamed/e");
        s.rename(2, 7, b"deeper").unwrap();
        expect_alive(tree, s, "other/deeper/e");
        s.renameat(ROOT, b"other", ROOT, b"another").unwrap();
        expect_alive(tree, s, "another/deeper/e");
        s.rename(6, ROOT, b"out").unwrap(); // by the opened fid
        expect_alive(tree, s, "out");
    });
}

/// What acts on a name acts on the new one, in the new directory.
#[test]
fn rename_moves_the_names_that_later_requests_act_on() {
    both_ways(|tree, s| {
        fids_below(tree, s);
        tree.file("d/e/g", b"");
        s.walk_to(ROOT, 8, "d/e/g").unwrap();
        s.renameat(2, b"e", 7, b"moved").unwrap();
        // A trap: the same names at the old place.
        tree.dir("d/e");
        tree.file("d/e/f", b"trap");
        tree.file("d/e/g", b"trap");
        s.remove(8).unwrap();
        assert_eq!(names(tree, "other/moved"), ["f"]);
        s.rename(4, ROOT, b"top").unwrap();
        assert_eq!(names(tree, "other/moved"), [""; 0]);
        assert_eq!(tree.read("top"), b"text");
        s.rename(3, ROOT, b"e-top").unwrap();
        assert_eq!(names(tree, ""), ["d", "e-top", "other", "top"]);
        s.remove(5).unwrap();
        assert_eq!(names(tree, ""), ["d", "e-top", "other"]);
        assert_eq!(names(tree, "d/e"), ["f", "g"]);
    });
}

/// The moved one hangs under its new directory, not under the old one.
#[test]
fn rename_across_directories_hangs_the_moved_under_the_new_one() {
    both_ways(|tree, s| {
        fids_below(tree, s);
        s.renameat(2, b"e", 7, b"e").unwrap();
        // The old directory goes: nothing that moved goes with it.
        s.unlinkat(ROOT, b"d", AT_REMOVEDIR).unwrap();
        refused(s.walk_to(2, 20, "x"), Errno::ENOENT);
        expect_alive(tree, s, "other/e");
        // The new one is renamed: it comes along.
        s.renameat(ROOT, b"other", ROOT, b"o").unwrap();
        expect_alive(tree, s, "o/e");
        s.remove(4).unwrap();
        assert_eq!(names(tree, "o/e"), [""; 0]);
        // And goes when it goes, however that was emptied.
        fs::remove_dir(tree.path("o/e")).unwrap();
        s.unlinkat(ROOT, b"o", AT_REMOVEDIR).unwrap();
        refused(s.walk_to(3, 20, "x"), Errno::ENOENT);
        refused(s.lopen(3, O_RDONLY), Errno::EINVAL);
        assert_eq!(names(tree, ""), [""; 0]);
    });
}

/// A file just created is known by its one fid alone.
#[test]
fn rename_of_a_directory_carries_a_file_being_created_in_it() {
    both_ways(|tree, s| {
        tree.dir("d");
        s.walk_to(ROOT, 2, "d").unwrap();
        s.lcreate(2, b"new", O_RDWR, 0o600, NOID).unwrap();
        s.renameat(ROOT, b"d", ROOT, b"e").unwrap();
        s.write(2, 0, Data(b"text")).unwrap();
        s.rename(2, ROOT, b"newer").unwrap();
        assert_eq!(tree.read("newer"), b"text");
        s.remove(2).unwrap();
        assert_eq!(names(tree, ""), ["e"]);
    });
}

#[test]
fn rename_that_fails_leaves_the_tree_as_it_was() {
    both_ways(|tree, s| {
        fids_below(tree, s);
        tree.dir("other/full/x");
        s.walk_to(ROOT, 8, "other/full").unwrap();
        refused(s.renameat(ROOT, b"d", 7, b"full"), Errno::ENOTEMPTY);
        refused(s.rename(2, 3, b"inside"), Errno::EINVAL);
        expect_alive(tree, s, "d/e");
        s.walk_to(8, 9, "x").unwrap();
        s.rename(2, ROOT, b"dd").unwrap();
        expect_alive(tree, s, "dd/e");
    });
}

#[test]
fn rename_back_and_forth_and_swapped_names_keep_fids_apart() {
    both_ways(|tree, s| {
        tree.file("a", b"first");
        tree.file("b", b"second");
        s.walk_to(ROOT, 2, "a").unwrap();
        s.walk_to(ROOT, 3, "b").unwrap();
        for _ in 0..3 {
            s.renameat(ROOT, b"a", ROOT, b"c").unwrap();
            s.renameat(ROOT, b"b", ROOT, b"a").unwrap();
            s.renameat(ROOT, b"c", ROOT, b"b").unwrap();
        }
        for (fid, content) in [(2, b"first".as_slice()), (3, b"second")] {
            s.walk_to(fid, 4, "").unwrap();
            s.lopen(4, O_RDONLY).unwrap();
            assert_eq!(s.read_all(4).unwrap(), content);
        }
        assert_eq!(tree.read("a"), b"second");
        s.remove(2).unwrap();
        assert_eq!(names(tree, ""), ["a"]);
    });
}

/// Each connection has a tree of its own.
#[test]
fn rename_through_one_connection_leaves_the_fids_of_another() {
    let tree = Tree::new();
    tree.dir("m/d");
    tree.file("m/d/f", b"text");
    let (_gofer, mut c) = serve_mounts(&tree, false, &[Mount::bind("/m", &[])]);
    c[1].walk_to(ROOT, 2, "d").unwrap();
    c[1].walk_to(ROOT, 3, "d/f").unwrap();
    c[0].walk_to(ROOT, 2, "m").unwrap();
    c[0].renameat(2, b"d", ROOT, b"moved").unwrap();
    c[1].walk_to(2, 4, "f").unwrap();
    c[1].lopen(3, O_RDONLY).unwrap();
    assert_eq!(c[1].read_all(3).unwrap(), b"text");
    refused(c[1].walk_to(ROOT, 5, "d"), Errno::ENOENT);
    c[0].walk_to(ROOT, 3, "moved").unwrap();
    c[0].unlinkat(3, b"f", 0).unwrap();
    c[1].walk_to(4, 6, "").unwrap();
    c[1].lopen(6, O_RDONLY).unwrap(); // gone on the host, not deleted here
}

// ---- what is deleted ----

/// What still may be done through a fid whose path is gone, and what may not.
#[track_caller]
fn expect_deleted(s: &mut Session, fid: u32) {
    s.getattr(fid, VALID).unwrap();
    s.statfs(fid).unwrap();
    s.flushf(fid).unwrap();
    s.setattr(fid, 0x10, &SetAttr::default()).unwrap();
    s.walk_to(fid, 60, "").unwrap();
    refused(s.lopen(60, O_RDONLY), Errno::EINVAL);
    refused(s.readlink(60), Errno::EINVAL);
    refused(s.rename(60, ROOT, b"again"), Errno::EINVAL);
    refused(s.link(60, fid, b"x"), Errno::EINVAL);
    refused(s.mkdir(60, b"x", 0o755, NOID), Errno::EINVAL);
    refused(s.unlinkat(60, b"x", 0), Errno::EINVAL);
    refused(s.renameat(60, b"x", ROOT, b"x"), Errno::EINVAL);
    refused(s.renameat(ROOT, b"x", 60, b"x"), Errno::EINVAL);
    let is_dir = s.getattr(60, 0).unwrap().qid.kind == QT_DIR;
    let below = if is_dir { Errno::ENOENT } else { Errno::EINVAL };
    refused(s.walk_to(60, 61, "x"), below);
    refused(s.walkgetattr(60, 61, &[b"x"]), below);
    refused(s.remove(60), Errno::EINVAL);
    refused(s.getattr(60, VALID), Errno::EBADF); // clunked all the same
}

#[test]
fn rename_over_a_file_deletes_its_fids_and_no_others() {
    both_ways(|tree, s| {
        tree.file("old", b"old");
        tree.file("new", b"newer");
        fs::hard_link(tree.path("old"), tree.path("old-too")).unwrap();
        for (fid, name) in [(2, "old"), (3, "old"), (4, "old-too"), (5, "new")] {
            s.walk_to(ROOT, fid, name).unwrap();
        }
        s.lopen(3, O_RDWR).unwrap();
        s.rename(5, ROOT, b"old").unwrap();
        expect_deleted(s, 2);
        refused(s.rename(3, ROOT, b"x"), Errno::EINVAL);
        s.write(3, 0, Data(b"O")).unwrap();
        assert_eq!(s.read_all(3).unwrap(), b"Old");
        s.fsync(3, 0).unwrap();
        s.lopen(4, O_RDONLY).unwrap(); // by its other name
        assert_eq!(s.read_all(4).unwrap(), b"Old");
        s.lopen(5, O_RDONLY).unwrap();
        assert_eq!(s.read_all(5).unwrap(), b"newer");
        refused(s.remove(2), Errno::EINVAL);
        s.remove(5).unwrap();
        assert_eq!(names(tree, ""), ["old-too"]);
    });
}

#[test]
fn rename_over_a_directory_deletes_its_fids_and_those_below() {
    both_ways(|tree, s| {
        tree.dir("new/inner");
        tree.dir("old/e");
        tree.file("old/f", b"text");
        for (fid, path) in [
            (2, "old"),
            (3, "old/e"),
            (4, "old/f"),
            (5, "new"),
            (6, "new/inner"),
            (7, "old"),
        ] {
            s.walk_to(ROOT, fid, path).unwrap();
        }
        s.lopen(7, O_RDONLY).unwrap();
        // Emptied behind the server's back, so that only the rename can tell.
        fs::remove_dir(tree.path("old/e")).unwrap();
        fs::remove_file(tree.path("old/f")).unwrap();
        s.renameat(ROOT, b"new", ROOT, b"old").unwrap();
        for fid in [2, 3] {
            expect_deleted(s, fid);
        }
        refused(s.lopen(4, O_RDONLY), Errno::EINVAL);
        refused(s.readdir(7, 0, 4096), Errno::EINVAL);
        s.walk_to(5, 8, "inner").unwrap();
        s.walk_to(ROOT, 9, "old/inner").unwrap();
        s.lopen(6, O_RDONLY).unwrap();
    });
}

#[test]
fn unlink_deletes_every_fid_on_the_path_and_below() {
    both_ways(|tree, s| {
        tree.dir("d/e");
        for (fid, path) in [(2, "d"), (3, "d"), (4, "d/e"), (5, "d/e"), (6, "d/e")] {
            s.walk_to(ROOT, fid, path).unwrap();
        }
        s.walk_to(2, 7, "").unwrap();
        s.walk_to(4, 8, "").unwrap();
        s.lopen(6, O_RDONLY).unwrap();
        fs::remove_dir(tree.path("d/e")).unwrap();
        s.walk_to(4, 9, "").unwrap(); // the host's removals are not noticed
        s.unlinkat(ROOT, b"d", AT_REMOVEDIR).unwrap();
        for fid in [2, 3, 4, 5, 7, 8, 9] {
            expect_deleted(s, fid);
        }
        refused(s.readdir(6, 0, 4096), Errno::EINVAL);
    });
}

/// Whoever makes the name again, and whatever it is then.
#[test]
fn names_made_again_are_fresh_and_revive_no_fid() {
    type Make = fn(&Tree, &mut Session);
    let makes: [(Make, u8); 6] = [
        (
            |_, s| {
                s.mkdir(ROOT, b"x", 0o755, NOID).unwrap();
            },
            QT_DIR,
        ),
        (
            |_, s| {
                s.mknod(ROOT, b"x", REGULAR | 0o644, 0, 0, NOID).unwrap();
            },
            QT_FILE,
        ),
        (
            |_, s| {
                s.walk_to(ROOT, 40, "").unwrap();
                s.lcreate(40, b"x", O_RDWR, 0o644, NOID).unwrap();
            },
            QT_FILE,
        ),
        (
            |_, s| {
                s.walk_to(ROOT, 41, "source").unwrap();
                s.link(ROOT, 41, b"x").unwrap();
            },
            QT_FILE,
        ),
        (
            |_, s| {
                s.renameat(ROOT, b"mover", ROOT, b"x").unwrap();
            },
            QT_FILE,
        ),
        (|tree, _| tree.dir("x"), QT_DIR),
    ];
    for (make, kind) in makes {
        both_ways(|tree, s| {
            tree.file("source", b"source");
            tree.file("mover", b"mover");
            tree.dir("x");
            s.walk_to(ROOT, 2, "x").unwrap();
            s.unlinkat(ROOT, b"x", AT_REMOVEDIR).unwrap();
            tree.file("x", b"text");
            s.walk_to(ROOT, 3, "x").unwrap();
            s.unlinkat(ROOT, b"x", 0).unwrap();
            make(tree, s);
            let qids = s.walk_to(ROOT, 4, "x").unwrap();
            assert_eq!(qids[0].kind, kind);
            for old in [2, 3] {
                expect_deleted(s, old);
                assert_ne!(s.getattr(old, 0).unwrap().attr.nlink, 1);
            }
            s.lopen(4, O_RDONLY).unwrap();
            s.walk_to(ROOT, 5, "x").unwrap();
            s.rename(5, ROOT, b"y").unwrap();
            assert!(tree.path("y").exists());
            let gone = if kind == QT_DIR { AT_REMOVEDIR } else { 0 };
            s.unlinkat(ROOT, b"y", gone).unwrap();
            expect_deleted(s, 5);
        });
    }
}

/// The rename's own: a name moved away and made again.
#[test]
fn a_name_left_by_a_rename_is_fresh_when_made_again() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.file("d/f", b"first");
        s.walk_to(ROOT, 2, "d").unwrap();
        s.walk_to(ROOT, 3, "d/f").unwrap();
        s.renameat(ROOT, b"d", ROOT, b"e").unwrap();
        s.mkdir(ROOT, b"d", 0o755, NOID).unwrap();
        refused(s.walk_to(ROOT, 4, "d/f"), Errno::ENOENT);
        tree.file("d/f", b"second");
        s.open(ROOT, 4, "d/f", O_RDONLY).unwrap();
        assert_eq!(s.read_all(4).unwrap(), b"second");
        s.unlinkat(ROOT, b"e", 0).unwrap_err();
        s.walk_to(ROOT, 5, "d").unwrap();
        s.unlinkat(5, b"f", 0).unwrap();
        s.lopen(3, O_RDONLY).unwrap(); // another path
        assert_eq!(s.read_all(3).unwrap(), b"first");
    });
}

#[test]
fn unlink_of_one_hard_link_leaves_the_fids_of_another() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.file("f", b"text");
        fs::hard_link(tree.path("f"), tree.path("d/g")).unwrap();
        s.walk_to(ROOT, 2, "f").unwrap();
        s.walk_to(ROOT, 3, "d/g").unwrap();
        s.unlinkat(ROOT, b"f", 0).unwrap();
        expect_deleted(s, 2);
        s.rename(3, ROOT, b"f").unwrap(); // even to the very name
        expect_deleted(s, 2);
        s.lopen(3, O_RDWR).unwrap();
        assert_eq!(s.read_all(3).unwrap(), b"text");
        assert_eq!(s.getattr(2, VALID).unwrap().attr.nlink, 1);
    });
}

#[test]
fn fids_on_deleted_paths_give_their_descriptors_back() {
    both_ways(|tree, s| {
        tree.dir("d");
        let before = s.gofer.descriptor_count();
        for round in 0..50 {
            let name = format!("d{round}");
            s.mkdir(ROOT, name.as_bytes(), 0o755, NOID).unwrap();
            s.walk_to(ROOT, 2, &name).unwrap();
            s.mkdir(2, b"e", 0o755, NOID).unwrap();
            s.walk_to(2, 3, "e").unwrap();
            s.unlinkat(2, b"e", AT_REMOVEDIR).unwrap();
            s.renameat(ROOT, b"d", ROOT, name.as_bytes()).unwrap();
            s.renameat(ROOT, name.as_bytes(), ROOT, b"d").unwrap();
        }
        s.clunk(2).unwrap();
        s.clunk(3).unwrap();
        s.expect_descriptors(before);
    });
}

// ---- deep trees ----

/// The last of 2,000 directories, one in the other, as fid 3; the first is `top`.
fn deep(s: &mut Session, levels: usize) {
    s.mkdir(ROOT, b"top", 0o755, NOID).unwrap();
    s.walk_to(ROOT, 3, "top").unwrap();
    for _ in 1..levels {
        s.mkdir(3, b"d", 0o755, NOID).unwrap();
        s.walk_to(3, 3, "d").unwrap();
    }
}

#[test]
fn rename_at_the_top_of_2000_levels_leaves_the_bottom_usable() {
    both_ways(|tree, s| {
        tree.dir("elsewhere");
        s.walk_to(ROOT, 2, "elsewhere").unwrap();
        deep(s, 2000);
        s.walk_to(3, 4, "").unwrap();
        s.lcreate(4, b"file", O_RDWR, 0o600, NOID).unwrap();
        s.write(4, 0, Data(b"text")).unwrap();
        s.walk_to(3, 5, "file").unwrap();
        s.renameat(ROOT, b"top", 2, b"moved").unwrap();
        s.renameat(ROOT, b"elsewhere", ROOT, b"else").unwrap();
        assert_eq!(names(tree, "else"), ["moved"]);
        assert_eq!(s.read_all(4).unwrap(), b"text");
        s.lopen(5, O_RDONLY).unwrap();
        assert_eq!(s.read_all(5).unwrap(), b"text");
        s.mkdir(3, b"below", 0o755, NOID).unwrap();
        s.walk_to(3, 6, "below").unwrap();
        s.rename(6, ROOT, b"above").unwrap();
        s.remove(4).unwrap();
        assert_eq!(names(tree, ""), ["above", "else"]);
        // Out of the deep from the bottom up, as far as the host's own removal then can.
        s.walk_to(3, 7, "").unwrap();
        s.lopen(7, O_RDONLY).unwrap();
        assert_eq!(s.list(7, 4096).unwrap(), []);
    });
}

/// Deleting the top deletes all of them: the host took the second level away before.
#[test]
fn unlink_at_the_top_of_2000_levels_deletes_the_bottom() {
    both_ways(|tree, s| {
        deep(s, 2000);
        fs::rename(tree.path("top/d"), tree.path("rest")).unwrap();
        s.lopen(3, O_RDONLY).unwrap();
        s.unlinkat(ROOT, b"top", AT_REMOVEDIR).unwrap();
        refused(s.readdir(3, 0, 4096), Errno::EINVAL);
        s.getattr(3, VALID).unwrap();
        s.clunk(3).unwrap();
        s.walk_to(ROOT, 4, "rest/d/d/d").unwrap();
    });
}

// ---- the host changes the tree ----

#[test]
fn file_replaced_by_the_host_has_another_qid_and_the_old_fid_the_old_content() {
    both_ways(|tree, s| {
        tree.file("f", b"old");
        s.open(ROOT, 2, "f", O_RDONLY).unwrap();
        let old = s.walk_to(ROOT, 3, "f").unwrap();
        tree.file("new", b"newer");
        fs::rename(tree.path("new"), tree.path("f")).unwrap();
        let new = s.walk_to(ROOT, 4, "f").unwrap();
        assert_ne!(old, new);
        assert_eq!(new[0].path, tree.stat("f").ino() & 0x00ff_ffff_ffff_ffff);
        assert_eq!(s.getattr(3, VALID).unwrap().qid, old[0]);
        assert_eq!(s.getattr(3, VALID).unwrap().attr.size, 3);
        assert_eq!(s.read_all(2).unwrap(), b"old");
        s.lopen(4, O_RDONLY).unwrap();
        assert_eq!(s.read_all(4).unwrap(), b"newer");
        // Unlinking the name deletes the file that has it.
        s.unlinkat(ROOT, b"f", 0).unwrap();
        s.walk_to(4, 5, "").unwrap_err();
        refused(s.walk_to(ROOT, 5, "f"), Errno::ENOENT);
    });
}

/// The host takes a directory out of another, and the client puts the outer into the inner: below
/// each other in the tree, if nothing cut it.
#[test]
fn outer_directory_renamed_into_an_inner_one_that_the_host_took_out_is_no_cycle() {
    both_ways(|tree, s| {
        for between in ["", "/between"] {
            tree.dir(&format!("outer{between}/inner"));
            tree.file(&format!("outer{between}/inner/f"), b"text");
            s.walk_to(ROOT, 2, "outer").unwrap();
            s.walk_to(ROOT, 3, &format!("outer{between}/inner"))
                .unwrap();
            s.walk_to(3, 4, "f").unwrap();
            let out = tree.path(&format!("outer{between}/inner"));
            fs::rename(out, tree.path("inner")).unwrap();
            s.renameat(ROOT, b"outer", 3, b"outer").unwrap();
            assert_eq!(names(tree, "inner"), ["f", "outer"]);

            let outer = s.getattr(2, VALID).unwrap().qid;
            assert_eq!(s.walk_to(3, 5, "outer").unwrap(), [outer]);
            s.walk_to(4, 6, "").unwrap();
            s.lopen(6, O_RDONLY).unwrap();
            assert_eq!(s.read_all(6).unwrap(), b"text");
            s.mkdir(2, b"new", 0o755, NOID).unwrap();
            s.walk_to(2, 7, "new").unwrap();
            s.rename(7, 3, b"new").unwrap();
            s.rename(2, ROOT, b"outer").unwrap();
            assert_eq!(names(tree, ""), ["inner", "outer"]);
            // The inner one's own place is not known any more, but by its name.
            s.rename(3, ROOT, b"x").unwrap_err();
            s.walk_to(ROOT, 8, "inner").unwrap();
            s.rename(8, ROOT, b"x").unwrap();
            fs::remove_dir_all(tree.path("x")).unwrap();
            fs::remove_dir_all(tree.path("outer")).unwrap();
            for fid in 2..=8 {
                s.clunk(fid).unwrap();
            }
        }
    });
}

/// The same by Trename, and the inner one then is deleted.
#[test]
fn outer_directory_deleted_in_an_inner_one_that_the_host_took_out_is_no_cycle() {
    both_ways(|tree, s| {
        tree.dir("outer/a/b/inner");
        s.walk_to(ROOT, 2, "outer").unwrap();
        s.walk_to(ROOT, 3, "outer/a/b/inner").unwrap();
        fs::rename(tree.path("outer/a/b/inner"), tree.path("inner")).unwrap();
        s.rename(2, 3, b"outer").unwrap();
        fs::remove_dir_all(tree.path("inner/outer/a")).unwrap();
        s.unlinkat(3, b"outer", AT_REMOVEDIR).unwrap();
        expect_deleted(s, 2);
        s.mkdir(3, b"outer", 0o755, NOID).unwrap();
        s.walk_to(3, 4, "outer").unwrap();
        expect_deleted(s, 2);
        assert_eq!(names(tree, "inner"), ["outer"]);
    });
}

/// What a fid was on is found at its name again only if it is there.
#[test]
fn rename_of_a_name_that_got_its_old_file_back_moves_the_fids() {
    both_ways(|tree, s| {
        tree.file("b", b"text");
        s.walk_to(ROOT, 2, "b").unwrap();
        fs::rename(tree.path("b"), tree.path("a")).unwrap();
        tree.file("b", b"another");
        s.walk_to(ROOT, 3, "a").unwrap();
        s.renameat(ROOT, b"a", ROOT, b"b").unwrap(); // over "another", which nobody has walked to
        assert_eq!(names(tree, ""), ["b"]);
        s.walk_to(3, 4, "").unwrap();
        s.rename(4, ROOT, b"c").unwrap();
        assert_eq!(names(tree, ""), ["c"]);
        assert_eq!(tree.read("c"), b"text");
    });
}

// ---- many entries ----

/// Enough for several levels of a file system's index, in links of few files: 50,000 names each.
fn fill(tree: &Tree, dir: &str, count: usize) {
    tree.dir(dir);
    let mut source = tree.outside("source");
    for number in 0..count {
        if number % 50_000 == 0 {
            source = tree.outside(&format!("source{number}"));
            fs::write(&source, b"").unwrap();
        }
        let name = tree.path(&format!("{dir}/{number:07}"));
        fs::hard_link(&source, name).unwrap();
    }
}

/// How often each name comes, read `count` bytes at a time; an empty reply is the end.
fn listed(s: &mut Session, fid: u32, count: u32) -> BTreeMap<Vec<u8>, usize> {
    let mut seen = BTreeMap::new();
    for entry in s.list(fid, count).unwrap() {
        *seen.entry(entry.name).or_insert(0) += 1;
    }
    seen
}

#[test]
fn readdir_of_200000_entries_gives_each_once_with_large_and_small_counts() {
    const ENTRIES: usize = 200_000;
    let tree = Tree::new();
    fill(&tree, "d", ENTRIES);
    let mut s = serve(&tree);
    s.open(ROOT, 2, "d", O_RDONLY).unwrap();
    for count in [65_536, MSIZE, 700, 31] {
        if count == 31 {
            // One entry a reply; the whole takes long, a part tells the same.
            let mut offset = 0;
            let mut seen = BTreeMap::new();
            for _ in 0..20_000 {
                let entries = s.readdir(2, offset, count).unwrap().entries.list;
                assert_eq!(entries.len(), 1);
                offset = entries[0].offset;
                *seen.entry(entries[0].name.clone()).or_insert(0) += 1;
            }
            assert!(seen.len() == 20_000 && seen.values().all(|&times| times == 1));
            continue;
        }
        let seen = listed(&mut s, 2, count);
        assert_eq!(seen.len(), ENTRIES, "count {count}");
        assert!(seen.values().all(|&times| times == 1), "count {count}");
    }
}

/// readdir(3): what is there all the time comes once; what comes or goes meanwhile at most once.
#[test]
fn readdir_while_entries_come_and_go_gives_the_lasting_ones_once() {
    for by_client in [false, true] {
        let tree = Tree::new();
        tree.dir("d");
        for number in 0..10_000 {
            tree.file(&format!("d/last-{number:05}"), b"");
            tree.file(&format!("d/gone-{number:05}"), b"");
        }
        let mut s = serve(&tree);
        s.open(ROOT, 2, "d", O_RDONLY).unwrap();
        s.walk_to(ROOT, 3, "d").unwrap();
        let (mut offset, mut round) = (0, 0);
        let mut seen: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        loop {
            let entries = s.readdir(2, offset, 4096).unwrap().entries.list;
            let Some(last) = entries.last() else { break };
            offset = last.offset;
            // Of those just told every other one, and some that may be ahead or behind.
            let told = entries.iter().map(|entry| entry.name.clone());
            let told: Vec<_> = told
                .filter(|name| name.starts_with(b"gone"))
                .step_by(2)
                .collect();
            for entry in entries {
                *seen.entry(entry.name).or_insert(0) += 1;
            }
            let ahead =
                (0..20).map(|number| format!("gone-{:05}", round * 20 + number).into_bytes());
            for name in told.into_iter().chain(ahead) {
                let path = tree.path("d").join(OsStr::from_bytes(&name));
                if path.exists() {
                    if by_client {
                        s.unlinkat(3, &name, 0).unwrap();
                    } else {
                        fs::remove_file(path).unwrap();
                    }
                }
            }
            for number in 0..20 {
                let name = format!("come-{round:05}-{number}");
                if by_client {
                    s.mknod(3, name.as_bytes(), REGULAR | 0o600, 0, 0, NOID)
                        .unwrap();
                } else {
                    tree.file(&format!("d/{name}"), b"");
                }
            }
            round += 1;
            assert!(round < 10_000, "it does not end");
        }
        assert!(round > 100);
        for number in 0..10_000 {
            let name = format!("last-{number:05}");
            assert_eq!(seen.get(name.as_bytes()), Some(&1), "{name}");
        }
        for (name, times) in &seen {
            assert_eq!(*times, 1, "{}", String::from_utf8_lossy(name));
        }
    }
}

/// An empty reply would be taken for the end: everything between is gone when it is read on.
#[test]
fn readdir_goes_on_behind_a_long_stretch_of_removed_entries() {
    let tree = Tree::new();
    fill(&tree, "d", 20_000);
    let mut s = serve(&tree);
    s.open(ROOT, 2, "d", O_RDONLY).unwrap();
    let all = s.list(2, 65_536).unwrap();
    let first = s.readdir(2, 0, 100).unwrap().entries.list;
    assert_eq!(first, all[..first.len()]);
    let end = all.len() - 3;
    for entry in &all[first.len()..end] {
        fs::remove_file(tree.path("d").join(OsStr::from_bytes(&entry.name))).unwrap();
    }
    let (mut offset, mut rest) = (first[first.len() - 1].offset, Vec::new());
    for _ in 0..3 {
        let entries = s.readdir(2, offset, 31).unwrap().entries.list;
        assert_eq!(entries.len(), 1);
        offset = entries[0].offset;
        rest.extend(entries);
    }
    let name = |entry: &crate::p9::Dirent| entry.name.clone();
    let wanted: Vec<_> = all[end..].iter().map(name).collect();
    assert_eq!(rest.iter().map(name).collect::<Vec<_>>(), wanted);
    assert_eq!(s.readdir(2, offset, 31).unwrap().entries.list, []);
}

// ---- costs ----

/// Time on a processor so far, nanoseconds.
pub(crate) fn run_ns(gofer: &Gofer) -> u64 {
    let text = gofer.proc_text("schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Processor time of the program for what `act` does, the least of three.
pub(crate) fn cost(s: &mut Session, mut act: impl FnMut(&mut Session)) -> u64 {
    (0..3)
        .map(|_| {
            let before = run_ns(&s.gofer);
            act(s);
            run_ns(&s.gofer) - before
        })
        .min()
        .unwrap()
}

/// Ten times the entries may cost ten times as much and a bit; a square would be a hundred.
#[test]
fn readdir_of_ten_times_the_entries_does_not_cost_a_hundred_times() {
    let tree = Tree::new();
    fill(&tree, "small", 10_000);
    fill(&tree, "large", 100_000);
    let mut s = serve(&tree);
    s.open(ROOT, 2, "small", O_RDONLY).unwrap();
    s.open(ROOT, 3, "large", O_RDONLY).unwrap();
    let small = cost(&mut s, |s| drop(s.list(2, 4096).unwrap()));
    let large = cost(&mut s, |s| drop(s.list(3, 4096).unwrap()));
    assert!(large < 40 * small, "{large} ns, {small} ns for a tenth");
}

/// Rename and unlink touch one node, however many fids and nodes are beside and below it.
#[test]
fn rename_and_unlink_do_not_cost_more_with_many_fids_beside_and_below() {
    const FIDS: u32 = 100_000;
    const NODES: u32 = 5_000;
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/x", b"");
    for number in 0..NODES {
        tree.file(&format!("d/{number}"), b"");
    }
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    s.walk_to(ROOT, 3, "d/x").unwrap();
    let renames = |s: &mut Session| {
        for number in 0..300u32 {
            s.renameat(ROOT, b"d", ROOT, b"e").unwrap();
            s.renameat(ROOT, b"e", ROOT, b"d").unwrap();
            s.renameat(2, b"x", 2, b"y").unwrap();
            s.renameat(2, b"y", 2, b"x").unwrap();
            let name = number.to_string();
            s.mknod(ROOT, name.as_bytes(), REGULAR, 0, 0, NOID).unwrap();
            s.unlinkat(ROOT, name.as_bytes(), 0).unwrap();
        }
    };
    let few = cost(&mut s, renames);
    for chunk in (0..FIDS).collect::<Vec<_>>().chunks(500) {
        let mut requests = Vec::new();
        for &number in chunk {
            let name = (number % NODES).to_string();
            let from: &[&[u8]] = if number < NODES {
                &[name.as_bytes()]
            } else {
                &[]
            };
            let fid = if number < NODES { 2 } else { 3 };
            requests.extend(t::walk(1, fid, 1000 + number, from));
        }
        s.send(&requests).unwrap();
        for _ in chunk {
            assert_eq!(s.recv().unwrap().kind, 111);
        }
    }
    let many = cost(&mut s, renames);
    assert!(many < 4 * few, "{many} ns, {few} ns with few fids");
}

/// Whether something above was deleted is asked once a walk, not once a name.
#[test]
fn walk_of_many_names_does_not_cost_the_depth_for_each() {
    const LEVELS: usize = 9000;
    const NAMES: usize = 200;
    let tree = Tree::new();
    let mut s = serve(&tree);
    deep(&mut s, 1);
    for level in 1..LEVELS {
        s.mkdir(3, b"d", 0o755, NOID).unwrap();
        if level % 1000 == 0 || level == LEVELS - NAMES {
            s.walk_to(3, u32::try_from(10 + level).unwrap(), "")
                .unwrap();
        }
        s.walk_to(3, 3, "d").unwrap();
    }
    let names = [b"d".as_slice(); NAMES];
    let walks = |from: u32, names: &[&[u8]], s: &mut Session| {
        for _ in 0..20 {
            s.walk(from, 4, names).unwrap();
        }
    };
    s.walk_to(ROOT, 5, "top").unwrap();
    let bottom = u32::try_from(10 + LEVELS - NAMES).unwrap();
    let at_the_top = cost(&mut s, |s| walks(5, &names[1..], s));
    let at_the_bottom = cost(&mut s, |s| walks(bottom, &names[1..], s));
    // In pieces that can be removed.
    for level in (1000..LEVELS).step_by(1000) {
        let fid = u32::try_from(10 + level).unwrap();
        s.rename(fid, ROOT, format!("part{level}").as_bytes())
            .unwrap();
    }
    assert!(
        at_the_bottom < 4 * at_the_top,
        "{at_the_bottom} ns, {at_the_top} ns at the top"
    );
}
