//! Files that are not what they should be: each is named, and nothing is read of it.

use super::{all, end, ends, run};
use crate::{Error, FileEntry, Kind, Reader, Store, Writer};
use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use schemas::{EpisodeId, Split};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A store with one commit in a folder; its file of trajectories.
async fn committed(folder: &Path) -> (Store, FileEntry, PathBuf) {
    let store = Store::open(&folder.display().to_string(), "r").unwrap();
    let entry = Writer::open(store.clone(), "w").await.unwrap().commit(&ends(Split::Train, 0..4), 1).await.unwrap().unwrap();
    let file = entry.files[0].clone();
    let path = folder.join(&file.path);
    (store, file, path)
}

/// Puts other bytes in a file's place, with the manifest's knowledge of its size.
fn disguise(folder: &Path, file: &FileEntry, bytes: &[u8]) {
    std::fs::write(folder.join(&file.path), bytes).unwrap();
    let manifest = folder.join("manifest/r/00000000.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace(&format!("\"bytes\":{}", file.bytes), &format!("\"bytes\":{}", bytes.len()))).unwrap();
}

async fn refusal(store: &Store) -> Error {
    let reader = Reader::over(store.clone()).await.unwrap();
    let file = reader.files(Kind::Trajectories).next().unwrap().clone();
    let error = reader.file_summaries(&file).await.unwrap_err();
    assert_eq!(reader.check(&file).await.unwrap_err().to_string(), error.to_string());
    assert!(error.to_string().contains(&file.path) && !error.to_string().contains('\n'), "{error}");
    error
}

/// The columns of a real file, with other key-value metadata.
fn written(batches: &[RecordBatch], metadata: &[(&str, &str)]) -> Vec<u8> {
    let pairs = metadata.iter().map(|(k, v)| KeyValue::new(k.to_string(), v.to_string())).collect();
    let properties = WriterProperties::builder().set_key_value_metadata(Some(pairs)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (store, file, path) = committed(folder.path()).await;
        let whole = std::fs::read(&path).unwrap();
        for keep in [0, 3, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..keep]).unwrap();
            assert!(matches!(refusal(&store).await, Error::Malformed { reason, .. } if reason.contains("cut short")));
            // The same where the manifest is none the wiser.
            disguise(folder.path(), &file, &whole[..keep]);
            assert!(matches!(refusal(&store).await, Error::Malformed { .. }), "{keep} bytes");
            disguise(folder.path(), &FileEntry { bytes: keep as u64, ..file.clone() }, &whole);
        }
        assert_eq!(all(&store).await.len(), 4);
    });
}

#[test]
fn a_changed_byte_is_found_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (store, file, path) = committed(folder.path()).await;
        let reader = Reader::over(store).await.unwrap();
        reader.verify(&file).await.unwrap();
        reader.check(&file).await.unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(97) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            let error = reader.verify(&file).await.unwrap_err().to_string();
            assert!(error.contains(&file.path) && error.contains("a byte of it has changed"), "{error}");
        }
    });
}

#[test]
fn a_foreign_parquet_file_is_no_file_of_a_store() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (store, file, _) = committed(folder.path()).await;
        let column: ArrayRef = Arc::new(UInt64Array::from(vec![1, 2, 3, 4]));
        let foreign = written(&[RecordBatch::try_from_iter([("episode", column)]).unwrap()], &[]);
        disguise(folder.path(), &file, &foreign);
        assert!(matches!(refusal(&store).await, Error::Malformed { reason, .. } if reason.contains("no file of a trajectory store")));
    });
}

#[test]
fn a_missing_column_is_named_and_a_newer_schema_too() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (store, file, _) = committed(folder.path()).await;
        let made: Vec<_> = ends(Split::Train, 0..4);
        let batches = crate::build::trajectories(&made.iter().collect::<Vec<_>>()).unwrap();
        let without = |name: &str| {
            let kept: Vec<usize> = (0..batches[0].num_columns()).filter(|at| batches[0].schema().field(*at).name() != name).collect();
            vec![batches[0].project(&kept).unwrap()]
        };
        let bytes = written(&without("reason"), &[("errand.schema", "2")]);
        disguise(folder.path(), &file, &bytes);
        assert!(matches!(refusal(&store).await, Error::Malformed { reason, .. } if reason == "it has no column `reason`"));
        let size = bytes.len() as u64;
        let newer = written(&batches, &[("errand.schema", "7")]);
        disguise(folder.path(), &FileEntry { bytes: size, ..file.clone() }, &newer);
        assert!(matches!(refusal(&store).await, Error::Schema { found: 7, known: 2, .. }));
    });
}

#[test]
fn a_store_of_the_first_schema_reads_and_can_be_written_on() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (store, file, _) = committed(folder.path()).await;
        let made: Vec<_> = ends(Split::Train, 0..4);
        let batches = crate::build::trajectories(&made.iter().collect::<Vec<_>>()).unwrap();
        let kept: Vec<usize> = (0..batches[0].num_columns()).filter(|at| batches[0].schema().field(*at).name() != "level").collect();
        let old = written(&[batches[0].project(&kept).unwrap()], &[("errand.schema", "1"), ("errand.run", "r")]);
        disguise(folder.path(), &file, &old);
        let manifest = folder.path().join("manifest/r/00000000.json");
        let text = std::fs::read_to_string(&manifest).unwrap().replace("\"schema\":2", "\"schema\":1");
        let text = text.replace(&format!(",\"digest\":\"{}\"", file.digest), "");
        std::fs::write(&manifest, text).unwrap();
        assert_eq!(all(&store).await, made);
        let mut writer = Writer::open(store.clone(), "w2").await.unwrap();
        writer.commit(&[end(Split::Train, 9)], 2).await.unwrap();
        // Compaction brings old files to the present schema.
        let rule = crate::Compaction { at_least: 2, ..crate::Compaction::default() };
        writer.compact(rule, 3).await.unwrap().unwrap();
        assert_eq!(all(&store).await.len(), 5);
        let reader = Reader::over(store).await.unwrap();
        let file = reader.files(Kind::Trajectories).next().unwrap();
        assert!(reader.file_summaries(file).await.unwrap().iter().all(|row| !row.level.is_empty()));
    });
}

#[test]
fn one_episode_is_read_without_the_rest_of_its_file() {
    let store = super::memory();
    run(async {
        let mut many = ends(Split::Train, 0..400);
        for end in &mut many {
            end.turns[0].observation = "x".repeat(20_000);
        }
        Writer::open(store.clone(), "w").await.unwrap().commit(&many, 1).await.unwrap();
        let reader = Reader::over(store).await.unwrap();
        let file = reader.files(Kind::Turns).next().unwrap();
        let whole: usize = reader.rows_read(file, None).await;
        let one = reader.rows_read(file, Some(200)).await;
        assert_eq!(whole, 400);
        assert!(one < 120, "{one} of 400 rows were decoded for one episode");
        let id = EpisodeId { split: Split::Train, number: 200 };
        assert_eq!(reader.end(id).await.unwrap().as_ref(), Some(&many[200]));
    });
}
