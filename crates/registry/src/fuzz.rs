//! What is fuzzed: whatever reads what clients send, each with what must hold.
//!
//! Each function takes any bytes and panics if something does not hold. They are the targets in `fuzz/`, and run as
//! property tests here, so that they mean something without a fuzzer too.

mod requests;

use crate::access::Grants;
use crate::access::login::parse_basic;
use crate::api::query::{Query, escape};
use crate::api::range::{Wanted, sent, wanted};
use crate::api::route::{Reference, Route};
use crate::digest::Digest;
use crate::document::{Document, fallback_entries};
use crate::name::{Pattern, RepoName, Tag};

pub use requests::Requests;

/// Paths of URLs: whatever is understood is one resource, with one spelling.
pub fn path(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for path in [text.to_string(), format!("/v2/{text}")] {
        let Ok(route) = Route::parse(&path) else {
            continue;
        };
        if let Some(repo) = route.repo() {
            let parts: Vec<&str> = repo.as_str().split('/').collect();
            assert!(
                parts
                    .iter()
                    .all(|part| !part.is_empty() && !part.starts_with('.'))
            );
            assert!(repo.as_str().len() <= 255);
        }
        if let Route::Upload(_, id) = &route {
            assert!(!id.contains('/'));
        }
        // What no manifest can be called is only kept as far as it is shown.
        if !matches!(&route, Route::Manifest(_, Reference::Impossible(_))) {
            assert_eq!(Route::parse(&spelled(&route)).ok(), Some(route), "{path}");
        }
    }
}

fn spelled(route: &Route) -> String {
    match route {
        Route::Base => "/v2/".to_owned(),
        Route::Catalog => "/v2/_catalog".to_owned(),
        Route::Blob(repo, digest) => format!("/v2/{repo}/blobs/{digest}"),
        Route::Uploads(repo) => format!("/v2/{repo}/blobs/uploads/"),
        Route::Upload(repo, id) => format!("/v2/{repo}/blobs/uploads/{id}"),
        Route::Manifest(repo, Reference::Tag(tag)) => format!("/v2/{repo}/manifests/{tag}"),
        Route::Manifest(repo, Reference::Digest(digest)) => {
            format!("/v2/{repo}/manifests/{digest}")
        }
        Route::Manifest(repo, Reference::Impossible(text)) => {
            format!("/v2/{repo}/manifests/{text}")
        }
        Route::Tags(repo) => format!("/v2/{repo}/tags/list"),
        Route::Referrers(repo, digest) => format!("/v2/{repo}/referrers/{digest}"),
        Route::Token => "/token".to_owned(),
        Route::Health => "/healthz".to_owned(),
        Route::Ready => "/readyz".to_owned(),
        Route::Metrics => "/metrics".to_owned(),
    }
}

/// Names, tags, digests and patterns: what is understood is what was written, and can be a part of a path.
pub fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let is_safe =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains("..");
    if let Ok(name) = text.parse::<RepoName>() {
        assert!(
            name.as_str() == text
                && is_safe(&text)
                && !text.starts_with('/')
                && !text.ends_with('/')
        );
        // A name is a pattern that matches itself and nothing else.
        let pattern: Pattern = text.parse().expect("a name is a pattern");
        assert!(pattern.matches(&text) && !pattern.matches(&format!("{text}/x")));
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert!(tag.as_str() == text && !text.contains('/') && !text.starts_with('.'));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert!(digest.as_str() == text && is_safe(&text) && !digest.hex().contains('/'));
        assert!(text.parse::<Tag>().is_err(), "a digest is no tag");
    }
    if let Ok(pattern) = text.parse::<Pattern>() {
        assert_eq!(pattern.to_string(), text);
    }
}

/// Queries and forms: what is escaped comes back as it was.
pub fn query(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let query = Query::parse(&text);
    for name in [
        "",
        "n",
        "last",
        "digest",
        "mount",
        "from",
        "tag",
        "artifactType",
        "scope",
    ] {
        assert_eq!(query.get(name), query.all(name).next());
    }
    let escaped = escape(&text);
    assert!(
        escaped
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"<>&=+\"".contains(&byte))
    );
    assert_eq!(
        Query::parse(&format!("k={escaped}&k=x")).get("k"),
        Some(&*text)
    );
}

/// Values of headers: ranges, passwords, scopes.
pub fn headers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for size in [0, 1, 7, 1000, u64::MAX] {
        for header in [text.to_string(), format!("bytes={text}")] {
            if let Wanted::Part { first, length } = wanted(&header, size) {
                let end = first.checked_add(length).expect("an end");
                assert!(length > 0 && end <= size, "{header} of {size}");
            }
        }
    }
    if let Some((first, last)) = sent(&text) {
        assert!(first <= last && last < u64::MAX);
        assert_eq!(sent(&format!("{first}-{last}")), Some((first, last)));
    }
    if let Some((user, _)) = parse_basic(&text) {
        assert!(!user.contains(':'));
    }
    let scopes = Grants::parse_scopes([&*text, &format!("repository:{text}")].into_iter());
    let granted = Grants::exactly(scopes.clone());
    for action in crate::access::grants::ALL {
        let is_named = |name: &str| {
            scopes
                .iter()
                .any(|(wanted, actions)| wanted == name && actions.contains(&action))
        };
        for name in ["a", "a/b", "private", "team/app"] {
            assert!(
                !granted.allow(action, name) || is_named(name),
                "{text} allows {name}"
            );
        }
    }
    if let Ok(grants) = Grants::parse(&text) {
        assert_eq!(Grants::parse(&grants.to_string()), Ok(grants));
    }
}

/// Manifests: the first byte says which type the request says.
pub fn manifest(bytes: &[u8]) {
    let [kind, body @ ..] = bytes else { return };
    let kinds = [
        None,
        Some("application/vnd.oci.image.manifest.v1+json"),
        Some("application/vnd.oci.image.index.v1+json; charset=utf-8"),
        Some("application/vnd.docker.distribution.manifest.v2+json"),
        Some("application/json"),
        Some("application/vnd.example+json"),
    ];
    for entry in fallback_entries(body) {
        assert!(!entry.digest.is_empty());
    }
    let Ok(document) = Document::parse(body, kinds[usize::from(*kind) % kinds.len()]) else {
        return;
    };
    assert!(document.children.len() <= 4096);
    let media_type = document.media_type.as_str();
    assert!(media_type.contains('/') && media_type.len() <= 255);
    assert!(http::HeaderValue::from_str(media_type).is_ok());
    // It is served as this, and was read as this.
    let again = Document::parse(body, Some(media_type)).expect("it was read before");
    assert_eq!(
        (again.children, again.subject),
        (document.children, document.subject)
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_found_before_holds() {
        path(format!("a/manifests/{}", "t".repeat(129)).as_bytes());
        names(b"*");
    }

    proptest! {
        #[test]
        fn paths(bytes: Vec<u8>, name in "[a-z0-9._/-]{0,30}", rest in "/(blobs|manifests|tags|referrers|uploads|list|[a-z:%3A.]{0,9}){1,3}(/[a-zA-Z0-9:%._-]{0,80})?") {
            path(&bytes);
            path(format!("{name}{rest}").as_bytes());
        }

        #[test]
        fn names_of_all_kinds(bytes: Vec<u8>, text in "[a-z0-9._/*-]{0,40}", hex in "(sha256|sha512|md5):[0-9a-f]{62,66}") {
            names(&bytes);
            names(text.as_bytes());
            names(hex.as_bytes());
        }

        #[test]
        fn queries(bytes: Vec<u8>, text in "[a-z=&%+0-9A-F]{0,60}") {
            query(&bytes);
            query(text.as_bytes());
        }

        #[test]
        fn values_of_headers(
            bytes: Vec<u8>, range in "(bytes[ =])?[-0-9, /*]{0,40}", scope in "(repository:)?[a-z*/]{0,9}:[a-z,*]{0,20}",
        ) {
            for text in [&bytes[..], range.as_bytes(), scope.as_bytes()] {
                headers(text);
            }
        }

        #[test]
        fn manifests(bytes: Vec<u8>, text in "[\\[\\]{}\",:a-z0-9\\\\]{0,200}") {
            manifest(&bytes);
            manifest(text.as_bytes());
        }

        #[test]
        fn manifests_that_are_nearly_right(
            kind: u8,
            fields in proptest::collection::vec(
                prop::sample::select(vec![
                    r#""schemaVersion":2"#, r#""schemaVersion":1"#, r#""mediaType":"application/vnd.oci.image.index.v1+json""#,
                    r#""mediaType":"application/vnd.oci.image.manifest.v1+json""#, r#""mediaType":"""#, r#""manifests":[]"#,
                    r#""layers":[]"#, r#""layers":null"#, r#""artifactType":"a/\u0000""#, r#""annotations":{"a":"\ud800"}"#,
                    r#""config":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#,
                    r#""subject":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":9e9}"#,
                    r#""manifests":[{"mediaType":"x/y","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}]"#,
                ]), 0..6),
        ) {
            let mut body = vec![kind];
            body.extend_from_slice(format!("{{{}}}", fields.join(",")).as_bytes());
            manifest(&body);
        }
    }
    /// Requests that are nearly right.
    fn request() -> impl Strategy<Value = Vec<u8>> {
        let place = prop::sample::select(vec![
            "/v2/",
            "/v2/_catalog",
            "/token",
            "/metrics",
            "/readyz",
            "/v2/a/tags/list",
            "/v2/a/manifests/v1",
            "/v2/a/manifests/@m",
            "/v2/a/manifests/@d",
            "/v2/a/blobs/@b",
            "/v2/a/blobs/@d",
            "/v2/a/blobs/uploads/",
            "/v2/a/blobs/uploads/@u",
            "/v2/a/referrers/@m",
            "/v2/b/tags/list",
            "/v2/b/c/blobs/uploads/",
            "/v2/b/manifests/.x",
            "/v2/%/x",
        ]);
        let query = prop::sample::select(vec![
            "",
            "?",
            "?digest=@d",
            "?digest=@b",
            "?digest=",
            "?digest=sha512:0",
            "?mount=@b&from=a",
            "?mount=@b",
            "?mount=x",
            "?n=0",
            "?n=-1",
            "?n=99999999999999999999",
            "?last=%00",
            "?last=%ff&n=1",
            "?tag=x&tag=x&tag=%00",
            "?artifactType=%00",
            "?digest-algorithm=sha512",
            "?last=@m&artifactType=a%2Fb",
        ]);
        let header = prop::sample::select(vec![
            "Range: bytes=0-0",
            "Range: bytes=9-1",
            "Range: bytes=-1",
            "Range: x",
            "Content-Range: 0-1",
            "Content-Range: 5-4",
            "Content-Range: 0-18446744073709551615",
            "If-None-Match: *",
            "If-None-Match: \"@b\", \"@m\"",
            "If-Range: \"x\"",
            "Content-Type: application/vnd.oci.image.index.v1+json",
            "Content-Type: application/vnd.oci.image.manifest.v1+json",
            "Content-Type: \u{fc}",
            "Accept: x",
            "Authorization: Basic eDp5",
            "Authorization: Bearer x.y.z",
            "Cookie: a\u{1}",
        ]);
        let descriptor = r#"{"mediaType":"a/b","digest":"@b","size":2}"#;
        let body = prop::sample::select(vec![
            String::new(),
            "{}".to_owned(),
            "x".to_owned(),
            format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{descriptor}]}}"#),
            format!(
                r#"{{"schemaVersion":2,"config":{descriptor},"artifactType":"a\u0000b","annotations":{{"\u0000":"\u0000"}},"subject":{descriptor}}}"#
            ),
            format!(r#"{{"schemaVersion":2,"manifests":[{descriptor}]}}"#),
        ]);
        let headers = proptest::collection::vec(header, 0..3);
        (any::<u8>(), place, query, headers, body).prop_map(
            |(method, place, query, headers, body)| {
                let mut request = vec![method.max(1)];
                request.extend_from_slice(format!("{place}{query}\n").as_bytes());
                for header in headers {
                    request.extend_from_slice(format!("{header}\n").as_bytes());
                }
                request.push(b'\n');
                request.extend_from_slice(body.as_bytes());
                request
            },
        )
    }

    #[test]
    fn requests_of_all_kinds_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Requests::new(folder.path());
        let several = proptest::collection::vec(request(), 1..4);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
        let outcome = runner.run(&several, |several| {
            registry.send(&several.join(&0));
            Ok(())
        });
        outcome.unwrap();
        let outcome = runner.run(&any::<Vec<u8>>(), |bytes| {
            registry.send(&bytes);
            Ok(())
        });
        outcome.unwrap();
    }
}
