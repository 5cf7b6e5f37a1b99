//! Waiting for something, blocking or not: look, get in line and look again, wait, look again.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Instant,
};

use super::{
    node::State,
    slot::{Locked, SlotRef},
    waiter::{Sleeper, Waiter},
};
use crate::{
    coop,
    look::{Looker, give_way_and, look},
};

/// What is waited for. The methods that are given a [`Locked`] hold the slot's mutex.
pub(crate) trait Resource {
    type Output;

    /// Whether those who want it hold it only for a moment, so that it pays to [look](Self::look).
    const CONTENDED: bool = false;

    /// The same where a task waits. While it tries, other tasks wait for the thread; but to be woken again and again
    /// takes longer.
    const CONTENDED_BY_TASKS: Option<Looker> = None;

    /// When a wait that is over at once takes of its task's budget.
    const BUDGET: Budget<Self::Output> = Budget::Before;

    /// The slot whose mutex guards the line.
    fn slot(&self) -> SlotRef;

    /// Takes what is waited for, if it is there. Whoever comes by may do so, also ahead of those who wait.
    fn attempt(&mut self) -> Option<Self::Output>;

    /// The same of who has just tried in vain: looks first, where others want to write what is to be exchanged.
    fn attempt_again(&mut self) -> Option<Self::Output> {
        self.attempt()
    }

    /// Tries a few times, where it is contended.
    fn look(&mut self) -> Option<Self::Output> {
        None
    }

    /// Takes it; if it is not there, sees to it that whoever brings it looks for waiters.
    fn attempt_or_join(&mut self, slot: &Locked) -> Result<Self::Output, Miss>;

    /// The mutex is free again.
    fn unlocked(&mut self) {}

    /// A waiter was told, with this outcome, to look again.
    fn notified(&mut self, _outcome: u32) -> Option<Self::Output> {
        self.attempt()
    }

    /// What is waited for was handed to the waiter: `None` if it has been lost since.
    fn handed(&mut self) -> Option<Self::Output>;

    /// A waiter has left the list without having been told anything.
    fn left(&mut self, slot: &Locked, list: usize);

    /// A waiter that was told something is gone: somebody else shall have it.
    fn pass_on(&mut self, message: State, outcome: u32);
}

/// When a wait that is over at once takes of the [budget](coop) of its task.
pub(crate) enum Budget<O> {
    /// Before it begins.
    Before,
    /// When it is over, with this output: a wait that is to miss nothing has to begin with the first poll.
    After(O),
    /// The caller sees to it.
    Never,
}

/// What to do where something is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// Get in this line.
    Join(usize),
    /// Try once more, without the mutex.
    Again,
}

/// Somebody's wait. Dropped half-way, it leaves the line, and passes on what it was given.
///
/// What is of use in line only is with the waiter: the exchange by which somebody gets a free lock waits until all is
/// written that was written before, so the less that is, the better.
#[repr(C)]
pub(crate) struct Waiting<R: Resource> {
    resource: R,
    /// It is in a list, or was told something.
    waiter: Option<Waiter>,
}

impl<R: Resource> Waiting<R> {
    #[inline]
    pub(crate) fn new(resource: R) -> Self {
        Waiting {
            resource,
            waiter: None,
        }
    }

    pub(crate) fn resource(&mut self) -> &mut R {
        &mut self.resource
    }

    /// The waiter of who is in line, or was told something.
    #[inline]
    pub(crate) fn waiter(&self) -> &Waiter {
        self.waiter.as_ref().expect("who is in line has a waiter")
    }

    /// Goes on with a waiter that is in another line, until it is in one of the resource's, or is told of the resource.
    #[inline]
    pub(crate) fn adopt(&mut self, waiter: Waiter) {
        self.waiter = Some(waiter);
    }

    /// The waiter, if there is one, is in no line any more, and what it was told is settled.
    pub(crate) fn let_go(&mut self) {
        self.waiter = None;
    }

    /// Ends the wait, as dropping it does.
    #[inline]
    pub(crate) fn end(&mut self) {
        if self.waiter.is_some() {
            self.give_up();
        }
    }

    /// Takes what is waited for, or gets in line for it.
    #[inline]
    pub(crate) fn poll(&mut self, sleeper: Sleeper<'_>) -> Poll<R::Output> {
        match self.waiter {
            Some(_) => self.poll_in_line(sleeper),
            None => self.poll_first(sleeper),
        }
    }

    /// The same of who is not in line.
    #[inline]
    fn poll_first(&mut self, sleeper: Sleeper<'_>) -> Poll<R::Output> {
        match self.resource.attempt() {
            Some(output) => Poll::Ready(output),
            None => self.join(sleeper),
        }
    }

    /// Looks whether it was told something. Not inlined: what a caller's future is compiled with is to be what is most
    /// likely.
    #[inline(never)]
    fn poll_in_line(&mut self, sleeper: Sleeper<'_>) -> Poll<R::Output> {
        let waiter = self.waiter();
        let state = match (waiter.state(), sleeper) {
            (State::Waiting, Sleeper::Task(waker)) => {
                // Whoever tells it something from now on finds this waker.
                waiter.leave(waker);
                waiter.state()
            }
            (state, _) => state,
        };
        let output = match state {
            State::Waiting | State::Sleeping | State::Dozing => return Poll::Pending,
            State::Notified => {
                let outcome = waiter.outcome();
                let output = self.resource.notified(outcome);
                if output.is_none() {
                    self.waiter().patience().try_it();
                }
                output
            }
            State::Handed => {
                waiter.retire();
                self.resource.handed()
            }
        };
        match output {
            Some(output) => self.over(output),
            None => self.join(sleeper),
        }
    }

    /// What was waited for is there: lets the waiter go, right here, since this is what most waits come to.
    #[inline]
    fn over(&mut self, output: R::Output) -> Poll<R::Output> {
        if let Some(waiter) = self.waiter.take() {
            waiter.give_back();
        }
        Poll::Ready(output)
    }

    /// Gets in line, unless it is there by then. Not inlined, for the same reason.
    #[inline(never)]
    fn join(&mut self, sleeper: Sleeper<'_>) -> Poll<R::Output> {
        if let (Some(looker), Sleeper::Task(_)) = (R::CONTENDED_BY_TASKS, sleeper)
            && let Some(output) = look(looker, || self.resource.attempt_again())
        {
            return self.over(output);
        }
        // A waker is code of a user: while it is cloned there is none here, who would be in line.
        let waiter = self.waiter.take().unwrap_or_else(Waiter::claim);
        self.line_up(waiter, sleeper)
    }

    /// The same for who has a waiter, in no line.
    #[inline]
    fn line_up(&mut self, waiter: Waiter, sleeper: Sleeper<'_>) -> Poll<R::Output> {
        waiter.retire();
        waiter.prepare(sleeper);
        if waiter.patience().is_over() {
            waiter.set_starved();
        }
        let slot = self.resource.slot().lock();
        let found = self.resource.attempt_or_join(&slot);
        if let Err(Miss::Join(list)) = found {
            match waiter.patience().was_tried() {
                false => {
                    slot.stamp(waiter.node);
                    slot.push(list, waiter.index, waiter.node, false);
                }
                // It keeps its place.
                true => slot.push(list, waiter.index, waiter.node, true),
            }
            drop(slot);
            self.waiter = Some(waiter);
            return Poll::Pending;
        }
        drop(slot);
        self.resource.unlocked();
        match found {
            Ok(output) => {
                drop(waiter);
                Poll::Ready(output)
            }
            Err(_) => self.line_up_again(waiter, sleeper),
        }
    }

    /// The same where there may be something now, and not for those who have the mutex.
    #[inline(never)]
    fn line_up_again(&mut self, waiter: Waiter, sleeper: Sleeper<'_>) -> Poll<R::Output> {
        match self.resource.attempt_again() {
            Some(output) => {
                drop(waiter);
                Poll::Ready(output)
            }
            None => self.line_up(waiter, sleeper),
        }
    }

    /// Blocks until it is there or the time is up.
    pub(crate) fn block(&mut self, deadline: Option<Instant>) -> Option<R::Output> {
        loop {
            let waiter = self.waiter.as_ref();
            if R::CONTENDED
                && waiter.is_none_or(|waiter| waiter.state() == State::Notified)
                && let Some(output) = self.compete(deadline)
            {
                self.let_go();
                return Some(output);
            }
            if let Poll::Ready(output) = self.poll(Sleeper::Thread) {
                return Some(output);
            }
            if !self.waiter().sleep(deadline) && self.leave() {
                return None;
            }
        }
    }

    /// Waits until the other future is ready at most; `None` if it was not there before.
    pub(crate) async fn until(&mut self, end: impl Future<Output = ()>) -> Option<R::Output> {
        let mut end = pin!(end);
        poll_fn(|context| {
            let sleeper = Sleeper::Task(context.waker());
            if let Poll::Ready(output) = self.poll(sleeper) {
                return Poll::Ready(Some(output));
            }
            ready!(end.as_mut().poll(context));
            loop {
                if self.leave() {
                    return Poll::Ready(None);
                }
                // It was told just now.
                if let Poll::Ready(output) = self.poll(sleeper) {
                    return Poll::Ready(Some(output));
                }
            }
        })
        .await
    }

    /// Tries to get it without getting in line, for a moment.
    fn compete(&mut self, deadline: Option<Instant>) -> Option<R::Output> {
        let free = self.resource.attempt();
        let found = free.or_else(|| self.resource.look());
        if found.is_some() {
            return found;
        }
        give_way_and(deadline, || self.resource.attempt_again())
    }

    /// Leaves the line: `false` if it was told something in time.
    fn leave(&mut self) -> bool {
        let waiter = self.waiter();
        let slot = self.resource.slot().lock();
        // Under the mutex nobody tells it anything any more.
        if waiter.state().is_told() {
            return false;
        }
        let list = waiter.node.list().list as usize;
        slot.unlink(list, waiter.node);
        waiter.retire();
        self.resource.left(&slot, list);
        drop(slot);
        self.resource.unlocked();
        self.let_go();
        true
    }

    #[cold]
    fn give_up(&mut self) {
        if self.leave() {
            return;
        }
        let waiter = self.waiter();
        let (message, outcome) = (waiter.state(), waiter.outcome());
        // A process killed here takes what it was given with it; telling somebody twice does no harm.
        if message == State::Handed {
            waiter.retire();
        }
        self.resource.pass_on(message, outcome);
        self.let_go();
    }
}

impl<R: Resource> Drop for Waiting<R> {
    #[inline]
    fn drop(&mut self) {
        self.end();
    }
}

/// A wait as a future.
///
/// Where a resource begins with a [`SlotRef`], that is written here in one piece and then read in two. If the piece did
/// not begin at a multiple of 16, reading it would take longer, or much longer, as the case may be.
#[repr(C, align(16))]
pub(crate) struct WaitAsync<R: Resource> {
    waiting: Waiting<R>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    /// It was not there: who comes again is in line, but for a panic on the way there.
    Tried,
    /// It is over, but others have their turn first.
    GivingWay,
    Over,
}

impl<R: Resource> WaitAsync<R> {
    #[inline]
    pub(crate) fn new(resource: R) -> Self {
        WaitAsync {
            waiting: Waiting::new(resource),
            stage: Stage::Start,
        }
    }
}

impl<R: Resource + Unpin> Future for WaitAsync<R> {
    type Output = R::Output;

    // Always: in a program that is built without LTO the compiler takes that of an RLock to be too large.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R::Output> {
        let output = match (self.stage, R::BUDGET) {
            _ if self.waiting.waiter.is_some() => {
                ready!(self.waiting.poll_in_line(Sleeper::Task(context.waker())))
            }
            (Stage::Over, _) => panic!("it is polled after the end"),
            (Stage::GivingWay, Budget::After(output)) => output,
            (stage, budget) => {
                if let Budget::Before = budget {
                    ready!(coop::poll_begin(context));
                }
                let resource = &mut self.waiting.resource;
                let found = match stage {
                    Stage::Tried => resource.attempt_again(),
                    _ => resource.attempt(),
                };
                let output = match found {
                    Some(output) => output,
                    None => {
                        self.stage = Stage::Tried;
                        ready!(self.waiting.join(Sleeper::Task(context.waker())))
                    }
                };
                if let Budget::After(_) = budget
                    && coop::poll_begin(context).is_pending()
                {
                    self.stage = Stage::GivingWay;
                    return Poll::Pending;
                }
                output
            }
        };
        self.stage = Stage::Over;
        Poll::Ready(output)
    }
}

#[cfg(all(test, not(freethreading_loom)))]
mod tests {
    use std::{mem, task::Waker};

    use super::*;
    use crate::{
        arena::{handle::Handle, slot::Kind},
        shim::Ordering,
    };

    /// What is never there, and of which one cannot be sure at first.
    struct Fickle {
        slot: SlotRef,
        again: bool,
    }

    impl Resource for Fickle {
        type Output = ();

        fn slot(&self) -> SlotRef {
            self.slot
        }

        fn attempt(&mut self) -> Option<()> {
            None
        }

        fn attempt_or_join(&mut self, _slot: &Locked) -> Result<(), Miss> {
            match mem::take(&mut self.again) {
                true => Err(Miss::Again),
                false => Err(Miss::Join(0)),
            }
        }

        fn handed(&mut self) -> Option<()> {
            None
        }

        fn left(&mut self, _slot: &Locked, _list: usize) {}

        fn pass_on(&mut self, _message: State, _outcome: u32) {}
    }

    #[test]
    fn who_has_to_try_again_keeps_its_place_and_its_patience() {
        let handle = Handle::new(Kind::Event, |_| {}).unwrap();
        let slot = handle.slot();
        let sleeper = Sleeper::Task(Waker::noop());
        let [mut first, mut second] = [(); 2].map(|()| Waiting::new(Fickle { slot, again: true }));
        let ticket = |wait: &Waiting<Fickle>| wait.waiter().node.ticket.load(Ordering::Relaxed);
        assert!(first.poll(sleeper).is_pending());
        assert!(second.poll(sleeper).is_pending());
        for _ in 0..3 {
            slot.lock().pop(0, State::Notified).unwrap().wake();
            assert!(first.waiter().state().is_told());
            first.resource().again = true;
            assert!(first.poll(sleeper).is_pending());
            assert!(first.waiter().patience().was_tried());
            assert!(ticket(&first) < ticket(&second));
        }
    }
}
