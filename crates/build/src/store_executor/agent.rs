//! The ssh agent of whoever runs kiln, as a step reaches it.
//!
//! A step has a socket of its own, and kiln passes on what is asked there: the agent's own socket lets nobody but its
//! owner in, and a step may run as any user. What `SSH_AUTH_SOCK` names is never seen in a sandbox.
//!
//! Knows of the [protocol] that a question has one answer, and that both are led by their length.
//!
//! [protocol]: https://datatracker.ietf.org/doc/draft-ietf-sshm-ssh-agent/

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};

/// The longest question or answer, as in OpenSSH (`AGENT_MAX_LEN`).
const LONGEST_BYTES: u32 = 256 * 1024;
/// The most connections of a step at once; further ones are closed.
const MOST_CONNECTIONS: usize = 64;

/// A socket behind which the agent is, until this is dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: PathBuf,
    closed: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

/// Why there is no agent for a step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// `SSH_AUTH_SOCK` names nothing that answers.
    #[error("the step needs an ssh agent, and none answers at `{path}` (SSH_AUTH_SOCK): {source}")]
    Unreachable { path: PathBuf, source: io::Error },
    /// The step's own socket cannot be made.
    #[error("cannot make a socket for the ssh agent in `{path}`: {source}")]
    Socket { path: PathBuf, source: io::Error },
}

impl Agent {
    /// Listens in `folder`, which nobody else can enter, for the agent behind `agent`.
    ///
    /// # Errors
    /// Nothing answers there, or the system does not let it listen.
    pub(crate) fn start(agent: &Path, folder: &Path) -> Result<Self, AgentError> {
        UnixStream::connect(agent).map_err(|source| AgentError::Unreachable {
            path: agent.to_owned(),
            source,
        })?;
        let socket = folder.join("ssh-agent");
        let listener = listen(folder, &socket).map_err(|source| AgentError::Socket {
            path: folder.to_owned(),
            source,
        })?;
        let closed = Arc::new(AtomicBool::new(false));
        let (agent, seen) = (agent.to_owned(), Arc::clone(&closed));
        Ok(Self {
            socket,
            closed,
            listener: Some(std::thread::spawn(move || {
                serve(&listener, &agent, &seen);
            })),
        })
    }

    /// The step's socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        // The listener looks up when somebody comes.
        let woken = open_folder(&self.socket).and_then(|(_folder, path)| UnixStream::connect(path));
        match (woken, self.listener.take()) {
            (Ok(_), Some(listener)) => {
                if listener.join().is_err() {
                    tracing::debug!("the socket of an ssh agent was not closed in order");
                }
            }
            (Err(error), _) => tracing::debug!("the socket of an ssh agent stays open: {error}"),
            (Ok(_), None) => {}
        }
    }
}

/// Opens the folder of a socket and names the socket through it: the path of a store may be longer than the 108 bytes
/// of a socket's.
fn open_folder(socket: &Path) -> io::Result<(std::os::fd::OwnedFd, PathBuf)> {
    let (folder, name) = match (socket.parent(), socket.file_name()) {
        (Some(folder), Some(name)) => (folder, name),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let folder = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    Ok((folder, path.join(name)))
}

fn listen(folder: &Path, socket: &Path) -> io::Result<UnixListener> {
    let (_folder, path) = open_folder(&folder.join("ssh-agent"))?;
    let listener = UnixListener::bind(path)?;
    // Whoever can enter the folder may ask, and in the sandbox that is every user of the step.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Answers whoever comes, each in a thread of its own. Nobody waits for those: they end with the step's processes, or
/// when the agent has answered the last question.
fn serve(listener: &UnixListener, agent: &Path, closed: &AtomicBool) {
    let connections = Arc::new(());
    for step in listener.incoming() {
        if closed.load(Ordering::Acquire) {
            return;
        }
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                tracing::debug!("a connection to the ssh agent failed: {error}");
                return;
            }
        };
        if Arc::strong_count(&connections) > MOST_CONNECTIONS {
            continue;
        }
        let (agent, connection) = (agent.to_owned(), Arc::clone(&connections));
        std::thread::spawn(move || {
            let _connection = connection;
            if let Err(error) = UnixStream::connect(agent).and_then(|agent| relay(&step, &agent)) {
                tracing::debug!("a connection to the ssh agent broke: {error}");
            }
        });
    }
}

/// Passes on questions and answers until the step has no more.
fn relay(mut step: &UnixStream, mut agent: &UnixStream) -> io::Result<()> {
    let mut message = Vec::new();
    while receive(&mut step, &mut message)? {
        agent.write_all(&message)?;
        if !receive(&mut agent, &mut message)? {
            return Ok(());
        }
        step.write_all(&message)?;
    }
    Ok(())
}

/// Reads one message with its length; false if there is none any more.
fn receive(from: &mut impl Read, message: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    let bytes = u32::from_be_bytes(length);
    if bytes > LONGEST_BYTES {
        let message = format!("a message of {bytes} bytes, and {LONGEST_BYTES} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    message.clear();
    message.extend(length);
    let read = from.take(bytes.into()).read_to_end(message)?;
    match u32::try_from(read) == Ok(bytes) {
        true => Ok(true),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers each question with what it was asked, backwards.
    fn mirror(folder: &Path) -> PathBuf {
        let path = folder.join("real");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for asking in listener.incoming() {
                let mut asking = asking.unwrap();
                std::thread::spawn(move || {
                    let mut message = Vec::new();
                    while receive(&mut asking, &mut message).unwrap_or(false) {
                        message[4..].reverse();
                        asking.write_all(&message).unwrap();
                    }
                });
            }
        });
        path
    }

    fn ask(socket: &mut UnixStream, question: &[u8]) -> io::Result<Vec<u8>> {
        let length = u32::try_from(question.len()).unwrap();
        socket.write_all(&length.to_be_bytes())?;
        socket.write_all(question)?;
        let mut answer = Vec::new();
        match receive(socket, &mut answer)? {
            true => Ok(answer.split_off(4)),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    #[test]
    fn every_user_is_answered_until_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than the path of a socket may be.
        let deep = folder.path().join("deep".repeat(40));
        std::fs::create_dir(&deep).unwrap();
        let agent = Agent::start(&mirror(folder.path()), &deep).unwrap();
        let mode = std::fs::metadata(agent.socket()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o666);
        let (_folder, path) = open_folder(agent.socket()).unwrap();
        let mut one = UnixStream::connect(&path).unwrap();
        let mut other = UnixStream::connect(&path).unwrap();
        assert_eq!(ask(&mut one, b"keys").unwrap(), b"syek");
        assert_eq!(ask(&mut other, b"sign").unwrap(), b"ngis");
        assert_eq!(ask(&mut one, b"").unwrap(), b"");
        drop(agent);
        assert!(UnixStream::connect(&path).is_err());
    }

    #[test]
    fn too_long_a_question_ends_its_connection_alone() {
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(&mirror(folder.path()), folder.path()).unwrap();
        let mut greedy = UnixStream::connect(agent.socket()).unwrap();
        greedy
            .write_all(&(LONGEST_BYTES + 1).to_be_bytes())
            .unwrap();
        assert_eq!(greedy.read(&mut [0; 4]).unwrap(), 0);
        let mut modest = UnixStream::connect(agent.socket()).unwrap();
        assert_eq!(ask(&mut modest, b"ab").unwrap(), b"ba");
    }

    #[test]
    fn a_file_is_no_agent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [file, folder.path().join("missing")] {
            let error = Agent::start(&path, folder.path()).unwrap_err();
            assert!(matches!(error, AgentError::Unreachable { .. }), "{error}");
        }
    }
}
