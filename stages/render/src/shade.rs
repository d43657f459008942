//! Colours, once for each pixel, from the face that it shows.
//!
//! In: the faces of a [`Canvas`]. Out: RGB rows. A run of pixels with the same face is coloured in pieces of 16: texture
//! coordinates and light are worked out at both ends of a piece and are linear between.

use crate::{
    canvas::Canvas,
    optics::Affine,
    pattern::{BITS, Level, Pattern, patterns},
};

/// Pixels without a face that are still taken for a crack.
const CRACK: usize = 3;
/// Pixels of a piece.
const PIECE: usize = 16;
/// Added to a small f32, it leaves the rounded number in the low bits.
const ROUND: f32 = 12_582_912.0;

/// How a face is coloured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shade {
    /// Inverse depth by pixel, and both texture coordinates (texels) times it.
    pub(crate) inverse: Affine,
    pub(crate) across: Affine,
    pub(crate) along: Affine,
    /// Light as a function of the texture coordinates u and v: the factors of 1, u, v and u v. Where the face is lit
    /// evenly the colours hold the light, and this is not used.
    pub(crate) light: [f32; 4],
    pub(crate) graded: bool,
    /// Which pattern; `Figure::Plain` has no texture coordinates.
    pub(crate) figure: u8,
    /// Colour where the pattern is 0, and what a step of the pattern adds; 0..=255.
    pub(crate) dark: [f32; 3],
    pub(crate) step: [f32; 3],
    /// What the face belongs to: see [`crate::draw::Masks`].
    pub(crate) owner: u16,
}

/// A colour as it lies in a row before it is packed.
fn packed(colour: [f32; 3]) -> u32 {
    // Written so that it is one instruction; what is no number becomes white.
    let byte = |value: f32| ((if value < 255.0 { value } else { 255.0 }) + ROUND).to_bits() & 255;
    byte(colour[0]) | byte(colour[1]) << 8 | byte(colour[2]) << 16
}

impl Canvas {
    /// Colours the picture: `3 * width * height` bytes, row by row from the top.
    pub(crate) fn colour(&self, rgb: &mut Vec<u8>) {
        let width = self.size.width;
        rgb.resize(self.size.pixels() * 3, 0);
        let patterns = patterns();
        let mut row = vec![0_u32; width + PIECE];
        let mut last = 0;
        for (y, (faces, out)) in self.faces.chunks_exact(width).zip(rgb.chunks_exact_mut(width * 3)).enumerate() {
            let mut x = 0;
            while x < width {
                let face = faces[x];
                let run = faces[x..].iter().take_while(|&&other| other == face).count();
                // A crack between two faces takes the colour of what is to its left; the background has none.
                last = if face == 0 && run > CRACK {
                    0
                } else if face == 0 {
                    last
                } else {
                    face
                };
                run_of(&self.shades[last as usize], patterns, &mut row, [x, run, y]);
                x += run;
            }
            if self.shadowed[y] {
                darken(&mut row[..width], &self.shadows[y * width..][..width]);
            }
            pack(&row[..width], out);
        }
    }
}

/// Takes 256ths away from each colour.
fn darken(row: &mut [u32], shadows: &[u8]) {
    for (word, &shadow) in row.iter_mut().zip(shadows) {
        let keep = 256 - u32::from(shadow);
        let odd = (((*word & 0x00FF_00FF) * keep) >> 8) & 0x00FF_00FF;
        let even = (((*word & 0x0000_FF00) * keep) >> 8) & 0x0000_FF00;
        *word = odd | even;
    }
}

/// Words to bytes, four pixels at a time.
fn pack(row: &[u32], out: &mut [u8]) {
    let whole = row.len() / 4 * 4;
    for (four, out) in row.chunks_exact(4).zip(out.chunks_exact_mut(12)) {
        let words = [four[0] | four[1] << 24, four[1] >> 8 | four[2] << 16, four[2] >> 16 | four[3] << 8];
        for (word, out) in words.iter().zip(out.chunks_exact_mut(4)) {
            out.copy_from_slice(&word.to_le_bytes());
        }
    }
    for (pixel, out) in row[whole..].iter().zip(out[whole * 3..].chunks_exact_mut(3)) {
        out.copy_from_slice(&pixel.to_le_bytes()[..3]);
    }
}

/// Texture coordinates and light at a pixel.
#[derive(Clone, Copy)]
struct Point {
    depth: f32,
    u: f32,
    v: f32,
    light: f32,
}

fn at(affine: &Affine, x: f32, y: f32) -> f32 {
    affine[0] + affine[1] * x + affine[2] * y
}

fn point(shade: &Shade, x: usize, y: usize) -> Point {
    let (x, y) = (x as i32 as f32, y as i32 as f32);
    let depth = 1.0 / at(&shade.inverse, x, y);
    let (u, v) = (at(&shade.across, x, y) * depth, at(&shade.along, x, y) * depth);
    let [l, lu, lv, luv] = shade.light;
    Point { depth, u, v, light: if shade.graded { l + lu * u + (lv + luv * u) * v } else { 1.0 } }
}

#[inline]
fn run_of(shade: &Shade, patterns: &[Pattern], row: &mut [u32], [x, run, y]: [usize; 3]) {
    if shade.figure == 0 && !shade.graded {
        row[x..x + run].fill(packed(shade.dark));
        return;
    }
    let pattern = &patterns[usize::from(shade.figure)];
    let end = x + run;
    let mut from = point(shade, x, y);
    let mut x = x;
    while x < end {
        let last = (x + PIECE).min(end - 1);
        let to = if last > x { point(shade, last, y) } else { from };
        let share = 1.0 / (last - x).max(1) as i32 as f32;
        let level = level_of(shade, &from);
        let steps = [(to.u - from.u) * share, (to.v - from.v) * share, (to.light - from.light) * share];
        let out = (&mut row[x..x + PIECE]).try_into().expect("rows are a piece longer than the picture");
        piece(shade, pattern.level(level), BITS - level, &from, steps, out);
        from = to;
        x += PIECE;
    }
}

/// The copy of the pattern whose texels are about as large as pixels here.
fn level_of(shade: &Shade, here: &Point) -> u32 {
    let slope = |affine: &Affine, value: f32, k: usize| (affine[k] - value * shade.inverse[k]) * here.depth;
    let (ux, vx) = (slope(&shade.across, here.u, 1), slope(&shade.along, here.v, 1));
    let (uy, vy) = (slope(&shade.across, here.u, 2), slope(&shade.along, here.v, 2));
    let column = ux * ux + vx * vx;
    let row = uy * uy + vy * vy;
    let square = if column > row { column } else { row };
    // Half of the exponent, a little to the sharp side: level k where a pixel covers about 2^(k + 0.6) texels.
    let exponent = ((square * 0.45).to_bits() >> 23) as i32 - 127;
    ((exponent + 1) / 2).clamp(0, BITS as i32) as u32
}

#[inline]
fn piece(shade: &Shade, texels: &Level, bits: u32, from: &Point, [du, dv, dl]: [f32; 3], out: &mut [u32; PIECE]) {
    let smaller = 1.0 / (1_u32 << (BITS - bits)) as f32;
    let mask = (1_u32 << bits) - 1;
    let (u, v, du, dv) = (from.u * smaller, from.v * smaller, du * smaller, dv * smaller);
    let mut index = [0_u32; PIECE];
    for (k, index) in index.iter_mut().enumerate() {
        let step = k as i32 as f32;
        let column = (u + du * step + ROUND).to_bits() & mask;
        let row = (v + dv * step + ROUND).to_bits() & mask;
        *index = (row << bits) | column;
    }
    let mut texel = [0.0_f32; PIECE];
    for (texel, index) in texel.iter_mut().zip(index) {
        *texel = f32::from(texels[index as usize & (texels.len() - 1)]);
    }
    // Everything is in locals, so that the loop has nothing to load again and stays in vectors.
    let (dark, step, light) = (shade.dark, shade.step, from.light);
    let mut words = [0_u32; PIECE];
    for (k, (word, texel)) in words.iter_mut().zip(texel).enumerate() {
        let light = light + dl * k as i32 as f32;
        *word = packed([0, 1, 2].map(|c| (dark[c] + step[c] * texel) * light));
    }
    *out = words;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_packed_as_bytes() {
        let row = [0x0003_0201, 0x0006_0504, 0x0009_0807, 0x000C_0B0A, 0x000F_0E0D];
        let mut out = [0; 15];
        pack(&row, &mut out);
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn colours_are_rounded_and_do_not_overflow() {
        assert_eq!(packed([1.4, 254.6, 700.0]), 0x00FF_FF01);
    }
}
