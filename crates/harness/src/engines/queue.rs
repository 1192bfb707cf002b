//! A queue between two threads that is bounded by what waits in it, in bytes.
//!
//! Taps differ in size by a factor of a thousand: bounded by their number, either the small ones make the
//! threads wait for each other or the large ones fill the memory.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    /// Nothing came in time.
    Timeout,
    /// The sender is gone, and everything that it sent was received.
    Closed,
}

/// What is sent.
pub(super) trait Load {
    /// Bytes that it takes beside its own size.
    fn bytes(&self) -> usize;

    /// Whether the sender has nothing to send behind it until it is asked again.
    fn ends_answer(&self) -> bool;
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    bytes: usize,
    /// Answers whose end waits in the queue.
    ended: usize,
    sent: u64,
    sender_is_gone: bool,
    receiver_is_gone: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    limit: usize,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing panics while it holds the lock, and a queue has no state that would be half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that is filled.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Shared<T>>);

/// The end that is emptied.
#[derive(Debug)]
pub(super) struct Receiver<T>(Arc<Shared<T>>);

/// A queue that takes another item as long as no more than `limit` bytes wait in it, and always one.
pub(super) fn queue<T: Load>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let state = State {
        items: VecDeque::new(),
        bytes: 0,
        ended: 0,
        sent: 0,
        sender_is_gone: false,
        receiver_is_gone: false,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), limit });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T: Load> Sender<T> {
    /// Puts an item into the queue, as soon as there is room. `false` if nobody will ever receive it.
    pub(super) fn send(&self, item: T) -> bool {
        let mut state = self.0.lock();
        while !state.receiver_is_gone && !state.items.is_empty() && state.bytes + item.bytes() > self.0.limit
        {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.receiver_is_gone {
            return false;
        }
        state.bytes += item.bytes();
        state.ended += usize::from(item.ends_answer());
        state.sent += 1;
        state.items.push_back(item);
        drop(state);
        self.0.changed.notify_all();
        true
    }
}

impl<T: Load> Receiver<T> {
    /// The next item, waited for as long as `patience`; without end if there is none.
    pub(super) fn receive(&self, patience: Option<Duration>) -> Result<T, Empty> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut state = self.0.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                state.bytes -= item.bytes();
                state.ended -= usize::from(item.ends_answer());
                drop(state);
                self.0.changed.notify_all();
                return Ok(item);
            }
            if state.sender_is_gone {
                return Err(Empty::Closed);
            }
            let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match rest {
                Some(Duration::ZERO) => return Err(Empty::Timeout),
                Some(rest) => wait(&self.0.changed, state, rest),
                None => self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Waits until the sender has no more to send, or no room for it, or sends nothing for as long as
    /// `patience`.
    pub(super) fn wait_ahead(&self, patience: Duration) {
        let mut state = self.0.lock();
        let (mut sent, mut since) = (state.sent, Instant::now());
        // Half full is full: the item that comes next may be too large for the rest.
        while state.ended == 0 && !state.sender_is_gone && state.bytes < self.0.limit / 2 {
            if state.sent != sent {
                (sent, since) = (state.sent, Instant::now());
            }
            let Some(rest) = patience.checked_sub(since.elapsed()) else { return };
            state = wait(&self.0.changed, state, rest);
        }
    }
}

fn wait<'a, T>(
    changed: &Condvar,
    state: MutexGuard<'a, State<T>>,
    patience: Duration,
) -> MutexGuard<'a, State<T>> {
    changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().sender_is_gone = true;
        self.0.changed.notify_all();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receiver_is_gone = true;
        // What waits is of no use to anybody.
        state.items.clear();
        drop(state);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An item of some bytes; one of a multiple of ten ends an answer.
    impl Load for usize {
        fn bytes(&self) -> usize {
            *self
        }

        fn ends_answer(&self) -> bool {
            self.is_multiple_of(10)
        }
    }

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn items_come_out_in_order_and_an_end_is_told() {
        let (sender, receiver) = queue::<usize>(100);
        assert_eq!(receiver.receive(Some(SHORT)), Err(Empty::Timeout));
        assert!([1, 2, 3].into_iter().all(|item| sender.send(item)));
        drop(sender);
        let received: Vec<_> = (0..4).map(|_| receiver.receive(None)).collect();
        assert_eq!(received, [Ok(1), Ok(2), Ok(3), Err(Empty::Closed)]);
    }

    #[test]
    fn a_full_queue_makes_the_sender_wait_and_takes_one_item_of_any_size() {
        let (sender, receiver) = queue::<usize>(8);
        std::thread::scope(|scope| {
            scope.spawn(move || [99, 5, 3, 1].into_iter().for_each(|item| assert!(sender.send(item))));
            std::thread::sleep(SHORT);
            assert_eq!(receiver.0.lock().items, [99]);
            assert_eq!(receiver.receive(None), Ok(99));
            std::thread::sleep(SHORT);
            assert_eq!(receiver.0.lock().items, [5, 3], "no room for the last one");
            assert_eq!([(); 3].map(|()| receiver.receive(None)), [Ok(5), Ok(3), Ok(1)]);
        });
    }

    #[test]
    fn a_sender_whose_receiver_goes_is_told() {
        let (sender, receiver) = queue::<usize>(1);
        assert!(sender.send(7));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || sender.send(8));
            std::thread::sleep(SHORT);
            drop(receiver);
            assert!(!waiting.join().expect("no panic"));
        });
    }

    #[test]
    fn waiting_ahead_ends_with_the_answer_the_room_the_sender_or_the_patience() {
        let long = Duration::from_secs(60);
        let (sender, receiver) = queue::<usize>(100);
        assert!(sender.send(20));
        receiver.wait_ahead(long);
        assert_eq!(receiver.receive(None), Ok(20));
        let started = Instant::now();
        receiver.wait_ahead(SHORT);
        assert!(started.elapsed() >= SHORT, "nothing was sent");
        assert!(sender.send(51));
        receiver.wait_ahead(long);
        assert_eq!(receiver.receive(None), Ok(51));
        drop(sender);
        receiver.wait_ahead(long);
    }
}
