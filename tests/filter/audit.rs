//! The binary's own call sites: every `syscall` instruction of the built program, with the number that
//! stands in rax there. x86-64 only; the machine code is read, not the source, since a wrapper may make
//! another call than its name says.
//!
//! The number is looked for backwards from each site, along every way that leads there. The ways are
//! known where jumps are direct. Where one may be indirect (a function whose address is taken, the
//! target of a jump table), nothing is assumed: the site fails the test.

use crate::harness::binary;
use crate::say;
use gofer::sandbox::seccomp::{ALLOWED, REASONS};
use linux_raw_sys::general as nr;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::process::Command;

macro_rules! startup {
    ($( $call:ident $name:literal $why:literal; )*) => {
        /// Calls made before the filter is on and never behind it: number, name, who makes them.
        const STARTUP: &[(u32, &str, &str)] = &[ $( (nr::$call, $name, $why) ),* ];
    };
}

startup! {
    // ours
    __NR_mmap "mmap" "buffers, tables and heap, reserved once";
    __NR_mprotect "mprotect" "relocated data made read-only";
    __NR_read "read" "the end of --sync-userns-fd";
    __NR_fstat "fstat" "kinds of descriptors, sizes of files";
    __NR_openat2 "openat2" "attach points and mount points, inside the new root";
    __NR_open_tree "open_tree" "the detached clones of /proc/self/fd and of what is served; the sources of bind mounts";
    __NR_mount_setattr "mount_setattr" "what the mounts of what is served forbid";
    __NR_fsopen "fsopen" "the empty root";
    __NR_fsconfig "fsconfig" "the empty root";
    __NR_fsmount "fsmount" "the empty root";
    __NR_landlock_create_ruleset "landlock_create_ruleset" "rules of Landlock";
    __NR_landlock_add_rule "landlock_add_rule" "a rule for each attach point";
    __NR_landlock_restrict_self "landlock_restrict_self" "rules put in force";
    __NR_unshare "unshare" "a mount namespace of our own";
    __NR_mount "mount" "the tmpfs and the procfs of the new root; propagation and flags";
    __NR_move_mount "move_mount" "bind mounts put on their mount points";
    __NR_pivot_root "pivot_root" "the new root";
    __NR_umount2 "umount2" "the old root";
    __NR_setuid "setuid" "the user namespace's root";
    __NR_setgid "setgid" "the user namespace's root";
    __NR_pipe2 "pipe2" "placeholders at fixed descriptors";
    __NR_dup3 "dup3" "the fixed descriptors put in place";
    __NR_close_range "close_range" "stray descriptors closed";
    __NR_ioctl "ioctl" "FIONBIO: sockets whose calls wait";
    __NR_setsockopt "setsockopt" "SO_RCVTIMEO: how long a receive waits; SO_SNDBUF of what the descriptors of channels go over";
    __NR_epoll_create1 "epoll_create1" "one descriptor that tells of all sockets";
    __NR_epoll_ctl "epoll_ctl" "the sockets put into it";
    __NR_memfd_create "memfd_create" "the windows of channels";
    __NR_socketpair "socketpair" "what the descriptors of channels go over";
    __NR_shutdown "shutdown" "our ends of these receive nothing";
    __NR_getpid "getpid" "the log's lines, and who gets the sockets' signals";
    __NR_getuid "getuid" "the log's banner";
    __NR_getgid "getgid" "the log's banner";
    __NR_getrandom "getrandom" "keys of the hash tables";
    __NR_prlimit64 "prlimit64" "descriptors up, core files off";
    __NR_prctl "prctl" "not dumpable, bounding and ambient set, no_new_privs";
    __NR_rt_sigaction "rt_sigaction" "SIGPIPE and SIGXFSZ ignored, SIGIO counted";
    __NR_capget "capget" "capabilities";
    __NR_capset "capset" "capabilities";
    __NR_umask "umask" "0";
    __NR_chroot "chroot" "the root served, then the empty one";
    __NR_chdir "chdir" "the root served";
    __NR_fchdir "fchdir" "the empty root, and the clone of /proc/self/fd with --host-uds";
    __NR_seccomp "seccomp" "the filter itself";
}

// ---- machine code ---------------------------------------------------------------------------

/// An instruction as objdump writes it (AT&T: the destination comes last).
#[derive(Debug)]
struct Instruction {
    at: u64,
    op: String,
    operands: Vec<String>,
}

impl Instruction {
    fn parse(line: &str) -> Option<Instruction> {
        let (at, text) = line.trim_start().split_once(':')?;
        let at = u64::from_str_radix(at, 16).ok()?;
        let text = text.split('#').next().unwrap_or_default();
        let mut text = text.trim();
        let op = loop {
            let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            text = rest.trim_start();
            let is_prefix = matches!(
                word,
                "notrack"
                    | "bnd"
                    | "lock"
                    | "rep"
                    | "repz"
                    | "repnz"
                    | "data16"
                    | "cs"
                    | "ds"
                    | "es"
                    | "addr32"
            );
            if !is_prefix || text.is_empty() {
                break word.to_owned();
            }
        };
        Some(Instruction {
            at,
            op,
            operands: split_operands(text),
        })
    }

    fn is_jump(&self) -> bool {
        self.op.starts_with('j') || self.op.starts_with("loop")
    }

    /// Whether control never goes on behind it.
    fn ends_the_way(&self) -> bool {
        self.op.starts_with("jmp")
            || self.op.starts_with("ret")
            || matches!(self.op.as_str(), "hlt" | "ud2" | "int3" | "(bad)")
    }

    /// Fills gaps between functions.
    fn is_padding(&self) -> bool {
        let is_idle_exchange = self.op == "xchg" && self.operands == ["%ax", "%ax"];
        self.op.starts_with("nop") || self.op == "int3" || is_idle_exchange
    }

    /// Where a direct jump or call leads.
    fn target(&self) -> Option<u64> {
        if self.is_jump() || self.op.starts_with("call") {
            let [operand] = self.operands.as_slice() else {
                return None;
            };
            let word = operand.split_whitespace().next()?;
            return u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok();
        }
        None
    }
}

/// Splits at commas outside parentheses.
fn split_operands(text: &str) -> Vec<String> {
    let (mut all, mut depth) = (vec![String::new()], 0);
    for char in text.trim().chars() {
        match char {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        all.last_mut().expect("one at least").push(char);
    }
    all.retain(|operand| !operand.is_empty());
    all
}

/// The 64-bit register that a register operand is in, and the operand's width in bits.
fn register(operand: &str) -> Option<(&'static str, u32)> {
    const LETTERS: [(&str, &str); 4] = [("rax", "a"), ("rbx", "b"), ("rcx", "c"), ("rdx", "d")];
    const WORDS: [(&str, &str); 4] = [("rsi", "si"), ("rdi", "di"), ("rbp", "bp"), ("rsp", "sp")];
    const NUMBERED: [&str; 8] = ["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
    let name = operand.strip_prefix('%')?;
    for (whole, letter) in LETTERS {
        for (width, form) in [
            (64, format!("r{letter}x")),
            (32, format!("e{letter}x")),
            (16, format!("{letter}x")),
            (8, format!("{letter}l")),
            (8, format!("{letter}h")),
        ] {
            if name == form {
                return Some((whole, width));
            }
        }
    }
    for (whole, word) in WORDS {
        for (width, form) in [
            (64, format!("r{word}")),
            (32, format!("e{word}")),
            (16, word.to_owned()),
            (8, format!("{word}l")),
        ] {
            if name == form {
                return Some((whole, width));
            }
        }
    }
    for whole in NUMBERED {
        let width = match name.strip_prefix(whole) {
            Some("") => 64,
            Some("d") => 32,
            Some("w") => 16,
            Some("b") => 8,
            _ => continue,
        };
        return Some((whole, width));
    }
    None
}

fn immediate(operand: &str) -> Option<u64> {
    let text = operand.strip_prefix('$')?;
    let digits = text.strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok()
}

// ---- looking backwards ----------------------------------------------------------------------

/// Where the number is, at some point of the way back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Place {
    Register(&'static str),
    /// This many words below the top of the stack.
    Stack(u32),
}

/// What an instruction says about a place, seen from behind it.
#[derive(Debug)]
enum Origin {
    Untouched(Place),
    Value(u64),
    Unknown,
}

/// Registers that a called function may change.
const SCRATCH: [&str; 9] = ["rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"];

/// A register behind an instruction that changes `implied` registers, and its destination.
fn behind(instruction: &Instruction, implied: &[&str], name: &'static str) -> Origin {
    let Instruction { op, operands, .. } = instruction;
    // These write to more than their last operand.
    let several = ["xchg", "xadd", "cmpxchg", "mulx"];
    let written = if several.iter().any(|several| op.starts_with(several)) {
        operands.as_slice()
    } else {
        operands
            .last()
            .map(std::slice::from_ref)
            .unwrap_or_default()
    };
    let is_it = |operand: &String| register(operand).is_some_and(|(whole, _)| whole == name);
    if implied.contains(&name) || written.iter().any(is_it) {
        Origin::Unknown
    } else {
        Origin::Untouched(Place::Register(name))
    }
}

fn origin(instruction: &Instruction, place: Place) -> Origin {
    let Instruction { op, operands, .. } = instruction;
    let op = op.as_str();
    let name = match place {
        Place::Register(name) => name,
        Place::Stack(depth) => {
            let touches = operands
                .iter()
                .any(|operand| operand.contains("%rsp") || operand.contains("%rbp"));
            return match (op, operands.as_slice()) {
                ("push" | "pushq", [pushed]) if depth == 0 => {
                    match (immediate(pushed), register(pushed)) {
                        (Some(value), _) => Origin::Value(value),
                        (None, Some((whole, 64))) => Origin::Untouched(Place::Register(whole)),
                        _ => Origin::Unknown,
                    }
                }
                ("push" | "pushq", [_]) => Origin::Untouched(Place::Stack(depth - 1)),
                ("pop" | "popq", [_]) => Origin::Untouched(Place::Stack(depth + 1)),
                _ if op.starts_with("call") || op == "leave" || op == "enter" || touches => {
                    Origin::Unknown
                }
                _ => Origin::Untouched(place),
            };
        }
    };
    let is_place = |operand: &String| register(operand).is_some_and(|(whole, _)| whole == name);
    let width = |operand: &String| register(operand).map_or(0, |(_, width)| width);
    match (op, operands.as_slice()) {
        ("mov" | "movl" | "movq" | "movabs", [from, to]) if is_place(to) => {
            match (immediate(from), register(from), width(to)) {
                (Some(value), _, 64) => Origin::Value(value),
                (Some(value), _, 32) => Origin::Value(value & 0xffff_ffff),
                (None, Some((whole, 64)), 64) | (None, Some((whole, 32)), 32) => {
                    Origin::Untouched(Place::Register(whole))
                }
                _ => Origin::Unknown,
            }
        }
        ("mov" | "movl" | "movq" | "movabs" | "movb" | "movw", [_, _]) => Origin::Untouched(place),
        ("xor" | "sub", [one, other]) if is_place(other) && one == other => {
            if width(other) >= 32 {
                Origin::Value(0)
            } else {
                Origin::Unknown
            }
        }
        ("pop" | "popq", [to]) if is_place(to) && width(to) == 64 => {
            Origin::Untouched(Place::Stack(0))
        }
        (
            "cmp" | "cmpb" | "cmpw" | "cmpl" | "cmpq" | "test" | "testb" | "testw" | "testl"
            | "testq" | "bt" | "push" | "pushq",
            _,
        ) => Origin::Untouched(place),
        ("syscall", _) => behind(instruction, &["rax", "rcx", "r11"], name),
        ("cltq" | "cwtl" | "cbtw", _) => behind(instruction, &["rax"], name),
        ("cqto" | "cltd" | "cwtd", _) => behind(instruction, &["rdx"], name),
        _ if instruction.is_padding() || op.starts_with('j') => Origin::Untouched(place),
        _ if op.starts_with("call") => {
            let is_kept = !SCRATCH.contains(&name);
            if is_kept {
                Origin::Untouched(place)
            } else {
                Origin::Unknown
            }
        }
        _ if operands
            .iter()
            .any(|operand| operand.starts_with("%es:") || operand.starts_with("%ds:")) =>
        {
            behind(instruction, &["rax", "rcx", "rsi", "rdi"], name) // a string instruction
        }
        _ => {
            let implied: &[&str] = match op.trim_end_matches(['b', 'w', 'l', 'q']) {
                "mul" | "imu" | "mu" | "imul" | "div" | "idiv" | "mulx" => &["rax", "rdx"],
                "cmpxchg" | "lahf" => &["rax"],
                "cmpxchg8" | "cmpxchg16" | "cpuid" | "rdtsc" | "rdtscp" | "xgetbv" => {
                    &["rax", "rbx", "rcx", "rdx"]
                }
                "loop" | "loope" | "loopne" => &["rcx"],
                "leave" | "enter" => &["rbp", "rsp"],
                "xlat" | "in" | "out" => &["rax"],
                _ => &[],
            };
            behind(instruction, implied, name)
        }
    }
}

/// The program taken apart.
struct Code {
    list: Vec<Instruction>,
    /// Where instructions start.
    addresses: HashSet<u64>,
    /// Direct jumps and calls, by the address they lead to.
    sources: HashMap<u64, Vec<usize>>,
    /// Addresses that something may lead to besides.
    indirect: HashSet<u64>,
}

impl Code {
    fn read() -> Code {
        let path = binary();
        let output = Command::new("objdump")
            .args(["--disassemble", "--wide", "--no-show-raw-insn"])
            .arg(&path)
            .env("LC_ALL", "C")
            .output()
            .unwrap_or_else(|error| {
                panic!("objdump: {error}: install the Debian package binutils")
            });
        assert!(
            output.status.success(),
            "objdump: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).expect("objdump's text");
        let mut code = Code::of_text(&text);
        assert!(code.list.len() > 1000, "not what objdump's text looks like");
        let bytes = std::fs::read(&path).expect("read the program");
        code.indirect = code.indirect_targets(&bytes, &text);
        code
    }

    fn of_text(text: &str) -> Code {
        let list: Vec<Instruction> = text.lines().filter_map(Instruction::parse).collect();
        let addresses = list.iter().map(|instruction| instruction.at).collect();
        let mut sources: HashMap<u64, Vec<usize>> = HashMap::new();
        for (place, instruction) in list.iter().enumerate() {
            if let Some(target) = instruction.target() {
                sources.entry(target).or_default().push(place);
            }
        }
        Code {
            list,
            addresses,
            sources,
            indirect: HashSet::new(),
        }
    }

    /// The values that rax may have where `site` is executed. The error is the address of an
    /// instruction that hides it.
    fn numbers(&self, site: usize) -> Result<BTreeSet<u64>, String> {
        let mut found = BTreeSet::new();
        let mut open = vec![(site, Place::Register("rax"))];
        let mut seen = HashSet::new();
        while let Some((behind, place)) = open.pop() {
            if !seen.insert((behind, place)) {
                continue;
            }
            let here = &self.list[behind];
            let fault =
                |why: &str| Err(format!("{why} at {:x}, where it is in {place:?}", here.at));
            if self.indirect.contains(&here.at) {
                return fault("an indirect way in");
            }
            let mut before: Vec<usize> = self.sources.get(&here.at).cloned().unwrap_or_default();
            if let Some(previous) = behind.checked_sub(1)
                && !self.list[previous].ends_the_way()
            {
                before.push(previous);
            }
            if before.is_empty() && !here.is_padding() {
                return fault("no way in");
            }
            for previous in before {
                let instruction = &self.list[previous];
                let is_call_of_this =
                    instruction.op.starts_with("call") && instruction.target() == Some(here.at);
                let came = match place {
                    Place::Register(_) if is_call_of_this => Origin::Untouched(place),
                    _ => origin(instruction, place),
                };
                match came {
                    Origin::Value(value) => drop(found.insert(value)),
                    Origin::Untouched(place) => open.push((previous, place)),
                    Origin::Unknown => {
                        return Err(format!(
                            "{place:?} is set at {:x} by {} {:?}",
                            instruction.at, instruction.op, instruction.operands
                        ));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Addresses of instructions that may be reached by a pointer or a jump table: those that an
    /// instruction computes, those that stand anywhere in what is loaded as a 64-bit word (relocated pointers),
    /// and those at distances that follow an address which an instruction computes (switch tables).
    /// More than there are, never less.
    fn indirect_targets(&self, bytes: &[u8], text: &str) -> HashSet<u64> {
        let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let headers = long(32).expect("an ELF header") as usize;
        let entry_bytes = usize::from(half(54).expect("an ELF header"));
        let count = usize::from(half(56).expect("an ELF header"));
        let segments: Vec<(u64, u64, u64)> = (0..count)
            .map(|number| headers + number * entry_bytes)
            .filter(|&at| word(at) == Some(1)) // PT_LOAD
            .filter_map(|at| Some((long(at + 8)?, long(at + 16)?, long(at + 32)?)))
            .collect();
        let place_of = |address: u64| {
            let inside =
                |&&(_, start, size): &&(u64, u64, u64)| (start..start + size).contains(&address);
            let (offset, start, _) = segments.iter().find(inside)?;
            Some((address - start + offset) as usize)
        };

        // Of the headers, which hold places in the file and sizes, none is a pointer.
        let behind_headers = headers + count * entry_bytes;
        let loaded = segments.iter().flat_map(|&(offset, _, size)| {
            let end = (offset + size) as usize;
            (offset as usize).max(behind_headers).next_multiple_of(4)..end
        });
        let mut all: HashSet<u64> = loaded
            .filter(|at| at % 4 == 0)
            .filter_map(long)
            .filter(|address| self.addresses.contains(address))
            .collect();
        let computed = text
            .lines()
            .filter(|line| line.contains("(%rip)"))
            .filter_map(|line| line.rsplit_once("# 0x"))
            .filter_map(|(_, address)| {
                u64::from_str_radix(address.split_whitespace().next()?, 16).ok()
            });
        for address in computed {
            if self.addresses.contains(&address) {
                all.insert(address);
                continue;
            }
            let mut at = place_of(address);
            while let Some(distance) = at.and_then(word) {
                let target =
                    address.wrapping_add(i64::from(distance.cast_signed()).cast_unsigned());
                if !self.addresses.contains(&target) {
                    break;
                }
                all.insert(target);
                at = at.map(|at| at + 4);
            }
        }
        all
    }
}

#[test]
fn binary_audit_every_call_site_is_in_a_table_and_every_row_has_a_site() {
    let code = Code::read();
    let mut sites: BTreeMap<u64, usize> = BTreeMap::new();
    let mut faults = Vec::new();
    for (place, instruction) in code.list.iter().enumerate() {
        match instruction.op.as_str() {
            "sysenter" => faults.push(format!("sysenter at {:x}", instruction.at)),
            "int" => faults.push(format!(
                "int {:?} at {:x}",
                instruction.operands, instruction.at
            )),
            "syscall" => match code.numbers(place) {
                Ok(numbers) if numbers.is_empty() => {
                    faults.push(format!("site {:x}: no number", instruction.at));
                }
                Ok(numbers) => {
                    for number in numbers {
                        *sites.entry(number).or_default() += 1;
                    }
                }
                Err(why) => faults.push(format!("site {:x}: {why}", instruction.at)),
            },
            _ => {}
        }
    }

    let served: BTreeMap<u64, &str> = ALLOWED
        .iter()
        .zip(REASONS)
        .map(|(rule, &(name, _))| (u64::from(rule.call), name))
        .collect();
    let startup: BTreeMap<u64, &str> = STARTUP
        .iter()
        .map(|&(number, name, _)| (u64::from(number), name))
        .collect();
    let mut lines = Vec::new();
    for (number, count) in &sites {
        let (name, table) = match (served.get(number), startup.get(number)) {
            (Some(name), None) => (*name, "served"),
            (None, Some(name)) => (*name, "start-up"),
            (None, None) => {
                faults.push(format!("call {number} is in no table: {count} sites"));
                continue;
            }
            (Some(name), Some(_)) => {
                faults.push(format!("{name} is in both tables"));
                continue;
            }
        };
        lines.push(format!("  {number:3} {name} ({table}): {count}"));
    }
    for (number, name) in served.iter().chain(&startup) {
        if !sites.contains_key(number) {
            faults.push(format!("{name} is in a table and has no site"));
        }
    }
    say(&format!(
        "call sites of {}:\n{}",
        binary().display(),
        lines.join("\n")
    ));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

// ---- the reader itself ----------------------------------------------------------------------

/// The numbers at the only site of a piece of code.
fn numbers_in(text: &str) -> Result<Vec<u64>, String> {
    let code = Code::of_text(text);
    let is_site = |instruction: &Instruction| instruction.op == "syscall";
    let site = code.list.iter().position(is_site).expect("a site");
    code.numbers(site).map(|found| found.into_iter().collect())
}

#[test]
fn audit_number_is_found_in_every_way_it_is_set() {
    let jumped = "1: mov $0x7,%ebx\n2: test %eax,%eax\n3: je 6\n4: mov $0x5,%ebx\n5: nop\n6: mov %rbx,%rax\n7: syscall";
    let called = "1: mov $0x9,%edi\n2: call 5\n3: ret\n4: nop\n5: mov %edi,%eax\n6: syscall";
    let looped = "1: push $0x2\n2: pop %r9\n3: mov %r9,%rax\n4: syscall\n5: jmp 3";
    let cases: [(&str, &[u64]); 7] = [
        ("1: mov $0xe7,%eax\n2: xor %edi,%edi\n3: syscall", &[231]),
        ("1: push $0x3c\n2: pop %rax\n3: syscall", &[60]),
        ("1: xor %eax,%eax\n2: lea 0x8(%rsp),%rsi\n3: syscall", &[0]),
        (
            "1: mov $0x9,%eax\n2: mov %rsp,(%rax)\n3: movslq %edi,%rdi\n4: syscall",
            &[9],
        ),
        (jumped, &[5, 7]),
        (called, &[9]),
        (looped, &[2]),
    ];
    for (text, wanted) in cases {
        assert_eq!(numbers_in(text).unwrap(), wanted, "{text}");
    }
}

#[test]
fn audit_number_that_cannot_be_known_is_a_fault() {
    for text in [
        "1: mov $0x1,%eax\n2: inc %eax\n3: syscall",
        "1: mov $0x1,%eax\n2: mov $0x2,%al\n3: syscall",
        "1: mov $0x1,%eax\n2: call 9\n3: syscall",
        "1: mov $0x1,%eax\n2: cmove %rcx,%rax\n3: syscall",
        "1: mov (%rdi),%eax\n2: syscall",
        "1: mov $0x1,%eax\n2: ret\n3: syscall",
        "1: mov $0x1,%eax\n2: xchg %rax,%rdi\n3: syscall",
        "1: mov $0x1,%eax\n2: cpuid\n3: syscall",
        "1: mov $0x1,%ecx\n2: rep stos %al,%es:(%rdi)\n3: mov %ecx,%eax\n4: syscall",
    ] {
        numbers_in(text).unwrap_err();
    }
}
