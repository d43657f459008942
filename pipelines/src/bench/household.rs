//! `errand bench household`: what houses, cameras and many environments cost.
//!
//! The houses are those of `--houses`; where that file is not there, as many generated ones, and the report says so. Rates are
//! by the clock; beside them stand rates by CPU time, which other processes of the machine disturb less.

use super::{process, report};
use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use household::{
    compile::compile,
    generator::{HouseSplit, generate},
    geometry::vec2,
    parse,
    robot::{ACTIONS, Action, Robot},
    scene::Scene,
    sim::{Home, Sim},
    view::{Eye, cameras, sights},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use render::{Model, Renderer, Size, look::Look};
use serde_json::{Map, Value, json};
use std::{hint::black_box, io::Read as _, path::Path, sync::Arc, time::Instant};

/// Houses where there is no file.
const GENERATED: u64 = 32;
/// Environments whose memory is measured.
const MANY: usize = 1000;
/// Steps of an environment before the robot is put elsewhere.
const STEPS: u32 = 60;
/// Attempts to put a robot into a house.
const TRIES: u32 = 10_000;

/// A house that is ready, with the robot in it.
struct Ready {
    home: Arc<Home>,
    model: Arc<Model>,
}

/// `rival`: a shell command whose last line on stdout is a JSON object of figures; it runs after ours, by itself.
pub(crate) fn run(houses: &Path, seconds: f64, rival: Option<&str>) -> Result<Value> {
    let mut figures = Map::new();
    let texts = read(houses)?;
    figures.insert("houses_from_file".into(), json!(texts.is_some()));
    let texts = match texts {
        Some(texts) => texts,
        None => generated()?,
    };
    let scenes = prepare(&texts, &mut figures)?;
    many(&scenes, &mut figures)?;
    let ready: Vec<Ready> = scenes
        .into_iter()
        .map(|scene| {
            let model = Arc::new(Model::new(&scene, &Look::own()));
            Ready { home: Arc::new(Home::new(scene)), model }
        })
        .collect();
    let one = rate(&ready, seconds, 1)?;
    let two = rate(&ready, seconds, 2)?;
    figures.insert("steps_per_second.1".into(), json!(one.by_clock));
    figures.insert("pictures_per_second.1".into(), json!(one.by_clock * 2.0));
    figures.insert("steps_per_cpu_second.1".into(), json!(one.by_cpu));
    figures.insert("steps_per_second.2".into(), json!(two.by_clock));
    figures.insert("steps_per_cpu_second.2".into(), json!(two.by_cpu));
    figures.insert("two_threads_against_one".into(), json!(two.by_clock / one.by_clock));
    figures.insert("text_steps_per_cpu_second".into(), json!(text_rate(&ready, seconds / 2.0)?));
    let rivals = rival.map_or_else(|| Ok(Map::new()), rival_figures)?;
    Ok(report("household", figures, rivals))
}

fn rival_figures(command: &str) -> Result<Map<String, Value>> {
    let output = std::process::Command::new("sh").args(["-c", command]).stderr(std::process::Stdio::inherit()).output()?;
    anyhow::ensure!(output.status.success(), "`{command}` ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("the last line of `{command}` is no JSON object: `{line}`"))
}

fn read(path: &Path) -> Result<Option<Vec<String>>> {
    if !path.exists() {
        return Ok(None);
    }
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    MultiGzDecoder::new(file).read_to_string(&mut text).with_context(|| format!("{} is no gzip text", path.display()))?;
    let lines: Vec<String> = text.lines().map(str::to_string).collect();
    anyhow::ensure!(!lines.is_empty(), "{} holds no house", path.display());
    Ok(Some(lines))
}

/// The compiled houses of a file; `None`: it is not there.
pub(super) fn scenes_of(path: &Path) -> Result<Option<Vec<Scene>>> {
    let compiled = |text: &String| Ok(compile(&parse::house(text.as_bytes())?)?);
    read(path)?.map(|texts| texts.iter().map(compiled).collect()).transpose()
}

fn generated() -> Result<Vec<String>> {
    (0..GENERATED).map(|seed| Ok(serde_json::to_string(&generate(HouseSplit::HeldOut, seed)?)?)).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Milliseconds from JSON, and from compiled bytes, to a house that can be lived in and photographed.
fn prepare(texts: &[String], figures: &mut Map<String, Value>) -> Result<Vec<Scene>> {
    let (mut from_json, mut from_bytes, mut models, mut scenes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for text in texts {
        let started = Instant::now();
        let scene = compile(&parse::house(text.as_bytes())?)?;
        let bytes = scene.to_bytes();
        let home = Home::new(scene.clone());
        black_box(Model::new(&scene, &Look::own()));
        from_json.push(started.elapsed().as_secs_f64() * 1000.0);
        drop(home);
        let started = Instant::now();
        let again = Scene::from_bytes(&bytes)?;
        let home = Home::new(again);
        let between = started.elapsed().as_secs_f64() * 1000.0;
        black_box(Model::new(&home.scene, &Look::own()));
        let whole = started.elapsed().as_secs_f64() * 1000.0;
        from_bytes.push(whole);
        models.push(whole - between);
        scenes.push(scene);
    }
    figures.insert("houses".into(), json!(scenes.len()));
    figures.insert("json_to_ready_ms_median".into(), json!(median(from_json)));
    figures.insert("compiled_to_ready_ms_median".into(), json!(median(from_bytes)));
    figures.insert("of_which_model_ms_median".into(), json!(median(models)));
    Ok(scenes)
}

/// A robot somewhere in a house where it fits.
fn placed(ready: &Ready, rng: &mut ChaCha8Rng) -> Result<Sim> {
    let (low, high) = ready.home.space.bounds();
    for _ in 0..TRIES {
        let at = vec2(rng.random_range(low.x..high.x), rng.random_range(low.z..high.z));
        let robot = Robot::stowed(at, f64::from(rng.random_range(0..12)) * 30.0);
        if robot.fits(&ready.home.space) {
            return Ok(Sim::new(Arc::clone(&ready.home), robot, cameras(rng)));
        }
    }
    anyhow::bail!("a house has no place for the robot")
}

/// Steps a second.
struct Rate {
    by_clock: f64,
    by_cpu: f64,
}

/// A robot that does random things in one house after another, looked at after each. Gives the number of actions.
fn act_for(ready: &[Ready], seconds: f64, seed: u64, mut look: impl FnMut(&Ready, &Sim)) -> Result<u64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut steps = 0;
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < seconds {
        for house in ready {
            let mut sim = placed(house, &mut rng)?;
            for _ in 0..STEPS {
                sim.act(any_action(&mut rng));
                look(house, &sim);
                steps += 1;
            }
        }
    }
    Ok(steps)
}

/// Both cameras are drawn after each action.
fn work(ready: &[Ready], seconds: f64, seed: u64) -> Result<u64> {
    let mut renderer = Renderer::new(Size::CAMERA);
    let mut rgb = Vec::new();
    act_for(ready, seconds, seed, |house, sim| {
        for eye in [Eye::Navigation, Eye::Manipulation] {
            renderer.draw(&house.model, sim, eye);
            renderer.rgb(&mut rgb);
            black_box(&rgb);
        }
    })
}

fn any_action(rng: &mut ChaCha8Rng) -> Action {
    ACTIONS[rng.random_range(0..ACTIONS.len())].action
}

fn rate(ready: &[Ready], seconds: f64, threads: u64) -> Result<Rate> {
    work(ready, 0.1, 0)?;
    let cpu = process::cpu_seconds(std::process::id());
    let started = Instant::now();
    let steps: Result<Vec<u64>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(ready, seconds, thread + 1))).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).collect()
    });
    let steps = steps?.iter().sum::<u64>() as f64;
    let spent = process::cpu_seconds(std::process::id()) - cpu;
    Ok(Rate { by_clock: steps / started.elapsed().as_secs_f64(), by_cpu: steps / spent.max(0.01) })
}

/// Steps a second on one core without pictures: an action, and what both cameras see.
fn text_rate(ready: &[Ready], seconds: f64) -> Result<f64> {
    let cpu = process::cpu_seconds(std::process::id());
    let steps = act_for(ready, seconds, 3, |_, sim| {
        black_box([sights(sim, Eye::Navigation), sights(sim, Eye::Manipulation)]);
    })?;
    Ok(steps as f64 / (process::cpu_seconds(std::process::id()) - cpu).max(0.01))
}

/// A thousand environments in one process: resident memory, and seconds until each has shown its first picture.
fn many(scenes: &[Scene], figures: &mut Map<String, Value>) -> Result<()> {
    let before = process::resident_mib(std::process::id());
    let cpu = process::cpu_seconds(std::process::id());
    let started = Instant::now();
    let homes: Vec<Arc<Home>> = scenes.iter().map(|scene| Arc::new(Home::new(scene.clone()))).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut renderer = Renderer::new(Size::CAMERA);
    let mut rgb = Vec::new();
    let mut environments = Vec::with_capacity(MANY);
    for number in 0..MANY {
        let home = &homes[number % homes.len()];
        // Each has a look of its own, as in training.
        let model = Arc::new(Model::new(&home.scene, &Look::randomised(number as u64)));
        let ready = Ready { home: Arc::clone(home), model };
        let sim = placed(&ready, &mut rng)?;
        for eye in [Eye::Navigation, Eye::Manipulation] {
            renderer.draw(&ready.model, &sim, eye);
            renderer.rgb(&mut rgb);
        }
        environments.push((ready, sim, rgb.clone()));
    }
    let seconds = started.elapsed().as_secs_f64();
    let after = process::resident_mib(std::process::id());
    black_box(&environments);
    figures.insert("environments".into(), json!(MANY));
    figures.insert("environments_ready_seconds".into(), json!(seconds));
    figures.insert("environments_ready_cpu_seconds".into(), json!(process::cpu_seconds(std::process::id()) - cpu));
    figures.insert("environments_resident_mib".into(), json!(after));
    figures.insert("environments_added_mib".into(), json!(after - before));
    Ok(())
}
