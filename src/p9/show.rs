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
                    show(kind.trim_ascii(), &mut from, to);
                }
            }
        }
        if from.finish().is_err() {
            to.put(b" (cut short)");
        }
    }
}

fn show(kind: &[u8], from: &mut Reader<'_>, to: &mut dyn Sink) {
    let number = match kind {
        b"Perm" => Octal(Perm::read(from).0.into()),
        b"GetMask" => Hex(u64::read(from)),
        b"SetMask" => Hex(u32::read(from).into()),
        b"u8" => Number(u8::read(from).into()),
        b"Tag" => Number(u16::read(from).into()),
        b"u64" => Number(u64::read(from)),
        b"SetAttr" => {
            show(b"Perm", from, to);
            for kind in [&b"u32"[..], b"u32", b"u64", b"u64", b"u64", b"u64", b"u64"] {
                to.put(b"/");
                show(kind, from, to);
            }
            return;
        }
        b"Data" => {
            Number(u32::read(from).into()).say(to);
            let _data = from.remaining();
            return to.put(b" bytes");
        }
        b"Str" => return show_text(from, to),
        b"List" => {
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
