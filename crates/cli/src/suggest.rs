//! "Did you mean": the known name that is nearest to a mistyped one.

/// Largest number of mistakes that are taken for typing ones.
const MISTAKES: usize = 2;

/// Advice about a name that is not known: the nearest known one, else what
/// `otherwise` says.
pub(crate) fn help(
    name: &str,
    known: impl IntoIterator<Item = String>,
    otherwise: impl FnOnce() -> String,
) -> String {
    nearest(name, known).map_or_else(otherwise, |near| format!("did you mean `{near}`?"))
}

fn nearest(name: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, &known), known))
        .filter(|(distance, known)| *distance <= MISTAKES && *distance < known.chars().count())
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_names_are_suggested() {
        let known = || ["server", "db"].map(String::from);
        assert_eq!(nearest("sever", known()).as_deref(), Some("server"));
        assert_eq!(nearest("bd", known()).as_deref(), Some("db"));
        assert_eq!(nearest("client", known()), None);
        assert_eq!(nearest("xx", known()), None);
    }
}
