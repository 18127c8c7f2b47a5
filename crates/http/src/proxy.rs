//! Which requests go through a proxy, and how.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::Error;
use crate::settings::Proxies;
use crate::url::{Url, split_port};

/// How a connection reaches its host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Route {
    Direct,
    Proxy(Box<ProxyAddress>),
}

/// A proxy, from a setting.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProxyAddress {
    /// Where it listens.
    pub(crate) url: Url,
    /// `user:password`, with its escapes resolved.
    pub(crate) credentials: Option<String>,
}

impl std::fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyAddress")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Proxies {
    /// Returns how `url` is to be reached.
    ///
    /// # Errors
    /// [`Error::Proxy`] for a setting that is not a proxy's address.
    pub(crate) fn route(&self, url: &Url) -> Result<Route, Error> {
        let (scheme, setting) = if url.is_secure() {
            ("https", &self.https)
        } else {
            ("http", &self.http)
        };
        let Some(setting) = setting
            .as_deref()
            .map(str::trim)
            .filter(|text| !text.is_empty())
        else {
            return Ok(Route::Direct);
        };
        if url.is_loopback()
            || self
                .no_proxy
                .as_deref()
                .is_some_and(|list| is_listed(list, url))
        {
            return Ok(Route::Direct);
        }
        let address =
            ProxyAddress::parse(setting).map_err(|reason| Error::Proxy { scheme, reason })?;
        Ok(Route::Proxy(Box::new(address)))
    }
}

impl ProxyAddress {
    /// Reads `[http[s]://][user[:password]@]host[:port][/]`.
    fn parse(setting: &str) -> Result<Self, String> {
        let (scheme, rest) = setting.split_once("://").unwrap_or(("http", setting));
        if scheme != "http" && scheme != "https" {
            return Err(format!(
                "`{scheme}` proxies are not supported: give an `http://` or `https://` one"
            ));
        }
        let (credentials, authority) = match rest.rsplit_once('@') {
            Some((credentials, authority)) => (Some(credentials), authority),
            None => (None, rest),
        };
        let authority = authority.trim_end_matches('/');
        // The usual port of proxies, as curl has it, if none is named.
        let port = match split_port(authority) {
            Some((_, None)) if scheme == "http" => ":1080",
            _ => "",
        };
        let url = format!("{scheme}://{authority}{port}/")
            .parse()
            .map_err(|error: crate::UrlError| error.to_string())?;
        let credentials = credentials
            .map(|text| percent_decoded(text).ok_or("its user name or password is not text"))
            .transpose()?;
        Ok(Self { url, credentials })
    }

    /// Returns the value of `Proxy-Authorization`.
    pub(crate) fn authorization(&self) -> Option<String> {
        let credentials = self.credentials.as_ref()?;
        Some(format!("Basic {}", STANDARD.encode(credentials)))
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%'
            && let Some((pair, tail)) = tail.split_at_checked(2)
        {
            let digits = std::str::from_utf8(pair).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Tells whether `NO_PROXY` names the host of `url`.
fn is_listed(list: &str, url: &Url) -> bool {
    let host = url.host().trim_start_matches('[').trim_end_matches(']');
    let address = host
        .parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical());
    list.split([',', ' '])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            if entry == "*" {
                return true;
            }
            let entry = entry.to_ascii_lowercase();
            if let (Some(address), Some((network, bits))) = (address, entry.split_once('/')) {
                return in_network(address, network, bits);
            }
            // An IPv6 address without brackets is full of colons.
            let (name, port) = if entry.parse::<IpAddr>().is_ok() {
                (entry.as_str(), None)
            } else {
                split_port(&entry).unwrap_or((&entry, None))
            };
            if port.is_some_and(|port| port != url.port()) {
                return false;
            }
            let name = name.trim_start_matches('[').trim_end_matches(']');
            if let Some(address) = address {
                return name
                    .parse::<IpAddr>()
                    .is_ok_and(|listed| listed.to_canonical() == address);
            }
            let name = name.trim_start_matches('*').trim_start_matches('.');
            host == name
                || host
                    .strip_suffix(name)
                    .is_some_and(|before| before.ends_with('.'))
        })
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(no_proxy: &str) -> Proxies {
        Proxies {
            http: Some("proxy.corp:3128".to_owned()),
            https: Some("http://me:p%40ss@secure.corp:3129/".to_owned()),
            no_proxy: Some(no_proxy.to_owned()),
        }
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let route = |url: &str| match proxies("").route(&url.parse().unwrap()).unwrap() {
            Route::Direct => "direct".to_owned(),
            Route::Proxy(proxy) => format!("{} {:?}", proxy.url, proxy.authorization()),
        };
        assert_eq!(route("http://a/"), "http://proxy.corp:3128/ None");
        // base64 of `me:p@ss`
        assert_eq!(
            route("https://a/"),
            "http://secure.corp:3129/ Some(\"Basic bWU6cEBzcw==\")"
        );
        assert_eq!(route("http://localhost:5000/"), "direct");
    }

    #[test]
    fn no_proxy_lists_names_addresses_and_networks() {
        for (list, url, direct) in [
            ("example.com", "http://example.com/", true),
            ("example.com", "http://a.example.com/", true),
            ("example.com", "http://notexample.com/", false),
            (".example.com", "http://a.example.com/", true),
            ("*.example.com", "http://a.example.com/", true),
            ("EXAMPLE.com:8080", "http://example.com:8080/", true),
            ("example.com:8080", "http://example.com/", false),
            ("x, 10.0.0.0/8", "http://10.2.3.4/", true),
            ("10.0.0.0/8", "http://11.2.3.4/", false),
            ("0.0.0.0/0", "http://11.2.3.4/", true),
            ("10.1.1.1", "http://10.1.1.1:99/", true),
            ("fd00::/8", "http://[fd12::1]/", true),
            ("fd12::1", "http://[fd12::1]/", true),
            ("*", "http://anything/", true),
            ("", "http://anything/", false),
        ] {
            let route = proxies(list).route(&url.parse().unwrap()).unwrap();
            assert_eq!(route == Route::Direct, direct, "{list} {url}");
        }
    }

    #[test]
    fn a_bad_setting_is_an_error_without_its_password() {
        let proxies = Proxies {
            http: Some("http://me:hunter2@:x".to_owned()),
            https: Some("socks5://me:hunter2@h".to_owned()),
            no_proxy: None,
        };
        for url in ["http://a/", "https://a/"] {
            let error = proxies
                .route(&url.parse().unwrap())
                .unwrap_err()
                .to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{proxies:?}").contains("hunter2"));
    }
}
