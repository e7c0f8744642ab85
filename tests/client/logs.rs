//! The logs: where they go, how lines look, and that none of them can stop the server (docs/launch.md 1.5, 1.6).

use crate::harness::{
    Exit, Gofer, Launch, Mount, ROOT, Session, Tree, binary, chmod, copy_binary, session_of, spec,
    write_spec,
};
use crate::p9::{Fault, NOID, O_RDONLY, PATIENCE, refused, t};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe2};
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest line, with its newline (`LOG_LINE_BYTES`).
const LINE_BYTES: usize = 4096;

/// A tree whose bundle has a good spec without mounts.
fn plain() -> Tree {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    tree
}

/// As a runtime of 2018 calls it.
fn launch(tree: &Tree, globals: &[&str]) -> Launch {
    Launch::new(&tree.bundle(), 1).through("runsc", globals)
}

/// `--name=path`
fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.to_str().expect("a path of ours"))
}

/// Serves with these flags, and has some requests answered. The end is in peace.
fn run(tree: &Tree, globals: &[&str]) -> (u32, Exit) {
    let mut s = session_of(launch(tree, globals));
    s.getattr(ROOT, 0).unwrap();
    let pid = s.gofer.pid();
    let exit = s.finish();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    (pid, exit)
}

fn text(path: &Path) -> String {
    String::from_utf8(fs::read(path).unwrap()).expect("a log is UTF-8")
}

/// What is there of a log that is read without waiting.
fn drained(mut from: &File) -> String {
    let mut bytes = Vec::new();
    match from.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8(bytes).expect("a log is UTF-8")
}

// ---- lines taken apart ----

/// A line of format text.
#[derive(Debug)]
struct Line<'a> {
    letter: char,
    /// `MMDD HH:MM:SS.uuuuuu`
    stamp: &'a str,
    /// Seven columns.
    pid: &'a str,
    message: &'a str,
}

#[track_caller]
fn line(line: &str) -> Line<'_> {
    let bad = || panic!("not a line of a log: {line:?}");
    if !line.is_char_boundary(35) || line.len() < 35 || !line.as_bytes()[..35].is_ascii() {
        bad();
    }
    let stamp = &line[1..21];
    for (at, byte) in stamp.bytes().enumerate() {
        let fits = match at {
            4 => byte == b' ',
            7 | 10 => byte == b':',
            13 => byte == b'.',
            _ => byte.is_ascii_digit(),
        };
        if !fits {
            bad();
        }
    }
    if &line[21..22] != " " || &line[29..35] != " x:0] " || !"DIW".contains(&line[..1]) {
        bad();
    }
    Line {
        letter: line.chars().next().unwrap(),
        stamp,
        pid: &line[22..29],
        message: &line[35..],
    }
}

/// All lines of a log of format text.
#[track_caller]
fn lines(log: &str) -> Vec<Line<'_>> {
    assert!(log.ends_with('\n'), "{log:?}");
    log.lines().map(line).collect()
}

#[track_caller]
fn messages(log: &str) -> Vec<&str> {
    lines(log).iter().map(|line| line.message).collect()
}

/// A line of a JSON format, whose message has the key `key`: message, level, time.
#[track_caller]
fn object(line: &str, key: &str) -> (String, String, String) {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    let value = value.as_object().expect("an object");
    let keys: Vec<&str> = value.keys().map(String::as_str).collect();
    assert_eq!(keys, [key, "level", "time"], "{line}");
    let text = |key| String::from(value[key].as_str().expect("a string"));
    (text(key), text("level"), text("time"))
}

/// All lines of a JSON log, as message and level.
#[track_caller]
fn objects(log: &str, key: &str) -> Vec<(String, String)> {
    assert!(log.ends_with('\n'), "{log:?}");
    let told = log.lines().map(|line| object(line, key));
    told.map(|(message, level, _)| (message, level)).collect()
}

fn level_of(letter: char) -> &'static str {
    match letter {
        'D' => "debug",
        'I' => "info",
        _ => "warning",
    }
}

/// Sum of what `*** Dropped <n> log messages ***` says, and the count of all other lines.
#[track_caller]
fn dropped(log: &str) -> (usize, usize) {
    let (mut lost, mut told) = (0, 0);
    for line in lines(log) {
        let notice = line.message.strip_prefix("*** Dropped ");
        match notice.and_then(|rest| rest.strip_suffix(" log messages ***")) {
            Some(count) => {
                assert_eq!(line.letter, 'W');
                lost += count.parse::<usize>().expect("a number");
            }
            None => told += 1,
        }
    }
    (lost, told)
}

// ---- times ----

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_micros() as i64
}

/// Microseconds since 1970 as `yyyy-mm-dd hh:mm:ss.uuuuuu`, counted year by year and month by month.
fn civil(micros: i64) -> String {
    let (mut days, rest) = (
        micros.div_euclid(86_400_000_000),
        micros.rem_euclid(86_400_000_000),
    );
    let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let (mut year, mut month) = (1970, 1);
    let length = |year, month| match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    while days >= length(year, month) {
        days -= length(year, month);
        month += 1;
        if month > 12 {
            (year, month) = (year + 1, 1);
        }
    }
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let day = days + 1;
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}")
}

/// Asserts that `told`, as [`civil`] writes it but without the year, lies between two times.
#[track_caller]
fn expect_between(told: &str, begun: i64, ended: i64) {
    let (begun, ended) = (civil(begun), civil(ended));
    let (from, to) = (&begun[5..], &ended[5..]);
    let is_between = if from <= to {
        from <= told && told <= to
    } else {
        from <= told || told <= to // a new year
    };
    assert!(is_between, "{told} is not between {begun} and {ended}");
}

/// A zone file, of one offset that holds from 1970 on and the rule behind it.
fn zone_file(version: u8, offset: i32, rule: &str) -> Vec<u8> {
    let mut file = Vec::new();
    for time_bytes in if version < b'2' { vec![4] } else { vec![4, 8] } {
        file.extend(b"TZif");
        file.push(version);
        file.extend([0; 15]);
        for count in [0u32, 0, 0, 1, 2, 4] {
            file.extend(count.to_be_bytes());
        }
        file.extend(vec![0; time_bytes]); // 1970-01-01, when the second offset begins to hold
        file.push(1);
        for (offset, is_summer) in [(1234i32, 0), (offset, 0)] {
            file.extend(offset.to_be_bytes());
            file.extend([is_summer, 0]);
        }
        file.extend(b"ABC\0");
    }
    if version >= b'2' {
        file.extend(format!("\n{rule}\n").bytes());
    }
    file
}

/// A zone file without any change, as those of fixed zones are.
fn zone_without_changes(offset: i32, rule: &str) -> Vec<u8> {
    let mut file = Vec::new();
    for _ in 0..2 {
        file.extend(b"TZif2");
        file.extend([0; 15]);
        for count in [0u32, 0, 0, 0, 1, 4] {
            file.extend(count.to_be_bytes());
        }
        file.extend(offset.to_be_bytes());
        file.extend(b"\0\0ABC\0");
    }
    file.extend(format!("\n{rule}\n").bytes());
    file
}

/// Runs the program in a root of its own, whose /etc/localtime is `zone`, with each log at once: the
/// main one as `format`, and a debug log with its time in its name. Both texts, and that time.
fn run_in_zone(zone: Option<&[u8]>, format: &str) -> (String, String, String) {
    let tree = Tree::new();
    let top = tree.outside("");
    copy_binary(&top.join("gofer"));
    fs::create_dir(top.join("etc")).unwrap();
    if let Some(zone) = zone {
        fs::write(top.join("etc/localtime"), zone).unwrap();
    }
    write_spec(&tree.bundle(), &spec(Path::new("/root"), false, &[]));
    let format = format!("--log-format={format}");
    let globals = ["--log=/log", &format, "--debug-log=/debug/%TIMESTAMP%"];
    let mut s = session_of(
        Launch::new(Path::new("/bundle"), 1)
            .through("runsc", &globals)
            .chroot(&top)
            .binary(Path::new("/gofer")),
    );
    s.getattr(ROOT, 0).unwrap();
    assert_eq!(s.finish().code, Some(0));
    let files: Vec<_> = fs::read_dir(top.join("debug")).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let file = files.into_iter().next().unwrap().unwrap();
    let name = file.file_name().into_string().unwrap();
    (text(&top.join("log")), text(&file.path()), name)
}

/// Asserts that every time of a run is told `offset` seconds east of UTC.
#[track_caller]
fn expect_zone(zone: Option<&[u8]>, offset: i64, suffix: &str) {
    let begun = now() + offset * 1_000_000;
    let (json, plain, name) = run_in_zone(zone, "json");
    let ended = now() + offset * 1_000_000;
    for line in lines(&plain) {
        let told = format!("{}-{}", &line.stamp[..2], &line.stamp[2..]);
        expect_between(&told, begun, ended);
    }
    for line in json.lines() {
        let (_, _, time) = object(line, "msg");
        let told = time
            .strip_suffix(suffix)
            .unwrap_or_else(|| panic!("{time}"));
        let (date, clock) = told.split_once('T').expect("RFC 3339");
        // Zeros at the end are left out.
        let (clock, part) = clock.split_once('.').unwrap_or((clock, ""));
        assert!(part.len() <= 9 && !part.ends_with('0'), "{time}");
        let micros: String = format!("{part}000000").chars().take(6).collect();
        expect_between(&format!("{} {clock}.{micros}", &date[5..]), begun, ended);
        assert_eq!(&date[..4], &civil(begun)[..4], "{time}");
    }
    let (date, clock) = name.split_once('-').expect("yyyymmdd-hhmmss.uuuuuu");
    assert_eq!((date.len(), clock.len()), (8, 13), "{name}");
    let told = format!(
        "{}-{} {}:{}:{}",
        &date[4..6],
        &date[6..],
        &clock[..2],
        &clock[2..4],
        &clock[4..]
    );
    expect_between(&told, begun, ended);
}

#[test]
fn times_are_the_hosts_where_its_zone_is_known() {
    expect_zone(
        Some(&zone_file(b'2', 20_700, "<+0545>-5:45")),
        20_700,
        "+05:45",
    );
    expect_zone(Some(&zone_file(b'3', -12_600, "")), -12_600, "-03:30");
    expect_zone(Some(&zone_file(0, 45_900, "")), 45_900, "+12:45");
    // The rule holds behind the last change of the table.
    expect_zone(Some(&zone_file(b'2', 60, "<-0930>9:30")), -34_200, "-09:30");
    expect_zone(Some(&zone_file(b'2', 60, "X-14")), 50_400, "+14:00");
    expect_zone(Some(&zone_without_changes(30_600, "")), 30_600, "+08:30");
    expect_zone(
        Some(&zone_without_changes(30_600, "<+0830>-8:30")),
        30_600,
        "+08:30",
    );
}

#[test]
fn times_are_utc_where_no_zone_can_be_had() {
    let whole = zone_file(b'2', 20_700, "<+0545>-5:45");
    expect_zone(None, 0, "Z");
    expect_zone(Some(b""), 0, "Z");
    expect_zone(Some(b"not a zone\n"), 0, "Z");
    expect_zone(Some(&whole[..60]), 0, "Z");
    expect_zone(Some(&zone_file(b'2', 0, "UTC0")), 0, "Z");
}

// ---- where they go ----

#[test]
fn log_is_standard_error_where_none_is_named() {
    for globals in [&[][..], &["--log="], &["--log=", "--log-fd=-1"]] {
        let (_, exit) = run(&plain(), globals);
        let told = messages(&exit.stderr);
        assert_eq!(told.last(), Some(&"All 9P servers exited."), "{exit:?}");
        assert_eq!(exit.stdout, "");
    }
}

#[test]
fn log_to_a_file_leaves_standard_error_alone() {
    let tree = plain();
    let log = tree.outside("log");
    let (_, exit) = run(&tree, &[&flag("log", &log)]);
    assert_eq!((exit.stderr.as_str(), exit.stdout.as_str()), ("", ""));
    assert!(messages(&text(&log)).contains(&"Seccomp filters installed."));
}

/// Runs the program from a shell that does `first` before.
fn from_shell(tree: &Tree, first: &str, globals: &[&str]) -> Launch {
    let mut words: Vec<OsString> = vec!["-c".into(), format!("{first}; exec \"$0\" \"$@\"").into()];
    words.push(binary().into());
    words.extend(globals.iter().map(OsString::from));
    words.extend(["gofer", "--io-fds=3", "--bundle"].map(OsString::from));
    words.push(tree.bundle().into());
    Launch::raw(&words).binary(Path::new("/bin/sh"))
}

#[test]
fn logs_are_made_with_their_modes_less_the_umask() {
    for (mask, log_mode, debug_mode, dir_mode) in [
        ("022", 0o644, 0o644, 0o755),
        ("077", 0o600, 0o600, 0o700),
        ("000", 0o644, 0o664, 0o775),
    ] {
        let tree = plain();
        let (log, debug) = (tree.outside("log"), tree.outside("a/b/debug"));
        let globals = [flag("log", &log), flag("debug-log", &debug)];
        let globals: Vec<&str> = globals.iter().map(String::as_str).collect();
        let mut s = session_of(from_shell(&tree, &format!("umask {mask}"), &globals));
        s.getattr(ROOT, 0).unwrap();
        assert_eq!(s.finish().code, Some(0));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&log), log_mode, "umask {mask}");
        assert_eq!(mode(&debug), debug_mode, "umask {mask}");
        for dir in ["a", "a/b"] {
            assert_eq!(mode(&tree.outside(dir)), dir_mode, "umask {mask}");
        }
    }
}

#[test]
fn logs_that_are_there_are_appended_to_and_keep_their_mode() {
    let tree = plain();
    let (log, debug) = (tree.outside("log"), tree.outside("debug"));
    for path in [&log, &debug] {
        fs::write(path, "before\n").unwrap();
        chmod(path, 0o600);
    }
    let globals = [flag("log", &log), flag("debug-log", &debug)];
    for _ in 0..2 {
        run(&tree, &[&globals[0], &globals[1]]);
    }
    for path in [&log, &debug] {
        let told = text(path);
        let told = told.strip_prefix("before\n").expect("what was there");
        let ends = messages(told)
            .iter()
            .filter(|told| told.contains("exited"))
            .count();
        assert_eq!(ends, 2, "{told}");
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    }
}

/// Two programs may share a log: lines are appended whole.
#[test]
fn log_shared_by_two_programs_has_whole_lines_of_both() {
    let tree = plain();
    let log = tree.outside("log");
    let words = [flag("log", &log), "--debug".into()];
    let words = [words[0].as_str(), words[1].as_str()];
    let mut both = [
        session_of(launch(&tree, &words)),
        session_of(launch(&tree, &words)),
    ];
    for _ in 0..200 {
        for s in &mut both {
            s.send(&t::getattr(9, ROOT, 0)).unwrap();
        }
        for s in &mut both {
            s.recv().unwrap();
        }
    }
    let pids = both.each_ref().map(|s| s.gofer.pid().to_string());
    for s in &mut both {
        assert_eq!(s.finish().code, Some(0));
    }
    let told = text(&log);
    for pid in pids {
        let of = lines(&told);
        let of = of.iter().filter(|line| line.pid.trim() == pid);
        let count = of.filter(|line| line.message.contains("tag 9 ")).count();
        assert_eq!(count, 200, "{pid}");
    }
}

/// The second socket of the launch is the log.
fn to_socket(tree: &Tree, globals: &[&str]) -> Gofer {
    let mut all = vec!["--log-fd=4"];
    all.extend(globals);
    launch(tree, &all).sockets(2).start()
}

#[test]
fn log_fd_is_logged_to_and_log_is_not() {
    let tree = plain();
    let log = tree.outside("log");
    let mut gofer = to_socket(&tree, &[&flag("log", &log)]);
    let mut told = gofer.sockets[1].take().unwrap();
    drop(gofer.connect(0));
    let exit = gofer.exit();
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
    let mut text = String::new();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    told.read_to_string(&mut text).unwrap();
    assert_eq!(messages(&text).last(), Some(&"All 9P servers exited."));
    assert!(!log.exists());
}

/// Standard error itself may be named, and stays open for it.
#[test]
fn log_fd_2_is_standard_error() {
    let (_, exit) = run(&plain(), &["--log-fd=2"]);
    assert!(messages(&exit.stderr).contains(&"All 9P servers exited."));
}

#[test]
fn log_fd_that_is_not_open_ends_the_start() {
    for number in ["77", "2147483648"] {
        let exit = launch(&plain(), &[&format!("--log-fd={number}")])
            .start()
            .exit();
        exit.expect_fatal("bad file descriptor");
        exit.expect_fatal(number);
    }
}

#[test]
fn log_that_cannot_be_opened_ends_the_start() {
    let tree = plain();
    for (path, why) in [
        (tree.outside("missing/log"), "no such file or directory"),
        (tree.root(), "is a directory"),
        (tree.outside("bundle/config.json/log"), "not a directory"),
    ] {
        let exit = launch(&tree, &[&flag("log", &path)]).start().exit();
        exit.expect_fatal(&format!(
            "error opening log file \"{}\": {why}",
            path.display()
        ));
        assert_eq!(exit.stderr.lines().count(), 1, "{exit:?}");
    }
}

#[test]
fn debug_log_that_cannot_be_opened_ends_the_start() {
    let tree = plain();
    for (name, why) in [
        ("root", "is a directory"),
        ("bundle/config.json/log", "not a directory"),
        ("bundle/config.json/", "not a directory"),
    ] {
        let path = tree.outside(name);
        let exit = launch(&tree, &[&flag("debug-log", &path)]).start().exit();
        exit.expect_fatal(&format!(
            "error opening debug log file in \"{}\": {why}",
            path.display()
        ));
    }
}

#[test]
fn debug_log_fd_is_refused_by_a_gofer_of_2018() {
    launch(&plain(), &["--debug-log-fd=2"]).start().exit().expect_fatal(
        "flag --debug-log-fd should only be passed to 'boot' command, but was passed to \"gofer\"",
    );
}

#[test]
fn debug_log_with_a_slash_at_its_end_is_a_directory() {
    let tree = plain();
    let dir = tree.outside("made/for it");
    let begun = now();
    run(&tree, &[&format!("{}/", flag("debug-log", &dir))]);
    let names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let [name] = names.as_slice() else {
        panic!("{names:?}")
    };
    let stamp = name.strip_prefix("runsc.log.").expect("the pattern");
    let stamp = stamp.strip_suffix(".gofer").expect("the pattern");
    assert_eq!(
        (stamp.len(), &stamp[8..9], &stamp[15..16]),
        (22, "-", "."),
        "{name}"
    );
    let digits = stamp.bytes().filter(u8::is_ascii_digit).count();
    assert_eq!(digits, 20, "{name}");
    // In whatever zone this machine is, it is within a day.
    let days = [begun - 86_400_000_000, begun, now() + 86_400_000_000];
    let days = days.map(|day| civil(day)[..10].replace('-', ""));
    assert!(days.iter().any(|day| stamp.starts_with(day)), "{name}");
}

#[test]
fn debug_log_patterns_are_filled_in_wherever_they_stand() {
    let tree = plain();
    let pattern = tree.outside("%COMMAND%.d/x%COMMAND%-%COMMAND%%TEST%%");
    run(&tree, &[&flag("debug-log", &pattern)]);
    let told = text(&tree.outside("gofer.d/xgofer-gofer%TEST%%"));
    assert_eq!(messages(&told).last(), Some(&"All 9P servers exited."));
}

#[test]
fn both_logs_get_every_line() {
    let tree = plain();
    let (log, debug) = (tree.outside("log"), tree.outside("debug"));
    let flags = [flag("log", &log), flag("debug-log", &debug)];
    run(&tree, &[&flags[0], &flags[1], "--debug"]);
    assert_eq!(text(&log), text(&debug));
    assert!(lines(&text(&log)).iter().any(|line| line.letter == 'D'));
    // Standard error is the log where none is named.
    let (_, exit) = run(&tree, &[&flag("debug-log", &tree.outside("other"))]);
    assert_eq!(exit.stderr, text(&tree.outside("other")));
}

#[test]
fn log_names_that_are_not_utf_8_are_taken() {
    let tree = plain();
    let name = OsStr::from_bytes(b"l\xff\xfe\n").to_owned();
    let path = tree.outside("").join(&name);
    let debug = tree.outside("").join("d").join(&name);
    let mut words: Vec<OsString> = Vec::new();
    for (flag, path) in [("--log=", &path), ("--debug-log=", &debug)] {
        let mut word = OsString::from(flag);
        word.push(path);
        words.push(word);
    }
    words.extend(["gofer", "--io-fds=3", "--bundle"].map(OsString::from));
    words.push(tree.bundle().into());
    let mut s = session_of(Launch::raw(&words));
    s.getattr(ROOT, 0).unwrap();
    assert_eq!(s.finish().code, Some(0));
    let told = text(&path);
    let args = messages(&told)[1];
    assert!(
        args.starts_with("Args: [") && args.contains("l\\xff\\xfe\\n"),
        "{args}"
    );
    assert_eq!(told, text(&debug));
}

// ---- how lines look ----

#[test]
fn formats_say_the_same() {
    let tree = plain();
    let mut value = spec(
        &tree.root(),
        false,
        &[Mount::bind("/<a>&\"b\\\u{e9}\t", &[])],
    );
    value["process"]["apparmorProfile"] = json!("profile");
    write_spec(&tree.bundle(), &value);
    let (log, debug) = (tree.outside("log"), tree.outside("debug"));
    let flags = [flag("log", &log), flag("debug-log", &debug)];
    for (first, key, second, other) in [
        ("json", "msg", "text", ""),
        ("json-k8s", "log", "text", ""),
        ("json", "msg", "json-k8s", "log"),
    ] {
        let formats = [
            format!("--log-format={first}"),
            format!("--debug-log-format={second}"),
        ];
        let globals = [&flags[0], &flags[1], &formats[0], &formats[1]].map(String::as_str);
        let mut gofer = Launch::new(&tree.bundle(), 2)
            .through("runsc", &[&globals[..], &["--debug"]].concat())
            .start();
        gofer
            .connect(0)
            .mkdir(ROOT, b"<&>\"", 0o755, NOID)
            .map(drop)
            .ok();
        gofer.sockets.clear();
        assert_eq!(gofer.exit().code, Some(0));
        let (one, two) = (text(&log), text(&debug));
        let one = objects(&one, key);
        let two: Vec<(String, String)> = if other.is_empty() {
            let told = lines(&two).into_iter();
            // A text line has no control characters.
            told.map(|line| (line.message.into(), level_of(line.letter).into()))
                .collect()
        } else {
            objects(&two, other)
        };
        assert_eq!(one.len(), two.len());
        for ((one, level), (two, same)) in one.iter().zip(&two) {
            let cleaned = if other.is_empty() {
                one.replace('\t', "?")
            } else {
                one.clone()
            };
            assert_eq!((&cleaned, level), (two, same));
        }
        for level in ["debug", "info", "warning"] {
            assert!(
                one.iter().any(|(_, told)| told == level),
                "{level}: {one:?}"
            );
        }
        for path in [&log, &debug] {
            fs::remove_file(path).unwrap();
        }
        drop(fs::remove_dir(tree.path("<&>\"")));
    }
}

#[test]
fn format_unknown_ends_the_start() {
    let tree = plain();
    let debug = flag("debug-log", &tree.outside("debug"));
    for globals in [
        &["--log-format=xml"][..],
        &["--log-format="],
        &["--log-format=JSON"],
        &[&debug, "--debug-log-format=xml"],
    ] {
        let exit = launch(&tree, globals).start().exit();
        exit.expect_fatal("must be 'text', 'json', or 'json-k8s'");
        exit.expect_fatal("invalid log format \"");
    }
    // Without a debug log nobody looks at its format.
    run(&tree, &["--debug-log-format=xml"]);
}

#[test]
fn lines_name_the_process_in_seven_columns() {
    let tree = plain();
    let (pid, exit) = run(&tree, &["--debug"]);
    for line in lines(&exit.stderr) {
        assert_eq!(line.pid, format!("{pid:7}"));
    }
}

#[test]
fn banner_says_who_runs_and_how() {
    let tree = plain();
    let globals = [
        "--root=/r o",
        "--strace-syscalls=open,close",
        "--platform=kvm",
    ];
    let mut s = session_of(launch(&tree, &globals));
    s.getattr(ROOT, 0).unwrap();
    let pid = s.gofer.pid();
    let exit = s.finish();
    let told = messages(&exit.stderr);
    assert!(
        told[0].bytes().all(|byte| byte == b'*') && told[0].len() > 20,
        "{told:?}"
    );
    let bundle = tree.bundle();
    let args = format!(
        "Args: [{} gofer --bundle {} --io-fds 3]",
        globals.join(" "),
        bundle.display()
    );
    assert_eq!(told[1], args);
    assert!(told[2].starts_with("Git Revision: "), "{told:?}");
    assert_eq!(told[3], format!("PID: {pid}"));
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    assert_eq!(told[4], format!("UID: {uid}, GID: {gid}"));
    let at = told
        .iter()
        .position(|line| *line == "Configuration:")
        .expect("it");
    let end = told[1..]
        .iter()
        .position(|line| *line == told[0])
        .expect("a second row")
        + 1;
    let configuration = told[at + 1..end].join("\n");
    for part in ["RootDir: /r o", "Platform: kvm", "open,close"] {
        assert!(configuration.contains(part), "{part}: {configuration}");
    }
    assert!(told[at + 1..end].iter().all(|line| line.starts_with("  ")));
    assert!(
        lines(&exit.stderr)[..=end]
            .iter()
            .all(|line| line.letter == 'I')
    );
}

/// A command line longer than a line of the log is there whole: the runtime's has one word for each mount.
#[test]
fn banner_has_a_long_command_line_whole() {
    let tree = plain();
    let root = format!("--root=/{}", "r".repeat(3_000));
    let (_, exit) = run(&tree, &[&root]);
    let told = messages(&exit.stderr);
    assert!(told[1].ends_with("--io-fds 3]"), "{} bytes", told[1].len());
}

#[test]
fn start_is_told_step_by_step() {
    let tree = Tree::new();
    tree.dir("m");
    let mounts = [Mount::bind("/m", &["ro"]), Mount::bind("/missing", &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let mut gofer = Launch::new(&tree.bundle(), 3).start();
    gofer.connect(0).getattr(ROOT, 0).unwrap();
    gofer.sockets.clear();
    let exit = gofer.exit();
    let root = tree.root().display().to_string();
    let told = messages(&exit.stderr);
    let mut from = told.iter();
    for wanted in [
        "Spec: {".to_owned(),
        "Capabilities applied: ".to_owned(),
        format!("Process chroot'd to \"{root}\""),
        format!("Serving \"/\" mapped to \"{root}\" on FD 3 (ro: false)"),
        "Serving \"/m\" mapped on FD 4 (ro: true)".to_owned(),
        "Serving \"/missing\" mapped on FD 5 (ro: false)".to_owned(),
        "Installing seccomp filters for ".to_owned(),
        "Seccomp filters installed.".to_owned(),
        "All 9P servers exited.".to_owned(),
    ] {
        assert!(
            from.any(|line| line.starts_with(&wanted)),
            "{wanted}: {told:?}"
        );
    }
    assert_eq!(told.last(), Some(&"All 9P servers exited."));
}

#[test]
fn what_is_ignored_is_a_warning() {
    let tree = Tree::new();
    let mut value = spec(&tree.root(), false, &[]);
    value["process"]["apparmorProfile"] = json!("a \"profile\"");
    value["linux"]["seccomp"] = json!({});
    write_spec(&tree.bundle(), &value);
    let (_, exit) = run(&tree, &[]);
    for wanted in [
        "AppArmor profile \"a \"profile\"\" is being ignored",
        "Seccomp spec is being ignored",
    ] {
        let told = lines(&exit.stderr);
        let told = told
            .iter()
            .find(|line| line.message == wanted)
            .expect(wanted);
        assert_eq!(told.letter, 'W');
    }
}

/// The spec as the log tells it.
#[track_caller]
fn spec_of(told: &[&str]) -> Value {
    let mut specs = told.iter().filter_map(|line| line.strip_prefix("Spec: "));
    let text = specs.next().expect("the spec");
    assert!(specs.next().is_none());
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

#[test]
fn spec_is_told_on_one_line_whatever_its_length() {
    let tree = Tree::new();
    let mut value = spec(&tree.root(), false, &[Mount::bind("/dev/shm/a b", &["ro"])]);
    value["process"]["args"] = json!([
        "sh",
        "-c",
        "a  \"b\" \\ \n\t\u{1}c",
        "\u{e9}\u{1f600}",
        "\\"
    ]);
    for big in [0, 1_000, 1_024, 10_000, 1_000_000] {
        value["annotations"] =
            json!({"big": "x y\"\\".repeat(big / 5), "\u{e9}": "\u{e9}".repeat(big)});
        fs::write(
            tree.bundle().join("config.json"),
            serde_json::to_string_pretty(&value).unwrap(),
        )
        .unwrap();
        let (_, exit) = run(&tree, &[]);
        assert_eq!(spec_of(&messages(&exit.stderr)), value);
        let (_, exit) = run(&tree, &["--log-format=json"]);
        let told = objects(&exit.stderr, "msg");
        let told: Vec<&str> = told.iter().map(|(message, _)| message.as_str()).collect();
        assert_eq!(spec_of(&told), value);
    }
}

/// Go reads a byte that is no character as U+FFFD; the rest of the spec is still told.
#[test]
fn spec_with_a_byte_that_is_no_character_is_told_all_the_same() {
    let tree = Tree::new();
    let whole = spec(&tree.root(), false, &[]).to_string();
    let bytes = whole.replace("\"test\"", "\"te\u{1}t\"").into_bytes();
    let bytes: Vec<u8> = bytes
        .iter()
        .map(|&byte| if byte == 1 { 0xff } else { byte })
        .collect();
    fs::write(tree.bundle().join("config.json"), bytes).unwrap();
    let (_, exit) = run(&tree, &[]);
    let told = messages(&exit.stderr);
    let told = told
        .iter()
        .find(|line| line.starts_with("Spec: "))
        .expect("the spec");
    assert!(
        told.contains("\"ociVersion\"") && told.contains("\"namespaces\""),
        "{told}"
    );
}

// ---- why it ends ----

#[test]
fn fatal_texts_stand_in_every_log_and_on_standard_error() {
    let tree = Tree::new();
    let (log, debug) = (tree.outside("log"), tree.outside("debug"));
    let flags = [flag("log", &log), flag("debug-log", &debug)];
    let missing = format!(
        "error opening spec: open {}/config.clean.json: no such file or directory",
        tree.bundle().display()
    );
    let exit = launch(&tree, &[&flags[0], &flags[1]]).start().exit();
    assert_eq!(exit.code, Some(128));
    assert_eq!(exit.stderr, format!("{missing}\n"));
    for path in [&log, &debug] {
        let told = text(path);
        let told = lines(&told);
        let last = told.last().unwrap();
        assert_eq!(
            (last.letter, last.message),
            ('W', &*format!("FATAL ERROR: {missing}"))
        );
    }
    // In order of the steps: chroot, counts.
    write_spec(&tree.bundle(), &spec(&tree.outside("missing"), false, &[]));
    let exit = launch(&tree, &[&flags[0]]).start().exit();
    exit.expect_fatal("failed to chroot to ");
    assert!(
        text(&log).contains(&format!("FATAL ERROR: {}", exit.stderr)),
        "{exit:?}"
    );
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/m", &[])]),
    );
    let exit = launch(&tree, &[&flags[0]]).start().exit();
    exit.expect_fatal("No FD found for mount.");
    assert!(
        text(&log).contains(&format!("FATAL ERROR: {}", exit.stderr)),
        "{exit:?}"
    );
}

/// docs/launch.md 1.6: a warning log line `FATAL ERROR: <text>`, whatever the format.
#[test]
fn fatal_text_in_json_is_a_warning_with_the_same_words() {
    let tree = Tree::new();
    for (format, key) in [("json", "msg"), ("json-k8s", "log")] {
        let log = tree.outside(format);
        let words = [flag("log", &log), format!("--log-format={format}")];
        let exit = launch(&tree, &[&words[0], &words[1]]).start().exit();
        let told = objects(&text(&log), key);
        let wanted = format!("FATAL ERROR: {}", exit.stderr.trim_end());
        assert_eq!(told.last(), Some(&(wanted, "warning".into())));
    }
}

/// The runtime starts its gofer with /dev/null for standard error: what is not in the log is lost.
#[test]
fn fatal_text_of_a_socket_that_is_not_open_stands_in_the_log() {
    let tree = plain();
    let log = tree.outside("log");
    let words = [
        &*flag("log", &log),
        "gofer",
        "--io-fds=77",
        &*flag("bundle", &tree.bundle()),
    ];
    let exit = Launch::raw(&words).start().exit();
    exit.expect_fatal("err creating server on FD 77: bad file descriptor");
    let told = fs::read_to_string(&log).unwrap_or_default();
    assert!(
        told.contains("FATAL ERROR: err creating server on FD 77"),
        "{told:?}"
    );
}

#[test]
fn fatal_text_of_a_debug_log_stands_in_the_log() {
    let tree = plain();
    let log = tree.outside("log");
    let exit = launch(
        &tree,
        &[&flag("log", &log), &flag("debug-log", &tree.root())],
    )
    .start()
    .exit();
    exit.expect_fatal("error opening debug log file in ");
    let told = fs::read_to_string(&log).unwrap_or_default();
    assert!(
        told.contains(&format!("FATAL ERROR: {}", exit.stderr)),
        "{told:?}"
    );
}

#[test]
fn usage_error_stands_in_the_log() {
    let tree = plain();
    let log = tree.outside("log");
    let exit = launch(&tree, &[&flag("log", &log)])
        .with(&["--nonsense"])
        .start()
        .exit();
    exit.expect_fatal("flag provided but not defined: -nonsense");
    let told = fs::read_to_string(&log).unwrap_or_default();
    assert!(told.contains("nonsense"), "{told:?}");
}

/// Words that are refused in front of the word gofer or behind it, and what is said of them.
const REFUSED_IN_FRONT: [(&[&str], &str); 5] = [
    (&["--nonsense"], "flag provided but not defined: -nonsense"),
    (&["---x"], "bad flag syntax: ---x"),
    (
        &["--debug=maybe"],
        "invalid boolean value \"maybe\" for -debug: parse error",
    ),
    (&["--bundle=/b"], "flag provided but not defined: -bundle"),
    (
        &["--log-fd=x", "--debug-log-fd=y"],
        "invalid value \"x\" for flag -log-fd: parse error",
    ),
];
const REFUSED_BEHIND: [(&[&str], &str); 4] = [
    (
        &["--nonsense=1"],
        "flag provided but not defined: -nonsense",
    ),
    (
        &["--apply-caps=x"],
        "invalid boolean value \"x\" for -apply-caps: parse error",
    ),
    (&["--io-fds"], "flag needs an argument: -io-fds"),
    (&["--bundle="], "--bundle is missing"),
];

/// The logs that a refused command line names, and which of them can be written to.
struct Asked {
    flags: Vec<String>,
    /// Files, each with whether it is the debug log.
    files: Vec<(PathBuf, bool)>,
    /// Likewise sockets, with the end to read and the number of the other.
    sockets: Vec<(UnixStream, UnixStream, i32, bool)>,
}

impl Asked {
    fn of(tree: &Tree, what: &str) -> Asked {
        let mut asked = Asked {
            flags: vec![
                "--log-format=json".into(),
                "--debug-log-format=json-k8s".into(),
            ],
            files: Vec::new(),
            sockets: Vec::new(),
        };
        for word in what.split(' ') {
            let path = tree.outside(word);
            match word {
                "log" | "debug-log" => {
                    // The value is a word of its own.
                    asked.flags.push(format!("--{word}"));
                    asked.flags.push(path.display().to_string());
                    asked.files.push((path, word == "debug-log"));
                }
                "debug-log-dir" => {
                    asked.flags.push(flag(word, &path));
                    asked.files.push((path, true));
                }
                "fds" => {
                    for (name, number) in [("log-fd", 7), ("debug-log-fd", 8)] {
                        let (ours, theirs) = UnixStream::pair().unwrap();
                        asked.flags.push(format!("--{name}={number}"));
                        asked.sockets.push((ours, theirs, number, number == 8));
                    }
                }
                "closed-fds" => asked
                    .flags
                    .extend(["--log-fd=77".into(), "--debug-log-fd=99999999999".into()]),
                other => panic!("{other}"),
            }
        }
        asked
    }

    /// Starts it with these words; what each log has, and whether it is the debug log.
    fn refused(self, words: &[&str]) -> (Exit, Vec<(String, bool)>) {
        let mut handed = Vec::new();
        let mut read = Vec::new();
        for (ours, theirs, number, is_debug) in self.sockets {
            handed.push((theirs.into(), number));
            read.push((ours, is_debug));
        }
        let exit = Launch::raw(words).hand(handed).start().exit();
        let mut texts = Vec::new();
        for (path, is_debug) in self.files {
            let path = match path.is_dir() {
                true => fs::read_dir(path).unwrap().next().unwrap().unwrap().path(),
                false => path,
            };
            texts.push((fs::read_to_string(path).unwrap_or_default(), is_debug));
        }
        for (mut socket, is_debug) in read {
            let mut text = String::new();
            socket.read_to_string(&mut text).unwrap();
            texts.push((text, is_debug));
        }
        (exit, texts)
    }
}

/// By both launches, in front of the word gofer, behind it, and without that word.
#[test]
fn usage_errors_stand_in_every_log_that_the_command_line_names() {
    let front = REFUSED_IN_FRONT.iter().map(|it| (it, "front"));
    let behind = REFUSED_BEHIND.iter().map(|it| (it, "behind"));
    let short = REFUSED_BEHIND.iter().map(|it| (it, "short"));
    let refused: Vec<_> = front.chain(behind).chain(short).collect();
    for is_later in [false, true] {
        for &(&(words, wanted), place) in &refused {
            for what in [
                "log debug-log",
                "log",
                "debug-log",
                "debug-log-dir",
                "fds",
                "log fds debug-log",
                "log closed-fds debug-log",
            ] {
                let tree = plain();
                let asked = Asked::of(&tree, what);
                let logs = asked.flags.clone();
                let count = asked.files.len() + asked.sockets.len();
                // The flags of the logs stand behind the fault.
                let all: Vec<&str> = (words.iter().copied().filter(|_| place == "front"))
                    .chain(logs.iter().map(String::as_str))
                    .chain(Some("gofer").filter(|_| place != "short"))
                    .chain(["--bundle=/b", "--io-fds=3"])
                    .chain(Some("--spec-fd=9").filter(|_| is_later))
                    .chain(words.iter().copied().filter(|_| place != "front"))
                    .collect();

                let (exit, texts) = asked.refused(&all);

                let code = if place == "front" { 2 } else { 128 };
                assert_eq!(exit.code, Some(code), "{all:?}: {exit:?}");
                assert_eq!(exit.stderr.lines().count(), 1, "{all:?}: {exit:?}");
                assert!(exit.stderr.contains(wanted), "{all:?}: {exit:?}");
                assert_eq!(texts.len(), count);
                for (text, is_debug) in texts {
                    assert_eq!(text.lines().count(), 1, "{all:?}: {text:?}");
                    let fatal = (format!("FATAL ERROR: {wanted}"), "warning".into());
                    let (key, wanted) = match (is_debug, is_later) {
                        (true, _) => ("log", fatal),
                        (false, false) => ("msg", fatal),
                        (false, true) => ("msg", (wanted.to_owned(), "error".into())),
                    };
                    assert_eq!(objects(&text, key), [wanted], "{all:?}");
                }
            }
        }
    }
}

/// A spec that can be written to stays as it is, a client gets no line, and the log that is one has it.
#[test]
fn a_descriptor_that_is_named_for_something_else_gets_no_line() {
    for other in ["io-fds", "spec-fd", "mounts-fd", "sync-userns-fd"] {
        for log_flag in ["log-fd", "debug-log-fd"] {
            for nonsense in [&["--nonsense"][..], &[]] {
                let tree = plain();
                let log = tree.outside("log");
                let file = memfd_create("named twice", MFdFlags::MFD_CLOEXEC).unwrap();
                let mut file = File::from(file);
                file.write_all(b"a spec").unwrap();
                let words = [
                    format!("--{log_flag}=50"),
                    flag("log", &log),
                    "gofer".into(),
                    "--spec-fd=52".into(),
                    format!("--{other}=50"), // the last one counts
                    "--bundle=/b".into(),
                    "--io-fds=51".into(),
                ];
                let words: Vec<&str> = (words.iter().map(String::as_str))
                    .chain(nonsense.iter().copied())
                    .collect();
                let handed = file.try_clone().unwrap().into();
                let exit = Launch::raw(&words).hand([(handed, 50)]).start().exit();
                assert_eq!(exit.code, Some(128), "{words:?}: {exit:?}");
                let mut kept = String::new();
                file.rewind().unwrap();
                file.read_to_string(&mut kept).unwrap();
                assert_eq!(kept, "a spec", "{words:?}");
                let told = text(&log);
                let wanted = match nonsense {
                    [] => "FD 50: bad file descriptor",
                    _ => "-nonsense",
                };
                assert!(told.contains(wanted), "{words:?}: {told:?}");
            }
        }
    }
}

/// Standard error can be named, too: whatever ends the start, what was named gets no line, and the log has the reason.
#[test]
fn standard_error_that_is_named_for_something_else_gets_no_line() {
    let ends: [(&[&str], i32, &str); 5] = [
        (&["gofer", "--io-fds=2", "--nonsense"], 128, "-nonsense"),
        (&["--nonsense", "gofer", "--spec-fd=2"], 2, "-nonsense"),
        (
            &["gofer", "--io-fds=2", "--io-fds=50"],
            128,
            "FD 50: bad file descriptor",
        ),
        (
            &["--log-fd=50", "gofer", "--io-fds=2"],
            128,
            "FD 50: bad file descriptor",
        ),
        (
            &[
                "--alsologtostderr",
                "gofer",
                "--io-fds=3",
                "--spec-fd=2",
                "--mounts-fd=2",
            ],
            128,
            "FD 2: bad file descriptor",
        ),
    ];
    for (words, code, wanted) in ends {
        for has_log in [true, false] {
            let tree = plain();
            let log = tree.outside("log");
            let log_flag = flag("log", &log);
            let (end, theirs) = UnixStream::pair().unwrap();
            let all: Vec<&str> = (Some(log_flag.as_str()).filter(|_| has_log).into_iter())
                .chain(words.iter().copied())
                .chain(["--bundle=/b"])
                .collect();
            let exit = Launch::raw(&all).hand([(theirs.into(), 2)]).start().exit();
            assert_eq!(exit.code, Some(code), "{all:?}: {exit:?}");
            let mut got = String::new();
            (&end).read_to_string(&mut got).unwrap();
            assert_eq!(got, "", "{all:?}");
            if has_log {
                let told = text(&log);
                assert_eq!(told.matches(wanted).count(), 1, "{all:?}: {told:?}");
            }
        }
    }
}

/// A number that is not open may become that of a copy of ours: of the log here, at the first free one.
#[test]
fn a_debug_log_fd_that_is_not_open_is_not_the_log() {
    for (later, wanted) in [
        (
            &["--spec-fd=3"][..],
            "error opening log: FD 8: bad file descriptor",
        ),
        (
            &[],
            "flag --debug-log-fd should only be passed to 'boot' command",
        ),
    ] {
        let (end, theirs) = UnixStream::pair().unwrap();
        let words = ["--log-fd=7", "--debug-log-fd=8", "gofer"];
        let words: Vec<&str> = (words.iter().chain(later).copied())
            .chain(["--bundle=/b", "--io-fds=3"])
            .collect();
        let exit = Launch::raw(&words)
            .hand([(theirs.into(), 7)])
            .start()
            .exit();
        exit.expect_fatal(wanted);
        let mut told = String::new();
        (&end).read_to_string(&mut told).unwrap();
        assert_eq!(told.lines().count(), 1, "{words:?}: {told:?}");
        assert!(told.contains(wanted), "{words:?}: {told:?}");
    }
}

/// What takes no lines: it is closed for writing, or could hold the start up for ever.
#[test]
fn log_fds_that_take_no_lines_end_the_start() {
    let tree = plain();
    let open = |flags| {
        let file = tree.outside("bundle/config.json");
        nix::fcntl::open(&file, flags, nix::sys::stat::Mode::empty()).unwrap()
    };
    let event = nix::sys::eventfd::EventFd::new().unwrap();
    let all: [(OwnedFd, &str); 3] = [
        (open(OFlag::O_RDONLY), "bad file descriptor"),
        (open(OFlag::O_PATH), "bad file descriptor"),
        (event.into(), "invalid argument"),
    ];
    for (fd, why) in all {
        let log = tree.outside("log");
        let exit = launch(&tree, &["--log-fd=50", &flag("log", &log)])
            .hand([(fd, 50)])
            .start()
            .exit();
        let wanted = format!("error opening log: FD 50: {why}");
        exit.expect_fatal(&wanted);
        assert!(text(&log).contains(&format!("FATAL ERROR: {wanted}")));
        fs::remove_file(&log).unwrap();
    }
}

/// The reason is in the log: too few descriptors to begin with, too few for the logs, and a kernel without close_range(2).
#[test]
fn starts_that_end_before_the_logs_are_in_place_leave_their_reason_there() {
    let tree = plain();
    let strace = [
        "-o/dev/null",
        "-e",
        "trace=close_range",
        "-e",
        "inject=close_range:error=ENOSYS",
    ];
    let few = ["-c", "ulimit -n 8; exec \"$0\" \"$@\""];
    // The descriptor that is free is the log's; a pipe takes two.
    let fewer = ["-c", "ulimit -n 5; exec \"$0\" \"$@\""];
    for (by, words, wanted) in [
        (
            "/bin/sh",
            &fewer[..],
            "opening standard descriptors: too many open files",
        ),
        ("/bin/sh", &few[..], "invalid argument"),
        (
            "strace",
            &strace[..],
            "closing inherited descriptors: function not implemented",
        ),
    ] {
        let log = tree.outside("log");
        let exit = launch(&tree, &[&flag("log", &log)])
            .by(by, words)
            .start()
            .exit();
        assert_eq!(exit.code, Some(128), "{by}: {exit:?}");
        let told = fs::read_to_string(&log).unwrap_or_default();
        let last = told.lines().last().unwrap_or_default();
        assert!(last.contains("FATAL ERROR: "), "{by}: {told:?}");
        assert!(last.contains(wanted), "{by}: {told:?}");
        let _gone = fs::remove_file(&log);
    }
}

/// Words behind the last flag are no flags: no file is made of them.
#[test]
fn usage_errors_make_no_log_of_words_that_are_no_flags() {
    let tree = plain();
    let log = tree.outside("log");
    let log = flag("log", &log);
    for words in [
        &["--", &*log][..],
        &["run", &*log],
        &["gofer", "--nonsense", "word", &*log],
        &["--nonsense=1", "--bundle=/b", "word", &*log],
        &["gofer", &*log],
    ] {
        let exit = Launch::raw(words).start().exit();
        assert_eq!(exit.code, Some(128), "{words:?}: {exit:?}");
        assert!(!tree.outside("log").exists(), "{words:?}");
    }
    for words in [
        &["--nonsense", "value", &*log, "gofer"][..],
        &["--nonsense=1", &*log, "--bundle=/b"],
        &["--", &*log, "gofer", "--bundle="],
    ] {
        let exit = Launch::raw(words).start().exit();
        assert!(matches!(exit.code, Some(2 | 128)), "{words:?}: {exit:?}");
        let told = fs::read_to_string(tree.outside("log")).unwrap_or_default();
        assert!(told.contains("FATAL ERROR: "), "{words:?}: {told:?}");
        fs::remove_file(tree.outside("log")).unwrap();
    }
}

/// Where standard error is a pipe that is full, or that has no reader, the start does not wait and the log has it.
#[test]
fn usage_errors_do_not_wait_for_standard_error() {
    for has_reader in [true, false] {
        let tree = plain();
        let log = tree.outside("log");
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        while nix::unistd::write(&writer, &[0; 4096]).is_ok() {}
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let reader = has_reader.then_some(reader);
        let launch = Launch::raw(&["--nonsense", &*flag("log", &log), "gofer"])
            .by("/bin/sh", &["-c", "exec \"$0\" \"$@\" 2>&9"])
            .hand([(writer, 9)]);
        let exit = launch.start().exit();
        assert_eq!(exit.code, Some(2), "{has_reader}: {exit:?}");
        assert!(text(&log).contains("-nonsense"), "{has_reader}");
        drop(reader);
    }
}

/// Each log is one that may be read: what is wrong with one of them stands in the others.
#[test]
fn fatal_text_of_a_log_stands_in_the_other_logs() {
    let tree = plain();
    let debug = tree.outside("debug");
    let words = [
        flag("log", &tree.outside("missing/log")),
        flag("debug-log", &debug),
        "--debug-log-format=xml".into(),
    ];
    for count in [2, 3] {
        let words: Vec<&str> = words[..count].iter().map(String::as_str).collect();
        let exit = launch(&tree, &words).start().exit();
        exit.expect_fatal("error opening log file ");
        assert_eq!(exit.stderr.lines().count(), 1, "{exit:?}");
        let last = text(&debug).lines().last().unwrap().to_owned();
        assert!(
            last.ends_with(&format!("FATAL ERROR: {}", exit.stderr.trim_end())),
            "{last}"
        );
    }
}

#[test]
fn fatal_text_is_one_line_whatever_the_spec_holds() {
    let tree = Tree::new();
    let log = tree.outside("log");
    for name in ["a\nb", "a\r\x1b[2Jb", "a\u{9b}b"] {
        let mut value = spec(&tree.root(), false, &[]);
        value["annotations"] = json!({"io.kubernetes.cri.container-type": name});
        write_spec(&tree.bundle(), &value);
        let exit = launch(&tree, &[&flag("log", &log)]).start().exit();
        exit.expect_fatal("unknown container-type: a");
        let lines = exit.stderr.split_inclusive('\n').count();
        let controls = exit
            .stderr
            .trim_end()
            .chars()
            .filter(|c| c.is_control())
            .count();
        assert_eq!((lines, controls), (1, 0), "{exit:?}");
    }
}

// ---- requests ----

/// A few requests, each with what its line has to hold.
fn ask(s: &mut Session) -> Vec<(&'static str, &'static str)> {
    s.walk(ROOT, 2, &[b"d", b"f"]).unwrap();
    refused(s.walk(ROOT, 3, &[b"missing"]), Errno::ENOENT);
    s.lopen(2, O_RDONLY).unwrap();
    s.read(2, 0, 100).unwrap();
    s.mkdir(ROOT, b"new", 0o755, NOID).unwrap();
    refused(s.mkdir(ROOT, b"new", 0o755, NOID), Errno::EEXIST);
    refused(s.getattr(99, 0), Errno::EBADF);
    s.unlinkat(ROOT, b"new", 0x200).unwrap();
    s.clunk(2).unwrap();
    let tag = s.next_tag();
    s.send(&crate::p9::frame(255, tag, b"abc")).unwrap();
    s.recv().unwrap();
    vec![
        ("Twalk fid=1 newfid=2 names=2 \"d\" \"f\" -> ", "bytes"),
        (
            "Twalk fid=1 newfid=3 names=1 \"missing\" -> ",
            "no such file or directory",
        ),
        ("Tlopen fid=2 flags=0 -> ", "bytes"),
        ("Tread fid=2 offset=0 count=100 -> ", "bytes"),
        ("Tmkdir ", "bytes"),
        ("Tmkdir ", "file exists"),
        ("Tgetattr fid=99 ", "bad file descriptor"),
        ("Tunlinkat ", "bytes"),
        ("Tclunk fid=2 -> ", "bytes"),
        ("type 255, 3 bytes -> ", ""),
    ]
}

fn small() -> Tree {
    let tree = plain();
    tree.dir("d");
    tree.file("d/f", b"content");
    tree
}

#[test]
fn debug_and_log_packets_tell_each_request_and_its_outcome_on_one_line() {
    for word in ["--debug", "--log-packets", "--log-packets=true", "-debug=1"] {
        let tree = small();
        let mut s = session_of(launch(&tree, &[word]));
        let wanted = ask(&mut s);
        let exit = s.finish();
        let told = lines(&exit.stderr);
        let told: Vec<_> = told
            .iter()
            .filter(|line| line.message.contains(" tag "))
            .collect();
        // Before them Tversion and Tattach.
        assert_eq!(told.len(), wanted.len() + 2, "{exit:?}");
        assert!(
            told[0].message.contains(" Tversion msize=1048576 "),
            "{told:?}"
        );
        assert!(told[1].message.contains(" Tattach fid=1 "), "{told:?}");
        for (line, (begin, end)) in told[2..].iter().zip(wanted) {
            assert_eq!(line.letter, 'D');
            let (socket, rest) = line.message.split_once(" tag ").unwrap();
            assert_eq!(socket, "FD 3", "{line:?}");
            let (tag, rest) = rest.split_once(' ').unwrap();
            assert!(tag.parse::<u16>().is_ok(), "{line:?}");
            assert!(rest.starts_with(begin) && rest.ends_with(end), "{line:?}");
            assert_eq!(rest.matches(" -> ").count(), 1, "{line:?}");
        }
    }
}

#[test]
fn requests_of_each_connection_are_told_with_its_number() {
    let tree = small();
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/d", &[])]),
    );
    let mut gofer = Launch::new(&tree.bundle(), 2)
        .through("runsc", &["--debug"])
        .start();
    let mut clients = [gofer.connect(0), gofer.connect(1)];
    clients[1].walk(ROOT, 2, &[b"f"]).unwrap();
    clients[0].walk(ROOT, 2, &[b"d"]).unwrap();
    drop(clients);
    let exit = gofer.exit();
    let told = messages(&exit.stderr);
    for (socket, name) in [("FD 4 tag ", "\"f\""), ("FD 3 tag ", "\"d\"")] {
        let is = |line: &&&str| line.starts_with(socket) && line.contains(name);
        assert_eq!(told.iter().filter(is).count(), 1, "{told:?}");
    }
}

#[test]
fn requests_are_not_told_without_the_flag() {
    for globals in [
        &[][..],
        &["--debug=false", "--log-packets=false"],
        &["--strace=true"],
    ] {
        let tree = small();
        let mut s = session_of(launch(&tree, globals));
        let before = s.gofer.stderr();
        ask(&mut s);
        assert_eq!(s.gofer.stderr(), before);
        let exit = s.finish();
        let behind = exit.stderr.strip_prefix(&before).unwrap();
        assert_eq!(
            messages(behind),
            ["Connection on FD 3 ended", "All 9P servers exited."]
        );
        assert!(lines(&exit.stderr).iter().all(|line| line.letter != 'D'));
    }
}

#[test]
fn names_are_told_escaped_and_each_request_stays_one_line() {
    let names: [(&[u8], &str); 6] = [
        (b"a\nb", "\"a\\nb\""),
        (
            b"I0101 00:00:00.000000       1 x:0] forged",
            "\"I0101 00:00:00.000000       1 x:0] forged\"",
        ),
        (
            b"quote\"s 'and' back\\slash",
            "\"quote\\\"s \\'and\\' back\\\\slash\"",
        ),
        (b"\xff\x80\xc3", "\"\\xff\\x80\\xc3\""),
        (b"\x1b[2J\r\t\x7f\x01", "\"\\x1b[2J\\r\\t\\x7f\\x01\""),
        (
            "\u{e9}\u{9b}\u{2028}".as_bytes(),
            "\"\\xc3\\xa9\\xc2\\x9b\\xe2\\x80\\xa8\"",
        ),
    ];
    for (format, key) in [("text", ""), ("json", "msg")] {
        let tree = plain();
        let mut s = session_of(launch(
            &tree,
            &["--debug", &format!("--log-format={format}")],
        ));
        for (name, _) in names {
            s.mkdir(ROOT, name, 0o755, NOID).unwrap();
            refused(s.walk(ROOT, 9, &[name, name]), Errno::ENOENT);
        }
        // A NUL and a slash are refused, and told all the same.
        refused(s.mkdir(ROOT, b"a\0b/c", 0o755, NOID), Errno::EINVAL);
        let exit = s.finish();
        let objects = if key.is_empty() {
            Vec::new()
        } else {
            objects(&exit.stderr, key)
        };
        let told: Vec<&str> = if key.is_empty() {
            messages(&exit.stderr)
        } else {
            objects
                .iter()
                .map(|(message, _)| message.as_str())
                .collect()
        };
        let told: Vec<&&str> = told.iter().filter(|line| line.contains(" tag ")).collect();
        assert_eq!(told.len(), 2 + 2 * names.len() + 1);
        for ((_, escaped), pair) in names.iter().zip(told[2..].chunks(2)) {
            assert!(
                pair[0].contains(&format!("name={escaped} ")),
                "{escaped}: {pair:?}"
            );
            assert!(pair[0].ends_with(" bytes"), "{pair:?}");
            assert!(
                pair[1].contains(&format!("names=2 {escaped} {escaped} -> ")),
                "{pair:?}"
            );
        }
        let last = told.last().unwrap();
        assert!(
            last.contains("\"a\\x00b/c\"") && last.ends_with("-> invalid argument"),
            "{last}"
        );
        assert!(
            exit.stderr
                .lines()
                .all(|line| !line.contains(char::is_control))
        );
    }
}

/// The longest name that the host takes, in the longest way to tell it.
#[test]
fn request_with_the_longest_name_is_told_with_its_outcome() {
    for format in ["text", "json"] {
        let tree = plain();
        let mut s = session_of(launch(
            &tree,
            &["--debug", &format!("--log-format={format}")],
        ));
        let name = vec![0xff; 255];
        s.mkdir(ROOT, &name, 0o755, NOID).unwrap();
        refused(s.mkdir(ROOT, &name, 0o755, NOID), Errno::EEXIST);
        let exit = s.finish();
        let told: Vec<&str> = exit
            .stderr
            .lines()
            .filter(|line| line.contains(" Tmkdir "))
            .collect();
        assert!(
            told[0].contains(" bytes") && told[1].contains("file exists"),
            "{told:?}"
        );
    }
}

#[test]
fn lines_that_are_too_long_are_cut_and_stay_lines() {
    for (format, key) in [("text", ""), ("json", "msg"), ("json-k8s", "log")] {
        let tree = plain();
        let mut s = session_of(launch(
            &tree,
            &["--debug", &format!("--log-format={format}")],
        ));
        let mut count = 0;
        for byte in *b"a\"\\<\xff\n" {
            for length in (3_920..4_070).chain([60_000]) {
                let answer = s.walk(ROOT, 9, &[&vec![byte; length]]);
                assert!(matches!(answer, Err(Fault::Errno(_))), "{answer:?}");
                count += 1;
            }
        }
        let names = vec![&b"\xe2\x80\xa8\""[..]; 256];
        assert!(s.walk(ROOT, 9, &names).is_err());
        let exit = s.finish();
        let told: Vec<&str> = exit
            .stderr
            .lines()
            .filter(|line| line.contains(" Twalk "))
            .collect();
        assert_eq!(told.len(), count + 1);
        for line in &told {
            assert!(line.len() < LINE_BYTES, "{} bytes", line.len());
        }
        if key.is_empty() {
            lines(&exit.stderr);
        } else {
            assert_eq!(
                objects(&exit.stderr, key).len(),
                exit.stderr.lines().count()
            );
        }
        // A JSON line keeps room for its end.
        let room = if key.is_empty() { 8 } else { 120 };
        assert!(told.iter().any(|line| line.len() > LINE_BYTES - room));
    }
}

#[test]
fn lines_stay_lines_whatever_a_mounts_destination_holds() {
    let tree = Tree::new();
    let names = [
        "/a\nb",
        "/a\r\u{1b}[2J",
        "/a\0b",
        "/\u{2028}\u{85}",
        "/\"\\</",
    ];
    let mounts: Vec<Mount> = names.iter().map(|name| Mount::bind(name, &[])).collect();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    for (format, key) in [("text", ""), ("json", "msg")] {
        let globals = [format!("--log-format={format}")];
        let launch = Launch::new(&tree.bundle(), 1 + names.len());
        let mut gofer = launch.through("runsc", &[&globals[0]]).start();
        gofer.connect(0).getattr(ROOT, 0).unwrap();
        gofer.sockets.clear();
        let exit = gofer.exit();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        let serving = |told: &str| told.starts_with("Serving \"/");
        let count = if key.is_empty() {
            messages(&exit.stderr)
                .into_iter()
                .filter(|told| serving(told))
                .count()
        } else {
            let told = objects(&exit.stderr, key);
            // Here nothing is lost.
            for name in names {
                let wanted = format!("Serving \"{name}\" mapped on FD ");
                assert!(
                    told.iter().any(|(told, _)| told.starts_with(&wanted)),
                    "{told:?}"
                );
            }
            told.iter().filter(|(told, _)| serving(told)).count()
        };
        assert_eq!(count, 1 + names.len());
        let controls = exit
            .stderr
            .bytes()
            .filter(|byte| byte.is_ascii_control() && *byte != b'\n');
        assert_eq!(controls.count(), 0, "{exit:?}");
    }
}

// ---- logs that do not take what they are given ----

/// A pipe by name, of at least `bytes`, and its end that is read without waiting.
fn pipe(tree: &Tree, name: &str, bytes: i32) -> (String, File) {
    let path = tree.outside(name);
    mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    let end = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&path)
        .unwrap();
    fcntl(&end, FcntlArg::F_SETPIPE_SZ(bytes)).unwrap();
    (flag("log", &path), end)
}

const MANY: u32 = 2_000;

/// Sends many requests in one go, and has each of them answered.
fn ask_many(s: &mut Session) {
    let one = t::getattr(7, ROOT, 0);
    let some = one.repeat(100);
    for _ in 0..MANY / 100 {
        s.send(&some).unwrap();
        for _ in 0..100 {
            s.recv().unwrap();
        }
    }
}

/// Lines that a run with [`ask_many`] and one further request makes, where all of them are taken.
fn lines_of_a_run(tree: &Tree) -> usize {
    let log = tree.outside("all");
    let mut s = session_of(launch(tree, &[&flag("log", &log), "--debug"]));
    ask_many(&mut s);
    s.getattr(ROOT, 0).unwrap();
    assert_eq!(s.finish().code, Some(0));
    let told = lines(&text(&log)).len();
    fs::remove_file(log).unwrap();
    told
}

#[test]
fn log_whose_pipe_is_full_loses_lines_and_says_how_many() {
    let tree = plain();
    let wanted = lines_of_a_run(&tree);
    let (log, end) = pipe(&tree, "pipe", 65_536);
    let mut s = session_of(launch(&tree, &[&log, "--debug"]));
    ask_many(&mut s);
    let mut told = drained(&end);
    assert!(lines(&told).len() < wanted);
    s.getattr(ROOT, 0).unwrap();
    assert_eq!(s.finish().code, Some(0));
    let behind = drained(&end);
    assert!(messages(&behind)[0].starts_with("*** Dropped "), "{behind}");
    assert_eq!(messages(&behind).last(), Some(&"All 9P servers exited."));
    told.push_str(&behind);
    let (lost, told) = dropped(&told);
    assert!(lost > 0);
    assert_eq!(lost + told, wanted);
}

#[test]
fn log_in_json_whose_pipe_is_full_says_so_in_json() {
    let tree = plain();
    for (format, key) in [("json", "msg"), ("json-k8s", "log")] {
        let (log, end) = pipe(&tree, format, 65_536);
        let format = format!("--log-format={format}");
        let mut s = session_of(launch(&tree, &[&log, &format, "--debug"]));
        ask_many(&mut s);
        let mut told = drained(&end);
        s.getattr(ROOT, 0).unwrap();
        assert_eq!(s.finish().code, Some(0));
        told.push_str(&drained(&end));
        let told = objects(&told, key);
        let notices: Vec<_> = told
            .iter()
            .filter(|(message, _)| message.starts_with("*** Dropped "))
            .collect();
        let [(message, level)] = notices.as_slice() else {
            panic!("{notices:?}")
        };
        assert!(message.ends_with(" log messages ***"), "{message}");
        assert_eq!(level, "warning");
    }
}

/// A pipe of one page takes one line at a time: the notice, and then nothing before it is read again.
#[test]
fn log_whose_pipe_is_one_page_counts_each_lost_line_once() {
    let tree = plain();
    let wanted = lines_of_a_run(&tree);
    let (log, end) = pipe(&tree, "pipe", 4_096);
    let mut s = session_of(launch(&tree, &[&log, "--debug"]));
    let mut told = String::new();
    let some = t::getattr(7, ROOT, 0);
    for _ in 0..MANY {
        s.send(&some).unwrap();
        s.recv().unwrap();
        told.push_str(&drained(&end));
    }
    s.getattr(ROOT, 0).unwrap();
    told.push_str(&drained(&end));
    let (lost, told) = dropped(&told);
    assert!(
        told > 100,
        "{told} lines of {wanted} came through, {lost} are said to be lost"
    );
    assert!(
        lost + told <= wanted,
        "{lost} and {told}, but there were {wanted}"
    );
    assert_eq!(s.finish().code, Some(0));
}

#[test]
fn log_whose_pipe_is_full_leaves_the_other_log_whole() {
    let tree = plain();
    let wanted = lines_of_a_run(&tree);
    let debug = tree.outside("debug");
    let (log, end) = pipe(&tree, "pipe", 65_536);
    let mut s = session_of(launch(
        &tree,
        &[&log, &flag("debug-log", &debug), "--debug"],
    ));
    ask_many(&mut s);
    let mut told = drained(&end);
    s.getattr(ROOT, 0).unwrap();
    assert_eq!(s.finish().code, Some(0));
    told.push_str(&drained(&end));
    assert_eq!(dropped(&text(&debug)), (0, wanted), "the file lost nothing");
    let (lost, told) = dropped(&told);
    assert_eq!(lost + told, wanted, "{lost} lost");
}

#[test]
fn log_whose_socket_is_full_loses_lines_and_says_how_many() {
    let tree = plain();
    let wanted = lines_of_a_run(&tree);
    let mut gofer = to_socket(&tree, &["--debug"]);
    let end = gofer.sockets[1].take().unwrap();
    end.set_nonblocking(true).unwrap();
    let end = File::from(std::os::fd::OwnedFd::from(end));
    let mut s = gofer.session().unwrap();
    ask_many(&mut s);
    let mut told = drained(&end);
    s.getattr(ROOT, 0).unwrap();
    assert_eq!(s.finish().code, Some(0));
    told.push_str(&drained(&end));
    let (lost, told) = dropped(&told);
    assert!(lost > 0);
    assert_eq!(lost + told, wanted);
}

/// A terminal is said to be writable while it has room for a byte, and a longer write waits.
#[test]
fn log_to_a_terminal_that_nobody_reads_does_not_stop_the_server() {
    let tree = plain();
    // SAFETY: the call takes no pointer; its result is a descriptor of ours or -1.
    #[allow(unsafe_code)]
    let number = unsafe { nix::libc::posix_openpt(nix::libc::O_RDWR | nix::libc::O_NOCTTY) };
    assert!(number >= 0);
    // SAFETY: a descriptor that was just opened and is nobody else's.
    #[allow(unsafe_code)]
    let master = unsafe { File::from_raw_fd(number) };
    let mut name = [0u8; 64];
    // SAFETY: the descriptor is open, and the buffer is as long as it is said to be.
    #[allow(unsafe_code)]
    let named =
        unsafe { nix::libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr().cast(), name.len()) };
    // SAFETY: the descriptor is open.
    #[allow(unsafe_code)]
    let unlocked = unsafe { nix::libc::unlockpt(master.as_raw_fd()) };
    assert_eq!((named, unlocked), (0, 0));
    let name: Vec<u8> = name.into_iter().take_while(|&byte| byte != 0).collect();
    let log = flag("log", Path::new(OsStr::from_bytes(&name)));
    let mut s = session_of(launch(&tree, &["--debug", &log]));
    ask_many(&mut s);
    s.getattr(ROOT, 0).unwrap();
}

#[test]
fn log_whose_reader_is_gone_does_not_stop_the_server() {
    let tree = plain();
    let (log, end) = pipe(&tree, "pipe", 65_536);
    let mut s = session_of(launch(&tree, &[&log, "--debug"]));
    s.getattr(ROOT, 0).unwrap();
    drop(end);
    ask_many(&mut s);
    let exit = s.finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
    // The same for a socket.
    let mut gofer = to_socket(&tree, &["--debug"]);
    let end = gofer.sockets[1].take();
    let mut s = gofer.session().unwrap();
    drop(end);
    ask_many(&mut s);
    assert_eq!(s.finish().code, Some(0));
}

#[test]
fn log_whose_reader_was_gone_before_the_start_does_not_stop_it() {
    let tree = plain();
    let pipe = tree.outside("pipe");
    mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
    let pipe = pipe.display();
    let first = format!("exec 8<>{pipe} 9>{pipe} 8<&-");
    let mut s = session_of(from_shell(&tree, &first, &["--log-fd=9", "--debug"]));
    ask_many(&mut s);
    assert_eq!(s.finish().code, Some(0));
}

/// A pipe by name that nobody has opened: it is not waited for, and who reads it later is told what is lost.
#[test]
fn log_whose_reader_has_not_come_yet_does_not_stop_the_start() {
    let tree = plain();
    let path = tree.outside("pipe");
    mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    let mut s = session_of(launch(&tree, &[&flag("log", &path)]));
    s.getattr(ROOT, 0).unwrap();
    let end = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&path)
        .unwrap();
    assert_eq!(s.finish().code, Some(0));
    let told = drained(&end);
    let told = messages(&told);
    assert!(told[0].starts_with("*** Dropped "), "{told:?}");
    assert_eq!(told.last(), Some(&"All 9P servers exited."));
}

#[test]
fn log_whose_disk_is_full_does_not_stop_the_server() {
    let tree = plain();
    let mut s = session_of(launch(&tree, &["--log=/dev/full", "--debug"]));
    ask_many(&mut s);
    assert_eq!(s.finish().code, Some(0));
    // Why a start failed is on standard error then.
    fs::remove_file(tree.bundle().join("config.json")).unwrap();
    let exit = launch(&tree, &["--log=/dev/full"]).start().exit();
    exit.expect_fatal("error opening spec: ");
}

#[test]
fn log_at_the_limit_of_a_files_size_does_not_stop_the_server() {
    let tree = plain();
    let log = tree.outside("log");
    // In blocks of 512 bytes.
    let mut s = session_of(from_shell(
        &tree,
        "ulimit -f 32",
        &[&flag("log", &log), "--debug"],
    ));
    ask_many(&mut s);
    assert_eq!(s.finish().code, Some(0));
    assert!(fs::metadata(&log).unwrap().len() <= 32 * 512);
}

/// What a full pipe tore stays a line of its own.
#[test]
fn spec_longer_than_its_pipe_does_not_stop_the_start_and_tears_no_other_line() {
    let tree = Tree::new();
    let mut value = spec(&tree.root(), false, &[]);
    value["annotations"] = json!({"big": "x".repeat(1_000_000)});
    write_spec(&tree.bundle(), &value);
    let (log, end) = pipe(&tree, "pipe", 65_536);
    let mut s = session_of(launch(&tree, &[&log]));
    s.getattr(ROOT, 0).unwrap();
    let mut told = drained(&end);
    assert_eq!(s.finish().code, Some(0));
    told.push_str(&drained(&end));
    let behind = messages(&told);
    assert!(
        behind.iter().any(|line| line.starts_with("*** Dropped ")),
        "{behind:?}"
    );
    let (lost, _) = dropped(&told);
    assert!(lost > 0);
    assert_eq!(behind.last(), Some(&"All 9P servers exited."));
}

/// What does not fit is not tried again byte by byte, as often as a spec has bytes.
#[test]
fn spec_longer_than_its_pipe_is_given_up_at_once_in_every_format() {
    for format in ["text", "json", "json-k8s"] {
        let tree = Tree::new();
        let mut value = spec(&tree.root(), false, &[]);
        value["annotations"] = json!({"big": "x".repeat(100_000)});
        write_spec(&tree.bundle(), &value);
        let (log, _end) = pipe(&tree, "pipe", 65_536);
        let trace = tree.outside("trace");
        let mut words: Vec<OsString> = ["-f", "-e", "trace=write", "-o"].map(OsString::from).into();
        words.extend([trace.clone().into(), binary().into(), log.into()]);
        words.push(format!("--log-format={format}").into());
        words.extend(["gofer", "--bundle"].map(OsString::from));
        words.extend([tree.bundle().into(), "--io-fds".into(), "3".into()]);
        let mut s = session_of(Launch::raw(&words).binary(Path::new("strace")));
        s.getattr(ROOT, 0).unwrap();
        assert_eq!(s.finish().code, Some(0));
        let writes = text(&trace).matches("write(4, ").count();
        assert!((16..200).contains(&writes), "{format}: {writes}");
    }
}
