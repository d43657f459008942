//! Looking at messages: `tap` and `feed` record and play them, `rejected` lists what could not be handled.

use crate::interrupt::Interrupt;
use anyhow::{Context, Result, bail};
use futures::StreamExt;
use schemas::Rejected;
use schemas::subjects::{self, Stream};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// A tapped message on disk: little-endian lengths, then subject and payload.
fn write_record(out: &mut impl Write, subject: &str, payload: &[u8]) -> std::io::Result<()> {
    out.write_all(&(subject.len() as u32).to_le_bytes())?;
    out.write_all(&(payload.len() as u32).to_le_bytes())?;
    out.write_all(subject.as_bytes())?;
    out.write_all(payload)
}

/// The next record, or `None` at the end of the file.
fn read_record(input: &mut impl Read) -> Result<Option<(String, Vec<u8>)>> {
    let mut lengths = [0u8; 8];
    match input.read_exact(&mut lengths) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = |at: usize| u32::from_le_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]]) as usize;
    if length(0) > 4096 || length(4) > (256 << 20) {
        bail!("this is no file of `errand tap`: a record of {} + {} bytes", length(0), length(4));
    }
    let mut subject = vec![0u8; length(0)];
    let mut payload = vec![0u8; length(4)];
    input.read_exact(&mut subject).context("the file is cut off")?;
    input.read_exact(&mut payload).context("the file is cut off")?;
    Ok(Some((String::from_utf8(subject).context("a subject is no UTF-8")?, payload)))
}

/// Writes every message on `subject` to stdout until `count` came, `seconds` passed, or Ctrl-C.
pub(crate) async fn tap(client: &async_nats::Client, subject: &str, count: u64, seconds: f64) -> Result<u64> {
    let mut messages = client.subscribe(subject.to_string()).await?;
    let mut interrupt = Interrupt::caught()?;
    let mut out = std::io::stdout().lock();
    let deadline = tokio::time::sleep(Duration::from_secs_f64(if seconds > 0.0 { seconds } else { 86_400.0 * 365.0 }));
    tokio::pin!(deadline);
    let mut written = 0;
    while count == 0 || written < count {
        tokio::select! {
            _ = &mut deadline => break,
            () = interrupt.asked() => break,
            message = messages.next() => {
                let Some(message) = message else { break };
                match write_record(&mut out, &message.subject, &message.payload) {
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
                    other => other?,
                }
                written += 1;
            }
        }
    }
    out.flush().ok();
    Ok(written)
}

/// Publishes what `tap` wrote, in order; `rename` replaces the run in each subject.
pub(crate) async fn feed(client: &async_nats::Client, file: &Path, run: Option<&str>) -> Result<u64> {
    let open = std::fs::File::open(file).with_context(|| format!("`{}` cannot be read", file.display()))?;
    let mut input = std::io::BufReader::new(open);
    let mut sent = 0;
    while let Some((subject, payload)) = read_record(&mut input)? {
        let subject = match run {
            None => subject,
            Some(run) => {
                let mut parts: Vec<&str> = subject.split('.').collect();
                if parts.len() > 1 {
                    parts[1] = run;
                }
                parts.join(".")
            }
        };
        client.publish(subject, payload.into()).await?;
        sent += 1;
    }
    client.flush().await?;
    Ok(sent)
}

/// What a run could not handle, by its number in the stream.
pub(crate) async fn rejected(client: &async_nats::Client, run: &str) -> Result<Vec<(u64, Rejected)>> {
    let jetstream = async_nats::jetstream::new(client.clone());
    let mut stream =
        jetstream.get_stream(subjects::stream(run, Stream::Rejected)).await.with_context(|| format!("run `{run}` has no stream"))?;
    let state = stream.info().await?.state.clone();
    let mut found = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        if let Ok(message) = stream.get_raw_message(sequence).await {
            let rejected = schemas::decode::<Rejected>(&message.payload).with_context(|| format!("message {sequence}"))?;
            found.push((sequence, rejected));
        }
    }
    Ok(found)
}

/// Publishes a rejected message again where it came from, and takes it off the list.
pub(crate) async fn retry(client: &async_nats::Client, run: &str, sequence: u64) -> Result<String> {
    let (_, message) = rejected(client, run)
        .await?
        .into_iter()
        .find(|(number, _)| *number == sequence)
        .with_context(|| format!("no rejected message {sequence}; hint: `errand rejected ls {run}`"))?;
    let jetstream = async_nats::jetstream::new(client.clone());
    let durable = message.subject.contains(".episodes.") || message.subject.contains(".ends.");
    if durable {
        jetstream.publish(message.subject.clone(), message.payload.into()).await?.await?;
    } else {
        client.publish(message.subject.clone(), message.payload.into()).await?;
        client.flush().await?;
    }
    let stream = jetstream.get_stream(subjects::stream(run, Stream::Rejected)).await?;
    stream.delete_message(sequence).await?;
    Ok(message.subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let mut file = Vec::new();
        write_record(&mut file, "errand.r.observations", b"abc").expect("memory");
        write_record(&mut file, "x", b"").expect("memory");
        let mut input = file.as_slice();
        assert_eq!(read_record(&mut input).expect("first"), Some(("errand.r.observations".into(), b"abc".to_vec())));
        assert_eq!(read_record(&mut input).expect("second"), Some(("x".into(), vec![])));
        assert_eq!(read_record(&mut input).expect("end"), None);
    }

    #[test]
    fn a_cut_file_is_named() {
        let mut file = Vec::new();
        write_record(&mut file, "subject", b"payload").expect("memory");
        file.truncate(file.len() - 2);
        assert!(read_record(&mut file.as_slice()).expect_err("cut").to_string().contains("cut off"));
    }
}
