//! Chapter 90 section 2: a collector.

use crate::state::*;
use crate::steps::{Steps, page};
use crate::view::*;

pub fn collector(s: &State, g: &Scenario, i: usize, rounds: u8, out: &mut Steps) {
    let c = s.collectors[i];
    let n = usize::from(c.n);
    match c.pc {
        0 => begin(s, i, rounds, out),
        30 => abort(s, i, out),
        1 => out.add(
            s,
            |t| (t.collectors[i].sessions, t.collectors[i].pc) = (s.sessions, 2),
            || format!("C{i} lists sessions {}", show(s.sessions.into())),
        ),
        2 => {
            let next = if g.protector && g.drops("notes-after-forgets") {
                31
            } else {
                3
            };
            let change = |t: &mut State| {
                let c = &mut t.collectors[i];
                (c.commits, c.finished, c.pc) = (commits(s), finished(s), next);
            };
            out.add(s, change, || {
                format!("C{i} lists snapshots: commits {}", show(commits(s).into()))
            });
        }
        3 => {
            let next = if g.protector && !g.drops("notes-after-forgets") {
                31
            } else {
                4
            };
            out.add(
                s,
                |t| (t.collectors[i].forgets, t.collectors[i].pc) = (s.forgets, next),
                || format!("C{i} lists forgets {}", show(s.forgets.into())),
            );
        }
        31 => {
            let next = if g.drops("notes-after-forgets") { 3 } else { 4 };
            let notes = if g.drops("effective-forgets") { 0 } else { s.notes };
            out.add(
                s,
                |t| (t.collectors[i].notes, t.collectors[i].pc) = (notes, next),
                || format!("C{i} lists notes {}", show(notes.into())),
            );
        }
        4 => {
            let next = if g.damage > 0 { 33 } else { 5 };
            out.add(
                s,
                |t| (t.collectors[i].packs, t.collectors[i].pc) = (s.packs, next),
                || format!("C{i} lists packs {}", show(s.packs.into())),
            );
        }
        33 | 34 => {
            let next = if c.pc == 33 { 5 } else { 12 };
            let bad = if g.drops("quarantine-in-rounds") {
                0
            } else {
                s.quarantined
            };
            let change = |t: &mut State| (t.collectors[i].quarantined, t.collectors[i].pc) = (bad, next);
            out.add(s, change, || {
                format!("C{i} reads the ledger: quarantined {}", show(bad.into()))
            });
        }
        5 | 12 => {
            let change = |t: &mut State| (t.collectors[i].runs, t.collectors[i].pc) = (page(s, 0), c.pc + 1);
            out.add(s, change, || format!("C{i} lists index page 0"));
        }
        6 => mark(s, g, i, out),
        7 => condemn(s, g, i, out),
        8 => out.add(
            s,
            |t| (t.collectors[i].sessions, t.collectors[i].pc) = (s.sessions, 9),
            || format!("C{i} lists sessions {}", show(s.sessions.into())),
        ),
        9 => open(s, g, i, out),
        10 => settle(s, g, i, out),
        11 => {
            let next = match (g.drops("index-at-g6"), g.damage > 0 && !g.drops("ledger-at-g6")) {
                (true, _) => 13,
                (false, true) => 34,
                (false, false) => 12,
            };
            let change = |t: &mut State| {
                let c = &mut t.collectors[i];
                (c.commits, c.pc) = (commits(s), next);
                if g.drops("forgets-of-g1") {
                    (c.forgets, c.notes) = (s.forgets, s.notes);
                }
            };
            out.add(s, change, || {
                format!("C{i} lists snapshots {} (again)", show(commits(s).into()))
            });
        }
        13 => {
            let mut c = c;
            if !keeps_g1(g) {
                c.runs |= page(s, 1);
            }
            if g.repack {
                rescue(s, g, (i, c), true, out);
            }
            if g.reprieve || !g.repack {
                rescue(s, g, (i, c), false, out);
            }
        }
        14 | 15 => put(s, i, out),
        16 => seal(s, g, i, out),
        17 => {
            let newest = newest(s);
            let change = |t: &mut State| {
                t.collectors[i] = if usize::from(newest) == n {
                    Collector { pc: 20, ..c }
                } else {
                    Collector::default()
                };
            };
            out.add(s, change, || {
                format!("C{i} looks whether its seal is the newest: {newest}")
            });
        }
        _ => sweep(s, g, i, out),
    }
}

/// Whether G6 goes by what G1 has listed.
fn keeps_g1(g: &Scenario) -> bool {
    g.drops("mark-again") || g.drops("list-before-seal") || g.drops("index-at-g6")
}

/// Whether deletes that the newest seal allows are not done.
fn is_unfinished(s: &State, n: u8) -> bool {
    let round = &s.rounds[usize::from(n)];
    if round.seal != 2 {
        return false;
    }
    let gone = |sid: &usize| s.epoch[*sid] < round.floor;
    let keys = (0..usize::from(s.sids)).filter(gone).any(|sid| {
        let left = s.decision[sid] != 0 || has(s.forgets, sid);
        has(s.sessions, sid) || (!has(round.live, sid) && left)
    });
    round.dead & s.packs != 0 || keys || bits(s.runs).any(|run| may_delete_run(s, n, run))
}

fn may_delete_run(s: &State, n: u8, run: usize) -> bool {
    let (origin, round) = (s.run_origin[run], &s.rounds[usize::from(n)]);
    if origin & ROUND != 0 {
        origin & !ROUND <= n && round.runs >> run & 1 == 0
    } else {
        s.epoch[usize::from(origin)] < round.floor
    }
}

/// G0.
fn begin(s: &State, i: usize, rounds: u8, out: &mut Steps) {
    let newest = newest(s);
    if is_unfinished(s, newest) {
        let at = Collector {
            pc: 20,
            n: newest,
            ..Collector::default()
        };
        out.add(
            s,
            |t| t.collectors[i] = at,
            || format!("C{i} finds deletes of seal {newest} unfinished"),
        );
    }
    if newest >= rounds {
        return;
    }
    let n = newest + 1;
    let is_begun = s.rounds[usize::from(n)].condemned_by != 0;
    let at = Collector {
        pc: if is_begun { 30 } else { 1 },
        n,
        ..Collector::default()
    };
    let what = if is_begun { "takes over" } else { "begins" };
    out.add(
        s,
        |t| t.collectors[i] = at,
        || format!("C{i} reads the log: seal {newest}; {what} round {n}"),
    );
}

fn abort(s: &State, i: usize, out: &mut Steps) {
    let n = usize::from(s.collectors[i].n);
    let change = |t: &mut State| {
        if t.rounds[n].seal == 0 {
            let before = t.rounds[n - 1];
            let Round {
                condemned_by,
                condemned,
                ..
            } = t.rounds[n];
            t.rounds[n] = Round {
                seal: 1,
                condemned_by,
                condemned,
                ..before
            };
        }
        t.collectors[i] = Collector::default();
    };
    out.add(s, change, || {
        format!("C{i} puts gc/{n}/seal = aborted, unless there is one")
    });
}

/// Snapshots that the round keeps.
fn kept(s: &State, g: &Scenario, c: &Collector) -> u8 {
    counting(s, g, c.n - 1, c.commits) & !(c.forgets & !c.notes)
}

/// G2: packs that a round may condemn.
fn candidates(s: &State, g: &Scenario, c: &Collector) -> u8 {
    let below = if g.drops("-young-origins") {
        c.n - 1
    } else {
        u8::MAX
    };
    let is_finished = |pack: &usize| {
        let origin = s.pack_origin[*pack];
        if origin & ROUND != 0 {
            return origin & !ROUND < c.n;
        }
        let sid = usize::from(origin);
        let over = has(c.finished, sid) || !has(c.sessions, sid) || g.drops("-finished-origins");
        s.epoch[sid] < below && over
    };
    let made = 0..usize::from(s.packs_made);
    made.filter(|pack| has(c.packs, *pack))
        .filter(is_finished)
        .fold(0, |sum, pack| sum | 1 << pack)
}

/// The end of G1, and G2.
fn mark(s: &State, g: &Scenario, i: usize, out: &mut Steps) {
    let mut c = s.collectors[i];
    c.runs |= page(s, 1);
    let copies = entries(s, g, c.runs, c.n - 1);
    let need = blobs_of(s, kept(s, g, &c));
    let eligible = candidates(s, g, &c);
    let mut before = Vec::new();
    for last_first in [false, true].into_iter().take(1 + usize::from(g.orders)) {
        let (chosen, _) = keep(g, copies, need, &[!c.quarantined, 0xff], last_first);
        let is_sparse = |pack: usize| g.repack && kinds(copies, pack) & !kinds(chosen, pack) != 0;
        let goes = |pack: &usize| has(eligible, *pack) && (kinds(chosen, *pack) == 0 || is_sparse(*pack));
        let condemned = (0..PACKS).filter(goes).fold(0, |sum, pack| sum | 1 << pack);
        if before.contains(&condemned) {
            continue;
        }
        before.push(condemned);
        let mut next = Collector { condemned, ..c };
        next.pc = if g.drops("condemned-before-list") { 8 } else { 7 };
        if !keeps_g1(g) {
            (next.runs, next.commits) = (0, 0);
        }
        if !g.drops("ledger-at-g6") {
            next.quarantined = 0;
        }
        (next.sessions, next.finished, next.packs) = (0, 0, 0);
        let label = || {
            format!(
                "C{i} lists index page 1, marks; candidates {}",
                show(condemned.into())
            )
        };
        out.add(s, |t| t.collectors[i] = next, label);
    }
}

/// G3.
fn condemn(s: &State, g: &Scenario, i: usize, out: &mut Steps) {
    let c = s.collectors[i];
    let round = &s.rounds[usize::from(c.n)];
    let next = if g.drops("list-before-seal") {
        13
    } else if g.drops("condemned-before-list") {
        if c.open == 0 { 11 } else { 10 }
    } else {
        8
    };
    let change = |t: &mut State| {
        if round.condemned_by != 0 || round.seal != 0 {
            t.collectors[i] = Collector::default();
            return;
        }
        let round = &mut t.rounds[usize::from(c.n)];
        (round.condemned_by, round.condemned) = (i as u8 + 1, c.condemned);
        t.collectors[i].pc = next;
    };
    out.add(s, change, || {
        format!(
            "C{i} puts gc/{}/condemned = {}, unless there is one",
            c.n,
            show(c.condemned.into())
        )
    });
}

/// G4.
fn open(s: &State, g: &Scenario, i: usize, out: &mut Steps) {
    let c = s.collectors[i];
    let mut open = c.sessions & !finished(s) & counting(s, g, c.n - 1, 0xff);
    if g.drops("wait") {
        open = 0;
    }
    let after = if g.drops("mark-again") { 13 } else { 11 };
    let next = match (g.drops("condemned-before-list"), open) {
        (true, _) => 7,
        (false, 0) => after,
        (false, _) => 10,
    };
    let change = |t: &mut State| {
        let c = &mut t.collectors[i];
        (c.sessions, c.open, c.pc) = (0, open, next);
    };
    out.add(s, change, || {
        format!("C{i} lists snapshots: open sessions {}", show(open.into()))
    });
}

/// G5.
fn settle(s: &State, g: &Scenario, i: usize, out: &mut Steps) {
    let c = s.collectors[i];
    let after = if g.drops("mark-again") { 13 } else { 11 };
    let without = |t: &mut State, gone: u8| {
        let c = &mut t.collectors[i];
        c.open &= !gone;
        if c.open == 0 {
            c.pc = after;
        }
    };
    let over = c.open & finished(s);
    if over != 0 {
        out.add(
            s,
            |t| without(t, over),
            || format!("C{i} polls: s{} ended", show(over.into())),
        );
    }
    for sid in bits(c.open.into()).filter(|sid| s.decision[*sid] == 0) {
        let change = |t: &mut State| {
            t.decision[sid] = FENCE;
            t.fenced |= 1 << sid;
            without(t, 1 << sid);
        };
        out.add(s, change, || format!("C{i} FENCES s{sid}"));
    }
}

/// The end of G6, and what G7 is going to put.
fn rescue(s: &State, g: &Scenario, (i, c): (usize, Collector), repack: bool, out: &mut Steps) {
    let before = c.n - 1;
    let floor = if g.drops("floor") { c.n } else { before };
    let kept = kept(s, g, &c);
    let copies = entries(s, g, c.runs, before);
    let need = blobs_of(s, kept);
    let (good, stays) = (!c.quarantined, !c.condemned);
    let (chosen, _) = keep(g, copies, need, &[stays & good, good, stays, 0xff], false);
    let (mut copy, mut spared) = (0, 0);
    for pack in bits(c.condemned.into()) {
        // A damaged pack is not copied out of.
        if repack && has(good, pack) {
            copy |= kinds(chosen, pack);
        } else if kinds(chosen, pack) != 0 {
            spared |= 1 << pack;
        }
    }
    let dead = c.condemned & !spared;
    let left = usable(within(copies, !dead) | spared_copies(dead, copy));
    let absorbed = bits(c.runs).filter(|run| {
        let origin = s.run_origin[*run];
        origin & ROUND != 0 || s.epoch[usize::from(origin)] < floor
    });
    let absorbed = absorbed.fold(0, |sum, run| sum | 1 << run);
    let mut compacted = within(entries(s, g, absorbed, before), !dead);
    if g.drops("entries-conserved") {
        compacted &= chosen;
    }
    let young = |sid: &usize| s.epoch[*sid] < floor;
    let live = bits(kept.into()).filter(young).fold(0, |sum, sid| sum | 1 << sid);
    let next = Collector {
        pc: if copy != 0 { 14 } else { 15 },
        n: c.n,
        dead,
        copy,
        entries: compacted,
        live,
        ..Collector::default()
    };
    // The code refuses to seal such a plan; without a dropped rule there must be none.
    let unproven = need & usable(copies) & !left != 0 && g.dropped.is_empty();
    let change = |t: &mut State| {
        t.collectors[i] = next;
        t.bad = if unproven { 2 } else { t.bad };
    };
    let label = || {
        format!(
            "C{i} lists index page 1, marks again: dead {}, copies {}, live {}",
            show(dead.into()),
            records(copy),
            show(live.into())
        )
    };
    out.add(s, change, label);
}

/// Copied records, at the place of a pack that dies: there is one if anything is copied.
fn spared_copies(dead: u8, copy: u8) -> Copies {
    bits(dead.into()).next().map_or(0, |pack| at(copy, pack))
}

/// G7.
fn put(s: &State, i: usize, out: &mut Steps) {
    let c = s.collectors[i];
    let (pack, run) = (usize::from(s.packs_made), usize::from(s.runs_made));
    if c.pc == 14 && pack < PACKS {
        let change = |t: &mut State| {
            t.packs_made += 1;
            t.packs |= 1 << pack;
            (t.content[pack], t.pack_origin[pack]) = (c.copy, ROUND | c.n);
            let next = &mut t.collectors[i];
            next.entries |= at(c.copy, pack);
            (next.copy, next.pc) = (0, 15);
        };
        out.add(s, change, || {
            format!("C{i} puts pack {pack} with copies: {}", records(c.copy))
        });
    } else if c.pc == 15 && run < RUNS {
        let change = |t: &mut State| {
            t.runs_made += 1;
            t.runs |= 1 << run;
            (t.run_entries[run], t.run_origin[run]) = (c.entries, ROUND | c.n);
            let next = &mut t.collectors[i];
            (next.run, next.entries, next.pc) = (run as u8, 0, 16);
        };
        out.add(s, change, || format!("C{i} puts collector run {run}"));
    }
}

/// G8.
fn seal(s: &State, g: &Scenario, i: usize, out: &mut Steps) {
    let c = s.collectors[i];
    let n = usize::from(c.n);
    let sweeping = Collector {
        pc: 20,
        n: c.n,
        ..Collector::default()
    };
    if s.rounds[n].seal != 0 {
        let change = |t: &mut State| {
            t.collectors[i] = Collector::default();
            if g.drops("superseded-stops") {
                t.rounds[n].dead |= c.dead;
                t.collectors[i] = sweeping;
            }
        };
        out.add(s, change, || format!("C{i} loses gc/{n}/seal"));
        return;
    }
    let floor = if g.drops("floor") { c.n } else { c.n - 1 };
    let change = |t: &mut State| {
        let round = &mut t.rounds[n];
        (round.seal, round.floor, round.live, round.runs, round.dead) =
            (2, floor, c.live, 1 << c.run, c.dead);
        t.collectors[i] = sweeping;
        if !g.drops("g9") {
            t.collectors[i].pc = 17;
        }
    };
    out.add(s, change, || {
        format!(
            "C{i} puts gc/{n}/seal: floor {floor}, dead {}, live {}, run {}",
            show(c.dead.into()),
            show(c.live.into()),
            c.run
        )
    });
}

/// G10: keys, then runs, then packs, then what is left of rounds. The order means nothing; seals go too, which is worse than the rule.
fn sweep(s: &State, g: &Scenario, i: usize, out: &mut Steps) {
    let c = s.collectors[i];
    let round = &s.rounds[usize::from(c.n)];
    match c.pc {
        20 => {
            let old = (0..usize::from(s.sids))
                .filter(|sid| s.epoch[*sid] < round.floor)
                .fold(0, |sum, sid| sum | 1 << sid);
            let void = old & !round.live;
            let change = |t: &mut State| {
                for sid in bits(void.into()) {
                    t.decision[sid] = 0;
                }
                t.sessions &= !old;
                t.forgets &= !void;
                t.notes &= !void;
                t.collectors[i].pc = 21;
            };
            out.add(s, change, || {
                format!("C{i} deletes the keys of s{}", show(void.into()))
            });
        }
        21 => {
            let runs = bits(s.runs)
                .filter(|run| may_delete_run(s, c.n, *run))
                .fold(0, |sum, run| sum | 1 << run);
            let change = |t: &mut State| {
                t.runs &= !runs;
                t.collectors[i].pc = 22;
            };
            out.add(s, change, || format!("C{i} deletes runs {}", show(runs)));
        }
        22 => {
            let left = round.dead & s.packs;
            let next = bits(left.into()).next();
            let gone = next.map_or(0, |pack| 1 << pack);
            let change = |t: &mut State| {
                t.packs &= !gone;
                t.collectors[i].pc = if left & !gone == 0 { 23 } else { 22 };
            };
            out.add(s, change, || format!("C{i} DELETES pack {}", show(gone.into())));
        }
        23 => {
            let change = |t: &mut State| {
                if !g.drops("-old-seals-go") {
                    for round in &mut t.rounds[..usize::from(c.n)] {
                        (round.condemned_by, round.condemned, round.seal) = (0, 0, 0);
                    }
                }
                t.collectors[i] = Collector::default();
            };
            out.add(s, change, || {
                format!("C{i} deletes what is left of rounds before {}", c.n)
            });
        }
        _ => {}
    }
}
