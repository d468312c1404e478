//! What `observe` says rests on what the target runs, not on what it was asked to run.

use crate::stage::{Checked, Kit, WHOLE, fail, skip, state_of};
use crate::tap::Lie;
use holdfast_core::target::{GenPhase, Routing};

pub async fn digest(kit: &Kit<'_>) -> Checked {
    let members = kit.subjects().observed.digest.clone();
    if members.is_empty() {
        return skip("nothing says which member of the target's answers is the digest of what runs (observed.digest)");
    }
    let stage = kit.stage()?;
    stage.bring("shop", 1, 10).await?;
    let asked = kit.generation("shop", 1).artifacts[0].digest.clone();
    let proven = |page: &holdfast_core::target::Page, digest: &str| {
        let ready = page.generations.iter().filter(|state| state.phase == GenPhase::Ready);
        ready
            .flat_map(|state| &state.proofs)
            .any(|proof| proof.digest == digest && proof.count > 0)
    };
    if !proven(&stage.seen().await?, &asked) {
        return fail(format!(
            "a generation is ready, and no proof of it names the digest that was asked for, {asked}"
        ));
    }
    let other = kit.subjects().artifacts[1].digest.clone();
    stage.tap.lie(Lie::Digest {
        members,
        from: asked.clone(),
        to: other,
    });
    let page = stage.seen().await?;
    stage.tap.clear();
    match proven(&page, &asked) {
        true => fail(format!(
            "the target runs another digest, and the generation is ready with a proof of {asked}"
        )),
        false => Ok(()),
    }
}

pub async fn weights(kit: &Kit<'_>) -> Checked {
    if kit.abilities.routing != Routing::Weighted || kit.abilities.most_live < 2 {
        return skip("check does not say `weighted` with two live generations");
    }
    let members = kit.subjects().observed.shares.clone();
    if members.is_empty() {
        return skip("nothing says which member of the target's answers are the shares in effect (observed.shares)");
    }
    let stage = kit.stage()?;
    stage.bring("shop", 1, 10).await?;
    stage.bring("shop", 2, 11).await?;
    stage.route("shop", &[(1, 9_000), (2, 1_000)], 12).await?;
    let expected = |first: u32, second: u32| format!("{:?}", std::collections::BTreeMap::from([(1, first), (2, second)]));
    let shares = |page: &holdfast_core::target::Page| state_of(page).remove("route of main/shop").unwrap_or_default();
    if stage
        .seen_when(|page| shares(page) == expected(9_000, 1_000))
        .await?
        .is_none()
    {
        return fail(format!("routed 9000 and 1000, observe says {}", shares(&stage.seen().await?)));
    }
    stage.tap.lie(Lie::Shares { members });
    let page = stage.seen().await?;
    stage.tap.clear();
    let settled = page.routes.iter().all(|route| route.settled);
    if settled && shares(&page) == expected(9_000, 1_000) {
        return fail(format!(
            "in effect are 1000 and 9000 of {WHOLE}; observe says the 9000 and 1000 that were asked for, and that it is settled"
        ));
    }
    Ok(())
}
