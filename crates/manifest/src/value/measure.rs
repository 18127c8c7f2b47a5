//! Sizes and times with units.

use std::time::Duration;

use super::ValueError;

/// A size in bytes, written `64MB` or `1.5GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Units by what follows the number. Decimal and binary units are told apart by the `i`.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1000 * 1000),
    ("GB", 1000 * 1000 * 1000),
    ("TB", 1000 * 1000 * 1000 * 1000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

impl ByteSize {
    /// Reads a number, maybe with a fraction, and a unit.
    ///
    /// # Errors
    /// [`ValueError`] if there is no unit, an unknown one, or the size does not fit.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let example = "write a number and a unit, such as \"64MB\" or \"1.5GiB\"";
        let at = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let number = decimal(number).ok_or_else(|| ValueError::new("is not a size", example))?;
        let unit = unit.trim_start();
        let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
            let help = match unit.to_ascii_lowercase().as_str() {
                "" => format!("write the unit: \"{text}MB\", or \"{text}B\" for bytes"),
                "k" | "kb" => "write \"kB\" for 1000 bytes or \"KiB\" for 1024".to_owned(),
                "m" | "mb" => "write \"MB\" for 1000² bytes or \"MiB\" for 1024²".to_owned(),
                "g" | "gb" => "write \"GB\" for 1000³ bytes or \"GiB\" for 1024³".to_owned(),
                "t" | "tb" => "write \"TB\" for 1000⁴ bytes or \"TiB\" for 1024⁴".to_owned(),
                _ => "the units are B, kB, MB, GB, TB, KiB, MiB, GiB and TiB".to_owned(),
            };
            return Err(ValueError::new("has no known unit of size", help));
        };
        let too_large = || ValueError::new("is too large a size", example);
        let bytes = number.times(*factor).ok_or_else(too_large)?;
        if bytes > i64::MAX.unsigned_abs() {
            return Err(too_large());
        }
        Ok(Self(bytes))
    }
}

/// A length of time, written `500ms`, `90s`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan(pub Duration);

const TIME_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("d", 24 * 60 * 60 * 1000),
];

/// A year: longer is a mistake, and sums of such times never overflow.
const LONGEST_MILLIS: u64 = 366 * 24 * 60 * 60 * 1000;

impl TimeSpan {
    /// Reads one or more numbers with units.
    ///
    /// # Errors
    /// [`ValueError`] if there is no unit, an unknown one, or the time is zero or over a year.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let example = "write a number and a unit, such as \"500ms\", \"30s\" or \"1h30m\"";
        let wrong = || ValueError::new("is not a length of time", example);
        let mut total: u64 = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let at = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(wrong)?;
            let (number, after) = rest.split_at(at);
            let at = after
                .find(|c: char| !c.is_ascii_lowercase())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(at);
            let number = decimal(number).ok_or_else(wrong)?;
            let factor = TIME_UNITS.iter().find(|(name, _)| *name == unit);
            let (_, factor) = factor.ok_or_else(wrong)?;
            let millis = number.times(*factor).ok_or_else(wrong)?;
            total = total.saturating_add(millis);
            rest = after;
        }
        if total == 0 && !text.is_empty() {
            return Err(ValueError::new("is no time at all", example));
        }
        if total == 0 {
            return Err(wrong());
        }
        if total > LONGEST_MILLIS {
            return Err(ValueError::new("is longer than a year", example));
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

/// A decimal number as digits without the point, and how many of them follow it.
struct Decimal {
    digits: u128,
    scale: u32,
}

impl Decimal {
    /// Multiplies exactly; rounds down to a whole number.
    fn times(&self, factor: u64) -> Option<u64> {
        let product = self.digits.checked_mul(u128::from(factor))?;
        u64::try_from(product / 10u128.pow(self.scale)).ok()
    }
}

fn decimal(text: &str) -> Option<Decimal> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 20 || fraction.len() > 9 {
        return None;
    }
    Some(Decimal {
        digits: format!("{whole}{fraction}").parse().ok()?,
        scale: u32::try_from(fraction.len()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_with_a_unit_that_fits() {
        let good = [
            ("0B", 0),
            ("64MB", 64_000_000),
            ("64 MB", 64_000_000),
            ("1.5GiB", 1_610_612_736),
            ("0.1kB", 100),
            ("8TiB", 8 << 40),
        ];
        for (text, bytes) in good {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "MB",
            "64",
            "64m",
            "64mb",
            "-1MB",
            "1.MB",
            ".5MB",
            "1e3MB",
            "9999999999TB",
            "1..2MB",
        ] {
            assert!(ByteSize::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_span_is_numbers_with_units_that_fit() {
        let good = [
            ("500ms", 500),
            ("1s", 1000),
            ("1.5s", 1500),
            ("1h30m", 5_400_000),
            ("366d", 366 * 86_400_000),
        ];
        for (text, millis) in good {
            assert_eq!(
                TimeSpan::parse(text),
                Ok(TimeSpan(Duration::from_millis(millis))),
                "{text}"
            );
        }
        for text in [
            "",
            "0s",
            "1",
            "s",
            "1 s",
            "1w",
            "367d",
            "99999999999999999999d",
            "1S",
            "1s2",
        ] {
            assert!(TimeSpan::parse(text).is_err(), "{text}");
        }
        let none = TimeSpan::parse("0s").unwrap_err().to_string();
        assert!(none.contains("is no time at all"), "{none}");
    }
}
