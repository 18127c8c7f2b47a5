//! Whether a container is well: what is asked, how often, and what the answers mean.
//!
//! Commands run in the container as `exec` runs them. The other probes are kiln's own and only share the
//! container's network, so that an image needs no program for them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use kiln_oci::Healthcheck;
use serde::{Deserialize, Serialize};

/// How to find out whether a container is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From one answer to the next question.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So long after the start, bad answers do not count.
    pub start_period: Duration,
    /// From one answer to the next question until then, as long as none was good.
    #[serde(default = "start_interval")]
    pub start_interval: Duration,
    /// So many bad answers in a row, and it is not well.
    pub retries: u32,
}

/// Docker's.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_RETRIES: u32 = 3;

const fn start_interval() -> Duration {
    Duration::from_secs(5)
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// A program in the container ends with code 0.
    Command(Vec<String>),
    /// A server answers with a status below 400.
    Http(HttpProbe),
    /// A port takes connections.
    Tcp(u16),
}

/// A question to a web server in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HttpProbe {
    /// The address without the name; none for `localhost`, which is both.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl HttpProbe {
    /// Reads `http://localhost:8000/healthz`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url
            .strip_prefix("http://")
            .ok_or("it must begin with http://, since it does not leave the container")?;
        if rest
            .bytes()
            .any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#')
        {
            return Err("there may be no blank or # in it".to_owned());
        }
        let (host, path) = match rest.find(['/', '?']) {
            Some(at) if rest[at..].starts_with('/') => rest.split_at(at),
            Some(_) => return Err("write a / in front of the ?".to_owned()),
            None => (rest, "/"),
        };
        let whole = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (
                name,
                whole(port).ok_or_else(|| format!("`{port}` is no port"))?,
            ),
            _ => (host, 80),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let address = match name {
            "localhost" => None,
            name => Some(name.parse().map_err(|_not_an_address| {
                format!("`{name}` is neither localhost nor an address")
            })?),
        };
        Ok(Self {
            address,
            port,
            path: path.to_owned(),
        })
    }
}

impl HealthCheck {
    /// A check with docker's times.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: DEFAULT_INTERVAL,
            timeout: DEFAULT_TIMEOUT,
            start_period: Duration::ZERO,
            start_interval: start_interval(),
            retries: DEFAULT_RETRIES,
        }
    }

    /// What an image asks for; `None` if it asks for nothing, or for something that kiln does not know.
    pub fn of_image(check: &Healthcheck) -> Option<Self> {
        let words: Vec<&str> = check.test.iter().map(String::as_str).collect();
        let command = match words.as_slice() {
            ["CMD", command @ ..] if !command.is_empty() => {
                command.iter().map(|&word| word.to_owned()).collect()
            }
            ["CMD-SHELL", script] => shell(script),
            _ => return None,
        };
        let mut found = Self::new(Probe::Command(command));
        let set = |time: &mut Duration, nanoseconds: u64| {
            if nanoseconds > 0 {
                *time = Duration::from_nanos(nanoseconds);
            }
        };
        set(&mut found.interval, check.interval_nanoseconds);
        set(&mut found.timeout, check.timeout_nanoseconds);
        set(&mut found.start_period, check.start_period_nanoseconds);
        set(&mut found.start_interval, check.start_interval_nanoseconds);
        if check.retries > 0 {
            found.retries = u32::try_from(check.retries).unwrap_or(u32::MAX);
        }
        Some(found)
    }

    /// How long to wait for the next question, `age` after the start.
    pub(crate) fn pause(&self, age: Duration, status: HealthStatus) -> Duration {
        if status == HealthStatus::Starting && age < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }
}

/// A script as a command.
pub fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// What is known of a container's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Health {
    /// How it is.
    pub status: HealthStatus,
    /// Bad answers since the last good one.
    pub failing_streak: u32,
    /// What the last answer was, shortened.
    pub last: String,
}

/// How a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthStatus {
    /// No answer counted yet.
    Starting,
    /// The last answer was good.
    Healthy,
    /// Too many were bad.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Most characters of an answer that are kept.
const MAX_ANSWER: usize = 1000;

impl Health {
    /// Of a container that was just started.
    pub fn starting() -> Self {
        Self {
            status: HealthStatus::Starting,
            failing_streak: 0,
            last: String::new(),
        }
    }

    /// Counts an answer that came `age` after the start.
    pub fn count(&mut self, check: &HealthCheck, age: Duration, answer: Result<String, String>) {
        let is_good = answer.is_ok();
        let (Ok(text) | Err(text)) = answer;
        self.last = text.chars().take(MAX_ANSWER).collect();
        if is_good {
            self.status = HealthStatus::Healthy;
            self.failing_streak = 0;
            return;
        }
        if self.status == HealthStatus::Starting && age < check.start_period {
            return;
        }
        self.failing_streak = self.failing_streak.saturating_add(1);
        if self.failing_streak >= check.retries {
            self.status = HealthStatus::Unhealthy;
        }
    }
}

/// Asks from within the container's network, in which the calling process is.
///
/// # Errors
/// The bad answer, for a person.
pub(crate) fn ask(probe: &Probe, timeout: Duration) -> Result<String, String> {
    let end = Instant::now() + timeout;
    match probe {
        Probe::Tcp(port) => {
            connect(None, *port, end)?;
            Ok(format!("port {port} takes connections"))
        }
        Probe::Http(probe) => http(probe, end),
        Probe::Command(_) => Err("a command is not asked from outside".to_owned()),
    }
}

fn left(end: Instant) -> Result<Duration, String> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err("it takes too long to answer".to_owned());
    }
    Ok(left)
}

fn connect(address: Option<IpAddr>, port: u16, end: Instant) -> Result<TcpStream, String> {
    let local = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let addresses = match &address {
        Some(address) => std::slice::from_ref(address),
        None => &local,
    };
    let mut refusal = String::new();
    for address in addresses {
        match TcpStream::connect_timeout(&SocketAddr::new(*address, port), left(end)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => refusal = format!("{address} port {port}: {error}"),
        }
    }
    Err(refusal)
}

fn http(probe: &HttpProbe, end: Instant) -> Result<String, String> {
    let HttpProbe {
        address,
        port,
        path,
    } = probe;
    let mut stream = connect(*address, *port, end)?;
    let failed = |error: std::io::Error| format!("port {port}: {error}");
    stream.set_write_timeout(Some(left(end)?)).map_err(failed)?;
    let host = match address {
        None => "localhost".to_owned(),
        Some(IpAddr::V6(address)) => format!("[{address}]"),
        Some(address) => address.to_string(),
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kiln\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    // The status line is all that counts.
    let mut answer = [0; 256];
    let mut length = 0;
    while length < answer.len() && !answer[..length].contains(&b'\n') {
        stream.set_read_timeout(Some(left(end)?)).map_err(failed)?;
        match stream.read(&mut answer[length..]).map_err(failed)? {
            0 => break,
            count => length += count,
        }
    }
    let line = String::from_utf8_lossy(&answer[..length]);
    let line = line.lines().next().unwrap_or_default();
    let status = line
        .strip_prefix("HTTP/")
        .and_then(|line| line.split(' ').nth(1)?.parse::<u16>().ok());
    match status {
        Some(status @ 200..=399) => Ok(format!("status {status}")),
        Some(status) => Err(format!("status {status}")),
        None => Err("it does not speak HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn urls_stay_in_the_container() {
        let parsed = |url: &str| HttpProbe::parse(url);
        let found = parsed("http://localhost:8000/healthz?x=1").unwrap();
        assert_eq!((found.address, found.port), (None, 8000));
        assert_eq!(found.path, "/healthz?x=1");
        assert_eq!(parsed("http://127.0.0.1").unwrap().port, 80);
        let found = parsed("http://[::1]:81/").unwrap();
        assert_eq!(found.address, Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(parsed("http://[::1]").unwrap().port, 80);
        for url in [
            "https://localhost",
            "http://example.com/",
            "http://localhost:0",
            "http://localhost:x",
            "http://localhost?x",
            "http://localhost/a b",
            "http://localhost/\r\nX: y",
        ] {
            assert!(parsed(url).is_err(), "{url}");
        }
    }

    #[test]
    fn whoever_starts_is_asked_at_other_intervals() {
        let image = Healthcheck {
            test: ["CMD", "true"].map(str::to_owned).to_vec(),
            start_period_nanoseconds: 10_000_000_000,
            start_interval_nanoseconds: 2_000_000_000,
            ..Healthcheck::default()
        };
        let check = HealthCheck::of_image(&image).unwrap();
        let pause = |age, status| check.pause(Duration::from_secs(age), status).as_secs();
        assert_eq!(pause(1, HealthStatus::Starting), 2);
        assert_eq!(pause(1, HealthStatus::Healthy), 30);
        assert_eq!(pause(11, HealthStatus::Starting), 30);
        // Docker's, also for a container that was made before there was this time.
        let mut value = serde_json::to_value(HealthCheck::new(Probe::Tcp(1))).unwrap();
        value
            .as_object_mut()
            .unwrap()
            .remove("start-interval")
            .unwrap();
        let check: HealthCheck = serde_json::from_value(value).unwrap();
        assert_eq!(check.start_interval, Duration::from_secs(5));
    }

    #[test]
    fn bad_answers_count_after_the_start_period_and_in_a_row() {
        let mut check = HealthCheck::new(Probe::Tcp(1));
        check.start_period = Duration::from_secs(10);
        check.retries = 2;
        let mut health = Health::starting();
        let (early, late) = (Duration::from_secs(1), Duration::from_secs(11));
        let bad = || Err("no".to_owned());
        for _ in 0..5 {
            health.count(&check, early, bad());
        }
        assert_eq!(health.status, HealthStatus::Starting);
        health.count(&check, late, bad());
        assert_eq!(health.status, HealthStatus::Starting);
        health.count(&check, late, bad());
        assert_eq!(health.status, HealthStatus::Unhealthy);
        health.count(&check, late, Ok("x".repeat(5000)));
        assert_eq!(
            (health.status, health.failing_streak, health.last.len()),
            (HealthStatus::Healthy, 0, MAX_ANSWER)
        );
        // Once it was well, the start is over.
        health.count(&check, early, bad());
        assert_eq!(health.failing_streak, 1);
    }

    #[test]
    fn an_images_check_is_read_as_docker_does() {
        let image = |test: &[&str]| Healthcheck {
            test: test.iter().map(|&word| word.to_owned()).collect(),
            interval_nanoseconds: 5_000_000_000,
            ..Healthcheck::default()
        };
        let check = HealthCheck::of_image(&image(&["CMD-SHELL", "exit 0"])).unwrap();
        assert_eq!(check.probe, Probe::Command(shell("exit 0")));
        assert_eq!(check.interval, Duration::from_secs(5));
        assert_eq!((check.timeout, check.retries), (DEFAULT_TIMEOUT, 3));
        for test in [&["NONE"] as &[&str], &[], &["CMD"], &["WHAT", "x"]] {
            assert_eq!(HealthCheck::of_image(&image(test)), None, "{test:?}");
        }
    }

    fn serve(answer: &'static str) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET /x HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        port
    }

    #[test]
    fn servers_are_asked() {
        let second = Duration::from_secs(5);
        let probe = |port: u16| {
            Probe::Http(HttpProbe::parse(&format!("http://localhost:{port}/x")).unwrap())
        };
        let good = ask(&probe(serve("HTTP/1.1 204 No Content\r\n\r\n")), second);
        assert_eq!(good, Ok("status 204".to_owned()));
        let bad = ask(&probe(serve("HTTP/1.0 503 Busy\r\n\r\n")), second);
        assert_eq!(bad, Err("status 503".to_owned()));
        let other = ask(&probe(serve("SSH-2.0\r\n")), second);
        assert_eq!(other, Err("it does not speak HTTP".to_owned()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(ask(&Probe::Tcp(port), second).is_ok());
        let silent = ask(&probe(port), Duration::from_millis(50)).unwrap_err();
        assert!(!silent.is_empty());
        drop(listener);
        assert!(ask(&Probe::Tcp(port), second).is_err());
    }
}
