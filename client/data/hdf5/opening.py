"""Opens HDF5 files for reading, and tells a file that another program works on from a damaged one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedsteph.common.errors import FeatureFileError

if TYPE_CHECKING:
    import h5py


def open_to_read(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        FeatureFileError: another program has the file open for writing, or has never closed it.
        OSError: HDF5 cannot read it.
    """
    import h5py  # noqa: PLC0415 (headers of other files need none)

    try:
        # Network file systems often cannot lock. A file that another process is writing is still refused.
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        # HDF5 has one number for both and for damage; its words differ.
        if "unable to lock file" in str(error):
            what, remedy = "is open in another program", "Close it there, or try again when its writing is over"
        elif "already open for write" in str(error):
            what = "is marked as open for writing"
            remedy = (
                "Wait until it is written. If no program has it open, its writing broke off: extract the slide again"
            )
        else:
            raise
        raise FeatureFileError(what, remedy=remedy) from error
