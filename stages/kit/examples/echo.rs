//! A whole stage: it answers each message on `errand.<run>.echo` on `errand.<run>.echoed`.
//!
//! `cargo run -p kit --example echo -- --run NAME --times 2` joins a run that `errand init` has made.

use kit::{Identity, Input, Needs, Now, Output, Report, Stage};

struct Echo {
    run: String,
    times: u8,
    done: u64,
}

impl Stage for Echo {
    fn needs(&self) -> Needs {
        Needs { stage: "echo", subscribe: vec![(format!("errand.{}.echo", self.run), Some("echo".into()))], ..Needs::default() }
    }

    fn step(&mut self, input: Input, _now: Now) -> Vec<Output> {
        match input {
            Input::Message { payload, .. } => {
                self.done += 1;
                let subject = format!("errand.{}.echoed", self.run);
                (0..self.times).map(|_| Output::Publish { subject: subject.clone(), payload: payload.clone() }).collect()
            }
            Input::Drain => vec![Output::Exit { code: 0, message: format!("{} messages were echoed", self.done) }],
            _ => vec![],
        }
    }

    fn report(&self) -> Report {
        Report { done: self.done, ..Report::default() }
    }
}

fn main() -> std::process::ExitCode {
    let times = kit::clap::Arg::new("times").long("times").help("Answers to each message").default_value("1");
    let times = times.value_parser(kit::clap::value_parser!(u8));
    kit::Program::new("echo").arg(times).run(|identity: Identity, arguments| {
        let times = arguments.get_one("times").copied().unwrap_or(1);
        Ok(Box::new(Echo { run: identity.run, times, done: 0 }))
    })
}
