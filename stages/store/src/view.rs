//! What counts: the files that a run's entries list and that no later entry replaces.

use crate::{Committed, Entry, Error, FileEntry, Kind};
use std::collections::BTreeSet;

/// A run's entries, in order, and what they come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    entries: Vec<Entry>,
    replaced: BTreeSet<String>,
    committed: Committed,
}

impl View {
    /// Takes in the next entry.
    ///
    /// # Errors
    /// [`Error::Malformed`] where it commits an episode again, or replaces what is not there, or loses rows.
    pub(crate) fn add(&mut self, entry: Entry) -> Result<(), Error> {
        if !entry.replaces.is_empty() {
            self.check_replacement(&entry)?;
            self.replaced.extend(entry.replaces.iter().cloned());
        }
        entry.add_to(&mut self.committed)?;
        self.entries.push(entry);
        Ok(())
    }

    /// The rows of the replaced files and of those that stand for them are as many, table by table.
    fn check_replacement(&self, entry: &Entry) -> Result<(), Error> {
        let malformed = |reason: String| Error::Malformed { path: Entry::path(&entry.run, entry.number), reason };
        let gone: BTreeSet<&str> = entry.replaces.iter().map(String::as_str).collect();
        let old: Vec<&FileEntry> = self.files().filter(|file| gone.contains(file.path.as_str())).collect();
        if old.len() != gone.len() {
            return Err(malformed("it replaces a file that is not there".into()));
        }
        for kind in [Kind::Trajectories, Kind::Turns] {
            let before: u64 = old.iter().filter(|file| file.kind == kind).map(|file| file.rows).sum();
            let after: u64 = entry.files.iter().filter(|file| file.kind == kind).map(|file| file.rows).sum();
            if before != after {
                return Err(malformed(format!("it replaces {before} {} by {after}", kind.as_str())));
            }
        }
        Ok(())
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn committed(&self) -> &Committed {
        &self.committed
    }

    /// The number that the next entry has.
    pub(crate) fn next(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The files that count, each with its entry, in the order of their commits.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (&Entry, &FileEntry)> {
        let all = self.entries.iter().flat_map(|entry| entry.files.iter().map(move |file| (entry, file)));
        all.filter(|(_, file)| !self.replaced.contains(&file.path))
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.placed().map(|(_, file)| file)
    }

    pub(crate) fn counts(&self, path: &str) -> bool {
        self.files().any(|file| file.path == path)
    }
}
