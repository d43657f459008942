//! Shapes tell a type, colours do not.
//!
//! Crops of 64 by 64 pixels are taken with the cameras' focal length from 1.5 m away, at a height from which the robot sees
//! things on a table. Nobody tells the classifiers which pixels are the thing.

use super::house;
use crate::{
    Model, Renderer, Size, View,
    look::{Look, hash},
};
use household::{
    assets::{self, AssetSplit},
    scene::Scene,
};

const SIDE: usize = 64;
const SIZE: Size = Size { width: SIDE, height: SIDE };
/// Cells a side and directions of the edge histograms.
const CELLS: usize = 8;
const TURNS: usize = 8;
const FEATURES: usize = CELLS * CELLS * TURNS + 1;

/// A number in 0..1 for a text.
fn share(name: &str) -> f64 {
    (hash(1, name) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A table-top scene with one thing on it, and where it is.
fn scene(kind: &str, asset: &str, size: [f64; 3], name: &str) -> (Scene, [f64; 3]) {
    let mut scene = house();
    let top = scene.things[0].high();
    let table = scene.things[0].centre;
    let place = |axis: &str| (share(&format!("{name}/{axis}")) - 0.5) * 0.3;
    let at = [f64::from(table[0]) + place("x"), top + size[1] / 2.0, f64::from(table[2]) + place("z")];
    let thing = &mut scene.things[1];
    (thing.kind, thing.asset, thing.size) = (kind.into(), asset.into(), size.map(|side| side as f32));
    thing.centre = at.map(|v| v as f32);
    thing.yaw = (share(&format!("{name}/yaw")) * 360.0) as f32;
    (scene, at)
}

/// A crop around a thing, and the mean colour of the thing's own pixels.
fn crop(kind: &str, asset: &str, size: [f64; 3], name: &str, look: &Look) -> (Vec<u8>, [f64; 3]) {
    let (scene, at) = scene(kind, asset, size, name);
    let model = Model::new(&scene, look);
    let mut renderer = Renderer::new(SIZE);
    let turn = (share(&format!("{name}/side")) - 0.5) * 1.6;
    let (height, far) = (1.43 - at[1], 1.5);
    let flat = (far * far - height * height).max(0.1_f64).sqrt();
    let eye = [at[0] + flat * libm::sin(turn), 1.43, at[2] - flat * libm::cos(turn)];
    let fov = 2.0 * libm::atan(SIDE as f64 / 2.0 / 197.96).to_degrees();
    renderer.draw_from(&model, None, &View::looking(eye, at, fov, SIZE), false);
    let (mut rgb, mut masks) = (Vec::new(), Vec::new());
    renderer.rgb(&mut rgb);
    renderer.masks(&mut masks);
    let own: Vec<&[u8]> = rgb.chunks_exact(3).zip(&masks).filter(|(_, owner)| **owner == 2).map(|(pixel, _)| pixel).collect();
    assert!(own.len() > 8, "{name} shows {} pixels", own.len());
    let mean = [0, 1, 2].map(|c| own.iter().map(|pixel| f64::from(pixel[c])).sum::<f64>() / own.len() as f64);
    (rgb, mean)
}

/// Histograms of edge directions in cells of the grey crop's middle half, each cell's sum 1 where it has edges; and a 1.
fn features(rgb: &[u8]) -> Vec<f32> {
    let grey: Vec<f32> = rgb.chunks_exact(3).map(|p| p.iter().map(|&c| f32::from(c)).sum::<f32>() / 3.0).collect();
    let mut cells = vec![0.0_f32; FEATURES];
    let (from, to) = (SIDE / 4, SIDE * 3 / 4);
    let step = (to - from) / CELLS;
    for y in from..to {
        for x in from..to {
            let at = |dx: usize, dy: usize| grey[(y + dy - 1) * SIDE + x + dx - 1];
            let (dx, dy) = (at(2, 1) - at(0, 1), at(1, 2) - at(1, 0));
            let strength = (dx * dx + dy * dy).sqrt();
            if strength > 8.0 {
                let angle = libm::atan2f(dy, dx);
                let turn = ((angle / std::f32::consts::PI + 1.0) * TURNS as f32) as usize % TURNS;
                cells[((y - from) / step * CELLS + (x - from) / step) * TURNS + turn] += strength;
            }
        }
    }
    for cell in cells[..FEATURES - 1].chunks_exact_mut(TURNS) {
        let sum = cell.iter().sum::<f32>() + 60.0;
        cell.iter_mut().for_each(|value| *value = (*value / sum).sqrt());
    }
    cells[FEATURES - 1] = 1.0;
    cells
}

/// One line a type: a linear classifier, trained by gradient steps on the softmax's loss.
fn train(samples: &[(Vec<f32>, usize)], types: usize) -> Vec<Vec<f32>> {
    let mut lines = vec![vec![0.0_f32; FEATURES]; types];
    for epoch in 0..24 {
        let rate = 0.25 / (1.0 + epoch as f32 * 0.3);
        for k in 0..samples.len() {
            // A stride that shares no factor with most counts visits all in a mixed order.
            let (sample, kind) = &samples[(k * 7919 + epoch) % samples.len()];
            let scores: Vec<f32> = lines.iter().map(|line| line.iter().zip(sample).map(|(a, b)| a * b).sum()).collect();
            let most = scores.iter().copied().fold(f32::MIN, f32::max);
            let powers: Vec<f32> = scores.iter().map(|score| libm::expf(score - most)).collect();
            let sum: f32 = powers.iter().sum();
            for (number, line) in lines.iter_mut().enumerate() {
                let pull = rate * (f32::from(u8::from(number == *kind)) - powers[number] / sum);
                line.iter_mut().zip(sample).for_each(|(weight, value)| *weight += pull * value - 1e-5 * *weight);
            }
        }
    }
    lines
}

fn told(lines: &[Vec<f32>], sample: &[f32]) -> usize {
    let score = |line: &Vec<f32>| line.iter().zip(sample).map(|(a, b)| a * b).sum::<f32>();
    (0..lines.len()).max_by(|one, other| score(&lines[*one]).total_cmp(&score(&lines[*other]))).unwrap()
}

#[test]
fn a_small_classifier_tells_mug_bowl_vase_and_apple_of_assets_that_it_never_saw() {
    let kinds = ["Mug", "Bowl", "Vase", "Apple"];
    let mut samples = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        let known: Vec<_> = assets::of_kind(kind).filter(|asset| matches!(asset.split, Some(AssetSplit::Train) | None)).collect();
        // Shapes and colours come from the id: ids of our own give as many assets as are wanted.
        for asset in 0..48 {
            let id = format!("{kind}_trained_{asset}");
            let like = known[asset % known.len()].size.map(|side| side * (0.85 + 0.3 * share(&id)));
            for view in 0..5 {
                let name = format!("{id}/{view}");
                let (rgb, _) = crop(kind, &id, like, &name, &Look::randomised(hash(2, &name)));
                samples.push((features(&rgb), number));
            }
        }
    }
    let lines = train(&samples, kinds.len());
    let (mut right, mut all) = (0, 0);
    for (number, kind) in kinds.iter().enumerate() {
        let (mut own, mut count) = (0, 0);
        for asset in assets::of_kind(kind).filter(|asset| asset.split != Some(AssetSplit::Train)) {
            for view in 0..6 {
                let name = format!("{}/{view}/test", asset.id);
                let (rgb, _) = crop(kind, asset.id, asset.size, &name, &Look::own());
                own += usize::from(told(&lines, &features(&rgb)) == number);
                count += 1;
            }
        }
        println!("{kind}: {own} of {count}");
        (right, all) = (right + own, all + count);
    }
    let share = right as f64 / all as f64;
    println!("told: {right} of {all}");
    assert!(share >= 0.8, "{right} of {all}");
}

#[test]
fn a_mean_colour_does_not_tell_a_type() {
    let kinds = household::tasks::NAV_TARGETS;
    let mean = |kind: &str, asset: &assets::Asset| {
        let small = asset.size.map(|side| side * 0.3 / asset.size.iter().copied().fold(0.3, f64::max));
        crop(kind, asset.id, small, asset.id, &Look::own()).1
    };
    let (mut means, mut tests) = (Vec::new(), Vec::new());
    for (number, kind) in kinds.iter().enumerate() {
        let colours: Vec<[f64; 3]> = assets::of_kind(kind).take(24).map(|asset| mean(kind, asset)).collect();
        let trained = colours.len().div_ceil(2);
        means.push([0, 1, 2].map(|c| colours[..trained].iter().map(|colour| colour[c]).sum::<f64>() / trained as f64));
        tests.extend(colours[trained..].iter().map(|&colour| (colour, number)));
    }
    let far = |a: &[f64; 3], b: &[f64; 3]| (0..3).map(|c| (a[c] - b[c]) * (a[c] - b[c])).sum::<f64>();
    let nearest = |colour: &[f64; 3]| (0..means.len()).min_by(|a, b| far(&means[*a], colour).total_cmp(&far(&means[*b], colour))).unwrap();
    let right = tests.iter().filter(|(colour, kind)| nearest(colour) == *kind).count();
    println!("told by colour: {right} of {}", tests.len());
    assert!((right as f64) < 0.4 * tests.len() as f64, "{right} of {}", tests.len());
}
