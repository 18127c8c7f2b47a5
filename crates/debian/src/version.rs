//! Package versions, ordered as Debian policy §5.6.12 says.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A version that has been checked: `[epoch:]upstream[-revision]`.
///
/// Two versions are equal when the archive's tools take them for the same one (`1.0` and `1.0-0`),
/// even if they are written differently.
#[derive(Clone)]
pub struct Version(String);

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a package version: {problem}")]
#[must_use]
pub struct VersionError {
    /// The text, cut to a length that fits a message.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Version {
    /// Returns the version as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Compares two versions as they are written, without checking them first.
///
/// A version that breaks the rules still has a place in the order, so that one bad paragraph of an
/// index does not make the others unusable.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (Parts::of(left), Parts::of(right));
    left.epoch
        .cmp(&right.epoch)
        .then_with(|| compare_part(left.upstream, right.upstream))
        .then_with(|| compare_part(left.revision, right.revision))
}

struct Parts<'a> {
    epoch: u64,
    upstream: &'a [u8],
    revision: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
            None => (0, text),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Self {
            epoch,
            upstream: upstream.as_bytes(),
            revision: revision.as_bytes(),
        }
    }
}

/// Orders one part: runs of non-digits by [`weight`], runs of digits by their value, in turns.
fn compare_part(mut left: &[u8], mut right: &[u8]) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        loop {
            let one = left.first().copied().filter(|byte| !byte.is_ascii_digit());
            let other = right.first().copied().filter(|byte| !byte.is_ascii_digit());
            if one.is_none() && other.is_none() {
                break;
            }
            match weight(one).cmp(&weight(other)) {
                Ordering::Equal => {}
                unequal @ (Ordering::Less | Ordering::Greater) => return unequal,
            }
            left = left.get(1..).unwrap_or_default();
            right = right.get(1..).unwrap_or_default();
        }
        let (left_digits, left_rest) = digits(left);
        let (right_digits, right_rest) = digits(right);
        let by_value = left_digits
            .len()
            .cmp(&right_digits.len())
            .then_with(|| left_digits.cmp(right_digits));
        if by_value != Ordering::Equal {
            return by_value;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

/// Splits off the digits at the start, without their leading zeros.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
    (&digits[zeros..], rest)
}

/// Returns the place of a non-digit: `~` before the end, the end before letters, letters before the
/// rest.
fn weight(byte: Option<u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(letter),
        Some(other) => i32::from(other) + 256,
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let refuse = |problem| {
            Err(VersionError {
                text: text.chars().take(80).collect(),
                problem,
            })
        };
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > 512 {
            return refuse("it is longer than 512 bytes");
        }
        let rest = match text.split_once(':') {
            Some((epoch, _)) if epoch.is_empty() || epoch.parse::<u32>().is_err() => {
                return refuse("the epoch before `:` is not a number");
            }
            Some((_, rest)) => rest,
            None => text,
        };
        let upstream = rest.rsplit_once('-').map_or(rest, |(upstream, _)| upstream);
        if upstream.is_empty() {
            return refuse("there is no upstream version");
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".+-:~".contains(&byte);
        if !rest.bytes().all(allowed) {
            return refuse("only letters, digits and `.+-:~` may be in it");
        }
        Ok(Self(text.to_owned()))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line is in ascending order.
    const ASCENDING: &[&[&str]] = &[
        // Policy §5.6.12: "~~", "~~a", "~", the empty part, "a".
        &["1~~", "1~~a", "1~", "1", "1a"],
        &["1.0~beta1~svc1245", "1.0~beta1", "1.0", "1.0-1", "1.0-1.1"],
        &["0.9", "0.10", "1.0", "1.0+b1", "1.0.0"],
        &["9:0.1", "10:0.0~1"],
        &["99", "1:0"],
        &[
            "1.2.3-1~deb12u1",
            "1.2.3-1",
            "1.2.3-1+b1",
            "1.2.3-1+deb12u1",
        ],
        &["2.36-9", "2.36-9+deb12u4", "2.36-9+deb12u10"],
        &["1.0a", "1.0b", "1.0+"],
        &["0:1.0", "1:0.9"],
        &["1.0-a", "1.0-a1", "1.0-b"],
        &["18446744073709551616", "18446744073709551617"],
    ];

    #[test]
    fn the_table_of_the_policy_holds() {
        for line in ASCENDING {
            for (at, smaller) in line.iter().enumerate() {
                assert_eq!(compare(smaller, smaller), Ordering::Equal, "{smaller}");
                for larger in &line[at + 1..] {
                    assert_eq!(
                        compare(smaller, larger),
                        Ordering::Less,
                        "{smaller} {larger}"
                    );
                    assert_eq!(
                        compare(larger, smaller),
                        Ordering::Greater,
                        "{larger} {smaller}"
                    );
                }
            }
        }
    }

    #[test]
    fn different_spellings_of_one_version_are_equal() {
        for (left, right) in [
            ("1.0", "1.0-0"),
            ("0:1.0", "1.0"),
            ("1.00", "1.0"),
            ("1.0-", "1.0"),
        ] {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} {right}");
        }
    }

    #[test]
    fn broken_versions_are_refused() {
        for text in [
            "",
            ":1",
            "a:1",
            "1:",
            "-1",
            "1 2",
            "1_2",
            "1:-2",
            "4294967296:1",
        ] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
        for text in ["1", "1:2-3", "1.0-2-3", "2:1.2~rc1+dfsg-3+b1", "1:2:3-4"] {
            assert_eq!(text.parse::<Version>().unwrap().as_str(), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn the_order_is_total(a in "[0-9a-c~.+-]{0,6}", b in "[0-9a-c~.+-]{0,6}", c in "[0-9a-c~.+-]{0,6}") {
            proptest::prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                proptest::prop_assert_ne!(compare(&a, &c), Ordering::Greater);
            }
        }
    }
}
