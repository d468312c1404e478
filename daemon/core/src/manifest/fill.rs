//! Placeholders in templates: `${values.NAME}` and `${artifacts.NAME}`, in any text; `$${` stands for `${`. They are
//! found when a manifest is read and filled in when a generation is launched.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    #[error("${{{0}}} is not a placeholder; there are ${{values.NAME}} and ${{artifacts.NAME}}")]
    Unknown(String),
    #[error("a placeholder is not closed in {0:?}")]
    Open(String),
    #[error("the target has no value {0:?}")]
    NoValue(String),
    #[error("there is no artifact {0:?}")]
    NoArtifact(String),
}

/// The template with everything filled in.
pub fn fill(
    template: &Value,
    values: &BTreeMap<String, String>,
    artifacts: &BTreeMap<String, String>,
) -> Result<Value, FillError> {
    let find = |name: &str| match name.split_once('.') {
        Some(("values", key)) => values.get(key).cloned().ok_or_else(|| FillError::NoValue(key.into())),
        Some(("artifacts", key)) => artifacts.get(key).cloned().ok_or_else(|| FillError::NoArtifact(key.into())),
        _ => Err(FillError::Unknown(name.into())),
    };
    walk(template, &find)
}

/// Names that the template uses, with the JSON pointer of each text that is wrong.
pub fn used(template: &Value) -> (BTreeSet<String>, Vec<(String, FillError)>) {
    let (mut names, mut problems) = (BTreeSet::new(), Vec::new());
    scan(template, "/template".to_owned(), &mut names, &mut problems);
    (names, problems)
}

fn scan(value: &Value, at: String, names: &mut BTreeSet<String>, problems: &mut Vec<(String, FillError)>) {
    match value {
        Value::String(text) => {
            let collect = |name: &str| match name.split_once('.') {
                Some(("values" | "artifacts", _)) => Ok(String::new()),
                _ => Err(FillError::Unknown(name.into())),
            };
            if let Err(error) = fill_text(text, &mut |name| {
                names.insert(name.to_owned());
                collect(name)
            }) {
                problems.push((at, error));
            }
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, item)| scan(item, format!("{at}/{index}"), names, problems)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            scan(
                item,
                format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")),
                names,
                problems,
            )
        }),
        _ => {}
    }
}

fn walk(value: &Value, find: &impl Fn(&str) -> Result<String, FillError>) -> Result<Value, FillError> {
    Ok(match value {
        Value::String(text) => Value::String(fill_text(text, &mut |name| find(name))?),
        Value::Array(items) => Value::Array(items.iter().map(|item| walk(item, find)).collect::<Result<_, _>>()?),
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, item)| Ok((key.clone(), walk(item, find)?)))
                .collect::<Result<_, _>>()?,
        ),
        other => other.clone(),
    })
}

fn fill_text(text: &str, find: &mut impl FnMut(&str) -> Result<String, FillError>) -> Result<String, FillError> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            filled.push_str(&rest[..at - 1]);
            filled.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        filled.push_str(&rest[..at]);
        let (name, after) = rest[at + 2..].split_once('}').ok_or_else(|| FillError::Open(text.into()))?;
        filled.push_str(&find(name)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn placeholders() {
        let values: BTreeMap<String, String> = [("host".to_owned(), "pay.example.com".to_owned())].into();
        let artifacts: BTreeMap<String, String> = [("main".to_owned(), "r/a@sha256:1".to_owned())].into();
        let filled = fill(
            &json!({ "a": ["x ${values.host} y", "$${values.host}"], "image": "${artifacts.main}", "n": 3 }),
            &values,
            &artifacts,
        );
        assert_eq!(
            filled,
            Ok(json!({ "a": ["x pay.example.com y", "${values.host}"], "image": "r/a@sha256:1", "n": 3 }))
        );
        for (template, error) in [
            ("${values.nope}", FillError::NoValue("nope".into())),
            ("${artifacts.nope}", FillError::NoArtifact("nope".into())),
            ("${env.HOME}", FillError::Unknown("env.HOME".into())),
            ("${values.host", FillError::Open("${values.host".into())),
        ] {
            assert_eq!(fill(&json!(template), &values, &artifacts), Err(error), "{template}");
        }
    }
}
