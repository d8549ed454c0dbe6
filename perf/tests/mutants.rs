//! The list of mutants fits the source: each stands for one place and one test that is there. `make mutants` tries them.

use std::fs;

use ipop_perf::mutants::{Mutant, parse, root};

#[test]
fn the_list_fits_the_source() {
    let list = fs::read_to_string(root().join("perf/mutants.txt")).expect("the list");
    let mutants = parse(&list).expect("a sound list");
    let faults: Vec<String> = mutants.iter().filter_map(|mutant| mutant.fault(root())).collect();
    assert_eq!(faults, Vec::<String>::new());
    assert!(mutants.len() >= 40, "{}", mutants.len());
}

#[test]
fn a_block_has_four_keys() {
    let block = "# why\nfile: a.rs\nfind: x: y\nreplace:\ntest: -p ipop-perf --lib a\n";
    let mutant = &parse(&format!("{block}\n\n\n{block}")).expect("two mutants")[1];
    assert_eq!((&mutant.find[..], &mutant.replace[..]), ("x: y", ""));
    for wrong in ["file: a", "a: b\n", &format!("{block}file: twice"), "nothing"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn faults_are_told() {
    let sound = Mutant {
        file: "perf/src/mutants.rs".into(),
        find: "f.write_str(\"SUR".into(),
        replace: String::new(),
        test: "-p ipop-perf --test mutants faults_are_told".into(),
    };
    let fault = |mutant: Mutant| mutant.fault(root()).unwrap_or_default();
    assert_eq!(fault(sound.clone()), "");
    for (wrong, told) in [
        (Mutant { file: "perf/nowhere".into(), ..sound.clone() }, "there is no perf/nowhere"),
        (Mutant { find: "fn".into(), ..sound.clone() }, "times in perf/src/mutants.rs"),
        (Mutant { test: "-p ipop-perf".into(), ..sound.clone() }, "does not name one test"),
        (Mutant { test: format!("{}_not", sound.test), ..sound.clone() }, "there is no test"),
    ] {
        let fault = fault(wrong);
        assert!(fault.contains(told), "{fault}");
    }
}
