//! A segment's ids read back as the messages of a conversation.
//!
//! In: token ids that [`crate::Context`] wrote, up to where a reply is asked for. Out: who said what, with a mark where a
//! picture stands. For engines that take conversations and no ids. Text never holds a special token's id, so where a
//! message begins and ends is never in doubt.

use crate::tokenizer::{VISION_END, VISION_START};
use crate::{Context, Error};

/// Who said a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// Its name in chat templates.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    /// The next of the segment's pictures.
    Picture,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub role: Role,
    pub parts: Vec<Part>,
}

impl Context {
    /// The messages of a segment that ends where a reply is asked for.
    ///
    /// # Errors
    /// [`Error::Template`] where the ids are not what this template writes.
    pub fn messages(&self, ids: &[u32]) -> Result<Vec<Said>, Error> {
        let template = &self.template;
        let lost = |what: &str, rest: &[u32]| {
            let at = ids.len() - rest.len();
            Error::Template(format!("the ids are no conversation of this template: no {what} at token {at}"))
        };
        let mut said = vec![];
        // What a template says of its own accord where there is no system prompt is not told again.
        let bare = ids.strip_prefix(&template.bare_head[..]).filter(|rest| rest.starts_with(&template.user_prefix));
        let mut rest = match (bare, ids.strip_prefix(&template.system_prefix[..])) {
            (Some(rest), _) => rest,
            (None, Some(inside)) => {
                let (text, rest) = split(inside, &template.system_suffix).ok_or_else(|| lost("end of the system prompt", inside))?;
                said.push(Said { role: Role::System, parts: self.parts(text) });
                rest
            }
            (None, None) => return Err(lost("head", ids)),
        };
        loop {
            let inside = rest.strip_prefix(&template.user_prefix[..]).ok_or_else(|| lost("turn", rest))?;
            let (text, after) = split(inside, &template.user_suffix).ok_or_else(|| lost("end of the turn", inside))?;
            said.push(Said { role: Role::User, parts: self.parts(text) });
            if after.is_empty() {
                return Ok(said);
            }
            let (reply, after) = split(after, &[template.end_of_turn()]).ok_or_else(|| lost("end of the reply", after))?;
            said.push(Said { role: Role::Assistant, parts: self.parts(reply) });
            rest = after.strip_prefix(&template.after_end[..]).ok_or_else(|| lost("space after the reply", after))?;
        }
    }

    /// Text and pictures in their order.
    fn parts(&self, ids: &[u32]) -> Vec<Part> {
        let mut parts = vec![];
        let text = |ids: &[u32], parts: &mut Vec<Part>| {
            if !ids.is_empty() {
                parts.push(Part::Text(self.tokenizer.decode(ids)));
            }
        };
        let mut rest = ids;
        if let (Some(start), Some(end)) = (self.tokenizer.special_id(VISION_START), self.tokenizer.special_id(VISION_END)) {
            while let Some((before, inside)) = split(rest, &[start]) {
                let Some((_, after)) = split(inside, &[end]) else { break };
                text(before, &mut parts);
                parts.push(Part::Picture);
                rest = after;
            }
        }
        text(rest, &mut parts);
        parts
    }
}

/// What stands before and after the first place where `mark` stands.
fn split<'a>(ids: &'a [u32], mark: &[u32]) -> Option<(&'a [u32], &'a [u32])> {
    let at = ids.windows(mark.len().max(1)).position(|window| window == mark)?;
    Some((&ids[..at], &ids[at + mark.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;
    use crate::testing::{frame, qwen, small};
    use proptest::prelude::*;
    use schemas::{SegmentHead, Source};

    fn text(role: Role, text: &str) -> Said {
        let parts = if text.is_empty() { vec![] } else { vec![Part::Text(text.into())] };
        Said { role, parts }
    }

    /// Messages of a conversation that was written turn by turn.
    fn read_back(context: &Context, system: &str, turns: &[(String, String)]) -> (Vec<Said>, Vec<Said>) {
        let mut segment = context.open(&SegmentHead { system: system.into(), ..SegmentHead::default() }, 0).unwrap();
        let mut expected = if system.is_empty() { vec![] } else { vec![text(Role::System, system)] };
        for (number, (observation, reply)) in turns.iter().enumerate() {
            context.push_turn(&mut segment, observation, &[]).unwrap();
            expected.push(text(Role::User, observation));
            if number + 1 < turns.len() {
                let ids = context.reply_ids(reply);
                let versions = vec![(0, ids.len() as u32)];
                let reply_of = Reply {
                    turn: number as u32,
                    logprobs: vec![0.0; ids.len()],
                    ids,
                    versions,
                    source: Source::Policy,
                    cut: false,
                    trainable: true,
                };
                context.push_reply(&mut segment, reply_of).unwrap();
                expected.push(text(Role::Assistant, reply));
            }
        }
        (context.messages(&segment.tokens.0).unwrap(), expected)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            system in "[a-z<>|_ .\n]{0,30}",
            turns in prop::collection::vec(("[a-zP_OG <>|/im\n]{1,40}", "(move_ahead|done|<\\|im_end\\|>| x){0,3}"), 1..5),
        ) {
            let (read, expected) = read_back(small(), &system, &turns);
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn pictures_stand_where_they_were_shown_and_other_ids_are_refused() {
        if let Some(context) = qwen() {
            let mut segment = context.open(&SegmentHead { system: "Fetch.".into(), ..SegmentHead::default() }, 0).unwrap();
            context.push_turn(&mut segment, "ahead <image> below <image>", &[frame(56, 56), frame(56, 84)]).unwrap();
            let said = context.messages(&segment.tokens.0).unwrap();
            let parts = [Part::Text("ahead ".into()), Part::Picture, Part::Text(" below ".into()), Part::Picture];
            assert_eq!(said, [text(Role::System, "Fetch."), Said { role: Role::User, parts: parts.into() }]);
        }
        let refused = small().messages(&[5, 6, 7]).unwrap_err().to_string();
        assert!(refused.contains("no conversation of this template"), "{refused}");
    }
}
