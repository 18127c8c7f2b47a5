//! Key files: read, and written by `kiln generate-key`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kiln_attest::{PrivateKey, PublicKey, SealRandom, is_sealed};

use crate::errors::{Class, Failure, Outcome};
use crate::password::{self, Purpose};
use crate::settings::Settings;

/// The largest key file.
const LIMIT_BYTES: u64 = 64 << 10;

/// Reads a private key; asks for the password of a sealed one.
///
/// # Errors
/// There is no such file, it is no key, or the password is not there or not the right one.
pub(crate) fn private(path: &Path, settings: &Settings) -> Outcome<PrivateKey> {
    let pem = read(path)?;
    let password = if is_sealed(&pem) {
        let question = format!("password of {}", path.display());
        password::find(settings, Purpose::Open, &question)?
    } else {
        None
    };
    PrivateKey::parse(&pem, password.as_deref()).map_err(|error| of_key(path, &error))
}

/// Reads a public key.
///
/// # Errors
/// There is no such file, or it is no key.
pub(crate) fn public(path: &Path) -> Outcome<PublicKey> {
    PublicKey::parse(&read(path)?).map_err(|error| of_key(path, &error))
}

fn of_key(path: &Path, error: &dyn std::error::Error) -> Failure {
    let message = format!("the key `{}` cannot be used: {error}", path.display());
    Failure::message(Class::User, message, None)
}

fn read(path: &Path) -> Outcome<String> {
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(LIMIT_BYTES).read_to_string(&mut text))
        .map(|_| text);
    read.map_err(|error| {
        let message = format!("the key `{}` cannot be read: {error}", path.display());
        Failure::message(Class::User, message, None)
    })
}

/// Makes a pair of keys as `<beginning>.key`, sealed, and `<beginning>.pub`; returns both paths.
///
/// # Errors
/// One of the files is there, or cannot be written; there is no password.
pub(crate) fn generate(beginning: &Path, settings: &Settings) -> Outcome<[PathBuf; 2]> {
    let named = |end: &str| {
        let mut path = beginning.as_os_str().to_owned();
        path.push(end);
        PathBuf::from(path)
    };
    let paths = [named(".key"), named(".pub")];
    // Known before anybody has typed anything.
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        return Err(Failure::message(
            Class::User,
            format!(
                "`{}` is there already, and a key is never replaced",
                path.display()
            ),
            Some("name other files: kiln generate-key --output NAME".to_owned()),
        ));
    }
    let Some(password) = password::find(settings, Purpose::Choose, "new password")? else {
        return Err(Failure::message(
            Class::User,
            "there is no password to seal the private key with",
            Some("set COSIGN_PASSWORD, or run kiln in a terminal to be asked".to_owned()),
        ));
    };
    let key = loop {
        if let Some(key) = PrivateKey::of_random(&random()?) {
            break key;
        }
    };
    let seal = SealRandom {
        salt: random()?,
        nonce: random()?,
    };
    write(&paths[0], 0o600, &key.seal(&password, &seal))?;
    if let Err(failure) = write(&paths[1], 0o644, &key.public().to_pem()) {
        // Half a pair is none, and the half would be in the way of the next try.
        if let Err(error) = fs::remove_file(&paths[0]) {
            tracing::warn!("`{}` is left: {error}", paths[0].display());
        }
        return Err(failure);
    }
    Ok(paths)
}

fn write(path: &Path, mode: u32, text: &str) -> Outcome {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| {
        let message = format!("`{}` cannot be written: {error}", path.display());
        Failure::message(Class::Environment, message, None)
    })
}

fn random<const LENGTH: usize>() -> Outcome<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    let mut filled = 0;
    while filled < LENGTH {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags).map_err(|error| {
            let message = format!("the system gives no random numbers: {error}");
            Failure::message(Class::Environment, message, None)
        })?;
    }
    Ok(bytes)
}
