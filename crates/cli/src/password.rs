//! Passwords: from a variable, or typed without being shown.
//!
//! Never an argument, which every process of the machine could read. The question is put to the
//! controlling terminal itself, so that data can flow through standard input and output meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::errors::{Class, Failure, Outcome};
use crate::settings::Settings;

/// The variable that cosign uses.
const VARIABLE: &str = "COSIGN_PASSWORD";
/// The longest password.
const MOST_BYTES: usize = 1_024;

/// Where a password comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It exists.
    Open,
    /// It is a new one, typed twice.
    Choose,
}

/// Finds the password of a key; `None` if no variable has it and nobody can be asked.
///
/// # Errors
/// The terminal does not work, or two passwords that should be one differ.
pub(crate) fn find(
    settings: &Settings,
    purpose: Purpose,
    question: &str,
) -> Outcome<Option<Vec<u8>>> {
    if let Some(password) = settings.environment.raw(VARIABLE) {
        return Ok(Some(password.as_encoded_bytes().to_vec()));
    }
    find_on_terminal(settings, purpose, question)
}

/// Asks for a password; `None` if nobody can be asked.
///
/// # Errors
/// The terminal does not work, or two passwords that should be one differ.
pub(crate) fn find_on_terminal(
    settings: &Settings,
    purpose: Purpose,
    question: &str,
) -> Outcome<Option<Vec<u8>>> {
    if !settings.stdin_is_terminal && !settings.stderr_is_terminal {
        return Ok(None);
    }
    let Ok(mut terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else {
        return Ok(None);
    };
    let password = ask(&mut terminal, question)?;
    if purpose == Purpose::Choose && ask(&mut terminal, "once more")? != password {
        return Err(Failure::message(
            Class::User,
            "the two passwords differ",
            Some("try again".to_owned()),
        ));
    }
    Ok(Some(password))
}

fn ask(terminal: &mut File, question: &str) -> Outcome<Vec<u8>> {
    let failed = |error: io::Error| {
        let message = format!("the terminal does not work: {error}");
        Failure::message(Class::Environment, message, None)
    };
    let quiet = Quiet::start(terminal).map_err(failed)?;
    write!(terminal, "{question}: ").map_err(failed)?;
    let line = read_line(terminal);
    writeln!(terminal).map_err(failed)?;
    drop(quiet);
    line.map_err(failed)?.ok_or_else(|| {
        Failure::message(
            Class::Interrupted,
            "stopped",
            Some("nothing was changed".to_owned()),
        )
    })
}

/// Reads up to the end of the line; `None` if the person wants to stop.
fn read_line(terminal: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while terminal.read(&mut byte)? == 1 && line.len() < MOST_BYTES {
        match byte[0] {
            b'\r' | b'\n' => break,
            // Ctrl-C, which is no signal here, so that echo is never left off; Ctrl-D.
            3 | 4 => return Ok(None),
            8 | 127 => drop(line.pop()),
            other => line.push(other),
        }
    }
    Ok(Some(line))
}

/// A terminal that shows nothing of what is typed.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn start(terminal: &File) -> io::Result<Self> {
        let terminal = terminal.try_clone()?;
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON;
        tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before) {
            tracing::warn!("the terminal stays without echo: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_is_mended_and_is_given_up() {
        let read = |text: &str| read_line(&mut text.as_bytes()).expect("bytes can be read");
        assert_eq!(read("secret\nrest"), Some(b"secret".to_vec()));
        assert_eq!(read("secrex\u{7f}t\r"), Some(b"secret".to_vec()));
        assert_eq!(read("\u{7f}\n"), Some(Vec::new()));
        assert_eq!(read("sec\u{3}"), None);
    }
}
