//! Reading what is committed: the manifest first, then only the files that it lists.

use crate::parse::{self, SUMMARY_COLUMNS};
use crate::writer::read_entries;
use crate::{Committed, Entry, Error, FileEntry, Kind, Store, Summary, TurnRow, turns_schema};
use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::{End, EpisodeId, Turn};
use std::collections::{BTreeMap, BTreeSet};

/// A view of one run's committed rows, as of the last [`Reader::refresh`].
#[derive(Debug)]
pub struct Reader {
    store: Store,
    entries: Vec<Entry>,
    committed: Committed,
}

impl Reader {
    /// Opens a run in the store at a path or URL, and reads its manifest.
    ///
    /// # Errors
    /// [`Error::Location`], and as [`Reader::over`].
    pub async fn open(url: &str, run: &str) -> Result<Reader, Error> {
        Reader::over(Store::open_existing(url, run)?).await
    }

    /// Reads the manifest of a store that is open already.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Malformed`] or [`Error::Schema`] where it cannot be read.
    pub async fn over(store: Store) -> Result<Reader, Error> {
        let mut reader = Reader { store, entries: Vec::new(), committed: Committed::default() };
        reader.refresh().await?;
        Ok(reader)
    }

    /// Reads the entries that came since. Gives how many did.
    ///
    /// # Errors
    /// As [`Reader::over`].
    pub async fn refresh(&mut self) -> Result<usize, Error> {
        let new = read_entries(&self.store, self.entries.len() as u64).await?;
        let count = new.len();
        for entry in new {
            entry.add_to(&mut self.committed)?;
            self.entries.push(entry);
        }
        Ok(count)
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn committed(&self) -> &Committed {
        &self.committed
    }

    /// The committed files of one kind, in the order of their commits.
    pub fn files(&self, kind: Kind) -> impl Iterator<Item = &FileEntry> {
        self.entries.iter().flat_map(|entry| &entry.files).filter(move |file| file.kind == kind)
    }

    /// The cheap columns of every trajectory, file by file.
    pub fn summaries(&self) -> impl Stream<Item = Result<Summary, Error>> + '_ {
        let files = futures::stream::iter(self.files(Kind::Trajectories));
        files.then(|file| self.file_summaries(file)).map_ok(|rows| futures::stream::iter(rows.into_iter().map(Ok))).try_flatten()
    }

    /// The cheap columns of one file of trajectories.
    ///
    /// # Errors
    /// [`Error::Read`] where the file is not there, [`Error::Malformed`] where it is not what the schema says.
    pub async fn file_summaries(&self, file: &FileEntry) -> Result<Vec<Summary>, Error> {
        let mut rows = Vec::with_capacity(file.rows as usize);
        for batch in self.batches(file, Some(&SUMMARY_COLUMNS)).await? {
            rows.extend(parse::summaries(&file.path, &batch)?);
        }
        Ok(rows)
    }

    /// How many rows of the table of turns each episode of one file has.
    ///
    /// # Errors
    /// As [`Reader::file_summaries`].
    pub async fn turn_counts(&self, file: &FileEntry) -> Result<BTreeMap<EpisodeId, u64>, Error> {
        use arrow::array::AsArray;
        use arrow::datatypes::UInt64Type;
        let mut counts = BTreeMap::new();
        for batch in self.batches(file, Some(&["episode"])).await? {
            let numbers = batch.column_by_name("episode").and_then(|column| column.as_primitive_opt::<UInt64Type>());
            let wrong = || Error::Malformed { path: file.path.clone(), reason: "it has no column `episode` of whole numbers".into() };
            for number in numbers.ok_or_else(wrong)?.values() {
                *counts.entry(EpisodeId { split: file.split, number: *number }).or_insert(0) += 1;
            }
        }
        Ok(counts)
    }

    /// Every trajectory as the end that it was made of, with turns and pictures, commit by commit. Pictures that no turn
    /// shows are not kept; a picture of several turns comes once.
    pub fn trajectories(&self) -> impl Stream<Item = Result<End, Error>> + '_ {
        let files = self.entries.iter().flat_map(|entry| entry.files.iter().map(move |file| (entry, file)));
        let files = futures::stream::iter(files.filter(|(_, file)| file.kind == Kind::Trajectories));
        files.then(|(entry, file)| self.ends(entry, file)).map_ok(|ends| futures::stream::iter(ends.into_iter().map(Ok))).try_flatten()
    }

    async fn ends(&self, entry: &Entry, file: &FileEntry) -> Result<Vec<End>, Error> {
        let mut ends = Vec::with_capacity(file.rows as usize);
        for batch in self.batches(file, None).await? {
            ends.extend(parse::ends(&file.path, &batch)?);
        }
        let mut turns: BTreeMap<EpisodeId, Vec<TurnRow>> = BTreeMap::new();
        for with in entry.files.iter().filter(|other| other.kind == Kind::Turns && other.split == file.split) {
            for row in self.turn_rows(with, None, true).await? {
                turns.entry(row.id).or_default().push(row);
            }
        }
        for end in &mut ends {
            parse::join(end, turns.remove(&end.id()).unwrap_or_default().into_iter());
        }
        Ok(ends)
    }

    /// One episode, whole; `None` where it is not committed.
    ///
    /// # Errors
    /// As [`Reader::file_summaries`].
    pub async fn end(&self, id: EpisodeId) -> Result<Option<End>, Error> {
        for entry in &self.entries {
            if let Some(file) = entry.files.iter().find(|file| file.kind == Kind::Trajectories && holds(file, id)) {
                return Ok(self.ends(entry, file).await?.into_iter().find(|end| end.id() == id));
            }
        }
        Ok(None)
    }

    /// The turns of one episode, in order, without their pictures; empty where it has none or is not committed.
    ///
    /// # Errors
    /// As [`Reader::file_summaries`].
    pub async fn turns(&self, id: EpisodeId) -> Result<Vec<Turn>, Error> {
        match self.files(Kind::Turns).find(|file| holds(file, id)) {
            Some(file) => Ok(self.turn_rows(file, Some(id), false).await?.into_iter().map(|row| row.turn).collect()),
            None => Ok(Vec::new()),
        }
    }

    /// The turns of one episode with the pictures that were kept of them.
    ///
    /// # Errors
    /// As [`Reader::file_summaries`].
    pub async fn pictured_turns(&self, id: EpisodeId) -> Result<Vec<TurnRow>, Error> {
        match self.files(Kind::Turns).find(|file| holds(file, id)) {
            Some(file) => self.turn_rows(file, Some(id), true).await,
            None => Ok(Vec::new()),
        }
    }

    /// Every turn of the run, without pictures, commit by commit.
    ///
    /// # Errors
    /// As [`Reader::file_summaries`].
    pub async fn all_turns(&self) -> Result<Vec<Turn>, Error> {
        let mut turns = Vec::new();
        for file in self.files(Kind::Turns) {
            turns.extend(self.turn_rows(file, None, false).await?.into_iter().map(|row| row.turn));
        }
        Ok(turns)
    }

    async fn turn_rows(&self, file: &FileEntry, wanted: Option<EpisodeId>, pictures: bool) -> Result<Vec<TurnRow>, Error> {
        let schema = turns_schema();
        let names: Vec<&str> =
            schema.fields().iter().map(|field| field.name().as_str()).filter(|name| pictures || *name != "pictures").collect();
        let mut rows = Vec::new();
        for batch in self.batches(file, Some(&names)).await? {
            rows.extend(parse::turns(&file.path, &batch, wanted)?);
        }
        Ok(rows)
    }

    /// Files of the run that no entry lists, left by a writer that died or is about to commit: paths, and their ages in
    /// seconds at `now_us` (Unix microseconds).
    ///
    /// # Errors
    /// [`Error::Read`] where the store cannot be listed.
    pub async fn invisible(&self, now_us: u64) -> Result<Vec<(String, f64)>, Error> {
        let visible: BTreeSet<&str> = self.entries.iter().flat_map(|entry| &entry.files).map(|file| file.path.as_str()).collect();
        let mut found = Vec::new();
        for kind in [Kind::Trajectories, Kind::Turns] {
            let listed = self.store.list(&format!("{}/run={}", kind.as_str(), self.store.run()), now_us).await?;
            found.extend(listed.into_iter().filter(|(path, _)| !visible.contains(path.as_str())));
        }
        Ok(found)
    }

    /// Removes what no entry lists and is older than `older_than_s` seconds at `now_us`. Gives how many files went.
    /// The manifest is read again first, and an age of an hour is safe while writers are at work.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Write`].
    pub async fn sweep(&mut self, older_than_s: f64, now_us: u64) -> Result<usize, Error> {
        let old: Vec<_> = self.invisible(now_us).await?.into_iter().filter(|(_, age)| *age >= older_than_s).collect();
        self.refresh().await?;
        let visible: BTreeSet<&str> = self.entries.iter().flat_map(|entry| &entry.files).map(|file| file.path.as_str()).collect();
        let mut removed = 0;
        for (path, _) in old.iter().filter(|(path, _)| !visible.contains(path.as_str())) {
            self.store.delete(path).await?;
            removed += 1;
        }
        Ok(removed)
    }

    /// The rows of a file, of these columns only where some are named.
    async fn batches(&self, file: &FileEntry, columns: Option<&[&str]>) -> Result<Vec<RecordBatch>, Error> {
        let reason = || "the manifest lists it but it is not there".to_string();
        let bytes = self.store.get(&file.path).await?;
        let bytes = bytes.ok_or_else(|| Error::Read { store: self.store.url().into(), path: file.path.clone(), reason: reason() })?;
        let malformed = |reason: String| Error::Malformed { path: file.path.clone(), reason };
        let batches = read_parquet(bytes, columns).map_err(malformed)?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if rows as u64 != file.rows {
            return Err(malformed(format!("it holds {rows} rows, the manifest says {}", file.rows)));
        }
        Ok(batches)
    }
}

fn holds(file: &FileEntry, id: EpisodeId) -> bool {
    file.split == id.split && file.episodes.iter().any(|(first, last)| (*first..=*last).contains(&id.number))
}

fn read_parquet(bytes: Bytes, columns: Option<&[&str]>) -> Result<Vec<RecordBatch>, String> {
    let mut builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| e.to_string())?;
    if let Some(names) = columns {
        let fields = builder.schema().fields().iter().enumerate();
        let roots: Vec<usize> = fields.filter(|(_, field)| names.contains(&field.name().as_str())).map(|(at, _)| at).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        builder = builder.with_projection(mask);
    }
    let rows = builder.build().map_err(|e| e.to_string())?;
    rows.collect::<Result<_, _>>().map_err(|e| e.to_string())
}
