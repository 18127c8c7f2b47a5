//! A registry in memory that is written to, and goes wrong where a test wants it to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kiln_oci::Digest;

use crate::server::{Answer, Received, Server};

/// What the registry has.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// By `repository@digest`.
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// By `repository:tag` and `repository@digest`: media type and bytes.
    pub(crate) manifests: BTreeMap<String, (String, Vec<u8>)>,
    /// Uploads, by number; `None` when they are over.
    pub(crate) uploads: Vec<Option<Vec<u8>>>,
    /// Counts the addresses given out for each: only the newest one is taken.
    given: BTreeMap<usize, usize>,
    /// Whether the referrers API is there.
    pub(crate) referrers: bool,
    /// How many tags one page has.
    pub(crate) page: Option<usize>,
    /// Whether other repositories' blobs are given away.
    pub(crate) mounts: bool,
}

/// The registry and its state.
pub(crate) struct Mutable {
    pub(crate) server: Server,
    pub(crate) state: Arc<Mutex<State>>,
}

/// A request to one repository.
struct Asked<'a> {
    request: &'a Received,
    repository: &'a str,
    rest: &'a str,
    query: BTreeMap<String, String>,
}

pub(crate) fn refusal(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(status).body(format!(
        r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#
    ))
}

/// The number of the upload that a request is about.
pub(crate) fn upload_number(request: &Received) -> usize {
    let (_, rest) = request.target.split_once("/uploads/").unwrap();
    rest.split('?').next().unwrap().parse().unwrap()
}

impl Mutable {
    pub(crate) fn start() -> Self {
        Self::spoiled(|_, _| None)
    }

    /// Starts one; `spoil` may answer in its place.
    pub(crate) fn spoiled(
        spoil: impl Fn(&Received, &mut State) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let state = Arc::new(Mutex::new(State {
            mounts: true,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let server = Server::start(move |request| {
            let mut state = shared.lock().unwrap();
            match spoil(request, &mut state) {
                Some(answer) => answer,
                None => state.answer(request),
            }
        });
        Self { server, state }
    }

    pub(crate) fn blob(&self, repository: &str, bytes: &[u8]) {
        let name = format!("{repository}@{}", Digest::of(bytes));
        let mut state = self.state.lock().unwrap();
        state.blobs.insert(name, bytes.to_vec());
    }

    pub(crate) fn has_blob(&self, repository: &str, bytes: &[u8]) -> bool {
        let name = format!("{repository}@{}", Digest::of(bytes));
        let state = self.state.lock().unwrap();
        state.blobs.get(&name).is_some_and(|have| have == bytes)
    }

    pub(crate) fn manifest(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        state.manifests.get(name).map(|(_, bytes)| bytes.clone())
    }
}

impl State {
    pub(crate) fn answer(&mut self, request: &Received) -> Answer {
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let path = path.strip_prefix("/v2/").unwrap_or_default();
        let query = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.replace("%2F", "/")))
            .collect();
        if path.is_empty() {
            return Answer::ok("{}");
        }
        let kinds = [
            "/blobs/uploads/",
            "/blobs/",
            "/manifests/",
            "/tags/",
            "/referrers/",
        ];
        for kind in kinds {
            if let Some((repository, rest)) = path.split_once(kind) {
                let asked = Asked {
                    request,
                    repository,
                    rest,
                    query,
                };
                return match kind {
                    "/blobs/uploads/" => self.upload(&asked),
                    "/blobs/" => self.blob(&asked),
                    "/manifests/" => self.manifest(&asked),
                    "/tags/" => self.tags(&asked),
                    _ => self.referrers(&asked),
                };
            }
        }
        Answer::new(404)
    }

    /// The address of an upload and how much of it is there.
    pub(crate) fn standing(&mut self, status: u16, repository: &str, number: usize) -> Answer {
        let given = self.given.entry(number).or_default();
        *given += 1;
        let held = self.uploads[number].as_ref().map_or(0, Vec::len);
        Answer::new(status)
            .header(
                "location",
                format!("/v2/{repository}/blobs/uploads/{number}?state={given}"),
            )
            .header("range", format!("0-{}", held.saturating_sub(1)))
    }

    fn upload(&mut self, asked: &Asked<'_>) -> Answer {
        let method = asked.request.method.as_str();
        if method == "POST" {
            if let (Some(digest), Some(from), true) = (
                asked.query.get("mount"),
                asked.query.get("from"),
                self.mounts,
            ) && let Some(bytes) = self.blobs.get(&format!("{from}@{digest}")).cloned()
            {
                let name = format!("{}@{digest}", asked.repository);
                self.blobs.insert(name, bytes);
                return Answer::new(201);
            }
            self.uploads.push(Some(Vec::new()));
            return self.standing(202, asked.repository, self.uploads.len() - 1);
        }
        let number = upload_number(asked.request);
        let newest = asked.query.get("state") == Some(&self.given[&number].to_string());
        let Some(Some(held)) = self.uploads.get_mut(number) else {
            return refusal(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
        };
        match method {
            "GET" => self.standing(204, asked.repository, number),
            _ if !newest => refusal(400, "BLOB_UPLOAD_INVALID", "an old address"),
            "PATCH" => {
                let range = asked.request.header("content-range").unwrap();
                let start: usize = range.split('-').next().unwrap().parse().unwrap();
                if start != held.len() {
                    return self.standing(416, asked.repository, number);
                }
                held.extend_from_slice(&asked.request.body);
                self.standing(202, asked.repository, number)
            }
            "PUT" => {
                held.extend_from_slice(&asked.request.body);
                let (digest, actual) = (asked.query["digest"].clone(), Digest::of(held));
                let bytes = self.uploads[number].take().unwrap();
                if actual.to_string() != digest {
                    return refusal(400, "DIGEST_INVALID", "not the bytes of that digest");
                }
                let name = format!("{}@{digest}", asked.repository);
                self.blobs.insert(name, bytes);
                Answer::new(201).header("docker-content-digest", digest)
            }
            _ => Answer::new(405),
        }
    }

    fn blob(&mut self, asked: &Asked<'_>) -> Answer {
        let name = format!("{}@{}", asked.repository, asked.rest);
        match self.blobs.get(&name) {
            Some(bytes) => Answer::ranged(asked.request, bytes),
            None => refusal(404, "BLOB_UNKNOWN", "no such blob"),
        }
    }

    fn manifest(&mut self, asked: &Asked<'_>) -> Answer {
        let separator = if asked.rest.contains(':') { '@' } else { ':' };
        let name = format!("{}{separator}{}", asked.repository, asked.rest);
        match asked.request.method.as_str() {
            "PUT" => {
                let body = asked.request.body.clone();
                let media_type = asked.request.header("content-type").unwrap().to_owned();
                let digest = Digest::of(&body).to_string();
                let missing = self.missing(asked.repository, &body);
                if let Some(missing) = missing {
                    return refusal(400, "MANIFEST_BLOB_UNKNOWN", &missing);
                }
                let mut answer = Answer::new(201).header("docker-content-digest", digest.clone());
                let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
                if let Some(subject) = document["subject"]["digest"].as_str()
                    && self.referrers
                {
                    answer = answer.header("oci-subject", subject);
                }
                let pinned = format!("{}@{digest}", asked.repository);
                for name in [name, pinned] {
                    let value = (media_type.clone(), body.clone());
                    self.manifests.insert(name, value);
                }
                answer
            }
            "DELETE" => match self.manifests.remove(&name) {
                Some(_) => Answer::new(202),
                None => refusal(404, "MANIFEST_UNKNOWN", "no such manifest"),
            },
            _ => match self.manifests.get(&name) {
                Some((media_type, bytes)) => Answer::ok(bytes.clone())
                    .header("content-type", media_type.clone())
                    .header("docker-content-digest", Digest::of(bytes).to_string()),
                None => refusal(404, "MANIFEST_UNKNOWN", "no such manifest"),
            },
        }
    }

    /// Names something that a document needs and that is not there.
    fn missing(&self, repository: &str, document: &[u8]) -> Option<String> {
        let document: serde_json::Value = serde_json::from_slice(document).unwrap();
        let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let name = |entry: &serde_json::Value| {
            format!("{repository}@{}", entry["digest"].as_str().unwrap())
        };
        let foreign = |entry: &serde_json::Value| {
            let media_type = entry["mediaType"].as_str().unwrap();
            media_type.contains("nondistributable")
        };
        let blobs = list("layers")
            .into_iter()
            .filter(|entry| !foreign(entry))
            .chain(document.get("config").cloned());
        let blob = blobs
            .map(|entry| name(&entry))
            .find(|name| !self.blobs.contains_key(name));
        let manifest = list("manifests")
            .iter()
            .map(name)
            .find(|name| !self.manifests.contains_key(name));
        blob.or(manifest)
    }

    fn tags(&mut self, asked: &Asked<'_>) -> Answer {
        let prefix = format!("{}:", asked.repository);
        let last = asked.query.get("last").cloned().unwrap_or_default();
        let tags: Vec<_> = self
            .manifests
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix))
            .filter(|tag| *tag > last.as_str())
            .collect();
        if tags.is_empty() && last.is_empty() {
            return refusal(404, "NAME_UNKNOWN", "no such repository");
        }
        let count = self.page.unwrap_or(usize::MAX).min(tags.len());
        let page = serde_json::json!({"name": asked.repository, "tags": tags[..count]});
        let answer = Answer::ok(page.to_string());
        if count == tags.len() {
            return answer;
        }
        let next = format!(
            r#"</v2/{}/tags/list?last={}&n={count}>; rel="next""#,
            asked.repository,
            tags[count - 1]
        );
        answer.header("link", next)
    }

    fn referrers(&mut self, asked: &Asked<'_>) -> Answer {
        if !self.referrers {
            return Answer::new(404).body("404 page not found");
        }
        let mut entries = Vec::new();
        for (name, (media_type, bytes)) in &self.manifests {
            let document: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            if name.contains('@') && document["subject"]["digest"] == asked.rest {
                entries.push(serde_json::json!({
                    "mediaType": media_type,
                    "digest": Digest::of(bytes).to_string(),
                    "size": bytes.len(),
                    "artifactType": document["artifactType"],
                }));
            }
        }
        // The filter is the client's to apply: this registry knows none.
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        });
        Answer::ok(index.to_string())
            .header("content-type", "application/vnd.oci.image.index.v1+json")
    }
}
