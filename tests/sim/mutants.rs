//! Shows that the simulator bites: each rule of the protocol that is switched off is missed by some seed.

use crate::{line, number, side_by_side, world};
use holdall::context::mutant::{Mutant, switch};
use holdall::testkit::sim::run;
use std::sync::Mutex;

/// `HOLDALL_SIM_MUTANT` switches a rule off in a replay.
pub(crate) fn switch_by_name() {
    if let Ok(name) = std::env::var("HOLDALL_SIM_MUTANT") {
        let named = Mutant::ALL.iter().find(|mutant| format!("{mutant:?}") == name);
        switch(Some(*named.unwrap()));
    }
}

/// The first seed that catches a mutant, and what it says.
fn catch(mutant: Mutant, most: u64) -> Option<(u64, String)> {
    let caught: Mutex<Option<(u64, String)>> = Mutex::new(None);
    side_by_side(most, |number| {
        let (family, seed) = world(number);
        switch(Some(mutant));
        let ended = run(family, seed, false);
        switch(None);
        let Err(why) = ended else { return true };
        let with = run(family, seed, false);
        assert!(
            with.is_ok(),
            "the rule is not what is missed: {with:?}\n    {}",
            line(family, seed)
        );
        let mut caught = caught.lock().unwrap();
        if caught.as_ref().is_none_or(|(before, _)| *before > number) {
            *caught = Some((number, format!("{why}\n    {}", line(family, seed))));
        }
        false
    });
    caught.into_inner().unwrap()
}

/// Those that a case of `cases.rs` misses: what they take seldom happens by itself.
const OF_CASES: [Mutant; 5] = [
    Mutant::NoComparison,
    Mutant::ReuseIgnoresBases,
    Mutant::UncommittedReused,
    Mutant::WriterUnstable,
    Mutant::ClaimBelowFloor,
];

#[test]
fn every_rule_that_is_switched_off_is_missed() {
    let most = number("HOLDALL_SIM_MUTANT_SEEDS").unwrap_or(3_000);
    let mut missed = Vec::new();
    for mutant in Mutant::ALL.iter().filter(|mutant| !OF_CASES.contains(mutant)) {
        match catch(*mutant, most) {
            Some((number, why)) => println!("{mutant:?}: {} seeds: {why}", number + 1),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
