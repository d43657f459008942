//! The replayer's work off its loop: opening the store, and reading the next trajectories from it.

use crate::plan::Plan;
use env_stepper::again::Again;
use futures::TryStreamExt;
use kit::stage::Work;
use schemas::pipeline::{OfflineConfig, Pipeline};
use schemas::{End, EpisodeId, Mode};
use std::any::Any;
use store::{Blocking, Reader, Store, Summary};

/// What is published is checked against these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) tokenizer: String,
    pub(crate) template: String,
    pub(crate) image_processor: String,
}

/// An opened store.
pub(crate) struct Source {
    runtime: Blocking,
    reader: Reader,
    /// Where pictures have to be rendered again.
    again: Option<Again>,
}

/// An order, or its result.
pub(crate) enum Task {
    Open {
        url: String,
        run: String,
        config: OfflineConfig,
        mode: Mode,
        pipeline: Box<Pipeline>,
        digests: Digests,
    },
    Read {
        source: Box<Source>,
        ids: Vec<EpisodeId>,
    },
    Opened {
        source: Box<Source>,
        plan: Plan,
    },
    HaveRead {
        source: Box<Source>,
        ends: Vec<End>,
    },
    /// One line for people.
    Failed(String),
}

impl Work for Task {
    fn run(self: Box<Self>) -> Box<dyn Work> {
        let done = match *self {
            Task::Open { url, run, config, mode, pipeline, digests } => open(&url, &run, &config, mode, &pipeline, &digests),
            Task::Read { source, ids } => read(source, &ids),
            done => Ok(done),
        };
        Box::new(done.unwrap_or_else(Task::Failed))
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn open(url: &str, run: &str, config: &OfflineConfig, mode: Mode, pipeline: &Pipeline, digests: &Digests) -> Result<Task, String> {
    let runtime = Blocking::new()?;
    let said = |error: store::Error| error.to_string();
    let store = Store::open_existing(url, run).map_err(said)?;
    let about = runtime.block_on(store.about()).map_err(said)?;
    let about =
        about.ok_or_else(|| format!("`{url}` does not say what run `{run}` is, so its tokens cannot be told from another tokenizer's"))?;
    if let Some(misfit) = about.misfit(&digests.tokenizer, &digests.template, &digests.image_processor) {
        return Err(format!("{misfit}; hint: `errand data retokenize` makes a dataset for this policy"));
    }
    let reader = runtime.block_on(Reader::over(store)).map_err(said)?;
    let rows: Vec<Summary> = runtime.block_on(reader.summaries().try_collect()).map_err(said)?;
    let plan = Plan::new(config, mode, &rows);
    let again = if pipeline.world.pictures {
        let recorded = Pipeline::parse(&about.pipeline).map_err(|error| format!("the pipeline of run `{run}`: {error}"))?;
        let kind = scene_loader::kind(&recorded)?;
        Some(Again::new(recorded, kind))
    } else {
        None
    };
    Ok(Task::Opened { source: Box::new(Source { runtime, reader, again }), plan })
}

fn read(source: Box<Source>, ids: &[EpisodeId]) -> Result<Task, String> {
    let mut ends = source.runtime.block_on(source.reader.ends(ids)).map_err(|error| error.to_string())?;
    if ends.len() != ids.len() {
        return Err(format!("of {} trajectories {} are there no more", ids.len(), ids.len() - ends.len()));
    }
    if let Some(again) = &source.again {
        ends.iter_mut().try_for_each(|end| render(again, end))?;
    }
    Ok(Task::HaveRead { source, ends })
}

/// Gives an end the pictures that its record left out.
fn render(again: &Again, end: &mut End) -> Result<(), String> {
    let lacks = end.turns.iter().flat_map(|turn| &turn.frames).any(|digest| end.frames.iter().all(|frame| frame.digest != *digest));
    if lacks {
        let scene = again.scene(&end.episode)?;
        end.frames = again.frames(end, scene.as_deref())?;
    }
    Ok(())
}
