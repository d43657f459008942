//! `errand rm`: all of a run.

use anyhow::{Context, Result, bail};
use std::path::Path;

/// Removes the run's streams and buckets where a server is given, and its folder.
pub(crate) async fn remove(runs: &Path, run: &str, nats: Option<&str>) -> Result<String> {
    let mut removed = Vec::new();
    if let Some(url) = nats {
        kit::remove(&crate::up::connect(url).await?, run).await?;
        removed.push(format!("streams and buckets on {url}"));
    }
    let folder = runs.join(run);
    if folder.is_dir() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("`{}` cannot be removed", folder.display()))?;
        removed.push(folder.display().to_string());
    }
    if removed.is_empty() {
        bail!("no run `{run}` in {}; hint: with --nats its streams are removed too", runs.display());
    }
    Ok(format!("removed {}", removed.join(" and ")))
}
