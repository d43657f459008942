//! What can be wrong with a tokenizer's files, a template, a picture or a segment.

/// The one error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("tokenizer.json: {0}; hint: a byte-level BPE tokenizer in Hugging Face's format is needed")]
    Tokenizer(String),
    #[error("tokenizer_config.json: {0}")]
    Config(String),
    #[error("chat_template: {0}")]
    Template(String),
    #[error(
        "a small tokenizer of {asked} entries is too small: {least} are taken by bytes, special tokens and actions; hint: raise policy.vocabulary"
    )]
    Vocabulary { asked: usize, least: usize },
    #[error("preprocessor_config.json: {0}")]
    ImageSettings(String),
    #[error("picture {digest}: {reason}")]
    Picture { digest: String, reason: String },
    #[error("the text has {placeholders} `<image>`, but {frames} pictures came with it; hint: one `<image>` for each picture, in order")]
    Placeholders { placeholders: usize, frames: usize },
    #[error(
        "the tokenizer has no `{0}` token, so it can show no pictures; hint: world.pictures = false, or a tokenizer with vision tokens"
    )]
    NoVisionTokens(&'static str),
    #[error("segment {number}: {reason}")]
    Segment { number: u32, reason: String },
}
