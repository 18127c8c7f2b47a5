//! What an object store answers: documents in XML, and refusals.

use std::fmt;
use std::io;

use http::StatusCode;
use roxmltree::{Document, Node};

/// An answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(super) status: u16,
    /// As `NoSuchKey`; empty if the answer had no document.
    pub(super) code: String,
    pub(super) message: String,
}

/// An object as a list has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) size: u64,
    /// As `2026-01-31T12:00:00.000Z`.
    pub(crate) modified: String,
}

/// An object in parts that was begun and is neither complete nor given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) key: String,
    /// The store's id of it.
    pub(crate) upload: String,
    /// As `2026-01-31T12:00:00.000Z`.
    pub(crate) begun: String,
}

/// A part of a list of those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UnfinishedPage {
    pub(super) uploads: Vec<Unfinished>,
    /// Where it goes on: key and id.
    pub(super) next: Option<(String, String)>,
}

/// A part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) objects: Vec<Listed>,
    /// Where it goes on.
    pub(super) next: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the object store answers {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, " ({})", self.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Reads an answer with this status and body.
    pub(super) fn read(status: StatusCode, body: &[u8]) -> Self {
        let mut refusal = Self {
            status: status.as_u16(),
            code: String::new(),
            message: String::new(),
        };
        if let Ok(text) = std::str::from_utf8(body)
            && let Ok(document) = Document::parse(text)
        {
            refusal.code = text_of(document.root_element(), "Code").unwrap_or_default();
            let message = text_of(document.root_element(), "Message").unwrap_or_default();
            refusal.message = message.chars().take(300).collect();
        }
        refusal
    }

    /// Whether the same request may be obeyed a moment later.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.status, 408 | 429 | 500 | 502 | 503 | 504)
            || matches!(
                self.code.as_str(),
                "RequestTimeout"
                    | "OperationAborted"
                    | "SlowDown"
                    | "BadDigest"
                    | "XAmzContentSHA256Mismatch"
                    | "IncompleteBody"
                    // What we send is well-formed; something happened to it.
                    | "MalformedXML"
            )
    }

    /// Whether there is nothing of that name.
    pub(super) fn is_missing(&self) -> bool {
        self.status == 404 && self.code != "NoSuchBucket"
    }

    /// Whether there is no room.
    pub(super) fn is_full(&self) -> bool {
        self.status == 507
            || matches!(
                self.code.as_str(),
                "QuotaExceeded"
                    | "XMinioStorageFull"
                    | "InsufficientStorage"
                    | "InsufficientCapacity"
            )
    }
}

fn nonsense(why: impl fmt::Display) -> io::Error {
    let what = format!("the object store's answer cannot be read: {why}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn parse<T>(body: &[u8], read: impl FnOnce(Node<'_, '_>) -> io::Result<T>) -> io::Result<T> {
    let text = std::str::from_utf8(body).map_err(nonsense)?;
    let document = Document::parse(text).map_err(nonsense)?;
    let root = document.root_element();
    // Answers that take long begin with 200 and may be failures all the same.
    if root.has_tag_name("Error") {
        return Err(io::Error::other(Refusal::read(StatusCode::OK, body)));
    }
    read(root)
}

fn text_of(node: Node<'_, '_>, name: &str) -> Option<String> {
    let child = node.children().find(|child| child.has_tag_name(name))?;
    Some(child.text().unwrap_or_default().to_owned())
}

/// Reads a page of a list.
pub(super) fn page(body: &[u8]) -> io::Result<Page> {
    parse(body, |root| {
        if !root.has_tag_name("ListBucketResult") {
            return Err(nonsense("it is no list"));
        }
        let is_encoded = text_of(root, "EncodingType").is_some_and(|kind| kind == "url");
        let mut page = Page::default();
        for entry in root.children().filter(|node| node.has_tag_name("Contents")) {
            let field =
                |name| text_of(entry, name).ok_or_else(|| nonsense(format_args!("no `{name}`")));
            let key = field("Key")?;
            page.objects.push(Listed {
                key: if is_encoded { decoded(&key) } else { key },
                size: field("Size")?.parse().map_err(nonsense)?,
                modified: field("LastModified")?,
            });
        }
        if text_of(root, "IsTruncated").is_some_and(|text| text == "true") {
            let next = text_of(root, "NextContinuationToken").filter(|token| !token.is_empty());
            page.next = Some(next.ok_or_else(|| nonsense("a list does not say where it goes on"))?);
        }
        Ok(page)
    })
}

/// Reads a page of a list of objects in parts that are not complete.
pub(super) fn unfinished(body: &[u8]) -> io::Result<UnfinishedPage> {
    parse(body, |root| {
        if !root.has_tag_name("ListMultipartUploadsResult") {
            return Err(nonsense("it is no list of uploads"));
        }
        let is_encoded = text_of(root, "EncodingType").is_some_and(|kind| kind == "url");
        let plain = |key: String| if is_encoded { decoded(&key) } else { key };
        let mut page = UnfinishedPage::default();
        for entry in root.children().filter(|node| node.has_tag_name("Upload")) {
            let field =
                |name| text_of(entry, name).ok_or_else(|| nonsense(format_args!("no `{name}`")));
            page.uploads.push(Unfinished {
                key: plain(field("Key")?),
                upload: field("UploadId")?,
                begun: field("Initiated")?,
            });
        }
        if text_of(root, "IsTruncated").is_some_and(|text| text == "true") {
            let key = text_of(root, "NextKeyMarker").filter(|key| !key.is_empty());
            let key = key.ok_or_else(|| nonsense("a list does not say where it goes on"))?;
            let upload = text_of(root, "NextUploadIdMarker").unwrap_or_default();
            page.next = Some((plain(key), upload));
        }
        Ok(page)
    })
}

/// Reads the id of an upload in parts.
pub(super) fn upload_id(body: &[u8]) -> io::Result<String> {
    parse(body, |root| {
        text_of(root, "UploadId")
            .filter(|id| !id.is_empty())
            .ok_or_else(|| nonsense("no `UploadId`"))
    })
}

/// Reads the answer to a completion, a copy, or whatever else matters only if it failed.
pub(super) fn done(body: &[u8]) -> io::Result<()> {
    parse(body, |_root| Ok(()))
}

/// Reads which of many deletions failed: key and code.
pub(super) fn failed_deletions(body: &[u8]) -> io::Result<Vec<(String, String)>> {
    parse(body, |root| {
        let errors = root.children().filter(|node| node.has_tag_name("Error"));
        Ok(errors
            .map(|error| {
                let field = |name| text_of(error, name).unwrap_or_default();
                (field("Key"), field("Code"))
            })
            .filter(|(_, code)| code != "NoSuchKey")
            .collect())
    })
}

/// Takes back what `encoding-type=url` did.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let (byte, length) = match (first, others) {
            (b'%', [high, low, ..]) => match (
                char::from(*high).to_digit(16),
                char::from(*low).to_digit(16),
            ) {
                (Some(high), Some(low)) => (u8::try_from(high * 16 + low).unwrap_or(b'%'), 3),
                _ => (b'%', 1),
            },
            (b'+', _) => (b' ', 1),
            (byte, _) => (*byte, 1),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Text that stands for itself in a document.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_page_by_page() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
            <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
            <Contents><Key>data/a%2Bb+c</Key><LastModified>2026-01-31T12:00:00.000Z</LastModified>
            <ETag>&quot;x&quot;</ETag><Size>12</Size></Contents>
            <NextContinuationToken>go&amp;on</NextContinuationToken></ListBucketResult>"#;
        let read = page(text.as_bytes()).unwrap();
        assert_eq!(read.next.as_deref(), Some("go&on"));
        assert_eq!(
            read.objects,
            [Listed {
                key: "data/a+b c".to_owned(),
                size: 12,
                modified: "2026-01-31T12:00:00.000Z".to_owned()
            }]
        );
        let end = text.replace("true", "false");
        assert_eq!(page(end.as_bytes()).unwrap().next, None);
    }

    #[test]
    fn uploads_are_read_page_by_page() {
        let text = r#"<ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket>
            <EncodingType>url</EncodingType><NextKeyMarker>data/a%2Bb</NextKeyMarker>
            <NextUploadIdMarker>two</NextUploadIdMarker><IsTruncated>true</IsTruncated>
            <Upload><Key>data/a%2Bb</Key><UploadId>one</UploadId><Initiated>2026-01-31T12:00:00.000Z</Initiated></Upload>
            </ListMultipartUploadsResult>"#;
        let read = unfinished(text.as_bytes()).unwrap();
        assert_eq!(read.next, Some(("data/a+b".to_owned(), "two".to_owned())));
        assert_eq!(
            read.uploads,
            [Unfinished {
                key: "data/a+b".to_owned(),
                upload: "one".to_owned(),
                begun: "2026-01-31T12:00:00.000Z".to_owned()
            }]
        );
        let end = text.replace("true", "false");
        assert_eq!(unfinished(end.as_bytes()).unwrap().next, None);
        let nowhere = text.replace("NextKeyMarker", "Other");
        assert!(unfinished(nowhere.as_bytes()).is_err());
        assert!(unfinished(b"<ListBucketResult/>").is_err());
    }

    #[test]
    fn half_a_document_is_none() {
        let whole = "<ListBucketResult><Contents><Key>k</Key><Size>1</Size>\
            <LastModified>x</LastModified></Contents></ListBucketResult>";
        assert!(page(whole.as_bytes()).is_ok());
        for length in 0..whole.len() {
            assert!(page(&whole.as_bytes()[..length]).is_err(), "{length}");
        }
        assert!(page(b"<Other/>").is_err());
        assert!(upload_id(b"<R><UploadId></UploadId></R>").is_err());
    }

    #[test]
    fn a_failure_may_come_with_success() {
        let text = b"<Error><Code>InternalError</Code><Message>no</Message></Error>";
        assert!(
            done(text)
                .unwrap_err()
                .to_string()
                .contains("InternalError")
        );
        let refusal = Refusal::read(
            StatusCode::NOT_FOUND,
            b"<Error><Code>NoSuchBucket</Code></Error>",
        );
        assert!(!refusal.is_missing() && !refusal.may_pass());
        assert!(Refusal::read(StatusCode::NOT_FOUND, b"").is_missing());
        assert!(Refusal::read(StatusCode::SERVICE_UNAVAILABLE, b"<html>").may_pass());
    }

    #[test]
    fn deletions_tell_what_failed() {
        let text = b"<DeleteResult><Deleted><Key>a</Key></Deleted><Error><Key>b</Key><Code>AccessDenied</Code></Error>\
            <Error><Key>c</Key><Code>NoSuchKey</Code></Error></DeleteResult>";
        let failed = failed_deletions(text).unwrap();
        assert_eq!(failed, [("b".to_owned(), "AccessDenied".to_owned())]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_the_reader_panic(text in "[<>/&;a-zA-Z%+0-9 \"=]{0,200}") {
            let bytes = text.as_bytes();
            let outcomes = [
                page(bytes).is_ok(), unfinished(bytes).is_ok(), upload_id(bytes).is_ok(), failed_deletions(bytes).is_ok(),
            ];
            let refusal = Refusal::read(StatusCode::BAD_REQUEST, bytes);
            assert!(refusal.message.len() <= 1200 && outcomes.len() == 4);
            assert!(decoded(&text).len() <= text.len() * 3);
        }
    }
}
