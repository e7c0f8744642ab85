//! Bytes to a table of rows and to calls: the assembled program, by an interpreter, must say what the rows say.
#![cfg_attr(fuzzing, no_main)]

#[path = "../tests/filter/bpf.rs"]
mod bpf;
#[path = "input.rs"]
mod input;
#[path = "../tests/filter/table.rs"]
#[allow(dead_code)] // what is of the program's own table
mod table;

use bpf::{run as interpret, verify};
use gofer::sandbox::seccomp::{
    ALLOWED, AUDIT_ARCH, MAX_WANTS, Modes, PROGRAM_LEN, Rule, Want, X32_BIT, assemble,
};
use input::Input;
use linux_raw_sys::ptrace::{SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS};
use table::{Call, call_of, meets};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(bytes));

const REFUSE: u32 = SECCOMP_RET_KILL_PROCESS;

/// One run.
pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mode = modes(input.byte() | 1);
    let count = usize::from(input.byte() % 80);
    let rows: Vec<Rule> = (0..count).map(|_| row(&mut input)).collect();
    let Some(program) = assemble(&rows, mode, REFUSE) else {
        // The shortest row is of three instructions, the longest of eighteen.
        assert!(count * 18 + 8 > PROGRAM_LEN, "{count} rows have no room");
        return;
    };
    assert!(count * 3 < PROGRAM_LEN || rows.iter().any(|rule| !mode.meets(rule.when)));
    let code = program.code();
    verify(code).unwrap_or_else(|why| panic!("{why}: {rows:x?}"));
    let check = |call: Call| {
        let is_allowed = call.arch == AUDIT_ARCH
            && call.number < X32_BIT
            && rows.iter().any(|rule| {
                mode.meets(rule.when)
                    && rule.call == call.number
                    && rule
                        .wants()
                        .all(|(arg, want)| meets(want, call.args[usize::from(arg)]))
            });
        let wanted = if is_allowed {
            SECCOMP_RET_ALLOW
        } else {
            REFUSE
        };
        assert_eq!(interpret(code, &call), wanted, "{call:x?} by {rows:x?}");
    };
    // Calls that rows allow, and what comes of them by one bit more or less.
    for rule in rows.iter().filter(|rule| can_be_met(rule)) {
        let flip = 1u64 << (input.byte() % 64);
        for filler in [0, u64::MAX] {
            let good = call_of(rule, filler);
            check(good);
            check(Call {
                arch: good.arch ^ flip as u32,
                ..good
            });
            check(Call {
                number: good.number ^ flip as u32,
                ..good
            });
            check(Call {
                number: good.number | X32_BIT,
                ..good
            });
            for (arg, _) in rule.wants() {
                check(good.with(arg, good.args[usize::from(arg)] ^ flip));
                check(good.with(arg, value(&mut input)));
            }
        }
    }
    while !input.is_empty() {
        let number = number(&mut input);
        check(Call::new(number, [(); 6].map(|()| value(&mut input))));
    }
}

fn modes(bits: u8) -> Modes {
    let all = [Modes::BY_PROC_FD, Modes::BY_PARENT, Modes::HOST_UDS];
    let mut wanted = (0..)
        .zip(all)
        .filter(|(at, _)| bits >> at & 1 == 1)
        .map(|(_, mode)| mode);
    let first = wanted.next().unwrap_or(Modes::ALWAYS);
    wanted.fold(first, Modes::and)
}

fn number(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..0xf0 => u32::from(byte % 12),
        _ => input.number(4) as u32,
    }
}

fn value(input: &mut Input<'_>) -> u64 {
    input.one_of(
        &[
            0,
            1,
            3,
            0xff,
            1 << 31,
            0xffff_ffff,
            1 << 32,
            u64::MAX,
            0xffff_ffff_0000_0000,
            0x1_0000_0003,
        ],
        8,
    )
}

fn row(input: &mut Input<'_>) -> Rule {
    let mut rule = ALLOWED[usize::from(input.byte()) % ALLOWED.len()]; // one of ours, or its call and mode alone
    let how = input.byte();
    if how & 1 == 0 {
        return rule;
    }
    rule.when = modes(how >> 1);
    rule.call = number(input);
    rule.wants = [None; MAX_WANTS];
    let first = input.byte() % 6;
    for (at, place) in (0..how >> 4 & 3).zip(&mut rule.wants) {
        let (one, other) = (value(input) as u32, value(input) as u32);
        let want = match input.byte() % 5 {
            0 => Want::Is(one),
            1 => Want::Zero,
            2 => Want::Masked(one, other),
            3 => Want::Below(one),
            _ => Want::From(one),
        };
        *place = Some(((first + at) % 6, want));
    }
    rule
}

/// Whether each want of a row has a value that meets it.
fn can_be_met(rule: &Rule) -> bool {
    rule.wants().all(|(_, want)| match want {
        Want::Is(_) | Want::Zero | Want::From(_) => true,
        Want::Masked(mask, bits) => bits & !mask == 0,
        Want::Below(bound) => bound > 0,
    })
}
