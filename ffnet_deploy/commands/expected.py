"""What the system refuses, as an expected failure: paths, disks, memory. The places that know more say more."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ffnet_deploy.errors import ArtifactError, FFNetDeployError

_NO_MEMORY = "There is not enough memory. Free some, or give the command less to do at once."
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_LONG_NAME = 100


@contextmanager
def expected() -> Iterator[None]:
    """Turn what the system refuses within the block into an error of one line.

    Raises:
        FFNetDeployError: instead of OSError, MemoryError, and PyTorch's lack of memory.
    """
    try:
        yield
    except OSError as error:
        raise _refused(error) from error
    except MemoryError as error:
        raise ArtifactError(_NO_MEMORY) from error
    except RuntimeError as error:
        # PyTorch has no class for it on the CPU.
        if "can't allocate memory" not in str(error):
            raise
        raise ArtifactError(_NO_MEMORY) from error


def _refused(error: OSError) -> FFNetDeployError:
    reason = error.strerror or str(error)
    if error.errno == errno.ENOMEM:
        return ArtifactError(_NO_MEMORY)
    if error.filename is None:
        if error.errno in _NO_ROOM:
            return ArtifactError(f"Not all could be written ({reason}). Free the disk, or write to another place.")
        return ArtifactError(f"The system refused ({reason}). Free what other work holds, then run the command again.")
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes | str) else str(error.filename)
    if len(name) > _LONG_NAME:
        name = f"{name[:_LONG_NAME]}... ({len(name)} characters)"
    return ArtifactError(f"{name} cannot be used ({reason}). Check its name and permissions, or name another.")
