//! Whether the statements of the parent are those of now (`format-spec/64-databases.md` section 9). Pure.

use super::{DISTANCE_MAX, DISTANCE_RENEW, Present};
use crate::connector::postgres::catalog::CatalogFingerprint;
use crate::connector::postgres::state::StatementsState;

/// Statements are written anew after so many seconds at the latest, changed or not.
pub const AGE_MAX: i64 = 7 * 24 * 3600;
/// One of so many snapshots writes them anew as a check.
pub const CHECKED: u32 = 16;

/// Whether the parent's catalogs can be compared with those of now.
pub fn comparable(prior: &StatementsState, present: &Present<'_>) -> bool {
    let distance = present.snapshot_xmax.checked_sub(prior.snapshot_xmin);
    present.obstacle.is_none()
        && prior.incarnation == present.incarnation
        && distance.is_some_and(|distance| distance <= DISTANCE_MAX)
        && present.position >= prior.flushed
}

/// Whether `pg_dump` is to write them even if nothing changed; `now` is the server's time, in seconds since 1970. A clock that was set
/// back says nothing of their age.
pub fn too_old(prior: &StatementsState, now: i64) -> bool {
    !(0..AGE_MAX).contains(&now.saturating_sub(prior.written))
}

/// Whether the catalogs are proven to hold what the parent's statements were made of, if they are [`comparable`].
pub fn unchanged(prior: &StatementsState, now: &CatalogFingerprint) -> bool {
    !now.written && prior.catalogs == now.digest
}

/// Whether the parent's state still serves the next comparison.
pub fn still_serves(prior: &StatementsState, present: &Present<'_>) -> bool {
    present.snapshot_xmax.saturating_sub(prior.snapshot_xmin) < DISTANCE_RENEW
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prior() -> StatementsState {
        StatementsState {
            snapshot_xmin: 1000,
            flushed: 50,
            incarnation: [1; 32],
            catalogs: [2; 32],
            written: 1_000_000,
            pg_dump: "15.18".into(),
            contents: [None; 3],
        }
    }

    fn present() -> Present<'static> {
        Present {
            obstacle: None,
            incarnation: [1; 32],
            snapshot_xmin: 1000,
            snapshot_xmax: 1000,
            position: 50,
        }
    }

    #[test]
    fn only_the_history_that_follows_is_compared() {
        assert!(comparable(&prior(), &present()));
        let others: [fn(&mut Present<'_>); 5] = [
            |p| p.obstacle = Some("fsync = off"),
            |p| p.incarnation = [3; 32],
            |p| p.snapshot_xmax = 999,
            |p| p.snapshot_xmax = 1001 + DISTANCE_MAX,
            |p| p.position = 49,
        ];
        for change in others {
            let mut present = present();
            change(&mut present);
            assert!(!comparable(&prior(), &present), "{present:?}");
        }
    }

    #[test]
    fn a_row_that_was_written_since_is_a_change_whatever_the_sums_say() {
        let now = |digest, written| CatalogFingerprint { digest, written };
        assert!(unchanged(&prior(), &now([2; 32], false)));
        assert!(!unchanged(&prior(), &now([2; 32], true)));
        assert!(!unchanged(&prior(), &now([3; 32], false)));
    }

    #[test]
    fn statements_grow_old_and_a_clock_that_goes_back_makes_them_so() {
        let at = |seconds| too_old(&prior(), 1_000_000 + seconds);
        assert!(!at(0) && !at(AGE_MAX - 1));
        assert!(at(AGE_MAX) && at(-1));
        assert!(too_old(&prior(), i64::MIN) && too_old(&prior(), i64::MAX));
    }
}
