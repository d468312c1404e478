//! The table of fields, one at a time, for people: `holdfast explain Workload.placement.waves`.

use super::fields::{Absent, Field, KINDS, LATER_KINDS, did_you_mean, nearest, object_of};
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub required: bool,
    /// None: to leave it out means nothing, or is a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    pub doc: String,
    /// YAML.
    pub example: String,
    /// Exactly one of these is set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Explained>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {path}")]
pub struct UnknownPath {
    pub path: String,
    pub hint: String,
}

/// `KIND[.FIELD...]`; `spec` may be left out.
pub fn explain(path: &str) -> Result<Explained, UnknownPath> {
    let mut parts = path.split('.');
    let wanted = parts.next().unwrap_or_default();
    let unknown = |path: String, hint: String| UnknownPath { path, hint };
    let Some((kind, spec)) = KINDS.iter().find(|(kind, _)| kind.eq_ignore_ascii_case(wanted)) else {
        let kinds = KINDS.iter().map(|(kind, _)| *kind);
        let hint = if LATER_KINDS.iter().any(|kind| kind.eq_ignore_ascii_case(wanted)) {
            "it is known, but not in this version".to_owned()
        } else {
            did_you_mean(wanted, kinds.clone())
                .unwrap_or_else(|| format!("there are {}", kinds.collect::<Vec<_>>().join(" and ")))
        };
        return Err(unknown(format!("kind {wanted:?}"), hint));
    };
    let mut rest: Vec<&str> = parts.collect();
    let (mut object, mut walked) = (*spec, (*kind).to_owned());
    match rest.first() {
        Some(&"metadata") => {
            rest.remove(0);
            (object, walked) = ("metadata", format!("{kind}.metadata"));
        }
        Some(&"spec") => {
            rest.remove(0);
        }
        _ => {}
    }
    let mut found: Option<&'static Field> = None;
    for part in rest {
        let fields = object_of(object).fields;
        let Some(field) = fields.iter().find(|field| field.name == part) else {
            let hint = match nearest(part, fields.iter().map(|field| field.name)) {
                Some(name) => format!("did you mean {walked}.{name}?"),
                None if fields.is_empty() => format!("{walked} has no fields"),
                None => format!("{walked} has {}", names(fields)),
            };
            return Err(unknown(format!("{walked}.{part}"), hint));
        };
        walked = format!("{walked}.{}", field.name);
        // A field without fields of its own: the next part finds nothing.
        object = field.kind.object().unwrap_or_default();
        found = Some(field);
    }
    let fields = object_of(object)
        .fields
        .iter()
        .map(|field| one(&format!("{walked}.{}", field.name), field))
        .collect();
    let one_of = object_of(object).one_of.to_vec();
    Ok(match found {
        Some(field) => Explained {
            one_of,
            fields,
            ..one(&walked, field)
        },
        None => Explained {
            path: walked,
            kind: object.to_owned(),
            required: true,
            default: None,
            doc: match object {
                "target" => "One place that runs workloads, driven by one plugin",
                "workload" => "One deployable thing a team owns",
                _ => "What it is called",
            }
            .to_owned(),
            example: minimal(object),
            one_of,
            fields,
        },
    })
}

fn names(fields: &[Field]) -> String {
    fields.iter().map(|field| field.name).collect::<Vec<_>>().join(", ")
}

fn one(path: &str, field: &Field) -> Explained {
    Explained {
        path: path.to_owned(),
        kind: field.kind.words(),
        required: field.absent == Absent::Refused,
        default: match field.absent {
            Absent::Means(text) | Absent::Depends(text) => Some(text.to_owned()),
            Absent::Refused | Absent::Nothing => None,
        },
        doc: field.doc.to_owned(),
        example: format!("{}: {}", field.name, field.example),
        one_of: Vec::new(),
        fields: Vec::new(),
    }
}

/// What must be there, and nothing else.
fn minimal(object: &str) -> String {
    object_of(object)
        .fields
        .iter()
        .filter(|field| field.absent == Absent::Refused)
        .map(|field| format!("{}: {}", field.name, field.example))
        .collect::<Vec<_>>()
        .join("\n")
}
