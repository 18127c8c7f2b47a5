//! Names, modes, users, signals.

use std::borrow::Borrow;
use std::fmt;

use super::ValueError;

/// Longest name taken: a label of a host name, since services become host names.
const NAME_LIMIT: usize = 63;

/// The name of an image, step, service, volume, cache, secret, arg or profile:
/// `[a-z0-9][a-z0-9_-]*`, at most 63 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ValueError`] if it has other characters, or is empty or too long.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let first = text
            .chars()
            .next()
            .ok_or_else(|| ValueError::new("is empty", "write a name"))?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if !allowed(first) || !text.chars().all(|c| allowed(c) || c == '_' || c == '-') {
            return Err(ValueError::new(
                "is not a name",
                "use `a`-`z`, `0`-`9`, `_` and `-`, beginning with a letter or a digit",
            ));
        }
        if text.len() > NAME_LIMIT {
            return Err(ValueError::new(
                format!("is longer than {NAME_LIMIT} characters"),
                "write a shorter name",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The name of an environment variable: not empty, no `=`, no NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvName(String);

impl EnvName {
    /// Checks the name of an environment variable.
    ///
    /// # Errors
    /// [`ValueError`] if it is empty or has `=`, NUL or white space.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() || text.contains(['=', '\0']) || text.contains(char::is_whitespace) {
            return Err(ValueError::new(
                "is not a name of an environment variable",
                "use letters, digits and `_`",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for EnvName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Permission bits, `0` to `07777`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mode(u32);

impl Mode {
    /// Reads octal digits, `755` or `0755`.
    ///
    /// # Errors
    /// [`ValueError`] if it is not three or four octal digits (five with a leading zero).
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let digits = text.len() >= 3 && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
        let bits = u32::from_str_radix(text, 8)
            .ok()
            .filter(|bits| digits && *bits <= 0o7777);
        bits.map(Self)
            .ok_or_else(|| ValueError::new("is not a mode", "write octal digits, such as \"0755\""))
    }

    /// The bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

/// A user and maybe a group, each by name or number: `app`, `10001`, `app:staff`, `0:0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserSpec {
    /// Name or number.
    pub user: String,
    /// Name or number. If absent: the user's own group, or the same number for a number that no account has.
    pub group: Option<String>,
}

impl UserSpec {
    /// Reads `user` or `user:group`.
    ///
    /// # Errors
    /// [`ValueError`] if a part is empty, has characters no account can have, or is too big a number.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        for part in [Some(user), group].into_iter().flatten() {
            check_account(part)?;
        }
        Ok(Self {
            user: user.to_owned(),
            group: group.map(str::to_owned),
        })
    }
}

/// Largest id: the last one is the kernel's "no such id".
pub(crate) const ID_LIMIT: u32 = u32::MAX - 1;

fn check_account(text: &str) -> Result<(), ValueError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return match text.parse::<u32>() {
            Ok(id) if id <= ID_LIMIT => Ok(()),
            _ => Err(ValueError::new(
                "has an id that is too large",
                format!("the largest id is {ID_LIMIT}"),
            )),
        };
    }
    check_account_name(text)
}

/// Checks the name of a user or a group by the rules of Debian's `adduser`, upper case allowed.
pub(crate) fn check_account_name(text: &str) -> Result<(), ValueError> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let other = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let good = text.len() <= 32
        && text.starts_with(first)
        && text.strip_suffix('$').unwrap_or(text).chars().all(other);
    if good {
        Ok(())
    } else {
        Err(ValueError::new(
            "is not a user",
            "write a name or a number, and optionally `:` and a group: \"app\", \"10001\", \"app:staff\"",
        ))
    }
}

impl fmt::Display for UserSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.user)?;
        match &self.group {
            Some(group) => write!(formatter, ":{group}"),
            None => Ok(()),
        }
    }
}

/// A signal by its full name, `SIGTERM`, or a real-time one, `SIGRTMIN+3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal(String);

/// The signals by number on x86-64 and arm64, `signal(7)`.
const SIGNALS: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl Signal {
    /// Reads `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`, in any case.
    ///
    /// # Errors
    /// [`ValueError`] if there is no such signal.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        let known = SIGNALS
            .iter()
            .find(|(name, number)| *name == bare || number.to_string() == upper);
        if let Some((name, _)) = known {
            return Ok(Self(format!("SIG{name}")));
        }
        let offset = bare
            .strip_prefix("RTMIN+")
            .and_then(|offset| offset.parse::<u8>().ok());
        match offset {
            Some(offset) if offset <= 30 => Ok(Self(format!("SIGRTMIN+{offset}"))),
            _ => Err(ValueError::new(
                "is not a signal",
                "write a name such as \"SIGTERM\" or \"SIGINT\"",
            )),
        }
    }

    /// The full name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number on x86-64 and arm64.
    #[must_use]
    pub fn number(&self) -> u8 {
        let bare = self.0.strip_prefix("SIG").unwrap_or(&self.0);
        if let Some(offset) = bare.strip_prefix("RTMIN+") {
            // The C library keeps the first two real-time signals for itself.
            return 34 + offset.parse::<u8>().expect("checked when it was made");
        }
        SIGNALS
            .iter()
            .find(|(name, _)| *name == bare)
            .map(|(_, number)| *number)
            .expect("checked when it was made")
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
