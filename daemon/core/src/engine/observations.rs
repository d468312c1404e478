//! What polls of tags saw, written down by the hour: so that it can be proven afterwards that no poll saw another digest.

use super::*;

const HOUR_MS: Millis = 3_600_000;
/// Of one hour. What is beyond is written down early.
const OBSERVATIONS_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Observations {
    /// When the first of them was seen.
    since: Millis,
    seen: BTreeMap<(String, Digest), Seen>,
}

struct Seen {
    polls: u64,
    first_wall_ms: u64,
    last_wall_ms: u64,
}

impl Engine {
    /// A registry answered for a tag. What names a digest cannot move and is not counted.
    pub(super) fn observe_tag(&mut self, reference: &str, digest: &Digest) {
        if reference.contains("@sha256:") {
            return;
        }
        let Now { t, wall_ms } = self.now;
        let observations = &mut self.observations;
        if observations.seen.is_empty() {
            observations.since = t;
        }
        let seen = observations
            .seen
            .entry((reference.to_owned(), digest.clone()))
            .or_insert(Seen {
                polls: 0,
                first_wall_ms: wall_ms,
                last_wall_ms: wall_ms,
            });
        seen.polls += 1;
        seen.last_wall_ms = wall_ms;
        if t >= observations.since + HOUR_MS || observations.seen.len() >= OBSERVATIONS_MAX {
            self.record_observations();
        }
    }

    pub(super) fn record_observations(&mut self) {
        let seen = std::mem::take(&mut self.observations.seen);
        if seen.is_empty() {
            return;
        }
        let body = ObservationRoot {
            references: u32::try_from(seen.len()).unwrap_or(u32::MAX),
            polls: seen.values().map(|seen| seen.polls).sum(),
        };
        let all: Vec<Observation> = seen
            .into_iter()
            .map(|((reference, digest), seen)| Observation {
                reference,
                digest,
                polls: seen.polls,
                first: rfc3339(seen.first_wall_ms),
                last: rfc3339(seen.last_wall_ms),
            })
            .collect();
        // Cannot fail: only strings and whole numbers.
        let bytes = serde_json_canonicalizer::to_vec(&all).unwrap_or_default();
        let digest = Digest::of(&bytes);
        let mut draft = Draft::new(On::default(), Vec::new(), Body::ObservationRoot(body));
        draft.blobs.insert("observations".into(), digest.clone());
        self.blobs.insert(digest, bytes);
        self.append(draft, By::daemon());
    }
}
