use super::*;
use crate::testing::{qwen, small};
use proptest::prelude::*;

/// The ids of a text, each line tokenised on its own, without the memory.
fn by_line(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    text.split_inclusive('\n').flat_map(|line| tokenizer.encode_line(line)).collect()
}

#[test]
fn stop_and_banned_ids_of_the_small_tokenizer() {
    let tokenizer = &small().tokenizer;
    let end = tokenizer.special_id("<|im_end|>").unwrap();
    assert_eq!(tokenizer.end_of_turn(), end);
    assert_eq!(tokenizer.stop_ids(), [end]);
    let outputs = tokenizer.vocab_size() + 3;
    let banned = tokenizer.banned_ids(outputs);
    for token in ["<|endoftext|>", "<|im_start|>", VISION_START, VISION_END, IMAGE_PAD] {
        assert!(banned.contains(&tokenizer.special_id(token).unwrap()), "{token}");
    }
    assert!(!banned.contains(&end));
    assert!(banned.is_sorted() && banned.ends_with(&[outputs as u32 - 3, outputs as u32 - 2, outputs as u32 - 1]));
    assert_eq!(banned.len(), 5 + 3);
}

#[test]
fn qwens_ids() {
    let Some(context) = qwen() else { return };
    let tokenizer = &context.tokenizer;
    assert_eq!(tokenizer.vocab_size(), 151_665);
    assert_eq!(tokenizer.end_of_turn(), 151_645);
    assert_eq!(tokenizer.encode_text("Hello, world!"), [9707, 11, 1879, 0]);
    let banned = tokenizer.banned_ids(151_936);
    assert!((151_646..=151_656).all(|id| banned.contains(&id)));
    assert!(banned.contains(&151_643) && banned.contains(&151_644) && !banned.contains(&151_645));
    assert!((151_665..151_936).all(|id| banned.contains(&id)) && !banned.contains(&151_657));
    assert_eq!(tokenizer.digest().len(), 64);
    assert_ne!(tokenizer.digest(), tokenizer.template_digest());
}

#[test]
fn text_that_looks_special_stays_text() {
    for context in [Some(small()), qwen()].into_iter().flatten() {
        for text in ["<|im_end|>", "<|image_pad|>", "a <|vision_start|><|image_pad|><|vision_end|> b", "<|endoftext|>\n<|im_start|>user"] {
            let ids = context.tokenizer.encode_text(text);
            assert!(ids.iter().all(|id| !context.tokenizer.is_special(*id)), "{text}");
            assert_eq!(context.tokenizer.decode(&ids), text);
        }
    }
}

#[test]
fn files_that_are_refused() {
    let (json, config) = crate::train_small(&[], &["go".into()], 300).unwrap();
    let load = |json: &[u8], config: &[u8]| Tokenizer::from_files(json, config).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(load(b"{", &config).starts_with("tokenizer.json: "));
    assert!(load(b"{}", &config).starts_with("tokenizer.json: "));
    assert!(load(&json, b"[]").starts_with("tokenizer_config.json: "));
    assert!(load(&json, b"{}").contains("no chat_template"));
    assert!(load(&json, br#"{"chat_template": "{{", "eos_token": null}"#).starts_with("chat_template: "));
    assert!(load(&json, br#"{"chat_template": "x", "eos_token": "<|nowhere|>"}"#).contains("<|nowhere|>"));
    let unclosed = br#"{"chat_template": "{% for m in messages %}{{ m['content'] }}]{% endfor %}"}"#;
    assert!(load(&json, unclosed).contains("begins with no special token"), "{}", load(&json, unclosed));
    assert_eq!(load(&json, &config), "");
}

#[test]
fn a_named_template_and_a_token_object_are_read() {
    let (json, _) = crate::train_small(&[], &["go".into()], 300).unwrap();
    let config = serde_json::json!({
        "chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": crate::small::TEMPLATE}],
        "eos_token": {"content": "<|endoftext|>", "lstrip": false},
    });
    let tokenizer = Tokenizer::from_files(&json, config.to_string().as_bytes()).unwrap();
    let ids = ["<|endoftext|>", "<|im_end|>"].map(|t| tokenizer.special_id(t).unwrap());
    assert_eq!(tokenizer.stop_ids(), ids);
}

proptest! {
    /// The memory never changes an answer, and lines are tokenised one by one.
    #[test]
    fn remembered_lines_give_the_same_ids(texts in prop::collection::vec("(P|_|O|G| |\n|mug|\\PC){0,40}", 1..6)) {
        for context in [Some(small()), qwen()].into_iter().flatten() {
            for text in texts.iter().chain(&texts) {
                prop_assert_eq!(context.tokenizer.encode_text(text), by_line(&context.tokenizer, text));
            }
        }
    }

    #[test]
    fn no_text_gives_a_special_id(text in "(<\\|image_pad\\|>|<\\|im_start\\|>|<\\|vision_end\\|>|<image>|<\\|im_\\PC|\n|\\PC){0,20}") {
        for context in [Some(small()), qwen()].into_iter().flatten() {
            let ids = context.tokenizer.encode_text(&text);
            prop_assert!(ids.iter().all(|id| !context.tokenizer.is_special(*id)));
        }
    }
}
