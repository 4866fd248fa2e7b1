//! Tokens and codes: how they are made and checked. An access token is a JWT signed with Ed25519 and nothing else; it only
//! names a session, and rights are looked up live. Refresh tokens and codes are random and kept as hashes (`db::sessions`).

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::protocol::auth::{AccessClaims, SecretText};
use crate::protocol::codec::Timestamp;
use crate::protocol::ids::{DeviceId, SessionId, UserId};

use super::error::ApiError;
use super::secret::{ServerSecret, hmac_sha256, random};

const ISSUER: &str = "chat";
const AUDIENCE: &str = "chat-access";

/// Signs and checks access tokens.
pub struct AccessTokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
    lifetime_s: u64,
}

impl AccessTokens {
    pub fn new(secret: &ServerSecret, lifetime_s: u64) -> anyhow::Result<Self> {
        install_provider();
        let seed = secret.derive("access token");
        let public = SigningKey::from_bytes(&seed).verifying_key();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = 0;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Ok(Self {
            signing: EncodingKey::from_ed_der(seed.as_slice()),
            verifying: DecodingKey::from_ed_der(public.as_bytes()),
            validation,
            lifetime_s,
        })
    }

    /// A token for a session as of now, and when it ends.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn issue(&self, user: UserId, session: SessionId, device: Option<DeviceId>) -> Result<(SecretText, Timestamp), ApiError> {
        self.issue_at(Utc::now(), user, session, device)
    }

    /// The same moment gives the same bytes.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn issue_at(
        &self,
        at: DateTime<Utc>,
        user: UserId,
        session: SessionId,
        device: Option<DeviceId>,
    ) -> Result<(SecretText, Timestamp), ApiError> {
        let iat = u64::try_from(at.timestamp()).unwrap_or_default();
        let exp = iat + self.lifetime_s;
        let claims =
            AccessClaims { sub: user, sid: session, did: device, iss: ISSUER.to_owned(), aud: AUDIENCE.to_owned(), iat, exp };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.signing).map_err(ApiError::internal)?;
        Ok((SecretText(token), Timestamp(i64::try_from(exp * 1000).unwrap_or(i64::MAX))))
    }

    /// # Errors
    /// 401 `token_expired` for a token of ours that was good once, `unauthenticated` for everything else.
    pub fn verify(&self, token: &str) -> Result<AccessClaims, ApiError> {
        match jsonwebtoken::decode::<AccessClaims>(token, &self.verifying, &self.validation) {
            Ok(token) => Ok(token.claims),
            Err(e) if *e.kind() == ErrorKind::ExpiredSignature => Err(ApiError::token_expired()),
            Err(_) => Err(ApiError::unauthenticated()),
        }
    }
}

/// Refresh tokens: 32 random bytes; the successor of one follows from it and the server's secret, so that a repeated
/// request gets the same answer without the token being stored anywhere.
pub struct RefreshTokens {
    key: Zeroizing<[u8; 32]>,
    pub lifetime: TimeDelta,
}

/// A refresh token as the client holds it; only its hash is stored.
pub struct RefreshToken(Zeroizing<[u8; 32]>);

impl RefreshTokens {
    pub fn new(secret: &ServerSecret, lifetime_s: u64) -> Self {
        let lifetime = TimeDelta::seconds(i64::try_from(lifetime_s).unwrap_or(i64::from(u32::MAX)));
        Self { key: secret.derive("refresh token"), lifetime }
    }

    pub fn successor(&self, token: &RefreshToken) -> RefreshToken {
        RefreshToken(Zeroizing::new(hmac_sha256(&self.key, &[token.0.as_slice()])))
    }
}

impl RefreshToken {
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random() -> Result<Self, ApiError> {
        random().map(|bytes| Self(Zeroizing::new(bytes))).map_err(ApiError::internal)
    }

    /// `None` for what was never a token of ours.
    pub fn parse(text: &SecretText) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(&text.0).ok()?);
        <[u8; 32]>::try_from(bytes.as_slice()).ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_slice()).into()
    }

    pub fn text(&self) -> SecretText {
        SecretText(URL_SAFE_NO_PAD.encode(self.0.as_slice()))
    }
}

/// A code for people: 160 random bits in base32, in groups of four.
pub struct Code(Zeroizing<String>);

impl Code {
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random() -> Result<Self, ApiError> {
        let bytes = Zeroizing::new(random::<20>().map_err(ApiError::internal)?);
        Ok(Self(Zeroizing::new(BASE32_NOPAD.encode(bytes.as_slice()))))
    }

    /// As it was typed: case, spaces and hyphens do not matter.
    pub fn typed(text: &SecretText) -> Self {
        let letters = text.0.chars().filter(|c| !c.is_whitespace() && *c != '-').take(64);
        Self(Zeroizing::new(letters.map(|c| c.to_ascii_uppercase()).collect()))
    }

    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    pub fn text(&self) -> SecretText {
        let groups: Vec<&str> = self.0.as_bytes().chunks(4).filter_map(|group| std::str::from_utf8(group).ok()).collect();
        SecretText(groups.join("-"))
    }
}

/// The library takes its cryptography from a process-wide provider: ours knows Ed25519 from this project's own dalek
/// and refuses every other algorithm.
fn install_provider() {
    static PROVIDER: OnceLock<CryptoProvider> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| CryptoProvider {
        signer_factory: signer,
        verifier_factory: verifier,
        key_utils: KeyUtils::new_unimplemented(),
    });
    // The second server of a test process finds it installed.
    let _ = provider.install_default();
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    match (algorithm, <&[u8; 32]>::try_from(key.as_bytes())) {
        (Algorithm::EdDSA, Ok(seed)) => Ok(Box::new(Ed25519Signer(SigningKey::from_bytes(seed)))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    if *algorithm != Algorithm::EdDSA {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let key = <&[u8; 32]>::try_from(key.try_get_as_bytes()?).ok().and_then(|bytes| VerifyingKey::from_bytes(bytes).ok());
    key.map(|key| Box::new(Ed25519Verifier(key)) as Box<dyn JwtVerifier>).ok_or_else(|| ErrorKind::InvalidEddsaKey.into())
}

struct Ed25519Signer(SigningKey);

impl signature::Signer<Vec<u8>> for Ed25519Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).to_bytes().to_vec())
    }
}

impl JwtSigner for Ed25519Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct Ed25519Verifier(VerifyingKey);

impl signature::Verifier<Vec<u8>> for Ed25519Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let bytes = <&[u8; 64]>::try_from(signature.as_slice()).map_err(|_| signature::Error::new())?;
        self.0.verify_strict(message, &Signature::from_bytes(bytes)).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Ed25519Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::error::ErrorCode;

    fn tokens() -> AccessTokens {
        AccessTokens::new(&ServerSecret::from_bytes([7; 32]), 900).unwrap()
    }

    fn claims() -> Value {
        let now = Utc::now().timestamp();
        json!({ "sub": UserId::from_bytes([1; 16]), "sid": SessionId::from_bytes([2; 16]), "did": 1,
                "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 60 })
    }

    fn segment(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap())
    }

    /// A token with a right signature over whatever it says.
    fn forge(header: &Value, claims: &Value) -> String {
        let seed = ServerSecret::from_bytes([7; 32]).derive("access token");
        let message = format!("{}.{}", segment(header), segment(claims));
        let signature = SigningKey::from_bytes(&seed).sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    fn with(key: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[key] = value;
        claims
    }

    #[test]
    fn a_token_comes_back_as_it_was_issued() {
        let (user, session) = (UserId::from_bytes([1; 16]), SessionId::from_bytes([2; 16]));
        let (token, expires) = tokens().issue(user, session, Some(3)).unwrap();
        let claims = tokens().verify(&token.0).unwrap();
        assert_eq!((claims.sub, claims.sid, claims.did), (user, session, Some(3)));
        assert_eq!(expires.0, claims.exp as i64 * 1000);
        assert!(
            tokens().verify(&forge(&json!({ "alg": "EdDSA" }), &self::claims())).is_ok(),
            "the forger of these tests is right"
        );
    }

    #[test]
    fn tokens_with_another_algorithm_key_or_type_are_refused() {
        let eddsa = json!({ "alg": "EdDSA", "typ": "JWT" });
        let public = SigningKey::from_bytes(&ServerSecret::from_bytes([7; 32]).derive("access token")).verifying_key();
        let hs256 = {
            let message = format!("{}.{}", segment(&json!({ "alg": "HS256" })), segment(&claims()));
            let mac = hmac_sha256(public.as_bytes(), &[message.as_bytes()]);
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac))
        };
        let good = forge(&eddsa, &claims());
        let (message, signature) = good.rsplit_once('.').unwrap();
        let mut malleable = URL_SAFE_NO_PAD.decode(signature).unwrap();
        // S + L, the same S for a careless verifier.
        let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
        let mut carry = 0u16;
        for (byte, add) in malleable[32..].iter_mut().zip(order) {
            carry += u16::from(*byte) + u16::from(add);
            *byte = carry as u8;
            carry >>= 8;
        }
        let other = AccessTokens::new(&ServerSecret::from_bytes([8; 32]), 900).unwrap();
        let foreign = other.issue(UserId::from_bytes([1; 16]), SessionId::from_bytes([2; 16]), None).unwrap().0.0;
        let none = format!("{}.{}.", segment(&json!({ "alg": "none" })), segment(&claims()));
        let without = |key: &str| {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(key);
            forge(&eddsa, &claims)
        };
        for (what, token) in [
            ("alg none", none),
            ("HS256 with the public key", hs256),
            ("another server's key", foreign),
            ("empty signature", format!("{message}.")),
            ("malleable signature", format!("{message}.{}", URL_SAFE_NO_PAD.encode(&malleable))),
            ("exp as text", forge(&eddsa, &with("exp", json!("9999999999")))),
            ("exp as a fraction", forge(&eddsa, &with("exp", json!(9_999_999_999.5)))),
            ("wrong aud", forge(&eddsa, &with("aud", json!("chat-refresh")))),
            ("aud as a list", forge(&eddsa, &with("aud", json!([AUDIENCE])))),
            ("wrong iss", forge(&eddsa, &with("iss", json!("evil")))),
            ("sub not an id", forge(&eddsa, &with("sub", json!("root")))),
            ("no exp", without("exp")),
            ("no aud", without("aud")),
            ("no iss", without("iss")),
            ("no sid", without("sid")),
            ("empty", String::new()),
            ("dots", "..".to_owned()),
            ("garbage", "a.b.c".to_owned()),
        ] {
            assert_eq!(tokens().verify(&token).unwrap_err().code, ErrorCode::Unauthenticated, "{what}");
        }
    }

    #[test]
    fn the_successor_of_a_refresh_token_is_always_the_same_and_of_this_server_only() {
        let (ours, theirs) = (ServerSecret::from_bytes([7; 32]), ServerSecret::from_bytes([8; 32]));
        let token = RefreshToken::random().unwrap();
        let again = RefreshToken::parse(&token.text()).unwrap();
        let tokens = RefreshTokens::new(&ours, 60);
        assert_eq!(tokens.successor(&token).hash(), tokens.successor(&again).hash());
        assert_ne!(tokens.successor(&token).hash(), RefreshTokens::new(&theirs, 60).successor(&token).hash());
        assert_ne!(tokens.successor(&token).hash(), token.hash());
        assert!(RefreshToken::parse(&"short".into()).is_none() && RefreshToken::parse(&SecretText("x".repeat(9999))).is_none());
    }

    #[test]
    fn a_code_may_be_typed_in_any_way() {
        let code = Code::random().unwrap();
        let text = code.text().0;
        assert_eq!((text.len(), text.matches('-').count()), (39, 7));
        let typed = SecretText(text.to_lowercase().replace('-', " "));
        assert_eq!(Code::typed(&typed).hash(), code.hash());
    }

    #[test]
    fn an_expired_token_says_so_and_only_with_a_right_signature() {
        let expired = forge(&json!({ "alg": "EdDSA" }), &with("exp", json!(1_000_000)));
        assert_eq!(tokens().verify(&expired).unwrap_err().code, ErrorCode::TokenExpired);
        let (message, _) = expired.rsplit_once('.').unwrap();
        let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode([1; 64]));
        assert_eq!(tokens().verify(&forged).unwrap_err().code, ErrorCode::Unauthenticated);
    }
}
