//! A world and its course: who goes on at each request, and what becomes of it.
#![expect(clippy::print_stdout, reason = "a replay is told step by step")]

use super::actors::{Life, Machine, Shared, SimClock};
use super::dice::Dice;
use super::plan::{DAY, Family, Plan, Style};
use super::seen::Seen;
use super::store::{Answer, At, Both, Core, Request, SimStore, Waiting, Who, apply, lock, reset, trouble};
use crate::context::{Budget, Context};
use crate::error::Result;
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use crate::store::{Access, Retry, Store, StoreOptions};
use bytes::Bytes;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A world that has not ended after so many requests never will.
const STEPS_MAX: u64 = 60_000;
/// After so many requests nothing goes wrong any more.
const TROUBLE_MAX: u64 = 4_000;

/// An actor in the world.
pub(super) struct Actor {
    pub(super) machine: Arc<Mutex<Machine>>,
    pub(super) life: Option<JoinHandle<()>>,
    /// When it is started again, in milliseconds.
    pub(super) again: Option<u64>,
    pub(super) rank: u64,
}

/// An answer that is on its way.
pub(super) struct Held {
    /// When it arrives, in milliseconds.
    at: u64,
    actor: usize,
    reply: oneshot::Sender<object_store::Result<Answer>>,
    answer: object_store::Result<Answer>,
}

/// A world under way.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) dice: Dice,
    pub(super) begin: Instant,
    pub(super) core: Arc<Mutex<Core>>,
    pub(super) arrived: Arc<Notify>,
    pub(super) shared: Arc<Shared>,
    pub(super) template: Repository,
    pub(super) actors: Vec<Actor>,
    /// Puts that are on their way though nobody waits for them.
    pub(super) late: Vec<(At, String, Bytes)>,
    /// Answers that are on their way.
    pub(super) answers: Vec<Held>,
    pub(super) last: usize,
    pub(super) restores: Vec<u64>,
    pub(super) trace: blake3::Hasher,
    pub(super) verbose: bool,
}

pub(super) type Verdict<T> = std::result::Result<T, String>;

/// How a world ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What happened.
    pub seen: Seen,
    /// The same for two runs of one seed.
    pub trace: String,
}

/// Runs a world from its beginning to its end, with everything that follows from its seed.
///
/// # Errors
/// What was found to be wrong, in words.
pub fn run(family: Family, seed: u64, verbose: bool) -> Verdict<Ended> {
    let mut dice = Dice::new(seed);
    let plan = Plan::of(family, &mut dice);
    if verbose {
        println!("{plan:#?}");
    }
    in_world(plan, dice, verbose, async |world| world.live().await)
}

/// Makes a world on a thread and a clock of its own, has `course` happen in it, and ends it.
pub(super) fn in_world(
    plan: Plan,
    dice: Dice,
    verbose: bool,
    course: impl AsyncFnOnce(&mut World) -> Verdict<()>,
) -> Verdict<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let world = World::new(plan, dice, verbose).await;
        let mut world = world.map_err(|error| error.to_string())?;
        let ended = match course(&mut world).await {
            Ok(()) => Box::pin(world.end()).await,
            wrong => wrong,
        };
        for actor in &mut world.actors {
            if let Some(life) = actor.life.take() {
                life.abort();
            }
        }
        ended.map(|()| Ended {
            seen: world.shared.seen(),
            trace: world.trace.finalize().to_hex().to_string(),
        })
    })
}

pub(super) fn options(uploads: usize) -> StoreOptions {
    StoreOptions {
        access: Access::ReadWrite,
        uploads: Some(uploads),
        retry: Retry {
            attempts: 6,
            first_contact: 6,
            first: Duration::from_millis(1),
            longest: Duration::from_millis(8),
        },
        ..StoreOptions::default()
    }
}

impl World {
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// From the first request to the last.
    pub(super) async fn live(&mut self) -> Verdict<()> {
        loop {
            self.begin_lives()?;
            let most = self.plan.pace;
            let pause = 1 + if self.dice.permille(300) {
                self.dice.below(most)
            } else {
                0
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.look();
            if !self.step() && !self.wait().await? {
                break;
            }
            self.strike();
            self.verdict()?;
            let steps = self.shared.oracle(At::Home).seen.steps;
            if self.restores.contains(&steps) {
                self.restores.retain(|at| *at != steps);
                self.restore_all().await?;
            }
            if steps > STEPS_MAX {
                return Err(format!("the world does not end: {}", self.who()));
            }
        }
        Ok(())
    }

    /// Packs are damaged or lost, if it is time for that.
    fn strike(&mut self) {
        let steps = self.shared.oracle(At::Home).seen.steps;
        let Some((_, count)) = self.plan.special.damage.filter(|(at, _)| *at <= steps) else {
            return;
        };
        let is_pack = |name: &&String| name.starts_with("packs/");
        let packs: Vec<String> = {
            let core = lock(&self.core);
            core.stores.home.there.keys().filter(is_pack).cloned().collect()
        };
        if packs.is_empty() {
            return;
        }
        self.plan.special.damage = None;
        for _ in 0..count {
            let Some(name) = self.dice.pick(&packs) else {
                continue;
            };
            let is_lost = self.dice.permille(500);
            self.tell(&format!("{name} is {}", if is_lost { "lost" } else { "damaged" }));
            {
                let mut core = lock(&self.core);
                let there = &mut core.stores.home.there;
                if is_lost {
                    there.remove(&name);
                } else if let Some(object) = there.get_mut(&name) {
                    let mut bytes = object.bytes.to_vec();
                    let at = self.dice.index(bytes.len());
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1;
                    }
                    object.bytes = bytes.into();
                }
            }
            if let Ok(ObjectName::Pack(pack)) = ObjectName::parse(&name) {
                self.shared.oracle(At::Home).strike(pack, is_lost);
            }
        }
    }

    pub(super) fn verdict(&self) -> Verdict<()> {
        if let Some(wrong) = self.shared.oracle(At::Home).wrong() {
            return Err(wrong.to_owned());
        }
        match self.shared.oracle(At::Replica).wrong() {
            Some(wrong) => Err(format!("the replica: {wrong}")),
            None => Ok(()),
        }
    }

    fn who(&self) -> String {
        let alive = self.actors.iter().filter(|actor| actor.life.is_some());
        let alive: Vec<_> = alive
            .map(|actor| {
                let machine = lock(&actor.machine);
                format!("{:?} {}", machine.role, machine.number)
            })
            .collect();
        alive.join(", ")
    }

    pub(super) fn tell(&mut self, line: &str) {
        self.trace.update(line.as_bytes()).update(b"\n");
        if self.verbose {
            println!("{:>12} {line}", self.now());
        }
    }

    /// Starts who is to start, and buries who has ended.
    pub(super) fn begin_lives(&mut self) -> Verdict<()> {
        let now = self.now();
        for at in 0..self.actors.len() {
            let Some(actor) = self.actors.get_mut(at) else {
                continue;
            };
            if actor.life.as_ref().is_some_and(JoinHandle::is_finished) {
                actor.life = None;
            }
            if actor.again.is_none_or(|again| again > now) {
                continue;
            }
            actor.again = None;
            let machine = actor.machine.clone();
            let seed = self.dice.roll();
            let life = self.life(at, machine, seed).map_err(|error| error.to_string())?;
            if let Some(actor) = self.actors.get_mut(at) {
                actor.life = Some(tokio::task::spawn_local(life.run()));
            }
        }
        Ok(())
    }

    fn life(&self, at: usize, machine: Arc<Mutex<Machine>>, seed: u64) -> Result<Life> {
        let mut context = Context::deterministic(seed)?;
        let skew = lock(&machine).skew;
        context.clock = Arc::new(SimClock {
            begin: self.begin,
            skew,
            stretch: self.plan.stretch,
        });
        context.budget = Budget::tiny(self.plan.budget);
        let (caches, place) = {
            let machine = lock(&machine);
            (machine.caches.clone(), machine.at)
        };
        let repository = |place: At| -> Result<Repository> {
            let store = SimStore {
                core: self.core.clone(),
                arrived: self.arrived.clone(),
                at: place,
                who: Who::Actor(at),
            };
            let store = Store::over(Arc::new(store), "memory:", &options(self.plan.uploads), &context)?;
            Ok(self.template.elsewhere(store, caches.of(place).clone()))
        };
        let repositories = Both {
            home: repository(At::Home)?,
            replica: repository(At::Replica)?,
        };
        Ok(Life {
            machine,
            context,
            at: place,
            repository: repositories.of(place).clone(),
            repositories,
            shared: self.shared.clone(),
        })
    }

    fn in_trouble(&self) -> bool {
        self.shared.oracle(At::Home).seen.steps < TROUBLE_MAX
    }

    /// Looks at what has arrived, and at what has come too late.
    pub(super) fn look(&mut self) {
        let now = self.now();
        let mut core = lock(&self.core);
        core.now = now;
        let waiting = std::mem::take(&mut core.waiting);
        drop(core);
        let trouble = self.in_trouble();
        let mut left = Vec::with_capacity(waiting.len());
        for mut one in waiting {
            if one.reply.is_closed() {
                // Whoever asked is dead, or asks no more. What was sent may still arrive.
                if let Request::Put(name, bytes) = one.request
                    && trouble
                    && self.dice.permille(500)
                {
                    self.late.push((one.at, name, bytes));
                }
                continue;
            }
            if !one.is_seen {
                one.is_seen = true;
                if let Request::Put(name, bytes) = &one.request {
                    self.shared.oracle(one.at).sent(name, bytes);
                }
                if trouble && self.dice.permille(self.plan.sleeps) {
                    one.not_before = now + self.sleep();
                }
            }
            left.push(one);
        }
        lock(&self.core).waiting.splice(0..0, left);
        let (due, held) = std::mem::take(&mut self.answers)
            .into_iter()
            .partition(|held| held.at <= now);
        self.answers = held;
        let due: Vec<Held> = due;
        for held in due {
            let _gone = held.reply.send(held.answer);
        }
    }

    /// How long somebody sleeps.
    fn sleep(&mut self) -> u64 {
        match self.dice.below(3) {
            0 => self.dice.below(60 * self.plan.pace),
            1 => self.dice.below(DAY),
            _ => self.dice.below(5 * DAY),
        }
    }

    /// One request, if somebody can go on.
    fn step(&mut self) -> bool {
        let trouble = self.in_trouble();
        if !self.late.is_empty() && self.dice.permille(if trouble { 20 } else { 500 }) {
            let (at, name, bytes) = self.late.swap_remove(self.dice.index(self.late.len()));
            self.tell(&format!("late put {name}"));
            drop(self.apply(at, &Request::Put(name, bytes)));
            self.shared.oracle(At::Home).seen.late += 1;
            return true;
        }
        let Some(one) = self.choose() else {
            return false;
        };
        let line = format!(
            "{}{} {} {}",
            one.actor,
            one.mark(),
            one.request.verb(),
            one.request.name()
        );
        self.tell(&line);
        self.shared.oracle(At::Home).seen.steps += 1;
        if trouble && self.dice.permille(self.plan.kills) {
            self.kill(&one);
            return true;
        }
        self.answer(one, trouble);
        true
    }

    /// Who goes on.
    fn choose(&mut self) -> Option<Waiting> {
        let now = self.now();
        let core = lock(&self.core);
        let ready = core.waiting.iter().enumerate();
        let ready: Vec<(usize, usize)> = ready
            .filter(|(_, one)| one.not_before <= now)
            .map(|(at, one)| (at, one.actor))
            .collect();
        drop(core);
        let mut who: Vec<usize> = ready.iter().map(|(_, actor)| *actor).collect();
        who.sort_unstable();
        who.dedup();
        let rank = |actor: &usize| self.actors.get(*actor).map_or(0, |actor| actor.rank);
        let first = who.iter().copied().max_by_key(rank);
        let actor = match self.plan.style {
            Style::Sticky if who.contains(&self.last) && !self.dice.permille(100) => self.last,
            Style::Ranked if !self.dice.permille(30) => first?,
            _ => self.dice.pick(&who)?,
        };
        if self.dice.permille(10)
            && let Some(changed) = self.actors.get_mut(actor)
        {
            changed.rank = self.dice.roll();
        }
        self.last = actor;
        let of_actor: Vec<usize> = ready
            .iter()
            .filter(|(_, who)| *who == actor)
            .map(|(at, _)| *at)
            .collect();
        let at = self.dice.pick(&of_actor)?;
        Some(lock(&self.core).waiting.remove(at))
    }

    /// The process dies, before its request arrives or after.
    fn kill(&mut self, one: &Waiting) {
        match (self.dice.below(3), &one.request) {
            (0, Request::Put(name, bytes)) => self.late.push((one.at, name.clone(), bytes.clone())),
            (1, request) => drop(self.apply(one.at, request)),
            _ => {}
        }
        self.tell(&format!("{} dies", one.actor));
        let again = self.now() + self.sleep();
        if let Some(actor) = self.actors.get_mut(one.actor) {
            if let Some(life) = actor.life.take() {
                life.abort();
            }
            actor.again = Some(again);
        }
        self.answers.retain(|held| held.actor != one.actor);
        self.shared.oracle(At::Home).seen.kills += 1;
    }

    pub(super) fn answer(&mut self, one: Waiting, in_trouble: bool) {
        let dice = &mut self.dice;
        let fails = in_trouble && dice.permille(self.plan.errors);
        let is_lost = in_trouble && dice.permille(self.plan.lost);
        let repeats = in_trouble && dice.permille(self.plan.late);
        if let (Request::Put(name, bytes), true) = (&one.request, repeats) {
            // It was sent twice on its way, or is still under way when the error is told.
            self.late.push((one.at, name.clone(), bytes.clone()));
        }
        let answer = if fails {
            Err(if self.dice.permille(500) {
                trouble()
            } else {
                reset()
            })
        } else {
            let answer = self.apply(one.at, &one.request);
            if is_lost { Err(reset()) } else { answer }
        };
        if in_trouble && self.dice.permille(self.plan.sleeps) {
            let at = self.now() + self.sleep();
            self.answers.push(Held {
                at,
                actor: one.actor,
                reply: one.reply,
                answer,
            });
        } else {
            let _gone = one.reply.send(answer);
        }
    }

    pub(super) fn apply(&mut self, at: At, request: &Request) -> object_store::Result<Answer> {
        apply(&self.core, &self.shared, at, request)
    }

    /// Waits until somebody can go on. False: everybody is done.
    async fn wait(&mut self) -> Verdict<bool> {
        let lives = self.actors.iter();
        if !lives
            .clone()
            .any(|actor| actor.life.is_some() || actor.again.is_some())
        {
            return Ok(false);
        }
        let asleep: Vec<u64> = lock(&self.core)
            .waiting
            .iter()
            .map(|one| one.not_before)
            .collect();
        let moments = asleep
            .into_iter()
            .chain(self.answers.iter().map(|held| held.at))
            .chain(lives.filter_map(|actor| actor.again));
        // Who sleeps by itself, or ends, is noticed sooner or later.
        let next = moments.min().unwrap_or(u64::MAX).min(self.now() + DAY);
        let until = self.begin + Duration::from_millis(next.max(self.now() + 1));
        tokio::select! {
            biased;
            () = self.arrived.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
        if self.now() > 4_000 * DAY {
            return Err(format!("the world stands still: {}", self.who()));
        }
        Ok(true)
    }
}
