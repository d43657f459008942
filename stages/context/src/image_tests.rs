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

/// The picture that `tests/parity/images.py` makes of the same numbers.
fn drawn(number: u64, width: u32, height: u32) -> Rgb {
    let level = |y: u64, x: u64, c: u64| {
        let mut mixed = (x * 374_761_393 + y * 668_265_263 + c * 2_246_822_519 + number * 3_266_489_917) & 0xffff_ffff;
        mixed ^= mixed >> 13;
        let noise = ((mixed * 1_274_126_177) & 0xffff_ffff) >> 24;
        (match number % 3 {
            0 => noise,
            1 => (3 * x + 2 * y + 40 * c + (noise >> 4)) & 255,
            _ => (((x / 7) ^ (y / 5)) & 1) * (200 + 20 * c),
        }) as u8
    };
    let (w, h) = (u64::from(width), u64::from(height));
    let pixels = (0..h).flat_map(|y| (0..w).flat_map(move |x| (0..3).map(move |c| level(y, x, c)))).collect();
    Rgb { width, height, pixels }
}

#[test]
fn pictures_are_cut_as_transformers_cuts_them_over_pillow() {
    #[derive(Deserialize)]
    struct File {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        number: u64,
        width: u32,
        height: u32,
        min_pixels: u64,
        max_pixels: u64,
        grid: [u32; 3],
        crc: u32,
    }
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/images.json");
    let path = std::env::var("ERRAND_PARITY_IMAGES").unwrap_or_else(|_| committed.into());
    let file: File = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(!file.cases.is_empty());
    for case in file.cases {
        let settings = ImageSettings { min_pixels: case.min_pixels, max_pixels: case.max_pixels, ..ImageSettings::default() };
        let patches = settings.patches(&drawn(case.number, case.width, case.height)).unwrap();
        let about = format!("picture {} of {} x {}", case.number, case.width, case.height);
        assert_eq!(patches.grid, case.grid, "{about}");
        let levels = settings.levels();
        let mut sum = flate2::Crc::new();
        for patch in patches.bytes.chunks_exact(3 * 14 * 14) {
            for (channel, levels) in patch.chunks_exact(14 * 14).zip(&levels) {
                let rows: Vec<u8> = channel.iter().flat_map(|level| levels[*level as usize].to_le_bytes()).collect();
                // A still picture is both frames of its patches.
                sum.update(&rows);
                sum.update(&rows);
            }
        }
        assert_eq!(sum.sum(), case.crc, "{about}");
    }
}

#[test]
fn pngs_of_every_kind_are_read_as_rgb() {
    use png::{BitDepth, ColorType};
    let encode = |color: ColorType, depth: BitDepth, data: &[u8]| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette(vec![1, 2, 3, 9, 8, 7]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        bytes
    };
    let read = |color, depth, data: &[u8]| Rgb::from_png(&encode(color, depth, data)).map(|picture| picture.pixels);
    assert_eq!(read(ColorType::Rgb, BitDepth::Eight, &[1, 2, 3, 4, 5, 6]).unwrap(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(read(ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 0, 4, 5, 6, 9]).unwrap(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(read(ColorType::Grayscale, BitDepth::Eight, &[7, 9]).unwrap(), [7, 7, 7, 9, 9, 9]);
    assert_eq!(read(ColorType::Grayscale, BitDepth::One, &[0b0100_0000]).unwrap(), [0, 0, 0, 255, 255, 255]);
    assert_eq!(read(ColorType::Indexed, BitDepth::Eight, &[1, 0]).unwrap(), [9, 8, 7, 1, 2, 3]);
    assert!(read(ColorType::Rgb, BitDepth::Sixteen, &[0; 12]).unwrap_err().contains("expected 8"));
    let whole = encode(ColorType::Rgb, BitDepth::Eight, &[1, 2, 3, 4, 5, 6]);
    let cut = Rgb::from_png(&whole[..whole.len() - 20]).unwrap_err();
    assert!(cut.contains("broken"), "{cut}");
    assert!(Rgb::from_png(b"not a picture").is_err());
    let thin = Rgb { width: 20_000, height: 2, pixels: vec![0; 120_000] };
    assert!(ImageSettings::default().patches(&thin).unwrap_err().contains("200 to 1"));
}

#[test]
fn other_processors_are_refused_by_name() {
    for (json, name) in [
        (r#"{"resample": 2}"#, "resample"),
        (r#"{"temporal_patch_size": 1}"#, "temporal_patch_size"),
        (r#"{"do_normalize": false}"#, "do_normalize"),
        (r#"{"rescale_factor": 1.0}"#, "rescale_factor"),
        (r#"{"image_std": [0.5, 0, 0.5]}"#, "image_std"),
    ] {
        let error = ImageSettings::from_json(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn pictures_of_one_size_are_those_of_siglips_and_dinov2s_processors() {
    #[derive(Deserialize)]
    struct File {
        fixed: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        number: u64,
        width: u32,
        height: u32,
        settings: serde_json::Value,
        crc: u32,
    }
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/images.json");
    let path = std::env::var("ERRAND_PARITY_IMAGES").unwrap_or_else(|_| committed.into());
    let file: File = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(file.fixed.len() > 40);
    for case in file.fixed {
        // With a patch of one pixel the patches are the picture's pixels, row by row, and nothing is left over.
        let settings = ImageSettings { patch: 1, ..ImageSettings::from_json(case.settings.to_string().as_bytes()).unwrap() };
        let patches = settings.patches(&drawn(case.number, case.width, case.height)).unwrap();
        let levels = settings.levels();
        let mut sum = flate2::Crc::new();
        for (channel, levels) in levels.iter().enumerate() {
            let plane = patches.bytes.iter().skip(channel).step_by(3);
            sum.update(&plane.flat_map(|level| levels[*level as usize].to_le_bytes()).collect::<Vec<u8>>());
        }
        assert_eq!(sum.sum(), case.crc, "picture {} of {} x {}: {}", case.number, case.width, case.height, case.settings);
    }
}

#[test]
fn sizes_of_encoders_are_read_and_cut_to_whole_patches() {
    let read = |json: &str| ImageSettings::from_json(json.as_bytes());
    let siglip = read(r#"{"size": {"height": 384, "width": 384}, "patch_size": 14}"#).unwrap();
    // 384 is 27 patches and 6 pixels.
    assert_eq!(siglip.grid(224, 396), Ok([1, 27, 27]));
    assert_eq!((siglip.tokens([1, 27, 27]), siglip.mean), (729, [0.5; 3]));
    let dinov2 = read(r#"{"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}"#).unwrap();
    assert_eq!(dinov2.grid(1000, 700), Ok([1, 16, 16]));
    assert_ne!(siglip.digest(), ImageSettings { fit: Fit::Area, ..siglip.clone() }.digest());
    assert!(dinov2.grid(1, 300).unwrap_err().contains("200 to 1"));
    assert!(siglip.grid(0, 300).is_err());
    for (json, name) in [
        (r#"{"size": {"height": 384}}"#, "size.width"),
        (r#"{"size": {"height": 0, "width": 3}}"#, "size.height"),
        (r#"{"size": {"shortest_edge": 100}, "crop_size": {"height": 224, "width": 224}}"#, "nothing is padded"),
        (r#"{"size": {"height": 384, "width": 384}, "merge_size": 2}"#, "merge_size"),
    ] {
        let error = read(json).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
