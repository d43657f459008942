//! What the robot perceives, in few and stable words.
//!
//! One word is about one token of a small tokenizer, so everything is quantised. An observation is, in this order:
//!
//! | words | meaning |
//! |---|---|
//! | `find mug` | the type asked for: `find` it and take it, `take` it, or `goto` it |
//! | `rooms3 of5 new` | in RoomVisit instead: rooms claimed and in all, and whether this one is `new` or was `claimed` |
//! | `unseen look3` | not seen yet; looked in 3 of 12 headings of this room |
//! | or `now`, `side`, `both`, `was` | seen by the navigation camera, the manipulation camera, both; or where it was last seen, by odometry |
//! | `br30 d14 h8` | then its bearing (left or right, degrees), distance and height (decimetres) |
//! | `xr5 yu3 za0` | within 1.5 m: from the hand sphere to its centre, in steps of 5 cm: left/right, down/up, back/ahead |
//! | `low`, `level`, `high` | the hand's height, against what a grasp needs |
//! | `off`, `inline`, `touch` | whether the arm slid out or in would come to it; whether the hand would grasp it now |
//! | `t2 e0 w8` | lift, extension (decimetres), wrist (10 degrees from its stop) |
//! | `none`, `target`, `other` | what is held |
//! | `did move_ahead ok` | the last action, `ok` or `stuck` |
//! | `fa5 fp3 fr0 ...` | free way ahead and in the seven other directions, clockwise, in moves of 0.2 m |
//! | `sl12` | turned this far left or right of the walls' direction |
//! | `kitchen` | the room |
//! | `nav sofa bl30 d22 ...` | other things in the navigation camera, nearest first |
//! | `man door br90 d15 ...` | and in the manipulation camera |

use super::Fetch;
use crate::{Kind, World};
use household::{
    fetch::Episode,
    geometry::{forward, signed, wrap},
    reach::cue,
    robot::{ACTIONS, Action},
    tasks::Task,
    view::{Eye, Sight, sight, sights},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Most other things a camera tells of.
pub(super) const MOST_OTHERS: usize = 4;
/// Most words of an observation with the default settings.
#[cfg(test)]
pub(super) const MOST_WORDS: usize = 50;

/// More rooms than this are told as this many.
const MOST_ROOMS: usize = 12;
/// Within this distance the hand's offset is told, metres.
const HAND_TOLD_M: f64 = 1.5;
/// Free ways are told up to this many moves.
const FREE_MOVES: u32 = 10;
/// Directions of the free ways, clockwise from ahead.
const WAYS: [&str; 8] = ["fa", "fp", "fr", "fz", "fb", "fy", "fl", "fq"];
/// Offsets beyond half a metre are told more coarsely.
const FAR_STEPS: [u32; 4] = [12, 14, 17, 20];

/// Types that have a word of their own; the others are a `thing`.
const NAMED: [&str; 39] = [
    "AlarmClock",
    "Apple",
    "BasketBall",
    "Bowl",
    "Laptop",
    "Mug",
    "SprayBottle",
    "Vase",
    "GarbageCan",
    "HousePlant",
    "ArmChair",
    "Bed",
    "Book",
    "Box",
    "Bread",
    "Candle",
    "CellPhone",
    "Chair",
    "CoffeeTable",
    "CounterTop",
    "Cup",
    "Desk",
    "DiningTable",
    "Dresser",
    "FloorLamp",
    "Fridge",
    "Lettuce",
    "Painting",
    "Pan",
    "Plate",
    "Pot",
    "Potato",
    "ShelvingUnit",
    "SideTable",
    "Sink",
    "Sofa",
    "Television",
    "Toilet",
    "TVStand",
];

fn type_word(kind: &str) -> String {
    if NAMED.contains(&kind) { kind.to_lowercase() } else { "thing".into() }
}

fn room_word(kind: &str) -> &'static str {
    match kind {
        "Kitchen" => "kitchen",
        "LivingRoom" => "livingroom",
        "Bedroom" => "bedroom",
        "Bathroom" => "bathroom",
        _ => "room",
    }
}

fn signed_word(letter: &str, minus: &str, plus: &str, steps: i64) -> String {
    if steps == 0 { format!("{letter}0") } else { format!("{letter}{}{}", if steps < 0 { minus } else { plus }, steps.abs()) }
}

/// Bearing in steps of `step` degrees, to the right positive.
fn bearing_word(bearing: f64, step: f64) -> String {
    signed_word("b", "l", "r", (libm::round(bearing / step) * step) as i64)
}

/// Decimetres; half metres from 2 m on, whole metres from 6 m on, at most 12.
fn distance_word(metres: f64) -> String {
    let rounded = |step: f64| (libm::round(metres / step) * step * 10.0).round() as i64;
    let decimetres = if metres < 2.0 {
        rounded(0.1)
    } else if metres < 6.0 {
        rounded(0.5)
    } else {
        rounded(1.0).min(120)
    };
    format!("d{decimetres}")
}

fn height_word(metres: f64) -> String {
    format!("h{}", (libm::round(metres * 10.0) as i64).clamp(0, 20))
}

/// An offset in steps of 5 cm, coarser beyond half a metre.
fn offset_word(letter: &str, minus: &str, plus: &str, metres: f64) -> String {
    let steps = libm::round(metres.abs() / 0.05) as u32;
    let steps = if steps <= 10 { steps } else { FAR_STEPS.into_iter().min_by_key(|far| far.abs_diff(steps)).unwrap_or(20) };
    signed_word(letter, minus, plus, if metres < 0.0 { -i64::from(steps) } else { i64::from(steps) })
}

fn held_word(episode: &Episode) -> &'static str {
    if episode.holds_target() {
        "target"
    } else if episode.sim.held.is_empty() {
        "none"
    } else {
        "other"
    }
}

/// How the arm stands and what is held.
pub(super) fn proprioception(episode: &Episode) -> [String; 4] {
    let robot = &episode.sim.robot;
    [
        format!("t{}", (libm::round(robot.lift * 10.0) as i64).max(0)),
        format!("e{}", libm::round(robot.extension * 10.0) as i64),
        format!("w{}", libm::round((robot.wrist + 260.0) / 10.0) as i64),
        held_word(episode).into(),
    ]
}

/// The observation of now.
pub(super) fn observe(episode: &Episode, others: usize) -> String {
    let mut words = Vec::new();
    if episode.task.task == Task::RoomVisit {
        rooms(episode, &mut words);
    } else {
        words.extend([ask_word(episode.task.task).to_string(), type_word(&episode.task.target)]);
        target(episode, &mut words);
    }
    let robot = &episode.sim.robot;
    words.extend(proprioception(episode));
    if let Some((action, worked)) = episode.last {
        words.extend(["did".to_string(), action.name().to_string(), if worked { "ok" } else { "stuck" }.to_string()]);
    }
    for (turn, way) in WAYS.iter().enumerate() {
        let direction = forward(robot.yaw + 45.0 * turn as f64);
        let free = episode.sim.home.space.free_way(robot.body(), direction, 0.1, 0.2 * f64::from(FREE_MOVES));
        words.push(format!("{way}{}", (free / 0.2 + 1e-6) as u32));
    }
    let skew = signed(wrap(robot.yaw * 4.0)) / 4.0;
    words.push(signed_word("s", "l", "r", (libm::round(skew / 6.0) * 6.0) as i64));
    words.push(room_word(&episode.sim.home.scene.rooms[episode.room()].kind).into());
    for (eye, header) in [(Eye::Navigation, "nav"), (Eye::Manipulation, "man")] {
        words.push(header.into());
        for (name, sight) in in_camera(episode, eye).into_iter().take(others) {
            words.extend([name, bearing_word(sight.bearing, 30.0), distance_word(sight.distance)]);
        }
    }
    words.join(" ")
}

/// What is to be done with the target.
fn ask_word(task: Task) -> &'static str {
    match task {
        Task::Fetch => "find",
        Task::PickUp => "take",
        Task::ObjectNav | Task::RoomVisit => "goto",
    }
}

fn rooms(episode: &Episode, words: &mut Vec<String>) {
    let claimed = episode.claimed.len().min(MOST_ROOMS);
    let all = episode.sim.home.scene.rooms.len().min(MOST_ROOMS);
    let here = if episode.claimed.contains(&episode.room()) { "claimed" } else { "new" };
    words.extend([format!("rooms{claimed}"), format!("of{all}"), here.to_string()]);
}

fn target(episode: &Episode, words: &mut Vec<String>) {
    let Some(sight) = episode.target_sight().filter(|_| !episode.holds_target()) else {
        if !episode.holds_target() {
            words.extend(["unseen".into(), format!("look{}", episode.looked().min(12))]);
        }
        return;
    };
    let seen = episode.in_view.map(|thing| thing == Some(sight.thing));
    words.push(
        if seen[0] && seen[1] {
            "both"
        } else if seen[0] {
            "now"
        } else if seen[1] {
            "side"
        } else {
            "was"
        }
        .into(),
    );
    words.extend([bearing_word(sight.bearing, 6.0), distance_word(sight.distance), height_word(sight.height)]);
    if let Some(remembered) = episode.remembered.filter(|_| sight.distance <= HAND_TOLD_M) {
        let robot = &episode.sim.robot;
        let offset = robot.local(remembered.place.0).minus(robot.hand_local());
        words.push(offset_word("x", "l", "r", offset.x));
        words.push(offset_word("y", "d", "u", remembered.place.1 - robot.hand().1));
        words.push(offset_word("z", "b", "a", offset.z));
        let cue = cue(&episode.sim, remembered.thing);
        words.push(["low", "level", "high"][cue.height as usize].into());
        words.push(
            if episode.grasps().is_some() {
                "touch"
            } else if cue.inline {
                "inline"
            } else {
                "off"
            }
            .into(),
        );
    }
}

/// Things and doors in a camera other than the target, nearest first.
fn in_camera(episode: &Episode, eye: Eye) -> Vec<(String, Sight)> {
    let sim = &episode.sim;
    let told = episode.remembered.map(|remembered| remembered.thing);
    let mut seen: Vec<(String, Sight)> = sights(sim, eye)
        .into_iter()
        .filter(|sight| Some(sight.thing) != told)
        .map(|sight| (type_word(&sim.thing(sight.thing).kind), sight))
        .collect();
    let frame = sim.frame(eye);
    for door in &sim.home.scene.doors {
        let place = (household::scene::at(door.at), 1.0);
        if frame.shows_point(sim, place) {
            seen.push(("door".into(), sight(&sim.robot, usize::MAX, place)));
        }
    }
    seen.sort_by(|one, other| one.1.distance.total_cmp(&other.1.distance).then(one.1.thing.cmp(&other.1.thing)));
    seen
}

/// A true sentence on where the target is; `ahead`: on what will be so.
pub(super) fn sentence(episode: &Episode, ahead: bool) -> String {
    let (is, noun) = (if ahead { "will be" } else { "is" }, episode.task.target.to_lowercase());
    if episode.task.task == Task::RoomVisit {
        let rooms = episode.sim.home.scene.rooms.len();
        return format!("{} of {rooms} rooms {} claimed.", episode.claimed.len(), if ahead { "will be" } else { "are" });
    }
    if episode.holds_target() {
        return format!("The {noun} {is} in the hand.");
    }
    let Some(sight) = episode.target_sight() else { return format!("No {noun} {is} in view.") };
    let (degrees, decimetres) = (libm::round(sight.bearing), libm::round(sight.distance * 10.0));
    let side = if degrees < 0.0 { "left" } else { "right" };
    let view = if episode.in_view.iter().any(Option::is_some) { "in view" } else { "out of view" };
    format!("The {noun} {is} {view}, {:.1} m away, {:.0} degrees to the {side}.", decimetres / 10.0, degrees.abs())
}

/// Why the expert does what it does next.
pub(super) fn reason(episode: &Episode, action: Action) -> String {
    let noun = episode.task.target.to_lowercase();
    match (episode.task.task, action) {
        (Task::RoomVisit, Action::Done) => return "Every room is claimed, so the errand is done.".into(),
        (Task::RoomVisit, Action::SubDone) => return "This room has not been claimed yet.".into(),
        (Task::RoomVisit, Action::Dropoff) => return "Nothing needs to be held.".into(),
        (Task::RoomVisit, _) => return "I go to the next room.".into(),
        (Task::ObjectNav, Action::Done) => return format!("The {noun} is in view and near, so the errand is done."),
        (Task::ObjectNav, _) if episode.remembered.is_some() => return format!("I go to the {noun}."),
        _ => {}
    }
    match action {
        Action::Done if episode.task.bring => format!("The {noun} is where I started, so the errand is done."),
        Action::Done => format!("The {noun} is held, so the errand is done."),
        Action::Dropoff if episode.holds_target() => format!("The {noun} is back where I started."),
        Action::Dropoff => format!("What is held is no {noun}."),
        _ if episode.holds_target() => format!("I bring the {noun} to where I started."),
        Action::Pickup => format!("The hand is at the {noun}."),
        _ if episode.remembered.is_none() => format!("The {noun} has not been seen yet, so I look around."),
        action if action.is_base() => format!("I go to where the arm can reach the {noun}."),
        _ => format!("The {noun} is within reach of the arm."),
    }
}

pub(super) fn rules(errands: &[Task]) -> String {
    let names: Vec<&str> = ACTIONS.iter().map(|spelling| spelling.name).collect();
    let asked = |task: &Task| match task {
        Task::Fetch => "Find the thing asked for, pick it up with the hand on the robot's right side, then say `done`.",
        Task::PickUp => "Pick up the thing asked for with the hand on the robot's right side, then say `done`.",
        Task::ObjectNav => "Go to the thing asked for until it is in front of the robot and within 2 m, then say `done`.",
        Task::RoomVisit => "Go to every room, say `sub_done` in each once, then `done`.",
    };
    let asked: Vec<&str> = errands.iter().map(asked).collect();
    let others = if errands == [Task::Fetch] {
        ""
    } else {
        " `take` or `goto` the thing instead of `find`; `rooms1 of4` one of four rooms is claimed, this one is `new` or `claimed`;"
    };
    format!(
        "You drive a robot in a house. {}\n\
         Words: `find` the thing asked for;{others} `unseen` or where it is: `bl30` 30 degrees to the left, `d14` 1.4 m away, `h8` 0.8 m high; `xr5` the hand must \
         go 25 cm right, `yu3` 15 cm up, `za2` 10 cm ahead; `low`, `level`, `high` the hand's height; `inline` the arm slid out reaches it; `touch` the hand can grasp it; `t` lift, `e` extension, `w` wrist; `fa5` five moves are free ahead; \
         `nav` and `man` what the front and the right camera see.\n\
         Actions: {}. A move is 0.2 m, a turn 30 degrees (small: 6), an arm move 10 cm (small: 2), a wrist turn 10 degrees. `pickup` grasps what the hand touches.",
        asked.join(" Or: "),
        names.join(", ")
    )
}

/// Every word that an observation can hold, the actions' names apart.
pub(super) fn vocabulary() -> Vec<String> {
    let fixed = [
        "find", "unseen", "now", "side", "both", "was", "low", "level", "high", "off", "inline", "touch", "none", "target", "other", "did",
        "ok", "stuck", "nav", "man", "door", "thing", "take", "goto", "new", "claimed",
    ];
    let rooms = ["kitchen", "livingroom", "bedroom", "bathroom", "room"];
    let mut words: Vec<String> = fixed.into_iter().chain(rooms).map(str::to_string).collect();
    words.extend(NAMED.into_iter().map(type_word));
    words.extend((0..=12).map(|looked| format!("look{looked}")));
    words.extend((0..=MOST_ROOMS).flat_map(|rooms| [format!("rooms{rooms}"), format!("of{rooms}")]));
    words.extend((-30..=30).map(|step| bearing_word(6.0 * f64::from(step), 6.0)));
    words.extend((-7..=7).map(|step| signed_word("s", "l", "r", 6 * step)));
    words.extend(["sr48", "sl48"].map(str::to_string));
    words.extend((0..120).map(|step| distance_word(0.1 * f64::from(step))));
    words.extend((0..=20).map(|height| height_word(0.1 * f64::from(height))));
    for (letter, minus, plus) in [("x", "l", "r"), ("y", "d", "u"), ("z", "b", "a")] {
        words.extend((-20..=20).map(|step| offset_word(letter, minus, plus, 0.05 * f64::from(step))));
    }
    words.extend((0..=10).map(|lift| format!("t{lift}")));
    words.extend((0..=5).map(|extension| format!("e{extension}")));
    words.extend((0..=34).map(|wrist| format!("w{wrist}")));
    words.extend(WAYS.iter().flat_map(|way| (0..=FREE_MOVES).map(move |moves| format!("{way}{moves}"))));
    words.sort();
    words.dedup();
    words
}

/// Observations of many states, with each word of the vocabulary now and then and each instruction.
pub(super) fn corpus(kind: &Fetch, lines: usize) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let vocabulary = vocabulary();
    // Rare words must be whole tokens too: each stands about once in fifty lines.
    for chunk in vocabulary.chunks(40) {
        texts.extend(std::iter::repeat_n(format!("find {}", chunk.join(" ")), (lines / 200).max(2)));
    }
    for seed in 0_u64.. {
        if texts.len() >= lines {
            break;
        }
        // Houses in which nothing can be done give no lines; the seeds after them do.
        let started = kind.sample(seed, None).and_then(|task| {
            let scene = kind.scene(&task)?;
            kind.start(&task, scene.as_ref().map(|scene| scene.bytes.as_slice()))
        });
        match started {
            Ok(mut world) => walk(world.as_mut(), &mut rng, lines, &mut texts),
            Err(_) if seed > 2 * lines as u64 => break,
            Err(_) => {}
        }
    }
    texts.truncate(lines);
    texts
}

/// The expert's way, with a slip now and then.
fn walk(world: &mut dyn World, rng: &mut ChaCha8Rng, lines: usize, texts: &mut Vec<String>) {
    texts.push(world.instruction());
    for _ in 0..40 {
        texts.push(world.observe());
        let slip = rng.random_bool(0.25);
        let actions = if slip { vec![ACTIONS[rng.random_range(0..4)].name.to_string()] } else { world.expert(5).actions };
        for action in &actions {
            match world.act(action) {
                Ok(acted) if !acted.over => {}
                _ => return,
            }
        }
        if actions.is_empty() || texts.len() >= lines {
            return;
        }
    }
}
