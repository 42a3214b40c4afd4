//! Every acknowledged write survives, and reads are linearizable: [`lab::history`] judges it.

use lab::history::{Event, list, register};

use super::given_up::{self, GivenUp};

/// What clients did to lists and to registers.
#[derive(Default)]
pub struct Histories {
    /// Lists.
    pub lists: Vec<Event<list::Action>>,
    /// Registers.
    pub registers: Vec<Event<register::Action>>,
    /// What was given up.
    pub given_up: GivenUp,
}

impl Histories {
    /// Judges all of it; each contradiction with the name of what does not hold.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let lists = list::check(&self.lists).err().map(|e| ("acknowledged writes survive", e.to_string()));
        let registers = register::check(&self.registers).err().map(|e| ("reads are linearizable", e.to_string()));
        let late =
            given_up::check(&self.given_up, &self.lists).err().map(|e| ("what is given up does not come later", e));
        lists.into_iter().chain(registers).chain(late).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_append_and_a_stale_read_are_found() {
        let event = |called, action| Event { process: 1, called, returned: Some(called + 1), key: "k".into(), action };
        let lists = vec![event(1, list::Action::Append(1)), event(3, list::Action::Read(vec![]))];
        let event = |called, action| Event { process: 1, called, returned: Some(called + 1), key: "k".into(), action };
        let registers = vec![event(1, register::Action::Write(1)), event(3, register::Action::Read(None))];
        let found: Vec<_> =
            Histories { lists, registers, ..Histories::default() }.check().into_iter().map(|(name, _)| name).collect();
        assert_eq!(found, ["acknowledged writes survive", "reads are linearizable"]);
        assert!(Histories::default().check().is_empty());
    }
}
