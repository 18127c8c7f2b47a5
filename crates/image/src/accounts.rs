//! The user database of an image: the texts of `/etc/passwd`, `/etc/group` and `/etc/shadow`.
//!
//! Works on texts that the caller has read from the image's own root (bounded, regular files only);
//! it knows nothing of the host's users. Every number is parsed strictly: `1x`, an empty name, a
//! sign or a value past 32 bits are errors and never "user 0".

use std::collections::BTreeSet;

/// The most bytes of each of them that are read from an image.
pub const DATABASE_LIMIT_BYTES: u64 = 1024 * 1024;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, sorted, without duplicates.
    pub groups: Vec<u32>,
    /// Home folder, `/` where the database does not say.
    pub home: String,
    /// The user is a number that no account has.
    pub is_unnamed: bool,
}

/// A user or group that cannot be resolved, or an account that cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum AccountError {
    /// No such name in `/etc/passwd`.
    #[error("user `{0}` is not in the image's /etc/passwd")]
    UnknownUser(String),
    /// No such name in `/etc/group`.
    #[error("group `{0}` is not in the image's /etc/group")]
    UnknownGroup(String),
    /// Text that is neither a name nor a number in range.
    #[error("`{0}` is not a user or group: expected a name or a number from 0 to 4294967294")]
    Malformed(String),
    /// The account exists with other properties.
    #[error("account `{name}` exists already with {property} {existing}, not {wanted}")]
    Differs {
        /// The account.
        name: String,
        /// What differs: `uid` or `gid`.
        property: &'static str,
        /// What the image has.
        existing: u32,
        /// What was asked for.
        wanted: u32,
    },
    /// The id belongs to another account.
    #[error("{property} {id} belongs to `{owner}` already, so `{name}` cannot have it")]
    Taken {
        /// The account to be added.
        name: String,
        /// What is taken: `uid` or `gid`.
        property: &'static str,
        /// The id.
        id: u32,
        /// Who has it.
        owner: String,
    },
}

/// One line of `/etc/passwd`.
#[derive(Debug, Clone, Copy)]
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// One line of `/etc/group`.
#[derive(Debug, Clone, Copy)]
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Lines that do not parse are passed over, as the C library does.
fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (_password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?);
        let (_comment, home) = (fields.next()?, fields.next()?);
        Some(User {
            name,
            uid: number(uid)?,
            gid: number(gid)?,
            home,
        })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (_password, gid) = (fields.next()?, fields.next()?);
        Some(Group {
            name,
            gid: number(gid)?,
            members: fields.next().unwrap_or_default(),
        })
    })
}

/// Lists the names of users, in the order of the database.
pub fn user_names(passwd: &str) -> Vec<&str> {
    users(passwd).map(|user| user.name).collect()
}

/// Lists the names of groups, in the order of the database.
pub fn group_names(group: &str) -> Vec<&str> {
    groups(group).map(|group| group.name).collect()
}

/// Reads a decimal id; 4294967295 is the kernel's "no id" and refused.
fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&id| id != u32::MAX)
}

/// Tells a name from a (possibly wrong) number: names do not start with a digit or a sign.
fn is_name(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && !text.bytes().any(|byte| byte == 0 || byte == b'\n')
}

/// Resolves `user`, `user:group`, `uid`, `uid:gid` or a mix against the image's databases.
///
/// An empty text is root, as the image specification has it. A number that is in no database is
/// taken as it is, with group 0, as docker does.
///
/// # Errors
/// [`AccountError`] for names that are not there and text that is neither name nor number.
pub fn resolve(text: &str, passwd: &str, group: &str) -> Result<Identity, AccountError> {
    if text.is_empty() {
        return resolve("0", passwd, group);
    }
    let (user_text, group_text) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let malformed = || AccountError::Malformed(text.to_owned());
    let found = match number(user_text) {
        Some(uid) => users(passwd).find(|user| user.uid == uid).unwrap_or(User {
            name: "",
            uid,
            gid: 0,
            home: "/",
        }),
        None if is_name(user_text) => users(passwd)
            .find(|user| user.name == user_text)
            .ok_or_else(|| AccountError::UnknownUser(user_text.to_owned()))?,
        None => return Err(malformed()),
    };
    let gid = match group_text {
        None => found.gid,
        Some(text) => match number(text) {
            Some(gid) => gid,
            None if is_name(text) => group_id(text, group)?,
            None => return Err(malformed()),
        },
    };
    // A group given by hand replaces the memberships, as it does for docker and su.
    let memberships = match group_text {
        Some(_) => BTreeSet::new(),
        None => groups(group)
            .filter(|group| !found.name.is_empty() && is_member(group, found.name))
            .map(|group| group.gid)
            .collect(),
    };
    Ok(Identity {
        uid: found.uid,
        gid,
        groups: memberships.into_iter().collect(),
        is_unnamed: found.name.is_empty(),
        home: if found.home.starts_with('/') {
            found.home.to_owned()
        } else {
            "/".to_owned()
        },
    })
}

fn is_member(group: &Group<'_>, name: &str) -> bool {
    group.members.split(',').any(|member| member == name)
}

fn group_id(name: &str, group: &str) -> Result<u32, AccountError> {
    groups(group)
        .find(|entry| entry.name == name)
        .map(|entry| entry.gid)
        .ok_or_else(|| AccountError::UnknownGroup(name.to_owned()))
}

/// An account to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// User name, and the name of its own group where no `gid` group exists.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home folder.
    pub home: String,
    /// Login shell.
    pub shell: String,
    /// Groups (by name) the user becomes a member of.
    pub groups: Vec<String>,
}

/// The texts of the databases, changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Databases {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
    /// `/etc/shadow`; most small images have none.
    pub shadow: Option<String>,
}

/// Adds `account` to the databases; an account that is there already with the same ids stays.
///
/// # Errors
/// [`AccountError::Differs`] or [`AccountError::Taken`] where the ids collide,
/// [`AccountError::UnknownGroup`] for a membership in a group that is not there.
pub fn add(account: &NewAccount, databases: &Databases) -> Result<Databases, AccountError> {
    let NewAccount {
        name,
        uid,
        gid,
        home,
        shell,
        groups: memberships,
    } = account;
    let mut passwd = databases.passwd.clone();
    let mut group = databases.group.clone();
    let mut shadow = databases.shadow.clone();
    match users(&databases.passwd).find(|user| user.name == name) {
        Some(user) => {
            for (property, existing, wanted) in [("uid", user.uid, *uid), ("gid", user.gid, *gid)] {
                if existing != wanted {
                    return Err(AccountError::Differs {
                        name: name.clone(),
                        property,
                        existing,
                        wanted,
                    });
                }
            }
        }
        None => {
            if let Some(owner) = users(&passwd).find(|user| user.uid == *uid) {
                return Err(AccountError::Taken {
                    name: name.clone(),
                    property: "uid",
                    id: *uid,
                    owner: owner.name.to_owned(),
                });
            }
            append_line(
                &mut passwd,
                &format!("{name}:x:{uid}:{gid}::{home}:{shell}"),
            );
            // Without a line in there, an account that has `x` in the other file counts as broken, and nothing that
            // asks PAM (su, sudo, cron, sshd) lets it in. No password fits, and there are no dates.
            if let Some(shadow) = shadow.as_mut().filter(|shadow| !has_line(shadow, name)) {
                append_line(shadow, &format!("{name}:!:::::::"));
            }
        }
    }
    if !groups(&group).any(|entry| entry.gid == *gid) {
        if let Some(entry) = groups(&group).find(|entry| entry.name == name) {
            return Err(AccountError::Differs {
                name: name.clone(),
                property: "gid",
                existing: entry.gid,
                wanted: *gid,
            });
        }
        append_line(&mut group, &format!("{name}:x:{gid}:"));
    }
    for membership in memberships {
        group_id(membership, &group)?;
        group = add_member(&group, membership, name);
    }
    Ok(Databases {
        passwd,
        group,
        shadow,
    })
}

fn has_line(shadow: &str, name: &str) -> bool {
    shadow
        .lines()
        .any(|line| line.split(':').next() == Some(name))
}

fn append_line(text: &mut String, line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
}

fn add_member(group: &str, wanted: &str, member: &str) -> String {
    let mut changed = String::with_capacity(group.len() + member.len() + 1);
    for line in group.lines() {
        changed.push_str(line);
        let entry = groups(line).next().filter(|entry| entry.name == wanted);
        if let Some(entry) = entry
            && !is_member(&entry, member)
        {
            if !line.ends_with(':') {
                changed.push(',');
            }
            changed.push_str(member);
        }
        changed.push('\n');
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        broken line\n\
        daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
        app:x:1000:1001::/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:app,daemon\nwww:x:33:app\napp:x:1001:\nempty:x:7:\n";

    fn ids(text: &str) -> Result<(u32, u32, Vec<u32>), AccountError> {
        resolve(text, PASSWD, GROUP).map(|found| (found.uid, found.gid, found.groups))
    }

    #[test]
    fn names_numbers_and_mixtures_resolve() {
        assert_eq!(ids(""), Ok((0, 0, vec![])));
        assert_eq!(ids("app"), Ok((1000, 1001, vec![4, 33])));
        assert_eq!(ids("1000"), Ok((1000, 1001, vec![4, 33])));
        assert_eq!(ids("app:www"), Ok((1000, 33, vec![])));
        assert_eq!(ids("4242"), Ok((4242, 0, vec![])));
        assert_eq!(ids("4242:4243"), Ok((4242, 4243, vec![])));
        assert_eq!(resolve("app", PASSWD, GROUP).unwrap().home, "/srv");
        assert_eq!(resolve("4242", PASSWD, GROUP).unwrap().home, "/");
    }

    #[test]
    fn nothing_strange_becomes_root() {
        for text in [
            "1x",
            "-1",
            "+1",
            "4294967295",
            "4294967296",
            " 0",
            "0:",
            ":",
            "a\nb",
        ] {
            assert!(ids(text).is_err(), "{text:?}");
        }
        assert_eq!(
            ids("ghost"),
            Err(AccountError::UnknownUser("ghost".to_owned()))
        );
        assert_eq!(
            ids("app:ghost"),
            Err(AccountError::UnknownGroup("ghost".to_owned()))
        );
    }

    fn account(name: &str, uid: u32, gid: u32, groups: &[&str]) -> NewAccount {
        NewAccount {
            name: name.to_owned(),
            uid,
            gid,
            home: "/srv".to_owned(),
            shell: "/bin/sh".to_owned(),
            groups: groups.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn databases() -> Databases {
        Databases {
            passwd: PASSWD.to_owned(),
            group: GROUP.to_owned(),
            shadow: None,
        }
    }

    #[test]
    fn an_account_is_added_once() {
        let new = account("web", 2000, 2000, &["www", "empty"]);
        let once = add(&new, &databases()).unwrap();
        assert!(once.passwd.ends_with("\nweb:x:2000:2000::/srv:/bin/sh\n"));
        assert!(once.group.contains("www:x:33:app,web\n"));
        assert!(once.group.contains("empty:x:7:web\n"));
        assert!(once.group.ends_with("web:x:2000:\n"));
        assert_eq!(add(&new, &once).unwrap(), once);
    }

    #[test]
    fn an_account_has_a_shadow_where_others_have() {
        let new = account("web", 2000, 2000, &[]);
        assert_eq!(add(&new, &databases()).unwrap().shadow, None);
        let with = |shadow: &str| Databases {
            shadow: Some(shadow.to_owned()),
            ..databases()
        };
        let once = add(&new, &with("root:*:19000:0:99999:7:::\n")).unwrap();
        assert_eq!(
            once.shadow.as_deref(),
            Some("root:*:19000:0:99999:7:::\nweb:!:::::::\n")
        );
        assert_eq!(add(&new, &once).unwrap(), once);
        let there = add(&new, &with("web:*:1::::::\n")).unwrap();
        assert_eq!(there.shadow.as_deref(), Some("web:*:1::::::\n"));
    }

    #[test]
    fn ids_of_others_are_not_taken_over() {
        let error = add(&account("web", 1000, 2000, &[]), &databases()).unwrap_err();
        assert!(error.to_string().contains("belongs to `app`"), "{error}");
        let error = add(&account("app", 1000, 7, &[]), &databases()).unwrap_err();
        assert!(error.to_string().contains("gid 1001, not 7"), "{error}");
        assert!(add(&account("web", 2000, 2000, &["ghost"]), &databases()).is_err());
    }
}
