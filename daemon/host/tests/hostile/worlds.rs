//! Components that no compiler would make: of the wrong world, or right on the outside and hostile in their bytes.

use crate::guests::{Call, class, component, host};
use holdfast_host::{FailureClass, LoadError};
use serde_json::json;
use std::time::Duration;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

const WIT: &str = include_str!("../../../../sdk/wit/since-0.1/target.wit");
const OBSERVE: &str = "holdfast:target/target@0.1.0#observe";

/// A component of `world` in `wit` whose functions trap, with `fields` added to its core module, and `observe` replaced by
/// a function of theirs named `$mine`, with `$allocate` to take its arguments.
fn dummy(wit: &str, world: &str, fields: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("target.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let module = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    let mut text = wasmprinter::print_bytes(&module).unwrap();
    if fields.contains("$mine") {
        let begin = text.find(&format!("(export \"{OBSERVE}\" (func ")).unwrap();
        let end = begin + text[begin..].find("))").unwrap() + 2;
        text.replace_range(begin..end, &format!("(export \"{OBSERVE}\" (func $mine))"));
        let begin = text.find("(export \"cabi_realloc\" (func ").unwrap();
        let end = begin + text[begin..].find("))").unwrap() + 2;
        text.replace_range(begin..end, "(export \"cabi_realloc\" (func $allocate))");
    }
    let end = text.rfind(')').unwrap();
    text.insert_str(end, fields);
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .validate(true)
        .encode()
        .unwrap()
}

fn plugin_with(fields: &str) -> Vec<u8> {
    dummy(WIT, "target-plugin", fields)
}

#[test]
fn the_wrong_world_is_not_loaded() {
    let whole = component("holdfast-example-plugin-minimal");
    let with_import = |import: &str| {
        let (package, rest) = import.split_once('/').unwrap();
        let (interface, version) = rest.split_once('@').unwrap();
        let wit = format!(
            "package test:test;\nworld w {{ include holdfast:target/target-plugin@0.1.0; import {import}; }}\n\
             package {package}@{version} {{ interface {interface} {{ f: func(); }} }}\n{}",
            WIT.replacen("package holdfast:target@0.1.0;", "package holdfast:target@0.1.0 {", 1) + "\n}"
        );
        dummy(&wit, "w", "")
    };
    for (what, bytes, part) in [
        ("no WebAssembly", b"not wasm".to_vec(), "not a valid"),
        ("nothing", Vec::new(), "not a valid"),
        ("cut short", whole[..whole.len() / 2].to_vec(), "not a valid"),
        ("a core module", wat::parse_str("(module)").unwrap(), "not a valid"),
        (
            "an empty component",
            wat::parse_str("(component)").unwrap(),
            "exports no holdfast:target/target; this holdfast calls holdfast:target 0.1",
        ),
        (
            "a newer world",
            dummy(&WIT.replace("@0.1.0", "@0.2.0"), "target-plugin", ""),
            "was built for holdfast:target 0.2.0; this holdfast calls holdfast:target 0.1",
        ),
        (
            "another shape",
            dummy(&WIT.replace("fence: u64,", "fence: u32,"), "target-plugin", ""),
            "does not fit the plugin world",
        ),
        (
            "sockets",
            with_import("wasi:sockets/tcp@0.2.0"),
            "imports wasi:sockets/tcp@0.2.0, which no plugin gets",
        ),
        (
            "HTTP",
            with_import("wasi:http/outgoing-handler@0.2.0"),
            "imports wasi:http/outgoing-handler@0.2.0",
        ),
        (
            "something of its own",
            with_import("evil:thing/io@1.0.0"),
            "imports evil:thing/io@1.0.0",
        ),
        (
            "a WASI that is not there",
            with_import("wasi:cli/evil@0.2.0"),
            "does not fit the plugin world",
        ),
        (
            "64-bit memory",
            wat::parse_str("(component (core module (memory i64 1)))").unwrap(),
            "not a valid",
        ),
    ] {
        let error = host()
            .load("test", &bytes)
            .err()
            .unwrap_or_else(|| panic!("{what} was loaded"));
        assert!(error.to_string().contains(part), "{what}: {error}");
    }
    let large = host().load("test", &vec![0; (64 << 20) + 1]);
    assert!(matches!(large, Err(LoadError::TooLarge { .. })));
    assert!(host().load("test", &plugin_with("")).is_ok(), "without the harm it loads");
}

#[test]
fn what_does_harm_before_it_is_called_is_not_loaded() {
    let many = |field: &str, count: usize| field.repeat(count);
    let storm = "(memory.copy (i32.const 0) (i32.const 1) (i32.const 60000))";
    for (what, fields, part) in [
        ("a loop", "(func $go (loop br 0)) (start $go)".into(), "cpu-budget"),
        ("a trap", "(func $go unreachable) (start $go)".into(), "panic: wasm trap"),
        ("recursion", "(func $go call $go) (start $go)".into(), "stack"),
        ("a large memory", "(memory 2000)".into(), "memory"),
        ("memories that are large together", many("(memory 300)", 5), "memory"),
        ("many memories", many("(memory 1)", 20), "memory: resource limit exceeded"),
        ("a large table", "(table 200000 funcref)".into(), "memory"),
        (
            "many tables",
            many("(table 1 funcref)", 40),
            "memory: resource limit exceeded",
        ),
        (
            "storms of memory.copy",
            format!("(func $go (drop (memory.grow (i32.const 2))) (loop {storm} br 0)) (start $go)"),
            "cpu-budget",
        ),
        (
            "growth until it ends",
            "(func $go (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable) (start $go)".into(),
            "memory",
        ),
    ] {
        let error = host()
            .load("test", &plugin_with(&fields))
            .err()
            .unwrap_or_else(|| panic!("{what} was loaded"));
        let text = error.to_string();
        assert!(
            matches!(error, LoadError::Start { .. }) && text.contains(&format!("does not start: {part}")),
            "{what}: {text}"
        );
    }
}

#[tokio::test]
async fn answers_that_lie_fail_alone() {
    // Its arguments are too many for parameters, so it gets a pointer to them. What is lowered into it goes to the first page.
    let mine = |body: &str| {
        format!(
            "(func $allocate (param i32 i32 i32 i32) (result i32) i32.const 4096) (func $grow (drop (memory.grow (i32.const 1))))
             (start $grow) (func $mine (param i32) (result i32) {body})"
        )
    };
    for (what, body) in [
        ("outside of memory", "i32.const -4"),
        ("misaligned", "i32.const 1"),
        (
            "a case that the type has not",
            "(i32.store8 (i32.const 8) (i32.const 77)) i32.const 8",
        ),
        (
            // ok; no owner; fence 0; then the list of generations.
            "a list longer than memory",
            "(i32.store (i32.const 40) (i32.const 16)) (i32.store (i32.const 44) (i32.const 0x7fffff)) i32.const 8",
        ),
    ] {
        let plugin = host()
            .load("hostile bytes", &plugin_with(&mine(body)))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let call = Call::new(json!([])).within(Duration::from_secs(5));
        let report = plugin.observe(&call.options(), None).await;
        assert_eq!(class(&report), Some(FailureClass::Panic), "{what}: {:?}", report.answer);
    }
}
