//! Sizes, flags, split and mass of known assets, and what is assumed of unknown ones.

use std::{collections::BTreeMap, sync::OnceLock};

/// What is known of an asset.
#[derive(Clone, Debug, PartialEq)]
pub struct Asset {
    pub id: &'static str,
    /// AI2-THOR's object type: `Mug`, `DiningTable`.
    pub kind: &'static str,
    /// The bounding box at rotation 0, metres: x, y (up), z.
    pub size: [f64; 3],
    pub pickupable: bool,
    pub fixed: bool,
    pub receptacle: bool,
    /// `None`: used in training and held-out houses alike.
    pub split: Option<AssetSplit>,
    pub mass_kg: Option<f64>,
}

/// Which houses an asset belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssetSplit {
    Train,
    Val,
    Test,
}

/// What a household takes an object for.
#[derive(Clone, Debug, PartialEq)]
pub struct Nature {
    pub kind: String,
    pub size: [f64; 3],
    pub pickupable: bool,
    pub receptacle: bool,
    /// Kilograms; 0: fixed to the house.
    pub kg: f64,
    /// It stops the robot's base.
    pub blocks: bool,
    /// Its asset is not in the table: size and flags are a default by type.
    pub assumed: bool,
}

const TABLE: &str = include_str!("../assets/assets.tsv");

struct Table {
    by_id: BTreeMap<&'static str, Asset>,
    by_kind: BTreeMap<&'static str, Vec<Asset>>,
}

fn table() -> &'static Table {
    static TABLE_READ: OnceLock<Table> = OnceLock::new();
    TABLE_READ.get_or_init(|| {
        let mut table = Table { by_id: BTreeMap::new(), by_kind: BTreeMap::new() };
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let asset = read_line(line).expect("the table is committed and a test reads each line");
            table.by_kind.entry(asset.kind).or_default().push(asset.clone());
            table.by_id.insert(asset.id, asset);
        }
        table
    })
}

fn read_line(line: &'static str) -> Option<Asset> {
    let mut columns = line.split('\t');
    let (id, kind) = (columns.next()?, columns.next()?);
    let mut side = || Some(columns.next()?.parse::<f64>().ok()? / 1000.0);
    let size = [side()?, side()?, side()?];
    let (flags, split, grams) = (columns.next()?, columns.next()?, columns.next()?);
    let split = match split {
        "tr" => Some(AssetSplit::Train),
        "va" => Some(AssetSplit::Val),
        "te" => Some(AssetSplit::Test),
        _ => None,
    };
    Some(Asset {
        id,
        kind,
        size,
        pickupable: flags.contains('p'),
        fixed: flags.contains('s'),
        receptacle: flags.contains('r'),
        split,
        mass_kg: grams.parse::<f64>().ok().map(|grams| grams / 1000.0),
    })
}

/// A known asset.
pub fn find(id: &str) -> Option<&'static Asset> {
    table().by_id.get(id)
}

/// The assets of a type, by id.
pub fn of_kind(kind: &str) -> impl Iterator<Item = &'static Asset> {
    table().by_kind.get(kind).into_iter().flatten()
}

/// Every type in the table.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    table().by_kind.keys().copied()
}

/// Mass above which an object stops the base rather than being pushed.
const HEAVY_KG: f64 = 10.0;
/// Footprint from which an object of unknown mass is taken for heavy. The table's 1 kg is the engine's default, so unknown too.
const LARGE_M: f64 = 0.5;

fn blocks(fixed: bool, pickupable: bool, mass_kg: Option<f64>, size: [f64; 3]) -> bool {
    let known = mass_kg.filter(|&mass| (mass - 1.0).abs() > 1e-9 && mass > 0.0);
    !pickupable && (fixed || known.map_or(size[0].max(size[2]) >= LARGE_M, |mass| mass > HEAVY_KG))
}

/// What to take an object for: the table's word, or a default by type.
///
/// `child`: it stands on something. `height_m`: of its centre above the floor; a floor object's centre is at half its height.
pub fn nature(id: &str, named: Option<&str>, child: bool, height_m: f64) -> Nature {
    if let Some(asset) = find(id) {
        return asset.nature();
    }
    let named = named.unwrap_or("Unknown");
    let kind = named.strip_prefix("Obja").filter(|rest| !rest.is_empty()).unwrap_or(named);
    let kind = common_name(kind);
    let peers: Vec<&Asset> = of_kind(kind).collect();
    if !peers.is_empty() {
        let size = [0, 1, 2].map(|side| median(peers.iter().map(|asset| asset.size[side]).collect()));
        let pickupable = child && peers.iter().filter(|asset| asset.pickupable).count() * 2 > peers.len();
        let fixed = peers[0].fixed;
        let kg = if fixed { 0.0 } else { median(peers.iter().map(|asset| asset.kg()).collect()) };
        let receptacle = peers.iter().filter(|asset| asset.receptacle).count() * 2 > peers.len();
        return Nature {
            kind: kind.into(),
            size,
            pickupable,
            receptacle,
            kg,
            blocks: blocks(fixed, pickupable, None, size),
            assumed: true,
        };
    }
    let nature =
        |size, pickupable, blocks, kg| Nature { kind: kind.into(), size, pickupable, receptacle: false, kg, blocks, assumed: true };
    if child {
        return nature([0.15, 0.15, 0.15], true, false, SMALL_KG);
    }
    if height_m > 1.2 {
        return nature([0.5, 0.5, 0.05], false, false, 0.0);
    }
    nature([0.5, (2.0 * height_m).clamp(0.1, 2.0), 0.5], false, true, LARGE_KG)
}

/// Masses of objects of which nothing is known, and above which none stands on the other side of [`HEAVY_KG`].
const SMALL_KG: f64 = 0.5;
const LARGE_KG: f64 = 20.0;

impl Asset {
    /// Its mass; what is fixed has none, what is unknown one by its size that agrees with [`blocks`].
    fn kg(&self) -> f64 {
        let known = self.mass_kg.filter(|&mass| (mass - 1.0).abs() > 1e-9 && mass > 0.0);
        match known {
            _ if self.fixed => 0.0,
            Some(mass) => mass,
            None if self.pickupable => self.mass_kg.filter(|&mass| mass > 0.0).unwrap_or(SMALL_KG),
            None if self.size[0].max(self.size[2]) >= LARGE_M => LARGE_KG,
            None => 1.0,
        }
    }

    fn nature(&self) -> Nature {
        Nature {
            kind: self.kind.into(),
            size: self.size,
            pickupable: self.pickupable,
            receptacle: self.receptacle,
            kg: self.kg(),
            blocks: blocks(self.fixed, self.pickupable, self.mass_kg, self.size),
            assumed: false,
        }
    }
}

/// Objaverse names that mean one of AI2-THOR's types.
fn common_name(kind: &str) -> &str {
    match kind {
        "Basketball" => "BasketBall",
        "TrashCan" | "Wastebasket" | "WasteContainer" => "GarbageCan",
        "Nightstand" | "EndTable" => "SideTable",
        "Commode" | "Drawers" | "Cabinet" | "Cabinets" => "Dresser",
        "Bookshelf" | "Shelf" | "Shelves" | "Bookcase" => "ShelvingUnit",
        "Picture" | "Poster" | "Photo" | "Frame" => "Painting",
        "AtomizerBottle" | "Atomizer" => "SprayBottle",
        other => other,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table_is_read() {
        assert_eq!(table().by_id.len(), TABLE.lines().filter(|line| !line.starts_with('#')).count());
        let clock = find("Alarm_Clock_1").unwrap();
        assert_eq!((clock.kind, clock.pickupable, clock.split), ("AlarmClock", true, Some(AssetSplit::Test)));
        assert!(table().by_id.values().all(|asset| asset.size.iter().all(|&side| side > 0.0 && side < 10.0)));
    }

    #[test]
    fn unknown_assets_get_a_default_by_type() {
        let mug = nature("0f0f", Some("ObjaMug"), true, 0.9);
        assert!(mug.pickupable && mug.assumed && mug.kind == "Mug" && mug.size[1] < 0.3);
        let vessel = nature("0f0f", Some("ObjaTankStorageVessel"), false, 0.4);
        assert!(vessel.blocks && (vessel.size[1] - 0.8).abs() < 1e-9);
        assert!(!nature("0f0f", Some("ObjaBanner"), false, 2.0).blocks);
    }

    #[test]
    fn heavy_and_fixed_things_stop_the_base() {
        assert!(nature("Fridge_23", None, false, 0.9).blocks);
        assert!(!nature("Alarm_Clock_1", None, true, 0.9).blocks);
    }
}
