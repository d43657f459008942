//! What the logic orders, carried out.

use super::publishing::Outgoing;
use super::{Control, Driver, jobs};
use crate::program::Outcome;
use crate::stage::{Delivery, Durable, Output, Ticket, Work};
use crate::store::{CLAIM_HEADER, CORE_CLAIM};
use async_nats::HeaderMap;
use bytes::Bytes;
use jobs::Done;
use schemas::{Rejected, encode, subjects};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

/// Subject, headers and reply share the server's bound on a message with the payload.
const HEADER_ROOM: usize = 8 << 10;

impl Driver {
    pub(super) fn wait(&self) -> Duration {
        Duration::from_secs_f64(self.identity.pipeline.broker.wait_s)
    }

    pub(super) async fn dispatch(&mut self, output: Output) {
        match output {
            Output::Publish { subject, payload } => self.publish(subject, payload).await,
            Output::PublishDurable { ticket, subject, headers, payload, expected_last_sequence } => {
                self.publish_durable(Some(ticket), subject, &headers, payload, expected_last_sequence).await;
            }
            Output::Fetch { durable, count } => self.fetch(durable, count).await,
            Output::Ack(delivery) => self.settle(delivery, Bytes::from_static(b"+ACK")).await,
            Output::Term(delivery) => self.settle(delivery, Bytes::from_static(b"+TERM")).await,
            Output::Nak { delivery, delay_ms } => {
                let nak = format!(r#"-NAK {{"delay": {}}}"#, delay_ms * 1_000_000);
                self.settle(delivery, nak.into()).await;
            }
            Output::Progress(delivery) => {
                if let Some(ack) = self.deliveries.get(delivery.0).cloned() {
                    self.send(ack, Bytes::from_static(b"+WPI")).await;
                }
            }
            Output::DoubleAck(delivery) => {
                if let Some(ack) = self.deliveries.release(delivery.0) {
                    let number = self.confirms.open(ack.clone(), Instant::now());
                    self.confirm(number, ack).await;
                }
            }
            Output::GetObject { ticket, name } => self.job(jobs::get_object(self.objects.clone(), self.wait(), ticket, name)),
            Output::PutObject { ticket, name, bytes } => self.job(jobs::put_object(self.objects.clone(), self.wait(), ticket, name, bytes)),
            Output::DeleteObject { name } => self.job(jobs::delete_object(self.objects.clone(), self.wait(), name)),
            Output::GetState { ticket } => {
                self.state.get(ticket);
                self.next_state();
            }
            Output::PutState { ticket, bytes } => {
                self.state.put(ticket, bytes);
                self.next_state();
            }
            Output::Work { ticket, work } => self.work(ticket, work),
            Output::Reject { subject, reason, payload } => self.reject(subject, reason, payload).await,
            Output::Exit { code, message } => self.exit = Some(Outcome { code, message }),
        }
    }

    fn job(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.push(Box::pin(job));
    }

    pub(super) fn next_state(&mut self) {
        if let Some(job) = self.state.next(self.wait()) {
            self.jobs.push(job);
        }
    }

    /// A plain message. The only failure is a connection that is closed for good, which the lifeline ends.
    pub(super) async fn send(&mut self, subject: impl async_nats::subject::ToSubject, payload: Bytes) {
        if self.client.publish(subject, payload).await.is_err() {
            self.counts.errors += 1;
        }
    }

    fn is_too_large(&self, payload: &[u8]) -> bool {
        payload.len() + HEADER_ROOM > self.client.max_payload()
    }

    /// A claim's name tells the sweep whether a stream may hold its message, and which.
    fn claim_name(&mut self, kind: &str) -> String {
        self.claims_made += 1;
        format!("{kind}{:08x}-{}", self.nonce, self.claims_made)
    }

    async fn publish(&mut self, subject: String, payload: Vec<u8>) {
        self.counts.sent += 1;
        self.counts.bytes_out += payload.len() as u64;
        if self.is_too_large(&payload) {
            let name = self.claim_name(CORE_CLAIM);
            let headers = claim_header(&name);
            self.job(jobs::put_claim(self.objects.clone(), self.wait(), name, payload, Done::Send { subject, headers }));
        } else {
            self.send(subject, payload.into()).await;
        }
    }

    async fn publish_durable(
        &mut self,
        ticket: Option<Ticket>,
        subject: String,
        headers: &BTreeMap<String, String>,
        payload: Vec<u8>,
        expected: Option<u64>,
    ) {
        self.counts.sent += 1;
        self.counts.bytes_out += payload.len() as u64;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name.as_str(), value.as_str());
        }
        if let Some(sequence) = expected {
            map.insert("Nats-Expected-Last-Sequence", sequence.to_string().as_str());
        }
        if !self.is_too_large(&payload) {
            self.publishes.queue(Outgoing { ticket, subject, headers: map, payload: payload.into(), claim: None });
            return self.pump().await;
        }
        let name = self.claim_name(&format!("{}-", subject.split('.').skip(2).collect::<Vec<_>>().join("-")));
        map.insert(CLAIM_HEADER, name.as_str());
        let outgoing = Outgoing { ticket, subject, headers: map, payload: Bytes::new(), claim: Some(name.clone()) };
        self.job(jobs::put_claim(self.objects.clone(), self.wait(), name, payload, Done::Publish(outgoing)));
    }

    /// Sends publishes up to their bound.
    pub(super) async fn pump(&mut self) {
        while let Some((number, outgoing)) = self.publishes.next(Instant::now()) {
            let reply = format!("{}.p.{number}", self.inbox);
            let Outgoing { subject, headers, payload, .. } = outgoing;
            let sent = if headers.is_empty() {
                self.client.publish_with_reply(subject, reply, payload).await
            } else {
                self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            };
            if let Err(error) = sent {
                self.counts.errors += 1;
                tracing::debug!("publish {number}: {error}");
            }
        }
    }

    async fn fetch(&mut self, durable: Durable, count: u32) {
        if count == 0 {
            return;
        }
        let stream = subjects::stream(&self.identity.run, durable.stream);
        let key = format!("{stream}.{}", durable.name);
        if !self.durables.contains_key(&key) {
            self.durables.insert(key.clone(), durable.clone());
        }
        let number = self.fetches.open(&key, durable, count, Instant::now());
        let request = format!(r#"{{"batch":{count},"expires":{}}}"#, super::deliveries::FETCH_EXPIRES.as_nanos());
        let reply = format!("{}.f.{number}", self.inbox);
        let asked = self.client.publish_with_reply(format!("$JS.API.CONSUMER.MSG.NEXT.{key}"), reply, request.into()).await;
        if asked.is_err() {
            self.counts.errors += 1;
        }
    }

    async fn settle(&mut self, delivery: Delivery, word: Bytes) {
        if let Some(ack) = self.deliveries.release(delivery.0) {
            self.send(ack, word).await;
        }
    }

    async fn confirm(&mut self, number: u64, ack: async_nats::Subject) {
        let reply = format!("{}.a.{number}", self.inbox);
        if self.client.publish_with_reply(ack, reply, Bytes::from_static(b"+ACK")).await.is_err() {
            self.counts.errors += 1;
        }
    }

    /// Sends acks again that were not confirmed.
    pub(super) async fn ask_again(&mut self, up: bool) {
        if !up || self.confirms.is_empty() {
            return;
        }
        let (again, given_up) = self.confirms.overdue(Instant::now(), self.wait());
        if given_up > 0 {
            self.counts.errors += given_up as u64;
            tracing::warn!("{given_up} acks were never confirmed; their messages come again");
        }
        for (number, ack) in again {
            self.confirm(number, ack).await;
        }
    }

    fn work(&mut self, ticket: Ticket, work: Box<dyn Work>) {
        let to = self.to_self.clone();
        let body = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.run())).ok();
            to.send(Control::Worked { ticket, result }).ok();
        };
        if let Err(error) = std::thread::Builder::new().name("work".into()).spawn(body) {
            tracing::error!("no thread for the stage's work: {error}");
            self.to_self.send(Control::Worked { ticket, result: None }).ok();
        }
    }

    async fn reject(&mut self, subject: String, reason: String, payload: Vec<u8>) {
        self.counts.rejected += 1;
        let at_us = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|d| d.as_micros() as u64).unwrap_or(0);
        tracing::warn!("rejected a message on {subject}: {reason}");
        let stage = self.stage.needs().stage.to_string();
        let rejected = encode(&Rejected { stage, subject, reason, payload, at_us });
        let to = subjects::rejected(&self.identity.run);
        self.publish_durable(None, to, &BTreeMap::new(), rejected, None).await;
    }
}

fn claim_header(name: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CLAIM_HEADER, name);
    headers
}
