//! What is fuzzed here: whatever reads an image's accounts, and what the kernel tells in /proc, each with what must hold.
//!
//! Each function takes any bytes and panics if something does not hold. They are targets in `fuzz/containers`, and run as
//! property tests here, so that they mean something without a fuzzer too.

use crate::account;
use crate::cgroup;
use crate::enter;
use crate::privileges::parse_map;
use crate::processes;
use crate::sysctl::SettingOf;

/// The account files of an image, and a user of it: the three parts are separated by zero bytes.
pub fn account(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(3, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (user, passwd, group) = (part(), part(), part());
    if let Ok(account) = account::named(passwd, group, user) {
        let ids = account.ids;
        let all = [ids.uid, ids.gid]
            .into_iter()
            .chain(ids.groups.iter().copied());
        assert!(
            all.into_iter().all(|id| id != u32::MAX),
            "that means to change nothing"
        );
        assert!(account.home.starts_with('/') && !account.home.contains('\0'));
        assert!(ids.groups.len() <= 65_536);
        assert!(!user.starts_with(['-', '+', ':']) || passwd.contains(user));
    }
}

/// Files in `/proc` and `/etc`.
pub fn kernel(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    cgroup::examine(&text);
    enter::examine(&text);
    processes::examine(&text);
    for range in parse_map(&text) {
        assert!(range.count > 0 || text.contains('0'));
    }
}

/// Names of settings: what is allowed leads nowhere else.
pub fn setting(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if SettingOf::name(&text).is_some() {
        let parts = text.split(['.', '/']);
        assert!(parts.into_iter().all(|part| !part.is_empty()) && text.is_ascii());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            account(&bytes);
            kernel(&bytes);
            setting(&bytes);
        }

        #[test]
        fn almost_accounts_will_do(
            user in "[a-c0-9:+-]{0,12}",
            passwd in "([a-c0-9+-]{0,3}(:[a-c0-9x/+-]{0,10}){0,6}\n){0,4}",
            group in "([a-c0-9+-]{0,3}(:[a-c0-9,x+-]{0,10}){0,3}\n){0,4}",
        ) {
            account(format!("{user}\0{passwd}\0{group}").as_bytes());
        }

        #[test]
        fn almost_lines_of_the_kernel_will_do(
            text in "([0-9 :/a-e()=,-]{0,20}( - cgroup2? |\\) [SRZ] |:[0-9]{1,12}:)[0-9 :/a-e=,-]{0,60}\n){0,4}",
        ) {
            kernel(text.as_bytes());
        }

        #[test]
        fn almost_settings_will_do(text in "(net|kernel|fs|user)[./](ipv4|shmmax|mqueue|[.][.]|[a-z_-]{0,4})([./][a-z.]{0,5}){0,3}") {
            setting(text.as_bytes());
        }
    }
}
