//! Which keys: ranges of text.

use serde::{Deserialize, Serialize};

/// Keys from a first one up to, but without, a last one, in the order of their UTF-8 bytes.
///
/// ```
/// use rivven_raft::KeyRange;
///
/// assert!(KeyRange::prefix("jobs/").contains("jobs/7"));
/// assert!(!KeyRange::from_to("a", "c").contains("c"));
/// assert!(KeyRange::all().contains("anything"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    start: String,
    end: Option<String>,
}

impl KeyRange {
    /// Every key.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            start: String::new(),
            end: None,
        }
    }

    /// Keys that start with `prefix`; every key for the empty one.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        let start = prefix.into();
        let end = after_prefix(&start);
        Self { start, end }
    }

    /// Keys from `start` up to, but without, `end`.
    pub fn from_to(start: impl Into<String>, end: impl Into<String>) -> Self {
        let (start, end) = (start.into(), Some(end.into()));
        Self { start, end }
    }

    /// Keys from `start` on.
    pub fn starting_at(start: impl Into<String>) -> Self {
        let (start, end) = (start.into(), None);
        Self { start, end }
    }

    /// One key.
    pub fn key(key: impl Into<String>) -> Self {
        let start = key.into();
        // Nothing lies between a text and the same with a zero character behind it.
        let end = Some(format!("{start}\0"));
        Self { start, end }
    }

    /// The first key that can be in the range.
    #[must_use]
    pub fn start(&self) -> &str {
        &self.start
    }

    /// The key that ends the range and is not in it; `None`: the range has no end.
    #[must_use]
    pub fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.start.as_str() <= key && !self.is_before(key)
    }

    /// What of it lies after `key`, such as the last one of a page.
    #[must_use]
    pub fn after(&self, key: &str) -> Self {
        Self {
            start: format!("{key}\0"),
            end: self.end.clone(),
        }
    }

    /// Whether the range ends at `key` or before it.
    pub(super) fn is_before(&self, key: &str) -> bool {
        self.end.as_deref().is_some_and(|end| end <= key)
    }
}

/// The first text after all that start with `prefix`, if there is one.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The order of scalar values is that of their UTF-8; between 0xD7FF and 0xE000 there are none.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_ends_where_nothing_starts_with_it_any_more() {
        let check = |prefix: &str, end: Option<&str>| {
            assert_eq!(KeyRange::prefix(prefix).end(), end, "{prefix:?}");
        };
        check("", None);
        check("a", Some("b"));
        check("a\u{d7ff}", Some("a\u{e000}"));
        check("a\u{10ffff}", Some("b"));
        check("\u{10ffff}\u{10ffff}", None);
    }

    proptest! {
        #[test]
        fn ranges_hold_what_they_say(prefix in "\\PC{0,3}", key in "\\PC{0,5}", rest in "\\PC{0,2}") {
            let range = KeyRange::prefix(prefix.clone());
            prop_assert_eq!(range.contains(&key), key.starts_with(&prefix));
            let longer = format!("{prefix}{rest}");
            prop_assert!(range.contains(&longer));
            prop_assert_eq!(KeyRange::key(prefix.clone()).contains(&longer), rest.is_empty());
        }
    }
}
