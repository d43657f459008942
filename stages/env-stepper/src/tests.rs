//! The stepper's behaviour, step by step.

mod bench;
mod chaos;
mod delivery;
mod faults;
mod limits;

use bench::{Bench, episode, is_prefix, observations};
use proptest::prelude::*;
use schemas::{EndReason, Mode, Segment, Split};
use std::collections::BTreeMap;

#[test]
fn a_whole_episode_by_the_expert_and_by_the_policy() {
    for mode in [Mode::Expert, Mode::Policy, Mode::Dagger] {
        let mut bench = Bench::ready("");
        let mut order = episode(7, 12);
        order.mode = mode;
        let first = bench.deliver(&order, 1);
        let ends = bench.play(first, |seen| if seen.at.turn < 3 { " step step step step step".into() } else { " done".into() });
        let [end] = ends.as_slice() else { panic!("{} ends", ends.len()) };
        assert_eq!((end.reason, end.success, end.reward("task"), end.reward("format")), (EndReason::Done, true, 1.0, 0.5), "{mode:?}");
        assert_eq!(end.episode, order);
        let expected = if mode == Mode::Expert { 13 } else { 16 };
        assert_eq!(end.steps, expected);
        assert!(end.turns.iter().all(|t| t.well_formed && t.worked.iter().all(|w| *w) && t.executed.len() == t.worked.len()));
        assert_eq!(end.turns[1].observation, "cell 5 of 2");
        assert_eq!(end.turns[1].state_key, "0000000000000005");
        bench.check_segments(end);
        assert_eq!(end.segments.len(), 1);
    }
}

#[test]
fn a_label_is_asked_for_in_dagger_and_a_speech_in_imitation() {
    for (mode, speaks, reply) in
        [(Mode::Dagger, false, true), (Mode::Expert, true, true), (Mode::Policy, false, false), (Mode::Format, true, true)]
    {
        let mut bench = Bench::ready("");
        let mut order = episode(0, 3);
        order.mode = mode;
        let out = bench.deliver(&order, 1);
        let seen = &observations(&out)[0];
        assert_eq!((seen.expert_speaks, seen.expert_reply.is_some()), (speaks, reply), "{mode:?}");
        assert_eq!(seen.generator, if speaks { "" } else { "g1" });
        if mode != Mode::Format {
            assert!(seen.expert_reply.as_deref().is_none_or(|r| r == " step step step done"));
        }
    }
}

#[test]
fn long_episodes_are_cut_into_segments_that_train_every_token_once() {
    let small = "prompt = { segment_turns = 16, segment_tokens = 400, observation_tokens = 24, memory_chars = 60 }\nlimits = { steps = 4000, turns = 700 }";
    for (turns, rules) in [(120, small), (600, small), (120, "limits = { steps = 4000, turns = 700 }")] {
        let mut bench = Bench::ready(rules);
        let first = bench.deliver(&episode(1, 5), 1);
        let mut last: BTreeMap<u32, Segment> = BTreeMap::new();
        let ends = bench.play(first, |seen| {
            if let Some(segment) = &seen.segment {
                last.insert(segment.number, segment.clone());
            }
            if let Some(head) = &seen.head {
                assert_eq!(head.memory.is_empty(), seen.segment_number == 0 || !rules.contains("memory"));
                let carried = head.carried.as_ref().map_or(0, |c| c.turns.len());
                assert!(carried <= 12 && (seen.segment_number == 0 || carried >= 3), "{carried} turns are carried");
            }
            if seen.at.turn + 1 == turns {
                " done".into()
            } else {
                format!(" {}", ["step jam", "step step", "jam"][seen.at.turn as usize % 3])
            }
        });
        let end = &ends[0];
        assert_eq!((end.turns.len(), end.reason), (turns as usize, EndReason::Done));
        assert!(end.segments.len() > turns as usize / 14, "{} segments", end.segments.len());
        bench.check_segments(end);
        for segment in &end.segments {
            assert!(segment.turns.len() <= 24 && segment.len() <= 1024);
            assert!(
                last.get(&segment.number).is_none_or(|earlier| is_prefix(earlier, segment)),
                "segment {} was rewritten",
                segment.number
            );
        }
        let sampled: u64 = bench.sampled.values().map(|s| s.ids.len() as u64).sum();
        assert_eq!(end.trained_tokens(), sampled);
    }
}

#[test]
fn pictures_are_encoded_once_and_brought_to_those_who_want_them() {
    for (kept, eyes, split, frames) in [
        ("all", false, Split::Train, 80),
        ("none", false, Split::Val, 0),
        ("eval", false, Split::Train, 0),
        ("eval", false, Split::Val, 80),
        // A policy that sees learns from what it saw, whatever is kept.
        ("none", true, Split::Train, 80),
        ("none", true, Split::Val, 0),
    ] {
        let rules = format!("record = {{ pictures = \"{kept}\" }}\nlimits = {{ turns = 40 }}\nprompt = {{ segment_images = 12 }}");
        let mut pipeline = bench::pipeline(&rules);
        pipeline.world.pictures = true;
        pipeline.policy.vision = eyes.then(Default::default);
        let mut bench = Bench::with(pipeline, crate::Options { slots: 1, ..crate::Options::default() });
        bench.present("prompt-renderer", "p");
        bench.present("generator", "g1");
        let mut order = episode(0, 99);
        order.id.split = split;
        let first = bench.deliver(&order, 1);
        let ends = bench.play(first, |seen| {
            assert_eq!(seen.frames.len(), 2);
            assert_ne!(seen.frames[0].digest, seen.frames[1].digest, "two cameras are two cameras");
            " step".into()
        });
        let end = &ends[0];
        assert_eq!((end.turns.len(), end.frames.len()), (40, frames), "{kept}");
        assert!(end.segments.iter().all(|s| s.images.len() <= 12));
        assert!(end.frames.iter().all(|f| schemas::digest_of(&f.png) == f.digest));
        bench.check_segments(end);
    }
}

#[test]
fn a_system_prompt_tells_what_came_of_the_last_reply() {
    let mut bench = Bench::ready(
        "prompt = { system = true, format = \"free_think\", action_separator = \",\", observation_tokens = 200, segment_tokens = 4000 }\nlimits = { reply_tokens = 200 }",
    );
    let out = bench.deliver(&episode(0, 9), 1);
    let first = observations(&out).remove(0);
    let head = first.head.as_ref().unwrap();
    assert!(head.system.starts_with("You are in a corridor.") && head.system.contains("<think>"));
    assert_eq!(head.instruction, "walk to the end");
    assert!(first.text.contains("cell 0 of 9") && first.text.contains("<answer>"), "{}", first.text);
    let reply = bench.reply(&first, "<think>go</think><answer>step,jam,step</answer>");
    let out = bench.complete(&reply);
    let second = observations(&out).remove(0);
    assert!(
        second.text.contains("step, jam") && second.text.contains("failed at jam") && second.text.contains("Not run: 1"),
        "{}",
        second.text
    );
    let reply = bench.reply(&second, "what now");
    let out = bench.complete(&reply);
    let third = observations(&out).remove(0);
    assert!(third.text.contains("nothing was run") && !third.text.contains("nearest"), "{}", third.text);
    let reply = bench.reply(&third, "<think>go</think><answer>step,stepp,step</answer>");
    let out = bench.complete(&reply);
    let fourth = observations(&out).remove(0);
    assert!(
        fourth.text.contains("Of your reply was run: step.") && fourth.text.contains("no action; the nearest is step."),
        "{}",
        fourth.text
    );
}

#[test]
fn what_follows_a_failed_or_ending_action_is_dropped() {
    let mut bench = Bench::ready("limits = { turns = 4 }");
    let first = bench.deliver(&episode(0, 9), 1);
    let replies = [" step jam step", " step grab step", " step nonsense step", " step step step step step step"];
    let ends = bench.play(first, |seen| replies[seen.at.turn as usize].into());
    let turns = &ends[0].turns;
    let of = |i: usize| (turns[i].executed.join(" "), turns[i].dropped.join(" "), turns[i].well_formed);
    assert_eq!(of(0), ("step jam".into(), "step".into(), true));
    assert_eq!(of(1), ("step grab".into(), "step".into(), true));
    assert_eq!((of(2).0, of(2).2), ("step".into(), false));
    assert_eq!((of(3).0, of(3).1), ("step step step step step".into(), "step".into()));
    assert_eq!(turns[0].worked, [true, false]);
    assert_eq!(ends[0].reason, EndReason::OutOfSteps);
}

#[test]
fn random_replies_are_well_formed_and_follow_the_seed() {
    let ask = |number| {
        let mut bench = Bench::ready("");
        let mut order = episode(number, 9);
        order.mode = Mode::Format;
        let first = bench.deliver(&order, 1);
        bench.play(first, |_| unreachable!()).remove(0)
    };
    let (one, again, other) = (ask(1), ask(1), ask(2));
    let said = |end: &schemas::End| end.turns.iter().map(|t| t.reply.clone()).collect::<Vec<_>>();
    assert_eq!(said(&one), said(&again));
    assert_ne!(said(&one), said(&other));
    assert!(one.turns.iter().all(|t| t.well_formed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever is replied: the same inputs give the same outputs, every token is trained once, no bound is passed, and a
    /// success is paid more than a failure.
    #[test]
    fn any_replies_leave_the_rules_whole(
        replies in proptest::collection::vec(proptest::collection::vec(0usize..6, 0..8), 1..60),
        segment_turns in 1u32..9, segment_tokens in 130u32..300, length in 0u64..6,
    ) {
        let words = ["step", "jam", "grab", "done", "xyzzy", "s"];
        let rules = format!("prompt = {{ segment_turns = {segment_turns}, segment_tokens = {segment_tokens}, observation_tokens = 40 }}\nlimits = {{ turns = 50, steps = 90 }}");
        let play = || {
            let mut bench = Bench::ready(&rules);
            let first = bench.deliver(&episode(3, length), 1);
            let policy = |seen: &schemas::Observation| {
                let reply = &replies[seen.at.turn as usize % replies.len()];
                reply.iter().map(|i| format!(" {}", words[*i])).collect::<String>()
            };
            let ends = bench.play(first, policy);
            (bench, ends)
        };
        let (bench, ends) = play();
        let end = &ends[0];
        prop_assert_eq!(&play().1, &ends);
        bench.check_segments(end);
        prop_assert!(end.steps <= 90 && end.turns.len() <= 50);
        prop_assert!(end.segments.iter().all(|s| s.turns.len() <= segment_turns as usize && s.len() <= segment_tokens as usize));
        let total = end.total_reward();
        let paid = if end.success { total >= 1.0 } else { total <= 0.5 };
        prop_assert!(paid, "success {}: {}", end.success, total);
    }
}
