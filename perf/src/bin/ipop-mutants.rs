//! `ipop-mutants [WORD]`: see [`ipop_perf::mutants`]. With a word, only the mutants whose file or test has it.

use std::{
    env,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use anyhow::Result;
use ipop_perf::mutants::{self, Outcome};

fn main() -> Result<ExitCode> {
    let word = env::args().nth(1).unwrap_or_default();
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| mutants::root().join("target"), Into::into);
    let begun = Instant::now();
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let all_caught = mutants::run(&target, &word, |mutant, outcome| {
        counts[usize::from(*outcome != Outcome::Caught)].fetch_add(1, Relaxed);
        println!(
            "{outcome}: {}: `{}` becomes `{}` ({})",
            mutant.file, mutant.find, mutant.replace, mutant.test
        );
    })?;
    let [caught, other] = counts.map(AtomicUsize::into_inner);
    println!("{caught} of {} mutants caught in {} s", caught + other, begun.elapsed().as_secs());
    Ok(if all_caught { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
