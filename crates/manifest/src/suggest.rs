//! "Did you mean".

/// Words of other tools for a key of kiln.
const ALIASES: [(&str, &str); 32] = [
    ("branch", "ref"),
    ("build", "step"),
    ("cache", "caches"),
    ("cmd", "run"),
    ("command", "run"),
    ("commit", "ref"),
    ("cpu", "cpus"),
    ("cwd", "workdir"),
    ("depends", "needs"),
    ("depends-on", "needs"),
    ("depends_on", "needs"),
    ("dest", "to"),
    ("destination", "to"),
    ("directory", "workdir"),
    ("dst", "to"),
    ("environment", "env"),
    ("exec", "run"),
    ("inputs", "files"),
    ("mem", "memory"),
    ("mount", "mounts"),
    ("permissions", "mode"),
    ("readonly", "read-only"),
    ("requires", "needs"),
    ("script", "run"),
    ("sources", "files"),
    ("src", "files"),
    ("tag", "ref"),
    ("target", "to"),
    ("vars", "args"),
    ("volumes", "mounts"),
    ("working-dir", "workdir"),
    ("working_dir", "workdir"),
];

/// Keys of a base that people write beside it, and the key that has them.
const KEYS_OF_BASES: [(&str, &str); 6] = [
    ("components", "debian"),
    ("mirror", "debian"),
    ("packages", "debian"),
    ("path", "oci"),
    ("snapshot", "debian"),
    ("suite", "debian"),
];

/// More names than this are not looked at: every unknown name would be compared with all of them.
const CANDIDATES_LIMIT: usize = 1000;

/// The candidate that is most like `text`, if one is like it at all.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().take(CANDIDATES_LIMIT).collect();
    let alias = ALIASES
        .iter()
        .filter(|(word, _)| *word == text)
        .find_map(|(_, key)| candidates.iter().find(|candidate| *candidate == key));
    if alias.is_some() {
        return alias.copied();
    }
    let allowed = match text.chars().count() {
        0 | 1 => 0,
        2..6 => 1,
        long => long / 3,
    };
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(text, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= allowed
                || candidate.replace(['-', '_'], "") == text.replace(['-', '_'], "")
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What to do about a key of `from` that belongs to the table of one of its keys.
pub(crate) fn key_of_base(key: &str) -> Option<String> {
    let (_, base) = KEYS_OF_BASES.iter().find(|(known, _)| *known == key)?;
    let first = match *base {
        "debian" if key != "suite" => "suite = \"bookworm\", ",
        _ => "",
    };
    Some(format!(
        "`{key}` belongs to `{base}`: write `{base} = {{ {first}{key} = … }}`"
    ))
}

/// `did you mean …?` if a candidate is near, else `otherwise`.
pub(crate) fn help<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    otherwise: impl FnOnce() -> String,
) -> String {
    match nearest(text, candidates) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => otherwise(),
    }
}

/// Joins names for a message: `` `a`, `b` and `c` ``.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>, last: &str) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
    }
}
