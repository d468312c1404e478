//! What is somebody else's: another generation, another workload, another installation.

use super::unchanged;
use crate::stage::{Checked, Kit, Stage, Verb, WHOLE, class, difference, fail, said, skip, state_of};
use holdfast_core::target::{FaultClass, Page};
use std::collections::BTreeMap;

pub async fn retire(kit: &Kit<'_>) -> Checked {
    if !kit.abilities.staged || !kit.abilities.overlap {
        return skip("one generation at a time: there is no other to take away");
    }
    let stage = kit.stage()?;
    for number in 1..=3 {
        stage.bring("shop", number, 10 + u64::from(number)).await?;
    }
    stage.route("shop", &[(2, WHOLE), (1, 0), (3, 0)], 20).await?;
    let mut expected = state_of(&stage.seen().await?);
    if let Err(failure) = stage.act(21, &Verb::Retire(kit.generation("shop", 3), false)).await {
        return fail(format!("retire of a generation without traffic ended by {}", said(&failure)));
    }
    expected.remove("generation 3 of main/shop");
    let gone = |page: &Page| page.generations.iter().all(|state| state.number != 3);
    let Some(page) = stage.seen_when(gone).await? else {
        return fail("the retired generation is still observed");
    };
    if let Some(difference) = difference(&expected, &state_of(&page)) {
        return fail(format!("retire of generation 3 also changed {difference}"));
    }
    match stage.act(22, &Verb::Retire(kit.generation("shop", 2), false)).await {
        Err(failure) if class(&failure) == Some(FaultClass::Conflict) => {}
        Err(failure) => {
            return fail(format!(
                "retire of what is live has to be `conflict`, and ended by {}",
                said(&failure)
            ));
        }
        Ok(()) => return fail("a generation that was live, and not the last, was retired"),
    }
    unchanged(&stage, &expected, "the refused retire of what is live").await
}

fn of(page: &Page, key: &str) -> BTreeMap<String, String> {
    let mut state = state_of(page);
    state.retain(|name, _| name.ends_with(&format!(" of main/{key}")));
    state
}

/// The first workload after each verb of the second.
async fn still(stage: &Stage<'_>, before: &BTreeMap<String, String>, after_what: &str) -> Checked {
    match difference(before, &of(&stage.seen().await?, "shop")) {
        None => Ok(()),
        Some(difference) => fail(format!("{after_what} of another workload changed {difference}")),
    }
}

pub async fn neighbours(kit: &Kit<'_>) -> Checked {
    let stage = kit.stage()?;
    stage.bring("shop", 1, 10).await?;
    stage.route("shop", &[(1, WHOLE)], 11).await?;
    let before = of(&stage.seen().await?, "shop");
    let other = |number| kit.generation("news", number);
    let mut verbs = vec![
        Verb::Route(vec![kit.entry("news", 1, WHOLE, true)]),
        Verb::Route(vec![kit.entry("news", 1, 0, true)]),
    ];
    if kit.abilities.staged {
        verbs.insert(0, Verb::Launch(other(1), 1));
    }
    verbs.push(Verb::Retire(other(1), true));
    for (index, verb) in verbs.iter().enumerate() {
        // A fence is a workload's own: a lower one than its neighbour's is good.
        match stage.act(3 + index as u64, verb).await {
            Ok(()) => {}
            // A target that has room for one workload says so, and fences are then the target's.
            Err(failure)
                if !kit.abilities.staged && matches!(class(&failure), Some(FaultClass::Conflict | FaultClass::Fenced)) => {}
            Err(failure) => return fail(format!("{} of a second workload ended by {}", verb.name(), said(&failure))),
        }
        stage.settled().await?;
        still(&stage, &before, verb.name()).await?;
    }
    Ok(())
}

pub async fn foreign(kit: &Kit<'_>) -> Checked {
    let stage = kit.stage()?;
    stage.bring("shop", 1, 10).await?;
    stage.route("shop", &[(1, WHOLE)], 11).await?;
    let before = state_of(&stage.seen().await?);
    let stranger = stage.stranger()?;
    match stranger.look().await {
        Ok(page) if !page.generations.is_empty() || !page.routes.is_empty() => {
            return fail("observe lists generations or routes that another installation stamped");
        }
        Ok(_) => {}
        Err(failure) => {
            return fail(format!(
                "observe of a target where another installation is ended by {}",
                said(&failure)
            ));
        }
    }
    let subject = || kit.generation("shop", 1);
    let mut verbs = vec![
        Verb::Route(vec![kit.entry("shop", 1, 0, true)]),
        Verb::Retire(subject(), true),
    ];
    if kit.abilities.staged {
        verbs.insert(0, Verb::Launch(subject(), 1));
        verbs.insert(1, Verb::Scale(subject(), 0));
    }
    for verb in verbs {
        let outcome = stranger.act(100, &verb).await;
        unchanged(&stage, &before, &format!("{} by another installation", verb.name())).await?;
        let refused = |failure| {
            matches!(class(failure), Some(FaultClass::Conflict))
                // What is not ours is not there for us.
                || matches!((&verb, class(failure)), (Verb::Scale(..) | Verb::Route(..), Some(FaultClass::Absent)))
        };
        match outcome {
            Err(failure) if refused(&failure) => {}
            Ok(()) if matches!(verb, Verb::Retire(..)) => {}
            Err(failure) => {
                return fail(format!(
                    "{} over another installation's object has to be `conflict`, and ended by {}",
                    verb.name(),
                    said(&failure)
                ));
            }
            Ok(()) => {
                return fail(format!(
                    "{} over another installation's object said that it is done",
                    verb.name()
                ));
            }
        }
    }
    Ok(())
}
