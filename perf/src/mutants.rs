//! Mutants: lines that keep a promise, spoiled one at a time, to see that a test fails.
//!
//! `perf/mutants.txt` lists them: the file, what stands in one of its lines exactly once, what is put there instead, and the smallest test that
//! notices. [`run`] works on copies of the tree below `target/mutants`, one for each processor, so nobody's files are touched. That the list
//! fits the source is checked with the other tests (`perf/tests/mutants.rs`); running it builds and tests once for each entry, which takes long.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
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
    /// What Cargo needs to build the test.
    fn binary(&self) -> &str {
        self.test.rsplit_once(' ').map_or("", |(binary, _)| binary)
    }

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

/// A copy of the tree in which one mutant at a time lives, and where it is built.
struct Copied {
    tree: PathBuf,
    built: PathBuf,
}

impl Copied {
    /// Brings copy number `number` up to date. Files that did not change keep their times, so that Cargo need not build them again.
    fn of(root: &Path, target: &Path, number: usize) -> anyhow::Result<Self> {
        let place = target.join("mutants").join(number.to_string());
        let (tree, built) = (place.join("tree"), place.join("target"));
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

    /// Takes over what another copy built: the libraries, which are most of it, need not be built twice.
    fn take_over(&self, other: &Self) -> anyhow::Result<()> {
        if self.built.exists() {
            return Ok(());
        }
        let copied = Command::new("cp").arg("-a").args([&other.built, &self.built]).status()?;
        ensure!(copied.success(), "cp of {}: {copied}", other.built.display());
        Ok(())
    }

    /// `cargo test` with these words: whether it went well within `limit_s` seconds; 0 is no limit.
    fn cargo(&self, limit_s: u32, words: &[&str]) -> io::Result<bool> {
        let status = Command::new("timeout")
            .arg(limit_s.to_string())
            .args(["cargo", "test", "--quiet", "--locked"])
            .args(words)
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.built)
            .env("CARGO_INCREMENTAL", "1")
            // What is built once for each mutant is better built fast than built well.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        Ok(status.success())
    }

    /// Those of the tests of one binary that fail by themselves.
    fn unsound<'a>(&self, binary: &[&str], names: &[&'a str]) -> anyhow::Result<Vec<&'a str>> {
        let passes = |names: &[&str]| self.cargo(0, &[binary, &["--"], names].concat());
        if passes(names)? {
            return Ok(Vec::new());
        }
        let mut failing = Vec::new();
        for &name in names {
            if !passes(&[name])? {
                failing.push(name);
            }
        }
        Ok(failing)
    }

    fn outcome(&self, mutant: &Mutant) -> anyhow::Result<Outcome> {
        let path = self.tree.join(&mutant.file);
        let source = fs::read_to_string(&path)?;
        fs::write(&path, source.replacen(&mutant.find, &mutant.replace, 1))?;
        let words: Vec<&str> = mutant.test.split(' ').collect();
        let outcome = if !self.cargo(0, &[&["--no-run"], &words[..]].concat())? {
            Outcome::DoesNotBuild
        } else if self.cargo(TEST_LIMIT_S, &words)? {
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
/// There is a copy of the tree for each processor. First every test passes in the first of them as it is, then the mutants are shared out.
///
/// # Errors
/// If the list cannot be read or a copy of the tree not be made.
pub fn run(
    target: &Path,
    word: &str,
    tell: impl Fn(&Mutant, &Outcome) + Sync,
) -> anyhow::Result<bool> {
    let list = root().join("perf/mutants.txt");
    let mut mutants = parse(&fs::read_to_string(&list).context("perf/mutants.txt")?)?;
    mutants.retain(|mutant| mutant.file.contains(word) || mutant.test.contains(word));
    // Those of one binary and file together: the less changes, the less is built.
    mutants.sort_by(|one, other| (one.binary(), &one.file).cmp(&(other.binary(), &other.file)));
    let places = thread::available_parallelism().map_or(1, NonZero::get);
    let copies: Vec<Copied> =
        (0..places).map(|number| Copied::of(root(), target, number)).collect::<Result<_, _>>()?;
    let stale = stale(&copies[0], &mutants)?;
    for copy in &copies[1..] {
        copy.take_over(&copies[0])?;
    }

    let queue = Mutex::new(mutants.iter());
    let next = || queue.lock().expect("nobody panics with it").next();
    let work = |copy: &Copied| -> anyhow::Result<bool> {
        let mut all_caught = true;
        while let Some(mutant) = next() {
            let outcome =
                match stale.get(&mutant.test).cloned().or_else(|| mutant.fault(&copy.tree)) {
                    Some(why) => Outcome::Stale(why),
                    None => copy.outcome(mutant)?,
                };
            all_caught &= outcome == Outcome::Caught;
            tell(mutant, &outcome);
        }
        Ok(all_caught)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = copies.iter().map(|copy| scope.spawn(|| work(copy))).collect();
        let ends =
            workers.into_iter().map(|worker| worker.join().expect("a worker does not panic"));
        ends.collect::<anyhow::Result<Vec<bool>>>()
            .map(|ends| ends.into_iter().all(|caught| caught))
    })
}

/// The tests that fail without a mutant, and so what: they notice nothing.
fn stale(copy: &Copied, mutants: &[Mutant]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut binaries: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for mutant in mutants {
        let binary = mutant.binary();
        binaries.entry(binary).or_default().insert(mutant.test[binary.len()..].trim_start());
    }
    let mut stale = BTreeMap::new();
    for (binary, names) in binaries {
        let words: Vec<&str> = binary.split(' ').collect();
        for name in copy.unsound(&words, &Vec::from_iter(names))? {
            stale
                .insert(format!("{binary} {name}"), "the test fails without the mutant".to_owned());
        }
    }
    Ok(stale)
}
