//! What may be done with which repositories, and its two forms: as people write it, and as
//! Docker's token protocol does.

use std::fmt;

use crate::name::Pattern;

/// Something to do with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        match word {
            "pull" => Some(Self::Pull),
            "push" => Some(Self::Push),
            "delete" => Some(Self::Delete),
            _ => None,
        }
    }
}

/// All of them.
pub(crate) const ALL: [Action; 3] = [Action::Pull, Action::Push, Action::Delete];

/// Patterns of repositories, each with what may be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants(Vec<(Pattern, Vec<Action>)>);

impl Grants {
    /// Pulling only.
    pub(crate) fn pull(patterns: impl Iterator<Item = Pattern>) -> Self {
        Self(
            patterns
                .map(|pattern| (pattern, vec![Action::Pull]))
                .collect(),
        )
    }

    /// Reads `pattern:action,action pattern:action`; `*` stands for all actions.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut grants = Vec::new();
        for grant in text.split_whitespace() {
            let (pattern, words) = grant
                .rsplit_once(':')
                .ok_or_else(|| format!("`{grant}` is no grant: say `team/**:pull,push`"))?;
            let pattern = pattern
                .parse::<Pattern>()
                .map_err(|error| format!("`{pattern}`: {error}"))?;
            grants.push((pattern, actions(words)?));
        }
        Ok(Self(grants))
    }

    /// Reads a scope of the token protocol, `repository:name:pull,push`; nothing if it is about
    /// something else.
    pub(crate) fn parse_scopes<'a>(
        scopes: impl Iterator<Item = &'a str>,
    ) -> Vec<(String, Vec<Action>)> {
        let mut found = Vec::new();
        for scope in scopes.flat_map(str::split_whitespace).take(64) {
            let Some(rest) = scope
                .strip_prefix("repository:")
                .or_else(|| scope.strip_prefix("repository(plugin):"))
            else {
                continue;
            };
            if let Some((name, words)) = rest.rsplit_once(':') {
                let wanted = words.split(',');
                let mut actions = if words == "*" {
                    ALL.to_vec()
                } else {
                    wanted.filter_map(Action::parse).collect()
                };
                // A token that says the same again and again would not fit into a header.
                actions.sort_unstable();
                actions.dedup();
                found.push((name.to_owned(), actions));
            }
        }
        found
    }

    /// Grants for exactly these repositories.
    pub(crate) fn exactly(repositories: impl IntoIterator<Item = (String, Vec<Action>)>) -> Self {
        let exact = |(name, actions): (String, Vec<Action>)| {
            // The name of a repository is a pattern that matches itself; anything else matches nothing.
            let pattern: Pattern = name.parse().ok()?;
            (!name.contains('*')).then_some((pattern, actions))
        };
        Self(repositories.into_iter().filter_map(exact).collect())
    }

    /// Whether something may be done.
    pub(crate) fn allow(&self, action: Action, repo: &str) -> bool {
        self.0
            .iter()
            .any(|(pattern, actions)| actions.contains(&action) && pattern.matches(repo))
    }
}

fn actions(words: &str) -> Result<Vec<Action>, String> {
    if words == "*" {
        return Ok(ALL.to_vec());
    }
    words
        .split(',')
        .map(|word| {
            Action::parse(word).ok_or_else(|| {
                format!("`{word}` is no action: say `pull`, `push`, `delete`, or `*` for all")
            })
        })
        .collect()
}

impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (pattern, actions)) in self.0.iter().enumerate() {
            let words: Vec<&str> = actions.iter().map(|action| action.as_str()).collect();
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{pattern}:{}", words.join(","))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_and_written() {
        let text = "team/**:pull,push public/*:pull";
        let grants = Grants::parse(text).unwrap();
        assert_eq!(grants.to_string(), text);
        assert!(grants.allow(Action::Push, "team/a/b"));
        assert!(!grants.allow(Action::Delete, "team/a"));
        assert!(grants.allow(Action::Pull, "public/x"));
        assert!(!grants.allow(Action::Push, "public/x"));
        assert!(!grants.allow(Action::Pull, "other"));
        for text in ["team", "team:fly", "../x//y:pull"] {
            assert!(Grants::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn scopes_cannot_widen_to_patterns() {
        let scopes = Grants::parse_scopes(
            [
                "repository:a/b:pull,push,fly registry:catalog:*",
                "repository:**:pull",
            ]
            .into_iter(),
        );
        let grants = Grants::exactly(scopes);
        assert!(grants.allow(Action::Push, "a/b"));
        assert!(!grants.allow(Action::Delete, "a/b"));
        assert!(!grants.allow(Action::Pull, "c"));
    }

    #[test]
    fn a_scope_says_each_action_once() {
        let scope = format!("repository:a:{}", "push,pull,".repeat(100));
        let scopes = Grants::parse_scopes([scope.as_str()].into_iter());
        let both = vec![Action::Pull, Action::Push];
        assert_eq!(scopes, [("a".to_owned(), both)]);
    }
}
