"""A pytest plugin: a test skipped on every server of its scenario fails the run."""

import re

import pytest

outcomes: dict[str, set[str]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.skipped or report.failed:
        test = re.sub(r"(ansible://)?debian\d+", "*", report.nodeid)
        outcomes.setdefault(test, set()).add(report.outcome)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if never() and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for test in never():
        terminalreporter.write_line(f"FAILED {test}: skipped on every server", red=True)


def never() -> list[str]:
    return [test for test, found in outcomes.items() if found == {"skipped"}]
