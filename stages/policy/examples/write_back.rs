//! Reads model folders and writes each of them back, for other programs to read.
//!
//!     cargo run --release -p policy --example write_back -- tests/parity/fixtures OUT
//!     python tests/parity/loads.py tests/parity/fixtures OUT

use policy::{Error, Result, Trainer, TrainerOptions};
use std::path::{Path, PathBuf};

fn write_back(from: &Path, to: &Path) -> Result<()> {
    let io = |source| Error::Io { path: to.to_path_buf(), source };
    std::fs::create_dir_all(to).map_err(io)?;
    let mut trainer = Trainer::from_folder(from, TrainerOptions::default())?;
    trainer.save(to)?;
    let adapter = from.join("adapter");
    if adapter.is_dir() {
        trainer.load_adapter(&adapter)?;
        std::fs::create_dir_all(to.join("adapter")).map_err(io)?;
        trainer.save_adapter(&to.join("adapter"))?;
    }
    Ok(())
}

fn main() {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [from, to] = arguments.as_slice() else {
        eprintln!("error: expected a folder of model folders and where to write them");
        std::process::exit(2);
    };
    let mut folders: Vec<PathBuf> = std::fs::read_dir(from).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    for folder in folders.iter().filter(|folder| folder.join("config.json").is_file()) {
        let name = folder.file_name().unwrap_or_default();
        if let Err(error) = write_back(folder, &to.join(name)) {
            eprintln!("error: {}: {error}", folder.display());
            std::process::exit(1);
        }
    }
}
