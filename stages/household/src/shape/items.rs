//! Small things of the other rooms: clocks, laptops, books, balls, boxes, toys, towels, tools.

use super::{ACCENT, Axis, BODY, DARK, Form, OPEN, TRIM, build::Builder};

const ALL: (f64, f64) = (0.0, 1.0);

/// Builds a small thing; false: its type is not known.
pub(super) fn build(kind: &str, asset: &str, b: &mut Builder) -> bool {
    match kind {
        "AlarmClock" => alarm_clock(b),
        "Laptop" => laptop(b),
        "CellPhone" | "CreditCard" => phone(b),
        "RemoteControl" => remote(b),
        "Book" | "Newspaper" => book(b),
        "BasketBall" | "Ball" => ball(b),
        "Box" => carton(b, asset),
        "TissueBox" => tissue_box(b),
        "Candle" => candle(b),
        "CD" => disc(b),
        "Pen" | "Pencil" => pencil(b),
        "Watch" | "KeyChain" => trinket(b),
        "Pillow" => pillow(b),
        "Cloth" | "Towel" | "HandTowel" => cloth(b),
        "TeddyBear" => teddy(b),
        "Statue" => statue(b, asset),
        "TableTopDecor" => decor(b),
        "BaseballBat" => bat(b),
        "TennisRacket" => racket(b),
        "Dumbbell" => dumbbell(b),
        "Boots" => boots(b),
        "Plunger" | "ScrubBrush" => stick(b, kind == "Plunger"),
        _ => return false,
    }
    true
}

/// A round face or a box with a face, on feet, with or without bells.
fn alarm_clock(b: &mut Builder) {
    let bells = b.chance(0.5);
    let top = if bells { 0.82 } else { 1.0 };
    let form = if b.chance(0.6) { Form::Cylinder { axis: Axis::Z } } else { Form::Box };
    b.part(form, ALL, (0.06, top), (0.0, 0.85), BODY);
    b.part(form, (0.1, 0.9), (0.06 + 0.09 * top, top * 0.92), (0.85, 0.92), ACCENT);
    let middle = (0.06 + top) / 2.0;
    b.boxy((0.48, 0.52), (middle, top * 0.84), (0.92, 1.0), DARK);
    b.boxy((0.5, 0.74), (middle - 0.02, middle + 0.02), (0.92, 1.0), DARK);
    for x in [(0.15, 0.27), (0.73, 0.85)] {
        b.boxy(x, (0.0, 0.16), (0.2, 0.7), TRIM);
    }
    if bells {
        b.ball((0.08, 0.46), (0.74, 0.98), (0.2, 0.7), TRIM);
        b.ball((0.54, 0.92), (0.74, 0.98), (0.2, 0.7), TRIM);
        b.boxy((0.46, 0.54), (0.8, 1.0), (0.35, 0.55), TRIM);
    }
}

/// A flat base with keys, a screen upright at its back.
fn laptop(b: &mut Builder) {
    let thick = b.range(0.06, 0.09);
    b.boxy(ALL, (0.0, thick), (0.1, 1.0), BODY);
    b.soft(Form::Box, (0.07, 0.93), (thick, thick + 0.01), (0.18, 0.62), DARK);
    b.soft(Form::Box, (0.35, 0.65), (thick, thick + 0.008), (0.7, 0.92), TRIM);
    b.boxy(ALL, (thick * 0.5, 1.0), (0.0, 0.08), BODY);
    b.boxy((0.04, 0.96), (thick + 0.05, 0.95), (0.08, 0.1), DARK);
}

fn phone(b: &mut Builder) {
    b.boxy(ALL, (0.0, 0.8), ALL, BODY);
    b.boxy((0.06, 0.94), (0.8, 1.0), (0.08, 0.92), DARK);
}

fn remote(b: &mut Builder) {
    b.boxy(ALL, (0.0, 0.8), ALL, BODY);
    for row in 0..5 {
        let z = 0.12 + 0.15 * f64::from(row);
        b.boxy((0.2, 0.8), (0.8, 1.0), (z, z + 0.08), ACCENT);
    }
}

fn book(b: &mut Builder) {
    let cover = 0.14;
    b.boxy(ALL, (0.0, cover), ALL, BODY);
    b.boxy(ALL, (1.0 - cover, 1.0), ALL, BODY);
    b.boxy((0.0, 0.05), ALL, ALL, BODY);
    b.boxy((0.05, 0.97), (cover, 1.0 - cover), (0.02, 0.98), ACCENT);
}

/// A ball with dark seams.
fn ball(b: &mut Builder) {
    b.ball(ALL, ALL, ALL, BODY);
    b.soft(Form::Cylinder { axis: Axis::Y }, (-0.003, 1.003), (0.488, 0.512), (-0.003, 1.003), DARK);
    b.soft(Form::Cylinder { axis: Axis::X }, (0.488, 0.512), (-0.003, 1.003), (-0.003, 1.003), DARK);
}

/// An open box one can look into, or one with a lid.
fn carton(b: &mut Builder, asset: &str) {
    if asset.starts_with("Decorative") {
        b.boxy((0.02, 0.98), (0.0, 0.75), (0.02, 0.98), BODY);
        b.boxy(ALL, (0.75, 1.0), ALL, ACCENT);
        return b.top();
    }
    let (wide, deep, thick) = (b.share(Axis::X, 0.012, 0.1), b.share(Axis::Z, 0.012, 0.1), b.share(Axis::Y, 0.012, 0.1));
    b.boxy((wide, 1.0 - wide), (0.0, thick), (deep, 1.0 - deep), DARK);
    b.boxy((0.0, wide), ALL, ALL, BODY);
    b.boxy((1.0 - wide, 1.0), ALL, ALL, BODY);
    b.boxy((wide, 1.0 - wide), ALL, (0.0, deep), BODY);
    b.boxy((wide, 1.0 - wide), ALL, (1.0 - deep, 1.0), BODY);
    b.surface((wide, 1.0 - wide), thick, (deep, 1.0 - deep), OPEN);
}

fn tissue_box(b: &mut Builder) {
    b.boxy(ALL, (0.0, 0.72), ALL, BODY);
    b.soft(Form::Frustum { bottom: 0.4, top: 1.0 }, (0.3, 0.7), (0.7, 1.0), (0.25, 0.75), ACCENT);
}

fn candle(b: &mut Builder) {
    let wax = b.range(0.8, 0.92);
    b.round(Axis::Y, ALL, (0.0, 0.08), ALL, TRIM);
    b.round(Axis::Y, (0.1, 0.9), (0.08, wax), (0.1, 0.9), BODY);
    b.round(Axis::Y, (0.46, 0.54), (wax, 1.0), (0.46, 0.54), DARK);
}

fn disc(b: &mut Builder) {
    b.round(Axis::Y, ALL, ALL, ALL, BODY);
    b.soft(Form::Cylinder { axis: Axis::Y }, (0.42, 0.58), (0.9, 1.1), (0.42, 0.58), DARK);
}

fn pencil(b: &mut Builder) {
    b.round(Axis::Z, ALL, ALL, (0.0, 0.9), BODY);
    b.round(Axis::Z, (0.3, 0.7), (0.3, 0.7), (0.9, 1.0), DARK);
}

fn trinket(b: &mut Builder) {
    b.round(Axis::Y, (0.0, 0.45), (0.0, 1.0), ALL, TRIM);
    b.boxy((0.4, 1.0), (0.1, 0.8), (0.3, 0.7), BODY);
}

fn pillow(b: &mut Builder) {
    b.ball(ALL, ALL, ALL, BODY);
    b.boxy((0.08, 0.92), (0.22, 0.78), (0.08, 0.92), BODY);
}

fn cloth(b: &mut Builder) {
    b.boxy(ALL, (0.0, 0.6), ALL, BODY);
    let fold = b.range(0.35, 0.65);
    b.boxy((0.03, fold), (0.6, 1.0), (0.05, 0.95), BODY);
    b.boxy((0.0, 1.0), (0.1, 0.62), (0.8, 0.88), ACCENT);
}

fn teddy(b: &mut Builder) {
    b.ball((0.2, 0.8), (0.0, 0.62), (0.15, 0.75), BODY);
    b.ball((0.22, 0.78), (0.5, 0.96), (0.15, 0.8), BODY);
    b.ball((0.38, 0.62), (0.58, 0.76), (0.68, 0.95), ACCENT);
    for x in [(0.12, 0.36), (0.64, 0.88)] {
        b.ball(x, (0.8, 1.0), (0.3, 0.6), BODY);
    }
    b.ball((0.0, 0.3), (0.25, 0.55), (0.3, 0.8), BODY);
    b.ball((0.7, 1.0), (0.25, 0.55), (0.3, 0.8), BODY);
    b.ball((0.15, 0.42), (0.0, 0.25), (0.5, 1.0), BODY);
    b.ball((0.58, 0.85), (0.0, 0.25), (0.5, 1.0), BODY);
}

fn statue(b: &mut Builder, asset: &str) {
    if asset.starts_with("Dog") {
        b.ball((0.05, 0.75), (0.3, 0.8), (0.15, 0.85), BODY);
        b.ball((0.62, 1.0), (0.55, 1.0), (0.2, 0.8), BODY);
        for x in [(0.12, 0.24), (0.56, 0.68)] {
            for z in [(0.15, 0.38), (0.62, 0.85)] {
                b.boxy(x, (0.0, 0.5), z, BODY);
            }
        }
        return b.ball((0.0, 0.2), (0.5, 0.72), (0.42, 0.58), BODY);
    }
    let plinth = b.range(0.08, 0.2);
    b.boxy(ALL, (0.0, plinth), ALL, TRIM);
    let waist = b.range(0.6, 0.75);
    b.cone((0.15, 0.85), (plinth, waist), (0.15, 0.85), (0.8, 1.0), BODY);
    b.ball((0.25, 0.75), (waist - 0.05, 1.0), (0.25, 0.75), BODY);
}

fn decor(b: &mut Builder) {
    b.round(Axis::Y, ALL, (0.0, 0.25), ALL, TRIM);
    b.ball((0.1, 0.5), (0.2, 1.0), (0.2, 0.6), BODY);
    b.ball((0.5, 0.92), (0.2, 0.8), (0.4, 0.85), ACCENT);
}

/// Upright: the grip at the bottom, the barrel above.
fn bat(b: &mut Builder) {
    b.round(Axis::Y, (0.2, 0.8), (0.0, 0.02), (0.2, 0.8), TRIM);
    b.cone((0.25, 0.75), (0.02, 0.35), (0.25, 0.75), (0.8, 1.0), TRIM);
    b.cone(ALL, (0.35, 0.97), ALL, (0.5, 1.0), BODY);
    b.ball((0.03, 0.97), (0.94, 1.0), (0.03, 0.97), BODY);
}

fn racket(b: &mut Builder) {
    b.round(Axis::Y, ALL, (0.1, 0.9), (0.45, 1.0), BODY);
    b.soft(Form::Cylinder { axis: Axis::Y }, (0.08, 0.92), (0.08, 0.92), (0.48, 0.97), ACCENT);
    b.boxy((0.42, 0.58), ALL, (0.0, 0.5), TRIM);
}

fn dumbbell(b: &mut Builder) {
    b.round(Axis::Z, (0.38, 0.62), (0.38, 0.62), (0.2, 0.8), TRIM);
    b.round(Axis::Z, ALL, ALL, (0.0, 0.25), BODY);
    b.round(Axis::Z, ALL, ALL, (0.75, 1.0), BODY);
}

fn boots(b: &mut Builder) {
    for x in [(0.0, 0.44), (0.56, 1.0)] {
        b.boxy(x, (0.0, 0.22), ALL, BODY);
        b.round(Axis::Y, x, (0.2, 1.0), (0.0, 0.55), BODY);
        b.boxy(x, (0.0, 0.05), ALL, DARK);
    }
}

fn stick(b: &mut Builder, cup: bool) {
    b.round(Axis::Y, (0.42, 0.58), (0.15, 1.0), (0.42, 0.58), TRIM);
    let radii = if cup { (1.0, 0.5) } else { (0.8, 1.0) };
    b.cone(ALL, (0.0, 0.26), ALL, radii, BODY);
}
