//! `kiln verify-signature`: whether the owner of a key vouches for an image.

use std::path::PathBuf;

use kiln_attest::{
    Claim, Envelope, EnvelopeError, PROVENANCE_TYPE, PublicKey, Refusal, SbomFormat, Signature,
};
use kiln_client::Document;
use kiln_oci::{Descriptor, ImageIndex, MediaKind, Platform, Reference};

use crate::errors::{Class, Failure, Outcome};
use crate::keys;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::transfers::{TransferArgs, pinned};

/// Check that the owner of a key vouches for an image
///
/// A signature counts if the key made it, and it is for the digest that the name stands for and
/// for this repository. Prints the name with that digest; anything else is exit code 1.
/// Signatures that cosign made count too. The signature of an image for several platforms is that of its index.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln verify-signature --key kiln.pub registry.example.com/team/notes:1.2
  kiln verify-signature --key kiln.pub --statement provenance registry.example.com/team/notes:1.2
  kiln run \"$(kiln verify-signature --key kiln.pub registry.example.com/team/notes:1.2)\"")]
pub(crate) struct Args {
    /// Image, as `[registry/]repository[:tag][@digest]`
    image: Reference,

    /// Verify with this public key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Accept signatures for this repository instead, from which the image was copied
    #[arg(long, value_name = "REPOSITORY")]
    identity: Option<Reference>,

    /// Demand a signed statement too, about the image for each platform; may be given several times
    #[arg(long, value_name = "KIND")]
    statement: Vec<StatementKind>,

    /// Demand statements about the image for this platform alone
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,

    #[command(flatten)]
    how: TransferArgs,
}

/// What a statement says about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum StatementKind {
    /// What is in it, as SPDX
    Spdx,
    /// What is in it, as CycloneDX
    Cyclonedx,
    /// How it was made
    Provenance,
}

impl StatementKind {
    fn predicate_type(self) -> &'static str {
        match self {
            Self::Spdx => SbomFormat::Spdx.predicate_type(),
            Self::Cyclonedx => SbomFormat::CycloneDx.predicate_type(),
            Self::Provenance => PROVENANCE_TYPE,
        }
    }
}

/// Verifies.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let key = keys::public(&args.key)?;
    let session = local::session(settings)?;
    let (digest, signatures, subjects) = args.how.with(settings, &session, |transfer| {
        let root = transfer.registry.fetch_root(&args.image, transfer.cancel)?;
        let digest = root.digest;
        let signatures = transfer.signatures(&args.image, digest)?;
        let mut subjects = Vec::new();
        if !args.statement.is_empty() {
            for subject in subjects_of(&root, args.platform.as_ref()) {
                let envelopes = transfer.envelopes(&args.image, subject.digest)?;
                subjects.push((subject, envelopes));
            }
        }
        Ok((digest, signatures, subjects))
    })?;
    session.finish()?;
    let claim = Claim::new(digest, args.identity.as_ref().unwrap_or(&args.image));
    let name = pinned(&args.image, &digest);
    check(&signatures, &key, &claim).map_err(|why| refused(args, &claim, why))?;
    if let Some(platform) = args.platform.as_ref().filter(|_| subjects.is_empty())
        && !args.statement.is_empty()
    {
        let message = format!("`{}` has no image for {platform}", args.image);
        return Err(Failure::message(Class::User, message, None));
    }
    for kind in &args.statement {
        for (subject, envelopes) in &subjects {
            check_statement(args, envelopes, &key, subject, *kind)?;
        }
    }
    printer.line(name)
}

/// What statements are about: the image itself, or those of an index, whose digests its signature covers.
fn subjects_of(root: &Document, platform: Option<&Platform>) -> Vec<Descriptor> {
    if root.media_type.kind() != MediaKind::Index {
        return vec![root.descriptor()];
    }
    let index = ImageIndex::parse(&root.bytes).ok();
    let Some(index) = index else {
        return vec![root.descriptor()];
    };
    match platform {
        Some(platform) => index.select(platform).into_iter().cloned().collect(),
        None => index.images().cloned().collect(),
    }
}

/// Looks for one signature that holds; else tells how near the nearest was.
fn check(signatures: &[Signature], key: &PublicKey, claim: &Claim) -> Result<(), Option<Refusal>> {
    let mut nearest = None;
    for signature in signatures {
        match signature.verify(key, claim) {
            Ok(()) => return Ok(()),
            Err(refusal) => nearest = nearest.max(Some(refusal)),
        }
    }
    Err(nearest)
}

fn refused(args: &Args, claim: &Claim, why: Option<Refusal>) -> Failure {
    let (name, key) = (&args.image, args.key.display());
    let (message, help) = match why {
        None => (
            format!("`{name}` has no signature"),
            "sign it: kiln push --sign KEYFILE".to_owned(),
        ),
        Some(Refusal::OtherKey) => (
            format!("`{name}` has no signature that `{key}` verifies"),
            "other keys made those that are there, or what was signed has been changed since"
                .to_owned(),
        ),
        Some(why @ (Refusal::NoClaim(_) | Refusal::OtherDigest(_))) => (
            format!("the signature by `{key}` does not vouch for `{name}`: {why}"),
            format!("do not trust it: `{name}` is `{}` now", claim.digest),
        ),
        Some(Refusal::OtherRepository(other)) => (
            format!("the signature by `{key}` is for `{name}` in the repository `{other}`"),
            format!("if it is known to be copied from there: --identity {other}"),
        ),
    };
    Failure::message(Class::User, message, Some(help))
}

/// Looks for a statement of a kind by the key's owner.
fn check_statement(
    args: &Args,
    envelopes: &[Vec<u8>],
    key: &PublicKey,
    subject: &Descriptor,
    kind: StatementKind,
) -> Outcome {
    let wanted = kind.predicate_type();
    let mut others = Vec::new();
    for envelope in envelopes {
        match Envelope::open(envelope, key, subject.digest) {
            Ok(statement) if statement.predicate_type == wanted => return Ok(()),
            Ok(statement) => others.push(format!("it says `{}`", statement.predicate_type)),
            Err(
                error @ (EnvelopeError::Malformed(_)
                | EnvelopeError::OtherKey
                | EnvelopeError::OtherSubject),
            ) => {
                others.push(error.to_string());
            }
        }
    }
    let name = match &subject.platform {
        Some(platform) => format!("{} for {platform}", args.image),
        None => args.image.to_string(),
    };
    let message = format!("`{name}` has no statement `{wanted}` that the key verifies");
    let help = match others.len() {
        0 => "attach one: kiln push --sbom FORMAT --provenance --sign KEYFILE".to_owned(),
        _ => format!("of those that are there: {}", others.join("; ")),
    };
    Err(Failure::message(Class::User, message, Some(help)))
}
