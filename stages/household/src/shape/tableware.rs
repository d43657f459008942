//! Vessels, cutlery and food.

use super::{ACCENT, Axis, BODY, DARK, Form, TRIM, build::Builder};

const ALL: (f64, f64) = (0.0, 1.0);

/// Builds something of a kitchen; false: it is nothing of it.
pub(super) fn build(kind: &str, asset: &str, b: &mut Builder) -> bool {
    match kind {
        "Mug" | "Milkshake" => mug(b),
        "Cup" => cup(b),
        "Bowl" => bowl(b),
        "Plate" => plate(b),
        "Pot" => pot(b),
        "Pan" => pan(b),
        "Kettle" | "WateringCan" | "Teapot" => kettle(b),
        "Bottle" | "WineBottle" => bottle(b),
        "SoapBottle" => soap_bottle(b),
        "SprayBottle" => spray_bottle(b),
        "PepperShaker" | "SaltShaker" => shaker(b),
        "Vase" => vase(b),
        "Apple" | "Tomato" => fruit(b, kind == "Apple"),
        "Egg" => egg(b),
        "Potato" => potato(b),
        "Lettuce" => lettuce(b),
        "Bread" => bread(b),
        "Knife" | "ButterKnife" | "Spatula" => blade(b, kind == "Spatula"),
        "Fork" | "Spoon" | "Ladle" => spoon(b, kind == "Fork"),
        "PaperTowelRoll" | "ToiletPaper" => roll(b),
        "AluminumFoil" => foil(b),
        "DishSponge" | "SoapBar" => sponge(b, asset),
        _ => return false,
    }
    true
}

/// A straight cup with a handle at its side.
fn mug(b: &mut Builder) {
    let body = b.range(0.68, 0.8);
    let foot = b.range(0.8, 1.0);
    b.cone((0.0, body), (0.0, 0.985), ALL, (foot, 1.0), BODY);
    b.opening((0.08 * body, 0.92 * body), 1.0, (0.08, 0.92));
    let (low, high) = (b.range(0.15, 0.3), b.range(0.72, 0.88));
    let thick = 0.09;
    b.boxy((body * 0.9, 1.0), (high - thick, high), (0.42, 0.58), TRIM);
    b.boxy((body * 0.9, 1.0), (low, low + thick), (0.42, 0.58), TRIM);
    b.boxy((1.0 - 0.4 * (1.0 - body), 1.0), (low, high), (0.42, 0.58), TRIM);
}

/// A tumbler that widens upwards, or a glass on a stem.
fn cup(b: &mut Builder) {
    if b.chance(0.3) {
        b.round(Axis::Y, (0.15, 0.85), (0.0, 0.05), (0.15, 0.85), BODY);
        b.round(Axis::Y, (0.45, 0.55), (0.05, 0.45), (0.45, 0.55), BODY);
        b.cone(ALL, (0.4, 0.99), ALL, (0.55, 1.0), BODY);
    } else {
        let foot = b.range(0.55, 0.85);
        b.cone(ALL, (0.0, 0.99), ALL, (foot, 1.0), BODY);
        if b.chance(0.4) {
            b.cone((0.01, 0.99), (0.55, 0.75), (0.01, 0.99), (0.93, 1.0), TRIM);
        }
    }
    b.opening((0.06, 0.94), 1.0, (0.06, 0.94));
}

/// Wide and low, with a small foot.
fn bowl(b: &mut Builder) {
    let foot = b.range(0.35, 0.55);
    let bend = b.range(0.35, 0.6);
    let wide = b.range(0.8, 0.92);
    let half = wide / 2.0;
    b.cone((0.5 - half, 0.5 + half), (0.0, bend), (0.5 - half, 0.5 + half), (foot, 1.0), BODY);
    b.cone(ALL, (bend, 0.975), ALL, (wide, 1.0), BODY);
    b.opening((0.06, 0.94), 1.0, (0.06, 0.94));
}

fn plate(b: &mut Builder) {
    let foot = b.range(0.5, 0.7);
    b.cone(ALL, (0.0, 0.9), ALL, (foot, 1.0), BODY);
    let inner = b.range(0.15, 0.25);
    b.soft(Form::Cylinder { axis: Axis::Y }, (inner, 1.0 - inner), (0.9, 1.0), (inner, 1.0 - inner), TRIM);
}

fn pot(b: &mut Builder) {
    let lid = b.chance(0.5);
    let wall = if lid { 0.75 } else { 0.98 };
    b.round(Axis::Y, (0.03, 0.97), (0.0, wall), (0.12, 0.88), BODY);
    for z in [(0.0, 0.14), (0.86, 1.0)] {
        b.boxy((0.35, 0.65), (wall * 0.75, wall * 0.88), z, TRIM);
    }
    if lid {
        b.cone((0.0, 1.0), (wall, wall + 0.12), (0.1, 0.9), (1.0, 0.5), TRIM);
        b.round(Axis::Y, (0.44, 0.56), (wall + 0.1, 1.0), (0.45, 0.55), DARK);
    } else {
        b.opening((0.08, 0.92), 1.0, (0.16, 0.84));
    }
}

fn pan(b: &mut Builder) {
    let wide = b.range(0.6, 0.68);
    let foot = b.range(0.75, 0.95);
    b.cone(ALL, (0.0, 0.7), (1.0 - wide, 1.0), (foot, 1.0), BODY);
    b.soft(Form::Cylinder { axis: Axis::Y }, (0.07, 0.93), (0.7, 0.76), (1.0 - wide * 0.95, 0.95), DARK);
    b.boxy((0.44, 0.56), (0.55, 1.0), (0.0, 1.02 - wide), TRIM);
}

fn kettle(b: &mut Builder) {
    let belly = b.range(0.6, 0.75);
    b.cone((0.1, 0.9), (0.0, belly), (0.12, 0.78), (1.0, 0.6), BODY);
    b.part(Form::Frustum { bottom: 1.0, top: 0.5 }, (0.4, 0.6), (belly * 0.4, belly), (0.75, 1.0), TRIM);
    b.boxy((0.42, 0.58), (0.9, 1.0), (0.1, 0.75), TRIM);
    b.boxy((0.42, 0.58), (belly * 0.5, 1.0), (0.0, 0.12), TRIM);
    b.round(Axis::Y, (0.42, 0.58), (belly, belly + 0.08), (0.38, 0.52), DARK);
}

fn bottle(b: &mut Builder) {
    let shoulder = b.range(0.5, 0.68);
    let neck = b.range(0.26, 0.38);
    b.round(Axis::Y, ALL, (0.0, shoulder), ALL, BODY);
    b.cone(ALL, (shoulder, shoulder + 0.12), ALL, (1.0, neck), BODY);
    let half = neck / 2.0;
    b.round(Axis::Y, (0.5 - half, 0.5 + half), (shoulder + 0.12, 0.95), (0.5 - half, 0.5 + half), BODY);
    b.round(Axis::Y, (0.48 - half, 0.52 + half), (0.93, 1.0), (0.48 - half, 0.52 + half), TRIM);
    let low = b.range(0.12, 0.25);
    b.soft(Form::Cylinder { axis: Axis::Y }, (-0.005, 1.005), (low, shoulder * 0.85), (-0.005, 1.005), ACCENT);
}

/// A body with a pump whose spout looks to the front.
fn soap_bottle(b: &mut Builder) {
    let shoulder = b.range(0.55, 0.7);
    let form = if b.chance(0.5) { Form::Cylinder { axis: Axis::Y } } else { Form::Box };
    b.part(form, ALL, (0.0, shoulder), (0.0, 0.9), BODY);
    b.cone((0.15, 0.85), (shoulder, shoulder + 0.08), (0.12, 0.78), (1.0, 0.5), BODY);
    b.round(Axis::Y, (0.42, 0.58), (shoulder + 0.08, 0.92), (0.36, 0.54), TRIM);
    b.boxy((0.4, 0.6), (0.92, 1.0), (0.35, 1.0), TRIM);
}

/// A body with a trigger head whose nozzle looks to the front.
fn spray_bottle(b: &mut Builder) {
    let shoulder = b.range(0.52, 0.64);
    let foot = b.range(0.85, 1.0);
    b.cone(ALL, (0.0, shoulder), (0.05, 0.85), (foot, 1.0), BODY);
    b.cone((0.1, 0.9), (shoulder, shoulder + 0.14), (0.12, 0.75), (1.0, 0.45), BODY);
    b.boxy((0.22, 0.78), (shoulder + 0.14, 0.84), (0.28, 0.6), TRIM);
    b.boxy((0.2, 0.8), (0.84, 1.0), (0.0, 0.95), TRIM);
    b.boxy((0.35, 0.65), (0.66, 0.84), (0.66, 0.78), ACCENT);
    b.boxy((0.35, 0.65), (0.88, 0.96), (0.95, 1.0), DARK);
}

fn shaker(b: &mut Builder) {
    let cap = b.range(0.7, 0.82);
    b.cone(ALL, (0.0, cap), ALL, (1.0, 0.8), BODY);
    b.cone((0.1, 0.9), (cap, 1.0), (0.1, 0.9), (1.0, 0.6), TRIM);
}

/// A foot, a belly and a neck that opens: never straight, never with a handle.
fn vase(b: &mut Builder) {
    let waist = b.range(0.55, 0.72);
    let neck = b.range(0.35, 0.6);
    let lip = b.range(neck, 0.85);
    let n = neck / 2.0;
    let l = lip / 2.0;
    let foot = b.range(0.45, 0.7) / 2.0;
    b.round(Axis::Y, (0.5 - foot, 0.5 + foot), (0.0, 0.08), (0.5 - foot, 0.5 + foot), TRIM);
    if b.chance(0.5) {
        b.ball(ALL, (0.02, waist + 0.14), ALL, BODY);
    } else {
        b.cone(ALL, (0.05, waist * 0.55), ALL, (foot * 1.8, 1.0), BODY);
        b.cone(ALL, (waist * 0.55, waist + 0.05), ALL, (1.0, neck), BODY);
    }
    b.round(Axis::Y, (0.5 - n, 0.5 + n), (waist, 0.86), (0.5 - n, 0.5 + n), BODY);
    b.cone((0.5 - l, 0.5 + l), (0.84, 0.985), (0.5 - l, 0.5 + l), (neck, lip), BODY);
    b.opening((0.52 - l, 0.48 + l), 1.0, (0.52 - l, 0.48 + l));
}

fn fruit(b: &mut Builder, apple: bool) {
    let stem = if apple { b.range(0.1, 0.18) } else { 0.04 };
    b.ball(ALL, (0.0, 1.0 - stem), ALL, BODY);
    b.cone((0.46, 0.54), (1.0 - stem - 0.06, 1.0), (0.46, 0.54), (0.6, 1.0), DARK);
    if !apple {
        for (x, z) in [((0.3, 0.7), (0.46, 0.54)), ((0.46, 0.54), (0.3, 0.7))] {
            b.boxy(x, (0.95, 0.98), z, ACCENT);
        }
    }
}

fn egg(b: &mut Builder) {
    b.ball(ALL, (0.0, 0.92), ALL, BODY);
    b.ball((0.14, 0.86), (0.3, 1.0), (0.14, 0.86), BODY);
}

fn potato(b: &mut Builder) {
    b.ball(ALL, (0.0, 0.95), (0.0, 0.8), BODY);
    b.ball((0.12, 0.92), (0.08, 1.0), (0.3, 1.0), BODY);
}

fn lettuce(b: &mut Builder) {
    b.ball((0.1, 0.9), (0.0, 0.9), (0.0, 0.75), BODY);
    b.ball((0.0, 0.6), (0.15, 1.0), (0.25, 1.0), ACCENT);
    b.ball((0.4, 1.0), (0.1, 0.95), (0.3, 0.95), ACCENT);
}

fn bread(b: &mut Builder) {
    let rise = b.range(0.4, 0.6);
    b.boxy((0.04, 0.96), (0.0, rise), (0.03, 0.97), BODY);
    b.round(Axis::Z, ALL, (rise * 0.4, 1.0), ALL, BODY);
}

fn blade(b: &mut Builder, flat: bool) {
    let grip = b.range(0.36, 0.45);
    b.boxy(if flat { (0.35, 0.65) } else { ALL }, (0.2, 0.8), (0.0, grip), TRIM);
    let x = if flat { ALL } else { (0.3, 0.7) };
    b.boxy(x, ALL, (if flat { 0.7 } else { grip }, 1.0), BODY);
    b.boxy((0.35, 0.65), (0.3, 0.7), (grip, 0.72), BODY);
}

fn spoon(b: &mut Builder, fork: bool) {
    let head = b.range(0.66, 0.74);
    b.boxy((0.38, 0.62), (0.3, 0.7), (0.0, head), BODY);
    if fork {
        for x in [(0.0, 0.2), (0.4, 0.6), (0.8, 1.0)] {
            b.boxy(x, ALL, (head + 0.06, 1.0), BODY);
        }
        b.boxy(ALL, ALL, (head, head + 0.06), BODY);
    } else {
        b.ball(ALL, ALL, (head - 0.03, 1.0), BODY);
    }
}

fn roll(b: &mut Builder) {
    b.round(Axis::Y, ALL, (0.0, 0.99), ALL, BODY);
    b.opening((0.35, 0.65), 1.0, (0.35, 0.65));
}

fn foil(b: &mut Builder) {
    b.boxy(ALL, (0.0, 0.9), ALL, BODY);
    b.boxy((0.05, 0.95), (0.9, 1.0), (0.1, 0.9), ACCENT);
}

fn sponge(b: &mut Builder, asset: &str) {
    if asset.starts_with("Soap") {
        b.ball(ALL, (0.0, 1.0), ALL, BODY);
        b.boxy((0.1, 0.9), (0.0, 0.8), (0.1, 0.9), BODY);
        return;
    }
    b.boxy(ALL, (0.0, 0.7), ALL, BODY);
    b.boxy(ALL, (0.7, 1.0), ALL, ACCENT);
}
