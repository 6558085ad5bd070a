"""The report of an experiment: one page, its Markdown twin, and the ranking that the CLI prints."""

from __future__ import annotations

from hybridopt.report.facts import standing
from hybridopt.report.ranking import RankingRow, ranking_table, ranking_texts
from hybridopt.report.write import ReportPaths, write_report

__all__ = ["RankingRow", "ReportPaths", "ranking_table", "ranking_texts", "standing", "write_report"]
