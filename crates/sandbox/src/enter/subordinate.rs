//! The extra users and groups an ordinary user was given, in `/etc/subuid` and `/etc/subgid`.

use super::find_helper;

/// Ranges of outer numbers: first and count.
type Ranges = Vec<(u32, u32)>;

/// At most this many ranges are used of each file; the kernel takes 340 lines.
const MAX_RANGES: usize = 300;

const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";

/// Where `useradd` begins, and how many numbers it gives to each user.
const FIRST_USUAL: u32 = 100_000;
const USUAL_COUNT: u32 = 65_536;

/// The user and group ranges of `uid`, or why there are none.
pub(super) fn ranges(uid: u32) -> Result<(Ranges, Ranges), String> {
    let read = |path: &str| {
        std::fs::read_to_string(path).map_err(|error| format!("cannot read `{path}`: {error}"))
    };
    let accounts = read("/etc/passwd").unwrap_or_default();
    let name = user_name(&accounts, uid);
    let who = name.map_or_else(|| format!("user {uid}"), |name| format!("user `{name}`"));
    let texts = [read(SUBUID)?, read(SUBGID)?];
    let [uids, gids] = [&texts[0], &texts[1]].map(|text| parse(text, uid, name));
    let missing: Vec<(&str, &str)> = [
        (uids.is_empty(), SUBUID, "--add-subuids"),
        (gids.is_empty(), SUBGID, "--add-subgids"),
    ]
    .into_iter()
    .filter_map(|(is_missing, path, flag)| is_missing.then_some((path, flag)))
    .collect();
    if let Some((path, _)) = missing.first() {
        let range = free_range(&texts);
        let flags: Vec<String> = missing
            .iter()
            .map(|(_, flag)| format!("{flag} {range}"))
            .collect();
        return Err(format!(
            "{who} has no entry in `{path}`; add one with `usermod {} {}`",
            flags.join(" "),
            name.unwrap_or("USER")
        ));
    }
    for helper in ["newuidmap", "newgidmap"] {
        if find_helper(helper).is_none() {
            return Err(format!(
                "`{helper}` is not installed; it is in the package `uidmap` or `shadow-utils`"
            ));
        }
    }
    Ok((uids, gids))
}

/// The first usual range behind all that others have: who shares numbers can reach each other's files.
fn free_range(texts: &[String]) -> String {
    let ends = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            let mut fields = line.trim().split(':').skip(1);
            let (first, count): (u32, u32) =
                (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            first.checked_add(count)
        });
    let first = ends.fold(FIRST_USUAL, u32::max);
    match first.checked_add(USUAL_COUNT - 1) {
        Some(last) => format!("{first}-{last}"),
        None => "FIRST-LAST".to_owned(),
    }
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
pub(super) fn parse(text: &str, uid: u32, name: Option<&str>) -> Ranges {
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
    fn a_range_that_others_have_is_not_proposed() {
        let free = |texts: [&str; 2]| free_range(&texts.map(str::to_owned));
        assert_eq!(free(["", ""]), "100000-165535");
        assert_eq!(
            free(["alice:100000:65536\n", "alice:100000:65536\nbob:165536:10"]),
            "165546-231081"
        );
        assert_eq!(free(["alice:4294900000:50000\n", "x\n"]), "FIRST-LAST");
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
