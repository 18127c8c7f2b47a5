//! A registry that has what a test gives it, and goes wrong where a test wants it to.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_client::{Registry, Settings};
use kiln_http::{Client, RetryPolicy, Timeouts};
use kiln_oci::{Digest, Reference};

use crate::memory::TestImage;
use crate::server::{Answer, Received, Server};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What the registry has, by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    /// Path below `/v2/`, media type, bytes.
    documents: BTreeMap<String, (String, Vec<u8>)>,
    repositories: Vec<String>,
}

impl Contents {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a document under `tag` and its digest.
    pub(crate) fn document(
        mut self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Self {
        for name in [tag.to_owned(), Digest::of(bytes).to_string()] {
            let path = format!("{repository}/manifests/{name}");
            self.documents
                .insert(path, (media_type.to_owned(), bytes.to_vec()));
        }
        self.repositories.push(repository.to_owned());
        self
    }

    pub(crate) fn index(self, repository: &str, tag: &str, bytes: &[u8]) -> Self {
        self.document(repository, tag, OCI_INDEX, bytes)
    }

    pub(crate) fn image(mut self, repository: &str, tag: &str, image: &TestImage) -> Self {
        for blob in image.blobs() {
            self = self.blob(repository, blob);
        }
        self.document(repository, tag, OCI_MANIFEST, &image.manifest)
    }

    pub(crate) fn blob(mut self, repository: &str, blob: &[u8]) -> Self {
        let path = format!("{repository}/blobs/{}", Digest::of(blob));
        self.documents
            .insert(path, ("application/octet-stream".to_owned(), blob.to_vec()));
        self
    }

    /// Answers as a registry does.
    pub(crate) fn answer(&self, request: &Received) -> Answer {
        let path = request.target.split('?').next().unwrap();
        let Some(path) = path.strip_prefix("/v2/") else {
            return Answer::new(404);
        };
        if path.is_empty() {
            return Answer::ok("{}");
        }
        if let Some((media_type, bytes)) = self.documents.get(path) {
            return Answer::ranged(request, bytes)
                .header("content-type", media_type.clone())
                .header("docker-content-digest", Digest::of(bytes).to_string());
        }
        let code = match path.strip_suffix("/tags/list") {
            Some(name) if self.repositories.iter().any(|known| known == name) => {
                return Answer::ok("{}");
            }
            Some(_) => "NAME_UNKNOWN",
            None if path.contains("/blobs/") => "BLOB_UNKNOWN",
            None => "MANIFEST_UNKNOWN",
        };
        Answer::new(404).body(format!(
            r#"{{"errors":[{{"code":"{code}","message":"it is unknown"}}]}}"#
        ))
    }

    pub(crate) fn serve(self) -> Server {
        Server::start(move |request| self.answer(request))
    }

    /// Serves; `spoil` may answer in the registry's place.
    pub(crate) fn spoiled(
        self,
        spoil: impl Fn(&Received, &dyn Fn() -> Answer) -> Answer + Send + Sync + 'static,
    ) -> Server {
        Server::start(move |request| spoil(request, &|| self.answer(request)))
    }
}

/// Returns the reference to `name` on the server.
pub(crate) fn on(server: &Server, name: &str) -> Reference {
    format!("{}/{name}", server.address).parse().unwrap()
}

/// Settings of an impatient HTTP client.
pub(crate) fn http() -> kiln_http::Settings {
    kiln_http::Settings {
        timeouts: Timeouts {
            first_byte: Duration::from_millis(400),
            idle: Duration::from_millis(400),
            ..Timeouts::default()
        },
        retry: RetryPolicy {
            tries: 3,
            first_delay: Duration::from_millis(1),
            longest_delay: Duration::from_millis(2),
            ..RetryPolicy::default()
        },
        ..kiln_http::Settings::default()
    }
}

pub(crate) fn registry(settings: Settings) -> Registry {
    Registry::new(Client::new(http()), settings)
}

/// What was asked, without the ping: `GET a/manifests/latest`.
pub(crate) fn asked(server: &Server) -> Vec<String> {
    server
        .received()
        .iter()
        .filter(|request| request.target != "/v2/")
        .map(|request| {
            let path = request
                .target
                .strip_prefix("/v2/")
                .unwrap_or(&request.target);
            format!("{} {path}", request.method)
        })
        .collect()
}
