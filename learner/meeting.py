"""Where the workers of one learner find one another when they start."""

from __future__ import annotations

import socket
from dataclasses import dataclass

HOST = "127.0.0.1"  # workers share the run folder, hence a node; nobody else can reach them there


@dataclass(frozen=True)
class Place:
    """One of `size` workers, and the port of their meeting point."""

    rank: int
    size: int
    port: int
    host: str = HOST


class MeetingPoint:
    """A key-value store of torch.distributed. It lives in the process that starts the workers, so that it outlasts each
    of them."""

    def __init__(self) -> None:
        from torch.distributed import TCPStore  # loaded by those only who start several workers

        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((HOST, 0))  # a store that binds by itself listens on every interface
            self.port: int = listener.getsockname()[1]
            self._store = TCPStore(
                HOST, self.port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
            )

    def place(self, rank: int, size: int) -> Place:
        return Place(rank, size, self.port)
