//! Each check passes on a record that holds together, and fails on the one breach that it is there for.

use super::super::facts::{BatchLine, Ends};
use super::*;
use schemas::{EndReason, Message, PolicyPublished, Uses, UsesFile};

fn id(split: Split, number: u64) -> EpisodeId {
    EpisodeId { split, number }
}

fn row(split: Split, number: u64, group: u64, member: u32, mode: Mode) -> Summary {
    Summary {
        id: id(split, number),
        group,
        member,
        group_size: if mode == Mode::Policy && split == Split::Train { 2 } else { 1 },
        world: "frozenlake".into(),
        seed: 100 + group,
        mode,
        house: None,
        level: String::new(),
        bucket: "short".into(),
        expert_length: 4,
        validates: if split == Split::Val { 1 } else { 0 },
        attempt: 0,
        reason: EndReason::Done,
        note: String::new(),
        success: true,
        lenient: true,
        total_reward: member as f32,
        rewards: vec![],
        progress: 1.0,
        milestones: vec![],
        steps: 3,
        turns: 2,
        versions: (mode == Mode::Policy).then_some((1, 1)),
        policy_tokens: if mode == Mode::Policy { 6 } else { 0 },
        expert_tokens: if mode == Mode::Expert { 8 } else { 0 },
        label_tokens: 0,
        started_us: 1,
        ended_us: 2,
    }
}

fn policy(version: u64, epoch: u64) -> PolicyPublished {
    PolicyPublished { version, epoch, ..PolicyPublished::example() }
}

/// Three groups of two (trained, equal, broken), one validation and two expert episodes; two batches.
fn sound() -> Facts {
    let mut rows: Vec<Summary> = (0..6).map(|n| row(Split::Train, n, n / 2, (n % 2) as u32, Mode::Policy)).collect();
    rows[3].total_reward = rows[2].total_reward;
    rows[5].reason = EndReason::EnvError;
    rows.push(row(Split::Val, 0, 0, 0, Mode::Policy));
    rows.extend((0..2).map(|n| row(Split::Expert, n, n, 0, Mode::Expert)));
    let mut uses = Uses::default();
    let all = [Use::Trained, Use::Trained, Use::EqualRewards, Use::EqualRewards, Use::GroupBroken, Use::GroupBroken];
    for (number, used) in (0..).zip(all) {
        uses.set(id(Split::Train, number), used).unwrap();
    }
    let mut before = Uses::default();
    before.set(id(Split::Expert, 0), Use::Trained).unwrap();
    uses.set(id(Split::Val, 0), Use::Evaluated).unwrap();
    uses.set(id(Split::Expert, 0), Use::Trained).unwrap();
    uses.set(id(Split::Expert, 1), Use::Evaluated).unwrap();
    let line = |batch, sampled, masked| BatchLine { batch, sampled, trained: sampled - masked, masked };
    Facts {
        pictures: Default::default(),
        finished: true,
        turns: rows.iter().map(|row| (row.id, 2)).collect(),
        rows,
        uses: Some(UsesFile { version: 2, batch: 2, step: 3, trained_tokens: 20, uses }),
        uses_before: Some(UsesFile { version: 1, batch: 1, step: 1, trained_tokens: 8, uses: before }),
        // The second batch was trained twice: its later line counts.
        log: vec![line(1, 8, 0), line(2, 99, 1), line(2, 15, 3)],
        policies: vec![policy(0, 1), policy(1, 1), policy(2, 2)],
        published: Some(BTreeMap::from([(Split::Train, 6), (Split::Val, 1), (Split::Expert, 2)])),
        start: schemas::Start::default(),
        ends: Some(Ends { stored: 9, unrecorded: 0 }),
    }
}

/// The names of the checks that fail, and what they say.
fn failures(facts: &Facts) -> Vec<(&'static str, String)> {
    all(facts).into_iter().filter_map(|check| Some((check.name, check.outcome.err()?))).collect()
}

/// Exactly this check fails, and says this.
fn fails(name: &str, says: &str, breach: impl FnOnce(&mut Facts)) {
    let mut facts = sound();
    breach(&mut facts);
    let found = failures(&facts);
    let (only, text) = found.first().expect("a check fails");
    assert_eq!((found.len(), *only), (1, name), "{found:?}");
    assert!(text.contains(says), "{text}");
}

fn set_use(facts: &mut Facts, changed: EpisodeId, used: Option<Use>) {
    let file = facts.uses.as_mut().unwrap();
    let old = std::mem::take(&mut file.uses);
    for (id, before) in old.iter().filter(|(id, _)| *id != changed) {
        file.uses.set(id, before).unwrap();
    }
    if let Some(used) = used {
        file.uses.set(changed, used).unwrap();
    }
}

#[test]
fn a_sound_record_passes_every_check() {
    assert_eq!(failures(&sound()), vec![]);
    assert_eq!(all(&sound()).len(), 10);
    let nothing = Facts::default();
    assert_eq!(failures(&nothing), vec![], "a run that has not begun is no breach");
}

#[test]
fn an_episode_with_two_ends() {
    fails("each episode has one end", "train.2", |facts| {
        let twice = facts.rows[2].clone();
        facts.rows.push(twice);
        // The table of turns has the rows of both, which the two trajectories claim.
        facts.ends = None;
        facts.rows.last_mut().unwrap().turns = 0;
    });
}

#[test]
fn a_gap_and_a_number_from_nowhere() {
    fails("episode numbers are dense", "episodes without an end: 1 (expert.2)", |facts| {
        facts.published.as_mut().unwrap().insert(Split::Expert, 3);
    });
    fails("episode numbers are dense", "never published: 1 (val.0)", |facts| {
        facts.published.as_mut().unwrap().insert(Split::Val, 0);
    });
    let mut going_on = sound();
    going_on.finished = false;
    going_on.published.as_mut().unwrap().insert(Split::Train, 60);
    assert_eq!(failures(&going_on), vec![], "the run goes on");
}

#[test]
fn an_end_that_waits() {
    fails("every end is recorded", "no recorder has committed", |facts| facts.ends = Some(Ends { stored: 10, unrecorded: 1 }));
    let mut repeated = sound();
    repeated.ends = Some(Ends { stored: 10, unrecorded: 0 });
    assert_eq!(failures(&repeated), vec![], "an end that was stored twice is dropped by the sinks");
    let mut going_on = sound();
    going_on.finished = false;
    going_on.ends = Some(Ends { stored: 10, unrecorded: 1 });
    assert_eq!(failures(&going_on), vec![]);
    let mut anew = sound();
    anew.ends = Some(Ends { stored: 2, unrecorded: 0 });
    assert_eq!(failures(&anew), vec![], "a stream that was made anew has seen fewer");
}

#[test]
fn turn_rows_that_do_not_agree() {
    fails("the two tables agree", "train.0: 1 for 2", |facts| {
        facts.turns.insert(id(Split::Train, 0), 1);
    });
    fails("the two tables agree", "no trajectory: 1 (val.9)", |facts| {
        facts.turns.insert(id(Split::Val, 9), 1);
    });
}

#[test]
fn a_trajectory_without_a_use_and_a_use_without_a_trajectory() {
    fails("each trajectory has one use", "without a use: 1 (expert.1)", |facts| set_use(facts, id(Split::Expert, 1), None));
    fails("each trajectory has one use", "uses without a trajectory: 1 (val.5)", |facts| {
        set_use(facts, id(Split::Val, 5), Some(Use::Evaluated))
    });
    fails("each trajectory has one use", "none is there", |facts| {
        facts.uses = None;
        facts.uses_before = None;
    });
    let mut going_on = sound();
    going_on.finished = false;
    set_use(&mut going_on, id(Split::Expert, 1), None);
    assert_eq!(failures(&going_on), vec![]);
}

#[test]
fn uses_that_do_not_fit_their_ends() {
    let name = "uses agree with the ends";
    fails(name, "trained, but ended as `cancelled`: 2", |facts| {
        facts.rows[0].reason = EndReason::Cancelled;
        facts.rows[1].reason = EndReason::Cancelled;
    });
    fails(name, "held-out episodes that were trained: 1 (val.0)", |facts| {
        set_use(facts, id(Split::Val, 0), Some(Use::Trained));
        facts.rows[6].policy_tokens = 0;
    });
    fails(name, "only evaluated", |facts| set_use(facts, id(Split::Train, 4), Some(Use::Evaluated)));
    fails(name, "`equal_rewards` in a group whose returns differ: 2", |facts| facts.rows[3].total_reward += 0.5);
    fails(name, "`group_broken` in a group that was played in full: 2", |facts| facts.rows[5].reason = EndReason::OutOfSteps);
    fails(name, "`stale` outside training", |facts| set_use(facts, id(Split::Expert, 1), Some(Use::Stale)));
}

#[test]
fn a_group_trained_in_part() {
    let name = "trained groups are whole";
    fails(name, "group 0: 1 of 2", |facts| {
        set_use(facts, id(Split::Train, 1), Some(Use::Stale));
        facts.rows[0].policy_tokens = 12;
    });
    fails(name, "do not share world and seed: 1 (group 0)", |facts| facts.rows[1].seed += 1);
    fails(name, "without all their members: 1 (group 0: 2 of 4)", |facts| facts.rows[..2].iter_mut().for_each(|row| row.group_size = 4));
    fails(name, "without all their members", |facts| facts.rows[1].member = 0);
    // Labels are learned one by one: there is nothing to be whole.
    let mut labelled = sound();
    for row in &mut labelled.rows[..2] {
        (row.mode, row.group_size, row.label_tokens) = (Mode::Dagger, 1, row.policy_tokens);
    }
    set_use(&mut labelled, id(Split::Train, 1), Some(Use::Unused));
    labelled.rows[0].label_tokens = 12;
    assert_eq!(failures(&labelled), vec![]);
}

#[test]
fn versions_that_go_back() {
    let name = "versions rise";
    fails(name, "do not rise: 1 (1 after 1)", |facts| facts.policies.insert(1, policy(1, 1)));
    fails(name, "lost its lease", |facts| facts.policies[0].epoch = 2);
    fails(name, "checkpoints that go back", |facts| facts.uses_before.as_mut().unwrap().step = 4);
    fails(name, "forget or change a use", |facts| {
        facts.uses_before.as_mut().unwrap().uses.set(id(Split::Train, 0), Use::Stale).unwrap();
    });
    fails(name, "published 5, in the checkpoint 2", |facts| facts.policies.push(policy(5, 2)));
}

#[test]
fn tokens_of_a_version_from_nowhere() {
    let name = "trajectories name their versions";
    fails(name, "train.0: 1 to 7", |facts| facts.rows[0].versions = Some((1, 7)));
    fails(name, "train.0: 2 to 1", |facts| facts.rows[0].versions = Some((2, 1)));
    fails(name, "val.0: 0 to 1 for 1", |facts| facts.rows[6].versions = Some((0, 1)));
    let mut anew = sound();
    anew.policies.drain(..2);
    assert_eq!(failures(&anew), vec![], "a stream that was made anew does not have the first versions");
}

#[test]
fn tokens_that_do_not_add_up() {
    let name = "trained tokens add up";
    fails(name, "of trained rows and of the checkpoint differ: 1 (21 and 20)", |facts| facts.rows[0].policy_tokens += 1);
    fails(name, "not the sampled less the masked: 1 (2)", |facts| facts.log[2].masked = 2);
    fails(name, "of the log and of the checkpoint differ: 1 (21 and 20)", |facts| {
        (facts.log[2].sampled, facts.log[2].trained) = (16, 13);
    });
    let mut cut = sound();
    cut.log.remove(0);
    assert_eq!(failures(&cut), vec![], "a line that a crash cut off is said, not held against the run");
}

#[test]
fn a_failed_check_says_how_many_and_names_a_few() {
    let mut breaches = Breaches::default();
    (0..7).for_each(|n| breaches.add("things", n));
    breaches.add("others", "x");
    let check = breaches.into_check("name", String::new());
    assert_eq!(check.outcome, Err("others: 1 (x); things: 7 (0, 1, 2, …)".to_string()));
    let report = super::super::AuditReport { checks: vec![check] };
    assert!(!report.is_clean());
    assert_eq!(report.lines()[0], format!("FAIL  {:<32} others: 1 (x); things: 7 (0, 1, 2, …)", "name"));
}

#[test]
fn what_the_broker_lost_is_told_and_is_no_breach() {
    let mut facts = sound();
    let gone = facts.rows.iter().position(|row| row.id.split == Split::Expert).expect("expert rows");
    let row = facts.rows.remove(gone);
    facts.turns.remove(&row.id);
    assert!(all(&facts).iter().any(|check| check.outcome.is_err()), "an end is missing");
    facts.start = schemas::Start { expert: row.id.number + 1, ..schemas::Start::default() };
    let told = all(&facts);
    let broken: Vec<_> = told.iter().filter(|check| check.outcome.is_err()).collect();
    assert!(broken.is_empty(), "{broken:?}");
    assert!(told.iter().any(|check| check.outcome.as_ref().is_ok_and(|found| found.contains("1 numbers given up"))));
}
