//! Paths of the command line and the spec.

use core::ffi::CStr;

use gofer::sys::arena::{List, c_path};
use gofer::text;
use gofer::text::Arg::Quoted;
use gofer::text::Sink;

use super::fatal::{Fatal, fatal};

pub(crate) fn c_string(bytes: &[u8]) -> Result<&'static CStr, Fatal> {
    c_path(bytes).map_err(|_| fatal(text!("\"%\": a NUL in a path", Quoted(bytes))))
}

/// `path` below `bundle`, cleaned as Go's filepath.Join does; an absolute path stays as it is.
pub(crate) fn join(bundle: &[u8], path: &[u8]) -> List<u8> {
    let mut joined = List::new();
    if path.starts_with(b"/") {
        joined.put(path);
        return joined;
    }
    let rooted = bundle.starts_with(b"/");
    joined.put(if rooted { b"/" } else { b"" });
    let fixed = joined.len();
    for part in [bundle, path]
        .iter()
        .flat_map(|path| path.split(|&byte| byte == b'/'))
    {
        let last = joined
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |at| at + 1);
        match part {
            b"" | b"." => continue,
            b".." if joined.get(last..) != Some(b"..") && joined.len() > fixed => {
                joined.truncate(last.saturating_sub(1).max(fixed));
            }
            b".." if rooted => {}
            part => {
                joined.put(if joined.len() > fixed { b"/" } else { b"" });
                joined.put(part);
            }
        }
    }
    if joined.is_empty() {
        joined.put(b".");
    }
    joined
}
