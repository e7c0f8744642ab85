//! Text put together from a template and what stands in it, without core::fmt, whose numbers, padding and
//! pieces of panics would be a tenth of the program.

use rustix::io::Errno;

use crate::decimal::digits;
use crate::errno;
use crate::sys::arena::List;

/// Where text goes. What does not fit is cut there.
pub trait Sink {
    /// Takes whole characters.
    fn put(&mut self, text: &[u8]);
}

impl Sink for List<u8> {
    #[inline(never)]
    fn put(&mut self, text: &[u8]) {
        self.extend(text.iter().copied());
    }
}

/// Something that has a text.
pub trait Say {
    /// Tells it.
    fn say(&self, to: &mut dyn Sink);
}

/// What stands in a template, in place of one `%`.
#[derive(Clone, Copy)]
pub enum Arg<'a> {
    /// Text as it is.
    Str(&'a str),
    /// As above, as bytes.
    Raw(&'a [u8]),
    /// Bytes that print as text: what is not printable ASCII, quotes and backslashes are escaped.
    Quoted(&'a [u8]),
    /// A number.
    Number(u64),
    /// A number with its sign.
    Signed(i64),
    /// A number with zeros before it, so many digits in all.
    Padded(usize, u64),
    /// A number to base 16, with `0x`.
    Hex(u64),
    /// A number to base 8, with `0o`.
    Octal(u64),
    /// `true` or `false`.
    Flag(bool),
    /// An errno as Go tells it.
    Of(Errno),
    /// What has a text of its own.
    Said(&'a dyn Say),
}

impl Say for Arg<'_> {
    fn say(&self, to: &mut dyn Sink) {
        match *self {
            Self::Str(text) => to.put(text.as_bytes()),
            Self::Raw(text) => to.put(text),
            Self::Quoted(bytes) => bytes.iter().for_each(|&byte| quote(byte, to)),
            Self::Number(number) => number_to(number, 10, 0, to),
            Self::Padded(width, number) => number_to(number, 10, width, to),
            Self::Signed(number) => {
                if number < 0 {
                    to.put(b"-");
                }
                number_to(number.unsigned_abs(), 10, 0, to);
            }
            Self::Hex(number) => {
                to.put(b"0x");
                number_to(number, 16, 0, to);
            }
            Self::Octal(number) => {
                to.put(b"0o");
                number_to(number, 8, 0, to);
            }
            Self::Flag(flag) => to.put(if flag { b"true" } else { b"false" }),
            Self::Of(errno) => errno::say(errno, to),
            Self::Said(it) => it.say(to),
        }
    }
}

/// Tells a number to a base from 8 to 16, with zeros before it up to `width` digits.
pub fn number_to(number: u64, base: u64, width: usize, to: &mut dyn Sink) {
    let mut buffer = [0; 22];
    let digits = digits(number, base, &mut buffer);
    for _ in digits.len()..width {
        to.put(b"0");
    }
    to.put(digits);
}

fn quote(byte: u8, to: &mut dyn Sink) {
    let letter = match byte {
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        b'"' | b'\'' | b'\\' => byte,
        b' '..=b'~' => return to.put(&[byte]),
        byte => {
            to.put(b"\\x");
            return number_to(byte.into(), 16, 2, to);
        }
    };
    to.put(&[b'\\', letter]);
}

/// A template, each `%` of which one argument replaces in its turn. [`crate::text!`] makes one.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    template: &'static str,
    args: &'a [Arg<'a>],
}

impl<'a> Text<'a> {
    /// `template` with `args`, as many as it has `%`: [`crate::text!`] has the compiler count them.
    pub const fn new(template: &'static str, args: &'a [Arg<'a>]) -> Self {
        Self { template, args }
    }

    /// The text, in memory that is never freed: for what start-up has to say.
    pub fn told(self) -> Told {
        let mut text = List::new();
        self.say(&mut text);
        text.leak()
    }
}

/// A text that lives as long as the process.
pub type Told = &'static [u8];

impl Say for Text<'_> {
    fn say(&self, to: &mut dyn Sink) {
        let mut args = self.args.iter();
        for (at, piece) in self
            .template
            .as_bytes()
            .split(|&byte| byte == b'%')
            .enumerate()
        {
            if at > 0
                && let Some(arg) = args.next()
            {
                arg.say(to);
            }
            to.put(piece);
        }
    }
}

/// How many arguments a template wants.
#[allow(clippy::indexing_slicing)] // evaluated by the compiler
pub const fn places(template: &str) -> usize {
    let bytes = template.as_bytes();
    let (mut at, mut places) = (0, 0);
    while at < bytes.len() {
        if bytes[at] == b'%' {
            places += 1;
        }
        at += 1;
    }
    places
}

/// A [`Text`]: a template, then its arguments. The wrong number of them does not compile.
#[macro_export]
macro_rules! text {
    ($template:literal $(, $arg:expr)* $(,)?) => {
        $crate::text::Text::new(
            const {
                const ARGS: &[&str] = &[$( stringify!($arg) ),*];
                assert!(ARGS.len() == $crate::text::places($template));
                $template
            },
            &[$( $arg ),*],
        )
    };
}

#[cfg(test)]
pub(crate) fn said(it: &dyn Say) -> String {
    let mut text = List::new();
    it.say(&mut text);
    String::from_utf8(text.to_vec()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::Arg::{Flag, Hex, Number, Octal, Of, Padded, Quoted, Said, Signed, Str};
    use super::*;

    #[test]
    fn each_kind_of_argument_stands_at_its_place() {
        let whole = said(&text!(
            "% % % % % % % % % %.",
            Str("\u{e9}"),
            Quoted(b"a\"\\\n\xff~"),
            Number(u64::MAX),
            Signed(i64::MIN),
            Padded(4, 7),
            Hex(0x1f),
            Octal(8),
            Flag(true),
            Of(Errno::NOENT),
            Said(&text!("<%>", Number(0))),
        ));
        assert_eq!(
            whole,
            "\u{e9} a\\\"\\\\\\n\\xff~ 18446744073709551615 -9223372036854775808 0007 0x1f 0o10 true \
             no such file or directory <0>."
        );
    }

    #[test]
    fn numbers_have_the_digits_of_the_standard_formatter() {
        for number in [0, 1, 9, 10, 255, 4_096, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(said(&Hex(number)), format!("{number:#x}"));
            assert_eq!(said(&Octal(number)), format!("{number:#o}"));
            assert_eq!(said(&Padded(6, number)), format!("{number:06}"));
        }
    }
}
