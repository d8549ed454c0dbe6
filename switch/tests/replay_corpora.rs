//! Replays the committed fuzz corpora through the targets' bodies.

use std::{collections::BTreeSet, fs, path::Path};

use ipop_switch::fuzzing::TARGETS;

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", directory.display()));
    entries
        .map(|entry| entry.expect("a directory entry").file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn every_corpus_replays() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for target in TARGETS {
        let corpus = corpora.join(target.name);
        let inputs = names(&corpus);
        assert!(!inputs.is_empty(), "{} is empty", corpus.display());
        for input in inputs {
            // The test's output names the input that a panic comes from.
            println!("{}/{input}", target.name);
            (target.body)(&fs::read(corpus.join(&input)).expect("a readable corpus file"));
        }
    }
}

#[test]
fn every_target_has_a_wrapper_and_a_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.into()).collect();
    let wrappers = targets.iter().map(|target| format!("{target}.rs")).collect();
    assert_eq!(names(&fuzz.join("fuzz_targets")), wrappers);
    assert_eq!(names(&fuzz.join("corpus")), targets);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the manifest");
    for target in targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "no [[bin]] for {target}");
    }
}
