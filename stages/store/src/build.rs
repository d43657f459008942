//! Ends into columns: each function here turns a slice of rows into one Arrow array, without a builder per row.

use crate::{Error, schema};
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float32Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
    UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use schemas::{End, Episode, Frame, ImageSpan, Label, Mode, PolicyPin, Segment, Source, Split, Turn, TurnSpan};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes that one batch holds at most, about, unless a single row has more. Each batch becomes a row group, the least that a
/// reader of one episode fetches.
const BATCH_TRAJECTORY_BYTES: usize = 4 << 20;
const BATCH_TURN_BYTES: usize = 2 << 20;

/// A turn, the end that it belongs to, and the digests that it shows, each with its picture where that was kept.
struct Row<'a> {
    end: &'a End,
    turn: &'a Turn,
    shown: Vec<(&'a str, Option<&'a Frame>)>,
}

impl Row<'_> {
    /// About what it takes, before compression.
    fn bytes(&self) -> usize {
        let pictures: usize = self.shown.iter().filter_map(|(_, frame)| Some(frame.as_ref()?.png.len())).sum();
        pictures + self.turn.observation.len() + self.turn.reply.len() + 256
    }
}

/// What no two splits of an export share: the first 16 hex digits of the compiled scene's digest, or, in worlds without
/// scenes, of a digest of world, seed and task.
pub fn level_of(episode: &Episode) -> String {
    let digest = match &episode.scene {
        Some(scene) => scene.digest.clone(),
        None => {
            let seed = episode.seed.to_le_bytes();
            schemas::digest_of(&[episode.world.as_bytes(), &[0], &seed, &episode.task].concat())
        }
    };
    digest.chars().take(16).collect()
}

pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Policy => "policy",
        Mode::Dagger => "dagger",
        Mode::Expert => "expert",
        Mode::Format => "format",
    }
}

pub(crate) fn source_name(source: Source) -> &'static str {
    match source {
        Source::Policy => "policy",
        Source::Expert => "expert",
    }
}

pub(crate) fn pin_name(pin: PolicyPin) -> Cow<'static, str> {
    match pin {
        PolicyPin::Latest => "latest".into(),
        PolicyPin::AtLeast(version) => format!("at_least:{version}").into(),
        PolicyPin::Exactly(version) => format!("exactly:{version}").into(),
    }
}

fn strings<S: AsRef<str>>(values: impl Iterator<Item = S>) -> ArrayRef {
    // Arrow wants to know their number beforehand, which a flattened iterator does not.
    Arc::new(StringArray::from_iter_values(values.collect::<Vec<_>>()))
}

fn u32s(values: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(UInt32Array::from_iter_values(values))
}

fn u64s(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(values))
}

fn f32s(values: impl Iterator<Item = f32>) -> ArrayRef {
    Arc::new(Float32Array::from_iter_values(values))
}

fn flags(values: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(BooleanArray::from(values.collect::<Vec<_>>()))
}

fn times(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values.map(|us| us as i64)).with_timezone("UTC"))
}

/// Lists of these lengths over the values of all of them.
fn lists(lengths: impl Iterator<Item = usize>, values: ArrayRef) -> ArrayRef {
    let item = Arc::new(Field::new("item", values.data_type().clone(), false));
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), values, None))
}

fn records(columns: Vec<(&str, ArrayRef)>) -> ArrayRef {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) =
        columns.into_iter().map(|(name, array)| (Field::new(name, array.data_type().clone(), false), array)).unzip();
    Arc::new(StructArray::new(fields.into(), arrays, None))
}

fn text_lists<'a>(lists_of_text: impl Iterator<Item = &'a Vec<String>> + Clone) -> ArrayRef {
    let values = strings(lists_of_text.clone().flatten());
    lists(lists_of_text.map(Vec::len), values)
}

fn spans(segments: &[&Segment]) -> ArrayRef {
    let rows: Vec<&TurnSpan> = segments.iter().flat_map(|s| &s.turns).collect();
    let versions = rows.iter().flat_map(|t| &t.versions);
    let versions = records(vec![("version", u64s(versions.clone().map(|v| v.0))), ("count", u32s(versions.map(|v| v.1)))]);
    let values = records(vec![
        ("turn", u32s(rows.iter().map(|t| t.turn))),
        ("start", u32s(rows.iter().map(|t| t.start))),
        ("reply", u32s(rows.iter().map(|t| t.reply))),
        ("end", u32s(rows.iter().map(|t| t.end))),
        ("close", u32s(rows.iter().map(|t| t.close))),
        ("trainable", flags(rows.iter().map(|t| t.trainable))),
        ("source", strings(rows.iter().map(|t| source_name(t.source)))),
        ("versions", lists(rows.iter().map(|t| t.versions.len()), versions)),
        ("cut", flags(rows.iter().map(|t| t.cut))),
    ]);
    lists(segments.iter().map(|s| s.turns.len()), values)
}

fn images(segments: &[&Segment]) -> ArrayRef {
    let rows: Vec<&ImageSpan> = segments.iter().flat_map(|s| &s.images).collect();
    let values = records(vec![
        ("offset", u32s(rows.iter().map(|i| i.offset))),
        ("len", u32s(rows.iter().map(|i| i.len))),
        ("time", u32s(rows.iter().map(|i| i.grid[0]))),
        ("height", u32s(rows.iter().map(|i| i.grid[1]))),
        ("width", u32s(rows.iter().map(|i| i.grid[2]))),
        ("digest", strings(rows.iter().map(|i| &i.digest))),
    ]);
    lists(segments.iter().map(|s| s.images.len()), values)
}

fn labels(segments: &[&Segment]) -> ArrayRef {
    let rows: Vec<&Label> = segments.iter().flat_map(|s| &s.labels).collect();
    let tokens = u32s(rows.iter().flat_map(|l| l.tokens.0.iter().copied()));
    let values = records(vec![
        ("turn", u32s(rows.iter().map(|l| l.turn))),
        ("after", u32s(rows.iter().map(|l| l.after))),
        ("tokens", lists(rows.iter().map(|l| l.tokens.0.len()), tokens)),
    ]);
    lists(segments.iter().map(|s| s.labels.len()), values)
}

fn segments(ends: &[&End]) -> ArrayRef {
    let rows: Vec<&Segment> = ends.iter().flat_map(|e| &e.segments).collect();
    let mut tokens = Vec::with_capacity(rows.iter().map(|s| s.tokens.0.len()).sum());
    let mut logprobs = Vec::with_capacity(rows.iter().map(|s| s.logprobs.0.len()).sum());
    for segment in &rows {
        tokens.extend_from_slice(&segment.tokens.0);
        logprobs.extend_from_slice(&segment.logprobs.0);
    }
    let values = records(vec![
        ("number", u32s(rows.iter().map(|s| s.number))),
        ("tokens", lists(rows.iter().map(|s| s.tokens.0.len()), Arc::new(UInt32Array::from(tokens)))),
        ("logprobs", lists(rows.iter().map(|s| s.logprobs.0.len()), Arc::new(Float32Array::from(logprobs)))),
        ("turns", spans(&rows)),
        ("images", images(&rows)),
        ("labels", labels(&rows)),
        ("prompt_end", u32s(rows.iter().map(|s| s.prompt_end))),
        ("turn_start", u32s(rows.iter().map(|s| s.turn_start))),
    ]);
    lists(ends.iter().map(|e| e.segments.len()), values)
}

fn rewards(ends: &[&End]) -> ArrayRef {
    let parts = ends.iter().flat_map(|e| &e.rewards);
    let values = records(vec![("part", strings(parts.clone().map(|r| &r.0))), ("value", f32s(parts.map(|r| r.1)))]);
    lists(ends.iter().map(|e| e.rewards.len()), values)
}

/// Tokens of trainable replies from this source.
fn trainable_tokens(end: &End, source: Source) -> u64 {
    let spans = end.segments.iter().flat_map(|s| &s.turns).filter(|t| t.trainable && t.source == source);
    spans.map(|t| u64::from(t.end.saturating_sub(t.reply))).sum()
}

fn label_tokens(end: &End) -> u64 {
    end.segments.iter().flat_map(|s| &s.labels).map(|l| l.tokens.0.len() as u64).sum()
}

fn optional_u64s(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.collect::<UInt64Array>())
}

fn optional_strings<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

/// The columns that both tables begin with.
fn names<'a>(ends: impl Iterator<Item = &'a End> + Clone) -> Vec<ArrayRef> {
    vec![
        strings(ends.clone().map(|e| e.id().to_string())),
        u64s(ends.clone().map(|e| e.id().number)),
        u64s(ends.clone().map(|e| e.episode.group)),
        u32s(ends.map(|e| e.episode.member)),
    ]
}

fn trajectories_batch(ends: &[&End]) -> Result<RecordBatch, Error> {
    let all = || ends.iter().copied();
    let order = || ends.iter().map(|e| &e.episode);
    let mut columns = names(all());
    columns.extend([
        u32s(order().map(|e| e.group_size)),
        strings(order().map(|e| &e.world)),
        u64s(order().map(|e| e.seed)),
        strings(order().map(|e| mode_name(e.mode))),
        strings(order().map(|e| pin_name(e.policy))),
        strings(order().map(|e| String::from_utf8_lossy(&e.task))),
        optional_strings(order().map(|e| e.scene.as_ref().map(|s| s.digest.as_str()))),
        optional_strings(order().map(|e| e.scene.as_ref().map(|s| s.origin.as_str()))),
        strings(order().map(level_of)),
        strings(order().map(|e| &e.bucket)),
        u32s(order().map(|e| e.expert_length)),
        u64s(order().map(|e| e.validates)),
        u32s(order().map(|e| e.handed_back)),
        u64s(order().map(|e| e.epoch)),
        strings(order().map(|e| &e.traceparent)),
    ]);
    columns.extend([
        u32s(all().map(|e| e.attempt)),
        strings(all().map(|e| &e.stepper)),
        strings(all().map(|e| e.reason.as_str())),
        strings(all().map(|e| &e.note)),
        flags(all().map(|e| e.success)),
        flags(all().map(|e| e.lenient)),
        f32s(all().map(End::total_reward)),
        rewards(ends),
        f32s(all().map(|e| e.progress)),
        text_lists(all().map(|e| &e.milestones)),
        u32s(all().map(|e| e.steps)),
        u32s(all().map(|e| e.turns.len() as u32)),
        optional_u64s(all().map(|e| e.versions().map(|v| v.0))),
        optional_u64s(all().map(|e| e.versions().map(|v| v.1))),
        u64s(all().map(|e| trainable_tokens(e, Source::Policy))),
        u64s(all().map(|e| trainable_tokens(e, Source::Expert))),
        u64s(all().map(label_tokens)),
        times(all().map(|e| e.started_us)),
        times(all().map(|e| e.ended_us)),
        segments(ends),
    ]);
    RecordBatch::try_new(schema::trajectories_schema(), columns).map_err(|e| Error::Columns(e.to_string()))
}

fn trail(rows: &[Row]) -> ArrayRef {
    let steps = rows.iter().flat_map(|row| &row.turn.trail);
    let values = records(vec![
        ("stage", strings(steps.clone().map(|s| &s.0))),
        ("arrived_us", u64s(steps.clone().map(|s| s.1))),
        ("left_us", u64s(steps.map(|s| s.2))),
    ]);
    lists(rows.iter().map(|row| row.turn.trail.len()), values)
}

/// `frames`: what was shown, kept or not.
fn frames(rows: &[Row]) -> ArrayRef {
    let shown = || rows.iter().flat_map(|row| row.shown.iter());
    let values = records(vec![
        ("digest", strings(shown().map(|(digest, _)| digest))),
        ("camera", strings(shown().map(|(_, frame)| frame.map_or("", |f| f.camera.as_str())))),
        ("width", u32s(shown().map(|(_, frame)| frame.map_or(0, |f| f.width)))),
        ("height", u32s(shown().map(|(_, frame)| frame.map_or(0, |f| f.height)))),
    ]);
    lists(rows.iter().map(|row| row.shown.len()), values)
}

/// `pictures`: those that were kept.
fn pictures(rows: &[Row]) -> ArrayRef {
    let kept: Vec<&Frame> = rows.iter().flat_map(|row| row.shown.iter().filter_map(|(_, frame)| *frame)).collect();
    let bytes = BinaryArray::from_iter_values(kept.iter().map(|frame| &frame.png));
    let paths = strings(kept.iter().map(|frame| format!("{}.png", frame.digest)));
    let values = StructArray::new(schema::picture_fields(), vec![Arc::new(bytes), paths], None);
    let item = Arc::new(Field::new("item", DataType::Struct(schema::picture_fields()), true));
    let counts = rows.iter().map(|row| row.shown.iter().filter(|(_, frame)| frame.is_some()).count());
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(counts), Arc::new(values), None))
}

fn turns_batch(rows: &[Row]) -> Result<RecordBatch, Error> {
    let turns = || rows.iter().map(|row| row.turn);
    let worked = flags(turns().flat_map(|t| t.worked.iter().copied()));
    let mut columns = names(rows.iter().map(|row| row.end));
    columns.extend([
        u32s(turns().map(|t| t.turn)),
        strings(turns().map(|t| &t.observation)),
        strings(turns().map(|t| &t.reply)),
        text_lists(turns().map(|t| &t.executed)),
        lists(turns().map(|t| t.worked.len()), worked),
        text_lists(turns().map(|t| &t.dropped)),
        flags(turns().map(|t| t.well_formed)),
        f32s(turns().map(|t| t.reward)),
        strings(turns().map(|t| &t.state_key)),
        flags(turns().map(|t| t.cut)),
        u64s(turns().map(|t| t.version)),
        u32s(turns().map(|t| t.reply_tokens)),
        u32s(turns().map(|t| t.prompt_tokens)),
        trail(rows),
        frames(rows),
        pictures(rows),
    ]);
    RecordBatch::try_new(schema::turns_schema(), columns).map_err(|e| Error::Columns(e.to_string()))
}

/// Splits rows so that each part weighs no more than `bound`, unless a single row does.
fn parts<T>(rows: &[T], bound: usize, weight: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let (mut start, mut sum) = (0, 0usize);
    for (at, row) in rows.iter().enumerate() {
        let more = weight(row);
        if at > start && sum.saturating_add(more) > bound {
            parts.push(&rows[start..at]);
            (start, sum) = (at, 0);
        }
        sum = sum.saturating_add(more);
    }
    if start < rows.len() {
        parts.push(&rows[start..]);
    }
    parts
}

/// One row an end, in the order given.
pub(crate) fn trajectories(ends: &[&End]) -> Result<Vec<RecordBatch>, Error> {
    let bytes = |end: &&End| 1024 + end.segments.iter().map(|s| 4 * (s.len() + s.logprobs.0.len()) + 64 * s.turns.len()).sum::<usize>();
    parts(ends, BATCH_TRAJECTORY_BYTES, bytes).into_iter().map(trajectories_batch).collect()
}

/// One row a turn, ends in the order given.
pub(crate) fn turns(ends: &[&End]) -> Result<Vec<RecordBatch>, Error> {
    let mut rows = Vec::with_capacity(ends.iter().map(|end| end.turns.len()).sum());
    for end in ends {
        let kept: HashMap<&str, &Frame> = end.frames.iter().map(|frame| (frame.digest.as_str(), frame)).collect();
        rows.extend(end.turns.iter().map(|turn| {
            let shown = turn.frames.iter().map(|digest| (digest.as_str(), kept.get(digest.as_str()).copied())).collect();
            Row { end, turn, shown }
        }));
    }
    parts(&rows, BATCH_TURN_BYTES, Row::bytes).into_iter().map(turns_batch).collect()
}

/// The ends of one split, in order of their numbers.
pub(crate) fn of_split<'a>(ends: &[&'a End], split: Split) -> Vec<&'a End> {
    let mut chosen: Vec<&End> = ends.iter().copied().filter(|end| end.id().split == split).collect();
    chosen.sort_by_key(|end| end.id().number);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_every_row_and_their_order() {
        let rows = [3usize, 9, 1, 1, 20, 1];
        let split = parts(&rows, 10, |r| *r);
        assert_eq!(split, vec![&[3][..], &[9, 1], &[1], &[20], &[1]]);
        assert!(parts(&[] as &[usize], 10, |r| *r).is_empty());
    }
}
