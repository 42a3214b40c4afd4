//! Replicas that stand at the same entry are equal.

use std::collections::BTreeMap;

/// The content of the replicas, by the last entry that changed it: who was seen with it, and its hash.
#[derive(Default)]
pub struct Replicas(BTreeMap<u64, (u64, String)>);

impl Replicas {
    /// A member's replica stands at this entry and has this hash.
    ///
    /// # Errors
    /// Another one at the same entry is different.
    pub fn observe(&mut self, member: u64, index: u64, hash: &str) -> Result<(), String> {
        let (first, seen) = self.0.entry(index).or_insert_with(|| (member, hash.to_owned()));
        match seen == hash {
            true => Ok(()),
            false => Err(format!("the replicas of members {first} and {member} differ at entry {index}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_differs_is_found() {
        let mut replicas = Replicas::default();
        for (member, index, hash, good) in [(1, 5, "a", true), (2, 5, "a", true), (2, 6, "b", true), (1, 6, "a", false)]
        {
            assert_eq!(replicas.observe(member, index, hash).is_ok(), good, "{member} {index}");
        }
    }
}
