//! How bright a surface is, by where it is and which way it looks.
//!
//! In: the scene's lights and a look. Out: red, green and blue factors. The sun comes through the roof as if it were milky
//! glass: it tells walls apart but throws no shadow. Each room has its lamp; light from all sides does the rest.

use crate::{
    look::Look,
    optics::{Vec3, add, dot, scaled, sub, unit},
};
use household::scene::{Light, Scene};

/// Light from everywhere, from above, and what sun and lamp add at full strength where they meet a surface straight.
const EVERYWHERE: f32 = 0.54;
const ABOVE: f32 = 0.07;
const SUN: f32 = 0.20;
const LAMP: f32 = 0.9;
/// Distance at which a lamp's light has fallen to half, metres.
const LAMP_HALF_M: f32 = 3.2;

/// A lamp of a room.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lamp {
    pub(crate) at: Vec3,
    pub(crate) rgb: Vec3,
}

/// The lights of a house.
#[derive(Clone, Debug)]
pub(crate) struct Lights {
    /// Where the sun is, and its colour.
    sun: Vec3,
    sun_rgb: Vec3,
    everywhere: Vec3,
    pub(crate) lamps: Vec<Lamp>,
}

/// The light at an object: what a face of it gets is a sum of dot products with its normal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local {
    pub(crate) everywhere: Vec3,
    pub(crate) above: f32,
    pub(crate) sun: Vec3,
    pub(crate) sun_rgb: Vec3,
    pub(crate) lamp: Vec3,
    pub(crate) lamp_rgb: Vec3,
}

impl Lights {
    /// The lamps are in the order of the scene's rooms: each room has that of the house which is nearest to its middle.
    pub(crate) fn new(scene: &Scene, look: &Look) -> Lights {
        let (mut sun, mut sun_rgb) = (unit([0.4, 0.9, 0.2]), [SUN; 3]);
        let mut points = Vec::new();
        for light in &scene.lights {
            match *light {
                Light::Directional { rotation, intensity, rgb } => {
                    let (pitch, yaw) = (rotation[0].to_radians(), rotation[1].to_radians());
                    let flat = libm::cosf(pitch);
                    sun = unit([-libm::sinf(yaw) * flat, libm::sinf(pitch).max(0.2), -libm::cosf(yaw) * flat]);
                    sun_rgb = scaled(rgb, SUN * intensity.clamp(0.0, 2.0));
                }
                Light::Point { at, intensity, rgb, .. } => points.push(Lamp { at, rgb: scaled(rgb, LAMP * intensity.clamp(0.0, 2.0)) }),
            }
        }
        let turn = look.value("sun", [-0.8, 0.0, 0.8]);
        sun = unit(add(sun, [turn, 0.0, turn * 0.5]));
        let level = look.value("everywhere", [0.75, 1.0, 1.2]);
        let tint = [look.value("red", [0.9, 1.0, 1.1]), look.value("green", [0.94, 1.0, 1.06]), look.value("blue", [0.85, 1.0, 1.1])];
        let lamps = scene.rooms.iter().enumerate().map(|(number, room)| {
            let count = room.floor.len().max(1) as f32;
            let [x, z] = [0, 1].map(|k| room.floor.iter().map(|corner| corner[k]).sum::<f32>() / count);
            let above = [x, room.height - 0.2, z];
            let far = |lamp: &Lamp| dot(sub(lamp.at, above), sub(lamp.at, above));
            let nearest = points.iter().min_by(|one, other| far(one).total_cmp(&far(other))).copied();
            let mut lamp = nearest.filter(|lamp| far(lamp) < 9.0).unwrap_or(Lamp { at: above, rgb: [0.45, 0.42, 0.38] });
            lamp.rgb = scaled(lamp.rgb, look.value(&format!("lamp/{number}"), [0.4, 1.0, 1.5]));
            lamp
        });
        let everywhere = scaled([tint[0], tint[1], tint[2]], EVERYWHERE * level);
        Lights { sun, sun_rgb: scaled(sun_rgb, look.value("sun strength", [0.3, 1.0, 1.6])), everywhere, lamps: lamps.collect() }
    }

    /// The light at a point of a room.
    pub(crate) fn local(&self, room: usize, at: Vec3) -> Local {
        let Some(lamp) = self.lamps.get(room) else {
            let none = [0.0; 3];
            return Local { everywhere: self.everywhere, above: ABOVE, sun: self.sun, sun_rgb: self.sun_rgb, lamp: none, lamp_rgb: none };
        };
        let way = sub(lamp.at, at);
        let square = dot(way, way);
        let strength = 1.0 / (1.0 + square / (LAMP_HALF_M * LAMP_HALF_M));
        Local {
            everywhere: self.everywhere,
            above: ABOVE,
            sun: self.sun,
            sun_rgb: self.sun_rgb,
            lamp: unit(way),
            lamp_rgb: scaled(lamp.rgb, strength),
        }
    }

    /// The light on a surface of a room.
    pub(crate) fn on(&self, room: usize, at: Vec3, normal: Vec3) -> Vec3 {
        self.local(room, at).on(normal, normal[1])
    }
}

impl Local {
    /// The light on a face; `up` is the upward part of its normal. Directions are in the axes of the normal.
    pub(crate) fn on(&self, normal: Vec3, up: f32) -> Vec3 {
        let sun = dot(normal, self.sun).max(0.0);
        // A lamp is large: it still reaches what is turned a little away from it.
        let lamp = (dot(normal, self.lamp) * 0.75 + 0.25).max(0.0);
        let above = 1.0 + up * self.above / EVERYWHERE;
        [0, 1, 2].map(|k| self.everywhere[k] * above + self.sun_rgb[k] * sun + self.lamp_rgb[k] * lamp)
    }

    /// The same light in the axes of an object; `axes` are the object's own axes in the house.
    pub(crate) fn turned(&self, axes: &[Vec3; 3]) -> Local {
        Local { sun: axes.map(|axis| dot(axis, self.sun)), lamp: axes.map(|axis| dot(axis, self.lamp)), ..*self }
    }
}
