//! Package URLs: one name for a package, whatever its ecosystem calls it.
//!
//! Written as the [specification](https://github.com/package-url/purl-spec) has it: everything but
//! letters, digits and `.-_~:` is percent-encoded, qualifiers are sorted, and empty parts are left out.
//! Which ecosystem spells its names how is known to [`crate::sources`].

use std::collections::BTreeMap;
use std::fmt;

/// A package URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Purl {
    kind: &'static str,
    namespace: String,
    name: String,
    version: String,
    qualifiers: BTreeMap<&'static str, String>,
}

impl Purl {
    /// Names a package of an ecosystem, such as `deb`.
    pub fn new(kind: &'static str, name: &str) -> Self {
        Self {
            kind,
            namespace: String::new(),
            name: name.to_owned(),
            version: String::new(),
            qualifiers: BTreeMap::new(),
        }
    }

    /// Tells whether it is one of Debian's or of a relative's.
    pub(crate) fn is_debian(&self) -> bool {
        self.kind == "deb"
    }

    /// Returns the same package within a namespace, whose parts are separated by `/`.
    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        self.namespace = namespace.to_owned();
        self
    }

    /// Returns the package in one version.
    #[must_use]
    pub fn at(mut self, version: &str) -> Self {
        self.version = version.to_owned();
        self
    }

    /// Returns the package told apart by one more thing; nothing changes for an empty value.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: &str) -> Self {
        if !value.is_empty() {
            self.qualifiers.insert(key, value.to_owned());
        }
        self
    }
}

impl fmt::Display for Purl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkg:{}", self.kind)?;
        let parts = self.namespace.split('/').filter(|part| !part.is_empty());
        for part in parts.chain([self.name.as_str()]) {
            write!(f, "/{}", Encoded(part))?;
        }
        if !self.version.is_empty() {
            write!(f, "@{}", Encoded(&self.version))?;
        }
        let mut separator = '?';
        for (key, value) in &self.qualifiers {
            write!(f, "{separator}{key}={}", Encoded(value))?;
            separator = '&';
        }
        Ok(())
    }
}

/// Text, percent-encoded.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'.' | b'-' | b'_' | b'~' | b':' => write!(f, "{}", char::from(byte))?,
                _ if byte.is_ascii_alphanumeric() => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_are_those_of_the_specification() {
        let purl = Purl::new("deb", "attr")
            .within("debian")
            .at("1:2.4.47-2+b1")
            .with("arch", "source");
        assert_eq!(
            purl.to_string(),
            "pkg:deb/debian/attr@1:2.4.47-2%2Bb1?arch=source"
        );
        let purl = Purl::new("npm", "animation")
            .within("@angular")
            .at("12.3.1");
        assert_eq!(purl.to_string(), "pkg:npm/%40angular/animation@12.3.1");
        let purl = Purl::new("generic", "a b")
            .with("download_url", "https://example.com/a?b")
            .with("checksum", "");
        assert_eq!(
            purl.to_string(),
            "pkg:generic/a%20b?download_url=https:%2F%2Fexample.com%2Fa%3Fb"
        );
        let purl = Purl::new("golang", "v2")
            .within("github.com/a/b")
            .at("v2.1.0");
        assert_eq!(purl.to_string(), "pkg:golang/github.com/a/b/v2@v2.1.0");
    }
}
