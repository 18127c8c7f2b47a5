//! What the caller decides once, for all requests of a client.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::url::Url;

/// Everything a [`Client`](crate::Client) is told; the `cli` fills it from environment and files.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Sent as `User-Agent`.
    pub user_agent: String,
    /// The values of the proxy variables.
    pub proxies: Proxies,
    /// Where trusted certificate authorities are read from.
    pub roots: Roots,
    /// What differs for single hosts, by `host:port` or by `host`; the longer name wins.
    pub hosts: BTreeMap<String, HostSettings>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// How often and when to try again.
    pub retry: RetryPolicy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            user_agent: concat!("kiln/", env!("CARGO_PKG_VERSION")).to_owned(),
            proxies: Proxies::default(),
            roots: Roots::default(),
            hosts: BTreeMap::new(),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
        }
    }
}

impl Settings {
    /// Returns what is set for the host of `url`, with the name it is set under.
    pub fn host(&self, url: &Url) -> Option<(&str, &HostSettings)> {
        let with_port = format!("{}:{}", url.host(), url.port());
        [with_port.as_str(), url.host()]
            .into_iter()
            .find_map(|name| self.hosts.get_key_value(name))
            .map(|(name, host)| (name.as_str(), host))
    }
}

/// The values of `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, with their usual meaning.
///
/// Loopback is never asked through a proxy.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http` addresses: `http://[user:password@]host:port`.
    pub http: Option<String>,
    /// For `https` addresses, in the same form.
    pub https: Option<String>,
    /// Hosts to ask directly: names (and all below them), addresses, networks, `*`; separated by commas.
    pub no_proxy: Option<String>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Proxy addresses may hold passwords.
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// Where trusted certificate authorities come from.
///
/// The first of `files` that exists and `directories` are read; with both empty, the places where
/// distributions keep the system's store. A host without any gets Mozilla's list, carried in the
/// binary. Files are read when the first `https` connection is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// PEM bundles, the value of `SSL_CERT_FILE`.
    pub files: Vec<PathBuf>,
    /// Folders of PEM files, the value of `SSL_CERT_DIR`.
    pub directories: Vec<PathBuf>,
}

/// What differs for one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSettings {
    /// Allows `http` without TLS to this host. Loopback needs no permission.
    pub plain_http: bool,
    /// PEM files with further certificate authorities for this host.
    pub authorities: Vec<PathBuf>,
    /// The certificate kiln shows to this host.
    pub client_certificate: Option<ClientCertificate>,
}

/// A client certificate and its key, in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, followed by intermediate ones.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How long to wait for what. There is no total: a slow download that moves is not cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands, with TLS.
    pub connect: Duration,
    /// From the request to the complete head of the reply.
    pub first_byte: Duration,
    /// Between two pieces of a body; counts as no less than `first_byte`.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(60),
        }
    }
}

/// How often and when to try again after 429, 5xx, resets and timeouts.
///
/// The n-th wait is drawn between half and all of `first_delay · 2ⁿ`, at most `longest_delay`; a
/// `Retry-After` header replaces it. A download that got further than the time before starts
/// counting anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often to ask in all, at least 1.
    pub tries: u32,
    /// The first wait.
    pub first_delay: Duration,
    /// The longest wait between two tries.
    pub longest_delay: Duration,
    /// How long `Retry-After` is waited for, in all tries of a request together; what would be longer is reported at
    /// once.
    pub longest_retry_after: Duration,
    /// Makes the waits of two processes differ; any number that is unlikely to be the same.
    pub seed: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 6,
            first_delay: Duration::from_millis(250),
            longest_delay: Duration::from_secs(20),
            longest_retry_after: Duration::from_secs(120),
            seed: 0,
        }
    }
}
