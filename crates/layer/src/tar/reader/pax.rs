//! The records of pax extended headers.

use super::TarError;
use crate::Xattrs;
use crate::entry::MAX_XATTR_BYTES;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// What extension headers say about the entry after them.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size_bytes: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<i64>,
    pub(super) sparse: bool,
    pub(super) xattrs: Xattrs,
}

impl Overrides {
    pub(super) fn read_pax(&mut self, content: &[u8], at: u64) -> Result<(), TarError> {
        records(content, at, |key, value| self.record(key, value, at))
    }

    fn record(&mut self, key: &[u8], value: &[u8], at: u64) -> Result<(), TarError> {
        let wrong = |reason| TarError::Extended { at, reason };
        let impossible = |field| TarError::Number { at, field };
        match key {
            b"path" | b"linkpath" => {
                if value.is_empty() || value.contains(&0) {
                    return Err(wrong("a path is empty or has a NUL byte"));
                }
                let field = if key == b"path" {
                    &mut self.path
                } else {
                    &mut self.link
                };
                *field = Some(value.to_vec());
            }
            b"size" => {
                let size_bytes = decimal(value).filter(|it| *it <= i64::MAX as u64 / 2);
                self.size_bytes = Some(size_bytes.ok_or(impossible("size"))?);
            }
            b"uid" | b"gid" => {
                let id = decimal(value).and_then(|it| u32::try_from(it).ok());
                let (field, name) = if key == b"uid" {
                    (&mut self.uid, "uid")
                } else {
                    (&mut self.gid, "gid")
                };
                *field = Some(id.ok_or(impossible(name))?);
            }
            b"mtime" => self.mtime = Some(seconds(value).ok_or(impossible("mtime"))?),
            b"SCHILY.realsize" => self.sparse = true,
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    if name.is_empty() || name.len() > 255 || name.contains(&0) {
                        return Err(wrong("an attribute has an impossible name"));
                    }
                    if value.len() > MAX_XATTR_BYTES {
                        return Err(wrong("an attribute is larger than 64 KiB"));
                    }
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

/// Accepts a global header that cannot change what entries mean. Readers differ in whether they
/// apply it, so one that could is refused.
pub(super) fn check_global(content: &[u8], at: u64) -> Result<(), TarError> {
    records(content, at, |key, _value| {
        let changes = matches!(
            key,
            b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime" | b"SCHILY.realsize"
        );
        if changes || key.starts_with(XATTR) || key.starts_with(b"GNU.sparse.") {
            return Err(TarError::Extended {
                at,
                reason: "a global header changes what later entries are",
            });
        }
        Ok(())
    })
}

fn records(
    mut content: &[u8],
    at: u64,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), TarError>,
) -> Result<(), TarError> {
    let malformed = || TarError::Extended {
        at,
        reason: "a record is malformed",
    };
    while !content.is_empty() {
        let space = content.iter().take(21).position(|byte| *byte == b' ');
        let space = space.ok_or_else(malformed)?;
        let length = decimal(&content[..space]).and_then(|it| usize::try_from(it).ok());
        let record = length
            .filter(|it| *it > space)
            .and_then(|it| content.get(..it))
            .ok_or_else(malformed)?;
        content = &content[record.len()..];
        let record = record[space + 1..]
            .strip_suffix(b"\n")
            .ok_or_else(malformed)?;
        let equals = record.iter().position(|byte| *byte == b'=');
        let equals = equals.filter(|it| *it > 0).ok_or_else(malformed)?;
        each(&record[..equals], &record[equals + 1..])?;
    }
    Ok(())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit
            .is_ascii_digit()
            .then_some(u64::from(digit.wrapping_sub(b'0')))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Reads `[-]seconds[.fraction]`, rounded down.
fn seconds(text: &[u8]) -> Option<i64> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let round = i64::from(negative && fraction.iter().any(|digit| *digit != b'0'));
    Some(if negative { -whole - round } else { whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_down() {
        for (text, value) in [
            ("0", Some(0)),
            ("12.999", Some(12)),
            ("-1", Some(-1)),
            ("-1.5", Some(-2)),
            ("-1.0", Some(-1)),
            ("1.", Some(1)),
            ("", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for content in [
            "5 k=x",
            "7 k=x\n",
            "4 k=x\n",
            "x k=x\n",
            "3 \n",
            "5 =xx",
            "5 =x\n",
            "99999999999999999999999 k=x\n",
            "1 k=x\n",
            "0 k=x\n",
        ] {
            let read = records(content.as_bytes(), 0, |_, _| Ok(()));
            assert!(read.is_err(), "{content:?}");
        }
    }

    #[test]
    fn a_global_header_may_only_comment() {
        assert!(check_global(b"13 comment=a\n", 0).is_ok());
        assert!(check_global(b"10 path=a\n", 0).is_err());
        assert!(check_global(b"10 size=1\n", 0).is_err());
    }
}
