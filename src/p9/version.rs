//! The version ladder (docs/protocol.md 3.5, 5).

use super::wire::Writer;

/// A protocol version: plain 9P2000.L, or gVisor's extension level above it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// `9P2000.L`: what Linux's v9fs speaks.
    Plain,
    /// `9P2000.L.Google.N`.
    Google(u32),
}

const PLAIN: &[u8] = b"9P2000.L";
const GOOGLE: &[u8] = b"9P2000.L.Google.";

impl Version {
    /// The highest version served.
    pub const HIGHEST: Self = Self::Google(13);

    /// Reads `9P2000.L`, or `9P2000.L.Google.N` with N decimal digits that fit 32 bits.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text == PLAIN {
            return Some(Self::Plain);
        }
        let digits = text.strip_prefix(GOOGLE)?;
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = digits.iter().try_fold(0u32, |number, digit| {
            number.checked_mul(10)?.checked_add(u32::from(digit - b'0'))
        })?;
        Some(Self::Google(number))
    }

    /// Whether a text is of this protocol or one that extends it, though its version may be none that is served.
    pub fn is_of_family(text: &[u8]) -> bool {
        text.starts_with(PLAIN)
    }

    /// Its text, in `buffer`.
    pub fn text(self, buffer: &mut [u8; 32]) -> &[u8] {
        let Self::Google(number) = self else {
            return PLAIN;
        };
        let mut writer = Writer::new(buffer);
        writer.bytes(GOOGLE);
        writer.bytes(crate::decimal::digits(number.into(), 10, &mut [0; 22]));
        let len = writer.len();
        buffer.get(..len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_parse_as_the_original_parses_them() {
        assert_eq!(Version::parse(b"9P2000.L"), Some(Version::Plain));
        assert_eq!(
            Version::parse(b"9P2000.L.Google.007"),
            Some(Version::Google(7))
        );
        assert_eq!(
            Version::parse(b"9P2000.L.Google.4294967295"),
            Some(Version::Google(u32::MAX))
        );
        for bad in [
            "9P2000",
            "9P2000.u",
            "9p2000.L",
            "9P2000.L.Google",
            "9P2000.L.Google.",
            "9P2000.L.Google.+1",
            "9P2000.L.Google.4294967296",
            "9P2000.L.Google.1.2",
            "9P2000.L ",
            "",
        ] {
            assert_eq!(Version::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn text_is_what_parse_reads() {
        for version in [
            Version::Plain,
            Version::Google(0),
            Version::Google(13),
            Version::Google(u32::MAX),
        ] {
            assert_eq!(Version::parse(version.text(&mut [0; 32])), Some(version));
        }
    }
}
