//! Every refusal names what is wrong and where.

use super::*;

fn good() -> Value {
    serde_json::from_slice(&generate(HouseSplit::Train, 1).unwrap().to_json()).unwrap()
}

fn refusal(house: &Value) -> String {
    parse::house(&serde_json::to_vec(house).unwrap()).unwrap_err().to_string()
}

#[test]
fn a_good_house_is_read() {
    assert!(parse::house(&serde_json::to_vec(&good()).unwrap()).is_ok());
}

#[test]
fn a_missing_key_is_named_with_its_path() {
    let mut house = good();
    house["objects"][3].as_object_mut().unwrap().remove("assetId");
    assert_eq!(refusal(&house), "`objects[3].assetId`: missing");
    let mut house = good();
    house.as_object_mut().unwrap().remove("walls");
    assert_eq!(refusal(&house), "`walls`: missing");
}

#[test]
fn a_wall_without_area_is_refused() {
    let mut house = good();
    let corner = house["walls"][2]["polygon"][0].clone();
    house["walls"][2]["polygon"] = json!([corner, corner, corner, corner]);
    assert_eq!(refusal(&house), "`walls[2].polygon`: has no area");
}

#[test]
fn numbers_must_be_finite() {
    let text = String::from_utf8(generate(HouseSplit::Train, 1).unwrap().to_json()).unwrap();
    let at = text.find("\"position\":{\"x\":").unwrap() + "\"position\":{\"x\":".len();
    let end = at + text[at..].find(',').unwrap();
    for wrong in ["NaN", "Infinity", "-Infinity"] {
        let broken = format!("{}{wrong}{}", &text[..at], &text[end..]);
        let message = parse::house(broken.as_bytes()).unwrap_err().to_string();
        assert!(message.contains("must be finite") && message.contains("key `x`") && message.contains("line 1"), "{message}");
    }
    let mut house = good();
    house["objects"][0]["position"]["z"] = json!(1e300);
    assert_eq!(refusal(&house), "`objects[0].position.z`: must be finite, at most 10000");
    house["objects"][0]["position"]["z"] = json!("far");
    assert_eq!(refusal(&house), "`objects[0].position.z`: must be a number");
}

#[test]
fn an_object_outside_every_room_is_refused() {
    let mut house = good();
    house["objects"][0]["position"]["x"] = json!(99.0);
    let message = refusal(&house);
    assert!(message.starts_with("`objects[0].position`: object ") && message.ends_with("is outside every room"), "{message}");
}

#[test]
fn the_old_schema_is_refused_by_name() {
    let mut house = good();
    house["metadata"]["schema"] = json!("0.0.1");
    assert!(refusal(&house).contains("schema `0.0.1` is not read"));
    house["metadata"] = json!({});
    house["objects"][0]["boundingBox"] = json!({});
    assert!(refusal(&house).contains("0.0.1"));
}

#[test]
fn a_door_in_no_wall_is_refused() {
    let mut house = good();
    house["doors"][0]["wall1"] = json!("wall|9|0|0|0|0");
    assert_eq!(refusal(&house), "`doors[0].wall1`: the house has no wall `wall|9|0|0|0|0`");
}

#[test]
fn a_light_of_another_kind_is_refused() {
    let mut house = good();
    let light = json!({"id": "l", "type": "spot", "position": {"x": 1, "y": 1, "z": 1}, "intensity": 1, "rgb": {"r": 1, "g": 1, "b": 1}});
    house["proceduralParameters"]["lights"] = json!([light]);
    assert_eq!(refusal(&house), "`proceduralParameters.lights[0].type`: must be directional or point");
}

#[test]
fn deep_long_and_cut_input_is_refused() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(parse::house(deep.as_bytes()), Err(Error::Json { .. })));
    let long = vec![b' '; parse::MAX_BYTES + 1];
    assert!(matches!(parse::house(&long), Err(Error::TooLarge { .. })));
    let whole = generate(HouseSplit::Train, 1).unwrap().to_json();
    assert!(matches!(parse::house(&whole[..whole.len() / 2]), Err(Error::Json { .. })));
    assert!(parse::house(b"").is_err());
    assert!(parse::house(b"[]").is_err());
}

#[test]
fn lines_are_counted_and_a_cut_gzip_ends_with_an_error() {
    use std::io::Write as _;
    let house = String::from_utf8(generate(HouseSplit::Train, 1).unwrap().to_json()).unwrap();
    let text = format!("{house}\n\n{house}\n");
    let plain: Vec<u64> = parse::lines(std::io::Cursor::new(text.clone())).map(|(line, json)| json.map(|_| line).unwrap()).collect();
    assert_eq!(plain, [1, 3]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(text.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    assert_eq!(parse::lines(std::io::Cursor::new(packed.clone())).filter(|(_, json)| json.is_ok()).count(), 2);
    let cut: Vec<_> = parse::lines(std::io::Cursor::new(packed[..packed.len() / 2].to_vec())).collect();
    assert!(cut.last().unwrap().1.is_err());
}

#[test]
fn a_line_that_is_too_long_is_passed_over() {
    let mut text = vec![b'x'; parse::MAX_BYTES + 10];
    text.extend(b"\n{}\n");
    let lines: Vec<_> = parse::lines(std::io::Cursor::new(text)).collect();
    assert_eq!(lines.len(), 2);
    assert!(matches!(lines[0].1, Err(Error::TooLarge { .. })));
    assert_eq!(lines[1], (2, Ok(b"{}\n".to_vec())));
}

#[test]
fn a_task_that_does_not_fit_its_house_is_refused() {
    let home = home(1);
    let task = |ids: Vec<String>, start: [f64; 2]| {
        Arc::new(FetchTask { target: "Mug".into(), ids, instruction: String::new(), start, ..FetchTask::default() })
    };
    assert!(Episode::start(Arc::clone(&home), task(vec!["Mug|9|9".into()], [1.0, 1.0])).is_err());
    let id = home.scene.things[0].id.clone();
    assert!(Episode::start(home, task(vec![id], [-5.0, 1.0])).is_err());
}

#[test]
fn a_scene_of_another_version_is_refused() {
    let mut bytes = generate_compiled(HouseSplit::Train, 1).unwrap().1.to_bytes();
    bytes[1] = 99;
    assert!(Scene::from_bytes(&bytes).unwrap_err().to_string().contains("version 99"));
    assert!(Scene::from_bytes(b"nonsense").is_err());
}
