//! A request on one line, for people: read from its bytes by the message table's own text.

use core::fmt;

use super::messages::LAYOUTS;
use super::wire::{Field, Perm, Reader, Str};
use crate::errno::Quoted;

/// Request number `kind` with its body, to be printed: its name, and each field with its name.
pub struct Shown<'a> {
    /// The request's number.
    pub kind: u8,
    /// The bytes behind its header.
    pub body: &'a [u8],
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 10];
        let number = crate::decimal::digits(u32::from(self.kind), &mut digits);
        let layout = LAYOUTS
            .split('\n')
            .filter_map(|line| line.split_once('\t'))
            .find(|(kind, _)| kind.as_bytes() == number);
        let Some((_, layout)) = layout else {
            return write!(
                f,
                "type {}, {} bytes",
                u64::from(self.kind),
                self.body.len()
            );
        };
        let mut from = Reader::new(self.body);
        for word in layout.split('\t') {
            match word.split_once(':') {
                None => f.write_str(word)?,
                Some((name, kind)) => {
                    write!(f, " {name}=")?;
                    // Without what it borrows or holds.
                    let kind = kind.split('<').next().unwrap_or_default();
                    show(f, kind.trim_ascii().as_bytes(), &mut from)?;
                }
            }
        }
        from.finish().or_else(|_| f.write_str(" (cut short)"))
    }
}

fn show(f: &mut fmt::Formatter<'_>, kind: &[u8], from: &mut Reader<'_>) -> fmt::Result {
    match kind {
        b"Perm" => write!(f, "{:#o}", u64::from(Perm::read(from).0)),
        b"GetMask" => write!(f, "{:#x}", u64::read(from)),
        b"SetMask" => write!(f, "{:#x}", u64::from(u32::read(from))),
        b"u8" => write!(f, "{}", u64::from(u8::read(from))),
        b"Tag" => write!(f, "{}", u64::from(u16::read(from))),
        b"u64" => write!(f, "{}", u64::read(from)),
        b"SetAttr" => {
            show(f, b"Perm", from)?;
            for kind in [&b"u32"[..], b"u32", b"u64", b"u64", b"u64", b"u64", b"u64"] {
                f.write_str("/")?;
                show(f, kind, from)?;
            }
            Ok(())
        }
        b"Data" => {
            let count = u32::read(from);
            write!(f, "{} bytes", u64::from(count))?;
            let _data = from.remaining();
            Ok(())
        }
        b"Str" => show_text(f, from),
        b"List" => {
            let count = u16::read(from);
            write!(f, "{}", u64::from(count))?;
            for _ in 0..count {
                if from.is_overrun() {
                    break;
                }
                f.write_str(" ")?;
                show_text(f, from)?;
            }
            Ok(())
        }
        _ => write!(f, "{}", u64::from(u32::read(from))),
    }
}

fn show_text(f: &mut fmt::Formatter<'_>, from: &mut Reader<'_>) -> fmt::Result {
    write!(f, "\"{}\"", Quoted(Str::read(from).0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p9::messages::{Message, REQUESTS, Tlopen};
    use crate::p9::wire::{Fid, Writer};

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
        assert_eq!(Shown { kind: 12, body }.to_string(), "Tlopen fid=3 flags=2");
        assert_eq!(
            Shown {
                kind: 12,
                body: &body[..5]
            }
            .to_string(),
            "Tlopen fid=3 flags=0 (cut short)"
        );
        assert_eq!(Shown { kind: 255, body }.to_string(), "type 255, 8 bytes");
        let walk = b"\x01\0\0\0\x02\0\0\0\x02\0\x03\0usr\x02\0\n\xff";
        let shown = Shown {
            kind: 110,
            body: walk,
        }
        .to_string();
        assert_eq!(shown, "Twalk fid=1 newfid=2 names=2 \"usr\" \"\\n\\xff\"");
    }

    #[test]
    fn every_request_is_shown_by_its_name() {
        for &(kind, name, least) in REQUESTS {
            let shown = Shown {
                kind,
                body: &vec![0; least],
            }
            .to_string();
            assert!(
                shown.starts_with(&format!("{name} ")) && !shown.contains("cut short"),
                "{shown}"
            );
        }
    }
}
