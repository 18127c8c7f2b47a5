//! What the command line says before anything is built.

use crate::space::TestSpace;

#[test]
fn version_is_data_on_standard_output() {
    let space = TestSpace::new();
    let run = space.kiln(["version"]);
    run.assert_code(0);
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
    run.assert_code(2);
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains("version"), "{}", run.stderr);
}
