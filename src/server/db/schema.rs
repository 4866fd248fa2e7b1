//! The tables, as diesel sees them; a test compares this file with the migrated database.

diesel::table! {
    bans (log_id, user_id) {
        log_id -> Uuid,
        user_id -> Uuid,
        reason -> Nullable<Text>,
        banned_by -> Nullable<Uuid>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    blocks (user_id, blocked_id) {
        user_id -> Uuid,
        blocked_id -> Uuid,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    certificates (user_id, fingerprint, cert_hash) {
        user_id -> Uuid,
        fingerprint -> Bytea,
        cert_hash -> Bytea,
        device_id -> Int4,
        certificate -> Bytea,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    channel_heads (channel_id) {
        channel_id -> Uuid,
        head_seq -> Int8,
        last_at -> Timestamptz,
    }
}

diesel::table! {
    channel_states (channel_id, user_id) {
        channel_id -> Uuid,
        user_id -> Uuid,
        read_seq -> Int8,
        settings -> Nullable<Jsonb>,
        last_sent_at -> Nullable<Timestamptz>,
        timed_out_until -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    channels (id) {
        id -> Uuid,
        kind -> Text,
        community_id -> Nullable<Uuid>,
        group_id -> Nullable<Uuid>,
        log_id -> Nullable<Uuid>,
        name -> Nullable<Text>,
        topic -> Nullable<Text>,
        read_only -> Bool,
        slow_mode_s -> Int4,
        archived -> Bool,
        message_ttl_s -> Nullable<Int4>,
        position -> Int4,
        dm_low -> Nullable<Uuid>,
        dm_high -> Nullable<Uuid>,
        created_at -> Timestamptz,
        deleted_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    communities (id) {
        id -> Uuid,
        name -> Text,
        description -> Nullable<Text>,
        accent_color -> Nullable<Text>,
        discoverable -> Bool,
        welcome_message -> Nullable<Text>,
        who_can_create_groups -> Int2,
        warn_escalation -> Nullable<Jsonb>,
        owner_id -> Uuid,
        created_at -> Timestamptz,
        deleted_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    contacts (user_id, contact_id) {
        user_id -> Uuid,
        contact_id -> Uuid,
        display_name -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    device_batches (user_id, id) {
        user_id -> Uuid,
        id -> Uuid,
        missing -> Jsonb,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    device_lists (user_id, fingerprint, seq) {
        user_id -> Uuid,
        fingerprint -> Bytea,
        seq -> Int8,
        list -> Bytea,
        list_hash -> Bytea,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    devices (user_id, device_id) {
        user_id -> Uuid,
        device_id -> Int4,
        name -> Text,
        cert_hash -> Bytea,
        inbox_head -> Int8,
        created_at -> Timestamptz,
        last_seen_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    groups (id) {
        id -> Uuid,
        community_id -> Uuid,
        name -> Text,
        description -> Nullable<Text>,
        visibility -> Text,
        position -> Int4,
        created_at -> Timestamptz,
        deleted_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    identities (user_id, fingerprint) {
        user_id -> Uuid,
        fingerprint -> Bytea,
        identity_key -> Bytea,
        head_seq -> Int8,
        current -> Bool,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    inbox (user_id, device_id, inbox_seq) {
        user_id -> Uuid,
        device_id -> Int4,
        inbox_seq -> Int8,
        from_user -> Uuid,
        from_device -> Int4,
        ciphertext -> Bytea,
        nonce -> Bytea,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    instance (id) {
        id -> Bool,
        epoch -> Uuid,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    invites (id) {
        id -> Uuid,
        log_id -> Uuid,
        code -> Text,
        public_key -> Bytea,
        max_uses -> Nullable<Int8>,
        used_count -> Int8,
        expires_at -> Nullable<Timestamptz>,
        created_by -> Uuid,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    kem_prekeys (user_id, device_id, kind, id) {
        user_id -> Uuid,
        device_id -> Int4,
        kind -> Int2,
        id -> Int8,
        public_key -> Nullable<Bytea>,
        created_ms -> Int8,
        signature -> Bytea,
    }
}

diesel::table! {
    log_ops (log_id, seq) {
        log_id -> Uuid,
        seq -> Int8,
        op -> Bytea,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    logs (id) {
        id -> Uuid,
        kind -> Int2,
        community_id -> Nullable<Uuid>,
        head_seq -> Int8,
        head_hash -> Bytea,
        shrink_seq -> Int8,
        state -> Bytea,
        open -> Bool,
        who_can_create_invites -> Int2,
    }
}

diesel::table! {
    members (log_id, user_id) {
        log_id -> Uuid,
        user_id -> Uuid,
        role -> Int2,
        joined_seq -> Int8,
        nickname -> Nullable<Text>,
        joined_at -> Timestamptz,
    }
}

diesel::table! {
    message_copies (channel_id, user_id, device_id, seq) {
        channel_id -> Uuid,
        seq -> Int8,
        user_id -> Uuid,
        device_id -> Int4,
        ciphertext -> Bytea,
        nonce -> Bytea,
    }
}

diesel::table! {
    messages (channel_id, seq) {
        channel_id -> Uuid,
        seq -> Int8,
        id -> Uuid,
        log_seq -> Nullable<Int8>,
        kind -> Text,
        sender_id -> Nullable<Uuid>,
        sender_device -> Nullable<Int4>,
        thread_id -> Nullable<Uuid>,
        reply_to_id -> Nullable<Uuid>,
        target_id -> Nullable<Uuid>,
        ciphertext -> Nullable<Bytea>,
        nonce -> Nullable<Bytea>,
        body -> Nullable<Jsonb>,
        file_ids -> Array<Uuid>,
        content_hash -> Nullable<Bytea>,
        created_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    one_time_prekeys (user_id, device_id, id) {
        user_id -> Uuid,
        device_id -> Int4,
        id -> Int8,
        public_key -> Nullable<Bytea>,
    }
}

diesel::table! {
    refresh_tokens (token_hash) {
        token_hash -> Bytea,
        session_id -> Uuid,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
        rotated_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    registration_invites (id) {
        id -> Uuid,
        code_hash -> Bytea,
        max_uses -> Nullable<Int4>,
        used_count -> Int4,
        expires_at -> Nullable<Timestamptz>,
        created_by -> Nullable<Uuid>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    sessions (id) {
        id -> Uuid,
        user_id -> Uuid,
        device_id -> Nullable<Int4>,
        ip -> Text,
        user_agent -> Nullable<Text>,
        created_at -> Timestamptz,
        last_used_at -> Timestamptz,
        revoked_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    signed_prekeys (user_id, device_id, id) {
        user_id -> Uuid,
        device_id -> Int4,
        id -> Int8,
        public_key -> Bytea,
        created_ms -> Int8,
        signature -> Bytea,
    }
}

diesel::table! {
    stream_events (stream_id, seq) {
        stream_id -> Uuid,
        seq -> Int8,
        event -> Jsonb,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    streams (id) {
        id -> Uuid,
        head_seq -> Int8,
    }
}

diesel::table! {
    users (id) {
        id -> Uuid,
        username -> Text,
        username_skeleton -> Text,
        display_name -> Nullable<Text>,
        email -> Nullable<Text>,
        bio -> Nullable<Text>,
        pronouns -> Nullable<Text>,
        custom_status -> Nullable<Text>,
        status -> Text,
        password_hash -> Text,
        recovery_hash -> Nullable<Bytea>,
        instance_role -> Text,
        preferences -> Jsonb,
        suspended_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
    }
}

// Only what some query joins: allowing all pairs of thirty tables costs the compiler twenty seconds.
diesel::allow_tables_to_appear_in_same_query!(bans, users);
diesel::allow_tables_to_appear_in_same_query!(blocks, users);
diesel::allow_tables_to_appear_in_same_query!(certificates, devices, identities);
diesel::allow_tables_to_appear_in_same_query!(channels, users);
diesel::allow_tables_to_appear_in_same_query!(contacts, users);
diesel::allow_tables_to_appear_in_same_query!(devices, refresh_tokens, sessions);
diesel::allow_tables_to_appear_in_same_query!(logs, members);
diesel::allow_tables_to_appear_in_same_query!(members, users);
diesel::allow_tables_to_appear_in_same_query!(sessions, users);
