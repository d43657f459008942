//! Pillow's bicubic resizing of 8-bit pictures, in its integers.
//!
//! Keys' cubic with a = -0.5, widened by the factor of reduction so that it averages (antialiasing). Weights are rounded to 22
//! bits after the point; a row pass comes first and its result is rounded to 8 bits before the column pass, as Pillow does up to
//! its 12th release.

use super::Rgb;

/// Bits after the point of a weight.
const BITS: u32 = 22;
/// How far the filter reaches, in pixels of the smaller of the two pictures.
const REACH: f64 = 2.0;

/// The picture at another size.
pub(super) fn resize(picture: &Rgb, width: u32, height: u32) -> Rgb {
    let mut rows = picture.pixels.clone();
    if width != picture.width {
        let taps = taps(picture.width, width);
        let (from, to) = (3 * picture.width as usize, 3 * width as usize);
        rows = vec![0; to * picture.height as usize];
        for (source, target) in picture.pixels.chunks_exact(from).zip(rows.chunks_exact_mut(to)) {
            for (tap, pixel) in taps.iter().zip(target.chunks_exact_mut(3)) {
                let mut sums = [1i64 << (BITS - 1); 3];
                for (weight, pixel) in tap.weights.iter().zip(source[3 * tap.first..].chunks_exact(3)) {
                    for (sum, level) in sums.iter_mut().zip(pixel) {
                        *sum += weight * i64::from(*level);
                    }
                }
                pixel.copy_from_slice(&sums.map(round));
            }
        }
    }
    if height == picture.height {
        return Rgb { width, height, pixels: rows };
    }
    let row = 3 * width as usize;
    let mut pixels = vec![0; row * height as usize];
    let mut sums = vec![0i64; row];
    for (tap, target) in taps(picture.height, height).iter().zip(pixels.chunks_exact_mut(row)) {
        sums.fill(1 << (BITS - 1));
        for (weight, source) in tap.weights.iter().zip(rows[tap.first * row..].chunks_exact(row)) {
            for (sum, level) in sums.iter_mut().zip(source) {
                *sum += weight * i64::from(*level);
            }
        }
        for (level, sum) in target.iter_mut().zip(&sums) {
            *level = round(*sum);
        }
    }
    Rgb { width, height, pixels }
}

fn round(sum: i64) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// What one pixel of the result is made of: pixels from `first` on, by weight.
struct Tap {
    first: usize,
    weights: Vec<i64>,
}

fn taps(from: u32, to: u32) -> Vec<Tap> {
    let scale = f64::from(from) / f64::from(to);
    let widened = scale.max(1.0);
    let reach = REACH * widened;
    let tap = |at: u32| {
        let centre = (f64::from(at) + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from as usize);
        let weights: Vec<f64> = (first..end).map(|pixel| cubic((pixel as f64 - centre + 0.5) * (1.0 / widened))).collect();
        let total: f64 = weights.iter().sum();
        let whole = |weight: f64| {
            let scaled = weight / total * f64::from(1 << BITS);
            (if weight / total < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i64
        };
        Tap { first, weights: weights.into_iter().map(whole).collect() }
    };
    (0..to).map(tap).collect()
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
