//! Digits and separators in bytes, without the machinery for characters.

use core::ffi::CStr;

/// The decimal digits of `number` with a NUL behind, in `buffer`.
pub fn c_digits(number: u32, buffer: &mut [u8; 11]) -> &CStr {
    let mut plain = [0; 22];
    let digits = digits(number.into(), 10, &mut plain);
    for (to, from) in buffer.iter_mut().zip(digits.iter().chain(&[0])) {
        *to = *from;
    }
    CStr::from_bytes_until_nul(buffer).unwrap_or_default()
}

/// What a digit to `base`, 2 to 16, is worth.
pub fn digit(byte: u8, base: u32) -> Option<u32> {
    let value = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ => return None,
    };
    Some(value.into()).filter(|&value| value < base)
}

/// Whether `word` is one of `words`, which spaces part. A match on slices compares byte by byte, in code.
#[inline(never)]
pub fn is_among(words: &str, word: &[u8]) -> bool {
    words
        .as_bytes()
        .split(|&byte| byte == b' ')
        .any(|known| known == word)
}

/// Both sides of the first `byte` in `text`.
pub fn split_once(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&other| other == byte)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// The digits of `number` to `base`, 8 to 16, in `buffer`.
pub fn digits(mut number: u64, base: u64, buffer: &mut [u8; 22]) -> &[u8] {
    let mut start = buffer.len();
    for (at, place) in buffer.iter_mut().enumerate().rev() {
        let [digit, ..] = (number % base).to_le_bytes();
        *place = digit + if digit < 10 { b'0' } else { b'a' - 10 };
        number /= base;
        start = at;
        if number == 0 {
            break;
        }
    }
    buffer.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{c_digits, digits};

    #[test]
    fn digits_are_those_of_the_standard_formatter() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, u32::MAX] {
            let text = number.to_string();
            assert_eq!(digits(number.into(), 10, &mut [0; 22]), text.as_bytes());
            assert_eq!(
                c_digits(number, &mut [b'9'; 11]).to_bytes(),
                text.as_bytes()
            );
        }
    }
}
