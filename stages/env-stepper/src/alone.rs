//! Running one episode in a process of its own.
//!
//! An episode that has taken down two processes is a suspect. The stepper that draws it starts its own program once more
//! with `--alone`, hands it the episode on its standard input, and waits. Only that child's dying rejects the episode: a
//! child that gives up (no NATS, told to stop) says nothing against it.

use kit::Work;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Exit code of a child that could not finish for reasons outside the episode (`EX_TEMPFAIL`).
pub const GAVE_UP: i32 = 75;
/// Exit code of a stage that lost NATS or could not start.
const FAILED: i32 = 1;

/// The one episode of a child process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub attempt: u32,
    /// An encoded `Episode`.
    pub episode: Vec<u8>,
}

impl Order {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.attempt.to_le_bytes().to_vec();
        bytes.extend((self.episode.len() as u32).to_le_bytes());
        bytes.extend(&self.episode);
        bytes
    }

    /// Reads an order as [`RunAlone`] writes it: try and length, little endian, then the episode.
    ///
    /// # Errors
    /// The input ended early or names more than an episode's largest size.
    pub fn read(mut input: impl Read) -> std::io::Result<Order> {
        let mut word = [0u8; 4];
        input.read_exact(&mut word)?;
        let attempt = u32::from_le_bytes(word);
        input.read_exact(&mut word)?;
        let length = u32::from_le_bytes(word) as usize;
        if length > <schemas::Episode as schemas::Message>::MAX_BYTES {
            return Err(std::io::Error::other(format!("an episode of {length} bytes is over the bound")));
        }
        let mut episode = vec![0; length];
        input.read_exact(&mut episode)?;
        Ok(Order { attempt, episode })
    }
}

/// For the child's `main`: reads the order from standard input, and ends the process when its parent is gone, which
/// closes that input.
///
/// # Errors
/// See [`Order::read`].
pub fn order_from_parent() -> std::io::Result<Order> {
    let order = Order::read(std::io::stdin().lock())?;
    std::thread::spawn(|| {
        let mut rest = [0u8; 64];
        while matches!(std::io::stdin().lock().read(&mut rest), Ok(n) if n > 0) {}
        std::process::exit(GAVE_UP);
    });
    Ok(order)
}

/// The command that starts this program once more for one episode: its own arguments, but for those that must differ.
pub fn command(program: &str, arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    const OWN: [&str; 2] = ["--id", "--metrics-port"];
    let mut command = vec![program.to_string()];
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if OWN.contains(&argument.as_str()) {
            arguments.next();
        } else if !OWN.iter().any(|own| argument.strip_prefix(own).is_some_and(|rest| rest.starts_with('='))) {
            command.push(argument);
        }
    }
    command.push("--alone".to_string());
    command
}

/// The child that is running now, so that a drain can end it.
#[derive(Clone, Default)]
pub struct Process(Arc<Mutex<Option<Child>>>);

impl Process {
    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the child, if there is one.
    pub fn kill(&self) {
        if let Some(child) = self.lock().as_mut() {
            let _ = child.kill();
        }
    }
}

/// What became of a child.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The episode's end is stored.
    Ended,
    GaveUp(String),
    /// The child died: by a signal, a panic, or a code of no meaning.
    Died(String),
}

/// The result of [`RunAlone`].
#[derive(Debug)]
pub struct AloneDone {
    pub outcome: Outcome,
}

impl Work for AloneDone {
    fn run(self: Box<Self>) -> Box<dyn Work> {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// Starts the child, hands it the episode, waits for it.
pub struct RunAlone {
    command: Vec<String>,
    input: Vec<u8>,
    process: Process,
}

impl RunAlone {
    /// `command`: program and arguments.
    pub fn new(command: Vec<String>, order: &Order, process: Process) -> RunAlone {
        RunAlone { command, input: order.bytes(), process }
    }

    fn start(&self) -> std::io::Result<std::process::ChildStdin> {
        let (program, arguments) = self.command.split_first().ok_or_else(|| std::io::Error::other("no command"))?;
        let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().ok_or_else(|| std::io::Error::other("the child has no standard input"))?;
        *self.process.lock() = Some(child);
        // A child that dies at once breaks the pipe; how it died is told by its exit.
        let _ = stdin.write_all(&self.input).and_then(|()| stdin.flush());
        Ok(stdin)
    }

    /// Polls, so that a drain can take the lock and end the child meanwhile.
    fn wait(&self) -> Outcome {
        loop {
            let ended = match self.process.lock().as_mut().map(Child::try_wait) {
                None => return Outcome::GaveUp("the child was lost".into()),
                Some(Err(error)) => return Outcome::GaveUp(error.to_string()),
                Some(Ok(ended)) => ended,
            };
            if let Some(status) = ended {
                *self.process.lock() = None;
                return match status.code() {
                    Some(0) => Outcome::Ended,
                    Some(code @ (FAILED | GAVE_UP)) => Outcome::GaveUp(format!("it ended with code {code}")),
                    _ => Outcome::Died(format!("it died with {status}")),
                };
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Work for RunAlone {
    fn run(self: Box<Self>) -> Box<dyn Work> {
        let outcome = match self.start() {
            // The input stays open while the child runs: its closing tells the child that the parent is gone.
            Ok(_stdin) => self.wait(),
            Err(error) => Outcome::GaveUp(format!("the child could not be started: {error}")),
        };
        Box::new(AloneDone { outcome })
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> Outcome {
        let order = Order { attempt: 2, episode: b"episode".to_vec() };
        let command = ["sh", "-c", script].map(str::to_string).to_vec();
        let done = Box::new(RunAlone::new(command, &order, Process::default())).run();
        done.into_any().downcast::<AloneDone>().unwrap().outcome
    }

    #[test]
    fn an_order_arrives_whole() {
        let order = Order { attempt: 2, episode: b"episode".to_vec() };
        assert_eq!(Order::read(order.bytes().as_slice()).unwrap(), order);
        assert!(Order::read(&order.bytes()[..9]).is_err());
        assert!(Order::read([0, 0, 0, 0, 255, 255, 255, 255].as_slice()).is_err());
        assert_eq!(run("head -c 15 | tail -c 7 | grep -q episode"), Outcome::Ended);
    }

    #[test]
    fn a_child_gets_the_same_arguments_and_a_name_of_its_own() {
        let given = ["--nats", "nats://a:1", "--id", "x", "--run=r", "--id=y", "--metrics-port=9", "--metrics-port", "0"];
        let command = command("/bin/env-stepper", given.map(str::to_string));
        assert_eq!(command, ["/bin/env-stepper", "--nats", "nats://a:1", "--run=r", "--alone"]);
    }

    #[test]
    fn only_a_death_counts_against_the_episode() {
        assert_eq!(run("exit 0"), Outcome::Ended);
        assert!(matches!(run("exit 1"), Outcome::GaveUp(_)));
        assert!(matches!(run("exit 75"), Outcome::GaveUp(_)));
        assert!(matches!(run("exit 101"), Outcome::Died(_)));
        assert!(matches!(run("kill -9 $$"), Outcome::Died(how) if how.contains('9')));
        let order = Order { attempt: 0, episode: vec![] };
        let none = Box::new(RunAlone::new(vec!["/no/such/program".into()], &order, Process::default())).run();
        assert!(matches!(none.into_any().downcast::<AloneDone>().unwrap().outcome, Outcome::GaveUp(_)));
    }
}
