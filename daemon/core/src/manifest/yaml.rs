//! YAML with positions: a tree of nodes over the event stream, where serde_yaml says what a plain scalar means.
//!
//! What makes YAML dangerous is refused rather than bounded: anchors and aliases, tags, merge keys, keys that are not text,
//! and the same key twice.

use super::problem::{Problem, Severity};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::Value;

pub const FILE_MAX_BYTES: usize = 1 << 20;
pub const DOCUMENTS_MAX: usize = 1_000;
const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 100_000;

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
    /// Whether it was quoted: then it is text, whatever it looks like.
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

/// The documents that could be read, and what is wrong. A file with a problem here counts as not parsed.
pub fn read(file: &str, bytes: &[u8]) -> (Vec<Node>, Vec<Problem>) {
    let fail = |code, message: String, hint: Option<&str>, place| (Vec::new(), vec![problem(file, code, message, hint, place)]);
    let start = Place {
        line: 1,
        column: 1,
        width: 1,
    };
    if bytes.len() > FILE_MAX_BYTES {
        return fail(
            "file-too-large",
            format!("the file has {} bytes; the limit is {FILE_MAX_BYTES}", bytes.len()),
            Some("split it"),
            start,
        );
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() as u32 + 1;
            return fail(
                "not-utf8",
                format!("byte {} is not UTF-8", error.valid_up_to()),
                Some("save the file as UTF-8"),
                Place {
                    line,
                    column: 1,
                    width: 1,
                },
            );
        }
    };
    let mut builder = Builder {
        file,
        nodes: 0,
        problems: Vec::new(),
        stack: Vec::new(),
        documents: Vec::new(),
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
                builder.problem(
                    "yaml-syntax",
                    format!("this is not valid YAML: {}", error.info()),
                    None,
                    place,
                );
                break;
            }
        }
    }
    (builder.documents, builder.problems)
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
    Map(Vec<(Key, Node)>, Place, Option<Key>),
}

struct Builder<'a> {
    file: &'a str,
    nodes: usize,
    problems: Vec<Problem>,
    stack: Vec<Open>,
    documents: Vec<Node>,
}

impl Builder<'_> {
    fn problem(&mut self, code: &'static str, message: String, hint: Option<&str>, place: Place) {
        self.problems.push(problem(self.file, code, message, hint, place));
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
            Event::DocumentStart(_) if self.documents.len() >= DOCUMENTS_MAX => {
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
                    self.problem(
                        "alias",
                        "anchors, aliases and tags are not read in a manifest".into(),
                        Some("write the value out"),
                        place,
                    );
                    return false;
                }
                let plain = matches!(style, ScalarStyle::Plain);
                self.scalar(text.into_owned(), plain, place)
            }
            Event::SequenceStart(anchor, tag) => self.open(Open::List(Vec::new(), place), anchor != 0 || tag.is_some(), place),
            Event::MappingStart(anchor, tag) => {
                self.open(Open::Map(Vec::new(), place, None), anchor != 0 || tag.is_some(), place)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(items, place)) => self.value(Node {
                    place,
                    content: Content::List(items),
                }),
                Some(Open::Map(entries, place, _)) => self.value(Node {
                    place,
                    content: Content::Map(entries),
                }),
                None => false,
            },
            _ => true,
        }
    }

    fn open(&mut self, open: Open, decorated: bool, place: Place) -> bool {
        if decorated {
            self.problem(
                "alias",
                "anchors, aliases and tags are not read in a manifest".into(),
                Some("write the value out"),
                place,
            );
            return false;
        }
        if let Some(Open::Map(_, _, None)) = self.stack.last() {
            self.problem("key-type", "a key is text, not a list or a map".into(), None, place);
            return false;
        }
        if self.stack.len() >= DEPTH_MAX {
            self.problem("too-deep", format!("values are nested deeper than {DEPTH_MAX}"), None, place);
            return false;
        }
        self.stack.push(open);
        true
    }

    fn scalar(&mut self, text: String, plain: bool, place: Place) -> bool {
        if let Some(Open::Map(entries, _, pending @ None)) = self.stack.last_mut() {
            let repeated = entries.iter().any(|(key, _)| key.text == text);
            let merge = plain && text == "<<";
            *pending = Some(Key {
                text: text.clone(),
                place,
            });
            if repeated {
                self.problem(
                    "duplicate-key",
                    format!("{text:?} is set twice"),
                    Some("keep one of them"),
                    place,
                );
            }
            if merge {
                self.problem(
                    "alias",
                    "merge keys are not read in a manifest".into(),
                    Some("write the values out"),
                    place,
                );
            }
            return true;
        }
        // YAML's rules for plain scalars are serde_yaml's business; a plain scalar alone is a whole document to it.
        let value = if plain {
            serde_yaml::from_str::<Value>(&text)
                .ok()
                .filter(|value| !value.is_array() && !value.is_object())
        } else {
            None
        };
        let value = value.unwrap_or_else(|| Value::String(text.clone()));
        self.value(Node {
            place,
            content: Content::Scalar(value, text),
        })
    }

    fn value(&mut self, node: Node) -> bool {
        match self.stack.last_mut() {
            None => self.documents.push(node),
            Some(Open::List(items, _)) => items.push(node),
            Some(Open::Map(entries, _, pending)) => {
                if let Some(key) = pending.take() {
                    entries.push((key, node));
                }
            }
        }
        true
    }
}
