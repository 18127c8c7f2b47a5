//! `schemas/kiln.schema.json` and `docs/manifest.md` are what the types say.
//!
//! `UPDATE=1 cargo test -p kiln-manifest` writes them anew.

use std::fs;
use std::path::Path;

fn compare(path: &str, fresh: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    #[expect(clippy::disallowed_methods, reason = "a switch of this test alone")]
    let update = std::env::var_os("UPDATE").is_some();
    if update {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, fresh).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "{} is out of date: run with UPDATE=1",
        path.display()
    );
}

#[test]
fn the_schema_is_committed() {
    compare("schemas/kiln.schema.json", &kiln_manifest::schema());
}

#[test]
fn the_reference_is_committed() {
    compare("docs/manifest.md", &kiln_manifest::reference());
}
