//! An inventory as [CycloneDX 1.6](https://cyclonedx.org/docs/1.6/json/) JSON.

use serde_json::{Map, Value, json};

use crate::component::{Component, Kind, Role};
use crate::inventory::{Inventory, Subject};
use crate::licence::Licence;

/// Writes the document. Its serial number is made of the list itself.
pub(crate) fn document(inventory: &Inventory, subject: &Subject, version: &str) -> Value {
    let image = image(subject);
    let reference = image["bom-ref"].clone();
    let depends: Vec<String> = inventory.components().map(Component::identity).collect();
    let mut metadata = json!({
        "timestamp": subject.created,
        "tools": {"components": [{"type": "application", "name": "kiln", "version": version}]},
        "component": image,
    });
    let note = |note| json!({"name": "kiln:note", "value": note});
    let notes: Vec<Value> = inventory.notes().map(note).collect();
    if !notes.is_empty() {
        metadata["properties"] = json!(notes);
    }
    let components: Vec<Value> = inventory.components().map(component).collect();
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": [{"ref": reference, "dependsOn": depends}],
    });
    let content = kiln_oci::canonical::to_vec(&document).expect("a JSON value is JSON");
    let own = kiln_oci::Digest::of(&content).hex();
    document["serialNumber"] = json!(format!("urn:uuid:{}", uuid(&own)));
    document
}

/// A UUID of the eighth version, which is for numbers that are made in one's own way (RFC 9562).
fn uuid(hex: &str) -> String {
    format!(
        "{}-{}-8{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
}

fn image(subject: &Subject) -> Value {
    let digest = subject.digest();
    let mut image = json!({
        "type": "container",
        "name": subject.name,
        "version": digest.to_string(),
        "bom-ref": subject.purl().map_or_else(|| digest.to_string(), |purl| purl.to_string()),
        "hashes": [{"alg": "SHA-256", "content": digest.hex()}],
        "properties": [{"name": "kiln:image-id", "value": subject.id.0.to_string()}],
    });
    if let Some(purl) = subject.purl() {
        image["purl"] = json!(purl.to_string());
    }
    image
}

fn component(component: &Component) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| {
        object.insert(key.to_owned(), value);
    };
    let kind = match component.kind {
        Kind::Package | Kind::Source => "library",
        Kind::OperatingSystem => "operating-system",
        Kind::Image => "container",
        Kind::File => "file",
    };
    put("type", json!(kind));
    put("bom-ref", json!(component.identity()));
    put("name", json!(component.name));
    if !component.version.is_empty() {
        put("version", json!(component.version));
    }
    if let Some(purl) = &component.purl {
        put("purl", json!(purl.to_string()));
    }
    match component.licence.as_deref().map(Licence::of) {
        Some(Licence::Expression(expression)) => {
            put("licenses", json!([{"expression": expression}]));
        }
        Some(Licence::Text(text)) if !text.is_empty() => {
            put("licenses", json!([{"license": {"name": text}}]));
        }
        Some(Licence::Text(_)) | None => {}
    }
    let hash = |(algorithm, hex): (&crate::Algorithm, &String)| json!({"alg": algorithm.cyclonedx(), "content": hex});
    let hashes: Vec<Value> = component.checksums.iter().map(hash).collect();
    if !hashes.is_empty() {
        put("hashes", json!(hashes));
    }
    if let Some(download) = &component.download {
        let kind = match component.kind {
            Kind::Source => "vcs",
            Kind::Package | Kind::OperatingSystem | Kind::Image | Kind::File => "distribution",
        };
        put(
            "externalReferences",
            json!([{"type": kind, "url": download}]),
        );
    }
    // What the words for it mean is in `docs/formats/statements.md`.
    let role = match component.role {
        Role::Named => "named",
        Role::Used => "used",
        Role::Base => "base",
        Role::Installed => "installed",
    };
    let mut properties = vec![json!({"name": "kiln:role", "value": role})];
    let places = component.found_in.iter();
    properties.extend(places.map(|path| json!({"name": "kiln:found-in", "value": path})));
    put("properties", json!(properties));
    Value::Object(object)
}
