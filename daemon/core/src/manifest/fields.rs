//! One table of every field there is: which exist, what they hold, what they mean when they are left out, and an example.
//! Reading, JSON Schema, `explain` and the reference document all follow from it, so they cannot disagree.

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Choice(&'static [&'static str]),
    /// From, to.
    Int(u64, u64),
    Bool,
    Duration,
    Percent,
    /// A number, or a percentage of all.
    Count,
    /// Anything: the plugin's dialect.
    Free,
    Object(&'static str),
    List(&'static Kind),
    /// Name to value.
    Map(&'static Kind),
    Either(&'static Kind, &'static Kind),
}

/// What it means to leave a field out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// A problem.
    Refused,
    /// Nothing of the kind happens.
    Nothing,
    /// The same as this YAML.
    Means(&'static str),
    /// That depends; a sentence.
    Depends(&'static str),
}

pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub absent: Absent,
    /// YAML of the value.
    pub example: &'static str,
    pub doc: &'static str,
}

pub struct Object {
    pub name: &'static str,
    /// Exactly one of these is set.
    pub one_of: &'static [&'static str],
    pub fields: &'static [Field],
}

const fn f(name: &'static str, kind: Kind, absent: Absent, example: &'static str, doc: &'static str) -> Field {
    Field {
        name,
        kind,
        absent,
        example,
        doc,
    }
}

const fn object(name: &'static str, fields: &'static [Field]) -> Object {
    Object {
        name,
        one_of: &[],
        fields,
    }
}

use Absent::{Depends, Means, Nothing, Refused};
use Kind::{Bool, Choice, Count, Duration, Either, Free, Int, List, Map, Object as Of, Percent, Text};

/// The kinds of this version, with the object of their `spec`.
pub const KINDS: [(&str, &str); 2] = [("Target", "target"), ("Workload", "workload")];
/// Kinds of the design that only come later.
pub const LATER_KINDS: [&str; 2] = ["Policy", "Promotion"];

#[rustfmt::skip]
pub const OBJECTS: &[Object] = &[
    object("metadata", &[
        f("name", Text, Refused, "payment-api",
            "Name: a-z, 0-9 and -, a letter first, at most 63. With the repository's alias it is the identity, whatever the file is called"),
        f("labels", Map(&Text), Nothing, "{ team: payments }", "Labels, for selecting and for people"),
    ]),
    object("target", &[
        f("plugin", Text, Refused, "edge", "Plugin that drives it: a name that the operator's configuration maps to a digest"),
        f("config", Free, Means("{}"), "{}", "Configuration in the plugin's dialect, within what the operator's binding allows"),
        f("values", Map(&Text), Nothing, "{ host: pay.eu.example.com }", "Values for ${values.NAME} in templates; a change is a new generation here"),
    ]),
    object("workload", &[
        f("artifacts", Map(&Either(&Text, &Of("artifact"))), Refused, "{ main: registry.example.com/pay/api:1.4.2 }",
            "Name to REGISTRY/REPOSITORY:TAG, @DIGEST or a selection of tags; the main one is named main, or is the only one"),
        f("placement", Of("placement"), Refused, "{ targets: { matchLabels: { env: prod } } }", "Which targets run it, and in which order they get a new release"),
        f("template", Free, Refused, "{ memory_mib: 64 }",
            "What to run, in the plugin's dialect; ${values.NAME} and ${artifacts.NAME} are filled in, $${ is a literal ${"),
        f("instances", Either(&Int(1, 10_000), &Of("instances")), Means("1"), "6", "Instances per target; or a range, where an autoscaler owns the number"),
        f("config", Of("config"), Nothing, "{ files: { app.toml: config/app.toml } }", "Config files that belong to the release"),
        f("secrets", List(&Of("secret")), Nothing, "[ { name: db, version: \"7\" } ]", "Secrets by reference; a new version is a new release"),
        f("before", List(&Of("job")), Nothing, "[ { name: migrate, template: { args: [ migrate ] } } ]",
            "Jobs that must succeed before anything is launched; at most once per release and scope"),
        f("after", List(&Of("job")), Nothing, "[ { name: warm-up, template: { args: [ warm ] } } ]",
            "Jobs that must succeed while the old generation is still kept; at most once per release and scope"),
        f("strategy", Of("strategy"), Means("{ blueGreen: { bake: 0s } }"), "{ blueGreen: { bake: 15m } }", "How traffic comes to a new release"),
        f("health", Of("health"), Means("{ timeout: 5m, interval: 5s, stable: 30s, telemetry: optional }"), "{ timeout: 5m, stable: 30s, http: { path: /healthz } }",
            "When a new generation counts as proven"),
        f("analysis", List(&Of("analysis")), Nothing,
            "[ { name: errors, target: errors_total/requests_total, failWhen: \"canary.value > 0.05\" } ]",
            "Is the candidate worse than what it replaces? Measured while both have traffic"),
        f("rollback", Choice(&["automatic", "manual"]), Means("automatic"), "manual", "Whether a bad verdict goes back by itself, or stops and asks"),
        f("approval", Of("approval"), Nothing, "{ before: [ 100% ], count: 1 }", "Weights that people must agree to first"),
        f("dependsOn", List(&Text), Nothing, "[ ledger-db ]", "Workloads of the same repository that must be stable on their newest release first"),
        f("drain", Duration, Means("30s"), "1m", "Time for requests in flight to end"),
        f("retain", Int(0, 100), Means("5"), "10", "Last releases whose artifacts must stay pullable"),
        f("standby", Int(0, 20), Means("1"), "2", "Generations kept parked on each target, so that a way back needs no registry"),
        f("suspend", Bool, Means("false"), "true", "Nothing new begins while it is set"),
        f("attempt", Int(1, 1_000_000), Means("1"), "2", "Raise it to try a quarantined release again"),
    ]),
    object("artifact", &[
        f("repository", Text, Refused, "registry.example.com/pay/api", "REGISTRY/REPOSITORY, without a tag"),
        f("select", Of("select"), Refused, "{ semver: ~1.4 }", "Which of its tags; what was selected is an entry of the ledger"),
    ]),
    Object { name: "select", one_of: &["semver", "regex"], fields: &[
        f("semver", Text, Nothing, "\">=1.2, <2\"", "The highest version that meets this requirement: ~1.4, ^1, \">=1.2, <2\""),
        f("regex", Text, Nothing, "'^main-(\\d+)$'",
            "The highest tag that matches, by its one capture: as numbers where all are, else as text. Without a capture, by the whole tag"),
    ] },
    object("instances", &[
        f("min", Int(1, 10_000), Refused, "3", "Never fewer"),
        f("max", Int(1, 10_000), Refused, "12", "Never more"),
    ]),
    object("placement", &[
        f("targets", Of("targets"), Refused, "{ matchLabels: { env: prod } }", "Targets by label or by name"),
        f("waves", List(&Of("wave")), Nothing, "[ { targets: 1, hold: 10m }, { targets: 100% } ]",
            "How many targets, in name order, each wave has reached when it is over; none: all at once"),
        f("maxFailed", Count, Means("0"), "1", "Targets that may fail before nothing new starts"),
        f("maxLagging", Count, Means("0"), "10%", "Targets that may be unreachable for longer than lagAfter without holding up the others"),
        f("lagAfter", Duration, Means("30m"), "1h", "Unreachable for so long is lagging"),
        f("onHalt", Choice(&["wait", "abort"]), Means("wait"), "abort",
            "More than maxFailed failed: wait for a person, or bring all back and quarantine the release everywhere"),
    ]),
    Object { name: "targets", one_of: &["matchLabels", "names"], fields: &[
        f("matchLabels", Map(&Text), Nothing, "{ env: prod }", "Targets that carry all these labels; {} is all of them"),
        f("names", List(&Text), Nothing, "[ prod-eu, prod-us ]", "Targets by name"),
    ] },
    object("wave", &[
        f("targets", Count, Refused, "25%", "A number or a percentage, rising from wave to wave"),
        f("hold", Duration, Means("0s"), "10m", "Stay here so long before the next wave"),
    ]),
    object("config", &[
        f("files", Map(&Text), Nothing, "{ app.toml: config/app.toml }",
            "Path in the release to path in the repository, relative to the manifest's directory"),
    ]),
    object("secret", &[
        f("name", Text, Refused, "db", "Name in the target's or the operator's store: a-z, 0-9 and -, a letter first, at most 63"),
        f("version", Text, Refused, "\"7\"", "One version, in quotes; latest is refused, for it would mean another release every day"),
    ]),
    object("job", &[
        f("name", Text, Refused, "migrate", "Name, at most 30 characters, once in before and after together"),
        f("template", Free, Refused, "{ args: [ migrate ] }", "What to run, in the plugin's dialect; filled in like the workload's template"),
        f("scope", Choice(&["target", "placement"]), Means("target"), "placement", "Once on each target, or once in all, on the first target that gets to it"),
        f("repeatable", Bool, Means("false"), "true", "A job that was lost (begun, then nothing is known of it) may run again without asking"),
    ]),
    Object { name: "strategy", one_of: &["blueGreen", "canary", "rolling", "recreate"], fields: &[
        f("blueGreen", Of("blueGreen"), Nothing, "{ bake: 15m }", "Launch all beside the old, prove, switch at once"),
        f("canary", Of("canary"), Nothing, "{ steps: [ { weight: 10%, hold: 5m }, { weight: 100% } ] }", "Launch beside the old, prove, shift by weight"),
        f("rolling", Of("rolling"), Nothing, "{ surge: 25%, maxUnavailable: 0 }", "New instances come and old ones go by turns"),
        f("recreate", Of("recreate"), Nothing, "{}", "Park the old one first: for what cannot run twice"),
    ] },
    object("blueGreen", &[
        f("bake", Duration, Means("0s"), "15m", "Keep the old generation so long after the switch"),
    ]),
    object("canary", &[
        f("steps", List(&Of("step")), Refused, "[ { weight: 10%, hold: 5m }, { weight: 100% } ]", "Weights that rise to 100%"),
        f("bake", Duration, Means("0s"), "15m", "Keep the old generation so long after the last step"),
    ]),
    object("step", &[
        f("weight", Percent, Refused, "25%", "Share of the traffic, above 0%"),
        f("hold", Duration, Means("0s"), "10m", "Stay here so long, while serving at this weight"),
    ]),
    object("rolling", &[
        f("surge", Count, Means("25%"), "1", "Instances above the wanted number while both releases run, rounded up"),
        f("maxUnavailable", Count, Means("0"), "1", "Ready instances that may be missing, rounded down; not 0 when surge is 0"),
        f("bake", Duration, Means("0s"), "15m", "Keep the old generation, parked, so long after the last turn"),
    ]),
    object("recreate", &[
        f("bake", Duration, Means("0s"), "15m", "Keep the old generation, parked, so long after the new one serves"),
    ]),
    object("health", &[
        f("timeout", Duration, Means("5m"), "10m", "From launch until proven; must be longer than stable"),
        f("interval", Duration, Means("5s"), "1s", "How often to look, at least 50ms"),
        f("stable", Duration, Means("30s"), "1m", "Healthy so long without a break"),
        f("http", Of("http"), Nothing, "{ path: /healthz }", "GET on every address of a generation, by the daemon itself; 2xx is healthy"),
        f("telemetry", Choice(&["optional", "required"]), Means("optional"), "required", "Whether a generation that reports no telemetry can be proven"),
    ]),
    object("http", &[
        f("path", Text, Refused, "/healthz", "Path, beginning with /"),
    ]),
    Object { name: "analysis", one_of: &["target", "prometheus", "http"], fields: &[
        f("name", Text, Refused, "errors", "Name, for people; once per workload"),
        f("target", Text, Nothing, "errors_total/requests_total", "Ratio of two counters that the target itself keeps; the second is the number of samples"),
        f("prometheus", Of("prometheus"), Nothing,
            "{ source: main, query: 'sum(rate(http_errors{generation=\"{{generation}}\"}[1m]))' }",
            "A query, once for the candidate and once for what it replaces"),
        f("http", Of("http"), Nothing, "{ path: /ready }", "GET on every address of each generation; the value is the share that did not answer 2xx"),
        f("baseline", Choice(&["current"]), Means("current"), "current", "What the candidate is compared with: what it replaces"),
        f("failWhen", Text, Refused, "\"canary.value > baseline.value * 2.0 && canary.value > 0.01\"",
            "CEL over canary and baseline, each {value, samples}; true is a failure. A ratio to the baseline needs a floor"),
        f("at", List(&Percent), Depends("at every weight"), "[ 100% ]", "Measured at these weights only: steps of the canary, or 100%"),
        f("interval", Duration, Means("30s"), "10s", "How often to measure, at least 50ms"),
        f("failures", Int(1, 1_000), Means("2"), "3", "Failures in a row that end the attempt"),
        f("minSamples", Int(1, 1_000_000_000), Depends("100; 5 for http, 1 for prometheus without samples"), "500",
            "Below so many samples of the candidate's own nothing is decided"),
        f("unmeasured", Of("unmeasured"), Means("{ for: 1h, then: hold }"), "{ for: 30m, then: fail }", "What to do when nothing can be measured"),
        f("dryRun", Bool, Means("false"), "true", "Record, never act"),
    ] },
    object("prometheus", &[
        f("source", Text, Refused, "main", "A metric source of the operator's configuration"),
        f("query", Text, Refused, "'sum(rate(http_errors{generation=\"{{generation}}\"}[1m]))'",
            "PromQL; {{generation}}, {{workload}}, {{target}}, {{release}} and {{deploy}} are filled in"),
        f("samples", Text, Nothing, "'sum(increase(http_requests{generation=\"{{generation}}\"}[1m]))'", "PromQL that gives the number of samples; none: one for each point of the answer"),
        f("range", Duration, Nothing, "5m", "A range query over so long, averaged; none: an instant one"),
    ]),
    object("unmeasured", &[
        f("for", Duration, Means("1h"), "30m", "Unmeasured for so long"),
        f("then", Choice(&["hold", "fail", "pass"]), Means("hold"), "fail", "Ask a person, count as a failure, or go on"),
    ]),
    object("approval", &[
        f("before", List(&Percent), Refused, "[ 100% ]", "Weights that the strategy reaches; 100% always is one"),
        f("count", Int(1, 20), Means("1"), "2", "How many different people"),
        f("allowAuthor", Bool, Means("false"), "true", "Authors and committers of the change count too"),
    ]),
];

impl Kind {
    /// The object that a value of this kind is made of, if it has fields.
    pub fn object(self) -> Option<&'static str> {
        match self {
            Kind::Object(name) => Some(name),
            Kind::List(inner) | Kind::Map(inner) => inner.object(),
            Kind::Either(one, other) => one.object().or_else(|| other.object()),
            _ => None,
        }
    }

    /// For people.
    pub fn words(self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Choice(choices) => choices.join(" or "),
            Kind::Int(least, most) => format!("number, {least} to {most}"),
            Kind::Bool => "true or false".into(),
            Kind::Duration => "duration".into(),
            Kind::Percent => "percentage".into(),
            Kind::Count => "number or percentage".into(),
            Kind::Free => "map in the plugin's dialect".into(),
            Kind::Object(name) => name.into(),
            Kind::List(inner) => format!("list of {}", inner.words()),
            Kind::Map(inner) => format!("map of name to {}", inner.words()),
            Kind::Either(one, other) => format!("{}, or {}", one.words(), other.words()),
        }
    }
}

impl Absent {
    /// For people.
    pub fn words(self) -> String {
        match self {
            Absent::Refused => "required".into(),
            Absent::Nothing => "none".into(),
            Absent::Means(text) | Absent::Depends(text) => text.into(),
        }
    }
}

/// An object by name. An unknown name has no fields; a test walks the table, so there is none.
pub fn object_of(name: &str) -> &'static Object {
    const NONE: Object = object("", &[]);
    OBJECTS.iter().find(|object| object.name == name).unwrap_or(&NONE)
}

/// Every field below an object, with its path: `placement.waves.hold`.
pub fn paths(object: &str) -> Vec<(String, &'static Field)> {
    let mut found = Vec::new();
    for field in object_of(object).fields {
        found.push((field.name.to_owned(), field));
        if let Some(inner) = field.kind.object() {
            found.extend(
                paths(inner)
                    .into_iter()
                    .map(|(path, inner)| (format!("{}.{path}", field.name), inner)),
            );
        }
    }
    found
}

/// The known name closest to a mistyped one.
pub fn did_you_mean<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    nearest(text, known).map(|name| format!("did you mean {name:?}?"))
}

pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The distance costs the product of both lengths, and nobody mistypes a novel.
    const LONGEST_BYTES: usize = 64;
    if text.len() > LONGEST_BYTES {
        return None;
    }
    let near = known
        .map(|name| (strsim::damerau_levenshtein(&text.to_lowercase(), &name.to_lowercase()), name))
        .min()?;
    (near.0 <= 1 + text.len() / 4).then_some(near.1)
}

/// What to do about a field that its object does not have.
pub fn unknown_field_hint(object: &Object, name: &str) -> String {
    let names = object.fields.iter().map(|field| field.name);
    if let Some(hint) = did_you_mean(name, names.clone()) {
        return hint;
    }
    // Written one level too high or too low.
    let below = paths(object.name).into_iter().find(|(_, field)| field.name == name);
    if let Some((path, _)) = below {
        return format!("did you mean {path}?");
    }
    let above = KINDS
        .iter()
        .find_map(|(_, spec)| object_of(spec).fields.iter().find(|field| field.name == name).map(|_| *spec));
    match above.filter(|spec| *spec != object.name && object.name != "metadata") {
        Some(_) => format!("did you mean spec.{name}?"),
        None => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
    }
}
