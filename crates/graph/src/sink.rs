//! Where described inputs go: into a [`CacheKey`], or into a text that can be compared later.
//!
//! A thing is described as a sequence of fields, each with a name, perhaps an item within that name,
//! and a value. [`Hasher`] and [`Text`] are both injective on that sequence, therefore two keys are
//! equal exactly when the two texts are, and a difference of texts explains a difference of keys.
//! Neither knows what the fields mean.
//!
//! ```text
//! key:   BLAKE3( len(name) name  0 | 1 len(item) item  len(value) value … )     len: u64, little endian
//! text:  name = value
//!        name item = value          with \\, \n, \r, \t and \xNN escapes; a space in an item is \x20
//! ```

use std::fmt;

/// Takes the fields that describe a thing, in an order that belongs to the description.
pub trait Sink {
    /// Takes the only, or the next, value of `name`.
    fn field(&mut self, name: &'static str, value: &[u8]);

    /// Takes the value that `item` has within `name`, as a variable has one within an environment.
    fn item(&mut self, name: &'static str, item: &[u8], value: &[u8]);
}

/// What decides the result of a step: BLAKE3 over its described inputs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// Wraps the 32 raw bytes of a key that was stored.
    pub fn from_raw(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// Returns the 32 raw bytes.
    pub fn as_raw(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// Reads 64 hex digits; `None` for any other text.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let hash = blake3::Hash::from_hex(hex).ok()?;
        Some(Self(*hash.as_bytes()))
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// Makes a [`CacheKey`] of what is described to it.
#[derive(Debug, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Starts an empty description.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the key of everything described so far.
    pub fn finish(&self) -> CacheKey {
        CacheKey(*self.0.finalize().as_bytes())
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

impl Sink for Hasher {
    fn field(&mut self, name: &'static str, value: &[u8]) {
        self.part(name.as_bytes());
        self.0.update(&[0]);
        self.part(value);
    }

    fn item(&mut self, name: &'static str, item: &[u8], value: &[u8]) {
        self.part(name.as_bytes());
        self.0.update(&[1]);
        self.part(item);
        self.part(value);
    }
}

/// Writes what is described to it as text, one line for each field.
///
/// The text is what a step record keeps, so that a later build can say what changed.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Starts an empty description.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the text of everything described so far.
    pub fn finish(self) -> String {
        self.0
    }
}

impl Sink for Text {
    fn field(&mut self, name: &'static str, value: &[u8]) {
        self.0.push_str(name);
        self.0.push_str(" = ");
        escape(value, false, &mut self.0);
        self.0.push('\n');
    }

    fn item(&mut self, name: &'static str, item: &[u8], value: &[u8]) {
        self.0.push_str(name);
        self.0.push(' ');
        escape(item, true, &mut self.0);
        self.0.push_str(" = ");
        escape(value, false, &mut self.0);
        self.0.push('\n');
    }
}

/// Appends `bytes` in a form without line breaks that no other bytes have.
fn escape(bytes: &[u8], escape_space: bool, out: &mut String) {
    use fmt::Write;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                ' ' if escape_space => out.push_str("\\x20"),
                other if other.is_control() => {
                    let mut buffer = [0; 4];
                    for byte in other.encode_utf8(&mut buffer).bytes() {
                        write!(out, "\\x{byte:02x}").expect("a String takes everything");
                    }
                }
                other => out.push(other),
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}").expect("a String takes everything");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Field = (usize, Option<Vec<u8>>, Vec<u8>);

    const NAMES: [&str; 4] = ["a", "b", "ab", "argv"];

    fn describe(fields: &[Field], sink: &mut impl Sink) {
        for (name, item, value) in fields {
            match item {
                None => sink.field(NAMES[*name], value),
                Some(item) => sink.item(NAMES[*name], item, value),
            }
        }
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::sample::select(vec![
            &b"a"[..],
            b"b",
            b" ",
            b"=",
            b" = ",
            b"\n",
            b"\\",
            b"\\n",
            b"n",
            b"\x00",
            b"\xff",
            b"x20",
            "é".as_bytes(),
            "\u{85}".as_bytes(),
            b"\xc2",
            b"\x85",
        ]);
        prop::collection::vec(pieces, 0..4).prop_map(|pieces| pieces.concat())
    }

    fn fields() -> impl Strategy<Value = Vec<Field>> {
        prop::collection::vec((0..NAMES.len(), prop::option::of(bytes()), bytes()), 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]
        #[test]
        fn key_and_text_tell_the_same_things_apart(old in fields(), new in fields()) {
            let seen = |fields: &[Field]| {
                let (mut hasher, mut text) = (Hasher::new(), Text::new());
                describe(fields, &mut hasher);
                describe(fields, &mut text);
                (hasher.finish(), text.finish())
            };
            let ((old_key, old_text), (new_key, new_text)) = (seen(&old), seen(&new));
            prop_assert_eq!(old == new, old_key == new_key);
            prop_assert_eq!(old == new, old_text == new_text);
            prop_assert_eq!(new_text.lines().count(), new.len());
        }
    }

    #[test]
    fn text_reads_well() {
        let mut text = Text::new();
        text.field("argv", b"make && make install\n");
        text.item("env", b"A B", b"\xff");
        assert_eq!(
            text.finish(),
            "argv = make && make install\\n\nenv A\\x20B = \\xff\n"
        );
    }

    #[test]
    fn keys_round_trip_through_hex() {
        let key = Hasher::new().finish();
        assert_eq!(CacheKey::from_hex(&key.hex()), Some(key));
        assert_eq!(CacheKey::from_hex("00"), None);
    }
}
