//! Objects of a run: the artifacts bucket, and the claims that stand for payloads too large for a message.

use crate::Error;
use async_nats::jetstream::{
    self,
    object_store::{GetErrorKind, Object, ObjectStore},
};
use async_nats::{Client, HeaderMap};
use schemas::subjects;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// The header of a message whose payload lies in the claims bucket; its value is the object's name.
pub const CLAIM_HEADER: &str = "Errand-Claim";
/// Claims of core messages start so; whoever takes the message removes the claim.
pub(crate) const CORE_CLAIM: &str = "core-";

/// The claim that a message carries, if any.
pub fn claim_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(CLAIM_HEADER).map(|value| value.as_str())
}

/// A chunk of an object comes within this time, or the object is gone.
const STALLED: Duration = Duration::from_secs(2);

/// Opens an object bucket of a run.
///
/// # Errors
/// The broker's own words.
async fn open(js: &jetstream::Context, bucket: &str) -> Result<ObjectStore, Error> {
    js.get_object_store(bucket).await.map_err(|e| Error::broker(format!("opening the object bucket `{bucket}`"), e))
}

/// A run's two object buckets.
#[derive(Clone)]
pub struct Objects {
    pub artifacts: ObjectStore,
    pub claims: ObjectStore,
}

impl Objects {
    /// Opens both buckets; they were made by [`crate::init`].
    ///
    /// # Errors
    /// The broker's own words.
    pub async fn open(client: &Client, run: &str) -> Result<Objects, Error> {
        let js = jetstream::new(client.clone());
        Ok(Objects { artifacts: open(&js, &subjects::artifacts(run)).await?, claims: open(&js, &subjects::claims(run)).await? })
    }

    /// The payload that a claim stands for. `None`: it is gone.
    ///
    /// # Errors
    /// The broker's own words.
    pub async fn claim(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        get(&self.claims, name).await
    }
}

/// Reads a whole object. `None`: there is no such object.
///
/// # Errors
/// The broker's own words; a digest that does not match.
pub async fn get(bucket: &ObjectStore, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let object = match bucket.get(name).await {
        Ok(object) => object,
        Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::broker(format!("reading the object `{name}`"), error)),
    };
    read_whole(object, name).await.map(Some)
}

/// Reads an object that was found. One that is removed meanwhile sends no more chunks and says nothing, so each has a deadline.
async fn read_whole(mut object: Object, name: &str) -> Result<Vec<u8>, Error> {
    let size = object.info().size;
    let mut bytes = Vec::with_capacity(size);
    loop {
        match tokio::time::timeout(STALLED, object.read_buf(&mut bytes)).await {
            Ok(Ok(0)) => return Ok(bytes),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(Error::broker(format!("reading the object `{name}`"), error)),
            Err(_) => {
                let reason = format!("no chunk came for {} s, after {} of {size} bytes", STALLED.as_secs(), bytes.len());
                return Err(Error::broker(format!("reading the object `{name}`"), reason));
            }
        }
    }
}

/// Writes a whole object over an older one of that name.
///
/// # Errors
/// The broker's own words; a full bucket.
pub async fn put(bucket: &ObjectStore, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let mut bytes = bytes;
    bucket.put(name, &mut bytes).await.map_err(|e| Error::Broker {
        doing: format!("writing the object `{name}`"),
        reason: e.to_string(),
        hint: "raise broker.stream_mib if the bucket is full",
    })?;
    Ok(())
}

/// Removes an object. One that is not there is no error.
///
/// # Errors
/// The broker's own words.
pub async fn delete(bucket: &ObjectStore, name: &str) -> Result<(), Error> {
    use async_nats::jetstream::object_store::{DeleteErrorKind, InfoErrorKind};
    match bucket.info(name).await {
        Err(error) if error.kind() == InfoErrorKind::NotFound => return Ok(()),
        Ok(info) if info.deleted => return Ok(()),
        _ => {}
    }
    match bucket.delete(name).await {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == DeleteErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::broker(format!("removing the object `{name}`"), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::object_store::Config;

    #[test]
    fn an_object_that_is_removed_while_it_is_read_is_not_waited_for() {
        let server = crate::testing::NatsServer::start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let js = jetstream::new(async_nats::connect(server.url()).await.unwrap());
            let bucket = js.create_object_store(Config { bucket: "weights".into(), ..Config::default() }).await.unwrap();
            let weights = vec![7u8; 1 << 22];
            put(&bucket, "policy-1", &weights).await.unwrap();
            assert_eq!(get(&bucket, "policy-1").await.unwrap().as_deref(), Some(&weights[..]));
            let found = bucket.get("policy-1").await.unwrap();
            delete(&bucket, "policy-1").await.unwrap();
            assert!(read_whole(found, "policy-1").await.is_err());
            assert_eq!(get(&bucket, "policy-1").await.unwrap(), None, "the next try sees that it is gone");
        });
    }
}
