//! How an image wants to be run: what its base says, changed by its own `[image.config]`.

use std::collections::BTreeMap;

use kiln_image::ConfigChanges;
use kiln_manifest::model::Config;
use kiln_oci::RunConfig;

/// Returns what `[image.config]` changes about the base's config.
pub(crate) fn changes(config: &Config) -> ConfigChanges {
    let Config {
        span: _,
        user,
        workdir,
        env,
        entrypoint,
        cmd,
        expose,
        labels,
        volumes,
        stop_signal,
    } = config;
    ConfigChanges {
        user: user.as_ref().map(|user| user.value.to_string()),
        working_dir: workdir.as_ref().map(ToString::to_string),
        env: env
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.clone()))
            .collect(),
        entrypoint: entrypoint.clone(),
        cmd: cmd.clone(),
        exposed_ports: expose.iter().map(ToString::to_string).collect(),
        labels: labels.clone(),
        volumes: volumes.iter().map(ToString::to_string).collect(),
        stop_signal: stop_signal.as_ref().map(ToString::to_string),
    }
}

/// Returns the environment that a step's process starts from: the variables of the base's config,
/// a search path, and the time that files are clamped to for programs that ask for it.
pub(crate) fn step_environment(base: &RunConfig, epoch_seconds: i64) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), kiln_sandbox::DEFAULT_PATH.to_owned()),
        ("SOURCE_DATE_EPOCH".to_owned(), epoch_seconds.to_string()),
    ]);
    // An entry without `=` names a variable of the host in some tools; here it names nothing.
    let variables = base.env.iter().filter_map(|entry| entry.split_once('='));
    environment.extend(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_never_come_from_the_host() {
        let base = RunConfig {
            env: ["PATH=/bin", "HOST_SECRET", "A=1"]
                .map(String::from)
                .to_vec(),
            ..RunConfig::default()
        };
        let environment = step_environment(&base, 315_532_800);
        let expected = [
            ("A", "1"),
            ("PATH", "/bin"),
            ("SOURCE_DATE_EPOCH", "315532800"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(environment, BTreeMap::from(expected));
    }
}
