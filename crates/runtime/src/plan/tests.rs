use kiln_store::ContainerId;

use super::*;

fn image() -> RunConfig {
    RunConfig {
        entrypoint: vec!["/app".to_owned()],
        cmd: vec!["--serve".to_owned()],
        env: ["A=image", "B=image", "HOST_SECRET"]
            .map(String::from)
            .to_vec(),
        user: Some("app".to_owned()),
        working_dir: Some("/srv".to_owned()),
        ..RunConfig::default()
    }
}

fn plan(service: &str, overrides: &Overrides) -> Result<Plan, PlanError> {
    let text = format!(
        "schema = 1\n[project]\nname = \"p\"\n[volume.data]\n[image.app]\nfrom = \"scratch\"\n\
         [service.web]\nimage = \"app\"\n{service}"
    );
    let manifest = kiln_manifest::BuildManifest::parse("kiln.toml", &text, &Default::default())
        .unwrap_or_else(|errors| panic!("{errors:?}"));
    let service = manifest.services.values().next().unwrap();
    Plan::new(&image(), Some(("p", service)), overrides)
}

fn command(words: &[&str]) -> Overrides {
    Overrides {
        command: words.iter().map(|&word| word.to_owned()).collect(),
        ..Overrides::default()
    }
}

#[test]
fn a_program_is_put_together_as_docker_does() {
    let argv = |service: &str, overrides: &Overrides| plan(service, overrides).unwrap().argv;
    assert_eq!(argv("", &Overrides::default()), ["/app", "--serve"]);
    assert_eq!(argv("", &command(&["x"])), ["/app", "x"]);
    assert_eq!(
        argv("run = [\"y\", \"z\"]", &Overrides::default()),
        ["y", "z"]
    );
    assert_eq!(argv("run = [\"y\", \"z\"]", &command(&["x"])), ["x"]);
    let mut overrides = command(&["x"]);
    overrides.entrypoint = Some(vec!["/bin/sh".to_owned()]);
    assert_eq!(argv("", &overrides), ["/bin/sh", "x"]);
    let none = Plan::new(&RunConfig::default(), None, &Overrides::default());
    assert_eq!(none, Err(PlanError::NoCommand));
}

#[test]
fn the_environment_is_the_images_the_services_and_the_users_and_never_the_hosts() {
    let mut overrides = Overrides::default();
    overrides.env.insert("C".to_owned(), "user".to_owned());
    let plan = plan("env = { B = \"service\", C = \"service\" }", &overrides).unwrap();
    let env: Vec<String> = plan
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let path = format!("PATH={}", kiln_sandbox::DEFAULT_PATH);
    assert_eq!(env, ["A=image", "B=service", "C=user", &path]);
}

#[test]
fn the_command_line_wins_over_the_service_and_the_service_over_the_image() {
    let from_image = plan("", &Overrides::default()).unwrap();
    assert_eq!((&*from_image.user, &*from_image.workdir), ("app", "/srv"));
    assert_eq!(from_image.hostname.as_deref(), Some("web"));
    let service = "user = \"0\"\nworkdir = \"/w\"\nread-only = true\nlimits = { memory = \"1MB\" }\n\
                   mounts = { \"/d\" = { volume = \"data\" }, \"/t\" = { tmpfs = \"1MB\" } }";
    let of_service = plan(service, &Overrides::default()).unwrap();
    assert_eq!((&*of_service.user, &*of_service.workdir), ("0", "/w"));
    assert!(of_service.read_only && of_service.limits.memory_bytes == Some(1_000_000));
    let volume = kiln_store::Name::new("p.data").unwrap();
    assert_eq!(
        of_service.mounts["/d"].source,
        PlannedSource::Volume(volume)
    );
    let overrides = Overrides {
        user: Some("2".to_owned()),
        workdir: Some("/x".to_owned()),
        read_only: Some(false),
        limits: PlannedLimits {
            memory_bytes: Some(5),
            ..PlannedLimits::default()
        },
        network: Some(PlannedNetwork::Host),
        ..Overrides::default()
    };
    let plan = plan(service, &overrides).unwrap();
    assert_eq!((&*plan.user, &*plan.workdir), ("2", "/x"));
    assert!(!plan.read_only && plan.limits.memory_bytes == Some(5));
    assert_eq!(plan.network, PlannedNetwork::Host);
}

#[test]
fn networks_and_ports_are_the_services_unless_the_command_line_says_otherwise() {
    let bridges = |plan: &Plan| match &plan.network {
        PlannedNetwork::Bridges(memberships) => memberships
            .iter()
            .map(|one| one.network.clone())
            .collect::<Vec<_>>(),
        other @ (PlannedNetwork::None | PlannedNetwork::Host | PlannedNetwork::Container(_)) => {
            panic!("{other:?}")
        }
    };
    let none = Overrides::default();
    assert_eq!(plan("", &none).unwrap().network, PlannedNetwork::None);
    let ports = "ports = [{ host = 8080, container = 80 }, { container = 53, protocol = \"udp\" }]";
    let with_ports = plan(ports, &none).unwrap();
    assert_eq!(bridges(&with_ports), ["bridge"]);
    assert_eq!(with_ports.ports.len(), 2);
    let service = format!("networks = [\"back\"]\n{ports}\n[network.back]");
    assert_eq!(bridges(&plan(&service, &none).unwrap()), ["p.back"]);
    let mut overrides = Overrides::default();
    overrides.ports.push(Publish::parse("9090:80").unwrap());
    let replaced = plan(&service, &overrides).unwrap().ports;
    let hosts: Vec<_> = replaced.iter().map(|port| port.host).collect();
    assert_eq!(hosts, [None, Some((9090, 9090))]);
    overrides.network = Some(PlannedNetwork::Host);
    assert_eq!(plan("", &overrides), Err(PlanError::Ports("host")));
    overrides.ports.clear();
    let other = ContainerId::parse(&"0".repeat(64)).unwrap();
    for network in [PlannedNetwork::Host, PlannedNetwork::Container(other)] {
        overrides.network = Some(network);
        for (name, is_refused) in [("kernel.sem", false), ("net.ipv4.ip_forward", true)] {
            overrides.sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
            let refused = matches!(plan("", &overrides), Err(PlanError::Sysctl { .. }));
            assert_eq!(refused, is_refused);
        }
    }
}

#[test]
fn an_images_volumes_are_those_that_nothing_is_mounted_at() {
    let missing = |places: &[&str]| {
        let mut config = image();
        let places = places
            .iter()
            .map(|&place| (place.to_owned(), kiln_oci::Empty {}));
        config.volumes = places.collect();
        let mut overrides = Overrides::default();
        let memory = PlannedMount {
            source: PlannedSource::Tmpfs(PlannedTmpfs::default()),
            read_only: false,
            stays_empty: false,
        };
        overrides.mounts.insert("/cache/".to_owned(), memory);
        let plan = Plan::new(&config, None, &overrides).unwrap();
        plan.missing_volumes(&config)
    };
    let both = missing(&["/data", "/data/", "/a//./b", "/cache"]);
    assert_eq!(both, Ok(vec!["/a/b".to_owned(), "/data".to_owned()]));
    for place in ["", "data", "/", "/a/../b", "/a\0b"] {
        let refused = Err(PlanError::VolumePlace(place.to_owned()));
        assert_eq!(missing(&[place]), refused);
    }
    let mut plan = plan("", &Overrides::default()).unwrap();
    let name = kiln_store::Name::new("own").unwrap();
    plan.add_own_volume("/data".to_owned(), name.clone());
    assert_eq!(plan.own_volumes, std::slice::from_ref(&name));
    assert_eq!(plan.mounts["/data"].source, PlannedSource::Volume(name));
}

#[test]
fn an_images_nonsense_is_an_error() {
    let config = |change: fn(&mut RunConfig)| {
        let mut config = image();
        change(&mut config);
        Plan::new(&config, None, &Overrides::default()).unwrap_err()
    };
    let workdir = config(|config| config.working_dir = Some("proc/self".to_owned()));
    assert_eq!(workdir, PlanError::Workdir("proc/self".to_owned()));
    let signal = config(|config| config.stop_signal = Some("SIGNOPE".to_owned()));
    assert_eq!(signal, PlanError::StopSignal("SIGNOPE".to_owned()));
}
