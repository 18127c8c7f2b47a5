//! What is done in a repository, and the scope of the token that allows it.

use crate::error::Doing;

/// What a request is part of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// Reading.
    Pull,
    /// Reading the list of tags.
    List,
    /// Reading and writing.
    Push,
    /// The same, and taking blobs from another repository.
    Mount(String),
    /// Removing.
    Delete,
}

impl Access {
    /// Returns the word for messages.
    pub(crate) fn doing(&self) -> Doing {
        match self {
            Self::Pull => Doing::Pull,
            Self::List => Doing::List,
            Self::Push | Self::Mount(_) => Doing::Push,
            Self::Delete => Doing::Delete,
        }
    }

    /// Returns what the same registry has been asked before for this repository.
    pub(crate) fn without_mount(&self) -> Option<Self> {
        match self {
            Self::Mount(_) => Some(Self::Push),
            Self::Pull | Self::List | Self::Push | Self::Delete => None,
        }
    }

    /// Returns the scope to ask for in `repository`, where a challenge names `challenged`.
    ///
    /// The challenge is about one request: that to a `HEAD` at the start of a push names `pull` alone.
    pub(crate) fn scope(&self, repository: &str, challenged: Option<&str>) -> String {
        let own = |actions| format!("repository:{repository}:{actions}");
        let mut scopes = match self {
            Self::Pull | Self::List => {
                return challenged.map_or_else(|| own("pull"), str::to_owned);
            }
            Self::Delete => return challenged.map_or_else(|| own("pull,delete"), str::to_owned),
            Self::Push => vec![own("pull,push")],
            Self::Mount(from) => vec![own("pull,push"), format!("repository:{from}:pull")],
        };
        let others = challenged
            .unwrap_or_default()
            .split(' ')
            .filter(|scope| !scope.is_empty() && !scope.starts_with(&own("")));
        scopes.extend(others.map(str::to_owned));
        scopes.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_asks_for_more_than_the_first_challenge_names() {
        let scope = |access: Access, challenged| access.scope("a/b", challenged);
        let pull = Some("repository:a/b:pull");
        assert_eq!(scope(Access::Pull, None), "repository:a/b:pull");
        assert_eq!(scope(Access::Pull, Some("x:y:z")), "x:y:z");
        assert_eq!(scope(Access::Push, pull), "repository:a/b:pull,push");
        assert_eq!(
            scope(Access::Push, Some("repository:a/b:pull x:y:z")),
            "repository:a/b:pull,push x:y:z"
        );
        assert_eq!(
            scope(Access::Mount("c".to_owned()), pull),
            "repository:a/b:pull,push repository:c:pull"
        );
        assert_eq!(scope(Access::Delete, None), "repository:a/b:pull,delete");
    }
}
