//! Follows a stream from its start or its last value, in order and without acks, over any loss of the connection.
//!
//! A core subscription to the stream's subject says that something is new; the stream itself is then asked, by sequence
//! number, for what comes after the last message seen. Nothing is kept on the broker for a follower, so that a server
//! that was restarted, or started with an older store, needs no repair.

use crate::driver::Control;
use crate::stage::{Follow, Input};
use crate::store::{Objects, claim_of};
use async_nats::jetstream::{self, message::StreamMessage, stream};
use async_nats::{Client, HeaderMap};
use futures::{FutureExt, StreamExt};
use schemas::subjects::{self, Stream};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// How often the stream is asked although nothing said that something is new.
const SWEEP: Duration = Duration::from_secs(2);
/// A subscriber may hear of a message a little before the stream has stored it.
const SETTLE: [Duration; 5] =
    [Duration::ZERO, Duration::from_millis(2), Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(250)];

/// The subject of a stream that can be followed; those of one subject.
pub(crate) fn subject_of(run: &str, stream: Stream) -> String {
    match stream {
        Stream::Policies => subjects::policies(run),
        Stream::Grants => subjects::grants(run),
        Stream::Cancel => subjects::cancel(run),
        Stream::Rejected => subjects::rejected(run),
        Stream::Episodes => format!("errand.{run}.episodes.>"),
        Stream::Ends => format!("errand.{run}.ends.>"),
    }
}

/// The string headers of a message, for logic that knows no NATS.
pub(crate) fn plain(headers: Option<&HeaderMap>) -> BTreeMap<String, String> {
    let Some(headers) = headers else { return BTreeMap::new() };
    let first = |values: &Vec<async_nats::HeaderValue>| values.first().map(|v| v.as_str().to_string()).unwrap_or_default();
    headers.iter().map(|(name, values)| (name.to_string(), first(values))).collect()
}

/// Runs until the driver is gone.
pub(crate) async fn follow(client: Client, run: String, what: Stream, from: Follow, objects: Objects, to: UnboundedSender<Control>) {
    let subject = subject_of(&run, what);
    let name = subjects::stream(&run, what);
    let js = jetstream::new(client.clone());
    let mut hints = loop {
        match client.subscribe(subject.clone()).await {
            Ok(hints) => break hints,
            Err(_) => tokio::time::sleep(SWEEP).await,
        }
    };
    let stream = loop {
        match js.get_stream_no_info(&name).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(SWEEP).await,
        }
    };
    let mut follower = Follower { stream, subject, last: 0, objects, to };
    if from == Follow::Last {
        follower.jump_to_last().await;
    }
    follower.catch_up().await;
    loop {
        let hinted = tokio::time::timeout(SWEEP, hints.next()).await.is_ok();
        // One look at the stream answers all hints that have come by now.
        while hints.next().now_or_never().is_some() {}
        for wait in SETTLE {
            tokio::time::sleep(wait).await;
            match follower.catch_up().await {
                Caught::Some => break,
                Caught::Nothing if hinted => {}
                Caught::Nothing => break,
                Caught::Over => return,
            }
        }
    }
}

enum Caught {
    Some,
    Nothing,
    /// Nobody listens any more.
    Over,
}

struct Follower {
    stream: stream::Stream<()>,
    subject: String,
    last: u64,
    objects: Objects,
    to: UnboundedSender<Control>,
}

impl Follower {
    async fn jump_to_last(&mut self) {
        loop {
            match self.stream.direct_get_last_for_subject(self.subject.clone()).await {
                Ok(message) => {
                    self.last = message.sequence.saturating_sub(1);
                    return;
                }
                Err(error) if error.kind() == stream::DirectGetErrorKind::NotFound => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Hands on all that the stream holds after `last`.
    async fn catch_up(&mut self) -> Caught {
        let mut caught = Caught::Nothing;
        loop {
            match self.stream.direct_get_next_for_subject(self.subject.clone(), Some(self.last + 1)).await {
                Ok(message) => {
                    let sequence = message.sequence;
                    let Some(input) = self.resolve(message).await else { return caught };
                    if self.to.send(Control::Input(input)).is_err() {
                        return Caught::Over;
                    }
                    self.last = sequence;
                    caught = Caught::Some;
                }
                // Not found, no answer, no connection: the next hint or sweep asks again.
                Err(_) => return if self.to.is_closed() { Caught::Over } else { caught },
            }
        }
    }

    async fn resolve(&self, message: StreamMessage) -> Option<Input> {
        let payload = match claim_of(&message.headers) {
            None => message.payload.to_vec(),
            Some(claim) => match self.objects.claim(claim).await {
                Ok(Some(payload)) => payload,
                Ok(None) => {
                    tracing::warn!(claim, subject = message.subject.as_str(), "a claim is gone; its message is passed over");
                    Vec::new()
                }
                Err(_) => return None,
            },
        };
        Some(Input::Message { subject: message.subject.to_string(), headers: plain(Some(&message.headers)), payload, delivery: None })
    }
}
