//! The program on one tree, the model on its twin, and a step done on both.

use crate::ask;
use crate::compare;
use crate::harness::{Gofer, Mount, Tree, serve_mounts};
use crate::host::{Change, Host};
use crate::model::{FidState, Model, Node, Outcome};
use crate::ops::{Act, Kind, Name, Op, ROOT, SHARED, Step};
use crate::p9::{Answer, Client, Data, Dirent, Fault, NOID, Qid, Ropen};
use nix::errno::Errno;
use nix::sys::stat::{Mode, fstat};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Why a step differs.
type Same<T = ()> = Result<T, String>;

/// How often a kind of step was done, or refused with an errno.
pub type Tally = BTreeMap<(String, String), usize>;

pub struct World {
    pub clients: Vec<Client>,
    pub models: Vec<Model>,
    gofer: Gofer,
    tree: Tree,
    twin: PathBuf,
    /// The host at the tree, and at its twin.
    hosts: [Host; 2],
    pub tally: Tally,
}

impl World {
    /// Connection 0 serves the root, connection 1 a directory in it.
    pub fn new(read_only: bool) -> World {
        let tree = Tree::new();
        let twin = tree.outside("twin");
        fs::create_dir(&twin).expect("mkdir");
        for root in [tree.root(), twin.clone()] {
            let shared = root.join(SHARED);
            fs::create_dir(&shared).expect("mkdir");
            // No step names this one, so that the second root is never removed.
            fs::write(shared.join("keep"), "kept").expect("write");
            for fifo in [root.join("a"), shared.join("b")] {
                nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).expect("mkfifo");
            }
        }
        let hosts = [(tree.root(), "aside"), (twin.clone(), "twin-aside")].map(|(root, aside)| {
            let aside = tree.outside(aside);
            fs::create_dir(&aside).expect("mkdir");
            Host::new(&root, &aside)
        });
        let options: &[&str] = if read_only { &["ro"] } else { &[] };
        let mount = Mount::bind(&format!("/{SHARED}"), options);
        let (gofer, clients) = serve_mounts(&tree, false, &[mount]);
        let models = vec![
            Model::new(&twin, false, ROOT),
            Model::new(&twin.join(SHARED), read_only, ROOT),
        ];
        World {
            clients,
            models,
            gofer,
            tree,
            twin,
            hosts,
            tally: Tally::new(),
        }
    }

    /// A hang shows sooner: for the many runs that look for the fewest steps.
    pub fn hurry(&self) {
        for client in &self.clients {
            let patience = Some(std::time::Duration::from_secs(2));
            client
                .socket
                .set_read_timeout(patience)
                .expect("a socket of ours");
        }
    }

    /// Both trees whole, and what the host has put beside them.
    pub fn compare(&self) -> Same<usize> {
        let (aside, twin) = (self.tree.outside("aside"), self.tree.outside("twin-aside"));
        compare::trees(&[(&self.tree.root(), &self.twin), (&aside, &twin)])
    }

    /// Ends the connections; the program must end in peace.
    pub fn finish(mut self) -> Same {
        self.clients.clear();
        let exit = self.gofer.exit();
        if exit.code == Some(0) {
            Ok(())
        } else {
            Err(format!("the end of the program: {exit:?}"))
        }
    }

    /// Does a step on both sides.
    pub fn step(&mut self, step: &Step) -> Same {
        if let Op::Host(change) = &step.op {
            return self.host(change);
        }
        let client = &mut self.clients[step.connection];
        let model = &mut self.models[step.connection];
        let mut pair = Pair {
            client,
            model,
            refusal: None,
        };
        pair.step(&step.op)?;
        let refusal = pair.refusal;
        let kind = format!("{:?}", step.op);
        count(&mut self.tally, &kind, refusal);
        model.check()
    }

    /// Does a change by the host on both trees.
    fn host(&mut self, change: &Change) -> Same {
        let [got, want] = [0, 1].map(|side: usize| self.hosts[side].apply(change));
        equal("the host's change", got, want)?;
        let kind = match change {
            Change::Make { what, .. } => format!("host:{what:?}"),
            change => format!("host:{change:?}"),
        };
        count(&mut self.tally, &kind, got.err());
        Ok(())
    }
}

fn count(tally: &mut Tally, text: &str, refusal: Option<Errno>) {
    let kind = text.split_whitespace().next().unwrap_or_default();
    let outcome = refusal.map_or("done".into(), |errno| format!("{errno:?}"));
    *tally.entry((kind.into(), outcome)).or_default() += 1;
}

/// Both sides of a connection.
struct Pair<'a> {
    client: &'a mut Client,
    model: &'a mut Model,
    /// What both sides answered if they refused.
    refusal: Option<Errno>,
}

/// Both succeeded, or both failed the same way.
fn both<T: std::fmt::Debug, U: std::fmt::Debug>(
    refusal: &mut Option<Errno>,
    got: Answer<T>,
    want: Outcome<U>,
) -> Same<Option<(T, U)>> {
    match (got, want) {
        (Ok(got), Ok(want)) => Ok(Some((got, want))),
        (Err(Fault::Errno(got)), Err(want)) if got == want => {
            *refusal = Some(want);
            Ok(None)
        }
        (Err(Fault::Errno(got)), Err(want)) => Err(format!("{got:?}, model {want:?}")),
        (Err(got), _) => Err(format!("{got}, model success")),
        (Ok(got), Err(want)) => Err(format!("{got:?}, model {want:?}")),
    }
}

fn refused_so<T>(got: &Answer<T>, errno: Errno) -> bool {
    matches!(got, Err(Fault::Errno(got)) if *got == errno)
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Same {
    if got == want {
        Ok(())
    } else {
        Err(format!("{what} {got:?}, model {want:?}"))
    }
}

fn kind_of(qid: &Qid, kind: Kind) -> Same {
    equal("qid.type", qid.kind, kind.qid_type())?;
    equal("qid.version", qid.version, 0)?;
    equal("device index in qid.path", qid.path >> 56, 0)
}

/// A node's qid is always the same.
fn qid_of(qid: &Qid, node: &Node) -> Same {
    kind_of(qid, node.kind)?;
    let known = node.qid_path.get().unwrap_or(qid.path);
    node.qid_path.set(Some(known));
    equal("qid.path", qid.path, known)
}

impl Pair<'_> {
    fn known(&self, fid: u32) -> &FidState {
        self.model.get(fid).expect("a fid of the model")
    }

    fn node(&self, fid: u32) -> &Node {
        &self.known(fid).node
    }

    /// Whether Landlock has refused what the model, which has none, might do ([`Model::is_inside`]).
    fn is_refused_outside<T>(&mut self, got: &Answer<T>) -> bool {
        let is_refused = refused_so(got, Errno::EXDEV);
        if is_refused {
            self.refusal = Some(Errno::EXDEV);
        }
        is_refused
    }

    fn step(&mut self, op: &Op) -> Same {
        match op {
            Op::Attach { afid } => {
                let got = self.client.attach(2, *afid, b"", b"/", NOID);
                both(&mut self.refusal, got, self.model.attach(*afid))?;
            }
            Op::Walk {
                fid,
                newfid,
                names,
                getattr,
            } => self.walk(*fid, *newfid, names, *getattr)?,
            Op::Clunk { fid } => {
                both(
                    &mut self.refusal,
                    self.client.clunk(*fid),
                    self.model.clunk(*fid),
                )?;
            }
            Op::Remove { fid } => {
                both(
                    &mut self.refusal,
                    self.client.remove(*fid),
                    self.model.remove(*fid),
                )?;
            }
            Op::Open { fid, flags } => {
                let got = self.client.lopen(*fid, *flags);
                if let Some((got, ())) =
                    both(&mut self.refusal, got, self.model.open(*fid, *flags))?
                {
                    self.opened(*fid, got)?;
                }
            }
            Op::Create {
                fid,
                name,
                flags,
                perm,
                gid,
                uid,
            } => {
                let got = ask::create(&mut *self.client, *fid, name, *flags, *perm, (*uid, *gid));
                let owner = (uid.unwrap_or(NOID), *gid);
                let want = self.model.create(*fid, name, *flags, *perm, owner);
                if let Some((got, ())) = both(&mut self.refusal, got, want)? {
                    self.opened(*fid, got)?;
                }
            }
            Op::Mkdir {
                dfid,
                name,
                perm,
                gid,
                uid,
            } => {
                let got = ask::mkdir(&mut *self.client, *dfid, name, *perm, (*uid, *gid));
                let owner = (uid.unwrap_or(NOID), *gid);
                let want = self.model.mkdir(*dfid, name, *perm, owner);
                if let Some((got, ())) = both(&mut self.refusal, got, want)? {
                    kind_of(&got.qid, Kind::Directory)?;
                }
            }
            Op::Symlink {
                dfid,
                name,
                target,
                gid,
                uid,
            } => {
                let got = ask::symlink(&mut *self.client, *dfid, name, &target.0, (*uid, *gid));
                let owner = (uid.unwrap_or(NOID), *gid);
                let want = self.model.symlink(*dfid, name, &target.0, owner);
                if let Some((got, ())) = both(&mut self.refusal, got, want)? {
                    kind_of(&got.qid, Kind::Symlink)?;
                }
            }
            Op::Mknod {
                dfid,
                name,
                mode,
                gid,
                uid,
            } => {
                let got = ask::mknod(&mut *self.client, *dfid, name, *mode, (*uid, *gid));
                let owner = (uid.unwrap_or(NOID), *gid);
                let want = self.model.mknod(*dfid, name, *mode, owner);
                if let Some((got, ())) = both(&mut self.refusal, got, want)? {
                    kind_of(&got.qid, Kind::Regular)?;
                }
            }
            Op::Link { dfid, fid, name } => {
                let is_out = !(self.model.is_inside(*dfid) && self.model.is_inside(*fid));
                let got = self.client.link(*dfid, *fid, &name.0);
                if is_out && self.is_refused_outside(&got) {
                    return Ok(());
                }
                both(&mut self.refusal, got, self.model.link(*dfid, *fid, name))?;
            }
            Op::Rename { fid, dfid, name } => {
                let is_out = !(self.model.is_above_inside(*fid) && self.model.is_inside(*dfid));
                let got = self.client.rename(*fid, *dfid, &name.0);
                if is_out && self.is_refused_outside(&got) {
                    return Ok(());
                }
                both(&mut self.refusal, got, self.model.rename(*fid, *dfid, name))?;
            }
            Op::Renameat {
                olddirfid,
                oldname,
                newdirfid,
                newname,
            } => {
                let (old, new) = (*olddirfid, *newdirfid);
                let is_out = !(self.model.is_inside(old) && self.model.is_inside(new));
                let got = self.client.renameat(old, &oldname.0, new, &newname.0);
                if is_out && self.is_refused_outside(&got) {
                    return Ok(());
                }
                both(
                    &mut self.refusal,
                    got,
                    self.model.renameat((old, oldname), (new, newname)),
                )?;
            }
            Op::Unlinkat { dfid, name, flags } => {
                let got = self.client.unlinkat(*dfid, &name.0, *flags);
                both(
                    &mut self.refusal,
                    got,
                    self.model.unlinkat(*dfid, name, *flags),
                )?;
            }
            Op::Setattr { fid, valid, attr } => {
                let got = self.client.setattr(*fid, *valid, attr);
                both(
                    &mut self.refusal,
                    got,
                    self.model.setattr(*fid, *valid, attr),
                )?;
                self.getattr(*fid)?;
            }
            Op::Allocate {
                fid,
                mode,
                offset,
                length,
            } => {
                let got = self.client.allocate(*fid, *mode, *offset, *length);
                let want = self.model.allocate(*fid, *mode, *offset, *length);
                both(&mut self.refusal, got, want)?;
            }
            Op::Read { fid, offset, count } => {
                let got = self.client.read(*fid, *offset, *count);
                let want = self.model.read(*fid, *offset, *count);
                if let Some((got, want)) = both(&mut self.refusal, got, want)? {
                    let got = got.data.0;
                    equal("bytes", got.len(), want.len())?;
                    equal("the bytes read are equal", got == want, true)?;
                }
            }
            Op::Write {
                fid,
                offset,
                length,
                byte,
            } => {
                let data = vec![*byte; *length];
                let got = self.client.write(*fid, *offset, Data(&data));
                if let Some((got, want)) = both(
                    &mut self.refusal,
                    got,
                    self.model.write(*fid, *offset, &data),
                )? {
                    equal("count", got.count, want)?;
                }
            }
            Op::List { fid, count } => self.list(*fid, *count)?,
            Op::ListOn { fid, count } => self.list_on(*fid, *count)?,
            Op::Readlink { fid } => {
                let got = self.client.readlink(*fid);
                if let Some((got, want)) = both(&mut self.refusal, got, self.model.readlink(*fid))?
                {
                    equal("target", got.target, want)?;
                }
            }
            Op::Getattr { fid, mask } => {
                let got = self.client.getattr(*fid, *mask);
                if let Some((got, want)) = both(&mut self.refusal, got, self.model.stat(*fid))? {
                    qid_of(&got.qid, self.node(*fid))?;
                    compare::attributes(got.valid, &got.attr, &want)?;
                }
            }
            Op::Statfs { fid } => {
                let got = self.client.statfs(*fid);
                if let Some((got, want)) = both(&mut self.refusal, got, self.model.statfs(*fid))? {
                    equal("type", i64::from(got.kind), want.filesystem_type().0)?;
                    equal("bsize", i64::from(got.bsize), want.block_size())?;
                    equal("blocks", got.blocks, want.blocks())?;
                    equal("files", got.files, want.files())?;
                    equal("fsid", got.fsid, 0)?;
                    equal("namelen", got.namelen, 255)?;
                }
            }
            Op::Fsync { fid } => {
                both(
                    &mut self.refusal,
                    self.client.fsync(*fid, 0),
                    self.model.fsync(*fid),
                )?;
            }
            Op::Host(_) => unreachable!("no request"),
            Op::Xattr { fid, act, name } => self.xattr(*fid, act, &name.0)?,
            Op::Idle { fid, which } => {
                let known = self.model.get(*fid).map(drop);
                match which {
                    0 => both(&mut self.refusal, self.client.flushf(*fid), known).map(drop)?,
                    1 => {
                        let want = known.and(Err::<(), _>(Errno::EINVAL));
                        both(&mut self.refusal, self.client.lconnect(*fid, 0), want)?;
                    }
                    2 => {
                        let got = self.client.multigetattr(*fid, &[b""]);
                        if let Some((got, ())) = both(&mut self.refusal, got, known)? {
                            equal("stats", got.stats.len(), 1)?;
                            qid_of(&got.stats[0].qid, self.node(*fid))?;
                            let twin = self.node(*fid).stat();
                            compare::attributes(got.stats[0].valid, &got.stats[0].attr, &twin)?;
                        }
                    }
                    _ => {
                        // A clone of its own is given up with it.
                        let spare = u32::MAX - 1;
                        let got = self.client.walk(*fid, spare, &[]);
                        let want = self.model.walk(*fid, spare, &[]);
                        if both(&mut self.refusal, got, want)?.is_some() {
                            let none = crate::p9::SetAttr::default();
                            let got = self.client.setattrclunk(spare, 0, &none);
                            let want = self.model.setattr(spare, 0, &none);
                            self.model.clunk(spare).expect("a fid of the model");
                            both(&mut self.refusal, got, want)?;
                            let gone = Err::<(), _>(Errno::EBADF);
                            both(&mut self.refusal, self.client.clunk(spare), gone)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn walk(&mut self, fid: u32, newfid: u32, names: &[Name], getattr: bool) -> Same {
        let parts: Vec<&[u8]> = names.iter().map(|name| name.0.as_slice()).collect();
        let (got, attr) = if getattr {
            match self.client.walkgetattr(fid, newfid, &parts) {
                Ok(got) => (Ok(got.qids), Some((got.valid, got.attr))),
                Err(fault) => (Err(fault), None),
            }
        } else {
            let got = self.client.walk(fid, newfid, &parts);
            (got.map(|got| got.qids), None)
        };
        let Some((qids, kinds)) =
            both(&mut self.refusal, got, self.model.walk(fid, newfid, names))?
        else {
            return Ok(());
        };
        equal("qids", qids.len(), kinds.len())?;
        for (qid, kind) in qids.iter().zip(kinds) {
            kind_of(qid, kind)?;
        }
        let node = self.node(newfid);
        if let Some(last) = qids.last() {
            qid_of(last, node)?;
        }
        if let Some((valid, attr)) = attr {
            compare::attributes(valid, &attr, &node.stat())?;
        }
        Ok(())
    }

    /// What a fid was opened on is its node's file, and a regular one's descriptor came along.
    fn xattr(&mut self, fid: u32, act: &Act, name: &[u8]) -> Same {
        let spare = u32::MAX - 1;
        let (client, model, refusal) = (&mut *self.client, &*self.model, &mut self.refusal);
        match *act {
            Act::Get { size } => {
                let want = model.get_xattr(fid, name, size);
                let got = client.getxattr(fid, name, size);
                if let Some((got, want)) = both(refusal, got, want)? {
                    equal("value", got.value, want)?;
                }
            }
            Act::Set {
                length,
                byte,
                flags,
            } => {
                let value = vec![byte; length];
                let want = model.set_xattr(fid, name, Some((&value, flags)));
                both(refusal, client.setxattr(fid, name, &value, flags), want)?;
            }
            Act::Remove => {
                let want = model.set_xattr(fid, name, None);
                both(refusal, client.removexattr(fid, name), want)?;
            }
            Act::List { size } => {
                let want = model.list_xattrs(fid, size);
                if let Some((got, want)) = both(refusal, client.listxattr(fid, size), want)? {
                    equal("names", got.names.into_iter().collect(), want)?;
                }
            }
            Act::Walk => {
                let want = model.walk_xattr(fid, name);
                let got = client.xattrwalk(fid, spare, name);
                if let Some((got, want)) = both(refusal, got, want)? {
                    let read = client.read_all(spare).map_err(|fault| fault.to_string())?;
                    client.clunk(spare).map_err(|fault| fault.to_string())?;
                    equal("size", got.size, read.len() as u64)?;
                    let sorted = |bytes: &[u8]| -> Vec<Vec<u8>> {
                        let mut all: Vec<_> = bytes.split_inclusive(|&b| b == 0).collect();
                        all.sort();
                        all.into_iter().map(<[u8]>::to_vec).collect()
                    };
                    match name {
                        b"" => equal("names", sorted(&read), sorted(&want))?,
                        _ => equal("value", read, want)?,
                    }
                }
            }
            Act::Create {
                length,
                byte,
                flags,
            } => {
                let value = vec![byte; length];
                let got = client.walk(fid, spare, &[]);
                let want = self.model.walk(fid, spare, &[]);
                if both(refusal, got, want)?.is_none() {
                    return Ok(());
                }
                let want = self.model.may_create_xattr(spare, name);
                let got = client.xattrcreate(spare, name, length as u64, flags);
                if both(refusal, got, want)?.is_none() {
                    both(refusal, client.clunk(spare), self.model.clunk(spare))?;
                    return Ok(());
                }
                if length > 0 {
                    let written = client.write(spare, 0, Data(&value));
                    equal(
                        "count",
                        written.map_err(|fault| fault.to_string())?.count as usize,
                        length,
                    )?;
                }
                let removes = length == 0 && flags == 2;
                let what = (!removes).then_some((value.as_slice(), flags));
                let want = self.model.set_xattr_of_any(spare, name, what);
                both(refusal, client.clunk(spare), want)?;
                self.model.clunk(spare).expect("a fid of the model");
            }
        }
        Ok(())
    }

    fn opened(&self, fid: u32, got: Ropen) -> Same {
        let state = self.known(fid);
        qid_of(&got.qid, &state.node)?;
        equal("iounit", got.iounit, 0)?;
        let regular = state.node.kind == Kind::Regular;
        equal("a descriptor came", got.fd.is_some(), regular)?;
        if let Some(fd) = got.fd {
            let stat = fstat(&fd).map_err(|errno| errno.to_string())?;
            equal("inode of the descriptor", stat.st_ino, got.qid.path)?;
            equal("its size", stat.st_size, state.node.stat().st_size)?;
        }
        Ok(())
    }

    fn getattr(&mut self, fid: u32) -> Same {
        if self.model.get(fid).is_err() {
            return Ok(());
        }
        let mask = crate::p9::VALID;
        self.step(&Op::Getattr { fid, mask })
    }

    /// The errno of a Treaddir whose count has no room for the next entry.
    fn may_be_too_small(got: &Answer<Vec<Dirent>>, count: u32, names: &[&Vec<u8>]) -> bool {
        let longest = names.iter().map(|name| 24 + name.len()).max();
        let too_small = longest.is_some_and(|bytes| (count as usize) < bytes);
        too_small && refused_so(got, Errno::EINVAL)
    }

    fn list(&mut self, fid: u32, count: u32) -> Same {
        let got = self.client.list(fid, count);
        let want = self.model.list(fid);
        if let Ok(want) = &want
            && Pair::may_be_too_small(&got, count, &want.keys().collect::<Vec<_>>())
        {
            return Ok(());
        }
        let Some((got, want)) = both(&mut self.refusal, got, want)? else {
            return Ok(());
        };
        let kinds: BTreeMap<_, _> = want
            .iter()
            .map(|(name, stat)| (name.clone(), Kind::of(stat.st_mode).qid_type()))
            .collect();
        equal("entries", got.len(), want.len())?;
        let listed: BTreeMap<_, _> = got
            .iter()
            .map(|entry| (entry.name.clone(), entry.kind))
            .collect();
        equal("entries", listed, kinds)?;
        let same_type = |entry: &Dirent| entry.kind == entry.qid.kind;
        equal("types agree", got.iter().all(same_type), true)
    }

    fn list_on(&mut self, fid: u32, count: u32) -> Same {
        let offset = self.model.get(fid).map_or(0, |state| state.listing.offset);
        let got = self.client.readdir(fid, offset, count);
        let (got, bytes) = match got {
            Ok(got) => (Ok(got.entries.list), got.entries.bytes),
            Err(fault) => (Err(fault), 0),
        };
        equal("within count", bytes <= count as usize, true)?;
        let want = self.model.list(fid);
        // ext4 no longer seeks in a directory that is removed.
        if want == Err(Errno::ENOENT) && offset > 0 && refused_so(&got, Errno::EINVAL) {
            return Ok(());
        }
        if let Ok(want) = &want
            && Pair::may_be_too_small(&got, count, &want.keys().collect::<Vec<_>>())
        {
            return Ok(());
        }
        let Some((got, now)) = both(&mut self.refusal, got, want)? else {
            return Ok(());
        };
        let state = self.model.fids.get_mut(&fid).expect("a fid of the model");
        let listing = &mut state.listing;
        let inodes = now.iter().map(|(name, stat)| (name.clone(), stat.st_ino));
        let stable = listing.stable.get_or_insert_with(|| inodes.collect());
        stable.retain(|name, inode| now.get(name).is_some_and(|stat| stat.st_ino == *inode));
        for entry in &got {
            let name = &entry.name;
            let there = now.get(name).map(|stat| Kind::of(stat.st_mode).qid_type());
            equal("type of an entry", Some(entry.kind), there)?;
            let twice = listing.seen.contains(name) && stable.contains_key(name);
            equal("an entry came twice", twice, false)?;
            listing.seen.push(name.clone());
            listing.offset = entry.offset;
        }
        if got.is_empty() {
            let missed: Vec<_> = stable
                .keys()
                .filter(|name| !listing.seen.contains(name))
                .map(|name| Name(name.clone()))
                .collect();
            equal("entries left out", missed, Vec::new())?;
            *listing = Default::default();
        }
        Ok(())
    }
}
