//! Membership logs, their members and bans.
