//! Texts of errnos, as Go's programs print them: what operators of runtimes are used to read.

use core::fmt;

use rustix::io::Errno;

/// An errno that prints as its text.
pub struct Text(pub Errno);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.raw_os_error();
        match usize::try_from(number)
            .ok()
            .and_then(|number| TEXTS.split('\n').nth(number))
        {
            Some(text) if !text.is_empty() => f.write_str(text),
            _ => write!(f, "errno {number}"),
        }
    }
}

/// By number, one a line, the same on all architectures served (asm-generic/errno.h). One string: a list
/// of them would cost a relocation each.
const TEXTS: &str = "\
\n\
operation not permitted\n\
no such file or directory\n\
no such process\n\
interrupted system call\n\
input/output error\n\
no such device or address\n\
argument list too long\n\
exec format error\n\
bad file descriptor\n\
no child processes\n\
resource temporarily unavailable\n\
cannot allocate memory\n\
permission denied\n\
bad address\n\
block device required\n\
device or resource busy\n\
file exists\n\
invalid cross-device link\n\
no such device\n\
not a directory\n\
is a directory\n\
invalid argument\n\
too many open files in system\n\
too many open files\n\
inappropriate ioctl for device\n\
text file busy\n\
file too large\n\
no space left on device\n\
illegal seek\n\
read-only file system\n\
too many links\n\
broken pipe\n\
numerical argument out of domain\n\
numerical result out of range\n\
resource deadlock avoided\n\
file name too long\n\
no locks available\n\
function not implemented\n\
directory not empty\n\
too many levels of symbolic links\n\
\n\
no message of desired type\n\
identifier removed\n\
channel number out of range\n\
level 2 not synchronized\n\
level 3 halted\n\
level 3 reset\n\
link number out of range\n\
protocol driver not attached\n\
no CSI structure available\n\
level 2 halted\n\
invalid exchange\n\
invalid request descriptor\n\
exchange full\n\
no anode\n\
invalid request code\n\
invalid slot\n\
\n\
bad font file format\n\
device not a stream\n\
no data available\n\
timer expired\n\
out of streams resources\n\
machine is not on the network\n\
package not installed\n\
object is remote\n\
link has been severed\n\
advertise error\n\
srmount error\n\
communication error on send\n\
protocol error\n\
multihop attempted\n\
RFS specific error\n\
bad message\n\
value too large for defined data type\n\
name not unique on network\n\
file descriptor in bad state\n\
remote address changed\n\
can not access a needed shared library\n\
accessing a corrupted shared library\n\
.lib section in a.out corrupted\n\
attempting to link in too many shared libraries\n\
cannot exec a shared library directly\n\
invalid or incomplete multibyte or wide character\n\
interrupted system call should be restarted\n\
streams pipe error\n\
too many users\n\
socket operation on non-socket\n\
destination address required\n\
message too long\n\
protocol wrong type for socket\n\
protocol not available\n\
protocol not supported\n\
socket type not supported\n\
operation not supported\n\
protocol family not supported\n\
address family not supported by protocol\n\
address already in use\n\
cannot assign requested address\n\
network is down\n\
network is unreachable\n\
network dropped connection on reset\n\
software caused connection abort\n\
connection reset by peer\n\
no buffer space available\n\
transport endpoint is already connected\n\
transport endpoint is not connected\n\
cannot send after transport endpoint shutdown\n\
too many references: cannot splice\n\
connection timed out\n\
connection refused\n\
host is down\n\
no route to host\n\
operation already in progress\n\
operation now in progress\n\
stale file handle\n\
structure needs cleaning\n\
not a XENIX named type file\n\
no XENIX semaphores available\n\
is a named type file\n\
remote I/O error\n\
disk quota exceeded\n\
no medium found\n\
wrong medium type\n\
operation canceled\n\
required key not available\n\
key has expired\n\
key has been revoked\n\
key was rejected by service\n\
owner died\n\
state not recoverable\n\
operation not possible due to RF-kill";

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
