//! The explicit-state model of chapters 85 and 90. One step is one request to the store; whoever is not scheduled any more has crashed
//! or sleeps.

mod collector;
mod others;
mod scenarios;
mod search;
mod state;
mod steps;
mod view;
mod writer;

use scenarios::{RULES, VARIANTS, scenarios, start};
use state::Scenario;
use std::process::ExitCode;
use std::time::Instant;

const HELP: &str = "holdall-model [quick | all | rules | variants | SCENARIO | drop RULE [SCENARIO]]
  quick      every rule and small bounds: what the tests run
  all        every scenario
  rules      drops every rule, one by one: each must be missed
  variants   every scenario with what a collector may do or leave
The environment's MODEL_STATES bounds each search (6,000,000).";

fn most() -> usize {
    let given = std::env::var("MODEL_STATES").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(6_000_000)
}

/// Gives whether no violation was found.
fn run(g: &Scenario, most: usize, show: bool) -> bool {
    let began = Instant::now();
    let found = search::search(&start(g), g, most);
    let dropped: Vec<_> = g.dropped.iter().copied().collect();
    let verdict = match (&found.violation, found.exhausted) {
        (Some(_), _) => "VIOLATION",
        (None, true) => "pass, all",
        (None, false) => "pass, bound",
    };
    println!(
        "{:<46} {:<30} {verdict:<12} {:>9} states, depth {:>3}, {:>8} acknowledged, {:>6} drained, {:.1} s",
        g.name,
        dropped.join(","),
        found.states,
        found.depth,
        found.acknowledged,
        found.drained,
        began.elapsed().as_secs_f32(),
    );
    if let Some(what) = &found.violation {
        if show {
            for (at, step) in found.trace.iter().enumerate() {
                println!("  {:>3}. {step}", at + 1);
            }
        }
        println!("  => {what}");
    }
    found.violation.is_none()
}

fn named(name: &str) -> impl Iterator<Item = Scenario> {
    scenarios()
        .into_iter()
        .filter(move |g| name.is_empty() || g.name.split(' ').next() == Some(name))
}

fn without(rules: &'static str, g: Scenario) -> Scenario {
    Scenario {
        dropped: rules.split(',').collect(),
        ..g
    }
}

/// Drops each rule; gives how many were not missed.
fn rules(most: usize) -> usize {
    let seen = RULES
        .iter()
        .filter(|(rule, name)| !named(name).any(|g| !run(&without(rule, g), most, false)));
    seen.map(|(rule, _)| println!("  => nothing misses the rule {rule}"))
        .count()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let failed = match arguments.as_slice() {
        ["quick"] => scenarios().iter().filter(|g| !run(g, 40_000, true)).count() + rules(2_000_000),
        ["all"] => scenarios().iter().filter(|g| !run(g, most(), true)).count(),
        ["rules"] => rules(most()),
        ["variants"] => {
            let all = VARIANTS
                .iter()
                .flat_map(|variant| named("").map(|g| without(variant, g)));
            all.filter(|g| !run(g, most(), true)).count()
        }
        ["drop", rule, rest @ ..] => {
            let known = RULES
                .iter()
                .map(|(rule, _)| *rule)
                .chain(VARIANTS.iter().copied());
            let Some(rule) = known.into_iter().find(|known| known == rule) else {
                println!("{HELP}");
                return ExitCode::from(2);
            };
            named(rest.first().unwrap_or(&""))
                .filter(|g| !run(&without(rule, g.clone()), most(), true))
                .count()
        }
        [name] if named(name).next().is_some() && !name.is_empty() => {
            named(name).filter(|g| !run(g, most(), true)).count()
        }
        _ => {
            println!("{HELP}");
            return ExitCode::from(2);
        }
    };
    if failed == 0 {
        println!("as it should be: no scenario loses anything, and whatever rule was dropped was missed");
        ExitCode::SUCCESS
    } else {
        println!("{failed} not as they should be");
        ExitCode::FAILURE
    }
}
