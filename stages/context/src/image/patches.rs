//! From a PNG to patches.
//!
//! In: the bytes of a PNG. Out: its patches as the vision tower takes them, still in 8 bits, and the table that brings levels to
//! the tower's scale. Kept in 8 bits they are an eighth of the rows of numbers that they stand for.

use super::resize::resize;
use super::{Fit, ImageSettings};

/// A picture, row by row, three levels a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    pub width: u32,
    pub height: u32,
    pub pixels: Vec<u8>,
}

/// A picture cut into patches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patches {
    /// Time (1), height, width, in patches.
    pub grid: [u32; 3],
    /// `[patches, channels, patch, patch]`: the patches of one token side by side, tokens row by row.
    pub bytes: Vec<u8>,
}

/// Pixels of a picture before resizing, at most.
const LARGEST: u64 = 1 << 26;

impl Rgb {
    /// Decodes a PNG. Grey becomes three equal channels, a palette its colours, and transparency is dropped, as Pillow converts to
    /// RGB.
    ///
    /// # Errors
    /// Text for people: no PNG, cut short, 16 bits a channel, or larger than 2^26 pixels.
    pub fn from_png(bytes: &[u8]) -> Result<Rgb, String> {
        let (width, height) = super::png_size(bytes)?;
        if u64::from(width) * u64::from(height) > LARGEST {
            return Err(format!("{width} x {height} pixels are more than {LARGEST}"));
        }
        let broken = |e: png::DecodingError| format!("a PNG of {width} x {height} pixels that is broken: {e}");
        let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().map_err(broken)?;
        let (color, depth) = reader.output_color_type();
        if depth != png::BitDepth::Eight {
            return Err(format!("a PNG of {depth:?} bits a channel; expected 8 or fewer"));
        }
        let size = reader.output_buffer_size().ok_or("a PNG that does not fit into memory")?;
        let mut levels = vec![0; size];
        reader.next_frame(&mut levels).map_err(broken)?;
        let pixels = match color {
            png::ColorType::Rgb => levels,
            png::ColorType::Rgba => levels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
            png::ColorType::Grayscale => levels.iter().flat_map(|p| [*p; 3]).collect(),
            png::ColorType::GrayscaleAlpha => levels.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
            png::ColorType::Indexed => return Err("a PNG whose palette was not read".into()),
        };
        Ok(Rgb { width, height, pixels })
    }
}

impl ImageSettings {
    /// Resizes a picture and cuts it into patches. What is over at the bottom and the right of a size that is no whole number of
    /// patches is left out, as a convolution leaves it.
    ///
    /// # Errors
    /// As [`ImageSettings::smart_resize`].
    pub fn patches(&self, picture: &Rgb) -> Result<Patches, String> {
        let [_, rows, columns] = self.grid(picture.height, picture.width)?;
        let resized = match self.fit {
            Fit::Area => resize(picture, columns * self.patch, rows * self.patch),
            fit => fit.apply(picture),
        };
        let (patch, merge) = (self.patch as usize, self.merge as usize);
        let (rows, columns) = (rows as usize, columns as usize);
        let mut bytes = Vec::with_capacity(resized.pixels.len());
        let mut cut = |top: usize, left: usize| {
            for channel in 0..3 {
                for y in top * patch..(top + 1) * patch {
                    let row = &resized.pixels[3 * (y * resized.width as usize + left * patch)..][..3 * patch];
                    bytes.extend(row.iter().skip(channel).step_by(3));
                }
            }
        };
        for (y, x) in (0..rows).step_by(merge).flat_map(|y| (0..columns).step_by(merge).map(move |x| (y, x))) {
            for i in 0..merge * merge {
                cut(y + i / merge, x + i % merge);
            }
        }
        Ok(Patches { grid: [1, rows as u32, columns as u32], bytes })
    }

    /// What each level of each channel becomes: `(level / 255 - mean) / std`, rounded to f32 where transformers rounds.
    pub fn levels(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
            std::array::from_fn(|level| ((level as f64 * (1.0 / 255.0)) as f32 - mean) / std)
        })
    }
}
