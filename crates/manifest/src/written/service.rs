//! `[service.*]`.

use crate::decode::{Flag, List, Map, OrString, Ports, Required, table};
use crate::model::{Network, Transport};
use crate::span::Spanned;
use crate::value::{
    ByteSize, ContainerPath, EnvName, HostAddress, HostName, Name, ProjectPath, Signal, Text,
    TimeSpan, UserSpec,
};
use crate::written::{Command, From, Limits, SecretUse};

table! {
    /// A service: how an image is run. Exactly one of `image` and `from` says which.
    #[schemars(extend("oneOf" = [{"required": ["image"]}, {"required": ["from"]}]))]
    Service as "a service" {
        /// An image of this file.
        image: Option<Spanned<Name>>,
        /// What to run if it is not an image of this file, as an image's `from`.
        from: Option<From>,
        /// The command, in place of the image's entrypoint and command: a shell script (a
        /// string, by `/bin/sh -e -c`) or a list of arguments.
        run: Option<Command>,
        /// Environment variables, on top of the image's.
        env: Option<Map<EnvName, Spanned<Text>>>,
        /// The user, and maybe the group, in place of the image's.
        user: Option<Spanned<UserSpec>>,
        /// The working directory, in place of the image's.
        workdir: Option<Spanned<ContainerPath>>,
        /// The name of the machine. Default: the service's name.
        hostname: Option<Spanned<HostName>>,
        /// What is mounted, by absolute path in the container.
        mounts: Option<Map<ContainerPath, Mount>>,
        /// Limits of what the container uses.
        limits: Option<Limits>,
        /// Whether the container cannot write to its own root file system. Default: `false`.
        read_only: Option<Flag>,
        /// The network, if it is none of this file: `none`, `host` or `bridge`, which services of all
        /// projects share. Default: `bridge` with `ports`, else `none`.
        network: Option<Spanned<Network>>,
        /// The networks of this file that it is in. They are declared as `[network.NAME]`. Others in there
        /// reach it by the service's name.
        networks: Option<List<Spanned<Name>>>,
        /// Ports of the machine that lead to the service.
        ports: Option<List<PublishedPort>>,
        /// Secrets the container sees. They are declared as `[secret.NAME]`.
        secrets: Option<List<OrString<SecretUse>>>,
        /// Whether the container has a terminal. Default: if kiln itself has one.
        tty: Option<Flag>,
        /// The signal that asks the process to stop. Default: the image's, else `SIGTERM`.
        stop_signal: Option<Spanned<Signal>>,
        /// How long to wait after that signal before the process is killed. Default: `10s`.
        stop_timeout: Option<Spanned<TimeSpan>>,
    }
    later {
        "after" => "remove it, and start the services one by one with `kiln run` in the right order",
        "health" => "remove it: services are not watched yet",
        "kind" => "remove it: `kiln run` waits for the service and passes on its exit code, as a task needs",
        "restart" => "remove it: a service runs once for each `kiln run`",
        "watch" => "remove it, and run `kiln run` again after a change",
        "replicas" => "remove it: `kiln run` starts one container",
        "capabilities" => "remove it: containers have docker's default capabilities",
        "privileged" => "remove it: containers are always confined",
        "devices" => "remove it: containers have the standard devices",
        "labels" => "put labels into the `config` of the image",
        "entrypoint" => "write the whole command in `run`, or put `entrypoint` into the `config` of the image",
    }
}

table! {
    /// A port of the machine that leads to a service.
    PublishedPort as "a port" {
        /// The port that the service listens on, or several as `"8000-8010"`.
        container: Required<Ports<1>>,
        /// The port of the machine, or as many as the service has; of several for one port, one that is free is
        /// taken. Default: one that is free, also with `0`.
        host: Option<Ports<0>>,
        /// The only address of the machine that it is reached by, such as `127.0.0.1`. Default: all of them.
        address: Option<Spanned<HostAddress>>,
        /// How it is spoken to: `tcp` or `udp`. Default: `tcp`.
        protocol: Option<Spanned<Transport>>,
    }
}

table! {
    /// A mount: exactly one of `bind`, `volume` and `tmpfs`.
    #[schemars(extend("oneOf" = [
        {"required": ["bind"]}, {"required": ["volume"]}, {"required": ["tmpfs"]}
    ]))]
    Mount as "a mount" {
        /// A file or folder of the project.
        bind: Option<Spanned<ProjectPath>>,
        /// A volume, declared as `[volume.NAME]`.
        volume: Option<Spanned<Name>>,
        /// Memory that is gone with the container, and the most it holds, such as `64MB`.
        tmpfs: Option<Spanned<ByteSize>>,
        /// Whether the container cannot write to it. Default: `false`.
        read_only: Option<Flag>,
    }
}
