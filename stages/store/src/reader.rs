//! Reading what is committed: the manifest first, then only the files that it lists, and of those only what is asked for.

use crate::parse::{self, SUMMARY_COLUMNS};
use crate::ranged::Ranged;
use crate::schema::SCHEMA_KEY;
use crate::view::View;
use crate::writer::read_entries;
use crate::{
    Committed, Entry, Error, FileEntry, Kind, SCHEMA_VERSION, Store, Summary, TurnRow, one_line, trajectories_schema, turns_schema,
};
use arrow::array::RecordBatch;
use futures::{Stream, StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use schemas::{End, EpisodeId, Turn};
use std::collections::{BTreeMap, BTreeSet};

/// A view of one run's committed rows, as of the last [`Reader::refresh`].
#[derive(Debug)]
pub struct Reader {
    store: Store,
    view: View,
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
        let mut reader = Reader { store, view: View::default() };
        reader.refresh().await?;
        Ok(reader)
    }

    /// Reads the entries that came since. Gives how many did.
    ///
    /// # Errors
    /// As [`Reader::over`].
    pub async fn refresh(&mut self) -> Result<usize, Error> {
        let new = read_entries(&self.store, self.view.next()).await?;
        let count = new.len();
        for entry in new {
            self.view.add(entry)?;
        }
        Ok(count)
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// All commits, those included whose files were replaced since.
    pub fn entries(&self) -> &[Entry] {
        self.view.entries()
    }

    pub fn committed(&self) -> &Committed {
        self.view.committed()
    }

    /// The committed files of one kind, in the order of their commits.
    pub fn files(&self, kind: Kind) -> impl Iterator<Item = &FileEntry> {
        self.view.files().filter(move |file| file.kind == kind)
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
        for batch in self.batches(file, Some(&SUMMARY_COLUMNS), None).await? {
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
        for batch in self.batches(file, Some(&["episode"]), None).await? {
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
        self.trajectories_where(|_| true)
    }

    /// The same of those whose summary is wanted. Files without any are not read further.
    pub fn trajectories_where<'a>(&'a self, wanted: impl Fn(&Summary) -> bool + 'a) -> impl Stream<Item = Result<End, Error>> + 'a {
        let chosen = self.summaries().try_filter(move |row| std::future::ready(wanted(row))).map_ok(|row| row.id);
        let chunks = chosen.try_chunks(CHUNK_EPISODES).map_err(|error| error.1);
        let read = chunks.and_then(move |ids| async move { self.ends(&ids).await });
        read.map_ok(|ends| futures::stream::iter(ends.into_iter().map(Ok))).try_flatten()
    }

    /// These episodes, whole, in this order; those that are not committed are passed over. Of each file only the row
    /// groups between the lowest and the highest number are read, so that neighbours are best asked for together.
    ///
    /// # Errors
    /// As [`Reader::file_summaries`].
    pub async fn ends(&self, ids: &[EpisodeId]) -> Result<Vec<End>, Error> {
        let mut found: BTreeMap<EpisodeId, End> = BTreeMap::new();
        for (entry, file) in self.view.placed().filter(|(_, file)| file.kind == Kind::Trajectories) {
            let here: BTreeSet<EpisodeId> = ids.iter().copied().filter(|id| holds(file, *id)).collect();
            let (Some(first), Some(last)) = (here.first(), here.last()) else { continue };
            let ends = self.pair_rows(&self.pair_of(entry, file), Some((first.number, last.number))).await?;
            found.extend(ends.into_iter().filter(|end| here.contains(&end.id())).map(|end| (end.id(), end)));
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// A file of trajectories and the files of turns that were committed with it.
    fn pair_of(&self, entry: &Entry, file: &FileEntry) -> Vec<FileEntry> {
        let turns = entry.files.iter().filter(|other| other.kind == Kind::Turns && other.split == file.split);
        std::iter::once(file).chain(turns).cloned().collect()
    }

    /// The ends of files that were committed together.
    pub(crate) async fn pair(&self, files: &[FileEntry]) -> Result<Vec<End>, Error> {
        self.pair_rows(files, None).await
    }

    async fn pair_rows(&self, files: &[FileEntry], only: Option<Numbers>) -> Result<Vec<End>, Error> {
        let mut ends = Vec::new();
        for file in files.iter().filter(|file| file.kind == Kind::Trajectories) {
            for batch in self.batches(file, None, only).await? {
                ends.extend(parse::ends(&file.path, &batch)?);
            }
        }
        ends.retain(|end| only.is_none_or(|(first, last)| (first..=last).contains(&end.id().number)));
        let mut turns: BTreeMap<EpisodeId, Vec<TurnRow>> = BTreeMap::new();
        for file in files.iter().filter(|file| file.kind == Kind::Turns) {
            for row in self.turn_rows(file, only, true).await? {
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
        Ok(self.ends(&[id]).await?.into_iter().next())
    }

    /// The turns of one episode, in order, without their pictures; empty where it has none or is not committed.
    ///
    /// # Errors
    /// As [`Reader::file_summaries`].
    pub async fn turns(&self, id: EpisodeId) -> Result<Vec<Turn>, Error> {
        match self.files(Kind::Turns).find(|file| holds(file, id)) {
            Some(file) => Ok(self.turn_rows(file, Some((id.number, id.number)), false).await?.into_iter().map(|row| row.turn).collect()),
            None => Ok(Vec::new()),
        }
    }

    /// The turns of one episode with the pictures that were kept of them.
    ///
    /// # Errors
    /// As [`Reader::file_summaries`].
    pub async fn pictured_turns(&self, id: EpisodeId) -> Result<Vec<TurnRow>, Error> {
        match self.files(Kind::Turns).find(|file| holds(file, id)) {
            Some(file) => self.turn_rows(file, Some((id.number, id.number)), true).await,
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

    async fn turn_rows(&self, file: &FileEntry, wanted: Option<Numbers>, pictures: bool) -> Result<Vec<TurnRow>, Error> {
        let schema = turns_schema();
        let names: Vec<&str> =
            schema.fields().iter().map(|field| field.name().as_str()).filter(|name| pictures || *name != "pictures").collect();
        let mut rows = Vec::new();
        for batch in self.batches(file, Some(&names), wanted).await? {
            rows.extend(parse::turns(&file.path, &batch, wanted)?);
        }
        Ok(rows)
    }

    /// Files of the run that do not count: left by a writer that died or is about to commit, or replaced. Paths, and their ages in
    /// seconds at `now_us` (Unix microseconds).
    ///
    /// # Errors
    /// [`Error::Read`] where the store cannot be listed.
    pub async fn invisible(&self, now_us: u64) -> Result<Vec<(String, f64)>, Error> {
        let visible: BTreeSet<&str> = self.view.files().map(|file| file.path.as_str()).collect();
        let mut found = Vec::new();
        for kind in [Kind::Trajectories, Kind::Turns] {
            let listed = self.store.list(&format!("{}/run={}", kind.as_str(), self.store.run()), now_us).await?;
            found.extend(listed.into_iter().filter(|(path, _)| !visible.contains(path.as_str())));
        }
        Ok(found)
    }

    /// Removes what does not count and is older than `older_than_s` seconds at `now_us`. Gives how many files went.
    /// The manifest is read again first, and an age of an hour is safe while writers are at work.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Write`].
    pub async fn sweep(&mut self, older_than_s: f64, now_us: u64) -> Result<usize, Error> {
        let old: Vec<_> = self.invisible(now_us).await?.into_iter().filter(|(_, age)| *age >= older_than_s).collect();
        self.refresh().await?;
        let visible: BTreeSet<&str> = self.view.files().map(|file| file.path.as_str()).collect();
        let mut removed = 0;
        for (path, _) in old.iter().filter(|(path, _)| !visible.contains(path.as_str())) {
            self.store.delete(path).await?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Reads a file whole and compares it with what was committed, byte for byte.
    ///
    /// # Errors
    /// [`Error::Malformed`] where it is another; files of schema 1 have no digest, and only their length is compared.
    pub async fn verify(&self, file: &FileEntry) -> Result<(), Error> {
        let bytes = self.store.get(&file.path).await?.ok_or_else(|| self.gone(file))?;
        let malformed = |reason: String| Error::Malformed { path: file.path.clone(), reason };
        if bytes.len() as u64 != file.bytes {
            return Err(malformed(format!("it has {} bytes, the manifest says {}", bytes.len(), file.bytes)));
        }
        let digest = schemas::digest_of(&bytes);
        if !file.digest.is_empty() && digest != file.digest {
            return Err(malformed(format!("its digest is {}, the manifest says {}: a byte of it has changed", &digest[..12], file.digest)));
        }
        Ok(())
    }

    /// Whether another reader may be given a file: it is there, whole by its length, and has the store's columns and the rows
    /// that were committed. Reads its footer only; [`Reader::verify`] reads all of it.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Malformed`] or [`Error::Schema`], which name the file.
    pub async fn check(&self, file: &FileEntry) -> Result<(), Error> {
        self.footer(file).await.map(drop)
    }

    #[cfg(test)]
    pub(crate) async fn rows_read(&self, file: &FileEntry, episode: Option<u64>) -> usize {
        self.batches(file, None, episode.map(|number| (number, number)))
            .await
            .expect("a whole file")
            .iter()
            .map(RecordBatch::num_rows)
            .sum()
    }

    fn gone(&self, file: &FileEntry) -> Error {
        let reason = "the manifest lists it but it is not there; hint: it may have been compacted, read the manifest again".to_string();
        Error::Read { store: self.store.url().into(), path: file.path.clone(), reason }
    }

    /// Opens a file that is as long as the manifest says, of this store's columns, and of the rows that it was committed with.
    async fn footer(&self, file: &FileEntry) -> Result<Builder, Error> {
        let malformed = |reason: String| Error::Malformed { path: file.path.clone(), reason };
        // Asking for the size tells a file that is gone from one that is broken.
        let size = self.store.size(&file.path).await?.ok_or_else(|| self.gone(file))?;
        if size != file.bytes {
            return Err(malformed(format!("it has {size} bytes, the manifest says {}: it was cut short or written over", file.bytes)));
        }
        let (object, path) = self.store.object(&file.path);
        let builder = ParquetRecordBatchStreamBuilder::new(Ranged { object, path, size }).await.map_err(|e| malformed(one_line(&e)))?;
        check_columns(&builder, file)?;
        let rows = builder.metadata().file_metadata().num_rows();
        if rows < 0 || rows as u64 != file.rows {
            return Err(malformed(format!("it holds {rows} rows, the manifest says {}", file.rows)));
        }
        Ok(builder)
    }

    /// The rows of a file: of these columns only where some are named, and of the row groups that may hold these
    /// episodes only where they are given.
    async fn batches(&self, file: &FileEntry, columns: Option<&[&str]>, numbers: Option<Numbers>) -> Result<Vec<RecordBatch>, Error> {
        let malformed = |reason: String| Error::Malformed { path: file.path.clone(), reason };
        let mut builder = self.footer(file).await?;
        if let Some(names) = columns {
            let fields = builder.schema().fields().iter().enumerate();
            let roots: Vec<usize> = fields.filter(|(_, field)| names.contains(&field.name().as_str())).map(|(at, _)| at).collect();
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
            builder = builder.with_projection(mask);
        }
        if let Some(numbers) = numbers {
            let groups = groups_with(&builder, numbers).map_err(|e| malformed(one_line(&e)))?;
            builder = builder.with_row_groups(groups);
        }
        let stream = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| malformed(one_line(&e)))?;
        stream.try_collect().await.map_err(|e| malformed(one_line(&e)))
    }
}

/// Episodes of one split from a number to another, both inclusive.
type Numbers = (u64, u64);
/// Episodes that are read at once by a stream.
const CHUNK_EPISODES: usize = 256;
/// Rows that are decoded at once.
const BATCH_ROWS: usize = 1024;

type Builder = ParquetRecordBatchStreamBuilder<Ranged>;

/// The columns that this release's readers need of a file of the version that it says it has.
fn check_columns(builder: &Builder, file: &FileEntry) -> Result<(), Error> {
    let path = || file.path.clone();
    let pairs = builder.metadata().file_metadata().key_value_metadata();
    let said = pairs.into_iter().flatten().find(|pair| pair.key == SCHEMA_KEY).and_then(|pair| pair.value.as_ref()?.parse::<u32>().ok());
    let Some(found) = said else {
        return Err(Error::Malformed {
            path: path(),
            reason: format!("it is no file of a trajectory store: it does not say `{SCHEMA_KEY}`"),
        });
    };
    if found > SCHEMA_VERSION {
        return Err(Error::Schema { path: path(), found, known: SCHEMA_VERSION });
    }
    let wanted = if file.kind == Kind::Trajectories { trajectories_schema() } else { turns_schema() };
    for field in wanted.fields() {
        let came_later = found < 2 && field.name() == "level";
        match builder.schema().field_with_name(field.name()) {
            Ok(real) if real.data_type() == field.data_type() => {}
            Ok(real) => {
                let reason = format!("column `{}` has type {}, which is not {}", field.name(), real.data_type(), field.data_type());
                return Err(Error::Malformed { path: path(), reason });
            }
            Err(_) if came_later => {}
            Err(_) => return Err(Error::Malformed { path: path(), reason: format!("it has no column `{}`", field.name()) }),
        }
    }
    Ok(())
}

/// The row groups whose statistics allow for one of these episodes.
fn groups_with(builder: &Builder, (first, last): Numbers) -> Result<Vec<usize>, parquet::errors::ParquetError> {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::UInt64Type;
    let groups = builder.metadata().row_groups();
    let converter = StatisticsConverter::try_new("episode", builder.schema(), builder.parquet_schema())?;
    let (least, most) = (converter.row_group_mins(groups)?, converter.row_group_maxes(groups)?);
    let (least, most) = (least.as_primitive::<UInt64Type>(), most.as_primitive::<UInt64Type>());
    let may_hold = |at: &usize| {
        let unknown = least.is_null(*at) || most.is_null(*at);
        unknown || (least.value(*at) <= last && most.value(*at) >= first)
    };
    Ok((0..groups.len()).filter(may_hold).collect())
}

fn holds(file: &FileEntry, id: EpisodeId) -> bool {
    file.split == id.split && file.episodes.iter().any(|(first, last)| (*first..=*last).contains(&id.number))
}
