//! Deliveries: what is acked when, drains, cancelled groups, suspects, scenes.

use super::bench::{Bench, ends, episode, observations, pipeline};
use crate::alone::{AloneDone, Order, Outcome, RunAlone};
use crate::{Options, alone};
use kit::{Delivery, Input, Output, PublishError, Stage};
use schemas::{Cancel, EndReason, Episode, Grant, Message, SceneRef, Split, decode, encode, subjects};

fn cancel(group: u64) -> Cancel {
    Cancel { split: Split::Train, group, reason: "train.9 was rejected".into() }
}

/// Ends the only rollout of a fresh bench; gives what published its end.
fn ended() -> (Bench, Vec<Output>) {
    let mut bench = Bench::ready("");
    let seen = observations(&bench.deliver(&episode(0, 0), 1)).remove(0);
    let reply = bench.reply(&seen, " done");
    let out = bench.complete(&reply);
    (bench, out)
}

#[test]
fn an_end_is_stored_before_its_episode_is_acked() {
    let (mut bench, out) = ended();
    let (ticket, end) = ends(&out).remove(0);
    assert!(end.success && !out.iter().any(|o| matches!(o, Output::DoubleAck(_))));
    let Some(Output::PublishDurable { headers, subject, .. }) = out.iter().find(|o| matches!(o, Output::PublishDurable { .. })) else {
        panic!()
    };
    assert_eq!(subject, "errand.r.ends.train.0");
    let header = |name: &str| headers[name].as_str();
    use subjects::end_headers::*;
    assert_eq!(
        [header(GROUP), header(BUCKET), header(SUCCESS), header(REASON), header(ATTEMPT), header(VERSION), header(MODE)],
        ["0", "b", "true", "done", "0", "3", "policy"]
    );
    let out = bench.stored(ticket);
    assert!(out.iter().any(|o| matches!(o, Output::DoubleAck(Delivery(1)))), "{out:?}");
}

#[test]
fn a_full_stream_is_waited_for_and_no_more_is_taken_meanwhile() {
    let (mut bench, out) = ended();
    let mut ticket = ends(&out)[0].0;
    let durable = |split| kit::Durable { stream: subjects::Stream::Episodes, name: subjects::episodes_durable("corridor", split) };
    for error in [PublishError::Full, PublishError::Unknown("timeout".into()), PublishError::Full] {
        let out = bench.give(Input::Published { ticket, result: Err(error) });
        assert!(ends(&out).is_empty());
        for split in Split::ALL {
            bench.give(Input::FetchEnded { durable: durable(split), missing: 9 });
        }
        let out = bench.pass_ms(1000);
        assert!(!out.iter().any(|o| matches!(o, Output::Fetch { .. } | Output::DoubleAck(_))), "{out:?}");
        ticket = ends(&out)[0].0;
    }
    let out = bench.stored(ticket);
    assert!(out.iter().any(|o| matches!(o, Output::DoubleAck(_))));
    assert!(out.iter().any(|o| matches!(o, Output::Fetch { .. })));
}

#[test]
fn the_first_end_stands_and_ones_own_is_dropped() {
    let (mut bench, out) = ended();
    let out = bench.give(Input::Published { ticket: ends(&out)[0].0, result: Err(PublishError::AlreadyThere) });
    assert!(out.iter().any(|o| matches!(o, Output::DoubleAck(_))));
    assert_eq!(bench.stepper.report().gauges["already_ended_total"], 1.0);
    assert_eq!(bench.stepper.report().done, 0);
}

#[test]
fn what_cannot_be_read_is_rejected_and_never_delivered_again() {
    let mut bench = Bench::ready("");
    let mut elsewhere = episode(0, 1);
    elsewhere.world = "sokoban".into();
    for payload in [b"junk".to_vec(), encode(&elsewhere)] {
        let out = bench.deliver_bytes(Split::Train, payload, 1);
        assert!(matches!(&out[..2], [Output::Reject { .. }, Output::Term(_)]), "{out:?}");
    }
    let out = bench.give(Input::Message { subject: subjects::cancel("r"), headers: Default::default(), payload: vec![1], delivery: None });
    assert!(matches!(out[0], Output::Reject { .. }));
}

#[test]
fn a_cancelled_group_ends_live_waiting_and_later_members() {
    let mut bench = Bench::ready("");
    for number in 0..5 {
        let mut order = episode(number, 9);
        order.group = number % 2;
        bench.deliver(&order, 1);
    }
    let out = bench.message(subjects::cancel("r"), &cancel(0));
    let cancelled: Vec<u64> = ends(&out).iter().map(|(_, end)| end.id().number).collect();
    assert_eq!(cancelled, [0, 2, 4]);
    assert!(ends(&out).iter().all(|(_, end)| end.reason == EndReason::Cancelled && end.rewards.is_empty()));
    let mut late = episode(8, 9);
    late.group = 0;
    assert_eq!(ends(&bench.deliver(&late, 1))[0].1.reason, EndReason::Cancelled);
    late.id.split = Split::Val;
    assert!(ends(&bench.deliver(&late, 1)).is_empty(), "another split's group of that number");
}

#[test]
fn after_the_last_step_only_validation_begins() {
    let mut bench = Bench::ready("");
    let live = observations(&bench.deliver(&episode(0, 9), 1));
    assert_eq!(live.len(), 1);
    let grant = Grant { finished: true, epoch: 2, ..Grant::example() };
    bench.message(subjects::grants("r"), &grant);
    bench.message(subjects::grants("r"), &Grant { finished: false, epoch: 1, ..Grant::example() });
    assert_eq!(ends(&bench.deliver(&episode(1, 9), 1))[0].1.reason, EndReason::Cancelled);
    let mut val = episode(1, 9);
    val.id.split = Split::Val;
    assert_eq!(observations(&bench.deliver(&val, 1)).len(), 1);
    let reply = bench.reply(&live[0], " step");
    assert_eq!(observations(&bench.complete(&reply)).len(), 1, "what had begun goes on");
}

#[test]
fn a_drain_hands_everything_back_and_then_leaves() {
    let mut bench = Bench::ready("");
    for number in 0..5 {
        bench.deliver(&episode(number, 9), 1);
    }
    let out = bench.give(Input::Drain);
    let mut tickets = vec![];
    for output in &out {
        let Output::PublishDurable { ticket, subject, headers, payload, .. } = output else { panic!("{output:?}") };
        let back: Episode = decode(payload).unwrap();
        assert_eq!((subject.as_str(), back.handed_back), ("errand.r.episodes.corridor.train", 1));
        assert_ne!(headers["Nats-Msg-Id"], back.id.to_string(), "the broker would take it for the first copy");
        tickets.push(*ticket);
    }
    assert_eq!(tickets.len(), 5);
    let full = bench.give(Input::Published { ticket: tickets[0], result: Err(PublishError::Full) });
    assert!(full.is_empty());
    let mut out = vec![];
    for ticket in &tickets[1..] {
        out.extend(bench.stored(*ticket));
    }
    assert_eq!(out.iter().filter(|o| matches!(o, Output::Ack(_))).count(), 4);
    let again = bench.pass_ms(200);
    let [Output::PublishDurable { ticket, .. }] = again.as_slice() else { panic!("{again:?}") };
    let out = bench.stored(*ticket);
    assert!(matches!(&out[..], [Output::Ack(_), Output::Exit { code: 0, .. }]), "{out:?}");
    // Handed-back episodes are no crashes, and their tries differ from the ones before.
    let mut bench = Bench::ready("");
    let mut order = episode(0, 9);
    order.handed_back = 3;
    assert_eq!(observations(&bench.deliver(&order, 1))[0].at.attempt, 3);
}

#[test]
fn a_redelivery_of_what_is_in_hand_is_taken_over() {
    let mut bench = Bench::ready("");
    let seen = observations(&bench.deliver(&episode(0, 0), 1)).remove(0);
    assert!(observations(&bench.deliver(&episode(0, 0), 2)).is_empty());
    let reply = bench.reply(&seen, " done");
    let out = bench.complete(&reply);
    let out = bench.stored(ends(&out)[0].0);
    assert!(out.iter().any(|o| matches!(o, Output::DoubleAck(Delivery(2)))));
}

#[test]
fn progress_is_told_each_third_of_the_brokers_patience() {
    let mut bench = Bench::ready("broker = { ack_wait_s = 3.0 }");
    for number in 0..5 {
        bench.deliver(&episode(number, 9), 1);
    }
    let told = |out: &[Output]| out.iter().filter(|o| matches!(o, Output::Progress(_))).count();
    assert_eq!(told(&bench.pass_ms(900)), 0);
    assert_eq!(told(&bench.pass_ms(100)), 5, "also the one in the backlog");
    assert_eq!(told(&bench.pass_ms(1000)), 5);
}

fn suspicious() -> Bench {
    let options = Options { slots: 2, alone_command: vec!["/bin/env-stepper".into(), "--alone".into()], ..Options::default() };
    let mut bench = Bench::with(pipeline(""), options);
    bench.present("generator", "g1");
    bench.present("prompt-renderer", "p");
    bench
}

fn worked(bench: &mut Bench, out: Vec<Output>, outcome: Outcome) -> Vec<Output> {
    let work = out.into_iter().find_map(|o| if let Output::Work { ticket, work } = o { Some((ticket, work)) } else { None });
    let (ticket, work) = work.expect("a child is started");
    assert!(work.into_any().downcast::<RunAlone>().is_ok());
    bench.give(Input::Worked { ticket, result: Box::new(AloneDone { outcome }) })
}

#[test]
fn a_suspect_runs_in_a_child_and_only_the_childs_dying_rejects_it() {
    let mut bench = suspicious();
    assert_eq!(observations(&bench.deliver(&episode(0, 9), 2)).len(), 1, "one crash is no suspicion");
    let out = bench.deliver(&episode(1, 9), 3);
    assert!(observations(&out).is_empty());
    let out = worked(&mut bench, out, Outcome::Ended);
    assert!(out.iter().any(|o| matches!(o, Output::DoubleAck(Delivery(2)))));
    let out = bench.deliver(&episode(2, 9), 3);
    let out = worked(&mut bench, out, Outcome::GaveUp("no NATS".into()));
    assert!(out.iter().any(|o| matches!(o, Output::Nak { delivery: Delivery(3), .. })) && ends(&out).is_empty());
    let out = bench.deliver(&episode(3, 9), 3);
    let out = worked(&mut bench, out, Outcome::Died("signal 11".into()));
    let (ticket, end) = ends(&out).remove(0);
    assert_eq!((end.reason, end.attempt), (EndReason::Rejected, 2));
    assert!(out.iter().any(|o| matches!(o, Output::PublishDurable { subject, .. } if *subject == subjects::cancel("r"))));
    assert!(bench.stored(ticket).iter().any(|o| matches!(o, Output::DoubleAck(Delivery(4)))));
    assert!(bench.stepper.report().gauges["ended_rejected_total"] == 1.0);
}

#[test]
fn a_child_runs_its_one_episode_and_leaves() {
    let alone = Some(Order { attempt: 2, episode: encode(&episode(4, 1)) });
    let mut bench = Bench::with(pipeline(""), Options { slots: 1, alone, ..Options::default() });
    let out = bench.give(Input::Started);
    assert!(out.is_empty(), "it fetches nothing");
    let seen = observations(&bench.present("generator", "g1")).remove(0);
    assert_eq!(seen.at.attempt, 2);
    let reply = bench.reply(&seen, " step done");
    let out = bench.complete(&reply);
    let out = bench.stored(ends(&out)[0].0);
    assert!(matches!(out[..], [Output::Exit { code: 0, .. }]), "{out:?}");
    let alone = Some(Order { attempt: 2, episode: encode(&episode(4, 1)) });
    let mut bench = Bench::with(pipeline(""), Options { slots: 1, alone, ..Options::default() });
    bench.give(Input::Started);
    assert!(matches!(bench.give(Input::Drain)[..], [Output::Exit { code: alone::GAVE_UP, .. }]));
}

#[test]
fn a_scene_is_fetched_once_for_all_who_wait() {
    let mut bench = Bench::ready("");
    let scene = vec![7u8; 5];
    let with_scene = |number| Episode {
        scene: Some(SceneRef { digest: schemas::digest_of(&[7u8; 5]), origin: "generated:1".into() }),
        ..episode(number, 0)
    };
    let out = bench.deliver(&with_scene(0), 1);
    let Some(Output::GetObject { ticket, name }) = out.iter().find(|o| matches!(o, Output::GetObject { .. })) else { panic!("{out:?}") };
    assert_eq!(*name, format!("scene-{}", schemas::digest_of(&scene)));
    let out = bench.deliver(&with_scene(1), 1);
    assert!(!out.iter().any(|o| matches!(o, Output::GetObject { .. })));
    // Not there yet: asked for again.
    let out = bench.give(Input::Object { ticket: *ticket, name: name.clone(), bytes: None });
    assert!(observations(&out).is_empty());
    let again = bench.pass_ms(600);
    let Some(Output::GetObject { ticket, .. }) = again.iter().find(|o| matches!(o, Output::GetObject { .. })) else { panic!("{again:?}") };
    let out = bench.give(Input::Object { ticket: *ticket, name: name.clone(), bytes: Some(scene) });
    assert_eq!(observations(&out).len(), 2);
    assert!(observations(&out)[0].text.contains("of 5"), "the scene's bytes are what the world starts with");
    assert_eq!(observations(&bench.deliver(&with_scene(2), 1)).len(), 1, "from the cache");
}

#[test]
fn a_damaged_scene_is_an_env_error() {
    let mut bench = Bench::ready("");
    let scene = Some(SceneRef { digest: "ab".into(), origin: "generated:1".into() });
    let out = bench.deliver(&Episode { scene, ..episode(0, 0) }, 1);
    let Some(Output::GetObject { ticket, name }) = out.iter().find(|o| matches!(o, Output::GetObject { .. })) else { panic!("{out:?}") };
    let out = bench.give(Input::Object { ticket: *ticket, name: name.clone(), bytes: Some(vec![1]) });
    assert_eq!(ends(&out)[0].1.reason, EndReason::EnvError);
}

#[test]
fn slots_are_kept_full_and_a_little_more() {
    let mut bench = Bench::new("");
    let mut waiting = bench.give(Input::Started);
    let mut number = 0;
    for _ in 0..60 {
        while let Some(output) = waiting.pop() {
            let Output::Fetch { durable, count } = output else { continue };
            if !durable.name.ends_with("train") {
                bench.give(Input::FetchEnded { durable, missing: count });
                continue;
            }
            for _ in 0..count {
                number += 1;
                waiting.extend(bench.deliver(&episode(number, 9), 1));
            }
        }
        waiting = bench.pass_ms(200);
    }
    let report = bench.stepper.report();
    assert_eq!((report.gauges["rollouts"], report.gauges["backlog"], report.free), (4.0, 1.0, 0));
}
