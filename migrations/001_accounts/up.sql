-- One row: what belongs to the database as a whole.
CREATE TABLE instance (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    -- Replaced when the database is restored from a backup: clients then re-read from their last confirmed row.
    epoch uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO instance DEFAULT VALUES;

-- Streams that are not channels: users, communities, private groups. Events are numbered under this row's lock.
CREATE TABLE streams (
    id uuid PRIMARY KEY,
    head_seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE stream_events (
    stream_id uuid NOT NULL REFERENCES streams (id) ON DELETE CASCADE,
    seq bigint NOT NULL,
    event jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream_id, seq)
);
-- For the job that removes old events.
CREATE INDEX stream_events_created_at ON stream_events (created_at);

CREATE TABLE users (
    id uuid PRIMARY KEY,
    username text NOT NULL UNIQUE,
    -- UTS 39 skeleton: two names that look alike are the same name.
    username_skeleton text NOT NULL UNIQUE,
    display_name text,
    email text,
    bio text,
    pronouns text,
    custom_status text,
    status text NOT NULL DEFAULT 'online',
    -- Argon2id in PHC form.
    password_hash text NOT NULL,
    -- SHA-256 of the recovery code.
    recovery_hash bytea,
    instance_role text NOT NULL DEFAULT 'user' CHECK (instance_role IN ('owner', 'admin', 'user')),
    preferences jsonb NOT NULL DEFAULT '{}',
    suspended_at timestamptz,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
-- Exactly one account owns the instance.
CREATE UNIQUE INDEX users_one_owner ON users (instance_role) WHERE instance_role = 'owner';

CREATE TABLE registration_invites (
    id uuid PRIMARY KEY,
    -- SHA-256 of the code.
    code_hash bytea NOT NULL UNIQUE,
    max_uses integer,
    used_count integer NOT NULL DEFAULT 0,
    expires_at timestamptz,
    created_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX registration_invites_created_by ON registration_invites (created_by);

CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    device_id integer,
    ip text NOT NULL,
    user_agent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX sessions_user_id ON sessions (user_id);
CREATE INDEX sessions_last_used_at ON sessions (last_used_at);

CREATE TABLE refresh_tokens (
    -- SHA-256 of the token.
    token_hash bytea PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    -- Set when the token was exchanged: a repeat within 30 s gets the same successor, a later one revokes the session.
    rotated_at timestamptz
);
CREATE INDEX refresh_tokens_session_id ON refresh_tokens (session_id);

CREATE TABLE contacts (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    contact_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    display_name text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, contact_id)
);
CREATE INDEX contacts_contact_id ON contacts (contact_id);

CREATE TABLE blocks (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    blocked_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, blocked_id)
);
CREATE INDEX blocks_blocked_id ON blocks (blocked_id);
