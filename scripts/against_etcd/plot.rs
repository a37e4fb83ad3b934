//! Plots of throughput and latency over the number of clients, as SVG.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    figures::{P99, PER_SEC},
    report::Measured,
    rows::Row,
};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 50.0;
/// One for each contender. They can be told apart also without colours: each has strokes of its own.
const COLORS: [&str; 4] = ["#c0392b", "#1f6fb4", "#7f8c8d", "#8e5ea2"];
const DASHES: [&str; 4] = ["6 4", "", "2 3", "8 3 2 3"];
/// Lines across a plot, at round numbers.
const LINES_ABOUT: f64 = 5.0;

/// Numbers of clients, and what was measured with them.
type Curve = Vec<(usize, f64)>;

/// The plots that the rows are points of: the names of the files and their contents.
pub(crate) fn all(
    contenders: &[&str],
    rows: &[Box<dyn Row>],
    measured: &[Measured],
) -> Vec<(String, String)> {
    let mut curves: BTreeMap<(&str, &str), Vec<Curve>> = BTreeMap::new();
    for (row, measured) in rows.iter().zip(measured) {
        let Some(point) = row.point() else { continue };
        for figure in [PER_SEC, P99] {
            let of_plot = curves.entry((point.plot, figure));
            let of_plot = of_plot.or_insert_with(|| vec![Curve::new(); contenders.len()]);
            for (place, curve) in of_plot.iter_mut().enumerate() {
                curve.extend(measured.median(place, figure).map(|value| (point.clients, value)));
            }
        }
    }
    let drawn = curves.into_iter().map(|((plot, figure), curves)| {
        let kind = if figure == P99 { "p99" } else { "throughput" };
        let title = if figure == P99 { "99th percentile, microseconds" } else { "operations a second" };
        (format!("{plot}-{kind}.svg"), draw(&format!("{plot}: {title}"), contenders, &curves))
    });
    drawn.collect()
}

/// The clients are on a logarithmic axis, because they were doubled.
fn draw(title: &str, names: &[&str], curves: &[Curve]) -> String {
    let points = || curves.iter().flatten();
    let most = points().map(|point| point.1).fold(0.0, f64::max);
    let clients: Vec<usize> = {
        let mut clients: Vec<usize> = points().map(|point| point.0).collect();
        clients.sort_unstable();
        clients.dedup();
        clients
    };
    let (Some(&fewest), Some(&many)) = (clients.first(), clients.last()) else { return String::new() };
    let span = (many as f64 / fewest as f64).log2().max(1.0);
    let x = |clients: usize| LEFT + (WIDTH - LEFT - RIGHT) * (clients as f64 / fewest as f64).log2() / span;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most.max(1.0);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    let mut add = |line: String| writeln!(svg, "{line}").expect("a String takes everything");
    let step = step(most);
    let mut at = 0.0;
    while at <= most {
        let (right, y) = (WIDTH - RIGHT, y(at));
        add(format!("<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"));
        add(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{at:.0}</text>", LEFT - 8.0, y + 4.0));
        at += step;
    }
    for &clients in &clients {
        let (x, y) = (x(clients), HEIGHT - BOTTOM + 18.0);
        add(format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{clients}</text>"));
    }
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    add(format!("<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">clients</text>", HEIGHT - 12.0));
    for (place, (name, curve)) in names.iter().zip(curves).enumerate() {
        let style = place % COLORS.len();
        let (color, dashes) = (COLORS[style], DASHES[style]);
        let path: Vec<String> =
            curve.iter().map(|(clients, value)| format!("{:.1},{:.1}", x(*clients), y(*value))).collect();
        add(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>",
            path.join(" ")
        ));
        let (legend_x, legend_y) = (LEFT + 135.0 * place as f64, TOP - 22.0);
        add(format!(
            "<line x1=\"{legend_x}\" y1=\"{legend_y}\" x2=\"{}\" y2=\"{legend_y}\" stroke=\"{color}\" stroke-width=\"2\" \
             stroke-dasharray=\"{dashes}\"/>",
            legend_x + 24.0
        ));
        add(format!("<text x=\"{}\" y=\"{}\">{name}</text>", legend_x + 30.0, legend_y + 4.0));
    }
    svg.push_str("</svg>\n");
    svg
}

/// 1, 2 or 5 with zeros behind, so that there are a few lines.
fn step(most: f64) -> f64 {
    let about = (most / LINES_ABOUT).max(1.0);
    let power = 10f64.powf(about.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|step| *step >= about).unwrap_or(power)
}
