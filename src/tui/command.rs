//! THE registry: everything a user can do is one named, documented command. Keys, the `:` palette, slash commands and the help
//! only refer to it; a test checks that each is bound to a key or reachable by name, and described.

/// Defines [`Action`] and [`COMMANDS`] together, so that none can be in one and not in the other.
macro_rules! commands {
    ($($(#[$shown:ident])? $action:ident $name:literal $(<$arg:literal>)? $doc:literal;)+) => {
        /// What a key or a name asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Action {
            $(#[doc = $doc] $action),+
        }

        /// All commands, in the order of the help.
        pub const COMMANDS: &[Spec] = &[
            $(Spec {
                action: Action::$action,
                name: $name,
                arg: commands!(@arg $($arg)?),
                doc: $doc,
                named: true $(&& commands!(@$shown))?,
            }),+
        ];
    };
    // Editing and moving: only by key.
    (@key) => { false };
    (@arg) => { None };
    (@arg $arg:literal) => { Some($arg) };
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    pub action: Action,
    /// As typed after `:` or `/`.
    pub name: &'static str,
    /// What may follow the name.
    pub arg: Option<&'static str>,
    /// One line for the help.
    pub doc: &'static str,
    /// Listed in the palette; the others are keys of an editor or a list.
    pub named: bool,
}

commands! {
    // Getting around.
    Switch "switch" <"name"> "go to a channel, person or community";
    Palette "commands" "every command by its name";
    Help "help" <"word"> "keys and commands";
    NextUnread "next-unread" "go to the next unread channel, mentions first";
    PreviousChannel "previous-channel" "go to the channel above";
    NextChannel "next-channel" "go to the channel below";
    #[key] Community1 "community-1" "go to the 1st community";
    #[key] Community2 "community-2" "go to the 2nd community";
    #[key] Community3 "community-3" "go to the 3rd community";
    #[key] Community4 "community-4" "go to the 4th community";
    #[key] Community5 "community-5" "go to the 5th community";
    #[key] Community6 "community-6" "go to the 6th community";
    #[key] Community7 "community-7" "go to the 7th community";
    #[key] Community8 "community-8" "go to the 8th community";
    #[key] Community9 "community-9" "go to the 9th community";
    Search "search" <"words"> "search in everything you have read; from:name in:channel narrow it";
    ToggleTree "tree" "show, focus or hide the list of channels";
    ToggleThread "thread-pane" "show, focus or hide the thread";
    MarkRead "mark-read" "mark this channel as read";
    MarkAllRead "mark-all-read" "mark every channel as read";

    // Writing.
    Send "send" "send the message";
    Newline "newline" "start a new line";
    FocusHistory "history" "go from writing to the messages";
    FocusComposer "write" "go from the messages to writing";
    EditLast "edit-last" "edit your last message";
    Complete "complete" "complete @name or :emoji:, then the next match";
    Cancel "cancel" "clear what is typed, close what is open";

    // A message.
    Reply "reply" "answer the selected message with a quote";
    OpenThread "thread" "open the thread of the selected message";
    Edit "edit" "edit the selected message of yours";
    Delete "delete" "delete the selected message, after a question";
    React "react" <"emoji"> "add or take back a reaction";
    Copy "copy" "copy the text of the selected message to the clipboard";
    QuoteText "quote" "put the selected message into the composer as a quote";
    GoToQuoted "go-to-quoted" "go to the message that the selected one answers";
    FirstUnread "first-unread" "go to the first unread message";
    Retry "retry" "send the selected message that failed again";
    Discard "discard" "forget the selected message that was not sent";
    Outbox "outbox" "messages that wait or failed";
    Details "details" "who, when and what is known of the selected message";

    // Moving in the messages.
    #[key] Up "up" "one up";
    #[key] Down "down" "one down";
    #[key] PageUp "page-up" "half a page up";
    #[key] PageDown "page-down" "half a page down";
    #[key] Top "top" "to the beginning";
    #[key] Bottom "bottom" "to the end";
    #[key] PreviousSender "previous-sender" "to the previous change of sender";
    #[key] NextSender "next-sender" "to the next change of sender";
    #[key] PreviousDay "previous-day" "to the day before";
    #[key] NextDay "next-day" "to the day after";

    // People and places.
    NewDm "dm" <"name"> "write to somebody directly";
    CreateCommunity "create-community" <"name"> "create a community";
    CreateGroup "create-group" <"name"> "create a group of channels in this community";
    CreateChannel "create-channel" <"name"> "create a channel in this community";
    Invite "invite" "make an invite link to this community";
    Join "join" <"link"> "join a community by its invite link";
    Members "members" "who is in this channel";
    AddMember "add-member" <"name"> "add somebody to a private group or channel";
    Kick "kick" <"name"> "remove a member from here";
    Ban "ban" <"name"> "remove a member and keep them out";
    Unban "unban" <"name"> "let somebody come back who was kept out";
    SetRole "role" <"name"> "change the role of a member";
    Topic "topic" <"text"> "say what this channel is about";
    Timer "timer" <"1d|1h|30m|off"> "let new messages here disappear";
    Mute "mute" "mute or unmute this channel";
    Leave "leave" "leave this private place, or the community";

    // Trust.
    Safety "safety" <"name"> "safety numbers of the person you write with, to compare";
    Trust "trust" "decide about a changed identity key";
    Verify "verify" <"code"> "say that the safety numbers are the same";
    Unverify "unverify" "take that back";
    Resume "resume" "see why this channel is stopped, and let it go on";
    Devices "devices" "your devices";

    // The program.
    Online "online" "be shown as online";
    Away "away" "be shown as away";
    Busy "busy" "be shown as busy: no bell";
    Receipts "receipts" <"on|off"> "let others see what you have read, or not";
    Reconnect "reconnect" "try to reach the server now";
    Redraw "redraw" "draw the screen anew";
    Suspend "suspend" "put chat into the background; fg brings it back";
    LogIn "log-in" "log in again after the session ended";
    LogOut "log-out" "end the session on this device; what is stored here stays";
    Quit "quit" "leave chat; drafts and waiting messages are kept";

    // Lists, forms and questions.
    #[key] Accept "accept" "take the selected one, go on";
    #[key] Close "close" "close without doing anything";
    #[key] NextField "next-field" "to the next field";
    #[key] PreviousField "previous-field" "to the field above";
    #[key] Yes "yes" "yes, do it";
    #[key] No "no" "no, leave everything as it is";
    #[key] ShowCode "show-code" "show the QR code where there is no room for both, or the text again";
    #[key] AcceptAndSend "accept-and-send" "accept the new key and send what waits for it";

    // Editing a line, as readline does.
    #[key] CharLeft "char-left" "one character back";
    #[key] CharRight "char-right" "one character forward";
    #[key] WordLeft "word-left" "one word back";
    #[key] WordRight "word-right" "one word forward";
    #[key] LineStart "line-start" "to the start of the line";
    #[key] LineEnd "line-end" "to the end of the line";
    #[key] LineUp "line-up" "one line up; in an empty composer: edit your last message";
    #[key] LineDown "line-down" "one line down";
    #[key] DeleteBack "delete-back" "delete the character before the cursor";
    #[key] DeleteForward "delete-forward" "delete the character under the cursor";
    #[key] DeleteWordBack "delete-word-back" "cut the word before the cursor";
    #[key] DeleteWordForward "delete-word-forward" "cut the word after the cursor";
    #[key] KillToStart "kill-to-start" "cut to the start of the line";
    #[key] KillToEnd "kill-to-end" "cut to the end of the line";
    #[key] KillOrSwitch "kill-or-switch" "cut to the end of the line; with nothing to cut: switch";
    #[key] Yank "yank" "insert what was cut";
    #[key] Transpose "transpose" "swap the two characters at the cursor";
    #[key] Undo "undo" "undo the last change";
}

/// The command of an action.
pub fn spec(action: Action) -> Option<&'static Spec> {
    COMMANDS.iter().find(|spec| spec.action == action)
}

/// A command by its name, or by the only beginning of one: `:inv` is `:invite`.
pub fn by_name(name: &str) -> Option<&'static Spec> {
    let exact = COMMANDS.iter().find(|spec| spec.named && spec.name == name);
    exact.or_else(|| {
        let mut matches = COMMANDS.iter().filter(|spec| spec.named && spec.name.starts_with(name));
        matches.next().filter(|_| !name.is_empty() && matches.next().is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_typeable_and_every_command_is_described() {
        for (at, spec) in COMMANDS.iter().enumerate() {
            assert!(
                spec.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{}",
                spec.name
            );
            assert!(spec.doc.len() > 5 && spec.doc.len() < 80, "{}", spec.name);
            assert!(
                COMMANDS.iter().skip(at + 1).all(|other| other.name != spec.name && other.action != spec.action),
                "{}",
                spec.name
            );
        }
    }

    #[test]
    fn a_unique_beginning_is_enough() {
        assert_eq!(by_name("invite").map(|spec| spec.action), Some(Action::Invite));
        assert_eq!(by_name("inv").map(|spec| spec.action), Some(Action::Invite));
        assert_eq!(by_name("create"), None);
        assert_eq!(by_name("thread").map(|spec| spec.action), Some(Action::OpenThread));
        assert_eq!(by_name("yank"), None, "keys of an editor have no name");
        assert_eq!(by_name(""), None);
    }
}
