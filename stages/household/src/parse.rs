//! JSON in, [`House`] out, or an error that names the key and what is wrong with it.
//!
//! Refused: more than [`MAX_BYTES`], nesting deeper than serde_json's limit of 128, a missing key, a number that is not
//! finite, a wall without area, a room without area, an object outside every room, schema 0.0.1.

use crate::{
    error::Error,
    geometry::{Vec2, area, inside, rim_distance, vec2},
    schema::{Agent, Color, House, Light, Material, Metadata, Object, Opening, Parameters, Point, Room, Shadow, VERSION, Wall},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
};

/// The longest house that is read. Real ones take 4 to 200 kB.
pub const MAX_BYTES: usize = 16 << 20;

/// How far outside every room an object's centre may be: pictures and windows hang on the walls.
const OUTSIDE_M: f64 = 0.3;

/// Reads one house.
///
/// # Errors
/// The first thing that is wrong, by key path.
pub fn house(json: &[u8]) -> Result<House, Error> {
    if json.len() > MAX_BYTES {
        return Err(Error::TooLarge { bytes: json.len(), limit: MAX_BYTES });
    }
    let value: Value = serde_json::from_slice(json).map_err(|error| json_error(json, &error))?;
    let root = Node { value: &value, at: At::Root };
    let metadata = metadata(&root)?;
    let house = House {
        rooms: root.list("rooms", room)?,
        walls: root.list("walls", wall)?,
        doors: root.list("doors", opening)?,
        windows: root.list("windows", opening)?,
        objects: root.list("objects", object)?,
        parameters: parameters(&root)?,
        metadata,
    };
    check(&house)?;
    Ok(house)
}

/// Names the place of a syntax error, and the key before it.
fn json_error(json: &[u8], error: &serde_json::Error) -> Error {
    let (line, column) = (error.line(), error.column());
    let start = json.split(|&byte| byte == b'\n').take(line.saturating_sub(1)).map(|line| line.len() + 1).sum::<usize>();
    let end = (start + column).min(json.len());
    let before = String::from_utf8_lossy(&json[end.saturating_sub(400)..end]).into_owned();
    let colon = before.rfind("\":").unwrap_or(0);
    let key = before[..colon].rfind('"').map(|quote| format!(" (after key `{}`)", &before[quote + 1..colon])).unwrap_or_default();
    let rest = &json[end.saturating_sub(2)..(end + 10).min(json.len())];
    let rest = String::from_utf8_lossy(rest);
    let not_finite = rest.contains("NaN") || rest.contains("Infinity") || before.ends_with('N');
    let what = if not_finite { "a number must be finite".into() } else { error.to_string() };
    Error::Json { line, column, what, key }
}

/// Where a value stands, as a chain to its parents, so that a path is only written when it is needed.
#[derive(Clone, Copy)]
enum At<'a> {
    Root,
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl At<'_> {
    fn path(&self) -> String {
        match self {
            At::Root => String::new(),
            At::Key(At::Root, key) => (*key).to_owned(),
            At::Key(parent, key) => format!("{}.{key}", parent.path()),
            At::Index(parent, index) => format!("{}[{index}]", parent.path()),
        }
    }
}

struct Node<'a> {
    value: &'a Value,
    at: At<'a>,
}

impl Node<'_> {
    fn wrong(&self, key: &str, what: &str) -> Error {
        Error::key(At::Key(&self.at, key).path(), what)
    }

    fn get<'b>(&'b self, key: &'b str) -> Result<Node<'b>, Error> {
        if !self.value.is_object() {
            return Err(Error::key(self.at.path(), "must be an object"));
        }
        match self.value.get(key) {
            Some(value) => Ok(Node { value, at: At::Key(&self.at, key) }),
            None => Err(self.wrong(key, "missing")),
        }
    }

    fn maybe<'b>(&'b self, key: &'b str) -> Option<Node<'b>> {
        self.value.get(key).filter(|value| !value.is_null()).map(|value| Node { value, at: At::Key(&self.at, key) })
    }

    fn text(&self, key: &str) -> Result<String, Error> {
        self.get(key)?.value.as_str().map(str::to_owned).ok_or_else(|| self.wrong(key, "must be a text"))
    }

    fn number(&self, key: &str) -> Result<f64, Error> {
        let number = self.get(key)?.value.as_f64().ok_or_else(|| self.wrong(key, "must be a number"))?;
        // Coordinates beyond ten kilometres are as useless as infinite ones, and would make grids without end.
        if number.is_finite() && number.abs() <= 1e4 { Ok(number) } else { Err(self.wrong(key, "must be finite, at most 10000")) }
    }

    fn point(&self, key: &str) -> Result<Point, Error> {
        self.get(key)?.as_point()
    }

    fn as_point(&self) -> Result<Point, Error> {
        Ok(Point { x: self.number("x")?, y: self.number("y")?, z: self.number("z")? })
    }

    fn list<T>(&self, key: &str, read: fn(&Node) -> Result<T, Error>) -> Result<Vec<T>, Error> {
        let node = self.get(key)?;
        let values = node.value.as_array().ok_or_else(|| self.wrong(key, "must be a list"))?;
        values.iter().enumerate().map(|(index, value)| read(&Node { value, at: At::Index(&node.at, index) })).collect()
    }

    fn maybe_text(&self, key: &str) -> Result<Option<String>, Error> {
        self.maybe(key).map(|_| self.text(key)).transpose()
    }

    fn maybe_number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.maybe(key).map(|_| self.number(key)).transpose()
    }

    fn maybe_bool(&self, key: &str) -> Result<Option<bool>, Error> {
        let Some(node) = self.maybe(key) else { return Ok(None) };
        node.value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "must be true or false"))
    }

    /// A list that may be absent.
    fn maybe_list<T>(&self, key: &str, read: fn(&Node) -> Result<T, Error>) -> Result<Vec<T>, Error> {
        if self.maybe(key).is_some() { self.list(key, read) } else { Ok(Vec::new()) }
    }

    fn color(&self, key: &str) -> Result<Color, Error> {
        let node = self.get(key)?;
        Ok(Color { r: node.number("r")?, g: node.number("g")?, b: node.number("b")? })
    }

    /// A material that may be absent: then its name is empty.
    fn material(&self, key: &str) -> Result<Material, Error> {
        self.maybe(key).map_or_else(|| Ok(Material::default()), |node| material(&node))
    }
}

fn material(node: &Node) -> Result<Material, Error> {
    let name = node.maybe_text("name")?.unwrap_or_default();
    let color = node.maybe("color").map(|_| node.color("color")).transpose()?;
    Ok(Material { name, color })
}

fn parameters(root: &Node) -> Result<Parameters, Error> {
    let usual = Parameters::default();
    let Some(node) = root.maybe("proceduralParameters") else { return Ok(usual) };
    let ceiling = node.material("ceilingMaterial")?;
    Ok(Parameters {
        floor_collider_thickness: node.maybe_number("floorColliderThickness")?.unwrap_or(usual.floor_collider_thickness),
        receptacle_height: node.maybe_number("receptacleHeight")?.unwrap_or(usual.receptacle_height),
        skybox_id: node.maybe_text("skyboxId")?.unwrap_or(usual.skybox_id),
        ceiling_material: if ceiling.name.is_empty() { usual.ceiling_material } else { ceiling },
        lights: node.maybe_list("lights", light)?,
        reflections: node.maybe_list("reflections", material)?,
    })
}

fn light(node: &Node) -> Result<Light, Error> {
    let kind = node.text("type")?;
    if !["directional", "point"].contains(&kind.as_str()) {
        return Err(node.wrong("type", "must be directional or point"));
    }
    Ok(Light {
        id: node.text("id")?,
        position: node.point("position")?,
        rotation: node.maybe("rotation").map(|_| node.point("rotation")).transpose()?,
        intensity: node.number("intensity")?,
        indirect_multiplier: node.maybe_number("indirectMultiplier")?,
        range: node.maybe_number("range")?,
        rgb: node.color("rgb")?,
        shadow: node.maybe("shadow").map(|shadow| self::shadow(&shadow)).transpose()?,
        layer: node.maybe_text("layer")?,
        culling_mask_off: node.maybe_list("cullingMaskOff", layer_name)?,
        kind,
    })
}

fn layer_name(node: &Node) -> Result<String, Error> {
    node.value.as_str().map(str::to_owned).ok_or_else(|| Error::key(node.at.path(), "must be a text"))
}

fn shadow(node: &Node) -> Result<Shadow, Error> {
    Ok(Shadow {
        kind: node.text("type")?,
        strength: node.number("strength")?,
        normal_bias: node.number("normalBias")?,
        bias: node.number("bias")?,
        near_plane: node.number("nearPlane")?,
        resolution: node.text("resolution")?,
    })
}

fn metadata(root: &Node) -> Result<Metadata, Error> {
    let found = root.maybe("metadata").and_then(|node| node.value.get("schema").and_then(Value::as_str).map(str::to_owned));
    // The old schema had no version key; its objects have a box instead of a position rule.
    let old = root.value.get("objects").and_then(|objects| objects.get(0)).is_some_and(|object| object.get("boundingBox").is_some());
    match found {
        Some(version) if version == VERSION => {}
        Some(version) => return Err(Error::Schema { found: version }),
        None if old => return Err(Error::Schema { found: "0.0.1".into() }),
        None => return Err(Error::key("metadata.schema", "missing")),
    }
    let node = root.get("metadata")?;
    let agent = node.maybe("agent").map(|agent| {
        let (position, rotation) = (agent.point("position")?, agent.point("rotation")?);
        let standing = agent.maybe_bool("standing")?.unwrap_or(true);
        Ok::<_, Error>(Agent { position, rotation, standing, horizon: agent.maybe_number("horizon")?.unwrap_or(30.0) })
    });
    Ok(Metadata { schema: VERSION.into(), room_spec: node.maybe_text("roomSpecId")?, agent: agent.transpose()? })
}

fn room(node: &Node) -> Result<Room, Error> {
    let floor = node.list("floorPolygon", |point| point.as_point())?;
    if floor.len() < 3 || area(&flat(&floor)) < 1e-3 {
        return Err(node.wrong("floorPolygon", "has no area"));
    }
    Ok(Room {
        id: node.text("id")?,
        kind: node.text("roomType")?,
        floor,
        material: node.material("floorMaterial")?,
        ceilings: node.maybe_list("ceilings", |ceiling| ceiling.material("material"))?,
        children: node.maybe_list("children", object)?,
        layer: node.maybe_text("layer")?,
    })
}

fn wall(node: &Node) -> Result<Wall, Error> {
    let polygon = node.list("polygon", |point| point.as_point())?;
    let extent = |pick: fn(&Point) -> f64| {
        let values = polygon.iter().map(pick);
        values.clone().fold(f64::MIN, f64::max) - values.fold(f64::MAX, f64::min)
    };
    if polygon.len() < 4 || extent(|point| point.y) < 1e-6 || extent(|point| point.x).max(extent(|point| point.z)) < 1e-6 {
        return Err(node.wrong("polygon", "has no area"));
    }
    Ok(Wall {
        id: node.text("id")?,
        room: node.text("roomId")?,
        polygon,
        material: node.material("material")?,
        empty: node.maybe_bool("empty")?.unwrap_or(false),
        layer: node.maybe_text("layer")?,
    })
}

fn opening(node: &Node) -> Result<Opening, Error> {
    let hole = node.list("holePolygon", |point| point.as_point())?;
    if hole.len() < 2 {
        return Err(node.wrong("holePolygon", "needs two corners"));
    }
    Ok(Opening {
        id: node.text("id")?,
        room0: node.text("room0")?,
        room1: node.text("room1")?,
        wall0: node.text("wall0")?,
        wall1: node.text("wall1")?,
        asset: node.text("assetId")?,
        hole,
        position: node.point("assetPosition")?,
        openable: node.maybe_bool("openable")?,
        openness: node.maybe_number("openness")?,
    })
}

fn object(node: &Node) -> Result<Object, Error> {
    Ok(Object {
        id: node.text("id")?,
        asset: node.text("assetId")?,
        kind: node.maybe_text("objectType")?,
        position: node.point("position")?,
        rotation: node.point("rotation")?,
        kinematic: node.maybe_bool("kinematic")?.unwrap_or(false),
        layer: node.maybe_text("layer")?,
        openness: node.maybe_number("openness")?,
        on: node.maybe_bool("isOn")?,
        dirty: node.maybe_bool("isDirty")?,
        children: node.maybe_list("children", object)?,
    })
}

/// A polygon's points on the floor.
pub(crate) fn flat(points: &[Point]) -> Vec<Vec2> {
    points.iter().map(|point| vec2(point.x, point.z)).collect()
}

fn check(house: &House) -> Result<(), Error> {
    if house.rooms.is_empty() {
        return Err(Error::key("rooms", "is empty"));
    }
    let floors: Vec<Vec<Vec2>> = house.rooms.iter().map(|room| flat(&room.floor)).collect();
    let indoors = |point: Point| {
        let point = vec2(point.x, point.z);
        floors.iter().any(|floor| inside(floor, point)) || floors.iter().any(|floor| rim_distance(floor, point) <= OUTSIDE_M)
    };
    let walls: BTreeSet<&str> = house.walls.iter().map(|wall| wall.id.as_str()).collect();
    for (list, openings) in [("doors", &house.doors), ("windows", &house.windows)] {
        for (index, opening) in openings.iter().enumerate() {
            for (key, wall) in [("wall0", &opening.wall0), ("wall1", &opening.wall1)] {
                if !walls.contains(wall.as_str()) {
                    return Err(Error::key(format!("{list}[{index}].{key}"), format!("the house has no wall `{wall}`")));
                }
            }
        }
    }
    for (index, object) in house.objects.iter().enumerate() {
        if !indoors(object.position) {
            return Err(Error::key(format!("objects[{index}].position"), format!("object `{}` is outside every room", object.id)));
        }
        for (number, child) in object.children.iter().enumerate() {
            if !indoors(child.position) {
                let path = format!("objects[{index}].children[{number}].position");
                return Err(Error::key(path, format!("object `{}` is outside every room", child.id)));
            }
        }
    }
    Ok(())
}

/// Lines of a house file, plain or gzip, one house a line, none longer than [`MAX_BYTES`].
///
/// A line that is too long is read past, not kept; a cut gzip gives one error and ends.
pub struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    number: u64,
    over: bool,
}

/// Splits a file's bytes into houses. Gzip is known by its first two bytes.
pub fn lines(file: impl Read + Send + 'static) -> Lines {
    let mut reader = BufReader::new(Box::new(file) as Box<dyn Read + Send>);
    let gzip = reader.fill_buf().is_ok_and(|start| start.starts_with(&[0x1f, 0x8b]));
    let reader = if gzip { BufReader::new(Box::new(flate2::bufread::MultiGzDecoder::new(reader)) as Box<dyn Read + Send>) } else { reader };
    Lines { reader, number: 0, over: false }
}

impl Iterator for Lines {
    /// The line's number from 1, and its bytes or what is wrong with it.
    type Item = (u64, Result<Vec<u8>, Error>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            self.number += 1;
            let mut line = Vec::new();
            let read = (&mut self.reader).take(MAX_BYTES as u64 + 1).read_until(b'\n', &mut line);
            match read {
                Err(error) => {
                    self.over = true;
                    return Some((self.number, Err(Error::Scene { what: format!("cannot be read on: {error}") })));
                }
                Ok(0) => self.over = true,
                Ok(_) if line.len() > MAX_BYTES && !line.ends_with(b"\n") => {
                    let rest = skip_line(&mut self.reader);
                    self.over = rest.is_err();
                    let bytes = line.len() + rest.unwrap_or(0);
                    return Some((self.number, Err(Error::TooLarge { bytes, limit: MAX_BYTES })));
                }
                Ok(_) => {
                    if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                        return Some((self.number, Ok(line)));
                    }
                }
            }
        }
        None
    }
}

fn skip_line(reader: &mut impl BufRead) -> std::io::Result<usize> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(skipped);
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        skipped += used;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}
