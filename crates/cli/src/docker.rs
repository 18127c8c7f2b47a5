//! What to type instead of what docker has and kiln has not.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Adds to what is wrong with a command line what to type instead, if docker knows what was typed.
pub(crate) fn advised(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let is_verb = error.kind() == ErrorKind::InvalidSubcommand;
    let context = if is_verb {
        ContextKind::InvalidSubcommand
    } else if error.kind() == ErrorKind::UnknownArgument {
        ContextKind::InvalidArg
    } else {
        return error;
    };
    let Some(ContextValue::String(invalid)) = error.get(context) else {
        return error;
    };
    let words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    let words: Vec<&str> = words.collect();
    let advice = if is_verb {
        instead_of_verb(&words, invalid)
    } else {
        instead_of_flag(&words, invalid)
    };
    if let Some(advice) = advice {
        error.remove(ContextKind::SuggestedSubcommand);
        error.remove(ContextKind::SuggestedArg);
        let advice = ContextValue::StyledStrs(vec![StyledStr::from(advice)]);
        error.insert(ContextKind::Suggested, advice);
    }
    error
}

/// `words` is what was typed, and `invalid` the one that is no verb.
fn instead_of_verb(words: &[&str], invalid: &str) -> Option<String> {
    let at = words.iter().position(|word| *word == invalid)?;
    let before = at.checked_sub(1).and_then(|at| words.get(at)).copied();
    let behind = words.get(at + 1).copied().unwrap_or_default();
    let typed = |verb: &str| Some(format!("type `kiln {verb}`"));
    match (before, invalid, behind) {
        (Some("container"), "ls" | "list" | "ps", _) => typed("ps"),
        (Some("container"), verb, _) => typed(match verb {
            "attach" | "commit" | "cp" | "create" | "diff" | "exec" | "inspect" | "kill"
            | "logs" | "pause" | "port" | "rename" | "restart" | "rm" | "run" | "start"
            | "stats" | "stop" | "top" | "unpause" | "update" | "wait" => verb,
            "remove" => "rm",
            "export" => return instead_of_verb(&["export"], "export"),
            _ => return None,
        }),
        (_, "image", "ls" | "list") => typed("images"),
        (_, "image", "rm" | "remove") => typed("rmi"),
        (_, "image", "inspect") => typed("inspect --type image"),
        (_, "image", "prune") | (_, "builder" | "buildx", "prune" | "du") => typed("gc"),
        (_, "image", verb @ ("build" | "history" | "load" | "pull" | "push" | "save" | "tag")) => {
            typed(verb)
        }
        (_, "image", "import") => instead_of_verb(&["import"], "import"),
        (_, "image", _) => Some("see `kiln images`, `kiln rmi` and `kiln inspect`".to_owned()),
        (_, "builder" | "buildx", _) => typed("build"),
        (_, "system", "df") => typed("df"),
        (_, "system", "prune") => Some(
            "type `kiln container prune`, `kiln volume prune`, `kiln network prune` or `kiln gc`"
                .to_owned(),
        ),
        (_, "system", "events") => typed("events"),
        (_, "info" | "system", _) => {
            Some("see `kiln version`, `kiln df` and `kiln ps -a`; there is no daemon".to_owned())
        }
        (_, "export", _) => Some("type `kiln cp CONTAINER:/ - > files.tar`".to_owned()),
        (_, "import", _) => {
            Some("write `from = { rootfs = \"files.tar\" }` for an image in kiln.toml".to_owned())
        }
        (_, "search", _) => Some("see the tags of a name: `kiln tags NAME`".to_owned()),
        _ => None,
    }
}

/// `words` is what was typed, and `flag` the one that there is not.
fn instead_of_flag(words: &[&str], flag: &str) -> Option<String> {
    let verb = words.iter().find(|word| !word.starts_with('-'))?;
    let advice = match (*verb, flag) {
        ("images", "-a" | "--all") => "leave it out: images that are not listed are no images here",
        ("images", "-f" | "--filter") => {
            "name the repository, as in `kiln images debian`, or choose from what --format json says"
        }
        ("logs", "--details") => "leave it out: nothing is kept beside the lines",
        ("exec", "--privileged") => {
            "a further process has the rights of its container: see --cap-add of `kiln run`"
        }
        ("rm", "-l" | "--link") => "there are no links: see `kiln network disconnect`",
        ("network", "--attachable") => "leave it out: every container can be connected",
        ("volume", "--name") => "leave out --name: the name alone says it",
        ("volume", "-o" | "--opt") => {
            "volumes are folders of the store: for memory see --tmpfs of `kiln run`"
        }
        ("df", "-v") => "see `kiln images`, `kiln ps -as` and `kiln volume ls`",
        _ => return None,
    };
    Some(advice.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app;

    #[test]
    fn what_docker_has_is_answered_with_what_to_type() {
        let said = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let error = app::command().try_get_matches_from(&words).unwrap_err();
            advised(error, &words).to_string()
        };
        for (line, advice) in [
            ("kiln image ls", "tip: type `kiln images`"),
            ("kiln --quiet image rm x", "tip: type `kiln rmi`"),
            ("kiln image inspect x", "kiln inspect --type image"),
            ("kiln container ls -a", "tip: type `kiln ps`"),
            ("kiln container rm -f x", "tip: type `kiln rm`"),
            ("kiln container export x", "kiln cp CONTAINER:/"),
            ("kiln system df", "tip: type `kiln df`"),
            ("kiln system prune -f", "kiln gc"),
            ("kiln builder prune", "tip: type `kiln gc`"),
            ("kiln info", "kiln version"),
            ("kiln export x", "kiln cp CONTAINER:/ - > files.tar"),
            ("kiln images -a", "leave it out"),
            ("kiln logs --details x", "leave it out"),
            ("kiln exec --privileged x true", "--cap-add"),
            // What is only misspelt.
            ("kiln imagse", "similar"),
            ("kiln logs --tali 3 x", "--tail"),
        ] {
            assert!(said(line).contains(advice), "{line}: {}", said(line));
        }
        assert!(!said("kiln images -a").contains("to pass"));
    }
}
