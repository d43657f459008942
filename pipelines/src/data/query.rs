//! `errand data query`: SQL over trajectories, by way of `errand-query`, which alone links DataFusion.
//!
//! Here runs are looked up; the program beside this one is given their stores and the statement, and prints the rows.

use super::Which;
use super::ls::known;
use super::place::url_of;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use store::{Reader, Store};

const PROGRAM: &str = "errand-query";

/// What `errand data query` takes.
#[derive(Args, Clone, Debug)]
#[command(after_help = tables())]
pub(crate) struct Arguments {
    /// One query, as "select run, count(*) from trajectories group by run".
    // SQL's comments begin as options do.
    #[arg(allow_hyphen_values = true)]
    sql: String,
    #[arg(long, value_enum, default_value = "table")]
    format: Form,
    /// Only this run; may be given several times. Without it: all of them.
    #[arg(long)]
    run: Vec<String>,
    /// A path or URL of a trajectory store, in place of those of the run folders.
    #[arg(long)]
    store: Option<String>,
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    Table,
    /// With a header.
    Csv,
    /// One JSON object a line.
    Json,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::Table => "table",
            Form::Csv => "csv",
            Form::Json => "json",
        }
    }
}

/// The tables and their columns, for `--help`.
fn tables() -> String {
    let mut text = String::from("Tables ([] is a list; stages/store/README.md says what each column holds):\n");
    for (name, each, schema) in [("trajectories", "a trajectory", store::trajectories_schema()), ("turns", "a turn", store::turns_schema())]
    {
        let column = |field: &String, listed: bool| if listed { format!("{field}[]") } else { field.clone() };
        let columns: Vec<String> = schema.fields().iter().map(|field| column(field.name(), field.data_type().is_nested())).collect();
        let _ = write!(text, "\n{name}, one row {each}: run, split, {}\n", columns.join(", "));
    }
    text.push_str("\n`run`, `id` join the two. \"group\" and \"return\" are written in double quotes: SQL has these words for itself.");
    text
}

/// Prints the rows of a query.
///
/// # Errors
/// The program is not built, no run holds anything, or what the program said, in one line.
pub(crate) async fn query(arguments: &Arguments, runs: &Path) -> Result<()> {
    let missing =
        "`errand-query` is not beside `errand`; hint: cargo build --release --manifest-path stages/query/Cargo.toml --target-dir target";
    let program = crate::stages::beside_this(PROGRAM).map_err(|_| anyhow::anyhow!(missing))?;
    let mut command = Command::new(program);
    command.args(["--format", arguments.format.name()]);
    for (url, run) in sources(arguments, runs).await? {
        command.args(["--source", &url, &run]);
    }
    // A statement may begin with a comment's two dashes.
    let child = command.arg("--").arg(&arguments.sql).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context(PROGRAM)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim().trim_start_matches("errand-query: error: "));
    Ok(())
}

/// The stores and runs that are asked.
async fn sources(arguments: &Arguments, runs: &Path) -> Result<Vec<(String, String)>> {
    let store = arguments.store.as_deref();
    let named = !arguments.run.is_empty();
    let of = |run: &String| Which { run: run.clone(), store: arguments.store.clone() };
    let asked = if named { arguments.run.iter().map(of).collect() } else { known(runs, store).await? };
    let mut found = Vec::new();
    for which in asked {
        let (url, _) = url_of(runs, &which).with_context(|| format!("run `{}`", which.run))?;
        // A folder whose run recorded nothing yet has no store; only who asks for it by name is told so.
        let opened = match Store::open_existing(&url, &which.run) {
            Err(_) if !named && store.is_none() => continue,
            opened => opened?,
        };
        let reader = Reader::over(opened).await.with_context(|| format!("run `{}`", which.run))?;
        match reader.entries().is_empty() {
            true if named => bail!("`{url}` holds nothing of run `{}`", which.run),
            true => {}
            false => found.push((url, which.run)),
        }
    }
    let place = store.map_or_else(|| runs.display().to_string(), str::to_string);
    ensure!(!found.is_empty(), "no run in `{place}` has recorded anything; hint: errand imitate, or --runs FOLDER");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_tables_and_columns() {
        let text = tables();
        for part in
            ["trajectories, one row a trajectory: run, split, id,", "turns, one row a turn: run, split, id,", "segments[]", "state_key"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[tokio::test]
    async fn runs_that_hold_nothing_are_passed_over_unless_they_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = |run: &[&str]| Arguments {
            sql: "select 1".into(),
            format: Form::Table,
            run: run.iter().map(ToString::to_string).collect(),
            store: None,
        };
        let none = sources(&arguments(&[]), folder.path()).await.unwrap_err().to_string();
        assert!(none.contains("has recorded anything") && none.contains("hint: "), "{none}");
        std::fs::create_dir_all(folder.path().join("empty")).unwrap();
        let path = folder.path().join("full/trajectories").display().to_string();
        let end: schemas::End = schemas::Message::example();
        let store = Store::open(&path, "full").unwrap();
        store::Writer::open(store, "w").await.unwrap().commit(&[end], 1).await.unwrap();
        let found = sources(&arguments(&[]), folder.path()).await.unwrap();
        assert_eq!(found.iter().map(|(_, run)| run.as_str()).collect::<Vec<_>>(), ["full"]);
        assert!(Path::new(&found[0].0).is_dir());
        assert!(format!("{:#}", sources(&arguments(&["empty"]), folder.path()).await.unwrap_err()).contains("no such folder"));
        let wrong = format!("{:#}", sources(&arguments(&["ful"]), folder.path()).await.unwrap_err());
        assert!(wrong.contains("the nearest name is `full`"), "{wrong}");
    }
}
