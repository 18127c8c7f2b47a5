//! Makes an image of layers and settings.
//!
//! Deterministic: the same layers, settings and epoch give the same bytes, whoever assembles them.

use std::collections::BTreeMap;

use kiln_oci::{
    Compression, Descriptor, Empty, HistoryEntry, ImageConfig, ImageManifest, MAX_LAYERS,
    MediaKind, MediaType, Platform, RunConfig, rfc3339,
};
use kiln_store::{LayerRecord, Session, Timestamp};

use crate::error::ImageError;
use crate::image::Image;

/// What is put on top of a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// The layer, which is in the store.
    pub record: LayerRecord,
    /// What made it, for `kiln history`: the step's name and its action. It reaches the image's
    /// digest, but no layer's.
    pub created_by: String,
}

/// Settings of an image's config; what is `None` or empty leaves what the base has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigChanges {
    /// `user[:group]`.
    pub user: Option<String>,
    /// Where the program starts.
    pub working_dir: Option<String>,
    /// Added to the base's; of equal names, these win.
    pub env: BTreeMap<String, String>,
    /// Replaces the base's entrypoint, and its command too, which was meant for that one.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the base's command.
    pub cmd: Option<Vec<String>>,
    /// `port/protocol`, added to the base's.
    pub exposed_ports: Vec<String>,
    /// Added to the base's; of equal names, these win.
    pub labels: BTreeMap<String, String>,
    /// Folders that should outlive a container, added to the base's.
    pub volumes: Vec<String>,
    /// The signal that asks the program to end.
    pub stop_signal: Option<String>,
}

impl ConfigChanges {
    /// Changes `config`.
    pub fn apply(&self, config: &mut RunConfig) {
        let Self {
            user,
            working_dir,
            env,
            entrypoint,
            cmd,
            exposed_ports,
            labels,
            volumes,
            stop_signal,
        } = self;
        let replace = |old: &mut Option<String>, new: &Option<String>| {
            if new.is_some() {
                old.clone_from(new);
            }
        };
        replace(&mut config.user, user);
        replace(&mut config.working_dir, working_dir);
        replace(&mut config.stop_signal, stop_signal);
        config.env.retain(|entry| {
            let name = entry
                .split_once('=')
                .map_or(entry.as_str(), |(name, _)| name);
            !env.contains_key(name)
        });
        let added = env.iter().map(|(name, value)| format!("{name}={value}"));
        config.env.extend(added);
        if let Some(entrypoint) = entrypoint {
            config.entrypoint.clone_from(entrypoint);
            config.cmd.clear();
        }
        if let Some(cmd) = cmd {
            config.cmd.clone_from(cmd);
        }
        let set = |names: &[String]| {
            names
                .iter()
                .map(|it| (it.clone(), Empty {}))
                .collect::<Vec<_>>()
        };
        config.exposed_ports.extend(set(exposed_ports));
        config.volumes.extend(set(volumes));
        let added = labels
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        config.labels.extend(added);
    }
}

/// All that an image is made of.
#[derive(Debug, Clone)]
pub struct Assembly<'a> {
    /// What it runs on.
    pub platform: Platform,
    /// What it is based on, if that is an image.
    pub base: Option<&'a Image>,
    /// What is put on top, oldest first.
    pub layers: Vec<NewLayer>,
    /// What is set.
    pub changes: ConfigChanges,
    /// When the image says it was made.
    pub epoch: Timestamp,
    /// Who the image says made it; who made the base if not given.
    pub author: Option<String>,
}

/// Assembles an image and puts its documents into the store.
///
/// Built layers are listed as uncompressed tars under their DiffId, since their compressed form is
/// only made when they leave the store. Layers of the base are listed as the base lists them.
///
/// # Errors
/// [`ImageError::TooManyLayers`], and what the store says.
pub fn assemble(session: &Session, assembly: &Assembly<'_>) -> Result<Image, ImageError> {
    let (manifest, config) = documents(assembly)?;
    let blobs = session.store().blobs();
    blobs.put_document(session, MediaType::OciConfig, &config.to_bytes())?;
    let descriptor = blobs
        .put_document(session, MediaType::OciManifest, &manifest.to_bytes())?
        .with_platform(assembly.platform.clone());
    Image::new(descriptor, manifest, config)
}

/// Makes the documents without storing them.
fn documents(assembly: &Assembly<'_>) -> Result<(ImageManifest, ImageConfig), ImageError> {
    let created = rfc3339(assembly.epoch.seconds());
    let mut config = ImageConfig::new(assembly.platform.clone(), Vec::new());
    let mut layers = Vec::new();
    if let Some(base) = assembly.base {
        layers.extend(base.manifest.layers.iter().cloned().map(as_oci));
        config
            .rootfs
            .diff_ids
            .clone_from(&base.config.rootfs.diff_ids);
        config.config = base.config.config.clone();
        config.history.clone_from(&base.config.history);
        config.author.clone_from(&base.config.author);
    }
    if assembly.author.is_some() {
        config.author.clone_from(&assembly.author);
    }
    for layer in &assembly.layers {
        let record = &layer.record;
        layers.push(Descriptor::new(
            MediaType::OciLayer(Compression::None),
            record.diff_id.0,
            record.tar_size_bytes,
        ));
        config.rootfs.diff_ids.push(record.diff_id);
        config.history.push(HistoryEntry {
            created: Some(created.clone()),
            created_by: Some(layer.created_by.clone()),
            comment: Some("kiln".to_owned()),
            author: assembly.author.clone(),
            ..HistoryEntry::default()
        });
    }
    if layers.len() > MAX_LAYERS {
        return Err(ImageError::TooManyLayers {
            count: layers.len(),
            limit: MAX_LAYERS,
        });
    }
    assembly.changes.apply(&mut config.config);
    config.created = Some(created);
    let config_descriptor = Descriptor::of(MediaType::OciConfig, &config.to_bytes());
    Ok((ImageManifest::new(config_descriptor, layers), config))
}

/// Lists a layer of a Docker image the OCI way; the bytes are the same.
fn as_oci(mut descriptor: Descriptor) -> Descriptor {
    if let MediaKind::Layer(compression) = descriptor.media_type.kind() {
        descriptor.media_type = MediaType::OciLayer(compression);
    }
    // Other places to fetch it from do not hold for the new image.
    descriptor.urls.clear();
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_oci::{DiffId, Digest};
    use kiln_store::Origin;

    const EPOCH: Timestamp = Timestamp::from_seconds(315_532_800);

    fn layer(text: &str) -> NewLayer {
        NewLayer {
            record: LayerRecord {
                diff_id: DiffId(Digest::of(text.as_bytes())),
                tar_size_bytes: 1024,
                origin: Origin::Built,
            },
            created_by: format!("app.{text}: run make {text}"),
        }
    }

    fn assembly(base: Option<&Image>) -> Assembly<'_> {
        Assembly {
            platform: "linux/amd64".parse().unwrap(),
            base,
            layers: vec![layer("one"), layer("two")],
            changes: ConfigChanges {
                user: Some("app".to_owned()),
                env: [("RUST_LOG".to_owned(), "info".to_owned())].into(),
                entrypoint: Some(vec!["notes".to_owned()]),
                exposed_ports: vec!["8000/tcp".to_owned()],
                ..ConfigChanges::default()
            },
            epoch: EPOCH,
            author: None,
        }
    }

    #[test]
    fn a_small_image_has_these_bytes() {
        let (manifest, config) = documents(&assembly(None)).unwrap();
        assert_eq!(
            String::from_utf8(config.to_bytes()).unwrap(),
            concat!(
                r#"{"architecture":"amd64","config":{"Entrypoint":["notes"],"Env":["RUST_LOG=info"],"#,
                r#""ExposedPorts":{"8000/tcp":{}},"User":"app"},"created":"1980-01-01T00:00:00Z","#,
                r#""history":[{"comment":"kiln","created":"1980-01-01T00:00:00Z","#,
                r#""created_by":"app.one: run make one"},{"comment":"kiln","#,
                r#""created":"1980-01-01T00:00:00Z","created_by":"app.two: run make two"}],"os":"linux","#,
                r#""rootfs":{"diff_ids":["#,
                r#""sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed","#,
                r#""sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"],"#,
                r#""type":"layers"}}"#,
            )
        );
        assert_eq!(
            Digest::of(&manifest.to_bytes()).to_string(),
            "sha256:3660ba345430c9607bd5afee568a18101f999a10973a3b9bc4aaef696e412b00"
        );
    }

    #[test]
    fn settings_are_put_on_top_of_the_bases() {
        let base = {
            let (manifest, mut config) = documents(&assembly(None)).unwrap();
            config.config.env = vec![
                "PATH=/usr/bin".to_owned(),
                "RUST_LOG=debug".to_owned(),
                "ODD".to_owned(),
            ];
            config.config.cmd = vec!["--help".to_owned()];
            config.config.working_dir = Some("/srv".to_owned());
            let descriptor = Descriptor::of(MediaType::OciManifest, b"");
            Image::new(descriptor, manifest, config).unwrap()
        };
        let (manifest, config) = documents(&assembly(Some(&base))).unwrap();
        assert_eq!(manifest.layers.len(), 4);
        assert_eq!(config.history.len(), 4);
        assert_eq!(config.config.env, ["PATH=/usr/bin", "ODD", "RUST_LOG=info"]);
        assert_eq!(config.config.working_dir.as_deref(), Some("/srv"));
        assert_eq!(
            config.config.cmd,
            Vec::<String>::new(),
            "it was the old entrypoint's"
        );
    }

    #[test]
    fn more_layers_than_tools_read_are_refused() {
        let mut assembly = assembly(None);
        assembly.layers = (0..=MAX_LAYERS).map(|it| layer(&it.to_string())).collect();
        let error = documents(&assembly).unwrap_err().to_string();
        assert!(error.contains("481 layers"), "{error}");
    }
}
