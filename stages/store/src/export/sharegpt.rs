//! ShareGPT: one JSON object a line, and each picture once as a file.

use super::talk::{check, messages};
use super::{Sample, Write, export, write};
use crate::Error;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// See the module's text.
pub(super) struct ShareGpt {
    folder: PathBuf,
    files: BTreeMap<String, (BufWriter<std::fs::File>, u64)>,
    written: BTreeSet<String>,
}

impl ShareGpt {
    pub(super) fn new(folder: &Path) -> Result<ShareGpt, Error> {
        Ok(ShareGpt { folder: folder.into(), files: BTreeMap::new(), written: BTreeSet::new() })
    }

    fn picture(&mut self, sample: &Sample, digest: &str) -> Result<String, Error> {
        let name = format!("images/{digest}.png");
        if self.written.insert(digest.to_string()) {
            write(&self.folder.join(&name), &super::table::frame(&sample.end.frames, digest)?.png)?;
        }
        Ok(name)
    }
}

impl Write for ShareGpt {
    fn add(&mut self, sample: &Sample) -> Result<(), Error> {
        check(sample)?;
        let digests: Vec<String> = sample.end.turns.iter().flat_map(|turn| turn.frames.clone()).collect();
        let images = digests.iter().map(|digest| self.picture(sample, digest)).collect::<Result<Vec<_>, _>>()?;
        let from = |role: &str| match role {
            "user" => "human",
            "assistant" => "gpt",
            _ => "system",
        };
        let conversations: Vec<_> = messages(sample).iter().map(|(role, text)| json!({ "from": from(role), "value": text })).collect();
        let line = json!({
            "id": sample.end.id().to_string(), "conversations": conversations, "images": images,
            "success": sample.end.success, "return": sample.end.total_reward(),
        });
        let path = self.folder.join(format!("{}.jsonl", sample.split));
        if !self.files.contains_key(&sample.split) {
            let file = std::fs::File::create(&path).map_err(|error| export(&path, error))?;
            self.files.insert(sample.split.clone(), (BufWriter::new(file), 0));
        }
        let (file, rows) = self.files.get_mut(&sample.split).expect("it was just put there");
        *rows += 1;
        writeln!(file, "{line}").map_err(|error| export(&path, error))
    }

    fn finish(self: Box<Self>) -> Result<Vec<(String, u64)>, Error> {
        let close = |(split, (mut file, rows)): (String, (BufWriter<std::fs::File>, u64))| {
            let name = format!("{split}.jsonl");
            file.flush().map_err(|error| export(&self.folder.join(&name), error))?;
            Ok((name, rows))
        };
        self.files.into_iter().map(close).collect()
    }
}
