//! Files like those of real images: sources and tables beside what is compressed already.
//!
//! Of each layer, half of the bytes are text made of words (gzip makes about a third of it) and half are
//! random, as pictures, wheels and archives are. Half of both is in files of 16 KiB, the rest in large ones.
//! The same seed gives the same bytes.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::process::{Failure, Outcome};

/// The size of the many small files.
const SMALL_BYTES: usize = 16 << 10;
/// The size of the few large ones.
const LARGE_BYTES: usize = 12 << 20;
/// How many different words text has.
const WORDS: usize = 6000;

/// Writes `mebibytes` of files below `folder`.
pub(super) fn write(folder: &Path, mebibytes: usize, seed: u64) -> Outcome {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let words = words(&mut random);
    let half = (mebibytes << 20) / 4;
    for (kind, is_text) in [("text", true), ("data", false)] {
        for (size, name) in [(SMALL_BYTES, "small"), (LARGE_BYTES, "large")] {
            let mut left = half;
            for number in 0.. {
                if left == 0 {
                    break;
                }
                let length = size.min(left);
                left -= length;
                let parent = folder.join(format!("{kind}/{name}/{:02}", number / 100));
                let path = parent.join(format!("{number:05}"));
                let written = fs::create_dir_all(&parent).and_then(|()| {
                    let mut file = BufWriter::new(fs::File::create(&path)?);
                    if is_text {
                        text(&mut file, length, &words, &mut random)?;
                    } else {
                        noise(&mut file, length, &mut random)?;
                    }
                    file.flush()
                });
                written.map_err(|error| Failure::io(&path, &error))?;
            }
        }
    }
    Ok(())
}

/// xorshift64*: enough that gzip finds nothing in it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        let wide = u128::from(self.next()) * limit as u128;
        usize::try_from(wide >> 64).unwrap_or_default()
    }
}

fn words(random: &mut Random) -> Vec<String> {
    let letters = b"etaoinshrdlucmfwypvbgkjqxz_";
    let word = |random: &mut Random| {
        let length = 2 + random.below(9);
        let letter = |random: &mut Random| {
            // The smaller of two: the first letters are the frequent ones.
            let at = random.below(letters.len()).min(random.below(letters.len()));
            char::from(letters[at])
        };
        (0..length).map(|_| letter(random)).collect::<String>()
    };
    (0..WORDS).map(|_| word(random)).collect()
}

fn text(
    out: &mut impl Write,
    length: usize,
    words: &[String],
    random: &mut Random,
) -> std::io::Result<()> {
    let mut text = String::with_capacity(length + 64);
    let mut on_line = 0;
    while text.len() < length {
        // The smallest of three: few words make up most of a text.
        let at = (0..3).map(|_| random.below(words.len())).min();
        text.push_str(&words[at.unwrap_or_default()]);
        on_line += 1;
        let ends = on_line > 6 + random.below(10);
        text.push_str(if ends { "\n    " } else { " " });
        if ends {
            on_line = 0;
        }
    }
    out.write_all(&text.as_bytes()[..length])
}

fn noise(out: &mut impl Write, length: usize, random: &mut Random) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    out.write_all(&bytes[..length])
}
