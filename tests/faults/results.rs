//! Every system call of the table is made to fail, in each request that makes it: by overwriting what it
//! gave, and by keeping it from being done. The errno reaches the client on the request's tag, what was
//! refused has changed nothing, no descriptor is lost, and the other connection is answered.

#![allow(non_upper_case_globals)] // in patterns

use crate::channel::{Channel, OVER, VERSION};
use crate::harness::{Namespace, ROOT, expect_descriptors};
use crate::p9::{
    Client, Data, Fault, MSIZE, NOID, O_RDWR, PATIENCE, RLERROR, Rgetattr, Rread, refused, t,
};
use crate::say;
use crate::table::{describe, matching};
use crate::tracer::{Done, How, Plan, Tracer};
use crate::work::{
    Case, Outcome, PLAIN, Sight, Start, Where, World, cases, content, difference, is_half_done,
    sight,
};
use gofer::limits::WINDOW_BYTES;
use gofer::p9::messages::REQUESTS;
use gofer::sandbox::seccomp::{ALLOWED, Modes};
use linux_raw_sys::general::*;
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const ERRNOS: [Errno; 7] = [
    Errno::ENOSPC,
    Errno::EIO,
    Errno::EINTR,
    Errno::EAGAIN,
    Errno::ENOMEM,
    Errno::EMFILE,
    Errno::ESTALE,
];

/// Rows that no fault can be put into, by their call, and why.
const NEVER: &[(u32, &str)] = &[
    (__NR_exit_group, "it does not return"),
    (
        __NR_rt_sigreturn,
        "it returns to what was interrupted, with its registers",
    ),
];

/// Calls of the loop and the logs, which every request makes: they have tests of their own.
const LOOP: &[u32] = &[
    __NR_ppoll,
    __NR_recvfrom,
    __NR_sendmsg,
    __NR_madvise,
    __NR_write,
    __NR_clock_gettime,
    __NR_futex,
    __NR_futex_waitv,
    __NR_rt_sigprocmask,
    __NR_sched_yield,
];

/// Failures that are none of the request's, by its name and the call, the last one of that kind in it; and why.
const BORNE: &[(&str, u32, &str)] = &[
    ("Tattach", __NR_newfstatat, NO_VERSION),
    ("Tattach below", __NR_newfstatat, NO_VERSION),
    ("Tlopen with O_APPEND", __NR_newfstatat, NO_VERSION),
    ("Tlcreate for Linux", __NR_newfstatat, NO_VERSION),
    ("Tlcreate by a user", __NR_newfstatat, NO_VERSION),
    ("Tlcreate by a user", __NR_fchmodat, LESS),
    ("Tmknod by a user", __NR_fchmodat, LESS),
    ("Trename", __NR_newfstatat, RENAMED),
    ("Trename onto a file", __NR_newfstatat, RENAMED),
    ("Tlock", __NR_openat, READING),
    ("Tlock", __NR_newfstatat, READING), // of what was opened by its name
];
const NO_VERSION: &str = "the qid has version 0, for which Linux turns its cache off";
const LESS: &str = "what was made stays, without its set-id bits";
const RENAMED: &str = "whether both names were links of one file: what is renamed is renamed";
const READING: &str =
    "it is opened for reading instead: to the host's processes the lock is a shared one";

fn is_borne(case: &Case, call: u32, is_last: bool, errno: Errno) -> bool {
    match (call, errno) {
        (__NR_close, _) => true, // nobody can do anything about it
        (__NR_pread64 | __NR_pwrite64 | __NR_pwritev2 | __NR_fallocate, Errno::EINTR) => true, // once more
        (__NR_fcntl, Errno::EAGAIN) => true, // the reply says that another's lock is in the way
        _ => {
            let mut borne = BORNE.iter();
            is_last && borne.any(|&(name, borne, _)| (name, borne) == (case.name, call))
        }
    }
}

/// A world under a tracer, and what was done in it.
struct Trial {
    start: Start,
    mode: Modes,
    world: World,
    tracer: Tracer,
    descriptors: usize,
    /// Rows that had a fault, with the errno.
    faulted: BTreeSet<(usize, i32)>,
    count: usize,
    strange: Vec<String>,
}

impl Trial {
    fn new(start: Start, mode: Modes) -> Trial {
        let world = World::new(start);
        let descriptors = world.gofer.descriptor_count();
        let tracer = Tracer::new(&world.gofer);
        Trial {
            start,
            mode,
            world,
            tracer,
            descriptors,
            faulted: BTreeSet::new(),
            count: 0,
            strange: Vec::new(),
        }
    }

    /// Another program in the place of one that has ended, or whose connection has.
    fn renew(&mut self) {
        let fresh = Trial::new(self.start, self.mode);
        self.world = fresh.world;
        self.tracer = fresh.tracer;
        self.descriptors = fresh.descriptors;
    }

    fn note(&mut self, hit: &Done, errno: Errno) {
        let rows: Vec<usize> = matching(self.mode, &hit.call).collect();
        assert!(!rows.is_empty(), "outside the table: {hit:x?}");
        self.faulted
            .extend(rows.into_iter().map(|row| (row, errno as i32)));
        self.count += 1;
    }

    /// The request without any fault: what it calls, and the tree before and after it.
    #[track_caller]
    fn rehearse(&mut self, case: &Case) -> (Vec<Done>, Sight, Sight) {
        self.world.prepare(case);
        let before = sight(&self.world.tree);
        self.tracer.begin(Plan::Watch, case.first);
        assert_eq!(self.world.send(case), Outcome::Done, "{}", case.name);
        self.tracer.wait_idle();
        let calls = self.tracer.calls();
        let after = sight(&self.world.tree);
        self.expect_peace(0);
        (calls, before, after)
    }

    /// The request with a fault: what came of it, and the call that failed.
    #[track_caller]
    fn suffer(&mut self, case: &Case, number: u32, nth: usize, how: How) -> (Outcome, Done) {
        self.world.prepare(case);
        self.tracer.wait_idle();
        self.tracer
            .begin(Plan::Fault { number, nth, how }, case.first);
        let outcome = self.world.send(case);
        self.tracer.wait_hit();
        let hit = self.tracer.hit().expect("a hit");
        (outcome, hit)
    }

    /// Both connections are answered, and what is open is what was, and `lost` more, which the tracer hid.
    #[track_caller]
    fn expect_peace(&mut self, lost: usize) {
        self.world
            .victim
            .getattr(ROOT, 0)
            .expect("the same connection");
        self.world.witness.getattr(ROOT, 0).expect("the other one");
        self.world.clean();
        self.descriptors += lost;
        let (gofer, witness) = (&self.world.gofer, &mut self.world.witness);
        expect_descriptors(gofer, witness, self.descriptors);
        assert_eq!(gofer.descriptor_count(), self.descriptors);
    }

    /// Each call of a request fails in each way.
    fn torment(&mut self, case: &Case) {
        let (calls, before, after) = self.rehearse(case);
        let mut counts = BTreeMap::new();
        for done in &calls {
            *counts.entry(done.call.number).or_insert(0usize) += 1;
        }
        counts.retain(|number, _| !LOOP.contains(number));
        for (&number, &count) in &counts {
            for nth in 1..=count {
                let one = (number, nth, nth == count);
                for errno in ERRNOS {
                    let is_close = number == __NR_close; // it closes whatever it says
                    if !is_close {
                        self.fail_once(case, one, How::Refuse(errno), errno, (&before, &after));
                    }
                    if is_close || errno == ERRNOS[(number as usize + nth) % ERRNOS.len()] {
                        self.fail_once(case, one, How::Overwrite(errno), errno, (&before, &after));
                    }
                }
            }
        }
    }

    fn fail_once(
        &mut self,
        case: &Case,
        (number, nth, is_last): (u32, usize, bool),
        how: How,
        errno: Errno,
        (before, after): (&Sight, &Sight),
    ) {
        let is_refused = matches!(how, How::Refuse(_));
        let (outcome, hit) = self.suffer(case, number, nth, how);
        self.note(&hit, errno);
        let wanted = if is_borne(case, number, is_last, errno) {
            Outcome::Done
        } else {
            Outcome::Told(errno)
        };
        let row = matching(self.mode, &hit.call).next().expect("a row");
        let what = format!("{}: {} #{nth} {how:?}", case.name, describe(row));
        if outcome != wanted {
            self.strange
                .push(format!("{what}: {outcome:?}, not {wanted:?}"));
        }
        if is_refused {
            let now = sight(&self.world.tree);
            let wanted = if outcome == Outcome::Done {
                after
            } else {
                before
            };
            if now != *wanted && !is_half_done(case, before, after, &now) {
                let list = difference(wanted, &now);
                self.strange
                    .push(format!("{what}: {outcome:?}, in the tree {list:?}"));
            }
        }
        // The tracer's own doing: a descriptor that the program was not told of.
        let makes = [__NR_openat, __NR_socket].contains(&number);
        self.expect_peace(usize::from(makes && !is_refused && hit.result >= 0));
    }

    /// One call of a request fails in each way, and the request does not.
    fn pester(&mut self, case: &Case, number: u32, hows: [fn(Errno) -> How; 2]) {
        for errno in ERRNOS {
            for how in hows {
                let (outcome, hit) = self.suffer(case, number, 1, how(errno));
                self.note(&hit, errno);
                assert_eq!(outcome, Outcome::Done, "{}, {errno:?}", case.name);
                self.expect_peace(0);
            }
        }
    }

    fn look_for_replies(&mut self, most: Duration) {
        let channel = self.world.channel.as_mut();
        channel.expect("a channel").spin = most;
    }

    /// A yield before the next request fails: nothing comes of it.
    fn fail_yield(&mut self, errno: Errno) {
        // Until the gaps are known to be short.
        self.fail_between(__NR_sched_yield, How::Overwrite(errno), errno);
    }

    /// The time at which a wait is to end cannot be known: it ends at once.
    fn fail_clock(&mut self, how: How, errno: Errno) {
        // Until the last such time is over.
        self.fail_between(__NR_clock_gettime, how, errno);
    }

    /// A call between requests fails, sooner or later.
    fn fail_between(&mut self, number: u32, how: How, errno: Errno) {
        self.tracer.begin(once(number, how), None);
        let begun = Instant::now();
        while self.tracer.hit().is_none() {
            assert!(begun.elapsed() < PATIENCE, "no call {number}");
            let channel = self.world.channel.as_ref().expect("a channel");
            let _attr: Rgetattr = channel.get(&t::getattr(1, ROOT, 0)).expect("a reply");
        }
        self.note(&self.tracer.hit().expect("a hit"), errno);
        self.expect_peace(0);
    }

    /// A socket is not to be made to signal: the channel ends, since its wait would not hear them.
    fn fail_signals(&mut self, how: How, errno: Errno) {
        let mut plain = Trial::new(PLAIN, self.mode);
        plain.world.victim.version(MSIZE, VERSION).unwrap();
        plain.tracer.begin(once(__NR_fcntl, how), None);
        let channel = Channel::ask(&mut plain.world.victim, 0).unwrap_err();
        assert!(matches!(channel, Fault::Errno(Errno::ENOSYS)), "{channel}"); // at the second half
        plain.tracer.wait_hit();
        self.note(&plain.tracer.hit().expect("a hit"), errno);
        for client in [&mut plain.world.victim, &mut plain.world.witness] {
            client.getattr(ROOT, 0).expect("the socket is served");
        }
    }

    /// The memory of a channel that has ended is not to be given back: nothing comes of it.
    fn fail_discard(&mut self, how: How, errno: Errno) {
        loop {
            let ended = Trial::new(self.start, self.mode);
            let (mut world, tracer) = (ended.world, ended.tracer);
            tracer.begin(once(__NR_madvise, how), None);
            let (_theirs, ours) = UnixStream::pair().unwrap();
            drop(std::mem::replace(&mut world.victim, Client::new(ours)));
            tracer.wait_hit();
            world.witness.getattr(ROOT, 0).expect("the other one");
            let hit = tracer.hit().expect("a hit");
            // Else it was quiet meanwhile.
            let channel = world.channel.expect("a channel");
            let is_over = channel.window.state().load(Ordering::Relaxed) == OVER;
            if is_over && hit.call.args[1] == WINDOW_BYTES as u64 {
                return self.note(&hit, errno);
            }
        }
    }

    /// A call of the loop fails: after EINTR, and EAGAIN from a socket, nothing has happened; else the
    /// connection ends, or all.
    fn break_loop(&mut self, case: &Case, number: u32, nth: usize) {
        for errno in ERRNOS {
            let (outcome, hit) = self.suffer(case, number, nth, How::Refuse(errno));
            self.note(&hit, errno);
            let goes_on = match (number, errno) {
                (_, Errno::EINTR) => true,
                // The first wait is for one descriptor that stands for all: then all are asked about.
                (__NR_ppoll, _) => nth == 1,
                (_, errno) => errno == Errno::EAGAIN,
            };
            // Before ppoll(2) fails, what came before it is answered.
            let is_done = goes_on || number == __NR_ppoll && outcome != Outcome::Lost;
            let wanted = if is_done {
                Outcome::Done
            } else {
                Outcome::Lost
            };
            assert_eq!(outcome, wanted, "{}: {hit:x?}", case.name);
            if goes_on {
                self.expect_peace(0);
                continue;
            }
            if number == __NR_ppoll {
                let exit = self.world.gofer.exit();
                exit.expect_fatal("ppoll: ");
            } else {
                self.world.witness.getattr(ROOT, 0).expect("the other one");
            }
            self.renew();
        }
    }
}

/// Failures of what channels need beside a request's own calls.
fn break_channels() -> Told {
    let start = Start {
        channel: true,
        ..PLAIN
    };
    let mut trial = Trial::new(start, Modes::BY_PROC_FD.and(Modes::CHANNELS));
    let both: [fn(Errno) -> How; 2] = [How::Refuse, How::Overwrite];
    // Nobody wakes the client: it looks.
    trial.look_for_replies(PATIENCE);
    let getattr = named("Tgetattr");
    for number in [__NR_futex, __NR_futex_waitv, __NR_rt_sigprocmask] {
        trial.pester(&getattr, number, both);
    }
    trial.look_for_replies(Duration::ZERO);
    for errno in ERRNOS {
        trial.fail_yield(errno);
        for how in both {
            trial.fail_clock(how(errno), errno);
            trial.fail_signals(how(errno), errno);
            trial.fail_discard(how(errno), errno);
        }
    }
    (trial.faulted, Vec::new(), trial.count)
}

fn named(name: &str) -> Case {
    let mut all = cases(&[Where::Any]).into_iter();
    all.find(|case| case.name == name).expect("a case")
}

/// What was faulted in a run, and what came out wrong.
type Told = (BTreeSet<(usize, i32)>, Vec<String>, usize);

fn torment_all(start: Start, mode: Modes, cases: &[Case]) -> Told {
    let mut trial = Trial::new(start, mode);
    for case in cases {
        trial.torment(case);
    }
    (trial.faulted, trial.strange, trial.count)
}

/// The loop's own calls, and those of the log.
fn break_loops() -> Told {
    let mut trial = Trial::new(PLAIN, Modes::BY_PROC_FD);
    let (getattr, lopen) = (named("Tgetattr"), named("Tlopen for both"));
    trial.break_loop(&getattr, __NR_ppoll, 1);
    trial.break_loop(&getattr, __NR_ppoll, 2);
    trial.break_loop(&getattr, __NR_recvfrom, 1);
    trial.break_loop(&getattr, __NR_sendmsg, 1);
    trial.break_loop(&lopen, __NR_sendmsg, 1);
    // Memory goes back when it has been quiet for a while.
    trial.pester(&named("Tread"), __NR_madvise, [How::Refuse, How::Overwrite]);
    let mut logged = Trial::new(
        Start {
            debug: true,
            ..PLAIN
        },
        Modes::BY_PROC_FD,
    );
    for number in [__NR_write, __NR_clock_gettime] {
        logged.pester(&getattr, number, [How::Refuse, How::Overwrite]);
    }
    trial.faulted.extend(logged.faulted);
    (trial.faulted, Vec::new(), trial.count + logged.count)
}

#[test]
fn every_call_that_fails_is_told_on_its_own_tag_and_leaves_nothing_behind() {
    let in_namespace = |namespace| Start {
        namespace: Some(namespace),
        ..PLAIN
    };
    let served = Start {
        special: true,
        ..PLAIN
    };
    let runs: Vec<Told> = std::thread::scope(|scope| {
        let all = [
            scope.spawn(|| {
                torment_all(
                    PLAIN,
                    Modes::BY_PROC_FD,
                    &cases(&[Where::Any, Where::Users]),
                )
            }),
            scope.spawn(|| {
                let start = in_namespace(Namespace::User);
                torment_all(start, Modes::BY_PARENT, &cases(&[Where::Any]))
            }),
            scope.spawn(|| {
                let mode = Modes::BY_PROC_FD.and(Modes::HOST_UDS);
                torment_all(served, mode, &cases(&[Where::Special]))
            }),
            scope.spawn(break_loops),
            scope.spawn(|| {
                let start = Start {
                    channel: true,
                    ..PLAIN
                };
                let mut google = cases(&[Where::Any, Where::Users]);
                google.retain(|case| !case.linux);
                torment_all(start, Modes::BY_PROC_FD.and(Modes::CHANNELS), &google)
            }),
            scope.spawn(break_channels),
        ];
        all.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let count: usize = runs.iter().map(|run| run.2).sum();
    let strange: Vec<&String> = runs.iter().flat_map(|run| &run.1).collect();
    assert!(strange.is_empty(), "{strange:#?}");
    let faulted: BTreeSet<_> = runs.iter().flat_map(|run| &run.0).collect();
    let mut missing = Vec::new();
    for (row, rule) in ALLOWED.iter().enumerate() {
        let never = NEVER.iter().any(|&(call, _)| call == rule.call);
        for errno in ERRNOS {
            if never == faulted.contains(&(row, errno as i32)) {
                missing.push(format!("{} {errno:?}", describe(row)));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "never faulted, or against the list: {missing:#?}"
    );
    say(&format!(
        "results: {count} calls failed, each of {} rows with {} errnos",
        ALLOWED.len() - NEVER.len(),
        ERRNOS.len()
    ));
}

/// What is not tried above, because it calls nothing of its own.
#[test]
fn requests_without_a_fault_make_no_call_of_their_own() {
    let mut trial = Trial::new(PLAIN, Modes::BY_PROC_FD);
    trial.world.prepare(&named("Tgetattr"));
    let quiet = [
        t::version(1, MSIZE, b"9P2000.L.Google.7"),
        t::auth(1, 6, b"", b"", NOID),
        t::xattrcreate(1, 3, b"user.b", 2, 0),
        t::bind(1, 2, 1, b"socket", NOID, NOID, 6),
        t::channel(1, 0, 0),
    ];
    let mut kinds: BTreeSet<u8> = cases(&[Where::Any, Where::Users, Where::Special])
        .iter()
        .map(|case| case.request[4])
        .collect();
    for request in &quiet {
        trial.tracer.begin(Plan::Watch, None);
        trial.world.victim.send(request).unwrap();
        trial.world.victim.recv().unwrap();
        trial.tracer.wait_idle();
        for done in trial.tracer.calls() {
            assert!(LOOP.contains(&done.call.number), "{request:?}: {done:x?}");
        }
        assert!(kinds.insert(request[4]), "{request:?} is tried");
    }
    for &(kind, name, _) in REQUESTS {
        assert!(kinds.contains(&kind), "{name} is not tried");
    }
}

/// It waits by recvfrom(2) itself then, and not by ppoll(2).
#[test]
fn receive_that_fails_on_the_only_connection_is_tried_again_or_ends_the_program_in_peace() {
    let mut world = World::new(PLAIN);
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    drop(std::mem::replace(&mut world.witness, Client::new(ours)));
    for _ in 0..10 {
        world.victim.getattr(ROOT, 0).unwrap();
    }
    let tracer = Tracer::new(&world.gofer);
    for errno in [Errno::EINTR, Errno::EAGAIN] {
        // After some quiet it waits by ppoll(2) all the same, once.
        let waited = (0..100).any(|_| {
            tracer.begin(once(__NR_recvfrom, How::Refuse(errno)), None);
            world.victim.getattr(ROOT, 0).unwrap();
            tracer.wait_hit();
            world.victim.getattr(ROOT, 0).unwrap();
            tracer.hit().expect("a hit").call.args[3] == 0 // no MSG_DONTWAIT
        });
        assert!(waited, "{errno}: never by recvfrom(2)");
    }
    tracer.begin(once(__NR_recvfrom, How::Refuse(Errno::EIO)), None);
    world.victim.getattr(ROOT, 0).unwrap();
    tracer.wait_hit();
    world.victim.expect_closed();
    assert_eq!(world.gofer.exit().code, Some(0));
}

// ---- short counts ----------------------------------------------------------------------------

fn once(number: u32, how: How) -> Plan {
    Plan::Fault {
        number,
        nth: 1,
        how,
    }
}

/// A request with its call cut short, for each length.
fn cut(name: &str, number: u32, lengths: &[u64], mut check: impl FnMut(&mut World, u64)) {
    let mut trial = Trial::new(PLAIN, Modes::BY_PROC_FD);
    let case = named(name);
    for &length in lengths {
        let plan = once(number, How::Shorten(length));
        trial.world.prepare(&case);
        trial.tracer.begin(plan, None);
        check(&mut trial.world, length);
        trial.tracer.wait_hit();
        let hit = trial.tracer.hit().expect("a hit");
        assert_eq!(hit.result, length as i64, "{hit:x?}");
        trial.expect_peace(0);
    }
}

#[test]
fn read_that_comes_short_gives_what_came() {
    cut("Tread", __NR_pread64, &[0, 1, 4999], |world, length| {
        let read = world.victim.read(4, 0, 5000).unwrap().data.0;
        assert_eq!(read, content()[..length as usize]);
    });
}

#[test]
fn write_that_comes_short_goes_on_until_all_is_written() {
    cut("Twrite", __NR_pwrite64, &[1, 4999], |world, _| {
        let data = vec![b'w'; 5000];
        assert_eq!(world.victim.write(4, 3, Data(&data)).unwrap().count, 5000);
        let mut wanted = content();
        wanted[3..5003].copy_from_slice(&data);
        assert_eq!(world.tree.read("w/f"), wanted);
    });
    // Nothing written and no error: it is not asked for ever.
    cut("Twrite", __NR_pwrite64, &[0], |world, _| {
        assert_eq!(world.victim.write(4, 3, Data(b"text")).unwrap().count, 0);
    });
}

#[test]
fn listing_that_comes_short_goes_on_behind_it() {
    let mut trial = Trial::new(PLAIN, Modes::BY_PROC_FD);
    let case = named("Treaddir");
    for length in [64, 100, 128] {
        let (mut names, mut offset, mut shortened) = (BTreeSet::new(), 0, 0);
        trial.world.prepare(&case);
        loop {
            trial
                .tracer
                .begin(once(__NR_getdents64, How::Shorten(length)), None);
            let entries = trial
                .world
                .victim
                .readdir(6, offset, 4096)
                .unwrap()
                .entries
                .list;
            trial.tracer.wait_hit();
            shortened += 1;
            let Some(last) = entries.last() else { break };
            offset = last.offset;
            for entry in entries {
                assert!(names.insert(entry.name.clone()), "{entry:?} twice");
            }
        }
        let wanted = ["d", "empty", "f", "g", "l", "setid"].map(|name| name.as_bytes().to_vec());
        assert_eq!(names, BTreeSet::from(wanted));
        assert!(shortened > 2, "{shortened}");
        trial.expect_peace(0);
    }
}

#[test]
fn frames_that_come_and_go_short_are_whole() {
    let whole =
        |world: &mut World, _| assert_eq!(world.victim.getattr(3, 0).unwrap().attr.size, 10_000);
    cut("Tgetattr", __NR_recvfrom, &[1, 4, 7, 18], whole);
    cut("Tgetattr", __NR_sendmsg, &[1, 4, 7, 159], whole);
    cut("Tlopen for both", __NR_sendmsg, &[1, 7, 23], |world, _| {
        let opened = world.victim.lopen(3, O_RDWR).unwrap();
        let file = std::fs::File::from(opened.fd.expect("a descriptor with the first byte"));
        assert_eq!(file.metadata().unwrap().len(), 10_000);
    });
}

/// Nobody takes the descriptors that are under way: a reply without its own is legal.
#[test]
fn descriptor_that_cannot_be_sent_is_left_out() {
    let mut trial = Trial::new(PLAIN, Modes::BY_PROC_FD);
    let case = named("Tlopen for both");
    trial.world.prepare(&case);
    let plan = once(__NR_sendmsg, How::Refuse(Errno::ETOOMANYREFS));
    trial.tracer.begin(plan, None);
    let opened = trial.world.victim.lopen(3, O_RDWR).unwrap();
    assert!(opened.fd.is_none());
    trial.tracer.wait_hit();
    assert_eq!(
        trial.world.victim.read(3, 0, 7).unwrap().data.0,
        content()[..7]
    );
    trial.expect_peace(0);
}

/// Nor through a channel.
#[test]
fn descriptor_that_cannot_be_sent_beside_a_channel_is_left_out() {
    let start = Start {
        channel: true,
        ..PLAIN
    };
    let mut trial = Trial::new(start, Modes::BY_PROC_FD.and(Modes::CHANNELS));
    let case = named("Tlopen for both");
    for errno in [Errno::ETOOMANYREFS, Errno::EAGAIN, Errno::EPIPE] {
        trial.world.prepare(&case);
        let plan = once(__NR_sendmsg, How::Refuse(errno));
        trial.tracer.begin(plan, None);
        let channel = trial.world.channel.as_ref().expect("a channel");
        let opened = channel.exchange(&case.request).unwrap();
        assert!(opened.kind != RLERROR && opened.fd.is_none(), "{opened:?}");
        trial.tracer.wait_hit();
        let read: Rread = channel.get(&t::read(1, 3, 0, 7)).unwrap();
        assert_eq!(read.data.0, content()[..7]);
        trial.expect_peace(0);
    }
}

/// The attach point's own attributes fail at Tattach: it is EIO, as everything that goes wrong there.
#[test]
fn attach_whose_fstat_fails_is_eio_and_holds_nothing() {
    let mut world = World::begun(PLAIN);
    let tracer = Tracer::new(&world.gofer);
    world.victim.version(MSIZE, b"9P2000.L.Google.7").unwrap();
    tracer.wait_idle();
    let before = world.gofer.descriptor_count();
    tracer.begin(once(__NR_newfstatat, How::Refuse(Errno::ENOMEM)), None);
    refused(world.victim.attach_root(ROOT), Errno::EIO);
    tracer.wait_hit();
    refused(world.victim.getattr(ROOT, 0), Errno::EBADF);
    assert_eq!(world.gofer.descriptor_count(), before - 1);
    world.witness.hello(ROOT).unwrap();
}
