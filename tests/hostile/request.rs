//! Requests as values: any field of any message may be set to anything.

use crate::p9::{
    Client, Data, Fault, Frame, Layout, MSIZE, NOFID, NOID, Put, REQUESTS, SetAttr, frame, t,
};
use nix::errno::Errno;
use std::io::BufReader;

/// A field's value, by its type on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
    Data(Vec<u8>),
}

impl Put for Value {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(number) => number.put(out),
            Value::U16(number) => number.put(out),
            Value::U32(number) => number.put(out),
            Value::U64(number) => number.put(out),
            Value::Text(bytes) => bytes.put(out),
            Value::List(names) => names.as_slice().put(out),
            Value::Data(bytes) => Data(bytes.as_slice()).put(out),
        }
    }
}

/// The fids that [`Request::good`] asks about, which [`stage`] makes.
pub const BASE: u32 = 0x0123_4567;
pub const DIR: u32 = BASE + 1;
pub const FILE: u32 = BASE + 2;
pub const OPEN: u32 = BASE + 3;
pub const LIST: u32 = BASE + 4;
pub const LINK: u32 = BASE + 5;
pub const NEW: u32 = BASE + 6;
/// Names that there are in `DIR`, and in `BASE` for the link.
pub const INSIDE: &[u8] = b"in";

/// A message with its fields.
#[derive(Debug, Clone)]
pub struct Request {
    pub kind: u8,
    pub message: &'static str,
    pub fields: Vec<(&'static str, Value)>,
}

impl Request {
    /// Every message, with values for which it is served on what [`stage`] makes, or refused for its own sake.
    pub fn good() -> Vec<Request> {
        let fields = |message: &str, layout: Layout| {
            let flat = layout.iter().flat_map(|field| match field.1 {
                "&SetAttr" => SetAttr::LAYOUT,
                _ => std::slice::from_ref(field),
            });
            flat.map(|(field, kind)| (*field, good_value(message, field, kind)))
                .collect()
        };
        REQUESTS
            .iter()
            .map(|&(kind, message, layout)| Request {
                kind,
                message,
                fields: fields(message, layout),
            })
            .collect()
    }

    pub fn get(&self, field: &str) -> &Value {
        let found = self.fields.iter().find(|(name, _)| *name == field);
        &found.expect("a field of the message").1
    }

    #[must_use]
    pub fn with(&self, field: &str, value: Value) -> Request {
        let mut changed = self.clone();
        let found = changed.fields.iter_mut().find(|(name, _)| *name == field);
        found.expect("a field of the message").1 = value;
        changed
    }

    pub fn frame(&self, tag: u16) -> Vec<u8> {
        let mut body = Vec::new();
        for (_, value) in &self.fields {
            value.put(&mut body);
        }
        frame(self.kind, tag, &body)
    }

    /// Where in the frame a field starts.
    pub fn at(&self, field: &str) -> usize {
        let mut before = Vec::new();
        for (_, value) in self.fields.iter().take_while(|(name, _)| *name != field) {
            value.put(&mut before);
        }
        7 + before.len()
    }

    /// Whether a field is a fid that must be there.
    pub fn takes_fid(&self, field: &str) -> bool {
        matches!(field, "fid" | "dfid" | "olddirfid" | "newdirfid") && self.message != "attach"
    }

    /// Whether it is EIO to gVisor however good it is: Linux's own, and attaching again.
    pub fn is_linux_alone(&self) -> bool {
        matches!(self.message, "lock" | "getlock" | "attach")
    }

    /// In one line, long values cut.
    pub fn told(&self) -> String {
        let mut text = format!("T{}", self.message);
        for (name, value) in &self.fields {
            let value = format!("{value:?}");
            let end = value.len().min(60);
            text += &format!(" {name} {}", value.get(..end).unwrap_or_default());
        }
        text
    }
}

fn good_value(message: &str, field: &str, kind: &str) -> Value {
    match kind {
        "u8" => Value::U8(0),
        "u16" => Value::U16(0),
        "u32" => Value::U32(good_number(message, field)),
        "u64" => Value::U64(match field {
            "mask" => 0x7ff,
            "length" => 1,
            "attr_size" => 4,
            _ => 0,
        }),
        "&[u8]" => Value::Text(match (message, field) {
            ("version", _) => b"9P2000.L.Google.13".to_vec(),
            (_, "uname") => Vec::new(),
            (_, "aname") => b"/".to_vec(),
            (_, "client_id") => b"host".to_vec(),
            ("xattrwalk", "name") => Vec::new(),
            ("getxattr" | "setxattr" | "removexattr" | "xattrcreate", "name") => b"user.a".to_vec(),
            (_, "value") => b"value".to_vec(),
            (_, "target") => b"in".to_vec(),
            ("unlinkat", "name") | (_, "oldname") => INSIDE.to_vec(),
            _ => b"new".to_vec(),
        }),
        "&[&[u8]]" => Value::List(vec![INSIDE.to_vec()]),
        "Data<&[u8]>" => Value::Data(b"data".to_vec()),
        other => panic!("a field of type {other}"),
    }
}

fn good_number(message: &str, field: &str) -> u32 {
    match (message, field) {
        (_, "afid") => NOFID,
        (_, "newfid") | ("attach", "fid") => NEW,
        ("read" | "write" | "fsync" | "allocate" | "lock" | "getlock", "fid") => OPEN,
        ("readdir", "fid") => LIST,
        ("readlink", "fid") => LINK,
        ("lcreate" | "ucreate" | "walk" | "walkgetattr" | "multigetattr", "fid") => DIR,
        (_, "dfid" | "olddirfid" | "newdirfid") => DIR,
        (_, "fid") => FILE,
        (_, "uid" | "gid" | "n_uname") => NOID,
        ("mknod" | "umknod", "mode") => 0o100_600,
        ("allocate", "mode") => 0,
        ("setattr" | "setattrclunk", "valid") => 1,
        (_, "mode") => 0o600,
        (_, "count") => 4096,
        (_, "msize") => MSIZE,
        (_, "proc_id") => 1,
        _ => 0,
    }
}

// ---- asking ---------------------------------------------------------------------------------

/// Sends a request; its answer, which must be whole, of its type or Rlerror, and on its tag.
pub fn ask(client: &mut Client, request: &Request) -> Result<Result<(), Errno>, Fault> {
    let tag = client.next_tag();
    client.send(&request.frame(tag))?;
    heard(client, request.kind, tag)
}

/// The answer to a request sent with `tag`.
pub fn heard(client: &Client, kind: u8, tag: u16) -> Result<Result<(), Errno>, Fault> {
    judged(client.recv()?, kind, tag)
}

/// The answers to requests sent, received in large pieces: no descriptor comes with any.
pub fn heard_all(client: &Client, requests: &[Vec<u8>]) -> Vec<Result<(), Errno>> {
    let mut reader = BufReader::with_capacity(1 << 16, &client.socket);
    let answers = requests.iter().map(|request| {
        let reply = Frame::read(&mut reader).expect("an answer");
        let tag = u16::from_le_bytes([request[5], request[6]]);
        judged(reply, request[4], tag).expect("an answer")
    });
    let answers = answers.collect();
    assert_eq!(reader.buffer(), b"", "answers to nothing");
    answers
}

fn judged(reply: Frame, kind: u8, tag: u16) -> Result<Result<(), Errno>, Fault> {
    // Few bodies have the letter: most are not looked through.
    if reply.body.contains(&b'C') && reply.body.windows(6).any(|bytes| bytes == b"CANARY") {
        return Err(Fault::Broken("what lies outside was read".into()));
    }
    match reply.answers(kind, tag) {
        Ok(()) => Ok(Ok(())),
        Err(Fault::Errno(errno)) => Ok(Err(errno)),
        Err(other) => Err(other),
    }
}

/// Sends requests in one write; the errno of each, or that it was served.
pub fn batch(client: &mut Client, requests: &[Vec<u8>]) -> Vec<Result<(), Errno>> {
    client.send(&requests.concat()).expect("send a batch");
    requests
        .iter()
        .map(|request| {
            let tag = u16::from_le_bytes([request[5], request[6]]);
            heard(client, request[4], tag).expect("an answer")
        })
        .collect()
}

/// What makes `DIR`, `FILE`, `OPEN`, `LIST` and `LINK` below the fid `from`, anew where they were used up.
pub fn stage(from: u32, flags: u32) -> [Vec<u8>; 7] {
    [
        t::walk(1, from, DIR, &[b"d"]),
        t::walk(1, from, FILE, &[b"d", INSIDE]),
        t::walk(1, from, OPEN, &[b"d", INSIDE]),
        t::lopen(1, OPEN, flags),
        t::walk(1, from, LIST, &[b"d"]),
        t::lopen(1, LIST, 0),
        t::walk(1, from, LINK, &[b"l"]),
    ]
}

/// What makes the files that [`stage`] walks to in the directory of the fid `from`.
pub fn furnish(from: u32) -> [Vec<u8>; 5] {
    [
        t::mkdir(1, from, b"d", 0o755, NOID),
        t::walk(1, from, NEW, &[b"d"]),
        t::mknod(1, NEW, INSIDE, 0o100_644, 0, 0, NOID),
        t::symlink(1, from, b"l", b"../../secrets", NOID),
        t::clunk(1, NEW),
    ]
}
