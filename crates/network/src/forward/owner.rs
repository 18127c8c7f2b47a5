//! Who has a port, as far as `/proc` tells.

use std::fs;

use crate::port::Protocol;

/// `TCP_LISTEN`, as `/proc/net/tcp` writes it.
const LISTENING: &str = "0A";

/// Names the program that has a port.
pub(crate) fn of(port: u16, protocol: Protocol) -> String {
    let unknown = || "another program".to_owned();
    let Some(socket) = socket(port, protocol) else {
        return unknown();
    };
    let link = format!("socket:[{socket}]");
    let has_it = |process: &str| {
        let files = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
        let mut files = files.flatten();
        let found = files.any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == &*link)
        });
        found.then(|| {
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            format!("`{}` (process {process})", name.trim())
        })
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut processes = processes.filter_map(|entry| entry.file_name().into_string().ok());
    processes
        .find_map(|name| {
            let is_process = name.bytes().all(|byte| byte.is_ascii_digit());
            is_process.then(|| has_it(&name)).flatten()
        })
        .unwrap_or_else(unknown)
}

/// The number of the socket that listens on a port.
fn socket(port: u16, protocol: Protocol) -> Option<String> {
    ["", "6"].iter().find_map(|family| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{protocol}{family}")).ok()?;
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (_, own) = fields.get(1)?.rsplit_once(':')?;
            let listens = protocol == Protocol::Udp || *fields.get(3)? == LISTENING;
            (listens && u16::from_str_radix(own, 16).ok()? == port)
                .then(|| fields.get(9).map(|&socket| socket.to_owned()))
                .flatten()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_that_has_a_port_is_named() {
        let here = format!("(process {})", std::process::id());
        let stream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = stream.local_addr().unwrap().port();
        assert!(of(port, Protocol::Tcp).contains(&here));
        let datagrams = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let port = datagrams.local_addr().unwrap().port();
        assert!(of(port, Protocol::Udp).contains(&here));
        drop(stream);
        assert_eq!(of(1, Protocol::Tcp), "another program");
    }
}
