//! The same verb again: after it was done, under a lower fence, and after a cut.

use super::unchanged;
use crate::stage::{Checked, Kit, Stage, Stop, Verb, WHOLE, class, difference, fail, said};
use crate::tap::Trouble;
use holdfast_core::target::FaultClass;

const REQUESTS_MAX: usize = 64;

/// A verb, and what has to be there before it.
struct Case {
    verb: Verb,
    /// Generations that are there.
    there: Vec<u32>,
    /// Their shares.
    shares: Vec<(u32, u32)>,
}

impl Case {
    /// Brings a new target to where the verb begins.
    async fn begin<'a>(&self, kit: &'a Kit<'a>) -> Result<Stage<'a>, Stop> {
        let stage = kit.stage()?;
        let mut fence = 10;
        for number in &self.there {
            stage.bring("shop", *number, fence).await?;
            fence += 1;
        }
        if !self.shares.is_empty() {
            stage.route("shop", &self.shares, fence).await?;
        }
        Ok(stage)
    }
}

/// Every mutating verb that the target has, where a rollout calls it.
fn cases(kit: &Kit<'_>) -> Vec<Case> {
    let generation = |number| kit.generation("shop", number);
    let case = |verb, there: &[u32], shares: &[(u32, u32)]| Case {
        verb,
        there: there.to_vec(),
        shares: shares.to_vec(),
    };
    if !kit.abilities.staged {
        return vec![
            case(Verb::Route(vec![kit.entry("shop", 1, WHOLE, true)]), &[], &[]),
            case(Verb::Route(vec![kit.entry("shop", 2, WHOLE, true)]), &[1], &[]),
            case(Verb::Retire(generation(1), true), &[1], &[]),
        ];
    }
    let first_live = &[(1, WHOLE)];
    let shift = vec![kit.entry("shop", 2, WHOLE, true), kit.entry("shop", 1, 0, false)];
    vec![
        case(Verb::Launch(generation(1), 1), &[], &[]),
        case(Verb::Launch(generation(2), 1), &[1], first_live),
        case(Verb::Scale(generation(2), 0), &[1, 2], first_live),
        case(Verb::Route(vec![kit.entry("shop", 1, WHOLE, true)]), &[1], &[]),
        case(Verb::Route(shift), &[1, 2], first_live),
        case(Verb::Retire(generation(2), false), &[1, 2], first_live),
        case(Verb::Retire(generation(1), true), &[1], &[]),
    ]
}

const FENCE: u64 = 50;

/// What the verb leads to when nothing goes wrong, and which of its requests change something.
async fn undisturbed(kit: &Kit<'_>, case: &Case) -> Result<(std::collections::BTreeMap<String, String>, Vec<bool>), Stop> {
    let stage = case.begin(kit).await?;
    stage.tap.clear();
    stage.do_it(FENCE, &case.verb).await?;
    let sent = stage.tap.sent();
    let changing = sent.iter().map(|request| request.method != "GET").collect();
    Ok((stage.settled().await?, changing))
}

pub async fn idempotence(kit: &Kit<'_>) -> Checked {
    for case in cases(kit) {
        let name = case.verb.name();
        let stage = case.begin(kit).await?;
        stage.do_it(FENCE, &case.verb).await?;
        let first = stage.settled().await?;
        for fence in [FENCE, FENCE + 1] {
            if let Err(failure) = stage.act(fence, &case.verb).await {
                return fail(format!(
                    "{name} again, under fence {fence} after {FENCE}, ended by {}",
                    said(&failure)
                ));
            }
            let again = stage.settled().await?;
            if let Some(difference) = difference(&first, &again) {
                return fail(format!(
                    "{name} again, under fence {fence} after {FENCE}, changed {difference}"
                ));
            }
        }
    }
    Ok(())
}

pub async fn fence(kit: &Kit<'_>) -> Checked {
    for case in cases(kit).into_iter().filter(|case| !case.there.is_empty()) {
        let name = case.verb.name();
        let stage = case.begin(kit).await?;
        let before = stage.settled().await?;
        match stage.act(5, &case.verb).await {
            Err(failure) if class(&failure) == Some(FaultClass::Fenced) => {}
            Err(failure) => {
                return fail(format!(
                    "{name} under a lower fence has to be `fenced`, and ended by {}",
                    said(&failure)
                ));
            }
            Ok(()) => return fail(format!("{name} under a lower fence than the workload's was done")),
        }
        unchanged(&stage, &before, &format!("{name} under a lower fence was refused, but")).await?;
        let page = stage.seen().await?;
        if page.high_fence < 10 {
            return fail(format!(
                "observe gives {} as the highest fence; the workload has been written under 10",
                page.high_fence
            ));
        }
    }
    Ok(())
}

pub async fn resume(kit: &Kit<'_>) -> Checked {
    for case in cases(kit) {
        let name = case.verb.name();
        let (wanted, changing) = undisturbed(kit, &case).await?;
        for (at, changes) in changing.iter().enumerate().take(REQUESTS_MAX) {
            let is_last = at + 1 == changing.len();
            // After the last one everything is done; that the verb can then be repeated is idempotence.
            let cuts: &[Trouble] = match *changes && !is_last {
                true => &[Trouble::LostBefore, Trouble::LostAfter],
                false => &[Trouble::LostBefore],
            };
            for cut in cuts {
                let stage = case.begin(kit).await?;
                stage.tap.trouble(at, cut.clone());
                // How it ends is not what is asked here.
                let _ = stage.once(FENCE, &case.verb, None).await;
                stage.tap.clear();
                let place = format!("{name}, cut at host call {} of {} ({cut:?})", at + 1, changing.len());
                if let Err(failure) = stage.act(FENCE, &case.verb).await {
                    return fail(format!("{place}, does not go on: {}", said(&failure)));
                }
                let reached = stage.settled().await?;
                if let Some(difference) = difference(&wanted, &reached) {
                    return fail(format!("{place}, leads elsewhere: {difference}"));
                }
            }
        }
    }
    Ok(())
}
