//! Pushes the first image of an image layout and says how long it took: `push LAYOUT REFERENCE`.
//!
//! For measurements beside `skopeo copy`; blobs are sent as they are in the layout.

#![expect(clippy::print_stdout, reason = "it is a program")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Instant;

use kiln_client::{BlobSource, Document, Documents, Registry, Settings, SourceError};
use kiln_http::{Cancel, Client};
use kiln_oci::{Descriptor, Digest, ImageIndex, MediaKind, Reference};

struct Layout(PathBuf);

impl Layout {
    fn blob(&self, digest: Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Document, Box<dyn Error>> {
        let bytes = fs::read(self.blob(descriptor.digest))?;
        Ok(Document::of(descriptor.media_type.clone(), bytes))
    }
}

impl BlobSource for Layout {
    fn open(&self, blob: &Descriptor, from_byte: u64) -> Result<Box<dyn Read + '_>, SourceError> {
        let mut file = File::open(self.blob(blob.digest))?;
        file.seek(SeekFrom::Start(from_byte))?;
        Ok(Box::new(file))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(reference)) = (arguments.next(), arguments.next()) else {
        return Err("usage: push LAYOUT REFERENCE".into());
    };
    let layout = Layout(folder.into());
    let index = ImageIndex::parse(&fs::read(layout.0.join("index.json"))?)?;
    let first = index.manifests.first().ok_or("the layout is empty")?;
    let mut documents = Documents::single(layout.document(first)?);
    if documents.root.media_type.kind() == MediaKind::Index {
        for part in ImageIndex::parse(&documents.root.bytes)?.manifests {
            documents.parts.push(layout.document(&part)?);
        }
    }
    let reference: Reference = reference.parse()?;
    let started = Instant::now();
    let registry = Registry::new(
        Client::new(kiln_http::Settings::default()),
        Settings::default(),
    );
    let pushed = registry.push(&reference, &documents, &layout, &|_| {}, &Cancel::new())?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} bytes in {seconds:.3} s, manifest {}",
        pushed.sent_bytes, pushed.digest
    );
    let status = fs::read_to_string("/proc/self/status")?;
    if let Some(peak) = status.lines().find(|line| line.starts_with("VmHWM")) {
        println!("{peak}");
    }
    Ok(())
}
