//! Finalising levels without being asked: once every member has supported one for long enough.

use std::{collections::BTreeMap, sync::Weak, time::Duration};

use tokio::time::{Instant, sleep};

use super::FeatureView;
use crate::{StateMachine, node::Inner};

/// How often the leader asks the members, unless levels are to be finalised sooner than that.
const LOOK: Duration = Duration::from_secs(10);

/// The shortest time between two looks.
const MIN_LOOK: Duration = Duration::from_millis(100);

/// The levels that every member supports and that are not finalised, each since when.
#[derive(Debug, Default)]
struct Agreed(BTreeMap<String, (u32, Instant)>);

impl Agreed {
    /// Takes in what members say now. Gives the levels that all of them have supported for `after` without a break: a
    /// member that does not answer may be on its way back to an earlier release.
    fn see(&mut self, view: &FeatureView, now: Instant, after: Duration) -> Vec<(String, u32)> {
        let mut next = BTreeMap::new();
        if view.silent.is_empty() {
            for (name, levels) in &view.features {
                let common = levels.common();
                if common <= levels.finalized {
                    continue;
                }
                let before = self.0.get(name).filter(|(level, _)| *level == common);
                let since = before.map_or(now, |(_, since)| *since);
                next.insert(name.clone(), (common, since));
            }
        }
        self.0 = next;
        let ripe = self.0.iter().filter(|(_, (_, since))| now - *since >= after);
        ripe.map(|(name, (level, _))| (name.clone(), *level)).collect()
    }
}

/// Finalises what every member has supported for `after`, whenever this node leads, for as long as it lives.
pub(crate) async fn finalize_when_agreed<S: StateMachine>(node: Weak<Inner<S>>, after: Duration) {
    let mut agreed = Agreed::default();
    loop {
        sleep(after.clamp(MIN_LOOK, LOOK)).await;
        // Not held across the pause: the last handle ends the node.
        let Some(node) = node.upgrade() else { return };
        if node.status().leader != Some(node.node_id) {
            agreed = Agreed::default();
            continue;
        }
        let view = node.features().await;
        for (feature, level) in agreed.see(&view, Instant::now(), after) {
            let node_id = node.node_id;
            match node.finalize_feature(&feature, level).await {
                Ok(level) => tracing::info!(node_id, feature, level, "every member supports it: finalised"),
                Err(error) => {
                    tracing::warn!(node_id, feature, level, %error, "cannot be finalised; tried again")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::features::FeatureLevels;

    const AFTER: Duration = Duration::from_secs(60);

    fn view(finalized: u32, supported: [u32; 2], silent: bool) -> FeatureView {
        let levels = FeatureLevels {
            finalized,
            supported: (1..).zip(supported).collect(),
        };
        FeatureView {
            features: BTreeMap::from([("adds".to_owned(), levels)]),
            silent: silent.then_some(3).into_iter().collect::<BTreeSet<_>>(),
        }
    }

    #[test]
    fn a_level_is_ripe_once_all_have_supported_it_without_a_break() {
        let (begin, mut agreed) = (Instant::now(), Agreed::default());
        let mut at = |seconds, view: &FeatureView| {
            let ripe = agreed.see(view, begin + Duration::from_secs(seconds), AFTER);
            ripe.into_iter().map(|(_, level)| level).collect::<Vec<_>>()
        };
        let all = view(1, [2, 2], false);
        assert_eq!(at(0, &view(1, [2, 1], false)), [0; 0], "one is behind");
        assert_eq!(at(10, &all), [0; 0]);
        assert_eq!(at(69, &all), [0; 0]);
        assert_eq!(at(70, &all), [2]);
        assert_eq!(at(80, &all), [2], "as long as it is not done");
        assert_eq!(at(90, &view(2, [2, 2], false)), [0; 0], "done");
        // A member goes silent, or back to the release before: from the beginning.
        for broken in [view(1, [2, 2], true), view(1, [1, 2], false)] {
            assert_eq!(at(100, &all), [0; 0]);
            assert_eq!(at(159, &broken), [0; 0]);
            assert_eq!(at(160, &all), [0; 0]);
            assert_eq!(at(220, &all), [2]);
            assert_eq!(at(221, &broken), [0; 0]);
        }
        // Another level begins anew, too.
        assert_eq!(at(300, &all), [0; 0]);
        assert_eq!(at(360, &view(1, [3, 3], false)), [0; 0]);
        assert_eq!(at(420, &view(1, [3, 3], false)), [3]);
    }
}
