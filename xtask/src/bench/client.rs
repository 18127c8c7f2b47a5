//! An HTTP client for what curl and wrk do not measure: the time of each of many requests, and requests with
//! other bodies each.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use crate::process::{Failure, Outcome};

/// A connection that is kept.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
    host: String,
    /// A line that every request carries.
    login: Option<String>,
}

/// An answer that says that it was done.
pub(super) struct Answer {
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The value of a header, by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Client {
    pub(super) fn connect(host: &str, login: Option<&String>) -> Outcome<Self> {
        let connect = || {
            let stream = TcpStream::connect(host)?;
            stream.set_nodelay(true)?;
            Ok(BufReader::new(stream))
        };
        let stream = connect().map_err(|error| Failure::io(host, &error))?;
        Ok(Self {
            stream,
            host: host.to_owned(),
            login: login.cloned(),
        })
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// The answer is another one than that it was done.
    pub(super) fn ask(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> Outcome<Answer> {
        let (status, answer) = self
            .exchange(method, path, kind, body)
            .map_err(|error| Failure::io(&self.host, &error))?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let said = String::from_utf8_lossy(&answer.body);
        Err(Failure(format!("{method} {path}: {status} {said}")))
    }

    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> io::Result<(u16, Answer)> {
        let login = self
            .login
            .as_deref()
            .map_or_else(String::new, |login| format!("{login}\r\n"));
        let (host, length) = (&self.host, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{login}Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no answer: `{first}`")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer {
            headers,
            body: Vec::new(),
        };
        let length = answer
            .header("content-length")
            .and_then(|text| text.parse().ok());
        (&mut self.stream)
            .take(length.unwrap_or(0))
            .read_to_end(&mut answer.body)?;
        Ok((status, answer))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
