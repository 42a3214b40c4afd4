//! What the engine runs on: tokio, threads for what blocks, and chance.
//!
//! A thread can be made a simulation ([`simulate`]). Whatever the engine does in it happens in it alone, one thing after
//! another, and all chance follows from a seed: on a tokio runtime of that one thread, with a clock that is not the
//! real one, the same seed gives the same run.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::async_runtime::AsyncRuntime;
use openraft::impls::TokioRuntime;
use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _, TryRng};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::log::other;
use super::watch::Watch;

thread_local! {
    static SIMULATED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    static SIMULATED_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// From now on this thread is a simulation whose chance follows from `seed`; one that was before begins anew. To be
/// called on the runtime whose clock is that of the simulation.
pub fn simulate(seed: u64) {
    SIMULATED_SINCE.set(Some(Instant::now()));
    SIMULATED.set(Some(StdRng::seed_from_u64(seed)));
}

/// This thread is none any more.
pub fn simulate_no_more() {
    SIMULATED.set(None);
}

fn is_simulated() -> bool {
    SIMULATED.with_borrow(Option::is_some)
}

/// Something by chance.
pub(super) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    Chance.random()
}

/// A time by chance, up to `most`.
pub(super) fn random_time(most: Duration) -> Duration {
    most.mul_f64(Chance.random_range(0.0..1.0))
}

/// Runs a closure that blocks on a thread for such.
pub(super) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    match is_simulated() {
        true => Ok(f()),
        false => {
            let (answer, result) = oneshot::channel();
            // To tokio all work is of one type: what it makes of each is in the program only once.
            let work: Box<dyn FnOnce() + Send> = Box::new(move || drop(answer.send(f())));
            tokio::task::spawn_blocking(work).await.map_err(other)?;
            result.await.map_err(other)
        }
    }
}

/// Runs what blocks now and then, and never ends by itself, on a thread of its own.
pub(super) fn on_its_own(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    if is_simulated() {
        tokio::spawn(work);
        return Ok(());
    }
    // Outside of a runtime a small one serves: the work may wait for a moment.
    let runtime = tokio::runtime::Handle::try_current();
    let run = move || match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(_) => match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime.block_on(work),
            Err(e) => tracing::error!("the database can't work: {e}"),
        },
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// The source of all chance: that of the simulation, or that of the system.
#[derive(Clone, Copy, Debug)]
pub struct Chance;

impl Chance {
    fn with<T>(f: impl FnOnce(&mut dyn rand::Rng) -> T) -> T {
        SIMULATED.with_borrow_mut(|simulated| match simulated {
            Some(rng) => f(rng),
            None => f(&mut rand::rng()),
        })
    }
}

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(Chance::with(|rng| rng.next_u32()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(Chance::with(|rng| rng.next_u64()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        Chance::with(|rng| rng.fill_bytes(bytes));
        Ok(())
    }
}

/// Returns at the next of the moments at which whatever looks after something every `round` looks. They are the same for
/// all of the program that have the same round, or a multiple: an idle program is woken once for all of them.
pub async fn beat(round: Duration) {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    if is_simulated() {
        // Its members are programs of their own.
        return tokio::time::sleep(round).await;
    }
    let (up, round) = (BEGAN.elapsed().as_nanos(), round.as_nanos().max(1));
    let wait = u64::try_from(round - up % round).unwrap_or(u64::MAX);
    tokio::time::sleep(Duration::from_nanos(wait)).await;
}

/// What the Raft library runs on: tokio, with [`Chance`], and [`super::watch`], which wakes in order.
pub struct Runtime(TokioRuntime);

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Chance;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Chance {
        Chance
    }

    fn new(threads: usize) -> Self {
        Runtime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

/// The time of the day; in a simulation that since its runtime began, in the year 2000.
pub fn now() -> jiff::Timestamp {
    match SIMULATED_SINCE.get().filter(|_| is_simulated()) {
        Some(since) => jiff::Timestamp::constant(946_684_800, 0) + since.elapsed(),
        None => jiff::Timestamp::now(),
    }
}
