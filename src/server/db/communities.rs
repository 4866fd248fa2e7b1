//! Communities, groups and invitations.
