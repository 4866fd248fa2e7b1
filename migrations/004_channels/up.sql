CREATE TABLE channels (
    id uuid PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('text', 'voice', 'announcement', 'dm')),
    community_id uuid REFERENCES communities (id) ON DELETE CASCADE,
    group_id uuid REFERENCES groups (id),
    -- Whose members may read it: the community's, the private group's or its own log; null for a DM.
    log_id uuid REFERENCES logs (id),
    name text,
    topic text,
    read_only boolean NOT NULL DEFAULT false,
    slow_mode_s integer NOT NULL DEFAULT 0,
    archived boolean NOT NULL DEFAULT false,
    message_ttl_s integer,
    position integer NOT NULL DEFAULT 0,
    -- The two people of a DM, the smaller id first; equal for notes to oneself.
    dm_low uuid REFERENCES users (id),
    dm_high uuid REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    UNIQUE (dm_low, dm_high),
    CHECK ((kind = 'dm') = (dm_low IS NOT NULL AND dm_high IS NOT NULL)),
    CHECK ((kind = 'dm') = (log_id IS NULL))
);
CREATE INDEX channels_log_id ON channels (log_id);
CREATE INDEX channels_group_id ON channels (group_id);
CREATE INDEX channels_community_id ON channels (community_id);
CREATE INDEX channels_dm_high ON channels (dm_high);

-- The hot half of a channel: rows of its log are numbered under this row's lock.
CREATE TABLE channel_heads (
    channel_id uuid PRIMARY KEY REFERENCES channels (id) ON DELETE CASCADE,
    head_seq bigint NOT NULL DEFAULT 0,
    last_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 30);

-- A user's own view of a channel.
CREATE TABLE channel_states (
    channel_id uuid NOT NULL REFERENCES channels (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    read_seq bigint NOT NULL DEFAULT 0,
    settings jsonb,
    -- For slow mode.
    last_sent_at timestamptz,
    timed_out_until timestamptz,
    PRIMARY KEY (channel_id, user_id)
);
CREATE INDEX channel_states_user_id ON channel_states (user_id, channel_id);

-- Who reads which channel, and with which role: the members of its log, who must still be in its community, and the two of
-- a DM. Every right to see a channel is asked here.
CREATE VIEW channel_readers AS
    SELECT c.id AS channel_id, m.user_id, m.role, m.joined_seq
    FROM channels c
    JOIN members m ON m.log_id = c.log_id
    WHERE c.deleted_at IS NULL
      AND (c.log_id = c.community_id
           OR EXISTS (SELECT 1 FROM members o WHERE o.log_id = c.community_id AND o.user_id = m.user_id))
    UNION ALL
    SELECT c.id, c.dm_low, 0::smallint, 0::bigint FROM channels c WHERE c.dm_low IS NOT NULL AND c.deleted_at IS NULL
    UNION ALL
    SELECT c.id, c.dm_high, 0::smallint, 0::bigint FROM channels c WHERE c.dm_high <> c.dm_low AND c.deleted_at IS NULL;
