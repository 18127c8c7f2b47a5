//! Connections to the object store, kept open and used again.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::endpoint::Endpoint;
use crate::config::ConfigError;

/// Connections nobody uses that are kept.
const MOST_IDLE: usize = 64;
/// After that much time servers have closed them, or will the next moment.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// Time to connect, and to agree on keys.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Time between two pieces of a body.
const PIECE_TIME: Duration = Duration::from_secs(30);

/// Where distributions keep their bundle of certificate authorities; the first that exists is read.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt",
];

type Sender = SendRequest<Full<Bytes>>;

/// Where requests go.
pub(super) struct Client {
    endpoint: Endpoint,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Mutex<Vec<(Sender, Instant)>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// The body of an answer on its way.
#[derive(Debug)]
pub(super) struct Reading {
    body: Incoming,
    /// Goes back to the others when everything has been read.
    connection: Option<(Arc<Client>, Sender)>,
}

impl Client {
    /// Makes no connection yet; `authority` is a file with certificates to trust instead of the system's.
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub(super) fn new(endpoint: Endpoint, authority: Option<&Path>) -> Result<Self, ConfigError> {
        let tls = if endpoint.is_tls {
            let unusable =
                |what: String| ConfigError::Unsafe(format!("`storage.endpoint`: {what}"));
            let name = ServerName::try_from(endpoint.host.clone())
                .map_err(|error| unusable(format!("`{}`: {error}", endpoint.host)))?;
            let config = ClientConfig::builder_with_provider(Arc::new(
                rustls::crypto::ring::default_provider(),
            ))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(authorities(authority)?)
            .with_no_client_auth();
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        Ok(Self {
            endpoint,
            tls,
            idle: Mutex::new(Vec::new()),
        })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Sender, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits at most `patience` for the head of the answer.
    ///
    /// # Errors
    /// What went wrong with the connection; whether the request was obeyed is not known then.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> io::Result<(response::Parts, Reading)> {
        let mut sender = match self.take_idle() {
            Some(sender) => sender,
            None => timeout(CONNECT_TIME, self.connect())
                .await
                .map_err(|_elapsed| late("no connection in time"))??,
        };
        let answer = timeout(patience, sender.send_request(request))
            .await
            .map_err(|_elapsed| late("no answer in time"))?
            .map_err(io::Error::other)?;
        let (head, body) = answer.into_parts();
        let connection = Some((Arc::clone(self), sender));
        Ok((head, Reading { body, connection }))
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle();
        while let Some((sender, since)) = idle.pop() {
            if since.elapsed() < IDLE_TIME && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self) -> io::Result<Sender> {
        let stream = TcpStream::connect((self.endpoint.host.as_str(), self.endpoint.port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => shake_hands(stream).await,
            Some((connector, name)) => {
                shake_hands(connector.connect(name.clone(), stream).await?).await
            }
        }
    }

    fn give_back(self: Arc<Self>, mut sender: Sender) {
        if sender.is_ready() {
            return self.keep(sender);
        }
        // The end of the body was seen here before it was seen there.
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(Duration::from_secs(1), sender.ready()).await {
                self.keep(sender);
            }
        });
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle();
        if idle.len() < MOST_IDLE {
            idle.push((sender, Instant::now()));
        }
    }
}

async fn shake_hands<S>(stream: S) -> io::Result<Sender>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(256 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        if connection.await.is_err() {
            // Whoever waits for an answer on it is told.
        }
    });
    Ok(sender)
}

fn late(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

fn authorities(named: Option<&Path>) -> Result<RootCertStore, ConfigError> {
    let system = || {
        SYSTEM_BUNDLES
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
    };
    let wrong = |what: String| ConfigError::Unsafe(format!("`storage.authority`: {what}"));
    let Some(path) = named.or_else(system) else {
        let what = "the system has no certificates of authorities; name a file with those to trust";
        return Err(wrong(what.to_owned()));
    };
    let mut store = RootCertStore::empty();
    let unreadable = |error| wrong(format!("{}: {error}", path.display()));
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        // Bundles of systems hold some that nobody can use.
        store.add_parsable_certificates([certificate.map_err(unreadable)?]);
    }
    if store.is_empty() {
        return Err(wrong(format!("{} holds no certificate", path.display())));
    }
    Ok(store)
}

impl Reading {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, or nothing came for long: the body is not whole.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let frame = timeout(PIECE_TIME, self.body.frame())
                .await
                .map_err(|_elapsed| late("the answer stopped"))?;
            match frame {
                None => {
                    if let Some((client, sender)) = self.connection.take() {
                        client.give_back(sender);
                    }
                    return Ok(None);
                }
                Some(frame) => {
                    if let Ok(bytes) = frame.map_err(io::Error::other)?.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// All of it, if it is no more than `most` bytes.
    ///
    /// # Errors
    /// As [`Reading::next`], or it is more.
    pub(super) async fn all(mut self, most: usize) -> io::Result<Bytes> {
        let Some(first) = self.next().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.next().await? else {
            return Ok(first);
        };
        let mut all = Vec::from(first);
        let mut piece = Some(second);
        while let Some(bytes) = piece {
            if all.len() + bytes.len() > most {
                let what = format!("the answer has more than {most} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            all.extend_from_slice(&bytes);
            piece = self.next().await?;
        }
        Ok(all.into())
    }
}
