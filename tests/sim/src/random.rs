//! SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough to choose faults by.

use holdfast_core::ids::Digest;

#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A stream of its own for one subject, so that a subject that is switched off does not change what the others draw.
    pub fn of(seed: u64, subject: &str) -> Self {
        let digest = Digest::of(format!("{seed}/{subject}").as_bytes());
        Self(u64::from_str_radix(&digest.hex()[..16], 16).unwrap_or(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// None of nothing.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.below(from.len() as u64) as usize;
        from.get(at)
    }
}
