//! Takes the values of secrets out of what a step writes.
//!
//! A step that prints its secret by mistake, as `set -x` does, must not leave it in a log that is
//! kept and shown. Knows nothing of where the bytes come from or go to.

/// What stands in the place of a value.
const STARS: &[u8] = b"***";

/// Shorter values are left alone: they are in every text by chance, and no secrets.
const SHORTEST_BYTES: usize = 4;

/// Replaces values in a stream of bytes, also where one comes in several pieces.
#[derive(Debug)]
pub(crate) struct Mask {
    /// The longest first, so that a value that begins with another is replaced as a whole.
    values: Vec<Vec<u8>>,
    /// The end of what came: it may be the beginning of a value.
    held: Vec<u8>,
}

impl Mask {
    /// A mask for these values, each line of them on its own: programs indent and wrap.
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let lines = values
            .into_iter()
            .flat_map(|value| value.split(|byte| *byte == b'\n'))
            .map(<[u8]>::trim_ascii)
            .filter(|line| line.len() >= SHORTEST_BYTES);
        let mut values: Vec<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self {
            values,
            held: Vec::new(),
        }
    }

    /// Takes more bytes and returns those that may be shown now.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.values.is_empty() {
            return bytes.to_vec();
        }
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(bytes);
        let mut shown = Vec::with_capacity(input.len());
        let mut rest = input.as_slice();
        while let Some((first, after)) = rest.split_first() {
            if let Some(value) = self.values.iter().find(|value| rest.starts_with(value)) {
                shown.extend_from_slice(STARS);
                rest = &rest[value.len()..];
            } else if self.values.iter().any(|value| value.starts_with(rest)) {
                break;
            } else {
                shown.push(*first);
                rest = after;
            }
        }
        self.held = rest.to_vec();
        shown
    }

    /// Returns what is held back: nothing comes after it.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(values: &[&[u8]], pieces: &[&[u8]]) -> String {
        let mut mask = Mask::new(values.iter().copied());
        let mut shown = Vec::new();
        for piece in pieces {
            shown.extend(mask.add(piece));
        }
        shown.extend(mask.finish());
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn values_become_stars_however_they_are_cut() {
        let text = b"a hunter2 b hunhunter2\nhunter";
        let expected = "a *** b hun***\nhunter";
        for cut in 0..=text.len() {
            let (one, two) = text.split_at(cut);
            assert_eq!(masked(&[b"hunter2"], &[one, two]), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(masked(&[b"hunter2"], &bytes), expected);
    }

    #[test]
    fn the_longest_value_wins_and_lines_count_alone() {
        assert_eq!(
            masked(&[b"pass", b"password"], &[b"password pass"]),
            "*** ***"
        );
        assert_eq!(
            masked(
                &[b"first line\n  second line\n"],
                &[b"> second line\n> first line"]
            ),
            "> ***\n> ***"
        );
    }

    #[test]
    fn without_secrets_nothing_is_held_back() {
        let mut mask = Mask::new([]);
        assert_eq!(mask.add(b"text"), b"text");
        assert_eq!(masked(&[b"", b"\n", b"abc"], &[b"abc"]), "abc");
    }
}
