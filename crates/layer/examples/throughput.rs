//! Measures what users wait for:
//! `cargo run --release -p kiln-layer --example throughput [FOLDER [big|many|compressed]]`.
//!
//! Makes its files in a folder of its own below FOLDER (default: the system's temporary one) and
//! removes them. Prints the best of three runs of each; files are in the page cache.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for developers"
)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_layer::{
    CommitOptions, Committed, CopyOverrides, Decoder, Draft, DraftOptions, Encoder, LowerStack,
    TreePath, UnpackOptions,
};
use kiln_oci::Compression;

const EPOCH: i64 = 315_532_800;
const MIB: f64 = 1024.0 * 1024.0;

fn main() {
    let parent = std::env::args_os().nth(1);
    let space = match parent {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    }
    .unwrap();
    let space = space.path();
    let only = std::env::args().nth(2);
    for (name, run) in [
        ("big", big_file as fn(&Path)),
        ("many", many_files),
        ("compressed", compressed),
    ] {
        if only.as_ref().is_none_or(|it| it == name) {
            run(space);
        }
    }
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn nothing() -> LowerStack {
    LowerStack::new(&[] as &[OwnedFd]).unwrap()
}

/// What a run took.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    /// Of all threads together; tells more than the clock on a machine with other work.
    processor_ms: u64,
}

/// The best of three.
fn best<T>(mut run: impl FnMut() -> T) -> (Took, T) {
    (0..3)
        .map(|_| {
            let (start, before) = (Instant::now(), processor_ms());
            let result = run();
            let took = Took {
                wall: start.elapsed(),
                processor_ms: processor_ms() - before,
            };
            (took, result)
        })
        .min_by_key(|(took, _)| took.wall)
        .unwrap()
}

/// Processor time of this process so far, from the ticks of ten milliseconds the kernel counts.
fn processor_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|it| it.parse::<u64>().unwrap() * 10).sum()
}

fn commit(upper: &Path, lower: &LowerStack) -> Committed {
    let options = CommitOptions {
        epoch: EPOCH,
        ..CommitOptions::default()
    };
    kiln_layer::commit(open(upper).as_fd(), lower, options).unwrap()
}

fn report(what: &str, took: Took, bytes: u64) {
    let seconds = took.wall.as_secs_f64();
    println!(
        "{what:<44} {:>8.1} ms {:>6} ms cpu {:>6.0} MiB/s",
        seconds * 1000.0,
        took.processor_ms,
        bytes as f64 / MIB / seconds
    );
}

/// Bytes that do not compress to nothing.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut output = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut output);
    output
}

fn big_file(space: &Path) {
    let upper = space.join("big");
    fs::create_dir(&upper).unwrap();
    let chunk = noise(1 << 20, 0);
    let mut file = File::create(upper.join("file")).unwrap();
    (0..1024).for_each(|_| file.write_all(&chunk).unwrap());
    drop(file);
    let before = resident_kib();
    let (time, made) = best(|| commit(&upper, &nothing()));
    report("commit, one file of 1 GiB", time, made.tar_size_bytes);
    let (time, ()) = best(|| {
        kiln_layer::write_tar(open(&upper).as_fd(), &made.index, &mut io::sink()).unwrap();
    });
    report("write_tar, the same", time, made.tar_size_bytes);
    println!(
        "{:<44} {:>8} KiB",
        "memory added by both, at most",
        resident_kib() - before
    );
    fs::remove_dir_all(upper).unwrap();
}

/// The highest resident size of this process so far.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    line.unwrap().trim_end_matches("kB").trim().parse().unwrap()
}

fn many_files(space: &Path) {
    let source = space.join("many");
    for directory in 0..200 {
        let path = source.join(format!("package-{directory:03}/src"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..100 {
            let content = noise(4096 + 37 * file, directory * 100 + file as u64);
            fs::write(path.join(format!("module-{file:03}.js")), content).unwrap();
        }
    }
    let (time, made) = best(|| commit(&source, &nothing()));
    report("commit, 20,000 files of 6 KiB", time, made.tar_size_bytes);
    let index = made.index.to_bytes();
    let (time, ()) = best(|| {
        kiln_layer::TreeIndex::from_bytes(&index).unwrap();
    });
    report("read their index", time, index.len() as u64);
    let mut tar = Vec::new();
    kiln_layer::write_tar(open(&source).as_fd(), &made.index, &mut tar).unwrap();
    let (time, ()) = best(|| {
        kiln_layer::write_tar(open(&source).as_fd(), &made.index, &mut io::sink()).unwrap();
    });
    report("write_tar, the same", time, made.tar_size_bytes);
    let mut turn = 0;
    let (time, ()) = best(|| {
        turn += 1;
        let folder = space.join(format!("unpack-{turn}"));
        fs::create_dir(&folder).unwrap();
        let options = UnpackOptions::default();
        kiln_layer::unpack(&tar[..], open(&folder).as_fd(), &options).unwrap();
    });
    report("unpack, the same", time, made.tar_size_bytes);
    let lower = LowerStack::new(&[open(&source)]).unwrap();
    let (time, again) = best(|| {
        turn += 1;
        let upper = space.join(format!("draft-{turn}"));
        fs::create_dir(&upper).unwrap();
        let base = nothing();
        let options = DraftOptions {
            epoch: EPOCH,
            ..DraftOptions::default()
        };
        let mut draft = Draft::new(open(&upper).as_fd(), &base, options).unwrap();
        let (from, to) = (TreePath::root(), TreePath::in_root(b"/app").unwrap());
        draft
            .copy_tree(&lower, &from, &to, CopyOverrides::default())
            .unwrap();
        let copied = (Instant::now(), processor_ms());
        draft.finish(None).unwrap();
        Took {
            wall: copied.0.elapsed(),
            processor_ms: processor_ms() - copied.1,
        }
    });
    report(
        "copy_tree from a layer and commit",
        time,
        made.tar_size_bytes,
    );
    report("  of it the commit", again, made.tar_size_bytes);
    // A step over a base that touched every file: all are compared and dropped.
    let base = LowerStack::new(&[open(&source)]).unwrap();
    let copies: Vec<_> = (1..=3)
        .map(|it| space.join(format!("unpack-{it}")))
        .collect();
    let mut copies = copies.iter();
    let (time, dropped) = best(|| commit(copies.next().unwrap(), &base));
    assert!(dropped.index.is_empty());
    report(
        "commit, 20,000 unchanged files over a base",
        time,
        made.tar_size_bytes,
    );
}

fn compressed(space: &Path) {
    // Half noise, half text: about what binaries compress to.
    let mut tree = noise(64 << 20, 1);
    tree.extend(b"a line of some text file\n".repeat((64 << 20) / 25));
    let upper = space.join("compressed");
    fs::create_dir(&upper).unwrap();
    fs::write(upper.join("file"), tree).unwrap();
    let made = commit(&upper, &nothing());
    let mut tar = Vec::new();
    kiln_layer::write_tar(open(&upper).as_fd(), &made.index, &mut tar).unwrap();
    for compression in [Compression::Gzip, Compression::Zstd] {
        let (time, bytes) = best(|| {
            let mut encoder = Encoder::new(compression, Vec::new());
            encoder.write_all(&tar).unwrap();
            encoder.finish().unwrap()
        });
        report(
            &format!("{compression:?} out, 128 MiB"),
            time,
            tar.len() as u64,
        );
        let (time, ()) = best(|| {
            let mut decoder = Decoder::new(&bytes[..]).unwrap();
            let mut buffer = vec![0; 256 * 1024];
            while decoder.read(&mut buffer).unwrap() > 0 {}
        });
        report(
            &format!("{compression:?} in, 128 MiB"),
            time,
            tar.len() as u64,
        );
    }
}
