//! Tables, seats, beds, shelves and cupboards.

use super::{ACCENT, Axis, BODY, DARK, Form, OPEN, TRIM, build::Builder};

const ALL: (f64, f64) = (0.0, 1.0);

/// Builds a piece of furniture; false: it is none.
pub(super) fn build(kind: &str, asset: &str, b: &mut Builder) -> bool {
    match kind {
        "DiningTable" | "CoffeeTable" => table(b, kind == "CoffeeTable"),
        "Desk" => desk(b),
        "SideTable" => side_table(b),
        "TVStand" => tv_stand(b),
        "Dresser" | "Safe" => chest(b, kind == "Dresser"),
        "ShelvingUnit" | "Cart" => shelves(b, kind == "Cart"),
        "CounterTop" => counter(b, asset),
        "Chair" => chair(b),
        "Stool" | "Footstool" => stool(b),
        "Ottoman" => ottoman(b),
        "Sofa" | "ArmChair" => sofa(b, kind == "Sofa"),
        "Bed" => bed(b),
        "DogBed" => dog_bed(b),
        _ => return false,
    }
    true
}

/// A top on four legs or on a foot; round where the box is square, now and then.
fn table(b: &mut Builder, low: bool) {
    let [x, y, z] = b.sides();
    let square = (x - z).abs() < 0.15 * x.max(z);
    let round = square && b.chance(0.5);
    let thick_m = b.range(0.02, 0.05);
    let board = 1.0 - b.share(Axis::Y, thick_m, 0.3);
    let form = if round { Form::Cylinder { axis: Axis::Y } } else { Form::Box };
    b.part(form, ALL, (board, 1.0), ALL, BODY);
    b.top();
    if round || (square && b.chance(0.3)) {
        let post = b.range(0.06, 0.14) / x.max(0.3);
        b.round(Axis::Y, (0.5 - post / 2.0, 0.5 + post / 2.0), (0.04, board), (0.5 - post / 2.0, 0.5 + post / 2.0), TRIM);
        let foot = b.range(0.4, 0.7);
        b.cone((0.5 - foot / 2.0, 0.5 + foot / 2.0), (0.0, 0.06), (0.5 - foot / 2.0, 0.5 + foot / 2.0), (1.0, 0.7), TRIM);
        return;
    }
    let (leg, inset) = (b.range(0.03, 0.09), b.range(0.0, 0.06));
    b.legs(leg, (0.0, board), inset);
    let apron = b.chance(0.5);
    if apron {
        let under = board - b.share(Axis::Y, 0.07, 0.2);
        b.boxy((0.05, 0.95), (under, board), (0.08, 0.12), TRIM);
        b.boxy((0.05, 0.95), (under, board), (0.88, 0.92), TRIM);
    }
    if low && b.chance(0.5) {
        let at = b.range(0.2, 0.35);
        b.boxy((0.04, 0.96), (at, at + 0.06), (0.06, 0.94), BODY);
        b.surface((0.08, 0.92), at + 0.06, (0.1, 0.9), (board - at - 0.06) * y);
    }
}

/// A worktop on legs, panels or drawers; tall ones carry a rack above it.
fn desk(b: &mut Builder) {
    let [x, y, _] = b.sides();
    let tall = y > 1.0;
    let work = if tall { (0.74 / y).min(0.75) } else { 1.0 };
    let board = work - b.share(Axis::Y, 0.035, 0.1);
    b.boxy(ALL, (board, work), ALL, BODY);
    if b.chance(0.5) {
        let thick = b.share(Axis::X, 0.04, 0.1);
        b.boxy((0.0, thick), (0.0, board), (0.02, 0.98), TRIM);
        b.boxy((1.0 - thick, 1.0), (0.0, board), (0.02, 0.98), TRIM);
    } else {
        let leg = b.range(0.03, 0.06);
        b.legs(leg, (0.0, board), 0.0);
    }
    if x > 1.1 && b.chance(0.6) {
        let wide = b.share(Axis::X, 0.42, 0.35);
        let left = b.chance(0.5);
        let span = if left { (0.02, wide) } else { (1.0 - wide, 0.98) };
        let under = board * b.range(0.05, 0.4);
        b.boxy(span, (under, board), (0.04, 0.95), TRIM);
        let middle = (span.0 + span.1) / 2.0;
        b.boxy((middle - 0.04, middle + 0.04), (board * 0.8, board * 0.83), (0.95, 0.97), DARK);
    }
    if !tall {
        b.top();
        return;
    }
    let deep = b.share(Axis::Z, 0.28, 0.5);
    let wall = b.share(Axis::X, 0.03, 0.05);
    b.boxy((0.0, wall), (work, 1.0), (0.0, deep), BODY);
    b.boxy((1.0 - wall, 1.0), (work, 1.0), (0.0, deep), BODY);
    b.boxy(ALL, (work, 1.0), (0.0, 0.03), BODY);
    let rack = work + (1.0 - work) * b.range(0.45, 0.6);
    b.boxy((wall, 1.0 - wall), (rack, rack + 0.02), (0.0, deep), BODY);
    b.boxy(ALL, (0.985, 1.0), (0.0, deep), BODY);
    b.surface(ALL, work, (deep, 1.0), OPEN);
    b.surface((wall, 1.0 - wall), rack + 0.02, (0.03, deep), (0.985 - rack - 0.02) * y);
    b.surface(ALL, 1.0, (0.0, deep), OPEN);
}

/// A little table with a shelf, or a bedside chest with drawers.
fn side_table(b: &mut Builder) {
    let [x, y, z] = b.sides();
    if x > 1.0 || z > 1.0 || b.chance(0.45) {
        return table(b, true);
    }
    let legs = b.range(0.05, 0.25);
    let thick = b.share(Axis::Y, 0.025, 0.15);
    b.boxy(ALL, (1.0 - thick, 1.0), ALL, BODY);
    b.top();
    let leg = b.range(0.025, 0.05);
    let open = b.chance(0.35);
    let body = if open { 0.55 } else { legs };
    b.boxy((0.03, 0.97), (body, 1.0 - thick), (0.02, 0.95), BODY);
    b.legs(leg, (0.0, body), 0.03);
    let drawers = if open { 1 } else { 1 + (y / 0.28) as u32 };
    drawer_fronts(b, (0.08, 0.92), (body + 0.02, 0.98 - thick), drawers, 1);
    if open {
        b.boxy((0.03, 0.97), (0.12, 0.12 + thick), (0.03, 0.95), BODY);
        b.surface((0.1, 0.9), 0.12 + thick, (0.1, 0.9), (body - 0.12 - thick) * y);
    }
}

/// Fronts that stand a little out of a body which ends at z = 0.95, each with a knob.
fn drawer_fronts(b: &mut Builder, x: (f64, f64), y: (f64, f64), rows: u32, columns: u32) {
    let (rows, columns) = (rows.clamp(1, 6), columns.clamp(1, 3));
    let (high, wide) = ((y.1 - y.0) / f64::from(rows), (x.1 - x.0) / f64::from(columns));
    let round = b.chance(0.5);
    for row in 0..rows {
        for column in 0..columns {
            let (left, low) = (x.0 + wide * f64::from(column), y.0 + high * f64::from(row));
            b.boxy((left + 0.01, left + wide - 0.01), (low + 0.1 * high, low + 0.9 * high), (0.95, 0.975), TRIM);
            let (middle, knob) = (left + wide / 2.0, if round { 0.02 } else { 0.08 });
            b.boxy((middle - knob, middle + knob), (low + 0.46 * high, low + 0.54 * high), (0.975, 1.0), DARK);
        }
    }
}

/// A low cabinet with one open bay under its top.
fn tv_stand(b: &mut Builder) {
    let [x, y, _] = b.sides();
    let (wall, thick) = (b.share(Axis::X, 0.03, 0.08), b.share(Axis::Y, 0.03, 0.1));
    let legs = b.range(0.0, 0.2);
    let bay = b.range(legs + 0.3 * (1.0 - legs), legs + 0.6 * (1.0 - legs));
    b.boxy(ALL, (1.0 - thick, 1.0), ALL, BODY);
    b.boxy((0.0, wall), (legs, 1.0 - thick), ALL, BODY);
    b.boxy((1.0 - wall, 1.0), (legs, 1.0 - thick), ALL, BODY);
    b.boxy((wall, 1.0 - wall), (legs, 1.0 - thick), (0.0, 0.04), DARK);
    b.boxy((wall, 1.0 - wall), (legs, bay), (0.04, 0.95), BODY);
    drawer_fronts(b, (wall, 1.0 - wall), (legs, bay), 1, if x > 1.1 { 3 } else { 2 });
    if legs > 0.06 {
        b.legs(0.05, (0.0, legs), 0.04);
    }
    b.top();
    b.surface((wall, 1.0 - wall), bay, (0.05, 0.95), (1.0 - thick - bay) * y);
}

/// A body with drawers, or with one heavy door.
fn chest(b: &mut Builder, drawers: bool) {
    let [x, y, _] = b.sides();
    let thick = b.share(Axis::Y, 0.025, 0.1);
    let legs = if drawers { b.range(0.02, 0.14) } else { 0.0 };
    b.boxy(ALL, (1.0 - thick, 1.0), ALL, BODY);
    b.boxy((0.01, 0.99), (legs, 1.0 - thick), (0.0, 0.95), BODY);
    b.top();
    if drawers {
        b.legs(0.05, (0.0, legs), 0.02);
        let (rows, columns) = ((y / b.range(0.2, 0.3)) as u32, (x / b.range(0.5, 0.9)) as u32);
        drawer_fronts(b, (0.03, 0.97), (legs + 0.01, 0.99 - thick), rows, columns);
    } else {
        b.boxy((0.1, 0.9), (0.1, 0.9), (0.95, 0.97), TRIM);
        b.round(Axis::Z, (0.2, 0.4), (0.42, 0.58), (0.97, 1.0), DARK);
    }
}

/// Boards between two sides, with room to reach in.
fn shelves(b: &mut Builder, cart: bool) {
    let [x, y, _] = b.sides();
    let (wall, thick) = (b.share(Axis::X, 0.025, 0.06), b.share(Axis::Y, 0.025, 0.05));
    let every = b.range(0.3, 0.42);
    let count = ((y / every) as usize).clamp(2, 6);
    let posts = cart || b.chance(0.25);
    if posts {
        b.legs(0.03, ALL, 0.0);
    } else {
        b.boxy((0.0, wall), ALL, ALL, BODY);
        b.boxy((1.0 - wall, 1.0), ALL, ALL, BODY);
        if b.chance(0.6) {
            b.boxy((wall, 1.0 - wall), ALL, (0.0, 0.03), TRIM);
        }
        if x > 0.75 && b.chance(0.5) {
            b.boxy((0.5 - wall / 2.0, 0.5 + wall / 2.0), ALL, (0.03, 1.0), BODY);
        }
    }
    let lowest = b.range(0.01, 0.1);
    let tops: Vec<f64> = (0..count).map(|board| lowest + thick + (1.0 - lowest - thick) * board as f64 / (count - 1) as f64).collect();
    for &top in &tops {
        b.boxy((wall, 1.0 - wall), (top - thick, top), (0.02, 1.0), BODY);
    }
    // The highest board is the box's top; what a board has above it ends at the next board's underside.
    for (index, &top) in tops.iter().enumerate() {
        let clear = tops.get(index + 1).map_or(OPEN, |next| (next - thick - top) * y);
        b.surface((wall, 1.0 - wall), top, (0.05, 1.0), clear);
    }
}

/// Kitchen cupboards under a worktop: a row, an L or a C, by the asset's name.
fn counter(b: &mut Builder, asset: &str) {
    let (deep, wide) = (b.share(Axis::Z, 0.61, 1.0), b.share(Axis::X, 0.61, 0.5));
    let mut runs = vec![((0.0, 1.0), (0.0, 1.0))];
    if asset.contains("_L_") || asset.contains("_C_") {
        runs = vec![((0.0, 1.0), (0.0, deep)), ((1.0 - wide, 1.0), (deep, 1.0))];
        if asset.contains("_C_") {
            runs.push(((0.0, wide), (deep, 1.0)));
        }
    }
    for (x, z) in runs.into_iter().filter(|(_, z)| z.1 - z.0 > 1e-6) {
        b.boxy(x, (0.957, 1.0), z, TRIM);
        b.boxy((x.0 + 0.005, x.1 - 0.005), (0.1, 0.957), (z.0, z.1 - 0.03 * (z.1 - z.0)), BODY);
        b.boxy((x.0 + 0.01, x.1 - 0.01), (0.0, 0.1), (z.0, z.1 - 0.1 * (z.1 - z.0)), DARK);
        b.surface(x, 1.0, z, OPEN);
    }
}

/// A seat, a back, and legs or a column.
fn chair(b: &mut Builder) {
    let [_, y, _] = b.sides();
    let seat = (0.46 / y).clamp(0.4, 0.6);
    let thick = b.share(Axis::Y, 0.05, 0.1);
    let arms = b.chance(0.25);
    let inset = if arms { 0.08 } else { 0.0 };
    b.boxy((inset, 1.0 - inset), (seat - thick, seat), (0.08, 1.0), BODY);
    b.surface((inset, 1.0 - inset), seat, (0.1, 1.0), OPEN);
    let back = b.range(0.06, 0.12);
    if b.chance(0.6) {
        b.boxy((0.03, 0.97), (seat, 1.0), (0.0, back), BODY);
    } else {
        let low = seat + (1.0 - seat) * b.range(0.3, 0.6);
        b.boxy((0.0, 1.0), (low, 1.0), (0.0, back), BODY);
        b.boxy((0.05, 0.12), (seat - thick, low), (0.0, back), TRIM);
        b.boxy((0.88, 0.95), (seat - thick, low), (0.0, back), TRIM);
    }
    if b.chance(0.25) {
        b.round(Axis::Y, (0.45, 0.55), (0.1, seat - thick), (0.47, 0.57), TRIM);
        b.boxy((0.05, 0.95), (0.0, 0.1), (0.46, 0.58), TRIM);
        b.boxy((0.44, 0.56), (0.0, 0.1), (0.07, 0.97), TRIM);
    } else {
        let leg = b.range(0.025, 0.05);
        b.legs(leg, (0.0, seat - thick), 0.0);
    }
    if arms {
        let rest = seat + 0.22 / y;
        for x in [(0.0, 0.08), (0.92, 1.0)] {
            b.boxy(x, (rest - 0.03, rest), (0.0, 0.8), TRIM);
            b.boxy(x, (seat - thick, rest - 0.03), (0.68, 0.76), TRIM);
        }
    }
}

fn stool(b: &mut Builder) {
    let thick = b.share(Axis::Y, 0.06, 0.25);
    let round = b.chance(0.5);
    let form = if round { Form::Cylinder { axis: Axis::Y } } else { Form::Box };
    b.part(form, ALL, (1.0 - thick, 1.0), ALL, BODY);
    b.top();
    let leg = b.range(0.02, 0.045);
    b.legs(leg, (0.0, 1.0 - thick), if round { 0.15 } else { 0.02 });
    let ring = b.range(0.2, 0.4);
    b.boxy((0.15, 0.85), (ring, ring + 0.04), (0.46, 0.54), TRIM);
}

fn ottoman(b: &mut Builder) {
    let split = b.range(0.5, 0.75);
    b.boxy((0.02, 0.98), (0.12, split), (0.02, 0.98), BODY);
    b.boxy(ALL, (split, 1.0), ALL, ACCENT);
    b.legs(0.05, (0.0, 0.12), 0.04);
    b.top();
}

/// A base with a seat, a back and two arms.
fn sofa(b: &mut Builder, long: bool) {
    let [x, y, _] = b.sides();
    let seat = (0.44 / y).clamp(0.38, 0.55);
    let arm = b.share(Axis::X, if long { 0.2 } else { 0.14 }, 0.18);
    let back = b.range(0.2, 0.28);
    let rest = seat + (1.0 - seat) * b.range(0.25, 0.5);
    let foot = b.range(0.04, 0.12);
    b.boxy((arm, 1.0 - arm), (foot, seat - 0.1), (back, 0.98), BODY);
    b.boxy((0.0, 1.0), (foot, 1.0), (0.0, back), BODY);
    b.boxy((0.0, arm), (foot, rest), (back, 0.97), BODY);
    b.boxy((1.0 - arm, 1.0), (foot, rest), (back, 0.97), BODY);
    b.legs(0.05, (0.0, foot), 0.03);
    let cushions = if long { (x / 0.75) as u32 } else { 1 }.clamp(1, 4);
    let wide = (1.0 - 2.0 * arm) / f64::from(cushions);
    for cushion in 0..cushions {
        let left = arm + wide * f64::from(cushion);
        b.boxy((left + 0.004, left + wide - 0.004), (seat - 0.1, seat), (back, 1.0), ACCENT);
    }
    b.surface((arm, 1.0 - arm), seat, (back, 1.0), OPEN);
}

/// A frame, a mattress, pillows at the head, a board behind them.
fn bed(b: &mut Builder) {
    let [x, y, _] = b.sides();
    let lie = b.range(0.52, 0.62).min(0.62 / y.max(0.62) + 0.05);
    let frame = lie * b.range(0.35, 0.6);
    let board = b.share(Axis::Z, 0.07, 0.05);
    b.boxy(ALL, (0.0, 1.0), (0.0, board), TRIM);
    b.boxy(ALL, (frame * 0.4, frame), (board, 1.0), TRIM);
    b.legs(0.07, (0.0, frame * 0.4), 0.01);
    b.boxy((0.02, 0.98), (frame, lie), (board, 0.99), BODY);
    let cover = b.range(0.3, 0.45);
    b.boxy((0.01, 0.99), (lie - 0.06, lie + 0.01), (cover, 0.995), ACCENT);
    let pillows = if x > 1.2 { 2 } else { 1 };
    for pillow in 0..pillows {
        let (left, right) = (f64::from(pillow) / f64::from(pillows), f64::from(pillow + 1) / f64::from(pillows));
        b.ball((left + 0.06, right - 0.06), (lie - 0.02, lie + 0.12 / y), (board + 0.01, board + 0.18), ACCENT);
    }
    b.surface((0.03, 0.97), lie + 0.01, (board + 0.2, 0.98), OPEN);
}

fn dog_bed(b: &mut Builder) {
    let rim = b.range(0.12, 0.2);
    b.boxy((rim, 1.0 - rim), (0.0, 0.4), (rim, 1.0 - rim), ACCENT);
    b.boxy((0.0, rim), ALL, ALL, BODY);
    b.boxy((1.0 - rim, 1.0), ALL, ALL, BODY);
    b.boxy((rim, 1.0 - rim), ALL, (0.0, rim), BODY);
    b.boxy((rim, 1.0 - rim), (0.0, 0.6), (1.0 - rim, 1.0), BODY);
    b.surface((rim, 1.0 - rim), 0.4, (rim, 1.0 - rim), OPEN);
}
