//! The table of fields as JSON Schema, for editors.

use super::fields::{Absent, Field, KINDS, Kind, object_of};
use serde_json::{Map, Value, json};

/// JSON Schema (draft 2020-12) of a manifest document.
pub fn schema() -> Value {
    let kinds: Vec<Value> = KINDS
        .iter()
        .map(|(kind, spec)| {
            json!({
                "type": "object", "additionalProperties": false, "required": ["apiVersion", "kind", "metadata", "spec"],
                "properties": {
                    "apiVersion": { "const": super::API_VERSION }, "kind": { "const": kind },
                    "metadata": of_object("metadata"), "spec": of_object(spec),
                },
            })
        })
        .collect();
    json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Holdfast manifest", "oneOf": kinds })
}

fn of_object(name: &str) -> Value {
    let object = object_of(name);
    let properties: Map<String, Value> = object
        .fields
        .iter()
        .map(|field| (field.name.to_owned(), of_field(field)))
        .collect();
    let required: Vec<&str> = object
        .fields
        .iter()
        .filter(|field| field.absent == Absent::Refused)
        .map(|field| field.name)
        .collect();
    let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !object.one_of.is_empty() {
        schema["oneOf"] = object.one_of.iter().map(|name| json!({ "required": [name] })).collect();
    }
    schema
}

fn of_field(field: &Field) -> Value {
    let mut schema = of_kind(field.kind);
    schema["description"] = field.doc.into();
    schema["examples"] = json!([yaml(field.example)]);
    if let Absent::Means(text) = field.absent {
        schema["default"] = yaml(text);
    }
    schema
}

fn of_kind(kind: Kind) -> Value {
    const PERCENT: &str = "^[0-9]{1,3}(\\.[0-9]{1,2})?%$";
    match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::Int(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Duration => json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$" }),
        Kind::Percent => json!({ "type": "string", "pattern": PERCENT }),
        Kind::Count => {
            json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": PERCENT }] })
        }
        Kind::Free => json!({ "type": "object" }),
        Kind::Object(name) => of_object(name),
        Kind::List(inner) => json!({ "type": "array", "items": of_kind(*inner) }),
        Kind::Map(inner) => json!({ "type": "object", "additionalProperties": of_kind(*inner) }),
        Kind::Either(one, other) => json!({ "anyOf": [of_kind(*one), of_kind(*other)] }),
    }
}

/// Of the table's own texts, each of which a test parses.
fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|_| text.into())
}
