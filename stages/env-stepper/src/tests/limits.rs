//! Limits are met before sampling.

use super::bench::{Bench, episode, observations};
use schemas::{EndReason, Mode, PolicyPin, Split};

#[test]
fn the_largest_reply_is_what_is_left() {
    let mut bench = Bench::ready("prompt = { observation_tokens = 20 }\nlimits = { reply_tokens = 16, episode_tokens = 120 }");
    let mut most = vec![];
    let first = bench.deliver(&episode(0, 99), 1);
    let ends = bench.play(first, |seen| {
        most.push(seen.sampling.max_tokens);
        " step step step step step".into()
    });
    let end = &ends[0];
    assert_eq!(end.reason, EndReason::LengthTotal);
    assert!(end.note.contains("limits.episode_tokens"), "{}", end.note);
    assert_eq!(most[0], 16);
    assert!(most.last().unwrap() < &16, "{most:?}");
    let spent: u32 = end.segments.iter().flat_map(|s| &s.turns).map(|t| t.close - t.start).sum();
    assert!(spent <= 120, "{spent}");
}

#[test]
fn a_cut_reply_is_parsed_as_it_stands_and_marked() {
    let mut bench = Bench::ready("limits = { reply_tokens = 3, turns = 2 }");
    let first = bench.deliver(&episode(0, 99), 1);
    let ends = bench.play(first, |seen| if seen.at.turn == 0 { " step step step step".into() } else { " step step".into() });
    let turns = &ends[0].turns;
    assert_eq!((turns[0].cut, turns[0].executed.len(), turns[0].reply_tokens), (true, 3, 3));
    assert_eq!((turns[1].cut, turns[1].executed.len(), turns[1].reply_tokens), (false, 2, 3));
    assert_eq!(ends[0].trained_tokens(), 6);
    bench.check_segments(&ends[0]);
}

#[test]
fn steps_are_primitive_actions_and_turns_are_replies() {
    let play = |rules| {
        let mut bench = Bench::ready(rules);
        let first = bench.deliver(&episode(0, 99), 1);
        bench.play(first, |_| " step step step step step".into()).remove(0)
    };
    let by_steps = play("limits = { steps = 7 }");
    assert_eq!((by_steps.reason, by_steps.steps, by_steps.turns.len()), (EndReason::OutOfSteps, 7, 2));
    assert_eq!(by_steps.turns[1].dropped.len(), 3);
    let by_turns = play("limits = { turns = 3 }");
    assert_eq!((by_turns.reason, by_turns.steps, by_turns.turns.len()), (EndReason::OutOfSteps, 15, 3));
}

#[test]
fn an_expert_that_says_more_than_the_policy_may_does_not_pass() {
    let mut bench = Bench::ready("limits = { reply_tokens = 4 }");
    let mut order = episode(0, 7);
    order.mode = Mode::Expert;
    let first = bench.deliver(&order, 1);
    let end = bench.play(first, |_| unreachable!()).remove(0);
    assert_eq!((end.reason, end.turns.len(), end.trained_tokens()), (EndReason::LengthTotal, 0, 0));
    assert!(end.note.contains("limits.reply_tokens = 4"), "{}", end.note);
}

#[test]
fn a_segment_without_room_for_a_reply_ends_the_episode_and_names_the_limit() {
    let mut bench = Bench::ready("prompt = { segment_tokens = 100, observation_tokens = 96 }");
    let first = bench.deliver(&episode(0, 99), 1);
    let end = bench.play(first, |_| " step".into()).remove(0);
    assert_eq!((end.reason, end.turns.len()), (EndReason::LengthTotal, 0));
    assert!(end.note.contains("prompt.segment_tokens"), "{}", end.note);
}

#[test]
fn validation_is_sampled_its_own_way_and_training_from_the_whole_distribution() {
    let mut bench = Bench::ready("sampling = { temperature = 0.9, validation_temperature = 0.0, top_p = 0.5, top_k = 7, min_p = 0.1 }");
    let train = observations(&bench.deliver(&episode(4, 9), 1)).remove(0).sampling;
    let mut order = episode(4, 9);
    order.id.split = Split::Val;
    order.policy = PolicyPin::Exactly(2);
    let val = observations(&bench.deliver(&order, 1)).remove(0);
    assert_eq!((train.temperature, train.top_p, train.top_k, train.min_p), (0.9, 1.0, 0, 0.0));
    assert_eq!((val.sampling.temperature, val.sampling.top_p, val.sampling.top_k, val.sampling.min_p), (0.0, 0.5, 7, 0.1));
    assert_eq!(val.policy, PolicyPin::Exactly(2));
    assert_ne!(train.seed, val.sampling.seed);
    let parts: [&[u8]; 3] = [b"train", &4u64.to_le_bytes(), &0u32.to_le_bytes()];
    assert_eq!(train.seed, schemas::seed_of(5, &parts), "from the pipeline's seed, split, episode and turn alone");
}

#[test]
fn a_worlds_error_ends_the_episode_and_pays_nothing() {
    let mut bench = Bench::ready("");
    let first = bench.deliver(&episode(0, 9), 1);
    let end = bench.play(first, |_| " step boom step".into()).remove(0);
    assert_eq!((end.reason, end.steps, end.rewards.len()), (EndReason::EnvError, 1, 0));
    assert!(end.note.contains("the floor gave way"));
    assert_eq!(end.turns[0].executed, ["step"]);
    let mut order = episode(1, 9);
    order.task = b"broken".to_vec();
    order.mode = Mode::Expert;
    let first = bench.deliver(&order, 1);
    let end = bench.play(first, |_| unreachable!()).remove(0);
    assert_eq!((end.reason, end.note.as_str()), (EndReason::EnvError, "a broken task"));
}
