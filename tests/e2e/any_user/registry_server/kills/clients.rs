//! What clients do, one request after the other, and what they know of it. What they were not told may be so or not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde_json::json;

use crate::fixtures::http::{self, Reply};
use crate::fixtures::own_registry::{MANIFEST, OwnRegistry, image, sha256};

/// A layer that is pushed.
#[derive(Clone, Copy)]
pub(super) struct Layer {
    pub(super) length: usize,
    /// Where its pieces end, but the last.
    pub(super) pieces: [usize; 2],
}

/// The bytes that clients send in one round: no other round has them.
pub(super) struct Work {
    round: usize,
    layer: Vec<u8>,
    pieces: [usize; 2],
    config: Vec<u8>,
    /// A blob that nothing will refer to.
    lone: Vec<u8>,
    /// An image, and another one of the same parts.
    image: Vec<u8>,
    second: Vec<u8>,
}

/// An upload that is under way.
struct Upload {
    place: String,
    /// So many bytes were acknowledged.
    least: usize,
    /// Whether a request to end it was sent.
    ends: bool,
}

/// What clients know.
#[derive(Default)]
pub(super) struct Known {
    pub(super) host: String,
    /// By path.
    blobs: BTreeMap<String, Vec<u8>>,
    /// Blobs that nothing refers to, and that may be collected once that was asked for.
    loose: BTreeMap<String, Vec<u8>>,
    /// By path.
    manifests: BTreeMap<String, Vec<u8>>,
    /// What each tag may stand for; `None` is nothing.
    tags: BTreeMap<String, BTreeSet<Option<String>>>,
    /// Paths at which nothing is any more.
    gone: BTreeSet<String>,
    upload: Option<Upload>,
    /// The place of the upload that is to be given up.
    given_up: Option<String>,
}

/// A request, or what has to be done first if it was made before and nobody answered.
pub(super) type Step = fn(&mut Known, &Work) -> io::Result<()>;

/// Everything that clients do, in this order. Each may be done once more after nobody answered.
pub(super) const STEPS: [(&str, Step); 17] = [
    ("begin an upload", Known::begin),
    ("send the first piece", |known, work| {
        known.send(work, work.pieces[0])
    }),
    ("send the second piece", |known, work| {
        known.send(work, work.pieces[1])
    }),
    ("end the upload", Known::end),
    ("push a blob", |known, work| {
        known.push("main", &work.config)
    }),
    ("mount a blob", Known::mount),
    ("put a manifest", |known, work| {
        known.put(work, &format!("r{}", work.round))
    }),
    ("move a tag", |known, work| known.put(work, "moves")),
    ("put a tag that goes", |known, work| known.put(work, "goes")),
    ("delete a tag", Known::untag),
    ("put a manifest that goes", Known::put_second),
    ("delete a manifest", Known::delete_second),
    ("push a blob that goes", |known, work| {
        known.push("main", &work.lone)
    }),
    ("delete a blob", Known::delete_blob),
    ("begin an upload that goes", Known::begin_another),
    ("send what goes", Known::send_another),
    ("cancel an upload", Known::cancel),
];

impl Work {
    pub(super) fn new(round: usize, layer: Layer) -> Self {
        let bytes = format!("{round:06}").repeat(layer.length / 6).into_bytes();
        let config = format!("{{\"round\":{round}}}").into_bytes();
        let further = json!({ "annotations": { "n": round.to_string() } });
        Self {
            round,
            pieces: layer.pieces,
            lone: format!("of nothing {round}").into_bytes(),
            image: image(&config, &[&bytes], &json!({})),
            second: image(&config, &[&bytes], &further),
            layer: bytes,
            config,
        }
    }
}

fn blob(repo: &str, bytes: &[u8]) -> String {
    format!("/v2/{repo}/blobs/{}", sha256(bytes))
}

impl Known {
    /// Sends a request; what is answered must be one of these.
    fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        may_be: &[u16],
    ) -> io::Result<Reply> {
        let reply = http::try_request(&self.host, method, path, headers, body)?;
        assert!(
            may_be.contains(&reply.status),
            "{method} {path}: {}",
            reply.shown()
        );
        Ok(reply)
    }

    fn new_upload(&self) -> io::Result<String> {
        let begun = self.ask("POST", "/v2/main/blobs/uploads/", &[], b"", &[202])?;
        Ok(begun.header("location").expect("a location").to_owned())
    }

    fn begin(&mut self, _: &Work) -> io::Result<()> {
        self.upload = Some(Upload {
            place: self.new_upload()?,
            least: 0,
            ends: false,
        });
        Ok(())
    }

    /// Sends bytes of the layer up to `end`, from where the upload is.
    fn send(&mut self, work: &Work, end: usize) -> io::Result<()> {
        let upload = self.upload.as_ref().expect("it was begun");
        let asked = self.ask("GET", &upload.place, &[], b"", &[204])?;
        let at = upload.checked(&asked, work);
        if at < end {
            let range = format!("{at}-{}", end - 1);
            let headers = [("Content-Range", range.as_str())];
            self.ask(
                "PATCH",
                &upload.place,
                &headers,
                &work.layer[at..end],
                &[202],
            )?;
        }
        let upload = self.upload.as_mut().expect("it was begun");
        upload.least = end;
        Ok(())
    }

    fn end(&mut self, work: &Work) -> io::Result<()> {
        let upload = self.upload.as_mut().expect("it was begun");
        let was_asked = std::mem::replace(&mut upload.ends, true);
        let (place, least) = (upload.place.clone(), upload.least);
        let at = if was_asked {
            let asked = self.ask("GET", &place, &[], b"", &[204, 404])?;
            if asked.status == 404 {
                // Perhaps it is a blob, of which nobody was told.
                return self.push("main", &work.layer);
            }
            self.upload
                .as_ref()
                .expect("it was begun")
                .checked(&asked, work)
        } else {
            least
        };
        let path = format!("{place}?digest={}", sha256(&work.layer));
        self.ask("PUT", &path, &[], &work.layer[at..], &[201])?;
        self.upload = None;
        self.loose
            .insert(blob("main", &work.layer), work.layer.clone());
        Ok(())
    }

    fn push(&mut self, repo: &str, bytes: &[u8]) -> io::Result<()> {
        let path = format!("/v2/{repo}/blobs/uploads/?digest={}", sha256(bytes));
        self.ask("POST", &path, &[], bytes, &[201])?;
        self.loose.insert(blob(repo, bytes), bytes.to_vec());
        Ok(())
    }

    fn mount(&mut self, work: &Work) -> io::Result<()> {
        let digest = sha256(&work.layer);
        let path = format!("/v2/other/blobs/uploads/?mount={digest}&from=main");
        self.ask("POST", &path, &[], b"", &[201])?;
        self.loose
            .insert(blob("other", &work.layer), work.layer.clone());
        Ok(())
    }

    /// Puts the image under a tag.
    fn put(&mut self, work: &Work, tag: &str) -> io::Result<()> {
        let digest = sha256(&work.image);
        let path = format!("/v2/main/manifests/{tag}");
        let stands_for = self.tags.entry(path.clone());
        let stands_for = stands_for.or_insert_with(|| [None].into());
        stands_for.insert(Some(digest.clone()));
        let headers = [("Content-Type", MANIFEST)];
        self.ask("PUT", &path, &headers, &work.image, &[201])?;
        self.tags.insert(path, [Some(digest.clone())].into());
        let path = format!("/v2/main/manifests/{digest}");
        self.manifests.insert(path, work.image.clone());
        for part in [&work.config, &work.layer] {
            self.blobs.insert(blob("main", part), part.clone());
        }
        Ok(())
    }

    fn untag(&mut self, _: &Work) -> io::Result<()> {
        let path = "/v2/main/manifests/goes";
        self.tags.entry(path.to_owned()).or_default().insert(None);
        self.ask("DELETE", path, &[], b"", &[202, 404])?;
        self.tags.insert(path.to_owned(), [None].into());
        Ok(())
    }

    fn put_second(&mut self, work: &Work) -> io::Result<()> {
        let path = format!("/v2/main/manifests/{}", sha256(&work.second));
        let headers = [("Content-Type", MANIFEST)];
        self.ask("PUT", &path, &headers, &work.second, &[201])
            .map(drop)
    }

    fn delete_second(&mut self, work: &Work) -> io::Result<()> {
        let path = format!("/v2/main/manifests/{}", sha256(&work.second));
        self.ask("DELETE", &path, &[], b"", &[202, 404])?;
        self.gone.insert(path);
        Ok(())
    }

    fn delete_blob(&mut self, work: &Work) -> io::Result<()> {
        let path = blob("main", &work.lone);
        self.loose.remove(&path);
        self.ask("DELETE", &path, &[], b"", &[202, 404])?;
        self.gone.insert(path);
        Ok(())
    }

    fn begin_another(&mut self, _: &Work) -> io::Result<()> {
        self.given_up = Some(self.new_upload()?);
        Ok(())
    }

    fn send_another(&mut self, _: &Work) -> io::Result<()> {
        let place = self.given_up.as_ref().expect("it was begun");
        self.ask("PATCH", place, &[], b"given up", &[202]).map(drop)
    }

    fn cancel(&mut self, _: &Work) -> io::Result<()> {
        let place = self.given_up.clone().expect("it was begun");
        self.ask("DELETE", &place, &[], b"", &[204, 404])?;
        self.gone.insert(place);
        Ok(())
    }

    /// Garbage may go from now on.
    pub(super) fn lets_go(&mut self) {
        self.loose.clear();
    }

    /// Forgets what a round knew but its images, which are returned by their paths.
    pub(super) fn end_round(&mut self) -> BTreeMap<String, Vec<u8>> {
        self.gone.clear();
        self.upload = None;
        let mut kept = std::mem::take(&mut self.blobs);
        kept.extend(std::mem::take(&mut self.manifests));
        kept
    }

    /// Reads everything that must be there.
    pub(super) fn verify_bytes(&self, registry: &OwnRegistry, at: &str) {
        for (path, bytes) in self.blobs.iter().chain(&self.loose).chain(&self.manifests) {
            let reply = registry.get(path);
            let is_same = reply.status == 200 && reply.body == *bytes;
            assert!(is_same, "{at}: {path}: {}", reply.shown());
        }
    }

    /// Compares what the registry says with what clients know.
    pub(super) fn verify(&mut self, registry: &OwnRegistry, work: &Work, at: &str) {
        for (path, bytes) in self.blobs.iter().chain(&self.loose).chain(&self.manifests) {
            let reply = registry.head(path).expect(200);
            let length = reply.header("content-length").expect("a length");
            assert_eq!(length, bytes.len().to_string(), "{at}: {path}");
        }
        for path in &self.gone {
            assert_eq!(registry.get(path).status, 404, "{at}: {path}");
        }
        for (path, may_be) in &mut self.tags {
            let reply = registry.get(path);
            let found = match reply.status {
                404 => None,
                _ => reply.header("docker-content-digest").map(str::to_owned),
            };
            let is_known = may_be.contains(&found);
            assert!(is_known, "{at}: {path} is {found:?}, not of {may_be:?}");
            *may_be = [found].into();
        }
        if let Some(upload) = &self.upload {
            let reply = registry.get(&upload.place);
            if reply.status == 404 {
                assert!(upload.ends, "{at}: the upload is lost");
            } else {
                upload.checked(&reply.expect(204), work);
            }
        }
    }
}

impl Upload {
    /// How far it is, as an answer says: no less than was acknowledged.
    fn checked(&self, reply: &Reply, work: &Work) -> usize {
        let range = reply.header("range").expect("a range");
        let last: usize = range.trim_start_matches("0-").parse().expect("a number");
        let at = if last == 0 { 0 } else { last + 1 };
        let may_be = self.least..=work.layer.len();
        assert!(may_be.contains(&at), "{at} of {} bytes", self.least);
        at
    }
}
