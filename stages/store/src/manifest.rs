//! The manifest: numbered entries, each of which makes a set of files visible at once.
//!
//! An entry is one JSON object at `manifest/<run>/00000000.json`, `…/00000001.json` and so on. It is written by
//! put-if-absent and never changed. A file that no entry lists does not exist for a reader, whatever lies in the folder.

use crate::{Committed, Error, SCHEMA_VERSION};
use schemas::Split;
use serde::{Deserialize, Serialize};

/// What the rows of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Trajectories,
    Turns,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Trajectories => "trajectories",
            Kind::Turns => "turns",
        }
    }
}

/// One Parquet file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the store: `trajectories/run=<run>/split=<split>/<writer>-<number>.parquet`.
    pub path: String,
    pub kind: Kind,
    pub split: Split,
    pub rows: u64,
    pub bytes: u64,
    /// The episodes whose rows it holds: ranges of numbers, both ends inclusive.
    pub episodes: Vec<(u64, u64)>,
    /// Hex BLAKE3 of the file; empty in entries of schema 1.
    #[serde(default)]
    pub digest: String,
}

impl FileEntry {
    /// Whether the path is one that a writer gives: below its table's and run's folder, and nowhere above.
    fn is_at_home(&self, run: &str) -> bool {
        let home = format!("{}/run={run}/split={}/", self.kind.as_str(), self.split);
        let name = self.path.strip_prefix(&home);
        name.is_some_and(|name| !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != "..")
    }
}

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The version of the columns, [`SCHEMA_VERSION`].
    pub schema: u32,
    pub run: String,
    /// The number in the entry's own name.
    pub number: u64,
    /// Who committed it.
    pub writer: String,
    /// Unix microseconds.
    pub committed_us: u64,
    pub files: Vec<FileEntry>,
    /// Paths of files that do not count any more: `files` hold their rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
}

/// What is read of an entry before the rest: enough to say that a newer release wrote it.
#[derive(Deserialize)]
struct SchemaOnly {
    schema: u32,
}

impl Entry {
    /// The entries of a run.
    pub(crate) fn folder(run: &str) -> String {
        format!("manifest/{run}")
    }

    /// The name of an entry.
    pub(crate) fn path(run: &str, number: u64) -> String {
        format!("{}/{number:08}.json", Entry::folder(run))
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).expect("an entry holds strings and numbers only");
        json.push(b'\n');
        json
    }

    pub(crate) fn from_json(path: &str, json: &[u8]) -> Result<Entry, Error> {
        let malformed = |error: serde_json::Error| Error::Malformed { path: path.into(), reason: error.to_string() };
        let found = serde_json::from_slice::<SchemaOnly>(json).map_err(malformed)?.schema;
        if found > SCHEMA_VERSION {
            return Err(Error::Schema { path: path.into(), found, known: SCHEMA_VERSION });
        }
        let entry: Entry = serde_json::from_slice(json).map_err(malformed)?;
        match entry.files.iter().find(|file| !file.is_at_home(&entry.run)) {
            None => Ok(entry),
            Some(file) => Err(Error::Malformed {
                path: path.into(),
                reason: format!("it lists `{}`, which lies outside the run's own folders", file.path),
            }),
        }
    }

    /// Trajectories in it.
    pub fn trajectories(&self) -> u64 {
        self.files.iter().filter(|file| file.kind == Kind::Trajectories).map(|file| file.rows).sum()
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Adds the entry's episodes to `committed`. An entry that replaces files brings none.
    ///
    /// # Errors
    /// [`Error::Malformed`] where an episode is there already: each is committed once.
    pub(crate) fn add_to(&self, committed: &mut Committed) -> Result<(), Error> {
        if !self.replaces.is_empty() {
            return Ok(());
        }
        for file in self.files.iter().filter(|file| file.kind == Kind::Trajectories) {
            let set = committed.split_mut(file.split);
            for (first, last) in &file.episodes {
                set.insert_range(*first, *last).ok_or_else(|| Error::Malformed {
                    path: Entry::path(&self.run, self.number),
                    reason: format!(
                        "episodes {split}.{first} to {split}.{last} of `{}` are committed twice",
                        file.path,
                        split = file.split
                    ),
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let file = FileEntry {
            path: "trajectories/run=r/split=val/a.parquet".into(),
            kind: Kind::Trajectories,
            split: Split::Val,
            rows: 3,
            bytes: 9,
            episodes: vec![(0, 1), (4, 4)],
            digest: String::new(),
        };
        let files = vec![file];
        Entry { schema: SCHEMA_VERSION, run: "r".into(), number: 7, writer: "recorder-1".into(), committed_us: 5, files, replaces: vec![] }
    }

    #[test]
    fn an_entry_survives_its_file() {
        assert_eq!(Entry::from_json("x", &entry().to_json()).unwrap(), entry());
        assert_eq!(Entry::path("r", 7), "manifest/r/00000007.json");
        assert_eq!(entry().trajectories(), 3);
    }

    #[test]
    fn a_newer_schema_is_refused_by_both_versions() {
        let newer = String::from_utf8(entry().to_json()).unwrap().replace("\"schema\":2", "\"schema\":9");
        let error = Entry::from_json("m", newer.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("version 9") && error.contains("up to 2"), "{error}");
        assert!(matches!(Entry::from_json("m", b"{}"), Err(Error::Malformed { .. })));
    }

    #[test]
    fn an_entry_of_the_first_schema_reads() {
        let first = r#"{"schema":1,"run":"r","number":0,"writer":"w","committed_us":5,"files":[{"path":
            "turns/run=r/split=val/w-000000.parquet","kind":"turns","split":"val","rows":3,"bytes":9,"episodes":[[0,1]]}]}"#;
        let entry = Entry::from_json("m", first.as_bytes()).unwrap();
        assert_eq!((entry.schema, entry.files[0].digest.as_str(), entry.replaces.len()), (1, "", 0));
    }

    #[test]
    fn a_path_that_climbs_out_of_its_root_is_refused() {
        let good = String::from_utf8(entry().to_json()).unwrap();
        for path in ["/etc/passwd", "trajectories/run=r/split=val/../../../x", "turns/run=r/split=val/a", "trajectories/run=r/split=val/"] {
            let bad = good.replace("trajectories/run=r/split=val/a.parquet", path);
            let error = Entry::from_json("m", bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(path) && error.contains("outside"), "{error}");
        }
    }

    #[test]
    fn an_episode_is_committed_once() {
        let mut committed = Committed::default();
        entry().add_to(&mut committed).unwrap();
        assert_eq!((committed.len(), committed.split(Split::Val).first_missing()), (3, 2));
        assert!(entry().add_to(&mut committed).is_err());
    }
}
