//! Projects to measure with: as a `kiln.toml`, and as a Containerfile for peers.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Place, content};
use crate::process::{Failure, Outcome, run};

/// The beginning of every manifest: a busybox of one file.
const HEAD: &str = "schema = 1\n[project]\nname = \"bench\"\ndefault = \"app\"\n[image.app]\nfrom = { rootfs = \"rootfs.tar\" }\n";

/// The same as a Containerfile.
const CONTAINERFILE_HEAD: &str = "FROM scratch\nADD rootfs.tar /\n";

/// Steps that each need the one before.
pub(super) fn chained(place: &Place, count: u32) -> Outcome<PathBuf> {
    let mut manifest = HEAD.to_owned();
    let mut containerfile = CONTAINERFILE_HEAD.to_owned();
    for number in 0..count {
        let needs = match number {
            0 => String::new(),
            _ => format!("needs = [\"s{:03}\"]\n", number - 1),
        };
        add(
            &mut manifest,
            format_args!(
                "[image.app.step.s{number:03}]\n{needs}run = \"echo {number} > /f{number}\"\n"
            ),
        );
        add(
            &mut containerfile,
            format_args!("RUN echo {number} > /f{number}\n"),
        );
    }
    project(
        place,
        &format!("chained-{count}"),
        &manifest,
        &containerfile,
    )
}

/// Steps that need nothing of each other and sleep.
pub(super) fn independent(place: &Place, count: u32, seconds: u32) -> Outcome<PathBuf> {
    let mut manifest = HEAD.to_owned();
    let mut containerfile = String::new();
    let mut last = CONTAINERFILE_HEAD.to_owned();
    for number in 0..count {
        add(
            &mut manifest,
            format_args!(
                "[image.app.step.s{number}]\nrun = \"sleep {seconds}; echo {number} > /f{number}\"\n"
            ),
        );
        add(
            &mut containerfile,
            format_args!(
                "FROM scratch AS s{number}\nADD rootfs.tar /\nRUN sleep {seconds}; echo {number} > /f{number}\n"
            ),
        );
        add(
            &mut last,
            format_args!("COPY --from=s{number} /f{number} /f{number}\n"),
        );
    }
    containerfile.push_str(&last);
    project(
        place,
        &format!("independent-{count}"),
        &manifest,
        &containerfile,
    )
}

/// A step that copies many small files of the project.
pub(super) fn many_files(place: &Place, count: u32) -> Outcome<PathBuf> {
    let manifest = format!(
        "{HEAD}[image.app.step.files]\ncopy = [{{ files = [\"src/**\"], to = \"/srv/\" }}]\n"
    );
    let containerfile = format!("{CONTAINERFILE_HEAD}COPY src /srv/src\n");
    let folder = project(place, &format!("files-{count}"), &manifest, &containerfile)?;
    for number in 0..count {
        let path = folder.join(format!("src/{:03}/{number}.txt", number / 100));
        make_parent(&path)?;
        write(&path, &format!("{number}\n").repeat(20))?;
    }
    Ok(folder)
}

/// A step that makes one large file.
pub(super) fn large_layer(place: &Place, mebibytes: u32) -> Outcome<PathBuf> {
    let step = format!("dd if=/dev/urandom of=/large bs=1M count={mebibytes}");
    let manifest = format!("{HEAD}[image.app.step.large]\nrun = \"{step}\"\n");
    let containerfile = format!("{CONTAINERFILE_HEAD}RUN {step}\n");
    project(
        place,
        &format!("large-{mebibytes}"),
        &manifest,
        &containerfile,
    )
}

/// Steps that each copy a layer's files of the project, `mebibytes` of them.
pub(super) fn layers(place: &Place, count: usize, mebibytes: usize) -> Outcome<PathBuf> {
    let mut manifest = HEAD.to_owned();
    for number in 0..count {
        add(
            &mut manifest,
            format_args!(
                "[image.app.step.l{number}]\ncopy = [{{ files = [\"files/{number}/**\"], to = \"/srv/{number}/\" }}]\n"
            ),
        );
    }
    let folder = project(place, &format!("layers-{count}"), &manifest, "")?;
    for number in 0..count {
        let files = folder.join(format!("files/{number}"));
        if !files.is_dir() {
            content::write(&files, mebibytes, (count + number) as u64)?;
        }
    }
    Ok(folder)
}

/// Only a base of Debian packages.
pub(super) fn debian(place: &Place) -> Outcome<PathBuf> {
    let manifest = "schema = 1\n[project]\nname = \"bench\"\ndefault = \"app\"\n[image.app]\nfrom = { debian = \"bookworm\" }\n";
    project(place, "debian", manifest, "")
}

fn project(place: &Place, name: &str, manifest: &str, containerfile: &str) -> Outcome<PathBuf> {
    let folder = place.folder.join(name);
    fs::create_dir_all(&folder).map_err(|error| Failure::io(&folder, &error))?;
    write(&folder.join("kiln.toml"), manifest)?;
    write(&folder.join("Containerfile"), containerfile)?;
    rootfs(&folder)?;
    Ok(folder)
}

/// A root file system of Debian's static busybox, as a folder and as a tar.
fn rootfs(folder: &Path) -> Outcome {
    let script = "mkdir -p rootfs/bin rootfs/proc rootfs/dev rootfs/sys rootfs/tmp rootfs/etc && \
        cp /bin/busybox rootfs/bin/busybox && \
        for name in sh echo sleep true dd cat; do ln -sf busybox rootfs/bin/$name; done && \
        tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --file rootfs.tar --directory rootfs .";
    run(Command::new("sh").args(["-ec", script]).current_dir(folder))
}

fn make_parent(path: &Path) -> Outcome {
    let parent = path.parent().expect("a file in a project");
    fs::create_dir_all(parent).map_err(|error| Failure::io(parent, &error))
}

fn write(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|error| Failure::io(path, &error))
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments)
        .expect("a string takes all that is written");
}
