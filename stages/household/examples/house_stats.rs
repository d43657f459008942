//! Compares generated houses with houses in files: `cargo run --release -p household --example house_stats -- FILE...`.

use household::{
    generator::{HouseSplit, generate_rooms},
    parse,
    statistics::Statistics,
};
use std::{fs::File, time::Instant};

fn main() {
    let mut reference = Statistics::default();
    for file in std::env::args().skip(1) {
        for (line, json) in parse::lines(File::open(&file).expect("the file can be read")) {
            match json.and_then(|json| parse::house(&json)).and_then(|house| reference.add(&house, 1.0)) {
                Ok(()) => {}
                Err(error) => println!("{file}:{line}: {error}"),
            }
        }
    }
    let mut generated = Statistics::default();
    let each = 150;
    for (&rooms, count) in &reference.sizes {
        let start = Instant::now();
        let mut failed = 0;
        for number in 0..each {
            let split = if number % 2 == 0 { HouseSplit::Train } else { HouseSplit::HeldOut };
            match generate_rooms(split, number, rooms) {
                Ok(house) => generated.add(&house, count.houses / each as f64).expect("generated houses compile"),
                Err(_) => failed += 1,
            }
        }
        println!("{rooms} rooms: {:.2} ms a house, {failed} failed", start.elapsed().as_secs_f64() * 1e3 / each as f64);
    }
    for row in reference.by_size(&generated).into_iter().chain(reference.by_kind(&generated, 0.25)) {
        let mark = if row.within(0.2) { "" } else { "  !" };
        println!("{:<34} {:>8.3} {:>8.3} {:>6.2}{mark}", row.what, row.reference, row.generated, row.ratio);
    }
}
