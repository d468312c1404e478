//! Makes components that no compiler would make: of the wrong world, or right on the outside and hostile in their bytes.

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

const WIT: &str = include_str!("../../../../sdk/wit/since-0.1/target.wit");
const OBSERVE: &str = "holdfast:target/target@0.1.0#observe";
/// Takes what is lowered into the guest to the second page.
const ALLOCATE: &str = "(func $allocate (param i32 i32 i32 i32) (result i32) i32.const 65536)
    (func $room (drop (memory.grow (i32.const 2)))) (start $room)";
/// By which the text may call what it imports.
const IMPORTS: [(&str, &str); 4] = [
    ("$now", "\"holdfast:target/clock@0.1.0\" \"now-ms\""),
    ("$log", "\"holdfast:target/log@0.1.0\" \"write\""),
    ("$send_long", "\"holdfast:target/endpoint@0.1.0\" \"send-long\""),
    ("$send", "\"holdfast:target/endpoint@0.1.0\" \"send\""),
];

/// A plugin whose functions all trap, and what is changed about it.
#[derive(Default)]
pub struct Recipe {
    /// Added to its core module.
    pub fields: String,
    /// An interface that it imports besides.
    pub import: Option<String>,
    /// Replaced in the WIT.
    pub wit: Option<(String, String)>,
    /// Only the first half of it.
    pub cut: bool,
}

pub fn component(recipe: &Recipe) -> Vec<u8> {
    let mut wit = match &recipe.wit {
        Some((from, to)) => {
            assert!(WIT.contains(from.as_str()), "{from:?} is not in the WIT");
            WIT.replace(from.as_str(), to)
        }
        None => WIT.to_owned(),
    };
    let mut world = "target-plugin";
    if let Some(import) = &recipe.import {
        let (package, rest) = import.split_once('/').unwrap();
        let (interface, version) = rest.split_once('@').unwrap();
        wit = format!(
            "package test:test;\nworld w {{ include holdfast:target/target-plugin@0.1.0; import {import}; }}\n\
             package {package}@{version} {{ interface {interface} {{ f: func(); }} }}\n{}",
            WIT.replacen("package holdfast:target@0.1.0;", "package holdfast:target@0.1.0 {", 1) + "\n}"
        );
        world = "w";
    }
    let mut bytes = plugin(&wit, world, &recipe.fields);
    if recipe.cut {
        bytes.truncate(bytes.len() / 2);
    }
    bytes
}

fn plugin(wit: &str, world: &str, fields: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("target.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let module = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    let mut text = wasmprinter::print_bytes(&module).unwrap();
    let mut fields = fields.to_owned();
    for (name, import) in IMPORTS {
        if fields.contains(name) {
            let at = text.find(import).unwrap();
            let index = text[at..].split("(;").nth(1).unwrap().split(";)").next().unwrap().to_owned();
            fields = fields.replace(name, &index);
        }
    }
    if fields.contains("$mine") {
        export(&mut text, OBSERVE, "$mine");
        export(&mut text, "cabi_realloc", "$allocate");
        if !fields.contains("(func $allocate") {
            fields.push_str(ALLOCATE);
        }
    }
    let end = text.rfind(')').unwrap();
    text.insert_str(end, &fields);
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .validate(true)
        .encode()
        .unwrap()
}

/// Points an export at another function.
fn export(text: &mut String, name: &str, function: &str) {
    let begin = text.find(&format!("(export \"{name}\" (func ")).unwrap();
    let end = begin + text[begin..].find("))").unwrap() + 2;
    text.replace_range(begin..end, &format!("(export \"{name}\" (func {function}))"));
}
