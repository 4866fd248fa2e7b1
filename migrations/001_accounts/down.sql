DROP TABLE blocks, contacts, refresh_tokens, sessions, registration_invites, users, stream_events, streams, instance;
