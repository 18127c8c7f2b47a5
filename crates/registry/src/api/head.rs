//! Heads that others on the way may read in another way than we do.

use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};

use super::error::ApiError;

/// Checks what the parser leaves to us.
///
/// # Errors
/// Not exactly one `Host` (RFC 9112, 3.2), or a coding of the body that nobody takes off again: its bytes would be
/// kept as they come.
pub(super) fn check(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) {
        return Err(refused("a request has one `Host`"));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if !codings.all(|value| is_chunked(value.as_bytes())) {
        return Err(refused("the only transfer coding is `chunked`"));
    }
    Ok(())
}

fn refused(why: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", why).closing()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::HeaderName;

    use super::*;

    fn is_fine(version: Version, lines: &[(HeaderName, &'static str)]) -> bool {
        let lines = lines.iter().cloned();
        let headers = lines.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        headers.for_each(|(name, value)| {
            map.append(name, value);
        });
        check(version, &map).is_ok()
    }

    #[test]
    fn a_request_says_once_whom_it_is_for() {
        let (one, other) = ((HOST, "a"), (HOST, "b"));
        assert!(is_fine(Version::HTTP_11, std::slice::from_ref(&one)));
        assert!(is_fine(Version::HTTP_10, &[]));
        assert!(!is_fine(Version::HTTP_11, &[]));
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert!(!is_fine(version, &[one.clone(), other.clone()]));
        }
    }

    #[test]
    fn bodies_are_chunked_or_plain() {
        for (coding, fine) in [
            ("chunked", true),
            (" Chunked ", true),
            ("gzip, chunked", false),
            ("chunked, chunked", false),
            ("gzip", false),
            ("", false),
        ] {
            let lines = [(HOST, "a"), (TRANSFER_ENCODING, coding)];
            assert_eq!(is_fine(Version::HTTP_11, &lines), fine, "{coding:?}");
        }
    }
}
