//! Ends in hand: those that wait for a commit, those in the commit that is under way, and the deliveries to ack for each.

use crate::Item;
use kit::stage::Delivery;
use schemas::EpisodeId;
use std::collections::BTreeMap;

/// What is owed to the broker for one end.
#[derive(Debug)]
struct Owed {
    /// More than one where the broker delivered it again while it was held.
    deliveries: Vec<Delivery>,
    touched_ms: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Held {
    owed: BTreeMap<EpisodeId, Owed>,
    waiting: Vec<Item>,
    waiting_bytes: usize,
    waiting_since: Option<u64>,
    /// Payload bytes, those in the commit under way included.
    bytes: usize,
    /// Of all that ever came, for the mean.
    came: u64,
    came_bytes: u64,
}

impl Held {
    /// Takes an end in hand; false where it was there, and only one more delivery is owed.
    pub(crate) fn take(&mut self, item: Item, delivery: Delivery, now_ms: u64) -> bool {
        if let Some(owed) = self.owed.get_mut(&item.id) {
            owed.deliveries.push(delivery);
            owed.touched_ms = now_ms;
            return false;
        }
        self.owed.insert(item.id, Owed { deliveries: vec![delivery], touched_ms: now_ms });
        let bytes = item.payload.len();
        self.waiting_bytes += bytes;
        self.bytes += bytes;
        self.came += 1;
        self.came_bytes += bytes as u64;
        self.waiting_since.get_or_insert(now_ms);
        self.waiting.push(item);
        true
    }

    /// Hands over all that waits; it stays in hand until it is released.
    pub(crate) fn start_commit(&mut self) -> Vec<Item> {
        self.waiting_bytes = 0;
        self.waiting_since = None;
        std::mem::take(&mut self.waiting)
    }

    /// An end is done with: the deliveries to settle.
    pub(crate) fn release(&mut self, id: EpisodeId, bytes: usize) -> Vec<Delivery> {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.owed.remove(&id).map(|owed| owed.deliveries).unwrap_or_default()
    }

    /// Drops those of the waiting ends that `known` names: the deliveries to settle.
    pub(crate) fn drop_waiting(&mut self, known: impl Fn(EpisodeId) -> bool) -> Vec<Delivery> {
        let (dropped, kept): (Vec<Item>, Vec<Item>) = std::mem::take(&mut self.waiting).into_iter().partition(|item| known(item.id));
        self.waiting = kept;
        self.waiting_bytes = self.waiting.iter().map(|item| item.payload.len()).sum();
        if self.waiting.is_empty() {
            self.waiting_since = None;
        }
        dropped.into_iter().flat_map(|item| self.release(item.id, item.payload.len())).collect()
    }

    /// The newest delivery of each end that was not touched for `after_ms`; they count as touched now.
    pub(crate) fn overdue(&mut self, now_ms: u64, after_ms: u64) -> Vec<Delivery> {
        let late = self.owed.values_mut().filter(|owed| now_ms.saturating_sub(owed.touched_ms) >= after_ms);
        late.filter_map(|owed| {
            owed.touched_ms = now_ms;
            owed.deliveries.last().copied()
        })
        .collect()
    }

    /// Ends in hand.
    pub(crate) fn len(&self) -> usize {
        self.owed.len()
    }

    /// Payload bytes in hand.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Mean payload of all that ever came.
    pub(crate) fn mean_bytes(&self) -> Option<usize> {
        self.came_bytes.checked_div(self.came).map(|mean| mean as usize)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// When the oldest of those that wait came.
    pub(crate) fn waiting_since(&self) -> Option<u64> {
        self.waiting_since
    }
}
