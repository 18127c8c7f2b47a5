//! One blocking HTTP client: keep-alive, TLS roots, proxies, retries with back-off, resumable
//! verified downloads, limits on everything a server may send.
//!
//! Four operations cover what kiln needs: [`Client::fetch`] keeps a small body in memory,
//! [`Client::download`] streams a large one into a [`Sink`] and resumes it after a failure, in the
//! same process or in a later one, [`Client::open`] hands it out as a reader, and [`Client::send`]
//! streams one from a [`Source`] to the server. All stop within a moment when their [`Cancel`] is
//! set.
//!
//! Knows nothing of registries, archives or credentials files, reads no environment and no clock:
//! proxies, certificate files, hosts that may be spoken to without TLS and the seed of the jitter
//! come in [`Settings`].
//!
//! ```text
//! Request ─route→ proxy? ─agent→ pooled connection ─redirects (≤ 10)→ status
//!    429, 5xx, reset, timeout : back off, Retry-After ─again→ (a download goes on where it stopped)
//!    else                     : Response | bytes → Sink, hashed on the way
//! ```

#![forbid(unsafe_code)]

mod agent;
mod cancel;
mod client;
mod download;
mod error;
mod exchange;
mod names;
mod patience;
mod peer;
mod proxy;
mod request;
mod retry;
mod settings;
mod sink;
mod stream;
mod tls;
mod transport;
mod upload;
mod url;

pub use cancel::{Cancel, Cancelled};
pub use client::Client;
pub use download::{Download, Downloaded, Progress};
pub use error::{BodyText, Error, Phase, RedirectProblem, TlsProblem};
pub use patience::Patience;
pub use peer::Peer;
pub use request::{Method, Request, Response};
pub use retry::{Attempts, Failure};
pub use settings::{
    ClientCertificate, HostSettings, Proxies, RetryPolicy, Roots, Settings, Timeouts,
};
pub use sink::Sink;
pub use stream::Body;
pub use upload::{Source, Upload};
pub use url::{Url, UrlError, form};
