//! How output looks: colour only for a terminal that wants it, lines and tables that fit, text that cannot forge
//! anything. Whatever comes from outside loses its control characters here, on every path.

use super::error::CliError;
use serde_json::Value;
use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use unicode_width::UnicodeWidthChar;

/// Where neither the terminal nor COLUMNS says how wide it is.
const COLUMNS_DEFAULT: usize = 80;
const COLUMNS_MIN: usize = 20;
/// The last column of a table gets at least so much, or the table is stacked.
const LAST_COLUMN_MIN: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Bad,
    Warn,
    Dim,
    Bold,
}

/// A line of text in tones. What is put in is cleaned.
#[derive(Clone, Default)]
pub struct Line {
    spans: Vec<(Tone, String)>,
    /// Where it goes on when it is wrapped.
    hang: usize,
}

impl Line {
    pub fn of(tone: Tone, text: &str) -> Self {
        let indent = text.chars().take_while(|c| *c == ' ').count();
        Self {
            spans: vec![(tone, clean(text))],
            hang: indent + 2,
        }
    }

    pub fn and(mut self, tone: Tone, text: &str) -> Self {
        self.spans.push((tone, clean(text)));
        self
    }

    pub fn hang(mut self, hang: usize) -> Self {
        self.hang = hang;
        self
    }
}

impl From<&str> for Line {
    fn from(text: &str) -> Self {
        Self::of(Tone::Plain, text)
    }
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        Self::of(Tone::Plain, &text)
    }
}

/// What can be a line of output.
pub trait Shown {
    fn as_line(&self) -> Line;
}

impl Shown for Line {
    fn as_line(&self) -> Line {
        self.clone()
    }
}

impl Shown for str {
    fn as_line(&self) -> Line {
        self.into()
    }
}

impl Shown for String {
    fn as_line(&self) -> Line {
        self.as_str().into()
    }
}

/// Without control characters, and without those that turn the direction of text around.
pub fn clean(text: &str) -> String {
    let forges = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if forges(c) { ' ' } else { c }).collect()
}

fn width_of(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub color: bool,
    /// None: lines are as long as they are, for programs that read them.
    pub columns: Option<usize>,
}

impl Style {
    /// What standard output is, and what the environment says.
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let columns = if is_terminal {
            terminal_size().map(|(columns, _)| columns).or(told).or(Some(COLUMNS_DEFAULT))
        } else {
            told
        };
        Self {
            color: is_terminal && !refuses_color(),
            columns: columns.map(|columns| columns.max(COLUMNS_MIN)),
        }
    }

    /// The line, wrapped between words where it is longer than the terminal is wide.
    pub fn render(&self, line: &Line) -> String {
        let chars: Vec<Painted> = line
            .spans
            .iter()
            .flat_map(|(tone, text)| text.chars().map(|c| (*tone, c)))
            .collect();
        let Some(columns) = self.columns else {
            return self.paint(&chars);
        };
        let hang = line.hang.min(columns / 2);
        let mut rows = Vec::new();
        let mut rest = &chars[..];
        loop {
            let room = if rows.is_empty() { columns } else { columns - hang };
            let (row, left) = cut(rest, room, if rows.is_empty() { line.hang } else { 0 });
            let indent = if rows.is_empty() { 0 } else { hang };
            rows.push(format!("{:indent$}{}", "", self.paint(row)));
            if left.is_empty() {
                return rows.join("\n");
            }
            rest = left;
        }
    }

    fn paint(&self, chars: &[Painted]) -> String {
        let end = chars.iter().rposition(|(_, c)| *c != ' ').map_or(0, |at| at + 1);
        let mut text = String::new();
        for run in chars[..end].chunk_by(|(a, _), (b, _)| a == b) {
            let plain = run.iter().map(|(_, c)| c);
            match code(run[0].0).filter(|_| self.color) {
                Some(code) => {
                    text.push_str(&format!("\x1b[{code}m"));
                    text.extend(plain);
                    text.push_str("\x1b[0m");
                }
                None => text.extend(plain),
            }
        }
        text
    }
}

fn code(tone: Tone) -> Option<&'static str> {
    match tone {
        Tone::Plain => None,
        Tone::Good => Some("32"),
        Tone::Bad => Some("31"),
        Tone::Warn => Some("33"),
        Tone::Dim => Some("2"),
        Tone::Bold => Some("1"),
    }
}

type Painted = (Tone, char);

/// What fits into `room`, and what is left without the space between. No break before `indent`.
fn cut(chars: &[Painted], room: usize, indent: usize) -> (&[Painted], &[Painted]) {
    let mut used = 0;
    let mut space = None;
    for (at, (_, c)) in chars.iter().enumerate() {
        used += c.width().unwrap_or(0);
        if *c == ' ' && at > indent {
            space = Some(at);
        }
        if used > room {
            // A word that is longer than a whole row is cut where the row ends.
            let end = space.unwrap_or(at.max(1));
            let skip = usize::from(space.is_some());
            return (&chars[..end], &chars[end + skip..]);
        }
    }
    (chars, &[])
}

pub fn refuses_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || is_dumb()
}

/// A terminal that knows no escape sequences.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Columns and rows of the terminal at standard output.
pub fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

pub struct Out {
    pub is_json: bool,
    style: Style,
    /// The first failure to write: nothing is written after it.
    failed: RefCell<Option<io::Error>>,
}

impl Out {
    pub fn new(is_json: bool) -> Self {
        Self {
            is_json,
            style: Style::of_stdout(),
            failed: RefCell::new(None),
        }
    }

    pub fn json(&self, value: &Value) {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        self.write(&format!("{}\n", escape(&text)));
    }

    /// JSON on one line, for streams of it.
    pub fn json_line(&self, value: &Value) {
        self.write(&format!("{}\n", escape(&value.to_string())));
    }

    /// A line of data.
    pub fn line(&self, line: &(impl Shown + ?Sized)) {
        self.write(&format!("{}\n", self.style.render(&line.as_line())));
    }

    /// Text of ours that has line breaks of its own; never wrapped, so that carets stay where they belong.
    pub fn lines(&self, text: &str) {
        for line in text.lines() {
            self.write(&format!("{}\n", clean(line)));
        }
    }

    pub fn paint(&self, tone: Tone, text: &str) -> Line {
        Line::of(tone, text)
    }

    /// Columns as wide as they need be; the last one is wrapped, and what does not fit at all is stacked.
    pub fn table(&self, header: &[&str], rows: &[Vec<String>]) {
        table(header, rows, self.style.columns)
            .iter()
            .for_each(|line| self.line(line));
    }

    /// Nobody reads any more.
    pub fn has_failed(&self) -> bool {
        self.failed.borrow().is_some()
    }

    /// Text or escape sequences of our own making, as they are.
    pub fn write(&self, text: &str) {
        if self.failed.borrow().is_some() {
            return;
        }
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        if let Err(error) = written {
            *self.failed.borrow_mut() = Some(error);
        }
    }

    /// Nobody can read what is written any more.
    pub fn is_closed(&self) -> bool {
        self.failed.borrow().is_some()
    }

    /// A reader that went away is no error of ours; any other failure to write is.
    pub fn finish(&self, code: ExitCode) -> ExitCode {
        match self.failed.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => output_failed(error),
            _ => code,
        }
    }
}

pub fn output_failed(error: io::Error) -> ExitCode {
    CliError::io("the output cannot be written", error).report()
}

/// JSON lets DEL and the C1 controls through; terminals act on them.
fn escape(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", c as u32)),
            c => text.push(c),
        }
    }
    text
}

fn table(header: &[&str], rows: &[Vec<String>], columns: Option<usize>) -> Vec<Line> {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| width_of(cell));
            cells.chain([header[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let fixed: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
    if columns.is_some_and(|columns| fixed + LAST_COLUMN_MIN.min(widths.last().copied().unwrap_or(0)) > columns) {
        return stacked(header, &rows);
    }
    let line = |cells: &[String], tone: Tone| {
        let mut text = String::new();
        for (column, cell) in cells.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < cells.len() {
                text.extend(std::iter::repeat_n(' ', widths[column].saturating_sub(width_of(cell)) + 2));
            }
        }
        Line::of(tone, &text).hang(fixed)
    };
    let names: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    let mut lines = vec![line(&names, Tone::Dim)];
    lines.extend(rows.iter().map(|row| line(row, Tone::Plain)));
    lines
}

/// One line for each cell, for terminals that are too narrow for columns.
fn stacked(header: &[&str], rows: &[Vec<String>]) -> Vec<Line> {
    let names = header.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            lines.push(Line::default());
        }
        let cells = header.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
        lines.extend(cells.map(|(name, cell)| {
            Line::of(Tone::Dim, &format!("{name:names$}  "))
                .and(Tone::Plain, cell)
                .hang(names + 2)
        }));
    }
    lines
}

/// All lines as one text, as a terminal of this style shows it.
#[cfg(test)]
pub fn text_of(lines: &[Line], style: Style) -> String {
    lines.iter().map(|line| style.render(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Style = Style {
        color: false,
        columns: None,
    };

    fn narrow(columns: usize) -> Style {
        Style {
            color: false,
            columns: Some(columns),
        }
    }

    #[test]
    fn nothing_from_outside_controls_the_terminal() {
        for (text, shown) in [
            ("a\x1b[31mb", "a [31mb"),
            ("a\nWanted  b", "a Wanted  b"),
            ("a\r\tb\u{7f}\u{9b}31mc", "a  b  31mc"),
            ("a\u{202e}b\u{2066}c", "a b c"),
            ("plain ü 漢", "plain ü 漢"),
        ] {
            assert_eq!(WIDE.render(&text.into()), shown);
            assert_eq!(WIDE.render(&Line::default().and(Tone::Bad, text)), shown);
            let rows = [vec![text.to_owned(), text.to_owned()]];
            let lines = text_of(&table(&["A", "B"], &rows, None), WIDE);
            assert_eq!(lines.lines().count(), 2, "{lines:?}");
            assert!(!lines.replace('\n', "").contains(|c: char| c.is_control()));
        }
        assert_eq!(escape("\"\u{9b}\u{7f}ü\""), "\"\\u009b\\u007fü\"");
    }

    #[test]
    fn colours_are_ours_alone() {
        let style = Style {
            color: true,
            columns: None,
        };
        let line = Line::of(Tone::Bad, "\x1b[32mno").and(Tone::Plain, " yes");
        assert_eq!(style.render(&line), "\x1b[31m [32mno\x1b[0m yes");
    }

    #[test]
    fn long_lines_are_wrapped_between_words() {
        let line = Line::from("  Wanted   release abc of commit def: rolling");
        insta::assert_snapshot!(narrow(24).render(&line), @"
        Wanted   release abc
          of commit def:
          rolling
        ");
        let word = Line::from("  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbb");
        insta::assert_snapshot!(narrow(20).render(&word), @"
        aaaaaaaaaaaaaaaaaa
          aaaaaaaaaaaaaaaa
          aa bbb
        ");
        let wide = Line::from("漢漢漢 漢漢漢漢 漢漢漢");
        assert!(narrow(20).render(&wide).lines().all(|row| width_of(row) <= 20));
    }

    #[test]
    fn tables_wrap_and_then_stack() {
        let rows = [
            vec![
                "1".into(),
                "rollout".into(),
                "the release is rolled out to all targets now".into(),
            ],
            vec!["12".into(), "pin".into(), String::new()],
        ];
        let header = ["SEQ", "KIND", "WHAT"];
        insta::assert_snapshot!(text_of(&table(&header, &rows, None), WIDE), @"
        SEQ  KIND     WHAT
        1    rollout  the release is rolled out to all targets now
        12   pin
        ");
        insta::assert_snapshot!(text_of(&table(&header, &rows, Some(36)), narrow(36)), @"
        SEQ  KIND     WHAT
        1    rollout  the release is rolled
                      out to all targets now
        12   pin
        ");
        insta::assert_snapshot!(text_of(&table(&header, &rows, Some(24)), narrow(24)), @"
        SEQ   1
        KIND  rollout
        WHAT  the release is
              rolled out to all
              targets now

        SEQ   12
        KIND  pin
        ");
    }
}
