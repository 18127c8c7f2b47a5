//! TLS: a certificate that can be replaced while connections are open.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Tls;
use crate::registry::RegistryError;

/// The certificate that new connections are shown.
#[derive(Debug)]
pub(super) struct Certificates {
    files: Tls,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    changed: Changed,
}

/// When the two files were written.
type Changed = [Option<SystemTime>; 2];

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, or key and certificate do not belong together.
    pub(super) fn load(files: &Tls) -> Result<Self, RegistryError> {
        let changed = changed(files);
        let config = read(files)?;
        Ok(Self {
            files: files.clone(),
            current: Mutex::new(Current { config, changed }),
        })
    }

    /// What greets the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current.config))
    }

    /// Reads the files again if they were written since; the old certificate stays if that fails.
    pub(super) fn reload_if_changed(&self) -> Option<Result<(), RegistryError>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = changed(&self.files);
        if changed == current.changed {
            return None;
        }
        current.changed = changed;
        Some(read(&self.files).map(|config| current.config = config))
    }
}

fn changed(files: &Tls) -> Changed {
    [&files.certificate, &files.key].map(|path| {
        fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .ok()
    })
}

fn read(files: &Tls) -> Result<Arc<ServerConfig>, RegistryError> {
    let failed = |path: &Path, error: &dyn std::fmt::Display| {
        RegistryError::Refused(format!("{}: {error}", path.display()))
    };
    let certificate: &PathBuf = &files.certificate;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| failed(certificate, &error))?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| failed(&files.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(certificate, &error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| failed(certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
