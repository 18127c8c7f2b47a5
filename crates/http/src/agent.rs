//! One ureq agent, with its pool of connections, for each way to reach and to trust a host.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ureq::unversioned::transport::{ConnectProxyConnector, Connector, RustlsConnector};

use crate::error::Error;
use crate::names::Names;
use crate::peer::Peer;
use crate::proxy::{ProxyAddress, Route};
use crate::settings::Settings;
use crate::tls;
use crate::transport::{Dialer, LookUp};
use crate::url::Url;

/// Read from a socket at once, in bytes.
const INPUT_BYTES: usize = 256 * 1024;
/// The largest head of a reply, in bytes.
const HEAD_BYTES: usize = 64 * 1024;

/// The agents made so far.
#[derive(Debug, Default)]
pub(crate) struct Agents(Mutex<BTreeMap<Key, ureq::Agent>>);

/// What two requests must have in common to share connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    secure: bool,
    /// The name under which the host has settings.
    host: Option<String>,
    route: Route,
}

impl Agents {
    /// Returns the agent for `url` and whom a connection is made to.
    ///
    /// # Errors
    /// [`Error::Proxy`] or [`Error::CertificateFile`] for settings that cannot be used.
    pub(crate) fn get(&self, settings: &Settings, url: &Url) -> Result<(ureq::Agent, Peer), Error> {
        let route = settings.proxies.route(url)?;
        let peer = Peer {
            host: url.authority(),
            proxy: match &route {
                Route::Direct => None,
                Route::Proxy(proxy) => Some(proxy.url.authority()),
            },
        };
        let host = settings.host(url);
        let key = Key {
            secure: url.is_secure(),
            host: host.map(|(name, _)| name.to_owned()),
            route,
        };
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok((agent.clone(), peer));
        }
        let agent = make(settings, url, &key.route)?;
        agents.insert(key, agent.clone());
        Ok((agent, peer))
    }
}

fn make(settings: &Settings, url: &Url, route: &Route) -> Result<ureq::Agent, Error> {
    let mut builder = ureq::config::Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(&settings.user_agent)
        .accept("")
        // Lengths and digests are those of the bytes as they are kept.
        .accept_encoding("identity")
        .max_response_header_size(HEAD_BYTES)
        .input_buffer_size(INPUT_BYTES)
        .max_idle_connections(64)
        .max_idle_connections_per_host(16)
        .proxy(None);
    if url.is_secure() {
        let host = settings.host(url).map(|(_, host)| host);
        builder = builder.tls_config(tls::config(&settings.roots, host)?);
    }
    let mut forward = None;
    if let Route::Proxy(proxy) = route {
        if url.is_secure() {
            builder = builder.proxy(Some(tunnel(proxy)?));
        } else {
            forward = Some(ProxyAddress::clone(proxy));
        }
    }
    let connector = ()
        .chain(ConnectProxyConnector::default())
        .chain(Dialer {
            forward: forward.clone(),
        })
        .chain(RustlsConnector::default());
    Ok(ureq::Agent::with_parts(
        builder.build(),
        connector,
        LookUp {
            forward,
            names: Names::default(),
        },
    ))
}

/// Returns the proxy in ureq's terms, for tunnels to `https` hosts.
fn tunnel(proxy: &ProxyAddress) -> Result<ureq::Proxy, Error> {
    let protocol = if proxy.url.is_secure() {
        ureq::ProxyProtocol::Https
    } else {
        ureq::ProxyProtocol::Http
    };
    let mut builder = ureq::Proxy::builder(protocol)
        .host(proxy.url.host())
        .port(proxy.url.port());
    if let Some(credentials) = &proxy.credentials {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        builder = builder.username(user).password(password);
    }
    builder.build().map_err(|error| Error::Proxy {
        scheme: "https",
        reason: error.to_string(),
    })
}
