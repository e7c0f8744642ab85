//! Texts of errnos, as Go's programs print them: what operators of runtimes are used to read.

use rustix::io::Errno;

use crate::decimal::digits;
use crate::text::Sink;

/// Tells an errno.
pub fn say(errno: Errno, to: &mut dyn Sink) {
    let mut buffer = [0; 22];
    let number = digits(errno.raw_os_error().unsigned_abs().into(), 10, &mut buffer);
    let mut room = [0; TEXTS.len()];
    let known = crate::packed!(TEXTS)
        .unpack(&mut room)
        .split(|&byte| byte == b'\n')
        .find_map(|line| {
            let text = line.strip_prefix(number)?;
            text.strip_prefix(b" ")
        });
    to.put(known.unwrap_or(b"errno "));
    if known.is_none() {
        to.put(number);
    }
}

/// Number and text, one a line, the same on all architectures served (asm-generic/errno.h): those that
/// files, memory and sockets give. One string: a list of them would cost a relocation each.
pub(crate) const TEXTS: &[u8] = b"\
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
    use crate::text::{Arg, said};

    #[test]
    fn texts_stand_at_their_numbers() {
        let text = |errno| said(&Arg::Of(errno));
        assert_eq!(text(Errno::PERM), "operation not permitted");
        assert_eq!(text(Errno::ROFS), "read-only file system");
        assert_eq!(text(Errno::OPNOTSUPP), "operation not supported");
        assert_eq!(text(Errno::REMOTEIO), "remote I/O error");
        assert_eq!(text(Errno::from_raw_os_error(4_000)), "errno 4000");
    }
}
