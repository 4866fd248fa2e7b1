//! `chat channels`: where one can read and write.

use std::time::Duration;

use serde_json::json;

use super::print::{Printer, Style, channels, trust_word};
use super::session::Session;
use super::{Globals, Stop, report};
use crate::tui::text::Clean;

const CATCH_UP: Duration = Duration::from_secs(10);

/// # Errors
/// When the profile does not open.
pub fn run(globals: &Globals) -> Result<(), Stop> {
    super::block_on(async {
        let mut session = Session::open(globals).await?;
        let result = list(&mut session, globals).await;
        session.close().await;
        result
    })
}

async fn list(session: &mut Session, globals: &Globals) -> Result<(), Stop> {
    if !session.online(CATCH_UP).await && !globals.quiet {
        report(&session.offline("This is what is on this machine."), globals);
    }
    session.settled().await;
    let mut out = Printer::new(globals);
    for (name, node) in channels(&session.tree) {
        if out.is_json() {
            let community = session.tree.communities.iter().find(|community| Some(community.id) == node.community_id);
            out.object(
                "channel",
                json!({
                    "id": node.id,
                    "name": name.full(),
                    "kind": node.kind,
                    "community_id": node.community_id,
                    "community": community.map(|community| community.name.raw()),
                    "group_id": node.group_id,
                    "topic": node.topic.as_ref().map(|topic| topic.raw()),
                    "unread": node.unread,
                    "mentions": node.mentions,
                    "members": node.member_count,
                    "private": node.private,
                    "read_only": node.read_only,
                    "archived": node.archived,
                    "muted": node.muted,
                    "blocked": node.blocked.is_some(),
                    "peer_id": node.peer.as_ref().map(|peer| peer.user_id),
                    "trust": node.peer.as_ref().map(|peer| trust_word(peer.trust)),
                }),
            )?;
            continue;
        }
        let unread = if node.unread > 0 { format!("  {} unread", node.unread) } else { String::new() };
        let topic = node.topic.as_ref().map(|topic| format!("  {}", Clean::preview(topic, 60))).unwrap_or_default();
        out.line(&[
            (if node.unread > 0 { Style::Bold } else { Style::Plain }, &Clean::from_untrusted(&name.full().into())),
            (Style::Bold, &Clean::ours(unread)),
            (Style::Dim, &Clean::ours(topic)),
        ])?;
    }
    Ok(out.flush()?)
}
