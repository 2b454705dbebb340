//! Worlds of the simulator (`holdall::testkit::sim`, `format-spec/86-simulator.md`). A seed that fails prints the line that replays it:
//!
//! ```text
//! HOLDALL_SIM_FAMILY=mixed HOLDALL_SIM_SEED=7 cargo test --test sim replay -- --nocapture
//! ```
//!
//! `HOLDALL_SIM_SEEDS=20000 cargo test --test sim seeds` runs more of them than an ordinary test run does.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code")]

mod cases;
mod mutants;

use holdall::testkit::sim::{Ended, Family, Seen, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 2_000;
/// Worlds that run at once: each is on one thread.
const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The world of a number: families take turns, the mixed one every other time.
fn world(number: u64) -> (Family, u64) {
    let turn = usize::try_from(number).unwrap();
    let family = if turn.is_multiple_of(2) {
        Family::Mixed
    } else {
        Family::ALL[turn / 2 % Family::ALL.len()]
    };
    (family, number)
}

/// What replays a world.
fn line(family: Family, seed: u64) -> String {
    format!("HOLDALL_SIM_FAMILY={family} HOLDALL_SIM_SEED={seed} cargo test --test sim replay -- --nocapture")
}

/// Runs `work` on several threads with 0, 1, 2 and so on until it gives false or `count` were done.
fn side_by_side(count: u64, work: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || !work(number) {
                        next.store(count, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn no_snapshot_is_lost_whatever_the_seed() {
    let count = number("HOLDALL_SIM_SEEDS").unwrap_or(SEEDS);
    let (failed, all) = (Mutex::new(Vec::new()), Mutex::new(Seen::default()));
    let began = std::time::Instant::now();
    side_by_side(count, |number| {
        let (family, seed) = world(number);
        match run(family, seed, false) {
            Ok(Ended { seen, .. }) => all.lock().unwrap().add(&seen),
            Err(why) => failed
                .lock()
                .unwrap()
                .push(format!("{why}\n  {}", line(family, seed))),
        }
        failed.lock().unwrap().len() < 10
    });
    println!(
        "{count} seeds in {:?}: {:?}",
        began.elapsed(),
        all.lock().unwrap()
    );
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let seen = all.into_inner().unwrap();
    // That much happens in a few worlds already: else these tests would show nothing.
    if count >= 100 {
        let least = [
            seen.fences,
            seen.kills,
            seen.late,
            seen.deltas,
            seen.packs_deleted,
            seen.rounds,
        ];
        assert!(least.iter().all(|n| *n >= count / 4), "{seen:?}");
        // These happen in families of their own, one world in 22 each.
        let least = [seen.copies, seen.damages, seen.withstood, seen.refused, seen.full];
        assert!(least.iter().all(|n| *n >= count / 50), "{seen:?}");
    }
}

#[test]
fn a_seed_has_one_course() {
    for family in Family::ALL {
        let runs = [0, 1].map(|_| run(family, 77, false).unwrap().trace);
        assert_eq!(runs[0], runs[1], "{family}");
    }
}

/// One world, told step by step.
#[test]
fn replay() {
    let Some(seed) = number("HOLDALL_SIM_SEED") else {
        return;
    };
    let family =
        std::env::var("HOLDALL_SIM_FAMILY").map_or(Family::Mixed, |text| Family::named(&text).unwrap());
    mutants::switch_by_name();
    match run(family, seed, true) {
        Ok(ended) => println!("{:?}", ended.seen),
        Err(why) => panic!("{why}\n  {}", line(family, seed)),
    }
}
