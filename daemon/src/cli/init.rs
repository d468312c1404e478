//! `init`: the operator's configuration, and with `--edge` everything that one site on this machine needs.

use super::error::CliError;
use crate::operator::commented;
use holdfast_core::ids::{hex, is_name};
use std::io::Write as _;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Bundles of this registry are layouts in a directory beside the configuration: no server is needed.
pub const LAYOUT_HOST: &str = "bundles.local";
pub const LAYOUT_DIR: &str = "bundles";

pub fn init(config: &Path, repository: &str, edge: Option<&str>) -> Result<ExitCode, CliError> {
    if let Some(name) = edge.filter(|name| !is_name(name)) {
        return Err(CliError::usage(
            format!("{name:?} cannot name a target"),
            "a-z, 0-9 and -, a letter first, at most 63",
        ));
    }
    let beside = |name: String| config.with_file_name(name);
    let token = edge.map(|name| beside(format!("{name}.token")));
    let registries = edge.map(|_| beside("registries.yaml".into()));
    let files: Vec<&Path> = std::iter::once(config)
        .chain(token.as_deref())
        .chain(registries.as_deref())
        .collect();
    if let Some(there) = files.iter().find(|file| file.exists()) {
        return Err(CliError::usage(
            format!("{} is there already", there.display()),
            "--config names another file",
        ));
    }
    let place = match Path::new(repository).exists() {
        true => std::path::absolute(repository).map_or(repository.to_owned(), |path| path.display().to_string()),
        false => repository.to_owned(),
    };
    let text = commented(&place);
    let (Some(name), Some(token), Some(registries)) = (edge, token, registries) else {
        write(config, &text, 0o644)?;
        let _ = writeln!(
            std::io::stderr(),
            "wrote {}; name your registries and bindings in it, then: holdfast validate {0} && holdfast run",
            config.display()
        );
        return Ok(ExitCode::SUCCESS);
    };
    write(config, &with_edge(&text, name), 0o644)?;
    let entry = format!(
        "# What the site may pull from: the same as in {}.\n- {{ host: {LAYOUT_HOST}, layout: {LAYOUT_DIR} }}\n",
        config.display()
    );
    write(&registries, &entry, 0o644)?;
    write(&token, &format!("{}\n", random_token()?), 0o600)?;
    let bundles = beside(LAYOUT_DIR.into());
    std::fs::create_dir_all(&bundles).map_err(|source| CliError::io(format!("{} cannot be made", bundles.display()), source))?;
    let _ = writeln!(
        std::io::stderr(),
        "wrote {}, {} and {}; next:\n  holdfast edge-node --dir {name} --token-file {1} --registries {2} &\n  holdfast run &",
        config.display(),
        token.display(),
        registries.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// The commented file with the site's binding and the local layouts filled in.
fn with_edge(text: &str, name: &str) -> String {
    let registries = format!(
        "registries:\n  # A directory of OCI image layouts, one per repository: `holdfast bundle pack` writes them.\n  - {{ host: {LAYOUT_HOST}, layout: {LAYOUT_DIR} }}"
    );
    let bindings = format!(
        "bindings:\n  - target: {name}\n    plugin: edge\n    endpoints:\n      site: {{ url: \"http://127.0.0.1:7601\", auth: {{ bearer_token_file: {name}.token }} }}\n    # Where the host may dial health probes.\n    probe_networks: [ 127.0.0.0/8 ]"
    );
    text.replace("#registries:", &registries).replace("#bindings:", &bindings)
}

fn random_token() -> Result<String, CliError> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| CliError::io("no random bytes", source))?;
    Ok(hex(&bytes))
}

/// A new file; its mode is right from the first byte on.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CliError> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| CliError::io(format!("{} cannot be written", PathBuf::from(path).display()), source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::check;

    #[test]
    fn the_edge_configuration_is_valid_and_binds_the_site() {
        let text = with_edge(&commented("/srv/deploy.git"), "site-a");
        let operator = check(Path::new("holdfast.yaml"), text.as_bytes()).unwrap();
        let targets: Vec<&str> = operator.bindings.iter().map(|binding| binding.target.as_str()).collect();
        assert_eq!((targets, operator.registries.len()), (vec!["site-a"], 1));
    }
}
