//! A request on one line, for people: read from its bytes by the message table's own text.

use super::messages::LAYOUTS;
use super::wire::{Field, Perm, Reader, Str};
use crate::decimal::digits;
use crate::text;
use crate::text::Arg::{Hex, Number, Octal, Quoted};
use crate::text::{Say, Sink};

/// Request number `kind` with its body, to be printed: its name, and each field with its name.
pub struct Shown<'a> {
    /// The request's number.
    pub kind: u8,
    /// The bytes behind its header.
    pub body: &'a [u8],
}

impl Say for Shown<'_> {
    fn say(&self, to: &mut dyn Sink) {
        let mut buffer = [0; 22];
        let number = digits(self.kind.into(), 10, &mut buffer);
        let mut room = [0; LAYOUTS.len()];
        let layout = crate::packed!(LAYOUTS.as_bytes())
            .unpack(&mut room)
            .split(|&byte| byte == b'\n')
            .find_map(|line| {
                let layout = line.strip_prefix(number)?;
                layout.strip_prefix(b"\t")
            });
        let Some(layout) = layout else {
            let bytes = self.body.len() as u64;
            return text!("type %, % bytes", Number(self.kind.into()), Number(bytes)).say(to);
        };
        let mut from = Reader::new(self.body);
        for word in layout.split(|&byte| byte == b'\t') {
            // Without what the type borrows or holds.
            let mut parts = word.split(|byte| matches!(byte, b':' | b'<'));
            let name = parts.next().unwrap_or_default();
            match parts.next() {
                None => to.put(name),
                Some(kind) => {
                    to.put(b" ");
                    to.put(name);
                    to.put(b"=");
                    show(as_number(kind.trim_ascii()), &mut from, to);
                }
            }
        }
        if from.finish().is_err() {
            to.put(b" (cut short)");
        }
    }
}

/// A type's name as a number: to compare with eight bytes at once is less code than byte by byte.
const fn as_number(name: &[u8]) -> u64 {
    let (mut number, mut rest) = (0, name);
    while let [byte, behind @ ..] = rest {
        number = number << 8 | *byte as u64;
        rest = behind;
    }
    number
}

const PERM: u64 = as_number(b"Perm");
const GET_MASK: u64 = as_number(b"GetMask");
const SET_MASK: u64 = as_number(b"SetMask");
const TAG: u64 = as_number(b"Tag");
const U8: u64 = as_number(b"u8");
const U32: u64 = as_number(b"u32");
const U64: u64 = as_number(b"u64");
const SET_ATTR: u64 = as_number(b"SetAttr");
const DATA: u64 = as_number(b"Data");
const STR: u64 = as_number(b"Str");
const LIST: u64 = as_number(b"List");

fn show(kind: u64, from: &mut Reader<'_>, to: &mut dyn Sink) {
    let number = match kind {
        PERM => Octal(Perm::read(from).0.into()),
        GET_MASK => Hex(u64::read(from)),
        SET_MASK => Hex(u32::read(from).into()),
        TAG => Number(u16::read(from).into()),
        U8 => Number(u8::read(from).into()),
        U64 => Number(u64::read(from)),
        SET_ATTR => {
            show(PERM, from, to);
            for kind in [U32, U32, U64, U64, U64, U64, U64] {
                to.put(b"/");
                show(kind, from, to);
            }
            return;
        }
        DATA => {
            Number(u32::read(from).into()).say(to);
            let _data = from.remaining();
            return to.put(b" bytes");
        }
        STR => return show_text(from, to),
        LIST => {
            let count = u16::read(from);
            Number(count.into()).say(to);
            for _ in 0..count {
                if from.is_overrun() {
                    break;
                }
                to.put(b" ");
                show_text(from, to);
            }
            return;
        }
        _ => Number(u32::read(from).into()),
    };
    number.say(to);
}

fn show_text(from: &mut Reader<'_>, to: &mut dyn Sink) {
    text!("\"%\"", Quoted(Str::read(from).0)).say(to);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p9::messages::{Message, REQUESTS, Tlopen};
    use crate::p9::wire::{Fid, Writer};
    use crate::text::said;

    #[test]
    fn requests_are_shown_by_name_with_their_fields() {
        let mut buffer = [0; 64];
        let mut to = Writer::new(&mut buffer);
        Tlopen {
            fid: Fid(3),
            flags: 2,
        }
        .encode(&mut to);
        let body = &buffer[..8];
        assert_eq!(said(&Shown { kind: 12, body }), "Tlopen fid=3 flags=2");
        assert_eq!(
            said(&Shown {
                kind: 12,
                body: &body[..5]
            }),
            "Tlopen fid=3 flags=0 (cut short)"
        );
        assert_eq!(said(&Shown { kind: 255, body }), "type 255, 8 bytes");
        let walk = b"\x01\0\0\0\x02\0\0\0\x02\0\x03\0usr\x02\0\n\xff";
        let shown = said(&Shown {
            kind: 110,
            body: walk,
        });
        assert_eq!(shown, "Twalk fid=1 newfid=2 names=2 \"usr\" \"\\n\\xff\"");
    }

    #[test]
    fn every_request_is_shown_by_its_name() {
        for &(kind, name, least) in REQUESTS {
            let shown = said(&Shown {
                kind,
                body: &vec![0; least],
            });
            assert!(
                shown.starts_with(&format!("{name} ")) && !shown.contains("cut short"),
                "{shown}"
            );
        }
    }
}
