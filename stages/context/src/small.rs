//! A small tokenizer for policies trained from nothing.
//!
//! In: observation texts and the world's actions. Out: the two files of a Hugging Face tokenizer: a byte-level BPE whose
//! words are cut at white space alone, so that a word that stands often becomes one token, and one token for each action
//! with the space before it. The same input gives the same bytes.

use crate::Error;
use crate::tokenizer::{IMAGE_PAD, VISION_END, VISION_START};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerImpl,
};

const END_OF_TEXT: &str = "<|endoftext|>";
const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";

/// Special tokens, in the order of their ids.
const SPECIAL: [&str; 6] = [END_OF_TEXT, START, END, VISION_START, VISION_END, IMAGE_PAD];
/// A word with the one space before it, or the white space that is left.
const WORDS: &str = r" ?\S+|\s+(?!\S)|\s";
const BYTES: usize = 256;

/// The chat template: no role words; a system prompt only where there is one.
pub const TEMPLATE: &str = "{% for message in messages %}{% if message['role'] == 'system' %}\
    {% if message['content'] %}{{ message['content'] }}<|im_end|>{% endif %}\
    {% elif message['role'] == 'user' %}<|im_start|>{{ message['content'] }}<|im_end|>\
    {% else %}{{ message['content'] }}<|im_end|>{% endif %}{% endfor %}";

/// Trains a tokenizer of at most `vocabulary` entries (bytes, special tokens and actions included) and gives
/// `(tokenizer.json, tokenizer_config.json)`.
///
/// # Errors
/// [`Error::Vocabulary`] where `vocabulary` has no room for what is always there; [`Error::Tokenizer`] for an action
/// that is empty or holds white space.
pub fn train_small(corpus: &[String], actions: &[String], vocabulary: usize) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let failed = |e: tokenizers::Error| Error::Tokenizer(e.to_string());
    if let Some(bad) = actions.iter().find(|a| a.is_empty() || a.contains(char::is_whitespace)) {
        return Err(Error::Tokenizer(format!("`{bad}` cannot be an action of one token: it is empty or holds white space")));
    }
    let mut spaced: Vec<String> = Vec::new();
    for action in actions {
        let token = format!(" {action}");
        if !spaced.contains(&token) {
            spaced.push(token);
        }
    }
    let least = BYTES + SPECIAL.len() + spaced.len();
    if vocabulary < least {
        return Err(Error::Vocabulary { asked: vocabulary, least });
    }
    let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
    let bytes = ByteLevel::new(false, false, false);
    let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper> =
        TokenizerImpl::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()])));
    tokenizer.with_decoder(Some(bytes));
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocabulary - SPECIAL.len() - spaced.len())
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    // Actions never reach the BPE, so it spends no entries on them.
    let mut longest_first = spaced.clone();
    longest_first.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    let lines = corpus.iter().flat_map(|text| text.split_inclusive('\n')).map(|line| without(line, &longest_first));
    tokenizer.train(&mut trainer, lines.collect::<Vec<_>>().into_iter()).map_err(failed)?;
    tokenizer.add_special_tokens(SPECIAL.map(|token| AddedToken::from(token, true))).map_err(failed)?;
    tokenizer.add_tokens(spaced.into_iter().map(|token| AddedToken::from(token, false).normalized(false))).map_err(failed)?;
    let json = serde_json::to_vec(&tokenizer).map_err(|e| Error::Tokenizer(e.to_string()))?;
    let config = serde_json::json!({
        "add_bos_token": false,
        "bos_token": null,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": END,
        "errors": "replace",
        "pad_token": END_OF_TEXT,
        "split_special_tokens": false,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": null,
    });
    Ok((json, config.to_string().into_bytes()))
}

/// The line with each of `tokens` taken out, longer ones first.
fn without(line: &str, tokens: &[String]) -> String {
    tokens
        .iter()
        .fold(line.to_string(), |line, token| if line.contains(token.as_str()) { line.replace(token.as_str(), "\n") } else { line })
}

#[cfg(test)]
#[path = "small_tests.rs"]
mod tests;
