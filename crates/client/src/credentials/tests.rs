use std::process::Command;

use super::*;

/// A folder with credentials files, tried in order, and helpers.
fn find(files: &[&str], helpers: &[(&str, &str)], registry: &str, repository: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut paths = vec![at("missing.json")];
    for (index, text) in files.iter().enumerate() {
        paths.push(at(&format!("{index}.json")));
        fs::write(paths.last().unwrap(), text).unwrap();
    }
    for (name, script) in helpers {
        let (text, path) = (at("text"), at(&format!("docker-credential-{name}")));
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // By another process: one that a thread beside this forks would hold the program open for writing.
        let made = Command::new("install").args([&text, &path]).status();
        assert!(made.unwrap().success());
    }
    let files = CredentialFiles {
        files: paths,
        helper_folders: vec![at("nowhere"), folder.path().to_owned()],
    };
    match files.find(registry, repository, &Cancel::new()) {
        Ok(None) => "none".to_owned(),
        Ok(Some(Credential::Password { user, password })) => {
            format!("{user}:{}", password.reveal())
        }
        Ok(Some(Credential::Identity(token))) => format!("identity {}", token.reveal()),
        Ok(Some(Credential::Access(token))) => format!("access {}", token.reveal()),
        Err(error) => {
            let text = error.to_string();
            assert!(
                !text.contains("hunter2") && !text.contains("aHVudGVyMg"),
                "{text}"
            );
            text.replace(folder.path().to_str().unwrap(), "")
        }
    }
}

// `me:secret` and `you:other`.
const ME: &str = "bWU6c2VjcmV0";
const YOU: &str = "eW91Om90aGVy";

#[test]
fn the_default_registry_is_found_under_its_old_names() {
    for key in [
        "https://index.docker.io/v1/",
        "docker.io",
        "index.docker.io",
        "registry-1.docker.io",
    ] {
        let file = format!(r#"{{"auths":{{"{key}":{{"auth":"{ME}"}}}},"experimental":"on"}}"#);
        assert_eq!(
            find(&[&file], &[], "docker.io", "library/x"),
            "me:secret",
            "{key}"
        );
        assert_eq!(find(&[&file], &[], "quay.io", "library/x"), "none");
    }
}

#[test]
fn the_closest_entry_and_the_first_file_win() {
    let file = format!(
        r#"{{"auths":{{"r:5000":{{"auth":"{ME}"}},"r:5000/team/app":{{"auth":"{YOU}"}}}}}}"#
    );
    assert_eq!(find(&[&file], &[], "r:5000", "team/app"), "you:other");
    assert_eq!(find(&[&file], &[], "r:5000", "team/app/sub"), "you:other");
    assert_eq!(
        find(&[&file], &[], "r:5000", "team/application"),
        "me:secret"
    );
    let second = format!(r#"{{"auths":{{"r:5000/x":{{"auth":"{YOU}"}},"s":{{"auth":"{YOU}"}}}}}}"#);
    assert_eq!(find(&[&file, &second], &[], "r:5000", "x"), "me:secret");
    assert_eq!(
        find(&["", "{}", &file, &second], &[], "s", "x"),
        "you:other"
    );
}

#[test]
fn every_kind_of_entry_is_read() {
    for (entry, expected) in [
        (r#"{"username":"a","password":"b"}"#, "a:b"),
        (r#"{"identitytoken":"t"}"#, "identity t"),
        (r#"{"registrytoken":"t"}"#, "access t"),
        // `<token>:x`, and a password with `:` and padding
        (r#"{"auth":"PHRva2VuPjp4"}"#, "identity x"),
        (r#"{"auth":"YTpiOmMAAA=="}"#, "a:b:c"),
        ("{}", "none"),
        ("null", "none"),
    ] {
        let file = format!(r#"{{"auths":{{"r":{entry}}}}}"#);
        assert_eq!(find(&[&file], &[], "r", "x"), expected, "{entry}");
    }
}

#[test]
fn bad_files_are_named_and_not_quoted() {
    for file in [
        r#"{"auths":{"r":{"auth":"hunter2!"}}}"#,
        r#"{"auths":{"r":{"auth":"aHVudGVyMg=="}}}"#,
        r#"{"auths":{"r":"hunter2"}}"#,
        r#"hunter2"#,
    ] {
        let error = find(&[file], &[], "r", "x");
        assert!(
            error.starts_with("cannot read credentials from `/0.json`"),
            "{error}"
        );
    }
}

#[test]
fn helpers_are_asked() {
    let good = r#"read server; echo "{\"ServerURL\":\"$server\",\"Username\":\"at $server\",\"Secret\":\"s\"}""#;
    let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
    let helpers = [("good", good), ("token", token)];
    let own = r#"{"credHelpers":{"r":"good","docker.io":"good"},"credsStore":"token"}"#;
    assert_eq!(find(&[own], &helpers, "r", "x"), "at r:s");
    assert_eq!(
        find(&[own], &helpers, "docker.io", "x"),
        "at https://index.docker.io/v1/:s"
    );
    assert_eq!(find(&[own], &helpers, "other", "x"), "identity t");
    // Docker leaves empty entries for what the helper has.
    let both = format!(r#"{{"auths":{{"r":{{}},"s":{{"auth":"{ME}"}}}},"credsStore":"token"}}"#);
    assert_eq!(find(&[&both], &helpers, "r", "x"), "identity t");
    assert_eq!(find(&[&both], &helpers, "s", "x"), "me:secret");
}

#[test]
fn what_a_helper_leaves_running_is_not_waited_for() {
    let agent = r#"sleep 20 & echo '{"Username":"me","Secret":"s"}'"#;
    let started = std::time::Instant::now();
    let found = find(
        &[r#"{"credsStore":"agent"}"#],
        &[("agent", agent)],
        "r",
        "x",
    );
    assert_eq!(found, "me:s");
    assert!(started.elapsed().as_secs() < 15);
}

#[test]
fn a_helper_without_an_entry_passes_and_a_broken_one_does_not() {
    let none = "echo 'credentials not found in native keychain'; exit 1";
    let broken = "echo 'the keychain is \x1b[1mlocked' >&2; exit 3";
    let helpers = [
        ("none", none),
        ("broken", broken),
        ("odd", "echo '[]'"),
        ("huge", "yes | head -c 3000000"),
    ];
    let with = |helper: &str| {
        find(
            &[&format!(r#"{{"credsStore":"{helper}"}}"#)],
            &helpers,
            "r",
            "x",
        )
    };
    assert_eq!(with("none"), "none");
    assert!(
        with("broken").contains("the keychain is \\u{1b}[1mlocked"),
        "{}",
        with("broken")
    );
    assert!(with("odd").contains("its answer"), "{}", with("odd"));
    assert!(with("huge").contains("its answer"), "{}", with("huge"));
    assert!(with("absent").contains("`docker-credential-absent`, which is not installed"));
    assert!(with("../../bin/sh").contains("not installed"));
}

#[test]
fn secrets_are_not_shown() {
    let credential = Credential::Password {
        user: "me".to_owned(),
        password: Secret::new("hunter2"),
    };
    assert!(!format!("{credential:?}").contains("hunter2"));
}
