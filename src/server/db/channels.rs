//! Channels, DMs and each user's own view of them.
