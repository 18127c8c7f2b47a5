//! `--runtime`: another program that runs containers, by name or path.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln_runtime::OtherRuntime;

use crate::errors::{Class, Failure, Outcome};
use crate::settings::Settings;

/// What kiln itself is called.
const OWN: &str = "kiln";

/// Where distributions put runtimes, and ordinary users' `PATH` may not lead.
const FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The runtime that was named on the command line, else in the user's settings; `None` for kiln itself.
///
/// # Errors
/// There is no such program.
pub(crate) fn find(named: Option<&str>, settings: &Settings) -> Outcome<Option<OtherRuntime>> {
    let name = named.or(settings.user.run.runtime.as_deref());
    let Some(name) = name.filter(|name| *name != OWN) else {
        return Ok(None);
    };
    let program = if name.contains('/') {
        let path = settings.directory.join(name);
        let path = std::path::absolute(&path).unwrap_or(path);
        is_program(&path).then_some(path)
    } else {
        let folders = settings.environment.folders().into_iter();
        let folders = folders.chain(FOLDERS.map(PathBuf::from));
        let mut paths = folders.map(|folder| folder.join(name));
        paths.find(|path| !name.is_empty() && is_program(path))
    };
    let missing = || {
        let message = format!("there is no runtime `{name}`");
        let help = "install its package, such as crun or runc, or leave out --runtime: kiln runs containers itself";
        Failure::message(Class::User, message, Some(help.to_owned()))
    };
    Ok(Some(OtherRuntime {
        name: name.to_owned(),
        program: program.ok_or_else(missing)?,
        arguments: Vec::new(),
    }))
}

fn is_program(path: &Path) -> bool {
    let metadata = std::fs::metadata(path);
    path.is_absolute()
        && metadata.is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}
