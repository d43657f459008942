//! Steppers on a simulated broker that loses, doubles and delays messages, and is not always there: every episode has one
//! end, and it is the same end as on a calm day.

use super::bench::{context, corridors, episode, pipeline, render};
use crate::{Options, Stepper};
use context::Context;
use kit::sim::{Crash, Faults, FullStream, Partition, RUN, Sim};
use kit::{Identity, Input, Needs, Now, Output, Report, Stage};
use proptest::prelude::*;
use schemas::subjects::{self, Stream};
use schemas::{Completion, End, EndReason, EpisodeId, Observation, Status, decode, encode};
use std::collections::BTreeMap;
use std::sync::Arc;

const EPISODES: u64 = 60;

/// Renderer and generator in one: answers each observation with a reply that follows from its seed.
struct Answerer {
    context: Arc<Context>,
    busy: u64,
}

impl Stage for Answerer {
    fn needs(&self) -> Needs {
        let subscribe = vec![(subjects::observations(RUN), Some("prompt-renderer".to_string()))];
        Needs { stage: "generator", subscribe, ..Needs::default() }
    }

    fn step(&mut self, input: Input, _: Now) -> Vec<Output> {
        let Input::Message { payload, .. } = input else { return vec![] };
        let seen: Observation = decode(&payload).unwrap();
        self.busy += 1;
        let replies = [" step", " step step", " jam", " step step step", " step grab", " nonsense"];
        let (completion, _) = render(&self.context, &seen, replies[(seen.sampling.seed % 6) as usize]);
        let completion = match self.busy % 7 {
            0 => Completion { status: Status::Busy, segment: None, ..completion },
            _ => completion,
        };
        vec![Output::Publish { subject: subjects::completions(RUN, &seen.stepper), payload: encode(&completion) }]
    }

    fn report(&self) -> Report {
        Report::default()
    }
}

/// What of an end does not depend on who ran it and when.
fn essence(end: &End) -> impl PartialEq + std::fmt::Debug + use<> {
    let turns: Vec<_> =
        end.turns.iter().map(|t| (t.observation.clone(), t.reply.clone(), t.executed.clone(), t.state_key.clone())).collect();
    (end.reason, end.success, end.rewards.clone(), end.segments.clone(), turns)
}

/// Runs all episodes; the ends by episode.
fn run(seed: u64, faults: Faults, drain: bool) -> BTreeMap<EpisodeId, End> {
    let rules = "limits = { turns = 40, turn_deadline_s = 8.0 }\nbroker = { ack_wait_s = 2.0 }\nprompt = { segment_turns = 8 }";
    let mut sim = Sim::with_pipeline(seed, faults, pipeline(rules));
    let context = Arc::new(context());
    for name in ["generator-1", "generator-2"] {
        let context = Arc::clone(&context);
        sim.add(name, move |_| Box::new(Answerer { context: Arc::clone(&context), busy: 0 }));
    }
    for name in ["env-stepper-1", "env-stepper-2"] {
        let options = Options { slots: 8, ..Options::default() };
        sim.add(name, move |identity: Identity| Box::new(Stepper::new(&identity, corridors(false), options.clone())));
    }
    for number in 0..EPISODES {
        let order = episode(number, 4 + number % 5);
        let headers = BTreeMap::from([("Nats-Msg-Id".to_string(), order.id.to_string())]);
        sim.publish_durable(&subjects::episodes(RUN, "corridor", order.id.split), headers, encode(&order)).unwrap();
    }
    if drain {
        sim.run_until(|sim| sim.history(Stream::Ends).len() > 5, 60_000);
        sim.drain("env-stepper-1");
    }
    let over = |sim: &Sim| sim.history(Stream::Ends).len() as u64 >= EPISODES && sim.stream(Stream::Episodes).is_empty();
    assert!(sim.run_until(over, 300_000), "{} ends, {} episodes left", sim.history(Stream::Ends).len(), sim.stream(Stream::Episodes).len());
    if drain {
        assert!(sim.run_until(|sim| sim.outcome("env-stepper-1").is_some_and(|o| o.code == 0), 400_000));
    }
    assert!(sim.history(Stream::Rejected).is_empty());
    let ends: Vec<End> = sim.history(Stream::Ends).iter().map(|stored| decode(&stored.payload).unwrap()).collect();
    assert_eq!(ends.len() as u64, EPISODES, "one end an episode");
    ends.into_iter().map(|end| (end.id(), end)).collect()
}

fn same(calm: &BTreeMap<EpisodeId, End>, other: &BTreeMap<EpisodeId, End>) {
    for (id, end) in calm {
        assert!(matches!(end.reason, EndReason::OutOfSteps), "{id}: {:?} {}", end.reason, end.note);
        assert_eq!(essence(end), essence(&other[id]), "{id}");
    }
}

#[test]
fn a_drain_in_the_middle_loses_nothing() {
    let calm = run(1, Faults::default(), false);
    same(&calm, &run(2, Faults::default(), true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn faults_change_no_end(
        seed: u64, drop in 0.0f64..0.05, duplicate in 0.0f64..0.1, slow in 1.0f64..40.0,
        crashes in proptest::collection::vec((50u64..6000, 0usize..4), 0..5),
        cut in 100u64..4000, full in 100u64..4000,
    ) {
        let names = ["env-stepper-1", "env-stepper-2", "generator-1", "generator-2"];
        let crash = |(at_ms, who): &(u64, usize)| Crash { at_ms: *at_ms, name: names[*who].into(), restart_after_ms: Some(500) };
        let faults = Faults {
            delay_ms: 0.1..=slow,
            duplicate,
            drop,
            crashes: crashes.iter().map(crash).collect(),
            partitions: vec![Partition { name: "env-stepper-2".into(), from_ms: cut, to_ms: cut + 5000 }],
            full: vec![FullStream { stream: Stream::Ends, from_ms: full, to_ms: full + 1500 }],
            ..Faults::default()
        };
        same(&run(1, Faults::default(), false), &run(seed, faults, false));
    }
}
