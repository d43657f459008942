//! The Arrow schemas of the two tables, and how each column is written. `README.md` describes every column.

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// The version of the columns. It stands in each manifest entry and in each file's key-value metadata as `errand.schema`.
///
/// 1: the first. 2: trajectories have `level`; a manifest entry may replace files and names each file's digest.
pub const SCHEMA_VERSION: u32 = 2;

/// The key of the version in a file's key-value metadata.
pub(crate) const SCHEMA_KEY: &str = "errand.schema";

/// What Hugging Face `datasets` reads to show the column `pictures` as images.
const HUGGING_FACE: &str = r#"{"info":{"features":{"pictures":[{"_type":"Image"}]}}}"#;

fn required(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, false)
}

fn text(name: &str) -> Field {
    required(name, DataType::Utf8)
}

fn u32s(name: &str) -> Field {
    required(name, DataType::UInt32)
}

fn u64s(name: &str) -> Field {
    required(name, DataType::UInt64)
}

fn f32s(name: &str) -> Field {
    required(name, DataType::Float32)
}

fn flag(name: &str) -> Field {
    required(name, DataType::Boolean)
}

fn time(name: &str) -> Field {
    required(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
}

fn list(name: &str, item: DataType) -> Field {
    required(name, DataType::List(Arc::new(Field::new("item", item, false))))
}

fn structs(name: &str, fields: Vec<Field>) -> Field {
    list(name, DataType::Struct(Fields::from(fields)))
}

fn spans() -> Field {
    let versions = structs("versions", vec![u64s("version"), u32s("count")]);
    let places = ["turn", "start", "reply", "end", "close"].map(u32s);
    structs("turns", places.into_iter().chain([flag("trainable"), text("source"), versions, flag("cut")]).collect())
}

fn segments() -> Field {
    let images = structs("images", vec![u32s("offset"), u32s("len"), u32s("time"), u32s("height"), u32s("width"), text("digest")]);
    let labels = structs("labels", vec![u32s("turn"), u32s("after"), list("tokens", DataType::UInt32)]);
    let tokens = list("tokens", DataType::UInt32);
    let logprobs = list("logprobs", DataType::Float32);
    structs("segments", vec![u32s("number"), tokens, logprobs, spans(), images, labels, u32s("prompt_end"), u32s("turn_start")])
}

/// The fields by which rows of both tables are joined and told apart.
fn names() -> Vec<Field> {
    vec![text("id"), u64s("episode"), u64s("group"), u32s("member")]
}

static TRAJECTORIES: LazyLock<SchemaRef> = LazyLock::new(|| {
    let nullable = |field: Field| field.with_nullable(true);
    let mut fields = names();
    fields.extend([u32s("group_size"), text("world"), u64s("seed"), text("mode"), text("policy_pin"), text("task")]);
    fields.extend([
        nullable(text("scene")),
        nullable(text("house")),
        text("level"),
        text("bucket"),
        u32s("expert_length"),
        u64s("validates"),
    ]);
    fields.extend([u32s("handed_back"), u64s("epoch"), text("traceparent"), u32s("attempt"), text("stepper")]);
    fields.extend([text("reason"), text("note"), flag("success"), flag("lenient"), f32s("return")]);
    fields.extend([structs("rewards", vec![text("part"), f32s("value")]), f32s("progress"), list("milestones", DataType::Utf8)]);
    fields.extend([u32s("steps"), u32s("turns"), nullable(u64s("version_min")), nullable(u64s("version_max"))]);
    fields.extend([u64s("policy_tokens"), u64s("expert_tokens"), u64s("label_tokens"), time("started"), time("ended"), segments()]);
    Arc::new(Schema::new(fields))
});

/// The element of `pictures`: a Hugging Face image. Nullable throughout, as `datasets` declares it.
pub(crate) fn picture_fields() -> Fields {
    Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)])
}

static TURNS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let mut fields = names();
    fields.extend([u32s("turn"), text("observation"), text("reply"), list("executed", DataType::Utf8)]);
    fields.extend([list("worked", DataType::Boolean), list("dropped", DataType::Utf8), flag("well_formed"), f32s("reward")]);
    fields.extend([text("state_key"), flag("cut"), u64s("version"), u32s("reply_tokens"), u32s("prompt_tokens")]);
    fields.push(structs("trail", vec![text("stage"), u64s("arrived_us"), u64s("left_us")]));
    fields.push(structs("frames", vec![text("digest"), text("camera"), u32s("width"), u32s("height")]));
    let picture = Arc::new(Field::new("item", DataType::Struct(picture_fields()), true));
    fields.push(Field::new("pictures", DataType::List(picture), true));
    let metadata = HashMap::from([("huggingface".to_string(), HUGGING_FACE.to_string())]);
    Arc::new(Schema::new_with_metadata(fields, metadata))
});

/// One row a trajectory.
pub fn trajectories_schema() -> SchemaRef {
    TRAJECTORIES.clone()
}

/// One row a turn.
pub fn turns_schema() -> SchemaRef {
    TURNS.clone()
}

/// Columns by which a reader picks files and rows: they alone have statistics.
const WITH_STATISTICS: [&str; 9] = ["episode", "level", "group", "return", "version_min", "version_max", "validates", "turn", "version"];

/// Columns of few distinct values. Dictionaries cost time to build, so that the others have none.
const WITH_DICTIONARY: [&str; 18] = [
    "world",
    "mode",
    "policy_pin",
    "scene",
    "house",
    "bucket",
    "stepper",
    "reason",
    "note",
    "rewards.list.item.part",
    "milestones.list.item",
    "segments.list.item.turns.list.item.source",
    "segments.list.item.images.list.item.digest",
    "executed.list.item",
    "dropped.list.item",
    "trail.list.item.stage",
    "frames.list.item.camera",
    "frames.list.item.digest",
];

/// zstd at its fastest level; dictionaries and statistics only where they pay.
pub(crate) fn writer_properties(run: &str) -> WriterProperties {
    let level = ZstdLevel::try_new(1).expect("1 is a level of zstd");
    let metadata = [(SCHEMA_KEY, SCHEMA_VERSION.to_string()), ("errand.run", run.to_string())];
    let metadata = metadata.into_iter().map(|(key, value)| parquet::file::metadata::KeyValue::new(key.into(), value)).collect();
    let mut properties = WriterProperties::builder()
        // A row group is a batch, see `build`.
        .set_max_row_group_row_count(None)
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_created_by(format!("errand {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(metadata));
    for name in WITH_STATISTICS {
        properties = properties.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Chunk);
    }
    for name in WITH_DICTIONARY {
        let path = ColumnPath::new(name.split('.').map(String::from).collect());
        properties = properties.set_column_dictionary_enabled(path, true);
    }
    properties.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::arrow::ArrowSchemaConverter;

    #[test]
    fn every_column_with_its_own_setting_exists() {
        let mut known: Vec<String> = Vec::new();
        for schema in [trajectories_schema(), turns_schema()] {
            let columns = ArrowSchemaConverter::new().convert(&schema).unwrap();
            known.extend(columns.columns().iter().map(|column| column.path().string()));
        }
        for name in WITH_STATISTICS.iter().chain(&WITH_DICTIONARY) {
            assert!(known.iter().any(|column| column == name), "{name} is no column; there are {known:?}");
        }
    }

    #[test]
    fn the_table_in_the_readme_names_every_column_and_no_other() {
        let readme = include_str!("../README.md");
        for (heading, schema) in [("## Trajectories", trajectories_schema()), ("## Turns", turns_schema())] {
            let section = readme.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
            let rows = section.lines().filter(|line| line.starts_with("| `"));
            let told: Vec<&str> = rows.filter_map(|line| line.split('`').nth(1)).collect();
            let real: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            assert_eq!(told, real, "{heading}");
        }
    }
}
