//! The extra users and groups an ordinary user was given, in `/etc/subuid` and `/etc/subgid`.

use super::find_helper;

/// Ranges of outer numbers: first and count.
type Ranges = Vec<(u32, u32)>;

/// At most this many ranges are used of each file; the kernel takes 340 lines.
const MAX_RANGES: usize = 300;

/// The user and group ranges of `uid`, or why there are none.
pub(super) fn ranges(uid: u32) -> Result<(Ranges, Ranges), String> {
    let read = |path: &str| {
        std::fs::read_to_string(path).map_err(|error| format!("cannot read `{path}`: {error}"))
    };
    let accounts = read("/etc/passwd").unwrap_or_default();
    let name = user_name(&accounts, uid);
    let who = name.map_or_else(|| format!("user {uid}"), |name| format!("user `{name}`"));
    let mut found = Vec::new();
    for path in ["/etc/subuid", "/etc/subgid"] {
        let ranges = parse(&read(path)?, uid, name);
        if ranges.is_empty() {
            return Err(format!(
                "{who} has no entry in `{path}`; add one with `usermod --add-subuids 100000-165535 \
                 --add-subgids 100000-165535 {}`",
                name.unwrap_or("USER")
            ));
        }
        found.push(ranges);
    }
    for helper in ["newuidmap", "newgidmap"] {
        if find_helper(helper).is_none() {
            return Err(format!(
                "`{helper}` is not installed; it is in the package `uidmap` or `shadow-utils`"
            ));
        }
    }
    let gids = found.pop().unwrap_or_default();
    let uids = found.pop().unwrap_or_default();
    Ok((uids, gids))
}

/// The name of a user in the text of `/etc/passwd`.
fn user_name(accounts: &str, uid: u32) -> Option<&str> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then_some(name)
    })
}

/// The ranges of a user in the text of such a file: `name-or-uid:first:count`.
fn parse(text: &str, uid: u32, name: Option<&str>) -> Ranges {
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        if Some(owner) != name && owner.parse() != Ok(uid) {
            return None;
        }
        let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
        (count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    });
    ranges.take(MAX_RANGES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# comment\nalice:100000:65536\n1000:300000:5\nbob:1:1\nalice:4294967295:2\nalice:x:1\n";

    #[test]
    fn entries_by_name_and_by_number_count() {
        assert_eq!(
            parse(TEXT, 1000, Some("alice")),
            [(100_000, 65_536), (300_000, 5)]
        );
        assert_eq!(parse(TEXT, 1000, None), [(300_000, 5)]);
        assert_eq!(parse(TEXT, 7, Some("carol")), []);
    }

    #[test]
    fn a_user_without_entries_is_told_how_to_get_them() {
        assert_eq!(
            user_name(
                "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/:\n",
                1000
            ),
            Some("alice")
        );
        if std::path::Path::new("/etc/subuid").exists() {
            let reason = ranges(3_999_999_999).unwrap_err();
            assert!(
                reason.contains("user 3999999999 has no entry in `/etc/subuid`"),
                "{reason}"
            );
        }
    }
}
