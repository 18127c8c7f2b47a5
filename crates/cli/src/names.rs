//! Names for containers that nobody named.

use crate::errors::{Class, Failure, Outcome};

const QUALITIES: [&str; 64] = [
    "amber", "bold", "brave", "brisk", "bright", "calm", "candid", "cheerful", "clear", "clever",
    "coral", "cosy", "crisp", "curious", "daring", "deft", "eager", "early", "easy", "fair",
    "fancy", "fine", "fleet", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy",
    "honest", "humble", "jolly", "keen", "kind", "lively", "lucid", "lucky", "mellow", "merry",
    "mild", "modest", "neat", "nimble", "noble", "patient", "plain", "proud", "quick", "quiet",
    "ready", "royal", "sharp", "silver", "smart", "snug", "sober", "solid", "steady", "sunny",
    "swift", "tidy", "warm", "witty",
];

const THINGS: [&str; 64] = [
    "anvil", "arch", "basin", "beaker", "bell", "bottle", "bowl", "brick", "bucket", "candle",
    "carafe", "casket", "chalice", "chest", "clay", "coal", "cone", "crate", "crock", "crucible",
    "cup", "dish", "ember", "flagon", "flame", "flask", "flue", "forge", "furnace", "glaze",
    "goblet", "grate", "hearth", "jar", "jug", "kettle", "ladle", "lamp", "lantern", "marble",
    "mortar", "mug", "oven", "pail", "pan", "pitcher", "plate", "platter", "pot", "quartz",
    "saucer", "shard", "slip", "spark", "spoon", "stove", "tankard", "teapot", "tile", "tray",
    "urn", "vase", "vat", "wheel",
];

/// A name for a volume that nobody named.
///
/// # Errors
/// The system has no random bytes.
pub(crate) fn of_volume() -> Outcome<kiln_store::Name> {
    let bytes = random_bytes::<16>()?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(kiln_store::Name::new(&digits)?)
}

/// Whether a volume has a name as [`of_volume`] makes them.
pub(crate) fn is_of_volume(name: &kiln_store::Name) -> bool {
    let name = name.as_str();
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.len() == 32 && name.bytes().all(is_digit)
}

fn random_bytes<const COUNT: usize>() -> Outcome<[u8; COUNT]> {
    let mut bytes = [0_u8; COUNT];
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    if got != Ok(bytes.len()) {
        let message = "the system has no random bytes";
        return Err(Failure::message(Class::Environment, message, None));
    }
    Ok(bytes)
}

/// Makes one up. The `attempt`s after the first few get a number behind it, so that one is free in the end.
///
/// # Errors
/// The system has no random bytes.
pub(crate) fn random(attempt: u32) -> Outcome<String> {
    let [quality, thing, number @ ..] = random_bytes::<4>()?;
    let pick = |words: &[&'static str; 64], byte: u8| words[usize::from(byte % 64)];
    let name = format!("{}_{}", pick(&QUALITIES, quality), pick(&THINGS, thing));
    Ok(if attempt < 3 {
        name
    } else {
        format!("{name}{}", u16::from_ne_bytes(number))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_are_different_and_names_can_be_used() {
        for words in [QUALITIES, THINGS] {
            assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), 64);
        }
        for attempt in [0, 9] {
            let name = random(attempt).expect("a name");
            assert!(kiln_store::Name::new(&name).is_ok(), "{name}");
        }
    }
}
