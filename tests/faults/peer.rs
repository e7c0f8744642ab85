//! The process at the other end is killed in the middle of any frame.

use crate::harness::{Launch, Mount, ROOT, Tree, spec, write_spec};
use crate::p9::{Data, MSIZE, NOFID, NOID, O_RDWR, t};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

#[test]
fn peer_killed_at_any_byte_has_its_whole_frames_served_and_nobody_else_notices() {
    let frames = [
        t::version(1, MSIZE, b"9P2000.L.Google.7"),
        t::attach(2, ROOT, NOFID, b"", b"/", NOID),
        t::walk(3, ROOT, 2, &[]),
        t::lcreate(4, 2, b"new", O_RDWR, 0o600, NOID),
        t::write(5, 2, 0, Data(b"some text")),
        t::mkdir(6, ROOT, b"dir", 0o700, NOID),
    ];
    let stream = frames.concat();
    let mut ends = Vec::new(); // of each frame
    for frame in &frames {
        ends.push(ends.last().unwrap_or(&0) + frame.len());
    }
    for cut in 0..=stream.len() {
        let tree = Tree::new();
        tree.dir("m");
        let mounts = [Mount::bind("/m", &[])];
        write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
        let bytes = tree.outside("stream");
        std::fs::write(&bytes, &stream[..cut]).unwrap();
        let mut gofer = Launch::new(&tree.bundle(), 2).start();
        let socket = gofer.sockets[0].take().expect("ours");
        let mut peer = Command::new("sh")
            .args(["-c", "cat $0 && echo >&2 && exec sleep 1000"])
            .arg(&bytes)
            .stdin(Stdio::null())
            .stdout(OwnedFd::from(socket))
            .stderr(Stdio::piped())
            .spawn()
            .expect("start sh");
        let mut said = [0];
        peer.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
        peer.kill().unwrap();
        peer.wait().unwrap();

        let mut other = gofer.connect(1);
        other.getattr(ROOT, 0).unwrap();
        drop(other);
        let exit = gofer.exit();
        assert_eq!(exit.code, Some(0), "cut at {cut}: {exit:?}");
        let served = ends.iter().filter(|&&end| end <= cut).count();
        let content = (served > 3).then(|| if served > 4 { &b"some text"[..] } else { b"" });
        let found = std::fs::read(tree.path("new")).ok();
        assert_eq!(found.as_deref(), content, "cut at {cut}");
        assert_eq!(tree.path("dir").exists(), served > 5, "cut at {cut}");
    }
}
