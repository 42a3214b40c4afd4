//! What the limits of an instance amount to on a machine.

use api::size::bytes;
use api::{Error, Result};

/// `limits.memory` in bytes, on a machine with so much memory.
pub fn memory(text: &str, total: u64) -> Result<u64, String> {
    match text.strip_suffix('%') {
        None => bytes(text),
        Some(percent) => {
            let percent: u64 = percent.trim().parse().map_err(|_| format!("Invalid value: {text}"))?;
            Ok(total / 100 * percent)
        }
    }
}

/// `limits.cpu` as a list of processors: a list or range is taken as it is, a number means so many of those that are
/// there. Which these are follows from `spread`, so that instances do not all sit on the first.
pub fn cpus(text: &str, online: &[usize], spread: usize) -> Result<String> {
    let bad = || Error::bad_request(format!("Invalid value for limits.cpu: \"{text}\""));
    if let Ok(count) = text.parse::<usize>() {
        if count == 0 {
            return Err(bad());
        }
        let count = count.min(online.len());
        let mut chosen: Vec<usize> =
            (0..count).filter_map(|n| online.get((spread + n) % online.len())).copied().collect();
        chosen.sort_unstable();
        return Ok(chosen.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    let wanted = list(text).map_err(|_| bad())?;
    match wanted.iter().find(|n| !online.contains(n)) {
        Some(missing) => Err(Error::bad_request(format!("limits.cpu: this machine has no processor {missing}"))),
        None => Ok(text.to_owned()),
    }
}

/// Reads a list of processors, as `0-2,5`.
pub fn list(text: &str) -> Result<Vec<usize>, String> {
    let bad = || format!("Invalid CPU limit \"{text}\"");
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last && last < 4096 => (first, last),
            _ => return Err(bad()),
        };
        all.extend(first..=last);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_may_be_a_part_of_the_machines() {
        assert_eq!(memory("50%", 1000), Ok(500));
        assert_eq!(memory("1kB", 1000), Ok(1000));
        assert!(memory("x%", 1000).is_err());
    }

    #[test]
    fn processors_are_spread() {
        let online = [0, 1, 2, 5];
        for (text, spread, want) in [
            ("2", 0, Ok("0,1")),
            ("2", 3, Ok("0,5")),
            ("9", 1, Ok("0,1,2,5")),
            ("0-1,5", 7, Ok("0-1,5")),
            ("0", 0, Err("Invalid value for limits.cpu: \"0\"")),
            ("3-1", 0, Err("Invalid value for limits.cpu: \"3-1\"")),
            ("0-3", 0, Err("limits.cpu: this machine has no processor 3")),
        ] {
            let got = cpus(text, &online, spread).map_err(|e| e.message);
            assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }
}
