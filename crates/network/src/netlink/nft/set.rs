//! Sets and maps of a table, and what their keys and values are made of.

/// A part of a key or value, as `nft` numbers its types; for `nft list` alone.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// An IPv4 address.
    Address4,
    /// An IPv6 address.
    Address6,
    /// A hardware address.
    Mac,
    /// `tcp` or `udp`.
    Protocol,
    /// A port.
    Port,
    /// The name of a device.
    Device,
}

impl Part {
    const fn number(self) -> u32 {
        match self {
            Self::Address4 => 7,
            Self::Address6 => 8,
            Self::Mac => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Device => 41,
        }
    }

    /// Bytes it takes in a register.
    const fn length(self) -> u32 {
        match self {
            Self::Address4 | Self::Protocol | Self::Port => 4,
            Self::Mac => 8,
            Self::Address6 | Self::Device => 16,
        }
    }

    /// Bytes of it alone.
    const fn bare_length(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Mac => 6,
            Self::Address4 => 4,
            Self::Address6 | Self::Device => 16,
        }
    }
}

/// A set or, with values, a map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// What a key is made of.
    pub(crate) key: &'static [Part],
    /// What a value is made of; empty for a set.
    pub(crate) value: &'static [Part],
}

/// `nft` joins types of six bits each.
pub(super) fn kind(parts: &[Part]) -> u32 {
    parts
        .iter()
        .fold(0, |number, part| number << 6 | part.number())
}

/// A single part is as long as it is, several fill registers.
pub(super) fn length(parts: &[Part]) -> u32 {
    match parts {
        [part] => part.bare_length(),
        parts => parts.iter().map(|part| part.length()).sum(),
    }
}
