//! What the machine, or a limit of this process, has no more of: what to do about it.
//!
//! Any error of any library may have such a cause, so it is found in the message, by the number that the standard
//! library writes behind what the system says.

/// What to do, for messages that end in one of the errors of `errno(3)`.
const HELP: [(&str, &str); 4] = [
    (
        "(os error 24)",
        "allow more open files with `ulimit -n`: 1024 are enough for all but the largest images",
    ),
    (
        "(os error 27)",
        "allow larger files with `ulimit -f unlimited`",
    ),
    (
        "(os error 28)",
        "free some space there, with `kiln gc` for example, or set KILN_HOME to a folder with more room for the store",
    ),
    (
        "(os error 122)",
        "free some of your quota there, with `kiln gc` for example, or set KILN_HOME to a folder with more room for the store",
    ),
];

/// What to do about the error of the system that `message` tells of, if that is a shortage.
pub(crate) fn help(message: &str) -> Option<&'static str> {
    HELP.iter()
        .find(|(error, _)| message.contains(error))
        .map(|(_, help)| *help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_found() {
        for (number, word) in [
            (24, "ulimit -n"),
            (27, "ulimit -f"),
            (28, "gc"),
            (122, "quota"),
        ] {
            let error = std::io::Error::from_raw_os_error(number);
            let help = help(&format!("cannot write `/a`: {error}; and more"));
            assert!(help.is_some_and(|help| help.contains(word)), "{error}");
        }
        assert_eq!(
            help("cannot write `/a`: Permission denied (os error 13)"),
            None
        );
    }
}
