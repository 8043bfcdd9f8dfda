"""The report: one record, three views (page, terminal table, JSON)."""

from probcomp.report.html import render_page as render_page
from probcomp.report.html import write_page as write_page
from probcomp.report.pieces import BudgetLine as BudgetLine
from probcomp.report.pieces import CodedFile as CodedFile
from probcomp.report.pieces import CodedRow as CodedRow
from probcomp.report.pieces import Histogram as Histogram
from probcomp.report.pieces import MaskPicture as MaskPicture
from probcomp.report.pieces import Prediction as Prediction
from probcomp.report.pieces import UnitSummary as UnitSummary
from probcomp.report.summary import Report as Report
from probcomp.report.table import print_report as print_report
