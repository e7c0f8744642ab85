//! The OCI spec: the few fields that decide what is served (gofer.md 2.4 to 2.6). Makes no system call.
//!
//! The file is read once, into fields of ours; all others are skipped as they come. Keys are compared
//! without regard to case, and a key that comes twice counts the last time, as Go's encoding/json does.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use miniserde::de::{Map, Seq, Visitor};
use miniserde::{Deserialize, json};

use crate::limits::MOUNTS;

/// What start-up needs of a spec.
#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    /// `root.path`, as written: absolute, or relative to the bundle.
    pub root_path: &'static str,
    /// `root.readonly`.
    pub root_read_only: bool,
    /// The mounts that get a connection, in order; at most [`MOUNTS`] of them.
    pub mounts: Vec<Mount>,
    /// How many there are in all.
    pub mount_count: usize,
    /// `process.apparmorProfile`, which is not applied; empty if it is not there.
    pub apparmor: &'static str,
    /// Whether `linux.seccomp` is there, which is not applied.
    pub has_seccomp: bool,
}

/// A mount that is served on a connection of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it lies below the root, absolute.
    pub destination: &'static str,
    /// Its type.
    pub kind: &'static str,
    /// What is mounted there.
    pub source: &'static str,
    /// Its options.
    pub options: Vec<&'static str>,
    /// Whether `ro` is one of them.
    pub read_only: bool,
}

/// Why a spec is refused; each text is the original's (gofer.md 2.5).
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not JSON, or a field of the wrong type.
    NotASpec,
    /// No `process`.
    NoProcess,
    /// No `process.args`.
    NoArgs,
    /// No `root`.
    NoRoot,
    /// No `root.path`.
    NoRootPath,
    /// `solaris` is there.
    Solaris,
    /// `windows` is there.
    Windows,
    /// `process.selinuxLabel` is there.
    SeLinux(&'static str),
    /// A mount's destination is not absolute: its place in the list, and the destination.
    RelativeMount(usize, &'static str),
    /// A pod's container that names no sandbox.
    NoSandboxId,
    /// A container type that is unknown.
    ContainerType(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotASpec => write!(f, "not a JSON object, or a field has the wrong type"),
            Self::NoProcess => write!(f, "Spec.Process must be defined: "),
            Self::NoArgs => write!(f, "Spec.Process.Arg must be defined: "),
            Self::NoRoot => write!(f, "Spec.Root must be defined: "),
            Self::NoRootPath => write!(f, "Spec.Root.Path must be defined: "),
            Self::Solaris => write!(f, "Spec.Solaris is not supported: "),
            Self::Windows => write!(f, "Spec.Windows is not supported: "),
            Self::SeLinux(label) => write!(f, "SELinux is not supported: {label}"),
            Self::RelativeMount(at, destination) => {
                write!(
                    f,
                    "Spec.Mounts[{at}] Mount.Destination must be an absolute path: {destination}"
                )
            }
            Self::NoSandboxId => write!(
                f,
                "spec has container-type of container, but no sandbox ID set"
            ),
            Self::ContainerType(kind) => write!(f, "unknown container-type: {kind}"),
        }
    }
}

const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

impl Spec {
    /// Reads and checks a spec. Its strings stay on the heap for good. The refusals are told in the order in which [`Refusal`] lists them.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let file: FileFields = json::from_str(&text(bytes)).map_err(|_| Refusal::NotASpec)?;
        let process = file.process.0.ok_or(Refusal::NoProcess)?;
        if process.args.0 == 0 {
            return Err(Refusal::NoArgs);
        }
        let root = file.root.0.ok_or(Refusal::NoRoot)?;
        if root.path.0.is_empty() {
            return Err(Refusal::NoRootPath);
        }
        if file.solaris.0 {
            return Err(Refusal::Solaris);
        }
        if file.windows.0 {
            return Err(Refusal::Windows);
        }
        if !process.selinux.0.is_empty() {
            return Err(Refusal::SeLinux(process.selinux.0));
        }
        if let Some((at, destination)) = file.mounts.relative {
            return Err(Refusal::RelativeMount(at, destination));
        }
        let annotations = file.annotations;
        match annotations.container_type {
            None | Some("sandbox") => {}
            Some("container") if annotations.has_sandbox_id => {}
            Some("container") => return Err(Refusal::NoSandboxId),
            Some(kind) => return Err(Refusal::ContainerType(kind)),
        }
        Ok(Self {
            root_path: root.path.0,
            root_read_only: root.readonly.0,
            mounts: file.mounts.served,
            mount_count: file.mounts.count,
            apparmor: process.apparmor.0,
            has_seccomp: file.linux.0.is_some_and(|linux| linux.seccomp.0),
        })
    }
}

/// The file's text: each byte that is not part of a character becomes U+FFFD, as in Go.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    let mut rest = bytes;
    let mut whole = String::new();
    loop {
        match core::str::from_utf8(rest) {
            Ok(good) if whole.is_empty() => return Cow::Borrowed(good),
            Ok(good) => {
                whole.push_str(good);
                return Cow::Owned(whole);
            }
            Err(bad) => {
                let (good, behind) = rest.split_at(bad.valid_up_to());
                whole.push_str(core::str::from_utf8(good).unwrap_or_default());
                whole.push(char::REPLACEMENT_CHARACTER);
                rest = behind.get(1..).unwrap_or_default();
            }
        }
    }
}

/// Whether a mount is served (gofer.md 2.6, the rule of 2018): a bind mount with a source, and not
/// one of those that the sandbox makes itself below /dev.
fn is_served(mount: &MountFields) -> bool {
    mount.kind.0 == "bind" && !mount.source.0.is_empty() && !is_sandbox_device(mount.destination.0)
}

const SANDBOX_DEVICES: [&str; 12] = [
    "fd", "stdin", "stdout", "stderr", "null", "zero", "full", "random", "urandom", "shm", "pts",
    "ptmx",
];

fn is_sandbox_device(destination: &str) -> bool {
    let mut parts: Vec<&str> = Vec::new();
    for part in destination.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    match parts.as_slice() {
        ["dev"] => true,
        ["dev", device, ..] => SANDBOX_DEVICES.contains(device),
        _ => false,
    }
}

/// A value of any kind that is skipped.
struct Skipped;

impl Visitor for Skipped {
    fn null(&mut self) -> miniserde::Result<()> {
        Ok(())
    }
    fn boolean(&mut self, _: bool) -> miniserde::Result<()> {
        Ok(())
    }
    fn string(&mut self, _: &str) -> miniserde::Result<()> {
        Ok(())
    }
    fn negative(&mut self, _: i64) -> miniserde::Result<()> {
        Ok(())
    }
    fn nonnegative(&mut self, _: u64) -> miniserde::Result<()> {
        Ok(())
    }
    fn float(&mut self, _: f64) -> miniserde::Result<()> {
        Ok(())
    }
    fn seq(&mut self) -> miniserde::Result<Box<dyn Seq + '_>> {
        Ok(Box::new(Self))
    }
    fn map(&mut self) -> miniserde::Result<Box<dyn Map + '_>> {
        Ok(Box::new(Self))
    }
}

impl Seq for Skipped {
    fn element(&mut self) -> miniserde::Result<&mut dyn Visitor> {
        Ok(self)
    }
    fn finish(&mut self) -> miniserde::Result<()> {
        Ok(())
    }
}

impl Map for Skipped {
    fn key(&mut self, _: &str) -> miniserde::Result<&mut dyn Visitor> {
        Ok(self)
    }
    fn finish(&mut self) -> miniserde::Result<()> {
        Ok(())
    }
}

/// A string, which is never freed: what start-up allocates lives as long as the process. Null leaves it.
#[derive(Default)]
struct Text(&'static str);

impl Visitor for Text {
    fn null(&mut self) -> miniserde::Result<()> {
        Ok(())
    }
    fn string(&mut self, text: &str) -> miniserde::Result<()> {
        self.0 = String::from(text).leak();
        Ok(())
    }
}

/// A boolean; null leaves it.
#[derive(Default)]
struct Flag(bool);

impl Visitor for Flag {
    fn null(&mut self) -> miniserde::Result<()> {
        Ok(())
    }
    fn boolean(&mut self, value: bool) -> miniserde::Result<()> {
        self.0 = value;
        Ok(())
    }
}

/// Whether an object is there; null takes it away.
#[derive(Default)]
struct Present(bool);

impl Visitor for Present {
    fn null(&mut self) -> miniserde::Result<()> {
        self.0 = false;
        Ok(())
    }
    fn map(&mut self) -> miniserde::Result<Box<dyn Map + '_>> {
        self.0 = true;
        Ok(Box::new(Skipped))
    }
}

/// How many strings a list has; null takes them away.
#[derive(Default)]
struct Count(usize);

struct CountSeq<'a>(&'a mut usize, Text);

impl Visitor for Count {
    fn null(&mut self) -> miniserde::Result<()> {
        self.0 = 0;
        Ok(())
    }
    fn seq(&mut self) -> miniserde::Result<Box<dyn Seq + '_>> {
        self.0 = 0;
        Ok(Box::new(CountSeq(&mut self.0, Text::default())))
    }
}

impl Seq for CountSeq<'_> {
    fn element(&mut self) -> miniserde::Result<&mut dyn Visitor> {
        *self.0 += 1;
        Ok(&mut self.1)
    }
    fn finish(&mut self) -> miniserde::Result<()> {
        Ok(())
    }
}

/// A list of strings; null takes them away.
#[derive(Default)]
struct Texts(Vec<Text>);

struct TextsSeq<'a>(&'a mut Vec<Text>);

impl Visitor for Texts {
    fn null(&mut self) -> miniserde::Result<()> {
        self.0.clear();
        Ok(())
    }
    fn seq(&mut self) -> miniserde::Result<Box<dyn Seq + '_>> {
        self.0.clear();
        Ok(Box::new(TextsSeq(&mut self.0)))
    }
}

impl Seq for TextsSeq<'_> {
    fn element(&mut self) -> miniserde::Result<&mut dyn Visitor> {
        self.0.push(Text::default());
        self.0
            .last_mut()
            .map(|text| text as &mut dyn Visitor)
            .ok_or(miniserde::Error)
    }
    fn finish(&mut self) -> miniserde::Result<()> {
        Ok(())
    }
}

/// An object that may be missing; null takes it away.
struct Maybe<T>(Option<T>);

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// Declares an object: its fields and their keys. Keys that it does not list are skipped.
macro_rules! object {
    ($(#[$meta:meta])* $name:ident { $( $field:ident: $type:ty = $key:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Default)]
        struct $name { $( $field: $type ),* }

        impl Map for Fields<'_, $name> {
            #[allow(unused_variables)]
            fn key(&mut self, key: &str) -> miniserde::Result<&mut dyn Visitor> {
                $( if same_key(key, $key) { return Ok(&mut self.0.$field); } )*
                Ok(&mut self.1)
            }
            fn finish(&mut self) -> miniserde::Result<()> { Ok(()) }
        }

        impl Visitor for $name {
            fn null(&mut self) -> miniserde::Result<()> { Ok(()) }
            fn map(&mut self) -> miniserde::Result<Box<dyn Map + '_>> { Ok(Box::new(Fields(self, Skipped))) }
        }

        impl Visitor for Maybe<$name> {
            fn null(&mut self) -> miniserde::Result<()> { self.0 = None; Ok(()) }
            fn map(&mut self) -> miniserde::Result<Box<dyn Map + '_>> {
                Ok(Box::new(Fields(self.0.get_or_insert_default(), Skipped)))
            }
        }
    };
}

struct Fields<'a, T>(&'a mut T, Skipped);

/// Whether two keys are the same but for case. Go folds two letters beyond ASCII to ASCII ones.
fn same_key(key: &str, known: &str) -> bool {
    let folded = key.chars().map(|c| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    });
    folded.eq(known.chars().map(|c| c.to_ascii_lowercase()))
}

object! {
    /// The whole file.
    FileFields {
        process: Maybe<ProcessFields> = "process",
        root: Maybe<RootFields> = "root",
        mounts: Mounts = "mounts",
        annotations: Annotations = "annotations",
        linux: Maybe<LinuxFields> = "linux",
        solaris: Present = "solaris",
        windows: Present = "windows",
    }
}

object! {
    ProcessFields { args: Count = "args", selinux: Text = "selinuxLabel", apparmor: Text = "apparmorProfile" }
}

object! {
    RootFields { path: Text = "path", readonly: Flag = "readonly" }
}

object! {
    LinuxFields { seccomp: Present = "seccomp" }
}

object! {
    MountFields {
        destination: Text = "destination",
        kind: Text = "type",
        source: Text = "source",
        options: Texts = "options",
    }
}

impl Deserialize for FileFields {
    fn begin(out: &mut Option<Self>) -> &mut dyn Visitor {
        out.get_or_insert_default()
    }
}

/// The list of mounts; of those that are served, the first [`MOUNTS`] are kept.
#[derive(Default)]
struct Mounts {
    served: Vec<Mount>,
    count: usize,
    relative: Option<(usize, &'static str)>,
    /// The mount being read, and its place in the list.
    current: MountFields,
    at: Option<usize>,
}

struct MountsSeq<'a>(&'a mut Mounts);

impl Mounts {
    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the mount that was read, if there is one.
    fn take(&mut self) {
        let Some(at) = self.at else { return };
        let mount = core::mem::take(&mut self.current);
        if !mount.destination.0.starts_with('/') {
            let destination = mount.destination.0;
            self.relative.get_or_insert((at, destination));
            return;
        }
        if !is_served(&mount) {
            return;
        }
        self.count += 1;
        if self.served.len() < MOUNTS {
            self.served.push(Mount {
                destination: mount.destination.0,
                kind: mount.kind.0,
                source: mount.source.0,
                read_only: mount.options.0.iter().any(|option| option.0 == "ro"),
                options: mount.options.0.into_iter().map(|option| option.0).collect(),
            });
        }
    }
}

impl Visitor for Mounts {
    fn null(&mut self) -> miniserde::Result<()> {
        self.clear();
        Ok(())
    }
    fn seq(&mut self) -> miniserde::Result<Box<dyn Seq + '_>> {
        self.clear();
        Ok(Box::new(MountsSeq(self)))
    }
}

impl Seq for MountsSeq<'_> {
    fn element(&mut self) -> miniserde::Result<&mut dyn Visitor> {
        self.0.take();
        self.0.at = Some(self.0.at.map_or(0, |at| at + 1));
        Ok(&mut self.0.current)
    }
    fn finish(&mut self) -> miniserde::Result<()> {
        self.0.take();
        self.0.at = None;
        Ok(())
    }
}

/// The two annotations that are looked at; unlike fields, their keys have one spelling.
#[derive(Default)]
struct Annotations {
    container_type: Option<&'static str>,
    has_sandbox_id: bool,
}

struct AnnotationsMap<'a> {
    into: &'a mut Annotations,
    key: AnnotationKey,
    value: Text,
}

enum AnnotationKey {
    None,
    ContainerType,
    SandboxId,
    Other,
}

impl Visitor for Annotations {
    fn null(&mut self) -> miniserde::Result<()> {
        *self = Self::default();
        Ok(())
    }
    fn map(&mut self) -> miniserde::Result<Box<dyn Map + '_>> {
        Ok(Box::new(AnnotationsMap {
            into: self,
            key: AnnotationKey::None,
            value: Text::default(),
        }))
    }
}

impl AnnotationsMap<'_> {
    fn take(&mut self) {
        match self.key {
            AnnotationKey::ContainerType => self.into.container_type = Some(self.value.0),
            AnnotationKey::SandboxId => self.into.has_sandbox_id = true,
            AnnotationKey::None | AnnotationKey::Other => {}
        }
        self.value.0 = "";
    }
}

impl Map for AnnotationsMap<'_> {
    fn key(&mut self, key: &str) -> miniserde::Result<&mut dyn Visitor> {
        self.take();
        self.key = match key {
            CONTAINER_TYPE => AnnotationKey::ContainerType,
            SANDBOX_ID => AnnotationKey::SandboxId,
            _ => AnnotationKey::Other,
        };
        Ok(&mut self.value)
    }
    fn finish(&mut self) -> miniserde::Result<()> {
        self.take();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: &str = r#""process":{"args":["x"]}"#;

    fn read(fields: &str) -> Result<Spec, Refusal> {
        Spec::read(format!("{{{PROCESS},{fields}}}").as_bytes())
    }

    #[test]
    fn the_few_fields_are_read_and_all_else_is_skipped() {
        let spec = read(
            r#""x":[1,-2.5e3,{"y":null}],"root":{"path":"\u0061/\ud83d\ude00","readonly":true,"z":[]},
               "mounts":[{"destination":"/a","type":"bind","source":"/s","options":["rbind","ro"]},
                         {"destination":"/proc","type":"proc","source":"proc"},
                         {"destination":"/dev/pts","type":"bind","source":"/s"},
                         {"destination":"/dev/ptsx","type":"bind","source":"/s","options":null},
                         {"destination":"/b","type":"bind"},
                         {"destination":"/c","type":"none","source":"/s","options":["bind"]}],
               "linux":{"seccomp":{}}"#,
        )
        .unwrap();
        assert_eq!(spec.root_path, "a/\u{1f600}");
        assert!(spec.root_read_only && spec.has_seccomp);
        let served: Vec<(&str, bool)> = spec
            .mounts
            .iter()
            .map(|m| (m.destination, m.read_only))
            .collect();
        assert_eq!(served, [("/a", true), ("/dev/ptsx", false)]);
    }

    #[test]
    fn keys_fold_case_and_the_last_one_counts() {
        let spec = read(
            r#""root":{"path":"/a"},"ROOT":{"Path":"/b"},"mountſ":[],"Root":{"readonly":true}"#,
        )
        .unwrap();
        assert_eq!((spec.root_path, spec.root_read_only), ("/b", true));
    }

    #[test]
    fn bytes_that_are_no_characters_are_replaced_one_by_one() {
        let mut bytes = format!("{{{PROCESS},\"root\":{{\"path\":\"/").into_bytes();
        bytes.extend(b"a\xff\xe2\x82b\"}}");
        assert_eq!(
            Spec::read(&bytes).unwrap().root_path,
            "/a\u{fffd}\u{fffd}\u{fffd}b"
        );
    }

    #[test]
    fn refusals_come_in_their_order() {
        let refusals = [
            ("nonsense", Refusal::NotASpec),
            (r#"{"root":7}"#, Refusal::NotASpec),
            (r#"{} x"#, Refusal::NotASpec),
            ("null", Refusal::NoProcess),
            (r#"{"process":{},"process":null}"#, Refusal::NoProcess),
            (r#"{"process":{"args":[]}}"#, Refusal::NoArgs),
            (r#"{"process":{"args":["a"]}}"#, Refusal::NoRoot),
            (
                r#"{"process":{"args":["a"]},"root":{},"solaris":{}}"#,
                Refusal::NoRootPath,
            ),
            (
                r#"{"process":{"args":["a"],"selinuxLabel":"l"},"root":{"path":"/"},"solaris":{},"windows":{}}"#,
                Refusal::Solaris,
            ),
            (
                r#"{"process":{"args":["a"],"selinuxLabel":"l"},"root":{"path":"/"},"windows":{}}"#,
                Refusal::Windows,
            ),
            (
                r#"{"process":{"args":["a"],"selinuxLabel":"l"},"root":{"path":"/"},"mounts":[{}]}"#,
                Refusal::SeLinux("l"),
            ),
            (
                r#"{"process":{"args":["a"]},"root":{"path":"/"},"mounts":[{"destination":"/a"},{"destination":"b"}]}"#,
                Refusal::RelativeMount(1, "b"),
            ),
            (
                r#"{"process":{"args":["a"]},"root":{"path":"/"},"annotations":{"io.kubernetes.cri.container-type":"container"}}"#,
                Refusal::NoSandboxId,
            ),
            (
                r#"{"process":{"args":["a"]},"root":{"path":"/"},"annotations":{"io.kubernetes.cri.container-type":"x"}}"#,
                Refusal::ContainerType("x"),
            ),
        ];
        for (text, refusal) in refusals {
            assert_eq!(Spec::read(text.as_bytes()), Err(refusal), "{text}");
        }
    }

    #[test]
    fn more_mounts_than_can_be_served_are_counted() {
        let mount = r#"{"destination":"/a","type":"bind","source":"/s"}"#;
        let spec = read(&format!(
            r#""root":{{"path":"/"}},"mounts":[{}]"#,
            vec![mount; 300].join(",")
        ))
        .unwrap();
        assert_eq!((spec.mounts.len(), spec.mount_count), (MOUNTS, 300));
    }
}
