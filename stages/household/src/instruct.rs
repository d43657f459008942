//! What is asked for, in words: SPOC's templates, expressions that single a thing out, and paraphrases that no training uses.
//!
//! In: a task and a [`Phrase`]. Out: a lower-case sentence. [`describe`] finds the phrases of a scene that mean one thing and
//! no other: [`Phrase::means`] is the judge of what a phrase means, so that an instruction that was checked is unambiguous in
//! its house. Colours are the eye's business: who knows the looks gives a function from things to colour words.

use crate::{
    scene::{Scene, Thing},
    tasks::Task,
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Verbs of going and of taking.
pub const GO: [&str; 5] = ["go to", "locate", "find", "search for", "navigate to"];
pub const TAKE: [&str; 6] = ["pick up", "take", "grab", "grasp", "clutch", "hold"];
/// The same of paraphrases.
pub const GO_OTHERWISE: [&str; 5] = ["look for", "head to", "track down", "seek out", "walk over to"];
pub const TAKE_OTHERWISE: [&str; 4] = ["get hold of", "lift", "seize", "collect"];

/// Things are near one another up to this distance of their middles on the floor, metres.
const NEAR_M: f64 = 1.0;
/// The closest and the furthest are so by at least this much, metres.
const MARGIN_M: f64 = 0.3;

/// The WordNet sense that episode files give for a type.
pub fn synset(kind: &str) -> String {
    let known = SENSES.iter().find(|(known, _)| *known == kind).map(|(_, synset)| (*synset).to_owned());
    known.unwrap_or_else(|| format!("{}.n.01", words(kind).replace(' ', "_")))
}

/// The type of a WordNet sense, where it is one of those that episodes ask for.
pub fn kind_of(synset: &str) -> Option<&'static str> {
    SENSES.iter().find(|(_, known)| *known == synset).map(|(kind, _)| *kind)
}

/// Types and senses of CHORES.
const SENSES: [(&str, &str); 15] = [
    ("AlarmClock", "alarm_clock.n.01"),
    ("Apple", "apple.n.01"),
    ("BasketBall", "basketball.n.02"),
    ("Bed", "bed.n.01"),
    ("Bowl", "bowl.n.03"),
    ("Chair", "straight_chair.n.01"),
    ("GarbageCan", "ashcan.n.01"),
    ("HousePlant", "houseplant.n.01"),
    ("Laptop", "laptop.n.01"),
    ("Mug", "mug.n.04"),
    ("Sofa", "sofa.n.01"),
    ("SprayBottle", "atomizer.n.01"),
    ("Television", "television_receiver.n.01"),
    ("Toilet", "toilet.n.02"),
    ("Vase", "vase.n.01"),
];

/// The sense above a type's, as episode files give it.
pub fn hypernym(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "Mug" | "Bowl" | "Vase" | "GarbageCan" | "SprayBottle" => "container.n.01",
        "AlarmClock" => "instrument.n.01",
        "Apple" => "fruit.n.01",
        "Laptop" => "machine.n.01",
        "BasketBall" | "Television" => "equipment.n.01",
        "Chair" | "Sofa" | "Bed" => "furnishing.n.02",
        "Toilet" => "fixture.n.01",
        "HousePlant" => "plant.n.02",
        _ => return None,
    })
}

/// A type's best lemma, in words: `spray bottle`.
pub fn noun(kind: &str) -> String {
    match kind {
        "BasketBall" => "basketball".into(),
        "GarbageCan" => "trash can".into(),
        "HousePlant" => "houseplant".into(),
        "TVStand" => "tv stand".into(),
        other => words(other),
    }
}

/// `DiningTable` in words.
fn words(kind: &str) -> String {
    let mut text = String::new();
    for (index, letter) in kind.chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// `an apple`.
pub fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// How one thing is told from others of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Any of its type will do.
    Any,
    /// By a colour word.
    Colour(&'static str),
    /// It stands on or lies in something of a type.
    On(String),
    /// Something of each of these types is within a metre, in the same room.
    Near(Vec<String>),
    /// The closest of its type to the one thing of another type.
    Closest(String),
    Furthest(String),
}

/// A type and a relation, in the whole house or in one room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrase {
    pub kind: String,
    pub relation: Relation,
    /// A position in the scene's rooms: said as *in the room*, so only for starts in it.
    pub room: Option<usize>,
}

/// The colour word of a thing; `None`: it has no one colour.
pub type Colours<'a> = &'a dyn Fn(&Thing) -> Option<&'static str>;

impl Phrase {
    pub fn any(kind: &str) -> Phrase {
        Phrase { kind: kind.into(), relation: Relation::Any, room: None }
    }

    /// `a mug on a dining table`.
    pub fn text(&self) -> String {
        let noun = noun(&self.kind);
        let one = |kind: &String| with_article(&self::noun(kind));
        let text = match &self.relation {
            Relation::Any => with_article(&noun),
            Relation::Colour(colour) => format!("the {colour} {noun}"),
            Relation::On(kind) => format!("{} on {}", with_article(&noun), one(kind)),
            Relation::Near(kinds) => {
                let list: Vec<String> = kinds.iter().map(one).collect();
                format!("{} near {}", with_article(&noun), list.join(" and "))
            }
            Relation::Closest(kind) => format!("the {noun} closest to the {}", self::noun(kind)),
            Relation::Furthest(kind) => format!("the {noun} furthest from the {}", self::noun(kind)),
        };
        if self.room.is_some() { format!("{text} in the room") } else { text }
    }

    /// The things it means, by position in the scene's things.
    pub fn means(&self, scene: &Scene, colours: Colours) -> Vec<usize> {
        let things = &scene.things;
        let here = |thing: &Thing| self.room.is_none_or(|room| usize::from(thing.room) == room);
        let all = |kind: &str| -> Vec<usize> {
            (0..things.len()).filter(|&number| things[number].kind == kind && here(&things[number])).collect()
        };
        let mine = all(&self.kind);
        match &self.relation {
            Relation::Any => mine,
            Relation::Colour(colour) => mine.into_iter().filter(|&number| colours(&things[number]) == Some(colour)).collect(),
            Relation::On(kind) => {
                let on = |number: &usize| things[*number].parent.is_some_and(|parent| things[usize::from(parent)].kind == *kind);
                mine.into_iter().filter(on).collect()
            }
            Relation::Near(kinds) => mine.into_iter().filter(|&number| kinds.iter().all(|kind| is_near(scene, number, kind))).collect(),
            Relation::Closest(kind) => extreme(scene, &mine, &all(kind), false),
            Relation::Furthest(kind) => extreme(scene, &mine, &all(kind), true),
        }
    }
}

fn is_near(scene: &Scene, number: usize, kind: &str) -> bool {
    let thing = &scene.things[number];
    scene.things.iter().enumerate().any(|(other, near)| {
        other != number && near.kind == kind && near.room == thing.room && near.floor_centre().distance(thing.floor_centre()) <= NEAR_M
    })
}

/// The one of `mine` that is closest to or furthest from the only one of `others`; none where it is not clear.
fn extreme(scene: &Scene, mine: &[usize], others: &[usize], furthest: bool) -> Vec<usize> {
    let [other] = others else { return Vec::new() };
    let place = scene.things[*other].floor_centre();
    let sign = if furthest { -1.0 } else { 1.0 };
    let mut ranked: Vec<(f64, usize)> = mine
        .iter()
        .filter(|number| *number != other)
        .map(|&number| (sign * scene.things[number].floor_centre().distance(place), number))
        .collect();
    ranked.sort_by(|one, two| one.0.total_cmp(&two.0).then(one.1.cmp(&two.1)));
    match ranked[..] {
        [(_, only)] => vec![only],
        [(first, best), (second, _), ..] if second - first >= MARGIN_M => vec![best],
        _ => Vec::new(),
    }
}

/// Types that others are related to: what one sees from afar, and no small thing of many.
const LANDMARKS: [&str; 17] = [
    "ArmChair",
    "Bed",
    "CoffeeTable",
    "CounterTop",
    "Desk",
    "DiningTable",
    "Dresser",
    "FloorLamp",
    "Fridge",
    "GarbageCan",
    "HousePlant",
    "ShelvingUnit",
    "SideTable",
    "Sofa",
    "TVStand",
    "Television",
    "Toilet",
];

/// Every phrase that means this thing and no other of its house (or of its room, where the phrase says so).
pub fn describe(scene: &Scene, number: usize, colours: Colours) -> Vec<Phrase> {
    let Some(thing) = scene.things.get(number) else { return Vec::new() };
    let mut relations = vec![Relation::Any];
    relations.extend(colours(thing).map(Relation::Colour));
    relations.extend(thing.parent.map(|parent| Relation::On(scene.things[usize::from(parent)].kind.clone())));
    let near: Vec<&str> = LANDMARKS.into_iter().filter(|&kind| kind != thing.kind && is_near(scene, number, kind)).collect();
    relations.extend(near.iter().map(|&kind| Relation::Near(vec![kind.to_owned()])));
    for (index, &one) in near.iter().enumerate() {
        relations.extend(near[index + 1..].iter().map(|&other| Relation::Near(vec![one.to_owned(), other.to_owned()])));
    }
    for kind in LANDMARKS.into_iter().filter(|&kind| kind != thing.kind) {
        relations.extend([Relation::Closest(kind.to_owned()), Relation::Furthest(kind.to_owned())]);
    }
    let room = usize::from(thing.room);
    let phrases = relations
        .into_iter()
        .flat_map(|relation| [None, Some(room)].map(|room| Phrase { kind: thing.kind.clone(), relation: relation.clone(), room }));
    phrases.filter(|phrase| phrase.means(scene, colours) == [number]).collect()
}

/// Whose words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wording {
    /// The templates of the CHORES tasks.
    #[default]
    Template,
    /// Held out: verbs and orders of words that the templates do not have.
    Paraphrase,
}

/// The instruction of a task that asks for something. `bring`: it is then brought back to the start.
pub fn instruction(task: Task, phrase: &Phrase, bring: bool, wording: Wording, rng: &mut ChaCha8Rng) -> String {
    fn pick(list: &[&'static str], rng: &mut ChaCha8Rng) -> &'static str {
        list[rng.random_range(0..list.len())]
    }
    let (asked, noun) = (phrase.text(), noun(&phrase.kind));
    let (go, take) = match wording {
        Wording::Template => (pick(&GO, rng), pick(&TAKE, rng)),
        Wording::Paraphrase => (pick(&GO_OTHERWISE, rng), pick(&TAKE_OTHERWISE, rng)),
    };
    match (wording, task) {
        (Wording::Template, Task::PickUp) if bring => format!("{take} {asked} and bring it back to where you started"),
        (Wording::Template, Task::PickUp) => format!("{take} {asked}"),
        (Wording::Template, Task::Fetch) if bring => format!("{go} {asked}, {take} that {noun} and bring it back to where you started"),
        (Wording::Template, Task::Fetch) => format!("{go} {asked} and {take} that {noun}"),
        (Wording::Template, _) => format!("{go} {asked}"),
        (Wording::Paraphrase, Task::PickUp | Task::Fetch) if bring => pick(
            &["i left PLACE somewhere: carry it here, please", "please come back to this spot with PLACE in your hand, and put it down"],
            rng,
        )
        .replace("PLACE", &asked),
        (Wording::Paraphrase, Task::PickUp) => format!("there should be {asked} close by. {take} it"),
        (Wording::Paraphrase, Task::Fetch) => match rng.random_range(0..2) {
            0 => format!("i need {asked}: {go} it, then {take} it"),
            _ => format!("somewhere in this house is {asked}. once you see that {noun}, {take} it"),
        },
        (Wording::Paraphrase, _) => format!("please {go} {asked} and stop in front of it"),
    }
}

/// The instruction of RoomVisit in a house of so many rooms.
pub fn room_visit(rooms: usize, wording: Wording) -> String {
    match wording {
        Wording::Template => {
            format!("go to all {rooms} rooms in the house. indicate when you have seen a new room and when you are done")
        }
        Wording::Paraphrase => {
            format!("this house has {rooms} rooms. enter each of them, say so every time you come into one, and stop at the end")
        }
    }
}

/// The instruction of RoomNav: a room of a type, `LivingRoom`.
pub fn room_nav(room_kind: &str, rng: &mut ChaCha8Rng) -> String {
    format!("{} {}", GO[rng.random_range(0..GO.len())], with_article(&words(room_kind)))
}

/// A plain word for a colour (red, green, blue in 0..=1); `None` where two words would do.
pub fn colour_word(rgb: [f32; 3]) -> Option<&'static str> {
    let (most, least) = (rgb.iter().copied().fold(0.0, f32::max), rgb.iter().copied().fold(1.0, f32::min));
    let spread = most - least;
    if spread < 0.08 {
        return match most {
            value if value < 0.2 => Some("black"),
            value if value > 0.85 => Some("white"),
            value if (0.3..0.7).contains(&value) => Some("gray"),
            _ => None,
        };
    }
    if spread < 0.22 || most < 0.25 {
        return None;
    }
    let [red, green, blue] = rgb;
    let hue = if most == red {
        60.0 * ((green - blue) / spread)
    } else if most == green {
        60.0 * (2.0 + (blue - red) / spread)
    } else {
        60.0 * (4.0 + (red - green) / spread)
    };
    let hue = if hue < 0.0 { hue + 360.0 } else { hue };
    match hue {
        h if !(12.0..345.0).contains(&h) => Some("red"),
        h if (22.0..42.0).contains(&h) => Some(if most < 0.65 { "brown" } else { "orange" }),
        h if (50.0..66.0).contains(&h) => Some("yellow"),
        h if (85.0..150.0).contains(&h) => Some("green"),
        h if (195.0..250.0).contains(&h) => Some("blue"),
        h if (265.0..295.0).contains(&h) => Some("purple"),
        h if (305.0..335.0).contains(&h) => Some("pink"),
        _ => None,
    }
}

#[cfg(test)]
#[path = "instruct/tests.rs"]
mod tests;
