//! What of a file is not safe yet, and what a power cut makes of it.
//!
//! A disk writes sectors, each of them whole or not at all, in whatever order it likes. Of a sector that was written
//! several times it may have any of the contents.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Bytes that a disk writes as one.
const SECTOR: u64 = 512;
/// Sectors that the system keeps, and writes, together.
const PAGE: u64 = 8;

/// What of a file is not safe.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its length when all of it was safe last.
    length: u64,
    sectors: BTreeMap<u64, Sector>,
}

/// A sector that was written since it was safe.
#[derive(Clone, Debug, Default)]
struct Sector {
    /// Its contents before each time that it was written, oldest first; shorter where the file ended.
    before: Vec<Vec<u8>>,
    /// The system could not write it and takes it for written: it will not try again.
    forgotten: bool,
}

/// What a power cut takes away.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Nothing,
    All,
    /// From this sector on.
    From(u64),
    /// Of each sector by chance.
    Some,
    /// Only this sector.
    One(u64),
}

fn at(bytes: &[u8], sector: u64) -> &[u8] {
    let from = usize::try_from(sector * SECTOR).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[from..bytes.len().min(from + SECTOR as usize)]
}

impl Pending {
    /// A file of that length, all of which is safe.
    pub fn nothing(length: u64) -> Pending {
        Pending { length, sectors: BTreeMap::new() }
    }

    /// What is at this place is written; `read` gives what was there before: from where on, and how much.
    pub fn write(&mut self, read: impl Fn(u64, usize) -> Vec<u8>, from: u64, length: usize) {
        let (first, end) = (from / SECTOR, (from + length as u64).div_ceil(SECTOR));
        if first == end {
            return;
        }
        let before = read(first * SECTOR, usize::try_from((end - first) * SECTOR).unwrap_or(usize::MAX));
        for sector in first..end {
            let entry = self.sectors.entry(sector).or_default();
            entry.before.push(at(&before, sector - first).to_vec());
        }
        // The system writes whole pages, and with them what it has forgotten.
        for (_, sector) in self.sectors.range_mut(first / PAGE * PAGE..end.next_multiple_of(PAGE)) {
            sector.forgotten = false;
        }
    }

    /// What was written is safe now, but for what the system has forgotten.
    pub fn sync(&mut self, length: u64) {
        self.sectors.retain(|_, sector| sector.forgotten);
        self.length = length;
    }

    /// What was written could not be made safe: some of it is, the system has forgotten the others.
    pub fn fail_to_sync(&mut self, chance: &mut StdRng) {
        let lost = [0.0, 0.5, 1.0][chance.random_range(0..3)];
        self.sectors.retain(|_, sector| {
            let stays = sector.forgotten || chance.random_bool(lost);
            sector.before.truncate(1);
            sector.forgotten = true;
            stays
        });
    }

    /// What is on the disk when the power has gone, of a file that was shown as `now`.
    pub fn left(&self, mut now: Vec<u8>, chance: &mut StdRng) -> Vec<u8> {
        if self.sectors.is_empty() && self.length == now.len() as u64 {
            return now;
        }
        let shown = now.len() as u64;
        let pick = |chance: &mut StdRng| {
            let one = chance.random_range(0..self.sectors.len().max(1));
            self.sectors.keys().nth(one).copied().unwrap_or(0)
        };
        let loss = match chance.random_range(0..6) {
            0 => Loss::Nothing,
            1 => Loss::All,
            2 => Loss::From(pick(chance)),
            3 => Loss::One(pick(chance)),
            _ => Loss::Some,
        };
        let length = match loss {
            Loss::Nothing | Loss::One(_) => shown,
            Loss::All => self.length,
            Loss::From(sector) => (sector * SECTOR).clamp(self.length.min(shown), self.length.max(shown)),
            Loss::Some => [self.length, shown][chance.random_range(0..2)],
        };
        now.resize(usize::try_from(shown.max(self.length)).unwrap_or(usize::MAX), 0);
        for (number, sector) in &self.sectors {
            let lost = match loss {
                Loss::Nothing => false,
                Loss::All => true,
                Loss::From(first) => *number >= first,
                Loss::One(one) => *number == one,
                Loss::Some => chance.random_bool(0.5),
            };
            let content = match sector.before.len() {
                _ if sector.forgotten => sector.before.first(),
                versions if lost && matches!(loss, Loss::Some) => sector.before.get(chance.random_range(0..versions)),
                _ if lost => sector.before.first(),
                _ => None,
            };
            if let Some(content) = content {
                put(&mut now, *number, content);
            }
        }
        now.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        now
    }

    /// What is on a disk that had lied, when the power has gone: nothing of what it had called safe.
    pub fn never_written(&self, mut now: Vec<u8>) -> Vec<u8> {
        now.resize(usize::try_from((now.len() as u64).max(self.length)).unwrap_or(usize::MAX), 0);
        for (number, sector) in &self.sectors {
            if let Some(content) = sector.before.first() {
                put(&mut now, *number, content);
            }
        }
        now.truncate(usize::try_from(self.length).unwrap_or(usize::MAX));
        now
    }
}

/// Puts a content in the place of a sector; what it lacks is zeros.
fn put(bytes: &mut [u8], sector: u64, content: &[u8]) {
    let from = usize::try_from(sector * SECTOR).unwrap_or(usize::MAX).min(bytes.len());
    let end = bytes.len().min(from + SECTOR as usize);
    for (to, byte) in bytes[from..end].iter_mut().zip(content.iter().copied().chain(std::iter::repeat(0))) {
        *to = byte;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;

    /// A file that is written to, and what of it is not safe.
    struct File(Vec<u8>, Pending);

    impl File {
        fn write(&mut self, from: u64, bytes: &[u8]) {
            let File(now, pending) = self;
            let read = |from: u64, length: usize| {
                let from = now.len().min(from as usize);
                now[from..now.len().min(from + length)].to_vec()
            };
            pending.write(read, from, bytes.len());
            let (from, end) = (from as usize, from as usize + bytes.len());
            now.resize(now.len().max(end), 0);
            now[from..end].copy_from_slice(bytes);
        }

        /// All that may be left, as the first byte of each sector.
        fn left(&self) -> BTreeSet<Vec<u8>> {
            let firsts = |bytes: Vec<u8>| bytes.chunks(SECTOR as usize).map(|s| s[0]).collect();
            (0..500).map(|seed| firsts(self.1.left(self.0.clone(), &mut StdRng::seed_from_u64(seed)))).collect()
        }
    }

    #[test]
    fn any_sectors_may_be_lost_until_they_are_safe() {
        let mut file = File(vec![1; 1024], Pending::nothing(1024));
        assert_eq!(file.left(), [vec![1, 1]].into());
        file.write(0, &[2; 1536]);
        file.write(0, &[3; 512]);
        let left = file.left();
        for may in [&[1, 1][..], &[3, 2, 2], &[1, 2, 2], &[3, 1, 2], &[2, 1], &[3, 2, 0], &[3, 2]] {
            assert!(left.contains(may), "{may:?}: {left:?}");
        }
        file.1.sync(1536);
        assert_eq!(file.left(), [vec![3, 2, 2]].into());
    }

    #[test]
    fn what_could_not_be_made_safe_is_lost_whatever_is_synced_later() {
        let mut lost = 0;
        for seed in 0..100 {
            let mut file = File(vec![1; 8192], Pending::nothing(8192));
            file.write(512, &[2; 512]);
            file.1.fail_to_sync(&mut StdRng::seed_from_u64(seed));
            file.write(4096, &[3; 512]);
            file.1.sync(8192);
            let left = file.left();
            assert_eq!(left.len(), 1);
            let left = left.first().cloned().unwrap_or_default();
            assert_eq!((left[0], left[8]), (1, 3));
            lost += usize::from(left[1] == 1);
            // Written anew with anything beside it, it is safe.
            file.write(0, &[4; 512]);
            file.1.sync(8192);
            assert_eq!(file.left().first().map(|left| left[1]), Some(2));
        }
        assert!((20..80).contains(&lost), "{lost}");
    }
}
