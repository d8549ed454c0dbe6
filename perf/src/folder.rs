//! What a run leaves: a folder with `figures.json` for programs, `report.md` for people, and `charts/*.svg`.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

/// The file that holds every figure.
pub const FIGURES: &str = "figures.json";
/// The file for people.
pub const REPORT: &str = "report.md";

/// Writes it, over what was there. Charts are names and SVG texts.
///
/// # Errors
/// When it can't be written.
pub fn write(
    folder: &Path,
    figures: &impl Serialize,
    report: &str,
    charts: &[(String, String)],
) -> Result<()> {
    let in_charts = folder.join("charts");
    fs::create_dir_all(&in_charts).with_context(|| format!("making {}", in_charts.display()))?;
    let put = |path: &Path, text: &str| {
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    };
    put(&folder.join(FIGURES), &(serde_json::to_string_pretty(figures)? + "\n"))?;
    put(&folder.join(REPORT), report)?;
    for (name, svg) in charts {
        put(&in_charts.join(format!("{name}.svg")), svg)?;
    }
    Ok(())
}

/// Puts a folder's report into a document, between the lines `<!-- begin NAME -->` and `<!-- end NAME -->`, without its
/// title and with its headings two levels down.
///
/// # Errors
/// When either can't be read, the document lacks the lines, or it can't be written.
pub fn insert(folder: &Path, document: &Path, name: &str) -> Result<()> {
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
    };
    let (report, text) = (read(&folder.join(REPORT))?, read(document)?);
    let replaced = between(&text, name, &demoted(&report));
    let text = replaced.with_context(|| {
        format!("{} has no lines <!-- begin {name} --> and <!-- end {name} -->", document.display())
    })?;
    fs::write(document, text).with_context(|| format!("writing {}", document.display()))
}

fn between(text: &str, name: &str, inner: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{inner}{end}{after}"))
}

fn demoted(report: &str) -> String {
    let body = report.lines().skip_while(|line| line.starts_with("# ") || line.is_empty());
    let lines = body.map(|line| match line.strip_prefix("## ") {
        Some(heading) => format!("#### {heading}\n"),
        None => format!("{line}\n"),
    });
    lines.collect::<String>().trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_takes_the_place_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let document = dir.path().join("BENCHMARKS.md");
        fs::write(&document, "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n").unwrap();
        write(dir.path(), &1, "# Title\n\ntext\n\n## Part\n\n| 1 |\n\n", &[]).unwrap();
        for _ in 0..2 {
            insert(dir.path(), &document, "x").unwrap();
            let text = fs::read_to_string(&document).unwrap();
            assert_eq!(
                text,
                "a\n<!-- begin x -->\ntext\n\n#### Part\n\n| 1 |\n<!-- end x -->\nb\n"
            );
        }
        let error = insert(dir.path(), &document, "y").unwrap_err();
        assert!(error.to_string().contains("<!-- begin y -->"), "{error}");
    }
}
