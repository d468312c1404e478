//! Repositories made by git2 here, read as the daemon reads them.

use super::*;
use git2::build::TreeUpdateBuilder;
use git2::{FileMode, Signature, Time};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::mpsc;

const WAIT: Duration = Duration::from_secs(20);
/// Sets a group and a file: `dir/link` is a symbolic link, and so on.
pub(crate) enum Put<'a> {
    File(&'a str),
    Link(&'a str),
    Submodule,
    Gone,
}

/// A desired-state repository.
pub(crate) struct Repo {
    pub dir: tempfile::TempDir,
    pub git: Repository,
}

impl Repo {
    pub fn new(is_bare: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let git = match is_bare {
            true => Repository::init_bare(dir.path()),
            false => Repository::init(dir.path()),
        };
        Self { git: git.unwrap(), dir }
    }

    pub fn url(&self) -> String {
        self.dir.path().display().to_string()
    }

    pub fn config(&self) -> GitConfig {
        GitConfig::new(&self.url())
    }

    /// A commit that nothing points at yet.
    pub fn commit_on(&self, parents: &[&str], changes: &[(&str, Put<'_>)], emails: (&str, &str)) -> String {
        let parents: Vec<git2::Commit<'_>> = parents
            .iter()
            .map(|parent| self.git.find_commit(Oid::from_str(parent).unwrap()).unwrap())
            .collect();
        let empty = self.git.treebuilder(None).unwrap().write().unwrap();
        let base = match parents.first() {
            Some(parent) => parent.tree().unwrap(),
            None => self.git.find_tree(empty).unwrap(),
        };
        let mut update = TreeUpdateBuilder::new();
        for (path, put) in changes {
            match put {
                Put::File(text) => update.upsert(*path, self.git.blob(text.as_bytes()).unwrap(), FileMode::Blob),
                Put::Link(to) => update.upsert(*path, self.git.blob(to.as_bytes()).unwrap(), FileMode::Link),
                Put::Submodule => update.upsert(*path, Oid::from_str(&"1".repeat(40)).unwrap(), FileMode::Commit),
                Put::Gone => update.remove(*path),
            };
        }
        let tree = update.create_updated(&self.git, &base).unwrap();
        let tree = self.git.find_tree(tree).unwrap();
        let signature = |email| Signature::new("Somebody", email, &Time::new(1_700_000_000, 0)).unwrap();
        let parents: Vec<&git2::Commit<'_>> = parents.iter().collect();
        let commit = self
            .git
            .commit(None, &signature(emails.0), &signature(emails.1), "change", &tree, &parents);
        commit.unwrap().to_string()
    }

    /// The same commit, signed by what makes a signature of its bytes.
    pub fn signed(&self, commit: &str, sign: impl FnOnce(&[u8]) -> String) -> String {
        let odb = self.git.odb().unwrap();
        let content = odb.read(Oid::from_str(commit).unwrap()).unwrap().data().to_vec();
        let signature = sign(&content);
        let text = std::str::from_utf8(&content).unwrap();
        self.git.commit_signed(text, &signature, None).unwrap().to_string()
    }

    pub fn point(&self, branch: &str, commit: &str) {
        let name = format!("refs/heads/{branch}");
        self.git
            .reference(&name, Oid::from_str(commit).unwrap(), true, "test")
            .unwrap();
    }

    /// The next commit of the main branch.
    pub fn push(&self, changes: &[(&str, Put<'_>)]) -> String {
        let tip = self.git.refname_to_id("refs/heads/main").ok().map(|tip| tip.to_string());
        let commit = self.commit_on(tip.as_deref().as_slice(), changes, ("ada@example.com", "ada@example.com"));
        self.point("main", &commit);
        commit
    }
}

/// Opens a source over a mirror of its own, and fetches.
fn fetched(config: &GitConfig) -> (tempfile::TempDir, GitSource, Head) {
    let mirror = tempfile::tempdir().unwrap();
    let source = GitSource::open(config, mirror.path()).unwrap();
    let head = source.fetch(None).unwrap();
    (mirror, source, head)
}

#[test]
fn what_is_no_plain_file_is_a_problem() {
    let file = || Put::File("x");
    for (what, changes, path, files, problems) in [
        (
            "plain files",
            vec![("a.yaml", file()), ("d/b.txt", file())],
            "",
            vec!["a.yaml", "d/b.txt"],
            vec![],
        ),
        (
            "a link to a file, whatever its name",
            vec![("a.yaml", file()), ("notes", Put::Link("a.yaml"))],
            "",
            vec!["a.yaml"],
            vec![("notes", "symlink")],
        ),
        (
            "a link to a directory",
            vec![("apps/a.yaml", file()), ("more", Put::Link("apps"))],
            "",
            vec!["apps/a.yaml"],
            vec![("more", "symlink")],
        ),
        (
            "a submodule",
            vec![("a.yaml", file()), ("lib", Put::Submodule)],
            "",
            vec!["a.yaml"],
            vec![("lib", "submodule")],
        ),
        (
            "only what is in scope",
            vec![
                ("prod/d/a.yaml", file()),
                ("prod-eu/x.yaml", file()),
                ("link", Put::Link("x")),
                ("lib", Put::Submodule),
            ],
            "/prod/",
            vec!["prod/d/a.yaml"],
            vec![],
        ),
        (
            "a scope that names nothing",
            vec![("a.yaml", file())],
            "prod",
            vec![],
            vec![("prod", "no-such-path")],
        ),
        (
            "a scope that is a link",
            vec![("real/a.yaml", file()), ("prod", Put::Link("real"))],
            "prod",
            vec![],
            vec![("prod", "symlink")],
        ),
        (
            "a scope beyond a link",
            vec![("real/eu/a.yaml", file()), ("prod", Put::Link("real"))],
            "prod/eu",
            vec![],
            vec![("prod/eu", "no-such-path")],
        ),
    ] {
        let repo = Repo::new(true);
        repo.push(&changes);
        let config = GitConfig {
            path: path.into(),
            ..repo.config()
        };
        let (_mirror, source, head) = fetched(&config);
        let tree = source.tree(&head.commit).unwrap();
        let paths: Vec<&str> = tree.files.iter().map(|file| file.path.as_str()).collect();
        let found: Vec<(&str, &str)> = tree
            .problems
            .iter()
            .map(|problem| (problem.file.as_str(), problem.code))
            .collect();
        assert_eq!((paths, found), (files, problems), "{what}");
    }
}

#[test]
fn what_cannot_be_read_is_a_problem_of_its_own() {
    let mirror = Repo::new(true);
    let commit = mirror.push(&[
        ("a.yaml", Put::File("one")),
        ("b.yaml", Put::File("two")),
        ("d/c.yaml", Put::File("three")),
        ("e/f.yaml", Put::File("four")),
    ]);
    let tree = mirror
        .git
        .find_commit(Oid::from_str(&commit).unwrap())
        .unwrap()
        .tree()
        .unwrap();
    for path in ["b.yaml", "d"] {
        let id = tree.get_path(Path::new(path)).unwrap().id().to_string();
        std::fs::remove_file(mirror.dir.path().join("objects").join(&id[..2]).join(&id[2..])).unwrap();
    }
    let source = GitSource::open(&mirror.config(), mirror.dir.path()).unwrap();
    let tree = source.tree(&commit).unwrap();
    let found: BTreeMap<&str, &str> = tree
        .problems
        .iter()
        .map(|problem| (problem.file.as_str(), problem.code))
        .collect();
    assert_eq!(found, [("b.yaml", "unreadable"), ("d", "unreadable")].into());
    let paths: Vec<&str> = tree.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["a.yaml", "e/f.yaml"]);
}

#[test]
fn history_may_only_grow() {
    let repo = Repo::new(true);
    let author = ("ada@example.com", "ada@example.com");
    let first = repo.push(&[("a.yaml", Put::File("1"))]);
    let (_mirror, source, head) = fetched(&repo.config());
    assert_eq!((head.commit.as_str(), head.fast_forward), (first.as_str(), true));
    let second = repo.push(&[("a.yaml", Put::File("2"))]);
    let head = source.fetch(Some(&first)).unwrap();
    assert_eq!((head.commit.as_str(), head.fast_forward), (second.as_str(), true));
    let other = repo.commit_on(&[&first], &[("a.yaml", Put::File("3"))], author);
    repo.point("main", &other);
    let head = source.fetch(Some(&second)).unwrap();
    assert_eq!((head.commit.as_str(), head.fast_forward), (other.as_str(), false));
    assert!(source.grew(&first, &other) && source.grew(&other, &other) && !source.grew(&second, &other));
    repo.point("main", &first);
    assert!(
        !source.fetch(Some(&second)).unwrap().fast_forward,
        "an old commit is no way forward"
    );
}

#[test]
fn everybody_who_wrote_or_committed_contributed() {
    let repo = Repo::new(true);
    let file = |text| [("a.yaml", Put::File(text))];
    let first = repo.commit_on(&[], &file("1"), ("old@x", "old@x"));
    let second = repo.commit_on(&[&first], &file("2"), ("ada@x", "bob@x"));
    let side = repo.commit_on(&[&first], &file("3"), ("eve@x", "eve@x"));
    let merge = repo.commit_on(&[&second, &side], &file("4"), ("ada@x", "merger@x"));
    repo.point("main", &merge);
    let (_mirror, source, _) = fetched(&repo.config());
    for (old, expected) in [
        (Some(&first), vec!["ada@x", "bob@x", "eve@x", "merger@x"]),
        (Some(&second), vec!["ada@x", "eve@x", "merger@x"]),
        (Some(&merge), vec!["ada@x", "merger@x"]),
        (None, vec!["ada@x", "bob@x", "eve@x", "merger@x", "old@x"]),
        (Some(&"1".repeat(40)), vec!["ada@x", "bob@x", "eve@x", "merger@x", "old@x"]),
    ] {
        let found = source.contributors(old.map(String::as_str), &merge).unwrap();
        assert_eq!(
            found.iter().map(String::as_str).collect::<Vec<_>>(),
            expected,
            "since {old:?}"
        );
    }
}

#[test]
fn only_changes_of_branches_wake() {
    for is_bare in [true, false] {
        let repo = Repo::new(is_bare);
        let commit = repo.push(&[("a.yaml", Put::File("1"))]);
        let (tell, told) = mpsc::channel();
        let _watch = watch(repo.dir.path(), move |event| tell.send(event.paths.clone()).unwrap()).unwrap();
        // Our own reading, and what goes on beside the branches.
        let (_mirror, source, _) = fetched(&repo.config());
        source.fetch(Some(&commit)).unwrap();
        std::fs::write(repo.git.path().join("index"), "x").unwrap();
        repo.git.blob(b"an object").unwrap();
        // Events come in order: when this one is here, all before it are.
        let git_dir = repo.git.path().to_owned();
        for (what, change) in [
            ("refs/heads/next", Box::new(|| repo.point("next", &commit)) as Box<dyn Fn()>),
            (
                "packed-refs",
                Box::new(|| std::fs::write(git_dir.join("packed-refs"), format!("{commit} refs/heads/main\n")).unwrap()),
            ),
            ("HEAD", Box::new(|| repo.git.set_head("refs/heads/next").unwrap())),
        ] {
            change();
            let expected = std::fs::canonicalize(repo.git.path()).unwrap().join(what);
            loop {
                let paths = told.recv_timeout(WAIT).unwrap_or_else(|_| panic!("{what}: nothing was told"));
                let seen: Vec<PathBuf> = paths
                    .iter()
                    .map(|path| {
                        std::fs::canonicalize(path.parent().unwrap())
                            .unwrap()
                            .join(path.file_name().unwrap())
                    })
                    .collect();
                let allowed =
                    |path: &PathBuf| *path == expected || path.ends_with(format!("{}.lock", what.rsplit('/').next().unwrap()));
                assert!(seen.iter().all(allowed), "{what}: {seen:?}");
                if seen.contains(&expected) {
                    break;
                }
            }
            // The rest of the same change.
            while told.recv_timeout(Duration::from_millis(20)).is_ok() {}
        }
    }
}

#[test]
fn each_wait_is_another_within_its_bounds() {
    for (interval_ms, least, most) in [(60_000, 60_000, 66_000), (5, 1_000, 1_100)] {
        let waits: BTreeSet<u128> = (0..200).map(|_| poll_wait(interval_ms).as_millis()).collect();
        assert!(waits.len() > 20, "{waits:?}");
        assert!(waits.iter().all(|wait| (least..=most).contains(wait)), "{waits:?}");
    }
}

#[test]
fn a_server_that_drips_is_left_at_the_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-git-upload-pack-advertisement\r\n\r\n001e# service=git-upload-pack\n0000ffff");
        // Ends when the client has gone.
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let config = GitConfig {
        timeout: 1_000,
        ..GitConfig::new(&format!("http://{address}/x.git"))
    };
    let mirror = tempfile::tempdir().unwrap();
    let source = GitSource::open(&config, mirror.path()).unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(source.fetch(None)).unwrap());
    let error = told.recv_timeout(WAIT).expect("the fetch goes on for ever").unwrap_err();
    assert!(
        error.class == Class::Unreachable && error.message.contains("did not end in time"),
        "{error}"
    );
}
