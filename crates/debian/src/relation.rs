//! Relationship fields: `Depends: a (>= 1) | b, c:any`, and `Provides`.
//!
//! Knows nothing of which packages exist.

use std::cmp::Ordering;
use std::fmt;

use crate::version;

/// One alternative: a package name, possibly with a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relation {
    /// The package named.
    pub name: String,
    /// What follows the name after `:`, such as `any`, `native` or an architecture.
    pub qualifier: Option<String>,
    /// The versions that will do; all, if there is none.
    pub constraint: Option<Constraint>,
}

/// A set of versions, `(>= 1.2)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Constraint {
    /// How a version must compare.
    pub operator: Operator,
    /// What it is compared with.
    pub version: String,
}

/// The five comparisons of policy §7.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
}

/// One relation of a field: any of the alternatives will do; the first is preferred.
pub type Alternatives = Vec<Relation>;

/// A relationship field that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a package relationship: {problem}")]
#[must_use]
pub struct RelationError {
    /// The part that is wrong, cut to a length that fits a message.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Constraint {
    /// Whether `version` is in the set.
    pub fn allows(&self, version: &str) -> bool {
        let order = version::compare(version, &self.version);
        match self.operator {
            Operator::Earlier => order == Ordering::Less,
            Operator::EarlierOrEqual => order != Ordering::Greater,
            Operator::Equal => order == Ordering::Equal,
            Operator::LaterOrEqual => order != Ordering::Less,
            Operator::Later => order == Ordering::Greater,
        }
    }
}

impl Relation {
    /// Whether a package of this name with `version` will do.
    pub fn allows(&self, version: &str) -> bool {
        self.constraint
            .as_ref()
            .is_none_or(|constraint| constraint.allows(version))
    }

    /// Whether a `Provides` entry of this name will do: one without a version satisfies only a
    /// relation without a version (policy §7.5).
    pub fn allows_provided(&self, provided: Option<&str>) -> bool {
        match (&self.constraint, provided) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(constraint), Some(version)) => constraint.allows(version),
        }
    }
}

/// Reads a field: relations separated by commas, each of alternatives separated by `|`.
///
/// # Errors
/// [`RelationError`] with the first part that cannot be read.
pub fn parse(field: &str) -> Result<Vec<Alternatives>, RelationError> {
    field
        .split(',')
        .map(str::trim)
        .filter(|relation| !relation.is_empty())
        .map(|relation| relation.split('|').map(parse_one).collect())
        .collect()
}

/// Reads a field without alternatives (`Provides`, `Conflicts`, `Breaks`, `Replaces`).
///
/// # Errors
/// [`RelationError`] with the first part that cannot be read.
pub fn parse_flat(field: &str) -> Result<Vec<Relation>, RelationError> {
    field
        .split(',')
        .map(str::trim)
        .filter(|relation| !relation.is_empty())
        .map(parse_one)
        .collect()
}

fn parse_one(text: &str) -> Result<Relation, RelationError> {
    let text = text.trim();
    let refuse = |problem| {
        Err(RelationError {
            text: text.chars().take(80).collect(),
            problem,
        })
    };
    let end = text
        .find(|letter: char| letter.is_whitespace() || letter == '(' || letter == '[')
        .unwrap_or(text.len());
    let (full_name, rest) = text.split_at(end);
    let (name, qualifier) = match full_name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (full_name, None),
    };
    if !is_package_name(name) {
        return refuse("it does not start with a package name");
    }
    let rest = rest.trim();
    let constraint = match rest.strip_prefix('(') {
        None if rest.is_empty() => None,
        None => return refuse("after the name comes a version in parentheses, or nothing"),
        Some(inner) => {
            let Some(inner) = inner.strip_suffix(')') else {
                return refuse("the parenthesis is not closed");
            };
            let inner = inner.trim();
            let end = inner
                .find(|letter| !"<>=".contains(letter))
                .unwrap_or(inner.len());
            let (operator, version) = inner.split_at(end);
            let operator = match operator {
                "<<" => Operator::Earlier,
                "<=" | "<" => Operator::EarlierOrEqual,
                "=" | "" => Operator::Equal,
                ">=" | ">" => Operator::LaterOrEqual,
                ">>" => Operator::Later,
                _ => return refuse("the comparison is none of `<<`, `<=`, `=`, `>=`, `>>`"),
            };
            let version = version.trim();
            if version.is_empty() || version.contains(char::is_whitespace) {
                return refuse("there is no version after the comparison");
            }
            Some(Constraint {
                operator,
                version: version.to_owned(),
            })
        }
    };
    Ok(Relation {
        name: name.to_owned(),
        qualifier: qualifier.map(str::to_owned),
        constraint,
    })
}

/// Whether `name` is a package name (policy §5.6.1), which makes it safe in a path and on a command
/// line.
pub fn is_package_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.len() <= 128
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Earlier => "<<",
            Self::EarlierOrEqual => "<=",
            Self::Equal => "=",
            Self::LaterOrEqual => ">=",
            Self::Later => ">>",
        })
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(qualifier) = &self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        if let Some(Constraint { operator, version }) = &self.constraint {
            write!(f, " ({operator} {version})")?;
        }
        Ok(())
    }
}

/// Shows alternatives as a control file writes them.
pub fn show(alternatives: &[Relation]) -> String {
    let shown: Vec<String> = alternatives.iter().map(ToString::to_string).collect();
    shown.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_and_shown_again() {
        let field = "libc6 (>= 2.34), default-mta | mail-transport-agent, python3:any (<< 3.12), g++-12(=12.2.0-14),";
        let parsed = parse(field).unwrap();
        let shown: Vec<String> = parsed.iter().map(|one| show(one)).collect();
        assert_eq!(
            shown.join(", "),
            "libc6 (>= 2.34), default-mta | mail-transport-agent, python3:any (<< 3.12), g++-12 (= 12.2.0-14)"
        );
        assert_eq!(parsed[2][0].qualifier.as_deref(), Some("any"));
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn broken_relations_are_refused() {
        for field in [
            "a (>= 1",
            "a (~ 1)",
            "a >= 1",
            "(>= 1)",
            "a ()",
            "a | | b",
            "../x",
            "a (>= 1 2)",
        ] {
            assert!(parse(field).is_err(), "{field}");
        }
    }

    #[test]
    fn versions_of_packages_and_of_provides() {
        let relation = |field: &str| parse(field).unwrap().remove(0).remove(0);
        assert!(relation("a (>= 1.0)").allows("1.0-1"));
        assert!(!relation("a (>> 1.0)").allows("1.0"));
        assert!(relation("a (<< 1.0)").allows("1.0~rc1"));
        assert!(relation("a (= 1.0)").allows("0:1.0-0"));
        assert!(relation("a").allows_provided(None));
        assert!(!relation("a (>= 1)").allows_provided(None));
        assert!(relation("a (>= 1)").allows_provided(Some("1")));
    }
}
