//! A small HTTP/1.1 server on loopback that does what it is told, faults included.
//!
//! Shared by the tests of `http` and `client`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: String,
    /// The target as in the first line: with the query, absolute when it came to a proxy.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The first byte of a `Range: bytes=N-`.
    pub(crate) fn range_start(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// What to answer, and what to do wrong.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub(crate) cut_after: Option<usize>,
    /// Fall silent after so many bytes of the body, until the client goes away.
    pub(crate) stall_after: Option<usize>,
    /// Fall silent instead of answering.
    pub(crate) mute: bool,
    /// Close the connection without an answer.
    pub(crate) hang_up: bool,
    /// Send these bytes instead of anything else, then close.
    pub(crate) raw: Option<Vec<u8>>,
    /// Announce this length instead of the true one.
    pub(crate) length: Option<u64>,
    /// Send in chunks, without a length.
    pub(crate) chunked: bool,
    /// Close after the answer without saying so.
    pub(crate) close_silently: bool,
    /// Wait before answering.
    pub(crate) delay: Duration,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut_after: None,
            stall_after: None,
            mute: false,
            hang_up: false,
            raw: None,
            length: None,
            chunked: false,
            close_silently: false,
            delay: Duration::ZERO,
        }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200).body(body)
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// `body`, or its end when the request asks for a range.
    pub(crate) fn ranged(request: &Received, body: &[u8]) -> Self {
        match request.range_start() {
            None => Self::ok(body),
            Some(start) if start >= body.len() => Self::new(416),
            Some(start) => Self::new(206).body(&body[start..]).header(
                "content-range",
                format!("bytes {start}-{}/{}", body.len() - 1, body.len()),
            ),
        }
    }
}

type Handler = dyn Fn(&Received) -> Answer + Send + Sync;
/// Wraps an accepted socket, in TLS for example.
type Wrap = dyn Fn(TcpStream) -> io::Result<Box<dyn Duplex>> + Send + Sync;

pub(crate) trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// The server; it stops and its threads end when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    connections: AtomicUsize,
    received: Mutex<Vec<Received>>,
    handler: Box<Handler>,
    wrap: Box<Wrap>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_wrapped(|stream| Ok(Box::new(stream)), handler)
    }

    pub(crate) fn start_wrapped(
        wrap: impl Fn(TcpStream) -> io::Result<Box<dyn Duplex>> + Send + Sync + 'static,
        handler: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            received: Mutex::new(Vec::new()),
            handler: Box::new(handler),
            wrap: Box::new(wrap),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else {
                        continue;
                    };
                    // A client that goes away in the middle is part of the tests.
                    thread::spawn(move || shared.serve(stream).ok());
                }
            })
        };
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// `http://127.0.0.1:port` and `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        stream.set_nodelay(true)?;
        let socket = stream.try_clone()?;
        let mut stream = BufReader::with_capacity(64 * 1024, (self.wrap)(stream)?);
        while let Some(request) = read_request(&mut stream)? {
            self.received.lock().unwrap().push(request.clone());
            let answer = (self.handler)(&request);
            thread::sleep(answer.delay);
            let head_only = request.method == "HEAD";
            if !self.answer(&answer, head_only, stream.get_mut(), &socket)? {
                break;
            }
        }
        socket.shutdown(Shutdown::Both)
    }

    /// Returns whether the connection goes on.
    fn answer(
        &self,
        answer: &Answer,
        head_only: bool,
        out: &mut dyn Duplex,
        socket: &TcpStream,
    ) -> io::Result<bool> {
        if let Some(raw) = &answer.raw {
            out.write_all(raw)?;
            out.flush()?;
            return Ok(false);
        }
        if answer.hang_up {
            return Ok(false);
        }
        if answer.mute {
            self.wait_for_end(socket)?;
            return Ok(false);
        }
        let mut head = format!("HTTP/1.1 {} Test\r\n", answer.status);
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let has_length = answer
            .headers
            .iter()
            .any(|(name, _)| name == "content-length");
        if answer.chunked {
            head += "transfer-encoding: chunked\r\n";
        } else if !has_length {
            let length = answer.length.unwrap_or(answer.body.len() as u64);
            head += &format!("content-length: {length}\r\n");
        }
        head += "\r\n";
        out.write_all(head.as_bytes())?;
        if head_only {
            out.flush()?;
            return Ok(true);
        }
        let end = answer
            .cut_after
            .or(answer.stall_after)
            .unwrap_or(answer.body.len());
        let sent = &answer.body[..end.min(answer.body.len())];
        if answer.chunked {
            for chunk in sent.chunks(1000) {
                write!(out, "{:x}\r\n", chunk.len())?;
                out.write_all(chunk)?;
                out.write_all(b"\r\n")?;
            }
            if answer.cut_after.is_none() {
                out.write_all(b"0\r\n\r\n")?;
            }
        } else {
            out.write_all(sent)?;
        }
        out.flush()?;
        if answer.stall_after.is_some() {
            self.wait_for_end(socket)?;
        }
        let whole = answer.cut_after.is_none() && answer.stall_after.is_none();
        Ok(whole && !answer.close_silently)
    }

    /// Stays silent until the client closes or the server stops.
    fn wait_for_end(&self, socket: &TcpStream) -> io::Result<()> {
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        while !self.stop.load(Ordering::SeqCst) {
            match socket.peek(&mut [0]) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Reads a request; `None` when the client has closed the connection.
pub(crate) fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Received>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut received = Received {
        method,
        target,
        headers,
        body: Vec::new(),
    };
    if let Some(length) = received.header("content-length") {
        received.body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut received.body)?;
    }
    Ok(Some(received))
}
