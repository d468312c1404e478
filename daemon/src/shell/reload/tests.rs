use super::super::answer::Blobs;
use super::*;
use holdfast_ledger::{Ledger, Options};
use std::path::PathBuf;

const WAIT: Duration = Duration::from_secs(20);
const START: &str = "repository: { url: repo }\ndata: data\n";

struct Place {
    dir: tempfile::TempDir,
    plugins: Arc<PluginSet>,
    operator: Arc<Operator>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("holdfast.yaml"), START).unwrap();
        let operator = operator::load(&dir.path().join("holdfast.yaml")).unwrap();
        let (ledger, _) = Ledger::open(&dir.path().join("ledger"), Options::default()).unwrap();
        let (plugins, _) = PluginSet::load(&operator, Blobs::new(ledger.reader()), Default::default()).unwrap();
        Self {
            dir,
            plugins: Arc::new(plugins),
            operator: Arc::new(operator),
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("holdfast.yaml")
    }

    fn read(&self, text: &str) -> Result<Option<Configured>, Refusal> {
        std::fs::write(self.file(), text).unwrap();
        read(&self.operator, &self.plugins, None)
    }
}

#[test]
fn a_change_is_taken_or_refused_as_a_whole() {
    let place = Place::new();
    assert!(place.read(START).unwrap().is_none());
    let more = format!(
        "{START}limits: {{ removals_per_revision: 3, removal_grace: 5m }}\nway_back: optional\nbindings: [ {{ target: a, plugin: edge, config: {{ site: x }} }} ]\nusers: {{ ada: {{ name: Ada }} }}\nregistries: [ {{ host: r.example.com }} ]\n"
    );
    let taken = place.read(&more).unwrap().unwrap();
    assert_eq!(
        (taken.engine.removals_per_revision, taken.engine.removal_grace_ms),
        (3, 300_000)
    );
    assert!(!taken.engine.way_back_required);
    assert_eq!(taken.engine.bindings[0].fixed["site"], "x");
    assert_eq!(taken.operator.users["ada"].name, "Ada");
    for (text, expected) in [
        (
            "repository: { url: other }\ndata: data\n",
            "a change of `repository` needs a restart",
        ),
        (
            "repository: { url: repo, branch: next }\ndata: data\n",
            "a change of `repository` needs a restart",
        ),
        (
            "repository: { url: repo }\ndata: other\n",
            "a change of `data` needs a restart",
        ),
        (
            "repository: { url: repo }\ndata: data\nsocket: s\n",
            "a change of `socket` needs a restart",
        ),
        (
            "repository: { url: repo }\ndata: data\nlisten: 127.0.0.1:1\n",
            "a change of `listen` needs a restart",
        ),
        (
            "repository: { url: repo }\ndata: data\nbindigs: []\n",
            "the file cannot be used",
        ),
        (
            "repository: { url: repo }\ndata: data\nplugins: { mine: { file: none.wasm, digest: \"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\" } }\n",
            "a plugin cannot be used",
        ),
        (
            "repository: { url: repo }\ndata: data\nregistries: [ { host: a, ca_file: none.crt } ]\n",
            "a registry cannot be used",
        ),
    ] {
        let refused = place.read(text).err().unwrap_or_else(|| panic!("taken: {text}"));
        assert_eq!(refused.to_string(), expected, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_watched() {
    let place = Place::new();
    let (events, mut inbox) = mpsc::unbounded_channel();
    let task = spawn(place.operator.clone(), place.plugins.clone(), None, events);
    let write = |grace: &str| {
        // As editors do: another file takes its name.
        let part = place.dir.path().join("holdfast.yaml~");
        std::fs::write(&part, format!("{START}limits: {{ removal_grace: {grace} }}\n")).unwrap();
        std::fs::rename(&part, place.file()).unwrap();
    };
    for grace in ["1m", "2m"] {
        // The watch may only just begin, so the change is made until it is seen.
        let configured = async {
            loop {
                write("wrong");
                write(grace);
                match tokio::time::timeout(Duration::from_secs(1), inbox.recv()).await {
                    Ok(Some(Event::Configured(configured))) => return configured,
                    Ok(_) => panic!("something else was told"),
                    Err(_) => {}
                }
            }
        };
        let configured = tokio::time::timeout(WAIT, configured).await.expect("a change was not seen");
        let expected = if grace == "1m" { 60_000 } else { 120_000 };
        assert_eq!(configured.engine.removal_grace_ms, expected);
    }
    task.abort();
}
