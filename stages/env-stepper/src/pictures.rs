//! A picture becomes a frame: encoded once, losslessly, named by the digest of its bytes.

use schemas::Frame;
use worlds::Picture;

/// Encodes a picture as PNG.
///
/// # Errors
/// The camera and what is wrong, where the pixels do not fill the picture.
pub fn encode(picture: &Picture) -> Result<Frame, String> {
    let Picture { camera, width, height, rgb } = picture;
    let wrong = |what: String| format!("camera `{camera}`, {width}x{height}: {what}");
    let mut png = Vec::with_capacity(rgb.len() / 4 + 1024);
    let mut encoder = png::Encoder::new(&mut png, *width, *height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().map_err(|e| wrong(e.to_string()))?;
    writer.write_image_data(rgb).map_err(|e| wrong(e.to_string()))?;
    writer.finish().map_err(|e| wrong(e.to_string()))?;
    Ok(Frame { digest: schemas::digest_of(&png), png, width: *width, height: *height, camera: camera.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_pixels_come_back() {
        let rgb: Vec<u8> = (0..3 * 16 * 9).map(|i| (i * 7 % 251) as u8).collect();
        let picture = Picture { camera: "navigation", width: 16, height: 9, rgb: rgb.clone() };
        let frame = encode(&picture).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&frame.png)).read_info().unwrap();
        let mut decoded = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut decoded).unwrap();
        assert_eq!((info.width, info.height, decoded), (16, 9, rgb));
        assert_eq!(encode(&picture).unwrap(), frame);
        let short = Picture { rgb: vec![0; 5], ..picture };
        assert!(encode(&short).unwrap_err().contains("navigation"));
    }
}
