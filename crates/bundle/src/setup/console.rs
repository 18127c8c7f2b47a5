//! The terminal of a container: opened inside, its outer end handed to whoever reads and types.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_sys::mount::{self, Depth};
use kiln_sys::{Errno, confined, own};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::target::{self, Kind};
use crate::error::BundleError;
use crate::spec::ConsoleSize;

/// Connects to the socket that is to get the outer end.
pub(crate) fn connect(path: &Path) -> Result<OwnedFd, BundleError> {
    let fail = || BundleError::kernel(format!("connecting to the socket `{}`", path.display()));
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(fail())?;
    // Longer paths than an address takes, by way of the directory.
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = confined::open_directory(parent.unwrap_or(Path::new("."))).map_err(fail())?;
    let name = path.file_name().ok_or_else(|| fail()(Errno::INVAL))?;
    let address = address(directory.as_fd(), Path::new(name)).map_err(fail())?;
    rustix::net::connect(&socket, &address).map_err(fail())?;
    Ok(socket)
}

/// The address of a socket in a directory.
pub(crate) fn address(directory: BorrowedFd<'_>, name: &Path) -> Result<SocketAddrUnix, Errno> {
    use std::os::fd::AsRawFd;
    let base = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    SocketAddrUnix::new(base.join(name))
}

/// Opens a terminal of the container and returns its inner end; the outer one goes through `socket`.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    size: Option<ConsoleSize>,
    owner: (u32, u32),
    socket: BorrowedFd<'_>,
) -> Result<OwnedFd, BundleError> {
    let fail = || BundleError::kernel("opening a terminal in the container");
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let outer = confined::open_in_root(root, "/dev/pts/ptmx", flags, Mode::empty())
        .or_else(|_no_such| confined::open_in_root(root, "/dev/ptmx", flags, Mode::empty()))
        .map_err(fail())?;
    rustix::pty::unlockpt(&outer).map_err(fail())?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let inner = rustix::pty::ioctl_tiocgptpeer(&outer, flags).map_err(fail())?;
    if let Some(ConsoleSize { height, width }) =
        size.filter(|size| size.height > 0 || size.width > 0)
    {
        let size = Winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&outer, size).map_err(fail())?;
    }
    match rustix::fs::fchown(&inner, Some(Uid::from_raw(owner.0)), None::<Gid>) {
        // Of a user that is not mapped: it stays root's.
        Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
        Err(errno) => return Err(fail()(errno)),
    }
    send(socket, outer.as_fd(), b"/dev/ptmx")
        .map_err(BundleError::kernel("handing the terminal over"))?;
    Ok(inner)
}

/// Shows the terminal as `/dev/console`.
pub(crate) fn show(root: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> Result<(), BundleError> {
    let fail = || BundleError::kernel("mounting /dev/console");
    let tree = mount::clone_tree(inner, Depth::Single).map_err(fail())?;
    let place = target::place(root, Path::new("/dev/console"), Kind::File)?;
    mount::attach(tree.as_fd(), place.as_fd()).map_err(fail())
}

/// Makes it the terminal of this process' session, and its input, output and errors.
pub(crate) fn control(inner: BorrowedFd<'_>) -> Result<(), BundleError> {
    let fail = || BundleError::kernel("taking the terminal");
    rustix::process::ioctl_tiocsctty(inner).map_err(fail())?;
    (0..3).try_for_each(|to| own::duplicate(inner, to).map_err(fail()))
}

/// Sends a descriptor with some words.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    words: &[u8],
) -> Result<(), Errno> {
    let files = [file];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(Errno::NOBUFS);
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(words)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .map(|_| ())
}

/// Receives a descriptor.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut words = [0_u8; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        socket,
        &mut [std::io::IoSliceMut::new(&mut words)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let files = ancillary.drain().find_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut files) = message {
            files.next()
        } else {
            None
        }
    });
    files.ok_or(Errno::BADF)
}
