//! `kiln init`: a first `kiln.toml` that builds as it is.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::errors::{Class, Failure, Outcome};
use crate::printer::Printer;
use crate::project::MANIFEST;
use crate::settings::Settings;

/// Write a first kiln.toml that builds as it is
///
/// What is in the folder decides which: a Rust, Go, Python or Node.js project,
/// or none of these. An existing kiln.toml is never touched.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln init              in the working folder
  kiln init --name shop  with another name than the folder's
  kiln init -C ../other  in another folder")]
pub(crate) struct Args {
    /// Name the project; else the folder's name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// What kind of project a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Rust,
    Go,
    Python,
    Node,
}

impl Kind {
    /// Every kind that a file gives away, with that file.
    const MARKERS: [(&'static str, Self); 8] = [
        ("Cargo.toml", Self::Rust),
        ("go.mod", Self::Go),
        ("pyproject.toml", Self::Python),
        ("requirements.txt", Self::Python),
        ("setup.py", Self::Python),
        ("package.json", Self::Node),
        ("main.py", Self::Python),
        ("app.py", Self::Python),
    ];

    fn of_folder(folder: &Path) -> Self {
        Self::MARKERS
            .iter()
            .find(|(marker, _)| folder.join(marker).is_file())
            .map_or(Self::Plain, |(_, kind)| *kind)
    }

    fn template(self) -> &'static str {
        match self {
            Self::Plain => include_str!("../../templates/plain.toml"),
            Self::Rust => include_str!("../../templates/rust.toml"),
            Self::Go => include_str!("../../templates/go.toml"),
            Self::Python => include_str!("../../templates/python.toml"),
            Self::Node => include_str!("../../templates/node.toml"),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Plain => "a plain",
            Self::Rust => "a Rust",
            Self::Go => "a Go",
            Self::Python => "a Python",
            Self::Node => "a Node.js",
        }
    }
}

/// Writes the file.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let folder = &settings.directory;
    let path = folder.join(MANIFEST);
    let kind = Kind::of_folder(folder);
    let name = match &args.name {
        Some(name) => name.clone(),
        None => folder_name(folder)?,
    };
    let text = fill(kind, folder, &to_project_name(&name));
    write_new(&path, &text)?;
    let next = match settings.directory_is_given {
        true => format!("kiln run -C {}", in_a_shell(folder)),
        false => "kiln run".to_owned(),
    };
    printer.note(format!(
        "wrote {} for {} project; next: {next}",
        path.display(),
        kind.words()
    ));
    Ok(())
}

/// The name of the folder itself, whatever path leads to it.
fn folder_name(folder: &Path) -> Outcome<String> {
    // The name alone is wanted, for `-C .` and `-C ..` too.
    #[expect(
        clippy::disallowed_methods,
        reason = "the project's folder is the user's own"
    )]
    let absolute = fs::canonicalize(folder).map_err(|error| {
        Failure::message(
            Class::User,
            format!("`{}`: {error}", folder.display()),
            Some("`-C` takes a folder that exists".to_owned()),
        )
    })?;
    Ok(absolute.file_name().map_or_else(
        || "project".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    ))
}

/// The path as a shell reads it.
fn in_a_shell(path: &Path) -> String {
    let text = path.display().to_string();
    match is_plain(&text) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Makes a project name of any text: `My App!` becomes `my-app`.
fn to_project_name(text: &str) -> String {
    let mut name = String::new();
    for character in text.to_lowercase().chars() {
        if character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_' {
            name.push(character);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    let name = name.trim_matches(['-', '_']);
    // A name is at most 63 characters long, as a label of a host name is.
    let name: String = name.chars().take(63).collect();
    if name.is_empty() {
        "project".to_owned()
    } else {
        name
    }
}

fn fill(kind: Kind, folder: &Path, name: &str) -> String {
    kind.template()
        .replace("@NAME@", name)
        .replace("@BINARY@", &binary_name(kind, folder, name))
        .replace("@MAIN@", &main_program(kind, folder, name))
}

/// What an interpreter is given, as strings of TOML.
fn main_program(kind: Kind, folder: &Path, name: &str) -> String {
    let found = match kind {
        Kind::Node => Some(node_main(folder)),
        Kind::Python => ["main.py", "app.py", "__main__.py"]
            .into_iter()
            .find(|file| folder.join(file).is_file())
            .map(str::to_owned),
        Kind::Plain | Kind::Rust | Kind::Go => None,
    };
    found.map_or_else(
        || {
            let words = format!("say in kiln.toml what {name} runs: image.app.config.cmd");
            format!("\"-c\", \"print('{words}')\"")
        },
        |file| format!("\"{file}\""),
    )
}

/// The name cargo or go give the program.
fn binary_name(kind: Kind, folder: &Path, name: &str) -> String {
    let found = match kind {
        Kind::Rust => cargo_package_name(folder),
        Kind::Plain | Kind::Go | Kind::Python | Kind::Node => None,
    };
    found.unwrap_or_else(|| name.to_owned())
}

fn cargo_package_name(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
    let table: toml::Table = text.parse().ok()?;
    let name = table.get("package")?.get("name")?.as_str()?;
    is_plain(name).then(|| name.to_owned())
}

fn node_main(folder: &Path) -> String {
    let main = || {
        let text = fs::read_to_string(folder.join("package.json")).ok()?;
        let package: serde_json::Value = serde_json::from_str(&text).ok()?;
        let main = package.get("main")?.as_str()?.to_owned();
        is_plain(&main).then_some(main)
    };
    main().unwrap_or_else(|| "index.js".to_owned())
}

/// Whether text of a foreign file can stand in the manifest as it is.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "_-./".contains(character))
}

/// Writes a file that must not be there yet.
fn write_new(path: &Path, text: &str) -> Outcome {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            Failure::message(
                Class::User,
                format!("`{}` exists", path.display()),
                Some("it is left as it is; `kiln check` reads it".to_owned()),
            )
        } else {
            Failure::message(
                Class::Environment,
                format!("`{}`: {error}", path.display()),
                None,
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_folder_name_becomes_a_project_name() {
        for (text, name) in [
            ("notes", "notes"),
            ("My App!", "my-app"),
            ("..", "project"),
            ("_x_", "x"),
            ("Übung 2", "bung-2"),
        ] {
            assert_eq!(to_project_name(text), name);
        }
        assert_eq!(to_project_name(&"a".repeat(100)).len(), 63);
    }

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        assert_eq!(in_a_shell(Path::new("../a-b")), "../a-b");
        assert_eq!(in_a_shell(Path::new("a b's")), "'a b'\\''s'");
    }

    #[test]
    fn no_template_keeps_a_placeholder() {
        let folder = tempfile::tempdir().expect("a folder");
        for kind in [Kind::Plain, Kind::Rust, Kind::Go, Kind::Python, Kind::Node] {
            let text = fill(kind, folder.path(), "notes");
            assert!(!text.contains('@'), "{text}");
        }
    }

    #[test]
    fn the_package_name_is_the_program_of_a_rust_project() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(
            folder.path().join("Cargo.toml"),
            "[package]\nname = \"tool\"",
        )
        .expect("written");
        assert_eq!(Kind::of_folder(folder.path()), Kind::Rust);
        let text = fill(Kind::Rust, folder.path(), "notes");
        assert!(text.contains("target/release/tool /out/tool"), "{text}");
    }
}
