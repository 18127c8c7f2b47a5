//! For which platforms something is built, started or shown.

use kiln_graph::{BuildTarget, PlatformChoice, PlatformRequest};
use kiln_manifest::model::{Platforms, ServiceImage};
use kiln_manifest::value::target_platform;
use kiln_oci::Platform;

use crate::errors::{Class, Failure, Outcome};
use crate::project::Project;

/// Platforms to build for; for every verb that looks at the graph.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Building")]
pub(crate) struct PlatformArgs {
    /// Build for these platforms, such as linux/arm64 [default: those of the manifest, else this machine's]
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', value_parser = parse)]
    platform: Vec<Platform>,
}

impl PlatformArgs {
    /// The platforms that were named, each once.
    pub(crate) fn named(&self) -> Vec<Platform> {
        let mut named: Vec<Platform> = Vec::new();
        for platform in &self.platform {
            if !named.contains(platform) {
                named.push(platform.clone());
            }
        }
        named
    }

    /// What is to be built: what was named, else what the manifest says.
    pub(crate) fn request(&self) -> PlatformRequest {
        let named = self.named();
        PlatformRequest {
            host: Platform::host(),
            choice: match named.is_empty() {
                true => PlatformChoice::Declared,
                false => PlatformChoice::Exactly(named),
            },
        }
    }

    /// The only platform that was named, if one was.
    ///
    /// # Errors
    /// There are several.
    pub(crate) fn only(&self) -> Outcome<Option<Platform>> {
        let mut named = self.named();
        if named.len() > 1 {
            return Err(Failure::message(
                Class::User,
                "a container is for one platform, and several are named",
                Some(format!("name one: --platform {}", named[0])),
            ));
        }
        Ok(named.pop())
    }
}

/// Builds `target` for one platform, and leaves the names of images as they are.
pub(crate) fn once(platform: Platform) -> PlatformRequest {
    PlatformRequest {
        host: Platform::host(),
        choice: PlatformChoice::Once(platform),
    }
}

/// Reads a platform that images can be built for.
fn parse(text: &str) -> Result<Platform, String> {
    target_platform(text).map_err(|error| format!("it {}; {}", error.reason, error.help))
}

impl Project {
    /// For which platform `target` is started where none is named: this machine's if the manifest allows it,
    /// else the only one that it names.
    ///
    /// # Errors
    /// The manifest names several others.
    pub(crate) fn platform_to_run(&self, target: &BuildTarget) -> Outcome<Platform> {
        let host = Platform::host();
        let manifest = &self.manifest;
        let image = match target {
            BuildTarget::Image(name) | BuildTarget::Step { image: name, .. } => Some(name),
            BuildTarget::Service(name) => match manifest.services.get(name).map(|it| &it.image) {
                Some(ServiceImage::Image(image)) => Some(&image.value),
                Some(ServiceImage::From(_)) | None => None,
            },
        };
        let image = image.and_then(|name| manifest.images.get(name));
        let Some(Platforms::Listed(listed)) = image.map(|image| &image.platforms) else {
            return Ok(host);
        };
        let nearest = listed
            .iter()
            .filter_map(|listed| Some((host.distance(&listed.value)?, &listed.value)))
            .min_by_key(|(distance, _)| *distance);
        match (nearest, listed.as_slice()) {
            (Some((_, nearest)), _) => Ok(nearest.clone()),
            (None, [only]) => Ok(only.value.clone()),
            (None, _) => {
                let listed: Vec<String> = listed.iter().map(|it| it.to_string()).collect();
                Err(Failure::message(
                    Class::User,
                    format!(
                        "`{target}` is for {}, and this machine is {host}",
                        listed.join(" and ")
                    ),
                    Some(format!("choose one: --platform {}", listed[0])),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_those_that_can_be_built_for() {
        assert_eq!(parse("linux/aarch64").unwrap().to_string(), "linux/arm64");
        for wrong in [
            "arm64",
            "windows/amd64",
            "linux/z80",
            "linux/arm/v9",
            "host",
            "all",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let args = PlatformArgs {
            platform: ["linux/arm64", "linux/amd64", "linux/arm64/v8"]
                .map(|text| parse(text).unwrap())
                .to_vec(),
        };
        assert_eq!(args.named().len(), 2);
        assert!(args.only().is_err());
    }
}
