//! YAML with positions: a tree of nodes over the event stream, where serde_yaml says what a plain scalar means.
//!
//! What makes YAML dangerous is refused rather than bounded: anchors and aliases, tags, merge keys, keys that are not text,
//! and the same key twice.

use super::problem::{Problem, Severity};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::Value;
use std::collections::BTreeSet;

pub const FILE_MAX_BYTES: usize = 1 << 20;
pub const DOCUMENTS_MAX: usize = 1_000;
const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 100_000;
const KEYS_MAX: usize = 10_000;
/// Beyond it two readers of the same JSON number may see different numbers.
const INTEGER_MAX: u64 = 1 << 53;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub line: u32,
    pub column: u32,
    pub width: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub place: Place,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// What it means, and as it was written. A quoted one is text, whatever it looks like.
    Scalar(Value, String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub text: String,
    pub place: Place,
}

impl Node {
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value, _) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Content::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, node)| (key.text.clone(), node.to_value()))
                    .collect(),
            ),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(one, _)| one.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The place of the deepest node that a JSON pointer reaches.
    pub fn locate(&self, pointer: &str) -> Place {
        let mut node = self;
        let mut place = self.place;
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let next = match &node.content {
                Content::Map(entries) => entries
                    .iter()
                    .find(|(key, _)| key.text == part)
                    .map(|(key, node)| (key.place, node)),
                Content::List(items) => part
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index))
                    .map(|node| (node.place, node)),
                Content::Scalar(..) => None,
            };
            match next {
                Some((at, inner)) => (place, node) = (at, inner),
                None => break,
            }
        }
        place
    }
}

/// What a file's bytes are: its documents, and what is wrong. A file with a problem counts as not parsed.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    pub documents: Vec<Node>,
    /// Indexes of documents that were read to their end, but not as they were meant.
    pub unsound: BTreeSet<usize>,
    pub problems: Vec<Problem>,
}

pub fn read(file: &str, bytes: &[u8]) -> Stream {
    match text_of(file, bytes) {
        Ok(text) => read_text(file, text),
        Err(problem) => Stream {
            problems: vec![problem],
            ..Stream::default()
        },
    }
}

/// The text, if every byte of it would be read.
fn text_of<'b>(file: &str, bytes: &'b [u8]) -> Result<&'b str, Problem> {
    let place = |at: usize| {
        let before = String::from_utf8_lossy(&bytes[..at]);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            line: before.bytes().filter(|byte| *byte == b'\n').count() as u32 + 1,
            column: before[line_start..].chars().count() as u32 + 1,
            width: 1,
        }
    };
    if bytes.len() > FILE_MAX_BYTES {
        let message = format!("the file has {} bytes; the limit is {FILE_MAX_BYTES}", bytes.len());
        return Err(problem(file, "file-too-large", message, Some("split it"), place(0)));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        problem(
            file,
            "not-utf8",
            format!("byte {at} is not UTF-8"),
            Some("save the file as UTF-8"),
            place(at),
        )
    })?;
    // The parser takes a NUL for the end of the file: what follows would be absent without a word.
    if let Some(at) = text.find('\0') {
        return Err(problem(
            file,
            "nul",
            format!("byte {at} is NUL, which no text has"),
            Some("save the file as text again"),
            place(at),
        ));
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn read_text(file: &str, text: &str) -> Stream {
    let mut builder = Builder {
        file,
        nodes: 0,
        stack: Vec::new(),
        stream: Stream::default(),
    };
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => {
                if !builder.take(event, span) {
                    break;
                }
            }
            Err(error) => {
                let marker = error.marker();
                let place = Place {
                    line: marker.line() as u32,
                    column: marker.col() as u32 + 1,
                    width: 1,
                };
                // The parser looks ahead, so it meets its own limit of nesting before ours is met.
                if error.info().contains("recursion limit") {
                    builder.too_deep(place);
                } else if error.info().contains("unknown anchor") {
                    builder.alias(place);
                } else {
                    let message = format!("this is not valid YAML: {}", error.info());
                    let hint = "look here and one line above: indentation, a space after the colon, an open quote or bracket";
                    builder.problem("yaml-syntax", message, Some(hint), place);
                }
                break;
            }
        }
    }
    builder.stream
}

fn problem(file: &str, code: &'static str, message: String, hint: Option<&str>, place: Place) -> Problem {
    Problem {
        code,
        severity: Severity::Error,
        file: file.to_owned(),
        line: place.line,
        column: place.column,
        width: place.width,
        message,
        hint: hint.map(str::to_owned),
    }
}

enum Open {
    List(Vec<Node>, Place),
    Map(OpenMap, Place),
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<(Key, Node)>,
    seen: BTreeSet<String>,
    /// A key that waits for its value.
    pending: Option<Key>,
}

struct Builder<'a> {
    file: &'a str,
    nodes: usize,
    stack: Vec<Open>,
    stream: Stream,
}

impl Builder<'_> {
    fn problem(&mut self, code: &'static str, message: String, hint: Option<&str>, place: Place) {
        self.stream.unsound.insert(self.stream.documents.len());
        self.stream.problems.push(problem(self.file, code, message, hint, place));
    }

    fn alias(&mut self, place: Place) {
        let message = "anchors, aliases and tags are not read in a manifest".to_owned();
        self.problem(
            "alias",
            message,
            Some("write the value out; quote a text that begins with *, & or !"),
            place,
        );
    }

    fn too_deep(&mut self, place: Place) {
        let message = format!("values are nested deeper than {DEPTH_MAX}");
        self.problem(
            "too-deep",
            message,
            Some("is a bracket not closed? a deep value can go into a config file"),
            place,
        );
    }

    /// False: nothing more can be read.
    fn take(&mut self, event: Event<'_>, span: Span) -> bool {
        let same_line = span.end.line() == span.start.line();
        let width = if same_line {
            span.end.col().saturating_sub(span.start.col()).max(1)
        } else {
            1
        };
        let place = Place {
            line: span.start.line() as u32,
            column: span.start.col() as u32 + 1,
            width: width as u32,
        };
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            self.problem(
                "too-many-nodes",
                format!("the file has more than {NODES_MAX} values"),
                Some("split it"),
                place,
            );
            return false;
        }
        match event {
            Event::DocumentStart(_) if self.stream.documents.len() >= DOCUMENTS_MAX => {
                self.problem(
                    "too-many-documents",
                    format!("the file has more than {DOCUMENTS_MAX} documents"),
                    Some("split it"),
                    place,
                );
                false
            }
            Event::Alias(_) => {
                self.problem(
                    "alias",
                    "anchors and aliases are not read in a manifest".into(),
                    Some("write the value out"),
                    place,
                );
                false
            }
            Event::Scalar(text, style, anchor, tag) => {
                if anchor != 0 || tag.is_some() {
                    self.alias(place);
                    return false;
                }
                let plain = matches!(style, ScalarStyle::Plain);
                self.scalar(text.into_owned(), plain, place)
            }
            Event::SequenceStart(anchor, tag) => self.open(Open::List(Vec::new(), place), anchor != 0 || tag.is_some(), place),
            Event::MappingStart(anchor, tag) => {
                self.open(Open::Map(OpenMap::default(), place), anchor != 0 || tag.is_some(), place)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(items, place)) => self.value(Node {
                    place,
                    content: Content::List(items),
                }),
                Some(Open::Map(map, place)) => self.value(Node {
                    place,
                    content: Content::Map(map.entries),
                }),
                None => false,
            },
            _ => true,
        }
    }

    fn open(&mut self, open: Open, decorated: bool, place: Place) -> bool {
        if decorated {
            self.alias(place);
            return false;
        }
        if let Some(Open::Map(OpenMap { pending: None, .. }, _)) = self.stack.last() {
            let hint = "a value that holds ${...} or {{...}} needs quotes";
            self.problem("key-type", "a key is text, not a list or a map".into(), Some(hint), place);
            return false;
        }
        if self.stack.len() >= DEPTH_MAX {
            self.too_deep(place);
            return false;
        }
        self.stack.push(open);
        true
    }

    fn scalar(&mut self, text: String, plain: bool, place: Place) -> bool {
        if let Some(Open::Map(map @ OpenMap { pending: None, .. }, _)) = self.stack.last_mut() {
            let repeated = !map.seen.insert(text.clone());
            let too_many = map.seen.len() > KEYS_MAX;
            let merge = plain && text == "<<";
            map.pending = Some(Key {
                text: text.clone(),
                place,
            });
            if repeated {
                let message = format!("{text:?} is set twice");
                self.problem("duplicate-key", message, Some("keep one of them"), place);
            }
            if merge {
                let message = "merge keys are not read in a manifest".into();
                self.problem("alias", message, Some("write the values out"), place);
            }
            if too_many {
                let message = format!("the map has more than {KEYS_MAX} keys");
                self.problem(
                    "too-many-keys",
                    message,
                    Some("split it, or put it into a config file"),
                    place,
                );
            }
            return !too_many;
        }
        let value = match plain.then(|| plain_value(&text)) {
            Some(Ok(value)) => value,
            Some(Err(message)) => {
                let hint = "quote it, if it is text";
                self.problem("number", format!("{text} {message}"), Some(hint), place);
                Value::Null
            }
            None => Value::String(text.clone()),
        };
        self.value(Node {
            place,
            content: Content::Scalar(value, text),
        })
    }

    fn value(&mut self, node: Node) -> bool {
        match self.stack.last_mut() {
            None => self.stream.documents.push(node),
            Some(Open::List(items, _)) => items.push(node),
            Some(Open::Map(map, _)) => {
                if let Some(key) = map.pending.take() {
                    map.entries.push((key, node));
                }
            }
        }
        true
    }
}

/// YAML's rules for plain scalars are serde_yaml's business; a plain scalar alone is a whole document to it. Err: a number
/// that a release's JSON cannot hold.
fn plain_value(text: &str) -> Result<Value, String> {
    let too_large = || Err(format!("is beyond {INTEGER_MAX}, which a JSON number cannot hold exactly"));
    let not_finite = || Err("is not a finite number, which JSON does not have".to_owned());
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = match serde_yaml::from_str::<serde_yaml::Value>(text) {
        Ok(serde_yaml::Value::Bool(flag)) => return Ok(flag.into()),
        Ok(serde_yaml::Value::Null) => return Ok(Value::Null),
        Ok(serde_yaml::Value::Number(number)) => number,
        // More than 64 bits are an error to it, and a float without end is a text.
        Err(_) if digits.starts_with(|c: char| c.is_ascii_digit()) => return too_large(),
        _ if digits.contains(|c: char| c.is_ascii_digit()) && text.parse::<f64>().is_ok_and(f64::is_infinite) => {
            return not_finite();
        }
        _ => return Ok(text.into()),
    };
    let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
    match (magnitude, number.as_f64()) {
        (Some(magnitude), _) if magnitude > INTEGER_MAX => too_large(),
        (Some(_), _) => Ok(number.as_u64().map_or_else(|| number.as_i64().into(), Value::from)),
        (None, _) if is_decimal => too_large(),
        (None, Some(float)) if float.is_finite() => Ok(float.into()),
        (None, _) => not_finite(),
    }
}
