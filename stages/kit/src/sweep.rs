//! Removes claims for which no message stands any more. Run by whoever holds a lease.
//!
//! A claim of a core message is removed by its receiver; what was never received goes after a while. A claim of an end
//! goes when the stream no longer holds that end, or holds it with another claim. Other claims stay as long as the run.

use crate::store::{CORE_CLAIM, claim_of, delete};
use async_nats::Client;
use async_nats::jetstream::{self, object_store::ObjectStore, stream};
use futures::StreamExt;
use schemas::subjects::{self, Stream};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(60);
/// A claim is stored a little before its message.
const YOUNG: Duration = Duration::from_secs(60);
/// No prompt or reply is waited for that long.
const CORE_LIFE: Duration = Duration::from_secs(900);

/// Sweeps once a minute, until its task is ended.
pub(crate) async fn sweep(client: Client, run: String) {
    let js = jetstream::new(client);
    let mut first_seen = BTreeMap::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let Ok(claims) = js.get_object_store(subjects::claims(&run)).await else { continue };
        let Ok(ends) = js.get_stream_no_info(subjects::stream(&run, Stream::Ends)).await else { continue };
        let removed = sweep_once(&claims, &ends, &run, &mut first_seen, Instant::now()).await;
        if removed > 0 {
            tracing::debug!("removed {removed} claims without a message");
        }
    }
}

async fn sweep_once(
    claims: &ObjectStore,
    ends: &stream::Stream<()>,
    run: &str,
    first_seen: &mut BTreeMap<String, Instant>,
    now: Instant,
) -> usize {
    let Ok(mut list) = claims.list().await else { return 0 };
    let mut there = BTreeMap::new();
    while let Some(Ok(info)) = list.next().await {
        let since = first_seen.get(&info.name).copied().unwrap_or(now);
        there.insert(info.name, since);
    }
    *first_seen = there;
    let mut removed = 0;
    for (name, since) in first_seen.iter() {
        let age = now.duration_since(*since);
        let gone = if name.starts_with(CORE_CLAIM) { age > CORE_LIFE } else { age > YOUNG && !stands(ends, run, name).await };
        if gone && delete(claims, name).await.is_ok() {
            removed += 1;
        }
    }
    removed
}

/// Whether a message may still stand for this claim; when in doubt, it does.
async fn stands(ends: &stream::Stream<()>, run: &str, claim: &str) -> bool {
    let Some(subject) = end_subject(run, claim) else { return true };
    match ends.direct_get_last_for_subject(subject).await {
        Ok(message) => claim_of(&message.headers) == Some(claim),
        Err(error) => error.kind() != stream::DirectGetErrorKind::NotFound,
    }
}

/// The subject of the end that a claim `ends-<split>-<number>-…` belongs to.
fn end_subject(run: &str, claim: &str) -> Option<String> {
    let mut parts = claim.split('-');
    let (kind, split, number) = (parts.next()?, parts.next()?, parts.next()?);
    (kind == "ends" && number.parse::<u64>().is_ok()).then(|| format!("errand.{run}.ends.{split}.{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::NatsServer;

    #[test]
    fn only_ends_are_looked_up() {
        assert_eq!(end_subject("r", "ends-train-17-0a-1").as_deref(), Some("errand.r.ends.train.17"));
        assert_eq!(end_subject("r", "rejected-0a-1"), None);
        assert_eq!(end_subject("r", "ends-train"), None);
    }

    #[tokio::test]
    async fn a_claim_stays_as_long_as_its_message() {
        let server = NatsServer::start();
        let text = "name = \"sweep\"\nschedule = []\n[world]\nname = \"frozenlake\"\n[broker]\nstream_mib = 16\n";
        let client = crate::connect(&server.url(), Duration::from_secs(5)).await.unwrap();
        crate::init(&client, "r", &schemas::pipeline::Pipeline::parse(text).unwrap(), text).await.unwrap();
        let js = jetstream::new(client.clone());
        let objects = crate::store::Objects::open(&client, "r").await.unwrap();
        for name in ["ends-train-1-aa-1", "ends-train-1-bb-1", "ends-train-2-aa-2", "rejected-aa-3", "core-aa-4"] {
            crate::store::put(&objects.claims, name, b"x").await.unwrap();
        }
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(crate::store::CLAIM_HEADER, "ends-train-1-bb-1");
        js.publish_with_headers("errand.r.ends.train.1", headers, "".into()).await.unwrap().await.unwrap();
        let ends = js.get_stream_no_info(subjects::stream("r", Stream::Ends)).await.unwrap();
        let (mut seen, begun) = (BTreeMap::new(), Instant::now());
        assert_eq!(sweep_once(&objects.claims, &ends, "r", &mut seen, begun).await, 0);
        assert_eq!(sweep_once(&objects.claims, &ends, "r", &mut seen, begun + YOUNG * 2).await, 2);
        assert_eq!(sweep_once(&objects.claims, &ends, "r", &mut seen, begun + CORE_LIFE * 2).await, 1);
        for (name, stays) in [("ends-train-1-bb-1", true), ("rejected-aa-3", true), ("ends-train-2-aa-2", false), ("core-aa-4", false)] {
            assert_eq!(objects.claim(name).await.unwrap().is_some(), stays, "{name}");
        }
    }
}
