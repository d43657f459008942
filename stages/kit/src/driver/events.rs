//! What happened, turned into inputs of the logic.

use super::deliveries::parse_ack;
use super::jobs::{self, Done};
use super::publishing::read_answer;
use super::{Control, Driver, Event};
use crate::error::Error;
use crate::follow::plain;
use crate::lifeline::DRAIN;
use crate::program::{KILLED, Outcome};
use crate::stage::{Delivered, Delivery, Input, PublishError};
use crate::store::{CLAIM_HEADER, CORE_CLAIM};
use async_nats::{Message, StatusCode};
use bytes::Bytes;
use std::time::Instant;

impl Driver {
    pub(super) async fn handle(&mut self, event: Event) -> Result<(), Error> {
        if self.exit.is_some() {
            return self.handle_late(event).await;
        }
        match event {
            Event::Tick => self.on_tick().await,
            Event::Core(message) => self.on_core(message).await,
            Event::Inbox(message) => {
                if message.reply.as_deref().is_some_and(|reply| reply.starts_with("$JS.ACK.")) {
                    self.on_durable(message).await;
                } else if let Some(input) = self.on_answer(&message).await {
                    self.feed(input).await;
                }
            }
            Event::Done(done) => return self.on_done(done).await,
            Event::Control(control) => return self.on_control(control).await,
        }
        Ok(())
    }

    /// The logic has ended: answers still count, messages are handed back.
    pub(super) async fn handle_late(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Inbox(message) => match message.reply.filter(|reply| reply.starts_with("$JS.ACK.")) {
                Some(ack) => self.send(ack, Bytes::from_static(b"-NAK")).await,
                None => {
                    self.on_answer(&Message { reply: None, ..message }).await;
                }
            },
            Event::Done(Done::Publish(outgoing)) => {
                self.publishes.queue(outgoing);
                self.pump().await;
            }
            Event::Done(Done::Send { subject, headers }) => self.send_claim(subject, headers).await,
            Event::Done(Done::State { revision, .. }) => {
                self.state.done(revision);
                self.next_state();
            }
            Event::Tick => {
                self.publishes.expire(Instant::now(), self.link.is_up());
                self.ask_again(self.link.is_up()).await;
            }
            Event::Core(_) | Event::Done(_) | Event::Control(_) => {}
        }
        Ok(())
    }

    async fn on_control(&mut self, control: Control) -> Result<(), Error> {
        match control {
            Control::Input(input) => {
                if matches!(input, Input::Message { .. }) {
                    self.counts.received += 1;
                }
                self.feed(input).await;
            }
            Control::Worked { ticket, result: Some(result) } => self.feed(Input::Worked { ticket, result }).await,
            Control::Worked { result: None, .. } => return Err(Error::WorkPanicked { stage: self.stage.needs().stage.to_string() }),
            Control::Drain => {
                if self.drain_until.is_none() {
                    self.drain_until = Some(Instant::now() + DRAIN);
                    self.feed(Input::Drain).await;
                }
            }
            Control::Kill => self.exit = Some(Outcome { code: KILLED, message: "killed".to_string() }),
            Control::Fatal(error) => return Err(error),
        }
        Ok(())
    }

    async fn on_core(&mut self, message: Message) {
        self.counts.received += 1;
        self.counts.bytes_in += message.payload.len() as u64;
        let Message { subject, payload, headers, .. } = message;
        let headers = plain(headers.as_ref());
        self.deliver(subject.to_string(), headers, payload, None).await;
    }

    /// A message of a durable, on the driver's inbox.
    async fn on_durable(&mut self, message: Message) {
        let Message { subject, reply, payload, headers, .. } = message;
        let Some(ack) = reply else { return };
        let Some(parsed) = parse_ack(&ack) else { return };
        let Some(durable) = self.durables.get(parsed.durable).cloned() else { return };
        let (count, sequence) = (parsed.count, parsed.sequence);
        self.fetches.came(parsed.durable);
        self.counts.received += 1;
        self.counts.bytes_in += payload.len() as u64;
        let delivery = Delivery(self.deliveries.hold(ack));
        let delivered = Delivered { delivery, count, sequence, durable };
        self.deliver(subject.to_string(), plain(headers.as_ref()), payload, Some(delivered)).await;
    }

    /// Hands a message to the logic, or first fetches the payload that it stands for.
    async fn deliver(
        &mut self,
        subject: String,
        mut headers: std::collections::BTreeMap<String, String>,
        payload: Bytes,
        delivery: Option<Delivered>,
    ) {
        // A durable of headers alone says how large the payload was; nobody wants it.
        let headers_only = headers.contains_key("Nats-Msg-Size");
        match headers.remove(CLAIM_HEADER) {
            Some(claim) if !headers_only => {
                let used_up = claim.starts_with(CORE_CLAIM);
                let job = jobs::take_claim(self.objects.clone(), self.wait(), claim, used_up, subject, headers, delivery);
                self.jobs.push(Box::pin(job));
            }
            _ => self.feed(Input::Message { subject, headers, payload: payload.into(), delivery }).await,
        }
    }

    /// An answer on the inbox: to a publish, a fetch or an ack.
    async fn on_answer(&mut self, message: &Message) -> Option<Input> {
        let (kind, number) = message.subject.strip_prefix(self.inbox.as_str())?.strip_prefix('.')?.split_once('.')?;
        let number: u64 = number.parse().ok()?;
        let no_responders = message.status == Some(StatusCode::NO_RESPONDERS);
        match kind {
            "p" => {
                let sent = self.publishes.answered(number)?;
                let result = read_answer(&message.payload, no_responders);
                self.pump().await;
                if let Err(error) = &result {
                    if !matches!(error, PublishError::AlreadyThere) {
                        self.counts.errors += 1;
                    }
                    // What the broker has refused, no message stands for.
                    if let Some(claim) = sent.claim.filter(|_| !matches!(error, PublishError::Unknown(_))) {
                        self.jobs.push(Box::pin(jobs::drop_claim(self.objects.clone(), claim)));
                    }
                }
                match sent.ticket {
                    Some(ticket) => Some(Input::Published { ticket, result }),
                    None => {
                        if let Err(error) = result {
                            tracing::warn!("a rejected message could not be kept: {error:?}");
                        }
                        None
                    }
                }
            }
            "f" => {
                let pending = message.headers.as_ref().and_then(|h| h.get("Nats-Pending-Messages")).and_then(|v| v.as_str().parse().ok());
                self.fetches.ended(number, pending)
            }
            "a" => {
                if !no_responders {
                    self.confirms.confirmed(number);
                }
                None
            }
            _ => None,
        }
    }

    async fn on_done(&mut self, done: Done) -> Result<(), Error> {
        match done {
            Done::Nothing => {}
            Done::Input(input) => self.feed(input).await,
            Done::Publish(outgoing) => {
                self.publishes.queue(outgoing);
                self.pump().await;
            }
            Done::Send { subject, headers } => self.send_claim(subject, headers).await,
            Done::ClaimGone { claim, delivery } => {
                self.counts.errors += 1;
                tracing::warn!("the claim {claim} is gone, its message cannot be read");
                // A durable message stays where it is: the object may be on its way through a cluster.
                if let Some(ack) = delivery.and_then(|d| self.deliveries.release(d.delivery.0)) {
                    self.send(ack, Bytes::from_static(br#"-NAK {"delay": 5000000000}"#)).await;
                }
            }
            Done::State { revision, input } => {
                self.state.done(revision);
                self.feed(input).await;
                self.next_state();
            }
            Done::Fatal(error) => return Err(error),
        }
        Ok(())
    }

    async fn send_claim(&mut self, subject: String, headers: async_nats::HeaderMap) {
        if self.client.publish_with_headers(subject, headers, Bytes::new()).await.is_err() {
            self.counts.errors += 1;
        }
    }
}
