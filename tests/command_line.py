"""One call of the command line in this process."""

from __future__ import annotations

import pytest

from patchclamp.app import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of one call in this process."""
    status = cli.run(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err
