//! From the bytes of `holdfast.yaml` to what it says, or to every problem in it at its place. Reads no other file: what
//! it names is looked at when it is used.

use super::*;
use holdfast_core::ids::is_name;
use holdfast_core::manifest::yaml::{self, Content, Node};
use holdfast_core::manifest::{Severity, operator_problem};
use serde::de::DeserializeOwned;

pub(super) const FIELDS: [&str; 16] = [
    "repository",
    "data",
    "socket",
    "listen",
    "registries",
    "plugins",
    "plugin_keys",
    "bindings",
    "users",
    "metrics",
    "secrets",
    "ledger",
    "limits",
    "select",
    "way_back",
    "tag_poll",
];
/// Fields of the design that only come later.
const LATER: [&str; 3] = ["/telemetry", "/notifications", "/api"];
/// Unknown fields of one part that are told at once.
const UNKNOWN_FIELDS_MAX: usize = 50;

/// All problems of the file at once, with the file's text for showing them.
pub fn check(file: &Path, bytes: &[u8]) -> Result<Operator, Vec<Problem>> {
    let name = file.display().to_string();
    let yaml::Stream {
        documents: nodes,
        problems,
        ..
    } = yaml::read(&name, bytes);
    if !problems.is_empty() {
        return Err(problems);
    }
    let problem = |node: Option<&Node>, message: &str| Err(vec![operator_problem(&name, node, "", message)]);
    let Some(node) = nodes.first() else {
        return problem(None, "the file is empty; `holdfast init` writes a commented one");
    };
    if nodes.len() > 1 {
        return problem(nodes.get(1), "the file has more than one document");
    }
    let Content::Map(entries) = &node.content else {
        return problem(
            Some(node),
            "this is no map of fields; `holdfast init` writes a commented file",
        );
    };
    let mut reader = Reader {
        file: &name,
        root: node,
        problems: Vec::new(),
    };
    for (key, _) in entries {
        let pointer = format!("/{}", escape(&key.text));
        if LATER.contains(&pointer.as_str()) {
            reader.later(&pointer);
        } else if !FIELDS.contains(&key.text.as_str()) {
            let known = FIELDS.map(|field| format!("`{field}`")).join(", ");
            reader.problem(&pointer, format!("unknown field `{}`, expected one of {known}", key.text));
        }
    }
    let repository = reader.required("repository");
    let data = reader.required("data");
    let operator = Operator {
        file: file.to_owned(),
        digest: Digest::of(bytes),
        // What is missing was said; its stand-in is never used.
        repository: repository.unwrap_or_else(|| GitConfig::new("")),
        data: data.unwrap_or_default(),
        socket: reader.optional("/socket"),
        listen: reader.optional("/listen"),
        registries: reader.list("registries"),
        plugins: reader.map("/plugins"),
        plugin_keys: reader.plugin_keys(),
        bindings: reader.list("bindings"),
        users: reader.map("/users"),
        metrics: reader.metrics(),
        secrets: reader.optional("/secrets"),
        ledger: reader.optional("/ledger"),
        limits: reader.optional("/limits").unwrap_or_default(),
        select: reader.optional("/select").unwrap_or_default(),
        way_back: reader.optional("/way_back").unwrap_or_default(),
        tag_poll: reader
            .optional("/tag_poll")
            .map_or(EngineConfig::default().tag_poll_ms, |Duration(ms)| ms),
    };
    reader.meaning(&operator);
    let mut problems = reader.problems;
    problems.sort_by_key(|problem| (problem.line, problem.column));
    if problems.is_empty() { Ok(operator) } else { Err(problems) }
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

struct Reader<'a> {
    file: &'a str,
    root: &'a Node,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, pointer: &str, message: impl AsRef<str>) {
        let problem = operator_problem(self.file, Some(self.root), pointer, message.as_ref());
        self.problems.push(problem);
    }

    fn later(&mut self, pointer: &str) {
        let field = pointer.rsplit('/').next().unwrap_or_default();
        let mut problem = operator_problem(self.file, Some(self.root), pointer, "");
        problem.code = "not-in-this-version";
        problem.severity = Severity::Error;
        problem.message = format!("{field:?} is known, but not in this version");
        problem.hint = Some("take it out for now".into());
        self.problems.push(problem);
    }

    /// A key without a value is as good as none.
    fn node(&self, pointer: &str) -> Option<&Node> {
        let mut node = self.root;
        for part in pointer.split('/').skip(1) {
            let key = part.replace("~1", "/").replace("~0", "~");
            node = match &node.content {
                Content::List(items) => items.get(key.parse::<usize>().ok()?)?,
                _ => node.get(&key)?,
            };
        }
        (!matches!(&node.content, Content::Scalar(Value::Null, _))).then_some(node)
    }

    fn required<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        let pointer = format!("/{field}");
        if self.node(&pointer).is_none() {
            self.problem(&pointer, format!("missing field `{field}`"));
        }
        self.optional(&pointer)
    }

    /// Unknown fields are told and put aside, so that the next ones are found too; another mistake ends it.
    fn optional<T: DeserializeOwned>(&mut self, pointer: &str) -> Option<T> {
        let mut value = self.node(pointer)?.to_value();
        for _ in 0..UNKNOWN_FIELDS_MAX {
            let error = match serde_path_to_error::deserialize::<_, T>(value.clone()) {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            let mut inside = String::new();
            for segment in error.path() {
                use serde_path_to_error::Segment;
                match segment {
                    Segment::Seq { index } => inside.push_str(&format!("/{index}")),
                    Segment::Map { key } => inside.push_str(&format!("/{}", escape(key))),
                    Segment::Enum { variant } => inside.push_str(&format!("/{}", escape(variant))),
                    Segment::Unknown => {}
                }
            }
            let message = error.into_inner().to_string();
            let unknown = message
                .strip_prefix("unknown field `")
                .and_then(|rest| rest.split('`').next())
                .map(escape);
            if let Some(field) = &unknown
                && !inside.ends_with(&format!("/{field}"))
            {
                inside.push_str(&format!("/{field}"));
            }
            self.problem(&format!("{pointer}{inside}"), message);
            let (Some(_), Some((parent, field))) = (unknown, inside.rsplit_once('/')) else {
                return None;
            };
            value
                .pointer_mut(parent)?
                .as_object_mut()?
                .remove(&field.replace("~1", "/").replace("~0", "~"))?;
        }
        None
    }

    /// Each item by itself, so that a mistake in one hides none in another.
    fn list<T: DeserializeOwned>(&mut self, field: &str) -> Vec<T> {
        let pointer = format!("/{field}");
        let count = match self.node(&pointer).map(|node| &node.content) {
            None => return Vec::new(),
            Some(Content::List(items)) => items.len(),
            Some(_) => {
                self.problem(&pointer, format!("{field} is a list"));
                return Vec::new();
            }
        };
        // A wrong one keeps the places of the others, but it is said already: nothing of this is used.
        (0..count)
            .filter_map(|index| self.optional(&format!("{pointer}/{index}")))
            .collect()
    }

    fn map<T: DeserializeOwned>(&mut self, pointer: &str) -> BTreeMap<String, T> {
        let keys: Vec<String> = match self.node(pointer).map(|node| &node.content) {
            None => return BTreeMap::new(),
            Some(Content::Map(entries)) => entries.iter().map(|(key, _)| key.text.clone()).collect(),
            Some(_) => {
                let field = pointer.rsplit('/').next().unwrap_or_default();
                self.problem(pointer, format!("{field} is a map from names"));
                return BTreeMap::new();
            }
        };
        keys.into_iter()
            .filter_map(|key| {
                let value = self.optional(&format!("{pointer}/{}", escape(&key)))?;
                Some((key, value))
            })
            .collect()
    }

    fn plugin_keys(&mut self) -> Vec<VerifierKey> {
        let texts: Vec<String> = self.list("plugin_keys");
        let mut keys = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match text.parse() {
                Ok(key) => keys.push(key),
                Err(error) => self.problem(&format!("/plugin_keys/{index}"), format!("{error}")),
            }
        }
        keys
    }

    fn metrics(&mut self) -> MetricsConfig {
        let sources = self.map("/metrics/sources");
        let unknown: Vec<String> = match self.node("/metrics").map(|node| &node.content) {
            Some(Content::Map(entries)) => entries.iter().map(|(key, _)| key.text.clone()).collect(),
            Some(_) => vec![String::new()],
            None => Vec::new(),
        };
        for key in unknown.iter().filter(|key| *key != "sources") {
            let pointer = format!("/metrics/{}", escape(key));
            self.problem(&pointer, format!("unknown field `{key}`, expected `sources`"));
        }
        MetricsConfig { sources }
    }

    /// What each value says, where its form is right.
    fn meaning(&mut self, operator: &Operator) {
        if self.problems.iter().any(|problem| problem.code == "invalid") {
            // Places are by index and would be wrong after an item that could not be read.
            return;
        }
        self.repository(&operator.repository);
        if operator.listen.is_some_and(|address| !address.ip().is_loopback()) {
            self.problem(
                "/listen",
                "health and metrics have no authentication: listen on a loopback address, as in 127.0.0.1:7600",
            );
        }
        for (index, entry) in operator.bindings.iter().enumerate() {
            self.binding(&format!("/bindings/{index}"), entry, operator);
        }
        for (user, config) in &operator.users {
            let pointer = format!("/users/{}", escape(user));
            if config.name.trim().is_empty() {
                self.problem(&format!("{pointer}/name"), "a person has a name");
            }
            for (index, email) in config.emails.iter().enumerate().filter(|(_, email)| !email.contains('@')) {
                self.problem(
                    &format!("{pointer}/emails/{index}"),
                    format!("{email:?} is no e-mail address"),
                );
            }
        }
        for (source, config) in &operator.metrics.sources {
            let pointer = format!("/metrics/sources/{}", escape(source));
            let is_http = reqwest::Url::parse(&config.url).is_ok_and(|url| {
                matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
            });
            if !is_http {
                self.problem(
                    &format!("{pointer}/url"),
                    format!("{:?} is not http://HOST or https://HOST, without credentials", config.url),
                );
            }
            self.auth(&format!("{pointer}/auth"), config.auth.as_ref());
        }
        for (index, grant) in operator.secrets.iter().flat_map(|secrets| secrets.grants.iter().enumerate()) {
            if grant.names.is_empty() {
                self.problem(&format!("/secrets/grants/{index}/names"), "a grant names at least one secret");
            }
        }
        if let Some(pin) = operator.ledger.as_ref().and_then(|ledger| ledger.pin.as_ref())
            && let Err(error) = pin.git().check()
        {
            self.problem("/ledger/pin/url", error.message);
        }
        if !(100..=600_000).contains(&operator.limits.call_deadline_ms) {
            self.problem("/limits/call_deadline_ms", "a call has between 100 and 600000 ms");
        }
    }

    fn repository(&mut self, repository: &GitConfig) {
        if !is_name(&repository.name) {
            self.problem("/repository/name", "a name is a-z, 0-9 and -, a letter first, at most 63");
        }
        if let Err(error) = repository.check() {
            self.problem("/repository/url", error.message);
        }
        if !git2::Reference::is_valid_name(&format!("refs/heads/{}", repository.branch)) {
            self.problem(
                "/repository/branch",
                format!("{:?} is no name of a branch", repository.branch),
            );
        }
        if repository.path.starts_with('/') || repository.path.split('/').any(|part| matches!(part, "." | "..")) {
            self.problem("/repository/path", "a path inside the repository, as in clusters/prod");
        }
    }

    fn binding(&mut self, pointer: &str, entry: &BindingEntry, operator: &Operator) {
        let known = operator.plugins.contains_key(&entry.plugin)
            || crate::builtin::plugins().iter().any(|(name, _)| *name == entry.plugin);
        if !known {
            self.problem(
                &format!("{pointer}/plugin"),
                format!("no plugin {:?}: neither built in nor under `plugins`", entry.plugin),
            );
        }
        let config = entry.binding();
        for (alias, endpoint) in &config.endpoints {
            let pointer = format!("{pointer}/endpoints/{}", escape(alias));
            self.auth(&format!("{pointer}/auth"), endpoint.auth.as_ref());
            // Certificates are read when the daemon starts, not here.
            let endpoint = holdfast_host::EndpointConfig {
                ca_file: None,
                ..endpoint.clone()
            };
            let alone = BindingConfig {
                endpoints: [(alias.clone(), endpoint)].into(),
                probe_networks: Vec::new(),
            };
            if let Err(error) = Binding::new(&alone) {
                self.problem(&pointer, error.to_string());
            }
        }
        for (index, network) in entry.probe_networks.iter().enumerate() {
            let alone = BindingConfig {
                endpoints: BTreeMap::new(),
                probe_networks: vec![network.clone()],
            };
            if let Err(error) = Binding::new(&alone) {
                self.problem(&format!("{pointer}/probe_networks/{index}"), error.to_string());
            }
        }
    }

    fn auth(&mut self, pointer: &str, auth: Option<&AuthConfig>) {
        if auth.is_some_and(|auth| auth.bearer_token_file.is_some() == auth.basic.is_some()) {
            self.problem(pointer, "give either `bearer_token_file` or `basic`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "repository: { url: x }\ndata: d\n";

    /// Code, line and column of each problem.
    fn problems(text: &str) -> Vec<(&'static str, u32, u32)> {
        let problems = check(Path::new("h.yaml"), text.as_bytes()).err().unwrap_or_default();
        problems
            .iter()
            .map(|problem| (problem.code, problem.line, problem.column))
            .collect()
    }

    /// In what `init` writes, exactly one space after the `#` makes prose; everything else is an example.
    fn uncommented(text: &str) -> String {
        let line = |line: &str| {
            let example = line.trim_start().strip_prefix('#').filter(|rest| {
                let mut chars = rest.chars();
                chars.next().is_some_and(|c| c != ' ') || chars.next() == Some(' ')
            });
            match example {
                Some(_) => line.replacen('#', "", 1),
                None => line.to_owned(),
            }
        };
        text.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_init_writes_is_valid_and_shows_everything() {
        let text = commented("/srv/deploy.git");
        let operator = check(Path::new("holdfast.yaml"), text.as_bytes()).unwrap();
        assert_eq!(operator.repository.branch, "main");
        assert_eq!(
            (&operator.limits, &operator.select),
            (&Limits::default(), &SelectConfig::default())
        );
        let all = uncommented(&text);
        let operator = check(Path::new("holdfast.yaml"), all.as_bytes()).unwrap_or_else(|problems| panic!("{problems:?}\n{all}"));
        assert_eq!(operator.users["ada"].emails, ["ada@example.com"]);
        assert_eq!(
            operator.engine_config(BTreeMap::new(), BTreeMap::new()).unwrap().bindings[0].fixed["site"],
            "a"
        );
        for field in FIELDS {
            assert!(
                all.lines().any(|line| line.starts_with(&format!("{field}:"))),
                "{field} is not shown"
            );
        }
        let rules = crate::builtin::metadata("edge").unwrap().rules_of("site").unwrap();
        assert_eq!(rules.len(), 8);
    }

    #[test]
    fn problems_have_a_place() {
        for (text, code, line, column) in [
            ("bindigs: []", "unknown-field", 3, 1),
            ("tag_poll: often", "invalid", 3, 1),
            ("bindings: [ { target: a, plugin: nope } ]", "invalid", 3, 26),
            ("data: e", "duplicate-key", 3, 1),
            ("telemetry: { url: x }", "not-in-this-version", 3, 1),
            ("api: { tokens: [] }", "not-in-this-version", 3, 1),
            ("listen: 0.0.0.0:80", "invalid", 3, 1),
            ("listen: 127.0.0.1", "invalid", 3, 1),
            ("users: { ada: { name: Ada, emails: [ ada ] } }", "invalid", 3, 38),
            ("users: [ ada ]", "invalid", 3, 1),
            ("way_back: maybe", "invalid", 3, 1),
            ("limits: { call_deadline_ms: 1 }", "invalid", 3, 11),
            ("limits: { removal_grace: 5 }", "invalid", 3, 11),
            ("select: { settl: 1m }", "unknown-field", 3, 11),
            ("metrics: { sources: { main: { url: ftp://x } } }", "invalid", 3, 31),
            ("metrics: { source: {} }", "unknown-field", 3, 12),
            (
                "metrics: { sources: { main: { url: \"http://x\", auth: {} } } }",
                "invalid",
                3,
                48,
            ),
            ("secrets: { grants: [] }", "invalid", 3, 1),
            (
                "secrets: { dir: s, grants: [ { target: a, workload: b, names: [] } ] }",
                "invalid",
                3,
                56,
            ),
            (
                "bindings: [ { target: a, plugin: edge, endpoints: { site: { url: \"ftp://x\" } } } ]",
                "invalid",
                3,
                53,
            ),
            (
                "bindings: [ { target: a, plugin: edge, endpoints: { site: {} } } ]",
                "invalid",
                3,
                53,
            ),
            (
                "bindings: [ { target: a, plugin: edge, probe_networks: [ here ] } ]",
                "invalid",
                3,
                58,
            ),
        ] {
            assert_eq!(problems(&format!("{START}{text}\n")), [(code, line, column)], "{text}");
        }
        for (text, expected) in [
            ("", ("invalid", 1, 1)),
            ("- a", ("invalid", 1, 1)),
            ("data: d\n---\na: b\n", ("invalid", 3, 1)),
            ("data: d\n", ("invalid", 1, 1)),
            ("data: d\nrepository: { url: x, path: ../up }\n", ("invalid", 2, 23)),
            ("data: d\nrepository: { url: x, branch: a..b }\n", ("invalid", 2, 23)),
            ("data: d\nrepository: { url: \"ssh://git@h/x\" }\n", ("invalid", 2, 15)),
            (
                "data: d\nrepository: { url: x, trust: { require: some, allowed_signers_file: f } }\n",
                ("invalid", 2, 32),
            ),
            (
                "data: d\nrepository: { url: x, trust: { require: signed } }\n",
                ("invalid", 2, 23),
            ),
            (
                "data: d\nrepository: { url: x, auth: { basic: { username: a, password: b } } }\n",
                ("unknown-field", 2, 53),
            ),
        ] {
            let found = problems(text);
            assert!(found.contains(&expected), "{text}: {found:?}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = "repository: { urll: x, url: x, brunch: y }\ndata: d\ntag_poll: often\nlimits: { removal_grace: soon, heals: 1 }\n\
                    bindings:\n  - { target: a }\n  - { target: b, plugin: edge, endpoint: {} }\nusers:\n  ada: { nam: Ada }\nextra: 1\n";
        let found: Vec<u32> = problems(text).into_iter().map(|(_, line, _)| line).collect();
        assert_eq!(found, [1, 1, 3, 4, 4, 6, 7, 9, 9, 10]);
    }

    #[test]
    fn a_certificate_is_not_looked_for_in_the_working_directory() {
        let text = format!(
            "{START}bindings: [ {{ target: a, plugin: edge, endpoints: {{ site: {{ url: \"https://x\", ca_file: ca.crt }} }} }} ]\n"
        );
        assert_eq!(problems(&text), []);
    }
}
