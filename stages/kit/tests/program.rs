//! A stage as a process of its own, by its example `echo`: arguments, signals, exit codes, and what people read.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures::StreamExt;
use kit::testing::NatsServer;
use schemas::pipeline::Pipeline;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PIPELINE: &str = "name = \"echo\"\nschedule = []\n[world]\nname = \"frozenlake\"\n[broker]\nstream_mib = 16\n";

/// The example beside this test's own folder; `cargo test` builds both.
fn echo(arguments: &[&str]) -> Child {
    let test = std::env::current_exe().unwrap();
    let binary = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples/echo");
    assert!(binary.exists(), "{} is missing; hint: `cargo test -p kit` builds it", binary.display());
    Command::new(binary).args(arguments).env_remove("NATS_URL").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Exit code and stderr.
fn ended(child: Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

async fn with_run(server: &NatsServer) -> async_nats::Client {
    let client = kit::connect(&server.url(), Duration::from_secs(5)).await.unwrap();
    kit::init(&client, "r", &Pipeline::parse(PIPELINE).unwrap(), PIPELINE).await.unwrap();
    client
}

/// Asks until the stage listens, and gives the number of answers that came to one question.
async fn answers(client: &async_nats::Client) -> usize {
    let mut echoed = client.subscribe("errand.r.echoed").await.unwrap();
    for number in 0..200u32 {
        client.publish("errand.r.echo", number.to_be_bytes().to_vec().into()).await.unwrap();
        let mut count = 0;
        while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(100), echoed.next()).await {
            count += 1;
        }
        if count > 0 {
            return count;
        }
    }
    0
}

#[tokio::test]
async fn it_works_and_a_signal_ends_it_in_order() {
    let server = NatsServer::start();
    let client = with_run(&server).await;
    let mut presence = client.subscribe("errand.r.presence.>").await.unwrap();
    let child = echo(&["--nats", &server.url(), "--run", "r", "--id", "echo-7", "--times", "2"]);
    assert_eq!(answers(&client).await, 2);
    signal(&child, "-TERM");
    let (code, text) = tokio::task::spawn_blocking(|| ended(child)).await.unwrap();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("messages were echoed"), "{text}");
    // Not to a terminal: one JSON object a line.
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{text}");
    let mut farewell = false;
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(500), presence.next()).await {
        let said: schemas::Presence = schemas::decode(&message.payload).unwrap();
        assert_eq!((said.stage.as_str(), said.id.as_str()), ("echo", "echo-7"));
        farewell |= said.gauges.contains_key("farewell");
    }
    assert!(farewell);
}

#[tokio::test]
async fn it_waits_for_a_server_that_comes_later() {
    let mut server = NatsServer::start();
    let client = with_run(&server).await;
    server.stop();
    let child = echo(&["--nats", &server.url(), "--run", "r", "--log", "kit=warn"]);
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.restart();
    assert_eq!(answers(&client).await, 1);
    signal(&child, "-INT");
    let (code, text) = tokio::task::spawn_blocking(|| ended(child)).await.unwrap();
    assert!(code == 0 && text.contains("waiting up to 60 s for NATS"), "{code} {text}");
}

#[test]
fn what_is_wrong_is_one_line_and_exit_code_1() {
    let server = NatsServer::start();
    let (code, text) = ended(echo(&["--nats", &server.url(), "--run", "none"]));
    assert_eq!((code, text.lines().count()), (1, 1), "{text}");
    assert!(text.starts_with(&format!("echo: error: run `none` is not on {}; hint:", server.url())), "{text}");
    let (code, text) = ended(echo(&["--nats", "nats://[", "--run", "r"]));
    assert_eq!((code, text.lines().count()), (1, 1), "{text}");
    let (code, text) = ended(echo(&["--run", "r", "--log", "=="]));
    assert!(code == 1 && text.contains("--log"), "{text}");
    let (code, text) = ended(echo(&["--rum", "r"]));
    assert!(code == 1 && text.contains("--run"), "{text}");
    let output = echo(&["--help"]).wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("Example:"));
}
