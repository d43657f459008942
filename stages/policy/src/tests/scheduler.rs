//! The scheduler alone: requests are played through it without a model, and every rule about pages is checked at each step.

use super::*;
use crate::SamplingParams;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn request(ticket: u64, tokens: Vec<u32>, max_tokens: u32) -> Request {
    let sampling = SamplingParams { max_tokens, ..SamplingParams::default() };
    Request { ticket, rollout: ticket, tokens, sampling, version: 1, ..Request::default() }
}

fn limits() -> Limits {
    Limits { max_num_seqs: 4, max_num_batched_tokens: 64, max_len: 4096, chunk: CHUNK, keep_kv: false, prefix_caching: true }
}

/// Plays a step as the engine does: what was scheduled is computed, and sequences that reach their end sample.
fn play(scheduler: &mut Scheduler, slices: &[Slice]) -> Vec<u64> {
    for slice in slices {
        let running = &mut scheduler.running[slice.index];
        running.computed += slice.count;
        if running.computed == running.tokens.len() {
            let id = 100 + running.tokens.len() as u32;
            running.push(TokenLogprob { id, ..TokenLogprob::default() });
        }
    }
    let mut done = vec![];
    for index in (0..scheduler.running.len()).rev() {
        if scheduler.running[index].reply().len() >= scheduler.running[index].request.sampling.max_tokens as usize {
            done.push(scheduler.finish(index).request.ticket);
        }
    }
    done
}

#[test]
fn the_same_start_is_computed_once_even_within_a_step() {
    let mut scheduler = Scheduler::new(Limits { max_num_batched_tokens: 400, ..limits() }, 64);
    let start: Vec<u32> = (0..80).collect();
    for ticket in 0..3 {
        scheduler.submit(request(ticket, [start.clone(), vec![ticket as u32; 20]].concat(), 2)).unwrap();
    }
    let counts: Vec<usize> = scheduler.schedule().iter().map(|s| s.count).collect();
    assert_eq!(counts, [100, 20, 20]);
    assert_eq!(scheduler.usage().0, 5 + 3 * 2);
    assert_eq!((scheduler.stats.queried, scheduler.stats.hits), (300, 160));
}

#[test]
fn the_last_to_come_gives_way_and_goes_on_later() {
    let mut scheduler = Scheduler::new(Limits { max_num_batched_tokens: 200, ..limits() }, 4);
    for ticket in 0..2 {
        scheduler.submit(request(ticket, vec![ticket as u32; 31], 20)).unwrap();
    }
    let mut done = vec![];
    let mut steps = 0;
    while scheduler.waiting() + scheduler.running.len() > 0 {
        let slices = scheduler.schedule();
        assert!(!slices.is_empty());
        done.extend(play(&mut scheduler, &slices));
        steps += 1;
        assert!(steps < 100);
    }
    assert_eq!(done, [0, 1]);
    assert!(scheduler.stats.preemptions > 0);
    assert_eq!(scheduler.usage().0, 0);
}

#[test]
fn kept_pages_carry_a_rollout_over_a_change_of_version_and_nobody_else() {
    for (keep_kv, same_rollout, another) in [(true, 48, 0), (false, 0, 48)] {
        let mut scheduler = Scheduler::new(Limits { keep_kv, ..limits() }, 64);
        let tokens: Vec<u32> = (0..50).collect();
        scheduler.submit(request(7, tokens.clone(), 1)).unwrap();
        let slices = scheduler.schedule();
        play(&mut scheduler, &slices);
        // Without it the new version computes the start once, and both find that.
        for (rollout, expected) in [(7, same_rollout), (8, another)] {
            scheduler.submit(Request { rollout, version: 2, ..request(rollout, tokens.clone(), 1) }).unwrap();
            let slices = scheduler.schedule();
            assert_eq!(scheduler.running[0].cached, Some(expected));
            play(&mut scheduler, &slices);
        }
    }
}

#[test]
fn a_salt_keeps_requests_apart() {
    let mut scheduler = Scheduler::new(limits(), 64);
    for (ticket, salt, expected) in [(0, 0, 0), (1, 0, 32), (2, 5, 0), (3, 5, 32)] {
        scheduler.submit(Request { salt, ..request(ticket, vec![3; 40], 1) }).unwrap();
        let slices = scheduler.schedule();
        assert_eq!(scheduler.running[0].cached, Some(expected));
        play(&mut scheduler, &slices);
    }
}

proptest! {
    /// Any requests, budgets and cache sizes: every request is answered, no page is written by two sequences, the budget
    /// holds, and nothing stays in use at the end.
    #[test]
    fn every_request_is_answered_within_the_bounds(
        sizes in proptest::collection::vec((1usize..90, 1u32..40, 0u32..3, 0usize..6), 1..14),
        pages in 9usize..20, budget in 1usize..120, seqs in 1usize..6, prefix_caching in any::<bool>(), chunk in 1usize..40,
    ) {
        let limits = Limits { max_num_seqs: seqs, max_num_batched_tokens: budget, chunk, prefix_caching, ..limits() };
        let mut scheduler = Scheduler::new(limits, pages);
        let mut waiting: Vec<(usize, Request)> = sizes.iter().enumerate().map(|(ticket, (len, max, kind, at))| {
            let tokens = (0..*len as u32).map(|i| i * (kind + 1)).collect();
            (*at, request(ticket as u64, tokens, *max))
        }).collect();
        let mut done = BTreeSet::new();
        for step in 0..10_000 {
            let (now, later) = waiting.into_iter().partition(|(at, _)| *at <= step);
            waiting = later;
            let now: Vec<(usize, Request)> = now;
            now.into_iter().for_each(|(_, request)| scheduler.submit(request).unwrap());
            let slices = scheduler.schedule();
            prop_assert!(slices.iter().map(|s| s.count).sum::<usize>() <= budget);
            prop_assert!(scheduler.running.len() <= seqs);
            prop_assert!(slices.windows(2).all(|w| w[0].index < w[1].index));
            let mut written = BTreeSet::new();
            for slice in &slices {
                let running = &scheduler.running[slice.index];
                let first = scheduler.running[slice.index].computed == 0;
                prop_assert!(slice.count > 0 && (first || slice.count <= chunk));
                prop_assert!(running.pages.len() * PAGE >= running.computed + slice.count);
                for page in running.computed / PAGE..(running.computed + slice.count).div_ceil(PAGE) {
                    prop_assert!(written.insert(running.pages[page]), "two sequences write page {}", running.pages[page]);
                }
            }
            for ticket in play(&mut scheduler, &slices) {
                prop_assert!(done.insert(ticket));
            }
            if waiting.is_empty() && scheduler.waiting() + scheduler.running.len() == 0 {
                break;
            }
        }
        prop_assert_eq!(done.len(), sizes.len());
        prop_assert_eq!(scheduler.usage().0, 0);
    }
}
