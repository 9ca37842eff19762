//! What is looked up: the same pairs in the same order on every run.

/// Topics and partitions of each.
const TOPICS: u32 = 1_000;
const PARTITIONS: u32 = 100;

/// Pairs in all.
pub(super) const COUNT: usize = (TOPICS * PARTITIONS) as usize;

/// Pairs of a topic and a partition, shuffled so that no cache line helps the next look.
pub(super) struct Keys {
    topics: Vec<String>,
    order: Vec<(u32, u32)>,
}

impl Keys {
    pub(super) fn new() -> Self {
        let topics = (0..TOPICS)
            .map(|i| format!("team{}.orders.region-{i}", i % 37))
            .collect();
        let pairs = (0..TOPICS).flat_map(|topic| (0..PARTITIONS).map(move |partition| (topic, partition)));
        let mut order: Vec<_> = pairs.collect();
        // Fisher and Yates, by the numbers of a multiplicative congruential generator.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for last in (1..order.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let other = usize::try_from(state >> 33).unwrap_or(0) % (last + 1);
            order.swap(last, other);
        }
        Self { topics, order }
    }

    /// The pairs, each with its topic's number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &str, u32)> {
        self.order.iter().filter_map(|(topic, partition)| {
            let number = *topic as usize;
            self.topics
                .get(number)
                .map(|topic| (number, topic.as_str(), *partition))
        })
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(String::as_str)
    }
}
