use super::rig::{Rig, code};
use schemas::{EndReason, EpisodeId, Split, Use};
use std::collections::{BTreeMap, BTreeSet};

const SCHEDULE: &str = "deterministic = true
[episodes]
validation = 5
[[schedule]]
phase = \"imitation\"
batches = 3
batch = 6
[[schedule]]
phase = \"dagger\"
batches = 2
batch = 4
[[schedule]]
phase = \"grpo\"
batches = 3
batch = 2
";

/// The pipeline's text with its own keys before the tables.
fn rig(text: &str) -> Rig {
    let (head, rest) = text.split_once("[episodes]").unwrap();
    let mut rig = Rig::new(&format!("[episodes]{rest}"));
    rig.pipeline.deterministic = head.contains("deterministic = true");
    rig
}

/// Every end that ever was has exactly one use, the weights saw exactly what is `trained`, and all is acked.
fn audit(rig: &Rig) {
    let (snapshot, weights) = rig.checkpoint();
    let used: BTreeMap<EpisodeId, Use> = snapshot.uses.iter().collect();
    assert_eq!(used.keys().copied().collect::<BTreeSet<_>>(), rig.ever);
    for (id, what) in &used {
        let times = weights.seen.get(&code(*id)).copied().unwrap_or(0);
        assert_eq!(times, u32::from(*what == Use::Trained), "{id} is {what:?} and was trained {times} times");
    }
    let acked: BTreeSet<EpisodeId> = rig.acks.iter().copied().collect();
    assert_eq!(acked, rig.ever, "what has a use is acked");
    assert_eq!(snapshot.state.used(), used.len() as u64);
}

#[test]
fn imitation_then_dagger_then_grpo_then_done() {
    let mut rig = rig(SCHEDULE);
    rig.run(100);
    audit(&rig);
    let (snapshot, _) = rig.checkpoint();
    let state = &snapshot.state;
    assert_eq!((state.batch, state.step, state.version), (8, 8, 8));
    assert_eq!(rig.policies.iter().map(|p| p.version).collect::<Vec<_>>(), (0..=8).collect::<Vec<_>>());
    let count = |split, what| snapshot.uses.iter().filter(|(id, u)| id.split == split && *u == what).count();
    assert_eq!((count(Split::Expert, Use::Trained), count(Split::Expert, Use::Evaluated)), (18, 1));
    assert_eq!((count(Split::Val, Use::Evaluated), count(Split::Val, Use::Trained)), (10, 0));
    assert_eq!(count(Split::Train, Use::Trained), 2 * 4 + 3 * 2 * 3);
    // 18 expert episodes of 4 tokens, 8 of 6 label tokens, 18 of 4 sampled ones.
    assert_eq!(state.tokens.trained, 18 * 4 + 8 * 6 + 18 * 4);
    assert_eq!(state.tokens.masked["policy_reply"], 8 * 4);
    assert!(state.tokens.adds_up());
    assert_eq!(rig.gauge("finished"), 1.0);
    assert_eq!(rig.gauge("ends_used") as usize, rig.ever.len());
    let validation = rig.json("validation.json");
    assert_eq!(validation[0]["version"], 0);
    assert_eq!((validation[1]["version"].as_u64(), validation[1]["success"].as_f64()), (Some(8), Some(1.0)));
    let result = rig.json("result.json");
    assert_eq!((result["gain"]["success"].as_f64(), result["versions"].as_u64()), (Some(1.0), Some(8)));
    let log = std::fs::read_to_string(rig.folder.path().join("learner.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 8);
}

#[test]
fn a_synchronous_learner_grants_what_one_batch_takes() {
    let mut rig = rig(SCHEDULE);
    rig.run(100);
    let grpo: Vec<u64> = rig.grants.iter().filter(|g| g.upto_group > g.dagger_below).map(|g| g.upto_group - g.dagger_below).collect();
    // Every third group of three has equal returns nowhere in this world, so nothing is wasted.
    assert_eq!(grpo.iter().collect::<BTreeSet<_>>().into_iter().copied().collect::<Vec<_>>(), [2, 4, 6]);
    assert!(rig.grants.windows(2).all(|w| w[0].upto_group <= w[1].upto_group && w[0].upto_expert <= w[1].upto_expert));
    assert_eq!(rig.grants.last().unwrap().validate, [0, 8]);
}

#[test]
fn killed_anywhere_each_trajectory_has_one_use() {
    let mut whole = rig(SCHEDULE);
    whole.run(100);
    let points = whole.points();
    let (last, weights) = whole.checkpoint();
    assert!(points > 100, "{points}");
    for kill_at in 1..=points {
        let mut rig = rig(SCHEDULE);
        rig.kill_at = BTreeSet::from([kill_at, kill_at + points / 3]);
        rig.run(100);
        audit(&rig);
        let (snapshot, same) = rig.checkpoint();
        assert_eq!(same.seen, weights.seen, "killed at {kill_at}: the same weights");
        assert_eq!(snapshot.uses, last.uses, "killed at {kill_at}");
    }
}

#[test]
fn with_fewer_checkpoints_versions_still_rise_and_uses_stay_one() {
    let mut whole = rig(SCHEDULE);
    whole.pipeline.learner.checkpoint_every = 3;
    whole.run(100);
    audit(&whole);
    for kill_at in 1..=whole.points() {
        let mut rig = rig(SCHEDULE);
        rig.pipeline.learner.checkpoint_every = 3;
        rig.kill_at = BTreeSet::from([kill_at]);
        rig.run(100);
        audit(&rig);
    }
}

#[test]
fn ends_that_come_again_are_used_once() {
    let mut rig = rig(SCHEDULE);
    for _ in 0..40 {
        rig.turn(100);
        rig.deliver_again();
    }
    rig.run(100);
    audit(&rig);
}

#[test]
fn groups_without_signal_are_wasted_and_made_up_for() {
    let mut rig = rig("[episodes]\nvalidation = 2\n[[schedule]]\nphase = \"grpo\"\nbatches = 4\nbatch = 2\n");
    rig.world.reward = |group, member| if group % 3 == 0 { 5.0 } else { member as f32 };
    rig.world.reason = |id| if id.split == Split::Train && id.number % 30 == 7 { EndReason::EnvError } else { EndReason::Done };
    rig.run(100);
    audit(&rig);
    let (snapshot, _) = rig.checkpoint();
    let count = |what| snapshot.uses.iter().filter(|(id, u)| id.split == Split::Train && *u == what).count();
    assert_eq!(count(Use::Trained), 4 * 2 * 3);
    assert!(count(Use::EqualRewards) >= 9 && count(Use::GroupBroken) >= 3);
    assert_eq!(snapshot.state.batch, 4);
}

#[test]
fn asynchronous_groups_are_never_too_old() {
    for (max_staleness, backwards) in [(1, false), (1, true), (3, true)] {
        let mut rig = rig("[episodes]\nvalidation = 2\n[[schedule]]\nphase = \"grpo\"\nbatches = 9\nbatch = 3\n");
        rig.pipeline.learner.max_staleness = max_staleness;
        rig.world.backwards = backwards;
        rig.run(100);
        audit(&rig);
        let (snapshot, _) = rig.checkpoint();
        assert_eq!(snapshot.uses.iter().filter(|(_, u)| *u == Use::Stale).count(), 0);
        assert_eq!(snapshot.state.batch, 9);
    }
}

#[test]
fn the_clock_ends_a_phase_and_what_is_left_is_unused() {
    let mut rig = rig(
        "[episodes]\nvalidation = 2\n[[schedule]]\nphase = \"imitation\"\nminutes = 0.1\nbatch = 4\nepochs = 2\n[[schedule]]\nphase = \"grpo\"\nminutes = 0.05\nbatch = 2\n",
    );
    rig.run(100);
    let (snapshot, weights) = rig.checkpoint();
    let used: BTreeMap<EpisodeId, Use> = snapshot.uses.iter().collect();
    assert_eq!(used.keys().copied().collect::<BTreeSet<_>>(), rig.ever);
    for (id, what) in &used {
        let times = weights.seen.get(&code(*id)).copied().unwrap_or(0);
        assert_eq!(times > 0, *what == Use::Trained, "{id} {what:?} {times}");
    }
    assert!(used.values().any(|u| *u == Use::Unused));
    let seconds = &snapshot.state.seconds_by_phase;
    assert!((seconds["imitation"] - 6.0).abs() < 0.5 && (seconds["grpo"] - 3.0).abs() < 0.5, "{seconds:?}");
}

#[test]
fn tokens_that_do_not_add_up_stop_the_run() {
    let mut short = rig(SCHEDULE);
    short.maker.short = 1;
    short.run(100);
    let (code, message) = short.exit.clone().unwrap();
    assert_eq!(code, 1);
    assert!(message.contains("trained must be sampled minus masked"), "{message}");
}

#[test]
fn steps_that_are_not_finite_leave_their_mark() {
    let mut rig = rig(SCHEDULE);
    rig.maker.not_finite = true;
    rig.run(100);
    audit(&rig);
    let (snapshot, _) = rig.checkpoint();
    assert_eq!((snapshot.state.step, snapshot.state.tokens.trained), (0, 0));
    assert_eq!(snapshot.uses.iter().filter(|(_, u)| *u == Use::NonFinite).count(), 18 + 8 + 18);
}

#[test]
fn without_the_brokers_files_the_checkpoint_goes_on() {
    let mut rig = rig(SCHEDULE);
    for _ in 0..6 {
        rig.turn(100);
    }
    rig.kill();
    let (before, _) = rig.checkpoint();
    rig.lose_broker();
    rig.ever = before.uses.iter().map(|(id, _)| id).collect();
    let announced = rig.policies.last().unwrap().version;
    rig.turn(100);
    assert!(rig.policies.last().unwrap().version > announced);
    let grant = rig.grant().unwrap().clone();
    assert!(grant.upto_expert >= before.state.upto_expert && grant.upto_group >= before.state.upto_group);
}

#[test]
fn an_idle_learner_checks_and_accounts_and_needs_no_policy() {
    let mut rig = rig("[episodes]\nvalidation = 2\n[[schedule]]\nphase = \"grpo\"\nbatches = 10\nbatch = 4\n");
    rig.pipeline.learner.idle = true;
    rig.run(100);
    let (snapshot, weights) = rig.checkpoint();
    assert_eq!(snapshot.uses.iter().filter(|(_, u)| *u == Use::Unused).count(), 40 * 3);
    assert_eq!((rig.policies.len(), weights.seen.len(), rig.gauge("finished")), (0, 0, 1.0));
    assert_eq!(rig.acks.len(), 120);
}

#[test]
fn draining_keeps_what_is_decided() {
    let mut rig = rig(SCHEDULE);
    for _ in 0..5 {
        rig.turn(100);
    }
    rig.drain();
    assert_eq!(rig.exit.take().map(|(code, _)| code), Some(0));
    rig.run(100);
    audit(&rig);
}

#[test]
fn a_folder_that_cannot_be_written_ends_it_with_one_line() {
    let mut rig = rig(SCHEDULE);
    std::fs::write(rig.folder.path().join("checkpoints"), "a file").unwrap();
    rig.run(100);
    let (code, message) = rig.exit.clone().unwrap();
    assert_eq!(code, 1);
    assert!(message.contains("checkpoints") && !message.contains('\n'), "{message}");
}
