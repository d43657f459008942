//! `errand audit`: does a run's record hold together?
//!
//! In: the committed rows of the store, the uses of the learner's newest checkpoint and its log, the policies and ends
//! streams, and what the scene-loader says it has published. Out: a list of named checks, each passed or failed with what
//! was found. Nothing is repaired.

mod checks;
mod facts;

use anyhow::Result;
use std::path::Path;

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    /// What was looked at where it holds; every kind of breach, with examples, where it does not.
    pub(crate) outcome: Result<String, String>,
}

/// All checks, in the order in which an episode travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditReport {
    pub(crate) checks: Vec<Check>,
}

impl AuditReport {
    pub(crate) fn is_clean(&self) -> bool {
        self.checks.iter().all(|check| check.outcome.is_ok())
    }

    /// A line a check: `ok` or `FAIL`, its name, what was found.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |check: &Check| match &check.outcome {
            Ok(found) => format!("ok    {:<32} {found}", check.name),
            Err(breach) => format!("FAIL  {:<32} {breach}", check.name),
        };
        self.checks.iter().map(line).collect()
    }
}

/// Audits a run. `folder`: the run's own files; `url`: its trajectory store.
///
/// # Errors
/// Where something to be audited cannot be read; a breach is no error but a failed check.
pub(crate) async fn audit(folder: &Path, url: &str, client: &async_nats::Client, run: &str) -> Result<AuditReport> {
    let facts = facts::gather(folder, url, client, run).await?;
    Ok(AuditReport { checks: checks::all(&facts) })
}
