// SPDX-License-Identifier: GPL-2.0

//! The figures as curves, in SVG.

use std::path::Path;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::catalogue::{Run, PHASES, RUNS};
use super::{median, Measured, Values};

const SIZE: (u32, u32) = (900, 560);
/// The font of the program that shows the file. The size of a text is only estimated here.
const FONT: &str = "sans-serif";

/// A plot: its file, its title, its axes, its curve and its figure.
const CURVES: [(&str, &str, &str, &str, &str, &str); 6] = [
    (
        "create",
        "Create sessions",
        "sessions",
        "seconds",
        "sessions",
        "create",
    ),
    (
        "claim",
        "Retrieve and finish sessions",
        "sessions",
        "seconds",
        "sessions",
        "claim",
    ),
    (
        "preserve",
        "Preserve small files",
        "files",
        "seconds",
        "files",
        "preserve",
    ),
    (
        "retrieve",
        "Retrieve small files",
        "files",
        "seconds",
        "files",
        "retrieve",
    ),
    (
        "folios",
        "Scattered folios, reboot to init",
        "folios",
        "seconds",
        "folios",
        "blackout",
    ),
    (
        "holes",
        "Memory that preserving holes takes",
        "MiB of holes",
        "MiB",
        "holes",
        "preserve_mem",
    ),
];

/// Its name, its points, and its colour.
type Line<'a> = (&'a str, Vec<(f64, f64)>, RGBColor);

type Area<'a, B> = DrawingArea<B, Shift>;

/// Draws all plots with figures.
pub fn all(dir: &Path, machine: &str, measured: &Measured) -> Result<()> {
    for (file, title, x, y, curve, figure) in CURVES {
        let lines = [("C", &measured.c, RED), ("ours", &measured.ours, BLUE)]
            .map(|(name, of, color)| (name, points(curve, figure, of), color));
        if lines.iter().any(|(_, points, _)| points.len() < 2) {
            continue;
        }
        let title = format!("{title} ({machine})");
        let path = dir.join(file).with_extension("svg");
        lines_on(&area(&path), &title, (x, y), &lines)?;
    }
    let bars: Vec<_> = [("C", &measured.c), ("ours", &measured.ours)]
        .into_iter()
        .filter_map(|(name, of)| Some((name, of.get("small")?)))
        .collect();
    if bars.len() == 2 {
        bars_on(&area(&dir.join("blackout.svg")), machine, &bars)?;
    }
    Ok(())
}

/// The drawing area of the file `path`.
fn area(path: &Path) -> Area<'_, SVGBackend<'_>> {
    SVGBackend::new(path, SIZE).into_drawing_area()
}

/// The points of a curve. Converts microseconds and KiB to larger units.
fn points(
    curve: &str,
    figure: &str,
    of: &std::collections::BTreeMap<&'static str, Values>,
) -> Vec<(f64, f64)> {
    let unit = if figure.ends_with("_mem") {
        1024.0
    } else {
        1e6
    };
    let on_it = |run: &Run| {
        let (_, x) = run.curve.filter(|(name, _)| *name == curve)?;
        let values = of.get(run.name)?.get(figure)?;
        Some((x as f64, median(values) as f64 / unit))
    };
    RUNS.iter().filter_map(on_it).collect()
}

fn lines_on<B: DrawingBackend>(
    area: &Area<'_, B>,
    title: &str,
    (x, y): (&str, &str),
    lines: &[Line<'_>],
) -> Result<()>
where
    B::ErrorType: 'static,
{
    let every = || lines.iter().flat_map(|(_, points, _)| points);
    let most_x = every().map(|p| p.0).fold(1.0, f64::max);
    let most_y = every().map(|p| p.1).fold(1e-6, f64::max) * 1.05;
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..most_x, 0.0..most_y)?;
    chart.configure_mesh().x_desc(x).y_desc(y).draw()?;
    for (name, points, color) in lines {
        let color = *color;
        chart
            .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}

/// The blackout as a bar of phases for each implementation.
fn bars_on<B: DrawingBackend>(
    area: &Area<'_, B>,
    machine: &str,
    bars: &[(&str, &Values)],
) -> Result<()>
where
    B::ErrorType: 'static,
{
    let seconds =
        |values: &Values, phase: &str| values.get(phase).map_or(0.0, |v| median(v) as f64 / 1e6);
    let most = bars
        .iter()
        .map(|(_, values)| PHASES.iter().map(|phase| seconds(values, phase)).sum())
        .fold(1e-6, f64::max);
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("Blackout by phase ({machine})"), (FONT, 16))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..most * 1.4, 0.0..bars.len() as f64)?;
    let names: Vec<&str> = bars.iter().map(|(name, _)| *name).collect();
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_labels(2 * bars.len() + 1)
        .y_label_formatter(&|y| {
            let middle = (y.fract() - 0.5).abs() < 0.01;
            let name = names.get(*y as usize).filter(|_| middle);
            name.map_or(String::new(), |name| (*name).to_owned())
        })
        .draw()?;
    for (i, phase) in PHASES.iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let parts = bars.iter().enumerate().map(|(row, (_, values))| {
            let start: f64 = PHASES
                .iter()
                .take(i)
                .map(|phase| seconds(values, phase))
                .sum();
            let corners = [
                (start, row as f64 + 0.2),
                (start + seconds(values, phase), row as f64 + 0.8),
            ];
            Rectangle::new(corners, color.filled())
        });
        chart
            .draw_series(parts)?
            .label(*phase)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}
