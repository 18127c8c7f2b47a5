//! The tags of a repository: listed, and removed.

use kiln_http::{Cancel, Request, Url};
use kiln_oci::{Digest, Reference};
use serde::Deserialize;

use crate::access::Access;
use crate::error::Error;
use crate::locations::next_page;
use crate::place::Place;
use crate::registry::Registry;
use crate::report::{coded, codes};
use crate::visit::Visit;

/// The most pages of one list that are read.
const MOST_PAGES: usize = 10_000;
/// How many entries a page is asked to have; registries may give fewer.
const PAGE: &str = "1000";

/// A page of tags; a repository without any has `null` with some registries.
#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
}

impl Registry {
    /// Lists the tags of the repository of `reference`, in the order of the registry. Blocks.
    ///
    /// Mirrors are not asked: theirs are the tags that somebody asked them for.
    ///
    /// # Errors
    /// [`Error::RepositoryNotFound`], [`Error::Unauthorised`], [`Error::Denied`], [`Error::Http`].
    pub fn tags(&self, reference: &Reference, cancel: &Cancel) -> Result<Vec<String>, Error> {
        let place = Place::upstream(reference);
        let visit = self.visit(reference, &place, &Access::List, cancel);
        let mut url = visit.url("tags/list")?.with_query([("n", PAGE)]);
        let mut tags = Vec::new();
        for _ in 0..MOST_PAGES {
            let (response, ticket) = visit.ask_at(url, Request::get)?;
            if response.status == 404 {
                return Err(Error::RepositoryNotFound {
                    reference: visit.name(),
                });
            }
            let response = visit.successful(response, ticket.as_ref())?;
            let senseless = |reason: String| {
                let url = response.url.shown();
                visit.failed(None, kiln_http::Error::Protocol { url, reason })
            };
            let page: Page = serde_json::from_slice(&response.body)
                .map_err(|error| senseless(format!("it is no list of tags: {error}")))?;
            let page = page.tags.unwrap_or_default();
            let next = next_page(&response).filter(|_| !page.is_empty());
            // A tag is shown as it is: it has to be one.
            for tag in page {
                let named = Reference::new(
                    reference.registry(),
                    reference.repository(),
                    Some(&tag),
                    None,
                );
                named
                    .map_err(|error| senseless(format!("it lists a tag that is none: {error}")))?;
                tags.push(tag);
            }
            match next {
                None => return Ok(tags),
                Some(next) => url = next,
            }
        }
        Err(endless(&visit, &url))
    }

    /// Deletes what `reference` names: its digest, with all tags, if it has one, and its tag alone
    /// otherwise. Blocks.
    ///
    /// # Errors
    /// [`Error::ManifestNotFound`]; [`Error::TagDeletion`] from a registry that only deletes by digest;
    /// [`Error::Rejected`] from one that does not delete at all; [`Error::Unauthorised`],
    /// [`Error::Denied`], [`Error::Http`].
    pub fn delete(&self, reference: &Reference, cancel: &Cancel) -> Result<(), Error> {
        let place = Place::upstream(reference);
        let visit = self.visit(reference, &place, &Access::Delete, cancel);
        let (name, what, alone) = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => (
                digest.to_string(),
                format!("the manifest `{digest}`"),
                false,
            ),
            (None, tag) => {
                let tag = tag.unwrap_or(kiln_oci::DEFAULT_TAG);
                (tag.to_owned(), format!("the tag `{tag}`"), true)
            }
        };
        let rest = format!("manifests/{name}");
        let (response, ticket) = visit.ask(&rest, Request::delete)?;
        let response = visit.allowed(response, ticket.as_ref())?;
        match response.status {
            200..=299 => Ok(()),
            404 => Err(visit.missing(&name, &response)),
            400 | 405 if alone => self.tag_deletion(&visit, &name, &response),
            _ => Err(visit.rejected(what, &response)),
        }
    }

    /// Says what can be done where tags cannot be deleted; deleting the digest by itself would take
    /// other tags with it.
    fn tag_deletion(
        &self,
        visit: &Visit<'_>,
        tag: &str,
        response: &kiln_http::Response,
    ) -> Result<(), Error> {
        let disabled = codes(&response.body)
            .iter()
            .any(|code| code == "UNSUPPORTED");
        let digest: Option<Digest> = visit.standing_digest(tag)?;
        let what = format!("the tag `{tag}`");
        match digest {
            Some(digest) if !(disabled && response.status == 405) => Err(Error::TagDeletion {
                reference: visit.name(),
                digest,
                said: coded(&response.body),
            }),
            _ => Err(visit.rejected(what, response)),
        }
    }
}

/// Ends a list that does not.
pub(crate) fn endless(visit: &Visit<'_>, url: &Url) -> Error {
    visit.failed(
        None,
        kiln_http::Error::Protocol {
            url: url.shown(),
            reason: format!("its list has more than {MOST_PAGES} pages"),
        },
    )
}
