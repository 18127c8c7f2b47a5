use std::time::Duration;

use kiln_manifest::model::{
    Account, Action, Command, Copy, CopySource, Destination, Folder, Limits, Link, Run,
    SecretTarget, SecretUse, TextFile,
};
use kiln_manifest::value::{EnvName, Glob, Mode, ProjectPath, UserSpec};
use proptest::prelude::*;

use super::*;
use crate::explain::first_difference;
use crate::testing::{empty_run, name, path, produced, spanned, step_of};
use crate::tree::ContentDigest;

/// Answers from fixed values; a set of files is told apart by its base.
#[derive(Clone, Debug)]
struct Answers {
    environment: BTreeMap<String, String>,
    version: String,
    sha256: Digest,
    commit: String,
    read_layers: Vec<DiffId>,
}

impl Answers {
    fn new() -> Self {
        Self {
            environment: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
            version: "1".to_owned(),
            sha256: Digest::of(b"1"),
            commit: "c0ffee".to_owned(),
            read_layers: vec![layer("1"), layer("2")],
        }
    }
}

impl Resolver for Answers {
    type Error = std::convert::Infallible;

    fn files(&mut self, files: &FileSet) -> Result<TreeDigest, Self::Error> {
        Ok(TreeDigest::of(files.base.value.as_str().as_bytes()))
    }

    fn produced(&mut self, _: &ProducedBy) -> Result<Vec<DiffId>, Self::Error> {
        Ok(self.read_layers.clone())
    }

    fn packages(&mut self, packages: &[String]) -> Result<Vec<PackagePin>, Self::Error> {
        let pin = |package: &String| PackagePin {
            name: package.clone(),
            version: self.version.clone(),
            architecture: "amd64".to_owned(),
            sha256: self.sha256,
        };
        Ok(packages.iter().map(pin).collect())
    }

    fn download(&mut self, _: &Fetch) -> Result<Digest, Self::Error> {
        Ok(self.sha256)
    }

    fn commit(&mut self, _: &Git) -> Result<String, Self::Error> {
        Ok(self.commit.clone())
    }

    fn environment(&mut self) -> Result<BTreeMap<String, String>, Self::Error> {
        Ok(self.environment.clone())
    }
}

fn layer(text: &str) -> DiffId {
    DiffId(Digest::of(text.as_bytes()))
}

fn build() -> BuildInputs {
    BuildInputs {
        epoch_seconds: 315_532_800,
        layer_format: 1,
    }
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", None)
}

fn files(base: &str) -> FileSet {
    FileSet {
        base: spanned(ProjectPath::parse(base).unwrap()),
        include: vec![spanned(Glob::parse("**").unwrap())],
        exclude: Vec::new(),
    }
}

fn inputs_of(action: Action) -> StepInputs {
    let layers = vec![layer("base"), layer("below")];
    StepInputs::of_step(
        &build(),
        &amd64(),
        layers,
        &step_of(action),
        &mut Answers::new(),
    )
    .unwrap()
}

fn full_run() -> Run {
    Run {
        command: Command::Script("make".to_owned()),
        files: Some(files("src")),
        workdir: Some(spanned(path("/work"))),
        env: BTreeMap::from([(EnvName::parse("A").unwrap(), "1".to_owned())]),
        user: Some(spanned(UserSpec::parse("app").unwrap())),
        network: false,
        caches: BTreeMap::from([(name("objects"), spanned(path("/work/.obj")))]),
        secrets: vec![SecretUse {
            secret: spanned(name("token")),
            target: SecretTarget::File(path("/run/secrets/token")),
        }],
        ssh: false,
        limits: Limits::default(),
        timeout: None,
    }
}

fn run_inputs(change: impl FnOnce(&mut Run)) -> StepInputs {
    let mut run = full_run();
    change(&mut run);
    inputs_of(Action::Run(Box::new(run)))
}

/// Layers of before accounts had a line in `/etc/shadow` were stored under a key without this field.
#[test]
fn what_an_account_writes_is_part_of_its_key() {
    let account = Account {
        name: spanned("web".to_owned()),
        uid: 1,
        gid: 1,
        home: path("/"),
        shell: path("/"),
        groups: Vec::new(),
    };
    let text = inputs_of(Action::Account(account)).text();
    assert!(
        text.contains("action = account\ndatabases = 2\nname = web\n"),
        "{text}"
    );
}

/// The files of a step were root's whoever its user was, and results stored under a key without this field.
#[test]
fn whose_the_files_are_is_part_of_a_users_key() {
    let owned = |user: Option<&str>| {
        let user = user.map(|user| spanned(UserSpec::parse(user).unwrap()));
        let text = run_inputs(|run| run.user = user).text();
        text.contains("files-owner = user\n")
    };
    assert!(owned(Some("app")));
    assert!(
        !owned(Some("0:0")) && !owned(None),
        "nothing changed for root"
    );
}

#[test]
fn the_format_is_pinned() {
    let inputs = run_inputs(|_| {});
    let expected = format!(
        "format = 1
layer-format = 1
platform = linux/amd64
epoch = 315532800
action = run
argv 0 = /bin/sh
argv 1 = -e
argv 2 = -c
argv 3 = make
env A = 1
env PATH = /bin
user = app
workdir = /work
network = no
ssh = no
cache objects = /work/.obj
secret token = file /run/secrets/token
files = {}
files-owner = user
layer 0 = {}
layer 1 = {}
",
        TreeDigest::of(b"src"),
        layer("base"),
        layer("below"),
    );
    assert_eq!(inputs.text(), expected);
    let pinned = "778a2619eb6aec1c17858963d4e70fe8ee1241bef5f46ee8e65ab5f338494457";
    assert_eq!(
        inputs.key().hex(),
        pinned,
        "a changed key is a break of the format"
    );
}

#[test]
fn each_input_of_a_run_is_in_the_key_and_is_explained() {
    let base = run_inputs(|_| {});
    let environment = |name: &str| EnvName::parse(name).unwrap();
    let cases: Vec<(StepInputs, &str)> = vec![
        (
            run_inputs(|run| run.command = Command::Script("make all".to_owned())),
            "line 1 of the script changed from `make` to `make all`",
        ),
        (
            run_inputs(|run| run.command = Command::Arguments(vec!["make".to_owned()])),
            "argument `0` changed from `/bin/sh` to `make`",
        ),
        (
            run_inputs(|run| drop(run.env.insert(environment("A"), "2".to_owned()))),
            "environment variable `A` changed from `1` to `2`",
        ),
        (
            run_inputs(|run| drop(run.env.insert(environment("B"), "2".to_owned()))),
            "environment variable `B` was added: `2`",
        ),
        (
            run_inputs(|run| run.env.clear()),
            "environment variable `A` was removed; it was `1`",
        ),
        (
            run_inputs(|run| run.user = None),
            "user changed from `app` to `0:0`",
        ),
        (
            run_inputs(|run| run.workdir = None),
            "workdir changed from `/work` to `/`",
        ),
        (
            run_inputs(|run| run.network = true),
            "access to the network changed from `no` to `yes`",
        ),
        (
            run_inputs(|run| run.ssh = true),
            "access to the ssh agent changed from `no` to `yes`",
        ),
        (
            run_inputs(|run| run.caches.clear()),
            "cache `objects` was removed; it was `/work/.obj`",
        ),
        (
            run_inputs(|run| run.secrets.clear()),
            "secret `token` was removed; it was `file /run/secrets/token`",
        ),
        (
            run_inputs(|run| {
                run.secrets[0].target = SecretTarget::Environment(environment("TOKEN"));
            }),
            "secret `token` changed from `file /run/secrets/token` to `variable TOKEN`",
        ),
        (
            run_inputs(|run| run.files = Some(files("other"))),
            "the project files of the step changed",
        ),
        (
            run_inputs(|run| run.files = None),
            "the project files of the step was removed",
        ),
    ];
    for (changed, expected) in cases {
        assert_ne!(changed.key(), base.key(), "{expected}");
        let shown = first_difference(&base.text(), &changed.text())
            .unwrap()
            .to_string();
        assert!(shown.starts_with(expected), "{shown}\nis not\n{expected}");
    }
}

#[test]
fn what_a_build_and_the_layers_below_are_is_in_the_key() {
    let step = step_of(Action::Run(Box::new(empty_run())));
    let inputs = |build: &BuildInputs, layers: &[&str]| {
        let layers = layers.iter().map(|text| layer(text)).collect();
        StepInputs::of_step(build, &amd64(), layers, &step, &mut Answers::new()).unwrap()
    };
    let arm64 = Platform::new("linux", "arm64", None);
    let on_arm64 = {
        let layers = ["a", "b"].map(layer).to_vec();
        StepInputs::of_step(&build(), &arm64, layers, &step, &mut Answers::new()).unwrap()
    };
    let base = inputs(&build(), &["a", "b"]);
    let others = [
        inputs(&build(), &["b", "a"]),
        inputs(&build(), &["a"]),
        inputs(&build(), &["a", "b", "b"]),
        inputs(
            &BuildInputs {
                epoch_seconds: 0,
                ..build()
            },
            &["a", "b"],
        ),
        inputs(
            &BuildInputs {
                layer_format: 2,
                ..build()
            },
            &["a", "b"],
        ),
        on_arm64,
    ];
    for other in others {
        assert_ne!(other.key(), base.key(), "{}", other.text());
    }
    let swapped = inputs(&build(), &["a", "c"]);
    let difference = first_difference(&base.text(), &swapped.text()).unwrap();
    assert_eq!(difference.layer(), Some(1));
}

#[test]
fn what_cannot_change_the_result_is_not_in_the_key() {
    let base = run_inputs(|_| {});
    let limited = run_inputs(|run| {
        run.limits = Limits {
            memory_bytes: Some(1 << 20),
            cpu_millis: Some(500),
            pids: Some(10),
        };
        run.timeout = Some(Duration::from_secs(1));
    });
    assert_eq!(limited.key(), base.key());
    let patterns = run_inputs(|run| {
        let files = run.files.as_mut().unwrap();
        files.include = vec![spanned(Glob::parse("*/**").unwrap())];
        files.exclude = vec![spanned(Glob::parse("nothing").unwrap())];
    });
    assert_eq!(patterns.key(), base.key());
    let mut renamed = step_of(Action::Run(Box::new(full_run())));
    renamed.name = spanned(name("another"));
    renamed.needs = vec![spanned(name("whatever"))];
    let layers = vec![layer("base"), layer("below")];
    let renamed =
        StepInputs::of_step(&build(), &amd64(), layers, &renamed, &mut Answers::new()).unwrap();
    assert_eq!(renamed.key(), base.key());
}

fn fetch(url: &str, to: &str, into_folder: bool) -> Fetch {
    Fetch {
        url: spanned(url.to_owned()),
        to: spanned(Destination {
            path: path(to),
            into_folder,
        }),
        unpack: false,
        strip: 0,
        sha256: None,
        mode: None,
        owner: None,
    }
}

#[test]
fn pins_decide_and_addresses_do_not() {
    let inputs = |fetch: Fetch, answers: &mut Answers| {
        StepInputs::of_step(
            &build(),
            &amd64(),
            Vec::new(),
            &step_of(Action::Fetch(fetch)),
            answers,
        )
        .unwrap()
    };
    let mut answers = Answers::new();
    let base = inputs(
        fetch("https://one.example/a", "/srv/x", false),
        &mut answers,
    );
    let moved = inputs(
        fetch("https://other.example/b", "/srv/x", false),
        &mut answers,
    );
    assert_eq!(base.key(), moved.key());
    let base = inputs(
        fetch("https://one.example/a?x", "/srv/", true),
        &mut answers,
    );
    let moved = inputs(
        fetch("https://other.example/b/a#y", "/srv/", true),
        &mut answers,
    );
    let renamed = inputs(fetch("https://one.example/b", "/srv/", true), &mut answers);
    assert_eq!(base.key(), moved.key());
    assert_ne!(base.key(), renamed.key());
    answers.sha256 = Digest::of(b"2");
    let other = inputs(
        fetch("https://one.example/a?x", "/srv/", true),
        &mut answers,
    );
    let difference = first_difference(&base.text(), &other.text()).unwrap();
    assert!(
        difference
            .to_string()
            .starts_with("the locked sha256 changed from"),
        "{difference}"
    );
}

#[test]
fn packages_are_in_the_key_by_what_the_lock_says() {
    let inputs = |packages: &[&str], answers: &mut Answers| {
        let packages = packages
            .iter()
            .map(|name| spanned((*name).to_owned()))
            .collect();
        let step = step_of(Action::Packages(packages));
        StepInputs::of_step(&build(), &amd64(), Vec::new(), &step, answers).unwrap()
    };
    let mut answers = Answers::new();
    let base = inputs(&["curl", "gcc"], &mut answers);
    assert_eq!(base.key(), inputs(&["gcc", "curl"], &mut answers).key());
    answers.version = "2".to_owned();
    let difference =
        first_difference(&base.text(), &inputs(&["curl", "gcc"], &mut answers).text()).unwrap();
    let shown = difference.to_string();
    assert!(
        shown.starts_with("locked package `curl:amd64` changed from `1 sha256:"),
        "{shown}"
    );
}

#[test]
fn file_names_come_from_the_path_of_a_url() {
    let cases = [
        ("https://example.com/a/b.tar.gz", "b.tar.gz"),
        ("https://example.com/a/b.tar.gz?token=/x", "b.tar.gz"),
        ("https://example.com/a/#b", "a"),
        ("https://example.com", "download"),
        ("https://example.com/", "download"),
        ("https://example.com/..", "download"),
    ];
    for (url, name) in cases {
        assert_eq!(url_file_name(url), name, "{url}");
    }
}

/// Small domains, so that equal inputs come up often.
fn steps() -> impl Strategy<Value = (Action, Vec<DiffId>)> {
    let word = || prop::sample::select(vec!["", "a", "b", "a b", "a\n", "=", "0"]);
    let words = move || prop::collection::vec(word(), 1..3);
    let somewhere = || prop::sample::select(vec!["/", "/a", "/b"]).prop_map(path);
    let mode = || prop::option::of(prop::sample::select(vec!["0755", "0644"]));
    let mode = move || mode().prop_map(|mode| mode.map(|mode| Mode::parse(mode).unwrap()));
    let owner = || prop::option::of(prop::sample::select(vec!["a", "b"]));
    let owner = move || {
        owner().prop_map(|owner| owner.map(|owner| spanned(UserSpec::parse(owner).unwrap())))
    };
    let run = (
        words(),
        prop::option::of(somewhere()),
        owner(),
        word(),
        any::<(bool, bool, bool)>(),
    )
        .prop_map(|(words, workdir, user, value, (network, ssh, has_files))| {
            let mut run = empty_run();
            run.command = Command::Arguments(words.iter().map(|word| (*word).to_owned()).collect());
            run.workdir = workdir.map(spanned);
            run.user = user;
            run.env
                .insert(EnvName::parse("A").unwrap(), value.to_owned());
            (run.network, run.ssh) = (network, ssh);
            run.files = has_files.then(|| files("src"));
            Action::Run(Box::new(run))
        });
    let source = prop_oneof![
        prop::sample::select(vec!["a", "b"]).prop_map(|base| CopySource::Files(files(base))),
        somewhere().prop_map(|at| CopySource::Produced {
            from: spanned(produced("i")),
            path: spanned(at)
        }),
    ];
    let copy = (source, somewhere(), any::<bool>(), mode(), owner()).prop_map(
        |(source, to, into_folder, mode, owner)| Copy {
            span: Default::default(),
            source,
            to: spanned(Destination {
                path: to,
                into_folder,
            }),
            mode,
            owner,
        },
    );
    let write = (somewhere(), word(), mode(), owner()).prop_map(|(path, text, mode, owner)| {
        (
            path,
            TextFile {
                span: Default::default(),
                text: text.to_owned(),
                mode,
                owner,
            },
        )
    });
    let folder = (somewhere(), mode(), owner()).prop_map(|(path, mode, owner)| Folder {
        path: spanned(path),
        mode,
        owner,
    });
    let link = (somewhere(), word()).prop_map(|(path, target)| {
        (
            path,
            Link {
                span: Default::default(),
                target: target.to_owned(),
            },
        )
    });
    let action = prop_oneof![
        run,
        prop::collection::vec(copy, 0..3).prop_map(Action::Copy),
        prop::collection::vec(write, 0..3)
            .prop_map(|files| Action::Write(files.into_iter().collect())),
        prop::collection::vec(folder, 0..3).prop_map(Action::Mkdir),
        prop::collection::vec(link, 0..3)
            .prop_map(|links| Action::Link(links.into_iter().collect())),
        prop::collection::vec(somewhere().prop_map(spanned), 0..3).prop_map(Action::Remove),
    ];
    let layers = prop::sample::select(vec![vec![], vec!["1"], vec!["2"], vec!["1", "2"]]);
    (
        action,
        layers.prop_map(|layers| layers.into_iter().map(layer).collect()),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn keys_are_equal_exactly_when_there_is_no_explanation(one in steps(), other in steps()) {
        let inputs = |(action, layers): (Action, Vec<DiffId>)| {
            StepInputs::of_step(&build(), &amd64(), layers, &step_of(action), &mut Answers::new()).unwrap()
        };
        let (one, other) = (inputs(one), inputs(other));
        let difference = first_difference(&one.text(), &other.text());
        prop_assert_eq!(one.key() == other.key(), difference.is_none());
        prop_assert_eq!(one == other, difference.is_none());
        if let Some(difference) = difference {
            prop_assert!(difference.old != difference.new);
        }
    }
}

#[test]
fn bases_are_told_apart() {
    let base = |base| StepInputs::of_base(&build(), &amd64(), base).key();
    let keys = [
        base(BaseInputs::Image {
            manifest: Digest::of(b"1"),
        }),
        base(BaseInputs::Image {
            manifest: Digest::of(b"2"),
        }),
        base(BaseInputs::Rootfs {
            content: ContentDigest::of(b"1"),
        }),
        base(BaseInputs::Rootfs {
            content: ContentDigest::of(b"2"),
        }),
    ];
    let distinct: std::collections::BTreeSet<CacheKey> = keys.into_iter().collect();
    assert_eq!(distinct.len(), keys.len());
}
