//! Generated houses: whole, walkable, and as full as real ones.

use super::*;
use crate::{
    assets,
    compile::hole_ends,
    generator::{MOST_ROOMS, generate_rooms},
    geometry::{area, inside},
    parse::flat,
    scene::{EXTERIOR, at},
    schema::House,
    space::Space,
    statistics::Statistics,
};

fn houses(each: u64) -> impl Iterator<Item = (usize, House)> {
    (1..=MOST_ROOMS).flat_map(move |rooms| (0..each).map(move |number| (rooms, generate_rooms(HouseSplit::Train, number, rooms).unwrap())))
}

#[test]
fn a_house_has_the_rooms_that_were_asked_for() {
    for (rooms, house) in houses(6) {
        assert_eq!(house.rooms.len(), rooms);
        let floors: Vec<_> = house.rooms.iter().map(|room| flat(&room.floor)).collect();
        for (room, floor) in house.rooms.iter().zip(&floors) {
            let turn: f64 = (0..floor.len()).map(|index| floor[index].cross(floor[(index + 1) % floor.len()])).sum();
            assert!(turn < 0.0, "{} goes clockwise around", room.id);
            assert!(area(floor) > 2.0);
            for (index, a) in floor.iter().enumerate() {
                let b = floor[(index + 1) % floor.len()];
                assert!((a.x - b.x).abs() < 1e-9 || (a.z - b.z).abs() < 1e-9, "{} is rectilinear", room.id);
            }
        }
        let scene = compile(&house).unwrap();
        for wall in &scene.walls {
            let (a, b) = (at(wall.a), at(wall.b));
            let along = b.minus(a).times(1.0 / a.distance(b));
            let beside = a.plus(b).times(0.5).plus(vec2(along.z, -along.x).times(0.02));
            let room = floors.iter().position(|floor| inside(floor, beside));
            assert_eq!(room, (wall.room != EXTERIOR).then_some(usize::from(wall.room)), "{wall:?}");
            let length = a.distance(b) as f32;
            assert!(
                wall.holes.iter().all(|hole| hole.from > -1e-3 && hole.to < length + 1e-3 && hole.low >= 0.0 && hole.high < wall.height)
            );
        }
    }
}

#[test]
fn holes_of_both_sides_of_a_wall_agree() {
    for (_, house) in houses(4) {
        for opening in house.doors.iter().chain(&house.windows) {
            let ends =
                [&opening.wall0, &opening.wall1].map(|id| hole_ends(house.walls.iter().find(|wall| wall.id == *id).unwrap(), opening));
            assert!(ends[0][0].distance(ends[1][1]).max(ends[0][1].distance(ends[1][0])) < 1e-12, "{}", opening.id);
        }
    }
}

/// The index that the robot lives by agrees: a flood over free floor from one room comes to all of them.
#[test]
fn one_can_walk_from_every_room_to_every_other() {
    const STEP: f64 = 0.1;
    for (rooms, house) in houses(3) {
        let scene = compile(&house).unwrap();
        let space = Space::new(&scene);
        let (low, high) = space.bounds();
        let (columns, rows) = (((high.x - low.x) / STEP) as usize + 1, ((high.z - low.z) / STEP) as usize + 1);
        let middle = |cell: usize| vec2(low.x + ((cell % columns) as f64 + 0.5) * STEP, low.z + ((cell / columns) as f64 + 0.5) * STEP);
        let free: Vec<bool> = (0..columns * rows).map(|cell| space.body_fits(middle(cell))).collect();
        let mut seen = vec![false; free.len()];
        let mut most = 0;
        for start in 0..free.len() {
            if !free[start] || seen[start] {
                continue;
            }
            seen[start] = true;
            let (mut open, mut reached) = (vec![start], vec![0; rooms]);
            while let Some(cell) = open.pop() {
                reached[space.room_at(middle(cell))] += 1;
                let column = cell % columns;
                let beside = [(column > 0).then(|| cell - 1), (column + 1 < columns).then_some(cell + 1)];
                for next in beside.into_iter().flatten().chain(cell.checked_sub(columns)).chain(Some(cell + columns)) {
                    if next < free.len() && free[next] && !seen[next] {
                        seen[next] = true;
                        open.push(next);
                    }
                }
            }
            most = most.max(reached.iter().filter(|&&cells| cells >= 60).count());
        }
        assert_eq!(most, rooms, "a house of {rooms} rooms");
    }
}

#[test]
fn furniture_stands_apart_and_small_objects_stand_on_it() {
    for (_, house) in houses(4) {
        for object in &house.objects {
            let parent = assets::find(&object.asset).unwrap();
            assert!(object.position.y + 1e-9 >= parent.size[1] / 2.0);
            for child in &object.children {
                let asset = assets::find(&child.asset).unwrap();
                let far = vec2(child.position.x, child.position.z).distance(vec2(object.position.x, object.position.z));
                assert!(far <= parent.size[0].hypot(parent.size[2]) / 2.0 + 1e-6, "{} on {}", child.id, object.id);
                let (bottom, top) = (child.position.y - asset.size[1] / 2.0, object.position.y + parent.size[1] / 2.0);
                assert!(bottom > -1e-9 && bottom <= top + 1e-6, "{} on {}", child.id, object.id);
            }
        }
        // Whole quarter turns are compared: others take more room than their sides tell.
        let boxes: Vec<_> = house
            .objects
            .iter()
            .filter(|object| object.rotation.y % 90.0 == 0.0)
            .map(|object| {
                let size = assets::find(&object.asset).unwrap().size;
                let across = (object.rotation.y / 90.0) as u32 % 2 == 1;
                let (x, z) = if across { (size[2] / 2.0, size[0] / 2.0) } else { (size[0] / 2.0, size[2] / 2.0) };
                (object, [x, size[1] / 2.0, z])
            })
            .collect();
        for (index, (one, half)) in boxes.iter().enumerate() {
            for (other, wide) in &boxes[index + 1..] {
                let apart = (one.position.x - other.position.x).abs() > half[0] + wide[0] - 1e-6
                    || (one.position.y - other.position.y).abs() > half[1] + wide[1] - 1e-6
                    || (one.position.z - other.position.z).abs() > half[2] + wide[2] - 1e-6;
                assert!(apart, "{} stands in {}", one.id, other.id);
            }
        }
    }
}

#[test]
fn every_number_gives_a_house() {
    for number in 0..300 {
        assert!(generate(HouseSplit::HeldOut, number).is_ok(), "house {number}");
    }
    assert!(generate_rooms(HouseSplit::Train, 0, 0).is_err());
    assert!(generate_rooms(HouseSplit::Train, 0, MOST_ROOMS + 1).is_err());
}

/// Area and objects by number of rooms, and all types of which a room holds one in three on average.
#[test]
fn houses_are_as_large_and_as_full_as_real_ones() {
    let Some(folder) = shared() else { return };
    let mut reference = Statistics::default();
    for name in ["train.jsonl.gz", "val.jsonl.gz"] {
        for (_, json) in parse::lines(File::open(folder.join(name)).unwrap()) {
            reference.add(&parse::house(&json.unwrap()).unwrap(), 1.0).unwrap();
        }
    }
    let mut generated = Statistics::default();
    for (&rooms, count) in &reference.sizes {
        for number in 0..100 {
            generated.add(&generate_rooms(HouseSplit::Train, number, rooms).unwrap(), count.houses / 100.0).unwrap();
        }
    }
    let sizes = reference.by_size(&generated);
    assert!(sizes.iter().all(|row| row.within(0.2)), "{sizes:?}");
    let kinds = reference.by_kind(&generated, 0.34);
    let off: Vec<_> = kinds.iter().filter(|row| !row.within(0.2)).collect();
    println!("{} of {} types by room are within 20 %: {off:?}", kinds.len() - off.len(), kinds.len());
    assert!(off.len() * 20 <= kinds.len(), "{off:?}");
}
