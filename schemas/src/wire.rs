//! The codec: MessagePack with named fields inside a two-field envelope `{v: version, m: message}`.

use serde::{Serialize, de::DeserializeOwned};

/// A message that travels between stages.
pub trait Message: Serialize + DeserializeOwned {
    /// The name that errors and metrics use.
    const NAME: &'static str;
    /// The version that this build writes.
    const VERSION: u16;
    /// The largest encoding that [`decode`] accepts, in bytes.
    const MAX_BYTES: usize;

    /// A small, complete message, for golden bytes, documentation and tests.
    fn example() -> Self;

    /// Brings the body of an older version to [`Self::VERSION`]. `None` means that the version is not known.
    fn upgrade(version: u16, body: rmpv::Value) -> Option<rmpv::Value> {
        (version == Self::VERSION).then_some(body)
    }
}

/// Why bytes are not the message that was asked for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    #[error("{name}: {bytes} bytes, over its bound of {bound}")]
    TooLarge { name: &'static str, bytes: usize, bound: usize },
    #[error("{name}: {trailing} bytes follow the message")]
    Trailing { name: &'static str, trailing: usize },
    #[error("{name}: version {found} arrived, this build reads up to version {known}; hint: run the same release on every host")]
    Version { name: &'static str, found: u16, known: u16 },
    #[error("{name}: {reason}")]
    Malformed { name: &'static str, reason: String },
}

#[derive(Serialize)]
struct EnvelopeOut<'a, M> {
    v: u16,
    m: &'a M,
}

#[derive(serde::Deserialize)]
struct EnvelopeIn<M> {
    v: u16,
    m: M,
}

#[derive(serde::Deserialize)]
struct VersionOnly {
    v: u16,
}

/// Encodes a message. It does not fail: every message type serialises to memory.
///
/// # Panics
/// Only if a message type's `Serialize` is wrong, which the golden-bytes test of each message rules out.
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    rmp_serde::to_vec_named(&EnvelopeOut { v: M::VERSION, m: message }).expect("messages serialise to memory")
}

/// Decodes one whole message.
///
/// # Errors
/// See [`WireError`]: too large, trailing bytes, an unknown version (both versions are named), or malformed.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, WireError> {
    let name = M::NAME;
    if bytes.len() > M::MAX_BYTES {
        return Err(WireError::TooLarge { name, bytes: bytes.len(), bound: M::MAX_BYTES });
    }
    let mut rest = bytes;
    // The fast path reads the current version straight into the struct.
    let attempt = {
        let mut reader = rmp_serde::Deserializer::new(&mut rest);
        reader.set_max_depth(64);
        <EnvelopeIn<M> as serde::Deserialize>::deserialize(&mut reader)
    };
    match attempt {
        Ok(envelope) if envelope.v == M::VERSION => {
            if rest.is_empty() {
                Ok(envelope.m)
            } else {
                Err(WireError::Trailing { name, trailing: rest.len() })
            }
        }
        Ok(envelope) => upgrade_slowly(bytes, envelope.v),
        Err(error) => match rmp_serde::from_slice::<VersionOnly>(bytes) {
            Ok(only) if only.v != M::VERSION => upgrade_slowly(bytes, only.v),
            _ => Err(WireError::Malformed { name, reason: error.to_string() }),
        },
    }
}

fn upgrade_slowly<M: Message>(bytes: &[u8], found: u16) -> Result<M, WireError> {
    let name = M::NAME;
    let malformed = |reason: String| WireError::Malformed { name, reason };
    let envelope: EnvelopeIn<rmpv::Value> = rmp_serde::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
    let unknown = WireError::Version { name, found, known: M::VERSION };
    let body = M::upgrade(found, envelope.m).ok_or(unknown)?;
    rmpv::ext::from_value(body).map_err(|e| malformed(e.to_string()))
}

/// Any MessagePack as text, for people: byte strings as their length, long values cut.
pub fn describe(bytes: &[u8]) -> String {
    let mut rest = bytes;
    match rmpv::decode::read_value(&mut rest) {
        Ok(value) => describe_value(&value, 0),
        Err(error) => format!("{} bytes that are no MessagePack: {error}", bytes.len()),
    }
}

fn describe_value(value: &rmpv::Value, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    match value {
        rmpv::Value::Map(entries) => entries
            .iter()
            .map(|(key, value)| match value {
                rmpv::Value::Map(_) => format!("{pad}{key}:\n{}", describe_value(value, depth + 1)),
                _ => format!("{pad}{key}: {}", describe_value(value, depth + 1)),
            })
            .collect::<Vec<_>>()
            .join("\n"),
        rmpv::Value::Binary(bytes) => format!("{} bytes", bytes.len()),
        other => {
            let text = other.to_string();
            if text.chars().count() > 400 { format!("{}…", text.chars().take(400).collect::<String>()) } else { text }
        }
    }
}
