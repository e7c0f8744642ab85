//! The client itself, against literal frames made by the original encoder: docs/protocol.md 6.

use crate::p9::*;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn requests_are_those_of_the_original_encoder() {
    let mode = SetAttr {
        mode: 0o600,
        ..SetAttr::default()
    };
    let all = SetAttr {
        mode: 0o600,
        uid: 5,
        gid: 7,
        size: 1234,
        atime: 10,
        atime_ns: 20,
        mtime: 30,
        mtime_ns: 40,
    };
    let size = SetAttr {
        size: 1234,
        ..SetAttr::default()
    };
    let cases = [
        (
            t::version(0xffff, 8192, b"9P2000.L"),
            "1500000064ffff0020000008003950323030302e4c",
        ),
        (
            t::version(1, 1 << 20, b"9P2000.L.Google.13"),
            "1f0000006401000000100012003950323030302e4c2e476f6f676c652e3133",
        ),
        (
            t::attach(2, 1, NOFID, b"", b"/", NOID),
            "1800000068020001000000ffffffff000001002fffffffff",
        ),
        (
            t::attach(0, 0, NOFID, b"nobody", b"/srv/a", 1000),
            "2300000068000000000000ffffffff06006e6f626f647906002f7372762f61e8030000",
        ),
        (t::flush(4, 3), "090000006c04000300"),
        (
            t::walk(5, 1, 2, &[b"usr", b"bin"]),
            "1b0000006e0500010000000200000002000300757372030062696e",
        ),
        (t::walk(5, 1, 3, &[]), "110000006e050001000000030000000000"),
        (
            t::walkgetattr(6, 1, 4, &[b"file"]),
            "170000007e060001000000040000000100040066696c65",
        ),
        (t::clunk(7, 2), "0b00000078070002000000"),
        (t::remove(7, 2), "0b0000007a070002000000"),
        (t::lopen(8, 2, 0), "0f0000000c08000200000000000000"),
        (t::lopen(8, 2, 0x8000), "0f0000000c08000200000000800000"),
        (
            t::lcreate(9, 3, b"new", 2, 0o644, NOID),
            "1c0000000e09000300000003006e657702000000a4010000ffffffff",
        ),
        (
            t::ucreate(9, 3, b"new", 1, 0o4755, 100, 1000),
            "200000008009000300000003006e657701000000ed09000064000000e8030000",
        ),
        (
            t::symlink(10, 1, b"ln", b"../to", NOID),
            "1a000000100a000100000002006c6e05002e2e2f746fffffffff",
        ),
        (
            t::usymlink(10, 1, b"ln", b"../to", 7, 5),
            "1e000000860a000100000002006c6e05002e2e2f746f0700000005000000",
        ),
        (
            t::mknod(11, 1, b"nod", 0o100_644, 1, 3, NOID),
            "20000000120b000100000003006e6f64a48100000100000003000000ffffffff",
        ),
        (
            t::umknod(11, 1, b"nod", 0o100_600, 0, 0, 7, 5),
            "24000000840b000100000003006e6f648081000000000000000000000700000005000000",
        ),
        (
            t::mkdir(12, 1, b"dir", 0o1777, NOID),
            "18000000480c00010000000300646972ff030000ffffffff",
        ),
        (
            t::umkdir(12, 1, b"dir", 0o755, 7, 5),
            "1c000000820c00010000000300646972ed0100000700000005000000",
        ),
        (
            t::link(13, 1, 2, b"hard"),
            "15000000460d000100000002000000040068617264",
        ),
        (
            t::rename(14, 2, 1, b"b"),
            "12000000140e000200000001000000010062",
        ),
        (
            t::renameat(14, 1, b"a", 2, b"bb"),
            "160000004a0e00010000000100610200000002006262",
        ),
        (
            t::unlinkat(15, 1, b"dir", 0x200),
            "140000004c0f0001000000030064697200020000",
        ),
        (t::readlink(16, 2), "0b00000016100002000000"),
        (
            t::read(17, 2, 0x1_2345_6789, 4096),
            "1700000074110002000000896745230100000000100000",
        ),
        (
            t::write(18, 2, 512, Data(b"\xde\xad\xbe")),
            "1a00000076120002000000000200000000000003000000deadbe",
        ),
        (
            t::getattr(19, 2, 0x7ff),
            "1300000018130002000000ff07000000000000",
        ),
        (
            t::setattr(20, 2, 1, &mode),
            "430000001a1400020000000100000080010000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
        ),
        (
            t::setattr(20, 2, 0x1ff, &all),
            "430000001a140002000000ff010000800100000500000007000000d2040000000000000a0000000000000014000000000000001e000000000000002800000000000000",
        ),
        (
            t::setattrclunk(20, 2, 8, &size),
            "430000008c14000200000008000000000000000000000000000000d2040000000000000000000000000000000000000000000000000000000000000000000000000000",
        ),
        (
            t::allocate(21, 2, 3, 4096, 0x2000),
            "1f0000008a1500020000000300000000100000000000000020000000000000",
        ),
        (
            t::xattrwalk(22, 2, 5, b"user.a"),
            "170000001e160002000000050000000600757365722e61",
        ),
        (
            t::getxattr(23, 2, b"user.a", 256),
            "1b000000221700020000000600757365722e610001000000000000",
        ),
        (
            t::setxattr(23, 2, b"user.a", b"val", 2),
            "1c000000241700020000000600757365722e61030076616c02000000",
        ),
        (
            t::listxattr(24, 2, 1024),
            "130000001c1800020000000004000000000000",
        ),
        (
            t::removexattr(24, 2, b"user.a"),
            "13000000261800020000000600757365722e61",
        ),
        (
            t::readdir(25, 1, 0, 65536),
            "1700000028190001000000000000000000000000000100",
        ),
        (t::fsync(26, 2, 1), "0f000000321a000200000001000000"),
        (t::flushf(26, 2), "0b0000007c1a0002000000"),
        (t::statfs(27, 1), "0b000000081b0001000000"),
        (t::lconnect(28, 2, 0), "0f000000881c000200000000000000"),
        (
            t::multigetattr(29, 1, &[b"", b"d", b"f"]),
            "150000008e1d000100000003000000010064010066",
        ),
        (
            t::bind(30, 1, 1, b"s", 5, 7, 6),
            "1e000000901e000100000001000000010073050000000700000006000000",
        ),
        (t::channel(31, 0, 0), "0f000000fa1f000000000000000000"),
        (
            t::lock(26, 2, 1, 1, 0, 0, 100, b"host"),
            "2a000000341a0002000000010100000000000000000000000000000000000000640000000400686f7374",
        ),
    ];
    for (made, literal) in cases {
        assert_eq!(made, hex(literal), "{literal}");
    }
}

fn decoded<T: Take>(literal: &str) -> T {
    let bytes = hex(literal);
    let frame = Frame {
        kind: bytes[4],
        tag: u16::from_le_bytes([bytes[5], bytes[6]]),
        body: bytes[7..].to_vec(),
        fd: None,
    };
    let (kind, tag) = (frame.kind - 1, frame.tag);
    frame.answer(kind, tag).unwrap()
}

#[test]
fn replies_of_the_original_encoder_are_read() {
    let file = Qid {
        kind: 0,
        version: 0,
        path: 0x0100_0000_0000_0abc,
    };
    let dir = Qid {
        kind: 0x80,
        version: 0,
        path: 0x102,
    };

    let walk: Rwalk =
        decoded("230000006f05000200800000000002010000000000000000000000bc0a000000000001");
    assert_eq!(walk.qids, [dir.clone(), file.clone()]);

    let open: Ropen = decoded("180000000d08000000000000bc0a00000000000100000000");
    assert_eq!((open.qid, open.iounit), (file.clone(), 0));

    let link: Rreadlink = decoded("0e00000017100005002e2e2f746f");
    assert_eq!(link.target, b"../to");

    let read: Rread = decoded("100000007511000500000068656c6c6f");
    assert_eq!(read.data.0, b"hello");

    let list: Rreaddir = decoded(
        "43000000291900380000008000000000020100000000000001000000000000008003007375620000000000bc0a0000000000010200000000000000000500612e747874",
    );
    let entries = [
        Dirent {
            qid: dir,
            offset: 1,
            kind: 0x80,
            name: b"sub".to_vec(),
        },
        Dirent {
            qid: file,
            offset: 2,
            kind: 0,
            name: b"a.txt".to_vec(),
        },
    ];
    assert_eq!(
        (list.entries.list.as_slice(), list.entries.bytes),
        (entries.as_slice(), 56)
    );

    let attr: Rgetattr = decoded(
        "a0000000191300ff060000000000000000000000bc0a000000000001a4810000e803000064000000010000000000000000000000000000000b00000000000000001000000000000008000000000000000089ca5b0000000001000000000000000189ca5b0000000002000000000000000289ca5b0000000003000000000000000000000000000000000000000000000000000000000000000000000000000000",
    );
    assert_eq!(
        (attr.valid, attr.attr.mode, attr.attr.uid, attr.attr.gid),
        (VALID, 0o100_644, 1000, 100)
    );
    assert_eq!(
        (attr.attr.nlink, attr.attr.size, attr.attr.blocks),
        (1, 11, 8)
    );
    assert_eq!(
        (attr.attr.atime_ns, attr.attr.mtime_ns, attr.attr.ctime_ns),
        (1, 2, 3)
    );

    let statfs: Rstatfs = decoded(
        "43000000091b0053ef000000100000e803000000000000f40100000000000090010000000000002c01000000000000c8000000000000000000000000000000ff000000",
    );
    assert_eq!(
        (statfs.kind, statfs.bsize, statfs.blocks, statfs.namelen),
        (0xef53, 4096, 1000, 255)
    );
}

/// The client is as strict as a test must be.
#[test]
fn replies_torn_too_long_or_of_another_type_are_refused() {
    let frame = |kind, body: &[u8]| Frame {
        kind,
        tag: 1,
        body: body.to_vec(),
        fd: None,
    };
    assert!(frame(119, &[1, 0, 0]).answer::<Rwrite>(118, 1).is_err());
    assert!(
        frame(119, &[1, 0, 0, 0, 0])
            .answer::<Rwrite>(118, 1)
            .is_err()
    );
    assert!(frame(121, &[1, 0, 0, 0]).answer::<Rwrite>(118, 1).is_err());
    assert!(frame(119, &[1, 0, 0, 0]).answer::<Rwrite>(118, 2).is_err());
    assert!(
        frame(117, &[5, 0, 0, 0, 1])
            .answer::<Rread>(116, 1)
            .is_err()
    );
    let torn = [&[25, 0, 0, 0][..], &[0; 25]].concat();
    assert!(frame(41, &torn[..28]).answer::<Rreaddir>(40, 1).is_err());
    assert!(frame(7, &[0; 4]).answer::<Rwrite>(118, 1).is_err());
    frame(119, &[1, 0, 0, 0]).answer::<Rwrite>(118, 1).unwrap();
}
