//! Credentials written and forgotten, so that docker and podman find them, or miss them, too.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_http::Cancel;

use super::edit::{Object, quoted};
use super::{
    Credential, CredentialFiles, File, TOKEN_USER, helper_failed, malformed, normal, read_bytes,
    server,
};
use crate::error::CredentialsError;
use crate::helper;

/// How many symbolic links in a row are followed to the file itself.
const MOST_LINKS: usize = 8;

/// Where a credential was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In this file, readable to its owner, but not encrypted.
    File(PathBuf),
    /// With this helper program, which the file names.
    Helper(String),
}

impl CredentialFiles {
    /// Returns the file that new credentials belong in: the first that exists, since the first that
    /// knows a registry is believed, and otherwise the last, which docker shares.
    pub fn home(&self) -> Option<&Path> {
        let exists = self.files.iter().find(|path| path.exists());
        exists.or_else(|| self.files.last()).map(PathBuf::as_path)
    }

    /// Keeps a credential for `registry`: with the helper that the file `path` names, or in the file.
    /// May run a helper program, and then blocks.
    ///
    /// The file is replaced at once, for its owner alone (mode 0600); whatever else is in it stays.
    ///
    /// # Errors
    /// [`CredentialsError::Write`], and those of [`find`](Self::find).
    pub fn store(
        &self,
        path: &Path,
        registry: &str,
        credential: &Credential,
        cancel: &Cancel,
    ) -> Result<Kept, CredentialsError> {
        let mut edited = Edited::open(path)?;
        let kept = match edited.helper_of(registry) {
            None => {
                edited.set(registry, Object::of(credential))?;
                Kept::File(path.to_owned())
            }
            Some(name) => {
                let program = self.helper(path, &name)?;
                let (user, secret) = credential.as_pair();
                let server = server(registry);
                helper::store(&program, server, user, secret, cancel)
                    .map_err(|failure| helper_failed(&program, server, failure))?;
                // An entry without anything says that there is one elsewhere.
                edited.set(registry, Object::empty())?;
                Kept::Helper(name)
            }
        };
        edited.save()?;
        Ok(kept)
    }

    /// Forgets what all files and their helpers know of `registry`, and returns the files that knew
    /// something. May run helper programs, and then blocks.
    ///
    /// Entries for single repositories of the registry stay.
    ///
    /// # Errors
    /// [`CredentialsError::Write`], and those of [`find`](Self::find). Files before the one in question
    /// have forgotten already.
    pub fn erase(&self, registry: &str, cancel: &Cancel) -> Result<Vec<PathBuf>, CredentialsError> {
        let mut forgot = Vec::new();
        for path in &self.files {
            if read_bytes(path)?.is_none() {
                continue;
            }
            let mut edited = Edited::open(path)?;
            let mut knew = false;
            if let Some(name) = edited.helper_of(registry) {
                let program = self.helper(path, &name)?;
                let server = server(registry);
                // Helpers answer to the erasing of nothing as they like: asking first is reliable.
                let failed = |failure| helper_failed(&program, server, failure);
                knew = helper::get(&program, server, cancel)
                    .map_err(failed)?
                    .is_some();
                if knew {
                    helper::erase(&program, server, cancel).map_err(failed)?;
                }
            }
            if edited.remove(registry)? {
                edited.save()?;
                knew = true;
            }
            if knew {
                forgot.push(path.clone());
            }
        }
        Ok(forgot)
    }
}

impl Credential {
    /// Returns user and secret as helpers want them.
    fn as_pair(&self) -> (&str, &str) {
        match self {
            Self::Password { user, password } => (user, password.reveal()),
            Self::Identity(token) | Self::Access(token) => (TOKEN_USER, token.reveal()),
        }
    }
}

impl Object {
    /// Returns the entry that holds a credential.
    fn of(credential: &Credential) -> Self {
        let encoded = |user: &str, secret: &str| STANDARD.encode(format!("{user}:{secret}"));
        let members = match credential {
            Credential::Password { user, password } => {
                vec![("auth", encoded(user, password.reveal()))]
            }
            // Skopeo and podman pass over a token in an entry that has no user.
            Credential::Identity(token) => vec![
                ("auth", encoded(TOKEN_USER, "")),
                ("identitytoken", token.reveal().to_owned()),
            ],
            Credential::Access(token) => vec![("registrytoken", token.reveal().to_owned())],
        };
        let mut entry = Self::empty();
        for (key, value) in members {
            entry
                .set(key, quoted(&value))
                .expect("a quoted text is JSON");
        }
        entry
    }
}

/// A credentials file that is being changed.
struct Edited<'a> {
    path: &'a Path,
    whole: Object,
    auths: Object,
    file: File,
}

impl<'a> Edited<'a> {
    fn open(path: &'a Path) -> Result<Self, CredentialsError> {
        let failed = |error: serde_json::Error| malformed(path, &error);
        let bytes = read_bytes(path)?.unwrap_or_else(|| b"{}".to_vec());
        let whole = Object::parse(&bytes).map_err(failed)?;
        let auths = match whole.get("auths") {
            None | Some("null") => Object::empty(),
            Some(text) => Object::parse(text.as_bytes()).map_err(failed)?,
        };
        Ok(Self {
            path,
            whole,
            auths,
            file: serde_json::from_slice(&bytes).map_err(failed)?,
        })
    }

    /// Returns the name of the helper that has, or is to have, the registry's credential.
    fn helper_of(&self, registry: &str) -> Option<String> {
        let own = self.file.helpers.iter();
        let own = own
            .filter(|(key, _)| normal(key) == registry)
            .map(|(_, helper)| helper);
        own.chain(&self.file.store)
            .find(|helper| !helper.is_empty())
            .cloned()
    }

    fn set(&mut self, registry: &str, entry: Object) -> Result<(), CredentialsError> {
        let known = self.auths.keys().find(|key| normal(key) == registry);
        let key = known.unwrap_or(server(registry)).to_owned();
        // The same registry under another of its names would be found by one program or the other.
        self.auths
            .remove(|other| normal(other) == registry && *other != key);
        self.auths
            .set(&key, entry.to_text(2))
            .map_err(|error| malformed(self.path, &error))?;
        self.put_back()
    }

    fn remove(&mut self, registry: &str) -> Result<bool, CredentialsError> {
        let removed = self.auths.remove(|key| normal(key) == registry);
        if removed {
            self.put_back()?;
        }
        Ok(removed)
    }

    fn put_back(&mut self) -> Result<(), CredentialsError> {
        self.whole
            .set("auths", self.auths.to_text(1))
            .map_err(|error| malformed(self.path, &error))
    }

    /// Writes the file anew beside the old one, and puts it in its place.
    fn save(&self) -> Result<(), CredentialsError> {
        let failed = |error: io::Error| CredentialsError::Write {
            path: self.path.to_owned(),
            reason: error.to_string(),
        };
        let target = followed(self.path).map_err(failed)?;
        let folder = target.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        let (draft, mut file) = draft(&target).map_err(failed)?;
        let text = self.whole.to_text(0) + "\n";
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&draft, &target));
        if let Err(error) = written {
            // What could not be written must not stay either; the first error says more.
            drop(fs::remove_file(&draft));
            return Err(failed(error));
        }
        Ok(())
    }
}

/// Opens a new file beside `target`, for its owner alone.
fn draft(target: &Path) -> io::Result<(PathBuf, fs::File)> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".kiln-{}", std::process::id()));
    let draft = target.with_file_name(name);
    let open = || {
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
    };
    let file = match open() {
        // A process of the same number died here.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&draft)?;
            open()
        }
        other => other,
    }?;
    Ok((draft, file))
}

/// Returns the file that `path` leads to: people keep these files elsewhere, behind links.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new(".")).join(target),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;
    use crate::credentials::Secret;

    fn me(password: &str) -> Credential {
        Credential::Password {
            user: "me".to_owned(),
            password: Secret::new(password),
        }
    }

    /// Files that consist of one, and a helper that notes what it is told.
    fn files(folder: &Path) -> CredentialFiles {
        let helper = folder.join("docker-credential-test");
        let script = "#!/bin/sh\ncd \"${0%/*}\"\ncase $1 in\n\
             get) cat kept 2>/dev/null || { echo 'credentials not found'; exit 1; };;\n\
             store) cat > kept;;\nerase) cat > erased; rm kept;;\nesac\n";
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        CredentialFiles {
            files: vec![
                folder.join("containers/auth.json"),
                folder.join("docker/config.json"),
            ],
            helper_folders: vec![folder.to_owned()],
        }
    }

    fn store(files: &CredentialFiles, registry: &str, credential: &Credential) -> Kept {
        let home = files.home().unwrap();
        files
            .store(home, registry, credential, &Cancel::new())
            .unwrap()
    }

    fn found(files: &CredentialFiles, registry: &str) -> Option<Credential> {
        files.find(registry, "x", &Cancel::new()).unwrap()
    }

    #[test]
    fn a_new_file_is_dockers_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let docker = folder.path().join("docker/config.json");
        assert_eq!(
            store(&files, "r:5000", &me("a:b")),
            Kept::File(docker.clone())
        );
        assert_eq!(found(&files, "r:5000"), Some(me("a:b")));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(
            (mode(&docker), mode(docker.parent().unwrap())),
            (0o600, 0o700)
        );
        assert_eq!(
            fs::read_to_string(&docker).unwrap(),
            "{\n\t\"auths\": {\n\t\t\"r:5000\": {\n\t\t\t\"auth\": \"bWU6YTpi\"\n\t\t}\n\t}\n}\n"
        );
        for token in [Credential::Identity, Credential::Access] {
            let token = token(Secret::new("t"));
            store(&files, "s", &token);
            assert_eq!(found(&files, "s"), Some(token));
        }
        // Nothing else is left there.
        assert_eq!(fs::read_dir(docker.parent().unwrap()).unwrap().count(), 1);
        // Podman's file is believed before docker's, so it is written where there is one.
        let podman = folder.path().join("containers/auth.json");
        fs::create_dir(podman.parent().unwrap()).unwrap();
        fs::write(&podman, "").unwrap();
        assert_eq!(store(&files, "r:5000", &me("new")), Kept::File(podman));
        assert_eq!(found(&files, "r:5000"), Some(me("new")));
    }

    #[test]
    fn a_token_has_a_user_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let token = Credential::Identity(Secret::new("t"));
        store(&files, "r", &token);
        let docker = folder.path().join("docker/config.json");
        // base64 of `<token>:`
        assert_eq!(
            fs::read_to_string(docker).unwrap(),
            "{\n\t\"auths\": {\n\t\t\"r\": {\n\t\t\t\"auth\": \"PHRva2VuPjo=\",\n\t\t\t\
             \"identitytoken\": \"t\"\n\t\t}\n\t}\n}\n"
        );
        assert_eq!(found(&files, "r"), Some(token));
    }

    #[test]
    fn what_others_wrote_stays() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let real = folder.path().join("dotfiles.json");
        let docker = folder.path().join("docker/config.json");
        fs::create_dir(docker.parent().unwrap()).unwrap();
        symlink("../dotfiles.json", &docker).unwrap();
        let before = r#"{"psFormat": "table",
 "auths":{"z": {"auth": "eDp5", "own":[1 ]}, "docker.io": {}, "https://index.docker.io/v1/":{"auth":"b2xkOm9sZA=="}},
 "HttpHeaders":  {"b":"1","a":2.50}}"#;
        fs::write(&real, before).unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
        store(&files, "docker.io", &me("p"));
        let text = fs::read_to_string(&real).unwrap();
        assert_eq!(
            text,
            "{\n\t\"psFormat\": \"table\",\n\t\"auths\": {\n\t\t\"z\": {\"auth\": \"eDp5\", \"own\":[1 ]},\n\t\t\
             \"docker.io\": {\n\t\t\t\"auth\": \"bWU6cA==\"\n\t\t}\n\t},\n\t\"HttpHeaders\": {\"b\":\"1\",\"a\":2.50}\n}\n"
        );
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&docker).unwrap().is_symlink());
        // And goes alone.
        let forgot = files.erase("docker.io", &Cancel::new()).unwrap();
        assert_eq!(forgot, [docker]);
        assert_eq!(found(&files, "docker.io"), None);
        assert!(found(&files, "z").is_some());
        assert!(files.erase("docker.io", &Cancel::new()).unwrap().is_empty());
    }

    #[test]
    fn helpers_keep_and_forget() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let docker = folder.path().join("docker/config.json");
        fs::create_dir(docker.parent().unwrap()).unwrap();
        fs::write(
            &docker,
            r#"{"auths":{"r":{"auth":"eDp5"}},"credsStore":"test"}"#,
        )
        .unwrap();
        assert_eq!(
            store(&files, "docker.io", &me("p")),
            Kept::Helper("test".to_owned())
        );
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            read("kept"),
            r#"{"ServerURL":"https://index.docker.io/v1/","Username":"me","Secret":"p"}"#
        );
        assert!(!read("docker/config.json").contains("bWU6"));
        assert_eq!(found(&files, "docker.io"), Some(me("p")));
        let forgot = files.erase("docker.io", &Cancel::new()).unwrap();
        assert_eq!(forgot, std::slice::from_ref(&docker));
        assert_eq!(read("erased"), "https://index.docker.io/v1/\n");
        assert_eq!(found(&files, "docker.io"), None);
        // An old password of the file does not stay beside the helper's.
        store(&files, "r", &Credential::Identity(Secret::new("t")));
        assert!(read("kept").contains(r#""Username":"<token>","Secret":"t""#));
        assert!(!read("docker/config.json").contains("eDp5"));
    }

    #[test]
    fn what_cannot_be_written_is_said_without_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let path = folder.path().join("docker-credential-test/config.json");
        let error = files
            .store(&path, "r", &me("hunter2"), &Cancel::new())
            .unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.starts_with("cannot write credentials to `"), "{text}");
        assert!(
            !text.contains("hunter2") && !text.contains("bWU6"),
            "{text}"
        );
        // A file that is not understood is not overwritten.
        let path = folder.path().join("docker.json");
        fs::write(&path, "{\"auths\": [1]}").unwrap();
        let error = files
            .store(&path, "r", &me("p"), &Cancel::new())
            .unwrap_err();
        assert!(matches!(error, CredentialsError::File { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"auths\": [1]}");
        fs::write(&path, r#"{"credsStore":"absent"}"#).unwrap();
        let error = files
            .store(&path, "r", &me("p"), &Cancel::new())
            .unwrap_err();
        assert!(
            matches!(error, CredentialsError::NoHelper { .. }),
            "{error}"
        );
    }
}
