//! Pictures of grids, put together from tiles that are drawn once.
//!
//! In: an extent and a letter a cell. Out: an RGB [`Picture`]. Shapes are drawn with sums and products alone, four samples a pixel
//! and side, so that every machine gives the same bytes.

use crate::Picture;
use crate::grid::Extent;

/// Samples a pixel and side.
const SAMPLES: usize = 4;

type Colour = [u8; 3];

/// One tile for each letter.
pub(crate) struct Tiles {
    /// Pixels a side.
    side: usize,
    tiles: Vec<(&'static str, Vec<u8>)>,
}

impl Tiles {
    fn new(side: usize, drawn: Vec<(&'static str, Sketch)>) -> Tiles {
        Tiles { side, tiles: drawn.into_iter().map(|(word, sketch)| (word, sketch.pixels())).collect() }
    }

    /// The picture of a grid, `side` pixels a cell.
    pub(crate) fn picture(&self, extent: Extent, cells: &[&str]) -> Picture {
        let (row_bytes, tile_row) = (extent.width * self.side * 3, self.side * 3);
        let mut rgb = Vec::with_capacity(row_bytes * extent.height * self.side);
        let mut band: Vec<&[u8]> = Vec::with_capacity(extent.width);
        for row in cells.chunks(extent.width) {
            band.clear();
            band.extend(row.iter().map(|word| self.tile(word)));
            for y in 0..self.side {
                for tile in &band {
                    rgb.extend_from_slice(&tile[y * tile_row..(y + 1) * tile_row]);
                }
            }
        }
        let (width, height) = ((extent.width * self.side) as u32, (extent.height * self.side) as u32);
        Picture { camera: "grid", width, height, rgb }
    }

    fn tile(&self, word: &str) -> &[u8] {
        let found = self.tiles.iter().find(|(name, _)| *name == word);
        &found.expect("each letter that a world writes has a tile").1
    }
}

/// A square drawing, 64 units a side whatever its pixels.
#[derive(Clone)]
struct Sketch {
    side: usize,
    samples: Vec<Colour>,
}

impl Sketch {
    fn new(side: usize, colour: Colour) -> Sketch {
        Sketch { side, samples: vec![colour; side * side * SAMPLES * SAMPLES] }
    }

    /// Colours each sample whose middle is inside.
    fn paint(mut self, colour: Colour, inside: impl Fn(f32, f32) -> bool) -> Sketch {
        let count = self.side * SAMPLES;
        let unit = 64.0 / count as f32;
        for row in 0..count {
            for column in 0..count {
                if inside((column as f32 + 0.5) * unit, (row as f32 + 0.5) * unit) {
                    self.samples[row * count + column] = colour;
                }
            }
        }
        self
    }

    fn rectangle(self, colour: Colour, [left, top, right, bottom]: [f32; 4]) -> Sketch {
        self.paint(colour, |x, y| x >= left && x < right && y >= top && y < bottom)
    }

    fn ellipse(self, colour: Colour, [x0, y0]: [f32; 2], [rx, ry]: [f32; 2]) -> Sketch {
        self.paint(colour, |x, y| {
            let (dx, dy) = ((x - x0) / rx, (y - y0) / ry);
            dx * dx + dy * dy <= 1.0
        })
    }

    /// A stroke with round ends from one point to another.
    fn stroke(self, colour: Colour, [x0, y0]: [f32; 2], [x1, y1]: [f32; 2], width: f32) -> Sketch {
        let (ux, uy) = (x1 - x0, y1 - y0);
        let length2 = ux * ux + uy * uy;
        self.paint(colour, |x, y| {
            let along = (((x - x0) * ux + (y - y0) * uy) / length2).clamp(0.0, 1.0);
            let (dx, dy) = (x - x0 - along * ux, y - y0 - along * uy);
            4.0 * (dx * dx + dy * dy) <= width * width
        })
    }

    fn triangle(self, colour: Colour, corners: [[f32; 2]; 3]) -> Sketch {
        self.paint(colour, |x, y| {
            let side = |a: [f32; 2], b: [f32; 2]| (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]);
            let sides = [side(corners[0], corners[1]), side(corners[1], corners[2]), side(corners[2], corners[0])];
            sides.iter().all(|side| *side >= 0.0) || sides.iter().all(|side| *side <= 0.0)
        })
    }

    /// RGB, the mean of each pixel's samples.
    fn pixels(&self) -> Vec<u8> {
        let count = self.side * SAMPLES;
        let mut rgb = Vec::with_capacity(self.side * self.side * 3);
        for row in 0..self.side {
            for column in 0..self.side {
                for channel in 0..3 {
                    let sum: usize = (0..SAMPLES * SAMPLES)
                        .map(|sample| {
                            let (y, x) = (row * SAMPLES + sample / SAMPLES, column * SAMPLES + sample % SAMPLES);
                            usize::from(self.samples[y * count + x][channel])
                        })
                        .sum();
                    rgb.push(((sum + SAMPLES * SAMPLES / 2) / (SAMPLES * SAMPLES)) as u8);
                }
            }
        }
        rgb
    }
}

/// FrozenLake's tiles, 64 pixels a side, by letter: `_` ice, `O` hole, `G` goal, `P` player, `X` player in a hole, `V` player on the goal.
pub(crate) fn lake_tiles() -> Tiles {
    let ice = Sketch::new(64, [186, 208, 224])
        .rectangle([219, 238, 248], [1.0, 1.0, 63.0, 63.0])
        .stroke([240, 249, 253], [10.0, 24.0], [26.0, 8.0], 3.0)
        .stroke([240, 249, 253], [36.0, 56.0], [56.0, 36.0], 3.0)
        .stroke([200, 224, 238], [14.0, 50.0], [22.0, 42.0], 2.0);
    let hole = ice.clone().ellipse([158, 190, 212], [32.0, 33.0], [26.0, 22.0]).ellipse([18, 52, 92], [32.0, 35.0], [22.0, 17.0]);
    let goal = |tile: Sketch| {
        tile.ellipse([170, 196, 210], [24.0, 56.0], [12.0, 4.0])
            .stroke([90, 62, 40], [22.0, 55.0], [22.0, 10.0], 4.0)
            .triangle([214, 48, 44], [[24.0, 8.0], [54.0, 18.0], [24.0, 28.0]])
    };
    let fallen = hole
        .clone()
        .ellipse([244, 206, 170], [32.0, 32.0], [9.0, 9.0])
        .rectangle([18, 52, 92], [18.0, 37.0, 46.0, 46.0])
        .stroke([210, 228, 240], [17.0, 40.0], [27.0, 37.0], 2.5)
        .stroke([210, 228, 240], [37.0, 37.0], [47.0, 40.0], 2.5)
        .ellipse([46, 120, 60], [32.0, 25.0], [9.0, 5.0]);
    let won = walker(goal(ice.clone()), 12.0);
    let player = walker(ice.clone(), 0.0);
    let goal = goal(ice.clone());
    Tiles::new(64, vec![("_", ice), ("O", hole), ("G", goal), ("P", player), ("X", fallen), ("V", won)])
}

/// A person in a green coat, moved to the right by `dx`.
fn walker(tile: Sketch, dx: f32) -> Sketch {
    tile.ellipse([176, 198, 212], [32.0 + dx, 57.0], [13.0, 4.0])
        .stroke([52, 48, 60], [28.0 + dx, 44.0], [27.0 + dx, 56.0], 6.0)
        .stroke([52, 48, 60], [36.0 + dx, 44.0], [37.0 + dx, 56.0], 6.0)
        .stroke([46, 120, 60], [32.0 + dx, 29.0], [32.0 + dx, 42.0], 19.0)
        .stroke([36, 98, 50], [23.0 + dx, 30.0], [20.0 + dx, 41.0], 5.0)
        .stroke([36, 98, 50], [41.0 + dx, 30.0], [44.0 + dx, 41.0], 5.0)
        .ellipse([244, 206, 170], [32.0 + dx, 15.0], [9.0, 9.0])
        .ellipse([46, 120, 60], [32.0 + dx, 8.0], [9.0, 5.0])
        .ellipse([30, 30, 36], [29.0 + dx, 15.0], [1.4, 1.6])
        .ellipse([30, 30, 36], [35.0 + dx, 15.0], [1.4, 1.6])
}

/// Sokoban's tiles, 16 pixels a side, by letter: `#` wall, `_` floor, `O` target, `X` box, `V` box on target, `P` player, `S` player on target.
pub(crate) fn room_tiles() -> Tiles {
    let floor = Sketch::new(16, [232, 222, 200]).rectangle([240, 232, 212], [4.0, 4.0, 64.0, 64.0]);
    let mut wall = Sketch::new(16, [92, 96, 108]);
    for [left, top, right] in [
        [0.0, 0.0, 28.0],
        [32.0, 0.0, 60.0],
        [0.0, 24.0, 12.0],
        [16.0, 24.0, 44.0],
        [48.0, 24.0, 64.0],
        [0.0, 48.0, 28.0],
        [32.0, 48.0, 60.0],
    ] {
        wall = wall.rectangle([136, 140, 152], [left, top, right, top + 20.0]);
    }
    let target = floor
        .clone()
        .ellipse([214, 48, 44], [34.0, 34.0], [22.0, 22.0])
        .ellipse([240, 232, 212], [34.0, 34.0], [14.0, 14.0])
        .ellipse([214, 48, 44], [34.0, 34.0], [7.0, 7.0]);
    let crate_box = |tile: Sketch, edge: Colour, face: Colour| {
        tile.rectangle(edge, [8.0, 8.0, 60.0, 60.0])
            .rectangle(face, [14.0, 14.0, 54.0, 54.0])
            .stroke(edge, [16.0, 16.0], [52.0, 52.0], 6.0)
            .stroke(edge, [52.0, 16.0], [16.0, 52.0], 6.0)
    };
    let pusher = |tile: Sketch| {
        tile.stroke([36, 84, 168], [34.0, 36.0], [34.0, 50.0], 24.0)
            .stroke([36, 84, 168], [20.0, 34.0], [48.0, 34.0], 8.0)
            .ellipse([244, 206, 170], [34.0, 20.0], [12.0, 12.0])
            .ellipse([70, 44, 28], [34.0, 12.0], [12.0, 6.0])
    };
    let on_floor = crate_box(floor.clone(), [120, 78, 36], [196, 146, 84]);
    let on_target = crate_box(target.clone(), [34, 110, 52], [104, 190, 112]);
    let player = pusher(floor.clone());
    let player_on_target = pusher(target.clone());
    Tiles::new(
        16,
        vec![("#", wall), ("_", floor), ("O", target), ("X", on_floor), ("V", on_target), ("P", player), ("S", player_on_target)],
    )
}
