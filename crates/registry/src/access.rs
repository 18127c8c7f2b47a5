//! Who may do what.
//!
//! ```text
//! password or token ─login→ Caller ∩ scopes of a bearer token ─> may(action, repository)?
//! ```
//!
//! Accounts are few and are kept in memory; a change by `kiln registry user` or `token` replaces
//! them at once. Passwords are slow to try on purpose, so a client tries its own once and then
//! shows a bearer token, or is remembered for a minute under a keyed hash of what it said.

pub(crate) mod bearer;
pub(crate) mod grants;
pub(crate) mod login;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ring::hmac;

pub(crate) use grants::{Action, Grants};
pub(crate) use login::LoginError;

use crate::config::Config;
use crate::index::accounts::{Account, Token};
use crate::index::{Index, IndexError, Seconds};
use crate::name::Pattern;

/// How long a password that was right is believed without being tried again.
const REMEMBERED_SECONDS: Seconds = 60;
/// The most callers that are remembered.
const MOST_REMEMBERED: usize = 4096;

/// Somebody who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The account, or empty for nobody in particular.
    pub(crate) name: Arc<str>,
    /// May do everything.
    pub(crate) admin: bool,
    grants: Arc<Grants>,
    /// What a program's token is good for at most.
    limit: Option<Arc<Grants>>,
    /// What a bearer token was asked for.
    scope: Option<Arc<Grants>>,
}

impl Caller {
    /// Everybody, where no account is needed.
    pub(crate) fn everybody() -> Self {
        Self {
            name: "".into(),
            admin: true,
            grants: Arc::default(),
            limit: None,
            scope: None,
        }
    }

    /// Somebody who did not say who they are.
    pub(crate) fn nobody(public: &Arc<Grants>) -> Self {
        Self {
            name: "".into(),
            admin: false,
            grants: Arc::clone(public),
            limit: None,
            scope: None,
        }
    }

    /// Whether this is an account.
    pub(crate) fn is_known(&self) -> bool {
        !self.name.is_empty()
    }

    /// Whether the caller may, once it shows a bearer token that was asked for with that in mind.
    pub(crate) fn could(&self, action: Action, repo: &str) -> bool {
        let within = |limit: &Option<Arc<Grants>>| {
            limit.as_ref().is_none_or(|limit| limit.allow(action, repo))
        };
        (self.admin || self.grants.allow(action, repo)) && within(&self.limit)
    }

    /// Whether the caller may.
    pub(crate) fn may(&self, action: Action, repo: &str) -> bool {
        let scope = self.scope.as_ref();
        self.could(action, repo) && scope.is_none_or(|scope| scope.allow(action, repo))
    }
}

/// Accounts and tokens as they are now.
#[derive(Debug, Default)]
struct Accounts {
    accounts: BTreeMap<String, (Account, Arc<Grants>)>,
    tokens: BTreeMap<String, Token>,
}

/// The doorkeeper.
#[derive(Debug)]
pub(crate) struct Access {
    /// Whether one has to say who one is.
    pub(crate) needs_login: bool,
    /// What nobody in particular may do.
    pub(crate) public: Arc<Grants>,
    accounts: RwLock<Arc<Accounts>>,
    /// Which accounts these are; see [`crate::index::Moment`].
    version: AtomicU64,
    reloading: tokio::sync::Mutex<()>,
    secret: hmac::Key,
    remembered: Mutex<BTreeMap<[u8; 32], (Caller, Seconds)>>,
    failures: Mutex<BTreeMap<String, login::Failures>>,
    /// Two passwords at once: each takes 19 MiB.
    pub(crate) turns: tokio::sync::Semaphore,
}

impl Access {
    /// Reads the accounts; `secret` signs bearer tokens.
    pub(crate) async fn open(
        index: &Index,
        config: &Config,
        secret: &[u8],
    ) -> Result<Self, IndexError> {
        let public = Grants::pull(
            config
                .access
                .anonymous_pull
                .iter()
                .filter_map(|pattern| pattern.parse::<Pattern>().ok()),
        );
        let access = Self {
            needs_login: config.needs_login(),
            public: Arc::new(public),
            accounts: RwLock::default(),
            version: AtomicU64::new(0),
            reloading: tokio::sync::Mutex::default(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
            remembered: Mutex::default(),
            failures: Mutex::default(),
            turns: tokio::sync::Semaphore::new(2),
        };
        access.reload(index).await?;
        Ok(access)
    }

    /// Reads the accounts again; whoever was remembered is asked again.
    pub(crate) async fn reload(&self, index: &Index) -> Result<(), IndexError> {
        let (accounts, tokens) = (index.accounts().await?, index.tokens().await?);
        let accounts = accounts
            .into_iter()
            .map(|account| {
                // What cannot be read grants nothing.
                let grants = Grants::parse(&account.grants).unwrap_or_default();
                (account.name.clone(), (account, Arc::new(grants)))
            })
            .collect();
        let tokens = tokens
            .into_iter()
            .map(|token| (token.id.clone(), token))
            .collect();
        *self
            .accounts
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(Accounts { accounts, tokens });
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        Ok(())
    }

    /// Reads the accounts again if others who share the index have changed them since.
    pub(crate) async fn keep_up(&self, index: &Index, version: u64) -> Result<(), IndexError> {
        if self.version.load(Ordering::Acquire) >= version {
            return Ok(());
        }
        let _one_is_enough = self.reloading.lock().await;
        if self.version.load(Ordering::Acquire) >= version {
            return Ok(());
        }
        self.reload(index).await?;
        self.version.store(version, Ordering::Release);
        Ok(())
    }

    fn accounts(&self) -> Arc<Accounts> {
        Arc::clone(&self.accounts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The account called `name` as a caller; `None` if it is gone.
    fn caller(&self, name: &str) -> Option<Caller> {
        let accounts = self.accounts();
        let (account, grants) = accounts.accounts.get(name)?;
        Some(Caller {
            name: account.name.as_str().into(),
            admin: account.admin,
            grants: Arc::clone(grants),
            limit: None,
            scope: None,
        })
    }
}
