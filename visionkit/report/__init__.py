"""Pictures of what a model says and of how a run went."""

from visionkit.report.draw import draw
from visionkit.report.plots import contact_sheet, plot_curves

__all__ = ["contact_sheet", "draw", "plot_curves"]
