-- One ordered log per channel; seq is gapless and given by append_rows() only.
CREATE TABLE messages (
    -- Of a channel: the one door into this table reads it under a lock, and the trigger below follows its end. A foreign key would
    -- look it up and lock it once more for each row.
    channel_id uuid NOT NULL,
    seq bigint NOT NULL,
    id uuid NOT NULL,
    log_seq bigint,
    kind text NOT NULL,
    sender_id uuid,
    sender_device integer,
    thread_id uuid,
    reply_to_id uuid,
    target_id uuid,
    ciphertext bytea,
    nonce bytea,
    body jsonb,
    file_ids uuid[] NOT NULL DEFAULT '{}',
    -- SHA-256 of the canonical request (protocol 9.8); null for rows that the server wrote.
    content_hash bytea,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    deleted_at timestamptz,
    PRIMARY KEY (channel_id, seq)
);
ALTER TABLE messages ALTER COLUMN ciphertext SET STORAGE EXTERNAL;
-- The idempotency key, for the life of the row.
CREATE UNIQUE INDEX messages_id ON messages (id);
CREATE INDEX messages_target_id ON messages (channel_id, target_id, seq) WHERE target_id IS NOT NULL;
CREATE INDEX messages_thread_id ON messages (channel_id, thread_id, seq) WHERE thread_id IS NOT NULL;
CREATE INDEX messages_expires_at ON messages (expires_at) WHERE expires_at IS NOT NULL AND deleted_at IS NULL;

CREATE FUNCTION delete_messages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM messages WHERE channel_id = OLD.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER channels_delete_messages AFTER DELETE ON channels FOR EACH ROW EXECUTE FUNCTION delete_messages();

-- A DM row's ciphertext for each device.
CREATE TABLE message_copies (
    channel_id uuid NOT NULL,
    seq bigint NOT NULL,
    user_id uuid NOT NULL,
    device_id integer NOT NULL,
    ciphertext bytea NOT NULL,
    nonce bytea NOT NULL,
    PRIMARY KEY (channel_id, user_id, device_id, seq),
    FOREIGN KEY (channel_id, seq) REFERENCES messages (channel_id, seq) ON DELETE CASCADE
);
ALTER TABLE message_copies ALTER COLUMN ciphertext SET STORAGE EXTERNAL;
CREATE INDEX message_copies_row ON message_copies (channel_id, seq);

-- The first cursor of a reader: the largest seq that is older than the joining (rows of a smaller log_seq) or than the
-- device (rows of an earlier created_at), 0 if there is none. Neither ever decreases with seq, so it is a binary search.
CREATE FUNCTION channel_start_seq(p_channel uuid, p_head bigint, p_joined_seq bigint, p_device_since timestamptz)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 0;
    high bigint := p_head;
    middle bigint;
    older boolean;
BEGIN
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        SELECT coalesce(m.log_seq < p_joined_seq, false) OR coalesce(m.created_at < p_device_since, false)
            INTO older FROM messages m WHERE m.channel_id = p_channel AND m.seq = middle;
        IF coalesce(older, false) THEN low := middle; ELSE high := middle - 1; END IF;
    END LOOP;
    RETURN low;
END $$;
