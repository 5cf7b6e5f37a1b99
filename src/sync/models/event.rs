use std::pin::pin;

use loom::{future::block_on, sync::Arc, thread};

use super::{NO_TIME, poll, poll_and_drop};
use crate::{
    arena::models::{Protected, elsewhere, model},
    sync::Event,
};

#[test]
fn loom_event_wakes_who_waits_however_short_it_is_set() {
    model(None, || {
        let event = Event::new();
        let value = Protected::new();
        let waiting = {
            let (event, value) = (event.clone(), Arc::clone(&value));
            elsewhere(move || {
                event.wait();
                // What was done before the event was set is seen.
                assert_eq!(value.get(), 1);
            })
        };
        value.add();
        event.set();
        waiting.join().unwrap();
    });
}

#[test]
fn loom_event_reaches_all_who_come() {
    model(2, || {
        let event = Event::new();
        let value = Protected::new();
        let waiting = [(); 2].map(|()| {
            let (event, value) = (event.clone(), Arc::clone(&value));
            elsewhere(move || {
                event.wait();
                assert_eq!(value.get(), 1);
            })
        });
        value.add();
        event.set();
        for waiting in waiting {
            waiting.join().unwrap();
        }
        assert!(event.is_set());
    });
}

#[test]
fn loom_event_reaches_a_task_before_it_is_cleared() {
    model(None, || {
        let event = Event::new();
        let value = Protected::new();
        let mut wait = pin!(event.wait_async());
        assert!(poll(wait.as_mut()).is_pending());
        let setter = {
            let (event, value) = (event.clone(), Arc::clone(&value));
            elsewhere(move || {
                value.add();
                event.set();
                event.clear();
            })
        };
        // It looks without being woken, as any task may.
        while poll(wait.as_mut()).is_pending() {
            thread::yield_now();
        }
        assert_eq!(value.get(), 1);
        setter.join().unwrap();
        assert!(!event.is_set());
    });
}

/// The second time it is known already that somebody waits.
#[test]
fn loom_event_wakes_who_waits_again() {
    model(2, || {
        let (ping, pong) = (Event::new(), Event::new());
        let waiting = {
            let (ping, pong) = (ping.clone(), pong.clone());
            elsewhere(move || {
                ping.wait();
                ping.clear();
                pong.set();
                ping.wait();
            })
        };
        ping.set();
        pong.wait();
        ping.set();
        waiting.join().unwrap();
    });
}

#[test]
fn loom_event_cleared_late_still_knows_who_waits() {
    model(None, || {
        let event = Event::new();
        event.set();
        let other = {
            let event = event.clone();
            elsewhere(move || event.clear())
        };
        event.clear();
        let mut wait = pin!(event.wait_async());
        assert!(poll(wait.as_mut()).is_pending());
        other.join().unwrap();
        event.set();
        assert!(poll(wait.as_mut()).is_ready());
    });
}

#[test]
fn loom_event_forgets_who_gives_up() {
    model(2, || {
        let event = Event::new();
        let fickle = {
            let event = event.clone();
            thread::spawn(move || poll_and_drop(event.wait_async()))
        };
        let hasty = {
            let event = event.clone();
            elsewhere(move || event.wait_timeout(NO_TIME))
        };
        event.set();
        event.clear();
        fickle.join().unwrap();
        hasty.join().unwrap();
        event.set();
        event.wait();
    });
}

#[test]
fn loom_event_reaches_who_came_after_a_dropped_task() {
    model(4, || {
        let event = Event::new();
        let mut fickle = Box::pin(event.wait_async());
        let mut steady = Box::pin(event.wait_async());
        assert!(poll(fickle.as_mut()).is_pending());
        assert!(poll(steady.as_mut()).is_pending());
        let setter = {
            let event = event.clone();
            thread::spawn(move || event.set())
        };
        drop(fickle);
        block_on(steady);
        setter.join().unwrap();
    });
}

/// The wake-up for the first event may come when its waiter waits for the second one, and with the same
/// node.
#[test]
fn loom_a_late_wake_up_harms_nobody() {
    model(3, || {
        let events = [Event::new(), Event::new()];
        let setters = events
            .clone()
            .map(|event| thread::spawn(move || event.set()));
        for event in &events {
            event.wait();
        }
        for setter in setters {
            setter.join().unwrap();
        }
    });
}

#[test]
fn loom_a_late_wake_up_harms_no_task() {
    model(3, || {
        let events = [Event::new(), Event::new()];
        let setters = events
            .clone()
            .map(|event| thread::spawn(move || event.set()));
        block_on(events[0].wait_async());
        block_on(events[1].wait_async());
        for setter in setters {
            setter.join().unwrap();
        }
    });
}
