//! Deliberate bugs, as `tests/mutants/list.txt` has them.

use std::path::Path;

/// A bug that the tests must catch.
pub struct Mutant {
    pub name: String,
    /// The invariant it breaks, and how.
    pub breaks: String,
    pub file: String,
    /// Files below `tests`, without their ending, the fastest first.
    pub tests: Vec<String>,
    pub before: String,
    pub after: String,
}

impl Mutant {
    /// Reads the list below a source tree.
    pub fn all(root: &Path) -> Vec<Mutant> {
        let list = std::fs::read_to_string(root.join("tests/mutants/list.txt")).expect("the list is there");
        list.split("\n# ").skip(1).map(parse).collect()
    }

    /// The file with the bug in it.
    ///
    /// # Errors
    /// Where the text before stands there not once: the list is stale.
    pub fn apply(&self, source: &str) -> Result<String, String> {
        match source.matches(&self.before).count() {
            1 => Ok(source.replacen(&self.before, &self.after, 1)),
            count => Err(format!("{}: its text stands {count} times in {}", self.name, self.file)),
        }
    }
}

fn parse(entry: &str) -> Mutant {
    let (head, body) = entry.split_once("\n---\n").expect("a head, and a text before");
    let (before, after) = body.split_once("\n+++").expect("a text before and a text after");
    let head: Vec<&str> = head.lines().collect();
    let [name, breaks, file, tests] = head[..] else { panic!("{entry}: four lines, and no more") };
    Mutant {
        name: name.into(),
        breaks: breaks.into(),
        file: file.into(),
        tests: tests.split(' ').map(str::to_owned).collect(),
        before: before.into(),
        after: after.trim_end_matches('\n').trim_start_matches('\n').into(),
    }
}
