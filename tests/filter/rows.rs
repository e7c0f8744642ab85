//! The assembled program by the interpreter: exactly what the table says.

use crate::bpf::{Op, run, verify};
use crate::say;
use crate::table::{Call, Half, MODES, allows, call_of, conforming, describe, violating};
use gofer::sandbox::seccomp::{
    ALLOWED, AUDIT_ARCH, Modes, PROGRAM_LEN, REASONS, Rule, Want, X32_BIT, assemble,
};
use linux_raw_sys::ptrace::{
    AUDIT_ARCH_AARCH64, AUDIT_ARCH_ARM, AUDIT_ARCH_I386, AUDIT_ARCH_RISCV64, AUDIT_ARCH_X86_64,
    SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP, sock_filter,
};

const KILL: u32 = SECCOMP_RET_KILL_PROCESS;

/// Numbers beyond every table of calls that there is.
const NUMBERS: u32 = 1024;

/// What stands in arguments that nobody constrains.
const FILLERS: [u64; 3] = [0, u64::MAX, 0x1234_5678_9abc_def0];

fn program(rows: &[Rule], mode: Modes) -> Vec<sock_filter> {
    assemble(rows, mode, KILL)
        .expect("a program of at most PROGRAM_LEN instructions")
        .code()
        .to_vec()
}

fn other_architectures() -> Vec<u32> {
    let known = [
        0,
        AUDIT_ARCH_I386,
        AUDIT_ARCH_X86_64,
        AUDIT_ARCH_ARM,
        AUDIT_ARCH_AARCH64,
        AUDIT_ARCH_RISCV64,
    ];
    let near = (0..32).map(|bit| AUDIT_ARCH ^ 1 << bit);
    let mut all: Vec<u32> = known.into_iter().chain(near).collect();
    all.retain(|&arch| arch != AUDIT_ARCH);
    all
}

/// A call, and whether the table allows it.
struct Probe {
    call: Call,
    is_allowed: bool,
}

/// The table seen from every side, in one mode. On the way: that every row allows something, that
/// every condition of it refuses something, and that no other number or architecture gets by.
fn probes(mode: Modes) -> Vec<Probe> {
    let mut probes = Vec::new();
    let mut add = |call: Call| {
        let is_allowed = allows(mode, &call);
        probes.push(Probe { call, is_allowed });
        is_allowed
    };

    for (at, rule) in ALLOWED.iter().enumerate() {
        let holds = mode.meets(rule.when);
        for filler in FILLERS {
            let good = call_of(rule, filler);
            assert!(add(good) || !holds, "{}", describe(at));
            for arch in other_architectures() {
                assert!(!add(Call { arch, ..good }), "{arch:#x}");
            }
            for bit in [X32_BIT, 1 << 31] {
                let number = good.number | bit;
                assert!(!add(Call { number, ..good }), "{number:#x}");
            }
        }
        let good = call_of(rule, FILLERS[0]);
        for (arg, want) in rule.wants() {
            for value in conforming(want) {
                add(good.with(arg, value));
            }
            let mut is_refused = [false; 2];
            for (half, value) in violating(want) {
                if !add(good.with(arg, value)) {
                    is_refused[usize::from(half == Half::High)] = true;
                }
            }
            let high_counts = matches!(want, Want::Is(_) | Want::Zero);
            assert!(
                !holds || is_refused[0] && (is_refused[1] || !high_counts),
                "another row allows argument {arg} to be anything: {}",
                describe(at)
            );
        }
    }

    let others = [X32_BIT - 1, X32_BIT, X32_BIT | NUMBERS, 1 << 31, u32::MAX];
    for number in (0..=NUMBERS).chain(others) {
        let in_table = |rule: &Rule| rule.call == number && mode.meets(rule.when);
        let is_known = ALLOWED.iter().any(in_table);
        for filler in FILLERS {
            assert!(!add(Call::new(number, [filler; 6])) || is_known);
            assert!(!add(Call::new(number | X32_BIT, [filler; 6])));
        }
        for rule in ALLOWED {
            assert!(!add(Call::new(number, call_of(rule, 0).args)) || is_known);
        }
    }
    probes
}

/// Runs a program on every probe. The error is the first that it does not answer as the table says.
fn compare(code: &[sock_filter], probes: &[Probe]) -> Result<(), String> {
    verify(code)?;
    for Probe { call, is_allowed } in probes {
        let wanted = if *is_allowed { SECCOMP_RET_ALLOW } else { KILL };
        let given = run(code, call);
        if given != wanted {
            return Err(format!("{given:#x} instead of {wanted:#x} for {call:x?}"));
        }
    }
    Ok(())
}

#[test]
fn filter_rows_program_answers_every_call_as_the_table_says() {
    for &(name, mode) in MODES {
        let code = program(ALLOWED, mode);
        let probes = probes(mode);
        if let Err(fault) = compare(&code, &probes) {
            panic!("mode {name}: {fault}");
        }
        say(&format!(
            "filter in mode {name}: {} instructions of {PROGRAM_LEN}, {} calls tried",
            code.len(),
            probes.len()
        ));
    }
}

#[test]
fn filter_rows_every_row_holds_in_a_listed_mode_and_has_a_name_and_a_reason() {
    assert_eq!(ALLOWED.len(), REASONS.len());
    for (at, rule) in ALLOWED.iter().enumerate() {
        assert!(
            MODES.iter().any(|(_, mode)| mode.meets(rule.when)),
            "no mode listed in table.rs has {}",
            describe(at)
        );
        let (name, why) = REASONS[at];
        assert!(!name.is_empty() && !why.is_empty(), "{}", describe(at));
        for (other, (other_name, _)) in ALLOWED.iter().zip(REASONS) {
            assert_eq!(
                rule.call == other.call,
                name == *other_name,
                "a number with two names, or a name with two numbers: {}",
                describe(at)
            );
        }
        let mut numbers: Vec<u8> = rule.wants().map(|(arg, _)| arg).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), rule.wants().count(), "{}", describe(at));
        assert!(numbers.iter().all(|&arg| arg < 6), "{}", describe(at));
    }
}

#[test]
fn filter_rows_refusal_is_the_action_asked_for() {
    for &(_, mode) in MODES {
        for action in [SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP] {
            let program = assemble(ALLOWED, mode, action).expect("a program");
            let returns = program
                .code()
                .iter()
                .filter(|instruction| Op::of(instruction.code) == Some(Op::Return));
            for instruction in returns {
                assert!([action, SECCOMP_RET_ALLOW].contains(&instruction.k));
            }
        }
    }
}

#[test]
fn filter_rows_too_many_rows_for_a_program_are_refused() {
    let long: Vec<Rule> = ALLOWED.iter().cycle().take(PROGRAM_LEN).copied().collect();
    assert!(assemble(&long, Modes::ALWAYS, KILL).is_none());
}

// ---- the comparison itself: what is broken must not pass it ----

/// A program of a table with rows removed, exchanged, widened or added.
#[test]
fn filter_rows_broken_table_is_found_out() {
    let free = *ALLOWED
        .iter()
        .find(|rule| rule.wants().next().is_none())
        .expect("a row without wants");
    let modes: Vec<_> = MODES
        .iter()
        .map(|&(name, mode)| (name, mode, probes(mode)))
        .collect();
    let mut count = 0;
    for (at, rule) in ALLOWED.iter().enumerate() {
        let change = |from: &Rule, change: &dyn Fn(&mut Rule)| {
            let mut rule = *from;
            change(&mut rule);
            rule
        };
        let mut broken = vec![
            ("another number", change(rule, &|rule| rule.call += NUMBERS)),
            (
                "in every mode",
                change(rule, &|rule| rule.when = Modes::ALWAYS),
            ),
        ];
        if rule.wants().next().is_some() {
            let without = change(&free, &|free| {
                (free.when, free.call) = (rule.when, rule.call);
            });
            broken.push(("all conditions dropped", without));
        }
        for (what, other) in broken {
            let mut rows = ALLOWED.to_vec();
            rows[at] = other;
            for (name, mode, probes) in &modes {
                if what == "in every mode" && mode.meets(rule.when) {
                    continue; // nothing is wider there
                }
                if what != "in every mode" && !mode.meets(rule.when) {
                    continue; // the row is not there
                }
                count += 1;
                assert!(
                    compare(&program(&rows, *mode), probes).is_err(),
                    "mode {name}: not found out, {what}: {}",
                    describe(at)
                );
            }
        }
        let mut rows = ALLOWED.to_vec();
        rows.remove(at);
        for (name, mode, probes) in modes.iter().filter(|(_, mode, _)| mode.meets(rule.when)) {
            count += 1;
            assert!(
                compare(&program(&rows, *mode), probes).is_err(),
                "mode {name}: not found out, removed: {}",
                describe(at)
            );
        }
    }
    say(&format!("{count} broken tables found out"));
}

/// The row that an instruction of the whole table's program comes from.
fn row_of(instruction: usize, mode: Modes) -> usize {
    let end = |rows: usize| program(&ALLOWED[..rows], mode).len() - 2; // two follow the last row
    (0..ALLOWED.len())
        .find(|&at| (end(at)..end(at + 1)).contains(&instruction))
        .expect("a row for every mask")
}

/// Whether what `row` refuses by a bit of its mask is allowed by another row.
fn another_row_allows(row: usize, mask: u32, bit: u32, mode: Modes) -> bool {
    let rule = &ALLOWED[row];
    rule.wants().any(|(arg, want)| match want {
        Want::Masked(wanted, bits) if wanted == mask => {
            allows(mode, &call_of(rule, 0).with(arg, u64::from(bits ^ bit)))
        }
        _ => false,
    })
}

/// Each comparison in the program, dropped or turned round or made with another value, and each mask
/// without one of its bits.
#[test]
fn filter_rows_broken_program_is_found_out() {
    let mut count = 0;
    for &(name, mode) in MODES {
        let code = program(ALLOWED, mode);
        let probes = probes(mode);
        for (at, instruction) in code.iter().enumerate() {
            let sock_filter { jt, jf, k, .. } = *instruction;
            let mut broken: Vec<Vec<sock_filter>> = Vec::new();
            let mut add = |change: &dyn Fn(&mut [sock_filter])| {
                let mut code = code.clone();
                change(&mut code);
                broken.push(code);
            };
            match Op::of(instruction.code).expect("a known instruction") {
                // Before it no row's number has that bit, so the check itself cannot be missed.
                Op::AtLeast if k == X32_BIT => {
                    add(&|code| (code[at].jt, code[at].jf) = (jf, jt));
                    add(&|code| code[at].jf = jt);
                }
                Op::Equal | Op::Greater | Op::AtLeast | Op::AnyBit => {
                    add(&|code| (code[at].jt, code[at].jf) = (jf, jt));
                    add(&|code| code[at].jt = jf);
                    add(&|code| code[at].jf = jt);
                    add(&|code| code[at].k = k ^ 1);
                }
                Op::And => {
                    let row = row_of(at, mode);
                    for bit in (0..32).map(|bit| 1 << bit).filter(|bit| k & bit != 0) {
                        if another_row_allows(row, k, bit, mode) {
                            continue;
                        }
                        add(&|code| {
                            code[at].k &= !bit;
                            code[at + 1].k &= !bit; // the value that it is compared with
                        });
                    }
                }
                Op::Return if at + 1 < code.len() => {
                    add(&|code| code[at].k = if k == KILL { SECCOMP_RET_ALLOW } else { KILL });
                }
                Op::Load | Op::Always | Op::Return => {}
            }
            count += broken.len();
            for broken in broken {
                assert!(
                    compare(&broken, &probes).is_err(),
                    "mode {name}: not found out, instruction {at}: {:?} for {instruction:?}",
                    broken[at]
                );
            }
        }
    }
    say(&format!("{count} broken programs found out"));
}
