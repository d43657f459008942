//! A small HTTP/1.1 client: one request a connection, with a deadline. vLLM closes idle connections after five seconds, so
//! keeping them open would only bring resets.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The largest answer that is read, bytes.
const LARGEST: u64 = 256 << 20;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Sends a request to `http://host:port/...`; `body` makes it a POST.
///
/// # Errors
/// One line: the address, and what failed.
pub(crate) fn ask(url: &str, body: Option<&Value>, deadline: Duration) -> Result<Answer, String> {
    exchange(url, body, deadline).map_err(|reason| format!("{url}: {reason}"))
}

fn exchange(url: &str, body: Option<&Value>, deadline: Duration) -> Result<Answer, String> {
    let until = Instant::now() + deadline;
    let rest = url.strip_prefix("http://").ok_or("only http:// is spoken; hint: put a proxy in front for https")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let authority = if host.contains(':') { host.to_string() } else { format!("{host}:80") };
    let address = authority.to_socket_addrs().map_err(|e| e.to_string())?.next().ok_or("the name has no address")?;
    let left = || until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()).ok_or("the deadline is over");
    let mut stream = TcpStream::connect_timeout(&address, left()?.min(Duration::from_secs(10))).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(left()?)).map_err(|e| e.to_string())?;
    stream.set_write_timeout(Some(left()?)).map_err(|e| e.to_string())?;
    let text = body.map(Value::to_string).unwrap_or_default();
    let method = if body.is_some() { "POST" } else { "GET" };
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(text.as_bytes())).map_err(|e| e.to_string())?;
    read_answer(BufReader::new(stream))
}

fn read_answer(mut reader: impl BufRead) -> Result<Answer, String> {
    let mut line = String::new();
    let mut next = |reader: &mut dyn BufRead| -> Result<String, String> {
        line.clear();
        reader.take(64 << 10).read_line(&mut line).map_err(|e| e.to_string())?;
        Ok(line.trim_end().to_string())
    };
    let first = next(&mut reader)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no HTTP answer; the connection was closed")?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let header = next(&mut reader)?.to_ascii_lowercase();
        match header.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = value.trim().parse::<u64>().ok(),
            Some(("transfer-encoding", value)) => chunked = value.contains("chunked"),
            Some(_) => {}
        }
    }
    let mut body = vec![];
    if chunked {
        loop {
            let size = u64::from_str_radix(next(&mut reader)?.split(';').next().unwrap_or_default(), 16).map_err(|e| e.to_string())?;
            if size == 0 || body.len() as u64 + size > LARGEST {
                break;
            }
            (&mut reader).take(size).read_to_end(&mut body).map_err(|e| e.to_string())?;
            next(&mut reader)?;
        }
    } else {
        reader.take(length.unwrap_or(LARGEST).min(LARGEST)).read_to_end(&mut body).map_err(|e| e.to_string())?;
        if length.is_some_and(|length| length != body.len() as u64) {
            return Err("the answer was cut off".into());
        }
    }
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_refused() {
        let read = |text: &str| read_answer(text.as_bytes());
        let plain = read("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{\"a\"").unwrap();
        assert_eq!((plain.status, plain.body.len()), (200, 4));
        let chunked = read("HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n6\r\n\": 12}\r\n0\r\n\r\n").unwrap();
        assert_eq!((chunked.status, chunked.json()["a"].as_u64()), (404, Some(12)));
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").unwrap_err().contains("cut off"));
        assert!(read("").is_err());
        assert!(ask("https://x/", None, Duration::from_secs(1)).unwrap_err().contains("https"));
    }
}
