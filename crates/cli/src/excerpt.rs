//! A text as diagnostics show it: the lines around a place, short, and nothing in them that a terminal obeys.
//!
//! Every character takes as many bytes as in the text itself, so that places stay what they are. Finding a
//! place takes no walk through what is before it.

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// Longest line that is shown whole, in bytes.
const LINE_BYTES: usize = 400;

/// What is shown of a longer line before and behind the place.
const AROUND_BYTES: usize = 60;

/// A text with its name, ready to be shown.
#[derive(Debug)]
pub(crate) struct Excerpt {
    name: Option<String>,
    text: String,
    /// Where each line begins; never empty.
    lines: Vec<usize>,
}

impl Excerpt {
    /// Reads the whole of `source`.
    pub(crate) fn of(source: &dyn SourceCode) -> Option<Self> {
        let contents = source.read_span(&(0, 0).into(), 0, usize::MAX).ok()?;
        let text = String::from_utf8_lossy(contents.data());
        let text: String = text.chars().map(of_same_length).collect();
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Some(Self {
            name: contents.name().map(visible),
            lines: std::iter::once(0).chain(ends).collect(),
            text,
        })
    }

    /// The place, cut to what fits on a line: of a long text its beginning is enough.
    pub(crate) fn shown(&self, span: &SourceSpan) -> SourceSpan {
        let (start, end) = self.range(span);
        if end - start <= LINE_BYTES {
            return (start, end - start).into();
        }
        let line_end = self.line(self.line_of(start)).1;
        let end = self.boundary((start + AROUND_BYTES).min(line_end));
        (start, end - start).into()
    }

    fn range(&self, span: &SourceSpan) -> (usize, usize) {
        let start = self.boundary(span.offset());
        (start, self.boundary(span.offset() + span.len()).max(start))
    }

    /// The next place at or before `at` where a character begins.
    fn boundary(&self, at: usize) -> usize {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }

    fn line_of(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at) - 1
    }

    /// Where a line begins and ends, its line feed included.
    fn line(&self, number: usize) -> (usize, usize) {
        let end = self.lines.get(number + 1).copied();
        (self.lines[number], end.unwrap_or(self.text.len()))
    }

    /// The part of the text to show: from where to where.
    fn window(&self, (start, end): (usize, usize), before: usize, after: usize) -> (usize, usize) {
        if before == 0 && after == 0 {
            return (start, end);
        }
        let (first, last) = (self.line_of(start), self.line_of(end.max(start + 1) - 1));
        let is_short = |number: &usize| {
            let (start, end) = self.line(*number);
            end - start <= LINE_BYTES
        };
        if !(first..=last).all(|line| is_short(&line)) {
            let from = start.saturating_sub(AROUND_BYTES).max(self.line(first).0);
            let to = (end + AROUND_BYTES).min(self.line(last).1);
            return (self.boundary(from), self.boundary(to));
        }
        let above = (first.saturating_sub(before)..first).rev();
        let from = above.take_while(is_short).last().unwrap_or(first);
        let below = last + 1..=(last + after).min(self.lines.len() - 1);
        let to = below.take_while(is_short).last().unwrap_or(last);
        (self.line(from).0, self.line(to).1)
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        context_lines_before: usize,
        context_lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let (start, end) = self.range(span);
        let is_within_a_line = self.line_of(start) == self.line_of(end.max(start + 1) - 1);
        // Two places that are too far apart for one line are shown each by itself.
        if is_within_a_line && end - start > LINE_BYTES {
            return Err(MietteError::OutOfBounds);
        }
        let (from, to) = self.window((start, end), context_lines_before, context_lines_after);
        let (line, last) = (self.line_of(from), self.line_of(to.max(from + 1) - 1));
        let column = self.text[self.lines[line]..from].chars().count();
        let data = &self.text.as_bytes()[from..to];
        let shown = (from, to - from).into();
        let count = last - line + 1;
        let contents = match &self.name {
            Some(name) => {
                MietteSpanContents::new_named(name.clone(), data, shown, line, column, count)
            }
            None => MietteSpanContents::new(data, shown, line, column, count),
        };
        Ok(Box::new(contents))
    }
}

/// Whether a terminal would not show `character` and do something instead: move, colour, or turn the
/// direction of writing.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn of_same_length(character: char) -> char {
    match character {
        '\n' | '\t' | '\r' => character,
        _ if !is_obeyed(character) => character,
        _ => match character.len_utf8() {
            1 => '?',
            2 => '¿',
            _ => '\u{fffd}',
        },
    }
}

/// Text of a message with what a terminal would obey spelled out.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            _ if is_obeyed(character) => shown.extend(character.escape_unicode()),
            _ => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use miette::NamedSource;

    use super::*;

    fn excerpt(text: &str) -> Excerpt {
        Excerpt::of(&NamedSource::new("kiln.toml", text.to_owned())).expect("a text")
    }

    fn read(excerpt: &Excerpt, span: (usize, usize)) -> Option<(String, usize, usize)> {
        let contents = excerpt.read_span(&span.into(), 1, 1).ok()?;
        let text = String::from_utf8_lossy(contents.data()).into_owned();
        Some((text, contents.line(), contents.column()))
    }

    #[test]
    fn lines_around_a_place_are_read_as_miette_reads_them() {
        let text = "one\ntwo\r\nthree\n\nfive";
        let source = NamedSource::new("kiln.toml", text.to_owned());
        let excerpt = excerpt(text);
        // Nothing points between the two characters of a line's end.
        for start in (0..text.len()).filter(|start| !text[..*start].ends_with('\r')) {
            for length in 0..text.len() - start {
                let span = (start, length).into();
                let (own, other) = (
                    excerpt.read_span(&span, 0, 0),
                    source.read_span(&span, 0, 0),
                );
                let (own, other) = (own.expect("inside"), other.expect("inside"));
                assert_eq!(
                    (own.line(), own.column()),
                    (other.line(), other.column()),
                    "{start} {length}"
                );
                assert_eq!(own.name(), Some("kiln.toml"));
            }
        }
        let of_three = ("two\r\nthree\n\n".to_owned(), 1, 0);
        assert_eq!(read(&excerpt, (9, 5)), Some(of_three));
        assert_eq!(
            read(&excerpt, (text.len(), 0)),
            Some(("\nfive".to_owned(), 3, 0))
        );
        assert_eq!(
            read(&self::excerpt(""), (0, 0)),
            Some((String::new(), 0, 0))
        );
    }

    #[test]
    fn of_a_long_line_what_is_near_is_shown() {
        let long = "é".repeat(1000);
        let text = format!("a\n{long}x{long}\nb\n");
        let excerpt = excerpt(&text);
        let at = text.find('x').expect("is there");
        let (shown, line, column) = read(&excerpt, (at, 1)).expect("inside");
        assert!(shown.len() < 200 && shown.contains('x'), "{shown}");
        assert_eq!((line, column > 900), (1, true));
        // Beside a long line, a short one stands alone.
        assert_eq!(read(&excerpt, (0, 1)), Some(("a\n".to_owned(), 0, 0)));
        // A long place is cut; two places far apart are not one.
        let whole = (2, text.len() - 5).into();
        assert!(excerpt.shown(&whole).len() <= AROUND_BYTES);
        assert_eq!(read(&excerpt, (2, 1500)), None);
    }

    #[test]
    fn what_a_terminal_obeys_is_replaced_and_takes_the_same_room() {
        let text = "a\u{1b}[31m\u{9b}2J\u{202e}b\0\tc";
        let excerpt = excerpt(text);
        assert_eq!(excerpt.text, "a?[31m¿2J\u{fffd}b?\tc");
        assert_eq!(excerpt.text.len(), text.len());
        assert_eq!(visible("a\u{1b}[1m\u{202e}\n"), "a\\u{1b}[1m\\u{202e}\n");
    }
}
