//! Services: which image, and how it is run.

use std::collections::BTreeMap;

use crate::check::Checker;
use crate::check::names::Kind;
use crate::check::step::{command, limits};
use crate::decode::{List, Map, Required};
use crate::model::{Base, Mount, MountSource, Network, PublishedPort, Service, ServiceImage};
use crate::problem::Problem;
use crate::span::Spanned;
use crate::value::{ContainerPath, Name};
use crate::written;

impl Checker<'_> {
    pub(super) fn service(
        &mut self,
        name: Spanned<Name>,
        written: written::Service,
    ) -> Option<Service> {
        let help = "add `image = \"NAME\"` or `from = { registry = \"…\" }`";
        self.check_networks(&written);
        let choice = self.exactly_one(&written, "a service", &["image", "from"], help);
        // No `..`: a new key does not compile until it is handled here.
        let written::Service {
            at: _,
            image,
            from,
            run,
            env,
            user,
            workdir,
            hostname,
            mounts,
            limits,
            read_only,
            network,
            networks,
            ports,
            secrets,
            tty,
            stop_signal,
            stop_timeout,
        } = written;
        let image = match choice {
            None => None,
            Some("image") => image.and_then(|image| {
                self.resolve(Kind::Image, &image)?;
                Some(ServiceImage::Image(image))
            }),
            Some(_) => from.and_then(|from| self.service_base(from)),
        };
        let mounts = self.mounts(mounts);
        let env = self.env(env, None);
        let secrets = self.secrets(secrets, &env);
        Some(Service {
            name,
            image: image?,
            run: run.map(command),
            env,
            user,
            workdir: workdir.map(|workdir| workdir.value),
            hostname: hostname.map(|hostname| hostname.value.0),
            mounts,
            limits: self::limits(limits),
            read_only: read_only.is_some_and(|flag| flag.value),
            network: network.map(|network| network.value),
            networks: self.networks(networks),
            ports: ports
                .map(|ports| {
                    let ports = ports.items.into_iter();
                    ports.filter_map(|port| self.port(port)).collect()
                })
                .unwrap_or_default(),
            secrets,
            tty: tty.map(|tty| tty.value),
            stop_signal: stop_signal.map(|signal| signal.value),
            stop_timeout: stop_timeout.map(|timeout| timeout.value.0),
        })
    }

    fn port(&mut self, written: written::PublishedPort) -> Option<PublishedPort> {
        let written::PublishedPort {
            at: _,
            container: Required(container),
            host,
            address,
            protocol,
        } = written;
        let container = container?;
        let host = host.filter(|host| host.first > 0);
        if let Some(host) = host.filter(|_| container.count() > 1)
            && host.count() != container.count()
        {
            self.invalid(
                format!("{}-{}", host.first, host.last),
                format!(
                    "has not as many ports as `container`, which has {}",
                    container.count()
                ),
                host.span,
                "write ranges of the same length",
            );
        }
        Some(PublishedPort {
            container: (container.first, container.last),
            host: host.map(|host| (host.first, host.last)),
            address: address.map(|address| address.value.0),
            transport: protocol.map(|protocol| protocol.value).unwrap_or_default(),
        })
    }

    /// A service is in networks of this file or in another one; a port needs one that leads to it.
    fn check_networks(&mut self, written: &written::Service) {
        let at = &written.at;
        let present = at.present(&["network", "networks"]);
        if let [(first, first_at), (second, second_at)] = *present.as_slice() {
            self.problems.push(Problem::ExclusiveKeys {
                first: first.to_owned(),
                second: second.to_owned(),
                first_at: first_at.into(),
                second_at: second_at.into(),
            });
        }
        let closed = written.network.as_ref().and_then(|network| {
            let word = match network.value {
                Network::None => "none",
                Network::Host => "host",
                Network::Bridge => return None,
            };
            Some((word, network.span))
        });
        let has_ports = written.ports.as_ref().is_some_and(|ports| !ports.is_empty);
        if let (Some((word, span)), true) = (closed, has_ports) {
            self.invalid(
                word,
                "is a network that ports cannot be published from",
                span,
                "remove it, or remove `ports`",
            );
        }
    }

    fn networks(&mut self, written: Option<List<Spanned<Name>>>) -> Vec<Spanned<Name>> {
        let names = self.distinct("networks", written, ToString::to_string);
        let known = names.into_iter();
        known
            .filter(|name| self.resolve(Kind::Network, name).is_some())
            .collect()
    }

    fn service_base(&mut self, from: written::From) -> Option<ServiceImage> {
        let base = self.base(from, None)?;
        match &base.value {
            Base::Image(image) => {
                self.invalid(
                    &image.value,
                    "is an image of this file, which `from` of a service is not for",
                    base.span,
                    format!("write `image = \"{}\"` in place of `from`", image.value),
                );
                None
            }
            Base::Scratch => {
                self.invalid(
                    "scratch",
                    "has nothing to run",
                    base.span,
                    "name an image that has a program",
                );
                None
            }
            Base::Registry(_) | Base::Debian(_) | Base::Oci(_) | Base::Rootfs(_) => {
                Some(ServiceImage::From(base))
            }
        }
    }

    fn mounts(
        &mut self,
        written: Option<Map<ContainerPath, written::Mount>>,
    ) -> BTreeMap<ContainerPath, Mount> {
        let mut mounts = BTreeMap::new();
        for (path, mount) in written.unwrap_or_default().readable() {
            self.check_mount_target(&path);
            if let Some(mount) = self.mount(&path, mount) {
                mounts.insert(path.value, mount);
            }
        }
        mounts
    }

    fn mount(&mut self, path: &Spanned<ContainerPath>, written: written::Mount) -> Option<Mount> {
        let keys = ["bind", "volume", "tmpfs"];
        let help = "add `bind = \"PATH\"`, `volume = \"NAME\"` or `tmpfs = \"64MB\"`";
        self.exactly_one(&written, "a mount", &keys, help)?;
        let written::Mount {
            at: _,
            bind,
            volume,
            tmpfs,
            read_only,
        } = written;
        let source = if let Some(bind) = bind {
            MountSource::Bind(bind)
        } else if let Some(volume) = volume {
            self.resolve(Kind::Volume, &volume)?;
            MountSource::Volume(volume)
        } else {
            let size_bytes = tmpfs?.value.0;
            MountSource::Tmpfs { size_bytes }
        };
        Some(Mount {
            span: path.span,
            source,
            read_only: read_only.is_some_and(|flag| flag.value),
        })
    }

    /// kiln mounts the kernel's own file systems itself, so that a container stays confined.
    fn check_mount_target(&mut self, path: &Spanned<ContainerPath>) {
        self.not_the_root(&path.value, path.span);
        let kernel = ["/proc", "/sys", "/dev"].into_iter().find(|folder| {
            let folder = ContainerPath::parse(folder).expect("it is absolute and normal");
            path.starts_with(&folder) && path.as_str() != "/dev/shm"
        });
        if let Some(kernel) = kernel {
            self.invalid(
                &path.value,
                format!("cannot be mounted over: `{kernel}` belongs to the kernel"),
                path.span,
                format!("choose a path outside of `{kernel}`"),
            );
        }
    }
}
