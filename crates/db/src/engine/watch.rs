//! A value that is watched: as tokio's, but those who wait for news are woken in the order in which they began to wait,
//! not in any: that is what lets a simulation run twice the same way.

use std::ops::Deref;
use std::sync::Arc;

use openraft::async_runtime::watch::{self as raft, RecvError, SendError};
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::{Notify, watch};

/// The kind of channel, as the Raft library names it.
#[derive(Debug)]
pub struct Watch;

/// Wakes those who wait when it is dropped, too.
struct Bell(Arc<Notify>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// Where the value is set; clones share it.
pub struct Sender<T> {
    value: watch::Sender<T>,
    // Dropped after the value, so that whoever is woken finds it gone.
    bell: Bell,
}

/// Where the value is watched.
pub struct Receiver<T> {
    value: watch::Receiver<T>,
    bell: Arc<Notify>,
}

/// The value, which can't be set meanwhile.
pub struct Ref<'a, T>(watch::Ref<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { value: self.value.clone(), bell: Bell(Arc::clone(&self.bell.0)) }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver { value: self.value.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> Sender<T> {
    /// A value that nobody watches yet.
    pub fn new(value: T) -> Sender<T> {
        Sender { value: watch::Sender::new(value), bell: Bell(Arc::default()) }
    }

    /// Watches it from now on.
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { value: self.value.subscribe(), bell: Arc::clone(&self.bell.0) }
    }

    /// Sets it; what it was.
    pub fn send_replace(&self, value: T) -> T {
        let old = self.value.send_replace(value);
        self.bell.0.notify_waiters();
        old
    }

    /// Changes it, and tells of it if the closure says so.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = self.value.send_if_modified(modify);
        if modified {
            self.bell.0.notify_waiters();
        }
        modified
    }

    /// The value as it is.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.value.borrow())
    }
}

impl<T> Receiver<T> {
    /// The value as it is.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.value.borrow())
    }

    /// The value as it is, which is no news any more.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        Ref(self.value.borrow_and_update())
    }

    /// Returns when there is news; an error when there can be none any more.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        let bell = Arc::clone(&self.bell);
        loop {
            // It hears from now on, before it is looked.
            let news = bell.notified();
            if self.value.has_changed().map_err(|_| RecvError(()))? {
                self.value.mark_unchanged();
                return Ok(());
            }
            news.await;
        }
    }

    /// Returns when the value is as wanted; an error when it can't become so any more.
    pub async fn wait_for(&mut self, wanted: impl Fn(&T) -> bool) -> Result<Ref<'_, T>, RecvError> {
        while !wanted(&*self.value.borrow_and_update()) {
            self.changed().await?;
        }
        Ok(self.borrow())
    }
}

impl raft::Watch for Watch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let sender = Sender::new(init);
        let receiver = sender.subscribe();
        (sender, receiver)
    }
}

impl<T: OptionalSend + OptionalSync> raft::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        let sent = self.value.send(value).map_err(|e| SendError(e.0));
        self.bell.0.notify_waiters();
        sent
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        Sender::send_if_modified(self, modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Sender::subscribe(self)
    }
}

impl<T: OptionalSend + OptionalSync> raft::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        Receiver::changed(self).await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        Receiver::borrow_and_update(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_are_woken_in_their_order_and_when_nothing_more_can_come() {
        let sender = Sender::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..20)
            .map(|n| {
                let (mut receiver, order) = (sender.subscribe(), order.clone());
                tokio::spawn(async move {
                    let seen = receiver.wait_for(|value| *value == 2).await.map(|value| *value);
                    order.lock().unwrap().push(n);
                    (seen, receiver.changed().await)
                })
            })
            .collect();
        tokio::task::yield_now().await;
        sender.send_replace(1);
        tokio::task::yield_now().await;
        assert!(!sender.send_if_modified(|_| false));
        assert_eq!(sender.send_replace(2), 1);
        tokio::task::yield_now().await;
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
        drop(sender.clone());
        drop(sender);
        for one in waiting {
            assert_eq!(one.await.unwrap(), (Ok(2), Err(RecvError(()))));
        }
    }
}
