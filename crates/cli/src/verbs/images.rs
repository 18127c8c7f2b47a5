//! `kiln images`: what is in the store, by name.

use std::collections::BTreeSet;

use kiln_image::ImageSummary;
use serde_json::{Value, json};

use crate::errors::Outcome;
use crate::form::Form;
use crate::listing;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::tasks;
use crate::text;

/// List the images in the store
///
/// With `--quiet` their ids alone.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln images
  kiln images debian
  kiln rmi $(kiln images -q)
  kiln images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
  kiln images --format json | jq -r '.[].reference'")]
pub(crate) struct Args {
    /// Only those of this repository, or with this name
    name: Option<String>,

    /// Show the digests, too
    #[arg(long)]
    digests: bool,

    /// Show ids whole
    #[arg(long)]
    no_trunc: bool,

    /// Choose the form of the listing: `text`, `json`, or a template of docker's, such as '{{.Repository}}'; behind
    /// `table ` with a head
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = Form::parse)]
    format: Form,
}

/// Prints the list.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let (mut images, broken) = kiln_image::list(&store, &kiln_oci::Platform::host())?;
    for image in &broken {
        printer.warning(format!("{}: {}", image.reference.familiar(), image.error));
    }
    if let Some(name) = &args.name {
        images.retain(|image| is_called(image, name));
    }
    let id = |image: &ImageSummary| match args.no_trunc {
        true => image.id.to_string(),
        false => local::short(&image.id.0),
    };
    if settings.quiet {
        let ids: BTreeSet<String> = images.iter().map(|it| id(it) + "\n").collect();
        return printer.data(ids.into_iter().collect::<String>());
    }
    match &args.format {
        Form::Text => {}
        Form::Json => return printer.json(&json!(images)),
        Form::Filled(filling) => {
            let rows = images.iter().map(|image| fields(image, id(image)));
            return printer.data(filling.fill(&HEADS, rows.collect())?);
        }
    }
    if images.is_empty() {
        printer.note(match &args.name {
            Some(name) => format!("there is no image `{name}`; see all: kiln images"),
            None => "there are no images; build one: kiln build".to_owned(),
        });
        return Ok(());
    }
    let digest = |text: &str| args.digests.then(|| text.to_owned());
    let row = |cells: [&str; 5], digest: Option<String>| {
        let [reference, rest @ ..] = cells.map(str::to_owned);
        let start = [reference].into_iter().chain(digest);
        start.chain(rest).collect::<Vec<_>>()
    };
    let head = ["REFERENCE", "ID", "PLATFORM", "LAYERS", "SIZE"];
    let mut rows = vec![row(head, digest("DIGEST"))];
    rows.extend(images.iter().map(|image| {
        let cells = [
            &image.reference.familiar(),
            &id(image),
            &image.platforms.join(", "),
            &image.layers.to_string(),
            &text::bytes(image.size_bytes),
        ];
        row(cells.map(String::as_str), digest(&image.digest.to_string()))
    }));
    printer.data(text::table(&rows))
}

/// Whether `name` is that of the image, with its tag or without it.
fn is_called(image: &ImageSummary, name: &str) -> bool {
    let [whole, repository] = names(image);
    name == whole || name == repository || name == image.reference.to_string()
}

/// What it is called, as short as it can be, with a tag and without.
fn names(image: &ImageSummary) -> [String; 2] {
    let familiar = image.reference.familiar();
    let tag = image.reference.tag().unwrap_or_default();
    let repository = familiar.strip_suffix(&format!(":{tag}"));
    let repository = repository.unwrap_or(&familiar).to_owned();
    [format!("{repository}:{tag}"), repository]
}

/// What docker calls the columns.
const HEADS: [(&str, &str); 9] = [
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Platform", "PLATFORM"),
    ("Layers", "LAYERS"),
];

/// An image as templates see it.
fn fields(image: &ImageSummary, id: String) -> Value {
    let [_, repository] = names(image);
    let created = image.created.as_deref().and_then(|time| time.parse().ok());
    let age = listing::since(created, tasks::clock());
    json!({
        "ID": id,
        "Repository": repository,
        "Tag": image.reference.tag(),
        "Digest": image.digest,
        "CreatedSince": created.map(|_| format!("{} ago", listing::about(age))),
        "CreatedAt": image.created,
        "Size": text::bytes(image.size_bytes),
        "Platform": image.platforms.join(", "),
        "Layers": image.layers,
    })
}
