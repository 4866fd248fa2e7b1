//! `chat version`: what this binary is.

use std::io::Write as _;

use super::Globals;
use crate::client::model::{Problem, ProblemKind};
use crate::protocol::PROTOCOL_VERSION;

/// # Errors
/// When standard output cannot be written.
pub fn run(globals: &Globals) -> Result<(), Problem> {
    let version = env!("CARGO_PKG_VERSION");
    let line = if globals.json {
        serde_json::json!({ "v": 1, "type": "version", "version": version, "protocol": PROTOCOL_VERSION }).to_string()
    } else {
        format!("chat {version}, protocol {PROTOCOL_VERSION}")
    };
    writeln!(std::io::stdout(), "{line}").map_err(|error| Problem::new(ProblemKind::Failed, format!("cannot write: {error}")))
}
