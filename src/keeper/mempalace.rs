//! Where MemPalace looks for its palace, and for the kind of store in it: what a person has to change there when a
//! palace changes its kind. None of it is ours to change.

use super::Kind;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where MemPalace keeps its configuration: its old place only if something is there.
pub(crate) fn config_directory() -> PathBuf {
    let old = old_directory();
    let is_used = || MARKS.iter().any(|name| old.join(name).exists());
    let xdg = || variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    match variable("MEMPALACE_CONFIG_DIR") {
        Some(directory) => PathBuf::from(directory),
        None if is_used() => old,
        None => xdg().unwrap_or_else(|| home().join(".config")).join("mempalace"),
    }
}

/// By any of these MemPalace knows its old place.
const MARKS: [&str; 3] = ["config.json", "people_map.json", "palace/chroma.sqlite3"];

/// The palace that MemPalace's configuration names.
pub(crate) fn configured_palace() -> Option<PathBuf> {
    palace_of(&configuration(&config_directory())?)
}

fn palace_of(config: &serde_json::Value) -> Option<PathBuf> {
    let path = config["palace_path"].as_str()?;
    Some(match path.strip_prefix("~/") {
        Some(rest) => home().join(rest),
        None => PathBuf::from(path),
    })
}

fn configuration(directory: &Path) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(directory.join("config.json")).ok()?;
    serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()
}

/// An environment variable that says something.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn home() -> PathBuf {
    std::env::home_dir().unwrap_or_default()
}

fn old_directory() -> PathBuf {
    home().join(".mempalace")
}

/// What keeps MemPalace from opening a palace once its store is of this kind.
pub(super) fn notes(palace: &Path, kind: Kind) -> Vec<String> {
    let names: &[&str] = match kind {
        Kind::Chroma => &["chroma"],
        Kind::Exact => &["sqlite_exact", "rust_exact"],
    };
    let mut notes = Vec::new();
    let directory = config_directory();
    let config = configuration(&directory).unwrap_or_default();
    // MemPalace believes the key for no other palace than the configured one.
    let is_of_palace =
        palace_of(&config).is_none_or(|named| named == palace || named.canonicalize().ok().as_deref() == Some(palace));
    let other = config["backend"].as_str().filter(|backend| is_of_palace && !names.contains(backend));
    notes.extend(other.map(|backend| {
        let path = directory.join("config.json");
        format!(
            "{} says \"backend\": \"{backend}\"; make it \"{}\", or MemPalace will not open the palace",
            path.display(),
            names[0]
        )
    }));
    for name in ["MEMPALACE_BACKEND_EXPLICIT", "MEMPALACE_BACKEND"] {
        let other = variable(name).filter(|value| !names.iter().any(|name| value == name));
        notes.extend(other.map(|value| {
            let value = value.to_string_lossy().into_owned();
            format!("{name} is set to {value}; make it {}, or MemPalace will not open the palace", names[0])
        }));
    }
    let old = old_directory();
    let is_marked = MARKS.iter().take(2).any(|name| old.join(name).exists());
    if kind == Kind::Exact && palace == old.join("palace") && !is_marked {
        let path = old.join("config.json");
        notes.push(format!(
            "MemPalace will look for its palace elsewhere, because it knows this place by {} alone; write {{}} to {}",
            Kind::Chroma.database(),
            path.display()
        ));
    }
    notes
}
