//! The rules of signed device lists (`crypto.md` 4.3, `docs/PROTOCOL.md` 9.28): what the server accepts as the next list of
//! a user, and what follows from it. Clients check everything again; this keeps junk from spreading.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use crate::crypto::verify::{self, DeviceCert, DeviceList, VerifyKey};
use crate::protocol::codec::Blob;
use crate::protocol::devices::ListHead;
use crate::protocol::ids::{DeviceAddr, SessionId, StreamId, UserId};
use crate::protocol::streams::Event;

use super::db::devices::{self, Identity};
use super::db::{Conn, sessions, streams, users};
use super::error::{ApiError, ApiResult};

/// What a change of the list means for the rest of the server, after the commit.
#[derive(Debug, Default)]
pub struct Published {
    pub head_seq: u64,
    pub moved: Vec<(StreamId, u64)>,
    pub revoked: Vec<SessionId>,
}

/// SHA-256 of an identity key.
pub fn fingerprint(identity: &VerifyKey) -> [u8; 32] {
    Sha256::digest(identity.as_bytes()).into()
}

/// A list of the right form with a right signature, of this user.
///
/// # Errors
/// 400 `validation`, 422 `bad_signature`.
pub fn parse(user: UserId, list: &Blob) -> ApiResult<DeviceList> {
    let list = DeviceList::verify(list.as_slice()).map_err(|e| refused("device_list", e))?;
    if list.user_id() != *user.as_bytes() {
        return Err(ApiError::validation("device_list", "is the list of another user"));
    }
    Ok(list)
}

/// A certificate that verifies under the identity, of this user.
///
/// # Errors
/// 400 `validation`, 422 `bad_signature`.
pub fn parse_certificate(user: UserId, certificate: &Blob, identity: &VerifyKey) -> ApiResult<DeviceCert> {
    let cert = DeviceCert::verify(certificate.as_slice(), identity).map_err(|e| refused("certificate", e))?;
    if cert.addr().user_id != *user.as_bytes() {
        return Err(ApiError::validation("certificate", "is the certificate of another user"));
    }
    Ok(cert)
}

/// The answer to what `crypto::verify` refused.
pub fn refused(field: &str, error: verify::Error) -> ApiError {
    match error {
        verify::Error::BadSignature | verify::Error::LowOrder | verify::Error::IdentityChanged => {
            ApiError::bad_signature(format!("{field}: {error}"))
        }
        _ => ApiError::validation(field, error.to_string()),
    }
}

/// Stores the next list of a user with the certificates that are new in it, removes the devices that it does not name any
/// more, and tells everybody who writes to the user. The caller holds `devices::lock_user`. The same bytes again succeed
/// without effect.
///
/// # Errors
/// 409 `conflict {head_seq}` for a taken seq or another `prev`; 400 and 422 as [`parse`].
pub async fn publish(
    conn: &mut Conn,
    user: UserId,
    identity: &Identity,
    list: &DeviceList,
    new: &[DeviceCert],
) -> ApiResult<Published> {
    let head_seq = identity.head_seq.unsigned_abs();
    if list.identity().as_bytes().as_slice() != identity.identity_key {
        return Err(refused("device_list", verify::Error::IdentityChanged));
    }
    let conflict = || {
        ApiError::conflict("another list has this place: fetch it, then sign the next one").with_details(ListHead { head_seq })
    };
    let seq = i64::try_from(list.seq()).map_err(|_| refused("device_list", verify::Error::Malformed))?;
    if list.seq() <= head_seq {
        let known = devices::find_list(conn, user, &identity.fingerprint, seq).await?;
        return if known.is_some_and(|known| known == list.as_bytes()) {
            Ok(Published { head_seq, ..Published::default() })
        } else {
            Err(conflict())
        };
    }
    match devices::find_list(conn, user, &identity.fingerprint, identity.head_seq).await? {
        Some(newest) => {
            let newest = DeviceList::parse(&newest).map_err(ApiError::internal)?;
            list.follows(newest.claims()).map_err(|_| conflict())?;
        }
        None if list.seq() == 1 => {}
        None => return Err(conflict()),
    }
    store_certificates(conn, user, identity, list, new).await?;
    devices::insert_list(conn, user, &identity.fingerprint, seq, list.as_bytes(), list.hash()).await?;
    let revoked = drop_unlisted(conn, user, list).await?;
    let moved = tell(conn, user, list.seq()).await?;
    Ok(Published { head_seq: list.seq(), moved, revoked })
}

/// Every entry must have a certificate, known or new; a new one must be named, and its id must be free or have the same key.
async fn store_certificates(
    conn: &mut Conn,
    user: UserId,
    identity: &Identity,
    list: &DeviceList,
    new: &[DeviceCert],
) -> ApiResult<()> {
    let mut known = Vec::new();
    for certificate in devices::certificates(conn, user, &identity.fingerprint).await? {
        known.push(DeviceCert::verify(&certificate, list.identity()).map_err(ApiError::internal)?);
    }
    let largest = known.iter().map(|cert| cert.addr().device_id).max().unwrap_or_default();
    for cert in new {
        if !list.names(cert) {
            return Err(ApiError::validation("certificates", "one of them is not in the list"));
        }
        let id = cert.addr().device_id;
        match known.iter().find(|other| other.addr().device_id == id) {
            Some(other) if other.signing_key() != cert.signing_key() => {
                return Err(ApiError::bad_signature(format!("device {id} was another device before: ids are never used again")));
            }
            None if id <= largest => {
                return Err(ApiError::validation("certificates", format!("a new device has an id above {largest}")));
            }
            _ => {}
        }
    }
    for entry in list.entries() {
        if !known.iter().chain(new).any(|cert| cert.addr().device_id == entry.device_id && list.names(cert)) {
            return Err(ApiError::validation(
                "certificates",
                format!("the certificate of device {} is missing", entry.device_id),
            ));
        }
    }
    for cert in new {
        let device = DeviceAddr::new(user, cert.addr().device_id);
        devices::insert_certificate(conn, device, &identity.fingerprint, cert.hash(), cert.as_bytes()).await?;
    }
    Ok(())
}

async fn drop_unlisted(conn: &mut Conn, user: UserId, list: &DeviceList) -> ApiResult<Vec<SessionId>> {
    let mut revoked = Vec::new();
    for id in devices::ids(conn, user).await? {
        let device = DeviceAddr::new(user, id);
        match list.entry(id) {
            Some(entry) => devices::set_cert_hash(conn, device, &entry.cert_hash).await?,
            None => revoked.extend(remove(conn, device, None).await?),
        }
    }
    Ok(revoked)
}

/// A device with its prekeys, its inbox and its logins but for `keep`.
///
/// # Errors
/// Of the database.
pub async fn remove(conn: &mut Conn, device: DeviceAddr, keep: Option<SessionId>) -> ApiResult<Vec<SessionId>> {
    devices::delete(conn, device).await?;
    Ok(sessions::revoke_device(conn, device.user_id, device.device_id, keep).await?)
}

/// `device_list` on the streams of the user and of everybody who shares a log or a DM with them.
async fn tell(conn: &mut Conn, user: UserId, list_seq: u64) -> ApiResult<Vec<(StreamId, u64)>> {
    let mut hearers: BTreeSet<StreamId> = users::acquaintances(conn, user).await?.into_iter().map(StreamId::from).collect();
    hearers.insert(user.into());
    let hearers: Vec<StreamId> = hearers.into_iter().collect();
    Ok(streams::append_to(conn, &hearers, &Event::DeviceList { user_id: user, list_seq }).await?)
}
