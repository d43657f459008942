//! How many episodes to ask of which split's durable.
//!
//! In: how much room there is, what is held of each split, what came of earlier fetches. Out: fetches. An outstanding
//! fetch reserves room, so a durable is asked for at most twice what it gave last; one that gave nothing is only probed
//! for a single episode, beyond the room if need be, so that an empty split never keeps slots from a full one.

use schemas::Split;

/// Milliseconds between the end of a fruitless probe and the next one.
const PROBE_PAUSE_MS: u64 = 100;
/// A fetch of which nothing is heard for so long is taken for lost.
const LOST_FETCH_MS: u64 = 60_000;

#[derive(Debug, Default, Clone)]
struct Line {
    /// Episodes asked for that have neither come nor been given up.
    outstanding: u32,
    asked_ms: u64,
    /// What the fetch in progress has given so far.
    given: u32,
    /// The largest next fetch.
    next: u32,
    quiet: bool,
    probe_at_ms: u64,
}

/// The fetches of one stepper, one line a split.
#[derive(Debug)]
pub(crate) struct Fetches {
    lines: [Line; 3],
}

fn index(split: Split) -> usize {
    match split {
        Split::Train => 0,
        Split::Val => 1,
        Split::Expert => 2,
    }
}

/// Slots are dealt so that what is held is in this proportion wherever there is enough of each.
fn weight(split: Split) -> u32 {
    match split {
        Split::Train | Split::Expert => 2,
        Split::Val => 1,
    }
}

impl Fetches {
    pub(crate) fn new() -> Fetches {
        let line = Line { next: 1, quiet: true, ..Line::default() };
        Fetches { lines: [line.clone(), line.clone(), line] }
    }

    /// An episode of this split was delivered.
    pub(crate) fn arrived(&mut self, split: Split) {
        let line = &mut self.lines[index(split)];
        line.outstanding = line.outstanding.saturating_sub(1);
        line.given = line.given.saturating_add(1);
        line.quiet = false;
        line.next = line.next.max(line.given.saturating_mul(2));
    }

    /// A fetch ended with `missing` episodes fewer than asked for.
    pub(crate) fn ended(&mut self, split: Split, missing: u32, now_ms: u64) {
        let line = &mut self.lines[index(split)];
        line.outstanding = line.outstanding.saturating_sub(missing);
        line.next = line.given.saturating_mul(2).max(1);
        if line.given == 0 {
            line.quiet = true;
            line.probe_at_ms = now_ms + PROBE_PAUSE_MS;
        }
    }

    /// Room that outstanding fetches of lively splits have reserved.
    pub(crate) fn reserved(&self) -> u32 {
        self.lines.iter().filter(|l| !l.quiet).map(|l| l.outstanding).sum()
    }

    /// What to ask for now. `room`: episodes that could be taken, reservations not yet subtracted; `held`: episodes of
    /// each split in hand.
    pub(crate) fn plan(&mut self, room: u32, held: impl Fn(Split) -> u32, now_ms: u64) -> Vec<(Split, u32)> {
        for line in &mut self.lines {
            if line.outstanding > 0 && now_ms.saturating_sub(line.asked_ms) > LOST_FETCH_MS {
                line.outstanding = 0;
            }
        }
        let mut free = room.saturating_sub(self.reserved());
        if room == 0 {
            return vec![];
        }
        let mut share = [0u32; 3];
        while free > 0 {
            let open = |s: &Split| {
                let line = &self.lines[index(*s)];
                !line.quiet && line.outstanding == 0 && share[index(*s)] < line.next
            };
            let load = |s: &Split| (held(*s) + share[index(*s)]) * (2 / weight(*s));
            let Some(split) = Split::ALL.into_iter().filter(open).min_by_key(load) else { break };
            share[index(split)] += 1;
            free -= 1;
        }
        for split in Split::ALL {
            let line = &self.lines[index(split)];
            if line.quiet && line.outstanding == 0 && now_ms >= line.probe_at_ms {
                share[index(split)] = 1;
            }
        }
        let mut plan = vec![];
        for split in Split::ALL {
            let count = share[index(split)];
            if count > 0 {
                let line = &mut self.lines[index(split)];
                *line = Line { outstanding: count, asked_ms: now_ms, given: 0, ..line.clone() };
                plan.push((split, count));
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker with so many episodes waiting in each split; answers every fetch at once.
    fn serve(fetches: &mut Fetches, waiting: &mut [u32; 3], held: &mut [u32; 3], capacity: u32, now_ms: u64) {
        let room = capacity.saturating_sub(held.iter().sum());
        let now_held = *held;
        for (split, count) in fetches.plan(room, |s| now_held[index(s)], now_ms) {
            let given = count.min(waiting[index(split)]);
            for _ in 0..given {
                fetches.arrived(split);
                waiting[index(split)] -= 1;
                held[index(split)] += 1;
            }
            if given < count {
                fetches.ended(split, count - given, now_ms);
            }
        }
    }

    #[test]
    fn slots_fill_whichever_split_has_work() {
        for only in 0..3 {
            let (mut fetches, mut waiting, mut held) = (Fetches::new(), [0; 3], [0; 3]);
            waiting[only] = 1000;
            for round in 0..12 {
                serve(&mut fetches, &mut waiting, &mut held, 64, round * 10);
            }
            assert!(held[only] >= 64 && held[only] <= 66, "{held:?}");
        }
    }

    #[test]
    fn validation_gets_its_share_beside_a_full_training_queue() {
        let (mut fetches, mut waiting, mut held) = (Fetches::new(), [1000, 1000, 0], [0; 3]);
        for round in 0..12 {
            serve(&mut fetches, &mut waiting, &mut held, 64, round * 10);
        }
        assert!(held[1] >= 16, "{held:?}");
        // Later, with training episodes in every slot, freed slots go to validation first.
        let (mut fetches, mut waiting, mut held) = (Fetches::new(), [1000, 0, 0], [0; 3]);
        for round in 0..12 {
            serve(&mut fetches, &mut waiting, &mut held, 64, round * 10);
        }
        waiting[1] = 100;
        for round in 12..60 {
            held[0] = held[0].saturating_sub(4);
            serve(&mut fetches, &mut waiting, &mut held, 64, round * 100);
        }
        assert!(held[1] >= 20, "{held:?}");
    }

    #[test]
    fn an_unanswered_fetch_reserves_its_room_and_no_more() {
        let mut fetches = Fetches::new();
        assert_eq!(fetches.plan(8, |_| 0, 0).len(), 3, "each split is probed");
        fetches.arrived(Split::Train);
        let plan = fetches.plan(7, |_| 0, 1);
        assert_eq!(plan, vec![(Split::Train, 2)]);
        assert_eq!(fetches.reserved(), 2);
        assert!(fetches.plan(7, |_| 0, 2).is_empty(), "one fetch a durable at a time");
        fetches.ended(Split::Train, 2, 3);
        assert_eq!(fetches.reserved(), 0);
        assert!(fetches.plan(7, |_| 0, 4).is_empty(), "a quiet durable is not asked in a loop");
        assert_eq!(fetches.plan(7, |_| 0, 200), vec![(Split::Train, 1)]);
    }
}
