//! Pictures, depth and masks of a small house that is written down here.

use crate::{Model, ROBOT, Renderer, STRUCTURE, Size, View, look::Look, optics::dot};
use household::{
    compile::compile,
    geometry::vec2,
    parse,
    robot::{Action, Robot},
    scene::Scene,
    sim::{Home, Sim},
    view::{Eye, cameras},
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::sync::Arc;

mod classify;

fn xyz(x: f64, y: f64, z: f64) -> Value {
    json!({"x": x, "y": y, "z": z})
}

/// A wall of a room, from one corner to another, 2.6 m high.
fn wall(room: &str, material: &str, a: [f64; 2], b: [f64; 2]) -> Value {
    let name = room.split('|').next_back().unwrap_or_default();
    json!({
        "id": format!("wall|{name}|{:.2}|{:.2}|{:.2}|{:.2}", a[0], a[1], b[0], b[1]),
        "roomId": room,
        "material": {"name": material},
        "polygon": [xyz(a[0], 0.0, a[1]), xyz(b[0], 0.0, b[1]), xyz(a[0], 2.6, a[1]), xyz(b[0], 2.6, b[1])],
    })
}

fn object(id: &str, asset: &str, at: [f64; 3], yaw: f64) -> Value {
    json!({"id": id, "assetId": asset, "position": xyz(at[0], at[1], at[2]), "rotation": xyz(0.0, yaw, 0.0), "kinematic": true})
}

/// Two rooms, 4 m by 4 m and 3 m by 4 m, with a door frame between them and a window to the north.
pub(crate) fn house() -> Scene {
    let rooms = [("room|1", "Kitchen", "DarkTiles", 0.0, 4.0), ("room|2", "Bedroom", "Wood 1", 4.0, 7.0)];
    let floors = rooms.map(|(id, kind, floor, from, to)| {
        json!({
            "id": id, "roomType": kind, "children": [], "ceilings": [], "floorMaterial": {"name": floor},
            "floorPolygon": [xyz(from, 0.0, 0.0), xyz(from, 0.0, 4.0), xyz(to, 0.0, 4.0), xyz(to, 0.0, 0.0)],
        })
    });
    let mut walls = Vec::new();
    for (room, paint, from, to) in [("room|1", "RedBrick", 0.0, 4.0), ("room|2", "PureWhite", 4.0, 7.0)] {
        let corners = [[from, 0.0], [from, 4.0], [to, 4.0], [to, 0.0]];
        walls.extend((0..4).map(|side| wall(room, paint, corners[side], corners[(side + 1) % 4])));
    }
    walls.push(wall("exterior", "RedBrick", [4.0, 4.0], [0.0, 4.0]));
    let hole = |from: f64, to: f64, low: f64, high: f64| json!([xyz(from, low, 0.0), xyz(to, high, 0.0)]);
    let house = json!({
        "rooms": floors,
        "walls": walls,
        "doors": [{
            "id": "door|1|2", "room0": "room|1", "room1": "room|2", "wall0": "wall|1|4.00|4.00|4.00|0.00", "wall1": "wall|2|4.00|0.00|4.00|4.00",
            "assetId": "Doorframe_1", "holePolygon": hole(1.5, 2.5, 0.0, 2.1), "assetPosition": xyz(2.0, 1.0, 0.0),
        }],
        "windows": [{
            "id": "window|1|exterior", "room0": "room|1", "room1": "room|1", "wall0": "wall|1|0.00|4.00|4.00|4.00",
            "wall1": "wall|exterior|4.00|4.00|0.00|4.00", "assetId": "Window_Slider_36x36", "holePolygon": hole(1.0, 2.2, 0.9, 1.9),
            "assetPosition": xyz(1.6, 1.4, 0.0),
        }],
        "objects": [
            object("1|0", "Dining_Table_203_1", [2.0, 0.35, 2.9], 0.0),
            object("1|1", "Mug_1", [1.7, 0.8, 2.8], 30.0),
            object("1|2", "Chair_203_1", [0.6, 0.5, 1.0], 90.0),
            object("2|0", "Sofa_203_1", [5.9, 0.4, 2.0], 270.0),
        ],
        "proceduralParameters": {"ceilingMaterial": {"name": "PureWhite"}, "skyboxId": "SkyGarden", "receptacleHeight": 0.7, "reflections": [],
            "floorColliderThickness": 1.0, "lights": []},
        "metadata": {"schema": "1.0.0", "agent": {"position": xyz(2.0, 0.95, 1.0), "rotation": xyz(0.0, 0.0, 0.0), "standing": true, "horizon": 30},
            "roomSpecId": "none", "warnings": {}},
    });
    compile(&parse::house(&serde_json::to_vec(&house).unwrap()).unwrap()).unwrap()
}

fn sim(scene: &Scene) -> Sim {
    let robot = Robot::stowed(vec2(2.0, 1.2), 0.0);
    Sim::new(Arc::new(Home::new(scene.clone())), robot, cameras(&mut ChaCha8Rng::seed_from_u64(4)))
}

fn rgb(renderer: &Renderer) -> Vec<u8> {
    let mut rgb = Vec::new();
    renderer.rgb(&mut rgb);
    rgb
}

fn masks(renderer: &Renderer) -> Vec<u16> {
    let mut masks = Vec::new();
    renderer.masks(&mut masks);
    masks
}

#[test]
fn two_cameras_are_two_cameras() {
    let scene = house();
    let sim = sim(&scene);
    let model = Model::new(&scene, &Look::own());
    let views = [Eye::Navigation, Eye::Manipulation].map(|eye| View::of(&sim.cameras[eye as usize], &sim.robot, Size::CAMERA));
    assert!((views[0].eye[1] - 1.4457).abs() < 1e-6 && (views[1].eye[1] - 1.4248).abs() < 1e-6);
    assert!((views[0].eye[0] - 2.001_92).abs() < 1e-5 && (views[0].eye[2] - 1.267_88).abs() < 1e-5);
    assert!((views[1].eye[0] - 2.053_905).abs() < 1e-5 && (views[1].eye[2] - 1.141_151).abs() < 1e-5);
    // The second looks to the right of the first: their axes to the right and ahead are a quarter turn apart.
    assert!(dot(views[0].axes[0], views[1].axes[0]).abs() < 1e-6);
    assert!(views[1].axes[2][0] > 0.7 && views[0].axes[2][2] > 0.7);
    for (view, camera) in views.iter().zip(&sim.cameras) {
        assert!((crate::optics::focal(camera.fov, 224) as f32 - view.focal).abs() < 1e-3);
        assert!((192.9..=203.3).contains(&view.focal), "58 to 60 degrees");
    }
    let mut renderer = Renderer::new(Size::CAMERA);
    renderer.draw(&model, &sim, Eye::Navigation);
    let ahead = rgb(&renderer);
    renderer.draw(&model, &sim, Eye::Manipulation);
    assert_ne!(ahead, rgb(&renderer));
    assert_eq!(ahead.len(), 3 * 384 * 224);
}

#[test]
fn the_same_scene_look_state_and_size_give_the_bytes_that_every_machine_gives() {
    let scene = house();
    let mut sim = sim(&scene);
    let mut renderer = Renderer::new(Size::CAMERA);
    let mut hasher = blake3::Hasher::new();
    for look in [Look::own(), (0..).map(Look::randomised).find(Look::is_randomised).unwrap()] {
        let model = Model::new(&scene, &look);
        for action in [Action::RotateRight, Action::MoveArmOut, Action::MoveArmUp, Action::MoveArmUp, Action::MoveArmUp] {
            sim.act(action);
            for eye in [Eye::Navigation, Eye::Manipulation] {
                renderer.draw(&model, &sim, eye);
                hasher.update(&rgb(&renderer));
            }
        }
    }
    assert_eq!(&hasher.finalize().to_hex()[..16], "d792edea15b1314f");
}

#[test]
fn depth_is_the_distance_along_the_axis() {
    let scene = house();
    let model = Model::new(&scene, &Look::own());
    let mut renderer = Renderer::new(Size { width: 96, height: 56 });
    // Straight down onto the floor, and from the kitchen through the door frame onto the bedroom's far wall.
    let size = renderer.size();
    renderer.draw_from(&model, None, &View::looking([3.0, 2.0, 0.6], [3.0, 0.0, 0.6], 20.0, size), false);
    let mut depth = Vec::new();
    renderer.depth(&mut depth);
    assert!(depth.iter().all(|&metres| (metres - 2.0).abs() < 1e-3), "all is floor");
    renderer.draw_from(&model, None, &View::looking([2.0, 1.9, 2.0], [7.0, 1.9, 2.0], 20.0, size), false);
    renderer.depth(&mut depth);
    let middle = depth[56 / 2 * 96 + 96 / 2];
    assert!((middle - 5.0).abs() < 1e-3, "the wall behind the door is at {middle} m");
    assert!(masks(&renderer).iter().all(|&owner| owner == STRUCTURE));
}

#[test]
fn masks_say_which_thing_a_pixel_shows() {
    let scene = house();
    let model = Model::new(&scene, &Look::own());
    let mut renderer = Renderer::new(Size::CAMERA);
    let at = scene.things[1].centre.map(f64::from);
    let view = View::looking([at[0], 1.5, at[2] - 1.0], at, 59.0, Size::CAMERA);
    renderer.draw_from(&model, None, &view, false);
    let seen = masks(&renderer);
    assert_eq!(seen[112 * 384 + 192], 2, "the mug is in the middle");
    let pixels = seen.iter().filter(|&&owner| owner == 2).count();
    assert!((100..2500).contains(&pixels), "{pixels} pixels of mug");
    assert!(seen.contains(&1) && seen.contains(&STRUCTURE));
    // Through the wall the sofa is not seen; through the door it is.
    let see_sofa = |eye: [f64; 3]| {
        let mut renderer = Renderer::new(Size::CAMERA);
        renderer.draw_from(&model, None, &View::looking(eye, [5.9, 0.4, 2.0], 59.0, Size::CAMERA), false);
        masks(&renderer).contains(&4)
    };
    assert!(see_sofa([3.0, 1.4, 2.0]) && !see_sofa([3.9, 1.4, 0.2]));
}

#[test]
fn the_arm_is_in_the_manipulation_picture_and_a_held_thing_goes_with_the_hand() {
    let scene = house();
    let mut sim = sim(&scene);
    let model = Model::new(&scene, &Look::own());
    (sim.robot.lift, sim.robot.extension, sim.robot.wrist) = (0.7, 0.35, 0.0);
    let mut renderer = Renderer::new(Size::CAMERA);
    renderer.draw(&model, &sim, Eye::Manipulation);
    let arm = masks(&renderer).iter().filter(|&&owner| owner == ROBOT).count();
    assert!(arm > 1000, "{arm} pixels of arm");
    renderer.draw(&model, &sim, Eye::Navigation);
    assert!(!masks(&renderer).contains(&ROBOT));
    let (hand, height) = sim.robot.hand();
    let pose = household::sim::Pose { centre: hand, height, yaw: 0.0 };
    sim.moved.insert(1, pose);
    renderer.draw(&model, &sim, Eye::Manipulation);
    let near_hand = View::of(&sim.cameras[1], &sim.robot, Size::CAMERA);
    let [x, y, _] = near_hand.project([hand.x as f32, height as f32, hand.z as f32]).unwrap();
    let seen = masks(&renderer);
    let found = (-6..=6).any(|dy| (-6..=6).any(|dx| seen[(y as i32 + dy) as usize * 384 + (x as i32 + dx) as usize] == 2));
    assert!(found, "the mug is not at the hand");
}

#[test]
fn pictures_of_any_size_are_drawn_and_a_reused_renderer_forgets_the_last() {
    let scene = house();
    let sim = sim(&scene);
    let model = Model::new(&scene, &Look::own());
    for size in [Size { width: 1, height: 1 }, Size { width: 37, height: 111 }, Size { width: 396, height: 224 }] {
        let mut renderer = Renderer::new(size);
        renderer.draw(&model, &sim, Eye::Navigation);
        let first = rgb(&renderer);
        assert_eq!(first.len(), 3 * size.pixels());
        renderer.draw(&model, &sim, Eye::Manipulation);
        renderer.draw(&model, &sim, Eye::Navigation);
        assert_eq!(first, rgb(&renderer));
    }
    // 396 columns less six at each side are the picture of 384.
    let mut wide = Renderer::new(Size { width: 396, height: 224 });
    let mut cropped = Renderer::new(Size::CAMERA);
    wide.draw(&model, &sim, Eye::Navigation);
    cropped.draw(&model, &sim, Eye::Navigation);
    let (wide, cropped) = (masks(&wide), masks(&cropped));
    let differ = (0..224 * 384).filter(|at| cropped[*at] != wide[at / 384 * 396 + 6 + at % 384]).count();
    assert!(differ < 40, "{differ} pixels differ");
}
