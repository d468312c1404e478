//! Values of fields, where they have the shape that the table asks for. Where they have not, that is said already.

use super::super::quantity::{parse_duration_ms, parse_percent};
use super::super::yaml::{Content, Node};
use crate::ids::Millis;
use crate::spec::Count;
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    text_of(node.get(key)?)
}

fn text_of(node: &Node) -> Option<&str> {
    match &node.content {
        Content::Scalar(Value::String(text), _) => Some(text),
        _ => None,
    }
}

pub(super) fn object<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    node.get(key).filter(|inner| matches!(inner.content, Content::Map(_)))
}

pub(super) fn list<'n>(node: &'n Node, key: &str) -> &'n [Node] {
    match node.get(key).map(|inner| &inner.content) {
        Some(Content::List(items)) => items,
        _ => &[],
    }
}

pub(super) fn text_map(node: &Node, key: &str) -> BTreeMap<String, String> {
    match node.get(key).map(|inner| &inner.content) {
        Some(Content::Map(entries)) => entries
            .iter()
            .filter_map(|(name, value)| Some((name.text.clone(), text_of(value)?.to_owned())))
            .collect(),
        _ => BTreeMap::new(),
    }
}

/// A map in the plugin's dialect; nothing is an empty one.
pub(super) fn free(node: &Node, key: &str) -> Value {
    object(node, key).map_or_else(|| Value::Object(Default::default()), Node::to_value)
}

pub(super) fn int<N: TryFrom<u64>>(node: &Node, key: &str) -> Option<N> {
    match &node.get(key)?.content {
        Content::Scalar(value, _) => N::try_from(value.as_u64()?).ok(),
        _ => None,
    }
}

pub(super) fn flag(node: &Node, key: &str) -> Option<bool> {
    match &node.get(key)?.content {
        Content::Scalar(value, _) => value.as_bool(),
        _ => None,
    }
}

pub(super) fn duration(node: &Node, key: &str) -> Option<Millis> {
    match &node.get(key)?.content {
        Content::Scalar(_, raw) => parse_duration_ms(raw),
        _ => None,
    }
}

pub(super) fn percent(node: &Node) -> Option<u32> {
    match &node.content {
        Content::Scalar(_, raw) => parse_percent(raw),
        _ => None,
    }
}

pub(super) fn count(node: &Node, key: &str) -> Option<Count> {
    count_of(node.get(key)?)
}

pub(super) fn count_of(node: &Node) -> Option<Count> {
    const NUMBER_MAX: u64 = 10_000;
    match &node.content {
        Content::Scalar(Value::Number(number), _) => number
            .as_u64()
            .filter(|number| *number <= NUMBER_MAX)
            .map(|number| Count::Number(number as u32)),
        Content::Scalar(_, raw) => parse_percent(raw).map(Count::Share),
        _ => None,
    }
}
