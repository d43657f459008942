//! Conversations as Parquet: verl's prompts, and Hugging Face `messages`.
//!
//! A trajectory is a system message (rules and task, where there are any), then for each turn what the agent was shown and
//! what it replied. `<image>` in an observation stands for one picture, in order.

use super::table::{Table, frame, hugging_face, image_type, images, list, list_of, nullable, struct_of, structs, texts};
use super::{Plan, Sample, Write, export};
use crate::{Error, level_of};
use arrow::array::{ArrayRef, BooleanArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use schemas::Turn;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What stands for a picture in a text.
const IMAGE: &str = "<image>";

/// Rules and task in one system message; empty where there is neither.
pub(super) fn system(sample: &Sample) -> String {
    [sample.system.as_str(), sample.instruction.as_str()].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

/// `(role, text)`, oldest first.
pub(super) fn messages(sample: &Sample) -> Vec<(&'static str, String)> {
    let told = system(sample);
    let mut all: Vec<(&str, String)> = if told.is_empty() { vec![] } else { vec![("system", told)] };
    for turn in &sample.end.turns {
        all.push(("user", turn.observation.clone()));
        all.push(("assistant", turn.reply.clone()));
    }
    all
}

/// As many `<image>` as pictures, in every turn.
pub(super) fn check(sample: &Sample) -> Result<(), Error> {
    let wrong = |turn: &&Turn| turn.observation.matches(IMAGE).count() != turn.frames.len();
    match sample.end.turns.iter().find(wrong) {
        None => Ok(()),
        Some(turn) => {
            let name = format!("{} turn {}", sample.end.id(), turn.turn);
            let (marks, shown) = (turn.observation.matches(IMAGE).count(), turn.frames.len());
            Err(export(Path::new(&name), format!("its text has {marks} `{IMAGE}` for {shown} pictures")))
        }
    }
}

/// One file for each split.
struct Splits {
    folder: PathBuf,
    schema: SchemaRef,
    tables: BTreeMap<String, Table>,
}

impl Splits {
    fn write(&mut self, split: &str, columns: Vec<ArrayRef>) -> Result<(), Error> {
        let path = self.folder.join(name_of(split));
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| export(&path, error))?;
        if !self.tables.contains_key(split) {
            self.tables.insert(split.into(), Table::create(&path, self.schema.clone())?);
        }
        self.tables.get_mut(split).expect("it was just put there").write(&batch)
    }

    fn close(mut self) -> Result<Vec<(String, u64)>, Error> {
        self.tables.iter_mut().map(|(split, table)| Ok((name_of(split), table.close()?))).collect()
    }
}

fn name_of(split: &str) -> String {
    format!("data/{split}.parquet")
}

fn sources(turns: &[Turn], sample: &Sample) -> Result<ArrayRef, Error> {
    let digests: Vec<&String> = turns.iter().flat_map(|turn| &turn.frames).collect();
    let frames = digests.iter().map(|digest| frame(&sample.end.frames, digest)).collect::<Result<Vec<_>, _>>()?;
    let pngs: Vec<(&[u8], String)> = frames.iter().map(|frame| (frame.png.as_slice(), format!("{}.png", frame.digest))).collect();
    Ok(images(&pngs))
}

fn value(kind: &str) -> serde_json::Value {
    json!({ "dtype": kind, "_type": "Value" })
}

/// What of a sample is a column in both forms.
fn facts(sample: &Sample) -> Vec<(&'static str, ArrayRef)> {
    let end = &sample.end;
    vec![
        ("split", texts([&sample.split])),
        ("index", Arc::new(Int64Array::from(vec![end.id().number as i64])) as ArrayRef),
        ("episode", texts([end.id().to_string()])),
        ("world", texts([&end.episode.world])),
        ("seed", texts([end.episode.seed.to_string()])),
        ("level", texts([level_of(&end.episode)])),
        ("task", texts([String::from_utf8_lossy(&end.episode.task)])),
        ("bucket", texts([&end.episode.bucket])),
        ("success", Arc::new(BooleanArray::from(vec![end.success])) as ArrayRef),
        ("return", Arc::new(Float32Array::from(vec![end.total_reward()])) as ArrayRef),
        ("steps", Arc::new(Int64Array::from(vec![i64::from(end.steps)])) as ArrayRef),
    ]
}

fn facts_features() -> serde_json::Map<String, serde_json::Value> {
    let kinds = [
        ("split", "string"),
        ("index", "int64"),
        ("episode", "string"),
        ("world", "string"),
        ("seed", "string"),
        ("level", "string"),
        ("task", "string"),
        ("bucket", "string"),
        ("success", "bool"),
        ("return", "float32"),
        ("steps", "int64"),
    ];
    kinds.into_iter().map(|(name, kind)| (name.to_string(), value(kind))).collect()
}

fn facts_fields() -> Vec<Field> {
    let kind = |text: &str| match text {
        "int64" => DataType::Int64,
        "bool" => DataType::Boolean,
        "float32" => DataType::Float32,
        _ => DataType::Utf8,
    };
    // serde_json's map keeps no order: that of `facts` is the columns'.
    let features = facts_features();
    let order = ["split", "index", "episode", "world", "seed", "level", "task", "bucket", "success", "return", "steps"];
    order.iter().map(|name| nullable(name, kind(features[*name]["dtype"].as_str().unwrap_or_default()))).collect()
}

fn text_message() -> DataType {
    struct_of(vec![nullable("role", DataType::Utf8), nullable("content", DataType::Utf8)])
}

/// verl: `data_source, prompt, ability, reward_model, extra_info` and, with pictures, `images`.
pub(super) struct Verl(Splits, bool);

impl Verl {
    pub(super) fn new(folder: &Path, plan: &Plan) -> Result<Verl, Error> {
        let message = json!([{ "role": value("string"), "content": value("string") }]);
        let mut features = json!({
            "data_source": value("string"), "prompt": message, "ability": value("string"),
            "reward_model": { "style": value("string"), "ground_truth": value("string") },
            "extra_info": facts_features(),
        });
        let model = vec![nullable("style", DataType::Utf8), nullable("ground_truth", DataType::Utf8)];
        let mut fields = vec![
            nullable("data_source", DataType::Utf8),
            nullable("prompt", list_of(&text_message())),
            nullable("ability", DataType::Utf8),
            nullable("reward_model", struct_of(model)),
            nullable("extra_info", struct_of(facts_fields())),
        ];
        if plan.pictures {
            fields.push(nullable("images", list_of(&image_type())));
            features["images"] = json!([{ "_type": "Image" }]);
        }
        let schema = hugging_face(fields, &features);
        Ok(Verl(Splits { folder: folder.into(), schema, tables: BTreeMap::new() }, plan.pictures))
    }
}

impl Write for Verl {
    fn add(&mut self, sample: &Sample) -> Result<(), Error> {
        check(sample)?;
        // The prompt is what stands before the first reply; the rest is for the trainer to live.
        let told: Vec<_> = messages(sample).into_iter().take_while(|(role, _)| *role != "assistant").collect();
        let turns = sample.end.turns.get(..1).unwrap_or_default();
        let prompt = structs(vec![("role", texts(told.iter().map(|m| m.0))), ("content", texts(told.iter().map(|m| &m.1)))]);
        let done: Vec<&str> = sample.end.turns.iter().flat_map(|turn| &turn.executed).map(String::as_str).collect();
        let model = structs(vec![("style", texts(["rule"])), ("ground_truth", texts([done.join(" ")]))]);
        let mut columns = vec![
            texts([&sample.end.episode.world]),
            list([told.len()], prompt),
            texts([&sample.end.episode.bucket]),
            model,
            structs(facts(sample)),
        ];
        if self.1 {
            let pictures = sources(turns, sample)?;
            columns.push(list([pictures.len()], pictures));
        }
        self.0.write(&sample.split, columns)
    }

    fn finish(self: Box<Self>) -> Result<Vec<(String, u64)>, Error> {
        self.0.close()
    }
}

/// `messages`, `images` and what is known of each trajectory. Content is text, or, with pictures, a list of parts.
pub(super) struct Messages(Splits, bool);

fn part_type() -> DataType {
    struct_of(vec![nullable("type", DataType::Utf8), nullable("text", DataType::Utf8)])
}

impl Messages {
    pub(super) fn new(folder: &Path, plan: &Plan) -> Result<Messages, Error> {
        let content = if plan.pictures { list_of(&part_type()) } else { DataType::Utf8 };
        let content_feature = if plan.pictures { json!([{ "type": value("string"), "text": value("string") }]) } else { value("string") };
        let message = struct_of(vec![nullable("role", DataType::Utf8), nullable("content", content)]);
        let mut features = facts_features();
        features.insert("messages".into(), json!([{ "role": value("string"), "content": content_feature }]));
        let mut fields = vec![nullable("messages", list_of(&message))];
        if plan.pictures {
            fields.push(nullable("images", list_of(&image_type())));
            features.insert("images".into(), json!([{ "_type": "Image" }]));
        }
        fields.extend(facts_fields());
        let schema = hugging_face(fields, &serde_json::Value::Object(features));
        Ok(Messages(Splits { folder: folder.into(), schema, tables: BTreeMap::new() }, plan.pictures))
    }
}

/// `(type, text)` of a message's parts: its text, cut where a picture stands.
fn parts(text: &str) -> Vec<(&'static str, Option<&str>)> {
    let mut all = Vec::new();
    for (at, piece) in text.split(IMAGE).enumerate() {
        if at > 0 {
            all.push(("image", None));
        }
        if !piece.is_empty() {
            all.push(("text", Some(piece)));
        }
    }
    all
}

impl Write for Messages {
    fn add(&mut self, sample: &Sample) -> Result<(), Error> {
        check(sample)?;
        let told = messages(sample);
        let content = if self.1 {
            let cut: Vec<Vec<_>> = told.iter().map(|(_, text)| parts(text)).collect();
            let text: StringArray = cut.iter().flatten().map(|(_, text)| *text).collect();
            let all = structs(vec![("type", texts(cut.iter().flatten().map(|(kind, _)| kind))), ("text", Arc::new(text))]);
            list(cut.iter().map(Vec::len), all)
        } else {
            texts(told.iter().map(|m| &m.1))
        };
        let all = structs(vec![("role", texts(told.iter().map(|m| m.0))), ("content", content)]);
        let mut columns = vec![list([told.len()], all)];
        if self.1 {
            let pictures = sources(&sample.end.turns, sample)?;
            columns.push(list([pictures.len()], pictures));
        }
        columns.extend(facts(sample).into_iter().map(|(_, column)| column));
        self.0.write(&sample.split, columns)
    }

    fn finish(self: Box<Self>) -> Result<Vec<(String, u64)>, Error> {
        self.0.close()
    }
}
