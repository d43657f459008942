//! Episodes of CHORES: one JSON object a line, read and written in the same form.
//!
//! In: lines as the CHORES evaluation files have them. Out: a [`Row`] with every key, and from it a [`Spec`] that an episode
//! starts from. Keys that a line does not have are not written either, and keys that are not known here are kept.

use crate::{
    error::Error,
    instruct::kind_of,
    tasks::{Spec, Task},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One line of an episode file. The order of keys is the files' own; readers take any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// ObjectNavType, PickupType, FetchType, RoomVisit.
    pub task_type: String,
    /// Which house of the split.
    pub house_index: u64,
    /// The pivot: x, y, z.
    pub agent_starting_position: [f64; 3],
    /// Degrees clockwise.
    pub agent_y_rotation: f64,
    /// short, medium, long.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expert_length_bucket: String,
    pub expert_length: u32,
    /// Empty in RoomVisit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub synsets: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub synset_to_object_ids: BTreeMap<String, Vec<String>>,
    /// With what is below a sense: a milkshake is a mug.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub broad_synset_to_object_ids: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub extras: Map<String, Value>,
    pub natural_language_spec: String,
    /// `task_path`, `hypernyms`, `freqs`, `lemmas`, and what else a file has.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// The bucket of an expert length, as the files name it.
pub fn bucket(expert_length: u32) -> &'static str {
    match expert_length {
        0..=49 => "short",
        50..=149 => "medium",
        _ => "long",
    }
}

impl Row {
    /// # Errors
    /// The line is no episode of a task that is known; the message names the key.
    pub fn from_line(line: &str) -> Result<Row, Error> {
        let row: Row = serde_json::from_str(line).map_err(|error| Error::Scene { what: format!("episode: {error}") })?;
        row.task()?;
        let numbers = row.agent_starting_position.iter().chain([&row.agent_y_rotation]);
        if !numbers.into_iter().all(|number| number.is_finite() && number.abs() <= 1e4) {
            return Err(Error::key("agent_starting_position", "must be finite, at most 10000"));
        }
        if !["", "short", "medium", "long"].contains(&row.expert_length_bucket.as_str()) {
            return Err(Error::key("expert_length_bucket", format!("`{}`: must be short, medium or long", row.expert_length_bucket)));
        }
        Ok(row)
    }

    /// One line without its end.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("an episode has string keys and finite numbers only")
    }

    /// # Errors
    /// The task is not one of the four.
    pub fn task(&self) -> Result<Task, Error> {
        let hint = "must be ObjectNavType, PickupType, FetchType or RoomVisit";
        Task::named(&self.task_type).ok_or_else(|| Error::key("task_type", format!("`{}`: {hint}", self.task_type)))
    }

    /// What an episode starts from. Cameras are tilted by a hash of the line, so that a line is always played alike.
    ///
    /// ObjectNav is content with what is below the sense; what is taken must be of the sense itself.
    ///
    /// # Errors
    /// No object is asked for in a task that needs one.
    pub fn spec(&self) -> Result<Spec, Error> {
        let task = self.task()?;
        let ids = if task == Task::ObjectNav { &self.broad_synset_to_object_ids } else { &self.synset_to_object_ids };
        let ids: Vec<String> = self.synsets.iter().filter_map(|synset| ids.get(synset)).flatten().cloned().collect();
        if ids.is_empty() && task != Task::RoomVisit {
            return Err(Error::key("synset_to_object_ids", "names no object of the asked sense"));
        }
        let sense = self.synsets.first().map_or("", String::as_str);
        let lemma = sense.split('.').next().unwrap_or(sense);
        let digest = blake3::hash(self.to_line().as_bytes());
        let seed = u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes"));
        Ok(Spec {
            task,
            target: kind_of(sense).unwrap_or(lemma).to_owned(),
            ids,
            instruction: self.natural_language_spec.clone(),
            start: [self.agent_starting_position[0], self.agent_starting_position[2]],
            yaw: self.agent_y_rotation,
            seed,
            ..Spec::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruct::{GO, TAKE, noun, with_article};
    use std::{io::Read as _, path::PathBuf};

    fn lines(name: &str) -> Option<Vec<String>> {
        let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
        let file = std::env::var_os("ERRAND_SHARED").map_or(beside, PathBuf::from).join("chores").join(name);
        let Ok(file) = std::fs::File::open(&file) else {
            println!("no {}: not compared", file.display());
            return None;
        };
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        Some(text.lines().map(str::to_owned).collect())
    }

    const FILES: [(&str, Task, usize); 3] = [
        ("objectnavtype_val.jsonl.gz", Task::ObjectNav, 200),
        ("fetchtype_val.jsonl.gz", Task::Fetch, 172),
        ("pickuptype_val.jsonl.gz", Task::PickUp, 171),
    ];

    /// Keys sorted, nothing else: the bytes of numbers and texts must agree.
    fn normal(line: &str) -> String {
        serde_json::from_str::<Value>(line).unwrap().to_string()
    }

    #[test]
    fn lines_are_written_as_they_were_read() {
        for (name, task, count) in FILES {
            let Some(lines) = lines(name) else { return };
            assert_eq!(lines.len(), count);
            for line in lines {
                let row = Row::from_line(&line).unwrap();
                assert_eq!(row.task().unwrap(), task);
                assert_eq!(normal(&row.to_line()), normal(&line));
                assert_eq!(row.expert_length_bucket, bucket(row.expert_length), "{} actions", row.expert_length);
            }
        }
    }

    #[test]
    fn instructions_and_senses_of_the_files_are_ours() {
        for (name, task, _) in FILES {
            let Some(lines) = lines(name) else { return };
            for line in lines {
                let row = Row::from_line(&line).unwrap();
                let spec = row.spec().unwrap();
                assert!(task.targets().contains(&spec.target.as_str()), "{}", spec.target);
                let (noun, one) = (noun(&spec.target), with_article(&noun(&spec.target)));
                let known: Vec<String> = match task {
                    Task::PickUp => TAKE.iter().map(|take| format!("{take} {one}")).collect(),
                    Task::Fetch => GO
                        .iter()
                        .flat_map(|go| TAKE.iter().map(|take| format!("{go} {one} and {take} that {noun}")).collect::<Vec<_>>())
                        .collect(),
                    _ => GO.iter().map(|go| format!("{go} {one}")).collect(),
                };
                assert!(known.contains(&spec.instruction), "{}", spec.instruction);
                let hypernym = crate::instruct::hypernym(&spec.target).unwrap();
                assert_eq!(row.rest["hypernyms"], serde_json::json!([hypernym]));
            }
        }
    }

    #[test]
    fn what_is_no_episode_is_refused_by_key() {
        let good = r#"{"task_type":"RoomVisit","house_index":1,"agent_starting_position":[1.0,0.9,2.0],"agent_y_rotation":30.0,
            "expert_length":90,"extras":{},"natural_language_spec":"go"}"#;
        let row = Row::from_line(good).unwrap();
        assert_eq!((row.spec().unwrap().task, normal(&row.to_line())), (Task::RoomVisit, normal(good)));
        let wrong = |from: &str, to: &str| Row::from_line(&good.replace(from, to)).unwrap_err().to_string();
        assert!(wrong("RoomVisit", "Cook").starts_with("`task_type`: `Cook`: must be ObjectNavType"));
        assert!(wrong("\"house_index\":1,", "").contains("house_index"));
        assert!(wrong("[1.0,", "[1e9,").starts_with("`agent_starting_position`"));
        let fetch = Row::from_line(&good.replace("RoomVisit", "FetchType")).unwrap();
        assert!(fetch.spec().unwrap_err().to_string().contains("names no object"));
    }
}
