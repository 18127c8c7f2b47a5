//! OpenPGP keys and clear-signed texts, made by the tests.

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedKeyDetails,
    SignedPublicKey, SignedSecretKey,
};
use pgp::packet::{KeyFlags, SignatureConfig, SignatureType, Subpacket, SubpacketData, UserId};
use pgp::ser::Serialize;
use pgp::types::{Duration, KeyDetails, PacketHeaderVersion, Password, Tag, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// When all keys and signatures of the tests are made: 2026-01-01.
pub(crate) const KEY_TIME: u32 = 1_767_225_600;

/// A key that can sign releases.
#[derive(Debug)]
pub(crate) struct TestKey {
    secret: SignedSecretKey,
    public: SignedPublicKey,
}

impl TestKey {
    /// Makes a key; another one for another `seed`. It ends `lifetime` seconds after [`KEY_TIME`], if at all.
    pub(crate) fn new(seed: u64, lifetime: Option<u32>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut builder = SecretKeyParamsBuilder::default();
        builder
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .created_at(Timestamp::from_secs(KEY_TIME))
            .primary_user_id("Test <test@example.com>".into());
        let secret = builder.build().unwrap().generate(&mut rng).unwrap();
        let mut flags = KeyFlags::default();
        flags.set_sign(true);
        flags.set_certify(true);
        let mut config =
            SignatureConfig::from_key(&mut rng, &secret.primary_key, SignatureType::CertPositive)
                .unwrap();
        let mut hashed = vec![
            SubpacketData::SignatureCreationTime(Timestamp::from_secs(KEY_TIME)),
            SubpacketData::IssuerFingerprint(secret.primary_key.fingerprint()),
            SubpacketData::KeyFlags(flags),
        ];
        hashed.extend(
            lifetime.map(|seconds| SubpacketData::KeyExpirationTime(Duration::from_secs(seconds))),
        );
        config.hashed_subpackets = hashed
            .into_iter()
            .map(|data| Subpacket::regular(data).unwrap())
            .collect();
        let user = UserId::from_str(PacketHeaderVersion::New, "Test <test@example.com>").unwrap();
        let public_key = secret.primary_key.public_key().clone();
        let signature = config
            .sign_certification(
                &secret.primary_key,
                &public_key,
                &Password::empty(),
                Tag::UserId,
                &user,
            )
            .unwrap();
        let details =
            SignedKeyDetails::new(vec![], vec![], vec![user.into_signed(signature)], vec![]);
        Self {
            secret,
            public: SignedPublicKey::new(public_key, details, vec![]),
        }
    }

    /// The public part, binary.
    pub(crate) fn public(&self) -> Vec<u8> {
        self.public.to_bytes().unwrap()
    }

    /// The public part, armored.
    pub(crate) fn armored(&self) -> String {
        self.public
            .to_armored_string(ArmorOptions::default())
            .unwrap()
    }

    /// Signs a text as `InRelease` is.
    pub(crate) fn clear_sign(&self, text: &str) -> String {
        let rng = StdRng::seed_from_u64(7);
        CleartextSignedMessage::sign(rng, text, &self.secret.primary_key, &Password::empty())
            .unwrap()
            .to_armored_string(ArmorOptions::default())
            .unwrap()
    }
}
