//! A seeded source of chance for networks whose faults must repeat.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014): one
/// word of state and equidistributed output, which is all that faults need. Never for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Seeded(u64);

impl Seeded {
    /// The source of the stream `stream` under `seed`. Streams of one seed are independent, so that what
    /// happens on one link does not change the luck of another.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut mix = Self(seed);
        let base = mix.next();
        let mut of_stream = Self(base ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        Self(of_stream.next())
    }

    /// The source for messages from `from` to `to`.
    pub(crate) fn of_link(seed: u64, from: u64, to: u64) -> Self {
        Self::new(seed, from.rotate_left(32) ^ to)
    }

    /// The next 64 bits.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// True with `probability`; at most 0 is never, at least 1 is always.
    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        // 53 bits are what a double holds exactly, so the comparison is the same on every machine.
        let draw = self.next() >> 11;
        let scale = f64::from(1u32 << 31) * f64::from(1u32 << 22);
        #[expect(
            clippy::cast_precision_loss,
            reason = "the draw has 53 bits, which a double holds exactly"
        )]
        let draw = draw as f64;
        draw < probability * scale
    }

    /// Evenly between zero and `most`, both included.
    pub(crate) fn up_to(&mut self, most: std::time::Duration) -> std::time::Duration {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        let drawn = match most.checked_add(1) {
            Some(values) => self.next() % values,
            None => self.next(),
        };
        std::time::Duration::from_nanos(drawn)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draws = |seed, from, to| {
            let mut source = Seeded::of_link(seed, from, to);
            [source.next(), source.next(), source.next()]
        };
        assert_eq!(draws(1, 1, 2), draws(1, 1, 2));
        assert_ne!(draws(1, 1, 2), draws(1, 2, 1));
        assert_ne!(draws(1, 1, 2), draws(2, 1, 2));
    }

    #[test]
    fn chance_keeps_to_its_probability() {
        let mut source = Seeded::new(7, 0);
        let hits = (0..10_000).filter(|_| source.happens(0.3)).count();
        assert!((2_850..3_150).contains(&hits), "{hits}");
        assert!(!source.happens(0.0) && source.happens(1.0));
        let most = Duration::from_millis(3);
        assert!((0..1_000).all(|_| source.up_to(most) <= most));
    }
}
