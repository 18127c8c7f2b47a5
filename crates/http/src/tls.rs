//! Which certificates are trusted and shown, and what a failed handshake means.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::error::{Error, TlsProblem};
use crate::settings::{ClientCertificate, HostSettings, Roots};

/// Where distributions keep their bundle of certificate authorities; the first that exists is read.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Alpine, Arch, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // newer RHEL
    "/var/lib/ca-certificates/ca-bundle.pem", // openSUSE
    "/etc/ssl/ca-bundle.pem",             // older openSUSE
    "/etc/ssl/cert.pem",                  // Alpine, BSD
    "/etc/ssl/certs/ca-bundle.crt",       // NixOS
];

/// Larger certificate files are refused.
const LARGEST_FILE: u64 = 16 << 20;

/// Returns the TLS settings for one host, or for all that have none of their own.
///
/// # Errors
/// [`Error::CertificateFile`] for a named file that cannot be used.
pub(crate) fn config(roots: &Roots, host: Option<&HostSettings>) -> Result<TlsConfig, Error> {
    config_with(roots, host, SYSTEM_BUNDLES)
}

fn config_with(
    roots: &Roots,
    host: Option<&HostSettings>,
    bundles: &[&str],
) -> Result<TlsConfig, Error> {
    let mut trusted = system_roots(roots, bundles)?;
    for path in host.into_iter().flat_map(|host| &host.authorities) {
        trusted.extend(certificates(path)?);
    }
    let roots = if trusted.is_empty() {
        RootCerts::WebPki
    } else {
        RootCerts::new_with_certs(&trusted)
    };
    let shown = host
        .and_then(|host| host.client_certificate.as_ref())
        .map(client_certificate)
        .transpose()?;
    Ok(TlsConfig::builder()
        .root_certs(roots)
        .client_cert(shown)
        .build())
}

fn system_roots(roots: &Roots, bundles: &[&str]) -> Result<Vec<Certificate<'static>>, Error> {
    if roots.files.is_empty() && roots.directories.is_empty() {
        let bundle = bundles.iter().map(Path::new).find(|path| path.exists());
        return bundle.map_or(Ok(Vec::new()), certificates);
    }
    let mut trusted = Vec::new();
    if let Some(path) = roots
        .files
        .iter()
        .find(|path| path.exists())
        .or(roots.files.first())
    {
        trusted.extend(certificates(path)?);
    }
    // A bundle holds what the folder beside it holds; reading both would double every certificate.
    if trusted.is_empty() {
        for directory in &roots.directories {
            for path in pem_files(directory).map_err(|error| unusable(directory, &error))? {
                trusted.extend(certificates(&path)?);
            }
        }
    }
    Ok(trusted)
}

/// Lists the files of a certificate folder that may hold certificates, in order of their names.
fn pem_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        // The hashed names (`1234abcd.0`) of such folders are links to these.
        if matches!(extension, Some("pem" | "crt" | "cer")) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::CertificateFile {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let size = fs::metadata(path)
        .map_err(|error| unusable(path, &error))?
        .len();
    if size > LARGEST_FILE {
        return Err(unusable(path, &"it is larger than 16 MiB"));
    }
    fs::read(path).map_err(|error| unusable(path, &error))
}

/// Reads all certificates of a PEM file; at least one must be there.
fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let mut found = Vec::new();
    for item in parse_pem(&read(path)?) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| unusable(path, &error))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(unusable(path, &"it holds no certificate in PEM form"));
    }
    Ok(found)
}

fn client_certificate(files: &ClientCertificate) -> Result<ClientCert, Error> {
    let chain = certificates(&files.certificate)?;
    let pem = read(&files.key)?;
    let key = PrivateKey::from_pem(&pem).map_err(|_error| {
        // Both forms of sealed keys say it in their first two lines.
        let is_sealed = pem.windows(9).take(200).any(|word| word == b"ENCRYPTED");
        let reason = if is_sealed {
            "it is sealed by a password, which nobody is asked for here: `openssl pkey -in KEY -out KEY` unseals it"
        } else {
            "it holds no private key in PEM form"
        };
        unusable(&files.key, &reason)
    })?;
    // ureq takes it that the pair is valid, and would panic in the middle of a request.
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable(&files.key, &error))?;
    let provider = rustls::crypto::ring::default_provider();
    let signer = provider
        .key_provider
        .load_private_key(der)
        .map_err(|error| unusable(&files.key, &error))?;
    let der_chain = chain
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der().to_vec()))
        .collect();
    rustls::sign::CertifiedKey::new(der_chain, signer)
        .keys_match()
        .map_err(|_mismatch| {
            let key = files.key.display();
            unusable(&files.certificate, &format!("`{key}` is not its key"))
        })?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

/// Says in our words what a failed handshake means.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's words do for the errors that need no advice"
)]
pub(crate) fn problem(error: &rustls::Error) -> TlsProblem {
    use rustls::{AlertDescription, CertificateError};
    match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer => TlsProblem::UnknownIssuer,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                TlsProblem::Date("expired")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                TlsProblem::Date("not valid yet")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsProblem::WrongName
            }
            // The library that checks certificates has this error to itself.
            other if other.to_string().contains("CaUsedAsEndEntity") => TlsProblem::Authority,
            other => TlsProblem::Other(format!("its certificate is not valid: {other}")),
        },
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls,
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure),
        ) => TlsProblem::Refused(format!("{alert:?}")),
        other => TlsProblem::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_certificates_gets_the_carried_ones() {
        let none = config_with(&Roots::default(), None, &["/nonexistent.pem"]).unwrap();
        assert!(matches!(none.root_certs(), RootCerts::WebPki));
    }

    #[test]
    fn the_first_bundle_there_is_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.pem");
        let key = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        fs::write(&path, format!("# a comment\n{}", key.cert.pem().repeat(3))).unwrap();
        let bundles = ["/nonexistent.pem", path.to_str().unwrap()];
        let config = config_with(&Roots::default(), None, &bundles).unwrap();
        let RootCerts::Specific(certificates) = config.root_certs() else {
            panic!("not the bundle's")
        };
        assert_eq!(certificates.len(), 3);
    }
}
