//! Durable messages in hand, fetches under way, and acks whose confirmation is waited for.

use crate::stage::{Durable, Input};
use async_nats::Subject;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// How long the server holds a fetch open when nothing comes.
pub(super) const FETCH_EXPIRES: Duration = Duration::from_secs(1);
/// After this the server's word that a fetch is over must have been lost.
const FETCH_LOST: Duration = Duration::from_millis(2500);
/// An ack that was not confirmed for this long is sent again.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// Messages that were handed to the logic and are not acked: the subject that takes their ack.
#[derive(Default)]
pub(super) struct Deliveries {
    next: u64,
    held: HashMap<u64, Subject>,
}

impl Deliveries {
    pub(super) fn hold(&mut self, ack: Subject) -> u64 {
        self.next += 1;
        self.held.insert(self.next, ack);
        self.next
    }

    pub(super) fn get(&self, delivery: u64) -> Option<&Subject> {
        self.held.get(&delivery)
    }

    pub(super) fn release(&mut self, delivery: u64) -> Option<Subject> {
        self.held.remove(&delivery)
    }
}

/// What an ack subject says of its message: `$JS.ACK.[domain.hash.]stream.consumer.count.sequence.…`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AckSubject<'a> {
    /// `stream.consumer`
    pub(super) durable: &'a str,
    pub(super) count: u64,
    pub(super) sequence: u64,
}

/// Reads an ack subject of either form; `None` for any other subject.
pub(super) fn parse_ack(subject: &str) -> Option<AckSubject<'_>> {
    let rest = subject.strip_prefix("$JS.ACK.")?;
    let tokens = rest.split('.').count();
    // The older form has seven tokens after the prefix, the newer one two before them.
    let skip = if tokens >= 9 { 2 } else { 0 };
    let start: usize = rest.split('.').take(skip).map(|t| t.len() + 1).sum();
    let named = rest.get(start..)?;
    let mut parts = named.split('.');
    let length = parts.next()?.len() + 1 + parts.next()?.len();
    let count = parts.next()?.parse().ok()?;
    let sequence = parts.next()?.parse().ok()?;
    Some(AckSubject { durable: &named[..length], count, sequence })
}

/// Credits that were asked for, by durable. The server serves the open fetches of a durable in turn, so that what came
/// is counted against their sum.
#[derive(Default)]
pub(super) struct Fetches {
    next: u64,
    /// By `<stream>.<consumer>`.
    ledgers: BTreeMap<String, Ledger>,
    /// Which durable an open fetch belongs to.
    open: BTreeMap<u64, (String, Instant)>,
}

struct Ledger {
    durable: Durable,
    missing: u32,
    open: u32,
}

impl Fetches {
    /// Opens a fetch and gives its number.
    pub(super) fn open(&mut self, key: &str, durable: Durable, count: u32, now: Instant) -> u64 {
        self.next += 1;
        let ledger = self.ledgers.entry(key.to_string()).or_insert(Ledger { durable, missing: 0, open: 0 });
        ledger.missing += count;
        ledger.open += 1;
        self.open.insert(self.next, (key.to_string(), now + FETCH_LOST));
        self.next
    }

    /// A message of this durable came.
    pub(super) fn came(&mut self, key: &str) {
        let Some(ledger) = self.ledgers.get_mut(key) else { return };
        ledger.missing = ledger.missing.saturating_sub(1);
        if ledger.missing == 0 && ledger.open > 0 {
            ledger.open = 0;
            self.open.retain(|_, (k, _)| k != key);
        }
    }

    /// The server says that a fetch is over; `pending` of it did not come, where it says so.
    pub(super) fn ended(&mut self, fetch: u64, pending: Option<u32>) -> Option<Input> {
        let (key, _) = self.open.remove(&fetch)?;
        let ledger = self.ledgers.get_mut(&key)?;
        ledger.open = ledger.open.saturating_sub(1);
        let missing = if ledger.open == 0 { ledger.missing } else { pending.unwrap_or(0).min(ledger.missing) };
        ledger.missing -= missing;
        (missing > 0).then(|| Input::FetchEnded { durable: ledger.durable.clone(), missing })
    }

    /// Fetches of which nothing was heard in time.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Input> {
        let late: Vec<u64> = self.open.iter().filter(|(_, (_, lost))| *lost < now).map(|(fetch, _)| *fetch).collect();
        late.into_iter().filter_map(|fetch| self.ended(fetch, None)).collect()
    }
}

/// Acks that the broker has not confirmed.
#[derive(Default)]
pub(super) struct Confirms {
    next: u64,
    waiting: BTreeMap<u64, Confirm>,
}

struct Confirm {
    ack: Subject,
    first: Instant,
    last: Instant,
}

impl Confirms {
    pub(super) fn open(&mut self, ack: Subject, now: Instant) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, Confirm { ack, first: now, last: now });
        self.next
    }

    pub(super) fn confirmed(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What is to be sent again. What was not confirmed for `wait` is given up: the message comes again by itself.
    pub(super) fn overdue(&mut self, now: Instant, wait: Duration) -> (Vec<(u64, Subject)>, usize) {
        let before = self.waiting.len();
        self.waiting.retain(|_, confirm| now.duration_since(confirm.first) < wait);
        let given_up = before - self.waiting.len();
        let due = self.waiting.iter_mut().filter(|(_, c)| now.duration_since(c.last) > CONFIRM_AFTER);
        let again = due.map(|(number, confirm)| {
            confirm.last = now;
            (*number, confirm.ack.clone())
        });
        (again.collect(), given_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::subjects::Stream;

    #[test]
    fn both_forms_of_ack_subjects_are_read() {
        let old = "$JS.ACK.errand-r-ends.learner.2.17.5.1700000000000000000.3";
        let new = "$JS.ACK.hub.aBc123.errand-r-ends.learner.2.17.5.1700000000000000000.3";
        let newest = "$JS.ACK._.aBc123.errand-r-ends.learner.2.17.5.1700000000000000000.3.token";
        for subject in [old, new, newest] {
            let expected = AckSubject { durable: "errand-r-ends.learner", count: 2, sequence: 17 };
            assert_eq!(parse_ack(subject), Some(expected), "{subject}");
        }
        assert_eq!(parse_ack("_INBOX.x.p.3"), None);
        assert_eq!(parse_ack("$JS.ACK.a"), None);
    }

    fn durable() -> Durable {
        Durable { stream: Stream::Episodes, name: "d".into() }
    }

    fn missing(input: Option<Input>) -> Option<u32> {
        input.map(|input| match input {
            Input::FetchEnded { missing, .. } => missing,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn credits_of_two_fetches_add_up() {
        let now = Instant::now();
        let mut fetches = Fetches::default();
        let first = fetches.open("s.d", durable(), 4, now);
        let second = fetches.open("s.d", durable(), 2, now);
        fetches.came("s.d");
        assert_eq!(missing(fetches.ended(first, Some(3))), Some(3));
        assert_eq!(missing(fetches.ended(second, Some(2))), Some(2));
        assert_eq!(missing(fetches.ended(second, Some(2))), None);
    }

    #[test]
    fn a_fetch_that_was_filled_is_over_without_a_word() {
        let now = Instant::now();
        let mut fetches = Fetches::default();
        let fetch = fetches.open("s.d", durable(), 2, now);
        fetches.came("s.d");
        fetches.came("s.d");
        assert_eq!(missing(fetches.ended(fetch, None)), None);
        assert!(fetches.expire(now + Duration::from_secs(60)).is_empty());
    }

    #[test]
    fn a_lost_fetch_gives_its_credit_back() {
        let now = Instant::now();
        let mut fetches = Fetches::default();
        fetches.open("s.d", durable(), 2, now);
        let ended = fetches.expire(now + Duration::from_secs(60));
        assert_eq!(ended.len(), 1);
    }

    #[test]
    fn an_unconfirmed_ack_is_sent_again_and_at_last_given_up() {
        let now = Instant::now();
        let mut confirms = Confirms::default();
        let number = confirms.open("a".into(), now);
        let wait = Duration::from_secs(60);
        assert!(confirms.overdue(now, wait).0.is_empty());
        assert_eq!(confirms.overdue(now + Duration::from_secs(2), wait).0, vec![(number, Subject::from("a"))]);
        assert_eq!(confirms.overdue(now + Duration::from_secs(61), wait).1, 1);
        assert!(confirms.is_empty());
    }
}
