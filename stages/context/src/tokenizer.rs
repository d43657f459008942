//! A Hugging Face tokenizer, loaded once, with a bounded memory of pieces.
//!
//! In: tokenizer.json and tokenizer_config.json. Out: token ids of texts, texts of token ids, and which ids end a reply,
//! stand for pictures, or must never be sampled.
//!
//! **How a text becomes tokens here.** A text is cut after each newline; each line, its newline included, is tokenised by
//! itself, and the text's ids are those of its lines in order. For some tokenizers that differs from tokenising the whole
//! (Qwen2.5 has tokens that reach over a newline), but nothing is ever tokenised twice, so it only has to be the same
//! everywhere: a policy sees one way of cutting, in training and in use. In return most lines of most turns are found in
//! the memory, and a turn costs microseconds. Template text and special tokens never go this way: see [`crate::Template`].

use crate::{Error, memory::Memory};
use serde::Deserialize;
use std::sync::{Mutex, PoisonError};
use tokenizers::models::bpe::BPE;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl};

/// The model's type is named, so that the file is read straight into it, without a JSON tree of 300,000 nodes between.
type ByteLevelBpe = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Lines over this many bytes are not remembered.
const LONGEST_REMEMBERED: usize = 512;

/// Tokens that stand for pictures and videos in the Qwen-VL family: never sampled.
pub const VISION_START: &str = "<|vision_start|>";
pub const VISION_END: &str = "<|vision_end|>";
pub const IMAGE_PAD: &str = "<|image_pad|>";

/// See the module's text.
pub struct Tokenizer {
    bpe: ByteLevelBpe,
    /// Special tokens by text and id, longest text first.
    special: Vec<(String, u32)>,
    eos: Option<u32>,
    /// The template's own end of a reply; known once the template is read.
    end_of_turn: u32,
    chat_template: String,
    size: usize,
    digest: String,
    template_digest: String,
    lines: Mutex<Memory>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("size", &self.size).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// What is read of tokenizer_config.json.
#[derive(Deserialize)]
struct ConfigFile {
    chat_template: Option<ChatTemplate>,
    eos_token: Option<TokenText>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChatTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Plain(String),
    Full { content: String },
}

impl Tokenizer {
    /// Loads a tokenizer from the two files' bytes.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] or [`Error::Config`], with the line where the JSON is wrong, or what is missing;
    /// [`Error::Template`] where the chat template cannot be used.
    pub fn from_files(tokenizer_json: &[u8], tokenizer_config_json: &[u8]) -> Result<Tokenizer, Error> {
        let config: ConfigFile = serde_json::from_slice(tokenizer_config_json).map_err(|e| Error::Config(e.to_string()))?;
        let chat_template = match config.chat_template {
            Some(ChatTemplate::One(template)) => template,
            Some(ChatTemplate::Named(named)) => {
                let default = named.into_iter().find(|t| t.name == "default");
                default.ok_or_else(|| Error::Config("no chat_template of the name `default`".into()))?.template
            }
            None => return Err(Error::Config("no chat_template; hint: copy it there from chat_template.jinja".into())),
        };
        let mut bpe: ByteLevelBpe = serde_json::from_slice(tokenizer_json).map_err(|e| Error::Tokenizer(e.to_string()))?;
        bpe.set_encode_special_tokens(true);
        if bpe.get_vocab_size(false) == 0 {
            return Err(Error::Tokenizer("the vocabulary is empty".into()));
        }
        let added = bpe.get_added_tokens_decoder();
        let greatest = added.keys().copied().max().unwrap_or(0) as usize;
        let mut special: Vec<(String, u32)> = added.iter().filter(|(_, t)| t.special).map(|(id, t)| (t.content.clone(), *id)).collect();
        special.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        let eos = match config.eos_token {
            Some(TokenText::Plain(text) | TokenText::Full { content: text }) => {
                Some(bpe.token_to_id(&text).ok_or_else(|| Error::Config(format!("eos_token `{text}` is not in tokenizer.json")))?)
            }
            None => None,
        };
        let mut tokenizer = Tokenizer {
            size: bpe.get_vocab_size(true).max(greatest + 1),
            bpe,
            special,
            eos,
            end_of_turn: 0,
            digest: blake3::hash(tokenizer_json).to_hex().to_string(),
            template_digest: blake3::hash(chat_template.as_bytes()).to_hex().to_string(),
            chat_template,
            lines: Mutex::new(Memory::default()),
        };
        tokenizer.end_of_turn = crate::Template::new(&tokenizer)?.end_of_turn();
        Ok(tokenizer)
    }

    /// The ids of a text, line by line (see the module's text). What looks like a special token stays text. A tokenizer
    /// that cannot write some of the text leaves that out; a byte-level one can write every text.
    pub fn encode_text(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        self.encode_into(text, &mut ids);
        ids
    }

    /// The same, appended to `ids`.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        // A poisoned lock means a panic while a line was being remembered; the memory is then still whole.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for line in text.split_inclusive('\n') {
            if line.len() > LONGEST_REMEMBERED {
                ids.extend(self.encode_line(line));
            } else if let Some(known) = lines.get(line) {
                ids.extend_from_slice(known);
            } else {
                let fresh = self.encode_line(line);
                ids.extend_from_slice(&fresh);
                lines.insert(line, fresh);
            }
        }
    }

    fn encode_line(&self, line: &str) -> Vec<u32> {
        // The one error that the library can give here is a model's missing unknown token: such a piece has no id.
        self.bpe.encode_fast(line, false).map(|e| e.get_ids().to_vec()).unwrap_or_default()
    }

    /// The text of token ids; special tokens are left out, bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.bpe.decode(ids, true).unwrap_or_default()
    }

    /// Ids of text that the template wrote: special tokens in it are taken as such.
    pub(crate) fn encode_template(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let (mut plain, mut at) = (0, 0);
        while at < text.len() {
            let rest = &text[at..];
            if let Some((token, id)) = self.special.iter().find(|(token, _)| rest.starts_with(token.as_str())) {
                self.encode_into(&text[plain..at], &mut ids);
                ids.push(*id);
                at += token.len();
                plain = at;
            } else {
                at += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
        self.encode_into(&text[plain..], &mut ids);
        ids
    }

    /// The id of a special token's text.
    pub fn special_id(&self, text: &str) -> Option<u32> {
        self.special.iter().find(|(token, _)| token == text).map(|(_, id)| *id)
    }

    /// Whether an id is a special token's.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.iter().any(|(_, special)| *special == id)
    }

    /// The token with which a reply ends, by the chat template.
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// Every token that ends a reply: the template's, and the configuration's `eos_token`. Ascending.
    pub fn stop_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.eos.into_iter().chain([self.end_of_turn]).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// What must never be sampled from a model whose output has `outputs` rows: every special token but those that end a
    /// reply, the vision ones among them, and every row that stands for no token. Ascending.
    pub fn banned_ids(&self, outputs: usize) -> Vec<u32> {
        let stop = self.stop_ids();
        let special = self.special.iter().map(|(_, id)| *id).filter(|id| !stop.contains(id) && (*id as usize) < self.size);
        let mut ids: Vec<u32> = special.chain((self.size..outputs).map(|id| id as u32)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// One more than the greatest id.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// Hex BLAKE3 of tokenizer.json.
    pub fn digest(&self) -> String {
        self.digest.clone()
    }

    /// Hex BLAKE3 of the chat template's text.
    pub fn template_digest(&self) -> String {
        self.template_digest.clone()
    }

    /// The chat template as it was given, jinja.
    pub fn chat_template(&self) -> &str {
        &self.chat_template
    }
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
