//! `errand data retokenize`: recorded episodes as a dataset for another tokenizer, prompt or reply format.
//!
//! Tokens are not turned into other tokens: the episodes are lived again from what was done in each turn, through another
//! pipeline's own prompt, renderer and limits. Of what a reply said beside its actions nothing is kept but a true observation.

use crate::data::Which;
use crate::data::place::Place;
use crate::loopback::Loopback;
use crate::{artifacts, config};
use anyhow::{Result, bail};
use clap::Args;
use futures::TryStreamExt;
use schemas::{End, Episode, EpisodeId, Mode, PolicyPin, Split};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use store::{Store, Writer};
use worlds::{AroundKind, AroundWorld, Kind, Plan, Task, World};

/// What `errand data retokenize` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Whose tokenizer, prompt and limits are used; its world must be the same.
    #[arg(long)]
    pipeline: PathBuf,
    /// The new run's name.
    #[arg(long)]
    name: String,
    /// Where it is kept: a path or URL.
    #[arg(long)]
    out: String,
    #[command(flatten)]
    filter: crate::data::export::Filter,
}

/// Episodes that are lived at once.
const CHUNK: usize = 64;

/// Makes the dataset and says what came of it.
///
/// # Errors
/// A run or a pipeline that cannot be used, or worlds that differ.
pub(crate) async fn retokenize(arguments: &Arguments, runs: &Path) -> Result<()> {
    let place = Place::open(runs, &arguments.which).await?;
    let again = place.again()?;
    let loaded = config::load(&arguments.pipeline)?;
    let (theirs, ours) = (&again.pipeline().world, &loaded.pipeline.world);
    if theirs.name != ours.name {
        bail!("run `{}` is of world `{}`, {} has `{}`", arguments.which.run, theirs.name, arguments.pipeline.display(), ours.name);
    }
    let store = Store::open(&arguments.out, &arguments.name)?;
    let recorded = Arc::new(Recorded::new(again.kind().clone()));
    crate::data::describe(&store, &loaded, &artifacts::prepare(&loaded.pipeline, again.kind().as_ref())?).await?;
    let mut writer = Writer::open(store, "retokenize").await?;
    let mut loopback = Loopback::new(&loaded.pipeline, recorded.clone())?;
    let filter = arguments.filter.clone();
    let chunks = place.reader.trajectories_where(move |row| filter.takes(row)).try_chunks(CHUNK);
    let mut chunks = std::pin::pin!(chunks);
    let (mut number, mut same) = (0, 0);
    while let Some(chunk) = chunks.try_next().await.map_err(|error| error.1)? {
        let mut ordered = Vec::new();
        for end in &chunk {
            let scene = again.scene(&end.episode).map_err(anyhow::Error::msg)?;
            ordered.push((recorded.order(end, number), scene));
            number += 1;
        }
        let mut ends = loopback.play(ordered)?;
        for (new, old) in ends.iter_mut().zip(&chunk) {
            new.episode.bucket.clone_from(&old.episode.bucket);
            new.note = format!("recorded as {}", old.id());
            same += u64::from(new.success == old.success && new.steps == old.steps);
        }
        writer.commit(&ends, 0).await?;
    }
    println!("{number} episodes written to `{}` as run `{}`; {same} ended as they had", arguments.out, arguments.name);
    Ok(())
}

/// What is left to do of an episode: the actions of each turn.
type Deeds = VecDeque<VecDeque<String>>;

/// A kind of world whose expert does what was recorded.
pub(crate) struct Recorded {
    kind: Arc<dyn Kind>,
    /// By the name that stands in the place of the bucket: it alone tells two episodes of one task apart.
    deeds: Mutex<BTreeMap<String, Deeds>>,
}

impl Recorded {
    pub(crate) fn new(kind: Arc<dyn Kind>) -> Recorded {
        Recorded { kind, deeds: Mutex::default() }
    }

    /// What is to be done in the episode whose bucket has this name, turn by turn.
    pub(crate) fn keep(&self, name: &str, turns: impl IntoIterator<Item = Vec<String>>) {
        let deeds = turns.into_iter().map(VecDeque::from).collect();
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_string(), deeds);
    }

    fn order(&self, end: &End, number: u64) -> Episode {
        let name = format!("recorded {number}");
        self.keep(&name, end.turns.iter().filter(|turn| !turn.executed.is_empty()).map(|turn| turn.executed.clone()));
        Episode {
            id: EpisodeId { split: Split::Expert, number },
            group: number,
            member: 0,
            group_size: 1,
            mode: Mode::Expert,
            policy: PolicyPin::Latest,
            bucket: name,
            validates: 0,
            handed_back: 0,
            epoch: 0,
            ..end.episode.clone()
        }
    }
}

impl AroundKind for Recorded {
    fn inner(&self) -> &dyn Kind {
        self.kind.as_ref()
    }

    fn start(&self, task: &Task, scene: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        let deeds = self.deeds.lock().unwrap_or_else(PoisonError::into_inner).remove(&task.bucket);
        let deeds = deeds.ok_or_else(|| format!("no record of `{}`", task.bucket))?;
        Ok(Box::new(Lived { world: self.kind.start(task, scene)?, deeds }))
    }
}

struct Lived {
    world: Box<dyn World>,
    deeds: Deeds,
}

impl AroundWorld for Lived {
    fn inner(&self) -> &dyn World {
        self.world.as_ref()
    }

    fn inner_mut(&mut self) -> &mut dyn World {
        self.world.as_mut()
    }

    /// The rest of the recorded turn, or as much of it as a reply may hold.
    fn expert(&mut self, actions: usize) -> Plan {
        let Some(turn) = self.deeds.front_mut() else { return Plan::default() };
        let taken: Vec<String> = turn.drain(..actions.min(turn.len())).collect();
        if turn.is_empty() {
            self.deeds.pop_front();
        }
        let words = self.world.expert(actions);
        Plan { actions: taken, observation: words.observation, reasoning: String::new(), prediction: String::new() }
    }
}
