//! Feature levels: what may be written to the log, so that every member understands it.

use super::Levels;
use crate::Refusal;

/// The feature whose levels are those of this library's own formats.
pub const RIVVEN_FEATURE: &str = "rivven";

/// The highest level of [`RIVVEN_FEATURE`] that this release supports.
pub const RIVVEN_LEVEL: u32 = 1;

/// Most features with a finalised level.
pub const MAX_FEATURES: usize = 64;

/// Longest name of a feature, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// What this node supports, and what the group has finalised.
#[derive(Clone, Debug)]
pub(crate) struct Features {
    /// Of this node, not replicated.
    supported: Levels,
    /// Replicated.
    finalized: Levels,
    /// Whether levels are only looked at, and nothing acts on them.
    lenient: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            supported: Levels::from([(RIVVEN_FEATURE.to_owned(), RIVVEN_LEVEL)]),
            finalized: Levels::new(),
            lenient: false,
        }
    }
}

impl Features {
    /// Adds the embedder's features to this library's own.
    pub(crate) fn supporting(levels: Levels) -> Self {
        let mut features = Self::default();
        features.supported.extend(levels);
        features
    }

    /// Takes whatever is finalised: to look into a snapshot whose application is not at hand.
    pub(crate) fn of_anybody() -> Self {
        Self {
            lenient: true,
            ..Self::default()
        }
    }

    pub(crate) const fn supported(&self) -> &Levels {
        &self.supported
    }

    pub(crate) const fn finalized(&self) -> &Levels {
        &self.finalized
    }

    /// Finalises a level. Levels only rise.
    ///
    /// # Errors
    /// Outer: this node does not support it. Inner: there are too many features; nothing was changed.
    pub(super) fn finalize(&mut self, feature: &str, level: u32) -> Result<Result<u32, Refusal>, String> {
        if !self.finalized.contains_key(feature) && self.finalized.len() >= MAX_FEATURES {
            let message = format!("{MAX_FEATURES} features are finalised; use one of them");
            return Ok(Err(Refusal::new("too-many-features", message)));
        }
        let finalized = self.finalized.entry(feature.to_owned()).or_insert(level);
        *finalized = level.max(*finalized);
        let finalized = *finalized;
        self.check_supported()?;
        Ok(Ok(finalized))
    }

    /// Replaces what is finalised by what a snapshot says.
    ///
    /// # Errors
    /// This node does not support it.
    pub(super) fn restore(&mut self, finalized: Levels) -> Result<(), String> {
        self.finalized = finalized;
        self.check_supported()
    }

    /// Refuses what needs a level that is not finalised.
    pub(crate) fn check(&self, required: Option<(&str, u32)>) -> Result<(), Refusal> {
        let Some((feature, needed)) = required else {
            return Ok(());
        };
        let finalized = self.finalized.get(feature).copied().unwrap_or(0);
        if finalized >= needed {
            return Ok(());
        }
        let message = format!(
            "this needs level {needed} of feature `{feature}`, and {finalized} is finalised; upgrade every \
             member, then finalise the level"
        );
        Err(Refusal::new("feature-not-finalized", message))
    }

    fn check_supported(&self) -> Result<(), String> {
        for (feature, level) in &self.finalized {
            let supported = self.supported.get(feature).copied().unwrap_or(0);
            if *level > supported && !self.lenient {
                return Err(format!(
                    "level {level} of feature `{feature}` is finalised, and this release supports {supported}; \
                     upgrade this node"
                ));
            }
        }
        Ok(())
    }
}

pub(super) fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        let message = format!("a feature's name has 1 to {MAX_NAME_BYTES} bytes");
        return Err(Refusal::new("invalid-feature", message));
    }
    Ok(())
}
