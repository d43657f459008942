//! The broker's side of a simulated run: what an order does when it arrives, and what is sent in answer.

use super::streams::{DurableState, Handed, Pull, Puller, Retention, StreamSettings, StreamState, matches};
use super::{Event, Out, RUN, Sim, place};
use crate::follow::subject_of;
use crate::setup::{max_ack_pending_ends, max_ack_pending_episodes};
use crate::stage::{Delivered, Delivery, Durable, Input, Output, PublishError, Ticket};
use rand::RngExt;
use schemas::pipeline::Pipeline;
use schemas::subjects::{self, Stream};
use schemas::{Rejected, Split, encode};
use std::collections::BTreeMap;

const ALL: [Stream; 6] = [Stream::Episodes, Stream::Ends, Stream::Policies, Stream::Grants, Stream::Cancel, Stream::Rejected];
/// How long a pull stays open when nothing comes.
const PULL_US: u64 = 1_000_000;

/// The streams and durables of a run, as [`crate::init`] makes them.
pub(super) fn streams_of(pipeline: &Pipeline) -> BTreeMap<u8, StreamState> {
    let settings = |stream: Stream| {
        let subjects = subject_of(RUN, stream);
        let (retention, max_per_subject, discard_new_per_subject) = match stream {
            Stream::Episodes => (Retention::WorkQueue, None, false),
            Stream::Ends => (Retention::Interest, Some(1), true),
            Stream::Grants => (Retention::Limits, Some(1), false),
            Stream::Policies | Stream::Cancel | Stream::Rejected => (Retention::Limits, None, false),
        };
        StreamSettings { subjects, retention, max_per_subject, discard_new_per_subject }
    };
    let mut streams: BTreeMap<u8, StreamState> = ALL.into_iter().map(|s| (place(s), StreamState::new(settings(s)))).collect();
    let ack_wait_us = (pipeline.broker.ack_wait_s * 1e6) as u64;
    let world = &pipeline.world.name;
    let mut add = |stream: Stream, name: String, filter: String, headers_only: bool, pending: i64| {
        let durable = DurableState::new(filter, headers_only, ack_wait_us, usize::try_from(pending).unwrap_or(usize::MAX));
        if let Some(stream) = streams.get_mut(&place(stream)) {
            stream.durables.insert(name, durable);
        }
    };
    for split in Split::ALL {
        let filter = subjects::episodes(RUN, world, split);
        add(Stream::Episodes, subjects::episodes_durable(world, split), filter, false, max_ack_pending_episodes(pipeline));
    }
    for name in [subjects::ENDS_LEARNER, subjects::ENDS_RECORDER, subjects::ENDS_LOADER] {
        let headers_only = name == subjects::ENDS_LOADER;
        add(Stream::Ends, name.to_string(), subject_of(RUN, Stream::Ends), headers_only, max_ack_pending_ends(pipeline));
    }
    streams
}

impl Sim {
    fn stream_of(&self, subject: &str) -> Option<Stream> {
        ALL.into_iter().find(|s| matches(&self.streams[&place(*s)].settings.subjects, subject))
    }

    pub(super) fn is_stored(&self, subject: &str) -> bool {
        self.stream_of(subject).is_some()
    }

    /// An order reaches the broker, if its sender lived long enough to send it.
    pub(super) fn arrive(&mut self, from: Puller, output: Output) {
        if self.nodes[from.node].cut_us.get(&from.life).is_some_and(|cut| self.now_us > *cut) {
            return;
        }
        match output {
            Output::Publish { subject, payload } => self.route(&subject, &payload),
            Output::PublishDurable { ticket, subject, headers, payload, expected_last_sequence } => {
                let result = self.store(&subject, headers, payload, expected_last_sequence);
                self.send_in(from, Input::Published { ticket, result });
            }
            Output::Reject { subject, reason, payload } => {
                let stage = self.nodes[from.node].needs.stage.to_string();
                let rejected = Rejected { stage, subject, reason, payload, at_us: super::EPOCH_US + self.now_us };
                self.store(&subjects::rejected(RUN), BTreeMap::new(), encode(&rejected), None).ok();
            }
            Output::Fetch { durable, count } => self.pull(from, durable, count),
            Output::Ack(delivery) | Output::DoubleAck(delivery) | Output::Term(delivery) => self.ack(delivery),
            Output::Nak { delivery, delay_ms } => self.nak(delivery, delay_ms),
            Output::Progress(delivery) => self.progress(delivery),
            Output::GetObject { ticket, name } => {
                let bytes = self.objects.get(&name).cloned();
                self.send_in(from, Input::Object { ticket, name, bytes });
            }
            Output::PutObject { ticket, name, bytes } => {
                self.objects.insert(name, bytes);
                self.send_in(from, Input::ObjectPut { ticket, result: Ok(()) });
            }
            Output::DeleteObject { name } => {
                self.objects.remove(&name);
            }
            Output::GetState { ticket } => self.get_state(from, ticket),
            Output::PutState { ticket, bytes } => self.put_state(from, ticket, bytes),
            // Carried out where they are ordered.
            Output::Work { .. } | Output::Exit { .. } => {}
        }
    }

    /// A core message goes to every subscriber, and to one of each queue group.
    pub(super) fn route(&mut self, subject: &str, payload: &[u8]) {
        self.core_messages += 1;
        let mut takers: Vec<usize> = Vec::new();
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.stage.is_some()) {
            for (filter, group) in node.needs.subscribe.iter().filter(|(filter, _)| matches(filter, subject)) {
                match group {
                    None => takers.push(index),
                    Some(group) => groups.entry(format!("{filter} {group}")).or_default().push(index),
                }
            }
        }
        for members in groups.values() {
            takers.push(members[self.rng.random_range(0..members.len())]);
        }
        for node in takers {
            if self.chance(self.faults.drop) {
                continue;
            }
            let copies = if self.chance(self.faults.duplicate) { 2 } else { 1 };
            let to = self.puller(node);
            for _ in 0..copies {
                let input =
                    Input::Message { subject: subject.to_string(), headers: BTreeMap::new(), payload: payload.to_vec(), delivery: None };
                self.send_in(to, input);
            }
        }
    }

    pub(super) fn store(
        &mut self,
        subject: &str,
        headers: BTreeMap<String, String>,
        payload: Vec<u8>,
        expected: Option<u64>,
    ) -> Result<u64, PublishError> {
        let nowhere = || PublishError::Unknown("no stream takes this subject".into());
        let stream = self.stream_of(subject).ok_or_else(nowhere)?;
        let now_ms = self.now_us / 1000;
        if self.faults.full.iter().any(|f| f.stream == stream && (f.from_ms..f.to_ms).contains(&now_ms)) {
            return Err(PublishError::Full);
        }
        let now_us = self.now_us;
        let state = self.streams.get_mut(&place(stream)).ok_or_else(nowhere)?;
        let (sequence, is_new) = state.publish(subject, headers.clone(), payload.clone(), expected, now_us)?;
        if is_new {
            for node in 0..self.nodes.len() {
                let follows = self.nodes[node].stage.is_some() && self.nodes[node].needs.follow.iter().any(|(s, _)| *s == stream);
                if follows {
                    let to = self.puller(node);
                    let input =
                        Input::Message { subject: subject.to_string(), headers: headers.clone(), payload: payload.clone(), delivery: None };
                    self.send_in(to, input);
                }
            }
            self.pump(stream);
        }
        Ok(sequence)
    }

    fn pull(&mut self, from: Puller, durable: Durable, count: u32) {
        self.next_pull += 1;
        let id = self.next_pull;
        let Some(state) = self.streams.get_mut(&place(durable.stream)).and_then(|s| s.durables.get_mut(&durable.name)) else {
            return self.send_in(from, Input::FetchEnded { durable, missing: count });
        };
        state.pulls.push_back(Pull { id, to: from, left: count });
        self.at(self.now_us + PULL_US, Event::PullOver { stream: durable.stream, durable: durable.name, pull: id });
        self.pump(durable.stream);
    }

    pub(super) fn pull_over(&mut self, stream: Stream, durable: &str, pull: u64) {
        let Some(state) = self.streams.get_mut(&place(stream)).and_then(|s| s.durables.get_mut(durable)) else { return };
        let Some(index) = state.pulls.iter().position(|p| p.id == pull) else { return };
        let Some(Pull { to, left, .. }) = state.pulls.remove(index) else { return };
        if left > 0 {
            self.send_in(to, Input::FetchEnded { durable: Durable { stream, name: durable.to_string() }, missing: left });
        }
    }

    /// Hands out what can be handed out.
    pub(super) fn pump(&mut self, stream: Stream) {
        let alive: Vec<u64> = self.nodes.iter().map(|n| if n.stage.is_some() { n.life } else { 0 }).collect();
        let Some(state) = self.streams.get_mut(&place(stream)) else { return };
        let names: Vec<String> = state.durables.keys().cloned().collect();
        // A connection that is gone takes its pulls with it.
        state.durables.values_mut().for_each(|d| d.pulls.retain(|p| alive[p.to.node] == p.to.life));
        for name in names {
            while let Some(handed) = self.streams.get_mut(&place(stream)).and_then(|s| s.next(&name, self.now_us)) {
                self.hand_out(stream, &name, handed);
            }
        }
    }

    fn hand_out(&mut self, stream: Stream, durable: &str, handed: Handed) {
        self.next_delivery += 1;
        let Handed { to, count, message, headers_only, deadline_us } = handed;
        let name = durable.to_string();
        self.deliveries.insert(self.next_delivery, Out { stream, durable: name.clone(), sequence: message.sequence });
        self.at(deadline_us, Event::AckDue { stream, durable: name.clone() });
        let delivery =
            Delivered { delivery: Delivery(self.next_delivery), count, sequence: message.sequence, durable: Durable { stream, name } };
        let mut headers = message.headers;
        let mut payload = message.payload;
        if headers_only {
            headers.insert("Nats-Msg-Size".to_string(), payload.len().to_string());
            payload = Vec::new();
        }
        self.send_in(to, Input::Message { subject: message.subject, headers, payload, delivery: Some(delivery) });
    }

    fn ack(&mut self, delivery: Delivery) {
        let Some(Out { stream, durable, sequence }) = self.deliveries.remove(&delivery.0) else { return };
        if let Some(state) = self.streams.get_mut(&place(stream)) {
            state.ack(&durable, sequence);
        }
        self.pump(stream);
    }

    fn nak(&mut self, delivery: Delivery, delay_ms: u64) {
        let Some(Out { stream, durable, sequence }) = self.deliveries.remove(&delivery.0) else { return };
        let at = self.now_us + delay_ms * 1000;
        if let Some(state) = self.streams.get_mut(&place(stream)) {
            state.nak(&durable, sequence, at);
        }
        self.at(at, Event::Pump { stream });
    }

    fn progress(&mut self, delivery: Delivery) {
        let Some(Out { stream, durable, sequence }) = self.deliveries.get(&delivery.0) else { return };
        let (stream, durable, sequence) = (*stream, durable.clone(), *sequence);
        let deadline = self.streams.get_mut(&place(stream)).and_then(|s| s.progress(&durable, sequence, self.now_us));
        if let Some(deadline) = deadline {
            self.at(deadline, Event::AckDue { stream, durable });
        }
    }

    fn get_state(&mut self, from: Puller, ticket: Ticket) {
        let node = &self.nodes[from.node];
        let (epoch, name) = (node.epochs.get(&from.life).copied().unwrap_or(0), node.needs.stage.to_string());
        // From now on an older holder's writes are refused.
        let bytes = self.states.get_mut(&name).map(|(written_by, bytes)| {
            *written_by = epoch.max(*written_by);
            bytes.clone()
        });
        self.send_in(from, Input::State { ticket, bytes });
    }

    fn put_state(&mut self, from: Puller, ticket: Ticket, bytes: Vec<u8>) {
        let node = &self.nodes[from.node];
        let (epoch, name) = (node.epochs.get(&from.life).copied().unwrap_or(0), node.needs.stage.to_string());
        let stale = self.states.get(&name).is_some_and(|(written_by, _)| *written_by > epoch);
        let result = if stale {
            Err("the state was written by another holder of the lease".to_string())
        } else {
            self.states.insert(name, (epoch, bytes));
            Ok(())
        };
        self.send_in(from, Input::StatePut { ticket, result });
    }
}
