//! The buffers that a picture is drawn into, and the filling of convex polygons.
//!
//! In: polygons in picture coordinates, each with the plane of its inverse depth and a number. Out, for each pixel: the
//! largest inverse depth and the number of the polygon that has it. Colours come afterwards, once for each pixel (see
//! [`crate::shade`]), so that what is drawn over costs little. All sums are made in a fixed order of plain f32 operations:
//! every machine gives the same bytes, however wide its vectors are.

use crate::{
    optics::{Affine, Size},
    shade::Shade,
};

/// Side of a tile of the coarse depth, pixels.
pub(crate) const TILE: usize = 16;

/// Two inverse depths that differ by no more than this share are of one surface.
const SAME_PLANE: f32 = 0.004;

/// The colour of pixels that show nothing; they are only in plans.
const BACKGROUND: [f32; 3] = [24.0, 26.0, 30.0];

/// A rectangle of pixels; right and bottom are outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) left: i32,
    pub(crate) top: i32,
    pub(crate) right: i32,
    pub(crate) bottom: i32,
}

impl Rect {
    pub(crate) fn whole(size: Size) -> Rect {
        Rect { left: 0, top: 0, right: size.width as i32, bottom: size.height as i32 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left >= self.right || self.top >= self.bottom
    }

    pub(crate) fn within(&self, other: &Rect) -> Rect {
        Rect {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        }
    }

    pub(crate) fn around(&self, other: &Rect) -> Rect {
        Rect {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }

    pub(crate) fn holds(&self, other: &Rect) -> bool {
        self.left <= other.left && self.top <= other.top && self.right >= other.right && self.bottom >= other.bottom
    }

    /// The pixels whose middles lie between these coordinates, at most one more a side.
    pub(crate) fn spanning(low: [f32; 2], high: [f32; 2]) -> Rect {
        // Casts saturate, so that points far outside stay outside.
        Rect { left: (low[0] - 0.5) as i32, top: (low[1] - 0.5) as i32, right: (high[0] + 1.0) as i32, bottom: (high[1] + 1.0) as i32 }
    }
}

/// Buffers of one picture; to be used again for the next.
pub(crate) struct Canvas {
    pub(crate) size: Size,
    /// Inverse depth, 1/m; 0: nothing.
    pub(crate) inverse: Vec<f32>,
    /// Position in `shades`; 0: nothing.
    pub(crate) faces: Vec<u32>,
    pub(crate) shades: Vec<Shade>,
    /// Least inverse depth of each tile as of the last [`Canvas::measure`].
    tiles: Vec<f32>,
    columns: usize,
    /// How much darker a pixel is for what stands near it, in 256ths; and which rows have such pixels.
    pub(crate) shadows: Vec<u8>,
    pub(crate) shadowed: Vec<bool>,
    /// Left and right end of a polygon in each row, while it is filled.
    ends: Vec<[f32; 2]>,
}

impl Canvas {
    /// Buffers for pictures of a size; sides of 1 to [`Size::MOST`] pixels, others are brought into that range.
    pub(crate) fn new(size: Size) -> Canvas {
        let size = Size { width: size.width.clamp(1, Size::MOST), height: size.height.clamp(1, Size::MOST) };
        let columns = size.width.div_ceil(TILE);
        Canvas {
            size,
            inverse: vec![0.0; size.pixels()],
            faces: vec![0; size.pixels()],
            shades: Vec::with_capacity(2048),
            tiles: vec![0.0; columns * size.height.div_ceil(TILE)],
            columns,
            shadows: vec![0; size.pixels()],
            shadowed: vec![false; size.height],
            ends: vec![[0.0; 2]; size.height],
        }
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    pub(crate) fn clear(&mut self) {
        self.inverse.fill(0.0);
        self.faces.fill(0);
        self.tiles.fill(0.0);
        self.shadows.fill(0);
        self.shadowed.fill(false);
        self.shades.clear();
        self.shades.push(Shade { dark: BACKGROUND, ..Shade::default() });
    }

    /// Fills a convex polygon. `inverse`: its inverse depth by pixel.
    #[inline]
    pub(crate) fn polygon(&mut self, points: &[[f32; 2]], inverse: Affine, face: u32, scissor: &Rect) {
        let rows = self.outline(points, scissor);
        let width = self.size.width;
        for y in rows {
            let (left, right) = self.row_ends(y, scissor);
            if left < right {
                let row = y * width;
                let start = inverse[0] + inverse[2] * y as f32;
                span(&mut self.inverse[row + left..row + right], &mut self.faces[row + left..row + right], [start, inverse[1]], left, face);
            }
        }
    }

    /// Darkens what lies in a convex polygon's plane, by 256ths.
    pub(crate) fn shadow(&mut self, points: &[[f32; 2]], inverse: Affine, amount: u8, scissor: &Rect) {
        let rows = self.outline(points, scissor);
        let width = self.size.width;
        for y in rows {
            let (left, right) = self.row_ends(y, scissor);
            if left < right {
                let row = y * width;
                let start = inverse[0] + inverse[2] * y as f32;
                self.shadowed[y] = true;
                let (held, dark) = (&self.inverse[row + left..row + right], &mut self.shadows[row + left..row + right]);
                for (column, (held, dark)) in held.iter().zip(dark).enumerate() {
                    let here = start + inverse[1] * (left + column) as i32 as f32;
                    let lies = (here - *held).abs() < *held * SAME_PLANE;
                    *dark = dark.saturating_add(if lies { amount } else { 0 });
                }
            }
        }
    }

    /// Works out a polygon's ends in each of its rows, which are given back.
    #[inline]
    fn outline(&mut self, points: &[[f32; 2]], scissor: &Rect) -> std::ops::Range<usize> {
        let (mut low, mut high) = (points[0][1], points[0][1]);
        for point in &points[1..] {
            low = low.min(point[1]);
            high = high.max(point[1]);
        }
        let (top, bottom) = (row_from(low, scissor), row_from(high, scissor));
        if top >= bottom {
            return 0..0;
        }
        self.ends[top..bottom].fill([scissor.right as f32, scissor.left as f32]);
        let mut from = points[points.len() - 1];
        for &to in points {
            self.edge(from, to, scissor);
            from = to;
        }
        top..bottom
    }

    /// The pixels of a row whose middles lie within the polygon's ends: first, and first after.
    #[inline]
    fn row_ends(&self, y: usize, scissor: &Rect) -> (usize, usize) {
        let [left, right] = self.ends[y];
        ((left.max(scissor.left as f32) + 0.5) as usize, (right.min(scissor.right as f32) + 0.5) as usize)
    }

    /// Widens the rows that an edge crosses. An edge gives the same numbers in both polygons that share it.
    #[inline]
    fn edge(&mut self, from: [f32; 2], to: [f32; 2], scissor: &Rect) {
        let (upper, lower) = if from[1] < to[1] || (from[1] == to[1] && from[0] < to[0]) { (from, to) } else { (to, from) };
        let (top, bottom) = (row_from(upper[1], scissor), row_from(lower[1], scissor));
        if top >= bottom {
            return;
        }
        let slope = (lower[0] - upper[0]) / (lower[1] - upper[1]);
        let start = upper[0] + (0.5 - upper[1]) * slope;
        for (y, ends) in (top..bottom).zip(&mut self.ends[top..bottom]) {
            let x = start + y as f32 * slope;
            ends[0] = ends[0].min(x);
            ends[1] = ends[1].max(x);
        }
    }

    /// Works out the coarse depth of what has been drawn so far.
    pub(crate) fn measure(&mut self) {
        let width = self.size.width;
        self.tiles.fill(f32::MAX);
        for (y, row) in self.inverse.chunks_exact(width).enumerate() {
            let tiles = &mut self.tiles[y / TILE * self.columns..][..self.columns];
            for (tile, part) in tiles.iter_mut().zip(row.chunks(TILE)) {
                let least = part.iter().fold(f32::MAX, |least, &value| if value < least { value } else { least });
                *tile = if least < *tile { least } else { *tile };
            }
        }
    }

    /// Whether something in this rectangle whose greatest inverse depth is `inverse` can be in front of what was measured.
    pub(crate) fn may_show(&self, rect: &Rect, inverse: f32) -> bool {
        let rect = rect.within(&Rect::whole(self.size));
        if rect.is_empty() {
            return false;
        }
        let columns = rect.left as usize / TILE..=(rect.right as usize - 1) / TILE;
        (rect.top as usize / TILE..=(rect.bottom as usize - 1) / TILE)
            .any(|row| self.tiles[row * self.columns..][columns.clone()].iter().any(|&least| inverse > least))
    }
}

/// The first row whose middle is at or below a height, within the scissor.
#[inline]
fn row_from(y: f32, scissor: &Rect) -> usize {
    (y.max(scissor.top as f32).min(scissor.bottom as f32) + 0.5) as usize
}

/// Puts a face into those pixels of a row where it is nearest. `inverse`: its value at column 0, and what a column adds.
#[inline]
fn span(near: &mut [f32], faces: &mut [u32], inverse: [f32; 2], left: usize, face: u32) {
    for (column, (near, held)) in near.iter_mut().zip(faces).enumerate() {
        let here = inverse[0] + inverse[1] * (left + column) as i32 as f32;
        let wins = here > *near;
        *near = if wins { here } else { *near };
        *held = if wins { face } else { *held };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 40, height: 30 };

    fn count(canvas: &Canvas, face: u32) -> usize {
        canvas.faces.iter().filter(|&&held| held == face).count()
    }

    #[test]
    fn polygons_that_share_edges_leave_no_pixel_out_and_take_none_twice() {
        let mut canvas = Canvas::new(SIZE);
        let corners = [[-3.3, 2.1], [38.7, -1.4], [44.2, 28.8], [5.5, 33.3]];
        let middle = [17.123, 12.77];
        let mut filled = 0;
        canvas.clear();
        for side in 0..4 {
            let before = canvas.faces.iter().filter(|&&face| face != 0).count();
            let points = [corners[side], corners[(side + 1) % 4], middle];
            canvas.polygon(&points, [1.0 + side as f32, 0.0, 0.0], side as u32 + 1, &Rect::whole(SIZE));
            let after = canvas.faces.iter().filter(|&&face| face != 0).count();
            let own = count(&canvas, side as u32 + 1);
            assert_eq!(after - before, own, "side {side} takes pixels of another");
            filled += own;
        }
        canvas.clear();
        canvas.polygon(&corners, [1.0, 0.0, 0.0], 9, &Rect::whole(SIZE));
        assert_eq!(count(&canvas, 9), filled);
    }

    #[test]
    fn the_nearer_one_wins_whatever_the_order() {
        let square = [[5.0, 5.0], [25.0, 5.0], [25.0, 25.0], [5.0, 25.0]];
        let mut canvas = Canvas::new(SIZE);
        for order in [[1, 2], [2, 1]] {
            canvas.clear();
            for face in order {
                canvas.polygon(&square, [face as f32, 0.0, 0.0], face, &Rect::whole(SIZE));
            }
            assert_eq!((count(&canvas, 1), count(&canvas, 2)), (0, 400));
        }
        canvas.measure();
        assert!(canvas.may_show(&Rect { left: 16, top: 16, right: 17, bottom: 17 }, f32::MIN_POSITIVE), "the tile is not full");
        canvas.polygon(&[[0.0, 0.0], [40.0, 0.0], [40.0, 30.0], [0.0, 30.0]], [0.5, 0.0, 0.0], 3, &Rect::whole(SIZE));
        canvas.measure();
        assert!(!canvas.may_show(&Rect { left: 0, top: 0, right: 40, bottom: 30 }, 0.4));
        assert!(canvas.may_show(&Rect { left: 0, top: 0, right: 40, bottom: 30 }, 0.6));
    }

    #[test]
    fn points_far_outside_do_no_harm() {
        let mut canvas = Canvas::new(SIZE);
        canvas.clear();
        canvas.polygon(&[[-1e7, -1e7], [1e7, -1e7], [1e7, 1e7], [-1e7, 1e7]], [1.0, 0.0, 0.0], 1, &Rect::whole(SIZE));
        assert_eq!(count(&canvas, 1), SIZE.pixels());
        canvas.polygon(&[[f32::NAN, 0.0], [10.0, f32::NAN], [3.0, 9.0]], [2.0, 0.0, 0.0], 2, &Rect::whole(SIZE));
    }
}
