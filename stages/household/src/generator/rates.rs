//! How many objects of each type a room of each type holds, on average.
//!
//! `assets/rooms.tsv` was drawn by `assets/make_rooms.py` from houses that others made; only means are in it.

use std::{collections::BTreeMap, sync::OnceLock};

const TABLE: &str = include_str!("../../assets/rooms.tsv");

/// A type and its mean number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    pub(super) kind: &'static str,
    pub(super) mean: f64,
}

type Table = BTreeMap<(&'static str, &'static str), Vec<Rate>>;

fn table() -> &'static Table {
    static READ: OnceLock<Table> = OnceLock::new();
    READ.get_or_init(|| {
        let mut table = Table::new();
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let mut columns = line.split('\t');
            let mut next = || columns.next().expect("the table is committed and a test reads each line");
            let (room, parent, kind) = (next(), next(), next());
            let mean = next().parse().expect("the table is committed and a test reads each line");
            table.entry((room, parent)).or_default().push(Rate { kind, mean });
        }
        table
    })
}

/// What stands on the floor of a room or hangs on its walls, per room.
pub(super) fn furniture(room: &'static str) -> &'static [Rate] {
    table().get(&(room, "-")).map_or(&[], Vec::as_slice)
}

/// What stands on a receptacle, per receptacle of the type.
pub(super) fn on(room: &'static str, parent: &'static str) -> &'static [Rate] {
    table().get(&(room, parent)).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets;

    #[test]
    fn the_whole_table_is_read_and_names_known_types() {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(table().values().map(Vec::len).sum::<usize>(), lines);
        let kinds: Vec<&str> = assets::kinds().collect();
        for rate in table().values().flatten() {
            assert!(kinds.contains(&rate.kind) && rate.mean > 0.0 && rate.mean < 5.0, "{rate:?}");
        }
        for room in ["Kitchen", "LivingRoom", "Bedroom", "Bathroom"] {
            assert!(furniture(room).len() >= 8);
        }
    }
}
