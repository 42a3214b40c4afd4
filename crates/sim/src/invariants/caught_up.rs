//! A member never serves before it has caught up: what it shows of a list has every value that was acknowledged before it
//! was asked, from the first answer after its start.

/// An answer of a member that has only just started.
pub struct First<'a> {
    /// The member.
    pub member: u64,
    /// Values that were acknowledged before it was asked.
    pub acknowledged: &'a [u64],
    /// What it has shown.
    pub shown: &'a [u64],
}

impl First<'_> {
    /// Judges it.
    ///
    /// # Errors
    /// Something is missing.
    pub fn check(&self) -> Result<(), String> {
        let missing: Vec<&u64> = self.acknowledged.iter().filter(|value| !self.shown.contains(value)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("member {} has started and serves without the values {missing:?}", self.member)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_value_is_found() {
        let first = |shown: &'static [u64]| First { member: 1, acknowledged: &[1, 2], shown }.check();
        assert_eq!(first(&[1, 3, 2]), Ok(()));
        assert!(first(&[1, 3]).unwrap_err().contains("[2]"));
    }
}
