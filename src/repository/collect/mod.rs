//! The collector: what no snapshot needs any more is found, condemned, and deleted, while writers write and readers read
//! (`format-spec/90-collection.md`).
//!
//! A round is five types in a row, so that its steps cannot be taken in another order:
//!
//! | type | made by | steps |
//! |---|---|---|
//! | [`Round`] | [`Round::begin`] | G0 to G2: the log, the lists, the mark, the plan |
//! | [`Waiting`] | [`Round::condemn`] | G3, G4: `condemned`, then sessions that may rest on it |
//! | | [`Waiting::settle`] | G5, until none is open |
//! | [`Rescued`] | [`Waiting::rescue`] | G6: the mark again, what is used is saved, copies |
//! | [`Sealed`] | [`Rescued::seal`] | G7 to G9: index runs, state, seal |
//! | | [`Sealed::sweep`] | G10: deleting |
//!
//! Whoever stops anywhere leaves nothing that hurts; whoever comes next goes on.

mod begin;
mod chains;
mod compact;
mod entries;
mod listing;
mod lost;
mod mark;
mod plan;
mod refs;
mod repack;
mod rescue;
mod reserve;
mod round;
mod seal;
mod settle;
mod sweep;

pub use plan::Unused;
pub use refs::Worth;
pub use rescue::Rescued;
pub use round::{CollectOptions, CollectPlan, Round, UntoldPack};
pub use seal::{Sealed, SealedRound};
pub use settle::{OpenSession, Waiting};
pub use sweep::Swept;
pub(crate) use sweep::may_go;
