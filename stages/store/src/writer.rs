//! Writing: a batch of ends becomes one pair of files for each split and one manifest entry that shows them all.
//!
//! A crash before the entry leaves files that no reader sees. An entry is taken by put-if-absent, so that of two writers
//! one loses; it reads what the other committed, leaves those episodes out, and goes for the next number.

use crate::location::Put;
use crate::view::View;
use crate::{Committed, Entry, Error, FileEntry, IdSet, Kind, SCHEMA_VERSION, Store, build, schema};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use schemas::{End, EpisodeId, Split};
use std::collections::BTreeSet;

/// Commits ends to a store. One process may hold one; any number of processes may write at once.
#[derive(Debug)]
pub struct Writer {
    pub(crate) store: Store,
    /// In file names and entries; unique among the writers that run at one time.
    name: String,
    /// The entries that it knows. The next one is tried under the number that follows.
    pub(crate) view: View,
    /// The number that the next file name is tried at.
    next_file: u64,
}

impl Writer {
    /// Reads the manifest, so that it knows what is committed.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Malformed`] or [`Error::Schema`] where the manifest cannot be read.
    pub async fn open(store: Store, name: &str) -> Result<Writer, Error> {
        let mut writer = Writer { store, name: name.into(), view: View::default(), next_file: 0 };
        writer.refresh().await?;
        writer.next_file = writer.view.next();
        Ok(writer)
    }

    /// Reads the entries that came since.
    pub(crate) async fn refresh(&mut self) -> Result<(), Error> {
        for entry in read_entries(&self.store, self.view.next()).await? {
            self.view.add(entry)?;
        }
        Ok(())
    }

    /// The episodes of all entries that this writer has seen or made.
    pub fn committed(&self) -> &Committed {
        self.view.committed()
    }

    /// Commits those of the ends whose episode is not committed yet, each episode once. When this returns, they are visible.
    /// `None`: there was nothing left to commit.
    ///
    /// `now_us`: Unix microseconds, for the entry.
    ///
    /// # Errors
    /// [`Error::Write`] above all; nothing of the batch is visible then, and files already written are removed again.
    pub async fn commit(&mut self, ends: &[End], now_us: u64) -> Result<Option<Entry>, Error> {
        loop {
            let mut taken = BTreeSet::new();
            let fresh: Vec<&End> = ends.iter().filter(|end| !self.committed().contains(end.id()) && taken.insert(end.id())).collect();
            if fresh.is_empty() {
                return Ok(None);
            }
            let files = self.write_files(&fresh).await?;
            match self.publish(&taken, files, BTreeSet::new(), now_us).await? {
                Some(entry) => return Ok(Some(entry)),
                // Another writer has committed some of these episodes: the files are gone again, and the rest is written anew.
                None => continue,
            }
        }
    }

    /// Takes the next free number of the manifest. `None`: the race was lost to an entry that holds some of `ids`, or that
    /// replaces some of what this one `replaces`.
    pub(crate) async fn publish(
        &mut self,
        ids: &BTreeSet<EpisodeId>,
        files: Vec<FileEntry>,
        replaces: BTreeSet<String>,
        now_us: u64,
    ) -> Result<Option<Entry>, Error> {
        loop {
            let entry = Entry {
                schema: SCHEMA_VERSION,
                run: self.store.run().into(),
                number: self.view.next(),
                writer: self.name.clone(),
                committed_us: now_us,
                files: files.clone(),
                replaces: replaces.iter().cloned().collect(),
            };
            let path = Entry::path(self.store.run(), self.view.next());
            let put = match self.store.put(&path, Bytes::from(entry.to_json())).await {
                Ok(put) => put,
                Err(error) => {
                    // Where the entry is there all the same, or may still arrive, its files must be there too.
                    let absent = matches!(self.store.get(&path).await, Ok(None));
                    if absent && self.store.fails_for_good() {
                        self.remove(&files).await;
                    }
                    return Err(error);
                }
            };
            let won = put == Put::Written || self.is_ours(&path, &entry).await?;
            let stands = if won { entry } else { self.read_entry(&path).await? };
            self.view.add(stands.clone())?;
            if won {
                return Ok(Some(stands));
            }
            if ids.iter().any(|id| self.committed().contains(*id)) || replaces.iter().any(|path| !self.view.counts(path)) {
                self.remove(&files).await;
                return Ok(None);
            }
        }
    }

    /// An object store may repeat a request whose answer was lost, and then finds the entry that it has just written.
    async fn is_ours(&self, path: &str, entry: &Entry) -> Result<bool, Error> {
        Ok(self.read_entry(path).await? == *entry)
    }

    async fn read_entry(&self, path: &str) -> Result<Entry, Error> {
        let reason = "it was there a moment ago and is gone; hint: nothing may delete entries while a run goes on".to_string();
        let json = self.store.get(path).await?.ok_or_else(|| Error::Read { store: self.store.url().into(), path: path.into(), reason })?;
        Entry::from_json(path, &json)
    }

    pub(crate) async fn write_files(&mut self, fresh: &[&End]) -> Result<Vec<FileEntry>, Error> {
        let mut files = Vec::new();
        for split in Split::ALL {
            let ends = build::of_split(fresh, split);
            if ends.is_empty() {
                continue;
            }
            let tables = [(Kind::Trajectories, build::trajectories(&ends)?), (Kind::Turns, build::turns(&ends)?)];
            for (kind, batches) in tables {
                let playing = ends.iter().filter(|end| kind == Kind::Trajectories || !end.turns.is_empty());
                let episodes: IdSet = playing.map(|end| end.id().number).collect();
                match self.write_file(kind, split, &episodes, &batches).await {
                    Ok(file) => files.extend(file),
                    Err(error) => {
                        self.remove(&files).await;
                        return Err(error);
                    }
                }
            }
        }
        Ok(files)
    }

    /// Writes one file under a name that no file has. `None` where there are no rows.
    async fn write_file(
        &mut self,
        kind: Kind,
        split: Split,
        episodes: &IdSet,
        batches: &[RecordBatch],
    ) -> Result<Option<FileEntry>, Error> {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if rows == 0 {
            return Ok(None);
        }
        let schema = if kind == Kind::Trajectories { schema::trajectories_schema() } else { schema::turns_schema() };
        let bytes = Bytes::from(to_parquet(schema, batches, self.store.run())?);
        loop {
            let folder = format!("{}/run={}/split={split}", kind.as_str(), self.store.run());
            let path = format!("{folder}/{}-{:06}.parquet", self.name, self.next_file);
            self.next_file += 1;
            if self.store.put(&path, bytes.clone()).await? == Put::Written {
                let digest = schemas::digest_of(&bytes);
                let episodes = episodes.ranges().collect();
                return Ok(Some(FileEntry { path, kind, split, rows: rows as u64, bytes: bytes.len() as u64, episodes, digest }));
            }
        }
    }

    /// Best effort: what stays behind is invisible.
    async fn remove(&self, files: &[FileEntry]) {
        for file in files {
            let _ = self.store.delete(&file.path).await;
        }
    }
}

fn to_parquet(schema: SchemaRef, batches: &[RecordBatch], run: &str) -> Result<Vec<u8>, Error> {
    let columns = |error: parquet::errors::ParquetError| Error::Columns(error.to_string());
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(schema::writer_properties(run))).map_err(columns)?;
    for batch in batches {
        writer.write(batch).map_err(columns)?;
        writer.flush().map_err(columns)?;
    }
    writer.into_inner().map_err(columns)
}

/// The run's entries from `first` on, in order.
pub(crate) async fn read_entries(store: &Store, first: u64) -> Result<Vec<Entry>, Error> {
    use futures::{StreamExt, TryStreamExt};
    /// Requests to an object store that are under way at once.
    const AT_ONCE: usize = 16;
    let listed = store.list(&Entry::folder(store.run()), 0).await?;
    let named = listed.into_iter().filter_map(|(path, _)| {
        let number = path.rsplit('/').next()?.strip_suffix(".json")?.parse::<u64>().ok()?;
        (number >= first).then_some((number, path))
    });
    let mut named: Vec<(u64, String)> = named.collect();
    named.sort_unstable();
    for ((number, path), expected) in named.iter().zip(first..) {
        if *number != expected {
            let reason = format!("entry {expected} is missing before it; hint: restore it, or start a run with another name");
            return Err(Error::Malformed { path: path.clone(), reason });
        }
    }
    let read = |(_, path): (u64, String)| async move {
        let gone = || Error::Read { store: store.url().into(), path: path.clone(), reason: "it is listed but not there".into() };
        Entry::from_json(&path, &store.get(&path).await?.ok_or_else(gone)?)
    };
    futures::stream::iter(named).map(read).buffered(AT_ONCE).try_collect().await
}
