//! The command line, the spec, and ends before anything is served: docs/launch.md 1, 2.

use crate::harness::{Exit, Launch, Mount, ROOT, Tree, serve_mounts, session_of, spec, write_spec};
use crate::p9::{NOID, O_RDONLY, O_RDWR, O_WRONLY, refused};
use nix::errno::Errno;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A tree whose bundle has a good spec without mounts.
fn plain() -> Tree {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    tree
}

fn end_of(launch: Launch) -> Exit {
    launch.start().exit()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

// ---- flags ----

#[test]
fn help_names_every_flag_and_exits_0() {
    for word in ["--help", "-help", "-h"] {
        let exit = end_of(Launch::raw(&[word]));
        assert_eq!(exit.code, Some(0), "{exit:?}");
        for flag in [
            "bundle",
            "io-fds",
            "apply-caps",
            "panic-on-write",
            "help",
            "version",
        ] {
            assert!(
                exit.stdout.contains(&format!("--{flag}")),
                "{flag}: {exit:?}"
            );
        }
    }
}

#[test]
fn version_flag_prints_the_version_and_exits_0() {
    let exit = end_of(Launch::raw(&["--version"]));
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stdout.contains(env!("CARGO_PKG_VERSION")), "{exit:?}");
    assert_eq!(exit.stdout.lines().count(), 1);
}

#[test]
fn flags_in_every_form_are_taken() {
    let tree = plain();
    let bundle = tree.bundle();
    let bundle = text(&bundle);
    let equals = format!("--bundle={bundle}");
    let single = format!("-bundle={bundle}");
    let forms: [&[&str]; 8] = [
        &["--bundle", bundle, "--io-fds", "3"],
        &["-bundle", bundle, "-io-fds", "3"],
        &[&equals, "--io-fds=3"],
        &[&single, "-io-fds=+3"],
        &["--io-fds=3", "--bundle", bundle, "--apply-caps"],
        &[
            "--io-fds=3",
            "--bundle",
            bundle,
            "--apply-caps=true",
            "--panic-on-write=false",
        ],
        &["--io-fds=3", "--bundle=/nowhere", &equals, "-apply-caps=T"],
        &["--io-fds=3", &equals, "word", "--unknown"],
    ];
    for words in forms {
        session_of(Launch::raw(words)).getattr(ROOT, 0).unwrap();
    }
}

#[test]
fn flags_behind_a_double_dash_are_not_flags() {
    let tree = plain();
    session_of(Launch::new(&tree.bundle(), 1).with(&["--", "--unknown"]))
        .getattr(ROOT, 0)
        .unwrap();
}

#[test]
fn flags_of_the_runtime_before_the_word_gofer_are_taken() {
    let tree = plain();
    let globals = [
        "--root=/var/run/runsc",
        "--debug=false",
        "--log=",
        "--log-format=text",
        "--debug-log=",
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
    ];
    for argv0 in ["runsc", "/usr/local/bin/runsc", "runsc-gofer", ""] {
        let mut s = session_of(Launch::new(&tree.bundle(), 1).through(argv0, &globals));
        s.getattr(ROOT, 0).unwrap();
    }
    session_of(Launch::new(&tree.bundle(), 1).through("runsc", &[]))
        .getattr(ROOT, 0)
        .unwrap();
    session_of(Launch::new(&tree.bundle(), 1).through("x", &["--root", "/r"]))
        .getattr(ROOT, 0)
        .unwrap();
}

#[test]
fn flag_unknown_is_a_usage_error() {
    let tree = plain();
    let direct = end_of(Launch::new(&tree.bundle(), 1).with(&["--nonsense=1"]));
    direct.expect_fatal("flag provided but not defined: -nonsense");
    let through = end_of(
        Launch::new(&tree.bundle(), 1)
            .with(&["-nonsense"])
            .through("runsc", &["--root=/r"]),
    );
    through.expect_fatal("flag provided but not defined: -nonsense");
}

#[test]
fn flag_unknown_before_the_word_gofer_is_exit_2_without_a_value() {
    let tree = plain();
    let exit = end_of(Launch::new(&tree.bundle(), 1).through("runsc", &["--nonsense"]));
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert!(
        exit.stderr
            .contains("flag provided but not defined: -nonsense"),
        "{exit:?}"
    );
}

#[test]
fn flag_without_its_value_is_a_usage_error() {
    end_of(Launch::raw(&["--io-fds=3", "--bundle"]))
        .expect_fatal("flag needs an argument: -bundle");
    end_of(Launch::raw(&["--bundle=/b", "--io-fds"]))
        .expect_fatal("flag needs an argument: -io-fds");
}

#[test]
fn flag_of_bad_syntax_is_a_usage_error() {
    end_of(Launch::raw(&["---bundle=/b", "--io-fds=3"]))
        .expect_fatal("bad flag syntax: ---bundle=/b");
    end_of(Launch::raw(&["--=/b", "--io-fds=3"])).expect_fatal("bad flag syntax: --=/b");
}

#[test]
fn flag_of_a_bad_bool_is_a_usage_error() {
    let words = ["--bundle=/b", "--io-fds=3", "--apply-caps=maybe"];
    end_of(Launch::raw(&words)).expect_fatal("invalid boolean value \"maybe\" for -apply-caps");
}

#[test]
fn io_fds_that_are_no_number_are_a_usage_error() {
    for value in ["x", "", "3,4", "0x3", "3 ", "9999999999999999999999"] {
        let exit = end_of(Launch::raw(&["--bundle=/b", &format!("--io-fds={value}")]));
        exit.expect_fatal(&format!("invalid value \"{value}\" for flag -io-fds"));
    }
}

#[test]
fn io_fds_below_0_are_a_usage_error() {
    end_of(Launch::raw(&["--bundle=/b", "--io-fds=-1"]))
        .expect_fatal("flag value must be greater than 0: -1");
}

#[test]
fn bundle_and_io_fds_are_both_needed() {
    let tree = plain();
    let bundle = format!("--bundle={}", text(&tree.bundle()));
    let cases: [(&[&str], &str); 6] = [
        (&[], "bundle"),
        (&["gofer"], "bundle"),
        (&["--io-fds=3"], "bundle"),
        (&["--bundle=", "--io-fds=3"], "bundle"),
        (&[&bundle], "io-fds"),
        (&["gofer", &bundle], "io-fds"),
    ];
    for (words, missing) in cases {
        let exit = end_of(Launch::raw(words));
        assert_eq!(exit.code, Some(128), "{words:?}: {exit:?}");
        assert!(exit.stderr.contains(missing), "{words:?}: {exit:?}");
    }
}

#[test]
fn io_fds_that_are_not_open_end_the_start() {
    let tree = plain();
    let words = ["--bundle", text(&tree.bundle()), "--io-fds=77"].map(str::to_owned);
    let exit = end_of(Launch::raw(&words));
    assert_eq!(exit.code, Some(128), "{exit:?}");
    assert!(exit.stderr.contains("77"), "{exit:?}");
}

/// Numbers need not be in order nor together.
#[test]
fn io_fds_go_to_the_mounts_in_the_order_given() {
    let tree = Tree::new();
    tree.dir("m");
    tree.file("m/f", b"");
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/m", &[])]),
    );
    let words = ["--bundle", text(&tree.bundle()), "--io-fds=4", "--io-fds=3"].map(str::to_owned);
    let mut gofer = Launch::raw(&words).sockets(2).start();
    gofer.connect(1).walk_to(ROOT, 2, "m/f").unwrap();
    gofer.connect(0).walk_to(ROOT, 2, "f").unwrap();
}

// ---- the spec ----

#[test]
fn bundle_missing_is_fatal() {
    let tree = Tree::new();
    let exit = end_of(Launch::new(&tree.outside("missing"), 1));
    exit.expect_fatal("error opening spec: open ");
    exit.expect_fatal(&format!("{}/config.", text(&tree.outside("missing"))));
    exit.expect_fatal("no such file or directory");
    end_of(Launch::new(&tree.bundle(), 1)).expect_fatal("no such file or directory");
}

#[test]
fn fatal_text_is_one_line() {
    let tree = Tree::new();
    let exit = end_of(Launch::new(&tree.outside("missing"), 1));
    let lines = exit
        .stderr
        .lines()
        .filter(|line| line.starts_with("error opening spec"))
        .count();
    assert_eq!(lines, 1, "{exit:?}");
}

#[test]
fn config_clean_json_goes_before_config_json() {
    let tree = Tree::new();
    tree.file("clean", b"");
    fs::create_dir(tree.outside("other")).unwrap();
    write_spec(&tree.bundle(), &spec(&tree.outside("other"), false, &[]));
    let clean = spec(&tree.root(), false, &[]);
    fs::write(tree.bundle().join("config.clean.json"), clean.to_string()).unwrap();
    session_of(Launch::new(&tree.bundle(), 1))
        .walk_to(ROOT, 2, "clean")
        .unwrap();
    fs::remove_file(tree.bundle().join("config.json")).unwrap();
    session_of(Launch::new(&tree.bundle(), 1))
        .walk_to(ROOT, 2, "clean")
        .unwrap();
}

#[test]
fn bundle_may_be_relative() {
    let tree = plain();
    session_of(Launch::new(Path::new("bundle"), 1).cwd(&tree.outside("")))
        .getattr(ROOT, 0)
        .unwrap();
}

#[test]
fn root_path_may_be_relative_to_the_bundle() {
    let tree = Tree::new();
    tree.file("here", b"");
    for path in ["../root", "./../root/", "../root/.", "x/../../root"] {
        let mut value = spec(&tree.root(), false, &[]);
        value["root"]["path"] = json!(path);
        write_spec(&tree.bundle(), &value);
        session_of(Launch::new(&tree.bundle(), 1))
            .walk_to(ROOT, 2, "here")
            .unwrap();
    }
}

#[test]
fn root_path_is_decoded_from_json() {
    let tree = Tree::new();
    let name = "r\u{e9} \"\\\u{1f600}<&>";
    let root = tree.outside(name);
    fs::create_dir(&root).unwrap();
    fs::write(root.join("here"), b"").unwrap();
    let escaped: String = name
        .encode_utf16()
        .map(|unit| format!("\\u{unit:04x}"))
        .collect();
    let value = spec(Path::new("ROOT"), false, &[]).to_string();
    let value = value.replace(
        "\"ROOT\"",
        &format!("\"{}/{escaped}\"", text(&tree.outside(""))),
    );
    fs::write(tree.bundle().join("config.json"), value).unwrap();
    session_of(Launch::new(&tree.bundle(), 1))
        .walk_to(ROOT, 2, "here")
        .unwrap();
}

#[test]
fn root_missing_is_fatal() {
    let tree = Tree::new();
    let root = tree.outside("missing");
    write_spec(&tree.bundle(), &spec(&root, false, &[]));
    let wanted = format!(
        "failed to chroot to \"{}\": no such file or directory",
        text(&root)
    );
    end_of(Launch::new(&tree.bundle(), 1)).expect_fatal(&wanted);
}

#[test]
fn root_that_is_a_file_is_fatal() {
    let tree = Tree::new();
    let root = tree.outside("file");
    fs::write(&root, b"").unwrap();
    write_spec(&tree.bundle(), &spec(&root, false, &[]));
    let wanted = format!("failed to chroot to \"{}\": not a directory", text(&root));
    end_of(Launch::new(&tree.bundle(), 1)).expect_fatal(&wanted);
}

/// Sets (or with null removes) what a JSON pointer's path names.
fn changed(tree: &Tree, path: &[&str], value: Value) -> Exit {
    let mut whole = spec(&tree.root(), false, &[]);
    let mut at = &mut whole;
    for key in path {
        at = &mut at[*key];
    }
    *at = value;
    write_spec(&tree.bundle(), &whole);
    end_of(Launch::new(&tree.bundle(), 1))
}

#[test]
fn spec_without_what_is_needed_is_fatal() {
    let tree = Tree::new();
    let cases: [(&[&str], Value, &str); 9] = [
        (&["process"], Value::Null, "Spec.Process must be defined: "),
        (
            &["process", "args"],
            Value::Null,
            "Spec.Process.Arg must be defined: ",
        ),
        (
            &["process", "args"],
            json!([]),
            "Spec.Process.Arg must be defined: ",
        ),
        (&["root"], Value::Null, "Spec.Root must be defined: "),
        (
            &["root", "path"],
            json!(""),
            "Spec.Root.Path must be defined: ",
        ),
        (&["root"], json!({}), "Spec.Root.Path must be defined: "),
        (&["solaris"], json!({}), "Spec.Solaris is not supported: "),
        (&["windows"], json!({}), "Spec.Windows is not supported: "),
        (
            &["process", "selinuxLabel"],
            json!("label"),
            "SELinux is not supported: label",
        ),
    ];
    for (path, value, text) in cases {
        changed(&tree, path, value).expect_fatal(&format!("error reading spec: {text}"));
    }
}

#[test]
fn spec_checks_go_in_order() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &json!({"solaris": {}, "windows": {}}));
    end_of(Launch::new(&tree.bundle(), 1)).expect_fatal("Spec.Process must be defined: ");
    write_spec(
        &tree.bundle(),
        &json!({"process": {"args": ["x"], "selinuxLabel": "l"}, "windows": {}, "solaris": {}}),
    );
    end_of(Launch::new(&tree.bundle(), 1)).expect_fatal("Spec.Root must be defined: ");
}

#[test]
fn spec_with_a_mount_destination_not_absolute_is_fatal() {
    let tree = Tree::new();
    let mounts = [Mount::bind("/m", &[]), Mount::bind("relative/m", &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    end_of(Launch::new(&tree.bundle(), 3)).expect_fatal(
        "error reading spec: Spec.Mounts[1] Mount.Destination must be an absolute path: ",
    );
}

#[test]
fn spec_container_types_are_checked() {
    let tree = Tree::new();
    let kind = "io.kubernetes.cri.container-type";
    let id = "io.kubernetes.cri.sandbox-id";
    changed(&tree, &["annotations"], json!({kind: "container"})).expect_fatal(
        "error reading spec: spec has container-type of container, but no sandbox ID set",
    );
    changed(&tree, &["annotations"], json!({kind: "odd"}))
        .expect_fatal("error reading spec: unknown container-type: odd");
    for good in [
        json!({}),
        json!({kind: "sandbox"}),
        json!({kind: "container", id: "x"}),
        Value::Null,
    ] {
        let mut whole = spec(&tree.root(), false, &[]);
        whole["annotations"] = good;
        write_spec(&tree.bundle(), &whole);
        session_of(Launch::new(&tree.bundle(), 1))
            .getattr(ROOT, 0)
            .unwrap();
    }
}

#[test]
fn spec_that_only_warns_is_served() {
    let tree = Tree::new();
    let mut whole = spec(&tree.root(), false, &[]);
    whole["process"]["apparmorProfile"] = json!("profile");
    whole["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    write_spec(&tree.bundle(), &whole);
    session_of(Launch::new(&tree.bundle(), 1))
        .getattr(ROOT, 0)
        .unwrap();
}

#[test]
fn spec_that_is_no_json_is_fatal() {
    let tree = Tree::new();
    let good = spec(&tree.root(), false, &[]).to_string();
    let cut = &good[..good.len() - 1];
    let more = format!("{good} x");
    let twice = format!("{good}{good}");
    let cases = [
        "",
        " ",
        "{",
        "[]",
        "\"text\"",
        "nonsense",
        cut,
        &more,
        &twice,
        "{\"root\": }",
        "\u{feff}{}",
    ];
    for bad in cases {
        fs::write(tree.bundle().join("config.json"), bad).unwrap();
        end_of(Launch::new(&tree.bundle(), 1)).expect_fatal("error reading spec: ");
    }
}

#[test]
fn spec_with_a_wrong_type_is_fatal() {
    let tree = Tree::new();
    for (path, value) in [
        (&["root", "path"][..], json!(5)),
        (&["root", "readonly"], json!("true")),
        (&["root"], json!([])),
        (&["process", "args"], json!("sh")),
        (&["mounts"], json!({})),
        (&["mounts"], json!([{"destination": 1}])),
        (
            &["mounts"],
            json!([{"destination": "/m", "type": "bind", "options": "ro"}]),
        ),
    ] {
        changed(&tree, path, value).expect_fatal("error reading spec: ");
    }
}

#[test]
fn spec_fields_nobody_knows_are_ignored() {
    let tree = Tree::new();
    let mut whole = spec(&tree.root(), false, &[]);
    whole["unknown"] = json!({"deep": [[[{"a": [1, 2.5e300, null, true, "\u{0}\n"]}]]]});
    whole["root"]["unknown"] = json!([{"path": "/nowhere"}]);
    whole["annotations"] = json!({"big": "x".repeat(1 << 20)});
    fs::write(
        tree.bundle().join("config.json"),
        serde_json::to_string_pretty(&whole).unwrap() + "\n\t ",
    )
    .unwrap();
    session_of(Launch::new(&tree.bundle(), 1))
        .getattr(ROOT, 0)
        .unwrap();
}

// ---- mounts ----

#[test]
fn mount_without_its_descriptor_is_fatal() {
    let tree = Tree::new();
    tree.dir("m");
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/m", &["ro"])]),
    );
    let exit = end_of(Launch::new(&tree.bundle(), 1));
    exit.expect_fatal(
        "No FD found for mount. Did you forget --io-fd? mount: 1, {/m bind /somewhere [ro]}",
    );
}

#[test]
fn descriptor_without_its_mount_is_fatal() {
    let tree = plain();
    end_of(Launch::new(&tree.bundle(), 2))
        .expect_fatal("too many FDs passed for mounts. mounts: 1, FDs: 2");
    tree.dir("m");
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/m", &[])]),
    );
    end_of(Launch::new(&tree.bundle(), 4))
        .expect_fatal("too many FDs passed for mounts. mounts: 2, FDs: 4");
}

fn of_kind(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.into(),
        ..Mount::bind(destination, options)
    }
}

#[test]
fn mounts_that_get_a_connection_are_binds_with_a_source() {
    let tree = Tree::new();
    tree.dir("a");
    tree.file("a/in-a", b"");
    tree.dir("b");
    tree.file("b/in-b", b"");
    let mounts = [
        of_kind("/proc", "proc", "proc", &[]),
        of_kind("/tmp", "tmpfs", "tmpfs", &["rbind"]),
        of_kind("/x", "", "/src", &["rbind"]),
        of_kind("/empty", "bind", "", &[]),
        of_kind("/a", "bind", "relative", &["rbind", "rw"]),
        of_kind("/y", "BIND", "/src", &[]),
        of_kind("/b", "bind", "/src", &[]),
        of_kind("/sys", "sysfs", "sysfs", &["ro"]),
    ];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let mut gofer = Launch::new(&tree.bundle(), 3).start();
    gofer.connect(0).walk_to(ROOT, 2, "a/in-a").unwrap();
    gofer.connect(1).walk_to(ROOT, 2, "in-a").unwrap();
    gofer.connect(2).walk_to(ROOT, 2, "in-b").unwrap();
}

#[test]
fn mounts_of_devices_get_no_connection() {
    let tree = Tree::new();
    tree.dir("dev/other");
    tree.file("dev/other/here", b"");
    let none = [
        "/dev",
        "/dev/",
        "/dev/fd",
        "/dev/stdin",
        "/dev/stdout",
        "/dev/stderr",
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/shm",
        "/dev/shm/below/it",
        "/dev/pts",
        "/dev/pts/0",
        "/dev/ptmx",
        "//dev///null",
        "/a/../dev/pts",
        "/dev/other/..",
    ];
    let mut mounts: Vec<Mount> = none
        .iter()
        .map(|destination| Mount::bind(destination, &[]))
        .collect();
    mounts.push(Mount::bind("/dev/other", &[]));
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    gofer.connect(1).walk_to(ROOT, 2, "here").unwrap();
}

#[test]
fn mounts_have_read_only_flags_of_their_own() {
    let tree = Tree::new();
    let options: [(&[&str], bool); 7] = [
        (&[], false),
        (&["ro"], true),
        (&["rbind", "rw"], false),
        (&["rbind", "ro", "nosuid"], true),
        (&["ro", "rw"], true),
        (&["rw", "ro"], true),
        (&["RO", "roo", "ro=1", "readonly"], false),
    ];
    let mut mounts = Vec::new();
    for (number, (options, _)) in options.iter().enumerate() {
        tree.dir(&format!("m{number}"));
        tree.file(&format!("m{number}/f"), b"");
        mounts.push(Mount::bind(&format!("/m{number}"), options));
    }
    for root_read_only in [false, true] {
        let (_gofer, mut clients) = serve_mounts(&tree, root_read_only, &mounts);
        let flags = [root_read_only]
            .into_iter()
            .chain(options.iter().map(|&(_, read_only)| read_only));
        for (number, read_only) in flags.enumerate() {
            let client = &mut clients[number];
            let file = if number == 0 { "m0/f" } else { "f" };
            client.walk_to(ROOT, 2, file).unwrap();
            client.walk_to(ROOT, 3, "").unwrap();
            let name = format!("new-{root_read_only}-{number}");
            if read_only {
                refused(client.lopen(2, O_RDWR), Errno::EROFS);
                refused(
                    client.lcreate(3, name.as_bytes(), O_WRONLY, 0o600, NOID),
                    Errno::EROFS,
                );
                client.lopen(2, O_RDONLY).unwrap();
            } else {
                client.lopen(2, O_RDWR).unwrap();
                client
                    .lcreate(3, name.as_bytes(), O_WRONLY, 0o600, NOID)
                    .unwrap();
            }
        }
    }
}

#[test]
fn mount_twice_at_one_destination_gets_two_connections() {
    let tree = Tree::new();
    tree.dir("m");
    tree.file("m/f", b"");
    let mounts = [Mount::bind("/m", &["ro"]), Mount::bind("/m", &["rw"])];
    let (_gofer, mut clients) = serve_mounts(&tree, false, &mounts);
    clients[1].walk_to(ROOT, 2, "f").unwrap();
    refused(clients[1].lopen(2, O_RDWR), Errno::EROFS);
    clients[2].open(ROOT, 2, "f", O_RDWR).unwrap();
}
