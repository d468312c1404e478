//! Reads the corpus. One file for each class of harm, `NN-NAME.wat` and `NN-NAME.json`.
//!
//! In a `.wat` file each entry begins with `;; what: ...`, then `;; ends: ...`, then perhaps more `;; KEY: VALUE`, then fields
//! that are put into a plugin's core module (`$mine` takes the place of `observe`, `$allocate` that of `cabi_realloc`), or,
//! with `;; as: component`, the whole text. In a `.json` file an entry is what the plugin of `tests/hostile/plugin` is told.

use crate::forge::Recipe;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const DEADLINE_MS: u64 = 200;
/// For what has its own end: a loaded machine must not end it first.
const PATIENT_MS: u64 = 20_000;

pub struct Entry {
    pub class: String,
    pub what: String,
    pub end: End,
    pub harm: Harm,
    pub verbs: Vec<String>,
    pub deadline: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// One of these classes of failure, with a message that holds the text.
    Fails(Vec<String>, String),
    /// The plugin's answer, or the host's for it, is a fault that says so.
    Faults(String),
    /// It is not loaded, and the error says so.
    Refused(String),
    /// The call ends well, and the plugin tells what it was told.
    Says(String),
    Well,
}

pub enum Harm {
    Bytes(Vec<u8>),
    Component(Recipe),
    Ops(Value),
    Probe(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    what: String,
    ends: String,
    #[serde(default)]
    ops: Value,
    /// The address of an instance, where the operator grants every network for probes.
    #[serde(default)]
    probe: Option<String>,
    #[serde(default)]
    verb: Option<String>,
}

impl End {
    fn read(text: &str) -> Self {
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        match kind {
            "well" => End::Well,
            "refused" => End::Refused(rest.into()),
            "says" => End::Says(rest.into()),
            "faults" => End::Faults(rest.into()),
            "fails" => {
                let (classes, saying) = rest.split_once(" saying ").unwrap_or((rest, ""));
                End::Fails(classes.split(" or ").map(str::to_owned).collect(), saying.into())
            }
            _ => panic!("{text:?} is no end"),
        }
    }

    fn deadline(&self) -> Duration {
        let by_clock = matches!(self, End::Fails(classes, _) if classes.iter().any(|class| class == "deadline"));
        Duration::from_millis(if by_clock { DEADLINE_MS } else { PATIENT_MS })
    }
}

pub fn read(folder: &Path) -> Vec<Entry> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .flat_map(|file| {
            let text = std::fs::read_to_string(file).unwrap();
            let class = file.file_stem().unwrap().to_str().unwrap();
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("wat") => text.split(";; what: ").skip(1).map(|one| written(class, one)).collect(),
                Some("json") => {
                    let told: Vec<Told> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{class}: {error}"));
                    told.into_iter().map(|one| of_ops(class, one)).collect::<Vec<_>>()
                }
                _ => panic!("{} is neither .wat nor .json", file.display()),
            }
        })
        .collect()
}

fn of_ops(class: &str, told: Told) -> Entry {
    let end = End::read(&told.ends);
    let verb = told.verb.unwrap_or_else(|| "observe".into());
    let verbs = match verb.as_str() {
        "every" => crate::lab::VERBS.map(str::to_owned).to_vec(),
        _ => vec![verb],
    };
    Entry {
        class: class.into(),
        what: told.what,
        deadline: end.deadline(),
        end,
        harm: told.probe.map_or(Harm::Ops(told.ops), Harm::Probe),
        verbs,
    }
}

fn written(class: &str, text: &str) -> Entry {
    let (what, rest) = text.split_once('\n').unwrap();
    let mut recipe = Recipe::default();
    let (mut end, mut whole, mut verbs) = (End::Well, false, vec!["observe".to_owned()]);
    for line in rest.lines() {
        let Some((key, value)) = line.strip_prefix(";; ").and_then(|line| line.split_once(": ")) else {
            recipe.fields.push_str(line);
            recipe.fields.push('\n');
            continue;
        };
        match key {
            "ends" => end = End::read(value),
            "as" => whole = value == "component",
            "import" => recipe.import = Some(value.into()),
            "wit" => {
                recipe.wit = value
                    .split_once("=>")
                    .map(|(from, to)| (from.trim().into(), to.trim().into()))
            }
            "cut" => recipe.cut = true,
            "times" => {
                let (count, field) = value.split_once(' ').unwrap();
                recipe.fields.push_str(&field.repeat(count.parse().unwrap()));
            }
            "verb" if value == "every" => verbs = crate::lab::REQUIRED_VERBS.map(str::to_owned).to_vec(),
            _ => panic!("{class}: {what}: {line:?}"),
        }
    }
    let harm = if whole {
        let fields = recipe.fields.trim();
        // What is no text format is what it says.
        Harm::Bytes(wat::parse_str(fields).unwrap_or_else(|_| fields.into()))
    } else {
        Harm::Component(recipe)
    };
    Entry {
        class: class.into(),
        what: what.into(),
        deadline: end.deadline(),
        end,
        harm,
        verbs,
    }
}

/// As Markdown.
pub fn table(entries: &[Entry]) -> String {
    let mut text = String::from("| class | what it does | how it ends |\n|---|---|---|\n");
    for entry in entries {
        let end = match &entry.end {
            End::Fails(classes, saying) => {
                let links = classes
                    .iter()
                    .map(|class| format!("[{class}](../../sdk/FAILURES.md#{class})"));
                let links = links.collect::<Vec<_>>().join(" or ");
                if saying.is_empty() {
                    links
                } else {
                    format!("{links}: `{saying}`")
                }
            }
            End::Faults(part) => format!("a fault: `{part}`"),
            End::Refused(part) if matches!(entry.harm, Harm::Probe(_)) => format!("not dialled: `{part}`"),
            End::Refused(part) => format!("not loaded: `{part}`"),
            End::Says(part) => format!("told: `{part}`"),
            End::Well => "nothing comes of it".into(),
        };
        let verb = if entry.verbs.len() > 1 { ", in every export" } else { "" };
        text.push_str(&format!(
            "| {} | {}{verb} | {} |\n",
            entry.class,
            entry.what,
            end.replace('|', "\\|")
        ));
    }
    text
}
