//! `kiln generate-key`: a pair of keys to sign images with.

use std::path::PathBuf;

use crate::errors::Outcome;
use crate::keys;
use crate::printer::Printer;
use crate::settings::Settings;

/// Make a pair of keys to sign images with
///
/// NAME.key is private and sealed by a password: that of COSIGN_PASSWORD, else one that is asked
/// for. NAME.pub is for everybody who verifies. Both work with cosign.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln generate-key                     kiln.key and kiln.pub
  kiln generate-key --output release    release.key and release.pub")]
pub(crate) struct Args {
    /// How both files begin
    #[arg(short, long, value_name = "NAME", default_value = "kiln")]
    output: PathBuf,
}

/// Writes the files.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    for path in keys::generate(&args.output, settings)? {
        printer.line(path.display().to_string())?;
    }
    Ok(())
}
