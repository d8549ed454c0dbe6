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
