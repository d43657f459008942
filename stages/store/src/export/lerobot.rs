//! LeRobot v3.0: one row a primitive step, many episodes a file, each split a dataset of its own.
//!
//! A row holds what is seen before the action, the action, and what came of it. Pictures are of dtype `image`, lossless, in
//! the rows themselves. A step has no duration here: one a second is said, so that timestamps count steps.

use super::table::{Table, hugging_face, image_type, images, nullable, texts};
use super::{Plan, Sample, Step, Write, export, write};
use crate::Error;
use crate::export::stats::Stats;
use arrow::array::{ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const VERSION: &str = "v3.0";
const FPS: u64 = 1;
const FILES_A_CHUNK: u64 = 1000;
/// A data file is closed when it has this many bytes of pictures.
const FILE_BYTES: usize = 100 << 20;
/// Steps that are written at once.
const ROWS: usize = 64;
const SCALARS: [(&str, &str); 8] = [
    ("action", "int64"),
    ("next.reward", "float32"),
    ("next.success", "bool"),
    ("next.done", "bool"),
    ("frame_index", "int64"),
    ("episode_index", "int64"),
    ("index", "int64"),
    ("task_index", "int64"),
];

/// The datasets of all splits.
pub(super) struct LeRobot {
    folder: PathBuf,
    plan: Plan,
    splits: BTreeMap<String, Set>,
}

impl LeRobot {
    pub(super) fn new(folder: &Path, plan: &Plan) -> Result<LeRobot, Error> {
        Ok(LeRobot { folder: folder.into(), plan: plan.clone(), splits: BTreeMap::new() })
    }
}

impl Write for LeRobot {
    fn add(&mut self, sample: &Sample) -> Result<(), Error> {
        if sample.steps.is_empty() {
            return Ok(());
        }
        if !self.splits.contains_key(&sample.split) {
            let set = Set::new(&self.folder.join(&sample.split), &self.plan, &sample.steps[0]);
            self.splits.insert(sample.split.clone(), set);
        }
        self.splits.get_mut(&sample.split).expect("it was just put there").add(sample)
    }

    fn finish(self: Box<Self>) -> Result<Vec<(String, u64)>, Error> {
        let mut all = Vec::new();
        for (split, set) in self.splits {
            all.extend(set.finish()?.into_iter().map(|(name, rows)| (format!("{split}/{name}"), rows)));
        }
        Ok(all)
    }
}

/// One episode of a set.
struct Row {
    task: usize,
    length: u64,
    from: u64,
    file: u64,
    stats: BTreeMap<String, Stats>,
}

/// One dataset.
struct Set {
    folder: PathBuf,
    plan: Plan,
    /// Camera, width, height.
    cameras: Vec<(String, u32, u32)>,
    state: Vec<String>,
    tasks: Vec<String>,
    episodes: Vec<Row>,
    frames: u64,
    file: u64,
    file_bytes: usize,
    table: Option<Table>,
    files: Vec<(String, u64)>,
    stats: BTreeMap<String, Stats>,
}

impl Set {
    fn new(folder: &Path, plan: &Plan, first: &Step) -> Set {
        Set {
            folder: folder.into(),
            plan: plan.clone(),
            cameras: first.pictures.iter().map(|shot| (shot.camera.clone(), shot.width, shot.height)).collect(),
            state: first.state.iter().map(|(name, _)| name.clone()).collect(),
            tasks: vec![],
            episodes: vec![],
            frames: 0,
            file: 0,
            file_bytes: 0,
            table: None,
            files: vec![],
            stats: BTreeMap::new(),
        }
    }

    /// `(name, Hugging Face feature, Arrow type, LeRobot feature)`, in the order of the columns.
    fn columns(&self) -> Vec<(String, Value, DataType, Value)> {
        let value = |kind: &str| json!({ "dtype": kind, "_type": "Value" });
        let mut all = Vec::new();
        for (camera, width, height) in &self.cameras {
            let feature = json!({ "dtype": "image", "shape": [height, width, 3], "names": ["height", "width", "channels"] });
            all.push((format!("observation.images.{camera}"), json!({ "_type": "Image" }), image_type(), feature));
        }
        if !self.state.is_empty() {
            let width = self.state.len();
            let feature = json!({ "dtype": "float32", "shape": [width], "names": self.state });
            let kind = if width == 1 { DataType::Float32 } else { fixed(width) };
            let hugging =
                if width == 1 { value("float32") } else { json!({ "feature": value("float32"), "length": width, "_type": "List" }) };
            all.push(("observation.state".into(), hugging, kind, feature));
        }
        for (name, kind) in SCALARS {
            let arrow = match kind {
                "int64" => DataType::Int64,
                "bool" => DataType::Boolean,
                _ => DataType::Float32,
            };
            let names = if name == "action" { json!(["action"]) } else { Value::Null };
            all.push((name.into(), value(kind), arrow, json!({ "dtype": kind, "shape": [1], "names": names })));
        }
        let feature = json!({ "dtype": "float32", "shape": [1], "names": Value::Null });
        all.push(("timestamp".into(), value("float32"), DataType::Float32, feature));
        all
    }

    fn add(&mut self, sample: &Sample) -> Result<(), Error> {
        let task = match sample.instruction.as_str() {
            "" => &self.plan.world,
            told => told,
        };
        let task = self.tasks.iter().position(|known| known == task).unwrap_or_else(|| {
            self.tasks.push(task.to_string());
            self.tasks.len() - 1
        });
        if self.file_bytes >= FILE_BYTES {
            self.close_file()?;
        }
        let (episode, from) = (self.episodes.len() as u64, self.frames);
        let mut row = Row { task, length: sample.steps.len() as u64, from, file: self.file, stats: BTreeMap::new() };
        for (at, steps) in sample.steps.chunks(ROWS).enumerate() {
            let first = (at * ROWS) as u64;
            self.write_steps(sample, steps, first, episode, &mut row)?;
        }
        for (name, stats) in &row.stats {
            self.stats.entry(name.clone()).or_default().merge(stats);
        }
        self.frames += row.length;
        self.episodes.push(row);
        Ok(())
    }

    fn write_steps(&mut self, sample: &Sample, steps: &[Step], first: u64, episode: u64, row: &mut Row) -> Result<(), Error> {
        let last = row.length - 1;
        let mut columns: Vec<ArrayRef> = Vec::new();
        for (at, (camera, width, height)) in self.cameras.iter().enumerate() {
            let name = format!("observation.images.{camera}");
            let shots =
                steps.iter().map(|step| step.pictures.get(at).filter(|s| (&s.camera, s.width, s.height) == (camera, *width, *height)));
            let shots = shots.collect::<Option<Vec<_>>>();
            let shots = shots.ok_or_else(|| export(&self.folder, format!("{}: a step lacks camera `{camera}`", sample.end.id())))?;
            let stats = row.stats.entry(name).or_default();
            shots.iter().for_each(|shot| stats.add_pixels(&shot.rgb));
            self.file_bytes += shots.iter().map(|shot| shot.png.len()).sum::<usize>();
            let place = |n: usize| format!("{camera}-{episode:06}-{:06}.png", first + n as u64);
            let pngs: Vec<(&[u8], String)> = shots.iter().enumerate().map(|(n, shot)| (shot.png.as_slice(), place(n))).collect();
            columns.push(images(&pngs));
        }
        if !self.state.is_empty() {
            let values: Vec<f32> = steps.iter().flat_map(|step| step.state.iter().map(|(_, value)| *value)).collect();
            let stats = row.stats.entry("observation.state".into()).or_default();
            values.chunks(self.state.len()).for_each(|row| stats.add(&row.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()));
            let flat: ArrayRef = Arc::new(Float32Array::from(values));
            columns.push(if self.state.len() == 1 { flat } else { fixed_lists(self.state.len(), flat) });
        }
        let frames: Vec<u64> = (first..first + steps.len() as u64).collect();
        let each = |of: &dyn Fn(&Step, u64) -> f64| steps.iter().zip(&frames).map(|(step, n)| of(step, *n)).collect::<Vec<f64>>();
        let (from, task) = (row.from, row.task as f64);
        let success = sample.end.success;
        for (name, kind) in SCALARS.into_iter().chain([("timestamp", "float32")]) {
            let values = match name {
                "action" => each(&|step, _| f64::from(step.action)),
                "next.reward" => each(&|step, _| f64::from(step.reward)),
                "next.success" => each(&|_, n| f64::from(u8::from(n == last && success))),
                "next.done" => each(&|_, n| f64::from(u8::from(n == last))),
                "frame_index" => each(&|_, n| n as f64),
                "episode_index" => each(&|_, _| episode as f64),
                "index" => each(&|_, n| (from + n) as f64),
                "task_index" => each(&|_, _| task),
                _ => each(&|_, n| n as f64 / FPS as f64),
            };
            let stats = row.stats.entry(name.into()).or_default();
            values.iter().for_each(|value| stats.add(&[*value]));
            columns.push(match kind {
                "int64" => Arc::new(Int64Array::from_iter_values(values.iter().map(|v| *v as i64))),
                "bool" => Arc::new(BooleanArray::from(values.iter().map(|v| *v > 0.0).collect::<Vec<_>>())),
                _ => Arc::new(Float32Array::from_iter_values(values.iter().map(|v| *v as f32))),
            });
        }
        self.write_batch(columns)
    }

    fn write_batch(&mut self, columns: Vec<ArrayRef>) -> Result<(), Error> {
        let told = self.columns();
        let features: Map<String, Value> = told.iter().map(|(name, feature, ..)| (name.clone(), feature.clone())).collect();
        let schema = hugging_face(told.iter().map(|(name, _, kind, _)| nullable(name, kind.clone())).collect(), &Value::Object(features));
        let path = self.folder.join(data_file(self.file));
        let batch = RecordBatch::try_new(schema.clone(), columns).map_err(|error| export(&path, error))?;
        if self.table.is_none() {
            self.table = Some(Table::create(&path, schema)?);
        }
        self.table.as_mut().expect("it was just put there").write(&batch)
    }

    fn close_file(&mut self) -> Result<(), Error> {
        if let Some(mut table) = self.table.take() {
            self.files.push((data_file(self.file), table.close()?));
            self.file += 1;
            self.file_bytes = 0;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<(String, u64)>, Error> {
        self.close_file()?;
        self.write_tasks()?;
        self.write_episodes()?;
        let stats: Map<String, Value> = self.stats.iter().map(|(name, stats)| (name.clone(), stats.json())).collect();
        write(&self.folder.join("meta/stats.json"), &pretty(&Value::Object(stats)))?;
        let features: Map<String, Value> = self.columns().into_iter().map(|(name, _, _, feature)| (name, feature)).collect();
        let info = json!({
            "codebase_version": VERSION,
            "robot_type": self.plan.world,
            "total_episodes": self.episodes.len(),
            "total_frames": self.frames,
            "total_tasks": self.tasks.len(),
            "chunks_size": FILES_A_CHUNK,
            "data_files_size_in_mb": FILE_BYTES >> 20,
            "video_files_size_in_mb": 200,
            "fps": FPS,
            "splits": { "train": format!("0:{}", self.episodes.len()) },
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": Value::Null,
            "features": features,
            "actions": self.plan.actions,
        });
        write(&self.folder.join("meta/info.json"), &pretty(&info))?;
        let mut files = self.files;
        files.push(("meta/episodes/chunk-000/file-000.parquet".into(), self.episodes.len() as u64));
        files.push(("meta/tasks.parquet".into(), self.tasks.len() as u64));
        Ok(files)
    }

    /// As pandas writes it: the task's text is the index.
    fn write_tasks(&self) -> Result<(), Error> {
        let column = |name: &str, pandas: &str, numpy: &str| json!({ "name": name, "field_name": name, "pandas_type": pandas, "numpy_type": numpy, "metadata": Value::Null });
        let pandas = json!({
            "index_columns": ["task"], "column_indexes": [], "pandas_version": "2.0.0",
            "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        });
        let fields = vec![nullable("task_index", DataType::Int64), nullable("task", DataType::Utf8)];
        let schema = Arc::new(Schema::new_with_metadata(fields, [("pandas".to_string(), pandas.to_string())].into()));
        let path = self.folder.join("meta/tasks.parquet");
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(0..self.tasks.len() as i64)), texts(&self.tasks)];
        let batch = RecordBatch::try_new(schema.clone(), columns).map_err(|error| export(&path, error))?;
        let mut table = Table::create(&path, schema)?;
        table.write(&batch)?;
        table.close().map(|_| ())
    }

    fn write_episodes(&self) -> Result<(), Error> {
        let ints = |of: &dyn Fn(usize, &Row) -> u64| {
            Arc::new(Int64Array::from_iter_values(self.episodes.iter().enumerate().map(|(n, row)| of(n, row) as i64))) as ArrayRef
        };
        let tasks = texts(self.episodes.iter().map(|row| &self.tasks[row.task]));
        let mut columns: Vec<(String, ArrayRef)> = vec![
            ("episode_index".into(), ints(&|n, _| n as u64)),
            ("tasks".into(), super::table::list(vec![1; self.episodes.len()], tasks)),
            ("length".into(), ints(&|_, row| row.length)),
            ("data/chunk_index".into(), ints(&|_, row| row.file / FILES_A_CHUNK)),
            ("data/file_index".into(), ints(&|_, row| row.file % FILES_A_CHUNK)),
            ("dataset_from_index".into(), ints(&|_, row| row.from)),
            ("dataset_to_index".into(), ints(&|_, row| row.from + row.length)),
        ];
        for name in self.stats.keys() {
            let all: Vec<&Stats> = self.episodes.iter().filter_map(|row| row.stats.get(name)).collect();
            for what in Stats::NAMES {
                columns.push((format!("stats/{name}/{what}"), stats_column(&all, what)));
            }
        }
        columns.push(("meta/episodes/chunk_index".into(), ints(&|_, _| 0)));
        columns.push(("meta/episodes/file_index".into(), ints(&|_, _| 0)));
        let path = self.folder.join("meta/episodes/chunk-000/file-000.parquet");
        let batch = RecordBatch::try_from_iter(columns).map_err(|error| export(&path, error))?;
        let mut table = Table::create(&path, batch.schema())?;
        table.write(&batch)?;
        table.close().map(|_| ())
    }
}

/// One statistic of every episode: a list for each, or, of pictures, a list a channel of lists of lists of one.
fn stats_column(all: &[&Stats], what: &str) -> ArrayRef {
    let values: Vec<Vec<f64>> = all.iter().map(|stats| stats.values(what)).collect();
    if what == "count" {
        let flat = Int64Array::from_iter_values(values.iter().flatten().map(|v| *v as i64));
        return super::table::list(values.iter().map(Vec::len), Arc::new(flat));
    }
    let flat: ArrayRef = Arc::new(Float64Array::from_iter_values(values.iter().flatten().copied()));
    if all.first().is_some_and(|stats| stats.is_of_pixels()) {
        let ones = vec![1; flat.len()];
        let inner = super::table::list(ones.clone(), flat);
        let middle = super::table::list(ones, inner);
        return super::table::list(values.iter().map(Vec::len), middle);
    }
    super::table::list(values.iter().map(Vec::len), flat)
}

fn data_file(file: u64) -> String {
    format!("data/chunk-{:03}/file-{:03}.parquet", file / FILES_A_CHUNK, file % FILES_A_CHUNK)
}

fn fixed(width: usize) -> DataType {
    DataType::FixedSizeList(Arc::new(nullable("item", DataType::Float32)), width as i32)
}

fn fixed_lists(width: usize, values: ArrayRef) -> ArrayRef {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    Arc::new(FixedSizeListArray::new(item, width as i32, values, None))
}

fn pretty(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("JSON writes to memory")
}
