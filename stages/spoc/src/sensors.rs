//! `hdf5_sensors.hdf5`: one group an episode, one dataset a sensor, one row more than there are actions.
//!
//! Nothing is compressed and nothing is chunked: a loader reads whole datasets.

use crate::episode::{ACTION_BYTES, Episode, Row};
use anyhow::{Context, Result, bail, ensure};
use hdf5_pure::{EnumTypeBuilder, File, FileBuilder, Group, GroupBuilder};
use serde_json::Value;
use std::path::Path;

/// The name of a house's file.
pub(crate) const FILE: &str = "hdf5_sensors.hdf5";
/// The camera's part in the names of the groups of boxes.
const BOXES: [&str; 2] = ["nav", "manip"];
/// Both are the same here: what is task-relevant is known exactly.
const KINDS: [&str; 2] = ["task_relevant", "accurate"];
const SIDES: [&str; 4] = ["min_rows", "max_rows", "min_cols", "max_cols"];

type Put<'a, T> = &'a dyn Fn(&Row) -> T;

/// Writes a house's episodes, named by their places in the list.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(path: &Path, episodes: &[Episode]) -> Result<()> {
    let mut file = FileBuilder::new();
    for (number, episode) in episodes.iter().enumerate() {
        let mut group = file.create_group(&number.to_string());
        put_numbers(&mut group, episode);
        put_texts(&mut group, episode)?;
        for (camera, name) in BOXES.iter().enumerate() {
            for kind in KINDS {
                put_boxes(&mut group, &format!("{name}_{kind}_object_bbox"), episode, camera)?;
            }
        }
        file.add_group(group.finish());
    }
    file.write(path).with_context(|| format!("`{}` cannot be written", path.display()))
}

fn put_numbers(group: &mut GroupBuilder, episode: &Episode) {
    let rows = episode.rows.len() as u64;
    let whole: [(&str, Put<i64>, bool); 7] = [
        ("last_action_success", &|row| row.worked, true),
        ("last_action_is_random", &|row| i64::from(row.random), true),
        ("hypothetical_task_success", &|row| i64::from(row.success), true),
        ("visible_target_4m_count", &|row| row.visible, true),
        ("an_object_is_in_hand", &|row| i64::from(row.held), true),
        ("house_index", &|_| episode.house as i64, false),
        ("rooms_seen", &|row| row.rooms, false),
    ];
    for (name, value, column) in whole {
        let values: Vec<i64> = episode.rows.iter().map(value).collect();
        group.create_dataset(name).with_i64_data(&values).with_shape(&[rows, 1][..if column { 2 } else { 1 }]);
    }
    let broken: [(&str, Put<Vec<f64>>); 4] = [
        ("last_agent_location", &|row| row.agent.to_vec()),
        ("relative_arm_location_metadata", &|row| row.arm.to_vec()),
        ("minimum_l2_target_distance", &|row| vec![row.distance]),
        ("minimum_visible_target_alignment", &|row| vec![row.alignment]),
    ];
    for (name, value) in broken {
        let values: Vec<f64> = episode.rows.iter().flat_map(value).collect();
        let width = values.len() as u64 / rows;
        group.create_dataset(name).with_f64_data(&values).with_shape(&[rows, width]);
    }
    // What h5py reads as bool.
    let flag = EnumTypeBuilder::u8_based().u8_value("FALSE", 0).u8_value("TRUE", 1).build().expect("0 and 1 fit a byte");
    let values: Vec<u8> = episode.rows.iter().map(|row| u8::from(row.room_seen)).collect();
    group.create_dataset("room_current_seen").with_enum_u8_data(flag, &values).with_shape(&[rows]);
}

/// The same bytes in every row, as the original's sensors give them.
fn repeated(group: &mut GroupBuilder, name: &str, text: &str, rows: usize) {
    let bytes = text.as_bytes().repeat(rows);
    group.create_dataset(name).with_u8_data(&bytes).with_shape(&[rows as u64, text.len() as u64]);
}

fn put_texts(group: &mut GroupBuilder, episode: &Episode) -> Result<()> {
    let mut names = Vec::with_capacity(episode.rows.len() * ACTION_BYTES);
    for (number, row) in episode.rows.iter().enumerate() {
        names.extend_from_slice(row.action.as_bytes());
        names.resize((number + 1) * ACTION_BYTES, 0);
    }
    group.create_dataset("last_action_str").with_u8_data(&names).with_shape(&[episode.rows.len() as u64, ACTION_BYTES as u64]);
    repeated(group, "templated_task_spec", &serde_json::to_string(&episode.spec)?, episode.rows.len());
    Ok(())
}

fn put_boxes(group: &mut GroupBuilder, name: &str, episode: &Episode, camera: usize) -> Result<()> {
    let mut boxes = group.create_group(name);
    let rows = episode.rows.len();
    repeated(&mut boxes, "oids_as_bytes", &serde_json::to_string(&episode.objects)?, rows);
    repeated(&mut boxes, "synset_to_oids_as_bytes", &serde_json::to_string(&episode.synsets)?, rows);
    for (side, name) in SIDES.iter().enumerate() {
        let values: Vec<f32> = episode.rows.iter().flat_map(|row| row.boxes[camera].iter().map(move |one| one[side])).collect();
        boxes.create_dataset(name).with_f32_data(&values).with_shape(&[rows as u64, episode.objects.len() as u64]);
    }
    group.add_group(boxes.finish());
    Ok(())
}

/// Reads a house's episodes, in the order of their names; pictures' sizes are left open.
///
/// # Errors
/// No HDF5, or a sensor that is missing or of another shape; the message names file, episode and sensor.
pub(crate) fn read(path: &Path, task: &str, split: &str) -> Result<Vec<(String, Episode)>> {
    let file = File::open(path).with_context(|| format!("`{}` is no HDF5 file that can be read", path.display()))?;
    let mut names = file.root().groups().with_context(|| path.display().to_string())?;
    names.sort_by_key(|name| name.parse::<u64>().unwrap_or(u64::MAX));
    let read = |name: String| {
        let group = file.group(&name).map_err(anyhow::Error::from);
        let episode = group.and_then(|group| read_episode(&group, task, split));
        let episode = episode.with_context(|| format!("`{}`, episode {name}", path.display()))?;
        Ok((name, episode))
    };
    names.into_iter().map(read).collect()
}

/// A dataset's values with their number of rows checked: `width` values in each.
macro_rules! reader {
    ($name:ident, $kind:ty, $read:ident) => {
        fn $name(group: &Group, name: &str, rows: Option<usize>) -> Result<(Vec<$kind>, usize)> {
            let set = group.dataset(name).with_context(|| format!("it has no sensor `{name}`"))?;
            let shape = set.shape().with_context(|| name.to_string())?;
            let found = shape.first().copied().unwrap_or(0) as usize;
            ensure!(rows.is_none_or(|rows| rows == found), "sensor `{name}` has {found} rows, last_action_str has {}", rows.unwrap_or(0));
            let values = set.$read().with_context(|| format!("sensor `{name}`"))?;
            let width = if found == 0 { 0 } else { values.len() / found };
            Ok((values, width))
        }
    };
}
reader!(bytes, u8, read_u8);
reader!(whole, i64, read_i64);
reader!(broken, f64, read_f64);
reader!(single, f32, read_f32);

fn text(row: &[u8]) -> Result<String> {
    let end = row.iter().position(|&byte| byte == 0).unwrap_or(row.len());
    String::from_utf8(row[..end].to_vec()).context("a text is no UTF-8")
}

fn read_episode(group: &Group, task: &str, split: &str) -> Result<Episode> {
    let (names, width) = bytes(group, "last_action_str", None)?;
    ensure!(width == ACTION_BYTES, "sensor `last_action_str` has rows of {width} bytes, expected {ACTION_BYTES}");
    let rows = names.len() / width;
    let column = |name: &str| -> Result<Vec<i64>> {
        let (values, width) = whole(group, name, Some(rows))?;
        ensure!(width == 1, "sensor `{name}` has {width} values a row, expected 1");
        Ok(values)
    };
    let wide = |name: &str, wanted: usize| -> Result<Vec<f64>> {
        let (values, width) = broken(group, name, Some(rows))?;
        ensure!(width == wanted, "sensor `{name}` has {width} values a row, expected {wanted}");
        Ok(values)
    };
    let (worked, random, success) =
        (column("last_action_success")?, column("last_action_is_random")?, column("hypothetical_task_success")?);
    let (visible, held, houses, rooms) =
        (column("visible_target_4m_count")?, column("an_object_is_in_hand")?, column("house_index")?, column("rooms_seen")?);
    let (agents, arms) = (wide("last_agent_location", 6)?, wide("relative_arm_location_metadata", 4)?);
    let (distances, alignments) = (wide("minimum_l2_target_distance", 1)?, wide("minimum_visible_target_alignment", 1)?);
    let (seen, _) = bytes(group, "room_current_seen", Some(rows))?;
    let (spec, spec_width) = bytes(group, "templated_task_spec", Some(rows))?;
    let Value::Object(spec) = serde_json::from_str(&text(&spec[..spec_width])?).context("sensor `templated_task_spec`")? else {
        bail!("sensor `templated_task_spec` is no JSON object");
    };
    let (objects, synsets, boxes) = read_boxes(group, rows)?;
    let row = |at: usize| {
        Ok(Row {
            action: text(&names[at * width..(at + 1) * width])?,
            worked: worked[at],
            random: random[at] != 0,
            agent: std::array::from_fn(|k| agents[at * 6 + k]),
            arm: std::array::from_fn(|k| arms[at * 4 + k]),
            success: success[at] != 0,
            distance: distances[at],
            alignment: alignments[at],
            visible: visible[at],
            held: held[at] != 0,
            rooms: rooms[at],
            room_seen: seen.get(at).is_some_and(|&byte| byte != 0),
            boxes: std::array::from_fn(|camera| boxes[camera][at].clone()),
        })
    };
    let house = u64::try_from(houses[0]).context("sensor `house_index` is negative")?;
    let rows = (0..rows).map(row).collect::<Result<Vec<Row>>>()?;
    let episode = Episode { task: task.into(), split: split.into(), house, spec, objects, synsets, rows, width: 0, height: 0 };
    episode.check()?;
    Ok(episode)
}

/// Objects, their senses, and for each camera and row the boxes.
type Boxes = (Vec<String>, std::collections::BTreeMap<String, Vec<String>>, [Vec<Vec<[f32; 4]>>; 2]);

fn read_boxes(group: &Group, rows: usize) -> Result<Boxes> {
    let (mut objects, mut synsets, mut all) = (vec![], Default::default(), [vec![], vec![]]);
    for (camera, name) in BOXES.iter().enumerate() {
        let name = format!("{name}_accurate_object_bbox");
        let boxes = group.group(&name).with_context(|| format!("it has no sensor `{name}`"))?;
        let (ids, width) = bytes(&boxes, "oids_as_bytes", Some(rows))?;
        objects = serde_json::from_str(&text(&ids[..width])?).with_context(|| format!("`{name}/oids_as_bytes`"))?;
        let (senses, width) = bytes(&boxes, "synset_to_oids_as_bytes", Some(rows))?;
        synsets = serde_json::from_str(&text(&senses[..width])?).with_context(|| format!("`{name}/synset_to_oids_as_bytes`"))?;
        let sides = SIDES.map(|side| single(&boxes, side, Some(rows)));
        let [low, high, left, right] = sides;
        let (low, high, left, right) = (low?.0, high?.0, left?.0, right?.0);
        let count = objects.len();
        ensure!(low.len() == rows * count, "`{name}` has {} boxes, expected {rows} rows of {count}", low.len());
        all[camera] =
            (0..rows).map(|row| (row * count..(row + 1) * count).map(|at| [low[at], high[at], left[at], right[at]]).collect()).collect();
    }
    Ok((objects, synsets, all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::episode::example;

    #[test]
    fn what_is_written_reads_back_and_what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let episodes = [example(7, 3), example(7, 0), example(7, 12)];
        write(&path, &episodes).unwrap();
        let read_back = read(&path, "FetchType", "train").unwrap();
        assert_eq!(read_back.len(), 3);
        for (number, (name, episode)) in read_back.into_iter().enumerate() {
            assert_eq!(name, number.to_string());
            assert_eq!(Episode { width: 384, height: 224, ..episode }, episodes[number]);
        }
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(format!("{:#}", read(&path, "FetchType", "train").unwrap_err()).contains(FILE));
        let mut other = FileBuilder::new();
        let mut group = other.create_group("0");
        group.create_dataset("last_action_str").with_u8_data(&[0; 200]).with_shape(&[1, 200]);
        other.add_group(group.finish());
        other.write(&path).unwrap();
        let told = format!("{:#}", read(&path, "FetchType", "train").unwrap_err());
        assert!(told.contains("episode 0") && told.contains("last_action_success"), "{told}");
    }
}
