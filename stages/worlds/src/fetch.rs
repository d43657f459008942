//! Errands in a house: find a thing, take it with the robot's arm, go to every room; and say that it is done.
//!
//! In: houses, or none and then the built-in generator's. Out: tasks with compiled scenes, and a live [`World`] that tells in
//! few words what the robot's two cameras see (see [`words`]). The world itself pays nothing unless [`Settings::rewards`] asks
//! for it: strict success is then paid by the pipeline's `rewards.success`.

mod houses;
mod pictures;
mod play;
mod sensors;
#[cfg(test)]
mod tests;
mod words;

use crate::{ActionName, Houses, Kind, RewardBounds, Scene, Task, World, kinds};
use household::{
    curriculum::Curriculum,
    fetch::{Episode, FetchTask},
    freeze::Frozen,
    instruct::Colours,
    robot::ACTIONS,
    sample::{Request, Sampled, Tier, chores_shares, draw},
    scene,
    sim::Home,
    tasks::{Preset, Rewards, Task as Errands},
};
use houses::Shelf;
use pictures::Cameras;
use play::Errand;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Houses that are tried for one training task.
const HOUSES_TRIED: u32 = 16;
/// What a search for a training task is called.
const TRAINING: &str = "train";

/// `[world.settings]` of fetch.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What is asked for: `fetch`, `object_nav`, `pick_up`, `room_visit`, or `mix`, one of the four by the task's seed.
    pub task: TaskName,
    /// `near`: the target is in the start's room and the expert needs at most 50 actions. `all`: anywhere.
    pub tier: TierName,
    /// How long sampled tasks are for the expert, where no bucket is asked for.
    pub lengths: Lengths,
    /// How many other things each camera tells of, nearest first: 0 to 4.
    pub others: usize,
    /// Columns and rows of a picture, where `world.pictures` is set.
    pub width: u32,
    pub height: u32,
    /// Who pays: `pipeline`, its `rewards.success`; or this world, 10 for success and the shaping of a preset.
    pub rewards: Pay,
    /// What training tasks are sorted by for the curriculum.
    pub curriculum: Curriculum,
    /// Sampled tasks tell the target from others of its type, where the house has some: on, near, closest to.
    pub described: bool,
    /// What is taken is brought to the start and let go of there.
    pub bring: bool,
    /// Whether training pictures show other materials and lights than the house's own in four episodes of five.
    pub randomise: bool,
}

/// A tier's name in a pipeline file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierName {
    Near,
    All,
}

impl TierName {
    fn tier(self) -> Tier {
        match self {
            TierName::Near => Tier::Near,
            TierName::All => Tier::All,
        }
    }
}

/// How long sampled tasks are, in a pipeline file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// As starts and targets come.
    Drawn,
    /// Short, medium and long ones in the shares of CHORES-S, as in the evaluation's files.
    Chores,
}

/// A kind of errand in a pipeline file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskName {
    Fetch,
    ObjectNav,
    PickUp,
    RoomVisit,
    Mix,
}

/// Who pays for what, in a pipeline file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pay {
    /// `rewards.success` of the pipeline; the world pays nothing.
    Pipeline,
    /// 10 for success.
    Sparse,
    /// And SPOC's shaping.
    Spoc,
    /// And 5 for the way, paid as it is gone.
    Potential,
}

impl Pay {
    fn preset(self) -> Option<Preset> {
        match self {
            Pay::Pipeline => None,
            Pay::Sparse => Some(Preset::Sparse),
            Pay::Spoc => Some(Preset::Spoc),
            Pay::Potential => Some(Preset::Potential),
        }
    }
}

impl TaskName {
    /// The errands that it stands for.
    fn errands(self) -> &'static [Errands] {
        match self {
            TaskName::Fetch => &[Errands::Fetch],
            TaskName::ObjectNav => &[Errands::ObjectNav],
            TaskName::PickUp => &[Errands::PickUp],
            TaskName::RoomVisit => &[Errands::RoomVisit],
            TaskName::Mix => &Errands::ALL,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            task: TaskName::Fetch,
            tier: TierName::Near,
            lengths: Lengths::Drawn,
            others: 2,
            width: 384,
            height: 224,
            rewards: Pay::Pipeline,
            curriculum: Curriculum::Length,
            described: false,
            bring: false,
            randomise: true,
        }
    }
}

/// A task's JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// `generated:93`, `held-out:7`, `train.jsonl.gz:17`.
    house: String,
    /// blake3 of the compiled house, where a frozen file says which it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Seed of materials and lights; none: the house's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    look: Option<u64>,
    fetch: FetchTask,
}

/// The kind `fetch`.
pub struct Fetch {
    settings: Settings,
    shelf: Shelf,
    actions: Vec<ActionName>,
    /// Of the pictures; `None`: text only.
    pictures: Option<render::Size>,
}

/// Text and pictures tell no colour words: things are told apart by where they are.
const NO_COLOURS: Colours<'static> = &|_| None;

fn line(error: impl std::fmt::Display) -> String {
    format!("fetch: {error}")
}

impl Fetch {
    /// # Errors
    /// A line that names the setting and what is allowed.
    pub fn new(pictures: bool, table: &toml::Table, houses: Houses) -> Result<Fetch, String> {
        let settings: Settings = kinds::settings("fetch", table)?;
        kinds::within("others", settings.others, 0, words::MOST_OTHERS)?;
        let buckets = settings.curriculum.buckets(settings.tier.tier(), settings.task.errands(), settings.bring);
        buckets.map_err(|what| format!("world.settings.curriculum: {what}"))?;
        if settings.lengths == Lengths::Chores && (settings.tier == TierName::Near || settings.bring) {
            return Err("fetch: world.settings.lengths `chores` is for tier `all` and without `bring`; hint: `drawn`".into());
        }
        let size = pictures::size(settings.width, settings.height)?;
        let actions = ACTIONS.iter().map(|spelling| ActionName {
            name: spelling.name,
            aliases: spelling.aliases,
            ends_reply: spelling.action.ends_reply(),
        });
        Ok(Fetch { settings, shelf: Shelf::new(houses), actions: actions.collect(), pictures: pictures.then_some(size) })
    }

    fn tier(&self) -> Tier {
        self.settings.tier.tier()
    }

    fn task(&self, seed: u64, house: String, training: bool, sampled: Sampled) -> Result<Task, String> {
        let look = (training && self.settings.randomise && self.pictures.is_some()).then_some(seed);
        let description = Description { house, digest: None, look, fetch: sampled.task };
        let json = serde_json::to_string(&description).map_err(line)?;
        Ok(Task { seed, json, bucket: sampled.bucket.into(), expert_length: sampled.expert_length })
    }

    /// A held-out task from a line of an episode file.
    fn frozen(&self, number: u64, text: &str) -> Result<Task, String> {
        let frozen = Frozen::from_line(text).map_err(line)?;
        let fetch = frozen.task().map_err(line)?;
        let description = Description { house: frozen.house_origin, digest: Some(frozen.house_digest), look: None, fetch };
        let json = serde_json::to_string(&description).map_err(line)?;
        Ok(Task { seed: number, json, bucket: frozen.expert_length_bucket, expert_length: frozen.expert_length })
    }

    /// Draws tasks in one house after another until one can be done.
    fn search(
        &self,
        seed: u64,
        what: &str,
        bucket: Option<&str>,
        house: impl Fn(&mut ChaCha8Rng, u32) -> Result<String, String>,
    ) -> Result<Task, String> {
        let digest = blake3_seed(&format!("fetch/{what}/{seed}"));
        let mut rng = ChaCha8Rng::from_seed(digest);
        let mut last = String::new();
        let errands = self.settings.task.errands();
        // Drawn once, or the lengths that few houses have would give way to others.
        let share = (self.settings.lengths == Lengths::Chores).then(|| rng.random_range(0..100));
        for attempt in 0..HOUSES_TRIED {
            let origin = house(&mut rng, attempt)?;
            let errand = errands[rng.random_range(0..errands.len())];
            let length = share.and_then(|share| length_at(errand, share));
            let sampled = self.shelf.home(&origin).and_then(|home| self.draw(&home, errand, (bucket, length), &mut rng));
            match sampled {
                Ok(sampled) => return self.task(seed, origin, what == TRAINING, sampled),
                Err(error) => last = format!("{origin}: {error}"),
            }
        }
        Err(format!("fetch: no task of seed {seed} in {HOUSES_TRIED} houses; the last: {last}"))
    }

    /// An episode in one house, of a bucket of the curriculum if one is given (only training asks for them), else of a length.
    fn draw(
        &self,
        home: &Arc<Home>,
        errand: Errands,
        (bucket, length): (Option<&str>, Option<&str>),
        rng: &mut ChaCha8Rng,
    ) -> Result<Sampled, String> {
        let described = (self.settings.described && errand != Errands::RoomVisit).then_some(NO_COLOURS);
        let bring = self.settings.bring && errand.takes();
        let request = Request { bring, described, ..Request::new(errand, self.tier()) };
        match bucket {
            None => draw(home, &Request { bucket: length, ..request }, rng),
            Some(bucket) => self.settings.curriculum.draw(home, &request, bucket, rng),
        }
        .map_err(line)
    }

    fn describe(&self, task: &Task) -> Result<Description, String> {
        serde_json::from_str(&task.json).map_err(|error| format!("fetch task: {error}"))
    }
}

/// The bucket that has the `share`-th of a hundred episodes.
fn length_at(errand: Errands, share: usize) -> Option<&'static str> {
    let shares = chores_shares(errand)?;
    let bucket = (0..shares.len()).find(|&bucket| share < shares[..=bucket].iter().sum())?;
    Some(Tier::All.buckets()[bucket].name)
}

fn blake3_seed(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

impl Kind for Fetch {
    fn name(&self) -> &'static str {
        "fetch"
    }

    fn actions(&self) -> &[ActionName] {
        &self.actions
    }

    fn rules(&self) -> String {
        words::rules(self.settings.task.errands())
    }

    fn reward_bounds(&self, steps: u32) -> RewardBounds {
        let Some(preset) = self.settings.rewards.preset() else { return RewardBounds { worst_success: 0.0, best_failure: 0.0 } };
        let bounds = self.settings.task.errands().iter().map(|&errand| Rewards::bounds(preset, errand, steps.min(errand.step_limit())));
        // Members of a group have one errand: the narrowest gap counts.
        let (worst, best) = bounds.min_by(|one, other| (one.0 - one.1).total_cmp(&(other.0 - other.1))).unwrap_or((0.0, 0.0));
        RewardBounds { worst_success: worst as f32, best_failure: best as f32 }
    }

    fn sample(&self, seed: u64, bucket: Option<&str>) -> Result<Task, String> {
        if let Some(name) = bucket
            && !self.buckets().iter().any(|known| known == name)
        {
            return Err(format!("fetch has no bucket `{name}`: allowed are {}", self.buckets().join(", ")));
        }
        self.search(seed, TRAINING, bucket, |rng, _| Ok(self.shelf.train_origin(rng.random_range(0..self.shelf.train_count()))))
    }

    fn held_out(&self, number: u64) -> Result<Task, String> {
        let lines = self.shelf.validation();
        if lines.is_empty() {
            return self.search(number, "held out", None, |_, attempt| Ok(self.shelf.held_out_origin(number, attempt)));
        }
        let text = usize::try_from(number).ok().and_then(|index| lines.get(index));
        let text =
            text.ok_or_else(|| format!("fetch: episode {number} of a frozen file of {}; hint: lower `episodes.validation`", lines.len()))?;
        self.frozen(number, text)
    }

    fn buckets(&self) -> Vec<String> {
        let settings = &self.settings;
        let buckets = settings.curriculum.buckets(self.tier(), settings.task.errands(), settings.bring);
        buckets.unwrap_or_default().into_iter().map(str::to_string).collect()
    }

    fn scene(&self, task: &Task) -> Result<Option<Scene>, String> {
        let description = self.describe(task)?;
        let home = self.shelf.home(&description.house)?;
        let bytes = home.scene.to_bytes();
        if description.digest.is_some_and(|digest| digest != household::freeze::digest(&bytes)) {
            return Err(format!(
                "fetch: house {} is not the one that the episode file was made with; hint: make the file again",
                description.house
            ));
        }
        Ok(Some(Scene { origin: description.house, bytes }))
    }

    fn start(&self, task: &Task, scene: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        let description = self.describe(task)?;
        let bytes = scene.ok_or_else(|| format!("fetch: task in house {} came without its scene", description.house))?;
        let home = self.shelf.opened(bytes, || scene::Scene::from_bytes(bytes).map(Home::new).map_err(line))?;
        let episode =
            Episode::start(home, Arc::new(description.fetch)).map_err(|error| format!("fetch in house {}: {error}", description.house))?;
        let cameras = self.pictures.map(|size| Cameras::new(&episode.sim.home.scene, description.look, size));
        let rewards = self.settings.rewards.preset().map(|preset| Rewards::new(preset, &episode));
        Ok(Box::new(Errand::new(episode, rewards, self.settings.others, cameras)))
    }

    fn corpus(&self, lines: usize) -> Vec<String> {
        words::corpus(self, lines)
    }
}
