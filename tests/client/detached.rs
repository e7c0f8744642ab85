//! What is served lies on mounts that nobody else has, and Landlock lets the process reach nothing beside it:
//! looked at from outside, through /proc/PID/fd, where root of the host meets what the process would meet.

use crate::confinement::expect_empty;
use crate::harness::{
    Gofer, Launch, Mount, Namespace, ROOT, Tree, chmod, file_of, serve, serve_mounts,
    serve_read_only, session_of, spec, write_spec,
};
use crate::p9::{Client, NOFID, O_RDONLY, O_RDWR, O_WRONLY, refused};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// A descriptor of the program on `path`, as a path of ours: opening it opens by the mount that the program has.
fn held(gofer: &Gofer, path: &Path) -> PathBuf {
    let wanted = file_of(path);
    let all = gofer.descriptors().unwrap();
    let mut places = all
        .iter()
        .map(|(number, _)| gofer.proc(&format!("fd/{number}")));
    let found = places.find(|place| file_of(place) == wanted);
    found.unwrap_or_else(|| panic!("{path:?} is not held: {all:?}"))
}

/// The number of the mount that a descriptor lies on.
fn mount_id(gofer: &Gofer, held: &Path) -> String {
    let number = held.file_name().unwrap().to_str().unwrap();
    let text = gofer.proc_text(&format!("fdinfo/{number}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    line.unwrap().trim().to_owned()
}

const NOTHING: Option<&str> = None;

fn bind(source: &Path, place: &Path) {
    mount(Some(source), place, NOTHING, MsFlags::MS_BIND, NOTHING).unwrap();
}

fn tmpfs(place: &Path) {
    mount(Some("t"), place, Some("tmpfs"), MsFlags::empty(), NOTHING).unwrap();
}

/// Does `work` in a mount namespace of its own, where programs that it starts are too, as a runtime's are.
fn in_a_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(NOTHING, "/", NOTHING, private, NOTHING).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(inside).join().unwrap())
}

fn mountinfo() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

#[test]
fn attach_points_lie_on_mounts_of_no_namespace() {
    let tree = Tree::new();
    tree.dir("m");
    let (gofer, _clients) = serve_mounts(&tree, false, &[Mount::bind("/m", &[])]);
    let ids = [tree.root(), tree.path("m")].map(|path| mount_id(&gofer, &held(&gofer, &path)));
    assert_ne!(ids[0], ids[1]);
    let listed: Vec<String> = mountinfo()
        .lines()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert!(listed.iter().all(|id| !ids.contains(id)), "{ids:?}");
    assert_eq!(gofer.proc_text("mountinfo").unwrap(), "");
}

#[test]
fn read_only_attach_points_are_so_for_the_kernel_and_others_are_not() {
    let tree = Tree::new();
    tree.file("f", b"text");
    let s = serve_read_only(&tree);
    let root = held(&s.gofer, &tree.root());
    let refusals = [
        fs::write(root.join("new"), b""),
        fs::write(root.join("f"), b""),
        fs::create_dir(root.join("d")),
        fs::remove_file(root.join("f")),
        symlink("x", root.join("l")),
        chown(root.join("f"), Some(1), Some(1)),
    ];
    for refusal in refusals {
        assert_eq!(refusal.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(fs::read(root.join("f")).unwrap(), b"text");
    drop(s);

    let s = serve(&tree);
    fs::write(held(&s.gofer, &tree.root()).join("new"), b"").unwrap();
}

#[test]
fn set_id_programs_and_devices_of_an_attach_point_do_nothing_on_the_host() {
    let tree = Tree::new();
    fs::copy("/usr/bin/id", tree.path("id")).unwrap();
    chown(tree.path("id"), Some(65534), None).unwrap();
    chmod(&tree.path("id"), 0o4755);
    mknod(
        &tree.path("null"),
        SFlag::S_IFCHR,
        Mode::from_bits_truncate(0o666),
        makedev(1, 3),
    )
    .unwrap();
    let s = serve(&tree);
    let held = held(&s.gofer, &tree.root());
    let user = |program: PathBuf| {
        let output = Command::new(program).arg("-u").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(
        user(tree.path("id")),
        "65534",
        "the directory of the tests is nosuid"
    );
    assert_eq!(user(held.join("id")), "0");
    File::open(tree.path("null")).expect("the directory of the tests is nodev");
    let refusal = File::open(held.join("null")).unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn donated_files_are_mapped_executable() {
    let tree = Tree::new();
    fs::copy("/usr/bin/true", tree.path("program")).unwrap();
    let mut s = serve_read_only(&tree);
    let donated = s.open(ROOT, 2, "program", O_RDONLY).unwrap().fd.unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), donated.as_raw_fd());
    // The loader maps the program by mmap(2), as a sandbox does; the kernel does it by itself.
    let loader = "/lib64/ld-linux-x86-64.so.2";
    for words in [&[loader, &path][..], &[&path]] {
        let status = Command::new(words[0]).args(&words[1..]).status();
        assert!(status.unwrap().success(), "{words:?}");
    }
}

/// The way out of a chroot: `..` from a directory that the host moved away meanwhile.
#[test]
fn a_directory_moved_out_of_its_attach_point_has_no_way_up() {
    let tree = Tree::new();
    tree.dir("d/e");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    let held = held(&s.gofer, &tree.path("d"));
    assert!(held.join("../d").is_dir());
    fs::rename(tree.path("d"), tree.outside("d")).unwrap();
    let up = fs::read_dir(held.join("..")).unwrap_err();
    assert_eq!(up.kind(), ErrorKind::NotFound);
    assert!(held.join("e").is_dir());
    s.getattr(2, 0).unwrap();
}

/// Where a file is opened again by its descriptor, its directory is not needed and not held.
/// The fids are those of Linux's client, which lists `..` too. Into that directory some kernels let names go.
#[test]
fn a_directory_moved_out_is_served_below_names_out_of_it_are_exdev_and_its_parent_is_a_number() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/in", b"text");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut gofer = Launch::new(&tree.bundle(), 1).start();
    let mut client = gofer.client(0);
    client.version(1 << 17, b"9P2000.L").unwrap();
    client.attach_root(ROOT).unwrap();
    for (fid, path) in [(2, "d"), (3, "d/in"), (4, "d")] {
        client.walk_to(ROOT, fid, path).unwrap();
    }
    fs::rename(tree.path("d"), tree.outside("d")).unwrap();
    // What comes there later is served too.
    fs::write(tree.outside("d/later"), b"later").unwrap();
    client.mkdir(2, b"made", 0o755, NOFID).unwrap();
    client.walk_to(2, 5, "later").unwrap();
    client.renameat(2, b"later", 2, b"last").unwrap();
    assert!(tree.outside("d/made").is_dir() && tree.outside("d/last").is_file());

    for name in [&b"in"[..], b"made"] {
        refused(client.renameat(2, name, ROOT, b"new"), Errno::EXDEV);
    }
    refused(client.rename(3, ROOT, b"new"), Errno::EXDEV);
    refused(client.link(ROOT, 3, b"new"), Errno::EXDEV);
    assert!(tree.outside("d/in").is_file() && !tree.path("new").exists());

    client.lopen(4, O_RDONLY).unwrap();
    let list = client.list(4, 4096).unwrap();
    let above = list.iter().find(|entry| entry.name == b"..").unwrap();
    let number = fs::metadata(tree.outside("")).unwrap().ino();
    assert_eq!(above.qid.path, number);
}

#[test]
fn the_directory_of_a_file_that_is_an_attach_point_is_not_held() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"text");
    let mount = [Mount::bind("/d/f", &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mount));
    for (namespace, is_held) in [(None, false), (Some(Namespace::User), true)] {
        let mut launch = Launch::new(&tree.bundle(), 2);
        if let Some(namespace) = namespace {
            launch = launch.namespace(namespace);
        }
        let mut gofer = launch.start();
        let mut client = gofer.connect(1);
        client.lopen(ROOT, O_RDWR).unwrap();
        assert_eq!(client.read_all(ROOT).unwrap(), b"text");
        let dir = file_of(tree.path("d"));
        let all = gofer.descriptors().unwrap();
        let found = all
            .iter()
            .any(|(number, _)| file_of(gofer.proc(&format!("fd/{number}"))) == dir);
        assert_eq!(found, is_held, "{namespace:?}: {all:?}");
    }
}

// ---- mounts of the runtime's, below the root ----

/// A tree with what a runtime of 2018 has mounted in it: `ro` and `rw`, each from a directory beside the root.
fn with_mounts() -> Tree {
    let tree = Tree::new();
    for name in ["ro", "rw"] {
        tree.dir(name);
        fs::create_dir_all(tree.outside(name).join("below")).unwrap();
        fs::write(tree.outside(name).join("f"), b"text").unwrap();
        bind(&tree.outside(name), &tree.path(name));
    }
    tree.file("g", b"text");
    tree
}

fn started(tree: &Tree, mounts: &[Mount]) -> (Gofer, Vec<Client>) {
    serve_mounts(tree, false, mounts)
}

#[test]
fn a_read_only_mount_is_so_through_the_roots_connection_and_not_for_the_host() {
    in_a_namespace(|| {
        let tree = with_mounts();
        tmpfs(&tree.path("ro/below"));
        let before = mountinfo();
        let mounts = [
            Mount::bind("/ro", &["ro"]),
            Mount::bind("/rw", &[]),
            Mount::bind("/ro", &[]),
        ];
        let (gofer, mut clients) = started(&tree, &mounts);
        let root = &mut clients[0];
        for (fid, path) in [(2, "ro"), (3, "ro/below")] {
            root.walk_to(ROOT, fid, path).unwrap();
            refused(root.mkdir(fid, b"d", 0o755, NOFID), Errno::EROFS);
        }
        refused(root.open(ROOT, 4, "ro/f", O_WRONLY), Errno::EROFS);
        refused(root.unlinkat(2, b"f", 0), Errno::EROFS);
        root.walk_to(ROOT, 5, "rw").unwrap();
        root.mkdir(5, b"d", 0o755, NOFID).unwrap();
        refused(clients[1].mkdir(ROOT, b"d", 0o755, NOFID), Errno::EROFS);
        clients[2].mkdir(ROOT, b"e", 0o755, NOFID).unwrap();
        // Its own connection, since its own option is not `ro`.
        clients[3].mkdir(ROOT, b"d", 0o755, NOFID).unwrap();
        let held = held(&gofer, &tree.root());
        let refusal = fs::create_dir(held.join("ro/made")).unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::ReadOnlyFilesystem);
        fs::create_dir(tree.path("ro/made")).unwrap();
        assert_eq!(mountinfo(), before);
    });
}

/// From the root of a clone there is no way up; from the mount that was cloned there is.
#[test]
fn nothing_but_the_clones_is_held() {
    in_a_namespace(|| {
        let tree = with_mounts();
        let mounts = [Mount::bind("/ro", &["ro"]), Mount::bind("/rw", &[])];
        let (gofer, _clients) = started(&tree, &mounts);
        let all = gofer.descriptors().unwrap();
        let dirs = all
            .iter()
            .filter(|(number, _)| gofer.proc(&format!("fd/{number}")).is_dir());
        let paths: Vec<_> = dirs.map(|(_, path)| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/"; 4]); // and that of /proc/self/fd
    });
}

/// The runtime has mounted nothing at the destination: a mount of ours there would be EBUSY, and EXDEV, to the root's client.
#[test]
fn a_read_only_mount_that_is_none_is_so_for_its_own_connection_alone() {
    let tree = Tree::new();
    tree.dir("ro");
    let (_gofer, mut clients) = serve_mounts(&tree, false, &[Mount::bind("/ro", &["ro"])]);
    refused(clients[1].mkdir(ROOT, b"d", 0o755, NOFID), Errno::EROFS);
    clients[0].walk_to(ROOT, 2, "ro").unwrap();
    clients[0].mkdir(2, b"d", 0o755, NOFID).unwrap();
    assert!(tree.path("ro/d").is_dir());
    clients[0].renameat(ROOT, b"ro", ROOT, b"moved").unwrap();
}

/// As it was on the runtime's own mounts.
#[test]
fn names_across_mounts_are_exdev_and_mount_points_ebusy_as_ever() {
    in_a_namespace(|| {
        let tree = with_mounts();
        let (_gofer, mut clients) = started(
            &tree,
            &[Mount::bind("/ro", &["ro"]), Mount::bind("/rw", &[])],
        );
        let root = &mut clients[0];
        root.walk_to(ROOT, 2, "rw").unwrap();
        root.walk_to(ROOT, 3, "g").unwrap();
        root.walk_to(ROOT, 4, "rw/f").unwrap();
        refused(root.renameat(ROOT, b"g", 2, b"g"), Errno::EXDEV);
        refused(root.renameat(2, b"f", ROOT, b"f"), Errno::EXDEV);
        refused(root.link(2, 3, b"g"), Errno::EXDEV);
        refused(root.link(ROOT, 4, b"f"), Errno::EXDEV);
        for name in [&b"rw"[..], b"ro"] {
            refused(root.unlinkat(ROOT, name, 0x200), Errno::EBUSY);
            refused(root.renameat(ROOT, name, ROOT, b"other"), Errno::EBUSY);
        }
        root.walk_to(ROOT, 5, "rw/below").unwrap();
        root.renameat(2, b"f", 5, b"f").unwrap();
        root.link(2, 4, b"again").unwrap();
        assert!(tree.outside("rw/below/f").is_file() && tree.outside("rw/again").is_file());
    });
}

#[test]
fn mounts_made_later_are_not_seen_and_those_there_at_the_start_stay() {
    in_a_namespace(|| {
        let tree = with_mounts();
        tree.dir("late");
        let (_gofer, mut clients) = started(&tree, &[]);
        tmpfs(&tree.path("late"));
        tree.file("late/new", b"");
        umount2(&tree.path("rw"), MntFlags::empty()).unwrap();
        refused(clients[0].walk_to(ROOT, 2, "late/new"), Errno::ENOENT);
        clients[0].walk_to(ROOT, 3, "rw/f").unwrap();
    });
}

/// Propagation of unmounting reaches the clone of a shared mount: nothing is kept busy on the host.
#[test]
fn a_shared_mount_that_the_host_unmounts_is_gone() {
    in_a_namespace(|| {
        let tree = Tree::new();
        tmpfs(&tree.root());
        let shared = MsFlags::MS_SHARED;
        mount(NOTHING, &tree.root(), NOTHING, shared, NOTHING).unwrap();
        tree.dir("m");
        tmpfs(&tree.path("m"));
        tree.file("m/f", b"");
        let (_gofer, mut clients) = started(&tree, &[]);
        clients[0].walk_to(ROOT, 2, "m/f").unwrap();
        clients[0].clunk(2).unwrap();
        umount2(&tree.path("m"), MntFlags::empty()).unwrap();
        refused(clients[0].walk_to(ROOT, 2, "m/f"), Errno::ENOENT);
    });
}

// ---- where kernel or privileges refuse ----

/// Started under a tracer that has these calls fail: what is told, and what is served all the same.
#[test]
fn each_step_that_is_refused_is_told_and_done_without() {
    let steps = [
        (
            "open_tree:error=ENOSYS",
            "\"/\" is not held by mounts alone: function not implemented",
        ),
        (
            "open_tree:error=EPERM:when=2",
            "\"/ro\" is not held by mounts alone: operation not permitted",
        ),
        (
            "open_tree:error=EINVAL:when=3+",
            "\"/\" is not held by mounts alone: invalid argument",
        ),
        (
            "mount_setattr:error=ENOSYS",
            "\"/\" is not held by mounts alone: function not implemented",
        ),
        (
            "unshare:error=EPERM",
            "\"/\" is not held by mounts alone: operation not permitted",
        ),
        (
            "fsopen:error=ENOSYS",
            "No empty directory for a root: function not implemented",
        ),
        (
            "fsconfig:error=EPERM",
            "No empty directory for a root: operation not permitted",
        ),
        (
            "fsmount:error=ENOSYS",
            "No empty directory for a root: function not implemented",
        ),
        (
            "chroot:error=EPERM:when=2",
            "No empty directory for a root: operation not permitted",
        ),
        (
            "landlock_create_ruleset:error=ENOSYS",
            "No Landlock rules: function not implemented",
        ),
        (
            "landlock_create_ruleset:error=EOPNOTSUPP",
            "No Landlock rules: operation not supported",
        ),
        (
            "landlock_create_ruleset:retval=1",
            "No Landlock rules: operation not supported",
        ),
        (
            "landlock_add_rule:error=EINVAL",
            "No Landlock rules: invalid argument",
        ),
        (
            "landlock_restrict_self:error=E2BIG",
            "No Landlock rules: argument list too long",
        ),
    ];
    for (inject, text) in steps {
        let tree = Tree::new();
        tree.file("ro", b"text");
        tree.dir("d");
        let mounts = [Mount::bind("/ro", &["ro"])];
        write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
        let inject = format!("inject={inject}");
        let by = ["-f", "-o", "/dev/null", "-e", &inject];
        let mut gofer = Launch::new(&tree.bundle(), 2).by("strace", &by).start();
        let (mut root, mut file) = (gofer.connect(0), gofer.connect(1));
        let told = gofer.stderr();
        assert!(told.contains(text), "{inject}: {text}: {told}");
        root.open(ROOT, 2, "ro", O_RDWR).unwrap();
        assert_eq!(root.read_all(2).unwrap(), b"text");
        root.walk_to(ROOT, 3, "d").unwrap();
        root.mkdir(3, b"made", 0o755, NOFID).unwrap();
        root.renameat(3, b"made", ROOT, b"moved").unwrap();
        assert!(tree.path("moved").is_dir());
        refused(file.lopen(ROOT, O_RDWR), Errno::EROFS);
        file.lopen(ROOT, O_RDONLY).unwrap();
        assert_eq!(file.read_all(ROOT).unwrap(), b"text");
    }
}

/// Nothing could be cloned; Landlock takes no privilege.
#[test]
fn landlock_alone_keeps_a_start_without_mounts_of_its_own_below_the_root() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"text");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).namespace(Namespace::User));
    let told = s.gofer.stderr();
    for wanted in [
        "\"/\" is not held by mounts alone: operation not permitted",
        "No empty directory for a root: operation not permitted",
        "Landlock rules installed.",
    ] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    s.walk_to(ROOT, 2, "d/f").unwrap();
    s.walk_to(ROOT, 3, "d").unwrap();
    fs::rename(tree.path("d"), tree.outside("d")).unwrap();
    refused(s.lopen(2, O_RDONLY), Errno::EACCES);
    refused(s.mkdir(3, b"new", 0o755, NOFID), Errno::EACCES);
    refused(s.unlinkat(3, b"f", 0), Errno::EACCES);
    assert!(tree.outside("d/f").is_file());
}

#[test]
fn an_unbindable_mount_is_served_as_it_is() {
    in_a_namespace(|| {
        let tree = with_mounts();
        let unbindable = MsFlags::MS_UNBINDABLE;
        mount(NOTHING, &tree.path("rw"), NOTHING, unbindable, NOTHING).unwrap();
        let mounts = [Mount::bind("/rw", &["unbindable"])];
        let (gofer, mut clients) = started(&tree, &mounts);
        clients[0].walk_to(ROOT, 2, "rw/f").unwrap();
        clients[1].mkdir(ROOT, b"d", 0o755, NOFID).unwrap();
        let told = gofer.stderr();
        for name in ["/", "/rw"] {
            let text = format!("\"{name}\" is not held by mounts alone: invalid argument");
            assert!(told.contains(&text), "{text}: {told}");
        }
        // From what is no clone the way up ends at the process's root.
        assert_eq!(file_of(gofer.proc("root")), file_of(tree.root()));
    });
}

/// With sockets of the host, connect(2) takes its address from the working directory.
#[test]
fn host_uds_leaves_the_working_directory_to_the_descriptors_and_the_root_empty() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let launch = Launch::new(&tree.bundle(), 1).through("runsc", &["--host-uds=open"]);
    let s = session_of(launch);
    expect_empty(&s.gofer, "root");
    let names = fs::read_dir(s.gofer.proc("cwd")).unwrap();
    assert!(names.count() > 3);
}
