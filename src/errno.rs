//! Texts of errnos, as Go's programs print them: what operators of runtimes are used to read.

use core::fmt::{self, Write as _};

use rustix::io::Errno;

/// A text that lives as long as the process: for what start-up has to say, and never frees.
pub fn told(text: fmt::Arguments<'_>) -> &'static str {
    alloc::fmt::format(text).leak()
}

/// Bytes that print as text: what is not printable ASCII, quotes and backslashes are escaped.
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'\n' => f.write_str("\\n"),
                b'\r' => f.write_str("\\r"),
                b'\t' => f.write_str("\\t"),
                b'"' | b'\'' | b'\\' => f.write_char('\\').and_then(|()| f.write_char(byte.into())),
                b' '..=b'~' => f.write_char(byte.into()),
                byte => {
                    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('?');
                    f.write_str("\\x")?;
                    f.write_char(digit(byte >> 4))?;
                    f.write_char(digit(byte & 15))
                }
            }?;
        }
        Ok(())
    }
}

/// An errno that prints as its text.
pub struct Text(pub Errno);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.raw_os_error();
        let mut digits = [0; 10];
        let digits = crate::decimal::digits(number.unsigned_abs(), &mut digits);
        let mut texts = TEXTS.split('\n').filter_map(|line| line.split_once(' '));
        match texts.find(|(number, _)| number.as_bytes() == digits) {
            Some((_, text)) => f.write_str(text),
            None => write!(f, "errno {}", i64::from(number)),
        }
    }
}

/// Number and text, one a line, the same on all architectures served (asm-generic/errno.h): those that
/// files, memory and sockets give. One string: a list of them would cost a relocation each.
const TEXTS: &str = "\
1 operation not permitted\n\
2 no such file or directory\n\
3 no such process\n\
4 interrupted system call\n\
5 input/output error\n\
6 no such device or address\n\
7 argument list too long\n\
8 exec format error\n\
9 bad file descriptor\n\
10 no child processes\n\
11 resource temporarily unavailable\n\
12 cannot allocate memory\n\
13 permission denied\n\
14 bad address\n\
15 block device required\n\
16 device or resource busy\n\
17 file exists\n\
18 invalid cross-device link\n\
19 no such device\n\
20 not a directory\n\
21 is a directory\n\
22 invalid argument\n\
23 too many open files in system\n\
24 too many open files\n\
25 inappropriate ioctl for device\n\
26 text file busy\n\
27 file too large\n\
28 no space left on device\n\
29 illegal seek\n\
30 read-only file system\n\
31 too many links\n\
32 broken pipe\n\
33 numerical argument out of domain\n\
34 numerical result out of range\n\
35 resource deadlock avoided\n\
36 file name too long\n\
37 no locks available\n\
38 function not implemented\n\
39 directory not empty\n\
40 too many levels of symbolic links\n\
61 no data available\n\
71 protocol error\n\
75 value too large for defined data type\n\
87 too many users\n\
88 socket operation on non-socket\n\
95 operation not supported\n\
104 connection reset by peer\n\
110 connection timed out\n\
116 stale file handle\n\
121 remote I/O error\n\
122 disk quota exceeded\n\
126 required key not available";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_at_their_numbers() {
        assert_eq!(Text(Errno::PERM).to_string(), "operation not permitted");
        assert_eq!(Text(Errno::ROFS).to_string(), "read-only file system");
        assert_eq!(
            Text(Errno::OPNOTSUPP).to_string(),
            "operation not supported"
        );
        assert_eq!(Text(Errno::REMOTEIO).to_string(), "remote I/O error");
        assert_eq!(
            Text(Errno::from_raw_os_error(4_000)).to_string(),
            "errno 4000"
        );
    }
}
