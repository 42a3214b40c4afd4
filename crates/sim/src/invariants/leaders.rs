//! There is at most one leader in a term.

use std::collections::BTreeMap;

/// Who led in which term.
#[derive(Default)]
pub struct Leaders(BTreeMap<u64, u64>);

impl Leaders {
    /// Some member says that this one leads in this term.
    ///
    /// # Errors
    /// Another one did.
    pub fn observe(&mut self, term: u64, leader: u64) -> Result<(), String> {
        match *self.0.entry(term).or_insert(leader) {
            first if first == leader => Ok(()),
            first => Err(format!("members {first} and {leader} both lead in term {term}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_leader_is_found() {
        let mut leaders = Leaders::default();
        for (term, leader, good) in [(1, 1, true), (1, 1, true), (2, 3, true), (1, 1, true), (2, 1, false)] {
            assert_eq!(leaders.observe(term, leader).is_ok(), good, "{term} {leader}");
        }
    }
}
