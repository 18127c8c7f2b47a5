//! From what is ready to a container: in this process, or one that has a life of its own.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use kiln_image::lower_directories;
use kiln_layer::Ownership;
use kiln_network::Outside;
use kiln_runtime::{
    ContainerConfig, Event, Foreground, Launch, LaunchError, Overrides, Plan, PlannedSource,
    StoredContainer,
};
use kiln_sandbox::{Accounting, Durability, PassedOn, Privileges, SandboxError, Stdio};
use kiln_store::{ContainerClaim, ContainerId, Store, StoreError};

use super::{Life, Ready, absolute, exit_code, stdio};
use crate::errors::{Class, Failure, Outcome};
use crate::id_file::IdFile;
use crate::names;
use crate::printer::{OWN_FAILURE_OF_RUN, Printer};
use crate::tasks;

impl Ready {
    /// Everything about a container of it that is decided now.
    fn container(&self, plan: Plan, life: &Life) -> impl FnOnce(ContainerId) -> ContainerConfig {
        let Life {
            terminal,
            open_input,
            auto_remove,
            restart,
            labels,
            health,
            log,
            id_file: _,
        } = life.clone();
        let (manifest, image_id) = self.identity.clone().unzip();
        let project = self.project.as_ref();
        let project = project.map(|project| absolute(&project.folder));
        let (image, layers) = (self.image.clone(), self.layers.clone());
        let platform = Some(self.platform.clone());
        let (project_name, secrets) = (self.project_name(), self.secret_sources());
        let exposed = plan.exposed.clone();
        move |id| ContainerConfig {
            id,
            created: tasks::clock(),
            image,
            manifest,
            image_id,
            platform,
            layers,
            plan,
            project,
            project_name,
            labels,
            exposed,
            secrets,
            terminal,
            open_input,
            auto_remove,
            restart,
            health,
            log,
        }
    }

    /// Makes a container of it under a name, or one that is made up; returns its claim, config and name.
    fn create(
        &self,
        plan: &Plan,
        life: &Life,
        name: Option<&str>,
    ) -> Outcome<(ContainerClaim, ContainerConfig, kiln_store::Name)> {
        let id_file = life.id_file.as_deref().map(IdFile::reserve).transpose()?;
        let mut attempt = 0;
        loop {
            let chosen = match name {
                Some(name) => kiln_store::Name::new(name)?,
                None => kiln_store::Name::new(&names::random(attempt)?)?,
            };
            let make = self.container(plan.clone(), life);
            match StoredContainer::create(&self.session, &chosen, make) {
                Ok((claim, config)) => {
                    if let Some(file) = id_file {
                        file.write(&config.id)?;
                    }
                    return Ok((claim, config, chosen));
                }
                Err(StoreError::Exists { .. }) if name.is_none() && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Starts it in this process, follows it to its end, and returns its exit code. Nothing of it is left.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn foreground(
        &self,
        overrides: &Overrides,
        life: Life,
        wants_terminal: Option<bool>,
        name: Option<&str>,
        printer: &mut Printer,
    ) -> Outcome<ExitCode> {
        let plan = self.plan(overrides)?;
        let stdio = stdio(self.wants_terminal(wants_terminal))?;
        let life = Life {
            terminal: matches!(stdio, Stdio::Terminal(_)),
            open_input: true,
            auto_remove: true,
            ..life
        };
        let ownership = match self.host.privileges() {
            Privileges::Root | Privileges::Mapped { .. } => Ownership::Keep,
            Privileges::Single { .. } => Ownership::Flatten,
        };
        let lowers = lower_directories(&self.session, &self.layers, ownership)?;
        let labels = BTreeMap::from([("project".to_owned(), self.project_name())]);
        let signals = PassedOn::take_over()
            .map_err(LaunchError::from)
            .map_err(launch_failure)?;
        let (claim, config, name) = self.create(&plan, &life, name)?;
        let containers = self.session.store().containers();
        let folder = containers.folder(&config.id);
        let id = config.id.clone();
        let launch = Launch {
            container: id.as_str(),
            name: name.as_str(),
            host: &self.host,
            session: &self.session,
            outside: self.outside.clone(),
            lowers,
            folder: &folder,
            durability: Durability::Passing,
            hostname: id.short(),
            project: self.project.as_ref().map(|project| &*project.folder),
            labels: &labels,
            secrets: &self.secrets,
            stdio,
            accounting: Accounting::Limits,
        };
        let exit = Foreground::start(&launch, claim, config, name.as_str(), tasks::clock)
            .and_then(|container| {
                // What killed ones left goes while there is nothing else to do: at the end somebody waits.
                self.host.sweep();
                self.clear_away(Store::discard_dead, printer);
                if let Some(unenforced) = container.unenforced() {
                    printer.warning(unenforced.to_string());
                }
                for warning in container.network_warnings() {
                    printer.warning(warning.clone());
                }
                container.follow(&signals, io::stdin(), io::stdout())
            })
            .map_err(|error| {
                let is_about_user =
                    matches!(error, LaunchError::Sandbox(SandboxError::Account { .. }));
                launch_failure_with(error, is_about_user.then(|| self.whose_user(overrides)))
            });
        // Its writable layer may be large, and nobody else may come to clear it away for long.
        self.clear_away(Store::empty_trash, printer);
        let exit = exit?;
        exit_code(exit.code(), exit.out_of_memory)
    }

    fn clear_away(
        &self,
        clear: impl FnOnce(&Store) -> Result<(), StoreError>,
        printer: &mut Printer,
    ) {
        if let Err(error) = clear(self.session.store()) {
            let what = "what containers left cannot be removed";
            printer.warning(format!("{what}: {error}"));
        }
    }

    /// Makes a container that has a life of its own.
    ///
    /// # Errors
    /// It cannot be planned, or the name is taken.
    pub(crate) fn keep(
        self,
        overrides: &Overrides,
        life: &Life,
        name: Option<&str>,
    ) -> Outcome<Kept> {
        let plan = self.plan(overrides)?;
        // The monitor inherits them, and so they last as long as it does.
        self.host
            .hand_on_emulators()
            .map_err(|error| Failure::from_error(Class::Environment, error))?;
        let (claim, config, name) = self.create(&plan, life, name)?;
        for mount in config.plan.mounts.values() {
            if let PlannedSource::Volume(volume) = &mount.source {
                let labels = BTreeMap::from([("project".to_owned(), self.project_name())]);
                let volumes = self.session.store().volumes();
                drop(volumes.open(&self.session, volume, &labels)?);
            }
        }
        let event = Event::of_container(&config, name.as_str(), "create", &[], tasks::clock());
        event.tell(self.session.store())?;
        drop(claim);
        let store = self.session.store().clone();
        self.session.finish()?;
        Ok(Kept {
            store,
            config,
            secrets: self.secrets,
            outside: self.outside,
        })
    }
}

/// A container that was made, and is not started.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) store: Store,
    pub(crate) config: ContainerConfig,
    pub(crate) secrets: BTreeMap<String, Vec<u8>>,
    /// Keeps the bridges until its monitor does.
    pub(crate) outside: Outside,
}

/// How many names are made up before that is given up.
const ATTEMPTS: u32 = 20;

fn launch_failure(error: LaunchError) -> Failure {
    launch_failure_with(error, None)
}

fn launch_failure_with(error: LaunchError, help: Option<String>) -> Failure {
    let code = error.exit_code();
    let class = if code == i32::from(OWN_FAILURE_OF_RUN) {
        Class::Environment
    } else {
        Class::User
    };
    Failure::message(class, error.to_string(), help).with_code(code)
}
