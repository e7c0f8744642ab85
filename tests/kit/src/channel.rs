//! A client of shared-memory channels, as the sandbox's is: windows that are mapped, hand-overs by futex(2), and
//! descriptors over the channel's pair of sockets (docs/protocol.md 9).
//!
//! As [`crate::p9`] it shares no code with the server. Windows are open to whatever a hostile client writes.

use crate::p9::{Answer, Client, Fault, Frame, MSIZE, PATIENCE, Take};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use rustix::io::Errno as IoErrno;
use rustix::thread::futex::{Flags, Timespec, wait, wake};
use std::io::{self, IoSliceMut};
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The first version that has channels, and the highest.
pub const FIRST_VERSION: &[u8] = b"9P2000.L.Google.8";
pub const VERSION: &[u8] = b"9P2000.L.Google.13";

/// Bytes of a window.
pub const WINDOW: usize = 0x10_1000;
/// Where in it the datagram begins.
pub const DATAGRAM: usize = 16;
/// Bytes of the longest datagram.
pub const LONGEST: usize = WINDOW - DATAGRAM;

/// The states: whose turn it is, or that it is over.
pub const CLIENT: u32 = 0;
pub const SERVER: u32 = 1;
pub const OVER: u32 = 2;

/// What a client sends first, and is answered.
pub const GREETING: &[u8] = b"{}\n";

/// Memory that is shared with the server, from the start of a channel's window.
#[derive(Debug)]
pub struct Window {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is the value's own for all its life. It is reached by atomics, and by copies of bytes that
// somebody may change at the same time, as they may be changed by the other process anyway: nothing follows from them.
#[allow(unsafe_code)]
unsafe impl Send for Window {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Window {}

impl Window {
    /// Maps the part of the memory from `offset` on.
    pub fn map(memory: &impl AsFd, offset: u64, bytes: usize) -> io::Result<Window> {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let (size, offset) = (NonZero::new(bytes), i64::try_from(offset));
        let (Some(size), Ok(offset)) = (size, offset) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: no address is asked for, so that nothing of ours is replaced.
        #[allow(unsafe_code)]
        let base = unsafe { mmap(None, size, prot, MapFlags::MAP_SHARED, memory, offset) }?;
        let base = base.cast();
        Ok(Window { base, bytes })
    }

    fn place(&self, at: usize, bytes: usize) -> NonNull<u8> {
        assert!(at + bytes <= self.bytes, "{bytes} bytes at {at}");
        // SAFETY: inside the mapping.
        #[allow(unsafe_code)]
        unsafe {
            self.base.add(at)
        }
    }

    /// Word `number`: 0 is the state, 1 the length, 2 and 3 are nobody's, and then comes the datagram.
    pub fn word(&self, number: usize) -> &AtomicU32 {
        let word = self.place(number * size_of::<u32>(), size_of::<u32>());
        // SAFETY: mapped as long as `self`, and aligned.
        #[allow(unsafe_code)]
        unsafe {
            word.cast().as_ref()
        }
    }

    /// Whose turn it is.
    pub fn state(&self) -> &AtomicU32 {
        self.word(0)
    }

    /// Bytes of the datagram.
    pub fn length(&self) -> &AtomicU32 {
        self.word(1)
    }

    /// Writes bytes at `at`.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        let to = self.place(at, bytes.len()).as_ptr();
        // SAFETY: inside the mapping, which `bytes` lie outside of.
        #[allow(unsafe_code)]
        unsafe {
            to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// Reads what stands at `at`.
    pub fn copy(&self, at: usize, to: &mut [u8]) {
        let from = self.place(at, to.len()).as_ptr();
        // SAFETY: inside the mapping, which `to` lies outside of.
        #[allow(unsafe_code)]
        unsafe {
            to.as_mut_ptr().copy_from_nonoverlapping(from, to.len());
        }
    }

    /// Reads `bytes` bytes at `at`.
    pub fn get(&self, at: usize, bytes: usize) -> Vec<u8> {
        let mut all = vec![0; bytes];
        self.copy(at, &mut all);
        all
    }

    /// Wakes at most `count` of those that wait for the state; how many there were.
    pub fn wake(&self, count: u32) -> usize {
        wake(self.state(), Flags::empty(), count).expect("futex of mapped memory")
    }

    /// Sleeps as long as the state is `value`, until a wake-up comes. False: none came in that time.
    pub fn sleep(&self, value: u32, most: Duration) -> bool {
        let most = Timespec::try_from(most).expect("a short time");
        match wait(self.state(), Flags::empty(), value, Some(&most)) {
            Ok(()) | Err(IoErrno::AGAIN | IoErrno::INTR) => true,
            Err(IoErrno::TIMEDOUT) => false,
            Err(errno) => panic!("futex of mapped memory: {errno}"),
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the whole of the mapping, and nothing borrows from it any more.
        #[allow(unsafe_code)]
        let unmapped = unsafe { munmap(self.base.cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// One channel of a connection.
#[derive(Debug)]
pub struct Channel {
    pub id: u32,
    pub window: Window,
    /// The file that the windows of the connection are in.
    pub memory: OwnedFd,
    /// Where donated descriptors come.
    pub socket: OwnedFd,
    /// How long it looks for a reply before it sleeps.
    pub spin: Duration,
}

impl Channel {
    /// Asks for both halves of channel `id`, on a connection of a version that has channels.
    pub fn ask(client: &mut Client, id: u32) -> Answer<Channel> {
        let half = |client: &mut Client, control| {
            let told = client.channel(id, control)?;
            match told.fd {
                Some(fd) => Ok((told.offset, told.length, fd)),
                None => broken("Rchannel without a descriptor"),
            }
        };
        let (offset, length, memory) = half(client, 0)?;
        let (offset_too, length_too, socket) = half(client, 1)?;
        if (offset, length) != (offset_too, length_too) {
            return broken("the halves of a channel lie at two places");
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        match Window::map(&memory, offset, length) {
            Ok(window) => Ok(Channel {
                id,
                window,
                memory,
                socket,
                spin: Duration::ZERO,
            }),
            Err(error) => broken(format!("mapping {length} bytes at {offset}: {error}")),
        }
    }

    /// Asks for channel `id`, and greets.
    pub fn open(client: &mut Client, id: u32) -> Answer<Channel> {
        let channel = Channel::ask(client, id)?;
        channel.greet()?;
        Ok(channel)
    }

    /// It looks for so long before it sleeps.
    #[must_use]
    pub fn spinning(mut self, spin: Duration) -> Channel {
        self.spin = spin;
        self
    }

    /// Sends the greeting and awaits it.
    pub fn greet(&self) -> Answer<()> {
        self.put(GREETING);
        self.hand_over()?;
        self.wait()?;
        match self.datagram() {
            Ok(bytes) if bytes == GREETING => Ok(()),
            other => broken(format!("{other:?} instead of the greeting")),
        }
    }

    /// Writes a datagram, and nothing more.
    pub fn put(&self, datagram: &[u8]) {
        self.window.put(DATAGRAM, datagram);
        let length = u32::try_from(datagram.len()).expect("it fits a window");
        self.window.length().store(length, Ordering::Relaxed);
    }

    /// Makes what stands in the window the server's, and wakes it.
    pub fn hand_over(&self) -> Answer<()> {
        let (state, release) = (self.window.state(), Ordering::Release);
        match state.compare_exchange(CLIENT, SERVER, release, Ordering::Relaxed) {
            Ok(_) => {
                self.window.wake(1);
                Ok(())
            }
            Err(OVER) => Err(Fault::Closed),
            Err(state) => broken(format!("state {state} where it is the client's turn")),
        }
    }

    /// Sends a request that stands in a frame: a datagram has neither its size nor its tag.
    pub fn send(&self, frame: &[u8]) -> Answer<()> {
        let [_, _, _, _, kind, _, _, body @ ..] = frame else {
            return broken("a frame without a header");
        };
        self.window.put(DATAGRAM, &[*kind, 0]);
        self.window.put(DATAGRAM + 2, body);
        let length = u32::try_from(2 + body.len()).expect("it fits a window");
        self.window.length().store(length, Ordering::Relaxed);
        self.hand_over()
    }

    /// Waits until it is the client's turn. A reply for which nobody was woken is a fault.
    pub fn wait(&self) -> Answer<()> {
        let begin = Instant::now();
        let mut was_woken = true;
        loop {
            match self.window.state().load(Ordering::Acquire) {
                SERVER if !was_woken => return broken("no reply in 20 s"),
                CLIENT | OVER if !was_woken => return broken("a reply and no wake-up in 20 s"),
                CLIENT => return Ok(()),
                OVER => return Err(Fault::Closed),
                SERVER if begin.elapsed() < self.spin => std::hint::spin_loop(),
                SERVER => was_woken = self.window.sleep(SERVER, PATIENCE),
                state => return broken(format!("state {state}, which there is not")),
            }
        }
    }

    /// The datagram that stands in the window.
    pub fn datagram(&self) -> Answer<Vec<u8>> {
        match usize::try_from(self.window.length().load(Ordering::Relaxed)) {
            Ok(length) if length <= LONGEST => Ok(self.window.get(DATAGRAM, length)),
            _ => broken("a datagram longer than its window"),
        }
    }

    /// Waits for a reply, which gets this tag.
    pub fn recv(&self, tag: u16) -> Answer<Frame> {
        self.wait()?;
        let mut body = self.datagram()?;
        if body.len() + 5 > MSIZE as usize {
            return broken("a reply longer than the message size");
        }
        let (kind, has_fd) = match body[..] {
            [kind, has_fd @ 0..=1, ..] => (kind, has_fd == 1),
            _ => return broken("a datagram without a header"),
        };
        body.drain(..2);
        let fd = match has_fd {
            true => Some(self.descriptor()?),
            false => None,
        };
        let reply = Frame {
            kind,
            tag,
            body,
            fd,
        };
        Ok(reply)
    }

    /// The descriptor of an empty datagram, which must be there.
    pub fn descriptor(&self) -> Answer<OwnedFd> {
        let mut space = nix::cmsg_space!(RawFd);
        let mut byte = [0];
        let mut iov = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message =
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut iov, Some(&mut space), flags) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return broken("no descriptor"),
                Err(errno) => return broken(format!("recvmsg: {errno:?}")),
            };
        let Ok(mut controls) = message.cmsgs() else {
            return broken("control data cut");
        };
        let (fd, none) = (controls.next(), controls.next());
        match (message.bytes, fd, none) {
            (0, Some(ControlMessageOwned::ScmRights(raw)), None) if raw.len() == 1 => {
                // SAFETY: the kernel made this descriptor for us in the call above; nothing else owns it.
                #[allow(unsafe_code)]
                Ok(unsafe { OwnedFd::from_raw_fd(raw[0]) })
            }
            (bytes, fd, _) => broken(format!("{bytes} bytes and {fd:?}, not one descriptor")),
        }
    }

    /// Sends a request that stands in a frame; what comes, with its tag.
    pub fn exchange(&self, frame: &[u8]) -> Answer<Frame> {
        self.send(frame)?;
        self.recv(u16::from_le_bytes([frame[5], frame[6]]))
    }

    /// As [`Channel::exchange`], decoded: `channel.get::<Rread>(&t::read(1, ...))`.
    pub fn get<T: Take>(&self, frame: &[u8]) -> Answer<T> {
        let reply = self.exchange(frame)?;
        let tag = reply.tag;
        reply.answer(frame[4], tag)
    }

    /// Says that it is over, as a client does whose socket is gone.
    pub fn shut(&self) {
        self.window.state().store(OVER, Ordering::Release);
        self.window.wake(u32::MAX >> 1);
    }
}

fn broken<T>(why: impl Into<String>) -> Answer<T> {
    Err(Fault::Broken(why.into()))
}
