//! `kiln login`: a password or token, tried and kept.

use std::io::{self, BufRead as _, Read};

use kiln_client::{Credential, Kept, Login, Secret};
use kiln_http::Cancel;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use crate::errors::{Class, Failure, Outcome};
use crate::printer::Printer;
use crate::settings::Settings;

/// The longest password or token read, in bytes.
const LONGEST: u64 = 64 * 1024;
/// The user name that stands for a token in place of user and password, as docker has it.
const TOKEN_USER: &str = "<token>";
/// What Ctrl-C sends.
const INTERRUPT: u8 = 3;
/// What the keys for one character back send.
const BACK: [u8; 2] = [8, 127];

/// Log in to a registry
///
/// The password is tried, and then kept where docker and podman look for it: with the credential helper
/// that their configuration names, or in the file itself. It is read from the terminal or from standard
/// input, and never from the command line, which others can see.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln login registry.example.com
  kiln login registry.example.com -u ci --password-stdin < token.txt")]
pub(crate) struct Args {
    /// Registry, as host or host:port
    registry: String,

    /// User name
    #[arg(short, long)]
    user: Option<String>,

    /// Read the password, or token, from standard input
    #[arg(long, requires = "user")]
    password_stdin: bool,
}

/// Tries the password and keeps it.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let cancel = Cancel::new();
    let credential = credential(args, settings, printer)?;
    let home = settings.credentials_home().ok_or_else(|| {
        Failure::message(
            Class::User,
            "there is no place for credentials",
            Some("set HOME, or REGISTRY_AUTH_FILE to a file".to_owned()),
        )
    })?;
    let login = settings
        .registry(None)
        .log_in(&args.registry, &credential, &cancel)?;
    let accepted = match login {
        Login::Accepted(accepted) => accepted,
        Login::NotAsked => {
            printer.warning(format!(
                "{} lets everybody in, so the password was not tried",
                args.registry
            ));
            credential
        }
    };
    let files = settings.registries().credentials;
    match files.store(&home, &args.registry, &accepted, &cancel)? {
        Kept::File(path) => printer.warning(format!(
            "the password is in {}, readable to whoever can read your files; a credential helper keeps it encrypted",
            path.display()
        )),
        Kept::Helper(name) => printer.detail(format!("docker-credential-{name} keeps the password")),
    }
    printer.note(format!("logged in to {}", args.registry));
    Ok(())
}

fn credential(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<Credential> {
    let user = match &args.user {
        Some(user) => user.clone(),
        None => {
            need_terminal(settings)?;
            printer.prompt("user: ")?;
            let mut line = String::new();
            io::stdin()
                .lock()
                .take(LONGEST)
                .read_line(&mut line)
                .map_err(unread)?;
            line.trim().to_owned()
        }
    };
    let password = if args.password_stdin {
        password_from_stdin()?
    } else {
        need_terminal(settings)?;
        printer.prompt("password: ")?;
        let typed = typed_unseen();
        printer.prompt("\n")?;
        typed?
    };
    if user.is_empty() || password.is_empty() {
        return Err(Failure::message(
            Class::User,
            "the user name or the password is empty",
            None,
        ));
    }
    let secret = Secret::new(password);
    Ok(if user == TOKEN_USER {
        Credential::Identity(secret)
    } else {
        Credential::Password {
            user,
            password: secret,
        }
    })
}

/// Reads a password from standard input, to its end.
pub(crate) fn password_from_stdin() -> Outcome<String> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(unread)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn need_terminal(settings: &Settings) -> Outcome {
    if settings.stdin_is_terminal {
        return Ok(());
    }
    Err(Failure::message(
        Class::User,
        "there is no terminal to ask for user and password",
        Some("kiln login REGISTRY --user USER --password-stdin".to_owned()),
    ))
}

fn unread(error: io::Error) -> Failure {
    Failure::message(
        Class::Environment,
        format!("cannot read standard input: {error}"),
        None,
    )
}

/// Puts the terminal back as it was.
struct Restore(Termios);

impl Drop for Restore {
    fn drop(&mut self) {
        if tcsetattr(io::stdin(), OptionalActions::Flush, &self.0).is_err() {
            // A terminal that is gone needs no settings.
        }
    }
}

/// Reads a line that does not show. Keys come one by one, Ctrl-C too: a signal would end kiln with the
/// terminal as it is now.
fn typed_unseen() -> Outcome<String> {
    let failed = |error: rustix::io::Errno| unread(error.into());
    let before = tcgetattr(io::stdin()).map_err(failed)?;
    let mut silent = before.clone();
    silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    silent.special_codes[SpecialCodeIndex::VMIN] = 1;
    silent.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(io::stdin(), OptionalActions::Flush, &silent).map_err(failed)?;
    let _restore = Restore(before);
    let mut typed = Vec::new();
    for byte in io::stdin().lock().take(LONGEST).bytes() {
        match byte.map_err(unread)? {
            b'\n' | b'\r' => break,
            INTERRUPT => {
                return Err(Failure::message(Class::Interrupted, "interrupted", None));
            }
            key if BACK.contains(&key) => {
                // One character, which may have several bytes.
                while typed.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            key => typed.push(key),
        }
    }
    String::from_utf8(typed)
        .map_err(|_secret| Failure::message(Class::User, "the password is not text in UTF-8", None))
}
