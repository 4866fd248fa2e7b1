//! Seeded random plans: lines drop, clients restart and crash between saving and sending, answers get lost. In the end
//! everybody has the same conversation, each message exactly once and each author's in the order of writing.

use super::*;
use rand_core::Rng;

struct Plan {
    world: World,
    places: Vec<ChannelId>,
    people: usize,
    dice: TestRng,
    written: Vec<(ChannelId, Who, String)>,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let (mut world, _, channel) = World::shared(&["ana", "bo", "carol"]);
        world.rng = TestRng::new(seed);
        let dm = world.dm(0, 1);
        world.settle();
        Self { world, places: vec![channel, dm], people: 3, dice: TestRng::new(seed ^ 0xD1CE), written: Vec::new() }
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.dice.next_u32() as usize % sides
    }

    fn act(&mut self, n: usize) {
        let who = self.roll(self.people);
        match self.roll(16) {
            0..8 => {
                let place = if who == 2 { 0 } else { self.roll(2) };
                let (channel_id, text) = (self.places[place], format!("{n} of {who}"));
                if self.roll(12) == 0 {
                    self.world.clients[who].crash = true;
                }
                let place = Place { channel_id, thread: None };
                self.world.command(
                    who,
                    Command::SendText { place, text: text.as_str().into(), reply_to: None, mentions: Vec::new(), id: None },
                );
                self.written.push((channel_id, who, text));
            }
            8..10 => {
                if self.world.clients[who].online {
                    self.world.disconnect(who);
                } else {
                    self.world.connect(who);
                }
            }
            10 => self.world.restart(who),
            11 => self.world.server.lose_answers += 1,
            12..14 => self.world.advance(1_500),
            _ => {
                for _ in 0..self.roll(6) {
                    let Some(busy) = (0..self.people).find(|who| !self.world.clients[*who].queue.is_empty()) else { break };
                    let input = self.world.clients[busy].queue.pop_front().unwrap();
                    self.world.input(busy, input);
                }
            }
        }
    }

    fn finish(mut self, seed: u64) {
        self.world.server.lose_answers = 0;
        for _ in 0..2 {
            for who in 0..self.people {
                self.world.disconnect(who);
                self.world.connect(who);
            }
            self.world.advance(90_000);
        }
        for (place, readers) in [(0, vec![0, 1, 2]), (1, vec![0, 1])] {
            let channel_id = self.places[place];
            let texts = self.world.agreed(channel_id, &readers);
            let mut expected: Vec<&String> =
                self.written.iter().filter(|(at, ..)| *at == channel_id).map(|(.., text)| text).collect();
            for who in 0..self.people {
                let by = |text: &&String| text.ends_with(&format!("of {who}"));
                let written: Vec<&String> = expected.iter().copied().filter(by).collect();
                let read: Vec<&String> = texts.iter().filter(by).collect();
                assert_eq!(read, written, "seed {seed}: the words of {who} in their order, each once");
            }
            expected.sort();
            assert_eq!(texts.len(), expected.len(), "seed {seed}");
        }
        for who in 0..self.people {
            assert_eq!(self.world.tree(who).waiting, 0, "seed {seed}");
        }
    }
}

#[test]
fn all_clients_converge_whatever_happens_to_their_lines() {
    for seed in 0..12 {
        let mut plan = Plan::new(seed);
        for n in 0..60 {
            plan.act(n);
        }
        plan.finish(seed);
    }
}
