//! What of a house is seen from an eye, and drawing it.
//!
//! Rooms are found from the eye's room through portals; each is drawn within the rectangle that its portals leave. Then come
//! the things of these rooms, near ones first, those left out that are outside the rectangle or behind what the coarse depth
//! already has in front.

use crate::{
    ROBOT, STRUCTURE,
    canvas::{Canvas, Rect},
    light::Local,
    mesh::{Face, Mesh},
    model::{Body, Coat, Model, Pose},
    optics::{Affine, NEAR_M, Vec3, View, add, dot, scaled, sub},
    shade::Shade,
    walls::{Patch, Portal, mixed},
};

/// Corners of the largest polygon after it is clipped.
const MOST_CORNERS: usize = 40;
/// A thing that covers no more rows than this is drawn from its coarser mesh.
const COARSE_ROWS: f32 = 26.0;
/// Things larger than this hide others, and come first; a radius, metres.
const LARGE_M: f32 = 0.35;
/// A portal nearer to the eye than this is taken to fill the picture, metres.
const DOORWAY_M: f32 = 0.25;

/// How far a thing darkens the ground around it, metres; in how many steps, and by how many 256ths each.
const SHADOW_M: f32 = 0.09;
const SHADOW_STEPS: usize = 3;
const SHADOW: u8 = 26;
/// A thing with fewer columns than this in half of its width darkens nothing.
const SHADOW_COLUMNS: f32 = 3.0;

/// What is seen of a room.
#[derive(Clone, Copy)]
struct Seen {
    room: usize,
    rect: Rect,
}

/// A thing to be drawn.
pub(crate) struct Actor<'a> {
    pub(crate) body: &'a Body,
    pub(crate) pose: Pose,
    pub(crate) owner: u16,
    pub(crate) room: usize,
}

/// Draws one picture after another; holds what is used again.
pub(crate) struct Painter {
    pub(crate) canvas: Canvas,
    placed: Vec<Vec3>,
    flat: Vec<[f32; 2]>,
    seen: Vec<Seen>,
    order: Vec<(f32, Rect, usize)>,
}

/// The largest and least of a thing in the picture.
struct Extent {
    rect: Rect,
    nearest: f32,
    rows: f32,
}

impl Painter {
    pub(crate) fn new(canvas: Canvas) -> Painter {
        Painter { canvas, placed: Vec::new(), flat: Vec::new(), seen: Vec::new(), order: Vec::new() }
    }

    /// Draws the house and the actors. `all`: every room, without ceilings, for a plan.
    pub(crate) fn draw(&mut self, model: &Model, actors: &[Actor<'_>], view: &View, all: bool) {
        self.canvas.clear();
        self.look_around(model, view, all);
        let axes = view_axes(view);
        for index in 0..self.seen.len() {
            let Seen { room, rect } = self.seen[index];
            for patch in &model.rooms[room].patches {
                self.patch(patch, view, &axes, &rect, all);
            }
        }
        self.canvas.measure();
        let seen = std::mem::take(&mut self.seen);
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        for (index, actor) in actors.iter().enumerate() {
            let Some(seen) = seen.iter().find(|seen| seen.room == actor.room) else { continue };
            if let Some(extent) = extent(&actor.body.solid.fine, &actor.pose, view)
                && !extent.rect.within(&seen.rect).is_empty()
            {
                let large = actor.body.solid.fine.sphere().1 > LARGE_M;
                order.push((if large { extent.nearest } else { extent.nearest + 1e6 }, seen.rect, index));
            }
        }
        order.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.2.cmp(&other.2)));
        let mut measured = false;
        for &(key, rect, index) in &order {
            if !measured && key >= 1e6 {
                self.canvas.measure();
                measured = true;
            }
            self.actor(model, &actors[index], view, &rect);
        }
        for &(_, rect, index) in &order {
            self.contact(&actors[index], view, &axes, &rect);
        }
        (self.seen, self.order) = (seen, order);
    }

    /// Finds the rooms that are seen, and where.
    fn look_around(&mut self, model: &Model, view: &View, all: bool) {
        self.seen.clear();
        let whole = Rect::whole(view.size);
        if all {
            self.seen.extend((0..model.rooms.len()).map(|room| Seen { room, rect: whole }));
            return;
        }
        if model.rooms.is_empty() {
            return;
        }
        self.seen.push(Seen { room: model.room_at([view.eye[0], view.eye[2]]), rect: whole });
        let mut next = 0;
        // Each turn of a room that was seen before widens its rectangle, so that this ends; the bound is for safety alone.
        let mut turns = 64 * model.rooms.len();
        while next < self.seen.len() && turns > 0 {
            turns -= 1;
            let Seen { room, rect } = self.seen[next];
            next += 1;
            for portal in &model.rooms[room].portals {
                let Some(through) = portal_rect(portal, view).map(|through| through.within(&rect)).filter(|rect| !rect.is_empty()) else {
                    continue;
                };
                let to = usize::from(portal.to);
                match self.seen.iter().position(|seen| seen.room == to) {
                    Some(known) if self.seen[known].rect.holds(&through) => {}
                    Some(known) => {
                        self.seen[known].rect = self.seen[known].rect.around(&through);
                        next = next.min(known);
                    }
                    None => self.seen.push(Seen { room: to, rect: through }),
                }
            }
        }
    }

    fn patch(&mut self, patch: &Patch, view: &View, axes: &[Affine; 3], scissor: &Rect, all: bool) {
        let before = dot(patch.normal, view.eye) - patch.offset;
        if before <= 1e-4 || (all && patch.normal[1] < -0.5) {
            return;
        }
        let corners = patch.corners.map(|corner| view.placed(corner));
        let mut points = [[0.0; 2]; MOST_CORNERS];
        let count = flatten(&corners, view, &mut points);
        if !shows(&points[..count], scissor) {
            return;
        }
        let inverse = mixed(axes, scaled(patch.normal, -1.0 / before));
        let texture = |direction: Vec3| {
            let at_eye = dot(direction, view.eye);
            let along = mixed(axes, direction);
            [0, 1, 2].map(|k| along[k] + inverse[k] * at_eye)
        };
        let shade = Shade {
            inverse,
            across: texture(patch.across),
            along: texture(patch.along),
            light: patch.light,
            graded: true,
            figure: patch.figure,
            dark: patch.dark,
            step: patch.step,
            owner: 0,
        };
        let face = self.canvas.add(shade);
        self.canvas.polygon(&points[..count], inverse, face, scissor);
    }

    fn actor(&mut self, model: &Model, actor: &Actor<'_>, view: &View, scissor: &Rect) {
        let Some(extent) = extent(&actor.body.solid.fine, &actor.pose, view) else { return };
        let rect = extent.rect.within(scissor);
        if extent.nearest > NEAR_M && !self.canvas.may_show(&rect, 1.0 / extent.nearest) {
            return;
        }
        let solid = &actor.body.solid;
        let mesh = solid.coarse.as_ref().filter(|_| extent.rows < COARSE_ROWS).unwrap_or(&solid.fine);
        let light = model.lights.local(actor.room, actor.pose.origin).turned(&actor.pose.axes);
        self.mesh(mesh, &actor.body.coats, &actor.pose, &light, view, scissor, [extent.nearest > NEAR_M], actor.owner);
    }

    /// Darkens the ground under and around an upright thing.
    fn contact(&mut self, actor: &Actor<'_>, view: &View, axes: &[Affine; 3], scissor: &Rect) {
        let (mesh, pose) = (&actor.body.solid.fine, &actor.pose);
        let (half, ground) = (scaled(sub(mesh.high, mesh.low), 0.5), pose.origin[1] + mesh.low[1]);
        let before = view.eye[1] - ground;
        let casts = actor.owner != STRUCTURE && actor.owner != ROBOT && pose.axes[1][1] > 0.99;
        if !casts || !(0.05..=4.0).contains(&before) {
            return;
        }
        let Some([_, _, depth]) = view.project(pose.origin) else { return };
        if half[0].max(half[2]) * view.focal < SHADOW_COLUMNS * depth {
            return;
        }
        let middle = scaled(add(mesh.low, mesh.high), 0.5);
        let margin = (half[0].min(half[2]) * 0.5).min(SHADOW_M);
        let inverse = mixed(axes, [0.0, -1.0 / before, 0.0]);
        for step in 0..SHADOW_STEPS {
            let wider = margin * (step as f32 / (SHADOW_STEPS - 1) as f32 * 1.4 - 0.4);
            let corner = |x: f32, z: f32| {
                let (x, z) = (middle[0] + x * (half[0] + wider), middle[2] + z * (half[2] + wider));
                let place = add(pose.origin, add(scaled(pose.axes[0], x), scaled(pose.axes[2], z)));
                view.placed([place[0], ground, place[2]])
            };
            let corners = [corner(-1.0, -1.0), corner(1.0, -1.0), corner(1.0, 1.0), corner(-1.0, 1.0)];
            let mut points = [[0.0; 2]; MOST_CORNERS];
            let count = flatten(&corners, view, &mut points);
            if shows(&points[..count], scissor) {
                self.canvas.shadow(&points[..count], inverse, SHADOW, scissor);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one inner loop; a struct of its arguments would be made for each thing")]
    fn mesh(
        &mut self,
        mesh: &Mesh,
        coats: &[Coat],
        pose: &Pose,
        light: &Local,
        view: &View,
        scissor: &Rect,
        [whole]: [bool; 1],
        owner: u16,
    ) {
        let axes = pose.axes.map(|axis| view.turned(axis));
        let rays = axes.map(|axis| view.along_rays(axis));
        let origin = view.placed(pose.origin);
        let offset = sub(view.eye, pose.origin);
        let eye = pose.axes.map(|axis| dot(axis, offset));
        let up = pose.axes.map(|axis| axis[1]);
        self.placed.clear();
        self.placed.extend(mesh.corners.iter().map(|&corner| {
            let turned = [0, 1, 2].map(|k| corner[0] * axes[0][k] + corner[1] * axes[1][k] + corner[2] * axes[2][k]);
            add(turned, origin)
        }));
        let middle = view.middle();
        self.flat.clear();
        if whole {
            self.flat.extend(self.placed.iter().map(|&place| projected(place, view.focal, middle)));
        }
        for face in &mesh.faces {
            let before = dot(face.normal, eye) - face.offset;
            if before <= 1e-5 {
                continue;
            }
            let corners = &mesh.order[face.first as usize..][..usize::from(face.count)];
            let mut points = [[0.0; 2]; MOST_CORNERS];
            let count = if whole {
                for (point, &corner) in points.iter_mut().zip(corners) {
                    *point = self.flat[usize::from(corner)];
                }
                corners.len().min(MOST_CORNERS)
            } else {
                let mut placed = [[0.0; 3]; MOST_CORNERS];
                for (place, &corner) in placed.iter_mut().zip(corners) {
                    *place = self.placed[usize::from(corner)];
                }
                flatten(&placed[..corners.len().min(MOST_CORNERS)], view, &mut points)
            };
            if !shows(&points[..count], scissor) {
                continue;
            }
            let inverse = mixed(&rays, scaled(face.normal, -1.0 / before));
            let shade =
                lit(face, &coats[usize::from(face.slot) % coats.len()], light, up, [&rays[0], &rays[1], &rays[2]], eye, inverse, owner);
            let number = self.canvas.add(shade);
            self.canvas.polygon(&points[..count], inverse, number, scissor);
        }
    }
}

/// A face's colours under its light.
#[expect(clippy::too_many_arguments, reason = "one inner loop")]
fn lit(face: &Face, coat: &Coat, light: &Local, up: Vec3, rays: [&Affine; 3], eye: Vec3, inverse: Affine, owner: u16) -> Shade {
    let rgb = light.on(face.normal, dot(face.normal, up));
    let texture = |axis: u8| {
        let axis = usize::from(axis);
        let at_eye = eye[axis] * coat.texels;
        [0, 1, 2].map(|k| rays[axis][k] * coat.texels + inverse[k] * at_eye)
    };
    Shade {
        inverse,
        across: texture(face.across),
        along: texture(face.along),
        light: [1.0, 0.0, 0.0, 0.0],
        graded: false,
        figure: coat.figure,
        dark: [0, 1, 2].map(|c| coat.dark[c] * rgb[c]),
        step: [0, 1, 2].map(|c| coat.step[c] * rgb[c]),
        owner,
    }
}

impl Canvas {
    /// Takes a face in; its number.
    fn add(&mut self, shade: Shade) -> u32 {
        self.shades.push(shade);
        (self.shades.len() - 1) as u32
    }
}

/// The dot products of the house's axes with the rays.
fn view_axes(view: &View) -> [Affine; 3] {
    [0, 1, 2].map(|k| view.along_rays([view.axes[0][k], view.axes[1][k], view.axes[2][k]]))
}

fn projected(place: Vec3, focal: f32, middle: [f32; 2]) -> [f32; 2] {
    let scale = focal / place[2];
    [middle[0] + place[0] * scale, middle[1] - place[1] * scale]
}

/// Clips a polygon at the near plane and projects it; how many corners are left.
fn flatten(corners: &[Vec3], view: &View, points: &mut [[f32; 2]; MOST_CORNERS]) -> usize {
    let middle = view.middle();
    let mut count = 0;
    let mut put = |place: Vec3| {
        if count < MOST_CORNERS {
            points[count] = projected(place, view.focal, middle);
            count += 1;
        }
    };
    let mut from = corners[corners.len() - 1];
    for &to in corners {
        if (from[2] > NEAR_M) != (to[2] > NEAR_M) {
            // From the side in front, so that both polygons at this edge get the same point.
            let (front, back) = if from[2] > NEAR_M { (from, to) } else { (to, from) };
            let share = (front[2] - NEAR_M) / (front[2] - back[2]);
            let cut = add(front, scaled(sub(back, front), share));
            put([cut[0], cut[1], NEAR_M]);
        }
        if to[2] > NEAR_M {
            put(to);
        }
        from = to;
    }
    count
}

/// Whether a polygon's box reaches into a rectangle.
fn shows(points: &[[f32; 2]], scissor: &Rect) -> bool {
    if points.len() < 3 {
        return false;
    }
    let (mut low, mut high) = (points[0], points[0]);
    for point in &points[1..] {
        low = [low[0].min(point[0]), low[1].min(point[1])];
        high = [high[0].max(point[0]), high[1].max(point[1])];
    }
    low[0] < scissor.right as f32 && high[0] > scissor.left as f32 && low[1] < scissor.bottom as f32 && high[1] > scissor.top as f32
}

/// The rectangle that an opening leaves; `None` where it is behind the eye.
fn portal_rect(portal: &Portal, view: &View) -> Option<Rect> {
    let corners = portal.corners.map(|corner| view.placed(corner));
    let normal = {
        let (a, b) = (sub(portal.corners[1], portal.corners[0]), sub(portal.corners[3], portal.corners[0]));
        crate::optics::unit(crate::optics::cross(a, b))
    };
    let off = dot(normal, sub(view.eye, portal.corners[0]));
    let [low, high] = [0, 2].map(|k| [portal.corners[0][k].min(portal.corners[1][k]), portal.corners[0][k].max(portal.corners[1][k])]);
    let beside = |range: [f32; 2], v: f32| v > range[0] - DOORWAY_M && v < range[1] + DOORWAY_M;
    if off.abs() < DOORWAY_M && beside(low, view.eye[0]) && beside(high, view.eye[2]) {
        return Some(Rect::whole(view.size));
    }
    let mut points = [[0.0; 2]; MOST_CORNERS];
    let count = flatten(&corners, view, &mut points);
    (count >= 3).then(|| around(&points[..count]))
}

fn around(points: &[[f32; 2]]) -> Rect {
    let low = [0, 1].map(|k| points.iter().map(|point| point[k]).fold(f32::MAX, f32::min));
    let high = [0, 1].map(|k| points.iter().map(|point| point[k]).fold(f32::MIN, f32::max));
    Rect::spanning(low, high)
}

/// Where a mesh's box is in the picture; `None`: behind the eye or beside the picture.
fn extent(mesh: &Mesh, pose: &Pose, view: &View) -> Option<Extent> {
    let axes = pose.axes.map(|axis| view.turned(axis));
    let (centre, half) = (scaled(add(mesh.low, mesh.high), 0.5), scaled(sub(mesh.high, mesh.low), 0.5));
    let middle = [0, 1, 2].map(|k| centre[0] * axes[0][k] + centre[1] * axes[1][k] + centre[2] * axes[2][k]);
    let middle = add(middle, view.placed(pose.origin));
    let reach = [0, 1, 2].map(|k| half[0] * axes[0][k].abs() + half[1] * axes[1][k].abs() + half[2] * axes[2][k].abs());
    let (nearest, farthest) = (middle[2] - reach[2], middle[2] + reach[2]);
    if farthest <= NEAR_M {
        return None;
    }
    if nearest <= NEAR_M {
        return Some(Extent { rect: Rect::whole(view.size), nearest, rows: f32::MAX });
    }
    let screen = view.middle();
    let ends = |k: usize, sign: f32| {
        let (low, high) = (middle[k] - reach[k], middle[k] + reach[k]);
        let low = low / if low < 0.0 { nearest } else { farthest };
        let high = high / if high > 0.0 { nearest } else { farthest };
        let (one, other) = (screen[k] + sign * low * view.focal, screen[k] + sign * high * view.focal);
        if one < other { [one, other] } else { [other, one] }
    };
    let (columns, rows) = (ends(0, 1.0), ends(1, -1.0));
    let rect = Rect::spanning([columns[0], rows[0]], [columns[1], rows[1]]).within(&Rect::whole(view.size));
    (!rect.is_empty()).then_some(Extent { rect, nearest, rows: rows[1] - rows[0] })
}
