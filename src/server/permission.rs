//! Who may do what: one pure function over roles, with the whole matrix as its test (`docs/PROTOCOL.md` 6).
//!
//! Rights inside a channel's log (send, delete, pin, slow mode) are asked under its lock, in the database function `append_rows`.
//!
//! It knows no database and no request: the caller reads the standings inside the transaction that acts on them, never from
//! a token. Start with [`Action`] and [`may`].
//!
//! Two kinds of action exist. A *signed* one is an op of a membership log: only roles of that log count, for the actor and
//! for the target, because that is all that the members' clients look at; whoever runs the server has no say in it and no
//! protection from it. An *unsigned* one changes rows that are the server's alone (names, topics, settings):
//! there the whole ladder of section 6 counts, with the instance's admins above the community's owner, as long as they are
//! members: a place that they are not in does not exist for them here.

use crate::protocol::communities::Role;
use crate::protocol::users::InstanceRole;

/// Somebody's place on the ladder, in one place: a community, a private group or a private channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub instance: InstanceRole,
    /// The role in the place's membership log; none for somebody who is not a member.
    pub role: Option<Role>,
}

/// What somebody wants to do. Targets and policies come with it, so that an answer depends on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    // Unsigned.
    EditCommunity,
    DeleteCommunity,
    /// The row of a group; `from` is the community's policy.
    CreateGroup {
        from: Role,
    },
    /// Name, description and order of a group, or its deletion.
    EditGroup,
    /// A channel with a membership log of its own, or the deletion of one.
    EditPrivateChannels,
    /// Name, topic, slow mode, archive … of a channel.
    EditChannel,
    OwnNickname,
    Nickname {
        target: Standing,
    },
    ListBans,
    /// `from` is the log's policy 5.
    ListInvites {
        from: Role,
    },

    // Signed: the same table as `crypto.md` 11.1.
    AddMember {
        role: Role,
    },
    Remove {
        target: Role,
    },
    Ban {
        target: Role,
    },
    Unban,
    SetRole {
        target: Role,
        to: Role,
    },
    Transfer,
    Leave,
    SetOpen,
    SetInvitePolicy,
    CreateInvite {
        from: Role,
    },
    DeleteInvite {
        from: Role,
    },
    AttachChannel,
    DetachChannel,
    Anchor,
    /// An anchor that names a discarded op.
    AnchorBranch,
}

/// Whether `actor` may do it.
pub fn may(actor: Standing, action: Action) -> bool {
    use Action as A;
    let Some(role) = actor.role else { return false };
    let rank = actor.rank();
    match action {
        A::OwnNickname | A::Anchor => true,
        A::ListBans => rank >= Rank::Moderator,
        A::EditCommunity | A::EditGroup | A::EditPrivateChannels | A::EditChannel => rank >= Rank::Admin,
        A::Nickname { target } => rank >= Rank::Admin && rank > target.rank(),
        A::CreateGroup { from } | A::ListInvites { from } => rank >= Rank::of(from),
        A::DeleteCommunity => rank >= Rank::Owner,

        A::Remove { target } | A::Ban { target } => role >= Role::Moderator && role > target,
        A::AddMember { role: given } => role >= Role::Admin && given < role,
        A::SetRole { target, to } => role >= Role::Admin && role > target && to < role,
        A::CreateInvite { from } | A::DeleteInvite { from } => role >= from,
        A::Unban | A::SetOpen | A::SetInvitePolicy | A::AttachChannel | A::DetachChannel | A::AnchorBranch => role >= Role::Admin,
        A::Transfer => role == Role::Owner,
        A::Leave => role != Role::Owner,
    }
}

impl Standing {
    pub const fn new(instance: InstanceRole, role: Option<Role>) -> Self {
        Self { instance, role }
    }

    const fn rank(self) -> Rank {
        match (self.instance, self.role) {
            (InstanceRole::Owner, _) => Rank::InstanceOwner,
            (InstanceRole::Admin, _) => Rank::InstanceAdmin,
            (InstanceRole::User, Some(role)) => Rank::of(role),
            (InstanceRole::User, None) => Rank::Stranger,
        }
    }
}

/// The ladder of section 6, lowest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Stranger,
    Member,
    Moderator,
    Admin,
    Owner,
    InstanceAdmin,
    InstanceOwner,
}

impl Rank {
    const fn of(role: Role) -> Self {
        match role {
            Role::Member => Self::Member,
            Role::Moderator => Self::Moderator,
            Role::Admin => Self::Admin,
            Role::Owner => Self::Owner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Action as A;
    use super::*;

    const ROLES: [Role; 4] = [Role::Member, Role::Moderator, Role::Admin, Role::Owner];

    /// Columns: nobody, member, moderator, admin, owner; then a member who is instance admin, and instance owner.
    const ACTORS: [Standing; 7] = [
        Standing::new(InstanceRole::User, None),
        Standing::new(InstanceRole::User, Some(Role::Member)),
        Standing::new(InstanceRole::User, Some(Role::Moderator)),
        Standing::new(InstanceRole::User, Some(Role::Admin)),
        Standing::new(InstanceRole::User, Some(Role::Owner)),
        Standing::new(InstanceRole::Admin, Some(Role::Member)),
        Standing::new(InstanceRole::Owner, Some(Role::Member)),
    ];

    fn row(action: Action) -> String {
        ACTORS.iter().map(|actor| if may(*actor, action) { 'x' } else { '.' }).collect()
    }

    #[test]
    fn actions_without_a_target_follow_the_table_of_section_6() {
        let matrix = [
            //                                              nobody member mod admin owner | instance admin, instance owner
            (A::OwnNickname, ".xxxxxx"),
            (A::ListBans, "..xxxxx"),
            (A::EditCommunity, "...xxxx"),
            (A::EditGroup, "...xxxx"),
            (A::EditChannel, "...xxxx"),
            (A::EditPrivateChannels, "...xxxx"),
            (A::DeleteCommunity, "....xxx"),
            (A::CreateGroup { from: Role::Member }, ".xxxxxx"),
            (A::CreateGroup { from: Role::Moderator }, "..xxxxx"),
            (A::CreateGroup { from: Role::Admin }, "...xxxx"),
            (A::CreateGroup { from: Role::Owner }, "....xxx"),
            (A::ListInvites { from: Role::Member }, ".xxxxxx"),
            (A::ListInvites { from: Role::Admin }, "...xxxx"),
            // Signed: the instance's roles count for nothing.
            (A::Anchor, ".xxxxxx"),
            (A::AnchorBranch, "...xx.."),
            (A::Unban, "...xx.."),
            (A::SetOpen, "...xx.."),
            (A::SetInvitePolicy, "...xx.."),
            (A::AttachChannel, "...xx.."),
            (A::DetachChannel, "...xx.."),
            (A::CreateInvite { from: Role::Member }, ".xxxxxx"),
            (A::CreateInvite { from: Role::Moderator }, "..xxx.."),
            (A::CreateInvite { from: Role::Admin }, "...xx.."),
            (A::DeleteInvite { from: Role::Admin }, "...xx.."),
            (A::Transfer, "....x.."),
            (A::Leave, ".xxx.xx"),
        ];
        for (action, want) in matrix {
            assert_eq!(row(action), want, "{action:?}");
        }
    }

    #[test]
    fn removing_and_banning_need_a_moderator_above_the_target() {
        for (target, want) in ROLES.into_iter().zip(["..xxx..", "...xx..", "....x..", "......."]) {
            assert_eq!(row(A::Remove { target }), want, "remove {target:?}");
            assert_eq!(row(A::Ban { target }), want, "ban {target:?}");
        }
    }

    #[test]
    fn nobody_is_added_with_the_role_of_the_one_who_adds() {
        for (role, want) in ROLES.into_iter().zip(["...xx..", "...xx..", "....x..", "......."]) {
            assert_eq!(row(A::AddMember { role }), want, "add {role:?}");
        }
    }

    #[test]
    fn roles_are_set_from_above_and_below_oneself() {
        let want = [
            // to:      member     moderator  admin      owner           target:
            ["...xx..", "...xx..", "....x..", "......."], // member
            ["...xx..", "...xx..", "....x..", "......."], // moderator
            ["....x..", "....x..", "....x..", "......."], // admin
            [".......", ".......", ".......", "......."], // owner
        ];
        for (target, line) in ROLES.into_iter().zip(want) {
            for (to, want) in ROLES.into_iter().zip(line) {
                assert_eq!(row(A::SetRole { target, to }), want, "{target:?} to {to:?}");
            }
        }
    }

    #[test]
    fn a_nickname_is_given_to_somebody_strictly_lower_on_the_whole_ladder() {
        let want = ["...xxxx", "...xxxx", "....xxx", ".....xx", "......x", "......."];
        for (target, want) in ACTORS[1..].iter().zip(want) {
            assert_eq!(row(A::Nickname { target: *target }), want, "nickname of {target:?}");
        }
    }

    #[test]
    fn an_instance_admin_who_is_not_a_member_may_nothing_here() {
        for instance in [InstanceRole::Admin, InstanceRole::Owner] {
            let stranger = Standing::new(instance, None);
            for action in [A::EditCommunity, A::DeleteCommunity, A::OwnNickname, A::Anchor, A::Remove { target: Role::Member }] {
                assert!(!may(stranger, action), "{action:?}");
            }
        }
    }
}
