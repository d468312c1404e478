//! `plugin`: what authors and operators do with plugins. The host, its limits and the compiler are the daemon's own.

mod author;
mod call;
mod distribute;
mod inspect;
mod test;

use super::commands::Why;
use super::error::CliError;
use super::show::Out;
use holdfast_host::{Limits, Plugin, PluginHost};
use holdfast_registry::{PulledComponent, Reference, Registries, RegistryConfig};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const COMPONENT_MAX_BYTES: u64 = 64 << 20;

#[derive(clap::Subcommand)]
pub enum PluginCommand {
    /// Begin a plugin: a whole one that passes `plugin test`, with the SDK beside it
    New(author::NewArgs),
    /// Build the plugin in a directory into plugin.wasm, with its metadata
    Build(author::BuildArgs),
    /// Say what a component is and what it wants, without running it
    Inspect {
        #[command(flatten)]
        component: Component,
    },
    /// Say what an upgrade wants that the present one does not
    Diff {
        /// File, or reference in a registry
        old: String,
        /// File, or reference in a registry
        new: String,
        #[command(flatten)]
        registries: RegistryArgs,
    },
    /// Check every promise of the contract against a simulated target
    Test(test::TestArgs),
    /// Call one verb, as the daemon would
    Run(call::RunArgs),
    /// Measure loading and calling, against a simulated target
    Bench(test::BenchArgs),
    /// Serve a simulated target over HTTP, for a daemon to drive
    Simulate(test::SimulateArgs),
    /// Push a component to a registry, or into a layout directory
    Push(distribute::PushArgs),
    /// Pull a component, and say how it is pinned in holdfast.yaml
    Pull(distribute::PullArgs),
    /// Let the configured version of a plugin have what it newly wants
    Approve {
        /// Its name in holdfast.yaml
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// Check who signed a component
    Verify(distribute::VerifyArgs),
}

#[derive(clap::Args)]
pub struct Component {
    /// File, or reference in a registry, as in registry.example.com/plugins/mine:1.0
    component: String,
    #[command(flatten)]
    registries: RegistryArgs,
}

#[derive(clap::Args)]
pub struct RegistryArgs {
    /// YAML file with registries, as under `registries` in holdfast.yaml; default: those of --config
    #[arg(long, value_name = "FILE")]
    registries: Option<PathBuf>,
}

impl RegistryArgs {
    fn open(&self, config: &Path) -> Result<Registries, CliError> {
        let configs: Vec<RegistryConfig> = match &self.registries {
            None => crate::operator::load(config)?.registries,
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(cannot(file, "read"))?;
                let mut configs: Vec<RegistryConfig> = serde_yaml::from_str(&text).map_err(|error| {
                    CliError::usage(format!("{}: {error}", file.display()), "it is a list, as under `registries`")
                })?;
                let base = file.parent().unwrap_or(Path::new(""));
                for config in &mut configs {
                    let auth = config.auth.iter_mut().map(|auth| &mut auth.password_file);
                    config
                        .layout
                        .iter_mut()
                        .chain(&mut config.ca_file)
                        .chain(auth)
                        .for_each(|path| *path = base.join(&*path));
                }
                configs
            }
        };
        // Somebody else of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Registries::new(&configs).map_err(|error| CliError::usage(error.to_string(), ""))
    }
}

/// What is wrong with something given, rather than with the world.
fn unusable(error: impl std::fmt::Display) -> CliError {
    CliError::usage(error.to_string(), "")
}

fn cannot(path: &Path, what: &str) -> impl FnOnce(std::io::Error) -> CliError + use<> {
    let what = format!("{} cannot be {what}", path.display());
    move |source| CliError::io(what, source)
}

/// A file's bytes, or what a registry has; of the latter with its manifest.
fn fetch(config: &Path, place: &str, registries: &RegistryArgs) -> Result<(Vec<u8>, Option<PulledComponent>), CliError> {
    let path = Path::new(place);
    if path.is_file() {
        return Ok((read_component(path)?, None));
    }
    let reference = Reference::parse(place).map_err(|error| {
        CliError::usage(
            format!("{place:?} is neither a file nor a reference: {error}"),
            "give a .wasm file, or registry.example.com/plugins/mine:1.0",
        )
    })?;
    let registries = registries.open(config)?;
    let pulled = super::run::runtime()?.block_on(registries.pull_component(&reference, COMPONENT_MAX_BYTES));
    let pulled = pulled.map_err(|error| CliError::io(format!("{place} cannot be pulled"), std::io::Error::other(error)))?;
    Ok((pulled.component.clone(), Some(pulled)))
}

fn read_component(path: &Path) -> Result<Vec<u8>, CliError> {
    let size = std::fs::metadata(path).map_err(cannot(path, "read"))?.len();
    if size > COMPONENT_MAX_BYTES {
        return Err(CliError::usage(
            format!(
                "{} has {size} bytes; a plugin has at most {COMPONENT_MAX_BYTES}",
                path.display()
            ),
            "",
        ));
    }
    std::fs::read(path).map_err(cannot(path, "read"))
}

/// Compiles, links and starts it as the daemon would.
fn load(path: &Path) -> Result<Plugin, CliError> {
    let bytes = read_component(path)?;
    let host = PluginHost::new(Limits::default(), None).map_err(unusable)?;
    let name = path
        .file_stem()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    host.load(&name, &bytes).map_err(unusable)
}

pub fn run(config: &Path, command: &PluginCommand, out: &Out) -> Result<ExitCode, CliError> {
    match command {
        PluginCommand::New(args) => author::new(args, out),
        PluginCommand::Build(args) => author::build(args, out),
        PluginCommand::Inspect { component } => inspect::inspect(config, component, out),
        PluginCommand::Diff { old, new, registries } => inspect::diff(config, old, new, registries, out),
        PluginCommand::Test(args) => test::test(args, out),
        PluginCommand::Run(args) => call::run(config, args, out),
        PluginCommand::Bench(args) => test::bench(args, out),
        PluginCommand::Simulate(args) => test::simulate(args),
        PluginCommand::Approve { name, why } => super::commands::allow_plugin(config, name, why, out),
        PluginCommand::Push(args) => distribute::push(config, args, out),
        PluginCommand::Pull(args) => distribute::pull(config, args, out),
        PluginCommand::Verify(args) => distribute::verify(config, args, out),
    }
}
