//! Trying passwords and tokens.

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use std::sync::PoisonError;

use super::{Access, Caller, Grants, MOST_REMEMBERED, REMEMBERED_SECONDS};
use crate::digest::{Algorithm, Digest};
use crate::index::Seconds;
use crate::secret;

/// The longest password or token, in bytes.
const MOST_BYTES: usize = 1024;
/// Failures after which one has to wait.
const FREE_FAILURES: u32 = 10;
/// The longest wait after a failure.
const LONGEST_WAIT: Seconds = 300;
/// What the secrets of tokens begin with, so that they are found when they leak.
const TOKEN_PREFIX: &str = "kilnreg_";

/// A login that was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginError {
    /// Not this name with this password.
    Wrong,
    /// Too many wrong ones lately; try after these seconds.
    Wait(Seconds),
}

/// Wrong passwords lately.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failures {
    count: u32,
    until: Seconds,
}

/// Reads `user:password` from the value of a header.
pub(crate) fn parse_basic(value: &str) -> Option<(String, String)> {
    let (scheme, text) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || text.len() > 2 * MOST_BYTES {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(text.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// A hash of a password to keep. Slow on purpose.
pub(crate) fn hash_password(password: &str) -> String {
    let salt = SaltString::encode_b64(&secret::random::<16>()).expect("16 bytes make a salt");
    let hashed = Argon2::default().hash_password(password.as_bytes(), &salt);
    hashed
        .expect("the parameters are the default ones")
        .to_string()
}

/// A new token's id, secret, and the hash to keep.
pub(crate) fn new_token() -> (String, String, String) {
    let id = crate::digest::hex(&secret::random::<8>());
    let random = crate::digest::hex(&secret::random::<32>());
    let secret = format!("{TOKEN_PREFIX}{id}_{random}");
    let hash = hash_token(&secret);
    (id, secret, hash)
}

fn hash_token(secret: &str) -> String {
    Digest::of(Algorithm::Sha256, secret.as_bytes())
        .hex()
        .to_owned()
}

impl Access {
    /// Lets an account in by its password or one of its tokens. `from` is the address it comes from.
    ///
    /// # Errors
    /// The password is wrong, or there were too many wrong ones.
    pub(crate) async fn log_in(
        self: &std::sync::Arc<Self>,
        user: &str,
        password: &str,
        from: &str,
        now: Seconds,
    ) -> Result<Caller, LoginError> {
        if password.len() > MOST_BYTES || user.len() > MOST_BYTES {
            return Err(LoginError::Wrong);
        }
        let key = self.remembering_key(user, password);
        if let Some(caller) = self.remembered(&key, now) {
            return Ok(caller);
        }
        let account_and_place = format!("{user}\n{from}");
        self.check_failures(&account_and_place, now)?;
        let found = if password.starts_with(TOKEN_PREFIX) {
            self.by_token(user, password, now)
        } else {
            self.by_password(user, password).await
        };
        match found {
            Some(caller) => {
                self.remember(key, &caller, now);
                self.lock_failures().remove(&account_and_place);
                Ok(caller)
            }
            None => {
                self.note_failure(account_and_place, now);
                Err(LoginError::Wrong)
            }
        }
    }

    fn by_token(&self, user: &str, secret: &str, now: Seconds) -> Option<Caller> {
        let id = secret.strip_prefix(TOKEN_PREFIX)?.split('_').next()?;
        let accounts = self.accounts();
        let token = accounts.tokens.get(id)?;
        let is_good = secret::same(&token.hash, &hash_token(secret))
            && token.account == user
            && token.expires_at.is_none_or(|end| now < end);
        if !is_good {
            return None;
        }
        let mut caller = self.caller(&token.account)?;
        // What cannot be read grants nothing.
        let limit = token
            .grants
            .as_deref()
            .map(|text| Grants::parse(text).unwrap_or_default());
        caller.limit = limit.map(Into::into);
        Some(caller)
    }

    async fn by_password(
        self: &std::sync::Arc<Self>,
        user: &str,
        password: &str,
    ) -> Option<Caller> {
        let accounts = self.accounts();
        let hash = accounts
            .accounts
            .get(user)
            .and_then(|(account, _)| account.password.clone());
        let is_known = hash.is_some();
        // Unknown names take as long as known ones.
        let hash = hash.unwrap_or_else(|| DUMMY.to_owned());
        let password = password.to_owned();
        let _turn = self.turns.acquire().await.ok()?;
        let is_right = tokio::task::spawn_blocking(move || {
            PasswordHash::new(&hash).is_ok_and(|hash| {
                Argon2::default()
                    .verify_password(password.as_bytes(), &hash)
                    .is_ok()
            })
        })
        .await
        .unwrap_or(false);
        if is_right && is_known {
            self.caller(user)
        } else {
            None
        }
    }

    fn remembering_key(&self, user: &str, password: &str) -> [u8; 32] {
        let text = format!("{user}\n{password}");
        let tag = hmac::sign(&self.secret, text.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(tag.as_ref());
        key
    }

    fn remembered(&self, key: &[u8; 32], now: Seconds) -> Option<Caller> {
        let remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (caller, until) = remembered.get(key)?;
        (now < *until).then(|| caller.clone())
    }

    fn remember(&self, key: [u8; 32], caller: &Caller, now: Seconds) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, (caller.clone(), now + REMEMBERED_SECONDS));
    }

    fn lock_failures(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<String, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_failures(&self, who: &str, now: Seconds) -> Result<(), LoginError> {
        match self.lock_failures().get(who) {
            Some(failures) if failures.count >= FREE_FAILURES && now < failures.until => {
                Err(LoginError::Wait(failures.until - now))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn note_failure(&self, who: String, now: Seconds) {
        let mut all = self.lock_failures();
        if all.len() >= MOST_REMEMBERED {
            all.retain(|_, failures| now < failures.until);
            if all.len() >= MOST_REMEMBERED {
                all.clear();
            }
        }
        let failures = all.entry(who).or_insert(Failures { count: 0, until: 0 });
        if failures.count > 0 && now > failures.until + LONGEST_WAIT {
            failures.count = 0;
        }
        failures.count += 1;
        let doubled = failures.count.saturating_sub(FREE_FAILURES).min(9);
        failures.until = now + (1 << doubled).min(LONGEST_WAIT);
    }
}

/// A hash that no password has, with the costs of the others.
const DUMMY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_nobody_costs_as_much_as_others() {
        let dummy = PasswordHash::new(DUMMY).unwrap();
        let hash = hash_password("hunter2");
        let real = PasswordHash::new(&hash).unwrap();
        assert_eq!(dummy.params.to_string(), real.params.to_string());
        assert!(Argon2::default().verify_password(b"hunter2", &real).is_ok());
        assert!(
            Argon2::default()
                .verify_password(b"hunter3", &real)
                .is_err()
        );
    }

    proptest::proptest! {
        #[test]
        fn no_header_breaks_the_parser(text in "\\PC*", tail in "[A-Za-z0-9+/=]{0,40}") {
            drop(parse_basic(&text));
            drop(parse_basic(&format!("Basic {tail}")));
        }
    }

    #[test]
    fn basic_credentials_are_read() {
        let pair = |text| parse_basic(text);
        assert_eq!(pair("Basic YTpiOmM="), Some(("a".into(), "b:c".into())));
        assert_eq!(pair("basic YTo="), Some(("a".into(), String::new())));
        for text in ["", "Basic", "Basic !", "Bearer YTpi", "Basic YQ=="] {
            assert_eq!(pair(text), None, "{text}");
        }
    }
}
