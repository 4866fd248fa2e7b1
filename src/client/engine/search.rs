//! Pages of a timeline and the search in the local history: words, "phrases", `from:name` and `in:channel`.

use crate::client::command::Place;
use crate::client::model::{Anchor, Domain, Person, SearchHit, TimelinePage};
use crate::client::store::{From, Lines, Position, StoreError, StoredMessage, TextQuery};
use crate::protocol::ids::{ChannelId, UserId};

use super::lines::{self, Line, LineBody};
use super::{Cx, Engine};

/// Lines of one page, results of one search.
const PAGE_MAX: usize = 1_000;
const PEOPLE_MAX: usize = 50;

fn lines_of(place: Place) -> Lines {
    place.thread.map_or(Lines::Main, Lines::Thread)
}

impl Engine {
    pub(super) fn load_page(&self, cx: &Cx<'_>, place: Place, anchor: Anchor, limit: usize) -> Result<TimelinePage, StoreError> {
        let (channel_id, lines, limit) = (place.channel_id, lines_of(place), limit.clamp(1, PAGE_MAX));
        let page = |from, limit| cx.db.page(channel_id, lines, from, limit);
        let position = |key| Ok::<_, StoreError>(cx.db.message(channel_id, key)?.map(|message| message.position));
        let stored: Vec<StoredMessage> = match anchor {
            Anchor::Newest => page(From::End, limit)?,
            Anchor::Before(key) => match position(key)? {
                Some(at) => page(From::Before(at), limit)?,
                None => Vec::new(),
            },
            Anchor::After(key) => match position(key)? {
                Some(at) => page(From::After(at), limit)?,
                None => Vec::new(),
            },
            Anchor::Around(key) => match position(key)? {
                Some(at) => around(&page, at, limit)?,
                None => page(From::End, limit)?,
            },
            Anchor::FirstUnread => {
                let read = self.places.state(channel_id).read_seq;
                around(&page, Position::local(read, i64::MAX as u64), limit)?
            }
        };
        self.page_of(cx, place, lines, &stored)
    }

    pub(super) fn load_newest(&self, cx: &Cx<'_>, channel_id: ChannelId, limit: usize) -> Result<TimelinePage, StoreError> {
        let stored = cx.db.page(channel_id, Lines::All, From::End, limit.clamp(1, PAGE_MAX))?;
        self.page_of(cx, Place { channel_id, thread: None }, Lines::All, &stored)
    }

    fn page_of(&self, cx: &Cx<'_>, place: Place, lines: Lines, stored: &[StoredMessage]) -> Result<TimelinePage, StoreError> {
        let channel_id = place.channel_id;
        let older = match stored.first() {
            Some(first) => !cx.db.page(channel_id, lines, From::Before(first.position), 1)?.is_empty(),
            None => false,
        };
        let newer = match stored.last() {
            Some(last) => !cx.db.page(channel_id, lines, From::After(last.position), 1)?.is_empty(),
            None => false,
        };
        let oldest = self.places.state(channel_id).oldest;
        let head = self.places.channels.get(&channel_id).map_or(0, |channel| channel.head_seq);
        Ok(TimelinePage {
            channel_id,
            thread: place.thread,
            items: lines::items(&cx.db, self, stored)?,
            at_start: !older,
            at_end: !newer,
            missing_before: if older { 0 } else { oldest.map_or(head, |oldest| oldest.saturating_sub(1)) },
        })
    }

    /// What was before a row, after older history was fetched.
    pub(super) fn page_before(
        &self,
        cx: &Cx<'_>,
        place: Place,
        seq: Option<u64>,
        limit: usize,
    ) -> Result<TimelinePage, StoreError> {
        let from = seq.map_or(From::End, |seq| From::Before(Position::row(seq)));
        let stored = cx.db.page(place.channel_id, lines_of(place), from, limit.clamp(1, PAGE_MAX))?;
        self.page_of(cx, place, lines_of(place), &stored)
    }

    pub(super) fn find_text(
        &self,
        cx: &Cx<'_>,
        query: &str,
        place: Option<Place>,
        limit: usize,
    ) -> Result<Vec<SearchHit>, StoreError> {
        let words = split(query);
        let mut text = TextQuery { limit: limit.clamp(1, PAGE_MAX), ..TextQuery::default() };
        for word in words {
            match word
                .strip_prefix("from:")
                .map(|name| (true, name))
                .or_else(|| word.strip_prefix("in:").map(|name| (false, name)))
            {
                Some((true, name)) => text.authors.extend(self.people_called(name.trim_start_matches('@'))),
                Some((false, name)) => text.channels.extend(self.channels_called(name.trim_start_matches(['#', '@']))),
                None => text.terms.push(word),
            }
        }
        // A name that nobody has finds nothing, rather than everything.
        let nobody = query.contains("from:") && text.authors.is_empty() || query.contains("in:") && text.channels.is_empty();
        if nobody || (text.terms.is_empty() && text.authors.is_empty() && text.channels.is_empty()) {
            return Ok(Vec::new());
        }
        if let Some(place) = place {
            text.channels = vec![place.channel_id];
        }
        let mut hits = Vec::new();
        for message in cx.db.store().search(&text)? {
            let line = Line::from_stored(&message)?;
            if place.is_some_and(|place| place.thread.is_some_and(|root| line.thread_root != Some(root) && line.key != root)) {
                continue;
            }
            let (LineBody::Text(text) | LineBody::Clear(text)) = &line.value.body else { continue };
            hits.push(SearchHit {
                channel_id: line.channel_id,
                channel_name: self.channel_name(line.channel_id),
                message: line.key,
                thread_root: line.thread_root,
                author_name: self.places.name_in(line.channel_id, line.key.author),
                at: line.value.at,
                text: text.as_str().into(),
            });
        }
        Ok(hits)
    }

    fn channel_name(&self, channel_id: ChannelId) -> crate::client::model::Untrusted {
        match self.places.peer(channel_id) {
            Some(peer) => self.name_of(peer),
            None => self.places.channels.get(&channel_id).and_then(|channel| channel.name.as_deref()).unwrap_or_default().into(),
        }
    }

    fn people_called(&self, name: &str) -> Vec<UserId> {
        let name = name.to_lowercase();
        if name == "me" {
            return vec![self.me_id()];
        }
        self.places
            .users
            .values()
            .filter(|user| {
                user.username.to_lowercase() == name
                    || user.display_name.as_ref().is_some_and(|display| display.to_lowercase() == name)
            })
            .map(|user| user.id)
            .collect()
    }

    fn channels_called(&self, name: &str) -> Vec<ChannelId> {
        let name = name.to_lowercase();
        self.places
            .channels
            .keys()
            .filter(|id| {
                let peer = self.places.peer(**id).and_then(|peer| self.places.users.get(&peer));
                self.channel_name(**id).raw().to_lowercase() == name
                    || peer.is_some_and(|peer| peer.username.to_lowercase() == name)
            })
            .copied()
            .collect()
    }

    /// People known here whose name contains the query.
    pub(super) fn known_people(&self, query: &str) -> Vec<Person> {
        let query = query.trim_start_matches('@').to_lowercase();
        let mut people: Vec<_> = self
            .places
            .users
            .values()
            .filter(|user| user.id != self.me_id())
            .filter_map(|user| {
                let username = user.username.to_lowercase();
                let display = user.display_name.as_ref().map(|name| name.to_lowercase()).unwrap_or_default();
                let rank = if username == query {
                    0
                } else if username.starts_with(&query) || display.starts_with(&query) {
                    1
                } else if username.contains(&query) || display.contains(&query) {
                    2
                } else {
                    return None;
                };
                Some((rank, username, self.person(user)))
            })
            .collect();
        people.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        people.into_iter().map(|(_, _, person)| person).take(PEOPLE_MAX).collect()
    }

    /// Who may not come back to a place. Of somebody whose name was never known here, the id.
    pub(super) fn banned_people(&self, domain: Domain) -> Vec<Person> {
        let banned = self.logs.get(&domain.log_id()).into_iter().flat_map(|state| state.log.banned());
        let person = |id: UserId| match self.places.users.get(&id) {
            Some(user) => self.person(user),
            None => Person { user_id: id, username: id.to_string().into(), display_name: None, trust: self.trust_of(id) },
        };
        banned.map(|id| person(UserId::from_bytes(*id))).collect()
    }

    pub(super) fn person(&self, user: &crate::protocol::users::User) -> Person {
        Person {
            user_id: user.id,
            username: user.username.as_str().into(),
            display_name: user.display_name.as_deref().map(Into::into),
            trust: self.trust_of(user.id),
        }
    }
}

fn around(
    page: &impl Fn(From, usize) -> Result<Vec<StoredMessage>, StoreError>,
    at: Position,
    limit: usize,
) -> Result<Vec<StoredMessage>, StoreError> {
    // The line itself belongs to the second half: it is what follows everything before it.
    let before = page(From::Before(at), limit / 2)?;
    let after = match before.last() {
        Some(last) => page(From::After(last.position), limit - limit / 2)?,
        None => page(From::After(Position::default()), limit)?,
    };
    Ok(before.into_iter().chain(after).collect())
}

/// Words, and phrases in double quotes.
fn split(query: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in query.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_query_is_words_and_phrases() {
        assert_eq!(split("canary  \"rolling back\" from:ana"), ["canary", "rolling back", "from:ana"]);
        assert_eq!(split(" \"open end"), ["open end"]);
        assert!(split("  ").is_empty());
    }
}
