//! What all waits have in common, whatever is waited for: who is let through, what becomes of a wait
//! that is given up, and what wakers may do.

mod common;
#[path = "common/primitives.rs"]
mod primitives;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{
    Panicking, Random, Wakes, eventually, fragile, processes, takes_its_time, unclonable, watched,
    ways::{Way, every_way},
};
use freethreading::{BoundedSemaphore, Condition, Error, Event, Lock, RLock, Semaphore, task};
use futures::FutureExt;
use primitives::{
    Awaitable, Getting, HeldRLock, Joining, LONG, Meeting, Place, Putting, SimplyGetting, Wait,
    Waiters, asleep_in, current_thread, every_type, multi_thread,
};

freethreading::init_tests!();

fn poll(wait: &mut Wait<'_>, wakes: &Arc<Wakes>) -> Poll<()> {
    wait.as_mut()
        .poll(&mut Context::from_waker(&Waker::from(Arc::clone(wakes))))
}

/// A wait of an object, polled once.
fn pending<'a, A: Awaitable>(object: &'a A) -> (Wait<'a>, Arc<Wakes>) {
    let (mut wait, wakes) = (object.wait_async(), Wakes::new());
    assert!(poll(&mut wait, &wakes).is_pending());
    (wait, wakes)
}

/// Polls it when it is woken, until it is through.
#[track_caller]
fn comes_through(mut wait: Wait<'_>, wakes: &Arc<Wakes>) {
    let mut seen = 0;
    loop {
        eventually("it is woken", || wakes.count() > seen);
        seen = wakes.count();
        if poll(&mut wait, wakes).is_ready() {
            return;
        }
    }
}

/// Whether somebody is let through at once, blocking and not.
#[track_caller]
fn assert_closed<A: Awaitable>(object: &A) {
    assert!(!object.try_wait());
    assert!(!object.wait_timeout(Duration::ZERO));
    assert!(object.wait_async().now_or_never().is_none());
}

/// What was waited for in vain by others is there for one, and for one only.
#[track_caller]
fn assert_one_is_let_through<A: Awaitable>(object: &A) {
    if A::REMEMBERS {
        assert!(object.try_wait());
    }
    if !A::ALL {
        assert_closed(object);
    }
}

every_type! {
    for all

    fn a_wait_is_pending_until_it_is_let_through<A: Awaitable>() {
        let object = A::closed(1);
        let (mut wait, wakes) = pending(&object);
        // Looking again changes nothing.
        assert!(poll(&mut wait, &wakes).is_pending());
        assert_eq!(wakes.count(), 0);
        object.let_through();
        comes_through(wait, &wakes);
    }

    fn a_wait_that_is_over_is_not_polled_again<A: Awaitable>() {
        let object = A::closed(1);
        let (mut wait, wakes) = pending(&object);
        object.let_through();
        while poll(&mut wait, &wakes).is_pending() {
            std::thread::yield_now();
        }
        // It would take something for nobody.
        assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut wait, &wakes))).is_err());
    }

    fn a_waker_that_panics_as_it_is_cloned_leaves_nothing_behind<A: Awaitable>() {
        let object = A::closed(1);
        let mut wait = object.wait_async();
        let context = &mut Context::from_waker(unclonable());
        let polled = catch_unwind(AssertUnwindSafe(|| wait.as_mut().poll(context)));
        assert!(polled.is_err());
        drop(wait);
        let (wait, wakes) = pending(&object);
        object.let_through();
        comes_through(wait, &wakes);
    }

    fn a_thread_sleeps_until_it_is_let_through<A: Awaitable>() {
        let object = A::closed(1);
        let waiting = object.clone();
        let (thread, place) = asleep_in(move || waiting.wait());
        assert!(place.is_asleep());
        object.let_through();
        thread.join().unwrap();
    }

    fn a_thread_with_much_time_sleeps_until_it_is_let_through<A: Awaitable>() {
        for time in [LONG, Duration::MAX] {
            let object = A::closed(1);
            let waiting = object.clone();
            let (thread, _) = asleep_in(move || waiting.wait_timeout(time));
            object.let_through();
            assert!(thread.join().unwrap());
        }
    }

    fn only_the_last_waker_is_woken<A: Awaitable>() {
        let object = A::closed(1);
        let (mut wait, first) = pending(&object);
        let second = Wakes::new();
        assert!(poll(&mut wait, &second).is_pending());
        object.let_through();
        comes_through(wait, &second);
        assert_eq!(first.count(), 0);
    }

    fn no_waker_is_kept<A: Awaitable>() {
        let object = A::closed(1);
        let (mut wait, first) = pending(&object);
        let second = Wakes::new();
        for _ in 0..3 {
            assert!(poll(&mut wait, &second).is_pending());
        }
        assert_eq!(Arc::strong_count(&first), 1);
        assert!(Arc::strong_count(&second) > 1);
        object.let_through();
        comes_through(wait, &second);
        assert_eq!(Arc::strong_count(&second), 1);
        let object = A::closed(1);
        let (wait, third) = pending(&object);
        drop(wait);
        assert_eq!(Arc::strong_count(&third), 1);
    }

    fn a_waker_that_comes_too_late_is_not_kept<A: Awaitable>() {
        /// Lets one through as it is dropped: that is in the middle of the poll that has another one.
        struct Last<A: Awaitable>(A);
        impl<A: Awaitable> Wake for Last<A> {
            fn wake(self: Arc<Self>) {}
        }
        impl<A: Awaitable> Drop for Last<A> {
            fn drop(&mut self) {
                self.0.let_through();
            }
        }
        let object = A::closed(1);
        let mut wait = object.wait_async();
        let first = Waker::from(Arc::new(Last(object.clone())));
        assert!(wait.as_mut().poll(&mut Context::from_waker(&first)).is_pending());
        drop(first);
        let second = Wakes::new();
        if poll(&mut wait, &second).is_pending() {
            comes_through(wait, &second);
        }
        assert_eq!(Arc::strong_count(&second), 1);
    }

    fn a_wait_that_was_never_polled_is_nothing<A: Awaitable>() {
        let object = A::closed(1);
        drop(object.wait_async());
        let (wait, wakes) = pending(&object);
        object.let_through();
        comes_through(wait, &wakes);
    }

    fn a_wait_may_move_between_threads<A: Awaitable>() {
        let object: &'static A = Box::leak(Box::new(A::closed(1)));
        let (wait, wakes) = pending(object);
        let moved = thread::spawn(move || {
            let mut wait = wait;
            let here = Wakes::new();
            assert!(poll(&mut wait, &here).is_pending());
            (wait, here)
        });
        let (wait, here) = moved.join().unwrap();
        object.let_through();
        comes_through(wait, &here);
        assert_eq!(wakes.count(), 0);
    }

    fn a_wait_keeps_what_it_waits_for_alive<A: Awaitable>() {
        let object = A::closed(1);
        let own = object.clone();
        let mut wait: Wait<'static> = Box::pin(async move { own.wait_async().await });
        let wakes = Wakes::new();
        assert!(poll(&mut wait, &wakes).is_pending());
        thread::spawn(move || object.let_through()).join().unwrap();
        // The place of one that is gone would be theirs.
        let others: Vec<_> = (0..10).map(|_| A::closed(1)).collect();
        comes_through(wait, &wakes);
        let passes = |other: &A| other.wait_async().now_or_never().is_some();
        assert!(!others.iter().any(passes));
    }

    fn a_waker_may_come_back_in<A: Awaitable>() {
        /// Does to the object what it can, when it is woken and when it is dropped.
        struct Meddling<A: Awaitable>(A, Arc<Wakes>);
        impl<A: Awaitable> Meddling<A> {
            fn meddle(&self) {
                self.0.let_through_perhaps();
                assert!(!format!("{:?}", self.0).is_empty());
                if A::REMEMBERS {
                    if self.0.try_wait() {
                        self.0.let_through_perhaps();
                    }
                    let _ = self.0.wait_async().now_or_never();
                }
            }
        }
        impl<A: Awaitable> Wake for Meddling<A> {
            fn wake(self: Arc<Self>) {
                self.meddle();
                Arc::clone(&self.1).wake();
            }
        }
        impl<A: Awaitable> Drop for Meddling<A> {
            fn drop(&mut self) {
                if !thread::panicking() {
                    self.meddle();
                }
            }
        }
        fn meddling<A: Awaitable>(object: &A, wakes: &Arc<Wakes>) -> Waker {
            Waker::from(Arc::new(Meddling(object.clone(), Arc::clone(wakes))))
        }
        // It is woken.
        let object = A::closed(1);
        let (mut wait, wakes) = (object.wait_async(), Wakes::new());
        let waker = meddling(&object, &wakes);
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        object.let_through();
        eventually("it is woken", || wakes.count() > 0);
        drop(wait);
        // It is replaced by another one.
        let object = A::closed(1);
        let mut wait = object.wait_async();
        let waker = meddling(&object, &Wakes::new());
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        let _ = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // It is dropped with the wait.
        let object = A::closed(1);
        let mut wait = object.wait_async();
        let waker = meddling(&object, &Wakes::new());
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        drop(wait);
    }

    fn signals_do_not_end_a_wait<A: Awaitable>() {
        count_signals();
        let object = A::closed(1);
        let waiting = object.clone();
        let (thread, place) = asleep_in(move || waiting.wait());
        for _ in 0..20 {
            let before = signals();
            send_signal(place);
            eventually("the signal is handled", || signals() > before);
            place.wait_until_asleep();
        }
        assert!(!thread.is_finished());
        object.let_through();
        thread.join().unwrap();
    }

    fn signals_do_not_lengthen_nor_shorten_a_timeout<A: Awaitable>() {
        count_signals();
        let waited = takes_its_time(|limit| {
            let object = A::closed(1);
            let (sender, place) = mpsc::channel();
            let thread = thread::spawn(move || {
                sender.send(Place::here()).unwrap();
                object.wait_timeout(limit)
            });
            let place = place.recv().unwrap();
            while !thread.is_finished() {
                send_signal(place);
                thread::sleep(Duration::from_millis(5));
            }
            thread.join().unwrap()
        });
        assert!(!waited);
    }
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

every_type! {
    for [
        lock: Lock,
        semaphore: Semaphore,
        bounded_semaphore: BoundedSemaphore,
        event: Event,
        get: Getting,
        put: Putting,
        join: Joining,
        simple_get: SimplyGetting,
    ]

    fn what_comes_while_a_wait_begins_is_not_lost_with_its_waker<A: Awaitable>() {
        let object = A::closed(1);
        let other = object.clone();
        let waker = fragile(move || other.let_through());
        let mut wait = object.wait_async();
        let polled = wait.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_ready());
    }
}

fn signals() -> usize {
    SIGNALS.load(Ordering::SeqCst)
}

/// From now on SIGUSR1 interrupts system calls and does nothing else.
fn count_signals() {
    extern "C" fn count(_: libc::c_int) {
        SIGNALS.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: the handler only counts, which a handler may; all zeros is a valid `sigaction`, with an
    // empty mask and without SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as *const () as usize;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()),
            0
        );
    }
}

/// The thread may have ended meanwhile.
fn send_signal(place: Place) {
    // SAFETY: the call takes no pointers.
    unsafe { libc::syscall(libc::SYS_tgkill, place.pid, place.tid, libc::SIGUSR1) };
}

/// Those where giving up changes nothing for others.
macro_rules! every_patient_type {
    ($($rest:tt)*) => {
        every_type! {
            for [
                lock: Lock,
                r_lock: HeldRLock,
                semaphore: Semaphore,
                bounded_semaphore: BoundedSemaphore,
                event: Event,
                condition: Condition,
                get: Getting,
                put: Putting,
                join: Joining,
                simple_get: SimplyGetting,
            ]
            $($rest)*
        }
    };
}

every_patient_type! {
    fn without_time_it_is_a_try<A: Awaitable>() {
        let object = A::closed(1);
        assert_closed(&object);
        if A::REMEMBERS {
            object.let_through();
            assert!(object.wait_timeout(Duration::ZERO));
        }
    }

    fn a_timeout_is_kept<A: Awaitable>() {
        let object = A::closed(1);
        assert!(!takes_its_time(|limit| object.wait_timeout(limit)));
        // As if nothing had been.
        let (wait, wakes) = pending(&object);
        object.let_through();
        comes_through(wait, &wakes);
        assert_closed_again(&object);
    }

    fn what_is_there_needs_no_time<A: Awaitable>() {
        if A::REMEMBERS {
            let object = A::closed(1);
            object.let_through();
            let start = Instant::now();
            assert!(object.wait_timeout(LONG));
            assert!(start.elapsed() < LONG);
            assert_closed_again(&object);
        }
    }

    fn a_wait_dropped_early_is_as_if_it_had_not_been<A: Awaitable>() {
        let object = A::closed(1);
        let (first, woken) = pending(&object);
        let (second, wakes) = pending(&object);
        drop(first);
        object.let_through();
        comes_through(second, &wakes);
        assert_eq!(woken.count(), 0);
        assert_closed_again(&object);
    }

    fn a_waker_that_panics_as_it_is_dropped_harms_nobody<A: Awaitable>() {
        let object = A::closed(1);
        let waker = fragile(|| ());
        let mut wait = object.wait_async();
        // The second time the first one's clone is dropped for another.
        for _ in 0..2 {
            let polled = wait.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        drop(wait);
        let (wait, wakes) = pending(&object);
        object.let_through();
        comes_through(wait, &wakes);
    }

    fn a_wait_dropped_after_its_wake_up_passes_it_on<A: Awaitable>() {
        for _ in 0..10 {
            let object = A::closed(1);
            let (first, woken) = pending(&object);
            let (second, wakes) = pending(&object);
            let (third, _) = pending(&object);
            object.let_through();
            eventually("the first is woken", || woken.count() > 0);
            drop(first);
            comes_through(second, &wakes);
            drop(third);
            assert_closed_again(&object);
        }
    }

    fn a_wake_up_is_passed_on_to_a_thread<A: Awaitable>() {
        let object = A::closed(1);
        let (first, woken) = pending(&object);
        let waiting = object.clone();
        let (thread, _) = asleep_in(move || waiting.wait());
        object.let_through();
        eventually("the first is woken", || woken.count() > 0);
        drop(first);
        thread.join().unwrap();
        assert_closed_again(&object);
    }

    fn a_wake_up_is_passed_on_through_many<A: Awaitable>() {
        let object = A::closed(1);
        let mut waits: Vec<_> = (0..50).map(|_| pending(&object)).collect();
        let (last, last_wakes) = waits.pop().unwrap();
        object.let_through();
        for (wait, wakes) in waits {
            eventually("the next is woken", || wakes.count() > 0);
            drop(wait);
        }
        comes_through(last, &last_wakes);
        assert_closed_again(&object);
    }

    fn a_wake_up_of_nobody_else_is_kept<A: Awaitable>() {
        let object = A::closed(1);
        let (wait, wakes) = pending(&object);
        object.let_through();
        eventually("it is woken", || wakes.count() > 0);
        drop(wait);
        assert_one_is_let_through(&object);
    }

    fn a_wait_that_is_forgotten_leaves_the_next_wake_up_to_others<A: Awaitable>() {
        let object = A::closed(1);
        let (idle, _) = pending(&object);
        let (second, wakes) = pending(&object);
        object.let_through();
        // The first, which was chosen, is not looked at any more; but somebody else comes by.
        if !A::REMEMBERS || (object.try_wait() && !A::ALL) {
            object.let_through();
        }
        comes_through(second, &wakes);
        drop(idle);
    }

    fn a_waker_may_drop_another_wait<A: Awaitable>() {
        type Slot = Arc<Mutex<Option<Wait<'static>>>>;
        struct Dropping(Slot, Arc<Wakes>);
        impl Wake for Dropping {
            fn wake(self: Arc<Self>) {
                let wait = self.0.lock().unwrap().take();
                drop(wait);
                Arc::clone(&self.1).wake();
            }
        }
        for dropped_first in [false, true] {
            let object: &'static A = Box::leak(Box::new(A::closed(1)));
            let slot: Slot = Slot::default();
            let wakes = Wakes::new();
            let waker = Waker::from(Arc::new(Dropping(Arc::clone(&slot), Arc::clone(&wakes))));
            let mut context = Context::from_waker(&waker);
            let (mut wait, mut other) = (object.wait_async(), object.wait_async());
            if dropped_first {
                assert!(other.as_mut().poll(&mut context).is_pending());
                assert!(wait.as_mut().poll(&mut context).is_pending());
            } else {
                assert!(wait.as_mut().poll(&mut context).is_pending());
                assert!(other.as_mut().poll(&mut context).is_pending());
            }
            *slot.lock().unwrap() = Some(other);
            object.let_through();
            eventually("it is woken", || wakes.count() > 0);
            // Whether it was woken itself or was passed the other's wake-up.
            eventually("it is through", || wait.as_mut().poll(&mut context).is_ready());
            assert!(slot.lock().unwrap().is_none());
        }
    }

    fn a_waker_that_panics_harms_nobody_else<A: Awaitable>() {
        let object = A::closed(1);
        let waker = Waker::from(Arc::new(Panicking));
        let mut first = object.wait_async();
        assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let (second, wakes) = pending(&object);
        object.let_through();
        drop(first);
        comes_through(second, &wakes);
        assert_closed_again(&object);
    }

    fn a_timeout_may_be_put_around_a_wait<A: Awaitable>() {
        let object = A::closed(1);
        for runtime in [current_thread(), multi_thread()] {
            runtime.block_on(async {
                let limit = Duration::from_millis(20);
                let start = Instant::now();
                assert!(tokio::time::timeout(limit, object.wait_async()).await.is_err());
                assert!(start.elapsed() >= limit);
            });
        }
        let (wait, wakes) = pending(&object);
        object.let_through();
        comes_through(wait, &wakes);
        assert_closed_again(&object);
    }

    fn waits_left_at_random_lose_nothing<A: Awaitable>() {
        let object = A::closed(1);
        let mut random = Random::new();
        let mut waits: Vec<(Wait<'_>, Arc<Wakes>)> = Vec::new();
        for _ in 0..300 {
            for _ in 0..random.below(4) {
                waits.push(pending(&object));
            }
            match waits.len() {
                0 => continue,
                len => drop(waits.swap_remove(random.below(len))),
            }
            if waits.is_empty() || A::ALL {
                continue;
            }
            object.let_through();
            // Some of those that were chosen go, and in the end one of the rest is through.
            loop {
                eventually("somebody is woken", || {
                    waits.iter().any(|(_, wakes)| wakes.count() > 0)
                });
                let chosen = waits.iter().position(|(_, wakes)| wakes.count() > 0);
                let (mut wait, wakes) = waits.swap_remove(chosen.unwrap());
                if random.below(2) == 0 && !waits.is_empty() {
                    continue;
                }
                assert!(poll(&mut wait, &wakes).is_ready());
                break;
            }
            assert!(!object.try_wait());
        }
        object.let_through();
        if !waits.is_empty() {
            eventually("somebody is through", || {
                waits.iter_mut().any(|(wait, wakes)| poll(wait, wakes).is_ready())
            });
        }
    }
}

/// Nothing is left of what let somebody through.
#[track_caller]
fn assert_closed_again<A: Awaitable>(object: &A) {
    if !A::ALL {
        assert_closed(object);
    }
}

/// When to let somebody through who is about to give up: at the moment at which it is as likely as not
/// too late, wherever that is on this machine.
struct Aim {
    start: Instant,
    after: Duration,
}

impl Aim {
    /// The first guess.
    fn at(after: Duration) -> Aim {
        let start = Instant::now();
        Aim { start, after }
    }

    /// From now on until about the moment.
    fn wait(&mut self, random: &mut Random) {
        self.start = Instant::now();
        let spread = Duration::from_micros(random.below(50) as u64);
        while self.start.elapsed() < self.after + spread {
            std::hint::spin_loop();
        }
    }

    fn adjust(&mut self, was_in_time: bool) {
        let step = Duration::from_micros(5);
        self.after = match was_in_time {
            true => self.after + step,
            false => self.after.saturating_sub(step),
        };
    }
}

/// Those that let one through each time.
macro_rules! every_narrow_type {
    ($($rest:tt)*) => {
        every_type! {
            for [
                lock: Lock,
                semaphore: Semaphore,
                bounded_semaphore: BoundedSemaphore,
                get: Getting,
                put: Putting,
                simple_get: SimplyGetting,
            ]
            $($rest)*
        }
    };
}

every_narrow_type! {
    fn a_timeout_that_races_with_its_chance_takes_it_or_leaves_it<A: Awaitable>() {
        let object = A::closed(1);
        let (times, timed) = mpsc::channel::<Duration>();
        let (sender, outcomes) = mpsc::channel();
        let waiting = object.clone();
        let waiter = thread::spawn(move || {
            for time in timed {
                sender.send(waiting.wait_timeout(time)).unwrap();
            }
        });
        let mut random = Random::new();
        let time = Duration::from_micros(200);
        let (mut passed, mut aim) = (0, Aim::at(time));
        for _ in 0..1000 {
            times.send(time).unwrap();
            aim.wait(&mut random);
            object.let_through();
            let was_through = outcomes.recv().unwrap();
            assert_eq!(object.try_wait(), !was_through);
            assert!(!object.try_wait());
            passed += usize::from(was_through);
            aim.adjust(was_through);
        }
        println!("{passed} of 1000 came through in time");
        drop(times);
        waiter.join().unwrap();
    }

    fn a_future_that_races_with_its_chance_takes_it_or_leaves_it<A: Awaitable>() {
        let object = A::closed(1);
        let (go, told) = mpsc::channel::<()>();
        let opening = object.clone();
        let opener = thread::spawn(move || {
            for () in told {
                opening.let_through();
            }
        });
        let mut random = Random::new();
        for _ in 0..1000 {
            let (mut wait, wakes) = pending(&object);
            go.send(()).unwrap();
            let start = Instant::now();
            let time = Duration::from_micros(random.below(60) as u64);
            while start.elapsed() < time {
                std::hint::spin_loop();
            }
            let was_through = poll(&mut wait, &wakes).is_ready();
            drop(wait);
            if !was_through {
                eventually("it is there for another", || object.try_wait());
            }
            assert!(!object.try_wait());
        }
        drop(go);
        opener.join().unwrap();
    }

    fn those_who_come_and_go_at_random_lose_nothing<A: Awaitable>() {
        const TIMES: usize = 200;
        async fn yields(times: usize) {
            for _ in 0..times {
                tokio::task::yield_now().await;
            }
        }
        let object = A::closed(1);
        let taken = Arc::new(AtomicUsize::new(0));
        multi_thread().block_on(async {
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let (object, taken) = (object.clone(), Arc::clone(&taken));
                    tokio::spawn(async move {
                        let mut random = Random::new();
                        while taken.load(Ordering::SeqCst) < TIMES {
                            tokio::select! {
                                () = object.wait_async() => {
                                    taken.fetch_add(1, Ordering::SeqCst);
                                }
                                () = yields(random.below(20)) => {}
                            }
                        }
                    })
                })
                .collect();
            let opening = tokio::task::spawn_blocking({
                let (object, taken) = (object.clone(), Arc::clone(&taken));
                move || {
                    for given in 1..=TIMES {
                        object.let_through();
                        // One at a time: some have no room for more.
                        while taken.load(Ordering::SeqCst) < given {
                            thread::yield_now();
                        }
                    }
                }
            });
            opening.await.unwrap();
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert_eq!(taken.load(Ordering::SeqCst), TIMES);
        assert_closed(&object);
        object.let_through();
        assert_one_is_let_through(&object);
    }

    fn a_thread_is_not_overtaken_for_ever<A: Awaitable>() {
        let object = A::closed(1);
        let waiting = object.clone();
        let (thread, place) = asleep_in(move || waiting.wait());
        for overtaken in 0.. {
            assert!(overtaken < 2000, "starved");
            object.let_through();
            if !object.try_wait() {
                break;
            }
            place.wait_until_asleep();
        }
        thread.join().unwrap();
        assert_closed(&object);
    }

    fn tasks_are_let_through_in_the_order_in_which_they_came<A: Awaitable>() {
        let object = A::closed(3);
        let mut waits: Vec<_> = (0..3).map(|_| pending(&object)).collect();
        while !waits.is_empty() {
            let (first, wakes) = waits.remove(0);
            object.let_through();
            comes_through(first, &wakes);
            assert!(waits.iter().all(|(_, wakes)| wakes.count() == 0));
        }
    }
}

/// A thread that does to a lock what it is told to, one thing after the other.
struct Rival {
    orders: mpsc::Sender<Order>,
    outcomes: mpsc::Receiver<bool>,
    thread: thread::JoinHandle<()>,
}

type Order = fn(&RLock) -> bool;

impl Rival {
    fn of(lock: &RLock) -> Rival {
        let (orders, told) = mpsc::channel::<Order>();
        let (sender, outcomes) = mpsc::channel();
        let lock = lock.clone();
        let thread = thread::spawn(move || {
            for order in told {
                sender.send(order(&lock)).unwrap();
            }
        });
        Rival {
            orders,
            outcomes,
            thread,
        }
    }

    fn begin(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    fn outcome(&self) -> bool {
        self.outcomes.recv().unwrap()
    }

    fn does(&self, order: Order) -> bool {
        self.begin(order);
        self.outcome()
    }

    fn leave(self) {
        drop(self.orders);
        self.thread.join().unwrap();
    }
}

/// It was acquired by one of the two, or not.
#[track_caller]
fn assert_has<'a>(acquired: bool, winner: &'a Rival, loser: &'a Rival) {
    let (owner, other) = match acquired {
        true => (winner, loser),
        false => (loser, winner),
    };
    // Only one who does not have it yet can have it now, and nobody but the owner can release it.
    assert_eq!(loser.does(RLock::try_acquire), !acquired);
    assert!(!other.does(RLock::try_acquire));
    assert!(!other.does(|lock| lock.release().is_ok()));
    assert!(owner.does(|lock| lock.recursion_count() == 1));
    assert!(owner.does(|lock| lock.release().is_ok()));
    assert!(!owner.does(|lock| lock.release().is_ok()));
}

#[test]
fn a_timeout_that_races_with_the_release_of_an_r_lock_takes_it_or_leaves_it() {
    const TIME: Duration = Duration::from_micros(200);
    watched(|| {
        let lock = RLock::new();
        let (waiter, other) = (Rival::of(&lock), Rival::of(&lock));
        let mut random = Random::new();
        let (mut passed, mut aim) = (0, Aim::at(TIME));
        for _ in 0..1000 {
            let times = 1 + random.below(2);
            (0..times).for_each(|_| lock.acquire());
            waiter.begin(|lock| lock.acquire_timeout(TIME));
            aim.wait(&mut random);
            (0..times).for_each(|_| lock.release().unwrap());
            let acquired = waiter.outcome();
            assert_has(acquired, &waiter, &other);
            passed += usize::from(acquired);
            aim.adjust(acquired);
        }
        println!("{passed} of 1000 came through in time");
        [waiter, other].into_iter().for_each(Rival::leave);
        assert!(lock.try_acquire());
    });
}

#[test]
fn a_future_that_races_with_the_release_of_an_r_lock_takes_it_or_leaves_it() {
    watched(|| {
        let lock = RLock::new();
        let (holder, other) = (Rival::of(&lock), Rival::of(&lock));
        let mut random = Random::new();
        let mut passed = 0;
        for _ in 0..1000 {
            assert!(holder.does(RLock::try_acquire));
            let mut acquire: Wait<'_> = Box::pin(lock.acquire_async());
            let wakes = Wakes::new();
            assert!(poll(&mut acquire, &wakes).is_pending());
            holder.begin(|lock| lock.release().is_ok());
            let start = Instant::now();
            let time = Duration::from_micros(random.below(60) as u64);
            while start.elapsed() < time {
                std::hint::spin_loop();
            }
            let acquired = poll(&mut acquire, &wakes).is_ready();
            drop(acquire);
            assert!(holder.outcome());
            assert_eq!(lock.is_owned(), acquired);
            assert_eq!(other.does(RLock::try_acquire), !acquired);
            match acquired {
                true => lock.release().unwrap(),
                false => assert!(other.does(|lock| lock.release().is_ok())),
            }
            assert!(lock.release().is_err());
            passed += usize::from(acquired);
        }
        println!("{passed} of 1000 came through in time");
        [holder, other].into_iter().for_each(Rival::leave);
        assert!(lock.try_acquire());
    });
}

/// For each kind of waiter how often it was let through.
fn mixed<A: Awaitable>(object: &A) -> (Arc<AtomicUsize>, impl FnOnce()) {
    let passed = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    let runtime = multi_thread();
    for n in 0..5 {
        let (waiting, through) = (object.clone(), Arc::clone(&passed));
        threads.push(asleep_in(move || {
            waiting.wait_in([Way::Blocking, Way::Timed][n % 2]);
            through.fetch_add(1, Ordering::SeqCst);
        }));
        let (waiting, through) = (object.clone(), Arc::clone(&passed));
        let (sender, polled) = mpsc::channel();
        runtime.spawn(async move {
            let mut wait = waiting.wait_async();
            assert!(futures::poll!(&mut wait).is_pending());
            sender.send(()).unwrap();
            wait.await;
            through.fetch_add(1, Ordering::SeqCst);
        });
        polled.recv().unwrap();
    }
    let finish = move || {
        for (thread, _) in threads {
            thread.join().unwrap();
        }
        drop(runtime);
    };
    (passed, finish)
}

every_narrow_type! {
    fn threads_and_tasks_are_let_through_alike<A: Awaitable>() {
        let object = A::closed(10);
        let (passed, finish) = mixed(&object);
        for n in 1..=10 {
            assert_eq!(passed.load(Ordering::SeqCst), n - 1);
            object.let_through();
            eventually("one more is through", || passed.load(Ordering::SeqCst) >= n);
        }
        finish();
        assert_eq!(passed.load(Ordering::SeqCst), 10);
        assert_closed(&object);
    }
}

every_type! {
    for [
        r_lock: HeldRLock,
        event: Event,
        barrier: Meeting,
        join: Joining,
    ]

    fn threads_and_tasks_are_let_through_together<A: Awaitable>() {
        let object = A::closed(10);
        let (passed, finish) = mixed(&object);
        assert_eq!(passed.load(Ordering::SeqCst), 0);
        object.let_through();
        eventually("all are through", || passed.load(Ordering::SeqCst) == 10);
        finish();
    }
}

every_way! {
    for [
        lock: Lock,
        semaphore: Semaphore,
        bounded_semaphore: BoundedSemaphore,
        condition: Condition,
        get: Getting,
        put: Putting,
        simple_get: SimplyGetting,
    ]

    fn workers_are_let_through_one_by_one<A: Awaitable>(ways) {
        let object = A::closed(4);
        let waiters = Waiters::of(4, ways, &object);
        for passed in 1..=4 {
            eventually("the others wait", || object.has_waiters(5 - passed));
            object.let_through();
            waiters.settle(passed);
        }
        waiters.join();
        assert_closed(&object);
    }
}

every_way! {
    for [
        r_lock: HeldRLock,
        event: Event,
        barrier: Meeting,
        join: Joining,
    ]

    fn workers_are_let_through_together<A: Awaitable>(ways) {
        let object = A::closed(4);
        let waiters = Waiters::of(4, ways, &object);
        object.let_through();
        waiters.settle(4);
        waiters.join();
    }
}

/// The task of a worker that lets somebody through.
fn open<A: Awaitable>(object: A) {
    object.let_through();
}

/// A wait in this process, and one who lets it through in another.
fn opened_by_a_process<A: Awaitable>(wait: impl FnOnce(A) -> Box<dyn FnOnce()>) {
    let object = A::closed(1);
    let executor = processes(1);
    let finish = wait(object.clone());
    executor
        .submit(task!(open::<A>(object.clone())))
        .result()
        .unwrap();
    finish();
    assert_closed_again(&object);
}

every_type! {
    for unowned

    fn a_process_lets_a_thread_through<A: Awaitable>() {
        opened_by_a_process::<A>(|object| {
            let (thread, _) = asleep_in(move || object.wait());
            Box::new(move || thread.join().unwrap())
        });
    }

    fn a_process_lets_a_task_through<A: Awaitable>() {
        opened_by_a_process::<A>(|object| {
            let object: &'static A = Box::leak(Box::new(object));
            let (wait, wakes) = pending(object);
            Box::new(move || comes_through(wait, &wakes))
        });
    }

    fn a_process_lets_through_who_has_the_last_handle<A: Awaitable>() {
        let object = A::closed(1);
        let own = object.clone();
        let mut wait: Wait<'static> = Box::pin(async move { own.wait_async().await });
        let wakes = Wakes::new();
        assert!(poll(&mut wait, &wakes).is_pending());
        let executor = processes(1);
        executor.submit(task!(open::<A>(object))).result().unwrap();
        let others: Vec<_> = (0..10).map(|_| A::closed(1)).collect();
        comes_through(wait, &wakes);
        let passes = |other: &A| other.wait_async().now_or_never().is_some();
        assert!(!others.iter().any(passes));
    }

    fn a_process_wakes_the_last_waker<A: Awaitable>() {
        opened_by_a_process::<A>(|object| {
            let object: &'static A = Box::leak(Box::new(object));
            let (mut wait, first) = pending(object);
            let second = Wakes::new();
            assert!(poll(&mut wait, &second).is_pending());
            Box::new(move || {
                comes_through(wait, &second);
                assert_eq!(first.count(), 0);
            })
        });
    }
}

/// The guard of a task that is given up goes with it.
#[test]
fn a_timeout_may_be_put_around_a_task_that_holds() {
    async fn hold_for_ever(
        lock: &Lock,
        r_lock: &RLock,
        permits: &Semaphore,
        condition: &Condition,
    ) {
        let _guards = (lock.lock_async().await, r_lock.lock_async().await);
        let _more = (permits.permit_async().await, condition.lock_async().await);
        std::future::pending::<()>().await;
    }
    watched(|| {
        let (lock, r_lock) = (Lock::new(), RLock::new());
        let (permits, condition) = (Semaphore::new(1), Condition::new());
        for runtime in [current_thread(), multi_thread()] {
            let limit = Duration::from_millis(20);
            let holding = hold_for_ever(&lock, &r_lock, &permits, &condition);
            let given_up = runtime.block_on(async { tokio::time::timeout(limit, holding).await });
            assert!(given_up.is_err());
            thread::scope(|scope| {
                scope.spawn(|| {
                    assert!(lock.try_lock().is_some());
                    assert!(r_lock.try_lock().is_some());
                    assert!(permits.try_permit().is_some());
                    assert!(condition.try_lock().is_some());
                });
            });
        }
    });
}

/// A waker that releases what another waits for, and so on, does so one after the other.
#[test]
fn wakers_that_release_make_a_chain() {
    struct Releasing(Semaphore, AtomicUsize);
    impl Wake for Releasing {
        fn wake(self: Arc<Self>) {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.release().unwrap();
        }
    }
    watched(|| {
        let semaphores: Vec<_> = (0..100).map(|_| Semaphore::new(0)).collect();
        let mut acquires = Vec::new();
        let mut links = Vec::new();
        for pair in semaphores.windows(2) {
            let link = Arc::new(Releasing(pair[1].clone(), AtomicUsize::new(0)));
            let waker = Waker::from(Arc::clone(&link));
            let mut acquire = Box::pin(pair[0].acquire_async());
            let polled = acquire.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            acquires.push(acquire);
            links.push(link);
        }
        semaphores[0].release().unwrap();
        assert!(semaphores[99].try_acquire());
        assert!(links.iter().all(|link| link.1.load(Ordering::SeqCst) == 1));
        assert!(
            acquires
                .into_iter()
                .all(|acquire| acquire.now_or_never().is_some())
        );
    });
}

/// A waker that drops the very wait that it belongs to.
#[test]
fn a_waker_may_drop_its_own_wait() {
    type Slot = Arc<Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>>;
    struct Dropping(Slot);
    impl Wake for Dropping {
        fn wake(self: Arc<Self>) {
            let wait = self.0.lock().unwrap().take();
            drop(wait);
        }
    }
    watched(|| {
        let lock = Lock::new();
        lock.acquire();
        let slot = Slot::default();
        let acquiring = lock.clone();
        let mut acquire: Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(async move { acquiring.acquire_async().await });
        let waker = Waker::from(Arc::new(Dropping(Arc::clone(&slot))));
        assert!(
            acquire
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        *slot.lock().unwrap() = Some(acquire);
        lock.release().unwrap();
        assert!(slot.lock().unwrap().is_none());
        assert!(lock.try_acquire());
    });
}

/// Static facts: what may cross threads.
#[test]
fn types_and_futures_cross_threads() {
    fn everywhere<T: Send + Sync + 'static>() {}
    fn sends<T: Send>(_: T) {}

    everywhere::<Lock>();
    everywhere::<RLock>();
    everywhere::<Semaphore>();
    everywhere::<BoundedSemaphore>();
    everywhere::<Condition>();
    everywhere::<Event>();
    everywhere::<freethreading::Barrier>();
    everywhere::<freethreading::Queue<u32>>();
    everywhere::<freethreading::Queue<std::cell::Cell<u32>>>();
    everywhere::<freethreading::SimpleQueue<u32>>();
    everywhere::<freethreading::SimpleQueue<std::cell::Cell<u32>>>();
    everywhere::<Error>();
    everywhere::<freethreading::NotHeld>();
    everywhere::<freethreading::NotOwned>();
    everywhere::<freethreading::Overflow>();

    let (lock, r_lock, semaphore) = (Lock::new(), RLock::new(), Semaphore::new(1));
    let (bounded, condition, event) = (BoundedSemaphore::new(1), Condition::new(), Event::new());
    sends(lock.acquire_async());
    sends(lock.lock_async());
    sends(lock.lock());
    sends(r_lock.acquire_async());
    sends(r_lock.lock_async());
    sends(r_lock.lock());
    sends(semaphore.acquire_async());
    sends(semaphore.permit_async());
    sends(semaphore.permit());
    sends(bounded.acquire_async());
    sends(bounded.permit_async());
    sends(bounded.permit());
    sends(condition.acquire_async());
    sends(condition.lock_async());
    sends(condition.wait_async());
    sends(condition.lock());
    sends(event.wait_async());
    sends(freethreading::Barrier::new(1).unwrap().wait_async());
    let (queue, simple) = (
        freethreading::Queue::new(0),
        freethreading::SimpleQueue::<u32>::new(),
    );
    sends(queue.get_async());
    sends(queue.put_async(7));
    sends(queue.join_async());
    sends(simple.get_async());
}

every_type! {
    for [
        lock: Lock,
        semaphore: Semaphore,
        bounded_semaphore: BoundedSemaphore,
    ]
    /// Somebody comes by and is faster, again and again, but not for ever.
    fn a_task_is_not_overtaken_for_ever<A: Awaitable>() {
        let object = A::closed(1);
        let (mut wait, wakes) = pending(&object);
        for overtaken in 0.. {
            assert!(overtaken < 100, "starved");
            let seen = wakes.count();
            object.let_through();
            eventually("it is woken", || wakes.count() > seen);
            let overtakes = object.try_wait();
            let is_through = poll(&mut wait, &wakes).is_ready();
            assert_eq!(is_through, !overtakes);
            if is_through {
                break;
            }
        }
        assert_closed(&object);
    }
}
