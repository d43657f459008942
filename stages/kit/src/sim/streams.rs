//! Streams and durables as JetStream keeps them: retention, bounds, acks, redelivery, MaxAckPending.
//!
//! Nothing here knows of delays, faults or stages; times are virtual microseconds, handed in.

use crate::stage::PublishError;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What becomes of a message that was acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// It stays.
    Limits,
    /// It goes with its one ack.
    WorkQueue,
    /// It goes when every durable that wants it has acked it; with no such durable it is never stored.
    Interest,
}

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub sequence: u64,
    pub subject: String,
    pub headers: BTreeMap<String, String>,
    pub payload: Vec<u8>,
}

/// Settings of a stream.
#[derive(Clone, Debug)]
pub(super) struct StreamSettings {
    pub(super) subjects: String,
    pub(super) retention: Retention,
    pub(super) max_per_subject: Option<u64>,
    /// A further message of a subject that is at its bound is refused; otherwise the oldest goes.
    pub(super) discard_new_per_subject: bool,
}

#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) settings: StreamSettings,
    pub(super) stored: BTreeMap<u64, Stored>,
    pub(super) last_sequence: u64,
    /// Every message that was ever stored, for inspection.
    pub(super) history: Vec<Stored>,
    /// By `Nats-Msg-Id`: sequence and time.
    seen: BTreeMap<String, (u64, u64)>,
    pub(super) durables: BTreeMap<String, DurableState>,
}

/// JetStream's default window for `Nats-Msg-Id`.
const DEDUPE_US: u64 = 120_000_000;

impl StreamState {
    pub(super) fn new(settings: StreamSettings) -> StreamState {
        StreamState {
            settings,
            stored: BTreeMap::new(),
            last_sequence: 0,
            history: vec![],
            seen: BTreeMap::new(),
            durables: BTreeMap::new(),
        }
    }

    /// Stores a message and gives its sequence number; `Ok((n, false))` if it was there already.
    pub(super) fn publish(
        &mut self,
        subject: &str,
        headers: BTreeMap<String, String>,
        payload: Vec<u8>,
        expected_last: Option<u64>,
        now_us: u64,
    ) -> Result<(u64, bool), PublishError> {
        let id = headers.get("Nats-Msg-Id").cloned();
        if let Some((sequence, at)) = id.as_ref().and_then(|id| self.seen.get(id))
            && now_us < at + DEDUPE_US
        {
            return Ok((*sequence, false));
        }
        if expected_last.is_some_and(|expected| expected != self.last_sequence) {
            return Err(PublishError::WrongSequence);
        }
        let same: Vec<u64> = match self.settings.max_per_subject {
            Some(_) => self.stored.values().filter(|m| m.subject == subject).map(|m| m.sequence).collect(),
            None => vec![],
        };
        if self.settings.max_per_subject.is_some_and(|max| same.len() as u64 >= max) {
            if self.settings.discard_new_per_subject {
                return Err(PublishError::AlreadyThere);
            }
            self.stored.remove(&same[0]);
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        if let Some(id) = id {
            self.seen.insert(id, (sequence, now_us));
        }
        let wanted = self.durables.values().any(|d| matches(&d.filter, subject));
        if self.settings.retention != Retention::Interest || wanted {
            let message = Stored { sequence, subject: subject.to_string(), headers, payload };
            self.history.push(message.clone());
            self.stored.insert(sequence, message);
        }
        Ok((sequence, true))
    }

    /// A durable is done with a message; returns whether that was news.
    pub(super) fn ack(&mut self, durable: &str, sequence: u64) -> bool {
        let Some(state) = self.durables.get_mut(durable) else { return false };
        let news = state.pending.remove(&sequence).is_some() | state.again.remove(&sequence).is_some();
        if news {
            state.acked.insert(sequence);
        }
        let subject = self.stored.get(&sequence).map(|m| m.subject.clone());
        let gone = match (self.settings.retention, subject) {
            (Retention::Limits, _) | (_, None) => false,
            (Retention::WorkQueue, Some(_)) => news,
            (Retention::Interest, Some(subject)) => {
                self.durables.values().all(|d| !matches(&d.filter, &subject) || d.acked.contains(&sequence))
            }
        };
        if gone {
            self.stored.remove(&sequence);
        }
        news
    }

    /// The next message for the oldest open pull of a durable, now counted as delivered.
    pub(super) fn next(&mut self, durable: &str, now_us: u64) -> Option<Handed> {
        let state = self.durables.get_mut(durable)?;
        state.pulls.retain(|pull| pull.left > 0);
        if state.pulls.is_empty() || state.pending.len() >= state.max_ack_pending {
            return None;
        }
        let again = state.again.iter().find(|(_, not_before)| **not_before <= now_us).map(|(sequence, _)| *sequence);
        let fresh =
            || self.stored.range(state.next_sequence..).find(|(_, m)| matches(&state.filter, &m.subject)).map(|(sequence, _)| *sequence);
        let sequence = again.or_else(fresh)?;
        if again.is_some() {
            state.again.remove(&sequence);
        } else {
            state.next_sequence = sequence + 1;
        }
        let message = self.stored.get(&sequence)?.clone();
        let count = state.counts.entry(sequence).or_insert(0);
        *count += 1;
        state.pending.insert(sequence, now_us + state.ack_wait_us);
        let pull = state.pulls.front_mut()?;
        pull.left -= 1;
        Some(Handed { to: pull.to, count: *count, message, headers_only: state.headers_only, deadline_us: now_us + state.ack_wait_us })
    }

    /// Messages whose ack did not come in time are to be delivered again.
    pub(super) fn expire(&mut self, durable: &str, now_us: u64) {
        let Some(state) = self.durables.get_mut(durable) else { return };
        let late: Vec<u64> = state.pending.iter().filter(|(_, deadline)| **deadline <= now_us).map(|(sequence, _)| *sequence).collect();
        for sequence in late {
            state.pending.remove(&sequence);
            state.again.insert(sequence, now_us);
        }
    }

    pub(super) fn nak(&mut self, durable: &str, sequence: u64, not_before_us: u64) {
        let Some(state) = self.durables.get_mut(durable) else { return };
        if state.pending.remove(&sequence).is_some() {
            state.again.insert(sequence, not_before_us);
        }
    }

    /// A new deadline, if the message is still out.
    pub(super) fn progress(&mut self, durable: &str, sequence: u64, now_us: u64) -> Option<u64> {
        let state = self.durables.get_mut(durable)?;
        let deadline = state.pending.get_mut(&sequence)?;
        *deadline = now_us + state.ack_wait_us;
        Some(*deadline)
    }
}

/// A message on its way to whoever asked for it.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) to: Puller,
    pub(super) count: u64,
    pub(super) message: Stored,
    pub(super) headers_only: bool,
    pub(super) deadline_us: u64,
}

/// Who asked: a node in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Puller {
    pub(super) node: usize,
    pub(super) life: u64,
}

#[derive(Debug)]
pub(super) struct Pull {
    pub(super) id: u64,
    pub(super) to: Puller,
    pub(super) left: u32,
}

#[derive(Debug)]
pub(super) struct DurableState {
    pub(super) filter: String,
    pub(super) headers_only: bool,
    pub(super) ack_wait_us: u64,
    pub(super) max_ack_pending: usize,
    next_sequence: u64,
    /// Sequence and deadline of what is out.
    pub(super) pending: BTreeMap<u64, u64>,
    /// What is to be delivered again, and from when on.
    pub(super) again: BTreeMap<u64, u64>,
    counts: BTreeMap<u64, u64>,
    acked: BTreeSet<u64>,
    pub(super) pulls: VecDeque<Pull>,
}

impl DurableState {
    pub(super) fn new(filter: String, headers_only: bool, ack_wait_us: u64, max_ack_pending: usize) -> DurableState {
        DurableState {
            filter,
            headers_only,
            ack_wait_us,
            max_ack_pending,
            next_sequence: 1,
            pending: BTreeMap::new(),
            again: BTreeMap::new(),
            counts: BTreeMap::new(),
            acked: BTreeSet::new(),
            pulls: VecDeque::new(),
        }
    }
}

/// Whether a subject fits a filter with `*` for one token and `>` for the rest.
pub(super) fn matches(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in filter.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> StreamState {
        let settings = StreamSettings {
            subjects: "e.>".into(),
            retention: Retention::Interest,
            max_per_subject: Some(1),
            discard_new_per_subject: true,
        };
        let mut stream = StreamState::new(settings);
        for name in ["a", "b"] {
            stream.durables.insert(name.into(), DurableState::new("e.>".into(), name == "b", 1_000, 10));
        }
        stream
    }

    fn pull(stream: &mut StreamState, durable: &str, left: u32) {
        let pulls = &mut stream.durables.get_mut(durable).unwrap().pulls;
        pulls.push_back(Pull { id: 1, to: Puller { node: 0, life: 1 }, left });
    }

    fn put(stream: &mut StreamState, subject: &str) -> Result<(u64, bool), PublishError> {
        stream.publish(subject, BTreeMap::new(), vec![1], None, 0)
    }

    #[test]
    fn filters_match_by_token() {
        assert!(matches("a.*.c", "a.b.c") && matches("a.>", "a.b.c") && matches("a", "a"));
        assert!(!matches("a.*", "a.b.c") && !matches("a.>", "a") && !matches("a.b", "a") && !matches("a", "ab"));
    }

    #[test]
    fn interest_keeps_a_message_until_all_have_acked() {
        let mut stream = ends();
        assert_eq!(put(&mut stream, "e.1"), Ok((1, true)));
        assert_eq!(put(&mut stream, "e.1"), Err(PublishError::AlreadyThere));
        for durable in ["a", "b"] {
            pull(&mut stream, durable, 1);
            assert_eq!(stream.next(durable, 0).map(|h| h.message.sequence), Some(1));
        }
        assert!(stream.ack("a", 1));
        assert_eq!(stream.stored.len(), 1);
        assert!(stream.ack("b", 1) && !stream.ack("b", 1));
        assert!(stream.stored.is_empty() && stream.history.len() == 1);
    }

    #[test]
    fn what_is_not_acked_in_time_comes_again_and_is_counted() {
        let mut stream = ends();
        put(&mut stream, "e.1").unwrap();
        pull(&mut stream, "a", 3);
        assert_eq!(stream.next("a", 0).map(|h| h.count), Some(1));
        assert!(stream.next("a", 0).is_none());
        stream.progress("a", 1, 500);
        stream.expire("a", 1_000);
        assert!(stream.next("a", 1_000).is_none());
        stream.expire("a", 1_500);
        assert_eq!(stream.next("a", 1_500).map(|h| h.count), Some(2));
        stream.nak("a", 1, 3_000);
        assert!(stream.next("a", 2_000).is_none());
        assert_eq!(stream.next("a", 3_000).map(|h| h.count), Some(3));
    }

    #[test]
    fn a_durable_stops_at_max_ack_pending() {
        let mut stream = ends();
        stream.durables.get_mut("a").unwrap().max_ack_pending = 1;
        put(&mut stream, "e.1").unwrap();
        put(&mut stream, "e.2").unwrap();
        pull(&mut stream, "a", 2);
        assert!(stream.next("a", 0).is_some() && stream.next("a", 0).is_none());
        stream.ack("a", 1);
        assert_eq!(stream.next("a", 0).map(|h| h.message.sequence), Some(2));
    }

    #[test]
    fn expectations_and_message_ids_are_kept() {
        let settings =
            StreamSettings { subjects: "p".into(), retention: Retention::Limits, max_per_subject: None, discard_new_per_subject: false };
        let mut stream = StreamState::new(settings);
        assert_eq!(stream.publish("p", BTreeMap::new(), vec![], Some(1), 0), Err(PublishError::WrongSequence));
        let id = BTreeMap::from([("Nats-Msg-Id".to_string(), "x".to_string())]);
        assert_eq!(stream.publish("p", id.clone(), vec![], Some(0), 0), Ok((1, true)));
        assert_eq!(stream.publish("p", id.clone(), vec![], None, 1), Ok((1, false)));
        assert_eq!(stream.publish("p", id, vec![], None, DEDUPE_US + 1), Ok((2, true)));
    }

    #[test]
    fn a_bound_of_one_a_subject_keeps_the_last() {
        let settings =
            StreamSettings { subjects: "g".into(), retention: Retention::Limits, max_per_subject: Some(1), discard_new_per_subject: false };
        let mut stream = StreamState::new(settings);
        put(&mut stream, "g").unwrap();
        put(&mut stream, "g").unwrap();
        assert_eq!(stream.stored.keys().copied().collect::<Vec<_>>(), vec![2]);
    }
}
