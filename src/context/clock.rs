//! Wall-clock time, behind a trait so that tests can set it.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Mutex;
use std::time::Duration;

/// A point in time: seconds and nanoseconds since 1970-01-01T00:00:00Z; seconds may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Whole seconds, rounded towards minus infinity.
    pub seconds: i64,
    /// Nanoseconds into the second, below 10⁹.
    pub nanos: u32,
}

impl Time {
    /// Seconds from `earlier` to `self`, 0 if the clock went backwards.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        let nanos = |time: Self| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        let elapsed = u64::try_from(nanos(self) - nanos(earlier)).unwrap_or(0);
        Duration::from_nanos(elapsed).as_secs_f64()
    }

    /// RFC 3339 in UTC, with whole seconds.
    pub fn to_rfc3339(self) -> String {
        jiff::Timestamp::from_second(self.seconds).map_or_else(|_| "invalid time".into(), |t| t.to_string())
    }
}

/// What time it is.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Time;

    /// Ends when so much time has passed.
    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        tokio::time::sleep(duration).boxed()
    }
}

/// The system's clock.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let now = jiff::Timestamp::now().as_nanosecond();
        let seconds = now.div_euclid(1_000_000_000);
        Time {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: u32::try_from(now.rem_euclid(1_000_000_000)).unwrap_or(0),
        }
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct ManualClock(Mutex<Time>);

impl ManualClock {
    /// A clock that stands at `time`.
    pub fn at(time: Time) -> Self {
        Self(Mutex::new(time))
    }

    /// Moves the clock to `time`, which may lie in the past.
    pub fn set(&self, time: Time) {
        if let Ok(mut now) = self.0.lock() {
            *now = time;
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        self.0.lock().map(|now| *now).unwrap_or_default()
    }

    /// Whoever sleeps by this clock moves it: nobody else does.
    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        async move {
            let Time { seconds, nanos } = self.now();
            let slept = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
            self.set(Time {
                seconds: seconds.saturating_add(slept),
                nanos,
            });
            tokio::task::yield_now().await;
        }
        .boxed()
    }
}
