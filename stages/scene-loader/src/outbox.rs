//! Orders on their way: held until the state that names them is written, then their scenes, then their episodes.

use crate::plan::Planned;
use crate::state::Order;
use schemas::{EpisodeId, Split, encode};
use std::collections::{BTreeMap, BTreeSet};

/// Episodes that may await the stream's answer at once.
const IN_FLIGHT: usize = 256;
/// Pause before what the broker did not take is offered again, milliseconds.
const RETRY_MS: u64 = 200;

/// Whether the state that names an order is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saved {
    No,
    /// It is in the state that is being written.
    Underway,
    Yes,
}

#[derive(Debug)]
struct Batch {
    order: Order,
    saved: Saved,
    left: usize,
}

#[derive(Debug)]
struct Item {
    batch: u64,
    payload: Vec<u8>,
    /// The scene that must be stored before.
    scene: Option<String>,
    in_flight: bool,
}

#[derive(Debug)]
struct SceneBytes {
    bytes: Vec<u8>,
    batch: u64,
    in_flight: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    batches: BTreeMap<u64, Batch>,
    items: BTreeMap<EpisodeId, Item>,
    /// Episodes that wait to be sent, oldest order first.
    queue: BTreeMap<(u64, EpisodeId), ()>,
    scenes: BTreeMap<String, SceneBytes>,
    next_batch: u64,
    in_flight: usize,
    not_before_ms: u64,
}

impl Outbox {
    /// `saved`: the order was read from the written state.
    pub(crate) fn add(&mut self, order: Order, planned: Vec<Planned>, saved: bool) {
        let batch = self.next_batch;
        self.next_batch += 1;
        let saved = if saved { Saved::Yes } else { Saved::No };
        self.batches.insert(batch, Batch { order, saved, left: planned.len() });
        for Planned { episode, scene } in planned {
            let digest = episode.scene.as_ref().map(|s| s.digest.clone());
            if let (Some(digest), Some(bytes)) = (&digest, scene) {
                self.scenes.entry(digest.clone()).or_insert(SceneBytes { bytes, batch, in_flight: false });
            }
            self.queue.insert((batch, episode.id), ());
            self.items.insert(episode.id, Item { batch, payload: encode(&episode), scene: digest, in_flight: false });
        }
    }

    /// Episodes that are not stored yet.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn waiting_by_split(&self) -> BTreeMap<Split, u64> {
        let mut counts = BTreeMap::new();
        for id in self.items.keys() {
            *counts.entry(id.split).or_default() += 1;
        }
        counts
    }

    pub(crate) fn has_unsaved(&self) -> bool {
        self.batches.values().any(|b| b.saved == Saved::No)
    }

    /// The state is being written, with all orders so far.
    pub(crate) fn saving(&mut self) {
        self.turn(Saved::No, Saved::Underway);
    }

    pub(crate) fn saved(&mut self) {
        self.turn(Saved::Underway, Saved::Yes);
    }

    pub(crate) fn not_saved(&mut self) {
        self.turn(Saved::Underway, Saved::No);
    }

    fn turn(&mut self, from: Saved, to: Saved) {
        for batch in self.batches.values_mut().filter(|b| b.saved == from) {
            batch.saved = to;
        }
    }

    fn is_saved(&self, batch: u64) -> bool {
        self.batches.get(&batch).is_some_and(|b| b.saved == Saved::Yes)
    }

    /// Scenes to store now. Those in `put` are there already.
    pub(crate) fn scenes_to_put(&mut self, put: &BTreeSet<String>, now_ms: u64) -> Vec<(String, Vec<u8>)> {
        self.scenes.retain(|digest, _| !put.contains(digest));
        if now_ms < self.not_before_ms {
            return vec![];
        }
        let due = |s: &SceneBytes| !s.in_flight && self.is_saved(s.batch);
        let due: Vec<String> = self.scenes.iter().filter(|(_, s)| due(s)).map(|(digest, _)| digest.clone()).collect();
        let mut scenes = vec![];
        for digest in due {
            if let Some(scene) = self.scenes.get_mut(&digest) {
                scene.in_flight = true;
                scenes.push((digest, scene.bytes.clone()));
            }
        }
        scenes
    }

    pub(crate) fn scene_stored(&mut self, digest: &str) {
        self.scenes.remove(digest);
    }

    pub(crate) fn scene_failed(&mut self, digest: String, now_ms: u64) {
        self.not_before_ms = now_ms + RETRY_MS;
        if let Some(scene) = self.scenes.get_mut(&digest) {
            scene.in_flight = false;
        }
    }

    /// Episodes to publish now: their order is saved, their scene stored.
    pub(crate) fn episodes_to_send(&mut self, put: &BTreeSet<String>, now_ms: u64) -> Vec<(EpisodeId, Vec<u8>)> {
        if now_ms < self.not_before_ms {
            return vec![];
        }
        let mut due = vec![];
        for (batch, id) in self.queue.keys() {
            if self.in_flight + due.len() >= IN_FLIGHT || !self.is_saved(*batch) {
                break;
            }
            let scene = self.items.get(id).and_then(|item| item.scene.as_ref());
            if scene.is_none_or(|digest| put.contains(digest)) {
                due.push((*batch, *id));
            }
        }
        let mut sent = vec![];
        for key in due {
            self.queue.remove(&key);
            if let Some(item) = self.items.get_mut(&key.1) {
                item.in_flight = true;
                self.in_flight += 1;
                sent.push((key.1, item.payload.clone()));
            }
        }
        sent
    }

    /// The stream did not take it, or may not have: it is offered again, all others wait with it.
    pub(crate) fn episode_failed(&mut self, id: EpisodeId, now_ms: u64) {
        self.not_before_ms = now_ms + RETRY_MS;
        if let Some(item) = self.items.get_mut(&id)
            && item.in_flight
        {
            item.in_flight = false;
            self.in_flight -= 1;
            self.queue.insert((item.batch, id), ());
        }
    }

    /// Gives back the order of which this was the last episode.
    pub(crate) fn episode_stored(&mut self, id: EpisodeId) -> Option<Order> {
        let item = self.items.remove(&id)?;
        if item.in_flight {
            self.in_flight -= 1;
        }
        self.queue.remove(&(item.batch, id));
        let batch = self.batches.get_mut(&item.batch)?;
        batch.left -= 1;
        if batch.left > 0 {
            return None;
        }
        self.batches.remove(&item.batch).map(|batch| batch.order)
    }
}
