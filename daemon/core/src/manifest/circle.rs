//! Circles in `dependsOn`: nobody in one could ever begin.

use std::collections::{BTreeMap, BTreeSet};

/// Circles, each as the names along it. Every circle shares a name with one of them.
pub fn circles(depends_on: &BTreeMap<&str, Vec<&str>>) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut in_circle: BTreeSet<&str> = BTreeSet::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in depends_on.keys() {
        if done.contains(start) {
            continue;
        }
        // The way from `start`, each with the index of its next dependency. A chain may be as long as there are
        // workloads, so it is not left to the call stack.
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        let mut on_way: BTreeSet<&str> = [*start].into();
        while let Some((name, next)) = way.last_mut() {
            let name = *name;
            let Some(dependency) = depends_on.get(name).and_then(|all| all.get(*next)).copied() else {
                done.insert(name);
                on_way.remove(name);
                way.pop();
                continue;
            };
            *next += 1;
            if on_way.contains(dependency) {
                // One circle for each who closes one: more would say the same again.
                if !in_circle.contains(name) {
                    let from = way.iter().position(|(name, _)| *name == dependency).unwrap_or_default();
                    let circle: Vec<&str> = way[from..].iter().map(|(name, _)| *name).collect();
                    in_circle.extend(&circle);
                    found.push(circle.into_iter().map(str::to_owned).collect());
                }
            } else if !done.contains(dependency) && depends_on.contains_key(dependency) {
                on_way.insert(dependency);
                way.push((dependency, 0));
            }
        }
    }
    found
}

/// `a -> b -> a`, as seen from `name`.
pub fn spelled_out(circle: &[String], name: &str) -> String {
    const SHOWN: usize = 10;
    let at = circle.iter().position(|one| one == name).unwrap_or_default();
    let mut names: Vec<&str> = circle
        .iter()
        .cycle()
        .skip(at)
        .take(circle.len())
        .map(String::as_str)
        .collect();
    if names.len() > SHOWN {
        names.truncate(SHOWN);
        names.push("...");
    }
    names.push(name);
    names.join(" -> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_and_spelled_out() {
        for (edges, expected) in [
            ("a:b b:c", vec![]),
            ("a:b b:a", vec!["a -> b -> a"]),
            ("a:b b:c c:b d:a", vec!["b -> c -> b"]),
            ("a:b b:a c:d d:c", vec!["a -> b -> a", "c -> d -> c"]),
            ("a:b,c b:d c:d", vec![]),
            ("a:b b:c,a c:a", vec!["a -> b -> c -> a"]),
        ] {
            let graph: BTreeMap<&str, Vec<&str>> = edges
                .split(' ')
                .filter_map(|edge| edge.split_once(':'))
                .map(|(from, to)| (from, to.split(',').collect()))
                .collect();
            let found: Vec<String> = circles(&graph).iter().map(|circle| spelled_out(circle, &circle[0])).collect();
            assert_eq!(found, expected, "{edges}");
        }
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let names: Vec<String> = (0..10_000).map(|n| format!("w{n}")).collect();
        let graph = names
            .iter()
            .enumerate()
            .map(|(n, name)| (name.as_str(), vec![names[(n + 1) % names.len()].as_str()]))
            .collect();
        let found = circles(&graph);
        assert_eq!((found.len(), found[0].len()), (1, 10_000));
        assert!(spelled_out(&found[0], "w5").starts_with("w5 -> w6 -> ") && spelled_out(&found[0], "w5").len() < 100);
    }
}
