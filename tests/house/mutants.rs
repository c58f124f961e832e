//! The list of deliberate bugs fits the sources as they are. That each of them is caught takes longer than a test may:
//! `cargo run --release --example mutants`.

use crate::support::mutants::Mutant;
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn list_of_mutants_fits_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let spec = read("SPEC.md");
    let mutants = Mutant::all(root);
    let names: BTreeSet<&String> = mutants.iter().map(|mutant| &mutant.name).collect();
    assert_eq!(names.len(), mutants.len(), "two mutants have one name");
    for mutant in &mutants {
        let mutated = mutant.apply(&read(&mutant.file)).unwrap_or_else(|stale| panic!("{stale}"));
        assert_ne!(mutated, read(&mutant.file), "{}: it changes nothing", mutant.name);
        let invariant = mutant.breaks.split(':').next().unwrap_or_default();
        assert!(spec.contains(&format!("**{invariant}**")), "{}: SPEC.md has no {invariant}", mutant.name);
        for test in &mutant.tests {
            assert!(root.join(format!("tests/{test}.rs")).exists(), "{}: there is no test {test}", mutant.name);
        }
    }
    assert!(mutants.len() >= 40, "only {} mutants", mutants.len());
}
