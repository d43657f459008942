//! What takes more than one message to and fro: objects, claims, the stage's state. Each is a future that ends in a
//! [`Done`]; a server that is gone is waited for.

use super::publishing::Outgoing;
use crate::Error;
use crate::stage::{Delivered, Input, Ticket};
use crate::store::{self, Objects};
use async_nats::jetstream::kv::{Store, UpdateErrorKind};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::time::{Duration, Instant};

pub(super) type Job = BoxFuture<'static, Done>;

/// How a job ended.
pub(super) enum Done {
    Nothing,
    Input(Input),
    /// The claim is stored; the message that stands for it may go to its stream.
    Publish(Outgoing),
    /// The same on a core subject.
    Send {
        subject: String,
        headers: async_nats::HeaderMap,
    },
    /// A message whose payload was a claim that is gone.
    ClaimGone {
        claim: String,
        delivery: Option<Delivered>,
    },
    /// A read or write of the state is over.
    State {
        revision: Option<u64>,
        input: Input,
    },
    Fatal(Error),
}

/// Tries until it works, or until `wait` is over.
async fn patiently<T, F>(wait: Duration, mut attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() >= wait => return Err(error),
            Err(error) => {
                tracing::debug!("trying again: {error}");
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    }
}

pub(super) async fn get_object(objects: Objects, wait: Duration, ticket: Ticket, name: String) -> Done {
    match patiently(wait, || store::get(&objects.artifacts, &name)).await {
        Ok(bytes) => Done::Input(Input::Object { ticket, name, bytes }),
        Err(error) => Done::Fatal(error),
    }
}

pub(super) async fn put_object(objects: Objects, wait: Duration, ticket: Ticket, name: String, bytes: Vec<u8>) -> Done {
    let result = patiently(wait, || store::put(&objects.artifacts, &name, &bytes)).await;
    Done::Input(Input::ObjectPut { ticket, result: result.map_err(|e| e.to_string()) })
}

pub(super) async fn delete_object(objects: Objects, wait: Duration, name: String) -> Done {
    if let Err(error) = patiently(wait, || store::delete(&objects.artifacts, &name)).await {
        tracing::warn!("{error}");
    }
    Done::Nothing
}

/// Stores a payload as a claim; then the message itself may go.
pub(super) async fn put_claim(objects: Objects, wait: Duration, name: String, payload: Vec<u8>, then: Done) -> Done {
    match patiently(wait, || store::put(&objects.claims, &name, &payload)).await {
        Ok(()) => then,
        Err(error) => match then {
            // The stage is told, and decides.
            Done::Publish(Outgoing { ticket: Some(ticket), .. }) => {
                Done::Input(Input::Published { ticket, result: Err(crate::stage::PublishError::Unknown(error.to_string())) })
            }
            _ => {
                tracing::warn!("a message was not sent: {error}");
                Done::Nothing
            }
        },
    }
}

pub(super) async fn drop_claim(objects: Objects, name: String) -> Done {
    store::delete(&objects.claims, &name).await.ok();
    Done::Nothing
}

/// Fetches the payload that a claim stands for. `used_up`: nobody else will ask for it.
pub(super) async fn take_claim(
    objects: Objects,
    wait: Duration,
    claim: String,
    used_up: bool,
    subject: String,
    headers: BTreeMap<String, String>,
    delivery: Option<Delivered>,
) -> Done {
    match patiently(wait, || objects.claim(&claim)).await {
        Ok(Some(payload)) => {
            if used_up {
                store::delete(&objects.claims, &claim).await.ok();
            }
            Done::Input(Input::Message { subject, headers, payload, delivery })
        }
        Ok(None) => Done::ClaimGone { claim, delivery },
        Err(error) => Done::Fatal(error),
    }
}

enum StateOrder {
    Get { ticket: Ticket },
    Put { ticket: Ticket, bytes: Vec<u8> },
}

/// The stage's state in the run's bucket, one order after the other, each over the revision that the last one left.
pub(super) struct StateDesk {
    bucket: Store,
    key: String,
    epoch: u64,
    revision: Option<u64>,
    waiting: VecDeque<StateOrder>,
    busy: bool,
}

impl StateDesk {
    pub(super) fn new(bucket: Store, stage: &str, epoch: u64) -> StateDesk {
        StateDesk { bucket, key: format!("state.{stage}"), epoch, revision: None, waiting: VecDeque::new(), busy: false }
    }

    pub(super) fn get(&mut self, ticket: Ticket) {
        self.waiting.push_back(StateOrder::Get { ticket });
    }

    pub(super) fn put(&mut self, ticket: Ticket, bytes: Vec<u8>) {
        self.waiting.push_back(StateOrder::Put { ticket, bytes });
    }

    /// The order before is done.
    pub(super) fn done(&mut self, revision: Option<u64>) {
        self.busy = false;
        self.revision = revision.or(self.revision);
    }

    /// The next order's job, when none is under way.
    pub(super) fn next(&mut self, wait: Duration) -> Option<Job> {
        if self.busy {
            return None;
        }
        let order = self.waiting.pop_front()?;
        self.busy = true;
        let (bucket, key, epoch, revision) = (self.bucket.clone(), self.key.clone(), self.epoch, self.revision);
        Some(Box::pin(async move {
            match order {
                StateOrder::Get { ticket } => read_state(&bucket, &key, epoch, wait, ticket).await,
                StateOrder::Put { ticket, bytes } => write_state(&bucket, &key, epoch, revision, wait, ticket, bytes).await,
            }
        }))
    }
}

/// The state and its revision. The first reader of a new epoch writes it back under that epoch: what an older holder
/// still sends is refused from then on.
async fn fence(bucket: &Store, key: &str, epoch: u64) -> Result<(Option<Vec<u8>>, u64), Error> {
    let entry = bucket.entry(key.to_string()).await.map_err(|e| Error::broker("reading the state", e))?;
    let Some(entry) = entry else { return Ok((None, 0)) };
    let (written_by, bytes) = split_state(&entry.value);
    if written_by == epoch {
        return Ok((Some(bytes), entry.revision));
    }
    let revision = bucket.update(key, join_state(epoch, &bytes), entry.revision).await;
    Ok((Some(bytes), revision.map_err(|e| Error::broker("taking over the state", e))?))
}

async fn read_state(bucket: &Store, key: &str, epoch: u64, wait: Duration, ticket: Ticket) -> Done {
    match patiently(wait, || fence(bucket, key, epoch)).await {
        Ok((bytes, revision)) => Done::State { revision: Some(revision), input: Input::State { ticket, bytes } },
        Err(error) => Done::Fatal(error),
    }
}

async fn write_state(bucket: &Store, key: &str, epoch: u64, revision: Option<u64>, wait: Duration, ticket: Ticket, bytes: Vec<u8>) -> Done {
    let answer = |revision, result| Done::State { revision, input: Input::StatePut { ticket, result } };
    if epoch == 0 {
        return answer(None, Err("state is written under a lease only".to_string()));
    }
    let value = join_state(epoch, &bytes);
    let revision = match revision {
        Some(revision) => revision,
        None => match patiently(wait, || fence(bucket, key, epoch)).await {
            Ok((_, revision)) => revision,
            Err(error) => return Done::Fatal(error),
        },
    };
    let begun = Instant::now();
    loop {
        match bucket.update(key, value.clone(), revision).await {
            Ok(revision) => return answer(Some(revision), Ok(())),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                // A write whose answer was lost has moved the revision.
                return match bucket.entry(key.to_string()).await {
                    Ok(Some(entry)) if entry.value == value => answer(Some(entry.revision), Ok(())),
                    _ => answer(None, Err("the state was written by another holder of the lease".to_string())),
                };
            }
            Err(error) if begun.elapsed() >= wait => return answer(None, Err(error.to_string())),
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}

/// The writer's epoch, eight bytes little endian, and the bytes.
fn join_state(epoch: u64, bytes: &[u8]) -> Bytes {
    let mut value = epoch.to_le_bytes().to_vec();
    value.extend_from_slice(bytes);
    value.into()
}

fn split_state(value: &[u8]) -> (u64, Vec<u8>) {
    match value.split_first_chunk::<8>() {
        Some((epoch, bytes)) => (u64::from_le_bytes(*epoch), bytes.to_vec()),
        None => (0, Vec::new()),
    }
}
