//! What `check` and the metadata say of the plugin, against what it does.

use crate::stage::{Checked, Kit, Stage, Verb, WHOLE, class, fail, said, skip};
use holdfast_core::target::{FaultClass, GenPhase, Page, Routing, Sizing};

fn generation(page: &Page, number: u32) -> Option<&holdfast_core::target::GenerationState> {
    page.generations.iter().find(|state| state.number == number)
}

pub async fn claims(kit: &Kit<'_>) -> Checked {
    let abilities = &kit.abilities;
    if let Some(metadata) = &kit.plugin.metadata {
        let exported: Vec<&String> = kit
            .plugin
            .exports
            .iter()
            .filter(|name| *name != "target" && *name != "types")
            .collect();
        let said: Vec<&String> = metadata.capabilities.iter().collect();
        if exported != said {
            return fail(format!(
                "its metadata says capabilities {said:?}, and it exports {exported:?}"
            ));
        }
    }
    if abilities.most_live == 0 || abilities.finest_share == 0 {
        return fail("most-live and finest-share are at least 1");
    }
    if !abilities.staged {
        return match (abilities.routing, abilities.sizing, abilities.overlap) {
            (Routing::Single, Sizing::Unsized, false) => Ok(()),
            _ => fail("a target that stages nothing is `single`, `unsized` and without overlap"),
        };
    }
    let stage = kit.stage()?;
    sizing(kit, &stage).await?;
    if !abilities.overlap {
        return Ok(());
    }
    stage.bring("shop", 2, 20).await?;
    let page = stage.seen().await?;
    let side_by_side = [1, 2]
        .iter()
        .all(|number| generation(&page, *number).is_some_and(|state| state.phase == GenPhase::Ready));
    if !side_by_side {
        return fail("it says `overlap`, and two generations are not ready side by side");
    }
    if abilities.routing != Routing::Weighted || abilities.most_live < 2 {
        return Ok(());
    }
    // As fine as it says, and a share in the middle.
    let half = WHOLE / 2 / abilities.finest_share * abilities.finest_share;
    for (fence, first) in [(21, WHOLE - abilities.finest_share), (22, half)] {
        let shares = [(1, first), (2, WHOLE - first)];
        let entries = vec![
            kit.entry("shop", 1, shares[0].1, true),
            kit.entry("shop", 2, shares[1].1, false),
        ];
        if let Err(failure) = stage.act(fence, &Verb::Route(entries)).await {
            return fail(format!(
                "it says `weighted` with finest-share {}, and refuses {shares:?}: {}",
                abilities.finest_share,
                said(&failure)
            ));
        }
        let as_wanted = |page: &Page| {
            let share = |number| {
                let routes = page.routes.iter().flat_map(|route| &route.shares);
                routes
                    .filter(|share| share.number == number)
                    .map(|share| share.live)
                    .sum::<u32>()
            };
            shares
                .iter()
                .all(|(number, wanted)| abilities.same_share(share(*number), *wanted))
        };
        if stage.seen_when(as_wanted).await?.is_none() {
            return fail(format!(
                "it says `weighted` with finest-share {}, and {shares:?} were never observed",
                abilities.finest_share
            ));
        }
    }
    Ok(())
}

async fn sizing(kit: &Kit<'_>, stage: &Stage<'_>) -> Checked {
    let wanted_of = |page: &Page| generation(page, 1).map(|state| state.wanted);
    match kit.abilities.sizing {
        Sizing::Automatic => stage.bring("shop", 1, 10).await,
        Sizing::Unsized => {
            stage.bring("shop", 1, 10).await?;
            match wanted_of(&stage.seen().await?) {
                Some(None) => Ok(()),
                other => fail(format!("it says `unsized`, and observe gives a wanted size: {other:?}")),
            }
        }
        Sizing::Planned => {
            stage.do_it(10, &Verb::Launch(kit.generation("shop", 1), 3)).await?;
            let three =
                |page: &Page| generation(page, 1).is_some_and(|state| state.wanted == Some(3) && state.phase == GenPhase::Ready);
            if stage.seen_when(three).await?.is_none() {
                let seen = wanted_of(&stage.seen().await?);
                return fail(format!(
                    "it says `planned`; launched with 3, observe never said 3 wanted and ready, last {seen:?}"
                ));
            }
            stage.do_it(11, &Verb::Scale(kit.generation("shop", 1), 2)).await?;
            let two = |page: &Page| generation(page, 1).is_some_and(|state| state.wanted == Some(2));
            match stage.seen_when(two).await? {
                Some(_) => Ok(()),
                None => fail("it says `planned`; scaled to 2, observe never gives 2 as wanted"),
            }
        }
    }
}

/// Before each request of `route`, another writer with a higher fence does something else: it must not be undone.
pub async fn guarded(kit: &Kit<'_>) -> Checked {
    if !kit.abilities.guarded {
        return skip("check does not say `guarded`");
    }
    let prepare = async || {
        let stage = kit.stage()?;
        stage.bring("shop", 1, 10).await?;
        stage.bring("shop", 2, 11).await?;
        stage.route("shop", &[(1, WHOLE), (2, 0)], 12).await?;
        stage.tap.clear();
        Ok(stage)
    };
    let to = |number: u32| {
        let (live, other) = (number, 3 - number);
        Verb::Route(vec![kit.entry("shop", live, WHOLE, true), kit.entry("shop", other, 0, false)])
    };
    let stage: Stage<'_> = prepare().await?;
    stage.do_it(20, &to(1)).await?;
    let requests = stage.tap.sent().len();
    for at in 0..requests {
        let stage = prepare().await?;
        let newer = Newer::new(&stage, to(2)).await?;
        stage.tap.meanwhile(at, newer.replay());
        let outcome = stage.act(20, &to(1)).await;
        stage.tap.clear();
        let page = stage.seen().await?;
        let shares: Vec<(u32, u32)> = page
            .routes
            .iter()
            .flat_map(|route| &route.shares)
            .filter(|share| share.live > 0)
            .map(|share| (share.number, share.live))
            .collect();
        if shares != [(2, WHOLE)] {
            return fail(format!(
                "a writer with fence 30 gave generation 2 all before request {} of {requests}; route with fence 20 then wrote {shares:?} over it",
                at + 1
            ));
        }
        match outcome {
            Err(failure) if class(&failure) == Some(FaultClass::Fenced) => {}
            Err(failure) => {
                return fail(format!(
                    "overtaken by a higher fence it has to be `fenced`, and ended by {}",
                    said(&failure)
                ));
            }
            Ok(()) => return fail("overtaken by a higher fence it has to be `fenced`, and said that it is done"),
        }
    }
    Ok(())
}

/// What a writer with a higher fence sends, found out on a target of its own, so that it can be sent from within another call.
struct Newer {
    requests: Vec<holdfast_host::WireRequest>,
    wire: std::sync::Arc<dyn holdfast_host::Wire>,
}

impl Newer {
    async fn new(stage: &Stage<'_>, verb: Verb) -> Result<Self, crate::stage::Stop> {
        let twin = stage.kit.stage()?;
        twin.bring("shop", 1, 10).await?;
        twin.bring("shop", 2, 11).await?;
        twin.route("shop", &[(1, WHOLE), (2, 0)], 12).await?;
        twin.tap.clear();
        twin.do_it(30, &verb).await?;
        let requests = twin.tap.sent().into_iter().filter(|request| request.method != "GET");
        Ok(Self {
            requests: requests.collect(),
            wire: stage.tap.inner(),
        })
    }

    fn replay(self) -> Box<dyn FnOnce() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send> {
        Box::new(move || {
            Box::pin(async move {
                for mut request in self.requests {
                    // Its conditions were those of its own target.
                    request
                        .headers
                        .retain(|(name, _)| !name.to_ascii_lowercase().starts_with("if-"));
                    let _ = self.wire.send(&request).await;
                }
            })
        })
    }
}
