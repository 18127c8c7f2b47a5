//! Paragraphs of `Name: value` lines: what the databases of dpkg and apk and the metadata of Python
//! packages have in common.
//!
//! A line that begins with a space goes on with the value before it. What the names mean is not known
//! here.

/// One paragraph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Paragraph<'a> {
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Paragraph<'a> {
    /// Returns the first line of the first field of that name, unless it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// Returns the first line of each field of that name, unless it is empty.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.fields
            .iter()
            .filter(move |(known, value)| known.eq_ignore_ascii_case(name) && !value.is_empty())
            .map(|(_, value)| *value)
    }

    /// Like [`Paragraph::get`] where `p` and `P` are two names.
    pub(crate) fn exact(&self, name: &str) -> Option<&'a str> {
        let mut fields = self.fields.iter();
        let (_, value) = fields.find(|(known, value)| *known == name && !value.is_empty())?;
        Some(value)
    }
}

/// Splits `text` into its paragraphs, without empty ones.
pub(crate) fn paragraphs(text: &str) -> impl Iterator<Item = Paragraph<'_>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut paragraph = Paragraph::default();
        for line in lines.by_ref() {
            if line.trim().is_empty() {
                if paragraph.fields.is_empty() {
                    continue;
                }
                break;
            }
            let is_start = !line.starts_with([' ', '\t', '#']);
            if let Some((name, value)) = line.split_once(':').filter(|_| is_start) {
                paragraph.fields.push((name.trim_end(), value.trim()));
            }
        }
        (!paragraph.fields.is_empty()).then_some(paragraph)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_told_apart_and_long_values_do_not_matter() {
        let text = "\nPackage: a\nDescription: one\n more: text\n\n\n\nPackage: b\r\nempty:\n";
        let found: Vec<_> = paragraphs(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].get("package"), Some("a"));
        assert_eq!(found[0].get("more"), None);
        assert_eq!(found[1].get("Package"), Some("b"));
        assert_eq!(found[1].get("empty"), None);
        assert_eq!(found[1].exact("package"), None);
        assert_eq!(paragraphs("").count(), 0);
    }
}
