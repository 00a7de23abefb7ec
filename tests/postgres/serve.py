"""`python -m tests.postgres.serve COMMAND …`: a private PostgreSQL around a command, MUSICRL_POSTGRES_URL set.

`--installed` instead only says by its exit status whether PostgreSQL is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.postgres.server import PostgresServer, find_programs

if __name__ == "__main__":
    if sys.argv[1:] == ["--installed"]:
        sys.exit(find_programs() is None)
    if not sys.argv[1:]:
        sys.exit(__doc__)
    with PostgresServer() as server:
        environment = os.environ | {"MUSICRL_POSTGRES_URL": server.url}
        status = subprocess.run(sys.argv[1:], env=environment).returncode
    sys.exit(status)
