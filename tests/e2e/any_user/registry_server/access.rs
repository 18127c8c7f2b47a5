//! Who may do what: passwords, tokens, scopes, and what nobody is told.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::fixtures::http::Reply;
use crate::fixtures::own_registry::{OwnRegistry, sha256};
use crate::space::{TestSpace, host};

const SETTINGS: &str = "[access]\nlogin = \"required\"\nanonymous-pull = [\"public/**\"]\n";

/// A registry with an administrator `root`, `alice` who may write in `team`, and `bob` who may read there.
fn guarded(space: &TestSpace) -> OwnRegistry {
    let registry = OwnRegistry::start(space, SETTINGS);
    for (name, more) in [
        ("root", &["--admin"][..]),
        ("alice", &["--grant", "team/**:pull,push"]),
        ("bob", &["--grant", "team/**:pull"]),
    ] {
        let mut arguments = vec!["user", "add", name, "--no-password"];
        arguments.extend(more);
        registry.admin(space, &arguments).assert_code(0);
    }
    registry
}

pub(super) fn basic(user: &str, password: &str) -> String {
    use std::fmt::Write as _;
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Basic ");
    for three in format!("{user}:{password}").as_bytes().chunks(3) {
        let mut bits = 0_u32;
        for at in 0..3 {
            bits = bits << 8 | u32::from(three.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize] as char;
            write!(text, "{}", if at > three.len() { '=' } else { digit }).expect("a text");
        }
    }
    text
}

/// A program's token for an account.
pub(super) fn token(
    space: &TestSpace,
    registry: &OwnRegistry,
    user: &str,
    more: &[&str],
) -> String {
    let mut arguments = vec!["token", "add", user, "test"];
    arguments.extend(more);
    let run = registry.admin(space, &arguments);
    run.assert_code(0);
    run.stdout.trim().to_owned()
}

/// A bearer token for scopes.
pub(super) fn bearer(registry: &OwnRegistry, login: Option<&str>, scopes: &[&str]) -> String {
    let scopes: String = scopes
        .iter()
        .map(|scope| format!("&scope={scope}"))
        .collect();
    let headers: Vec<(&str, &str)> = login
        .iter()
        .map(|value| ("Authorization", *value))
        .collect();
    let path = format!("/token?service=kiln-registry{scopes}");
    let reply = registry.ask("GET", &path, &headers, b"").expect(200);
    let json = reply.json();
    assert_eq!(json["token"], json["access_token"]);
    assert!(
        json["expires_in"]
            .as_u64()
            .is_some_and(|seconds| seconds >= 60)
    );
    format!("Bearer {}", json["token"].as_str().expect("a token"))
}

pub(super) fn with(registry: &OwnRegistry, login: &str, method: &str, path: &str) -> Reply {
    registry.ask(method, path, &[("Authorization", login)], b"")
}

#[test]
pub(super) fn nobody_in_particular_reads_what_is_public_and_nothing_else() {
    let space = TestSpace::new();
    let mut registry = guarded(&space);
    registry.authorization = Some(basic("root", &token(&space, &registry, "root", &[])));
    let (digest, _) = registry.image("public/app", "v1", b"layer");
    registry.image("team/app", "v1", b"layer");
    let layer = sha256(b"layer");
    registry.authorization = None;
    registry.get("/v2/public/app/manifests/v1").expect(200);
    registry
        .get(&format!("/v2/public/app/blobs/{layer}"))
        .expect(200);
    registry.get("/v2/public/app/tags/list").expect(200);
    registry
        .get(&format!("/v2/public/app/referrers/{digest}"))
        .expect(200);
    // Whether something exists makes no difference.
    for path in [
        "/v2/team/app/manifests/v1",
        "/v2/team/nothing/manifests/v1",
        "/v2/team/app/tags/list",
    ] {
        registry.get(path).expect_error(401, "UNAUTHORIZED");
    }
    registry
        .get(&format!("/v2/team/app/blobs/{layer}"))
        .expect(401);
    for (method, path) in [
        ("POST", "/v2/public/app/blobs/uploads/".to_owned()),
        ("PUT", "/v2/public/app/manifests/v2".to_owned()),
        ("DELETE", "/v2/public/app/manifests/v1".to_owned()),
        ("DELETE", format!("/v2/public/app/blobs/{layer}")),
        ("GET", "/v2/_catalog".to_owned()),
        ("GET", "/v2/".to_owned()),
    ] {
        registry
            .ask(method, &path, &[], b"")
            .expect_error(401, "UNAUTHORIZED");
    }
    // A blob of a private repository cannot be had by its digest, nor by mounting it.
    let secret = sha256(b"{\"x\":\"v1\"}");
    registry
        .get(&format!("/v2/public/app/blobs/{secret}"))
        .expect(200);
    registry
        .get(&format!("/v2/public/other/blobs/{secret}"))
        .expect(404);
    let anonymous = bearer(&registry, None, &["repository:public/app:pull"]);
    with(&registry, &anonymous, "GET", "/v2/public/app/manifests/v1").expect(200);
    with(&registry, &anonymous, "GET", "/v2/").expect(200);
    with(&registry, &anonymous, "GET", "/v2/team/app/manifests/v1").expect(401);
}

#[test]
pub(super) fn the_question_names_realm_service_and_scope() {
    let space = TestSpace::new();
    let registry = guarded(&space);
    let question = |method: &str, path: &str| {
        let reply = registry.ask(method, path, &[], b"").expect(401);
        reply
            .header("www-authenticate")
            .expect("a question")
            .to_owned()
    };
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"kiln-registry\"",
        registry.host()
    );
    assert_eq!(question("GET", "/v2/"), realm);
    assert_eq!(
        question("GET", "/v2/team/a/manifests/x"),
        format!("{realm},scope=\"repository:team/a:pull\"")
    );
    assert_eq!(
        question("POST", "/v2/team/a/blobs/uploads/"),
        format!("{realm},scope=\"repository:team/a:pull,push\"")
    );
    assert_eq!(
        question("DELETE", "/v2/team/a/manifests/x"),
        format!("{realm},scope=\"repository:team/a:delete\"")
    );
}

#[test]
pub(super) fn grants_and_scopes_are_both_needed() {
    let space = TestSpace::new();
    let mut registry = guarded(&space);
    let alice = basic("alice", &token(&space, &registry, "alice", &[]));
    let bob = basic("bob", &token(&space, &registry, "bob", &[]));
    registry.authorization = Some(alice.clone());
    registry.image("team/app", "v1", b"layer");
    registry.authorization = None;
    with(&registry, &bob, "GET", "/v2/team/app/manifests/v1").expect(200);
    let begin = "/v2/team/app/blobs/uploads/";
    with(&registry, &bob, "POST", begin).expect_error(403, "DENIED");
    with(&registry, &alice, "POST", begin).expect(202);
    with(&registry, &alice, "POST", "/v2/other/blobs/uploads/").expect_error(403, "DENIED");
    with(&registry, &alice, "DELETE", "/v2/team/app/manifests/v1").expect_error(403, "DENIED");
    with(&registry, &alice, "GET", "/v2/other/manifests/x").expect_error(403, "DENIED");
    // Scopes narrow what an account may do, and cannot widen it.
    let narrow = bearer(&registry, Some(&alice), &["repository:team/app:pull"]);
    with(&registry, &narrow, "GET", "/v2/team/app/manifests/v1").expect(200);
    with(&registry, &narrow, "POST", begin).expect_error(401, "UNAUTHORIZED");
    with(&registry, &narrow, "GET", "/v2/team/other/manifests/v1").expect(401);
    let wide = bearer(
        &registry,
        Some(&bob),
        &[
            "repository:team/app:pull,push,delete",
            "repository:other:pull",
        ],
    );
    with(&registry, &wide, "POST", begin).expect(403);
    with(&registry, &wide, "GET", "/v2/other/manifests/x").expect(403);
    let none = bearer(&registry, Some(&alice), &[]);
    with(&registry, &none, "GET", "/v2/").expect(200);
    with(&registry, &none, "GET", "/v2/team/app/manifests/v1").expect(401);
    // The catalog shows what the account may read.
    registry.authorization = Some(basic("root", &token(&space, &registry, "root", &[])));
    registry.image("other", "v1", b"layer");
    assert_eq!(
        registry.get("/v2/_catalog").expect(200).json()["repositories"],
        json!(["other", "team/app"])
    );
    let seen = with(&registry, &bob, "GET", "/v2/_catalog");
    drop(seen);
    registry.authorization = Some(bob);
    assert_eq!(
        registry.get("/v2/_catalog").expect(200).json()["repositories"],
        json!(["team/app"])
    );
}

#[test]
pub(super) fn blobs_are_mounted_only_from_where_one_may_read() {
    let space = TestSpace::new();
    let mut registry = guarded(&space);
    registry
        .admin(
            &space,
            &[
                "user",
                "add",
                "carol",
                "--no-password",
                "--grant",
                "carol/*:pull,push",
            ],
        )
        .assert_code(0);
    registry.authorization = Some(basic("alice", &token(&space, &registry, "alice", &[])));
    let digest = registry.blob("team/app", b"secret layer");
    registry.authorization = Some(basic("carol", &token(&space, &registry, "carol", &[])));
    for query in [
        format!("mount={digest}&from=team/app"),
        format!("mount={digest}"),
    ] {
        registry
            .ask(
                "POST",
                &format!("/v2/carol/x/blobs/uploads/?{query}"),
                &[],
                b"",
            )
            .expect(202);
    }
    registry
        .get(&format!("/v2/carol/x/blobs/{digest}"))
        .expect(404);
    registry
        .admin(
            &space,
            &[
                "user",
                "change",
                "carol",
                "--grant",
                "carol/*:*",
                "--grant",
                "team/*:pull",
            ],
        )
        .assert_code(0);
    let query = format!("mount={digest}&from=team/app");
    registry
        .ask(
            "POST",
            &format!("/v2/carol/x/blobs/uploads/?{query}"),
            &[],
            b"",
        )
        .expect(201);
}

#[test]
pub(super) fn a_token_for_the_target_is_enough_to_mount() {
    let space = TestSpace::new();
    let mut registry = guarded(&space);
    let secret = token(&space, &registry, "alice", &[]);
    registry.authorization = Some(basic("alice", &secret));
    let digest = registry.blob("team/app", b"layer");
    registry.authorization = None;
    let target = |login: &str| {
        bearer(
            &registry,
            Some(login),
            &["repository:team/new:pull,push", "repository:team/old:push"],
        )
    };
    let mount = |login: &str, to: &str| {
        let path = format!("/v2/{to}/blobs/uploads/?mount={digest}&from=team/app");
        with(&registry, login, "POST", &path)
    };
    let alice = target(&basic("alice", &secret));
    let location = mount(&alice, "team/new").expect(201);
    let location = location.header("location").expect("a location").to_owned();
    with(&registry, &alice, "GET", &location).expect(200);
    // Beside the mount the token is still for what it was asked for.
    let blob = format!("/v2/team/app/blobs/{digest}");
    with(&registry, &alice, "GET", &blob).expect_error(401, "UNAUTHORIZED");
    mount(&alice, "team/other").expect_error(401, "UNAUTHORIZED");
    // A program's token limits the account, so it limits this.
    let program = token(&space, &registry, "alice", &["--grant", "team/old:push"]);
    mount(&target(&basic("alice", &program)), "team/old").expect(202);
}

#[test]
pub(super) fn forged_revoked_and_expired_tokens_are_nothing() {
    let space = TestSpace::new();
    let mut registry = guarded(&space);
    let secret = token(&space, &registry, "alice", &["--grant", "team/app:pull"]);
    let login = basic("alice", &secret);
    let good = bearer(&registry, Some(&login), &["repository:team/app:pull,push"]);
    with(&registry, &good, "GET", "/v2/team/app/manifests/v1").expect(404);
    // The program's token is good for pulling one repository, whatever alice may do.
    with(&registry, &good, "POST", "/v2/team/app/blobs/uploads/").expect(403);
    with(&registry, &login, "GET", "/v2/team/other/manifests/v1").expect(403);
    let parts: Vec<&str> = good.split('.').collect();
    for forged in [
        format!("Bearer eyJhbGciOiJub25lIn0.{}.", parts[1]),
        format!("{}.{}.AAAA", parts[0], parts[1]),
        good[..good.len() - 3].to_owned(),
        "Bearer ".to_owned(),
        "Bearer a.b.c".to_owned(),
        "Digest x".to_owned(),
        "Basic !!!".to_owned(),
        basic("bob", &secret),
        basic("alice", "wrong"),
        basic("", ""),
    ] {
        with(&registry, &forged, "GET", "/v2/team/app/manifests/v1")
            .expect_error(401, "UNAUTHORIZED");
    }
    let id = secret.split('_').nth(1).expect("an id").to_owned();
    registry
        .admin(&space, &["token", "remove", &id])
        .assert_code(0);
    with(&registry, &login, "GET", "/v2/team/app/manifests/v1").expect(401);
    let short = token(&space, &registry, "alice", &["--expires", "0s"]);
    with(&registry, &basic("alice", &short), "GET", "/v2/").expect(401);
    // An account that goes takes its tokens along, also those that were handed out.
    let login = basic("alice", &token(&space, &registry, "alice", &[]));
    let good = bearer(&registry, Some(&login), &["repository:team/app:pull"]);
    registry
        .admin(&space, &["user", "remove", "alice"])
        .assert_code(0);
    for login in [&login, &good] {
        with(&registry, login, "GET", "/v2/team/app/manifests/v1").expect(401);
    }
    // Secrets of tokens do not outlive a restart in memory only.
    let bob = basic("bob", &token(&space, &registry, "bob", &[]));
    let good = bearer(&registry, Some(&bob), &["repository:team/app:pull"]);
    registry.kill();
    registry.run(&space);
    for login in [&bob, &good] {
        with(&registry, login, "GET", "/v2/team/app/manifests/v1").expect(404);
    }
}

#[test]
pub(super) fn a_password_is_tried_and_many_wrong_ones_make_wait() {
    let space = TestSpace::new();
    let registry = guarded(&space);
    let arguments = [
        "registry",
        "user",
        "add",
        "dave",
        "--password-stdin",
        "--grant",
        "d/*:*",
        "--data",
    ];
    let mut command = space.command();
    command.args(arguments).arg(registry.data());
    fs::write(space.path().join("password"), "correct horse\n").expect("a file");
    command.stdin(fs::File::open(space.path().join("password")).expect("a file"));
    space.run(&mut command).assert_code(0);
    let dave = basic("dave", "correct horse");
    with(&registry, &dave, "GET", "/v2/").expect(200);
    let form = b"grant_type=password&username=dave&password=correct+horse&service=kiln-registry&scope=repository:d/x:pull";
    let reply = registry.ask(
        "POST",
        "/token",
        &[("Content-Type", "application/x-www-form-urlencoded")],
        form,
    );
    let bearer = format!(
        "Bearer {}",
        reply.expect(200).json()["access_token"]
            .as_str()
            .expect("a token")
    );
    with(&registry, &bearer, "GET", "/v2/d/x/manifests/1").expect(404);
    registry
        .ask("POST", "/token", &[], b"grant_type=refresh_token")
        .expect(400);
    let wrong = basic("dave", "incorrect horse");
    let mut last = 0;
    for _ in 0..14 {
        last = with(&registry, &wrong, "GET", "/v2/").status;
        if last == 429 {
            break;
        }
        assert_eq!(last, 401);
    }
    assert_eq!(last, 429);
    let reply = with(&registry, &wrong, "GET", "/v2/").expect_error(429, "TOOMANYREQUESTS");
    assert!(reply.header("retry-after").is_some());
    // Whoever is known already is not kept out by others' guesses.
    with(&registry, &dave, "GET", "/v2/").expect(200);
    assert!(!registry.log().contains("horse"), "{}", registry.log());
}

#[test]
pub(super) fn other_addresses_need_tls_and_accounts() {
    let space = TestSpace::new();
    let data = space.path().join("data");
    let serve = |more: &[&str]| {
        let mut command = space.command();
        command
            .args(["registry", "serve", "--listen", "0.0.0.0:0", "--data"])
            .arg(&data)
            .args(more);
        space.run(&mut command)
    };
    serve(&[]).assert_code(1).assert_says("nothing encrypts");
    space.write(
        "open.toml",
        "[access]\nlogin = \"none\"\nbehind-tls-proxy = true\n",
    );
    serve(&["--config", "open.toml"])
        .assert_code(1)
        .assert_says("`access.login` is `none`");
    space.write("fine.toml", "[access]\nbehind-tls-proxy = true\n");
    serve(&["--config", "fine.toml", "--check-config"]).assert_code(0);
    space.write("wrong.toml", "lisen = []\n");
    serve(&["--config", "wrong.toml"])
        .assert_code(1)
        .assert_says("lisen");
}

#[test]
pub(super) fn tls_is_spoken_and_its_certificate_replaced_while_running() {
    let space = TestSpace::new();
    let folder = space.path().join("own-registry");
    fs::create_dir_all(&folder).expect("a folder");
    certificate(&space, "first");
    let registry = OwnRegistry::start(
        &space,
        "tls = { certificate = \"cert.pem\", key = \"key.pem\" }\n",
    );
    let curl = |name: &str| {
        let url = format!(
            "https://{name}:{}/v2/",
            registry.host().rsplit(':').next().expect("a port")
        );
        let resolve = format!(
            "{name}:{}:127.0.0.1",
            registry.host().rsplit(':').next().expect("a port")
        );
        Command::new("curl")
            .args([
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--resolve",
                &resolve,
                "--cacert",
            ])
            .arg(folder.join("cert.pem"))
            .arg(url)
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .expect("curl is installed")
    };
    assert_eq!(curl("first.example"), "200");
    certificate(&space, "second");
    assert_eq!(curl("second.example"), "000");
    host(Command::new("kill").args(["-HUP", &registry.pid().to_string()]));
    let mut answer = String::new();
    for _ in 0..50 {
        answer = curl("second.example");
        if answer == "200" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(answer, "200");
    // A broken file leaves the certificate that works.
    fs::write(folder.join("key.pem"), "nonsense").expect("a file");
    host(Command::new("kill").args(["-HUP", &registry.pid().to_string()]));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(curl("second.example"), "200");
}

fn certificate(space: &TestSpace, name: &str) {
    let folder = space.path().join("own-registry");
    host(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", &format!("/CN={name}.example"), "-addext"])
            .arg(format!("subjectAltName=DNS:{name}.example"))
            .arg("-keyout")
            .arg(folder.join("key.pem"))
            .arg("-out")
            .arg(folder.join("cert.pem")),
    );
}
