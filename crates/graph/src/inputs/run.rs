//! The inputs of `run`, as resolved.

use std::collections::BTreeMap;

use kiln_manifest::Spanned;
use kiln_manifest::model::{Command, Run, SecretTarget, SecretUse};
use kiln_manifest::value::{ContainerPath, Name};

use super::{Resolver, number, yes_or_no};
use crate::sink::Sink;
use crate::tree::TreeDigest;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunInputs {
    argv: Vec<String>,
    environment: BTreeMap<String, String>,
    user: String,
    workdir: String,
    network: bool,
    ssh: bool,
    files: Option<TreeDigest>,
    caches: BTreeMap<String, String>,
    secrets: Vec<(String, String)>,
}

impl RunInputs {
    pub(super) fn of<R: Resolver>(run: &Run, resolver: &mut R) -> Result<Self, R::Error> {
        // Limits and the timeout can make a step fail; they cannot change what it makes.
        let Run {
            command,
            files,
            workdir,
            env,
            user,
            network,
            caches,
            secrets,
            ssh,
            limits: _,
            timeout: _,
        } = run;
        let mut environment = resolver.environment()?;
        for (name, value) in env {
            environment.insert(name.as_str().to_owned(), value.clone());
        }
        let cached = |(name, path): (&Name, &Spanned<ContainerPath>)| {
            (name.to_string(), path.value.to_string())
        };
        let mut secrets: Vec<(String, String)> = secrets.iter().map(seen_secret).collect();
        secrets.sort();
        Ok(Self {
            argv: Command::argv(command),
            environment,
            user: user
                .as_ref()
                .map_or_else(|| "0:0".to_owned(), |user| user.value.to_string()),
            workdir: workdir
                .as_ref()
                .map_or_else(|| "/".to_owned(), |path| path.value.to_string()),
            network: *network,
            ssh: *ssh,
            files: files
                .as_ref()
                .map(|files| resolver.files(files))
                .transpose()?,
            caches: caches.iter().map(cached).collect(),
            secrets,
        })
    }

    pub(super) fn describe(&self, sink: &mut impl Sink) {
        let Self {
            argv,
            environment,
            user,
            workdir,
            network,
            ssh,
            files,
            caches,
            secrets,
        } = self;
        sink.field("action", b"run");
        for (at, argument) in argv.iter().enumerate() {
            sink.item("argv", number(at).as_bytes(), argument.as_bytes());
        }
        for (name, value) in environment {
            sink.item("env", name.as_bytes(), value.as_bytes());
        }
        sink.field("user", user.as_bytes());
        sink.field("workdir", workdir.as_bytes());
        sink.field("network", yes_or_no(*network));
        sink.field("ssh", yes_or_no(*ssh));
        for (name, path) in caches {
            sink.item("cache", name.as_bytes(), path.as_bytes());
        }
        for (name, place) in secrets {
            sink.item("secret", name.as_bytes(), place.as_bytes());
        }
        if let Some(files) = files {
            sink.field("files", files.hex().as_bytes());
            // Once they were root's for everybody.
            if !matches!(user.as_str(), "0" | "0:0" | "root" | "root:root") {
                sink.field("files-owner", b"user");
            }
        }
    }
}

fn seen_secret(secret: &SecretUse) -> (String, String) {
    let SecretUse { secret, target } = secret;
    let place = match target {
        SecretTarget::File(path) => format!("file {path}"),
        SecretTarget::Environment(name) => format!("variable {name}"),
    };
    (secret.value.to_string(), place)
}
