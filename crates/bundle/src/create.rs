//! Makes a container: everything but the start of its program.

mod undo;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_sys::Errno;
use kiln_sys::namespace::Cloned;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::cgroup::{Group, Host};
use crate::channel::{Channel, Message};
use crate::container::Container;
use crate::error::BundleError;
use crate::hook;
use crate::init::{self, First};
use crate::namespaces::Namespaces;
use crate::seccomp::{self, Filter};
use crate::setup::mounts::Planned;
use crate::setup::{console, id_map, rights, root};
use crate::spec::{Linux, NamespaceKind, Spec};
use crate::state::{self, Folder, Record, Status};
use crate::validate;

use undo::Undo;

/// Longest `config.json` that is read.
const LONGEST_CONFIG_BYTES: u64 = 16 << 20;

/// How a container is made, beside what its bundle says.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Its name.
    pub id: String,
    /// Absolute path of the folder with `config.json`.
    pub bundle: PathBuf,
    /// Gets the number of the first process.
    pub pid_file: Option<PathBuf>,
    /// A connected socket that gets the outer end of the terminal.
    pub console: Option<Arc<OwnedFd>>,
    /// How many descriptors from 3 on the program keeps.
    pub preserve_fds: u32,
    /// Variables for the program beside those of the bundle, as `NAME=value`.
    pub environment: Vec<String>,
    /// The root is changed without `pivot_root`.
    pub no_pivot: bool,
    /// The program keeps the runtime's session keyring.
    pub no_new_keyring: bool,
    /// `cgroupsPath` is `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// The time, as the state will show it.
    pub created: String,
}

/// Makes a container. On success its first process waits to be started; on failure nothing is left.
///
/// Returns it with what may surprise.
///
/// # Errors
/// [`BundleError`].
pub fn create(
    root: &Path,
    options: &CreateOptions,
) -> Result<(Container, Vec<String>), BundleError> {
    let spec = read_spec(&options.bundle)?;
    let folder = Folder::make(root, &options.id)?;
    let lock = folder.lock()?;
    let mut undo = Undo {
        folder: Some(&folder),
        group: Group::default(),
        first: None,
    };
    let mut warnings = Vec::new();
    let record = create_in(&folder, &spec, options, &mut undo, &mut warnings)?;
    undo.keep();
    drop(lock);
    Ok((Container::new(folder, record), warnings))
}

fn read_spec(bundle: &Path) -> Result<Spec, BundleError> {
    let path = bundle.join("config.json");
    let length = fs::metadata(&path)
        .map_err(BundleError::file("read", &path))?
        .len();
    if length > LONGEST_CONFIG_BYTES {
        let problem = format!(
            "`{}` has {length} bytes, more than {LONGEST_CONFIG_BYTES}",
            path.display()
        );
        return Err(BundleError::Invalid { problem });
    }
    let text = fs::read(&path).map_err(BundleError::file("read", &path))?;
    Spec::parse(&text)
        .map_err(|error| BundleError::invalid(format!("`{}`: {error}", path.display())))
}

fn create_in(
    folder: &Folder,
    spec: &Spec,
    options: &CreateOptions,
    undo: &mut Undo<'_>,
    warnings: &mut Vec<String>,
) -> Result<Record, BundleError> {
    check_kept(options.preserve_fds)?;
    let linux = spec.linux();
    let namespaces = Namespaces::new(&linux)?;
    validate::check(spec, &namespaces)?;
    let bundle = &options.bundle;
    let rootfs = find_root(spec, bundle)?;
    let terminal = spec
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    check_console(terminal, options.console.is_some())?;
    let (filter, listener) = filter(&linux)?;
    if let Some(process) = &spec.process {
        rights::warn_of(process, namespaces.has(NamespaceKind::User))?;
    }
    folder.save_spec(spec)?;

    let host = Host::discover()?;
    undo.group = make_group(&host, &linux, options, warnings)?;
    if let Some(resources) = &linux.resources {
        undo.group.limit(resources)?;
    }
    let mounts = plan_mounts(spec, &linux, bundle)?;
    let root = clone_root(&rootfs, namespaces.has(NamespaceKind::Mount))?;
    let start = listen(folder)?;
    let mut record = Record {
        id: options.id.clone(),
        bundle: bundle.clone(),
        rootfs: rootfs.clone(),
        created: options.created.clone(),
        owner: rustix::process::getuid().as_raw(),
        pid: 0,
        start_time: 0,
        group: undo.group.clone(),
        keyring: !options.no_new_keyring,
    };
    folder.save(&record)?;

    let (ours, theirs) = Channel::pair()?;
    let (entrance, mut unified) = undo.group.open()?;
    let first = First {
        entrance,
        spec,
        options,
        namespaces: &namespaces,
        host: &host,
        rootfs: &rootfs,
        root,
        mounts,
        filter,
        listener,
        start,
        record: &record,
    };
    let cloned = namespaces.start(&mut unified, move || init::run(first, &theirs))?;
    record_first(&mut record, cloned, undo)?;
    folder.save(&record)?;
    undo.group.follow(&unified, record.pid)?;
    set_out_of_memory_score(spec, record.pid)?;
    ours.send(&Message::Go)?;
    converse(&ours, spec, &record)?;
    if let Some(path) = &options.pid_file {
        write_pid(path, record.pid)?;
    }
    ours.send(&Message::Go)?;
    // It lives on without this process only when it says so.
    ours.expect(&Message::Ready)?;
    Ok(record)
}

/// Finds the folder that becomes the root.
fn find_root(spec: &Spec, bundle: &Path) -> Result<PathBuf, BundleError> {
    let root = spec.root.as_ref();
    let rootfs = root.map_or(PathBuf::new(), |root| bundle.join(&root.path));
    if rootfs.is_dir() {
        return Ok(rootfs);
    }
    let problem = format!("root.path: `{}` is not a directory", rootfs.display());
    Err(BundleError::Invalid { problem })
}

/// Assembles the filter of system calls, and connects to who is asked by it.
fn filter(linux: &Linux) -> Result<(Option<Filter>, Option<OwnedFd>), BundleError> {
    let Some(seccomp) = &linux.seccomp else {
        return Ok((None, None));
    };
    let filter = seccomp::filter(seccomp)?;
    let listener = match &filter {
        Some(filter) if filter.notifies => {
            Some(console::connect(Path::new(&seccomp.listener_path))?)
        }
        _ => None,
    };
    Ok((filter, listener))
}

/// Makes the cgroup, or takes the one that is there if something can run in it.
fn make_group(
    host: &Host,
    linux: &Linux,
    options: &CreateOptions,
    warnings: &mut Vec<String>,
) -> Result<Group, BundleError> {
    let path = group_path(&linux.cgroups_path, options)?;
    let lenient = !rustix::process::geteuid().is_root() || namespaces_of_others();
    let group = Group::make(host, &path, lenient)?;
    if group.is_frozen() {
        return Err(BundleError::invalid(
            "linux.cgroupsPath: container's cgroup unexpectedly frozen, so nothing in it could run; thaw it",
        ));
    }
    if !group.processes()?.is_empty() {
        warnings.push(format!(
            "container's cgroup is not empty: others are in `{}` too",
            path.display()
        ));
    }
    Ok(group)
}

/// Reads the mounts, and makes the user namespaces that map their ids.
fn plan_mounts(spec: &Spec, linux: &Linux, bundle: &Path) -> Result<Vec<Planned>, BundleError> {
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        let mut planned = Planned::new(mount, bundle)?;
        if planned.options.id_map.is_some() {
            let own = !mount.uid_mappings.is_empty();
            let (uids, gids) = if own {
                (&mount.uid_mappings, &mount.gid_mappings)
            } else {
                (&linux.uid_mappings, &linux.gid_mappings)
            };
            planned.id_map = Some(id_map::namespace(uids, gids)?);
        }
        mounts.push(planned);
    }
    Ok(mounts)
}

/// Clones the root; `None` where the runtime may not, or mounts are not the container's own.
fn clone_root(rootfs: &Path, private_mounts: bool) -> Result<Option<OwnedFd>, BundleError> {
    match root::clone_root(rootfs) {
        Ok(root) if private_mounts => Ok(Some(root)),
        Ok(_) | Err(Errno::PERM) => Ok(None),
        Err(errno) => {
            let doing = format!("opening the root `{}`", rootfs.display());
            Err(BundleError::kernel(doing)(errno))
        }
    }
}

fn set_out_of_memory_score(spec: &Spec, pid: i32) -> Result<(), BundleError> {
    let process = spec.process.as_ref();
    let Some(score) = process.and_then(|process| process.oom_score_adj) else {
        return Ok(());
    };
    let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
    fs::write(&path, score.to_string()).map_err(BundleError::file("write", &path))
}

/// Answers the first process until it is ready.
fn converse(channel: &Channel, spec: &Spec, record: &Record) -> Result<(), BundleError> {
    loop {
        match channel.receive()? {
            Message::Ready => return Ok(()),
            Message::WantsHooks => {
                if let Some(hooks) = &spec.hooks {
                    let state = record.state(spec, Status::Creating);
                    hook::run(&hooks.prestart, "prestart", &state)?;
                    hook::run(&hooks.create_runtime, "createRuntime", &state)?;
                }
                channel.send(&Message::Go)?;
            }
            Message::WantsLimits => {
                if let Some(process) = &spec.process {
                    rights::limit(record.pid, &process.rlimits)?;
                }
                channel.send(&Message::Go)?;
            }
            other @ (Message::Go
            | Message::WantsMaps
            | Message::Started(_)
            | Message::Failed(_)) => return Err(other.unexpected()),
        }
    }
}

/// Notes the first process down, and makes it go if the rest fails.
fn record_first(
    record: &mut Record,
    cloned: Cloned,
    undo: &mut Undo<'_>,
) -> Result<(), BundleError> {
    record.pid = cloned.pid;
    undo.first = Some(cloned);
    record.start_time = state::start_time(record.pid).ok_or_else(|| BundleError::Init {
        message: "the container's first process ended at once".to_owned(),
    })?;
    Ok(())
}

/// The socket on which the first process waits.
fn listen(folder: &Folder) -> Result<OwnedFd, BundleError> {
    let fail = || BundleError::kernel(format!("making `{}`", folder.start_socket().display()));
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(fail())?;
    let directory = kiln_sys::confined::open_directory(folder.path()).map_err(fail())?;
    let address = console::address(directory.as_fd(), Path::new("start")).map_err(fail())?;
    rustix::net::bind(&socket, &address).map_err(fail())?;
    rustix::net::listen(&socket, 1).map_err(fail())?;
    Ok(socket)
}

/// A terminal needs somebody to hand it to, and nobody else gets one.
pub(crate) fn check_console(terminal: bool, socket: bool) -> Result<(), BundleError> {
    let problem = match (terminal, socket) {
        (true, false) => {
            "process.terminal: a terminal needs a console socket (--console-socket) to go to"
        }
        (false, true) => "there is a console socket, but process.terminal is not set",
        (true, true) | (false, false) => return Ok(()),
    };
    Err(BundleError::invalid(problem))
}

/// Where the container's cgroup is.
fn group_path(path: &str, options: &CreateOptions) -> Result<PathBuf, BundleError> {
    if options.systemd_cgroup {
        return Err(BundleError::invalid(
            "--systemd-cgroup: kiln makes cgroups itself; run without it, or set the cgroup manager to cgroupfs",
        ));
    }
    Ok(if path.is_empty() {
        PathBuf::from("/").join(&options.id)
    } else {
        PathBuf::from(path)
    })
}

/// Whether this process is in a user namespace that maps other users, so that it is root of nothing but that.
fn namespaces_of_others() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = ["0", "0", "4294967295"];
    map.split_whitespace().ne(whole)
}

/// Descriptors that are to be kept must be there, and must not be kiln's own.
fn check_kept(count: u32) -> Result<(), BundleError> {
    for number in 3..3 + count {
        let flags = fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
        // `flags:` in octal, with `O_CLOEXEC` for those that kiln opened.
        let flags = flags.ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        });
        if flags.is_none_or(|flags| flags & 0o2_000_000 != 0) {
            let problem = format!("--preserve-fds {count}: descriptor {number} is not open");
            return Err(BundleError::Invalid { problem });
        }
    }
    Ok(())
}

/// Writes a number into a file, which is complete or not there.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<(), BundleError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}"));
    fs::write(&draft, pid.to_string()).map_err(BundleError::file("write", &draft))?;
    fs::rename(&draft, path).map_err(BundleError::file("write", path))
}
