//! The trajectory store: the durable record of a run, readable by anything that reads Parquet.
//!
//! In: [`schemas::End`]s. Out: one Parquet row a trajectory and one a turn (the columns are in `README.md`), in files that
//! become visible together by one manifest entry. Several writers may write to one store at once: an entry's number is
//! taken by put-if-absent, and a writer that loses the race reads the winner's entry, drops what that one committed, and
//! takes the next number. So every episode is in the visible files once, whoever crashes where.
//!
//! This crate knows no broker and no stage.

mod about;
mod blocking;
mod build;
mod compact;
pub mod export;
mod ids;
pub mod import;
mod location;
mod manifest;
mod parse;
mod ranged;
mod reader;
mod schema;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use about::About;
pub use blocking::Blocking;
pub use build::level_of;
pub use compact::Compaction;
pub use ids::{Committed, IdSet};
pub use location::Store;
pub use manifest::{Entry, FileEntry, Kind};
pub use parse::{Summary, TurnRow};
pub use reader::Reader;
pub use schema::{SCHEMA_VERSION, trajectories_schema, turns_schema};
pub use writer::Writer;

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{url}` is no place for a store: {reason}; hint: a path, or a URL that starts with file:, s3:, gs:, az: or memory:")]
    Location { url: String, reason: String },
    #[error("cannot write `{path}` in `{store}`: {reason}{hint}")]
    Write { store: String, path: String, reason: String, hint: &'static str },
    #[error("cannot read `{path}` in `{store}`: {reason}")]
    Read { store: String, path: String, reason: String },
    #[error("`{path}` is not what this release writes: {reason}")]
    Malformed { path: String, reason: String },
    #[error(
        "`{path}` has schema version {found}, this build reads up to {known}; hint: read it with the release that wrote it, or a newer one"
    )]
    Schema { path: String, found: u32, known: u32 },
    #[error("cannot export to `{path}`: {reason}")]
    Export { path: String, reason: String },
    #[error("cannot put the ends into columns: {0}")]
    Columns(String),
}

/// The reasons in a chain of errors, outermost first, in one line; a reason that repeats the one before is left out.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line.replace('\n', " ")
}
