//! A target, or a network, that does not do as it should.

use crate::stage::{Checked, Kit, Stage, Stop, Verb, WHOLE, class, difference, fail, fault, is_limit, said, short};
use crate::tap::{Lie, Trouble};
use holdfast_core::target::{FaultClass, Progress};
use holdfast_host::CallFailure;

const LARGE_BYTES: usize = 1 << 20;
const MESSAGE_MAX_BYTES: usize = 4 << 10;
const PAGE_MAX_BYTES: usize = 256 << 10;

/// Each verb on a target where it has something to do.
fn verbs(kit: &Kit<'_>) -> Vec<Verb> {
    let generation = |number| kit.generation("shop", number);
    match kit.abilities.staged {
        true => vec![
            Verb::Launch(generation(2), 1),
            Verb::Scale(generation(1), 0),
            Verb::Route(vec![kit.entry("shop", 1, WHOLE, true)]),
            Verb::Retire(generation(1), true),
        ],
        false => vec![
            Verb::Route(vec![kit.entry("shop", 2, WHOLE, true)]),
            Verb::Retire(generation(1), true),
        ],
    }
}

async fn begin<'a>(kit: &'a Kit<'a>) -> Result<Stage<'a>, Stop> {
    let stage = kit.stage()?;
    stage.bring("shop", 1, 10).await?;
    stage.tap.clear();
    Ok(stage)
}

/// How many requests the first call of a verb makes.
async fn requests(kit: &Kit<'_>, verb: &Verb) -> Result<usize, Stop> {
    let stage = begin(kit).await?;
    let outcome = stage.once(50, verb, None).await;
    match outcome {
        Ok(_) => Ok(stage.tap.sent().len()),
        Err(failure) => Err(Stop::NotReached(format!("{} did not work: {}", verb.name(), said(&failure)))),
    }
}

/// One verb with one trouble at one of its requests.
async fn troubled<'a>(
    kit: &'a Kit<'a>,
    verb: &Verb,
    at: usize,
    trouble: &Trouble,
) -> Result<(Stage<'a>, Result<Progress, CallFailure>), Stop> {
    let stage = begin(kit).await?;
    stage.tap.trouble(at, trouble.clone());
    let outcome = stage.once(50, verb, None).await;
    stage.tap.clear();
    Ok((stage, outcome))
}

pub async fn classes(kit: &Kit<'_>) -> Checked {
    use FaultClass::{Conflict, Denied, Exhausted, Unavailable};
    let body = |message: &str| format!(r#"{{"message":"{message}"}}"#).into_bytes();
    let cases: [(u16, &[FaultClass]); 6] = [
        (401, &[Denied]),
        (403, &[Denied]),
        (429, &[Exhausted, Unavailable]),
        (500, &[Unavailable]),
        (503, &[Unavailable]),
        (507, &[Exhausted, Conflict, Unavailable]),
    ];
    for verb in verbs(kit) {
        for at in 0..requests(kit, &verb).await? {
            for (status, classes) in cases {
                let (_, outcome) = troubled(kit, &verb, at, &Trouble::Status(status, body("says the test"))).await?;
                let place = format!("{} whose request {} is answered {status}", verb.name(), at + 1);
                let wanted: Vec<&str> = classes.iter().map(|class| class.as_str()).collect();
                match outcome {
                    Err(failure) if class(&failure).is_some_and(|class| classes.contains(&class)) => {}
                    Ok(Progress::Pending { .. }) if status >= 429 => {}
                    Err(failure) => {
                        return fail(format!(
                            "{place} has to be {}, and ended by {}",
                            wanted.join(" or "),
                            said(&failure)
                        ));
                    }
                    Ok(_) => return fail(format!("{place} has to be {}, and said that it is done", wanted.join(" or "))),
                }
            }
        }
    }
    Ok(())
}

pub async fn faults(kit: &Kit<'_>) -> Checked {
    let troubles = [
        Trouble::Unreachable,
        Trouble::LostBefore,
        Trouble::LostAfter,
        Trouble::TooLarge,
        Trouble::Garbage,
    ];
    for verb in verbs(kit) {
        let quiet = begin(kit).await?;
        quiet.do_it(50, &verb).await?;
        let wanted = quiet.settled().await?;
        for at in 0..requests(kit, &verb).await? {
            for trouble in &troubles {
                let (stage, outcome) = troubled(kit, &verb, at, trouble).await?;
                let place = format!("{} with request {} {trouble:?}", verb.name(), at + 1);
                match outcome {
                    Ok(Progress::Pending { .. }) => {}
                    // Whatever it made of the trouble, it has to be so.
                    Ok(Progress::Done) => {
                        if let Some(difference) = difference(&wanted, &stage.settled().await?) {
                            return fail(format!("{place} said that it is done, and it is not: {difference}"));
                        }
                    }
                    Err(failure) => blameless(&place, &failure)?,
                }
            }
        }
    }
    let stage = begin(kit).await?;
    let looked = stage.look().await.map(|_| stage.tap.sent().len());
    for at in 0..looked.unwrap_or_default() {
        for trouble in &troubles {
            stage.tap.trouble(at, trouble.clone());
            let outcome = stage.look().await;
            stage.tap.clear();
            let place = format!("observe with request {} {trouble:?}", at + 1);
            match outcome {
                Ok(_) => return fail(format!("{place} gave a page: what it could not see is then taken as gone")),
                Err(failure) => blameless(&place, &failure)?,
            }
        }
    }
    Ok(())
}

/// A trap is a plugin that did not handle it; `failed` and `invalid` blame the release or a person.
fn blameless(place: &str, failure: &CallFailure) -> Checked {
    let Some(fault) = fault(failure) else {
        return fail(format!("{place} did not end by a fault of its own: {}", said(failure)));
    };
    match fault.class {
        FaultClass::Failed | FaultClass::Invalid | FaultClass::Absent => {
            fail(format!("{place} blames who is not to blame: {}", said(failure)))
        }
        _ => Ok(()),
    }
}

pub async fn bounded(kit: &Kit<'_>) -> Checked {
    let large = || format!(r#"{{"message":"{}"}}"#, "x".repeat(LARGE_BYTES)).into_bytes();
    for verb in verbs(kit) {
        let (_, outcome) = troubled(kit, &verb, 0, &Trouble::Status(500, large())).await?;
        if let Err(failure) = outcome {
            small(&format!("{} of a target that refuses with 1 MiB", verb.name()), &failure)?;
        }
    }
    let stage = begin(kit).await?;
    stage.tap.lie(Lie::Long { bytes: LARGE_BYTES / 4 });
    let outcome = stage.look().await;
    stage.tap.clear();
    match outcome {
        Ok(page) => {
            let bytes = serde_json::to_vec(&page).map_or(0, |page| page.len());
            if bytes > PAGE_MAX_BYTES {
                return fail(format!(
                    "observe of one generation gave {bytes} bytes; long texts have to be cut"
                ));
            }
        }
        Err(failure) => small("observe of a target with long texts", &failure)?,
    }
    crowd(kit).await
}

fn small(place: &str, failure: &CallFailure) -> Checked {
    match failure {
        CallFailure::Fault(fault) if fault.message.len() > MESSAGE_MAX_BYTES => fail(format!(
            "{place}: the fault's message has {} bytes, more than {MESSAGE_MAX_BYTES}: {}...",
            fault.message.len(),
            short(&fault.message)
        )),
        CallFailure::Failed { class, .. } if is_limit(*class) => fail(format!("{place}: {}", said(failure))),
        _ => Ok(()),
    }
}

/// Many generations: no limit may be in the way of seeing them.
async fn crowd(kit: &Kit<'_>) -> Checked {
    if !kit.abilities.staged || !kit.abilities.overlap {
        return Ok(());
    }
    let stage = kit.stage()?;
    let many = kit.lab.crowd();
    for number in 1..=many {
        stage
            .do_it(10 + u64::from(number), &Verb::Launch(kit.generation("shop", number), 1))
            .await?;
    }
    match stage.look().await {
        Ok(page) if page.generations.len() == many as usize => Ok(()),
        Ok(page) => fail(format!("of {many} generations, observe lists {}", page.generations.len())),
        Err(failure) => fail(format!("with {many} generations, observe ended by {}", said(&failure))),
    }
}
