//! Does a document have the shape that the table says? Every departure from it is a problem at its place.

use super::super::fields::{Absent, Kind, Object, nearest, object_of, unknown_field_hint};
use super::super::quantity::parse_duration_ms;
use super::super::yaml::{Content, Node};
use super::Reader;
use super::values::{count_of, percent};
use serde_json::Value;

const ENTRIES_MAX: usize = 1_000;

impl Reader<'_> {
    /// `node` is a map.
    pub(super) fn shape(&mut self, object: &str, node: &Node) {
        let Content::Map(entries) = &node.content else { return };
        let object = object_of(object);
        for (key, value) in entries {
            match object.fields.iter().find(|field| field.name == key.text) {
                Some(field) => {
                    let hint = format!("as in {}: {}", field.name, field.example);
                    self.value_shape(field.kind, field.name, &hint, value);
                }
                None => {
                    let hint = unknown_field_hint(object, &key.text);
                    self.problem("unknown-field", key.place, format!("unknown field {:?}", key.text), hint);
                }
            }
        }
        for field in object.fields.iter().filter(|field| field.absent == Absent::Refused) {
            if node.get(field.name).is_none() {
                let hint = format!("as in {}: {}", field.name, field.example);
                self.problem("missing", node.place, format!("{} is missing", field.name), hint);
            }
        }
        self.exactly_one(object, node);
    }

    fn exactly_one(&mut self, object: &Object, node: &Node) {
        let mut alternatives = object.fields.iter().filter(|field| object.one_of.contains(&field.name));
        let set = alternatives.clone().filter(|field| node.get(field.name).is_some()).count();
        if !object.one_of.is_empty() && set != 1 {
            let hint = match alternatives.next() {
                Some(first) if set == 0 => format!("as in {}: {}", first.name, first.example),
                _ => "keep one of them".to_owned(),
            };
            let message = format!("{} has exactly one of {}, not {set}", object.name, object.one_of.join(", "));
            self.problem("one-of", node.place, message, hint);
        }
    }

    /// The hint is about the whole field, also for what is in its list or map.
    fn value_shape(&mut self, kind: Kind, key: &str, hint: &str, node: &Node) {
        match (kind, &node.content) {
            (Kind::Text, Content::Scalar(Value::String(_), _)) | (Kind::Free, Content::Map(_)) => {}
            // `template:` with nothing behind it.
            (Kind::Free, Content::Scalar(Value::Null, _)) => {}
            (Kind::Text, Content::Scalar(Value::Null, _)) => self.problem("type", node.place, format!("{key} is empty"), hint),
            (Kind::Text, Content::Scalar(_, raw)) => {
                let message = format!("{key} is text, and {raw} is not");
                self.problem("type", node.place, message, format!("quote it: \"{raw}\""));
            }
            (Kind::Text, _) => self.problem("type", node.place, format!("{key} is text"), hint),
            (Kind::Choice(choices), content) => {
                let text = match content {
                    Content::Scalar(_, raw) => raw.as_str(),
                    _ => "",
                };
                if !choices.contains(&text) {
                    let message = format!("{key} is {}, not {text:?}", choices.join(" or "));
                    let near = nearest(text, choices.iter().copied());
                    self.problem(
                        "choice",
                        node.place,
                        message,
                        near.map_or(hint.to_owned(), |name| format!("did you mean {name:?}?")),
                    );
                }
            }
            (Kind::Int(least, most), content) => {
                let number = match content {
                    Content::Scalar(value, _) => value.as_u64(),
                    _ => None,
                };
                if number.is_none_or(|number| !(least..=most).contains(&number)) {
                    let message = format!("{key} is a whole number from {least} to {most}");
                    self.problem("type", node.place, message, hint);
                }
            }
            (Kind::Bool, Content::Scalar(Value::Bool(_), _)) => {}
            (Kind::Bool, _) => self.problem("type", node.place, format!("{key} is true or false"), hint),
            (Kind::Duration, Content::Scalar(_, raw)) => {
                if parse_duration_ms(raw).is_none() {
                    let message = format!("{raw:?} is not a duration of at most a year");
                    self.problem("duration", node.place, message, "as in 250ms, 30s, 5m, 1h30m");
                }
            }
            (Kind::Duration, _) => self.problem("type", node.place, format!("{key} is a duration"), hint),
            (Kind::Percent, _) if percent(node).is_some() => {}
            (Kind::Percent, Content::Scalar(Value::Number(number), _)) => {
                let message = format!("{key} is a percentage, and {number} is not");
                self.problem("percentage", node.place, message, format!("write {number}%"));
            }
            (Kind::Percent, _) => {
                let message = format!("{key} is a percentage from 0% to 100%");
                self.problem("percentage", node.place, message, "as in 25% or 12.5%");
            }
            (Kind::Count, _) if count_of(node).is_some() => {}
            (Kind::Count, _) => {
                let message = format!("{key} is a whole number up to 10000, or a percentage up to 100%");
                self.problem("count", node.place, message, "as in 1 or 25%");
            }
            (Kind::Object(name), Content::Map(_)) => self.shape(name, node),
            (Kind::List(inner), Content::List(items)) => {
                self.too_many(node.place, key, items.len(), ENTRIES_MAX);
                for item in items.iter().take(ENTRIES_MAX) {
                    self.item_shape(*inner, key, hint, item);
                }
            }
            (Kind::Map(inner), Content::Map(entries)) => {
                self.too_many(node.place, key, entries.len(), ENTRIES_MAX);
                for (name, value) in entries.iter().take(ENTRIES_MAX) {
                    self.value_shape(*inner, &name.text, hint, value);
                }
            }
            (Kind::Either(_, other), Content::Map(_)) => self.value_shape(*other, key, hint, node),
            (Kind::Either(one, _), _) => self.value_shape(*one, key, hint, node),
            (Kind::Object(_) | Kind::Map(_) | Kind::Free, _) => {
                self.problem("type", node.place, format!("{key} is a map"), hint);
            }
            (Kind::List(_), _) => self.problem("type", node.place, format!("{key} is a list"), hint),
        }
    }

    fn item_shape(&mut self, kind: Kind, key: &str, hint: &str, item: &Node) {
        match (kind, &item.content) {
            (Kind::Object(_), Content::Map(_)) | (Kind::Text | Kind::Percent, Content::Scalar(..)) => {
                self.value_shape(kind, key, hint, item);
            }
            _ => {
                let message = format!(
                    "{key} is a list of {}",
                    if kind.object().is_some() { "maps" } else { "texts" }
                );
                self.problem("type", item.place, message, hint);
            }
        }
    }
}
