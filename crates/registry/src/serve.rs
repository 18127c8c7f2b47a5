//! Serving: listeners, connections, and an end in good order.

mod guard;
mod tls;

use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::api::body::Body;
use crate::api::{self, Noted, Peer};
use crate::control;
use crate::log::{Log, Sink, rfc3339};
use crate::registry::{Registry, RegistryError};
use crate::upkeep;
use guard::{Guarded, Phase};
use tls::Certificates;

/// The most bytes of a request's line and headers.
const HEAD_BYTES: usize = 32 << 10;
/// The most bytes that are read from a connection at once, which is what it keeps: of a few, and of all others.
const LARGE_BUFFER: usize = 512 << 10;
const SMALL_BUFFER: usize = 40 << 10;
/// How many connections may have large ones.
const LARGE_BUFFERS: usize = 64;
/// The most headers.
const MOST_HEADERS: usize = 100;
/// Bytes and time a client may go on sending after the last answer.
const LINGERING_BYTES: usize = 1 << 20;
const LINGERING_TIME: Duration = Duration::from_secs(2);
/// How often the files of the certificate are looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(30);
/// Time to agree on keys.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// A registry that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    registry: Arc<Registry>,
    listeners: Vec<std::net::TcpListener>,
    control: Option<(StdUnixListener, PathBuf)>,
    runtime: Option<Runtime>,
    certificates: Option<Certificates>,
    ignores_interrupts: bool,
}

/// What connections share.
pub(crate) struct Shared {
    registry: Arc<Registry>,
    log: Arc<Log>,
    certificates: Option<Certificates>,
    /// Turns true when the registry stops.
    stop: watch::Receiver<bool>,
    places: Arc<Semaphore>,
    large_buffers: Semaphore,
}

impl Server {
    /// Takes the addresses, and the folder's socket for administration.
    ///
    /// # Errors
    /// An address is taken, the settings would let anybody in, or the certificate cannot be used.
    pub fn bind(mut registry: Registry) -> Result<Self, RegistryError> {
        let unsafe_ = |error: crate::config::ConfigError| RegistryError::Refused(error.to_string());
        registry.config.check().map_err(unsafe_)?;
        let certificates = registry
            .config
            .tls
            .as_ref()
            .map(Certificates::load)
            .transpose()?;
        let mut listeners = Vec::new();
        for address in &registry.config.listen {
            let failed =
                |error| RegistryError::Network(format!("cannot listen on {address}: {error}"));
            let listener = std::net::TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            listeners.push(listener);
        }
        // Where processes share an index, each does commands by itself.
        let control = match registry.config.database {
            Some(_) => None,
            None => {
                let path = control::path(&registry.folder);
                Some((control::listen(&path)?, path))
            }
        };
        Ok(Self {
            runtime: registry.runtime.take(),
            registry: Arc::new(registry),
            listeners,
            control,
            certificates,
            ignores_interrupts: false,
        })
    }

    /// The addresses, with the ports that were chosen where 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Has SIGINT mean nothing: whoever started this process in the background of a script wants it so.
    pub fn ignore_interrupts(&mut self) {
        self.ignores_interrupts = true;
    }

    /// Answers until a signal says to stop; `log` is where lines go. Blocks. Calls `ready` when it
    /// answers and would stop in good order.
    ///
    /// # Errors
    /// The machine does not give what a server needs.
    pub fn run(mut self, log: Sink, ready: impl FnOnce()) -> Result<(), RegistryError> {
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => crate::registry::runtime()?,
        };
        let outcome = runtime.block_on(self.serve(log, ready));
        runtime.shutdown_timeout(Duration::from_secs(5));
        outcome
    }

    async fn serve(self, log: Sink, ready: impl FnOnce()) -> Result<(), RegistryError> {
        let network = |error: std::io::Error| RegistryError::Network(error.to_string());
        let signals = Signals::watch(self.ignores_interrupts).map_err(network)?;
        let (stopping, stop) = watch::channel(false);
        let registry = self.registry;
        let shared = Arc::new(Shared {
            log: Arc::new(Log::start(log)?),
            certificates: self.certificates,
            places: Arc::new(Semaphore::new(registry.config.limits.connections as usize)),
            large_buffers: Semaphore::new(LARGE_BUFFERS),
            stop: stop.clone(),
            registry: Arc::clone(&registry),
        });
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            let listener = TcpListener::from_std(listener).map_err(network)?;
            accepting.spawn(accept(Arc::clone(&shared), listener));
        }
        let mut control_path = None;
        if let Some((control, path)) = self.control {
            let control = UnixListener::from_std(control).map_err(network)?;
            accepting.spawn(control::accept(
                Arc::clone(&registry),
                control,
                stop.clone(),
            ));
            control_path = Some(path);
        }
        let upkeep = tokio::spawn(upkeep::in_the_background(
            Arc::clone(&registry),
            Arc::clone(&shared.log),
            stop,
        ));
        shared
            .log
            .event(&registry, "started", json!({ "data": registry.folder }));
        ready();
        signals.wait_for_the_end(&shared).await;
        shared.log.event(&registry, "stopping", json!({}));
        stopping.send_replace(true);
        while accepting.join_next().await.is_some() {}
        // Every open connection holds a place.
        let all = registry.config.limits.connections;
        let drained = shared.places.acquire_many(all);
        let drain_time = registry.config.limits.drain_time.0;
        let is_drained = tokio::time::timeout(drain_time, drained).await.is_ok();
        if upkeep.await.is_err() {
            // It was ended with the runtime's threads; nothing it does is lost by that.
        }
        shared
            .log
            .event(&registry, "stopped", json!({ "drained": is_drained }));
        if let Some(path) = control_path {
            crate::blobs::remove_file(&path)?;
        }
        Ok(())
    }
}

#[cfg(any(test, feature = "fuzz"))]
impl Shared {
    /// What connections share that come from nowhere, until `stop` turns true or its sender goes.
    pub(crate) fn alone(
        registry: Registry,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            log: Arc::new(Log::start(Box::new(std::io::sink()))?),
            certificates: None,
            places: Arc::new(Semaphore::new(1)),
            large_buffers: Semaphore::new(1),
            stop,
            registry: Arc::new(registry),
        })
    }

    /// Answers the requests of one connection.
    pub(crate) async fn answer_all<S>(self: &Arc<Self>, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        converse(self, stream, peer).await;
    }
}

/// The signals that are obeyed.
struct Signals {
    terminate: Signal,
    /// Unless it means nothing.
    interrupt: Option<Signal>,
    hangup: Signal,
}

impl Signals {
    fn watch(ignores_interrupts: bool) -> std::io::Result<Self> {
        let interrupt = || signal(SignalKind::interrupt());
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: (!ignores_interrupts).then(interrupt).transpose()?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when one says to stop; the one that says to look again is obeyed meanwhile.
    async fn wait_for_the_end(mut self, shared: &Shared) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = interrupted(self.interrupt.as_mut()) => return,
                _ = self.hangup.recv() => {}
                () = tokio::time::sleep(LOOKED_AT_EVERY) => {}
            }
            if let Some(certificates) = &shared.certificates
                && let Some(outcome) = certificates.reload_if_changed()
            {
                let detail =
                    outcome.map_or_else(|error| error.to_string(), |()| "read again".to_owned());
                shared
                    .log
                    .event(&shared.registry, "certificate", json!(detail));
            }
        }
    }
}

/// Waits for an interrupt; for ever, if those mean nothing.
async fn interrupted(signal: Option<&mut Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut stop = shared.stop.clone();
    loop {
        let Ok(place) = Arc::clone(&shared.places).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(_too_many_files_or_gone_already) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            shared
                .registry
                .metrics
                .connections
                .fetch_add(1, Ordering::Relaxed);
            greet(&shared, stream, from).await;
            shared
                .registry
                .metrics
                .connections
                .fetch_sub(1, Ordering::Relaxed);
            drop(place);
        });
    }
}

async fn greet(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Some(certificates) = &shared.certificates else {
        let peer = Peer {
            address: from.ip(),
            tls: false,
        };
        return converse(shared, stream, peer).await;
    };
    let handshake = certificates.acceptor().accept(stream);
    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIME, handshake).await {
        let peer = Peer {
            address: from.ip(),
            tls: true,
        };
        converse(shared, stream, peer).await;
    }
}

/// Answers the requests of one connection.
async fn converse<S>(shared: &Arc<Shared>, stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let phase = Phase::new();
    let guarded = Guarded::new(stream, phase.clone(), &shared.registry.config.limits);
    let service = service_fn(|request: Request<Incoming>| {
        phase.request_begins();
        let (shared, phase) = (Arc::clone(shared), phase.clone());
        async move {
            let response = respond(&shared, request, peer).await;
            phase.answer_begins();
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let large = shared.large_buffers.try_acquire();
    let connection = http1::Builder::new()
        .max_buf_size(if large.is_ok() {
            LARGE_BUFFER
        } else {
            SMALL_BUFFER
        })
        .max_header_size(HEAD_BYTES)
        .max_headers(MOST_HEADERS)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(guarded), service);
    let mut connection = connection;
    let mut stop = shared.stop.clone();
    let ended = tokio::select! {
        outcome = &mut connection => Some(outcome),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let outcome = match ended {
        Some(outcome) => outcome,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if outcome.is_err() && phase.was_too_slow() {
        shared
            .registry
            .metrics
            .too_slow
            .fetch_add(1, Ordering::Relaxed);
        return;
    }
    linger(connection.into_parts().io.into_inner()).await;
}

/// Ends a connection whose client may still be sending: one that is closed with bytes unread is
/// reset, and the client never sees the answer.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut buffer = [0; 4096];
    let draining = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        for _ in 0..LINGERING_BYTES / buffer.len() {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    if tokio::time::timeout(LINGERING_TIME, draining)
        .await
        .is_err()
    {
        // It has had its time.
    }
}

async fn respond(shared: &Shared, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let registry = &shared.registry;
    if !registry.config.log.requests {
        let (response, noted) = api::answer(registry, request, peer).await;
        if noted.cause.is_some() {
            shared
                .log
                .line(registry, line(registry, "", "", peer, &response, &noted));
        }
        return response;
    }
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(400).collect();
    let (response, noted) = api::answer(registry, request, peer).await;
    shared.log.line(
        registry,
        line(registry, method.as_str(), &path, peer, &response, &noted),
    );
    response
}

fn line(
    registry: &Registry,
    method: &str,
    path: &str,
    peer: Peer,
    response: &Response<Body>,
    noted: &Noted,
) -> String {
    let mut line = json!({
        "at": rfc3339(registry.time()),
        "from": peer.address,
        "method": method,
        "path": path,
        "status": response.status().as_u16(),
        "bytes": response.body().size(),
        "milliseconds": u64::try_from(noted.took.as_millis()).unwrap_or(u64::MAX),
    });
    if !noted.caller.is_empty() {
        line["account"] = json!(&*noted.caller);
    }
    if let Some(cause) = &noted.cause {
        line["cause"] = json!(cause);
    }
    line.to_string()
}
