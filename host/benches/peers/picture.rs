//! Charts as a picture: horizontal bars in SVG, legible on light and on dark ground.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::report::Spread;
use crate::rounds::{Row, Sample};

const WIDTH: usize = 860;
/// Where the bars begin; the names stand left of it.
const BARS_LEFT: usize = 350;
const BAR_WIDTH_MAX: usize = 420;
const LINE_HEIGHT: usize = 24;
const TITLE_HEIGHT: usize = 44;

/// One value for each server.
pub struct Chart {
    title: String,
    bars: Vec<(String, f64)>,
}

impl Chart {
    /// The two charts of a scenario: CPU time and requests per second.
    pub fn both(scenario: &str, rows: &[Row]) -> Vec<Chart> {
        let chart = |title: &str, figure: fn(&Sample) -> f64| {
            let bars = rows.iter().map(|row| (row.name.clone(), Spread::of(&row.values(figure)).median));
            Chart { title: format!("{scenario}: {title}"), bars: bars.collect() }
        };
        vec![
            chart("CPU µs a request (less is better)", Sample::cpu_micros),
            chart("requests/s (more is better)", Sample::requests_per_second),
        ]
    }

    fn height(&self) -> usize {
        TITLE_HEIGHT + self.bars.len() * LINE_HEIGHT
    }

    fn draw(&self, top: usize, picture: &mut String) -> std::fmt::Result {
        let most = self.bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        writeln!(
            picture,
            "<text class=\"title\" x=\"10\" y=\"{}\">{}</text>",
            top + 28,
            escaped(&self.title)
        )?;
        for (number, (name, value)) in self.bars.iter().enumerate() {
            let y = top + TITLE_HEIGHT + number * LINE_HEIGHT;
            let (baseline, width) = (y + 13, (value / most * BAR_WIDTH_MAX as f64).max(1.0));
            let class = if name.starts_with("wasm-serve") { "ours" } else { "other" };
            let end = BARS_LEFT as f64 + width + 6.0;
            let shown = if *value >= 1000.0 { thousands(*value) } else { format!("{value:.1}") };
            writeln!(
                picture,
                "<text text-anchor=\"end\" x=\"{}\" y=\"{baseline}\">{}</text>\
                 <rect class=\"{class}\" x=\"{BARS_LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"17\"/>\
                 <text x=\"{end:.1}\" y=\"{baseline}\">{shown}</text>",
                BARS_LEFT - 8,
                escaped(name)
            )?;
        }
        Ok(())
    }
}

pub fn write(file: &Path, charts: &[Chart]) -> Result<()> {
    ensure!(
        !charts.is_empty(),
        "there is nothing to draw: of the scenarios, hello-warm and hello-fresh have charts"
    );
    fs::write(file, draw(charts)?).with_context(|| file.display().to_string())
}

fn draw(charts: &[Chart]) -> Result<String, std::fmt::Error> {
    let height: usize = charts.iter().map(Chart::height).sum::<usize>() + 12;
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n"
    );
    picture += "<style>\
        text { font: 13px sans-serif; fill: #24292f; } .title { font-weight: bold; font-size: 15px; } \
        .ground { fill: #ffffff; } .ours { fill: #6741d9; } .other { fill: #9aa4af; } \
        @media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .ground { fill: #0d1117; } \
        .ours { fill: #a78bfa; } .other { fill: #6e7781; } }\
        </style>\n";
    writeln!(picture, "<rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>")?;
    let mut top = 0;
    for chart in charts {
        chart.draw(top, &mut picture)?;
        top += chart.height();
    }
    picture += "</svg>\n";
    Ok(picture)
}

/// A whole number with a comma between thousands.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
