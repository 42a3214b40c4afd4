//! How many instances a member looks after at the same time, whoever sends them.

use std::sync::{Mutex, PoisonError};

use api::key::{Config, Read as _};
use tokio::sync::Notify;

/// Lets in as many as the configuration says at that moment.
#[derive(Default)]
pub struct Gate {
    inside: Mutex<usize>,
    left: Notify,
}

/// Somebody inside, until it is dropped.
pub struct Inside<'a>(&'a Gate);

impl Gate {
    /// Waits until fewer than `width` are inside.
    pub async fn enter(&self, width: usize) -> Inside<'_> {
        loop {
            let left = self.left.notified();
            {
                let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
                if *inside < width {
                    *inside += 1;
                    return Inside(self);
                }
            }
            left.await;
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *self.0.inside.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.left.notify_one();
    }
}

/// How many instances are looked after at the same time.
pub fn width(config: &Config) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    incus_core::evacuate::width(config.read(&api::keys::server::EVACUATION_PARALLEL), processors)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn no_more_than_so_many_are_inside_and_all_get_their_turn() {
        let (gate, now, most) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let most = Arc::new(most);
        let all = (0..20).map(|_| {
            let (gate, now, most) = (gate.clone(), now.clone(), most.clone());
            tokio::spawn(async move {
                let _inside = gate.enter(3).await;
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
            })
        });
        assert!(futures::future::join_all(all).await.iter().all(Result::is_ok));
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }
}
