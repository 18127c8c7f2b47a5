//! Accounts and tokens, managed.

use serde_json::{Value, json};

use super::wait;
use crate::access::Grants;
use crate::access::login::{hash_password, new_token};
use crate::control::Command;
use crate::index::IndexError;
use crate::index::accounts::{Account, Token};
use crate::index::change::Change;
use crate::registry::{Registry, RegistryError};

/// The longest name of an account or token, in bytes.
const MOST_BYTES: usize = 64;
/// The shortest password, in characters.
const LEAST_PASSWORD: usize = 8;

/// Does a command about accounts.
pub(crate) fn perform(registry: &Registry, command: &Command) -> Result<Value, RegistryError> {
    let refused = |text: String| RegistryError::Refused(text);
    match command {
        Command::PutUser {
            name,
            password,
            admin,
            grants,
            new,
        } => {
            let account = changed(
                registry,
                name,
                password.as_deref(),
                *admin,
                grants.as_deref(),
                *new,
            )?;
            let shown = shown(&account);
            make(registry, Change::Account(account))?;
            Ok(shown)
        }
        Command::RemoveUser { name } => {
            find(registry, name)?.ok_or_else(|| refused(format!("there is no account {name}")))?;
            make(registry, Change::NoAccount { name: name.clone() })?;
            Ok(json!({ "name": name }))
        }
        Command::Users => {
            let accounts = wait(registry.index.accounts())?;
            Ok(accounts.iter().map(shown).collect())
        }
        Command::NewToken {
            user,
            name,
            grants,
            life,
        } => new_token_for(registry, user, name, grants, *life),
        Command::RemoveToken { id } => {
            let tokens = wait(registry.index.tokens())?;
            if !tokens.iter().any(|token| token.id == *id) {
                return Err(refused(format!("there is no token {id}")));
            }
            make(registry, Change::NoToken { id: id.clone() })?;
            Ok(json!({ "id": id }))
        }
        Command::Tokens => {
            let tokens = wait(registry.index.tokens())?;
            Ok(tokens
                .iter()
                .map(|token| {
                    json!({
                        "id": token.id, "user": token.account, "name": token.name,
                        "grants": token.grants, "expires-at": token.expires_at,
                        "created-at": token.created_at,
                    })
                })
                .collect())
        }
        Command::Gc { .. }
        | Command::Check
        | Command::Scrub
        | Command::Undelete { .. }
        | Command::ReadOnly { .. }
        | Command::Backup { .. }
        | Command::Export { .. }
        | Command::Import { .. } => Err(refused("this is not about accounts".to_owned())),
    }
}

fn make(registry: &Registry, change: Change) -> Result<(), IndexError> {
    registry.index.change_account(change)?;
    wait(registry.access.reload(&registry.index))
}

fn find(registry: &Registry, name: &str) -> Result<Option<Account>, IndexError> {
    let accounts = wait(registry.index.accounts())?;
    Ok(accounts.into_iter().find(|account| account.name == name))
}

fn changed(
    registry: &Registry,
    name: &str,
    password: Option<&str>,
    admin: Option<bool>,
    grants: Option<&[String]>,
    new: bool,
) -> Result<Account, RegistryError> {
    let refused = |text: String| Err(RegistryError::Refused(text));
    if !is_plain(name) {
        return refused(format!(
            "`{name}` is no name: use at most 64 letters, digits, `.`, `_`, `-` and `@`"
        ));
    }
    let mut account = match (find(registry, name)?, new) {
        (Some(_), true) => return refused(format!("there is an account {name} already")),
        (None, false) => return refused(format!("there is no account {name}")),
        (Some(account), false) => account,
        (None, true) => Account {
            name: name.to_owned(),
            password: None,
            admin: false,
            grants: String::new(),
            created_at: registry.now(),
        },
    };
    if let Some(password) = password {
        if password.chars().count() < LEAST_PASSWORD {
            return refused(format!(
                "the password has fewer than {LEAST_PASSWORD} characters"
            ));
        }
        account.password = Some(hash_password(password));
    }
    account.admin = admin.unwrap_or(account.admin);
    if let Some(grants) = grants {
        account.grants = normalised(grants)?;
    }
    Ok(account)
}

fn normalised(grants: &[String]) -> Result<String, RegistryError> {
    let grants = Grants::parse(&grants.join(" ")).map_err(RegistryError::Refused)?;
    Ok(grants.to_string())
}

fn new_token_for(
    registry: &Registry,
    user: &str,
    name: &str,
    grants: &[String],
    life: Option<u64>,
) -> Result<Value, RegistryError> {
    let refused = |text: String| Err(RegistryError::Refused(text));
    if find(registry, user)?.is_none() {
        return refused(format!("there is no account {user}"));
    }
    if !is_plain(name) {
        return refused(format!(
            "`{name}` is no name: use at most 64 letters, digits, `.`, `_`, `-` and `@`"
        ));
    }
    let (id, secret, hash) = new_token();
    let now = registry.now();
    let token = Token {
        id: id.clone(),
        account: user.to_owned(),
        name: name.to_owned(),
        hash,
        grants: if grants.is_empty() {
            None
        } else {
            Some(normalised(grants)?)
        },
        expires_at: life.map(|life| now.saturating_add(i64::try_from(life).unwrap_or(i64::MAX))),
        created_at: now,
    };
    let expires_at = token.expires_at;
    make(registry, Change::Token(token))?;
    Ok(json!({ "id": id, "user": user, "name": name, "secret": secret, "expires-at": expires_at }))
}

fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    !name.is_empty() && name.len() <= MOST_BYTES && name.bytes().all(is_plain)
}

fn shown(account: &Account) -> Value {
    json!({
        "name": account.name, "admin": account.admin, "grants": account.grants,
        "password": account.password.is_some(), "created-at": account.created_at,
    })
}
