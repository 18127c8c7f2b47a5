//! Keys and signatures, also those that other programs made.
//!
//! The files in `keys` were made by Python's `cryptography` and `PyNaCl` in the formats of openssl and
//! cosign; they are published, and protect nothing.

use kiln_attest::{
    Artifact, Claim, Envelope, EnvelopeError, KeyError, PrivateKey, PublicKey, Refusal,
    SIGNATURE_ANNOTATION, SIGNATURE_ARTIFACT_TYPE, SealError, SealRandom, Signature, Statement,
    is_sealed,
};
use kiln_oci::{Descriptor, Digest, ImageManifest, MediaType, Reference};

const PKCS8: &str = include_str!("keys/pkcs8.pem");
const SEC1: &str = include_str!("keys/sec1.pem");
const SEALED: &str = include_str!("keys/sealed.pem");
const PUBLIC: &str = include_str!("keys/public.pem");
const P384: &str = include_str!("keys/p384.pem");

fn key() -> PrivateKey {
    PrivateKey::parse(PKCS8, None).expect("a key")
}

fn other_key() -> PrivateKey {
    PrivateKey::of_random(&[9; 32]).expect("a key")
}

fn reference(text: &str) -> Reference {
    text.parse().expect("a reference")
}

#[test]
fn all_forms_of_a_key_are_one_key() {
    let public = PublicKey::parse(PUBLIC).expect("a public key");
    assert_eq!(public.to_pem(), PUBLIC);
    for pem in [PKCS8, SEC1] {
        assert!(!is_sealed(pem));
        assert_eq!(
            PrivateKey::parse(pem, None).expect("a key").public(),
            public
        );
    }
    assert!(is_sealed(SEALED));
    let opened = PrivateKey::parse(SEALED, Some(b"hunter2")).expect("a key");
    assert_eq!(opened.public(), public);
    assert_eq!(*opened.to_pem(), PKCS8);
}

#[test]
fn a_sealed_key_opens_with_its_password_only() {
    let random = SealRandom {
        salt: [1; 32],
        nonce: [2; 24],
    };
    let sealed = key().seal(b"secret", &random);
    assert!(is_sealed(&sealed));
    let opened = PrivateKey::parse(&sealed, Some(b"secret")).expect("the password opens it");
    assert_eq!(opened.public(), key().public());
    let wrong = PrivateKey::parse(&sealed, Some(b"Secret"));
    assert!(matches!(
        wrong,
        Err(KeyError::Sealed(SealError::WrongPassword))
    ));
    let none = PrivateKey::parse(&sealed, None);
    assert!(matches!(none, Err(KeyError::Sealed(SealError::NoPassword))));
}

#[test]
fn a_seal_cannot_take_all_memory() {
    use base64::Engine;
    let body: String = SEALED
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let engine = base64::engine::general_purpose::STANDARD;
    let json = String::from_utf8(engine.decode(body).expect("base64")).expect("text");
    for change in ["\"N\":4294967296", "\"N\":4095", "\"N\":0"] {
        let changed = engine.encode(json.replace("\"N\":4096", change));
        let lines: Vec<&str> = (0..changed.len())
            .step_by(64)
            .map(|at| &changed[at..changed.len().min(at + 64)])
            .collect();
        let label = "ENCRYPTED COSIGN PRIVATE KEY-----";
        let pem = format!(
            "-----BEGIN {label}\n{}\n-----END {label}\n",
            lines.join("\n")
        );
        let error = PrivateKey::parse(&pem, Some(b"hunter2")).expect_err("not computed");
        assert!(
            error.to_string().contains("is not what a key takes"),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_key_is_told() {
    for text in ["", "junk", PUBLIC, P384] {
        let error = PrivateKey::parse(text, None).expect_err(text).to_string();
        assert!(error.starts_with("it is no private key"), "{error}");
    }
    for text in ["", "junk", P384] {
        let error = PublicKey::parse(text).expect_err(text).to_string();
        assert!(error.starts_with("it is no public key"), "{error}");
    }
    for text in [PKCS8, SEC1, SEALED] {
        let error = PublicKey::parse(text).expect_err(text);
        assert!(matches!(error, KeyError::PrivateForPublic));
    }
    assert_eq!(format!("{:?}", key()), "PrivateKey");
}

#[test]
fn a_signature_is_for_one_digest_of_one_repository() {
    let app = reference("registry.example.com/team/app:1");
    let digest = Digest::of(b"image");
    let claim = Claim::new(digest, &app);
    let signature = claim.sign(&key());
    assert_eq!(signature, claim.sign(&key()), "signing twice adds nothing");
    let public = key().public();
    assert_eq!(signature.verify(&public, &claim), Ok(()));
    // The tag is no part of it.
    let other_tag = Claim::new(digest, &reference("registry.example.com/team/app:2"));
    assert_eq!(signature.verify(&public, &other_tag), Ok(()));

    let refused = |signature: &Signature, key: &PublicKey, claim: &Claim| {
        signature
            .verify(key, claim)
            .expect_err("not to be believed")
    };
    assert_eq!(
        refused(&signature, &other_key().public(), &claim),
        Refusal::OtherKey
    );
    let other = Claim::new(Digest::of(b"other"), &app);
    assert_eq!(
        refused(&signature, &public, &other),
        Refusal::OtherDigest(digest)
    );
    let elsewhere = Claim::new(digest, &reference("registry.example.com/other/app"));
    assert_eq!(
        refused(&signature, &public, &elsewhere),
        Refusal::OtherRepository("registry.example.com/team/app".to_owned())
    );
    let mut changed = signature.clone();
    changed.payload = other.sign(&key()).payload;
    assert_eq!(refused(&changed, &public, &other), Refusal::OtherKey);
    for base64 in ["", "!", "AAAA"] {
        let broken = Signature {
            base64: base64.to_owned(),
            ..signature.clone()
        };
        assert_eq!(refused(&broken, &public, &claim), Refusal::OtherKey);
    }
}

#[test]
fn the_payload_is_the_one_of_cosign() {
    let claim = Claim::new(
        Digest::of(b"image"),
        &reference("registry.example.com/team/app:1"),
    );
    expect_test::expect![[r#"{"critical":{"identity":{"docker-reference":"registry.example.com/team/app"},"image":{"docker-manifest-digest":"sha256:6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"},"type":"cosign container image signature"},"optional":{}}"#]]
        .assert_eq(&String::from_utf8(claim.sign(&key()).payload).expect("text"));
}

#[test]
fn a_signature_of_another_program_counts() {
    let signature = Signature {
        payload: include_bytes!("keys/cosign.payload").to_vec(),
        base64: include_str!("keys/cosign.sig").trim().to_owned(),
    };
    let digest = format!("sha256:{}", "ab".repeat(32))
        .parse()
        .expect("a digest");
    let claim = Claim::new(digest, &reference("tool"));
    let public = PublicKey::parse(PUBLIC).expect("a public key");
    assert_eq!(signature.verify(&public, &claim), Ok(()));
}

#[test]
fn what_is_signed_and_no_claim_is_refused() {
    for payload in [
        "{}",
        r#"{"critical":{"identity":{"docker-reference":"a/b"},"image":{"docker-manifest-digest":"sha256:00"},"type":"cosign container image signature"}}"#,
    ] {
        assert!(Claim::parse(payload.as_bytes()).is_err(), "{payload}");
    }
    let digest = Digest::of(b"image");
    let other_kind = Claim::new(digest, &reference("a/b")).sign(&key()).payload;
    let other_kind = String::from_utf8(other_kind).expect("text");
    let other_kind = other_kind.replace("cosign container image signature", "atomic");
    let error = Claim::parse(other_kind.as_bytes()).expect_err("another type");
    assert_eq!(error.to_string(), "its type is `atomic`");
}

#[test]
fn an_artifact_refers_to_the_image_and_lists_of_several_do_not() {
    let subject = Descriptor::of(MediaType::OciManifest, b"image");
    let claim = Claim::new(subject.digest, &reference("r.example/a"));
    let ours = claim.sign(&key());
    let artifact = Artifact::signature(&subject, &ours);
    let manifest = &artifact.manifest;
    assert_eq!(manifest.subject.as_ref(), Some(&subject));
    assert_eq!(
        manifest.artifact_type.as_deref(),
        Some(SIGNATURE_ARTIFACT_TYPE)
    );
    assert!(!manifest.is_image());
    assert_eq!(
        manifest.layers[0].annotations[SIGNATURE_ANNOTATION],
        ours.base64
    );
    for named in manifest.layers.iter().chain([&manifest.config]) {
        assert_eq!(Digest::of(&artifact.blobs[&named.digest]), named.digest);
    }
    let parsed = ImageManifest::parse(&manifest.to_bytes()).expect("a manifest");
    assert_eq!(&parsed, manifest);

    assert_eq!(artifact.listed_after(None).as_ref(), Some(manifest));
    assert_eq!(artifact.listed_after(Some(manifest)), None);
    let theirs = Artifact::signature(&subject, &claim.sign(&other_key()));
    let both = theirs.listed_after(Some(manifest)).expect("one is new");
    assert_eq!((both.layers.len(), &both.subject), (2, &None));
    assert_eq!(artifact.listed_after(Some(&both)), None);
    assert_eq!(theirs.listed_after(Some(&both)), None);
}

#[test]
fn an_envelope_says_what_it_holds() {
    let subject = Descriptor::of(MediaType::OciManifest, b"image");
    let kind = "https://spdx.dev/Document";
    let statement = Statement::new("a", subject.digest, kind, serde_json::json!({}));
    let envelope = Envelope::seal(&statement, &key());
    assert_eq!(envelope, Envelope::seal(&statement, &key()));
    let artifact = Artifact::envelope(&subject, &envelope, kind);
    let layer = &artifact.manifest.layers[0];
    assert_eq!(layer.annotations["predicateType"], kind);
    let bytes = &artifact.blobs[&layer.digest];
    let opened = Envelope::open(bytes, &key().public(), subject.digest).expect("it holds");
    assert_eq!(opened, statement);
    let other = Envelope::open(bytes, &other_key().public(), subject.digest);
    assert!(matches!(other, Err(EnvelopeError::OtherKey)));
}
