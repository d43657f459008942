//! Puts bodies together in shares of the asset's box, and fits their union to it at the end.

use super::{Axis, Form, OPEN, Part, Shape, Surface};

/// A range along a side of the box: 0 is left, bottom or back, 1 is right, top or front.
pub(super) type Span = (f64, f64);

pub(super) struct Builder {
    size: [f64; 3],
    parts: Vec<Part>,
    surfaces: Vec<Surface>,
    draws: blake3::OutputReader,
}

impl Builder {
    pub(super) fn new(asset: &str, size: [f64; 3]) -> Builder {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"shape/").update(asset.as_bytes());
        Builder { size: size.map(|side| side.max(1e-4)), parts: Vec::new(), surfaces: Vec::new(), draws: hasher.finalize_xof() }
    }

    /// The asset's next number in [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        let mut bytes = [0; 4];
        self.draws.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / 4_294_967_296.0
    }

    pub(super) fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// Sides of the box, metres.
    pub(super) fn sides(&self) -> [f64; 3] {
        self.size
    }

    /// Metres along a side as a share of it, at most `most`.
    pub(super) fn share(&self, axis: Axis, metres: f64, most: f64) -> f64 {
        (metres / self.size[axis as usize]).min(most)
    }

    pub(super) fn part(&mut self, form: Form, x: Span, y: Span, z: Span, slot: u8) {
        self.add(form, [x, y, z], slot, true);
    }

    pub(super) fn soft(&mut self, form: Form, x: Span, y: Span, z: Span, slot: u8) {
        self.add(form, [x, y, z], slot, false);
    }

    fn add(&mut self, form: Form, spans: [Span; 3], slot: u8, solid: bool) {
        let size = self.size;
        let centre = [0, 1, 2].map(|side| ((spans[side].0 + spans[side].1) / 2.0 - 0.5) * size[side]);
        let half = [0, 1, 2].map(|side| ((spans[side].1 - spans[side].0).abs() / 2.0 * size[side]).max(1e-5));
        self.parts.push(Part { centre, half, form, slot, solid });
    }

    pub(super) fn boxy(&mut self, x: Span, y: Span, z: Span, slot: u8) {
        self.part(Form::Box, x, y, z, slot);
    }

    pub(super) fn round(&mut self, axis: Axis, x: Span, y: Span, z: Span, slot: u8) {
        self.part(Form::Cylinder { axis }, x, y, z, slot);
    }

    pub(super) fn ball(&mut self, x: Span, y: Span, z: Span, slot: u8) {
        self.part(Form::Ellipsoid, x, y, z, slot);
    }

    /// `radii` at the bottom and at the top, as shares of the larger one.
    pub(super) fn cone(&mut self, x: Span, y: Span, z: Span, radii: Span, slot: u8) {
        let most = radii.0.max(radii.1).max(1e-6);
        self.part(Form::Frustum { bottom: radii.0 / most, top: radii.1 / most }, x, y, z, slot);
    }

    /// A dark disc just under the box's top, over the middle of a vessel: its opening.
    pub(super) fn opening(&mut self, x: Span, y: f64, z: Span) {
        self.soft(Form::Cylinder { axis: Axis::Y }, x, (y - 0.02, y), z, super::DARK);
    }

    /// Four legs, square or round, that end at `y`.
    pub(super) fn legs(&mut self, thick_m: f64, y: Span, inset: f64) {
        let (wide, deep) = (self.share(Axis::X, thick_m, 0.3), self.share(Axis::Z, thick_m, 0.3));
        let form = if self.chance(0.4) { Form::Cylinder { axis: Axis::Y } } else { Form::Box };
        for x in [(inset, inset + wide), (1.0 - inset - wide, 1.0 - inset)] {
            for z in [(inset, inset + deep), (1.0 - inset - deep, 1.0 - inset)] {
                self.part(form, x, y, z, super::TRIM);
            }
        }
    }

    /// Declares a surface at the height `y`, with `clear` metres above it.
    pub(super) fn surface(&mut self, x: Span, y: f64, z: Span, clear: f64) {
        let size = self.size;
        self.surfaces.push(Surface {
            height: (y - 0.5) * size[1],
            centre: [((x.0 + x.1) / 2.0 - 0.5) * size[0], ((z.0 + z.1) / 2.0 - 0.5) * size[2]],
            half_x: (x.1 - x.0) / 2.0 * size[0],
            half_z: (z.1 - z.0) / 2.0 * size[2],
            clear,
        });
    }

    pub(super) fn top(&mut self) {
        self.surface((0.0, 1.0), 1.0, (0.0, 1.0), OPEN);
    }

    /// Stretches everything so that the union of the parts fills the box, and sorts the surfaces from the top.
    pub(super) fn finish(mut self) -> Shape {
        for side in 0..3 {
            let low = self.parts.iter().map(|part| part.centre[side] - part.half[side]).fold(f64::MAX, f64::min);
            let high = self.parts.iter().map(|part| part.centre[side] + part.half[side]).fold(f64::MIN, f64::max);
            let scale = self.size[side] / (high - low).max(1e-9);
            let middle = (low + high) / 2.0;
            for part in &mut self.parts {
                part.centre[side] = (part.centre[side] - middle) * scale;
                part.half[side] *= scale;
            }
            for surface in &mut self.surfaces {
                match side {
                    0 => (surface.centre[0], surface.half_x) = ((surface.centre[0] - middle) * scale, surface.half_x * scale),
                    1 => {
                        surface.height = (surface.height - middle) * scale;
                        surface.clear = if surface.clear >= OPEN { OPEN } else { surface.clear * scale };
                    }
                    _ => (surface.centre[1], surface.half_z) = ((surface.centre[1] - middle) * scale, surface.half_z * scale),
                }
            }
        }
        self.surfaces.sort_by(|one, other| other.height.total_cmp(&one.height));
        Shape { parts: self.parts, surfaces: self.surfaces }
    }
}
