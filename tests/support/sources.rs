//! The project's own files, read by the tests that look after them.

use std::fs;
use std::path::Path;

/// All Rust files below some directories of the package: name relative to it, and text.
pub fn rust_files(directories: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut todo: Vec<_> = directories.iter().map(|directory| root.join(directory)).collect();
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("it lies below the root").display().to_string();
                files.push((name, fs::read_to_string(&path).expect("sources are text")));
            }
        }
    }
    files.sort();
    files
}

/// Rust text with comments and the contents of literals blanked out; lines and columns stay what they were.
pub fn bare(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let length = literal(rest).unwrap_or(0);
        let (blank, after) = rest.split_at(if length == 0 { next.len_utf8() } else { length });
        match length {
            0 => bare.push(next),
            _ => bare.extend(blank.chars().map(|character| if character == '\n' { '\n' } else { ' ' })),
        }
        rest = after;
    }
    bare
}

/// Bytes of the comment or literal that `text` starts with.
fn literal(text: &str) -> Option<usize> {
    let until = |start: usize, end: &str| Some(text[start..].find(end).map_or(text.len(), |at| start + at + end.len()));
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return until(2, "*/");
    }
    let hashes = text.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
    if let Some(hashes) = hashes.filter(|hashes| text[1 + hashes..].starts_with('"')) {
        return until(2 + hashes, &format!("\"{}", "#".repeat(hashes)));
    }
    let quote = text.chars().next().filter(|quote| *quote == '"' || *quote == '\'')?;
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            _ if character == quote => return Some(at + 1),
            // A lifetime has no closing quote.
            _ if quote == '\'' && at > 1 && !text[1..].starts_with('\\') => return None,
            _ => {}
        }
    }
    None
}
