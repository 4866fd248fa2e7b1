//! `chat version`: what this binary is.

use serde_json::json;

use super::print::Printer;
use super::{Globals, Stop};
use crate::protocol::PROTOCOL_VERSION;

/// # Errors
/// When standard output cannot be written.
pub fn run(globals: &Globals) -> Result<(), Stop> {
    let version = env!("CARGO_PKG_VERSION");
    let mut out = Printer::new(globals);
    if out.is_json() {
        out.object("version", json!({ "version": version, "protocol": PROTOCOL_VERSION }))?;
    } else {
        out.say(format!("chat {version}, protocol {PROTOCOL_VERSION}"))?;
    }
    Ok(out.flush()?)
}
