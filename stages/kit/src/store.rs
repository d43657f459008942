//! Objects of a run: the artifacts bucket, and the claims that stand for payloads too large for a message.

use crate::Error;
use async_nats::jetstream::{self, object_store::GetErrorKind, object_store::ObjectStore};
use async_nats::{Client, HeaderMap};
use schemas::subjects;
use tokio::io::AsyncReadExt;

/// The header of a message whose payload lies in the claims bucket; its value is the object's name.
pub const CLAIM_HEADER: &str = "Errand-Claim";
/// Claims of core messages start so; whoever takes the message removes the claim.
pub(crate) const CORE_CLAIM: &str = "core-";

/// The claim that a message carries, if any.
pub fn claim_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(CLAIM_HEADER).map(|value| value.as_str())
}

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
    let mut object = match bucket.get(name).await {
        Ok(object) => object,
        Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::broker(format!("reading the object `{name}`"), error)),
    };
    let mut bytes = Vec::with_capacity(object.info().size);
    object.read_to_end(&mut bytes).await.map_err(|e| Error::broker(format!("reading the object `{name}`"), e))?;
    Ok(Some(bytes))
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
