//! All the houses that others have made, where they are at hand.

use super::*;
use crate::{
    geometry::inside,
    scene::{EXTERIOR, at},
};
use std::time::Instant;

const FILES: [&str; 4] = ["train.jsonl.gz", "val.jsonl.gz", "objaverse/train.jsonl.gz", "objaverse/val.jsonl.gz"];

fn scenes(name: &str) -> Option<Vec<Scene>> {
    let folder = shared()?;
    let file = File::open(folder.join(name)).unwrap();
    let start = Instant::now();
    let read = parse::lines(file).map(|(line, json)| {
        let house = json.and_then(|json| parse::house(&json)).unwrap_or_else(|error| panic!("{name}:{line}: {error}"));
        compile(&house).unwrap()
    });
    let scenes: Vec<Scene> = read.collect();
    println!(
        "{name}: {:.2} ms a house, {} assumed sizes",
        start.elapsed().as_secs_f64() * 1e3 / scenes.len() as f64,
        scenes.iter().map(|scene| scene.assumed).sum::<u32>()
    );
    Some(scenes)
}

#[test]
fn every_house_is_read() {
    for (name, count, assumed) in [
        ("train.jsonl.gz", 64, false),
        ("val.jsonl.gz", 32, false),
        ("objaverse/train.jsonl.gz", 64, true),
        ("objaverse/val.jsonl.gz", 32, true),
    ] {
        let Some(scenes) = scenes(name) else { return };
        assert_eq!(scenes.len(), count);
        assert_eq!(scenes.iter().any(|scene| scene.assumed > 0), assumed, "{name}");
        for scene in &scenes {
            assert!(!scene.rooms.is_empty() && !scene.walls.is_empty());
            let inner = scene.walls.iter().filter(|wall| !wall.holes.is_empty()).count();
            // Two rooms may share an open passage instead of a door.
            assert!(scene.rooms.len() <= 2 || inner >= 1, "a house of {} rooms has open doors", scene.rooms.len());
        }
    }
}

/// Nothing of the schema is lost: a house that is written again reads the same, and its JSON holds the same values.
#[test]
fn houses_are_written_as_they_were_read() {
    let Some(folder) = shared() else { return };
    for name in FILES {
        for (line, json) in parse::lines(File::open(folder.join(name)).unwrap()) {
            let json = json.unwrap();
            let house = parse::house(&json).unwrap();
            assert!(parse::house(&house.to_json()).unwrap() == house, "{name}:{line} reads otherwise when written again");
            let (mut given, written): (Value, Value) =
                (serde_json::from_slice(&json).unwrap(), serde_json::from_slice(&house.to_json()).unwrap());
            // Notes of the program that made the house, and the lists of poses that some carry.
            let metadata = given["metadata"].as_object_mut().unwrap();
            metadata.retain(|key, _| ["schema", "roomSpecId", "agent"].contains(&key.as_str()));
            assert!(rounded(given) == rounded(written), "{name}:{line} is written otherwise");
        }
    }
}

/// Whole numbers as floating ones, `false` where a key is absent by default.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64().unwrap()),
        Value::Array(list) => Value::Array(list.into_iter().map(rounded).collect()),
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, value)| {
                // Written only where they say something.
                let empty_list = ["children", "cullingMaskOff"].contains(&key.as_str()) && value == &json!([]);
                let plain_wall = key == "empty" && value == &json!(false);
                !(empty_list || plain_wall)
            });
            Value::Object(kept.map(|(key, value)| (key, rounded(value))).collect())
        }
        other => other,
    }
}

/// The house gives a hole along one wall; along the wall's other side x runs the other way.
#[test]
fn holes_of_shared_walls_agree() {
    let Some(folder) = shared() else { return };
    let mut pairs = 0;
    for name in FILES {
        for (line, json) in parse::lines(File::open(folder.join(name)).unwrap()) {
            let house = parse::house(&json.unwrap()).unwrap();
            for opening in house.doors.iter().chain(&house.windows) {
                let ends = [&opening.wall0, &opening.wall1].map(|id| {
                    let wall = house.walls.iter().find(|wall| wall.id == *id).unwrap();
                    crate::compile::hole_ends(wall, opening)
                });
                // The two sides run in opposite directions.
                let far = ends[0][0].distance(ends[1][1]).max(ends[0][1].distance(ends[1][0]));
                assert!(far < 1e-12, "{name}:{line} {}: {far} m", opening.id);
                pairs += 1;
            }
        }
    }
    println!("{pairs} pairs of holes agree");
    assert!(pairs > 1000);
}

/// Every wall shows its side to the right of its direction, inner ones to their room and outer ones to the outside.
#[test]
fn walls_look_into_their_rooms() {
    for name in FILES {
        let Some(scenes) = scenes(name) else { return };
        for wall in scenes.iter().flat_map(|scene| scene.walls.iter().map(move |wall| (scene, wall))).collect::<Vec<_>>() {
            let (scene, wall) = wall;
            let (a, b) = (at(wall.a), at(wall.b));
            let along = b.minus(a).times(1.0 / a.distance(b));
            let beside = a.plus(b).times(0.5).plus(vec2(along.z, -along.x).times(0.01));
            let room = scene.rooms.iter().position(|room| inside(&room.polygon(), beside));
            assert_eq!(room, (wall.room != EXTERIOR).then_some(usize::from(wall.room)), "{name}: {wall:?}");
        }
    }
}

#[test]
fn the_expert_solves_what_is_sampled_in_them() {
    let Some(scenes) = scenes("val.jsonl.gz") else { return };
    let (mut solved, mut steps) = (0, 0);
    for (number, scene) in scenes.into_iter().enumerate() {
        let home = Arc::new(Home::new(scene));
        let Ok(sampled) = sample(&home, Tier::Near, None, &mut ChaCha8Rng::seed_from_u64(number as u64)) else { continue };
        assert_eq!(solve(&home, &sampled.task, 50), Some(sampled.expert_length));
        solved += 1;
        steps += sampled.expert_length;
    }
    println!("{solved} of 32 houses gave an episode, {:.1} actions each", f64::from(steps) / f64::from(solved));
    assert!(solved >= 24);
}
