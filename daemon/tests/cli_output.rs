//! Where output goes: terminals of any width and mood, readers that leave, disks that are full.

#[allow(dead_code, reason = "shared with the other tests of the command line")]
mod environment;

use environment::{CONFIG, Environment};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs::OpenOptions;
use std::process::Stdio;

const TARGET: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: { name: a }\nspec: { plugin: edge }\n";
const WORKLOAD: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: Workload\nmetadata: { name: shop }\nspec:\n  artifacts: { main: r.example.com/shop:1 }\n  placement: { targets: { names: [ a ] } }\n  template: {}\n";

fn environment() -> Environment {
    Environment::new(&[
        ("holdfast.yaml", CONFIG),
        ("m/t.yaml", TARGET),
        ("m/w.yaml", WORKLOAD),
        ("bad.yaml", "kind: Nothing\n"),
    ])
}

/// Without what colours it.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        out.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    out + rest
}

#[test]
fn a_table_fits_its_terminal() {
    let env = environment();
    for columns in [30, 60, 100] {
        let (text, code) = env.in_terminal(columns, &["plan", "m"], &[("COLUMNS", "7")]);
        let text = plain(&text);
        assert_eq!(code, 0, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}:\n{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("is resolved to a digest once, and written down"),
            "cut at {columns}:\n{text}"
        );
    }
    // In a pipe without COLUMNS, lines are for programs.
    let output = env.command(&["plan", "m"]).env_remove("COLUMNS").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.lines()
            .any(|line| line.starts_with("pin ") && line.ends_with("written down")),
        "{text}"
    );
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let env = environment();
    for (vars, coloured) in [
        (&[] as &[(&str, &str)], true),
        (&[("NO_COLOR", "1")], false),
        (&[("NO_COLOR", "")], true),
        (&[("TERM", "dumb")], false),
    ] {
        let (text, _) = env.in_terminal(80, &["plan", "m"], vars);
        assert_eq!(text.contains('\x1b'), coloured, "{vars:?}: {text:?}");
    }
    let (text, _) = env.in_terminal(80, &["plan", "m", "|", "cat"], &[]);
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn the_live_view_leaves_the_terminal_as_it_was() {
    let env = environment();
    let pid_file = env.path().join("pid");
    let mut looks = 0;
    // At every third look it is told to end.
    env.daemon(move |_| {
        looks += 1;
        if looks % 3 == 0 {
            let pid = std::fs::read_to_string(&pid_file)
                .unwrap()
                .trim()
                .parse()
                .ok()
                .and_then(Pid::from_raw);
            kill_process(pid.unwrap(), Signal::TERM).unwrap();
        }
        Ok(json!({
            "entries": looks, "durable": 1, "t": 1, "epoch": 1, "owner": "o", "source": null, "targets": [], "workloads": [],
        }))
    });
    let (text, code) = env.in_terminal(60, &["status", "--watch"], &[]);
    assert_eq!(code, 0, "{text:?}");
    let (enter, leave) = ("\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l");
    let shown = text.split_once(enter).and_then(|(_, rest)| rest.split_once(leave));
    let (screen, after) = shown.expect("another screen, and back");
    assert!(
        screen.contains("no workloads yet") && screen.contains("Ctrl-C ends"),
        "{screen:?}"
    );
    assert!(after.contains("no workloads yet") && !after.contains("Ctrl-C"), "{after:?}");
    // A terminal that knows no escape sequences gets lines.
    let (text, _) = env.in_terminal(60, &["status", "--watch"], &[("TERM", "dumb")]);
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn a_reader_that_leaves_changes_nothing() {
    let env = environment();
    for (args, code) in [
        (&["schema"] as &[&str], 0),
        (&["validate", "bad.yaml"], 1),
        (&["validate", "bad.yaml", "--json"], 1),
        (&["completions", "bash"], 0),
        (&["--help"], 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = env.command(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let told = env.told(args, &output);
        assert_eq!(told, format!("$ holdfast {}\nexit {code}\n", args.join(" ")));
    }
}

#[test]
fn a_full_disk_is_trouble() {
    let env = environment();
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [
        &["schema"] as &[&str],
        &["validate", "bad.yaml"],
        &["plan", "m"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let output = env.command(args).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let told = env.told(args, &output);
        let expected = format!(
            "$ holdfast {}\nexit 3\n--- stderr\nerror: the output cannot be written\ncaused by: No space left on device (os error 28)\n",
            args.join(" ")
        );
        assert_eq!(told, expected);
    }
    // Where errors cannot be told either, the exit code still tells.
    let output = env.command(&["status"]).stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
}
