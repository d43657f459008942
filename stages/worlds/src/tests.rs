//! Properties of the worlds over many seeds, and their texts and rewards by VAGEN's numbers.

use crate::grid::{Dice, Extent, canonical_hash};
use crate::{Houses, Kind, Plan, Task, World, kind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn made(name: &str, settings: &str) -> Arc<dyn Kind> {
    kind(name, false, &settings.parse().unwrap(), Houses::default()).unwrap()
}

fn seeing(name: &str) -> Arc<dyn Kind> {
    kind(name, true, &toml::Table::new(), Houses::default()).unwrap()
}

fn refused(name: &str, settings: &str) -> String {
    kind(name, false, &settings.parse().unwrap(), Houses::default()).err().unwrap()
}

fn lake(rows: &[&str]) -> Task {
    Task { seed: 1, json: serde_json::json!({ "map": rows }).to_string(), ..Task::default() }
}

fn room(rows: &[&str]) -> Task {
    Task { seed: 1, json: serde_json::json!({ "room": rows }).to_string(), ..Task::default() }
}

/// A task's level without the player, read without the world's own code.
fn ground(task: &Task) -> (Extent, Vec<u8>) {
    let json: BTreeMap<String, Vec<String>> = serde_json::from_str(&task.json).unwrap();
    let rows = json.into_values().next().unwrap();
    let extent = Extent { width: rows[0].chars().count(), height: rows.len() };
    let byte = |symbol: char| match symbol {
        'S' if task.json.contains("map") => b'F',
        'S' => b'O',
        'P' => b'_',
        '√' => b'V',
        other => other as u8,
    };
    (extent, rows.iter().flat_map(|row| row.chars()).map(byte).collect())
}

fn random_steps(kind: &dyn Kind, world: &mut dyn World, dice: &mut Dice, most: usize) -> bool {
    for _ in 0..dice.below(most + 1) {
        if world.act(kind.actions()[dice.below(4)].name).unwrap().over {
            return true;
        }
    }
    false
}

/// Follows the expert, some actions a turn, to the end; gives the actions taken and the last plan's state of knowledge.
fn follow(world: &mut dyn World, a_turn: usize, bound: usize) -> (usize, f32) {
    let (mut taken, mut reward) = (0, 0.0);
    while taken <= bound {
        let plan = world.expert(a_turn);
        assert!(!plan.actions.is_empty() && plan.actions.len() <= a_turn);
        for action in plan.actions {
            let acted = world.act(&action).unwrap();
            assert!(acted.worked, "{action} of the expert had no effect");
            taken += 1;
            reward += acted.reward;
            if acted.over {
                return (taken, reward);
            }
        }
    }
    panic!("the expert took more than {bound} actions");
}

#[test]
fn the_expert_solves_every_level_in_its_length_and_a_group_shares_it() {
    for name in ["frozenlake", "sokoban"] {
        let (kind, other) = (made(name, ""), made(name, ""));
        for seed in 0..500 {
            let task = kind.sample(seed, None).unwrap();
            assert_eq!(task, other.sample(seed, None).unwrap());
            assert_eq!(task.seed, seed);
            let (mut world, mut twin) = (kind.start(&task, None).unwrap(), other.start(&task, None).unwrap());
            assert_eq!(world.observe(), twin.observe());
            let (taken, reward) = follow(world.as_mut(), 3, 100);
            assert_eq!(taken, task.expert_length as usize);
            assert_eq!(follow(twin.as_mut(), 1, 100), (taken, reward));
            assert_eq!((world.state_key(), world.observe()), (twin.state_key(), twin.observe()));
            let standing = world.standing();
            assert!(standing.success && standing.lenient && standing.progress == 1.0);
            assert_eq!(world.expert(3), Plan::default());
            assert!(world.act(kind.actions()[0].name).is_err());
            let bounds = kind.reward_bounds(100);
            assert!(reward >= bounds.worst_success && bounds.worst_success > bounds.best_failure);
        }
    }
}

#[test]
fn the_expert_goes_on_from_any_state() {
    for (name, settings) in [("frozenlake", "size = 6"), ("sokoban", "boxes = 2\nsolution_max = 12\nwidth = 7")] {
        let kind = made(name, settings);
        let mut dice = Dice::new("test", &[]);
        let (mut ended, mut solved, mut dead) = (0, 0, 0);
        for seed in 0..150 {
            let task = kind.sample(seed, None).unwrap();
            let mut world = kind.start(&task, None).unwrap();
            if random_steps(kind.as_ref(), world.as_mut(), &mut dice, 20) {
                ended += 1;
                continue;
            }
            let before = world.state_key();
            let plan = world.expert(5);
            assert_eq!(before, world.state_key(), "asking changes nothing");
            if plan.reasoning.starts_with("No move") {
                assert_eq!(plan.actions.len(), 1);
                world.act(&plan.actions[0]).unwrap();
                assert!(world.expert(5).reasoning.starts_with("No move"));
                dead += 1;
            } else {
                follow(world.as_mut(), 5, 80);
                assert!(world.standing().success);
                solved += 1;
            }
        }
        assert!(solved > 20, "{name}: {ended} ended, {solved} solved, {dead} dead");
    }
}

#[test]
fn what_the_expert_foresees_comes_true() {
    for name in ["frozenlake", "sokoban"] {
        let kind = made(name, "");
        for seed in 0..200 {
            let mut world = kind.start(&kind.sample(seed, None).unwrap(), None).unwrap();
            let plan = world.expert(1 + seed as usize % 3);
            for action in &plan.actions {
                world.act(action).unwrap();
            }
            if world.standing().success {
                assert!(plan.prediction.contains("on the goal") || plan.prediction.contains("on the target"), "{}", plan.prediction);
                continue;
            }
            let seen = world.expert(1).observation;
            let foreseen = plan.prediction.trim_start_matches("The player will be at ").split(", ").take(2).collect::<Vec<_>>().join(", ");
            assert!(seen.starts_with(&format!("The player is at {foreseen}.")), "{} then {seen}", plan.prediction);
            if let Some((_, place)) = plan.prediction.split_once("the box at ") {
                assert!(seen.contains(&format!("A box is at {},", place.trim_end_matches('.'))), "{} then {seen}", plan.prediction);
            }
        }
    }
}

#[test]
fn held_out_levels_share_no_ground_with_training_and_half_are_long() {
    for (name, settings) in [("frozenlake", ""), ("sokoban", "")] {
        let kind = made(name, settings);
        let hash = |task: &Task| {
            let (extent, ground) = ground(task);
            canonical_hash(extent, &ground)
        };
        let train: BTreeSet<u64> = (0..5_000).map(|seed| hash(&kind.sample(seed, None).unwrap())).collect();
        let held_out: Vec<Task> = (0..1_000).map(|number| kind.held_out(number).unwrap()).collect();
        assert!(held_out.iter().all(|task| !train.contains(&hash(task))));
        let long = held_out.iter().filter(|task| task.expert_length >= 4).count();
        assert!(long >= 500, "{name}: {long} of 1000 need four moves or more");
        let distinct: BTreeSet<&String> = held_out.iter().map(|task| &task.json).collect();
        assert!(distinct.len() > 800, "{name}: {} distinct held-out levels", distinct.len());
    }
}

#[test]
fn a_turned_or_mirrored_ground_has_the_same_hash() {
    let extent = Extent { width: 3, height: 2 };
    let ground = b"ABCDEF";
    let turned = [
        (extent, b"CBAFED"),
        (extent, b"DEFABC"),
        (extent, b"FEDCBA"),
        (Extent { width: 2, height: 3 }, b"DAEBFC"),
        (Extent { width: 2, height: 3 }, b"ADBECF"),
    ];
    for (extent, turned) in turned {
        assert_eq!(canonical_hash(Extent { width: 3, height: 2 }, ground), canonical_hash(extent, turned));
    }
    assert_ne!(canonical_hash(extent, ground), canonical_hash(extent, b"BACDEF"));
}

#[test]
fn buckets_hold_what_they_say() {
    for (name, settings, expected) in [
        ("frozenlake", "", vec!["1-3", "4-6", "7+"]),
        ("frozenlake", "size = 2", vec!["1-3"]),
        ("frozenlake", "size = 3", vec!["1-3", "4-6"]),
        ("sokoban", "", vec!["1-3", "4-6"]),
        ("sokoban", "solution_min = 5\nsolution_max = 9", vec!["4-6", "7+"]),
    ] {
        let kind = made(name, settings);
        assert_eq!(kind.buckets(), expected);
        for bucket in kind.buckets() {
            for seed in 0..100 {
                let task = kind.sample(seed, Some(&bucket)).unwrap();
                assert_eq!(task.bucket, bucket);
                let length = task.expert_length;
                assert!(match bucket.as_str() {
                    "1-3" => (1..=3).contains(&length),
                    "4-6" => (4..=6).contains(&length),
                    _ => length >= 7,
                });
            }
        }
        assert!(kind.sample(0, Some("8-9")).unwrap_err().contains("allowed are"));
    }
}

#[test]
fn frozenlake_text_and_rewards_are_vagens() {
    let kind = made("frozenlake", "");
    let names: Vec<_> = kind.actions().iter().map(|action| action.name).collect();
    assert_eq!(names, ["Left", "Down", "Right", "Up"]);
    let task = lake(&["SFFF", "FHFH", "FFFH", "HFFG"]);
    let mut world = kind.start(&task, None).unwrap();
    assert_eq!(world.observe(), " P \t _ \t _ \t _ \t\n _ \t O \t _ \t O \t\n _ \t _ \t _ \t O \t\n O \t _ \t _ \t G \t");
    let edge = world.act("Left").unwrap();
    assert_eq!((edge.worked, edge.reward, edge.over), (false, 0.0, false));
    for action in ["Down", "Down", "Right", "Right", "Down"] {
        let acted = world.act(action).unwrap();
        assert_eq!((acted.worked, acted.reward, acted.over), (true, 0.0, false));
    }
    let won = world.act("Right").unwrap();
    assert_eq!((won.worked, won.reward, won.over), (true, 10.0, true));
    assert!(world.observe().ends_with(" O \t _ \t _ \t √ \t"));
    assert_eq!(world.standing().milestones, ["moved", "closer", "half_way", "goal"]);

    let mut world = kind.start(&task, None).unwrap();
    world.act("Right").unwrap();
    let fallen = world.act("Down").unwrap();
    assert_eq!((fallen.worked, fallen.reward, fallen.over), (true, 0.0, true));
    assert!(world.observe().contains("\n _ \t X \t _ \t O \t\n"));
    let standing = world.standing();
    assert!(!standing.success && standing.progress < 1.0);
    assert!(world.act("left").unwrap_err().contains("after the episode's end"));
}

#[test]
fn sokoban_text_and_rewards_are_vagens() {
    let kind = made("sokoban", "");
    let names: Vec<_> = kind.actions().iter().map(|action| action.name).collect();
    assert_eq!(names, ["Up", "Down", "Left", "Right"]);
    let task = room(&["######", "#____#", "#PX_O#", "#____#", "######", "######"]);
    let mut world = kind.start(&task, None).unwrap();
    assert!(
        world.observe().starts_with(" # \t # \t # \t # \t # \t # \t\n # \t _ \t _ \t _ \t _ \t # \t\n # \t P \t X \t _ \t O \t # \t\n")
    );
    assert_eq!(world.act("Left").unwrap().reward, -0.1);
    assert_eq!(world.act("Right").unwrap().reward, -0.1);
    let solved = world.act("Right").unwrap();
    assert!((solved.reward - 10.9).abs() < 1e-6 && solved.over && solved.worked);
    assert!(world.observe().contains(" # \t _ \t _ \t P \t √ \t # \t"));
    assert_eq!(world.standing().milestones, ["moved", "pushed", "closer", "half_way", "on_target", "solved"]);

    let two = made("sokoban", "boxes = 2");
    let mut world = two.start(&room(&["#######", "#_____#", "#P√_XO#", "#_____#", "#######"]), None).unwrap();
    let off = world.act("Right").unwrap();
    assert!((off.reward + 1.1).abs() < 1e-6 && !off.over);
    assert!(world.observe().contains(" S \t X \t X \t O \t"));
    let blocked = world.act("Right").unwrap();
    assert!(!blocked.worked && blocked.reward == -0.1);
}

#[test]
fn a_dead_end_gets_a_harmless_move() {
    let kind = made("sokoban", "");
    let mut world = kind.start(&room(&["######", "#____#", "#_XP_#", "#__O_#", "#____#", "######"]), None).unwrap();
    world.act("Left").unwrap();
    let plan = world.expert(3);
    assert_eq!(plan.actions.len(), 1);
    assert!(plan.reasoning.starts_with("No move can bring"));
    let before = world.expert(1).observation;
    assert!(before.contains("A box is at row 3, column 2"), "{before}");
    assert!(world.act(&plan.actions[0]).unwrap().worked);
    assert!(world.standing().progress < 1.0 && !world.standing().success);
}

#[test]
fn the_relative_view_tells_the_way_from_the_player() {
    let room = room(&["######", "#__#_#", "#PX_O#", "#____#", "######", "######"]);
    let world = made("sokoban", "view = 'relative'").start(&room, None).unwrap();
    let seen = world.observe();
    let words: Vec<&str> = seen.split(' ').collect();
    assert_eq!(words[..4], ["new", "Pc2", "Xr1", "Or3"], "{seen}");
    assert!(words.contains(&"#u1r2"), "{seen}");
}

#[test]
fn one_line_views_are_short_words() {
    let task = lake(&["SFFF", "FHFH", "FFFH", "HFFG"]);
    let mut compact = made("frozenlake", "view = 'compact'").start(&task, None).unwrap();
    assert_eq!(compact.observe(), "new P _ _ _ / _ O _ O / _ _ _ O / O _ _ G");
    compact.act("Up").unwrap();
    assert!(compact.observe().starts_with("stuck P _"));
    let mut cells = made("frozenlake", "view = 'cells'").start(&task, None).unwrap();
    assert_eq!(cells.observe(), "new Pa1 Gd4 Ob2 Ob4 Oc4 Od1");
    cells.act("Right").unwrap();
    assert_eq!(cells.observe(), "ok Pa2 Gd4 Ob2 Ob4 Oc4 Od1");
    let sokoban =
        made("sokoban", "view = 'cells'").start(&room(&["######", "#__#_#", "#PX_O#", "#____#", "######", "######"]), None).unwrap();
    assert_eq!(sokoban.observe(), "new Pc2 Xc3 Oc5 #b4 #e2 #e3 #e4 #e5");
    for (name, view) in [
        ("frozenlake", "compact"),
        ("frozenlake", "cells"),
        ("sokoban", "compact"),
        ("sokoban", "cells"),
        ("frozenlake", "relative"),
        ("sokoban", "relative"),
    ] {
        let kind = made(name, &format!("view = '{view}'"));
        for seed in 0..300 {
            let world = kind.start(&kind.sample(seed, None).unwrap(), None).unwrap();
            assert!(world.observe().split_whitespace().count() < 48);
        }
    }
}

#[test]
fn equal_states_have_equal_pictures_and_others_do_not() {
    for (name, size) in [("frozenlake", 256), ("sokoban", 96)] {
        let (kind, words) = (seeing(name), made(name, "view = 'cells'"));
        let mut by_text = BTreeMap::new();
        let mut pictures = BTreeSet::new();
        for seed in 0..40 {
            let task = kind.sample(seed, None).unwrap();
            let (mut world, mut told) = (kind.start(&task, None).unwrap(), words.start(&task, None).unwrap());
            let mut dice = Dice::new("pictures", &[seed]);
            for _ in 0..6 {
                let picture = world.pictures().pop().unwrap();
                assert_eq!((picture.width, picture.height, picture.rgb.len()), (size, size, (size * size * 3) as usize));
                assert_eq!(world.observe(), "<image>");
                assert!(told.pictures().is_empty());
                let cells = told.observe().split_once(' ').unwrap().1.to_string();
                let hash = crate::grid::hash(&picture.rgb);
                pictures.insert(hash);
                assert_eq!(*by_text.entry(cells).or_insert(hash), hash);
                let action = kind.actions()[dice.below(4)].name;
                told.act(action).unwrap();
                if world.act(action).unwrap().over {
                    break;
                }
            }
        }
        assert_eq!(by_text.len(), pictures.len());
        assert!(pictures.len() > 20);
    }
}

#[test]
fn slippery_ice_drifts_by_seed_and_step_a_third_each() {
    let kind = made("frozenlake", "slippery = true\nsize = 4\nfrozen_probability = 1.0");
    assert!(kind.rules().contains("is slippery"));
    assert!(!made("frozenlake", "").rules().contains("is slippery"));
    let mut counts = BTreeMap::<String, u32>::new();
    for seed in 0..3_000 {
        let task = Task { seed, ..lake(&["FFFF", "FSFF", "FFFF", "FFFG"]) };
        let (mut world, mut twin) = (kind.start(&task, None).unwrap(), kind.start(&task, None).unwrap());
        world.act("Right").unwrap();
        twin.act("Right").unwrap();
        assert_eq!(world.state_key(), twin.state_key());
        let seen = world.expert(1).observation;
        *counts.entry(seen.split('.').next().unwrap().to_string()).or_default() += 1;
    }
    assert_eq!(counts.len(), 3);
    assert!(counts.values().all(|count| (900..1_100).contains(count)), "{counts:?}");
}

#[test]
fn the_expert_on_slippery_ice_keeps_off_the_hole() {
    let kind = made("frozenlake", "slippery = true");
    // Beside a hole, the move away from it is the only one that cannot drift into it.
    let mut world = kind.start(&lake(&["FFFF", "HSFF", "FFFF", "FFFG"]), None).unwrap();
    assert_eq!(world.expert(3).actions, ["Right"]);
    let mut won = 0;
    for seed in 0..200 {
        let mut world = kind.start(&Task { seed, ..lake(&["SFFF", "FHFF", "FFFF", "FFFG"]) }, None).unwrap();
        for _ in 0..200 {
            let plan = world.expert(1);
            if world.act(&plan.actions[0]).unwrap().over {
                break;
            }
        }
        won += u32::from(world.standing().success);
    }
    assert!(won > 150, "{won} of 200");
}

#[test]
fn memory_keeps_the_newest() {
    let kind = made("frozenlake", "");
    let mut world = kind.start(&lake(&["SFFF", "FFFF", "FFFF", "FFFG"]), None).unwrap();
    assert_eq!(world.memory(100), "");
    for action in ["Right", "Right", "Up", "Down"] {
        world.act(action).unwrap();
    }
    assert_eq!(world.memory(100), "Right 2, Up failed, Down");
    assert_eq!(world.memory(20), "..., Up failed, Down");
    assert_eq!(world.memory(10), "..., Down");
    assert_eq!(world.memory(3), "");
    for max in 0..40 {
        assert!(world.memory(max).len() <= max);
    }
}

#[test]
fn the_corpus_has_every_word_about_equally_often() {
    for (name, words) in [("frozenlake", 80), ("sokoban", 96)] {
        let kind = made(name, "view = 'cells'");
        let mut counts = BTreeMap::<String, usize>::new();
        for line in kind.corpus(4_000) {
            for word in line.split_whitespace().filter(|word| word.len() == 3 && word.as_bytes()[2].is_ascii_digit()) {
                *counts.entry(word.into()).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), words, "{counts:?}");
        assert!(counts.values().all(|count| *count >= 30), "{counts:?}");
    }
}

#[test]
fn bad_settings_and_tasks_are_named() {
    assert!(refused("frozenlake", "sise = 4").contains("unknown field `sise`"));
    assert_eq!(refused("frozenlake", "size = 40"), "world.settings.size is 40: allowed is 2 to 10");
    assert!(refused("frozenlake", "frozen_probability = 0.1").contains("0.5 to 1"));
    assert!(refused("sokoban", "solution_min = 6").contains("world.settings.solution_min is 6: allowed is 1 to 5"));
    assert!(refused("delay", "step_ms = -1").contains("step_ms is -1"));
    assert!(refused("lake", "").contains("allowed are `frozenlake`"));
    let (ice, boxes) = (made("frozenlake", ""), made("sokoban", ""));
    for task in [lake(&["SF", "HH"]), lake(&["SH", "HG"]), lake(&["SFF", "FG"]), lake(&["SF", "xG"]), lake(&["SG", "SF"]), Task::default()]
    {
        assert!(ice.start(&task, None).err().unwrap().starts_with("frozenlake task: "));
    }
    let bad: [&[&str]; 5] = [
        &["#####", "#PX_#", "#__O#", "#___#", "####_"],
        &["#####", "#PX_#", "#___#", "#___#", "#####"],
        &["#####", "#XP_#", "#__O#", "#___#", "#####"],
        &["#####", "#_X_#", "#__O#", "#___#", "#####"],
        &["###"],
    ];
    for rows in bad {
        assert!(boxes.start(&room(rows), None).err().unwrap().starts_with("sokoban task: "), "{rows:?}");
    }
    assert!(ice.start(&lake(&["SF", "FG"]), None).unwrap().act("Jump").unwrap_err().contains("allowed are `Left`"));
}

#[test]
fn the_slow_world_is_frozenlake() {
    let (slow, lake) = (made("delay", "step_ms = 1\nsize = 5"), made("frozenlake", "size = 5"));
    assert_eq!(slow.name(), "delay");
    let task = slow.sample(3, None).unwrap();
    assert_eq!(task, lake.sample(3, None).unwrap());
    let mut world = slow.start(&task, None).unwrap();
    assert_eq!(follow(world.as_mut(), 3, 60).0, task.expert_length as usize);
}
