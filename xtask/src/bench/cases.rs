//! The rows of the table in the design's section 9.

use std::path::Path;

use super::{Case, Contender, Place, projects};
use crate::process::Outcome;

/// Every case.
pub(super) const ALL: &[fn(&Place) -> Outcome<Case>] = &[
    chained_cold,
    chained_cached,
    hundred_layers,
    files_cached,
    one_file_changed,
    independent,
    large_layer,
    run_ready,
    debian_cold,
    debian_downloaded,
];

fn kiln(prepare: String, command: String) -> Contender {
    Contender {
        name: "kiln",
        program: None,
        prepare,
        command,
    }
}

/// buildah over a storage of its own, with a cache of layers.
fn buildah(place: &Place, project: &Path, forget: &str, jobs: u32) -> Contender {
    let root = place.folder.join("buildah");
    let call = format!(
        "buildah --root {0}/root --runroot {0}/run --storage-driver overlay",
        root.display()
    );
    let prepare = if forget.is_empty() {
        String::new()
    } else {
        format!("{call} {forget}")
    };
    Contender {
        name: "buildah",
        program: Some("buildah"),
        prepare,
        command: format!(
            "{call} build --layers --jobs {jobs} --isolation chroot --tag bench {}",
            project.display()
        ),
    }
}

/// Forgets images and layers of earlier runs.
const FORGET_ALL: &str = "rmi --all --force";

fn chained_cold(place: &Place) -> Outcome<Case> {
    let project = projects::chained(place, 20)?;
    let store = place.folder.join("store-chained");
    Ok(Case {
        name: "20 chained trivial steps, cold",
        goal: "1/10 of BuildKit",
        runs: 5,
        contenders: vec![
            kiln(
                format!("rm -rf {}", store.display()),
                place.kiln(
                    "store-chained",
                    &format!("build --quiet -C {}", project.display()),
                ),
            ),
            buildah(place, &project, FORGET_ALL, 1),
        ],
    })
}

fn chained_cached(place: &Place) -> Outcome<Case> {
    let project = projects::chained(place, 20)?;
    Ok(Case {
        name: "the same, all cached",
        goal: "20 ms",
        runs: 20,
        contenders: vec![
            kiln(
                String::new(),
                place.kiln(
                    "store-chained",
                    &format!("build --quiet -C {}", project.display()),
                ),
            ),
            buildah(place, &project, "", 1),
        ],
    })
}

fn hundred_layers(place: &Place) -> Outcome<Case> {
    let project = projects::chained(place, 100)?;
    let store = place.folder.join("store-hundred");
    Ok(Case {
        name: "100 chained steps, cold",
        goal: "works",
        runs: 2,
        contenders: vec![kiln(
            format!("rm -rf {}", store.display()),
            place.kiln(
                "store-hundred",
                &format!("build --quiet -C {}", project.display()),
            ),
        )],
    })
}

fn files_cached(place: &Place) -> Outcome<Case> {
    let project = projects::many_files(place, 20_000)?;
    Ok(Case {
        name: "20,000-file project, all cached",
        goal: "1/10 of BuildKit",
        runs: 10,
        contenders: vec![
            kiln(
                String::new(),
                place.kiln(
                    "store-files",
                    &format!("build --quiet -C {}", project.display()),
                ),
            ),
            buildah(place, &project, "", 1),
        ],
    })
}

fn one_file_changed(place: &Place) -> Outcome<Case> {
    let project = projects::many_files(place, 20_000)?;
    let change = format!("date +%N > {}/src/007/700.txt", project.display());
    let mut peer = buildah(place, &project, "", 1);
    peer.prepare.clone_from(&change);
    Ok(Case {
        name: "the same, one file changed, image complete",
        goal: "1/10 of BuildKit",
        runs: 5,
        contenders: vec![
            kiln(
                change,
                place.kiln(
                    "store-files",
                    &format!("build --quiet -C {}", project.display()),
                ),
            ),
            peer,
        ],
    })
}

fn independent(place: &Place) -> Outcome<Case> {
    let project = projects::independent(place, 8, 2)?;
    let store = place.folder.join("store-independent");
    Ok(Case {
        name: "8 independent 2 s steps",
        goal: "2.2 s",
        runs: 3,
        contenders: vec![
            kiln(
                format!("rm -rf {}", store.display()),
                place.kiln(
                    "store-independent",
                    &format!("build --quiet -C {}", project.display()),
                ),
            ),
            buildah(place, &project, FORGET_ALL, 8),
        ],
    })
}

fn large_layer(place: &Place) -> Outcome<Case> {
    let project = projects::large_layer(place, 1024)?;
    let store = place.folder.join("store-large");
    Ok(Case {
        name: "a layer of 1 GiB",
        goal: "commit at 500 MB/s",
        runs: 2,
        contenders: vec![
            kiln(
                format!("rm -rf {}", store.display()),
                place.kiln(
                    "store-large",
                    &format!("build --quiet -C {}", project.display()),
                ),
            ),
            buildah(place, &project, FORGET_ALL, 1),
        ],
    })
}

fn run_ready(place: &Place) -> Outcome<Case> {
    let project = projects::chained(place, 1)?;
    let rootfs = project.join("rootfs");
    Ok(Case {
        name: "run `true` from a ready image, --rm, no network",
        goal: "8.4 ms",
        runs: 40,
        contenders: vec![
            kiln(
                String::new(),
                place.kiln(
                    "store-run",
                    &format!("run --rm --network none -C {} app true", project.display()),
                ),
            ),
            Contender {
                name: "bubblewrap",
                program: Some("bwrap"),
                prepare: String::new(),
                command: format!(
                    "bwrap --unshare-all --ro-bind {} / --proc /proc --dev /dev true",
                    rootfs.display()
                ),
            },
            Contender {
                name: "podman",
                program: Some("podman"),
                prepare: String::new(),
                command: format!(
                    "podman --root {0}/root --runroot {0}/run run --rm --network none --rootfs {1} true",
                    place.folder.join("podman").display(),
                    rootfs.display()
                ),
            },
        ],
    })
}

fn debian_cold(place: &Place) -> Outcome<Case> {
    let project = projects::debian(place)?;
    let store = place.folder.join("store-debian");
    let chroot = place.folder.join("chroot");
    Ok(Case {
        name: "Debian bookworm minimal root file system",
        goal: "10 s",
        runs: 1,
        contenders: vec![
            kiln(
                format!("rm -rf {} {}/kiln.lock", store.display(), project.display()),
                place.kiln(
                    "store-debian",
                    &format!("build --quiet -C {}", project.display()),
                ),
            ),
            Contender {
                name: "mmdebstrap",
                program: Some("mmdebstrap"),
                prepare: format!("rm -rf {}", chroot.display()),
                command: format!("mmdebstrap --variant=minbase bookworm {}", chroot.display()),
            },
            Contender {
                name: "debootstrap",
                program: Some("debootstrap"),
                prepare: format!("rm -rf {}", chroot.display()),
                command: format!(
                    "debootstrap --variant=minbase bookworm {}",
                    chroot.display()
                ),
            },
        ],
    })
}

fn debian_downloaded(place: &Place) -> Outcome<Case> {
    let project = projects::debian(place)?;
    Ok(Case {
        name: "the same, packages already downloaded",
        goal: "6 s",
        runs: 2,
        contenders: vec![kiln(
            String::new(),
            place.kiln(
                "store-debian",
                &format!("build --quiet --no-cache -C {}", project.display()),
            ),
        )],
    })
}
