//! Ports that stay a program's own, also before it starts and while it is down.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt,
};

/// A port of the loopback device for one program, as long as the value is there.
///
/// Whoever asks the system for any port gets another one, and so does every connection that goes out. A program
/// that says which one it wants can listen at it, if it says that the address may be in use, as servers do.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Has the address and never listens.
    _socket: OwnedFd,
}

impl Port {
    /// Sets one aside that nobody has.
    ///
    /// # Errors
    /// What the system says.
    pub fn reserve() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let number = SocketAddr::try_from(getsockname(&socket)?)?.port();
        Ok(Self {
            number,
            _socket: socket,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_port_is_had_by_who_names_it_and_again_after_that() {
        let port = Port::reserve().unwrap();
        let address = ("127.0.0.1", port.number());
        for _ in 0..2 {
            assert!(TcpStream::connect(address).is_err());
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(address).unwrap();
            // Ends first here, and so waits for what may still be on its way.
            drop(listener.accept().unwrap());
            drop(client);
        }
    }

    #[test]
    fn nobody_else_gets_a_port_that_is_set_aside() {
        let port = Port::reserve().unwrap();
        // What the system gives of its own accord is what can be had without saying that it may be in use.
        let other = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
        assert_eq!(
            bind(&other, &address).unwrap_err(),
            rustix::io::Errno::ADDRINUSE
        );
        drop(port);
        bind(&other, &address).unwrap();
    }
}
