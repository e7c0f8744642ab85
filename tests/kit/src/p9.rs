//! A 9P2000.L client of its own: frames as bytes, replies as structs, descriptors as they come.
//!
//! It shares no code with the server, so that a layout wrong in both cannot pass. The layouts stand
//! once, in [`requests!`] and [`replies!`]; from a row come the frame builder in [`t`], the method
//! of [`Client`] and the decoder.

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::fmt;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub const NOTAG: u16 = 0xffff;
pub const NOFID: u32 = 0xffff_ffff;
pub const NOID: u32 = 0xffff_ffff;
pub const RLERROR: u8 = 7;
/// What every Rgetattr and Rwalkgetattr says is valid.
pub const VALID: u64 = 0x6ff;
/// The largest frame.
pub const MSIZE: u32 = 1 << 20;

pub const QT_DIR: u8 = 0x80;
pub const QT_SPECIAL: u8 = 0x40;
pub const QT_LINK: u8 = 0x02;
pub const QT_FILE: u8 = 0;

pub const O_RDONLY: u32 = 0;
pub const O_WRONLY: u32 = 1;
pub const O_RDWR: u32 = 2;
pub const O_TRUNC: u32 = 0x200;

/// How long a receive may take: only so that a hang becomes a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer of the wanted kind.
#[derive(Debug)]
pub enum Fault {
    /// Rlerror.
    Errno(Errno),
    /// The server ended the connection at the edge of a frame.
    Closed,
    /// The answer breaks the protocol, or the socket failed.
    Broken(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Errno(errno) => write!(f, "{errno:?} ({})", errno.desc()),
            Fault::Closed => f.write_str("the server closed the connection"),
            Fault::Broken(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Fault {}

pub type Answer<T> = Result<T, Fault>;

fn broken<T>(why: impl Into<String>) -> Answer<T> {
    Err(Fault::Broken(why.into()))
}

/// Asserts that an answer is Rlerror with this errno.
#[track_caller]
pub fn refused<T: fmt::Debug>(answer: Answer<T>, errno: Errno) {
    match answer {
        Err(Fault::Errno(got)) if got == errno => {}
        other => panic!("wanted Rlerror {errno:?}, got {other:?}"),
    }
}

// ---- encoding -------------------------------------------------------------------------------

/// A field of a request.
pub trait Put {
    fn put(&self, out: &mut Vec<u8>);
}

/// A field of a reply.
pub trait Take: Sized {
    /// `None`: the body is too short.
    fn take(body: &mut Body<'_>) -> Option<Self>;
}

macro_rules! integers {
    ($($int:ty),*) => { $(
        impl Put for $int {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
        impl Take for $int {
            fn take(body: &mut Body<'_>) -> Option<Self> {
                let (head, rest) = body.bytes.split_first_chunk()?;
                body.bytes = rest;
                Some(Self::from_le_bytes(*head))
            }
        }
    )* };
}
integers!(u8, u16, u32, u64);

/// A string (a list of bytes) or a list of strings: u16 count, then the items.
impl<T: Put> Put for &[T] {
    fn put(&self, out: &mut Vec<u8>) {
        u16::try_from(self.len())
            .expect("a list of at most 65535")
            .put(out);
        for item in *self {
            item.put(out);
        }
    }
}

impl Put for Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_slice().put(out);
    }
}

impl<T: Put> Put for &T {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }
}

impl<T: Take> Take for Vec<T> {
    fn take(body: &mut Body<'_>) -> Option<Self> {
        let count = u16::take(body)?;
        (0..count).map(|_| T::take(body)).collect()
    }
}

/// The payload of Twrite and Rread: u32 count, then as many bytes, which end the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data<B>(pub B);

impl Put for Data<&[u8]> {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.0.len())
            .expect("a payload of at most 4 GiB")
            .put(out);
        out.extend_from_slice(self.0);
    }
}

impl Take for Data<Vec<u8>> {
    fn take(body: &mut Body<'_>) -> Option<Self> {
        let count = usize::try_from(u32::take(body)?).ok()?;
        let bytes = body.bytes.get(..count)?.to_vec();
        body.bytes = body.bytes.get(count..)?;
        Some(Data(bytes))
    }
}

/// The payload of Rreaddir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    pub list: Vec<Dirent>,
    /// The bytes the entries took.
    pub bytes: usize,
}

impl Take for Entries {
    fn take(body: &mut Body<'_>) -> Option<Self> {
        let data = Data::<Vec<u8>>::take(body)?.0;
        let mut inner = Body {
            bytes: &data,
            fd: None,
        };
        let mut list = Vec::new();
        while !inner.bytes.is_empty() {
            list.push(Dirent::take(&mut inner)?); // a torn entry fails the reply
        }
        Some(Entries {
            list,
            bytes: data.len(),
        })
    }
}

/// The descriptor that came with the frame, if any.
impl Take for Option<OwnedFd> {
    fn take(body: &mut Body<'_>) -> Option<Self> {
        Some(body.fd.take())
    }
}

/// What is left of a reply's body while it is decoded.
pub struct Body<'a> {
    bytes: &'a [u8],
    fd: Option<OwnedFd>,
}

/// `size[4] type[1] tag[2]` and the body.
pub fn frame(kind: u8, tag: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(7 + body.len());
    u32::try_from(7 + body.len())
        .expect("a frame of at most 4 GiB")
        .put(&mut out);
    kind.put(&mut out);
    tag.put(&mut out);
    out.extend_from_slice(body);
    out
}

// ---- the messages ---------------------------------------------------------------------------

macro_rules! replies {
    ($( $(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* } )*) => { $(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name { $(pub $field: $type),* }

        impl Take for $name {
            #[allow(unused_variables)]
            fn take(body: &mut Body<'_>) -> Option<Self> {
                Some($name { $($field: <$type as Take>::take(body)?),* })
            }
        }
    )* };
}

/// Fields in wire order, by name, with their types.
pub type Layout = &'static [(&'static str, &'static str)];

macro_rules! plain {
    ($( $(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* } )*) => { $(
        $(#[$doc])*
        #[derive(Debug, Default, Clone, PartialEq, Eq)]
        pub struct $name { $(pub $field: $type),* }

        impl $name {
            pub const LAYOUT: Layout = &[$((stringify!($field), stringify!($type))),*];
        }

        impl Take for $name {
            fn take(body: &mut Body<'_>) -> Option<Self> {
                Some($name { $($field: <$type as Take>::take(body)?),* })
            }
        }

        impl Put for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
        }
    )* };
}

plain! {
    Qid { kind: u8, version: u32, path: u64 }
    Attr {
        mode: u32, uid: u32, gid: u32, nlink: u64, rdev: u64, size: u64, blksize: u64, blocks: u64,
        atime: u64, atime_ns: u64, mtime: u64, mtime_ns: u64, ctime: u64, ctime_ns: u64,
        btime: u64, btime_ns: u64, generation: u64, data_version: u64
    }
    SetAttr {
        mode: u32, uid: u32, gid: u32, size: u64,
        atime: u64, atime_ns: u64, mtime: u64, mtime_ns: u64
    }
    Dirent { qid: Qid, offset: u64, kind: u8, name: Vec<u8> }
}

replies! {
    /// A reply without fields.
    Empty {}
    Rstatfs {
        kind: u32, bsize: u32, blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64,
        fsid: u64, namelen: u32
    }
    Ropen { qid: Qid, iounit: u32, fd: Option<OwnedFd> }
    Rqid { qid: Qid }
    Rreadlink { target: Vec<u8> }
    Rgetattr { valid: u64, qid: Qid, attr: Attr }
    Rnames { names: Vec<Vec<u8>> }
    Rsize { size: u64 }
    Rvalue { value: Vec<u8> }
    Rreaddir { entries: Entries }
    Rstatus { status: u8 }
    Rgetlock { kind: u8, start: u64, length: u64, proc_id: u32, client_id: Vec<u8> }
    Rversion { msize: u32, version: Vec<u8> }
    Rwalk { qids: Vec<Qid> }
    Rread { data: Data<Vec<u8>> }
    Rwrite { count: u32 }
    Rwalkgetattr { valid: u64, attr: Attr, qids: Vec<Qid> }
    Rconnect { fd: Option<OwnedFd> }
    Rfullstat { qid: Qid, valid: u64, attr: Attr }
    Rmultigetattr { stats: Vec<Rfullstat> }
    Rbind { qid: Qid, valid: u64, attr: Attr }
    Rchannel { offset: u64, length: u64, fd: Option<OwnedFd> }
}

macro_rules! requests {
    ($( $number:literal $name:ident $reply:ident ($($field:ident: $type:ty),*); )*) => {
        /// The requests as frames.
        pub mod t {
            use super::{Data, Put, SetAttr, frame};
            $(
                #[allow(clippy::too_many_arguments)]
                pub fn $name(tag: u16, $($field: $type),*) -> Vec<u8> {
                    let mut body = Vec::new();
                    $(Put::put(&$field, &mut body);)*
                    frame($number, tag, &body)
                }
            )*
        }

        /// Number, name and fields of every request.
        pub const REQUESTS: &[(u8, &str, Layout)] = &[
            $(($number, stringify!($name), &[$((stringify!($field), stringify!($type))),*])),*
        ];

        impl Frame {
            /// As [`Frame::answer`] to any request, for its type and length alone.
            pub fn answers(self, kind: u8, tag: u16) -> Answer<()> {
                match kind {
                    $($number => self.answer::<$reply>(kind, tag).map(drop),)*
                    _ => self.answer::<Empty>(kind, tag).map(drop),
                }
            }
        }

        /// Every request as a call: sent with a tag of its own, and its answer awaited.
        impl Client {
            $(
                #[allow(clippy::too_many_arguments)]
                pub fn $name(&mut self, $($field: $type),*) -> Answer<$reply> {
                    let tag = self.next_tag();
                    self.send(&t::$name(tag, $($field),*))?;
                    self.recv()?.answer($number, tag)
                }
            )*
        }
    };
}

requests! {
    8   statfs       Rstatfs       (fid: u32);
    12  lopen        Ropen         (fid: u32, flags: u32);
    14  lcreate      Ropen         (fid: u32, name: &[u8], flags: u32, mode: u32, gid: u32);
    16  symlink      Rqid          (dfid: u32, name: &[u8], target: &[u8], gid: u32);
    18  mknod        Rqid          (dfid: u32, name: &[u8], mode: u32, major: u32, minor: u32, gid: u32);
    20  rename       Empty         (fid: u32, dfid: u32, name: &[u8]);
    22  readlink     Rreadlink     (fid: u32);
    24  getattr      Rgetattr      (fid: u32, mask: u64);
    26  setattr      Empty         (fid: u32, valid: u32, attr: &SetAttr);
    28  listxattr    Rnames        (fid: u32, bufsize: u64);
    30  xattrwalk    Rsize         (fid: u32, newfid: u32, name: &[u8]);
    32  xattrcreate  Empty         (fid: u32, name: &[u8], attr_size: u64, flags: u32);
    34  getxattr     Rvalue        (fid: u32, name: &[u8], bufsize: u64);
    36  setxattr     Empty         (fid: u32, name: &[u8], value: &[u8], flags: u32);
    38  removexattr  Empty         (fid: u32, name: &[u8]);
    40  readdir      Rreaddir      (fid: u32, offset: u64, count: u32);
    50  fsync        Empty         (fid: u32, datasync: u32);
    52  lock         Rstatus       (fid: u32, kind: u8, flags: u32, start: u64, length: u64, proc_id: u32, client_id: &[u8]);
    54  getlock      Rgetlock      (fid: u32, kind: u8, start: u64, length: u64, proc_id: u32, client_id: &[u8]);
    70  link         Empty         (dfid: u32, fid: u32, name: &[u8]);
    72  mkdir        Rqid          (dfid: u32, name: &[u8], mode: u32, gid: u32);
    74  renameat     Empty         (olddirfid: u32, oldname: &[u8], newdirfid: u32, newname: &[u8]);
    76  unlinkat     Empty         (dfid: u32, name: &[u8], flags: u32);
    100 version      Rversion      (msize: u32, version: &[u8]);
    102 auth         Rqid          (afid: u32, uname: &[u8], aname: &[u8], n_uname: u32);
    104 attach       Rqid          (fid: u32, afid: u32, uname: &[u8], aname: &[u8], n_uname: u32);
    108 flush        Empty         (oldtag: u16);
    110 walk         Rwalk         (fid: u32, newfid: u32, names: &[&[u8]]);
    116 read         Rread         (fid: u32, offset: u64, count: u32);
    118 write        Rwrite        (fid: u32, offset: u64, data: Data<&[u8]>);
    120 clunk        Empty         (fid: u32);
    122 remove       Empty         (fid: u32);
    124 flushf       Empty         (fid: u32);
    126 walkgetattr  Rwalkgetattr  (fid: u32, newfid: u32, names: &[&[u8]]);
    128 ucreate      Ropen         (fid: u32, name: &[u8], flags: u32, mode: u32, gid: u32, uid: u32);
    130 umkdir       Rqid          (dfid: u32, name: &[u8], mode: u32, gid: u32, uid: u32);
    132 umknod       Rqid          (dfid: u32, name: &[u8], mode: u32, major: u32, minor: u32, gid: u32, uid: u32);
    134 usymlink     Rqid          (dfid: u32, name: &[u8], target: &[u8], gid: u32, uid: u32);
    136 lconnect     Rconnect      (fid: u32, socktype: u32);
    138 allocate     Empty         (fid: u32, mode: u32, offset: u64, length: u64);
    140 setattrclunk Empty         (fid: u32, valid: u32, attr: &SetAttr);
    142 multigetattr Rmultigetattr (fid: u32, names: &[&[u8]]);
    144 bind         Rbind         (dfid: u32, socktype: u32, name: &[u8], uid: u32, gid: u32, newfid: u32);
    250 channel      Rchannel      (id: u32, control: u32);
}

// ---- frames received ------------------------------------------------------------------------

/// One frame as it came, with the descriptor that came with its first byte.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub tag: u16,
    pub body: Vec<u8>,
    pub fd: Option<OwnedFd>,
}

impl Frame {
    /// The next frame of bytes among which no descriptors come.
    pub fn read(from: &mut impl Read) -> Answer<Frame> {
        let mut header = [0; 7];
        fill(from, &mut header)?;
        Frame::behind(header, None, from)
    }

    fn behind(header: [u8; 7], fd: Option<OwnedFd>, from: &mut impl Read) -> Answer<Frame> {
        let [s0, s1, s2, s3, kind, t0, t1] = header;
        let size = u32::from_le_bytes([s0, s1, s2, s3]);
        if !(7..=MSIZE).contains(&size) {
            return broken(format!("a frame that says it has {size} bytes"));
        }
        let mut body = vec![0; usize::try_from(size - 7).unwrap_or_default()];
        fill(from, &mut body)?;
        Ok(Frame {
            kind,
            tag: u16::from_le_bytes([t0, t1]),
            body,
            fd,
        })
    }

    /// The frame as the reply to the request `kind` sent with `tag`, decoded to its last byte.
    pub fn answer<T: Take>(self, kind: u8, tag: u16) -> Answer<T> {
        if self.tag != tag {
            return broken(format!(
                "tag {} instead of {tag} on a reply of type {}",
                self.tag, self.kind
            ));
        }
        let wanted = if self.kind == RLERROR {
            RLERROR
        } else {
            kind + 1
        };
        if self.kind != wanted {
            return broken(format!(
                "a reply of type {} to a request of type {kind}",
                self.kind
            ));
        }
        let length = self.body.len();
        let mut body = Body {
            bytes: &self.body,
            fd: self.fd,
        };
        let short = || {
            Fault::Broken(format!(
                "a body of {length} bytes is too short for type {wanted}"
            ))
        };
        let result = if wanted == RLERROR {
            let code = u32::take(&mut body).ok_or_else(short)?;
            match i32::try_from(code).map(Errno::from_raw) {
                Ok(errno) if errno != Errno::UnknownErrno => Err(Fault::Errno(errno)),
                _ => broken(format!("Rlerror with {code}, which is no errno")),
            }
        } else {
            Ok(T::take(&mut body).ok_or_else(short)?)
        };
        if !body.bytes.is_empty() {
            return broken(format!(
                "{} bytes too many in a reply of type {wanted}",
                body.bytes.len()
            ));
        }
        if body.fd.is_some() {
            return broken(format!("a descriptor came with a reply of type {wanted}"));
        }
        result
    }

    /// The errno of an Rlerror.
    #[track_caller]
    pub fn errno(self) -> Errno {
        let (kind, tag) = (self.kind, self.tag);
        match self.answer::<Empty>(0xfe, tag) {
            Err(Fault::Errno(errno)) => errno,
            _ => panic!("wanted Rlerror, got type {kind}"),
        }
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Answer<()> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(()),
        Err(error) => broken(format!("in mid-frame: {error}")),
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    pub socket: UnixStream,
    tag: u16,
}

impl Client {
    pub fn new(socket: UnixStream) -> Client {
        socket.set_nonblocking(false).expect("a socket of ours");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket of ours");
        socket
            .set_write_timeout(Some(PATIENCE))
            .expect("a socket of ours");
        Client { socket, tag: 0 }
    }

    /// Tags go 1, 2, … and never are NOTAG.
    pub fn next_tag(&mut self) -> u16 {
        self.tag = if self.tag == NOTAG - 1 {
            1
        } else {
            self.tag + 1
        };
        self.tag
    }

    /// Sends bytes as they are.
    pub fn send(&self, bytes: &[u8]) -> Answer<()> {
        match (&self.socket).write_all(bytes) {
            Ok(()) => Ok(()),
            Err(error) => broken(format!("send: {error}")),
        }
    }

    /// Sends bytes with descriptors at their first byte.
    pub fn send_with(&self, bytes: &[u8], fds: &[RawFd]) -> Answer<()> {
        let rights = [ControlMessage::ScmRights(fds)];
        let sent = sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Ok(sent) => self.send(bytes.get(sent..).unwrap_or_default()),
            Err(Errno::EPERM) => self.send(bytes), // refused: SO_PASSRIGHTS, Linux 6.16
            Err(errno) => broken(format!("sendmsg: {errno:?}")),
        }
    }

    /// The next frame, received as the sandbox's client does: a first call for the 7 header bytes
    /// with room for one descriptor; what follows is read without room for any.
    pub fn recv(&self) -> Answer<Frame> {
        let mut header = [0u8; 7];
        let (got, fd) = self.recv_first(&mut header)?;
        if got == 0 {
            return Err(Fault::Closed);
        }
        fill(&mut &self.socket, &mut header[got..])?;
        Frame::behind(header, fd, &mut &self.socket)
    }

    fn recv_first(&self, header: &mut [u8]) -> Answer<(usize, Option<OwnedFd>)> {
        let mut space = nix::cmsg_space!(RawFd);
        let mut iov = [IoSliceMut::new(header)];
        let message = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut iov, Some(&mut space), flags) {
                Ok(message) => break message,
                Err(Errno::EINTR) => {}
                // The server closed with requests of ours unread.
                Err(Errno::ECONNRESET) => return Err(Fault::Closed),
                Err(Errno::EAGAIN) => return broken("no reply in 20 s"),
                Err(errno) => return broken(format!("recvmsg: {errno:?}")),
            }
        };
        let mut fds = Vec::new();
        for control in message
            .cmsgs()
            .map_err(|_| Fault::Broken("control data cut".into()))?
        {
            if let ControlMessageOwned::ScmRights(raw) = control {
                for fd in raw {
                    // SAFETY: the kernel made this descriptor for us in the call above; nothing else owns it.
                    #[allow(unsafe_code)]
                    fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
        if message.flags.contains(MsgFlags::MSG_CTRUNC) || fds.len() > 1 {
            return broken("more than one descriptor with a frame");
        }
        Ok((message.bytes, fds.pop()))
    }

    /// Sends a frame made of a type and any body, and returns what comes.
    pub fn raw(&mut self, kind: u8, body: &[u8]) -> Answer<Frame> {
        let tag = self.next_tag();
        self.send(&frame(kind, tag, body))?;
        let reply = self.recv()?;
        if reply.tag != tag {
            return broken(format!("tag {} instead of {tag}", reply.tag));
        }
        Ok(reply)
    }

    /// Asserts that the server has ended this connection and sent nothing more.
    #[track_caller]
    pub fn expect_closed(&self) {
        match self.recv() {
            Err(Fault::Closed) => {}
            other => panic!("wanted the end of the connection, got {other:?}"),
        }
    }

    // ---- what tests do all the time ----

    /// Tversion as a Google client, then Tattach of the root as `fid`.
    pub fn hello(&mut self, fid: u32) -> Answer<Qid> {
        self.version(MSIZE, b"9P2000.L.Google.7")?;
        self.attach_root(fid)
    }

    /// Tattach as the sandbox's client sends it.
    pub fn attach_root(&mut self, fid: u32) -> Answer<Qid> {
        Ok(self.attach(fid, NOFID, b"", b"/", NOID)?.qid)
    }

    /// Twalk along a path with slashes; an empty one clones.
    pub fn walk_to(&mut self, fid: u32, newfid: u32, path: &str) -> Answer<Vec<Qid>> {
        Ok(self.walk(fid, newfid, &split(path))?.qids)
    }

    /// Twalk along a path, then Tlopen.
    pub fn open(&mut self, fid: u32, newfid: u32, path: &str, flags: u32) -> Answer<Ropen> {
        self.walk_to(fid, newfid, path)?;
        self.lopen(newfid, flags)
    }

    /// Every entry of an opened directory, read `count` bytes at a time.
    pub fn list(&mut self, fid: u32, count: u32) -> Answer<Vec<Dirent>> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let entries = self.readdir(fid, offset, count)?.entries;
            match entries.list.last() {
                Some(last) => offset = last.offset,
                None => return Ok(all),
            }
            all.extend(entries.list);
        }
    }

    /// The content of an opened file.
    pub fn read_all(&mut self, fid: u32) -> Answer<Vec<u8>> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let data = self.read(fid, offset, MSIZE - 11)?.data.0;
            if data.is_empty() {
                return Ok(all);
            }
            offset += u64::try_from(data.len()).unwrap_or_default();
            all.extend(data);
        }
    }
}

/// The parts of a path.
pub fn split(path: &str) -> Vec<&[u8]> {
    path.split('/')
        .filter(|part| !part.is_empty())
        .map(str::as_bytes)
        .collect()
}
