//! `kiln verify-signature`: whether the owner of a key vouches for an image.

use std::path::PathBuf;

use kiln_attest::{
    Claim, Envelope, EnvelopeError, PROVENANCE_TYPE, PublicKey, Refusal, SbomFormat, Signature,
};
use kiln_oci::{Digest, Platform, Reference};

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
/// Signatures that cosign made count too.
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

    /// Demand a signed statement too; may be given several times
    #[arg(long, value_name = "KIND")]
    statement: Vec<StatementKind>,

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
    let (digest, signatures, envelopes) = args.how.with(settings, &session, |transfer| {
        let (registry, cancel) = (transfer.registry, transfer.cancel);
        let resolved = registry.resolve(&args.image, &Platform::host(), cancel)?;
        let digest = resolved.index.unwrap_or(resolved.manifest);
        let signatures = transfer.signatures(&args.image, digest)?;
        let envelopes = if args.statement.is_empty() {
            Vec::new()
        } else {
            transfer.envelopes(&args.image, digest)?
        };
        Ok((digest, signatures, envelopes))
    })?;
    session.finish()?;
    let claim = Claim::new(digest, args.identity.as_ref().unwrap_or(&args.image));
    let name = pinned(&args.image, &digest);
    check(&signatures, &key, &claim).map_err(|why| refused(args, &claim, why))?;
    for kind in &args.statement {
        check_statement(args, &envelopes, &key, digest, *kind)?;
    }
    printer.line(name)
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
    digest: Digest,
    kind: StatementKind,
) -> Outcome {
    let wanted = kind.predicate_type();
    let mut others = Vec::new();
    for envelope in envelopes {
        match Envelope::open(envelope, key, digest) {
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
    let name = &args.image;
    let message = format!("`{name}` has no statement `{wanted}` that the key verifies");
    let help = match others.len() {
        0 => "attach one: kiln push --sbom FORMAT --provenance --sign KEYFILE".to_owned(),
        _ => format!("of those that are there: {}", others.join("; ")),
    };
    Err(Failure::message(Class::User, message, Some(help)))
}
