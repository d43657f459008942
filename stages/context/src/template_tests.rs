use super::*;
use crate::testing::{qwen, small};
use proptest::prelude::*;

const CHATML: &str = "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn chatml_is_taken_apart() {
    let texts = Texts::derive(CHATML).unwrap();
    assert_eq!(texts.bare_head, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n");
    assert_eq!((texts.system_prefix.as_str(), texts.system_suffix.as_str()), ("<|im_start|>system\n", "<|im_end|>\n"));
    assert_eq!((texts.user_prefix.as_str(), texts.user_suffix.as_str()), ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"));
    assert_eq!(texts.reply_close, "<|im_end|>\n");
}

#[test]
fn templates_on_lines_of_their_own_lose_those_line_ends() {
    let spread = "{%- for m in messages %}\n    {%- if m.role == \"user\" or m['role'].startswith('sys') %}\n        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}\n    {%- else %}\n        {{- '<|im_start|>assistant\\n' + m.content + '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n";
    let texts = Texts::derive(spread).unwrap();
    assert_eq!(texts.user_suffix, "<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(texts.bare_head, "");
}

#[test]
fn templates_that_cannot_be_taken_apart_are_refused() {
    let every = |body: &str| format!("{{% for m in messages %}}{body}{{% endfor %}}");
    for (template, why) in [
        (every("{{ m['content'] | upper }}<|im_end|>"), "dropped, changed"),
        (every("{% if m['role'] != 'system' %}{{ m['content'] }}<|im_end|>{% endif %}"), "dropped, changed"),
        (every("{{ m['content'] }}{{ m['content'] }}<|im_end|>"), "twice"),
        (every("{{ loop.index }}{{ m['content'] }}<|im_end|>"), "one by one"),
        (every("{{ m['content'].split('</think>')[-1] }}<|im_end|>"), "its pieces give"),
        ("{{ raise_exception('no') }}".to_string(), "no"),
        ("{% for %}".to_string(), "syntax"),
    ] {
        let error = Texts::derive(&template).expect_err(&template).to_string();
        assert!(error.contains(why), "{template}: {error}");
    }
}

/// A conversation: whether a system prompt opens it, and its texts.
fn talk<'a>(system: Option<&'a str>, texts: &'a [String]) -> Vec<Message<'a>> {
    let turns = texts.iter().enumerate().map(|(n, text)| if n % 2 == 0 { Message::User(text) } else { Message::Reply(text) });
    system.map(Message::System).into_iter().chain(turns).collect()
}

proptest! {
    /// Whatever is said, the pieces give what the template itself renders.
    #[test]
    fn pieces_equal_the_templates_own_rendering(system in prop::option::of("\\PC{1,20}"), mut texts in prop::collection::vec("(\\PC|\n){0,20}", 1..7)) {
        if texts.len() % 2 == 0 {
            texts.pop();
        }
        let messages = talk(system.as_deref(), &texts);
        for source in [Some(CHATML), Some(crate::small::TEMPLATE), qwen().map(|q| q.tokenizer.chat_template())].into_iter().flatten() {
            let rendered = Jinja::new(source).unwrap().render(&messages, true).unwrap();
            prop_assert_eq!(Texts::derive(source).unwrap().render(&messages), rendered);
        }
    }
}

#[test]
fn the_tokens_of_the_pieces_are_those_of_their_texts() {
    let Some(context) = qwen() else { return };
    let template = &context.template;
    assert_eq!(template.user_prefix, [151_644, 872, 198]);
    assert_eq!(template.user_suffix, [151_645, 198, 151_644, 77_091, 198]);
    assert_eq!((template.end_of_turn(), template.after_end.as_slice()), (151_645, &[198][..]));
    assert_eq!(small().template.after_end, Vec::<u32>::new());
}
