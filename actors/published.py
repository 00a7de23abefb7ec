"""Published weights in a module: what is there, what has to be fetched for the next publication."""

from __future__ import annotations

import numpy as np
import torch

from cluster.errors import RunFailed
from cluster.weight_bus import FETCH_DEADLINE_S, Publication, receive, receive_into
from policy.lora import adapted_names, merge_into


class PublishedWeights:
    """Lays publications into a module's own tensors, whatever device they are on.

    A publication over a base needs the base below it: it is fetched where it is not there yet, or where another
    publication has changed more of it than this one sets. Adapters are merged with their base, and the next ones with
    that base again.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._base = ""  # checksum of the whole publication that is below; empty: not known
        self._changed: frozenset[str] = frozenset()  # names that lie over it

    def load(self, publication: Publication, deadline_s: float = FETCH_DEADLINE_S) -> None:
        """Raises RunFailed where names or shapes differ, and what cluster.weight_bus.receive_into raises. After any of
        them the module holds rubbish, and the next load starts from a whole publication."""
        base, have, changed = publication.base, self._base, self._changed
        self._base = ""
        if base is None:
            self._copy(publication, deadline_s)
            have, changed = publication.checksum, frozenset()
        else:
            if have != base.checksum or not changed <= publication.names:
                self._copy(base, deadline_s)
                have, changed = base.checksum, frozenset()
            if adapted := adapted_names(publication.names):
                self._merge(publication, deadline_s)
                changed = frozenset(adapted)
            else:
                self._copy(publication, deadline_s)
                changed |= publication.names
        self._base, self._changed = have, changed

    def _copy(self, publication: Publication, deadline_s: float) -> None:
        own = self._module.state_dict()
        self._check_fit(publication, own)
        here = {name: own[name] for name in publication.names}
        if all(tensor.device.type == "cpu" for tensor in here.values()):
            receive_into(publication, {name: tensor.numpy() for name, tensor in here.items()}, deadline_s)
            return
        rooms = {spec.name: (spec.shape, spec.dtype) for spec in publication.spec}
        with torch.no_grad():  # one tensor at a time is held beside the module
            for name, array in receive(publication, lambda name: np.empty(*rooms[name]), deadline_s):
                here[name].copy_(torch.from_numpy(array))

    def _merge(self, publication: Publication, deadline_s: float) -> None:
        rooms = {spec.name: (spec.shape, spec.dtype) for spec in publication.spec}
        found = dict(receive(publication, lambda name: np.empty(*rooms[name]), deadline_s))
        try:
            merge_into(self._module.state_dict(), {name: torch.from_numpy(array) for name, array in found.items()})
        except ValueError as error:
            raise RunFailed(f"weights: {error}") from error

    def _check_fit(self, publication: Publication, own: dict[str, torch.Tensor]) -> None:
        odd = publication.names ^ own.keys() if publication.base is None else publication.names - own.keys()
        if odd:
            raise RunFailed(f"weights: tensors {sorted(odd)[:3]} are on one side only")
        for spec in publication.spec:
            shape = tuple(own[spec.name].shape)
            if shape != spec.shape:
                raise RunFailed(f"weights: {spec.name} is {list(spec.shape)}, allowed {list(shape)}")
            if np.dtype(spec.dtype) != np.dtype(str(own[spec.name].dtype).removeprefix("torch.")):
                raise RunFailed(f"weights: {spec.name} is {np.dtype(spec.dtype)}, allowed {own[spec.name].dtype}")
