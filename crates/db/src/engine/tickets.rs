//! Whose turn it is to write: the leader hands out one ticket at a time, first come, first served.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a ticket may be kept. A holder that has died or lost its way blocks the others no longer than this.
const LEASE: Duration = Duration::from_secs(2);

/// The tickets of a leader.
pub(super) struct Tickets {
    turn: Arc<Semaphore>,
    held: Arc<Mutex<Option<(u64, OwnedSemaphorePermit)>>>,
    last: std::sync::atomic::AtomicU64,
}

impl Default for Tickets {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), held: Arc::default(), last: 0.into() }
    }
}

impl Tickets {
    /// Waits for the turn; the number of the ticket.
    pub async fn take(&self) -> u64 {
        let number = self.last.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        // The semaphore is never closed.
        if let Ok(permit) = Arc::clone(&self.turn).acquire_owned().await {
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, permit));
            let held = Arc::clone(&self.held);
            tokio::spawn(async move {
                tokio::time::sleep(LEASE).await;
                give_back(&held, number);
            });
        }
        number
    }

    /// Gives a ticket back; nothing happens if its lease is over.
    pub fn give_back(&self, number: u64) {
        give_back(&self.held, number);
    }
}

fn give_back(held: &Mutex<Option<(u64, OwnedSemaphorePermit)>>, number: u64) {
    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
    if held.as_ref().is_some_and(|(n, _)| *n == number) {
        *held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_a_lost_ticket_expires() {
        let tickets = Tickets::default();
        let first = tickets.take().await;
        assert!(tokio::time::timeout(LEASE / 2, tickets.take()).await.is_err(), "it is not the second one's turn");
        tickets.give_back(first);
        let lost = tickets.take().await;
        let next = tickets.take().await;
        tickets.give_back(lost);
        assert!(tokio::time::timeout(LEASE / 2, tickets.take()).await.is_err(), "a lost ticket gives nothing back");
        tickets.give_back(next);
        tickets.take().await;
    }
}
