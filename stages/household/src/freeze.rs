//! Frozen episode files: one JSON object a line in the form of CHORES, made anew by anyone.
//!
//! One episode a house, from generated held-out houses. The same count, task and tier give the same bytes, and each line
//! carries the digest of its compiled house, so that a changed generator is noticed rather than played. The shares of short,
//! medium and long episodes are those of CHORES-S.

use crate::{
    chores,
    error::Error,
    generator::{HouseSplit, generate_compiled},
    instruct::{Colours, Wording, hypernym, synset},
    robot::PIVOT_HEIGHT,
    sample::{Request, Sampled, Tier, chores_shares, draw},
    scene::{Scene, Thing},
    sim::Home,
    tasks::{Arm, Spec, Task},
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// One line of an episode file: what CHORES has, and which house it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frozen {
    pub task_type: String,
    pub house_index: u64,
    /// `held-out:7`, or a file and its line.
    pub house_origin: String,
    /// blake3 of the compiled house, hex.
    pub house_digest: String,
    pub agent_starting_position: [f64; 3],
    pub agent_y_rotation: f64,
    pub expert_length_bucket: String,
    pub expert_length: u32,
    pub synsets: Vec<String>,
    pub synset_to_object_ids: BTreeMap<String, Vec<String>>,
    pub broad_synset_to_object_ids: BTreeMap<String, Vec<String>>,
    pub extras: Extras,
    pub natural_language_spec: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hypernyms: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Extras {
    /// Empty in RoomVisit.
    pub chosen_object_id: String,
    /// The object type asked for; empty in RoomVisit.
    pub target: String,
    /// Seed of the cameras' tilt, as text since it needs 64 bits.
    pub camera_seed: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bring: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<Arm>,
}

impl Frozen {
    /// # Errors
    /// The line is no episode; the message names the key.
    pub fn from_line(line: &str) -> Result<Frozen, Error> {
        let frozen: Frozen = serde_json::from_str(line).map_err(|error| Error::Scene { what: format!("frozen episode: {error}") })?;
        chores::Row { task_type: frozen.task_type.clone(), ..chores::Row::default() }.task()?;
        Ok(frozen)
    }

    /// # Errors
    /// The camera seed is no number, or the task is not known.
    pub fn task(&self) -> Result<Spec, Error> {
        let seed = self.extras.camera_seed.parse().map_err(|_| Error::key("extras.camera_seed", "must be a whole number as text"))?;
        let task = Task::named(&self.task_type).ok_or_else(|| Error::key("task_type", format!("`{}` is not known", self.task_type)))?;
        Ok(Spec {
            task,
            target: self.extras.target.clone(),
            ids: self.broad_synset_to_object_ids.values().flatten().cloned().collect(),
            instruction: self.natural_language_spec.clone(),
            start: [self.agent_starting_position[0], self.agent_starting_position[2]],
            yaw: self.agent_y_rotation,
            seed,
            arm: self.extras.arm,
            bring: self.extras.bring,
            ..Spec::default()
        })
    }
}

/// The hex digest of a compiled scene's bytes.
pub fn digest(scene: &[u8]) -> String {
    blake3::hash(scene).to_hex().to_string()
}

/// What is different in the episodes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// The tier's own.
    #[default]
    Plain,
    /// Anywhere in the house, and one thing of several of its type is meant, told by where it is.
    Described,
    /// Anywhere in the house, and what is taken is brought to the start.
    Bring,
    /// Anywhere in the house, in words that the templates do not have.
    Paraphrased,
}

impl Variant {
    /// By the name that a file has in the place of its tier: `near`, `all`, `described`, `bring`, `paraphrased`.
    pub fn named(name: &str) -> Option<(Tier, Variant)> {
        Some(match name {
            "near" => (Tier::Near, Variant::Plain),
            "all" => (Tier::All, Variant::Plain),
            "described" => (Tier::All, Variant::Described),
            "bring" => (Tier::All, Variant::Bring),
            "paraphrased" => (Tier::All, Variant::Paraphrased),
            _ => return None,
        })
    }

    /// `fetch-described`; of the plain one [`label`].
    pub fn label(self, task: Task, tier: Tier) -> String {
        let name = match self {
            Variant::Plain => return label(task, tier),
            Variant::Described => "described",
            Variant::Bring => "bring",
            Variant::Paraphrased => "paraphrased",
        };
        format!("{}-{name}", task.name().replace('_', "-"))
    }

    /// # Errors
    /// The task has no such episodes.
    fn check(self, task: Task) -> Result<(), Error> {
        let what = match self {
            Variant::Described if task == Task::RoomVisit => "room_visit asks for no thing that could be described",
            Variant::Bring if !task.takes() => "only fetch and pick_up take something that could be brought",
            _ => return Ok(()),
        };
        Err(Error::Scene { what: what.into() })
    }

    fn request(self, task: Task, tier: Tier) -> Request<'static> {
        // Colours are the eye's business, and text has none: a frozen description tells where a thing is.
        const NO_COLOURS: Colours<'static> = &|_| None;
        let plain = Request::new(task, tier);
        match self {
            Variant::Plain => plain,
            Variant::Described => Request { described: Some(NO_COLOURS), ..plain },
            Variant::Bring => Request { bring: true, ..plain },
            Variant::Paraphrased => Request { wording: Wording::Paraphrase, ..plain },
        }
    }

    /// Draws in one house until there is an episode of this variant.
    fn draw(self, home: &Arc<Home>, request: &Request, rng: &mut ChaCha8Rng) -> Option<Sampled> {
        if self != Variant::Described {
            return draw(home, request, rng).ok();
        }
        /// Many draws are of types of which the house has one only.
        const DRAWS: u32 = 6;
        (0..DRAWS).find_map(|_| draw(home, request, rng).ok().filter(|sampled| singled_out(home, &sampled.task)))
    }
}

/// Whether one thing counts and others of its type, which could be asked for as well, do not.
fn singled_out(home: &Home, task: &Spec) -> bool {
    let alike = |thing: &&Thing| thing.kind == task.target && (thing.pickupable || !task.task.takes());
    task.ids.len() == 1 && home.scene.things.iter().filter(alike).count() > 1
}

/// What a task of a tier is called in seeds and files: `fetch-near`.
pub fn label(task: Task, tier: Tier) -> String {
    let tier = match tier {
        Tier::Near => "near",
        Tier::All => "all",
    };
    format!("{}-{tier}", task.name().replace('_', "-"))
}

/// Shares of a file's buckets; `None`: as they come, the way back included.
fn shares(task: Task, tier: Tier, variant: Variant) -> Option<[usize; 3]> {
    if variant == Variant::Bring || tier == Tier::Near { None } else { chores_shares(task) }
}

/// How many of each bucket are still wanted.
struct Quota {
    left: Option<[usize; 3]>,
}

impl Quota {
    fn new(task: Task, tier: Tier, variant: Variant, count: usize) -> Quota {
        let left = shares(task, tier, variant).map(|shares| {
            let long = (shares[2] * count + 50) / 100;
            let short = (shares[0] * count + 50) / 100;
            [short, count - short - long, long]
        });
        Quota { left }
    }

    /// The buckets to try, the one of which most is left first; long ones before that, since few houses have them.
    fn order(&self) -> Vec<Option<&'static str>> {
        let Some(left) = self.left else { return vec![None] };
        let mut order: Vec<usize> = (0..3).filter(|&bucket| left[bucket] > 0).collect();
        order.sort_by_key(|&bucket| (bucket != 2, std::cmp::Reverse(left[bucket])));
        order.into_iter().map(|bucket| Some(Tier::All.buckets()[bucket].name)).collect()
    }

    fn take(&mut self, bucket: &str) {
        if let Some(left) = &mut self.left
            && let Some(index) = Tier::All.buckets().iter().position(|known| known.name == bucket)
        {
            left[index] = left[index].saturating_sub(1);
        }
    }
}

/// Makes an episode file of `count` lines of Fetch, see [`freeze_task`].
///
/// # Errors
/// As [`freeze_task`].
pub fn freeze(tier: Tier, count: usize) -> Result<String, Error> {
    freeze_task(Task::Fetch, tier, count)
}

/// Makes an episode file of `count` lines from generated held-out houses, one episode a house.
///
/// # Errors
/// Ten times as many houses as asked for did not give that many episodes.
pub fn freeze_task(task: Task, tier: Tier, count: usize) -> Result<String, Error> {
    freeze_first(task, tier, count, count)
}

/// The same of a variant.
///
/// # Errors
/// As [`freeze_task`], or the task has no such variant.
pub fn freeze_variant(task: Task, tier: Tier, variant: Variant, count: usize) -> Result<String, Error> {
    freeze_lines(task, tier, variant, count, count)
}

/// The first `lines` lines of a file of `count`.
///
/// # Errors
/// As [`freeze_task`].
pub fn freeze_first(task: Task, tier: Tier, count: usize, lines: usize) -> Result<String, Error> {
    freeze_lines(task, tier, Variant::Plain, count, lines)
}

fn freeze_lines(task: Task, tier: Tier, variant: Variant, count: usize, lines: usize) -> Result<String, Error> {
    variant.check(task)?;
    let mut text = String::new();
    let mut made = 0;
    let mut quota = Quota::new(task, tier, variant, count);
    for number in 0..10 * count as u64 {
        if made == lines {
            break;
        }
        let Ok((_, scene)) = generate_compiled(HouseSplit::HeldOut, number) else { continue };
        let origin = format!("{}:{number}", HouseSplit::HeldOut.label());
        if let Some(frozen) = freeze_house(scene, number, &origin, (task, tier, variant), &quota.order()) {
            quota.take(&frozen.expert_length_bucket);
            text.push_str(&serde_json::to_string(&frozen).expect("an episode has string keys and finite numbers only"));
            text.push('\n');
            made += 1;
        }
    }
    if made == lines { Ok(text) } else { Err(Error::NoEpisode { bucket: variant.label(task, tier), tries: 10 * count as u32 }) }
}

/// An episode of Fetch in one house, by a seed made of the house's origin; `None` where the house has none.
pub fn freeze_one(scene: Scene, number: u64, origin: &str, tier: Tier) -> Option<Frozen> {
    freeze_house(scene, number, origin, (Task::Fetch, tier, Variant::Plain), &[None])
}

/// An episode in one house, of the first of these buckets that it has.
fn freeze_house(
    scene: Scene,
    number: u64,
    origin: &str,
    (task, tier, variant): (Task, Tier, Variant),
    buckets: &[Option<&str>],
) -> Option<Frozen> {
    let house_digest = digest(&scene.to_bytes());
    let seed = blake3::hash(format!("{}/{origin}", variant.label(task, tier)).as_bytes());
    let mut rng = ChaCha8Rng::from_seed(*seed.as_bytes());
    let home = Arc::new(Home::new(scene));
    let request = variant.request(task, tier);
    let sampled = buckets.iter().find_map(|&bucket| variant.draw(&home, &Request { bucket, ..request }, &mut rng))?;
    Some(line(sampled, number, origin, house_digest))
}

fn line(sampled: Sampled, number: u64, origin: &str, house_digest: String) -> Frozen {
    let Sampled { task, chosen, bucket, expert_length } = sampled;
    let synsets: Vec<String> = (task.task != Task::RoomVisit).then(|| synset(&task.target)).into_iter().collect();
    let ids: BTreeMap<String, Vec<String>> = synsets.iter().map(|synset| (synset.clone(), task.ids.clone())).collect();
    Frozen {
        task_type: task.task.file_name().into(),
        house_index: number,
        house_origin: origin.into(),
        house_digest,
        agent_starting_position: [task.start[0], PIVOT_HEIGHT, task.start[1]],
        agent_y_rotation: task.yaw,
        expert_length_bucket: bucket.into(),
        expert_length,
        synsets,
        synset_to_object_ids: ids.clone(),
        broad_synset_to_object_ids: ids,
        hypernyms: hypernym(&task.target).map(str::to_owned).into_iter().collect(),
        extras: Extras {
            chosen_object_id: chosen,
            camera_seed: task.seed.to_string(),
            bring: task.bring,
            arm: task.arm,
            target: task.target,
        },
        natural_language_spec: task.instruction,
    }
}
