//! An inventory as [SPDX 2.3](https://spdx.github.io/spdx-spec/v2.3/) JSON.

use serde_json::{Map, Value, json};

use crate::component::{Component, Kind, Role};
use crate::inventory::{Inventory, Subject};
use crate::licence::Licence;

/// What SPDX says where nothing is known.
const NO_ASSERTION: &str = "NOASSERTION";

/// The identifier of the image in its document.
const IMAGE: &str = "SPDXRef-Image";

/// Writes the document. Its namespace is made of the image's digest and the list itself.
pub(crate) fn document(inventory: &Inventory, subject: &Subject, version: &str) -> Value {
    let mut packages = vec![image(subject)];
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": IMAGE,
    })];
    for component in inventory.components() {
        let id = identifier(component);
        let (from, kind, to) = match component.role {
            Role::Installed => (IMAGE, "CONTAINS", id.as_str()),
            Role::Base => (IMAGE, "DESCENDANT_OF", id.as_str()),
            Role::Used => (id.as_str(), "BUILD_DEPENDENCY_OF", IMAGE),
            Role::Named => (IMAGE, "DEPENDS_ON", id.as_str()),
        };
        relationships.push(json!({
            "spdxElementId": from,
            "relationshipType": kind,
            "relatedSpdxElement": to,
        }));
        packages.push(package(component, &id));
    }
    let mut creation = json!({
        "created": subject.created,
        "creators": [format!("Tool: kiln-{version}")],
    });
    let notes: Vec<&str> = inventory.notes().collect();
    if !notes.is_empty() {
        creation["comment"] = json!(notes.join("\n"));
    }
    let mut document = json!({
        "SPDXID": "SPDXRef-DOCUMENT",
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "name": subject.name,
        "creationInfo": creation,
        "packages": packages,
        "relationships": relationships,
    });
    let text = |(name, text)| json!({"licenseId": name, "extractedText": text});
    let texts: Vec<Value> = inventory.licences().map(text).collect();
    if !texts.is_empty() {
        document["hasExtractedLicensingInfos"] = json!(texts);
    }
    let content = kiln_oci::canonical::to_vec(&document).expect("a JSON value is JSON");
    let own = kiln_oci::Digest::of(&content).hex();
    document["documentNamespace"] = json!(format!(
        "https://kiln.invalid/spdx/{}/{own}",
        subject.digest().hex()
    ));
    document
}

fn image(subject: &Subject) -> Value {
    let mut image = json!({
        "SPDXID": IMAGE,
        "name": subject.name,
        "versionInfo": subject.digest().to_string(),
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": NO_ASSERTION,
        "copyrightText": NO_ASSERTION,
        "checksums": [{"algorithm": "SHA256", "checksumValue": subject.digest().hex()}],
        "comment": format!("the image's id is {}", subject.id.0),
    });
    if let Some(purl) = subject.purl() {
        image["externalRefs"] = external(&purl.to_string());
    }
    image
}

fn package(component: &Component, id: &str) -> Value {
    let mut package = Map::new();
    let mut put = |key: &str, value: Value| package.insert(key.to_owned(), value);
    put("SPDXID", json!(id));
    put("name", json!(component.name));
    if !component.version.is_empty() {
        put("versionInfo", json!(component.version));
    }
    put("filesAnalyzed", json!(false));
    let download = component.download.as_deref().unwrap_or(NO_ASSERTION);
    put("downloadLocation", json!(download));
    put("licenseConcluded", json!(NO_ASSERTION));
    put("copyrightText", json!(NO_ASSERTION));
    match component.licence.as_deref().map(Licence::of) {
        Some(Licence::Expression(expression)) => put("licenseDeclared", json!(expression)),
        Some(Licence::Text(text)) => {
            put(
                "licenseComments",
                json!(format!("the package says: {text}")),
            );
            put("licenseDeclared", json!(NO_ASSERTION))
        }
        None => put("licenseDeclared", json!(NO_ASSERTION)),
    };
    let purpose = match component.kind {
        Kind::Package => None,
        Kind::OperatingSystem => Some("OPERATING-SYSTEM"),
        Kind::Image => Some("CONTAINER"),
        Kind::File => Some("FILE"),
        Kind::Source => Some("SOURCE"),
    };
    if let Some(purpose) = purpose {
        put("primaryPackagePurpose", json!(purpose));
    }
    let checksum = |(algorithm, hex): (&crate::Algorithm, &String)| json!({"algorithm": algorithm.spdx(), "checksumValue": hex});
    let checksums: Vec<Value> = component.checksums.iter().map(checksum).collect();
    if !checksums.is_empty() {
        put("checksums", json!(checksums));
    }
    if let Some(purl) = &component.purl {
        put("externalRefs", external(&purl.to_string()));
    }
    if !component.found_in.is_empty() {
        let places: Vec<String> = component.found_in.iter().map(shown).collect();
        put(
            "sourceInfo",
            json!(format!("found in {}", places.join(", "))),
        );
    }
    Value::Object(package)
}

fn shown(path: &String) -> String {
    format!("`{path}`")
}

fn external(purl: &str) -> Value {
    json!([{
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": purl,
    }])
}

/// An identifier that is the same in every document: letters, digits, `.` and `-` are all it may have.
fn identifier(component: &Component) -> String {
    let hash = kiln_oci::Digest::of(component.identity().as_bytes()).hex();
    let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || ".-".contains(*letter);
    let name: String = component.name.chars().filter(is_plain).take(60).collect();
    format!("SPDXRef-Package-{name}-{}", &hash[..16])
}
