//! Choices on small archives made for the purpose.

use std::collections::BTreeSet;

use super::*;
use crate::Architecture;
use crate::index::Index;

/// Makes a catalog; each package is `name version`, then more fields.
fn catalog(packages: &[(&str, &str)]) -> Catalog {
    let mut text = String::new();
    for (head, fields) in packages {
        let (name, version) = head.split_once(' ').unwrap();
        text.push_str(&format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nFilename: pool/{name}_{version}.deb\n\
             Size: 7\nSHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n{fields}\n\n"
        ));
    }
    let index = Index::parse(text.as_bytes()).unwrap();
    let date = "20260711T101637Z".parse().unwrap();
    Catalog::from_indexes("bookworm", Architecture::Amd64, date, vec![index])
}

fn installed(packages: &[(&str, &str)]) -> Installed {
    let mut text = String::new();
    for (head, fields) in packages {
        let (name, version) = head.split_once(' ').unwrap();
        text.push_str(&format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n{fields}\n\n"
        ));
    }
    Installed::parse(&text, Architecture::Amd64).unwrap()
}

fn run(
    catalog: &Catalog,
    over: Option<&Installed>,
    pins: &[(&str, &str)],
    names: &[&str],
) -> Result<Vec<String>, ResolveError> {
    let pins: BTreeSet<PackageVersion> = pins
        .iter()
        .map(|(name, version)| PackageVersion {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
        })
        .collect();
    let packages: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let request = Request {
        packages: &packages,
        over,
        pins: &pins,
    };
    let chosen = resolve(catalog, &request).map_err(|mut errors| errors.remove(0))?;
    Ok(chosen
        .iter()
        .map(|package| package.id().to_string())
        .collect())
}

/// Over an empty root file system, so that only what is asked for counts.
fn choose(catalog: &Catalog, names: &[&str]) -> Result<Vec<String>, ResolveError> {
    run(catalog, Some(&Installed::default()), &[], names)
}

fn message(result: Result<Vec<String>, ResolveError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_new_root_has_what_is_essential_or_required() {
    let catalog = catalog(&[
        ("base-files 12", "Essential: yes\nPre-Depends: awk"),
        ("original-awk 1", "Priority: optional\nProvides: awk"),
        (
            "mawk 1.3",
            "Priority: required\nProvides: awk\nPre-Depends: libc6",
        ),
        ("libc6 2.36", ""),
        (
            "a-tool 1",
            "Priority: required\nDepends: usrmerge | usr-is-merged",
        ),
        ("usrmerge 1", "Conflicts: usr-is-merged"),
        ("usr-is-merged 1", "Conflicts: usrmerge"),
        ("vim 9", "Recommends: vim-runtime"),
        ("vim-runtime 9", ""),
    ]);
    let base = run(&catalog, None, &[], &[]).unwrap();
    assert_eq!(
        base,
        [
            "libc6=2.36",
            "mawk=1.3",
            "base-files=12",
            "usr-is-merged=1",
            "a-tool=1"
        ]
        .map(str::to_owned)
        .to_vec()
        .tap_sort(&base)
    );
    assert!(position(&base, "libc6=2.36") < position(&base, "mawk=1.3"));
    let more = run(&catalog, None, &[], &["vim"]).unwrap();
    assert!(more.contains(&"vim=9".to_owned()) && !more.contains(&"vim-runtime=9".to_owned()));
    assert!(
        !more.contains(&"usrmerge=1".to_owned()),
        "what is chosen already is preferred"
    );
}

fn position(list: &[String], name: &str) -> usize {
    list.iter().position(|one| one == name).unwrap()
}

/// Puts the expected names in the order of the ones found, so that only the set is compared.
trait TapSort {
    fn tap_sort(self, found: &[String]) -> Self;
}

impl TapSort for Vec<String> {
    fn tap_sort(mut self, found: &[String]) -> Self {
        self.sort_by_key(|name| found.iter().position(|one| one == name));
        self
    }
}

#[test]
fn alternatives_providers_and_versions() {
    let catalog = catalog(&[
        (
            "app 1",
            "Depends: mta-x | mail-agent, lib (>= 2), py:any (<< 4), v (>= 3)",
        ),
        ("postfix 3", "Provides: mail-agent\nPriority: standard"),
        ("exim 4", "Provides: mail-agent\nPriority: optional"),
        ("lib 1", ""),
        ("lib 2", ""),
        ("lib 3", ""),
        ("py 3", ""),
        ("py 4", ""),
        ("w 1", "Provides: v (= 2)"),
        ("x 1", "Provides: v"),
        ("y 1", "Provides: v (= 3.1)"),
    ]);
    let chosen = choose(&catalog, &["app"]).unwrap();
    assert_eq!(
        chosen,
        ["lib=3", "py=3", "app=1", "postfix=3", "y=1"]
            .map(str::to_owned)
            .to_vec()
            .tap_sort(&chosen)
    );
    let over = installed(&[("exim 4", "Provides: mail-agent")]);
    let chosen = run(&catalog, Some(&over), &[("lib", "2")], &["app"]).unwrap();
    assert!(
        chosen.contains(&"lib=2".to_owned()),
        "the pinned version: {chosen:?}"
    );
    assert!(
        !chosen.iter().any(|one| one.starts_with("postfix")),
        "exim will do: {chosen:?}"
    );
    assert_eq!(choose(&catalog, &["lib=1"]).unwrap(), ["lib=1"]);
}

#[test]
fn a_choice_that_fails_later_is_taken_back() {
    let catalog = catalog(&[
        ("app 1", "Depends: a | b, c"),
        ("a 1", "Depends: d"),
        ("b 1", ""),
        ("c 1", "Conflicts: d"),
        ("d 1", ""),
        ("old 1", "Depends: lib (<< 2)"),
        ("lib 2", ""),
        ("lib 1", ""),
        ("new 1", "Depends: lib"),
    ]);
    let mut chosen = choose(&catalog, &["app"]).unwrap();
    chosen.sort_unstable();
    assert_eq!(chosen, ["app=1", "b=1", "c=1"]);
    // `new` alone takes the newest; beside `old` it must take the older one.
    assert_eq!(choose(&catalog, &["new"]).unwrap(), ["lib=2", "new=1"]);
    assert_eq!(
        choose(&catalog, &["new", "old"]).unwrap(),
        ["lib=1", "new=1", "old=1"]
    );
}

#[test]
fn installed_packages_stay_or_are_upgraded_together() {
    let catalog = catalog(&[
        ("libc6 2", ""),
        ("libc-bin 2", "Depends: libc6 (= 2)"),
        ("gcc 12", "Depends: libc6 (>= 2)"),
        ("hello 1", "Depends: libc6"),
    ]);
    let over = installed(&[
        ("libc6 1", ""),
        ("libc-bin 1", "Depends: libc6 (= 1)"),
        ("broken 1", "Depends: never-there"),
    ]);
    assert_eq!(
        run(&catalog, Some(&over), &[], &["hello"]).unwrap(),
        ["hello=1"]
    );
    let mut chosen = run(&catalog, Some(&over), &[], &["gcc"]).unwrap();
    chosen.sort_unstable();
    assert_eq!(chosen, ["gcc=12", "libc-bin=2", "libc6=2"]);
    assert_eq!(
        run(&catalog, Some(&over), &[], &["libc6"]).unwrap(),
        Vec::<String>::new()
    );
    let stuck = installed(&[("libc6 1", ""), ("local 1", "Depends: libc6 (= 1)")]);
    let text = message(run(&catalog, Some(&stuck), &[], &["gcc"]));
    assert!(text.contains("local 1"), "{text}");
}

#[test]
fn what_breaks_an_installed_package_upgrades_it() {
    let catalog = catalog(&[
        ("new 1", "Breaks: old (<< 2)"),
        ("old 2", ""),
        ("enemy 1", "Conflicts: stuck"),
    ]);
    let over = installed(&[("old 1", ""), ("stuck 1", "")]);
    let mut chosen = run(&catalog, Some(&over), &[], &["new"]).unwrap();
    chosen.sort_unstable();
    assert_eq!(chosen, ["new=1", "old=2"]);
    let text = message(run(&catalog, Some(&over), &[], &["enemy"]));
    assert!(text.contains("stuck 1 is installed"), "{text}");
}

#[test]
fn failures_tell_the_chain() {
    let catalog = catalog(&[
        ("web 1", "Depends: server"),
        ("server 2", "Pre-Depends: libssl (>= 3) | libtls"),
        ("libssl 1.1", ""),
        ("left 1", "Depends: shared (= 1)"),
        ("right 1", "Depends: shared (= 2)"),
        ("shared 1", ""),
        ("shared 2", ""),
        ("cat 1", "Conflicts: dog"),
        ("dog 1", ""),
        ("i386-only 1", "Depends: libc6:i386"),
        ("libc6 1", ""),
    ]);
    assert_eq!(
        message(choose(&catalog, &["web"])),
        "`web` cannot be installed:\n  web 1 depends on server\n  \
         server 2 pre-depends on libssl (>= 3) | libtls\n  \
         libssl is only available as 1.1\n  no package of `bookworm` is or provides libtls"
    );
    let text = message(choose(&catalog, &["left", "right"]));
    assert!(text.contains("right 1 depends on shared (= 2)"), "{text}");
    assert!(
        text.contains("shared 2 is wanted, but shared 1 was chosen"),
        "{text}"
    );
    assert!(text.contains("left 1 depends on shared (= 1)"), "{text}");
    let text = message(choose(&catalog, &["cat", "dog"]));
    assert!(text.contains("cat 1 conflicts with dog 1"), "{text}");
    assert!(choose(&catalog, &["i386-only"]).is_err());
}

#[test]
fn requests_that_mean_nothing_are_refused() {
    let catalog = catalog(&[
        ("postgresql 15", ""),
        ("a 1", "Provides: one, two"),
        ("b 1", "Provides: two"),
    ]);
    let text = message(choose(&catalog, &["postgresq"]));
    assert_eq!(
        text,
        "there is no package `postgresq` in Debian `bookworm`: did you mean `postgresql`?"
    );
    assert!(message(choose(&catalog, &["a=2"])).contains("it has `1`"));
    assert_eq!(choose(&catalog, &["one"]).unwrap(), ["a=1"]);
    assert!(message(choose(&catalog, &["two"])).contains("name one of `a`, `b`"));
    for name in ["", "a b", "../a", "--force"] {
        assert!(
            matches!(choose(&catalog, &[name]), Err(ResolveError::NotAName(_))),
            "{name}"
        );
    }
}

#[test]
fn all_that_is_wrong_with_the_names_is_told_in_their_order() {
    let catalog = catalog(&[
        ("gcc 12", ""),
        ("make 4", ""),
        ("maker 1", ""),
        ("lakee 1", ""),
    ]);
    let packages = ["makee", "gcc=11", "gcc", "a b"].map(str::to_owned);
    let pins = BTreeSet::new();
    let installed = Installed::default();
    let request = Request {
        packages: &packages,
        over: Some(&installed),
        pins: &pins,
    };
    let errors = resolve(&catalog, &request).unwrap_err();
    assert!(
        matches!(
            &errors[..],
            [
                ResolveError::NoSuchPackage { similar, .. },
                ResolveError::NoSuchVersion { .. },
                ResolveError::NotAName(_)
            ] if similar == &["make", "maker", "lakee"]
        ),
        "{errors:?}"
    );
    assert_eq!(check_names(&catalog, &request), errors);
    let about = |error: &ResolveError| packages.iter().position(|name| error.is_about(name));
    let places: Vec<_> = errors.iter().map(about).collect();
    assert_eq!(places, [Some(0), Some(1), Some(3)]);
}

#[test]
fn circles_are_no_trouble() {
    let catalog = catalog(&[
        ("a 1", "Depends: b"),
        ("b 1", "Depends: c"),
        ("c 1", "Depends: a\nPre-Depends: p"),
        ("p 1", ""),
    ]);
    let chosen = choose(&catalog, &["b"]).unwrap();
    assert_eq!(chosen.len(), 4);
    assert!(position(&chosen, "p=1") < position(&chosen, "c=1"));
}

#[test]
fn a_hopeless_request_ends() {
    // 24 pairs of packages that exclude each other crosswise: 2^24 ways to try one by one.
    let mut packages = vec![("top 1".to_owned(), String::new())];
    let mut needs = Vec::new();
    for at in 0..24 {
        needs.push(format!("a{at} | b{at}"));
        packages.push((format!("a{at} 1"), "Conflicts: last".to_owned()));
        packages.push((format!("b{at} 1"), "Conflicts: last".to_owned()));
    }
    needs.push("last".to_owned());
    packages[0].1 = format!("Depends: {}", needs.join(", "));
    packages.push(("last 1".to_owned(), String::new()));
    let borrowed: Vec<(&str, &str)> = packages
        .iter()
        .map(|(head, fields)| (head.as_str(), fields.as_str()))
        .collect();
    let error = choose(&catalog(&borrowed), &["top"]).unwrap_err();
    assert!(matches!(error, ResolveError::TooComplex { .. }), "{error}");
}
