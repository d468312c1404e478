//! What the demo shows: plain lines in a pipe; in a terminal also one line that moves while something is awaited; a table at
//! the end. A reader that went away ends the demo, never by a panic.

use super::Step;
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const FRAMES: [&str; 8] = ["⠋", "⠙", "⠸", "⢰", "⣠", "⣄", "⡆", "⠇"];
const FRAME_EVERY: Duration = Duration::from_millis(100);
const NAME_WIDTH: usize = 20;

pub struct Screen {
    begun: Instant,
    /// stdout is for data.
    json: bool,
    moving: bool,
    width: usize,
    gone: Cell<bool>,
    drawn: Cell<Option<Instant>>,
    frame: Cell<usize>,
}

impl Screen {
    #[allow(clippy::disallowed_methods, reason = "the demo tells how long it took")]
    pub fn new(json: bool) -> Self {
        let moving = match json {
            true => std::io::stderr().is_terminal(),
            false => std::io::stdout().is_terminal(),
        };
        let size = match json {
            true => rustix::termios::tcgetwinsize(std::io::stderr()),
            false => rustix::termios::tcgetwinsize(std::io::stdout()),
        };
        let width = size.map_or(0, |size| usize::from(size.ws_col));
        Self {
            begun: Instant::now(),
            json,
            moving,
            width: if width == 0 { 120 } else { width.clamp(60, 200) },
            gone: Cell::new(false),
            drawn: Cell::new(None),
            frame: Cell::new(0),
        }
    }

    /// Nobody reads any more.
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    fn put(&self, text: &str) {
        let written = match self.json {
            true => write_all(std::io::stderr().lock(), text),
            false => write_all(std::io::stdout().lock(), text),
        };
        // Progress beside the data may be lost.
        if written.is_err() && !self.json {
            self.gone.set(true);
        }
    }

    /// A line that stays.
    pub fn say(&self, text: &str) {
        self.clear();
        self.put(&format!("{:>6.1}s  {text}\n", self.begun.elapsed().as_secs_f64()));
    }

    /// The line that moves. Only a terminal gets it.
    #[allow(clippy::disallowed_methods, reason = "the line moves in real time")]
    pub fn status(&self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if !self.moving || self.drawn.get().is_some_and(|drawn| now < drawn + FRAME_EVERY) {
            return;
        }
        self.drawn.set(Some(now));
        self.frame.set((self.frame.get() + 1) % FRAMES.len());
        let line = format!(
            "{:>6.1}s  {} {}",
            self.begun.elapsed().as_secs_f64(),
            FRAMES[self.frame.get()],
            text()
        );
        let cut: String = line.chars().take(self.width.saturating_sub(1)).collect();
        self.put(&format!("\r\x1b[K{cut}"));
    }

    pub fn clear(&self) {
        if self.drawn.take().is_some() {
            self.put("\r\x1b[K");
        }
    }

    /// What people and programs came for.
    pub fn data(&self, text: &str) {
        self.clear();
        if write_all(std::io::stdout().lock(), &format!("{text}\n")).is_err() {
            self.gone.set(true);
        }
    }

    /// For people, beside the data.
    pub fn note(&self, text: &str) {
        self.put(&format!("{text}\n"));
    }

    pub fn trouble(&self, text: &str) {
        // Nobody to tell is no trouble of its own.
        let _ = write_all(std::io::stderr().lock(), &format!("{text}\n"));
    }

    pub fn table(&self, steps: &[Step]) {
        self.data(&table(steps, self.width));
    }
}

fn write_all(mut to: impl Write, text: &str) -> std::io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}

/// Three columns that wrap, a rule between the steps.
fn table(steps: &[Step], width: usize) -> String {
    let left = width.saturating_sub(NAME_WIDTH + 10).max(40);
    let (expected_width, seen_width) = (left * 2 / 5, left - left * 2 / 5);
    let mut text = format!("\n{:4}  {:NAME_WIDTH$}  {:expected_width$}  SEEN\n", "", "STEP", "EXPECTED");
    for step in steps {
        let (expected, seen) = (wrap(&step.expected, expected_width), wrap(&step.seen, seen_width));
        text.push_str(&format!("{}\n", "─".repeat(width.min(NAME_WIDTH + 10 + left))));
        for line in 0..expected.len().max(seen.len()) {
            let cell = |column: &[String]| column.get(line).cloned().unwrap_or_default();
            let (mark, name) = match line {
                0 => (if step.ok { "ok" } else { "FAIL" }, step.name),
                _ => ("", ""),
            };
            let row = format!(
                "{mark:4}  {name:NAME_WIDTH$}  {:expected_width$}  {}",
                cell(&expected),
                cell(&seen)
            );
            text.push_str(row.trim_end());
            text.push('\n');
        }
    }
    text
}

/// Lines of at most `width` characters, cut between words where there is room.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last_mut().map_or(0, |line| line.chars().count());
            let gap = usize::from(line > 0);
            if line + gap + word.len() <= width {
                if let Some(last) = lines.last_mut() {
                    last.push_str(if gap > 0 { " " } else { "" });
                    last.extend(word);
                }
                break;
            }
            if line > 0 {
                lines.push(String::new());
                continue;
            }
            // A word longer than the column.
            let rest = word.split_off(width.min(word.len()));
            if let Some(last) = lines.last_mut() {
                last.extend(word);
            }
            lines.push(String::new());
            word = rest;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_wrap() {
        for (text, width, lines) in [
            ("", 10, &[""] as &[&str]),
            ("one two three", 7, &["one two", "three"]),
            ("abcdefghij k", 4, &["abcd", "efgh", "ij k"]),
            ("äöü äöü", 3, &["äöü", "äöü"]),
        ] {
            assert_eq!(wrap(text, width), lines, "{text:?} in {width}");
        }
    }

    #[test]
    fn no_line_of_the_table_is_too_long() {
        let step = Step {
            name: "(a) first commit",
            expected: "live on three sites ".repeat(10),
            seen: "x".repeat(300),
            ok: true,
        };
        for width in [60, 100, 200] {
            let text = table(std::slice::from_ref(&step), width);
            assert!(
                text.lines().all(|line| line.chars().count() <= width.max(NAME_WIDTH + 50)),
                "{text}"
            );
            assert!(text.contains("STEP") && text.contains("SEEN"));
        }
    }
}
