//! Each format against itself; `tests/parity/open_export.py` opens them with the libraries that they are for.

use super::picture::header;
use super::{Dataset, Format, Plan, Sample, Shot, Step};
use schemas::{End, EpisodeId, Frame, Message, Split};

fn sample(number: u64, pictures: bool) -> Sample {
    let mut end = End::example();
    end.episode.id = EpisodeId { split: Split::Expert, number };
    end.success = true;
    let shot = Shot { camera: "grid".into(), width: 1, height: 1, rgb: vec![9, 8, 7], png: header(1, 1) };
    if pictures {
        end.turns[0].frames = vec!["d".into()];
        end.turns[0].observation = "<image>\nGo.".into();
        end.frames = vec![Frame { digest: "d".into(), png: header(1, 1), width: 1, height: 1, camera: "grid".into() }];
    }
    let step = Step {
        pictures: if pictures { vec![shot] } else { vec![] },
        action: 2,
        reward: 1.0,
        worked: true,
        state: vec![("x".into(), 0.5), ("y".into(), 1.5)],
    };
    let split = if number.is_multiple_of(4) { "val" } else { "train" };
    Sample { end, split: split.into(), system: "Rules.".into(), instruction: "Fetch it.".into(), steps: vec![step; 3] }
}

#[test]
fn every_format_writes_its_files_and_a_card_that_counts_them() {
    for pictures in [false, true] {
        for format in Format::ALL {
            let folder = tempfile::tempdir().unwrap();
            let at = folder.path().join("set");
            let plan = Plan { run: "r".into(), world: "w".into(), actions: vec!["a".into()], pictures };
            let mut dataset = Dataset::create(&at, format, plan).unwrap();
            (0..8).for_each(|number| dataset.add(&sample(number, pictures)).unwrap());
            let card = dataset.finish("errand export r").unwrap();
            assert_eq!((card.splits["train"].trajectories, card.splits["val"].trajectories), (6, 2));
            for (file, rows) in &card.files {
                assert!(at.join(file).is_file() && *rows > 0, "{file}");
            }
            let text = std::fs::read_to_string(at.join("README.md")).unwrap();
            assert!(text.contains("errand export r") && text.contains("| train | 6 |"), "{text}");
        }
    }
}

#[test]
fn what_is_there_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x"), b"mine").unwrap();
    let error = Dataset::create(folder.path(), Format::Verl, Plan::default()).err().unwrap().to_string();
    assert!(error.contains("not empty"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_text_that_shows_another_number_of_pictures_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan { pictures: true, ..Plan::default() };
    let mut dataset = Dataset::create(&folder.path().join("s"), Format::Messages, plan).unwrap();
    let mut bad = sample(3, true);
    bad.end.turns[0].observation = "nothing".into();
    let error = dataset.add(&bad).unwrap_err().to_string();
    assert!(error.contains("expert.3 turn 0") && error.contains("0 `<image>` for 1"), "{error}");
}
