//! From a name to a running container: built if need be, started, followed.

mod container;
mod life;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use kiln_build::{SecretValue, StepState, Workspace};
use kiln_graph::{BuildGraph, BuildTarget};
use kiln_image::Image;
use kiln_manifest::model::{self, Action, Network, Service};
use kiln_manifest::value::Name;
use kiln_network::{Networks, NewNetwork, Outside};
use kiln_oci::{Descriptor, DiffId, Digest, Platform, RunConfig};
use kiln_runtime::{Overrides, Plan, PlannedNetwork, SecretSource};
use kiln_sandbox::{Host, Stdio, window_size};
use kiln_store::Session;

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::names;
use crate::networking::Reach;
use crate::platforms;
use crate::printer::Printer;
use crate::progress::Telling;
use crate::project::Project;
use crate::settings::Settings;
use crate::transfers::TransferArgs;
use crate::verbs::build::{self, BuildArgs};
use crate::workbench;
pub(crate) use container::Kept;
pub(crate) use life::Life;

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
    secrets: BTreeMap<String, Vec<u8>>,
    /// What listings call the image.
    image: String,
    /// Its manifest and id; none for a step.
    identity: Option<(Descriptor, Digest)>,
    platform: Platform,
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
        reach: Option<Reach>,
        how: &BuildArgs,
        settings: &Settings,
        printer: &mut Printer,
    ) -> Outcome<Self> {
        let platform = how.platforms.only()?;
        let project = Project::load_if_any_for(settings, platform.as_slice())?;
        let target = match (&project, name) {
            (Some(project), None) => Some(project.default_target()?),
            (Some(project), Some(name)) => project.target_called(name)?,
            (None, Some(_)) => None,
            (None, None) => return Err(nothing_to_run()),
        };
        match (project, target) {
            (Some(project), Some(target)) => {
                let platform = match platform {
                    Some(platform) => platform,
                    None => project.platform_to_run(&target)?,
                };
                Self::build(project, &target, platform, reach, how, settings, printer)
            }
            _ => Self::of_store(name, pulling, platform, reach, settings, printer),
        }
    }

    /// An image of the store as it is, or of a registry.
    fn of_store(
        name: Option<&str>,
        pulling: Pulling,
        platform: Option<Platform>,
        reach: Option<Reach>,
        settings: &Settings,
        printer: &mut Printer,
    ) -> Outcome<Self> {
        let (entered, outside) = workbench::enter_reaching(settings, reach.unwrap_or(Reach::None))?;
        let store = entered.session.store();
        let reference = match pulling {
            Pulling::Never => None,
            Pulling::Missing => local::missing(settings, store, name, platform.as_ref())?,
            Pulling::Always => name.and_then(|name| name.parse().ok()),
        };
        let image = match reference {
            Some(reference) => TransferArgs::default().pull(
                &reference,
                &platform.unwrap_or_else(Platform::host),
                settings,
                &entered,
                printer,
            )?,
            None => local::find(settings, store, name)?.load(store, platform.as_ref())?,
        };
        emulated(&entered.host, settings, &image.config.platform, || {
            name.map_or_else(|| "the image".to_owned(), |name| format!("`{name}`"))
        })?;
        pin(&image, &entered.session)?;
        Ok(Self {
            layers: image.diff_ids().to_vec(),
            identity: Some((image.descriptor.clone(), image.id().0)),
            platform: image.config.platform,
            config: image.config.config,
            session: entered.session,
            host: entered.host,
            outside,
            service: None,
            project: None,
            secrets: BTreeMap::new(),
            image: name.unwrap_or_default().to_owned(),
        })
    }

    /// A target of the manifest, built.
    fn build(
        project: Project,
        target: &BuildTarget,
        platform: Platform,
        reach: Option<Reach>,
        how: &BuildArgs,
        settings: &Settings,
        printer: &mut Printer,
    ) -> Outcome<Self> {
        let targets = std::slice::from_ref(target);
        let request = platforms::once(platform);
        let graph =
            BuildGraph::lower(&project.manifest, targets, &request).map_err(Failure::user)?;
        let wishes = how.wishes(settings)?;
        let reach = match reach {
            None => of_service(&project, target),
            Some(Reach::Users(name)) => {
                let of_service = of_service(&project, target);
                if of_service == Reach::None {
                    Reach::Of(name)
                } else {
                    of_service
                }
            }
            Some(reach) => reach,
        };
        let (entered, outside) = workbench::enter_reaching(settings, reach)?;
        // It will run something, whatever has to be built for it.
        for reached in graph.targets() {
            let platform = &reached.slot.platform;
            emulated(&entered.host, settings, platform, || format!("`{target}`"))?;
        }
        let workspace = workbench::workspace(settings, &project, entered, wishes)?;
        let telling = Telling::OnlyWork;
        let built = build::build_graph(how, settings, printer, &workspace, &graph, telling)?;
        let mut states = built.report.states.iter();
        if states.any(|(_, state)| *state == StepState::Built) {
            local::warn_of_one_owner(&workspace.host, printer);
        }
        let missing = || Failure::message(Class::Bug, "what was built is not there", None);
        let reached = graph.targets().first().ok_or_else(missing)?;
        let platform = reached.slot.platform.clone();
        let (layers, config, identity) = match target {
            BuildTarget::Step { image, step } => {
                let outputs = reached
                    .stack
                    .iter()
                    .filter_map(|node| built.report.outputs[*node].as_ref());
                let layers = outputs.clone().flat_map(|output| output.layers.clone());
                let config = outputs.clone().find_map(|output| output.config.clone());
                let config = config
                    .map(|config| config.config.clone())
                    .unwrap_or_default();
                (
                    layers.collect(),
                    of_step(config, &project, image, step),
                    None,
                )
            }
            BuildTarget::Image(_) | BuildTarget::Service(_) => {
                let image = reached.image.as_ref().and_then(|key| built.images.get(key));
                let image = image.ok_or_else(missing)?;
                pin(image, &workspace.session)?;
                let config = image.config.config.clone();
                let identity = (image.descriptor.clone(), image.id().0);
                (image.diff_ids().to_vec(), config, Some(identity))
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
            image: target.to_string(),
            identity,
            platform,
            project: Some(project),
            secrets,
        })
    }

    /// How the image wants to be run.
    pub(crate) fn config(&self) -> &RunConfig {
        &self.config
    }

    /// The name of the project, for notes.
    fn project_name(&self) -> String {
        let project = self.project.as_ref();
        project
            .map(|project| project.manifest.project.name.value.to_string())
            .unwrap_or_default()
    }

    /// What a container of it is to be.
    fn plan(&self, overrides: &Overrides) -> Outcome<Plan> {
        let project_name = self.project_name();
        let service = self
            .service
            .as_ref()
            .map(|service| (&*project_name, service));
        let user = |error| Failure::from_error(Class::User, error);
        let mut plan = Plan::new(&self.config, service, overrides).map_err(user)?;
        for target in plan.missing_volumes(&self.config).map_err(user)? {
            plan.add_own_volume(target, names::of_volume()?);
        }
        self.make_networks(&plan, &project_name)?;
        Ok(plan)
    }

    /// Says who names the user that the container runs as.
    fn whose_user(&self, overrides: &Overrides) -> String {
        let of_service = self.service.as_ref().filter(|it| it.user.is_some());
        match (&overrides.user, of_service) {
            (Some(_), _) => "`--user` says so: name one of these, or a number".to_owned(),
            (None, Some(service)) => format!(
                "`user` of the service `{}` says so: name one of these, or a number",
                service.name.value
            ),
            (None, None) => {
                "`user` in the image's config says so: correct it, or run it with --user".to_owned()
            }
        }
    }

    /// Makes those networks that the project declares and `plan` wants, unless they are there.
    fn make_networks(&self, plan: &Plan, project_name: &str) -> Outcome {
        let (PlannedNetwork::Bridges(wanted), Some(project)) = (&plan.network, &self.project)
        else {
            return Ok(());
        };
        let networks = Networks::open(self.session.store(), self.outside.clone())?;
        for declared in project.manifest.networks.values() {
            let new = NewNetwork {
                name: kiln_runtime::network_name(project_name, &declared.name.value),
                internal: declared.internal,
                ipv6: declared.ipv6,
                mtu: declared.mtu,
                labels: BTreeMap::from([("project".to_owned(), project_name.to_owned())]),
                ..NewNetwork::default()
            };
            if wanted.iter().any(|one| one.network == new.name) {
                networks.ensure(&new, self.session.now())?;
            }
        }
        Ok(())
    }

    /// Whether it wants a terminal, if somebody said so.
    pub(crate) fn wants_terminal(&self, wanted: Option<bool>) -> Option<bool> {
        wanted.or(self.service.as_ref().and_then(|service| service.tty))
    }

    /// Where the secrets of the manifest are read from when the container is started again.
    fn secret_sources(&self) -> BTreeMap<String, SecretSource> {
        let Some(project) = &self.project else {
            return BTreeMap::new();
        };
        let used = self.service.iter().flat_map(|service| &service.secrets);
        let declared = used.filter_map(|used| {
            let name = &used.secret.value;
            let secret = project.manifest.secrets.get(name)?;
            let source = match &secret.source {
                model::SecretSource::Environment(variable) => {
                    SecretSource::Environment(variable.value.clone())
                }
                model::SecretSource::File(path) => {
                    SecretSource::File(absolute(&project.folder).join(path.value.as_str()))
                }
            };
            Some((name.to_string(), source))
        });
        declared.collect()
    }
}

fn absolute(folder: &Path) -> PathBuf {
    std::path::absolute(folder).unwrap_or_else(|_no_working_folder| folder.to_owned())
}

/// A container's own code, as this process' own.
pub(crate) fn exit_code(code: i32, out_of_memory: bool) -> Outcome<ExitCode> {
    if out_of_memory && code != 0 {
        // Told apart from a kill by hand, which ends with the same code.
        let message = "the container used more memory than its limit";
        return Err(Failure::message(Class::User, message, None).with_code(code));
    }
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
}

/// What a service asks for of networks.
fn of_service(project: &Project, target: &BuildTarget) -> Reach {
    let service = match target {
        BuildTarget::Service(name) => project.manifest.services.get(name),
        BuildTarget::Image(_) | BuildTarget::Step { .. } => None,
    };
    match service {
        Some(service)
            if service.network == Some(Network::Bridge)
                || !(service.networks.is_empty() && service.ports.is_empty()) =>
        {
            Reach::Container
        }
        Some(_) | None => Reach::None,
    }
}

/// The config of the base, changed by what the step says of its process.
fn of_step(mut config: RunConfig, project: &Project, image: &Name, step: &Name) -> RunConfig {
    let steps = project.manifest.images.get(image).map(|image| &image.steps);
    let action = steps
        .and_then(|steps| steps.get(step))
        .map(|step| &step.action.value);
    // Steps run as root, whatever the image does, and what they change is of the image.
    config.user = None;
    config.volumes.clear();
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

/// Sees to it that a container's programs can run.
pub(crate) fn emulated(
    host: &Host,
    settings: &Settings,
    platform: &Platform,
    what: impl FnOnce() -> String,
) -> Outcome {
    let folders = settings.environment.folders();
    let prepared = kiln_build::emulate(host, &folders, platform, what);
    prepared.map_err(|error| Failure::environment(*error))
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
fn secrets(workspace: &Workspace, service: Option<&Service>) -> Outcome<BTreeMap<String, Vec<u8>>> {
    let mut values = BTreeMap::new();
    for secret in service.iter().flat_map(|service| &service.secrets) {
        let name = &secret.secret.value;
        match workspace.secrets.get(name) {
            Some(SecretValue::Present(value)) => {
                values.insert(name.to_string(), value.clone());
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

pub(crate) fn stdio(wants_terminal: Option<bool>) -> Outcome<Stdio> {
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
