//! [`Lock`] to text.

use std::fmt::{self, Write};

use super::{GitKey, LOCK_VERSION, Lock, PackageKey, PackagePin, SetKey, SuiteKey, SuitePin};

const HEADER: &str = "\
# Written by kiln. Commit it; refresh it with `kiln lock --update`.
";

impl Lock {
    /// The canonical text: equal locks give equal bytes, ending in a newline.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::from(HEADER);
        self.write(&mut out)
            .expect("writing to a string cannot fail");
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        // No `..`: a new field does not compile until it is written here.
        let Self {
            layer_format,
            images,
            debian,
            urls,
            git,
        } = self;
        writeln!(out, "version = {LOCK_VERSION}")?;
        writeln!(out, "layer-format = {layer_format}")?;
        for (reference, pin) in images {
            let reference = quoted(reference);
            writeln!(out, "\n[image.{reference}]")?;
            writeln!(out, "digest = \"{}\"", pin.digest)?;
            if !pin.platforms.is_empty() {
                writeln!(out, "\n[image.{reference}.platforms]")?;
            }
            for (platform, digest) in &pin.platforms {
                writeln!(out, "{} = \"{digest}\"", quoted(platform))?;
            }
        }
        for (url, pin) in urls {
            writeln!(out, "\n[url.{}]", quoted(url))?;
            writeln!(out, "sha256 = \"{}\"", pin.sha256.hex())?;
            writeln!(out, "size = {}", pin.size_bytes)?;
        }
        for (GitKey { url, reference }, commit) in git {
            writeln!(out, "\n[[git]]")?;
            writeln!(out, "url = {}", quoted(url))?;
            writeln!(out, "ref = {}", quoted(reference))?;
            writeln!(out, "commit = {}", quoted(commit))?;
        }
        for (key, pin) in debian {
            write_suite(out, key, pin)?;
        }
        Ok(())
    }
}

fn write_suite(out: &mut String, key: &SuiteKey, pin: &SuitePin) -> fmt::Result {
    let SuiteKey {
        suite,
        architecture,
        components,
        fixed_snapshot,
    } = key;
    let SuitePin {
        snapshot,
        packages,
        sets,
    } = pin;
    writeln!(out, "\n[[debian]]")?;
    writeln!(out, "suite = {}", quoted(suite))?;
    writeln!(out, "architecture = {}", quoted(architecture))?;
    writeln!(out, "components = {}", list(components))?;
    writeln!(out, "snapshot = {}", quoted(snapshot))?;
    if fixed_snapshot.is_some() {
        writeln!(out, "fixed = true")?;
    }
    if !packages.is_empty() {
        writeln!(out, "packages = [")?;
        for (key, pin) in packages {
            write_package(out, key, pin)?;
        }
        writeln!(out, "]")?;
    }
    for (SetKey { request, over }, packages) in sets {
        writeln!(out, "\n[[debian.set]]")?;
        writeln!(out, "request = {}", list(request))?;
        writeln!(out, "over = {}", quoted(over))?;
        writeln!(out, "packages = [")?;
        for package in packages {
            writeln!(out, "  {},", quoted(&package.to_string()))?;
        }
        writeln!(out, "]")?;
    }
    Ok(())
}

fn write_package(out: &mut String, key: &PackageKey, pin: &PackagePin) -> fmt::Result {
    let PackageKey { name, version } = key;
    let PackagePin {
        architecture,
        size_bytes,
        sha256,
        path,
    } = pin;
    writeln!(
        out,
        "  {{ name = {}, version = {}, architecture = {}, size = {size_bytes}, sha256 = \"{}\", path = {} }},",
        quoted(name),
        quoted(version),
        quoted(architecture),
        sha256.hex(),
        quoted(path),
    )
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => {
                write!(out, "\\u{:04X}", u32::from(c)).expect("writing to a string cannot fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn list<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}
