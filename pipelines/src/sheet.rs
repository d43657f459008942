//! A sheet of pixels to put pictures, lines and text on, and its files: PNG, and frames of a GIF.

use anyhow::{Context, Result};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use std::io::Write;

pub(crate) type Colour = [u8; 3];

/// Pixels of a line of text, and of a letter.
const LINE: usize = 19;
const HEIGHT: RasterHeight = RasterHeight::Size16;
/// How hard the GIF's palette is worked out: 1 best, 30 fastest.
const PALETTE_SPEED: i32 = 10;

/// RGB, row by row from the top.
#[derive(Clone)]
pub(crate) struct Sheet {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgb: Vec<u8>,
}

impl Sheet {
    pub(crate) fn new(width: usize, height: usize, colour: Colour) -> Sheet {
        Sheet { width, height, rgb: colour.repeat(width * height) }
    }

    fn put(&mut self, x: i64, y: i64, colour: Colour) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x < self.width && y < self.height {
            self.rgb[(y * self.width + x) * 3..][..3].copy_from_slice(&colour);
        }
    }

    /// Puts another picture's pixels at a place; what hangs over is left out.
    pub(crate) fn paste(&mut self, left: usize, top: usize, width: usize, rgb: &[u8]) {
        let columns = width.min(self.width.saturating_sub(left));
        for (row, pixels) in rgb.chunks_exact(width * 3).enumerate().take(self.height.saturating_sub(top)) {
            let at = ((top + row) * self.width + left) * 3;
            self.rgb[at..at + columns * 3].copy_from_slice(&pixels[..columns * 3]);
        }
    }

    /// A disc.
    pub(crate) fn dot(&mut self, [x, y]: [f64; 2], radius: f64, colour: Colour) {
        let (low, high) = ((y - radius).floor() as i64, (y + radius).ceil() as i64);
        for row in low..=high {
            for column in (x - radius).floor() as i64..=(x + radius).ceil() as i64 {
                let (dx, dy) = (column as f64 + 0.5 - x, row as f64 + 0.5 - y);
                if dx * dx + dy * dy <= radius * radius {
                    self.put(column, row, colour);
                }
            }
        }
    }

    /// A straight line with round ends.
    pub(crate) fn line(&mut self, from: [f64; 2], to: [f64; 2], width: f64, colour: Colour) {
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let steps = (dx.abs().max(dy.abs()) * 1.5).ceil().clamp(1.0, 10_000.0) as u32;
        for step in 0..=steps {
            let share = f64::from(step) / f64::from(steps);
            self.dot([from[0] + dx * share, from[1] + dy * share], width / 2.0, colour);
        }
    }

    /// A line of text, its upper left corner at a place; letters outside ASCII are question marks.
    pub(crate) fn text(&mut self, left: usize, top: usize, text: &str, colour: Colour) {
        let step = get_raster_width(FontWeight::Regular, HEIGHT);
        for (number, letter) in text.chars().enumerate() {
            let Some(raster) = get_raster(letter, FontWeight::Regular, HEIGHT).or_else(|| get_raster('?', FontWeight::Regular, HEIGHT))
            else {
                continue;
            };
            for (row, line) in raster.rows().enumerate() {
                for (column, &cover) in line.iter().enumerate() {
                    let (x, y) = (left + number * step + column, top + row);
                    if cover > 0 && x < self.width && y < self.height {
                        let pixel = &mut self.rgb[(y * self.width + x) * 3..][..3];
                        for (held, ink) in pixel.iter_mut().zip(colour) {
                            let mixed = u32::from(*held) * (255 - u32::from(cover)) + u32::from(ink) * u32::from(cover);
                            *held = (mixed / 255) as u8;
                        }
                    }
                }
            }
        }
    }

    /// Text over several lines, broken at spaces to fit a width; the place below it.
    pub(crate) fn words(&mut self, left: usize, top: usize, width: usize, text: &str, colour: Colour) -> usize {
        let most = (width / get_raster_width(FontWeight::Regular, HEIGHT)).max(8);
        let (mut line, mut y) = (String::new(), top);
        for word in text.split_whitespace() {
            if !line.is_empty() && line.len() + 1 + word.len() > most {
                self.text(left, y, &line, colour);
                y += LINE;
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.text(left, y, &line, colour);
        y + LINE
    }

    /// The sheet as a PNG file's bytes.
    pub(crate) fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, u32::try_from(self.width)?, u32::try_from(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(bytes)
    }

    /// The mean of each square of pixels: a picture drawn larger, without jagged edges.
    pub(crate) fn reduced(&self, factor: usize) -> Sheet {
        let (width, height) = (self.width / factor, self.height / factor);
        let mut small = Sheet::new(width, height, [0; 3]);
        for (index, value) in small.rgb.iter_mut().enumerate() {
            let (x, y, c) = (index / 3 % width * factor, index / 3 / width * factor, index % 3);
            let sum: usize =
                (0..factor * factor).map(|k| usize::from(self.rgb[((y + k / factor) * self.width + x + k % factor) * 3 + c])).sum();
            *value = ((sum + factor * factor / 2) / (factor * factor)) as u8;
        }
        small
    }
}

/// A GIF that is written frame by frame and starts over when it is through.
pub(crate) struct Film<W: Write> {
    encoder: gif::Encoder<W>,
    size: (u16, u16),
}

impl<W: Write> Film<W> {
    pub(crate) fn new(out: W, width: usize, height: usize) -> Result<Film<W>> {
        let size = (u16::try_from(width)?, u16::try_from(height)?);
        let mut encoder = gif::Encoder::new(out, size.0, size.1, &[])?;
        encoder.set_repeat(gif::Repeat::Infinite)?;
        Ok(Film { encoder, size })
    }

    /// Shows a sheet for so many hundredths of a second.
    pub(crate) fn frame(&mut self, sheet: &Sheet, hundredths: u16) -> Result<()> {
        let mut frame = gif::Frame::from_rgb_speed(self.size.0, self.size.1, &sheet.rgb, PALETTE_SPEED);
        frame.delay = hundredths;
        self.encoder.write_frame(&frame).context("the GIF cannot be written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_over_the_rim_is_cut_off() {
        let mut sheet = Sheet::new(20, 10, [9; 3]);
        sheet.paste(15, 8, 10, &[1; 300]);
        sheet.line([-50.0, -50.0], [50.0, 50.0], 3.0, [2; 3]);
        sheet.text(18, 5, "errand", [200; 3]);
        assert_eq!(sheet.rgb.len(), 600);
        assert_eq!(&sheet.rgb[(8 * 20 + 19) * 3..][..3], [1; 3]);
    }

    #[test]
    fn a_smaller_sheet_has_the_mean_and_files_can_be_read() {
        let mut sheet = Sheet::new(4, 2, [0; 3]);
        sheet.paste(0, 0, 2, &[100; 12]);
        let small = sheet.reduced(2);
        assert_eq!(small.rgb, [100, 100, 100, 0, 0, 0]);
        assert!(sheet.png().unwrap().starts_with(b"\x89PNG"));
        let mut bytes = Vec::new();
        Film::new(&mut bytes, 4, 2).unwrap().frame(&sheet, 5).unwrap();
        assert!(bytes.starts_with(b"GIF89a"));
    }
}
