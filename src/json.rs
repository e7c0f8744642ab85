//! JSON as Go's encoding/json scans it: the same texts are taken, the others refused with the same words.
//! Makes no system call, and nests without recursion.

use crate::sys::arena::List;
use crate::text;
use crate::text::Arg::{Raw, Said, Str};
use crate::text::{Say, Sink, number_to};

/// Go's limit of brackets in brackets.
pub const DEPTH: usize = 10_000;

/// What stands next in a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// `{`
    Object,
    /// `[`
    Array,
    /// The end of the innermost of these two.
    End,
    /// A key; its value comes next.
    Key(Text<'a>),
    /// A string.
    String(Text<'a>),
    /// A number, as written.
    Number(&'a [u8]),
    /// `true` or `false`
    Bool(bool),
    /// `null`
    Null,
}

/// Why a document is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It ends too early.
    End,
    /// A byte that cannot stand where it stands, and what was looked for.
    Byte(u8, &'static str),
    /// A byte that is not the letter that a word has there: the word, the letter.
    Letter(u8, &'static str, u8),
}

impl Say for Fault {
    fn say(&self, to: &mut dyn Sink) {
        match *self {
            Self::End => to.put(b"unexpected end of JSON input"),
            Self::Byte(byte, place) => {
                text!("invalid character '%' %", Said(&Shown(byte)), Str(place)).say(to);
            }
            Self::Letter(byte, word, letter) => text!(
                "invalid character '%' in literal % (expecting '%')",
                Said(&Shown(byte)),
                Str(word),
                Raw(&[letter])
            )
            .say(to),
        }
    }
}

/// A byte as Go shows a character.
struct Shown(u8);

impl Say for Shown {
    fn say(&self, to: &mut dyn Sink) {
        const LETTERS: &[u8] = b"\x07a\x08b\x09t\x0an\x0bv\x0cf\x0dr\\\\''";
        let mut letters = LETTERS.chunks_exact(2);
        let letter = letters.find_map(|pair| (*pair.first()? == self.0).then_some(*pair.get(1)?));
        match (letter, self.0) {
            (Some(letter), _) => to.put(&[b'\\', letter]),
            (None, byte @ (0..0x20 | 0x7f)) => {
                to.put(b"\\x");
                number_to(byte.into(), 16, 2, to);
            }
            (None, byte) if byte.is_ascii() => to.put(&[byte]),
            (None, byte @ (0x80..=0xa0 | 0xad)) => {
                to.put(b"\\u");
                number_to(byte.into(), 16, 4, to);
            }
            (None, byte) => to.put(&[0xc0 | byte >> 6, 0x80 | byte & 0x3f]),
        }
    }
}

/// What may stand next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// A value, or the end of the list that has just begun.
    Item,
    Key,
    /// A key, or the end of the object that has just begun.
    Member,
    /// What comes behind a value.
    Behind,
}

/// A document under way.
pub struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    expect: Expect,
    depth: usize,
    /// For each open bracket whether it is that of an object.
    objects: [u8; DEPTH.div_ceil(8)],
}

impl<'a> Reader<'a> {
    /// At the start of `text`.
    pub fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            expect: Expect::Value,
            depth: 0,
            objects: [0; DEPTH.div_ceil(8)],
        }
    }

    /// What comes next, or that the document is whole.
    #[allow(clippy::should_implement_trait)]
    #[inline(never)]
    pub fn next(&mut self) -> Result<Option<Event<'a>>, Fault> {
        loop {
            while self.text.get(self.at).is_some_and(is_space) {
                self.at += 1;
            }
            let is_object = self.is_object();
            let Some(&byte) = self.text.get(self.at) else {
                return match (self.expect, is_object) {
                    (Expect::Behind, None) => Ok(None),
                    _ => Err(Fault::End),
                };
            };
            match (self.expect, byte, is_object) {
                (Expect::Behind, b',', Some(true)) => self.expect = Expect::Key,
                (Expect::Behind, b',', Some(false)) => self.expect = Expect::Value,
                (Expect::Behind | Expect::Member, b'}', Some(true))
                | (Expect::Behind | Expect::Item, b']', Some(false)) => {
                    self.at += 1;
                    self.depth -= 1;
                    self.expect = Expect::Behind;
                    return Ok(Some(Event::End));
                }
                (Expect::Behind, ..) => {
                    return Err(Fault::Byte(
                        byte,
                        match is_object {
                            Some(true) => "after object key:value pair",
                            Some(false) => "after array element",
                            None => "after top-level value",
                        },
                    ));
                }
                (Expect::Key | Expect::Member, b'"', _) => return self.key().map(Some),
                (Expect::Key | Expect::Member, ..) => {
                    return Err(Fault::Byte(
                        byte,
                        "looking for beginning of object key string",
                    ));
                }
                (Expect::Value | Expect::Item, ..) => {
                    self.expect = Expect::Behind;
                    return self.value(byte).map(Some);
                }
            }
            self.at += 1;
        }
    }

    /// Whether the innermost open bracket is an object's; `None` outside of all.
    fn is_object(&self) -> Option<bool> {
        let last = self.depth.checked_sub(1)?;
        self.objects
            .get(last / 8)
            .map(|bits| bits >> (last % 8) & 1 == 1)
    }

    fn open(&mut self, is_object: bool) -> Result<Event<'a>, Fault> {
        if self.depth == DEPTH {
            return self.bad("exceeded max depth");
        }
        if let Some(bits) = self.objects.get_mut(self.depth / 8) {
            let bit = 1 << (self.depth % 8);
            *bits = *bits & !bit | if is_object { bit } else { 0 };
        }
        self.depth += 1;
        self.at += 1;
        let (expect, event) = match is_object {
            true => (Expect::Member, Event::Object),
            false => (Expect::Item, Event::Array),
        };
        self.expect = expect;
        Ok(event)
    }

    /// The byte to look at. Behind the last one Go looks at a space, to end a number, and then knows that
    /// the document is over.
    fn byte(&self) -> Result<u8, Fault> {
        match self.text.get(self.at) {
            Some(byte) => Ok(*byte),
            None if self.at == self.text.len() => Ok(b' '),
            None => Err(Fault::End),
        }
    }

    fn bad<T>(&self, place: &'static str) -> Result<T, Fault> {
        Err(Fault::Byte(self.byte()?, place))
    }

    fn key(&mut self) -> Result<Event<'a>, Fault> {
        let text = self.string()?;
        while is_space(&self.byte()?) {
            self.at += 1;
        }
        if self.byte()? != b':' {
            return self.bad("after object key");
        }
        self.at += 1;
        self.expect = Expect::Value;
        Ok(Event::Key(text))
    }

    fn value(&mut self, byte: u8) -> Result<Event<'a>, Fault> {
        match byte {
            b'{' => self.open(true),
            b'[' => self.open(false),
            b'"' => self.string().map(Event::String),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word(Event::Bool(true), "true"),
            b'f' => self.word(Event::Bool(false), "false"),
            b'n' => self.word(Event::Null, "null"),
            _ => self.bad("looking for beginning of value"),
        }
    }

    /// A word, whose first letter is there.
    fn word(&mut self, event: Event<'a>, word: &'static str) -> Result<Event<'a>, Fault> {
        for letter in word.bytes().skip(1) {
            self.at += 1;
            let byte = self.byte()?;
            if byte != letter {
                return Err(Fault::Letter(byte, word, letter));
            }
        }
        self.at += 1;
        Ok(event)
    }

    /// One digit at least, and all that follow.
    fn digits(&mut self, place: &'static str) -> Result<(), Fault> {
        if !self.byte()?.is_ascii_digit() {
            return self.bad(place);
        }
        while self.byte()?.is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Event<'a>, Fault> {
        let start = self.at;
        if self.byte()? == b'-' {
            self.at += 1;
        }
        match self.byte()? {
            b'0' => self.at += 1,
            _ => self.digits("in numeric literal")?,
        }
        if self.byte()? == b'.' {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.byte()?, b'e' | b'E') {
            self.at += 1;
            if matches!(self.byte()?, b'+' | b'-') {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(Event::Number(
            self.text.get(start..self.at).unwrap_or_default(),
        ))
    }

    fn string(&mut self) -> Result<Text<'a>, Fault> {
        let start = self.at + 1;
        loop {
            self.at += 1;
            match self.byte()? {
                b'"' => break,
                b'\\' => self.escape()?,
                0..0x20 => return self.bad("in string literal"),
                _ => {}
            }
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        self.at += 1;
        Ok(Text(text))
    }

    #[inline(never)]
    fn escape(&mut self) -> Result<(), Fault> {
        self.at += 1;
        match self.byte()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
            b'u' => {
                for _ in 0..4 {
                    self.at += 1;
                    if !self.byte()?.is_ascii_hexdigit() {
                        return self.bad("in \\u hexadecimal character escape");
                    }
                }
            }
            _ => return self.bad("in string escape code"),
        }
        Ok(())
    }
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// What stands between the quotes of a string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// What it says, as Go mends it: a byte that is no part of a character, and half a surrogate pair, are
    /// U+FFFD each.
    pub fn chars(self) -> impl Iterator<Item = char> + 'a {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let (c, len) = match *rest.first()? {
                b'\\' => escaped(rest),
                _ => character(rest).unwrap_or((char::REPLACEMENT_CHARACTER, 1)),
            };
            rest = rest.get(len..).unwrap_or_default();
            Some(c)
        })
    }
}

impl Text<'_> {
    /// What it says, in memory that is never freed.
    pub fn kept(self) -> &'static [u8] {
        let mut text = List::new();
        for c in self.chars() {
            text.put(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        text.leak()
    }
}

/// The character at the start, and how many bytes it has; none where they are no UTF-8 (RFC 3629).
pub fn character(rest: &[u8]) -> Option<(char, usize)> {
    let first = *rest.first()?;
    // How many bytes, and what the second may be at the least and at the most.
    let (len, least, most) = match first {
        0..0x80 => return Some((char::from(first), 1)),
        0xc2..0xe0 => (2, 0x80, 0xbf),
        0xe0 => (3, 0xa0, 0xbf),
        0xed => (3, 0x80, 0x9f),
        0xe1..0xf0 => (3, 0x80, 0xbf),
        0xf0 => (4, 0x90, 0xbf),
        0xf1..0xf4 => (4, 0x80, 0xbf),
        0xf4 => (4, 0x80, 0x8f),
        _ => return None,
    };
    let behind = rest.get(1..len)?;
    let second = *behind.first()?;
    let mut code = u32::from(first) & (0x7f >> len);
    for byte in behind {
        if byte & 0xc0 != 0x80 {
            return None;
        }
        code = code << 6 | u32::from(byte & 0x3f);
    }
    if second < least || second > most {
        return None;
    }
    Some((char::from_u32(code)?, len))
}

/// The character that the escape at the start stands for, and how many bytes it has.
fn escaped(rest: &[u8]) -> (char, usize) {
    let c = match rest.get(1) {
        Some(b'b') => '\x08',
        Some(b'f') => '\x0c',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => {
            let first = unit(rest).unwrap_or_default();
            return match (first, rest.get(6..).and_then(unit)) {
                (0xd800..0xdc00, Some(second @ 0xdc00..0xe000)) => {
                    let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                    (char::from_u32(code).unwrap_or_default(), 12)
                }
                _ => (
                    char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER),
                    6,
                ),
            };
        }
        other => char::from(*other.unwrap_or(&0)),
    };
    (c, 2)
}

/// The 16 bits that `\uXXXX` at the start spells, if it stands there.
fn unit(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |value, &digit| {
        Some(value * 16 + crate::decimal::digit(digit, 16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &[u8]) -> Result<Vec<Event<'_>>, String> {
        let mut reader = Reader::new(text);
        let mut events = Vec::new();
        while let Some(event) = reader.next().map_err(|fault| crate::text::said(&fault))? {
            events.push(event);
        }
        Ok(events)
    }

    fn text(raw: &[u8]) -> String {
        Text(raw).chars().collect()
    }

    #[test]
    fn a_document_is_told_piece_by_piece() {
        use Event::{Array, Bool, End, Key, Null, Number, Object};
        assert_eq!(
            events(b" {\"a\" : [ 1 , -0.5e+3,{}] ,\"b\":\"c\\\"\" , \"\":[[],true,false,null]}\n")
                .unwrap(),
            [
                Object,
                Key(Text(b"a")),
                Array,
                Number(b"1"),
                Number(b"-0.5e+3"),
                Object,
                End,
                End,
                Key(Text(b"b")),
                Event::String(Text(b"c\\\"")),
                Key(Text(b"")),
                Array,
                Array,
                End,
                Bool(true),
                Bool(false),
                Null,
                End,
                End,
            ]
        );
        assert_eq!(events(b"0").unwrap(), [Number(b"0")]);
    }

    #[test]
    fn what_is_no_document_is_refused_in_gos_words() {
        for (text, words) in [
            (&b""[..], "unexpected end of JSON input"),
            (b" ", "unexpected end of JSON input"),
            (b"[", "unexpected end of JSON input"),
            (b"{\"a\":1", "unexpected end of JSON input"),
            (b"\"a", "unexpected end of JSON input"),
            (b"-", "invalid character ' ' in numeric literal"),
            (
                b"1e",
                "invalid character ' ' in exponent of numeric literal",
            ),
            (
                b"tr",
                "invalid character ' ' in literal true (expecting 'u')",
            ),
            (b"\"\\", "invalid character ' ' in string escape code"),
            (b"{\"a\"", "unexpected end of JSON input"),
            (
                b"nonsense",
                "invalid character 'o' in literal null (expecting 'u')",
            ),
            (
                b"[1,]",
                "invalid character ']' looking for beginning of value",
            ),
            (
                b"{,}",
                "invalid character ',' looking for beginning of object key string",
            ),
            (
                b"{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            (b"{\"a\" 1}", "invalid character '1' after object key"),
            (
                b"{\"a\":1 2}",
                "invalid character '2' after object key:value pair",
            ),
            (b"[1 2]", "invalid character '2' after array element"),
            (b"{} x", "invalid character 'x' after top-level value"),
            (b"01", "invalid character '1' after top-level value"),
            (
                b"1.x",
                "invalid character 'x' after decimal point in numeric literal",
            ),
            (b"\"\n\"", "invalid character '\\n' in string literal"),
            (b"\"\\x\"", "invalid character 'x' in string escape code"),
            (
                b"\"\\u12g4\"",
                "invalid character 'g' in \\u hexadecimal character escape",
            ),
            (
                b"'",
                "invalid character '\\'' looking for beginning of value",
            ),
            (
                b"\x00",
                "invalid character '\\x00' looking for beginning of value",
            ),
            (
                b"\xff",
                "invalid character '\u{ff}' looking for beginning of value",
            ),
            (
                b"\x85",
                "invalid character '\\u0085' looking for beginning of value",
            ),
        ] {
            assert_eq!(events(text).unwrap_err(), words, "{text:?}");
        }
    }

    #[test]
    fn brackets_nest_to_gos_depth() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert_eq!(events(&nested(DEPTH)).unwrap().len(), 2 * DEPTH);
        assert_eq!(
            events(&nested(DEPTH + 1)),
            Err("invalid character '[' exceeded max depth".into())
        );
    }

    #[test]
    fn characters_are_those_of_the_standard_reader() {
        let mut taken = 0;
        for first in 0..=255u8 {
            for second in [
                0, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff,
            ] {
                for third in [0x41, 0x80, 0xbf, 0xc0] {
                    for fourth in [0x41, 0x80, 0xbf] {
                        let bytes = [first, second, third, fourth];
                        let wanted = (1..=4).find_map(|len| {
                            let text = core::str::from_utf8(&bytes[..len]).ok()?;
                            Some((text.chars().next()?, len))
                        });
                        assert_eq!(character(&bytes), wanted, "{bytes:x?}");
                        taken += usize::from(wanted.is_some());
                    }
                }
            }
        }
        assert!(taken > 1_000);
        assert_eq!(character(b"\xe2\x82"), None);
    }

    #[test]
    fn strings_are_mended_as_go_mends_them() {
        assert_eq!(text(b"\\u0061\\ud83d\\ude00\\n\\/\\\\"), "a\u{1f600}\n/\\");
        assert_eq!(text(b"\\ud83d \\ude00\\ud83d"), "\u{fffd} \u{fffd}\u{fffd}");
        assert_eq!(text(b"\\ud83d\\ud83d\\ude00"), "\u{fffd}\u{1f600}");
        assert_eq!(
            text(b"\xf0\x9f\x98\x80\xe2\x82\xed\xa0\x80"),
            "\u{1f600}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn a_second_reader_takes_and_refuses_the_same() {
        let whole = br#"{"a":[1,-2.5e3,true,false,null,"x\u00e9\n\/"],"b":{"":[]},"c":[{},[[]]]}"#;
        let pieces = b"{}[],:\"\\u0e-.19tnfalse \n\x01";
        let mut state = 1u32;
        let mut random = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            usize::try_from(state >> 8).unwrap() % below
        };
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let mut text = whole.to_vec();
            for _ in 0..1 + random(3) {
                let at = random(text.len());
                match random(3) {
                    0 => text[at] = pieces[random(pieces.len())],
                    1 => text.insert(at, pieces[random(pieces.len())]),
                    _ => drop(text.remove(at)),
                }
            }
            let text = String::from_utf8(text).unwrap();
            // Half a surrogate pair is mended by Go and refused by the other.
            if text.contains("\\ud") {
                let mended = events(text.as_bytes()).is_ok();
                assert!(
                    mended || miniserde::json::from_str::<miniserde::json::Value>(&text).is_err()
                );
                continue;
            }
            let other = miniserde::json::from_str::<miniserde::json::Value>(&text).is_ok();
            assert_eq!(events(text.as_bytes()).is_ok(), other, "{text}");
            *if other { &mut taken } else { &mut refused } += 1;
        }
        assert!(taken > 1_000 && refused > 1_000, "{taken}, {refused}");
    }
}
