//! Certificates where docker, podman and skopeo look for them: a folder for each registry.
//!
//! ```text
//! certs.d/registry.example.com:5000/ca.crt        an authority to trust
//!                                   client.cert   the certificate to show,
//!                                   client.key    and its key
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kiln_http::{ClientCertificate, HostSettings};

/// Finds the certificates for each host; the first of `folders` that has one for a host has all of it.
///
/// What cannot be read is passed over: it belongs to other programs, and most hosts are never asked.
pub(super) fn hosts(folders: &[PathBuf]) -> BTreeMap<String, HostSettings> {
    let mut hosts = BTreeMap::new();
    for folder in folders {
        for of_host in entries(folder) {
            let Some(host) = of_host.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if !hosts.contains_key(host) {
                hosts.insert(host.to_owned(), read(&of_host));
            }
        }
    }
    hosts
}

/// Adds what is found to what somebody said in so many words, which counts.
pub(super) fn add(
    said: &mut BTreeMap<String, HostSettings>,
    found: BTreeMap<String, HostSettings>,
) {
    for (host, mut found) in found {
        let said = said.entry(host).or_default();
        said.authorities.append(&mut found.authorities);
        if said.client_certificate.is_none() {
            said.client_certificate = found.client_certificate;
        }
    }
}

fn read(folder: &Path) -> HostSettings {
    let mut settings = HostSettings::default();
    for file in entries(folder) {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => settings.authorities.push(file),
            Some("cert") if settings.client_certificate.is_none() => {
                settings.client_certificate = Some(ClientCertificate {
                    key: file.with_extension("key"),
                    certificate: file,
                });
            }
            _ => {}
        }
    }
    settings
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_that_knows_a_host_counts_and_settings_count_more() {
        let space = tempfile::tempdir().expect("a folder");
        let path = |name: &str| space.path().join(name);
        for file in [
            "one/a:5000/ca.crt",
            "one/a:5000/client.cert",
            "one/a:5000/client.key",
            "two/a:5000/other.crt",
            "two/b/b.crt",
        ] {
            fs::create_dir_all(path(file).parent().expect("a folder")).expect("folders");
            fs::write(path(file), "").expect("a file");
        }
        let found = hosts(&[path("none"), path("one"), path("two")]);
        let a = HostSettings {
            authorities: vec![path("one/a:5000/ca.crt")],
            client_certificate: Some(ClientCertificate {
                certificate: path("one/a:5000/client.cert"),
                key: path("one/a:5000/client.key"),
            }),
            ..HostSettings::default()
        };
        assert_eq!(found.get("a:5000"), Some(&a));
        assert_eq!(found["b"].authorities, [path("two/b/b.crt")]);

        let own = ClientCertificate {
            certificate: path("own"),
            key: path("own"),
        };
        let mut said = BTreeMap::from([(
            "a:5000".to_owned(),
            HostSettings {
                plain_http: true,
                client_certificate: Some(own.clone()),
                ..HostSettings::default()
            },
        )]);
        add(&mut said, found);
        let a = HostSettings {
            plain_http: true,
            client_certificate: Some(own),
            ..a
        };
        assert_eq!(said.get("a:5000"), Some(&a));
    }
}
