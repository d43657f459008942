//! Frames around doors and windows, and what is on their leaves.

use crate::{
    look::{Look, Paint},
    mesh::Mesh,
    model::{Body, Coat},
    optics::Vec3,
    pattern::Figure,
};
use household::scene::{Hole, HoleKind, Scene, Wall};

/// Width of a frame's boards, and how far they stand out from the wall, metres.
const BOARD_M: f32 = 0.07;
const OUT_M: f32 = 0.03;

/// Boxes along one wall: places along it, heights, and how far out.
struct Joiner<'a> {
    wall: &'a Wall,
    way: [f32; 2],
    mesh: Mesh,
}

impl Joiner<'_> {
    /// A box from one place along the wall to another, from one height to another, standing out on both sides.
    fn board(&mut self, [from, to]: [f32; 2], [low, high]: [f32; 2], out: f32, slot: u8) {
        let along = (from + to) / 2.0;
        let centre = [self.wall.a[0] + self.way[0] * along, (low + high) / 2.0, self.wall.a[1] + self.way[1] * along];
        let half = |k: usize| self.way[k].abs() * (to - from) / 2.0 + self.way[1 - k].abs() * out;
        self.mesh.block(centre, [half(0), (high - low) / 2.0, half(1)], slot);
    }
}

/// The frames of every room's doors and windows.
pub(crate) fn trims(scene: &Scene, look: &Look) -> Vec<Vec<Body>> {
    let mut trims = vec![Vec::new(); scene.rooms.len()];
    for wall in scene.walls.iter().filter(|wall| usize::from(wall.room) < scene.rooms.len()) {
        let length = libm::hypotf(wall.b[0] - wall.a[0], wall.b[1] - wall.a[1]);
        if length < 1e-3 {
            continue;
        }
        let way = [(wall.b[0] - wall.a[0]) / length, (wall.b[1] - wall.a[1]) / length];
        for hole in &wall.holes {
            let mut joiner = Joiner { wall, way, mesh: Mesh::default() };
            joiner.frame(hole);
            if hole.kind == HoleKind::Window {
                joiner.bars(hole);
            } else if !hole.see_through() {
                joiner.leaf(hole);
            }
            trims[usize::from(wall.room)].push(Body::fixed(joiner.mesh, coats(&hole.asset, look), wall.room));
        }
    }
    trims
}

impl Joiner<'_> {
    fn frame(&mut self, hole: &Hole) {
        let Hole { from, to, low, high, .. } = *hole;
        self.board([from - BOARD_M, from], [low, high + BOARD_M], OUT_M, 0);
        self.board([to, to + BOARD_M], [low, high + BOARD_M], OUT_M, 0);
        self.board([from, to], [high, high + BOARD_M], OUT_M, 0);
        if hole.kind == HoleKind::Window {
            self.board([from - BOARD_M, to + BOARD_M], [low - 0.05, low], 2.0 * OUT_M, 0);
        }
    }

    /// A window's bars.
    fn bars(&mut self, hole: &Hole) {
        let Hole { from, to, low, high, .. } = *hole;
        let middle = (from + to) / 2.0;
        self.board([middle - 0.015, middle + 0.015], [low, high], 0.015, 0);
        let middle = low + (high - low) * 0.55;
        self.board([from, to], [middle - 0.015, middle + 0.015], 0.015, 0);
    }

    /// A shut leaf's panels and handle.
    fn leaf(&mut self, hole: &Hole) {
        let Hole { from, to, low, high, .. } = *hole;
        let leaves = if to - from > 1.3 { 2 } else { 1 };
        let width = (to - from) / leaves as f32;
        for leaf in 0..leaves {
            let left = from + leaf as f32 * width;
            let (inner, outer) = (left + 0.16 * width, left + 0.84 * width);
            let at = |share: f32| low + (high - low) * share;
            self.board([inner, outer], [at(0.08), at(0.42)], 0.012, 1);
            self.board([inner, outer], [at(0.52), at(0.92)], 0.012, 1);
            let knob = if leaf == 0 && leaves == 2 { left + width - 0.07 } else { left + 0.07 };
            self.board([knob - 0.02, knob + 0.02], [at(0.45), at(0.49)], 0.06, 2);
        }
    }
}

fn coats(asset: &str, look: &Look) -> Vec<Coat> {
    let plain = |dark: Vec3| Paint { figure: Figure::Plain, texels: 32.0, dark, light: dark };
    let boards = [[232.0, 230.0, 224.0], [206.0, 198.0, 184.0], [132.0, 94.0, 62.0], [90.0, 88.0, 88.0]];
    let frame = boards[(look.number(&format!("{asset}/frame")) % boards.len() as u64) as usize];
    let leaf = crate::walls::leaf(asset, look);
    vec![plain(frame).into(), Paint { dark: leaf.dark.map(|c| c * 0.93), ..leaf }.into(), plain([176.0, 170.0, 156.0]).into()]
}
