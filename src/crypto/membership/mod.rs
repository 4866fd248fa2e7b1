//! The membership log (TC/1 section 11): who is in a community, group or channel, as a chain of signed operations that no server
//! can forge.

/// What a member may do. The order is that of power; exactly one member of a log is its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Member = 0,
    Moderator = 1,
    Admin = 2,
    Owner = 3,
}
