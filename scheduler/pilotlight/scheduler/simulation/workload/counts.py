"""Calls of functions in each minute, mapped onto models in stripes.

The recipe is the paper's (section 7, after AlpaServe): functions without calls
in the slice are dropped, of those left the i-th becomes model i mod M, and what
a model's functions are called is summed up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pilotlight.scheduler.simulation.workload.checks import check_amount, check_positive
from pilotlight.scheduler.simulation.workload.errors import InvalidWorkload
from pilotlight.scheduler.simulation.workload.popularity import Floats, zipf_shares
from pilotlight.scheduler.traces import TraceFile
from pilotlight.scheduler.traces.readers import N_MINUTES, read_azure_functions

Counts = npt.NDArray[np.int64]


def read_counts(
    files: Sequence[Path], *, n_models: int, first_minute: int, n_minutes: int
) -> Counts:
    """Return [minutes, models]: the calls in a slice of Azure's days of 2019, one a file.

    A function is the same one on all days. One row of a file is held at a time,
    and the names of the functions that are called.

    Raises:
        BrokenTrace: a file can't be read, or one of its rows breaks a rule.
        InvalidWorkload: the slice ends after the last day, or has no calls.
    """
    last_minute = first_minute + n_minutes
    if last_minute > N_MINUTES * len(files):
        raise InvalidWorkload(
            "minutes", f"the slice ends with minute {last_minute:,d} of {N_MINUTES * len(files):,d}"
        )
    counts = np.zeros((n_minutes, n_models), np.int64)
    functions: dict[str, int] = {}
    for day, path in enumerate(files):
        begin = max(first_minute - N_MINUTES * day, 0)
        end = min(last_minute - N_MINUTES * day, N_MINUTES)
        if begin >= end:
            continue
        row = N_MINUTES * day + begin - first_minute
        with TraceFile(path) as file:
            for function in read_azure_functions(file):
                calls = function.calls[begin:end]
                if any(calls):
                    number = functions.setdefault(function.function, len(functions))
                    counts[row : row + len(calls), number % n_models] += calls
    if not functions:
        raise InvalidWorkload(
            ", ".join(map(str, files)), "no function is called in the slice of minutes"
        )
    return counts


def draw_counts(
    rng: np.random.Generator,
    *,
    n_models: int,
    n_functions: int,
    zipf_exponent: float,
    calls_per_minute: float,
    n_minutes: int,
    cv: float = 0.0,
) -> Counts:
    """Return [minutes, models]: the calls of made-up functions, few of which have most.

    A function's mean falls with its rank by Zipf's law, and the functions come in any
    order, as those of a file do. Its rate in a minute is Gamma distributed around that
    mean, `cv` being standard deviation by mean and 0 a rate that stays; its calls in a
    minute are Poisson distributed around the minute's rate. All is drawn from `rng`:
    the order, then minute by minute the rates, where they vary, and the calls.

    Raises:
        InvalidWorkload: a number is negative, or nothing is called in all minutes.
    """
    check_amount("zipf_exponent", zipf_exponent)
    check_positive("calls_per_minute", calls_per_minute)
    check_amount("cv", cv)
    means = rng.permutation(zipf_shares(n_functions, zipf_exponent)) * calls_per_minute
    minutes = np.stack([rng.poisson(_rates(rng, means, cv)) for _ in range(n_minutes)])
    called = minutes[:, minutes.any(axis=0)]
    if not called.size:
        raise InvalidWorkload("calls_per_minute", "no function is called in all minutes")
    counts = np.zeros((n_minutes, n_models), np.int64)
    for first in range(0, called.shape[1], n_models):
        stripe = called[:, first : first + n_models]
        counts[:, : stripe.shape[1]] += stripe
    return counts


def rebinned(counts: Counts, minutes: int) -> Counts:
    """Return [intervals, models]: the sums over so many minutes; the last may have fewer."""
    return np.add.reduceat(counts, np.arange(0, len(counts), minutes), axis=0)


def _rates(rng: np.random.Generator, means: Floats, cv: float) -> Floats:
    """Return [functions]: the rates of one minute."""
    if not cv:
        return means
    variance = cv**2
    return means * rng.gamma(1.0 / variance, variance, len(means))
