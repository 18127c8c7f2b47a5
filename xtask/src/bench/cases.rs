//! The rows of the table in the design's section 9.

use std::path::Path;

use super::{Case, Contender, Place, projects, transfers};
use crate::process::{Outcome, run};

/// Prepares a case.
type Make = fn(&Place) -> Outcome<Case>;

/// Every case: what is done, and how it is prepared.
pub(super) const ALL: &[(&str, Make)] = &[
    ("20 chained trivial steps, cold", chained_cold),
    ("the same, all cached", chained_cached),
    ("100 chained steps, cold", hundred_layers),
    ("20,000-file project, all cached", files_cached),
    (
        "the same, one file changed, image complete",
        one_file_changed,
    ),
    ("8 independent 2 s steps", independent),
    ("a layer of 1 GiB", large_layer),
    ("run `true` from a ready image, --rm, no network", run_ready),
    (
        "start 100 containers at once, and stop them",
        hundred_containers,
    ),
    ("Debian bookworm minimal root file system", debian_cold),
    ("the same, packages already downloaded", debian_downloaded),
    ("pull and unpack 1 GiB in 10 layers", |place| {
        transfers::pull(place, 10)
    }),
    ("pull and unpack 1 GiB in 1 layer", |place| {
        transfers::pull(place, 1)
    }),
    ("push 1 GiB in 10 layers", |place| {
        transfers::push(place, 10)
    }),
    ("push the same again", transfers::push_again),
    (
        "push the same to another registry",
        transfers::push_elsewhere,
    ),
    ("push 1 GiB in 1 layer", |place| transfers::push(place, 1)),
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

/// BuildKit in docker's engine; `cold` forgets its cache before each build.
fn buildkit(place: &Place, project: &Path, cold: bool) -> Option<Contender> {
    let docker = place.docker.as_ref()?;
    let prepare = if cold {
        docker.command_line("builder prune --all --force")
    } else {
        String::new()
    };
    Some(Contender {
        name: "BuildKit (docker)",
        program: None,
        prepare,
        command: docker.command_line(&format!(
            "build --quiet --network none --tag bench --file {0}/Containerfile {0}",
            project.display()
        )),
    })
}

/// The contenders that are there.
fn among(contenders: impl IntoIterator<Item = Option<Contender>>) -> Vec<Contender> {
    contenders.into_iter().flatten().collect()
}

fn chained_cold(place: &Place) -> Outcome<Case> {
    let project = projects::chained(place, 20)?;
    let store = place.folder.join("store-chained");
    Ok(Case {
        goal: "1/10 of BuildKit",
        runs: 5,
        weigh: None,
        contenders: among([
            Some(kiln(
                format!("rm -rf {}", store.display()),
                place.kiln(
                    "store-chained",
                    &format!("build --quiet -C {}", project.display()),
                ),
            )),
            Some(buildah(place, &project, FORGET_ALL, 1)),
            buildkit(place, &project, true),
        ]),
    })
}

fn chained_cached(place: &Place) -> Outcome<Case> {
    let project = projects::chained(place, 20)?;
    Ok(Case {
        goal: "20 ms",
        runs: 20,
        weigh: None,
        contenders: among([
            Some(kiln(
                String::new(),
                place.kiln(
                    "store-chained",
                    &format!("build --quiet -C {}", project.display()),
                ),
            )),
            Some(buildah(place, &project, "", 1)),
            buildkit(place, &project, false),
        ]),
    })
}

fn hundred_layers(place: &Place) -> Outcome<Case> {
    let project = projects::chained(place, 100)?;
    let store = place.folder.join("store-hundred");
    Ok(Case {
        goal: "works",
        runs: 2,
        weigh: None,
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
        goal: "1/10 of BuildKit",
        runs: 10,
        weigh: None,
        contenders: among([
            Some(kiln(
                String::new(),
                place.kiln(
                    "store-files",
                    &format!("build --quiet -C {}", project.display()),
                ),
            )),
            Some(buildah(place, &project, "", 1)),
            buildkit(place, &project, false),
        ]),
    })
}

fn one_file_changed(place: &Place) -> Outcome<Case> {
    let project = projects::many_files(place, 20_000)?;
    let change = format!("date +%N > {}/src/007/700.txt", project.display());
    let changing = |mut peer: Contender| {
        peer.prepare.clone_from(&change);
        peer
    };
    Ok(Case {
        goal: "1/10 of BuildKit",
        runs: 5,
        weigh: None,
        contenders: among([
            Some(changing(kiln(
                String::new(),
                place.kiln(
                    "store-files",
                    &format!("build --quiet -C {}", project.display()),
                ),
            ))),
            Some(changing(buildah(place, &project, "", 1))),
            buildkit(place, &project, false).map(changing),
        ]),
    })
}

fn independent(place: &Place) -> Outcome<Case> {
    let project = projects::independent(place, 8, 2)?;
    let store = place.folder.join("store-independent");
    Ok(Case {
        goal: "2.2 s",
        runs: 3,
        weigh: None,
        contenders: among([
            Some(kiln(
                format!("rm -rf {}", store.display()),
                place.kiln(
                    "store-independent",
                    &format!("build --quiet -C {}", project.display()),
                ),
            )),
            Some(buildah(place, &project, FORGET_ALL, 8)),
            buildkit(place, &project, true),
        ]),
    })
}

fn large_layer(place: &Place) -> Outcome<Case> {
    let project = projects::large_layer(place, 1024)?;
    let store = place.folder.join("store-large");
    Ok(Case {
        goal: "commit at 500 MB/s",
        runs: 2,
        weigh: None,
        contenders: among([
            Some(kiln(
                format!("rm -rf {}", store.display()),
                place.kiln(
                    "store-large",
                    &format!("build --quiet -C {}", project.display()),
                ),
            )),
            Some(buildah(place, &project, FORGET_ALL, 1)),
            buildkit(place, &project, true),
        ]),
    })
}

/// Makes the image `ready` of docker's engine, if there is one, from the root file system of `project`.
fn import_ready(place: &Place, project: &Path) -> Outcome {
    let Some(docker) = &place.docker else {
        return Ok(());
    };
    let mut import = docker.client();
    run(import
        .arg("import")
        .arg(project.join("rootfs.tar"))
        .arg("ready"))
}

/// podman over a storage of its own. crun refuses hybrid cgroups.
fn podman(place: &Place) -> String {
    format!(
        "podman --runtime runc --root {0}/root --runroot {0}/run --storage-driver overlay",
        place.folder.join("podman").display()
    )
}

/// Limits cannot be raised everywhere.
const PODMANS_LIMITS: &str = "--ulimit nofile=1024:1024 --ulimit nproc=1000:1000";

fn run_ready(place: &Place) -> Outcome<Case> {
    let project = projects::chained(place, 1)?;
    let rootfs = project.join("rootfs");
    import_ready(place, &project)?;
    let run = |name, program, command| Contender {
        name,
        program: Some(program),
        prepare: String::new(),
        command,
    };
    Ok(Case {
        goal: "8.4 ms, with bubblewrap at 6.7 ms",
        runs: 100,
        weigh: None,
        contenders: among([
            Some(kiln(
                String::new(),
                place.kiln(
                    "store-run",
                    &format!("run --rm --network none -C {} app true", project.display()),
                ),
            )),
            Some(run(
                "bubblewrap",
                "bwrap",
                format!(
                    "bwrap --unshare-all --ro-bind {} / --proc /proc --dev /dev true",
                    rootfs.display()
                ),
            )),
            Some(run(
                "podman with runc",
                "podman",
                format!(
                    "{} run --rm --network none {PODMANS_LIMITS} --rootfs {} true",
                    podman(place),
                    rootfs.display()
                ),
            )),
            place.docker.as_ref().map(|docker| Contender {
                name: "docker",
                program: None,
                prepare: String::new(),
                command: docker.command_line("run --rm --network none ready true"),
            }),
        ]),
    })
}

/// So many containers at once.
const MANY: u32 = 100;

fn hundred_containers(place: &Place) -> Outcome<Case> {
    let project = projects::chained(place, 1)?;
    import_ready(place, &project)?;
    let many = |name, program, call: &dyn Fn(&str) -> String, image: &str| {
        let start = call(&format!(
            "run --detach --rm --network none --name many-NUMBER {image} sleep 1000"
        ));
        let stop = call(&format!("stop --time 0 $(seq -f many-%g {MANY})"));
        // All are gone before the next ones get their names.
        let prepare = format!(
            "while test -n \"$({})\"; do sleep 0.05; done",
            call("ps --all --quiet")
        );
        let command = format!(
            "seq {MANY} | xargs -P {MANY} -I NUMBER {start} > /dev/null && {stop} > /dev/null"
        );
        Contender {
            name,
            program,
            prepare,
            command: super::in_shell(&command),
        }
    };
    let podman = podman(place);
    let rootfs = project.join("rootfs");
    Ok(Case {
        goal: "less than podman",
        runs: 5,
        weigh: None,
        contenders: among([
            Some(many(
                "kiln",
                None,
                &|arguments| place.kiln("store-many", arguments),
                &format!("-C {} app", project.display()),
            )),
            Some(many(
                "podman with runc",
                Some("podman"),
                &|arguments| format!("{podman} {arguments}"),
                &format!("{PODMANS_LIMITS} --rootfs {}", rootfs.display()),
            )),
            place.docker.as_ref().map(|docker| {
                let call = |arguments: &str| docker.command_line(arguments);
                many("docker", None, &call, "ready")
            }),
        ]),
    })
}

fn debian_cold(place: &Place) -> Outcome<Case> {
    let project = projects::debian(place)?;
    let store = place.folder.join("store-debian");
    let chroot = place.folder.join("chroot");
    Ok(Case {
        goal: "10 s",
        runs: 1,
        weigh: None,
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
        goal: "6 s",
        runs: 2,
        weigh: None,
        contenders: vec![kiln(
            String::new(),
            place.kiln(
                "store-debian",
                &format!("build --quiet --no-cache -C {}", project.display()),
            ),
        )],
    })
}
