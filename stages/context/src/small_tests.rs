use super::*;
use crate::testing::{actions, corpus, small};
use crate::{ImageSettings, Tokenizer};
use proptest::prelude::*;

#[test]
fn every_action_is_one_token_with_its_space() {
    let tokenizer = &small().tokenizer;
    for action in actions() {
        let ids = tokenizer.encode_text(&format!(" {action}"));
        assert_eq!(ids.len(), 1, "{action}");
        assert_eq!(tokenizer.decode(&ids), format!(" {action}"));
    }
    let reply = " move_ahead rotate_left_small rotate_left done";
    let ids = tokenizer.encode_text(reply);
    assert_eq!(ids.len(), 4);
    assert_eq!(tokenizer.decode(&ids), reply);
    assert_eq!(small().reply_ids(reply).len(), 5);
}

#[test]
fn frequent_words_are_one_token() {
    let tokenizer = &small().tokenizer;
    for word in [" fetch", " mug", "goal:", " worked,", "P", " O", "\n"] {
        assert_eq!(tokenizer.encode_text(word).len(), 1, "{word:?}");
    }
}

#[test]
fn training_is_deterministic() {
    let train = || train_small(&corpus(), &actions(), 400).unwrap();
    let (first, second) = (train(), train());
    assert!(first == second);
}

#[test]
fn no_more_entries_than_asked_for_and_special_ones_after_the_words() {
    let tokenizer = &small().tokenizer;
    assert!(tokenizer.vocab_size() <= 400);
    let special = SPECIAL.map(|s| tokenizer.special_id(s).unwrap());
    assert!(special.is_sorted());
    // Every byte has a token, so that any text can be written.
    assert_eq!(tokenizer.decode(&tokenizer.encode_text("ÿ\u{0}\u{7f}€😀")), "ÿ\u{0}\u{7f}€😀");
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let (least, few) = (256 + 6 + 2, vec!["a".to_string(), "b".to_string(), "a".to_string()]);
    assert!(matches!(train_small(&[], &few, least - 1), Err(Error::Vocabulary { asked, least: l }) if l == least && asked == least - 1));
    let (json, config) = train_small(&[], &few, least).unwrap();
    assert_eq!(Tokenizer::from_files(&json, &config).unwrap().vocab_size(), least);
    for bad in ["", "two words"] {
        assert!(matches!(train_small(&[], &[bad.to_string()], 400), Err(Error::Tokenizer(_))));
    }
}

#[test]
fn the_template_has_no_role_words() {
    let (json, config) = train_small(&corpus(), &actions(), 400).unwrap();
    let context = crate::Context::from_files(&json, &config, ImageSettings::default()).unwrap();
    let texts = &context.template.texts;
    let pieces = [&texts.bare_head, &texts.system_prefix, &texts.system_suffix, &texts.user_prefix, &texts.user_suffix, &texts.reply_close];
    assert_eq!(pieces, ["", "", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_end|>"]);
}

proptest! {
    #[test]
    fn decoding_gives_the_text_back(text in "(\\PC|\n|\t| move_ahead| rotate_left|mug|<\\|im_end\\|>|<image>| ){0,30}") {
        let tokenizer = &small().tokenizer;
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode_text(&text)), text);
    }
}
