//! What the Raft library counts the sizes of its batches with, for statistics that nobody here asks for.
//!
//! It stands in for the crate of the same name (`[patch.crates-io]` in the workspace's manifest), which puts tables of
//! 26 MB together when the first histogram is made: almost half of what a daemon needs. This one counts by powers of
//! two, and has of that crate's interface what the Raft library uses.

use std::fmt;
use std::marker::PhantomData;

/// Counts values by powers of two. `T`, what periods of time would be marked with, is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// How many values need so many bits.
    counts: [u64; 65],
    mark: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// One without values.
    pub fn new() -> Self {
        Histogram { counts: [0; 65], mark: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value that often.
    pub fn record_n(&mut self, value: u64, times: u64) {
        if let Some(count) = self.counts.get_mut((u64::BITS - value.leading_zeros()) as usize) {
            *count = count.saturating_add(times);
        }
    }

    /// The largest power of two that so many of a thousand values are not below; 0 of none.
    fn at(&self, permille: u64) -> u64 {
        let mut left = (u128::from(self.samples()) * u128::from(permille)).div_ceil(1000);
        for (bits, count) in (0u32..).zip(&self.counts) {
            left = left.saturating_sub(u128::from(*count));
            if left == 0 && *count > 0 {
                return bits.checked_sub(1).map_or(0, |power| 1 << power);
            }
        }
        0
    }

    fn samples(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How the values are spread.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.samples(),
            p0_1: self.at(1),
            p1: self.at(10),
            p5: self.at(50),
            p10: self.at(100),
            p50: self.at(500),
            p90: self.at(900),
            p99: self.at(990),
            p99_9: self.at(999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Histogram::new()
    }
}

/// How values are spread: so many percent of them are not above, to the power of two below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PercentileStats {
    /// How many values there are.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p50, p90, p99, .. } = self;
        write!(f, "[samples: {samples}, P50: {p50}, P90: {p90}, P99: {p99}]")
    }
}

/// Histograms one below the other, as text.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart(Vec<(String, Histogram)>);

impl AsciiChart {
    /// One without histograms.
    pub fn new() -> Self {
        AsciiChart::default()
    }

    /// Adds a histogram with its name.
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.0.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, histogram)| writeln!(f, "{name}: {}", histogram.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_powers_of_two() {
        let mut all = Histogram::<()>::new();
        assert_eq!(all.percentile_stats().to_string(), "[samples: 0, P50: 0, P90: 0, P99: 0]");
        all.record_n(0, 10);
        all.record_n(5, 80);
        all.record_n(1000, 9);
        all.record(u64::MAX);
        let stats = all.percentile_stats();
        assert_eq!((stats.samples, stats.p5, stats.p50, stats.p90, stats.p99), (100, 0, 4, 4, 512));
        assert_eq!(stats.p99_9, 1 << 63);
        assert_eq!(AsciiChart::new().add("x", all).to_string(), "x: [samples: 100, P50: 4, P90: 4, P99: 512]\n");
    }
}
