//! From a name to a running container: built if need be, started, followed.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use clap::ValueEnum;
use kiln_build::{SecretValue, StepState, Workspace};
use kiln_graph::{BuildGraph, BuildTarget};
use kiln_image::{Image, lower_directories};
use kiln_layer::Ownership;
use kiln_manifest::model::{Action, ProducedBy, Service};
use kiln_manifest::value::Name;
use kiln_network::Outside;
use kiln_oci::{DiffId, Platform, RunConfig};
use kiln_runtime::{Container, Launch, LaunchError, Overrides, Plan};
use kiln_sandbox::{Host, PassedOn, Privileges, Stdio, window_size};
use kiln_store::Session;

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::networking::Reach;
use crate::printer::{OWN_FAILURE_OF_RUN, Printer};
use crate::progress::Telling;
use crate::project::Project;
use crate::settings::Settings;
use crate::transfers::TransferArgs;
use crate::verbs::build::{self, BuildArgs};
use crate::workbench;

/// When an image is pulled before it is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pulling {
    /// When it is not in the store
    #[default]
    Missing,
    /// Each time
    Always,
    /// Not at all
    Never,
}

/// Something that can be started: layers, and what is known of how.
pub(crate) struct Ready {
    session: Session,
    host: Host,
    outside: Outside,
    /// Lowest first.
    layers: Vec<DiffId>,
    config: RunConfig,
    service: Option<Service>,
    project: Option<Project>,
    secrets: BTreeMap<Name, Vec<u8>>,
}

impl Ready {
    /// Finds what `name` calls, an image or service of the project, a step of it
    /// (`image.step`), an image of the store or of a registry, and builds it if it is the project's.
    ///
    /// Without a name it is the project's default.
    ///
    /// # Errors
    /// There is no such thing, or it cannot be built.
    pub(crate) fn make(
        name: Option<&str>,
        pulling: Pulling,
        reach: Reach,
        how: &BuildArgs,
        settings: &Settings,
        printer: &mut Printer,
    ) -> Outcome<Self> {
        let project = Project::load_if_any(settings)?;
        let target = match (&project, name) {
            (Some(project), None) => Some(project.default_target()?),
            (Some(project), Some(name)) => project.target_called(name)?,
            (None, Some(_)) => None,
            (None, None) => return Err(nothing_to_run()),
        };
        match (project, target) {
            (Some(project), Some(target)) => {
                Self::build(project, &target, reach, how, settings, printer)
            }
            _ => Self::of_store(name, pulling, reach, settings, printer),
        }
    }

    /// An image of the store as it is, or of a registry.
    fn of_store(
        name: Option<&str>,
        pulling: Pulling,
        reach: Reach,
        settings: &Settings,
        printer: &mut Printer,
    ) -> Outcome<Self> {
        let (entered, outside) = workbench::enter_reaching(settings, reach)?;
        let store = entered.session.store();
        let reference = match pulling {
            Pulling::Never => None,
            Pulling::Missing => local::missing(settings, store, name)?,
            Pulling::Always => name.and_then(|name| name.parse().ok()),
        };
        let image = match reference {
            Some(reference) => TransferArgs::default().pull(
                &reference,
                &Platform::host(),
                settings,
                &entered,
                printer,
            )?,
            None => local::find(settings, store, name)?.load(store)?,
        };
        pin(&image, &entered.session)?;
        Ok(Self {
            layers: image.diff_ids().to_vec(),
            config: image.config.config,
            session: entered.session,
            host: entered.host,
            outside,
            service: None,
            project: None,
            secrets: BTreeMap::new(),
        })
    }

    /// A target of the manifest, built.
    fn build(
        project: Project,
        target: &BuildTarget,
        reach: Reach,
        how: &BuildArgs,
        settings: &Settings,
        printer: &mut Printer,
    ) -> Outcome<Self> {
        let targets = std::slice::from_ref(target);
        let graph = BuildGraph::lower(&project.manifest, targets).map_err(Failure::user)?;
        let wishes = how.wishes(settings)?;
        let (entered, outside) = workbench::enter_reaching(settings, reach)?;
        let workspace = workbench::workspace(settings, &project, entered, wishes)?;
        let telling = Telling::OnlyWork;
        let built = build::build_graph(how, settings, printer, &workspace, &graph, telling)?;
        let mut states = built.report.states.iter();
        if states.any(|(_, state)| *state == StepState::Built) {
            local::warn_of_one_owner(&workspace.host, printer);
        }
        let missing = || Failure::message(Class::Bug, "what was built is not there", None);
        let (layers, config) = match target {
            BuildTarget::Step { image, step } => {
                let from = ProducedBy::Step {
                    image: image.clone(),
                    step: step.clone(),
                };
                let nodes = graph.produced(&from).ok_or_else(missing)?;
                let outputs = nodes
                    .iter()
                    .filter_map(|node| built.report.outputs[*node].as_ref());
                let layers = outputs.clone().flat_map(|output| output.layers.clone());
                let config = outputs.clone().find_map(|output| output.config.clone());
                let config = config
                    .map(|config| config.config.clone())
                    .unwrap_or_default();
                (layers.collect(), of_step(config, &project, image, step))
            }
            BuildTarget::Image(_) | BuildTarget::Service(_) => {
                let plan = graph
                    .image_of(&project.manifest, target)
                    .ok_or_else(missing)?;
                let built = built.images.get(&plan.name).ok_or_else(missing)?;
                pin(&built.image, &workspace.session)?;
                let config = built.image.config.config.clone();
                (built.image.diff_ids().to_vec(), config)
            }
        };
        let service = match target {
            BuildTarget::Service(name) => project.manifest.services.get(name).cloned(),
            BuildTarget::Image(_) | BuildTarget::Step { .. } => None,
        };
        let secrets = secrets(&workspace, service.as_ref())?;
        let Workspace { session, host, .. } = workspace;
        Ok(Self {
            session,
            host,
            outside,
            layers,
            config,
            service,
            project: Some(project),
            secrets,
        })
    }

    /// Starts it, follows it to its end, and returns its exit code.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(
        &self,
        overrides: &Overrides,
        wants_terminal: Option<bool>,
        printer: &mut Printer,
    ) -> Outcome<ExitCode> {
        let project_name = self
            .project
            .as_ref()
            .map(|project| project.manifest.project.name.value.to_string())
            .unwrap_or_default();
        let service = self
            .service
            .as_ref()
            .map(|service| (&*project_name, service));
        let plan = Plan::new(&self.config, service, overrides)
            .map_err(|error| Failure::from_error(Class::User, error))?;
        let ownership = match self.host.privileges() {
            Privileges::Root | Privileges::Mapped { .. } => Ownership::Keep,
            Privileges::Single { .. } => Ownership::Flatten,
        };
        let wants_terminal =
            wants_terminal.or(self.service.as_ref().and_then(|service| service.tty));
        let launch = Launch {
            host: &self.host,
            session: &self.session,
            outside: self.outside.clone(),
            lowers: lower_directories(&self.session, &self.layers, ownership)?,
            project: self.project.as_ref().map(|project| &*project.folder),
            labels: BTreeMap::from([("project".to_owned(), project_name.clone())]),
            secrets: &self.secrets,
            stdio: stdio(wants_terminal)?,
        };
        let signals = PassedOn::take_over()
            .map_err(LaunchError::from)
            .map_err(launch_failure)?;
        let exit = Container::start(&launch, &plan)
            .and_then(|mut container| {
                if let Some(unenforced) = container.unenforced() {
                    printer.warning(unenforced.to_string());
                }
                for warning in container.network_warnings() {
                    printer.warning(warning.clone());
                }
                container.foreground(&signals, io::stdin(), io::stdout())
            })
            .map_err(launch_failure);
        // Its writable layer may be large, and nobody else may come to clear it away for long; the same holds for
        // what killed ones left.
        self.host.sweep();
        if let Err(error) = self.session.store().tidy() {
            printer.warning(format!(
                "what the container left cannot be removed: {error}"
            ));
        }
        let exit = exit?;
        if exit.out_of_memory && !exit.success() {
            // Told apart from a kill by hand, which ends with the same code.
            let message = "the container used more memory than its limit";
            return Err(Failure::message(Class::User, message, None).with_code(exit.code()));
        }
        Ok(ExitCode::from(
            u8::try_from(exit.code() & 0xff).unwrap_or(u8::MAX),
        ))
    }
}

/// The config of the base, changed by what the step says of its process.
fn of_step(mut config: RunConfig, project: &Project, image: &Name, step: &Name) -> RunConfig {
    let steps = project.manifest.images.get(image).map(|image| &image.steps);
    let action = steps
        .and_then(|steps| steps.get(step))
        .map(|step| &step.action.value);
    // Steps run as root, whatever the image does.
    config.user = None;
    if let Some(Action::Run(run)) = action {
        config.env.extend(
            run.env
                .iter()
                .map(|(name, value)| format!("{}={value}", name.as_str())),
        );
        if let Some(user) = &run.user {
            config.user = Some(user.value.to_string());
        }
    }
    config
}

/// Keeps an image's layers in the store while it runs.
fn pin(image: &Image, session: &Session) -> Outcome {
    match image.pin(session)?.first() {
        Some(layer) => Err(kiln_image::ImageError::MissingLayer(*layer).into()),
        None => Ok(()),
    }
}

fn nothing_to_run() -> Failure {
    Failure::message(
        Class::User,
        "there is no kiln.toml here, so say which image to run",
        Some("these images are there: kiln images".to_owned()),
    )
}

/// Returns the values of the secrets that the service uses.
fn secrets(workspace: &Workspace, service: Option<&Service>) -> Outcome<BTreeMap<Name, Vec<u8>>> {
    let mut values = BTreeMap::new();
    for secret in service.iter().flat_map(|service| &service.secrets) {
        let name = &secret.secret.value;
        match workspace.secrets.get(name) {
            Some(SecretValue::Present(value)) => {
                values.insert(name.clone(), value.clone());
            }
            Some(SecretValue::Missing(looked)) => {
                return Err(Failure::message(
                    Class::User,
                    format!("the secret `{name}` is missing: {looked}"),
                    Some("provide it, or mark the secret `optional = true`".to_owned()),
                ));
            }
            Some(SecretValue::Absent) | None => {}
        }
    }
    Ok(values)
}

fn launch_failure(error: LaunchError) -> Failure {
    let code = error.exit_code();
    let class = if code == i32::from(OWN_FAILURE_OF_RUN) {
        Class::Environment
    } else {
        Class::User
    };
    Failure::message(class, error.to_string(), None).with_code(code)
}

fn stdio(wants_terminal: Option<bool>) -> Outcome<Stdio> {
    let size = window_size(io::stdin()).filter(|_| window_size(io::stdout()).is_some());
    match (wants_terminal, size) {
        (Some(true), None) => Err(Failure::message(
            Class::User,
            "standard input and output are no terminal, so there is none to pass on",
            Some("leave out --tty".to_owned()),
        )),
        (Some(true) | None, Some(size)) => Ok(Stdio::Terminal(size)),
        (Some(false), _) | (None, None) => Ok(Stdio::Inherit),
    }
}
