//! What the tables hold, and what is said of a bad query or a bad file.

use crate::print::Form;
use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use datafusion::parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use datafusion::parquet::file::metadata::KeyValue;
use datafusion::parquet::file::properties::WriterProperties;
use schemas::{End, EpisodeId, Message, Split};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::{FileEntry, Store, Writer};

fn end(split: Split, number: u64) -> End {
    let mut end = End::example();
    end.episode.id = EpisodeId { split, number };
    end.success = number.is_multiple_of(2);
    end
}

/// Commits `count` episodes; the files.
async fn commit(folder: &Path, run: &str, split: Split, count: u64) -> Vec<FileEntry> {
    let ends: Vec<End> = (0..count).map(|number| end(split, number)).collect();
    let store = Store::open(&folder.display().to_string(), run).unwrap();
    let mut writer = Writer::open(store, &format!("w-{split}")).await.unwrap();
    writer.commit(&ends, 1).await.unwrap().unwrap().files
}

/// What a query prints, or the line with which it is refused.
async fn asked(folder: &Path, runs: &[&str], sql: &str, form: Form) -> Result<String, String> {
    let url = folder.display().to_string();
    let sources: Vec<(&str, &str)> = runs.iter().map(|run| (url.as_str(), *run)).collect();
    let mut text = Vec::new();
    match crate::answer(&sources, sql, form, &mut text).await {
        Ok(()) => Ok(String::from_utf8(text).unwrap()),
        Err(error) => Err(format!("{error:#}")).inspect_err(|line| assert!(!line.contains('\n'), "{line}")),
    }
}

async fn csv(folder: &Path, runs: &[&str], sql: &str) -> String {
    asked(folder, runs, sql, Form::Csv).await.unwrap()
}

#[tokio::test]
async fn tables_hold_what_is_committed_and_runs_and_splits_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    commit(folder.path(), "a", Split::Train, 4).await;
    commit(folder.path(), "a", Split::Val, 3).await;
    commit(folder.path(), "b", Split::Train, 7).await;
    // A file that no manifest lists does not count.
    let stray = folder.path().join("trajectories/run=a/split=train/stray.parquet");
    std::fs::write(stray, b"not even Parquet").unwrap();
    let runs = ["a", "b"];
    let sql = "select run, split, count(*) as n, sum(success::int) as s from trajectories group by run, split order by run, split";
    assert_eq!(csv(folder.path(), &runs, sql).await, "run,split,n,s\na,train,4,2\na,val,3,2\nb,train,7,4\n");
    assert_eq!(csv(folder.path(), &["b"], "select count(*) as n from trajectories").await, "n\n7\n");
    let turns = End::example().turns.len() as u64;
    let joined = "select count(*) as n from turns join trajectories using (run, id) where turns.split = trajectories.split";
    assert_eq!(csv(folder.path(), &runs, joined).await, format!("n\n{}\n", 14 * turns));
    let one = csv(folder.path(), &runs, "select id, \"return\", seed from trajectories where run = 'b' and episode = 5").await;
    let wanted = end(Split::Train, 5);
    assert_eq!(one, format!("id,return,seed\ntrain.5,{:?},{}\n", wanted.total_reward(), wanted.episode.seed));
}

#[tokio::test]
async fn rows_come_as_a_table_csv_or_json_also_where_there_are_none() {
    let folder = tempfile::tempdir().unwrap();
    commit(folder.path(), "a", Split::Train, 2).await;
    let sql = "select id, scene is null as bare, steps * 0 as zero from trajectories order by id";
    let table = asked(folder.path(), &["a"], sql, Form::Table).await.unwrap();
    assert!(table.contains("| id ") && table.contains("| train.1 |"), "{table}");
    let json = asked(folder.path(), &["a"], "select id, null as nothing from trajectories order by id", Form::Json).await.unwrap();
    assert_eq!(json, "{\"id\":\"train.0\",\"nothing\":null}\n{\"id\":\"train.1\",\"nothing\":null}\n");
    let none = "select id, steps from trajectories where steps > 1000000";
    assert_eq!(csv(folder.path(), &["a"], none).await, "id,steps\n");
    assert_eq!(asked(folder.path(), &["a"], none, Form::Json).await.unwrap(), "");
    assert!(asked(folder.path(), &["a"], none, Form::Table).await.unwrap().contains("| id | steps |"));
    let nested = asked(folder.path(), &["a"], "select executed from turns", Form::Csv).await.unwrap_err();
    assert!(nested.contains("--format json"), "{nested}");
    assert!(asked(folder.path(), &["a"], "select segments from trajectories", Form::Json).await.unwrap().contains("\"tokens\":["));
}

#[tokio::test]
async fn a_query_that_cannot_be_is_one_line_that_says_what_can() {
    let folder = tempfile::tempdir().unwrap();
    commit(folder.path(), "a", Split::Train, 1).await;
    let cases = [
        ("select nothing from trajectories", "nothing"),
        ("select 1 from episodes", "hint: the tables are `trajectories` and `turns`"),
        ("selct 1", "selct"),
        ("", ""),
        ("drop table turns", "only read"),
        ("insert into turns values (1)", ""),
        ("copy turns to 'turns.parquet'", "only read"),
        ("create external table x stored as parquet location '/etc'", "only read"),
        ("select id / 'x' from trajectories", ""),
    ];
    for (sql, part) in cases {
        let line = asked(folder.path(), &["a"], sql, Form::Table).await.unwrap_err();
        assert!(line.contains(part) && !line.is_empty(), "{sql}: {line}");
    }
    let nothing = asked(folder.path(), &["none"], "select 1", Form::Table).await.unwrap_err();
    assert!(nothing.contains("no run holds a trajectory"), "{nothing}");
    let missing = asked(&folder.path().join("missing"), &["a"], "select 1", Form::Table).await.unwrap_err();
    assert!(missing.contains("no such folder"), "{missing}");
}

/// Has the manifest take other bytes for a file.
fn disguise(folder: &Path, file: &FileEntry, bytes: &[u8], changes: &[(&str, &str)]) {
    std::fs::write(folder.join(&file.path), bytes).unwrap();
    let manifest = folder.join("manifest/r/00000000.json");
    let mut text = std::fs::read_to_string(&manifest).unwrap();
    text = text.replace(&format!("\"bytes\":{}", file.bytes), &format!("\"bytes\":{}", bytes.len()));
    for (from, to) in changes {
        assert!(text.contains(from), "{from} in {text}");
        text = text.replace(from, to);
    }
    std::fs::write(&manifest, text).unwrap();
}

fn parquet(batches: &[RecordBatch], metadata: &[(&str, &str)]) -> Vec<u8> {
    let pairs = metadata.iter().map(|(key, value)| KeyValue::new(key.to_string(), value.to_string())).collect();
    let properties = WriterProperties::builder().set_key_value_metadata(Some(pairs)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

async fn four(folder: &Path) -> (FileEntry, PathBuf) {
    let file = commit(folder, "r", Split::Train, 4).await.swap_remove(0);
    let path = folder.join(&file.path);
    (file, path)
}

#[tokio::test]
async fn a_column_that_an_older_file_lacks_is_null_there() {
    let folder = tempfile::tempdir().unwrap();
    let (file, path) = four(folder.path()).await;
    let opened = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = opened.map(Result::unwrap).collect();
    let kept: Vec<usize> = (0..batches[0].num_columns()).filter(|at| batches[0].schema().field(*at).name() != "level").collect();
    let old: Vec<RecordBatch> = batches.iter().map(|batch| batch.project(&kept).unwrap()).collect();
    let old = parquet(&old, &[("errand.schema", "1"), ("errand.run", "r")]);
    let digest = format!(",\"digest\":\"{}\"", file.digest);
    disguise(folder.path(), &file, &old, &[("\"schema\":2", "\"schema\":1"), (&digest, "")]);
    commit(folder.path(), "new", Split::Train, 3).await;
    let sql = "select run, count(*) as n, count(level) as told from trajectories group by run order by run";
    assert_eq!(csv(folder.path(), &["r", "new"], sql).await, "run,n,told\nnew,3,3\nr,4,0\n");
}

#[tokio::test]
async fn a_foreign_a_truncated_and_a_changed_file_are_named() {
    let sql = "select count(distinct id) as n, max(note) as said from trajectories";
    let folder = tempfile::tempdir().unwrap();
    let (file, path) = four(folder.path()).await;
    let whole = std::fs::read(&path).unwrap();
    for keep in [0, 3, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..keep]).unwrap();
        let line = asked(folder.path(), &["r"], sql, Form::Table).await.unwrap_err();
        assert!(line.contains(&file.path) && line.contains("cut short"), "{line}");
    }
    // Every byte of the data pages: either the rows are as before or the file is named.
    std::fs::write(&path, &whole).unwrap();
    let right = csv(folder.path(), &["r"], sql).await;
    let mut found = 0;
    for at in (4..whole.len()).step_by(211) {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        std::fs::write(&path, &changed).unwrap();
        if let Err(line) = asked(folder.path(), &["r"], "select * from trajectories", Form::Json).await {
            assert!(line.contains(&file.path), "{line}");
            found += 1;
        }
    }
    assert!(found > 0);
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(csv(folder.path(), &["r"], sql).await, right);
    let column: ArrayRef = Arc::new(UInt64Array::from(vec![1, 2, 3, 4]));
    let foreign = parquet(&[RecordBatch::try_from_iter([("episode", column)]).unwrap()], &[]);
    disguise(folder.path(), &file, &foreign, &[]);
    let line = asked(folder.path(), &["r"], sql, Form::Table).await.unwrap_err();
    assert!(line.contains(&file.path) && line.contains("no file of a trajectory store"), "{line}");
    std::fs::remove_file(&path).unwrap();
    let line = asked(folder.path(), &["r"], sql, Form::Table).await.unwrap_err();
    assert!(line.contains(&file.path) && line.contains("not there"), "{line}");
}
