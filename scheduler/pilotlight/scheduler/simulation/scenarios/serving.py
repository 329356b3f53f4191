"""How long the models' engines compute: by a formula, or as it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from pilotlight.scheduler.simulation.scenarios.errors import InvalidScenario
from pilotlight.scheduler.simulation.scenarios.models import ModelGroup, Profile
from pilotlight.scheduler.simulation.scenarios.names import members
from pilotlight.scheduler.simulation.scenarios.trace_folder import TraceFolder
from pilotlight.scheduler.simulation.serve_times import LinearTimes, MeasuredTimes, ServeTimes
from pilotlight.scheduler.traces import Profile as ProfileRow
from pilotlight.scheduler.traces import TraceFile
from pilotlight.scheduler.traces.readers import read_profiles
from pilotlight.store_node.protocol import ModelId


def serve_times(
    groups: Sequence[ModelGroup], traces: TraceFolder, *, source: str
) -> Mapping[ModelId, ServeTimes]:
    """Return the serve times of every model.

    Raises:
        InvalidScenario: a table of profiles is not there, or lacks the model and device.
        BrokenTrace: one of its rows breaks a rule.
    """
    found: dict[ModelId, ServeTimes] = {}
    for row, group in enumerate(groups):
        times: ServeTimes = LinearTimes(**msgspec.structs.asdict(group.serve_times))
        if group.profile is not None:
            times = _measured(group.profile, traces, source=source, key=f"models[{row}].profile")
        found |= dict.fromkeys(map(ModelId, members(group.name, group.count)), times)
    return found


def _measured(profile: Profile, traces: TraceFolder, *, source: str, key: str) -> MeasuredTimes:
    """Return what a table says: prefill of single prompts, decode steps by batch, the mean each."""
    (path,) = traces.find((profile.file,), key=f"{key}.file")[:1]
    prefill: dict[int, list[float]] = {}
    steps: dict[int, list[float]] = {}
    others: set[str] = set()
    with TraceFile(path) as file:
        for each in read_profiles(file):
            if not _is_of(each, profile):
                if each.model == profile.model:
                    others.add(f"{each.device} x {each.devices}")
                continue
            steps.setdefault(each.batch, []).append(each.decode_step_seconds)
            if each.batch == 1:
                prefill.setdefault(each.prompt_tokens, []).append(each.prefill_seconds)
    if not prefill:
        raise InvalidScenario(
            source,
            f"{path} has no {profile.model} on {profile.devices} {profile.device}",
            key=key,
            hint=f"it has that model on {', '.join(sorted(others))}" if others else "",
        )
    prompts, batches = sorted(prefill), sorted(steps)
    return MeasuredTimes(
        prompt_tokens=np.array(prompts, np.float64),
        prefill=np.array([np.mean(prefill[n]) for n in prompts], np.float64),
        batches=np.array(batches, np.float64),
        steps=np.array([np.mean(steps[n]) for n in batches], np.float64),
    )


def _is_of(row: ProfileRow, profile: Profile) -> bool:
    return (row.model, row.device, row.devices) == (
        profile.model,
        profile.device.upper(),
        profile.devices,
    )
