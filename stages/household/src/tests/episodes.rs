//! Episodes that are drawn, refused and frozen.

use super::*;
use crate::{
    chores::Row,
    freeze::{Variant, digest, freeze_first, freeze_variant, label},
    instruct::Wording,
    sample::{LEAST_ROOMS, Request, accept, draw},
    tasks::{Spec, Task},
};

const FILES: [(Task, Tier); 5] = [
    (Task::Fetch, Tier::Near),
    (Task::Fetch, Tier::All),
    (Task::PickUp, Tier::All),
    (Task::ObjectNav, Tier::All),
    (Task::RoomVisit, Tier::All),
];

fn committed(task: Task, tier: Tier) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/episodes");
    std::fs::read_to_string(folder.join(format!("{}.jsonl", label(task, tier)))).unwrap()
}

/// The committed files' first lines are what the program makes today.
#[test]
fn the_committed_episodes_are_reproducible() {
    for (task, tier) in FILES {
        let committed = committed(task, tier);
        let made = freeze_first(task, tier, 200, 3).unwrap();
        assert!(committed.starts_with(&made), "{} differs from what is made now", label(task, tier));
        assert_eq!(committed.lines().count(), 200);
    }
}

/// Short, medium and long as often as in CHORES-S, and on average about as long.
#[test]
fn the_committed_episodes_are_as_long_as_those_of_chores() {
    for (task, tier, shares, mean) in
        [(Task::ObjectNav, Tier::All, [59.0, 36.0, 5.0], 57.0), (Task::Fetch, Tier::All, [4.0, 77.0, 19.0], 111.0)]
    {
        let rows: Vec<Row> = committed(task, tier).lines().map(|line| Row::from_line(line).unwrap()).collect();
        let all = rows.len() as f64;
        for (bucket, share) in ["short", "medium", "long"].into_iter().zip(shares) {
            let count = rows.iter().filter(|row| row.expert_length_bucket == bucket).count() as f64;
            assert!((100.0 * count / all - share).abs() <= 1.5, "{task:?}: {count} {bucket} of {all}");
        }
        let steps = rows.iter().map(|row| f64::from(row.expert_length)).sum::<f64>() / all;
        assert!((steps / mean - 1.0).abs() <= 0.2, "{task:?}: {steps} actions on average");
    }
}

#[test]
fn a_frozen_line_is_a_line_of_chores_and_names_its_house() {
    for (task, tier) in FILES {
        let text = committed(task, tier);
        let line = text.lines().nth(7).unwrap();
        let (frozen, row) = (Frozen::from_line(line).unwrap(), Row::from_line(line).unwrap());
        assert_eq!((row.task().unwrap(), frozen.task().unwrap().task), (task, task));
        let (_, scene) = generate_compiled(HouseSplit::HeldOut, frozen.house_index).unwrap();
        assert_eq!(digest(&scene.to_bytes()), frozen.house_digest);
        let (ours, theirs) = (frozen.task().unwrap(), row.spec().unwrap());
        assert_eq!(
            (&ours.target, &ours.ids, &ours.instruction, ours.start),
            (&theirs.target, &theirs.ids, &theirs.instruction, theirs.start)
        );
        assert_eq!(accept(&Arc::new(Home::new(scene)), &ours), Ok(frozen.expert_length));
    }
}

/// The first house from this number on with at least so many rooms.
fn large(number: u64, rooms: usize) -> Arc<Home> {
    (number..).map(home).find(|home| home.scene.rooms.len() >= rooms).unwrap()
}

#[test]
fn all_tasks_are_drawn_and_solved() {
    for task in Task::ALL {
        let solved = (0..4).filter(|&seed| {
            let home = large(10 * seed, LEAST_ROOMS);
            let Ok(sampled) = draw(&home, &Request::new(task, Tier::All), &mut ChaCha8Rng::seed_from_u64(seed)) else { return false };
            assert_eq!(sampled.task.task, task);
            assert_eq!(accept(&home, &sampled.task), Ok(sampled.expert_length));
            if task == Task::PickUp {
                let episode = Episode::start(home, Arc::new(sampled.task)).unwrap();
                assert!(episode.in_view.iter().any(Option::is_some), "the target is in view");
            }
            true
        });
        assert!(solved.count() >= 3, "{task:?}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let home = home(2);
    let start = (0..20).find_map(|seed| draw(&home, &Request::new(Task::ObjectNav, Tier::All), &mut ChaCha8Rng::seed_from_u64(seed)).ok());
    let good = start.unwrap().task;
    let refused = |spec: Spec| accept(&home, &spec).unwrap_err().to_string();
    let missing = refused(Spec { task: Task::Fetch, ids: vec!["Mug|99|1".into()], ..good.clone() });
    assert!(missing.contains("no object of the house has one of the target ids"), "{missing}");
    let heavy = home.scene.things.iter().find(|thing| thing.blocks).unwrap();
    let heavy = refused(Spec { task: Task::Fetch, ids: vec![heavy.id.clone()], ..good.clone() });
    assert!(heavy.contains("cannot be picked up"), "{heavy}");
    let outside = refused(Spec { start: [-9.0, -9.0], ..good });
    assert!(outside.contains("does not fit at its start"), "{outside}");
}

#[test]
fn a_described_target_is_the_only_one_that_counts() {
    let mut told = 0;
    for seed in 0..8 {
        let home = large(3 * seed, 2);
        let colours: crate::instruct::Colours = &|_| None;
        let request = Request { described: Some(colours), ..Request::new(Task::ObjectNav, Tier::All) };
        let Ok(sampled) = draw(&home, &request, &mut ChaCha8Rng::seed_from_u64(seed)) else { continue };
        if sampled.task.ids == [sampled.chosen.clone()]
            && [" on ", " near ", "closest", "furthest"].iter().any(|word| sampled.task.instruction.contains(word))
        {
            told += 1;
        }
    }
    assert!(told >= 3, "only {told} of 8");
    let home = large(0, 1);
    let request = Request { wording: Wording::Paraphrase, bring: true, ..Request::new(Task::PickUp, Tier::All) };
    if let Ok(sampled) = draw(&home, &request, &mut ChaCha8Rng::seed_from_u64(1)) {
        assert!(sampled.task.bring && sampled.task.instruction.contains(" a"));
    }
}

#[test]
fn variants_ask_for_what_they_say_and_give_the_same_lines_again() {
    let mut made = Vec::new();
    for (task, name) in [(Task::ObjectNav, "described"), (Task::PickUp, "bring"), (Task::PickUp, "paraphrased")] {
        let (tier, variant) = Variant::named(name).unwrap();
        let text = freeze_variant(task, tier, variant, 2).unwrap();
        for line in text.lines() {
            let frozen = Frozen::from_line(line).unwrap();
            let spec = frozen.task().unwrap();
            assert_eq!((spec.task, spec.bring), (task, variant == Variant::Bring));
            let (_, scene) = generate_compiled(HouseSplit::HeldOut, frozen.house_index).unwrap();
            let alike = scene.things.iter().filter(|thing| thing.kind == spec.target).count();
            match variant {
                Variant::Described => assert!(spec.ids.len() == 1 && alike > 1, "{line}"),
                Variant::Bring => assert!(spec.instruction.contains("bring it back"), "{line}"),
                _ => assert!(spec.instruction.contains("there should be"), "{line}"),
            }
            assert_eq!(accept(&Arc::new(Home::new(scene)), &spec), Ok(frozen.expert_length));
        }
        made.push(text);
    }
    assert_eq!(freeze_variant(Task::PickUp, Tier::All, Variant::Bring, 2).unwrap(), made[1]);
    let refused = |task, variant| freeze_variant(task, Tier::All, variant, 1).unwrap_err().to_string();
    assert!(refused(Task::RoomVisit, Variant::Described).contains("room_visit"));
    assert!(refused(Task::ObjectNav, Variant::Bring).contains("only fetch and pick_up"));
}
