//! The guests, compiled once for the tests, and the calls that make them act.

use holdfast_core::target::{CallContext, Generation};
use holdfast_host::{
    ArtifactSource, Binding, CallFailure, CallOptions, CallReport, FailureClass, Limits, Plugin, PluginHost, SecretValue,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub const DEADLINE: Duration = Duration::from_secs(20);
pub const NOW_MS: u64 = 1_700_000_000_123;

/// Compiles a guest for wasm32-wasip2, in a target directory of its own.
pub fn component(package: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .args([
                "build",
                "--locked",
                "--profile",
                "guest",
                "--target",
                "wasm32-wasip2",
                "--target-dir",
            ])
            .arg(&dir)
            .args([
                "-p",
                "holdfast-hostile-plugin",
                "-p",
                "holdfast-example-plugin-minimal",
                "-p",
                "holdfast-plugin-edge",
            ]);
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
        ] {
            cargo.env_remove(name);
        }
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        dir.join("wasm32-wasip2/guest")
    });
    std::fs::read(dir.join(format!("{}.wasm", package.replace('-', "_")))).unwrap()
}

pub fn host() -> &'static PluginHost {
    static HOST: OnceLock<PluginHost> = OnceLock::new();
    HOST.get_or_init(|| PluginHost::new(Limits::default(), None).unwrap())
}

pub fn hostile() -> &'static Plugin {
    static HOSTILE: OnceLock<Plugin> = OnceLock::new();
    HOSTILE.get_or_init(|| host().load("hostile", &component("holdfast-hostile-plugin")).unwrap())
}

pub fn context(ops: &Value) -> CallContext {
    CallContext {
        owner: "owner123".into(),
        target: "site-a".into(),
        config: json!({ "ops": ops }).to_string(),
        fence: 7,
        deploy_id: "d1".into(),
        resume: None,
    }
}

pub fn generation(number: u32) -> Generation {
    Generation {
        workload: "main/shop".into(),
        key: "shop".into(),
        name: format!("shop-g{number}"),
        number,
        release_id: "r".into(),
        artifacts: Vec::new(),
        template: "{}".into(),
        files: Vec::new(),
        secrets: Vec::new(),
        stamps: Vec::new(),
        drain_ms: 0,
    }
}

pub struct Call {
    pub context: CallContext,
    pub binding: Option<Arc<Binding>>,
    pub deadline: Duration,
    pub secrets: Vec<SecretValue>,
    pub artifacts: Option<Arc<dyn ArtifactSource>>,
    pub subject: Generation,
}

impl Call {
    pub fn new(ops: Value) -> Self {
        Self {
            context: context(&ops),
            binding: None,
            deadline: DEADLINE,
            secrets: Vec::new(),
            artifacts: None,
            subject: generation(2),
        }
    }

    pub fn with(mut self, binding: &Arc<Binding>) -> Self {
        self.binding = Some(binding.clone());
        self
    }

    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub fn options(&self) -> CallOptions<'_> {
        CallOptions {
            binding: self.binding.clone(),
            context: &self.context,
            deadline: self.deadline,
            now_ms: NOW_MS,
            secrets: &self.secrets,
            artifacts: self.artifacts.clone(),
        }
    }

    /// What the guest said in a reading verb.
    pub async fn observe(&self) -> Result<Vec<String>, CallFailure> {
        let report = hostile().observe(&self.options(), None).await;
        report.answer.map(|page| page.strangers)
    }

    /// What the guest said in a mutating verb.
    pub async fn launch(&self) -> Result<Vec<String>, CallFailure> {
        let report = hostile().launch(&self.options(), &self.subject, 1).await;
        Ok(match report.answer? {
            holdfast_core::target::Progress::Pending { resume, .. } => resume.lines().map(str::to_owned).collect(),
            holdfast_core::target::Progress::Done => Vec::new(),
        })
    }
}

pub fn class<T: std::fmt::Debug>(report: &CallReport<T>) -> Option<FailureClass> {
    match &report.answer {
        Err(CallFailure::Failed { class, .. }) => Some(*class),
        _ => None,
    }
}
