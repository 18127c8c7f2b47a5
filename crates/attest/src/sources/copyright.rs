//! The copyright files of Debian packages, where they are made for machines.
//!
//! [Format 1.0](https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/) (DEP-5) gives each group
//! of files a `License:` in short names of its own. Those that mean exactly one licence of the SPDX list become
//! its identifier; every other name becomes a `LicenseRef-` that is made of the name and the text, so that
//! equal licences are equal in all packages. A file that is not in this format says nothing here: prose is not
//! guessed at.

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::Digest;

use crate::licence::Licence;

/// Where the packages keep them, from the root of an image.
pub(crate) fn path(package: &str) -> String {
    format!("usr/share/doc/{package}/copyright")
}

/// What a copyright file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copyright {
    /// The licences of all files together, as an SPDX expression.
    pub(crate) expression: String,
    /// The texts of licences that are not on the SPDX list, by their `LicenseRef-`.
    pub(crate) texts: BTreeMap<String, String>,
}

/// A paragraph's fields: name, first line, and the lines after it.
type Paragraph<'a> = Vec<(&'a str, &'a str, String)>;

/// Reads a copyright file; `None` if it is not for machines, or breaks its rules.
pub(crate) fn read(text: &str) -> Option<Copyright> {
    let paragraphs = paragraphs(text);
    let (header, rest) = paragraphs.split_first()?;
    let format = field(header, "Format")?.0;
    if !format
        .trim_end_matches('/')
        .ends_with("copyright-format/1.0")
    {
        return None;
    }
    let mut bodies = BTreeMap::new();
    for paragraph in &paragraphs {
        if let Some((name, body)) = field(paragraph, "License")
            && !body.trim().is_empty()
        {
            bodies.entry(name.to_ascii_lowercase()).or_insert(body);
        }
    }
    let mut texts = BTreeMap::new();
    let mut named = |name: &str| match exact(name) {
        Some(identifier) => identifier,
        None => {
            let body = bodies.get(&name.to_ascii_lowercase());
            let text = body.map_or(name, |body| body.trim_end());
            let reference = reference(name, text);
            texts.insert(reference.clone(), text.to_owned());
            reference
        }
    };
    let mut all = BTreeSet::new();
    let mut add = |line| {
        let expression = expression(line, &mut named)?;
        if expression.contains(" OR ") {
            all.insert(expression);
        } else {
            all.extend(expression.split(" AND ").map(str::to_owned));
        }
        Some(())
    };
    if let Some((line, _)) = field(header, "License") {
        add(line)?;
    }
    for paragraph in rest.iter().filter(|it| field(it, "Files").is_some()) {
        add(field(paragraph, "License")?.0)?;
    }
    let is_one = all.len() == 1;
    let parts = all.iter().map(|part| match part.contains(" OR ") {
        true if !is_one => format!("({part})"),
        _ => part.clone(),
    });
    let expression = parts.collect::<Vec<_>>().join(" AND ");
    let is_valid = matches!(Licence::of(&expression), Licence::Expression(_));
    is_valid.then_some(Copyright { expression, texts })
}

fn field<'a>(paragraph: &'a Paragraph<'_>, name: &str) -> Option<(&'a str, &'a str)> {
    let mut fields = paragraph.iter();
    let (_, line, body) = fields.find(|(known, ..)| known.eq_ignore_ascii_case(name))?;
    Some((line, body))
}

fn paragraphs(text: &str) -> Vec<Paragraph<'_>> {
    let mut all = vec![Vec::new()];
    for line in text.lines() {
        let current: &mut Paragraph<'_> = all.last_mut().expect("there is always one");
        if line.trim().is_empty() {
            if !current.is_empty() {
                all.push(Vec::new());
            }
        } else if let Some(more) = line.strip_prefix([' ', '\t']) {
            if let Some((.., body)) = current.last_mut() {
                // A lone full stop stands for an empty line.
                body.push_str(if more.trim() == "." { "" } else { more });
                body.push('\n');
            }
        } else if let Some((name, value)) = line.split_once(':')
            && !line.starts_with('#')
        {
            current.push((name.trim_end(), value.trim(), String::new()));
        }
    }
    all.retain(|paragraph| !paragraph.is_empty());
    all
}

/// Turns `A or B, and C` into `(A OR B) AND C`: a comma before the word binds least.
fn expression(line: &str, named: &mut impl FnMut(&str) -> String) -> Option<String> {
    let mut parts = Vec::new();
    let mut operators = BTreeSet::new();
    for (number, part) in line.split(',').enumerate() {
        let mut words: Vec<&str> = part.split_whitespace().collect();
        if number > 0 {
            operators.insert(operator(words.first()?)?);
            words.remove(0);
        }
        parts.push(alternatives(&words, named)?);
    }
    let mut operators = operators.into_iter();
    match (operators.next(), operators.next()) {
        (None, _) => parts.pop(),
        (Some("AND"), None) => {
            let in_brackets = |part: String| match part.contains(" OR ") {
                true => format!("({part})"),
                false => part,
            };
            let parts: Vec<String> = parts.into_iter().map(in_brackets).collect();
            Some(parts.join(" AND "))
        }
        (Some(_), None) => Some(parts.join(" OR ")),
        // Which of them comes first is not said.
        (Some(_), Some(_)) => None,
    }
}

/// Names between `and`, which binds more, and `or`; a name may be several words.
fn alternatives(words: &[&str], named: &mut impl FnMut(&str) -> String) -> Option<String> {
    let mut out = String::new();
    let mut name = Vec::new();
    for word in words.iter().copied().map(Some).chain([None]) {
        let end = word.map_or(Some(""), operator);
        let Some(operator) = end else {
            name.extend(word);
            continue;
        };
        if name.is_empty() {
            return None;
        }
        out.push_str(&named(&name.join(" ")));
        name.clear();
        if !operator.is_empty() {
            out.push_str(&format!(" {operator} "));
        }
    }
    Some(out)
}

fn operator(word: &str) -> Option<&'static str> {
    if word.eq_ignore_ascii_case("and") {
        Some("AND")
    } else if word.eq_ignore_ascii_case("or") {
        Some("OR")
    } else {
        None
    }
}

/// Short names of the format that mean one licence of the SPDX list.
const SAME: &[(&str, &str)] = &[
    ("expat", "MIT"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd-4-clause", "BSD-4-Clause"),
    ("cc0", "CC0-1.0"),
    ("isc", "ISC"),
    ("zlib", "Zlib"),
];

/// Families of GNU's licences: how the format and SPDX begin their names, and what SPDX adds.
const GNU: &[(&str, &str, &str)] = &[
    ("agpl-", "AGPL-", ""),
    ("gfdl-niv-", "GFDL-", "-no-invariants"),
    ("gfdl-", "GFDL-", ""),
    ("gpl-", "GPL-", ""),
    ("lgpl-", "LGPL-", ""),
];

/// Returns the SPDX identifier of a short name, if there is exactly one.
///
/// The format itself warns that `MIT` may be any of many; `Artistic` and `Python` leave open which version.
fn exact(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if let Some((_, identifier)) = SAME.iter().find(|(known, _)| *known == lower) {
        return Some((*identifier).to_owned());
    }
    for (prefix, identifier, further) in GNU {
        let Some(version) = lower.strip_prefix(prefix) else {
            continue;
        };
        let (version, which) = match version.strip_suffix('+') {
            Some(version) => (version, "or-later"),
            None => (version, "only"),
        };
        let dotted = if version.contains('.') {
            version.to_owned()
        } else {
            format!("{version}.0")
        };
        let found = format!("{identifier}{dotted}{further}-{which}");
        return spdx::license_id(&found).map(|it| it.name.to_owned());
    }
    let same = spdx::license_id(name).filter(|it| it.name == name && name != "MIT");
    same.map(|it| it.name.to_owned())
}

/// Names a licence that SPDX does not list.
fn reference(name: &str, text: &str) -> String {
    let plain = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => letter,
        _ => '-',
    };
    let name: String = name.chars().take(60).map(plain).collect();
    let hash = Digest::of(text.as_bytes()).hex();
    format!("LicenseRef-{name}-{}", &hash[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(licences: &[&str]) -> Option<Copyright> {
        let mut text =
            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
                .to_owned();
        for licence in licences {
            text += &format!("\nFiles: *\nCopyright: somebody\nLicense: {licence}\n");
        }
        text += "\nLicense: public-domain\n Do what\n .\n you want.\n";
        read(&text)
    }

    fn expression_of(licences: &[&str]) -> String {
        of(licences).map_or_else(String::new, |it| it.expression)
    }

    #[test]
    fn short_names_that_mean_one_licence_become_its_identifier() {
        for (short, identifier) in [
            ("Expat", "MIT"),
            ("GPL-2+", "GPL-2.0-or-later"),
            ("gpl-3", "GPL-3.0-only"),
            ("LGPL-2.1+", "LGPL-2.1-or-later"),
            ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
            ("Apache-2.0", "Apache-2.0"),
            ("BSD-3-clause", "BSD-3-Clause"),
            ("CC0", "CC0-1.0"),
        ] {
            assert_eq!(expression_of(&[short]), identifier);
        }
    }

    #[test]
    fn what_is_not_exact_is_a_reference_with_its_text() {
        let of = of(&["public-domain", "MIT", "GPL-2+ with OpenSSL exception"]).unwrap();
        assert_eq!(of.texts.len(), 3);
        let (name, text) = of
            .texts
            .iter()
            .find(|(name, _)| name.contains("public"))
            .unwrap();
        assert_eq!(text, "Do what\n\nyou want.");
        assert!(name.starts_with("LicenseRef-public-domain-"), "{name}");
        assert!(of.expression.contains("LicenseRef-MIT-"));
        assert!(
            of.expression
                .contains("LicenseRef-GPL-2--with-OpenSSL-exception-")
        );
        assert_eq!(of.expression.matches(" AND ").count(), 2);
    }

    #[test]
    fn several_licences_are_put_together_as_they_bind() {
        assert_eq!(
            expression_of(&["GPL-2+ or Expat, and ISC"]),
            "(GPL-2.0-or-later OR MIT) AND ISC"
        );
        assert_eq!(
            expression_of(&["GPL-2+ or Expat and ISC"]),
            "GPL-2.0-or-later OR MIT AND ISC"
        );
        assert_eq!(
            expression_of(&["Expat", "GPL-2 or Zlib", "Expat"]),
            "(GPL-2.0-only OR Zlib) AND MIT"
        );
        assert_eq!(expression_of(&["Expat, or GPL-2, and ISC"]), "");
        assert_eq!(expression_of(&["ISC and Expat", "Expat"]), "ISC AND MIT");
        assert_eq!(expression_of(&["and"]), "");
    }

    #[test]
    fn prose_says_nothing() {
        assert_eq!(read(""), None);
        assert_eq!(
            read("This package was debianized by hand.\n\nLicense: GPL-2\n"),
            None
        );
        let old = "Format-Specification: x\n\nFiles: *\nLicense: GPL-2\n";
        assert_eq!(read(old), None);
        assert_eq!(of(&[""]), None);
        assert_eq!(of(&[]), None);
    }
}
