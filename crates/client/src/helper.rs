//! Credential helpers: programs that keep passwords, asked through docker's protocol.
//!
//! `docker-credential-NAME get` reads the registry's address from its input and writes JSON with
//! user and secret; `store` reads such JSON, and `erase` an address.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use kiln_http::{BodyText, Cancel, Cancelled};
use serde::{Deserialize, Serialize};

/// How long a helper may take: it may wait for the user to unlock something.
const PATIENCE: Duration = Duration::from_secs(60);
/// When whoever waits is told what for.
const LONG: Duration = Duration::from_secs(3);
/// How long the last words of a helper that has ended may be on their way.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The most that is read from a helper, in bytes.
const LARGEST_ANSWER: u64 = 1 << 20;
/// What helpers say when they have no entry.
const NOT_FOUND: &str = "credentials not found";

/// What a helper knows.
pub(crate) struct Answer {
    pub(crate) user: String,
    pub(crate) secret: String,
}

/// Why a helper was of no help.
pub(crate) enum Failure {
    Cancelled(Cancelled),
    Reason(String),
}

#[derive(Deserialize, Serialize)]
struct Written {
    #[serde(rename = "ServerURL", default)]
    server: String,
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Asks the helper `program` for `server`; `None` if it has no entry. Blocks, up to a minute.
pub(crate) fn get(
    program: &Path,
    server: &str,
    cancel: &Cancel,
) -> Result<Option<Answer>, Failure> {
    let Some(output) = run(program, "get", format!("{server}\n").as_bytes(), cancel)? else {
        return Ok(None);
    };
    let written: Written = serde_json::from_slice(&output)
        .map_err(|_secret| Failure::Reason("its answer is not what helpers write".to_owned()))?;
    Ok(Some(Answer {
        user: written.user,
        secret: written.secret,
    }))
}

/// Gives the helper something to keep. Blocks, up to a minute.
pub(crate) fn store(
    program: &Path,
    server: &str,
    user: &str,
    secret: &str,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let written = Written {
        server: server.to_owned(),
        user: user.to_owned(),
        secret: secret.to_owned(),
    };
    let input = serde_json::to_vec(&written)
        .map_err(|_secret| Failure::Reason("it cannot be told".to_owned()))?;
    run(program, "store", &input, cancel).map(drop)
}

/// Makes the helper forget; whether it knew anything is told. Blocks, up to a minute.
pub(crate) fn erase(program: &Path, server: &str, cancel: &Cancel) -> Result<bool, Failure> {
    let input = format!("{server}\n");
    Ok(run(program, "erase", input.as_bytes(), cancel)?.is_some())
}

/// Runs `program` with `input` and returns what it writes; `None` if it has no entry.
fn run(
    program: &Path,
    action: &str,
    input: &[u8],
    cancel: &Cancel,
) -> Result<Option<Vec<u8>>, Failure> {
    let failed = |error: io::Error| Failure::Reason(error.to_string());
    let mut child = Command::new(program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (stdin, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (output, errors) = (pieces(output), pieces(errors));
    if let Some(mut stdin) = stdin {
        let written = stdin.write_all(input);
        // A helper that does not want to know has closed its input, and its answer says more.
        if let Err(error) = written
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            stop(&mut child)?;
            return Err(failed(error));
        }
    }
    let success = wait(&mut child, program, cancel)?;
    let (output, errors) = (whole(&output), whole(&errors));
    if output.len() as u64 >= LARGEST_ANSWER {
        return Err(Failure::Reason("its answer is too long".to_owned()));
    }
    if success {
        return Ok(Some(output));
    }
    let said = if output.is_empty() { &errors } else { &output };
    let said = BodyText::of(said);
    if said.text().contains(NOT_FOUND) {
        return Ok(None);
    }
    let line: String = said
        .text()
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect();
    Err(Failure::Reason(if line.is_empty() {
        "it says nothing".to_owned()
    } else {
        line
    }))
}

/// Reads what a helper writes, as it comes. The rest of too much is not read, and the helper stopped by it.
fn pieces(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let Some(stream) = stream else { return };
        let mut stream = stream.take(LARGEST_ANSWER);
        let mut buffer = vec![0; 16 << 10];
        // What came before a failure is the answer there is.
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            if sender.send(buffer[..read].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Puts together what a helper wrote that has ended. What it left running may hold its output open for ever.
fn whole(pieces: &Receiver<Vec<u8>>) -> Vec<u8> {
    let next = || pieces.recv_timeout(LAST_WORDS).ok();
    std::iter::from_fn(next).flatten().collect()
}

/// Waits for the end; says whether it was a success.
fn wait(child: &mut Child, program: &Path, cancel: &Cancel) -> Result<bool, Failure> {
    let started = Instant::now();
    let mut is_told = false;
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) => {}
            Err(error) => return Err(Failure::Reason(error.to_string())),
        }
        if let Err(cancelled) = cancel.sleep(pause) {
            stop(child)?;
            return Err(Failure::Cancelled(cancelled));
        }
        if started.elapsed() > LONG && !is_told {
            is_told = true;
            let name = program.file_name().unwrap_or_default().display();
            tracing::warn!(
                "the credential helper `{name}` has not answered yet: it may want to be unlocked"
            );
        }
        if started.elapsed() > PATIENCE {
            stop(child)?;
            let seconds = PATIENCE.as_secs();
            return Err(Failure::Reason(format!(
                "it did not answer within {seconds} s"
            )));
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Kills the helper and takes its exit status, so that nothing of it stays.
fn stop(child: &mut Child) -> Result<(), Failure> {
    child
        .kill()
        .and_then(|()| child.wait())
        .map(|_status| ())
        .map_err(|error| Failure::Reason(error.to_string()))
}
