"""What a feature set is: request fields, stored views, and feature functions resolved by name in a closed world.

A feature is a plain module-level function over numpy columns. Its name is the feature's name; its positional parameters are
request fields, view fields or other features; its keyword-only parameters are fitted constants; its return annotation is its
type. Nothing is registered by decorator or by scanning: the set lists its functions, and anything it cannot resolve is a
DefinitionError when the module is imported. This module runs no feature (see evaluate) and reads no data.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_type_hints

from feature_pipelines.columns import DType, declared_type
from feature_pipelines.errors import DefinitionError, did_you_mean
from feature_pipelines.schema import Field, Schema
from feature_pipelines.views import FeatureView

__all__ = ["FeatureSet", "FeatureView", "Fitted", "Step"]

Function = Callable[..., Any]
_KEY_KINDS = ("string", "int64", "int32")


@dataclass(frozen=True)
class Fitted:
    """A constant learned from the training rows and stored with the model.

    Args:
        name: the keyword-only parameter that receives it.
        fit: called with the named columns of the training rows; returns a JSON value (lists arrive in functions as tuples).
        columns: request or view fields.
    """

    name: str
    fit: Function
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One function of the resolved plan: which columns it reads, which constants it takes, what it declares to return.

    After it, no step reads the values of the steps named in `releases`.
    """

    name: str
    function: Function
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    dtype: DType
    nullable: bool
    releases: tuple[str, ...] = ()

    @property
    def row_names(self) -> tuple[str, ...]:
        """The names of its rows in a matrix: its own, or of a vector `{name}_{i}`."""
        return tuple(f"{self.name}_{i}" for i in range(self.dtype.size)) if self.dtype.size else (self.name,)


@dataclass(frozen=True)
class FeatureSet:
    """The features of one model.

    Args:
        name: the set's name.
        request: the fields that a request brings.
        features: the functions whose values the model sees, in the order of its matrix; each returns numbers.
        intermediates: functions that only other functions read.
        views: stored features; their field names must differ from the request's.
        fitted: constants learned at training.
        row_id: request fields that identify a row; empty = its place in the input (file and ordinal).
        as_of: the Timestamp request field that says when the score is asked for; required when there are views.

    Raises:
        DefinitionError: an unknown parameter, a cycle, a duplicate name, a type that does not fit; with file:line.
    """

    name: str
    request: Schema
    features: tuple[Function, ...]
    intermediates: tuple[Function, ...] = ()
    views: tuple[FeatureView, ...] = ()
    fitted: tuple[Fitted, ...] = ()
    row_id: tuple[str, ...] = ()
    as_of: str | None = None
    steps: tuple[Step, ...] = field(init=False)
    sources: Schema = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", self._sources())
        self._check_fields()
        if not self.features:
            raise DefinitionError(f"feature set {self.name!r} lists no feature")
        steps = [self._step(function) for function in self.functions]
        self._refuse_duplicates(steps)
        by_name = {step.name: step for step in steps}
        problems = [problem for step in steps for problem in self._input_problems(step, by_name)]
        problems += [problem for constant in self.fitted for problem in self._fitted_problems(constant)]
        if problems:
            raise DefinitionError("\n".join(problems), problems=problems)
        object.__setattr__(self, "steps", _with_releases(_in_order(by_name)))

    @property
    def functions(self) -> tuple[Function, ...]:
        """All functions, intermediates first."""
        return (*self.intermediates, *self.features)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the matrix's rows, in order: a feature's own, or of a vector `{feature}_{i}`."""
        steps = {step.name: step for step in self.steps}
        return tuple(name for function in self.features for name in steps[function.__name__].row_names)

    @property
    def inputs(self) -> frozenset[str]:
        """The request and view fields whose values some function, constant or key reads."""
        read = {name for step in self.steps for name in step.inputs}
        read |= {name for fitted in self.fitted for name in fitted.columns}
        read |= {name for view in self.views for name in view.keys.values()}
        return frozenset(name for name in read if name in self.sources) | (
            {self.as_of} if self.as_of else set()
        )

    def _sources(self) -> Schema:
        names = [view.name for view in self.views]
        if len(set(names)) < len(names):
            raise DefinitionError(
                f"feature set {self.name!r} has several views of one name: {', '.join(sorted(names))}"
            )
        owners: dict[str, str] = {f.name: "the request" for f in self.request}
        for view in self.views:
            for f in view.fields:
                if f.name in owners:
                    raise DefinitionError(
                        f"feature set {self.name!r}: field {f.name!r} is declared by {owners[f.name]} and by view {view.name!r}"
                    )
                owners[f.name] = f"view {view.name!r}"
        return Schema((*self.request, *(f for view in self.views for f in view.fields)))

    def _check_fields(self) -> None:
        for view in self.views:
            for name in view.keys.values():
                declared = self._require_request_field(name, f"view {view.name!r} has the key")
                if declared.dtype.kind not in _KEY_KINDS:
                    raise DefinitionError(
                        f"view {view.name!r}: key {name!r} is {declared.dtype}; a key is one of {', '.join(_KEY_KINDS)}"
                    )
        for name in self.row_id:
            if self._require_request_field(name, "row_id names").accepts_null:
                raise DefinitionError(
                    f"feature set {self.name!r}: row_id field {name!r} may be null, so it identifies no row"
                )
        if self.views and self.as_of is None:
            raise DefinitionError(
                f"feature set {self.name!r} has views, so as_of must name a Timestamp field"
            )
        if self.as_of is not None:
            declared = self._require_request_field(self.as_of, "as_of names")
            if declared.dtype.kind != "timestamp" or declared.nullable:
                raise DefinitionError(f"as_of field {self.as_of!r} must be a Timestamp that is never null")

    def _require_request_field(self, name: str, who: str) -> Field:
        if name not in self.request:
            hint = did_you_mean(name, self.request.names)
            raise DefinitionError(
                f"feature set {self.name!r}: {who} {name!r}, which no request field is.{hint}"
            )
        return self.request[name]

    def _step(self, function: Function) -> Step:
        if not inspect.isfunction(function):
            raise DefinitionError(f"feature set {self.name!r} lists {function!r}, which is no plain function")
        where = _where(function)
        hints = _hints(function)
        returned = declared_type(hints.get("return"))
        if returned is None:
            raise DefinitionError(f"{where} has no return annotation that is a column type, such as Float64")
        dtype, nullable = returned
        if dtype.size and nullable:
            raise DefinitionError(f"{where} returns a nullable {dtype}; a null in a vector is NaN")
        if function in self.features and (nullable or not dtype.is_numeric):
            raise DefinitionError(
                f"{where} returns {dtype}{' or null' if nullable else ''}, which a model cannot read; return a "
                "number (null is NaN), or list it under intermediates"
            )
        inputs: list[str] = []
        constants: list[str] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise DefinitionError(
                    f"{where}: *{parameter.name} cannot be resolved by name; list the parameters"
                )
            is_constant = parameter.kind is parameter.KEYWORD_ONLY
            (constants if is_constant else inputs).append(parameter.name)
        return Step(function.__name__, function, tuple(inputs), tuple(constants), dtype, nullable)

    def _refuse_duplicates(self, steps: Sequence[Step]) -> None:
        owners: dict[str, list[str]] = {}
        for step in steps:
            owners.setdefault(step.name, []).append(_where(step.function))
            if step.dtype.size:
                for name in step.row_names:
                    owners.setdefault(name, []).append(f"{name!r} of {_where(step.function)}")
        for name in self.sources.names:
            owners.setdefault(name, []).append(f"source field {name!r}")
        for constant in self.fitted:
            owners.setdefault(constant.name, []).append(f"fitted constant {constant.name!r}")
        twice = [" and ".join(who) for who in owners.values() if len(who) > 1]
        if twice:
            raise DefinitionError(f"feature set {self.name!r} uses a name more than once: {'; '.join(twice)}")

    def _input_problems(self, step: Step, steps: Mapping[str, Step]) -> Iterator[str]:
        where = _where(step.function)
        hints = _hints(step.function)
        known = {f.name: (f.dtype, f.nullable) for f in self.sources}
        known |= {s.name: (s.dtype, s.nullable) for s in steps.values()}
        for name in step.inputs:
            expected = declared_type(hints.get(name))
            if name not in known:
                hint = did_you_mean(name, known)
                yield f"{where}: parameter {name!r} is not a request field, view field or feature.{hint}"
            elif expected != known[name]:
                want, got = _type_text(expected), _type_text(known[name])
                yield f"{where}: parameter {name!r} is annotated {want}, but it is {got}"
        fitted = [f.name for f in self.fitted]
        for name in step.constants:
            if name not in fitted:
                yield f"{where}: keyword-only parameter {name!r} is not a fitted constant.{did_you_mean(name, fitted)}"

    def _fitted_problems(self, constant: Fitted) -> Iterator[str]:
        for name in constant.columns:
            if name not in self.sources:
                hint = did_you_mean(name, self.sources.names)
                yield f"fitted constant {constant.name!r} reads {name!r}, which is no source field.{hint}"


def _hints(function: Function) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as exc:
        raise DefinitionError(f"{_where(function)}: an annotation is not defined: {exc}") from exc


def _type_text(declared: tuple[DType, bool] | None) -> str:
    if declared is None:
        return "with no column type"
    dtype, nullable = declared
    return f"Nullable[{dtype}]" if nullable else str(dtype)


def _where(function: Function) -> str:
    code = inspect.unwrap(function).__code__
    return f"feature {function.__name__!r} ({code.co_filename}:{code.co_firstlineno})"


def _in_order(steps: Mapping[str, Step]) -> tuple[Step, ...]:
    """Return the steps so that each comes after those it reads; refuse a cycle by naming it."""
    done: dict[str, Step] = {}

    def visit(step: Step, path: tuple[str, ...]) -> None:
        if step.name in path:
            cycle = " -> ".join((*path[path.index(step.name) :], step.name))
            raise DefinitionError(f"{_where(step.function)} depends on itself: {cycle}")
        if step.name not in done:
            for name in step.inputs:
                if name in steps:
                    visit(steps[name], (*path, step.name))
            done[step.name] = step

    for step in steps.values():
        visit(step, ())
    return tuple(done.values())


def _with_releases(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    last_read = {step.name: i for i, step in enumerate(steps)}
    for i, step in enumerate(steps):
        last_read |= {name: i for name in step.inputs if name in last_read}
    return tuple(
        replace(step, releases=tuple(name for name, last in last_read.items() if last == i))
        for i, step in enumerate(steps)
    )
