//! What a server's certificate is checked against: the certificates of the operating system (`SSL_CERT_FILE` and
//! `SSL_CERT_DIR` are honoured), with rustls and ring. One configuration serves REST and WebSocket.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};

use crate::client::model::{Problem, ProblemKind};

/// The shared configuration. A machine without certificates still reaches plain loopback servers.
///
/// # Errors
/// When ring offers none of the protocol versions, which no build of ours does.
pub fn config() -> Result<Arc<ClientConfig>, Problem> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // reqwest asks for the process's provider even where it gets a finished configuration; a second call is harmless.
    let _ = rustls::crypto::CryptoProvider::install_default((*provider).clone());
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(added, ignored, errors = found.errors.len(), "loaded the certificates of the system");
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Problem::new(ProblemKind::Failed, format!("cannot set up TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}
