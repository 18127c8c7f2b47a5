//! `kiln push`: images of the store to registries.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kiln_attest::{
    Artifact, Claim, Envelope, IN_TOTO_TYPE, Inventory, PROVENANCE_TYPE, PrivateKey, Provenance,
    SbomFormat, Statement,
};
use kiln_image::{ExportProgress, Image};
use kiln_oci::{Descriptor, Reference};
use kiln_sandbox::Host;
use kiln_store::Session;

use crate::errors::{Class, Failure, Outcome};
use crate::keys;
use crate::local;
use crate::output::Method;
use crate::parts::{self, Sbom};
use crate::printer::Printer;
use crate::progress::blobs::{BlobReport, BlobView};
use crate::project::Project;
use crate::recipe::Recalled;
use crate::settings::Settings;
use crate::transfers::{TransferArgs, pinned, show_push};

/// Send an image to a registry
///
/// Nothing is sent that the registry has. The same image becomes the same digest on every machine.
/// Prints each name with its digest in the registry. What is attached to it refers to that digest
/// and does not change it.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln push app                                        to the `tags` it has in kiln.toml
  kiln push app registry.example.com/team/notes:1.2    to another name
  kiln push registry.example.com/team/notes            an image of the store, as it is called
  kiln push --compress zstd app registry.example.com/team/notes
  kiln push --sbom spdx --provenance --sign kiln.key app registry.example.com/team/notes:1.2")]
pub(crate) struct Args {
    /// Image or service of the project, reference, or id
    image: Option<String>,

    /// Names in registries; else the image's `tags`, or its own name
    references: Vec<Reference>,

    /// Choose how layers that were built here are compressed
    #[arg(long, value_name = "METHOD", default_value = "gzip")]
    compress: Method,

    /// Attach a list of what is in the image; may be given several times
    #[arg(long, value_name = "FORMAT")]
    sbom: Vec<Sbom>,

    /// Attach how the image was made: kiln.toml, arguments, and what kiln.lock pins
    #[arg(long)]
    provenance: bool,

    /// Sign the image, and what is attached, with this private key
    #[arg(long, value_name = "KEYFILE")]
    sign: Option<PathBuf>,

    #[command(flatten)]
    how: TransferArgs,
}

/// Pushes to one name after the other.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    // Whatever is wrong with the key is told before anything is sent.
    let key = args.sign.as_deref();
    let key = key.map(|path| keys::private(path, settings)).transpose()?;
    let store = local::open(settings)?;
    let host = local::enter(&store)?;
    let session = local::session(settings)?;
    let text = args.image.as_deref();
    let found = local::find(settings, &store, text)?;
    let image = found.load(&store)?;
    let names = destinations(args, settings, found.reference.as_ref())?;
    let statements = Statements::collect(args, settings, &image, &session, host, printer)?;
    for reference in &names {
        let pushed = push_to(args, settings, &session, &image, reference)?;
        let artifacts = statements.about(reference, &pushed, settings, &image, key.as_ref());
        if !artifacts.is_empty() {
            args.how.with(settings, &session, |transfer| {
                artifacts
                    .iter()
                    .try_for_each(|artifact| transfer.attach(reference, artifact))
            })?;
        }
        printer.line(pinned(reference, &pushed.digest))?;
    }
    Ok(session.finish()?)
}

/// What is known about an image before it is pushed.
#[derive(Debug)]
struct Statements {
    inventory: Inventory,
    formats: BTreeSet<SbomFormat>,
    provenance: Option<Provenance>,
}

impl Statements {
    fn collect(
        args: &Args,
        settings: &Settings,
        image: &Image,
        session: &Session,
        host: Host,
        printer: &mut Printer,
    ) -> Outcome<Self> {
        let mut statements = Self {
            inventory: Inventory::default(),
            formats: args.sbom.iter().map(|&sbom| sbom.into()).collect(),
            provenance: None,
        };
        if !args.provenance && statements.formats.is_empty() {
            return Ok(statements);
        }
        image.pin(session)?;
        let recalled = Recalled::find(settings, args.image.as_deref(), image, host)?;
        if args.provenance {
            let platform = image.config.platform.to_string();
            let provenance = recalled.demand()?.provenance(settings, &platform);
            statements.provenance = Some(provenance);
        }
        if !statements.formats.is_empty() {
            statements.inventory = parts::list(session.store(), image, &recalled)?;
        }
        for note in statements.inventory.notes() {
            printer.warning(note);
        }
        Ok(statements)
    }

    /// What is to be attached to the image that was pushed: statements first, then the signature.
    fn about(
        &self,
        reference: &Reference,
        pushed: &Descriptor,
        settings: &Settings,
        image: &Image,
        key: Option<&PrivateKey>,
    ) -> Vec<Artifact> {
        let claim = Claim::new(pushed.digest, reference);
        let name = &claim.repository;
        let statement = |kind: &str, said| Statement::new(name, pushed.digest, kind, said);
        let mut artifacts = Vec::new();
        for format in &self.formats {
            let at = Some((pushed.digest, reference.clone()));
            let subject = parts::subject(settings, image, name.clone(), at);
            let version = env!("CARGO_PKG_VERSION");
            let document = self.inventory.document(*format, &subject, version);
            artifacts.push(match key {
                Some(key) => {
                    let kind = format.predicate_type();
                    let envelope = Envelope::seal(&statement(kind, document), key);
                    Artifact::envelope(pushed, &envelope, kind)
                }
                None => {
                    let bytes = self.inventory.write(*format, &subject, version);
                    Artifact::document(pushed, format.media_type(), bytes, None)
                }
            });
        }
        if let Some(provenance) = &self.provenance {
            let statement = statement(PROVENANCE_TYPE, provenance.predicate());
            artifacts.push(match key {
                Some(key) => {
                    let envelope = Envelope::seal(&statement, key);
                    Artifact::envelope(pushed, &envelope, PROVENANCE_TYPE)
                }
                None => {
                    let bytes = statement.to_bytes();
                    Artifact::document(pushed, IN_TOTO_TYPE, bytes, Some(PROVENANCE_TYPE))
                }
            });
        }
        artifacts.extend(key.map(|key| Artifact::signature(pushed, &claim.sign(key))));
        artifacts
    }
}

fn push_to(
    args: &Args,
    settings: &Settings,
    session: &Session,
    image: &Image,
    reference: &Reference,
) -> Outcome<Descriptor> {
    let view = BlobView::start(settings);
    let compressing = |now: ExportProgress| {
        view.report(&BlobReport {
            digest: now.diff_id.0,
            done_bytes: now.done_bytes,
            total_bytes: now.total_bytes,
            ended: (now.done_bytes == now.total_bytes).then(|| "compressed".to_owned()),
        });
    };
    let sending = |now| show_push(&view, &now);
    let pushed = args.how.with(settings, session, |transfer| {
        transfer.push(
            image,
            reference,
            args.compress.into(),
            &compressing,
            &sending,
        )
    })?;
    Ok(pushed.descriptor)
}

/// Where to push: the names given, else those of the manifest, else the image's own.
fn destinations(
    args: &Args,
    settings: &Settings,
    own: Option<&Reference>,
) -> Outcome<Vec<Reference>> {
    if !args.references.is_empty() {
        return Ok(args.references.clone());
    }
    if let Some(project) = Project::load_if_any(settings)? {
        let tags = project.tags_of(args.image.as_deref())?;
        if !tags.is_empty() {
            return Ok(tags);
        }
    }
    // What kiln calls an image by itself is no name in a registry.
    if let Some(own) = own.filter(|own| own.registry() != "localhost") {
        return Ok(vec![own.clone()]);
    }
    Err(Failure::message(
        Class::User,
        "nothing says where to push the image to",
        Some(
            "name it: kiln push IMAGE registry.example.com/team/name:tag, or give the image `tags`"
                .to_owned(),
        ),
    ))
}
