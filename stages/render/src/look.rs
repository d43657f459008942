//! What surfaces look like: names of materials and assets in, paints out.
//!
//! A wall's or floor's paint comes from its material's name, an object's from its asset's name and the slot of the part:
//! the type of an object has no say, so that colours tell nothing about it. [`Look::randomised`] gives other materials and
//! lights, as training does.

use crate::pattern::Figure;
use household::shape::DARK;

/// A surface: a pattern that mixes two colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paint {
    pub figure: Figure,
    /// Texels a metre; a pattern repeats after 64.
    pub texels: f32,
    /// Colours where the pattern is 0 and 255; red, green, blue in 0..=255.
    pub dark: [f32; 3],
    pub light: [f32; 3],
}

/// Which materials and lights a house has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// `None`: the house's own.
    seed: Option<u64>,
}

/// The share of training episodes whose materials and lights are randomised, in tenths.
const RANDOMISED_TENTHS: u64 = 8;

impl Look {
    /// The house's own materials and lights.
    pub fn own() -> Look {
        Look { seed: None }
    }

    /// Materials and lights of a seed's own in four cases of five, else the house's.
    pub fn randomised(seed: u64) -> Look {
        let draw = hash(seed, "randomise");
        Look { seed: (draw % 10 < RANDOMISED_TENTHS).then_some(seed) }
    }

    pub fn is_randomised(&self) -> bool {
        self.seed.is_some()
    }

    /// A number for a name that is this look's own.
    pub(crate) fn number(&self, name: &str) -> u64 {
        hash(self.seed.map_or(0, |seed| seed | 1 << 63), name)
    }

    /// A number in `low..high` for a name; `usual` where nothing is randomised.
    pub(crate) fn value(&self, name: &str, [low, usual, high]: [f32; 3]) -> f32 {
        if self.seed.is_none() { usual } else { low + (high - low) * share(self.number(name)) }
    }

    /// A wall's, floor's or ceiling's paint.
    pub(crate) fn surface(&self, name: &str, colour: Option<[f32; 3]>, role: Role) -> Paint {
        match self.seed {
            None => named(name, colour, role),
            Some(_) => self.drawn(&format!("{name}/{colour:?}/{role:?}"), role),
        }
    }

    /// A random surface for a role.
    fn drawn(&self, name: &str, role: Role) -> Paint {
        let n = self.number(name);
        let figures: &[Figure] = match role {
            Role::Floor => FLOORS,
            Role::Wall => WALLS,
            Role::Ceiling => &[Figure::Plaster, Figure::Plain],
        };
        let figure = figures[(n % figures.len() as u64) as usize];
        let hue = share(self.number(&format!("{name}/hue")));
        let (saturation, value) = (0.45 * share(n >> 8), if role == Role::Ceiling { 0.85 } else { 0.45 + 0.5 * share(n >> 16) });
        paint(figure, hsv(hue, saturation, value))
    }

    /// The paint of a part of an object.
    pub(crate) fn object(&self, asset: &str, slot: u8) -> Paint {
        let n = self.number(&format!("{asset}/{slot}"));
        if slot == DARK {
            return paint(Figure::Plain, hsv(share(n >> 12), 0.15 * share(n >> 20), 0.1 + 0.16 * share(n >> 30)));
        }
        let figure = OBJECTS[(n % OBJECTS.len() as u64) as usize];
        if figure == Figure::Grain {
            let wood = WOODS[(n >> 12) as usize % WOODS.len()];
            return paint(figure, wood.map(|c| c * (0.85 + 0.3 * share(n >> 20))));
        }
        let (hue, grey) = (share(n >> 12), share(n >> 40));
        let saturation = if grey < 0.4 { 0.07 } else { 0.15 + 0.5 * share(n >> 20) };
        paint(figure, hsv(hue, saturation, 0.28 + 0.67 * share(n >> 30)))
    }
}

/// What a surface is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Floor,
    Wall,
    Ceiling,
}

const FLOORS: &[Figure] =
    &[Figure::Planks, Figure::Parquet, Figure::Planks, Figure::Tiles, Figure::Carpet, Figure::Marble, Figure::Weave, Figure::Checks];
const WALLS: &[Figure] =
    &[Figure::Plaster, Figure::Plaster, Figure::Plain, Figure::Plaster, Figure::Bricks, Figure::Tiles, Figure::Subway, Figure::Stripes];
const OBJECTS: &[Figure] =
    &[Figure::Plain, Figure::Grain, Figure::Plaster, Figure::Plain, Figure::Weave, Figure::Grain, Figure::Speckle, Figure::Plain];
const WOODS: &[[f32; 3]] =
    &[[150.0, 104.0, 66.0], [186.0, 142.0, 94.0], [106.0, 70.0, 46.0], [208.0, 176.0, 132.0], [78.0, 54.0, 42.0], [164.0, 92.0, 58.0]];

/// Words in a material's name, and the pattern they stand for. The first that is found counts.
const FIGURE_WORDS: &[(&str, Figure)] = &[
    ("brick", Figure::Bricks),
    ("subway", Figure::Subway),
    ("smalltile", Figure::SmallTiles),
    ("smallkitchentile", Figure::SmallTiles),
    ("glasstile", Figure::SmallTiles),
    ("mosaic", Figure::SmallTiles),
    ("marble", Figure::Marble),
    ("granite", Figure::Speckle),
    ("terrazzo", Figure::Speckle),
    ("tile", Figure::Tiles),
    ("kitchen", Figure::Tiles),
    ("bathroom", Figure::Tiles),
    ("parquet", Figure::Parquet),
    ("herringbone", Figure::Parquet),
    ("wood", Figure::Planks),
    ("laminate", Figure::Planks),
    ("plank", Figure::Planks),
    ("beams", Figure::Planks),
    ("walnut", Figure::Planks),
    ("wicker", Figure::Weave),
    ("fabric", Figure::Weave),
    ("carpet", Figure::Carpet),
    ("rug", Figure::Carpet),
    ("stripe", Figure::Stripes),
    ("checker", Figure::Checks),
    ("purewhite", Figure::Plain),
    ("porcelain", Figure::Plain),
];

/// Words in a material's name, and the colour they stand for.
const COLOUR_WORDS: &[(&str, [f32; 3])] = &[
    ("offwhite", [232.0, 228.0, 216.0]),
    ("off_white", [232.0, 228.0, 216.0]),
    ("white", [238.0, 236.0, 232.0]),
    ("eggshell", [228.0, 219.0, 198.0]),
    ("beige", [216.0, 200.0, 172.0]),
    ("grey", [150.0, 151.0, 152.0]),
    ("gray", [150.0, 151.0, 152.0]),
    ("black", [58.0, 57.0, 58.0]),
    ("dark", [96.0, 88.0, 82.0]),
    ("red", [168.0, 84.0, 66.0]),
    ("orange", [222.0, 158.0, 100.0]),
    ("yellow", [228.0, 206.0, 132.0]),
    ("green", [150.0, 182.0, 144.0]),
    ("blue", [134.0, 164.0, 196.0]),
    ("pink", [224.0, 178.0, 170.0]),
    ("purple", [168.0, 140.0, 178.0]),
    ("brown", [138.0, 104.0, 76.0]),
    ("light", [214.0, 190.0, 156.0]),
];

/// The house's own material.
fn named(name: &str, colour: Option<[f32; 3]>, role: Role) -> Paint {
    let lower = name.to_ascii_lowercase().replace(' ', "");
    let found = FIGURE_WORDS.iter().find(|(word, _)| lower.contains(word)).map(|&(_, figure)| figure);
    let figure = found.unwrap_or(if role == Role::Floor { Figure::Planks } else { Figure::Plaster });
    if let Some(colour) = colour {
        return paint(figure, colour.map(|c| c.clamp(0.0, 1.0) * 255.0));
    }
    let n = hash(0, name);
    let wood = matches!(figure, Figure::Planks | Figure::Parquet | Figure::Weave);
    let brick = figure == Figure::Bricks;
    let base = match COLOUR_WORDS.iter().find(|(word, _)| lower.contains(word)) {
        Some(&(_, colour)) => colour,
        None if role == Role::Ceiling => [236.0, 234.0, 228.0],
        None if wood => WOODS[(n % WOODS.len() as u64) as usize],
        None if brick => [170.0, 96.0, 74.0],
        None => hsv(share(n >> 8), 0.12 + 0.16 * share(n >> 20), 0.72 + 0.22 * share(n >> 30)),
    };
    paint(figure, base.map(|c| c * (0.92 + 0.16 * share(n >> 40))))
}

/// A pattern around a colour: how far its dark and light parts are from it, and how large it is.
fn paint(figure: Figure, colour: [f32; 3]) -> Paint {
    let (low, high, texels) = match figure {
        Figure::Plain => (1.0, 1.0, 32.0),
        Figure::Plaster => (0.86, 1.12, 42.0),
        Figure::Planks => (0.5, 1.35, 110.0),
        Figure::Parquet => (0.55, 1.35, 64.0),
        Figure::Grain => (0.6, 1.4, 100.0),
        Figure::Tiles => (0.82, 1.16, 72.0),
        Figure::SmallTiles => (0.72, 1.2, 96.0),
        Figure::Subway => (0.84, 1.16, 140.0),
        Figure::Bricks => (0.72, 1.4, 120.0),
        Figure::Marble => (0.55, 1.25, 40.0),
        Figure::Speckle => (0.66, 1.3, 120.0),
        Figure::Weave => (0.72, 1.25, 130.0),
        Figure::Carpet => (0.76, 1.24, 90.0),
        Figure::Stripes => (0.86, 1.1, 110.0),
        Figure::Checks => (0.8, 1.1, 60.0),
        Figure::Leaves => (0.45, 1.5, 160.0),
    };
    Paint { figure, texels, dark: colour.map(|c| c * low), light: colour.map(|c| c * high) }
}

/// A colour of this hue, saturation and value, each in 0..=1; red, green, blue in 0..=255.
pub(crate) fn hsv(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [0.0, 4.0, 2.0].map(|turn| {
        let mut k = hue * 6.0 + turn;
        if k >= 6.0 {
            k -= 6.0;
        }
        let share = (((k - 3.0).abs() - 1.0).clamp(0.0, 1.0) - 1.0) * saturation + 1.0;
        255.0 * value * share
    })
}

/// 64 well-mixed bits of a seed and a name.
pub(crate) fn hash(seed: u64, name: &str) -> u64 {
    let mut h = seed ^ 0x9E37_79B9_7F4A_7C15;
    for byte in name.bytes() {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    h ^ (h >> 31)
}

/// A number in 0..1 from the low 16 bits.
fn share(n: u64) -> f32 {
    (n & 0xFFFF) as f32 / 65536.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_seeds_randomise_and_each_gives_the_same_again() {
        let randomised = (0..1000).filter(|&seed| Look::randomised(seed).is_randomised()).count();
        assert!((760..=840).contains(&randomised), "{randomised} of 1000");
        let look = (0..).map(Look::randomised).find(Look::is_randomised).expect("four of five are");
        assert_eq!(look.surface("RedBrick", None, Role::Wall), look.surface("RedBrick", None, Role::Wall));
        assert_ne!(look.surface("RedBrick", None, Role::Wall), Look::own().surface("RedBrick", None, Role::Wall));
    }

    #[test]
    fn names_of_materials_give_pattern_and_colour() {
        let brick = Look::own().surface("RedBrick", None, Role::Wall);
        assert_eq!(brick.figure, Figure::Bricks);
        assert!(brick.light[0] > brick.light[2]);
        let painted = Look::own().surface("PureWhite", Some([0.5, 0.25, 1.0]), Role::Wall);
        assert_eq!((painted.figure, painted.light), (Figure::Plain, [127.5, 63.75, 255.0]));
        assert_eq!(Look::own().surface("bathroomTilesGreen1", None, Role::Floor).figure, Figure::Tiles);
    }

    #[test]
    fn hues_are_where_they_belong() {
        assert_eq!(hsv(0.0, 1.0, 1.0), [255.0, 0.0, 0.0]);
        assert_eq!(hsv(1.0 / 3.0, 1.0, 1.0).map(|c| c.round()), [0.0, 255.0, 0.0]);
        assert_eq!(hsv(0.5, 0.0, 0.4).map(|c| c.round()), [102.0; 3]);
    }
}
