//! Reading a download while it comes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How far a download is, for those who read it meanwhile.
#[derive(Debug, Default)]
pub(super) struct Growth {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct Now {
    have_bytes: u64,
    /// How often it began anew.
    restarts: u32,
    end: Option<End>,
}

/// How a download ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is whole, verified, and in the store.
    Whole,
    /// It is not; what there is of it waits for the next attempt.
    Broken,
}

impl Growth {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn grown(&self, have_bytes: u64) {
        self.now().have_bytes = have_bytes;
        self.changed.notify_all();
    }

    pub(super) fn restarted(&self) {
        let mut now = self.now();
        now.have_bytes = 0;
        now.restarts += 1;
        self.changed.notify_all();
    }

    pub(super) fn ended(&self, end: End) {
        self.now().end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// Waits for a moment in which `is_due`.
    fn wait(&self, is_due: impl Fn(&Now) -> bool) -> Now {
        let waiting = self.changed.wait_while(self.now(), |now| !is_due(now));
        *waiting.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the bytes of a download as they come, and ends where it ends.
///
/// A read blocks until there is more. It fails once the download has begun anew or broken off; nothing of
/// what was read until then is verified before [`Watch::end`] says [`End::Whole`].
#[derive(Debug)]
pub struct Follower {
    file: File,
    at: u64,
    restarts: u32,
    growth: Arc<Growth>,
}

impl Follower {
    pub(super) fn new(file: File, growth: &Arc<Growth>) -> Self {
        Self {
            file,
            at: 0,
            restarts: growth.now().restarts,
            growth: Arc::clone(growth),
        }
    }

    /// Returns what tells how the download ends, for after the reading.
    pub fn watch(&self) -> Watch {
        Watch {
            restarts: self.restarts,
            growth: Arc::clone(&self.growth),
        }
    }
}

/// Waits for the end of a download.
#[derive(Debug)]
pub struct Watch {
    restarts: u32,
    growth: Arc<Growth>,
}

impl Watch {
    /// Waits for the end of the download.
    pub fn end(&self) -> End {
        let now = self.growth.wait(|now| now.end.is_some());
        now.end.unwrap_or(End::Broken)
    }

    /// Tells whether all that was read belongs to the download as it is now.
    pub fn is_one_piece(&self) -> bool {
        self.growth.now().restarts == self.restarts
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (at, restarts) = (self.at, self.restarts);
        let now = self
            .growth
            .wait(|now| now.have_bytes > at || now.end.is_some() || now.restarts != restarts);
        if now.restarts != restarts {
            return Err(io::Error::other("the download began anew"));
        }
        if now.have_bytes <= at {
            return match now.end {
                Some(End::Whole) => Ok(0),
                Some(End::Broken) | None => Err(io::Error::other("the download broke off")),
            };
        }
        let room = usize::try_from(now.have_bytes - at).unwrap_or(usize::MAX);
        let room = room.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..room], at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use kiln_oci::Digest;

    use super::*;
    use crate::blobs::{Partial, Resume};
    use crate::lock::Wait;
    use crate::session::Session;
    use crate::testing::TestStore;

    fn begin(test: &TestStore, session: &Session, bytes: &[u8]) -> Partial {
        let (digest, size_bytes) = (Digest::of(bytes), bytes.len() as u64);
        let blobs = test.store.blobs();
        match blobs.resume(session, digest, size_bytes, Wait::Never) {
            Ok(Resume::From(partial)) => *partial,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_download_is_read_while_it_comes_and_ends_when_it_is_whole() {
        let test = TestStore::new();
        let session = test.session();
        let mut partial = begin(&test, &session, b"hello world");
        partial.add(b"hel").unwrap();
        let mut follower = partial.follow().unwrap();
        let watch = follower.watch();
        thread::scope(|scope| {
            let reading = scope.spawn(move || {
                let mut text = String::new();
                follower.read_to_string(&mut text).map(|_| text)
            });
            partial.add(b"lo ").unwrap();
            partial.add(b"world").unwrap();
            partial.finish().unwrap();
            assert_eq!(reading.join().unwrap().unwrap(), "hello world");
        });
        assert_eq!(watch.end(), End::Whole);
        assert!(watch.is_one_piece());
    }

    #[test]
    fn what_begins_anew_or_breaks_off_is_no_end() {
        let test = TestStore::new();
        let session = test.session();
        let mut partial = begin(&test, &session, b"hello");
        partial.add(b"hullo").unwrap();
        let mut follower = partial.follow().unwrap();
        let watch = follower.watch();
        let mut buffer = [0; 5];
        follower.read_exact(&mut buffer).unwrap();
        partial.restart().unwrap();
        follower.read(&mut buffer).unwrap_err();
        assert!(!watch.is_one_piece());
        partial.add(b"hel").unwrap();
        let mut follower = partial.follow().unwrap();
        drop(partial);
        assert_eq!(follower.read(&mut buffer).unwrap(), 3);
        follower.read(&mut buffer).unwrap_err();
        assert_eq!(watch.end(), End::Broken);
        // Of wrong bytes nothing stays.
        let mut partial = begin(&test, &session, b"other");
        partial.add(b"wrong").unwrap();
        let watch = partial.follow().unwrap().watch();
        assert!(partial.finish().is_err());
        assert_eq!(watch.end(), End::Broken);
    }
}
