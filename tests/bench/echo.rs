//! The limit: a server that answers fixed bytes of the right size and makes the system calls that a request
//! cannot be answered without. It checks nothing and confines nothing; what a real server takes more than
//! this is its own.

use gofer::sys::raw::ppoll;
use linux_raw_sys::general::{POLLIN, pollfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RawDir, SeekFrom, fstat, mkdirat, openat, renameat, seek, statat,
    unlinkat,
};
use rustix::io::{Errno, pread, pwrite};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::ffi::CStr;
use std::mem::MaybeUninit;

/// One frame of the largest size, and as many small ones as are ever in flight.
const INPUT_BYTES: usize = (1 << 20) + (64 << 10);
const OUTPUT_BYTES: usize = INPUT_BYTES;
/// Bytes that one getdents64(2) fills, as those of the gofer.
const DIRENT_BYTES: usize = 32 << 10;

/// What a fid stands for: descriptors that its clunk closes.
#[derive(Default)]
struct Held {
    walked: Vec<OwnedFd>,
    /// Of a clone: the fid that it is one of.
    of: Option<u32>,
    open: Option<OwnedFd>,
    /// Of a directory: the replies to its readings from the start, and which is next.
    listing: Vec<Vec<u8>>,
    next: usize,
}

struct Echo {
    root: OwnedFd,
    proc_fd: OwnedFd,
    fids: Vec<Held>,
    output: Vec<u8>,
    filled: usize,
}

/// Serves until the first socket is at its end. With one it waits in recv(2), with more in ppoll(2).
pub fn serve(root: &str, sockets: &[OwnedFd]) -> Result<(), Errno> {
    let path = |path: &str| openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
    let mut echo = Echo {
        root: path(root)?,
        proc_fd: path("/proc/self/fd")?,
        fids: Vec::new(),
        output: vec![0; OUTPUT_BYTES],
        filled: 0,
    };
    let mut inputs: Vec<(Vec<u8>, usize)> =
        sockets.iter().map(|_| (vec![0; INPUT_BYTES], 0)).collect();
    let mut polled: Vec<pollfd> = sockets
        .iter()
        .map(|socket| pollfd {
            fd: socket.as_raw_fd(),
            events: i16::try_from(POLLIN).unwrap_or_default(),
            revents: 0,
        })
        .collect();
    loop {
        if sockets.len() > 1 {
            ppoll(&mut polled, -1)?;
        }
        for (at, socket) in sockets.iter().enumerate() {
            if sockets.len() > 1 && polled[at].revents == 0 {
                continue;
            }
            let (input, held) = &mut inputs[at];
            let (count, _) = recv(socket, &mut input[*held..], RecvFlags::empty())?;
            if count == 0 {
                return Ok(());
            }
            let end = *held + count;
            let served = echo.serve_frames(&input[..end])?;
            if served < end && served > 0 {
                input.copy_within(served..end, 0);
            }
            *held = end - served;
            echo.flush(socket)?;
        }
    }
}

impl Echo {
    /// Answers whole frames; how many bytes they had.
    fn serve_frames(&mut self, input: &[u8]) -> Result<usize, Errno> {
        let mut at = 0;
        while let Some(header) = input.get(at..at + 7) {
            let size = number(header, 0) as usize;
            let Some(frame) = input.get(at..at + size) else {
                break;
            };
            self.answer(frame)?;
            at += size;
        }
        Ok(at)
    }

    /// The bytes of a reply behind its header; they stay what they were, but for those of a file.
    fn reply(&mut self, frame: &[u8], body: usize) {
        let size = 7 + body;
        let header = &mut self.output[self.filled..self.filled + 7];
        header[..4].copy_from_slice(&u32::try_from(size).unwrap_or_default().to_le_bytes());
        header[4] = frame[4] + 1;
        header[5..].copy_from_slice(&frame[5..7]);
        self.filled += size;
    }

    fn held(&mut self, fid: u32) -> &mut Held {
        let fid = fid as usize;
        if self.fids.len() <= fid {
            self.fids.resize_with(fid + 1, Held::default);
        }
        &mut self.fids[fid]
    }

    /// Where a fid was walked to.
    fn at(&self, fid: u32) -> BorrowedFd<'_> {
        let Some(held) = self.fids.get(fid as usize) else {
            return self.root.as_fd();
        };
        match (held.walked.last(), held.of) {
            (Some(fd), _) => fd.as_fd(),
            (None, Some(of)) => self.at(of),
            (None, None) => self.root.as_fd(),
        }
    }

    fn opened(&self, fid: u32) -> Result<BorrowedFd<'_>, Errno> {
        let held = self.fids.get(fid as usize);
        Ok(held
            .and_then(|held| held.open.as_ref())
            .ok_or(Errno::BADF)?
            .as_fd())
    }

    fn answer(&mut self, frame: &[u8]) -> Result<(), Errno> {
        let fid = if frame.len() >= 11 {
            number(frame, 7)
        } else {
            0
        };
        let mut buffer = [0; 256];
        let body = match frame[4] {
            // Tversion: the same again; the size granted is the one asked for.
            100 => {
                let at = self.filled + 7;
                let body = &frame[7..];
                self.output[at..at + body.len()].copy_from_slice(body);
                body.len()
            }
            104 => 13, // Tattach
            24 => {
                fstat(self.at(fid))?;
                153
            }
            walk @ (110 | 126) => {
                let count = usize::from(u16::from_le_bytes([frame[15], frame[16]]));
                let mut walked = core::mem::take(&mut self.held(number(frame, 11)).walked);
                let mut at = 17;
                for step in 0..count {
                    let name = name(frame, at, &mut buffer);
                    at += 2 + name.to_bytes().len();
                    let parent = if step == 0 {
                        self.at(fid)
                    } else {
                        walked[step - 1].as_fd()
                    };
                    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let fd = openat(parent, name, flags, Mode::empty())?;
                    fstat(&fd)?;
                    walked.push(fd);
                }
                let new = self.held(number(frame, 11));
                new.walked = walked;
                new.of = (count == 0).then_some(fid);
                13 * count + if walk == 110 { 2 } else { 8 + 132 + 2 }
            }
            12 => {
                let decimal = self.at(fid).as_raw_fd().to_string();
                let flags = OFlags::from_bits_retain(number(frame, 11) & 3) | OFlags::CLOEXEC;
                let fd = openat(&self.proc_fd, decimal.as_str(), flags, Mode::empty())?;
                self.held(fid).open = Some(fd);
                17
            }
            120 => {
                let held = self.held(fid);
                held.walked.clear();
                held.open = None;
                0
            }
            116 => {
                let count = number(frame, 19) as usize;
                let at = self.filled + 11;
                let mut output = core::mem::take(&mut self.output);
                let done = pread(
                    self.opened(fid)?,
                    &mut output[at..at + count],
                    offset(frame),
                )?;
                output[at - 4..at]
                    .copy_from_slice(&u32::try_from(done).unwrap_or_default().to_le_bytes());
                self.output = output;
                4 + done
            }
            118 => {
                pwrite(self.opened(fid)?, &frame[23..], offset(frame))?;
                4
            }
            14 => {
                let name = name(frame, 11, &mut buffer);
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let fd = openat(self.at(fid), name, flags, Mode::from_raw_mode(0o644))?;
                fstat(&fd)?;
                self.held(fid).open = Some(fd);
                17
            }
            76 => {
                let name = name(frame, 11, &mut buffer);
                let flags = AtFlags::from_bits_retain(number(frame, frame.len() - 4));
                unlinkat(self.at(fid), name, flags)?;
                0
            }
            72 => {
                let name = name(frame, 11, &mut buffer);
                mkdirat(self.at(fid), name, Mode::from_raw_mode(0o755))?;
                statat(self.at(fid), name, AtFlags::SYMLINK_NOFOLLOW)?;
                13
            }
            74 => {
                let mut other = [0; 256];
                let from = name(frame, 11, &mut buffer);
                let behind = 13 + from.to_bytes().len();
                let to = name(frame, behind + 4, &mut other);
                renameat(self.at(fid), from, self.at(number(frame, behind)), to)?;
                0
            }
            40 => self.list(fid, offset(frame))?,
            _ => return Err(Errno::OPNOTSUPP),
        };
        self.reply(frame, body);
        Ok(())
    }

    /// One getdents64(2), and the reply that was made of what it gave before.
    fn list(&mut self, fid: u32, offset: u64) -> Result<usize, Errno> {
        if self.held(fid).listing.is_empty() {
            self.held(fid).listing = listing(self.opened(fid)?)?;
        }
        let mut buffer = [const { MaybeUninit::uninit() }; DIRENT_BYTES];
        if offset == 0 {
            seek(self.opened(fid)?, SeekFrom::Start(0))?;
            self.held(fid).next = 0;
        }
        if let Some(entry) = RawDir::new(self.opened(fid)?, &mut buffer).next() {
            entry?;
        }
        let held = &mut self.fids[fid as usize];
        let bytes: &[u8] = held.listing.get(held.next).map_or(&[], |reply| reply);
        held.next += 1;
        let at = self.filled + 7;
        self.output[at..at + 4]
            .copy_from_slice(&u32::try_from(bytes.len()).unwrap_or_default().to_le_bytes());
        self.output[at + 4..at + 4 + bytes.len()].copy_from_slice(bytes);
        Ok(4 + bytes.len())
    }

    fn flush(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        let mut sent = 0;
        while sent < self.filled {
            sent += send(socket, &self.output[sent..self.filled], SendFlags::NOSIGNAL)?;
        }
        self.filled = 0;
        Ok(())
    }
}

/// The entries of a directory on the wire, as many to a reply as one getdents64(2) gives.
fn listing(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut replies = vec![Vec::new()];
    let mut buffer = [const { MaybeUninit::uninit() }; DIRENT_BYTES];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let length = u16::try_from(name.len()).unwrap_or_default();
        let reply = replies.last_mut().expect("there is always one");
        reply.extend([0; 5]); // type and version of the qid
        reply.extend(entry.ino().to_le_bytes());
        reply.extend(entry.next_entry_cookie().to_le_bytes());
        reply.push(0);
        reply.extend(length.to_le_bytes());
        reply.extend(name);
        if entries.is_buffer_empty() {
            replies.push(Vec::new());
        }
    }
    Ok(replies)
}

fn number(frame: &[u8], at: usize) -> u32 {
    let bytes = frame[at..at + 4].try_into();
    u32::from_le_bytes(bytes.expect("four bytes"))
}

/// Of Tread, Twrite and Treaddir.
fn offset(frame: &[u8]) -> u64 {
    let bytes = frame[11..19].try_into();
    u64::from_le_bytes(bytes.expect("eight bytes"))
}

/// A string of a frame, with a NUL behind it.
fn name<'b>(frame: &[u8], at: usize, buffer: &'b mut [u8; 256]) -> &'b CStr {
    let length = usize::from(u16::from_le_bytes([frame[at], frame[at + 1]]));
    buffer[..length].copy_from_slice(&frame[at + 2..at + 2 + length]);
    buffer[length] = 0;
    CStr::from_bytes_with_nul(&buffer[..=length]).expect("a name without NUL")
}
