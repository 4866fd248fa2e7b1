//! The one error of this folder: the names of TC/1 section 21, which the test vectors and the reactions of the client are
//! written in. A variant carries nothing, so that no error can carry a secret or tell a peer more than its name.

/// Why an operation of TC/1 was refused. No error changes any state, and none is reported to the peer except as in
/// section 10.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// An unknown version, type or suite: kept for a later client.
    #[error("this was made by a newer client: its version, type or suite is unknown here")]
    Unsupported,
    /// Layout, lengths, fields, padding or content are wrong.
    #[error("the bytes are not of the form that the protocol asks for")]
    Malformed,
    /// No session with this id.
    #[error("there is no session for this message")]
    UnknownSession,
    /// The secret of a prekey that the first message used is deleted.
    #[error("the prekey that this first message used is gone")]
    PrekeyGone,
    /// A message key or a handshake that was used before.
    #[error("this message was received before")]
    Replay,
    /// More messages would have to be skipped than the protocol allows.
    #[error("too many messages before this one are missing")]
    TooFarAhead,
    /// Key commitment, tag or ratchet state do not match: one outward variant.
    #[error("this message cannot be decrypted")]
    Undecryptable,
    /// A signature is wrong, a key is weak, or a device id came back with another key.
    #[error("a signature or a key is not valid")]
    BadSignature,
    /// A Diffie-Hellman result is zero.
    #[error("a public key is of low order")]
    LowOrder,
    /// The actor or sender was not a member at that point.
    #[error("the sender is not a member")]
    NotMember,
    /// Two different valid objects claim the same place.
    #[error("two different signed objects claim the same place")]
    Equivocation,
    /// The prekeys are too old, or from the future.
    #[error("the device's prekeys are too old or from the future")]
    StaleBundle,
    /// Another user identity key than the pinned one.
    #[error("the identity key of this user changed")]
    IdentityChanged,
    /// The certificate is not in the verified device list.
    #[error("the device is not in its user's signed device list")]
    UnverifiedDevice,
    /// No key was received for this sender's chain.
    #[error("the sender's channel key has not arrived")]
    UnknownChain,
    /// The epoch is above the known membership log.
    #[error("the membership log is behind this message")]
    FutureEpoch,
    /// The sequence number is below the known one.
    #[error("this is older than what is known")]
    OldSeq,
    /// The sequence number is not adjacent to the known one.
    #[error("something between this and what is known is missing")]
    Gap,
    /// Without the right, or out of place.
    #[error("this is not allowed here")]
    Rejected,
    /// A local bound of section 20.
    #[error("a limit of the protocol is reached")]
    Limit,
}
