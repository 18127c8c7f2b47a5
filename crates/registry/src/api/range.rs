//! Ranges of bytes: those clients want, and those they send.

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: there is no range, or one that need not be understood.
    Whole,
    /// From a byte, so many.
    Part { first: u64, length: u64 },
    /// Nothing that there is.
    Unsatisfiable,
}

/// Reads the value of a `Range` header for a document of `size` bytes.
pub(crate) fn wanted(header: &str, size: u64) -> Wanted {
    let Some(text) = header.trim().strip_prefix("bytes=") else {
        return Wanted::Whole;
    };
    // Several ranges would need an answer in several parts; one may always send everything.
    if text.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = text.trim().split_once('-') else {
        return Wanted::Unsatisfiable;
    };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More than there can be is as good as the most there can be.
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (first, last) = match (first, last) {
        ("", suffix) => match number(suffix) {
            Some(count) if count > 0 && size > 0 => (size.saturating_sub(count), size - 1),
            _ => return Wanted::Unsatisfiable,
        },
        (first, "") => match number(first) {
            Some(first) if first < size => (first, size - 1),
            _ => return Wanted::Unsatisfiable,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last && first < size => {
                (first, last.min(size - 1))
            }
            _ => return Wanted::Unsatisfiable,
        },
    };
    Wanted::Part {
        first,
        length: last - first + 1,
    }
}

/// Reads the value of a `Content-Range` header of an upload, `first-last`, both inclusive.
pub(crate) fn sent(header: &str) -> Option<(u64, u64)> {
    let text = header.trim();
    let text = text
        .strip_prefix("bytes ")
        .or_else(|| text.strip_prefix("bytes="))
        .unwrap_or(text);
    let text = text.split('/').next().unwrap_or(text);
    let (first, last) = text.trim().split_once('-')?;
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().ok()).flatten()
    };
    let (first, last): (u64, u64) = (number(first)?, number(last)?);
    (first <= last && last < u64::MAX).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_what_there_is() {
        let part = |first, length| Wanted::Part { first, length };
        assert_eq!(wanted("bytes=500-1499", 2048), part(500, 1000));
        assert_eq!(wanted("bytes=500-", 2048), part(500, 1548));
        assert_eq!(wanted("bytes=-500", 2048), part(1548, 500));
        assert_eq!(wanted("bytes=-5000", 2048), part(0, 2048));
        assert_eq!(wanted("bytes=2000-5000", 2048), part(2000, 48));
        assert_eq!(wanted("bytes=0-99999999999999999999999", 10), part(0, 10));
        for header in [
            "bytes=500-0",
            "bytes=5000-10000",
            "bytes=2048-",
            "bytes=-0",
            "bytes=x-y",
            "bytes=1",
            "bytes=-",
        ] {
            assert_eq!(wanted(header, 2048), Wanted::Unsatisfiable, "{header}");
        }
        for header in ["", "lines=1-2", "bytes=1-2,4-5"] {
            assert_eq!(wanted(header, 2048), Wanted::Whole, "{header}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Unsatisfiable);
    }

    proptest::proptest! {
        #[test]
        fn a_part_is_never_outside(text in "(bytes=)?[-0-9, ]{0,24}", size in 0_u64..100) {
            if let Wanted::Part { first, length } = wanted(&text, size) {
                assert!(length > 0 && first + length <= size, "{text}");
            }
            if let Some((first, last)) = sent(&text) {
                assert!(first <= last && last < u64::MAX);
            }
        }
    }

    #[test]
    fn sent_ranges_are_plain() {
        assert_eq!(sent("0-1023"), Some((0, 1023)));
        assert_eq!(sent("bytes 5-5/*"), Some((5, 5)));
        for header in [
            "",
            "-",
            "5",
            "5-4",
            "a-b",
            "-5",
            "0-18446744073709551615",
            "+1-2",
        ] {
            assert_eq!(sent(header), None, "{header}");
        }
    }
}
