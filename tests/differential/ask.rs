//! How the makers are asked: by a user's own message where there is a user, by the plain one else.

use crate::ops::Name;
use crate::p9::{Answer, Client, Ropen, Rqid};

/// A user, if there is one, and a group.
type Owner = (Option<u32>, u32);

pub fn create(
    client: &mut Client,
    fid: u32,
    name: &Name,
    flags: u32,
    perm: u32,
    (uid, gid): Owner,
) -> Answer<Ropen> {
    match uid {
        Some(uid) => client.ucreate(fid, &name.0, flags, perm, gid, uid),
        None => client.lcreate(fid, &name.0, flags, perm, gid),
    }
}

pub fn mkdir(
    client: &mut Client,
    dfid: u32,
    name: &Name,
    perm: u32,
    (uid, gid): Owner,
) -> Answer<Rqid> {
    match uid {
        Some(uid) => client.umkdir(dfid, &name.0, perm, gid, uid),
        None => client.mkdir(dfid, &name.0, perm, gid),
    }
}

pub fn symlink(
    client: &mut Client,
    dfid: u32,
    name: &Name,
    target: &[u8],
    (uid, gid): Owner,
) -> Answer<Rqid> {
    match uid {
        Some(uid) => client.usymlink(dfid, &name.0, target, gid, uid),
        None => client.symlink(dfid, &name.0, target, gid),
    }
}

pub fn mknod(
    client: &mut Client,
    dfid: u32,
    name: &Name,
    mode: u32,
    (uid, gid): Owner,
) -> Answer<Rqid> {
    match uid {
        Some(uid) => client.umknod(dfid, &name.0, mode, 1, 3, gid, uid),
        None => client.mknod(dfid, &name.0, mode, 1, 3, gid),
    }
}
