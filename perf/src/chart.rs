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

/// A line through points.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What it stands for.
    pub label: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
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

/// Curves over one axis from zero, with the largest values at the axes' ends and the labels beside.
pub fn curves(title: &str, of_x: &str, curves: &[Curve]) -> String {
    const COLOURS: [&str; 8] =
        ["#4a7fb5", "#c0504d", "#5a9e4b", "#8064a2", "#d98a2b", "#3aa6a6", "#7f7f7f", "#b5488f"];
    const LEFT: f64 = 60.0;
    const HEIGHT: f64 = 300.0;
    let right = WIDTH - LABELS;
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let x_most = points().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
    let y_most = points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
    let bottom = TITLE + HEIGHT;
    let place =
        |(x, y): (f64, f64)| (LEFT + x / x_most * (right - LEFT), bottom - y / y_most * HEIGHT);
    let mut svg = head(title, bottom + 30.0);
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {TITLE}V{bottom}H{right}\" fill=\"none\" stroke=\"#222\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{} {}</text>",
        LEFT - 6.0,
        TITLE + 6.0,
        short(y_most),
        bottom + 18.0,
        short(x_most),
        escape(of_x),
    );
    for (number, curve) in curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = curve.points.iter().map(|point| {
            let (x, y) = place(*point);
            format!("{x:.1},{y:.1}")
        });
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            points.collect::<Vec<_>>().join(" "),
            right + 12.0,
            TITLE + 14.0 + 18.0 * number as f64,
            escape(&curve.label),
        );
    }
    svg + "</svg>\n"
}

/// Three digits or so.
fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
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

    #[test]
    fn curves_span_the_axes() {
        let curve =
            |label: &str, points: &[_]| Curve { label: label.into(), points: points.into() };
        let svg = curves(
            "loss",
            "a second",
            &[curve("small", &[(0.0, 0.0), (50.0, 2.0)]), curve("large", &[(100.0, 4.0)])],
        );
        assert!(svg.contains("points=\"60.0,334.0 315.0,184.0\""), "{svg}");
        assert!(svg.contains("points=\"570.0,34.0\"") && svg.contains("100 a second"), "{svg}");
    }
}
