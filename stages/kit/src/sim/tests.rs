//! The simulated broker's promises, on a small stage and many seeds.

use super::{Crash, Faults, FullStream, Partition, Sim};
use crate::stage::{Delivery, Durable, Identity, Input, Needs, Now, Output, PublishError, Report, Stage, Ticket};
use schemas::subjects::{self, Stream};
use schemas::{EpisodeId, Split};
use std::collections::{BTreeMap, BTreeSet};

const EPISODES: u64 = 40;

/// Takes episodes, asks the other side about each, and publishes the end when the answer came.
struct Ping {
    id: String,
    held: BTreeMap<u64, Delivery>,
    done: u64,
}

impl Ping {
    fn make(identity: Identity) -> Box<dyn Stage> {
        Box::new(Ping { id: identity.id, held: BTreeMap::new(), done: 0 })
    }

    fn ask(&self, number: u64) -> Output {
        Output::Publish { subject: "errand.sim.ping".into(), payload: format!("{} {number}", self.id).into_bytes() }
    }

    fn end(number: u64) -> Output {
        let subject = subjects::ends("sim", EpisodeId { split: Split::Train, number });
        Output::PublishDurable { ticket: Ticket(number), subject, headers: BTreeMap::new(), payload: vec![], expected_last_sequence: None }
    }
}

fn fetch(count: u32) -> Output {
    Output::Fetch { durable: Durable { stream: Stream::Episodes, name: subjects::episodes_durable("frozenlake", Split::Train) }, count }
}

impl Stage for Ping {
    fn needs(&self) -> Needs {
        Needs { stage: "ping", subscribe: vec![(format!("errand.sim.pong.{}", self.id), None)], ..Needs::default() }
    }

    fn step(&mut self, input: Input, _: Now) -> Vec<Output> {
        match input {
            Input::Started => vec![fetch(8)],
            Input::FetchEnded { missing, .. } => vec![fetch(missing)],
            Input::Message { payload, delivery: Some(d), .. } => {
                let number = u64::from_le_bytes(payload.try_into().unwrap());
                self.held.insert(number, d.delivery);
                vec![self.ask(number)]
            }
            Input::Message { payload, .. } => {
                let number = String::from_utf8(payload).unwrap().parse().unwrap();
                if self.held.contains_key(&number) { vec![Ping::end(number)] } else { vec![] }
            }
            Input::Published { ticket: Ticket(number), result: Ok(_) | Err(PublishError::AlreadyThere) } => {
                let Some(delivery) = self.held.remove(&number) else { return vec![] };
                self.done += 1;
                vec![Output::DoubleAck(delivery), fetch(1)]
            }
            // Ask again about what is open: anything may have been lost.
            Input::Tick => self.held.iter().flat_map(|(number, delivery)| [self.ask(*number), Output::Progress(*delivery)]).collect(),
            Input::Drain => {
                let mut outputs: Vec<Output> = self.held.values().map(|d| Output::Nak { delivery: *d, delay_ms: 0 }).collect();
                outputs.push(Output::Exit { code: 0, message: "bye".into() });
                outputs
            }
            _ => vec![],
        }
    }

    fn report(&self) -> Report {
        Report { done: self.done, ..Report::default() }
    }
}

struct Pong;

impl Stage for Pong {
    fn needs(&self) -> Needs {
        Needs { stage: "pong", subscribe: vec![("errand.sim.ping".into(), Some("pong".into()))], ..Needs::default() }
    }

    fn step(&mut self, input: Input, _: Now) -> Vec<Output> {
        let Input::Message { payload, .. } = input else { return vec![] };
        let text = String::from_utf8(payload).unwrap();
        let (who, number) = text.split_once(' ').unwrap();
        vec![Output::Publish { subject: format!("errand.sim.pong.{who}"), payload: number.as_bytes().to_vec() }]
    }

    fn report(&self) -> Report {
        Report::default()
    }
}

fn rough(seed: u64) -> Faults {
    let crash = |at_ms, name: &str| Crash { at_ms, name: name.into(), restart_after_ms: Some(300) };
    Faults {
        delay_ms: 0.1..=40.0,
        duplicate: 0.1,
        drop: 0.1,
        crashes: vec![crash(100 + seed % 200, "ping-1"), crash(400, "ping-2"), crash(150, "pong-1"), crash(1500, "ping-1")],
        partitions: vec![Partition { name: "ping-2".into(), from_ms: 900, to_ms: 2500 }],
        full: vec![FullStream { stream: Stream::Ends, from_ms: 300, to_ms: 350 }],
        ..Faults::default()
    }
}

fn run(seed: u64, faults: Faults) -> Sim {
    let mut sim = Sim::new(seed, faults);
    for number in 0..EPISODES {
        sim.publish_durable(&subjects::episodes("sim", "frozenlake", Split::Train), BTreeMap::new(), number.to_le_bytes().to_vec())
            .unwrap();
    }
    sim.add("ping-1", Ping::make);
    sim.add("ping-2", Ping::make);
    sim.add("pong-1", |_| Box::new(Pong));
    sim.add("pong-2", |_| Box::new(Pong));
    let done = sim.run_until(|sim| sim.stream(Stream::Episodes).is_empty(), 120_000);
    assert!(done, "seed {seed}: {} episodes are left", sim.stream(Stream::Episodes).len());
    sim
}

#[test]
fn every_episode_ends_once_whatever_happens() {
    for seed in 0..30 {
        let sim = run(seed, rough(seed));
        let subjects: Vec<&str> = sim.stream(Stream::Ends).iter().map(|m| m.subject.as_str()).collect();
        assert_eq!(subjects.len() as u64, EPISODES, "seed {seed}");
        assert_eq!(subjects.iter().collect::<BTreeSet<_>>().len() as u64, EPISODES, "seed {seed}");
        assert_eq!(sim.lives("ping-1"), 3, "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let sim = run(seed, rough(3));
        let ends: Vec<(u64, String)> = sim.history(Stream::Ends).iter().map(|m| (m.sequence, m.subject.clone())).collect();
        (ends, sim.core_messages(), sim.now_ms())
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

#[test]
fn a_drained_stage_hands_back_and_another_takes_over() {
    let mut sim = Sim::new(1, Faults::default());
    sim.add("ping-1", Ping::make);
    for number in 0..EPISODES {
        sim.publish_durable(&subjects::episodes("sim", "frozenlake", Split::Train), BTreeMap::new(), number.to_le_bytes().to_vec())
            .unwrap();
    }
    // Nobody answers: the first holds what it took.
    assert!(!sim.run_until(|sim| !sim.stream(Stream::Ends).is_empty(), 500));
    sim.drain("ping-1");
    assert!(sim.run_until(|sim| sim.outcome("ping-1").is_some(), 1_000));
    assert_eq!(sim.outcome("ping-1").map(|o| o.code), Some(0));
    sim.add("ping-2", Ping::make);
    sim.add("pong-1", |_| Box::new(Pong));
    // Well before an ack could have run out.
    assert!(sim.run_until(|sim| sim.stream(Stream::Episodes).is_empty(), 5_000));
}

/// Writes its epoch as its state each tick, and watches others.
struct Holder {
    epoch: u8,
    gone: u64,
    refused: u64,
}

impl Stage for Holder {
    fn needs(&self) -> Needs {
        Needs { stage: "learner", lease: true, presence: true, ..Needs::default() }
    }

    fn step(&mut self, input: Input, _: Now) -> Vec<Output> {
        match input {
            Input::Started => vec![Output::GetState { ticket: Ticket(0) }],
            Input::State { .. } | Input::Tick => vec![Output::PutState { ticket: Ticket(1), bytes: vec![self.epoch] }],
            Input::StatePut { result: Err(_), .. } => {
                self.refused += 1;
                vec![]
            }
            Input::Gone { .. } => {
                self.gone += 1;
                vec![]
            }
            _ => vec![],
        }
    }

    fn report(&self) -> Report {
        Report { done: self.gone, waiting: self.refused, ..Report::default() }
    }
}

#[test]
fn one_holder_at_a_time_and_the_silent_are_noticed() {
    let mut sim = Sim::new(9, Faults::default());
    let holder = |identity: Identity| -> Box<dyn Stage> { Box::new(Holder { epoch: identity.epoch as u8, gone: 0, refused: 0 }) };
    sim.add("learner-1", holder);
    sim.add("learner-2", holder);
    sim.add("pong-1", |_| Box::new(Pong));
    assert!(!sim.run_until(|sim| sim.report("learner-2").is_some(), 2_000));
    sim.kill("pong-1");
    assert!(sim.run_until(|sim| sim.report("learner-1").is_some_and(|r| r.done == 1), 8_000));
    sim.kill("learner-1");
    assert!(sim.run_until(|sim| sim.state("learner") == Some(&[2][..]), 20_000));
    assert_eq!(sim.report("learner-2").map(|r| r.waiting), Some(0));
}
