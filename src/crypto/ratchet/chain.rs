//! The keys of a ratchet, each role its own type, and `KDF_CK`: the step of a symmetric chain. The same step drives the chains
//! of a DM (7.1) and of a sender key (12.3).

use super::super::kdf::Prf;
use super::super::secret::Secret;

macro_rules! role {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, PartialEq, Eq)]
        pub struct $name(Secret<32>);

        impl $name {
            /// A copy of `bytes`; wiping the source is the caller's part.
            pub fn copy_of(bytes: &[u8; 32]) -> Self {
                Self(Secret::copy_of(bytes))
            }

            /// The bytes, for the derivation or the store.
            pub const fn expose(&self) -> &[u8; 32] {
                self.0.expose()
            }
        }

        impl From<Secret<32>> for $name {
            fn from(secret: Secret<32>) -> Self {
                Self(secret)
            }
        }
    )+};
}

role! {
    /// RK: takes in each new Diffie-Hellman result and gives a chain key.
    RootKey;
    /// CK: derives the next message key and the next chain key.
    ChainKey;
    /// mk: derives what seals one message, and nothing else.
    MessageKey;
}

/// `mk = HMAC(ck, 0x01)` and `ck' = HMAC(ck, 0x02)`.
pub fn step(chain: &ChainKey) -> (MessageKey, ChainKey) {
    let prf = Prf::new(chain.expose());
    let message = Secret::fill(|key| prf.write(&[&[1]], key));
    let next = Secret::fill(|key| prf.write(&[&[2]], key));
    (message.into(), next.into())
}
