//! Faults that the original had, as far as no other module keeps them away: `docs/faults.md` is the list.

use crate::entries::{both_ways, names, start};
use crate::harness::{
    Gofer, Launch, Mount, Namespace, ROOT, TempDir, Tree, binary, chmod, expect_descriptors,
    file_of, meanwhile, serve, session_of, spec, write_spec,
};
use crate::p9::{
    Data, Fault, MSIZE, NOID, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, RLERROR, SetAttr, refused, t,
};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

const OWNER: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

// ---- files that are none ----

/// 2019-04-01. A client lists a directory and then asks for each entry.
#[test]
fn one_fifo_in_a_directory_does_not_hang_the_listing() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.file("d/before", b"");
        nix::unistd::mkfifo(&tree.path("d/fifo"), OWNER).unwrap();
        tree.file("d/later", b"");
        s.walk_to(ROOT, 2, "d").unwrap();
        s.open(ROOT, 3, "d", O_RDONLY).unwrap();
        let entries = s.list(3, 65_536).unwrap();
        assert_eq!(entries.len(), 3);
        for entry in entries {
            let walked = s.walkgetattr(2, 4, &[&entry.name]);
            if entry.name == b"fifo" {
                refused(walked, Errno::EPERM);
            } else {
                walked.unwrap();
            }
        }
    });
}

/// 2019-04-01, on the error path of a walk.
#[test]
fn walks_to_refused_types_leak_no_descriptor() {
    both_ways(|tree, s| {
        tree.dir("d");
        nix::unistd::mkfifo(&tree.path("d/fifo"), OWNER).unwrap();
        let _listener = UnixListener::bind(tree.path("d/socket")).unwrap();
        let before = s.gofer.descriptor_count();
        for _ in 0..500 {
            refused(s.walk_to(ROOT, 2, "d/fifo"), Errno::EPERM);
            refused(s.walkgetattr(ROOT, 2, &[b"d", b"socket"]), Errno::EPERM);
            refused(s.walk_to(ROOT, 2, "d/none"), Errno::ENOENT);
        }
        s.expect_descriptors(before);
    });
}

/// 2019-08-13: the directory bit alone makes directories of sockets and block devices. 2019-10-15:
/// sockets were dialled.
#[test]
fn attach_of_a_socket_or_device_is_eio_and_nothing_happens_to_it() {
    let tree = Tree::new();
    let listener = UnixListener::bind(tree.path("socket")).unwrap();
    listener.set_nonblocking(true).unwrap();
    mknod(&tree.path("char"), SFlag::S_IFCHR, OWNER, makedev(1, 3)).unwrap();
    mknod(&tree.path("block"), SFlag::S_IFBLK, OWNER, makedev(7, 0)).unwrap();
    let mounts = ["/socket", "/char", "/block"].map(|place| Mount::bind(place, &[]));
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let mut gofer = Launch::new(&tree.bundle(), 4).start();
    for index in 1..4 {
        let mut c = gofer.client(index);
        c.version(MSIZE, b"9P2000.L.Google.7").unwrap();
        refused(c.attach_root(ROOT), Errno::EIO);
        refused(c.attach_root(ROOT), Errno::EIO);
        refused(c.getattr(ROOT, 0), Errno::EBADF);
    }
    assert!(listener.accept().is_err());
    gofer.connect(0).getattr(ROOT, 0).unwrap();
}

// ---- where mounts lie ----

/// Reads `file` through the mount at `destination`.
#[track_caller]
fn read_in_mount(tree: &Tree, destination: &str) -> Vec<u8> {
    let mounts = [Mount::bind(destination, &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    let mut c = gofer.connect(1);
    c.open(ROOT, 2, "file", O_RDONLY)
        .unwrap_or_else(|fault| panic!("{destination}: {fault}"));
    c.read_all(2).unwrap()
}

/// 2018-11-01: the sandbox resolves symlinks of a destination inside the root, and so must the gofer.
#[test]
fn mount_destination_through_symlinks_is_where_the_sandbox_goes() {
    let tree = Tree::new();
    tree.dir("real/deep/m");
    tree.file("real/deep/m/file", b"inside");
    fs::create_dir_all(tree.outside("real/deep/m")).unwrap();
    fs::write(tree.outside("real/deep/m/file"), b"outside").unwrap();
    tree.link("relative", "real/deep");
    tree.link("absolute", "/real/deep");
    tree.link("chain", "absolute");
    for name in ["relative", "absolute", "chain"] {
        assert_eq!(read_in_mount(&tree, &format!("/{name}/m")), b"inside");
    }
}

/// 2019-10-10/11: on from the symlink's own directory, and never above the root.
#[test]
fn mount_destination_with_dotdot_continues_from_where_the_symlink_lies() {
    let tree = Tree::new();
    for place in ["m", "a/m", "a/b/m"] {
        tree.dir(place);
        tree.file(&format!("{place}/file"), place);
    }
    fs::create_dir(tree.outside("m")).unwrap();
    fs::write(tree.outside("m/file"), b"outside").unwrap();
    tree.link("a/b/up", "..");
    tree.link("a/b/top", "../..");
    tree.link("a/b/above", "../../../../../..");
    tree.link("a/b/back", "../../a/b");
    tree.link("escape", "..");
    for (destination, wanted) in [
        ("/a/b/up/m", "a/m"),
        ("/a/b/top/m", "m"),
        ("/a/b/above/m", "m"),
        ("/a/b/back/m", "a/b/m"),
        ("/a/b/back/up/m", "a/m"),
        ("/escape/m", "m"),
        ("/a/../m", "m"),
        ("/../../m", "m"),
        ("//a//b/../m", "a/m"),
    ] {
        let read = read_in_mount(&tree, destination);
        assert_eq!(String::from_utf8_lossy(&read), wanted, "{destination}");
    }
}

/// openat2(2) gives up on `..` with EAGAIN when anything on the host is renamed meanwhile.
#[test]
fn mount_destination_with_dotdot_is_found_while_the_host_renames() {
    let tree = Tree::new();
    tree.dir("a/b");
    tree.dir("a/m");
    tree.file("a/m/file", b"inside");
    tree.link("a/b/up", "..");
    fs::write(tree.outside("x"), b"").unwrap();
    let mounts = [Mount::bind("/a/b/up/m", &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let rename_both_ways = || {
        fs::rename(tree.outside("x"), tree.outside("y")).unwrap();
        fs::rename(tree.outside("y"), tree.outside("x")).unwrap();
    };
    meanwhile(rename_both_ways, || {
        let attached: Vec<_> = (0..50)
            .map(|_| {
                let mut gofer = Launch::new(&tree.bundle(), 2).start();
                gofer.client(1).hello(ROOT).map(drop)
            })
            .collect();
        for answer in attached {
            answer.unwrap();
        }
    });
}

/// 2019-03-18, 2021-07-02: what mounts nothing mounts nothing wrong.
#[test]
fn start_mounts_nothing_in_the_namespace_it_is_given() {
    let tree = Tree::new();
    tree.dir("m");
    let mounts = [Mount::bind("/m", &["ro", "rbind", "rshared"])];
    write_spec(&tree.bundle(), &spec(&tree.root(), true, &mounts));
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    gofer.connect(1).getattr(ROOT, 0).unwrap();
    let ours = fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_eq!(fs::read_link(gofer.proc("ns/mnt")).unwrap(), ours);
    let name = tree.root().parent().unwrap().to_owned();
    for list in ["/proc/self/mountinfo".into(), gofer.proc("mountinfo")] {
        let text = fs::read_to_string(list).unwrap();
        assert!(!text.contains(name.to_str().unwrap()), "{text}");
    }
}

// ---- what is held ----

const O_PATH: u32 = 0o10_000_000;

/// Flags of the descriptors that lead below the tree's root.
fn held(gofer: &Gofer, tree: &Tree) -> Vec<u32> {
    let mut flags = Vec::new();
    let all = ["", "d", "d/f", "mount"].map(|name| file_of(tree.path(name)));
    for (number, _) in gofer.descriptors().unwrap() {
        if all.contains(&file_of(gofer.proc(&format!("fd/{number}")))) {
            let info = gofer.proc_text(&format!("fdinfo/{number}")).unwrap();
            let line = info.lines().find_map(|line| line.strip_prefix("flags:"));
            flags.push(u32::from_str_radix(line.unwrap().trim(), 8).unwrap());
        }
    }
    flags
}

/// 2020-06-01/09 (overlay), 2019-10-15 (file mounts): nothing is open, let alone for writing, before a
/// client opens it, nor when it has closed it.
#[test]
fn files_are_held_without_any_access_until_they_are_opened() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"text");
    tree.file("mount", b"text");
    let mounts = [Mount::bind("/mount", &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    let (mut root, mut mount) = (gofer.connect(0), gofer.connect(1));
    let all_paths = |gofer: &Gofer| held(gofer, &tree).iter().all(|flags| flags & O_PATH != 0);
    root.walk_to(ROOT, 2, "d/f").unwrap();
    root.setattr(
        2,
        1 | 8,
        &SetAttr {
            mode: 0o600,
            size: 2,
            ..SetAttr::default()
        },
    )
    .unwrap();
    mount.walk_to(ROOT, 2, "").unwrap();
    mount.getattr(2, 0).unwrap();
    assert!(all_paths(&gofer), "{:?}", held(&gofer, &tree));

    for (c, path) in [(&mut root, "d/f"), (&mut mount, "")] {
        c.open(ROOT, 3, path, O_RDONLY).unwrap();
        let accesses: Vec<u32> = held(&gofer, &tree)
            .into_iter()
            .filter(|flags| flags & O_PATH == 0)
            .map(|flags| flags & 3)
            .collect();
        assert_eq!(accesses, [O_RDONLY]);
        c.clunk(3).unwrap();
        c.open(ROOT, 3, path, O_RDWR).unwrap();
        c.clunk(3).unwrap();
        assert!(all_paths(&gofer), "{:?}", held(&gofer, &tree));
    }
}

/// 2019-05-03: the directories on the way of a walk go with its end.
#[test]
fn walks_of_many_names_leak_no_directory_on_the_way() {
    both_ways(|tree, s| {
        tree.dir("a/b/c/d/e");
        let before = s.gofer.descriptor_count();
        for _ in 0..100 {
            s.walk_to(ROOT, 2, "a/b/c/d/e").unwrap();
            refused(s.walk_to(ROOT, 3, "a/b/c/d/none"), Errno::ENOENT);
            s.clunk(2).unwrap();
        }
        s.expect_descriptors(before);
    });
}

/// 2022-02-03: renames and unlinks meet paths whose fids were given up in the same breath.
#[test]
fn rename_and_unlink_right_behind_the_clunks_below_do_no_harm() {
    const FIDS: u32 = 3000;
    both_ways(|tree, s| {
        tree.dir("d/e");
        for number in 0..FIDS {
            tree.file(&format!("d/e/{number}"), b"");
        }
        let before = s.gofer.descriptor_count();
        s.walk_to(ROOT, 2, "d").unwrap();
        s.walk_to(ROOT, 3, "d/e").unwrap();
        const MAY_MISS: u16 = 9;
        let mut requests = Vec::new();
        for number in 0..FIDS {
            let (fid, name) = (100 + number, number.to_string());
            let name = name.as_bytes();
            requests.push(t::walk(1, 3, fid, &[name]));
            match number % 3 {
                0 => requests.extend([t::clunk(2, fid), t::unlinkat(3, 3, name, 0)]),
                1 => requests.extend([t::clunk(2, fid), t::renameat(3, 3, name, 2, name)]),
                _ => {
                    let (from, to) = if number % 2 == 0 {
                        (b"e", b"f")
                    } else {
                        (b"f", b"e")
                    };
                    requests.push(t::renameat(MAY_MISS, 2, from, 2, to));
                    requests.push(t::remove(3, fid));
                }
            }
        }
        for batch in requests.chunks(1500) {
            s.send(&batch.concat()).unwrap();
            for _ in batch {
                let reply = s.recv().unwrap();
                if reply.kind == RLERROR {
                    assert_eq!((reply.tag, reply.errno()), (MAY_MISS, Errno::ENOENT));
                }
            }
        }
        s.clunk(3).unwrap();
        s.clunk(2).unwrap();
        s.expect_descriptors(before);
        let left = names(tree, "d");
        assert_eq!(left.len(), 1 + FIDS as usize / 3);
        let dir = left.last().unwrap();
        assert_eq!(names(tree, &format!("d/{dir}")), [""; 0]);
    });
}

/// 2019-02-25: the attributes that a walk needs are the last one's; a clone needs none.
#[test]
fn clones_make_no_system_call_and_known_files_one() {
    let count = |clones: usize, walks: usize| {
        let tree = Tree::new();
        tree.file("f", b"");
        write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
        let own = TempDir::new();
        let trace = own.path().join("trace");
        let mut words: Vec<OsString> = ["-f", "-o"].map(OsString::from).into();
        words.extend([trace.clone().into(), binary().into(), "--bundle".into()]);
        words.extend([tree.bundle().into(), "--io-fds".into(), "3".into()]);
        let mut s = session_of(Launch::raw(&words).binary(Path::new("strace")));
        s.walk_to(ROOT, 2, "f").unwrap();
        for _ in 0..clones {
            s.walk(2, 3, &[]).unwrap();
        }
        for _ in 0..walks {
            s.walk(ROOT, 3, &[b"f"]).unwrap();
        }
        drop(s);
        let text = fs::read_to_string(trace).unwrap();
        let (_, served) = text.split_once("seccomp(SECCOMP_SET_MODE_FILTER").unwrap();
        let polling = [
            "ppoll(",
            "recv",
            "send",
            "close(",
            "madvise(",
            "clock_gettime(",
        ];
        let calls = served
            .lines()
            .filter(|line| polling.iter().all(|call| !line.contains(call)));
        calls.count()
    };
    // Beside those of the loop and of the time in the log.
    let base = count(0, 0);
    assert_eq!(count(1000, 0), base);
    assert_eq!(count(0, 1000), base + 1000);
}

// ---- replies and numbers ----

/// Since 2018: the 256th device made the request fail and later numbers wrap, so that two files had
/// one qid.
#[test]
fn devices_above_256_are_eremoteio_and_no_two_share_a_number() {
    const MOUNTS: usize = 256;
    let tree = Tree::new();
    for number in 0..MOUNTS {
        tree.dir(&format!("m{number}"));
    }
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let script = format!(
        "mount --make-rprivate / || exit 1
        number=0
        while [ $number -lt {MOUNTS} ]; do
            mount -t tmpfs -o size=4k none '{root}'/m$number || exit 1
            number=$((number + 1))
        done
        exec '{program}' --bundle '{bundle}' --io-fds 3",
        root = tree.root().display(),
        program = binary().display(),
        bundle = tree.bundle().display(),
    );
    let shell = Launch::raw(&["-c", &script]).binary(Path::new("/bin/sh"));
    let mut s = session_of(shell.namespace(Namespace::Mount));
    let mut numbers = BTreeSet::from([s.getattr(ROOT, 0).unwrap().qid.path >> 56]);
    for number in 0..MOUNTS - 1 {
        let name = format!("m{number}");
        let qid = s.walk_to(ROOT, 2, &name).unwrap().remove(0);
        assert!(numbers.insert(qid.path >> 56), "{name}: {qid:?}");
    }
    let last = format!("m{}", MOUNTS - 1);
    for _ in 0..3 {
        refused(s.walk_to(ROOT, 3, &last), Errno::EREMOTEIO);
        refused(s.walkgetattr(ROOT, 3, &[last.as_bytes()]), Errno::EREMOTEIO);
    }
    s.walk_to(ROOT, 4, "m0").unwrap();
    s.mkdir(4, b"d", 0o755, NOID).unwrap();
}

/// Two Tlopen in flight: in the original both can succeed.
#[test]
fn two_lopens_in_flight_on_one_fid_open_it_once() {
    both_ways(|tree, s| {
        tree.file("f", b"text");
        for _ in 0..50 {
            s.walk_to(ROOT, 2, "f").unwrap();
            s.send(&[t::lopen(1, 2, O_RDONLY), t::lopen(2, 2, O_RDWR)].concat())
                .unwrap();
            let first = s.recv().unwrap();
            assert_eq!((first.kind, first.tag, first.fd.is_some()), (13, 1, true));
            let second = s.recv().unwrap();
            assert_eq!((second.tag, second.fd.is_some()), (2, false));
            assert_eq!(second.errno(), Errno::EINVAL);
            refused(s.write(2, 0, Data(b"x")), Errno::EPERM);
        }
    });
}

/// The count was multiplied in 32 bits.
#[test]
fn readdir_with_counts_of_2_to_the_31_and_more_loses_no_entry() {
    let tree = Tree::new();
    for number in 0..3000 {
        tree.file(&format!("{number:0200}"), b"");
    }
    let mut s = serve(&tree);
    s.open(ROOT, 2, "", O_RDONLY).unwrap();
    for count in [0x8000_0000, 0x8000_0001, 0xa000_0000, u32::MAX] {
        let names: BTreeSet<_> = s
            .list(2, count)
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        assert_eq!(names.len(), 3000, "count {count:#x}");
    }
}

/// 2020-08-18: every way to write through an open, in both ways to open again.
#[test]
fn opens_that_write_or_truncate_are_erofs_on_a_read_only_attach_point() {
    for namespace in [None, Some(Namespace::User)] {
        let tree = Tree::new();
        tree.file("f", b"text");
        write_spec(&tree.bundle(), &spec(&tree.root(), true, &[]));
        let mut launch = Launch::new(&tree.bundle(), 1);
        if let Some(namespace) = namespace {
            launch = launch.namespace(namespace);
        }
        let mut s = session_of(launch);
        s.walk_to(ROOT, 2, "f").unwrap();
        for flags in [
            O_WRONLY,
            O_RDWR,
            O_TRUNC,
            O_WRONLY | O_TRUNC,
            O_RDWR | O_TRUNC,
        ] {
            refused(s.lopen(2, flags), Errno::EROFS);
        }
        s.lopen(2, O_RDONLY).unwrap();
        refused(s.write(2, 0, Data(b"x")), Errno::EPERM);
        refused(s.allocate(2, 0, 0, 10), Errno::EBADF);
        assert_eq!(tree.read("f"), b"text");
    }
}

// ---- swaps ----

/// Never fixed: by host path the times of a link outside the export could be changed.
#[test]
fn times_of_a_symlink_whose_directory_is_swapped_stay_inside() {
    let tree = Tree::new();
    tree.dir("d");
    tree.link("d/l", "target");
    fs::create_dir(tree.outside("secrets")).unwrap();
    let outside = tree.outside("secrets/l");
    std::os::unix::fs::symlink("target", &outside).unwrap();
    tree.link("swap", tree.outside("secrets"));
    let before = fs::symlink_metadata(&outside).unwrap();
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d/l").unwrap();
    meanwhile(
        || tree.swap("d", "swap").unwrap(),
        || {
            let attr = SetAttr {
                atime: 7,
                mtime: 7,
                ..SetAttr::default()
            };
            let done: Vec<_> = (0..20_000).map(|_| s.setattr(2, 0x1b0, &attr)).collect();
            for answer in done {
                answer.unwrap();
            }
        },
    );
    let after = fs::symlink_metadata(&outside).unwrap();
    assert_eq!(
        (after.mtime(), after.ctime(), after.ctime_nsec()),
        (before.mtime(), before.ctime(), before.ctime_nsec())
    );
    assert_eq!(s.getattr(2, 0).unwrap().attr.mtime, 7);
}

/// 2019-06-24, in the ways that change a file without opening it: only the one walked to.
#[test]
fn changes_of_a_file_that_is_swapped_never_reach_another() {
    for namespace in [None, Some(Namespace::User)] {
        let tree = Tree::new();
        fs::write(tree.outside("secret"), b"secret").unwrap();
        chmod(&tree.outside("secret"), 0o644);
        tree.file("f", b"text");
        tree.link("swap", tree.outside("secret"));
        let mut s = start(&tree, namespace);
        s.walk_to(ROOT, 2, "f").unwrap();
        meanwhile(
            || tree.swap("f", "swap").unwrap(),
            || {
                let mut broken = None;
                for round in 0..5000 {
                    let attr = SetAttr {
                        mode: 0o600,
                        size: round % 3,
                        atime: 7,
                        mtime: 7,
                        ..SetAttr::default()
                    };
                    match s.setattr(2, 0x1b0 | 9, &attr) {
                        // Without /proc the name is looked at again.
                        Err(Fault::Errno(Errno::ELOOP | Errno::ESTALE)) if namespace.is_some() => {}
                        Ok(_) => {}
                        other => broken = Some(other),
                    }
                }
                assert!(broken.is_none(), "{broken:?}");
            },
        );
        let secret = fs::metadata(tree.outside("secret")).unwrap();
        assert_eq!((secret.mode() & 0o777, secret.len()), (0o644, 6));
        assert_ne!(secret.mtime(), 7);
    }
}

/// 2020-08-19: what is made is made in the directory walked to, whatever leads there by now.
#[test]
fn mknod_in_a_directory_that_is_swapped_never_makes_anything_outside() {
    let tree = Tree::new();
    tree.dir("d");
    fs::create_dir(tree.outside("secrets")).unwrap();
    tree.link("swap", tree.outside("secrets"));
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    meanwhile(
        || tree.swap("d", "swap").unwrap(),
        || {
            let made: Vec<_> = (0..3000)
                .map(|number| {
                    let name = number.to_string();
                    s.mknod(2, name.as_bytes(), 0o100_600, 0, 0, NOID)
                })
                .collect();
            for answer in made {
                answer.unwrap();
            }
        },
    );
    assert_eq!(fs::read_dir(tree.outside("secrets")).unwrap().count(), 0);
    s.open(2, 3, "", O_RDONLY).unwrap();
    assert_eq!(s.list(3, 65_536).unwrap().len(), 3000);
}

/// 2020-04-09: errno of link and rename wrapped in another type became EIO.
#[test]
fn link_and_rename_errors_are_never_eio() {
    let tree = Tree::new();
    tree.dir("d/full");
    tree.dir("e/full");
    tree.file("f", b"");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    s.walk_to(ROOT, 3, "d").unwrap();
    refused(s.link(ROOT, 2, b"d"), Errno::EEXIST);
    refused(s.link(ROOT, 3, b"x"), Errno::EPERM);
    refused(s.rename(3, ROOT, b"e"), Errno::ENOTEMPTY);
    refused(s.renameat(ROOT, b"none", 3, b"x"), Errno::ENOENT);
    refused(s.renameat(ROOT, b"d", 3, b"x"), Errno::EINVAL);
}

/// A connection that ends while others work leaves nothing of its own open: 2020-08-18/19.
#[test]
fn end_of_a_connection_in_the_middle_of_its_requests_closes_its_files_alone() {
    let tree = Tree::new();
    tree.dir("m");
    for number in 0..200 {
        tree.file(&format!("m/{number}"), b"text");
    }
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/m", &[])]),
    );
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    let (mut kept, mut ended) = (gofer.connect(0), gofer.connect(1));
    kept.open(ROOT, 2, "m/0", O_RDONLY).unwrap();
    let before = gofer.descriptor_count();
    for number in 0..200u32 {
        let name = number.to_string();
        ended.open(ROOT, 10 + number, &name, O_RDWR).unwrap();
    }
    let many: Vec<u8> = (0..200).flat_map(|_| t::read(1, 10, 0, 4)).collect();
    ended.send(&many).unwrap();
    drop(ended);
    expect_descriptors(&gofer, &mut kept, before - 2); // its socket and its root
    assert_eq!(kept.read_all(2).unwrap(), b"text");
}

// ---- the list ----

/// Names of the tests in a directory and below.
fn tests_below(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension() == Some(OsStr::from_bytes(b"rs")) {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line == "#[test]" {
                    is_test = true;
                } else if let Some(rest) = line.strip_prefix("fn ") {
                    let name = rest.split('(').next().unwrap_or_default();
                    if std::mem::take(&mut is_test) {
                        found.insert(name.to_owned());
                    }
                } else if !line.starts_with("#[") && !line.starts_with("//") {
                    is_test = false;
                }
            }
        }
    }
}

/// A row is: date, fault, tests in back quotes or a reason that begins with "Cannot".
#[test]
fn every_fault_in_the_list_names_a_test_that_exists() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    tests_below(&package.join("tests"), &mut tests);
    assert!(tests.contains("every_fault_in_the_list_names_a_test_that_exists"));
    let list = fs::read_to_string(package.join("docs/faults.md")).unwrap();
    let (mut rows, mut wrong) = (0, Vec::new());
    for line in list.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [date, fault, kept] = cells[..] else {
            panic!("not three cells: {line}");
        };
        if date == "date" || date.starts_with("--") {
            continue;
        }
        rows += 1;
        let named: Vec<&str> = kept.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !kept.starts_with("Cannot") {
            wrong.push(format!("neither test nor reason: {fault}"));
        }
        for name in named {
            if !tests.contains(name) {
                wrong.push(format!("no test {name}: {fault}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rows >= 66, "only {rows} rows");
}

/// The tables that end in a column of tests: the differences, what comes of faults, and what the security model promises.
#[test]
fn every_test_that_the_documents_name_exists() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    for place in ["tests", "src"] {
        tests_below(&package.join(place), &mut tests);
    }
    let mut sentences = BTreeSet::new();
    let (mut rows, mut wrong) = (0, Vec::new());
    for document in [
        "docs/differences.md",
        "docs/linux.md",
        "docs/design.md",
        "docs/security-model.md",
    ] {
        let before = rows;
        let text = fs::read_to_string(package.join(document)).unwrap();
        let mut is_inside = false;
        for line in text.lines() {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let (first, last) = (cells.next().unwrap_or_default(), cells.next_back());
            let Some(last) = last.filter(|_| line.starts_with('|')) else {
                is_inside = false;
                continue;
            };
            if matches!(last, "test" | "tests") {
                is_inside = true;
            } else if is_inside && !last.starts_with("--") {
                rows += 1;
                let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
                if named.is_empty() {
                    wrong.push(format!("{document}: no test: {line}"));
                }
                for name in named.iter().filter(|&&name| !tests.contains(name)) {
                    wrong.push(format!("{document}: no test {name}"));
                }
                if document == "docs/security-model.md" {
                    sentences.insert(first.to_owned());
                }
            }
        }
        let least = if document == "docs/design.md" { 10 } else { 25 };
        assert!(rows - before >= least, "{document}: {} rows", rows - before);
    }
    let model = fs::read_to_string(package.join("docs/security-model.md")).unwrap();
    let (_, model) = model.split_once("\n## What holds\n").unwrap();
    let (model, _) = model.split_once("\n## ").unwrap();
    let numbered = model.lines().filter_map(|line| line.split_once(". "));
    let numbers: Vec<&str> = numbered
        .map(|(number, _)| number)
        .filter(|number| number.parse::<u8>().is_ok())
        .collect();
    assert!(numbers.len() >= 7, "{numbers:?}");
    for number in numbers {
        if !sentences.contains(number) {
            wrong.push(format!(
                "docs/security-model.md: nothing on sentence {number}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
