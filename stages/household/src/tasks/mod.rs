//! The four errands: what is asked for, when it is done, how far one got.
//!
//! In: a [`Spec`] and a house. Out: an [`Episode`] that runs actions and judges them, and [`Rewards`] for who learns from it.
//! Success is strict and needs `done`: the target is held (PickUp, Fetch), is visible in the navigation camera within two
//! metres (ObjectNav), or every room was claimed by `sub_done` (RoomVisit). Whether a target can be reached is asked when an
//! episode is made ([`Episode::check`]), not found out after 600 steps.

mod episode;
mod metrics;
mod rewards;
mod starts;

pub use episode::{Episode, LOOK_HEADINGS, Remembered};
pub(crate) use episode::{NEAR_M, stands_before};
pub use metrics::Metrics;
pub use rewards::{GOAL, Preset, Rewards, WAY};
pub use starts::{Features, arm_only_start, features, reverse_start};

use serde::{Deserialize, Serialize};

/// What kind of errand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Stand before a thing of a type.
    ObjectNav,
    /// Take a thing that is in view at the start.
    PickUp,
    /// Find a thing and take it.
    #[default]
    Fetch,
    /// Go to every room and claim each.
    RoomVisit,
}

/// Types that are fetched and picked up; the last two only where the asset can be.
pub const TARGETS: [&str; 10] =
    ["AlarmClock", "Apple", "BasketBall", "Bowl", "Laptop", "Mug", "SprayBottle", "Vase", "GarbageCan", "HousePlant"];

/// Types that are searched for.
pub const NAV_TARGETS: [&str; 15] = [
    "AlarmClock",
    "Apple",
    "BasketBall",
    "Bed",
    "Bowl",
    "Chair",
    "GarbageCan",
    "HousePlant",
    "Laptop",
    "Mug",
    "Sofa",
    "SprayBottle",
    "Television",
    "Toilet",
    "Vase",
];

impl Task {
    pub const ALL: [Task; 4] = [Task::ObjectNav, Task::PickUp, Task::Fetch, Task::RoomVisit];

    /// `object_nav`.
    pub fn name(self) -> &'static str {
        match self {
            Task::ObjectNav => "object_nav",
            Task::PickUp => "pick_up",
            Task::Fetch => "fetch",
            Task::RoomVisit => "room_visit",
        }
    }

    /// What episode files of CHORES call it.
    pub fn file_name(self) -> &'static str {
        match self {
            Task::ObjectNav => "ObjectNavType",
            Task::PickUp => "PickupType",
            Task::Fetch => "FetchType",
            Task::RoomVisit => "RoomVisit",
        }
    }

    /// By either name; `SimpleExploreHouse` is an old one of RoomVisit.
    pub fn named(name: &str) -> Option<Task> {
        let old = (name == "SimpleExploreHouse").then_some(Task::RoomVisit);
        old.or_else(|| Task::ALL.into_iter().find(|task| task.name() == name || task.file_name() == name))
    }

    /// Actions after which the episode is over.
    pub fn step_limit(self) -> u32 {
        if self == Task::RoomVisit { 1000 } else { 600 }
    }

    /// Object types that it asks for.
    pub fn targets(self) -> &'static [&'static str] {
        match self {
            Task::ObjectNav => &NAV_TARGETS,
            Task::PickUp | Task::Fetch => &TARGETS,
            Task::RoomVisit => &[],
        }
    }

    /// Whether the target must be held at the end.
    pub fn takes(self) -> bool {
        matches!(self, Task::PickUp | Task::Fetch)
    }
}

/// How the arm stands at the start, where it is not stowed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Metres.
    pub lift: f64,
    pub extension: f64,
    /// Degrees.
    pub wrist: f64,
}

/// What an episode is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    pub task: Task,
    /// The object type asked for; empty in RoomVisit.
    pub target: String,
    /// Ids of the things that count; empty in RoomVisit.
    pub ids: Vec<String>,
    /// The instruction, in words.
    pub instruction: String,
    /// The pivot's x and z, and the yaw in degrees.
    pub start: [f64; 2],
    pub yaw: f64,
    /// Where cameras are tilted a little differently in each episode.
    pub seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<Arm>,
    /// PickUp and Fetch: what was taken is then brought to the start and let go of there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bring: bool,
    /// Turns are off by a normal error of half a degree.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rotation_noise: bool,
}

/// Steps on the way to success, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Milestone {
    Seen,
    Near,
    InHand,
    Held,
    /// What was taken lies where the robot started.
    Brought,
    /// A room was claimed; half of them; all.
    FirstRoom,
    HalfRooms,
    AllRooms,
    Done,
    /// No step on the way: something else was picked up.
    WrongObject,
}

impl Milestone {
    pub fn name(self) -> &'static str {
        match self {
            Milestone::Seen => "seen",
            Milestone::Near => "within_2m",
            Milestone::InHand => "in_hand_sphere",
            Milestone::Held => "held",
            Milestone::Brought => "brought",
            Milestone::FirstRoom => "first_room",
            Milestone::HalfRooms => "half_rooms",
            Milestone::AllRooms => "all_rooms",
            Milestone::Done => "done",
            Milestone::WrongObject => "wrong_object",
        }
    }
}
