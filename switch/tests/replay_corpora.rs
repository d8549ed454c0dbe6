//! Replays the committed fuzz corpus through the target's body.

use std::{fs, path::Path};

#[test]
fn the_corpus_of_configurations_replays() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/configuration");
    let mut replayed = 0;
    for entry in fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        // The test's output names the input that a panic comes from.
        println!("{}", path.display());
        ipop_switch::fuzzing::configuration(&fs::read(path).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", corpus.display());
}
