//! The OCI spec: the few fields that decide what is served (gofer.md 2.4 to 2.6). Makes no system call.
//!
//! The sandbox reads the same file by Go's encoding/json into the OCI's own types, and a disagreement
//! would shift which mount answers on which socket. So every known field's type is checked (the table
//! [`SCHEMA`]), keys fold their case, a key that comes twice is read into what is there already, null
//! leaves or takes away, and text that Go mends is mended before it is parsed ([`mend`]).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;

use miniserde::de::{Map, Seq, Visitor};
use miniserde::{Deserialize, json};

use crate::sys::memory::Region;

/// What start-up needs of a spec. Its strings are never freed: what start-up allocates lives as long as
/// the process.
#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    /// `root.path`, as written: absolute, or relative to the bundle.
    pub root_path: &'static str,
    /// `root.readonly`.
    pub root_read_only: bool,
    /// All mounts, in order.
    pub mounts: Vec<Mount>,
    /// `linux.rootfsPropagation`; empty if it is not there.
    pub propagation: &'static str,
    /// `process.cwd`; empty if it is not there.
    pub cwd: &'static str,
    /// Annotations that override flags, `dev.gvisor.flag.NAME`: name and value.
    pub overrides: Vec<(&'static str, &'static str)>,
    /// `process.apparmorProfile`, which is not applied; empty if it is not there.
    pub apparmor: &'static str,
    /// Whether `linux.seccomp` is there, which is not applied.
    pub has_seccomp: bool,
}

/// A mount.
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
    /// Whether it gets a connection of its own.
    pub served: bool,
}

/// Why a spec is refused; each text is the original's (gofer.md 2.5).
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not JSON.
    NotJson,
    /// Brackets nest deeper than Go reads them.
    TooDeep,
    /// A field of the wrong type: what was found, the field's structure, its key, its Go type.
    Mismatch(&'static str, &'static str, &'static str, &'static str),
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
            Self::NotJson => f.write_str("invalid JSON"),
            Self::TooDeep => f.write_str("exceeded max depth"),
            Self::Mismatch(found, of, key, kind) => write!(
                f,
                "json: cannot unmarshal {found} into Go struct field {of}.{key} of type {kind}"
            ),
            Self::NoProcess => f.write_str("Spec.Process must be defined: "),
            Self::NoArgs => f.write_str("Spec.Process.Arg must be defined: "),
            Self::NoRoot => f.write_str("Spec.Root must be defined: "),
            Self::NoRootPath => f.write_str("Spec.Root.Path must be defined: "),
            Self::Solaris => f.write_str("Spec.Solaris is not supported: "),
            Self::Windows => f.write_str("Spec.Windows is not supported: "),
            Self::SeLinux(label) => write!(f, "SELinux is not supported: {label}"),
            Self::RelativeMount(at, destination) => {
                write!(
                    f,
                    "Spec.Mounts[{at}] Mount.Destination must be an absolute path: {destination}"
                )
            }
            Self::NoSandboxId => {
                f.write_str("spec has container-type of container, but no sandbox ID set")
            }
            Self::ContainerType(kind) => write!(f, "unknown container-type: {kind}"),
        }
    }
}

/// The OCI's types (runtime-spec 1.0.2), one structure a line: its name, then its keys with their types.
/// `s` string, `b` boolean, `i` and `u` with bits for integers, `a` anything, `[` list of, `{` map from
/// strings to, a name for a structure; `*` before it for a pointer, which null takes away. Of an
/// `Object` only is asked that it is one: what it holds is not looked at (issue 4).
const SCHEMA: &str = "\
Spec ociVersion:s process:*Process root:*Root hostname:s mounts:[Mount hooks:*Hooks annotations:{s linux:*Linux solaris:*Object windows:*Object vm:*Object
Process terminal:b consoleSize:*Box user:User args:[s commandLine:s env:[s cwd:s capabilities:*LinuxCapabilities rlimits:[POSIXRlimit noNewPrivileges:b apparmorProfile:s oomScoreAdj:*i64 selinuxLabel:s
LinuxCapabilities bounding:[s effective:[s inheritable:[s permitted:[s ambient:[s
Box height:u64 width:u64
User uid:u32 gid:u32 umask:*u32 additionalGids:[u32 username:s
Root path:s readonly:b
Mount destination:s type:s source:s options:[s
Hook path:s args:[s env:[s timeout:*i64
Hooks prestart:[Hook createRuntime:[Hook createContainer:[Hook startContainer:[Hook poststart:[Hook poststop:[Hook
Linux uidMappings:[LinuxIDMapping gidMappings:[LinuxIDMapping sysctl:{s resources:*Object cgroupsPath:s namespaces:[LinuxNamespace devices:[Object seccomp:*Object rootfsPropagation:s maskedPaths:[s readonlyPaths:[s mountLabel:s intelRdt:*Object personality:*Object
LinuxNamespace type:s path:s
LinuxIDMapping containerID:u32 hostID:u32 size:u32
POSIXRlimit type:s hard:u64 soft:u64
Object -:a";

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
const FLAG: &str = "dev.gvisor.flag.";

/// Where `key` of `place` leads.
fn below(place: Place, key: &str) -> Place {
    match (place, key) {
        (Place::File, "process") => Place::Process,
        (Place::File, "root") => Place::Root,
        (Place::File, "mounts") => Place::Mounts,
        (Place::File, "annotations") => Place::Annotations,
        (Place::File, "linux") => Place::Linux,
        (Place::File, "solaris") => Place::Solaris,
        (Place::File, "windows") => Place::Windows,
        (Place::Process, "args") => Place::Args,
        (Place::Process, "cwd") => Place::Cwd,
        (Place::Process, "selinuxLabel") => Place::SeLinux,
        (Place::Process, "apparmorProfile") => Place::AppArmor,
        (Place::Root, "path") => Place::RootPath,
        (Place::Root, "readonly") => Place::RootReadOnly,
        (Place::Mount, "destination") => Place::Destination,
        (Place::Mount, "type") => Place::MountType,
        (Place::Mount, "source") => Place::Source,
        (Place::Mount, "options") => Place::Options,
        (Place::Annotations, "io.kubernetes.cri.container-type") => Place::ContainerType,
        (Place::Annotations, "io.kubernetes.cri.sandbox-id") => Place::SandboxId,
        (Place::Annotations, key) if key.starts_with(FLAG) => Place::Flag,
        (Place::Linux, "rootfsPropagation") => Place::Propagation,
        (Place::Linux, "seccomp") => Place::Seccomp,
        _ => Place::Other,
    }
}

/// A list as Go fills it: reading it again begins at its start, over what its items hold already.
#[derive(Default)]
struct List<T> {
    items: Vec<T>,
    len: usize,
}

impl<T: Default> List<T> {
    fn next(&mut self) {
        if self.len == self.items.len() {
            self.items.push(T::default());
        }
        self.len += 1;
    }

    fn last(&mut self) -> Option<&mut T> {
        self.items.get_mut(self.len.checked_sub(1)?)
    }

    fn filled(&self) -> &[T] {
        self.items.get(..self.len).unwrap_or_default()
    }
}

#[derive(Default)]
struct RawMount {
    destination: &'static str,
    kind: &'static str,
    source: &'static str,
    options: List<&'static str>,
}

/// What was read so far.
#[derive(Default)]
struct Kept {
    has_process: bool,
    args: usize,
    selinux: &'static str,
    apparmor: &'static str,
    has_root: bool,
    root_path: &'static str,
    root_read_only: bool,
    mounts: List<RawMount>,
    container_type: Option<&'static str>,
    has_sandbox_id: bool,
    has_seccomp: bool,
    has_solaris: bool,
    has_windows: bool,
    cwd: &'static str,
    propagation: &'static str,
    overrides: Vec<(&'static str, &'static str)>,
}

impl Kept {
    /// A pointer, a list or a map at `place` is null: Go forgets what it held.
    fn forget(&mut self, place: Place) {
        match place {
            Place::Process => {
                (self.has_process, self.args, self.selinux, self.apparmor) = (false, 0, "", "");
                self.cwd = "";
            }
            Place::Root => {
                (self.has_root, self.root_path, self.root_read_only) = (false, "", false)
            }
            Place::Args => self.args = 0,
            Place::Mounts => self.mounts = List::default(),
            Place::Options => {
                if let Some(mount) = self.mounts.last() {
                    mount.options = List::default();
                }
            }
            Place::Annotations => {
                (self.container_type, self.has_sandbox_id) = (None, false);
                self.overrides.clear();
            }
            Place::Linux => (self.has_seccomp, self.propagation) = (false, ""),
            Place::Seccomp => self.has_seccomp = false,
            Place::Solaris => self.has_solaris = false,
            Place::Windows => self.has_windows = false,
            _ => {}
        }
    }

    /// A structure, a list or a map at `place` begins.
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

    fn text(&mut self, place: Place, text: &str) {
        let keep = || String::from(text).leak();
        match place {
            Place::SeLinux => self.selinux = keep(),
            Place::AppArmor => self.apparmor = keep(),
            Place::RootPath => self.root_path = keep(),
            Place::ContainerType => self.container_type = Some(keep()),
            Place::SandboxId => self.has_sandbox_id = true,
            Place::Cwd => self.cwd = keep(),
            Place::Propagation => self.propagation = keep(),
            Place::Flag => {
                if let Some((_, value)) = self.overrides.last_mut() {
                    *value = keep();
                }
            }
            Place::Destination | Place::MountType | Place::Source | Place::Option => {
                let Some(mount) = self.mounts.last() else {
                    return;
                };
                match place {
                    Place::Destination => mount.destination = keep(),
                    Place::MountType => mount.kind = keep(),
                    Place::Source => mount.source = keep(),
                    _ => {
                        if let Some(option) = mount.options.last() {
                            *option = keep();
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

/// What all values of a file are read into.
#[derive(Default)]
struct Sink {
    kept: RefCell<Kept>,
    /// The first field of a wrong type; Go tells of it when all is read.
    mismatch: Cell<Option<Refusal>>,
}

/// A value: where it is, and what it must be.
#[derive(Clone, Copy)]
struct Value<'s> {
    sink: &'s Sink,
    place: Place,
    kind: &'static str,
    /// The structure and the key that it belongs to.
    of: &'static str,
    key: &'static str,
}

/// Anything.
const ANY: &str = "a";

impl<'s> Value<'s> {
    /// The type without its pointer.
    fn plain(&self) -> &'static str {
        self.kind.strip_prefix('*').unwrap_or(self.kind)
    }

    fn mismatch(&self, found: &'static str) -> miniserde::Result<()> {
        let first = self.sink.mismatch.take();
        let this = Refusal::Mismatch(found, self.of, self.key, self.kind);
        self.sink.mismatch.set(Some(first.unwrap_or(this)));
        Ok(())
    }

    fn integer(&self, negative: bool, magnitude: u64) -> miniserde::Result<()> {
        let fits = match self.plain() {
            "i64" => magnitude < 1 << 63 || negative && magnitude == 1 << 63,
            "u16" => !negative && magnitude < 1 << 16,
            "u32" => !negative && magnitude < 1 << 32,
            "u64" => !negative,
            kind => kind == ANY,
        };
        if fits {
            Ok(())
        } else {
            self.mismatch("number")
        }
    }

    /// A value that is skipped: of an unknown field, or of the wrong type.
    fn skipped(&self) -> Self {
        Self {
            place: Place::Other,
            kind: ANY,
            ..*self
        }
    }

    /// A list, a map or a structure begins: `open` is what its type must begin with.
    fn container(&self, open: &str, found: &'static str) -> Container<'s> {
        let of = match self.plain().strip_prefix(open) {
            _ if self.plain() == ANY => self.skipped(),
            None => {
                let _told = self.mismatch(found);
                self.skipped()
            }
            Some(kind) => {
                self.sink.kept.borrow_mut().begin(self.place);
                Self { kind, ..*self }
            }
        };
        Container {
            of,
            child: of,
            is_map: open == "{",
        }
    }

    fn is_structure(&self) -> bool {
        self.plain().starts_with(|c: char| c.is_ascii_uppercase())
    }
}

impl Visitor for Value<'_> {
    fn null(&mut self) -> miniserde::Result<()> {
        if self.kind.starts_with(['*', '[', '{']) {
            self.sink.kept.borrow_mut().forget(self.place);
        }
        Ok(())
    }

    fn boolean(&mut self, value: bool) -> miniserde::Result<()> {
        match self.plain() {
            "b" => {
                if self.place == Place::RootReadOnly {
                    self.sink.kept.borrow_mut().root_read_only = value;
                }
                Ok(())
            }
            ANY => Ok(()),
            _ => self.mismatch("bool"),
        }
    }

    fn string(&mut self, text: &str) -> miniserde::Result<()> {
        match self.plain() {
            "s" => {
                self.sink.kept.borrow_mut().text(self.place, text);
                Ok(())
            }
            ANY => Ok(()),
            _ => self.mismatch("string"),
        }
    }

    fn negative(&mut self, value: i64) -> miniserde::Result<()> {
        self.integer(value < 0, value.unsigned_abs())
    }

    fn nonnegative(&mut self, value: u64) -> miniserde::Result<()> {
        self.integer(false, value)
    }

    fn float(&mut self, _: f64) -> miniserde::Result<()> {
        if self.plain() == ANY {
            Ok(())
        } else {
            self.mismatch("number")
        }
    }

    fn seq(&mut self) -> miniserde::Result<Box<dyn Seq + '_>> {
        Ok(Box::new(self.container("[", "array")))
    }

    fn map(&mut self) -> miniserde::Result<Box<dyn Map + '_>> {
        Ok(Box::new(self.container(
            if self.is_structure() { "" } else { "{" },
            "object",
        )))
    }
}

/// A list, a map or a structure under way.
struct Container<'s> {
    /// Where it is, and its items' type or the structure's name.
    of: Value<'s>,
    child: Value<'s>,
    is_map: bool,
}

impl Seq for Container<'_> {
    fn element(&mut self) -> miniserde::Result<&mut dyn Visitor> {
        let place = self.of.sink.kept.borrow_mut().item(self.of.place);
        self.child = Value { place, ..self.of };
        Ok(&mut self.child)
    }

    fn finish(&mut self) -> miniserde::Result<()> {
        Ok(())
    }
}

impl Map for Container<'_> {
    fn key(&mut self, key: &str) -> miniserde::Result<&mut dyn Visitor> {
        let of = self.of;
        self.child = if of.kind == ANY {
            of
        } else if self.is_map {
            // By its one spelling, and empty until its value comes: null leaves it so.
            let place = below(of.place, key);
            if place == Place::Flag {
                let name = key.get(FLAG.len()..).unwrap_or_default();
                let name = String::from(name).leak();
                of.sink.kept.borrow_mut().overrides.push((name, ""));
            }
            of.sink.kept.borrow_mut().text(place, "");
            Value { place, ..of }
        } else {
            match field(of.kind, key) {
                Some((key, kind)) => Value {
                    sink: of.sink,
                    place: below(of.place, key),
                    kind,
                    of: of.kind,
                    key,
                },
                None => of.skipped(),
            }
        };
        Ok(&mut self.child)
    }

    fn finish(&mut self) -> miniserde::Result<()> {
        Ok(())
    }
}

/// The key of structure `name` that `key` is a spelling of, and its type.
fn field(name: &str, key: &str) -> Option<(&'static str, &'static str)> {
    let mut structures = SCHEMA.split('\n').filter_map(|line| line.split_once(' '));
    let (_, fields) = structures.find(|(known, _)| *known == name)?;
    let mut fields = fields.split(' ').filter_map(|field| field.split_once(':'));
    fields.find(|(known, _)| is_same_key(key, known))
}

/// Whether two keys are the same but for case. Go folds two letters beyond ASCII to ASCII ones.
fn is_same_key(key: &str, known: &str) -> bool {
    let folded = key.chars().map(|c| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    });
    folded.eq(known.chars().map(|c| c.to_ascii_lowercase()))
}

/// A file under way.
struct File(Value<'static>);

impl Deserialize for File {
    fn begin(out: &mut Option<Self>) -> &mut dyn Visitor {
        let sink: &'static Sink = Box::leak(Box::new(<Sink as Default>::default()));
        let file = Value {
            sink,
            place: Place::File,
            kind: "Spec",
            of: "",
            key: "",
        };
        &mut out.insert(Self(file)).0
    }
}

const CONTAINER_KINDS: [&str; 2] = ["sandbox", "container"];

impl Spec {
    /// Reads and checks a spec. The refusals are told in the order in which [`Refusal`] lists them.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        // Outside the heap, so that it goes back whole: U+FFFD is the longest that a byte becomes.
        let mut room = Region::reserve(bytes.len() * char::REPLACEMENT_CHARACTER.len_utf8());
        let File(file) = json::from_str(mend(bytes, &mut room)?).map_err(|_| Refusal::NotJson)?;
        let len = room.len();
        room.discard(0..len);
        if let Some(mismatch) = file.sink.mismatch.take() {
            return Err(mismatch);
        }
        Self::check(&file.sink.kept.borrow())
    }

    fn check(kept: &Kept) -> Result<Self, Refusal> {
        let relative = kept
            .mounts
            .filled()
            .iter()
            .position(|mount| !mount.destination.starts_with('/'));
        let refusals = [
            (!kept.has_process, Refusal::NoProcess),
            (kept.args == 0, Refusal::NoArgs),
            (!kept.has_root, Refusal::NoRoot),
            (kept.root_path.is_empty(), Refusal::NoRootPath),
            (kept.has_solaris, Refusal::Solaris),
            (kept.has_windows, Refusal::Windows),
            (!kept.selinux.is_empty(), Refusal::SeLinux(kept.selinux)),
        ];
        if let Some((_, refusal)) = refusals.into_iter().find(|(is_so, _)| *is_so) {
            return Err(refusal);
        }
        if let Some(at) = relative {
            let destination = kept
                .mounts
                .filled()
                .get(at)
                .map_or("", |mount| mount.destination);
            return Err(Refusal::RelativeMount(at, destination));
        }
        match kept.container_type {
            Some("container") if !kept.has_sandbox_id => return Err(Refusal::NoSandboxId),
            Some(kind) if !CONTAINER_KINDS.contains(&kind) => {
                return Err(Refusal::ContainerType(kind));
            }
            _ => {}
        }
        let mounts = kept.mounts.filled().iter().map(|mount| Mount {
            destination: mount.destination,
            kind: mount.kind,
            source: mount.source,
            options: mount.options.filled().to_vec(),
            read_only: mount.options.filled().contains(&"ro"),
            served: is_served(mount),
        });
        Ok(Self {
            root_path: kept.root_path,
            root_read_only: kept.root_read_only,
            mounts: mounts.collect(),
            propagation: kept.propagation,
            cwd: kept.cwd,
            overrides: kept.overrides.clone(),
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
            for mount in &mut self.mounts {
                let is_bind = mount.kind == "bind"
                    || mount.options.iter().any(|&o| o == "bind" || o == "rbind");
                let is_left_out = !all_of_dev && is_sandbox_device(mount.destination);
                mount.served = is_bind && !mount.source.is_empty() && !is_left_out;
            }
        }
    }
}

/// Whether a mount is served (gofer.md 2.6, the rule of 2018): a bind mount with a source, and not
/// one of those that the sandbox makes itself below /dev.
fn is_served(mount: &RawMount) -> bool {
    mount.kind == "bind" && !mount.source.is_empty() && !is_sandbox_device(mount.destination)
}

const SANDBOX_DEVICES: &str = "fd stdin stdout stderr null zero full random urandom shm pts ptmx";

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
        ["dev", device, ..] => SANDBOX_DEVICES.split(' ').any(|known| known == *device),
        _ => false,
    }
}

/// Go's limit of brackets in brackets.
const DEPTH: usize = 10_000;

/// The file as Go reads it, in words that any parser takes alike: a byte in a string that is no part of a
/// character and half a surrogate pair become U+FFFD, and a number that is no plain integer of at most
/// 64 bits becomes another such one, since only its kind matters. Error: [`Refusal::TooDeep`].
fn mend<'r>(bytes: &[u8], room: &'r mut [u8]) -> Result<&'r str, Refusal> {
    let mut out = Out { room, len: 0 };
    let mut rest = bytes;
    let mut depth = 0usize;
    while let Some((&byte, behind)) = rest.split_first() {
        match byte {
            b'"' => {
                rest = mend_string(behind, &mut out);
                continue;
            }
            b'-' | b'0'..=b'9' => {
                let is_part =
                    |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let len = rest.iter().take_while(|byte| is_part(byte)).count();
                let (number, behind) = rest.split_at_checked(len).unwrap_or_default();
                let is_plain =
                    len <= 20 && !number.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
                if is_plain || !is_number(number) {
                    out.push_str(core::str::from_utf8(number).unwrap_or_default());
                } else {
                    out.push_str("0.5");
                }
                rest = behind;
                continue;
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH {
            return Err(Refusal::TooDeep);
        }
        out.push(if byte.is_ascii() {
            char::from(byte)
        } else {
            char::REPLACEMENT_CHARACTER
        });
        rest = behind;
    }
    let Out { room, len } = out;
    let text = room.get(..len).unwrap_or_default();
    core::str::from_utf8(text).map_err(|_| Refusal::NotJson)
}

/// Text under assembly, in room that holds it.
struct Out<'r> {
    room: &'r mut [u8],
    len: usize,
}

impl Out<'_> {
    fn push_str(&mut self, text: &str) {
        if let Some(to) = self.room.get_mut(self.len..self.len + text.len()) {
            to.copy_from_slice(text.as_bytes());
            self.len += text.len();
        }
    }

    fn push(&mut self, c: char) {
        self.push_str(c.encode_utf8(&mut [0; 4]));
    }
}

/// Copies a string whose opening quote was met, to behind its closing one.
fn mend_string<'a>(bytes: &'a [u8], out: &mut Out<'_>) -> &'a [u8] {
    out.push('"');
    let mut rest = bytes;
    while let Some((&byte, behind)) = rest.split_first() {
        let len = match byte {
            b'"' => {
                out.push('"');
                return behind;
            }
            b'\\' => match (
                surrogate(rest),
                surrogate(rest.get(6..).unwrap_or_default()),
            ) {
                (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
                (Some(_), _) => {
                    out.push_str("\\ufffd");
                    rest = rest.get(6..).unwrap_or_default();
                    continue;
                }
                (None, _) => 2,
            },
            _ => (1..=4)
                .find(|&len| {
                    rest.get(..len)
                        .is_some_and(|bytes| core::str::from_utf8(bytes).is_ok())
                })
                .unwrap_or(0),
        };
        match rest
            .get(..len)
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
        {
            Some(text) if len > 0 => {
                out.push_str(text);
                rest = rest.get(len..).unwrap_or_default();
            }
            _ => {
                // A backslash keeps its place: what it stands before is looked at by itself.
                out.push(if byte == b'\\' {
                    '\\'
                } else {
                    char::REPLACEMENT_CHARACTER
                });
                rest = behind;
            }
        }
    }
    rest
}

/// The half of a surrogate pair that `\uXXXX` at the start of `bytes` spells, if it does.
fn surrogate(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    let value = digits.iter().try_fold(0, |value, &digit| {
        Some(value * 16 + char::from(digit).to_digit(16)?)
    })?;
    (0xd800..=0xdfff).contains(&value).then_some(value)
}

/// Whether JSON's grammar takes it for a number.
fn is_number(text: &[u8]) -> bool {
    fn digits(rest: &mut &[u8]) -> usize {
        let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *rest = rest.get(len..).unwrap_or_default();
        len
    }
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    let has_zero = rest.starts_with(b"0");
    match digits(&mut rest) {
        0 => return false,
        len if has_zero && len > 1 => return false,
        _ => {}
    }
    if let Some(behind) = rest.strip_prefix(b".") {
        rest = behind;
        if digits(&mut rest) == 0 {
            return false;
        }
    }
    if let Some(behind) = rest.strip_prefix(b"e").or(rest.strip_prefix(b"E")) {
        rest = behind
            .strip_prefix(b"+")
            .or(behind.strip_prefix(b"-"))
            .unwrap_or(behind);
        if digits(&mut rest) == 0 {
            return false;
        }
    }
    rest.is_empty()
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
            .served()
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
            ("nonsense", Refusal::NotJson),
            (
                r#"{"root":7}"#,
                Refusal::Mismatch("number", "Spec", "root", "*Root"),
            ),
            (r#"{} x"#, Refusal::NotJson),
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
            let served: Vec<&str> = spec.served().map(|mount| mount.destination).collect();
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
        assert_eq!((spec.cwd, spec.propagation), ("/w", "rslave"));
        assert_eq!(spec.overrides, [("debug", "1"), ("debug", "0")]);
        let spec = read(
            r#""root":{"path":"/"},"linux":{"rootfsPropagation":"rslave"},"linux":null,
               "annotations":{"dev.gvisor.flag.debug":"1"},"annotations":null"#,
        )
        .unwrap();
        assert_eq!((spec.cwd, spec.propagation), ("", ""));
        assert_eq!(spec.overrides, []);
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
    fn types_of_known_fields_are_checked_and_those_of_unknown_ones_not() {
        let mismatch = |fields: &str| match read(fields) {
            Err(refusal @ Refusal::Mismatch(..)) => refusal.to_string(),
            other => panic!("{fields}: {other:?}"),
        };
        let root = r#""root":{"path":"/"}"#;
        assert_eq!(
            mismatch(&format!(r#"{root},"hostname":7"#)),
            "json: cannot unmarshal number into Go struct field Spec.hostname of type s"
        );
        assert_eq!(
            mismatch(&format!(
                r#"{root},"mounts":[{{"destination":"/a","options":"ro"}}]"#
            )),
            "json: cannot unmarshal string into Go struct field Mount.options of type [s"
        );
        assert_eq!(
            mismatch(&format!(
                r#"{root},"linux":{{"uidMappings":[{{"size":4294967296}}]}}"#
            )),
            "json: cannot unmarshal number into Go struct field LinuxIDMapping.size of type u32"
        );
        for good in [
            r#""linux":{"uidMappings":[{"size":4294967295}]},"process":{"oomScoreAdj":-9223372036854775808}"#,
            r#""x":{"hostname":1e999,"a":[[],{}]},"windows":null,"linux":{"sysctl":{"a":null}}"#,
            r#""hooks":{"prestart":[{"timeout":null}]}"#,
        ] {
            read(&format!("{root},{good}")).unwrap();
        }
        for bad in [
            r#""hostname":1.5"#,
            r#""process":{"oomScoreAdj":1e3}"#,
            r#""annotations":{"a":1}"#,
            r#""annotations":[]"#,
            r#""process":[]"#,
            r#""process":{"oomScoreAdj":9223372036854775808}"#,
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
            .map(|m| (m.destination, m.source, m.read_only))
            .collect();
        assert_eq!(served, [("/c", "/s", false)]);
    }

    #[test]
    fn text_is_mended_as_go_mends_it() {
        let mended = |text: &[u8]| mend(text, &mut vec![0; 3 * text.len()]).unwrap().to_owned();
        assert_eq!(
            mended(b"\"\\ud83d\\ude00 \\ud83d \\ude00\""),
            "\"\\ud83d\\ude00 \\ufffd \\ufffd\""
        );
        assert_eq!(
            mended(b"\"\\\\ud800\\\"\\\xff\""),
            "\"\\\\ud800\\\"\\\u{fffd}\""
        );
        assert_eq!(
            mended(b"[1e999,-0.0,123456789012345678901,01,1.,-]"),
            "[0.5,0.5,0.5,01,1.,-]"
        );
        assert_eq!(
            mended(b"\"\xf0\x9f\x98\x80\xe2\x82\""),
            "\"\u{1f600}\u{fffd}\u{fffd}\""
        );
        let mut room = vec![0; 2 * DEPTH];
        assert_eq!(mend(&[b'['; DEPTH + 1], &mut room), Err(Refusal::TooDeep));
        assert!(mend(&[b'['; DEPTH], &mut room).is_ok());
    }
}
