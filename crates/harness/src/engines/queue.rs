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
    /// For how long of silence the receiver lets the sender work before it takes anything; none if it takes what
    /// there is.
    bursts: Option<Duration>,
    /// A burst is complete, and not all of it was received.
    draining: bool,
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
        bursts: None,
        draining: false,
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
        while !state.receiver_is_gone
            && !state.items.is_empty()
            && (state.draining || state.bytes + item.bytes() > self.0.limit)
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
        // Half full is full: the item that comes next may be too large for the rest.
        state.draining = state.bursts.is_some() && state.bytes >= self.0.limit / 2;
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
        if let (Some(silence), true) = (state.bursts, state.items.is_empty()) {
            state = self.wait_for_burst(state, silence);
        }
        loop {
            if let Some(item) = state.items.pop_front() {
                state.bytes -= item.bytes();
                state.ended -= usize::from(item.ends_answer());
                state.draining &= !state.items.is_empty();
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

    /// Has sender and receiver work in turn from now on: the sender fills half of the queue while the receiver waits,
    /// and waits itself until all of that was received. A sender that is silent for `silence` is not waited for.
    /// `None`: both work as they can.
    pub(super) fn take_bursts(&self, silence: Option<Duration>) {
        let mut state = self.0.lock();
        state.bursts = silence;
        state.draining &= silence.is_some();
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until a burst is complete, or the sender has no more to send, or is silent.
    fn wait_for_burst<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<T>>,
        silence: Duration,
    ) -> MutexGuard<'a, State<T>> {
        let (mut sent, mut since) = (state.sent, Instant::now());
        while state.ended == 0 && !state.sender_is_gone && !state.draining {
            if state.sent != sent {
                (sent, since) = (state.sent, Instant::now());
            }
            let Some(rest) = silence.checked_sub(since.elapsed()) else { break };
            state = wait(&self.0.changed, state, rest);
        }
        state
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
    fn in_bursts_sender_and_receiver_work_in_turn() {
        let (sender, receiver) = queue::<usize>(100);
        receiver.take_bursts(Some(Duration::from_secs(60)));
        std::thread::scope(|scope| {
            scope.spawn(move || [21, 22, 23, 1, 2].into_iter().for_each(|item| assert!(sender.send(item))));
            // The third is more than half of the queue.
            assert_eq!(receiver.receive(None), Ok(21));
            std::thread::sleep(SHORT);
            assert_eq!(receiver.0.lock().items, [22, 23], "there is room, and the sender waits");
            assert_eq!([(); 2].map(|()| receiver.receive(None)), [Ok(22), Ok(23)]);
            // No burst gets complete: the sender's end ends it.
            assert_eq!([(); 3].map(|()| receiver.receive(None)), [Ok(1), Ok(2), Err(Empty::Closed)]);
        });
    }

    #[test]
    fn a_burst_ends_with_an_answer_or_silence_and_bursts_can_be_ended() {
        let (sender, receiver) = queue::<usize>(100);
        receiver.take_bursts(Some(Duration::from_secs(60)));
        assert!(sender.send(20), "the end of an answer");
        assert_eq!(receiver.receive(None), Ok(20));
        receiver.take_bursts(Some(SHORT));
        let started = Instant::now();
        assert_eq!(receiver.receive(Some(SHORT)), Err(Empty::Timeout));
        assert!(started.elapsed() >= SHORT, "nothing was sent");
        assert!(sender.send(51) && sender.0.lock().draining);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sender.send(3));
            std::thread::sleep(SHORT);
            assert_eq!(receiver.0.lock().items, [51]);
            receiver.take_bursts(None);
            assert!(waiting.join().expect("no panic"), "there was room all along");
        });
    }
}
