use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};

use kiln_manifest::model::FileSet;
use kiln_manifest::value::{Glob, ProjectPath};
use kiln_manifest::{Span, Spanned};
use miette::Diagnostic;
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use super::*;

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(value, Span { start: 2, end: 6 })
}

/// A set from patterns as the manifest has them: those with `!` leave out.
fn set(base: &str, patterns: &[&str]) -> FileSet {
    let glob = |text: &str| spanned(Glob::parse(text).unwrap());
    let (exclude, include): (Vec<&str>, Vec<&str>) = patterns
        .iter()
        .partition(|pattern| pattern.starts_with('!'));
    FileSet {
        base: spanned(ProjectPath::parse(base).unwrap()),
        include: include.into_iter().map(glob).collect(),
        exclude: exclude
            .into_iter()
            .map(|pattern| glob(&pattern[1..]))
            .collect(),
    }
}

struct Space {
    folder: TempDir,
    cache: StatCache,
}

impl Space {
    fn new(files: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let space = Self {
            cache: StatCache::at(folder.path().join("cache")),
            folder,
        };
        for file in files {
            space.write(file, file);
        }
        space
    }

    fn project_path(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.project_path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn project(&self) -> Project {
        Project::open(&self.project_path(), &["kiln.toml", "kiln.lock"]).unwrap()
    }

    fn scan(&self, wanted: &WantedFiles<'_>) -> ProjectFiles {
        let source = SourceText::new(miette::NamedSource::new("kiln.toml", "[\"**\"]".to_owned()));
        ProjectFiles::scan(&self.project(), &source, wanted, &self.cache).unwrap()
    }

    fn scan_set(&self, set: &FileSet) -> Result<SelectedFiles, ProjectError> {
        self.scan(&WantedFiles {
            sets: vec![set],
            ..WantedFiles::default()
        })
        .set(set)
        .cloned()
    }

    fn selected(&self, base: &str, patterns: &[&str]) -> String {
        let files = self.scan_set(&set(base, patterns)).unwrap();
        let paths = files
            .tree
            .entries()
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.path));
        paths.collect::<Vec<_>>().join(" ")
    }

    /// Waits until what is written from now on has later times than what was written before.
    fn next_tick(&self) {
        let time = |path: &Path| {
            rustix::fs::stat(path)
                .map(|stat| walk::Stamp::of(&stat))
                .unwrap()
        };
        let (first, next) = (
            self.folder.path().join("tick"),
            self.folder.path().join("tock"),
        );
        fs::write(&first, "").unwrap();
        loop {
            fs::write(&next, "").unwrap();
            if time(&next).modified_ns > time(&first).changed_ns {
                return;
            }
            fs::remove_file(&next).unwrap();
        }
    }
}

#[test]
fn patterns_select_files_and_whole_folders() {
    let space = Space::new(&[
        "Makefile",
        "a-b",
        "a/x.c",
        "a/y.h",
        "a/deep/z.c",
        "b/x.c",
        "b/note.md",
        "x.c",
    ]);
    let cases: &[(&str, &[&str], &str)] = &[
        (
            ".",
            &["**"],
            "Makefile a-b a/deep/z.c a/x.c a/y.h b/note.md b/x.c x.c",
        ),
        (".", &["*.c"], "x.c"),
        (".", &["**/*.c"], "a/deep/z.c a/x.c b/x.c x.c"),
        (".", &["a"], "a/deep/z.c a/x.c a/y.h"),
        (".", &["a/**"], "a/deep/z.c a/x.c a/y.h"),
        (".", &["a/*"], "a/deep/z.c a/x.c a/y.h"),
        (".", &["a/*.c"], "a/x.c"),
        (".", &["?/x.c", "Makefile"], "Makefile a/x.c b/x.c"),
        (".", &["{a,b}/*.{c,md}"], "a/x.c b/note.md b/x.c"),
        (".", &["**", "!a"], "Makefile a-b b/note.md b/x.c x.c"),
        (".", &["**", "!a/**"], "Makefile a-b b/note.md b/x.c x.c"),
        (".", &["**", "!**/*.c"], "Makefile a-b a/y.h b/note.md"),
        (".", &["**/*.c", "!**/deep"], "a/x.c b/x.c x.c"),
        (".", &["[ab]"], "a/deep/z.c a/x.c a/y.h b/note.md b/x.c"),
        ("a", &["**"], "deep/z.c x.c y.h"),
        ("a", &["*.c"], "x.c"),
        ("a/deep", &["**"], "z.c"),
    ];
    for (base, patterns, expected) in cases {
        assert_eq!(
            space.selected(base, patterns),
            *expected,
            "{base} {patterns:?}"
        );
    }
}

#[test]
fn one_walk_serves_sets_that_leave_out_what_others_take() {
    let space = Space::new(&["a/b/c", "a/d", "other/x"]);
    let sets = [
        set(".", &["**", "!a"]),
        set("a/b", &["**"]),
        set("a", &["d"]),
        set(".", &["**/c", "!other"]),
    ];
    let single = spanned(ProjectPath::parse("a/b/c").unwrap());
    let files = space.scan(&WantedFiles {
        sets: sets.iter().collect(),
        files: vec![&single],
        ..WantedFiles::default()
    });
    let paths = |set: &FileSet| -> Vec<String> {
        let tree = &files.set(set).unwrap().tree;
        tree.entries()
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.path).into())
            .collect()
    };
    assert_eq!(paths(&sets[0]), ["other/x"]);
    assert_eq!(paths(&sets[1]), ["c"]);
    assert_eq!(paths(&sets[2]), ["d"]);
    assert_eq!(paths(&sets[3]), ["a/b/c"]);
    assert_eq!(
        files.file(&single.value).unwrap(),
        ContentDigest::of(b"a/b/c")
    );
    assert_eq!(
        files.counts,
        FileCounts {
            selected: 3,
            read: 3
        }
    );
}

#[test]
fn links_are_recorded_and_never_followed() {
    let space = Space::new(&["real/file"]);
    symlink("/etc", space.at("out")).unwrap();
    symlink("real", space.at("in")).unwrap();
    symlink("real/file", space.at("to-file")).unwrap();
    symlink("nowhere", space.at("dangling")).unwrap();
    let files = space.scan_set(&set(".", &["**"])).unwrap();
    let target = |path: &str| {
        let entries = files.tree.entries();
        match &entries
            .iter()
            .find(|entry| entry.path == path.as_bytes())
            .unwrap()
            .kind
        {
            FileKind::Link { target } => String::from_utf8(target.clone()).unwrap(),
            FileKind::File { .. } => panic!("`{path}` is a file"),
        }
    };
    assert_eq!(files.tree.entries().len(), 5);
    assert_eq!(
        (target("out"), target("in")),
        ("/etc".to_owned(), "real".to_owned())
    );
    assert_eq!(
        (target("to-file"), target("dangling")),
        ("real/file".to_owned(), "nowhere".to_owned())
    );
    for (base, pattern) in [
        (".", "out/passwd"),
        ("out", "passwd"),
        ("in", "file"),
        (".", "in/*"),
    ] {
        let error = space.scan_set(&set(base, &[pattern])).unwrap_err();
        assert!(
            matches!(error, ProjectError::NoMatch { .. }),
            "{base} {pattern}: {error}"
        );
    }
    let outside = spanned(ProjectPath::parse("out/passwd").unwrap());
    let files = space.scan(&WantedFiles {
        files: vec![&outside],
        ..WantedFiles::default()
    });
    assert!(matches!(
        files.file(&outside.value),
        Err(ProjectError::Missing { .. })
    ));
    assert!(space.project().open_file(b"out/passwd").is_err());
    assert!(space.project().open_file(b"../cache").is_err());
}

#[test]
fn what_is_not_the_projects_has_to_be_spelled_out() {
    let space = Space::new(&[
        "kiln.toml",
        "kiln.lock",
        ".git/HEAD",
        "sub/.git/HEAD",
        "sub/kiln.lock",
        ".gitignore",
        "file",
    ]);
    assert_eq!(
        space.selected(".", &["**"]),
        ".gitignore file sub/kiln.lock"
    );
    assert_eq!(
        space.selected(".", &["*", "kiln.toml"]),
        ".gitignore file kiln.toml sub/kiln.lock"
    );
    assert_eq!(space.selected(".", &[".git"]), ".git/HEAD");
    assert_eq!(
        space.selected(".", &["**/.git/**"]),
        ".git/HEAD sub/.git/HEAD"
    );
    assert_eq!(space.selected(".git", &["**"]), "HEAD");
    assert_eq!(space.selected("sub", &["**"]), "kiln.lock");
}

#[test]
fn the_store_is_left_out_wherever_it_is() {
    let space = Space::new(&["deep/store/blob", "file"]);
    let project = space
        .project()
        .without_store(&space.at("deep/store"))
        .unwrap();
    let source = SourceText::new(miette::NamedSource::new("kiln.toml", String::new()));
    let all = set(".", &["**"]);
    let wanted = WantedFiles {
        sets: vec![&all],
        ..WantedFiles::default()
    };
    let files = ProjectFiles::scan(&project, &source, &wanted, &StatCache::none()).unwrap();
    assert_eq!(files.set(&all).unwrap().tree.entries().len(), 1);
}

#[test]
fn pipes_and_sockets_are_passed_over() {
    let space = Space::new(&["file"]);
    let _socket = std::os::unix::net::UnixListener::bind(space.at("socket")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, space.at("pipe"), Mode::RUSR).unwrap();
    assert_eq!(space.selected(".", &["**"]), "file");
    let pipe = spanned(ProjectPath::parse("pipe").unwrap());
    let files = space.scan(&WantedFiles {
        files: vec![&pipe],
        ..WantedFiles::default()
    });
    assert!(files.file(&pipe.value).is_err());
}

#[test]
fn a_walk_goes_as_deep_as_paths_can_say() {
    const LEVELS: usize = 1900;
    let space = Space::new(&["other", "top/file"]);
    let mut folder: OwnedFd = fs::File::open(space.at("top")).unwrap().into();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    // One below the other, as the path of the project comes before it.
    for _ in 0..LEVELS {
        rustix::fs::mkdirat(&folder, c"a", Mode::RWXU).unwrap();
        folder = rustix::fs::openat(&folder, c"a", flags, Mode::empty()).unwrap();
    }
    fs::rename(
        space.at("top/file"),
        format!("/proc/self/fd/{}/file", folder.as_raw_fd()),
    )
    .unwrap();
    let found = walk::walk(&space.project(), &[vec![]], &|_| true);
    let project = fs::File::open(space.project_path()).unwrap();
    kiln_layer::remove_tree(project.as_fd(), b"top").unwrap();
    let found = found.unwrap().found;
    let deep = format!("top/{}file", "a/".repeat(LEVELS));
    let paths: Vec<&[u8]> = found.iter().map(|found| found.path.as_slice()).collect();
    assert!(
        paths == [b"other".as_slice(), deep.as_bytes()],
        "{} files",
        paths.len()
    );
}

#[test]
fn a_pattern_without_a_match_is_shown_in_the_manifest() {
    let space = Space::new(&["a/file"]);
    for patterns in [&["a/**", "src/**"][..], &["a", "*.rs"], &["**", "!a"]] {
        let error = space.scan_set(&set(".", patterns)).unwrap_err();
        let ProjectError::NoMatch {
            patterns: empty,
            at,
            base,
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!(Path::new(base), space.project().path());
        assert!(empty.len() == 1 && patterns.contains(&empty[0].as_str()));
        assert_ne!(empty[0], "a");
        assert_eq!((at.offset(), at.len()), (2, 4));
        assert_eq!(error.code().unwrap().to_string(), "build::no_match");
        assert!(error.help().is_some() && error.source_code().is_some());
    }
    let error = space.scan_set(&set(".", &["x", "a", "y"])).unwrap_err();
    assert_eq!(error.to_string(), "`x`, `y` match no file of the project");
    assert_eq!(error.labels().unwrap().count(), 2);
    // Other sets of the same build are still there.
    let (bad, good) = (set(".", &["nothing"]), set(".", &["a"]));
    let files = space.scan(&WantedFiles {
        sets: vec![&bad, &good],
        ..WantedFiles::default()
    });
    assert!(files.set(&bad).is_err() && files.set(&good).is_ok());
}

#[test]
fn only_names_contents_bits_and_targets_count() {
    let space = Space::new(&["one", "two"]);
    let all = set(".", &["**"]);
    let digest = || space.scan_set(&all).unwrap().digest;
    let first = digest();
    fs::set_permissions(space.at("one"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(space.at("empty")).unwrap();
    space.write("two", "two");
    assert_eq!(digest(), first, "mode, time or an empty folder counts");
    let mut seen = BTreeSet::from([first]);
    fs::set_permissions(space.at("one"), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(seen.insert(digest()), "the executable bit");
    space.write("two", "TWO");
    assert!(seen.insert(digest()), "a content");
    fs::rename(space.at("two"), space.at("three")).unwrap();
    assert!(seen.insert(digest()), "a name");
    symlink("a", space.at("link")).unwrap();
    assert!(seen.insert(digest()), "a link");
    fs::remove_file(space.at("link")).unwrap();
    symlink("b", space.at("link")).unwrap();
    assert!(seen.insert(digest()), "a target");
}

#[test]
fn files_that_did_not_change_are_not_read_again() {
    let space = Space::new(&["a/one", "a/two", "b/three"]);
    space.next_tick();
    let (all, part) = (set(".", &["**"]), set("a", &["**"]));
    let scan = |set| {
        space
            .scan(&WantedFiles {
                sets: vec![set],
                ..WantedFiles::default()
            })
            .counts
    };
    assert_eq!(
        scan(&all),
        FileCounts {
            selected: 3,
            read: 3
        }
    );
    assert_eq!(
        scan(&all),
        FileCounts {
            selected: 3,
            read: 0
        }
    );
    // A walk elsewhere does not forget the rest.
    space.write("a/one", "changed");
    space.next_tick();
    assert_eq!(
        scan(&part),
        FileCounts {
            selected: 2,
            read: 1
        }
    );
    fs::remove_file(space.at("a/two")).unwrap();
    assert_eq!(
        scan(&part),
        FileCounts {
            selected: 1,
            read: 0
        }
    );
    assert_eq!(
        scan(&all),
        FileCounts {
            selected: 2,
            read: 0
        }
    );
}

#[test]
fn a_file_written_twice_within_a_tick_is_seen() {
    let space = Space::new(&["file"]);
    let all = set(".", &["**"]);
    for round in 0..200 {
        let text = format!("{round:04}");
        space.write("file", &text);
        let digest = space.scan_set(&all).unwrap().tree.entries()[0].kind.clone();
        let content = ContentDigest::of(text.as_bytes());
        assert_eq!(
            digest,
            FileKind::File {
                content,
                executable: false
            },
            "round {round}"
        );
    }
}

#[test]
fn a_damaged_cache_is_as_good_as_none() {
    let space = Space::new(&["one", "two"]);
    space.next_tick();
    let all = set(".", &["**"]);
    let digest = space.scan_set(&all).unwrap().digest;
    let cache = space.folder.path().join("cache");
    let good = fs::read(&cache).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        fs::write(&cache, &bad).unwrap();
        assert_eq!(space.scan_set(&all).unwrap().digest, digest, "byte {at}");
        fs::write(&cache, &good[..at]).unwrap();
        assert_eq!(space.scan_set(&all).unwrap().digest, digest, "cut at {at}");
    }
    assert_eq!(
        fs::read(&cache).unwrap(),
        good,
        "the last scan wrote it anew"
    );
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let space = Space::new(&["one"]);
    let cache = StatCache::at(space.folder.path().join("missing/cache"));
    let all = set(".", &["**"]);
    let wanted = WantedFiles {
        sets: vec![&all],
        ..WantedFiles::default()
    };
    let source = SourceText::new(miette::NamedSource::new("kiln.toml", String::new()));
    let files = ProjectFiles::scan(&space.project(), &source, &wanted, &cache).unwrap();
    assert!(files.set(&all).is_ok());
    assert_eq!(files.warnings.len(), 1);
}

#[test]
fn a_file_that_changes_after_the_scan_cannot_be_copied() {
    let space = Space::new(&["src/one", "src/two"]);
    let files = space.scan_set(&set("src", &["**"])).unwrap();
    let project = space.project();
    space.write("src/two", "TWO, changed");
    let copy = |at: usize| {
        let mut file = project
            .open_selected(&files.base, &files.tree.entries()[at])
            .unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map(|_| bytes)
    };
    assert_eq!(copy(0).unwrap(), b"src/one");
    let error = copy(1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(
        error.to_string().contains("`src/two` was changed"),
        "{error}"
    );
}

#[test]
fn an_unreadable_file_names_itself() {
    let space = Space::new(&["one"]);
    let project = space.project();
    let missing = Project::open(&space.at("nothing"), &[]);
    assert!(matches!(
        missing,
        Err(ProjectError::Io { doing: "open", .. })
    ));
    assert!(matches!(
        project.open_file(b"nothing"),
        Err(ProjectError::Changed { .. })
    ));
}

#[test]
fn a_walk_is_sorted_whatever_the_names() {
    let space = Space::new(&[
        "a/b", "a-b", "a.b/c", "a0", "a/b-c/d", "a/b.c", "ab/c", "0", "a/b!/x",
    ]);
    let project = space.project();
    let found = walk::walk(&project, &[Vec::new()], &|_| true)
        .unwrap()
        .found;
    let parts: Vec<&[u8]> = found.iter().map(|found| found.path.as_slice()).collect();
    assert_eq!(parts.len(), 9);
    assert!(parts.is_sorted(), "{parts:?}");
    let roots = [b"a".to_vec(), b"a-b".to_vec(), b"a.b".to_vec()];
    let found = walk::walk(&project, &roots, &|_| true).unwrap().found;
    assert!(found.is_sorted_by(|one, next| one.path < next.path));
}

#[test]
fn many_files_on_all_cores_are_the_same_tree_as_few_on_one() {
    let space = Space::new(&[]);
    let halves = [0..FEW_FILES, FEW_FILES..FEW_FILES + 7];
    for (folder, numbers) in ["a", "b"].iter().zip(halves) {
        fs::create_dir_all(space.at(folder)).unwrap();
        for number in numbers {
            fs::write(
                space.at(&format!("{folder}/{number}")),
                number.to_le_bytes(),
            )
            .unwrap();
        }
    }
    space.next_tick();
    let few = ["a/**", "b/**"].map(|pattern| space.scan_set(&set(".", &[pattern])).unwrap());
    let entries: Vec<FileEntry> = few
        .iter()
        .flat_map(|half| half.tree.entries().iter().cloned())
        .collect();
    let expected = kiln_graph::FileTree::new(entries);
    let all = set(".", &["**"]);
    let files = space.scan(&WantedFiles {
        sets: vec![&all],
        ..WantedFiles::default()
    });
    assert_eq!(files.counts.read, 0);
    let many = files.set(&all).unwrap();
    assert_eq!(*many.tree, expected);
    assert_eq!(many.digest, expected.digest());
    assert_eq!(many.sizes_bytes.len(), FEW_FILES + 7);
    assert!(many.sizes_bytes.iter().all(|size| *size == 8));
}
