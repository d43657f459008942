//! One holder of a kind of stage in a run: a key-value entry that only its holder keeps renewing.
//!
//! Clocks of two hosts are never compared. A waiting instance takes the lease when the entry has not changed for
//! `lease_s` by its own clock, by a compare-and-swap on the entry's revision, with the epoch one higher. A holder whose
//! swap is refused has lost the lease and stops. What a holder publishes carries its epoch; its state is written only
//! over the revision that it knows.

use crate::Error;
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What the entry holds. `holder` is empty once the lease was given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) epoch: u64,
    pub(crate) holder: String,
    pub(crate) host: String,
    pub(crate) pid: u32,
    /// Boot and process namespace: where `pid` means anything.
    pub(crate) place: String,
}

/// A lease that is held.
pub(crate) struct Lease {
    bucket: Store,
    key: String,
    stage: &'static str,
    entry: Entry,
    revision: u64,
    lease_s: f64,
}

impl Lease {
    pub(crate) fn epoch(&self) -> u64 {
        self.entry.epoch
    }

    /// Goes on over another connection.
    pub(crate) fn rebind(&mut self, bucket: Store) {
        self.bucket = bucket;
    }

    /// How long between two renewals.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs_f64((self.lease_s / 3.0).max(0.05))
    }

    pub(crate) fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.lease_s)
    }

    /// Waits until nobody else holds the lease, and takes it.
    ///
    /// # Errors
    /// Only what the broker says when its bucket cannot be opened; losing a race means waiting on.
    pub(crate) async fn acquire(bucket: Store, stage: &'static str, id: &str, host: &str, lease_s: f64) -> Result<Lease, Error> {
        let key = format!("lease.{stage}");
        let mine = |epoch| Entry { epoch, holder: id.to_string(), host: host.to_string(), pid: std::process::id(), place: place() };
        let mut seen: Option<(u64, Instant)> = None;
        let mut said = false;
        loop {
            let found = bucket.entry(key.clone()).await.map_err(|e| Error::broker(format!("reading the lease of `{stage}`"), e))?;
            let (revision, epoch, free) = match &found {
                None => (0, 1, true),
                Some(entry) => {
                    let held = (entry.operation == Operation::Put).then(|| serde_json::from_slice::<Entry>(&entry.value).ok()).flatten();
                    let silent = match seen {
                        Some((revision, since)) if revision == entry.revision => since.elapsed().as_secs_f64() >= lease_s,
                        _ => {
                            seen = Some((entry.revision, Instant::now()));
                            false
                        }
                    };
                    match held {
                        None => (entry.revision, 1, true),
                        Some(held) => {
                            let free = held.holder.is_empty() || silent || is_dead(&held);
                            if !free && !said {
                                said = true;
                                tracing::info!("standing by: {} on {} holds the lease of {stage}", held.holder, held.host);
                            }
                            (entry.revision, held.epoch + 1, free)
                        }
                    }
                }
            };
            if free {
                let entry = mine(epoch);
                if let Ok(revision) = bucket.update(&key, json(&entry), revision).await {
                    tracing::info!(epoch, "holding the lease of {stage}");
                    return Ok(Lease { bucket, key, stage, entry, revision, lease_s });
                }
            }
            tokio::time::sleep(Duration::from_secs_f64((lease_s / 10.0).clamp(0.02, 0.25))).await;
        }
    }

    /// Renews. `Ok(false)`: the broker did not answer; try again.
    ///
    /// # Errors
    /// [`Error::LeaseLost`]: somebody else has written the entry.
    pub(crate) async fn renew(&mut self) -> Result<bool, Error> {
        let swap = self.bucket.update(&self.key, json(&self.entry), self.revision);
        match tokio::time::timeout(Duration::from_secs(2), swap).await {
            Ok(Ok(revision)) => {
                self.revision = revision;
                Ok(true)
            }
            Ok(Err(error)) if error.kind() == UpdateErrorKind::WrongLastRevision => self.look_again().await,
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }

    /// A swap whose answer was lost has moved the revision; the entry is still ours.
    async fn look_again(&mut self) -> Result<bool, Error> {
        let Ok(Some(entry)) = self.bucket.entry(self.key.clone()).await else { return Ok(false) };
        match serde_json::from_slice::<Entry>(&entry.value) {
            Ok(found) if found == self.entry => {
                self.revision = entry.revision;
                Ok(true)
            }
            Ok(found) => Err(self.lost(format!("{} holds it with epoch {}", found.holder, found.epoch))),
            Err(_) => Err(self.lost("its entry was overwritten".to_string())),
        }
    }

    pub(crate) fn lost(&self, reason: String) -> Error {
        Error::LeaseLost { stage: self.stage.to_string(), reason }
    }

    /// Gives the lease back, so that the next holder need not wait. Without an answer it runs out by itself.
    pub(crate) async fn release(mut self) {
        self.entry.holder = String::new();
        let swap = self.bucket.update(&self.key, json(&self.entry), self.revision);
        if !matches!(tokio::time::timeout(Duration::from_secs(1), swap).await, Ok(Ok(_))) {
            tracing::debug!("the lease of {} was not given back; it runs out by itself", self.stage);
        }
    }
}

fn json(entry: &Entry) -> bytes::Bytes {
    serde_json::to_vec(entry).expect("strings and numbers serialise").into()
}

/// Names this boot and process namespace; empty where the system does not say.
fn place() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").map(|p| p.display().to_string()).unwrap_or_default();
    if boot.is_empty() || namespace.is_empty() { String::new() } else { format!("{}/{namespace}", boot.trim()) }
}

/// Whether the holder was a process of this very machine that is no more. When in doubt, it lives.
fn is_dead(held: &Entry) -> bool {
    let here = !held.place.is_empty() && held.place == place();
    here && held.pid != std::process::id() && !std::path::Path::new(&format!("/proc/{}", held.pid)).exists()
}
