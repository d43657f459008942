//! `errand house`: what a house holds, and its plan from above.

use crate::{
    sheet::Sheet,
    show::{draw_walls, plan_of, taken},
};
use anyhow::{Context, Result};
use household::{
    compile::compile,
    generator::{HouseSplit, generate},
    geometry::area,
    parse,
    scene::Scene,
    sim::Home,
};
use render::{Model, Renderer, Size, look::Look};
use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The plan is drawn this much larger first, so that edges are smooth.
const SMOOTH: usize = 3;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A ProcTHOR house, JSON; or a file with one house a line, plain or gzip, with `--line`.
    house: Option<PathBuf>,
    /// Which line of the file, from 0.
    #[arg(long, default_value_t = 0)]
    line: usize,
    /// In place of a file: the generator's house of this number.
    #[arg(long, conflicts_with = "house")]
    seed: Option<u64>,
    /// Where to write the plan, PNG.
    #[arg(long)]
    top_down: Option<PathBuf>,
    /// Columns of the plan; it has three rows to four columns.
    #[arg(long, default_value_t = 960, value_parser = clap::value_parser!(u32).range(64..=1360))]
    width: u32,
    /// Draw with materials and lights of this seed in place of the house's own.
    #[arg(long)]
    look: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let scene = scene(arguments)?;
    println!("{}", summary(&scene));
    if let Some(path) = &arguments.top_down {
        let look = arguments.look.map_or_else(Look::own, Look::randomised);
        std::fs::write(path, plan(scene, &look, arguments.width as usize)?.png()?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        eprintln!("plan: {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn scene(arguments: &Arguments) -> Result<Scene> {
    if let Some(seed) = arguments.seed {
        return Ok(compile(&generate(HouseSplit::Train, seed)?)?);
    }
    let path = arguments.house.as_deref().context("no house is named; hint: give a file, or `--seed N` for a generated one")?;
    let text = text(path)?;
    // A file of houses has one object a line; a house alone may be spread over many.
    let first = text.lines().next().unwrap_or_default();
    let whole = text.lines().count() == 1 || serde_json::from_str::<serde::de::IgnoredAny>(first).is_err();
    let json = if whole {
        text.as_str()
    } else {
        text.lines().nth(arguments.line).with_context(|| format!("{} has no line {}", path.display(), arguments.line))?
    };
    Ok(compile(&parse::house(json.as_bytes())?)?)
}

/// A text file, plain or gzip.
pub(crate) fn text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes.as_slice())
            .read_to_string(&mut text)
            .with_context(|| format!("{} is no gzip text", path.display()))?;
    } else {
        text = String::from_utf8(bytes).with_context(|| format!("{} is no text", path.display()))?;
    }
    Ok(text)
}

/// One line a room, and a sum.
fn summary(scene: &Scene) -> String {
    let mut lines = Vec::new();
    let mut floor = 0.0;
    for (number, room) in scene.rooms.iter().enumerate() {
        let square = area(&room.polygon());
        floor += square;
        let things = scene.things.iter().filter(|thing| usize::from(thing.room) == number).count();
        lines.push(format!("{:<10} {:<12} {square:6.1} m2 {things:4} objects", room.id, room.kind));
    }
    lines.push(format!("{} rooms, {floor:.1} m2, {} objects, {} doors", scene.rooms.len(), scene.things.len(), scene.doors.len()));
    lines.join("\n")
}

fn plan(scene: Scene, look: &Look, width: usize) -> Result<Sheet> {
    let size = Size { width: width * SMOOTH, height: width * 3 / 4 * SMOOTH };
    anyhow::ensure!(size.width <= Size::MOST, "a plan of {width} columns is too large");
    let model = Model::new(&scene, look);
    let home = Home::new(scene);
    let mut renderer = Renderer::new(size);
    let view = plan_of(&home, size);
    renderer.draw_from(&model, None, &view, true);
    let mut plan = taken(&renderer);
    draw_walls(&mut plan, &home.scene, &view);
    Ok(plan.reduced(SMOOTH))
}
