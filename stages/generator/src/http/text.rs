//! Between text and tokens, as Hugging Face's tokenizers and chat templates have it.
//!
//! In requests, what looks like a special token is one: a client says what the prompt is. The pipeline never comes by here.

use super::ApiError;
use super::pictures::Eyes;
use context::template::{Jinja, Message};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tokenizers::Tokenizer;

pub(crate) struct Text {
    tokenizer: Tokenizer,
    template: Option<String>,
    special: BTreeMap<u32, String>,
    /// What ends a reply by itself.
    pub(crate) eos: Vec<u32>,
    pub(crate) config: Vec<u8>,
    pub(crate) vocabulary: usize,
    pub(crate) longest: usize,
    /// Of a model with a vision tower.
    pub(crate) eyes: Option<Eyes>,
}

/// A message of a chat, its parts joined.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChatMessage {
    pub(crate) role: String,
    pub(crate) text: String,
}

impl Text {
    /// Reads a folder's config.json, tokenizer.json, tokenizer_config.json and, where they are, chat_template.jinja and
    /// generation_config.json.
    pub(crate) fn open(folder: &Path) -> Result<Text, String> {
        let read = |name: &str| std::fs::read(folder.join(name)).map_err(|e| format!("{}: {e}", folder.join(name).display()));
        let json = |bytes: &[u8], name: &str| serde_json::from_slice::<Value>(bytes).map_err(|e| format!("{name}: {e}"));
        let config = read("config.json")?;
        let values = json(&config, "config.json")?;
        let tokenizer = Tokenizer::from_bytes(read("tokenizer.json")?).map_err(|e| format!("tokenizer.json: {e}"))?;
        let settings = json(&read("tokenizer_config.json")?, "tokenizer_config.json")?;
        let template = match read("chat_template.jinja") {
            Ok(bytes) => String::from_utf8(bytes).ok(),
            Err(_) => settings["chat_template"].as_str().map(str::to_string),
        };
        let special: BTreeMap<u32, String> = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        let generation =
            read("generation_config.json").ok().and_then(|bytes| json(&bytes, "generation_config.json").ok()).unwrap_or_default();
        let named =
            settings["eos_token"].as_str().or_else(|| settings["eos_token"]["content"].as_str()).and_then(|t| tokenizer.token_to_id(t));
        let ids = |value: &Value| -> Vec<u32> {
            let one = value.as_u64().into_iter();
            one.chain(value.as_array().into_iter().flatten().filter_map(Value::as_u64)).map(|id| id as u32).collect()
        };
        let text_config = if values["text_config"].is_object() { &values["text_config"] } else { &values };
        let mut eos: Vec<u32> = ids(&generation["eos_token_id"]);
        eos.extend(named);
        if eos.is_empty() {
            eos = ids(&text_config["eos_token_id"]);
        }
        eos.sort_unstable();
        eos.dedup();
        let number = |key: &str| text_config[key].as_u64().map(|n| n as usize).ok_or_else(|| format!("config.json lacks `{key}`"));
        let (vocabulary, longest) = (number("vocab_size")?, number("max_position_embeddings")?);
        let eyes = Eyes::open(folder, &values, |token| tokenizer.token_to_id(token))?;
        Ok(Text { tokenizer, template, special, eos, config, vocabulary, longest, eyes })
    }

    /// The ids of a text, special tokens in it taken as such.
    pub(crate) fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ApiError> {
        let encoding = self.tokenizer.encode_fast(text, add_special).map_err(|e| ApiError::bad(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids; bytes that are no UTF-8 become U+FFFD.
    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.tokenizer.decode(ids, skip_special).unwrap_or_default()
    }

    /// One token's text, special ones included.
    pub(crate) fn token(&self, id: u32) -> String {
        self.decode(&[id], false)
    }

    /// One token as the vocabulary spells it.
    pub(crate) fn spelling(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.contains_key(&id)
    }

    /// The prompt's text of a chat.
    pub(crate) fn render(&self, messages: &[ChatMessage], ask: bool, go_on: bool) -> Result<String, ApiError> {
        let template = self.template.as_deref().ok_or_else(|| {
            ApiError::bad(
                "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the \
                 tokenizer does not define one.",
            )
        })?;
        let jinja = Jinja::new(template).map_err(|e| ApiError::bad(e.to_string()))?;
        let messages: Vec<Message<'_>> = messages
            .iter()
            .map(|message| match message.role.as_str() {
                "system" | "developer" => Ok(Message::System(&message.text)),
                "user" => Ok(Message::User(&message.text)),
                "assistant" => Ok(Message::Reply(&message.text)),
                other => Err(ApiError::bad(format!("role `{other}` is not known to this server; allowed: system, user, assistant"))),
            })
            .collect::<Result<_, _>>()?;
        let text = jinja.render(&messages, ask).map_err(|e| ApiError::bad(e.to_string()))?;
        let Some(Message::Reply(last) | Message::User(last) | Message::System(last)) = messages.last().filter(|_| go_on) else {
            return Ok(text);
        };
        // The message to be gone on with stays open: what the template writes after it is left out.
        match text.rfind(last.trim()) {
            Some(at) => Ok(text[..at + last.trim().len()].to_string()),
            None => Err(ApiError::bad(
                "continue_final_message is set but the final message does not appear in the chat after applying the chat template",
            )),
        }
    }
}

/// Turns tokens that come one by one into text that can be shown: a character that is not whole yet waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    ids: Vec<u32>,
    /// Tokens before this are in the text for good; a token's own text may hang on the one before it.
    prefix: usize,
    read: usize,
    /// All text so far.
    pub(crate) text: String,
}

impl Stream {
    /// Takes a token; gives what it adds to the text.
    pub(crate) fn push(&mut self, text: &Text, id: u32, skip_special: bool) -> usize {
        let before = self.text.len();
        self.ids.push(id);
        if skip_special && text.is_special(id) {
            return 0;
        }
        let known = text.decode(&self.ids[self.prefix..self.read], skip_special);
        let all = text.decode(&self.ids[self.prefix..], skip_special);
        if all.len() > known.len() && !all.ends_with('\u{fffd}') && all.is_char_boundary(known.len()) {
            self.text.push_str(&all[known.len()..]);
            self.prefix = self.read;
            self.read = self.ids.len();
        }
        self.text.len() - before
    }

    /// Adds what still waits; it is the end.
    pub(crate) fn finish(&mut self, text: &Text, skip_special: bool) {
        let known = text.decode(&self.ids[self.prefix..self.read], skip_special);
        let all = text.decode(&self.ids[self.prefix..], skip_special);
        if all.len() > known.len() && all.is_char_boundary(known.len()) {
            self.text.push_str(&all[known.len()..]);
            self.read = self.ids.len();
        }
    }
}
