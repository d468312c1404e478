//! The demo: to come.

#[derive(clap::Args)]
pub struct DemoArgs {}

pub fn run(_: &DemoArgs, _: bool) -> Result<std::process::ExitCode, std::convert::Infallible> {
    Ok(std::process::ExitCode::SUCCESS)
}
