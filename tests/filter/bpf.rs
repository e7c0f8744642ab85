//! Classic BPF as seccomp(2) takes it: a verifier and an interpreter of our own.

use super::table::Call;
use linux_raw_sys::ptrace::sock_filter;

/// Most instructions that the kernel takes (`BPF_MAXINSNS`).
const MOST: usize = 4096;
/// Size of `struct seccomp_data`.
const DATA_BYTES: u32 = 64;

/// One instruction, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Loads the word at an offset.
    Load,
    And,
    Equal,
    Greater,
    AtLeast,
    AnyBit,
    Always,
    Return,
}

impl Op {
    /// Of the instructions that seccomp(2) allows, those that have any use here.
    pub(crate) fn of(code: u16) -> Option<Op> {
        // linux/bpf_common.h: class, then size and mode or operation, then source.
        Some(match code {
            0x20 => Op::Load,
            0x54 => Op::And,
            0x05 => Op::Always,
            0x15 => Op::Equal,
            0x25 => Op::Greater,
            0x35 => Op::AtLeast,
            0x45 => Op::AnyBit,
            0x06 => Op::Return,
            _ => return None,
        })
    }
}

/// Whether the kernel would take the program, and why not.
pub(crate) fn verify(program: &[sock_filter]) -> Result<(), String> {
    if program.is_empty() || program.len() > MOST {
        return Err(format!("{} instructions", program.len()));
    }
    for (at, instruction) in program.iter().enumerate() {
        let fault = |why: &str| Err(format!("instruction {at}: {why}: {instruction:?}"));
        let is_inside = |distance: usize| at + 1 + distance < program.len();
        match Op::of(instruction.code) {
            None => return fault("unknown"),
            Some(Op::Load) if instruction.k % 4 != 0 || instruction.k >= DATA_BYTES => {
                return fault("a load from nowhere");
            }
            Some(Op::Always) if !is_inside(instruction.k as usize) => {
                return fault("a jump out");
            }
            Some(Op::Equal | Op::Greater | Op::AtLeast | Op::AnyBit)
                if !is_inside(usize::from(instruction.jt))
                    || !is_inside(usize::from(instruction.jf)) =>
            {
                return fault("a jump out");
            }
            Some(_) => {}
        }
    }
    match program.last().and_then(|last| Op::of(last.code)) {
        Some(Op::Return) => Ok(()),
        _ => Err("no return at the end".into()),
    }
}

/// What a verified program answers to a call.
pub(crate) fn run(program: &[sock_filter], call: &Call) -> u32 {
    let word = |at: u32| -> u32 {
        match at {
            0 => call.number,
            4 => call.arch,
            8 | 12 => 0x5555_5555, // the instruction pointer, which no rule looks at
            _ => {
                let arg = call.args[(at as usize - 16) / 8];
                let is_high = (at % 8 == 4) == cfg!(target_endian = "little");
                (if is_high { arg >> 32 } else { arg }) as u32
            }
        }
    };
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let instruction = &program[at];
        let k = instruction.k;
        let holds = match Op::of(instruction.code).expect("a verified program") {
            Op::Load => {
                accumulator = word(k);
                None
            }
            Op::And => {
                accumulator &= k;
                None
            }
            Op::Always => {
                at += k as usize;
                None
            }
            Op::Return => return k,
            Op::Equal => Some(accumulator == k),
            Op::Greater => Some(accumulator > k),
            Op::AtLeast => Some(accumulator >= k),
            Op::AnyBit => Some(accumulator & k != 0),
        };
        at += 1 + match holds {
            None => 0,
            Some(true) => usize::from(instruction.jt),
            Some(false) => usize::from(instruction.jf),
        };
    }
}

#[test]
fn verifier_refuses_jumps_out_loads_from_nowhere_and_a_missing_return() {
    let make = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let end = make(0x06, 0, 0, 0);
    verify(&[end]).unwrap();
    verify(&[make(0x15, 0, 1, 7), end, end]).unwrap();
    for bad in [
        &[][..],
        &[make(0x20, 0, 0, 0)],
        &[make(0x20, 0, 0, 2), end],
        &[make(0x20, 0, 0, 64), end],
        &[make(0x15, 0, 1, 7), end],
        &[make(0x35, 1, 0, 7), end],
        &[make(0x05, 0, 0, 1), end],
        &[make(0x02, 0, 0, 0), end],
        &[end; 4097],
    ] {
        verify(bad).unwrap_err();
    }
}
