//! Members of places: who they are, adding and removing them, roles, leaving. What has members is a [`Domain`]: a community, a
//! private group or a private channel; a command means the one that the open channel stands in, and says which.

use crate::client::command::Command;
use crate::client::model::{Domain, MemberInfo, Person};
use crate::protocol::communities::{Role, Visibility};
use crate::protocol::ids::{ChannelId, UserId};
use crate::tui::app::{App, Pending};
use crate::tui::command::{Action, spec};
use crate::tui::text::Clean;
use crate::tui::widget::picker::{Picker, Row};
use crate::tui::widget::timeline::lines::{a_role, role_words};

use super::overlay::{Choice, PickKind, Yes};
use super::pick::{person_row, status_words, trust_words};

impl App {
    /// The domain that the open channel stands in; says why when there is none.
    fn domain_here(&mut self) -> Option<Domain> {
        let Some(channel) = self.chat.channel_id().and_then(|id| self.world.channel(id)) else {
            self.fail("no channel is open", "Ctrl-G goes to one.");
            return None;
        };
        let (peer, domain) = (channel.peer.is_some(), channel.domain);
        if peer {
            self.fail("a direct conversation has two members, always", "Open a channel of the place that you mean.");
        } else if domain.is_none() {
            self.fail("the members of this channel are not known yet", "Try again when it is synchronised.");
        }
        domain.filter(|_| !peer)
    }

    /// Whether this user has a role there; says so when not.
    fn has_role(&mut self, domain: Domain, needed: Role) -> bool {
        let enough = self.world.role_in(domain) >= Some(needed);
        if !enough {
            let who = if needed == Role::Admin { "admins and the owner" } else { "moderators, admins and the owner" };
            self.fail(format!("only {who} of {} can do that", self.domain_name(domain)), "F5 shows who they are.");
        }
        enough
    }

    /// `Acme`, `the private group backend`, `~ war room`
    pub(super) fn domain_name(&self, domain: Domain) -> Clean {
        match domain {
            Domain::Community(id) => self.world.community(id).map(|node| Clean::from_untrusted(&node.name)),
            Domain::Group(id) => {
                let group = self.world.group(id);
                group.map(|group| Clean::ours(format!("the private group {}", Clean::from_untrusted(&group.name))))
            }
            Domain::Channel(id) => self.world.channel(id).map(|channel| self.world.title(channel)),
        }
        .unwrap_or_else(|| Clean::ours("this place"))
    }

    /// The members of a domain as they came last: those of the open channel are the newest.
    fn members_of(&self, domain: Domain) -> &[MemberInfo] {
        let open = self.chat.channel_id().and_then(|id| self.world.channel(id));
        let mut channels = open.into_iter().chain(self.world.channels()).filter(|channel| channel.domain == Some(domain));
        channels
            .find_map(|channel| Some(self.world.members(channel.id)).filter(|members| !members.is_empty()))
            .unwrap_or_default()
    }

    // Who is here.

    pub(super) fn open_members(&mut self) {
        match self.chat.channel_id() {
            Some(channel_id) => {
                self.ask(Pending::MembersPicker(channel_id), Command::ListMembers { channel_id });
            }
            None => self.fail("no channel is open", "Ctrl-G goes to one."),
        }
    }

    pub(super) fn members_came(&mut self, channel_id: ChannelId) {
        let rows = self.member_rows(self.world.members(channel_id), |_| true);
        let place = self.world.channel(channel_id).map(|channel| match channel.domain {
            Some(domain) => self.domain_name(domain),
            None => self.world.title(channel),
        });
        let title = place.map_or("members".to_owned(), |place| format!("members of {place}"));
        self.pick(PickKind::Members, Picker::new(title, rows));
    }

    fn member_rows(&self, members: &[MemberInfo], wanted: impl Fn(&MemberInfo) -> bool) -> Vec<Row<Choice>> {
        let mut members: Vec<_> = members.iter().filter(|member| wanted(member)).collect();
        members.sort_by(|one, other| (other.role, one.username.raw()).cmp(&(one.role, other.username.raw())));
        members
            .into_iter()
            .map(|member| {
                let username = Clean::from_untrusted(&member.username);
                let name = Clean::from_untrusted(&member.name);
                let label = if name == username { username.clone() } else { Clean::ours(format!("{username}  {name}")) };
                let mut facts = Vec::new();
                if member.role != Role::Member {
                    facts.push(role_words(member.role));
                }
                facts.extend(trust_words(member.trust));
                if member.unsigned {
                    facts.push("not in the signed list: gets no keys");
                }
                let status = self.world.status(member.user_id).unwrap_or(member.status);
                let choice = Choice::Person { user_id: member.user_id, name: username };
                Row::new(label, Clean::ours(facts.join(", ")), choice).tag(status_words(status))
            })
            .collect()
    }

    /// What can be done with a member of the open channel: there, and in the community around it.
    pub(super) fn open_person(&mut self, user_id: UserId, name: Clean) {
        let row = |label: &str, choice| Row::new(Clean::ours(label), Clean::default(), choice);
        let mut rows = Vec::new();
        if self.world.me() == Some(user_id) {
            rows.push(row("write notes to yourself", Choice::Action(Action::NewDm)));
        } else {
            rows.push(row("write directly", Choice::Action(Action::NewDm)));
            rows.push(row("compare safety numbers", Choice::Action(Action::Safety)));
            let channel = self.chat.channel_id().and_then(|id| self.world.channel(id));
            let here = channel.and_then(|channel| channel.domain);
            let around =
                channel.and_then(|channel| channel.community_id).map(Domain::from).filter(|around| Some(*around) != here);
            for domain in here.into_iter().chain(around) {
                let (mine, place) = (self.world.role_in(domain), self.domain_name(domain));
                let theirs = self.members_of(domain).iter().find(|member| member.user_id == user_id);
                if theirs.is_some_and(|theirs| theirs.unsigned || Some(theirs.role) >= mine) {
                    continue;
                }
                if mine >= Some(Role::Moderator) {
                    rows.push(row(&format!("remove from {place}"), Choice::In(domain, Action::Kick)));
                }
                if mine >= Some(Role::Moderator) && !matches!(domain, Domain::Group(_)) {
                    rows.push(row(&format!("remove from {place} and keep out"), Choice::In(domain, Action::Ban)));
                }
                if mine >= Some(Role::Admin) {
                    rows.push(row(&format!("change the role in {place}"), Choice::In(domain, Action::SetRole)));
                }
            }
        }
        let picker = Picker::new(name.as_str(), rows);
        self.pick(PickKind::Person { user_id, name }, picker);
    }

    // Removing, roles.

    /// `:kick`, `:ban` and `:role`: whom?
    pub(super) fn choose_member(&mut self, action: Action, arg: &str) {
        let Some(domain) = self.domain_here() else { return };
        let needed = if action == Action::SetRole { Role::Admin } else { Role::Moderator };
        if !self.has_role(domain, needed) {
            return;
        }
        let place = self.domain_name(domain);
        if action == Action::Ban && matches!(domain, Domain::Group(_)) {
            self.fail(format!("{place} knows no bans"), ":kick removes them; only its admins can bring them back.");
            return;
        }
        // Somebody may have come, gone or risen since the channel was opened.
        if let Some(channel_id) = self.chat.channel_id() {
            let name = arg.trim_start_matches('@').to_owned();
            self.ask(Pending::ChooseMember { channel_id, domain, action, name }, Command::ListMembers { channel_id });
        }
    }

    pub(super) fn choose_among_members(&mut self, domain: Domain, action: Action, name: &str) {
        let (mine, place) = (self.world.role_in(domain), self.domain_name(domain));
        let rows = self.member_rows(self.members_of(domain), |member| Some(member.role) < mine && !member.unsigned);
        let doc = spec(action).map_or("members", |spec| spec.doc);
        let picker = Picker::new(format!("{place}: {doc}"), rows);
        let picker = picker.empty("nobody of that name below your role is here").query(name);
        self.pick(PickKind::Choose { domain, action }, picker);
    }

    /// What was chosen to be done with a member of a domain.
    pub(super) fn act_on_member(&mut self, domain: Domain, action: Action, user_id: UserId, name: &Clean) {
        match action {
            Action::SetRole => self.open_roles(domain, user_id, name),
            _ => self.confirm_removal(domain, user_id, name, action == Action::Ban),
        }
    }

    fn open_roles(&mut self, domain: Domain, user_id: UserId, name: &Clean) {
        let now = self.members_of(domain).iter().find(|member| member.user_id == user_id).map(|member| member.role);
        let mine = self.world.role_in(domain);
        let rows = [Role::Member, Role::Moderator, Role::Admin, Role::Owner]
            .into_iter()
            .filter(|role| Some(*role) < mine || mine == Some(Role::Owner))
            .map(|role| {
                let detail = match role {
                    _ if now == Some(role) => "as it is now",
                    Role::Owner => "hands it over: you become an admin",
                    Role::Admin => "also makes channels and invites, and gives roles",
                    Role::Moderator => "removes people and deletes messages",
                    Role::Member => "reads and writes",
                };
                Row::new(Clean::ours(role_words(role)), Clean::ours(detail), Choice::Role(role))
            })
            .collect();
        let title = format!("role of {name} in {}", self.domain_name(domain));
        self.pick(PickKind::Role { domain, user_id, name: name.clone() }, Picker::new(title, rows));
    }

    pub(super) fn choose_role(&mut self, domain: Domain, user_id: UserId, name: &Clean, role: Role) {
        let place = self.domain_name(domain);
        if role == Role::Owner {
            let text = format!("Hand {place} over to {name}? You become an admin, and only {name} can give it back.");
            self.question("hand it over", &text, Yes::HandOver { domain, user_id, name: name.clone() });
        } else {
            let words = format!("{name} is now {} in {place}", a_role(role));
            self.ask(Pending::Toast(words), Command::SetRole { domain, user_id, role });
        }
    }

    fn confirm_removal(&mut self, domain: Domain, user_id: UserId, name: &Clean, ban: bool) {
        let (place, for_good) = (self.domain_name(domain), if ban { " and keep them out, until :unban" } else { "" });
        let text = format!(
            "Remove {name} from {place}{for_good}? New keys are made for the others at once, so that {name} reads nothing from then on."
        );
        self.question("remove a member", &text, Yes::Remove { domain, user_id, name: name.clone(), ban });
    }

    // Letting back in.

    /// `:unban`: whom?
    pub(super) fn ask_who_is_banned(&mut self, arg: &str) {
        let Some(domain) = self.domain_here() else { return };
        if matches!(domain, Domain::Group(_)) {
            self.fail(format!("{} knows no bans", self.domain_name(domain)), ":add-member brings somebody back.");
        } else if self.has_role(domain, Role::Admin) {
            let name = arg.trim_start_matches('@').to_owned();
            self.ask(Pending::Banned { domain, name }, Command::ListBanned { domain });
        }
    }

    pub(super) fn banned_came(&mut self, domain: Domain, name: &str, people: Vec<Person>) {
        let place = self.domain_name(domain);
        let nobody = match people.is_empty() {
            true => format!("nobody is kept out of {place}"),
            false => format!("nobody of that name is kept out of {place}"),
        };
        let rows = people.iter().map(|person| person_row(person, "")).collect();
        let picker = Picker::new(format!("let back into {place}"), rows).empty(&nobody).query(name);
        self.pick(PickKind::Banned { domain }, picker);
    }

    pub(super) fn unban(&mut self, domain: Domain, user_id: UserId, name: &Clean) {
        let place = self.domain_name(domain);
        let how = match domain {
            Domain::Community(_) => ":invite makes a link for them",
            Domain::Group(_) | Domain::Channel(_) => ":add-member brings them back",
        };
        self.ask(Pending::Toast(format!("{name} may come back to {place}; {how}")), Command::Unban { domain, user_id });
    }

    // Adding.

    /// `:add-member`: to the private place that the open channel stands in, else to one that is chosen.
    pub(super) fn add_member(&mut self, arg: &str) {
        let here = self.chat.channel_id().and_then(|id| self.world.channel(id)).and_then(|channel| channel.domain);
        if let Some(domain) = here.filter(|domain| !matches!(domain, Domain::Community(_))) {
            return self.choose_new_member(domain, arg);
        }
        let groups = self.chat.community.and_then(|id| self.world.community(id)).map_or(&[][..], |node| &node.groups);
        let private = groups.iter().flat_map(|group| {
            let own = (group.visibility == Visibility::Private).then_some(Domain::Group(group.id));
            let channels = group.channels.iter().filter_map(|channel| channel.domain);
            own.into_iter().chain(channels.filter(|domain| matches!(domain, Domain::Channel(_))))
        });
        let rows: Vec<_> = private
            .filter(|domain| self.world.role_in(*domain) >= Some(Role::Admin))
            .map(|domain| Row::new(self.domain_name(domain), Clean::default(), Choice::Domain(domain)))
            .collect();
        if rows.is_empty() {
            self.fail(
                "this channel is open to everybody in its community, and you decide about no private place there",
                ":invite brings people into the community; a private group or channel has members of its own.",
            );
            return;
        }
        self.pick(PickKind::AddTo { name: arg.to_owned() }, Picker::new("add somebody to", rows));
    }

    pub(super) fn choose_new_member(&mut self, domain: Domain, name: &str) {
        if !self.has_role(domain, Role::Admin) {
            return;
        }
        // Who is in the community: whoever is not cannot be added.
        let community = self.community_around(domain);
        let all = self.world.channels().find(|channel| channel.domain.is_some() && channel.domain == community);
        let here = self.chat.channel_id().filter(|id| self.world.channel(*id).is_some_and(|open| open.domain == Some(domain)));
        for channel_id in all.map(|channel| channel.id).into_iter().chain(here) {
            self.ask(Pending::Members(channel_id), Command::ListMembers { channel_id });
        }
        let title = format!("add to {}", self.domain_name(domain));
        self.open_people(title, Some(domain), name);
    }

    fn community_around(&self, domain: Domain) -> Option<Domain> {
        let holds = |group: &crate::client::model::GroupNode| match domain {
            Domain::Community(_) => false,
            Domain::Group(id) => group.id == id,
            Domain::Channel(id) => group.channels.iter().any(|channel| channel.id == id),
        };
        self.world.tree.communities.iter().find(|node| node.groups.iter().any(holds)).map(|node| node.id.into())
    }

    /// Whether somebody who was found can be added, as far as it is known here; the client knows for sure.
    pub(super) fn can_be_added(&self, domain: Domain, person: &Person) -> bool {
        let is_in = |members: &[MemberInfo]| members.iter().any(|member| member.user_id == person.user_id && !member.unsigned);
        let around = self.community_around(domain).map_or(&[][..], |community| self.members_of(community));
        !is_in(self.members_of(domain)) && (around.is_empty() || is_in(around))
    }

    pub(super) fn add_chosen(&mut self, domain: Domain, user_id: UserId, name: &Clean) {
        let words = format!("{name} was added to {} and reads what is written from now on", self.domain_name(domain));
        self.ask(Pending::Toast(words), Command::AddMember { domain, user_id });
    }

    // Leaving.

    /// `:leave`: the community, or the private place in it that is open.
    pub(super) fn leave(&mut self) {
        let here = self.chat.channel_id().and_then(|id| self.world.channel(id)).and_then(|channel| channel.domain);
        match here.filter(|domain| !matches!(domain, Domain::Community(_)) && self.world.role_in(*domain).is_some()) {
            Some(inner) => {
                let places = [Some(inner), self.community_around(inner)];
                let rows = places.into_iter().flatten().map(|domain| {
                    let detail = if domain == inner { "" } else { "with everything in it" };
                    Row::new(self.domain_name(domain), Clean::ours(detail), Choice::Domain(domain))
                });
                let rows = rows.collect();
                self.pick(PickKind::Leave, Picker::new("leave", rows));
            }
            None => self.in_community(|app, id| app.confirm_leaving(id.into())),
        }
    }

    pub(super) fn confirm_leaving(&mut self, domain: Domain) {
        let place = self.domain_name(domain);
        if self.world.role_in(domain) == Some(Role::Owner) {
            self.fail(format!("you own {place}, and an owner cannot leave"), "Make somebody else the owner first: :role NAME.");
            return;
        }
        let back = match domain {
            Domain::Community(_) => "to come back you need an invite",
            Domain::Group(_) | Domain::Channel(_) => "only its admins can bring you back",
        };
        self.question("leave", &format!("Leave {place}? Searching still finds what you received; {back}."), Yes::Leave(domain));
    }
}
