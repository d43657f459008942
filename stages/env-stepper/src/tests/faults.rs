//! Generators that are busy, gone, silent or late; answers that come twice or to the wrong turn.

use super::bench::{Bench, ends, episode, observations};
use kit::Input;
use schemas::{EndReason, Observation, Status};

/// A bench with two generators and one rollout asked for; the observation and the other generator's id.
fn two() -> (Bench, Observation, String) {
    let mut bench = Bench::ready("limits = { turn_deadline_s = 20.0 }");
    bench.present("generator", "g2");
    let seen = observations(&bench.deliver(&episode(0, 9), 1)).remove(0);
    let other = if seen.generator == "g1" { "g2" } else { "g1" };
    (bench, seen, other.to_string())
}

#[test]
fn a_group_stays_with_its_generator() {
    let mut bench = Bench::ready("");
    bench.present("generator", "g2");
    let mut chosen = vec![];
    for number in 0..4 {
        let mut order = episode(number, 9);
        order.group = 3;
        chosen.push(observations(&bench.deliver(&order, 1)).remove(0));
    }
    assert!(chosen.iter().all(|seen| seen.generator == chosen[0].generator));
    bench.present("generator", "g3");
    bench.present("generator", "g4");
    for seen in &chosen {
        let reply = bench.reply(seen, " step");
        let next = observations(&bench.complete(&reply)).remove(0);
        assert_eq!(next.generator, seen.generator, "a newcomer takes no rollout away");
    }
}

#[test]
fn busy_and_version_turn_to_another_and_come_back_when_all_refuse() {
    for refusal in [Status::Busy, Status::Version(vec![1])] {
        let (mut bench, seen, other) = two();
        let again = observations(&bench.complete(&Bench::status(&seen, refusal.clone()))).remove(0);
        assert_eq!((&again.generator, &again.text, again.at.turn), (&other, &seen.text, 0));
        let out = bench.complete(&Bench::status(&again, refusal.clone()));
        assert!(observations(&out).is_empty(), "all refused: it waits");
        let back = observations(&bench.pass_ms(300));
        assert_eq!(back.len(), 1);
        // Waiting for a version is moving: nothing is dropped, however long it takes.
        for _ in 0..100 {
            let Some(seen) = observations(&bench.pass_ms(300)).pop() else { continue };
            bench.complete(&Bench::status(&seen, refusal.clone()));
        }
        assert_eq!(bench.stepper.slots_taken(), 1);
    }
}

#[test]
fn a_lost_generator_is_replaced_at_once_and_a_silent_one_is_asked_again() {
    let (mut bench, seen, other) = two();
    assert!(observations(&bench.pass_ms(2900)).is_empty());
    let again = observations(&bench.pass_ms(100)).remove(0);
    assert_eq!(again.generator, seen.generator, "after 3 s of silence, the same one");
    bench.complete(&Bench::status(&again, Status::Accepted));
    bench.pass_ms(2000);
    bench.complete(&Bench::status(&again, Status::Running));
    assert!(observations(&bench.pass_ms(2500)).is_empty(), "a sign of life is no silence");
    let out = bench.give(Input::Gone { stage: "generator".into(), id: seen.generator.clone() });
    assert_eq!(observations(&out)[0].generator, other);
    let out = bench.give(Input::Gone { stage: "generator".into(), id: other.clone() });
    assert!(observations(&out).is_empty());
    bench.pass_ms(100_000);
    assert_eq!(bench.stepper.slots_taken(), 1, "waiting for a generator is moving");
    let back = observations(&bench.present("generator", "g9"));
    assert_eq!(back[0].generator, "g9");
}

#[test]
fn late_double_and_misfitting_answers_change_nothing() {
    let (mut bench, seen, _) = two();
    let reply = bench.reply(&seen, " step");
    let mut older = reply.clone();
    older.at.attempt = 9;
    assert!(observations(&bench.complete(&older)).is_empty());
    let mut wrong = reply.clone();
    wrong.segment.as_mut().unwrap().number = 5;
    assert!(observations(&bench.complete(&wrong)).is_empty());
    let next = observations(&bench.complete(&reply)).remove(0);
    assert_eq!(next.at.turn, 1);
    assert!(observations(&bench.complete(&reply)).is_empty(), "the same completion again");
    // One that rewrites what was there is not taken; the right one still is.
    let reply = bench.reply(&next, " step");
    let mut rewritten = reply.clone();
    rewritten.segment.as_mut().unwrap().tokens.0[0] ^= 1;
    assert!(observations(&bench.complete(&rewritten)).is_empty());
    assert_eq!(observations(&bench.complete(&reply)).remove(0).at.turn, 2);
    let report = kit::Stage::report(&bench.stepper);
    assert_eq!((report.gauges["stale_completions_total"], report.gauges["misfit_completions_total"]), (2.0, 2.0));
}

#[test]
fn a_turn_that_cannot_be_answered_ends_as_generator_error() {
    let (mut bench, seen, _) = two();
    let out = bench.complete(&Bench::status(&seen, Status::Failed("too long".into())));
    let (_, end) = ends(&out).remove(0);
    assert_eq!(end.reason, EndReason::GeneratorError);
    assert!(end.note.contains("too long") && end.rewards.is_empty());
}

#[test]
fn frames_that_are_needed_are_sent_again_to_the_same_generator() {
    let mut pipeline = super::bench::pipeline("");
    pipeline.world.pictures = true;
    let mut bench = Bench::with(pipeline, crate::Options { slots: 1, ..crate::Options::default() });
    bench.present("prompt-renderer", "p");
    bench.present("generator", "g1");
    bench.present("generator", "g2");
    let first = observations(&bench.deliver(&episode(0, 9), 1)).remove(0);
    let reply = bench.reply(&first, " step");
    let second = observations(&bench.complete(&reply)).remove(0);
    let missing = first.frames[1].clone();
    let out = bench.complete(&Bench::status(&second, Status::Need(vec![missing.digest.clone()])));
    let again = observations(&out).remove(0);
    assert_eq!((&again.generator, again.at.turn), (&second.generator, 1));
    assert_eq!(again.frames[..2], second.frames[..]);
    assert_eq!(again.frames[2], missing);
}

#[test]
fn a_rollout_that_stands_still_is_dropped_unacked() {
    let (mut bench, _, _) = two();
    let out = bench.pass_ms(20_000);
    assert!(out.iter().any(|o| matches!(o, kit::Output::Progress(_))));
    let out = bench.pass_ms(30_000);
    assert!(!out.iter().any(|o| matches!(o, kit::Output::Progress(_) | kit::Output::Ack(_) | kit::Output::Term(_))), "{out:?}");
    assert_eq!(bench.stepper.slots_taken(), 0);
}
