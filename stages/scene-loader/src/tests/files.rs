//! Houses from files: good ones are kept, bad ones named and skipped.

use crate::houses::{Error, read};
use household::generator::{HouseSplit, generate};
use schemas::pipeline::{EpisodesConfig, Pipeline};
use std::io::Write;
use std::path::{Path, PathBuf};

fn house(number: u64) -> String {
    String::from_utf8(generate(HouseSplit::Train, number).unwrap().to_json()).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(path: &Path) -> EpisodesConfig {
    EpisodesConfig { houses: path.display().to_string(), ..EpisodesConfig::default() }
}

fn folder(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let path = folder.path().to_path_buf();
    (folder, path)
}

#[test]
fn every_form_of_a_house_file_is_read() {
    let two = format!("{}\n\n{}\n", house(1), house(2));
    let list = format!("[{},\n{}]", house(3), house(4));
    let files = [
        ("a.jsonl", two.clone().into_bytes()),
        ("b.jsonl.gz", gzip(two.as_bytes())),
        ("c.json", house(5).into_bytes()),
        ("d.json.gz", gzip(list.as_bytes())),
        ("val.jsonl.gz", gzip(two.as_bytes())),
        ("notes.txt", b"not a house".to_vec()),
    ];
    let (_kept, path) = folder(&files);
    let found = read(&config(&path)).unwrap();
    let origins: Vec<&str> = found.houses.train.iter().map(|h| h.origin.as_str()).collect();
    assert_eq!(origins, ["a.jsonl:1", "a.jsonl:3", "b.jsonl.gz:1", "b.jsonl.gz:3", "c.json:1", "d.json.gz:1", "d.json.gz:2"]);
    assert_eq!((found.houses.held_out.len(), found.skipped), (2, 0));
    let one = read(&config(&path.join("val.jsonl.gz"))).unwrap();
    assert_eq!(one.houses.train.len(), 2, "a file that is named itself is trained in");
}

#[test]
fn bad_houses_are_named_with_their_line_and_skipped() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let good = house(1);
    let lines = [good.clone(), deep, good.replacen("\"walls\"", "\"wals\"", 1), "{".into(), good.clone()].join("\n");
    let mut cut = gzip(format!("{good}\n{}\n", house(2)).as_bytes());
    cut.truncate(cut.len() * 3 / 4);
    let (_kept, path) = folder(&[("a.jsonl", lines.into_bytes()), ("b.jsonl.gz", cut)]);
    let found = read(&config(&path)).unwrap();
    assert!(found.houses.train.len() >= 2 && found.skipped >= 4, "{:?}", found.named);
    for start in ["a.jsonl:2: ", "a.jsonl:3: ", "a.jsonl:4: ", "b.jsonl.gz:"] {
        assert!(found.named.iter().any(|line| line.starts_with(start)), "{start} is not among {:?}", found.named);
    }
    assert!(found.named[1].contains("walls"), "{:?}", found.named);
}

#[test]
fn none_left_is_an_error_with_the_first_reason() {
    let (_kept, path) = folder(&[("a.jsonl", b"{}\n[]\n".to_vec())]);
    let error = read(&config(&path)).unwrap_err();
    assert!(matches!(&error, Error::NoneLeft { skipped: 2, .. }), "{error}");
    assert!(error.to_string().contains("a.jsonl:1"));
    let (_kept, empty) = folder(&[]);
    assert!(matches!(read(&config(&empty)), Err(Error::Empty { .. })));
    let missing = read(&config(&empty.join("none.jsonl"))).unwrap_err().to_string();
    assert!(missing.contains("none.jsonl") && missing.contains("episodes.houses"), "{missing}");
}

#[test]
fn a_house_longer_than_the_bound_is_read_past_and_not_kept() {
    let mut bytes = vec![b' '; household::parse::MAX_BYTES + 10];
    bytes.push(b'\n');
    bytes.extend(house(1).bytes());
    let (_kept, path) = folder(&[("a.jsonl", gzip(&bytes))]);
    let found = read(&config(&path)).unwrap();
    assert_eq!((found.houses.train.len(), found.skipped), (1, 1));
    assert_eq!(found.houses.train[0].origin, "a.jsonl:2");
}

#[test]
fn without_a_file_houses_are_generated_and_tasks_may_be_frozen() {
    let (_kept, path) = folder(&[("tasks.jsonl", b"{\"a\":1}\n\n{\"a\":2}\n".to_vec())]);
    let config = EpisodesConfig { validation_file: path.join("tasks.jsonl").display().to_string(), ..EpisodesConfig::default() };
    let found = read(&config).unwrap();
    assert_eq!((found.houses.generated, found.houses.train.len(), found.houses.validation.len()), (512, 0, 2));
    let missing = EpisodesConfig { validation_file: "none.jsonl".into(), ..EpisodesConfig::default() };
    assert!(read(&missing).unwrap_err().to_string().contains("episodes.validation_file"));
}

/// The real ProcTHOR houses, where they lie beside the project.
#[test]
fn all_real_houses_load() {
    let shared = std::env::var("ERRAND_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared")).join("houses");
    if !shared.is_dir() {
        println!("skipped: there are no houses at {}", shared.display());
        return;
    }
    for folder in [shared.clone(), shared.join("objaverse")] {
        let mut found = crate::houses::Found::default();
        for name in ["train.jsonl.gz", "val.jsonl.gz"] {
            let one = read(&config(&folder.join(name))).unwrap();
            assert_eq!(one.skipped, 0, "{:?}", one.named);
            found.houses.train.extend(one.houses.train);
        }
        assert_eq!(found.houses.train.len(), 96);
    }
}

#[test]
fn groups_begin_on_the_experts_way_where_the_curriculum_asks_for_it_and_validation_does_not() {
    use crate::{plan::Rules, state::Order};
    let text = "name = \"p\"\nseed = 4\nschedule = []\nepisodes = { generated_houses = 8, validation = 4 }\n\
                world = { name = \"fetch\", settings = { curriculum = \"starts\" } }";
    let pipeline = Pipeline::parse(text).unwrap();
    let kind = crate::kind(&pipeline).unwrap();
    let rules = Rules::new(&pipeline, kind.buckets());
    assert!(rules.buckets.contains(&"arm-only".to_string()));
    let policy = schemas::PolicyPin::Latest;
    let group = |bucket: &str| Order::Group {
        group: 1,
        first: 0,
        size: 2,
        bucket: Some(bucket.into()),
        mode: schemas::Mode::Policy,
        policy,
        epoch: 1,
    };
    let has_arm = |planned: &crate::plan::Planned| String::from_utf8_lossy(&planned.episode.task).contains("\"arm\":");
    for bucket in ["arm-only", "reverse-10", "whole"] {
        let planned = rules.episodes(kind.as_ref(), &group(bucket)).unwrap();
        assert!(planned.len() == 2 && planned.iter().all(|planned| planned.episode.bucket == bucket), "{bucket}");
        assert_eq!(planned.iter().filter(|planned| has_arm(planned)).count(), if bucket == "whole" { 0 } else { 2 });
    }
    let pass = rules.episodes(kind.as_ref(), &Order::Pass { first: 0, count: 2, version: 1, epoch: 1 }).unwrap();
    assert!(!pass.iter().any(has_arm));
}
