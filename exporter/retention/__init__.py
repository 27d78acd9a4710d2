"""What is kept how long: hot months -> archive -> gone, texts and rows that empty earlier.

`archiving` moves, exports and drops months; `clearing` deletes and empties by age; `thinning`
empties texts of old versions; `nightly` runs all three and records how they went.
"""

from exporter.retention.archiving import archive, plan_archive
from exporter.retention.clearing import clear
from exporter.retention.nightly import retain_nightly
from exporter.retention.runs import record
from exporter.retention.thinning import thin

__all__ = ["archive", "clear", "plan_archive", "record", "retain_nightly", "thin"]
