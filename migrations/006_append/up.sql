-- The one door into a channel's log. Nothing else inserts into messages or message_copies, or moves a channel's head.
--
-- Order of locks, for everybody: logs, streams, channel_heads, each in ascending order of ids, then the rest.
-- A send holds its channel's membership log FOR SHARE until it has committed; whoever changes membership holds it FOR UPDATE.
-- So no row of somebody who was removed has a seq after the removal. Every statement below has a snapshot of its own and sees
-- what was committed before the locks were taken.
--
-- A connection plans these statements once, perhaps while a table is empty. `LATERAL (… OFFSET 0)` leaves the planner one
-- choice, the look-up by key, so that a plan stays right however big the tables grow.

CREATE INDEX messages_pins ON messages (channel_id, target_id, seq) WHERE kind IN ('pin', 'unpin');

-- How many messages are pinned: the newest of a message's pin and unpin rows counts.
CREATE FUNCTION pin_count(p_channel uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM (
        SELECT DISTINCT ON (target_id) kind FROM messages
         WHERE channel_id = p_channel AND kind IN ('pin', 'unpin') AND deleted_at IS NULL
         ORDER BY target_id, seq DESC
    ) newest WHERE kind = 'pin'
$$;

-- Who hears a membership log's streams on a WebSocket: its members, who must still be in its community (as channel_readers).
CREATE VIEW log_listeners AS
    SELECT m.log_id, m.user_id FROM members m JOIN logs l ON l.id = m.log_id
     WHERE l.id = l.community_id OR l.community_id IS NULL
        OR EXISTS (SELECT 1 FROM members o WHERE o.log_id = l.community_id AND o.user_id = m.user_id);

-- A number that grows with every removal of a listener.
CREATE VIEW log_shrinks AS
    SELECT l.id AS log_id, l.shrink_seq + coalesce(c.shrink_seq, 0) AS shrink_seq
      FROM logs l LEFT JOIN logs c ON c.id = l.community_id AND c.id <> l.id;

-- Takes the locks of a write into these channels, in the order that everybody keeps.
CREATE FUNCTION lock_channels(p_channel uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM (SELECT DISTINCT unnest(ARRAY[c.log_id, c.community_id]) AS id
                      FROM unnest(p_channel) AS d (id)
                     CROSS JOIN LATERAL (SELECT x.log_id, x.community_id FROM channels x WHERE x.id = d.id OFFSET 0) c
                     WHERE c.log_id IS NOT NULL ORDER BY 1) l
      CROSS JOIN LATERAL (SELECT 1 FROM logs x WHERE x.id = l.id FOR SHARE) locked;
    PERFORM 1 FROM (SELECT DISTINCT unnest(p_channel) AS id ORDER BY 1) d
      CROSS JOIN LATERAL (SELECT 1 FROM channel_heads x WHERE x.channel_id = d.id FOR NO KEY UPDATE) locked;
END
$$;

-- A deleted or expired row keeps its place and says nothing any more (protocol 9.7).
CREATE FUNCTION erase_rows(p_channel uuid, p_seq bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE messages
       SET ciphertext = NULL, nonce = NULL, body = NULL, file_ids = '{}', thread_id = NULL, reply_to_id = NULL,
           expires_at = NULL, deleted_at = date_trunc('milliseconds', clock_timestamp())
     WHERE channel_id = p_channel AND seq = ANY (p_seq) AND deleted_at IS NULL;
    DELETE FROM message_copies WHERE channel_id = p_channel AND seq = ANY (p_seq);
END
$$;

-- What is wrong with the copies of the direct messages of a batch: null where nothing is, else the details of `stale_devices`.
-- Wanted are all devices of both people but the one that sends; given are copies and skipped devices together.
CREATE FUNCTION stale_devices(
    p_channel uuid[], p_user uuid[], p_device integer[],
    c_row integer[], c_user uuid[], c_device integer[], l_row integer[], l_user uuid[], l_seq bigint[]
) RETURNS jsonb[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
    WITH asked AS (
        SELECT a.ord, a.user_id, a.device_id, c.dm_low, c.dm_high
          FROM unnest(p_channel, p_user, p_device) WITH ORDINALITY AS a (channel_id, user_id, device_id, ord)
          LEFT JOIN LATERAL (SELECT x.dm_low, x.dm_high FROM channels x WHERE x.id = a.channel_id AND x.kind = 'dm' OFFSET 0) c ON true
    ), wanted AS (
        SELECT a.ord, p.user_id, d.device_id
          FROM asked a CROSS JOIN LATERAL (VALUES (a.dm_low), (a.dm_high)) AS p (user_id)
         CROSS JOIN LATERAL (SELECT x.device_id FROM devices x WHERE x.user_id = p.user_id OFFSET 0) d
         WHERE NOT (p.user_id = a.user_id AND d.device_id = a.device_id)
    ), given AS (
        SELECT g.ord, g.user_id, g.device_id FROM unnest(c_row, c_user, c_device) AS g (ord, user_id, device_id)
    ), missing AS (
        SELECT ord, jsonb_agg(jsonb_build_object('user_id', user_id, 'device_id', device_id)) AS list
          FROM (SELECT * FROM wanted EXCEPT SELECT * FROM given) m GROUP BY ord
    ), extra AS (
        SELECT ord, jsonb_agg(jsonb_build_object('user_id', user_id, 'device_id', device_id)) AS list
          FROM (SELECT * FROM given EXCEPT SELECT * FROM wanted) e GROUP BY ord
    ), old AS (
        SELECT DISTINCT l.ord FROM unnest(l_row, l_user, l_seq) AS l (ord, user_id, seq)
          LEFT JOIN LATERAL (SELECT x.head_seq FROM identities x WHERE x.user_id = l.user_id AND x.current OFFSET 0) i ON true
         WHERE l.seq IS DISTINCT FROM coalesce(i.head_seq, 0)
    )
    SELECT array_agg(
        CASE WHEN a.dm_low IS NOT NULL AND (missing.ord IS NOT NULL OR extra.ord IS NOT NULL OR old.ord IS NOT NULL) THEN
            jsonb_build_object('missing', coalesce(missing.list, '[]'), 'extra', coalesce(extra.list, '[]'), 'device_lists', (
                SELECT coalesce(jsonb_object_agg(i.user_id, i.head_seq), '{}')
                  FROM identities i WHERE i.user_id IN (a.dm_low, a.dm_high) AND i.current))
        END ORDER BY a.ord)
      FROM asked a LEFT JOIN missing USING (ord) LEFT JOIN extra USING (ord) LEFT JOIN old USING (ord));
END
$$;

-- Four questions that few rows ask. As functions they cost a call only where they are asked; as parts of the statement below, their
-- plans would be set up for every batch.
CREATE FUNCTION is_banned(p_log uuid, p_community uuid, p_user uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT 1 FROM bans WHERE log_id IN (p_log, p_community) AND user_id = p_user);
END
$$;

CREATE FUNCTION is_blocked(p_low uuid, p_high uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT 1 FROM blocks WHERE user_id = p_low AND blocked_id = p_high)
        OR EXISTS (SELECT 1 FROM blocks WHERE user_id = p_high AND blocked_id = p_low);
END
$$;

-- Whether an earlier row of the batch is by the same user in the same channel.
CREATE FUNCTION has_earlier(p_channel uuid[], p_user uuid[], p_ord bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN EXISTS (SELECT 1 FROM unnest(p_channel, p_user) WITH ORDINALITY AS e (channel_id, user_id, ord)
                    WHERE e.ord < p_ord AND e.channel_id = p_channel[p_ord] AND e.user_id = p_user[p_ord]);
END
$$;

-- What keeps a user with this role (null in a direct message) from aiming a row of this kind at a target; null if nothing does.
CREATE FUNCTION aim_fault(p_channel uuid, p_kind text, p_user uuid, p_role smallint, p_target uuid)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    t record;
BEGIN
    SELECT m.channel_id, m.kind, m.sender_id, m.deleted_at INTO t FROM messages m WHERE m.id = p_target;
    RETURN CASE
        WHEN t.channel_id IS DISTINCT FROM p_channel THEN 'not_found'
        WHEN t.deleted_at IS NOT NULL AND p_kind NOT IN ('delete', 'unpin') THEN 'not_found'
        WHEN p_kind IN ('edit', 'reaction', 'poll_vote', 'delete') AND t.sender_id IS NULL AND t.kind <> 'webhook' THEN 'forbidden'
        WHEN p_kind = 'edit' AND t.sender_id IS DISTINCT FROM p_user THEN 'forbidden'
        WHEN p_kind = 'delete' AND t.sender_id IS DISTINCT FROM p_user AND coalesce(p_role, 0) < 1 THEN 'forbidden'
        WHEN p_kind IN ('pin', 'unpin') AND p_role < 1 THEN 'forbidden'
        WHEN p_kind = 'pin' AND pin_count(p_channel) >= 50 THEN 'conflict'
    END;
END
$$;

-- A batch of sends over several channels, in the order of the arrays; one answer for each, by its place (`ord`, from 1).
-- The caller sees to it that no id occurs twice in a batch and that no row aims at another row of the same batch.
-- c_*: copies and skipped devices of direct messages (skipped: ciphertext null); l_*: the device lists they were made for.
--
-- code: `ok`, `duplicate`, or the error code of the protocol; detail: what belongs to it. log_id is null in a DM.
CREATE FUNCTION append_rows(
    p_id uuid[], p_channel uuid[], p_kind text[], p_user uuid[], p_device integer[],
    p_thread uuid[], p_reply uuid[], p_target uuid[], p_ciphertext bytea[], p_nonce bytea[], p_files text[],
    p_hash bytea[], p_epoch bigint[], p_expires_in integer[], p_limited boolean[],
    c_row integer[], c_user uuid[], c_device integer[], c_ciphertext bytea[], c_nonce bytea[],
    l_row integer[], l_user uuid[], l_seq bigint[]
) RETURNS TABLE (
    ord integer, code text, seq bigint, created_ms bigint, log_id uuid, log_seq bigint, shrink_seq bigint, expires_ms bigint, detail text
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_stale jsonb[];
    -- By place: seq of what was stored, and when a row was that slow mode counts.
    v_seq bigint[];
    v_slowed timestamptz[];
    r record;
BEGIN
    PERFORM lock_channels(p_channel);
    v_now := date_trunc('milliseconds', clock_timestamp());
    -- What people write in a channel has a ciphertext, so without a missing one there is no direct message in the batch.
    IF array_position(p_ciphertext, NULL) IS NOT NULL THEN
        v_stale := stale_devices(p_channel, p_user, p_device, c_row, c_user, c_device, l_row, l_user, l_seq);
    END IF;

    -- No step joins two of these lists by row: the work is linear in the batch. What is only stored stays in its array until it
    -- is stored: every step below would copy it.
    FOR r IN
    WITH asked AS (
        SELECT * FROM unnest(p_id, p_channel, p_kind, p_user, p_device, p_target, p_hash, p_epoch, p_expires_in, p_limited) WITH ORDINALITY
            AS a (id, channel_id, kind, user_id, device_id, target_id, hash, epoch, expires_in, limited, ord)
    ), places AS MATERIALIZED (
        SELECT c.*, h.head_seq, greatest(v_now, date_trunc('milliseconds', h.last_at)) AS now_at,
               l.head_seq AS log_seq, l.shrink_seq AS epoch_min, l.shrink_seq + coalesce(o.shrink_seq, 0) AS shrink_seq
          FROM (SELECT DISTINCT unnest(p_channel) AS id) d
         CROSS JOIN LATERAL (SELECT x.id, x.kind, x.community_id, x.log_id, x.dm_low, x.dm_high, x.archived, x.read_only,
                                    x.slow_mode_s, x.message_ttl_s
                               FROM channels x WHERE x.id = d.id AND x.deleted_at IS NULL OFFSET 0) c
         CROSS JOIN LATERAL (SELECT x.head_seq, x.last_at FROM channel_heads x WHERE x.channel_id = d.id OFFSET 0) h
          LEFT JOIN LATERAL (SELECT x.head_seq, x.shrink_seq FROM logs x WHERE x.id = c.log_id OFFSET 0) l ON true
          LEFT JOIN LATERAL (SELECT x.shrink_seq FROM logs x
                              WHERE x.id = c.community_id AND c.community_id <> c.log_id OFFSET 0) o ON true
    ), judged AS (
        SELECT a.ord, a.channel_id, c.log_id, c.log_seq, c.shrink_seq, c.head_seq, c.slow_mode_s, c.now_at,
               least(a.expires_in, c.message_ttl_s) AS ttl, old.seq AS old_seq, old.created_at AS old_at, s.timed_out_until,
               s.last_sent_at,
               CASE
                 WHEN c.id IS NULL THEN 'not_found'
                 WHEN c.kind = 'dm' AND a.user_id NOT IN (c.dm_low, c.dm_high) THEN 'not_found'
                 WHEN c.kind <> 'dm' AND (m.role IS NULL OR c.log_id <> c.community_id AND o.role IS NULL) THEN
                   CASE WHEN is_banned(c.log_id, c.community_id, a.user_id) THEN 'banned' ELSE 'not_found' END
                 WHEN old.id IS NOT NULL THEN
                   CASE WHEN old.channel_id = a.channel_id AND old.sender_id = a.user_id AND old.sender_device = a.device_id
                             AND old.content_hash = a.hash THEN 'duplicate' ELSE 'id_reused' END
                 WHEN d.device_id IS NULL THEN 'forbidden'
                 WHEN a.limited THEN 'rate_limited'
                 WHEN u.suspended_at IS NOT NULL OR u.deleted_at IS NOT NULL THEN 'suspended'
                 WHEN s.timed_out_until > v_now THEN 'timed_out'
                 WHEN c.archived AND a.kind <> 'delete' THEN 'archived'
                 WHEN (c.read_only OR c.kind = 'announcement') AND m.role < 1 AND a.kind <> 'delete' THEN 'read_only'
                 WHEN c.kind = 'dm' AND is_blocked(c.dm_low, c.dm_high) THEN 'blocked'
                 WHEN (c.kind = 'dm') <> (p_ciphertext[a.ord] IS NULL) AND a.kind NOT IN ('pin', 'unpin') THEN 'validation'
                 WHEN a.epoch > c.log_seq THEN 'validation'
                 WHEN a.epoch < c.epoch_min THEN 'stale_log'
                 ELSE coalesce(
                   CASE WHEN a.target_id IS NOT NULL THEN aim_fault(a.channel_id, a.kind, a.user_id, m.role, a.target_id) END,
                   CASE
                     WHEN c.slow_mode_s > 0 AND m.role < 1 AND a.kind IN ('message', 'poll') AND (
                            s.last_sent_at + make_interval(secs => c.slow_mode_s) > v_now OR has_earlier(p_channel, p_user, a.ord)
                          ) THEN 'slow_mode'
                     WHEN a.kind NOT IN ('pin', 'unpin') AND v_stale[a.ord] IS NOT NULL THEN 'stale_devices'
                     ELSE 'ok'
                   END)
               END AS code
          FROM asked a
          LEFT JOIN places c ON c.id = a.channel_id
          LEFT JOIN LATERAL (SELECT x.role FROM members x WHERE x.log_id = c.log_id AND x.user_id = a.user_id OFFSET 0) m ON true
          -- Who reads a private place must still be in its community.
          LEFT JOIN LATERAL (SELECT x.role FROM members x WHERE x.log_id = c.community_id AND x.user_id = a.user_id
                                AND c.community_id <> c.log_id OFFSET 0) o ON true
          LEFT JOIN LATERAL (SELECT x.suspended_at, x.deleted_at FROM users x WHERE x.id = a.user_id OFFSET 0) u ON true
          LEFT JOIN LATERAL (SELECT x.device_id FROM devices x
                              WHERE x.user_id = a.user_id AND x.device_id = a.device_id OFFSET 0) d ON true
          LEFT JOIN LATERAL (SELECT x.timed_out_until, x.last_sent_at FROM channel_states x
                              WHERE x.channel_id = c.id AND x.user_id = a.user_id OFFSET 0) s ON true
          LEFT JOIN LATERAL (SELECT x.id, x.channel_id, x.seq, x.sender_id, x.sender_device, x.content_hash, x.created_at
                               FROM messages x WHERE x.id = a.id OFFSET 0) old ON true
         -- Judged once, not again for the sorting below.
        OFFSET 0
    ), numbered AS MATERIALIZED (
        SELECT j.*, j.head_seq + row_number() OVER (PARTITION BY j.channel_id, j.code = 'ok' ORDER BY j.ord) AS seq FROM judged j
    ), stored AS (
        INSERT INTO messages (channel_id, seq, id, log_seq, kind, sender_id, sender_device, thread_id, reply_to_id, target_id,
                              ciphertext, nonce, file_ids, content_hash, created_at, expires_at)
        SELECT n.channel_id, n.seq, p_id[n.ord], n.log_seq, p_kind[n.ord], p_user[n.ord], p_device[n.ord], p_thread[n.ord],
               p_reply[n.ord], p_target[n.ord], p_ciphertext[n.ord], p_nonce[n.ord], coalesce(p_files[n.ord]::uuid[], '{}'),
               p_hash[n.ord], n.now_at, n.now_at + make_interval(secs => n.ttl)
          FROM numbered n WHERE n.code = 'ok'
    ), moved AS (
        UPDATE channel_heads h SET head_seq = n.head_seq, last_at = n.now_at
          FROM (SELECT channel_id, max(seq) AS head_seq, max(now_at) AS now_at FROM numbered WHERE code = 'ok' GROUP BY channel_id) n
         WHERE h.channel_id = n.channel_id
    )
    SELECT n.* FROM numbered n
    LOOP
        ord := r.ord;
        code := r.code;
        log_id := r.log_id;
        log_seq := r.log_seq;
        shrink_seq := r.shrink_seq;
        seq := NULL;
        created_ms := NULL;
        expires_ms := NULL;
        detail := NULL;
        IF code = 'ok' THEN
            seq := r.seq;
            created_ms := extract(epoch FROM r.now_at) * 1000;
            IF r.ttl IS NOT NULL THEN
                expires_ms := created_ms + r.ttl * 1000::bigint;
            END IF;
            IF v_stale IS NOT NULL THEN
                v_seq[ord] := seq;
            END IF;
            IF r.slow_mode_s > 0 THEN
                v_slowed[ord] := r.now_at;
            END IF;
        ELSIF code = 'duplicate' THEN
            seq := r.old_seq;
            created_ms := extract(epoch FROM r.old_at) * 1000;
        ELSE
            detail := CASE code
                WHEN 'stale_log' THEN jsonb_build_object('head_seq', log_seq)
                WHEN 'stale_devices' THEN v_stale[ord]
                WHEN 'timed_out' THEN
                    jsonb_build_object('retry_after_ms', ceil(extract(epoch FROM r.timed_out_until - v_now) * 1000)::bigint)
                WHEN 'slow_mode' THEN jsonb_build_object('retry_after_ms', greatest(1, ceil(extract(epoch FROM
                    coalesce(r.last_sent_at, v_now) + make_interval(secs => r.slow_mode_s) - v_now) * 1000)::bigint))
            END;
        END IF;
        RETURN NEXT;
    END LOOP;

    IF v_seq IS NOT NULL THEN
        INSERT INTO message_copies (channel_id, seq, user_id, device_id, ciphertext, nonce)
        SELECT p_channel[g.ord], v_seq[g.ord], g.user_id, g.device_id, g.ciphertext, g.nonce
          FROM unnest(c_row, c_user, c_device, c_ciphertext, c_nonce) AS g (ord, user_id, device_id, ciphertext, nonce)
         WHERE v_seq[g.ord] IS NOT NULL AND g.ciphertext IS NOT NULL;
    END IF;
    IF v_slowed IS NOT NULL THEN
        INSERT INTO channel_states AS s (channel_id, user_id, last_sent_at)
        SELECT g.channel_id, g.user_id, max(v_slowed[g.ord])
          FROM unnest(p_channel, p_user, p_kind) WITH ORDINALITY AS g (channel_id, user_id, kind, ord)
         WHERE v_slowed[g.ord] IS NOT NULL AND g.kind IN ('message', 'poll') GROUP BY 1, 2
        ON CONFLICT (channel_id, user_id) DO UPDATE SET last_sent_at = EXCLUDED.last_sent_at;
    END IF;

    -- A delete takes effect at once: its target, and all that was aimed at it but the deletes themselves.
    IF 'delete' = ANY (p_kind) THEN
        PERFORM erase_rows(gone.channel_id, array_agg(gone.seq)) FROM (
            SELECT r.channel_id, r.seq
              FROM messages d JOIN messages r ON r.channel_id = d.channel_id AND (r.id = d.target_id OR r.target_id = d.target_id)
             WHERE d.id = ANY (p_id) AND d.kind = 'delete' AND r.kind <> 'delete' AND r.deleted_at IS NULL
        ) gone GROUP BY gone.channel_id;
    END IF;
END
$$;

-- Rows that the server writes itself: `member`, `channel`, `system`, `webhook`, `poll_close`. Called inside the transaction that
-- makes the change they tell of, as its last step; they lock heads only. A known id is answered with its place.
CREATE FUNCTION append_server_rows(p_id uuid[], p_channel uuid[], p_kind text[], p_target uuid[], p_body text[])
RETURNS TABLE (channel_id uuid, seq bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM channel_heads WHERE channel_id = ANY (p_channel) ORDER BY channel_id FOR NO KEY UPDATE;
    RETURN QUERY
    WITH asked AS (
        SELECT * FROM unnest(p_id, p_channel, p_kind, p_target, p_body) WITH ORDINALITY AS a (id, channel_id, kind, target_id, body, ord)
    ), placed AS MATERIALIZED (
        SELECT a.ord, a.channel_id, old.seq AS old_seq, l.head_seq AS log_seq,
               greatest(date_trunc('milliseconds', clock_timestamp()), date_trunc('milliseconds', h.last_at)) AS now_at,
               h.head_seq + row_number() OVER (PARTITION BY a.channel_id, old.id IS NULL ORDER BY a.ord) AS new_seq
          FROM asked a
          JOIN channels c ON c.id = a.channel_id
          JOIN channel_heads h ON h.channel_id = c.id
          LEFT JOIN logs l ON l.id = c.log_id
          LEFT JOIN messages old ON old.id = a.id AND old.channel_id = a.channel_id
    ), stored AS (
        INSERT INTO messages (channel_id, seq, id, log_seq, kind, target_id, body, created_at)
        SELECT p.channel_id, p.new_seq, a.id, p.log_seq, a.kind, a.target_id, a.body::jsonb, p.now_at
          FROM placed p JOIN asked a USING (ord) WHERE p.old_seq IS NULL ORDER BY p.ord
    ), moved AS (
        UPDATE channel_heads h SET head_seq = n.head_seq, last_at = n.now_at
          FROM (SELECT p.channel_id, max(p.new_seq) AS head_seq, max(p.now_at) AS now_at
                  FROM placed p WHERE p.old_seq IS NULL GROUP BY p.channel_id) n
         WHERE h.channel_id = n.channel_id
    )
    SELECT p.channel_id, coalesce(p.old_seq, p.new_seq) FROM placed p ORDER BY p.ord;
END
$$;
