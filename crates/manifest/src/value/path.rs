//! Paths of the project and of the container, and patterns.

use std::fmt;

use super::ValueError;

/// Longest path taken, as in the kernel.
const PATH_LIMIT_BYTES: usize = 4096;
/// Longest part of a path, as in the kernel's file systems.
const PART_LIMIT_BYTES: usize = 255;

/// An absolute path in a container: normal form, `/` or `/a/b`, no `.`, no `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerPath(String);

impl ContainerPath {
    /// Checks and normalises: repeated and trailing slashes and `.` go.
    ///
    /// # Errors
    /// [`ValueError`] if `text` is relative, has `..` or NUL, or is too long.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        if !text.starts_with('/') {
            return Err(ValueError::new(
                "is not an absolute path",
                format!("write `/{}`", text.trim_start_matches("./")),
            ));
        }
        let parts = normal_parts(text)?;
        Ok(Self(format!("/{}", parts.join("/"))))
    }

    /// The root folder.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// The path with its leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path without its leading slash; empty for the root.
    #[must_use]
    pub fn relative(&self) -> &str {
        &self.0[1..]
    }

    /// Whether this is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// Whether this is `other` or below it.
    #[must_use]
    pub fn starts_with(&self, other: &Self) -> bool {
        other.is_root()
            || self
                .0
                .strip_prefix(&other.0)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// A path of the project, relative to the manifest's folder: normal form, `.` or
/// `a/b`, no `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProjectPath(String);

impl ProjectPath {
    /// Checks and normalises: repeated and trailing slashes and `.` go.
    ///
    /// # Errors
    /// [`ValueError`] if `text` is absolute, leaves the project, has NUL, or is empty or too long.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(ValueError::new(
                "is empty",
                "write `.` for the folder of the manifest",
            ));
        }
        if text.starts_with('/') || text.starts_with('~') {
            return Err(ValueError::new(
                "is outside of the project",
                "write a path relative to the folder of the manifest",
            ));
        }
        let parts = normal_parts(text)?;
        if parts.is_empty() {
            return Ok(Self::here());
        }
        Ok(Self(parts.join("/")))
    }

    /// The folder of the manifest.
    #[must_use]
    pub fn here() -> Self {
        Self(".".to_owned())
    }

    /// The path, `.` for the manifest's folder.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Splits at slashes; refuses `..`, NUL and what the kernel would refuse as too long.
fn normal_parts(text: &str) -> Result<Vec<&str>, ValueError> {
    if text.len() >= PATH_LIMIT_BYTES {
        return Err(ValueError::new(
            format!("is longer than {} bytes", PATH_LIMIT_BYTES - 1),
            "write a shorter path",
        ));
    }
    if text.contains('\0') {
        return Err(ValueError::new("contains a NUL character", "remove it"));
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                return Err(ValueError::new(
                    "contains `..`",
                    "write the path without `..`; paths never lead out of their root",
                ));
            }
            _ if part.len() > PART_LIMIT_BYTES => {
                return Err(ValueError::new(
                    format!("has a part longer than {PART_LIMIT_BYTES} bytes"),
                    "write a shorter name",
                ));
            }
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

/// A pattern for project files: `*` and `?` within one path part, `**` across
/// parts, `[a-z]`, `{a,b}`. Relative, without `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glob(String);

impl Glob {
    /// Checks and normalises: a leading `./` and trailing slashes go.
    ///
    /// # Errors
    /// [`ValueError`] if the pattern does not parse, is absolute or leaves its base.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(ValueError::new("is empty", "write `**` for everything"));
        }
        if text.starts_with('/') {
            return Err(ValueError::new(
                "is absolute",
                "write a pattern relative to the folder of the manifest",
            ));
        }
        let parts = normal_parts(text)?;
        let pattern = if parts.is_empty() {
            "**".to_owned()
        } else {
            parts.join("/")
        };
        compile(&pattern).map_err(|error| {
            ValueError::new(
                format!("is not a valid pattern: {}", error.kind()),
                "put `\\` before a character that is meant literally",
            )
        })?;
        Ok(Self(pattern))
    }

    /// The normalised pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The compiled pattern.
    #[must_use]
    pub fn compile(&self) -> globset::Glob {
        compile(&self.0).expect("it was compiled when it was checked")
    }

    /// Whether the pattern has no special character, so that it names one path.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?', '[', '{', '\\'])
    }
}

fn compile(pattern: &str) -> Result<globset::Glob, globset::Error> {
    globset::GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
}

impl fmt::Display for ContainerPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for ProjectPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
