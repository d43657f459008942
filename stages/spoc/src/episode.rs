//! One episode as it passes between `errand` and this program: a line of JSON, and, on the way in, the pictures after it.
//!
//! After the line come the pictures' bytes: row by row, the navigation camera's, then the manipulation camera's, each
//! `3 * width * height` bytes RGB. `N` actions have `N + 1` rows: the first is what was sensed before any action.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Pictures that a policy of SPOC takes: its loader leaves out every other.
pub(crate) const SIZE: (u32, u32) = (384, 224);
/// Bytes of an action's name in a row.
pub(crate) const ACTION_BYTES: usize = 200;
/// Cameras, in the order of their pictures.
pub(crate) const CAMERAS: [&str; 2] = ["raw_navigation_camera", "raw_manipulation_camera"];

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Episode {
    /// `FetchType`.
    pub(crate) task: String,
    /// `train` or `val`.
    pub(crate) split: String,
    pub(crate) house: u64,
    /// `templated_task_spec`.
    pub(crate) spec: Map<String, Value>,
    /// Ids of the things that the task is about, in the order of [`Row::boxes`].
    #[serde(default)]
    pub(crate) objects: Vec<String>,
    #[serde(default)]
    pub(crate) synsets: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(crate) width: u32,
    #[serde(default)]
    pub(crate) height: u32,
    pub(crate) rows: Vec<Row>,
}

/// What was sensed after an action, or, in row 0, before any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// In SPOC's short form; empty in row 0.
    pub(crate) action: String,
    /// 1, 0, or -1 in row 0.
    pub(crate) worked: i64,
    pub(crate) random: bool,
    /// x, y, z in metres, rotations about x, y, z in degrees.
    pub(crate) agent: [f64; 6],
    /// The wrist's x, y, z in metres, its yaw in degrees.
    pub(crate) arm: [f64; 4],
    pub(crate) success: bool,
    /// Metres to the nearest target.
    pub(crate) distance: f64,
    /// Degrees to the nearest visible target; -1: none is visible.
    pub(crate) alignment: f64,
    pub(crate) visible: i64,
    pub(crate) held: bool,
    pub(crate) rooms: i64,
    pub(crate) room_seen: bool,
    /// For each camera and object: least row, greatest row, least column, greatest column; -1 where it is not visible.
    pub(crate) boxes: [Vec<[f32; 4]>; 2],
}

impl Episode {
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub(crate) fn check(&self) -> Result<()> {
        let simple = |name: &str| !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        ensure!(simple(&self.task), "task `{}`: letters, digits and `_` are allowed", self.task);
        ensure!(["train", "val"].contains(&self.split.as_str()), "split `{}`: allowed are train and val", self.split);
        ensure!(self.house < 1_000_000, "house {}: allowed are 0 to 999999", self.house);
        ensure!(!self.rows.is_empty(), "an episode has at least the row before its first action");
        ensure!(self.rows[0].action.is_empty() && self.rows[0].worked == -1, "row 0 comes before any action");
        for (number, row) in self.rows.iter().enumerate() {
            ensure!(row.action.len() < ACTION_BYTES, "row {number}: an action's name has {} bytes at most", ACTION_BYTES - 1);
            ensure!((number == 0) == row.action.is_empty(), "row {number} names {} action", if number == 0 { "an" } else { "no" });
            let boxes = row.boxes.iter().all(|of_camera| of_camera.len() == self.objects.len());
            ensure!(boxes, "row {number}: each camera has a box for each of {} objects", self.objects.len());
        }
        Ok(())
    }
}

/// An episode for tests: a few rows of a made-up house.
#[cfg(test)]
pub(crate) fn example(house: u64, actions: usize) -> Episode {
    let row = |number: usize| Row {
        action: if number == 0 { String::new() } else { ["m", "r", "zp"][number % 3].into() },
        worked: if number == 0 { -1 } else { i64::from(number % 4 != 0) },
        agent: [number as f64 * 0.2, 0.9, 1.5, 0.0, 30.0 * number as f64, 0.0],
        arm: [0.1437, 0.35, -0.02, -180.0],
        distance: 3.0 - 0.1 * number as f64,
        alignment: -1.0,
        rooms: 1,
        room_seen: number > 0,
        boxes: [vec![[1.0, 20.0, 3.0, 40.0], [-1.0; 4]], vec![[-1.0; 4]; 2]],
        ..Row::default()
    };
    let spec = serde_json::json!({ "task_type": "FetchType", "synsets": ["mug.n.01"], "extras": { "note": "ein Becher über dem Tisch" } });
    Episode {
        task: "FetchType".into(),
        split: "train".into(),
        house,
        spec: spec.as_object().cloned().unwrap_or_default(),
        objects: vec!["Mug|1|2".into(), "Mug|1|3".into()],
        synsets: BTreeMap::from([("mug.n.01".to_string(), vec!["Mug|1|2".to_string(), "Mug|1|3".to_string()])]),
        width: SIZE.0,
        height: SIZE.1,
        rows: (0..=actions).map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_out_of_form_is_refused_by_name() {
        example(7, 3).check().unwrap();
        let wrong = |change: &dyn Fn(&mut Episode)| {
            let mut episode = example(7, 3);
            change(&mut episode);
            episode.check().unwrap_err().to_string()
        };
        assert!(wrong(&|e| e.task = "../up".into()).contains("task `../up`"));
        assert!(wrong(&|e| e.split = "test".into()).contains("split `test`"));
        assert!(wrong(&|e| e.house = 1_000_000).contains("house 1000000"));
        assert!(wrong(&|e| e.rows[2].action.clear()).contains("row 2 names no action"));
        assert!(wrong(&|e| e.rows[0].worked = 1).contains("row 0"));
        assert!(wrong(&|e| e.rows[1].boxes[0].truncate(1)).contains("row 1: each camera has a box for each of 2"));
    }
}
