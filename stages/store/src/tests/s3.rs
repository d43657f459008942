//! The store over a real S3 server, which the test starts itself: `moto_server` from PyPI's `moto[server]`.

use super::{all, ends, run};
use crate::{Compaction, Reader, Store, Writer};
use object_store::aws::AmazonS3Builder;
use schemas::Split;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BUCKET: &str = "trajectories";

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// `None`, with a line that says why, where there is no such program here.
    fn start() -> Option<Server> {
        let program = std::env::var("MOTO_SERVER").unwrap_or_else(|_| "moto_server".into());
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            println!("skipped: `{program}` does not start; hint: pip install 'moto[server]'");
            return None;
        };
        let server = Server { child, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("skipped: `{program}` does not listen");
        None
    }

    /// Makes the bucket, by the one request of S3 that object_store does not know.
    fn make_bucket(&self) {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "PUT /{BUCKET} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", self.port)
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn store(&self, bucket: &str) -> Store {
        let builder = AmazonS3Builder::new()
            .with_endpoint(format!("http://127.0.0.1:{}", self.port))
            .with_allow_http(true)
            .with_bucket_name(bucket)
            .with_region("us-east-1")
            .with_access_key_id("test")
            .with_secret_access_key("test");
        Store::over(Arc::new(builder.build().unwrap()), &format!("s3://{bucket}"), "r")
    }
}

#[test]
fn writers_race_on_a_real_s3_server_and_nothing_is_lost() {
    let Some(server) = Server::start() else { return };
    server.make_bucket();
    let store = server.store(BUCKET);
    let threads: Vec<_> = (0..3u64)
        .map(|name| {
            let store = store.clone();
            std::thread::spawn(move || {
                run(async {
                    let mut writer = Writer::open(store, &format!("w{name}")).await.unwrap();
                    for part in 0..4u64 {
                        let first = (name + part * 3) * 3;
                        writer.commit(&ends(Split::Expert, first..first + 6), part).await.unwrap();
                    }
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    run(async {
        let mut numbers: Vec<u64> = all(&store).await.iter().map(|end| end.id().number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..39).collect::<Vec<_>>());
        let mut writer = Writer::open(store.clone(), "w0").await.unwrap();
        let rule = Compaction { at_least: 2, ..Compaction::default() };
        assert!(writer.compact(rule, 9).await.unwrap().is_some());
        assert_eq!(all(&store).await.len(), 39);
        let reader = Reader::over(store.clone()).await.unwrap();
        assert!(reader.end(schemas::EpisodeId { split: Split::Expert, number: 20 }).await.unwrap().is_some());
        assert_eq!(store.runs().await.unwrap(), ["r"]);
        let error = Writer::open(server.store("nobodys"), "w").await.err();
        let error = match error {
            Some(error) => error,
            None => Writer::open(server.store("nobodys"), "w").await.unwrap().commit(&ends(Split::Val, 0..1), 1).await.unwrap_err(),
        };
        assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    });
}
