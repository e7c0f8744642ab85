//! Signals that come while it serves.

use crate::channel::{Channel, VERSION};
use crate::harness::{Launch, spec, write_spec};
use crate::harness::{ROOT, Tree, meanwhile, serve, session_of};
use crate::p9::{Data, Empty, MSIZE, NOID, O_RDONLY, O_RDWR, Rgetattr, SetAttr, t};
use crate::say;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// The default action: the process ends by it.
    End,
    /// The default action, or ours.
    Nothing,
    /// The default action; SIGCONT undoes it. From a terminal's (all but SIGSTOP) a process without one,
    /// whose group nobody minds, is kept.
    Stop,
}

fn does(number: i32) -> Does {
    match Signal::try_from(number) {
        Ok(Signal::SIGCHLD | Signal::SIGURG | Signal::SIGWINCH | Signal::SIGCONT) => Does::Nothing,
        // docs/design.md: a log's reader that is gone, and RLIMIT_FSIZE.
        Ok(Signal::SIGPIPE | Signal::SIGXFSZ) => Does::Nothing,
        Ok(Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU) => Does::Stop,
        _ => Does::End, // real-time signals among them
    }
}

/// Also those that have no name.
fn send(pid: u32, number: i32) {
    let status = Command::new("sh")
        .args(["-c", "kill -$0 $1", &number.to_string(), &pid.to_string()])
        .status()
        .expect("start sh");
    assert!(status.success(), "signal {number}");
}

#[test]
fn each_signal_has_its_default_action_but_two_that_are_ignored_and_one_that_channels_take() {
    let tree = Tree::new();
    tree.file("a", b"text");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    // 32 and 33 are the C library's: it lets no kill(1) have them.
    let all = (1..32).chain(34..=64);
    let sigio = Signal::SIGIO as i32;
    for (number, channels) in all.map(|number| (number, "2")).chain([(sigio, "0")]) {
        // What ignores signals may start us, and would be inherited.
        let launch = Launch::new(&tree.bundle(), 1).with(&["--channels", channels]);
        let mut s = session_of(launch.by("/usr/bin/env", &["--default-signal"]));
        s.open(ROOT, 2, "a", O_RDWR).unwrap();
        send(s.gofer.pid(), number);
        let does = match channels {
            "2" if number == sigio => Does::Nothing, // it counts
            _ => does(number),
        };
        match does {
            Does::End => {
                s.expect_closed();
                let exit = s.finish();
                assert_eq!((exit.code, exit.signal), (None, Some(number)), "{exit:?}");
                continue;
            }
            Does::Stop => send(s.gofer.pid(), Signal::SIGCONT as i32),
            Does::Nothing => {}
        }
        assert_eq!(s.read_all(2).unwrap(), b"text", "signal {number}");
        s.write(2, 0, Data(b"text")).unwrap();
    }
}

/// Requests through a channel while what its wait is woken by comes as fast as it can be.
#[test]
fn storm_of_signals_changes_no_answer_through_a_channel() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    s.version(MSIZE, VERSION).unwrap();
    let channel = Channel::open(&mut s, 0).unwrap();
    let pid = Pid::from_raw(s.gofer.pid().cast_signed());
    let storm = || {
        for signal in [
            Signal::SIGIO,
            Signal::SIGSTOP,
            Signal::SIGIO,
            Signal::SIGCONT,
        ] {
            kill(pid, signal).expect("kill");
        }
    };
    meanwhile(storm, || {
        for round in 0..1000 {
            let mode = 0o700 | (round % 8);
            let changed = SetAttr {
                mode,
                ..SetAttr::default()
            };
            channel
                .get::<Empty>(&t::setattr(1, ROOT, 1, &changed))
                .unwrap();
            assert_eq!(s.getattr(ROOT, 1).unwrap().attr.mode & 0o777, mode);
            let seen: Rgetattr = channel.get(&t::getattr(1, ROOT, 1)).unwrap();
            assert_eq!(seen.attr.mode & 0o777, mode);
        }
    });
    kill(pid, Signal::SIGCONT).unwrap();
}

/// Stopped and continued, and interrupted by what it ignores, as fast as it can be.
#[test]
fn storm_of_signals_changes_no_answer() {
    const ROUNDS: u64 = 300;
    let tree = Tree::new();
    for number in 0..50 {
        tree.file(&format!("{number}"), b"");
    }
    let mut s = serve(&tree);
    let pid = Pid::from_raw(s.gofer.pid().cast_signed());
    let sent = AtomicUsize::new(0);
    let storm = || {
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGSTOP,
            Signal::SIGURG,
            Signal::SIGPIPE,
            Signal::SIGCONT,
            Signal::SIGWINCH,
            Signal::SIGXFSZ,
            Signal::SIGCONT,
        ] {
            kill(pid, signal).expect("kill");
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    meanwhile(storm, || {
        s.walk_to(ROOT, 2, "").unwrap();
        s.lcreate(2, b"file", O_RDWR, 0o600, NOID).unwrap();
        for round in 0..ROUNDS {
            let piece: Vec<u8> = (0..7000).map(|at| (at as u64 * 31 + round) as u8).collect();
            let written = s.write(2, round * 7000, Data(&piece)).unwrap().count;
            assert_eq!(written, 7000);
            assert_eq!(s.read(2, round * 7000, 7000).unwrap().data.0, piece);
            if round % 10 == 0 {
                s.open(ROOT, 3, "", O_RDONLY).unwrap();
                assert_eq!(s.list(3, 300).unwrap().len(), 51);
                s.clunk(3).unwrap();
            }
        }
        s.fsync(2, 0).unwrap();
    });
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(tree.stat("file").len(), ROUNDS * 7000);
    say(&format!(
        "signals: {} while {ROUNDS} rounds were served",
        sent.load(Ordering::Relaxed)
    ));
}
