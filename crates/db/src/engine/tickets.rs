//! Whose turn it is to write: the leader hands out one ticket at a time, first come, first served.
//!
//! Tickets only spare members from writing on top of each other in vain; that no write is lost or done twice rests
//! on the check of its base alone (see [`super::machine`]).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// How long a ticket may be kept. A holder that has died or lost its way blocks the others no longer than this.
const LEASE: Duration = Duration::from_secs(2);

/// The tickets of a leader; clones share them.
#[derive(Clone, Default)]
pub(super) struct Tickets {
    line: Arc<Mutex<Line>>,
}

#[derive(Default)]
struct Line {
    last: u64,
    /// Number and member.
    held: Option<(u64, u64)>,
    waiting: VecDeque<(u64, u64, oneshot::Sender<()>)>,
}

impl Tickets {
    /// Waits for the turn of `member`; the number of the ticket. A member has one ticket or one place in the line:
    /// if it asks again, it has lost the answer to its former question.
    pub async fn take(&self, member: u64) -> u64 {
        let (number, turn) = self.stand_in_line(member);
        // An error means that this member has asked again since: nobody waits for this answer.
        let _ = turn.await;
        number
    }

    fn stand_in_line(&self, member: u64) -> (u64, oneshot::Receiver<()>) {
        let mut line = self.line();
        line.waiting.retain(|(_, m, _)| *m != member);
        if line.held.is_some_and(|(_, m)| m == member) {
            line.held = None;
        }
        line.last += 1;
        let number = line.last;
        let (call, turn) = oneshot::channel();
        line.waiting.push_back((number, member, call));
        self.next(&mut line);
        (number, turn)
    }

    /// Gives a ticket back; nothing happens if its lease is over.
    pub fn give_back(&self, number: u64) {
        let mut line = self.line();
        if line.held.is_some_and(|(n, _)| n == number) {
            line.held = None;
            self.next(&mut line);
        }
    }

    /// Calls the first in the line that still waits, if nobody holds the ticket.
    fn next(&self, line: &mut Line) {
        while line.held.is_none()
            && let Some((number, member, call)) = line.waiting.pop_front()
        {
            if call.send(()).is_ok() {
                line.held = Some((number, member));
                let tickets = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(LEASE).await;
                    tickets.give_back(number);
                });
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waits(turn: impl Future<Output = u64>) -> bool {
        tokio::time::timeout(LEASE / 2, turn).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_a_lost_ticket_expires() {
        let tickets = Tickets::default();
        let first = tickets.take(1).await;
        assert!(waits(tickets.take(2)).await, "it is not the second one's turn");
        tickets.give_back(first);
        let lost = tickets.take(1).await;
        let next = tickets.take(2).await;
        tickets.give_back(lost);
        assert!(waits(tickets.take(1)).await, "a lost ticket gives nothing back");
        tickets.give_back(next);
        tickets.take(1).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_asks_again_loses_what_it_had_and_those_who_left_are_passed_over() {
        let tickets = Tickets::default();
        tickets.take(1).await;
        let again = tokio::time::timeout(LEASE / 2, tickets.take(1)).await;
        let number = again.expect("its own ticket does not block it");
        drop(tickets.stand_in_line(2));
        let (_, third) = tickets.stand_in_line(3);
        tickets.give_back(number);
        assert!(tokio::time::timeout(LEASE / 2, third).await.expect("in time").is_ok(), "the second one left the line");
    }
}
