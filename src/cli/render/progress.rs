//! Progress: a live line on a terminal, a plain line now and then in a pipe, JSON lines for programs. Observers only count; what is
//! shown is made by one task that wakes up a few times a second.

use super::{bytes, count, note, progress_line, seconds, warning};
use crate::cli::args::Globals;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Observer, Outcome};
use crate::ops::name_of;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Not at all.
    Silent,
    /// One line at the start of each phase, then at most one a minute.
    Plain,
    /// One line that is drawn again and again.
    Live,
    /// JSON lines on standard output.
    Json,
}

/// Shows what happens. Counting is cheap; nothing is drawn on the data path.
pub(in crate::cli) struct Progress {
    mode: Mode,
    json: bool,
    verbose: bool,
    quiet: bool,
    interval: Duration,
    bar: Option<ProgressBar>,
    phase: Mutex<Option<Phase>>,
    entries: AtomicU64,
    read: AtomicU64,
    done: AtomicU64,
    added: AtomicU64,
    errors: AtomicU64,
}

/// What is under way.
#[derive(Clone, Copy)]
struct Phase {
    name: &'static str,
    began: Instant,
    entries: Option<u64>,
    bytes: Option<u64>,
}

impl Progress {
    /// Progress as the flags and the terminal ask for it. `fps` overrides how often something is shown.
    pub(in crate::cli) fn new(globals: &Globals, fps: Option<f64>) -> Self {
        let mode = match (globals.quiet, globals.json) {
            (true, _) => Mode::Silent,
            (false, true) => Mode::Json,
            (false, false) if io::stderr().is_terminal() => Mode::Live,
            (false, false) => Mode::Plain,
        };
        let usual = match mode {
            Mode::Live => Duration::from_millis(100),
            Mode::Json => Duration::from_secs(1),
            Mode::Plain | Mode::Silent => Duration::from_secs(60),
        };
        let bar = (mode == Mode::Live).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            // The template is a constant; a bar without it would be only less pretty.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self {
            mode,
            json: globals.json,
            verbose: globals.verbose > 0,
            quiet: globals.quiet,
            interval: fps.map_or(usual, |fps| {
                Duration::from_secs_f64(1.0 / fps.clamp(1.0 / 3600.0, 60.0))
            }),
            bar,
            phase: Mutex::default(),
            entries: AtomicU64::new(0),
            read: AtomicU64::new(0),
            done: AtomicU64::new(0),
            added: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    /// Shows progress until the process ends, and at once whenever SIGUSR1 comes.
    ///
    /// # Errors
    /// `Internal` if the system refuses to deliver signals.
    pub(in crate::cli) fn keep_going(progress: &Arc<Self>) -> Result<()> {
        let mut asked = signal(SignalKind::user_defined1())
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot listen for signals").because(e))?;
        let progress = progress.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(progress.interval);
            ticks.tick().await;
            loop {
                let asked = tokio::select! {
                    _ = ticks.tick() => false,
                    Some(()) = asked.recv() => true,
                };
                progress.show(asked);
            }
        });
        Ok(())
    }

    /// Runs `tell` with the live line out of the way.
    pub(in crate::cli) fn aside(&self, tell: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(tell),
            None => tell(),
        }
    }

    /// Takes the live line away for good.
    pub(in crate::cli) fn end(&self) {
        if let Ok(mut phase) = self.phase.lock() {
            *phase = None;
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn phase(&self) -> Option<Phase> {
        self.phase.lock().ok().and_then(|phase| *phase)
    }

    fn show(&self, asked: bool) {
        let Some(phase) = self.phase() else { return };
        match (self.mode, &self.bar) {
            (Mode::Live, Some(bar)) => {
                bar.set_message(self.text(&phase));
                bar.tick();
            }
            (Mode::Json, _) => self.status(&phase),
            (Mode::Plain, _) => progress_line(&self.text(&phase)),
            _ if asked => progress_line(&self.text(&phase)),
            _ => {}
        }
    }

    /// Bytes that count towards the phase's end.
    fn bytes_done(&self, phase: &Phase) -> u64 {
        if phase.name == "restore" {
            self.done.load(Ordering::Relaxed)
        } else {
            self.read.load(Ordering::Relaxed)
        }
    }

    fn text(&self, phase: &Phase) -> String {
        let entries = self.entries.load(Ordering::Relaxed);
        let done = self.bytes_done(phase);
        let passed = phase.began.elapsed().as_secs_f64();
        let mut text = format!("{}: ", phase.name);
        if entries > 0 {
            text.push_str(&format!("{}, ", count(entries, "entry")));
        }
        text.push_str(&bytes(done));
        if let Some(total) = phase.bytes.filter(|total| *total > 0) {
            let percent = done.min(total).saturating_mul(100) / total;
            text.push_str(&format!(" of {} ({percent}%)", bytes(total)));
        }
        let added = self.added.load(Ordering::Relaxed);
        if added > 0 {
            text.push_str(&format!(", {} new", bytes(added)));
        }
        if passed >= 1.0 {
            text.push_str(&format!(", {}/s", bytes((done as f64 / passed) as u64)));
        }
        text.push_str(&format!(", {}", seconds(passed)));
        text
    }

    fn status(&self, phase: &Phase) {
        let done = self.bytes_done(phase);
        let passed = phase.began.elapsed().as_secs_f64();
        let mut value = json!({
            "message_type": "status",
            "phase": phase.name,
            "seconds_elapsed": passed as u64,
            "files_done": self.entries.load(Ordering::Relaxed),
            "bytes_done": done,
            "data_added": self.added.load(Ordering::Relaxed),
            "error_count": self.errors.load(Ordering::Relaxed),
        });
        if let (Some(total), Some(object)) = (phase.bytes.filter(|t| *t > 0), value.as_object_mut()) {
            let share = (done as f64 / total as f64).min(1.0);
            object.insert("total_bytes".into(), total.into());
            object.insert("percent_done".into(), share.into());
            if share > 0.0 {
                let left = passed / share - passed;
                object.insert("seconds_remaining".into(), (left as u64).into());
            }
        }
        if let (Some(total), Some(object)) = (phase.entries, value.as_object_mut()) {
            object.insert("total_files".into(), total.into());
        }
        // Whoever reads may have gone: then nobody misses it, and the command itself finds out.
        let _ = writeln!(io::stdout().lock(), "{value}");
    }

    fn begin(&self, name: &'static str, entries: Option<u64>, bytes: Option<u64>) {
        for counter in [&self.entries, &self.read, &self.done, &self.added] {
            counter.store(0, Ordering::Relaxed);
        }
        if let Ok(mut phase) = self.phase.lock() {
            *phase = Some(Phase {
                name,
                began: Instant::now(),
                entries,
                bytes,
            });
        }
        if self.mode == Mode::Plain {
            progress_line(&format!("{name}: started"));
        }
    }

    fn entry(&self, name: &str, outcome: Outcome, size: u64) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.done.fetch_add(size, Ordering::Relaxed);
        if !self.verbose || self.quiet {
            return;
        }
        let word = match outcome {
            Outcome::New => "new",
            Outcome::Changed => "changed",
            Outcome::Unchanged => "unchanged",
            Outcome::Restored => "restored",
            Outcome::Skipped => "skipped",
            Outcome::Failed => "failed",
        };
        if self.json {
            let value =
                json!({"message_type": "verbose_status", "action": word, "item": name, "data_size": size});
            let _ = writeln!(io::stdout().lock(), "{value}");
        } else {
            self.aside(|| progress_line(&format!("{word:9} {} ({})", name, bytes(size))));
        }
    }

    fn incident(&self, name: &str, why: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        if self.json {
            let during = self.phase().map_or("", |phase| phase.name);
            let value =
                json!({"message_type": "error", "error": {"message": why}, "during": during, "item": name});
            let _ = writeln!(io::stderr().lock(), "{value}");
        } else {
            self.aside(|| warning(&format!("{name}: {why}")));
        }
    }

    fn tell(&self, text: &str) {
        if !self.quiet {
            self.aside(|| note(text));
        }
    }
}

/// The name of an entry as people write it.
fn shown(key: &str) -> String {
    name_of(&key.into())
}

impl Observer for Progress {
    fn on(&self, event: &Event) {
        match event {
            Event::PhaseStarted {
                phase,
                entries,
                bytes,
            } => self.begin(phase, *entries, *bytes),
            Event::EntryDone { name, outcome, bytes } => self.entry(&shown(name), *outcome, *bytes),
            Event::Progress { bytes } => {
                self.read.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::BlobAdded { bytes } => {
                self.added.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::Incident { name, why } => self.incident(&shown(name), why),
            Event::Retry { what, why } => self.tell(&format!("trying again: {what}: {why}")),
            Event::Note { text } => self.tell(text),
            _ => {}
        }
    }
}
