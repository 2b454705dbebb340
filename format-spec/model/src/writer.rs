//! Chapter 85 section 2 and 4: a writer.

use crate::state::*;
use crate::steps::{Steps, page};
use crate::view::*;

/// Which deltas it makes.
#[derive(Clone, Copy, PartialEq)]
enum Deltas {
    None,
    /// C of B, and B of A.
    Chain,
    /// C of A, and B of A.
    Star,
}

pub fn writer(s: &State, g: &Scenario, i: usize, out: &mut Steps) {
    let w = s.writers[i];
    let early = g.drops("session-before-reads");
    match w.pc {
        0 => {
            let n = newest(s);
            let change = |t: &mut State| {
                t.writers[i].epoch = n;
                t.writers[i].n = n;
                t.writers[i].pc = if early { 2 } else { 1 };
            };
            out.add(s, change, || format!("W{i} reads the log: seal {n}"));
        }
        1 => put_session(s, g, i, out),
        2 => w3(s, g, i, out),
        3 => out.add(
            s,
            |t| (t.writers[i].runs, t.writers[i].pc) = (page(s, 0), 4),
            || format!("W{i} lists index page 0"),
        ),
        4 => {
            let runs = w.runs | page(s, 1);
            out.add(
                s,
                |t| (t.writers[i].runs, t.writers[i].pc) = (runs, 5),
                || format!("W{i} lists index page 1: runs {}", show(runs)),
            );
        }
        5 => {
            let all = commits(s);
            let change = |t: &mut State| (t.writers[i].commits, t.writers[i].pc) = (all, 6);
            out.add(s, change, || {
                format!("W{i} lists snapshots: commits {}", show(all.into()))
            });
        }
        6 => {
            let forgets = if g.drops("parent-forgets") { 0 } else { s.forgets };
            let next = match (early, g.drops("writer-stable-list")) {
                (true, _) => 1,
                (false, true) => 13,
                (false, false) => 11,
            };
            let change = |t: &mut State| (t.writers[i].forgets, t.writers[i].pc) = (forgets, next);
            out.add(s, change, || {
                format!("W{i} lists forgets {}", show(s.forgets.into()))
            });
        }
        11 => {
            let n = newest(s);
            if n == w.n {
                let next = if g.damage > 0 { 13 } else { 7 };
                out.add(
                    s,
                    |t| t.writers[i].pc = next,
                    || format!("W{i} reads the log again: unchanged"),
                );
            } else {
                let change = |t: &mut State| {
                    let w = &mut t.writers[i];
                    (w.n, w.condemned, w.pc) = (n, condemned_after(s, n), 3);
                    (w.runs, w.commits, w.forgets) = (0, 0, 0);
                };
                out.add(s, change, || format!("W{i} sees seal {n}: lists again"));
            }
        }
        13 => {
            let bad = if g.drops("quarantine-in-w4") {
                0
            } else {
                s.quarantined
            };
            let change = |t: &mut State| (t.writers[i].quarantined, t.writers[i].pc) = (bad, 7);
            out.add(s, change, || {
                format!("W{i} reads the ledger: quarantined {}", show(bad.into()))
            });
        }
        7 => {
            let mut before: Vec<Writer> = Vec::new();
            for deltas in [Deltas::None, Deltas::Chain, Deltas::Star] {
                let planned = plan(s, g, i, deltas);
                if (deltas == Deltas::None || g.deltas) && !before.contains(&planned) {
                    let label = || {
                        format!(
                            "W{i} uploads {}, claims {}, reuses the rest",
                            records(planned.upload),
                            show(planned.claim.into())
                        )
                    };
                    out.add(s, |t| t.writers[i] = planned, label);
                    before.push(planned);
                }
            }
        }
        8 => put_pack(s, i, out),
        9 => put_run(s, i, out),
        10 => commit(s, g, i, out),
        12 => {
            let (n, sid) = (newest(s), usize::from(w.sid));
            let ok = !is_void(s, g, n, sid) && (s.decision[sid] == COMMIT || has(s.let_go, sid));
            let change = |t: &mut State| {
                t.acknowledged |= u8::from(ok) << sid;
                t.writers[i] = done();
            };
            let did = if ok { "ACKNOWLEDGES" } else { "gives up" };
            out.add(s, change, || {
                format!("W{i} reads the log (seal {n}) and {did} s{sid}")
            });
        }
        _ => {}
    }
}

fn done() -> Writer {
    Writer {
        pc: DONE,
        ..Writer::default()
    }
}

/// As it begins again after a fence or a seal.
fn again(w: Writer) -> Writer {
    Writer {
        need: w.need,
        own: w.own,
        earlier: w.earlier | 1 << w.sid,
        tries: w.tries + 1,
        ..Writer::default()
    }
}

fn put_session(s: &State, g: &Scenario, i: usize, out: &mut Steps) {
    let (w, sid) = (s.writers[i], usize::from(s.sids));
    if sid >= SIDS {
        return;
    }
    let change = |t: &mut State| {
        t.sids += 1;
        t.epoch[sid] = w.epoch;
        t.sessions |= 1 << sid;
        t.aware |= u8::from(s.quarantined != 0) << sid;
        let new = &mut t.writers[i];
        new.sid = sid as u8;
        new.pc = if g.drops("session-before-reads") { 7 } else { 2 };
        if g.drops("decide-again") && w.tries > 0 {
            (new.pc, new.claim) = (if w.own != 0 { 9 } else { 10 }, w.own);
        }
    };
    out.add(s, change, || {
        format!("W{i} puts sessions/s{sid} (epoch {})", w.epoch)
    });
}

fn w3(s: &State, g: &Scenario, i: usize, out: &mut Steps) {
    let (w, n) = (s.writers[i], newest(s));
    if n == w.epoch || g.drops("w3") || g.drops("session-before-reads") {
        let condemned = condemned_after(s, n);
        let change = |t: &mut State| {
            let w = &mut t.writers[i];
            (w.n, w.condemned, w.pc) = (n, condemned, 3);
        };
        out.add(s, change, || {
            format!(
                "W{i} reads the log again: seal {n}, condemned {}",
                show(condemned.into())
            )
        });
    } else if w.tries < g.tries {
        out.add(
            s,
            |t| t.writers[i] = again(w),
            || format!("W{i} sees seal {n}, not its epoch: begins again"),
        );
    }
}

/// W5.
fn plan(s: &State, g: &Scenario, i: usize, deltas: Deltas) -> Writer {
    let w = s.writers[i];
    let condemned = if g.drops("condemned-subtracted") {
        0
    } else {
        w.condemned
    };
    let committed = counting(s, g, w.n, w.commits);
    let is_committed = |run: &usize| {
        let origin = s.run_origin[*run];
        origin & ROUND != 0 || has(committed, origin.into()) || g.drops("committed-runs")
    };
    let runs = bits(w.runs)
        .filter(is_committed)
        .fold(0, |sum, run| sum | 1 << run);
    let everything = entries(s, g, w.runs, w.n);
    let mut view = within(entries(s, g, runs, w.n), !(condemned | w.quarantined));
    let mut have = usable(view);
    if g.drops("reuse-bases") {
        have |= listed(view);
    }
    let content = if g.parent {
        parent_content(s, g, &w, committed, everything)
    } else {
        0
    };
    let mut rest = w.need & !have & !content;
    let mut claim = 0;
    for pack in 0..usize::from(s.packs_made) {
        let adds = listed(at(s.content[pack], pack)) & rest;
        if adds != 0 && may_claim(s, g, &w, pack, condemned) {
            claim |= 1 << pack;
            view |= of_packs(s, 1 << pack);
            rest = w.need & !usable(view) & !have & !content;
        }
    }
    let mut bases = usable(view) | content;
    if g.drops("new-bases-checked") {
        bases |= usable(everything);
    }
    if g.drops("bases-of-content") {
        bases |= tainting(everything, content);
    }
    let upload = encode(rest, bases, deltas);
    Writer {
        upload,
        claim,
        runs: 0,
        commits: 0,
        forgets: 0,
        condemned: 0,
        quarantined: 0,
        pc: match (upload, claim) {
            (0, 0) => 10,
            (0, _) => 9,
            _ => 8,
        },
        ..w
    }
}

/// (A): what snapshots hold that were not let go, unread; but what a quarantined pack may be needed for goes by (B).
fn parent_content(s: &State, g: &Scenario, w: &Writer, committed: u8, everything: Copies) -> u8 {
    let content = blobs_of(s, committed & !w.forgets);
    let mut doubtful = tainted(everything, w.quarantined);
    if g.drops("quarantine-and-parents") {
        doubtful = 0;
    }
    if g.drops("quarantine-parents-condemned") {
        doubtful &= !usable(within(everything, !w.quarantined));
    }
    content & !doubtful
}

/// The bases of all copies of some blobs.
fn tainting(copies: Copies, of: u8) -> u8 {
    let mut bases = 0;
    for pack in 0..PACKS {
        for kind in bits(kinds(copies, pack).into()) {
            if let (blob, Some(base)) = KINDS[kind]
                && has(of, blob)
            {
                bases |= 1 << base;
            }
        }
    }
    bases
}

/// (D): section 4.
fn may_claim(s: &State, g: &Scenario, w: &Writer, pack: usize, condemned: u8) -> bool {
    let origin = s.pack_origin[pack];
    if origin & ROUND != 0 {
        return false;
    }
    let (sid, round) = (usize::from(origin), &s.rounds[usize::from(w.n)]);
    let known = g.adopt || has(w.earlier, sid);
    let young = s.epoch[sid] >= round.floor || g.drops("claims-floor");
    let out = condemned | round.dead | w.quarantined;
    known && young && has(s.packs, pack) && !has(out, pack) && s.decision[sid] != COMMIT
}

fn encode(rest: u8, mut bases: u8, deltas: Deltas) -> u8 {
    let mut upload = 0;
    for blob in bits(rest.into()) {
        let ok = |base: usize| has(bases, base);
        upload |= match (blob, deltas) {
            (0, _) => A,
            (1, Deltas::Chain | Deltas::Star) if ok(0) => B_ON_A,
            (1, _) => B,
            (_, Deltas::Chain) if ok(1) => C_ON_B,
            (_, Deltas::Star) if ok(0) => C_ON_A,
            _ => C,
        };
        bases |= 1 << blob;
    }
    upload
}

fn put_pack(s: &State, i: usize, out: &mut Steps) {
    let (w, pack) = (s.writers[i], usize::from(s.packs_made));
    // Two names are left for collectors.
    if pack >= PACKS - 2 {
        return;
    }
    let change = |t: &mut State| {
        t.packs_made += 1;
        t.packs |= 1 << pack;
        (t.content[pack], t.pack_origin[pack]) = (w.upload, w.sid);
        let w = &mut t.writers[i];
        w.own |= 1 << pack;
        w.claim |= 1 << pack;
        (w.upload, w.pc) = (0, 9);
    };
    out.add(s, change, || {
        format!("W{i} puts pack {pack}: {}", records(w.upload))
    });
}

fn put_run(s: &State, i: usize, out: &mut Steps) {
    let (w, run) = (s.writers[i], usize::from(s.runs_made));
    if run >= RUNS - 3 {
        return;
    }
    let change = |t: &mut State| {
        t.runs_made += 1;
        t.runs |= 1 << run;
        (t.run_entries[run], t.run_origin[run]) = (of_packs(s, w.claim), w.sid);
        (t.writers[i].claim, t.writers[i].pc) = (0, 10);
    };
    out.add(s, change, || {
        format!(
            "W{i} puts run {run} of s{}: packs {}",
            w.sid,
            show(w.claim.into())
        )
    });
}

/// W7.
fn commit(s: &State, g: &Scenario, i: usize, out: &mut Steps) {
    let w = s.writers[i];
    let sid = usize::from(w.sid);
    let sent = |t: &mut State| {
        t.committed |= 1 << sid;
        t.needs[sid] = w.need;
    };
    match s.decision[sid] {
        0 => {
            let change = |t: &mut State| {
                sent(t);
                t.decision[sid] = COMMIT;
                t.writers[i].pc = 12;
                if g.drops("w8") {
                    t.acknowledged |= 1 << sid;
                    t.writers[i] = done();
                }
            };
            out.add(s, change, || {
                format!("W{i} commits snapshots/s{sid} = {}", blobs(w.need))
            });
        }
        FENCE => {
            let change = |t: &mut State| {
                sent(t);
                t.writers[i] = if w.tries < g.tries { again(w) } else { done() };
            };
            out.add(s, change, || format!("W{i} cannot commit s{sid}: it is fenced"));
        }
        _ => out.add(
            s,
            |t| t.writers[i].pc = 12,
            || format!("W{i} finds its own commit of s{sid}"),
        ),
    }
}
