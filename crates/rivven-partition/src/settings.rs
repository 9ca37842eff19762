//! What can be set for the cluster and, more closely, for a topic.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    InSyncRule, LEADER_IMBALANCE_PERCENT, LEADER_RETURN_HOLD_MS, MAX_OWN_SETTINGS, MAX_REPLICATION_FACTOR,
    MAX_SETTING_KEY_LEN, MAX_SETTING_VALUE_LEN, MOVES_IN_FLIGHT, MOVES_IN_FLIGHT_PER_NODE, REBUILD_HOLD_MS,
};

/// Settings of one level: the cluster or a topic. A key without a value here has that of the level above, and
/// at the top its default.
///
/// The keys are those of [`KEYS`], and any that begins with `x-`, which the application may use as it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(Option<Arc<BTreeMap<String, String>>>);

/// Where a key may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// For the cluster only.
    Cluster,
    /// For the cluster, and for a topic.
    Topic,
}

/// A key that this crate understands.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Key {
    /// Name of the key.
    pub name: &'static str,
    /// Where it may be set.
    pub scope: Scope,
    /// The values it takes, for people.
    pub values: &'static str,
    /// Its value where nobody has set one.
    pub default: &'static str,
    check: fn(&str) -> bool,
}

/// The keys that this crate understands.
pub const KEYS: [Key; 9] = [
    Key {
        name: IN_SYNC,
        scope: Scope::Cluster,
        values: "live: replicas hold only metadata, and those that live are in sync; reported: leaders say which are",
        default: "live",
        check: |text| matches!(text, "live" | "reported"),
    },
    Key {
        name: MIN_IN_SYNC,
        scope: Scope::Topic,
        values: "1 to 15: moves never leave a partition with fewer in-sync replicas",
        default: "1",
        check: |text| within(text, 1, MAX_REPLICATION_FACTOR.into()),
    },
    Key {
        name: ZONES,
        scope: Scope::Topic,
        values: "preferred: replicas as far apart as zones allow; hard: never two in one zone",
        default: "preferred",
        check: |text| matches!(text, "preferred" | "hard"),
    },
    Key {
        name: REBUILD,
        scope: Scope::Cluster,
        values: "on: replicas of lost and emptied nodes are rebuilt elsewhere; off: they wait",
        default: "on",
        check: |text| matches!(text, "on" | "off"),
    },
    Key {
        name: REBUILD_HOLD,
        scope: Scope::Cluster,
        values: "0 to 604800000: how long a node must be down before its replicas are rebuilt",
        default: "600000",
        check: |text| within(text, 0, 7 * 24 * 3_600_000),
    },
    Key {
        name: IN_FLIGHT,
        scope: Scope::Cluster,
        values: "1 to 65536: most partitions that move at a time",
        default: "256",
        check: |text| within(text, 1, 65_536),
    },
    Key {
        name: IN_FLIGHT_PER_NODE,
        scope: Scope::Cluster,
        values: "1 to 65536: most partitions that move to one node at a time",
        default: "64",
        check: |text| within(text, 1, 65_536),
    },
    Key {
        name: IMBALANCE,
        scope: Scope::Cluster,
        values: "0 to 1000: leaders are balanced once a gap exceeds this share of the mean",
        default: "10",
        check: |text| within(text, 0, 1_000),
    },
    Key {
        name: RETURN_HOLD,
        scope: Scope::Cluster,
        values: "0 to 86400000: how long a node must be back before it is given leaders",
        default: "5000",
        check: |text| within(text, 0, 24 * 3_600_000),
    },
];

const IN_SYNC: &str = "in-sync";
const MIN_IN_SYNC: &str = "min-in-sync-replicas";
const ZONES: &str = "zones";
const REBUILD: &str = "rebuild";
const REBUILD_HOLD: &str = "rebuild-hold-ms";
const IN_FLIGHT: &str = "moves-in-flight";
const IN_FLIGHT_PER_NODE: &str = "moves-in-flight-per-node";
const IMBALANCE: &str = "leader-imbalance-percent";
const RETURN_HOLD: &str = "leader-return-hold-ms";

/// Prefix of the keys that belong to the application.
const OWN: &str = "x-";

/// Whether replicas of a partition may share a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ZoneRule {
    /// As far apart as zones allow: no zone holds more replicas of a partition than it must.
    Preferred,
    /// Never two in one zone, even if that leaves a partition with fewer replicas.
    Hard,
}

/// Why a setting is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SettingError {
    /// There is no such key, or not at this level. Check its name, or begin it with `x-`.
    #[error("there is no key {key} at this level; check its name, or begin a key of your own with x-")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// The key does not take that value.
    #[error("{key} takes {values}")]
    InvalidValue {
        /// The key.
        key: String,
        /// What it takes.
        values: String,
    },
    /// A key or value of the application's own is too long, or there are too many.
    #[error(
        "keys of your own have at most {MAX_SETTING_KEY_LEN} bytes of a-z 0-9 - . and values \
         {MAX_SETTING_VALUE_LEN}, and there are at most {MAX_OWN_SETTINGS}; shorten {key} or remove some"
    )]
    TooMuch {
        /// The key.
        key: String,
    },
}

impl SettingError {
    /// A stable name of the kind of error, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownKey { .. } => "unknown-setting",
            Self::InvalidValue { .. } => "invalid-setting",
            Self::TooMuch { .. } => "setting-too-long",
        }
    }
}

impl Settings {
    /// What is set at this level, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.0.iter().flat_map(|map| map.iter());
        entries.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The value of a key at this level.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.as_ref()?.get(key).map(String::as_str)
    }

    /// With these changes, `None` for a key to be unset.
    ///
    /// # Errors
    /// [`SettingError`].
    pub fn with(
        &self,
        scope: Scope,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<Self, SettingError> {
        let mut map = self.0.as_deref().cloned().unwrap_or_default();
        for (key, value) in changes {
            match value {
                None => drop(map.remove(key)),
                Some(value) => {
                    check(scope, key, value)?;
                    map.insert(key.clone(), value.clone());
                }
            }
        }
        let own = map.keys().filter(|key| key.starts_with(OWN)).count();
        if own > MAX_OWN_SETTINGS {
            let key = changes.keys().next().cloned().unwrap_or_default();
            return Err(SettingError::TooMuch { key });
        }
        Ok(Self((!map.is_empty()).then(|| Arc::new(map))))
    }

    /// Whether what is set could have been set at this level.
    pub(crate) fn is_sound(&self, scope: Scope) -> bool {
        let mut own = 0;
        let sound = self.iter().all(|(key, value)| {
            own += usize::from(key.starts_with(OWN));
            check(scope, key, value).is_ok()
        });
        sound && own <= MAX_OWN_SETTINGS && self.0.as_ref().is_none_or(|map| !map.is_empty())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }
}

fn check(scope: Scope, key: &str, value: &str) -> Result<(), SettingError> {
    if key.starts_with(OWN) {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        let fits = key.len() <= MAX_SETTING_KEY_LEN && key.bytes().all(plain);
        if !fits || value.len() > MAX_SETTING_VALUE_LEN {
            let key = key.chars().take(MAX_SETTING_KEY_LEN).collect();
            return Err(SettingError::TooMuch { key });
        }
        return Ok(());
    }
    let known = KEYS
        .iter()
        .find(|known| known.name == key && known.scope >= scope);
    let known = known.ok_or_else(|| SettingError::UnknownKey {
        key: key.chars().take(MAX_SETTING_KEY_LEN).collect(),
    })?;
    if !(known.check)(value) {
        return Err(SettingError::InvalidValue {
            key: key.into(),
            values: known.values.into(),
        });
    }
    Ok(())
}

fn within(text: &str, least: u64, most: u64) -> bool {
    // Written in the one usual way, so that equal settings are equal text.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain && text.parse().is_ok_and(|number| (least..=most).contains(&number))
}

/// What holds for a topic, or for the cluster: its own settings, then those above, then the defaults.
#[derive(Clone, Copy, Debug)]
pub struct Effective<'a> {
    pub(crate) topic: Option<&'a Settings>,
    pub(crate) cluster: &'a Settings,
}

impl<'a> Effective<'a> {
    /// The value of a key that is set at one of the levels or has a default.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let own = self.topic.and_then(|topic| topic.get(key));
        let default = || {
            KEYS.iter()
                .find(|known| known.name == key)
                .map(|known| known.default)
        };
        own.or_else(|| self.cluster.get(key)).or_else(default)
    }

    fn number(&self, key: &str) -> Option<u64> {
        let own = self.topic.and_then(|topic| topic.number(key));
        own.or_else(|| self.cluster.number(key))
    }

    /// The fewest in-sync replicas with which a move may leave a partition; fewer only if the topic has fewer.
    #[must_use]
    pub fn min_in_sync(&self) -> usize {
        let number = self.number(MIN_IN_SYNC).and_then(|number| number.try_into().ok());
        number.unwrap_or(1)
    }

    /// Who says which replicas are in sync. Nodes whose program holds data set this when they start.
    #[must_use]
    pub fn in_sync(&self) -> InSyncRule {
        match self.get(IN_SYNC) {
            Some("reported") => InSyncRule::Reported,
            _ => InSyncRule::LiveReplica,
        }
    }

    /// Whether replicas may share a zone.
    #[must_use]
    pub fn zones(&self) -> ZoneRule {
        match self.get(ZONES) {
            Some("hard") => ZoneRule::Hard,
            _ => ZoneRule::Preferred,
        }
    }

    /// Whether replicas of lost and emptied nodes are rebuilt without being asked for.
    #[must_use]
    pub fn rebuilds(&self) -> bool {
        self.get(REBUILD) != Some("off")
    }

    /// How long a node must be down before its replicas are rebuilt, flaps apart.
    #[must_use]
    pub fn rebuild_hold_ms(&self) -> u64 {
        self.number(REBUILD_HOLD).unwrap_or(REBUILD_HOLD_MS)
    }

    /// Most partitions that move at a time.
    #[must_use]
    pub fn moves_in_flight(&self) -> usize {
        let number = self.number(IN_FLIGHT).and_then(|number| number.try_into().ok());
        number.unwrap_or(MOVES_IN_FLIGHT)
    }

    /// Most partitions that move to one node at a time.
    #[must_use]
    pub fn moves_in_flight_per_node(&self) -> usize {
        let number = self
            .number(IN_FLIGHT_PER_NODE)
            .and_then(|number| number.try_into().ok());
        number.unwrap_or(MOVES_IN_FLIGHT_PER_NODE)
    }

    /// The gap that starts the balancing of leaders, in percent of the mean.
    #[must_use]
    pub fn leader_imbalance_percent(&self) -> u64 {
        self.number(IMBALANCE).unwrap_or(LEADER_IMBALANCE_PERCENT)
    }

    /// How long a node must be back before it is given leaders, flaps apart.
    #[must_use]
    pub fn leader_return_hold_ms(&self) -> u64 {
        self.number(RETURN_HOLD).unwrap_or(LEADER_RETURN_HOLD_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(scope: Scope, key: &str, value: &str) -> Result<Settings, SettingError> {
        Settings::default().with(scope, &BTreeMap::from([(key.into(), Some(value.into()))]))
    }

    #[test]
    fn every_default_is_a_value_and_the_one_that_holds() {
        let none = Settings::default();
        let defaults = Effective {
            topic: None,
            cluster: &none,
        };
        for key in KEYS {
            set(key.scope, key.name, key.default).unwrap();
            assert_eq!(defaults.get(key.name), Some(key.default));
        }
        let numbers = [
            (MIN_IN_SYNC, defaults.min_in_sync() as u64),
            (REBUILD_HOLD, defaults.rebuild_hold_ms()),
            (IN_FLIGHT, defaults.moves_in_flight() as u64),
            (IN_FLIGHT_PER_NODE, defaults.moves_in_flight_per_node() as u64),
            (IMBALANCE, defaults.leader_imbalance_percent()),
            (RETURN_HOLD, defaults.leader_return_hold_ms()),
        ];
        for (key, number) in numbers {
            assert_eq!(defaults.get(key), Some(number.to_string().as_str()), "{key}");
        }
        assert_eq!(defaults.in_sync(), InSyncRule::LiveReplica);
        assert!(defaults.rebuilds() && defaults.zones() == ZoneRule::Preferred);
    }

    #[test]
    fn a_topic_overrides_the_cluster_and_falls_back_to_it() {
        let cluster = set(Scope::Cluster, MIN_IN_SYNC, "2").unwrap();
        let topic = set(Scope::Topic, MIN_IN_SYNC, "3").unwrap();
        let effective = |topic| Effective {
            topic,
            cluster: &cluster,
        };
        assert_eq!(effective(None).min_in_sync(), 2);
        assert_eq!(effective(Some(&topic)).min_in_sync(), 3);
        let unset = BTreeMap::from([(MIN_IN_SYNC.into(), None)]);
        let topic = topic.with(Scope::Topic, &unset).unwrap();
        assert_eq!(topic, Settings::default());
        assert_eq!(effective(Some(&topic)).min_in_sync(), 2);
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        let code = |scope, key: &str, value: &str| match set(scope, key, value) {
            Ok(_) => "ok",
            Err(SettingError::UnknownKey { .. }) => "unknown",
            Err(SettingError::InvalidValue { .. }) => "value",
            Err(SettingError::TooMuch { .. }) => "much",
        };
        for (scope, key, value, expected) in [
            (Scope::Cluster, REBUILD_HOLD, "0", "ok"),
            (Scope::Topic, REBUILD_HOLD, "0", "unknown"),
            (Scope::Cluster, "retention", "1", "unknown"),
            (Scope::Topic, MIN_IN_SYNC, "0", "value"),
            (Scope::Topic, MIN_IN_SYNC, "02", "value"),
            (Scope::Topic, MIN_IN_SYNC, "+2", "value"),
            (Scope::Topic, MIN_IN_SYNC, "99999999999999999999", "value"),
            (Scope::Topic, ZONES, "Hard", "value"),
            (Scope::Topic, "x-retention.ms", "anything", "ok"),
            (Scope::Topic, "x-Upper", "", "much"),
            (
                Scope::Topic,
                &format!("x-{}", "y".repeat(MAX_SETTING_KEY_LEN)),
                "",
                "much",
            ),
            (
                Scope::Topic,
                "x-y",
                &"z".repeat(MAX_SETTING_VALUE_LEN + 1),
                "much",
            ),
        ] {
            assert_eq!(code(scope, key, value), expected, "{key} = {value}");
        }
        let many = (0..=MAX_OWN_SETTINGS).map(|i| (format!("x-{i}"), Some(String::new())));
        assert!(Settings::default().with(Scope::Topic, &many.collect()).is_err());
    }
}
