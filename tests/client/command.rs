//! The command lines that runtimes have used, Go's flag syntax, every flag, and the manual page: docs/launch.md 1.

use crate::harness::{
    Exit, Launch, Mount, ROOT, Tree, binary, serve_mounts, session_of, spec, write_spec,
};
use crate::p9::{NOFID, O_RDWR, refused};
use nix::errno::Errno;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn plain() -> Tree {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    tree
}

fn end_of<W: AsRef<OsStr>>(words: &[W]) -> Exit {
    Launch::raw(words).start().exit()
}

/// The end of a start with these global flags and a bundle that is missing, and its configuration in the log.
fn configured(globals: &[&str]) -> Exit {
    let words = [globals, &["gofer", "--bundle=/missing", "--io-fds=3"]].concat();
    end_of(&words)
}

#[track_caller]
fn expect_configured(globals: &[&str], wanted: &str) {
    let exit = configured(globals);
    exit.expect_fatal("error opening spec: open /missing/config.clean.json: ");
    exit.expect_fatal(wanted);
}

#[track_caller]
fn expect_end(exit: &Exit, code: i32, text: &str) {
    assert_eq!(exit.code, Some(code), "{text}: {exit:?}");
    assert!(exit.stderr.contains(text), "{text}: {exit:?}");
    assert_eq!(
        (exit.stderr.lines().count(), exit.stdout.as_str()),
        (1, ""),
        "{exit:?}"
    );
}

// ---- command lines of each period ----

/// As the runtimes of the end of 2018 call it, with two bind mounts.
fn as_in_2018(globals: &[&str], flags: &[&str], spec_name: &str) -> Tree {
    let tree = Tree::new();
    for name in ["etc", "etc/resolv", "data"] {
        tree.dir(name);
    }
    tree.file("data/here", b"content");
    tree.file("etc/resolv/there", b"");
    let mounts = [
        Mount {
            kind: "proc".into(),
            ..Mount::bind("/proc", &[])
        },
        Mount::bind("/data", &["rbind", "rw"]),
        Mount::bind("/dev/shm", &["rbind", "rw"]),
        Mount::bind("/etc/resolv", &["rbind", "ro"]),
    ];
    let value = spec(&tree.root(), false, &mounts);
    fs::write(tree.bundle().join(spec_name), value.to_string()).unwrap();
    let bundle = tree.bundle();
    let logs = tree.outside("logs");
    let logs = logs.to_str().unwrap();
    fs::create_dir(logs).unwrap();
    let globals: Vec<String> = globals
        .iter()
        .map(|word| word.replace("LOGS", logs))
        .collect();
    let globals: Vec<&str> = globals.iter().map(String::as_str).collect();
    let mut words = vec!["--bundle", bundle.to_str().unwrap()];
    words.extend(flags);
    words.extend(["--io-fds=3", "--io-fds=4", "--io-fds=5"]);
    let launch = Launch::raw(&words).through("/usr/local/bin/runsc", &globals);
    let mut gofer = launch.sockets(3).start();
    let mut clients: Vec<_> = (0..3).map(|index| gofer.connect(index)).collect();
    clients[0].walk_to(ROOT, 2, "data/here").unwrap();
    clients[1].open(ROOT, 2, "here", O_RDWR).unwrap();
    clients[2].walk_to(ROOT, 2, "there").unwrap();
    let errno = if flags.contains(&"--panic-on-write=true") {
        Errno::EFAULT
    } else {
        Errno::EROFS
    };
    refused(clients[2].mkdir(ROOT, b"new", 0o755, NOFID), errno);
    drop(clients);
    let exit = gofer.exit();
    assert_eq!(exit.code, Some(0), "{words:?}: {exit:?}");
    tree
}

#[test]
fn command_lines_of_october_2018_start_and_serve() {
    as_in_2018(
        &[
            "--root=/var/run/docker/runtime-runsc/moby",
            "--debug=true",
            "--log=LOGS/log.json",
            "--log-format=json",
            "--debug-log=LOGS/runsc/",
            "--file-access=exclusive",
            "--overlay=false",
            "--network=sandbox",
            "--log-packets=false",
            "--platform=ptrace",
            "--strace=false",
            "--strace-syscalls=",
            "--strace-log-size=1024",
            "--watchdog-action=LogWarning",
            "--panic-signal=-1",
        ],
        &[],
        "config.json",
    );
}

/// Until 2018-10-11 the debug log's directory has a flag of its own.
#[test]
fn command_lines_of_september_2018_start_and_serve() {
    let globals = [
        "--root=/var/run/docker/runtime-runsc/moby",
        "--debug=true",
        "--log=LOGS/log.json",
        "--log-format=json",
        "--debug-log-dir=LOGS/runsc",
        "--file-access=exclusive",
        "--overlay=false",
        "--network=sandbox",
        "--log-packets=false",
        "--platform=ptrace",
        "--strace=false",
        "--strace-syscalls=",
        "--strace-log-size=1024",
        "--watchdog-action=LogWarning",
        "--panic-signal=-1",
        "--multi-container=true",
    ];
    for count in [15, 16] {
        let logs = as_in_2018(&globals[..count], &[], "config.json");
        let debug: Vec<_> = fs::read_dir(logs.outside("logs/runsc")).unwrap().collect();
        let [Ok(log)] = &debug[..] else {
            panic!("{debug:?}");
        };
        let name = log.file_name().into_string().unwrap();
        assert!(
            name.starts_with("runsc.log.") && name.ends_with(".gofer"),
            "{name}"
        );
    }
}

#[test]
fn command_lines_of_december_2018_start_and_serve() {
    let globals = [
        "--root=/var/run/docker/runtime-runsc/moby",
        "--debug=false",
        "--log=LOGS/log.json",
        "--log-format=json",
        "--debug-log=",
        "--debug-log-format=text",
        "--file-access=shared",
        "--overlay=false",
        "--network=none",
        "--log-packets=false",
        "--platform=ptrace",
        "--strace=false",
        "--strace-syscalls=",
        "--strace-log-size=1024",
        "--watchdog-action=LogWarning",
        "--panic-signal=-1",
        "--trace-signal=-1",
    ];
    as_in_2018(&globals, &[], "config.clean.json");
}

#[test]
fn command_lines_of_november_2018_start_and_serve() {
    let front = |debug: &'static str, format: &'static str, overlay: &'static str| {
        [
            "--root=/var/run/docker/runtime-runsc/moby",
            debug,
            "--log=LOGS/log.json",
            format,
            "--debug-log=",
            "--debug-log-format=text",
            "--file-access=exclusive",
            overlay,
            "--network=host",
            "--log-packets=false",
            "--platform=kvm",
            "--strace=true",
            "--strace-syscalls=open,read",
            "--strace-log-size=256",
            "--watchdog-action=Panic",
            "--panic-signal=6",
            "-TESTONLY-unsafe-nonroot=true",
        ]
    };
    let docker = front("--debug=false", "--log-format=json", "--overlay=false");
    as_in_2018(&docker, &[], "config.clean.json");
    let kubernetes = front("--debug=true", "--log-format=json-k8s", "--overlay=false");
    as_in_2018(&kubernetes[..16], &[], "config.clean.json");
    let overlay = front("--debug=false", "--log-format=text", "--overlay=true");
    as_in_2018(&overlay, &["--panic-on-write=true"], "config.clean.json");
}

/// The runtime gives its gofer /dev/null for 0 to 2.
#[test]
fn start_with_nothing_but_dev_null_for_standard_descriptors_serves() {
    let tree = plain();
    let words: Vec<OsString> = vec![
        "-c".into(),
        "exec \"$0\" \"$@\" </dev/null >/dev/null 2>/dev/null".into(),
        binary().into(),
        "--log=".into(),
        "gofer".into(),
        "--bundle".into(),
        tree.bundle().into(),
        "--io-fds=3".into(),
    ];
    let mut s = session_of(Launch::raw(&words).binary(Path::new("/bin/sh")));
    s.getattr(ROOT, 0).unwrap();
    let exit = s.finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
}

/// When, and what the runtime puts before the word `gofer` and behind it.
type Recorded = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const LATER: [Recorded; 3] = [
    (
        "2021",
        &[
            "--root=/run/containerd/runsc/k8s.io",
            "--debug=true",
            "--log-format=json",
            "--debug-log-fd=4",
        ],
        &["--spec-fd=5", "--mounts-fd=6", "--io-fds=7"],
    ),
    (
        "2022",
        &[
            "--root=/r",
            "--debug=true",
            "--debug-log=/d/",
            "--network=none",
            "--debug-log-fd=4",
        ],
        &["--spec-fd=5", "--mounts-fd=6", "--io-fds=7", "--io-fds=8"],
    ),
    (
        "2022, rootless, with an overlay",
        &[
            "--root=/r",
            "--network=none",
            "--overlay2=root:memory",
            "--rootless=true",
            "--host-uds=open",
        ],
        &[
            "--spec-fd=5",
            "--mounts-fd=6",
            "--io-fds=7",
            "--sync-userns-fd=8",
        ],
    ),
];

/// This one hands over every global flag, at its default or not.
const OF_2019: Recorded = (
    "2019-06",
    &[
        "--root=/var/run/docker/runtime-runsc/moby",
        "--debug=true",
        "--log=/run/log.json",
        "--log-format=json",
        "--debug-log=/tmp/runsc/",
        "--debug-log-format=text",
        "--file-access=exclusive",
        "--overlay=false",
        "--network=sandbox",
        "--log-packets=false",
        "--platform=ptrace",
        "--strace=false",
        "--strace-syscalls=",
        "--strace-log-size=1024",
        "--watchdog-action=LogWarning",
        "--panic-signal=-1",
        "--profile=false",
        "--net-raw=false",
        "--num-network-channels=1",
        "--rootless=false",
        "--log-fd=3",
        "--debug-log-fd=4",
    ],
    &["--spec-fd=5", "--mounts-fd=6", "--io-fds=7", "--io-fds=8"],
);

fn later(globals: &[&str], more: &[&str], flags: &[&str]) -> Exit {
    let words = [&["--bundle", "/bundle"], flags].concat();
    let globals = [globals, more].concat();
    let launch = Launch::raw(&words).through("runsc-gofer", &globals);
    launch.strays(&[4, 5, 6, 7, 8]).start().exit()
}

#[test]
fn command_lines_from_2019_on_that_ask_for_lisafs_end_with_one_line_that_says_how_to_start() {
    for (when, globals, flags) in LATER {
        for more in ["--lisafs=true", "--lisafs"] {
            let exit = later(globals, &[more], flags);
            assert_eq!(exit.code, Some(128), "{when}: {exit:?}");
            let told = exit.stderr.as_str();
            assert_eq!(told.lines().count(), 1, "{when}: {told}");
            assert!(
                told.contains("speaks 9P") && told.contains("--lisafs=false"),
                "{when}: {told}"
            );
            assert_eq!(exit.stdout, "");
        }
    }
}

/// The flag is of 2021 and later: a runtime that has none speaks 9P. `launch.rs` starts them; here the
/// descriptors are files without a spec.
#[test]
fn command_lines_from_2019_on_without_lisafs_come_as_far_as_the_spec() {
    for (when, globals, flags) in LATER.into_iter().chain([OF_2019]) {
        for more in [&[][..], &["--lisafs=false"]] {
            let globals: Vec<&str> = globals
                .iter()
                .copied()
                .filter(|word| !word.starts_with("--debug-log") && !word.starts_with("--log"))
                .collect();
            let exit = later(&globals, more, &[flags, &["--io-fds=3"]].concat());
            assert_eq!(exit.code, Some(128), "{when}: {exit:?}");
            let told = exit.stderr.as_str();
            // 7 and 8 are no sockets in this test.
            assert_eq!(told.lines().count(), 1, "{when}: {told}");
            assert!(
                told.contains("socket operation on non-socket"),
                "{when}: {told}"
            );
        }
    }
}

/// The runtime gives its gofer /dev/null for standard error, and reads why it failed from --log-fd.
#[test]
fn contract_l_is_refused_in_the_log_that_the_runtime_reads() {
    for more in [&["--lisafs"][..], &["--lisafs=false"]] {
        let words = ["--bundle=/b", "--io-fds=3", "--spec-fd=5"];
        let globals = [&["--log-fd=4"], more].concat();
        let launch = Launch::raw(&words).through("runsc-gofer", &globals);
        let mut gofer = launch.sockets(2).strays(&[5]).start();
        let mut log = gofer.sockets[1].take().unwrap();
        let exit = gofer.exit();
        let mut told = String::new();
        log.read_to_string(&mut told).unwrap();
        let value: serde_json::Value =
            serde_json::from_str(&told).unwrap_or_else(|why| panic!("{why}: {told:?}"));
        assert_eq!(value["level"], "error");
        let message = value["msg"].as_str().unwrap();
        assert_eq!(format!("{message}\n"), exit.stderr);
    }
}

/// It takes --spec-fd and nothing else to be called by a later runtime.
#[test]
fn contract_l_is_told_by_spec_fd_alone() {
    let tree = plain();
    for words in [
        &["--spec-fd=-1"][..],
        &["--setup-root", "--mounts-fd=9", "--sync-userns-fd=9"],
        &["--spec-fd=7", "--spec-fd=-1"],
    ] {
        let launch = Launch::new(&tree.bundle(), 1)
            .with(words)
            .through("runsc-gofer", &["--lisafs"]);
        session_of(launch).getattr(ROOT, 0).unwrap();
    }
    let exit = Launch::new(&tree.bundle(), 1)
        .with(&["--spec-fd=0"])
        .start()
        .exit();
    expect_end(
        &exit,
        128,
        "error reading spec: error unmarshaling spec from file \"--spec-fd\": unexpected end of JSON input",
    ); // /dev/null
}

// ---- syntax ----

#[test]
fn flags_take_one_dash_or_two_and_values_in_both_ways() {
    for globals in [
        &["--root=/x"][..],
        &["-root=/x"],
        &["--root", "/x"],
        &["-root", "/x"],
        &["--root=/y", "-root", "/x"],
        &["--debug", "-strace", "--root", "/x", "--log-packets=0"],
    ] {
        expect_configured(globals, "RootDir: /x\n");
    }
    expect_configured(&["--root="], "RootDir: \n");
    expect_configured(&["--root=a=b"], "RootDir: a=b\n");
    expect_configured(&["--root", ""], "RootDir: \n");
    // The next word is taken whatever it looks like, the word of the sub-command too.
    expect_configured(&["--root", "--debug"], "RootDir: --debug\n");
    expect_configured(&["--root", "gofer"], "RootDir: gofer\n");
    expect_configured(&["--root", "--"], "RootDir: --\n");
}

#[test]
fn booleans_take_gos_words_behind_an_equals_sign_alone() {
    for word in ["1", "t", "T", "TRUE", "true", "True"] {
        expect_configured(&[&format!("--overlay={word}")], "overlay: true\n");
    }
    for word in ["0", "f", "F", "FALSE", "false", "False"] {
        expect_configured(
            &["--overlay", &format!("--overlay={word}")],
            "overlay: false\n",
        );
    }
    for word in ["", "tRUE", "yes", "on", "2", "true ", "y"] {
        let exit = configured(&[&format!("--overlay={word}")]);
        expect_end(
            &exit,
            2,
            &format!("invalid boolean value \"{word}\" for -overlay: "),
        );
    }
    // A separate word is the first that is no flag.
    expect_end(&configured(&["--overlay", "false"]), 128, "\"false\"");
}

#[test]
fn flags_end_at_a_word_a_lone_dash_and_behind_two_dashes() {
    let tree = plain();
    for words in [
        &["word", "--nonsense"][..],
        &["-", "--nonsense"],
        &["--", "--nonsense"],
        &["--"],
    ] {
        let launch = Launch::new(&tree.bundle(), 1).with(words);
        session_of(launch.through("runsc", &[]))
            .getattr(ROOT, 0)
            .unwrap();
        session_of(Launch::new(&tree.bundle(), 1).with(words))
            .getattr(ROOT, 0)
            .unwrap();
    }
    // Behind two dashes the word of the sub-command is found; a lone dash is a sub-command itself.
    expect_configured(&["--root=/x", "--"], "RootDir: /x\n");
    expect_end(&configured(&["--root=/x", "-"]), 128, "\"-\"");
    for word in ["boot", "run", "Gofer", "gofer2"] {
        let exit = end_of(&["--root=/x", word, "--bundle=/b", "--io-fds=3"]);
        expect_end(&exit, 128, &format!("\"{word}\""));
    }
}

#[test]
fn flags_of_bad_syntax_are_refused() {
    for word in ["---root=/x", "--=x", "-=x", "---", "-=", "--="] {
        expect_end(&configured(&[word]), 2, &format!("bad flag syntax: {word}"));
        let exit = end_of(&["gofer", "--bundle=/b", "--io-fds=3", word]);
        expect_end(&exit, 128, &format!("bad flag syntax: {word}"));
    }
}

#[test]
fn flags_given_again_count_the_last_time() {
    expect_configured(&["--strace", "--strace=false"], "Strace: false,");
    expect_configured(
        &["--platform=kvm", "--platform", "ptrace"],
        "Platform: ptrace\n",
    );
    // Which values there are is asked once, of the last.
    expect_configured(&["--network=nonsense", "--network=none"], "Network: none,");
    // What has the wrong type is refused at once.
    expect_end(
        &configured(&["--debug=x", "--debug=true"]),
        2,
        "\"x\" for -debug",
    );
    let exit = end_of(&["gofer", "--bundle=/a", "--io-fds=3", "--bundle=/missing"]);
    exit.expect_fatal("open /missing/config.clean.json");
}

#[test]
fn integers_have_gos_bases() {
    for word in [
        "1024",
        "0x400",
        "0X400",
        "02000",
        "0o2000",
        "0O2_000",
        "0b10000000000",
        "0x4_00",
        "0_2000",
    ] {
        expect_configured(&[&format!("--strace-log-size={word}")], "max size: 1024,");
    }
    for word in [
        "", "x", "1 ", " 1", "08", "0x", "0xg", "1_024", "1e3", "1.0", "+1", "-1", "--1", "0b2",
    ] {
        let exit = configured(&[&format!("--strace-log-size={word}")]);
        expect_end(
            &exit,
            2,
            &format!("invalid value \"{word}\" for flag -strace-log-size: parse error"),
        );
    }
    for word in ["18446744073709551616", "0x1ffffffffffffffff"] {
        let exit = configured(&[&format!("--strace-log-size={word}")]);
        expect_end(
            &exit,
            2,
            &format!("invalid value \"{word}\" for flag -strace-log-size: value out of range"),
        );
    }
    for word in [
        "-0x10",
        "+0b1",
        "-9223372036854775808",
        "0777777777777777777777",
    ] {
        configured(&[&format!("--panic-signal={word}")]).expect_fatal("error opening spec");
    }
    for word in ["9223372036854775808", "-0x8000000000000001"] {
        let exit = configured(&[&format!("--panic-signal={word}")]);
        expect_end(
            &exit,
            2,
            &format!("invalid value \"{word}\" for flag -panic-signal: value out of range"),
        );
    }
}

#[test]
fn integers_without_a_sign_reach_the_end_of_64_bits() {
    expect_configured(
        &["--strace-log-size=18446744073709551615"],
        "max size: 18446744073709551615,",
    );
}

#[test]
fn io_fds_are_decimal_and_one_at_a_time() {
    for word in ["0x3", "03x", "3,4", "", " 3", "3 ", "0b11"] {
        let exit = end_of(&["gofer", "--bundle=/b", &format!("--io-fds={word}")]);
        let why = format!("strconv.Atoi: parsing \"{word}\": invalid syntax");
        expect_end(
            &exit,
            128,
            &format!("invalid value \"{word}\" for flag -io-fds: invalid flag value: {why}"),
        );
    }
    for word in ["-1", "-3"] {
        let exit = end_of(&["gofer", "--bundle=/b", &format!("--io-fds={word}")]);
        expect_end(
            &exit,
            128,
            &format!("flag value must be greater than 0: {word}"),
        );
    }
    // A leading zero is decimal here.
    let tree = plain();
    for word in ["3", "+3", "03", "0003"] {
        let words = [
            "gofer",
            "--bundle",
            tree.bundle().to_str().unwrap(),
            "--io-fds",
            word,
        ]
        .map(String::from);
        session_of(Launch::raw(&words)).getattr(ROOT, 0).unwrap();
    }
}

// ---- every flag ----

/// Flags of the gofer, each with the letter of its type (docs/launch.md 1.2); c and m: numbers up to 127 and 1000.
const GOFER_FLAGS: &str = "b:apply-caps s:bundle F:io-fds b:panic-on-write b:setup-root i:spec-fd i:mounts-fd \
    i:sync-userns-fd i:profile-block-fd i:profile-cpu-fd i:profile-heap-fd i:profile-mutex-fd i:trace-fd \
    b:host-uds-allowed c:channels m:channel-spin w:qid-version";

/// Flags of the runtime (docs/launch.md 1.3, 1.4); w: one of some words.
const GLOBAL_FLAGS: &str = "s:root s:log s:log-format b:debug s:debug-log s:debug-log-format b:log-packets \
    i:log-fd i:debug-log-fd b:strace s:strace-syscalls u:strace-log-size w:platform w:network w:file-access \
    b:overlay w:watchdog-action i:panic-signal b:TESTONLY-unsafe-nonroot b:systemd-cgroup s:debug-command \
    s:panic-log s:coverage-report s:pcap-log b:alsologtostderr b:allow-flag-override s:traceback \
    b:strace-event s:platform_device_path b:profile s:profile-block s:profile-cpu s:profile-heap \
    s:profile-mutex s:trace b:rootless w:ref-leak-mode b:cpu-num-from-quota b:oci-seccomp \
    b:enable-core-tags s:pod-init-config w:file-access-mounts s:overlay2 b:fsgofer-host-uds w:host-uds \
    w:host-fifo b:vfs2 b:fuse b:lisafs b:cgroupfs b:ignore-cgroups i:fdlimit i:dcache b:net-raw b:gso \
    b:software-gso t:gvisor-gro b:tx-checksum-offload b:rx-checksum-offload w:qdisc \
    i:num-network-channels b:buffer-pooling b:EXPERIMENTAL-afxdp s:TESTONLY-test-name-env \
    b:TESTONLY-allow-packet-endpoint-write i:panic-log-fd i:coverage-fd s:debug-log-dir b:multi-container \
    i:trace-signal s:refs-leak-mode b:overlayfs-stale-read i:cpu-num-min b:verity s:controls";

fn flags(table: &str) -> impl Iterator<Item = (char, &str)> {
    table.split_ascii_whitespace().map(|flag| {
        let (kind, name) = flag.split_once(':').unwrap();
        (kind.chars().next().unwrap(), name)
    })
}

/// The words that a flag takes.
fn words_of(name: &str) -> &'static [&'static str] {
    match name {
        "platform" => &["ptrace", "kvm"],
        "network" => &["sandbox", "host", "none"],
        "file-access" | "file-access-mounts" => &["exclusive", "shared"],
        "watchdog-action" => &["log", "logwarning", "panic", "LogWarning", "Panic", "LOG"],
        "ref-leak-mode" => &["disabled", "log-names", "log-traces", "panic"],
        "host-uds" => &["none", "open", "create", "all"],
        "host-fifo" => &["none", "open"],
        "qdisc" => &["none", "fifo"],
        "qid-version" => &["real", "zero"],
        "log-format" | "debug-log-format" => &["text", "json", "json-k8s"],
        _ => &[],
    }
}

/// Values of a flag's type.
fn good(kind: char, name: &str) -> Vec<&'static str> {
    match (kind, name) {
        (_, "log-format" | "debug-log-format") | ('w', _) => words_of(name).to_vec(),
        (_, "log" | "debug-log" | "debug-log-dir") => vec![""],
        (_, "log-fd") => vec!["-1", "2"],
        (_, "debug-log-fd" | "spec-fd") => vec!["-1", "-2"],
        (_, "overlay2") => vec!["none", "root:memory", "all:memory", "root:dir=/x"],
        ('s', _) => vec!["", "x", "-", "a b,c=d", "gofer"],
        ('b', _) => vec!["true", "0", "F"],
        ('i', _) => vec!["-1", "0", "0x7", "-9223372036854775808"],
        ('u', _) => vec!["0", "0x7", "4096"],
        ('c', _) => vec!["0", "2", "0x7f"],
        ('m', _) => vec!["0", "20", "1000"],
        ('t', _) => vec!["0", "1h2.5ms", "-1us", "100\u{b5}s"],
        other => panic!("{other:?}"),
    }
}

#[test]
fn global_flags_all_take_values_of_their_types() {
    for (kind, name) in flags(GLOBAL_FLAGS) {
        for value in good(kind, name) {
            let one = configured(&[&format!("--{name}={value}")]);
            assert_eq!(one.code, Some(128), "{name}={value}: {one:?}");
            one.expect_fatal("error opening spec: open /missing/config.clean.json: ");
            if kind != 'b' {
                configured(&[&format!("-{name}"), value]).expect_fatal("error opening spec: ");
            }
        }
        if kind == 'b' {
            configured(&[&format!("-{name}")]).expect_fatal("error opening spec: ");
        }
    }
}

#[test]
fn gofer_flags_all_take_values_of_their_types() {
    for (kind, name) in flags(GOFER_FLAGS) {
        let values = if kind == 'F' {
            vec!["0", "3", "+7"]
        } else {
            good(kind, name)
        };
        for value in values {
            let flag = format!("--{name}={value}");
            let exit = end_of(&["gofer", &flag, "--bundle=/missing", "--io-fds=3"]);
            assert_eq!(exit.code, Some(128), "{flag}: {exit:?}");
            // 0 is open too, but is no socket; 7 is not open.
            let is_socket = kind != 'F' || value == "3";
            if is_socket && name != "io-fds" {
                exit.expect_fatal("error opening spec: open /missing/config.clean.json: ");
            } else {
                assert!(!exit.stderr.contains("invalid value"), "{flag}: {exit:?}");
            }
        }
    }
}

/// All of them at once, and it serves.
#[test]
fn start_with_every_flag_serves() {
    let tree = plain();
    let word = |(kind, name): (char, &str)| format!("--{name}={}", good(kind, name)[0]);
    let globals: Vec<String> = flags(GLOBAL_FLAGS).map(word).collect();
    let globals: Vec<&str> = globals.iter().map(String::as_str).collect();
    let more: Vec<String> = flags(GOFER_FLAGS)
        .filter(|(kind, name)| *kind != 'F' && *name != "bundle")
        .map(word)
        .collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let launch = Launch::new(&tree.bundle(), 1)
        .with(&more)
        .through("runsc", &globals);
    session_of(launch).getattr(ROOT, 0).unwrap();
}

/// Wrong values of a type, each with what Go says of it.
fn wrong(kind: char, name: &str, value: &str) -> String {
    match kind {
        'b' => format!("invalid boolean value \"{value}\" for -{name}: parse error"),
        _ => format!("invalid value \"{value}\" for flag -{name}: "),
    }
}

#[test]
fn global_flags_all_refuse_values_of_other_types() {
    for (kind, name) in flags(GLOBAL_FLAGS) {
        let values: &[&str] = match kind {
            'b' => &["", "maybe", "2"],
            'i' => &["", "x", "1.5", "9223372036854775808"],
            'u' => &["", "x", "-1", "18446744073709551616"],
            't' => &["", "1", "x", "1y"],
            'w' => &["", "nonsense", "ptrace,kvm"],
            _ => &[],
        };
        for value in values {
            let exit = configured(&[&format!("--{name}={value}")]);
            // Of 2018, and checked behind the parser (docs/launch.md 1.6).
            let text = match name {
                "platform" => format!("invalid platform type \"{value}\""),
                "network" => format!("invalid network type \"{value}\""),
                "file-access" => format!("invalid file access type \"{value}\""),
                "watchdog-action" => format!("invalid watchdog action \"{value}\""),
                _ => String::new(),
            };
            if text.is_empty() {
                expect_end(&exit, 2, &wrong(kind, name, value));
            } else {
                expect_end(&exit, 128, &text);
            }
        }
    }
}

/// From 2019 on these have types of their own, and a wrong word is a flag of a wrong value.
#[test]
fn global_flags_of_a_later_runtime_are_refused_in_its_words() {
    let run = |word: &str| later(&[word], &["--lisafs=false"], &["--spec-fd=5", "--io-fds=3"]);
    for name in [
        "network",
        "file-access",
        "watchdog-action",
        "host-uds",
        "qdisc",
    ] {
        expect_end(
            &run(&format!("--{name}=x")),
            2,
            &format!("invalid value \"x\" for flag -{name}: "),
        );
    }
    expect_end(&run("--platform=x"), 128, "unknown platform: x");
}

#[test]
fn overlay2_takes_a_mount_and_a_medium_alone() {
    for value in ["nonsense", "root", "root:", ":memory", "root:nonsense"] {
        let exit = configured(&[&format!("--overlay2={value}")]);
        expect_end(
            &exit,
            2,
            &format!("invalid value \"{value}\" for flag -overlay2: "),
        );
    }
}

#[test]
fn overlay_with_shared_files_is_refused() {
    let exit = configured(&["--overlay", "--file-access=shared"]);
    expect_end(
        &exit,
        128,
        "overlay flag is incompatible with shared file access",
    );
}

#[test]
fn gofer_flags_all_refuse_values_of_other_types() {
    for (kind, name) in flags(GOFER_FLAGS).filter(|(kind, _)| *kind != 's') {
        let values: &[&str] = match kind {
            'b' => &["", "maybe", "2"],
            'i' => &["", "x", "1.5", "9223372036854775808"],
            'c' => &["", "x", "-1", "128", "18446744073709551616"],
            'm' => &["", "x", "-1", "1001", "18446744073709551616"],
            _ => &["", "x", "0x3", "-1"],
        };
        for value in values {
            let exit = end_of(&[
                "gofer",
                "--bundle=/b",
                "--io-fds=3",
                &format!("-{name}={value}"),
            ]);
            expect_end(&exit, 128, &wrong(kind, name, value));
        }
    }
}

#[test]
fn flags_that_need_a_value_say_so() {
    for (_, name) in flags(GOFER_FLAGS).filter(|(kind, _)| *kind != 'b') {
        let exit = end_of(&["gofer", "--bundle=/b", "--io-fds=3", &format!("--{name}")]);
        expect_end(&exit, 128, &format!("flag needs an argument: -{name}"));
    }
    for (_, name) in flags(GLOBAL_FLAGS).filter(|(kind, _)| *kind != 'b') {
        let exit = end_of(&[&format!("--{name}")]);
        expect_end(&exit, 128, &format!("flag needs an argument: -{name}"));
    }
}

#[test]
fn flags_on_the_wrong_side_of_the_word_gofer_are_unknown() {
    for (_, name) in flags(GOFER_FLAGS) {
        let exit = configured(&[&format!("--{name}=1")]);
        expect_end(&exit, 2, &format!("flag provided but not defined: -{name}"));
    }
    for (_, name) in flags(GLOBAL_FLAGS) {
        let exit = end_of(&["gofer", "--bundle=/b", "--io-fds=3", &format!("-{name}=1")]);
        expect_end(
            &exit,
            128,
            &format!("flag provided but not defined: -{name}"),
        );
    }
}

/// A runtime passes each flag with its value in the same word. One that is not known concerns the runtime alone.
#[test]
fn unknown_global_flags_with_a_value_are_ignored_with_one_warning_each() {
    // Names are exact, and need not be UTF-8.
    for name in ["Root", "roo", "rootx", "log_format", "_", "io-fds "] {
        expect_configured(
            &[&format!("--{name}=1"), "-root=/x"],
            &format!("] Unknown flag is ignored: -{name}\n"),
        );
    }
    let tree = plain();
    let flag = OsStr::from_bytes(b"--\xff\n=a=b");
    let words = [flag, OsStr::new("--later="), OsStr::new("gofer")];
    let words = words.iter().map(OsString::from).chain([
        "--bundle".into(),
        tree.bundle().into(),
        "--io-fds=3".into(),
    ]);
    let mut s = session_of(Launch::raw(&words.collect::<Vec<_>>()));
    s.getattr(ROOT, 0).unwrap();
    let log = s.finish().stderr;
    let ignored: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once(" x:0] Unknown flag is ignored: "))
        .map(|(head, name)| {
            assert!(head.starts_with('W'), "{head}");
            name
        })
        .collect();
    assert_eq!(ignored, ["-\\xff\\n", "-later"]);
}

/// Without a value it is not known whether the next word is one; and people make mistakes.
#[test]
fn unknown_flags_without_a_value_behind_gofer_or_without_that_word_are_refused() {
    let undefined = "flag provided but not defined: -later";
    expect_end(&configured(&["--later"]), 2, undefined);
    expect_end(&configured(&["--later", "--root=/x"]), 2, undefined);
    let behind = end_of(&["gofer", "--bundle=/b", "--io-fds=3", "--later=1"]);
    expect_end(&behind, 128, undefined);
    let short = end_of(&["--later=1", "--bundle=/b", "--io-fds=3"]);
    expect_end(&short, 128, undefined);
    expect_end(&end_of(&["--later=1"]), 128, undefined);
    // The value of a known one is still looked at, in front of an unknown one and behind it.
    for words in [
        ["--later=1", "--debug=maybe"],
        ["--debug=maybe", "--later=1"],
    ] {
        expect_end(
            &configured(&words),
            2,
            "invalid boolean value \"maybe\" for -debug",
        );
    }
}

/// Without the word `gofer`, flags of both kinds stand in any order.
#[test]
fn flags_of_both_kinds_mix_where_no_word_parts_them() {
    let tree = plain();
    let bundle = tree.bundle();
    let bundle = bundle.to_str().unwrap();
    let words = [
        "--io-fds=3",
        "--root=/x",
        "-bundle",
        bundle,
        "--debug=false",
        "--apply-caps=false",
    ];
    let mut s = session_of(Launch::raw(&words));
    s.getattr(ROOT, 0).unwrap();
    assert!(s.finish().stderr.contains("RootDir: /x\n"));
}

/// A directory may be called as the sub-command is.
#[test]
fn bundle_called_gofer_is_a_bundle() {
    let tree = plain();
    fs::rename(tree.bundle(), tree.outside("gofer")).unwrap();
    for words in [
        &["gofer", "--io-fds=3", "--bundle", "gofer"][..],
        &["--io-fds=3", "--bundle=gofer"],
        &["--bundle", "gofer", "--io-fds=3"],
    ] {
        let exit = {
            let mut gofer = Launch::raw(words).cwd(&tree.outside("")).start();
            gofer.sockets.clear();
            gofer.exit()
        };
        assert_eq!(exit.code, Some(0), "{words:?}: {exit:?}");
    }
}

/// The kernel takes command lines of up to 2 MiB, of any bytes.
#[test]
fn command_line_of_a_megabyte_and_a_half_is_read() {
    let tree = plain();
    let mut words = vec![OsString::from("--io-fds=3"), "--bundle".into()];
    words.push(tree.bundle().into());
    for _ in 0..15 {
        words.push(OsStr::from_bytes(&[0xff; 100_000]).to_owned());
    }
    session_of(Launch::raw(&words)).getattr(ROOT, 0).unwrap();
}

#[test]
fn version_is_a_boolean_of_the_runtimes() {
    for word in ["--version", "-version=true", "--version=1"] {
        let exit = end_of(&[word]);
        assert_eq!(
            (exit.code, exit.stderr.as_str()),
            (Some(0), ""),
            "{word}: {exit:?}"
        );
    }
    expect_end(
        &configured(&["--version=maybe"]),
        2,
        "invalid boolean value \"maybe\" for -version",
    );
    configured(&["--version=false"]).expect_fatal("error opening spec: ");
    let exit = end_of(&["gofer", "--bundle=/b", "--io-fds=3", "--version"]);
    expect_end(&exit, 128, "flag provided but not defined: -version");
}

// ---- paths ----

#[test]
fn bundle_need_not_be_utf_8() {
    let tree = plain();
    let name = OsStr::from_bytes(b"b\xff \n\xfe");
    let bundle = tree.outside("").join(name);
    fs::rename(tree.bundle(), &bundle).unwrap();
    session_of(Launch::new(&bundle, 1))
        .getattr(ROOT, 0)
        .unwrap();
    session_of(Launch::new(Path::new(name), 1).cwd(&tree.outside("")))
        .getattr(ROOT, 0)
        .unwrap();
    let mut word = OsString::from("--bundle=");
    word.push(&bundle);
    let words = [OsStr::new("gofer"), &word, OsStr::new("--io-fds=3")];
    session_of(Launch::raw(&words)).getattr(ROOT, 0).unwrap();
    fs::remove_file(bundle.join("config.json")).unwrap();
    let exit = Launch::new(Path::new(name), 1)
        .cwd(&tree.outside(""))
        .start()
        .exit();
    exit.expect_fatal(
        "error opening spec: open b\\xff \\n\\xfe/config.clean.json: no such file or directory",
    );
}

/// Joined and cleaned as text, as Go's filepath.Join does: `..` takes a name away whatever it leads to.
#[test]
fn bundle_is_cleaned_before_it_is_opened() {
    let tree = plain();
    let top = tree.outside("");
    fs::create_dir_all(tree.outside("far/deep")).unwrap();
    std::os::unix::fs::symlink(tree.outside("far/deep"), tree.outside("link")).unwrap();
    for bundle in [
        "bundle",
        "./bundle",
        "bundle/",
        "bundle//.",
        "missing/../bundle",
        "link/../bundle",
        "root/../././bundle//",
    ] {
        session_of(Launch::new(Path::new(bundle), 1).cwd(&top))
            .getattr(ROOT, 0)
            .unwrap();
        session_of(Launch::new(&top.join(bundle), 1))
            .getattr(ROOT, 0)
            .unwrap();
    }
    session_of(Launch::new(Path::new("."), 1).cwd(&tree.bundle()))
        .getattr(ROOT, 0)
        .unwrap();
    session_of(Launch::new(Path::new("../bundle"), 1).cwd(&tree.root()))
        .getattr(ROOT, 0)
        .unwrap();
    for (bundle, wanted) in [
        ("/missing/./a/..//b/", "/missing/b"),
        ("/../missing", "/missing"),
        ("missing/../..", ".."),
        ("../../missing/a/../", "../../missing"),
    ] {
        let exit = Launch::new(Path::new(bundle), 1).cwd(&top).start().exit();
        exit.expect_fatal(&format!(
            "error opening spec: open {wanted}/config.clean.json: "
        ));
    }
    let exit = Launch::new(Path::new("."), 1).cwd(&top).start().exit();
    exit.expect_fatal("error opening spec: open config.clean.json: ");
}

/// What chroot(2) is told for `root.path` in a bundle, as the failure says.
#[test]
fn root_path_is_joined_to_the_bundle_and_cleaned_where_it_is_relative() {
    let tree = Tree::new();
    let top = tree.outside("");
    let top = top.to_str().unwrap().trim_end_matches('/');
    for (path, wanted) in [
        ("none", format!("{top}/bundle/none")),
        ("./a/../none/.", format!("{top}/bundle/none")),
        ("../none//", format!("{top}/none")),
        ("a/b/../../../none", format!("{top}/none")),
        ("../../../../../../../../../../none", "/none".into()),
        // Absolute ones stay as they are.
        ("/none/./a/../b//", "/none/./a/../b//".into()),
    ] {
        let mut value = spec(&tree.root(), false, &[]);
        value["root"]["path"] = json!(path);
        write_spec(&tree.bundle(), &value);
        let wanted = format!("failed to chroot to \"{wanted}\": no such file or directory");
        Launch::new(&tree.bundle(), 1)
            .start()
            .exit()
            .expect_fatal(&wanted);
    }
    // From a relative bundle.
    for (path, wanted) in [
        ("none", "bundle/none"),
        ("../none", "none"),
        ("../../none", "../none"),
    ] {
        let mut value = spec(&tree.root(), false, &[]);
        value["root"]["path"] = json!(path);
        write_spec(&tree.bundle(), &value);
        let exit = Launch::new(Path::new("bundle"), 1)
            .cwd(Path::new(top))
            .start()
            .exit();
        exit.expect_fatal(&format!(
            "failed to chroot to \"{wanted}\": no such file or directory"
        ));
    }
    let mut value = spec(&tree.root(), false, &[]);
    value["root"]["path"] = json!("../root/");
    write_spec(&tree.bundle(), &value);
    tree.file("here", b"");
    session_of(Launch::new(Path::new("bundle"), 1).cwd(Path::new(top)))
        .walk_to(ROOT, 2, "here")
        .unwrap();
}

#[test]
fn root_path_may_lead_over_symlinks() {
    let tree = Tree::new();
    tree.file("here", b"");
    std::os::unix::fs::symlink("root", tree.outside("one")).unwrap();
    std::os::unix::fs::symlink(tree.outside("one"), tree.outside("two")).unwrap();
    write_spec(&tree.bundle(), &spec(&tree.outside("two"), false, &[]));
    session_of(Launch::new(&tree.bundle(), 1))
        .walk_to(ROOT, 2, "here")
        .unwrap();
}

// ---- mounts ----

#[test]
fn mounts_at_one_destination_each_have_their_own_flags_and_fids() {
    let tree = Tree::new();
    tree.dir("m");
    tree.file("m/f", b"");
    let mounts = [
        Mount::bind("/m", &["ro"]),
        Mount::bind("/m", &[]),
        Mount::bind("/m/", &["ro"]),
        Mount::bind("//m/.", &[]),
        Mount::bind("/", &["ro"]),
    ];
    let (_gofer, mut clients) = serve_mounts(&tree, false, &mounts);
    for (index, is_read_only) in [(1, true), (2, false), (3, true), (4, false)] {
        let answer = clients[index].open(ROOT, 2, "f", O_RDWR);
        assert_eq!(answer.is_err(), is_read_only, "{index}: {answer:?}");
    }
    refused(clients[5].open(ROOT, 2, "m/f", O_RDWR), Errno::EROFS);
    clients[0].open(ROOT, 2, "m/f", O_RDWR).unwrap();
}

#[test]
fn mount_destinations_stay_in_the_root_whatever_dots_they_hold() {
    let tree = Tree::new();
    tree.dir("a/b");
    tree.file("a/b/here", b"");
    fs::create_dir(tree.outside("a")).unwrap();
    let names = [
        "/a/b/../b",
        "/../a/b",
        "/../../../../a/./b",
        "/a/../a/b/../../a/b",
        "/a/b/..",
    ];
    let mounts: Vec<Mount> = names.iter().map(|name| Mount::bind(name, &[])).collect();
    let (_gofer, mut clients) = serve_mounts(&tree, false, &mounts);
    for client in &mut clients[1..=4] {
        client.walk_to(ROOT, 2, "here").unwrap();
    }
    clients[5].walk_to(ROOT, 2, "b/here").unwrap();
}

#[test]
fn mount_destinations_over_symlinks_stay_in_the_root() {
    let tree = Tree::new();
    tree.dir("real/m");
    tree.file("real/m/here", b"");
    fs::create_dir_all(tree.outside("real/m")).unwrap();
    tree.link("relative", "real");
    tree.link("absolute", "/real");
    tree.link("climbing", "../../../../real");
    tree.link("chain", "/absolute/../relative");
    let names = ["/relative/m", "/absolute/m", "/climbing/m", "/chain/m"];
    let mounts: Vec<Mount> = names.iter().map(|name| Mount::bind(name, &[])).collect();
    let (_gofer, mut clients) = serve_mounts(&tree, false, &mounts);
    for client in &mut clients[1..] {
        client.walk_to(ROOT, 2, "here").unwrap();
    }
}

/// The runtime hands over destinations without symlinks; one that is a symlink is not followed.
#[test]
fn mount_destination_that_is_a_symlink_does_not_lead_elsewhere() {
    let tree = Tree::new();
    tree.dir("real");
    tree.file("real/here", b"");
    tree.link("link", "real");
    tree.link("loop", "loop");
    let mounts = [
        Mount::bind("/link", &[]),
        Mount::bind("/loop/x", &[]),
        Mount::bind("/real", &[]),
    ];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let mut gofer = Launch::new(&tree.bundle(), 4).start();
    let mut link = gofer.client(1);
    link.version(1 << 20, b"9P2000.L").unwrap();
    if link.attach(ROOT, NOFID, b"", b"/", 0).is_ok() {
        assert!(link.walk(ROOT, 2, &[b"here"]).is_err());
        assert_eq!(link.readlink(ROOT).unwrap().target, b"real");
    }
    let mut broken = gofer.client(2);
    broken.version(1 << 20, b"9P2000.L").unwrap();
    refused(broken.attach(ROOT, NOFID, b"", b"/", 0), Errno::EIO);
    gofer.connect(3).walk_to(ROOT, 2, "here").unwrap();
}

// ---- the manual page ----

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gofer.8");
    fs::read_to_string(path).unwrap()
}

/// Text without roff's fonts and escapes, and single spaces.
fn without_roff(text: &str) -> String {
    let mut plain = text
        .replace("\\-", "-")
        .replace("\\(aq", "'")
        .replace("\\e", "\\");
    for font in ["\\fB", "\\fI", "\\fR", "\\&"] {
        plain = plain.replace(font, "");
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Flags as they are told to people.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Name: what it takes (or nothing), and what it means.
    described: BTreeMap<String, (String, String)>,
    /// Name: its type, if that is told.
    accepted: BTreeMap<String, String>,
}

/// One of the page's sections of flags: `.TP`, a line with the flag or the type, and text.
fn told_by_page(section: &str) -> Told {
    let page = page();
    let start = page
        .find(&format!("\n.SH {section}\n"))
        .unwrap_or_else(|| panic!("no section {section}"));
    let rest = &page[start + 5..];
    let text = &rest[..rest.find("\n.SH ").unwrap_or(rest.len())];
    let mut told = Told::default();
    let (described, accepted) = text.split_once("\n.SS ").unwrap_or((text, ""));
    for entry in described.split("\n.TP\n").skip(1) {
        let (tag, body) = entry.split_once('\n').unwrap();
        let tag = without_roff(&tag.replace('"', ""));
        let mut words = tag.split(' ').skip(1);
        let name = words
            .next()
            .unwrap()
            .strip_prefix("--")
            .expect("a flag")
            .to_owned();
        let argument = words.collect::<Vec<_>>().join(" ");
        let body = without_roff(body.split("\n.").next().unwrap());
        assert!(
            told.described.insert(name, (argument, body)).is_none(),
            "{tag}"
        );
    }
    for entry in accepted.split("\n.TP\n").skip(1) {
        let (kind, body) = entry.split_once('\n').unwrap();
        let kind = without_roff(kind.trim_start_matches(".I "));
        for line in body.lines().filter(|line| !line.starts_with('.')) {
            let line = without_roff(line);
            let (names, words) = line.split_once(':').unwrap_or((&line, ""));
            for name in names.split(' ') {
                let kind = format!("{kind}{words}");
                assert!(
                    told.accepted.insert(name.to_owned(), kind).is_none(),
                    "{name}"
                );
            }
        }
    }
    told
}

/// Both parts of the help text.
fn told_by_help() -> [Told; 2] {
    const COLUMN: usize = 23;
    let exit = end_of(&["--help"]);
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{exit:?}");
    let mut both = [Told::default(), Told::default()];
    let (_, tables) = exit.stdout.split_once("\nflags:\n").unwrap();
    let (tables, _) = tables.split_once("\nexit codes: ").unwrap();
    let (mut at, mut last) = (0, String::new());
    for line in tables.lines() {
        if line == "global flags:" {
            at = 1;
        } else if let Some(flag) = line.strip_prefix("  --") {
            let (flag, meaning) = flag.split_at(COLUMN - 4);
            let (name, argument) = flag.trim().split_once(' ').unwrap_or((flag.trim(), ""));
            last = name.into();
            both[at]
                .described
                .insert(name.into(), (argument.trim().into(), meaning.into()));
        } else if line.starts_with(&" ".repeat(COLUMN)) {
            let (_, meaning) = both[at].described.get_mut(&last).expect("a flag before");
            *meaning = format!("{meaning} {}", line.trim());
        } else if line.starts_with("    ") {
            // Each with its type and its default.
            let names = line
                .split_whitespace()
                .filter_map(|flag| flag.split_once(':'));
            let names = names.map(|(name, _)| (name.to_owned(), String::new()));
            both[at].accepted.extend(names);
        }
    }
    both
}

#[test]
fn manual_page_and_help_tell_the_same_flags_with_the_same_meaning() {
    for (help, section) in told_by_help().iter().zip(["FLAGS", "GLOBAL FLAGS"]) {
        let page = told_by_page(section);
        let names = |told: &Told| told.described.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(help), names(&page), "{section}");
        assert!(help.described.len() > 3);
        for (name, (argument, meaning)) in &help.described {
            let (same, text) = &page.described[name];
            assert_eq!(argument, same, "--{name}");
            let (text, meaning) = (text.to_lowercase(), meaning.to_lowercase());
            let behind = text.strip_prefix(&meaning);
            let is_whole = behind.is_some_and(|behind| behind.starts_with(['.', ',', ';', ':']));
            assert!(
                is_whole,
                "--{name}: the help says {meaning:?}, the page {text:?}"
            );
        }
        // The help lists all, the page those that it does not describe.
        let described = page.described.keys().filter(|name| *name != "help");
        let all: BTreeSet<&String> = page.accepted.keys().chain(described).collect();
        let listed: BTreeSet<&String> = help.accepted.keys().collect();
        assert_eq!(listed, all, "{section}");
    }
}

#[test]
fn manual_page_tells_the_type_of_each_flag_that_is_accepted() {
    for (section, table) in [("FLAGS", GOFER_FLAGS), ("GLOBAL FLAGS", GLOBAL_FLAGS)] {
        let page = told_by_page(section);
        let all: BTreeMap<&str, char> = flags(table).map(|(kind, name)| (name, kind)).collect();
        for (name, told) in &page.accepted {
            let kind = all
                .get(name.as_str())
                .unwrap_or_else(|| panic!("{name} is no flag"));
            let wanted = match kind {
                's' => "text".into(),
                'b' => "boolean".into(),
                'i' => "integer".into(),
                'u' => "integer without a sign".into(),
                't' => "duration".into(),
                _ => {
                    let mut words = words_of(name).to_vec();
                    words.dedup_by_key(|word| word.to_lowercase());
                    words.retain(|word| word.chars().all(|c| !c.is_uppercase()));
                    format!("one word of {}", words.join(" "))
                }
            };
            assert_eq!(told, &wanted, "{name}");
        }
        for name in all.keys() {
            let is_told = page.accepted.contains_key(*name) || page.described.contains_key(*name);
            assert!(is_told, "--{name} is not in the page");
        }
    }
}

#[test]
fn manual_page_has_its_sections_and_lines_that_roff_reads() {
    let page = page();
    let sections: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix(".SH "))
        .collect();
    let wanted = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "FLAGS",
        "GLOBAL FLAGS",
        "THE SPEC",
        "EXIT STATUS",
        "FILES",
        "LOGS",
        "SECURITY",
        "LIMITS",
        "STANDARDS",
        "SEE ALSO",
    ];
    assert_eq!(
        sections
            .iter()
            .map(|name| name.trim_matches('"'))
            .collect::<Vec<_>>(),
        wanted
    );
    assert!(page.is_ascii());
    assert!(page.starts_with(".TH GOFER 8 ") || page.contains("\n.TH GOFER 8 "));
    const KNOWN: [&str; 12] = [
        ".TH", ".SH", ".SS", ".TP", ".B", ".I", ".BI", ".BR", ".IR", ".PP", ".br", ".nf",
    ];
    for line in page.lines() {
        // A line that begins with a dot is a macro, one with a quote is lost.
        assert!(!line.starts_with('\'') && !line.is_empty(), "{line:?}");
        if line.starts_with('.') && !line.starts_with(".\\\"") {
            let name = line.split(' ').next().unwrap();
            let more = [
                ".RI", ".RB", ".nh", ".ad", ".fi", ".RS", ".RE", ".IP", ".EX", ".EE",
            ];
            assert!(KNOWN.contains(&name) || more.contains(&name), "{line:?}");
        }
    }
}
