"""Tree ensembles as flat arrays: exported once, saved as npz, evaluated to the bits of the library that grew them.

Scoring with the library costs most of a batch run and needs the library in every process. The same trees as a few
arrays need numpy alone for a handful of rows, and one compiled loop (numba) for millions. Bits are equal because the
arithmetic is: start at the baseline, add one leaf value per tree in order (rounded to float32 where the library does
that), divide, multiply, and apply the link function of the library (see trees_finish).
Which leaf that is depends on comparisons alone, so any way of finding it is allowed:

- one row or a few: plain Python lists;
- more rows without numba: numpy, all trees of a block of rows at once;
- compiled, trees of up to 64 leaves: every split is tested for a whole block of rows, without branches or gathers, and
  strikes out the leaves to its left where a row goes right; the leftmost leaf that remains is the answer (Source:
  Lucchese et al., "QuickScorer", SIGIR 2015);
- compiled, other trees: from node to child, `depth` times for every row of the block. Leaves loop to themselves.

All comparisons are of float64 numbers. What a library decides in another way is put into the numbers when it is exported:
a library that rounds features to float32 has thresholds that lie where rounding changes the answer; a categorical split
is a set of intervals. So nothing here depends on where the trees came from.

numba is imported once large batches have cost what that takes (see trees_switch); scikit-learn, scipy, LightGBM and XGBoost
never. This module knows nothing of features, MLflow or Spark.
"""

from __future__ import annotations

import functools
import io
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_pipelines.errors import ContractError, ModelIntegrityError
from udfs.trees_check import DTYPES, check_trees, demand
from udfs.trees_finish import finish
from udfs.trees_loop import Floats, Loop, Nodes, Recipe, Sets, Trees, load_loop
from udfs.trees_packed import SetTables, pack_nodes, pack_recipe, pack_sets, pack_trees, set_tables
from udfs.trees_switch import Switch
from udfs.trees_walk import Walker

__all__ = ["FlatTrees", "check_matrix", "warm_up"]

_READABLE: Final = (1, 2)
_ARRAYS_OF_1: Final = ("feature", "threshold", "child", "missing_left", "value", "root", "depth")
_FIELDS_OF_1: Final = (*_ARRAYS_OF_1, "baseline", "link", "n_features")
_LINKS_OF_1: Final = ("identity", "logit", "log")
_UNREADABLE: Final = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
_CHECK_ROWS: Final = 4096
_SHOWN: Final = 5


def _nothing() -> Any:
    """Stands for the usual entries, which are filled in."""
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class FlatTrees:
    """Binary trees in flat arrays; an instance is valid by construction and its arrays are read-only.

    The nodes of tree t are `root[t]` up to the next root: first its splits, each before its children, then its leaves
    from left to right. A row goes left at a split if `x <= threshold`, or, at a split with bounds, if the number of bounds
    that are <= x is odd; where x is NaN, if `missing_left` is 1.

    Args:
        feature: int32 per node, the row of the matrix that a split looks at; 0 in leaves.
        threshold: float64 per node, never NaN; +inf in leaves, 0 in splits with bounds.
        child: int32, two per node: `child[2k]` right, `child[2k + 1]` left; a leaf is its own child.
        missing_left: uint8 per node, 0 or 1.
        value: float64, finite; what a leaf adds to the margins: one number per node, or one per node and output.
        root: int32 per tree, ascending from 0.
        depth: int32 per tree, the number of splits on its longest path.
        baseline: the margins before the first tree: float64 per output (a float for one output).
        link: from margins to scores, see trees_finish.LINKS.
        n_features: rows of the matrix to score.
        output: int32 per tree, the output that its leaves add to (the first one, where they have a value for each).
        bounds: float64, the bounds of all splits that have any, ascending within a split.
        bounds_stop: int32 per node, where the bounds of nodes up to this one end.
        limit: float64 per feature: the largest absolute value that the library takes.
        takes_nan: uint8 per feature: 1 if the library takes NaN.
        divisor: by which margins are divided; the number of trees where the library averages.
        slope: by which they are multiplied then.
        precision: "single" if the library adds up and applies the link in float32, else "double".

    Raises:
        ModelIntegrityError: the arrays are not trees as described (so no evaluation can read out of bounds).

    >>> stump = FlatTrees(
    ...     feature=np.array([1, 0, 0], np.int32), threshold=np.array([0.5, np.inf, np.inf]),
    ...     child=np.array([2, 1, 1, 1, 2, 2], np.int32), missing_left=np.array([1, 0, 0], np.uint8),
    ...     value=np.array([0.0, -1.0, 3.0]), root=np.array([0], np.int32), depth=np.array([1], np.int32),
    ...     baseline=0.25, link="identity", n_features=2)
    >>> stump.score(np.array([[9.0, 9.0, 9.0], [0.5, 0.75, np.nan]]))
    array([-0.75,  3.25, -0.75])
    """

    feature: npt.NDArray[np.int32]
    threshold: Floats
    child: npt.NDArray[np.int32]
    missing_left: npt.NDArray[np.uint8]
    value: Floats
    root: npt.NDArray[np.int32]
    depth: npt.NDArray[np.int32]
    baseline: Any
    link: str
    n_features: int
    output: npt.NDArray[np.int32] = field(default_factory=_nothing)
    bounds: Floats = field(default_factory=_nothing)
    bounds_stop: npt.NDArray[np.int32] = field(default_factory=_nothing)
    limit: Floats = field(default_factory=_nothing)
    takes_nan: npt.NDArray[np.uint8] = field(default_factory=_nothing)
    divisor: float = 1.0
    slope: float = 1.0
    precision: str = "double"

    def __post_init__(self) -> None:
        for name, usual in self._usual().items():
            if np.size(getattr(self, name)) == 0:
                object.__setattr__(self, name, usual)
        if isinstance(self.baseline, float):
            object.__setattr__(self, "baseline", np.array([self.baseline]))
        for name, dtype in DTYPES.items():
            array = np.array(getattr(self, name))
            if name == "baseline":
                demand(
                    array.dtype == dtype and array.ndim == 1, "baseline must be a finite float, or several"
                )
            demand(array.dtype == dtype and array.ndim == 1, f"{name} must be a vector of {np.dtype(dtype)}")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        check_trees(self)

    def _usual(self) -> dict[str, Any]:
        n_features: Any = self.n_features
        n_features = max(n_features, 0) if isinstance(n_features, int) else 0
        return {
            "output": np.zeros(np.size(self.root), np.int32),
            "bounds": np.empty(0),
            "bounds_stop": np.zeros(np.size(self.feature), np.int32),
            "limit": np.full(n_features, np.inf),
            "takes_nan": np.ones(n_features, np.uint8),
        }

    @property
    def n_outputs(self) -> int:
        """How many scores a row has: 1, or one per class."""
        return int(self.baseline.size)

    @property
    def n_values(self) -> int:
        """How many values a leaf has: 1, or one per output."""
        return int(self.value.size // self.feature.size)

    @property
    def is_single(self) -> bool:
        """Whether sums and scores are float32 numbers (given as float64)."""
        return self.precision == "single"

    @property
    def format_version(self) -> int:
        """The format that `save` writes: 1 where all is said in it, which releases that know no other can read."""
        usual = {**self._usual(), "divisor": 1.0, "slope": 1.0, "precision": "double"}
        is_usual = all(np.array_equal(getattr(self, name), entries) for name, entries in usual.items())
        return 1 if is_usual and self.n_outputs == 1 and self.link in _LINKS_OF_1 else 2

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trees as an uncompressed npz without pickled objects; equal trees give equal bytes."""
        version = self.format_version
        names = _FIELDS_OF_1 if version == 1 else [f.name for f in fields(self)]
        content: dict[str, Any] = {name: getattr(self, name) for name in names}
        if version == 1:
            content["baseline"] = self.baseline.item()
        with open(path, "wb") as file:
            np.savez(file, format_version=version, **content)

    @classmethod
    def load(cls, source: str | os.PathLike[str] | bytes) -> FlatTrees:
        """Return the trees that `save` wrote, from a path or from the file's content.

        Raises:
            ModelIntegrityError: the file is missing, damaged, of an unknown format version, or holds no valid trees.
        """
        where = "the content" if isinstance(source, bytes) else os.fspath(source)
        try:
            raw = source if isinstance(source, bytes) else Path(source).read_bytes()
            with np.load(io.BytesIO(raw), allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
            version = content.pop("format_version").item()
            if version not in _READABLE:
                known = " and ".join(map(str, _READABLE))
                raise ModelIntegrityError(f"format version {version!r}, this code reads {known}")
            return cls(**_fields_of(content, version))
        except (*_UNREADABLE, ModelIntegrityError) as exc:
            message = f"{where} is not a file of flat trees: {type(exc).__name__}: {exc}"
            raise ModelIntegrityError(message, path=where) from exc

    def score(self, matrix: Floats) -> Floats:
        """Return the scores of each row, bit for bit what the exported estimator predicts, at every batch size.

        Args:
            matrix: float64, feature-major: shape (n_features, n_rows). C order is fastest, any layout is correct. NaN is
                a missing value; infinities are numbers.

        Returns:
            float64. With one output of shape (n_rows,): the probability of the positive class (`classes_[1]`) or the
            prediction; else of shape (n_rows, n_outputs): the probability of each class, in the order of `classes_`.

        Raises:
            ContractError: the matrix has another type, dtype or number of features, or holds a value that the library refuses
                (infinite, beyond float32, or NaN where its trees know no missing values).
            ModelIntegrityError: see `prove_loop_on`.
        """
        check_matrix(matrix, self.n_features)
        if (refused := self.refused(matrix)) is not None and refused.any():
            raise ContractError(self._refusal(matrix, refused))
        loop = self._switch.loop(matrix.shape[1], self._score_compiled)
        return self._score_interpreted(matrix) if loop is None else self._score_compiled(matrix, loop)

    def prove_loop_on(self, promised: Sequence[tuple[Floats, Floats]]) -> None:
        """Have the compiled loop reproduce some scores before its first answer in this process, whenever that is.

        Args:
            promised: matrices as `score` takes them, and the scores that they must have.
        """
        self._switch.prove_on(promised)

    def refused(self, matrix: Floats) -> npt.NDArray[np.bool_] | None:
        """Return which rows hold a value that the library refuses, shape (n_rows,); None if it refuses none."""
        if not self._refuses:
            return None
        refused = np.empty(matrix.shape[1], np.bool_)
        for begin in range(0, matrix.shape[1], _CHECK_ROWS):
            stop = begin + _CHECK_ROWS
            refused[begin:stop] = self._is_refused(matrix[:, begin:stop]).any(axis=0)
        return refused

    def _is_refused(self, block: Floats) -> npt.NDArray[np.bool_]:
        is_taken = np.abs(block) <= self.limit[:, None]
        is_refused: npt.NDArray[np.bool_] = ~(is_taken | (np.isnan(block) & (self.takes_nan[:, None] == 1)))
        return is_refused

    @functools.cached_property
    def _refuses(self) -> bool:
        return bool((self.limit < np.inf).any() or (self.takes_nan == 0).any())

    def _refusal(self, matrix: Floats, refused: npt.NDArray[np.bool_]) -> str:
        rows = np.flatnonzero(refused)
        is_bad = self._is_refused(matrix[:, rows])
        features = ", ".join(map(str, np.flatnonzero(is_bad.any(axis=1))[:_SHOWN]))
        return (
            f"{rows.size} of {matrix.shape[1]} rows hold a value that the estimator refuses, in feature {features} (from 0): it "
            "is infinite, too large, or missing where its trees know no missing values; first row: "
            f"{rows[0]}. Fill or bound the feature"
        )

    def _score_compiled(self, matrix: Floats, loop: Loop) -> Floats:
        scores = np.empty((self.n_outputs, matrix.shape[1]))
        recipe, is_done = self._recipes[loop.has_exact_exp]
        aligned = matrix if matrix.flags.aligned else matrix.copy()
        loop.evaluate(aligned, *self._packed, self.baseline, recipe, scores)
        return self._shape(scores if is_done else self._finish(scores))

    def _score_interpreted(self, matrix: Floats) -> Floats:
        return self._shape(self._finish(self._walker.margins(matrix)))

    def _finish(self, margins: Floats) -> Floats:
        return finish(margins, self.link, self.divisor, self.slope, is_single=self.is_single)

    def _shape(self, scores: Floats) -> Floats:
        return scores[0] if self.n_outputs == 1 else scores.T

    @functools.cached_property
    def _switch(self) -> Switch:
        return Switch(int(self.depth.sum()))

    @functools.cached_property
    def _tables(self) -> SetTables:
        return set_tables(self)

    @functools.cached_property
    def _walker(self) -> Walker:
        return Walker(self, self._tables)

    @functools.cached_property
    def _recipes(self) -> list[tuple[Recipe, bool]]:
        return [pack_recipe(self, has_exact_exp=exact) for exact in (False, True)]

    @functools.cached_property
    def _packed(self) -> tuple[Nodes, Trees, Sets]:
        return pack_nodes(self), pack_trees(self, self._tables), pack_sets(self._tables)


def warm_up() -> bool:
    """Load the compiled loop now, so that no later `score` has to; False where numba is not installed.

    Takes 1 to 2 seconds, and some more the first time on a machine, when it is compiled. From then on every batch of
    this process is scored by it, single rows too.
    """
    return load_loop() is not None


def check_matrix(matrix: Any, n_features: int) -> None:
    """Refuse, as a ContractError, what is no float64 matrix of that many features, a row each."""
    if getattr(matrix, "dtype", None) != np.float64 or matrix.ndim != 2 or matrix.shape[0] != n_features:
        got = f"{getattr(matrix, 'dtype', type(matrix).__name__)} {getattr(matrix, 'shape', '')}"
        raise ContractError(
            f"flat trees score a feature-major float64 matrix of shape ({n_features}, n_rows), got {got}"
        )


def _fields_of(content: dict[str, Any], version: int) -> dict[str, Any]:
    """Return the constructor's arguments from a file's arrays."""
    scalars = [f.name for f in fields(FlatTrees) if f.name not in DTYPES]
    if version == 1:
        scalars = ["baseline", "link", "n_features"]
    expected = _FIELDS_OF_1 if version == 1 else [f.name for f in fields(FlatTrees)]
    if content.keys() != set(expected):
        raise KeyError(f"fields {', '.join(sorted(content.keys() ^ set(expected)))}")
    return content | {name: content[name].item() for name in scalars}
