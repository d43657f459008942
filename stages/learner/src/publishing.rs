//! Getting a version and a grant out to the others, once each, over any answer of the broker.
//!
//! A version goes into the object store first, then its announcement onto the policies stream, behind the announcement
//! before it. A grant is cumulative, so that only the newest matters.

use kit::stage::{Output, PublishError, Ticket};
use schemas::{Grant, PolicyPublished, subjects};
use std::collections::BTreeMap;

/// How long after a failure the next attempt is made.
const RETRY_MS: u64 = 500;

#[derive(Debug)]
enum Step {
    Idle,
    Putting(Ticket),
    Announcing(Ticket),
    /// At this time again, from the object on or from the announcement.
    Resting {
        at_ms: u64,
        put: bool,
    },
}

/// Publishes one version at a time.
#[derive(Debug)]
pub(crate) struct Publisher {
    run: String,
    step: Step,
    policy: Option<(PolicyPublished, Vec<u8>)>,
    /// The last sequence of the policies stream, once it is known.
    last_sequence: Option<u64>,
    /// The last attempt may have been stored without our hearing of it.
    uncertain: bool,
}

impl Publisher {
    pub(crate) fn new(run: &str) -> Publisher {
        Publisher { run: run.into(), step: Step::Idle, policy: None, last_sequence: None, uncertain: false }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.policy.is_some()
    }

    pub(crate) fn begin(&mut self, policy: PolicyPublished, weights: Vec<u8>, ticket: Ticket) -> Output {
        let put = Output::PutObject { ticket, name: policy.object.clone(), bytes: weights.clone() };
        self.policy = Some((policy, weights));
        self.uncertain = false;
        self.step = Step::Putting(ticket);
        put
    }

    fn put(&mut self, ticket: Ticket) -> Option<Output> {
        let (policy, weights) = self.policy.as_ref()?;
        self.step = Step::Putting(ticket);
        Some(Output::PutObject { ticket, name: policy.object.clone(), bytes: weights.clone() })
    }

    fn announce(&mut self, ticket: Ticket) -> Option<Output> {
        let (policy, _) = self.policy.as_ref()?;
        self.step = Step::Announcing(ticket);
        // The same words twice are one message to the broker, so that an attempt whose answer was lost is not repeated.
        let id = format!("policy-{}-{}", policy.version, policy.epoch);
        Some(Output::PublishDurable {
            ticket,
            subject: subjects::policies(&self.run),
            headers: BTreeMap::from([("Nats-Msg-Id".to_string(), id)]),
            payload: schemas::encode(policy),
            expected_last_sequence: self.last_sequence,
        })
    }

    /// The object is stored, or not.
    pub(crate) fn on_put(&mut self, ticket: Ticket, result: Result<(), String>, next: Ticket, now_ms: u64) -> Option<Output> {
        if !matches!(self.step, Step::Putting(waiting) if waiting == ticket) {
            return None;
        }
        match result {
            Ok(()) => self.announce(next),
            Err(reason) => {
                tracing::warn!("weights could not be stored, trying again: {reason}");
                self.step = Step::Resting { at_ms: now_ms + RETRY_MS, put: true };
                None
            }
        }
    }

    /// The announcement is stored (gives the version), or not.
    ///
    /// # Errors
    /// Another learner has published: this one must stop.
    pub(crate) fn on_published(&mut self, ticket: Ticket, result: Result<u64, PublishError>, now_ms: u64) -> Result<Option<u64>, String> {
        if !matches!(self.step, Step::Announcing(waiting) if waiting == ticket) {
            return Ok(None);
        }
        match result {
            Ok(sequence) => {
                self.last_sequence = Some(sequence);
                Ok(self.finish())
            }
            Err(PublishError::WrongSequence) if self.uncertain => {
                // Our own attempt before this one was stored; where, the next announcement's answer will say.
                self.last_sequence = None;
                Ok(self.finish())
            }
            Err(PublishError::WrongSequence) => Err("another learner has published a policy; hint: a run has one learner at a time".into()),
            Err(error) => {
                self.uncertain |= matches!(error, PublishError::Unknown(_));
                tracing::warn!("a policy could not be announced, trying again: {error:?}");
                self.step = Step::Resting { at_ms: now_ms + RETRY_MS, put: false };
                Ok(None)
            }
        }
    }

    fn finish(&mut self) -> Option<u64> {
        self.step = Step::Idle;
        self.policy.take().map(|(policy, _)| policy.version)
    }

    pub(crate) fn on_tick(&mut self, ticket: Ticket, now_ms: u64) -> Option<Output> {
        match self.step {
            Step::Resting { at_ms, put } if now_ms >= at_ms => {
                if put {
                    self.put(ticket)
                } else {
                    self.announce(ticket)
                }
            }
            _ => None,
        }
    }
}

/// Publishes the newest grant.
#[derive(Debug, Default)]
pub(crate) struct Granter {
    sent: Option<Grant>,
    under_way: Option<(Ticket, Grant)>,
    rest_until_ms: u64,
}

impl Granter {
    /// Publishes `grant` unless it is what was published last.
    pub(crate) fn offer(&mut self, run: &str, grant: Grant, ticket: Ticket, now_ms: u64) -> Option<Output> {
        if self.under_way.is_some() || self.sent.as_ref() == Some(&grant) || now_ms < self.rest_until_ms {
            return None;
        }
        let payload = schemas::encode(&grant);
        self.under_way = Some((ticket, grant));
        let subject = subjects::grants(run);
        Some(Output::PublishDurable { ticket, subject, headers: BTreeMap::new(), payload, expected_last_sequence: None })
    }

    pub(crate) fn on_published(&mut self, ticket: Ticket, result: &Result<u64, PublishError>, now_ms: u64) {
        if self.under_way.as_ref().is_none_or(|(waiting, _)| *waiting != ticket) {
            return;
        }
        let grant = self.under_way.take().map(|(_, grant)| grant);
        match result {
            Ok(_) => self.sent = grant,
            Err(error) => {
                tracing::warn!("a grant could not be published, trying again: {error:?}");
                self.rest_until_ms = now_ms + RETRY_MS;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Message;

    fn begun() -> Publisher {
        let mut publisher = Publisher::new("r");
        let out = publisher.begin(PolicyPublished::example(), b"w".to_vec(), Ticket(1));
        assert!(matches!(out, Output::PutObject { ref name, .. } if name == "policy-3"), "{out:?}");
        publisher
    }

    fn expected(out: Option<Output>) -> Option<u64> {
        let Some(Output::PublishDurable { expected_last_sequence, .. }) = out else { panic!("{out:?}") };
        expected_last_sequence
    }

    #[test]
    fn the_object_comes_first_and_each_announcement_follows_the_last() {
        let mut publisher = begun();
        assert_eq!(expected(publisher.on_put(Ticket(1), Ok(()), Ticket(2), 0)), None);
        assert_eq!(publisher.on_published(Ticket(2), Ok(7), 0), Ok(Some(3)));
        assert!(!publisher.is_busy());
        publisher.begin(PolicyPublished::example(), vec![], Ticket(3));
        assert_eq!(expected(publisher.on_put(Ticket(3), Ok(()), Ticket(4), 0)), Some(7));
        assert!(publisher.on_published(Ticket(4), Err(PublishError::WrongSequence), 0).is_err(), "someone else has published");
    }

    #[test]
    fn failures_are_tried_again() {
        let mut publisher = begun();
        assert!(publisher.on_put(Ticket(1), Err("full".into()), Ticket(2), 0).is_none());
        assert!(publisher.on_tick(Ticket(3), 100).is_none());
        assert!(matches!(publisher.on_tick(Ticket(3), 500), Some(Output::PutObject { .. })));
        publisher.on_put(Ticket(3), Ok(()), Ticket(4), 500);
        assert_eq!(publisher.on_published(Ticket(4), Err(PublishError::Full), 500), Ok(None));
        assert!(matches!(publisher.on_tick(Ticket(5), 1000), Some(Output::PublishDurable { .. })));
    }

    #[test]
    fn an_attempt_whose_answer_was_lost_is_not_taken_for_another_learner() {
        let mut publisher = begun();
        publisher.on_put(Ticket(1), Ok(()), Ticket(2), 0);
        publisher.on_published(Ticket(2), Err(PublishError::Unknown("no answer".into())), 0).unwrap();
        publisher.on_tick(Ticket(3), 500);
        assert_eq!(publisher.on_published(Ticket(3), Err(PublishError::WrongSequence), 500), Ok(Some(3)));
    }

    #[test]
    fn only_a_new_grant_is_published() {
        let mut granter = Granter::default();
        let offer = |granter: &mut Granter, upto_group, ticket, now| {
            granter.offer("r", Grant { upto_group, ..Grant::example() }, Ticket(ticket), now)
        };
        assert!(offer(&mut granter, 1, 1, 0).is_some());
        assert!(offer(&mut granter, 2, 2, 0).is_none(), "one at a time");
        granter.on_published(Ticket(1), &Ok(1), 0);
        assert!(offer(&mut granter, 1, 3, 0).is_none(), "nothing new");
        assert!(offer(&mut granter, 2, 4, 0).is_some());
        granter.on_published(Ticket(4), &Err(PublishError::Full), 0);
        assert!(offer(&mut granter, 2, 5, 100).is_none());
        assert!(offer(&mut granter, 2, 6, 500).is_some());
    }
}
