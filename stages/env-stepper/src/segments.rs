//! When a segment is closed, and what the next one carries over.
//!
//! A segment only grows. Where the next turn would pass one of its bounds it is closed and another is opened, cut to half
//! of the bound at once, so that one prefix serves many turns.

use schemas::Segment;
use schemas::pipeline::PromptConfig;

/// Tokens that the chat template may add after a reply.
pub(crate) const TEMPLATE_SLACK: u32 = 8;

/// The most that one more turn takes of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NextTurn {
    /// Observation tokens, template included.
    pub(crate) observation: u32,
    pub(crate) reply: u32,
    pub(crate) images: u32,
}

impl NextTurn {
    fn tokens(self) -> u32 {
        self.observation.saturating_add(self.reply).saturating_add(TEMPLATE_SLACK)
    }
}

/// Whether the turn would pass a bound of the segment.
pub(crate) fn is_full(segment: &Segment, next: NextTurn, bounds: &PromptConfig) -> bool {
    let turns = segment.turns.len() as u32 + 1;
    let tokens = (segment.len() as u32).saturating_add(next.tokens());
    let images = segment.images.len() as u32 + next.images;
    turns > bounds.segment_turns || tokens > bounds.segment_tokens || images > bounds.segment_images
}

/// Which turns the next segment carries: the index, in `segment.turns`, of the first of them.
///
/// As many of the last ones as fit in half of each bound and leave the next turn its room. `head`: tokens that the new
/// segment starts with.
pub(crate) fn carried_from(segment: &Segment, head: u32, next: NextTurn, bounds: &PromptConfig) -> usize {
    let end = segment.turns.last().map_or(0, |t| t.close);
    let mut from = segment.turns.len();
    for (index, turn) in segment.turns.iter().enumerate().rev() {
        let turns = (segment.turns.len() - index) as u32;
        let tokens = head.saturating_add(end - turn.start);
        let images = segment.images.iter().filter(|i| i.offset >= turn.start).count() as u32;
        let halves = turns <= bounds.segment_turns / 2 && tokens <= bounds.segment_tokens / 2 && images <= bounds.segment_images / 2;
        let fits = turns < bounds.segment_turns
            && tokens.saturating_add(next.tokens()) <= bounds.segment_tokens
            && images + next.images <= bounds.segment_images;
        if !(halves && fits) {
            break;
        }
        from = index;
    }
    from
}

/// Tokens that a reply may have in a segment of `length` tokens before this turn.
pub(crate) fn reply_room(length: u32, next: NextTurn, bounds: &PromptConfig) -> u32 {
    bounds.segment_tokens.saturating_sub(length).saturating_sub(next.observation).saturating_sub(TEMPLATE_SLACK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::{ImageSpan, Source, TurnSpan, U32s};

    const NEXT: NextTurn = NextTurn { observation: 10, reply: 4, images: 2 };

    fn bounds() -> PromptConfig {
        PromptConfig { segment_tokens: 200, segment_turns: 8, segment_images: 12, ..PromptConfig::default() }
    }

    /// A head of 20 tokens and turns of 10, each with two pictures.
    fn segment(turns: u32) -> Segment {
        let span = |t: u32| {
            let start = 20 + 10 * t;
            TurnSpan {
                turn: t,
                start,
                reply: start + 7,
                end: start + 9,
                close: start + 10,
                trainable: true,
                source: Source::Policy,
                versions: vec![(0, 2)],
                cut: false,
            }
        };
        let image = |i: u32| ImageSpan { offset: 21 + 5 * i, len: 1, grid: [1, 2, 2], digest: i.to_string() };
        let tokens = U32s((0..20 + 10 * turns).collect());
        Segment { tokens, turns: (0..turns).map(span).collect(), images: (0..2 * turns).map(image).collect(), ..Segment::default() }
    }

    #[test]
    fn each_bound_closes_a_segment() {
        assert!(!is_full(&segment(5), NEXT, &bounds()));
        assert!(is_full(&segment(6), NEXT, &bounds()), "14 images of 12");
        assert!(!is_full(&segment(7), NextTurn { images: 0, ..NEXT }, &PromptConfig { segment_images: 14, ..bounds() }));
        assert!(is_full(&segment(8), NEXT, &PromptConfig { segment_images: 99, ..bounds() }), "9 turns of 8");
        assert!(is_full(&segment(5), NextTurn { reply: 150, ..NEXT }, &bounds()), "tokens");
    }

    #[test]
    fn half_of_the_tightest_bound_is_carried() {
        let images = bounds();
        assert_eq!(carried_from(&segment(6), 20, NEXT, &images), 3, "6 images are 3 turns");
        let turns = PromptConfig { segment_images: 99, ..bounds() };
        assert_eq!(carried_from(&segment(8), 20, NEXT, &turns), 4);
        let tokens = PromptConfig { segment_images: 99, segment_turns: 99, segment_tokens: 110, ..bounds() };
        assert_eq!(carried_from(&segment(8), 20, NEXT, &tokens), 5, "55 tokens are the head and 3 turns");
        let one = PromptConfig { segment_turns: 1, ..bounds() };
        assert_eq!(carried_from(&segment(1), 20, NEXT, &one), 1, "nothing fits");
    }

    #[test]
    fn a_reply_gets_what_is_left() {
        assert_eq!(reply_room(100, NEXT, &bounds()), 200 - 100 - 10 - TEMPLATE_SLACK);
        assert_eq!(reply_room(195, NEXT, &bounds()), 0);
    }
}
