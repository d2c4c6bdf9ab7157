//! A client that proves itself by a signature (RFC 7523, `private_key_jwt`): its key stays here, and what is sent is good for minutes.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;

/// How long an assertion holds. Seconds: clocks differ, and it is used at once.
const HOLDS_S: u64 = 300;

/// A private key, of one of the kinds that sign tokens.
pub(super) enum Key {
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// Reads one from a file (PKCS #8, PEM). The error names the file and holds nothing of it.
    pub(super) fn read(file: &Path) -> Result<Key, String> {
        let wrong = |why: &str| format!("the key file {} {why}", file.display());
        let text = std::fs::read(file).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text)
            .map_err(|_| wrong("holds no private key in PKCS #8 (-----BEGIN PRIVATE KEY-----)"))?;
        let der = der.secret_pkcs8_der();
        let random = SystemRandom::new();
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random) {
            return Ok(Key::P256(key));
        }
        if let Ok(key) = RsaKeyPair::from_pkcs8(der) {
            return Ok(Key::Rsa(key));
        }
        match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            Ok(key) => Ok(Key::Ed25519(key)),
            Err(_) => {
                Err(wrong("holds a key of another kind than P-256, RSA (2048 bits or more) and Ed25519"))
            }
        }
    }

    /// What its signatures are called (RFC 7518, 8037).
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Key::P256(_) => "ES256",
            Key::Rsa(_) => "RS256",
            Key::Ed25519(_) => "EdDSA",
        }
    }

    /// An assertion that `client` is asking `audience`, from `now_s` on. `id` makes it another one each time.
    pub(super) fn assert(
        &self,
        client: &str,
        audience: &str,
        now_s: u64,
        id: &str,
    ) -> Result<String, String> {
        let head = json!({"alg": self.algorithm(), "typ": "JWT"});
        let claims = json!({
            "iss": client, "sub": client, "aud": audience, "jti": id, "iat": now_s, "exp": now_s + HOLDS_S,
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let said = format!("{}.{}", part(&head), part(&claims));
        let signature = self.sign(said.as_bytes()).map_err(|_| "its key cannot sign".to_owned())?;
        Ok(format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, ring::error::Unspecified> {
        let random = SystemRandom::new();
        match self {
            Key::P256(key) => key.sign(&random, text).map(|signature| signature.as_ref().to_vec()),
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, text, &mut signature).map(|()| signature)
            }
            Key::Ed25519(key) => Ok(key.sign(text).as_ref().to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::KeyPair;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, KeyPair as _, UnparsedPublicKey, VerificationAlgorithm,
    };
    use serde_json::Value;

    fn read(pem: &str) -> Result<Key, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pem).unwrap();
        Key::read(file.path())
    }

    fn check(key: &Key, algorithm: &str, verify: &'static dyn VerificationAlgorithm, public: &[u8]) {
        let said = key.assert("me", "https://a.test", 1_000, "once").unwrap();
        let parts: Vec<&str> = said.split('.').collect();
        let [head, claims, signature] = parts[..] else { panic!("{said}") };
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let json = |part: &str| serde_json::from_slice::<Value>(&decoded(part)).unwrap();
        assert_eq!(json(head), json!({"alg": algorithm, "typ": "JWT"}));
        let expected = json!({"iss": "me", "sub": "me", "aud": "https://a.test", "jti": "once", "iat": 1_000, "exp": 1_300});
        assert_eq!(json(claims), expected);
        let signed = format!("{head}.{claims}");
        UnparsedPublicKey::new(verify, public).verify(signed.as_bytes(), &decoded(signature)).unwrap();
    }

    #[test]
    fn what_is_signed_can_be_checked_by_whoever_has_the_public_key() {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = read(&pem(&pair)).unwrap();
        let Key::P256(inner) = &key else { panic!("another kind") };
        check(&key, "ES256", &ECDSA_P256_SHA256_FIXED, inner.public_key().as_ref());
        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let key = read(&pem(&pair)).unwrap();
        let Key::Ed25519(inner) = &key else { panic!("another kind") };
        check(&key, "EdDSA", &ED25519, inner.public_key().as_ref());
    }

    #[test]
    fn a_file_that_is_no_key_is_named_and_not_shown() {
        for text in ["hunter2", "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n"] {
            let said = read(text).err().unwrap();
            assert!(
                said.starts_with("the key file /") && !said.contains("hunter2") && !said.contains("aHV"),
                "{said}"
            );
        }
    }

    fn pem(pair: &KeyPair) -> String {
        let der = base64::engine::general_purpose::STANDARD.encode(pair.serialize_der());
        let lines: Vec<&str> =
            der.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }
}
