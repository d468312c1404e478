//! What a launch would write, against what the site has: only what we set, so a default of the site's is no change.

use crate::site::{GenerationView, SiteView};
use holdfast_plugin::{Change, Fault, Generation};
use serde_json::Value;

/// Against the generation itself if it is there, else against the current one, else against nothing. Size is the one thing that
/// launch and scale give and a generation does not say, so it is named only where nothing is there yet.
pub fn changes(site: &SiteView, current: Option<&Generation>, wanted: &Generation) -> Result<Vec<Change>, Fault> {
    let workload = site.workloads.iter().find(|workload| workload.key == wanted.key);
    let find = |number: u32| workload.and_then(|workload| workload.generations.iter().find(|one| one.number == number));
    let have = find(wanted.number).or_else(|| current.and_then(|current| find(current.number)));
    let template: Value = serde_json::from_str(&wanted.template).map_err(|error| Fault::Invalid(error.to_string()))?;
    let mut changes = Vec::new();
    let mut compare = |path: &str, have: String, want: String| {
        if have != want {
            changes.push(Change {
                item: wanted.name.clone(),
                path: path.into(),
                have,
                want,
            });
        }
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Some(artifact) = wanted.artifacts.first() {
        compare(
            "/digest",
            have.map(|have| have.digest.clone()).unwrap_or_default(),
            artifact.digest.clone(),
        );
    }
    let set = template.as_object().into_iter().flatten().filter(|(_, want)| !want.is_null());
    for (name, want) in set {
        let of = |have: &GenerationView| have.template.get(name).map(text);
        compare(
            &format!("/template/{name}"),
            have.and_then(of).unwrap_or_default(),
            text(want),
        );
    }
    if have.is_none() {
        compare("/size", String::new(), "1".into());
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_plugin::Artifact;
    use serde_json::json;

    fn generation(number: u32, digest: &str, template: &str) -> Generation {
        Generation {
            workload: "main/shop".into(),
            key: "shop".into(),
            name: format!("shop-g{number}"),
            number,
            release_id: "r".into(),
            artifacts: vec![Artifact {
                name: "main".into(),
                uri: format!("r/shop@{digest}"),
                digest: digest.into(),
                images: vec![],
                payload: vec![],
            }],
            template: template.into(),
            files: vec![],
            secrets: vec![],
            stamps: vec![],
            drain_ms: 0,
        }
    }

    #[test]
    fn only_what_we_set() {
        let site: SiteView = serde_json::from_value(json!({ "owner": "me", "high_fence": 1, "workloads": [{
            "key": "shop", "workload": "main/shop", "route_fence": 1, "shares": {}, "generations": [{
                "number": 1, "name": "shop-g1", "release_id": "r", "fence": 1, "artifact": "main", "digest": "sha256:a", "digests": [],
                "phase": "parked", "reason": "", "message": "", "address": null, "fingerprint": "",
                "template": { "memory_mib": 64, "timeout_ms": 5000, "concurrency": 4 } }] }] }))
        .unwrap();
        let of = |current: Option<&Generation>, wanted: &Generation| -> Vec<String> {
            let changes = changes(&site, current, wanted).unwrap();
            changes
                .into_iter()
                .map(|change| format!("{} {:?}->{:?}", change.path, change.have, change.want))
                .collect()
        };
        let first = generation(1, "sha256:a", r#"{"concurrency":4}"#);
        assert_eq!(of(None, &first), Vec::<String>::new(), "parked or not, defaults or not");
        assert_eq!(
            of(None, &generation(1, "sha256:b", r#"{"concurrency":5,"host":"x"}"#)),
            [
                r#"/digest "sha256:a"->"sha256:b""#,
                r#"/template/concurrency "4"->"5""#,
                r#"/template/host ""->"x""#
            ]
        );
        let second = generation(2, "sha256:b", r#"{"concurrency":4}"#);
        assert_eq!(
            of(Some(&first), &second),
            [r#"/digest "sha256:a"->"sha256:b""#],
            "against the current one"
        );
        assert_eq!(
            of(None, &second),
            [
                r#"/digest ""->"sha256:b""#,
                r#"/template/concurrency ""->"4""#,
                r#"/size ""->"1""#
            ]
        );
    }
}
