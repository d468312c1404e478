//! Which commit somebody means.

use super::error::CliError;
use std::path::Path;

/// The beginning of a commit id, or all of it. In a repository, whatever git itself would take; elsewhere, hex digits.
pub fn resolve(text: &str, dir: &Path) -> Result<String, CliError> {
    let repository = git2::Repository::discover(dir).ok();
    let found = repository
        .as_ref()
        .filter(|_| !text.is_empty())
        .and_then(|repository| repository.revparse_single(text).ok())
        .and_then(|object| object.peel_to_commit().ok());
    if let Some(commit) = found {
        return Ok(commit.id().to_string());
    }
    // The daemon's repository need not be this one.
    let lower = text.to_ascii_lowercase();
    let is_hex = lower.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex && (7..=40).contains(&lower.len()) {
        return Ok(lower);
    }
    let hint = match repository {
        Some(_) => "name a commit, branch or tag of this repository, or at least 7 digits of a commit",
        None => "here is no repository: give at least 7 digits of the commit, or run this inside one",
    };
    Err(CliError::usage(format!("{text:?} names no commit"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_commit() {
        let plain = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let repository = git2::Repository::init(dir.path()).unwrap();
        let person = git2::Signature::new("Ann", "ann@example.com", &git2::Time::new(0, 0)).unwrap();
        let tree = repository
            .find_tree(repository.treebuilder(None).unwrap().write().unwrap())
            .unwrap();
        let id = repository
            .commit(Some("HEAD"), &person, &person, "first", &tree, &[])
            .unwrap()
            .to_string();
        let other = "0123456789abcdef0123456789abcdef01234567";
        for (text, here, elsewhere) in [
            ("HEAD", Some(id.as_str()), None),
            ("", None, None),
            (&id[..8], Some(id.as_str()), Some(&id[..8])),
            (&id[..4], Some(id.as_str()), None),
            (&other[..7], Some(&other[..7]), Some(&other[..7])),
            (&other[..6], None, None),
            ("0123456789ABCDEF", Some(&other[..16]), Some(&other[..16])),
            ("no-such-branch", None, None),
        ] {
            assert_eq!(resolve(text, dir.path()).ok().as_deref(), here, "{text:?} in a repository");
            assert_eq!(resolve(text, plain.path()).ok().as_deref(), elsewhere, "{text:?} elsewhere");
        }
    }
}
