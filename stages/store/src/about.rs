//! What a run says of itself once, at its start: the pipeline that it plays, and the files of its tokenizer.
//!
//! With it a store needs nothing beside it: its trajectories can be played again, shown, and written in other forms, and a
//! learner can tell whether their tokens are of its own tokenizer.

use crate::location::Put;
use crate::{Error, SCHEMA_VERSION, Store};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// See the module's text. One JSON object at `about/<run>/about.json`, written by put-if-absent and never changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub schema: u32,
    pub run: String,
    /// The pipeline file's text.
    pub pipeline: String,
    /// Hex BLAKE3 of the tokenizer, the chat template and the image processor, as the learner announces them with its
    /// weights; empty where the pipeline has none.
    pub tokenizer: String,
    pub template: String,
    pub image_processor: String,
    /// Names of the policy's files that lie beside this object, as `tokenizer.json`.
    pub files: Vec<String>,
}

impl About {
    fn path(run: &str, name: &str) -> String {
        format!("about/{run}/{name}")
    }

    /// What keeps tokens of `self` from being trained by a policy that has these digests; `None` where nothing does.
    pub fn misfit(&self, tokenizer: &str, template: &str, image_processor: &str) -> Option<String> {
        let pairs = [
            ("tokenizer", self.tokenizer.as_str(), tokenizer),
            ("chat template", self.template.as_str(), template),
            ("image processor", self.image_processor.as_str(), image_processor),
        ];
        let short = |digest: &str| if digest.is_empty() { "none".to_string() } else { digest.chars().take(12).collect() };
        let (what, theirs, ours) = pairs.into_iter().find(|(_, theirs, ours)| theirs != ours)?;
        Some(format!("the trajectories of `{}` are of {what} {}, this policy has {}", self.run, short(theirs), short(ours)))
    }
}

impl Store {
    /// Says what the run is, unless that has been said before: the first word stands. Gives what stands.
    ///
    /// # Errors
    /// [`Error::Write`] or [`Error::Read`].
    pub async fn describe(&self, mut about: About, files: &[(&str, &[u8])]) -> Result<About, Error> {
        if let Some(before) = self.about().await? {
            return Ok(before);
        }
        about.schema = SCHEMA_VERSION;
        about.run = self.run().into();
        about.files = files.iter().map(|(name, _)| name.to_string()).collect();
        for (name, bytes) in files {
            self.put(&About::path(self.run(), name), Bytes::copy_from_slice(bytes)).await?;
        }
        let json = serde_json::to_vec_pretty(&about).expect("it holds strings and numbers only");
        match self.put(&About::path(self.run(), "about.json"), Bytes::from(json)).await? {
            Put::Written => Ok(about),
            Put::AlreadyThere => Ok(self.about().await?.unwrap_or(about)),
        }
    }

    /// What the run said of itself; `None` where it said nothing, as runs before schema 2.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Malformed`], or [`Error::Schema`] where a newer release wrote it.
    pub async fn about(&self) -> Result<Option<About>, Error> {
        let path = About::path(self.run(), "about.json");
        let Some(json) = self.get(&path).await? else { return Ok(None) };
        let about: About =
            serde_json::from_slice(&json).map_err(|error| Error::Malformed { path: path.clone(), reason: error.to_string() })?;
        if about.schema > SCHEMA_VERSION {
            return Err(Error::Schema { path, found: about.schema, known: SCHEMA_VERSION });
        }
        Ok(Some(about))
    }

    /// One of the files that [`About::files`] names.
    ///
    /// # Errors
    /// [`Error::Read`] where it is not there.
    pub async fn about_file(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = About::path(self.run(), name);
        let gone = || Error::Read { store: self.url().into(), path: path.clone(), reason: "it is not there".into() };
        Ok(self.get(&path).await?.ok_or_else(gone)?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_stands() {
        let store = crate::tests::memory();
        crate::tests::run(async {
            assert_eq!(store.about().await.unwrap(), None);
            let first = About { pipeline: "name = \"a\"".into(), tokenizer: "t".into(), ..About::default() };
            let stands = store.describe(first, &[("tokenizer.json", b"{}")]).await.unwrap();
            assert_eq!((stands.run.as_str(), stands.files.len()), ("r", 1));
            let other = About { pipeline: "name = \"b\"".into(), ..About::default() };
            assert_eq!(store.describe(other, &[]).await.unwrap(), stands);
            assert_eq!(store.about_file("tokenizer.json").await.unwrap(), b"{}");
            assert!(store.about_file("x").await.is_err());
        });
    }

    #[test]
    fn another_tokenizer_is_named() {
        let about = About { tokenizer: "aa".into(), run: "r".into(), ..About::default() };
        assert_eq!(about.misfit("aa", "", ""), None);
        assert!(about.misfit("bb", "", "").unwrap().contains("tokenizer aa, this policy has bb"));
        assert!(about.misfit("aa", "", "cc").unwrap().contains("image processor none"));
    }
}
