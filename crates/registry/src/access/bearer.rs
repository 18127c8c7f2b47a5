//! Bearer tokens: what the token endpoint hands out, and everything else believes.
//!
//! JSON web tokens with HS256: whoever issues them is who checks them. The header is compared as
//! it is, so there is no algorithm to choose. A token names an account and what it was asked for;
//! what the account may do is looked up at each use, so a right that is taken away is gone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{Access, Action, Caller, Grants};
use crate::digest::hex;
use crate::index::Seconds;
use crate::secret;

/// The only header there is: `{"alg":"HS256","typ":"JWT"}`.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";
/// Who issues tokens and who they are for.
pub(crate) const SERVICE: &str = "kiln-registry";
/// The longest token, in bytes.
const MOST_BYTES: usize = 16 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    exp: Seconds,
    nbf: Seconds,
    iat: Seconds,
    jti: String,
    access: Vec<Claim>,
    /// What a program's token is good for at most; see [`crate::index::accounts::Token`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    most: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    r#type: String,
    name: String,
    actions: Vec<String>,
}

impl Access {
    /// Makes a token for `caller` that is good for as much of `wanted` as the caller may do.
    pub(crate) fn issue(
        &self,
        caller: &Caller,
        wanted: Vec<(String, Vec<Action>)>,
        now: Seconds,
        life: Seconds,
    ) -> String {
        let mut access = Vec::new();
        for (name, actions) in wanted {
            let granted = actions
                .into_iter()
                .filter(|action| caller.may(*action, &name));
            let actions: Vec<String> = granted.map(|action| action.as_str().to_owned()).collect();
            if !actions.is_empty() {
                let r#type = "repository".to_owned();
                access.push(Claim {
                    r#type,
                    name,
                    actions,
                });
            }
        }
        let claims = Claims {
            iss: SERVICE.to_owned(),
            aud: SERVICE.to_owned(),
            sub: caller.name.to_string(),
            exp: now + life,
            nbf: now - 5,
            iat: now,
            jti: hex(&secret::random::<8>()),
            access,
            most: caller.limit.as_ref().map(ToString::to_string),
        };
        let body = serde_json::to_vec(&claims).expect("claims have only text keys");
        let signed = format!("{HEADER}.{}", BASE64.encode(body));
        let signature = BASE64.encode(hmac::sign(&self.secret, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// Who shows a token; `None` if it is not ours, over, or its account gone.
    pub(crate) fn check(&self, token: &str, now: Seconds) -> Option<Caller> {
        if token.len() > MOST_BYTES {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, body) = signed.split_once('.')?;
        let signature = BASE64.decode(signature).ok()?;
        hmac::verify(&self.secret, signed.as_bytes(), &signature).ok()?;
        if header != HEADER {
            return None;
        }
        let claims: Claims = serde_json::from_slice(&BASE64.decode(body).ok()?).ok()?;
        let is_good =
            claims.iss == SERVICE && claims.aud == SERVICE && claims.nbf <= now && now < claims.exp;
        if !is_good {
            return None;
        }
        let mut caller = if claims.sub.is_empty() {
            Caller::nobody(&self.public)
        } else {
            self.caller(&claims.sub)?
        };
        let scopes: Vec<String> = claims
            .access
            .iter()
            .map(|claim| format!("repository:{}:{}", claim.name, claim.actions.join(",")))
            .collect();
        let asked = Grants::exactly(Grants::parse_scopes(scopes.iter().map(String::as_str)));
        caller.scope = Some(asked.into());
        let limit = claims
            .most
            .map(|text| Grants::parse(&text).unwrap_or_default());
        caller.limit = limit.map(Into::into);
        Some(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::index::Index;
    use crate::upkeep::wait;

    fn access_of(folder: &std::path::Path, secret: &[u8]) -> Access {
        let config: Config =
            toml::from_str("[access]\nlogin = \"required\"\nanonymous-pull = [\"public/*\"]")
                .unwrap();
        wait(Access::open(&Index::open(folder).unwrap(), &config, secret)).unwrap()
    }

    #[test]
    fn a_token_is_good_for_what_it_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let access = access_of(folder.path(), b"secret");
        let nobody = Caller::nobody(&access.public);
        let wanted = vec![
            ("public/a".to_owned(), vec![Action::Pull, Action::Push]),
            ("private".to_owned(), vec![Action::Pull]),
        ];
        let token = access.issue(&nobody, wanted, 100, 60);
        let caller = access.check(&token, 110).unwrap();
        assert!(caller.may(Action::Pull, "public/a"));
        assert!(!caller.may(Action::Pull, "public/b"));
        assert!(!caller.may(Action::Push, "public/a"));
        assert!(!caller.may(Action::Pull, "private"));
    }

    #[test]
    fn forged_and_old_tokens_are_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let access = access_of(folder.path(), b"secret");
        let token = access.issue(&Caller::nobody(&access.public), Vec::new(), 100, 60);
        assert!(access.check(&token, 159).is_some());
        assert!(access.check(&token, 160).is_none());
        assert!(access.check(&token, 90).is_none());
        let body = token.split('.').nth(1).unwrap();
        let none = format!("{}.{body}.", BASE64.encode(r#"{"alg":"none"}"#));
        for forged in [none.as_str(), "", ".", "..", &token[..token.len() - 2]] {
            assert!(access.check(forged, 110).is_none(), "{forged}");
        }
        let other = tempfile::tempdir().unwrap();
        let other = access_of(other.path(), b"another");
        assert!(other.check(&token, 110).is_none());
    }
}
