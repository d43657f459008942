//! A chat template taken apart into the constant texts between messages.
//!
//! In: the template's jinja, run once on sentinels. Out: what stands before and after each kind of message, as text and as
//! token ids. A template whose text around a message depends on more than the message's role is refused: only then is
//! what is written piece by piece the same as the template's own rendering of the whole.

use crate::{Error, Tokenizer};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, context};

/// The constant pieces as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// What opens a context that has no system prompt; Qwen's templates put a default one there.
    pub bare_head: String,
    pub system_prefix: String,
    pub system_suffix: String,
    pub user_prefix: String,
    /// What closes a turn's observation, and what asks for a reply.
    pub user_suffix: String,
    /// What closes a reply. It begins with the token that ends a turn.
    pub reply_close: String,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Template {
    pub texts: Texts,
    pub(crate) bare_head: Vec<u32>,
    pub(crate) system_prefix: Vec<u32>,
    pub(crate) system_suffix: Vec<u32>,
    pub(crate) user_prefix: Vec<u32>,
    pub(crate) user_suffix: Vec<u32>,
    /// After the token that ends the turn.
    pub(crate) after_end: Vec<u32>,
    end_of_turn: u32,
}

/// One message of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    System(&'a str),
    User(&'a str),
    Reply(&'a str),
}

/// A template's jinja, ready to render.
pub struct Jinja<'a> {
    environment: Environment<'a>,
}

impl<'a> Jinja<'a> {
    /// # Errors
    /// [`Error::Template`] with jinja's own message and line.
    pub fn new(source: &'a str) -> Result<Jinja<'a>, Error> {
        let mut environment = Environment::new();
        // As Hugging Face renders templates.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| Error::Template(e.to_string()))?;
        environment.set_syntax(syntax);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.set_unknown_method_callback(string_method);
        environment.add_template("chat", source).map_err(|e| Error::Template(e.to_string()))?;
        Ok(Jinja { environment })
    }

    /// The template's rendering of messages.
    ///
    /// # Errors
    /// [`Error::Template`] with jinja's own message and line.
    pub fn render(&self, messages: &[Message], ask: bool) -> Result<String, Error> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| match message {
                Message::System(text) => context! { role => "system", content => *text },
                Message::User(text) => context! { role => "user", content => *text },
                Message::Reply(text) => context! { role => "assistant", content => *text },
            })
            .collect();
        let template = self.environment.get_template("chat").map_err(|e| Error::Template(e.to_string()))?;
        template.render(context! { messages, add_generation_prompt => ask }).map_err(|e| Error::Template(format!("{e:#}")))
    }
}

/// The methods of Python's strings that chat templates call.
fn string_method(_: &mut minijinja::State, value: &Value, method: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    let unknown = || minijinja::Error::new(ErrorKind::UnknownMethod, format!("no method `{method}`"));
    let text = value.as_str().ok_or_else(unknown)?;
    let argument = args.first().filter(|a| a.downcast_object_ref::<Kwargs>().is_none()).and_then(|a| a.as_str());
    let strips = |c: char| argument.map_or(c.is_whitespace(), |set| set.contains(c));
    match (method, argument) {
        ("startswith", Some(prefix)) => Ok(Value::from(text.starts_with(prefix))),
        ("endswith", Some(suffix)) => Ok(Value::from(text.ends_with(suffix))),
        ("strip", _) => Ok(Value::from(text.trim_matches(strips))),
        ("lstrip", _) => Ok(Value::from(text.trim_start_matches(strips))),
        ("rstrip", _) => Ok(Value::from(text.trim_end_matches(strips))),
        ("split", Some(separator)) if !separator.is_empty() => Ok(text.split(separator).map(Value::from).collect::<Value>()),
        ("upper", None) => Ok(Value::from(text.to_uppercase())),
        ("lower", None) => Ok(Value::from(text.to_lowercase())),
        _ => Err(unknown()),
    }
}

/// Texts that no template holds and that survive trimming.
const SENTINELS: [&str; 4] = ["\u{1}system\u{1}", "\u{1}first\u{1}", "\u{1}reply\u{1}", "\u{1}second\u{1}"];

impl Texts {
    /// Takes a template apart, and checks on conversations that the pieces give the template's own rendering.
    ///
    /// # Errors
    /// [`Error::Template`]: the template does not compile, drops or moves a message, or cannot be taken apart.
    pub fn derive(source: &str) -> Result<Texts, Error> {
        let jinja = Jinja::new(source)?;
        let [system, first, reply, second] = SENTINELS;
        let told = [Message::System(system), Message::User(first), Message::Reply(reply), Message::User(second)];
        let asked = jinja.render(&told, true)?;
        let [system_prefix, mid, user_suffix, between, last] = cut(&asked, [system, first, reply, second])?;
        let closed = jinja.render(&told[..3], false)?;
        let [_, _, _, reply_close] = cut(&closed, [system, first, reply])?;
        let bare = jinja.render(&[Message::User(first)], true)?;
        let [bare_start, _] = cut(&bare, [first])?;
        let odd = |what: &str| Error::Template(format!("{what}, so turns cannot be added one by one"));
        let user_prefix = between.strip_prefix(reply_close).ok_or_else(|| odd("a reply closes differently before another turn"))?;
        if last != user_suffix {
            return Err(odd("a later turn ends differently from the first"));
        }
        let system_suffix = mid.strip_suffix(user_prefix).ok_or_else(|| odd("the first turn begins differently from a later one"))?;
        let bare_head =
            bare_start.strip_suffix(user_prefix).ok_or_else(|| odd("the first turn begins differently without a system prompt"))?;
        let texts = Texts {
            bare_head: bare_head.into(),
            system_prefix: system_prefix.into(),
            system_suffix: system_suffix.into(),
            user_prefix: user_prefix.into(),
            user_suffix: user_suffix.into(),
            reply_close: reply_close.into(),
        };
        texts.check(&jinja)?;
        Ok(texts)
    }

    /// The text of a conversation, piece by piece.
    pub fn render(&self, messages: &[Message]) -> String {
        let mut text = String::new();
        if !matches!(messages.first(), Some(Message::System(_))) {
            text += &self.bare_head;
        }
        for message in messages {
            let (before, content, after) = match message {
                Message::System(content) => (&self.system_prefix, content, &self.system_suffix),
                Message::User(content) => (&self.user_prefix, content, &self.user_suffix),
                Message::Reply(content) => (&String::new(), content, &self.reply_close),
            };
            text += before;
            text += content;
            text += after;
        }
        text
    }

    fn check(&self, jinja: &Jinja) -> Result<(), Error> {
        use Message::{Reply, System, User};
        let talks: [&[Message]; 3] = [
            &[User("one\ntwo"), Reply("a b"), User("three <image>"), Reply("c"), User("4")],
            &[
                System("be brief\nplease"),
                User("one"),
                Reply("<think>x</think><answer>y</answer>"),
                User("two\n\n2"),
                Reply("d"),
                User("5"),
            ],
            &[System("be brief"), User("one")],
        ];
        for talk in talks {
            let (whole, pieces) = (jinja.render(talk, true)?, self.render(talk));
            if whole != pieces {
                return Err(Error::Template(format!(
                    "the template writes {whole:?}, its pieces give {pieces:?}; hint: a template that keeps every reply as it was is needed"
                )));
            }
        }
        Ok(())
    }
}

/// What stands before, between and after the sentinels; each must stand once and in order.
fn cut<'a, const N: usize, const M: usize>(text: &'a str, sentinels: [&str; N]) -> Result<[&'a str; M], Error> {
    let mut parts = [""; M];
    let mut rest = text;
    for (part, sentinel) in parts.iter_mut().zip(sentinels) {
        let lost = || Error::Template("a message is dropped, changed or written twice".into());
        let (before, after) = rest.split_once(sentinel).ok_or_else(lost)?;
        if after.contains(sentinel) {
            return Err(lost());
        }
        *part = before;
        rest = after;
    }
    parts[M - 1] = rest;
    Ok(parts)
}

impl Template {
    /// The pieces of a tokenizer's own chat template.
    ///
    /// # Errors
    /// [`Error::Template`]: see [`Texts::derive`]; also where a reply does not close with a special token.
    pub fn new(tokenizer: &Tokenizer) -> Result<Template, Error> {
        let texts = Texts::derive(tokenizer.chat_template())?;
        let close = tokenizer.encode_template(&texts.reply_close);
        let end_of_turn = close.first().copied().filter(|id| tokenizer.is_special(*id)).ok_or_else(|| {
            Error::Template(format!("a reply closes with {:?}, which begins with no special token of tokenizer.json", texts.reply_close))
        })?;
        let ids = |text: &str| tokenizer.encode_template(text);
        Ok(Template {
            bare_head: ids(&texts.bare_head),
            system_prefix: ids(&texts.system_prefix),
            system_suffix: ids(&texts.system_suffix),
            user_prefix: ids(&texts.user_prefix),
            user_suffix: ids(&texts.user_suffix),
            after_end: close[1..].to_vec(),
            end_of_turn,
            texts,
        })
    }

    /// The token with which a reply ends.
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
