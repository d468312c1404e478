//! The source over repositories made here, with an engine behind it.

use super::*;
use crate::adapters::git::tests::{Put, Repo};
use crate::adapters::git::trust::tests::{key, line, sign};
use holdfast_core::config::EngineConfig;
use holdfast_core::engine::{CommandRequest, Engine, Now, Wish};
use holdfast_core::entry::{By, Presence};
use holdfast_core::ids::WorkloadId;
use holdfast_core::state::State;

const WAIT: Duration = Duration::from_secs(20);
/// In which nothing may happen.
const QUIET: Duration = Duration::from_millis(700);

const TARGET: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: { name: a }\nspec: { plugin: edge }\n";

fn workload(name: &str, tag: u32) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: {name} }}\nspec:\n  artifacts: {{ main: \"r.example.com/{name}:{tag}\" }}\n  placement: {{ targets: {{ names: [ a ] }} }}\n  template: {{}}\n"
    )
}

/// Every test has a file of its own.
fn salts(dir: &Path) -> Salts {
    Salts::load(&dir.join("salts")).unwrap()
}

struct Running {
    _dir: tempfile::TempDir,
    inbox: mpsc::UnboundedReceiver<Event>,
    poke: mpsc::Sender<()>,
    accepted: latest::Sender<Option<String>>,
    looks: Arc<Looks>,
    engine: Engine,
    task: tokio::task::AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn start(repo: &Repo, state: State) -> Running {
    start_with(repo.config(), state, People::default())
}

fn start_with(repository: GitConfig, state: State, people: People) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let (events, inbox) = mpsc::unbounded_channel();
    let (poke, pokes) = mpsc::channel(1);
    let source = state.source.as_ref();
    let known = source.map(|head| head.commit.clone());
    let (accepted, tip) = latest::channel(source.and_then(|head| head.accepted.clone()));
    let looks = Arc::<Looks>::default();
    let task = spawn(Start {
        repository: GitConfig {
            // Only hints wake it.
            interval: 3_600_000,
            ..repository
        },
        mirror: dir.path().join("git"),
        salts: salts(dir.path()),
        people: latest::channel(Arc::new(people)).1,
        known,
        accepted: tip,
        pokes,
        events,
        looks: looks.clone(),
    });
    Running {
        _dir: dir,
        inbox,
        poke,
        accepted,
        looks,
        engine: Engine::new(EngineConfig::default(), state),
        task: task.unwrap(),
    }
}

impl Running {
    /// The next revision goes to the engine; its commit.
    async fn revision(&mut self) -> String {
        let event = tokio::time::timeout(WAIT, self.inbox.recv()).await.expect("no revision came");
        let Some(Event::Input(Input::Revision(revision))) = event else {
            panic!("not a revision")
        };
        let commit = revision.commit.clone();
        self.handle(Input::Revision(revision));
        commit
    }

    fn handle(&mut self, input: Input) {
        self.engine.handle(Now { t: 1, wall_ms: 1 }, input);
        let head = self.engine.state().source.as_ref();
        self.accepted.send_replace(head.and_then(|head| head.accepted.clone()));
    }

    /// Waits until it has looked once more, which must tell the engine nothing.
    async fn looked_in_vain(&mut self) {
        let begun = self.looks.begun.load(Ordering::Relaxed);
        let good = self.looks.good_ms.swap(0, Ordering::Relaxed);
        assert!(good > 0);
        self.poke.send(()).await.unwrap();
        let looked = async {
            while self.looks.begun.load(Ordering::Relaxed) == begun || self.looks.good_ms.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT, looked)
            .await
            .expect("a poke does not make it look");
        assert!(self.inbox.try_recv().is_err(), "it told the engine something");
    }

    /// Verdict and commit of the tip that is not taken because of its signature.
    fn untrusted(&self) -> Option<(&str, &str)> {
        let tip = self.engine.state().untrusted.as_ref()?;
        Some((tip.verdict.as_str(), tip.commit.as_str()))
    }

    fn adopted(&self) -> Option<&str> {
        self.engine.state().source.as_ref().map(|head| head.commit.as_str())
    }

    fn accept(&mut self, commit: &str) {
        let request = CommandRequest {
            by: By::daemon(),
            person: None,
            workload: None,
            target: None,
            only_if: Default::default(),
            wish: Wish::AcceptRewrite {
                commit: commit.to_owned(),
            },
            reason: String::new(),
            key: "k".into(),
        };
        self.handle(Input::Command { token: 1, request });
    }

    fn rewrite(&self) -> Option<String> {
        self.engine.state().source.as_ref().unwrap().rewrite.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_wakes_and_nothing_else_does() {
    for is_bare in [true, false] {
        let repo = Repo::new(is_bare);
        let first = repo.push(&[("t.yaml", Put::File(TARGET))]);
        let mut running = start(&repo, State::default());
        assert_eq!(running.revision().await, first);
        for text in ["one", "two"] {
            let pushed = repo.push(&[("notes", Put::File(text))]);
            assert_eq!(running.revision().await, pushed);
        }
        // What the pushes still have to say.
        tokio::time::sleep(QUIET).await;
        let looks = running.looks.begun.load(Ordering::Relaxed);
        tokio::time::sleep(QUIET).await;
        assert_eq!(running.looks.begun.load(Ordering::Relaxed), looks, "an idle source fetched");
        running.looked_in_vain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_branch_waits_and_may_be_put_back() {
    let repo = Repo::new(true);
    let first = repo.push(&[("t.yaml", Put::File(TARGET))]);
    let mut running = start(&repo, State::default());
    running.revision().await;
    let second = repo.push(&[("w.yaml", Put::File(&workload("shop", 1)))]);
    assert_eq!(running.revision().await, second);
    let shop = WorkloadId::new("main", "shop").unwrap();
    let tag = |engine: &Engine| {
        serde_json::to_value(&engine.state().workloads[&shop].spec)
            .unwrap()
            .to_string()
            .contains("shop:2")
    };

    let rewritten = repo.commit_on(&[&first], &[("w.yaml", Put::File(&workload("shop", 2)))], ("eve@x", "eve@x"));
    repo.point("main", &rewritten);
    assert_eq!(running.revision().await, rewritten);
    assert_eq!(running.rewrite(), Some(rewritten.clone()));
    assert!(!tag(&running.engine));
    // Said once, however often it is looked at.
    running.looked_in_vain().await;

    repo.point("main", &second);
    assert_eq!(running.revision().await, second);
    assert_eq!(running.rewrite(), None, "the branch is as it was");
    let size = running.engine.state().size;
    running.looked_in_vain().await;
    assert_eq!(running.engine.state().size, size);

    repo.point("main", &rewritten);
    running.revision().await;
    running.accept(&rewritten);
    assert_eq!(
        running.engine.state().source.as_ref().unwrap().accepted,
        Some(rewritten.clone())
    );
    assert_eq!(running.revision().await, rewritten);
    assert_eq!(running.rewrite(), None);
    assert!(tag(&running.engine), "the accepted tip was not taken");
    let contributors = &running.engine.state().source.as_ref().unwrap().contributors;
    assert_eq!(contributors.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_tip_is_taken_after_a_restart_too() {
    let repo = Repo::new(true);
    let first = repo.push(&[("t.yaml", Put::File(TARGET))]);
    let second = repo.push(&[("n", Put::File("1"))]);
    let mut running = start(&repo, State::default());
    assert_eq!(running.revision().await, second);
    let mut state = running.engine.state().clone();
    drop(running);
    let rewritten = repo.commit_on(&[&first], &[("n", Put::File("2"))], ("eve@x", "eve@x"));
    let grown = repo.commit_on(&[&rewritten], &[("n", Put::File("3"))], ("eve@x", "eve@x"));
    repo.point("main", &grown);
    for (accepted, expected) in [(None, &second), (Some(&second), &second), (Some(&rewritten), &grown)] {
        let head = state.source.as_mut().unwrap();
        head.accepted = accepted.cloned();
        let mut running = start(&repo, state.clone());
        running.revision().await;
        assert_eq!(
            running.engine.state().source.as_ref().unwrap().commit,
            **expected,
            "{accepted:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_proves_no_absence() {
    let presence =
        |running: &Running, name: &str| running.engine.state().workloads[&WorkloadId::new("main", name).unwrap()].presence;
    let repo = Repo::new(true);
    repo.push(&[
        ("t.yaml", Put::File(TARGET)),
        ("apps/shop.yaml", Put::File(&workload("shop", 1))),
        ("pay.yaml", Put::File(&workload("pay", 1))),
    ]);
    let mut running = start(&repo, State::default());
    running.revision().await;
    assert_eq!(presence(&running, "shop"), Some(Presence::Present));
    repo.push(&[
        ("apps/shop.yaml", Put::Gone),
        ("pay.yaml", Put::Gone),
        ("linked", Put::Link("apps")),
    ]);
    running.revision().await;
    for name in ["shop", "pay"] {
        assert_eq!(presence(&running, name), Some(Presence::Unknown), "{name}");
    }
    repo.push(&[("linked", Put::Gone)]);
    running.revision().await;
    for name in ["shop", "pay"] {
        assert_eq!(presence(&running, name), Some(Presence::Absent), "{name}");
    }
}

#[test]
fn only_changed_files_are_parsed_again() {
    let repo = Repo::new(true);
    let first = repo.push(&[
        ("t.yaml", Put::File(TARGET)),
        ("a.yaml", Put::File(&workload("a", 1))),
        ("b.yaml", Put::File(&workload("b", 1))),
    ]);
    let mirror = tempfile::tempdir().unwrap();
    let source = GitSource::open(&repo.config(), mirror.path()).unwrap();
    source.fetch(None).unwrap();
    let mut parsed = BTreeMap::new();
    let (desired, _) = load_desired(&source, &first, "main", &mut parsed).unwrap();
    assert_eq!(desired.workloads.len(), 2);
    // Marks: what is parsed again loses its mark.
    for (_, file) in parsed.values_mut() {
        file.documents.clear();
    }
    let second = repo.push(&[
        ("b.yaml", Put::File(&workload("b", 2))),
        ("c.yaml", Put::File(&workload("c", 1))),
    ]);
    source.fetch(None).unwrap();
    load_desired(&source, &second, "main", &mut parsed).unwrap();
    let again: Vec<&str> = parsed
        .iter()
        .filter(|(_, (_, file))| !file.documents.is_empty())
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(again, ["b.yaml", "c.yaml"]);
    let third = repo.push(&[("c.yaml", Put::Gone)]);
    source.fetch(None).unwrap();
    load_desired(&source, &third, "main", &mut parsed).unwrap();
    assert!(!parsed.contains_key("c.yaml"));
}

/// A repository whose tips have to be signed by Ada.
struct Guarded {
    repo: Repo,
    dir: tempfile::TempDir,
}

impl Guarded {
    fn new() -> Self {
        let (repo, dir) = (Repo::new(true), tempfile::tempdir().unwrap());
        let guarded = Self { repo, dir };
        guarded.allow(&line("ada@*", "", &key(1)));
        guarded
    }

    fn allow(&self, lines: &str) {
        std::fs::write(self.dir.path().join("allowed"), lines).unwrap();
    }

    fn start(&self, state: State) -> Running {
        let trust = TrustConfig {
            require: Require::Signed,
            allowed_signers_file: self.dir.path().join("allowed"),
        };
        let repository = GitConfig {
            trust: Some(trust),
            ..self.repo.config()
        };
        start_with(repository, state, People::default())
    }

    /// A commit on `parents` that is now the branch, signed with the key of this seed.
    fn push(&self, parents: &[&str], note: &str, seed: Option<u8>) -> String {
        let ada = ("ada@example.com", "ada@example.com");
        let changes = [("notes", Put::File(note)), ("t.yaml", Put::File(TARGET))];
        let mut commit = self.repo.commit_on(parents, &changes, ada);
        if let Some(seed) = seed {
            commit = self.repo.signed(&commit, |bytes| sign(&key(seed), "git", bytes));
        }
        self.repo.point("main", &commit);
        commit
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_signed_tips_are_taken_where_they_have_to_be() {
    let guarded = Guarded::new();
    // Not even the first one.
    let unsigned = guarded.push(&[], "1", None);
    let mut running = guarded.start(State::default());
    running.revision().await;
    assert_eq!(
        (running.adopted(), running.untrusted()),
        (None, Some(("unsigned", &*unsigned)))
    );
    running.looked_in_vain().await;

    let first = guarded.push(&[&unsigned], "2", Some(1));
    running.revision().await;
    assert_eq!((running.adopted(), running.untrusted()), (Some(&*first), None));

    let other = guarded.push(&[&first], "3", Some(2));
    running.revision().await;
    let fingerprint = key(2).fingerprint(ssh_key::HashAlg::Sha256);
    let unknown = format!("unknown key {fingerprint}");
    assert_eq!(
        (running.adopted(), running.untrusted()),
        (Some(&*first), Some((&*unknown, &*other)))
    );
    let view = holdfast_core::view::of_state(running.engine.state());
    let message = view.untrusted.unwrap().message;
    assert!(
        message.starts_with(&format!("commit {} is not taken", &other[..12])),
        "{message}"
    );
    assert!(message.contains(&unknown) && message.contains("add the key"), "{message}");
    assert_eq!(view.exits, [] as [&str; 0], "no command lets it in");
    running.accept(&other);
    assert_eq!(running.engine.state().source.as_ref().unwrap().accepted, None);
    running.looked_in_vain().await;

    // A file with a mistake changes nothing; a good one is taken without a restart.
    guarded.allow("ada@example.com\n");
    running.looked_in_vain().await;
    guarded.allow(&(line("ada@*", "", &key(1)) + &line("ada@*", "", &key(2))));
    running.poke.send(()).await.unwrap();
    assert_eq!(running.revision().await, other);
    assert_eq!((running.adopted(), running.untrusted()), (Some(&*other), None));

    // The branch may be put back.
    guarded.push(&[&other], "4", None);
    running.revision().await;
    assert!(running.untrusted().is_some());
    guarded.repo.point("main", &other);
    running.revision().await;
    assert_eq!((running.adopted(), running.untrusted()), (Some(&*other), None));

    // What was taken stays, also when its key is allowed no more.
    let state = running.engine.state().clone();
    drop(running);
    guarded.allow(&line("ada@*", "", &key(1)));
    let mut running = guarded.start(state);
    assert_eq!(running.revision().await, other);
    assert_eq!((running.adopted(), running.untrusted()), (Some(&*other), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_rewrite_is_first_of_all_untrusted() {
    let guarded = Guarded::new();
    let first = guarded.push(&[], "1", Some(1));
    let second = guarded.push(&[&first], "2", Some(1));
    let mut running = guarded.start(State::default());
    running.revision().await;
    for (note, seed, is_untrusted) in [("3", Some(1), false), ("4", None, true), ("5", Some(1), false)] {
        let tip = guarded.push(&[&first], note, seed);
        assert_eq!(running.revision().await, tip);
        assert_eq!(running.untrusted().is_some(), is_untrusted, "{note}");
        assert_eq!(running.rewrite(), (!is_untrusted).then(|| tip.clone()), "{note}");
        assert_eq!(running.adopted(), Some(&*second));
        running.looked_in_vain().await;
    }
    let rewritten = running.rewrite().unwrap();
    running.accept(&rewritten);
    assert_eq!(running.revision().await, rewritten);
    assert_eq!(running.adopted(), Some(&*rewritten));
    // An accepted rewrite vouches for no signature of what grows from it.
    let grown = guarded.push(&[&rewritten], "6", None);
    running.revision().await;
    assert_eq!(running.untrusted(), Some(("unsigned", &*grown)));
}

#[test]
fn a_malformed_file_of_allowed_signers_is_refused_at_the_start() {
    let guarded = Guarded::new();
    guarded.allow("# nobody\nada@example.com\n");
    let trust = TrustConfig {
        require: Require::None,
        allowed_signers_file: guarded.dir.path().join("allowed"),
    };
    let told = Trust::load(trust).err().unwrap().to_string();
    assert!(told.contains("allowed:2: a line is"), "{told}");
}

#[test]
fn addresses_are_told_as_names_or_hashes() {
    let repo = Repo::new(true);
    let operator = "repository: { url: x }\ndata: d\nusers: { ada: { name: Ada, emails: [ ADA@example.com ] } }\n";
    let operator = crate::operator::check(Path::new("h.yaml"), operator.as_bytes()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let salts = salts(dir.path());
    let people = People::new(&operator, &salts).unwrap();
    let mirror = tempfile::tempdir().unwrap();
    let fetcher = Fetcher {
        source: GitSource::open(&repo.config(), mirror.path()).unwrap(),
        repository: repo.config(),
        known: None,
        accepted: latest::channel(None).1,
        salts: salts.clone(),
        people: latest::channel(Arc::new(people)).1,
        trust: None,
        parsed: BTreeMap::new(),
        desired: [None, None],
        told: None,
        said: None,
        looks: Arc::default(),
    };
    assert_eq!(fetcher.name_of("ada@example.com"), "Ada");
    assert_eq!(fetcher.name_of("bob@example.com"), salts.hash("bob@example.com").unwrap());
}
