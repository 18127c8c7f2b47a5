//! Users and groups of a root file system, by its own `/etc/passwd` and `/etc/group`.
//!
//! Whatever the files are, a link, a pipe or gigabytes of text, nothing is opened outside of the root, nothing
//! waits and little is read.

use std::os::fd::BorrowedFd;

use kiln_sys::{Errno, confined};

use crate::error::SandboxError;
use crate::spec::{Ids, User};

/// Longest account file that is read.
const MAX_BYTES: usize = 1 << 20;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Somebody a process can run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User, group and supplementary groups.
    pub ids: Ids,
    /// Home directory.
    pub home: String,
}

/// Finds the account that `user` means in the root file system `root`.
///
/// A number need not be in the files: it then has group 0 and home `/`. A name must be.
///
/// # Errors
/// [`SandboxError::Account`] for a name that is not there, [`SandboxError::Spec`] for what is neither a name nor
/// a number, [`SandboxError::Kernel`] if a file cannot be read.
pub(crate) fn resolve(root: BorrowedFd<'_>, user: &User) -> Result<Account, SandboxError> {
    match user {
        User::Root => Ok(Account {
            ids: Ids {
                uid: 0,
                gid: 0,
                groups: Vec::new(),
            },
            home: "/root".to_owned(),
        }),
        User::Ids(ids) => {
            let passwd = read(root, PASSWD)?;
            let home = entries(&passwd).find(|entry| number(entry.get(2)) == Some(ids.uid));
            let home = home.and_then(|entry| entry.get(5).copied()).unwrap_or("/");
            Ok(Account {
                ids: ids.clone(),
                home: home.to_owned(),
            })
        }
        User::Named(text) => named(&read(root, PASSWD)?, &read(root, GROUP)?, text),
    }
}

/// Finds groups of the root file system by name or number.
///
/// # Errors
/// As [`resolve`].
pub(crate) fn groups(root: BorrowedFd<'_>, names: &[String]) -> Result<Vec<u32>, SandboxError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let text = read(root, GROUP)?;
    names.iter().map(|name| group_number(&text, name)).collect()
}

/// A group by its name, else by its number.
fn group_number(group: &str, wanted: &str) -> Result<u32, SandboxError> {
    entries(group)
        .find(|entry| entry.first() == Some(&wanted))
        .and_then(|entry| number(entry.get(2)))
        .or_else(|| number(Some(&wanted)))
        .ok_or_else(|| SandboxError::Account {
            kind: "group",
            name: wanted.to_owned(),
            file: GROUP,
            known: names(group),
        })
}

fn read(root: BorrowedFd<'_>, path: &'static str) -> Result<String, SandboxError> {
    match confined::read_in_root(root, path, MAX_BYTES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // No such file, or not a file: nobody has a name here.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => Ok(String::new()),
        Err(errno) => Err(SandboxError::Kernel {
            action: format!("reading `{path}` of the root file system"),
            errno,
        }),
    }
}

/// The names in a text, in its order.
fn names(text: &str) -> Vec<String> {
    let names = entries(text).filter_map(|entry| entry.first().map(|name| (*name).to_owned()));
    names.filter(|name| !name.is_empty()).collect()
}

/// Lines as fields.
fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

/// A user or group number: digits only, and not the one that means "unchanged".
fn number(text: Option<&&str>) -> Option<u32> {
    let text = text?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| digits && *number != u32::MAX)
}

pub(crate) fn named(passwd: &str, group: &str, text: &str) -> Result<Account, SandboxError> {
    let (user, group_name) = match text.split_once(':') {
        Some((user, group_name)) => (user, Some(group_name)),
        None => (text, None),
    };
    if user.is_empty() || group_name.is_some_and(|name| name.is_empty() || name.contains(':')) {
        let problem =
            format!("`{text}` is not a user; write `name`, `uid`, `name:group` or `uid:gid`");
        return Err(SandboxError::Spec { problem });
    }
    // A name that looks like a number is found by name first, as everywhere.
    let by_name = entries(passwd)
        .find(|entry| entry.first() == Some(&user) && number(entry.get(2)).is_some());
    let found = by_name.or_else(|| {
        let wanted = number(Some(&user))?;
        entries(passwd).find(|entry| number(entry.get(2)) == Some(wanted))
    });
    let (uid, own_group, name, home) = match &found {
        Some(entry) => {
            let uid = number(entry.get(2)).expect("it was found by a valid number");
            let home = entry
                .get(5)
                .copied()
                .filter(|home| home.starts_with('/'))
                .unwrap_or("/");
            (
                uid,
                number(entry.get(3)).unwrap_or(0),
                entry.first().copied(),
                home,
            )
        }
        None => match number(Some(&user)) {
            Some(uid) => (uid, 0, None, "/"),
            None => {
                return Err(SandboxError::Account {
                    kind: "user",
                    name: user.to_owned(),
                    file: PASSWD,
                    known: names(passwd),
                });
            }
        },
    };
    let gid = match group_name {
        None => own_group,
        Some(wanted) => group_number(group, wanted)?,
    };
    let mut groups = Vec::new();
    // With an explicit group the user is in no other, as docker has it.
    if let (Some(name), None) = (name, group_name) {
        let members = |entry: &Vec<&str>| {
            entry
                .get(3)
                .is_some_and(|list| list.split(',').any(|member| member == name))
        };
        groups = entries(group)
            .filter(members)
            .filter_map(|entry| number(entry.get(2)))
            .collect();
        groups.retain(|other| *other != gid);
        groups.sort_unstable();
        groups.dedup();
        // What the kernel takes at most.
        groups.truncate(65_536);
    }
    Ok(Account {
        ids: Ids { uid, gid, groups },
        home: home.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD_TEXT: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:10001:10002::/srv:/bin/sh\n\
                               broken:x:notanumber:0::/:/bin/sh\n42:x:7:8::/seven:\nall:x:4294967295:0::/:\n";
    const GROUP_TEXT: &str = "root:x:0:\napp:x:10002:\nextra:x:20:app,root\nother:x:21:someone\n";

    fn find(text: &str) -> Result<(u32, u32, Vec<u32>, String), SandboxError> {
        named(PASSWD_TEXT, GROUP_TEXT, text)
            .map(|Account { ids, home }| (ids.uid, ids.gid, ids.groups, home))
    }

    #[test]
    fn dockers_forms_are_understood() {
        let home = |text: &str| text.to_owned();
        assert_eq!(find("app").unwrap(), (10001, 10002, vec![20], home("/srv")));
        assert_eq!(
            find("10001").unwrap(),
            (10001, 10002, vec![20], home("/srv"))
        );
        assert_eq!(
            find("app:extra").unwrap(),
            (10001, 20, vec![], home("/srv"))
        );
        assert_eq!(find("5:6").unwrap(), (5, 6, vec![], home("/")));
        assert_eq!(find("42").unwrap(), (7, 8, vec![], home("/seven")));
        assert_eq!(find("root").unwrap(), (0, 0, vec![20], home("/root")));
    }

    #[test]
    fn what_is_no_user_is_an_error_and_never_root() {
        for text in [
            "",
            ":",
            "app:",
            ":app",
            "1x",
            "-1",
            "+1",
            "4294967295",
            "4294967296",
            "0x0",
            " 0",
            "broken",
            "nobody",
            "app:nogroup",
            "app:1:2",
            "all",
        ] {
            assert!(find(text).is_err(), "{text:?}: {:?}", find(text));
        }
    }
}
