//! What happened in a world.

/// What happened in a world, for those who ask whether anything did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Requests that were answered.
    pub steps: u64,
    /// Snapshots that were acknowledged.
    pub snapshots: u64,
    /// Rounds that were sealed as swept.
    pub rounds: u64,
    /// Sessions that a collector ended.
    pub fences: u64,
    /// Packs that were deleted.
    pub packs_deleted: u64,
    /// Copies that were stored as deltas.
    pub deltas: u64,
    /// Processes that were killed.
    pub kills: u64,
    /// Puts that were applied when nobody waited for them any more.
    pub late: u64,
    /// Restores that were compared.
    pub restores: u64,
    /// Sessions that were begun.
    pub sessions: u64,
    /// Packs that were put.
    pub packs: u64,
    /// Operations that ended with an error that may be.
    pub errors: u64,
    /// Snapshots that were copied into the replica, or back.
    pub copies: u64,
    /// Packs that were damaged or lost.
    pub damages: u64,
    /// Forgets that had no effect when they came.
    pub withstood: u64,
    /// Deletes that the store refused.
    pub refused: u64,
    /// Puts for which there was no room.
    pub full: u64,
}

impl Seen {
    /// Adds what happened in another world.
    pub fn add(&mut self, other: &Self) {
        let Self {
            steps,
            snapshots,
            rounds,
            fences,
            packs_deleted,
            deltas,
            kills,
            late,
            restores,
            sessions,
            packs,
            errors,
            copies,
            damages,
            withstood,
            refused,
            full,
        } = self;
        for (mine, theirs) in [
            (steps, other.steps),
            (snapshots, other.snapshots),
            (rounds, other.rounds),
            (fences, other.fences),
            (packs_deleted, other.packs_deleted),
            (deltas, other.deltas),
            (kills, other.kills),
            (late, other.late),
            (restores, other.restores),
            (sessions, other.sessions),
            (packs, other.packs),
            (errors, other.errors),
            (copies, other.copies),
            (damages, other.damages),
            (withstood, other.withstood),
            (refused, other.refused),
            (full, other.full),
        ] {
            *mine += theirs;
        }
    }
}
