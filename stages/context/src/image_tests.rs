use super::*;
use proptest::prelude::*;

#[test]
fn sizes_and_token_counts() {
    let settings = ImageSettings::default();
    // (height, width), resized, tokens.
    for ((height, width), resized, tokens) in [
        ((224, 224), (224, 224), 64),
        ((448, 448), (448, 448), 256),
        ((480, 640), (476, 644), 391),
        ((1080, 1920), (1092, 1932), 2691),
        ((512, 512), (504, 504), 324),
        // 70 / 28 = 2.5 goes to the even side, as does 42 / 28 = 1.5.
        ((70, 70), (56, 56), 4),
        ((42, 84), (56, 84), 6),
        // Under the least area.
        ((10, 10), (56, 56), 4),
        ((1, 100), (28, 560), 20),
    ] {
        assert_eq!(settings.smart_resize(height, width), Ok(resized), "{height} x {width}");
        let grid = settings.grid(height, width).expect("a size that fits");
        assert_eq!(settings.tokens(grid), tokens, "{height} x {width}");
        assert_eq!(tokens, grid.iter().product::<u32>() / 4);
    }
}

#[test]
fn too_large_a_picture_is_made_smaller() {
    let settings = ImageSettings { max_pixels: 28 * 28 * 100, ..ImageSettings::default() };
    let (height, width) = settings.smart_resize(1000, 2000).expect("a size that fits");
    assert!(u64::from(height) * u64::from(width) <= settings.max_pixels);
    assert_eq!((height, width), (196, 392));
}

#[test]
fn sizes_that_are_refused() {
    let settings = ImageSettings::default();
    for (height, width) in [(0, 10), (10, 0), (1, 201), (1000, 4)] {
        assert!(settings.smart_resize(height, width).is_err(), "{height} x {width}");
    }
}

#[test]
fn settings_are_read_in_both_spellings() {
    let flat = ImageSettings::from_json(br#"{"min_pixels": 784, "max_pixels": 78400, "patch_size": 14, "merge_size": 2}"#).unwrap();
    let sized = ImageSettings::from_json(br#"{"size": {"shortest_edge": 784, "longest_edge": 78400}}"#).unwrap();
    assert_eq!(flat, sized);
    assert_eq!(flat.digest(), sized.digest());
    assert_ne!(flat.digest(), ImageSettings::default().digest());
    assert_eq!(ImageSettings::from_json(b"{}").unwrap(), ImageSettings::default());
    for wrong in [
        "[]",
        r#"{"patch_size": 0}"#,
        r#"{"max_pixels": 10}"#,
        r#"{"max_pixels": 99999999999999}"#,
        r#"{"min_pixels": 9999999, "max_pixels": 999}"#,
    ] {
        assert!(matches!(ImageSettings::from_json(wrong.as_bytes()), Err(Error::ImageSettings(_))), "{wrong}");
    }
}

#[test]
fn png_headers() {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 384, 224);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&vec![0; 384 * 224 * 3]).unwrap();
    assert_eq!(png_size(&bytes), Ok((384, 224)));
    assert_eq!(png_size(&bytes[..24]), Ok((384, 224)));
    for wrong in [&bytes[..23], &bytes[1..], b"", b"GIF89a, or any text that is long enough"] {
        assert!(png_size(wrong).is_err());
    }
}

proptest! {
    /// Sides are whole tokens, the area is within the bounds, and the grid counts the tokens.
    #[test]
    fn resized_pictures_are_whole_tokens(height in 1u32..4000, width in 1u32..4000, greatest in 3136u64..2_000_000) {
        let settings = ImageSettings { max_pixels: greatest, ..ImageSettings::default() };
        if let Ok((h, w)) = settings.smart_resize(height, width) {
            prop_assert!(h % 28 == 0 && w % 28 == 0 && h > 0 && w > 0);
            let grid = settings.grid(height, width).unwrap();
            prop_assert_eq!(settings.tokens(grid), (h / 28) * (w / 28));
            // A side of one token cannot shrink further, so only then may the area be over its bound.
            prop_assert!(u64::from(h) * u64::from(w) <= greatest || h == 28 || w == 28);
        } else {
            prop_assert!(height.max(width) > 200 * height.min(width));
        }
    }

    #[test]
    fn any_bytes_are_read_as_a_header(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = png_size(&bytes);
    }
}
