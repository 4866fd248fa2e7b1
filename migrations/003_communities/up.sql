CREATE TABLE communities (
    id uuid PRIMARY KEY REFERENCES streams (id),
    name text NOT NULL,
    description text,
    accent_color text,
    discoverable boolean NOT NULL DEFAULT false,
    welcome_message text,
    who_can_create_groups smallint NOT NULL DEFAULT 2,
    warn_escalation jsonb,
    owner_id uuid NOT NULL REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE INDEX communities_owner_id ON communities (owner_id);

CREATE TABLE groups (
    id uuid PRIMARY KEY,
    community_id uuid NOT NULL REFERENCES communities (id) ON DELETE CASCADE,
    name text NOT NULL,
    description text,
    visibility text NOT NULL DEFAULT 'public' CHECK (visibility IN ('public', 'private')),
    position integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE INDEX groups_community_id ON groups (community_id);

-- Membership logs (crypto.md 11). log_id is the community's, the private group's or the private channel's id.
-- A send holds this row FOR SHARE, an op FOR UPDATE: a kick locks one row, not every channel.
CREATE TABLE logs (
    id uuid PRIMARY KEY,
    -- 1 channel, 2 group (communities and private groups)
    kind smallint NOT NULL CHECK (kind IN (1, 2)),
    community_id uuid REFERENCES communities (id) ON DELETE CASCADE,
    head_seq bigint NOT NULL,
    head_hash bytea NOT NULL,
    -- seq of the newest remove or leave: a frame of an older epoch is refused.
    shrink_seq bigint NOT NULL DEFAULT 0,
    -- The verified state after head_seq (crypto::verify), so that an op is checked without a replay.
    state bytea NOT NULL,
    -- Mirrors of the policy ops.
    open boolean NOT NULL DEFAULT false,
    who_can_create_invites smallint NOT NULL DEFAULT 2
);
CREATE INDEX logs_community_id ON logs (community_id);

CREATE TABLE log_ops (
    log_id uuid NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
    seq bigint NOT NULL,
    op bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log_id, seq)
);

-- Members of every log, as the log says; nickname is the server's own. Empty for a deleted community, group or channel.
CREATE TABLE members (
    log_id uuid NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users (id),
    role smallint NOT NULL CHECK (role BETWEEN 0 AND 3),
    -- The op that made this membership: rows of a smaller log_seq are older than it.
    joined_seq bigint NOT NULL,
    nickname text,
    joined_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log_id, user_id)
);
CREATE INDEX members_user_id ON members (user_id, log_id);

CREATE TABLE bans (
    log_id uuid NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users (id),
    reason text,
    banned_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log_id, user_id)
);
CREATE INDEX bans_user_id ON bans (user_id);
CREATE INDEX bans_banned_by ON bans (banned_by);

CREATE TABLE invites (
    id uuid PRIMARY KEY,
    log_id uuid NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
    code text NOT NULL UNIQUE,
    public_key bytea NOT NULL,
    max_uses bigint,
    used_count bigint NOT NULL DEFAULT 0,
    expires_at timestamptz,
    created_by uuid NOT NULL REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (log_id, public_key)
);
CREATE INDEX invites_created_by ON invites (created_by);
