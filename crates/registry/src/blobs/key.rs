//! The keys of copies: what they are, and when they were committed.
//!
//! ```text
//! sha256/ab/<hex>.<seconds><6 digits>          a file of a folder
//! sha256/ab/<hex>.<seconds><6 digits>-<name>   a copy whose bytes have a name of their own
//! ```
//!
//! The age of a copy that nothing knows is in its key, because an upload may be old before it is
//! committed. No key is used twice.

use crate::digest::Digest;
use crate::index::Seconds;

/// A key; `count` is what no other commit of the same digest in the same second has.
pub(crate) fn new(digest: &Digest, now: Seconds, count: u32) -> String {
    let (name, hex) = (digest.algorithm().name(), digest.hex());
    format!(
        "{name}/{}/{hex}.{now:08x}{:06x}",
        &hex[..2],
        count & 0xff_ffff
    )
}

/// A key of a copy whose bytes have a name of their own.
pub(crate) fn named(digest: &Digest, now: Seconds, count: u32, name: &str) -> String {
    format!("{}-{name}", new(digest, now, count))
}

/// Reads a key: what the copy is, and when it was committed.
pub(crate) fn parse(key: &str) -> Option<(Digest, Seconds)> {
    let mut parts = key.split('/');
    let (algorithm, first, name) = (parts.next()?, parts.next()?, parts.next()?);
    let (hex, generation) = name.split_once('.')?;
    if parts.next().is_some() || hex.get(..2) != Some(first) {
        return None;
    }
    let digest = format!("{algorithm}:{hex}").parse().ok()?;
    let generation = generation.split('-').next()?;
    let seconds = generation.get(..generation.len().checked_sub(6)?)?;
    Some((digest, Seconds::from_str_radix(seconds, 16).ok()?))
}

/// The name that the bytes of a copy have, if they have one of their own.
pub(crate) fn name(key: &str) -> Option<&str> {
    let (_, generation) = key.split_once('.')?;
    generation.split_once('-').map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let plain = new(&digest, 1_700_000_000, 7);
        assert_eq!(
            (parse(&plain), name(&plain)),
            (Some((digest.clone(), 1_700_000_000)), None)
        );
        let named = named(&digest, 1_700_000_000, u32::MAX, "0f0f");
        assert_eq!(parse(&named), Some((digest.clone(), 1_700_000_000)));
        assert_eq!(name(&named), Some("0f0f"));
        let hex = digest.hex();
        for wrong in [
            "",
            "sha256/ab/stray",
            &format!("sha256/zz/{hex}.6553f100000000"),
            &format!("sha256/{}/{hex}.xyz-1", &hex[..2]),
            &format!("sha256/{}/{hex}.123", &hex[..2]),
            &format!("sha256/{}/{hex}.6553f100000000/x", &hex[..2]),
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
