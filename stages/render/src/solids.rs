//! Meshes of objects, from the shapes that the household gives them.
//!
//! In: type, asset and size. Out: a [`Solid`], with a finer and a coarser mesh. Each is made once a process.

use crate::mesh::{Mesh, Turned};
use household::shape::{self, Form, Part};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// Meshes that are kept; an inventory of more starts anew.
const KEPT: usize = 20_000;

/// An object's meshes.
#[derive(Clone, Debug)]
pub(crate) struct Solid {
    pub(crate) fine: Mesh,
    /// For what looks small; `None`: the same.
    pub(crate) coarse: Option<Mesh>,
    pub(crate) slots: u8,
}

impl Solid {
    pub(crate) fn plain(mesh: Mesh) -> Solid {
        let slots = mesh.faces.iter().map(|face| face.slot + 1).max().unwrap_or(1);
        Solid { fine: mesh, coarse: None, slots }
    }
}

type Key = (String, String, [u64; 3]);

/// The meshes of an object of this type, asset and size (metres, its own axes).
pub(crate) fn of(kind: &str, asset: &str, size: [f64; 3]) -> Arc<Solid> {
    static MADE: OnceLock<Mutex<BTreeMap<Key, Arc<Solid>>>> = OnceLock::new();
    // What a panicking thread left is still a map of whole entries.
    let mut made = MADE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if made.len() >= KEPT {
        made.clear();
    }
    let key = (kind.to_string(), asset.to_string(), size.map(f64::to_bits));
    Arc::clone(made.entry(key).or_insert_with(|| Arc::new(make(kind, asset, size))))
}

fn make(kind: &str, asset: &str, size: [f64; 3]) -> Solid {
    let parts = shape::parts(kind, asset, size);
    let mesh = |finer: bool| {
        let mut mesh = Mesh::default();
        for part in &parts {
            add(&mut mesh, part, finer);
        }
        mesh
    };
    let round = parts.iter().any(|part| part.form != Form::Box);
    let slots = parts.iter().map(|part| part.slot + 1).max().unwrap_or(1);
    Solid { fine: mesh(true), coarse: round.then(|| mesh(false)), slots }
}

/// Radius under which a round part needs fewer sides, metres.
const THIN_M: f32 = 0.025;

fn add(mesh: &mut Mesh, part: &Part, finer: bool) {
    let (centre, half) = (part.centre.map(|v| v as f32), part.half.map(|v| v as f32));
    let sides = |axis: usize| {
        let radius = half[(axis + 1) % 3].max(half[(axis + 2) % 3]);
        match (finer, radius < THIN_M) {
            (true, false) => 14,
            (true, true) | (false, false) => 8,
            (false, true) => 5,
        }
    };
    let turned = |axis: usize, profile: &[[f32; 2]], caps: [bool; 2], mesh: &mut Mesh| {
        mesh.turned(&Turned { centre, half, axis, profile, sides: sides(axis), caps }, part.slot);
    };
    match part.form {
        Form::Box => mesh.block(centre, half, part.slot),
        Form::Cylinder { axis } => turned(axis as usize, &[[-1.0, 1.0], [1.0, 1.0]], [true; 2], mesh),
        Form::Frustum { bottom, top } => {
            let (bottom, top) = (bottom as f32, top as f32);
            turned(1, &[[-1.0, bottom], [1.0, top]], [bottom > 1e-6, top > 1e-6], mesh);
        }
        Form::Ellipsoid => {
            let levels = if finer && half[0].max(half[2]) >= THIN_M { 6 } else { 4 };
            let profile: Vec<[f32; 2]> = (0..=levels)
                .map(|level| {
                    let (sin, cos) = libm::sincosf(std::f32::consts::PI * level as f32 / levels as f32);
                    [-cos, if level == 0 || level == levels { 0.0 } else { sin }]
                })
                .collect();
            turned(1, &profile, [false; 2], mesh);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use household::assets;

    #[test]
    fn meshes_fill_the_boxes_of_all_assets() {
        for asset in assets::kinds().flat_map(assets::of_kind) {
            let solid = of(asset.kind, asset.id, asset.size);
            for mesh in std::iter::once(&solid.fine).chain(&solid.coarse) {
                for side in 0..3 {
                    let half = asset.size[side] as f32 / 2.0;
                    assert!(mesh.high[side] <= half + 1e-3 && mesh.low[side] >= -half - 1e-3, "{} leaves its box", asset.id);
                    assert!(mesh.high[side] - mesh.low[side] > half, "{} is smaller than its box", asset.id);
                }
                assert!(mesh.faces.len() < 2500, "{} has {} faces", asset.id, mesh.faces.len());
            }
        }
    }
}
