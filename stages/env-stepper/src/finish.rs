//! From an end to its place in the stream, and handing back what a drain leaves undone.
//!
//! An end is published until the stream has it, or has one of that episode already: then the first stands and ours is
//! dropped. Only then is the episode's delivery acked.

use crate::{Awaited, Held, Stand, Stepper};
use kit::{Delivery, Now, Output, PublishError};
use schemas::{End, EndReason, Episode, EpisodeId, Mode, encode, subjects, subjects::end_headers};
use std::collections::BTreeMap;

/// First and longest pause before an end or an episode is published again, milliseconds.
const RETRY_MS: (u64, u64) = (100, 5000);
/// Played episodes that `success_recent` looks back on.
const RECENT: usize = 100;
/// Times that a drain tries to republish an episode before it gives it back by a nak.
const BACK_TRIES: u32 = 5;

/// An end on its way to the stream.
pub(crate) struct Ending {
    headers: BTreeMap<String, String>,
    payload: Vec<u8>,
    tries: u32,
    /// `None` while an answer is awaited.
    retry_ms: Option<u64>,
}

/// An episode on its way back to the queue.
pub(crate) struct HandBack {
    tries: u32,
    retry_ms: Option<u64>,
}

fn pause_ms(tries: u32) -> u64 {
    (RETRY_MS.0 << tries.min(10)).min(RETRY_MS.1)
}

/// The gauge that counts ends of this reason.
pub(crate) fn reason_gauge(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Done => "ended_done_total",
        EndReason::OutOfSteps => "ended_out_of_steps_total",
        EndReason::LengthTotal => "ended_length_total_total",
        EndReason::EnvError => "ended_env_error_total",
        EndReason::GeneratorError => "ended_generator_error_total",
        EndReason::Rejected => "ended_rejected_total",
        EndReason::Cancelled => "ended_cancelled_total",
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Policy => "policy",
        Mode::Dagger => "dagger",
        Mode::Expert => "expert",
        Mode::Format => "format",
    }
}

/// What the scene-loader reads of an end.
fn headers(end: &End) -> BTreeMap<String, String> {
    // A judged episode names the version that it judges, others the newest that spoke in it.
    let version = if end.episode.validates > 0 { end.episode.validates } else { end.versions().map_or(0, |(_, newest)| newest) };
    BTreeMap::from([
        (end_headers::GROUP.to_string(), end.episode.group.to_string()),
        (end_headers::BUCKET.to_string(), end.episode.bucket.clone()),
        (end_headers::SUCCESS.to_string(), end.success.to_string()),
        (end_headers::REASON.to_string(), end.reason.as_str().to_string()),
        (end_headers::ATTEMPT.to_string(), end.attempt.to_string()),
        (end_headers::VERSION.to_string(), version.to_string()),
        (end_headers::MODE.to_string(), mode_name(end.episode.mode).to_string()),
    ])
}

impl Stepper {
    /// Ends a live rollout.
    pub(crate) fn end_rollout(&mut self, id: EpisodeId, reason: EndReason, note: String, now: Now, out: &mut Vec<Output>) {
        let Some(held) = self.held.get_mut(&id) else { return };
        let Stand::Live(rollout) = std::mem::replace(&mut held.stand, Stand::Backlog) else { return };
        let mode = held.episode.mode;
        let end = rollout.into_end(&self.setting, reason, note, now);
        if reason.is_played() && matches!(mode, Mode::Policy | Mode::Dagger) {
            self.counts.recent.push_back(end.success);
            if self.counts.recent.len() > RECENT {
                self.counts.recent.pop_front();
            }
        }
        self.publish_end(end, now, out);
    }

    pub(crate) fn publish_end(&mut self, end: End, now: Now, out: &mut Vec<Output>) {
        let id = end.id();
        *self.counts.by_reason.entry(end.reason.as_str()).or_default() += 1;
        let ending = Ending { headers: headers(&end), payload: encode(&end), tries: 0, retry_ms: Some(now.mono_ms) };
        if let Some(held) = self.held.get_mut(&id) {
            held.stand = Stand::Ending(Box::new(ending));
            self.send_end(id, out);
        }
    }

    fn send_end(&mut self, id: EpisodeId, out: &mut Vec<Output>) {
        let ticket = self.ticket(Awaited::End(id));
        let Some(Held { stand: Stand::Ending(ending), .. }) = self.held.get_mut(&id) else { return };
        ending.retry_ms = None;
        out.push(Output::PublishDurable {
            ticket,
            subject: subjects::ends(&self.setting.run, id),
            headers: ending.headers.clone(),
            payload: ending.payload.clone(),
            expected_last_sequence: None,
        });
    }

    pub(crate) fn end_published(&mut self, id: EpisodeId, result: Result<u64, PublishError>, now: Now, out: &mut Vec<Output>) {
        let Some(held) = self.held.get_mut(&id) else { return };
        let Stand::Ending(ending) = &mut held.stand else { return };
        match result {
            Err(PublishError::Full | PublishError::Unknown(_) | PublishError::WrongSequence) => {
                ending.retry_ms = Some(now.mono_ms + pause_ms(ending.tries));
                ending.tries += 1;
                return;
            }
            // The first end in stream order stands: ours is dropped.
            Err(PublishError::AlreadyThere) => self.counts.already_ended += 1,
            Ok(_) => self.counts.ended += 1,
        }
        if let Some(held) = self.held.remove(&id) {
            out.extend(held.delivery.map(Output::DoubleAck));
        }
        if self.options.alone.is_some() {
            out.push(Output::Exit { code: 0, message: format!("{id} has its end") });
        }
        if self.draining {
            self.leave_if_empty(out);
        }
    }

    /// A stream took no end at the last try: until it does, no more episodes are taken.
    pub(crate) fn an_end_is_stuck(&self) -> bool {
        self.held.values().any(|held| matches!(&held.stand, Stand::Ending(ending) if ending.tries > 0))
    }

    pub(crate) fn tend_ends(&mut self, now: Now, out: &mut Vec<Output>) {
        let due = |held: &Held| match &held.stand {
            Stand::Ending(ending) => ending.retry_ms.is_some_and(|at| at <= now.mono_ms),
            _ => false,
        };
        let due: Vec<EpisodeId> = self.held.iter().filter(|(_, held)| due(held)).map(|(id, _)| *id).collect();
        for id in due {
            self.send_end(id, out);
        }
    }

    /// Begins to hand back everything that has no end yet.
    pub(crate) fn drain(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.options.alone.is_some() {
            return out.push(Output::Exit { code: crate::alone::GAVE_UP, message: "stopped before the episode had ended".into() });
        }
        self.draining = true;
        self.child_process.kill();
        self.hand_back(now, out);
        self.leave_if_empty(out);
    }

    /// Republishes what is not ended; the old copy is acked when the new one is stored.
    pub(crate) fn hand_back(&mut self, now: Now, out: &mut Vec<Output>) {
        let ids: Vec<EpisodeId> = self.held.keys().copied().collect();
        for id in ids {
            let Some(held) = self.held.get_mut(&id) else { continue };
            match &mut held.stand {
                Stand::Ending(_) => continue,
                // A suspect keeps its count of crashes, which a new copy would begin anew.
                Stand::Suspect => {
                    let delivery = held.delivery;
                    self.held.remove(&id);
                    out.extend(delivery.map(|delivery| Output::Nak { delivery, delay_ms: 0 }));
                    continue;
                }
                Stand::Back(back) => match back.retry_ms {
                    Some(at) if at <= now.mono_ms => back.retry_ms = None,
                    _ => continue,
                },
                stand => *stand = Stand::Back(HandBack { tries: 0, retry_ms: None }),
            }
            let episode = Episode { handed_back: held.episode.handed_back + 1, ..held.episode.as_ref().clone() };
            // Another message id than the first copy's, which the broker would take this one for.
            let message_id = format!("{id}-back-{}", episode.handed_back);
            let subject = subjects::episodes(&self.setting.run, &episode.world, id.split);
            let ticket = self.ticket(Awaited::Back(id));
            out.push(Output::PublishDurable {
                ticket,
                subject,
                headers: BTreeMap::from([("Nats-Msg-Id".to_string(), message_id)]),
                payload: encode(&episode),
                expected_last_sequence: None,
            });
        }
        self.backlog.clear();
        self.suspects.clear();
    }

    pub(crate) fn back_published(&mut self, id: EpisodeId, result: Result<u64, PublishError>, now: Now, out: &mut Vec<Output>) {
        let Some(held) = self.held.get_mut(&id) else { return };
        let Stand::Back(back) = &mut held.stand else { return };
        let delivery: Option<Delivery> = held.delivery;
        match result {
            Ok(_) => out.extend(delivery.map(Output::Ack)),
            Err(_) if back.tries < BACK_TRIES => {
                back.retry_ms = Some(now.mono_ms + pause_ms(back.tries));
                back.tries += 1;
                return;
            }
            Err(_) => out.extend(delivery.map(|delivery| Output::Nak { delivery, delay_ms: 0 })),
        }
        self.held.remove(&id);
        self.leave_if_empty(out);
    }

    /// Ends the process once nothing is in hand.
    fn leave_if_empty(&mut self, out: &mut Vec<Output>) {
        if self.draining && self.held.is_empty() {
            let message = format!("drained after {} episodes", self.counts.ended);
            out.push(Output::Exit { code: 0, message });
        }
    }
}
