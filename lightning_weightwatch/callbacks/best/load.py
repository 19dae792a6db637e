"""Weights out of a file, into a model that is there."""

from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_weightwatch.files.checkpoint import BadFile, MissingFile, WeightFile, open_weights


@torch.no_grad()
def load_weights(model: nn.Module, path: str, since: float) -> None:
    """Overwrite the weights of a model with those of a file, which is mapped, tensor by tensor.

    No code in the file is run, unless this process has written it itself: hyperparameters of the
    user's own classes are code to a reader.

    Args:
        model: Has some of the weights of the file when a later one of them cannot be read.
        path: The file.
        since: When the fit began, in seconds since the epoch. A file that is younger was written by
            it.

    Raises:
        BadFile: When it cannot be read, or does not fit the model.
    """
    with _opened(path, since) as file:
        names = set(file.names())
        places = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        wanted = [name for name in model.state_dict(keep_vars=True) if name in places]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise BadFile(
                f"{path}: it lacks {len(missing)} of the {len(wanted)} tensors of the model, such "
                f"as {missing[0]}"
            )
        for name in wanted:
            values = file.read(name)
            if values.shape != places[name].shape:
                raise BadFile(
                    f"{path}: {name} is {tuple(values.shape)} there and "
                    f"{tuple(places[name].shape)} in the model"
                )
            places[name].copy_(_laid_out_as(places[name], values))


def _laid_out_as(place: Tensor, values: Tensor) -> Tensor:
    """Values for a DTensor: of each process the shards that it holds, without asking the others."""
    mesh, placements = getattr(place, "device_mesh", None), getattr(place, "placements", None)
    if mesh is None:
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values.to(place.device), mesh, placements, src_data_rank=None)


def _opened(path: str, since: float) -> WeightFile:
    try:
        return open_weights(path)
    except MissingFile:
        raise
    except BadFile:
        if Path(path).stat().st_mtime >= since:
            return open_weights(path, trust=True)
        raise
