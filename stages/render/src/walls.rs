//! Floors, ceilings and walls as flat patches with light that is smooth across them.
//!
//! In: a scene. Out: for each room its patches and its portals, the holes and passages through which one sees another room.

use crate::{
    light::Lights,
    look::{Look, Paint, Role, hsv},
    optics::{Affine, Vec3, add, dot, scaled},
    pattern::Figure,
};
use household::{
    geometry::{inside, vec2},
    scene::{EXTERIOR, HoleKind, Room, Scene, Wall, at},
};

/// Longest side of a patch, metres: light is bilinear on one.
const PATCH_M: f32 = 1.7;
/// What is shorter or lower than this is left out, metres.
const LEAST_M: f32 = 1e-3;
/// How far from a hole its other side is looked for, metres.
const BEYOND_M: f32 = 0.08;

/// A flat quadrilateral of a wall, floor or ceiling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch {
    pub(crate) corners: [Vec3; 4],
    pub(crate) normal: Vec3,
    pub(crate) offset: f32,
    /// Texture coordinates are dot products of a point with these, texels.
    pub(crate) across: Vec3,
    pub(crate) along: Vec3,
    /// Light by texture coordinates: the factors of 1, u, v and u v.
    pub(crate) light: [f32; 4],
    pub(crate) figure: u8,
    pub(crate) dark: [f32; 3],
    pub(crate) step: [f32; 3],
}

/// A flat opening into another room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portal {
    pub(crate) to: u16,
    pub(crate) corners: [Vec3; 4],
}

/// One room's surfaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shell {
    pub(crate) patches: Vec<Patch>,
    pub(crate) portals: Vec<Portal>,
    pub(crate) polygon: Vec<[f32; 2]>,
}

/// A rectangle's corner and sides, and the paint's directions.
struct Sheet<'a> {
    paint: &'a Paint,
    normal: Vec3,
    across: Vec3,
    along: Vec3,
    room: usize,
    lights: &'a Lights,
}

impl Sheet<'_> {
    /// A patch of this sheet; light is what meets its corners.
    fn patch(&self, corners: [Vec3; 4]) -> Patch {
        let lit = corners.map(|corner| self.lights.on(self.room, corner, self.normal));
        let grey = lit.map(|rgb| (rgb[0] + rgb[1] + rgb[2]) / 3.0);
        let mean = scaled(lit.iter().fold([0.0; 3], |sum, &rgb| add(sum, rgb)), 0.25);
        let level = ((mean[0] + mean[1] + mean[2]) / 3.0).max(1e-3);
        let tint = mean.map(|c| c / level);
        let (across, along) = (scaled(self.across, self.paint.texels), scaled(self.along, self.paint.texels));
        let places = corners.map(|corner| [dot(across, corner), dot(along, corner)]);
        let dark = [0, 1, 2].map(|c| self.paint.dark[c] * tint[c]);
        let step = [0, 1, 2].map(|c| (self.paint.light[c] - self.paint.dark[c]) * tint[c] / 255.0);
        Patch {
            corners,
            normal: self.normal,
            offset: dot(self.normal, corners[0]),
            across,
            along,
            light: bilinear(places, grey),
            figure: self.paint.figure as u8,
            dark,
            step,
        }
    }
}

/// The factors of 1, u, v and u v that give four corners of a rectangle in (u, v) their values. Corners that are no rectangle
/// get their mean.
fn bilinear(places: [[f32; 2]; 4], values: [f32; 4]) -> [f32; 4] {
    let low = [0, 1].map(|k| places.iter().map(|p| p[k]).fold(f32::MAX, f32::min));
    let high = [0, 1].map(|k| places.iter().map(|p| p[k]).fold(f32::MIN, f32::max));
    let span = [high[0] - low[0], high[1] - low[1]];
    let mut corners = [None; 4];
    for (place, value) in places.iter().zip(values) {
        let side = [0, 1].map(|k| if span[k] > 1e-3 { (place[k] - low[k]) / span[k] } else { 0.5 });
        let end = side.map(|s| {
            if s < 0.01 {
                Some(0)
            } else if s > 0.99 {
                Some(1)
            } else {
                None
            }
        });
        if let [Some(column), Some(row)] = end {
            corners[column + 2 * row] = Some(value);
        }
    }
    let [Some(a), Some(b), Some(c), Some(d)] = corners else {
        return [values.iter().sum::<f32>() / 4.0, 0.0, 0.0, 0.0];
    };
    let (du, dv, duv) = ((b - a) / span[0], (c - a) / span[1], (d - c - b + a) / (span[0] * span[1]));
    [a - du * low[0] - dv * low[1] + duv * low[0] * low[1], du - duv * low[1], dv - duv * low[0], duv]
}

/// Every room's surfaces.
pub(crate) fn shells(scene: &Scene, look: &Look, lights: &Lights) -> Vec<Shell> {
    let mut shells: Vec<Shell> = scene.rooms.iter().map(|room| Shell { polygon: room.floor.clone(), ..Shell::default() }).collect();
    for (number, (room, shell)) in scene.rooms.iter().zip(&mut shells).enumerate() {
        level(room, number, look, lights, shell);
    }
    for wall in scene.walls.iter().filter(|wall| usize::from(wall.room) < scene.rooms.len()) {
        side(scene, wall, look, lights, &mut shells[usize::from(wall.room)]);
    }
    for (number, shell) in shells.iter_mut().enumerate() {
        passages(scene, number, shell);
    }
    shells
}

/// Floor and ceiling.
fn level(room: &Room, number: usize, look: &Look, lights: &Lights, shell: &mut Shell) {
    let floor = look.surface(&room.floor_material.name, room.floor_material.color, Role::Floor);
    let ceiling = look.surface(&room.ceiling_material.name, room.ceiling_material.color, Role::Ceiling);
    for piece in pieces(&room.floor) {
        let on = |y: f32| piece.map(|[x, z]| [x, y, z]);
        let (across, along) = ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]);
        let down = Sheet { paint: &floor, normal: [0.0, 1.0, 0.0], across, along, room: number, lights };
        shell.patches.push(down.patch(on(0.0)));
        let up = Sheet { paint: &ceiling, normal: [0.0, -1.0, 0.0], across, along, room: number, lights };
        shell.patches.push(up.patch(on(room.height)));
    }
}

/// A polygon as trapezoids between two z each; rectangles are cut to patch size.
fn pieces(polygon: &[[f32; 2]]) -> Vec<[[f32; 2]; 4]> {
    let mut levels: Vec<f32> = polygon.iter().map(|corner| corner[1]).collect();
    levels.sort_by(f32::total_cmp);
    levels.dedup_by(|one, other| (*one - *other).abs() < LEAST_M);
    let mut pieces = Vec::new();
    for pair in levels.windows(2) {
        for (low, high) in cuts(pair[0], pair[1]) {
            let mut crossings: Vec<[f32; 2]> = (0..polygon.len())
                .filter_map(|k| {
                    let (a, b) = (polygon[k], polygon[(k + 1) % polygon.len()]);
                    let middle = (low + high) / 2.0;
                    let x = |z: f32| a[0] + (b[0] - a[0]) * (z - a[1]) / (b[1] - a[1]);
                    ((a[1] > middle) != (b[1] > middle)).then(|| [x(low), x(high)])
                })
                .collect();
            crossings.sort_by(|one, other| (one[0] + one[1]).total_cmp(&(other[0] + other[1])));
            for ends in crossings.chunks_exact(2) {
                let (left, right) = (ends[0], ends[1]);
                if left[0] == left[1] && right[0] == right[1] {
                    pieces.extend(cuts(left[0], right[0]).map(|(a, b)| [[a, low], [b, low], [b, high], [a, high]]));
                } else {
                    pieces.push([[left[0], low], [right[0], low], [right[1], high], [left[1], high]]);
                }
            }
        }
    }
    pieces
}

/// A stretch in equal parts no longer than a patch.
fn cuts(from: f32, to: f32) -> impl Iterator<Item = (f32, f32)> {
    let count = libm::ceilf(((to - from) / PATCH_M).clamp(1.0, 500.0)) as u32;
    let at = move |k: u32| if k == count { to } else { from + (to - from) * k as f32 / count as f32 };
    (0..count).map(move |k| (at(k), at(k + 1)))
}

/// One side of a wall, around its holes, with what is in them.
fn side(scene: &Scene, wall: &Wall, look: &Look, lights: &Lights, shell: &mut Shell) {
    let (a, b) = (wall.a, wall.b);
    let length = libm::hypotf(b[0] - a[0], b[1] - a[1]);
    if length < LEAST_M {
        return;
    }
    let way = [(b[0] - a[0]) / length, (b[1] - a[1]) / length];
    let point = |s: f32, y: f32| [a[0] + way[0] * s, y, a[1] + way[1] * s];
    let paint = look.surface(&wall.material.name, wall.material.color, Role::Wall);
    let normal = [way[1], 0.0, -way[0]];
    let sheet =
        Sheet { paint: &paint, normal, across: [way[0], 0.0, way[1]], along: [0.0, 1.0, 0.0], room: usize::from(wall.room), lights };
    let rectangle = |from: f32, to: f32, low: f32, high: f32| [point(from, low), point(to, low), point(to, high), point(from, high)];
    let mut columns: Vec<f32> = wall.holes.iter().flat_map(|hole| [hole.from, hole.to]).map(|s| s.clamp(0.0, length)).collect();
    columns.extend([0.0, length]);
    columns.sort_by(f32::total_cmp);
    for pair in columns.windows(2).filter(|pair| pair[1] - pair[0] > LEAST_M) {
        let middle = (pair[0] + pair[1]) / 2.0;
        let mut gaps: Vec<[f32; 2]> =
            wall.holes.iter().filter(|hole| hole.from < middle && middle < hole.to).map(|hole| [hole.low, hole.high]).collect();
        gaps.sort_by(|one, other| one[0].total_cmp(&other[0]));
        gaps.push([wall.height, wall.height]);
        let mut from = 0.0_f32;
        for [low, high] in gaps {
            if low - from > LEAST_M {
                for (left, right) in cuts(pair[0], pair[1]) {
                    shell.patches.extend(cuts(from, low).map(|(low, high)| sheet.patch(rectangle(left, right, low, high))));
                }
            }
            from = from.max(high);
        }
    }
    for hole in &wall.holes {
        let corners = rectangle(hole.from.max(0.0), hole.to.min(length), hole.low.max(0.0), hole.high.min(wall.height));
        let middle = point((hole.from + hole.to) / 2.0, 0.0);
        let other = room_at(scene, [middle[0] - normal[0] * BEYOND_M, middle[2] - normal[2] * BEYOND_M]);
        match other.filter(|&other| hole.see_through() && other != wall.room) {
            Some(to) => shell.portals.push(Portal { to, corners }),
            None if hole.kind == HoleKind::Window || hole.see_through() => shell.patches.push(sky(corners, normal, look)),
            None => shell.patches.push(Sheet { paint: &leaf(&hole.asset, look), ..sheet }.patch(corners)),
        }
    }
}

/// The paint of a door's leaf.
pub(crate) fn leaf(asset: &str, look: &Look) -> Paint {
    let n = look.number(&format!("{asset}/leaf"));
    let white = [226.0, 222.0, 214.0];
    let woods = [[168.0, 118.0, 76.0], [120.0, 80.0, 54.0], white, [196.0, 158.0, 112.0], white];
    let colour = woods[(n % woods.len() as u64) as usize];
    Paint { figure: Figure::Grain, texels: 60.0, dark: colour.map(|c| c * 0.88), light: colour.map(|c| c * 1.12) }
}

/// What is outside a window: light below, blue above.
fn sky(corners: [Vec3; 4], normal: Vec3, look: &Look) -> Patch {
    let hue = look.value("sky", [0.52, 0.57, 0.62]);
    let colour = hsv(hue, 0.22, 1.0);
    let (low, high) = (corners[0][1], corners[2][1]);
    let fall = 0.22 / (high - low).max(0.1);
    Patch {
        corners,
        normal,
        offset: dot(normal, corners[0]),
        across: [0.0; 3],
        along: [0.0, 1.0, 0.0],
        light: [1.06 + fall * low, 0.0, -fall, 0.0],
        figure: Figure::Plain as u8,
        dark: colour,
        step: [0.0; 3],
    }
}

/// The room that a floor point is in.
fn room_at(scene: &Scene, point: [f32; 2]) -> Option<u16> {
    let found = scene.rooms.iter().position(|room| inside(&room.polygon(), at(point)));
    found.map(|room| room as u16).filter(|&room| room != EXTERIOR)
}

/// Where a room's edge has no wall one sees on into the next room.
fn passages(scene: &Scene, number: usize, shell: &mut Shell) {
    let room = &scene.rooms[number];
    for (k, &a) in room.floor.iter().enumerate() {
        let b = room.floor[(k + 1) % room.floor.len()];
        let length = libm::hypotf(b[0] - a[0], b[1] - a[1]);
        if length < LEAST_M {
            continue;
        }
        let way = [(b[0] - a[0]) / length, (b[1] - a[1]) / length];
        let place = |point: [f32; 2]| {
            let offset = [point[0] - a[0], point[1] - a[1]];
            (offset[0] * way[0] + offset[1] * way[1], (offset[0] * way[1] - offset[1] * way[0]).abs())
        };
        let walls = scene.walls.iter().filter(|wall| usize::from(wall.room) == number).filter_map(|wall| {
            let ((from, off_from), (to, off_to)) = (place(wall.a), place(wall.b));
            (off_from < 0.02 && off_to < 0.02).then(|| [from.min(to), from.max(to)])
        });
        let mut covered: Vec<[f32; 2]> = walls.chain([[length, length]]).collect();
        covered.sort_by(|one, other| one[0].total_cmp(&other[0]));
        let mut from = 0.0_f32;
        for [start, end] in covered {
            if start - from > 0.05 {
                open(scene, shell, room.height, [a, way], [from, start]);
            }
            from = from.max(end);
        }
    }
}

/// A passage from one place along an edge to another; it may lead into several rooms.
fn open(scene: &Scene, shell: &mut Shell, height: f32, [a, way]: [[f32; 2]; 2], [from, to]: [f32; 2]) {
    let outward = [-way[1], way[0]];
    let point = |s: f32, y: f32| [a[0] + way[0] * s, y, a[1] + way[1] * s];
    let corners = [point(from, 0.0), point(to, 0.0), point(to, height), point(from, height)];
    let mut seen = Vec::new();
    for share in [0.02, 0.25, 0.5, 0.75, 0.98] {
        let [x, _, z] = point(from + (to - from) * share, 0.0);
        let beyond = room_at(scene, [x + outward[0] * BEYOND_M, z + outward[1] * BEYOND_M]);
        if let Some(to) = beyond.filter(|room| !seen.contains(room)) {
            seen.push(to);
            shell.portals.push(Portal { to, corners });
        }
    }
}

impl Shell {
    pub(crate) fn holds(&self, point: [f32; 2]) -> bool {
        let polygon: Vec<_> = self.polygon.iter().map(|&corner| at(corner)).collect();
        inside(&polygon, vec2(f64::from(point[0]), f64::from(point[1])))
    }
}

/// Affine sum of three affine functions.
pub(crate) fn mixed(axes: &[Affine; 3], by: Vec3) -> Affine {
    [0, 1, 2].map(|k| axes[0][k] * by[0] + axes[1][k] * by[1] + axes[2][k] * by[2])
}
