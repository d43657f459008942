//! Prompts that other tools keep in Parquet: VAGEN's environments and verl's rows, as a list of tasks.
//!
//! Of a row only what names a task is taken: which environment, its seed and settings, or, in rows that Errand exported, the
//! world's own description. Columns are found by name; whatever else a file holds is left alone.

use crate::{Error, one_line};
use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};
use std::path::Path;

/// A task by another tool's account.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// The environment's name as it stands there, in lower case.
    pub world: String,
    pub seed: u64,
    /// `train`, `test`, …; empty where the row does not say.
    pub split: String,
    /// The world's own description, JSON; empty where the seed says all.
    pub task: String,
    /// VAGEN's `env_config`.
    pub settings: Map<String, Value>,
}

/// Rows that are decoded at once.
const ROWS: usize = 1024;
/// Rows that a file may have.
const MOST_ROWS: i64 = 10_000_000;

/// Reads the prompts of a file.
///
/// # Errors
/// [`Error::Malformed`]: no Parquet, cut short, or without `data_source` and `extra_info`; or a row without a seed.
pub fn prompts(path: &Path) -> Result<Vec<Prompt>, Error> {
    let malformed = |reason: String| Error::Malformed { path: path.display().to_string(), reason };
    let file = std::fs::File::open(path).map_err(|error| malformed(error.to_string()))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| malformed(one_line(&error)))?;
    let rows = builder.metadata().file_metadata().num_rows();
    if rows > MOST_ROWS {
        return Err(malformed(format!("it has {rows} rows, allowed are {MOST_ROWS}")));
    }
    for name in ["data_source", "extra_info"] {
        if builder.schema().field_with_name(name).is_err() {
            return Err(malformed(format!(
                "it has no column `{name}`; hint: prompts of VAGEN and verl have `data_source`, `prompt` and `extra_info`"
            )));
        }
    }
    let reader = builder.with_batch_size(ROWS).build().map_err(|error| malformed(one_line(&error)))?;
    let mut found = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| malformed(error.to_string()))?;
        read_batch(&batch, &mut found).map_err(malformed)?;
    }
    Ok(found)
}

fn read_batch(batch: &RecordBatch, found: &mut Vec<Prompt>) -> Result<(), String> {
    let table = StructArray::from(batch.clone());
    for row in 0..table.len() {
        let Value::Object(columns) = object(&table, row, &["data_source", "extra_info"]) else { continue };
        let empty = Map::new();
        let extra = columns.get("extra_info").and_then(Value::as_object).unwrap_or(&empty);
        let text = |name: &str| extra.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
        let source = columns.get("data_source").and_then(Value::as_str).unwrap_or_default();
        let named = [text("world"), text("env_name"), source.to_string()].into_iter().find(|name| !name.is_empty());
        let settings = extra.get("env_config").and_then(Value::as_object).cloned().unwrap_or_default();
        let seed = extra.get("seed").or_else(|| settings.get("seed")).and_then(seed_of);
        let number = found.len();
        let seed = seed.ok_or_else(|| format!("row {number} has no `extra_info.seed` of a whole number of 0 or more"))?;
        let world = named.ok_or_else(|| format!("row {number} names no environment"))?.to_lowercase();
        found.push(Prompt { world, seed, split: text("split"), task: text("task"), settings });
    }
    Ok(())
}

fn seed_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A row of a struct as JSON. `only`: these fields of it; all where none are named.
fn object(table: &StructArray, row: usize, only: &[&str]) -> Value {
    let fields = table.fields().iter().zip(table.columns());
    let wanted = fields.filter(|(field, _)| only.is_empty() || only.contains(&field.name().as_str()));
    Value::Object(wanted.filter_map(|(field, column)| Some((field.name().clone(), value(column, row)?))).collect())
}

/// A value as JSON; `None` where it is null, or of a type that names no task.
fn value(column: &dyn Array, row: usize) -> Option<Value> {
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        DataType::Float32 => column.as_primitive::<Float32Type>().value(row).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::Struct(_) => object(column.as_struct(), row, &[]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::Field;
    use parquet::arrow::ArrowWriter;
    use std::sync::Arc;

    fn structs(columns: Vec<(&str, ArrayRef)>) -> ArrayRef {
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) =
            columns.into_iter().map(|(name, array)| (Field::new(name, array.data_type().clone(), true), array)).unzip();
        Arc::new(StructArray::new(fields.into(), arrays, None))
    }

    fn file(folder: &Path, columns: Vec<(&str, ArrayRef)>) -> std::path::PathBuf {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        let path = folder.join("x.parquet");
        std::fs::write(&path, writer.into_inner().unwrap()).unwrap();
        path
    }

    /// The columns that VAGEN writes, two environments with settings of their own: what one lacks is null.
    fn vagen(seeds: Vec<Option<i64>>) -> Vec<(&'static str, ArrayRef)> {
        let size: ArrayRef = Arc::new(Int64Array::from(vec![Some(4), None]));
        let p: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.8), None]));
        let slippery: ArrayRef = Arc::new(BooleanArray::from(vec![Some(false), None]));
        let config = structs(vec![("size", size), ("p", p), ("is_slippery", slippery)]);
        let extra = structs(vec![
            ("split", Arc::new(StringArray::from(vec!["train", "test"]))),
            ("env_name", Arc::new(StringArray::from(vec!["FrozenLake", "sokoban"]))),
            ("env_config", config),
            ("seed", Arc::new(Int64Array::from(seeds))),
        ]);
        vec![("data_source", Arc::new(StringArray::from(vec!["frozenlake", "sokoban"]))), ("extra_info", extra)]
    }

    #[test]
    fn a_row_names_its_environment_its_seed_and_what_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let found = prompts(&file(folder.path(), vagen(vec![Some(7), Some(8)]))).unwrap();
        assert_eq!((found[0].world.as_str(), found[0].seed, found[0].split.as_str()), ("frozenlake", 7, "train"));
        assert_eq!(found[0].settings["p"], 0.8);
        assert!(found[1].settings.is_empty(), "nulls say nothing");
    }

    #[test]
    fn what_is_no_list_of_prompts_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let said = |path: &Path| prompts(path).unwrap_err().to_string();
        let path = file(folder.path(), vagen(vec![Some(-1), None]));
        assert!(said(&path).contains("row 0 has no `extra_info.seed`"));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(said(&path).contains("x.parquet"));
        let path = file(folder.path(), vagen(vec![Some(1), Some(2)])[..1].to_vec());
        assert!(said(&path).contains("no column `extra_info`"));
        assert!(said(&folder.path().join("gone.parquet")).contains("gone.parquet"));
    }
}
