//! `status --watch`: redrawn in place in a terminal, one line for each change in a pipe. Ends on Ctrl-C.

use super::error::CliError;
use super::show::{Line, Out, Style, is_dumb, terminal_size};
use super::{draw, status};
use crate::operator::Operator;
use holdfast_core::view::StatusView;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(500);
const ROWS_DEFAULT: usize = 24;
/// Another screen without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

pub fn watch(operator: &Operator, workload: Option<&str>, out: &Out) -> Result<ExitCode, CliError> {
    let look = || {
        let mut view = status::fetch(operator)?;
        status::narrow(&mut view, workload)?;
        Ok(view)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::io("the runtime cannot be started", source))?;
    let in_place = std::io::stdout().is_terminal() && !is_dumb() && !out.is_json;
    let mut watched: Box<dyn Show> = if in_place {
        Box::new(Screen { out, last: Vec::new() })
    } else {
        Box::new(Changes {
            out,
            known: BTreeMap::new(),
            last: None,
        })
    };
    // The first look may say that there is no daemon; later ones wait for it.
    let first = look()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let fail = |source| CliError::io("signals cannot be handled", source);
        let (mut interrupt, mut terminate) = (
            signal(SignalKind::interrupt()).map_err(fail)?,
            signal(SignalKind::terminate()).map_err(fail)?,
        );
        watched.begin();
        watched.show(&first);
        while !out.is_closed() {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                () = tokio::time::sleep(POLL) => match look() {
                    Ok(view) => watched.show(&view),
                    Err(error) => watched.lost(&error),
                },
            }
        }
        watched.end();
        Ok(ExitCode::SUCCESS)
    })
}

trait Show {
    fn begin(&mut self) {}
    fn show(&mut self, view: &StatusView);
    fn lost(&mut self, error: &CliError);
    fn end(&mut self) {}
}

struct Screen<'a> {
    out: &'a Out,
    last: Vec<Line>,
}

impl Screen<'_> {
    fn draw(&self, foot: &str) {
        let (columns, rows) = terminal_size().unwrap_or((80, ROWS_DEFAULT));
        let style = Style {
            columns: Some(columns),
            ..Style::of_stdout()
        };
        self.out.write(&frame(&self.last, foot, style, rows));
    }
}

/// One picture: every row is overwritten to its end, what is below is wiped, and what does not fit is counted.
fn frame(lines: &[Line], foot: &str, style: Style, rows: usize) -> String {
    let text: Vec<String> = lines.iter().map(|line| style.render(line)).collect();
    let all: Vec<&str> = text.iter().flat_map(|text| text.split('\n')).collect();
    let room = rows.saturating_sub(2).max(1);
    let mut frame = "\x1b[H".to_owned();
    for row in all.iter().take(room) {
        frame.push_str(row);
        frame.push_str("\x1b[K\n");
    }
    let more = match all.len().saturating_sub(room) {
        0 => String::new(),
        hidden => format!("{} more; ", draw::count(hidden as u64, "line", "lines")),
    };
    let foot = style.render(&Line::of(super::show::Tone::Dim, &format!("{more}{foot}")));
    frame.push_str("\x1b[K\n");
    frame.push_str(foot.split('\n').next().unwrap_or_default());
    frame.push_str("\x1b[K\x1b[J");
    frame
}

impl Show for Screen<'_> {
    fn begin(&mut self) {
        self.out.write(ENTER);
    }

    fn show(&mut self, view: &StatusView) {
        let columns = terminal_size().map_or(80, |(columns, _)| columns);
        self.last = draw::live(view, columns);
        self.draw("Ctrl-C ends");
    }

    fn lost(&mut self, error: &CliError) {
        self.draw(&format!("{error}; trying again. Ctrl-C ends"));
    }

    /// The last picture stays.
    fn end(&mut self) {
        self.out.write(LEAVE);
        self.last.iter().for_each(|line| self.out.line(line));
    }
}

struct Changes<'a> {
    out: &'a Out,
    known: BTreeMap<String, String>,
    last: Option<StatusView>,
}

impl Show for Changes<'_> {
    fn show(&mut self, view: &StatusView) {
        let lines = changes(&mut self.known, view);
        if !self.out.is_json {
            lines.iter().for_each(|line| self.out.line(line));
        } else if !lines.is_empty() || self.last.is_none() {
            self.out.json_line(&serde_json::to_value(view).unwrap_or_default());
        }
        self.last = Some(view.clone());
    }

    fn lost(&mut self, error: &CliError) {
        let text = error.to_string();
        if self.known.insert("daemon".into(), text.clone()) != Some(text.clone()) {
            super::error::say(&format!("{text}; trying again"));
        }
    }
}

/// What is not as it was, and what is gone.
fn changes(known: &mut BTreeMap<String, String>, view: &StatusView) -> Vec<String> {
    let now: BTreeMap<String, String> = draw::facts(view).into_iter().collect();
    let gone = known.keys().filter(|key| !now.contains_key(*key) && *key != "daemon");
    let mut lines: Vec<String> = gone.map(|key| format!("{key}: over")).collect();
    let new = now.iter().filter(|(key, text)| known.get(*key) != Some(text));
    lines.extend(new.map(|(key, text)| format!("{key}: {text}")));
    *known = now;
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_its_screen() {
        let style = Style {
            color: false,
            columns: Some(40),
        };
        let long = "which is longer than this screen is wide";
        let lines: Vec<Line> = (0..9).map(|number| Line::from(format!("line {number} {long}"))).collect();
        for (rows, shown, hidden) in [(24, 18, ""), (10, 8, "10 lines more; "), (2, 1, "17 lines more; ")] {
            let frame = frame(&lines, "Ctrl-C", style, rows);
            assert!(frame.starts_with("\x1b[H") && frame.ends_with("\x1b[K\x1b[J"));
            let text: Vec<&str> = frame.split("\x1b[K\n").collect();
            assert_eq!(text.len(), shown + 2, "{rows}");
            assert!(text[shown + 1].starts_with(&format!("{hidden}Ctrl-C")), "{rows}: {frame:?}");
        }
    }

    #[test]
    fn only_changes_are_told() {
        let mut known = BTreeMap::new();
        let mut view = super::draw::tests::rolling();
        assert_eq!(changes(&mut known, &view).len(), 8);
        assert!(changes(&mut known, &view).is_empty());
        view.t += 60_000;
        assert!(changes(&mut known, &view).is_empty(), "time alone is no change");
        if let Some(attempt) = &mut view.workloads[0].units[0].attempt {
            attempt.weight = 5_000;
        }
        view.workloads[0].waiting = None;
        let told = changes(&mut known, &view);
        assert!(
            told.iter()
                .any(|line| line.starts_with("main/shop@site-a") && line.contains("at 50%")),
            "{told:?}"
        );
    }
}
