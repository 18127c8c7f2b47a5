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
use crate::transfers::TransferArgs;

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
    let name = super::pull::pinned(&args.image, &digest);
    check(&signatures, &key, &claim).map_err(|why| refused(&name, &claim, args, why))?;
    for kind in &args.statement {
        check_statement(&envelopes, &key, digest, *kind, &name)?;
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

fn refused(name: &str, claim: &Claim, args: &Args, why: Option<Refusal>) -> Failure {
    let key = args.key.display();
    let (message, help) = match why {
        None => (
            format!("`{name}` has no signature"),
            Some("sign it: kiln push --sign KEYFILE".to_owned()),
        ),
        Some(Refusal::OtherKey) => (
            format!(
                "`{name}` has no signature that `{key}` verifies: {}",
                Refusal::OtherKey
            ),
            None,
        ),
        Some(why @ (Refusal::NoClaim(_) | Refusal::OtherDigest(_))) => (
            format!("the signature by `{key}` does not vouch for `{name}`: {why}"),
            None,
        ),
        Some(Refusal::OtherRepository(other)) => (
            format!(
                "the signature by `{key}` vouches for `{name}` in the repository `{other}`, not in `{}`",
                claim.repository
            ),
            Some(format!(
                "if it is known to be copied from there: --identity {other}"
            )),
        ),
    };
    Failure::message(Class::User, message, help)
}

/// Looks for a statement of a kind by the key's owner.
fn check_statement(
    envelopes: &[Vec<u8>],
    key: &PublicKey,
    digest: Digest,
    kind: StatementKind,
    name: &str,
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
    let why = match others.len() {
        0 => "there are no signed statements".to_owned(),
        _ => others.join("; "),
    };
    let message = format!("`{name}` has no statement `{wanted}` of that key: {why}");
    Err(Failure::message(Class::User, message, None))
}
