//! Lists: tags, repositories, referrers.

use http::StatusCode;
use http::header::{CONTENT_TYPE, LINK};
use serde_json::json;

use super::error::ApiError;
use super::query::escape;
use super::{Answer, Asked, finish, json, plain};
use crate::access::Action;
use crate::digest::Digest;
use crate::document::{Referrer, fallback_entries};
use crate::name::{RepoName, Tag};

/// The most items in one answer.
const MOST_ITEMS: usize = 10_000;
/// The most referrers in one answer.
const MOST_REFERRERS: usize = 1000;
/// The most bytes of referrers in one answer: clients read 4 MiB.
const MOST_BYTES: usize = 3 << 20;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Says that this is a registry, to whoever may know.
pub(super) fn base(asked: &Asked) -> Answer {
    asked.only_reads()?;
    let access = &asked.registry.access;
    let showed_something = asked.headers.contains_key(http::header::AUTHORIZATION);
    if access.needs_login && !asked.caller.is_known() && !showed_something {
        return Err(asked.challenge(None));
    }
    json(&json!({}))
}

/// How many items a client wants.
fn count(asked: &Asked) -> Result<Option<usize>, ApiError> {
    let Some(text) = asked.query.get("n") else {
        return Ok(None);
    };
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        let message = format!(
            "`n` is `{}`, which is no number",
            text.chars().take(40).collect::<String>()
        );
        let code = "PAGINATION_NUMBER_INVALID";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, code, message));
    }
    Ok(Some(text.parse().unwrap_or(usize::MAX).min(MOST_ITEMS)))
}

/// After which item a page begins.
fn last(asked: &Asked) -> &str {
    let last = asked.query.get("last").unwrap_or_default();
    // Databases take no zero bytes. No item has one, so what is after the rest is the same.
    last.split('\0').next().unwrap_or_default()
}

/// The tags of a repository.
pub(super) async fn tags(asked: &Asked, repo: &RepoName) -> Answer {
    asked.only_reads()?;
    asked.allow(Action::Pull, repo)?;
    let most = count(asked)?.unwrap_or(MOST_ITEMS);
    let found = asked
        .registry
        .index
        .tags(repo, last(asked), most + 1)
        .await?;
    let mut tags = found.ok_or_else(|| ApiError::name_unknown(repo))?;
    let has_more = tags.len() > most;
    tags.truncate(most);
    let mut response = json(&json!({ "name": repo.as_str(), "tags": tags }))?;
    if let (true, Some(last)) = (has_more, tags.last()) {
        let link = format!(
            "</v2/{repo}/tags/list?n={most}&last={}>; rel=\"next\"",
            escape(last)
        );
        response.headers_mut().insert(LINK, header(&link)?);
    }
    Ok(response)
}

/// The repositories that the caller may read.
pub(super) async fn catalog(asked: &Asked) -> Answer {
    asked.only_reads()?;
    if asked.registry.access.needs_login && !asked.caller.is_known() {
        return Err(asked.challenge(Some("registry:catalog:*".to_owned())));
    }
    let most = count(asked)?.unwrap_or(MOST_ITEMS);
    let mut last = last(asked).to_owned();
    let mut names: Vec<String> = Vec::new();
    while names.len() <= most {
        let page = asked.registry.index.repositories(&last, MOST_ITEMS).await?;
        let Some(end) = page.last() else {
            break;
        };
        last.clone_from(end);
        // A bearer token for the catalog names no repository; what the account may read counts.
        names.extend(
            page.into_iter()
                .filter(|name| asked.caller.could(Action::Pull, name)),
        );
    }
    let has_more = names.len() > most;
    names.truncate(most);
    let mut response = json(&json!({ "repositories": names }))?;
    if let (true, Some(last)) = (has_more, names.last()) {
        let link = format!(
            "</v2/_catalog?n={most}&last={}>; rel=\"next\"",
            escape(last)
        );
        response.headers_mut().insert(LINK, header(&link)?);
    }
    Ok(response)
}

fn header(text: &str) -> Result<http::HeaderValue, ApiError> {
    http::HeaderValue::from_str(text).map_err(|error| ApiError::internal(&error))
}

/// What refers to a manifest, which need not be there.
pub(super) async fn referrers(asked: &Asked, repo: &RepoName, subject: &Digest) -> Answer {
    asked.only_reads()?;
    asked.allow(Action::Pull, repo)?;
    let filter = asked
        .query
        .get("artifactType")
        .filter(|text| !text.is_empty());
    let is_wanted = |entry: &Referrer| {
        filter.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted))
    };
    let mut last = last(asked).to_owned();
    let (mut entries, mut bytes, mut has_more) = (Vec::new(), 0, false);
    'pages: loop {
        let page = asked
            .registry
            .index
            .referrers(repo, subject, &last, MOST_REFERRERS)
            .await?;
        let is_last = page.len() < MOST_REFERRERS;
        for entry in page {
            let size = serde_json::to_vec(&entry).map_or(0, |text| text.len());
            if !entries.is_empty() && (entries.len() >= MOST_REFERRERS || bytes + size > MOST_BYTES)
            {
                has_more = true;
                break 'pages;
            }
            last.clone_from(&entry.digest);
            if is_wanted(&entry) {
                bytes += size;
                entries.push(entry);
            }
        }
        if is_last {
            break;
        }
    }
    if !has_more {
        add_fallback(asked, repo, subject, &mut entries, is_wanted).await?;
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    let mut head = plain(StatusCode::OK).header(CONTENT_TYPE, INDEX);
    if filter.is_some() {
        head = head.header("oci-filters-applied", "artifactType");
    }
    if has_more {
        let kind = filter
            .map(|kind| format!("&artifactType={}", escape(kind)))
            .unwrap_or_default();
        let link = format!("</v2/{repo}/referrers/{subject}?last={last}{kind}>; rel=\"next\"");
        head = head.header(LINK, link);
    }
    finish(head, index.to_string().into())
}

/// Adds what clients keep under the tag for registries that have no list of referrers.
async fn add_fallback(
    asked: &Asked,
    repo: &RepoName,
    subject: &Digest,
    entries: &mut Vec<Referrer>,
    is_wanted: impl Fn(&Referrer) -> bool,
) -> Result<(), ApiError> {
    let hex: String = subject.hex().chars().take(64).collect();
    let Ok(tag) = format!("{}-{hex}", subject.algorithm().name()).parse::<Tag>() else {
        return Ok(());
    };
    let Some(row) = asked.registry.index.by_tag(repo, &tag).await? else {
        return Ok(());
    };
    for entry in fallback_entries(&row.body) {
        let is_new = entries.iter().all(|other| other.digest != entry.digest);
        let is_there = match entry.digest.parse() {
            Ok(digest) => {
                let found = asked.registry.index.by_digest(repo, &digest).await?;
                found.is_some()
            }
            Err(_not_a_digest) => false,
        };
        if is_new && is_there && is_wanted(&entry) && entries.len() < 2 * MOST_REFERRERS {
            entries.push(entry);
        }
    }
    Ok(())
}
