//! The OCI spec: the few fields that decide what is served (docs/launch.md 2.4 to 2.6). Makes no system call.
//!
//! The sandbox reads the same file by Go's encoding/json into the OCI's own types, and a disagreement
//! would shift which mount answers on which socket. So the type of every field that decides something is checked (the table
//! [`SCHEMA`]), keys fold their case, a key that comes twice is read into what is there already, null
//! leaves or takes away, and text is mended as Go mends it ([`crate::json`]).

use crate::decimal::{is_among, split_once};
use crate::json::{Event, Fault, Reader, Text};
use crate::sys::arena::List;
use crate::text;
use crate::text::Arg::{Number, Raw, Said};
use crate::text::{Say, Sink, Told};

/// What start-up needs of a spec. Its strings are never freed: what start-up allocates lives as long as
/// the process.
#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    /// `root.path`, as written: absolute, or relative to the bundle.
    pub root_path: Told,
    /// `root.readonly`.
    pub root_read_only: bool,
    /// All mounts, in order.
    pub mounts: List<Mount>,
    /// `linux.rootfsPropagation`; empty if it is not there.
    pub propagation: Told,
    /// `process.cwd`; empty if it is not there.
    pub cwd: Told,
    /// Annotations that override flags, `dev.gvisor.flag.NAME`: name and value.
    pub overrides: List<(Told, Told)>,
    /// `process.apparmorProfile`, which is not applied; empty if it is not there.
    pub apparmor: Told,
    /// Whether `linux.seccomp` is there, which is not applied.
    pub has_seccomp: bool,
}

/// A mount.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it lies below the root, absolute.
    pub destination: Told,
    /// Its type.
    pub kind: Told,
    /// What is mounted there.
    pub source: Told,
    /// Its options.
    pub options: &'static [Told],
    /// Whether `ro` is one of them.
    pub read_only: bool,
    /// Whether it gets a connection of its own.
    pub served: bool,
}

/// Why a spec is refused; each text is the original's (docs/launch.md 2.5).
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not JSON.
    NotJson(Fault),
    /// A field of the wrong type: what was found, the field's structure, its key, its type in [`SCHEMA`].
    Mismatch(Told, &'static [u8], &'static [u8], &'static [u8]),
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
    SeLinux(Told),
    /// A mount's destination is not absolute: its place in the list, and the destination.
    RelativeMount(usize, Told),
    /// A pod's container that names no sandbox.
    NoSandboxId,
    /// A container type that is unknown.
    ContainerType(Told),
}

impl Say for Refusal {
    fn say(&self, to: &mut dyn Sink) {
        to.put(match self {
            Self::NotJson(fault) => return fault.say(to),
            Self::Mismatch(found, of, key, kind) => {
                text!("json: cannot unmarshal % into Go ", Raw(found)).say(to);
                if of.is_empty() {
                    to.put(b"value");
                } else {
                    text!("struct field %.%", Raw(of), Raw(key)).say(to);
                }
                return text!(" of type %", Said(&GoType(kind))).say(to);
            }
            Self::NoProcess => b"Spec.Process must be defined: ",
            Self::NoArgs => b"Spec.Process.Arg must be defined: ",
            Self::NoRoot => b"Spec.Root must be defined: ",
            Self::NoRootPath => b"Spec.Root.Path must be defined: ",
            Self::Solaris => b"Spec.Solaris is not supported: ",
            Self::Windows => b"Spec.Windows is not supported: ",
            Self::SeLinux(label) => {
                return text!("SELinux is not supported: %", Raw(label)).say(to);
            }
            Self::RelativeMount(at, destination) => {
                return text!(
                    "Spec.Mounts[%] Mount.Destination must be an absolute path: %",
                    Number(*at as u64),
                    Raw(destination)
                )
                .say(to);
            }
            Self::NoSandboxId => b"spec has container-type of container, but no sandbox ID set",
            Self::ContainerType(kind) => {
                return text!("unknown container-type: %", Raw(kind)).say(to);
            }
        });
    }
}

/// The fields that decide something, as the OCI's types have them (runtime-spec 1.0.2), one structure a line: its name,
/// then its keys with their types. `s` string, `b` boolean; `[` list of, `{` map from strings to, a name for a structure;
/// `*` before it for a pointer, which null takes away; `a` anything: it counts whether it is there. Other fields are
/// skipped, whatever their types. tests/gospec compares the table with the types themselves.
pub const SCHEMA: &str = "\
Spec process:*Process root:*Root mounts:[Mount annotations:{s linux:*Linux solaris:*a windows:*a
Process args:[s cwd:s apparmorProfile:s selinuxLabel:s
Root path:s readonly:b
Mount destination:s type:s source:s options:[s
Linux seccomp:*a rootfsPropagation:s";

/// The fields that are kept. A field that the table does not know is `Other`, and so is what lies in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Other,
    File,
    Process,
    Args,
    SeLinux,
    AppArmor,
    Root,
    RootPath,
    RootReadOnly,
    Mounts,
    Mount,
    Destination,
    MountType,
    Source,
    Options,
    Option,
    Annotations,
    ContainerType,
    SandboxId,
    Cwd,
    Flag,
    Linux,
    Propagation,
    Seccomp,
    Solaris,
    Windows,
}

/// What the annotations that override flags begin with.
const FLAG: &[u8] = b"dev.gvisor.flag.";

/// The fields that are kept: where they are, their keys, what they are.
const KEPT: &[(Place, &str, Place)] = &[
    (Place::File, "process", Place::Process),
    (Place::File, "root", Place::Root),
    (Place::File, "mounts", Place::Mounts),
    (Place::File, "annotations", Place::Annotations),
    (Place::File, "linux", Place::Linux),
    (Place::File, "solaris", Place::Solaris),
    (Place::File, "windows", Place::Windows),
    (Place::Process, "args", Place::Args),
    (Place::Process, "cwd", Place::Cwd),
    (Place::Process, "selinuxLabel", Place::SeLinux),
    (Place::Process, "apparmorProfile", Place::AppArmor),
    (Place::Root, "path", Place::RootPath),
    (Place::Root, "readonly", Place::RootReadOnly),
    (Place::Mount, "destination", Place::Destination),
    (Place::Mount, "type", Place::MountType),
    (Place::Mount, "source", Place::Source),
    (Place::Mount, "options", Place::Options),
    (
        Place::Annotations,
        "io.kubernetes.cri.container-type",
        Place::ContainerType,
    ),
    (
        Place::Annotations,
        "io.kubernetes.cri.sandbox-id",
        Place::SandboxId,
    ),
    (Place::Linux, "rootfsPropagation", Place::Propagation),
    (Place::Linux, "seccomp", Place::Seccomp),
];

/// Where `key` of `place` leads.
fn below(place: Place, key: &[u8]) -> Place {
    let mut known = KEPT.iter();
    known
        .find(|(above, known, _)| *above == place && known.as_bytes() == key)
        .map_or(Place::Other, |(.., below)| *below)
}

/// A list as Go fills it: reading it again begins at its start, over what its items hold already.
#[derive(Default)]
struct Items<T> {
    all: List<T>,
    len: usize,
}

impl<T: Default> Items<T> {
    fn next(&mut self) {
        if self.len == self.all.len() {
            self.all.push(T::default());
        }
        self.len += 1;
    }

    fn last(&mut self) -> Option<&mut T> {
        self.all.get_mut(self.len.checked_sub(1)?)
    }

    fn filled(&self) -> &[T] {
        self.all.get(..self.len).unwrap_or_default()
    }
}

#[derive(Default)]
struct RawMount {
    destination: Told,
    kind: Told,
    source: Told,
    options: Items<Told>,
}

/// What was read so far.
#[derive(Default)]
struct Kept {
    has_process: bool,
    args: usize,
    selinux: Told,
    apparmor: Told,
    has_root: bool,
    root_path: Told,
    root_read_only: bool,
    mounts: Items<RawMount>,
    container_type: Option<Told>,
    has_sandbox_id: bool,
    has_seccomp: bool,
    has_solaris: bool,
    has_windows: bool,
    cwd: Told,
    propagation: Told,
    overrides: List<(Told, Told)>,
}

impl Kept {
    /// A pointer, a list or a map at `place` is null: Go forgets what it held.
    #[inline(never)]
    fn forget(&mut self, place: Place) {
        match place {
            Place::Process => {
                (self.has_process, self.args, self.selinux, self.apparmor) = (false, 0, b"", b"");
                self.cwd = b"";
            }
            Place::Root => {
                (self.has_root, self.root_path, self.root_read_only) = (false, b"", false)
            }
            Place::Args => self.args = 0,
            Place::Mounts => self.mounts = Items::default(),
            Place::Options => {
                if let Some(mount) = self.mounts.last() {
                    mount.options = Items::default();
                }
            }
            Place::Annotations => {
                (self.container_type, self.has_sandbox_id) = (None, false);
                self.overrides.truncate(0);
            }
            Place::Linux => (self.has_seccomp, self.propagation) = (false, b""),
            Place::Seccomp => self.has_seccomp = false,
            Place::Solaris => self.has_solaris = false,
            Place::Windows => self.has_windows = false,
            _ => {}
        }
    }

    /// A structure, a list or a map at `place` begins, or anything is there.
    fn begin(&mut self, place: Place) {
        match place {
            Place::Process => self.has_process = true,
            Place::Root => self.has_root = true,
            Place::Args => self.args = 0,
            Place::Mounts => self.mounts.len = 0,
            Place::Options => {
                if let Some(mount) = self.mounts.last() {
                    mount.options.len = 0;
                }
            }
            Place::Seccomp => self.has_seccomp = true,
            Place::Solaris => self.has_solaris = true,
            Place::Windows => self.has_windows = true,
            _ => {}
        }
    }

    /// An item of the list at `place` comes; where it is.
    fn item(&mut self, place: Place) -> Place {
        match place {
            Place::Args => {
                self.args += 1;
                Place::Other
            }
            Place::Mounts => {
                self.mounts.next();
                Place::Mount
            }
            Place::Options => {
                if let Some(mount) = self.mounts.last() {
                    mount.options.next();
                }
                Place::Option
            }
            _ => Place::Other,
        }
    }

    /// The list at `place` ends. Go gives an empty one new memory, so what the old items held is gone.
    fn end(&mut self, place: Place) {
        match place {
            Place::Mounts if self.mounts.len == 0 => self.mounts = Items::default(),
            Place::Options => {
                if let Some(mount) = self.mounts.last()
                    && mount.options.len == 0
                {
                    mount.options = Items::default();
                }
            }
            _ => {}
        }
    }

    /// Where a text at `place` is kept.
    fn slot(&mut self, place: Place) -> Option<&mut Told> {
        Some(match place {
            Place::SeLinux => &mut self.selinux,
            Place::AppArmor => &mut self.apparmor,
            Place::RootPath => &mut self.root_path,
            Place::ContainerType => self.container_type.insert(b""),
            Place::Cwd => &mut self.cwd,
            Place::Propagation => &mut self.propagation,
            Place::Flag => &mut self.overrides.last_mut()?.1,
            Place::Destination => &mut self.mounts.last()?.destination,
            Place::MountType => &mut self.mounts.last()?.kind,
            Place::Source => &mut self.mounts.last()?.source,
            Place::Option => self.mounts.last()?.options.last()?,
            Place::SandboxId => {
                self.has_sandbox_id = true;
                return None;
            }
            _ => return None,
        })
    }
}

/// A type's name in Go.
struct GoType(&'static [u8]);

impl Say for GoType {
    fn say(&self, to: &mut dyn Sink) {
        let kind = self.0;
        let (before, kind) = match kind.split_first() {
            Some((b'*', kind)) => (&b""[..], kind),
            Some((b'[', kind)) => (&b"[]"[..], kind),
            Some((b'{', kind)) => (&b"map[string]"[..], kind),
            _ => (&b""[..], kind),
        };
        to.put(before);
        let (before, behind): (&[u8], &[u8]) = match kind.split_first() {
            Some((b's', _)) => (b"string", b""),
            Some((b'b', _)) => (b"bool", b""),
            _ => (b"specs.", kind),
        };
        to.put(before);
        to.put(behind);
    }
}

/// A value: where it is, and what it must be.
#[derive(Clone, Copy)]
struct Value {
    place: Place,
    kind: &'static [u8],
    /// The structure and the key that it belongs to.
    of: &'static [u8],
    key: &'static [u8],
}

/// Anything: a value that is skipped, of an unknown field or of the wrong type.
const ANY: &[u8] = b"a";

impl Value {
    /// The whole file.
    const FILE: Self = Self {
        place: Place::File,
        kind: b"Spec",
        of: b"",
        key: b"",
    };

    fn skipped(self) -> Self {
        Self {
            place: Place::Other,
            kind: ANY,
            ..self
        }
    }

    /// The type without its pointer, by its first letter and what follows.
    fn plain(&self) -> (u8, &'static [u8]) {
        match self.kind {
            [b'*', letter, rest @ ..] | [letter, rest @ ..] => (*letter, rest),
            [] => (0, b""),
        }
    }

    /// The structure's name.
    fn structure(&self) -> &'static [u8] {
        self.kind.strip_prefix(b"*").unwrap_or(self.kind)
    }
}

/// A key, or a value that begins, of container `of`: where it is, and what it must be.
fn inside(of: Value, key: Text<'_>, kept: &mut Kept) -> Value {
    match of.plain() {
        (b'{', kind) => {
            // By its one spelling, and empty until its value comes: null leaves it so.
            let key = key.kept();
            if of.place == Place::Annotations
                && let Some(name) = key.strip_prefix(FLAG)
            {
                kept.overrides.push((name, b""));
                let place = Place::Flag;
                return Value { place, kind, ..of };
            }
            let place = below(of.place, key);
            if let Some(slot) = kept.slot(place) {
                *slot = b"";
            }
            Value { place, kind, ..of }
        }
        (b'A'..=b'Z', _) => match field(of.structure(), key) {
            Some((key, kind)) => Value {
                place: below(of.place, key),
                kind,
                of: of.structure(),
                key,
            },
            None => of.skipped(),
        },
        _ => of,
    }
}

/// The key of structure `name` that `key` is a spelling of, and its type.
fn field(name: &[u8], key: Text<'_>) -> Option<(&'static [u8], &'static [u8])> {
    let mut lines = SCHEMA.as_bytes().split(|&byte| byte == b'\n');
    let fields = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(b" "))?;
    let mut fields = fields
        .split(|&byte| byte == b' ')
        .filter_map(|field| split_once(field, b':'));
    fields.find(|(known, _)| is_same_key(key, known))
}

/// Whether two keys are the same but for case. Go folds two letters beyond ASCII to ASCII ones.
fn is_same_key(key: Text<'_>, known: &[u8]) -> bool {
    let folded = key.chars().map(|c| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    });
    folded.eq(known
        .iter()
        .map(|&byte| char::from(byte.to_ascii_lowercase())))
}

/// Reads a whole file. Error: it is not JSON, or else the first field of a wrong type, of which Go tells
/// when all is read.
fn read(bytes: &[u8]) -> Result<Kept, Refusal> {
    let mut reader = Reader::new(bytes);
    let mut kept = Kept::default();
    let mut mismatch = None;
    let mut open: List<Value> = List::new();
    let mut next = Value::FILE;
    while let Some(event) = reader.next().map_err(Refusal::NotJson)? {
        let at = match open.last() {
            Some(list) if list.plain().0 == b'[' && event != Event::End => Value {
                place: kept.item(list.place),
                kind: list.plain().1,
                ..*list
            },
            _ => next,
        };
        let (letter, _) = at.plain();
        let found: Told = match event {
            Event::Key(key) => {
                if let Some(of) = open.last() {
                    next = inside(*of, key, &mut kept);
                }
                continue;
            }
            Event::End => {
                if let Some(list) = open.pop() {
                    kept.end(list.place);
                }
                continue;
            }
            Event::Null => {
                if matches!(at.kind, [b'*' | b'[' | b'{', ..]) {
                    kept.forget(at.place);
                }
                continue;
            }
            _ if letter == b'a' => {
                kept.begin(at.place);
                b""
            }
            Event::Object if matches!(letter, b'{' | b'A'..=b'Z') => b"",
            Event::Object => b"object",
            Event::Array if letter == b'[' => b"",
            Event::Array => b"array",
            Event::String(_) if letter == b's' => b"",
            Event::String(_) => b"string",
            Event::Bool(_) if letter == b'b' => b"",
            Event::Bool(_) => b"bool",
            Event::Number(_) => b"number",
        };
        let is_right = found.is_empty();
        if !is_right && mismatch.is_none() {
            mismatch = Some(Refusal::Mismatch(found, at.of, at.key, at.kind));
        }
        match event {
            Event::Object | Event::Array if is_right && letter != b'a' => {
                kept.begin(at.place);
                open.push(at);
            }
            Event::Object | Event::Array => {
                next = at.skipped();
                open.push(next);
            }
            Event::String(text) if is_right => {
                if let Some(slot) = kept.slot(at.place) {
                    *slot = text.kept();
                }
            }
            Event::Bool(value) if at.place == Place::RootReadOnly => kept.root_read_only = value,
            _ => {}
        }
    }
    mismatch.map_or(Ok(kept), Err)
}

impl Spec {
    /// Reads and checks a spec. The refusals are told in the order in which [`Refusal`] lists them.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        Self::check(&read(bytes)?)
    }

    fn check(kept: &Kept) -> Result<Self, Refusal> {
        let relative = kept
            .mounts
            .filled()
            .iter()
            .position(|mount| !mount.destination.starts_with(b"/"));
        let refusal = if !kept.has_process {
            Some(Refusal::NoProcess)
        } else if kept.args == 0 {
            Some(Refusal::NoArgs)
        } else if !kept.has_root {
            Some(Refusal::NoRoot)
        } else if kept.root_path.is_empty() {
            Some(Refusal::NoRootPath)
        } else if kept.has_solaris {
            Some(Refusal::Solaris)
        } else if kept.has_windows {
            Some(Refusal::Windows)
        } else if !kept.selinux.is_empty() {
            Some(Refusal::SeLinux(kept.selinux))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        if let Some(at) = relative {
            let destination = kept
                .mounts
                .filled()
                .get(at)
                .map_or(&b""[..], |mount| mount.destination);
            return Err(Refusal::RelativeMount(at, destination));
        }
        match kept.container_type {
            Some(b"container") if !kept.has_sandbox_id => return Err(Refusal::NoSandboxId),
            Some(kind) if !is_among("sandbox container", kind) => {
                return Err(Refusal::ContainerType(kind));
            }
            _ => {}
        }
        let mounts = kept.mounts.filled().iter().map(|mount| Mount {
            destination: mount.destination,
            kind: mount.kind,
            source: mount.source,
            options: List::of(mount.options.filled().iter().copied()).leak(),
            read_only: mount.options.filled().contains(&&b"ro"[..]),
            served: is_served(mount),
        });
        Ok(Self {
            root_path: kept.root_path,
            root_read_only: kept.root_read_only,
            mounts: List::of(mounts),
            propagation: kept.propagation,
            cwd: kept.cwd,
            overrides: List::of(kept.overrides.iter().copied()),
            apparmor: kept.apparmor,
            has_seccomp: kept.has_seccomp,
        })
    }

    /// The mounts that get a connection, in order.
    pub fn served(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(|mount| mount.served)
    }

    /// Tells anew which mounts get one of `connections`, by the rules of the later runtimes: the option
    /// `bind` or `rbind` is as good as the type; at first not below /dev either, then there too. Each
    /// rule takes all that the one before it took, so the number of connections tells which it was.
    pub fn serve_by_later_rules(&mut self, connections: usize) {
        for all_of_dev in [false, true] {
            if self.served().count() >= connections {
                return;
            }
            for mount in self.mounts.iter_mut() {
                let is_bind = mount.kind == b"bind"
                    || mount.options.iter().any(|o| is_among("bind rbind", o));
                let is_left_out = !all_of_dev && is_sandbox_device(mount.destination);
                mount.served = is_bind && !mount.source.is_empty() && !is_left_out;
            }
        }
    }
}

/// Whether a mount is served (docs/launch.md 2.6, the rule of 2018): a bind mount with a source, and not
/// one of those that the sandbox makes itself below /dev.
fn is_served(mount: &RawMount) -> bool {
    mount.kind == b"bind" && !mount.source.is_empty() && !is_sandbox_device(mount.destination)
}

const SANDBOX_DEVICES: &str = "fd stdin stdout stderr null zero full random urandom shm pts ptmx";

fn is_sandbox_device(destination: &[u8]) -> bool {
    let mut parts: List<&[u8]> = List::new();
    for part in destination.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    match &*parts {
        [b"dev"] => true,
        [b"dev", device, ..] => is_among(SANDBOX_DEVICES, device),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> &str {
        core::str::from_utf8(bytes).unwrap()
    }

    use crate::text::said;

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
        assert_eq!(text(spec.root_path), "a/\u{1f600}");
        assert!(spec.root_read_only && spec.has_seccomp);
        let served: Vec<(&str, bool)> = spec
            .served()
            .map(|m| (text(m.destination), m.read_only))
            .collect();
        assert_eq!(served, [("/a", true), ("/dev/ptsx", false)]);
    }

    #[test]
    fn keys_fold_case_and_the_last_one_counts() {
        let spec = read(
            r#""root":{"path":"/a"},"ROOT":{"Path":"/b"},"mountſ":[],"Root":{"readonly":true}"#,
        )
        .unwrap();
        assert_eq!((text(spec.root_path), spec.root_read_only), ("/b", true));
    }

    #[test]
    fn bytes_that_are_no_characters_are_replaced_one_by_one() {
        let mut bytes = format!("{{{PROCESS},\"root\":{{\"path\":\"/").into_bytes();
        bytes.extend(b"a\xff\xe2\x82b\"}}");
        assert_eq!(
            text(Spec::read(&bytes).unwrap().root_path),
            "/a\u{fffd}\u{fffd}\u{fffd}b"
        );
    }

    #[test]
    fn refusals_come_in_their_order() {
        let refusals = [
            (
                "nonsense",
                Refusal::NotJson(Fault::Letter(b'o', "null", b'u')),
            ),
            (
                r#"{"root":7}"#,
                Refusal::Mismatch(b"number", b"Spec", b"root", b"*Root"),
            ),
            (
                r#"{} x"#,
                Refusal::NotJson(Fault::Byte(b'x', "after top-level value")),
            ),
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
                Refusal::SeLinux(b"l"),
            ),
            (
                r#"{"process":{"args":["a"]},"root":{"path":"/"},"mounts":[{"destination":"/a"},{"destination":"b"}]}"#,
                Refusal::RelativeMount(1, b"b"),
            ),
            (
                r#"{"process":{"args":["a"]},"root":{"path":"/"},"annotations":{"io.kubernetes.cri.container-type":"container"}}"#,
                Refusal::NoSandboxId,
            ),
            (
                r#"{"process":{"args":["a"]},"root":{"path":"/"},"annotations":{"io.kubernetes.cri.container-type":"x"}}"#,
                Refusal::ContainerType(b"x"),
            ),
        ];
        for (json, refusal) in refusals {
            assert_eq!(Spec::read(json.as_bytes()), Err(refusal), "{json}");
        }
    }

    #[test]
    fn later_runtimes_serve_mounts_by_option_and_below_dev_as_their_connections_tell() {
        let served = |connections: usize| {
            let mut spec = read(
                r#""root":{"path":"/"},"mounts":[{"destination":"/a","type":"bind","source":"/s"},
                   {"destination":"/b","type":"none","source":"/s","options":["rbind"]},
                   {"destination":"/dev/shm","type":"bind","source":"/s"},
                   {"destination":"/dev","type":"tmpfs","source":"/s"},
                   {"destination":"/c","type":"bind"}]"#,
            )
            .unwrap();
            spec.serve_by_later_rules(connections);
            let served: Vec<&str> = spec.served().map(|mount| text(mount.destination)).collect();
            served.join(" ")
        };
        assert_eq!(served(0), "/a");
        assert_eq!(served(1), "/a");
        assert_eq!(served(2), "/a /b");
        assert_eq!(served(3), "/a /b /dev/shm");
        assert_eq!(served(9), "/a /b /dev/shm");
    }

    #[test]
    fn what_the_later_contract_reads_is_kept_and_null_takes_it_away() {
        let spec = read(
            r#""root":{"path":"/"},"process":{"cwd":"/w"},"linux":{"rootfsPropagation":"rslave"},
               "annotations":{"dev.gvisor.flag.debug":"1","x":"y","dev.gvisor.flag.debug":"0"}"#,
        )
        .unwrap();
        assert_eq!((text(spec.cwd), text(spec.propagation)), ("/w", "rslave"));
        let overrides: Vec<(&str, &str)> = spec
            .overrides
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        assert_eq!(overrides, [("debug", "1"), ("debug", "0")]);
        let spec = read(
            r#""root":{"path":"/"},"linux":{"rootfsPropagation":"rslave"},"linux":null,
               "annotations":{"dev.gvisor.flag.debug":"1"},"annotations":null"#,
        )
        .unwrap();
        assert_eq!((text(spec.cwd), text(spec.propagation)), ("", ""));
        assert!(spec.overrides.is_empty());
    }

    #[test]
    fn more_mounts_than_can_be_served_are_counted() {
        let mount = r#"{"destination":"/a","type":"bind","source":"/s"}"#;
        let spec = read(&format!(
            r#""root":{{"path":"/"}},"mounts":[{}]"#,
            vec![mount; 300].join(",")
        ))
        .unwrap();
        assert_eq!((spec.mounts.len(), spec.served().count()), (300, 300));
    }

    #[test]
    fn types_of_fields_that_decide_something_are_checked_and_no_others() {
        let mismatch = |fields: &str| match read(fields) {
            Err(refusal @ Refusal::Mismatch(..)) => said(&refusal),
            other => panic!("{fields}: {other:?}"),
        };
        let root = r#""root":{"path":"/"}"#;
        assert_eq!(
            mismatch(&format!(r#"{root},"annotations":{{"a":7}}"#)),
            "json: cannot unmarshal number into Go struct field Spec.annotations of type string"
        );
        assert_eq!(
            mismatch(&format!(
                r#"{root},"mounts":[{{"destination":"/a","options":"ro"}}]"#
            )),
            "json: cannot unmarshal string into Go struct field Mount.options of type []string"
        );
        for good in [
            r#""hostname":7,"linux":{"uidMappings":[{"size":"x"}]},"process":{"oomScoreAdj":1e999}"#,
            r#""x":{"root":1e999,"a":[[],{}]},"windows":null,"linux":{"sysctl":{"a":null}}"#,
            r#""linux":{"seccomp":"none"},"hooks":[]"#,
        ] {
            read(&format!("{root},{good}")).unwrap();
        }
        for bad in [
            r#""process":{"cwd":1.5}"#,
            r#""linux":{"rootfsPropagation":true}"#,
            r#""mounts":[{"destination":{}}]"#,
            r#""annotations":{"a":1}"#,
            r#""annotations":[]"#,
            r#""process":[]"#,
            r#""root":{"readonly":1}"#,
        ] {
            mismatch(&format!("{root},{bad}"));
        }
    }

    #[test]
    fn a_list_that_comes_twice_is_read_over_what_it_held() {
        let spec = read(
            r#""root":{"path":"/"},"mounts":[{"destination":"/a","type":"bind","source":"/s","options":["ro"]},
               {"destination":"/b","type":"bind","source":"/t"}],"mounts":[{"destination":"/c","options":[]}]"#,
        )
        .unwrap();
        let served: Vec<(&str, &str, bool)> = spec
            .served()
            .map(|m| (text(m.destination), text(m.source), m.read_only))
            .collect();
        assert_eq!(served, [("/c", "/s", false)]);
    }

    #[test]
    fn a_list_that_was_empty_in_between_holds_nothing_old() {
        let spec = read(
            r#""root":{"path":"/"},"mounts":[{"destination":"/a","type":"bind","source":"/s"}],
               "mounts":[],"mounts":[{"destination":"/c"}]"#,
        );
        assert_eq!(spec.unwrap().served().count(), 0);
    }

    #[test]
    fn every_structure_that_the_table_names_is_in_it() {
        for line in SCHEMA.lines() {
            for field in line.split(' ').skip(1) {
                let (_, kind) = field.split_once(':').unwrap();
                let name = kind.trim_start_matches(['*', '[', '{']);
                assert!(
                    !name.starts_with(|c: char| c.is_ascii_uppercase() && c != 'F')
                        || SCHEMA
                            .lines()
                            .any(|line| line.split(' ').next() == Some(name)),
                    "{name}"
                );
            }
        }
    }
}
