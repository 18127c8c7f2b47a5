//! How long the project files of a build take: `cargo run --release -p kiln-build --example scan_speed [FILES [FOLDER]]`.
//!
//! Makes a project of so many files (20,000) of 1 KiB in folders of 50, and scans it with `**`: first without a
//! cache, then with one. A FOLDER is kept and used again, for profilers.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kiln_build::{Project, ProjectFiles, StatCache, WantedFiles};
use kiln_manifest::model::FileSet;
use kiln_manifest::value::{Glob, ProjectPath};
use kiln_manifest::{SourceText, Span, Spanned};

fn main() -> Result<(), Box<dyn Error>> {
    let count: usize = std::env::args()
        .nth(1)
        .map_or(Ok(20_000), |text| text.parse())?;
    let temporary = tempfile::tempdir()?;
    let folder = std::env::args()
        .nth(2)
        .map_or_else(|| temporary.path().into(), PathBuf::from);
    let root = folder.join("project");
    let is_there = root.exists();
    for at in (0..count).filter(|_| !is_there) {
        let parent = root.join(format!("part{:02}/module{:03}", at / 50 % 20, at / 50));
        if at % 50 == 0 {
            std::fs::create_dir_all(&parent)?;
        }
        let text = format!("{at:08}").repeat(128);
        std::fs::write(parent.join(format!("source_file_{at:05}.rs")), text)?;
    }
    let spanned = |glob| Spanned::new(glob, Span::default());
    let base = Spanned::new(ProjectPath::parse(".")?, Span::default());
    let include = vec![spanned(Glob::parse("**")?)];
    let set = FileSet {
        base,
        include,
        exclude: Vec::new(),
    };
    let wanted = WantedFiles {
        sets: vec![&set],
        ..WantedFiles::default()
    };
    let source = SourceText::new(miette::NamedSource::new("kiln.toml", String::new()));
    let cache = StatCache::at(folder.join("cache"));
    let mut out = std::io::stdout().lock();
    let mut best = Duration::MAX;
    for round in 0..22 {
        let begin = Instant::now();
        let project = Project::open(&root, &["kiln.toml", "kiln.lock"])?;
        let files = ProjectFiles::scan(&project, &source, &wanted, &cache)?;
        let digest = files.set(&set)?.digest;
        let time = begin.elapsed();
        if round < 2 {
            writeln!(out, "scan {round}: {time:?}, {:?}, {digest}", files.counts)?;
        } else {
            best = best.min(time);
        }
    }
    writeln!(out, "best of 20 warm scans: {best:?}")?;
    Ok(())
}
