//! Java keystores of certificates (JKS), whose entries say when they were added.
//!
//! ```text
//! magic FEEDFEED · version 2 · count · entries · SHA-1(password in UTF-16, "Mighty Aphrodite", all before)
//! entry: tag 2 · alias · milliseconds since 1970 · certificate type · length · certificate
//! ```
//! The password of the one that Debian's package makes is Java's default.

use sha1::{Digest as _, Sha1};

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
const PASSWORD: &str = "changeit";
const SALT: &[u8] = b"Mighty Aphrodite";
const DIGEST_BYTES: usize = 20;

/// Sets the times in `keystore` that are after `epoch` to it; `None` if it is none of this kind.
pub(super) fn settle(keystore: &[u8], epoch: i64) -> Option<Vec<u8>> {
    let (body, digest) = keystore.split_at_checked(keystore.len().checked_sub(DIGEST_BYTES)?)?;
    if checksum(body) != digest {
        return None;
    }
    let latest = u64::try_from(epoch).ok()?.checked_mul(1000)?;
    let mut settled = body.to_vec();
    let mut at = 0;
    if take_u32(body, &mut at)? != MAGIC || take_u32(body, &mut at)? != VERSION {
        return None;
    }
    for _ in 0..take_u32(body, &mut at)? {
        if take_u32(body, &mut at)? != TRUSTED_CERTIFICATE {
            return None;
        }
        skip_text(body, &mut at)?;
        let time: [u8; 8] = take(body, &mut at, 8)?.try_into().ok()?;
        let time = u64::from_be_bytes(time).min(latest);
        settled[at - 8..at].copy_from_slice(&time.to_be_bytes());
        skip_text(body, &mut at)?;
        let len = take_u32(body, &mut at)? as usize;
        take(body, &mut at, len)?;
    }
    if at != body.len() {
        return None;
    }
    let digest = checksum(&settled);
    settled.extend_from_slice(&digest);
    Some(settled)
}

fn checksum(body: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hash = Sha1::new();
    for unit in PASSWORD.encode_utf16() {
        hash.update(unit.to_be_bytes());
    }
    hash.update(SALT);
    hash.update(body);
    hash.finalize().into()
}

fn take<'a>(bytes: &'a [u8], at: &mut usize, len: usize) -> Option<&'a [u8]> {
    let taken = bytes.get(*at..at.checked_add(len)?)?;
    *at += len;
    Some(taken)
}

fn take_u32(bytes: &[u8], at: &mut usize) -> Option<u32> {
    Some(u32::from_be_bytes(take(bytes, at, 4)?.try_into().ok()?))
}

fn skip_text(bytes: &[u8], at: &mut usize) -> Option<()> {
    let len: [u8; 2] = take(bytes, at, 2)?.try_into().ok()?;
    take(bytes, at, usize::from(u16::from_be_bytes(len))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keystore(times: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [MAGIC, VERSION, u32::try_from(times.len()).unwrap()] {
            bytes.extend(number.to_be_bytes());
        }
        for time in times {
            bytes.extend(TRUSTED_CERTIFICATE.to_be_bytes());
            bytes.extend(b"\0\x05alias");
            bytes.extend(time.to_be_bytes());
            bytes.extend(b"\0\x05X.509\0\0\0\x03abc");
        }
        let digest = checksum(&bytes);
        bytes.extend(digest);
        bytes
    }

    #[test]
    fn late_times_are_set_and_the_checksum_fits_again() {
        let settled = settle(&keystore(&[5_000, 1, 9_999_999]), 4).unwrap();
        assert_eq!(settled, keystore(&[4_000, 1, 4_000]));
        assert_eq!(settle(&settled, 4).unwrap(), settled);
    }

    #[test]
    fn anything_else_is_left_alone() {
        let good = keystore(&[7]);
        for len in 0..good.len() {
            assert_eq!(settle(&good[..len], 0), None);
        }
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert_eq!(settle(&changed, 0), None);
        }
        assert_eq!(settle(&good, -1), None);
    }
}
