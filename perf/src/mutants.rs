//! Mutants: lines that keep a promise, spoiled one at a time, to see that a test fails.
//!
//! `perf/mutants.txt` lists them: the file, what stands in one of its lines exactly once, what is put there instead, and the smallest test that
//! notices. [`run`] works on a copy of the tree below `target/mutants`, so nobody's files are touched. That the list fits the source
//! is checked with the other tests (`perf/tests/mutants.rs`); running it builds and tests once for each entry, which takes long.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, ensure};

/// A test that runs for longer has noticed something too, seconds.
const TEST_LIMIT_S: u32 = 300;

/// One entry of the list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mutant {
    /// The file, from the root of the workspace.
    pub file: String,
    /// What is replaced; it stands there once.
    pub find: String,
    /// By what.
    pub replace: String,
    /// What Cargo needs to run the test: `-p PACKAGE`, `--lib` or `--test TARGET`, the test's name.
    pub test: String,
}

/// What became of a mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The test failed, as it should.
    Caught,
    /// The test passed all the same: it does not keep the promise.
    Survived,
    /// What is put there is no program.
    DoesNotBuild,
    /// The list is older than the source, or the test fails by itself.
    Stale(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught => f.write_str("caught"),
            Self::Survived => f.write_str("SURVIVED"),
            Self::DoesNotBuild => f.write_str("DOES NOT BUILD"),
            Self::Stale(why) => write!(f, "STALE: {why}"),
        }
    }
}

/// The root of the workspace.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace")
}

/// Reads the list: lines of `key: value`, blocks parted by empty lines, comments behind `#`.
///
/// # Errors
/// If a block lacks a key, has another one, or has one twice.
pub fn parse(list: &str) -> anyhow::Result<Vec<Mutant>> {
    let without_comments: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let text = without_comments.join("\n");
    let blocks = text.split("\n\n").filter(|block| !block.trim().is_empty());
    blocks.map(|block| parse_block(block).with_context(|| block.to_owned())).collect()
}

fn parse_block(block: &str) -> anyhow::Result<Mutant> {
    let mut mutant = Mutant::default();
    let mut seen = BTreeSet::new();
    for line in block.lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once(':').context("a line is `key: value`")?;
        let field = match key {
            "file" => &mut mutant.file,
            "find" => &mut mutant.find,
            "replace" => &mut mutant.replace,
            "test" => &mut mutant.test,
            _ => anyhow::bail!("{key} is none of file, find, replace, test"),
        };
        ensure!(seen.insert(key), "{key} stands twice");
        value.strip_prefix(' ').unwrap_or(value).clone_into(field);
    }
    ensure!(seen.len() == 4, "a mutant has file, find, replace and test");
    Ok(mutant)
}

impl Mutant {
    /// Why the entry does not fit the source, if it does not.
    #[must_use]
    pub fn fault(&self, root: &Path) -> Option<String> {
        let Ok(source) = fs::read_to_string(root.join(&self.file)) else {
            return Some(format!("there is no {}", self.file));
        };
        let found = source.matches(&self.find).count();
        if found != 1 {
            return Some(format!("`{}` stands {found} times in {}", self.find, self.file));
        }
        let words: Vec<&str> = self.test.split(' ').collect();
        let (package, folder, name) = match words[..] {
            ["-p", package, "--lib", name] => (package, "src".to_owned(), name),
            ["-p", package, "--test", target, name] => (package, format!("tests/{target}"), name),
            _ => return Some(format!("`{}` does not name one test", self.test)),
        };
        let path = root.join(package.trim_start_matches("ipop-")).join(folder);
        let function = name.rsplit("::").next().unwrap_or(name);
        let is_there = contains_function(&path.with_extension("rs"), function)
            || contains_function(&path, function);
        (!is_there).then(|| format!("there is no test {name} in {}", path.display()))
    }
}

/// Whether a file, or one below a folder, has this function.
fn contains_function(path: &Path, name: &str) -> bool {
    if let Ok(entries) = fs::read_dir(path) {
        return entries.flatten().any(|entry| contains_function(&entry.path(), name));
    }
    path.extension().is_some_and(|extension| extension == "rs")
        && fs::read_to_string(path).is_ok_and(|source| source.contains(&format!("fn {name}(")))
}

/// A copy of the tree in which mutants live, and where it is built.
struct Copied {
    tree: PathBuf,
    built: PathBuf,
}

impl Copied {
    /// Brings the copy up to date. Files that did not change keep their times, so that Cargo need not build them again.
    fn of(root: &Path, target: &Path) -> anyhow::Result<Self> {
        let (tree, built) = (target.join("mutants/tree"), target.join("mutants/target"));
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("git ls-files")?;
        ensure!(listed.status.success(), "git ls-files: {}", listed.status);
        let names = String::from_utf8(listed.stdout).context("names of files")?;
        let names: BTreeSet<PathBuf> = names
            .split_terminator('\0')
            .map(PathBuf::from)
            .filter(|name| root.join(name).is_file())
            .collect();
        for name in &names {
            let (from, to) = (root.join(name), tree.join(name));
            let content = fs::read(&from).with_context(|| from.display().to_string())?;
            if fs::read(&to).is_ok_and(|copied| copied == content) {
                continue;
            }
            fs::create_dir_all(to.parent().unwrap_or(&tree))?;
            fs::write(&to, content).with_context(|| to.display().to_string())?;
        }
        remove_others(&tree, &tree, &names)?;
        Ok(Self { tree, built })
    }

    /// `cargo test`, with what the mutant says.
    fn cargo(&self, before: &[&str], test: &str) -> io::Result<ExitStatus> {
        Command::new("timeout")
            .arg(if before.is_empty() { TEST_LIMIT_S.to_string() } else { "0".to_owned() })
            .args(["cargo", "test", "--quiet", "--locked"])
            .args(before)
            .args(test.split(' '))
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.built)
            .env("CARGO_INCREMENTAL", "1")
            // What is built once for each mutant is better built fast than built well.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    }

    fn outcome(&self, mutant: &Mutant) -> anyhow::Result<Outcome> {
        let path = self.tree.join(&mutant.file);
        let source = fs::read_to_string(&path)?;
        fs::write(&path, source.replacen(&mutant.find, &mutant.replace, 1))?;
        let outcome = if !self.cargo(&["--no-run"], &mutant.test)?.success() {
            Outcome::DoesNotBuild
        } else if self.cargo(&[], &mutant.test)?.success() {
            Outcome::Survived
        } else {
            Outcome::Caught
        };
        fs::write(&path, source)?;
        Ok(outcome)
    }
}

fn remove_others(tree: &Path, folder: &Path, names: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_others(tree, &path, names)?;
        } else if !path.strip_prefix(tree).is_ok_and(|name| names.contains(name)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Runs the mutants of the list whose file or test contains `word`, and tells each outcome; whether all were caught.
///
/// # Errors
/// If the list cannot be read or the copy of the tree not be made.
pub fn run(
    target: &Path,
    word: &str,
    mut tell: impl FnMut(&Mutant, &Outcome),
) -> anyhow::Result<bool> {
    let list = root().join("perf/mutants.txt");
    let mut mutants = parse(&fs::read_to_string(&list).context("perf/mutants.txt")?)?;
    mutants.retain(|mutant| mutant.file.contains(word) || mutant.test.contains(word));
    // Those of one file together: the less changes, the less is built.
    mutants.sort_by(|one, other| (&one.test, &one.file).cmp(&(&other.test, &other.file)));
    let copied = Copied::of(root(), target)?;
    let mut all_caught = true;
    let mut sound = BTreeSet::new();
    for mutant in &mutants {
        let outcome = if let Some(fault) = mutant.fault(&copied.tree) {
            Outcome::Stale(fault)
        } else if !sound.contains(&mutant.test) && !copied.cargo(&[], &mutant.test)?.success() {
            Outcome::Stale("the test fails without the mutant".into())
        } else {
            sound.insert(mutant.test.clone());
            copied.outcome(mutant)?
        };
        all_caught &= outcome == Outcome::Caught;
        tell(mutant, &outcome);
    }
    Ok(all_caught)
}
