//! JSON Schema of `holdfast.yaml`, for editors. A test holds it to what is read.

use serde_json::{Value, json};

const DURATION: &str = "^([0-9]+(ms|s|m|h|d))+$";

/// An object of these fields and no others.
fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

fn text(doc: &str) -> Value {
    json!({ "type": "string", "description": doc })
}

fn duration(doc: &str) -> Value {
    json!({ "type": "string", "pattern": DURATION, "description": doc })
}

fn number(doc: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": doc })
}

fn list(items: Value, doc: &str) -> Value {
    json!({ "type": "array", "items": items, "description": doc })
}

fn map(values: Value, doc: &str) -> Value {
    json!({ "type": "object", "additionalProperties": values, "description": doc })
}

fn basic() -> Value {
    object(
        &["username", "password_file"],
        json!({ "username": text("User name"), "password_file": text("File with the password") }),
    )
}

/// For endpoints and metric sources.
fn auth() -> Value {
    object(
        &[],
        json!({ "bearer_token_file": text("File with a bearer token"), "basic": basic() }),
    )
}

/// JSON Schema (draft 2020-12) of the operator's configuration.
pub fn schema() -> Value {
    let ca_file = || text("PEM file of a private authority");
    let ssh = object(
        &["key_file", "known_hosts_file"],
        json!({ "key_file": text("Private key"), "known_hosts_file": text("Keys of the server; no other is accepted") }),
    );
    let git_auth = json!({ "oneOf": [
        object(&["basic"], json!({ "basic": basic() })),
        object(&["ssh"], json!({ "ssh": ssh })),
    ] });
    let repository = object(
        &["url"],
        json!({
            "name": text("First half of every workload's identity; choose once. Default main"),
            "url": text("A local path, file://, https:// or ssh://"),
            "branch": text("Default main"),
            "path": text("Only manifests below this directory count"),
            "interval": duration("A look at least so often; default 60s"),
            "auth": git_auth,
            "ca_file": ca_file(),
            "timeout": duration("For one whole fetch over ssh or https; default 5m"),
            "trust": object(&["require", "allowed_signers_file"], json!({
                "require": { "enum": ["signed", "none"], "description": "signed: a tip without a verified signature is not taken; none: verdicts are only written down" },
                "allowed_signers_file": text("OpenSSH's file of allowed signers: principals, options, keys"),
            })),
        }),
    );
    let registry = object(
        &["host"],
        json!({
            "host": text("As in references, port included"),
            "layout": text("A directory with one OCI image layout per repository, instead of a server"),
            "plain_http": { "type": "boolean", "description": "HTTP without TLS" },
            "ca_file": ca_file(),
            "auth": object(&["username", "password_file"], json!({
                "username": text("User name"),
                "password_file": text("File with the password"),
                "token_host": text("Host of the token service, when it is not the registry's own"),
            })),
            "timeout_ms": number("For one request; default 30000"),
        }),
    );
    let plugin = object(
        &["file", "digest"],
        json!({ "file": text("The component"), "digest": text("sha256:... of the file") }),
    );
    let rule = object(
        &["effect", "methods", "path"],
        json!({
            "effect": { "enum": ["read", "write"], "description": "What its requests do, by the operator's judgement" },
            "methods": list(json!({ "type": "string" }), "HTTP methods"),
            "path": text("Path and query; {key}, {name}, {target}, * for one segment, ** at the end for the rest"),
            "body_name_pointer": text("JSON pointer into the body that must be the object's name"),
        }),
    );
    let registry_auth = object(
        &["registry", "username", "password_file"],
        json!({
            "registry": text("As in references, port included"),
            "username": text("User name"),
            "password_file": text("File with the password"),
        }),
    );
    let endpoint = object(
        &[],
        json!({
            "url": text("http://HOST[:PORT] or https://HOST[:PORT]"),
            "unix": text("A unix socket instead"),
            "ca_file": ca_file(),
            "auth": auth(),
            "client_cert_file": text("PEM file of a client certificate, leaf first; with client_key_file, for https"),
            "client_key_file": text("PEM file of its private key"),
            "registry_auth": list(registry_auth, "Put in as X-Registry-Auth where a request makes the target pull an artifact of the release"),
            "max_connections": { "type": "integer", "minimum": 1, "maximum": 256, "description": "At once; default 8" },
            "timeout_ms": number("For one request; default 10000"),
            "max_body_bytes": number("Largest answer; default 4194304"),
            "rules": list(rule, "What the plugin may send; the built-in edge plugin has its own"),
        }),
    );
    let binding = object(
        &["target", "plugin"],
        json!({
            "target": text("A target's name; * stands for anything"),
            "plugin": text("A built-in plugin, or one of `plugins`"),
            "endpoints": map(endpoint, "Alias to what it stands for"),
            "probe_networks": list(json!({ "type": "string" }), "Where the host may dial health probes, as in 10.0.0.0/8"),
            "config": map(json!({}), "Fields of a target's config that must have these values"),
        }),
    );
    let user = object(
        &["name"],
        json!({ "name": text("The person's name"), "emails": list(json!({ "type": "string" }), "As in their commits") }),
    );
    let source = object(
        &["url"],
        json!({ "url": text("http://HOST or https://HOST"), "ca_file": ca_file(), "auth": auth() }),
    );
    let grant = object(
        &["target", "workload", "names"],
        json!({
            "target": text("A target's name; * stands for anything"),
            "workload": text("REPOSITORY/NAME; * stands for anything"),
            "names": list(json!({ "type": "string" }), "Secrets that it may have"),
        }),
    );
    let limits = object(
        &[],
        json!({
            "removals_per_revision": number("Units that one revision may remove; default 10"),
            "removal_grace": duration("How long a unit is kept after its manifest is gone; default 30s"),
            "heals_per_hour": number("Heals of drift in an hour; default 30"),
            "call_deadline_ms": { "type": "integer", "minimum": 100, "maximum": 600_000, "description": "For one call of a plugin; default 15000" },
        }),
    );
    let witness = object(
        &["url", "key"],
        json!({ "url": text("http://HOST or https://HOST"), "key": text("Its verifier key, as it prints it"), "ca_file": ca_file() }),
    );
    let mut root = object(
        &["repository", "data"],
        json!({
            "repository": repository,
            "data": text("Directory of ledger, mirror and caches"),
            "socket": text("Where the command line reaches the daemon; default holdfast.sock in data"),
            "listen": text("Loopback address of /healthz, /readyz and /metrics"),
            "registries": list(registry, "Only these are ever contacted"),
            "plugins": map(plugin, "Plugins by name, beside the built-in ones"),
            "plugin_keys": list(text("A verifier key, as `holdfast ledger key show` prints it"), "Whose signature on a plugin's FILE.note counts; none: plugins need no signature"),
            "bindings": list(binding, "Which plugin drives which target, and what it may reach there; the first match wins"),
            "users": map(user, "People by unix user name: they may give commands, and only they approve"),
            "metrics": object(&[], json!({ "sources": map(source, "Prometheus servers by name") })),
            "secrets": object(&["dir"], json!({
                "dir": text("Values are DIR/NAME/VERSION"),
                "grants": list(grant, "Who may have which"),
            })),
            "ledger": object(&["key_file"], json!({
                "key_file": text("Secret key of the log, outside of data: `holdfast ledger key new` makes it"),
                "witnesses": object(&[], json!({
                    "needed": number("How many have to cosign; fewer is an alert"),
                    "known": list(witness, "Servers of other teams that run `holdfast witness`, or any C2SP tlog-witness"),
                })),
                "pin": object(&["url"], json!({
                    "url": text("Repository that keeps the newest checkpoint at refs/holdfast/checkpoint; bare, if it is a path"),
                    "auth": git_auth,
                    "ca_file": ca_file(),
                    "interval": duration("At most so often; default 10m"),
                    "timeout": duration("For one whole fetch or push over ssh or https; default 5m"),
                })),
            })),
            "limits": limits,
            "select": object(&[], json!({ "settle": duration("A tag has to point at the same digest for so long first; default 2m") })),
            "way_back": { "enum": ["required", "optional"], "description": "Hold a deploy whose way back could not be pulled any more; default required" },
            "tag_poll": duration("How often pinned tags are looked at again; default 60s"),
        }),
    );
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "Holdfast operator configuration".into();
    root
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::check::FIELDS;
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Goes to an object of the schema: a name is a field, `*` any item or value, a number one of several.
    fn at<'a>(schema: &'a Value, path: &str) -> &'a Value {
        path.split('/')
            .filter(|part| !part.is_empty())
            .fold(schema, |schema, part| match part {
                "*" if schema["items"].is_object() => &schema["items"],
                "*" => &schema["additionalProperties"],
                _ if schema["oneOf"].is_array() => {
                    let one = schema["oneOf"].as_array().unwrap().iter();
                    one.map(|one| &one["properties"][part])
                        .find(|found| found.is_object())
                        .unwrap()
                }
                part => &schema["properties"][part],
            })
    }

    fn names(object: &Value) -> BTreeSet<String> {
        object["properties"].as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn it_has_the_fields_that_are_read() {
        let schema = schema();
        assert_eq!(names(&schema), FIELDS.map(str::to_owned).into());
        // An unknown field at each place: the error lists those that are known there.
        for (path, text) in [
            ("repository", "repository: { url: x, zzz: 1 }"),
            ("repository/trust", "repository: { url: x, trust: { zzz: 1 } }"),
            ("repository/auth/basic", "repository: { url: x, auth: { basic: { zzz: 1 } } }"),
            ("repository/auth/ssh", "repository: { url: x, auth: { ssh: { zzz: 1 } } }"),
            ("registries/*", "registries: [ { zzz: 1 } ]"),
            ("registries/*/auth", "registries: [ { auth: { zzz: 1 } } ]"),
            ("plugins/*", "plugins: { a: { zzz: 1 } }"),
            ("bindings/*", "bindings: [ { zzz: 1 } ]"),
            ("bindings/*/endpoints/*", "bindings: [ { endpoints: { a: { zzz: 1 } } } ]"),
            (
                "bindings/*/endpoints/*/auth",
                "bindings: [ { endpoints: { a: { auth: { zzz: 1 } } } } ]",
            ),
            (
                "bindings/*/endpoints/*/auth/basic",
                "bindings: [ { endpoints: { a: { auth: { basic: { zzz: 1 } } } } } ]",
            ),
            (
                "bindings/*/endpoints/*/registry_auth/*",
                "bindings: [ { endpoints: { a: { registry_auth: [ { zzz: 1 } ] } } } ]",
            ),
            (
                "bindings/*/endpoints/*/rules/*",
                "bindings: [ { endpoints: { a: { rules: [ { zzz: 1 } ] } } } ]",
            ),
            ("users/*", "users: { a: { zzz: 1 } }"),
            ("metrics", "metrics: { zzz: 1 }"),
            ("metrics/sources/*", "metrics: { sources: { a: { zzz: 1 } } }"),
            ("secrets", "secrets: { zzz: 1 }"),
            ("secrets/grants/*", "secrets: { grants: [ { zzz: 1 } ] }"),
            ("ledger", "ledger: { zzz: 1 }"),
            ("ledger/witnesses", "ledger: { witnesses: { zzz: 1 } }"),
            ("ledger/pin", "ledger: { pin: { zzz: 1 } }"),
            ("ledger/witnesses/known/*", "ledger: { witnesses: { known: [ { zzz: 1 } ] } }"),
            ("limits", "limits: { zzz: 1 }"),
            ("select", "select: { zzz: 1 }"),
        ] {
            let problems = check(Path::new("h.yaml"), format!("data: d\n{text}\n").as_bytes()).unwrap_err();
            let told = problems
                .iter()
                .find(|problem| problem.message.starts_with("unknown field `zzz`"))
                .unwrap_or_else(|| panic!("{text}: {problems:?}"));
            let known: BTreeSet<String> = told.message.split('`').skip(3).step_by(2).map(str::to_owned).collect();
            assert_eq!(names(at(&schema, path)), known, "{path}");
        }
    }
}
