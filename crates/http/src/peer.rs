//! Whom a connection is made to, for messages.

use std::fmt;

/// A host, and the proxy on the way to it if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The host, with its port unless that is the usual one.
    pub host: String,
    /// The same of the proxy.
    pub proxy: Option<String>,
}

impl Peer {
    /// Returns what a socket is connected to: the proxy, if there is one.
    pub(crate) fn first(&self) -> &str {
        self.proxy.as_deref().unwrap_or(&self.host)
    }

    /// Names what a socket is connected to.
    pub(crate) fn nearest(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("the proxy `{proxy}`"),
            None => format!("`{}`", self.host),
        }
    }

    /// Names what a name is looked up for.
    pub(crate) fn looked_up(&self) -> String {
        match &self.proxy {
            Some(_) => self.nearest(),
            None => format!("host `{}`", self.host),
        }
    }

    /// Says which proxy is on the way, for the end of a phrase.
    pub(crate) fn way(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!(" through the proxy `{proxy}`"),
            None => String::new(),
        }
    }
}

impl fmt::Display for Peer {
    /// Writes the host, and the way to it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`{}", self.host, self.way())
    }
}
