//! Decimal digits of a number, without the formatting machinery: for versions and /proc/self/fd entries.

use core::ffi::CStr;

/// The digits of `number` with a NUL behind, in `buffer`.
pub fn c_digits(number: u32, buffer: &mut [u8; 11]) -> &CStr {
    let mut plain = [0; 10];
    let digits = digits(number, &mut plain);
    for (to, from) in buffer.iter_mut().zip(digits.iter().chain(&[0])) {
        *to = *from;
    }
    CStr::from_bytes_until_nul(buffer).unwrap_or_default()
}

/// The digits of `number`, in `buffer`.
pub fn digits(mut number: u32, buffer: &mut [u8; 10]) -> &[u8] {
    let mut start = buffer.len();
    for (at, place) in buffer.iter_mut().enumerate().rev() {
        let [digit, ..] = (number % 10).to_le_bytes();
        *place = b'0' + digit;
        number /= 10;
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
            assert_eq!(digits(number, &mut [0; 10]), text.as_bytes());
            assert_eq!(
                c_digits(number, &mut [b'9'; 11]).to_bytes(),
                text.as_bytes()
            );
        }
    }
}
