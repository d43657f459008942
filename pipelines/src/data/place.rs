//! Where trajectories lie, and the pipeline that they are of.

use crate::data::Which;
use anyhow::{Context, Result, bail};
use env_stepper::again::Again;
use schemas::pipeline::Pipeline;
use std::path::Path;
use store::{Reader, Store};

/// A run's trajectories, opened.
pub(crate) struct Place {
    pub(crate) reader: Reader,
    /// The run's pipeline, from the store or from the run's folder.
    pipeline: Option<Pipeline>,
}

/// Where a run's trajectories lie, and its pipeline where the run's folder has it.
///
/// # Errors
/// No such run, or a folder whose pipeline cannot be read.
pub(crate) fn url_of(runs: &Path, which: &Which) -> Result<(String, Option<Pipeline>)> {
    let folder = runs.join(&which.run);
    let beside = folder.join("pipeline.toml");
    let pipeline = match std::fs::read_to_string(&beside) {
        Ok(text) => Some(crate::config::parse(&text).map_err(|line| anyhow::anyhow!("{}: {line}", beside.display()))?),
        Err(_) => None,
    };
    let url = match (&which.store, &pipeline) {
        (Some(url), _) => url.clone(),
        (None, Some(pipeline)) => crate::summary::store_url(pipeline, &folder),
        (None, None) => crate::summary::folder_of(runs, &which.run)?.join("trajectories").display().to_string(),
    };
    Ok((url, pipeline))
}

impl Place {
    /// Opens a run: in the store that is given, or in that of its folder.
    ///
    /// # Errors
    /// No such run, or a store that cannot be read.
    pub(crate) async fn open(runs: &Path, which: &Which) -> Result<Place> {
        let (url, mut pipeline) = url_of(runs, which)?;
        let store = Store::open_existing(&url, &which.run)?;
        let reader = Reader::over(store.clone()).await?;
        if reader.entries().is_empty() {
            let known = store.runs().await?;
            bail!(
                "`{url}` holds nothing of run `{}`; it has: {}",
                which.run,
                if known.is_empty() { "nothing".into() } else { known.join(", ") }
            );
        }
        // Runs of before schema 2 say nothing of themselves.
        if let Some(about) = store.about().await? {
            pipeline = Some(crate::config::parse(&about.pipeline).map_err(|line| anyhow::anyhow!("the run's own pipeline: {line}"))?);
        }
        Ok(Place { reader, pipeline })
    }

    /// The run's pipeline.
    ///
    /// # Errors
    /// The store does not hold it, nor does a run folder.
    pub(crate) fn pipeline(&self) -> Result<&Pipeline> {
        self.pipeline
            .as_ref()
            .context("the store does not say which pipeline it is of; hint: --runs FOLDER, with the run's pipeline.toml in it")
    }

    /// The means to live its episodes again.
    ///
    /// # Errors
    /// As [`Place::pipeline`], or a world that cannot be made.
    pub(crate) fn again(&self) -> Result<Again> {
        let pipeline = self.pipeline()?;
        Ok(Again::new(pipeline.clone(), crate::kinds::kind(pipeline)?))
    }
}
