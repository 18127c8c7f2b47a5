//! What a manifest becomes: defaults, references, variables, profiles.

use std::fs;
use std::time::Duration;

use kiln_manifest::model::{
    Action, Base, Command, CopySource, MountSource, Network, ProducedBy, Run, SecretTarget,
    ServiceImage, Step, Target,
};
use kiln_manifest::{BuildManifest, Overrides, Problem};

use crate::manifests::{folder, parse, render};

fn everything() -> BuildManifest {
    let text = fs::read_to_string(folder("valid").join("everything.toml")).unwrap();
    parse(&text).unwrap()
}

fn step<'m>(manifest: &'m BuildManifest, name: &str) -> &'m Step {
    &manifest.images["app"].steps[name]
}

fn run<'m>(manifest: &'m BuildManifest, name: &str) -> &'m Run {
    let Action::Run(run) = &step(manifest, name).action.value else {
        panic!("`{name}` is not a run");
    };
    run
}

#[test]
fn a_run_has_all_it_says() {
    let manifest = everything();
    let run = run(&manifest, "script");
    assert_eq!(
        run.command.argv()[3],
        "make\ninstall -D everything /out/everything\n"
    );
    let files = run.files.as_ref().unwrap();
    assert_eq!(files.base.as_str(), "code");
    assert_eq!(files.include.len(), 2);
    assert_eq!(files.exclude[0].as_str(), "src/**/*.o");
    assert_eq!(run.env["GREETING"], "hello");
    assert_eq!(run.env["SHELL_VARIABLE"], "${HOME} ${arg.greeting}");
    assert!(run.network);
    assert!(run.ssh, "the profile sets `debug`, which `ssh` takes");
    assert_eq!(run.caches["objects"].as_str(), "/work/.obj");
    assert_eq!(run.limits.memory_bytes, Some(3 << 29));
    assert_eq!(run.limits.cpu_millis, Some(500));
    assert_eq!(run.timeout, Some(Duration::from_secs(5400)));
    let targets: Vec<&SecretTarget> = run.secrets.iter().map(|used| &used.target).collect();
    assert!(
        matches!(targets[0], SecretTarget::File(path) if path.as_str() == "/run/secrets/token")
    );
    assert!(matches!(targets[1], SecretTarget::Environment(name) if name.as_str() == "KEY"));
    assert!(matches!(targets[2], SecretTarget::File(path) if path.as_str() == "/root/.npmrc"));
}

#[test]
fn references_are_resolved() {
    let manifest = everything();
    let Action::Copy(entries) = &step(&manifest, "copied").action.value else {
        panic!("not a copy");
    };
    let from: Vec<String> = entries
        .iter()
        .map(|entry| match &entry.source {
            CopySource::Produced { from, .. } => match &from.value {
                ProducedBy::Image(image) => format!("image {image}"),
                ProducedBy::Step { image, step } => format!("step {image}.{step}"),
            },
            CopySource::Files(set) => format!("files of {}", set.base.value),
        })
        .collect();
    assert_eq!(
        from,
        [
            "image debian",
            "step app.script",
            "step app.made",
            "files of static"
        ]
    );
    assert!(entries[0].to.into_folder);
    assert!(!entries[1].to.into_folder);
    let default = manifest.project.default.unwrap().value;
    assert!(matches!(default, Target::Service(name) if name.as_str() == "web"));
}

#[test]
fn whoever_names_an_account_needs_its_step() {
    let manifest = everything();
    for name in [
        "script",
        "copied",
        "fetched",
        "checked-out",
        "written",
        "made",
    ] {
        let accounts: Vec<&str> = step(&manifest, name)
            .account_steps
            .iter()
            .map(|step| step.as_str())
            .collect();
        assert_eq!(accounts, ["accounted"], "{name}");
    }
    assert!(step(&manifest, "removed").account_steps.is_empty());
    let Action::Account(account) = &step(&manifest, "accounted").action.value else {
        panic!("not an account");
    };
    assert_eq!(
        (account.uid, account.gid),
        (10001, 10002),
        "the environment sets the uid"
    );
}

#[test]
fn profiles_replace_what_is_one_choice() {
    let manifest = everything();
    let web = &manifest.services["web"];
    assert_eq!(web.network, Some(Network::None));
    assert_eq!(web.mounts.len(), 4);
    let data = web
        .mounts
        .iter()
        .find(|(path, _)| path.as_str() == "/srv/data")
        .unwrap()
        .1;
    assert!(matches!(
        data.source,
        MountSource::Tmpfs {
            size_bytes: 1_000_000_000
        }
    ));

    let text = fs::read_to_string(folder("valid").join("everything.toml")).unwrap();
    let text = text.replace("#! profile ci", "#! profile other");
    let manifest = parse(&text).unwrap();
    let app = &manifest.images["app"];
    assert!(matches!(&app.from.value, Base::Registry(reference) if reference.tag() == Some("12")));
    assert_eq!(app.config.env["RUST_LOG"], "debug");
    let place = &text[app.from.span.start..app.from.span.end];
    assert_eq!(
        place, "{ registry = \"debian:12\" }",
        "the place is in the profile"
    );
}

#[test]
fn values_come_from_set_then_environment_then_default() {
    let text = "schema = 1\n[project]\nname = \"p\"\n[args]\nmy-port = \"1\"\n[image.app]\nfrom = \"scratch\"\n[image.app.step.a]\nrun = \"${arg.my-port}\"\n";
    let value = |overrides: &Overrides| {
        let manifest = BuildManifest::parse("kiln.toml", text, overrides).unwrap();
        assert!(manifest.warnings.is_empty());
        let command = run(&manifest, "a").command.clone();
        assert_eq!(
            command,
            Command::Script(manifest.args["my-port"].value.clone())
        );
        manifest.args["my-port"].value.clone()
    };
    let mut overrides = Overrides::default();
    assert_eq!(value(&overrides), "1");
    overrides
        .environment
        .insert("KILN_ARG_MY_PORT".to_owned(), "2".to_owned());
    assert_eq!(value(&overrides), "2");
    // What comes from outside is taken literally.
    overrides
        .set
        .insert("my-port".to_owned(), "${arg.my-port}".to_owned());
    assert_eq!(value(&overrides), "${arg.my-port}");
}

#[test]
fn a_service_takes_an_image_or_a_base() {
    let manifest = everything();
    assert!(
        matches!(&manifest.services["web"].image, ServiceImage::Image(name) if name.as_str() == "app")
    );
    assert!(
        matches!(&manifest.services["debian"].image, ServiceImage::From(base) if matches!(base.value, Base::Debian(_)))
    );
}

#[test]
fn substitution_is_bounded() {
    let mut overrides = Overrides::default();
    overrides.set.insert("a".to_owned(), "x".repeat(100_000));
    let text = format!(
        "schema = 1\n[project]\nname = \"p\"\n[args]\na = \"\"\n[image.app]\nfrom = \"scratch\"\n[image.app.step.a]\nrun = \"{}\"\n",
        "${arg.a}".repeat(400_000)
    );
    let errors = BuildManifest::parse("kiln.toml", &text, &overrides).unwrap_err();
    assert!(
        matches!(errors.problems.as_slice(), [Problem::InvalidValue { .. }]),
        "{}",
        render(&errors)
    );
}

#[test]
fn deep_nesting_is_refused() {
    for open in ["[", "{ a = "] {
        let text = format!("schema = {}", open.repeat(100_000));
        let errors = parse(&text).unwrap_err();
        assert!(
            errors
                .problems
                .iter()
                .any(|p| matches!(p, Problem::Syntax { .. }))
        );
    }
    let text = format!("[{}]\n", vec!["a"; 100_000].join("."));
    assert!(parse(&text).is_err());
}

#[test]
fn line_ends_and_a_byte_order_mark_are_taken() {
    let text = "\u{feff}schema = 1\r\n[project]\r\nname = \"é\"\r\n[image.app]\r\nfrom = \"scratch\"\r\n[image.app.step.a]\r\nrun = \"\"\"\r\na\r\nb\"\"\"\r\n";
    let errors = parse(text).unwrap_err();
    let shown = render(&errors);
    assert!(shown.contains("`é` is not a name"), "{shown}");
    assert!(shown.contains("kiln.toml:3:8"), "{shown}");
    assert_eq!(errors.problems.len(), 1, "{shown}");
    let manifest = parse(&text.replace('é', "e")).unwrap();
    // A carriage return would become part of the command.
    assert_eq!(
        run(&manifest, "a").command,
        Command::Script("a\nb".to_owned())
    );
}
