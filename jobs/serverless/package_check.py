"""A finished package put to the proof: started as a platform would, with nothing but itself, and asked its model's golden rows.

The process has no site-packages, so what the package lacks is missing there. The expected bits are those that were recorded when
the model was logged.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_pipelines.errors import VerificationError
from jobs.proof.path_answers import answer_of
from jobs.proof.path_outcome import compared, golden_of
from udfs.bundle import read_golden

__all__ = ["Checked", "ask_package"]

_SECONDS = 120
_PROGRAM = """\
import json, sys, time
began = time.perf_counter()
sys.path.insert(0, sys.argv[1])
from jobs.serve_lambda import handler
class Context:
    def get_remaining_time_in_millis(self): return 100000
rows = json.load(sys.stdin)
first = handler({"inputs": rows[:1]}, Context())
seconds = time.perf_counter() - began
found = handler({"inputs": rows, "params": {"features": True}}, Context())
tops = sorted({name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)})
outside = sorted(
    top for top in tops if top not in sys.stdlib_module_names and not top.startswith(("__main__", "_sysconfigdata"))
    and not str(getattr(sys.modules.get(top), "__file__", sys.argv[1]) or sys.argv[1]).startswith(sys.argv[1])
)
print(json.dumps({"found": found, "seconds": seconds, "outside": outside, "modules": tops}))
"""


@dataclass(frozen=True)
class Checked:
    """What a package answered.

    Args:
        rows: golden rows asked.
        seconds: from the start of its code to its first answer.
        verified: what its answers say of the model.
        libraries: that it imported, by the names they are imported by.
    """

    rows: int
    seconds: float
    verified: str
    libraries: tuple[str, ...]


def ask_package(directory: Path, bundle: Path) -> Checked:
    """Start a package and compare what it answers.

    Args:
        directory: of the package.
        bundle: the model's directory, whose golden rows are asked.

    Raises:
        VerificationError: it does not start, or a bit differs; the message has the end of what it said.
    """
    golden = golden_of(read_golden(bundle))
    command = [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, str(directory)]
    environment = {"ONESCORE_PREDICTION_LOG": "none"}
    try:
        done = subprocess.run(
            command,
            input=json.dumps([dict(row) for row in golden.rows]),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as exc:
        raise VerificationError(f"the package did not answer within {_SECONDS} s") from exc
    if done.returncode:
        said = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise VerificationError(f"the package does not start with nothing but itself: {said[-600:]}")
    said_of: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    predictions = said_of["found"].get("predictions", [])
    if len(predictions) != len(golden.rows):
        raise VerificationError(f"the package refuses its golden rows: {said_of['found'].get('error')}")
    names = [*json.loads((bundle / "model.json").read_bytes())["feature_names"]]
    answers = [answer_of(one, names) for one in predictions]
    outcome = compared("package", golden.expected, answers)
    if outcome.equal != outcome.rows:
        raise VerificationError(
            f"the package does not give the bits of its model: {outcome.n_differing} of {outcome.rows} golden rows differ, worst by "
            f"{outcome.worst_ulps} ULP"
        )
    if said_of["outside"]:
        raise VerificationError(f"the package uses what it does not contain: {', '.join(said_of['outside'])}")
    libraries = sorted(
        set(said_of["modules"]) - set(sys.stdlib_module_names) - {"jobs", "udfs", "feature_pipelines"}
    )
    verified = next((answer.verified for answer in answers if answer.verified), "") or ""
    return Checked(
        len(answers), said_of["seconds"], verified, tuple(one for one in libraries if not one.startswith("_"))
    )
