//! What the built-in plugins may send, granted where a binding gives no rules of its own. A plugin's alias comes first.

/// Plugin, alias, and rules as in `holdfast.yaml`.
pub const BUILT_IN: [(&str, &str, &str); 2] = [("edge", "site", EDGE), ("kubernetes", "cluster", KUBERNETES)];

const EDGE: &str = r#"
- { effect: read, methods: [GET], path: /v1/site }
- { effect: read, methods: [GET], path: /v1/room }
- { effect: read, methods: [GET], path: "/v1/workloads/{key}/generations/*/telemetry" }
- { effect: read, methods: [GET], path: "/v1/workloads/{key}/generations/*/diagnosis" }
- { effect: write, methods: [PUT, DELETE], path: "/v1/workloads/{key}/generations/*" }
- { effect: write, methods: [PUT], path: "/v1/workloads/{key}/generations/*/size" }
- { effect: write, methods: [PUT], path: "/v1/workloads/{key}/generations/*/jobs/*" }
- { effect: write, methods: [PUT], path: "/v1/workloads/{key}/route" }
"#;

/// Which namespace, the token's role says. Lists of Secrets are not among them, nor exec, attach, proxy or tokens.
const KUBERNETES: &str = r#"
- { effect: read, methods: [GET], path: "/apis/apps/v1/namespaces/*/deployments?**" }
- { effect: read, methods: [GET], path: "/apis/apps/v1/namespaces/*/deployments/*" }
- { effect: read, methods: [PATCH], path: "/apis/apps/v1/namespaces/*/deployments/*?dryRun=All&force=true&fieldManager=holdfast" }
- { effect: read, methods: [GET], path: "/apis/batch/v1/namespaces/*/jobs?**" }
- { effect: read, methods: [GET], path: "/apis/batch/v1/namespaces/*/jobs/*" }
- { effect: read, methods: [GET], path: "/apis/gateway.networking.k8s.io/v1/namespaces/*/httproutes?**" }
- { effect: read, methods: [GET], path: "/apis/gateway.networking.k8s.io/v1/namespaces/*/httproutes/*" }
- { effect: read, methods: [GET], path: "/apis/policy/v1/namespaces/*/poddisruptionbudgets?**" }
- { effect: read, methods: [GET], path: "/api/v1/namespaces/*/services?**" }
- { effect: read, methods: [GET], path: "/api/v1/namespaces/*/services/*" }
- { effect: read, methods: [GET], path: "/api/v1/namespaces/*/configmaps/*" }
- { effect: read, methods: [GET], path: "/api/v1/namespaces/*/pods?**" }
- { effect: read, methods: [GET], path: "/api/v1/namespaces/*/pods/*/log?**" }
- { effect: read, methods: [GET], path: "/api/v1/namespaces/*/events?**" }
- { effect: read, methods: [GET], path: "/api/v1/namespaces/*/resourcequotas?**" }
- { effect: write, methods: [POST], path: "/apis/apps/v1/namespaces/*/deployments?fieldManager=holdfast", body_name_pointer: /metadata/name }
- { effect: write, methods: [PATCH], path: "/apis/apps/v1/namespaces/*/deployments/{name}?fieldManager=holdfast" }
- { effect: write, methods: [PUT], path: "/apis/apps/v1/namespaces/*/deployments/{name}/scale" }
- { effect: write, methods: [DELETE], path: "/apis/apps/v1/namespaces/*/deployments/{name}" }
- { effect: write, methods: [POST], path: "/apis/batch/v1/namespaces/*/jobs?fieldManager=holdfast" }
- { effect: write, methods: [PATCH], path: "/apis/batch/v1/namespaces/*/jobs/*?fieldManager=holdfast" }
- { effect: write, methods: [DELETE], path: "/apis/batch/v1/namespaces/*/jobs/*" }
- { effect: write, methods: [POST], path: "/api/v1/namespaces/*/services?fieldManager=holdfast" }
- { effect: write, methods: [PATCH], path: "/api/v1/namespaces/*/services/{key}?fieldManager=holdfast" }
- { effect: write, methods: [DELETE], path: "/api/v1/namespaces/*/services/{key}" }
- { effect: write, methods: [POST], path: "/apis/gateway.networking.k8s.io/v1/namespaces/*/httproutes?fieldManager=holdfast" }
- { effect: write, methods: [PATCH], path: "/apis/gateway.networking.k8s.io/v1/namespaces/*/httproutes/{key}?fieldManager=holdfast" }
- { effect: write, methods: [DELETE], path: "/apis/gateway.networking.k8s.io/v1/namespaces/*/httproutes/{key}" }
- { effect: write, methods: [POST], path: "/api/v1/namespaces/*/configmaps?fieldManager=holdfast" }
- { effect: write, methods: [PATCH], path: "/api/v1/namespaces/*/configmaps/*?**" }
- { effect: write, methods: [DELETE], path: "/api/v1/namespaces/*/configmaps/*" }
- { effect: write, methods: [GET, DELETE], path: "/api/v1/namespaces/*/secrets/*" }
- { effect: write, methods: [POST], path: "/api/v1/namespaces/*/secrets?fieldManager=holdfast" }
- { effect: write, methods: [PATCH], path: "/api/v1/namespaces/*/secrets/*?fieldManager=holdfast" }
"#;

#[cfg(test)]
mod tests {
    use holdfast_host::RuleConfig;

    #[test]
    fn they_parse() {
        for (plugin, _, text) in super::BUILT_IN {
            let rules: Vec<RuleConfig> = serde_yaml::from_str(text).unwrap();
            assert_eq!(rules.len(), text.lines().count() - 1, "{plugin}");
        }
    }
}
