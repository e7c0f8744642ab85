//! `mount9p`: starts a 9P server on one end of a socket pair and mounts the other with Linux's own client.
//!
//! The server goes on when this program ends, until the mount is gone: the kernel then closes its end.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::error::Error;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

const HELP: &str = "\
Usage: mount9p MOUNTPOINT OPTIONS SERVER [WORD...]

Starts SERVER with its WORDs, in which {} stands for the number of the socket it serves, and mounts
the other end on MOUNTPOINT. OPTIONS are those of `mount -t 9p`, without transport and version. Prints the
server's process id.

  mount9p /mnt cache=none,access=client,msize=131072 gofer --bundle DIR --io-fds {}
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [mountpoint, options, server, arguments @ ..] = words.as_slice() else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    match run(mountpoint, options, server, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mount9p: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    mountpoint: &str,
    options: &str,
    server: &str,
    arguments: &[String],
) -> Result<(), Box<dyn Error>> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::empty(),
    )?;
    fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let number = theirs.as_raw_fd().to_string();
    let mut child = Command::new(server)
        .args(arguments.iter().map(|word| word.replace("{}", &number)))
        .stdout(std::io::stderr()) // ours is read to its end by who asks for the process id
        .process_group(0) // a ^C in the terminal is not for a file server
        .spawn()
        .map_err(|error| format!("cannot start {server}: {error}"))?;
    drop(theirs); // or the mount would never see that the server is gone

    let fd = ours.as_raw_fd();
    let data = format!("trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L,{options}");
    mount(
        Some("mount9p"),
        mountpoint,
        Some("9p"),
        MsFlags::empty(),
        Some(data.as_str()),
    )
    .map_err(|error| {
        let _ = child.kill();
        let _ = child.wait();
        format!("cannot mount {mountpoint} ({data}): {error}")
    })?;
    println!("{}", child.id());
    Ok(())
}
