//! A second version, which exists here only: what it takes is an adapter and a line where the host is made.

use super::*;
use crate::{CallOptions, Limits, LoadError, PluginHost};
use holdfast_core::target::{Abilities, Fault, FaultClass};
use std::sync::Arc;
use std::time::Duration;

/// Of 0.9, where `check` only says how many generations may be live.
const COMPONENT: &str = r#"(component
  (core module $code (func (export "most-live") (result i32) i32.const 7))
  (core instance $instance (instantiate $code))
  (func $most_live (result u32) (canon lift (core func $instance "most-live")))
  (instance $target (export "most-live" (func $most_live)))
  (export "holdfast:target/target@0.9.3" (instance $target)))"#;

struct Since09;

fn not_known<'a, T>() -> Running<'a, T> {
    Box::pin(async {
        Ok(Err(Fault {
            class: FaultClass::Absent,
            message: "not in 0.9".into(),
            fence: None,
        }))
    })
}

impl Protocol for Since09 {
    fn series(&self) -> &'static str {
        "0.9"
    }
    fn imports(&self) -> &'static [&'static str] {
        &[]
    }
    fn link(&self, _: &mut Linker<Guest>) -> Result<()> {
        Ok(())
    }
    fn bind(&self, _: &InstancePre<Guest>) -> Result<Box<dyn Bound>> {
        Ok(Box::new(Since09))
    }
}

impl Bound for Since09 {
    fn fits(&self, _: &mut Store<Guest>, _: &Instance) -> Result<()> {
        Ok(())
    }
    fn check<'a>(
        &'a self,
        store: &'a mut Store<Guest>,
        instance: &'a Instance,
        _: &'a CallContext,
        _: &'a Generation,
    ) -> Running<'a, Report> {
        Box::pin(async move {
            let target = instance.get_export_index(&mut *store, None, "holdfast:target/target@0.9.3");
            let function = instance.get_export_index(&mut *store, target.as_ref(), "most-live");
            let function = function.ok_or_else(|| wasmtime::Error::msg("no most-live"))?;
            let function = instance.get_typed_func::<(), (u32,)>(&mut *store, &function)?;
            let (most_live,) = function.call_async(store, ()).await?;
            let abilities = Abilities {
                most_live,
                ..Abilities::default()
            };
            Ok(Ok(Report {
                problems: Vec::new(),
                abilities,
            }))
        })
    }
    fn observe<'a>(
        &'a self,
        _: &'a mut Store<Guest>,
        _: &'a Instance,
        _: &'a CallContext,
        _: Option<String>,
        _: Option<String>,
    ) -> Running<'a, Page> {
        not_known()
    }
    fn mutate<'a>(
        &'a self,
        _: &'a mut Store<Guest>,
        _: &'a Instance,
        _: &'a CallContext,
        _: &'a Mutation,
    ) -> Running<'a, Progress> {
        not_known()
    }
}

#[tokio::test]
async fn a_component_says_which_version_it_was_built_for() {
    let component = wat::parse_str(COMPONENT).unwrap();
    let both: Vec<Arc<dyn Protocol>> = vec![Arc::new(Since01), Arc::new(Since09)];
    let plugin = PluginHost::with_protocols(Limits::default(), None, both)
        .unwrap()
        .load("future", &component)
        .unwrap();
    let context = CallContext {
        owner: "me".into(),
        target: "a".into(),
        config: "{}".into(),
        fence: 0,
        deploy_id: String::new(),
        resume: None,
    };
    let options = CallOptions {
        binding: None,
        context: &context,
        deadline: Duration::from_secs(10),
        now_ms: 0,
        secrets: &[],
        artifacts: None,
    };
    let subject = Generation {
        workload: "main/shop".into(),
        key: "shop".into(),
        name: "shop-g1".into(),
        number: 1,
        release_id: "r".into(),
        artifacts: Vec::new(),
        template: "{}".into(),
        files: Vec::new(),
        secrets: Vec::new(),
        stamps: Vec::new(),
        drain_ms: 0,
    };
    assert_eq!(plugin.check(&options, &subject).await.answer.unwrap().abilities.most_live, 7);
    assert!(plugin.retire(&options, &subject, true).await.answer.is_err());

    let refused = PluginHost::new(Limits::default(), None).unwrap().load("future", &component);
    let Err(error @ LoadError::Version { .. }) = refused.map(drop) else {
        panic!("a version that is not known was loaded")
    };
    assert_eq!(
        error.to_string(),
        "plugin future was built for holdfast:target 0.9.3; this holdfast calls holdfast:target 0.1 (see sdk/FAILURES.md#version)"
    );
}

#[test]
fn series() {
    for (version, series, expected) in [
        ("0.1.0", "0.1", true),
        ("0.1.17", "0.1", true),
        ("0.10.0", "0.1", false),
        ("0.1", "0.1", false),
        ("1.0.1", "0.1", false),
    ] {
        assert_eq!(is_of(version, series), expected, "{version} {series}");
    }
}
