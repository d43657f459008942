//! Columns back into rows: the inverse of `build`. Columns are found by name, so that a file with more of them reads too.

use crate::Error;
use arrow::array::{
    Array, AsArray, BinaryArray, BooleanArray, Float32Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::{Float32Type, UInt32Type};
use schemas::{
    End, EndReason, Episode, EpisodeId, F32s, Frame, ImageSpan, Label, Mode, PolicyPin, SceneRef, Segment, Source, Turn, TurnSpan, U32s,
};
use std::collections::BTreeSet;

/// The columns of a trajectory that are cheap to read: all but its task, its segments and what tracing needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub id: EpisodeId,
    pub group: u64,
    pub member: u32,
    pub group_size: u32,
    pub world: String,
    pub seed: u64,
    pub mode: Mode,
    pub house: Option<String>,
    /// See [`crate::level_of`]; empty in files of schema 1.
    pub level: String,
    pub bucket: String,
    pub expert_length: u32,
    pub validates: u64,
    pub attempt: u32,
    pub reason: EndReason,
    pub note: String,
    pub success: bool,
    pub lenient: bool,
    /// The sum of all reward parts.
    pub total_reward: f32,
    pub rewards: Vec<(String, f32)>,
    pub progress: f32,
    pub milestones: Vec<String>,
    /// Primitive actions.
    pub steps: u32,
    /// Rows that the trajectory has in the table of turns.
    pub turns: u32,
    /// Oldest and newest version that sampled a token.
    pub versions: Option<(u64, u64)>,
    /// Tokens of trainable replies by the policy.
    pub policy_tokens: u64,
    /// Tokens of trainable replies by the expert.
    pub expert_tokens: u64,
    /// Tokens of DAgger labels.
    pub label_tokens: u64,
    /// Unix microseconds.
    pub started_us: u64,
    pub ended_us: u64,
}

impl Summary {
    /// Tokens that training on this trajectory trains, once: the policy's replies, its labels, or the expert's replies.
    pub fn trained_tokens(&self) -> u64 {
        match self.mode {
            Mode::Policy => self.policy_tokens,
            Mode::Dagger => self.label_tokens,
            Mode::Expert | Mode::Format => self.expert_tokens,
        }
    }
}

/// The columns that [`Summary`] is made of.
pub(crate) const SUMMARY_COLUMNS: [&str; 30] = [
    "id",
    "group",
    "member",
    "group_size",
    "world",
    "seed",
    "mode",
    "house",
    "level",
    "bucket",
    "expert_length",
    "validates",
    "attempt",
    "reason",
    "note",
    "success",
    "lenient",
    "return",
    "rewards",
    "progress",
    "milestones",
    "steps",
    "turns",
    "version_min",
    "version_max",
    "policy_tokens",
    "expert_tokens",
    "label_tokens",
    "started",
    "ended",
];

/// One row of the table of turns.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnRow {
    pub id: EpisodeId,
    pub turn: Turn,
    /// The pictures that were kept of those that the turn shows, in order.
    pub pictures: Vec<Frame>,
}

/// A file's columns (or a nested struct's), with the file's name for errors.
#[derive(Clone, Copy)]
struct Columns<'a> {
    file: &'a str,
    columns: &'a StructArray,
}

impl<'a> Columns<'a> {
    fn malformed(&self, reason: String) -> Error {
        Error::Malformed { path: self.file.into(), reason }
    }

    fn get<A: Array + 'static>(&self, name: &str) -> Result<&'a A, Error> {
        let column = self.columns.column_by_name(name).ok_or_else(|| self.malformed(format!("it has no column `{name}`")))?;
        let wrong = || self.malformed(format!("column `{name}` has type {}", column.data_type()));
        column.as_any().downcast_ref().ok_or_else(wrong)
    }

    /// A column that files of schema 1 do not have.
    fn since_two<A: Array + 'static>(&self, name: &str) -> Result<Option<&'a A>, Error> {
        if self.columns.column_by_name(name).is_none() { Ok(None) } else { self.get(name).map(Some) }
    }

    /// The structs that a list column holds, all rows together, and where each row's begin and end.
    fn nested(&self, name: &str) -> Result<(&'a ListArray, Columns<'a>), Error> {
        let list: &ListArray = self.get(name)?;
        let columns = list.values().as_struct_opt().ok_or_else(|| self.malformed(format!("column `{name}` is no list of structs")))?;
        Ok((list, Columns { file: self.file, columns }))
    }

    /// Lists of text; the values are checked once.
    fn texts(&self, name: &str) -> Result<(&'a ListArray, &'a StringArray), Error> {
        let list: &ListArray = self.get(name)?;
        let values = list.values().as_string_opt().ok_or_else(|| self.malformed(format!("column `{name}` is no list of text")))?;
        Ok((list, values))
    }

    fn parse<T: std::str::FromStr<Err = String>>(&self, text: &str) -> Result<T, Error> {
        text.parse().map_err(|reason| self.malformed(reason))
    }
}

/// The places of row `row` in the values of a list column.
fn span(list: &ListArray, row: usize) -> std::ops::Range<usize> {
    let offsets = list.value_offsets();
    offsets[row] as usize..offsets[row + 1] as usize
}

fn texts(column: (&ListArray, &StringArray), row: usize) -> Vec<String> {
    span(column.0, row).map(|at| column.1.value(at).to_string()).collect()
}

fn parse_mode(columns: Columns, text: &str) -> Result<Mode, Error> {
    match text {
        "policy" => Ok(Mode::Policy),
        "dagger" => Ok(Mode::Dagger),
        "expert" => Ok(Mode::Expert),
        "format" => Ok(Mode::Format),
        _ => Err(columns.malformed(format!("`{text}` is no mode"))),
    }
}

fn parse_reason(columns: Columns, text: &str) -> Result<EndReason, Error> {
    EndReason::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or_else(|| columns.malformed(format!("`{text}` is no reason")))
}

fn parse_pin(columns: Columns, text: &str) -> Result<PolicyPin, Error> {
    let wrong = || columns.malformed(format!("`{text}` pins no version"));
    match text.split_once(':') {
        None if text == "latest" => Ok(PolicyPin::Latest),
        Some(("at_least", version)) => version.parse().map(PolicyPin::AtLeast).map_err(|_| wrong()),
        Some(("exactly", version)) => version.parse().map(PolicyPin::Exactly).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

fn optional(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

fn reward_parts(columns: Columns, rows: usize) -> Result<Vec<Vec<(String, f32)>>, Error> {
    let (list, parts) = columns.nested("rewards")?;
    let (names, values): (&StringArray, &Float32Array) = (parts.get("part")?, parts.get("value")?);
    Ok((0..rows).map(|row| span(list, row).map(|at| (names.value(at).to_string(), values.value(at))).collect()).collect())
}

/// The summaries of a batch's rows.
pub(crate) fn summaries(file: &str, batch: &RecordBatch) -> Result<Vec<Summary>, Error> {
    let table = StructArray::from(batch.clone());
    let columns = Columns { file, columns: &table };
    let text = |name| columns.get::<StringArray>(name);
    let u32s = |name| columns.get::<UInt32Array>(name);
    let u64s = |name| columns.get::<UInt64Array>(name);
    let flags = |name| columns.get::<BooleanArray>(name);
    let times = |name| columns.get::<TimestampMicrosecondArray>(name);
    let (id, world, mode, house, bucket, reason, note) =
        (text("id")?, text("world")?, text("mode")?, text("house")?, text("bucket")?, text("reason")?, text("note")?);
    let level: Option<&StringArray> = columns.since_two("level")?;
    let (member, group_size, expert_length, attempt) = (u32s("member")?, u32s("group_size")?, u32s("expert_length")?, u32s("attempt")?);
    let (steps, turns) = (u32s("steps")?, u32s("turns")?);
    let (group, seed, validates) = (u64s("group")?, u64s("seed")?, u64s("validates")?);
    let (version_min, version_max) = (u64s("version_min")?, u64s("version_max")?);
    let (policy_tokens, expert_tokens, label_tokens) = (u64s("policy_tokens")?, u64s("expert_tokens")?, u64s("label_tokens")?);
    let (success, lenient) = (flags("success")?, flags("lenient")?);
    let (total, progress): (&Float32Array, &Float32Array) = (columns.get("return")?, columns.get("progress")?);
    let (started, ended) = (times("started")?, times("ended")?);
    let milestones = columns.texts("milestones")?;
    let rewards = reward_parts(columns, batch.num_rows())?;
    let mut rows = Vec::with_capacity(batch.num_rows());
    for (row, rewards) in rewards.into_iter().enumerate() {
        rows.push(Summary {
            id: columns.parse(id.value(row))?,
            group: group.value(row),
            member: member.value(row),
            group_size: group_size.value(row),
            world: world.value(row).into(),
            seed: seed.value(row),
            mode: parse_mode(columns, mode.value(row))?,
            house: optional(house, row).map(String::from),
            level: level.map_or_else(String::new, |column| column.value(row).into()),
            bucket: bucket.value(row).into(),
            expert_length: expert_length.value(row),
            validates: validates.value(row),
            attempt: attempt.value(row),
            reason: parse_reason(columns, reason.value(row))?,
            note: note.value(row).into(),
            success: success.value(row),
            lenient: lenient.value(row),
            total_reward: total.value(row),
            rewards,
            progress: progress.value(row),
            milestones: texts(milestones, row),
            steps: steps.value(row),
            turns: turns.value(row),
            versions: version_min.is_valid(row).then(|| (version_min.value(row), version_max.value(row))),
            policy_tokens: policy_tokens.value(row),
            expert_tokens: expert_tokens.value(row),
            label_tokens: label_tokens.value(row),
            started_us: started.value(row) as u64,
            ended_us: ended.value(row) as u64,
        });
    }
    Ok(rows)
}

/// The episodes' orders, from the columns that [`Summary`] leaves out and the summary itself.
fn episodes(columns: Columns, summaries: &[Summary]) -> Result<Vec<Episode>, Error> {
    let text = |name| columns.get::<StringArray>(name);
    let (pin, task, scene, traceparent) = (text("policy_pin")?, text("task")?, text("scene")?, text("traceparent")?);
    let (handed_back, epoch): (&UInt32Array, &UInt64Array) = (columns.get("handed_back")?, columns.get("epoch")?);
    let mut rows = Vec::with_capacity(summaries.len());
    for (row, of) in summaries.iter().enumerate() {
        let origin = of.house.clone().unwrap_or_default();
        rows.push(Episode {
            id: of.id,
            group: of.group,
            member: of.member,
            group_size: of.group_size,
            world: of.world.clone(),
            seed: of.seed,
            mode: of.mode,
            policy: parse_pin(columns, pin.value(row))?,
            task: task.value(row).as_bytes().to_vec(),
            scene: optional(scene, row).map(|digest| SceneRef { digest: digest.into(), origin }),
            bucket: of.bucket.clone(),
            expert_length: of.expert_length,
            validates: of.validates,
            handed_back: handed_back.value(row),
            epoch: epoch.value(row),
            traceparent: traceparent.value(row).into(),
        });
    }
    Ok(rows)
}

fn turn_spans(columns: Columns, places: std::ops::Range<usize>) -> Result<Vec<TurnSpan>, Error> {
    let u32s = |name| columns.get::<UInt32Array>(name);
    let (turn, start, reply, end, close) = (u32s("turn")?, u32s("start")?, u32s("reply")?, u32s("end")?, u32s("close")?);
    let (trainable, cut): (&BooleanArray, &BooleanArray) = (columns.get("trainable")?, columns.get("cut")?);
    let source: &StringArray = columns.get("source")?;
    let (list, pairs) = columns.nested("versions")?;
    let (version, count): (&UInt64Array, &UInt32Array) = (pairs.get("version")?, pairs.get("count")?);
    let mut spans = Vec::with_capacity(places.len());
    for at in places {
        spans.push(TurnSpan {
            turn: turn.value(at),
            start: start.value(at),
            reply: reply.value(at),
            end: end.value(at),
            close: close.value(at),
            trainable: trainable.value(at),
            source: if source.value(at) == "expert" { Source::Expert } else { Source::Policy },
            versions: span(list, at).map(|pair| (version.value(pair), count.value(pair))).collect(),
            cut: cut.value(at),
        });
    }
    Ok(spans)
}

fn image_spans(columns: Columns, places: std::ops::Range<usize>) -> Result<Vec<ImageSpan>, Error> {
    let u32s = |name| columns.get::<UInt32Array>(name);
    let (offset, len, time, height, width) = (u32s("offset")?, u32s("len")?, u32s("time")?, u32s("height")?, u32s("width")?);
    let digest: &StringArray = columns.get("digest")?;
    let image = |at| ImageSpan {
        offset: offset.value(at),
        len: len.value(at),
        grid: [time.value(at), height.value(at), width.value(at)],
        digest: digest.value(at).into(),
    };
    Ok(places.map(image).collect())
}

/// Token ids of row `row` of a list column.
fn token_list(columns: Columns, name: &str, row: usize) -> Result<U32s, Error> {
    let values = columns.get::<ListArray>(name)?.value(row);
    let ids = values.as_primitive_opt::<UInt32Type>().ok_or_else(|| columns.malformed(format!("`{name}` holds no token ids")))?;
    Ok(U32s(ids.values().to_vec()))
}

fn label_rows(columns: Columns, places: std::ops::Range<usize>) -> Result<Vec<Label>, Error> {
    let (turn, after): (&UInt32Array, &UInt32Array) = (columns.get("turn")?, columns.get("after")?);
    places.map(|at| Ok(Label { turn: turn.value(at), after: after.value(at), tokens: token_list(columns, "tokens", at)? })).collect()
}

fn segment_rows(columns: Columns, row: usize) -> Result<Vec<Segment>, Error> {
    let (list, of) = columns.nested("segments")?;
    let u32s = |name| of.get::<UInt32Array>(name);
    let (number, prompt_end, turn_start) = (u32s("number")?, u32s("prompt_end")?, u32s("turn_start")?);
    let (spans, span_columns) = of.nested("turns")?;
    let (images, image_columns) = of.nested("images")?;
    let (labels, label_columns) = of.nested("labels")?;
    let logprobs: &ListArray = of.get("logprobs")?;
    let mut segments = Vec::new();
    for at in span(list, row) {
        let values = logprobs.value(at);
        let floats = values.as_primitive_opt::<Float32Type>().ok_or_else(|| of.malformed("`logprobs` holds no numbers".into()))?;
        segments.push(Segment {
            number: number.value(at),
            tokens: token_list(of, "tokens", at)?,
            logprobs: F32s(floats.values().to_vec()),
            turns: turn_spans(span_columns, span(spans, at))?,
            images: image_spans(image_columns, span(images, at))?,
            labels: label_rows(label_columns, span(labels, at))?,
            prompt_end: prompt_end.value(at),
            turn_start: turn_start.value(at),
        });
    }
    Ok(segments)
}

/// The ends of a batch of trajectories, still without their turns and pictures.
pub(crate) fn ends(file: &str, batch: &RecordBatch) -> Result<Vec<End>, Error> {
    let table = StructArray::from(batch.clone());
    let columns = Columns { file, columns: &table };
    let summaries = summaries(file, batch)?;
    let stepper: &StringArray = columns.get("stepper")?;
    let mut ends = Vec::with_capacity(batch.num_rows());
    for (row, (episode, of)) in episodes(columns, &summaries)?.into_iter().zip(summaries).enumerate() {
        ends.push(End {
            episode,
            attempt: of.attempt,
            stepper: stepper.value(row).into(),
            reason: of.reason,
            note: of.note,
            success: of.success,
            lenient: of.lenient,
            rewards: of.rewards,
            progress: of.progress,
            milestones: of.milestones,
            steps: of.steps,
            turns: Vec::with_capacity(of.turns as usize),
            segments: segment_rows(columns, row)?,
            frames: Vec::new(),
            started_us: of.started_us,
            ended_us: of.ended_us,
        });
    }
    Ok(ends)
}

/// The digests that a turn shows, and the pictures that were kept of them.
fn frame_rows(columns: Columns, row: usize) -> Result<(Vec<String>, Vec<Frame>), Error> {
    let (shown, of) = columns.nested("frames")?;
    let (digest, camera): (&StringArray, &StringArray) = (of.get("digest")?, of.get("camera")?);
    let (width, height): (&UInt32Array, &UInt32Array) = (of.get("width")?, of.get("height")?);
    let digests = span(shown, row).map(|at| digest.value(at).to_string()).collect();
    let mut frames = Vec::new();
    // A reader that wants no pictures leaves their column out.
    if columns.columns.column_by_name("pictures").is_none() {
        return Ok((digests, frames));
    }
    let (list, kept) = columns.nested("pictures")?;
    let (bytes, path): (&BinaryArray, &StringArray) = (kept.get("bytes")?, kept.get("path")?);
    let mut pictures = span(list, row).peekable();
    for at in span(shown, row) {
        let digest = digest.value(at);
        if let Some(picture) = pictures.next_if(|picture| path.value(*picture).strip_suffix(".png") == Some(digest)) {
            let png = bytes.value(picture).to_vec();
            frames.push(Frame {
                digest: digest.into(),
                png,
                width: width.value(at),
                height: height.value(at),
                camera: camera.value(at).into(),
            });
        }
    }
    Ok((digests, frames))
}

fn trail_row(columns: Columns, row: usize) -> Result<Vec<(String, u64, u64)>, Error> {
    let (list, of) = columns.nested("trail")?;
    let (stage, arrived, left): (&StringArray, &UInt64Array, &UInt64Array) = (of.get("stage")?, of.get("arrived_us")?, of.get("left_us")?);
    Ok(span(list, row).map(|at| (stage.value(at).to_string(), arrived.value(at), left.value(at))).collect())
}

/// The rows of a batch of turns whose episode is one of `wanted`, first to last number; all of them without it.
pub(crate) fn turns(file: &str, batch: &RecordBatch, wanted: Option<(u64, u64)>) -> Result<Vec<TurnRow>, Error> {
    let table = StructArray::from(batch.clone());
    let columns = Columns { file, columns: &table };
    let text = |name| columns.get::<StringArray>(name);
    let u32s = |name| columns.get::<UInt32Array>(name);
    let (id, observation, reply, state_key) = (text("id")?, text("observation")?, text("reply")?, text("state_key")?);
    let (turn, reply_tokens, prompt_tokens) = (u32s("turn")?, u32s("reply_tokens")?, u32s("prompt_tokens")?);
    let (well_formed, cut): (&BooleanArray, &BooleanArray) = (columns.get("well_formed")?, columns.get("cut")?);
    let (reward, version): (&Float32Array, &UInt64Array) = (columns.get("reward")?, columns.get("version")?);
    let (executed, dropped) = (columns.texts("executed")?, columns.texts("dropped")?);
    let worked: &ListArray = columns.get("worked")?;
    let flags = worked.values().as_boolean_opt().ok_or_else(|| columns.malformed("column `worked` is no list of booleans".into()))?;
    let mut rows = Vec::new();
    for row in 0..batch.num_rows() {
        let id: EpisodeId = columns.parse(id.value(row))?;
        if wanted.is_some_and(|(first, last)| !(first..=last).contains(&id.number)) {
            continue;
        }
        let (frames, pictures) = frame_rows(columns, row)?;
        let turn = Turn {
            turn: turn.value(row),
            observation: observation.value(row).into(),
            reply: reply.value(row).into(),
            executed: texts(executed, row),
            worked: span(worked, row).map(|at| flags.value(at)).collect(),
            dropped: texts(dropped, row),
            well_formed: well_formed.value(row),
            reward: reward.value(row),
            state_key: state_key.value(row).into(),
            frames,
            cut: cut.value(row),
            version: version.value(row),
            reply_tokens: reply_tokens.value(row),
            prompt_tokens: prompt_tokens.value(row),
            trail: trail_row(columns, row)?,
        };
        rows.push(TurnRow { id, turn, pictures });
    }
    Ok(rows)
}

/// Gives an end its turns, and its pictures once each, in the order in which they were first shown.
pub(crate) fn join(end: &mut End, turns: impl Iterator<Item = TurnRow>) {
    let mut seen = BTreeSet::new();
    for row in turns {
        end.frames.extend(row.pictures.into_iter().filter(|frame| seen.insert(frame.digest.clone())));
        end.turns.push(row.turn);
    }
}
