//! Paragraphs of `Field: value` lines, the form of every control file, index and status file.
//!
//! Knows no field names: what a field means is for the caller.

/// One paragraph: its fields in the order they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paragraph<'a> {
    fields: Vec<(&'a str, &'a str)>,
    text: &'a str,
}

/// A line that belongs to no field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not `Field: value`: `{text}`")]
#[must_use]
pub struct ControlError {
    /// The line, counted from 1.
    pub line: usize,
    /// Its start.
    pub text: String,
}

impl<'a> Paragraph<'a> {
    /// Returns the value of `name` (in any case), trimmed; continuation lines are part of it as they
    /// are written.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }

    /// Returns the fields in the order they are written.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.fields.iter().copied()
    }

    /// Returns the paragraph as it is written, with a newline at the end of each line but perhaps
    /// the last.
    pub fn text(&self) -> &'a str {
        self.text
    }
}

/// Splits `text` into its paragraphs; comment lines (`#`) are skipped.
pub fn paragraphs(text: &str) -> Paragraphs<'_> {
    Paragraphs {
        rest: text,
        line: 0,
    }
}

/// The paragraphs of a text, in order. After an error there are no more.
#[derive(Debug, Clone)]
pub struct Paragraphs<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Paragraphs<'a> {
    fn next_line(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = match self.rest.find('\n') {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, ""),
        };
        self.rest = rest;
        self.line += 1;
        Some(line)
    }
}

/// Returns the part of `whole` from the start of `first` to the end of `last`, both parts of it.
fn join<'a>(whole: &'a str, first: &'a str, last: &'a str) -> &'a str {
    let start = first.as_ptr() as usize - whole.as_ptr() as usize;
    let end = last.as_ptr() as usize + last.len() - whole.as_ptr() as usize;
    &whole[start..end]
}

impl<'a> Iterator for Paragraphs<'a> {
    type Item = Result<Paragraph<'a>, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        let whole = self.rest;
        let mut fields: Vec<(&'a str, &'a str)> = Vec::new();
        let mut span: Option<(&'a str, &'a str)> = None;
        while let Some(line) = self.next_line() {
            if line.starts_with('#') {
                continue;
            }
            if line.trim().is_empty() {
                if fields.is_empty() {
                    continue;
                }
                break;
            }
            span = Some((span.map_or(line, |(first, _)| first), line));
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    *value = join(whole, value, line.trim_end());
                    continue;
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim_end(), value.trim()));
                continue;
            }
            self.rest = "";
            return Some(Err(ControlError {
                line: self.line,
                text: line.chars().take(80).collect(),
            }));
        }
        span.map(|(first, last)| {
            Ok(Paragraph {
                fields,
                text: join(whole, first, last),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_fields_and_continuations() {
        let text = "\n# note\nPackage: a\nDescription: short\n long\n .\n more  \n\n\nPackage:b\nDepends:\n";
        let all: Vec<_> = paragraphs(text).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("package"), Some("a"));
        assert_eq!(all[0].get("Description"), Some("short\n long\n .\n more"));
        assert_eq!(
            all[0].text(),
            "Package: a\nDescription: short\n long\n .\n more  "
        );
        assert_eq!(all[1].get("Package"), Some("b"));
        assert_eq!(all[1].get("Depends"), Some(""));
        assert_eq!(all[1].get("Version"), None);
    }

    #[test]
    fn a_value_that_starts_on_the_next_line_is_kept() {
        let text = "SHA256:\n abc 1 x\n def 2 y\nOther: z";
        let only = paragraphs(text).next().unwrap().unwrap();
        assert_eq!(
            only.get("SHA256").map(str::trim_start),
            Some("abc 1 x\n def 2 y")
        );
        assert_eq!(only.get("Other"), Some("z"));
    }

    #[test]
    fn a_line_without_a_field_is_an_error() {
        let mut all = paragraphs("Package: a\n\nnonsense\n\nPackage: b\n");
        assert!(all.next().unwrap().is_ok());
        let error = all.next().unwrap().unwrap_err();
        assert_eq!((error.line, error.text.as_str()), (3, "nonsense"));
        assert!(all.next().is_none());
        assert!(
            paragraphs(" starts with a continuation")
                .next()
                .unwrap()
                .is_err()
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[ \n:#a\u{e9}\t\r-]{0,40}") {
            for paragraph in paragraphs(&text) {
                drop(paragraph);
            }
        }
    }
}
