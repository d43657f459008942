//! Every type has a shape that fills its box, and assets of one type differ.

use super::*;
use crate::assets;
use proptest::prelude::*;

fn ends(part: &Part, side: usize) -> (f64, f64) {
    (part.centre[side] - part.half[side], part.centre[side] + part.half[side])
}

fn check(kind: &str, asset: &str, size: [f64; 3]) {
    let shape = shape(kind, asset, size);
    for side in 0..3 {
        let low = shape.parts.iter().map(|part| ends(part, side).0).fold(f64::MAX, f64::min);
        let high = shape.parts.iter().map(|part| ends(part, side).1).fold(f64::MIN, f64::max);
        let most = size[side] / 2.0;
        assert!((low + most).abs() < 1e-6 && (high - most).abs() < 1e-6, "{kind} {asset}: side {side} spans {low}..{high} of {size:?}");
    }
    for part in &shape.parts {
        assert!(part.half.iter().all(|&half| half > 0.0), "{kind} {asset}: {part:?}");
        assert!(part.slot <= ACCENT);
        if let Form::Frustum { bottom, top } = part.form {
            assert!(bottom >= 0.0 && top >= 0.0 && (bottom.max(top) - 1.0).abs() < 1e-9, "{kind} {asset}: {part:?}");
        }
    }
    assert!(shape.parts.iter().any(|part| part.solid) || ["ShowerCurtain", "Blinds"].contains(&kind), "{kind}");
    for surface in &shape.surfaces {
        assert!(surface.height.abs() <= size[1] / 2.0 + 1e-6, "{kind} {asset}: {surface:?}");
        assert!(surface.centre[0].abs() + surface.half_x <= size[0] / 2.0 + 1e-6, "{kind} {asset}: {surface:?}");
        assert!(surface.centre[1].abs() + surface.half_z <= size[2] / 2.0 + 1e-6, "{kind} {asset}: {surface:?}");
        assert!(surface.clear >= 0.0 && surface.half_x > 0.0 && surface.half_z > 0.0, "{kind} {asset}: {surface:?}");
    }
}

#[test]
fn every_asset_of_the_table_has_a_shape_that_fills_its_box() {
    for kind in assets::kinds() {
        for asset in assets::of_kind(kind) {
            check(kind, asset.id, asset.size);
        }
    }
}

#[test]
fn few_types_of_the_table_are_mere_boxes() {
    let boxes: Vec<&str> =
        assets::kinds().filter(|kind| assets::of_kind(kind).all(|asset| parts(kind, asset.id, asset.size).len() == 1)).collect();
    assert!(boxes.is_empty(), "no shape for {boxes:?}");
}

#[test]
fn a_surface_is_on_a_solid_part() {
    for kind in assets::kinds() {
        for asset in assets::of_kind(kind) {
            let shape = shape(kind, asset.id, asset.size);
            for surface in &shape.surfaces {
                let carried = shape.parts.iter().any(|part| {
                    let over = (0..3).step_by(2).all(|side| {
                        // A little off the middle, where cushions meet.
                        let at = surface.centre[side / 2] + 0.1 * [surface.half_x, 0.0, surface.half_z][side];
                        ends(part, side).0 <= at && at <= ends(part, side).1
                    });
                    part.solid && over && (ends(part, 1).1 - surface.height).abs() < 0.05 * asset.size[1] + 1e-6
                });
                assert!(carried, "{}: {surface:?} hangs in the air", asset.id);
            }
        }
    }
}

#[test]
fn assets_of_one_type_differ_and_one_asset_does_not() {
    let size = [0.12, 0.1, 0.1];
    assert_eq!(parts("Mug", "Mug_1", size), parts("Mug", "Mug_1", size));
    assert_ne!(parts("Mug", "Mug_1", size), parts("Mug", "Mug_2", size));
    assert_eq!(parts("ObjaThing", "0f0f", size).len(), 1);
}

#[test]
fn one_can_reach_under_a_table_and_into_a_shelf() {
    for asset in assets::of_kind("DiningTable") {
        let solid = parts("DiningTable", asset.id, asset.size);
        let volume: f64 = solid.iter().map(|part| 8.0 * part.half.iter().product::<f64>()).sum();
        assert!(volume < 0.35 * asset.size.iter().product::<f64>(), "{}: {volume} of {:?}", asset.id, asset.size);
    }
    for asset in assets::of_kind("ShelvingUnit") {
        let boards = surfaces("ShelvingUnit", asset.id, asset.size);
        assert!(boards.len() >= 2 && boards.iter().all(|board| board.clear > 0.12), "{}: {boards:?}", asset.id);
    }
}

proptest! {
    #[test]
    fn no_size_breaks_a_shape(kind in 0_usize..200, asset in "[a-zA-Z0-9_]{1,12}", size in prop::array::uniform3(0.002_f64..4.0)) {
        let kinds: Vec<&str> = assets::kinds().chain(["Unknown"]).collect();
        check(kinds[kind % kinds.len()], &asset, size);
    }
}
