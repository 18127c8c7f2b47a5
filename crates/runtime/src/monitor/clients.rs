//! Verbs that are connected to a monitor.
//!
//! Output that one of them does not take yet is kept, and until it is taken the container waits, as it would if it
//! wrote to that verb's pipe itself. So nothing is lost, and a monitor never holds more than a piece of output.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::waiting::Source;
use crate::control::{self, FromVerb, MAX_PACKET, Reply, Request};
use crate::log::Stream;

/// How long the last packets may take.
const PATIENCE: rustix::event::Timespec = rustix::event::Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

#[derive(Debug)]
pub(super) struct Clients {
    listener: OwnedFd,
    /// Those that are gone keep their place until all is quiet.
    clients: Vec<Option<Client>>,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    role: Role,
    backlog: VecDeque<Vec<u8>>,
}

/// What a verb wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It did not say yet, or wants a moment's answer.
    Asking,
    /// To see output, and maybe to type.
    Attached { input: bool, impatient: bool },
    /// To be told of the end.
    Waiting,
}

/// What a verb said.
#[derive(Debug)]
pub(super) enum Asked {
    Request(Request),
    Input(Vec<u8>),
    EndOfInput,
}

impl Clients {
    pub(super) fn new(listener: OwnedFd, first: OwnedFd) -> Self {
        Self {
            listener,
            clients: vec![Some(Client::new(first))],
        }
    }

    /// Waits until the first one said what it wants, or is gone.
    pub(super) fn wait_for_first(&self) {
        let Some(Some(first)) = self.clients.first() else {
            return;
        };
        let mut poll = [PollFd::new(&first.socket, PollFlags::IN)];
        if let Err(error) = rustix::event::poll(&mut poll, Some(&PATIENCE)) {
            tracing::warn!("cannot wait for what is wanted: {error}");
        }
    }

    pub(super) fn polls<'a>(&'a self, polls: &mut Vec<(Source, PollFd<'a>)>, takes_input: bool) {
        polls.push((Source::Listener, PollFd::new(&self.listener, PollFlags::IN)));
        for (index, client) in self.clients.iter().enumerate() {
            let Some(client) = client else { continue };
            // One that types has to wait as long as the container does not read.
            let types = matches!(client.role, Role::Attached { input: true, .. });
            if takes_input || !types {
                let poll = PollFd::new(&client.socket, PollFlags::IN);
                polls.push((Source::Client(index), poll));
            }
            if !client.backlog.is_empty() {
                let poll = PollFd::new(&client.socket, PollFlags::OUT);
                polls.push((Source::ClientRoom(index), poll));
            }
        }
    }

    /// Whether everybody has taken what was shown so far.
    pub(super) fn has_room(&self) -> bool {
        let mut clients = self.clients.iter().flatten();
        clients.all(|client| client.backlog.is_empty())
    }

    pub(super) fn wants_input(&self) -> bool {
        let mut clients = self.clients.iter().flatten();
        clients.any(|client| matches!(client.role, Role::Attached { input: true, .. }))
    }

    pub(super) fn is_impatient(&self, index: usize) -> bool {
        let client = self.clients.get(index).and_then(Option::as_ref);
        client.is_some_and(|client| {
            matches!(
                client.role,
                Role::Attached {
                    impatient: true,
                    ..
                }
            )
        })
    }

    pub(super) fn accept(&mut self) {
        match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(socket) => self.clients.push(Some(Client::new(socket))),
            // Whoever knocked went away again.
            Err(error) => tracing::debug!("nobody is there: {error}"),
        }
    }

    /// Reads what one of them said by now.
    pub(super) fn read(&mut self, index: usize) -> Vec<Asked> {
        let mut asked = Vec::new();
        let Some(place) = self.clients.get_mut(index) else {
            return asked;
        };
        let Some(client) = place else { return asked };
        let mut buffer = vec![0; MAX_PACKET];
        match control::receive(client.socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
            Ok(0) => *place = None,
            Ok(count) => match FromVerb::parse(&buffer[..count]) {
                Some(FromVerb::Request(request)) => {
                    client.take_role(&request);
                    asked.push(Asked::Request(request));
                }
                Some(FromVerb::Input(bytes)) if client.types() => asked.push(Asked::Input(bytes)),
                Some(FromVerb::EndOfInput) if client.types() => asked.push(Asked::EndOfInput),
                // It does not speak our language.
                Some(FromVerb::Input(_) | FromVerb::EndOfInput) | None => *place = None,
            },
            Err(Errno::AGAIN) => {}
            Err(_) => *place = None,
        }
        asked
    }

    pub(super) fn show(&mut self, stream: Stream, bytes: &[u8]) {
        let packet = control::output(stream, bytes);
        for client in self.clients.iter_mut().flatten() {
            if matches!(client.role, Role::Attached { .. }) {
                client.send(packet.clone());
            }
        }
        self.drop_broken();
    }

    /// Tells one of them.
    pub(super) fn tell(&mut self, index: usize, reply: &Reply) {
        if let Some(Some(client)) = self.clients.get_mut(index) {
            client.send(control::reply(reply));
        }
    }

    /// Tells everybody who may be waiting for it that the container runs.
    pub(super) fn tell_started(&mut self, reply: &Reply) {
        self.tell_all(reply);
    }

    /// Tells everybody.
    pub(super) fn tell_all(&mut self, reply: &Reply) {
        for client in self.clients.iter_mut().flatten() {
            client.send(control::reply(reply));
        }
    }

    /// Tells those who wait that the container ended; those who watch it only if it did `for_good`.
    pub(super) fn tell_ended(&mut self, reply: &Reply, for_good: bool) {
        for client in self.clients.iter_mut().flatten() {
            if for_good || client.role == Role::Waiting {
                client.send(control::reply(reply));
            }
        }
    }

    pub(super) fn flush(&mut self, index: usize) {
        if let Some(Some(client)) = self.clients.get_mut(index) {
            client.flush(SendFlags::DONTWAIT);
        }
        self.drop_broken();
    }

    /// Waits until everybody has taken everything, but not for ever.
    pub(super) fn flush_all(&mut self) {
        for client in self.clients.iter_mut().flatten() {
            while !client.backlog.is_empty() {
                let mut poll = [PollFd::new(&client.socket, PollFlags::OUT)];
                match rustix::event::poll(&mut poll, Some(&PATIENCE)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => break,
                }
                if !client.flush(SendFlags::DONTWAIT) {
                    break;
                }
            }
        }
    }

    /// Ends all connections.
    pub(super) fn close(&mut self) {
        self.clients.clear();
    }

    fn drop_broken(&mut self) {
        for place in &mut self.clients {
            if place.as_ref().is_some_and(|client| client.is_broken()) {
                *place = None;
            }
        }
    }

    /// Forgets those that are gone at the end of the list; the others keep their numbers.
    pub(super) fn drop_gone(&mut self) {
        while self.clients.last().is_some_and(Option::is_none) {
            self.clients.pop();
        }
    }
}

impl Client {
    fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            role: Role::Asking,
            backlog: VecDeque::new(),
        }
    }

    fn take_role(&mut self, request: &Request) {
        match request {
            Request::Attach { input, impatient } => {
                self.role = Role::Attached {
                    input: *input,
                    impatient: *impatient,
                };
            }
            // One that is attached sees the end anyway.
            Request::Wait | Request::Stop { .. } if self.role == Role::Asking => {
                self.role = Role::Waiting;
            }
            Request::Start
            | Request::Wait
            | Request::Leave
            | Request::Stop { .. }
            | Request::Resize { .. }
            | Request::Signal { .. } => {}
        }
    }

    fn types(&self) -> bool {
        matches!(self.role, Role::Attached { input: true, .. })
    }

    fn is_broken(&self) -> bool {
        // An empty packet is never sent: it marks who cannot be reached any more.
        self.backlog.front().is_some_and(Vec::is_empty)
    }

    fn send(&mut self, packet: Vec<u8>) {
        self.backlog.push_back(packet);
        self.flush(SendFlags::DONTWAIT);
    }

    /// Sends what can be sent; returns whether it can still be reached.
    fn flush(&mut self, flags: SendFlags) -> bool {
        while let Some(packet) = self.backlog.front() {
            if packet.is_empty() {
                return false;
            }
            let flags = flags | SendFlags::NOSIGNAL;
            match rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, packet, flags)) {
                Ok(_) => drop(self.backlog.pop_front()),
                Err(Errno::AGAIN) => return true,
                Err(_) => {
                    self.backlog.clear();
                    self.backlog.push_back(Vec::new());
                    return false;
                }
            }
        }
        true
    }
}
