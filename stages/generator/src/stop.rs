//! Stop strings: text that ends a reply, found also across token borders.
//!
//! Tokens are sampled one after the other, so cutting a finished reply at the token that completes the text gives the same
//! reply as stopping there would have given.

use crate::engine::Generated;

/// The reply up to the token that completes the first stop string; as it was where there is none.
pub(crate) fn cut_at_stop(generated: Generated, stop: &[String], decode: impl Fn(&[u32]) -> String) -> Generated {
    let found = |count: &usize| {
        let text = decode(&generated.tokens[..*count]);
        stop.iter().any(|s| !s.is_empty() && text.contains(s.as_str()))
    };
    if stop.is_empty() || !found(&generated.tokens.len()) {
        return generated;
    }
    let Some(count) = (1..=generated.tokens.len()).find(found) else { return generated };
    let Generated { ticket, mut tokens, mut logprobs, versions, .. } = generated;
    tokens.truncate(count);
    logprobs.truncate(count);
    let mut left = count as u32;
    let kept = versions.into_iter().filter_map(|(version, n)| {
        let taken = n.min(left);
        left -= taken;
        (taken > 0).then_some((version, taken))
    });
    Generated { ticket, tokens, logprobs, versions: kept.collect(), cut: false, failed: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each token is the letter of its number.
    fn letters(ids: &[u32]) -> String {
        ids.iter().map(|id| char::from(*id as u8)).collect()
    }

    fn reply(text: &str) -> Generated {
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        let half = tokens.len() as u32 / 2;
        let versions = vec![(1, half), (2, tokens.len() as u32 - half)];
        Generated { ticket: 1, logprobs: vec![-1.0; tokens.len()], tokens, versions, cut: true, failed: None }
    }

    #[test]
    fn it_is_cut_where_the_text_is_complete() {
        let cut = cut_at_stop(reply("left</answer>more"), &["</answer>".into()], letters);
        assert_eq!((letters(&cut.tokens), cut.logprobs.len(), cut.cut), ("left</answer>".to_string(), 13, false));
        assert_eq!(cut.versions, [(1, 8), (2, 5)]);
    }

    #[test]
    fn without_the_text_it_stays() {
        for stop in [vec![], vec![String::new()], vec!["up".to_string()]] {
            assert_eq!(cut_at_stop(reply("left"), &stop, letters), reply("left"));
        }
    }
}
