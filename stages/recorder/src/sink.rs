//! Where ends are kept: the store, behind a small trait so that the logic can be tested without one.

use kit::stage::Identity;
use schemas::{End, EpisodeId, decode, pipeline::Pipeline};
use std::collections::BTreeMap;
use std::time::Instant;
use store::{Blocking, Committed, Compaction, Store, Writer};

/// An end as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub id: EpisodeId,
    pub subject: String,
    /// An encoded [`End`].
    pub payload: Vec<u8>,
}

/// What a commit came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Receipt {
    /// Ends that this commit added; those that were committed before are not among them.
    pub episodes: u64,
    /// Bytes of the files written.
    pub bytes: u64,
    pub seconds: f64,
    /// Places in the batch of what could not be read, with the reason. All others are committed.
    pub refused: BTreeMap<usize, String>,
}

/// Keeps ends for good. Called from a thread of its own, one call at a time.
pub trait Sink: Send {
    /// Gives the episodes that are committed already.
    ///
    /// # Errors
    /// One line for people; the stage ends with it.
    fn open(&mut self) -> Result<Committed, String>;

    /// Commits a batch: when this returns, every end that was not refused is there for good. `now_us`: Unix microseconds.
    ///
    /// # Errors
    /// One line for people; the stage ends with it, and nothing of the batch is visible.
    fn commit(&mut self, batch: &[Item], now_us: u64) -> Result<Receipt, String>;
}

/// The trajectory store.
pub struct StoreSink {
    url: String,
    run: String,
    writer_name: String,
    /// What it keeps of pictures.
    pipeline: Pipeline,
    open: Option<(Blocking, Writer)>,
    commits: u64,
}

/// After so many commits of its own a recorder puts small files together.
const COMPACT_EVERY: u64 = 32;

impl StoreSink {
    /// The store of the run: `record.url`, or the folder `trajectories` among the run's own files.
    pub fn new(identity: &Identity) -> StoreSink {
        let url = &identity.pipeline.record.url;
        let url = if url.is_empty() { identity.folder.join("trajectories").display().to_string() } else { url.clone() };
        StoreSink {
            url,
            run: identity.run.clone(),
            writer_name: identity.id.clone(),
            pipeline: identity.pipeline.clone(),
            open: None,
            commits: 0,
        }
    }
}

impl Sink for StoreSink {
    fn open(&mut self) -> Result<Committed, String> {
        let runtime = Blocking::new()?;
        let store = Store::open(&self.url, &self.run).map_err(|e| e.to_string())?;
        let writer = runtime.block_on(Writer::open(store, &self.writer_name)).map_err(|e| e.to_string())?;
        let committed = writer.committed().clone();
        self.open = Some((runtime, writer));
        Ok(committed)
    }

    fn commit(&mut self, batch: &[Item], now_us: u64) -> Result<Receipt, String> {
        let Some((runtime, writer)) = &mut self.open else { return Err("the store was not opened before a commit".into()) };
        let begun = Instant::now();
        let mut receipt = Receipt::default();
        let mut ends = Vec::with_capacity(batch.len());
        for (at, item) in batch.iter().enumerate() {
            match read(item) {
                Ok(mut end) => {
                    self.pipeline.strip_pictures(&mut end);
                    ends.push(end);
                }
                Err(reason) => {
                    receipt.refused.insert(at, reason);
                }
            }
        }
        let entry = runtime.block_on(writer.commit(&ends, now_us)).map_err(|e| e.to_string())?;
        receipt.episodes = entry.as_ref().map_or(0, store::Entry::trajectories);
        receipt.bytes = entry.as_ref().map_or(0, store::Entry::bytes);
        self.commits += 1;
        if self.commits.is_multiple_of(COMPACT_EVERY) {
            // The ends are committed whatever comes of this; a store that is in trouble says so at the next commit.
            let _ = runtime.block_on(writer.compact(Compaction::default(), now_us));
        }
        receipt.seconds = begun.elapsed().as_secs_f64();
        Ok(receipt)
    }
}

fn read(item: &Item) -> Result<End, String> {
    let end: End = decode(&item.payload).map_err(|e| e.to_string())?;
    if end.id() == item.id { Ok(end) } else { Err(format!("it is the end of {}, its subject names {}", end.id(), item.id)) }
}
