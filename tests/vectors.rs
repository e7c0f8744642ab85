//! The 151 vectors of `vectors.json`: frames of the original encoder and frames assembled by hand. Each is
//! decoded with the library's types, every field that it states is compared, and it is encoded again;
//! each with an expected outcome is played against the program. [`EXCEPTIONS`] are the only ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

use gofer::p9::attr::{Attr, FullStat, GetMask, SetAttr, SetMask, StatFs};
use gofer::p9::messages::*;
use gofer::p9::qid::{Qid, QidType};
use gofer::p9::wire::{
    Data, Fid, Field, Gid, HEADER_BYTES, Header, List, Malformed, Perm, Reader, Str, Tag, Uid,
    Writer,
};
use harness::{Launch, Tree, spec, write_spec};
use kit::{harness, p9};
use nix::errno::Errno;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

// ---- exceptions -----------------------------------------------------------------------------

/// In what a vector differs here from what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exception {
    /// Its message is Linux's: gVisor's versions answer as if it were none.
    Linux,
    /// Its last four bytes, and this field that it states of them, are not decoded.
    Trailing(&'static str),
    /// The error comes on the request's own tag instead of 65535.
    OwnTag,
    /// Answered with this version instead of the error.
    Version(&'static str),
}

/// Every vector that differs, with what is different, and why.
const EXCEPTIONS: &[(&str, Exception, &str)] = &[
    (
        "Linux form: Tlock",
        Exception::Linux,
        "locks are served to Linux's client",
    ),
    (
        "Linux form: Tgetlock",
        Exception::Linux,
        "locks are served to Linux's client",
    ),
    (
        "Linux form: Tfsync with datasync (4 extra bytes are ignored)",
        Exception::Trailing("datasync"),
        "the original does not see datasync either, and always syncs all",
    ),
    (
        "bad: Tclunk with 4 trailing bytes",
        Exception::Trailing(""),
        "bytes behind the last field are no field",
    ),
    ("bad: Tclunk with 2-byte body", Exception::OwnTag, OWN_TAG),
    (
        "bad: Twrite count 5 but 3 data bytes",
        Exception::OwnTag,
        OWN_TAG,
    ),
    (
        "bad: Twrite count 3 but 5 data bytes",
        Exception::OwnTag,
        OWN_TAG,
    ),
    (
        "bad: Twrite body shorter than 16",
        Exception::OwnTag,
        OWN_TAG,
    ),
    (
        "bad: Twalk string runs past the frame",
        Exception::OwnTag,
        OWN_TAG,
    ),
    (
        "bad: Twalk claims 3 names, carries 1",
        Exception::OwnTag,
        OWN_TAG,
    ),
    ("bad: Tgetattr empty body", Exception::OwnTag, OWN_TAG),
    ("bad: Tversion empty body", Exception::OwnTag, OWN_TAG),
    (
        "bad: Tversion 9P2000.L.Google.14",
        Exception::Version("9P2000.L.Google.13"),
        "gVisor's client takes a lower version at once; EAGAIN costs it a round trip a version",
    ),
];

const OWN_TAG: &str = "a reply with tag 65535 fails every pending call of gVisor's client";

fn exception(name: &str) -> Option<Exception> {
    let row = EXCEPTIONS.iter().find(|(of, ..)| *of == name);
    row.map(|(_, exception, _)| *exception)
}

// ---- the vectors ----------------------------------------------------------------------------

const COUNT: usize = 151;

struct Vector {
    name: String,
    to_server: bool,
    fields: Map<String, Value>,
    bytes: Vec<u8>,
}

impl Vector {
    fn kind(&self) -> u8 {
        self.number("msg_type") as u8
    }

    fn number(&self, key: &str) -> u64 {
        let number = self.fields.get(key).and_then(Value::as_u64);
        number.unwrap_or_else(|| panic!("{}: no number {key}", self.name))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(|value| value.as_str().unwrap())
    }

    fn expect(&self) -> Option<&str> {
        self.text("expect")
    }

    /// Whether it is a datagram of a channel: type and a flag, but no size and no tag.
    fn is_datagram(&self) -> bool {
        self.fields.contains_key("transport")
    }

    fn body(&self) -> &[u8] {
        let header = if self.is_datagram() { 2 } else { HEADER_BYTES };
        &self.bytes[header..]
    }

    /// What decoding must come to.
    fn decodes_to(&self) -> Decodes {
        match self.expect() {
            Some("connection closed, no reply") => Decodes::NotRead,
            Some("Rlerror EIO on tag 65535") => Decodes::Malformed,
            Some("Rlerror ENOSYS, same tag") => Decodes::Reply,
            Some(expect) if expect.ends_with("Rlerror EIO, same tag") => Decodes::Unknown,
            _ => Decodes::Message,
        }
    }

    /// The fields stated of the message itself.
    fn stated(&self) -> Map<String, Value> {
        let of_frame = [
            "frame_size",
            "declared_size",
            "msg_type",
            "tag",
            "transport",
            "has_fd",
            "scm_rights_fds",
            "expect",
            "assembled",
            "encoder",
        ];
        let mut stated = self.fields.clone();
        stated.retain(|key, _| !of_frame.contains(&key.as_str()));
        stated
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decodes {
    Message,
    /// The number of a reply in a request's place.
    Reply,
    Malformed,
    Unknown,
    /// The frame is refused by its size field.
    NotRead,
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn vectors() -> Vec<Vector> {
    let all: Vec<Value> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    all.into_iter()
        .map(|vector| {
            let keys: Vec<_> = vector.as_object().unwrap().keys().cloned().collect();
            assert_eq!(keys, ["name", "direction", "fields", "hex"]);
            let direction = vector["direction"].as_str().unwrap();
            assert!(["T", "R"].contains(&direction));
            Vector {
                name: vector["name"].as_str().unwrap().into(),
                to_server: direction == "T",
                fields: vector["fields"].as_object().unwrap().clone(),
                bytes: hex(vector["hex"].as_str().unwrap()),
            }
        })
        .collect()
}

// ---- the library's types as the vectors write them ------------------------------------------

/// A decoded field under its name in the vectors.
trait Show {
    fn value(&self) -> Value;
    fn show(&self, name: &str, into: &mut Map<String, Value>) {
        into.insert(name.into(), self.value());
    }
}

macro_rules! numbers {
    ($($type:ty),*; $($wrapped:ty),*) => {
        $( impl Show for $type { fn value(&self) -> Value { json!(self) } } )*
        $( impl Show for $wrapped { fn value(&self) -> Value { json!(self.0) } } )*
    };
}
numbers!(u8, u16, u32, u64; Fid, Tag, Uid, Gid, Perm, GetMask, SetMask, QidType);

macro_rules! records {
    ($( $type:ident { $( $field:ident => $name:literal ),* } )*) => { $(
        impl Show for $type {
            fn value(&self) -> Value {
                let Self { $($field),* } = self;
                let mut into = Map::new();
                $( $field.show($name, &mut into); )*
                Value::Object(into)
            }
        }
    )* };
}

records! {
    Qid { kind => "type", version => "version", path => "path" }
    Attr {
        mode => "mode", uid => "uid", gid => "gid", nlink => "nlink", rdev => "rdev", size => "size",
        blksize => "blksize", blocks => "blocks", atime_sec => "atime_sec", atime_nsec => "atime_nsec",
        mtime_sec => "mtime_sec", mtime_nsec => "mtime_nsec", ctime_sec => "ctime_sec",
        ctime_nsec => "ctime_nsec", btime_sec => "btime_sec", btime_nsec => "btime_nsec",
        generation => "gen", data_version => "data_version"
    }
    SetAttr {
        perm => "mode", uid => "uid", gid => "gid", size => "size", atime_sec => "atime_sec",
        atime_nsec => "atime_nsec", mtime_sec => "mtime_sec", mtime_nsec => "mtime_nsec"
    }
    FullStat { qid => "qid", valid => "valid", attr => "attr" }
}

impl Show for Str<'_> {
    fn value(&self) -> Value {
        json!(std::str::from_utf8(self.0).unwrap_or("(bytes)"))
    }
}

impl<'a, T: Field<'a> + Show> Show for List<'a, T> {
    fn value(&self) -> Value {
        assert_eq!(self.len(), self.iter().count());
        self.iter().map(|item| item.value()).collect()
    }
}

impl Show for Data<'_> {
    fn value(&self) -> Value {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        json!(digits.collect::<String>())
    }
    /// The payload of Rreaddir is shown as its entries; a cut one at its end is told by their number.
    fn show(&self, name: &str, into: &mut Map<String, Value>) {
        into.insert("count".into(), json!(self.0.len()));
        if name != "entries" {
            into.insert(name.into(), self.value());
            return;
        }
        let (entries, whole) = entries(self.0);
        if whole {
            into.insert(name.into(), Value::Array(entries));
        } else {
            into.insert("complete_entries".into(), json!(entries.len()));
        }
    }
}

/// The entries of a directory, and whether the last one is whole.
fn entries(mut bytes: &[u8]) -> (Vec<Value>, bool) {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let mut from = Reader::new(bytes);
        let mut entry = Map::new();
        Qid::read(&mut from).show("qid", &mut entry);
        u64::read(&mut from).show("offset", &mut entry);
        u8::read(&mut from).show("type", &mut entry);
        Str::read(&mut from).show("name", &mut entry);
        bytes = from.remaining();
        if from.finish().is_err() {
            return (all, false);
        }
        all.push(Value::Object(entry));
    }
    (all, true)
}

impl Show for StatFs {
    fn value(&self) -> Value {
        Value::Null
    }
    /// Its fields stand among the message's.
    fn show(&self, _: &str, into: &mut Map<String, Value>) {
        let Self {
            kind,
            bsize,
            blocks,
            bfree,
            bavail,
            files,
            ffree,
            fsid,
            namelen,
        } = self;
        kind.show("fs_type", into);
        bsize.show("bsize", into);
        blocks.show("blocks", into);
        bfree.show("bfree", into);
        bavail.show("bavail", into);
        files.show("files", into);
        ffree.show("ffree", into);
        fsid.show("fsid", into);
        namelen.show("namelen", into);
    }
}

/// A decoded body.
struct Decoded {
    fields: Map<String, Value>,
    /// Encoded again.
    body: Vec<u8>,
    least: usize,
}

fn encoded<'a>(message: &impl Message<'a>) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 17];
    let mut out = Writer::new(&mut buffer);
    message.encode(&mut out);
    let bytes = out.written().expect("room");
    buffer.truncate(bytes);
    buffer
}

macro_rules! messages {
    ($( $message:ident { $( $field:ident => $name:literal ),* } )*) => {
        /// Decodes a body as message `kind`. `None`: the library has no such message.
        fn decode(kind: u8, body: &[u8]) -> Option<Result<Decoded, Malformed>> {
            $(
                if kind == <$message as Message>::KIND {
                    return Some(<$message as Message>::decode(body).map(|message| {
                        #[allow(unused_mut)]
                        let mut fields = Map::new();
                        let $message { $($field),* } = &message;
                        $( $field.show($name, &mut fields); )*
                        Decoded {
                            fields,
                            body: encoded(&message),
                            least: <$message as Message>::LEAST,
                        }
                    }));
                }
            )*
            None
        }
    };
}

messages! {
    Tstatfs { fid => "fid" }
    Tlopen { fid => "fid", flags => "flags" }
    Tlcreate { fid => "fid", name => "name", flags => "flags", perm => "mode", gid => "gid" }
    Tsymlink { dfid => "dfid", name => "name", target => "target", gid => "gid" }
    Tmknod { dfid => "dfid", name => "name", mode => "mode", major => "major", minor => "minor", gid => "gid" }
    Trename { fid => "fid", dfid => "dfid", name => "name" }
    Treadlink { fid => "fid" }
    Tgetattr { fid => "fid", mask => "mask" }
    Tsetattr { fid => "fid", valid => "valid", attr => "attr" }
    Tlistxattr { fid => "fid", size => "bufsize" }
    Txattrwalk { fid => "fid", newfid => "newfid", name => "name" }
    Txattrcreate { fid => "fid", name => "name", size => "attr_size", flags => "flags" }
    Tgetxattr { fid => "fid", name => "name", size => "bufsize" }
    Tsetxattr { fid => "fid", name => "name", value => "value", flags => "flags" }
    Tremovexattr { fid => "fid", name => "name" }
    Treaddir { fid => "fid", offset => "offset", count => "count" }
    Tfsync { fid => "fid" }
    Tlock {
        fid => "fid", kind => "lock_type", flags => "flags", start => "start", length => "length",
        proc_id => "proc_id", client_id => "client_id"
    }
    Tgetlock {
        fid => "fid", kind => "lock_type", start => "start", length => "length", proc_id => "proc_id",
        client_id => "client_id"
    }
    Tlink { dfid => "dfid", fid => "fid", name => "name" }
    Tmkdir { dfid => "dfid", name => "name", perm => "mode", gid => "gid" }
    Trenameat { olddirfid => "olddirfid", oldname => "oldname", newdirfid => "newdirfid", newname => "newname" }
    Tunlinkat { dfid => "dfid", name => "name", flags => "flags" }
    Tversion { msize => "msize", version => "version" }
    Tauth { afid => "afid", uname => "uname", aname => "aname", uid => "n_uname" }
    Tattach { fid => "fid", afid => "afid", uname => "uname", aname => "aname", uid => "n_uname" }
    Tflush { oldtag => "oldtag" }
    Twalk { fid => "fid", newfid => "newfid", names => "names" }
    Tread { fid => "fid", offset => "offset", count => "count" }
    Twrite { fid => "fid", offset => "offset", data => "data_hex" }
    Tclunk { fid => "fid" }
    Tremove { fid => "fid" }
    Tflushf { fid => "fid" }
    Twalkgetattr { fid => "fid", newfid => "newfid", names => "names" }
    Tucreate { fid => "fid", name => "name", flags => "flags", perm => "mode", gid => "gid", uid => "uid" }
    Tumkdir { dfid => "dfid", name => "name", perm => "mode", gid => "gid", uid => "uid" }
    Tumknod {
        dfid => "dfid", name => "name", mode => "mode", major => "major", minor => "minor", gid => "gid",
        uid => "uid"
    }
    Tusymlink { dfid => "dfid", name => "name", target => "target", gid => "gid", uid => "uid" }
    Tlconnect { fid => "fid", socktype => "socktype" }
    Tallocate { fid => "fid", mode => "mode", offset => "offset", length => "length" }
    Tsetattrclunk { fid => "fid", valid => "valid", attr => "attr" }
    Tmultigetattr { fid => "fid", names => "names" }
    Tbind {
        dfid => "dfid", socktype => "socktype", name => "name", uid => "uid", gid => "gid", newfid => "newfid"
    }
    Tchannel { id => "id", control => "control" }

    Rlerror { ecode => "ecode" }
    Rstatfs { statfs => "statfs" }
    Rlopen { qid => "qid", iounit => "iounit" }
    Rlcreate { qid => "qid", iounit => "iounit" }
    Rsymlink { qid => "qid" }
    Rmknod { qid => "qid" }
    Rrename {}
    Rreadlink { target => "target" }
    Rgetattr { valid => "valid", qid => "qid", attr => "attr" }
    Rsetattr {}
    Rlistxattr { names => "names" }
    Rxattrwalk { size => "attr_size" }
    Rxattrcreate {}
    Rgetxattr { value => "value" }
    Rsetxattr {}
    Rremovexattr {}
    Rreaddir { data => "entries" }
    Rfsync {}
    Rlock { status => "status" }
    Rgetlock {
        kind => "lock_type", start => "start", length => "length", proc_id => "proc_id", client_id => "client_id"
    }
    Rlink {}
    Rmkdir { qid => "qid" }
    Rrenameat {}
    Runlinkat {}
    Rversion { msize => "msize", version => "version" }
    Rauth { qid => "qid" }
    Rattach { qid => "qid" }
    Rflush {}
    Rwalk { qids => "qids" }
    Rread { data => "data_hex" }
    Rwrite { count => "count" }
    Rclunk {}
    Rremove {}
    Rflushf {}
    Rwalkgetattr { valid => "valid", attr => "attr", qids => "qids" }
    Rucreate { qid => "qid", iounit => "iounit" }
    Rumkdir { qid => "qid" }
    Rumknod { qid => "qid" }
    Rusymlink { qid => "qid" }
    Rlconnect {}
    Rallocate {}
    Rsetattrclunk {}
    Rmultigetattr { stats => "stats" }
    Rbind { qid => "qid", valid => "valid", attr => "attr" }
    Rchannel { offset => "offset", length => "length" }
}

// ---- decoding and encoding ------------------------------------------------------------------

#[test]
fn the_vectors_are_151_with_151_names_and_the_exceptions_are_among_them() {
    let all = vectors();
    assert_eq!(all.len(), COUNT);
    let names: BTreeSet<_> = all.iter().map(|vector| vector.name.as_str()).collect();
    assert_eq!(names.len(), COUNT);
    let excepted: BTreeSet<_> = EXCEPTIONS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(excepted.len(), EXCEPTIONS.len(), "a vector stands twice");
    assert!(excepted.is_subset(&names), "{excepted:?}");
}

#[test]
fn every_vector_decodes_to_its_fields_and_encodes_to_its_bytes() {
    let mut used = BTreeSet::new();
    for vector in &vectors() {
        let name = &vector.name;
        check_header(vector);
        match (vector.decodes_to(), decode(vector.kind(), vector.body())) {
            (Decodes::Message | Decodes::Reply, Some(Ok(decoded))) => {
                check_fields(vector, decoded.fields);
                check_bytes(vector, &decoded.body);
            }
            // What is sent of the frame is a header; decoding it shows the empty body only.
            (Decodes::NotRead, Some(_)) => assert!(vector.body().is_empty(), "{name}"),
            (Decodes::Malformed, Some(Err(Malformed))) => {}
            (Decodes::Unknown, Some(Ok(decoded))) if exception(name) == Some(Exception::Linux) => {
                check_fields(vector, decoded.fields);
                check_bytes(vector, &decoded.body);
            }
            (Decodes::Unknown, None) => {
                let stated = vector.stated();
                assert!(stated.is_empty(), "{name}: {stated:?}");
            }
            (wanted, got) => {
                let got = got.map(|got| got.map(|decoded| decoded.fields));
                panic!("{name}: wanted {wanted:?}, got {got:?}");
            }
        }
        assert!(used.insert(name.clone()));
    }
    assert_eq!(used.len(), COUNT);
}

fn check_header(vector: &Vector) {
    let name = &vector.name;
    let stated = &vector.fields;
    if let Some(frame_size) = stated.get("frame_size") {
        assert_eq!(frame_size, vector.bytes.len(), "{name}");
    }
    if vector.is_datagram() {
        let has_fd = u8::from(stated["has_fd"].as_bool().unwrap());
        assert_eq!(vector.bytes[..2], [vector.kind(), has_fd], "{name}");
        return;
    }
    let header = Header::decode(&vector.bytes).expect("7 bytes");
    let size = stated.get("declared_size").unwrap_or(&stated["frame_size"]);
    assert_eq!(*size, header.size, "{name}");
    assert_eq!(stated["msg_type"], header.kind, "{name}");
    assert_eq!(stated["tag"], header.tag.0, "{name}");
    assert_eq!(header.encode(), vector.bytes[..HEADER_BYTES], "{name}");
}

/// Every field stated is decoded, and every field decoded is stated; of frames made by hand, as many as are.
fn check_fields(vector: &Vector, mut decoded: Map<String, Value>) {
    let mut stated = vector.stated();
    if let Some(Exception::Trailing(field)) = exception(&vector.name)
        && !field.is_empty()
    {
        assert!(!decoded.contains_key(field), "{}", vector.name);
        assert!(stated.shift_remove(field).is_some(), "{}", vector.name);
    }
    if vector.fields.contains_key("assembled") {
        decoded.retain(|key, _| stated.contains_key(key));
    }
    decoded.sort_keys();
    stated.sort_keys();
    assert_eq!(decoded, stated, "{}", vector.name);
}

fn check_bytes(vector: &Vector, body: &[u8]) {
    let trailing = matches!(exception(&vector.name), Some(Exception::Trailing(_)));
    let ours = vector.body().len() - if trailing { 4 } else { 0 };
    assert_eq!(body, &vector.body()[..ours], "{}", vector.name);
}

#[test]
fn requests_decode_as_requests() {
    for vector in vectors().iter().filter(|vector| vector.to_server) {
        let (name, kind) = (&vector.name, vector.kind());
        let ours = match Request::decode(kind, vector.body()) {
            Ok(request) => {
                assert_eq!(request.kind(), kind, "{name}");
                Decodes::Message
            }
            Err(Undecodable::Malformed) => Decodes::Malformed,
            Err(Undecodable::Reply) => Decodes::Reply,
            Err(Undecodable::Unknown) => Decodes::Unknown,
        };
        match vector.decodes_to() {
            Decodes::NotRead => {}
            Decodes::Unknown if exception(name) == Some(Exception::Linux) => {
                assert_eq!(ours, Decodes::Message, "{name}");
            }
            wanted => assert_eq!(ours, wanted, "{name}"),
        }
    }
}

// ---- short and random bodies ----------------------------------------------------------------

#[test]
fn a_request_is_malformed_at_every_length_below_its_least() {
    for &(kind, name, least) in REQUESTS {
        let body = vec![0; least - HEADER_BYTES];
        let decoded = decode(kind, &body).unwrap_or_else(|| panic!("{name} is not in the table"));
        let decoded = decoded.unwrap_or_else(|Malformed| panic!("{name} of {least} bytes"));
        assert_eq!((decoded.least, &decoded.body), (least, &body), "{name}");
        for length in 0..body.len() {
            let short = decode(kind, &body[..length]).expect("a known number");
            assert!(short.is_err(), "{name} with a body of {length} bytes");
        }
    }
}

#[test]
fn a_message_of_the_vectors_is_malformed_at_every_shorter_length() {
    for vector in &vectors() {
        if vector.decodes_to() != Decodes::Message {
            continue;
        }
        let trailing = matches!(exception(&vector.name), Some(Exception::Trailing(_)));
        let whole = vector.body().len() - if trailing { 4 } else { 0 };
        for length in 0..whole {
            let short = decode(vector.kind(), &vector.body()[..length]).expect("a known number");
            assert!(short.is_err(), "{} cut to {length} bytes", vector.name);
        }
    }
}

#[test]
fn random_bodies_are_decoded_or_malformed_and_come_back_the_same() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut decoded_bodies = 0;
    for kind in 0..=u8::MAX {
        for round in 0..2_000 {
            let mut body = vec![0; random.below(96)];
            for byte in &mut body {
                // Small numbers as lengths and counts, so that many bodies are whole.
                *byte = if round % 4 == 0 || random.below(3) == 0 {
                    random.next() as u8
                } else {
                    random.below(3) as u8
                };
            }
            let known = decode(kind, &body);
            match Request::decode(kind, &body) {
                Ok(request) => assert_eq!(request.kind(), kind),
                Err(Undecodable::Malformed) => assert!(matches!(known, Some(Err(Malformed)))),
                Err(Undecodable::Reply | Undecodable::Unknown) => {}
            }
            let Some(Ok(first)) = known else {
                continue;
            };
            decoded_bodies += 1;
            assert!(first.body.len() <= body.len(), "type {kind}: {body:?}");
            let again = decode(kind, &first.body).expect("a known number");
            let again = again.unwrap_or_else(|Malformed| panic!("type {kind}: {body:?}"));
            assert_eq!(first.fields, again.fields, "type {kind}: {body:?}");
            assert_eq!(first.body, again.body, "type {kind}: {body:?}");
        }
    }
    assert!(decoded_bodies > 10_000, "only {decoded_bodies} were whole");
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }
}

// ---- played against the program -------------------------------------------------------------

/// A program of its own: version agreed, fid 0 on the root, and fid 2 open on a file.
fn prepared(tree: &Tree) -> harness::Session {
    tree.file("file", "content");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut session = harness::session_of(Launch::new(&tree.bundle(), 1));
    session.walk_to(harness::ROOT, 0, "").unwrap();
    session.open(0, 2, "file", p9::O_RDWR).unwrap();
    session
}

#[test]
fn every_vector_with_an_outcome_is_answered_so() {
    let all = vectors();
    let mut played = 0;
    let mut excepted = BTreeSet::new();
    for vector in &all {
        let Some(expect) = vector.expect() else {
            continue;
        };
        let name = vector.name.as_str();
        let tree = Tree::new();
        let mut session = prepared(&tree);
        if vector.fields.get("declared_size") == Some(&json!(4097)) {
            session.version(4096, b"9P2000.L.Google.7").unwrap();
        }
        session.send(&vector.bytes).unwrap();
        played += 1;
        if expect == "connection closed, no reply" {
            session.expect_closed();
            continue;
        }
        let reply = session.recv().unwrap();
        let (kind, tag) = (reply.kind, reply.tag);
        let wanted = match expect {
            "same as Tfsync" => {
                let plain = all.iter().find(|vector| vector.name == "Tfsync").unwrap();
                session.send(&plain.bytes).unwrap();
                let same = session.recv().unwrap();
                assert_eq!((kind, tag), (same.kind, same.tag), "{name}");
                assert_eq!((kind, &reply.body), (51, &same.body), "{name}");
                continue;
            }
            "accepted; trailing bytes ignored (here Rlerror EBADF, same tag)" => Errno::EBADF,
            "body discarded; Rlerror EIO, same tag"
            | "Rlerror EIO, same tag"
            | "Rlerror EIO on tag 65535" => Errno::EIO,
            "Rlerror ENOSYS, same tag" => Errno::ENOSYS,
            "Rlerror EINVAL, same tag" => Errno::EINVAL,
            "Rlerror EAGAIN, same tag" => Errno::EAGAIN,
            other => panic!("{name}: {other}"),
        };
        let says_notag = expect.ends_with("tag 65535");
        match exception(name) {
            Some(Exception::OwnTag) => {
                assert!(says_notag, "{name}: the exception is not needed");
                assert_eq!(u64::from(tag), vector.number("tag"), "{name}");
                assert_eq!(reply.errno(), wanted, "{name}");
                excepted.insert(name);
            }
            Some(Exception::Version(version)) => {
                assert_eq!(u64::from(tag), vector.number("tag"), "{name}");
                let answer = reply.answer::<p9::Rversion>(vector.kind(), tag).unwrap();
                assert_eq!(answer.version, version.as_bytes(), "{name}");
                excepted.insert(name);
            }
            _ => {
                let wanted_tag = if says_notag {
                    u64::from(p9::NOTAG)
                } else {
                    vector.number("tag")
                };
                assert_eq!(u64::from(tag), wanted_tag, "{name}");
                assert_eq!(reply.errno(), wanted, "{name}");
            }
        }
        // The connection goes on.
        session.getattr(2, 0).unwrap();
    }
    let with_outcome = |vector: &&Vector| vector.expect().is_some();
    assert_eq!(played, all.iter().filter(with_outcome).count());
    let of_replies =
        |exception: &Exception| matches!(exception, Exception::OwnTag | Exception::Version(_));
    let rows = EXCEPTIONS.iter().filter(|(_, row, _)| of_replies(row));
    assert_eq!(excepted, rows.map(|(name, ..)| *name).collect());
}
