//! An episode as it can be looked at: both cameras, a map with the robot's way, what it is told and what it did.
//!
//! The world that a pipeline would run gives texts, rewards and the expert; beside it runs the same episode of the household
//! for the pictures. Both get the same actions.

use crate::sheet::Sheet;
use anyhow::{Context, Result};
use household::{
    geometry::vec2,
    robot::Action,
    scene::{Scene, at},
    sim::{Home, Sim},
    tasks::{Episode, Spec},
    view::Eye,
};
use render::{Model, Renderer, Size, View, look::Look};
use std::{path::Path, sync::Arc};
use worlds::{Kind, Task, World};

/// Pixels of the map beside the cameras.
const MAP: Size = Size { width: 400, height: 300 };
/// Everything is drawn this much larger first, so that edges are smooth.
const SMOOTH: usize = 2;
const PAPER: [u8; 3] = [24, 26, 30];
const INK: [u8; 3] = [232, 232, 228];
const DIM: [u8; 3] = [150, 156, 162];
const WALL: [u8; 3] = [70, 74, 80];
const WAY: [u8; 3] = [255, 206, 64];

/// A running episode with all that shows it.
pub(crate) struct Show {
    pub(crate) task: Task,
    pub(crate) world: Box<dyn World>,
    pub(crate) episode: Episode,
    model: Model,
    camera: Renderer,
    plan: Renderer,
    map: View,
    way: Vec<[f64; 2]>,
    /// Actions, and whether they worked.
    pub(crate) deeds: Vec<(String, bool)>,
}

/// Which episode.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// A file of held-out episodes, one JSON object a line.
    #[arg(long)]
    pub(crate) episodes: Option<std::path::PathBuf>,
    /// Which line of it, from 0.
    #[arg(long, default_value_t = 0)]
    pub(crate) line: u64,
    /// Without a file: the generator's training task of this seed.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// `fetch`, `pick_up`, `object_nav`, `room_visit` or `mix`.
    #[arg(long, default_value = "fetch")]
    pub(crate) task: String,
    /// Play in ProcTHOR's houses, one a line, plain or gzip, in place of the generator's.
    #[arg(long)]
    pub(crate) houses: Option<std::path::PathBuf>,
    /// `near` or `all`: how far the errand may lead.
    #[arg(long, default_value = "near")]
    pub(crate) tier: String,
    /// Draw with materials and lights of this seed in place of the house's own.
    #[arg(long)]
    pub(crate) look: Option<u64>,
}

impl Choice {
    /// The kind of world and the task.
    pub(crate) fn task(&self) -> Result<(Arc<dyn Kind>, Task)> {
        let mut houses = worlds::Houses { generated: u64::MAX, ..worlds::Houses::default() };
        if let Some(path) = &self.episodes {
            houses.validation = lines(path)?;
        }
        if let Some(path) = &self.houses {
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let text = crate::house::text(path)?;
            let house = |(number, line): (usize, &str)| worlds::HouseFile { origin: format!("{name}:{number}"), json: line.into() };
            houses.train = text.lines().enumerate().map(house).collect();
        }
        let setting = |key: &str, value: &str| (key.to_string(), toml::Value::String(value.to_string()));
        let settings = toml::Table::from_iter([setting("tier", &self.tier), setting("task", &self.task)]);
        let kind = worlds::kind("fetch", false, &settings, houses).map_err(anyhow::Error::msg)?;
        let task = if self.episodes.is_some() { kind.held_out(self.line) } else { kind.sample(self.seed, None) };
        Ok((kind, task.map_err(anyhow::Error::msg)?))
    }

    pub(crate) fn look(&self) -> Look {
        self.look.map_or_else(Look::own, Look::randomised)
    }
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(text.lines().map(str::to_string).collect())
}

impl Show {
    pub(crate) fn new(kind: &dyn Kind, task: Task, look: &Look) -> Result<Show> {
        let scene = kind.scene(&task).map_err(anyhow::Error::msg)?.context("the task has no house")?;
        let world = kind.start(&task, Some(&scene.bytes)).map_err(anyhow::Error::msg)?;
        let description: serde_json::Value = serde_json::from_str(&task.json)?;
        let spec: Spec = serde_json::from_value(description["fetch"].clone()).context("the task's own description cannot be read")?;
        let home = Arc::new(Home::new(Scene::from_bytes(&scene.bytes)?));
        let model = Model::new(&home.scene, look);
        let map = plan_of(&home, smooth(MAP));
        let episode = Episode::start(home, Arc::new(spec))?;
        let mut show = Show {
            task,
            world,
            episode,
            model,
            camera: Renderer::new(smooth(Size::CAMERA)),
            plan: Renderer::new(smooth(MAP)),
            map,
            way: Vec::new(),
            deeds: Vec::new(),
        };
        show.note_place();
        Ok(show)
    }

    /// Runs an action in both.
    pub(crate) fn act(&mut self, name: &str) -> Result<worlds::Acted> {
        let action = Action::named(name).with_context(|| format!("there is no action `{name}`"))?;
        let acted = self.world.act(action.name()).map_err(anyhow::Error::msg)?;
        self.episode.act(action);
        self.deeds.push((action.name().to_string(), acted.worked));
        self.note_place();
        Ok(acted)
    }

    fn note_place(&mut self) {
        let at = self.episode.sim.robot.position;
        self.way.push([at.x, at.z]);
    }

    /// The sheet of now.
    pub(crate) fn sheet(&mut self) -> Sheet {
        let Size { width, height } = Size::CAMERA;
        let mut sheet = Sheet::new(width + MAP.width, 2 * height, PAPER);
        for (eye, top) in [(Eye::Navigation, 0), (Eye::Manipulation, height)] {
            self.camera.draw(&self.model, &self.episode.sim, eye);
            sheet.paste(0, top, width, &taken(&self.camera).reduced(SMOOTH).rgb);
        }
        sheet.text(8, 6, "navigation", INK);
        sheet.text(8, height + 6, "manipulation", INK);
        let map = self.map();
        sheet.paste(width, 0, MAP.width, &map.rgb);
        let (left, wide) = (width + 10, MAP.width - 20);
        let done = self.deeds.len();
        let mut y = sheet.words(left, MAP.height + 6, wide, &self.world.instruction(), WAY);
        let standing = self.world.standing();
        let state = if standing.success { "success" } else { standing.milestones.last().map_or("", String::as_str) };
        y = sheet.words(left, y, wide, &format!("action {done}: {} {state}", self.last()), INK);
        sheet.words(left, y, wide, &self.world.observe(), DIM);
        sheet
    }

    fn last(&self) -> String {
        self.deeds.last().map_or_else(String::new, |(name, worked)| if *worked { name.clone() } else { format!("{name} failed") })
    }

    fn map(&mut self) -> Sheet {
        let sim = &self.episode.sim;
        self.plan.draw_from(&self.model, Some(sim), &self.map, true);
        let mut map = taken(&self.plan);
        draw_walls(&mut map, &sim.home.scene, &self.map);
        let place = |[x, z]: [f64; 2]| self.map.project([x as f32, 0.0, z as f32]).map(|[x, y, _]| [f64::from(x), f64::from(y)]);
        for pair in self.way.windows(2) {
            if let (Some(from), Some(to)) = (place(pair[0]), place(pair[1])) {
                map.line(from, to, 5.0, WAY);
            }
        }
        for &target in &self.episode.targets {
            let at = sim.centre(target).0;
            if let Some(at) = place([at.x, at.z]) {
                map.dot(at, 9.0, [255, 255, 255]);
                map.dot(at, 7.0, [220, 60, 60]);
            }
        }
        mark(&mut map, sim, place);
        map.reduced(SMOOTH)
    }
}

/// The robot, where it looks, and where its hand is.
fn mark(map: &mut Sheet, sim: &Sim, place: impl Fn([f64; 2]) -> Option<[f64; 2]>) {
    let robot = &sim.robot;
    let nose = robot.place(vec2(0.0, 0.45));
    let (hand, _) = robot.hand();
    let points = [robot.body(), nose, hand].map(|point| place([point.x, point.z]));
    if let [Some(body), Some(nose), Some(hand)] = points {
        map.line(body, hand, 4.0, [240, 240, 240]);
        map.dot(hand, 6.0, [240, 140, 60]);
        map.line(body, nose, 7.0, [60, 150, 240]);
        map.dot(body, 12.0, [60, 150, 240]);
    }
}

fn smooth(size: Size) -> Size {
    Size { width: size.width * SMOOTH, height: size.height * SMOOTH }
}

/// Draws the walls of a house on its plan, with gaps where one can go through.
pub(crate) fn draw_walls(plan: &mut Sheet, scene: &Scene, view: &View) {
    let width = (plan.width as f64 / 220.0).max(2.0);
    for wall in &scene.walls {
        let (a, b) = (at(wall.a), at(wall.b));
        let length = a.distance(b).max(1e-6);
        let mut gaps: Vec<(f64, f64)> =
            wall.holes.iter().filter(|hole| hole.passable()).map(|hole| (f64::from(hole.from), f64::from(hole.to))).collect();
        gaps.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut from = 0.0;
        for (start, end) in gaps.into_iter().chain([(length, length)]) {
            let ends = [from, start].map(|metres| {
                let point = a.plus(b.minus(a).times(metres / length));
                view.project([point.x as f32, 0.0, point.z as f32]).map(|[x, y, _]| [f64::from(x), f64::from(y)])
            });
            if let ([Some(one), Some(other)], true) = (ends, start > from) {
                plan.line(one, other, width, WALL);
            }
            from = f64::max(from, end);
        }
    }
}

/// A renderer's picture.
pub(crate) fn taken(renderer: &Renderer) -> Sheet {
    let Size { width, height } = renderer.size();
    let mut rgb = Vec::new();
    renderer.rgb(&mut rgb);
    Sheet { width, height, rgb }
}

/// A view down on a whole house.
pub(crate) fn plan_of(home: &Home, size: Size) -> View {
    let (low, high) = home.space.bounds();
    View::plan([low.x, low.z], [high.x, high.z], size)
}
