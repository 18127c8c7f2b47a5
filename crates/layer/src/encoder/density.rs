//! Which parts of a block gzip would not make smaller, by the frequencies of their bytes.

/// libdeflate's fastest, which comes to the size of zlib's level 3 in about half the time.
pub(super) const GZIP_LEVEL: i32 = 1;
/// The level that stores.
pub(super) const STORED: i32 = 0;
/// Length of what is judged as one. Changing this changes the digests of compressed layers.
pub(super) const PART_BYTES: usize = 64 << 10;
/// Up to how many pairs of equal bytes a part is taken to be compressed already. Bytes without any pattern
/// have [`PART_BYTES`]² / 256 of them; a sixteenth more are 7.91 bits for each byte, of which gzip makes next to
/// nothing less.
const DENSE_PAIRS: u64 = (PART_BYTES as u64 * PART_BYTES as u64) / 256 / 16 * 17;
/// Length of the beginning of a part that mostly tells enough: what has a quarter more pairs than chance gives there is
/// taken for something that gzip makes smaller.
const BEGINNING_BYTES: usize = 4 << 10;
const LOOSE_PAIRS: u64 = (BEGINNING_BYTES as u64 * BEGINNING_BYTES as u64) / 256 / 4 * 5;

/// Cuts a block into runs that are compressed at one level each; an empty block is one run.
pub(super) fn runs(block: &[u8]) -> Vec<(i32, &[u8])> {
    let mut runs = Vec::new();
    let mut start = 0;
    let mut level = level_for(&block[..block.len().min(PART_BYTES)]);
    for (number, part) in block.chunks(PART_BYTES).enumerate() {
        let wanted = level_for(part);
        if wanted != level {
            let at = number * PART_BYTES;
            runs.push((level, &block[start..at]));
            (start, level) = (at, wanted);
        }
    }
    runs.push((level, &block[start..]));
    runs
}

fn level_for(part: &[u8]) -> i32 {
    // Of less, the frequencies say little.
    let is_whole = part.len() == PART_BYTES;
    if is_whole && pairs(&part[..BEGINNING_BYTES]) <= LOOSE_PAIRS && pairs(part) <= DENSE_PAIRS {
        STORED
    } else {
        GZIP_LEVEL
    }
}

/// How many pairs of bytes are equal, wherever they are: whole numbers, which are the same on every machine.
fn pairs(part: &[u8]) -> u64 {
    // Four tables, since the same byte mostly comes several times in a row.
    let mut counts = [[0_u64; 256]; 4];
    let mut quads = part.chunks_exact(4);
    for quad in quads.by_ref() {
        for (table, byte) in counts.iter_mut().zip(quad) {
            table[usize::from(*byte)] += 1;
        }
    }
    for byte in quads.remainder() {
        counts[0][usize::from(*byte)] += 1;
    }
    let count = |value: usize| counts.iter().map(|table| table[value]).sum::<u64>();
    (0..256).map(|value| count(value).pow(2)).sum()
}
