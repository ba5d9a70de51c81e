"""Pictures of what a model says and of how a run went."""

from visionkit.report.draw import draw, draw_all
from visionkit.report.html import Sources, write_report
from visionkit.report.plots import plot_curves
from visionkit.report.sheet import Shown, contact_sheet, spread

__all__ = ["Shown", "Sources", "contact_sheet", "draw", "draw_all", "plot_curves", "spread", "write_report"]
