//! Generated files of one sandbox: secrets, `/etc/hosts` and the like. In memory only.

use std::os::fd::OwnedFd;

use kiln_sys::Errno;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use crate::error::{SandboxError, best_effort};
use crate::host::Host;
use crate::spec::{FileContent, FileOwner, Ids};

/// A directory of the scratch space with the files; they go away when it is dropped.
#[derive(Debug)]
pub(crate) struct Files {
    scratch: OwnedFd,
    name: String,
    directory: OwnedFd,
    count: usize,
}

impl Files {
    pub(crate) fn new(host: &Host) -> Result<Self, SandboxError> {
        let name = format!("run-{}", host.next_number());
        let directory = host.scratch.make(&name)?;
        let scratch = rustix::io::fcntl_dupfd_cloexec(&host.scratch, 3)
            .map_err(SandboxError::kernel("duplicating a descriptor"))?;
        Ok(Self {
            scratch,
            name,
            directory,
            count: 0,
        })
    }

    /// Writes a file; returns a descriptor to mount it by.
    pub(crate) fn add(
        &mut self,
        content: &FileContent,
        mode: u32,
        owner: FileOwner,
        user: &Ids,
    ) -> Result<OwnedFd, SandboxError> {
        let name = self.count.to_string();
        self.count += 1;
        self.write(
            &name,
            &content.0,
            mode,
            match owner {
                FileOwner::Root => None,
                FileOwner::User => Some(user),
            },
        )
        .map_err(SandboxError::kernel("writing a file for the sandbox"))
    }

    fn write(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        owner: Option<&Ids>,
    ) -> Result<OwnedFd, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::from_raw_mode(0o600))?;
        let mut rest = content;
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
            rest = &rest[written..];
        }
        if let Some(Ids { uid, gid, .. }) = owner {
            rustix::fs::fchown(&file, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        Ok(file)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // In memory of this process' own namespace: what cannot be removed ends with the process.
        for index in 0..self.count {
            let removed =
                rustix::fs::unlinkat(&self.directory, index.to_string(), AtFlags::empty());
            best_effort("removing a generated file", removed);
        }
        let removed = rustix::fs::unlinkat(&self.scratch, self.name.as_str(), AtFlags::REMOVEDIR);
        best_effort("removing the directory of generated files", removed);
    }
}
