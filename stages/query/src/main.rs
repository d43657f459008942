//! `errand-query`: SQL over trajectory stores.
//!
//! In: a statement, and pairs of a store's URL and a run in it. Out: its rows on stdout, as a table, CSV or lines of JSON.
//! `errand data query` runs this program; DataFusion is linked by nothing else.

mod print;
mod tables;
#[cfg(test)]
mod tests;

use anyhow::Result;
use clap::Parser;
use futures::FutureExt;
use print::{Failure, Form};
use std::io::{ErrorKind, Write};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use tables::Tables;

/// SQL over trajectory stores. Tables: `trajectories`, one row a trajectory; `turns`, one row a turn. Their columns are those of
/// stages/store/README.md, with `run` and `split` before them; `run`, `id` join the two.
#[derive(Parser)]
#[command(name = "errand-query", version)]
struct Cli {
    /// The query.
    sql: String,
    /// A store's path or URL, and a run in it; any number.
    #[arg(long, num_args = 2, value_names = ["URL", "RUN"], required = true)]
    source: Vec<String>,
    #[arg(long, value_enum, default_value = "table")]
    format: Form,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let sources: Vec<(&str, &str)> = cli.source.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    // `answer` says in one line what a panic would say in many.
    std::panic::set_hook(Box::new(|_| {}));
    match answer(&sources, &cli.sql, cli.format, &mut std::io::stdout()).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has read enough.
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("errand-query: error: {}", one_line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Writes the rows of a query over runs: pairs of a store's URL and a name.
///
/// # Errors
/// A bad query, a store or a file that cannot be read, rows that have no such form or cannot be written.
async fn answer(sources: &[(&str, &str)], sql: &str, form: Form, out: &mut impl Write) -> Result<()> {
    let attempt = async {
        let tables = Tables::open(sources).await?;
        print::print(tables.rows(sql).await?, form, out).await
    };
    // The Parquet reader panics at some footers that were changed.
    let error = match AssertUnwindSafe(attempt).catch_unwind().await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(Failure::Rows(error))) if !tables::is_of_the_query(&error) => anyhow::anyhow!(tables::explained(&error)),
        Ok(Err(other)) => return Err(other.into()),
        Err(_) => anyhow::anyhow!("the query could not be run: the reader panicked"),
    };
    Err(tables::changed_file(sources).await.map_or(error, anyhow::Error::from))
}

/// Words with one space between them, whatever DataFusion put there.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
