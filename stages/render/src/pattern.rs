//! The few patterns that surfaces are made of: a value in 0..=255 for each texel of a square that repeats.
//!
//! A [`crate::look::Paint`] mixes two colours by that value. Patterns are drawn once a process from integer noise, each with
//! its smaller copies (mip levels), so that surfaces far away do not flicker.

use std::sync::OnceLock;

/// Texels a side at level 0, as a power of two.
pub(crate) const BITS: u32 = 6;
const SIDE: usize = 1 << BITS;
const LEVELS: usize = BITS as usize + 1;

/// One level: the texels of a square of side `64 >> level`, row by row, at the front. All are as long as the largest, so
/// that an index needs no check.
pub(crate) type Level = [u8; SIDE * SIDE];

/// A pattern with its smaller copies.
pub(crate) struct Pattern {
    levels: Vec<Level>,
}

impl Pattern {
    pub(crate) fn level(&self, level: u32) -> &Level {
        &self.levels[level as usize % LEVELS]
    }
}

/// What a pattern shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Figure {
    Plain,
    Plaster,
    Planks,
    Parquet,
    Grain,
    Tiles,
    SmallTiles,
    Subway,
    Bricks,
    Marble,
    Speckle,
    Weave,
    Carpet,
    Stripes,
    Checks,
    Leaves,
}

pub(crate) const FIGURES: [Figure; 16] = {
    use Figure::*;
    [Plain, Plaster, Planks, Parquet, Grain, Tiles, SmallTiles, Subway, Bricks, Marble, Speckle, Weave, Carpet, Stripes, Checks, Leaves]
};

/// Every pattern, by figure.
pub(crate) fn patterns() -> &'static [Pattern] {
    static DRAWN: OnceLock<Vec<Pattern>> = OnceLock::new();
    DRAWN.get_or_init(|| FIGURES.iter().map(|&figure| drawn(figure)).collect())
}

fn drawn(figure: Figure) -> Pattern {
    let mut first: Level = [0; SIDE * SIDE];
    for (index, texel) in first.iter_mut().enumerate() {
        *texel = texel_of(figure, index % SIDE, index / SIDE).clamp(0, 255) as u8;
    }
    let mut levels = vec![first];
    for level in 1..LEVELS {
        let above = levels[level - 1];
        let (side, double) = (SIDE >> level, SIDE >> (level - 1));
        let mut next: Level = [0; SIDE * SIDE];
        for (index, texel) in next[..side * side].iter_mut().enumerate() {
            let at = (index / side) * 2 * double + (index % side) * 2;
            let four = [at, at + 1, at + double, at + double + 1];
            *texel = (four.iter().map(|&at| u32::from(above[at])).sum::<u32>().div_ceil(4)).min(255) as u8;
        }
        levels.push(next);
    }
    Pattern { levels }
}

/// Noise in 0..256 for a point of a lattice and a seed.
fn noise(x: usize, y: usize, seed: u32) -> i32 {
    let mut h = (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77) ^ seed.wrapping_mul(0xC2B2_AE3D);
    h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
    h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
    ((h ^ (h >> 15)) & 255) as i32
}

/// Noise that changes slowly: the lattice has a point every `step` texels and repeats with the square.
fn smooth(x: usize, y: usize, step: [usize; 2], seed: u32) -> i32 {
    let cell = |v: usize, step: usize| (v / step, (v % step) as i32, SIDE / step);
    let ((cx, fx, nx), (cy, fy, ny)) = (cell(x, step[0]), cell(y, step[1]));
    let at = |dx: usize, dy: usize| noise((cx + dx) % nx, (cy + dy) % ny, seed);
    let (sx, sy) = (step[0] as i32, step[1] as i32);
    let top = at(0, 0) * (sx - fx) + at(1, 0) * fx;
    let low = at(0, 1) * (sx - fx) + at(1, 1) * fx;
    (top * (sy - fy) + low * fy) / (sx * sy)
}

/// Noise of several sizes.
fn cloudy(x: usize, y: usize, seed: u32) -> i32 {
    (smooth(x, y, [32, 32], seed) * 4
        + smooth(x, y, [16, 16], seed + 1) * 2
        + smooth(x, y, [8, 8], seed + 2)
        + smooth(x, y, [4, 4], seed + 3))
        / 8
}

fn texel_of(figure: Figure, x: usize, y: usize) -> i32 {
    match figure {
        Figure::Plain => 128,
        Figure::Plaster => 96 + (cloudy(x, y, 3) + noise(x, y, 4) / 2) / 6,
        Figure::Planks => planks(x, y),
        Figure::Parquet => parquet(x, y),
        Figure::Grain => grain(x, y, 11),
        Figure::Tiles => tiles(x, y, 32, 2),
        Figure::SmallTiles => tiles(x, y, 8, 1),
        Figure::Subway => masonry(x, y, [32, 16], 1, 21),
        Figure::Bricks => masonry(x, y, [32, 16], 2, 22) * 3 / 4 + noise(x, y, 5) / 6,
        Figure::Marble => marble(x, y),
        Figure::Speckle => 60 + noise(x, y, 6) / 2 + smooth(x, y, [4, 4], 7) / 4,
        Figure::Weave => 80 + (if (x / 2 + y / 2).is_multiple_of(2) { 60 } else { 0 }) + noise(x, y, 8) / 5,
        Figure::Carpet => 70 + noise(x, y, 9) / 3 + smooth(x, y, [8, 8], 10) / 4,
        Figure::Stripes => (if (x / 8).is_multiple_of(2) { 30 } else { 210 }) + noise(x, y, 12) / 16,
        Figure::Checks => (if (x / 16 + y / 16).is_multiple_of(2) { 40 } else { 200 }) + noise(x, y, 13) / 16,
        Figure::Leaves => smooth(x, y, [8, 4], 14) / 2 + noise(x / 2, y / 2, 15) / 2,
    }
}

/// Wood grain along x.
fn grain(x: usize, y: usize, seed: u32) -> i32 {
    70 + smooth(x, y, [32, 2], seed) / 4 + smooth(x, y, [16, 4], seed + 1) / 4 + noise(x / 8, y, seed + 2) / 10
}

/// Four boards, each a little lighter or darker, with dark joints.
fn planks(x: usize, y: usize) -> i32 {
    let (board, row) = (y / 16, y % 16);
    let joint = (noise(board, 1, 31) as usize % 4) * 16;
    if row == 0 || x == joint {
        return 10;
    }
    let shade = noise(board, usize::from(x > joint), 32) / 4;
    grain((x + board * 13) % SIDE, y, 33) / 2 + 40 + shade
}

/// Blocks of short staves, every second block turned.
fn parquet(x: usize, y: usize) -> i32 {
    let turned = (x / 16 + y / 16) % 2 == 1;
    let (along, across) = if turned { (y, x) } else { (x, y) };
    if across.is_multiple_of(4) || along.is_multiple_of(16) {
        return 40;
    }
    90 + noise(along / 16 + 7 * usize::from(turned), across / 4, 34) / 3 + noise(along / 4, across, 35) / 10
}

/// Square tiles with light joints.
fn tiles(x: usize, y: usize, side: usize, joint: usize) -> i32 {
    if x % side < joint || y % side < joint {
        return 245;
    }
    70 + noise(x / side, y / side, 36) / 8 + cloudy(x, y, 37) / 8
}

/// Courses that are laid half a stone apart.
fn masonry(x: usize, y: usize, [long, high]: [usize; 2], joint: usize, seed: u32) -> i32 {
    let course = y / high;
    let shifted = (x + (course % 2) * long / 2) % SIDE;
    if y % high < joint || shifted % long < joint {
        return 250;
    }
    40 + noise(shifted / long, course, seed) / 4 + cloudy(x, y, seed) / 8
}

/// Veins on clouds.
fn marble(x: usize, y: usize) -> i32 {
    let cloud = cloudy(x, y, 41);
    let vein = (smooth(x, y, [16, 16], 45) - smooth(x, y, [32, 16], 46)).abs();
    let dark = (9 - vein).max(0) * 7;
    110 + cloud / 3 - dark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_copies_keep_the_mean() {
        for (figure, pattern) in FIGURES.iter().zip(patterns()) {
            let mean = |level: usize| {
                let count = (SIDE >> level) * (SIDE >> level);
                pattern.levels[level][..count].iter().map(|&texel| f64::from(texel)).sum::<f64>() / count as f64
            };
            for level in 1..LEVELS {
                assert!((mean(level) - mean(0)).abs() < 4.0, "{figure:?} level {level}");
            }
        }
    }

    #[test]
    fn every_figure_is_where_its_number_says() {
        for (index, figure) in FIGURES.iter().enumerate() {
            assert_eq!(*figure as usize, index);
        }
    }
}
