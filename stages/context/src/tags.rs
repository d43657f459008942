//! Finds a run of tags with free text in the gaps between them.
//!
//! In: marks and a text. Out: the texts of the gaps. White space before a tag is skipped; a gap takes as little as it can,
//! but goes on past a tag where only that makes the rest fit, as a lazy group of a regular expression does.

use std::collections::BTreeSet;

/// One part of what is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// This text, after any white space.
    Tag(String),
    /// Free text, up to the tag that follows. Two gaps never stand side by side, and none stands last.
    Gap,
}

impl Mark {
    pub(crate) fn tag(text: &str) -> Mark {
        Mark::Tag(text.to_string())
    }
}

/// The gaps where the marks span the whole text, white space around them left out.
pub(crate) fn find_whole<'a>(marks: &[Mark], text: &'a str) -> Option<Vec<&'a str>> {
    let mut search = Search { marks, text, whole: true, dead: BTreeSet::new(), gaps: Vec::new() };
    search.from(0, 0).then_some(search.gaps)
}

/// The gaps at the first place in the text where the marks fit.
pub(crate) fn find_anywhere<'a>(marks: &[Mark], text: &'a str) -> Option<Vec<&'a str>> {
    let Some(Mark::Tag(first)) = marks.first() else { return None };
    let mut search = Search { marks, text, whole: false, dead: BTreeSet::new(), gaps: Vec::new() };
    text.match_indices(first.as_str()).any(|(at, _)| search.from(0, at)).then_some(search.gaps)
}

struct Search<'a, 'm> {
    marks: &'m [Mark],
    text: &'a str,
    /// The last mark must reach the end of the text.
    whole: bool,
    /// `(mark, byte)` from which the rest does not fit: keeps the search polynomial whatever the text.
    dead: BTreeSet<(usize, usize)>,
    gaps: Vec<&'a str>,
}

impl Search<'_, '_> {
    /// Whether the marks from `mark` on fit the text from byte `at` on. On success the gaps are filled in.
    fn from(&mut self, mark: usize, at: usize) -> bool {
        if self.dead.contains(&(mark, at)) {
            return false;
        }
        let fits = match self.marks.get(mark) {
            None => !self.whole || self.text[at..].trim().is_empty(),
            Some(Mark::Tag(tag)) => {
                let rest = &self.text[at..];
                let trimmed = rest.trim_start();
                let start = at + rest.len() - trimmed.len();
                trimmed.starts_with(tag.as_str()) && self.from(mark + 1, start + tag.len())
            }
            Some(Mark::Gap) => self.gap(mark, at),
        };
        if !fits {
            self.dead.insert((mark, at));
        }
        fits
    }

    fn gap(&mut self, mark: usize, at: usize) -> bool {
        let Some(Mark::Tag(close)) = self.marks.get(mark + 1) else { return false };
        let text = self.text;
        for (offset, _) in text[at..].match_indices(close.as_str()) {
            let held = self.gaps.len();
            self.gaps.push(&text[at..at + offset]);
            if self.from(mark + 2, at + offset + close.len()) {
                return true;
            }
            self.gaps.truncate(held);
        }
        false
    }
}
