//! Sockets that notice a cancellation: look-up, connecting, reading and writing in short slices.
//!
//! ureq hands no word of a request to its transport, and keeps connections from one request to the
//! next. So the flag in force is a property of the thread that does the work: [`cancellable`] sets
//! it, and every blocking call below looks at it. The `unversioned` part of ureq's interface is used
//! here and nowhere else.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

use crate::cancel::{Cancel, Cancelled, POLL};
use crate::names::Names;
use crate::proxy::ProxyAddress;

/// The most addresses of one host that are tried.
const MOST_ADDRESSES: usize = 16;
/// Stands for no time limit.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

thread_local! {
    static CURRENT: RefCell<Current> = RefCell::new(Current::default());
}

/// What the sockets of a thread and the code above ureq tell each other.
#[derive(Default)]
struct Current {
    cancel: Cancel,
    /// The server takes no more of the request, and has answered already.
    answered: bool,
}

/// Runs `work`; its use of sockets on this thread ends within [`POLL`] when `cancel` is set.
pub(crate) fn cancellable<T>(cancel: &Cancel, work: impl FnOnce() -> T) -> T {
    /// Puts the former flag back, also when `work` panics.
    struct Restore(Option<Current>);
    impl Drop for Restore {
        fn drop(&mut self) {
            if let Some(former) = self.0.take() {
                CURRENT.with(|current| current.replace(former));
            }
        }
    }
    let now = Current {
        cancel: cancel.clone(),
        answered: false,
    };
    let _restore = Restore(Some(CURRENT.with(|current| current.replace(now))));
    work()
}

/// Tells whether the server has answered before it took the whole body: the rest goes nowhere, and
/// need not be read.
pub(crate) fn answered() -> bool {
    CURRENT.with(|current| current.borrow().answered)
}

fn check() -> Result<(), Error> {
    CURRENT
        .with(|current| current.borrow().cancel.check())
        .map_err(|cancelled: Cancelled| Error::Io(io::Error::other(cancelled)))
}

/// Does `work` on a thread of its own, so that this one can give up waiting for it.
fn in_thread<T: Send + 'static>(
    timeout: NextTimeout,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("kiln-http".to_owned())
        .spawn(move || {
            // Nobody listens any more when the wait was given up.
            drop(sender.send(work()));
        })?;
    let end = Instant::now() + limit(timeout);
    loop {
        check()?;
        let slice = POLL.min(end.saturating_duration_since(Instant::now()));
        match receiver.recv_timeout(slice) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
            Err(RecvTimeoutError::Timeout) => return Err(Error::Timeout(timeout.reason)),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Io(io::Error::other("a network thread panicked")));
            }
        }
    }
}

fn limit(timeout: NextTimeout) -> Duration {
    (*timeout.after).min(FOR_EVER)
}

/// Looks up host names; for a forwarding proxy, the proxy's own.
#[derive(Debug)]
pub(crate) struct LookUp {
    pub(crate) forward: Option<ProxyAddress>,
    /// ureq asks before each request, also where it has a connection already.
    pub(crate) names: Names,
}

impl Resolver for LookUp {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let (host, port) = match &self.forward {
            Some(proxy) => (proxy.url.host().to_owned(), proxy.url.port()),
            None => {
                let host = uri.host().ok_or(Error::HostNotFound)?.to_owned();
                let default = if uri.scheme_str() == Some("https") {
                    443
                } else {
                    80
                };
                (host, uri.port_u16().unwrap_or(default))
            }
        };
        let bare = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let mut addresses = self.empty();
        if let Ok(address) = bare.parse() {
            addresses.push(SocketAddr::new(address, port));
            return Ok(addresses);
        }
        let ask = || {
            let name = bare.clone();
            let found = in_thread(timeout, move || {
                (name.as_str(), port)
                    .to_socket_addrs()
                    .map(|found| found.take(MOST_ADDRESSES).collect::<Vec<_>>())
            })?;
            // The system tells a name that does not exist from a silent name server only in words.
            found.map_err(|_look_up| Error::HostNotFound)
        };
        for address in self.names.get(&bare, port, check, ask)? {
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(Error::HostNotFound);
        }
        Ok(addresses)
    }
}

/// Connects to the first address that answers.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) forward: Option<ProxyAddress>,
}

impl<In: Transport> Connector<In> for Dialer {
    type Out = Either<In, Socket>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        let addresses = details.addrs.iter().copied().collect::<Vec<_>>();
        let budget = limit(details.timeout);
        let stream = in_thread(details.timeout, move || dial(&addresses, budget))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(POLL))?;
        stream.set_write_timeout(Some(POLL))?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        let forward = self.forward.as_ref().map(|proxy| Forward {
            origin: origin(details.uri),
            authorization: proxy.authorization(),
            head_next: true,
        });
        Ok(Some(Either::B(Socket {
            stream,
            buffers,
            forward,
            deaf: false,
        })))
    }
}

fn origin(uri: &Uri) -> String {
    format!(
        "http://{}",
        uri.authority().map_or("", |authority| authority.as_str())
    )
}

/// Tries one address after the other; each may use half of the time that is left.
fn dial(addresses: &[SocketAddr], budget: Duration) -> Result<TcpStream, Error> {
    let end = Instant::now() + budget;
    let mut last = Error::HostNotFound;
    for (index, address) in addresses.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Timeout(Timeout::Connect));
        }
        let share = if index + 1 == addresses.len() {
            left
        } else {
            left / 2
        };
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                last = Error::Timeout(Timeout::Connect);
            }
            Err(error) => last = Error::Io(error),
        }
    }
    Err(last)
}

/// A connected socket whose calls last at most [`POLL`] each.
pub(crate) struct Socket {
    stream: TcpStream,
    buffers: LazyBuffers,
    forward: Option<Forward>,
    /// The peer takes nothing any more; what it said before is still to be read.
    deaf: bool,
}

/// What a plain request through a proxy looks like (RFC 9112, 3.2.2): ureq knows only tunnels, which
/// proxies commonly refuse for plain http.
struct Forward {
    origin: String,
    authorization: Option<String>,
    /// The next bytes sent start a request.
    head_next: bool,
}

impl Forward {
    /// Writes the first line of the request as proxies want it, and the credentials after it.
    fn rewritten(&self, request: &[u8]) -> Option<Vec<u8>> {
        let line_end = request.windows(2).position(|pair| pair == b"\r\n")? + 2;
        let path_at = request.iter().position(|byte| *byte == b' ')? + 1;
        if request.get(path_at) != Some(&b'/') || path_at > line_end {
            return None;
        }
        let mut out = request[..path_at].to_vec();
        out.extend_from_slice(self.origin.as_bytes());
        out.extend_from_slice(&request[path_at..line_end]);
        if let Some(authorization) = &self.authorization {
            out.extend_from_slice(format!("Proxy-Authorization: {authorization}\r\n").as_bytes());
        }
        out.extend_from_slice(&request[line_end..]);
        Some(out)
    }
}

impl Socket {
    fn send(stream: &TcpStream, mut bytes: &[u8], timeout: NextTimeout) -> Result<(), Error> {
        let mut end = None;
        while !bytes.is_empty() {
            match (&*stream).write(bytes) {
                Ok(0) => return Err(Error::Io(io::ErrorKind::WriteZero.into())),
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) => wait_on(error, &mut end, timeout)?,
            }
        }
        Ok(())
    }

    /// Makes the best of a failed write: a server that refuses a large body answers and closes, and
    /// ureq would lose the answer. What is still to be sent is then thrown away.
    fn heard(&mut self, sent: Result<(), Error>) -> Result<(), Error> {
        let Err(error) = sent else { return Ok(()) };
        check()?;
        if !matches!(self.stream.peek(&mut [0]), Ok(1..)) {
            return Err(error);
        }
        self.deaf = true;
        CURRENT.with(|current| current.borrow_mut().answered = true);
        Ok(())
    }
}

/// Decides after a slice of waiting whether to go on. The clock starts at the first empty slice, so
/// that a socket that is ready costs no look at it.
fn wait_on(error: io::Error, end: &mut Option<Instant>, timeout: NextTimeout) -> Result<(), Error> {
    let kind = error.kind();
    if kind == io::ErrorKind::Interrupted {
        return check();
    }
    if kind != io::ErrorKind::WouldBlock && kind != io::ErrorKind::TimedOut {
        return Err(Error::Io(error));
    }
    check()?;
    let now = Instant::now();
    let end = end.get_or_insert_with(|| now + limit(timeout).saturating_sub(POLL));
    if now >= *end {
        return Err(Error::Timeout(timeout.reason));
    }
    Ok(())
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        check()?;
        if self.deaf {
            return Ok(());
        }
        let timeout = timeout.for_write();
        let output = &self.buffers.output()[..amount];
        if let Some(forward) = &mut self.forward
            && forward.head_next
        {
            forward.head_next = false;
            if let Some(rewritten) = forward.rewritten(output) {
                return Self::send(&self.stream, &rewritten, timeout);
            }
        }
        let sent = Self::send(&self.stream, output, timeout);
        self.heard(sent)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        check()?;
        let timeout = timeout.for_read();
        if let Some(forward) = &mut self.forward {
            forward.head_next = true;
        }
        let free = self.buffers.input_append_buf();
        let mut end = None;
        loop {
            match self.stream.read(free) {
                Ok(read) => {
                    self.buffers.input_appended(read);
                    return Ok(read > 0);
                }
                Err(error) => wait_on(error, &mut end, timeout)?,
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // A kept connection has nothing to say: bytes or an end mean that it cannot be used.
        let probe = |stream: &TcpStream| {
            stream.set_nonblocking(true)?;
            let silent = matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            stream.set_nonblocking(false)?;
            io::Result::Ok(silent)
        };
        !self.deaf && probe(&self.stream).unwrap_or(false)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The peer may have closed it already, which is as good.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("peer", &self.stream.peer_addr().ok())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarded_request_names_its_host_in_the_first_line() {
        let forward = Forward {
            origin: "http://h:81".to_owned(),
            authorization: Some("Basic eDp5".to_owned()),
            head_next: true,
        };
        let out = forward
            .rewritten(b"GET /a?b HTTP/1.1\r\nhost: h\r\n\r\n")
            .unwrap();
        assert_eq!(
            out,
            b"GET http://h:81/a?b HTTP/1.1\r\nProxy-Authorization: Basic eDp5\r\nhost: h\r\n\r\n"
        );
        assert_eq!(forward.rewritten(b"no request"), None);
    }
}
