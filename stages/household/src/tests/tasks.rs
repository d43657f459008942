//! The four errands: what counts as success, what is refused, what is paid, and that the expert does them.

use super::*;
use crate::{
    expert::{Expert, Slips},
    tasks::{GOAL, Metrics, Preset, Rewards, Spec, Task, WAY, arm_only_start, features, reverse_start},
    trials,
};

fn drawn(task: Task, number: u64) -> (Arc<Home>, Spec) {
    (number..number + 8)
        .find_map(|number| {
            let home = home(number);
            let spec = trials::draw(&home, task, &mut ChaCha8Rng::seed_from_u64(number)).ok()?;
            Some((home, spec))
        })
        .unwrap()
}

fn begun(task: Task, number: u64) -> Episode {
    let (home, spec) = drawn(task, number);
    Episode::start(home, Arc::new(spec)).unwrap()
}

/// Plays the expert to the end, and pays.
fn play(episode: &mut Episode, rewards: &mut Rewards) -> f64 {
    let mut expert = Expert::default();
    let mut paid = 0.0;
    while !episode.over {
        let actions = expert.next(episode, REPLY_ACTIONS);
        assert!(!actions.is_empty(), "no plan after {} steps of {:?}", episode.steps, episode.task);
        for action in actions {
            episode.act(action);
            paid += rewards.pay(episode);
        }
    }
    paid
}

#[test]
fn names_limits_and_targets_are_those_of_the_benchmark() {
    let names = Task::ALL.map(Task::file_name);
    assert_eq!(names, ["ObjectNavType", "PickupType", "FetchType", "RoomVisit"]);
    for task in Task::ALL {
        assert_eq!((Task::named(task.name()), Task::named(task.file_name())), (Some(task), Some(task)));
        assert_eq!(task.step_limit(), if task == Task::RoomVisit { 1000 } else { 600 });
    }
    assert_eq!((Task::ObjectNav.targets().len(), Task::Fetch.targets().len()), (15, 10));
    assert!(Task::Fetch.targets().iter().all(|kind| Task::ObjectNav.targets().contains(kind)));
}

#[test]
fn rooms_are_claimed_once_each_and_all_are_needed() {
    let mut episode = (0..30).map(|number| begun(Task::RoomVisit, number)).find(|episode| episode.sim.home.scene.rooms.len() >= 3).unwrap();
    assert!(episode.act(Action::SubDone), "the first room is new");
    assert!(!episode.act(Action::SubDone), "and then claimed");
    let mut early = episode.clone();
    early.act(Action::Done);
    assert!(early.over && !early.success());
    let mut rewards = Rewards::new(Preset::Sparse, &episode);
    assert!((play(&mut episode, &mut rewards) - 10.0).abs() < 1e-9);
    assert!(episode.success() && episode.claimed.len() == episode.sim.home.scene.rooms.len());
    assert_eq!(episode.milestones.last().map(|milestone| milestone.name()), Some("done"));
}

#[test]
fn a_claim_elsewhere_fails_and_done_needs_the_target_in_view_and_near() {
    let (mut near, mut far) = (0, 0);
    for number in 0..6 {
        let mut episode = begun(Task::ObjectNav, number);
        assert!(!episode.act(Action::SubDone));
        let mut early = episode.clone();
        let accomplished = early.accomplished();
        early.act(Action::Done);
        assert_eq!(early.success(), accomplished);
        far += u32::from(!accomplished);
        let mut rewards = Rewards::new(Preset::Sparse, &episode);
        play(&mut episode, &mut rewards);
        near += u32::from(episode.success());
        assert!(!episode.success() || episode.stands_before().is_some());
    }
    assert!(near >= 5 && far >= 1, "{near} {far}");
}

#[test]
fn what_is_brought_lies_where_the_robot_started() {
    let mut brought = 0;
    for number in 0..4 {
        let (home, spec) = drawn(Task::Fetch, number * 3);
        let mut episode = Episode::start(home, Arc::new(Spec { bring: true, ..spec })).unwrap();
        let mut expert = Expert::default();
        while !episode.over {
            let actions = expert.next(&episode, REPLY_ACTIONS);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                episode.act(action);
            }
        }
        brought += u32::from(episode.success());
        assert!(!episode.success() || episode.sim.held.is_empty());
    }
    assert!(brought >= 3, "{brought} of 4");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let (home, spec) = drawn(Task::Fetch, 0);
    let start = |spec: Spec| Episode::start(Arc::clone(&home), Arc::new(spec));
    assert!(start(Spec { ids: vec!["none".into()], ..spec.clone() }).err().unwrap().to_string().contains("none"));
    assert!(start(Spec { start: [-50.0, 0.0], ..spec.clone() }).err().unwrap().to_string().contains("does not fit"));
    assert!(start(Spec { yaw: f64::NAN, ..spec.clone() }).is_err());
    let fixed = home.scene.things.iter().find(|thing| !thing.pickupable).unwrap();
    let refused = start(Spec { ids: vec![fixed.id.clone()], ..spec }).unwrap().check().unwrap_err().to_string();
    assert!(refused.contains("cannot be picked up"), "{refused}");
}

#[test]
fn the_potential_telescopes_and_spocs_shaping_pays_what_it_says() {
    for (number, task) in Task::ALL.into_iter().enumerate() {
        let mut episode = begun(task, number as u64);
        let mut rewards = Rewards::new(Preset::Potential, &episode);
        let (first, mut paid) = (rewards.potential(), 0.0);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..120 {
            let action = ACTIONS[rng.random_range(0..20)].action;
            if action != Action::Done {
                episode.act(action);
                paid += rewards.pay(&episode);
            }
        }
        assert!((paid - (rewards.potential() - first)).abs() < 1e-6, "{task:?}: {paid}");
        assert!((-WAY..=0.0).contains(&first) && paid <= WAY, "{task:?}: {first}, {paid}");
    }
    let mut episode = begun(Task::Fetch, 2);
    let mut rewards = Rewards::new(Preset::Potential, &episode);
    let paid = play(&mut episode, &mut rewards);
    assert!(episode.success() && (paid - GOAL - WAY).abs() < 1e-6, "the whole way and the goal, and {paid} were paid");
    let mut episode = begun(Task::Fetch, 2);
    let mut rewards = Rewards::new(Preset::Spoc, &episode);
    let paid = play(&mut episode, &mut rewards);
    assert!(episode.success() && paid >= 20.0, "goal, touch and pickup are 20, and {paid} were paid");
    let mut episode = begun(Task::RoomVisit, 2);
    let rooms = episode.sim.home.scene.rooms.len() as f64;
    let mut rewards = Rewards::new(Preset::Spoc, &episode);
    let paid = play(&mut episode, &mut rewards);
    assert!(episode.success() && paid >= 10.0 + 2.0 * (2.0 * rooms - 1.0), "{paid} for {rooms} rooms");
}

#[test]
fn metrics_weigh_success_by_what_it_took() {
    let mut episode = begun(Task::Fetch, 5);
    let mut rewards = Rewards::new(Preset::Sparse, &episode);
    play(&mut episode, &mut rewards);
    let metrics = Metrics::new(&episode, episode.steps);
    assert!(metrics.success && (metrics.sel - 1.0).abs() < 1e-9 && metrics.steps == episode.steps);
    assert!((Metrics::new(&episode, episode.steps / 2).sel - 0.5).abs() < 0.03);
    assert!(metrics.spl.is_some_and(|spl| spl > 0.0 && spl <= 1.0));
}

#[test]
fn curriculum_starts_are_on_the_experts_way() {
    let (home, spec) = drawn(Task::Fetch, 1);
    let whole = features(&home, &spec).unwrap();
    assert!(whole.rooms >= 1 && whole.height_m.is_some() && !whole.arm_only);
    let arm = arm_only_start(&home, &spec).unwrap();
    assert!(features(&home, &arm).is_some_and(|features| features.arm_only && features.expert_length < whole.expert_length));
    let late = features(&home, &reverse_start(&home, &spec, 6).unwrap()).unwrap();
    assert!(late.expert_length <= 10, "{late:?}");
}

#[test]
fn slips_are_marked_and_recovered_from() {
    let (mut solved, mut slipped) = (0, 0);
    for number in 0..8 {
        let mut episode = begun(Task::ALL[number % 4], number as u64);
        let (mut expert, mut slips) = (Expert::default(), Slips::new(0.2, number as u64));
        while !episode.over {
            let marked = slips.next(&mut expert, &episode, REPLY_ACTIONS);
            if marked.is_empty() {
                break;
            }
            slipped += marked.iter().filter(|marked| marked.random).count();
            for marked in marked {
                assert!(!marked.random || !marked.action.ends_reply());
                episode.act(marked.action);
            }
        }
        solved += u32::from(episode.success());
    }
    assert!(solved >= 7 && slipped > 5, "{solved} of 8, {slipped} slips");
}

#[test]
fn the_expert_does_all_four_errands() {
    for task in Task::ALL {
        let (mut solved, mut asked) = (0, 0);
        for number in 0..20 {
            let home = home(number);
            let mut rng = ChaCha8Rng::seed_from_u64(number);
            let Ok(spec) = trials::draw(&home, task, &mut rng) else { continue };
            let scramble = if number % 2 == 0 { 0 } else { 50 };
            let trial = trials::play(&home, &Arc::new(spec), scramble, &mut rng).unwrap();
            asked += 1;
            solved += u32::from(trial.failure.is_none());
        }
        assert!(asked >= 15 && solved + 2 >= asked, "{task:?}: {solved} of {asked}");
    }
}
