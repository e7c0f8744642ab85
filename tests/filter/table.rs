//! The table as the tests read it: which calls it allows, by the words of [`Want`]'s doc and apart from
//! the code that assembles the program; and, for each want, arguments that meet it and that do not.

use gofer::sandbox::seccomp::{ALLOWED, AUDIT_ARCH, Modes, REASONS, Rule, Want, X32_BIT};

/// Every set of circumstances that the program installs a filter for. A new one is one line here.
pub(crate) const MODES: &[(&str, Modes)] = &[
    ("BY_PROC_FD", Modes::BY_PROC_FD),
    ("BY_PARENT", Modes::BY_PARENT),
    (
        "BY_PROC_FD with HOST_UDS",
        Modes::BY_PROC_FD.and(Modes::HOST_UDS),
    ),
    (
        "BY_PROC_FD with CHANNELS",
        Modes::BY_PROC_FD.and(Modes::CHANNELS),
    ),
    (
        "BY_PARENT with CHANNELS",
        Modes::BY_PARENT.and(Modes::CHANNELS),
    ),
    (
        "BY_PROC_FD with HOST_UDS and CHANNELS",
        Modes::BY_PROC_FD.and(Modes::HOST_UDS).and(Modes::CHANNELS),
    ),
];

/// A system call as a filter sees it: `struct seccomp_data` without the instruction pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Call {
    pub(crate) arch: u32,
    pub(crate) number: u32,
    pub(crate) args: [u64; 6],
}

impl Call {
    pub(crate) fn new(number: u32, args: [u64; 6]) -> Call {
        Call {
            arch: AUDIT_ARCH,
            number,
            args,
        }
    }

    pub(crate) fn with(mut self, arg: u8, value: u64) -> Call {
        self.args[usize::from(arg)] = value;
        self
    }
}

/// The half of an argument that a change is made in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    Low,
    High,
}

/// What the high half of an argument may hold though its low half is an `int`.
const JUNK: [u64; 4] = [0, 1 << 32, 0x8000_0000 << 32, 0xffff_ffff << 32];

fn low(value: u64) -> u32 {
    value as u32
}

/// Whether `value` is what `want` asks for.
pub(crate) fn meets(want: Want, value: u64) -> bool {
    match want {
        Want::Is(int) => {
            value == u64::from(int) || value == i64::from(int.cast_signed()).cast_unsigned()
        }
        Want::Zero => value == 0,
        Want::Masked(mask, bits) => low(value) & mask == bits,
        Want::Below(bound) => low(value) < bound,
        Want::From(bound) => low(value) >= bound,
    }
}

/// Whether a row that holds in `mode` allows `call`.
pub(crate) fn allows(mode: Modes, call: &Call) -> bool {
    call.arch == AUDIT_ARCH && call.number < X32_BIT && matching(mode, call).next().is_some()
}

/// The rows that hold in `mode` and whose number and wants `call` meets, by their place.
pub(crate) fn matching(mode: Modes, call: &Call) -> impl Iterator<Item = usize> {
    ALLOWED.iter().enumerate().filter_map(move |(at, rule)| {
        let are_met = || {
            rule.wants()
                .all(|(arg, want)| meets(want, call.args[usize::from(arg)]))
        };
        (mode.meets(rule.when) && rule.call == call.number && are_met()).then_some(at)
    })
}

/// Arguments that meet a want, the plainest first.
pub(crate) fn conforming(want: Want) -> Vec<u64> {
    let mut all: Vec<u64> = match want {
        Want::Is(int) => vec![
            u64::from(int),
            i64::from(int.cast_signed()).cast_unsigned(), // the same, or the sign extended
        ],
        Want::Zero => vec![0],
        Want::Masked(mask, bits) => [bits, bits | !mask]
            .iter()
            .flat_map(|&int| JUNK.map(|junk| junk | u64::from(int)))
            .collect(),
        Want::Below(end) | Want::From(end) => [
            if matches!(want, Want::Below(_)) {
                end - 1
            } else {
                end
            },
            if matches!(want, Want::Below(_)) {
                0
            } else {
                u32::MAX
            },
        ]
        .iter()
        .flat_map(|&int| JUNK.map(|junk| junk | u64::from(int)))
        .collect(),
    };
    all.dedup();
    assert!(all.iter().all(|&value| meets(want, value)), "{want:?}");
    all
}

/// Arguments that fail a want: by their low half, under every kind of high half, or by their high
/// half alone, where that counts.
pub(crate) fn violating(want: Want) -> Vec<(Half, u64)> {
    let lows: Vec<u32> = match want {
        Want::Is(int) => (0..32).map(|bit| int ^ 1 << bit).collect(),
        Want::Zero => (0..32).map(|bit| 1 << bit).collect(),
        Want::Masked(mask, bits) => (0..32)
            .filter(|bit| mask >> bit & 1 == 1)
            .flat_map(|bit| [bits ^ 1 << bit, (bits | !mask) ^ 1 << bit])
            .collect(),
        Want::Below(bound) => vec![bound, -100i32 as u32, u32::MAX], // AT_FDCWD is -100
        Want::From(bound) => (0..bound).collect(),
    };
    let mut all = Vec::new();
    for low in lows {
        for junk in JUNK {
            all.push((Half::Low, junk | u64::from(low)));
        }
    }
    for value in conforming(want) {
        all.extend((32..64).map(|bit| (Half::High, value ^ 1 << bit)));
        all.extend([
            (Half::High, value ^ 0xffff_ffff << 32),
            (Half::High, value ^ 0x7fff_ffff << 32),
        ]);
    }
    all.retain(|&(_, value)| !meets(want, value));
    all.sort_unstable_by_key(|&(half, value)| (half == Half::High, value));
    all.dedup();
    all
}

/// A call that a row allows: what it constrains is as it wants, everything else is `filler`.
pub(crate) fn call_of(rule: &Rule, filler: u64) -> Call {
    let mut call = Call::new(rule.call, [filler; 6]);
    for (arg, want) in rule.wants() {
        call = call.with(arg, conforming(want)[0]);
    }
    call
}

/// Row `at` in words, for failures.
pub(crate) fn describe(at: usize) -> String {
    let wants: Vec<(u8, Want)> = ALLOWED[at].wants().collect();
    let (name, why) = REASONS[at];
    format!("row {at}: {name} {wants:x?} ({why})")
}

#[test]
fn wants_are_met_and_failed_as_their_doc_says() {
    let cases = [
        (Want::Is(5), 5, true),
        (Want::Is(5), 4, false),
        (Want::Is(5), 0x1_0000_0005, false),
        (Want::Is(5), 0xffff_ffff_0000_0005, false),
        (Want::Is(0xffff_ff9c), 0xffff_ff9c, true),
        (Want::Is(0xffff_ff9c), 0xffff_ffff_ffff_ff9c, true),
        (Want::Is(0xffff_ff9c), 0x1_ffff_ff9c, false),
        (Want::Zero, 1 << 63, false),
        (Want::Masked(6, 2), 0xffff_ffff_0000_0003, true),
        (Want::Masked(6, 2), 6, false),
        (Want::Below(1 << 31), 0x1234_5678_7fff_ffff, true),
        (Want::Below(1 << 31), 0xffff_ff9c, false),
        (Want::Below(1 << 31), 0xffff_ffff_ffff_ff9c, false),
        (Want::Below(1 << 31), 0x1_ffff_ff9c, false),
        (Want::From(8), 8, true),
        (Want::From(8), 0x1_0000_0007, false),
        (Want::From(8), 0xffff_ffff_0000_0000, false),
    ];
    for (want, value, met) in cases {
        assert_eq!(meets(want, value), met, "{want:?} {value:#x}");
    }
    assert!(violating(Want::Below(1 << 31)).contains(&(Half::Low, 0x1_ffff_ff9c)));
    assert!(
        violating(Want::Masked(1, 1))
            .iter()
            .all(|&(half, _)| half == Half::Low)
    );
}
