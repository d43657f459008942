//! A policy behind HTTP is judged as any server's model is.

use anyhow::{Context, Result};
use journeys::{Journey, program, small_pipeline};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `generator --http` on a folder, until it is dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(folder: &Path) -> Result<Server> {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(program("generator")?)
            .args(["--http", &address.to_string(), "--served-model-name", "lake", "--kv-cache-gib", "0.03", "--threads", "1", "--model"])
            .arg(folder)
            .stderr(Stdio::null())
            .spawn()?;
        let server = Server { child, url: format!("http://{address}") };
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if let Ok(mut stream) = std::net::TcpStream::connect(address) {
                stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
                let mut said = String::new();
                stream.read_to_string(&mut said)?;
                if said.starts_with("HTTP/1.1 200") {
                    return Ok(server);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        anyhow::bail!("the server does not answer")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `errand eval` with these arguments: its exit code, its table and what it said.
fn eval(home: &Path, arguments: &[&str]) -> Result<(Option<i32>, serde_json::Value, String)> {
    let output = Command::new(program("errand")?)
        .arg("eval")
        .arg(home.join("pipeline.toml"))
        .args(arguments)
        .arg("--runs")
        .arg(home)
        .arg("--leaderboard")
        .arg(home.join("board.jsonl"))
        .output()?;
    let table = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok((output.status.code(), table, String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn a_served_policy_gets_the_table_that_its_folder_gets() -> Result<()> {
    let mut journey = Journey::start(&small_pipeline(false).replace("batches = 40", "batches = 6"), &[])?;
    journey.finish(Duration::from_secs(480))?;
    let latest = std::fs::read_to_string(journey.folder().join("checkpoints/latest"))?;
    let folder = journey.folder().join("checkpoints").join(latest.trim()).join("policy");
    let server = Server::start(&folder)?;
    // The server's side of the conversation is read by the policy's own tokenizer.
    let text = small_pipeline(false).replace("[policy]", &format!("[policy]\nfolder = {:?}", folder.display().to_string()));
    std::fs::write(journey.home.path().join("pipeline.toml"), text)?;
    let (code, own, said) = eval(journey.home.path(), &["--policy", &folder.display().to_string()])?;
    assert_eq!(code, Some(0), "{said}");
    let (code, served, said) = eval(journey.home.path(), &["--url", &server.url])?;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(served["episodes_digest"], own["episodes_digest"]);
    assert_eq!(served["policy"], format!("lake at {}", server.url));
    let figures = |table: &serde_json::Value| ["episodes", "success", "lenient"].map(|key| table["result"][key].clone());
    assert_eq!(figures(&served), figures(&own), "greedy, on the same episodes");
    let board = std::fs::read_to_string(journey.home.path().join("board.jsonl"))?;
    assert_eq!(board.lines().count(), 2);
    for (arguments, expected) in [
        (vec!["--url", &server.url, "--model", "nobody"], "serves no model `nobody`; allowed: lake"),
        (vec!["--url", "http://127.0.0.1:1"], "http://127.0.0.1:1/v1/models"),
    ] {
        let (code, _, said) = eval(journey.home.path(), &arguments)?;
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("errand: error")).collect();
        assert_eq!(code, Some(1), "{said}");
        assert!(errors.len() == 1 && errors[0].contains(expected), "{said}");
    }
    let both = eval(journey.home.path(), &["--url", &server.url, "--policy", "random"])?;
    both.0.filter(|code| *code != 0).context("a policy and a server at once are refused")?;
    Ok(())
}
