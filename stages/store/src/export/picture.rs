//! What a picture says of itself before anything decodes it.

use super::export;
use crate::Error;
use schemas::Frame;
use std::path::Path;

/// Pixels that a picture may have. A file of a few bytes can claim billions, which a reader would make room for.
const MOST_PIXELS: u64 = 1 << 25;
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Width and height by a PNG's header; `None` where it has none.
fn size(png: &[u8]) -> Option<(u32, u32)> {
    let header = png.strip_prefix(SIGNATURE)?.get(4..16)?.strip_prefix(b"IHDR")?;
    let number = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    Some((number(0)?, number(4)?))
}

/// Refuses a picture that is no PNG, is not of the size that its record says, or would take too much room.
pub(super) fn check(frame: &Frame) -> Result<(), Error> {
    let wrong = |reason: String| Err(export(Path::new(&format!("{}.png", frame.digest)), reason));
    let Some((width, height)) = size(&frame.png) else { return wrong("it is no PNG".into()) };
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return wrong(format!("it claims {width}x{height} pixels, allowed are {MOST_PIXELS} in all"));
    }
    if (width, height) != (frame.width, frame.height) {
        return wrong(format!("it has {width}x{height} pixels, its record says {}x{}", frame.width, frame.height));
    }
    Ok(())
}

/// A PNG's beginning, for tests.
#[cfg(test)]
pub(super) fn header(width: u32, height: u32) -> Vec<u8> {
    [SIGNATURE, &[0, 0, 0, 13], b"IHDR", &width.to_be_bytes(), &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(png: Vec<u8>, width: u32, height: u32) -> Frame {
        Frame { digest: "d".into(), png, width, height, camera: "c".into() }
    }

    #[test]
    fn a_bomb_a_stranger_and_a_changed_size_are_refused() {
        check(&frame(header(384, 224), 384, 224)).unwrap();
        let said = |frame: &Frame| check(frame).unwrap_err().to_string();
        assert!(said(&frame(header(100_000, 100_000), 100_000, 100_000)).contains("claims 100000x100000"));
        assert!(said(&frame(header(384, 225), 384, 224)).contains("its record says 384x224"));
        assert!(said(&frame(b"GIF89a".to_vec(), 1, 1)).contains("no PNG"));
        assert!(said(&frame(header(1, 1)[..15].to_vec(), 1, 1)).contains("no PNG"));
    }
}
