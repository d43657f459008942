//! All the houses that others have made, where they are at hand.

use super::*;
use std::time::Instant;

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
