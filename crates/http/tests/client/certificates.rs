//! A certificate authority for one test, and servers that use it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::server::{Answer, Duplex, Received, Server};

/// An authority; its files are in `folder`.
pub(crate) struct Authority {
    pub(crate) folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM files.
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self {
            folder: tempfile::tempdir().unwrap(),
            issuer,
        };
        std::fs::write(authority.path(), authority.issuer.pem()).unwrap();
        authority
    }

    /// Where the authority's own certificate is.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// The authority's own certificate and its key.
    pub(crate) fn own(&self) -> Pair {
        let key = self.folder.path().join("authority.key");
        std::fs::write(&key, self.issuer.key().serialize_pem()).unwrap();
        Pair {
            certificate: self.path(),
            key,
        }
    }

    /// Issues a certificate for `name`, valid until the end of `year`.
    pub(crate) fn issue(&self, name: &str, year: i32) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |kind: &str| self.folder.path().join(format!("{name}-{year}.{kind}"));
        std::fs::write(file("pem"), certificate.pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        Pair {
            certificate: file("pem"),
            key: file("key"),
        }
    }

    /// Starts a server that shows `pair`, and wants a certificate of this authority if `mutual`.
    pub(crate) fn serve(
        &self,
        pair: &Pair,
        mutual: bool,
        handler: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Server {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(&self.path()));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        let config = builder
            .with_single_cert(certificates(&pair.certificate), key)
            .unwrap();
        let config = Arc::new(config);
        Server::start_wrapped(
            move |mut stream| {
                let mut connection =
                    ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
                connection.complete_io(&mut stream)?;
                Ok(Box::new(StreamOwned::new(connection, stream)) as Box<dyn Duplex>)
            },
            handler,
        )
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}
