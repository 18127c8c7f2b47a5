//! What installing packages needs of the rest of kiln: downloads, a place for output, a sandbox.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use kiln_debian::{
    Downloads, Fetch, FetchError, Outside, Progress, ReadOnlyMount, RootCommand, RootExit,
    RunInRoot,
};
use kiln_http::{Download, Error as HttpError, Request, Url};
use kiln_oci::Digest;
use kiln_sandbox::{
    Access, CapabilitySet, ExitStatus, Mount, OwnerEmulation, Privileges, RootfsSpec, SandboxSpec,
    Stdio, Syncs, UpperDirectory,
};
use kiln_store::{LogWriter, Pin, Resume, Scratch, StoreError, Wait};
use kiln_transfer::PartialSink;

use super::process;
use crate::event::OutputStream;
use crate::executor::Task;
use crate::lines::LineWriter;
use crate::workspace::Workspace;

/// The doors of one step to the outside.
pub(crate) struct Doors<'a> {
    workspace: &'a Workspace,
    task: &'a Task<'a>,
    output: Mutex<(LogWriter, LineWriter<'a>)>,
}

impl<'a> Doors<'a> {
    /// Opens a log and returns the doors; the log's name is left in `log`.
    pub(crate) fn open(
        workspace: &'a Workspace,
        task: &'a Task<'a>,
        log: &mut Option<kiln_store::Name>,
    ) -> Result<Self, StoreError> {
        let writer = workspace.store().logs().create(&workspace.session)?;
        *log = Some(writer.name().clone());
        Ok(Self {
            workspace,
            task,
            output: Mutex::new((writer, task.output(OutputStream::Stdout))),
        })
    }

    /// Returns them as the package crate wants them.
    pub(crate) fn outside(&self) -> Outside<'_> {
        Outside {
            fetch: self,
            downloads: self,
            progress: self,
        }
    }

    fn url(url: &str) -> Result<Url, FetchError> {
        url.parse()
            .map_err(|error: kiln_http::UrlError| failed(url, error))
    }
}

fn failed(url: &str, error: impl std::error::Error + Send + Sync + 'static) -> FetchError {
    FetchError::Failed {
        url: url.to_owned(),
        source: Box::new(error),
    }
}

fn http_error(url: &str, error: HttpError) -> FetchError {
    let url_text = url.to_owned();
    if let HttpError::Status {
        status: 404 | 410, ..
    } = error
    {
        FetchError::NotFound { url: url_text }
    } else if let HttpError::WrongDigest { .. } | HttpError::WrongSize { .. } = error {
        FetchError::WrongContent {
            url: url_text,
            source: Box::new(error),
        }
    } else {
        failed(url, error)
    }
}

impl Fetch for Doors<'_> {
    fn read(&self, url: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
        if let Some(path) = url.strip_prefix("file:") {
            return read_file(url, path, limit_bytes);
        }
        // Every index is signed or named by a signed one, so plain http gives nothing away.
        let request = Request::get(Self::url(url)?).allow_plain_http();
        let remote = &self.workspace.remote;
        remote
            .http
            .fetch(&request, limit_bytes, &remote.cancel)
            .and_then(kiln_http::Response::success)
            .map(|response| response.body)
            .map_err(|error| http_error(url, error))
    }

    fn download(
        &self,
        url: &str,
        digest: &Digest,
        size_bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, FetchError> {
        let workspace = self.workspace;
        let downloads = workspace.store().downloads();
        if let Some(path) = url.strip_prefix("file:") {
            let file = std::fs::File::open(path).map_err(|error| file_error(url, error))?;
            return downloads
                .put_verified(&workspace.session, *digest, size_bytes, file)
                .map(|()| downloads.path(digest))
                .map_err(|error| wrong_content(url, error));
        }
        let cancelled = || workspace.cancel.is_cancelled();
        let resumed = downloads
            .resume(
                &workspace.session,
                *digest,
                size_bytes,
                Wait::Unless(&cancelled),
            )
            .map_err(|error| failed(url, error))?;
        if let Resume::From(partial) = resumed {
            let mut sink = PartialSink(*partial);
            let wanted = Download {
                request: Request::get(Self::url(url)?).allow_plain_http(),
                digest: Some(*digest),
                size_bytes: Some(size_bytes),
                limit_bytes: size_bytes,
            };
            let remote = &workspace.remote;
            remote
                .http
                .download(
                    &wanted,
                    &mut sink,
                    &mut |state| progress(state.done_bytes),
                    &remote.cancel,
                )
                .map_err(|error| http_error(url, error))?;
            sink.0.finish().map_err(|error| wrong_content(url, error))?;
        }
        Ok(downloads.path(digest))
    }
}

fn wrong_content(url: &str, error: StoreError) -> FetchError {
    if let StoreError::Verify { .. } = error {
        FetchError::WrongContent {
            url: url.to_owned(),
            source: Box::new(error),
        }
    } else {
        failed(url, error)
    }
}

fn file_error(url: &str, error: io::Error) -> FetchError {
    if error.kind() == io::ErrorKind::NotFound {
        FetchError::NotFound {
            url: url.to_owned(),
        }
    } else {
        failed(url, error)
    }
}

fn read_file(url: &str, path: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
    let file = std::fs::File::open(path).map_err(|error| file_error(url, error))?;
    let mut content = Vec::new();
    let read = file
        .take(limit_bytes.saturating_add(1))
        .read_to_end(&mut content);
    read.map_err(|error| file_error(url, error))?;
    if content.len() as u64 > limit_bytes {
        return Err(failed(url, io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    Ok(content)
}

impl Downloads for Doors<'_> {
    fn find(&self, digest: &Digest) -> io::Result<Option<PathBuf>> {
        let missing = self
            .workspace
            .session
            .pin(&[Pin::Download(*digest)])
            .map_err(io::Error::other)?;
        let path = self.workspace.store().downloads().path(digest);
        Ok(missing.is_empty().then_some(path))
    }

    fn put(&self, digest: &Digest, reader: &mut dyn Read) -> io::Result<PathBuf> {
        let downloads = self.workspace.store().downloads();
        let (found, _) = downloads
            .put(&self.workspace.session, reader, u64::MAX)
            .map_err(io::Error::other)?;
        if found != *digest {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(downloads.path(digest))
    }
}

impl Progress for Doors<'_> {
    fn download_started(&self, name: &str, size_bytes: u64) {
        self.task.progress(name, 0, Some(size_bytes));
    }

    fn download_advanced(&self, name: &str, done_bytes: u64) {
        self.task.progress(name, done_bytes, None);
    }

    fn download_finished(&self, _name: &str) {}

    fn output(&self, bytes: &[u8]) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let (log, lines) = &mut *output;
        let written = log
            .add(bytes)
            .map_err(io::Error::other)
            .and_then(|()| lines.write_all(bytes));
        if let Err(error) = written {
            tracing::warn!("cannot keep what package tools write: {error}");
        }
    }

    fn is_cancelled(&self) -> bool {
        self.workspace.cancel.is_cancelled()
    }
}

/// Runs package tools in a root file system that is being made.
pub(crate) struct PackageTools<'a> {
    workspace: &'a Workspace,
    lowers: Vec<PathBuf>,
    upper: PathBuf,
    scratch: &'a Scratch,
    runs: usize,
}

impl<'a> PackageTools<'a> {
    /// Runs them over `lowers`, the topmost first; what they change goes to `upper`.
    pub(crate) fn new(
        workspace: &'a Workspace,
        lowers: Vec<PathBuf>,
        upper: PathBuf,
        scratch: &'a Scratch,
    ) -> Self {
        Self {
            workspace,
            lowers,
            upper,
            scratch,
            runs: 0,
        }
    }

    fn spec(&mut self, command: &RootCommand) -> io::Result<SandboxSpec> {
        // What overlay needs beside an upper directory is used up by one mount.
        let work = self.scratch.path().join(format!("work-{}", self.runs));
        self.runs += 1;
        std::fs::create_dir(&work)?;
        let upper = UpperDirectory::passing(self.upper.clone(), work);
        let rootfs = RootfsSpec::writable(self.lowers.clone(), upper);
        let mut spec = SandboxSpec::new(rootfs, &command.argv);
        spec.env = command
            .env
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        spec.stdio = Stdio::Log;
        spec.hostname = Some("kiln".to_owned());
        if let Ok(mknod) = "CAP_MKNOD".parse() {
            spec.security.capabilities = CapabilitySet::DEFAULT.with(mknod);
        }
        if let Privileges::Single { .. } = self.workspace.privileges() {
            spec.security.owners = OwnerEmulation::Flatten;
        }
        // The draft is thrown away after a crash, and synced as a whole when it becomes a layer.
        spec.security.syncs = Syncs::Pretended;
        let mount =
            |mount: &ReadOnlyMount| Mount::bind(&mount.source, &mount.target, Access::ReadOnly);
        spec.mounts = command.mounts.iter().map(mount).collect();
        Ok(spec)
    }
}

impl RunInRoot for PackageTools<'_> {
    fn run(
        &mut self,
        command: &RootCommand,
        output: &mut dyn FnMut(&[u8]),
    ) -> io::Result<RootExit> {
        let spec = self.spec(command)?;
        let mut child = self.workspace.host.spawn(&spec).map_err(io::Error::other)?;
        let stopped = process::follow(self.workspace, &mut child, None, |bytes| {
            output(bytes);
            Ok(())
        })
        .map_err(io::Error::other)?;
        let exit = child.wait().map_err(io::Error::other)?;
        if stopped.is_some() {
            return Err(io::Error::other("was cancelled"));
        }
        Ok(match exit.status {
            ExitStatus::Code(code) => RootExit::Code(code),
            ExitStatus::Signal(signal) => RootExit::Signal(signal),
        })
    }
}
