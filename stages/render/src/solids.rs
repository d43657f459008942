//! Meshes of objects, from the shapes that the household gives them.
//!
//! In: type, asset and size. Out: a [`Solid`], with a finer and a coarser mesh. Each is made once a process.

use crate::mesh::Mesh;
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

fn make(_kind: &str, _asset: &str, size: [f64; 3]) -> Solid {
    let mut mesh = Mesh::default();
    mesh.block([0.0; 3], size.map(|side| side as f32 / 2.0), 0);
    Solid::plain(mesh)
}
