//! Prompt formats: how a reply is written, asked for and read.
//!
//! In: the pipeline's prompt settings, the world's actions, a reply's text. Out: a reply in the format, the words that ask
//! for it, or what a reply says. It knows no tokens and no world.
//!
//! The tagged formats are VAGEN's. A reply is read twice: *strictly*, where the tags must span the whole reply, which is
//! what the format reward pays for, and *loosely*, where the tags may stand anywhere in it. `prompt.strict` takes actions
//! from the strict reading alone; without it the loose reading also gives actions, and the reply counts as ill-formed.

use crate::tags::{self, Mark};
use schemas::pipeline::{Format, PromptConfig};

/// An action that a reply may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionSpec {
    /// The canonical name: what [`parse`] gives back and [`write()`] writes.
    pub name: String,
    /// Other spellings.
    pub aliases: Vec<String>,
    /// What follows it in a reply is dropped.
    pub ends_reply: bool,
}

/// What a reply is written from; a format uses the parts that it has tags for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyParts {
    pub actions: Vec<String>,
    pub observation: String,
    pub reasoning: String,
    pub prediction: String,
}

/// What a reply says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Canonical names, at most `actions_per_turn`, to be run in this order.
    pub actions: Vec<String>,
    /// Pieces that are not run, as they were written: over the limit, after an action that ends the reply, from the
    /// first unknown one on, or all of them where the format forbids taking any.
    pub dropped: Vec<String>,
    /// The reply follows its format strictly, and holds at least one action and no unknown one.
    pub well_formed: bool,
    pub observation: Option<String>,
    pub prediction: Option<String>,
    pub reasoning: Option<String>,
}

/// Tags that are taken out of a section's text, as VAGEN does.
const OUTER_TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];

/// A written name that is longer than this, in bytes, is like no action's.
const LONGEST_NAME: usize = 40;
/// The least likeness (Jaro and Winkler's) of a name that is offered in place of another.
const LEAST_LIKENESS: f64 = 0.75;

/// Which part of a reply a section of a tagged format holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Observation,
    Reasoning,
    Prediction,
}

impl Section {
    fn tag(self) -> &'static str {
        match self {
            Section::Observation => "observation",
            Section::Reasoning => "reasoning",
            Section::Prediction => "prediction",
        }
    }
}

/// The sections inside `<think>`, each in a tag of its own; empty for the formats that have none.
fn sections(format: Format) -> &'static [Section] {
    match format {
        Format::Actions | Format::FreeThink | Format::NoThink => &[],
        Format::Grounding => &[Section::Observation, Section::Reasoning],
        Format::Worldmodeling => &[Section::Reasoning, Section::Prediction],
        Format::GroundingWorldmodeling => &[Section::Observation, Section::Reasoning, Section::Prediction],
    }
}

/// The tags of a format in order, with a gap for each part.
fn marks(format: Format) -> Vec<Mark> {
    let mut marks = Vec::new();
    if format != Format::NoThink {
        marks.push(Mark::tag("<think>"));
        for section in sections(format) {
            marks.extend([Mark::tag(&format!("<{}>", section.tag())), Mark::Gap, Mark::tag(&format!("</{}>", section.tag()))]);
        }
        if sections(format).is_empty() {
            marks.push(Mark::Gap);
        }
        marks.push(Mark::tag("</think>"));
    }
    marks.extend([Mark::tag("<answer>"), Mark::Gap, Mark::tag("</answer>")]);
    marks
}

/// Actions as a reply writes them. Where the separator is white space each action has one before it, since a policy
/// trained from nothing has one token for an action with its leading space.
fn join(separator: &str, actions: &[String]) -> String {
    if separator.trim().is_empty() {
        let space = if separator.is_empty() { " " } else { separator };
        actions.iter().flat_map(|action| [space, action.as_str()]).collect()
    } else {
        actions.join(separator)
    }
}

/// Writes a reply in the pipeline's format: the expert's, or a random one that teaches the format.
///
/// Tags inside the parts' texts are taken out, so that what is written is always read back as the same parts.
pub fn write(prompt: &PromptConfig, plan: &ReplyParts) -> String {
    let actions = join(&prompt.action_separator, &plan.actions);
    if prompt.format == Format::Actions {
        return actions;
    }
    let answer = format!("<answer>{actions}</answer>");
    match prompt.format {
        Format::Actions | Format::NoThink => answer,
        Format::FreeThink => format!("<think>{}</think>{answer}", without_tags(&plan.reasoning)),
        Format::Grounding | Format::Worldmodeling | Format::GroundingWorldmodeling => {
            let mut inner = String::new();
            for section in sections(prompt.format) {
                let text = match section {
                    Section::Observation => &plan.observation,
                    Section::Reasoning => &plan.reasoning,
                    Section::Prediction => &plan.prediction,
                };
                inner += &format!("<{tag}>{}</{tag}>", without_tags(text), tag = section.tag());
            }
            format!("<think>{inner}</think>{answer}")
        }
    }
}

/// The text without any tag of any format and without `<image>`, trimmed. Repeats, since taking one out can make another.
fn without_tags(text: &str) -> String {
    let mut text = text.trim().to_string();
    loop {
        let before = text.len();
        for tag in OUTER_TAGS {
            text = text.replace(tag, "");
        }
        for section in [Section::Observation, Section::Reasoning, Section::Prediction] {
            text = text.replace(&format!("<{}>", section.tag()), "").replace(&format!("</{}>", section.tag()), "");
        }
        text = text.replace("<image>", "").trim().to_string();
        if text.len() == before {
            return text;
        }
    }
}

/// Reads a reply. It never fails: what cannot be read gives no actions.
///
/// Names are matched exactly first, then by alias, then without regard to case unless `prompt.strict`. An unknown name
/// ends the list: what stands before it is run. More than `actions_per_turn` actions are dropped; that does not make a
/// tagged reply ill-formed, but a reply in the format `actions`, whose only rule it breaks.
pub fn parse(prompt: &PromptConfig, actions: &[ActionSpec], reply: &str) -> Parsed {
    let reply = reply.replace("<image>", "");
    if prompt.format == Format::Actions {
        let (pieces, gaps) = split(&prompt.action_separator, &reply);
        let (mut parsed, known) = take(prompt, actions, &pieces);
        parsed.well_formed = known && !gaps && pieces.len() <= prompt.actions_per_turn as usize;
        return parsed;
    }
    let marks = marks(prompt.format);
    let strict = tags::find_whole(&marks, reply.trim());
    let is_strict = strict.is_some();
    let Some(gaps) = strict.or_else(|| tags::find_anywhere(&marks, &reply)) else {
        return Parsed::default();
    };
    let mut gaps: Vec<String> = gaps.into_iter().map(without_outer_tags).collect();
    let answer = gaps.pop().unwrap_or_default();
    let (pieces, _) = split(&prompt.action_separator, &answer);
    let mut parsed = if is_strict || !prompt.strict {
        let (mut parsed, known) = take(prompt, actions, &pieces);
        parsed.well_formed = is_strict && known;
        parsed
    } else {
        Parsed { dropped: pieces.iter().map(|p| p.to_string()).collect(), ..Parsed::default() }
    };
    if prompt.format == Format::FreeThink {
        parsed.reasoning = gaps.pop();
    }
    for (section, text) in sections(prompt.format).iter().zip(gaps) {
        match section {
            Section::Observation => parsed.observation = Some(text),
            Section::Reasoning => parsed.reasoning = Some(text),
            Section::Prediction => parsed.prediction = Some(text),
        }
    }
    parsed
}

fn without_outer_tags(text: &str) -> String {
    OUTER_TAGS.iter().fold(text.to_string(), |text, tag| text.replace(tag, "")).trim().to_string()
}

/// The trimmed pieces between separators, and whether an empty one was among them.
fn split<'a>(separator: &str, text: &'a str) -> (Vec<&'a str>, bool) {
    let text = text.trim();
    if separator.trim().is_empty() {
        return (text.split_whitespace().collect(), false);
    }
    if text.is_empty() {
        return (vec![], false);
    }
    let all: Vec<&str> = text.split(separator.trim()).map(str::trim).collect();
    let pieces: Vec<&str> = all.iter().copied().filter(|p| !p.is_empty()).collect();
    let gaps = pieces.len() < all.len();
    (pieces, gaps)
}

/// Takes actions from pieces up to the limit, an unknown one, or one that ends the reply. Also says whether there was at
/// least one, and none unknown.
fn take(prompt: &PromptConfig, actions: &[ActionSpec], pieces: &[&str]) -> (Parsed, bool) {
    let mut parsed = Parsed::default();
    let mut known = !pieces.is_empty();
    let mut open = true;
    for piece in pieces {
        let spec = resolve(actions, piece, prompt.strict);
        // Pieces over the limit are dropped unread, as VAGEN does.
        if parsed.actions.len() >= prompt.actions_per_turn as usize {
            open = false;
        } else if spec.is_none() {
            known = false;
            open = false;
        }
        match spec {
            Some(spec) if open => {
                parsed.actions.push(spec.name.clone());
                open = !spec.ends_reply;
            }
            _ => parsed.dropped.push(piece.to_string()),
        }
    }
    (parsed, known)
}

/// The action of this name: exactly, by alias, or (unless strict) without regard to case.
fn resolve<'a>(actions: &'a [ActionSpec], name: &str, strict: bool) -> Option<&'a ActionSpec> {
    let exact = || actions.iter().find(|a| a.name == name);
    let alias = || actions.iter().find(|a| a.aliases.iter().any(|alias| alias == name));
    let same = |other: &str| other.eq_ignore_ascii_case(name);
    let folded = || actions.iter().find(|a| same(&a.name) || a.aliases.iter().any(|alias| same(alias)));
    exact().or_else(alias).or_else(|| if strict { None } else { folded() })
}

/// The action whose name, or an alias of it, is most like what a reply wrote where no action is called that.
///
/// `None`: an action is called that; or nothing is like it, as in text that is no attempt at a name.
pub fn nearest<'a>(actions: &'a [ActionSpec], strict: bool, written: &str) -> Option<&'a str> {
    if written.len() > LONGEST_NAME || resolve(actions, written, strict).is_some() {
        return None;
    }
    let plain = |name: &str| name.to_ascii_lowercase().replace([' ', '-', '_'], "");
    let written = plain(written);
    // Codes of one or two letters are like everything.
    let names = |action: &'a ActionSpec| {
        action.aliases.iter().filter(|alias| alias.len() > 2).chain([&action.name]).map(move |name| (action.name.as_str(), plain(name)))
    };
    let like = actions.iter().flat_map(names).map(|(name, plain)| (name, strsim::jaro_winkler(&plain, &written)));
    like.filter(|(_, likeness)| *likeness >= LEAST_LIKENESS)
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .map(|(name, _)| name)
}

/// How a reply must look, with an example: for a system prompt.
pub fn instructions(prompt: &PromptConfig, actions: &[ActionSpec]) -> String {
    let names: Vec<&str> = actions.iter().map(|a| a.name.as_str()).collect();
    let shown = (prompt.actions_per_turn.max(1) as usize).min(2).min(actions.len());
    let example = ReplyParts {
        actions: actions.iter().filter(|a| !a.ends_reply).take(shown).map(|a| a.name.clone()).collect(),
        observation: "what I see now".into(),
        reasoning: "why I choose these actions".into(),
        prediction: "what I expect to see next".into(),
    };
    format!("The actions are: {}.\n{}\nFor example: {}", names.join(", "), reminder(prompt), write(prompt, &example).trim())
}

/// How a reply must look, in short: for the end of a turn's text.
pub fn reminder(prompt: &PromptConfig) -> String {
    let separator = match prompt.action_separator.as_str() {
        blank if blank.trim().is_empty() => "a space".to_string(),
        other => format!("`{}`", other.trim()),
    };
    let count = match prompt.actions_per_turn {
        1 => "Name one action a reply.".to_string(),
        many => format!("Name 1 to {many} actions a reply, with {separator} between them."),
    };
    let (order, shape) = match prompt.format {
        Format::Actions => return format!("{count} Write the actions and nothing else."),
        Format::NoThink => ("Give the answer alone.", "<answer>...</answer>"),
        Format::FreeThink => ("Think first, then answer.", "<think>...</think><answer>...</answer>"),
        Format::Grounding => (
            "Say what you observe, reason about it, then answer.",
            "<think><observation>...</observation><reasoning>...</reasoning></think><answer>...</answer>",
        ),
        Format::Worldmodeling => (
            "Reason, predict what comes of your actions, then answer.",
            "<think><reasoning>...</reasoning><prediction>...</prediction></think><answer>...</answer>",
        ),
        Format::GroundingWorldmodeling => (
            "Say what you observe, reason about it, predict what comes of your actions, then answer.",
            "<think><observation>...</observation><reasoning>...</reasoning><prediction>...</prediction></think><answer>...</answer>",
        ),
    };
    format!("{count} {order}\nReply in this form:\n{shape}")
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
