//! `kiln push`: images of the store to registries.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kiln_attest::{
    Artifact, Claim, Envelope, IN_TOTO_TYPE, Inventory, PROVENANCE_TYPE, PrivateKey, Provenance,
    SbomFormat, Statement,
};
use kiln_image::{ExportProgress, Image, load_all};
use kiln_oci::{Descriptor, ImageId, Platform, Reference};
use kiln_sandbox::Host;
use kiln_store::Session;
use kiln_transfer::PushedImage;

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
/// An image for several platforms is sent with all of them, its index last; statements are about the
/// image for each platform, and each is signed as the index is.
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

    /// Send the image for this platform alone, of one that is for several
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,

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
    let root = match &args.platform {
        Some(_) => found.load(&store, args.platform.as_ref())?.descriptor,
        None => found.descriptor.clone(),
    };
    let images = load_all(&store, &root)?;
    let names = destinations(args, settings, found.reference.as_ref())?;
    let statements = Statements::collect(args, settings, &images, &session, host, printer)?;
    for reference in &names {
        let pushed = push_to(args, settings, &session, &root, reference)?;
        let artifacts = artifacts(reference, &pushed, &statements, settings, key.as_ref());
        if !artifacts.is_empty() {
            args.how.with(settings, &session, |transfer| {
                artifacts
                    .iter()
                    .try_for_each(|artifact| transfer.attach(reference, artifact))
            })?;
        }
        printer.line(pinned(reference, &pushed.descriptor.digest))?;
    }
    Ok(session.finish()?)
}

/// What is to be attached to what was pushed: statements about the image for each platform, and a signature of
/// each; then the signature of the index, if there is one.
fn artifacts(
    reference: &Reference,
    pushed: &PushedImage,
    statements: &[(ImageId, Statements)],
    settings: &Settings,
    key: Option<&PrivateKey>,
) -> Vec<Artifact> {
    let sign = |descriptor: &Descriptor| {
        let claim = Claim::new(descriptor.digest, reference);
        key.map(|key| Artifact::signature(descriptor, &claim.sign(key)))
    };
    let mut artifacts = Vec::new();
    for image in &pushed.images {
        let of_image = statements.iter().find(|(id, _)| *id == image.id());
        if let Some((_, statements)) = of_image {
            artifacts.extend(statements.about(reference, settings, image, key));
        }
        artifacts.extend(sign(&image.descriptor));
    }
    let is_signed = |image: &Image| image.descriptor.digest == pushed.descriptor.digest;
    if !pushed.images.iter().any(is_signed) {
        artifacts.extend(sign(&pushed.descriptor));
    }
    artifacts
}

/// What is known about an image before it is pushed.
#[derive(Debug)]
struct Statements {
    inventory: Inventory,
    formats: BTreeSet<SbomFormat>,
    provenance: Option<Provenance>,
}

impl Statements {
    /// Collects what is known about each image, by its id: that stays what it is when layers are compressed.
    fn collect(
        args: &Args,
        settings: &Settings,
        images: &[Image],
        session: &Session,
        host: Host,
        printer: &mut Printer,
    ) -> Outcome<Vec<(ImageId, Self)>> {
        if !args.provenance && args.sbom.is_empty() {
            return Ok(Vec::new());
        }
        for image in images {
            image.pin(session)?;
        }
        let recalled = Recalled::find_all(settings, args.image.as_deref(), images, host)?;
        let mut collected = Vec::with_capacity(images.len());
        for (image, recalled) in images.iter().zip(&recalled) {
            let statements = Self::of(args, settings, image, recalled, session)?;
            for note in statements.inventory.notes() {
                printer.warning(match images {
                    [_] => note.to_string(),
                    _ => format!("{}: {note}", image.config.platform),
                });
            }
            collected.push((image.id(), statements));
        }
        Ok(collected)
    }

    fn of(
        args: &Args,
        settings: &Settings,
        image: &Image,
        recalled: &Recalled,
        session: &Session,
    ) -> Outcome<Self> {
        let formats: BTreeSet<SbomFormat> = args.sbom.iter().map(|&sbom| sbom.into()).collect();
        let provenance = match args.provenance {
            true => {
                let platform = image.config.platform.to_string();
                Some(recalled.demand()?.provenance(settings, &platform))
            }
            false => None,
        };
        let inventory = match formats.is_empty() {
            true => Inventory::default(),
            false => parts::list(session.store(), image, recalled)?,
        };
        Ok(Self {
            inventory,
            formats,
            provenance,
        })
    }

    /// What is to be attached to `image`, as it was pushed.
    fn about(
        &self,
        reference: &Reference,
        settings: &Settings,
        image: &Image,
        key: Option<&PrivateKey>,
    ) -> Vec<Artifact> {
        let pushed = &image.descriptor;
        let name = &Claim::new(pushed.digest, reference).repository;
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
        artifacts
    }
}

fn push_to(
    args: &Args,
    settings: &Settings,
    session: &Session,
    root: &Descriptor,
    reference: &Reference,
) -> Outcome<PushedImage> {
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
    args.how.with(settings, session, |transfer| {
        transfer.push(
            root,
            reference,
            args.compress.into(),
            &compressing,
            &sending,
        )
    })
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
