//! Signatures of requests to an object store: AWS' version 4, in a header or in the query.
//!
//! As in "Authenticating Requests (AWS Signature Version 4)" of the API reference of S3; the examples
//! there are the tests here. Knows nothing of connections.

use std::fmt::Write as _;
use std::time::SystemTime;

use ring::hmac;

use super::credentials::Credentials;
use crate::digest::{Algorithm, Digest, hex};
use crate::log::rfc3339;

/// What stands for the digest of a body that is not signed.
pub(super) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// The second at which something is signed.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// As `20130524T000000Z`.
    pub(super) text: String,
}

impl Moment {
    pub(super) fn of(time: SystemTime) -> Self {
        let text = rfc3339(time).replace(['-', ':'], "");
        Self { text }
    }

    fn day(&self) -> &str {
        &self.text[..8]
    }
}

/// Who signs, and for where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signer<'a> {
    pub(super) credentials: &'a Credentials,
    pub(super) region: &'a str,
}

/// A request, as far as a signature covers it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    /// Encoded.
    pub(super) path: &'a str,
    /// Names and values, not encoded.
    pub(super) query: &'a [(&'a str, &'a str)],
    /// Names in lower case and in their order; `host` is one of them.
    pub(super) headers: &'a [(&'a str, &'a str)],
    /// Digest of the body in hex, or [`UNSIGNED`].
    pub(super) payload: &'a str,
}

impl Signer<'_> {
    /// The value of the header `Authorization`.
    pub(super) fn header(self, request: Signed<'_>, moment: &Moment) -> String {
        let signature = self.signature(request, moment);
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{},SignedHeaders={},Signature={signature}",
            self.credentials.id,
            self.scope(moment),
            names(request.headers),
        )
    }

    /// A query that lets whoever has it do one thing for some seconds.
    pub(super) fn query(
        self,
        method: &str,
        path: &str,
        host: &str,
        moment: &Moment,
        seconds: u64,
    ) -> String {
        let credential = format!("{}/{}", self.credentials.id, self.scope(moment));
        let seconds = seconds.to_string();
        let mut query = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", credential.as_str()),
            ("X-Amz-Date", moment.text.as_str()),
            ("X-Amz-Expires", seconds.as_str()),
            ("X-Amz-SignedHeaders", "host"),
        ];
        if let Some(token) = &self.credentials.token {
            query.push(("X-Amz-Security-Token", token));
        }
        let request = Signed {
            method,
            path,
            query: &query,
            headers: &[("host", host)],
            payload: UNSIGNED,
        };
        let signature = self.signature(request, moment);
        format!("{}&X-Amz-Signature={signature}", encoded_query(&query))
    }

    fn scope(self, moment: &Moment) -> String {
        format!("{}/{}/s3/aws4_request", moment.day(), self.region)
    }

    fn signature(self, request: Signed<'_>, moment: &Moment) -> String {
        let mut canonical = format!(
            "{}\n{}\n{}\n",
            request.method,
            request.path,
            encoded_query(request.query)
        );
        for (name, value) in request.headers {
            canonical.push_str(&format!("{name}:{}\n", value.trim()));
        }
        canonical.push_str(&format!(
            "\n{}\n{}",
            names(request.headers),
            request.payload
        ));
        let text = format!(
            "AWS4-HMAC-SHA256\n{}\n{}\n{}",
            moment.text,
            self.scope(moment),
            Digest::of(Algorithm::Sha256, canonical.as_bytes()).hex()
        );
        let mut key = format!("AWS4{}", self.credentials.secret).into_bytes();
        for part in [moment.day(), self.region, "s3", "aws4_request"] {
            key = hmac_sha256(&key, part.as_bytes());
        }
        hex(&hmac_sha256(&key, text.as_bytes()))
    }
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text).as_ref().to_vec()
}

fn names(headers: &[(&str, &str)]) -> String {
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    names.join(";")
}

/// A query as it is sent and as it is signed: encoded, in the order of names.
pub(super) fn encoded_query(query: &[(&str, &str)]) -> String {
    let mut parts: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name, false), encoded(value, false)))
        .collect();
    parts.sort();
    parts.join("&")
}

/// Text with everything encoded but what never needs to be; `/` stays if `is_path`.
pub(super) fn encoded(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if is_path => out.push('/'),
            _ => write!(out, "%{byte:02X}").expect("text can always grow"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        }
    }

    fn moment() -> Moment {
        Moment::of(UNIX_EPOCH + Duration::from_secs(1_369_353_600))
    }

    #[test]
    fn headers_are_signed_as_in_the_reference() {
        let credentials = credentials();
        let signer = Signer {
            credentials: &credentials,
            region: "us-east-1",
        };
        let empty = Digest::of(Algorithm::Sha256, b"");
        let request = Signed {
            method: "GET",
            path: "/test.txt",
            query: &[],
            headers: &[
                ("host", "examplebucket.s3.amazonaws.com"),
                ("range", "bytes=0-9"),
                ("x-amz-content-sha256", empty.hex()),
                ("x-amz-date", "20130524T000000Z"),
            ],
            payload: empty.hex(),
        };
        let header = signer.header(request, &moment());
        assert!(
            header.ends_with(
                "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
                 Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
            ),
            "{header}"
        );
        let request = Signed {
            query: &[("prefix", "J"), ("max-keys", "2")],
            path: "/",
            headers: &[
                ("host", "examplebucket.s3.amazonaws.com"),
                ("x-amz-content-sha256", empty.hex()),
                ("x-amz-date", "20130524T000000Z"),
            ],
            ..request
        };
        let header = signer.header(request, &moment());
        assert!(
            header.ends_with("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
            "{header}"
        );
    }

    #[test]
    fn queries_are_signed_as_in_the_reference() {
        let credentials = credentials();
        let signer = Signer {
            credentials: &credentials,
            region: "us-east-1",
        };
        let host = "examplebucket.s3.amazonaws.com";
        let query = signer.query("GET", "/test.txt", host, &moment(), 86_400);
        assert!(
            query.ends_with(
                "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
            ),
            "{query}"
        );
    }

    #[test]
    fn what_could_mean_something_is_encoded() {
        assert_eq!(encoded("a/b c+ü~", true), "a/b%20c%2B%C3%BC~");
        assert_eq!(encoded("a/b", false), "a%2Fb");
    }
}
