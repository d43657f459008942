//! Frozen episode files: JSON lines in the form of CHORES, with the house they are played in.
//!
//! One episode a house, from generated held-out houses. The same count and tier give the same bytes, and each line carries
//! the digest of its compiled house, so that a changed generator is noticed rather than played.

use crate::{
    error::Error,
    fetch::FetchTask,
    generator::{HouseSplit, generate_compiled},
    robot::PIVOT_HEIGHT,
    sample::{Sampled, Tier, sample, synset},
    scene::Scene,
    sim::Home,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// One line of an episode file.
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
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Extras {
    pub chosen_object_id: String,
    /// The object type asked for.
    pub target: String,
    /// Seed of the cameras' tilt, as text since it needs 64 bits.
    pub camera_seed: String,
}

impl Frozen {
    /// # Errors
    /// The line is no episode; the message names the key.
    pub fn from_line(line: &str) -> Result<Frozen, Error> {
        serde_json::from_str(line).map_err(|error| Error::Scene { what: format!("frozen episode: {error}") })
    }

    /// # Errors
    /// The camera seed is no number.
    pub fn task(&self) -> Result<FetchTask, Error> {
        let seed = self.extras.camera_seed.parse().map_err(|_| Error::key("extras.camera_seed", "must be a whole number as text"))?;
        Ok(FetchTask {
            target: self.extras.target.clone(),
            ids: self.broad_synset_to_object_ids.values().flatten().cloned().collect(),
            instruction: self.natural_language_spec.clone(),
            start: [self.agent_starting_position[0], self.agent_starting_position[2]],
            yaw: self.agent_y_rotation,
            seed,
            ..FetchTask::default()
        })
    }
}

/// The hex digest of a compiled scene's bytes.
pub fn digest(scene: &[u8]) -> String {
    blake3::hash(scene).to_hex().to_string()
}

/// What the near tier and the whole are called in seeds and files.
fn label(tier: Tier) -> &'static str {
    match tier {
        Tier::Near => "fetch-near",
        Tier::All => "fetch-all",
    }
}

/// Makes an episode file of `count` lines from generated held-out houses, one episode a house.
///
/// # Errors
/// Ten times as many houses as asked for did not give that many episodes.
pub fn freeze(tier: Tier, count: usize) -> Result<String, Error> {
    let mut text = String::new();
    let mut made = 0;
    for number in 0..10 * count as u64 {
        if made == count {
            break;
        }
        let Ok((_, scene)) = generate_compiled(HouseSplit::HeldOut, number) else { continue };
        let origin = format!("{}:{number}", HouseSplit::HeldOut.label());
        if let Some(frozen) = freeze_one(scene, number, &origin, tier) {
            text.push_str(&serde_json::to_string(&frozen).expect("an episode has string keys and finite numbers only"));
            text.push('\n');
            made += 1;
        }
    }
    if made == count { Ok(text) } else { Err(Error::NoEpisode { bucket: label(tier).into(), tries: 10 * count as u32 }) }
}

/// An episode in one house, by a seed made of the house's origin; `None` where the house has none.
pub fn freeze_one(scene: Scene, number: u64, origin: &str, tier: Tier) -> Option<Frozen> {
    let house_digest = digest(&scene.to_bytes());
    let seed = blake3::hash(format!("{}/{origin}", label(tier)).as_bytes());
    let mut rng = ChaCha8Rng::from_seed(*seed.as_bytes());
    let home = Arc::new(Home::new(scene));
    // Long ways are rare, so a house that has one gives one as often as it is wanted.
    let wanted = match tier {
        Tier::Near => None,
        Tier::All => Some(["medium", "medium", "long", "medium", "short"][(number % 5) as usize]),
    };
    let sampled = wanted.and_then(|bucket| sample(&home, tier, Some(bucket), &mut rng).ok());
    let sampled = sampled.or_else(|| sample(&home, tier, None, &mut rng).ok())?;
    Some(line(sampled, number, origin, house_digest))
}

fn line(sampled: Sampled, number: u64, origin: &str, house_digest: String) -> Frozen {
    let Sampled { task, chosen, bucket, expert_length } = sampled;
    let synset = synset(&task.target);
    let ids = BTreeMap::from([(synset.clone(), task.ids.clone())]);
    Frozen {
        task_type: "FetchType".into(),
        house_index: number,
        house_origin: origin.into(),
        house_digest,
        agent_starting_position: [task.start[0], PIVOT_HEIGHT, task.start[1]],
        agent_y_rotation: task.yaw,
        expert_length_bucket: bucket.into(),
        expert_length,
        synsets: vec![synset],
        synset_to_object_ids: ids.clone(),
        broad_synset_to_object_ids: ids,
        extras: Extras { chosen_object_id: chosen, target: task.target, camera_seed: task.seed.to_string() },
        natural_language_spec: task.instruction,
    }
}
