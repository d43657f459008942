//! A level of Sokoban as a task's JSON holds it.

use super::room::{Room, State};
use crate::grid::Extent;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Rows from the top, in VAGEN's symbols: # wall, _ floor, O target, X box, √ box on target, P player, S player on target.
    room: Vec<String>,
}

pub(super) fn json(room: &Room, state: &State) -> String {
    let symbol = |cell: usize| super::play::sign(room, state, cell).symbol;
    let rows = (0..room.extent.height).map(|row| (0..room.extent.width).map(|column| symbol(row * room.extent.width + column)).collect());
    serde_json::to_string(&Written { room: rows.collect() }).expect("strings are always JSON")
}

pub(super) fn parse(json: &str) -> Result<(Room, State), String> {
    let written: Written = serde_json::from_str(json).map_err(|error| format!("sokoban task: {error}"))?;
    let rows: Vec<Vec<char>> = written.room.iter().map(|row| row.chars().collect()).collect();
    let (height, width) = (rows.len(), rows.first().map_or(0, Vec::len));
    let (low, high) = (super::SMALLEST, super::LARGEST);
    if !(low..=high).contains(&height) || !(low..=high).contains(&width) || rows.iter().any(|row| row.len() != width) {
        return Err(format!("sokoban task: `room` is not a rectangle of {low} to {high} rows and columns"));
    }
    let extent = Extent { width, height };
    let cells: Vec<char> = rows.into_iter().flatten().collect();
    if let Some(other) = cells.iter().find(|cell| !"#_OX√PS".contains(**cell)) {
        return Err(format!("sokoban task: `room` holds `{other}`: allowed are # _ O X √ P S"));
    }
    if let Some(open) = (0..cells.len()).find(|cell| extent.on_border(*cell) && cells[*cell] != '#') {
        return Err(format!("sokoban task: `room` has no wall at the border's {}", extent.place(open)));
    }
    let all = |wanted: [char; 2]| -> Vec<usize> { (0..cells.len()).filter(|cell| wanted.contains(&cells[*cell])).collect() };
    let (players, boxes) = (all(['P', 'S']), all(['X', '√']));
    let mut targets = all(['O', 'S']);
    targets.extend(all(['√', '√']));
    targets.sort_unstable();
    let [player] = players[..] else {
        return Err(format!("sokoban task: `room` holds {} players: allowed is one", players.len()));
    };
    if boxes.len() != targets.len() || !(1..=super::MOST_BOXES).contains(&boxes.len()) {
        return Err(format!(
            "sokoban task: `room` holds {} boxes and {} targets: allowed are as many of both, 1 to {}",
            boxes.len(),
            targets.len(),
            super::MOST_BOXES
        ));
    }
    let walls = cells.iter().map(|cell| *cell == '#').collect();
    Ok((Room { extent, walls, targets }, State { player, boxes }))
}
