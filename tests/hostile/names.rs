//! Every name field of every message with names that climb, end early, are missing or too long.

use crate::harness::ROOT;
use crate::p9::{MSIZE, O_RDWR};
use crate::request::{Request, Value, ask, batch, furnish, stage};
use crate::world::{Setting, item};
use nix::errno::Errno::{self, *};

/// A fid that there is not.
const NOBODY: u32 = 0x00ff_ffff;

fn names() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "",
        ".",
        "..",
        "/",
        "/..",
        "../",
        "a/b",
        "../../secrets",
        "./in",
        "in/",
        "\0",
        "in\0",
        "\0in",
        "a\0/",
        "...",
        " ",
        "user.",
        "user.\0",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec();
    for length in [254, 255, 256, 257, 4095, 4096, 65_534, 65_535] {
        all.push(vec![b'n'; length]);
        all.push([b"user.".to_vec(), vec![b'n'; length - 5]].concat());
    }
    all.push(vec![0; 65_535]);
    all.push(vec![b'/'; 65_535]);
    all.push(b"../".repeat(21_845));
    all
}

/// Whether a name may stand for a file, and if not what it is refused with.
fn check(name: &[u8]) -> Result<(), Errno> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        return Err(EINVAL);
    }
    Ok(())
}

/// What the answer must be. `None`: whatever the file is good for.
fn wanted(message: &str, field: &str, name: &[u8], fid: bool, linux: bool) -> Option<Errno> {
    let unknown = (!fid).then_some(EBADF);
    match (message, field) {
        ("auth", _) => Some(ENOSYS),
        ("version", _) => (name.len() != 8).then_some(EINVAL),
        ("attach", _) if !linux => Some(EIO),
        ("attach", "uname") => None,
        ("attach", _) => {
            let path = name.strip_prefix(b"/").unwrap_or(name);
            let bad = path
                .split(|&byte| byte == b'/')
                .find_map(|part| check(part).err());
            if path.is_empty() {
                None
            } else {
                bad.or(Some(if path.len() > 255 {
                    ENAMETOOLONG
                } else {
                    ENOENT
                }))
            }
        }
        ("lock" | "getlock", _) if !linux => Some(EIO),
        ("lock" | "getlock", _) => unknown,
        (_, "value") => unknown,
        ("symlink" | "usymlink", "target") => {
            let late = if name.is_empty() {
                Some(ENOENT)
            } else if name.len() > 4095 {
                Some(ENAMETOOLONG)
            } else {
                name.contains(&0).then_some(EINVAL)
            };
            unknown.or(late)
        }
        ("xattrwalk", _) => {
            let served = name.starts_with(b"user.") && name.len() <= 255 && !name.contains(&0);
            unknown.or(if name.is_empty() || served {
                None
            } else {
                Some(ENODATA)
            })
        }
        ("getxattr" | "setxattr" | "removexattr" | "xattrcreate", _) => {
            unknown.or(if !name.starts_with(b"user.") {
                Some(EOPNOTSUPP)
            } else if name.len() > 255 {
                Some(ERANGE)
            } else {
                name.contains(&0).then_some(EINVAL)
            })
        }
        ("bind", _) => check(name).err().or(unknown).or(Some(EPERM)),
        _ => {
            let long = (name.len() > 255).then_some(ENAMETOOLONG);
            check(name).err().or(unknown).or(long)
        }
    }
}

/// The same for a name in a list, in its first place or another.
fn wanted_in_list(message: &str, is_first: bool, name: &[u8], fid: bool) -> Option<Errno> {
    let unknown = (!fid).then_some(EBADF);
    let long = (is_first && name.len() > 255).then_some(ENAMETOOLONG);
    let is_own = message == "multigetattr" && is_first && name.is_empty();
    let none = check(name).err().filter(|_| !is_own);
    match message {
        "multigetattr" => none.or(unknown).or(long),
        _ => unknown.or(none).or(long),
    }
}

/// The request with `name` in `field`, in each place that it may have there, and what it is refused with.
fn placed(
    request: &Request,
    field: &str,
    name: &[u8],
    fid: bool,
    linux: bool,
) -> Vec<(Request, Option<Errno>)> {
    let message = request.message;
    match request.get(field) {
        Value::Text(_) => {
            let changed = request.with(field, Value::Text(name.to_vec()));
            vec![(changed, wanted(message, field, name, fid, linux))]
        }
        Value::List(_) => {
            let lists: [&[&[u8]]; 4] = [
                &[name],
                &[name, b"in"],
                &[b"missing", name],
                &[b"in", name, b"in"],
            ];
            lists
                .iter()
                .map(|list| {
                    let names = list.iter().map(|name| name.to_vec()).collect();
                    let wanted = wanted_in_list(message, list[0] == name, name, fid);
                    (request.with(field, Value::List(names)), wanted)
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

/// All its fids are those of nobody.
fn without_fids(mut request: Request) -> Request {
    for (field, _) in request.clone().fields {
        if request.takes_fid(field) {
            request = request.with(field, Value::U32(NOBODY));
        }
    }
    request
}

#[test]
fn every_name_field_with_names_that_are_none_or_too_long_is_refused_in_order() {
    item(
        "every name field with odd names",
        Setting::foes(1),
        |world| {
            let foe = &mut world.foes[0];
            batch(foe, &furnish(ROOT));
            let mut cases = 0;
            for version in [b"9P2000.L.Google.13".as_slice(), b"9P2000.L"] {
                let linux = version.len() == 8;
                for request in Request::good() {
                    let fields: Vec<_> = request.fields.iter().map(|(field, _)| *field).collect();
                    for (field, name, fid) in fields.iter().flat_map(|field| {
                        let both =
                            |name: Vec<u8>| [true, false].map(|fid| (*field, name.clone(), fid));
                        names().into_iter().flat_map(both)
                    }) {
                        for (mut asked, wanted) in placed(&request, field, &name, fid, linux) {
                            if !fid {
                                asked = without_fids(asked);
                            }
                            cases += 1;
                            foe.version(MSIZE, version).unwrap();
                            assert_eq!(batch(foe, &stage(ROOT, O_RDWR)), [Ok(()); 7]);
                            let told = || {
                                format!("{} ({} bytes), Linux: {linux}", asked.told(), name.len())
                            };
                            match (ask(foe, &asked), wanted) {
                                (Err(fault), _) => panic!("{}: {fault}", told()),
                                (Ok(answer), Some(errno)) => {
                                    assert_eq!(answer, Err(errno), "{}", told())
                                }
                                // What comes of a name that may be one is the file's matter.
                                (Ok(Err(EIO | EFAULT)), None) => panic!("{}", told()),
                                (Ok(Err(_)), None) => {}
                                (Ok(Ok(())), None) => drop(batch(foe, &furnish(ROOT))),
                            }
                        }
                    }
                }
            }
            format!("{cases} requests")
        },
    );
}
