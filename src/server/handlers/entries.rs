//! Names in directories (docs/protocol.md 3.12).
//!
//! The messages that make something check, in this order: `EINVAL` not a name; `EBADF` no such fid;
//! `EINVAL` deleted, not a directory, or open; `EROFS` a read-only attach point. To Linux a deleted directory is
//! `ENOENT`, what is no directory `ENOTDIR`, and an open directory is as good as a walked one.

use rustix::fs::{AtFlags, FileType, makedev};
use rustix::io::Errno;

use crate::fs::name::Name;
use crate::p9::messages::{
    Rlink, Rmkdir, Rmknod, Rremove, Rrename, Rrenameat, Rsymlink, Rumkdir, Rumknod, Runlinkat,
    Rusymlink, Tbind, Tlink, Tmkdir, Tmknod, Tremove, Trename, Trenameat, Tsymlink, Tumkdir,
    Tumknod, Tunlinkat, Tusymlink,
};
use crate::p9::qid::Qid;
use crate::p9::wire::{Fid, Gid, Uid};
use crate::server::dispatch::Session;

/// Tmkdir -> Rmkdir. The owner stays the server's. Errors: the module's, then those of [`crate::fs::Fs::mkdir`].
pub fn mkdir(s: &mut Session<'_>, t: Tmkdir<'_>) -> Result<Rmkdir, Errno> {
    let qid = make_dir(s, t.dfid, t.name.0, t.perm.0, (Uid::NONE, t.gid))?;
    Ok(Rmkdir { qid })
}

/// Tumkdir -> Rumkdir. As [`mkdir`], with an owner.
pub fn umkdir(s: &mut Session<'_>, t: Tumkdir<'_>) -> Result<Rumkdir, Errno> {
    let qid = make_dir(s, t.dfid, t.name.0, t.perm.0, (t.uid, t.gid))?;
    Ok(Rumkdir { qid })
}

fn make_dir(
    s: &mut Session<'_>,
    dfid: Fid,
    name: &[u8],
    perm: u32,
    (uid, gid): (Uid, Gid),
) -> Result<Qid, Errno> {
    let name = Name::new(name)?;
    let parent = s.writable_parent(dfid)?;
    let owner = s.owner(dfid, uid, gid);
    let qid = s.fs.mkdir(parent, name, perm, owner)?;
    Ok(s.shown(qid, qid.version))
}

/// Tsymlink -> Rsymlink. The target is any bytes but NUL, and not looked at.
///
/// Errors: the module's, then those of [`crate::fs::Fs::symlink`].
pub fn symlink(s: &mut Session<'_>, t: Tsymlink<'_>) -> Result<Rsymlink, Errno> {
    let qid = make_symlink(s, t.dfid, t.name.0, t.target.0, (Uid::NONE, t.gid))?;
    Ok(Rsymlink { qid })
}

/// Tusymlink -> Rusymlink. As [`symlink`], with an owner.
pub fn usymlink(s: &mut Session<'_>, t: Tusymlink<'_>) -> Result<Rusymlink, Errno> {
    let qid = make_symlink(s, t.dfid, t.name.0, t.target.0, (t.uid, t.gid))?;
    Ok(Rusymlink { qid })
}

fn make_symlink(
    s: &mut Session<'_>,
    dfid: Fid,
    name: &[u8],
    target: &[u8],
    (uid, gid): (Uid, Gid),
) -> Result<Qid, Errno> {
    let name = Name::new(name)?;
    let parent = s.writable_parent(dfid)?;
    let owner = s.owner(dfid, uid, gid);
    let qid = s.fs.symlink(parent, name, target, owner)?;
    Ok(s.shown(qid, qid.version))
}

/// Tmknod -> Rmknod. Regular files; for Linux also FIFOs, sockets and devices, none of which is ever opened.
///
/// Errors: the module's; `EPERM` another type; then those of [`crate::fs::Fs::mknod`].
pub fn mknod(s: &mut Session<'_>, t: Tmknod<'_>) -> Result<Rmknod, Errno> {
    let device = makedev(t.major, t.minor);
    let qid = make_node(s, t.dfid, t.name.0, (t.mode, device), (Uid::NONE, t.gid))?;
    Ok(Rmknod { qid })
}

/// Tumknod -> Rumknod. As [`mknod`], with an owner.
pub fn umknod(s: &mut Session<'_>, t: Tumknod<'_>) -> Result<Rumknod, Errno> {
    let device = makedev(t.major, t.minor);
    let qid = make_node(s, t.dfid, t.name.0, (t.mode, device), (t.uid, t.gid))?;
    Ok(Rumknod { qid })
}

fn make_node(
    s: &mut Session<'_>,
    dfid: Fid,
    name: &[u8],
    (mode, device): (u32, u64),
    (uid, gid): (Uid, Gid),
) -> Result<Qid, Errno> {
    let name = Name::new(name)?;
    let parent = s.parent(dfid)?;
    if s.fs.is_read_only(s.link.id) {
        return Err(Errno::ROFS); // also with --panic-on-write: the original never gets that far
    }
    let device = match FileType::from_raw_mode(mode) {
        FileType::RegularFile => 0,
        FileType::Fifo | FileType::Socket if s.link.linux => 0,
        FileType::CharacterDevice | FileType::BlockDevice if s.link.linux => device,
        _ => return Err(Errno::PERM),
    };
    let owner = s.owner(dfid, uid, gid);
    let qid = s.fs.mknod(parent, name, mode & 0o177_777, device, owner)?;
    Ok(s.shown(qid, qid.version))
}

/// Tlink -> Rlink. Another name for the file of a fid, deleted or not.
///
/// Errors, in this order: `EINVAL` not a name; `EBADF` no such directory fid; `EBADF` no such target
/// fid; `EINVAL` the directory is deleted, none, or open (not to Linux); `EROFS` a read-only attach point; then those
/// of [`crate::fs::Fs::link`]: `EPERM` a directory, `ENOENT` the file's last link is gone.
pub fn link(s: &mut Session<'_>, t: Tlink<'_>) -> Result<Rlink, Errno> {
    let name = Name::new(t.name.0)?;
    s.get(t.dfid)?;
    let target = s.get(t.fid)?;
    let parent = s.writable_parent(t.dfid)?;
    s.fs.link(target.node(), target.open(), parent, name)?;
    Ok(Rlink {})
}

/// Trename -> Rrename. Renames the file of a fid, open or not.
///
/// Errors, in this order: `EINVAL` not a name; `EBADF` no such fid; `EBADF` no such directory fid;
/// `EINVAL` a root or deleted; `EINVAL` the directory is deleted or none; then nothing is done if it
/// is there already (to Linux what the host does); `EROFS` a read-only attach point; then those of [`crate::fs::Fs::rename`].
pub fn rename(s: &mut Session<'_>, t: Trename<'_>) -> Result<Rrename, Errno> {
    let name = Name::new(t.name.0)?;
    let node = s.get(t.fid)?.node();
    s.get(t.dfid)?;
    let (old_parent, old_name) = s.fs.place(node)?;
    if s.fs.is_deleted(node) {
        return Err(s.wrong(Errno::NOENT));
    }
    let (parent, _) = s.directory(t.dfid)?;
    move_to(s, (old_parent, old_name.name()?), (parent, name))?;
    Ok(Rrename {})
}

/// Trenameat -> Rrenameat. Renames by directories and names, over what stands there.
///
/// Errors, in this order: `EINVAL` the old, then the new name is none; `EBADF` no such old, then new
/// directory fid; `EINVAL` the old one is deleted, no directory, or open (not to Linux); `EINVAL` the new one is
/// deleted or no directory; then nothing is done if both are the same place (to Linux what the host does); `EROFS` a read-only attach point; then those of
/// [`crate::fs::Fs::rename`].
pub fn renameat(s: &mut Session<'_>, t: Trenameat<'_>) -> Result<Rrenameat, Errno> {
    let (old_name, new_name) = (Name::new(t.oldname.0)?, Name::new(t.newname.0)?);
    s.get(t.olddirfid)?;
    s.get(t.newdirfid)?;
    let old_parent = s.parent(t.olddirfid)?;
    let (new_parent, _) = s.directory(t.newdirfid)?;
    move_to(s, (old_parent, old_name), (new_parent, new_name))?;
    Ok(Rrenameat {})
}

type Entry<'a> = (crate::fs::NodeId, Name<'a>);

fn move_to(s: &mut Session<'_>, from: Entry<'_>, to: Entry<'_>) -> Result<(), Errno> {
    if from == to && !s.link.linux {
        return Ok(()); // without a look at the host, as the original
    }
    s.writable()?;
    s.fs.rename(from, to)
}

/// Tunlinkat -> Runlinkat. Removes a name; fids on it stay, deleted.
///
/// Errors, in this order: the module's; `EINVAL` flags other than AT_REMOVEDIR; then those of
/// [`crate::fs::Fs::unlink`]: `EISDIR` a directory without the flag, `ENOTDIR` anything else with it.
pub fn unlinkat(s: &mut Session<'_>, t: Tunlinkat<'_>) -> Result<Runlinkat, Errno> {
    let name = Name::new(t.name.0)?;
    let parent = s.writable_parent(t.dfid)?;
    let directory = t.flags == AtFlags::REMOVEDIR.bits();
    if t.flags != 0 && !directory {
        return Err(Errno::INVAL);
    }
    s.fs.unlink(parent, name, directory)?;
    Ok(Runlinkat {})
}

/// Tremove -> Rremove. Removes the name of a fid's file, which must be no directory (Linux removes those
/// too), and gives the fid up in every case.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` a root or deleted; `EROFS` a read-only attach
/// point; then those of [`crate::fs::Fs::unlink`].
pub fn remove(s: &mut Session<'_>, t: Tremove) -> Result<Rremove, Errno> {
    let state = s.fids.remove(s.link.id, t.fid)?;
    let done = remove_file(s, state.node());
    s.release(state);
    done.map(|()| Rremove {})
}

fn remove_file(s: &mut Session<'_>, node: crate::fs::NodeId) -> Result<(), Errno> {
    let (parent, name) = s.fs.place(node)?;
    if s.fs.is_deleted(node) {
        return Err(s.wrong(Errno::NOENT));
    }
    s.writable()?;
    let directory = s.link.linux && s.fs.kind(node)? == FileType::Directory;
    s.fs.unlink(parent, name.name()?, directory)
}

/// Tbind. Sockets are not made: `EPERM` behind all checks, as in the original since 2022-10-24.
///
/// Errors, in this order: `EINVAL` not a name; `EBADF` no such fid; `EINVAL` deleted, not a directory, or open (not to
/// Linux).
pub fn bind(s: &mut Session<'_>, t: Tbind<'_>) -> Result<(), Errno> {
    Name::new(t.name.0)?;
    s.parent(t.dfid)?;
    Err(Errno::PERM)
}
