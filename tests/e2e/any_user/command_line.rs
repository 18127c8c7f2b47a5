//! What the command line says before anything is built.

use std::fs;

use expect_test::expect;

use crate::fixtures::write_busybox_rootfs;
use crate::space::TestSpace;

#[test]
fn version_is_data_on_standard_output() {
    let space = TestSpace::new();
    let run = space.kiln_ok(["version"]);
    assert_eq!(
        run.stdout,
        concat!("kiln ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(run.stderr, "");
}

#[test]
fn a_misspelt_verb_is_a_usage_error_that_suggests() {
    let space = TestSpace::new();
    let run = space.kiln(["verison"]);
    run.assert_code(2).assert_says("version");
    assert_eq!(run.stdout, "");
}

#[test]
fn every_verb_has_help_with_a_short_first_line() {
    let space = TestSpace::new();
    let overview = space.kiln_ok(["--help"]).stdout;
    let verbs: Vec<&str> = overview
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.len() > 2, "{overview}");
    for verb in verbs {
        let help = space.kiln_ok([verb, "--help"]).stdout;
        let first = help.lines().next().unwrap_or_default();
        assert!(
            !first.is_empty() && first.len() < 80 && !first.ends_with('.'),
            "{verb}: {first}"
        );
    }
}

#[test]
fn init_writes_a_manifest_and_never_a_second_time() {
    let space = TestSpace::new();
    space.kiln_ok(["init"]).assert_says("next: kiln run");
    let elsewhere = space.path().join("tmp");
    space
        .kiln_ok(["init".as_ref(), "-C".as_ref(), elsewhere.as_os_str()])
        .assert_says("next: kiln run -C [SPACE]/tmp");
    let manifest = space.project().join("kiln.toml");
    fs::write(&manifest, "# mine\n").expect("written");
    let again = space.kiln(["init"]);
    expect![[r#"
        exit code: 1
        --- stdout
        --- stderr
          × `[SPACE]/project/kiln.toml` exists
          help: it is left as it is; `kiln check` reads it
    "#]]
    .assert_eq(&again.shown());
    assert_eq!(
        fs::read_to_string(&manifest).expect("still there"),
        "# mine\n"
    );
}

#[test]
fn what_init_says_of_editors_is_true() {
    let space = TestSpace::new();
    space.kiln_ok(["init"]);
    let written = fs::read_to_string(space.project().join("kiln.toml")).expect("just written");
    assert!(
        written.contains("`kiln schema > kiln.schema.json`"),
        "{written}"
    );
    let line = written
        .split('`')
        .find(|part| part.starts_with("#:schema "));
    let line = line.expect("a line for editors");
    let schema = line.strip_prefix("#:schema ./").expect("a path beside it");
    assert_eq!(schema, "kiln.schema.json");
    space.write("kiln.toml", format!("{line}\n{written}"));
    space.write(schema, space.kiln_ok(["schema"]).stdout);
    space.kiln_ok(["check"]);
}

#[test]
fn what_init_writes_fits_the_smallest_project_of_each_kind() {
    let projects = [
        ("go", ["go.mod", "main.go"], "toolchain.compile"),
        ("python", ["requirements.txt", "main.py"], "app.program"),
        ("python", ["setup.py", "app.py"], "app.program"),
        ("node", ["package.json", "index.js"], "app.program"),
    ];
    for (kind, files, step) in projects {
        let space = TestSpace::new();
        for path in files {
            space.write(path, "{}\n");
        }
        space.kiln_ok(["init"]);
        space.kiln_ok(["check"]);
        // The same over a root file system that is there, without the compiler.
        write_busybox_rootfs(&space, "rootfs.tar");
        let written = fs::read_to_string(space.project().join("kiln.toml"));
        let lines: Vec<String> = written
            .expect("just written")
            .lines()
            .map(|line| match line.starts_with("from = { debian") {
                true => "from = { rootfs = \"rootfs.tar\" }".to_owned(),
                false => line.to_owned(),
            })
            .collect();
        space.write("kiln.toml", lines.join("\n"));
        let run = space.kiln(["build", step]);
        if kind == "go" {
            run.assert_code(1).assert_says("go: not found");
            // It counts its runs, by date, where the user's settings are: no two layers would be the same.
            let is_in_cache = |line: &String| line.contains("XDG_CONFIG_HOME = \"/var/cache/go/");
            assert!(lines.iter().any(is_in_cache), "{lines:?}");
        } else {
            run.assert_code(0);
            let main = format!("cmd        = [\"{}\"]", files[1]);
            assert!(lines.contains(&main), "{kind}: no `{main}`");
        }
    }
}

#[test]
fn output_that_cannot_be_written_is_told_as_that() {
    let space = TestSpace::new();
    let full = fs::File::options().write(true).open("/dev/full");
    let mut command = space.command();
    command.arg("schema").stdout(full.expect("a device"));
    let program = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&program.stderr).into_owned();
    assert_eq!(program.status.code(), Some(3), "{said}");
    assert!(
        said.contains("cannot write the output: No space left"),
        "{said}"
    );
}

/// As in a unit of an init system, or under `env -i`.
#[test]
fn without_a_home_all_goes_that_needs_no_store() {
    let space = TestSpace::with_manifest(
        "schema = 1\n[project]\nname = \"t\"\n[image.app]\nfrom = \"scratch\"\n",
    );
    let homeless = |arguments: &[&str]| {
        let mut command = space.command();
        command.env_remove("HOME").env_remove("KILN_HOME");
        space.run(command.args(arguments))
    };
    for arguments in [
        &["check"][..],
        &["graph"],
        &["schema"],
        &["completions", "bash"],
    ] {
        homeless(arguments).assert_code(0);
    }
    homeless(&["init"]).assert_code(1).assert_says("exists");
}

#[test]
fn a_broken_settings_file_is_named() {
    let space = TestSpace::new();
    let folder = space.path().join("home/.config/kiln");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("config.toml"), "[store]\nmaximum = 1\n").expect("written");
    let run = space.kiln(["version"]);
    run.assert_code(1)
        .assert_says("home/.config/kiln/config.toml");
}
