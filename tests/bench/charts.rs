//! The charts of the documentation, as SVG that follows the reader's light or dark theme.

use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, Rectangle, Text};
use plotters::prelude::{Color, IntoFont, IntoLogRange, LineSeries, RGBColor, SVGBackend, ShapeStyle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{IntoTextStyle, TextStyle};

use crate::measure::{LATENCIES, SIZES, median, under};
use crate::report::Results;
use crate::subjects::{HELLO, OURS};

/// Text and axes: replaced by the theme's colour.
const INK: RGBColor = RGBColor(1, 2, 3);
/// Grid lines: likewise.
const FAINT: RGBColor = RGBColor(4, 5, 6);
const STYLE: &str = "<style>\
    text{font-family:system-ui,sans-serif;fill:#1f2328}[stroke=\"#010203\"]{stroke:#57606a}[stroke=\"#040506\"]{stroke:#d0d7de}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}[stroke=\"#010203\"]{stroke:#8b949e}[stroke=\"#040506\"]{stroke:#30363d}}\
    </style>";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Outcome<'a> = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// One line of a chart.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Each chart's file name and content.
pub fn draw(results: &Results) -> Vec<(&'static str, String)> {
    vec![
        ("cold-start.svg", svg((760, 300), |area| cold(area, results))),
        ("sessions.svg", svg((760, 420), |area| sessions(area, results))),
        ("latency.svg", svg((760, 420), |area| latency(area, results))),
    ]
}

fn svg(size: (u32, u32), draw: impl Fn(&Area) -> Outcome<'static>) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&area).and_then(|()| area.present()).expect("a chart in memory");
    }
    let end = svg.find('>').expect("an SVG element") + 1;
    svg.insert_str(end, STYLE);
    svg
}

/// Bars of init and first call.
fn cold(area: &Area, results: &Results) -> Outcome<'static> {
    let bars: Vec<_> = results
        .subjects
        .iter()
        .filter(|subject| subject.name != HELLO)
        .filter_map(|subject| results.cold(&subject.name, under(100, 5, 1)))
        .map(|cell| (&cell.subject, median(&cell.init), median(&cell.first)))
        .collect();
    let longest = bars.iter().map(|(_, init, first)| init + first).fold(0.0, f64::max);
    let (left, top, width, height) = (170, 50, 500.0, 38);
    label(area, "Cold: from exec until the first call is answered, ms, at 5 ms latency", (10, 12), 16, HPos::Left)?;
    let mut y = top;
    for (name, init, first) in &bars {
        let x = |value: f64| left + (value / longest * width).round() as i32;
        let colour = colour(name);
        label(area, name, (left - 10, y + 12), 14, HPos::Right)?;
        area.draw(&Rectangle::new([(left, y), (x(*init), y + 24)], colour.mix(0.55).filled()))?;
        area.draw(&Rectangle::new([(x(*init), y), (x(init + first), y + 24)], colour.filled()))?;
        label(area, &format!("{init:.0} + {first:.0}"), (x(init + first) + 8, y + 12), 14, HPos::Left)?;
        y += height;
    }
    label(
        area,
        "pale: until it asks for the first event; full: the first call, with one other session",
        (10, y + 8),
        13,
        HPos::Left,
    )
}

/// Warm calls over the number of sessions.
fn sessions(area: &Area, results: &Results) -> Outcome<'static> {
    let lines = lines(results, |subject| {
        let point = |&others| Some((others as f64, results.warm_median(subject, others, 5)?));
        SIZES.iter().filter_map(point).collect()
    });
    let title = "Warm: one call, ms, at 5 ms latency";
    plot(area, title, "other sessions", (1.0..10_000.0_f64).log_scale(), &lines)
}

/// Warm calls over latency.
fn latency(area: &Area, results: &Results) -> Outcome<'static> {
    let lines = lines(results, |subject| {
        let point = |&latency| Some((latency as f64, results.warm_median(subject, 100, latency)?));
        LATENCIES.iter().filter_map(point).collect()
    });
    let title = "Warm: one call with 100 other sessions, ms, over the latency of DynamoDB";
    plot(area, title, "injected latency, ms", 0.0..20.0, &lines)
}

/// Lines over `x`, on a logarithmic scale of milliseconds.
fn plot<X>(area: &Area, title: &str, x_title: &str, x: X, lines: &[Line]) -> Outcome<'static>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(170)
        .caption(title, text(16))
        .x_label_area_size(45)
        .y_label_area_size(60)
        .build_cartesian_2d(x, range(lines).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(x_title)
        .y_desc("ms")
        .label_style(text(13))
        .axis_style(INK)
        .bold_line_style(FAINT)
        .light_line_style(FAINT.mix(0.0))
        .x_labels(5)
        .x_label_formatter(&|value| whole(*value))
        .y_label_formatter(&|value| whole(*value))
        .draw()?;
    for line in lines {
        let style = ShapeStyle::from(colour(&line.name)).stroke_width(2);
        chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        chart.draw_series(line.points.iter().map(|&point| Circle::new(point, 3, colour(&line.name).filled())))?;
    }
    name_lines(area, lines, |point| chart.backend_coord(&point))
}

fn lines(results: &Results, points: impl Fn(&str) -> Vec<(f64, f64)>) -> Vec<Line> {
    let revoking = results.subjects.iter().filter(|subject| subject.name != HELLO);
    revoking
        .map(|subject| Line { name: subject.name.clone(), points: points(&subject.name) })
        .filter(|line| !line.points.is_empty())
        .collect()
}

/// Writes each line's name at its end, pushed apart where they would overlap.
fn name_lines(area: &Area, lines: &[Line], place: impl Fn((f64, f64)) -> (i32, i32)) -> Outcome<'static> {
    let mut ends: Vec<_> =
        lines.iter().filter_map(|line| line.points.last().map(|&last| (place(last), line.name.as_str()))).collect();
    // A line that ends early has others beside its end.
    let right = ends.iter().map(|((x, _), _)| *x).max().unwrap_or_default();
    ends.iter_mut().filter(|((x, _), _)| *x < right).for_each(|((_, y), _)| *y -= 14);
    ends.sort_by_key(|((_, y), _)| *y);
    let mut lowest = 0;
    for ((x, y), name) in ends {
        let y = y.max(lowest + 16);
        lowest = y;
        label(area, name, (x + 8, y), 13, HPos::Left)?;
    }
    Ok(())
}

/// From the power of ten below to the one above.
fn range(lines: &[Line]) -> std::ops::Range<f64> {
    let values = || lines.iter().flat_map(|line| line.points.iter().map(|point| point.1));
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(1.0, f64::max));
    10_f64.powf(least.log10().floor())..10_f64.powf(most.log10().ceil())
}

fn label(area: &Area, content: &str, at: (i32, i32), size: u32, anchor: HPos) -> Outcome<'static> {
    area.draw(&Text::new(content.to_owned(), at, text(size).pos(Pos::new(anchor, VPos::Center))))
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK).into_text_style(&(1, 1))
}

fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    if digits.len() > 3 { format!("{},{}", &digits[..digits.len() - 3], &digits[digits.len() - 3..]) } else { digits }
}

/// Of a subject; each is legible on white and on black.
fn colour(name: &str) -> RGBColor {
    match name {
        OURS => RGBColor(47, 129, 247),
        _ if name.starts_with("Rust, U") => RGBColor(191, 135, 0),
        _ if name.starts_with("Rust, T") => RGBColor(163, 113, 247),
        _ if name.starts_with("Node") => RGBColor(45, 164, 78),
        _ if name.starts_with("Python, T") => RGBColor(219, 97, 162),
        _ => RGBColor(229, 83, 75),
    }
}
