//! Bar charts and curves as SVG, made to be read beside a table: labels, values, and lines for the spread; no script, no font to load.

use std::fmt::Write as _;

/// A bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What it stands for.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// The smallest value of the rounds.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

const WIDTH: f64 = 760.0;
const LABELS: f64 = 190.0;
const VALUES: f64 = 90.0;
const ROW: f64 = 24.0;
const TITLE: f64 = 34.0;

/// Horizontal bars, longest value to the right edge, values printed with so many decimals.
pub fn bars(title: &str, decimals: usize, bars: &[Bar]) -> String {
    let height = TITLE + ROW * bars.len() as f64 + 10.0;
    let most = bars.iter().map(|bar| bar.most).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABELS - VALUES) / most;
    let mut svg = head(title, height);
    for (row, bar) in bars.iter().enumerate() {
        let top = TITLE + ROW * row as f64;
        let (baseline, middle) = (top + 16.0, top + ROW / 2.0);
        let (from, to) = (LABELS + bar.least * scale, LABELS + bar.most * scale);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#4a7fb5\"/>\
             <line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"#222\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{baseline:.1}\">{:.decimals$}</text>\n",
            LABELS - 8.0,
            escape(&bar.label),
            top + 3.0,
            (bar.value * scale).max(0.5),
            ROW - 6.0,
            LABELS + bar.most * scale + 6.0,
            bar.value,
        );
    }
    svg + "</svg>\n"
}

fn head(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\
         <text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values_and_labels_are_escaped() {
        let bar =
            |label: &str, value| Bar { label: label.into(), value, least: value, most: value };
        let svg = bars("a < b", 0, &[bar("x & y", 10.0), bar("z", 5.0)]);
        assert!(svg.contains("a &lt; b") && svg.contains("x &amp; y"), "{svg}");
        let widths: Vec<f64> = svg
            .split("<rect x=")
            .skip(1)
            .filter_map(|rect| rect.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths, [480.0, 240.0]);
    }
}
