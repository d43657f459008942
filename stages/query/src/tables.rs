//! The tables `trajectories` and `turns` over the committed files of runs.
//!
//! Files are those that the manifests list, and each one's length, columns and rows are compared with what was committed before
//! anything is read of it. Columns, row groups and pages that a query does not need are not read.

use crate::one_line;
use crate::print::Failure;
use anyhow::{Result, ensure};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext, ident, lit};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::{Kind, Reader, Store};
use url::Url;

const KINDS: [Kind; 2] = [Kind::Trajectories, Kind::Turns];
/// Footers that are asked for at once.
const AT_ONCE: usize = 16;

/// Runs, opened.
pub(crate) struct Tables {
    context: SessionContext,
    readers: Vec<Reader>,
}

impl Tables {
    /// Opens runs: pairs of a store's URL and a name.
    ///
    /// # Errors
    /// A store or a file of it that cannot be read, by name; runs that hold nothing.
    pub(crate) async fn open(sources: &[(&str, &str)]) -> Result<Tables> {
        let context = SessionContext::new_with_config(SessionConfig::new().with_information_schema(true));
        let mut readers = Vec::new();
        for (url, run) in sources {
            readers.push(Reader::over(Store::open_existing(url, run)?).await?);
        }
        let tables = Tables { context, readers };
        for kind in KINDS {
            let mut parts = Vec::new();
            for (number, reader) in tables.readers.iter().enumerate() {
                futures::stream::iter(reader.files(kind)).map(|file| reader.check(file)).buffered(AT_ONCE).try_collect::<()>().await?;
                parts.extend(tables.parts(reader, kind, number)?);
            }
            ensure!(kind == Kind::Turns || !parts.is_empty(), "no run holds a trajectory");
            if let Some(whole) = united(parts)? {
                tables.context.register_table(kind.as_str(), whole.into_view())?;
            }
        }
        Ok(tables)
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// [`Failure::Rows`].
    pub(crate) async fn rows(&self, sql: &str) -> Result<SendableRecordBatchStream, Failure> {
        let reading = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = self.context.sql_with_options(sql, reading).await.map_err(Failure::Rows)?;
        frame.execute_stream().await.map_err(Failure::Rows)
    }

    /// The committed files of one run, a frame for each split.
    fn parts(&self, reader: &Reader, kind: Kind, number: usize) -> Result<Vec<DataFrame>> {
        let mut splits: BTreeMap<String, Vec<ListingTableUrl>> = BTreeMap::new();
        // Each run's store has a name of its own in the session, so that two buckets never meet.
        let place = Url::parse(&format!("errand://{number}/"))?;
        for file in reader.files(kind) {
            let (object, path) = reader.store().object(&file.path);
            self.context.register_object_store(&place, object);
            splits.entry(file.split.to_string()).or_default().push(ListingTableUrl::parse(format!("{place}{path}"))?);
        }
        let frame = |(split, urls): (String, Vec<ListingTableUrl>)| {
            let schema = read_as(kind);
            let options = ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension(".parquet");
            let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(schema.clone());
            let table = self.context.read_table(Arc::new(ListingTable::try_new(config)?))?;
            let mut columns = vec![lit(reader.store().run()).alias("run"), lit(split).alias("split")];
            columns.extend(schema.fields().iter().map(|field| ident(field.name())));
            Ok(table.select(columns)?)
        };
        splits.into_iter().map(frame).collect()
    }
}

/// A table's columns, nullable: one that an older file lacks is null there.
fn read_as(kind: Kind) -> SchemaRef {
    let schema = match kind {
        Kind::Trajectories => store::trajectories_schema(),
        Kind::Turns => store::turns_schema(),
    };
    let fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    Arc::new(Schema::new(fields))
}

/// All frames as one, by halves: a chain as long as the list of runs would be as deep.
fn united(mut parts: Vec<DataFrame>) -> Result<Option<DataFrame>> {
    while parts.len() > 1 {
        let mut halves = parts.into_iter();
        let mut next = Vec::new();
        while let Some(first) = halves.next() {
            next.push(match halves.next() {
                Some(second) => first.union(second)?,
                None => first,
            });
        }
        parts = next;
    }
    Ok(parts.pop())
}

/// Whether the query is to blame, whatever the files hold.
pub(crate) fn is_of_the_query(error: &DataFusionError) -> bool {
    use DataFusionError::{NotImplemented, Plan, SQL, SchemaError};
    matches!(error.find_root(), Plan(_) | SQL(..) | SchemaError(..) | NotImplemented(_))
}

/// The first file of these runs that is not what was committed; reads all of them.
pub(crate) async fn changed_file(sources: &[(&str, &str)]) -> Option<store::Error> {
    for (url, run) in sources {
        let reader = Reader::open(url, run).await.ok()?;
        for file in KINDS.into_iter().flat_map(|kind| reader.files(kind)) {
            if let Err(changed) = reader.verify(file).await {
                return Some(changed);
            }
        }
    }
    None
}

/// DataFusion's words in one line, with what is allowed in its place.
pub(crate) fn explained(error: &DataFusionError) -> String {
    let line = one_line(&error.strip_backtrace()).replace("datafusion.public.", "");
    let said = line.trim_start_matches("Error during planning: ").trim_start_matches("Schema error: ");
    if said.contains("table '") && said.contains("' not found") {
        format!("{said}; hint: the tables are `trajectories` and `turns`")
    } else if said.starts_with("DDL not") || said.starts_with("DML not") || said.starts_with("Statement not") {
        format!("{said}; hint: stores are only read here, by `select`")
    } else {
        said.to_string()
    }
}
