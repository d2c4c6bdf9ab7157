//! The threads that compute. One thread leads; the others take shares of what it hands out, step by step.
//!
//! A forward pass is some hundred short steps, each of which must be over before the next begins. Threads that sleep in
//! between cost more than some steps take, and threads that wait for each other in a loop stand still all together as soon
//! as the machine takes a core from one of them. So a crew waits a moment before it sleeps, and nobody ever waits for a
//! thread that has not begun: what it was to do is taken by those that are there, half of what is left at a time. One that
//! loses its core in the middle delays the others by one unit of work at most, and whoever waits for it sleeps, which
//! leaves it a core.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Threads, and the one step they may be at.
pub(crate) struct Crew {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

/// How long a thread looks out for the next step before it sleeps: longer than what lies between two steps of a forward
/// pass, shorter than what anybody would notice.
const LOOKOUT: Duration = Duration::from_micros(60);
/// How long the leader looks out for the last thread before it sleeps: longer than most units take.
const PATIENCE: Duration = Duration::from_micros(40);

struct Shared {
    /// The number of the step, whether it is open, and how many helpers are in it: see [`Gate`].
    gate: Apart<AtomicU64>,
    /// How many units of the step are not done.
    left: Apart<AtomicUsize>,
    /// For each thread the units it is to do next, from one to before another; the leader is the first.
    ranges: Box<[Apart<AtomicU64>]>,
    /// For each helper whether it sleeps, or is about to.
    asleep: Box<[Apart<AtomicBool>]>,
    leader_asleep: AtomicBool,
    /// Held by whoever leads.
    leading: Mutex<()>,
    /// Whoever led last, to be woken.
    leader: Mutex<Option<Thread>>,
    /// What is to be done with a unit. Written by the leader while no helper is in a step.
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Once all were started.
    helpers: OnceLock<Vec<Thread>>,
    stop: AtomicBool,
}

// SAFETY: `job` is the only part that is not `Sync` by itself. It is written while the gate is shut and nobody is inside,
// and read only by those who went in after it opened; the gate's orderings put the one before the other.
// WHY: a lock around it would be taken by every thread in every step.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is followed only within a step, during which what it points to is shared by `&`, and is
// `Sync` (see `each`).
// WHY: as above.
unsafe impl Send for Shared {}

/// A closure without its type.
#[derive(Clone, Copy)]
struct Job {
    work: *const (),
    call: unsafe fn(*const (), usize),
}

/// What several threads write to at once lies in cache lines of its own.
#[repr(align(128))]
struct Apart<T>(T);

/// The state of [`Shared::gate`]: in the low 31 bits how many helpers are inside, above whether it is open, above that the
/// step's number.
#[derive(Clone, Copy)]
struct Gate(u64);

impl Gate {
    const OPEN: u64 = 1 << 31;

    fn step(self) -> u64 {
        self.0 >> 32
    }

    fn is_open(self) -> bool {
        self.0 & Gate::OPEN != 0
    }

    fn inside(self) -> u64 {
        self.0 & (Gate::OPEN - 1)
    }
}

thread_local! {
    /// The crew that this thread leads and that is not at a step.
    static CREW: Cell<Option<NonNull<Shared>>> = const { Cell::new(None) };
}

impl Crew {
    /// A crew of so many threads, at least one, of which the leader is one.
    ///
    /// # Errors
    /// If a thread does not start.
    pub(crate) fn new(threads: usize) -> std::io::Result<Crew> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            gate: Apart(AtomicU64::new(0)),
            left: Apart(AtomicUsize::new(0)),
            ranges: (0..threads).map(|_| Apart(AtomicU64::new(0))).collect(),
            asleep: (1..threads).map(|_| Apart(AtomicBool::new(false))).collect(),
            leader_asleep: AtomicBool::new(false),
            leading: Mutex::new(()),
            leader: Mutex::new(None),
            job: UnsafeCell::new(Job { work: std::ptr::null(), call: |_, _| {} }),
            panic: Mutex::new(None),
            helpers: OnceLock::new(),
            stop: AtomicBool::new(false),
        });
        let mut crew = Crew { shared, helpers: Vec::with_capacity(threads - 1) };
        for helper in 0..threads - 1 {
            let shared = Arc::clone(&crew.shared);
            let thread = std::thread::Builder::new().name(format!("engine-{}", helper + 1));
            // If one does not start, dropping the crew ends those that did.
            crew.helpers.push(thread.spawn(move || shared.help(helper))?);
        }
        let helpers = crew.helpers.iter().map(|helper| helper.thread().clone()).collect();
        crew.shared.helpers.set(helpers).expect("they are set once");
        Ok(crew)
    }

    /// Has this thread lead the crew in all that `work` does. Another one that wants to lead meanwhile waits.
    pub(crate) fn lead<R>(&self, work: impl FnOnce() -> R) -> R {
        /// Puts back what was before, also when `work` panics.
        struct Before(Option<NonNull<Shared>>);
        impl Drop for Before {
            fn drop(&mut self) {
                CREW.set(self.0);
            }
        }
        // A leader that panicked left nothing half done: its step ended before.
        let _leading = self.shared.leading.lock().unwrap_or_else(PoisonError::into_inner);
        *self.shared.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        let _before = Before(CREW.replace(Some(NonNull::from(&*self.shared))));
        work()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches what its work panics with, so it has ended in order.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// What helper number `helper` does as long as there is a crew.
    fn help(&self, helper: usize) {
        let mut step = 0;
        while let Some(next) = self.next_step(helper, step) {
            step = next;
            self.take_part(helper + 1);
            self.gate.0.fetch_sub(1, Ordering::SeqCst);
            if self.leader_asleep.swap(false, Ordering::SeqCst)
                && let Some(leader) = &*self.leader.lock().unwrap_or_else(PoisonError::into_inner)
            {
                leader.unpark();
            }
        }
    }

    /// Waits for a step after number `last` that is open, and goes in. `None` when there will be no more.
    fn next_step(&self, helper: usize, last: u64) -> Option<u64> {
        let asleep = &self.asleep[helper].0;
        let mut since = Instant::now();
        let mut looks = 0_u32;
        loop {
            let gate = Gate(self.gate.0.load(Ordering::SeqCst));
            if gate.is_open() && gate.step() != last {
                let entered = self.gate.0.compare_exchange_weak(
                    gate.0,
                    gate.0 + 1,
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                );
                if entered.is_ok() {
                    return Some(gate.step());
                }
                continue;
            }
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            looks += 1;
            // Asking for the time costs as much as some looks.
            if !looks.is_multiple_of(64) || since.elapsed() < LOOKOUT {
                std::hint::spin_loop();
                continue;
            }
            asleep.store(true, Ordering::SeqCst);
            // Whoever opens the gate now sees that somebody sleeps; whoever opened it before is seen here.
            let gate = Gate(self.gate.0.load(Ordering::SeqCst));
            let wanted = gate.is_open() && gate.step() != last;
            if !wanted && !self.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
            since = Instant::now();
        }
    }

    /// Does units of the step that this thread is in until none is left to be taken.
    fn take_part(&self, thread: usize) {
        // SAFETY: the leader wrote it before it opened the gate, which this thread came through, and writes it no more
        // before this thread has left.
        // WHY: see `Sync`.
        let job = unsafe { *self.job.get() };
        loop {
            while let Some(unit) = self.take(thread) {
                // SAFETY: `work` points to the closure that `call` was made for. It lives until the step is over, which is
                // not before this unit is done.
                // WHY: helpers outlive every closure, so no lifetime says this.
                let done = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.work, unit) }));
                if let Err(panic) = done {
                    self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                }
                self.left.0.fetch_sub(1, Ordering::SeqCst);
            }
            if !self.steal(thread) {
                return;
            }
        }
    }

    /// The next of this thread's own units.
    fn take(&self, thread: usize) -> Option<usize> {
        let range = &self.ranges[thread].0;
        let mut now = range.load(Ordering::Acquire);
        loop {
            let (from, to) = unpack(now);
            if from >= to {
                return None;
            }
            match range.compare_exchange_weak(now, pack(from + 1, to), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(from as usize),
                Err(other) => now = other,
            }
        }
    }

    /// Takes over the second half of what another thread has left. False if nobody has anything.
    fn steal(&self, thread: usize) -> bool {
        let threads = self.ranges.len();
        for victim in (thread + 1..threads).chain(0..thread) {
            let range = &self.ranges[victim].0;
            let mut now = range.load(Ordering::Acquire);
            loop {
                let (from, to) = unpack(now);
                if from >= to {
                    break;
                }
                let middle = from + (to - from) / 2;
                match range.compare_exchange_weak(
                    now,
                    pack(from, middle),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    Ok(_) => {
                        // This thread's own range is empty, and from an empty one nobody takes anything.
                        self.ranges[thread].0.store(pack(middle, to), Ordering::Release);
                        return true;
                    }
                    Err(other) => now = other,
                }
            }
        }
        false
    }

    /// Does one step with all threads and returns when it is over.
    fn step(&self, count: usize, job: Job) {
        let threads = self.ranges.len();
        let count_units = u32::try_from(count).expect("a step has fewer than 2³² units");
        for (thread, range) in self.ranges.iter().enumerate() {
            let edge = |thread: usize| (u64::from(count_units) * thread as u64 / threads as u64) as u32;
            range.0.store(pack(edge(thread), edge(thread + 1)), Ordering::Relaxed);
        }
        self.left.0.store(count, Ordering::Relaxed);
        // SAFETY: the gate is shut and nobody is inside, so nobody reads it.
        // WHY: see `Sync`.
        unsafe { *self.job.get() = job };
        let number = Gate(self.gate.0.load(Ordering::Relaxed)).step().wrapping_add(1) & u64::from(u32::MAX);
        self.gate.0.store(number << 32 | Gate::OPEN, Ordering::SeqCst);
        // A thread for every other unit; there is no use in waking more.
        for helper in 0..self.asleep.len().min(count - 1) {
            if self.asleep[helper].0.swap(false, Ordering::SeqCst)
                && let Some(thread) = self.helpers.get().and_then(|helpers| helpers.get(helper))
            {
                thread.unpark();
            }
        }
        self.take_part(0);
        self.gate.0.fetch_and(!Gate::OPEN, Ordering::SeqCst);
        self.await_the_last();
        if let Some(panic) = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }

    /// Waits until nobody is in the step any more.
    fn await_the_last(&self) {
        let over = || {
            self.left.0.load(Ordering::SeqCst) == 0 && Gate(self.gate.0.load(Ordering::SeqCst)).inside() == 0
        };
        let since = Instant::now();
        loop {
            for _ in 0..64 {
                if over() {
                    return;
                }
                std::hint::spin_loop();
            }
            if since.elapsed() < PATIENCE {
                continue;
            }
            self.leader_asleep.store(true, Ordering::SeqCst);
            // Whoever leaves now sees that the leader sleeps; whoever left before is seen here.
            if !over() {
                std::thread::park();
            }
            self.leader_asleep.store(false, Ordering::SeqCst);
        }
    }
}

fn pack(from: u32, to: u32) -> u64 {
    u64::from(from) << 32 | u64::from(to)
}

fn unpack(range: u64) -> (u32, u32) {
    ((range >> 32) as u32, range as u32)
}

/// How many threads share what is handed out here.
pub(crate) fn threads() -> usize {
    // SAFETY: see `each`.
    // WHY: see `each`.
    CREW.get().map_or(1, |crew| unsafe { crew.as_ref() }.ranges.len())
}

/// Does `work` with every number below `count`, in any order, shared out over the crew that this thread leads; by itself if
/// it leads none, or if this is part of such work already.
pub(crate) fn each<F: Fn(usize) + Sync>(count: usize, work: F) {
    unsafe fn call<F: Fn(usize)>(work: *const (), unit: usize) {
        // SAFETY: `each` made the pointer of an `F` that it keeps until the step is over.
        // WHY: see `Shared::take_part`.
        let work = unsafe { &*work.cast::<F>() };
        work(unit);
    }
    /// Leads again, also after a panic.
    struct Leads(NonNull<Shared>);
    impl Drop for Leads {
        fn drop(&mut self) {
            CREW.set(Some(self.0));
        }
    }
    let crew = if count > 1 { CREW.take() } else { None };
    let Some(crew) = crew else {
        (0..count).for_each(work);
        return;
    };
    let _leads = Leads(crew);
    // SAFETY: `lead` put it there and takes it away before it returns, and the crew it borrows keeps it alive till then.
    // WHY: what is deep in the model need not be handed the crew through every call.
    let shared = unsafe { crew.as_ref() };
    if shared.ranges.len() == 1 {
        (0..count).for_each(work);
        return;
    }
    shared.step(count, Job { work: (&raw const work).cast(), call: call::<F> });
}

/// The results of `work` for every number below `count`, in order.
pub(crate) fn map<R: Send>(count: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let mut results: Vec<Option<R>> = Vec::new();
    results.resize_with(count, || None);
    each_part(chunks(&mut results, 1), 1, |i, result| result[0] = Some(work(i)));
    results.into_iter().map(|result| result.expect("every unit was done")).collect()
}

/// Something that comes apart into parts, each of which one thread may change.
pub(crate) trait Parts: Sync {
    type Part;

    /// How many there are.
    fn count(&self) -> usize;

    /// Part number `i`.
    ///
    /// # Safety
    /// `i` is below the count, and nobody asks for the same part twice.
    unsafe fn part(&self, i: usize) -> Self::Part;
}

/// A slice in pieces of one length, the last of which may be shorter.
pub(crate) struct Chunks<'a, T> {
    start: *mut T,
    len: usize,
    size: usize,
    whole: PhantomData<&'a mut [T]>,
}

// SAFETY: threads get different parts, as `Parts::part` demands, so this is as good as sending each its own slice.
// WHY: rows that several threads write lie in one buffer, which the next step reads as a whole.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

/// `x` in pieces of `size`.
pub(crate) fn chunks<T>(x: &mut [T], size: usize) -> Chunks<'_, T> {
    assert!(size > 0);
    Chunks { start: x.as_mut_ptr(), len: x.len(), size, whole: PhantomData }
}

impl<'a, T: Send> Parts for Chunks<'a, T> {
    type Part = &'a mut [T];

    fn count(&self) -> usize {
        self.len.div_ceil(self.size)
    }

    unsafe fn part(&self, i: usize) -> &'a mut [T] {
        let start = i * self.size;
        assert!(start < self.len);
        // SAFETY: within the slice that `chunks` borrowed for `'a`; no other part overlaps it, and nobody has this one.
        // WHY: see `Sync`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), self.size.min(self.len - start)) }
    }
}

impl<A: Parts, B: Parts> Parts for (A, B) {
    type Part = (A::Part, B::Part);

    fn count(&self) -> usize {
        let counts = [self.0.count(), self.1.count()];
        assert_eq!(counts[0], counts[1], "parts that go together are as many");
        counts[0]
    }

    unsafe fn part(&self, i: usize) -> Self::Part {
        // SAFETY: what the caller promises of this holds of each.
        // WHY: as each.
        unsafe { (self.0.part(i), self.1.part(i)) }
    }
}

/// Does `work` with every part, shared out over the crew as [`each`] does it; a thread takes at least `least` at once, for
/// small parts cost less than handing them out.
pub(crate) fn each_part<P: Parts>(parts: P, least: usize, work: impl Fn(usize, P::Part) + Sync) {
    let count = parts.count();
    each(count.div_ceil(least), |unit| {
        for i in unit * least..count.min((unit + 1) * least) {
            // SAFETY: below the count, and every unit comes once and has numbers of its own.
            // WHY: the one place where parts are handed out.
            work(i, unsafe { parts.part(i) });
        }
    });
}

/// Rows of numbers of which threads write different columns.
pub(crate) struct Grid<'a> {
    to: *mut f32,
    rows: usize,
    columns: usize,
    whole: PhantomData<&'a mut [f32]>,
}

// SAFETY: threads get shares that do not overlap, as `Grid::share` demands.
// WHY: results are kept token by token, which the next step reads, while threads make them some columns of all tokens at a
// time. Safe splitting would need them column by column, and one more pass over memory to turn them.
unsafe impl Sync for Grid<'_> {}

/// A rectangle of a [`Grid`]. It stays with one thread.
pub(crate) struct Share<'a> {
    grid: &'a Grid<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    here: PhantomData<*mut f32>,
}

impl<'a> Grid<'a> {
    /// `to` [rows, columns].
    pub(crate) fn new(to: &'a mut [f32], columns: usize) -> Grid<'a> {
        assert!(columns > 0 && to.len().is_multiple_of(columns));
        Grid { to: to.as_mut_ptr(), rows: to.len() / columns, columns, whole: PhantomData }
    }

    /// These columns of these rows.
    ///
    /// # Safety
    /// Nobody else has a share that overlaps this one.
    pub(crate) unsafe fn share(&'a self, rows: Range<usize>, columns: Range<usize>) -> Share<'a> {
        assert!(rows.end <= self.rows && columns.end <= self.columns);
        Share { grid: self, rows, columns, here: PhantomData }
    }
}

impl Share<'_> {
    /// Writes some numbers of one row, from `column` on. Rows and columns are the grid's.
    #[inline(always)]
    pub(crate) fn put(&self, row: usize, column: usize, numbers: &[f32]) {
        assert!(self.rows.contains(&row));
        assert!(self.columns.start <= column && column + numbers.len() <= self.columns.end);
        // SAFETY: within the share, so within the slice that the grid borrows, and nobody else writes here.
        // WHY: see `Sync`.
        unsafe {
            let to = self.grid.to.add(row * self.grid.columns + column);
            to.copy_from_nonoverlapping(numbers.as_ptr(), numbers.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum_of_squares(crew: &Crew, count: usize) -> usize {
        let sum = AtomicUsize::new(0);
        crew.lead(|| {
            each(count, |i| {
                sum.fetch_add(i * i, Ordering::Relaxed);
            });
        });
        sum.into_inner()
    }

    #[test]
    fn every_unit_is_done_once_whoever_does_it() {
        for threads in [1, 2, 3, 8] {
            let crew = Crew::new(threads).unwrap();
            for count in [0, 1, 2, 3, 7, 8, 9, 100, 1000] {
                let mut done = vec![0_u8; count];
                crew.lead(|| each_part(chunks(&mut done, 1), 1, |_, done| done[0] += 1));
                assert!(done.iter().all(|&done| done == 1), "{threads} threads, {count} units");
            }
        }
    }

    #[test]
    fn thousands_of_short_steps_lose_nothing() {
        // More threads than cores, so that some lose theirs in the middle.
        let crew = Crew::new(5).unwrap();
        crew.lead(|| {
            let mut x = vec![0_u64; 64];
            for round in 0..20_000_u64 {
                each_part(chunks(&mut x, 3), 2, |i, x| {
                    for x in x {
                        *x += round ^ i as u64;
                    }
                });
            }
            let expected = |i: u64| (0..20_000_u64).map(|round| round ^ i).sum::<u64>();
            for (i, &x) in x.iter().enumerate() {
                assert_eq!(x, expected(i as u64 / 3));
            }
        });
    }

    #[test]
    fn steps_after_a_pause_are_done_too() {
        // Helpers are asleep by then.
        let crew = Crew::new(3).unwrap();
        for _ in 0..20 {
            assert_eq!(sum_of_squares(&crew, 50), 40_425);
            std::thread::sleep(LOOKOUT * 4);
        }
    }

    #[test]
    fn work_within_work_is_done_by_whoever_is_at_it() {
        let crew = Crew::new(3).unwrap();
        let sums = crew.lead(|| {
            map(20, |i| {
                assert_eq!(threads(), 1);
                map(i, |j| j).into_iter().sum::<usize>()
            })
        });
        assert_eq!(sums, (0..20).map(|i| (0..i).sum()).collect::<Vec<usize>>());
    }

    #[test]
    fn a_panic_reaches_the_leader_and_the_crew_goes_on() {
        let crew = Crew::new(3).unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            crew.lead(|| each(30, |i| assert!(i != 17, "unit {i}")));
        }));
        let message = panicked.unwrap_err();
        assert_eq!(message.downcast_ref::<String>().unwrap(), "unit 17");
        assert_eq!(sum_of_squares(&crew, 30), 8555);
    }

    #[test]
    fn several_leaders_take_turns() {
        let crew = Crew::new(3).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        assert_eq!(sum_of_squares(&crew, 30), 8555);
                    }
                });
            }
        });
    }

    #[test]
    fn without_a_crew_work_is_done_here() {
        let here = std::thread::current().id();
        each(10, |_| assert_eq!(std::thread::current().id(), here));
        assert_eq!(threads(), 1);
    }
}
