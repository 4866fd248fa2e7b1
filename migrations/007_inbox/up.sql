-- The one door into the device inboxes: a batch of frames, each for one device, delivered once whatever the number of attempts.
--
-- Frames reach devices of people who share a membership log or a direct message with the sender, of people who have the sender
-- as a contact, and of the sender. All other devices are answered in `missing`, the same way whether they exist or not. Nothing
-- is delivered when one inbox would hold more than p_max frames, or, once it is half full, more than a tenth of that from one
-- sender, so that nobody closes an inbox for all others: then `code` is rate_limited and `devices` names the full ones.
CREATE FUNCTION append_inbox(
    p_user uuid, p_device integer, p_batch uuid, c_user uuid[], c_device integer[], c_ciphertext bytea[], c_nonce bytea[], p_max bigint
) RETURNS TABLE (code text, devices jsonb) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_known uuid[];
    v_full jsonb;
    v_missing jsonb;
BEGIN
    INSERT INTO device_batches (user_id, id, missing) VALUES (p_user, p_batch, '[]') ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'ok', b.missing FROM device_batches b WHERE b.user_id = p_user AND b.id = p_batch;
        RETURN;
    END IF;

    SELECT coalesce(array_agg(t.user_id), '{}') INTO v_known FROM (SELECT DISTINCT unnest(c_user) AS user_id) t
     WHERE t.user_id = p_user
        OR EXISTS (SELECT 1 FROM members a JOIN members b ON b.log_id = a.log_id AND b.user_id = t.user_id WHERE a.user_id = p_user)
        OR EXISTS (SELECT 1 FROM channels c WHERE c.dm_low = least(p_user, t.user_id) AND c.dm_high = greatest(p_user, t.user_id))
        OR EXISTS (SELECT 1 FROM contacts c WHERE c.user_id = t.user_id AND c.contact_id = p_user);

    PERFORM 1 FROM devices d
      WHERE d.user_id = ANY (v_known) AND (d.user_id, d.device_id) IN (SELECT * FROM unnest(c_user, c_device))
      ORDER BY d.user_id, d.device_id FOR NO KEY UPDATE;

    WITH wanted AS (
        SELECT w.user_id, w.device_id, count(*) AS frames FROM unnest(c_user, c_device) AS w (user_id, device_id) GROUP BY 1, 2
    )
    SELECT jsonb_agg(jsonb_build_object('user_id', d.user_id, 'device_id', d.device_id)) INTO v_full
      FROM wanted w JOIN devices d USING (user_id, device_id)
      CROSS JOIN LATERAL (
          SELECT w.frames + d.inbox_head + 1 - coalesce(min(i.inbox_seq), d.inbox_head + 1) AS frames
            FROM inbox i WHERE i.user_id = d.user_id AND i.device_id = d.device_id
      ) n
     WHERE d.user_id = ANY (v_known)
       AND (n.frames > p_max
            OR (n.frames > p_max / 2 AND d.user_id <> p_user
                AND w.frames + (SELECT count(*) FROM inbox i
                                 WHERE i.user_id = d.user_id AND i.device_id = d.device_id AND i.from_user = p_user) > p_max / 10));
    IF v_full IS NOT NULL THEN
        DELETE FROM device_batches WHERE user_id = p_user AND id = p_batch;
        RETURN QUERY SELECT 'rate_limited', v_full;
        RETURN;
    END IF;

    WITH given AS (
        SELECT * FROM unnest(c_user, c_device, c_ciphertext, c_nonce) WITH ORDINALITY AS g (user_id, device_id, ciphertext, nonce, ord)
    ), placed AS (
        SELECT g.*, d.inbox_head + row_number() OVER (PARTITION BY g.user_id, g.device_id ORDER BY g.ord) AS inbox_seq
          FROM given g JOIN devices d USING (user_id, device_id) WHERE d.user_id = ANY (v_known)
    ), stored AS (
        INSERT INTO inbox (user_id, device_id, inbox_seq, from_user, from_device, ciphertext, nonce, created_at)
        SELECT p.user_id, p.device_id, p.inbox_seq, p_user, p_device, p.ciphertext, p.nonce, clock_timestamp() FROM placed p
    ), moved AS (
        UPDATE devices d SET inbox_head = n.head
          FROM (SELECT user_id, device_id, max(inbox_seq) AS head FROM placed GROUP BY 1, 2) n
         WHERE d.user_id = n.user_id AND d.device_id = n.device_id
    )
    SELECT jsonb_agg(DISTINCT jsonb_build_object('user_id', g.user_id, 'device_id', g.device_id)) INTO v_missing
      FROM given g WHERE NOT EXISTS (SELECT 1 FROM placed p WHERE p.ord = g.ord);
    v_missing := coalesce(v_missing, '[]');
    IF v_missing <> '[]' THEN
        UPDATE device_batches b SET missing = v_missing WHERE b.user_id = p_user AND b.id = p_batch;
    END IF;
    RETURN QUERY SELECT 'ok', v_missing;
END
$$;
