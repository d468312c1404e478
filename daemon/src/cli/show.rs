//! How output looks: colour only for a terminal without NO_COLOR, tables that fit, text that cannot forge anything.

use serde_json::Value;
use std::io::{IsTerminal, Write};

pub struct Out {
    pub is_json: bool,
    color: bool,
    width: usize,
}

#[derive(Clone, Copy)]
pub enum Tone {
    Plain,
    Good,
    Bad,
    Warn,
    Dim,
    Bold,
}

impl Out {
    pub fn new(is_json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let width = columns.unwrap_or(if terminal { 100 } else { 160 });
        Self {
            is_json,
            color: terminal && !no_color,
            width: width.clamp(40, 400),
        }
    }

    pub fn json(&self, value: &Value) {
        self.line(&serde_json::to_string_pretty(value).unwrap_or_default());
    }

    /// A line of data. A reader that went away is no error of ours.
    pub fn line(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        if writeln!(stdout, "{text}").is_err() {
            std::process::exit(0);
        }
    }

    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Warn => "33",
            Tone::Dim => "2",
            Tone::Bold => "1",
        };
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Columns as wide as they need be; the last one is cut to what is left.
    pub fn table(&self, header: &[&str], rows: &[Vec<String>]) {
        let clean = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
        let widths: Vec<usize> = (0..header.len())
            .map(|column| {
                rows.iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count())
                    .chain([header[column].len()])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let show = |cells: &[String], tone| {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate() {
                if column + 1 == cells.len() {
                    let left = self.width.saturating_sub(line.chars().count()).max(20);
                    let cut: String = if cell.chars().count() > left {
                        cell.chars().take(left - 1).chain(['…']).collect()
                    } else {
                        cell.clone()
                    };
                    line.push_str(&cut);
                } else {
                    line.push_str(&format!("{cell:width$}  ", width = widths[column]));
                }
            }
            self.line(&self.paint(tone, line.trim_end()));
        };
        show(&header.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), Tone::Dim);
        rows.iter().for_each(|row| show(row, Tone::Plain));
    }
}
