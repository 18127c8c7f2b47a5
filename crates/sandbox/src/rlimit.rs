//! Resource limits of a process: those of the description over those every sandbox starts with.

use rustix::process::{Resource, getrlimit};

use crate::spec::{Demand, Rlimit, RlimitResource};

/// What every sandbox starts with, so that what runs does not depend on the shell kiln was started from.
const DEFAULTS: [Rlimit; 3] = [
    Rlimit {
        resource: RlimitResource::Core,
        soft: Some(0),
        hard: None,
        demand: Demand::Preferred,
    },
    Rlimit {
        resource: RlimitResource::Nofile,
        soft: Some(1024),
        hard: Some(524_288),
        demand: Demand::Preferred,
    },
    Rlimit {
        resource: RlimitResource::Stack,
        soft: Some(8 << 20),
        hard: None,
        demand: Demand::Preferred,
    },
];

/// The limits to set, in the order of their names.
pub(crate) fn resolve(wanted: &[Rlimit]) -> Vec<(Resource, rustix::process::Rlimit)> {
    let limits = with_defaults(wanted).into_iter();
    limits
        .map(|(resource, limit)| (kernel_name(resource), limit))
        .collect()
}

/// The same, by the names of `setrlimit(2)`, with soft and hard limit.
pub(crate) fn named(wanted: &[Rlimit]) -> Vec<(String, Option<u64>, Option<u64>)> {
    let limits = with_defaults(wanted).into_iter();
    limits
        .map(|(resource, limit)| {
            let name = format!("RLIMIT_{resource:?}").to_ascii_uppercase();
            (name, limit.current, limit.maximum)
        })
        .collect()
}

fn with_defaults(wanted: &[Rlimit]) -> Vec<(RlimitResource, rustix::process::Rlimit)> {
    let mut limits: Vec<Rlimit> = DEFAULTS.to_vec();
    for limit in wanted {
        limits.retain(|other| other.resource != limit.resource);
        limits.push(*limit);
    }
    limits.sort_by_key(|limit| limit.resource);
    limits
        .into_iter()
        .map(
            |Rlimit {
                 resource,
                 soft,
                 hard,
                 demand,
             }| {
                let mut limit = rustix::process::Rlimit {
                    current: soft,
                    maximum: hard,
                };
                if demand == Demand::Preferred {
                    // Only root of the machine may raise a hard limit.
                    let ceiling = getrlimit(kernel_name(resource)).maximum;
                    limit.maximum = lower(limit.maximum, ceiling);
                    limit.current = lower(limit.current, limit.maximum);
                }
                (resource, limit)
            },
        )
        .collect()
}

/// The lower of two limits, where none is no limit.
fn lower(first: Option<u64>, second: Option<u64>) -> Option<u64> {
    match (first, second) {
        (Some(first), Some(second)) => Some(first.min(second)),
        (first, second) => first.or(second),
    }
}

const fn kernel_name(resource: RlimitResource) -> Resource {
    match resource {
        RlimitResource::As => Resource::As,
        RlimitResource::Core => Resource::Core,
        RlimitResource::Cpu => Resource::Cpu,
        RlimitResource::Data => Resource::Data,
        RlimitResource::Fsize => Resource::Fsize,
        RlimitResource::Locks => Resource::Locks,
        RlimitResource::Memlock => Resource::Memlock,
        RlimitResource::Msgqueue => Resource::Msgqueue,
        RlimitResource::Nice => Resource::Nice,
        RlimitResource::Nofile => Resource::Nofile,
        RlimitResource::Nproc => Resource::Nproc,
        RlimitResource::Rss => Resource::Rss,
        RlimitResource::Rtprio => Resource::Rtprio,
        RlimitResource::Rttime => Resource::Rttime,
        RlimitResource::Sigpending => Resource::Sigpending,
        RlimitResource::Stack => Resource::Stack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_stay_within_what_the_host_allows_and_give_way() {
        let ceiling = getrlimit(Resource::Nofile).maximum;
        let limits = resolve(&[]);
        let (_, files) = limits
            .iter()
            .find(|(resource, _)| *resource == Resource::Nofile)
            .unwrap();
        assert_eq!(files.maximum, lower(Some(524_288), ceiling));
        let wanted = Rlimit {
            resource: RlimitResource::Nofile,
            soft: Some(7),
            hard: None,
            demand: Demand::Required,
        };
        let limits = resolve(&[wanted]);
        assert_eq!(limits.len(), 3);
        let (_, files) = limits
            .iter()
            .find(|(resource, _)| *resource == Resource::Nofile)
            .unwrap();
        assert_eq!((files.current, files.maximum), (Some(7), None));
    }
}
