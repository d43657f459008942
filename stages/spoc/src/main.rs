//! `errand-spoc`: SPOC's training format, written and read.
//!
//! In: episodes on stdin, see [`episode`]. Out: a folder `<task>/<split>/<house>/` with `hdf5_sensors.hdf5` and two MP4s an
//! episode. The other way: the folder's episodes as lines of JSON on stdout. `errand export --to spoc` and
//! `errand import --format spoc` run this program; HDF5 and H.264 are linked by nothing else.

mod episode;
mod sensors;
mod video;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use episode::{CAMERAS, Episode};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// SPOC's training format, written and read.
#[derive(Parser)]
#[command(name = "errand-spoc", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the episodes that come on stdin into a folder, and prints the files with their rows.
    Write { folder: PathBuf },
    /// Prints a folder's episodes, one line of JSON each.
    Read { folder: PathBuf },
    /// Reads all of a folder, decodes its films, and prints what is there.
    Check { folder: PathBuf },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Write { folder } => write(&folder, &mut std::io::stdin().lock()),
        Command::Read { folder } => read(&folder),
        Command::Check { folder } => check(&folder),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("errand-spoc: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A house's place in a folder.
fn place(folder: &Path, task: &str, split: &str, house: u64) -> PathBuf {
    folder.join(task).join(split).join(format!("{house:06}"))
}

fn film(house: &Path, camera: usize, name: &str) -> PathBuf {
    house.join(format!("{}__{name}.mp4", CAMERAS[camera]))
}

/// Episodes of one house, by task, split and house.
type Houses = BTreeMap<(String, String, u64), Vec<Episode>>;

fn write(folder: &Path, from: &mut dyn Read) -> Result<()> {
    let mut from = BufReader::with_capacity(1 << 20, from);
    let mut houses = Houses::new();
    let mut line = String::new();
    while from.read_line(&mut line)? > 0 {
        let episode: Episode = serde_json::from_str(&line).context("an episode's line")?;
        episode.check()?;
        let key = (episode.task.clone(), episode.split.clone(), episode.house);
        let number = houses.get(&key).map_or(0, Vec::len);
        let house = place(folder, &key.0, &key.1, key.2);
        std::fs::create_dir_all(&house).with_context(|| format!("`{}` cannot be made", house.display()))?;
        films(&mut from, &episode, &house, number)?;
        houses.entry(key).or_default().push(episode);
        line.clear();
    }
    let mut numbers: BTreeMap<(String, String), BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for ((task, split, house), episodes) in &houses {
        let path = place(folder, task, split, *house).join(sensors::FILE);
        sensors::write(&path, episodes)?;
        let rows: usize = episodes.iter().map(|episode| episode.rows.len()).sum();
        println!("{}\t{rows}", path.strip_prefix(folder).unwrap_or(&path).display());
        let names = (0..episodes.len()).map(|number| number.to_string()).collect();
        numbers.entry((task.clone(), split.clone())).or_default().insert(format!("{house:06}"), names);
    }
    for ((task, split), of_houses) in numbers {
        let path = folder.join(task).join(format!("house_id_to_sub_house_id_{split}.json"));
        std::fs::write(&path, serde_json::to_vec(&of_houses)?).with_context(|| format!("`{}` cannot be written", path.display()))?;
    }
    Ok(())
}

/// Takes an episode's pictures from the stream.
fn films(from: &mut dyn Read, episode: &Episode, house: &Path, number: usize) -> Result<()> {
    let size = (episode.width, episode.height);
    let mut all = [video::Film::new(size)?, video::Film::new(size)?];
    let mut rgb = vec![0; 3 * size.0 as usize * size.1 as usize];
    for _ in &episode.rows {
        for film in &mut all {
            from.read_exact(&mut rgb).context("the stream ends amid an episode's pictures")?;
            film.add(&rgb)?;
        }
    }
    for (camera, made) in all.into_iter().enumerate() {
        made.save(&film(house, camera, &number.to_string()))?;
    }
    Ok(())
}

/// Every house's sensors in a folder: task, split, the house's folder.
fn houses(folder: &Path) -> Result<Vec<(String, String, PathBuf)>> {
    let folders = |of: &Path| -> Result<Vec<(String, PathBuf)>> {
        let entries = std::fs::read_dir(of).with_context(|| format!("`{}` cannot be read", of.display()))?;
        let mut all = BTreeSet::new();
        for entry in entries {
            let entry = entry?;
            // A link may lead anywhere: it is not followed.
            if entry.file_type()?.is_dir() {
                all.insert((entry.file_name().to_string_lossy().into_owned(), entry.path()));
            }
        }
        Ok(all.into_iter().collect())
    };
    let mut found = Vec::new();
    for (task, of_task) in folders(folder)? {
        for (split, of_split) in folders(&of_task)?.into_iter().filter(|(split, _)| split == "train" || split == "val") {
            let houses = folders(&of_split)?.into_iter().filter(|(_, house)| house.join(sensors::FILE).is_file());
            found.extend(houses.map(|(_, house)| (task.clone(), split.clone(), house)));
        }
    }
    ensure!(
        !found.is_empty(),
        "`{}` holds no <task>/<train or val>/<house>/{}; hint: name the folder above the tasks",
        folder.display(),
        sensors::FILE
    );
    Ok(found)
}

/// Gives each episode with its name and its house's folder. Films are looked at by their heads.
fn each(folder: &Path, mut take: impl FnMut(&str, &Path, Episode) -> Result<()>) -> Result<()> {
    for (task, split, house) in houses(folder)? {
        for (name, mut episode) in sensors::read(&house.join(sensors::FILE), &task, &split)? {
            for camera in 0..CAMERAS.len() {
                let path = film(&house, camera, &name);
                let (width, height, frames) = video::facts(&path)?;
                ensure!(
                    frames as usize == episode.rows.len(),
                    "`{}` has {frames} frames, its sensors {} rows",
                    path.display(),
                    episode.rows.len()
                );
                (episode.width, episode.height) = (width, height);
            }
            take(&name, &house, episode)?;
        }
    }
    Ok(())
}

fn read(folder: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    each(folder, |_, _, episode| {
        serde_json::to_writer(&mut out, &episode)?;
        out.write_all(b"\n")?;
        Ok(())
    })
}

fn check(folder: &Path) -> Result<()> {
    let (mut episodes, mut actions, mut frames, mut left_out) = (0, 0, 0, 0);
    each(folder, |name, house, episode| {
        episodes += 1;
        actions += episode.rows.len() - 1;
        left_out += usize::from((episode.width, episode.height) != episode::SIZE);
        for camera in 0..CAMERAS.len() {
            let path = film(house, camera, name);
            let seen = video::decode(&path, |_| {})?;
            ensure!(seen as usize == episode.rows.len(), "`{}` shows {seen} frames of {}", path.display(), episode.rows.len());
            frames += seen;
        }
        Ok(())
    })?;
    println!(
        "{episodes} episodes, {actions} actions, {frames} frames; {left_out} of another size than 384x224, which SPOC's loader leaves out"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(episodes: &[Episode]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for episode in episodes {
            bytes.extend(serde_json::to_vec(episode).unwrap());
            bytes.push(b'\n');
            let pixels = 3 * (episode.width * episode.height) as usize;
            (0..2 * episode.rows.len()).for_each(|n| bytes.extend(vec![(n * 9) as u8; pixels]));
        }
        bytes
    }

    fn small(house: u64, actions: usize) -> Episode {
        Episode { width: 48, height: 32, ..episode::example(house, actions) }
    }

    #[test]
    fn a_folder_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let written = [small(93, 4), small(5, 0), small(93, 2)];
        write(folder.path(), &mut stream(&written).as_slice()).unwrap();
        for file in ["hdf5_sensors.hdf5", "raw_navigation_camera__1.mp4", "raw_manipulation_camera__0.mp4"] {
            assert!(folder.path().join("FetchType/train/000093").join(file).is_file(), "{file}");
        }
        let names = std::fs::read_to_string(folder.path().join("FetchType/house_id_to_sub_house_id_train.json")).unwrap();
        assert_eq!(names, r#"{"000005":["0"],"000093":["0","1"]}"#);
        let mut back = Vec::new();
        each(folder.path(), |_, _, episode| {
            back.push(episode);
            Ok(())
        })
        .unwrap();
        assert_eq!(back, [written[1].clone(), written[0].clone(), written[2].clone()]);
        check(folder.path()).unwrap();
    }

    #[test]
    fn a_stream_or_folder_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = stream(&[small(1, 2)]);
        bytes.truncate(bytes.len() - 5);
        assert!(format!("{:#}", write(folder.path(), &mut bytes.as_slice()).unwrap_err()).contains("amid an episode's pictures"));
        let climbing = Episode { task: "../../up".into(), ..small(1, 1) };
        assert!(write(folder.path(), &mut stream(&[climbing]).as_slice()).unwrap_err().to_string().contains("../../up"));
        let empty = tempfile::tempdir().unwrap();
        assert!(read(empty.path()).unwrap_err().to_string().contains("name the folder above the tasks"));
        write(empty.path(), &mut stream(&[small(1, 2)]).as_slice()).unwrap();
        std::fs::remove_file(empty.path().join("FetchType/train/000001/raw_manipulation_camera__0.mp4")).unwrap();
        assert!(read(empty.path()).unwrap_err().to_string().contains("raw_manipulation_camera__0.mp4"));
    }
}
