//! What can go wrong between a request and its verified body.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kiln_oci::Digest;

use crate::cancel::Cancelled;
use crate::peer::Peer;
use crate::url::UrlError;

/// How much of a body an error keeps, in bytes.
pub(crate) const BODY_TEXT_BYTES: usize = 64 * 1024;

/// Why a request or download failed. Addresses are shown without their query, which may be secret.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum Error {
    /// The address of a request or proxy is not one.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The address is `http` and nothing allows that for this host.
    #[error(
        "`{url}` is not encrypted: kiln speaks plain http only to this machine; use https, or allow plain http for this host in the settings"
    )]
    PlainHttp {
        /// The address.
        url: String,
    },
    /// A proxy setting cannot be used.
    #[error("the proxy for {scheme} addresses cannot be used: {reason}")]
    Proxy {
        /// `http` or `https`: which setting it is.
        scheme: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate or key file cannot be used.
    #[error("cannot use `{}`: {reason}", path.display())]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The host has no address.
    #[error("no address found for {} of `{url}`", peer.looked_up())]
    HostNotFound {
        /// The address asked.
        url: String,
        /// The host that was looked up; the proxy if there is one.
        peer: Peer,
    },
    /// No connection could be made.
    #[error("cannot connect to {} for `{url}`{}: {source}", peer.nearest(), tried(*.tries))]
    Connect {
        /// The address asked.
        url: String,
        /// The host; the proxy if there is one.
        peer: Peer,
        /// How often it was tried.
        tries: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("no secure connection to {peer} for `{url}`: {problem}")]
    Tls {
        /// The address asked.
        url: String,
        /// The host, and the way to it.
        peer: Peer,
        /// Why.
        problem: TlsProblem,
    },
    /// Nothing came for too long, in every try.
    #[error("`{url}`: no answer within {} s {phase}{}{}", after.as_secs_f32(), peer.way(), tried(*.tries))]
    Timeout {
        /// The address asked.
        url: String,
        /// The host, and the way to it.
        peer: Peer,
        /// What was waited for.
        phase: Phase,
        /// How long it was waited for.
        after: Duration,
        /// How often it was tried.
        tries: u32,
    },
    /// The connection broke, in every try.
    #[error("`{url}`: the connection broke{}: {source}", tried(*.tries))]
    Broken {
        /// The address asked.
        url: String,
        /// How often it was tried.
        tries: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The reply is not HTTP, or contradicts itself.
    #[error("`{url}`: the server's answer makes no sense: {reason}")]
    Protocol {
        /// The address asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A redirect that is not followed.
    #[error("`{url}`: redirected to `{to}`, {problem}")]
    Redirect {
        /// The address that answered with the redirect.
        url: String,
        /// Where it leads, as the server wrote it (without query).
        to: String,
        /// Why it is not followed.
        problem: RedirectProblem,
    },
    /// The server refused, and asking again would not help.
    #[error("`{url}`: the server answered {status}{}", body.unless_page())]
    Status {
        /// The address that answered.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        body: BodyText,
    },
    /// The server asked for fewer requests, in every try or for longer than is waited.
    #[error("`{url}`: too many requests{}{body}", wait_text(*.retry_after))]
    RateLimited {
        /// The address that answered.
        url: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
        /// How often it was tried.
        tries: u32,
        /// What it said.
        body: BodyText,
    },
    /// The server is in trouble, in every try.
    #[error("`{url}`: the server answered {status}{}{}", tried(*.tries), body.unless_page())]
    Server {
        /// The address that answered.
        url: String,
        /// The HTTP status, 500 or above.
        status: u16,
        /// How often it was tried.
        tries: u32,
        /// What it said.
        body: BodyText,
    },
    /// The body is larger than the caller allows.
    #[error("`{url}` (status {status}): the body is larger than {limit_bytes} bytes{body}")]
    TooLarge {
        /// The address that answered.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The largest size allowed.
        limit_bytes: u64,
        /// How the body starts.
        body: BodyText,
    },
    /// The body has another size than was promised.
    #[error("`{url}` (status {status}): {actual} bytes where {expected} were expected{body}")]
    WrongSize {
        /// The address that answered.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The size expected, in bytes.
        expected: u64,
        /// The size announced or received, in bytes.
        actual: u64,
        /// How the body starts.
        body: BodyText,
    },
    /// The body has another digest than was promised. Nothing of it was kept.
    #[error(
        "`{url}` (status {status}): the body has digest `{actual}`, expected `{expected}`{body}"
    )]
    WrongDigest {
        /// The address that answered.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The digest expected.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
        /// How the body starts.
        body: BodyText,
    },
    /// The sink of a download failed.
    #[error("cannot store what `{url}` sent: {source}")]
    Sink {
        /// The address asked.
        url: String,
        /// What the sink said.
        source: io::Error,
    },
    /// The source of an upload failed, or has another size than it said.
    #[error("cannot read what is to be sent to `{url}`: {source}")]
    Source {
        /// The address asked.
        url: String,
        /// What the source said.
        source: io::Error,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Error {
    /// Notes how often the request was tried.
    pub(crate) fn after_tries(mut self, count: u32) -> Self {
        if let Self::Connect { tries, .. }
        | Self::Timeout { tries, .. }
        | Self::Broken { tries, .. }
        | Self::RateLimited { tries, .. }
        | Self::Server { tries, .. } = &mut self
        {
            *tries = count;
        }
        self
    }
}

fn tried(tries: u32) -> String {
    match tries {
        0 | 1 => String::new(),
        tries => format!(" (tried {tries} times)"),
    }
}

fn wait_text(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(wait) => format!("; it can be asked again in {} s", wait.as_secs()),
        None => String::new(),
    }
}

/// What a request waited for when its time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The connection.
    Connect,
    /// The head of the reply.
    FirstByte,
    /// The next piece of the body.
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "while connecting",
            Self::FirstByte => "to the request",
            Self::Body => "in the middle of the body",
        })
    }
}

/// Why a redirect is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedirectProblem {
    /// It leads from `https` to `http`.
    #[error("which is not encrypted while the first address is")]
    Downgrade,
    /// It leads nowhere.
    #[error("which is not an address: {0}")]
    NotAnAddress(String),
    /// It would send a request body elsewhere.
    #[error("but what was sent is not sent on to another host")]
    Body,
    /// There were too many before it.
    #[error("the {0}th redirect in a row")]
    TooMany(u32),
}

/// Why no TLS connection was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    /// The certificate's issuer is not trusted.
    #[error(
        "its certificate is from an unknown issuer; if you trust it, add the issuer's certificate to the system's store, or to the `authorities` of this host in the settings"
    )]
    UnknownIssuer,
    /// The certificate is not valid now.
    #[error("its certificate is {0}; check the date of this machine too")]
    Date(&'static str),
    /// The certificate is for another host.
    #[error("its certificate is for another name")]
    WrongName,
    /// The certificate is an authority's own, as `openssl req -x509` makes it without more options.
    #[error(
        "its certificate is a certificate authority's own, which must not stand for a server; make one that is not: openssl req -x509 -addext basicConstraints=critical,CA:FALSE …"
    )]
    Authority,
    /// The server does not speak TLS.
    #[error("it does not speak TLS")]
    NotTls,
    /// The server wants a client certificate, or another one.
    #[error(
        "it refused the connection ({0}); it may want a client certificate, which the settings can name"
    )]
    Refused(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// How a body starts, for messages: at most 64 KiB, escaped; empty when it is not text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BodyText(String);

impl BodyText {
    /// Escapes the start of `body`.
    pub fn of(body: &[u8]) -> Self {
        let cut = &body[..body.len().min(BODY_TEXT_BYTES)];
        let text = match std::str::from_utf8(cut) {
            Ok(text) => text,
            // The cut may have hit the middle of a character.
            Err(error) if error.error_len().is_none() => {
                std::str::from_utf8(&cut[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => return Self::default(),
        };
        let control = |c: &char| c.is_control() && !c.is_ascii_whitespace();
        if text.chars().take(512).filter(control).count() > 4 {
            return Self::default();
        }
        let mut escaped = String::with_capacity(text.len());
        for c in text.trim().chars() {
            // Names and messages from outside must not write to the terminal.
            if c == '\n' || c == '\t' || !(c.is_control() || is_direction(c)) {
                escaped.push(c);
            } else {
                escaped.extend(c.escape_unicode());
            }
        }
        Self(escaped)
    }

    /// Nothing if this is a page for browsers, which says no more than the status it came with.
    fn unless_page(&self) -> Self {
        if self.0.starts_with('<') {
            Self::default()
        } else {
            self.clone()
        }
    }

    /// Returns the whole text kept.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Tells whether `c` changes the direction of text, which could disguise a message.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for BodyText {
    /// Writes `: ` and the first line's worth of text; nothing if there is no text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 300;
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str(": ")?;
        let mut words = self.0.split_whitespace();
        let mut left = SHOWN;
        let mut separator = "";
        for word in &mut words {
            let count = word.chars().count();
            if count > left {
                let cut: String = word.chars().take(left).collect();
                return write!(f, "{separator}{cut}…");
            }
            write!(f, "{separator}{word}")?;
            left = left.saturating_sub(count + 1);
            separator = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_text_is_escaped_and_short() {
        assert_eq!(
            BodyText::of(b"no\x1b[31m\r such").text(),
            "no\\u{1b}[31m\\u{d} such"
        );
        assert_eq!(BodyText::of(b"").to_string(), "");
        assert_eq!(BodyText::of(b" a\n b ").to_string(), ": a b");
        assert_eq!(BodyText::of(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0xff]).text(), "");
        assert_eq!(BodyText::of("\u{202e}x".as_bytes()).text(), "\\u{202e}x");
        let long = "x".repeat(BODY_TEXT_BYTES * 2);
        assert_eq!(BodyText::of(long.as_bytes()).text().len(), BODY_TEXT_BYTES);
        assert!(BodyText::of(long.as_bytes()).to_string().chars().count() < 310);
    }
}
