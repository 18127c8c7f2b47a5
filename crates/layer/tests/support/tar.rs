//! Archives byte by byte, for what no honest program writes.

/// An archive in the making.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a header and its content; `change` may spoil the header before it is summed.
    pub fn raw(
        mut self,
        kind: u8,
        path: &[u8],
        link: &[u8],
        content: &[u8],
        change: impl FnOnce(&mut [u8]),
    ) -> Self {
        let mut block = [0; 512];
        block[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        block[136..148].copy_from_slice(b"00000000007\0");
        block[156] = kind;
        block[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        block[257..265].copy_from_slice(b"ustar\x0000");
        change(&mut block);
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|it| u32::from(*it)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        self.raw(b'0', path.as_bytes(), b"", content.as_bytes(), |_| ())
    }

    pub fn directory(self, path: &str) -> Self {
        self.raw(b'5', path.as_bytes(), b"", b"", |it| {
            it[100..108].copy_from_slice(b"0000755\0");
        })
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(b'2', path.as_bytes(), target.as_bytes(), b"", |_| ())
    }

    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.raw(b'1', path.as_bytes(), target.as_bytes(), b"", |_| ())
    }

    pub fn device(self, path: &str, kind: u8, major: u32, minor: u32) -> Self {
        self.raw(kind, path.as_bytes(), b"", b"", |it| {
            it[329..337].copy_from_slice(format!("{major:07o}\0").as_bytes());
            it[337..345].copy_from_slice(format!("{minor:07o}\0").as_bytes());
        })
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..20)
                .map(|digits| rest + digits)
                .find(|it| rest + it.to_string().len() == *it);
            content.extend_from_slice(format!("{} {key}=", length.unwrap()).as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.raw(b'x', b"pax", b"", &content, |_| ())
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
