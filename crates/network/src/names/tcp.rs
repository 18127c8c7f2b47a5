//! Questions in connections: for answers that do not fit into a datagram.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::answer::{Carrier, Reaction, failure, react};
use super::zone::Zone;
use crate::wake::start_thread;

/// The most connections at once; a container that holds them all only keeps itself from asking.
const MAX_CONNECTIONS: usize = 8;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How long a server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where connections come in, and how many there are.
#[derive(Debug)]
pub(crate) struct Connections {
    listener: TcpListener,
    zone: Arc<Zone>,
    servers: Vec<SocketAddr>,
    open: Arc<AtomicUsize>,
}

impl Connections {
    pub(crate) fn new(listener: TcpListener, zone: Arc<Zone>, servers: Vec<SocketAddr>) -> Self {
        Self {
            listener,
            zone,
            servers,
            open: Arc::default(),
        }
    }

    pub(crate) const fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Takes a connection that waits, and serves it on a thread of its own.
    pub(crate) fn accept(&self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        if self.open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let (zone, servers, open) = (
            Arc::clone(&self.zone),
            self.servers.clone(),
            Arc::clone(&self.open),
        );
        let started = start_thread("names-tcp", move || {
            if let Err(error) = serve(stream, &zone, &servers) {
                tracing::debug!("a connection that asks about names ended: {error}");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Answers one question after the other.
fn serve(mut stream: TcpStream, zone: &Zone, servers: &[SocketAddr]) -> std::io::Result<()> {
    // What is accepted does not inherit it everywhere.
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    loop {
        let question = read(&mut stream)?;
        let answer = match react(&question, &zone.view(), Carrier::Connection) {
            Reaction::Reply(bytes) => bytes,
            Reaction::Ignore => return Ok(()),
            Reaction::Forward => {
                let mut answers = servers
                    .iter()
                    .filter_map(|server| ask(*server, &question).ok());
                match answers.next().or_else(|| failure(&question)) {
                    Some(bytes) => bytes,
                    None => return Ok(()),
                }
            }
        };
        write(&mut stream, &answer)?;
    }
}

fn ask(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write(&mut stream, question)?;
    read(&mut stream)
}

/// A message behind its length.
fn read(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let whole = [&length.to_be_bytes(), message].concat();
    stream.write_all(&whole)
}
