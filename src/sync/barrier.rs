//! A place where workers wait for each other.

use std::{
    fmt,
    future::poll_fn,
    task::Context,
    time::{Duration, Instant},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};

use super::face;
use crate::{
    arena::{
        handle::Handle,
        me,
        node::{State, Wakes},
        reaper::Dead,
        slot::{Kind, Locked, SlotRef},
        wait::{Budget, Miss, Resource, Waiting},
        waiter::Sleeper,
    },
    coop, deadline,
    engine::reactor,
    error::{BarrierError, CodecError, Error, TaskError},
    shim::{AtomicU64, Ordering},
    task::{IntoTask, encoded::EncodedTask},
};

// All words are written under the mutex only: Relaxed.

/// How many have to come.
const PARTIES: usize = 0;

/// How many have come.
const ARRIVED: usize = 1;

/// A [`Phase`].
const PHASE: usize = 2;

/// How often it was passed, broken or reset.
const ROUND: usize = 3;

/// The index of the process that runs the action.
const ACTOR: usize = 4;

/// Somebody has come while the action ran, and has given up.
const FORSAKEN: usize = 5;

/// The list of those who have come.
const COME: usize = 0;

/// The list of those who come while the action runs: they will try again, if the barrier is passed.
const OUTSIDE: usize = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Filling = 0,
    Acting = 1,
    Broken = 2,
}

// What those who wait are told.
const PASSED: u32 = 1;
const BROKEN: u32 = 2;
const TRY_AGAIN: u32 = 3;

/// A place where a fixed number of threads, async tasks or worker processes wait until all of them have come; Python's
/// `threading.Barrier` and `multiprocessing.Barrier`.
///
/// It can be used again and again. If one of those who wait gives up (its time is up, its future is
/// dropped, its process dies), or somebody aborts, the barrier breaks: all who wait and all who come get
/// [`BarrierError::Broken`], until it is [reset](Barrier::reset). While an [action](Barrier::action) runs, others may
/// come for the next round already; if one of them gives up, the barrier breaks at the end of this round.
///
/// It can be given to any worker of this machine, at any time; clones, and what workers get, are
/// handles to the same barrier.
///
/// # Examples
///
/// ```
/// use std::thread;
/// use freethreading::Barrier;
///
/// let barrier = Barrier::new(2)?;
/// let other = barrier.clone();
/// let waiting = thread::spawn(move || other.wait());
/// let mine = barrier.wait()?;
/// let theirs = waiting.join().unwrap()?;
/// assert_eq!(mine + theirs, 1); // Who comes first is number 0, the other 1.
/// # Ok::<(), freethreading::Error>(())
/// ```
#[derive(Clone)]
pub struct Barrier {
    place: Place,
    /// What the last to come runs; encoded, so that it can be run anywhere and again and again.
    action: Option<Result<EncodedTask, CodecError>>,
    timeout: Option<Duration>,
}

/// The barrier's slot.
#[derive(Clone)]
struct Place(Handle);

face::travels!(Place, Kind::Barrier);

/// A slot as a barrier.
#[derive(Clone, Copy)]
pub(super) struct RawBarrier {
    slot: SlotRef,
    has_action: bool,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Passed,
    Broken,
    /// The caller is the last, and runs the action of the round.
    Act,
}

impl RawBarrier {
    pub(super) fn of(slot: SlotRef) -> Self {
        RawBarrier {
            slot,
            has_action: false,
        }
    }

    fn word(&self, word: usize) -> &AtomicU64 {
        &self.slot.slot.words[word]
    }

    fn get(self, word: usize) -> u64 {
        self.word(word).load(Ordering::Relaxed)
    }

    fn set(self, word: usize, value: u64) {
        self.word(word).store(value, Ordering::Relaxed);
    }

    fn phase(self) -> Phase {
        match self.get(PHASE) {
            0 => Phase::Filling,
            1 => Phase::Acting,
            _ => Phase::Broken,
        }
    }

    fn is_one_missing(self) -> bool {
        self.get(ARRIVED) + 1 >= self.get(PARTIES)
    }

    /// Ends the round: those who wait are told how.
    fn end_round(self, slot: &Locked, phase: Phase, outcome: u32, wakes: &mut Wakes) {
        self.set(ROUND, self.get(ROUND).wrapping_add(1));
        self.set(ARRIVED, 0);
        self.set(FORSAKEN, 0);
        self.set(PHASE, phase as u64);
        slot.pop_all(COME, wakes, outcome);
        let next = match phase {
            Phase::Filling if outcome == PASSED => TRY_AGAIN,
            _ => BROKEN,
        };
        slot.pop_all(OUTSIDE, wakes, next);
    }

    /// Somebody has given up who was in this list.
    pub(super) fn left(self, slot: &Locked, list: usize, wakes: &mut Wakes) {
        match self.phase() {
            // Of the round that is about to be passed nobody is missing.
            Phase::Acting if list == OUTSIDE => self.set(FORSAKEN, 1),
            _ => self.break_it(slot, wakes),
        }
    }

    /// The barrier breaks.
    fn break_it(self, slot: &Locked, wakes: &mut Wakes) {
        if self.phase() != Phase::Broken {
            self.end_round(slot, Phase::Broken, BROKEN, wakes);
        }
    }

    /// The process that had the mutex is gone, and may not have told all that it was to: the barrier breaks.
    pub(super) fn repair(self, slot: &Locked, wakes: &mut Wakes) {
        self.end_round(slot, Phase::Broken, BROKEN, wakes);
    }

    /// Somebody has given up who was told this.
    pub(super) fn bequeath(self, outcome: u32) {
        if outcome == TRY_AGAIN {
            let mut wakes = Wakes::default();
            self.left(&self.slot.lock(), OUTSIDE, &mut wakes);
            wakes.wake();
        }
    }

    fn abort(self) {
        let mut wakes = Wakes::default();
        self.break_it(&self.slot.lock(), &mut wakes);
        wakes.wake();
    }

    fn reset(self) {
        let mut wakes = Wakes::default();
        {
            let slot = self.slot.lock();
            self.end_round(&slot, Phase::Filling, BROKEN, &mut wakes);
        }
        wakes.wake();
    }

    /// The action of a round has ended; says whether the barrier was passed.
    fn acted(self, round: u64, well: bool) -> bool {
        let mut wakes = Wakes::default();
        let passed = {
            let slot = self.slot.lock();
            // The action itself may have aborted or reset the barrier.
            let same = self.phase() == Phase::Acting && self.get(ROUND) == round;
            match (same, well) {
                (true, true) => {
                    let next = match self.get(FORSAKEN) {
                        0 => Phase::Filling,
                        _ => Phase::Broken,
                    };
                    self.end_round(&slot, next, PASSED, &mut wakes);
                }
                (true, false) => self.break_it(&slot, &mut wakes),
                (false, _) => {}
            }
            same && well
        };
        wakes.wake();
        passed
    }

    /// A process is gone: if it ran the action, nobody will end the round.
    pub(super) fn inherit(self, dead: Dead) {
        let mut wakes = Wakes::default();
        {
            let slot = self.slot.lock();
            if self.phase() == Phase::Acting && self.get(ACTOR) == u64::from(dead.process) {
                self.break_it(&slot, &mut wakes);
            }
        }
        wakes.wake();
    }
}

/// Somebody's arrival at a barrier.
struct Arriving {
    barrier: RawBarrier,
    /// Its number, once it has come.
    index: usize,
    /// The round whose action it is to run.
    round: u64,
    /// Who is to be woken, since this one has given up, once the mutex is free.
    bereaved: Option<Box<Wakes>>,
}

impl Resource for Arriving {
    type Output = Arrival;

    // Who is polled has come, and who is the last to come runs the action: others have their turn after that.
    const BUDGET: Budget<Self::Output> = Budget::Never;

    fn slot(&self) -> SlotRef {
        self.barrier.slot
    }

    /// The last to come has no use for a place in line.
    fn attempt(&mut self) -> Option<Self::Output> {
        let barrier = self.barrier;
        // A look, which may be mistaken.
        if !barrier.is_one_missing() {
            return None;
        }
        let mut wakes = Wakes::default();
        let arrival = {
            let slot = barrier.slot.lock();
            if barrier.phase() != Phase::Filling || !barrier.is_one_missing() {
                return None;
            }
            self.index = barrier.get(ARRIVED) as usize;
            match barrier.has_action {
                true => {
                    barrier.set(ARRIVED, barrier.get(PARTIES));
                    barrier.set(PHASE, Phase::Acting as u64);
                    barrier.set(ACTOR, u64::from(me()));
                    self.round = barrier.get(ROUND);
                    Arrival::Act
                }
                false => {
                    barrier.end_round(&slot, Phase::Filling, PASSED, &mut wakes);
                    Arrival::Passed
                }
            }
        };
        wakes.wake();
        Some(arrival)
    }

    fn attempt_or_join(&mut self, _slot: &Locked) -> Result<Self::Output, Miss> {
        let barrier = self.barrier;
        match barrier.phase() {
            Phase::Broken => Ok(Arrival::Broken),
            Phase::Acting => Err(Miss::Join(OUTSIDE)),
            Phase::Filling if barrier.is_one_missing() => Err(Miss::Again),
            Phase::Filling => {
                let arrived = barrier.get(ARRIVED);
                self.index = arrived as usize;
                barrier.set(ARRIVED, arrived + 1);
                Err(Miss::Join(COME))
            }
        }
    }

    fn unlocked(&mut self) {
        if let Some(mut wakes) = self.bereaved.take() {
            wakes.wake();
        }
    }

    fn notified(&mut self, outcome: u32) -> Option<Self::Output> {
        match outcome {
            PASSED => Some(Arrival::Passed),
            TRY_AGAIN => None,
            _ => Some(Arrival::Broken),
        }
    }

    fn handed(&mut self) -> Option<Self::Output> {
        Some(Arrival::Broken)
    }

    /// Whoever gives up breaks the barrier.
    fn left(&mut self, slot: &Locked, list: usize) {
        let wakes = self.bereaved.get_or_insert_default();
        self.barrier.left(slot, list, wakes);
    }

    fn pass_on(&mut self, _message: State, outcome: u32) {
        self.barrier.bequeath(outcome);
    }
}

impl Barrier {
    /// A new barrier, for so many who have to come.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for 0, [`Error::Arena`] if the system has no memory for it.
    pub fn new(parties: usize) -> Result<Self, Error> {
        if parties == 0 {
            return Err(Error::InvalidArgument(
                "a barrier needs at least one party, or nobody could ever pass".into(),
            ));
        }
        let place = Handle::new(Kind::Barrier, |slot| {
            // Relaxed: nobody else knows the slot yet.
            slot.words[PARTIES].store(parties as u64, Ordering::Relaxed);
        })?;
        Ok(Barrier {
            place: Place(place),
            action: None,
            timeout: None,
        })
    }

    /// A task that the last to come runs, on its own thread, before anybody passes; its result is dropped.
    ///
    /// It belongs to this handle, and to those that are made of it from now on: set it before the barrier is shared.
    /// Its arguments are encoded once, now; if that fails, it is an error of the wait that would run it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use freethreading::Barrier;
    /// let barrier = Barrier::new(1)?.action(|| println!("all have come"));
    /// assert_eq!(barrier.wait()?, 0);
    /// # Ok::<(), freethreading::Error>(())
    /// ```
    #[must_use]
    pub fn action<M, T: IntoTask<M>>(mut self, task: T) -> Self {
        self.action = Some(EncodedTask::of(task));
        self
    }

    /// How long [`wait`](Barrier::wait) and [`wait_async`](Barrier::wait_async) wait; for ever by default. It belongs
    /// to this handle, and to those that are made of it from now on.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn raw(&self) -> RawBarrier {
        RawBarrier {
            slot: self.place.0.slot(),
            has_action: self.action.is_some(),
        }
    }

    fn arriving(&self) -> Arriving {
        Arriving {
            barrier: self.raw(),
            index: 0,
            round: 0,
            bereaved: None,
        }
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<usize, BarrierError> {
        let mut waiting = Waiting::new(self.arriving());
        let arrival = waiting.block(deadline);
        self.go_on(arrival, waiting.resource())
    }

    /// The wait is over; `None` if that is since its time was up.
    fn go_on(&self, arrival: Option<Arrival>, arriving: &Arriving) -> Result<usize, BarrierError> {
        let passed = match arrival.ok_or(BarrierError::Broken)? {
            Arrival::Passed => true,
            Arrival::Broken => false,
            Arrival::Act => {
                let done = match &self.action {
                    None => Ok(()),
                    Some(Ok(action)) => action.run(),
                    Some(Err(error)) => Err(TaskError::Encode(error.clone())),
                };
                let passed = self.raw().acted(arriving.round, done.is_ok());
                done.map_err(BarrierError::Action)?;
                passed
            }
        };
        match passed {
            true => Ok(arriving.index),
            false => Err(BarrierError::Broken),
        }
    }

    /// Waits until all have come; gives the number of this one among them, from 0 in the order in
    /// which they came.
    ///
    /// # Blocking
    ///
    /// Until all have come, or the barrier breaks, or its own [timeout](Barrier::timeout) is up, which breaks it. The
    /// last to come runs the action meanwhile, however long that takes.
    ///
    /// # Errors
    ///
    /// [`BarrierError::Broken`] if the barrier is broken or breaks. [`BarrierError::Action`] if the action
    /// failed: that is for the one who has run it, the others get `Broken`.
    pub fn wait(&self) -> Result<usize, BarrierError> {
        self.wait_until(self.timeout.and_then(deadline::after))
    }

    /// Like [`wait`](Barrier::wait), for so long at most: then the barrier breaks.
    ///
    /// # Blocking
    ///
    /// For so long at most; but the last to come runs the action, however long that takes.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Barrier::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<usize, BarrierError> {
        self.wait_until(deadline::after(timeout))
    }

    /// The async twin of [`wait`](Barrier::wait), with the barrier's own timeout. The last to come runs the action
    /// within the poll.
    ///
    /// # Cancel safety
    ///
    /// Dropping a future that waits breaks the barrier, as a timeout does. One that was never polled has not come.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Barrier::wait).
    pub async fn wait_async(&self) -> Result<usize, BarrierError> {
        let passed = match self.timeout.and_then(deadline::after) {
            Some(deadline) => self.wait_or(reactor::sleep_until(deadline)).await,
            None => {
                // Polled where it is: moved once more, it takes a fifth longer.
                let mut waiting = Waiting::new(self.arriving());
                let poll = |context: &mut Context<'_>| waiting.poll(Sleeper::Task(context.waker()));
                let arrival = poll_fn(poll).await;
                self.go_on(Some(arrival), waiting.resource())
            }
        };
        coop::give_way().await;
        passed
    }

    /// Waits until the future is ready at most.
    pub(super) async fn wait_or(
        &self,
        end: impl Future<Output = ()>,
    ) -> Result<usize, BarrierError> {
        let mut waiting = Waiting::new(self.arriving());
        let arrival = waiting.until(end).await;
        self.go_on(arrival, waiting.resource())
    }

    /// Breaks the barrier: all who wait, and all who come, get [`BarrierError::Broken`].
    pub fn abort(&self) {
        self.raw().abort();
    }

    /// Makes the barrier as good as new: those who wait get [`BarrierError::Broken`], those who come from now on do not.
    pub fn reset(&self) {
        self.raw().reset();
    }

    /// Whether the barrier is broken.
    pub fn broken(&self) -> bool {
        self.raw().phase() == Phase::Broken
    }

    /// How many have come and wait for the others at this moment.
    pub fn n_waiting(&self) -> usize {
        self.raw().get(ARRIVED) as usize
    }

    /// How many have to come.
    pub fn parties(&self) -> usize {
        self.raw().get(PARTIES) as usize
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field(
                "waiters",
                &format_args!("{}/{}", self.n_waiting(), self.parties()),
            )
            .field("broken", &self.broken())
            .finish_non_exhaustive()
    }
}

impl Serialize for Barrier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let action = self.action.as_ref().map(Result::as_ref).transpose();
        let action = action.map_err(ser::Error::custom)?;
        (&self.place, action, self.timeout).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Barrier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (place, action, timeout) = Deserialize::deserialize(deserializer)?;
        let action: Option<EncodedTask> = action;
        Ok(Barrier {
            place,
            action: action.map(Ok),
            timeout,
        })
    }
}
