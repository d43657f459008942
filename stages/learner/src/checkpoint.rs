//! Checkpoints: a folder that is whole or not there, and a pointer to the newest.
//!
//! `checkpoints/N/` is written under another name, synced and renamed; then `checkpoints/latest`, a file with the number,
//! is replaced. A crash between any two of these leaves the older one or the newer one, whole.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The pointer's name.
const LATEST: &str = "latest";

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no room left on the disk of `{}`: nothing was changed, the last checkpoint stands; hint: free some space and start again with --resume", path.display())]
    Full { path: PathBuf },
    #[error("`{}` cannot be written: {source}; hint: the run's folder must be writable", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`{}` cannot be read: {reason}; hint: `latest` may name an older checkpoint that is still there", path.display())]
    Read { path: PathBuf, reason: String },
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Error::Full { path: path.to_path_buf() },
        _ => Error::Write { path: path.to_path_buf(), source },
    }
}

/// Writes checkpoint `number` under `root` with `fill`, and makes it the latest. The one before it is kept, older ones go.
///
/// # Errors
/// [`Error::Full`] or [`Error::Write`]; the latest checkpoint is then what it was.
pub fn commit(root: &Path, number: u64, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<PathBuf, Error> {
    commit_watched(root, number, fill, &mut |_| Ok(()))
}

/// The same, calling `before` ahead of every change to the disk: a test's way to stop there.
fn commit_watched(
    root: &Path,
    number: u64,
    fill: impl FnOnce(&Path) -> io::Result<()>,
    before: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<PathBuf, Error> {
    let (folder, unfinished) = (root.join(number.to_string()), root.join(format!(".{number}.unfinished")));
    let written = (|| {
        before("make")?;
        fs::create_dir_all(root)?;
        remove(&unfinished)?;
        fs::create_dir(&unfinished)?;
        before("fill")?;
        fill(&unfinished)?;
        before("sync")?;
        sync_all(&unfinished)?;
        // A folder of this number that no pointer names is what a crash left.
        before("clear")?;
        remove(&folder)?;
        before("rename")?;
        fs::rename(&unfinished, &folder)?;
        sync(root)?;
        before("point")?;
        replace(&root.join(LATEST), number.to_string().as_bytes())?;
        before("prune")
    })();
    if let Err(error) = written {
        // What is unfinished takes the room that others need; the error that counts is the first.
        remove(&unfinished).ok();
        return Err(write_error(root)(error));
    }
    prune(root, number);
    Ok(folder)
}

/// The newest whole checkpoint, and its number.
///
/// # Errors
/// [`Error::Read`] where the pointer is no number or names a folder that is gone.
pub fn latest(root: &Path) -> Result<Option<(u64, PathBuf)>, Error> {
    let pointer = root.join(LATEST);
    let text = match fs::read_to_string(&pointer) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::Read { path: pointer, reason: error.to_string() }),
    };
    let number = text.trim().parse().map_err(|_| Error::Read { path: pointer, reason: format!("{text:?} is no number") })?;
    let folder = root.join(format!("{number}"));
    if !folder.is_dir() {
        return Err(Error::Read { path: folder, reason: "it is gone".into() });
    }
    Ok(Some((number, folder)))
}

/// Reads a file of a checkpoint.
///
/// # Errors
/// [`Error::Read`].
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| Error::Read { path: path.to_path_buf(), reason: e.to_string() })
}

/// Replaces a file at once: readers see the old bytes or the new ones.
///
/// # Errors
/// The disk's own.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut file = File::create(&unfinished)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        fs::remove_file(&unfinished).ok();
    }
    written?;
    path.parent().map_or(Ok(()), sync)
}

/// As [`replace`], with the errors of a checkpoint.
///
/// # Errors
/// [`Error::Full`] or [`Error::Write`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| replace(path, bytes)).map_err(write_error(path))
}

/// Adds a line to a file.
///
/// # Errors
/// [`Error::Full`] or [`Error::Write`].
pub fn append(path: &Path, line: &str) -> Result<(), Error> {
    let appended = File::options().create(true).append(true).open(path).and_then(|mut file| writeln!(file, "{line}"));
    appended.map_err(write_error(path))
}

/// Fills `to` with the files of `from`, without copying where the disk can share them. They are never written again.
///
/// # Errors
/// The disk's own.
pub fn share_files(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            share_files(&entry.path(), &target)?;
        } else if fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { sync_all(&path)? } else { sync(&path)? }
    }
    sync(folder)
}

/// Removes all but this checkpoint and the one before it. What cannot be removed now is removed after the next one.
fn prune(root: &Path, number: u64) {
    let Ok(entries) = fs::read_dir(root) else { return };
    let mut numbers: Vec<u64> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.retain(|n| *n != number);
    let kept = numbers.iter().rev().find(|n| **n < number).copied();
    for old in numbers.into_iter().filter(|n| Some(*n) != kept) {
        remove(&root.join(old.to_string())).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &'static str) -> impl FnOnce(&Path) -> io::Result<()> {
        move |folder| {
            fs::create_dir(folder.join("policy"))?;
            fs::write(folder.join("policy/weights"), text)?;
            fs::write(folder.join("learner.json"), text)
        }
    }

    fn whole(root: &Path) -> Option<String> {
        let (_, folder) = latest(root).unwrap()?;
        let [a, b] = ["policy/weights", "learner.json"].map(|name| fs::read_to_string(folder.join(name)).unwrap());
        assert_eq!(a, b, "one checkpoint, one state");
        Some(a)
    }

    #[test]
    fn a_crash_between_any_two_writes_leaves_the_old_or_the_new_whole() {
        let steps = ["make", "fill", "sync", "clear", "rename", "point", "prune"];
        for (place, step) in steps.into_iter().enumerate() {
            let root = tempfile::tempdir().unwrap();
            assert_eq!(whole(root.path()), None);
            commit(root.path(), 1, fill("old")).unwrap();
            let mut stop = |now: &str| if now == step { Err(io::Error::other("killed")) } else { Ok(()) };
            commit_watched(root.path(), 2, fill("new"), &mut stop).unwrap_err();
            let expected = if place < 6 { "old" } else { "new" };
            assert_eq!(whole(root.path()).as_deref(), Some(expected), "{step}");
            commit(root.path(), 2, fill("newer")).unwrap();
            assert_eq!(whole(root.path()).as_deref(), Some("newer"), "{step}");
        }
    }

    #[test]
    fn a_process_that_dies_while_it_fills_leaves_the_old() {
        let root = tempfile::tempdir().unwrap();
        commit(root.path(), 1, fill("old")).unwrap();
        // Nothing is cleaned up by a process that is gone.
        fs::create_dir(root.path().join(".2.unfinished")).unwrap();
        fs::write(root.path().join(".2.unfinished/learner.json"), "ne").unwrap();
        fs::write(root.path().join("latest.unfinished"), "2").unwrap();
        assert_eq!(whole(root.path()).as_deref(), Some("old"));
        commit(root.path(), 2, fill("new")).unwrap();
        assert_eq!(whole(root.path()).as_deref(), Some("new"));
    }

    #[test]
    fn a_full_disk_is_said_and_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        commit(root.path(), 1, fill("old")).unwrap();
        let full = |folder: &Path| {
            fs::write(folder.join("learner.json"), "n")?;
            Err(io::Error::from(ErrorKind::StorageFull))
        };
        let error = commit(root.path(), 2, full).unwrap_err();
        assert!(matches!(error, Error::Full { .. }) && error.to_string().contains("hint: "), "{error}");
        assert_eq!(whole(root.path()).as_deref(), Some("old"));
        assert!(!root.path().join(".2.unfinished").exists(), "nothing half-written is left");
    }

    #[test]
    fn the_two_newest_are_kept_and_files_are_shared() {
        let root = tempfile::tempdir().unwrap();
        for number in 1..6 {
            commit(root.path(), number, fill("x")).unwrap();
        }
        let from = root.path().join("5/policy");
        commit(root.path(), 6, |folder| {
            share_files(&from, &folder.join("policy")).and_then(|()| fs::write(folder.join("learner.json"), "x"))
        })
        .unwrap();
        let mut left: Vec<String> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["5", "6", "latest"]);
        assert_eq!(whole(root.path()).as_deref(), Some("x"));
    }

    #[test]
    fn a_pointer_to_nothing_is_an_error_with_its_path() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("latest"), "7").unwrap();
        assert!(latest(root.path()).unwrap_err().to_string().contains("/7"), "it names the folder");
        fs::write(root.path().join("latest"), "seven").unwrap();
        assert!(latest(root.path()).is_err());
    }
}
