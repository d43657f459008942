//! Compaction: many small files become few large ones, and nothing else changes.
//!
//! The new files are written first. One entry then lists them and names those that they stand for; before it the old ones
//! count, after it the new ones. The old files stay where they are until [`crate::Reader::sweep`] takes them away, so that
//! whoever reads by the manifest of a moment ago still finds them.

use crate::{Entry, Error, FileEntry, Kind, Reader, Writer};
use schemas::{End, Split};
use std::collections::BTreeSet;

/// What is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// A commit of one split whose two files have fewer bytes than this is small.
    pub under_bytes: u64,
    /// Fewer small commits than this are left alone.
    pub at_least: usize,
    /// Bytes that are put together at most.
    pub upto_bytes: u64,
}

impl Default for Compaction {
    fn default() -> Self {
        Compaction { under_bytes: 4 << 20, at_least: 8, upto_bytes: 32 << 20 }
    }
}

impl Writer {
    /// Puts small files of one split together. `None`: there was nothing to do, or another writer did it meanwhile.
    ///
    /// # Errors
    /// As [`Writer::commit`]; nothing has changed then.
    pub async fn compact(&mut self, rule: Compaction, now_us: u64) -> Result<Option<Entry>, Error> {
        self.refresh().await?;
        for split in Split::ALL {
            let old = self.small(split, rule);
            if old.len() < rule.at_least {
                continue;
            }
            let replaces: BTreeSet<String> = old.iter().flatten().map(|file| file.path.clone()).collect();
            let reader = Reader::over(self.store.clone()).await?;
            let mut ends: Vec<End> = Vec::new();
            for pair in &old {
                ends.extend(reader.pair(pair).await?);
            }
            let files = self.write_files(&ends.iter().collect::<Vec<_>>()).await?;
            return self.publish(&BTreeSet::new(), files, replaces, now_us).await;
        }
        Ok(None)
    }

    /// The small commits of a split, oldest first: the files of each.
    fn small(&self, split: Split, rule: Compaction) -> Vec<Vec<FileEntry>> {
        let mut found: Vec<Vec<FileEntry>> = Vec::new();
        let (mut number, mut sum) = (None, 0);
        for (entry, file) in self.view.placed().filter(|(_, file)| file.split == split) {
            if number != Some(entry.number) || file.kind == Kind::Trajectories {
                found.push(Vec::new());
                number = Some(entry.number);
            }
            found.last_mut().expect("one was just added").push(file.clone());
        }
        found.retain(|pair| pair.iter().map(|file| file.bytes).sum::<u64>() < rule.under_bytes);
        found
            .into_iter()
            .take_while(|pair| {
                sum += pair.iter().map(|file| file.bytes).sum::<u64>();
                sum <= rule.upto_bytes
            })
            .collect()
    }
}
