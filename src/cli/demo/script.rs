//! What happens in the demonstration, and what must hold of it.

use std::sync::Arc;

use super::super::child::Server;
use super::person::{self, Person, Secrets, says};
use super::{Stage, broken, proof, say};
use crate::cli::Globals;
use crate::client::command::{Command, InviteText, Place};
use crate::client::event::{Answer, ClientEvent};
use crate::client::model::{Body, Problem, TimelineItem};
use crate::protocol::auth::SecretText;
use crate::protocol::communities::Visibility;
use crate::protocol::ids::{ChannelId, CommunityId};
use crate::tui::text::Clean;

const TO_BOB: &str = "the staging password is on the yellow note";
const FROM_BOB: &str = "got it, burning the note now";
const CANARY: &str = "canary is red on two hosts";
const ROLLING: &str = "rolling back to build 41";
const WATCHING: &str = "watching the graphs, thanks both";
const OFFLINE: &str = "written while the server was dead";
const AFTER_KICK: &str = "new pager rotation, without Carol";

/// The community of the demonstration with Alice, Bob and Carol in it.
struct Cast {
    alice: Person,
    bob: Person,
    carol: Person,
    community: CommunityId,
    general: ChannelId,
    dm: ChannelId,
}

/// Plays the scripted conversation.
pub async fn play(stage: &Stage) -> Result<(), Problem> {
    say("chat demo: a server, three people, and what the server gets to know");
    say("");
    let mut server = Server::start(&stage.path("server"), &stage.path("server.log"), Vec::new()).await?;
    say(format!("server    {} is up (process {}), with a PostgreSQL of its own", server.url, server.pid()));
    let secrets: Vec<Secrets> = ["Alice", "Bob", "Carol"].into_iter().map(Secrets::of).collect();
    let mut cast = gather(stage, &server, &secrets).await?;

    say("");
    say("direct message");
    let place = Place { channel_id: cast.dm, thread: None };
    cast.alice.write(place, TO_BOB, None).await?;
    everybody_reads(&mut [&mut cast.bob], cast.dm, TO_BOB).await?;
    cast.bob.write(place, FROM_BOB, None).await?;
    everybody_reads(&mut [&mut cast.alice], cast.dm, FROM_BOB).await?;

    say("");
    say("a channel with three members, and a thread");
    let place = Place { channel_id: cast.general, thread: None };
    let root = cast.alice.write(place, CANARY, None).await?;
    everybody_reads(&mut [&mut cast.bob, &mut cast.carol], cast.general, CANARY).await?;
    let thread = Place { channel_id: cast.general, thread: Some(root) };
    cast.bob.write(thread, ROLLING, None).await?;
    let replies = everybody_reads(&mut [&mut cast.alice, &mut cast.carol], cast.general, ROLLING).await?;
    if replies.iter().any(|reply| reply.thread_root != Some(root)) {
        return Err(broken("the reply is not in the thread"));
    }
    cast.carol.write(thread, WATCHING, None).await?;
    everybody_reads(&mut [&mut cast.alice, &mut cast.bob], cast.general, WATCHING).await?;

    say("");
    say("the server dies in the middle");
    server.kill().await?;
    say("server    killed with SIGKILL");
    let waiting = cast.alice.write(place, OFFLINE, None).await?;
    say(format!("Alice     writes `{OFFLINE}`: it waits in her outbox, on disk"));
    server.restart().await?;
    say(format!("server    is back (process {})", server.pid()));
    cast.alice.sent(cast.general, waiting).await?;
    everybody_reads(&mut [&mut cast.bob, &mut cast.carol], cast.general, OFFLINE).await?;
    for person in [&cast.alice, &cast.bob, &cast.carol] {
        let copies = person.count(cast.general, OFFLINE);
        if copies != 1 {
            return Err(broken(format!("{} has the message {copies} times", person.name)));
        }
    }
    say("          it arrived exactly once at both");

    say("");
    say("Carol is removed: everybody makes a new sender key before the next message");
    remove_carol(&mut cast).await?;

    say("");
    let mut hidden: Vec<String> = [TO_BOB, FROM_BOB, CANARY, ROLLING, WATCHING, OFFLINE, AFTER_KICK].map(str::to_owned).to_vec();
    hidden.extend(secrets.iter().flat_map(|one| [one.password.0.clone(), one.passphrase.0.clone()]));
    let (data_dir, log, count) = (server.data_dir.clone(), server.log.clone(), hidden.len());
    let searched = tokio::task::spawn_blocking(move || {
        let mut searched = proof::Searched::default();
        proof::search_database(&data_dir, &hidden, &mut searched)?;
        proof::search_files(&data_dir, &hidden, &mut searched)?;
        proof::search_files(&log, &hidden, &mut searched)?;
        Ok::<_, Problem>(searched)
    })
    .await
    .map_err(|e| broken(e.to_string()))??;
    say(format!(
        "what the server kept: {} KiB of database dump, {} files with {} MiB, its log: none of the {count} texts, passwords and passphrases is in it",
        searched.dump_bytes / 1024,
        searched.files,
        searched.file_bytes / (1024 * 1024),
    ));
    cast.alice.close().await;
    cast.bob.close().await;
    cast.carol.close().await;
    server.stop().await;
    say("everything held");
    Ok(())
}

/// What Alice comes into.
pub struct Scene {
    server: Server,
    passphrase: SecretText,
    bob: Person,
    carol: Person,
}

/// A seeded community; Bob and Carol are there, and Alice's profile waits for her.
pub async fn set_the_scene(stage: &Stage) -> Result<Scene, Problem> {
    say("starting a server, Bob and Carol …");
    let server = Server::start(&stage.path("server"), &stage.path("server.log"), Vec::new()).await?;
    let [for_alice, for_bob, for_carol] = ["Alice", "Bob", "Carol"].map(Secrets::of);
    let passphrase = for_alice.passphrase.clone();
    let mut cast = gather(stage, &server, &[for_alice, for_bob, for_carol]).await?;
    let general = Place { channel_id: cast.general, thread: None };
    let root = cast
        .bob
        .write(general, "canary is red on two hosts, log:\n```\njournalctl -u api -S -10m | grep panic\n```", None)
        .await?;
    cast.carol.until("read it", |carol| carol.items(general.channel_id).find(|item| item.key == root).map(|_| ())).await?;
    cast.carol.write(Place { thread: Some(root), ..general }, "rolling back to **41**", None).await?;
    cast.carol.write(general, "@alice welcome! Write something here; Bob and I answer.", None).await?;
    cast.bob
        .write(
            Place { channel_id: cast.dm, thread: None },
            "and this is a direct message: only your devices and mine can read it",
            None,
        )
        .await?;
    let Cast { alice, bob, carol, .. } = cast;
    // The TUI opens the profile itself, as it would any other.
    alice.close().await;
    Ok(Scene { server, passphrase, bob, carol })
}

/// Opens the terminal client as Alice; Bob and Carol answer.
pub async fn open_as_alice(stage: &Stage, scene: Scene, globals: &Globals) -> Result<(), Problem> {
    let Scene { mut server, passphrase, bob, carol } = scene;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let bots = [
        tokio::spawn(answer(bob, "Bob here: received and decrypted.", stopped.clone())),
        tokio::spawn(answer(carol, "Carol too.", stopped)),
    ];
    let result = crate::cli::tui::open(&person::directories(stage), "alice", Some(passphrase), globals).await;
    let _ = stop.send(true);
    for bot in bots {
        let _ = bot.await;
    }
    server.stop().await;
    result
}

/// Three accounts with a device each, a community with a channel, and everybody in it.
async fn gather(stage: &Stage, server: &Server, secrets: &[Secrets]) -> Result<Cast, Problem> {
    let [for_alice, for_bob, for_carol] = secrets else { return Err(broken("three people take part")) };
    let mut alice = Person::register(stage, &server.url, "Alice", for_alice).await?;
    let mut bob = Person::register(stage, &server.url, "Bob", for_bob).await?;
    let mut carol = Person::register(stage, &server.url, "Carol", for_carol).await?;
    say("accounts  Alice, Bob and Carol, each with a device, an identity key and prekeys of their own");

    let community = match alice.ask(Command::CreateCommunity { name: "Acme".into(), description: None }).await? {
        Answer::Community(id) => id,
        other => return Err(broken(format!("creating a community was answered with {other:?}"))),
    };
    let group = Command::CreateGroup { community_id: community, name: "Backend".into(), visibility: Visibility::Public };
    let Answer::Group(group_id) = alice.ask(group).await? else { return Err(broken("no group was made")) };
    let channel = Command::CreateChannel {
        group_id,
        name: "general".into(),
        topic: Some("canary, rollbacks, who has the pager".into()),
        visibility: Visibility::Public,
    };
    let Answer::Channel(general) = alice.ask(channel).await? else { return Err(broken("no channel was made")) };
    let invite = Command::CreateInvite { community_id: community, max_uses: Some(2), expires_in_s: Some(3600) };
    let Answer::Invite(invite) = alice.ask(invite).await? else { return Err(broken("no invite was made")) };
    for guest in [&mut bob, &mut carol] {
        guest.ask(Command::Join { link: InviteText(invite.link.clone()) }).await?;
        let name = guest.name;
        guest
            .until("see the channel", |guest| {
                let node = guest.tree.communities.iter().find(|node| node.id == community)?;
                node.groups.iter().flat_map(|group| &group.channels).any(|channel| channel.id == general).then_some(())
            })
            .await?;
        say(format!("community {name} joined Acme by a link whose secret half the server never saw"));
    }
    let Answer::Channel(dm) = alice.ask(Command::OpenDm { user_id: bob.user_id }).await? else {
        return Err(broken("no direct message was opened"));
    };
    Ok(Cast { alice, bob, carol, community, general, dm })
}

async fn remove_carol(cast: &mut Cast) -> Result<(), Problem> {
    let (community, general) = (cast.community, cast.general);
    let kick = Command::Kick { domain: community.into(), user_id: cast.carol.user_id, ban: false, reason: None };
    cast.alice.ask(kick).await?;
    cast.carol
        .until("learn of the removal", |carol| carol.tree.communities.iter().all(|node| node.id != community).then_some(()))
        .await?;
    let place = Place { channel_id: general, thread: None };
    let last = cast.alice.write(place, AFTER_KICK, None).await?;
    everybody_reads(&mut [&mut cast.bob], general, AFTER_KICK).await?;
    cast.alice.sent(general, last).await?;
    // A message from Bob passes the same way, so what Carol could get she has by now.
    let Answer::Channel(dm) = cast.bob.ask(Command::OpenDm { user_id: cast.alice.user_id }).await? else {
        return Err(broken("no direct message was opened"));
    };
    if dm != cast.dm {
        return Err(broken("two people have two direct messages"));
    }
    if cast.carol.items(general).any(|item| says(item, AFTER_KICK)) {
        return Err(broken("Carol read a message that was written after she was removed"));
    }
    say("Carol     has the old messages and nothing of what came after");
    Ok(())
}

async fn everybody_reads(
    people: &mut [&mut Person],
    channel_id: ChannelId,
    text: &str,
) -> Result<Vec<Arc<TimelineItem>>, Problem> {
    let mut items = Vec::new();
    for person in people {
        let item = person.read(channel_id, text).await?;
        transcript(person, &item);
        items.push(item);
    }
    Ok(items)
}

/// `Bob       decrypted from Alice: …`
fn transcript(reader: &Person, item: &TimelineItem) {
    let Body::Text(text) = &item.body else { return };
    let (author, text) = (Clean::from_untrusted(&item.author_name), Clean::from_untrusted(text));
    say(format!("{:<9} decrypted from {}: {}", reader.name, author.as_str(), text.as_str()));
}

/// Answers every message that is not a bot's, until told to stop.
async fn answer(mut bot: Person, text: &'static str, mut stop: tokio::sync::watch::Receiver<bool>) {
    loop {
        let event = tokio::select! {
            event = bot.next() => event,
            _ = stop.changed() => None,
        };
        let Some(event) = event else { break };
        let ClientEvent::Timeline { channel_id, items } = event else { continue };
        for item in items {
            let from_a_person = !item.mine && matches!(&item.body, Body::Text(_)) && item.author_name.raw() == "Alice";
            if from_a_person && item.revision == 0 {
                let place = Place { channel_id, thread: item.thread_root };
                // A refused answer is no reason to end the demonstration.
                let _ = bot.write(place, text, Some(item.key)).await;
            }
        }
    }
    bot.close().await;
}
