//! What can go wrong between a reference and its image.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kiln_http::BodyText;
use kiln_oci::{Digest, DocumentError, Platform, Reference};

use crate::sink::SinkError;
use crate::source::SourceError;

/// What was to be done with a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Reading.
    Pull,
    /// Reading the list of tags.
    List,
    /// Writing.
    Push,
    /// Removing.
    Delete,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull",
            Self::List => "list the tags of",
            Self::Push => "push",
            Self::Delete => "delete",
        })
    }
}

/// Why a reference was not resolved, or an image neither pulled nor pushed. Never holds a password or token.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum Error {
    /// The registry does not know the repository.
    #[error("`{registry}` has no repository `{repository}`", registry = .reference.registry(), repository = .reference.repository())]
    RepositoryNotFound {
        /// The image asked for.
        reference: Box<Reference>,
    },
    /// The registry knows no such tag or digest, and maybe not the repository.
    #[error("`{reference}` was not found: the repository `{repository}` on `{registry}` has no {what}", registry = .reference.registry(), repository = .reference.repository())]
    ManifestNotFound {
        /// The image asked for.
        reference: Box<Reference>,
        /// The tag or digest that is missing.
        what: String,
    },
    /// A manifest names a blob that the registry does not have.
    #[error("`{reference}` is incomplete: `{registry}` does not have its blob `{digest}`", registry = .reference.registry())]
    BlobNotFound {
        /// The image asked for.
        reference: Box<Reference>,
        /// The missing blob.
        digest: Digest,
    },
    /// The registry wants to know who asks, or does not accept who does.
    #[error("`{registry}` does not let {who} {verb} `{repository}`{said}; {advice}", verb = verb(*.doing), registry = .reference.registry(), repository = .reference.repository(), who = who(.user), advice = advice(.reference, .user))]
    Unauthorised {
        /// The image asked for.
        reference: Box<Reference>,
        /// What for.
        doing: Doing,
        /// The user whose credentials were refused; `None` if there were none.
        user: Option<String>,
        /// What the registry said.
        said: BodyText,
    },
    /// The registry knows who asks and says no.
    #[error("`{registry}` denies {who} access to `{repository}`{said}{advice}", advice = if .user.is_none() { format!("; log in with `kiln login {}`", .reference.registry()) } else { String::new() }, registry = .reference.registry(), repository = .reference.repository(), who = who(.user))]
    Denied {
        /// The image asked for.
        reference: Box<Reference>,
        /// The user; `None` if no credentials were sent.
        user: Option<String>,
        /// What the registry said.
        said: BodyText,
    },
    /// The registry wants to be asked less often.
    #[error("`{registry}` limits how often it is asked{wait}{said}{advice}", registry = .reference.registry(), wait = wait(*.retry_after), advice = if .user.is_none() { "; logging in may raise the limit" } else { "" })]
    RateLimited {
        /// The image asked for.
        reference: Box<Reference>,
        /// When it may be asked again.
        retry_after: Option<Duration>,
        /// The user; `None` if no credentials were sent.
        user: Option<String>,
        /// What the registry said.
        said: BodyText,
    },
    /// The image is not there for the platform wanted.
    #[error("`{reference}` is not available for `{wanted}`; it is for {}", listed(.available))]
    Platform {
        /// The image asked for.
        reference: Box<Reference>,
        /// The platform wanted.
        wanted: Box<Platform>,
        /// The platforms there are.
        available: Vec<Platform>,
    },
    /// The manifest has the format of before 2016.
    #[error(
        "`{reference}` has a manifest of Docker's schema 1, which cannot be verified and is no longer read; push the image again with a current tool"
    )]
    Schema1 {
        /// The image asked for.
        reference: Box<Reference>,
    },
    /// The manifest is one of something that is no image.
    #[error("`{reference}` is not a container image: it is `{what}`")]
    NotAnImage {
        /// The thing asked for.
        reference: Box<Reference>,
        /// Its media type.
        what: String,
    },
    /// A manifest is malformed.
    #[error("the manifest `{digest}` of `{reference}` cannot be used: {source}")]
    Document {
        /// The image asked for.
        reference: Box<Reference>,
        /// The digest of the manifest.
        digest: Digest,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// Indexes point at each other.
    #[error("`{reference}` is an index of indexes of indexes, which kiln does not follow")]
    TooDeep {
        /// The image asked for.
        reference: Box<Reference>,
    },
    /// A manifest is not the one that was asked for or announced.
    #[error(
        "the manifest of `{reference}` has digest `{actual}`, but {announced_by} says `{expected}`"
    )]
    WrongManifest {
        /// The image asked for.
        reference: Box<Reference>,
        /// The digest it should have.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
        /// Who says so.
        announced_by: &'static str,
    },
    /// A setting is wrong.
    #[error("the mirror `{location}` is not `host[:port]` with an optional prefix")]
    Mirror {
        /// The setting.
        location: String,
    },
    /// Credentials could not be read.
    #[error(transparent)]
    Credentials(CredentialsError),
    /// The sink failed.
    #[error("cannot store the blob `{digest}` of `{reference}`: {source}")]
    Sink {
        /// The image asked for.
        reference: Box<Reference>,
        /// The blob.
        digest: Digest,
        /// What the sink said.
        source: SinkError,
    },
    /// The source failed.
    #[error("cannot read the blob `{digest}`, which is to be pushed to `{reference}`: {source}")]
    Source {
        /// The image to be pushed.
        reference: Box<Reference>,
        /// The blob.
        digest: Digest,
        /// What the source said.
        source: SourceError,
    },
    /// The registry does not take, or not remove, something, and asking again would not help.
    #[error("`{registry}` does not {verb} {what} of `{reference}` (status {status}){said}", registry = .reference.registry(), verb = if *.doing == Doing::Delete { "delete" } else { "take" })]
    Rejected {
        /// The image to be pushed.
        reference: Box<Reference>,
        /// What was to be done.
        doing: Doing,
        /// The blob or manifest.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said, with the codes of the distribution specification.
        said: BodyText,
    },
    /// The registry deletes manifests, and no tags.
    #[error("`{registry}` does not delete tags by themselves{said}; deleting `{registry}/{repository}@{digest}` removes what the tag names, with all its other tags", registry = .reference.registry(), repository = .reference.repository())]
    TagDeletion {
        /// The tag.
        reference: Box<Reference>,
        /// What it names.
        digest: Digest,
        /// What the registry said.
        said: BodyText,
    },
    /// A list of referrers is written by others all the time.
    #[error("the list of referrers `{registry}/{repository}:{tag}` is overwritten by others each time; push again", registry = .reference.registry(), repository = .reference.repository())]
    ReferrersList {
        /// What was pushed.
        reference: Box<Reference>,
        /// The tag of the list.
        tag: String,
    },
    /// What was stored in the registry is not what was sent.
    #[error("`{registry}` stored {what} of `{reference}` under the digest `{actual}` instead of `{expected}`; it may be defective", registry = .reference.registry())]
    Mangled {
        /// The image pushed.
        reference: Box<Reference>,
        /// The blob or manifest.
        what: String,
        /// The digest of what was sent.
        expected: Digest,
        /// The digest that the registry says.
        actual: String,
    },
    /// The network, the server or what it sent: in the words of the HTTP client.
    #[error("cannot {doing} `{}`: {source}", what(.reference, *.doing))]
    Http {
        /// The image asked for.
        reference: Box<Reference>,
        /// What for.
        doing: Doing,
        /// What happened.
        source: Box<kiln_http::Error>,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] kiln_http::Cancelled),
}

impl Error {
    /// Tells whether whoever asked can mend it, by another name, credential or setting; otherwise it
    /// is up to the registry, the network or the disk.
    pub fn is_askers(&self) -> bool {
        match self {
            Self::RepositoryNotFound { .. }
            | Self::ManifestNotFound { .. }
            | Self::Platform { .. }
            | Self::Unauthorised { .. }
            | Self::Denied { .. }
            | Self::NotAnImage { .. }
            | Self::Schema1 { .. }
            | Self::Mirror { .. }
            | Self::Rejected { .. }
            | Self::TagDeletion { .. }
            | Self::Credentials(_) => true,
            Self::BlobNotFound { .. }
            | Self::RateLimited { .. }
            | Self::Document { .. }
            | Self::TooDeep { .. }
            | Self::WrongManifest { .. }
            | Self::Sink { .. }
            | Self::Source { .. }
            | Self::Mangled { .. }
            | Self::ReferrersList { .. }
            | Self::Http { .. }
            | Self::Cancelled(_) => false,
        }
    }

    /// Tells whether it was stopped by its [`Cancel`](kiln_http::Cancel).
    pub fn is_cancelled(&self) -> bool {
        if let Self::Http { source, .. } = self {
            return matches!(**source, kiln_http::Error::Cancelled(_));
        }
        matches!(self, Self::Cancelled(_))
    }
}

/// Why credentials could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum CredentialsError {
    /// A credentials file cannot be read or is malformed.
    #[error("cannot read credentials from `{}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A credentials file cannot be written. It is as it was.
    #[error("cannot write credentials to `{}`: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A credential helper is not there.
    #[error("`{}` names the credential helper `{program}`, which is not installed", path.display())]
    NoHelper {
        /// The file that names it.
        path: PathBuf,
        /// The program.
        program: String,
    },
    /// A credential helper failed.
    #[error("the credential helper `{program}` failed for `{server}`: {reason}")]
    Helper {
        /// The program.
        program: String,
        /// The registry it was asked for.
        server: String,
        /// What happened.
        reason: String,
    },
    /// The wait for a helper was cancelled.
    #[error(transparent)]
    Cancelled(#[from] kiln_http::Cancelled),
}

impl Error {
    /// Puts an error of the HTTP client into the words of this crate.
    pub(crate) fn of(
        reference: &Reference,
        doing: Doing,
        user: Option<String>,
        error: kiln_http::Error,
    ) -> Self {
        let reference = Box::new(reference.clone());
        if let kiln_http::Error::Cancelled(cancelled) = error {
            return Self::Cancelled(cancelled);
        }
        if let kiln_http::Error::RateLimited {
            retry_after, body, ..
        } = error
        {
            return Self::RateLimited {
                reference,
                retry_after,
                user,
                said: crate::report::said(body.text()),
            };
        }
        let source = Box::new(error);
        Self::Http {
            reference,
            doing,
            source,
        }
    }
}

impl From<CredentialsError> for Error {
    fn from(error: CredentialsError) -> Self {
        if let CredentialsError::Cancelled(cancelled) = error {
            return Self::Cancelled(cancelled);
        }
        Self::Credentials(error)
    }
}

fn who(user: &Option<String>) -> String {
    match user {
        Some(user) => format!("`{user}`"),
        None => "anonymous users".to_owned(),
    }
}

/// A list of tags is of a repository, whatever tag stands behind its name.
fn what(reference: &Reference, doing: Doing) -> String {
    match doing {
        Doing::List => format!("{}/{}", reference.registry(), reference.repository()),
        Doing::Pull | Doing::Push | Doing::Delete => reference.to_string(),
    }
}

fn verb(doing: Doing) -> &'static str {
    match doing {
        Doing::Pull | Doing::List => "read",
        Doing::Push => "push to",
        Doing::Delete => "delete from",
    }
}

fn advice(reference: &Reference, user: &Option<String>) -> String {
    let registry = reference.registry();
    let check = "check the name of the image";
    match user {
        Some(_) => format!("{check}, or log in again with `kiln login {registry}`"),
        None => format!("{check}, or log in with `kiln login {registry}`"),
    }
}

fn wait(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(wait) => format!("; it can be asked again in {} s", wait.as_secs()),
        None => String::new(),
    }
}

fn listed(platforms: &[Platform]) -> String {
    const SHOWN: usize = 20;
    if platforms.is_empty() {
        return "no platform at all".to_owned();
    }
    let mut names: Vec<_> = platforms
        .iter()
        .take(SHOWN)
        .map(|platform| format!("`{platform}`"))
        .collect();
    if platforms.len() > SHOWN {
        names.push(format!("{} more", platforms.len() - SHOWN));
    }
    names.join(", ")
}
