//! A deterministic simulator: writers, collectors, readers, checkers, copiers and those who let snapshots go, all at once over one store
//! and its replica.
//!
//! Everything runs on one thread and on a clock that only the simulator moves. Each request to the store is one step: a seed decides who
//! goes on, and what goes wrong (lost answers, errors, puts that land days later, processes that die or sleep for days at a request,
//! clocks that are two days off). The code that runs is the real one; after each step an oracle that reads the store's objects itself
//! says whether a snapshot has lost anything (`format-spec/86-simulator.md`).

mod actors;
mod content;
mod damage;
mod dice;
mod ending;
mod founding;
mod keeping;
mod oracle;
mod plan;
mod script;
mod seen;
mod source;
mod store;
mod world;

pub use actors::Role;
pub use plan::Family;
pub use script::{Beat, act, act_at};
pub use seen::Seen;
pub use store::At;
pub use world::{Ended, run};
