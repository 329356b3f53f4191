"""Transformers models whose weights the loader brings."""

# Transformers' model classes are half typed:
# pyright: basic
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotlight.native_loader.errors import LoaderError, ModelMismatch, NotACheckpoint
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.formats.ledger import ChecksumLedger
from pilotlight.native_loader.formats.model_config import CONFIG_NAME
from pilotlight.native_loader.formats.scanning import ProgressCallback
from pilotlight.native_loader.loading import load_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_GENERATION_CONFIG_NAME = "generation_config.json"
_SHOWN_NAMES = 5


def from_pretrained(
    path: str | Path,
    device: str = "cpu",
    *,
    model_class: type[PreTrainedModel] | None = None,
    roots: Sequence[Path] = (),
    ledger: ChecksumLedger | None = None,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Load a transformers model, in place of `AutoModelForCausalLM.from_pretrained`.

    Transformers builds the model and names, ties and converts its weights as ever; the
    weights lie where they were loaded, without a second copy, except for those that
    `dtype` or the library's own code asks to be changed. `model_class` is the class of
    models with another head. `options` go on to the library's `from_pretrained`: `dtype`,
    `attn_implementation`, … Nothing is downloaded, and a checkpoint's own code is not run.

    Raises:
        ModelMismatch: weights of the model are missing, or of another shape.
        NotACheckpoint: there is no config.json, or it describes no causal language model,
            or transformers makes no model of it and of `options`.
        LoaderError: one of those that `load` raises.
    """
    checkpoint = Checkpoint.open(path, roots=roots)
    config = _read_config(checkpoint)
    chosen = model_class or _class_for(checkpoint, config)
    weights, _ = load_weights(checkpoint, device, ledger=ledger, progress=progress)
    tensors = weights.tensors()
    weights.close()
    named = tensors | {alias: tensors[name] for alias, name in checkpoint.aliases.items()}
    builder = _Builder(checkpoint.path, chosen, config, options)
    model = builder.build(named) if device == "cpu" else builder.build_on(device, named)
    if _GENERATION_CONFIG_NAME in checkpoint.execution_files:
        model.generation_config = _read_generation_config(checkpoint)
    return model


def _read_config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    if CONFIG_NAME not in checkpoint.execution_files:
        raise NotACheckpoint(checkpoint.path, f"holds no {CONFIG_NAME}, which describes a model")
    with _telling(checkpoint.path / CONFIG_NAME):
        return AutoConfig.from_pretrained(checkpoint.path, local_files_only=True)


def _read_generation_config(checkpoint: Checkpoint) -> Any:
    from transformers import GenerationConfig

    with _telling(checkpoint.path / _GENERATION_CONFIG_NAME):
        return GenerationConfig.from_pretrained(checkpoint.path, local_files_only=True)


@contextmanager
def _telling(file: Path, options: Collection[str] = ()) -> Iterator[None]:
    """Name the file, and the options, of which transformers was to make something."""
    try:
        yield
    except (LoaderError, MemoryError):
        raise
    except Exception as exc:
        # It checks few values, so a bad one fails anyhow where it is first used.
        given = f" with the options {', '.join(options)}" if options else ""
        raise NotACheckpoint(file, f"transformers refuses it{given}: {_one_line(exc)}") from exc


def _class_for(checkpoint: Checkpoint, config: Any) -> type[PreTrainedModel]:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError as exc:
        rule = f"describes a {config.model_type!r} model, which is no causal language model"
        raise NotACheckpoint(checkpoint.path / CONFIG_NAME, rule) from exc
    chosen: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return chosen


class _Builder:
    """Has transformers build one model."""

    def __init__(
        self,
        path: Path,
        model_class: type[PreTrainedModel],
        config: Any,
        options: Mapping[str, Any],
    ) -> None:
        self._path = path
        self._class = model_class
        self._config = config
        self._options = options

    def build(self, tensors: Mapping[str, torch.Tensor]) -> PreTrainedModel:
        """Return the model with those weights, which are in this process's memory."""
        library: Any = self._class
        # It says which weights are of another shape where it is to ignore that.
        options = {**self._options, "ignore_mismatched_sizes": True}
        with _telling(self._path / CONFIG_NAME, self._options):
            try:
                model, info = library.from_pretrained(
                    None,
                    config=self._config,
                    state_dict=dict(tensors),
                    output_loading_info=True,
                    **options,
                )
            except RuntimeError as exc:
                raise ModelMismatch(self._path, _one_line(exc)) from exc
        self._check(info)
        built: PreTrainedModel = model
        return built

    def _check(self, info: Mapping[str, Any]) -> None:
        if missing := sorted(info["missing_keys"]):
            raise ModelMismatch(
                self._path, f"lacks {len(missing)} of the weights: {_some(missing)}"
            )
        odd = [
            f"{name} is {list(stored)}, not {list(wanted)}"
            for name, stored, wanted in sorted(info["mismatched_keys"])
        ]
        if odd and not self._options.get("ignore_mismatched_sizes"):
            raise ModelMismatch(
                self._path, f"{len(odd)} weights are of another shape: {_some(odd)}"
            )

    def build_on(self, device: str, tensors: Mapping[str, torch.Tensor]) -> PreTrainedModel:
        """Return the model with weights that are on a device.

        The library moves what it is given to the CPU, so it is given memory that nobody
        writes to, which takes none; then the weights take its place.
        """
        import torch

        stand_ins = {
            name: torch.empty_like(tensor, device="cpu") for name, tensor in tensors.items()
        }
        model = self.build(stand_ins)
        if adopt(model, stand_ins, tensors):
            return _moved(model, device)
        # The library has made new tensors of some, experts for example.
        on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
        return _moved(self.build(on_cpu), device)


def adopt(
    model: PreTrainedModel,
    stand_ins: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
) -> bool:
    """Put tensors in the place of those that stood in for them; whether all weights are some."""
    by_address = {
        stand_in.data_ptr(): tensors[name]
        for name, stand_in in stand_ins.items()
        if stand_in.numel()
    }
    stored = model.state_dict(keep_vars=True)
    # Tied weights are one tensor under several names.
    unique = {id(tensor): tensor for tensor in stored.values() if tensor.numel()}
    found = [(each, by_address.get(each.data_ptr())) for each in unique.values()]
    if any(new is None or new.shape != each.shape for each, new in found):
        return False
    for each, new in found:
        each.data = new
    return True


def _moved(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Move what is not there yet: buffers that no checkpoint holds, as a rule."""
    return model.to(device)  # type: ignore[no-any-return,arg-type]  # untyped there


def _some(shown: Sequence[str]) -> str:
    return ", ".join(shown[:_SHOWN_NAMES]) + (", …" * (len(shown) > _SHOWN_NAMES))


def _one_line(error: Exception) -> str:
    """Return what an error is, with what it says of itself."""
    return ": ".join([type(error).__name__, " ".join(str(error).split())[:300]]).removesuffix(": ")
