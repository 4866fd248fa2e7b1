-- Identities, certificates and lists of all times are kept and served for ever (crypto.md 18).
CREATE TABLE identities (
    user_id uuid NOT NULL REFERENCES users (id),
    -- SHA-256 of the identity key.
    fingerprint bytea NOT NULL,
    identity_key bytea NOT NULL,
    -- The newest signed list.
    head_seq bigint NOT NULL DEFAULT 0,
    current boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, fingerprint)
);
CREATE UNIQUE INDEX identities_one_current ON identities (user_id) WHERE current;

CREATE TABLE certificates (
    user_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    cert_hash bytea NOT NULL,
    device_id integer NOT NULL CHECK (device_id > 0),
    certificate bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, fingerprint, cert_hash),
    FOREIGN KEY (user_id, fingerprint) REFERENCES identities (user_id, fingerprint)
);

CREATE TABLE device_lists (
    user_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    seq bigint NOT NULL,
    list bytea NOT NULL,
    list_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, fingerprint, seq),
    FOREIGN KEY (user_id, fingerprint) REFERENCES identities (user_id, fingerprint)
);

-- Devices that registered prekeys. A row goes when the newest list does not name the device any more.
CREATE TABLE devices (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    device_id integer NOT NULL CHECK (device_id > 0),
    name text NOT NULL,
    cert_hash bytea NOT NULL,
    -- Last number of the device's inbox; numbers are given under this row's lock.
    inbox_head bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz,
    PRIMARY KEY (user_id, device_id)
) WITH (fillfactor = 70);

CREATE TABLE signed_prekeys (
    user_id uuid NOT NULL,
    device_id integer NOT NULL,
    id bigint NOT NULL,
    public_key bytea NOT NULL,
    created_ms bigint NOT NULL,
    signature bytea NOT NULL,
    PRIMARY KEY (user_id, device_id, id),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, device_id) ON DELETE CASCADE
);

-- kind 1: given out once, then the key is emptied and only the id stays known. kind 2: the last resort, the newest counts.
CREATE TABLE kem_prekeys (
    user_id uuid NOT NULL,
    device_id integer NOT NULL,
    kind smallint NOT NULL CHECK (kind IN (1, 2)),
    id bigint NOT NULL,
    public_key bytea,
    created_ms bigint NOT NULL,
    signature bytea NOT NULL,
    PRIMARY KEY (user_id, device_id, kind, id),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, device_id) ON DELETE CASCADE
);
ALTER TABLE kem_prekeys ALTER COLUMN public_key SET STORAGE EXTERNAL;
CREATE INDEX kem_prekeys_available ON kem_prekeys (user_id, device_id, id) WHERE kind = 1 AND public_key IS NOT NULL;

CREATE TABLE one_time_prekeys (
    user_id uuid NOT NULL,
    device_id integer NOT NULL,
    id bigint NOT NULL,
    -- Null once it was given out.
    public_key bytea,
    PRIMARY KEY (user_id, device_id, id),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, device_id) ON DELETE CASCADE
);
CREATE INDEX one_time_prekeys_available ON one_time_prekeys (user_id, device_id, id) WHERE public_key IS NOT NULL;

-- Device-to-device frames until the device acknowledged them.
CREATE TABLE inbox (
    user_id uuid NOT NULL,
    device_id integer NOT NULL,
    inbox_seq bigint NOT NULL,
    from_user uuid NOT NULL,
    from_device integer NOT NULL,
    ciphertext bytea NOT NULL,
    nonce bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, device_id, inbox_seq),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, device_id) ON DELETE CASCADE
);
ALTER TABLE inbox ALTER COLUMN ciphertext SET STORAGE EXTERNAL;
CREATE INDEX inbox_created_at ON inbox (created_at);

-- Idempotency of send_devices, kept seven days.
CREATE TABLE device_batches (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    id uuid NOT NULL,
    missing jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, id)
);
CREATE INDEX device_batches_created_at ON device_batches (created_at);
