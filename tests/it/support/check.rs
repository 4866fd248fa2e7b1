//! What must hold whatever happened.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chat::crypto::membership::{Log, Role};
use uuid::Uuid;

use super::server::TestServer;

impl TestServer {
    /// What must hold after every request, whatever it did or refused: rows are what the signed logs say, each op was told
    /// once and in order, and every stream and channel is gapless.
    pub async fn check(&self) {
        let sql = self.checks.lock().await;
        sql.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.unwrap();
        let logs = sql
            .query(
                "SELECT l.id, l.kind, l.head_seq, l.head_hash, l.shrink_seq, l.open, l.who_can_create_invites, c.owner_id,
                        (c.id IS NOT NULL AND c.deleted_at IS NULL) OR (g.id IS NOT NULL AND g.deleted_at IS NULL)
                        OR (h.id IS NOT NULL AND h.deleted_at IS NULL),
                        ARRAY(SELECT o.op FROM log_ops o WHERE o.log_id = l.id ORDER BY o.seq)
                   FROM logs l LEFT JOIN communities c ON c.id = l.id LEFT JOIN groups g ON g.id = l.id
                   LEFT JOIN channels h ON h.id = l.id",
                &[],
            )
            .await
            .unwrap();
        for row in logs {
            let (id, ops): (Uuid, Vec<Vec<u8>>) = (row.get(0), row.get(9));
            let log = Log::replay(id.as_bytes(), &ops).unwrap();
            assert_eq!(row.get::<_, i64>(2), i64::try_from(log.epoch()).unwrap());
            assert_eq!(row.get::<_, Vec<u8>>(3), log.newest_head());
            assert_eq!(row.get::<_, i64>(4), i64::try_from(log.shrunk_at().unwrap_or(0)).unwrap());
            assert_eq!((row.get::<_, bool>(5), row.get::<_, i16>(6)), (log.is_open(), log.invite_role() as i16));
            let live: bool = row.get(8);
            let members = sql
                .query("SELECT user_id, role, joined_seq FROM members WHERE log_id = $1 ORDER BY user_id", &[&id])
                .await
                .unwrap();
            let members: Vec<(Uuid, i16, i64)> = members.iter().map(|m| (m.get(0), m.get(1), m.get(2))).collect();
            let told = log.members().map(|(user, m)| (Uuid::from_bytes(*user), m.role as i16, i64::try_from(m.since).unwrap()));
            let told: Vec<_> = told.filter(|_| live).collect();
            assert_eq!(members, told, "members rows of log {id} are not the log's members");
            let bans = sql.query("SELECT user_id FROM bans WHERE log_id = $1 ORDER BY user_id", &[&id]).await.unwrap();
            let bans: Vec<Uuid> = bans.iter().map(|ban| ban.get(0)).collect();
            assert_eq!(bans, log.banned().filter(|_| live).map(|user| Uuid::from_bytes(*user)).collect::<Vec<_>>());
            let invites = sql
                .query("SELECT public_key, used_count FROM invites WHERE log_id = $1 ORDER BY public_key", &[&id])
                .await
                .unwrap();
            let invites: Vec<(Vec<u8>, i64)> = invites.iter().map(|invite| (invite.get(0), invite.get(1))).collect();
            let told = log.invites().map(|(key, _)| (key.to_vec(), i64::from(log.invite_uses(key))));
            assert_eq!(invites, told.filter(|_| live).collect::<Vec<_>>(), "invites of log {id}");
            if let Some(owner) = row.get::<_, Option<Uuid>>(7).filter(|_| live) {
                assert_eq!(log.member(owner.as_bytes()).map(|member| member.role), Some(Role::Owner));
            }
            let column = if row.get::<_, i16>(1) == 1 {
                "SELECT body->>'op' FROM messages WHERE channel_id = $1 AND kind = 'member' ORDER BY seq"
            } else {
                "SELECT event->>'op' FROM stream_events WHERE stream_id = $1 AND event->>'kind' = 'log_op' ORDER BY seq"
            };
            let told: Vec<String> = sql.query(column, &[&id]).await.unwrap().iter().map(|row| row.get(0)).collect();
            assert_eq!(
                told,
                ops.iter().map(|op| STANDARD.encode(op)).collect::<Vec<_>>(),
                "the ops of log {id} as they were told"
            );
        }
        let gaps = "SELECT s.id::text FROM streams s LEFT JOIN stream_events e ON e.stream_id = s.id
                     GROUP BY s.id HAVING count(e.seq) <> s.head_seq OR coalesce(max(e.seq), 0) <> s.head_seq
                     UNION ALL
                    SELECT h.channel_id::text FROM channel_heads h LEFT JOIN messages m ON m.channel_id = h.channel_id
                     GROUP BY h.channel_id HAVING count(m.seq) <> h.head_seq OR coalesce(max(m.seq), 0) <> h.head_seq";
        let gaps: Vec<String> = sql.query(gaps, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(gaps, Vec::<String>::new(), "streams with a gap");
        sql.batch_execute("COMMIT").await.unwrap();
    }
}
