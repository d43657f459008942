//! What an audit looks at, gathered from the store, the run's folder and the broker.

use anyhow::{Context, Result};
use async_nats::jetstream;
use futures::{StreamExt, TryStreamExt};
use schemas::pipeline::Pictures;
use schemas::subjects::{self, ENDS_RECORDER, Stream};
use schemas::uses::USES_FILE;
use schemas::{EpisodeId, PolicyPublished, Split, Start, UsesFile};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use store::{Kind, Reader, Summary};

/// Messages of a stream that are asked for at once.
const AT_ONCE: usize = 32;

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The learner says that the run is finished: what is still missing will not come.
    pub(super) finished: bool,
    pub(super) rows: Vec<Summary>,
    /// Rows of the table of turns, by episode.
    pub(super) turns: BTreeMap<EpisodeId, u64>,
    /// Of the newest checkpoint, and of the one before.
    pub(super) uses: Option<UsesFile>,
    pub(super) uses_before: Option<UsesFile>,
    /// The learner's log, line by line.
    pub(super) log: Vec<BatchLine>,
    /// In the order of the stream.
    pub(super) policies: Vec<PolicyPublished>,
    /// Episodes that the scene-loader has published, by split.
    pub(super) published: Option<BTreeMap<Split, u64>>,
    pub(super) ends: Option<Ends>,
    /// Where episodes went on after the broker had lost its record of the run; empty where it never has.
    pub(super) start: Start,
    /// The newest episodes that kept their pictures: how many, or what is wrong with them. Empty where none are kept.
    pub(super) pictures: Vec<(EpisodeId, Result<u64, String>)>,
}

/// Episodes whose pictures are looked at.
const LOOKED_AT: usize = 64;

/// Tokens of one batch, as the learner logged them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BatchLine {
    pub(super) batch: u64,
    pub(super) sampled: u64,
    pub(super) trained: u64,
    /// All masks together.
    pub(super) masked: u64,
}

/// What the ends stream says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// Ends that it has taken in all its life.
    pub(super) stored: u64,
    /// Ends that the recorder has not acked.
    pub(super) unrecorded: u64,
}

pub(super) async fn gather(folder: &Path, url: &str, client: &async_nats::Client, run: &str) -> Result<Facts> {
    let reader = Reader::open(url, run).await.with_context(|| "the trajectory store")?;
    let mut turns = BTreeMap::new();
    for file in reader.files(Kind::Turns) {
        for (id, count) in reader.turn_counts(file).await? {
            *turns.entry(id).or_insert(0) += count;
        }
    }
    let (uses, uses_before) = read_uses(&folder.join("checkpoints"))?;
    let js = jetstream::new(client.clone());
    let mut published = read_published(&js, run).await?;
    // Where expert episodes come from a store, the scene-loader knows nothing of them.
    if let Some(by_split) = &mut published
        && crate::trace::pipeline_of(client, run).await?.offline.is_some()
    {
        by_split.remove(&Split::Expert);
    }
    let rows: Vec<Summary> = reader.summaries().try_collect().await?;
    let keeps = crate::trace::pipeline_of(client, run).await.is_ok_and(|p| p.world.pictures && p.record.pictures == Pictures::All);
    let pictures = if keeps { look(&reader, &rows).await? } else { vec![] };
    Ok(Facts {
        finished: crate::summary::read_json(&folder.join("result.json")).is_ok_and(|result| result["finished"] == Value::Bool(true)),
        rows,
        turns,
        uses,
        uses_before,
        log: read_log(&folder.join("learner.jsonl"))?,
        policies: read_policies(&js, run).await?,
        published,
        ends: read_ends(&js, run).await?,
        start: read_start(&folder.join("checkpoints"))?,
        pictures,
    })
}

/// Reads the newest episodes with their pictures.
async fn look(reader: &Reader, rows: &[Summary]) -> Result<Vec<(EpisodeId, Result<u64, String>)>> {
    let newest: Vec<EpisodeId> = rows.iter().rev().take(LOOKED_AT).map(|row| row.id).collect();
    let mut found = vec![];
    for id in newest {
        let Some(end) = reader.end(id).await? else { continue };
        let came: BTreeSet<&str> = end.frames.iter().map(|frame| frame.digest.as_str()).collect();
        let changed = end.frames.iter().find(|frame| schemas::digest_of(&frame.png) != frame.digest);
        let mut shown = end.segments.iter().flat_map(|s| &s.images).map(|i| i.digest.as_str()).chain(
            // What was only asked for and never answered is in no segment.
            end.turns.iter().flat_map(|t| t.frames.iter().map(String::as_str)),
        );
        found.push((
            id,
            match (changed, shown.find(|digest| !came.contains(digest))) {
                (Some(frame), _) => Err(format!("the bytes of {} have another digest", frame.digest)),
                (None, Some(digest)) => Err(format!("{digest} is not in the record")),
                (None, None) => Ok(came.len() as u64),
            },
        ));
    }
    Ok(found)
}

/// The uses of the newest checkpoint, which `latest` names, and of the one before it.
fn read_uses(checkpoints: &Path) -> Result<(Option<UsesFile>, Option<UsesFile>)> {
    let Ok(latest) = std::fs::read_to_string(checkpoints.join("latest")) else { return Ok((None, None)) };
    let latest: u64 = latest.trim().parse().with_context(|| format!("`{}` names no checkpoint", checkpoints.join("latest").display()))?;
    let read = |folder: PathBuf| -> Result<UsesFile> {
        let path = folder.join(USES_FILE);
        let bytes = std::fs::read(&path).with_context(|| format!("`{}` cannot be read", path.display()))?;
        schemas::decode(&bytes).with_context(|| format!("`{}`", path.display()))
    };
    let newest = read(checkpoints.join(latest.to_string()))?;
    let numbers = std::fs::read_dir(checkpoints)?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let before = numbers.filter(|number| *number < latest).max();
    Ok((Some(newest), before.map(|number| read(checkpoints.join(number.to_string()))).transpose()?))
}

/// Where the newest checkpoint says that episodes went on.
fn read_start(checkpoints: &Path) -> Result<Start> {
    let Ok(latest) = std::fs::read_to_string(checkpoints.join("latest")) else { return Ok(Start::default()) };
    let state = crate::summary::read_json(&checkpoints.join(latest.trim()).join("learner.json"))?;
    let start = state.get("start").cloned().unwrap_or_default();
    Ok(serde_json::from_value::<Option<Start>>(start).context("`start` of the newest learner.json")?.unwrap_or_default())
}

fn read_log(path: &Path) -> Result<Vec<BatchLine>> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(Vec::new()) };
    Ok(text.lines().filter_map(parse_line).collect())
}

/// A line that a crash has cut in two is no line; lines that are not of a batch are passed over.
fn parse_line(line: &str) -> Option<BatchLine> {
    let line: Value = serde_json::from_str(line).ok()?;
    let masked = &line["tokens_masked"];
    let masked = masked.as_u64().or_else(|| Some(masked.as_object()?.values().filter_map(Value::as_u64).sum()))?;
    Some(BatchLine {
        batch: line["batch"].as_u64()?,
        sampled: line["tokens_sampled"].as_u64()?,
        trained: line["tokens_trained"].as_u64()?,
        masked,
    })
}

async fn read_policies(js: &jetstream::Context, run: &str) -> Result<Vec<PolicyPublished>> {
    let mut stream = js.get_stream(subjects::stream(run, Stream::Policies)).await.context("the stream of policies")?;
    let state = stream.info().await?.state.clone();
    if state.messages == 0 {
        return Ok(Vec::new());
    }
    let stream = &stream;
    let read = |sequence: u64| async move {
        let message = stream.get_raw_message(sequence).await.with_context(|| format!("policy message {sequence}"))?;
        schemas::decode(&message.payload).with_context(|| format!("policy message {sequence}"))
    };
    futures::stream::iter(state.first_sequence..=state.last_sequence).map(read).buffered(AT_ONCE).try_collect().await
}

async fn read_ends(js: &jetstream::Context, run: &str) -> Result<Option<Ends>> {
    let Ok(mut stream) = js.get_stream(subjects::stream(run, Stream::Ends)).await else { return Ok(None) };
    let stored = stream.info().await?.state.last_sequence;
    let recorder = stream.consumer_info(ENDS_RECORDER).await.context("the recorder's durable")?;
    Ok(Some(Ends { stored, unrecorded: recorder.num_pending + recorder.num_ack_pending as u64 }))
}

/// What the scene-loader's state says; `None` where it has none yet.
async fn read_published(js: &jetstream::Context, run: &str) -> Result<Option<BTreeMap<Split, u64>>> {
    let bucket = js.get_key_value(subjects::bucket(run)).await.context("the run's bucket")?;
    let Some(state) = bucket.get("state.scene-loader").await? else { return Ok(None) };
    // The kit writes the lease's epoch before a stage's own bytes.
    const EPOCH_BYTES: usize = 8;
    let Some(own) = state.get(EPOCH_BYTES..) else { return Ok(None) };
    Ok(published(own))
}

/// Reads the number of episodes by split out of the scene-loader's state.
fn published(state: &[u8]) -> Option<BTreeMap<Split, u64>> {
    let state: Value = serde_json::from_slice(state).ok()?;
    let count = |split: Split| Some((split, state[format!("next_{split}")].as_u64()?));
    Split::ALL.into_iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Message;

    #[test]
    fn a_log_line_sums_its_masks_and_a_cut_one_is_passed_over() {
        let line = r#"{"batch":3,"tokens_sampled":10,"tokens_trained":7,"tokens_masked":{"policy_reply":2,"cut":1},"loss":null}"#;
        assert_eq!(parse_line(line), Some(BatchLine { batch: 3, sampled: 10, trained: 7, masked: 3 }));
        assert_eq!(parse_line(&line[..40]), None);
        assert_eq!(parse_line(r#"{"validation":1}"#), None);
    }

    #[test]
    fn the_loaders_state_says_what_was_published() {
        let state = br#"{"version":1,"next_group":3,"next_train":24,"next_expert":512,"next_val":200,"pending":[]}"#;
        let expected = BTreeMap::from([(Split::Train, 24), (Split::Val, 200), (Split::Expert, 512)]);
        assert_eq!(published(state), Some(expected));
        assert_eq!(published(br#"{"version":9}"#), None);
    }

    #[test]
    fn uses_are_those_of_the_newest_checkpoint_and_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read_uses(folder.path()).expect("no checkpoint is no error"), (None, None));
        for (number, version) in [(3u64, 7), (4, 8), (5, 9)] {
            let at = folder.path().join(number.to_string());
            std::fs::create_dir(&at).expect("made");
            std::fs::write(at.join(USES_FILE), schemas::encode(&UsesFile { version, ..UsesFile::example() })).expect("written");
        }
        // A checkpoint that was not made the latest does not count.
        std::fs::write(folder.path().join("latest"), "4\n").expect("written");
        let (newest, before) = read_uses(folder.path()).expect("both are there");
        assert_eq!((newest.map(|f| f.version), before.map(|f| f.version)), (Some(8), Some(7)));
    }
}
