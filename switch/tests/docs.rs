//! Keeps the documents honest: what the program can say is in `docs/OPERATIONS.md`, and links lead somewhere.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ipop_datapath::counters::{IoCounters, PortCounters, drops::DropReason};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace")
}

fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first cells of the tables' rows below a heading, without their formatting.
fn first_cells(document: &str, heading: &str) -> Vec<String> {
    let (_, section) = document.split_once(&format!("\n{heading}\n")).expect(heading);
    let level = heading.split(' ').next().expect(heading).len();
    let next = |line: &&str| {
        line.starts_with('#') && line.split(' ').next().is_some_and(|marks| marks.len() <= level)
    };
    let rows = section.lines().take_while(|line| !next(line)).filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells.map(|cell| cell.trim().replace('`', "")).filter(|cell| !cell.starts_with("---")).collect()
}

fn help() -> String {
    let help = Command::new(env!("CARGO_BIN_EXE_ipop-switch")).arg("--help").output().unwrap();
    String::from_utf8(help.stdout).unwrap()
}

#[test]
fn every_reason_of_a_drop_is_explained_and_no_other() {
    let operations = text("docs/OPERATIONS.md");
    let documented = first_cells(&operations, "### Reasons of drops");
    let known: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(documented[0], "reason");
    assert_eq!(documented[1..], known, "in the order of DropReason");
}

#[test]
fn every_reason_of_a_refusal_is_explained_and_no_other() {
    let operations = text("docs/OPERATIONS.md");
    let documented = first_cells(&operations, "### Reasons of refusals");
    let dropped = ipop_control::xmpp::stream::Counters::default().dropped();
    let known: Vec<&str> =
        ipop_control::node::refused_reasons().chain(dropped.map(|(name, _)| name)).collect();
    assert_eq!(documented[1..], known, "in the order of the counters");
}

#[test]
fn every_flag_and_its_key_is_explained() {
    let operations = text("docs/OPERATIONS.md");
    let documented: BTreeSet<String> = first_cells(&operations, "## Options")
        .iter()
        .filter_map(|cell| cell.split(' ').next()?.strip_prefix("--").map(String::from))
        .collect();
    let help = help();
    let flags: BTreeSet<String> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--")?.split(' ').next())
        .map(String::from)
        .collect();
    assert!(flags.len() > 10, "{help}");
    assert_eq!(documented, flags);
    for flag in flags.iter().filter(|flag| *flag != "config") {
        // Flags of the network have their keys in tables.
        let key = match (flag.as_str(), flag.split_once("xmpp-")) {
            (_, Some(("", key))) => format!("xmpp.{}", key.replace('-', "_")),
            ("network-secret-file", _) => "network.secret_file".into(),
            ("room" | "trust" | "join", _) => format!("network.{flag}"),
            _ => flag.replace('-', "_"),
        };
        assert!(operations.contains(&format!("| `{key}` |")), "the key of --{flag}");
    }
}

#[test]
fn every_exit_code_is_explained() {
    let help = help();
    let (_, codes) = help.split_once("Exit codes:\n").expect("the help lists them");
    let known: Vec<&str> =
        codes.lines().map_while(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert_eq!(known, ["0", "1", "2", "3", "4"]);
    let documented = first_cells(&text("docs/OPERATIONS.md"), "## Exit codes");
    assert_eq!(documented[1..], known);
}

/// The fields of the structures whose names end so.
fn fields_of(source: &str, suffix: &str) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    let mut inside = false;
    let mut flattened = false;
    for line in source.lines() {
        if line.contains("struct ") && line.ends_with(" {") {
            inside = line.trim_end_matches(" {").ends_with(suffix);
        } else if line == "}" {
            inside = false;
        } else if line.trim() == "#[serde(flatten)]" {
            flattened = true;
        } else if let Some((name, _)) = line.trim().split_once(": ").filter(|_| inside) {
            let name = name.trim_start_matches("pub ");
            if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                && !std::mem::take(&mut flattened)
            {
                fields.insert(name.to_owned());
            }
        }
    }
    fields
}

#[test]
fn every_field_of_the_counters_is_explained() {
    let operations = text("docs/OPERATIONS.md");
    let (_, counters) = operations.split_once("\n## Counters\n").unwrap();
    let mut fields = fields_of(&text("switch/src/run/report.rs"), "Report");
    fields.extend(fields_of(&text("control/src/sessions/snapshot.rs"), "Snapshot"));
    fields.extend(fields_of(&text("control/src/rendezvous/report.rs"), "Report"));
    fields.extend(fields_of(&text("control/src/paths/report.rs"), "Report"));
    fields.extend(fields_of(&text("control/src/sessions/mesh/mod.rs"), "Report"));
    let (ports, workers) = (PortCounters::default(), IoCounters::default());
    fields.extend(ports.by_name().chain(workers.by_name()).map(|(name, _)| name.to_owned()));
    assert!(fields.len() > 50 && fields.contains("kernel_tx_dropped"), "{fields:?}");
    for field in fields {
        let forms = [format!("`{field}`"), format!("`{field}[]`")];
        assert!(forms.iter().any(|form| counters.contains(form)), "{field} is not explained");
    }
}

fn markdown(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            markdown(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Headings as the anchors that forges make of them.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|heading| {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            heading.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn relative_links_lead_somewhere() {
    let mut documents = Vec::new();
    markdown(root(), &mut documents);
    let mut links = 0;
    for path in &documents {
        let document = fs::read_to_string(path).unwrap();
        for link in document.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            links += 1;
            let shown = format!("{link} in {}", path.display());
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(target.exists(), "{shown} leads nowhere");
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap());
                assert!(there.contains(anchor), "{shown} names no heading of {there:?}");
            }
        }
    }
    assert!(documents.len() > 5 && links > 10, "{links} links in {documents:?}");
}

/// Promises are numbered without a gap, and each names tests that exist.
#[test]
fn every_promise_names_the_tests_that_keep_it() {
    let promises = text("docs/PROMISES.md");
    let mut count = 0;
    for row in promises.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let Ok(number) = cells[0].parse::<usize>() else { continue };
        count += 1;
        assert_eq!(number, count, "{row}");
        let tests: Vec<&str> = cells[2].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "promise {number} names no test");
        for test in tests {
            let (file, function) = test.split_once('#').expect("file#test");
            let is_there = text(file).contains(&format!("fn {function}("));
            assert!(is_there, "promise {number}: there is no {function} in {file}");
        }
    }
    assert!(count >= 60, "{count}");
}

/// `make` targets and files that the documents tell people to use.
#[test]
fn make_targets_that_are_named_exist() {
    let makefile = text("Makefile");
    let mut documents = Vec::new();
    markdown(root(), &mut documents);
    let mut named = BTreeSet::new();
    for path in documents {
        let document = fs::read_to_string(path).unwrap();
        for word in document.split("`make ").skip(1).filter_map(|rest| rest.split('`').next()) {
            // Without the variables that it is given.
            named.insert(word.split(' ').next().unwrap_or(word).to_owned());
        }
    }
    assert!(named.contains("test") && named.contains("demo"), "{named:?}");
    for target in named {
        assert!(makefile.contains(&format!("\n{target}:")), "`make {target}` does not exist");
    }
}

#[test]
fn every_code_of_why_is_explained_and_no_other() {
    let description: serde_json::Value =
        serde_json::from_str(&text("docs/openapi.json")).expect("openapi.json is JSON");
    let codes = description["components"]["schemas"]["WhyCode"]["enum"].as_array();
    let known: BTreeSet<String> =
        codes.unwrap().iter().filter_map(|code| code.as_str().map(String::from)).collect();
    let cells = first_cells(&text("docs/OPERATIONS.md"), "### See why a peer is relayed, or down");
    let documented: BTreeSet<String> =
        cells[1..].iter().flat_map(|cell| cell.split(", ").map(String::from)).collect();
    assert!(known.len() > 10, "{known:?}");
    assert_eq!(documented, known);
}
