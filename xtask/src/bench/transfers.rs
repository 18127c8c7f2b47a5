//! Images of one gibibyte between stores and a registry on the loopback device.
//!
//! The image is built and pushed by kiln; the peers pull it. A pull ends with an image that can be run, from a
//! storage that had nothing of it. A push sends layers that its program has unpacked, and so has to compress,
//! to a registry that has nothing of them.

use std::path::PathBuf;
use std::process::Command;

use super::{Case, Contender, Place, projects};
use crate::process::{Failure, Outcome, run};

const GIBIBYTE: usize = 1024;

/// A gibibyte in this many layers, pulled.
pub(super) fn pull(place: &Place, layers: usize) -> Outcome<Case> {
    let image = Transferred::prepare(place, layers)?;
    let mut contenders = vec![Contender {
        name: "kiln",
        program: None,
        prepare: setting_aside(place, "store-pull"),
        command: place.kiln("store-pull", &format!("pull --quiet {}", image.source)),
    }];
    contenders.extend([
        Contender {
            name: "skopeo",
            program: Some("skopeo"),
            prepare: setting_aside(place, "skopeo"),
            command: format!(
                "skopeo copy --quiet --insecure-policy --src-tls-verify=false docker://{} {}",
                image.source,
                image.storage(place, "skopeo")
            ),
        },
        Contender {
            name: "podman",
            program: Some("podman"),
            prepare: setting_aside(place, "podman-pull"),
            command: format!(
                "{} pull --quiet --tls-verify=false {}",
                podman(place, "podman-pull"),
                image.source
            ),
        },
    ]);
    contenders.extend(place.docker.as_ref().map(|docker| Contender {
        name: "docker",
        program: None,
        prepare: format!(
            "{}; sync",
            docker.command_line(&format!("rmi --force {}", image.source))
        ),
        command: docker.command_line(&format!("pull --quiet {}", image.source)),
    }));
    Ok(Case {
        goal: "half of the best peer",
        runs: 3,
        weigh: None,
        contenders,
    })
}

/// A gibibyte in this many layers, pushed for the first time.
pub(super) fn push(place: &Place, layers: usize) -> Outcome<Case> {
    let image = Transferred::prepare(place, layers)?;
    let target = registries(place)?.target.data();
    let wipe = format!("rm -rf {}/docker; sync", target.display());
    let mut contenders = image.pushes(place)?;
    for contender in &mut contenders {
        contender.prepare.clone_from(&wipe);
    }
    // What it remembers of its own pushes saves it nothing but time.
    let forget = place.folder.join(&image.store).join("exports");
    contenders[0].prepare = format!("rm -rf {}/*; {wipe}", forget.display());
    Ok(Case {
        goal: "half of the best peer",
        runs: 3,
        weigh: Some(target),
        contenders,
    })
}

/// The same image pushed again, to a registry that has it.
pub(super) fn push_again(place: &Place) -> Outcome<Case> {
    let image = Transferred::prepare(place, 10)?;
    Ok(Case {
        goal: "100 ms",
        runs: 5,
        weigh: None,
        contenders: image.pushes(place)?,
    })
}

/// The same image pushed to another registry, by a program that has pushed it before.
pub(super) fn push_elsewhere(place: &Place) -> Outcome<Case> {
    let image = Transferred::prepare(place, 10)?;
    let target = registries(place)?.target.data();
    let mut contenders = image.pushes(place)?;
    for contender in &mut contenders {
        contender.prepare = format!("rm -rf {}/docker; sync", target.display());
    }
    Ok(Case {
        goal: "-",
        runs: 3,
        weigh: None,
        contenders,
    })
}

/// An image that is in a registry, and unpacked in the storage of each program.
struct Transferred {
    /// What it is called in the registry that it is pulled from.
    source: String,
    /// What it is called in the one that it is pushed to.
    target: String,
    /// The store in which kiln has built it.
    store: String,
    project: PathBuf,
}

impl Transferred {
    fn prepare(place: &Place, layers: usize) -> Outcome<Self> {
        let registries = registries(place)?;
        let name = format!("bench/layers-{layers}:1");
        let image = Self {
            source: format!("{}/{name}", registries.source.host()),
            target: format!("{}/{name}", registries.target.host()),
            store: format!("store-layers-{layers}"),
            project: projects::layers(place, layers, GIBIBYTE / layers)?,
        };
        shell(&place.kiln(
            &image.store,
            &format!("build --quiet -C {}", image.project.display()),
        ))?;
        shell(&image.kiln_push(place, &image.source))?;
        Ok(image)
    }

    fn kiln_push(&self, place: &Place, to: &str) -> String {
        let push = format!("push --quiet -C {} app {to}", self.project.display());
        place.kiln(&self.store, &push)
    }

    /// The calls that push it, after the peers have pulled it once.
    fn pushes(&self, place: &Place) -> Outcome<Vec<Contender>> {
        let contender = |name, program, command| Contender {
            name,
            program,
            prepare: String::new(),
            command,
        };
        let mut contenders = vec![contender("kiln", None, self.kiln_push(place, &self.target))];
        let podman = podman(place, "podman");
        if crate::process::find_program("podman").is_some() {
            shell(&format!(
                "{podman} pull --quiet --tls-verify=false {0} && {podman} tag {0} {1}",
                self.source, self.target
            ))?;
            contenders.push(contender(
                "skopeo",
                Some("skopeo"),
                format!(
                    "skopeo copy --quiet --insecure-policy --dest-tls-verify=false {} docker://{}",
                    self.storage(place, "podman"),
                    self.target
                ),
            ));
            contenders.push(contender(
                "podman",
                None,
                format!(
                    "{podman} push --quiet --tls-verify=false {0} {0}",
                    self.target
                ),
            ));
        }
        if let Some(docker) = &place.docker {
            let pull = docker.command_line(&format!("pull --quiet {}", self.source));
            let tag = docker.command_line(&format!("tag {} {}", self.source, self.target));
            shell(&format!("{pull} && {tag}"))?;
            let push = docker.command_line(&format!("push --quiet {}", self.target));
            contenders.push(contender("docker", None, push));
        }
        Ok(contenders)
    }

    /// The image's name in a storage of podman's below `folder`, for skopeo.
    fn storage(&self, place: &Place, folder: &str) -> String {
        let root = place.folder.join(folder);
        format!(
            "containers-storage:[overlay@{0}/root+{0}/run]{1}",
            root.display(),
            self.source
        )
    }
}

/// Puts a store or storage where it is in nobody's way until the end of the run. After deleting it, ext4 would pass
/// over its inodes for a minute at each file that is made, which doubles the time of everybody's next pull.
fn setting_aside(place: &Place, folder: &str) -> String {
    let storage = place.folder.join(folder).display().to_string();
    let aside = place.folder.join("aside").display().to_string();
    format!(
        "mkdir -p {aside}; umount --quiet {storage}/root/overlay; \
         if test -e {storage}; then mv {storage} {aside}/$(date +%s%N); fi; sync"
    )
}

fn podman(place: &Place, folder: &str) -> String {
    let root = place.folder.join(folder);
    format!(
        "podman --root {0}/root --runroot {0}/run --storage-driver overlay",
        root.display()
    )
}

fn registries(place: &Place) -> Outcome<&super::Registries> {
    place.registries.as_ref().ok_or_else(|| {
        Failure::new("`docker-registry` is missing; as root: apt-get install docker-registry")
    })
}

fn shell(line: &str) -> Outcome {
    run(Command::new("sh").args(["-ec", line]))
}
