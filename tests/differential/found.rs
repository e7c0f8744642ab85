//! Differences that random steps have found in the program, each with the fewest steps that show it.

use crate::ops::{Name, Op, ROOT, SHARED, Step};
use crate::p9::{NOID, SetAttr};

pub struct Found {
    pub name: &'static str,
    pub steps: fn() -> Vec<Step>,
}

pub const FOUND: &[Found] = &[
    Found {
        name: "size of a file created read-only",
        steps: || {
            vec![
                root(walk(ROOT, 2, &[])),
                root(create(2, "e", 0)),
                root(size(2, 5)),
            ]
        },
    },
    Found {
        name: "rename into the directory whose place it has taken",
        steps: || {
            vec![
                root(walk(ROOT, 2, &[SHARED])),
                root(mkdir(2, "d")),
                root(walk(2, 3, &["d"])),
                shared(renameat(ROOT, "d", ROOT, "e")),
                shared(mkdir(ROOT, "d")),
                root(renameat(2, "d", 3, "f")),
                root(Op::Open { fid: 3, flags: 0 }),
            ]
        },
    },
    Found {
        name: "rename over a link that no fid is on",
        steps: || {
            vec![
                root(walk(ROOT, 2, &[])),
                root(create(2, "e", 2)),
                root(link(ROOT, 2, "f")),
                root(Op::Clunk { fid: 2 }),
                root(walk(ROOT, 3, &["f"])),
                root(rename(3, ROOT, "e")),
                root(Op::Remove { fid: 3 }),
            ]
        },
    },
    Found {
        name: "rename over what another connection put in a link's place",
        steps: || {
            vec![
                root(walk(ROOT, 2, &[SHARED])),
                root(walk(2, 3, &[])),
                root(create(3, "e", 2)),
                root(link(2, 3, "f")),
                root(walk(2, 4, &["f"])),
                root(walk(2, 5, &["e"])),
                shared(unlink(ROOT, "f")),
                shared(mkfile(ROOT, "f")),
                root(rename(5, 2, "f")),
                root(Op::Remove { fid: 5 }),
            ]
        },
    },
    Found {
        name: "rename over a link that another connection put there",
        steps: || {
            vec![
                root(walk(ROOT, 2, &[SHARED])),
                root(mkfile(2, "e")),
                root(mkfile(2, "f")),
                root(walk(2, 3, &["e"])),
                root(walk(2, 4, &["f"])),
                shared(unlink(ROOT, "f")),
                shared(walk(ROOT, 2, &["e"])),
                shared(link(ROOT, 2, "f")),
                root(rename(3, 2, "f")),
                root(Op::Remove { fid: 3 }),
            ]
        },
    },
    Found {
        name: "rename to a name that another connection has removed",
        steps: || {
            vec![
                shared(mkfile(ROOT, "e")),
                shared(walk(ROOT, 2, &["e"])),
                shared(link(ROOT, 2, "d")),
                shared(link(ROOT, 2, "f")),
                shared(walk(ROOT, 3, &["f"])),
                root(walk(ROOT, 2, &[SHARED])),
                root(unlink(2, "f")),
                shared(renameat(ROOT, "d", ROOT, "f")),
                shared(Op::Remove { fid: 3 }),
            ]
        },
    },
    Found {
        name: "rename over a link that another connection put there, where no fid is on the old name",
        steps: || {
            vec![
                root(walk(ROOT, 2, &[SHARED])),
                root(mkfile(2, "e")),
                root(mkfile(2, "f")),
                root(walk(2, 3, &["f"])),
                shared(unlink(ROOT, "f")),
                shared(walk(ROOT, 2, &["e"])),
                shared(link(ROOT, 2, "f")),
                root(renameat(2, "e", 2, "f")),
                root(Op::Remove { fid: 3 }),
            ]
        },
    },
    Found {
        name: "rename of what another connection put in its place, over a link of it",
        steps: || {
            vec![
                root(walk(ROOT, 2, &[SHARED])),
                root(mkfile(2, "e")),
                root(walk(2, 3, &["e"])),
                shared(unlink(ROOT, "e")),
                shared(mkfile(ROOT, "e")),
                shared(walk(ROOT, 2, &["e"])),
                shared(link(ROOT, 2, "f")),
                root(renameat(2, "e", 2, "f")),
                root(Op::Remove { fid: 3 }),
            ]
        },
    },
    Found {
        name: "rename of a directory to itself, its parent known by an old and a new name",
        steps: || {
            vec![
                shared(mkdir(ROOT, "d")),
                shared(walk(ROOT, 2, &["d"])),
                shared(mkdir(2, "f")),
                shared(walk(2, 3, &["f"])),
                root(walk(ROOT, 2, &[SHARED])),
                root(renameat(2, "d", 2, "e")),
                shared(walk(ROOT, 4, &["e"])),
                shared(renameat(4, "f", 2, "f")),
                shared(Op::Open { fid: 3, flags: 0 }),
            ]
        },
    },
];

fn root(op: Op) -> Step {
    Step { connection: 0, op }
}

fn shared(op: Op) -> Step {
    Step { connection: 1, op }
}

fn name(text: &str) -> Name {
    Name(text.into())
}

fn walk(fid: u32, newfid: u32, names: &[&str]) -> Op {
    Op::Walk {
        fid,
        newfid,
        names: names.iter().map(|part| name(part)).collect(),
        getattr: false,
    }
}

fn create(fid: u32, text: &str, flags: u32) -> Op {
    Op::Create {
        fid,
        name: name(text),
        flags,
        perm: 0o644,
        gid: NOID,
        uid: None,
    }
}

fn mkdir(dfid: u32, text: &str) -> Op {
    Op::Mkdir {
        dfid,
        name: name(text),
        perm: 0o755,
        gid: NOID,
        uid: None,
    }
}

fn mkfile(dfid: u32, text: &str) -> Op {
    Op::Mknod {
        dfid,
        name: name(text),
        mode: 0o100_644,
        gid: NOID,
        uid: None,
    }
}

fn link(dfid: u32, fid: u32, text: &str) -> Op {
    let name = name(text);
    Op::Link { dfid, fid, name }
}

fn unlink(dfid: u32, text: &str) -> Op {
    Op::Unlinkat {
        dfid,
        name: name(text),
        flags: 0,
    }
}

fn rename(fid: u32, dfid: u32, text: &str) -> Op {
    let name = name(text);
    Op::Rename { fid, dfid, name }
}

fn renameat(olddirfid: u32, old: &str, newdirfid: u32, new: &str) -> Op {
    Op::Renameat {
        olddirfid,
        oldname: name(old),
        newdirfid,
        newname: name(new),
    }
}

fn size(fid: u32, size: u64) -> Op {
    let attr = SetAttr {
        size,
        ..SetAttr::default()
    };
    Op::Setattr {
        fid,
        valid: 8,
        attr,
    }
}
