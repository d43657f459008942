//! Bathroom and kitchen fixtures, machines, lamps, screens, plants and what hangs on walls.

use super::{ACCENT, Axis, BODY, DARK, Form, OPEN, TRIM, build::Builder};

const ALL: (f64, f64) = (0.0, 1.0);

/// Builds a fixture; false: it is none.
pub(super) fn build(kind: &str, b: &mut Builder) -> bool {
    match kind {
        "Toilet" => toilet(b),
        "Sink" => sink(b),
        "Faucet" | "ShowerHead" => faucet(b),
        "ShowerCurtain" | "Blinds" => curtain(b),
        "Fridge" => fridge(b),
        "WashingMachine" | "ClothesDryer" => washer(b),
        "Microwave" => microwave(b),
        "Toaster" => toaster(b),
        "CoffeeMachine" => coffee_machine(b),
        "FloorLamp" | "DeskLamp" => lamp(b),
        "Television" | "Desktop" => screen(b),
        "HousePlant" => plant(b),
        "GarbageCan" | "LaundryHamper" => bin(b),
        "GarbageBag" => bag(b),
        "VacuumCleaner" => vacuum(b),
        "RoomDecor" => decor(b),
        "Painting" => painting(b),
        "LightSwitch" => switch(b),
        "ToiletPaperHanger" | "TowelHolder" | "HandTowelHolder" => hanger(b),
        "Doorway" | "Doorframe" | "Window" => frame(b),
        _ => return false,
    }
    true
}

fn toilet(b: &mut Builder) {
    let tank = b.range(0.24, 0.3);
    let bowl = b.range(0.4, 0.46);
    b.boxy((0.1, 0.9), (bowl * 0.9, 0.97), (0.0, tank), BODY);
    b.boxy((0.08, 0.92), (0.97, 1.0), (0.0, tank + 0.01), TRIM);
    b.cone((0.15, 0.85), (0.0, bowl * 0.85), (tank * 0.6, 0.92), (0.7, 1.0), BODY);
    b.round(Axis::Y, (0.0, 1.0), (bowl * 0.85, bowl), (tank * 0.8, 1.0), BODY);
    b.soft(Form::Cylinder { axis: Axis::Y }, (0.2, 0.8), (bowl, bowl + 0.01), (tank + 0.12, 0.9), DARK);
    if b.chance(0.5) {
        b.boxy((0.12, 0.88), (bowl, bowl * 1.85), (tank, tank + 0.05), TRIM);
    }
    b.surface((0.1, 0.9), 1.0, (0.0, tank), OPEN);
}

/// A basin; tall ones stand in a cupboard or on a foot.
fn sink(b: &mut Builder) {
    let [_, y, _] = b.sides();
    let rim = if y > 0.5 { 1.0 - 0.12 / y } else { 0.0 };
    if y > 0.5 {
        if b.chance(0.6) {
            b.boxy((0.02, 0.98), (0.0, rim), (0.0, 0.96), TRIM);
            b.boxy((0.48, 0.52), (0.1, rim - 0.05), (0.96, 0.97), DARK);
        } else {
            b.cone((0.3, 0.7), (0.0, rim), (0.1, 0.55), (0.8, 1.0), BODY);
        }
    }
    b.boxy(ALL, (rim, 1.0), (0.0, 0.28), BODY);
    b.boxy(ALL, (rim, 1.0), (0.88, 1.0), BODY);
    b.boxy((0.0, 0.2), (rim, 1.0), (0.28, 0.88), BODY);
    b.boxy((0.8, 1.0), (rim, 1.0), (0.28, 0.88), BODY);
    b.boxy((0.2, 0.8), (rim, rim + 0.25 * (1.0 - rim)), (0.28, 0.88), DARK);
    b.surface(ALL, 1.0, (0.0, 0.28), OPEN);
    b.surface((0.0, 0.2), 1.0, (0.28, 1.0), OPEN);
    b.surface((0.8, 1.0), 1.0, (0.28, 1.0), OPEN);
}

fn faucet(b: &mut Builder) {
    b.round(Axis::Y, (0.4, 0.6), (0.0, 0.9), (0.0, 0.2), BODY);
    b.round(Axis::Z, (0.42, 0.58), (0.82, 1.0), (0.05, 1.0), BODY);
    b.round(Axis::Y, (0.42, 0.58), (0.6, 0.82), (0.85, 1.0), DARK);
    if b.chance(0.6) {
        b.boxy((0.0, 0.25), (0.0, 0.25), (0.0, 0.2), TRIM);
        b.boxy((0.75, 1.0), (0.0, 0.25), (0.0, 0.2), TRIM);
    }
}

fn curtain(b: &mut Builder) {
    b.round(Axis::X, ALL, (0.96, 1.0), (0.4, 0.6), TRIM);
    for fold in 0..5 {
        let left = f64::from(fold) * 0.2;
        let form = Form::Cylinder { axis: Axis::Y };
        b.soft(form, (left, left + 0.2), (0.0, 0.96), if fold % 2 == 0 { (0.0, 0.8) } else { (0.2, 1.0) }, BODY);
    }
}

fn fridge(b: &mut Builder) {
    let [x, ..] = b.sides();
    b.boxy(ALL, ALL, (0.0, 0.88), BODY);
    let freezer = b.chance(0.6).then(|| b.range(0.55, 0.75));
    let two_wide = x > 0.95;
    let columns: &[(f64, f64)] = if two_wide { &[(0.0, 0.495), (0.505, 1.0)] } else { &[(0.0, 1.0)] };
    for &(left, right) in columns {
        let rows = freezer.map_or(vec![(0.02, 1.0)], |at| vec![(0.02, at - 0.004), (at + 0.004, 1.0)]);
        for (low, high) in rows {
            b.boxy((left, right), (low, high), (0.885, 0.96), BODY);
            let grip = if left > 0.4 { (left + 0.03, left + 0.06) } else { (right - 0.06, right - 0.03) };
            let middle = (low + high) / 2.0;
            b.boxy(grip, (middle - 0.12, middle + 0.12), (0.96, 1.0), TRIM);
        }
    }
    b.top();
}

fn washer(b: &mut Builder) {
    b.boxy(ALL, ALL, (0.0, 0.95), BODY);
    b.boxy((0.02, 0.98), (0.82, 0.96), (0.95, 0.97), TRIM);
    let wide = b.range(0.5, 0.66);
    b.round(Axis::Z, (0.5 - wide / 2.0, 0.5 + wide / 2.0), (0.2, 0.2 + wide * 0.85), (0.95, 1.0), DARK);
    b.round(Axis::Z, (0.78, 0.9), (0.85, 0.93), (0.97, 1.0), ACCENT);
    b.top();
}

fn microwave(b: &mut Builder) {
    b.boxy(ALL, (0.05, 1.0), (0.0, 0.9), BODY);
    let door = b.range(0.68, 0.78);
    b.boxy((0.03, door), (0.1, 0.95), (0.9, 0.95), DARK);
    b.boxy((door - 0.05, door - 0.02), (0.2, 0.85), (0.95, 1.0), TRIM);
    b.boxy((door + 0.03, 0.97), (0.15, 0.9), (0.9, 0.93), ACCENT);
    b.legs(0.03, (0.0, 0.05), 0.05);
    b.top();
}

fn toaster(b: &mut Builder) {
    b.boxy((0.0, 0.92), (0.04, 0.96), ALL, BODY);
    b.boxy((0.92, 1.0), (0.55, 0.7), (0.4, 0.6), TRIM);
    for x in [(0.18, 0.36), (0.56, 0.74)] {
        b.soft(Form::Box, x, (0.96, 1.0), (0.12, 0.88), DARK);
    }
    b.legs(0.02, (0.0, 0.04), 0.05);
}

fn coffee_machine(b: &mut Builder) {
    let foot = b.range(0.1, 0.18);
    b.boxy(ALL, (0.0, foot), ALL, TRIM);
    b.boxy(ALL, (foot, 1.0), (0.0, 0.45), BODY);
    b.boxy((0.05, 0.95), (0.65, 1.0), (0.45, 0.92), BODY);
    let jug = b.range(0.3, 0.4);
    b.cone((0.5 - jug, 0.5 + jug), (foot, 0.58), (0.48, 0.98), (1.0, 0.75), DARK);
    b.surface((0.1, 0.9), foot, (0.5, 0.95), 0.1);
}

fn lamp(b: &mut Builder) {
    let shade = b.range(0.62, 0.8);
    let foot = b.range(0.5, 0.9);
    b.round(Axis::Y, (0.5 - foot / 2.0, 0.5 + foot / 2.0), (0.0, 0.03), (0.5 - foot / 2.0, 0.5 + foot / 2.0), TRIM);
    let [x, ..] = b.sides();
    let pole = b.range(0.015, 0.03) / x.max(0.1);
    b.round(Axis::Y, (0.5 - pole, 0.5 + pole), (0.03, shade), (0.5 - pole, 0.5 + pole), TRIM);
    let (low, high) = (b.range(0.8, 1.0), b.range(0.45, 1.0));
    b.cone(ALL, (shade, 1.0), ALL, (low, high), ACCENT);
}

fn screen(b: &mut Builder) {
    let [_, _, z] = b.sides();
    let hung = z < 0.18;
    let low = if hung { 0.0 } else { b.range(0.08, 0.16) };
    let z = if hung { (0.0, 0.9) } else { (0.38, 0.6) };
    b.boxy(ALL, (low, 1.0), z, BODY);
    b.boxy((0.025, 0.975), (low + 0.04, 0.96), (z.1, z.1 + 0.05), DARK);
    if !hung {
        b.boxy((0.44, 0.56), (0.02, low + 0.1), (0.36, 0.5), TRIM);
        let foot = b.range(0.3, 0.7);
        b.boxy((0.5 - foot / 2.0, 0.5 + foot / 2.0), (0.0, 0.03), ALL, TRIM);
    }
}

fn plant(b: &mut Builder) {
    let pot = b.range(0.25, 0.42);
    let wide = b.range(0.5, 0.75);
    let foot = b.range(0.65, 0.95);
    let span = (0.5 - wide / 2.0, 0.5 + wide / 2.0);
    b.cone(span, (0.0, pot), span, (foot, 1.0), BODY);
    b.soft(Form::Cylinder { axis: Axis::Y }, (0.47, 0.53), (pot, 0.8), (0.47, 0.53), TRIM);
    for leaf in 0..5 {
        let (x, z) = ([0.3, 0.7, 0.3, 0.7, 0.5][leaf], [0.3, 0.3, 0.7, 0.7, 0.5][leaf]);
        let (half, low) = (b.range(0.2, 0.3), b.range(pot, pot + 0.25));
        let high = if leaf == 4 { 1.0 } else { b.range(0.75, 0.98) };
        b.soft(Form::Ellipsoid, (x - half, x + half), (low, high), (z - half, z + half), ACCENT);
    }
}

/// A bin that widens upwards, open or with a lid.
fn bin(b: &mut Builder) {
    let round = b.chance(0.5);
    let lid = b.chance(0.35);
    let body = if lid { 0.85 } else { 0.97 };
    if round {
        let foot = b.range(0.7, 0.95);
        b.cone((0.02, 0.98), (0.0, body), (0.02, 0.98), (foot, 1.0), BODY);
    } else {
        b.boxy((0.06, 0.94), (0.0, body * 0.6), (0.06, 0.94), BODY);
        b.boxy((0.02, 0.98), (body * 0.6, body), (0.02, 0.98), BODY);
    }
    let form = if round { Form::Cylinder { axis: Axis::Y } } else { Form::Box };
    if lid {
        b.part(form, ALL, (body, 0.92), ALL, TRIM);
        b.ball((0.05, 0.95), (0.85, 1.0), (0.05, 0.95), TRIM);
    } else {
        b.part(form, ALL, (0.93, 0.98), ALL, TRIM);
        b.soft(form, (0.08, 0.92), (0.98, 1.0), (0.08, 0.92), DARK);
    }
}

fn bag(b: &mut Builder) {
    b.ball(ALL, (0.0, 0.85), ALL, BODY);
    b.cone((0.38, 0.62), (0.72, 1.0), (0.38, 0.62), (0.5, 1.0), BODY);
}

fn vacuum(b: &mut Builder) {
    b.boxy(ALL, (0.0, 0.1), (0.5, 1.0), BODY);
    b.round(Axis::Y, (0.25, 0.75), (0.08, 0.62), (0.25, 0.65), ACCENT);
    b.round(Axis::Y, (0.44, 0.56), (0.6, 1.0), (0.05, 0.25), TRIM);
    b.boxy((0.35, 0.65), (0.1, 0.7), (0.0, 0.3), TRIM);
}

fn decor(b: &mut Builder) {
    b.round(Axis::Y, (0.1, 0.9), (0.0, 0.05), (0.1, 0.9), TRIM);
    let waist = b.range(0.35, 0.6);
    b.cone((0.15, 0.85), (0.05, waist), (0.15, 0.85), (1.0, 0.4), BODY);
    b.cone(ALL, (waist, 1.0), ALL, (0.35, 1.0), BODY);
}

fn painting(b: &mut Builder) {
    b.boxy(ALL, ALL, (0.0, 0.7), TRIM);
    let (wide, high) = (b.range(0.03, 0.1), b.range(0.03, 0.1));
    b.boxy((wide, 1.0 - wide), (high, 1.0 - high), (0.7, 0.85), BODY);
    let (x, y) = (b.range(0.15, 0.45), b.range(0.15, 0.45));
    b.boxy((x, x + 0.4), (y, y + 0.4), (0.85, 1.0), ACCENT);
}

fn switch(b: &mut Builder) {
    b.boxy(ALL, ALL, (0.0, 0.5), BODY);
    b.boxy((0.38, 0.62), (0.35, 0.65), (0.5, 1.0), TRIM);
}

/// A bar between two brackets, with a roll or a cloth on it.
fn hanger(b: &mut Builder) {
    b.boxy((0.0, 0.08), (0.3, 1.0), ALL, TRIM);
    b.boxy((0.92, 1.0), (0.3, 1.0), ALL, TRIM);
    b.round(Axis::X, ALL, (0.5, 0.75), (0.55, 0.8), TRIM);
    if b.chance(0.7) {
        b.round(Axis::X, (0.15, 0.85), (0.0, 1.0), (0.2, 1.0), BODY);
    }
}

fn frame(b: &mut Builder) {
    b.boxy((0.0, 0.05), ALL, ALL, BODY);
    b.boxy((0.95, 1.0), ALL, ALL, BODY);
    b.boxy((0.05, 0.95), (0.96, 1.0), ALL, BODY);
}
