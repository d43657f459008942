//! What the worlds on a grid share: directions, dice, texts, the hash that splits training from held-out levels.
//!
//! Knows nothing of ice or boxes.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Deserialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Left,
    Down,
    Right,
    Up,
}

impl Direction {
    pub(crate) const ALL: [Direction; 4] = [Direction::Left, Direction::Down, Direction::Right, Direction::Up];

    /// The action's canonical name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Direction::Left => "Left",
            Direction::Down => "Down",
            Direction::Right => "Right",
            Direction::Up => "Up",
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Direction::Left => "left",
            Direction::Down => "down",
            Direction::Right => "right",
            Direction::Up => "up",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Direction> {
        Direction::ALL.into_iter().find(|direction| direction.name() == name)
    }

    pub(crate) fn opposite(self) -> Direction {
        match self {
            Direction::Left => Direction::Right,
            Direction::Down => Direction::Up,
            Direction::Right => Direction::Left,
            Direction::Up => Direction::Down,
        }
    }

    /// The two directions across this one, in a fixed order.
    pub(crate) fn across(self) -> [Direction; 2] {
        match self {
            Direction::Left | Direction::Right => [Direction::Up, Direction::Down],
            Direction::Down | Direction::Up => [Direction::Left, Direction::Right],
        }
    }
}

/// Width and height of a grid; its cells are numbered row by row from the top left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl Extent {
    pub(crate) fn cells(self) -> usize {
        self.width * self.height
    }

    pub(crate) fn row(self, cell: usize) -> usize {
        cell / self.width
    }

    pub(crate) fn column(self, cell: usize) -> usize {
        cell % self.width
    }

    /// The cell beside `cell`; `None` past the edge.
    pub(crate) fn beside(self, cell: usize, direction: Direction) -> Option<usize> {
        let (row, column) = (self.row(cell), self.column(cell));
        match direction {
            Direction::Left => (column > 0).then(|| cell - 1),
            Direction::Right => (column + 1 < self.width).then(|| cell + 1),
            Direction::Up => (row > 0).then(|| cell - self.width),
            Direction::Down => (row + 1 < self.height).then(|| cell + self.width),
        }
    }

    pub(crate) fn on_border(self, cell: usize) -> bool {
        let (row, column) = (self.row(cell), self.column(cell));
        row == 0 || column == 0 || row + 1 == self.height || column + 1 == self.width
    }

    /// Where a cell is, in words; rows and columns count from 1 at the top left.
    pub(crate) fn place(self, cell: usize) -> String {
        format!("row {}, column {}", self.row(cell) + 1, self.column(cell) + 1)
    }

    /// Where `to` lies as seen from `from`, as `2 down and 1 right`; `here` where they are one cell.
    pub(crate) fn offset(self, from: usize, to: usize) -> String {
        let mut parts = Vec::new();
        let (rows, columns) = (self.row(to).abs_diff(self.row(from)), self.column(to).abs_diff(self.column(from)));
        if rows > 0 {
            parts.push(format!("{rows} {}", if self.row(to) > self.row(from) { "down" } else { "up" }));
        }
        if columns > 0 {
            parts.push(format!("{columns} {}", if self.column(to) > self.column(from) { "right" } else { "left" }));
        }
        if parts.is_empty() { "here".into() } else { parts.join(" and ") }
    }
}

/// Seeded random numbers that are the same on every machine and with every version of `rand`.
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    /// Different `domain`s and `numbers` give independent streams.
    pub(crate) fn new(domain: &str, numbers: &[u64]) -> Dice {
        let mut hasher = blake3::Hasher::new();
        hasher.update(domain.as_bytes());
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
        Dice(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    /// Uniform over `0..bound`; `bound` is at least 1. The bias of the product is under 2^-32 for our bounds.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let product = u128::from(self.0.next_u64()) * bound as u128;
        (product >> 64) as usize
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        f64::from(self.0.next_u32()) < probability * 4_294_967_296.0
    }

    pub(crate) fn seed(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// Which of the two sets a level belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    Train,
    HeldOut,
}

/// One level in this many is held out.
const HELD_OUT_SHARE: u64 = 8;

/// The set of a level: by its hash up to rotation and mirror, so that a held-out level never has a turned twin in training.
///
/// `ground` has one byte a cell, of all but the player. The player is left out on purpose: else a held-out level could be one of
/// training with the player a step on.
pub(crate) fn set_of(extent: Extent, ground: &[u8]) -> Set {
    if canonical_hash(extent, ground).is_multiple_of(HELD_OUT_SHARE) { Set::HeldOut } else { Set::Train }
}

/// Hash of the least of the eight rotations and mirrors.
pub(crate) fn canonical_hash(extent: Extent, ground: &[u8]) -> u64 {
    let mut least: Option<Vec<u8>> = None;
    for symmetry in 0..8u8 {
        let (swap, flip_rows, flip_columns) = (symmetry & 1 != 0, symmetry & 2 != 0, symmetry & 4 != 0);
        let (width, height) = if swap { (extent.height, extent.width) } else { (extent.width, extent.height) };
        let mut turned = Vec::with_capacity(ground.len() + 1);
        turned.push(width as u8);
        for row in 0..height {
            for column in 0..width {
                let (row, column) = if swap { (column, row) } else { (row, column) };
                let row = if flip_rows { extent.height - 1 - row } else { row };
                let column = if flip_columns { extent.width - 1 - column } else { column };
                turned.push(ground[row * extent.width + column]);
            }
        }
        if least.as_ref().is_none_or(|best| turned < *best) {
            least = Some(turned);
        }
    }
    hash(&least.unwrap_or_default())
}

/// The first eight bytes of BLAKE3.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let digest = blake3::hash(bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// How a grid is put into words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// VAGEN's text: a symbol a cell between a space and a tab, one line a row.
    #[default]
    Grid,
    /// One line: whether the last action worked, then one word a cell, ` / ` between rows.
    Compact,
    /// One line: whether the last action worked, then one word for each cell that matters, of content and place, as `Pb2`.
    Cells,
    /// As `Cells`, but all except the player are told by their way from the player, as `Gd3r2`: what to do follows from one word.
    Relative,
}

/// What stands on a cell, for the three views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sign {
    /// VAGEN's symbol.
    pub(crate) symbol: &'static str,
    /// One ASCII letter.
    pub(crate) word: &'static str,
    /// Its turn in [`View::Cells`]; 0 leaves it out.
    pub(crate) turn: u8,
}

/// Whether the last action worked, as the one-line views say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    Nothing,
    Worked,
    Failed,
}

impl Last {
    pub(crate) fn of(worked: bool) -> Last {
        if worked { Last::Worked } else { Last::Failed }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Last::Nothing => "new",
            Last::Worked => "ok",
            Last::Failed => "stuck",
        }
    }
}

/// The text of a grid. With `pictures`, `<image>` stands in place of the cells.
pub(crate) fn write(view: View, pictures: bool, last: Last, extent: Extent, signs: &[Sign]) -> String {
    match (view, pictures) {
        (View::Grid, true) => "<image>".into(),
        (_, true) => format!("{} <image>", last.word()),
        (View::Grid, false) => {
            let mut text = String::with_capacity(signs.len() * 5);
            for (cell, sign) in signs.iter().enumerate() {
                if cell > 0 && extent.column(cell) == 0 {
                    text.push('\n');
                }
                text.push(' ');
                text.push_str(sign.symbol);
                text.push_str(" \t");
            }
            text
        }
        (View::Compact, false) => {
            let mut text = String::from(last.word());
            for (cell, sign) in signs.iter().enumerate() {
                text.push_str(if cell > 0 && extent.column(cell) == 0 { " / " } else { " " });
                text.push_str(sign.word);
            }
            text
        }
        (View::Cells, false) => cells(last, signs, |_, cell| place_word(extent, cell)),
        (View::Relative, false) => {
            let player = player_of(signs);
            cells(last, signs, |sign, cell| if sign.turn <= 1 { place_word(extent, cell) } else { way_word(extent, player, cell) })
        }
    }
}

fn cells(last: Last, signs: &[Sign], place: impl Fn(&Sign, usize) -> String) -> String {
    let mut text = String::from(last.word());
    let turns = signs.iter().map(|sign| sign.turn).max().unwrap_or(0);
    for turn in 1..=turns {
        for (cell, sign) in signs.iter().enumerate().filter(|(_, sign)| sign.turn == turn) {
            text.push(' ');
            text.push_str(sign.word);
            text.push_str(&place(sign, cell));
        }
    }
    text
}

/// Row letter from the top, column number from the left.
fn place_word(extent: Extent, cell: usize) -> String {
    format!("{}{}", char::from(b'a' + extent.row(cell) as u8), extent.column(cell) + 1)
}

/// Where the sign that is told first stands: the player, or what became of it.
fn player_of(signs: &[Sign]) -> usize {
    let first = signs.iter().map(|sign| sign.turn).filter(|turn| *turn > 0).min();
    signs.iter().position(|sign| Some(sign.turn) == first).unwrap_or(0)
}

/// The way from one cell to another: up or down so many, left or right so many; `d3r2`.
fn way_word(extent: Extent, from: usize, to: usize) -> String {
    let part = |from: usize, to: usize, less: char, more: char| match to.cmp(&from) {
        std::cmp::Ordering::Less => format!("{less}{}", from - to),
        std::cmp::Ordering::Equal => String::new(),
        std::cmp::Ordering::Greater => format!("{more}{}", to - from),
    };
    let (rows, columns) = (part(extent.row(from), extent.row(to), 'u', 'd'), part(extent.column(from), extent.column(to), 'l', 'r'));
    format!("{rows}{columns}")
}

/// How the cells are told, for the rules.
pub(crate) fn view_words(view: View) -> &'static str {
    match view {
        View::Grid => "Each line is one row, from the top.",
        View::Compact => {
            "The line starts with `new`, or with `ok` or `stuck` for the last action; then the rows follow from the top, with / between them."
        }
        View::Cells => {
            "The line starts with `new`, or with `ok` or `stuck` for the last action; then come the cells that matter: what is there, its row (a is the top), its column (1 is leftmost)."
        }
        View::Relative => {
            "The line starts with `new`, or with `ok` or `stuck` for the last action; then come you, with row (a is the top) and column (1 is leftmost), and the cells that matter with the way there: u up, d down, l left, r right, and how far."
        }
    }
}

/// What the agent did, newest kept where not all fits: `Right 2, Down, Up failed`.
pub(crate) fn recount(deeds: &[(Direction, bool)], max_chars: usize) -> String {
    let mut text = String::new();
    let mut end = deeds.len();
    while end > 0 {
        let (direction, worked) = deeds[end - 1];
        let start = deeds[..end].iter().rposition(|deed| *deed != (direction, worked)).map_or(0, |at| at + 1);
        let mut part = direction.name().to_string();
        if end - start > 1 {
            part.push_str(&format!(" {}", end - start));
        }
        if !worked {
            part.push_str(" failed");
        }
        let joined = if text.is_empty() { part } else { format!("{part}, {text}") };
        let room = if start > 0 { max_chars.saturating_sub("..., ".len()) } else { max_chars };
        if joined.len() > room {
            return if text.is_empty() { text } else { format!("..., {text}") };
        }
        text = joined;
        end = start;
    }
    text
}

/// `1-3`, `4-6`, `7+`: how long the shortest solution is.
pub(crate) const BUCKETS: [&str; 3] = ["1-3", "4-6", "7+"];

/// The bucket of a solution's length.
pub(crate) fn bucket(length: usize) -> &'static str {
    match length {
        0..=3 => BUCKETS[0],
        4..=6 => BUCKETS[1],
        _ => BUCKETS[2],
    }
}

/// The lengths of a bucket, both ends included.
pub(crate) fn lengths(bucket: &str) -> Option<(usize, usize)> {
    match bucket {
        "1-3" => Some((1, 3)),
        "4-6" => Some((4, 6)),
        "7+" => Some((7, usize::MAX)),
        _ => None,
    }
}

/// Names of actions with commas, for the sentences.
pub(crate) fn steps(actions: &[String]) -> String {
    actions.join(", ")
}
