//! One try of a request: redirects followed, failures sorted into those worth another try or not.

use std::io::{self, Read};
use std::time::Duration;

use ureq::http;

use crate::cancel::Cancel;
use crate::client::Client;
use crate::error::{BODY_TEXT_BYTES, BodyText, Error, Phase, RedirectProblem};
use crate::peer::Peer;
use crate::request::{Headers, Method, Request, Response};
use crate::retry::{Again, Failure, retry_after};
use crate::settings::Timeouts;
use crate::tls;
use crate::transport::cancellable;
use crate::upload::Stream;
use crate::url::Url;

/// What a proxy means that answers 407.
const WANTS_PASSWORD: &str =
    "wants a user name and a password, or others: `http://USER:PASSWORD@HOST:PORT`";
/// The most redirects followed in a row.
const MOST_REDIRECTS: u32 = 10;

/// A reply whose body is still to be read.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) url: Url,
    pub(crate) headers: Headers,
    peer: Peer,
    body: ureq::BodyReader<'static>,
    cancel: Cancel,
    idle: Duration,
}

impl Client {
    /// Sends `request` with `extra` headers once and follows redirects. Blocks.
    ///
    /// Succeeds with whatever status that is neither a redirect nor worth another try.
    pub(crate) fn exchange(
        &self,
        request: &Request,
        extra: &[(&str, String)],
        cancel: &Cancel,
    ) -> Result<Reply, Failure> {
        self.exchange_body(request, extra, None, cancel)
    }

    /// The same, with a body that is streamed.
    pub(crate) fn exchange_body(
        &self,
        request: &Request,
        extra: &[(&str, String)],
        mut body: Option<&mut Stream<'_>>,
        cancel: &Cancel,
    ) -> Result<Reply, Failure> {
        let mut url = request.url.clone();
        let mut method = request.method;
        let mut followed = 0;
        loop {
            let reply = self.hop(request, method, &url, extra, body.as_deref_mut(), cancel)?;
            let Some(location) = reply.redirect() else {
                return reply.worth_keeping();
            };
            let refuse = |problem| {
                Failure::last(Error::Redirect {
                    url: url.shown(),
                    to: location
                        .split('?')
                        .next()
                        .unwrap_or(location)
                        .chars()
                        .take(200)
                        .collect(),
                    problem,
                })
            };
            let to = url
                .join(location)
                .map_err(|error| refuse(RedirectProblem::NotAnAddress(error.reason.to_owned())))?;
            followed += 1;
            if followed > MOST_REDIRECTS {
                return Err(refuse(RedirectProblem::TooMany(followed)));
            }
            if url.is_secure() && !to.is_secure() {
                return Err(refuse(RedirectProblem::Downgrade));
            }
            match (method, reply.status) {
                (Method::Get | Method::Head, _) => {}
                // Forms hold secrets.
                (Method::Post, 307 | 308) => {
                    if !to.same_origin(&request.url) {
                        return Err(refuse(RedirectProblem::Body));
                    }
                }
                (Method::Post, _) | (Method::Put | Method::Patch | Method::Delete, 303) => {
                    method = Method::Get;
                }
                // Storage elsewhere, to which the server sends what was meant for it.
                (Method::Put | Method::Patch | Method::Delete, _) => {}
            }
            // The rest of the body goes with its connection.
            drop(reply);
            url = to;
        }
    }

    /// Sends the request to `url` alone.
    fn hop(
        &self,
        request: &Request,
        method: Method,
        url: &Url,
        extra: &[(&str, String)],
        body: Option<&mut Stream<'_>>,
        cancel: &Cancel,
    ) -> Result<Reply, Failure> {
        let settings = self.settings();
        cancel.check()?;
        let allowed =
            request.plain_http || settings.host(url).is_some_and(|(_, host)| host.plain_http);
        if !url.is_secure() && !url.is_loopback() && !allowed {
            return Err(Failure::last(Error::PlainHttp { url: url.shown() }));
        }
        let timeouts = request.patience.timeouts(&settings.timeouts);
        let (agent, peer) = self.agents().get(settings, url)?;
        let malformed = |error: http::Error| {
            Failure::last(Error::Protocol {
                url: url.shown(),
                reason: format!("the request cannot be written: {error}"),
            })
        };
        let mut builder = http::Request::builder()
            .uri(url.to_string())
            .method(match method {
                Method::Get => http::Method::GET,
                Method::Head => http::Method::HEAD,
                Method::Post => http::Method::POST,
                Method::Put => http::Method::PUT,
                Method::Patch => http::Method::PATCH,
                Method::Delete => http::Method::DELETE,
            });
        for (name, value) in &request.headers {
            if method == request.method || !name.eq_ignore_ascii_case("content-type") {
                builder = builder.header(name, value);
            }
        }
        for (name, value) in extra {
            builder = builder.header(*name, value);
        }
        // Credentials go to the host they are for and no other.
        if let Some(authorization) = &request.authorization
            && url.same_origin(&request.url)
        {
            let mut value = http::HeaderValue::from_str(authorization)
                .map_err(|error| malformed(error.into()))?;
            value.set_sensitive(true);
            builder = builder.header(http::header::AUTHORIZATION, value);
        }
        let same_method = method == request.method;
        let result = match (body.filter(|_| same_method), &request.body) {
            (Some(stream), _) => {
                let patience = stream.answer_time(timeouts.first_byte);
                let builder = match stream.size_bytes {
                    Some(size_bytes) => builder.header(http::header::CONTENT_LENGTH, size_bytes),
                    None => builder.header(http::header::TRANSFER_ENCODING, "chunked"),
                };
                let mut reader = stream.open(url)?;
                let message = builder
                    .body(ureq::SendBody::from_reader(&mut reader))
                    .map_err(malformed)?;
                let message = timed(&agent, message, &timeouts, patience);
                let result = cancellable(cancel, || agent.run(message));
                reader.checked(url)?;
                result
            }
            (None, Some(body)) if same_method => {
                let message = builder.body(body.as_slice()).map_err(malformed)?;
                let message = timed(&agent, message, &timeouts, timeouts.first_byte);
                cancellable(cancel, || agent.run(message))
            }
            (None, _) => {
                let message = builder.body(()).map_err(malformed)?;
                let message = timed(&agent, message, &timeouts, timeouts.first_byte);
                cancellable(cancel, || agent.run(message))
            }
        };
        let response = result.map_err(|error| failed(error, url, &peer, &timeouts))?;
        let (parts, body) = response.into_parts();
        let headers = parts
            .headers
            .iter()
            .filter_map(|(name, value)| {
                Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
            })
            .collect();
        Ok(Reply {
            status: parts.status.as_u16(),
            url: url.clone(),
            headers: Headers(headers),
            peer,
            body: body.into_with_config().limit(u64::MAX).reader(),
            cancel: cancel.clone(),
            idle: timeouts.idle,
        })
    }
}

/// Gives a request its timeouts; `answer` is that of the head of the reply.
fn timed<B: ureq::AsSendBody>(
    agent: &ureq::Agent,
    message: http::Request<B>,
    timeouts: &Timeouts,
    answer: Duration,
) -> http::Request<B> {
    agent
        .configure_request(message)
        .timeout_resolve(Some(timeouts.connect))
        .timeout_connect(Some(timeouts.connect))
        .timeout_recv_response(Some(answer))
        .timeout_per_read(Some(timeouts.idle))
        .timeout_per_write(Some(timeouts.idle))
        .build()
}

/// Sorts what ureq reports before the body.
fn failed(error: ureq::Error, url: &Url, peer: &Peer, timeouts: &Timeouts) -> Failure {
    sorted(error, url, peer, |timeout| {
        if matches!(timeout, ureq::Timeout::Resolve | ureq::Timeout::Connect) {
            (Phase::Connect, timeouts.connect)
        } else {
            (Phase::FirstByte, timeouts.first_byte)
        }
    })
}

/// Says in our words what ureq's error means, and whether another try may help.
fn sorted(
    error: ureq::Error,
    url: &Url,
    peer: &Peer,
    timed_out: impl FnOnce(ureq::Timeout) -> (Phase, Duration),
) -> Failure {
    let shown = url.shown();
    let peer = peer.clone();
    if let Some(error) = tls_error(&error) {
        let problem = tls::problem(error);
        return Failure::last(Error::Tls {
            url: shown,
            peer,
            problem,
        });
    }
    if let ureq::Error::Timeout(timeout) = error {
        let (phase, after) = timed_out(timeout);
        let error = Error::Timeout {
            url: shown,
            peer,
            phase,
            after,
            tries: 1,
        };
        return Failure::new(error, Again::Later);
    }
    if matches!(error, ureq::Error::HostNotFound) {
        return Failure::last(Error::HostNotFound { url: shown, peer });
    }
    if let ureq::Error::ConnectProxyFailed(reason) = error {
        return Failure::last(Error::Proxy {
            scheme: "https",
            reason: format!("`{}` {}", peer.first(), refusal(&reason)),
        });
    }
    let ureq::Error::Io(source) = error else {
        let error = Error::Protocol {
            url: shown,
            reason: error.to_string(),
        };
        return Failure::new(error, Again::Later);
    };
    // Nobody listens, or the way there is missing.
    let unreachable = matches!(
        source.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
    );
    if unreachable {
        let error = Error::Connect {
            url: shown,
            peer,
            tries: 1,
            source,
        };
        // On this machine nothing but starting the server helps.
        let again = if url.is_loopback() {
            Again::Never
        } else {
            Again::Later
        };
        return Failure::new(error, again);
    }
    let error = Error::Broken {
        url: shown,
        tries: 1,
        source,
    };
    Failure::new(error, Again::AtOnce)
}

/// Says what a proxy answered in place of opening a tunnel, of which ureq writes the status twice.
fn refusal(reason: &str) -> String {
    let status = reason.rsplit('/').next().filter(|it| it.len() == 3);
    match status {
        Some("407") => WANTS_PASSWORD.to_owned(),
        Some(status) => format!("answers {status} and does not open a way there"),
        None => "closed the connection without an answer".to_owned(),
    }
}

/// Finds what the TLS library said, which may be wrapped as an error of the connection.
fn tls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    if let ureq::Error::Rustls(error) = error {
        return Some(error);
    }
    let ureq::Error::Io(source) = error else {
        return None;
    };
    source.get_ref()?.downcast_ref()
}

impl Reply {
    /// Returns where a redirect leads.
    fn redirect(&self) -> Option<&str> {
        matches!(self.status, 301 | 302 | 303 | 307 | 308).then(|| self.headers.get("location"))?
    }

    /// Turns a status that asks for patience into a failure.
    fn worth_keeping(mut self) -> Result<Self, Failure> {
        let limited = self.status == 429;
        // 501 and 505 are a matter of what was asked.
        let trouble = self.status >= 500 && !matches!(self.status, 501 | 505);
        if let (407, Some(_)) = (self.status, &self.peer.proxy) {
            return Err(Failure::last(Error::Proxy {
                scheme: "http",
                reason: format!("`{}` {WANTS_PASSWORD}", self.peer.first()),
            }));
        }
        if !limited && !trouble && self.status != 408 {
            return Ok(self);
        }
        let wait = retry_after(self.headers.get("retry-after"), self.headers.get("date"));
        let body = self.text();
        let (url, status) = (self.url.shown(), self.status);
        let error = if limited {
            Error::RateLimited {
                url,
                retry_after: wait,
                tries: 1,
                body,
            }
        } else if trouble {
            Error::Server {
                url,
                status,
                tries: 1,
                body,
            }
        } else {
            Error::Status { url, status, body }
        };
        Err(Failure::new(error, Again::After(wait)))
    }

    /// Reads a piece of the body. Blocks; returns 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let body = &mut self.body;
        cancellable(&self.cancel, || body.read(buffer)).map_err(|error| {
            let error = ureq::Error::from(error);
            let failure = sorted(error, &self.url, &self.peer, |_| (Phase::Body, self.idle));
            Failure {
                // What broke in the middle is no kept connection that had been closed.
                again: if failure.again == Again::AtOnce {
                    Again::Later
                } else {
                    failure.again
                },
                ..failure
            }
        })
    }

    /// Reads the start of the body for a message; a body that breaks gives what came before.
    pub(crate) fn text(&mut self) -> BodyText {
        let mut start = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        while start.len() < BODY_TEXT_BYTES {
            match self.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => start.extend_from_slice(&buffer[..read]),
            }
        }
        BodyText::of(&start)
    }

    /// Reads the whole body.
    ///
    /// Of a success, more than `limit_bytes` are an error; of anything else, the rest is left out.
    pub(crate) fn whole(mut self, limit_bytes: u64) -> Result<Response, Failure> {
        let success = (200..300).contains(&self.status);
        let limit_bytes = if success {
            limit_bytes
        } else {
            BODY_TEXT_BYTES as u64
        };
        let too_large = |url: &Url, status, body: &[u8]| {
            Failure::last(Error::TooLarge {
                url: url.shown(),
                status,
                limit_bytes,
                body: BodyText::of(body),
            })
        };
        let mut body = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = self.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            body.extend_from_slice(&buffer[..read]);
            if body.len() as u64 > limit_bytes {
                if success {
                    return Err(too_large(&self.url, self.status, &body));
                }
                body.truncate(BODY_TEXT_BYTES);
                break;
            }
        }
        Ok(Response {
            status: self.status,
            url: self.url,
            body,
            headers: self.headers,
        })
    }
}
