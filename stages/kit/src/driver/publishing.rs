//! Publishes to streams: sent at once up to a bound, confirmed in any order, and what the broker's refusals mean.

use crate::stage::{PublishError, Ticket};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Publishes in flight at once; the others wait their turn.
const IN_FLIGHT: usize = 512;
/// A publish of which nothing was heard for this long may or may not be stored.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// After the server came back, what was sent before is given this long.
const AFTER_RETURN: Duration = Duration::from_secs(2);

/// A publish, ready to be sent.
pub(super) struct Outgoing {
    /// `None`: nobody asks how it went.
    pub(super) ticket: Option<Ticket>,
    pub(super) subject: String,
    pub(super) headers: async_nats::HeaderMap,
    pub(super) payload: Bytes,
    /// The claim that holds the payload proper.
    pub(super) claim: Option<String>,
}

/// A publish that is waiting for its answer.
pub(super) struct Sent {
    pub(super) ticket: Option<Ticket>,
    pub(super) claim: Option<String>,
    deadline: Instant,
}

#[derive(Default)]
pub(super) struct Publishes {
    next: u64,
    sent: BTreeMap<u64, Sent>,
    waiting: VecDeque<Outgoing>,
}

impl Publishes {
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.waiting.is_empty()
    }

    pub(super) fn queue(&mut self, outgoing: Outgoing) {
        self.waiting.push_back(outgoing);
    }

    /// The next one that may be sent, with its number.
    pub(super) fn next(&mut self, now: Instant) -> Option<(u64, Outgoing)> {
        if self.sent.len() >= IN_FLIGHT {
            return None;
        }
        let outgoing = self.waiting.pop_front()?;
        self.next += 1;
        self.sent.insert(self.next, Sent { ticket: outgoing.ticket, claim: outgoing.claim.clone(), deadline: now + ANSWER_WITHIN });
        Some((self.next, outgoing))
    }

    /// Its answer came.
    pub(super) fn answered(&mut self, number: u64) -> Option<Sent> {
        self.sent.remove(&number)
    }

    /// Publishes without an answer in time. While the server is gone, time stands still.
    pub(super) fn expire(&mut self, now: Instant, up: bool) -> Vec<(Ticket, Result<u64, PublishError>)> {
        if !up {
            self.sent.values_mut().for_each(|sent| sent.deadline = sent.deadline.max(now + AFTER_RETURN));
            return Vec::new();
        }
        let late: Vec<u64> = self.sent.iter().filter(|(_, sent)| sent.deadline < now).map(|(number, _)| *number).collect();
        let expired = late.into_iter().filter_map(|number| self.sent.remove(&number)?.ticket);
        expired.map(|ticket| (ticket, Err(PublishError::Unknown("no answer in time".into())))).collect()
    }
}

#[derive(serde::Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    error: Option<Refusal>,
}

#[derive(serde::Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// What the broker answered to a publish.
pub(super) fn read_answer(payload: &[u8], no_responders: bool) -> Result<u64, PublishError> {
    if no_responders {
        return Err(PublishError::Unknown("no stream takes this subject; hint: `errand init` makes the run's streams".into()));
    }
    match serde_json::from_slice::<Answer>(payload) {
        Ok(Answer { error: None, seq }) => Ok(seq),
        Ok(Answer { error: Some(refusal), .. }) => Err(refused(&refusal)),
        Err(error) => Err(PublishError::Unknown(format!("an answer that is none: {error}"))),
    }
}

/// By JetStream's error codes: 10071 wrong last sequence, 10077 the store refused (its text says why), 10023 and 10047
/// no resources, 10054 over the largest message, 10122 the stream's own bounds.
fn refused(refusal: &Refusal) -> PublishError {
    let text = refusal.description.as_str();
    match refusal.err_code {
        10071 | 10164 => PublishError::WrongSequence,
        10077 if text.contains("per subject") => PublishError::AlreadyThere,
        10077 if text.contains("maximum") => PublishError::Full,
        10023 | 10047 | 10122 => PublishError::Full,
        code => PublishError::Unknown(format!("{text} ({code})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u64, text: &str) -> Result<u64, PublishError> {
        read_answer(
            format!(r#"{{"error":{{"code":400,"err_code":{code},"description":"{text}"}},"stream":"s","seq":0}}"#).as_bytes(),
            false,
        )
    }

    #[test]
    fn refusals_are_told_apart() {
        assert_eq!(read_answer(br#"{"stream":"s","seq":12,"duplicate":true}"#, false), Ok(12));
        assert_eq!(answer(10077, "maximum messages per subject exceeded"), Err(PublishError::AlreadyThere));
        assert_eq!(answer(10077, "maximum bytes exceeded"), Err(PublishError::Full));
        assert_eq!(answer(10071, "wrong last sequence: 3"), Err(PublishError::WrongSequence));
        assert!(matches!(answer(10077, "no space left on device"), Err(PublishError::Unknown(_))));
        assert!(matches!(read_answer(b"", true), Err(PublishError::Unknown(_))));
    }

    fn outgoing(ticket: u64) -> Outgoing {
        Outgoing {
            ticket: Some(Ticket(ticket)),
            subject: "s".into(),
            headers: async_nats::HeaderMap::new(),
            payload: Bytes::new(),
            claim: None,
        }
    }

    #[test]
    fn no_more_than_the_bound_are_in_flight() {
        let now = Instant::now();
        let mut publishes = Publishes::default();
        (0..IN_FLIGHT as u64 + 1).for_each(|n| publishes.queue(outgoing(n)));
        let mut numbers = Vec::new();
        while let Some((number, _)) = publishes.next(now) {
            numbers.push(number);
        }
        assert_eq!(numbers.len(), IN_FLIGHT);
        assert_eq!(publishes.answered(numbers[3]).and_then(|s| s.ticket), Some(Ticket(3)));
        assert_eq!(publishes.next(now).and_then(|(_, o)| o.ticket), Some(Ticket(IN_FLIGHT as u64)));
    }

    #[test]
    fn time_stands_still_while_the_server_is_gone() {
        let now = Instant::now();
        let mut publishes = Publishes::default();
        publishes.queue(outgoing(1));
        assert!(publishes.next(now).is_some());
        let later = now + Duration::from_secs(30);
        assert!(publishes.expire(later, false).is_empty());
        assert!(publishes.expire(later + Duration::from_secs(1), true).is_empty());
        assert_eq!(publishes.expire(later + Duration::from_secs(3), true).len(), 1);
        assert!(publishes.is_empty());
    }
}
