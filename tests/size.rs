//! The built program as a file and as an image in memory: its size, that it is static and position
//! independent, and that nothing in it is both writable and executable.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

use harness::{Tree, binary, serve};
use kit::harness;
use std::fs;
use std::io::Write;
use std::ops::Range;

const LARGEST: usize = 139_264;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const DT_NEEDED: u64 = 1;
const DT_TEXTREL: u64 = 22;
const DT_RELA: u64 = 7;
const DT_REL: u64 = 17;
const DT_JMPREL: u64 = 23;
const DT_RELR: u64 = 36;

/// A program header.
#[derive(Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

struct Elf {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
}

impl Elf {
    fn read() -> Elf {
        let bytes = fs::read(binary()).unwrap();
        assert_eq!(
            bytes[..6],
            *b"\x7fELF\x02\x01",
            "a 64-bit little-endian program"
        );
        let mut elf = Elf {
            bytes,
            segments: Vec::new(),
        };
        let (start, size) = (elf.u64(32), u64::from(elf.u16(54)));
        for number in 0..u64::from(elf.u16(56)) {
            let at = (start + number * size) as usize;
            elf.segments.push(Segment {
                kind: elf.u32(at),
                flags: elf.u32(at + 4),
                offset: elf.u64(at + 8),
                address: elf.u64(at + 16),
                file_bytes: elf.u64(at + 32),
                memory_bytes: elf.u64(at + 40),
            });
        }
        elf
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn segment(&self, kind: u32) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.kind == kind)
    }

    /// The tags of the dynamic section.
    fn dynamic_tags(&self) -> Vec<u64> {
        let Some(dynamic) = self.segment(PT_DYNAMIC) else {
            return Vec::new();
        };
        let start = dynamic.offset as usize;
        let end = start + dynamic.file_bytes as usize;
        let tags = (start..end).step_by(16).map(|at| self.u64(at));
        tags.take_while(|&tag| tag != 0).collect()
    }
}

#[test]
fn the_readme_has_the_programs_size_to_a_kibibyte() {
    let readme = include_str!("../README.md");
    let row = readme
        .lines()
        .find_map(|line| line.strip_prefix("| binary | "))
        .expect("a row of the table");
    let told: f64 = row.split(' ').next().unwrap().parse().unwrap();
    let is = fs::metadata(binary()).unwrap().len() as f64 / 1024.0;
    assert!((told - is).abs() < 1.0, "{told} KiB, and it has {is:.1}");
}

#[test]
fn program_is_at_most_139264_bytes() {
    let size = Elf::read().bytes.len();
    // Past the test harness, which would keep it for itself.
    writeln!(
        std::io::stderr(),
        "size of {}: {size} bytes of {LARGEST}",
        binary().display()
    )
    .unwrap();
    assert!(size <= LARGEST, "{size}");
}

#[test]
fn program_is_static() {
    let elf = Elf::read();
    assert!(elf.segment(PT_INTERP).is_none(), "it has an interpreter");
    assert!(
        !elf.dynamic_tags().contains(&DT_NEEDED),
        "it needs a library"
    );
}

#[test]
fn program_is_position_independent() {
    let elf = Elf::read();
    assert_eq!(elf.u16(16), 3, "ET_DYN");
    assert!(
        !elf.dynamic_tags().contains(&DT_TEXTREL),
        "it relocates its code"
    );
}

/// What the entry adds to is listed in one way, the only one that it reads.
#[test]
fn relocations_are_packed_ones_alone() {
    let tags = Elf::read().dynamic_tags();
    assert!(tags.contains(&DT_RELR), "no packed relocations");
    for other in [DT_RELA, DT_REL, DT_JMPREL] {
        assert!(!tags.contains(&other), "relocations of tag {other}");
    }
}

#[test]
fn program_has_no_segment_writable_and_executable() {
    let elf = Elf::read();
    for segment in &elf.segments {
        assert_ne!(segment.flags & (PF_W | PF_X), PF_W | PF_X, "{segment:x?}");
    }
    let stack = elf.segment(PT_GNU_STACK).expect("a PT_GNU_STACK");
    assert_eq!(stack.flags & PF_X, 0, "an executable stack");
}

#[test]
fn program_is_stripped() {
    let elf = Elf::read();
    let (start, size) = (elf.u64(40) as usize, usize::from(elf.u16(58)));
    for number in 0..usize::from(elf.u16(60)) {
        let kind = elf.u32(start + number * size + 4);
        assert_ne!(kind, 2, "a symbol table");
    }
}

/// A line of /proc/PID/maps.
struct Mapping {
    range: Range<u64>,
    mode: String,
    offset: u64,
    name: String,
}

fn mappings(text: &str) -> Vec<Mapping> {
    let hex = |word: &str| u64::from_str_radix(word, 16).unwrap();
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next().unwrap().split_once('-').unwrap();
        let mode = words.next().unwrap().to_owned();
        let offset = hex(words.next().unwrap());
        let name = words.nth(2).unwrap_or_default().to_owned();
        Mapping {
            range: hex(start)..hex(end),
            mode,
            offset,
            name,
        }
    };
    text.lines().map(parse).collect()
}

/// Neither musl nor the kernel does it for a static program: it must itself.
#[test]
fn relocated_data_is_read_only_while_it_serves() {
    let elf = Elf::read();
    let relro = elf.segment(PT_GNU_RELRO).expect("a PT_GNU_RELRO");
    let first = elf.segment(PT_LOAD).expect("a PT_LOAD");
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .unwrap()
        .unwrap() as u64;

    let tree = Tree::new();
    let s = serve(&tree);
    let maps = mappings(&s.gofer.proc_text("maps").unwrap());
    let name = binary().canonicalize().unwrap();
    let image = maps
        .iter()
        .find(|mapping| mapping.name == name.to_str().unwrap() && mapping.offset == 0);
    let base = image
        .expect("the mapping of the program's start")
        .range
        .start
        - first.address / page * page;
    let start = (base + relro.address) / page * page;
    let end = (base + relro.address + relro.memory_bytes) / page * page;
    assert!(start < end, "a whole page to protect");

    let mut at = start;
    for mapping in maps
        .iter()
        .filter(|mapping| mapping.range.end > start && mapping.range.start < end)
    {
        assert_eq!(mapping.mode, "r--p", "{:x?}", mapping.range);
        assert!(mapping.range.start <= at, "a hole at {at:x}");
        at = mapping.range.end;
    }
    assert!(at >= end, "mapped up to {at:x} of {end:x}");
}

#[test]
fn nothing_mapped_is_writable_and_executable() {
    let tree = Tree::new();
    let s = serve(&tree);
    for mapping in mappings(&s.gofer.proc_text("maps").unwrap()) {
        assert!(
            !(mapping.mode.contains('w') && mapping.mode.contains('x')),
            "{:x?}",
            mapping.range
        );
    }
}
