//! A Parquet file that is written row group by row group.

use super::export;
use crate::Error;
use arrow::array::{Array, ArrayRef, BinaryArray, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use schemas::Frame;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows that are held until they make a row group.
const GROUP_ROWS: usize = 256;

/// See the module's text.
pub(super) struct Table {
    path: PathBuf,
    writer: Option<ArrowWriter<File>>,
    pub(super) rows: u64,
}

impl Table {
    pub(super) fn create(path: &Path, schema: SchemaRef) -> Result<Table, Error> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| export(parent, error))?;
        }
        let file = File::create(path).map_err(|error| export(path, error))?;
        let level = ZstdLevel::try_new(3).expect("3 is a level of zstd");
        let properties =
            WriterProperties::builder().set_compression(Compression::ZSTD(level)).set_max_row_group_row_count(Some(GROUP_ROWS)).build();
        let writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(|error| export(path, error))?;
        Ok(Table { path: path.into(), writer: Some(writer), rows: 0 })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.rows += batch.num_rows() as u64;
        let writer = self.writer.as_mut().ok_or_else(|| export(&self.path, "it is closed"))?;
        writer.write(batch).map_err(|error| export(&self.path, error))
    }

    pub(super) fn close(&mut self) -> Result<u64, Error> {
        if let Some(writer) = self.writer.take() {
            writer.close().map_err(|error| export(&self.path, error))?;
        }
        Ok(self.rows)
    }
}

/// A schema that Hugging Face `datasets` reads: `features` is its description of the columns.
pub(super) fn hugging_face(fields: Vec<Field>, features: &serde_json::Value) -> SchemaRef {
    let info = serde_json::json!({ "info": { "features": features } });
    Arc::new(Schema::new_with_metadata(fields, [("huggingface".to_string(), info.to_string())].into()))
}

pub(super) fn nullable(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, true)
}

fn item(kind: &DataType) -> Arc<Field> {
    Arc::new(Field::new("item", kind.clone(), true))
}

/// The type of a list of this.
pub(super) fn list_of(kind: &DataType) -> DataType {
    DataType::List(item(kind))
}

pub(super) fn struct_of(fields: Vec<Field>) -> DataType {
    DataType::Struct(Fields::from(fields))
}

pub(super) fn list(lengths: impl IntoIterator<Item = usize>, values: ArrayRef) -> ArrayRef {
    Arc::new(ListArray::new(item(values.data_type()), OffsetBuffer::from_lengths(lengths), values, None))
}

pub(super) fn structs(columns: Vec<(&str, ArrayRef)>) -> ArrayRef {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) =
        columns.into_iter().map(|(name, array)| (nullable(name, array.data_type().clone()), array)).unzip();
    Arc::new(StructArray::new(fields.into(), arrays, None))
}

pub(super) fn texts<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values.into_iter().collect::<Vec<_>>()))
}

/// The type of a Hugging Face image.
pub(super) fn image_type() -> DataType {
    DataType::Struct(crate::schema::picture_fields())
}

/// Hugging Face images.
pub(super) fn images(pngs: &[(&[u8], String)]) -> ArrayRef {
    let bytes = BinaryArray::from_iter_values(pngs.iter().map(|(png, _)| png));
    let paths = texts(pngs.iter().map(|(_, path)| path));
    Arc::new(StructArray::new(crate::schema::picture_fields(), vec![Arc::new(bytes), paths], None))
}

/// The frame of a digest.
pub(super) fn frame<'a>(frames: &'a [Frame], digest: &str) -> Result<&'a Frame, Error> {
    let found = frames.iter().find(|frame| frame.digest == digest);
    found.ok_or_else(|| export(Path::new(&format!("{digest}.png")), "a turn shows it and it is not there"))
}
