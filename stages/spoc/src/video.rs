//! MP4 with H.264: one frame a row. Lossy: what must be exact is in the sensors, or is rendered again.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use mp4::{AvcConfig, MediaConfig, Mp4Config, Mp4Reader, Mp4Sample, Mp4Writer, TrackConfig, TrackType};
use openh264::OpenH264API;
use openh264::decoder::Decoder;
use openh264::encoder::{Encoder, EncoderConfig, IntraFramePeriod, QpRange, RateControlMode, VuiConfig};
use openh264::formats::{RgbSliceU8, YUVBuffer, YUVSource};
use openh264::nal_units;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

/// Frames a second, as a player shows them; a step has no duration.
const FPS: u32 = 10;
/// H.264's quantiser, the same in every frame: about what imageio's quality 5 gives.
const QUANTISER: u8 = 24;
/// A frame that needs no other comes this often.
const WHOLE_EVERY: u32 = 30;
/// Kinds of NAL units.
const SEQUENCE: u8 = 7;
const PICTURE: u8 = 8;

/// An encoder that writes a file.
pub(crate) struct Film {
    encoder: Encoder,
    size: (u32, u32),
    /// Length-prefixed NAL units, and whether the frame needs no other.
    frames: Vec<(Vec<u8>, bool)>,
    sequence: Vec<u8>,
    picture: Vec<u8>,
}

impl Film {
    /// # Errors
    /// A size that H.264 does not take.
    pub(crate) fn new(size: (u32, u32)) -> Result<Film> {
        let fits = |side: u32| (16..=4096).contains(&side) && side.is_multiple_of(2);
        ensure!(fits(size.0) && fits(size.1), "a film of {}x{} pixels: sides are even and 16 to 4096", size.0, size.1);
        let config = EncoderConfig::new()
            .rate_control_mode(RateControlMode::Off)
            .qp(QpRange::new(QUANTISER, QUANTISER))
            .skip_frames(false)
            .scene_change_detect(false)
            .intra_frame_period(IntraFramePeriod::from_num_frames(WHOLE_EVERY))
            .num_threads(1)
            .vui(VuiConfig::bt601());
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), config).context("the H.264 encoder")?;
        Ok(Film { encoder, size, frames: vec![], sequence: vec![], picture: vec![] })
    }

    /// Adds a picture: `3 * width * height` bytes RGB.
    ///
    /// # Errors
    /// The encoder gives nothing.
    pub(crate) fn add(&mut self, rgb: &[u8]) -> Result<()> {
        let dimensions = (self.size.0 as usize, self.size.1 as usize);
        let yuv = YUVBuffer::from_rgb8_source(RgbSliceU8::new(rgb, dimensions));
        let stream = self.encoder.encode(&yuv).context("the H.264 encoder")?.to_vec();
        let (mut sample, mut whole) = (Vec::new(), false);
        for unit in nal_units(&stream) {
            let start = unit.iter().position(|&byte| byte == 1).map_or(0, |at| at + 1);
            let unit = &unit[start..];
            match unit.first().map(|head| head & 31) {
                Some(SEQUENCE) => self.sequence = unit.to_vec(),
                Some(PICTURE) => self.picture = unit.to_vec(),
                Some(kind) => {
                    whole |= kind == 5;
                    sample.extend_from_slice(&(unit.len() as u32).to_be_bytes());
                    sample.extend_from_slice(unit);
                }
                None => {}
            }
        }
        ensure!(!sample.is_empty(), "the H.264 encoder left a frame out");
        self.frames.push((sample, whole));
        Ok(())
    }

    /// # Errors
    /// The file cannot be written.
    pub(crate) fn save(self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("`{}` cannot be written", path.display()))?;
        self.mux(file).with_context(|| format!("`{}` cannot be written", path.display()))
    }

    fn mux(self, file: File) -> Result<()> {
        let brand = |name: &str| name.parse().expect("four letters are a brand");
        let config = Mp4Config {
            major_brand: brand("isom"),
            minor_version: 512,
            compatible_brands: ["isom", "iso2", "avc1", "mp41"].map(brand).to_vec(),
            timescale: FPS,
        };
        let mut writer = Mp4Writer::write_start(BufWriter::new(file), &config)?;
        let avc =
            AvcConfig { width: self.size.0 as u16, height: self.size.1 as u16, seq_param_set: self.sequence, pic_param_set: self.picture };
        let track =
            TrackConfig { track_type: TrackType::Video, timescale: FPS, language: "und".into(), media_conf: MediaConfig::AvcConfig(avc) };
        writer.add_track(&track)?;
        for (number, (bytes, is_sync)) in self.frames.into_iter().enumerate() {
            let sample = Mp4Sample { start_time: number as u64, duration: 1, rendering_offset: 0, is_sync, bytes: Bytes::from(bytes) };
            writer.write_sample(1, &sample)?;
        }
        writer.write_end()?;
        std::io::Write::flush(&mut writer.into_writer())?;
        Ok(())
    }
}

/// What a film's head says: width, height, frames.
///
/// # Errors
/// No MP4 with a video in it.
pub(crate) fn facts(path: &Path) -> Result<(u32, u32, u32)> {
    let (reader, track) = open(path)?;
    let video = &reader.tracks()[&track];
    Ok((u32::from(video.width()), u32::from(video.height()), video.sample_count()))
}

fn open(path: &Path) -> Result<(Mp4Reader<BufReader<File>>, u32)> {
    let wrong = || format!("`{}` is no MP4 with a video in it", path.display());
    let file = File::open(path).with_context(wrong)?;
    let size = file.metadata().with_context(wrong)?.len();
    let reader = Mp4Reader::read_header(BufReader::new(file), size).with_context(wrong)?;
    let video = reader.tracks().iter().find(|(_, track)| matches!(track.track_type(), Ok(TrackType::Video)));
    let track = video.map(|(number, _)| *number).with_context(wrong)?;
    Ok((reader, track))
}

/// Decodes a film: RGB of every frame, given to `see`. Returns how many there are.
///
/// # Errors
/// A film that is not H.264, or is broken.
pub(crate) fn decode(path: &Path, mut see: impl FnMut(&[u8])) -> Result<u32> {
    let (mut reader, track) = open(path)?;
    let (count, size) = {
        let video = &reader.tracks()[&track];
        let head = |bytes: &[u8]| [&[0, 0, 0, 1], bytes].concat();
        let sets = [head(video.sequence_parameter_set()?), head(video.picture_parameter_set()?)].concat();
        (video.sample_count(), (sets, usize::from(video.width()) * usize::from(video.height())))
    };
    let (sets, pixels) = size;
    ensure!(pixels <= 1 << 25, "`{}` claims {pixels} pixels a frame", path.display());
    let mut decoder = Decoder::new()?;
    decoder.decode(&sets)?;
    let mut rgb = vec![0; 3 * pixels];
    let mut seen = 0;
    for number in 1..=count {
        let Some(sample) = reader.read_sample(track, number)? else { bail!("`{}` ends before frame {number}", path.display()) };
        let picture = decoder.decode(&annex_b(&sample.bytes)?).with_context(|| format!("`{}`, frame {number}", path.display()))?;
        if let Some(picture) = picture {
            let (width, height) = picture.dimensions();
            ensure!(width * height == pixels, "`{}` shows {width}x{height} pixels, its head says otherwise", path.display());
            picture.write_rgb8(&mut rgb);
            see(&rgb);
            seen += 1;
        }
    }
    Ok(seen)
}

/// Start codes in place of lengths.
fn annex_b(mut sample: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(sample.len());
    while let Some((length, rest)) = sample.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        ensure!(length <= rest.len(), "a frame is cut short");
        out.extend_from_slice(&[0, 0, 0, 1]);
        out.extend_from_slice(&rest[..length]);
        sample = &rest[length..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_film_has_a_frame_for_each_picture_and_looks_like_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4");
        let size = (96, 64);
        let mut film = Film::new(size).unwrap();
        // A square that walks over a slope.
        let picture = |at: usize| -> Vec<u8> {
            (0..96 * 64)
                .flat_map(|n| {
                    let (x, y) = (n % 96, n / 96);
                    if x / 16 == at % 6 && y > 20 && y < 40 { [220, 40, 40] } else { [(2 * x) as u8, (3 * y) as u8, 90] }
                })
                .collect()
        };
        let pictures: Vec<Vec<u8>> = (0..40).map(picture).collect();
        pictures.iter().for_each(|rgb| film.add(rgb).unwrap());
        film.save(&path).unwrap();
        assert_eq!(facts(&path).unwrap(), (96, 64, 40));
        let mut at = 0;
        let seen = decode(&path, |rgb| {
            let off: u64 = rgb.iter().zip(&pictures[at]).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = off as f64 / rgb.len() as f64;
            assert!(mean < 6.0, "frame {at} is off by {mean} of 255 on average");
            at += 1;
        });
        assert_eq!(seen.unwrap(), 40);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..100]).unwrap();
        assert!(facts(&path).unwrap_err().to_string().contains("a.mp4"));
        assert!(Film::new((95, 64)).is_err());
    }
}
