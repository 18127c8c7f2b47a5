//! Pulls an image into a folder and says how long it took: `pull REFERENCE FOLDER`.
//!
//! For measurements beside `skopeo copy`; the blobs land in files named by their digests.

#![expect(clippy::print_stdout, reason = "it is a program")]

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use kiln_client::{Begun, BlobSink, PartialBlob, Registry, Settings, SinkError};
use kiln_http::{Cancel, Client, Sink};
use kiln_oci::{Descriptor, Platform, Reference};

struct Folder(PathBuf);

struct Partial {
    file: File,
    from: PathBuf,
    to: PathBuf,
}

impl BlobSink for Folder {
    fn begin(&self, blob: &Descriptor) -> Result<Begun<'_>, SinkError> {
        let to = self.0.join(blob.digest.hex());
        if to.exists() {
            return Ok(Begun::Here);
        }
        let from = to.with_extension("partial");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&from)?;
        Ok(Begun::From(Box::new(Partial { file, from, to })))
    }
}

impl Sink for Partial {
    fn held(&mut self) -> io::Result<u64> {
        self.file.held()
    }

    fn reread(&mut self, consume: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.file.reread(consume)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.restart()
    }
}

impl PartialBlob for Partial {
    fn commit(self: Box<Self>) -> Result<(), SinkError> {
        Ok(fs::rename(&self.from, &self.to)?)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(reference), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pull REFERENCE FOLDER".into());
    };
    fs::create_dir_all(&folder)?;
    let started = Instant::now();
    let registry = Registry::new(
        Client::new(kiln_http::Settings::default()),
        Settings::default(),
    );
    let reference: Reference = reference.parse()?;
    let sink = Folder(folder.into());
    let pulled = registry.pull(
        &reference,
        &Platform::host(),
        &sink,
        &|_| {},
        &Cancel::new(),
    )?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} bytes in {seconds:.3} s, manifest {}",
        pulled.received_bytes, pulled.image.manifest.digest
    );
    let status = fs::read_to_string("/proc/self/status")?;
    if let Some(peak) = status.lines().find(|line| line.starts_with("VmHWM")) {
        println!("{peak}");
    }
    Ok(())
}
