//! SPOC's training format, by way of `errand-spoc`, which alone links HDF5 and H.264.
//!
//! Out: each trajectory as a line of JSON and its pictures, to that program's stdin. In: lines of JSON from its stdout; the
//! actions of each episode are done again in the pipeline's world, so that what is imported has everything that a recorded
//! trajectory has. Films are lossy and are not read for this: pictures are rendered again.

use crate::data::import::Tasks;
use crate::data::retokenize::Recorded;
use crate::data::sensors::{Sensed, Wanted, is_random, sense};
use anyhow::{Context, Result, bail, ensure};
use env_stepper::again::Again;
use household::chores::Row;
use household::instruct::synset;
use household::robot::{ACTIONS, Action};
use household::tasks::Task as Errand;
use schemas::End;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use worlds::{Kind, Task};

const PROGRAM: &str = "errand-spoc";
const CAMERAS: [&str; 2] = ["navigation", "manipulation"];

fn program() -> Result<PathBuf> {
    let missing =
        "`errand-spoc` is not beside `errand`; hint: cargo build --release --manifest-path stages/spoc/Cargo.toml --target-dir target";
    crate::stages::beside_this(PROGRAM).map_err(|_| anyhow::anyhow!(missing))
}

/// What the data sets call an action.
fn short(action: &str) -> Result<&'static str> {
    let action = Action::named(action).with_context(|| format!("`{action}` is no action of SPOC's robot"))?;
    // The one whose short form is its name.
    Ok(if action == Action::SubDone { "sub_done" } else { ACTIONS[action as usize].aliases[0] })
}

/// The program at work on a folder.
pub(crate) struct Film {
    child: Child,
    to: BufWriter<ChildStdin>,
    /// Numbers of houses: each level has its own.
    houses: BTreeMap<u64, String>,
}

impl Film {
    /// # Errors
    /// The program is not built or does not start.
    pub(crate) fn create(folder: &Path) -> Result<Film> {
        let mut child = Command::new(program()?)
            .arg("write")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(PROGRAM)?;
        let to = child.stdin.take().context("its stdin is piped")?;
        Ok(Film { child, to: BufWriter::with_capacity(1 << 20, to), houses: BTreeMap::new() })
    }

    /// Adds a trajectory.
    ///
    /// # Errors
    /// A record that is not lived again as it was, a world without two cameras, or a program that has ended.
    pub(crate) fn add(&mut self, again: &Again, end: &End, split: &str) -> Result<()> {
        let rows = sense(again, end, Wanted { pictures: true, expert: false })?;
        let first = rows.first().context("it has no turn")?;
        let cameras: Vec<&str> = first.pictures.iter().map(|picture| picture.camera).collect();
        ensure!(cameras == CAMERAS, "it shows {cameras:?}, not the two cameras of SPOC; hint: a pipeline with `world.pictures = true`");
        let rooms = match again.scene(&end.episode).map_err(anyhow::Error::msg)? {
            Some(bytes) => household::scene::Scene::from_bytes(&bytes)?.rooms.len(),
            None => 0,
        };
        let (task, spec, synsets) = spec(end, rooms)?;
        let head = json!({
            "task": task,
            "split": split,
            "house": self.house(end),
            "spec": spec,
            "objects": first.sensors.targets,
            "synsets": synsets,
            "width": first.pictures[0].width,
            "height": first.pictures[0].height,
            "rows": rows.iter().map(|row| row_of(end, row)).collect::<Result<Vec<Value>>>()?,
        });
        let sent = self.send(&head, &rows);
        sent.map_err(|error| self.ended().unwrap_or(error))
    }

    fn send(&mut self, head: &Value, rows: &[Sensed]) -> Result<()> {
        serde_json::to_writer(&mut self.to, head)?;
        self.to.write_all(b"\n")?;
        for picture in rows.iter().flat_map(|row| &row.pictures) {
            self.to.write_all(&picture.rgb)?;
        }
        Ok(())
    }

    /// What the program said, where it has ended.
    fn ended(&mut self) -> Option<anyhow::Error> {
        let mut said = String::new();
        std::io::Read::read_to_string(self.child.stderr.as_mut()?, &mut said).ok()?;
        let line = said.trim().trim_start_matches("errand-spoc: error: ").to_string();
        (!line.is_empty()).then(|| anyhow::anyhow!("{line}"))
    }

    /// The number of a trajectory's house: that of its file where no other house has it, or the next one free.
    fn house(&mut self, end: &End) -> u64 {
        let level = store::level_of(&end.episode);
        if let Some((number, _)) = self.houses.iter().find(|(_, known)| **known == level) {
            return *number;
        }
        let origin = end.episode.scene.as_ref().map(|scene| scene.origin.as_str()).unwrap_or_default();
        let wanted = origin.rsplit(':').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let number = (wanted..).find(|number| !self.houses.contains_key(number)).unwrap_or(wanted);
        self.houses.insert(number, level);
        number
    }

    /// Closes the folder; the files with their rows.
    ///
    /// # Errors
    /// What the program said.
    pub(crate) fn finish(mut self) -> Result<Vec<(String, u64)>> {
        if let Err(error) = self.to.flush() {
            return Err(self.ended().unwrap_or_else(|| error.into()));
        }
        let Film { child, to, .. } = self;
        drop(to);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", said.trim().trim_start_matches("errand-spoc: error: "));
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(lines.lines().filter_map(|line| line.split_once('\t')).map(|(file, rows)| (file.into(), rows.parse().unwrap_or(0))).collect())
    }
}

fn row_of(end: &End, row: &Sensed) -> Result<Value> {
    let sensors = &row.sensors;
    let boxes = sensors.boxes.each_ref().map(|of_camera| of_camera.iter().map(|one| one.unwrap_or([-1.0; 4])).collect::<Vec<_>>());
    let (action, worked) = match &row.action {
        Some((action, worked)) => (short(action)?, i64::from(*worked)),
        None => ("", -1),
    };
    Ok(json!({
        "action": action,
        "worked": worked,
        "random": row.action.is_some() && is_random(end),
        "agent": sensors.agent,
        "arm": sensors.arm,
        "success": sensors.would_succeed,
        "distance": sensors.target_distance,
        "alignment": sensors.target_alignment,
        "visible": sensors.targets_near,
        "held": !sensors.held.is_empty(),
        "rooms": sensors.rooms_seen,
        "room_seen": sensors.room_seen,
        "boxes": boxes,
    }))
}

/// Task, `templated_task_spec`, and the senses of what is asked for. `extras` holds what makes the very same task again.
fn spec(end: &End, rooms: usize) -> Result<(&'static str, Value, Value)> {
    let task: Value = serde_json::from_slice(&end.episode.task).context("the task is no JSON: only `fetch` has SPOC's tasks")?;
    let of = &task["fetch"];
    let errand = of["task"].as_str().and_then(Errand::named).context("the task is none of SPOC's four")?;
    let extras = json!({ "errand": { "world": end.episode.world, "seed": end.episode.seed.to_string(), "task": task } });
    let mut spec = json!({ "task_type": errand.file_name(), "extras": extras, "natural_language_spec": of["instruction"] });
    if errand == Errand::RoomVisit {
        spec["num_rooms_in_house"] = rooms.into();
        return Ok((errand.file_name(), spec, json!({})));
    }
    let sense = synset(of["target"].as_str().unwrap_or_default());
    let synsets = json!({ &sense: of["ids"] });
    spec["synsets"] = json!([sense]);
    spec["synset_to_object_ids"] = synsets.clone();
    spec["broad_synset_to_object_ids"] = synsets.clone();
    Ok((errand.file_name(), spec, synsets))
}

/// The tasks of a folder in SPOC's form, with a kind of world whose expert does what was done there.
///
/// # Errors
/// The program is not built, or the folder is none.
pub(crate) fn read(folder: &Path, kind: &Arc<dyn Kind>, house_file: &str) -> Result<(Tasks, Arc<Recorded>)> {
    let mut child =
        Command::new(program()?).arg("read").arg(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context(PROGRAM)?;
    let lines = BufReader::new(child.stdout.take().context("its stdout is piped")?);
    let recorded = Arc::new(Recorded::new(kind.clone()));
    let mut tasks = Tasks::default();
    for (number, line) in lines.lines().enumerate() {
        let episode: Value = serde_json::from_str(&line?)?;
        let rows = episode["rows"].as_array().cloned().unwrap_or_default();
        let name = format!("{} in house {}, number {number}", episode["task"].as_str().unwrap_or_default(), episode["house"]);
        let bucket = format!("recorded {number}");
        let steps = rows.iter().skip(1).map(|row| (row["action"].as_str().unwrap_or_default(), row["worked"] == 1));
        match task(&episode, &rows, house_file) {
            Ok(task) => {
                recorded.keep(&bucket, turns(steps));
                let success = rows.last().is_some_and(|row| row["success"] == true);
                tasks.wanted.push((name, Task { bucket, ..task }, Some((rows.len() as u32 - 1, success))));
            }
            Err(error) => tasks.skip(&name, &error),
        }
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim().trim_start_matches("errand-spoc: error: "));
    Ok((tasks, recorded))
}

/// Actions in canonical names, cut where a reply would be cut: after one that fails, and after one that ends a reply.
fn turns<'a>(steps: impl Iterator<Item = (&'a str, bool)>) -> Vec<Vec<String>> {
    let mut turns = vec![vec![]];
    for (action, worked) in steps {
        let known = Action::named(action);
        let name = known.map(Action::name).map_or_else(|| action.to_string(), str::to_string);
        turns.last_mut().expect("there is one from the beginning").push(name);
        if !worked || known.is_some_and(Action::ends_reply) {
            turns.push(vec![]);
        }
    }
    turns.retain(|turn| !turn.is_empty());
    turns
}

/// The very task, where Errand wrote the folder; or one of a house of the pipeline, by the house's number.
fn task(episode: &Value, rows: &[Value], house_file: &str) -> Result<Task> {
    let spec = &episode["spec"];
    let ours = &spec["extras"]["errand"];
    if let (Some(seed), true) = (ours["seed"].as_str(), ours["task"].is_object()) {
        let seed = seed.parse().context("`extras.errand.seed` is no whole number")?;
        return Ok(Task { seed, json: ours["task"].to_string(), ..Task::default() });
    }
    let Some(first) = rows.first() else { bail!("it has no row") };
    let number = |at: usize| first["agent"][at].as_f64().unwrap_or(f64::NAN);
    let mut line = spec.as_object().cloned().unwrap_or_default();
    let defaults = json!({
        "task_type": episode["task"],
        "house_index": episode["house"],
        "agent_starting_position": [number(0), number(1), number(2)],
        "agent_y_rotation": number(4),
        "expert_length": rows.len() - 1,
        "natural_language_spec": "",
    });
    let defaults: Map<String, Value> = defaults.as_object().cloned().unwrap_or_default();
    for (key, value) in defaults {
        line.entry(key).or_insert(value);
    }
    let row = Row::from_line(&Value::Object(line).to_string())?;
    crate::data::import::chores_task(&row, house_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_have_the_short_forms_of_the_data_sets_and_come_back() {
        let known =
            ["m", "r", "l", "b", "end", "sub_done", "ls", "rs", "p", "zm", "zp", "yp", "ym", "wp", "wm", "yms", "zms", "zps", "yps", "d"];
        for (spelling, known) in ACTIONS.iter().zip(known) {
            assert_eq!(short(spelling.name).unwrap(), known);
            assert_eq!(Action::named(known), Some(spelling.action));
        }
        assert!(short("fly").is_err());
    }

    #[test]
    fn turns_are_cut_where_replies_are() {
        let steps = [("m", true), ("r", false), ("zp", true), ("p", true), ("end", true)];
        let cut: Vec<Vec<&str>> = vec![vec!["move_ahead", "rotate_right"], vec!["move_arm_out", "pickup"], vec!["done"]];
        assert_eq!(turns(steps.into_iter()), cut);
    }
}
