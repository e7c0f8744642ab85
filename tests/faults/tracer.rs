//! A tracer (ptrace(2)) of the program while it serves: it writes down its system calls, makes one of them
//! have another result, or kills the program where one begins or ends.

#![allow(non_upper_case_globals)] // in patterns

use crate::harness::Gofer;
use crate::p9::PATIENCE;
use crate::table::Call;
use linux_raw_sys::general::*;
use nix::errno::Errno;
use nix::libc::{PTRACE_SYSCALL_INFO_ENTRY, PTRACE_SYSCALL_INFO_EXIT, user_regs_struct};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// A system call that has ended, with the result that the program saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) call: Call,
    pub(crate) result: i64,
}

/// How a call gets another result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It is done, and then said to have failed so.
    Overwrite(Errno),
    /// It is kept from being done, by an argument that the filter does not look at, and fails so.
    Refuse(Errno),
    /// It is asked for so many bytes only.
    Shorten(u64),
}

/// What the tracer is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Plan {
    /// Write down what is called.
    Watch,
    /// The call of this number that comes as the so-manieth, from 1 on.
    Fault { number: u32, nth: usize, how: How },
    /// SIGKILL where a call begins or ends: at the so-manieth of these, from 0 on.
    Kill { stop: usize },
}

#[derive(Debug)]
struct State {
    plan: Plan,
    /// The next call of this number is refused with this errno, beside the plan.
    first: Option<(u32, Errno)>,
    seen: usize,
    stops: usize,
    calls: Vec<Done>,
    /// The call that got another result, with its own one.
    hit: Option<Done>,
    /// It waits for its peers.
    is_idle: bool,
    is_gone: bool,
    complaint: Option<String>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the tracer has not panicked")
    }
}

/// A thread that traces a program from when it is made to the program's end.
#[derive(Debug)]
pub(crate) struct Tracer(Arc<Shared>);

impl Tracer {
    /// The program must be idle, and is when this returns.
    pub(crate) fn new(gofer: &Gofer) -> Tracer {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                plan: Plan::Watch,
                first: None,
                seen: 0,
                stops: 0,
                calls: Vec::new(),
                hit: None,
                is_idle: false,
                is_gone: false,
                complaint: None,
            }),
            changed: Condvar::new(),
        });
        let pid = Pid::from_raw(gofer.pid().cast_signed());
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            let done = trace(pid, &theirs);
            let mut state = theirs.lock();
            if let Err(errno) = done {
                state.complaint.get_or_insert(format!("tracer: {errno}"));
            }
            state.is_gone = true;
            theirs.changed.notify_all();
        });
        let tracer = Tracer(shared);
        tracer.wait_idle();
        tracer
    }

    /// A new plan for what comes, once the program is idle. The next call of the number in `first` is refused
    /// with its errno, whatever the plan.
    #[track_caller]
    pub(crate) fn begin(&self, plan: Plan, first: Option<(u32, Errno)>) {
        let mut state = self.wait(|state| state.is_idle);
        state.plan = plan;
        state.first = first;
        state.seen = 0;
        state.stops = 0;
        state.calls.clear();
        state.hit = None;
    }

    #[track_caller]
    fn wait(&self, until: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let begun = Instant::now();
        let mut state = self.0.lock();
        while !until(&state) {
            assert!(begun.elapsed() < PATIENCE, "not in a minute: {state:?}");
            state = self.0.changed.wait_timeout(state, PATIENCE).unwrap().0;
        }
        assert_eq!(state.complaint, None);
        state
    }

    /// Waits until it waits for its peers, or is gone.
    #[track_caller]
    pub(crate) fn wait_idle(&self) {
        drop(self.wait(|state| state.is_idle || state.is_gone));
    }

    /// Waits until the plan's call has had its result, and it is idle again or gone.
    #[track_caller]
    pub(crate) fn wait_hit(&self) {
        drop(self.wait(|state| state.hit.is_some() && (state.is_idle || state.is_gone)));
    }

    /// What was called since the plan was made.
    pub(crate) fn calls(&self) -> Vec<Done> {
        self.0.lock().calls.clone()
    }

    /// The call that got another result, with its own one.
    pub(crate) fn hit(&self) -> Option<Done> {
        self.0.lock().hit
    }

    /// Beginnings and ends of calls since the plan was made.
    pub(crate) fn stops(&self) -> usize {
        self.0.lock().stops
    }
}

/// What is to be put back at the end of the call at hand.
struct Changed {
    registers: user_regs_struct,
    how: How,
    is_planned: bool,
    length: Option<(u64, u64)>,
}

fn trace(pid: Pid, shared: &Shared) -> nix::Result<()> {
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options)?;
    ptrace::interrupt(pid)?;
    let mut changed = None;
    while let Some(status) = next_stop(pid)? {
        let signal = match status {
            WaitStatus::Stopped(_, signal) => Some(signal), // for it, not for us
            WaitStatus::PtraceSyscall(_) => {
                let mut state = shared.lock();
                match at_call(pid, &mut state, &mut changed) {
                    Ok(()) | Err(Errno::ESRCH) => {} // killed meanwhile
                    Err(errno) => return Err(errno),
                }
                shared.changed.notify_all();
                None
            }
            _ => None,
        };
        match ptrace::syscall(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {} // killed meanwhile
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// `None`: it has ended. The end itself is left for its parent to see.
fn next_stop(pid: Pid) -> nix::Result<Option<WaitStatus>> {
    let any = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(pid), any) {
        Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => Ok(None),
        Ok(_) => match waitpid(pid, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => Ok(None),
            status => status.map(Some),
        },
        Err(errno) => Err(errno),
    }
}

fn at_call(pid: Pid, state: &mut State, changed: &mut Option<Changed>) -> nix::Result<()> {
    let registers = ptrace::getregs(pid)?;
    let r = &registers;
    let call = Call::new(r.orig_rax as u32, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]);
    let is_entry = match ptrace::syscall_info(pid)?.op {
        PTRACE_SYSCALL_INFO_ENTRY => true,
        PTRACE_SYSCALL_INFO_EXIT => false,
        _ => return Ok(()),
    };
    if !is_entry && call.number == u32::MAX {
        return Ok(()); // back from a handler: the registers are those of what it interrupted
    }
    if let Plan::Kill { stop } = state.plan
        && stop == state.stops
    {
        kill(pid, Signal::SIGKILL)?;
    }
    state.stops += 1;
    if is_entry {
        state.is_idle = match call.number {
            __NR_ppoll => waits(pid, call.args[2])?,
            __NR_recvfrom => call.args[3] == 0, // no MSG_DONTWAIT
            __NR_futex_waitv => true,
            _ => false,
        };
        let mut how = None;
        if let Some((number, errno)) = state.first
            && number == call.number
        {
            state.first = None;
            how = Some((How::Refuse(errno), false));
        }
        if let Plan::Fault {
            number,
            nth,
            how: planned,
        } = state.plan
            && number == call.number
        {
            state.seen += 1;
            if state.seen == nth {
                how = Some((planned, true));
            }
        }
        if let Some(how) = how {
            *changed = Some(change(pid, registers, how)?);
        }
        return Ok(());
    }
    state.is_idle = false;
    let mut done = Done {
        call,
        result: registers.rax as i64,
    };
    if let Some(changed) = changed.take() {
        // The program may count on its registers.
        let mut registers = changed.registers;
        let was = registers;
        done.call.args = [was.rdi, was.rsi, was.rdx, was.r10, was.r8, was.r9];
        if changed.is_planned {
            state.hit = Some(done);
        }
        registers.rax = match changed.how {
            How::Overwrite(errno) => error(errno),
            How::Refuse(errno) => {
                if done.result >= 0 && done.call.number != __NR_madvise {
                    state.complaint = Some(format!("it was done all the same: {done:x?}"));
                }
                error(errno)
            }
            How::Shorten(_) => done.result as u64,
        };
        if let Some((at, length)) = changed.length {
            poke(pid, at, length)?;
        }
        registers.rcx = r.rcx;
        registers.r11 = r.r11;
        done.result = registers.rax as i64;
        ptrace::setregs(pid, registers)?;
    }
    state.calls.push(done);
    Ok(())
}

fn error(errno: Errno) -> u64 {
    (-i64::from(errno as i32)).cast_unsigned()
}

/// Whether a ppoll(2) waits: its timeout is none, or not 0.
fn waits(pid: Pid, timeout: u64) -> nix::Result<bool> {
    if timeout == 0 {
        return Ok(true);
    }
    Ok(peek(pid, timeout)? != 0 || peek(pid, timeout + 8)? != 0)
}

fn peek(pid: Pid, at: u64) -> nix::Result<u64> {
    let mut bytes = [0; 8];
    let remote = RemoteIoVec {
        base: at as usize,
        len: 8,
    };
    process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], &[remote])?;
    Ok(u64::from_le_bytes(bytes))
}

fn poke(pid: Pid, at: u64, value: u64) -> nix::Result<()> {
    let bytes = value.to_le_bytes();
    let remote = RemoteIoVec {
        base: at as usize,
        len: 8,
    };
    process_vm_writev(pid, &[IoSlice::new(&bytes)], &[remote]).map(drop)
}

/// Changes the arguments of the call that is about to be made.
fn change(pid: Pid, was: user_regs_struct, (how, is_planned): (How, bool)) -> nix::Result<Changed> {
    /// Nothing of the program's is there.
    const NOWHERE: u64 = 1;
    /// A descriptor by the filter's words, and none that there is.
    const NOT_OPEN: u64 = 0x7fff_ffff;
    let mut now = was;
    let mut length = None;
    match how {
        How::Overwrite(_) => {}
        How::Refuse(_) => match was.orig_rax as u32 {
            __NR_symlinkat => now.rdi = NOWHERE,
            __NR_socket => now.rsi |= 7,
            __NR_fsync | __NR_fallocate | __NR_ftruncate | __NR_lseek | __NR_fcntl
            | __NR_fchmod => now.rdi = NOT_OPEN,
            __NR_ppoll => now.rsi = u64::MAX >> 32,
            __NR_futex | __NR_futex_waitv => now.rdi = NOWHERE,
            __NR_write => now.rsi = NOWHERE,
            __NR_madvise => now.rsi = 0,
            _ => now.rsi = NOWHERE,
        },
        // The length stands in the message's first piece.
        How::Shorten(bytes) if was.orig_rax as u32 == __NR_sendmsg => {
            let at = peek(pid, was.rsi + 16)? + 8;
            length = Some((at, peek(pid, at)?));
            poke(pid, at, bytes)?;
        }
        How::Shorten(bytes) => now.rdx = bytes.min(was.rdx),
    }
    ptrace::setregs(pid, now)?;
    Ok(Changed {
        registers: was,
        how,
        is_planned,
        length,
    })
}
