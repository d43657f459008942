//! Rooms of Sokoban: walls, targets, and the length of the shortest solution from every state.

use crate::grid::{self, Dice, Direction, Extent, Set};
use std::collections::VecDeque;

/// From here no sequence of moves solves the room.
pub(super) const DEAD: u16 = u16::MAX;

/// The order in which moves are tried; VAGEN numbers its actions so.
pub(super) const ORDER: [Direction; 4] = [Direction::Up, Direction::Down, Direction::Left, Direction::Right];

/// What the walk that carves a room opens around it: row and column offsets.
const BRUSHES: [&[(isize, isize)]; 5] = [
    &[(0, -1), (0, 0), (0, 1)],
    &[(-1, 0), (0, 0), (1, 0)],
    &[(0, -1), (0, 0), (1, 0)],
    &[(0, -1), (0, 0), (1, -1), (1, 0)],
    &[(0, 0), (0, 1), (1, 0)],
];

/// What actions change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) player: usize,
    /// Ascending.
    pub(super) boxes: Vec<usize>,
}

/// What a move does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Blocked,
    Walk(State),
    Push(State),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) extent: Extent,
    /// By cell.
    pub(super) walls: Vec<bool>,
    /// Ascending.
    pub(super) targets: Vec<usize>,
}

impl Room {
    /// Carves a room by a walk that now and then turns, and puts the targets on its floor. `None` where the floor is too small.
    pub(super) fn draw(dice: &mut Dice, extent: Extent, boxes: usize) -> Option<Room> {
        let mut walls = vec![true; extent.cells()];
        let kept = |value: isize, length: usize| value.clamp(1, length as isize - 2);
        let mut row = 1 + dice.below(extent.height - 2) as isize;
        let mut column = 1 + dice.below(extent.width - 2) as isize;
        let mut heading = dice.below(4);
        // gym_sokoban's 1.7 steps for each row and column, and its 0.35 for a turn.
        for _ in 0..(extent.width + extent.height) * 17 / 10 {
            if dice.chance(0.35) {
                heading = dice.below(4);
            }
            let (down, right) = [(1, 0), (-1, 0), (0, -1), (0, 1)][heading];
            row = kept(row + down, extent.height);
            column = kept(column + right, extent.width);
            for (down, right) in BRUSHES[dice.below(BRUSHES.len())] {
                let (row, column) = (row + down, column + right);
                if row == kept(row, extent.height) && column == kept(column, extent.width) {
                    walls[row as usize * extent.width + column as usize] = false;
                }
            }
        }
        let mut floor: Vec<usize> = (0..extent.cells()).filter(|cell| !walls[*cell]).collect();
        // Small rooms are few and would come up over and over; five eighths of the inside open give thousands.
        let inside = (extent.width - 2) * (extent.height - 2);
        if floor.len() * 8 < inside * 5 || floor.len() < 2 * boxes + 1 {
            return None;
        }
        let mut targets: Vec<usize> = (0..boxes).map(|_| floor.swap_remove(dice.below(floor.len()))).collect();
        targets.sort_unstable();
        Some(Room { extent, walls, targets })
    }

    /// Walls and targets, one byte a cell.
    pub(super) fn ground(&self) -> Vec<u8> {
        (0..self.extent.cells())
            .map(|cell| match cell {
                _ if self.walls[cell] => b'#',
                _ if self.targets.contains(&cell) => b'O',
                _ => b'_',
            })
            .collect()
    }

    /// The set that the room belongs to with its boxes here.
    pub(super) fn set(&self, boxes: &[usize]) -> Set {
        let mut ground = self.ground();
        for cell in boxes {
            ground[*cell] = if self.targets.contains(cell) { b'V' } else { b'X' };
        }
        grid::set_of(self.extent, &ground)
    }

    pub(super) fn solved(&self, state: &State) -> bool {
        state.boxes == self.targets
    }

    /// How many boxes stand on targets.
    pub(super) fn on_target(&self, state: &State) -> usize {
        state.boxes.iter().filter(|cell| self.targets.contains(cell)).count()
    }

    fn free(&self, cell: Option<usize>) -> Option<usize> {
        cell.filter(|cell| !self.walls[*cell])
    }

    pub(super) fn after(&self, state: &State, direction: Direction) -> Move {
        let Some(player) = self.free(self.extent.beside(state.player, direction)) else { return Move::Blocked };
        let Some(at) = state.boxes.iter().position(|cell| *cell == player) else {
            return Move::Walk(State { player, boxes: state.boxes.clone() });
        };
        match self.free(self.extent.beside(player, direction)) {
            Some(beyond) if !state.boxes.contains(&beyond) => {
                let mut boxes = state.boxes.clone();
                boxes[at] = beyond;
                boxes.sort_unstable();
                Move::Push(State { player, boxes })
            }
            _ => Move::Blocked,
        }
    }

    /// The states from which `direction` leads to `state`.
    fn before(&self, state: &State, direction: Direction) -> impl Iterator<Item = State> {
        let player = self.free(self.extent.beside(state.player, direction.opposite())).filter(|cell| !state.boxes.contains(cell));
        let walked = player.map(|player| State { player, boxes: state.boxes.clone() });
        let pushed = player.and_then(|player| {
            let beyond = self.extent.beside(state.player, direction)?;
            let at = state.boxes.iter().position(|cell| *cell == beyond)?;
            let mut boxes = state.boxes.clone();
            boxes[at] = state.player;
            boxes.sort_unstable();
            Some(State { player, boxes })
        });
        walked.into_iter().chain(pushed)
    }
}

/// Moves to the nearest solved state, for every state of a room.
#[derive(Clone, Debug)]
pub(super) struct Solutions {
    /// The floor's cells, ascending, and each cell's place among them.
    floor: Vec<usize>,
    place: Vec<usize>,
    /// By player and boxes, in base `floor.len()`.
    moves: Vec<u16>,
}

impl Solutions {
    /// Breadth first, backwards from the solved states.
    pub(super) fn of(room: &Room) -> Solutions {
        let floor: Vec<usize> = (0..room.extent.cells()).filter(|cell| !room.walls[*cell]).collect();
        let mut place = vec![usize::MAX; room.extent.cells()];
        for (at, cell) in floor.iter().enumerate() {
            place[*cell] = at;
        }
        let states = floor.len().pow(room.targets.len() as u32 + 1);
        let mut solutions = Solutions { floor, place, moves: vec![DEAD; states] };
        let mut queue = VecDeque::new();
        for player in solutions.floor.iter().filter(|cell| !room.targets.contains(cell)) {
            queue.push_back((State { player: *player, boxes: room.targets.clone() }, 0));
        }
        for (state, _) in &queue {
            let index = solutions.index(state);
            solutions.moves[index] = 0;
        }
        while let Some((state, moves)) = queue.pop_front() {
            for earlier in ORDER.into_iter().flat_map(|direction| room.before(&state, direction)) {
                let index = solutions.index(&earlier);
                if solutions.moves[index] == DEAD {
                    solutions.moves[index] = moves + 1;
                    queue.push_back((earlier, moves + 1));
                }
            }
        }
        solutions
    }

    fn index(&self, state: &State) -> usize {
        state.boxes.iter().fold(self.place[state.player], |index, cell| index * self.floor.len() + self.place[*cell])
    }

    /// Moves from `state` to a solved one; [`DEAD`] where there is no way.
    pub(super) fn moves(&self, state: &State) -> u16 {
        self.moves[self.index(state)]
    }

    /// A state whose solution has `low` to `high` moves: first a length is drawn from those that there are, then a state of it.
    pub(super) fn draw(&self, dice: &mut Dice, boxes: usize, low: usize, high: usize) -> Option<(State, usize)> {
        let longest = self.moves.iter().copied().filter(|moves| *moves != DEAD).max().map_or(0, usize::from);
        let mut counts = vec![0; longest + 1];
        for moves in self.moves.iter().filter(|moves| **moves != DEAD) {
            counts[usize::from(*moves)] += 1;
        }
        let there: Vec<usize> = (low..=high.min(longest)).filter(|length| counts[*length] > 0).collect();
        if there.is_empty() {
            return None;
        }
        let length = there[dice.below(there.len())];
        let nth = dice.below(counts[length]);
        let found = self.moves.iter().enumerate().filter(|(_, moves)| usize::from(**moves) == length).nth(nth);
        found.map(|(index, _)| (self.state(index, boxes), length))
    }

    fn state(&self, mut index: usize, boxes: usize) -> State {
        let base = self.floor.len();
        let mut cells = vec![0; boxes];
        for cell in cells.iter_mut().rev() {
            *cell = self.floor[index % base];
            index /= base;
        }
        State { player: self.floor[index], boxes: cells }
    }

    /// The first move, in the fixed order, on a shortest solution, with the state it leads to.
    pub(super) fn best(&self, room: &Room, state: &State) -> Option<(Direction, State)> {
        let here = self.moves(state);
        if here == 0 || here == DEAD {
            return None;
        }
        ORDER.into_iter().find_map(|direction| match room.after(state, direction) {
            Move::Walk(next) | Move::Push(next) if self.moves(&next) == here - 1 => Some((direction, next)),
            _ => None,
        })
    }
}
