//! Rows as text, batch by batch; only a table, whose columns are as wide as their widest value, is held whole.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use clap::ValueEnum;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use std::io::Write;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people.
    Table,
    /// With a header; binary values in hex. Lists have no form in it.
    Csv,
    /// One JSON object a line; binary values in hex.
    Json,
}

/// Why there are no rows, or no more.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The runs could not be opened.
    Source(anyhow::Error),
    /// Rows could not be made.
    Rows(DataFusionError),
    /// They have no such form.
    Form(ArrowError),
    /// They could not be written.
    Written(std::io::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Source(error)
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> anyhow::Error {
        match failure {
            Failure::Source(error) => error,
            Failure::Rows(error) => anyhow::anyhow!(crate::tables::explained(&error)),
            Failure::Form(error) => anyhow::anyhow!("{error}; hint: --format json, or name fewer columns"),
            // As it is: a closed pipe is told by its kind.
            Failure::Written(error) => error.into(),
        }
    }
}

/// Writes all rows.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn print(mut rows: SendableRecordBatchStream, form: Form, out: &mut impl Write) -> Result<(), Failure> {
    let none = RecordBatch::new_empty(rows.schema());
    if form == Form::Table {
        let mut batches: Vec<RecordBatch> = rows.try_collect().await.map_err(Failure::Rows)?;
        batches.push(none);
        let table = arrow::util::pretty::pretty_format_batches(&batches).map_err(Failure::Form)?;
        return writeln!(out, "{table}").map_err(Failure::Written);
    }
    let mut write = |batch: &RecordBatch, first: bool| {
        let text = encoded(batch, form, first).map_err(Failure::Form)?;
        out.write_all(&text).map_err(Failure::Written)
    };
    write(&none, true)?;
    while let Some(batch) = rows.try_next().await.map_err(Failure::Rows)? {
        write(&batch, false)?;
    }
    out.flush().map_err(Failure::Written)
}

fn encoded(batch: &RecordBatch, form: Form, header: bool) -> Result<Vec<u8>, ArrowError> {
    let mut text = Vec::new();
    if form == Form::Csv {
        arrow::csv::WriterBuilder::new().with_header(header).build(&mut text).write(batch)?;
    } else {
        let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
        let mut writer = builder.build::<_, arrow::json::writer::LineDelimited>(&mut text);
        writer.write(batch)?;
        writer.finish()?;
    }
    Ok(text)
}
