//! File systems that are full, become read-only or go away while they are served.

use crate::harness::{Gofer, Launch, Mount, ROOT, Tree, spec, write_spec};
use crate::p9::{Answer, Client, Data, O_RDONLY, O_RDWR, SetAttr, refused};
use nix::errno::Errno;
use nix::libc::{AT_REMOVEDIR, S_IFREG};
use std::ffi::CStr;
use std::fmt::Debug;
use std::process::Command;

/// A tmpfs at `small`, two attached connections of which the second is a mount's, and `small` as fid 2.
struct Served {
    tree: Tree,
    gofer: Gofer,
    client: Client,
    other: Client,
}

const SMALL: u32 = 2;

fn serve(options: &'static CStr) -> Served {
    let tree = Tree::new();
    tree.dir("small");
    tree.dir("other");
    let mounts = [Mount::bind("/other", &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let launch = Launch::new(&tree.bundle(), 2).tmpfs(&tree.path("small"), options);
    let mut gofer = launch.start();
    let (mut client, other) = (gofer.connect(0), gofer.connect(1));
    client.walk_to(ROOT, SMALL, "small").unwrap();
    Served {
        tree,
        gofer,
        client,
        other,
    }
}

impl Served {
    /// Runs a command in the mount namespace of the program, with the tmpfs' path behind its words.
    #[track_caller]
    fn on_host(&self, words: &[&str]) {
        let status = Command::new("nsenter")
            .args(["-t", &self.gofer.pid().to_string(), "-m"])
            .args(words)
            .arg(self.tree.path("small"))
            .status()
            .expect("start nsenter");
        assert!(status.success(), "{words:?}: {status}");
    }

    fn names(&mut self) -> Vec<String> {
        self.client.walk_to(SMALL, 90, "").unwrap();
        self.client.lopen(90, O_RDONLY).unwrap();
        let list = self.client.list(90, 4096).unwrap();
        self.client.clunk(90).unwrap();
        let name = |name: Vec<u8>| String::from_utf8(name).unwrap();
        let mut names: Vec<String> = list.into_iter().map(|entry| name(entry.name)).collect();
        names.sort();
        names
    }
}

/// A request, and what it gives.
type Try<'a> = (&'a str, &'a mut dyn FnMut(&mut Client) -> Answer<()>);

/// Everything that makes an object, as fids 10 and on.
fn make_all(c: &mut Client, mut each: impl FnMut(&str, Answer<()>)) {
    fn plain<T: Debug>(answer: Answer<T>) -> Answer<()> {
        answer.map(drop)
    }
    let tries: &mut [Try<'_>] = &mut [
        ("created", &mut |c| {
            c.walk_to(SMALL, 10, "")?;
            let made = plain(c.lcreate(10, b"created", O_RDWR, 0o600, 0));
            c.clunk(10)?;
            made
        }),
        ("theirs", &mut |c| {
            c.walk_to(SMALL, 10, "")?;
            let made = plain(c.ucreate(10, b"theirs", O_RDWR, 0o600, 77, 77));
            c.clunk(10)?;
            made
        }),
        ("dir", &mut |c| plain(c.mkdir(SMALL, b"dir", 0o700, 0))),
        ("node", &mut |c| {
            plain(c.mknod(SMALL, b"node", S_IFREG | 0o600, 0, 0, 0))
        }),
        ("link", &mut |c| plain(c.link(SMALL, 3, b"link"))),
        // One that does not fit into the inode.
        ("symlink", &mut |c| {
            plain(c.symlink(SMALL, b"symlink", &[b'x'; 2000], 0))
        }),
    ];
    for (name, request) in tries {
        each(name, request(c));
    }
}

const ALL: [&str; 6] = ["created", "dir", "link", "node", "symlink", "theirs"];

#[test]
fn full_file_system_is_enospc_and_serves_again_when_there_is_room() {
    let mut s = serve(c"size=64k,nr_inodes=40");
    s.client.walk_to(SMALL, 3, "").unwrap();
    s.client.lcreate(3, b"data", O_RDWR, 0o600, 0).unwrap();
    let mut written = 0u64;
    let failed = loop {
        match s.client.write(3, written, Data(&[7; 5000])) {
            Ok(reply) => written += u64::from(reply.count),
            failed => break failed,
        }
    };
    refused(failed, Errno::ENOSPC);
    assert!((40_000..=65_536).contains(&written), "{written}");
    refused(s.client.allocate(3, 0, 65_536, 65_536), Errno::ENOSPC);
    assert_eq!(s.client.getattr(3, 0).unwrap().attr.size, written);
    assert_eq!(s.client.read_all(3).unwrap(), vec![7; written as usize]);

    // No inode is left either.
    let mut count = 0;
    let failed = loop {
        match s
            .client
            .mkdir(SMALL, format!("filler{count:02}").as_bytes(), 0o700, 0)
        {
            Ok(_) => count += 1,
            failed => break failed,
        }
    };
    refused(failed, Errno::ENOSPC);
    let before = s.names();
    for _ in 0..2 {
        make_all(&mut s.client, |_, answer| refused(answer, Errno::ENOSPC));
        s.other.getattr(ROOT, 0).unwrap();
    }
    assert_eq!(s.names(), before, "what failed has left something");
    s.client.statfs(SMALL).unwrap();
    s.client
        .renameat(SMALL, b"filler00", SMALL, b"renamed")
        .unwrap();

    // Room again, for data and for inodes.
    s.client
        .setattr(
            3,
            8,
            &SetAttr {
                size: 100,
                ..SetAttr::default()
            },
        )
        .unwrap();
    for number in 1..count {
        let name = format!("filler{number:02}");
        let flags = AT_REMOVEDIR.cast_unsigned();
        s.client.unlinkat(SMALL, name.as_bytes(), flags).unwrap();
    }
    assert_eq!(s.client.write(3, 100, Data(b"more")).unwrap().count, 4);
    make_all(&mut s.client, |name, answer| {
        answer.unwrap_or_else(|fault| panic!("{name}: {fault}"));
    });
    let mut wanted = ["data", "renamed"].map(str::to_owned).to_vec();
    wanted.extend(ALL.map(str::to_owned));
    wanted.sort();
    assert_eq!(s.names(), wanted);
}

#[test]
fn file_system_made_read_only_is_erofs_until_it_is_writable_again() {
    let mut s = serve(c"size=1m");
    s.client.walk_to(SMALL, 3, "").unwrap();
    s.client.lcreate(3, b"data", O_RDWR, 0o600, 0).unwrap();
    s.client.write(3, 0, Data(b"text")).unwrap();
    s.client.clunk(3).unwrap(); // the host does not do it while a file is open for writing
    s.client.walk_to(SMALL, 3, "data").unwrap();
    s.client.walk_to(SMALL, 4, "data").unwrap();
    s.client.lopen(4, O_RDONLY).unwrap();
    let attr = SetAttr {
        mode: 0o640,
        size: 1,
        ..SetAttr::default()
    };
    for _ in 0..3 {
        s.on_host(&["mount", "-o", "remount,ro"]);
        make_all(&mut s.client, |_, answer| refused(answer, Errno::EROFS));
        for valid in [0x1, 0x2 | 0x4, 0x8, 0x10 | 0x20] {
            for fid in [3, 4] {
                refused(s.client.setattr(fid, valid, &attr), Errno::EROFS);
            }
        }
        refused(s.client.setxattr(3, b"user.a", b"1", 0), Errno::EROFS);
        refused(s.client.unlinkat(SMALL, b"data", 0), Errno::EROFS);
        refused(
            s.client.renameat(SMALL, b"data", SMALL, b"other"),
            Errno::EROFS,
        );
        s.client.walk_to(SMALL, 5, "data").unwrap();
        refused(s.client.lopen(5, O_RDWR), Errno::EROFS);
        s.client.lopen(5, O_RDONLY).unwrap();
        for fid in [4, 5] {
            assert_eq!(s.client.read_all(fid).unwrap(), b"text");
            s.client.fsync(fid, 0).unwrap();
        }
        s.client.clunk(5).unwrap();
        assert_eq!(s.names(), ["data"]);
        s.other.getattr(ROOT, 0).unwrap();

        s.on_host(&["mount", "-o", "remount,rw"]);
        make_all(&mut s.client, |name, answer| {
            answer.unwrap_or_else(|fault| panic!("{name}: {fault}"));
        });
        for name in ALL {
            let flags = if name == "dir" { AT_REMOVEDIR } else { 0 };
            let flags = flags.cast_unsigned();
            s.client.unlinkat(SMALL, name.as_bytes(), flags).unwrap();
        }
        s.client.setattr(3, 0x1, &attr).unwrap();
    }
}

/// A file system that nobody else can reach by name any more: a mount that was there at the start stays in the
/// clone that is served.
#[test]
fn file_system_taken_away_is_served_to_those_who_hold_it() {
    let mut s = serve(c"size=1m");
    s.client.walk_to(SMALL, 3, "").unwrap();
    s.client.lcreate(3, b"data", O_RDWR, 0o600, 0).unwrap();
    s.client.write(3, 0, Data(b"text")).unwrap();
    s.client.walk_to(SMALL, 4, "data").unwrap();
    let inside = s.client.getattr(SMALL, 0).unwrap().qid;
    s.on_host(&["umount", "-l"]);
    assert_eq!(s.client.getattr(SMALL, 0).unwrap().qid, inside);
    assert_eq!(s.client.write(3, 4, Data(b" more")).unwrap().count, 5);
    assert_eq!(s.client.read_all(3).unwrap(), b"text more");
    s.client.fsync(3, 0).unwrap();
    s.client.lopen(4, O_RDWR).unwrap();
    assert_eq!(s.client.read_all(4).unwrap(), b"text more");
    make_all(&mut s.client, |name, answer| {
        // What has no mount any more is linked by nobody: linkat(2) says so.
        if let Err(fault) = answer {
            panic!("{name}: {fault}");
        }
    });
    let now = s.client.walk_to(ROOT, 5, "small").unwrap().remove(0);
    assert_eq!(now, inside);
    s.client.walk_to(5, 6, "").unwrap();
    s.client.lopen(6, O_RDONLY).unwrap();
    assert!(!s.client.list(6, 4096).unwrap().is_empty());
    s.other.getattr(ROOT, 0).unwrap();
}
