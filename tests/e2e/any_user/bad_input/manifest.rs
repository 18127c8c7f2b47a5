//! Manifests that `kiln check` refuses.

use std::fs;
use std::os::unix::fs::symlink;

use super::{CHECK, Row, try_all};
use crate::space::TestSpace;

#[test]
fn what_is_not_a_manifest() {
    try_all(&[
        Row {
            name: "not TOML",
            manifest: "schema = 1\n[project\nname = \"x\"\n",
            says: &["kiln.toml:2", "not valid TOML"],
            ..CHECK
        },
        Row {
            name: "empty",
            manifest: "",
            says: &["schema"],
            ..CHECK
        },
        Row {
            name: "of a later schema",
            manifest: "schema = 99\n[project]\nname = \"x\"\n",
            says: &["99"],
            ..CHECK
        },
        Row {
            name: "a project name that is none",
            manifest: "schema = 1\n[project]\nname = \"No Name!\"\n",
            says: &["kiln.toml:3", "is not a name"],
            ..CHECK
        },
        Row {
            name: "a misspelt key",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrm = \"scratch\"\n",
            says: &["kiln.toml:5", "`frm`", "did you mean `from`?"],
            ..CHECK
        },
        Row {
            name: "a key of a later version",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"scratch\"\n[service.a]\nimage = \"a\"\nafter = { b = \"healthy\" }\n",
            says: &["kiln.toml:8", "after", "not supported yet"],
            ..CHECK
        },
        Row {
            name: "two mistakes are told at once",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrm = \"scratch\"\n[image.b]\nfrom = \"skratch\"\n",
            says: &["kiln.toml:5", "kiln.toml:7"],
            ..CHECK
        },
    ]);
}

#[test]
fn what_is_called_like_one_and_is_no_file() {
    let space = TestSpace::new();
    let path = space.project().join("kiln.toml");
    let check = || {
        for arguments in [&["check"][..], &["build", "-C", "."]] {
            let run = space.kiln(arguments);
            run.assert_code(1).assert_says("kiln.toml` is no file");
        }
    };
    fs::create_dir(&path).expect("a folder");
    check();
    fs::remove_dir(&path).expect("no folder");
    symlink("nowhere", &path).expect("a link");
    check();
}

#[test]
fn references_that_lead_nowhere_or_in_a_circle() {
    try_all(&[
        Row {
            name: "an unknown step",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"scratch\"\n[image.a.step.deps]\nrun = \"true\"\n[image.a.step.app]\nneeds = [\"dep\"]\nrun = \"true\"\n",
            says: &["kiln.toml:9", "`dep`", "did you mean `deps`?"],
            ..CHECK
        },
        Row {
            name: "steps that need each other",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"scratch\"\n[image.a.step.one]\nneeds = [\"two\"]\nrun = \"true\"\n[image.a.step.two]\nneeds = [\"one\"]\nrun = \"true\"\n",
            says: &["circle", "kiln.toml:7"],
            ..CHECK
        },
        Row {
            name: "circles beside other mistakes",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = { image = \"b\" }\n[image.a.step.one]\nneeds = [\"two\"]\nrun = \"true\"\ncolour = \"red\"\n[image.a.step.two]\nneeds = [\"one\"]\nrun = \"true\"\n[image.b]\nfrom = { image = \"a\" }\nlayers = 3\n",
            says: &[
                "the manifest has 2 errors, and references that lead in circles",
                "unknown key `colour`",
                "unknown key `layers`",
                "image `a` → image `b`",
                "`a.one` → `a.two`",
                "kiln.toml:7",
            ],
            ..CHECK
        },
        Row {
            name: "a circle through an account beside another mistake",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"skratch\"\n[image.a.step.user]\nneeds = [\"static\"]\naccount = { name = \"app\", uid = 1000 }\n[image.a.step.static]\ncopy = [{ files = [\"x\"], to = \"/srv\", owner = \"app\" }]\n",
            says: &[
                "kiln.toml:5",
                "references that lead in a circle",
                "`a.static` uses the account of `a.user`",
                "kiln.toml:7",
            ],
            ..CHECK
        },
        Row {
            name: "what stands twice beside another mistake",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"skratch\"\ntags = [\"r/t\"]\n[image.a.step.one]\naccount = { name = \"app\", uid = 1000 }\n[image.a.step.two]\naccount = { name = \"app\", uid = 1001 }\n[image.b]\nfrom = \"scratch\"\ntags = [\"r/t\"]\n",
            says: &[
                "kiln.toml:5",
                "`app` is given twice in `account`",
                "is given twice in `tags`",
            ],
            ..CHECK
        },
        Row {
            name: "the name of another image as a tag",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"scratch\"\ntags = [\"localhost/x/b\"]\n[image.b]\nfrom = \"scratch\"\n",
            says: &["kiln.toml:6", "the name that the image `b` has by itself"],
            ..CHECK
        },
        Row {
            name: "images that start from each other",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = { image = \"b\" }\n[image.b]\nfrom = { image = \"a\" }\n",
            says: &["circle"],
            ..CHECK
        },
        Row {
            name: "an undeclared cache",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"scratch\"\n[image.a.step.s]\nrun = \"true\"\ncaches = { objects = \"/o\" }\n",
            says: &["kiln.toml:8", "`objects`", "[cache.objects]"],
            ..CHECK
        },
        Row {
            name: "an undeclared argument",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"scratch\"\n[image.a.config]\nenv = { PORT = \"${arg.port}\" }\n",
            says: &["kiln.toml:7", "port"],
            ..CHECK
        },
    ]);
}

#[test]
fn paths_that_leave_the_project() {
    try_all(&[
        Row {
            name: "files above",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"scratch\"\n[image.a.step.s]\ncopy = [{ files = [\"../**\"], to = \"/\" }]\n",
            says: &["kiln.toml:7", "../**"],
            ..CHECK
        },
        Row {
            name: "an absolute base",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"scratch\"\n[image.a.step.s]\ncopy = [{ files = [\"**\"], base = \"/etc\", to = \"/\" }]\n",
            says: &["kiln.toml:7", "/etc"],
            ..CHECK
        },
        Row {
            name: "a bind mount above",
            manifest: "schema = 1\n[project]\nname = \"x\"\n[image.a]\nfrom = \"scratch\"\n[service.a]\nimage = \"a\"\nmounts = { \"/x\" = { bind = \"../secrets\" } }\n",
            says: &["kiln.toml:8", "../secrets"],
            ..CHECK
        },
    ]);
}

#[test]
fn names_typed_wrong() {
    const MANIFEST: &str = "schema = 1\n[project]\nname = \"x\"\n[image.server]\nfrom = \"scratch\"\n[image.server.step.one]\nwrite = { \"/a\" = \"a\" }\n";
    try_all(&[
        Row {
            name: "a misspelt image",
            manifest: MANIFEST,
            arguments: &["inspect", "sever"],
            says: &["did you mean `server`?"],
            ..CHECK
        },
        Row {
            name: "a misspelt step",
            manifest: MANIFEST,
            arguments: &["log", "server.on"],
            says: &["did you mean `server.one`?"],
            ..CHECK
        },
        Row {
            name: "an argument that is not declared",
            manifest: MANIFEST,
            arguments: &["check", "--set", "port=1"],
            says: &["port"],
            ..CHECK
        },
        Row {
            name: "a profile that is not there",
            manifest: MANIFEST,
            arguments: &["check", "--profile", "ci"],
            says: &["ci"],
            ..CHECK
        },
        Row {
            name: "a folder without a manifest",
            manifest: MANIFEST,
            arguments: &["check", "-C", "/"],
            says: &["there is no `kiln.toml` in `/`", "kiln init"],
            ..CHECK
        },
    ]);
}
