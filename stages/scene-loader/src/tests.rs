//! The loader's behaviour, against a broker in memory that keeps state, objects, episodes and ends.

mod broker;
mod files;

use broker::{Broker, grant, pipeline};
use proptest::prelude::*;
use schemas::{Episode, Mode, PolicyPin, Split};
use std::collections::BTreeSet;

#[test]
fn what_is_granted_is_published_once() {
    let mut broker = Broker::new(pipeline(""));
    broker.run(200);
    assert!(broker.episodes.is_empty(), "nothing without a grant");
    broker.grant(grant(3, 10, &[0]));
    broker.run(300);
    assert_eq!(broker.numbers(Split::Train), (0..24).collect::<Vec<u64>>());
    assert_eq!(broker.numbers(Split::Expert), (0..10).collect::<Vec<u64>>());
    assert_eq!(broker.numbers(Split::Val), (0..20).collect::<Vec<u64>>());
    let before = broker.episodes.clone();
    // The same grant again, an older one, and one of an earlier holder change nothing.
    broker.grant(grant(3, 10, &[0]));
    broker.grant(grant(2, 4, &[]));
    broker.grant(schemas::Grant { epoch: 0, ..grant(99, 99, &[7]) });
    broker.run(300);
    assert_eq!(broker.episodes, before);
    assert!(broker.duplicates == 0);
}

#[test]
fn a_group_shares_world_seed_and_scene() {
    let mut broker = Broker::new(pipeline(""));
    broker.grant(grant(5, 0, &[]));
    broker.run(300);
    let train: Vec<&Episode> = broker.episodes.values().filter(|e| e.id.split == Split::Train).collect();
    for group in train.chunks(8) {
        for (member, episode) in group.iter().enumerate() {
            assert_eq!((episode.member as usize, episode.group, episode.group_size), (member, group[0].group, 8));
            let shared = |e: &Episode| (e.seed, e.task.clone(), e.scene.clone(), e.bucket.clone(), e.policy);
            assert_eq!(shared(episode), shared(group[0]));
            assert!(broker.objects.contains_key(&format!("scene-{}", episode.scene.as_ref().unwrap().digest)));
        }
    }
    let seeds: BTreeSet<u64> = train.iter().map(|e| e.seed).collect();
    assert_eq!(seeds.len(), 5);
    let spans: BTreeSet<&str> = train.iter().map(|e| e.traceparent.as_str()).collect();
    assert_eq!(spans.len(), 40);
    assert!(broker.object_puts.values().all(|puts| *puts == 1), "each scene is stored once: {:?}", broker.object_puts);
    assert!(broker.headers.iter().all(|(id, message_id)| *message_id == id.to_string()));
}

#[test]
fn modes_and_versions_follow_the_grant() {
    let mut broker = Broker::new(pipeline("schedule = [{ phase = \"format\", batch = 4 }]\nlearner = { max_staleness = 2 }"));
    let mut first = grant(4, 3, &[]);
    first.dagger_below = 2;
    first.version = 5;
    broker.grant(first);
    broker.run(300);
    let of = |number| &broker.episodes[&schemas::EpisodeId { split: Split::Train, number }];
    assert_eq!((of(0).mode, of(0).group_size, of(1).group, of(2).mode, of(2).group_size), (Mode::Dagger, 1, 1, Mode::Policy, 8));
    assert_eq!(of(2).policy, PolicyPin::AtLeast(3));
    assert!(broker.episodes.values().filter(|e| e.id.split == Split::Expert).all(|e| e.mode == Mode::Format));
    let mut exact = Broker::new(pipeline("deterministic = true"));
    exact.grant(schemas::Grant { version: 5, ..grant(1, 0, &[]) });
    exact.run(300);
    assert!(exact.episodes.values().all(|e| e.policy == PolicyPin::Exactly(5)));
}

#[test]
fn each_version_is_judged_once_on_the_same_list() {
    let mut broker = Broker::new(pipeline(""));
    broker.grant(grant(0, 0, &[4, 9]));
    broker.run(300);
    broker.grant(grant(0, 0, &[4, 9, 12]));
    broker.restart();
    broker.run(300);
    broker.grant(schemas::Grant { finished: true, ..grant(0, 0, &[9, 12]) });
    broker.run(300);
    let passes: Vec<Vec<&Episode>> = [4, 9, 12].map(|v| broker.episodes.values().filter(|e| e.validates == v).collect()).to_vec();
    for (pass, episodes) in passes.iter().enumerate() {
        assert_eq!(episodes.len(), 20);
        for (index, episode) in episodes.iter().enumerate() {
            assert_eq!(episode.id.number, (pass * 20 + index) as u64);
            assert_eq!(episode.task, passes[0][index].task, "the same list each time");
            assert_eq!((episode.policy, episode.group_size), (PolicyPin::Exactly(episode.validates), 1));
        }
    }
    assert_eq!(broker.episodes.len(), 60);
}

#[test]
fn training_and_validation_share_no_task() {
    let mut broker = Broker::new(pipeline("episodes = { validation = 200, group_size = 1, curriculum = false }"));
    broker.grant(grant(300, 300, &[0]));
    broker.run(3000);
    let tasks = |split| broker.episodes.values().filter(|e| e.id.split == split).map(|e| e.task.clone()).collect::<BTreeSet<_>>();
    let held_out = tasks(Split::Val);
    assert_eq!(held_out.len(), 200);
    assert!(tasks(Split::Train).union(&tasks(Split::Expert)).all(|task| !held_out.contains(task)));
}

#[test]
fn after_the_broker_lost_everything_numbers_go_on_where_the_learner_says() {
    let mut broker = Broker::new(pipeline(""));
    let start = schemas::Start { group: 7, train: 56, expert: 30, val: 20, passes: vec![4] };
    let after = |upto_group, upto_expert| schemas::Grant { start: Some(start.clone()), ..grant(upto_group, upto_expert, &[4, 9]) };
    broker.grant(after(7, 30));
    broker.run(300);
    assert_eq!(broker.numbers(Split::Val), (20..40).collect::<Vec<u64>>(), "version 9 is judged, version 4 is not judged again");
    broker.grant(after(9, 33));
    broker.run(300);
    assert_eq!(broker.numbers(Split::Train), (56..72).collect::<Vec<u64>>());
    assert_eq!(broker.numbers(Split::Expert), (30..33).collect::<Vec<u64>>());
    // What it remembers counts more than where it began.
    broker.restart();
    broker.grant(after(10, 33));
    broker.run(300);
    assert_eq!(broker.numbers(Split::Train), (56..80).collect::<Vec<u64>>());
    assert_eq!((broker.duplicates, broker.changed), (0, 0));
}

#[test]
fn a_full_stream_is_waited_for() {
    let mut broker = Broker::new(pipeline(""));
    broker.full = true;
    broker.grant(grant(3, 0, &[]));
    broker.run(300);
    assert!(broker.episodes.is_empty() && broker.exited.is_none());
    broker.full = false;
    broker.run(300);
    assert_eq!(broker.numbers(Split::Train).len(), 24);
}

#[test]
fn the_stage_stays_a_bounded_way_ahead_of_the_ends() {
    let mut broker = Broker::new(pipeline("stages = { slots = 1 }"));
    broker.grant(grant(u64::MAX, 0, &[]));
    broker.run(3000);
    let ahead = broker.episodes.len();
    assert!(ahead > 900 && ahead <= 1024, "{ahead}");
    broker.end_all(|_| true);
    broker.run(3000);
    assert!(broker.episodes.len() > ahead + 900);
}

#[test]
fn the_curriculum_follows_what_the_policy_can_do() {
    let mut broker = Broker::new(pipeline("episodes = { curriculum = true, group_size_hard = 16 }"));
    for upto in (8..=160).step_by(8) {
        broker.grant(grant(upto, 0, &[]));
        broker.run(60);
        let mut turn = 0;
        broker.end_all(|episode| {
            turn += 1;
            episode.bucket == "easy" && turn % 2 == 0
        });
        broker.run(30);
    }
    let groups: BTreeSet<(u64, String, u32)> = broker.episodes.values().map(|e| (e.group, e.bucket.clone(), e.group_size)).collect();
    let late: Vec<_> = groups.iter().filter(|(group, ..)| *group >= 60).collect();
    let easy = late.iter().filter(|(_, bucket, _)| bucket == "easy").count();
    assert!(easy * 10 > late.len() * 8, "{easy} of {}", late.len());
    assert!(late.iter().all(|(_, bucket, size)| *size == if bucket == "hard" { 16 } else { 8 }));
    assert!(broker.report().gauges["success_easy"] > 0.3 && broker.report().gauges["success_hard"] == 0.0);
}

#[test]
fn ends_are_acked_after_the_state_that_counts_them_is_written() {
    let mut broker = Broker::new(pipeline(""));
    broker.grant(grant(2, 0, &[]));
    broker.run(200);
    broker.state_fails = true;
    broker.end_all(|_| true);
    broker.run(30);
    assert!(broker.acked.is_empty());
    broker.state_fails = false;
    broker.run(60);
    assert_eq!(broker.acked.len(), 16);
    // For good, it gives up with a message.
    broker.state_fails = true;
    broker.grant(grant(4, 0, &[]));
    broker.run(600);
    assert!(broker.exited.as_ref().is_some_and(|(code, message)| *code == 1 && message.contains("lease")), "{:?}", broker.exited);
}

#[test]
fn a_world_without_a_task_and_a_foreign_state_end_the_stage_with_a_message() {
    let mut broker = Broker::new(pipeline("world = { name = \"toy\", settings = { broken = true } }"));
    broker.grant(grant(1, 0, &[]));
    broker.run(100);
    assert!(broker.exited.unwrap().1.contains("no level"));
    let mut broker = Broker::new(pipeline(""));
    broker.state = Some(b"{\"version\":99}".to_vec());
    broker.restart();
    broker.run(100);
    assert_eq!(broker.exited.unwrap().0, 1);
}

#[test]
fn a_drain_leaves_what_is_not_published_to_the_next() {
    let mut broker = Broker::new(pipeline(""));
    broker.full = true;
    broker.grant(grant(3, 0, &[]));
    broker.run(100);
    broker.drain();
    broker.run(50);
    assert_eq!(broker.exited.take().map(|(code, _)| code), Some(0));
    broker.full = false;
    broker.restart();
    broker.run(100);
    assert_eq!(broker.numbers(Split::Train).len(), 24);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Killed at any points, with any answers of the broker lost, it publishes the same episodes as if never killed, and
    /// each end is counted once.
    #[test]
    fn a_restart_at_any_point_publishes_the_same(kills in proptest::collection::vec(1u32..80, 0..12), hard: bool) {
        let rules = "deterministic = true\nepisodes = { group_size = 4, group_size_hard = 6, curriculum = true }\nschedule = [{ phase = \"grpo\", batch = 4 }]";
        let play = |kills: &[u32]| {
            let mut broker = Broker::new(pipeline(rules));
            let mut kills = kills.iter();
            for upto in [4, 5, 8, 12, 13, 16, 20, 24] {
                broker.grant(grant(upto, upto * 2, if upto > 8 { &[0, 3] } else { &[0] }));
                for _ in 0..2 {
                    match kills.next() {
                        Some(steps) => {
                            broker.step_times(*steps);
                            broker.restart();
                        }
                        None => broker.run(40),
                    }
                }
                broker.run(60);
                broker.end_all(|episode| episode.id.number % 3 == 0 && (!hard || episode.bucket == "easy"));
                broker.run(40);
            }
            broker
        };
        let (calm, killed) = (play(&[]), play(&kills));
        prop_assert_eq!(&calm.exited, &None);
        let content = |broker: &Broker| broker.episodes.values().map(|e| Episode { epoch: 0, ..e.clone() }).collect::<Vec<_>>();
        prop_assert_eq!(content(&calm), content(&killed));
        prop_assert_eq!(killed.changed, 0, "an episode was published again with other content");
        let ended = |broker: &Broker| ["ended_train", "ended_val", "ended_expert"].map(|g| broker.report().gauges[g]);
        prop_assert_eq!(ended(&calm), ended(&killed));
    }
}
