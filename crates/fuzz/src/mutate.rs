//! Changing bytes at random, in the ways that readers of bytes tend to overlook.

/// The longest input that is made, in bytes.
pub(crate) const LONGEST: usize = 64 << 10;

/// Words that mean something to one reader or another.
pub(crate) const WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\\u0000",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!binary ",
    b"|\n",
    b"\n",
    b"\r\n\r\n",
    b"\0",
    b"../",
    b"/",
    b"%00",
    b"%s",
    b"(",
    b")",
    b"not ",
    b"=",
    b";",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80",
    b"{{",
    b"}}",
    b"{%",
    b"\xc3\x28",
];

/// A stream of numbers that looks random and depends on nothing but its seed (splitmix64).
pub struct Numbers(u64);

impl Numbers {
    /// The stream of a seed, and of one of its cases.
    pub fn new(seed: u64, case: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ case.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One that is smaller than `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.draw() % (end.max(1) as u64)).unwrap_or(0)
    }
}

/// One of the inputs, changed in one to eight ways.
pub fn mutated(inputs: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let other = |numbers: &mut Numbers| inputs.get(numbers.below(inputs.len())).cloned().unwrap_or_default();
    let mut bytes = other(numbers);
    for _ in 0..=numbers.below(8) {
        change(&mut bytes, numbers, &other);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(bytes: &mut Vec<u8>, numbers: &mut Numbers, other: &dyn Fn(&mut Numbers) -> Vec<u8>) {
    let len = bytes.len();
    let at = numbers.below(len + 1);
    match numbers.below(12) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << numbers.below(8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = [0, 1, 0x7f, 0x80, 0xff, b'0', b' '][numbers.below(7)];
            }
        }
        3 => overwrite(bytes, at, &number(numbers)),
        4 => insert(bytes, at, &number(numbers)),
        5 | 6 => insert(bytes, at, WORDS[numbers.below(WORDS.len())]),
        7 => {
            let end = (at + numbers.below(len / 4 + 2)).min(len);
            bytes.drain(at..end);
        }
        8 => {
            let end = (at + numbers.below(64)).min(len);
            let piece = bytes[at..end].to_vec();
            insert(bytes, at, &piece);
        }
        // What nests or repeats, very often.
        9 => {
            let piece = match numbers.below(2) {
                0 => WORDS[numbers.below(WORDS.len())].to_vec(),
                _ => bytes[at..(at + 1 + numbers.below(8)).min(len)].to_vec(),
            };
            insert(bytes, at, &piece.repeat(1 << numbers.below(14)));
        }
        10 => {
            let theirs = other(numbers);
            let from = numbers.below(theirs.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&theirs[from..]);
        }
        _ => bytes.truncate(at),
    }
}

/// A number at the edge of something, in one of the forms in which numbers travel.
fn number(numbers: &mut Numbers) -> Vec<u8> {
    let edges = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX.cast_unsigned(), u64::MAX];
    let n = edges[numbers.below(edges.len())].wrapping_add([0, 1, u64::MAX][numbers.below(3)]);
    match numbers.below(6) {
        0 => n.to_be_bytes().to_vec(),
        1 => n.to_le_bytes().to_vec(),
        2 => n.to_be_bytes()[4..].to_vec(),
        3 => n.to_le_bytes()[..4].to_vec(),
        4 => n.to_be_bytes()[6..].to_vec(),
        _ => n.to_string().into_bytes(),
    }
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, with: &[u8]) {
    let end = (at + with.len()).min(bytes.len());
    bytes.splice(at..end, with.iter().copied());
}

fn insert(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    bytes.splice(at..at, what.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_one_others() {
        let inputs = [b"{\"a\": 1}".to_vec(), b"- b".to_vec(), Vec::new()];
        let made = |seed| (0..500).map(|case| mutated(&inputs, &mut Numbers::new(seed, case))).collect::<Vec<_>>();
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
        assert!(made(3).iter().all(|bytes| bytes.len() <= LONGEST));
        assert!(mutated(&[], &mut Numbers::new(1, 1)).len() <= LONGEST);
    }
}
