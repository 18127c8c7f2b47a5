//! Attributes of messages, written and read.

/// `struct nlattr` one after the other.
#[derive(Debug, Default)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("rules are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn bytes(self, kind: u16, value: &[u8]) -> Self {
        self.attribute(kind, value)
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub(super) fn nested(self, kind: u16, value: Self) -> Self {
        const NESTED: u16 = 1 << 15;
        self.attribute(kind | NESTED, &value.0)
    }
}

/// The value of the first attribute of a kind.
pub(super) fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const FLAGS: u16 = 3 << 14;
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        if found & !FLAGS == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    let value = value.get(..end.unwrap_or(value.len())).unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}
