//! Worlds in which a script says who goes on: the cases that everybody asks about.

use super::actors::{Post, Role, let_go};
use super::dice::Dice;
use super::plan::{DAY, Plan};
use super::store::{At, Request, lock};
use super::world::{Ended, Verdict, World, in_world};
use std::time::Duration;

/// One line of a script. Actors are numbered as they were given; each does its work once, and begins when it is first named.
#[derive(Clone, Copy, Debug)]
pub enum Beat {
    /// This one goes on until it is about to ask this of the store, a verb and the beginning of a name; at the latest until it is done.
    Until(usize, &'static str, &'static str),
    /// This one goes on for so many requests.
    Requests(usize, u64),
    /// This one goes on until it is done.
    Done(usize),
    /// So many days pass.
    Days(u64),
    /// A file of a project becomes this version of itself: project, file, version.
    Version(usize, u64, u64),
    /// A project has a file no more.
    Without(usize, u64),
    /// Everything whose name begins like this and that was deleted arrives again: puts that were on their way.
    Again(&'static str),
    /// The snapshots that this writer made are let go.
    Forget(usize),
}

/// Plays a script to its end; what is still asleep then wakes and goes on. Then everything is collected and looked at as in any world.
///
/// # Errors
/// What was found to be wrong, in words.
pub fn act(actors: &[Role], script: &[Beat], verbose: bool) -> Verdict<Ended> {
    let actors: Vec<_> = actors.iter().map(|role| (*role, At::Home)).collect();
    act_at(&actors, script, verbose)
}

/// As [`act`], with actors at both stores. Copiers copy from where they are into the other one.
///
/// # Errors
/// As [`act`].
pub fn act_at(actors: &[(Role, At)], script: &[Beat], verbose: bool) -> Verdict<Ended> {
    let posts = actors.iter().map(|(role, at)| Post {
        role: *role,
        at: *at,
        operations: 1,
    });
    let plan = Plan::staged(posts.collect());
    in_world(plan, Dice::new(1), verbose, async |world| {
        for beat in script {
            world.beat(*beat).await?;
        }
        for actor in 0..actors.len() {
            world.beat(Beat::Done(actor)).await?;
        }
        Ok(())
    })
}

impl World {
    async fn beat(&mut self, beat: Beat) -> Verdict<()> {
        self.tell(&format!("{beat:?}"));
        match beat {
            Beat::Until(actor, verb, name) => {
                let is_it = |request: &Request| request.verb() == verb && request.name().starts_with(name);
                self.go_on(actor, u64::MAX, &is_it).await
            }
            Beat::Requests(actor, count) => self.go_on(actor, count, &|_| false).await,
            Beat::Done(actor) => self.go_on(actor, u64::MAX, &|_| false).await,
            Beat::Days(days) => {
                tokio::time::sleep(Duration::from_millis(days * DAY)).await;
                Ok(())
            }
            Beat::Version(project, file, version) => {
                if let Some(project) = lock(&self.shared.projects).get_mut(project) {
                    project.set(file, version);
                }
                Ok(())
            }
            Beat::Without(project, file) => {
                if let Some(project) = lock(&self.shared.projects).get_mut(project) {
                    project.unset(file);
                }
                Ok(())
            }
            Beat::Again(start) => {
                let gone = lock(&self.core).stores.home.gone.clone().into_iter();
                for (name, bytes) in gone.filter(|(name, _)| name.starts_with(start)) {
                    drop(self.apply(At::Home, &Request::Put(name, bytes)));
                }
                self.verdict()
            }
            Beat::Forget(writer) => self.forget_those_of(writer).await,
        }
    }

    /// Lets one actor alone go on.
    async fn go_on(&mut self, actor: usize, mut left: u64, stop: &dyn Fn(&Request) -> bool) -> Verdict<()> {
        let now = self.now();
        if let Some(one) = self.actors.get_mut(actor)
            && one.life.is_none()
            && lock(&one.machine).left > 0
        {
            one.again = Some(now);
        }
        while left > 0 {
            self.begin_lives()?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.look();
            self.verdict()?;
            let life = self.actors.get(actor).and_then(|one| one.life.as_ref());
            if life.is_none_or(tokio::task::JoinHandle::is_finished) {
                return Ok(());
            }
            let next = {
                let mut core = lock(&self.core);
                let at = core.waiting.iter().position(|one| one.actor == actor);
                match at {
                    Some(at) if core.waiting.get(at).is_some_and(|one| stop(&one.request)) => return Ok(()),
                    Some(at) => Some(core.waiting.remove(at)),
                    None => None,
                }
            };
            let Some(next) = next else {
                // It sleeps by itself.
                tokio::time::sleep(Duration::from_secs(10)).await;
                continue;
            };
            left -= 1;
            self.tell(&format!(
                "{actor}{} {} {}",
                next.mark(),
                next.request.verb(),
                next.request.name()
            ));
            self.shared.oracle(At::Home).seen.steps += 1;
            self.answer(next, false);
        }
        self.verdict()
    }

    async fn forget_those_of(&mut self, writer: usize) -> Verdict<()> {
        let (context, repository) = self.beside(At::Home)?;
        let made: Vec<_> = {
            let records = lock(&self.shared.records);
            let made = records.iter().filter(|(_, (who, _))| *who == writer);
            made.map(|(sid, _)| *sid).collect()
        };
        if made.is_empty() {
            return Err(format!("{writer} has made no snapshot"));
        }
        for sid in made {
            let put = let_go(&context, &repository, sid).await;
            put.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
