//! The program itself against a real server: it renders what it is sent, within its memory, and stops when it is told to.

use futures::StreamExt;
use kit::testing::NatsServer;
use schemas::pipeline::Pipeline;
use schemas::{Address, EpisodeId, Observation, Prompt, SegmentHead, Split, decode, encode, subjects};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const RUN: &str = "r";
const OBSERVATIONS: u32 = 500;
const PIPELINE: &str = "name = \"t\"\nschedule = []\n[world]\nname = \"frozenlake\"\n[prompt]\nobservation_tokens = 400\n";

/// Ends the program where a test ends early.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Program {
    fn start(server: &NatsServer, folder: &Path) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prompt-renderer"));
        command.args(["--nats", &server.url(), "--run", RUN, "--folder"]).arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
        Program(command.spawn().expect("the program starts"))
    }

    /// Resident memory in KiB, as Linux tells it.
    fn resident_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").parse().ok()
    }

    /// Asks it to stop, and waits.
    fn stop(mut self) -> Option<i32> {
        Command::new("kill").arg(self.0.id().to_string()).status().expect("`kill` is there");
        self.0.wait().expect("it is our child").code()
    }
}

fn observation(turn: u32) -> Observation {
    let row = |n: u32| (0..4).map(|c| ["P", "_", "O", "G"][((n >> (2 * c)) % 4) as usize]).collect::<Vec<_>>().join(" ");
    let map: String = (0..4).map(|r| row(turn * 7 + r) + "\n").collect();
    Observation {
        at: Address { id: EpisodeId { split: Split::Train, number: 1 }, turn, attempt: 0, traceparent: String::new() },
        head: Some(SegmentHead { system: "You walk on a lake.".into(), ..SegmentHead::default() }),
        text: format!("After that, the observation is:\n{map}Decide your next action(s).\n"),
        frames: vec![],
        expert_reply: None,
        ..schemas::Message::example()
    }
}

/// Runs the program with a tokenizer's two files, sends observations and reads every prompt. Gives the memory it took.
async fn play(tokenizer: Vec<u8>, config: Vec<u8>) -> u64 {
    let server = NatsServer::start();
    let client = kit::connect(&server.url(), Duration::from_secs(10)).await.expect("the server is there");
    let pipeline = Pipeline::parse(PIPELINE).expect("a sound pipeline");
    kit::init(&client, RUN, &pipeline, PIPELINE).await.expect("the run is made");
    let objects = kit::store::Objects::open(&client, RUN).await.expect("the buckets are there");
    for (name, bytes) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
        kit::store::put(&objects.artifacts, name, &bytes).await.expect("the bucket has room");
    }
    let mut prompts = client.subscribe(subjects::prompts(RUN, "generator-1")).await.expect("a subscription");
    let folder = std::env::temp_dir();
    let program = Program::start(&server, &folder);
    let mut seen = std::collections::BTreeSet::new();
    // Sent before the program listens, an observation is lost, as on any core subject: ask again until all are answered.
    'asking: for _ in 0..60 {
        for turn in (0..OBSERVATIONS).filter(|turn| !seen.contains(turn)) {
            client.publish(subjects::observations(RUN), encode(&observation(turn)).into()).await.expect("it is sent");
        }
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(500), prompts.next()).await {
            let prompt: Prompt = decode(&message.payload).expect("a sound prompt");
            assert_eq!(prompt.segment.prompt_end as usize, prompt.segment.len());
            seen.insert(prompt.at.turn);
            if seen.len() == OBSERVATIONS as usize {
                break 'asking;
            }
        }
    }
    assert_eq!(seen.len(), OBSERVATIONS as usize);
    let resident = program.resident_kib().unwrap_or(0);
    assert_eq!(program.stop(), Some(0));
    println!("{resident} KiB resident");
    resident
}

#[tokio::test]
async fn it_renders_with_a_small_tokenizer_in_40_mib() {
    let corpus: Vec<String> = (0..OBSERVATIONS).map(|turn| observation(turn).text).collect();
    let (json, config) = context::train_small(&corpus, &["Left".into(), "Right".into()], 512).expect("a sound corpus");
    assert!(play(json, config).await < 40 << 10);
}

#[tokio::test]
async fn it_renders_with_qwens_tokenizer_in_160_mib() {
    let Some(folder) = std::env::var_os("ERRAND_QWEN_TOKENIZER") else {
        println!("skipped: ERRAND_QWEN_TOKENIZER names no folder; ops/make_qwen_tokenizer.py makes one");
        return;
    };
    let read = |name: &str| std::fs::read(Path::new(&folder).join(name)).expect("the folder holds both files");
    assert!(play(read("tokenizer.json"), read("tokenizer_config.json")).await < 160 << 10);
}
